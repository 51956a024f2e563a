"""Commands that audit anyone's samples against the images that their model was trained on."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memgen.base.errors import ConfigError
from memgen.cli.options import (
    Address,
    Condition,
    Config,
    Device,
    Executor,
    Guidance,
    Json,
    Label,
    NewName,
    Outputs,
    Overrides,
    Range,
    Scheduler,
    SearchesAtATime,
    Seed,
    TrustCode,
)
from memgen.cli.root import app
from memgen.cli.shared import (
    Workers,
    choose_device,
    finish,
    flat_rows,
    import_options,
    note,
    options_of,
    say_warnings,
    searching,
)
from memgen.experiment import runs
from memgen.images import remote
from memgen.images.groups import absolute

if TYPE_CHECKING:
    from memgen.experiment.audit import Audit
    from memgen.experiment.audit_settings import AuditSettings


PANEL = "Audit"
_PAIRS_SHOWN = 10
_FAILS = {"found": ("found",), "undecided": ("found", "undecided")}
FAILED = 6  # exit code of --fail-on


@app.command(rich_help_panel=PANEL)
def audit(
    samples: Annotated[
        Path | None, typer.Argument(help="Generated images: a folder, an archive or a file (docs/images.md).")
    ] = None,
    train: Annotated[Path | None, typer.Argument(help="The images that the model was trained on.")] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="The model itself, in place of SAMPLES: samples are drawn from it, and its denoising of training and "
            "held-out images is compared. See memgen import for what it can be."
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Number of samples drawn from --model (512).")] = None,
    label: Label = None,
    condition: Condition = None,
    guidance: Guidance = None,
    scheduler: Scheduler = None,
    trust_code: TrustCode = False,
    holdout: Annotated[
        Path | None,
        typer.Option(
            help="Images of the same source that the model never saw. Without them, nothing can be concluded."
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="folder|file|name|CSV",
            help="What was divided into training and held-out images as a whole, such as patients: the folder or the "
            "file that an image comes from, the name of the file without the number at its end, or a CSV file with the "
            "columns file and group. Default: what DICOM and NIfTI files state.",
        ),
    ] = None,
    canaries: Annotated[
        Path | None, typer.Option(help="The canaries.json that memgen canaries plant wrote before the training.")
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            help="Space that is searched for copies; may be given several times. Default: pixels, blurred, aligned "
            "(mirrored, shifted, rotated, zoomed, negative) and halves. NAME=FILE adds a network; see docs/spaces.md."
        ),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(help="Side to which all images are resized, in pixels. Default: their size, if all have one."),
    ] = None,
    value_range: Range = None,
    calibrate: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Plant copies of many kinds among the samples so many times, and say what share of them is found.",
        ),
    ] = None,
    probes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Search approximately: divide the images into about sqrt(N) lists of like ones, and look for each "
            "sample in so many of them. How often this finds the nearest image is measured and printed. Default: "
            "search all images, exactly. The space aligned is always searched exactly.",
        ),
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(
            help=f"Exit with code {FAILED} if the answer is found or a sample has the pixels of a training image "
            "(found), or if the answer is undecided too (undecided)."
        ),
    ] = None,
    no_images: Annotated[
        bool, typer.Option("--no-images", help="Show no image on the page; no pixel leaves the run.")
    ] = False,
    outputs: Outputs = runs.OUTPUTS,
    run: NewName = None,
    config: Config = None,
    overrides: Overrides = None,
    seed: Seed = None,
    device: Device = "auto",
    jobs: SearchesAtATime = None,
    executor: Executor = "local",
    address: Address = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Read the images and show what would be searched and tested, and with which settings, but write "
            "nothing.",
            rich_help_panel="Settings of a new run",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Does a model copy its training images? Compare its samples with them, and with held-out images.

    Nothing is trained, and nothing is downloaded. The answer is found, none or undecided, with the pairs behind it and
    an error rate: at most 5 % of the training images that are reported are expected to be false finds. The run holds a
    page with all pairs, tables, and audit.json for programs. If the command is interrupted, give it again.
    With --executor ray or slurm, the machines of a cluster share the search for copies and for near-duplicates. See
    docs/executors.md.
    """
    from memgen.base import config as configuration
    from memgen.experiment import audit as auditing
    from memgen.experiment.audit_settings import AuditSettings

    if fail_on is not None and fail_on not in _FAILS:
        raise ConfigError(f"--fail-on {fail_on}: expected found or undecided.")
    if model is not None and train is not None:
        raise ConfigError(f"found the samples {samples} and --model {model}, expected one of them.")
    if model is not None:
        samples, train = None, samples
    options: dict[str, Any] = {
        "samples": samples and remote.absolute(samples),
        "model": model and str(model.resolve() if model.exists() else model),
        "train": train and remote.absolute(train),
        "holdout": holdout and remote.absolute(holdout),
        "groups": absolute(groups),
        "canaries": canaries and str(canaries.resolve()),
        "spaces": tuple(space) if space else None,
        "probes": probes,
        "resize": resize,
        "range": value_range,
        "calibrate": calibrate,
        "images": False if no_images else None,
        "seed": seed,
        "sample": count and {"n_samples": count},
        "checkpoint": import_options(label, condition, guidance, scheduler, trust_code),
    }
    given = {key: value for key, value in options.items() if value is not None}
    if config is None and ("train" not in given or not {"samples", "model"} & given.keys()):
        raise ConfigError(
            "found no samples or no training images, expected both: memgen audit SAMPLES TRAIN --holdout H, or memgen "
            "audit TRAIN --model MODEL --holdout H."
        )
    settings = configuration.load(AuditSettings, config, overrides, given)
    if dry_run:
        _plan(outputs, run, settings, as_json)
        return
    workers = Workers(jobs, executor, address)
    started = auditing.start(outputs, run, settings)
    done = carry_out(started, as_json, choose_device(device), workers, options_of(workers, device))
    if fail_on is not None and (done.answer.answer in _FAILS[fail_on] or done.answer.identical):
        raise typer.Exit(FAILED)


def _plan(outputs: Path, run: str | None, settings: "AuditSettings", as_json: bool) -> None:
    """Show what an audit would do, without writing anything."""
    from memgen.cli import terminal
    from memgen.experiment import audit as auditing

    with _stages() as on_stage:
        planned = auditing.plan(outputs, run, settings, on_stage)
    data, values = planned.data, settings.model_dump(mode="json")
    shown = {"run": f"{planned.name}, {'which is continued' if planned.there else 'a new one'}"}
    for kind, of in data["sets"].items():
        left_out = f", {of['skipped']:,} files left out" if of["skipped"] else ""
        in_groups = "" if of["groups"] is None else f" in {of['groups']:,} groups"
        size = "x".join(map(str, of["image_shape"]))
        shown[kind.replace("_", "-")] = f"{of['images']:,} of {size}{in_groups} from {of['source']}{left_out}"
    if settings.model is not None:
        shown["samples"] = f"{planned.samples:,}, drawn from {settings.model}"
    shown["spaces"] = ", ".join(data["spaces"])
    shown["tests"] = ", ".join(planned.tests) or "none, since there are no held-out images"
    if planned.least is not None:
        unit = "images" if data["sets"]["train"]["groups"] is None else "groups"
        shown[f"fewest training {unit} that can be found"] = f"about {planned.least:,}"
    shown["comparisons in each space"] = f"{planned.comparisons:,}"
    shown["images on disk"] = f"{planned.disk_bytes / 1e6:.1f} MB"
    terminal.table("settings", ["key", "value"], flat_rows(values))
    terminal.table("audit", ["", ""], [[key, value] for key, value in shown.items()])
    note(data["rule"])
    say_warnings(data["warnings"])
    if as_json:
        print(json.dumps({"settings": values, "audit": asdict(planned)}, indent=2))


def carry_out(
    run: runs.Run,
    as_json: bool,
    device: str = "cpu",
    workers: Workers | None = None,
    options: Mapping[str, Any] | None = None,
) -> "Audit":
    """Do what is missing of an audit, and print what it says.

    Args:
        run: the audit.
        as_json: whether all of it is printed as JSON.
        device: where a model runs.
        workers: who searches.
        options: what the run keeps of the command; see `Run.working`.
    """
    from memgen.experiment import audit as auditing

    note(f"audit {run.path}")
    with searching(run, workers or Workers()) as executor, _stages() as on_stage:
        done = auditing.perform(run, on_stage, device, executor, options)
    _say(done)
    print(json.dumps(done.document, indent=2) if as_json else done.page)
    return done


@contextmanager
def _stages() -> Iterator[Callable[[str, int, int], None]]:
    """Shows what is being done: a bar for each stage on a terminal, and a line for each elsewhere."""
    from memgen.cli import terminal

    with terminal.stages() as show:
        yield show


def _say(done: "Audit") -> None:
    """Print the answer, the closest pairs, and what to know of the images."""
    from memgen.base import wording
    from memgen.cli import terminal

    document = done.document
    for kind, found in document["sets"].items():
        if found["skipped"]:
            note(f"{found['skipped']:,} files of the {kind.replace('_', '-')} set were left out; the page lists them.")
    note(document["rule"])
    say_warnings(document["warnings"])
    rows = [
        [
            pair["sample"],
            pair["training_image"],
            pair["space"],
            None if pair["closeness"] is None else wording.number(pair["closeness"], "correlation"),
            ", ".join(pair["reported_by"]),
        ]
        for pair in document["closest"][:_PAIRS_SHOWN]
    ]
    reported = len(document["discoveries"])
    title = (
        f"pairs of a sample and a training image, those that stand out most first ({reported:,} are reported by a test)"
    )
    terminal.table(title, ["sample", "training image", "space", "similarity", "reported by"], rows)
    note("")
    note(done.answer.headline)
    for sentence in done.answer.sentences:
        note(sentence)


@app.command(rich_help_panel=PANEL)
def verify(
    document: Annotated[Path, typer.Argument(help="The audit.json of an audit, or its run directory.")],
    as_json: Json = False,
) -> None:
    """Check an audit: that no table or image was changed, and that audit.json says what the tables say."""
    from memgen.experiment import audit as auditing

    wrong = auditing.verify(document)
    for sentence in wrong:
        note(sentence)
    note("The audit does not agree with its files." if wrong else "Every file and every number agrees.")
    finish(as_json, document, wrong=wrong)
    if wrong:
        raise typer.Exit(3)
