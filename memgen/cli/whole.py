"""Commands that do the whole experiment, and report it."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memgen.base.errors import ConfigError
from memgen.cli.options import Config, Device, DryRun, Jobs, Json, NewName, OneSize, Outputs, Overrides, RunName, Seed
from memgen.cli.shared import New, choose_cells, choose_device, existing, finish, worker_count
from memgen.experiment import runs

if TYPE_CHECKING:
    from memgen.experiment.workspace import Workspace
    from memgen.findings.verdict import Verdict
from memgen.cli.root import app
from memgen.cli.shared import execute, flat_rows, largest_size


@app.command()
def sweep(
    outputs: Outputs = runs.OUTPUTS,
    run: NewName = None,
    config: Config = None,
    overrides: Overrides = None,
    seed: Seed = None,
    device: Device = "auto",
    jobs: Jobs = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train, sample, search and compare at every N, and write the report.

    The same command goes on where it was interrupted. With --run, a longer sweep.n_train or sweep.train_seeds extends
    a run.
    """
    _sweep(New(outputs, run, config, overrides, seed, device), jobs, dry_run, as_json)


@app.command()
def demo(
    outputs: Outputs = runs.OUTPUTS,
    seed: Seed = None,
    device: Device = "auto",
    jobs: Jobs = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """The main job on the embedded images, in minutes on two CPU cores: a sweep with all settings at their defaults."""
    _sweep(New(outputs, None, None, None, seed, device), jobs, dry_run, as_json)


def _sweep(new: New, jobs: int | None, dry_run: bool, as_json: bool) -> None:
    if dry_run:
        _estimate(new, jobs, as_json)
        return
    workspace = new.open()
    from memgen.experiment.tasks import VERBS

    execute(workspace, workspace.settings.cells, VERBS, jobs)
    write_report(workspace, as_json)


def _estimate(new: New, jobs: int | None, as_json: bool) -> None:
    """Show settings and cost of a sweep without writing anything."""
    from memgen.cli import terminal
    from memgen.experiment import make
    from memgen.experiment.cost import estimate

    settings = new.settings()
    device = choose_device(new.device)
    with terminal.bar("reading images") as progress:
        images = make.read_images(settings, progress)
    cost = estimate(settings, images, device, worker_count(jobs, device, len(settings.cells)))
    shown = {
        "images": len(images),
        "cells (trainings)": cost.cells,
        "time, about": f"{cost.seconds / 60:.1f} min" if cost.seconds < 7200 else f"{cost.seconds / 3600:.1f} h",
        "disk, about": f"{cost.disk_bytes / 1e6:.0f} MB",
    }
    values = settings.model_dump(mode="json")
    terminal.table("settings", ["key", "value"], flat_rows(values))
    terminal.table("cost", ["", ""], [[key, value] for key, value in shown.items()])
    if as_json:
        cost_json = {"cells": cost.cells, "seconds": cost.seconds, "disk_bytes": cost.disk_bytes}
        print(json.dumps({"settings": values, "cost": cost_json}, indent=2))


def write_report(workspace: "Workspace", as_json: bool, n_train: int | None = None) -> None:
    """Write the page and the figures, and print the verdict."""
    from memgen.cli import terminal
    from memgen.experiment import present

    with workspace.run.working():
        verdict, summary, paths = present.write_report(workspace, n_train)
    terminal.say(verdict, summary)
    finish(as_json, paths[0], **said(verdict, summary))


def said(found: "Verdict", summary: Any) -> dict[str, Any]:
    """A verdict and its TRANSITION table for --json."""
    said = {"headline": found.headline, "regimes": found.regimes, "sentences": found.sentences}
    return said | {"summary": summary.to_pylist()}


@app.command()
def report(
    every: Annotated[bool, typer.Option("--sweep", help="Report every N of the run, as one page.")] = False,
    n_train: OneSize = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Write the page and the figures of a run, and say the verdict in words."""
    workspace = existing(outputs, run, device, seed)
    if every and n_train:
        raise ConfigError("--sweep reports every N; leave out --n, or leave out --sweep.")
    write_report(workspace, as_json, None if every else n_train or largest_size(workspace))


@app.command()
def verdict(
    sizes: Annotated[
        list[int] | None, typer.Option("--n", help="Training-set size N; may be repeated. All trained if absent.")
    ] = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    seed: Seed = None,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Test every sample for copies at a controlled rate, and say what a run's measurements support and no more."""
    from memgen.cli import terminal
    from memgen.experiment import present

    workspace = existing(outputs, run, device, seed)
    every = sizes or sorted({cell.n_train for cell in workspace.run.cells()})
    execute(workspace, choose_cells(workspace, every, None, trained=True), ("sample", "search", "copies"), jobs)
    found = present.find(workspace)
    rows = [row for row in found.copies.to_pylist() if row["n_train"] in every]
    columns = [
        "subject",
        "answer",
        "discoveries",
        "alike",
        "attached",
        "k_min",
        "memorized_fraction",
        "low",
        "high",
        "p",
    ]
    title = "training images that samples depend on, and the memorized fraction of each model"
    terminal.table(title, columns, [[row[key] for key in columns] for row in rows])
    pairs = [row for row in found.pairs if row["n_train"] in every]
    if pairs:
        columns = ["subject", "sample", "train_id", "source", "correlation", "W"]
        title = f"samples and the training images that they depend on, {min(len(pairs), 20)} of {len(pairs)}"
        terminal.table(title, columns, [[row[key] for key in columns] for row in pairs[:20]])
    terminal.say(found.verdict, found.transition)
    path = workspace.run.path / "tables" / "copies"
    finish(as_json, path, **said(found.verdict, found.transition), copies=rows, pairs=pairs)
