"""Optimal errors against closed forms and Monte Carlo; wavelets against PyWavelets and their own laws."""

import math
import warnings

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_wavelet

from memgen.base.errors import ConfigError, DataError, ShapeError
from memgen.findings.slopes import slope
from memgen.models.denoiser import Denoiser
from memgen.models.known.oracles import oracle_shrinkage, oracle_wavelets, tangent_denoise
from memgen.models.known.wavelets import WaveletDenoiser, WaveletTransform


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(d: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(normal(d, k, seed=seed))[0]


def oracle_error(coefficients: torch.Tensor, sigma: float) -> float:
    """The expected squared error of the oracle per pixel, σ² Σ λ_k / d, for coefficients (d,)."""
    return float(sigma**2 * oracle_shrinkage(coefficients, sigma).mean())


def test_oracle_error_is_what_the_oracle_makes():
    """Over 4000 noise images the oracle's error is σ² Σ λ / d within 4 standard errors, and no factor beats its own."""
    clean, axes, sigma = normal(1, 4, 5), orthogonal(20, 20), 0.5
    coefficients = clean.flatten() @ axes
    expected = oracle_error(coefficients, sigma)
    noisy = clean + sigma * normal(4000, 1, 4, 5, seed=1)
    factors = oracle_shrinkage(coefficients, sigma)
    errors = ((noisy.flatten(1) @ axes * factors) @ axes.T - clean.flatten()).square().mean(dim=1)
    assert abs(float(errors.mean()) - expected) < 4 * float(errors.std()) / math.sqrt(4000)

    def error(chosen: torch.Tensor) -> float:
        return float(((1 - chosen) ** 2 * coefficients**2 + sigma**2 * chosen**2).mean())

    assert error(factors) == pytest.approx(expected)
    assert min(error(factors + 0.01 * normal(20, seed=seed)) for seed in range(20)) > expected
    bound = float(torch.minimum(coefficients**2, torch.full_like(coefficients, sigma**2)).mean())
    assert bound / 2 <= expected <= bound


def test_slope_of_power_laws():
    """c_k² = k^-(α+1) in 6400 dimensions has slopes .51 .66 .74 .79 .82 for α = 1 to 5 over 0 to 34 dB."""
    input_psnr = np.linspace(0, 34, 15)
    for alpha, expected in zip(range(1, 6), (0.51, 0.66, 0.74, 0.79, 0.82), strict=True):
        squares = torch.arange(1, 6401, dtype=torch.float64) ** -(alpha + 1)
        squares *= 0.1 * 6400 / squares.sum()  # mean square of a pixel
        errors = [oracle_error(squares.sqrt(), 10 ** (-psnr / 20)) for psnr in input_psnr]
        found = slope(input_psnr, -10 * np.log10(errors)[None], seed=0)
        assert found.estimate == pytest.approx(expected, abs=0.006)
        assert abs(found.estimate - alpha / (alpha + 1)) < 0.02
        assert found.low is None


def test_slope_is_least_squares_with_an_interval_over_images():
    """It is numpy's fit of the mean curve; the 95 % interval holds the truth in 88 to 99 % of 200 draws of 20 images."""
    x, generator, held = np.array([0.0, 3.0, 10.0, 20.0]), np.random.default_rng(0), 0
    for seed in range(200):
        y = (0.6 + 0.1 * generator.standard_normal((20, 1))) * x + generator.standard_normal((20, 4))
        found = slope(x, y, seed)
        assert found.estimate == pytest.approx(np.polyfit(x, y.mean(axis=0), 1)[0])
        held += found.low <= 0.6 <= found.high
    assert 0.88 <= held / 200 <= 0.99


@pytest.mark.parametrize("m", [1, 5])
def test_tangent_projection(m):
    """It is idempotent, does not move the clean image, and gains 10 log10(d / m) dB, within 4 standard errors."""
    clean, tangents, sigma = normal(2, 6, 5), normal(60, m, seed=2), 0.1
    noisy = clean + sigma * normal(2000, 2, 6, 5, seed=1)
    found = tangent_denoise(noisy, clean, tangents)
    torch.testing.assert_close(tangent_denoise(found, clean, tangents), found)
    torch.testing.assert_close(tangent_denoise(clean[None], clean, tangents)[0], clean)
    inside = noisy[:1] + (tangents @ normal(m, seed=3)).view(1, 2, 6, 5)
    moved = tangent_denoise(inside, clean, tangents) - found[:1]
    torch.testing.assert_close(moved, inside - noisy[:1])
    errors = (found - clean).square().flatten(1).mean(dim=1)
    assert abs(float(errors.mean()) - m * sigma**2 / 60) < 4 * float(errors.std()) / math.sqrt(2000)


SHAPES = [((1, 16, 16), "haar", None), ((3, 8, 24), "db2", 3), ((2, 28, 20), "sym4", None), ((1, 32, 32), "db2", 1)]


@pytest.fixture
def pywt():
    return pytest.importorskip("pywt")


@pytest.mark.parametrize(("shape", "wavelet", "levels"), SHAPES)
def test_wavelets_are_an_orthonormal_basis(pywt, shape, wavelet, levels):
    """Analysis preserves inner products, synthesis undoes it, and batches and channels do not mix."""
    transform, images = WaveletTransform(shape, wavelet, levels), normal(3, *shape)
    coefficients = transform.analyze(images)
    assert coefficients.shape == images.shape
    products = images.flatten(1) @ images.flatten(1).T
    torch.testing.assert_close(coefficients.flatten(1) @ coefficients.flatten(1).T, products)
    torch.testing.assert_close(transform.synthesize(coefficients), images)
    torch.testing.assert_close(transform.analyze(images[1:2]), coefficients[1:2])
    height, width = transform.coarse
    with warnings.catch_warnings(action="ignore"):  # that some wavelets reach around the whole image
        expected = pywt.wavedec2(images[1, -1].numpy(), wavelet, "periodization", transform.depth)
    found = coefficients[1, -1].numpy()
    np.testing.assert_allclose(found[:height, :width], expected[0])
    np.testing.assert_allclose(found[height : 2 * height, 0:width], expected[1][0])
    half = shape[1] // 2, shape[2] // 2
    np.testing.assert_allclose(found[half[0] :, half[1] :], expected[-1][2])


@pytest.mark.parametrize("rule", ["hard", "soft"])
@pytest.mark.parametrize("side", [16, 32])
def test_thresholding_equals_scikit_images(pywt, rule, side):
    """With the universal threshold and Haar wavelets, which reach over no border, it is scikit-image's VisuShrink."""
    rows, columns = np.mgrid[:side, :side] / side
    clean = 0.3 + 0.4 * (rows + columns > 1)
    sigma, noise = 0.1, np.random.default_rng(0).standard_normal((side, side))
    noisy = torch.from_numpy(clean + sigma * noise)[None, None]
    denoiser = WaveletDenoiser(WaveletTransform((1, side, side), "haar"), rule)
    assert isinstance(denoiser, Denoiser)
    found = denoiser(noisy, torch.tensor([sigma]).double())[0, 0].numpy()
    expected = denoise_wavelet(
        noisy[0, 0].numpy(), sigma=sigma, wavelet="haar", mode=rule, wavelet_levels=int(math.log2(side)),
        method="VisuShrink", rescale_sigma=False,
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=1e-10)
    assert np.abs(found - noisy[0, 0].numpy()).max() > sigma


def test_thresholds_by_hand(pywt):
    """A single coefficient is kept, moved or dropped by its size against t; the low-pass part stays; rows have own σ."""
    transform = WaveletTransform((1, 8, 8), "haar", 1)
    coefficients = torch.zeros(2, 1, 8, 8, dtype=torch.float64)
    coefficients[:, 0, 0, 0], coefficients[:, 0, 5, 5], coefficients[:, 0, 6, 1] = 0.01, -1.0, 0.3
    noisy, sigma = transform.synthesize(coefficients), torch.tensor([0.25, 1.0], dtype=torch.float64)
    for rule, kept in (("hard", [-1.0, 0.0]), ("soft", [-0.5, 0.0])):
        found = transform.analyze(WaveletDenoiser(transform, rule, 2.0)(noisy, sigma))
        expected = torch.zeros_like(coefficients)
        expected[:, 0, 0, 0], expected[:, 0, 5, 5] = 0.01, torch.tensor(kept, dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    single = WaveletDenoiser(transform, "soft", 2.0)(noisy.float(), sigma.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(
        single.double(), WaveletDenoiser(transform, "soft", 2.0)(noisy, sigma), atol=1e-6, rtol=0
    )


def test_wavelet_oracle_beats_thresholds(pywt):
    """The oracle's error is its expected one within 4 standard errors, and below that of both thresholds."""
    rows, columns = np.mgrid[:32, :32]
    clean = torch.from_numpy(np.where((rows - 16) ** 2 + (columns - 14) ** 2 < 80, 0.8, 0.2))[None, None]
    transform, sigma, n = WaveletTransform((1, 32, 32)), 0.1, 300
    noisy = clean + sigma * normal(n, 1, 32, 32)

    def errors(denoised: torch.Tensor) -> torch.Tensor:
        return (denoised - clean).square().flatten(1).mean(dim=1)

    oracle = errors(oracle_wavelets(noisy, clean.expand_as(noisy), transform, sigma))
    expected = oracle_error(transform.analyze(clean).flatten(), sigma)
    assert abs(float(oracle.mean()) - expected) < 4 * float(oracle.std()) / math.sqrt(n)
    for rule in ("hard", "soft"):
        found = errors(WaveletDenoiser(transform, rule)(noisy, torch.full((n,), sigma, dtype=torch.float64)))
        assert float(oracle.mean()) < float(found.mean()) < 2 * sigma**2


def test_wrong_wavelets_are_refused(pywt):
    """Unknown and biorthogonal wavelets, sides that do not divide, thresholds below 0, wrong shapes, no σ."""
    for wavelet in ("bior2.2", "db99", "gaus1"):
        with pytest.raises(ConfigError, match="orthogonal"):
            WaveletTransform((1, 8, 8), wavelet)
    with pytest.raises(ConfigError, match=r"divisible by 2\^levels"):
        WaveletTransform((1, 12, 8), "haar", 3)
    with pytest.raises(ConfigError, match="at least 1"):
        WaveletTransform((1, 7, 8))
    transform = WaveletTransform((1, 8, 8))
    with pytest.raises(ConfigError, match="at least 0"):
        WaveletDenoiser(transform, "hard", -1)
    with pytest.raises(ShapeError, match="expected"):
        transform.analyze(torch.zeros(1, 1, 8, 4))
    with pytest.raises(ShapeError, match="one noise level"):
        WaveletDenoiser(transform, "hard")(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ShapeError, match="the same"):
        oracle_wavelets(torch.zeros(2, 1, 8, 8), torch.zeros(1, 1, 8, 8), transform, 0.1)


def test_wrong_input_is_refused():
    """Noise levels of 0, bases and tangents of another size, curves that do not fit or are not finite."""
    with pytest.raises(DataError, match="above 0"):
        oracle_shrinkage(torch.ones(3), 0.0)
    image = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ShapeError, match="in columns"):
        tangent_denoise(image, image[0], torch.ones(5, 1))
    with pytest.raises(ShapeError, match="the same"):
        tangent_denoise(image, torch.zeros(1, 2, 3), torch.ones(4, 1))
    with pytest.raises(ShapeError, match="differ"):
        slope([1.0, 1.0], np.zeros((3, 2)), 0)
    with pytest.raises(ShapeError, match="shape"):
        slope([1.0, 2.0, 3.0], np.zeros((3, 2)), 0)
    with pytest.raises(DataError, match="finite"):
        slope([1.0, 2.0], np.array([[1.0, np.inf]]), 0)
