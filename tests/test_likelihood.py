"""Likelihood by the probability flow: closed forms of Gaussians, its two errors, and the divergence of two models."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from truth import GaussianDenoiser

from memgen.base import noise
from memgen.base.errors import DataError
from memgen.findings import likelihoods
from memgen.images.imageset import ImageSet, content_id
from memgen.measures.likelihood import Flow, LikelihoodSettings, measure, measure_likelihood
from memgen.measures.subject import subject
from memgen.models.networks import UNetSettings, build

SHAPE = (1, 3, 4)
KEYS = {"subject": "g", "role": "reference", "n_train": None, "part": None, "train_seed": None}


def images_of(truth: GaussianDenoiser, n: int, seed: int = 0) -> tuple[torch.Tensor, list[str]]:
    images = truth.draw(n, seed).float()
    return images, [content_id(image.numpy()) for image in images]


def noisy(images: torch.Tensor, ids: list[str], sigma: float, seed: int = 0) -> torch.Tensor:
    normals = [noise.normal(noise.stream(f"image/{each}", seed, 0), tuple(images.shape[1:])) for each in ids]
    return images.double() + sigma * torch.from_numpy(np.stack(normals)).double()


def closed_form(truth: GaussianDenoiser, y: torch.Tensor, flow: Flow) -> np.ndarray:
    """log q: the flow of a Gaussian scales each coefficient of N(m, σ_max² I) by sqrt((λ + σ_min²) / (λ + σ_max²))."""
    scale = ((truth.variances + flow.low**2) / (truth.variances + flow.high**2)).sqrt()
    start = (flow.mean.double() - truth.mean).flatten() @ truth.axes
    off = (y - truth.mean).flatten(1) @ truth.axes - scale * start
    deviation = flow.high * scale
    terms = (off / deviation).square() / 2 + deviation.log() + math.log(2 * math.pi) / 2
    return -terms.sum(dim=1).numpy()


def flow_of(mean: torch.Tensor, low: float = 0.05, high: float = 1.0, **settings) -> Flow:
    return Flow(mean, high, low, LikelihoodSettings(**settings))


def frame(denoiser, images, ids, flow, seed=0, batch=64):
    return measure(denoiser, images, ids, "holdout", flow, seed, batch, KEYS)


@pytest.mark.parametrize("high", [1.0, 30.0])
def test_likelihood_of_a_gaussian_is_its_closed_form(high):
    """Within the stated error: the change by doubling the steps, and four standard errors over the probes."""
    truth = GaussianDenoiser.make(SHAPE, seed=2)
    images, ids = images_of(truth, 24)
    flow = flow_of(torch.full(SHAPE, 0.3), high=high, steps=64, probes=32)
    found = frame(truth, images, ids, flow).to_pandas()
    wanted = closed_form(truth, noisy(images, ids, flow.low), flow)
    assert np.ptp(wanted) > 5
    assert (found["probe_error"] > 0).all()
    off, bound = np.abs(found["log_density"] - wanted), found["step_change"].abs() + 4 * found["probe_error"]
    assert (off <= bound).all()
    assert off.mean() < 0.5  # nats, of 12 dimensions
    assert found["bits_per_dim"].to_numpy() == pytest.approx(8 - found["log_density"] / math.log(2) / 12)


def test_the_error_over_probes_and_steps_is_as_stated():
    """The scatter of two seeds is their stated error; the solver's error falls by four when its steps are doubled."""
    truth = GaussianDenoiser.make(SHAPE, seed=2)
    images, ids = images_of(truth, 200)
    flow = flow_of(truth.mean.float(), steps=8, probes=4)
    clean = noisy(images, ids, flow.low)

    def off(seed, given):
        found = frame(truth, images, ids, given, seed).to_pandas()
        return found["log_density"] - closed_form(truth, noisy(images, ids, flow.low, seed), given), found

    bias = {steps: off(0, flow_of(flow.mean, steps=steps, probes=4))[0] for steps in (16, 32)}
    exact = {steps: off(0, flow_of(flow.mean, steps=steps, probes=4))[1]["step_change"] for steps in (32, 64)}
    assert exact[32].mean() / exact[64].mean() == pytest.approx(4, rel=0.25)
    first, table = off(1, flow_of(flow.mean, steps=64, probes=4))
    assert (first / table["probe_error"]).abs().median() == pytest.approx(0.77, abs=0.3)  # Student's t of 3
    assert clean.shape[0] == len(bias[16])


def test_the_trace_is_exact_where_probes_see_all_of_it():
    """If the covariance is a multiple of the identity, every probe gives the trace, and the error is 0."""
    truth = GaussianDenoiser(torch.zeros(SHAPE).double(), torch.full((12,), 0.09).double(), torch.eye(12).double())
    images, ids = images_of(truth, 5)
    flow = flow_of(torch.zeros(SHAPE), steps=128)
    found = frame(truth, images, ids, flow).to_pandas()
    assert found["probe_error"].max() < 1e-4
    half = frame(truth, images, ids, flow_of(torch.zeros(SHAPE), steps=64)).to_pandas()
    assert found["step_change"].to_numpy() == pytest.approx(found["log_density"] - half["log_density"], rel=1e-6)
    assert found["log_density"].to_numpy() == pytest.approx(
        closed_form(truth, noisy(images, ids, 0.05), flow), abs=0.01
    )


def test_divergence_of_two_gaussians_is_their_kl():
    """On images of A the bits that B spends more are KL(A || B) at the lowest noise, within the interval and rounding."""
    a, b = GaussianDenoiser.make(SHAPE, seed=1), GaussianDenoiser.make(SHAPE, seed=2)
    images, ids = images_of(a, 400)
    flow = flow_of(torch.zeros(SHAPE), high=40.0, low=0.2, steps=64, probes=2)
    of_a, of_b = (frame(each, images, ids, flow) for each in (a, b))
    found = likelihoods.divergence(of_a, of_b, seed=0)
    covariances = [each.axes @ torch.diag(each.variances + 0.2**2) @ each.axes.T for each in (a, b)]
    inverse, shift = torch.linalg.inv(covariances[1]), (b.mean - a.mean).flatten()
    logs = torch.logdet(covariances[1]) - torch.logdet(covariances[0])
    kl = float(((inverse @ covariances[0]).trace() + shift @ inverse @ shift - 12 + logs) / 2 / math.log(2) / 12)
    assert kl > 0.1
    assert found.low < kl < found.high
    assert found.high - found.low < kl / 2
    groups = {each: f"{i // 40}" for i, each in enumerate(ids)}
    grouped = likelihoods.divergence(of_a, of_b, 0, groups)
    assert (grouped.estimate, grouped.n, found.n) == (pytest.approx(found.estimate), 10, 400)
    with pytest.raises(DataError, match="g and g differ in image_id"):
        likelihoods.divergence(of_a, frame(b, images.flip(0), ids[::-1], flow), seed=0)


def test_batches_and_other_images_change_nothing():
    """The noise and the probes belong to the image, so a part of the images has the same rows."""
    truth = GaussianDenoiser.make(SHAPE, seed=2)
    images, ids = images_of(truth, 7)
    flow = flow_of(truth.mean.float(), steps=4)
    whole = frame(truth, images, ids, flow).to_pandas()
    part = frame(truth, images[2:5], ids[2:5], flow, batch=2).to_pandas()
    assert part["log_density"].to_numpy() == pytest.approx(whole["log_density"][2:5].to_numpy(), rel=1e-9)


def test_networks_have_a_likelihood_and_nan_is_named():
    """A blind network is differentiable in its input, and its weights stay as they were; NaN is an error."""
    network = build(UNetSettings(blocks=1, width=4), (1, 8, 8))
    network.initialize(torch.Generator().manual_seed(0))
    network.eval().requires_grad_(False)
    images = np.random.default_rng(0).random((6, 1, 8, 8)).astype(np.float32)
    given = subject(
        "s", denoiser=network, train=ImageSet.from_pixels(images[:3]), held_out=ImageSet.from_pixels(images[3:])
    )
    flow = flow_of(torch.full((1, 8, 8), 0.5), steps=4, n_images=2)
    found = measure_likelihood(given, flow).to_pandas()
    assert found["kind"].tolist() == ["train"] * 2 + ["holdout"] * 2
    assert np.isfinite(found["log_density"]).all()
    assert all(parameter.grad is None for parameter in network.parameters())
    broken = GaussianDenoiser(torch.full(SHAPE, float("nan")).double(), torch.ones(12).double(), torch.eye(12).double())
    with pytest.raises(DataError, match="not finite"):
        frame(broken, torch.zeros(2, *SHAPE), ["a", "b"], flow_of(torch.zeros(SHAPE), steps=4))
    with pytest.raises(DataError, match="no held-out images"):
        measure_likelihood(subject("s", denoiser=network), flow)


def test_gap_of_a_model_that_knows_its_images():
    """A Gaussian that is narrow around T costs fewer bits on T; a model that treats both alike has a gap around 0."""
    truth = GaussianDenoiser.make(SHAPE, seed=2)
    images, ids = images_of(truth, 80)
    flow = flow_of(truth.mean.float(), steps=8, probes=2)
    keys = {"train": slice(0, 40), "holdout": slice(40, 80)}
    rows = [measure(truth, images[cut], ids[cut], kind, flow, 0, 64, KEYS) for kind, cut in keys.items()]
    alike = likelihoods.gap(pa.concat_tables(rows), None, 0)
    assert alike.low < 0 < alike.high
    far = images.clone()
    far[40:] += 1
    rows = [measure(truth, far[cut], ids[cut], kind, flow, 0, 64, KEYS) for kind, cut in keys.items()]
    apart = likelihoods.gap(pa.concat_tables(rows), None, 0)
    assert apart.low > 0
    table = pa.concat_tables(rows).to_pandas().groupby("kind")["bits_per_dim"].mean()
    assert apart.estimate == pytest.approx(table["holdout"] - table["train"])
    summary = likelihoods.summarize(pa.concat_tables(rows), None, 0)
    assert (summary.gap, summary.sigma_low, summary.independent) == (apart, flow.low, "image")
    halves = {each: f"{i // 20}" for i, each in enumerate(ids)}
    grouped = likelihoods.summarize(pa.concat_tables(rows), halves, 0)
    assert (grouped.train.n, grouped.held_out.n, grouped.independent) == (2, 2, "group")
