"""What a person sees while a command works: bars on a terminal, plain lines elsewhere, tables at the end.

All of it goes to stderr; stdout is for results that scripts read.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Console, Group
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
from memgen.experiment.tasks import DOING, Event, Task, Verb
from memgen.findings import bases, calibration, headlines, transition
from memgen.findings.calibration import Calibration
from memgen.findings.verdict import Verdict
from memgen.images import importing
from memgen.report.live import Live

console = Console(stderr=True, highlight=False, soft_wrap=True)
if not console.is_terminal:
    console.width = 116  # a log file has no width of its own

_REASONS = 20  # rows shown of why files were skipped
_COLORS = {"memorizes": "red", "generalizes": "green", "mixed": "yellow", "underfits": "magenta"}


class Bars:
    """One bar for all tasks and one for each task under way.

    Args:
        progress: what draws them; None prints a line for each step under way and each task that ends, with the time.
        listed: the tasks.
        told: gives the line to print when a step of a task is finished, such as what it found; empty for none.
    """

    def __init__(self, progress: Progress | None, listed: Sequence[Task], told: Callable[[Task, Verb], str]) -> None:
        self._progress, self._told, self._start = progress, told, time.monotonic()
        self._begun: set[tuple[str, str]] = set()
        self._tasks = {task.name: task for task in listed}
        self._bars: dict[str, TaskID] = {}
        self._all = progress.add_task("all cells", total=len(listed), note="") if progress else None
        self._finished, self._total = 0, len(listed)

    def __call__(self, event: Event) -> None:
        """Show an event."""
        ended = event.done == event.total == 1 and event.verb == self._tasks[event.task].verbs[-1]
        if self._progress:
            self._draw(self._progress, event, ended)
        elif 0 < event.done < event.total and (event.task, event.verb) not in self._begun:
            self._begun.add((event.task, event.verb))  # work is under way, and was not done before
            self._line(f"{event.task} {DOING[event.verb]}")
        told = self._told(self._tasks[event.task], event.verb) if event.done == event.total == 1 else ""
        if told:
            console.print(f"  [bold]{event.task}[/bold]  {escape(told)}")
        if ended:
            self._finished += 1
            self._line(f"{event.task} done ({self._finished} of {self._total})")

    def _line(self, text: str) -> None:
        """Print a line with the time since the start, unless bars show the same."""
        if not self._progress:
            minutes, seconds = divmod(round(time.monotonic() - self._start), 60)
            console.print(f"  {minutes}:{seconds:02} {text}")

    def _draw(self, progress: Progress, event: Event, ended: bool) -> None:
        assert self._all is not None
        if event.task not in self._bars:
            self._bars[event.task] = progress.add_task(event.task, note="")
        bar = self._bars[event.task]
        progress.update(
            bar,
            description=f"{event.task} {DOING[event.verb]}",
            completed=event.done,
            total=event.total,
            note=event.text,
        )
        if ended:
            progress.remove_task(bar)
            progress.advance(self._all)


@contextmanager
def bars(listed: Sequence[Task], told: Callable[[Task, Verb], str]) -> Iterator[Bars]:
    """Bars for the tasks of a sweep."""
    if not console.is_terminal:
        yield Bars(None, listed, told)
        return
    with _progress(TextColumn("{task.fields[note]}")) as progress:
        yield Bars(progress, listed, told)


@contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """One bar for each stage of some work, drawn by calling it with (stage, done, total); off a terminal, a line."""
    if not console.is_terminal:
        begun: set[str] = set()

        def line(stage: str, done: int, total: int) -> None:
            if stage not in begun:
                begun.add(stage)
                console.print(f"  {stage}")

        yield line
        return
    with _progress() as progress:
        bars: dict[str, TaskID] = {}

        def draw(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                for other in bars.values():
                    progress.update(other, completed=progress.tasks[other].total)
                bars[stage] = progress.add_task(stage, total=total)
            progress.update(bars[stage], completed=done, total=total)

        yield draw


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


def status(found: Live, note: str = "") -> Group:
    """The state of work under way: its sentences above its table, and a note below it."""
    drawn = Table(box=box.SIMPLE_HEAD)
    for position, column in enumerate(found.columns):
        drawn.add_column(column, justify="left" if position < 2 else "right", overflow="fold")
    for row in found.rows:
        drawn.add_row(*map(escape, row))
    return Group(*map(escape, found.lines), drawn, escape(note))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> None:
    """Print a table; numbers to the right, also those that are text already."""
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, caption=note or None, caption_justify="left")
    for position, column in enumerate(columns):
        numeric = all(_is_number(row[position]) for row in rows)
        drawn.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(escape(_shown(value)) for value in row))
    console.print(drawn)


def say_skipped(skipped: pa.Table) -> None:
    """Print why the files of a SKIPPED table were left out, if it has any."""
    rows = [[row["reason"], row["files"], row["first"]] for row in importing.by_reason(skipped)]
    if rows:
        more = f"and {len(rows) - _REASONS:,} more reasons in the table skipped" if len(rows) > _REASONS else ""
        table(f"skipped files ({skipped.num_rows:,})", ["reason", "files", "such as"], rows[:_REASONS], more)


def say(found: Verdict, summary: pa.Table) -> None:
    """Print a verdict: the estimates with their intervals, the headline, and the sentences.

    Args:
        found: the verdict.
        summary: the TRANSITION table that it is about.
    """
    numbers = headlines.of_sweep(found, summary)
    drawn = Table(box=box.SIMPLE_HEAD, title=f"Estimates with {numbers.intervals}", title_justify="left")
    drawn.padding = (0, 0, 0, 1)  # so that every interval fits into a line
    drawn.caption_justify = "left"
    drawn.caption = f"In parentheses: {'; '.join(numbers.nulls)}." if numbers.nulls else None
    drawn.add_column("N", justify="right", overflow="fold")
    for head in numbers.columns:
        drawn.add_column(head, justify="right", min_width=13, overflow="fold")
    drawn.add_column("verdict")
    for label, row, regime in zip(numbers.labels, numbers.rows, numbers.regimes, strict=True):
        cells = (_lines(number.value, number.interval, number.null) for number in row)
        drawn.add_row(escape(label), *cells, _colored(regime, regime))
    if found.paragraphs:
        console.print(drawn)
    console.print(f"[bold]{escape(found.headline)}[/bold]\n")
    for paragraph in found.paragraphs:
        # What was measured of samples and functions stands in the table above.
        label = escape(paragraph.label)
        opening = escape(paragraph.opening).replace(label, _colored(label, paragraph.regime), 1)
        _bullet(wording.joined(opening, escape(paragraph.copies), escape(paragraph.missing)))
    for sentence in (*found.points, *found.remarks):
        _bullet(escape(sentence))


def say_estimates(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of a TRANSITION table, each with the name of its quantity and its interval."""
    shown = []
    for row in rows:
        found = Estimate.of(row["estimate"], row["low"], row["high"], row["n"], row["unit"])
        of = row["subject"] if row["n_train"] is None else f"{row['n_train']:,}"
        name = transition.QUANTITIES[row["quantity"]].name
        shown.append([of, name, wording.value(found), wording.interval(found), found.n, found.unit])
    columns = ["N", "quantity", "estimate", "interval", "units", "unit of the estimate"]
    table("Medians and means", columns, shown)


def _colored(text: str, regime: str) -> str:
    return f"[{_COLORS.get(regime, 'bold')}]{text}[/]"


def _cell(found: Estimate, judged_by: str = "") -> str:
    return _lines(wording.value(found), wording.interval(found), judged_by)


def _lines(value: str, interval: str, judged_by: str) -> str:
    """An estimate above its interval, above what it is judged against in brackets where there is such a value."""
    return "\n".join(filter(None, (value, escape(interval.replace(", ", ",")), judged_by and f"({judged_by})")))


def say_calibration(found: Calibration, n_train: int) -> None:
    """Print what the test for copies found in sample sets with known answers, and whether it is calibrated."""
    title = f"The test for copies on sample sets with known answers, N = {n_train:,}"
    drawn = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    drawn.add_column("control")
    for column in ("copies planted", "noise on them", "fewest that can be found"):
        drawn.add_column(column, justify="right", min_width=7)
    for column in ("anything found", "false share", "power", "coverage"):
        drawn.add_column(column, justify="right", min_width=12)
    drawn.add_column("contradicts")
    for control in found.controls:
        rates = (control.any_found, control.false_share, control.power, control.covered)
        planted = "" if control.share is None else f"{control.share:.0%} = {control.copies:.0f}"
        noise = "" if control.eps is None else f"{control.eps:g}"
        cells = [control.control, planted, noise, str(control.k_min)]
        cells += ["" if rate is None else _cell(rate) for rate in rates]
        color = {"in": "green", "out": "bold red"}.get(control.band, "dim")
        drawn.add_row(*cells, f"[{color}]{calibration.BANDS[control.band]}[/]")
    console.print(drawn)
    console.print(
        "The controls from held-out to correlated contain no copies, so that all that is found there is false. The "
        "test promises a false share of at most 5 % in every control, and intervals that contain the truth in 95 % of "
        "the redraws. The last column says whether a control contradicts that. In the control empirical, every sample "
        "should be nearest to a training image. The control mirrored shows what a comparison of pixels does not see.\n"
    )
    color = "bold red" if found.answer == "not calibrated" else "bold"
    console.print(f"[{color}]{escape(found.headline)}[/] {escape(' '.join(found.sentences))}")


def say_basis(readings: Sequence[bases.Reading]) -> None:
    """Print what the Jacobians of each model show, with intervals and the values of a random basis, by noise level."""
    for sigma, found, measured in bases.by_level(readings):
        images = f"{found[0].images} image{'s' * (found[0].images != 1)}"
        title = f"The basis in which denoisers shrink noise of standard deviation {sigma:g}, on {images}"
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
        console.print(
            f"[bold red]{unconverged} bases did not converge.[/] See converged and residual in the table basis_summary."
        )
    console.print(
        "Estimates are means over images and over both models of an N, with 95 % intervals. In parentheses: the value "
        "of a random basis."
    )


def _chance(reading: bases.Reading, name: str) -> str:
    """The value of a random basis, as people print it; empty where there is none."""
    chance = reading.chance.get(name)
    return "" if chance is None else wording.number(chance, bases.QUANTITIES[name].unit)


def _bullet(text: str) -> None:
    console.print(Padding(f"• {text}", (0, 0, 0, 2)), soft_wrap=False)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (
        isinstance(value, str) and value.replace(",", "").replace(".", "").isdigit()
    )


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if value == 0 or 0.01 <= abs(value) < 100 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
