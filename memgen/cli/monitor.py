"""The command monitor: how memorization grew during a training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memgen.base import wording
from memgen.base.errors import ConfigError
from memgen.base.estimates import Estimate
from memgen.cli.options import (
    Condition,
    Config,
    Device,
    Guidance,
    Json,
    Label,
    Outputs,
    Overrides,
    Range,
    RunName,
    Scheduler,
    Sizes,
    SubjectName,
    TrustCode,
)
from memgen.cli.root import app
from memgen.cli.search import PANEL
from memgen.cli.shared import choose_device, choose_subjects, existing, finish, import_options, note, prepared
from memgen.experiment import runs
from memgen.images import remote

if TYPE_CHECKING:
    from memgen.experiment.monitor import Monitor


@app.command(rich_help_panel=PANEL)
def monitor(
    train: Annotated[
        Path | None, typer.Argument(help="Images that the model is trained on: a folder or an array file.")
    ] = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Checkpoints of the training, or folders that hold them. The last number in a name, as in "
            "checkpoint-5000, says how far the training was."
        ),
    ] = None,
    holdout: Annotated[
        Path | None, typer.Option(help="Images of the same source that the model is not trained on.")
    ] = None,
    each: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images seen for each unit of the number in a name: the batch size if it counts steps. Default: 1.",
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Also draw so many samples at each checkpoint, for the memorized fraction."),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(help="Side to which all images are resized, in pixels. Default: their size, if all have one."),
    ] = None,
    value_range: Range = None,
    label: Label = None,
    condition: Condition = None,
    guidance: Guidance = None,
    scheduler: Scheduler = None,
    trust_code: TrustCode = False,
    sizes: Sizes = None,
    subject: SubjectName = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    config: Config = None,
    overrides: Overrides = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show when a model began to generalize and when it began to memorize, from the checkpoints of its training.

    Give the training images and the checkpoints. Each checkpoint denoises the same training and held-out images with
    the same noise, and the difference in PSNR shows memorization. Checkpoints that were measured before are not
    measured again, so the command can be repeated while the training goes on.

    Without arguments, the command takes the checkpoints of a sweep that was made with --set train.checkpoints=8, for
    example: those of the largest trained N, or those that --n or --subject chooses.

    In your own training loop, memgen.Monitor does the same without checkpoints; see docs/monitor.md.
    """
    if train is None:
        others = {"--holdout": holdout, "--each": each, "--resize": resize, "--range": value_range, "--config": config}
        if given := [name for name, value in others.items() if value is not None]:
            raise ConfigError(
                f"{given[0]} is for checkpoints of your own: memgen monitor TRAIN CHECKPOINTS --holdout H."
            )
        _of_run(sizes, subject, outputs, run, device, count or 0, as_json)
        return
    if not checkpoints or holdout is None:
        raise ConfigError(
            "found no checkpoints or no held-out images, expected both: memgen monitor TRAIN CHECKPOINTS --holdout H."
        )
    if sizes or subject:
        raise ConfigError(
            "--n and --subject choose models of a run. Leave them out, or leave out TRAIN and CHECKPOINTS."
        )
    from memgen.base import config as configuration
    from memgen.cli import terminal
    from memgen.experiment import following

    options: dict[str, Any] = {
        "train": remote.absolute(train),
        "holdout": remote.absolute(holdout),
        "each": each,
        "resize": resize,
        "range": value_range,
        "sample": count and {"n_samples": count},
        "checkpoint": import_options(label, condition, guidance, scheduler, trust_code),
    }
    given_options = {key: value for key, value in options.items() if value is not None}
    settings = configuration.load(following.FollowSettings, config, overrides, given_options)
    listed = following.checkpoints(checkpoints, settings.each)
    folder = outputs / (run or following.name_of(listed, settings))
    note(f"readings {folder}")
    with terminal.bar("checkpoints") as progress:
        found = following.follow(listed, settings, folder, choose_device(device), progress)
    _say(folder.name, found)
    finish(as_json, found.keep_figure(), timeline=found.timeline.to_pylist(), drawn=found.drawn.to_pylist())


def _of_run(
    sizes: list[int] | None,
    subject: str | None,
    outputs: Path,
    run: str | None,
    device: str,
    samples: int,
    as_json: bool,
) -> None:
    """Follow the checkpoints of models of a sweep."""
    from memgen.cli import terminal
    from memgen.experiment import following, tasks

    workspace = existing(outputs, run, device)
    names = choose_subjects(workspace, sizes, None, subject)
    found: dict[str, Any] = {}
    path = workspace.run.path
    with prepared(workspace), tasks.threads(workspace.settings.compute.threads):
        for name in names:
            with terminal.bar(f"checkpoints of {name}") as progress:
                followed = following.follow_cell(workspace, name, samples, progress)
            _say(name, followed)
            path = followed.keep_figure()
            found[name] = {"timeline": followed.timeline.to_pylist(), "drawn": followed.drawn.to_pylist()}
    finish(as_json, path, subjects=found)


def _say(name: str, found: "Monitor") -> None:
    """Print the readings, and what they say."""
    from memgen.cli import terminal

    drawn = {row["images_seen"]: row for row in found.drawn.to_pylist()}
    rows = []
    for row in found.timeline.to_pylist():
        ends = ((row["gap"], row["low"], row["high"]), (row["growth"], row["growth_low"], row["growth_high"]))
        shown = [wording.estimate(Estimate.of(*each, unit="dB")) for each in ends]
        sampled = drawn.get(row["images_seen"])
        fraction = sampled and Estimate.of(sampled["memorized_fraction"], sampled["low"], sampled["high"], unit="share")
        last = [wording.estimate(fraction)] if fraction else [None] if drawn else []
        rows.append([row["images_seen"], f"{row['train']:.2f}", f"{row['held_out']:.2f}", *shown, *last])
    columns = ["images seen", "training", "held out", "difference", "its growth"]
    columns += ["memorized fraction"] if drawn else []
    note_ = "PSNR of denoised images in dB; the intervals of all readings hold together"
    terminal.table(name, columns, rows, note_)
    note("")
    note(found.summary())
