"""Commands that measure what a model knows: its likelihood, its training images, and how varied its samples are."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from memgen.base import wording
from memgen.base.errors import ConfigError
from memgen.cli.options import Device, Json, Outputs, RunName, Sizes, SubjectName
from memgen.cli.root import app
from memgen.cli.search import PANEL
from memgen.cli.shared import choose_subjects, existing, finish, prepared
from memgen.experiment import runs


@app.command(rich_help_panel=PANEL)
def likelihood(
    sizes: Sizes = None,
    subject: SubjectName = None,
    against: Annotated[
        str | None,
        typer.Option(help="Name of another subject. Shows how many bits more it spends on the same held-out images."),
    ] = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure how likely training images and held-out images are under a denoiser, in bits per dimension.

    The density is that of what the probability flow of the denoiser draws from sample.sigma_start down to
    sample.sigma_end, where the images get noise too. A model that has memorized spends fewer bits on its training
    images than on held-out images. Two errors stand beside the bits: the standard error of the estimate of the trace,
    and the change when the steps of the flow are doubled. More of likelihood.steps and likelihood.probes makes them
    smaller. Of two models with the same held-out images, --against shows how many bits more the second spends on them.
    """
    from memgen.cli import terminal
    from memgen.experiment import measure, tasks
    from memgen.findings import likelihoods

    workspace = existing(outputs, run, device)
    names = choose_subjects(workspace, sizes, None, subject)
    if against is not None:
        if names == [against]:
            raise ConfigError(f"--against {against}: expected another subject than this; memgen subjects lists them.")
        names = list(dict.fromkeys([*names, *choose_subjects(workspace, None, None, against)]))
    found: dict[str, Any] = {}
    with prepared(workspace), tasks.threads(workspace.settings.compute.threads):
        for name in names:
            with terminal.bar(f"likelihood of {name}") as progress:
                table = measure.measure_likelihood(workspace, name, progress)
            groups = measure.groups_of(workspace, name)
            found[name] = likelihoods.summarize(table, groups, workspace.settings.seed)
        more = {}
        for name in names:
            if against not in (None, name):
                own, other = (measure.measure_likelihood(workspace, each) for each in (name, str(against)))
                groups = measure.groups_of(workspace, name)
                more[name] = likelihoods.on_held_out(own, other, groups, workspace.settings.seed)
    rows = []
    for name, summary in found.items():
        of_images = [wording.estimate(each) for each in (summary.train, summary.held_out)]
        errors = f"{summary.probe_error:.2g}, {summary.step_change:.2g}"
        rows.append([name, *of_images, wording.estimate(summary.gap), errors])
    columns = ["subject", "training images", "held-out images", "difference", "errors: trace, steps"]
    sample = workspace.settings.sample
    note = f"bits per dimension of images with noise of {sample.sigma_end:g}, with 95 % intervals"
    terminal.table("likelihood by the probability flow", columns, rows, note)
    if more:
        shown = [[name, wording.estimate(each)] for name, each in more.items()]
        note = "bits per dimension, with 95 % intervals; above 0, the subject finds these images more likely"
        terminal.table("the same held-out images", ["subject", f"bits that {against} spends more"], shown, note)
    path = workspace.run.table_path("likelihood", names[-1])
    result = {"likelihood": {name: asdict(summary) for name, summary in found.items()}}
    finish(as_json, path, **result, more_bits={name: asdict(each) for name, each in more.items()})


@app.command(rich_help_panel=PANEL)
def membership(
    sizes: Sizes = None,
    subject: SubjectName = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Say at which noise levels a denoiser gives its training images away, and how well an attack could tell them.

    The gap is the PSNR of denoised training images minus that of held-out images with the same noise. The attack calls
    an image a training image if its PSNR exceeds a threshold that 1 % of held-out images exceed. It is shown by the
    share of training images that it finds and by the area under its curve, which is 1/2 if there is nothing to find.
    The likelihood is a score too if memgen likelihood has measured it. Where images have groups, such as patients, the
    scores are averaged by group. The threshold takes at least 99 held-out images or groups; psnr.n_images sets how many
    images are measured.
    """
    from memgen.cli import terminal
    from memgen.experiment import measure, tasks
    from memgen.findings.membership import estimate

    workspace = existing(outputs, run, device)
    names = choose_subjects(workspace, sizes, None, subject)
    found: dict[str, list[dict[str, Any]]] = {}
    with prepared(workspace), tasks.threads(workspace.settings.compute.threads):
        for name in names:
            found[name] = measure.measure_membership(workspace, name).to_pylist()
    columns = ["score", "noise level", "gap", "area under the curve", "found at 1 %"]
    for name, rows in found.items():
        shown = [
            [row["score"], row["sigma"], *(wording.estimate(estimate(row, key)) for key in ("gap", "auc", "tpr"))]
            for row in rows
        ]
        first = rows[0]
        note = f"{first['n_units']} {first['independent']}s of T, {first['n_held_out']} of H; 95 % intervals"
        terminal.table(f"{name}: training images minus held-out images, and the attack", columns, shown, note)
    finish(as_json, workspace.run.table_path("membership", names[-1]), membership=found)


@app.command(rich_help_panel=PANEL)
def diversity(
    sizes: Sizes = None,
    subject: SubjectName = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="Space in which images are compared, such as correlation or rmse. Default: as in the settings."
        ),
    ] = None,
    outputs: Outputs = runs.OUTPUTS,
    run: RunName = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure how varied samples are, and whether they lie where real images do, beside held-out images.

    The command shows the Vendi score, precision, recall, density and coverage. For denoisers it shows the variance of
    the denoised image along the trajectory too, which is large where a sample wavers between kinds of images. Half of
    the held-out images are the reference, and the other half show what a perfect model would have. None of these
    numbers sees copies: a model that draws its training images passes for a perfect one.
    """
    from memgen.cli import terminal
    from memgen.experiment import measure, tasks

    workspace = existing(outputs, run, device)
    names = choose_subjects(workspace, sizes, None, subject)
    with prepared(workspace), tasks.threads(workspace.settings.compute.threads):
        rows = [row for name in names for row in measure.measure_diversity(workspace, name, metric).to_pylist()]
    shown = [
        [row["subject"], row["measure"].replace("_", " "), _stated(row, ""), _stated(row, "held_out"), row["unit"]]
        for row in rows
    ]
    columns = ["subject", "measure", "samples", "held-out images", "unit"]
    note = f"in the space {rows[0]['space']}, {rows[0]['n']} images each, with 95 % intervals"
    terminal.table("diversity", columns, shown, note)
    finish(as_json, workspace.run.path / "tables" / "diversity", diversity=rows)


def _stated(row: dict[str, Any], side: str) -> str:
    """The value of the samples, or of the held-out images, as people print it."""
    value, prefix = row[side or "estimate"], f"{side}_" if side else ""
    if value is None:
        return wording.DASH
    ends = [f"{row[prefix + end]:.3g}" for end in ("low", "high") if row[prefix + end] is not None]
    return f"{value:.3g} [{', '.join(ends)}]" if ends else f"{value:.3g}"
