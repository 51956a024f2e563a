"""What a person reads in the terminal: each number under its name, and the words of the verdict."""

import io
import itertools
from dataclasses import replace

import pytest
import synthetic_run
from rich.console import Console
from rich.progress import Progress
from test_bases import stacked, summary

from memgen.base import wording
from memgen.base.estimates import Estimate
from memgen.cli import terminal
from memgen.experiment.tasks import Event, Task
from memgen.findings import bases, transition, verdict
from memgen.findings.calibration import Calibration, Control


@pytest.fixture
def said(monkeypatch):
    """Prints with a function of the terminal, and gives the lines."""

    def print_with(function, *args):
        file = io.StringIO()
        console = Console(file=file, width=116, highlight=False, soft_wrap=True)
        monkeypatch.setattr(terminal, "console", console)
        function(*args)
        return file.getvalue().splitlines()

    return print_with


@pytest.fixture(scope="module")
def found():
    run = synthetic_run.Run(sizes=(4, 1024)).tables
    run = synthetic_run.stacked(run, synthetic_run.imported(run, 4, "their [model]"))
    subjects = synthetic_run.subject("their [model]")
    table = transition.summarize(run, 0, resamples=100, sigma_range=(0.05, 1.0), subjects=subjects)
    return verdict.verdict(table, run["copies"]), table


SHOWN = {
    "nearest_own": ("similarity to own training set", "nearest_holdout_to_train"),
    "cross_same": ("similarity between models (same noise)", "cross_different"),
    "memorized_fraction": ("memorized fraction", None),
    "psnr_gap": ("PSNR gap, dB", None),
    "bits": ("score difference, bits per dimension", None),
}


def test_every_number_of_the_verdict_stands_under_its_name(said, found):
    """Estimate, interval and what it is judged against, in one column; a quantity that nobody measured has none."""
    lines = said(terminal.say, *found)
    rows = transition.estimates(found[1])
    ruler = next(i for i, line in enumerate(lines) if "───" in line)
    ends = [i + 1 for i, x in enumerate(lines[ruler + 1]) if x != " " and lines[ruler + 1][i + 1 : i + 2] in (" ", "")]
    head = [line.ljust(116) for line in lines[2:ruler]]
    starts = [0, *ends]
    parts = [[" ".join(line[start:end].split()) for line in head] for start, end in itertools.pairwise(starts)]
    names = [wording.joined(*part) for part in parts]
    assert lines[0] == "Estimates with intervals that hold together with 95 %"
    assert lines[ruler - 1].split()[-1] == "verdict"
    assert names[:-1] == ["N", *(name for name, _ in SHOWN.values())]
    for key, first in ((4, "       4 "), (1024, "   1,024 ")):
        at = next(i for i, line in enumerate(lines) if i > ruler and line.split()[0] == first.split()[0])
        for position, (quantity, (_, null)) in enumerate(SHOWN.items()):
            cells = [line[starts[position + 1] : starts[position + 2]].strip() for line in lines[at : at + 3]]
            row = rows[key, quantity]
            assert cells[0] == wording.value(row)
            assert cells[1] == wording.interval(row).replace(", ", ",")
            assert cells[2] == (f"({wording.value(rows[key, null])})" if null else "")
    text = " ".join(" ".join(lines).split())
    assert (
        "In parentheses: similarity of held-out images to the training set; similarity between models (different noise)."
        in text
    )
    assert "PSNR over the best linear denoiser, dB" not in text
    assert not any(quantity in text for quantity in transition.QUANTITIES if "_" in quantity)


def test_the_words_of_the_verdict(said, found):
    """Headline, the opening of every paragraph, what the test found, what is missing, points and the rest are printed."""
    text = " ".join(" ".join(said(terminal.say, *found)).split())
    words, _ = found
    assert words.headline in text
    for paragraph in words.paragraphs:
        assert f"• {wording.joined(paragraph.opening, paragraph.copies, paragraph.missing)}" in text
        assert paragraph.samples not in text
    assert all(f"• {sentence}" in text for sentence in words.points)
    assert len(words.points) == 2
    assert f"• {words.caveat}" in text
    assert words.unconverged == ""


def test_colors_follow_the_regime(found, monkeypatch):
    """Each regime has its color, in the table and at the start of its paragraph."""
    file = io.StringIO()
    monkeypatch.setattr(
        terminal,
        "console",
        Console(file=file, width=116, highlight=False, force_terminal=True, color_system="standard"),
    )
    terminal.say(*found)
    text = file.getvalue()
    assert text.count("\x1b[31mmemorizes") == 2
    assert text.count("\x1b[32mgeneralizes") == 1
    assert "At \x1b[31mN = 4\x1b[0m the models" in text
    assert "At \x1b[32mN = 1,024\x1b[0m the two" in text
    assert "The model \x1b[31mtheir [model]\x1b[0m" in text
    words, table = found
    for regime, color in (("mixed", "33"), ("underfits", "35"), ("cannot decide", "1")):
        file.truncate(0)
        terminal.say(replace(words, paragraphs=[replace(words.paragraphs[0], regime=regime)]), table)
        assert f"\x1b[{color}m{regime}\x1b[0m" in file.getvalue()


def test_a_verdict_of_nothing(said):
    """Without anything measured there is a headline and no table."""
    table = transition.summarize({}, 0)
    assert said(terminal.say, verdict.verdict(table), table) == ["Nothing was measured that a verdict rests on.", ""]


def test_rows_of_the_transition_table(said, found):
    """Each row has its N or its subject, the name of its quantity, its interval, its units and the unit."""
    rows = [row for row in found[1].to_pylist() if row["quantity"] == "psnr_gap"]
    lines = said(terminal.say_estimates, rows)
    assert lines[0].strip() == "Medians and means"
    assert lines[2].split() == [
        "N",
        "quantity",
        "estimate",
        "interval",
        "units",
        "unit",
        "of",
        "the",
        "estimate",
    ]
    gap = transition.estimates(found[1])
    for key, start in ((4, "4"), (1024, "1,024"), ("their [model]", "their [model]")):
        row = gap[key, "psnr_gap"]
        line = next(line for line in lines[4:] if line.strip().startswith(f"{start} "))
        cells = [cell for cell in line.split("  ") if cell.strip()]
        shown = [start, "PSNR gap", wording.value(row), wording.interval(row), str(row.n), "dB"]
        assert [cell.strip() for cell in cells] == shown


def control(name, band, power=None):
    rate = Estimate.of(0.25, 0.1, 0.4, 20, "share")
    return Control(
        name, power and 0.1, power and 0.05, 20, 12.0, 7, rate, Estimate.of(0.5, 0.3, 0.7), power, None, band
    )


def test_calibration_in_words(said):
    """Each rate stands under its name, and only controls that are out are named as such."""
    controls = [
        control("held-out", "in"),
        control("copies", "out", Estimate.of(0.75, 0.6, 0.9)),
        control("mirrored", "none"),
    ]
    lines = said(terminal.say_calibration, Calibration(controls, 20, "not calibrated", 0.4, 0.3), 1024)
    text = " ".join(" ".join(lines).split())
    assert lines[0] == "The test for copies on sample sets with known answers, N = 1,024"
    assert "The test is not calibrated on these images in: copies. This is judged by 20 redraws." in text
    row = next(line for line in lines if line.startswith("  copies"))
    assert row.split() == ["copies", "10%", "=", "12", "0.05", "7", ".250", ".500", ".750", "yes"]
    row = next(line for line in lines if line.startswith("  held-out")).split()
    assert row == ["held-out", "7", ".250", ".500", "no"]
    assert "not judged" in text
    found = Calibration(controls[:1], 20, "not contradicted", 0.4, 0.3)
    fine = " ".join(" ".join(said(terminal.say_calibration, found, 8)).split())
    assert f"{found.headline} {' '.join(found.sentences)}" in fine
    assert "A false-discovery rate of 40% or more in any control" in fine
    assert "not calibrated" not in fine


def test_bases_in_words(said):
    """A table for each noise level, with names and definitions, intervals, and the value of a random basis."""
    columns = {"trace": [3.0, 5.0, 7.0], "overlap_pca": 0.5, "overlap_chance": 0.25}
    table = stacked(
        summary(**columns), summary("theirs", None, 0.1 + 0.2, 1, role="imported", trace=2.0, converged=False)
    )
    lines = said(terminal.say_basis, bases.readings(table, 0))
    text = " ".join(" ".join(lines).split())
    assert "noise of standard deviation 0.1, on 3 images" in text
    assert "noise of standard deviation 0.3, on 1 image " in text
    assert text.endswith(
        "1 bases did not converge. See converged and residual in the table basis_summary. Estimates are means over "
        "images and over both models of an N, with 95 % intervals. In parentheses: the value of a random basis."
    )
    assert lines[2].split() == ["quantity", "N", "=", "4"]
    row = next(line for line in lines if line.strip().startswith("dimensions kept "))
    assert row.split() == ["dimensions", "kept", "5.0"]
    overlap = lines.index(next(line for line in lines if "overlap with the principal components" in line))
    assert lines[overlap].split()[-1] == ".500"
    assert "(.250)" in lines[overlap + 2]
    assert "Overlap of the first m eigenvectors with the first m principal components" in text
    assert "overlap_pca" not in text
    assert "In parentheses: the value of a random basis." in text
    converged = said(terminal.say_basis, bases.readings(summary(**columns), 0))
    assert not any("did not converge" in line for line in converged)


LISTED = [
    Task("n4-s0-a", ("n4-s0-a",), ("train", "sample")),
    Task("n4-s0-a+n4-s0-b", ("n4-s0-a", "n4-s0-b"), ("compare",)),
    Task("theirs", ("theirs",), ("sample", "search")),
]


def medians(task, verb):
    return f"median of {' and '.join(task.subjects)}" if verb == "compare" else ""


def test_a_line_for_each_step_under_way_and_each_task_that_ends(said):
    """Off a terminal a step is said once it is under way, and a task when it is done, with its place; a pair, its median."""

    def work():
        with terminal.bars(LISTED, medians) as on_event:
            for verb, done in (("train", 5), ("train", 10), ("sample", 3), ("sample", 10)):
                on_event(Event("n4-s0-a", verb, done, 10))
            on_event(Event("n4-s0-a", "train", 1, 1))
            on_event(Event("n4-s0-a", "sample", 1, 1))
            on_event(Event("n4-s0-a+n4-s0-b", "compare", 0, 1))
            on_event(Event("n4-s0-a+n4-s0-b", "compare", 1, 1))
            on_event(Event("theirs", "search", 1, 1))
        with terminal.bar("importing") as progress:
            progress(1, 2)

    assert said(work) == [
        "  0:00 n4-s0-a training",
        "  0:00 n4-s0-a sampling",
        "  0:00 n4-s0-a done (1 of 3)",
        "  n4-s0-a+n4-s0-b  median of n4-s0-a and n4-s0-b",
        "  0:00 n4-s0-a+n4-s0-b done (2 of 3)",
        "  0:00 theirs done (3 of 3)",
    ]


def test_a_bar_for_each_task_under_way():
    """On a terminal each task has a bar with its step, its work and its note, until its last step is done."""
    progress = Progress(console=Console(file=io.StringIO()), auto_refresh=False)
    on_event = terminal.Bars(progress, LISTED, medians)

    def drawn():
        return [(task.description, task.completed, task.total, task.fields["note"]) for task in progress.tasks]

    assert drawn() == [("all cells", 0, 3, "")]
    for verb, said in (
        ("train", "training"),
        ("sample", "sampling"),
        ("search", "searching neighbors"),
        ("copies", "testing for copies"),
        ("psnr", "measuring PSNR"),
        ("references", "measuring references"),
        ("compare", "comparing twins"),
    ):
        on_event(Event("n4-s0-a", verb, 2, 10, f"loss of {verb}"))
        assert drawn() == [("all cells", 0, 3, ""), (f"n4-s0-a {said}", 2, 10, f"loss of {verb}")]
    on_event(Event("theirs", "sample", 1, 1))
    assert drawn()[1:] == [("n4-s0-a comparing twins", 2, 10, "loss of compare"), ("theirs sampling", 1, 1, "")]
    on_event(Event("n4-s0-a", "sample", 1, 1))
    assert drawn() == [("all cells", 1, 3, ""), ("theirs sampling", 1, 1, "")]


def test_bars_on_a_terminal(monkeypatch):
    """A bar has the name of the work, how much is done, the times and the note, and is gone at the end."""
    for work, parts in (
        (lambda: terminal.bar("importing"), ("importing", "3/10", "0:00:00")),
        (lambda: terminal.bars(LISTED, medians), ("all cells", "0/3", "theirs sampling", "3/10", "loss 0.5")),
    ):
        file = io.StringIO()
        monkeypatch.setattr(terminal, "console", Console(file=file, width=116, force_terminal=True))
        with work() as update:
            if "importing" in parts:
                update(3, 10)
            else:
                update(Event("theirs", "sample", 3, 10, "loss 0.5"))
        assert all(part in file.getvalue() for part in parts), file.getvalue()
        assert file.getvalue().endswith("\x1b[2K")  # the last line is erased


def test_tables_of_plain_values(said):
    """Numbers stand to the right with four digits, counts with commas, null as a dash; brackets are no markup."""
    rows = [
        ["[red]a", 1.0, 12345],
        ["b", 0.00123456, 7],
        ["c", 123.456, 8],
        ["d", 0.0, 9],
        ["e", 0.01, 9],
        ["f", -100.0, 9],
    ]
    lines = said(terminal.table, "title", ["name", "number", "count"], rows, "a note")
    assert [line.split() for line in lines[4:10]] == [
        ["[red]a", "1.0000", "12,345"], ["b", "0.001235", "7"], ["c", "123.5", "8"], ["d", "0.0000", "9"],
        ["e", "0.0100", "9"], ["f", "-100", "9"],
    ]  # fmt: skip
    assert len({len(line.rstrip()) for line in lines[4:10]}) == 1
    assert any("a note" in line for line in lines)
    assert lines[0].strip() == "title"
    plain = " ".join(said(terminal.table, "title", ["x", "y"], [[None, True]])).split()
    assert [word for word in plain if "\N{BOX DRAWINGS LIGHT HORIZONTAL}" not in word] == [
        "title",
        "x",
        "y",
        "-",
        "True",
    ]
