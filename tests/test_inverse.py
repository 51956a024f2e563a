"""Inverse problems: measurements are projections, restorations agree with them and with closed forms, runs keep them."""

import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import killing
import numpy as np
import program
import pytest
import torch
from program import memgen
from truth import GaussianDenoiser, ZeroDenoiser

from memgen.base import noise, schemas, tables
from memgen.base.config import validate
from memgen.base.errors import ConfigError, ShapeError
from memgen.base.estimates import Estimate
from memgen.experiment import make, present
from memgen.experiment.runs import Run
from memgen.experiment.settings import RunSettings
from memgen.experiment.workspace import Workspace
from memgen.findings import restorations
from memgen.models import inverse
from memgen.models.sampling import SampleSettings, sample
from memgen.report import page, sheets

pytestmark = pytest.mark.usefixtures("unrendered")

# A task with an amount for each, and how many numbers of (C, H, W) = (c, 12, 8) it measures.
MEASURED = {
    ("inpainting", 4): 80,
    ("inpainting", 11): 8,  # wider than the image: one row is left
    ("random_pixels", 0.3): 29,
    ("super_resolution", 2): 24,
    ("super_resolution", 4): 6,
    ("low_pass", 0.13): 5,
    ("low_pass", 0.5): 71,
    ("low_pass", 0.01): 1,
}
SHAPE = (1, 4, 4)


def measurement(task, amount, shape, seed=0) -> inverse.Measurement:
    return inverse.build(inverse.choose(task, amount, shape), shape, seed)


def matrix(found: inverse.Measurement) -> torch.Tensor:
    """The projection as (d, d) float64, from what it does to each unit image."""
    d = int(np.prod(found.image_shape))
    return found.project(torch.eye(d).view(d, *found.image_shape)).flatten(1).double().T


EVERY = [
    ("inpainting", 3),
    ("random_pixels", 0.4),
    ("super_resolution", 2),
    ("random_projections", 0.3),
    ("low_pass", 0.2),
]


@pytest.mark.parametrize(("task", "amount"), EVERY)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 10), (2, 10, 4), (1, 12, 6)])
@pytest.mark.parametrize("seed", [0, 1])
def test_measurements_are_orthogonal_projections(task, amount, shape, seed):
    """P = Pᵀ = P² to rounding, its trace and its rank are n_measured, and it acts on each image of a batch by itself."""
    found = measurement(task, amount, shape, seed)
    p = matrix(found)
    np.testing.assert_allclose(p, p.T, atol=1e-6)
    np.testing.assert_allclose(p @ p, p, atol=1e-6)
    assert float(p.trace()) == pytest.approx(found.n_measured, abs=1e-4)
    assert int(torch.linalg.matrix_rank(p, rtol=1e-4)) == found.n_measured
    images = torch.randn(5, *shape, generator=torch.Generator().manual_seed(seed))
    together = found.project(images)
    np.testing.assert_allclose(together.flatten(1), images.flatten(1).double() @ p, atol=1e-5)
    torch.testing.assert_close(found.project(together), together, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(1, 7, 9), (1, 9, 8), (3, 8, 5)])
def test_low_pass_is_exact_at_odd_sides(shape):
    """The set of frequencies is symmetric: filtering the full transform gives real images, and twice is once."""
    found = measurement("low_pass", 0.3, shape)
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    radius = np.hypot(np.fft.fftfreq(shape[1])[:, None], np.fft.fftfreq(shape[2])[None, :])
    expected = np.fft.ifft2(np.fft.fft2(images.double().numpy()) * (radius <= 0.3))
    assert np.abs(expected.imag).max() < 1e-14
    once = found.project(images)
    np.testing.assert_allclose(once, expected.real, atol=1e-6)
    torch.testing.assert_close(found.project(once), once, atol=1e-6, rtol=0)
    assert found.n_measured == shape[0] * np.count_nonzero(radius <= 0.3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("task", "amount"), MEASURED)
def test_how_many_numbers_are_measured(task, amount, channels):
    """Counted by hand on 12 x 8 pixels; each channel is measured alike."""
    found = measurement(task, amount, (channels, 12, 8))
    assert found.n_measured == channels * MEASURED[task, amount]


def test_what_each_task_keeps():
    """The square in the middle is missing, pixels keep all their channels, blocks become their means, the mean passes."""
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    hole = measurement("inpainting", 4, (3, 8, 8)).project(images)
    expected = images.clone()
    expected[..., 2:6, 2:6] = 0
    torch.testing.assert_close(hole, expected, atol=0, rtol=0)
    kept = measurement("random_pixels", 0.25, (3, 8, 8)).project(images) != 0
    assert kept.sum(dim=(0, 2, 3)).tolist() == [16, 16, 16]
    assert (kept[:, 0] == kept[:, 2]).all()
    blocks = measurement("super_resolution", 4, (3, 8, 8)).project(images)
    assert float(blocks[0, 1, 5, 2]) == pytest.approx(float(images[0, 1, 4:8, 0:4].mean()))
    passed = measurement("low_pass", 0.01, (3, 8, 8)).project(images)
    torch.testing.assert_close(passed, images.mean(dim=(2, 3), keepdim=True).expand_as(images))


def test_random_measurements_follow_the_seed():
    """The same seed measures the same, another seed something else; random pixels lie anywhere in the image."""
    for task in ("random_pixels", "random_projections"):
        same, again, other = (matrix(measurement(task, 0.2, (1, 8, 8), seed)) for seed in (5, 5, 6))
        assert torch.equal(same, again)
        assert not torch.allclose(same, other)
    counts = sum(matrix(measurement("random_pixels", 0.25, (1, 8, 8), seed)).diag() for seed in range(200))
    # Hypergeometric counts of mean 50 and standard deviation sqrt(200 * .25 * .75) = 6.1; 5 of them at 64 pixels.
    assert float((counts - 50).abs().max()) < 5 * 6.1


@pytest.mark.parametrize(
    ("task", "amount", "parts"),
    [
        ("inpainting", 8, ("nothing", "1 x 8 x 6", "side of the square")),
        ("inpainting", 0, ("amount", "greater than or equal to 1")),
        ("inpainting", 2.5, ("amount", "valid integer")),
        ("random_pixels", 0.001, ("nothing", "share of the pixels")),
        ("random_pixels", 1, ("amount", "less than 1")),
        ("random_pixels", 0.999, ("everything", "Choose another")),
        ("super_resolution", 4, ("do not divide", "1 x 8 x 6", "Use one of 2.")),
        ("super_resolution", 1, ("greater than or equal to 2",)),
        ("random_projections", -0.1, ("greater than 0",)),
        ("low_pass", 0.74, ("everything", "cycles per pixel")),
        ("deblurring", None, ("no such task", "inpainting", "low_pass")),
    ],
)
def test_impossible_measurements_are_refused(task, amount, parts):
    """What cannot be measured is named, with what can."""
    with pytest.raises(ConfigError) as error:
        measurement(task, amount, (1, 8, 6))
    for part in (f"--task {task}", *parts):
        assert part in str(error.value)


def test_too_large_a_basis_is_refused_before_it_is_made():
    """A basis that would not fit in memory is refused, with a share that fits."""
    with pytest.raises(ConfigError, match="at most 67,108,864") as error:
        measurement("random_projections", 0.5, (3, 256, 256))
    share = float(re.search(r"Use --amount (\S+) or less", str(error.value))[1])
    assert share * (3 * 256 * 256) ** 2 <= 1.05 * 2**26


def test_amounts_when_none_is_given():
    """Every task has an amount of its own; the square is half of the smaller side."""
    labels = [inverse.choose(task, None, (1, 16, 20)).label for task in inverse.TASKS]
    assert labels == [
        "inpainting-8",
        "random_pixels-0.1",
        "super_resolution-4",
        "random_projections-0.1",
        "low_pass-0.125",
    ]
    # A table holds every amount as a float, from which the same label must come back.
    for task, amount in EVERY:
        assert inverse.choose(task, float(amount), SHAPE).label == f"{task}-{amount}"


# ------------------------------------------------------------------------------------------------ the sampler


class Blind:
    """A Wiener filter for one noise level, blind."""

    blind = True

    def __init__(self, truth):
        self.truth, self.image_shape = truth, truth.image_shape

    def __call__(self, noisy, sigma=None):
        return self.truth(noisy, torch.full((len(noisy),), 0.2))


def reference(denoiser, found, clean, mean, index, settings):
    """The authors' restoration of one image as a plain loop (science.md 6.6): d = r - P r + P y - P x_c; ends with f(y)."""
    stream = noise.stream("sample", 3, index)
    p, shape = matrix(found), tuple(mean.shape)
    known = p @ clean.double().flatten()
    y = mean.double().flatten() - p @ mean.double().flatten() + known
    y = y + settings.sigma_start * torch.from_numpy(noise.normal(stream, shape)).double().flatten()
    t, sigma = 1, float("inf")
    while sigma > settings.sigma_end:
        h = settings.step_size(t)
        r = y - denoiser(y.view(1, *shape)).flatten()
        d = r - p @ r + p @ y - known
        sigma = float(d.norm()) / len(d) ** 0.5
        gamma = sigma * ((1 - settings.beta * h) ** 2 - (1 - h) ** 2) ** 0.5
        y = y - h * d + gamma * torch.from_numpy(noise.normal(stream, shape)).double().flatten()
        t += 1
    return denoiser(y.view(1, *shape)).flatten(), t - 1


@pytest.mark.parametrize(("task", "amount"), [(task, amount) for task, amount in EVERY if task != "inpainting"])
def test_restorations_equal_the_authors_loop(task, amount):
    """The same updates as with the authors' direction d; then moved onto the measurement, which is never further from x."""
    truth = GaussianDenoiser.make((1, 6, 6), seed=1)
    denoiser, settings = Blind(truth), SampleSettings(sigma_end=0.2, beta=0.05, micro_batch=4)
    found, clean, mean = measurement(task, amount, (1, 6, 6)), truth.draw(5, seed=2).float(), truth.mean.float()
    constraint = inverse.Constraint.of(found, clean)
    drawn = sample(denoiser, mean, range(5), 3, settings, constraint=constraint)
    p = matrix(found)
    for i in range(5):
        theirs, updates = reference(denoiser, found, clean[i], mean, i, settings)
        assert updates == drawn.updates[i]
        x = clean[i].double().flatten()
        ours = torch.from_numpy(drawn.images[i]).double().flatten()
        np.testing.assert_allclose(ours, theirs - p @ theirs + p @ x, atol=2e-5)
        assert (ours - x).norm() < (theirs - x).norm()


@pytest.mark.parametrize("final_denoise", [True, False])
@pytest.mark.parametrize(("task", "amount"), [*EVERY[1:], ("inpainting", 2)])
def test_restorations_agree_with_the_measurement(task, amount, final_denoise):
    """P x' = P x to rounding (to the bit for pixels), also where sampling is cut short or the denoiser breaks."""
    truth = GaussianDenoiser.make((1, 8, 8), seed=1)
    constraint = inverse.Constraint.of(measurement(task, amount, (1, 8, 8)), truth.draw(3, seed=2).float())

    class Broken(ZeroDenoiser):
        def __call__(self, noisy, sigma=None):
            return noisy * float("nan")

    settings = SampleSettings(final_denoise=final_denoise, max_steps=30)
    for denoiser in (truth, Broken((1, 8, 8))):
        drawn = torch.from_numpy(
            sample(denoiser, truth.mean.float(), range(3), 0, settings, constraint=constraint).images
        )
        again = constraint.measurement.project(drawn)
        exact = task in ("inpainting", "random_pixels")
        torch.testing.assert_close(again, constraint.measured, atol=0 if exact else 2e-6, rtol=0)


def test_measuring_nothing_changes_no_bit():
    """With an empty measurement the restoration is the unconditional sample, bit for bit, blind or not."""
    truth = GaussianDenoiser.make(SHAPE, seed=1)
    nothing = inverse.PixelMeasurement(SHAPE, 0, torch.zeros(4, 4, dtype=torch.bool))
    constraint = inverse.Constraint.of(nothing, truth.draw(5, seed=2).float())
    for denoiser in (truth, Blind(truth)):
        free = sample(denoiser, truth.mean.float(), range(5), 0, SampleSettings(max_steps=60))
        bound = sample(denoiser, truth.mean.float(), range(5), 0, SampleSettings(max_steps=60), constraint=constraint)
        np.testing.assert_array_equal(bound.images, free.images)
        np.testing.assert_array_equal(bound.levels, free.levels)


@pytest.mark.parametrize(("task", "amount"), [*EVERY[1:], ("inpainting", 2)])
def test_a_restoration_depends_on_no_other(task, amount):
    """Restored alone, in another order or all together: the same images, bit for bit."""
    truth = GaussianDenoiser.make((1, 8, 8), seed=1)
    found, clean = measurement(task, amount, (1, 8, 8)), truth.draw(7, seed=2).float()
    settings = SampleSettings(micro_batch=4, max_steps=40)

    def restore(rows):
        constraint = inverse.Constraint.of(found, clean[rows])
        return sample(truth, truth.mean.float(), rows, 0, settings, constraint=constraint).images

    whole = restore(list(range(7)))
    for rows in ([5], [6, 0, 3], [1, 2, 3, 4, 5]):
        np.testing.assert_array_equal(restore(rows), whole[rows])


def conditional(truth, found, clean) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """E[x | P x], Cov[x | P x] in a basis of what is not measured, and that basis, in closed form."""
    covariance, mean = (truth.axes * truth.variances) @ truth.axes.T, truth.mean.flatten()
    values, vectors = torch.linalg.eigh(matrix(found))
    known, free = vectors[:, values > 0.5], vectors[:, values < 0.5]
    gain = covariance @ known @ torch.linalg.inv(known.T @ covariance @ known)
    return (
        mean + gain @ (known.T @ (clean.double().flatten() - mean)),
        free.T @ (covariance - gain @ known.T @ covariance) @ free,
        free,
    )


def restored(truth, found, clean, count, **settings) -> torch.Tensor:
    """(count, d): one image restored from many noises."""
    constraint = inverse.Constraint.of(found, clean.expand(count, -1, -1, -1))
    chosen = SampleSettings(sigma_end=0.02, max_steps=20_000, micro_batch=count, **settings)
    drawn = sample(truth, truth.mean.float(), range(count), 0, chosen, constraint=constraint)
    assert (drawn.status == "converged").all()
    return torch.from_numpy(drawn.images).double().flatten(1)


@pytest.mark.parametrize(
    ("task", "amount"), [("inpainting", 2), ("random_pixels", 0.4), ("super_resolution", 2), ("low_pass", 0.3)]
)
def test_mean_of_restorations_is_the_conditional_mean(task, amount):
    """At small β the mean over noises is E[x | P x] of a Gaussian: within 4 of its standard errors on every axis.

    The images restored are far from the mean image there, so that the test can tell the two apart.
    """
    truth = GaussianDenoiser.make(SHAPE, seed=3)
    found, clean, count = measurement(task, amount, SHAPE), truth.draw(1, seed=5).float(), 200
    expected, covariance, free = conditional(truth, found, clean)
    drawn = restored(truth, found, clean, count, beta=0.01)
    error = free.T @ (drawn.mean(dim=0) - expected)
    standard = (covariance.diag() / count).sqrt()
    assert float((error.abs() / standard).max()) < 4
    filled = free.T @ (truth.mean.flatten() - expected)
    assert float((filled.abs() / standard).max()) > 6


def test_spread_of_restorations():
    """With small constant steps the spread over noises is the conditional one; the growing step has too little of it.

    A step h leaves a share 1 - h/2 of the variance where it is much larger than σ², so steps that grow to near 1 keep
    little more than half. The variances of 10 free axes from 300 noises have a standard error of about 3 % of their mean.
    """
    truth = GaussianDenoiser.make(SHAPE, seed=3)
    found, clean = measurement("inpainting", 3, SHAPE), truth.draw(1, seed=5).float()
    _, covariance, free = conditional(truth, found, clean)

    def share(**settings) -> float:
        drawn = restored(truth, found, clean, 300, **settings)
        return float(((free.T @ torch.cov(drawn.T) @ free).diag() / covariance.diag()).mean())

    assert 0.85 < share(beta=0.08, growing_step=False, h0=0.1) < 1.1
    assert 0.45 < share(beta=0.01) < 0.7


def test_shapes_that_do_not_fit_are_refused():
    """Images of another shape cannot be measured, and there is one measurement for each sample."""
    truth = GaussianDenoiser.make(SHAPE, seed=1)
    found = measurement("inpainting", 2, SHAPE)
    with pytest.raises(ShapeError, match="shape of the measurement"):
        inverse.Constraint.of(found, torch.zeros(2, 1, 4, 5))
    constraint = inverse.Constraint.of(found, torch.zeros(2, *SHAPE))
    with pytest.raises(ShapeError, match="3 samples"):
        sample(truth, truth.mean.float(), range(3), 0, SampleSettings(), constraint=constraint)


def test_summary():
    """Means over images with an interval, equal images (infinite PSNR) left out, and none where there is no twin."""
    columns = dict.fromkeys(schemas.RESTORED.names, 0) | {
        "subject": "x",
        "role": "cell",
        "task": "low_pass",
        "part": None,
    }
    columns |= {"image_id": ["a", "b", "c"], "status": ["converged", "converged", "step_cap"]}
    columns |= {"output_psnr_db": [20.0, 30.0, np.inf], "filled_psnr_db": [10.0, 12.0, 14.0], "n_measured": 7}
    found = restorations.summarize(tables.make(schemas.RESTORED, columns), 0, [1.0, 2.0, np.inf])
    assert (found.psnr.estimate, found.psnr.low, found.psnr.high, found.psnr.n) == (25, 20, 30, 2)
    assert (found.filled_psnr_db, found.twin_psnr_db, found.converged, found.n_measured) == (12, 1.5, 2, 7)
    assert restorations.summarize(tables.make(schemas.RESTORED, columns), 0).twin_psnr_db is None
    x = np.zeros((2, 1, 2, 2), np.float32)
    np.testing.assert_allclose(inverse.psnr_db(x, x + np.float32([0.5, 0]).reshape(2, 1, 1, 1)), [6.0206, np.inf], 1e-5)


# ------------------------------------------------------------------------------------------------ the command


def test_command_restores_and_keeps_apart(tiny):
    """Both models restore the holdout; images, table, picture and report page say so, and samples stay as they were."""
    before = {name: path.read_bytes() for name, path in program.artifacts(tiny).items()}
    outcome = memgen("restore", "--task", "inpainting", "--amount", "4").done()
    assert outcome.path == Path("outputs/tiny/samples/n4-s0-b.inpainting-4.npy")
    assert "48 of 64 numbers are measured" in outcome.err
    after = {name: path.read_bytes() for name, path in program.artifacts(tiny).items()}
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {
        *(f"samples/n4-s0-{part}.inpainting-4.npy" for part in "ab"),
        *(f"tables/restored/n4-s0-{part}.inpainting-4.parquet" for part in "ab"),
    }
    workspace = Workspace.of(Run(tiny), "cpu")
    clean = workspace.images.floats(workspace.split.holdout).numpy()
    rows = Run(tiny).table("restored", "n4-s0-a.inpainting-4").to_pylist()
    images = np.load(tiny / "samples" / "n4-s0-a.inpainting-4.npy")
    assert [row["sample"] for row in rows] == list(range(8))
    assert [row["image_id"] for row in rows] == [workspace.images.ids[i] for i in workspace.split.holdout]
    outside = np.ones((8, 8), bool)
    outside[2:6, 2:6] = False
    np.testing.assert_array_equal(images[..., outside], clean[..., outside])
    assert {row["measured_error"] for row in rows} == {0.0}
    psnr = -10 * np.log10(((images - clean).astype(np.float64) ** 2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose([row["output_psnr_db"] for row in rows], psnr, rtol=1e-6)
    hole = -10 * np.log10((np.where(outside, 0, clean).astype(np.float64) ** 2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose([row["pseudo_psnr_db"] for row in rows], hole, rtol=1e-6)
    assert {path.name for path in (tiny / "report" / "figures").glob("restored-*")} == {
        f"restored-inpainting-4.{suffix}" for suffix in ("png", "svg", "pdf")
    }
    html = page.render(page.ReportInput("x", {}, {}, restored=present.restored(workspace)))
    assert "inpainting, amount 4: 48 of 64 numbers measured" in html


def test_command_says_how_the_twins_agree(tiny, monkeypatch):
    """--json holds every mean, the twins compared with each other too; the report of an N shows its restorations only."""
    both = memgen("restore", "--task", "random_projections", "--amount", "0.3", "--json").done().json
    assert [row["subject"] for row in both["restored"]] == ["n4-s0-a", "n4-s0-b"]
    one, other = (np.load(tiny / "samples" / f"n4-s0-{part}.random_projections-0.3.npy") for part in "ab")
    twin = -10 * np.log10(((one - other).astype(np.float64) ** 2).mean(axis=(1, 2, 3)))
    for row in both["restored"]:
        assert row["n_measured"] == 19
        assert row["twin_psnr_db"] == pytest.approx(twin.mean())
        assert row["psnr"]["low"] <= row["psnr"]["estimate"] <= row["psnr"]["high"]
    workspace = Workspace.of(Run(tiny), "cpu")
    for name in ("n1-s0-a", "n4-s0-b"):
        make.restore_images(workspace, name, inverse.choose("low_pass", None, (1, 8, 8)))
    (alone,) = present.restored(workspace, n_train=1)
    assert (alone.label, [model.name for model in alone.models]) == ("low_pass-0.125", ["N = 1  A"])
    assert alone.models[0].summary.twin_psnr_db is None
    shown = []
    monkeypatch.setattr(present.page, "write", lambda page, folder: shown.append(page))
    for n_train in (None, 1, 4):
        present.write_report(workspace, n_train)
    assert [[task.label for task in page.restored] for page in shown] == [
        ["low_pass-0.125", "random_projections-0.3"],
        ["low_pass-0.125"],
        ["random_projections-0.3", "low_pass-0.125"],
    ]
    measured = {task.label: {model.summary.n_measured for model in task.models} for task in shown[0].restored}
    assert measured == {"low_pass-0.125": {5}, "random_projections-0.3": {19}}
    assert {model.summary.psnr.n for task in shown[0].restored for model in task.models} == {8}


def test_report_without_restorations_has_no_section(finished):
    """A run that restored nothing has no empty section."""
    assert 'id="restoration"' not in (finished / "report" / "report.html").read_text()


def test_command_refuses(tiny):
    """A wrong task or amount, or options that do not go together, are settings errors that say what is right."""
    memgen("restore", "--task", "deblur").failed(2, "inpainting, random_pixels, super_resolution")
    memgen("restore", "--task", "super_resolution", "--amount", "3").failed(2, "Use one of 2, 4, 8")
    memgen("restore", "--task", "low_pass", "--amount", "-1").failed(2, "--task low_pass: amount")
    assert not (tiny / "tables" / "restored").exists()


def test_finished_restorations_are_not_made_again(tiny, monkeypatch):
    """What is there is kept; a table that is missing, as after a kill, makes its images again, the same bytes."""
    workspace, task = Workspace.of(Run(tiny), "cpu"), inverse.choose("random_pixels", None, (1, 8, 8))
    assert make.restore_images(workspace, "n4-s0-a", task) == tiny / "samples" / "n4-s0-a.random_pixels-0.1.npy"
    image, table = "samples/n4-s0-a.random_pixels-0.1.npy", "tables/restored/n4-s0-a.random_pixels-0.1.parquet"
    before = [(tiny / name).read_bytes() for name in (image, table)]
    (tiny / table).unlink()
    make.restore_images(workspace, "n4-s0-a", task)
    assert [(tiny / name).read_bytes() for name in (image, table)] == before
    monkeypatch.setattr(make.sampling, "sample", lambda *given: pytest.fail("restored again"))
    make.restore_images(workspace, "n4-s0-a", task)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")
def test_killed_restorations(tiny, tmp_path):
    """SIGKILL while restoring and around each file: the same command ends with the artifacts of an undisturbed one."""
    memgen("restore", "--task", "inpainting").done()
    expected = {name: path.read_bytes() for name, path in program.artifacts(tiny).items()}
    for kind in ("samples", "tables/restored"):
        for path in (tiny / kind).glob("*.inpainting-4.*"):
            path.unlink()
    kinds = ("samples/*.npy", "tables/restored")
    planned = ["sampling", *(f"{when} {kind}" for when, kind in itertools.product(("before", "after"), kinds))]
    (tmp_path / "moments.json").write_text(json.dumps(planned))
    command = [sys.executable, killing.__file__, tiny, tmp_path / "killed.json", tmp_path / "moments.json"]
    command += ["restore", "--outputs", tmp_path / "outputs", "--task", "inpainting"]
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=program.environment())
    assert ended.returncode == 0, ended.stderr
    assert sorted(json.loads((tmp_path / "killed.json").read_text())) == sorted(planned)
    assert {name: path.read_bytes() for name, path in program.artifacts(tiny).items()} == expected
    assert not list(tiny.rglob("*.tmp*"))


def test_settings_of_restoring(tiny, monkeypatch):
    """restore.beta and restore.n_images are read, and β is not that of sampling."""
    seen = []

    def spy(*given):
        seen.append((given[4].beta, len(given[2])))
        raise KeyboardInterrupt

    monkeypatch.setattr(make.sampling, "sample", spy)
    settings = validate(RunSettings, Run(tiny).manifest["config"], "run.json")
    task = inverse.choose("low_pass", None, (1, 8, 8))
    for changed in (settings.restore, inverse.RestoreSettings(n_images=3, beta=0.5)):
        workspace = replace(Workspace.of(Run(tiny), "cpu"), settings=settings.model_copy(update={"restore": changed}))
        with pytest.raises(KeyboardInterrupt):
            make.restore_images(workspace, "n4-s0-a", task)
    assert seen == [(0.01, 8), (0.5, 3)]
    assert settings.sample.beta == 0.1


def test_numbers_below_the_last_row_are_on_the_sheet():
    """Each restored image has its PSNR below, inside the figure, and none where it is infinite; measured ones have none."""
    rng = np.random.default_rng(0)
    images = rng.random((3, 1, 8, 8)).astype(np.float32)
    summary = restorations.Restoration("x", "low_pass", 0.1, 5, Estimate.of(20.0, n=3), None, None, None, 3)
    models = [sheets.RestoredBy(name, images, np.array([20.5, 31.25, np.nan]), summary) for name in ("A", "B")]
    figure = sheets.figure_restored(sheets.Restored("low_pass-0.1", images, images, models))
    (axes,) = figure.axes
    texts = {text.get_text() for text in axes.texts}
    assert texts == {"clean", "measured", "A", "B", "20.5", "31.2"}
    bottom = axes.get_ylim()[0]
    assert all(text.get_position()[1] < bottom for text in axes.texts)
