"""Commands for the images of a run: import, inspect, split."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from memgen.base.errors import RunError
from memgen.cli.options import (
    Address,
    Config,
    DryRun,
    Executor,
    Json,
    NewName,
    Outputs,
    Overrides,
    Range,
    RunName,
    SearchesAtATime,
    Seed,
)
from memgen.cli.root import data_app
from memgen.cli.shared import New, Workers, existing, finish, prepared, say_warnings, searching
from memgen.cli.whole import show_plan
from memgen.experiment import runs
from memgen.images import remote
from memgen.images.groups import BY_NAME, absolute

if TYPE_CHECKING:
    from memgen.experiment.settings import RunSettings


@data_app.command("import")
def data_import(
    source: Annotated[
        str | None,
        typer.Argument(
            help="Folder, ZIP or tar of pictures, a single picture, an array file (FILE.npz:NAME for one of several "
            "arrays), Parquet, DICOM or NIfTI, or a URL such as s3://BUCKET/FOLDER. Default: the embedded images."
        ),
    ] = None,
    resize: Annotated[
        int | None, typer.Option(help="Side of the images after resizing, in pixels. Default: your images keep theirs.")
    ] = None,
    value_range: Range = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="folder|file|name|CSV",
            help="Which images belong together (a patient, a volume, a video) and come to one side of the split: those "
            "of a folder, of a file, or of files with one name but for the number at its end, or as a CSV file with "
            "the columns file and group says. Default: what DICOM and NIfTI files state.",
        ),
    ] = None,
    add_to: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="A run whose images come first in the new run, and whose settings of images, split and sizes the new "
            "run takes unless you give others. Near-duplicates are not looked for among these images again.",
        ),
    ] = None,
    outputs: Outputs = runs.OUTPUTS,
    run: NewName = None,
    config: Config = None,
    overrides: Overrides = None,
    seed: Seed = None,
    jobs: SearchesAtATime = None,
    executor: Executor = "local",
    address: Address = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Import images into a run.

    The images are decoded and resized, near-duplicates are removed, and the rest is split into two halves, a and b, and
    a holdout. Every frame of a file is an image. The table `skipped` lists every file that was left out, with the
    reason. The table `duplicates` lists every near-duplicate that was removed. With --executor ray or slurm, the
    machines of a cluster share the search for near-duplicates. See docs/executors.md.
    """
    from memgen.images import importing

    path = None if source is None else remote.absolute(source)
    options = {"data.source": path, "data.resize": resize, "data.range": value_range}
    options["data.groups"] = absolute(groups)
    base: dict[str, Any] | None = None
    if add_to is not None:
        earlier = existing(outputs, add_to)
        options["data.add_to"], base = str(earlier.run.images.resolve()), _prepared_alike(earlier.settings)
    given = {key: value for key, value in options.items() if value is not None}
    new = New(outputs, run, config, overrides, seed, "cpu", given, base=base)
    workers = Workers(jobs, executor, address)
    if dry_run:
        show_plan(new, workers, as_json)
        return
    workspace = new.open()
    with searching(workspace.run, workers) as found, prepared(workspace, found) as counts:
        skipped = workspace.run.table("skipped")
    finish(as_json, workspace.run.images, **counts, skipped_by_reason=importing.by_reason(skipped))


def _prepared_alike(earlier: "RunSettings") -> dict[str, Any]:
    """The settings that prepare and split further images as those of a run, by nested keys."""
    data = earlier.data.model_dump(exclude={"source", "generated", "limit", "add_to"})
    if data["groups"] not in BY_NAME:
        del data["groups"]  # a table names the earlier images, not these
    sizes = {"n_train": earlier.sweep.n_train}
    return {"seed": earlier.seed, "data": data, "split": earlier.split.model_dump(), "sweep": sizes}


@data_app.command("inspect")
def data_inspect(outputs: Outputs = runs.OUTPUTS, run: RunName = None, as_json: Json = False) -> None:
    """Show the number, shape and brightness of a run's images, and which files were skipped and why."""
    from memgen.cli import terminal
    from memgen.experiment.workspace import has_data
    from memgen.images import importing

    workspace = existing(outputs, run)
    counts = dict(workspace.run.manifest["data"] or {}) if has_data(workspace.run) else {}
    if not counts:
        raise RunError(
            f"{workspace.run.path} holds no images. Import some with: memgen data import --run {workspace.run.name}"
        )
    counts |= dict(zip(("mean", "minimum", "maximum"), workspace.images.brightness(), strict=True))
    shown = [[key.replace("_", " "), str(value)] for key, value in counts.items() if key != "warnings"]
    terminal.table("images", ["", "value"], shown)
    say_warnings(counts.get("warnings", []))
    skipped = workspace.run.table("skipped")
    terminal.say_skipped(skipped)
    finish(
        as_json,
        workspace.run.images,
        **counts,
        skipped_by_reason=importing.by_reason(skipped),
        skipped_files=skipped.to_pylist(),
    )


@data_app.command("split")
def data_split(outputs: Outputs = runs.OUTPUTS, run: RunName = None, as_json: Json = False) -> None:
    """Show how many images are in each half and in the holdout, and the largest training set that this allows."""
    from memgen.cli import terminal

    workspace = existing(outputs, run)
    split = workspace.split
    sizes = {"a": len(split.a), "b": len(split.b), "holdout": len(split.holdout), "largest_n": split.n_max}
    terminal.table("split", ["part", "images"], [[key.replace("_", " "), value] for key, value in sizes.items()])
    finish(as_json, workspace.run.table_path("split", "split"), **sizes)
