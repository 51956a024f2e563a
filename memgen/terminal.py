"""What a person sees while a command works: bars on a terminal, plain lines elsewhere, tables at the end.

All of it goes to stderr; stdout is for results that scripts read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
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

from memgen.sweep import Event, Task
from memgen.verdict import Verdict

console = Console(stderr=True, highlight=False, soft_wrap=True)

_COLORS = {"memorizes": "red", "generalizes": "green", "mixed": "yellow"}
_DOING = {
    "train": "training",
    "sample": "sampling",
    "search": "searching neighbors",
    "psnr": "measuring PSNR",
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


def say(verdict: Verdict) -> None:
    """Print a verdict: the headline, the regime of each N, and the sentences."""
    console.print(f"\n[bold]{verdict.headline}[/bold]\n")
    for sentence in verdict.sentences:
        console.print(f"  • {_colored(sentence, verdict.regimes)}", soft_wrap=False)


def _colored(sentence: str, regimes: Mapping[int, str]) -> str:
    for n_train, regime in regimes.items():
        start = f"At N = {n_train:,} "
        if sentence.startswith(start):
            return f"[{_COLORS.get(regime, 'bold')}]{start}[/]{sentence[len(start) :]}"
    return sentence


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
