"""Samplers along noise levels: exact flows of Gaussians, published formulas in their own coordinates, and diffusers."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from truth import GaussianDenoiser, ZeroDenoiser

from memgen.base import config, noise
from memgen.base.errors import ConfigError, ShapeError
from memgen.models import inverse
from memgen.models.guidance import GuidedDenoiser
from memgen.models.networks import UNetSettings, build
from memgen.models.sampling import METHODS, SampleSettings, expected_calls, sample
from memgen.models.solvers import noise_levels

SHAPE = (1, 6, 6)
SOLVERS = tuple(method for method in METHODS if method != "stochastic")
MEAN = torch.full(SHAPE, 0.5)


def settings(**given) -> SampleSettings:
    return config.validate(SampleSettings, {"micro_batch": 4, **given}, "test")


def normals(index: int, count: int = 1, seed: int = 0, shape=SHAPE) -> list[torch.Tensor]:
    """The first normal images of a sample's stream."""
    stream = noise.stream("sample", seed, index)
    return [torch.from_numpy(noise.normal(stream, shape)) for _ in range(count)]


def flow_map(truth: GaussianDenoiser, y: torch.Tensor, high: float, low: float) -> torch.Tensor:
    """The probability flow of a Gaussian from one noise level to another: each coefficient goes like its deviation."""
    scale = ((truth.variances + low**2) / (truth.variances + high**2)).sqrt()
    centered = (y.double() - truth.mean).flatten(1) @ truth.axes
    return truth.mean + ((centered * scale) @ truth.axes.T).view(y.shape)


def error(method: str, steps: int, **given) -> float:
    """Largest error of samples of a Gaussian against the exact flow, before the last denoising."""
    truth = GaussianDenoiser.make(SHAPE, seed=3)
    chosen = settings(method=method, steps=steps, final_denoise=False, **given)
    drawn = sample(truth, MEAN, range(3), 0, chosen)
    start = MEAN + chosen.sigma_start * torch.stack([normals(i)[0] for i in range(3)])
    wanted = flow_map(truth, start, chosen.sigma_start, chosen.sigma_end)
    assert float((wanted - start).abs().max()) > 0.5  # the flow does move the images
    return float((torch.from_numpy(drawn.images) - wanted).abs().max())


@pytest.mark.parametrize(("method", "order"), [("heun", 2), ("ddim", 1), ("euler", 1)])
def test_samples_of_a_gaussian_follow_its_flow(method, order):
    """The error against the closed form falls like the step to the power of the order, and to below 1 % of a pixel."""
    errors = [error(method, steps) for steps in (41, 81, 161)]
    rates = [math.log2(first / second) for first, second in pairwise(errors)]
    assert rates == pytest.approx([order, order], abs=0.2)
    assert errors[-1] < (1e-3 if order == 2 else 1e-2)


def test_ancestral_samples_of_a_gaussian_have_its_law():
    """With many steps the variance of DDPM's samples along each axis is λ + σ_end², within four standard errors."""
    truth, count = GaussianDenoiser.make((1, 4, 4), seed=0), 1500
    chosen = settings(method="ddpm", steps=150, sigma_start=20, micro_batch=count, final_denoise=False)
    drawn = sample(truth, torch.zeros(1, 4, 4), range(count), 0, chosen)
    assert set(drawn.status) == {"converged"}
    axes = (torch.from_numpy(drawn.images).double() - truth.mean).flatten(1) @ truth.axes
    share = axes.square().mean(0) / (truth.variances + 0.05**2)
    assert float((share - 1).abs().max()) < 4 * math.sqrt(2 / count) + 0.03  # 150 steps leave some percent


def linear_bars(steps: int) -> np.ndarray:
    """ᾱ of the linear schedule of Ho et al. 2020, section 4: β from 1e-4 to .02."""
    return np.cumprod(1 - np.linspace(1e-4, 0.02, steps))


def vp_network(truth, x: torch.Tensor, bar: float) -> torch.Tensor:
    """The noise that an exact model predicts at x_t of pixels in [-1, 1], from the denoiser of pixels in [0, 1]."""
    level = math.sqrt((1 - bar) / bar)
    clean = 2 * truth((x / math.sqrt(bar) + 1) / 2, torch.full((len(x),), level / 2)) - 1
    return (x - math.sqrt(bar) * clean) / math.sqrt(1 - bar)


def levels_of(bars: np.ndarray) -> list[float]:
    """The noise levels of times t, for pixels in [0, 1]."""
    return [math.sqrt((1 - bar) / bar) / 2 for bar in bars]


def start_of(sigma: float, index: int) -> torch.Tensor:
    return (MEAN + sigma * normals(index)[0])[None]


BARS = linear_bars(1000)[::-1][300::50]


def test_ddim_equals_its_formula():
    """Song, Meng & Ermon 2021, eq. 12 with η = 0, in the coordinates x_t of pixels in [-1, 1]."""
    truth, sigmas = GaussianDenoiser.make(SHAPE, seed=1), levels_of(BARS)
    drawn = sample(truth, MEAN, range(2), 0, settings(method="ddim", sigmas=sigmas))
    for i in range(2):
        x = math.sqrt(BARS[0]) * (2 * start_of(sigmas[0], i) - 1)
        for bar, previous in zip(BARS, [*BARS[1:], 1.0], strict=True):
            eps = vp_network(truth, x, bar)
            clean = (x - math.sqrt(1 - bar) * eps) / math.sqrt(bar)
            x = math.sqrt(previous) * clean + math.sqrt(1 - previous) * eps
        np.testing.assert_allclose(drawn.images[i], ((x + 1) / 2)[0], atol=1e-5)


def test_ddpm_equals_its_formula():
    """Ho, Jain & Abbeel 2020, eq. 6 and 7 (Algorithm 2 with the posterior's variance), with the same noise."""
    truth, sigmas = GaussianDenoiser.make(SHAPE, seed=1), levels_of(BARS)
    drawn = sample(truth, MEAN, range(2), 0, settings(method="ddpm", sigmas=sigmas))
    for i in range(2):
        _, *fresh = normals(i, len(BARS))
        x = math.sqrt(BARS[0]) * (2 * start_of(sigmas[0], i) - 1)
        for bar, previous, z in zip(BARS, [*BARS[1:], 1.0], [*fresh, torch.zeros(SHAPE)], strict=True):
            alpha, beta = bar / previous, 1 - bar / previous
            clean = (x - math.sqrt(1 - bar) * vp_network(truth, x, bar)) / math.sqrt(bar)
            mean = math.sqrt(previous) * beta / (1 - bar) * clean
            mean = mean + math.sqrt(alpha) * (1 - previous) / (1 - bar) * x
            x = mean + math.sqrt((1 - previous) / (1 - bar) * beta) * z
        np.testing.assert_allclose(drawn.images[i], ((x + 1) / 2)[0], atol=1e-5)


TIMES = np.linspace(0.9, 0.05, 12)


def velocity(truth, x: torch.Tensor, t: float) -> torch.Tensor:
    """The velocity n - x that an exact flow-matching model predicts at x_t = (1 - t) x + t n, pixels in [-1, 1]."""
    clean = 2 * truth((x / (1 - t) + 1) / 2, torch.full((len(x),), t / (1 - t) / 2)) - 1
    return (x - clean) / t


def test_euler_equals_flow_matching():
    """dx/dt = v(x, t) by Euler's method from t = .9 to 0, in the coordinates of flow matching."""
    truth, sigmas = GaussianDenoiser.make(SHAPE, seed=1), [t / (1 - t) / 2 for t in TIMES]
    drawn = sample(truth, MEAN, range(2), 0, settings(method="euler", sigmas=sigmas))
    for i in range(2):
        x = (1 - TIMES[0]) * (2 * start_of(sigmas[0], i) - 1)
        for t, following in zip(TIMES, [*TIMES[1:], 0.0], strict=True):
            x = x + (following - t) * velocity(truth, x, t)
        np.testing.assert_allclose(drawn.images[i], ((x + 1) / 2)[0], atol=1e-5)


def test_heun_equals_algorithm_1():
    """Karras et al. 2022, Algorithm 1 with the levels of eq. 5, one sample, as a plain loop with its last step to 0."""
    truth = GaussianDenoiser.make(SHAPE, seed=1)
    drawn = sample(truth, MEAN, [5], 0, settings(method="heun", steps=9, sigma_start=10, sigma_end=0.01))
    i, rho = np.arange(9), 7
    t = [*(10 ** (1 / rho) + i / 8 * (0.01 ** (1 / rho) - 10 ** (1 / rho))) ** rho, 0.0]
    x = start_of(10, 5)
    for now, following in pairwise(t):
        d = (x - truth(x, torch.tensor([now]))) / now
        moved = x + (following - now) * d
        if following:
            other = (moved - truth(moved, torch.tensor([following]))) / following
            moved = x + (following - now) * (d + other) / 2
        x = moved
    np.testing.assert_allclose(drawn.images[0], x[0], atol=1e-5)


def in_diffusers(scheduler, x: torch.Tensor, network) -> np.ndarray:
    """Samples of a diffusers scheduler, as pixels in [0, 1]."""
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x).prev_sample
    return ((x + 1) / 2).numpy()


def test_ddim_equals_diffusers():
    """The scheduler of diffusers gives the same images from the same noise."""
    diffusers = pytest.importorskip("diffusers", reason="needs the package diffusers")
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    truth, bars = GaussianDenoiser.make(SHAPE, seed=2), scheduler.alphas_cumprod[scheduler.timesteps].double().tolist()
    drawn = sample(truth, MEAN, range(2), 0, settings(method="ddim", sigmas=levels_of(bars)))
    start = torch.cat([start_of(levels_of(bars)[0], i) for i in range(2)])
    x = math.sqrt(bars[0]) * (2 * start - 1)
    wanted = in_diffusers(scheduler, x, lambda x, t: vp_network(truth, x, float(scheduler.alphas_cumprod[t])))
    np.testing.assert_allclose(drawn.images, wanted, atol=1e-4)


def test_ddpm_equals_diffusers(monkeypatch):
    """So does its ancestral sampler, if it gets the noise of memgen's streams."""
    pytest.importorskip("diffusers", reason="needs the package diffusers")
    from diffusers.schedulers import scheduling_ddpm

    scheduler = scheduling_ddpm.DDPMScheduler(clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    truth, bars = GaussianDenoiser.make(SHAPE, seed=2), scheduler.alphas_cumprod[scheduler.timesteps].double().tolist()
    drawn = sample(truth, MEAN, [4], 0, settings(method="ddpm", sigmas=levels_of(bars)))
    fresh = iter([*normals(4, 20)[1:], torch.zeros(SHAPE)])  # diffusers scales the last by 1e-10
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: next(fresh)[None])
    x = math.sqrt(bars[0]) * (2 * start_of(levels_of(bars)[0], 4) - 1)
    wanted = in_diffusers(scheduler, x, lambda x, t: vp_network(truth, x, float(scheduler.alphas_cumprod[t])))
    np.testing.assert_allclose(drawn.images, wanted, atol=1e-4)


def test_euler_equals_diffusers():
    """So does its scheduler for flow matching, from t = .95."""
    diffusers = pytest.importorskip("diffusers", reason="needs the package diffusers")
    scheduler, times = diffusers.FlowMatchEulerDiscreteScheduler(), np.linspace(0.95, 0.05, 10)
    scheduler.set_timesteps(sigmas=times.tolist())
    truth, sigmas = GaussianDenoiser.make(SHAPE, seed=2), [t / (1 - t) / 2 for t in times]
    drawn = sample(truth, MEAN, range(2), 0, settings(method="euler", sigmas=sigmas))
    start = torch.cat([start_of(sigmas[0], i) for i in range(2)])
    network = lambda x, t: velocity(truth, x, float(t) / 1000)  # noqa: E731
    wanted = in_diffusers(scheduler, (1 - times[0]) * (2 * start - 1), network)
    np.testing.assert_allclose(drawn.images, wanted, atol=1e-4)


def network(seed: int = 0) -> torch.nn.Module:
    made = build(UNetSettings(blocks=1, width=4), (1, 8, 8))
    made.initialize(torch.Generator().manual_seed(seed))
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("method", SOLVERS)
def test_a_sample_does_not_depend_on_the_others(method):
    """In parts and in any order: the same images, bit for bit, of a blind network and of one that knows the level."""
    for denoiser in (network(), GaussianDenoiser.make((1, 8, 8), seed=0)):
        chosen, mean = settings(method=method, steps=3), torch.full((1, 8, 8), 0.5)
        whole = sample(denoiser, mean, range(6), 0, chosen)
        assert (whole.status == "converged").all()
        for part in ([5], [4, 2, 5]):
            np.testing.assert_array_equal(sample(denoiser, mean, part, 0, chosen).images, whole.images[part])


@pytest.mark.parametrize("method", METHODS)
def test_all_models_and_methods_start_from_the_same_noise(method):
    """A denoiser that changes nothing shows the first noise of each sample; two models with one answer draw the same."""

    class Same(ZeroDenoiser):
        def __call__(self, noisy, sigma=None):
            return noisy

    first = {"h0": 1e-12, "beta": 1, "max_steps": 1} if method == "stochastic" else {"steps": 2}
    drawn = sample(Same(SHAPE), MEAN, [3, 8], 7, settings(method=method, final_denoise=False, **first)).images
    noisy = [MEAN + normals(i, seed=7)[0] for i in (3, 8)]
    if method != "ddpm":
        np.testing.assert_allclose(drawn, torch.stack(noisy), atol=1e-5)
    one, other = GaussianDenoiser.make(SHAPE, seed=1), GaussianDenoiser.make(SHAPE, seed=1)
    chosen = settings(method=method)
    np.testing.assert_array_equal(
        sample(one, MEAN, [3], 7, chosen).images, sample(other, MEAN, [2, 3], 7, chosen).images[1:]
    )
    assert not np.allclose(sample(one, MEAN, [3], 7, chosen).images, sample(one, MEAN, [3], 8, chosen).images)


class Blind:
    """A denoiser that ignores the noise level: a point mass at an image."""

    blind = True

    def __init__(self, image):
        self.image, self.image_shape, self.given = image, tuple(image.shape), []

    def __call__(self, noisy, sigma=None):
        self.given.append(sigma)
        return self.image.expand_as(noisy)


@pytest.mark.parametrize("method", METHODS)
def test_blind_denoisers_are_sampled_by_every_method(method):
    """A blind denoiser of one image draws that image, and its residual follows the noise levels of the list."""
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    drawn = sample(Blind(image), image, range(3), 0, settings(method=method))
    np.testing.assert_allclose(drawn.images, image.expand(3, *SHAPE), atol=1e-6)
    assert (drawn.status == "converged").all()
    if method not in ("stochastic", "ddpm"):  # no noise is added, so the level of the first noise is kept
        share = drawn.levels[:, :, 1] / drawn.levels[:, :, 0]
        np.testing.assert_allclose(share, np.broadcast_to(share[0], share.shape), rtol=1e-4)
    elif method == "ddpm":
        assert drawn.levels[:, :, 1] == pytest.approx(drawn.levels[:, :, 0], rel=0.5)


@pytest.mark.parametrize("method", SOLVERS)
def test_restorations_agree_with_the_measurement(method):
    """With a constraint, every method ends with images that agree with it, and differ from what was measured."""
    truth = GaussianDenoiser.make(SHAPE, seed=3)
    clean = truth.draw(5, 1).float()
    measurement = inverse.build(inverse.choose("random_pixels", 0.3, SHAPE), SHAPE, 0)
    constraint = inverse.Constraint.of(measurement, clean)
    drawn = torch.from_numpy(sample(truth, MEAN, range(5), 0, settings(method=method), constraint=constraint).images)
    torch.testing.assert_close(measurement.project(drawn), constraint.measured, atol=1e-5, rtol=0)
    assert float((drawn - constraint.filled(MEAN)).abs().max()) > 0.1


def test_samples_that_are_lost_are_kept_and_marked():
    """An iterate that becomes NaN, or whose residual runs away, is diverged; it stays finite, and others go on."""

    class Strange(ZeroDenoiser):
        def __call__(self, noisy, sigma=None):
            bad = noisy.flatten(1).mean(1) > 0
            return torch.where(bad[:, None, None, None], noisy * float("nan"), torch.zeros_like(noisy))

    drawn = sample(Strange(SHAPE), torch.zeros(SHAPE), range(20), 0, settings(method="heun"))
    assert set(drawn.status) == {"converged", "diverged"}
    assert np.isfinite(drawn.images).all()
    away = Blind(torch.full(SHAPE, 1e3))
    assert set(sample(away, MEAN, range(3), 0, settings(method="ddim")).status) == {"diverged"}
    broad = settings(method="ddim", sigma_start=80, sigma_end=0.001)
    assert set(sample(Blind(MEAN), MEAN, range(3), 0, broad).status) == {"converged"}


@pytest.mark.parametrize(
    ("schedule", "time"),
    [
        ("edm", lambda s: s ** (1 / 7)),
        ("vp", lambda s: np.sqrt(0.01 + 39.8 * np.log1p((2 * s) ** 2)) / 19.9),
        ("flow", lambda s: 2 * s / (1 + 2 * s)),
    ],
)
def test_noise_levels(schedule, time):
    """Each list falls from the first level to the last, in equal steps of the time of its schedule."""
    levels = noise_levels(schedule, 40.0, 0.002, 25, 7)
    assert (levels[0], levels[-1]) == (40.0, 0.002)
    assert np.diff(time(levels)) == pytest.approx(np.diff(time(levels)).mean(), rel=1e-6)
    assert (np.diff(levels) < 0).all()


def test_settings_of_one_kind_of_sampler_are_refused_with_the_other():
    """Steps of the stochastic sampler, β of the others, levels that do not fall, and levels given twice are errors."""
    for given, said in (
        ({"steps": 10}, "steps does nothing with the method stochastic"),
        ({"method": "heun", "beta": 0.5, "h0": 0.1}, "h0, beta do nothing with the method heun"),
        ({"method": "heun", "preset": "paper"}, "preset, growing_step, max_steps do nothing"),
        ({"method": "ddim", "sigmas": [0.1, 0.2]}, "each below the one before it"),
        ({"method": "ddim", "sigmas": [0.2]}, "at least two"),
        ({"method": "ddim", "sigmas": [0.2, 0.1], "steps": 3}, "follow from sigmas"),
        ({"method": "ddim", "sigma_end": 2}, "sigma_end must be below sigma_start"),
        ({"method": "edm"}, "'stochastic', 'heun', 'ddim', 'ddpm' or 'euler'"),
    ):
        with pytest.raises(ConfigError, match=said):
            settings(**given)
    given = settings(method="ddim", sigmas=[0.4, 0.1])
    assert (given.sigma_start, given.sigma_end, given.steps) == (0.4, 0.1, 2)
    assert settings(**given.model_dump()) == given
    assert settings(beta=0.5, sigma_end=0.02).drawn_by("heun") == settings(method="heun", sigma_end=0.02)
    with pytest.raises(ConfigError, match="below sigma_start"):
        settings(sigma_end=2).drawn_by("ddim")


def test_expected_calls():
    """Denoised images for a sample, besides the last, are those that a run makes."""
    for method, wanted in (("heun", 10), ("ddim", 5), ("ddpm", 5), ("euler", 5)):
        counted = Blind(MEAN)
        sample(counted, MEAN, range(2), 0, settings(method=method, steps=6))
        assert len(counted.given) - 1 == wanted == expected_calls(settings(method=method, steps=6))


def test_guidance():
    """Guided by w, a denoiser is a line through its two parts, draws samples, and is refused where these do not fit."""
    one, other = GaussianDenoiser.make(SHAPE, seed=1), GaussianDenoiser.make(SHAPE, seed=2)
    noisy, sigma = torch.rand(3, *SHAPE), torch.full((3,), 0.3)
    for weight, wanted in ((0, other(noisy, sigma)), (1, one(noisy, sigma))):
        torch.testing.assert_close(GuidedDenoiser(one, other, weight)(noisy, sigma), wanted)
    guided = GuidedDenoiser(one, other, 3)
    torch.testing.assert_close(guided(noisy, sigma), 3 * one(noisy, sigma) - 2 * other(noisy, sigma))
    assert (guided.blind, guided.image_shape, guided.training) == (False, SHAPE, False)
    assert GuidedDenoiser(Blind(MEAN), Blind(MEAN), 2).blind
    assert set(sample(guided, MEAN, range(2), 0, settings(method="heun")).status) == {"converged"}
    with pytest.raises(ShapeError, match="same shape"):
        GuidedDenoiser(one, Blind(torch.zeros(1, 2, 2)), 2)
