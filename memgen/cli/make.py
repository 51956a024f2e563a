"""Commands that make subjects and what belongs to them: training, importing, samples, restorations, indexes."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memgen.base.errors import ConfigError
from memgen.cli.options import (
    Condition,
    Config,
    Device,
    EverySize,
    Guidance,
    Jobs,
    Json,
    Label,
    NewName,
    Outputs,
    Overrides,
    Part,
    Range,
    RunName,
    Scheduler,
    Seed,
    Sizes,
    SubjectName,
    TrustCode,
)
from memgen.cli.root import app
from memgen.cli.shared import (
    New,
    Workers,
    check_part,
    choose_cells,
    choose_subjects,
    execute,
    existing,
    finish,
    grown,
    import_options,
    note,
    prepared,
    say_warnings,
    tasks_of,
)
from memgen.experiment import runs

if TYPE_CHECKING:
    pass


PANEL = "Models and samples"


@app.command(rich_help_panel=PANEL)
def train(
    sizes: EverySize = None,
    part: Part = None,
    outputs: Outputs = runs.OUTPUTS,
    run: NewName = None,
    config: Config = None,
    overrides: Overrides = None,
    seed: Seed = None,
    device: Device = "auto",
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Train a denoiser on each half of the images, for one training-set size N or for every N in the settings.

    The command works on the newest run unless --run, --config, --set or --seed is given.
    """
    from memgen.experiment import tasks

    check_part(part)
    new = New(outputs, run, config, overrides, seed, device)
    if new.plain and run is None and any(found.kind == runs.SWEEP for found in runs.list_runs(outputs)):
        new = New(outputs, runs.find(outputs, None).name, config, overrides, seed, device)
    workspace = new.open()
    if sizes and not set(sizes) <= set(workspace.settings.sweep.n_train):
        grown = workspace.settings.sweep.model_copy(update={"n_train": tuple(sizes)})
        workspace = workspace.extended(workspace.settings.model_copy(update={"sweep": grown}))
    every = sizes or list(workspace.settings.sweep.n_train)
    cells = choose_cells(workspace, every, part, trained=False)
    execute(workspace, tasks.tasks(cells, ("train",)), Workers(jobs))
    finish(as_json, workspace.run.path / "denoisers", subjects=[cell.name for cell in cells])


@app.command("import", rich_help_panel=PANEL)
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="A model (a checkpoint, a folder of diffusers, ...; docs/models.md), or samples: a folder or an array "
            "file."
        ),
    ],
    trained_on: Annotated[
        Path | None,
        typer.Option(
            help="Images that the model was trained on: a folder, an array file, or the name of a subject of the run "
            "that was trained on the same."
        ),
    ] = None,
    holdout: Annotated[
        Path | None,
        typer.Option(
            help="Images of the same source that the model never saw. Default: those of the subject that --trained-on "
            "names, or else the held-out images of the run."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the subject in the run. Default: the name of the file or folder.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--as", help="What the source holds: denoiser or samples. Default: decided by the type of file."),
    ] = None,
    value_range: Range = None,
    first_layer_linear: Annotated[
        bool | None,
        typer.Option(
            "--first-layer-linear/--first-layer-relu",
            help="Whether a ReLU follows the first layer of a BF-CNN, where the weights do not tell.",
        ),
    ] = None,
    label: Label = None,
    condition: Condition = None,
    guidance: Guidance = None,
    scheduler: Scheduler = None,
    trust_code: TrustCode = False,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    as_json: Json = False,
) -> None:
    """Bring a denoiser or a set of samples from elsewhere into a run.

    A denoiser is a checkpoint of the paper's authors (UNet, BF-CNN or BF_CNN_RF) or of memgen, a folder of diffusers, a
    program of TorchScript, torch.export or ONNX, a pickle of EDM, or a function of yours. No code of it runs without
    --trust-code. Samples are images that a model has drawn.

    With --trained-on, the imported subject gets what a model of the sweep gets: its nearest training images, the test
    for copies, the memorized fraction and, for a denoiser, the PSNR gap. Without it, memgen measures what it can, and
    says what it cannot. Afterwards: memgen verdict, and memgen report --sweep.
    """
    from memgen.base.config import validate
    from memgen.cli import terminal
    from memgen.experiment import references, subjects
    from memgen.images.arrays import parted
    from memgen.models import loading
    from memgen.models.foreign import ImportOptions

    if kind not in (None, "denoiser", "samples"):
        raise ConfigError(f"--as {kind}: expected denoiser or samples.")
    workspace = existing(outputs, run)
    path, _ = parted(source)
    name = name or (path.stem if path.is_file() else path.resolve().name)
    as_denoiser = loading.is_model(source) if kind is None else kind == "denoiser"
    stated = import_options(label, condition, guidance, scheduler, trust_code, first_layer_linear)
    options = validate(ImportOptions, stated, source="options")
    with prepared(workspace), terminal.bar("importing") as progress:
        record = subjects.import_subject(
            workspace, source, name, as_denoiser, trained_on, holdout, options, progress, value_range
        )
    found = subjects.find(workspace, name)
    shown: dict[str, Any] = {"kind": "denoiser" if as_denoiser else "samples"}
    if as_denoiser:
        shown |= references.about(workspace.run, name)
    else:
        shown["samples"] = 0 if found.samples is None else len(found.samples)
    shown |= {"training images": record.identity.n_train, "held-out images": record.n_held_out}
    rows = [[key, "not known" if value is None else str(value)] for key, value in shown.items()]
    terminal.table(name, ["", "value"], rows)
    skipped = workspace.run.table("subject_skipped", name)
    terminal.say_skipped(skipped)
    say_warnings(record.warnings)
    path = workspace.run.table_path("subjects", name)
    finish(as_json, path, name=name, **shown, skipped_files=skipped.to_pylist(), warnings=record.warnings)


@app.command("subjects", rich_help_panel=PANEL)
def subjects_(
    remove: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Remove an imported model or sample set from the run, with all that was measured of it. What is "
            "removed is shown first.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    as_json: Json = False,
) -> None:
    """List what can be measured in a run: the models of its sweep, and imported models and samples.

    With --remove, an imported one is removed. Models of the sweep cannot be, and the files that it was imported from
    stay where they are. Image sets stay that another subject uses. Summaries and comparisons that it was part of are
    removed too; memgen report --sweep makes the summaries again.
    """
    from memgen.cli import terminal
    from memgen.experiment import subjects

    workspace = existing(outputs, run)
    if remove is not None:
        _remove(workspace.run, remove, yes, as_json)
        return
    found = subjects.records(workspace.run)
    columns = ["name", "origin", "has", "training images", "held-out images", "source"]
    rows = [
        [
            record.identity.subject,
            "sweep" if record.identity.role == "cell" else "imported",
            "denoiser" if record.has_denoiser else "samples",
            record.identity.n_train,
            record.n_held_out,
            record.source,
        ]
        for record in found
    ]
    terminal.table(f"subjects of {workspace.run.path}", columns, rows)
    listed = [record.identity.columns | {"source": record.source} for record in found]
    finish(as_json, workspace.run.path / "tables" / "subjects", subjects=listed)


def _remove(run: runs.Run, name: str, yes: bool, as_json: bool) -> None:
    """Show what is kept of an imported subject, ask, and remove it."""
    from memgen.experiment import removal

    for path in removal.belongings(run, name):
        note(str(path.relative_to(run.path)))
    if not yes:
        typer.confirm(f"Remove {name} from {run.path}, and delete these files and folders?", abort=True)
    removed = removal.remove(run, name)
    if (run.report / "report.html").exists():
        note(f"The report may still show {name}. To write it again: memgen report --sweep --run {run.name}")
    finish(as_json, run.path, name=name, removed=[str(path.relative_to(run.path)) for path in removed])


@app.command(rich_help_panel=PANEL)
def sample(
    sizes: Sizes = None,
    part: Part = None,
    subject: SubjectName = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Change the number of samples of every model in the run. Finished samples are kept, and only the "
            "missing ones are drawn: for all models, or for those chosen with --n, --part or --subject.",
        ),
    ] = None,
    trajectories: Annotated[
        int | None, typer.Option(min=1, help="Also keep the denoised images after every so many updates.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Sampler: stochastic, heun, ddim, ddpm or euler. Default: sample.method of the run. Samples "
            "by another one are kept beside the samples of the run."
        ),
    ] = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Draw samples from denoisers. The two models of each N start from the same noise, whatever the method.

    The method is stochastic reverse diffusion unless the run was made with another one, such as --set
    sample.method=heun, or --method names it. heun and ddim solve the probability flow, euler is that of flow matching,
    and ddpm adds noise after every step. What --method draws is kept in samples/ of the run, where nothing is measured
    of it.

    The settings of the sampler are fixed when the run is made. The number of samples can grow: memgen sample --count
    256 extends a run to 256 samples of each model, as if it had been made with --set sample.n_samples=256. What was
    measured of fewer samples is removed, and memgen sweep --run NAME measures it again. (memgen verdict does so for
    imported models.) Samples are never removed.
    """
    from memgen.cli import terminal
    from memgen.experiment import make, subjects, tasks
    from memgen.models import sampling

    by: sampling.Method | None = next((each for each in sampling.METHODS if each == method), None)
    if method is not None and by is None:
        raise ConfigError(f"--method {method}: expected {', '.join(sampling.METHODS)}.")
    workspace = existing(outputs, run, device)
    every = [record.identity.subject for record in subjects.records(workspace.run) if record.has_denoiser]
    chosen = bool(count is None or sizes or part or subject)
    names = choose_subjects(workspace, sizes, part, subject) if chosen or not every else every
    for name in names:
        make.require_denoiser(workspace, name)
    if count is not None:
        workspace = grown(workspace, workspace.with_samples(count))
    if trajectories or by:
        total = workspace.settings.sample.n_samples
        for name in names:
            with (
                workspace.run.working(),
                tasks.threads(workspace.settings.compute.threads),
                terminal.bar(f"sampling {name}") as progress,
            ):
                make.sample_subject(workspace, name, lambda ended, _: progress(ended, total), trajectories, by)
    else:
        execute(workspace, tasks_of(workspace, names, ("sample",)), Workers(jobs))
    rows, counts = [], {}
    for name in names:
        found = workspace.run.table(*make.samples_place(workspace, name, by)).to_pylist()
        status = [row["status"] for row in found]
        counts[name] = {kind: status.count(kind) for kind in ("converged", "step_cap", "diverged")}
        updates = sorted(row["updates"] for row in found)
        rows.append([name, *counts[name].values(), updates[0], updates[len(updates) // 2], updates[-1]])
    columns = ["subject", "converged", "step cap", "diverged", "fewest updates", "median", "most"]
    terminal.table("samples", columns, rows)
    _, key = make.samples_place(workspace, names[-1], by)
    finish(as_json, workspace.run.samples_path(key), samples=counts)


@app.command(rich_help_panel=PANEL)
def restore(
    task: Annotated[
        str,
        typer.Option(
            help="What is measured of each image: inpainting, random_pixels, super_resolution, random_projections or "
            "low_pass."
        ),
    ],
    amount: Annotated[
        float | None,
        typer.Option(
            help="How much is measured. inpainting: side of the missing square (default: half the image). "
            "random_pixels: share of the pixels that is kept (0.1). super_resolution: side of the averaged blocks (4). "
            "random_projections: share of the dimensions that is kept (0.1). low_pass: highest frequency that is kept, "
            "in cycles per pixel (0.125)."
        ),
    ] = None,
    sizes: Sizes = None,
    part: Part = None,
    subject: SubjectName = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Restore held-out images from a linear measurement of them.

    The sampler is that of memgen sample, restricted to the images that agree with the measurement. The two models of
    each N get the same measurements and the same noise. A picture under report/figures/ and the report show the
    restored images beside the clean ones.
    """
    from memgen.cli import terminal
    from memgen.experiment import make, present, tasks
    from memgen.models import inverse

    workspace = existing(outputs, run, device)
    names = choose_subjects(workspace, sizes, part, subject)
    chosen = inverse.choose(task, amount, workspace.images.image_shape)
    total = min(workspace.settings.restore.n_images, len(workspace.split.holdout))
    with workspace.run.working(), tasks.threads(workspace.settings.compute.threads):
        for name in names:
            with terminal.bar(f"restoring with {name}") as progress:
                path = make.restore_images(workspace, name, chosen, lambda ended, _: progress(ended, total))
        (found,) = present.restored(workspace, label=chosen.label)
        drawn = present.draw_restored(workspace, found)
    summaries = [model.summary for model in found.models if model.summary.subject in names]
    columns = [
        "subject",
        "images",
        "converged",
        "PSNR (dB)",
        "95 % interval",
        "completed by the mean image",
        "measurement alone",
        "A to B",
    ]
    rows = []
    for row in summaries:
        ends = None if row.psnr.low is None else f"[{row.psnr.low:.2f}, {row.psnr.high:.2f}]"
        baselines = (row.filled_psnr_db, row.pseudo_psnr_db, row.twin_psnr_db)
        rows.append([row.subject, row.psnr.n, row.converged, row.psnr.estimate, ends, *baselines])
    title = f"{chosen.label}: {summaries[0].n_measured:,} of {found.dimension:,} numbers are measured"
    terminal.table(title, columns, rows, f"mean PSNR in dB; picture: {drawn[0]}")
    finish(as_json, path, picture=drawn[0], restored=[asdict(row) for row in summaries])


@app.command(rich_help_panel=PANEL)
def index(
    name: Annotated[str | None, typer.Option("--name", help="train_a, train_b or holdout. Default: all three.")] = None,
    sizes: Sizes = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Build the search index of each training set and of the holdout."""
    from memgen.cli import terminal
    from memgen.experiment import measure

    workspace = existing(outputs, run, device)
    wanted = sorted(set(sizes or [max(workspace.settings.sweep.n_train)]))
    note(f"N = {', '.join(map(str, wanted))}")
    rows = []
    with prepared(workspace):
        for n_train in wanted:
            for each in [name] if name else measure.REFERENCES:
                built = measure.build_index(workspace, measure.reference(workspace, each, n_train))
                rows.append([built.name, built.n, built.space.name, built.backend, built.n_clusters])
    terminal.table("indexes", ["index", "images", "metric", "backend", "clusters of near-duplicates"], rows)
    finish(as_json, workspace.run.path / "indexes", indexes=rows)
