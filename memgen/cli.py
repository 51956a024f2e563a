"""The command line: parse, call one function, show a table, print where it was written.

Results go to stdout (the path written, or JSON with --json), everything else to stderr. No stage is imported before a
command needs it, so `memgen --help` is instant.
"""

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import memgen
from memgen import runs
from memgen.errors import ConfigError, RunError
from memgen.options import (
    Config,
    Device,
    DryRun,
    Jobs,
    Json,
    New,
    NewName,
    OneSize,
    Outputs,
    Overrides,
    Part,
    RunName,
    Seed,
    Size,
    choose_cells,
    choose_device,
    existing,
    extended,
    finish,
    note,
    prepared,
    worker_count,
)

if TYPE_CHECKING:
    from memgen.images import ImageSet
    from memgen.sweep import Verb
    from memgen.verdict import Verdict
    from memgen.workspace import Workspace

_EXIT_CODES = (
    "Exit codes: 0 done, 1 other error, 2 wrong usage or settings, 3 unusable data, 4 run missing, locked or "
    "incomplete, 5 disk full or not writable, 130 interrupted."
)

app = typer.Typer(
    help="Does an image denoiser or diffusion model memorize its training set, or generalize?\n\n"
    "Commands work on a run, a directory under outputs/: the newest one, or the one named by --run. "
    "Start with `memgen demo`, or with `memgen data import FOLDER`. A command that was interrupted goes on where it "
    "was when it is given again.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="markdown",  # which lets paragraphs flow
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Import, inspect and split the images of a run.", no_args_is_help=True)
runs_app = typer.Typer(help="List, show and remove runs.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(runs_app, name="runs")


def _version(value: bool) -> None:
    if value:
        print(f"memgen {memgen.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """See the help given to Typer above."""


def _execute(workspace: "Workspace", cells: list[runs.Cell], verbs: tuple["Verb", ...], jobs: int | None) -> None:
    """Run tasks with bars, holding the lock."""
    from memgen import results, sweep, terminal

    listed = sweep.tasks(cells, verbs)

    def on_pair(name: str) -> str:
        cell = runs.Cell.parse(f"{name}-a")
        assert cell is not None
        medians = results.pair_medians(workspace, cell.n_train, cell.train_seed)
        return f"median {workspace.settings.search.metric}: " + ", ".join(
            f"{name} {value:.3f}" for name, value in medians.items()
        )

    with prepared(workspace), terminal.bars(listed, on_pair) as on_event:
        sweep.execute(workspace, listed, worker_count(jobs, workspace.device, len(listed)), on_event)


# ----------------------------------------------------------------------------------------------- data


@data_app.command("import")
def data_import(
    source: Annotated[
        str | None, typer.Argument(help="Folder, .npy, .npz, IDX or .pt file; the embedded images if absent.")
    ] = None,
    resize: Annotated[
        int | None, typer.Option(help="Side of the images after resizing; your own keep their size if absent.")
    ] = None,
    outputs: Outputs = runs.OUTPUTS,
    run: NewName = None,
    config: Config = None,
    overrides: Overrides = None,
    seed: Seed = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Import images into a run: decode, resize, remove near-duplicates, split into a, b and holdout.

    Every file that is skipped is listed in the table skipped, every near-duplicate removed in the table duplicates.
    """
    given = list(overrides or [])
    if source is not None:
        given.append(f"data.source={json.dumps(str(Path(source).resolve()))}")
    if resize is not None:
        given.append(f"data.resize={resize}")
    workspace = New(outputs, run, config, given, seed, device).open()
    with prepared(workspace) as counts:
        pass
    finish(as_json, workspace.run.images, **counts)


@data_app.command("inspect")
def data_inspect(
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Show what a run's images are, and which files were skipped and why."""
    from memgen import terminal
    from memgen.workspace import has_data

    workspace = existing(outputs, run, device, seed)
    counts = dict(workspace.run.manifest["data"] or {}) if has_data(workspace.run) else {}
    if not counts:
        raise RunError(
            f"{workspace.run.path} holds no images. Import some: memgen data import --run {workspace.run.name}."
        )
    pixels = workspace.images.floats(None)
    counts |= {"mean": float(pixels.mean()), "minimum": float(pixels.min()), "maximum": float(pixels.max())}
    terminal.table("images", ["", "value"], [[key, str(value)] for key, value in counts.items()])
    skipped = workspace.run.table("skipped").to_pylist()
    if skipped:
        rows = [[row["source"], row["reason"]] for row in skipped[:20]]
        terminal.table(f"skipped files ({len(rows)} of {len(skipped)})", ["file", "reason"], rows)
    finish(as_json, workspace.run.images, **counts, skipped_files=skipped)


@data_app.command("split")
def data_split(
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Show the split of a run into a, b and holdout, and the training-set sizes that it allows."""
    from memgen import terminal

    workspace = existing(outputs, run, device, seed)
    split = workspace.split
    sizes = {"a": len(split.a), "b": len(split.b), "holdout": len(split.holdout), "largest_n": split.n_max}
    terminal.table("split", ["part", "images"], [[key, value] for key, value in sizes.items()])
    finish(as_json, workspace.run.table_path("split", "split"), **sizes)


# ----------------------------------------------------------------------------------------------- stages


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
    _execute(workspace, cells, ("train",), jobs)
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
    from memgen import steps, terminal
    from memgen.checkpoints import ImportOptions

    workspace = existing(outputs, run, device, seed)
    name = name or checkpoint.stem
    with workspace.run.working():
        found = steps.import_denoiser(workspace, checkpoint, name, ImportOptions(first_layer_linear=first_layer_linear))
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
    from memgen import steps, sweep, terminal

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
                sweep.threads(workspace.settings.compute.threads),
                terminal.bar(f"{name} sampling") as progress,
            ):
                steps.sample_denoiser(workspace, name, lambda ended, _: progress(ended, total), trajectories)
    else:
        cells = choose_cells(workspace, sizes, part, trained=True)
        names = [cell.name for cell in cells]
        _execute(workspace, cells, ("sample",), jobs)
    rows, counts = [], {}
    for name in names:
        found = workspace.run.table("samples", name).to_pylist()
        status = [row["status"] for row in found]
        counts[name] = {kind: status.count(kind) for kind in ("converged", "step_cap", "diverged")}
        updates = sorted(row["updates"] for row in found)
        rows.append([name, *counts[name].values(), updates[0], updates[len(updates) // 2], updates[-1]])
    columns = ["denoiser", "converged", "step cap", "diverged", "fewest updates", "median", "most"]
    terminal.table("samples", columns, rows)
    finish(as_json, workspace.run.samples(names[-1]), samples=counts)


def _restore(workspace: "Workspace", names: list[str], task: str, amount: float | None, as_json: bool) -> None:
    """Restore held-out images with each denoiser, and say and draw how well."""
    from memgen import inverse, results, steps, sweep, terminal

    chosen = inverse.choose(task, amount, workspace.images.image_shape)
    total = min(workspace.settings.restore.n_images, len(workspace.split.holdout))
    with workspace.run.working(), sweep.threads(workspace.settings.compute.threads):
        for name in names:
            with terminal.bar(f"{name} restoring") as progress:
                path = steps.restore_images(workspace, name, chosen, lambda ended, _: progress(ended, total))
        (found,) = results.restored(workspace, label=chosen.label)
        drawn = results.draw_restored(workspace, found)
    summaries = [model.summary for model in found.models if model.summary.denoiser in names]
    columns = [
        "denoiser",
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
        rows.append([row.denoiser, row.psnr.n, row.converged, row.psnr.estimate, ends, *baselines])
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
    from memgen import measure, terminal
    from memgen.workspace import REFERENCES

    workspace = existing(outputs, run, device, seed)
    wanted = sorted(set(sizes or [max(workspace.settings.sweep.n_train)]))
    names = [name] if name else list(REFERENCES)
    rows = []
    with prepared(workspace):
        for n_train in wanted:
            for reference in names:
                built = measure.build_index(workspace, reference, n_train)
                rows.append([built.name, built.n, built.metric, built.backend, len(set(built.clusters.tolist()))])
    terminal.table("indexes", ["index", "images", "metric", "backend", "duplicate clusters"], rows)
    finish(as_json, workspace.run.path / "indexes", indexes=rows)


@app.command("nn-search")
def nn_search(
    queries: Annotated[
        Path | None,
        typer.Argument(
            help="Your own images (a picture, a folder of them, or an array file); the run's samples if absent."
        ),
    ] = None,
    index: Annotated[str, typer.Option(help="Index searched: train_a, train_b or holdout.")] = "train_a",
    n_train: OneSize = None,
    k: Annotated[
        int | None, typer.Option(min=1, help="Neighbors of each query; that of the settings if absent.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="correlation, cosine or rmse; that of the settings if absent.")
    ] = None,
    denoiser: Annotated[
        str | None, typer.Option(help="Whose samples; the model trained on the index's part if absent.")
    ] = None,
    lpips: Annotated[
        Path | None, typer.Option(help="Also rank the neighbors by LPIPS, with this file as its trunk.")
    ] = None,
    lpips_net: Annotated[str, typer.Option(help="Which trunk that is: alex or vgg.")] = "alex",
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Find the nearest training images of samples, or of your own images, and of the holdout for comparison."""
    from memgen import measure

    workspace = existing(outputs, run, device, seed)
    own = n_train or _largest(workspace)
    with workspace.run.working():
        images = _read_queries(workspace, queries) if queries is not None else None
        if images is not None:
            table = measure.search_images(workspace, images, index, own, metric, k)
        else:
            part = "b" if index == "train_b" else "a"
            name = denoiser or runs.Cell(own, min(workspace.settings.sweep.train_seeds), part).name
            table = measure.search_samples(workspace, name, index, own, metric, k)
        null = (
            None if index == "holdout" else measure.search_holdout(workspace, index, own, metric, k if lpips else None)
        )
        _show_neighbors(table, null, index, own)
        result = {"neighbors": table.to_pylist()} if as_json else {}
        if lpips is not None:
            if null is not None:  # as many images as there are queries, since LPIPS costs far more than the search
                null = measure.rerank(workspace, null.slice(0, len(table)), lpips, lpips_net)
            table = measure.rerank(workspace, table, lpips, lpips_net, images)
            _show_neighbors(table, null, index, own)
            result |= {"reranked": table.to_pylist()} if as_json else {}
    finish(as_json, workspace.run.path / "tables" / "neighbors", **result)


def _largest(workspace: "Workspace") -> int:
    trained = [cell.n_train for cell in workspace.run.cells()]
    found = max(trained or workspace.settings.sweep.n_train)
    note(f"N = {found}")
    return found


def _read_queries(workspace: "Workspace", source: Path) -> "ImageSet":
    """A person's images, prepared as the run's were; none is removed as a duplicate."""
    from memgen.importers import import_images

    channels, side, _ = workspace.images.image_shape
    color = "gray" if channels == 1 else "rgb"
    settings = workspace.settings.data.model_copy(
        update={"deduplicate": False, "limit": None, "resize": side, "color": color}
    )
    return import_images(source, settings, seed=workspace.settings.seed).images


def _show_neighbors(table: Any, null: Any, index: str, n_train: int) -> None:
    import numpy as np

    from memgen import terminal

    rows = [row for row in table.to_pylist() if row["rank"] == 1]
    shown = [[row["query"], row["reference_id"], row["cluster"], row["value"]] for row in rows[:10]]
    values = [row["value"] for row in rows if row["value"] is not None]
    note = f"median of {len(rows)} queries: {np.median(values):.4f}" if values else "no value is defined"
    if null is not None:
        held = [row["value"] for row in null.to_pylist() if row["rank"] == 1 and row["value"] is not None]
        note += f"; median of {len(held)} held-out images, the null: {np.median(held):.4f}"
    metric = rows[0]["metric"] if rows else ""
    terminal.table(
        f"nearest in {index} (N = {n_train}), first {len(shown)}", ["query", "image", "cluster", metric], shown, note
    )


@app.command()
def compare(
    sizes: Size = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    seed: Seed = None,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Compare the two models of each N: samples from the same noise against the nulls, and the denoisers themselves."""
    _measure(outputs, run, device, seed, sizes, ("sample", "compare"), jobs, as_json, "similarity")


@app.command()
def psnr(
    sizes: Size = None,
    denoiser: Annotated[str | None, typer.Option(help="Name of one denoiser, such as an imported one.")] = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    seed: Seed = None,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Measure denoising PSNR against noise level, on training and held-out images."""
    if denoiser:
        _measure_one(existing(outputs, run, device, seed), denoiser, as_json)
        return
    _measure(outputs, run, device, seed, sizes, ("psnr", "references"), jobs, as_json, "psnr")


@app.command()
def basis(
    images: Annotated[
        Path | None,
        typer.Argument(
            help="Your own clean images (a picture, a folder of them, or an array file); held-out ones if absent."
        ),
    ] = None,
    sizes: Size = None,
    denoiser: Annotated[
        str | None, typer.Option(help="Name of one imported denoiser, instead of the two models of an N.")
    ] = None,
    sigmas: Annotated[
        list[float] | None,
        typer.Option("--sigma", help="Noise level, pixel units; may be repeated. Those of the run if absent."),
    ] = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Take the Jacobians of both models of an N apart: the basis in which each shrinks a noisy image.

    Near a noisy image a denoiser multiplies the image's coefficients in a basis of its own, the eigenvectors of its
    Jacobian, by shrinkage factors, the eigenvalues. Shown are how many dimensions are kept (the trace); whether the
    model could be a posterior mean at all (asymmetry and negative eigenvalues, both 0 for one); what the trace says of
    the error (Stein's estimate and sigma^2 tr J / d, over the true one); and how far its basis is that of its twin, of
    slow cosines, or of the principal components of all training images, beside what random bases would give.

    Models that generalize share their basis; models that memorized different images do not. How many images is set when
    the run is made (--set basis.n_images=16). Of images of more than 6,400 numbers the basis.vectors largest
    eigenvalues are found, and sums over all of them are estimated. It is no part of a sweep; afterwards memgen report
    --sweep shows the eigenvectors. Those of your own images are drawn at once, under report/figures/.
    """
    import pyarrow as pa

    from memgen import geometry, results, sweep, terminal
    from memgen.basis import readings

    workspace = existing(outputs, run, device, seed)
    levels = sorted(set(sigmas or workspace.settings.basis.sigmas))
    models = _twins(workspace, sizes, denoiser)
    measured, drawn = [], []
    with prepared(workspace), sweep.threads(workspace.settings.compute.threads):
        own = None if images is None else _read_queries(workspace, images)
        for (label, names), sigma in itertools.product(models, levels):
            with terminal.bar(f"{label}, sigma {sigma:g}: Jacobians") as progress:
                measured.append(geometry.measure_basis(workspace, names, sigma, own, progress)[1])
        if own:
            drawn = results.draw_bases(workspace, models, levels, own)
    found = readings(pa.concat_tables(measured), workspace.settings.seed)
    terminal.say_basis(found)
    path = drawn[0] if drawn else workspace.run.path / "tables" / "basis_summary"
    finish(as_json, path, readings=[asdict(reading) for reading in found])


def _twins(workspace: "Workspace", sizes: list[int] | None, denoiser: str | None) -> list[tuple[str, tuple[str, ...]]]:
    """What both models of each N and training seed asked for, or one imported denoiser, are called; and their names."""
    from memgen.tables import model_label

    if denoiser is None:
        pairs = {(cell.n_train, min(cell, cell.twin)) for cell in choose_cells(workspace, sizes, None, trained=True)}
        return [(model_label(n, None), (cell.name, cell.twin.name)) for n, cell in sorted(pairs)]
    if sizes or runs.Cell.parse(denoiser):
        raise ConfigError(
            f"--denoiser {denoiser}: expected an imported denoiser, and no --n; for trained ones give --n alone."
        )
    return [(model_label(None, denoiser), (denoiser,))]


def _measure(
    outputs: Path,
    run: str | None,
    device: str,
    seed: int | None,
    sizes: list[int] | None,
    verbs: tuple["Verb", ...],
    jobs: int | None,
    as_json: bool,
    kind: str,
) -> None:
    from memgen import results, terminal

    workspace = existing(outputs, run, device, seed)
    cells = choose_cells(workspace, sizes, None, trained=True)
    _execute(workspace, cells, verbs, jobs)
    wanted = {cell.n_train for cell in cells}
    found = [row for row in results.summary(workspace).to_pylist() if row["n_train"] in wanted]
    shown = [row for row in found if row["estimate"] is not None and row["quantity"] in _QUANTITIES[kind]]
    columns = ["n_train", "quantity", "estimate", "low", "high", "n", "unit"]
    terminal.table("medians and means, with 95 % intervals", columns, [[row[key] for key in columns] for row in shown])
    finish(as_json, workspace.run.path / "tables" / kind, summary=shown)


def _measure_one(workspace: "Workspace", name: str, as_json: bool) -> None:
    """PSNR of one denoiser, by noise level."""
    import numpy as np

    from memgen import measure, sweep, terminal

    with prepared(workspace), sweep.threads(workspace.settings.compute.threads):
        found = measure.measure_psnr(workspace, name).to_pylist()
    groups: dict[tuple[str, float, float], list[float]] = {}
    for row in found:
        group = groups.setdefault((row["kind"], row["sigma"], row["input_psnr_db"]), [])
        group += [] if row["output_psnr_db"] is None else [row["output_psnr_db"]]
    columns = ["images", "sigma", "input PSNR (dB)", "mean output PSNR (dB)"]
    means = [[*key, float(np.mean(values)) if values else None] for key, values in sorted(groups.items())]
    terminal.table(name, columns, means)
    path = workspace.run.table_path("psnr", name)
    finish(as_json, path, curve=[dict(zip(columns, row, strict=True)) for row in means])


_QUANTITIES = {
    "similarity": ("cross_same", "cross_different", "cross_minus_null", "train_train", "disagreement", "bits"),
    "psnr": ("psnr_gap", "to_linear", "to_optimum"),
}


# ----------------------------------------------------------------------------------------------- the whole


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
    from memgen.sweep import VERBS

    _execute(workspace, workspace.settings.cells, VERBS, jobs)
    _write_report(workspace, as_json)


def _estimate(new: New, jobs: int | None, as_json: bool) -> None:
    """Show settings and cost of a sweep without writing anything."""
    from memgen import steps, sweep, terminal

    settings = new.settings()
    device = choose_device(new.device)
    with terminal.bar("reading images") as progress:
        images = steps.read_images(settings, progress)
    cost = sweep.estimate(settings, images, device, worker_count(jobs, device, len(settings.cells)))
    shown = {
        "images": len(images),
        "cells (trainings)": cost.cells,
        "time, about": f"{cost.seconds / 60:.1f} min" if cost.seconds < 7200 else f"{cost.seconds / 3600:.1f} h",
        "disk, about": f"{cost.disk_bytes / 1e6:.0f} MB",
    }
    values = settings.model_dump(mode="json")
    terminal.table("settings", ["key", "value"], _flat(values))
    terminal.table("cost", ["", ""], [[key, value] for key, value in shown.items()])
    if as_json:
        cost_json = {"cells": cost.cells, "seconds": cost.seconds, "disk_bytes": cost.disk_bytes}
        print(json.dumps({"settings": values, "cost": cost_json}, indent=2))


def _flat(values: dict[str, Any], prefix: str = "") -> list[list[str]]:
    rows: list[list[str]] = []
    for key, value in values.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [[f"{prefix}{key}", json.dumps(value)]]
    return rows


def _write_report(workspace: "Workspace", as_json: bool, n_train: int | None = None) -> None:
    from memgen import results, terminal

    with workspace.run.working():
        verdict, summary, paths = results.write_report(workspace, n_train)
    terminal.say(verdict, summary)
    finish(as_json, paths[0], **_said(verdict, summary))


def _said(found: "Verdict", summary: Any) -> dict[str, Any]:
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
    _write_report(workspace, as_json, None if every else n_train or _largest(workspace))


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
    from memgen import results, terminal

    workspace = existing(outputs, run, device, seed)
    every = sizes or sorted({cell.n_train for cell in workspace.run.cells()})
    _execute(workspace, choose_cells(workspace, every, None, trained=True), ("sample", "search", "copies"), jobs)
    found = results.find(workspace)
    rows = [row for row in found.copies.to_pylist() if row["n_train"] in every]
    columns = [
        "denoiser",
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
        columns = ["denoiser", "sample", "train_id", "source", "correlation", "W"]
        title = f"samples and the training images that they depend on, {min(len(pairs), 20)} of {len(pairs)}"
        terminal.table(title, columns, [[row[key] for key in columns] for row in pairs[:20]])
    terminal.say(found.verdict, found.transition)
    path = workspace.run.path / "tables" / "copies"
    finish(as_json, path, **_said(found.verdict, found.transition), copies=rows, pairs=pairs)


@app.command()
def calibrate(
    n_train: OneSize = None,
    repeats: Annotated[
        int | None, typer.Option(min=2, help="Redraws of the images; 20 if absent. More go on from fewer.")
    ] = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Try the test for copies on the run's own images: sample sets whose answer is known must be read as what they are.

    Size (nothing is found where nothing is copied), power (how much of planted copies is found) and the coverage of
    intervals, at one N. The report carries the result.
    """
    from memgen import calibration, measure, sweep, terminal

    workspace = existing(outputs, run, device, seed)
    size = n_train or _largest(workspace)
    with (
        prepared(workspace),
        sweep.threads(workspace.settings.compute.threads),
        terminal.bar(f"calibrating at N = {size}") as progress,
    ):
        found = measure.calibrate(workspace, size, repeats or calibration.REPEATS, progress)
    readings = calibration.readings(found)
    terminal.say_calibration(readings, size)
    path = workspace.run.path / "tables" / "calibration"
    finish(as_json, path, n_train=size, readings=[asdict(reading) for reading in readings])


@app.command()
def slopes(
    low_db: Annotated[float, typer.Option(help="Least input PSNR of the range, dB.")] = 0.0,
    high_db: Annotated[
        float, typer.Option(help="Largest input PSNR of the range, dB; the paper's are 0 and 34.")
    ] = 34.0,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Compare the slope of output over input PSNR with theory, an oracle in wavelets, and wavelet thresholding.

    Of every denoiser of the run, on held-out images. On generated manifolds also the gain in PSNR. The report carries
    the result.
    """
    from memgen import results, sweep, terminal
    from memgen.slopes import label

    workspace = existing(outputs, run, device, seed)
    with (
        prepared(workspace),
        sweep.threads(workspace.settings.compute.threads),
        terminal.bar("measuring PSNR") as progress,
    ):
        found = results.measure_slopes(workspace, low_db, high_db, progress).to_pylist()
    wanted = {
        "mean PSNR (dB)": ("level_db", "level_low", "level_high"),
        "slope": ("slope", "low", "high"),
        "theory": ("theory",),
        "slope over the oracle's": _OVER_ORACLE,
    }
    if any(row["gain_theory"] for row in found):
        wanted |= {"gain (dB)": ("gain_db", "gain_low", "gain_high"), "theory (dB)": ("gain_theory",)}
    rows = [[label(row), *(_interval(*(row[key] for key in keys)) for keys in wanted.values())] for row in found]
    span = f"{found[0]['low_db']:.1f} to {found[0]['high_db']:.1f} dB, {found[0]['n_levels']} noise levels"
    title = f"slope of output over input PSNR on held-out images, {span}, with 95 % intervals"
    terminal.table(title, ["denoiser", *wanted], rows)
    finish(as_json, workspace.run.table_path("slopes", "slopes"), slopes=found)


_OVER_ORACLE = ("over_oracle", "over_oracle_low", "over_oracle_high")


def _interval(estimate: float | None, low: float | None = None, high: float | None = None) -> str | None:
    if estimate is None:
        return None
    return f"{estimate:.3f}" if low is None else f"{estimate:.3f}\n[{low:.3f}, {high:.3f}]"


# ----------------------------------------------------------------------------------------------- runs


@runs_app.command("list")
def runs_list(outputs: Outputs = runs.OUTPUTS, as_json: Json = False) -> None:
    """List the runs, oldest first."""
    from memgen import terminal

    rows = []
    for run in runs.list_runs(outputs):
        manifest = run.manifest
        sizes = manifest["config"]["sweep"]["n_train"]
        seeds = manifest["config"]["sweep"]["train_seeds"]
        cells = f"{len(run.cells())} of {2 * len(sizes) * len(seeds)}"
        megabytes = runs.size_bytes(run) / 1e6
        rows.append([run.name, manifest["created"][:16], manifest["status"], cells, max(sizes), round(megabytes, 1)])
    damaged = [runs.Run(path) for path in runs.damaged_runs(outputs)]
    rows += [[run.name, None, "damaged", None, None, round(runs.size_bytes(run) / 1e6, 1)] for run in damaged]
    columns = ["run", "created (UTC)", "status", "trained cells", "largest N", "MB"]
    terminal.table(f"runs in {outputs}", columns, rows)
    print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], indent=2) if as_json else outputs)


@runs_app.command("show")
def runs_show(
    run: Annotated[str | None, typer.Argument(help="Name of the run; the newest if absent.")] = None,
    outputs: Outputs = runs.OUTPUTS,
    as_json: Json = False,
) -> None:
    """Show a run's manifest, and how many rows its tables have."""
    from memgen import tables, terminal

    found = runs.find(outputs, run)
    manifest = found.manifest | {
        "rows": {kind: found.table(kind).num_rows for kind in tables.SCHEMAS if kind != "images"}
    }
    if as_json:
        print(json.dumps(manifest, indent=2))
        return
    terminal.table(str(found.path), ["key", "value"], _flat(manifest))
    print(found.path)


@runs_app.command("remove")
def runs_remove(
    run: Annotated[str, typer.Argument(help="Name of the run.")],
    outputs: Outputs = runs.OUTPUTS,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a run and all that is in it."""
    found = runs.find(outputs, run)
    if not yes:
        typer.confirm(f"Delete {found.path} ({runs.size_bytes(found) / 1e6:.1f} MB)?", abort=True)
    runs.remove(found)
    finish(as_json, found.path, removed=True)
