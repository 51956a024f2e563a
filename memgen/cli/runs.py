"""Commands that list, show and remove runs."""

import json
from typing import Annotated

import typer

from memgen.base.errors import MemgenError
from memgen.cli.options import Json, Outputs
from memgen.cli.root import runs_app
from memgen.cli.shared import finish, flat_rows
from memgen.experiment import runs


@runs_app.command("list")
def runs_list(outputs: Outputs = runs.OUTPUTS, as_json: Json = False) -> None:
    """List the runs, oldest first.

    The status is finished, incomplete (no command works on the run, and a sweep or an audit of it has work left), not
    begun, running, interrupted or failed (as the last command ended), or damaged (a file of the run cannot be read).
    """
    from memgen.cli import terminal

    rows = []
    for run in runs.list_runs(outputs):
        manifest = run.manifest
        cells, largest = None, None
        if run.kind == runs.SWEEP:
            sizes = manifest["config"]["sweep"]["n_train"]
            seeds = manifest["config"]["sweep"]["train_seeds"]
            cells, largest = f"{len(run.cells())} of {2 * len(sizes) * len(seeds)}", max(sizes)
        megabytes = round(runs.size_bytes(run) / 1e6, 1)
        rows.append([run.name, run.kind, manifest["created"][:16], _status(run), cells, largest, megabytes])
    damaged = [runs.Run(path) for path in runs.damaged_runs(outputs)]
    rows += [[run.name, None, None, "damaged", None, None, round(runs.size_bytes(run) / 1e6, 1)] for run in damaged]
    columns = ["run", "kind", "created (UTC)", "status", "trained cells", "largest N", "MB"]
    terminal.table(f"runs in {outputs}", columns, [[*row[:-1], f"{row[-1]:,.1f}"] for row in rows])
    print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2) if as_json else outputs)


def _status(run: runs.Run) -> str:
    """What a run is, in words: its manifest knows how the last command ended, and its files whether work is left."""
    status = str(run.manifest["status"])
    if status != "idle":
        return status
    from memgen.experiment import watch

    try:
        return {"finished": "finished", "waiting": "not begun"}.get(watch.look(run, False).state, "incomplete")
    except MemgenError:
        return "damaged"


@runs_app.command("show")
def runs_show(
    run: Annotated[str | None, typer.Argument(help="Name of the run. Default: the newest run.")] = None,
    outputs: Outputs = runs.OUTPUTS,
    as_json: Json = False,
) -> None:
    """Show the manifest of a run, and the number of rows in each of its tables."""
    from memgen.base import schemas
    from memgen.cli import terminal

    found = runs.find(outputs, run, None)
    manifest = found.manifest | {
        "rows": {kind: found.table(kind).num_rows for kind in schemas.KINDS if kind != "images"}
    }
    if as_json:
        print(json.dumps(manifest, indent=2))
        return
    terminal.table(str(found.path), ["key", "value"], flat_rows(manifest))
    print(found.path)


@runs_app.command("remove")
def runs_remove(
    run: Annotated[str, typer.Argument(help="Name of the run.")],
    outputs: Outputs = runs.OUTPUTS,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a run and everything in it."""
    found = runs.find(outputs, run, None)
    if not yes:
        typer.confirm(f"Delete {found.path} ({runs.size_bytes(found) / 1e6:.1f} MB)?", abort=True)
    runs.remove(found)
    finish(as_json, found.path, removed=True)
