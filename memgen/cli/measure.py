"""Commands that measure: neighbors, similarity, PSNR, bases and slopes; and the calibration of the test for copies."""

import itertools
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from memgen.base.errors import ConfigError
from memgen.cli.audit import carry_out
from memgen.cli.options import Device, Jobs, Json, OneSize, Outputs, OwnImages, Range, RunName, Sizes, SubjectName
from memgen.cli.root import app
from memgen.cli.search import PANEL
from memgen.cli.shared import (
    Workers,
    choose_cells,
    choose_device,
    choose_subjects,
    execute,
    existing,
    finish,
    largest_size,
    own_images,
    prepared,
)
from memgen.experiment import runs

if TYPE_CHECKING:
    from memgen.experiment.tasks import Verb
    from memgen.experiment.workspace import Workspace


@app.command(rich_help_panel=PANEL)
def psnr(
    sizes: Sizes = None,
    subject: SubjectName = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Measure denoising PSNR against noise level, on training images and on held-out images."""
    workspace = existing(outputs, run, device)
    if subject is None:
        measure_cells(workspace, sizes, ("psnr", "references"), jobs, as_json, "psnr")
    elif sizes:
        raise ConfigError("--subject names one subject. Leave out --n, or leave out --subject.")
    else:
        _measure_one(workspace, subject, as_json)


@app.command(rich_help_panel=PANEL)
def basis(
    images: OwnImages = None,
    sizes: Sizes = None,
    subject: SubjectName = None,
    sigmas: Annotated[
        list[float] | None,
        typer.Option(
            "--sigma",
            help="Noise level in pixel units, where pixels lie in [0, 1]. May be given several times. Default: the "
            "noise levels in the settings.",
        ),
    ] = None,
    value_range: Range = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Analyze the Jacobians of both models trained on N images: the basis in which each shrinks a noisy image.

    Near a noisy image, a denoiser acts as its Jacobian. It multiplies each coefficient of the image in the basis of the
    Jacobian's eigenvectors by the eigenvalue, which is a shrinkage factor. The command shows how many dimensions are
    kept (the trace), how far the model is from any posterior mean (asymmetry and negative eigenvalues, which are 0 for
    a posterior mean), how well the trace predicts the error (Stein's estimate, and sigma^2 tr J / d), and how much the
    basis has in common with that of the other model, with slow cosines and with the principal components of the
    training images. The value that a random basis would give stands beside each.

    Models that generalize share their basis. Models that have memorized different images do not.

    The held-out images are analyzed, or your own if you give any. Their number is fixed when the run is made, for
    example with --set basis.n_images=16. For images of more than 6,400 numbers, the largest eigenvalues are found
    (basis.vectors of them), and sums over all eigenvalues are estimated. A sweep does not include this command.
    Afterwards, memgen report --sweep shows the eigenvectors; those at your own images are drawn under report/figures/.
    """
    import pyarrow as pa

    from memgen.cli import terminal
    from memgen.experiment import geometry, present, tasks
    from memgen.findings.bases import readings

    workspace = existing(outputs, run, device)
    levels = sorted(set(sigmas or workspace.settings.basis.sigmas))
    models = _models(workspace, sizes, subject)
    measured, drawn = [], []
    with prepared(workspace), tasks.threads(workspace.settings.compute.threads):
        own, result = (None, {}) if images is None else own_images(workspace, images, value_range)
        for (label, names), sigma in itertools.product(models, levels):
            with terminal.bar(f"{label}, sigma {sigma:g}: Jacobians") as progress:
                measured.append(geometry.measure_basis(workspace, names, sigma, own, progress)[1])
        if own:
            drawn = present.draw_bases(workspace, models, levels, own)
    found = readings(pa.concat_tables(measured), workspace.settings.seed)
    terminal.say_basis(found)
    path = drawn[0] if drawn else workspace.run.path / "tables" / "basis_summary"
    finish(as_json, path, readings=[asdict(reading) for reading in found], **result)


def _models(workspace: "Workspace", sizes: list[int] | None, subject: str | None) -> list[tuple[str, tuple[str, ...]]]:
    """Label and names of the two models of each N and training seed asked for, or of one imported denoiser."""
    from memgen.base.wording import subject_label
    from memgen.experiment import make

    if subject is None:
        pairs = {(cell.n_train, min(cell, cell.twin)) for cell in choose_cells(workspace, sizes, None, trained=True)}
        return [(subject_label("cell", n, None), (cell.name, cell.twin.name)) for n, cell in sorted(pairs)]
    identity = make.require_denoiser(workspace, subject).identity
    if identity.role == "cell":
        raise ConfigError(
            f"--subject {subject}: found a model of the sweep, expected an imported denoiser. Choose the models of the "
            f"sweep with --n."
        )
    if sizes:
        raise ConfigError(f"--subject {subject} names one denoiser. Leave out --n, or leave out --subject.")
    return [(subject_label("imported", None, subject), (subject,))]


def measure_cells(
    workspace: "Workspace",
    sizes: list[int] | None,
    verbs: tuple["Verb", ...],
    jobs: int | None,
    as_json: bool,
    kind: str,
) -> None:
    """Take steps on the cells of some sizes, and print those quantities that come of them."""
    from memgen.cli import terminal
    from memgen.experiment import present, tasks

    cells = choose_cells(workspace, sizes, None, trained=True)
    execute(workspace, tasks.tasks(cells, verbs), Workers(jobs))
    wanted = {cell.n_train for cell in cells}
    found = [row for row in present.summary(workspace).to_pylist() if row["n_train"] in wanted]
    shown = [row for row in found if row["estimate"] is not None and row["quantity"] in _QUANTITIES[kind]]
    terminal.say_estimates(shown)
    finish(as_json, workspace.run.path / "tables" / kind, summary=shown)


def _measure_one(workspace: "Workspace", name: str, as_json: bool) -> None:
    """Measure the PSNR of one denoiser, and print it by noise level."""
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


@app.command("peers", rich_help_panel=PANEL)
def peers_(
    sizes: Sizes = None,
    subject: SubjectName = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Apply the rules that other groups use to call samples copies, such as the 1/3 rule.

    Beside each value stands that of held-out images, which nobody has copied. The rules have fixed thresholds, so their
    error rates depend on the images; memgen verdict controls its own.
    """
    from memgen.cli import terminal
    from memgen.experiment import measure, tasks
    from memgen.measures import peers

    workspace = existing(outputs, run, device)
    names = choose_subjects(workspace, sizes, None, subject)
    titles = {found.NAME: found.TITLE for found in peers.all_measures()}
    with prepared(workspace), tasks.threads(workspace.settings.compute.threads):
        rows = [row for name in names for row in measure.measure_peers(workspace, name).to_pylist()]
    shown = [
        [
            row["subject"],
            titles[row["measure"]],
            _interval(row["estimate"], row["low"], row["high"]),
            _interval(row["held_out"], row["held_out_low"], row["held_out_high"]),
        ]
        for row in rows
    ]
    columns = ["subject", "measure", "samples", "held-out images"]
    terminal.table("measures of other groups, with 95 % intervals", columns, shown)
    finish(as_json, workspace.run.path / "tables" / "peers", peers=rows)


_QUANTITIES = {
    "similarity": ("cross_same", "cross_different", "cross_minus_null", "train_train", "disagreement", "bits"),
    "psnr": ("psnr_gap", "to_linear", "to_optimum"),
}


@app.command(rich_help_panel=PANEL)
def calibrate(
    n_train: OneSize = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="How often the images of a sweep are redrawn (20), or how often copies are planted in an audit (1). A "
            "larger number continues a smaller one.",
        ),
    ] = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Check the test for copies on the run's own images, with sample sets whose answer is known.

    The command measures how often the test finds something where nothing was copied (its size), how many of the planted
    copies it finds (its power), and how often its intervals contain the truth, all at one N. A test that keeps its
    promises is called not calibrated in at most 5 % of calibrations, however few the redraws; choose their number
    beforehand. It is called calibrated only by enough redraws, such as --repeats 100. The report carries the result.

    If --run names an audit, copies of 22 kinds are planted among its samples instead, as memgen audit --calibrate does.
    """
    from memgen.cli import terminal
    from memgen.experiment import audit as auditing
    from memgen.experiment import audit_settings, measure, tasks
    from memgen.findings import calibration
    from memgen.measures.copies import controls

    if run is not None and (audited := runs.find(outputs, run, kind=None)).kind == runs.AUDIT:
        if n_train is not None:
            raise ConfigError(f"--n {n_train}: {audited.path} is an audit of one model. Leave out --n.")
        settings = audit_settings.settings_of(audited)
        settings = settings.model_copy(update={"calibrate": max(settings.calibrate, repeats or 1)})
        carry_out(auditing.start(audited.path.parent, audited.name, settings), as_json, choose_device(device))
        return
    workspace = existing(outputs, run, device)
    size = n_train or largest_size(workspace)
    with (
        prepared(workspace),
        tasks.threads(workspace.settings.compute.threads),
        terminal.bar(f"calibrating at N = {size}") as progress,
    ):
        found = measure.calibrate(workspace, size, repeats or controls.REPEATS, progress)
    said = calibration.summarize(found)
    terminal.say_calibration(said, size)
    path = workspace.run.path / "tables" / "calibration"
    words = {"headline": said.headline, "sentences": said.sentences}
    finish(as_json, path, n_train=size, **words, **asdict(said))


@app.command(rich_help_panel=PANEL)
def slopes(
    low_db: Annotated[float, typer.Option(help="Lowest input PSNR of the range, in dB.")] = 0.0,
    high_db: Annotated[
        float, typer.Option(help="Highest input PSNR of the range, in dB. The range in the paper is 0 to 34.")
    ] = 34.0,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure how fast output PSNR rises with input PSNR, and compare the slope with theory and with wavelets.

    The slope is measured for every denoiser of the run, on held-out images. It stands beside the slopes of an oracle
    that shrinks wavelet coefficients and of wavelet thresholding. On generated manifolds the gain in PSNR is measured
    too. The report carries the result.
    """
    from memgen.cli import terminal
    from memgen.experiment import present, tasks
    from memgen.findings.slopes import label

    workspace = existing(outputs, run, device)
    with (
        prepared(workspace),
        tasks.threads(workspace.settings.compute.threads),
        terminal.bar("measuring PSNR") as progress,
    ):
        found = present.measure_slopes(workspace, low_db, high_db, progress).to_pylist()
    wanted = {
        "mean PSNR (dB)": ("level_db", "level_low", "level_high"),
        "slope": ("slope", "low", "high"),
        "slope in theory": ("theory",),
        "slope minus the oracle's": _OVER_ORACLE,
    }
    if any(row["gain_theory"] for row in found):
        wanted |= {"gain (dB)": ("gain_db", "gain_low", "gain_high"), "gain in theory (dB)": ("gain_theory",)}
    rows = [[label(row), *(_interval(*(row[key] for key in keys)) for keys in wanted.values())] for row in found]
    span = f"{found[0]['low_db']:.1f} to {found[0]['high_db']:.1f} dB, {found[0]['n_levels']} noise levels"
    title = f"slope of output PSNR against input PSNR on held-out images, {span}, with 95 % intervals"
    terminal.table(title, ["denoiser", *wanted], rows)
    finish(as_json, workspace.run.table_path("slopes", "slopes"), slopes=found)


_OVER_ORACLE = ("over_oracle", "over_oracle_low", "over_oracle_high")


def _interval(estimate: float | None, low: float | None = None, high: float | None = None) -> str | None:
    if estimate is None:
        return None
    return f"{estimate:.3f}" if low is None else f"{estimate:.3f}\n[{low:.3f}, {high:.3f}]"
