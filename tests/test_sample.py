"""Stochastic reverse diffusion: the authors' iteration counts, known truths, and noise that belongs to its sample."""

import numpy as np
import pytest
import torch
from truth import GaussianDenoiser, IdealDenoiser, ZeroDenoiser

from memgen.base import noise
from memgen.base.errors import ShapeError
from memgen.models.known.fitting import EmpiricalSettings, GaussianSettings, LocalSettings, fit
from memgen.models.networks import UNetSettings, build
from memgen.models.sampling import SampleSettings, expected_updates, sample

SHAPE = (1, 8, 8)


def mean(shape=SHAPE) -> torch.Tensor:
    return torch.full(shape, 0.5)


def network(seed: int = 0) -> torch.nn.Module:
    made = build(UNetSettings(blocks=1, width=4), SHAPE)
    generator = torch.Generator().manual_seed(seed)
    made.initialize(generator)
    for module in made.modules():  # larger γ, so that the network is far from the identity
        if hasattr(module, "gammas"):
            module.gammas.data = 0.5 + 0.1 * torch.randn(module.gammas.shape, generator=generator)
    return made.eval().requires_grad_(False)


class Blind:
    """A closed-form denoiser made blind: σ is taken from a list, not from the caller."""

    blind = True

    def __init__(self, function, image_shape):
        self.function, self.image_shape = function, image_shape

    def __call__(self, noisy, sigma=None):
        return self.function(noisy)


def test_iterations_on_the_zero_denoiser():
    """On f = 0 at 80x80 with sigma_end = .1 the authors' t = updates + 1 ends between 81 and 90 (60 seeds)."""
    denoiser = Blind(torch.zeros_like, (1, 80, 80))
    drawn = sample(denoiser, torch.zeros(1, 80, 80), range(60), 0, SampleSettings(sigma_end=0.1, micro_batch=60))
    assert (drawn.status == "converged").all()
    assert drawn.updates.min() + 1 >= 81
    assert drawn.updates.max() + 1 <= 90
    assert np.ptp(drawn.updates) > 0


@pytest.mark.parametrize(
    ("settings", "t"),
    [
        ({"sigma_end": 0.1}, 84),
        ({"sigma_end": 0.05}, 98),
        ({"sigma_end": 0.01}, 128),
        ({"sigma_end": 0.1, "beta": 1}, 23),
        ({"sigma_end": 0.01, "beta": 1}, 33),
        ({"sigma_end": 0.1, "beta": 0.01}, 388),
        ({"preset": "paper", "sigma_end": 0.1}, 2303),
        ({"preset": "paper"}, 2996),
    ],
)
def test_expected_updates_of_a_perfect_denoiser(settings, t):
    """Contraction by 1 - βh a step gives the counts of science.md 4.3 (about: they count the crossing or one more)."""
    assert abs(expected_updates(SampleSettings(**settings)) - t) <= 1


def test_step_sizes():
    """h_t = h0 t / (1 + h0 (t - 1)) at the values measured on the authors' code; the paper's preset keeps h0."""
    found = [round(SampleSettings().step_size(t), 3) for t in (1, 10, 25, 50, 75, 87, 100, 200)]
    assert found == [0.01, 0.092, 0.202, 0.336, 0.431, 0.468, 0.503, 0.669]
    assert SampleSettings(preset="paper").step_size(100) == 0.01


def reference(denoiser, start, index, seed, settings):
    """The algorithm of science.md 4.1, one sample, as a plain loop."""
    stream = noise.stream("sample", seed, index)
    y = start + settings.sigma_start * torch.from_numpy(noise.normal(stream, tuple(start.shape)))
    d, t, sigma = start.numel(), 1, float("inf")
    while sigma > settings.sigma_end:
        h = settings.h0 * t / (1 + settings.h0 * (t - 1))
        r = y - denoiser(y[None])[0]
        sigma = float(r.double().norm()) / d**0.5
        gamma = sigma * ((1 - settings.beta * h) ** 2 - (1 - h) ** 2) ** 0.5
        y = y - h * r + gamma * torch.from_numpy(noise.normal(stream, tuple(start.shape)))
        t += 1
    return denoiser(y[None])[0], t - 1


@pytest.mark.gpu
def test_on_cuda():
    """The same noise as on the CPU: at a few large steps, before rounding can be amplified, the same images."""
    settings = SampleSettings(max_steps=5, growing_step=False, h0=0.2)
    on_cpu = sample(network(), mean(), range(3), 0, settings).images
    on_cuda = sample(network().cuda(), mean().cuda(), range(3), 0, settings).images
    np.testing.assert_allclose(on_cuda, on_cpu, atol=1e-2)


def test_samples_equal_a_plain_loop():
    """Batched sampling gives what the algorithm gives one sample at a time."""
    truth = GaussianDenoiser.make(SHAPE, seed=1)
    denoiser = Blind(lambda y: truth(y, torch.full((len(y),), 0.2)), SHAPE)
    settings = SampleSettings(sigma_end=0.3)
    drawn = sample(denoiser, mean(), range(5), 7, settings)
    assert np.ptp(drawn.updates) > 0  # samples do leave the batch at different times
    for i in range(5):
        image, updates = reference(denoiser, mean(), i, 7, settings)
        assert updates == drawn.updates[i]
        np.testing.assert_allclose(drawn.images[i], image.numpy(), atol=1e-5)


def test_first_injected_noise_is_independent_of_the_initial_noise():
    """The authors' generator restarts, so both are equal there; here their correlation is within 4 standard errors of 0."""
    stream = noise.stream("sample", 0, 0)
    initial, injected = noise.normal(stream, (100_000,)), noise.normal(stream, (100_000,))
    assert abs(np.corrcoef(initial, injected)[0, 1]) < 4 / np.sqrt(100_000)


def test_twins_get_the_same_noise():
    """The initial iterate of a sample depends on (seed, index) alone: two denoisers start from the same image."""
    settings = SampleSettings(max_steps=1, final_denoise=False, h0=1e-12, beta=1)
    one = sample(network(0), mean(), [3], 5, settings).images
    other = sample(network(1), mean(), [3], 5, settings).images
    np.testing.assert_allclose(one, other, atol=1e-6)
    assert not np.allclose(one, sample(network(0), mean(), [4], 5, settings).images)
    assert not np.allclose(one, sample(network(0), mean(), [3], 6, settings).images)


def test_cutting_the_sample_set_changes_no_bit():
    """At one micro-batch size, whole or in parts, in any order: the same images, bit for bit."""
    settings = SampleSettings(sigma_end=0.3, micro_batch=4, max_steps=60)
    whole = sample(network(), mean(), range(10), 0, settings)
    for part in ([7], [9, 2, 5], list(range(4, 10))):
        drawn = sample(network(), mean(), part, 0, settings)
        np.testing.assert_array_equal(drawn.images, whole.images[part])
        np.testing.assert_array_equal(drawn.updates, whole.updates[part])
        np.testing.assert_array_equal(drawn.sigma, whole.sigma[part])


@pytest.mark.parametrize(
    "settings", [EmpiricalSettings(), GaussianSettings(), LocalSettings()], ids=lambda s: s.architecture
)
def test_cutting_the_samples_of_closed_forms_changes_no_bit(settings):
    """So it is with denoisers that are matrix products, at a micro-batch that fits no block of the processor."""
    images = torch.rand((40, *SHAPE), generator=torch.Generator().manual_seed(0)).numpy()
    denoiser, few = fit(settings, images), SampleSettings(micro_batch=7, max_steps=15)
    whole = sample(denoiser, mean(), range(20), 0, few)
    for first in (1, 7, 13):
        drawn = sample(denoiser, mean(), range(first, 20), 0, few)
        np.testing.assert_array_equal(drawn.images, whole.images[first:])
        np.testing.assert_array_equal(drawn.residual_sigma, whole.residual_sigma[first:])


def test_micro_batch_size_changes_rounding_only():
    """Another micro-batch size moves samples by no more than rounding on this smooth problem."""
    draws = [
        sample(network(), mean(), range(6), 0, SampleSettings(max_steps=20, micro_batch=m)).images for m in (1, 4, 32)
    ]
    for other in draws[1:]:
        np.testing.assert_allclose(other, draws[0], atol=1e-4)


def test_ideal_denoiser_samples_its_images():
    """The denoiser that has memorized a set draws members of the set, all of them in turn."""
    images = torch.rand((5, *SHAPE), generator=torch.Generator().manual_seed(0))
    drawn = sample(IdealDenoiser(images), images.mean(0), range(40), 0, SampleSettings(sigma_end=0.01))
    distance = (torch.from_numpy(drawn.images)[:, None] - images).flatten(2).square().mean(2).sqrt()
    assert distance.min(dim=1).values.max() < 1e-3
    assert len(set(distance.argmin(dim=1).tolist())) == 5


def test_gaussian_denoiser_samples_the_gaussian_deterministically():
    """With β = 1, small steps and σ known, the flow of the Wiener denoiser is linear: its closed form, coordinate by coordinate.

    Along an axis of variance λ one step multiplies y - mean by 1 - h σ² / (λ + σ²), and σ by 1 - h.
    """
    truth = GaussianDenoiser.make(SHAPE, seed=2)
    settings = SampleSettings(beta=1, growing_step=False, h0=0.05, final_denoise=False, sigma_end=0.05)
    drawn = sample(truth, truth.mean.float(), range(4), 0, settings)
    starts = np.stack([noise.normal(noise.stream("sample", 0, i), SHAPE) for i in range(4)])
    sigma, factor = 1.0, torch.ones(64, dtype=torch.float64)
    for _ in range(drawn.updates[0]):
        factor *= 1 - 0.05 * sigma**2 / (truth.variances + sigma**2)
        sigma *= 0.95
    expected = (torch.from_numpy(starts).double().flatten(1) @ truth.axes * factor) @ truth.axes.T
    found = torch.from_numpy(drawn.images).double() - truth.mean
    np.testing.assert_allclose(found.flatten(1), expected, atol=1e-5)
    assert factor.min() < 0.2  # the truth is not degenerate: some axes are shrunk much, others little
    assert factor.max() > 2 * factor.min()


def test_a_denoiser_that_needs_sigma_is_given_the_carried_level():
    """σ_{t+1} = (1 - β h_t) σ_t is passed in, and the measured residual is logged beside it."""
    seen = []

    class Spy(ZeroDenoiser):
        blind = False

        def __call__(self, noisy, sigma=None):
            seen.append(sigma[0].item())
            return super().__call__(noisy, sigma)

    settings = SampleSettings(micro_batch=1, sigma_end=0.5)
    drawn = sample(Spy(SHAPE), torch.zeros(SHAPE), [0], 0, settings)
    expected, level = [], 1.0
    for t in range(1, int(drawn.updates[0]) + 1):
        expected.append(level)
        level *= 1 - settings.beta * settings.step_size(t)
    np.testing.assert_allclose(seen, [*expected, level], rtol=1e-6)
    assert drawn.levels[0, 0, 0] == 1
    assert 0.7 < drawn.levels[0, 0, 1] < 1.3
    assert drawn.levels[0, 0, 1] != 1


def test_lost_samples_are_kept_and_marked():
    """A sample above the divergence level, one with NaN and one that never converges are returned, finite and marked."""

    def strange(y):
        out = torch.zeros_like(y)
        lost = y.flatten(1)[:, 0] > 1.5  # a property of the sample itself, met at the start by about 1 in 15
        out[lost] = -3 * y[lost]
        return out

    drawn = sample(Blind(strange, SHAPE), torch.zeros(SHAPE), range(60), 0, SampleSettings(max_steps=300))
    assert set(drawn.status) == {"diverged", "converged"}
    assert np.isfinite(drawn.images).all()
    assert (drawn.residual_sigma[drawn.status == "diverged"] > 2).all()
    broken = sample(Blind(lambda y: y * float("nan"), SHAPE), mean(), range(3), 0, SampleSettings())
    assert set(broken.status) == {"diverged"}
    assert np.isfinite(broken.images).all()
    slow = sample(Blind(torch.zeros_like, SHAPE), torch.zeros(SHAPE), range(3), 0, SampleSettings(max_steps=7))
    assert set(slow.status) == {"step_cap"}
    assert set(slow.updates) == {7}


def test_presets_differ_as_the_paper_and_its_code_do():
    """`paper` keeps h = .01 and returns the last iterate; `code` grows the step and denoises once more."""
    paper, code = SampleSettings(preset="paper"), SampleSettings()
    assert (paper.growing_step, paper.final_denoise) == (False, False)
    assert (code.growing_step, code.final_denoise) == (True, True)
    for settings in (paper, code):
        assert (settings.h0, settings.beta, settings.sigma_start, settings.sigma_end) == (0.01, 0.1, 1.0, 0.05)


def test_the_path_is_kept_on_request():
    """Denoised iterates every few updates; the table of levels says when a sample ended."""
    drawn = sample(network(), mean(), range(3), 0, SampleSettings(max_steps=9), path_every=4)
    assert drawn.path is not None
    assert drawn.path.shape == (3, 3, *SHAPE)
    assert drawn.path_steps == (0, 4, 8)
    assert drawn.levels.shape == (9, 3, 2)
    assert sample(network(), mean(), range(3), 0, SampleSettings(max_steps=9)).path is None


def test_another_image_shape_is_refused():
    """The initial mean must be an image of the denoiser."""
    with pytest.raises(ShapeError, match="initial mean"):
        sample(network(), torch.zeros(1, 4, 4), range(2), 0, SampleSettings())
