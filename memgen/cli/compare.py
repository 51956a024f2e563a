"""The command compare: two models that draw samples from the same noise, of a run or of anyone."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memgen.base import files
from memgen.base.errors import ConfigError
from memgen.cli.measure import measure_cells
from memgen.cli.options import (
    Condition,
    Config,
    Device,
    Guidance,
    Jobs,
    Json,
    Label,
    NewName,
    Outputs,
    Overrides,
    Scheduler,
    Seed,
    Sizes,
    TrustCode,
)
from memgen.cli.root import app
from memgen.cli.search import PANEL
from memgen.cli.shared import New, existing, finish, import_options, prepared, say_warnings
from memgen.experiment import runs
from memgen.images import remote

if TYPE_CHECKING:
    from memgen.base.estimates import Estimate
    from memgen.experiment.workspace import Workspace

_HELD_OUT = 1024  # images on which the models are compared, at most


@app.command(rich_help_panel=PANEL)
def compare(
    first: Annotated[
        str | None,
        typer.Argument(
            help="Name of a subject (see memgen subjects), or with --images a model: a file or a folder (see memgen "
            "import). Default: the two models of the largest N."
        ),
    ] = None,
    second: Annotated[str | None, typer.Argument(help="The subject or model that it is compared with.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="For two models of files: images like those that they draw. Neither needs to be trained on them."
        ),
    ] = None,
    resize: Annotated[
        int | None, typer.Option(help="Side of these images after resizing, in pixels. Default: they keep theirs.")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Number of samples drawn from each model of a file.")] = None,
    bases: Annotated[
        bool, typer.Option("--bases", help="Also compare the bases in which the two models shrink noisy images.")
    ] = False,
    label: Label = None,
    condition: Condition = None,
    guidance: Guidance = None,
    scheduler: Scheduler = None,
    trust_code: TrustCode = False,
    sizes: Sizes = None,
    outputs: Outputs = runs.OUTPUTS,
    run: NewName = None,
    config: Config = None,
    overrides: Overrides = None,
    seed: Seed = None,
    device: Device = "auto",
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Compare two models that draw samples from the same noise, or the two models of each N.

    Shown are the similarity of their samples, beside that of samples from different noise, and how far apart the two
    denoisers are as functions: the mean squared difference of denoised images, and bits per dimension. Models that
    agree though they were trained on different images generalize.

    Two models of files are compared with memgen compare MODEL_A MODEL_B --images FOLDER. The command makes a run and
    imports both; given again, it goes on in that run. What it says of one model, such as --label, holds for both. To
    compare two classes of one model, import it twice.
    """
    given: dict[str, Any] = {"label": label, "condition": condition, "guidance": guidance, "scheduler": scheduler}
    options = import_options(**given, trust_code=trust_code)
    if first is not None and second is None:
        raise ConfigError(f"found one subject, {first}; expected two names, or none. memgen subjects lists the names.")
    if first is not None and sizes:
        raise ConfigError(
            "found two names and --n. Leave out --n, or leave out the names to compare the models of an N."
        )
    if images is not None:
        if first is None or second is None:
            raise ConfigError("--images is for two models of files: memgen compare MODEL_A MODEL_B --images FOLDER.")
        chosen = {"data.source": remote.absolute(images), "data.resize": resize, "sample.n_samples": count}
        new = New(outputs, run, config, overrides, seed, device, {k: v for k, v in chosen.items() if v is not None})
        _pair(*_of_models(new, (first, second), options), bases, as_json)
        return
    only_with_images = {
        "--resize": resize, "--count": count, "--config": config, "--set": overrides, "--seed": seed,
        **{f"--{name}": value for name, value in given.items()}, "--trust-code": trust_code or None,
    }  # fmt: skip
    if stated := [name for name, value in only_with_images.items() if value is not None]:
        raise ConfigError(f"{stated[0]} is for two models of files, and needs --images FOLDER.")
    if first is not None and second is not None and Path(first).exists() and Path(second).exists():
        raise ConfigError(
            f"{first} and {second} are files. To compare two models of files, add --images FOLDER, with images like "
            "those that they draw."
        )
    workspace = existing(outputs, run, device)
    if first is None or second is None:
        if bases:
            raise ConfigError("--bases compares two subjects. Name them, or use memgen basis --n N.")
        measure_cells(workspace, sizes, ("sample", "compare"), jobs, as_json, "similarity")
        return
    _pair(workspace, first, second, bases, as_json)


def _of_models(new: New, sources: tuple[str, str], stated: dict[str, Any]) -> tuple["Workspace", str, str]:
    """A run with two models from files as subjects, and their names."""
    from memgen.base.config import validate
    from memgen.cli import terminal
    from memgen.experiment import make, subjects
    from memgen.models import loading
    from memgen.models.foreign import ImportOptions

    paths = [Path(source) for source in sources]
    for path in paths:
        if not loading.is_model(path):
            raise ConfigError(f"{path}: not a model that memgen reads; see docs/models.md for what a model can be.")
    options = validate(ImportOptions, stated, source="options")
    with terminal.bar("reading images") as progress:
        found = len(make.read_images(new.settings(), progress).images)
    # A run has two training sets, on which nothing is trained here. All other images are held out.
    split = {"split.holdout": max(1, min(_HELD_OUT, found - 2)), "sweep.n_train": (1,)}
    places = [str(path.resolve()) if path.exists() else str(path) for path in paths]
    settings = {name: str(value) for name, value in {**new.given, **split}.items()}
    key = files.digest_json([places, stated, settings, new.overrides, new.seed, str(new.config)])
    workspace = replace(new, run=new.run or f"compare-{key[:6]}", given={**new.given, **split}).open()
    stems = [runs.name_like(Path(place).stem if Path(place).is_file() else Path(place).name) for place in places]
    first, second = stems if stems[0] != stems[1] else (f"{stems[0]}-1", f"{stems[1]}-2")
    with prepared(workspace):
        for name, path in zip((first, second), paths, strict=True):
            if not workspace.run.has_table("subjects", name):
                say_warnings(subjects.import_subject(workspace, path, name, True, options=options).warnings)
            elif not subjects.is_same(workspace, name, path, options):
                raise ConfigError(
                    f"{workspace.run.path} has another model of the name {name}. Choose another run with --run."
                )
    return workspace, first, second


def _pair(workspace: "Workspace", first: str, second: str, bases: bool, as_json: bool) -> None:
    """Compare two subjects of a run, and print what is found."""
    from memgen.cli import terminal
    from memgen.experiment import make, measure, tasks
    from memgen.findings import pairs

    for name in (first, second):
        make.require_denoiser(workspace, name)
    with prepared(workspace), tasks.threads(workspace.settings.compute.threads):
        total = workspace.settings.sample.n_samples
        for name in (first, second):
            with terminal.bar(f"sampling {name}") as progress:
                make.sample_subject(workspace, name, lambda ended, _: progress(ended, total))
        similar = measure.compare_samples(workspace, first, second)
        apart = measure.measure_distances(workspace, first, second)
        overlaps = _overlaps(workspace, first, second) if bases else {}
    found = pairs.summarize(similar, apart, workspace.settings.seed) | overlaps
    columns = ["", "estimate", "low", "high", "n", "unit"]
    rows = [[name, row.estimate, row.low, row.high, row.n, row.unit] for name, row in found.items()]
    terminal.table(f"{first} and {second}, with 95 % intervals", columns, rows)
    path = workspace.run.table_path("similarity", runs.pair_key(first, second))
    finish(as_json, path, subjects=[first, second], summary={name: asdict(row) for name, row in found.items()})


def _overlaps(workspace: "Workspace", first: str, second: str) -> dict[str, "Estimate"]:
    """How much the bases of two subjects have in common, at each noise level of the settings."""
    from memgen.cli import terminal
    from memgen.experiment import geometry
    from memgen.findings import pairs

    found: dict[str, Estimate] = {}
    for sigma in workspace.settings.basis.sigmas:
        with terminal.bar(f"Jacobians at {sigma:g}") as progress:
            _, summary = geometry.measure_basis(workspace, [first, second], sigma, progress=progress)
        found |= pairs.overlaps(summary, sigma, workspace.settings.seed)
    return found
