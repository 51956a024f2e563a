"""What a person sees while a command works: bars on a terminal, plain lines elsewhere, tables at the end.

All of it goes to stderr; stdout is for results that scripts read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from memgen.base import wording
from memgen.base.estimates import Estimate
from memgen.experiment.tasks import Event, Task
from memgen.findings import bases, transition
from memgen.findings.calibration import Control
from memgen.findings.quantities import Key
from memgen.findings.verdict import Verdict

console = Console(stderr=True, highlight=False, soft_wrap=True)
if not console.is_terminal:
    console.width = 116  # a log file has no width of its own

_COLORS = {"memorizes": "red", "generalizes": "green", "mixed": "yellow", "underfits": "magenta"}
_DOING = {
    "train": "training",
    "sample": "sampling",
    "search": "searching neighbors",
    "copies": "testing for copies",
    "psnr": "measuring PSNR",
    "references": "measuring references",
    "compare": "comparing twins",
}


class Bars:
    """One bar for all tasks and one for each task under way.

    Args:
        progress: what draws them; None prints a line for each finished task instead.
        listed: the tasks.
        on_pair: gives the line to print when the comparison of a pair is finished.
    """

    def __init__(self, progress: Progress | None, listed: Sequence[Task], on_pair: Callable[[str], str]) -> None:
        self._progress, self._on_pair = progress, on_pair
        self._last = {task.name: task.verbs[-1] for task in listed}
        self._bars: dict[str, TaskID] = {}
        self._all = progress.add_task("all cells", total=len(listed), note="") if progress else None
        self._finished, self._total = 0, len(listed)

    def __call__(self, event: Event) -> None:
        """Show an event."""
        ended = event.done == event.total == 1 and event.verb == self._last[event.task]
        if self._progress:
            self._draw(self._progress, event, ended)
        if ended:
            self._finished += 1
            if event.verb == "compare":
                console.print(f"  [bold]{event.task}[/bold]  {self._on_pair(event.task)}")
            elif not self._progress:
                console.print(f"  {event.task} done ({self._finished} of {self._total})")

    def _draw(self, progress: Progress, event: Event, ended: bool) -> None:
        assert self._all is not None
        if event.task not in self._bars:
            self._bars[event.task] = progress.add_task(event.task, note="")
        bar = self._bars[event.task]
        progress.update(
            bar,
            description=f"{event.task} {_DOING[event.verb]}",
            completed=event.done,
            total=event.total,
            note=event.text,
        )
        if ended:
            progress.remove_task(bar)
            progress.advance(self._all)


@contextmanager
def bars(listed: Sequence[Task], on_pair: Callable[[str], str]) -> Iterator[Bars]:
    """Bars for the tasks of a sweep."""
    if not console.is_terminal:
        yield Bars(None, listed, on_pair)
        return
    with _progress(TextColumn("{task.fields[note]}")) as progress:
        yield Bars(progress, listed, on_pair)


@contextmanager
def bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """One bar, drawn by calling it with (done, total); nothing off a terminal."""
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with _progress() as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _progress(*more: TextColumn) -> Progress:
    columns = [TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeElapsedColumn()]
    return Progress(*columns, TimeRemainingColumn(), *more, console=console, transient=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> None:
    """Print a table; numbers to the right."""
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, caption=note or None, caption_justify="left")
    for position, column in enumerate(columns):
        numeric = all(isinstance(row[position], (int, float)) for row in rows)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(escape(_shown(value)) for value in row))
    console.print(drawn)


_SHOWN = {
    "nearest_own": "to train\n(held-out)",
    "cross_same": "A to B\n(other noise)",
    "memorized_fraction": "memorized\nfraction",
    "psnr_gap": "PSNR gap\n(dB)",
    "bits": "bits per\ndimension",
    "to_linear": "over best\nlinear (dB)",
}
_NULLS = {"nearest_own": "nearest_holdout_to_train", "cross_same": "cross_different"}


def say(found: Verdict, summary: pa.Table) -> None:
    """Print a verdict: the numbers of each N with their intervals, the headline, and the sentences."""
    rows = transition.estimates(summary)
    title = "medians and means, with 95 % intervals, and (what they are judged against)"
    drawn = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for column in ("N", *_SHOWN.values(), "verdict"):
        drawn.add_column(column, justify="left" if column == "verdict" else "right")
    for paragraph in found.paragraphs:
        numbers = [_judged(rows, paragraph.key, quantity) for quantity in _SHOWN]
        head = f"{paragraph.n_train:,}" if paragraph.n_train is not None else escape(paragraph.label)
        drawn.add_row(head, *numbers, _colored(paragraph.regime, paragraph.regime))
    if found.paragraphs:
        console.print(drawn)
    console.print(f"[bold]{escape(found.headline)}[/bold]\n")
    for paragraph in found.paragraphs:
        # What was measured of samples and functions stands in the table above.
        label = escape(paragraph.label)
        opening = escape(paragraph.opening).replace(label, _colored(label, paragraph.regime), 1)
        _bullet(wording.joined(opening, escape(paragraph.copies), escape(paragraph.missing)))
    for sentence in (*found.points, *filter(None, (found.unconverged, found.caveat))):
        _bullet(escape(sentence))


def _colored(text: str, regime: str) -> str:
    return f"[{_COLORS.get(regime, 'bold')}]{text}[/]"


def _judged(rows: Mapping[tuple[Key, str], Estimate], key: Key, quantity: str) -> str:
    """An estimate above its interval above what it is judged against."""
    null = rows[key, _NULLS[quantity]] if quantity in _NULLS else None
    return _cell(rows[key, quantity], "" if null is None or null.estimate is None else wording.value(null))


def _cell(found: Estimate, judged_by: str = "") -> str:
    """An estimate above its interval above what it is judged by, in brackets, where there is such a thing."""
    interval = wording.interval(found).replace(", ", ",")
    return "\n".join(filter(None, (wording.value(found), escape(interval), judged_by and f"({judged_by})")))


def say_calibration(readings: Sequence[Control], n_train: int) -> None:
    """Print what the test for copies said of sample sets whose answer is known, and whether it is calibrated."""
    title = f"the test for copies on sample sets whose answer is known, N = {n_train:,}"
    drawn = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for column in (
        "control",
        "copies",
        "noise",
        "k_min",
        "anything\nfound",
        "false\nshare",
        "power",
        "coverage",
        "band",
    ):
        drawn.add_column(column, justify="left" if column in ("control", "band") else "right")
    for reading in readings:
        rates = (reading.any_found, reading.false_share, reading.power, reading.covered)
        planted = "" if reading.share is None else f"{reading.share:.0%} = {reading.copies:.0f}"
        noise = "" if reading.eps is None else f"{reading.eps:g}"
        color = {"in": "green", "out": "bold red"}.get(reading.band, "dim")
        cells = [
            reading.control,
            planted,
            noise,
            str(reading.k_min),
            *("" if rate is None else _cell(rate) for rate in rates),
        ]
        drawn.add_row(*cells, f"[{color}]{reading.band}[/]")
    console.print(drawn)
    console.print(
        "held-out to correlated: no copies, so nothing may be found; copies: the false share must stay at 5 %; "
    )
    console.print("mirrored: what a comparison of pixels cannot see; empirical: every sample must be nearest to T.\n")
    out = [reading.control for reading in readings if reading.band == "out"]
    repeats = max(reading.repeats for reading in readings)
    judged = f"by {repeats} redraws; more (--repeats) make the intervals shorter"
    if out:
        console.print(f"[bold red]Not calibrated on these images[/]: {', '.join(dict.fromkeys(out))}, {judged}.")
    else:
        console.print(f"[bold]Calibrated on these images[/], as far as can be told {judged}.")


def say_basis(readings: Sequence[bases.Reading]) -> None:
    """Print what the Jacobians of each model say, with intervals and what chance gives: a table a noise level."""
    for sigma, found, measured in bases.by_level(readings):
        title = f"the basis in which noise of sigma {sigma:g} is shrunk, on {found[0].images} images"
        drawn = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
        drawn.add_column("quantity")
        for reading in found:
            drawn.add_column(escape(reading.label), justify="right")
        for name in measured:
            quantity = bases.QUANTITIES[name]
            cells = (_cell(reading.values[name], _chance(reading, name)) for reading in found)
            drawn.add_row(f"{escape(quantity.name)}\n[dim]{escape(quantity.definition)}[/]", *cells)
        console.print(drawn)
    unconverged = sum(reading.unconverged for reading in readings)
    if unconverged:
        console.print(f"[bold red]{unconverged} bases did not converge[/] (table basis_summary: converged, residual).")
    console.print("Means over images, and both models of an N, with 95 % intervals; (what a random basis would give).")


def _chance(reading: bases.Reading, name: str) -> str:
    """What a random basis would give, as people print it; empty where there is no such thing."""
    chance = reading.chance.get(name)
    return "" if chance is None else wording.number(chance, bases.QUANTITIES[name].unit)


def _bullet(text: str) -> None:
    console.print(Padding(f"• {text}", (0, 0, 0, 2)), soft_wrap=False)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if value == 0 or 0.01 <= abs(value) < 100 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
