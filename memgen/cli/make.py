"""Commands that make denoisers, samples and indexes."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memgen.base.errors import ConfigError
from memgen.cli.options import Config, Device, Jobs, Json, NewName, Outputs, Overrides, Part, RunName, Seed, Size
from memgen.cli.shared import New, choose_cells, existing, extended, finish, prepared
from memgen.experiment import runs

if TYPE_CHECKING:
    from memgen.experiment.workspace import Workspace
from memgen.cli.root import app
from memgen.cli.shared import execute


@app.command()
def train(
    sizes: Annotated[
        list[int] | None,
        typer.Option("--n", min=1, help="Training-set size N; may be repeated. All of the settings if absent."),
    ] = None,
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
    """Train denoisers on parts a and b, for one N or all of the settings.

    On the newest run unless --run, --config, --set or --seed say otherwise.
    """
    new = New(outputs, run, config, overrides, seed, device)
    if new.plain and run is None and runs.list_runs(outputs):
        new = New(outputs, runs.find(outputs, None).name, config, overrides, seed, device)
    workspace = new.open()
    if sizes and not set(sizes) <= set(workspace.settings.sweep.n_train):
        grown = workspace.settings.sweep.model_copy(update={"n_train": tuple(sizes)})
        workspace = extended(workspace, workspace.settings.model_copy(update={"sweep": grown}))
    every = sizes or list(workspace.settings.sweep.n_train)
    cells = choose_cells(workspace, every, part, trained=False)
    execute(workspace, cells, ("train",), jobs)
    finish(as_json, workspace.run.path / "denoisers", denoisers=[cell.name for cell in cells])


@app.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="The authors' .pt (a state dict), or a .safetensors file.")],
    name: Annotated[
        str | None, typer.Option(help="Name of the denoiser in the run; that of the file if absent.")
    ] = None,
    first_layer_linear: Annotated[
        bool | None,
        typer.Option("--first-layer-linear/--first-layer-relu", help="BF-CNN only, where the weights do not say."),
    ] = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Bring a checkpoint of the paper's authors into a run: UNet, BF-CNN (both layouts) or BF_CNN_RF.

    Nothing in the file is executed. Afterwards: memgen sample --denoiser NAME.
    """
    from memgen.cli import terminal
    from memgen.experiment import make
    from memgen.models.foreign import ImportOptions

    workspace = existing(outputs, run, device, seed)
    name = name or checkpoint.stem
    with workspace.run.working():
        found = make.import_denoiser(workspace, checkpoint, name, ImportOptions(first_layer_linear=first_layer_linear))
    shown = found.settings.model_dump() | {"parameters": found.network.parameter_count}
    terminal.table(name, ["", "value"], [[key, str(value)] for key, value in shown.items()])
    finish(as_json, workspace.run.denoiser(name), name=name, **shown)


@app.command()
def sample(
    sizes: Size = None,
    part: Part = None,
    denoiser: Annotated[str | None, typer.Option(help="Name of one denoiser, such as an imported one.")] = None,
    trajectories: Annotated[
        int | None, typer.Option(min=1, help="Keep the denoised images every so many updates.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Restore held-out images instead: inpainting, random_pixels, super_resolution, random_projections or "
            "low_pass."
        ),
    ] = None,
    amount: Annotated[
        float | None,
        typer.Option(
            help="With --task. inpainting: side of the square that is missing (half the image if absent); "
            "random_pixels: share of the pixels kept (0.1); super_resolution: side of the averaged blocks (4); "
            "random_projections: share of d kept (0.1); low_pass: largest frequency kept, cycles per pixel (0.125)."
        ),
    ] = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    seed: Seed = None,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Draw samples by stochastic reverse diffusion, the same noise for both models.

    How many and how is set when the run is made (--set sample.n_samples=...).

    With --task, held-out images are restored from a linear measurement of them: the same sampler, kept to the images
    that agree with the measurement. Both models get the same measurements and the same noise. What they restored is
    shown beside the clean images in a picture under report/figures/, and in the report.
    """
    from memgen.cli import terminal
    from memgen.experiment import make, tasks

    workspace = existing(outputs, run, device, seed)
    if task is not None:
        if trajectories:
            raise ConfigError("--trajectories keeps the way of samples; leave it out, or leave out --task.")
        names = [denoiser] if denoiser else [c.name for c in choose_cells(workspace, sizes, part, trained=True)]
        _restore(workspace, names, task, amount, as_json)
        return
    if amount is not None:
        raise ConfigError("--amount says how much a task measures: name the task with --task, or leave it out.")
    names = [denoiser] if denoiser else []
    if denoiser or trajectories:
        names = names or [cell.name for cell in choose_cells(workspace, sizes, part, trained=True)]
        total = workspace.settings.sample.n_samples
        for name in names:
            with (
                workspace.run.working(),
                tasks.threads(workspace.settings.compute.threads),
                terminal.bar(f"{name} sampling") as progress,
            ):
                make.sample_denoiser(workspace, name, lambda ended, _: progress(ended, total), trajectories)
    else:
        cells = choose_cells(workspace, sizes, part, trained=True)
        names = [cell.name for cell in cells]
        execute(workspace, cells, ("sample",), jobs)
    rows, counts = [], {}
    for name in names:
        found = workspace.run.table("samples", name).to_pylist()
        status = [row["status"] for row in found]
        counts[name] = {kind: status.count(kind) for kind in ("converged", "step_cap", "diverged")}
        updates = sorted(row["updates"] for row in found)
        rows.append([name, *counts[name].values(), updates[0], updates[len(updates) // 2], updates[-1]])
    columns = ["subject", "converged", "step cap", "diverged", "fewest updates", "median", "most"]
    terminal.table("samples", columns, rows)
    finish(as_json, workspace.run.samples(names[-1]), samples=counts)


def _restore(workspace: "Workspace", names: list[str], task: str, amount: float | None, as_json: bool) -> None:
    """Restore held-out images with each denoiser, and say and draw how well."""
    from memgen.cli import terminal
    from memgen.experiment import make, present, tasks
    from memgen.models import inverse

    chosen = inverse.choose(task, amount, workspace.images.image_shape)
    total = min(workspace.settings.restore.n_images, len(workspace.split.holdout))
    with workspace.run.working(), tasks.threads(workspace.settings.compute.threads):
        for name in names:
            with terminal.bar(f"{name} restoring") as progress:
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
        "mean-filled",
        "measured alone",
        "A to B",
    ]
    rows = []
    for row in summaries:
        ends = None if row.psnr.low is None else f"[{row.psnr.low:.2f}, {row.psnr.high:.2f}]"
        baselines = (row.filled_psnr_db, row.pseudo_psnr_db, row.twin_psnr_db)
        rows.append([row.subject, row.psnr.n, row.converged, row.psnr.estimate, ends, *baselines])
    title = f"{chosen.label}: {summaries[0].n_measured:,} of {found.dimension:,} numbers measured"
    terminal.table(title, columns, rows, f"mean PSNR; picture: {drawn[0]}")
    finish(as_json, path, picture=drawn[0], restored=[asdict(row) for row in summaries])


@app.command()
def index(
    name: Annotated[
        str | None, typer.Option("--name", help="train_a, train_b or holdout; all three if absent.")
    ] = None,
    sizes: Size = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Build the FAISS index of each training set and of the holdout."""
    from memgen.cli import terminal
    from memgen.experiment import measure
    from memgen.experiment.workspace import REFERENCES

    workspace = existing(outputs, run, device, seed)
    wanted = sorted(set(sizes or [max(workspace.settings.sweep.n_train)]))
    names = [name] if name else list(REFERENCES)
    rows = []
    with prepared(workspace):
        for n_train in wanted:
            for reference in names:
                built = measure.build_index(workspace, reference, n_train)
                rows.append([built.name, built.n, built.space.name, built.backend, len(set(built.clusters.tolist()))])
    terminal.table("indexes", ["index", "images", "metric", "backend", "duplicate clusters"], rows)
    finish(as_json, workspace.run.path / "indexes", indexes=rows)
