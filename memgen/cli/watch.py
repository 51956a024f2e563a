"""The command watch: how far a sweep or an audit is that another process works on."""

import contextlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from memgen.base.errors import RunError
from memgen.cli.options import Json, Outputs, RunName
from memgen.cli.root import app
from memgen.cli.shared import note
from memgen.cli.whole import PANEL
from memgen.experiment import runs

if TYPE_CHECKING:
    from memgen.experiment.watch import Page, Status


@app.command(rich_help_panel=PANEL)
def watch(
    seconds: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and do not wait for the end of the run.")] = False,
    no_page: Annotated[
        bool,
        typer.Option(
            "--no-page",
            help="Do not write the page report/watch.html, which a browser loads again and again by itself.",
        ),
    ] = False,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    as_json: Json = False,
) -> None:
    """Show how far a running sweep or audit is: what is done, the loss, first pictures, and the time left.

    Give it in another terminal, or on another machine that shares the folder of the runs. It takes no lock, and changes
    nothing that the work reads or writes. It ends when the run is finished. If the run has stopped, it names the
    command that goes on with it, and exits with code 4.

    With --once or --json, it looks once and exits with code 0.
    """
    from memgen.cli import terminal
    from memgen.experiment import watch as watching

    found = runs.find(outputs, run, None)
    note(f"run {found.path}")
    kept = watching.Page(found, max(1, round(seconds))) if not no_page else None
    status = watching.once(found) if once or as_json else _follow(found, seconds, kept)
    if once and not as_json:
        terminal.console.print(terminal.status(watching.shown(status)))
    if kept and (problem := kept.show(status, wait=True)):
        note(problem)
    if as_json:
        print(json.dumps({"path": str(found.path), "headline": status.headline, **asdict(status)}, indent=2))
        return
    if status.state == "stopped" and not once:
        raise RunError(status.headline)
    print(status.report if status.state == "finished" else kept.path if kept else found.path)


def _follow(run: runs.Run, seconds: float, page: "Page | None") -> "Status":
    """Show a run until it is finished or has stopped: as a table that changes, or as lines off a terminal."""
    from rich.live import Live

    from memgen.cli import terminal
    from memgen.experiment import watch as watching

    console, lines, problem = terminal.console, _Lines(), ""
    drawn = Live(console=console, auto_refresh=False) if console.is_terminal else None
    with drawn or contextlib.nullcontext():
        for status in watching.follow(run, seconds):
            if drawn:
                drawn.update(terminal.status(watching.shown(status, console.height - 6), problem), refresh=True)
            else:
                lines(status)
            if page:
                problem = page.show(status)
    return status


class _Lines:
    """Prints a line for each row of a status that has changed."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._state = ""

    def __call__(self, status: "Status") -> None:
        for row in status.rows:
            if row.state != self._states.get(row.name, "waiting"):
                note(f"  {row.name}: {row.state}")
            self._states[row.name] = row.state
        if status.state not in (self._state, "stopped"):  # an error says the latter
            self._state = status.state
            note(status.headline)
