"""Commands that measure: neighbors, similarity, PSNR, bases and slopes; and the calibration of the copy test."""

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memgen.base.errors import ConfigError
from memgen.cli.options import (
    Device,
    Jobs,
    Json,
    OneSize,
    Outputs,
    RunName,
    Seed,
    Size,
)
from memgen.cli.shared import choose_cells, existing, finish, prepared
from memgen.experiment import runs

if TYPE_CHECKING:
    from memgen.experiment.tasks import Verb
    from memgen.experiment.workspace import Workspace
    from memgen.images.imageset import ImageSet
from memgen.cli.root import app, data_app, runs_app
from memgen.cli.shared import execute, largest_size

app.add_typer(data_app, name="data")


app.add_typer(runs_app, name="runs")


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
    from memgen.experiment import measure

    workspace = existing(outputs, run, device, seed)
    own = n_train or largest_size(workspace)
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


def _read_queries(workspace: "Workspace", source: Path) -> "ImageSet":
    """A person's images, prepared as the run's were; none is removed as a duplicate."""
    from memgen.images.importing import import_images

    channels, side, _ = workspace.images.image_shape
    color = "gray" if channels == 1 else "rgb"
    settings = workspace.settings.data.model_copy(
        update={"deduplicate": False, "limit": None, "resize": side, "color": color}
    )
    return import_images(source, settings, seed=workspace.settings.seed).images


def _show_neighbors(table: Any, null: Any, index: str, n_train: int) -> None:
    import numpy as np

    from memgen.cli import terminal

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

    from memgen.cli import terminal
    from memgen.experiment import geometry, present, tasks
    from memgen.findings.bases import readings

    workspace = existing(outputs, run, device, seed)
    levels = sorted(set(sigmas or workspace.settings.basis.sigmas))
    models = _twins(workspace, sizes, denoiser)
    measured, drawn = [], []
    with prepared(workspace), tasks.threads(workspace.settings.compute.threads):
        own = None if images is None else _read_queries(workspace, images)
        for (label, names), sigma in itertools.product(models, levels):
            with terminal.bar(f"{label}, sigma {sigma:g}: Jacobians") as progress:
                measured.append(geometry.measure_basis(workspace, names, sigma, own, progress)[1])
        if own:
            drawn = present.draw_bases(workspace, models, levels, own)
    found = readings(pa.concat_tables(measured), workspace.settings.seed)
    terminal.say_basis(found)
    path = drawn[0] if drawn else workspace.run.path / "tables" / "basis_summary"
    finish(as_json, path, readings=[asdict(reading) for reading in found])


def _twins(workspace: "Workspace", sizes: list[int] | None, denoiser: str | None) -> list[tuple[str, tuple[str, ...]]]:
    """What both models of each N and training seed asked for, or one imported denoiser, are called; and their names."""
    from memgen.base.wording import subject_label

    if denoiser is None:
        pairs = {(cell.n_train, min(cell, cell.twin)) for cell in choose_cells(workspace, sizes, None, trained=True)}
        return [(subject_label("cell", n, None), (cell.name, cell.twin.name)) for n, cell in sorted(pairs)]
    if sizes or runs.Cell.parse(denoiser):
        raise ConfigError(
            f"--denoiser {denoiser}: expected an imported denoiser, and no --n; for trained ones give --n alone."
        )
    return [(subject_label("imported", None, denoiser), (denoiser,))]


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
    from memgen.cli import terminal
    from memgen.experiment import present

    workspace = existing(outputs, run, device, seed)
    cells = choose_cells(workspace, sizes, None, trained=True)
    execute(workspace, cells, verbs, jobs)
    wanted = {cell.n_train for cell in cells}
    found = [row for row in present.summary(workspace).to_pylist() if row["n_train"] in wanted]
    shown = [row for row in found if row["estimate"] is not None and row["quantity"] in _QUANTITIES[kind]]
    columns = ["n_train", "quantity", "estimate", "low", "high", "n", "unit"]
    terminal.table("medians and means, with 95 % intervals", columns, [[row[key] for key in columns] for row in shown])
    finish(as_json, workspace.run.path / "tables" / kind, summary=shown)


def _measure_one(workspace: "Workspace", name: str, as_json: bool) -> None:
    """PSNR of one denoiser, by noise level."""
    import numpy as np

    from memgen.cli import terminal
    from memgen.experiment import measure, tasks

    with prepared(workspace), tasks.threads(workspace.settings.compute.threads):
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
    from memgen.cli import terminal
    from memgen.experiment import measure, tasks
    from memgen.findings import calibration
    from memgen.measures.copies import controls

    workspace = existing(outputs, run, device, seed)
    size = n_train or largest_size(workspace)
    with (
        prepared(workspace),
        tasks.threads(workspace.settings.compute.threads),
        terminal.bar(f"calibrating at N = {size}") as progress,
    ):
        found = measure.calibrate(workspace, size, repeats or controls.REPEATS, progress)
    summaries = calibration.summarize(found)
    terminal.say_calibration(summaries, size)
    path = workspace.run.path / "tables" / "calibration"
    finish(as_json, path, n_train=size, readings=[asdict(each) for each in summaries])


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
    from memgen.cli import terminal
    from memgen.experiment import present, tasks
    from memgen.findings.slopes import label

    workspace = existing(outputs, run, device, seed)
    with (
        prepared(workspace),
        tasks.threads(workspace.settings.compute.threads),
        terminal.bar("measuring PSNR") as progress,
    ):
        found = present.measure_slopes(workspace, low_db, high_db, progress).to_pylist()
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
    terminal.table(title, ["subject", *wanted], rows)
    finish(as_json, workspace.run.table_path("slopes", "slopes"), slopes=found)


_OVER_ORACLE = ("over_oracle", "over_oracle_low", "over_oracle_high")


def _interval(estimate: float | None, low: float | None = None, high: float | None = None) -> str | None:
    if estimate is None:
        return None
    return f"{estimate:.3f}" if low is None else f"{estimate:.3f}\n[{low:.3f}, {high:.3f}]"
