"""Generated classes: each image by its index alone, the stated distributions, and denoisers that none surpasses."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from memgen.base import config
from memgen.base.errors import ConfigError
from memgen.experiment.settings import RunSettings
from memgen.images import shuffle
from memgen.models.denoiser import Denoiser
from memgen.models.known import classes
from memgen.models.known.classes import (
    CAlphaSettings,
    ClassSettings,
    ConeSettings,
    DiscSettings,
    MixtureSettings,
    SinusoidSettings,
    TextureSettings,
)
from memgen.models.known.closed_form import ClosedFormDenoiser
from memgen.models.known.empirical import EmpiricalDenoiser
from memgen.models.known.gaussian import GaussianDenoiser
from memgen.models.known.generate import ConeDenoiser, contours, generate, reference

SIDE = 12
CLASSES: dict[str, ClassSettings] = {
    "texture": TextureSettings(side=SIDE),
    "color": TextureSettings(side=8, channels=3, exponent=1),
    "mixture": MixtureSettings(side=SIDE, components=5),
    "discs": DiscSettings(side=SIDE, radius=(0.2, 0.3)),
    "cone": ConeSettings(side=SIDE),
    "sinusoids": SinusoidSettings(side=SIDE, frequency=(1, 2)),
    "c_alpha": CAlphaSettings(side=SIDE),
}
KNOWN = [name for name in CLASSES if name != "c_alpha"]


def levels(sigma: float, n: int) -> torch.Tensor:
    return torch.full((n,), sigma, dtype=torch.float64)


def noised(images: np.ndarray, sigma: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    clean = torch.from_numpy(images).double()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return clean, clean + sigma * noise


@pytest.mark.parametrize("name", CLASSES)
def test_image_depends_on_seed_and_index_alone(name: str):
    """Image i is bit for bit the same alone, in any block and however many there are; another seed gives another."""
    settings = CLASSES[name]
    images = generate(settings, 3, range(70))
    assert images.dtype == np.float32
    assert images.shape == (70, *classes.image_shape(settings))
    for part in (range(1), range(5, 6), range(17, 70), range(20, 33)):
        assert np.array_equal(generate(settings, 3, part), images[part.start : part.stop])
    more = settings.model_copy(update={"n_images": 1})
    assert np.array_equal(generate(more, 3, range(9, 11)), images[9:11])
    other = generate(settings, 4, range(70))
    assert (np.abs(other - images).max(axis=(1, 2, 3)) > 1e-3).all()
    assert len({image.tobytes() for image in images}) == 70


def test_blocks_do_not_show():
    """Generating in blocks of one image gives the same images, and progress counts up to all of them."""
    settings, calls = TextureSettings(side=8), []
    whole = generate(settings, 0, range(5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("memgen.models.known.generate._BLOCK_PIXELS", 64)
        assert np.array_equal(generate(settings, 0, range(5), lambda *call: calls.append(call)), whole)
    assert calls == [(done, 5) for done in range(6)]


# Distributions.


@pytest.mark.parametrize("exponent", [0.0, 2.0, 4.0])
def test_spectrum_of_textures(exponent: float):
    """The mean power of each frequency is |k|^-exponent, scaled to the pixels' variance, to its Monte Carlo error."""
    n, settings = 600, TextureSettings(side=10, exponent=exponent, std=0.2, channels=3)
    images = generate(settings, 1, range(n)).astype(float) - 0.5
    spectra = np.abs(np.fft.fft2(images, norm="ortho")) ** 2
    k = np.fft.fftfreq(10) * 10
    expected = np.maximum(k[:, None] ** 2 + k**2, 1) ** (-exponent / 2)
    expected *= 0.2**2 / expected.mean()
    assert (np.abs(spectra.mean(axis=(0, 1)) / expected - 1) < 5 * math.sqrt(2 / (3 * n))).all()
    assert reference(settings, 1).power.numpy() == pytest.approx(np.stack([expected] * 3))
    across = (images[:, 0] * images[:, 1]).mean() / images.var()
    assert abs(across) < 4 * math.sqrt(1 / n)  # one dominant frequency at most
    assert images.min() < -0.5 or exponent == 0  # not clipped


def test_moments_of_mixtures():
    """Mean and covariance of the images are those of the reference's components, to 6 Monte Carlo errors."""
    n, settings = 6000, MixtureSettings(side=6, components=3, std=(0.05, 0.2))
    images = generate(settings, 2, range(n)).reshape(n, -1).astype(float)
    denoiser = reference(settings, 2)
    means, variances = denoiser.means.flatten(1).numpy(), denoiser.variances.flatten(1).numpy()
    assert np.sqrt(variances[:, 0]) == pytest.approx([0.05, 0.1, 0.2])
    center = means.mean(0)
    covariance = (means - center).T @ (means - center) / 3 + np.diag(variances.mean(0))
    error = np.sqrt(np.diag(covariance) / n)
    assert (np.abs(images.mean(0) - center) < 6 * error).all()
    off = images - center
    products = (off**2).T @ off**2 / n - covariance**2
    assert (np.abs(off.T @ off / n - covariance) < 6 * np.sqrt(products / n)).all()
    nearest = ((images[:, None] - means) ** 2).sum(2).argmin(1)
    assert np.bincount(nearest) == pytest.approx([n / 3] * 3, abs=5 * math.sqrt(n * 2 / 9))


def test_discs_are_within_their_settings():
    """Each has two intensities in [0, 1] that differ by the contrast at least, on both settings."""
    for contrast in (0.3, 0.6):
        images = generate(DiscSettings(side=20, contrast=contrast), 0, range(300))[:, 0]
        corner, middle = images[:, 0, 0], images[:, 6:14, 6:14]
        difference = np.abs(middle - corner[:, None, None]).max(axis=(1, 2))
        assert images.min() >= 0
        assert images.max() <= 1
        assert contrast * 0.99 < difference.min() < contrast + 0.05
        assert difference.max() > 0.9


@pytest.mark.parametrize(("alpha", "paper"), [(1, 10.7), (1.5, 9.6), (2, 9.3), (3, 9.1), (4, 8.8), (5, 8.9)])
def test_contours_are_as_rough_as_the_papers(alpha: float, paper: float):
    """At 80 pixels their standard deviation is that of the official generator, and the closed form's."""
    n, side = 4000, 80
    noise = np.random.default_rng(0).uniform(-1, 1, (n, side))
    heights = contours(noise, alpha) - side // 2
    k = np.maximum(np.abs(np.fft.fftfreq(side) * side), 1)
    expected = math.sqrt(side * (k ** (-2 * alpha)).sum() / 3 + 1 / 12)
    found = np.sqrt((heights**2).mean())
    spread = (heights**2).mean(axis=1).std() / math.sqrt(n) / (2 * found)
    assert abs(found - expected) < 4 * spread
    assert found == pytest.approx(paper, abs=0.25)
    halved = contours(noise / 2, alpha) - side // 2
    assert np.sqrt((halved**2).mean()) == pytest.approx(expected / 2, rel=0.02)


def test_c_alpha_images():
    """They lie in [0, 1]; one side of the contour ends at 1 and not at 0, or at 0 and not at 1, each half the time."""
    n, settings = 400, CAlphaSettings(side=32, alpha=3)
    images = generate(settings, 0, range(n))[:, 0]
    assert images.min() >= 0
    assert images.max() <= 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("memgen.models.known.generate.contours", lambda noise, alpha: np.zeros(noise.shape, np.int64))
        below = generate(settings, 0, range(n))[:, 0]
        patch.setattr("memgen.models.known.generate.contours", lambda noise, alpha: np.full(noise.shape, 32))
        above = generate(settings, 0, range(n))[:, 0]
        patch.setattr("memgen.models.known.generate.contours", lambda noise, alpha: np.full(noise.shape, -7))
        assert np.array_equal(generate(settings, 0, range(n))[:, 0], below)  # clamped, not wrapped
        patch.setattr("memgen.models.known.generate.contours", lambda noise, alpha: np.full(noise.shape, 99))
        assert np.array_equal(generate(settings, 0, range(n))[:, 0], above)
    bright = below.max(axis=(1, 2)) == 1
    dark = below.min(axis=(1, 2)) == 0
    assert (bright ^ dark).all()
    assert abs(bright.mean() - 0.5) < 4 * 0.5 / math.sqrt(n)
    assert np.array_equal(bright, above.min(axis=(1, 2)) == 0)
    low, high = below.min(axis=(1, 2))[bright], below.max(axis=(1, 2))[dark]
    for ends in (low, high):
        assert stats.kstest(ends, "uniform").pvalue > 1e-3
    # Away from the edge, a pixel is that of the background of its side.
    agree = (images == below) | (images == above)
    assert 0.85 < agree.mean() < 1
    assert not np.array_equal(images[:, 0], below[:, 0])


def test_c_alpha_settings():
    """beta smooths the backgrounds alone, the range of the source noise flattens the contour alone."""
    rough = generate(CAlphaSettings(side=32, alpha=3, beta=1), 0, range(60))[:, 0]
    smooth = generate(CAlphaSettings(side=32, alpha=3), 0, range(60))[:, 0]
    assert np.array_equal(smooth, generate(CAlphaSettings(side=32, alpha=3, beta=3), 0, range(60))[:, 0])
    jumps = [np.median(np.abs(np.diff(images, axis=2))) for images in (rough, smooth)]
    assert jumps[0] > 3 * jumps[1]
    flat = generate(CAlphaSettings(side=32, alpha=3, source_range="paper"), 0, range(60))[:, 0]
    middle, top = np.abs(flat - smooth)[:, 8:24].mean(), np.abs(flat - smooth)[:, :2].mean()
    assert middle > 4 * top


def test_sinusoids_have_random_phase_and_amplitude():
    """Images are the mean plus two quadrature waves with normal coefficients: phase uniform, amplitude Rayleigh."""
    n, settings = 2000, SinusoidSettings(side=10, frequency=(2, 3), std=0.2, mean=0.4)
    images = generate(settings, 5, range(n)).reshape(n, -1).astype(float) - 0.4
    rows, columns = np.divmod(np.arange(100), 10)
    phase = 2 * np.pi * (2 * rows + 3 * columns) / 10
    waves = np.stack([np.cos(phase), np.sin(phase)])
    coefficients = images @ waves.T / 50
    np.testing.assert_allclose(images, coefficients @ waves, atol=1e-6)
    assert stats.kstest(np.arctan2(*coefficients.T), "uniform", (-np.pi, 2 * np.pi)).pvalue > 1e-3
    assert stats.kstest(np.hypot(*coefficients.T), "rayleigh", (0, 0.2)).pvalue > 1e-3


# References.


@pytest.mark.parametrize("name", KNOWN)
def test_reference_is_a_denoiser_whose_jacobian_is_its_derivative(name: str):
    """It obeys the protocol, and J v is the difference quotient."""
    settings = CLASSES[name]
    denoiser = reference(settings, 0)
    assert isinstance(denoiser, Denoiser)
    assert denoiser.image_shape == classes.image_shape(settings)
    _, noisy = noised(generate(settings, 0, range(2)), 0.2)
    jacobian = denoiser.jacobian(noisy, levels(0.2, 2))
    step = 1e-3 * torch.randn(noisy.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = (denoiser(noisy + step, levels(0.2, 2)) - denoiser(noisy - step, levels(0.2, 2))).flatten(1) / 2
    expected = (jacobian @ step.flatten(1)[:, :, None])[:, :, 0]
    assert float((found - expected).norm() / expected.norm()) < 2e-3
    assert float(jacobian.norm()) > 0.5


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "discs"])  # see test_discs.py
def test_no_denoiser_is_better_than_the_reference(name: str):
    """Its error is σ² tr J / d, and a wrong σ, shrinking, Wiener and empirical denoisers are worse, or no better."""
    settings, sigma, n = CLASSES[name], 0.25, 200
    clean, noisy = noised(generate(settings, 0, range(n)), sigma)
    known = torch.from_numpy(generate(settings, 0, range(1000, 3000)))
    denoiser, d = reference(settings, 0), clean[0].numel()

    def errors(denoised: torch.Tensor) -> torch.Tensor:
        return (denoised - clean).square().flatten(1).mean(dim=1)

    best = denoiser(noisy, levels(sigma, n))
    traces = [
        denoiser.jacobian(noisy[row : row + 1], levels(sigma, 1)).diagonal(dim1=1, dim2=2).sum() for row in range(n)
    ]
    off = errors(best) - sigma**2 / d * torch.stack(traces)
    assert abs(float(off.mean())) < 4 * float(off.std()) / math.sqrt(n)
    others = {
        "larger sigma": (denoiser(noisy, levels(1.6 * sigma, n)), 2.5),
        "smaller sigma": (denoiser(noisy, levels(sigma / 2.5, n)), 2.5),
        "shrunk": (best + 0.3 * (known.double().mean(dim=0) - best), 2.5),
        "Wiener": (GaussianDenoiser.fit(known, 1e-8)(noisy, levels(sigma, n)), -2.5),
        "empirical": (EmpiricalDenoiser(known)(noisy, levels(sigma, n)), -2.5),
    }
    if name in ("cone", "sinusoids"):  # which hardly depend on σ at this level of noise
        del others["larger sigma"], others["smaller sigma"]
    for other, (denoised, least) in others.items():
        worse = errors(denoised) - errors(best)
        assert float(worse.mean()) > least * float(worse.std()) / math.sqrt(n), other
    gained = errors(EmpiricalDenoiser(known[:20])(noisy, levels(sigma, n))) - errors(best)
    assert float(gained.mean()) > 0


def test_c_alpha_has_no_reference():
    """What is not known is None, shuffled or not."""
    assert reference(CLASSES["c_alpha"], 0) is None
    assert reference(CLASSES["c_alpha"], 0, shuffle=True) is None


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.2, 0.5), (0.0, math.inf)])
def test_cone_equals_quadrature(low: float, high: float):
    """E[s|y] and Var[s|y] are those of a numerical integral over the intensity, also at the ends of the interval."""
    image = torch.from_numpy(generate(ConeSettings(side=5, low=0.999, high=1), 0, range(1))[0])
    denoiser, sigma = ConeDenoiser(image, low, high), 0.6
    for seed, intensity in enumerate((low, 0.4, min(high, 1.0))):
        noisy = noised(intensity * image[None].numpy(), sigma, seed)[1]

        def density(s: float, noisy: torch.Tensor = noisy) -> float:
            return math.exp(-float((noisy - s * image.double()).square().sum() - noisy.square().sum()) / (2 * sigma**2))

        ends = (low, min(high, 6.0))
        total = integrate.quad(density, *ends)[0]
        mean = integrate.quad(lambda s: s * density(s), *ends)[0] / total
        variance = integrate.quad(lambda s: s**2 * density(s), *ends)[0] / total - mean**2
        found = denoiser(noisy, levels(sigma, 1))[0] / image.double().clamp(min=1e-9)
        assert float(found.flatten()[image.argmax()]) == pytest.approx(mean, rel=1e-6)
        jacobian = denoiser.jacobian(noisy, levels(sigma, 1))[0]
        assert float(torch.linalg.eigvalsh(jacobian)[-1]) == pytest.approx(
            variance * float(image.double().square().sum()) / sigma**2, rel=1e-6
        )


def test_intercept_of_the_cone():
    """At 80 x 80 and away from the ends of the intensities the output PSNR is the input's + 10 log10 d = + 38.06 dB."""
    settings, sigma, n, d = ConeSettings(side=80, low=0.3, high=0.9), 0.05, 600, 6400
    image = reference(settings, 0).image
    squares, kept = [], []
    for start in range(0, n, 100):
        clean, noisy = noised(generate(settings, 0, range(start, start + 100)), sigma, seed=start)
        denoised = ConeDenoiser(image, 0, math.inf)(noisy, levels(sigma, 100))
        squares.append((denoised - clean).square().flatten(1).sum(dim=1))
        kept.append(((noisy - clean).flatten(1) @ image.flatten() / image.norm()).square())
    found, expected = torch.cat(squares), torch.cat(kept)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-8)
    gain = 10 * math.log10(d * sigma**2 / float(found.mean()))
    assert gain == pytest.approx(38.06, abs=4 * 4.34 * math.sqrt(2 / n))


def test_sinusoids_have_rank_two():
    """Two eigenvalues λ / (λ + σ²) with λ = std² d / 2, the others 0; the intercept is 10 log10(d / 2)."""
    settings, sigma = SinusoidSettings(side=SIDE, std=0.2, frequency=(0, 3)), 0.3
    found = torch.linalg.eigvalsh(reference(settings, 0).matrix(sigma)).flip(0)
    share = 0.2**2 * SIDE**2 / 2
    assert found[:2].tolist() == pytest.approx([share / (share + sigma**2)] * 2)
    assert float(found[2:].abs().max()) < 1e-12
    trace = float(reference(settings, 0).matrix(1e-4).trace())
    assert -10 * math.log10(trace / SIDE**2) == pytest.approx(10 * math.log10(SIDE**2 / 2), abs=1e-4)


# Shuffled pixels.


def test_shuffling_is_one_permutation_of_pixels():
    """All images and channels have their pixels in the same new order, which depends on the seed and is undone."""
    images = generate(CLASSES["color"], 0, range(4))
    order = shuffle.permutation(7, 64)
    assert sorted(order) == list(range(64))
    assert not np.array_equal(order, shuffle.permutation(8, 64))
    shuffled = shuffle.shuffled(images, order)
    for pixel in (0, 13, 63):
        np.testing.assert_array_equal(
            shuffled.reshape(4, 3, 64)[:, :, pixel], images.reshape(4, 3, 64)[:, :, order[pixel]]
        )
    np.testing.assert_array_equal(shuffle.shuffled(shuffled, np.argsort(order)), images)
    assert np.abs(np.diff(images)).mean() < 0.95 * np.abs(np.diff(shuffled)).mean()  # neighbors are no longer alike


@pytest.mark.parametrize("name", ["color", "mixture", "cone"])
def test_reference_of_shuffled_images(name: str):
    """It answers to shuffled images with the shuffled answer, and its Jacobian is its derivative."""
    settings = CLASSES[name]
    images = generate(settings, 3, range(2))
    order = shuffle.permutation(3, settings.side**2)
    _, noisy = noised(images, 0.2)
    plain, found = reference(settings, 3), reference(settings, 3, shuffle=True)
    assert isinstance(found, ClosedFormDenoiser)
    moved = torch.from_numpy(shuffle.shuffled(noisy.numpy(), order))
    expected = shuffle.shuffled(plain(noisy, levels(0.2, 2)).numpy(), order)
    np.testing.assert_allclose(found(moved, levels(0.2, 2)).numpy(), expected, atol=1e-12)
    assert float((plain(moved, levels(0.2, 2)) - found(moved, levels(0.2, 2))).abs().max()) > 0.01
    jacobian = found.jacobian(moved[:1], levels(0.2, 1))[0]
    derivative = torch.autograd.functional.jacobian(lambda x: found(x, levels(0.2, 1)).flatten(), moved[:1])
    torch.testing.assert_close(jacobian, derivative.flatten(1))


# Settings.


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["kind=discs", "edg=2"], r"data\.generated\.edg; did you mean data\.generated\.edge"),
        (["kind=dics"], "'texture', 'mixture', 'discs'"),
        (["kind=discs", "contrast=0.01"], r"data\.generated\.contrast"),
        (["kind=discs", "side=8"], "twice the edge"),
        (["kind=discs", "edge=0.5"], r"data\.generated\.edge"),
        (["kind=discs", "radius=[0.2, 0.5]"], "leave an image"),
        (["kind=cone", "low=2"], "less than the largest"),
        (["kind=sinusoids", "frequency=[9, 0]"], "above half"),
        (["kind=sinusoids", "frequency=[8, 0]"], "sine is 0"),
        (["kind=sinusoids", "frequency=[0, 0]"], "sine is 0"),
        (["kind=c_alpha", "source_range=both"], "'code' or 'paper'"),
        (["kind=texture", "std=0"], r"data\.generated\.std"),
        (["kind=texture", "channels=2"], r"data\.generated\.channels"),
    ],
)
def test_wrong_settings_are_explained(overrides: list[str], words: str):
    """Unknown keys, kinds and values that make no class are ConfigErrors that name the key and the remedy."""
    with pytest.raises(ConfigError, match=words):
        config.load(RunSettings, None, [f"data.generated.{override}" for override in overrides])
