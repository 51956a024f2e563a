"""Commands that do the whole experiment, and report it."""

import importlib.resources
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memgen.base.errors import ConfigError
from memgen.cli.options import (
    Address,
    Config,
    Device,
    DryRun,
    EverySize,
    Executor,
    Jobs,
    Json,
    NewName,
    OneSize,
    Outputs,
    Overrides,
    RunName,
    Seed,
    SubjectName,
    TasksAtATime,
)
from memgen.cli.root import app
from memgen.cli.shared import (
    New,
    Workers,
    choose_device,
    choose_subjects,
    execute,
    existing,
    finish,
    flat_rows,
    in_minutes,
    largest_size,
    note,
    options_of,
    say_warnings,
    tasks_of,
    worker_count,
)
from memgen.experiment import runs

if TYPE_CHECKING:
    from memgen.experiment.workspace import Workspace
    from memgen.findings.verdict import Verdict


PANEL = "The whole experiment"


@app.command(rich_help_panel=PANEL)
def sweep(
    outputs: Outputs = runs.OUTPUTS,
    run: NewName = None,
    config: Config = None,
    overrides: Overrides = None,
    seed: Seed = None,
    device: Device = "auto",
    jobs: TasksAtATime = None,
    executor: Executor = "local",
    address: Address = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Run the whole experiment: train, sample, search and compare at every N, and write the report.

    If the command is interrupted, give it again: it continues where it stopped. To extend a run, name it with --run and
    give a longer list of sizes or training seeds, for example --set 'sweep.n_train=[1, 16, 256]'.

    With --executor ray or slurm, the machines of a cluster share the work. See docs/executors.md.
    """
    workers = Workers(jobs, executor, address)
    _sweep(New(outputs, run, config, overrides, seed, device, workers=workers), workers, dry_run, as_json)


@app.command(rich_help_panel=PANEL)
def demo(
    outputs: Outputs = runs.OUTPUTS,
    seed: Seed = None,
    device: Device = "auto",
    jobs: Jobs = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Run a small version of the whole experiment on the embedded images, in some minutes on two CPU cores.

    It shows copies at small N and new images at large N. For all sizes and the whole training budget, run memgen sweep.
    """
    config = importlib.resources.files("memgen") / "embedded" / "demo.toml"
    with importlib.resources.as_file(config) as path:
        _sweep(
            New(outputs, "demo" if seed is None else None, path, None, seed, device), Workers(jobs), dry_run, as_json
        )


def _sweep(new: New, workers: Workers, dry_run: bool, as_json: bool) -> None:
    if dry_run:
        show_plan(new, workers, as_json)
        return
    workspace = new.open()
    from memgen.experiment import tasks

    execute(workspace, tasks.tasks(workspace.settings.cells), workers, options_of(workers, new.device))
    write_report(workspace, as_json)


def show_plan(new: New, workers: Workers, as_json: bool) -> None:
    """Show images, settings and cost of a sweep without writing anything."""
    from memgen.cli import terminal
    from memgen.experiment import make
    from memgen.experiment.cost import estimate
    from memgen.experiment.workspace import has_data

    settings = new.settings()
    device = choose_device("auto" if workers.elsewhere else new.device)
    jobs = None if workers.elsewhere else workers.jobs
    workspace = new.there(settings, device)
    if workspace is not None:
        note(f"run {workspace.run.path}")
        settings = workspace.grown(settings)
    if workspace is not None and has_data(workspace.run):
        images, split = workspace.images, workspace.split
        split.training_indices("a", max(settings.sweep.n_train))
    else:
        with terminal.bar("reading images") as progress:
            read = make.read_images(settings, progress)
        images, split = read.images, make.split_images(read.images, settings)
        terminal.say_skipped(read.skipped)
    say_warnings(images.recipe.get("warnings", []))
    trained = () if workspace is None else workspace.run.cells()
    share = sum(cell not in trained for cell in settings.cells) / len(settings.cells)
    cost = estimate(settings, images, device, worker_count(jobs, device, len(settings.cells)))
    cost = replace(cost, cells=round(cost.cells * share), seconds=cost.seconds * share)
    shown = {
        "images": f"{len(images):,} of {'x'.join(map(str, images.image_shape))} from {settings.data.name}",
        "split": f"{len(split.a):,} in part a, {len(split.b):,} in part b, {len(split.holdout):,} held out",
        "cells (trainings)": cost.cells,
        f"time{' on this machine alone' * workers.elsewhere}, about": in_minutes(cost.seconds),
        "disk, about": f"{cost.disk_bytes / 1e6:.0f} MB",
    }
    values = settings.model_dump(mode="json")
    terminal.table("settings", ["key", "value"], flat_rows(values))
    terminal.table("cost", ["", ""], [[key, value] for key, value in shown.items()])
    if as_json:
        cost_json = {"cells": cost.cells, "seconds": cost.seconds, "disk_bytes": cost.disk_bytes}
        parts = {"a": len(split.a), "b": len(split.b), "holdout": len(split.holdout)}
        print(json.dumps({"settings": values, "images": len(images), "split": parts, "cost": cost_json}, indent=2))


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


@app.command(rich_help_panel=PANEL)
def report(
    every: Annotated[
        bool, typer.Option("--sweep", help="Report every N and every imported subject on one page.")
    ] = False,
    n_train: OneSize = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    as_json: Json = False,
) -> None:
    """Write the page and the figures of a run, and print the verdict.

    Without --sweep, the page is about one N: the largest, or the one given with --n.
    """
    workspace = existing(outputs, run)
    if every and n_train:
        raise ConfigError("--sweep reports every N. Leave out --n, or leave out --sweep.")
    write_report(workspace, as_json, None if every else n_train or largest_size(workspace))


@app.command(rich_help_panel=PANEL)
def verdict(
    sizes: EverySize = None,
    subject: SubjectName = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Test every sample for copies in two ways, and say what the measurements of the run support.

    What is missing is measured first, for the trained models and for imported subjects: samples are drawn, their
    nearest training images are searched, and the PSNR of imported denoisers is measured. Without --n and --subject, all
    subjects are tested.
    """
    from memgen.cli import terminal
    from memgen.experiment import present, subjects

    workspace = existing(outputs, run, device)
    if sizes or subject:
        names = choose_subjects(workspace, sizes, None, subject)
    else:
        names = [record.identity.subject for record in subjects.records(workspace.run)]
    cells = [name for name in names if subjects.find(workspace, name).identity.role == "cell"]
    others = [name for name in names if name not in cells]
    listed = tasks_of(workspace, cells, ("sample", "search", "copies"))
    listed += tasks_of(workspace, others, ("sample", "search", "copies", "psnr"))
    execute(workspace, listed, Workers(jobs))
    found = present.find(workspace)
    rows = [row for row in found.copies.to_pylist() if row["subject"] in names]
    columns = {
        "subject": "subject",
        "answer": "competition",
        "discoveries": "images found",
        "alike": "of these alike",
        "attached": "further samples",
        "flagged": "samples flagged",
        "closest": "closest pair",
        "memorized_fraction": "memorized fraction",
    }
    title = "what the tests for copies found of each subject"
    terminal.table(title, list(columns.values()), [[row[key] for key in columns] for row in rows])
    pairs = [row for row in found.pairs if row["subject"] in names]
    reported = sum(bool(row["reported_by"]) for row in pairs)
    shown = sorted(pairs, key=lambda row: (not row["reported_by"], -row["W"]))[:20]
    if shown:
        columns = {
            "subject": "subject",
            "sample": "sample",
            "source": "training image",
            "correlation": "correlation",
            "W": "depth",
            "reported_by": "reported by",
        }
        title = (
            f"the closest pairs of a sample and a training image, {len(shown)} of {len(pairs):,} "
            f"({reported:,} are reported by a test)"
        )
        terminal.table(title, list(columns.values()), [[row[key] for key in columns] for row in shown])
    terminal.say(found.verdict, found.transition)
    path = workspace.run.path / "tables" / "copies"
    finish(as_json, path, **said(found.verdict, found.transition), copies=rows, pairs=pairs)
