"""The report: self-contained, complete in words when data is missing, and every number and picture in its place."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import scored
import synthetic_run
import tested
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from memgen.base import schemas, tables, wording
from memgen.base.estimates import Estimate
from memgen.findings import bases, diversities, levels, restorations, transition, verdict
from memgen.report import charts, style
from memgen.report import page as pages
from memgen.report.page import ReportInput, render, write
from memgen.report.sheets import Bases, Copies, Restored, RestoredBy

MANIFEST = {"config": {"train": {"steps": 600}}, "git": {"commit": "abc<script>"}, "sizes": [1, 4], "cells": [{"n": 1}]}
FIGURES = [
    "first",
    "images",
    "copies",
    "levels",
    "likelihood",
    "membership",
    "spectrum",
    "bases",
    "samples",
    "slopes",
    "restored-low_pass-0.5",
]
CHARTS = ["transition", "histograms", "psnr", "training"]
ENCODE, SVG = style.encode, charts.svg


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Figures and charts are neither laid out nor rendered, but stand on the page as texts of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charts, "svg", lambda spec: f"chart {json.dumps(spec)}")
        patch.setattr(Figure, "draw_without_rendering", lambda figure: None)
        patch.setattr(style, "encode", lambda figure, suffix: f"{suffix} {id(figure)}".encode())
        yield


def imported(table: pa.Table, name: str) -> pa.Table:
    """The rows of the model n64-s0-a and of its training set, as those of an imported model."""
    theirs = {"subject": "theirs", "role": "imported", "part": None, "train_seed": None}
    found = []
    for row in table.to_pylist():
        if row["subject"] == "n64-s0-a" or (name == "neighbors" and (row["role"], row["n_train"]) == (None, 64)):
            reference = {"reference": row["reference"].removesuffix("_a")} if name == "neighbors" else {}
            found.append(row | theirs | reference)
    return pa.Table.from_pylist(found, schema=table.schema)


def estimate(value: float | None, unit: str = "") -> Estimate:
    return Estimate.of(value, value and value - 0.25, value and value + 0.25, 9, unit)


def reading(n_train: int | None, subject: str | None, sigma: float, unconverged: int) -> bases.Reading:
    """A reading in which every quantity has a value of its own."""
    start = (n_train or 1) * sigma
    values = {name: estimate(start + i, q.unit) for i, (name, q) in enumerate(bases.QUANTITIES.items())}
    values["overlap_tangent"] = Estimate.of(None)
    return bases.Reading(n_train, subject, sigma, 3, unconverged, values, {"overlap_twin": 0.125})


def slope(name: str | None, role: str, n_train: int | None, **values: float | None) -> dict:
    row = dict.fromkeys(schemas.SLOPES.names) | {"subject": name, "role": role, "n_train": n_train, "n_subjects": 2}
    return row | {"low_db": 5.0, "high_db": 33.5, "n_levels": 4, "n": 60} | values


def calibration(control: str, found: int, false: int, **more: float | None) -> pa.Table:
    columns = {"n_train": 64, "repeat": list(range(20)), "control": control, "share": None, "eps": None, "samples": 96}
    columns |= {"copies": 0, "q": 0.05, "discoveries": found, "false_discoveries": false, "answer": "none", "k_min": 7}
    columns |= {"memorized_fraction": 0.0, "low": -0.1, "high": 0.1, "known_fraction": 0.0, "p": 0.5}
    return tables.make(schemas.CALIBRATION, columns | more)


@pytest.fixture(scope="module")
def full() -> ReportInput:
    """A report with every section: two sizes, an imported model, and something in each table."""
    run = synthetic_run.Run((4, 64))
    measured = dict(run.tables)
    for name in ("neighbors", "psnr", "significance", "copies", "samples"):
        measured[name] = pa.concat_tables([measured[name], imported(measured[name], name)])
    made = {
        "transition": transition.summarize(measured, 0, resamples=50),
        "levels": levels.summarize(measured, 0),
        "skipped": tables.make(schemas.SKIPPED, {"source": ["<b>.png", *"cdefghijklm"], "reason": "truncated"}),
        "duplicates": schemas.DUPLICATES.empty_table(),
        "split": tables.make(
            schemas.SPLIT, {"part": ["a"] * 3 + ["b"] * 2 + ["holdout"], "rank": 0, "index": 0, "image_id": "x"}
        ),
        "slopes": pa.Table.from_pylist(
            [
                slope(None, "cell", 64, slope=0.611, low=0.6, high=0.622, level_db=25.25, theory=0.75, gain_theory=9.5)
                | {"level_low": 25.0, "level_high": 25.5, "gain_db": 8.125, "gain_low": 8.0, "gain_high": 8.25},
                slope("theirs", "imported", None, slope=0.5, level_db=24.0, gain_theory=9.5, over_oracle=-0.125)
                | {"over_oracle_low": -0.25, "over_oracle_high": -0.0625},
            ],
            schema=schemas.SLOPES,
        ),
        "calibration": pa.concat_tables(
            [
                calibration("held-out", 0, 0),
                calibration("copies", 10, 5, share=0.3, eps=0.1, copies=29, known_fraction=None),
                calibration("mirrored", 1, 0, share=0.05, eps=0.0, copies=4, known_fraction=None),
            ]
        ),
        "basis": tables.make(
            schemas.BASIS,
            {"subject": "theirs", "role": "imported", "n_train": None, "part": None, "train_seed": None}
            | {"image_id": "x", "sigma": 0.5, "noise_draw": 0, "k": [1, 2], "eigenvalue": [0.9, 0.1]}
            | {"singular_value": None, "coefficient_clean": 1.0, "coefficient_noisy": 1.0, "local_frequency": 0.1}
            | {"contour_energy": 1.0, "contour_direction": 0.5},
        ),
        "membership": scored.membership(tested.model(4, "b"), {0.5: (0.5, 0.25), None: (0.5, 0.25)}),
        "diversity": scored.diversity(tested.model(4, "b"), 0.5),
    }
    image = run.sets["a"][:1]
    restoration = restorations.Restoration("n4-s0-a", "low_pass", 0.5, 64, estimate(20.5), 15.5, 10.25, 30.75, 8)
    alone = restorations.Restoration("theirs", "low_pass", 0.5, 64, Estimate.of(21.5, n=1), None, 10.25, None, 1)
    models = [
        RestoredBy(name, image, np.array([20.0]), summary)
        for name, summary in (("N = 4  A", restoration), ("theirs", alone))
    ]
    eigenvectors = np.concatenate([run.sets["a"][:2] - 0.5])[None]
    return ReportInput(
        "A run",
        MANIFEST,
        measured | made,
        run.specimens(),
        256,
        copies=[Copies("N = 4  A", 5, run.samples[4, "a"][:3], run.sets["a"][:3], np.array([0.99, 0.98, np.nan]))],
        restored=[Restored("low_pass-0.5", image, image, models)],
        bases=[Bases("theirs", 0.5, image[0], image[0], image, np.array([[0.9, 0.1]]), eigenvectors)],
        readings=[reading(64, None, 0.25, 2), reading(None, "theirs", 0.25, 1), reading(64, None, 0.5, 0)],
        likelihoods={"N = 4, model A": scored.summary(6.5, 6.75)},
    )


@pytest.fixture(scope="module")
def made(full, tmp_path_factory) -> tuple[list, dict]:
    """The paths of that report and its figures by name, written once; as SVG alone, which is what the page shows."""
    figures = {}
    draw = pages._figures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "SUFFIXES", (".svg",))
        patch.setattr(pages, "_figures", lambda report: figures.update(draw(report)) or figures)
        return write(full, tmp_path_factory.mktemp("report")), figures


@pytest.fixture(scope="module")
def written(made) -> list:
    return made[0]


@pytest.fixture(scope="module")
def page(written) -> str:
    return written[0].read_text()


class Page(HTMLParser):
    """What a page shows: its addresses, and by section its tables, pictures and text; elements must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []
        self.scripts = 0
        self.section = ""
        self.sections = [""]
        self.tables: dict[str, list[list[list[str]]]] = {"": []}
        self.pictures: dict[str, list[tuple[str, str]]] = {"": []}
        self.words: dict[str, str] = {"": ""}
        self.folded: dict[str, list[str]] = {"": []}
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
        self.scripts += tag == "script"
        if tag == "h2":
            self.section = given["id"]
            self.sections.append(self.section)
            for found, empty in ((self.tables, []), (self.pictures, []), (self.words, ""), (self.folded, [])):
                found[self.section] = empty
        if tag == "table":
            self.tables[self.section].append([])
        elif tag == "tr":
            self.tables[self.section][-1].append([])
        elif tag in ("td", "th"):
            self.tables[self.section][-1][-1].append("")
        elif tag == "img":
            self.pictures[self.section].append((given["alt"], given["src"]))
        elif tag == "details":
            assert "open" not in given
            self.folded[self.section].append("")
        if tag not in ("meta", "link", "img", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        data = " ".join(data.split())
        if "body" not in self.open or "script" in self.open or not data:
            return
        self.words[self.section] += f" {data}"
        if "details" in self.open:
            self.folded[self.section][-1] += f" {data}"
        if {"td", "th"} & set(self.open):
            cell = self.tables[self.section][-1][-1]
            cell[-1] = f"{cell[-1]} {data}".strip()


@pytest.fixture(scope="module")
def read(page) -> Page:
    return Page(page)


def test_page_loads_nothing(page, read):
    """Every address on the page is a data address; scripts stand in the page, and no style is imported."""
    assert read.scripts == 4  # the data, a sheet of pictures, the library, and ours
    data, within = ([a for a in read.found if a.startswith(start)] for start in ("data:", "#"))
    assert len(data) == 1 + len(FIGURES) + len(CHARTS)
    assert len(data) + len(within) == len(read.found)
    assert [address[1:] for address in within] == ["main", *read.sections[1:]]
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "http://" not in markup
    assert "https://" not in markup
    assert "@import" not in markup
    assert not re.search(r"url\(", markup)


def test_a_page_with_nothing_to_select_has_no_script():
    """Without a chart and without samples the page carries no library, and its policy lets no script run."""
    page = render(ReportInput("x", {}, {}))
    assert "<script" not in page
    assert "script-src &#39;none&#39;" in page


def test_the_page_opens_with_the_verdict_and_its_pictures(full, read):
    """The headline comes first, then the transition and a row of samples; all else stands below."""
    found = verdict.verdict(full.tables["transition"], full.tables["copies"])
    assert read.words[""].startswith(f" Skip to the content A run {found.headline} At each N two models")
    assert len(read.pictures[""]) == 2
    names = (
        "sizes imported similarity diversity psnr membership likelihood restoration geometry optimality budget copies"
    )
    assert read.sections == ["", *names.split(), "calibration", "data", "failed", "definitions", "provenance"]
    assert all(f"{fold}" not in read.words[""] for fold in found.sentences)


def test_each_picture_stands_in_its_place(written, read):
    """Every figure is on the page once, as the SVG of its name, with words that say what it shows."""
    svg = {path.read_bytes(): path.stem for path in written if path.suffix == ".svg"}
    assert sorted(svg.values()) == sorted(FIGURES + CHARTS)
    shown = {
        svg[base64.b64decode(address.partition("base64,")[2])]: (section, alt)
        for section, pictures in read.pictures.items()
        for alt, address in pictures
    }
    assert {name: section for name, (section, _) in shown.items()} == {
        "transition": "",
        "first": "",
        "images": "similarity",
        "histograms": "similarity",
        "samples": "similarity",
        "psnr": "psnr",
        "training": "budget",
        "levels": "psnr",
        "membership": "membership",
        "likelihood": "likelihood",
        "restored-low_pass-0.5": "restoration",
        "bases": "geometry",
        "spectrum": "geometry",
        "slopes": "optimality",
        "copies": "copies",
    }
    words = {
        "transition": "number of training images N",
        "training": "while the models were trained",
        "first": "one sample of model A",
        "images": "three noises",
    }
    words |= {"histograms": "Histograms", "samples": "first samples", "psnr": "Output PSNR", "levels": "noise level"}
    words |= {"restored-low_pass-0.5": "restored images", "bases": "eigenvectors", "spectrum": "local frequency"}
    words |= {"slopes": "fitted lines", "copies": "closest to training images", "membership": "the attack finds"}
    words |= {"likelihood": "bits per dimension"}
    assert all(words[name] in alt for name, (_, alt) in shown.items())


def test_each_figure_is_drawn_under_its_name(made):
    """The figure of a name shows what the name says."""
    signs = {
        "first": "nearest in A",
        "images": "nearest in B",
        "copies": "training image",
        "levels": "Distance to pure memorization",
        "likelihood": "Bits that each model spends",
        "membership": "Training images found at 1 % false alarms",
        "spectrum": "Local frequency of the eigenvectors",
        "bases": "$f(y)$",
        "samples": "N = 4   B",
        "slopes": "Slopes with 95 % intervals",
        "restored-low_pass-0.5": "measured",
    }
    shown = {
        name: {axes.get_title(loc="left") for axes in figure.axes}
        | {t.get_text() for axes in figure.axes for t in axes.texts}
        for name, figure in made[1].items()
    }
    assert list(shown) == FIGURES
    assert all(sign in shown[name] for name, sign in signs.items())
    assert "nearest in B" not in shown["first"]


def test_each_chart_is_drawn_under_its_name(full, written):
    """The file of a name holds the chart of the name; files show the histograms of every N."""
    signs = {
        "transition": "Median similarity of two images",
        "histograms": "correlation of two images",
        "psnr": "identity + 10 log10 d",
        "training": "training images seen",
    }
    for path in written:
        if path.stem in signs:
            assert signs[path.stem] in path.read_text()
    (histograms,) = (path.read_text() for path in written if path.stem == "histograms")
    assert histograms == f"chart {json.dumps(charts.draw_histograms(full.tables, every=True))}"


def test_every_figure_is_drawn_in_the_same_style(made):
    """Words stand in the font that every machine has, and no layout is left for a save to solve again."""
    for name, figure in made[1].items():
        words = [text for axes in figure.axes for text in (axes.title, axes.xaxis.label, *axes.texts)]
        assert {text.get_fontfamily()[0] for text in words} == {"DejaVu Sans"}, name
        assert not isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine), name


def test_each_size_has_a_folded_paragraph(full, read):
    """One paragraph for each N is folded, in order, with the rules and the numbers; the rest of the verdict is not."""
    found = verdict.verdict(full.tables["transition"], full.tables["copies"])
    sizes = [paragraph for paragraph in found.paragraphs if paragraph.n_train is not None]
    folded = read.folded["sizes"]
    assert len(folded) == len(sizes) + 3
    for paragraph, text in zip(sizes, folded, strict=False):
        assert text == f" {paragraph.regime} · {' '.join(paragraph.sentences)}"
    assert folded[2].startswith(" The rules behind these verdicts memorizes The memorized fraction is at least 1/2")
    assert all(sentence in read.words["sizes"] for sentence in (*found.points, found.unconverged, found.caveat))
    assert not any(sentence in text for sentence in found.points for text in folded)


def test_numbers_of_each_size_in_words(full, read):
    """The table of a sweep has a column for each N and a row for each quantity, by name, with unit and interval."""
    rows = transition.estimates(full.tables["transition"])
    head, regimes, *numbers = read.tables["sizes"][0]
    found = verdict.verdict(full.tables["transition"], full.tables["copies"])
    assert head == ["quantity", "N = 4", "N = 64"]
    assert regimes == ["verdict", *(found.regimes[n] for n in (4, 64))]
    measured = [key for key in transition.QUANTITIES if rows[4, key].estimate is not None]
    assert len(measured) == len(numbers) == 13
    assert "to_optimum" not in measured
    for key, row in zip(measured, numbers, strict=True):
        unit = {"pixel units^2": "squared pixel units"}.get(rows[4, key].unit, rows[4, key].unit)
        assert row == [f"{transition.QUANTITIES[key].name} {unit}", *(wording.estimate(rows[n, key]) for n in (4, 64))]
    covered = read.tables["sizes"][1]
    assert covered == [
        [f"N = {n}: {transition.QUANTITIES[key].name}", rows[n, key].note] for key in measured for n in (4, 64)
    ]


def test_imported_subjects_have_a_section_of_their_own(full, read):
    """Paragraph and numbers of an imported model are below those of the sweep; without one there is no such section."""
    rows = transition.estimates(full.tables["transition"])
    found = verdict.verdict(full.tables["transition"], full.tables["copies"])
    (theirs,) = [paragraph for paragraph in found.paragraphs if paragraph.subject == "theirs"]
    assert f"{theirs.regime} · {' '.join(theirs.sentences)}" in read.words["imported"]
    head, regime, *numbers = read.tables["imported"][0]
    assert (head, regime) == (["quantity", "theirs"], ["verdict", theirs.regime])
    names = {row[0]: row[1] for row in numbers}
    own = rows["theirs", "nearest_own"]
    assert names["similarity to own training set correlation"] == wording.estimate(own)
    assert own.estimate == pytest.approx(rows[64, "nearest_own"].estimate, abs=0.1)
    assert all("theirs" not in cell for table in read.tables["sizes"] for row in table for cell in row)
    without = Page(
        render(
            ReportInput(
                "x",
                {},
                {"transition": full.tables["transition"].filter(pc.is_null(full.tables["transition"]["subject"]))},
            )
        )
    )
    assert "imported" not in without.sections


def test_an_imported_subject_alone_makes_a_page(full):
    """Without a sweep there is no figure of a transition, and the section of the sizes says so."""
    summary = full.tables["transition"]
    alone = Page(render(ReportInput("x", {}, {"transition": summary.filter(pc.is_null(summary["n_train"]))})))
    assert alone.pictures[""] == []
    assert "No model of a sweep was measured." in alone.words["sizes"]
    assert alone.tables["imported"][0][0] == ["quantity", "theirs"]


def test_no_identifier_is_read(read):
    """Tables, headings and captions use words; keys of tables and names of cells appear nowhere."""
    text = " ".join(read.words.values())
    for key in (
        *transition.QUANTITIES,
        *bases.QUANTITIES,
        *diversities.QUANTITIES,
        "log_density",
        "n4-s0-a",
        "n64-s0-b",
    ):
        if "_" in key or "-" in key:
            assert key not in text, key
    assert "^2" not in text


def test_text_from_outside_is_escaped(page):
    """File names and manifest values cannot become markup."""
    assert "abc&lt;script&gt;" in page
    assert "&lt;b&gt;.png" in page
    assert "config.train.steps" in page
    assert "cells[0].n" in page


def test_settings_and_provenance(read):
    """Every leaf of the manifest is a row; lists of plain values stay together."""
    assert read.tables["provenance"][0] == [
        ["config.train.steps", "600"],
        ["git.commit", "abc<script>"],
        ["sizes", "1, 4"],
        ["cells[0].n", "1"],
    ]
    empty = Page(render(ReportInput("x", {"a": None, "b": {}, "c": []}, {}))).tables["provenance"][0]
    assert empty == [["a", ""], ["b", "{}"], ["c", ""]]


def test_geometry_of_each_noise_level(read):
    """A row has the name, unit and meaning of a quantity, and each model's estimate with what chance gives."""
    first, second = read.tables["geometry"]
    assert first[0] == ["quantity", "N = 64", "theirs"]
    assert second[0] == ["quantity", "N = 64"]
    measured = [name for name in bases.QUANTITIES if name != "overlap_tangent"]
    assert len(first) == len(measured) + 1
    for name, row in zip(measured, first[1:], strict=True):
        quantity = bases.QUANTITIES[name]
        unit = {"pixel units^2": "squared pixel units"}.get(quantity.unit, quantity.unit)
        assert row[0] == f"{quantity.name} {unit}".strip()
        chance = " chance .125" if name == "overlap_twin" else ""
        values = (reading(64, None, 0.25, 0), reading(None, "theirs", 0.25, 0))
        assert row[1:] == [wording.estimate(each.values[name]) + chance for each in values]
    text = read.words["geometry"]
    assert all(f"{q.name} {q.definition}" in read.folded["geometry"][0] for q in bases.QUANTITIES.values())
    assert "\N{GREEK SMALL LETTER SIGMA} = 0.25, 3 held-out images" in text
    assert "but are part of every mean: 2 of N = 64, 1 of theirs." in text
    assert text.count("but are part of every mean") == 1
    alone = replace(reading(64, None, 0.25, 0), images=1)
    assert "1 held-out image " in Page(render(ReportInput("x", {}, {}, readings=[alone]))).words["geometry"] + " "


def test_slopes_and_gains(full, read):
    """Each row has the name, the mean PSNR, the slopes and the gains of its model; what is unknown is empty."""
    head, own, theirs = read.tables["optimality"][0]
    assert len(head) == len(own) == 8
    assert own == [
        "N = 64",
        "60",
        "25.250 [25.000, 25.500]",
        "0.611 [0.600, 0.622]",
        "0.750",
        "",
        "8.125 [8.000, 8.250]",
        "9.500",
    ]
    assert theirs == ["theirs", "60", "24.000", "0.500", "", "-0.125 [-0.250, -0.062]", "", "9.500"]
    assert "from 5.0 to 33.5 dB (4 noise levels)" in read.words["optimality"]
    row = slope("theirs", "imported", None, slope=0.5)
    table = pa.Table.from_pylist([row], schema=schemas.SLOPES)
    plain = Page(render(ReportInput("x", {}, {"slopes": table})))
    assert plain.tables["optimality"][0][1] == ["theirs", "60", "", "0.500", "", ""]
    assert plain.pictures["optimality"] == []
    drawn = Page(render(ReportInput("x", {}, {name: full.tables[name] for name in ("slopes", "psnr")})))
    assert len(drawn.pictures["optimality"]) == 1


def test_the_test_for_copies_of_every_model(full, read):
    """Counts, the rate, and the memorized fraction with its interval stand in the row of their model."""
    columns = {"n_pool_train": 5, "n_pool_heldout": 6, "samples": 7, "answer": "found", "discoveries": 8, "alike": 9}
    columns |= {"attached": 10, "k_min": 11, "memorized_fraction": 0.5, "low": 0.25, "high": 0.75, "p": 0.0125}
    columns |= {"competition_p": 0.125, "flagged": 12, "flagged_images": 13, "most_shared": 14, "conformal_p": 1e-6}
    table = tested.copies(tested.model(1024, "b", 2), **columns, closest=0.987)
    found = Page(render(ReportInput("x", {}, {"copies": table})))
    row = ["N = 1,024, model B, seed 2", "5", "6", "8 at 5%", "9", "10", "11", "0.12", "12 of 7", "13", "14", "1e-06"]
    row += ["0.987", ".500 [.250, .750]", "0.013"]
    assert found.tables["copies"][0][1] == row
    undecided = Page(render(ReportInput("x", {}, {"copies": tested.copies(tested.model(), answer="cannot decide")})))
    assert undecided.tables["copies"][0][1][3] == "cannot decide"
    assert [row[0] for row in read.tables["copies"][0][1:]] == [
        *(f"N = {n}, model {part}" for n in (4, 64) for part in "AB"),
        "theirs",
    ]


def test_calibration_of_the_test_for_copies(read):
    """Each control has its rates with intervals, and a word on whether they are as expected."""
    head, none, copies, mirrored = read.tables["calibration"][0]
    assert len(head) == 9
    assert none[:4] == ["held-out", "", "", "7"]
    assert none[4].startswith(".000 [")
    assert (none[6], none[8]) == ("", "no")
    assert none[7].startswith("1.000 [")
    assert copies[:4] == ["copies", "30% = 29", "0.1", "7"]
    assert copies[4].startswith("1.000 [")
    assert (copies[5][:6], copies[7], copies[8]) == (".500 [", "", "yes")
    assert copies[6].startswith(".172 [")
    assert (mirrored[1], mirrored[8]) == ("5% = 4", "not judged")
    assert "N = 64: not calibrated" in read.words["calibration"]
    assert "not calibrated on these images in: copies. This is judged by 20 redraws." in read.words["calibration"]
    fine = Page(render(ReportInput("x", {}, {"calibration": calibration("held-out", 0, 0)})))
    assert "N = 64: not contradicted" in fine.words["calibration"]
    assert "A false-discovery rate of 26% or more in any control" in fine.words["calibration"]


def test_restored_images_of_every_model(read):
    """PSNR, its interval, and what it compares with stand in the row of their model."""
    head, first, second = read.tables["restoration"][0]
    assert len(head) == 7
    assert first == ["N = 4  A".replace("  ", " "), "9", "8", "20.5 [20.2, 20.8]", "15.5", "10.2", "30.8"]
    assert second == ["theirs", "1", "1", "21.5", "", "10.2", ""]
    assert "low pass, amount 0.5: 64 of 256 numbers measured" in read.words["restoration"]


def test_data_of_the_run(read):
    """Parts, near-duplicates and skipped files are counted; the first ten skipped files are named."""
    assert "0 near-duplicates were removed." in read.words["data"]
    text = read.words["failed"]
    assert "12 files were skipped." in text
    assert "j : truncated" in text
    assert "l : truncated" not in text
    assert "and 2 more in the table skipped" in text
    assert "6 images were kept and split into disjoint parts: a 3, b 2, holdout 1." in read.words["data"]
    few = tables.make(schemas.SKIPPED, {"source": ["x.png"], "reason": "truncated"})
    words = Page(render(ReportInput("x", {}, {"skipped": few}))).words
    assert "more in the table" not in words["failed"]
    assert "There is no record of near-duplicate removal." in words["data"]
    assert "No split was recorded." in words["data"]
    assert "There is no record of skipped files." in Page(render(ReportInput("x", {}, {}))).words["failed"]


def test_what_failed(full, read):
    """Samples that did not converge are counted by model, and bases by model and noise level; warnings stand there."""
    text = read.words["failed"]
    assert "N = 64, noise level 0.25: 2 bases did not converge." in text
    assert "No sample was cut short" not in text
    run = synthetic_run.run().tables["samples"]
    warned = {"data": {"warnings": ["Beware."]}}
    text = Page(render(ReportInput("x", warned, {"samples": run}))).words["failed"]
    assert "N = 16, model A: 2 of 96 samples reached the largest number of updates" in text
    assert "N = 4" not in text
    assert "Warning. Beware." in text
    fine = run.filter(pc.equal(run["n_train"], 4))
    text = Page(render(ReportInput("x", {}, {"samples": fine}))).words["failed"]
    assert "No sample was cut short or diverged" in text


def test_the_training_budget_of_every_model():
    """Steps, images seen and seconds are those of the last record; each image was seen as often as that makes."""
    run = synthetic_run.run().tables["training"]
    found = Page(render(ReportInput("x", {}, {"training": run}))).tables["budget"][0]
    assert found[1] == ["N = 1, model A", "200", "12,800", "12,800", "8.0"]
    assert found[4] == ["N = 4, model B", "200", "12,800", "3,200", "8.0"]
    assert found[9] == ["N = 256, model A", "200", "12,800", "50.0", "8.0"]
    assert found[-1] == ["N = 1,024, model B", "200", "12,800", "12.5", "8.0"]
    assert len(found) == 13
    unknown = pa.Table.from_pylist([run.to_pylist()[0] | {"role": "imported", "n_train": None}], schema=run.schema)
    assert Page(render(ReportInput("x", {}, {"training": unknown}))).tables["budget"][0][1][3] == ""


def test_files(full, tmp_path, monkeypatch):
    """The page and each figure in three formats are written, and their paths returned; the page is the one rendered."""
    monkeypatch.setattr(style, "encode", ENCODE)
    monkeypatch.setattr(charts, "svg", SVG)
    small = ReportInput("x", {}, {"psnr": full.tables["psnr"].slice(0, 6)})
    paths = write(small, tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in paths]
    assert names == ["report.html", "figures/psnr.png", "figures/psnr.svg", "figures/psnr.pdf"]
    assert all(path.stat().st_size > 1000 for path in paths)
    assert paths[0].read_text() == render(small)


def test_figures_that_are_no_longer_drawn_are_removed(full, tmp_path, monkeypatch):
    """Files of an earlier report go, and whatever the report did not write stays."""
    monkeypatch.setattr(charts, "svg", SVG)
    folder = tmp_path / "figures"
    folder.mkdir()
    stale = ["transition.png", "restored-low_pass-0.1.svg", "first.pdf"]
    others = ["bases-0123.png", "transition.txt", "mine.png", "psnr.jpg"]
    for name in (*stale, *others, "psnr.png"):
        (folder / name).write_text("old")
    write(ReportInput("x", {}, {"psnr": full.tables["psnr"].slice(0, 6)}), tmp_path)
    assert {path.name for path in folder.iterdir()} == {*others, "psnr.png", "psnr.svg", "psnr.pdf"}
    assert (folder / "psnr.png").read_bytes() != b"old"


@pytest.mark.parametrize("name", ["psnr", "samples", "similarity", "neighbors", "distances", "copies"])
def test_one_table_alone_makes_a_page(name):
    """A run that measured one thing at one N gets a page that says what is missing."""
    run = synthetic_run.run().tables
    one = {name: run[name].filter([n == 16 for n in run[name]["n_train"].to_pylist()])}
    page = render(ReportInput("x", {}, {**one, "transition": transition.summarize(one, 0, resamples=50)}))
    assert "There are no samples with their nearest training images." in page
    assert ("Denoising PSNR was not measured." in page) == (name != "psnr")
    assert ("Similarities were not measured" in page) == (name not in ("similarity", "neighbors"))
    assert ("Samples were not tested for copies." in page) == (name != "copies")


def test_what_a_run_is_stands_on_the_page_once():
    """The head of the config file is shown as text, and not again among the settings; shuffling is said."""
    data = {"warnings": ["The images are <dark>."]}
    manifest = {"about": "Figure 5 <at CPU size>", "config": {"data": {"shuffle": True}}, "data": data}
    page = render(ReportInput("x", manifest, {}))
    assert page.count("Figure 5 &lt;at CPU size&gt;") == 1
    assert "were shuffled in the same way" in page
    assert "<strong>Warning.</strong> The images are &lt;dark&gt;." in page
    assert "were shuffled in the same way" not in render(ReportInput("x", {"config": {}}, {}))


def test_nothing_at_all_makes_a_page():
    """An empty run gets a page that says so, section by section, whether its tables are missing or have no rows."""
    words = {
        "sizes": "Each training-set size the paper's Figures 2, 15 No model of a sweep was measured.",
        "similarity": (
            "Samples and their nearest training images the paper's Figures 2, 6\N{EN DASH}8, 10, 12\N{EN DASH}14 There "
            "are no samples with their nearest training images. Similarities were not measured: there are no nearest "
            "neighbors and no comparison of two models."
        ),
        "psnr": "Denoising the paper's Figures 1, 9, 11 Denoising PSNR was not measured.",
        "geometry": (
            "Geometry: shrinkage in an adaptive basis the paper's Figures 3\N{EN DASH}5, 19\N{EN DASH}21 The Jacobians "
            "of the models were not analyzed. To analyze them, run memgen basis ."
        ),
        "budget": "Training budget No training was recorded in this run.",
        "copies": "Test for copies Samples were not tested for copies.",
        "calibration": (
            "Calibration of the test for copies The test for copies was not calibrated on these images. To calibrate it, "
            "run memgen calibrate ."
        ),
        "data": "Data There is no record of near-duplicate removal. No split was recorded.",
        "failed": (
            "What failed or was left out There is no record of skipped files. No sample was cut short or diverged, and "
            "no basis of eigenvectors failed to converge."
        ),
        "provenance": "Settings and provenance No manifest was recorded.",
    }
    none = {name: schema.empty_table() for name, schema in schemas.SCHEMAS.items() if name != "transition"}
    for given, more in (
        ({}, {}),
        (
            none,
            {
                "data": (
                    "Data 0 near-duplicates were removed. 0 images were kept and split into disjoint parts: a 0, b 0, "
                    "holdout 0. The training set for N is the first N images of a part, so larger sets contain the "
                    "smaller ones."
                ),
                "failed": (
                    "What failed or was left out 0 files were skipped. No sample was cut short or diverged, and no "
                    "basis of eigenvectors failed to converge."
                ),
            },
        ),
    ):
        empty = Page(render(ReportInput("Nothing", {}, given)))
        assert empty.words.pop("").startswith(
            " Skip to the content Nothing No verdict: nothing was measured that a verdict rests"
        )
        del empty.words["definitions"]
        assert empty.words == {section: f" {text}" for section, text in (words | more).items()}
        assert not any(empty.pictures.values())


def test_every_definition_is_on_the_page(read):
    """Each quantity and each transition point is defined under the name that the tables use."""
    text = read.words["definitions"]
    for quantity in (*transition.QUANTITIES.values(), *transition.POINTS.values()):
        assert f"{quantity.name} {quantity.definition}" in text
