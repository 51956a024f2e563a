"""Wiener filters and mixtures: linear algebra written out, Monte Carlo, limits, Jacobians."""

import math

import numpy as np
import pytest
import torch
import truth
from truth import IdealDenoiser

from memgen.base.errors import DataError, ShapeError
from memgen.models.denoiser import Denoiser
from memgen.models.known.gaussian import (
    AffineDenoiser,
    GaussianDenoiser,
    MixtureDenoiser,
    StationaryDenoiser,
)

SHAPE = (2, 4, 3)
D = 24


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def levels(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def dense(seed: int, shape: tuple[int, int, int] = SHAPE) -> GaussianDenoiser:
    known = truth.GaussianDenoiser.make(shape, seed)
    return GaussianDenoiser(known.mean, known.variances, known.axes)


def stationary(seed: int, shape: tuple[int, int, int] = SHAPE) -> StationaryDenoiser:
    power = torch.fft.fft2(normal(*shape, seed=seed), norm="ortho").abs().square() * 0.1
    return StationaryDenoiser(normal(*shape, seed=seed + 100) * 0.1 + 0.5, power)


def covariance_of(gaussian: GaussianDenoiser | StationaryDenoiser) -> torch.Tensor:
    """The covariance (d, d) of the images: U diag(λ) Uᵀ, with the Fourier matrix as U for a stationary Gaussian."""
    if isinstance(gaussian, GaussianDenoiser):
        return gaussian.eigenvectors @ torch.diag(gaussian.eigenvalues) @ gaussian.eigenvectors.T
    waves = torch.fft.fft2(torch.eye(D, dtype=torch.float64).view(D, *SHAPE), norm="ortho").flatten(1)
    return (waves @ torch.diag(gaussian.power.flatten()).to(waves.dtype) @ waves.mH).real


def images_of(gaussian: GaussianDenoiser | StationaryDenoiser, n: int, seed: int) -> torch.Tensor:
    root = torch.linalg.cholesky(covariance_of(gaussian) + 1e-12 * torch.eye(D))
    drawn = normal(n, gaussian.mean.numel(), seed=seed) @ root.T
    return gaussian.mean + drawn.view(n, *gaussian.image_shape)


def wiener(covariance: torch.Tensor, sigma: float) -> torch.Tensor:
    return covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(len(covariance), dtype=covariance.dtype))


def all_kinds() -> dict[str, AffineDenoiser | MixtureDenoiser]:
    return {
        "dense": dense(0),
        "stationary": stationary(0),
        "mixture": MixtureDenoiser(
            0.5 + 0.2 * normal(3, *SHAPE), 0.01 + 0.1 * normal(3, *SHAPE, seed=1) ** 2, levels(1, 2, 3)
        ),
    }


@pytest.mark.parametrize("kind", all_kinds())
def test_is_a_denoiser_whose_jacobian_is_its_derivative(kind: str):
    """Each obeys the protocol at a noise level per image, and its Jacobian equals automatic differentiation."""
    denoiser, sigma = all_kinds()[kind], levels(0.2, 0.5, 0.2)
    assert isinstance(denoiser, Denoiser)
    assert (denoiser.image_shape, denoiser.blind) == (SHAPE, False)
    noisy = 0.5 + 0.5 * normal(3, *SHAPE, seed=5)
    denoised, found = denoiser(noisy, sigma), denoiser.jacobian(noisy, sigma)
    assert denoiser(noisy.float(), sigma.float()).dtype == torch.float32
    for row in range(3):
        level = sigma[row : row + 1]
        torch.testing.assert_close(denoiser(noisy[row : row + 1], level)[0], denoised[row])
        expected = torch.autograd.functional.jacobian(
            lambda y, level=level: denoiser(y[None], level)[0], noisy[row]
        ).reshape(D, D)
        assert expected.abs().amax(1).min() > 1e-3
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-12)
    assert (denoiser(noisy, levels(0.2, 0.9, 0.2)) - denoised).abs().amax((1, 2, 3)).gt(1e-3).tolist() == [0, 1, 0]
    with pytest.raises(DataError, match="above 0"):
        denoiser(noisy, levels(0.2, 0.5, 0))


@pytest.mark.parametrize("make", [dense, stationary])
def test_is_the_wiener_filter(make):
    """It is mean + Σ (Σ + σ²)⁻¹ (y - mean) with the inverse written out, and the identity and the mean in the limits."""
    denoiser, noisy = make(3), 0.5 + normal(4, *SHAPE, seed=5)
    covariance = covariance_of(denoiser)
    assert (covariance - covariance.diag().diag()).abs().max() > 1e-3
    for sigma in (0.05, 0.3, 2.0):
        found = denoiser(noisy, torch.full((4,), sigma)) - denoiser.mean
        level = float(torch.tensor(sigma, dtype=torch.float32))
        expected = (noisy - denoiser.mean).flatten(1) @ wiener(covariance, level).T
        torch.testing.assert_close(found.flatten(1), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(denoiser.matrix(level), wiener(covariance, level), rtol=0, atol=1e-12)
    torch.testing.assert_close(denoiser(noisy, torch.full((4,), 1e-6)), noisy, rtol=0, atol=1e-6)
    assert (denoiser(noisy, torch.full((4,), 1e6)) - denoiser.mean).abs().max() < 1e-9


def test_shrinkage_factors_are_the_eigenvalues_of_the_jacobian():
    """λ / (λ + σ²), falling, equals the eigenvalues of the Jacobian."""
    denoiser, sigma = dense(0), levels(0.3)
    found = torch.linalg.eigvalsh(denoiser.jacobian(normal(1, *SHAPE), sigma)[0]).flip(0)
    torch.testing.assert_close(denoiser.shrinkage(sigma)[0], found, rtol=0, atol=1e-12)
    assert 0.01 < found[-1] < found[0] < 0.99


def test_stationary_filter_is_circulant():
    """Shifting both pixels on the torus leaves the weight of one in the other as it is, and channels do not mix."""
    matrix = stationary(0).matrix(0.3).view(*SHAPE, *SHAPE)
    torch.testing.assert_close(matrix.roll((1, 2, 1, 2), (1, 2, 4, 5)), matrix, rtol=0, atol=1e-12)
    assert matrix[0, :, :, 1].abs().max() == 0
    assert matrix[0, 0, 0, 0, 1, 2].abs() > 1e-4


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_fit_is_the_covariance_of_the_set_with_a_floor(kind: str):
    """Mean and covariance are NumPy's; of 6 images in 24 dimensions, 19 eigenvalues are the floor."""
    pixels = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0))
    pixels = (pixels * 255).to(torch.uint8) if kind == "uint8" else pixels
    rows = pixels.numpy().reshape(6, -1) / (255.0 if kind == "uint8" else 1.0)
    fitted = GaussianDenoiser.fit(pixels, floor=1e-3)
    np.testing.assert_allclose(fitted.mean.flatten(), rows.mean(0), atol=1e-7)
    assert (fitted.eigenvalues == 1e-3).sum() == D - 5
    assert (fitted.eigenvalues.diff() <= 0).all()
    free = GaussianDenoiser.fit(pixels, floor=0)
    np.testing.assert_allclose(covariance_of(free), np.cov(rows.T, bias=True), atol=1e-7)
    lift = np.eye(D) - np.linalg.pinv(np.cov(rows.T, bias=True), rcond=1e-9) @ np.cov(rows.T, bias=True)
    np.testing.assert_allclose(covariance_of(fitted), covariance_of(free).numpy() + 1e-3 * lift, atol=1e-6)
    assert (StationaryDenoiser.fit(pixels, floor=1e-3).power >= 1e-3).all()


def test_stationary_fit_finds_the_spectrum():
    """From 4,000 images the power comes back to 5 standard errors, 1.41/√n each, and the mean is one per channel."""
    known = stationary(0)
    flat = StationaryDenoiser(torch.full(SHAPE, 0.5), known.power)
    fitted = StationaryDenoiser.fit(images_of(flat, 4000, seed=1), floor=0)
    # Each channel's mean comes from the same images; it takes 1/n of the power at frequency 0.
    assert ((fitted.power / known.power - 1).abs() < 5 * math.sqrt(2 / 4000)).all()
    assert (fitted.mean == fitted.mean[:, :1, :1]).all()
    assert (fitted.mean - 0.5).abs().max() < 0.03


def test_mixture_of_one_is_the_wiener_filter_and_of_points_the_empirical_denoiser():
    """One component with diagonal covariance, and many of variance 0 with equal weights."""
    noisy, sigma = 0.5 + normal(3, *SHAPE, seed=1), levels(0.4, 0.7, 2)
    mean, variance = normal(1, *SHAPE), normal(1, *SHAPE, seed=2) ** 2
    order = variance.flatten().argsort(descending=True)
    single = GaussianDenoiser(mean[0], variance.flatten()[order], torch.eye(D)[:, order])
    found = MixtureDenoiser(mean, variance, levels(3))
    torch.testing.assert_close(found(noisy, sigma), single(noisy, sigma))
    torch.testing.assert_close(found.jacobian(noisy, sigma), single.jacobian(noisy, sigma))
    points = 0.5 + 0.3 * normal(9, *SHAPE, seed=3)
    oracle = IdealDenoiser(points)
    assert (oracle.weights(noisy, sigma).amax(1) < 0.9).any()
    found = MixtureDenoiser(points, torch.zeros(9), torch.ones(9))
    torch.testing.assert_close(found(noisy, sigma), oracle(noisy, sigma))


@pytest.mark.parametrize("isotropic", [False, True])
def test_mixture_posterior_equals_importance_sampling(isotropic: bool):
    """Mean and covariance of 400,000 draws of the mixture, weighted by their likelihood, to 6 Monte Carlo errors."""
    shape, sigma, n = (1, 1, 2), 0.5, 400_000
    means = torch.tensor([[0.0, 0.0], [1.0, 0.5], [0.2, 1.0]], dtype=torch.float64).view(3, *shape)
    spread = levels(0.1, 0.3, 0.05) if isotropic else normal(3, *shape, seed=1) ** 2 * 0.3 + 0.02
    weights = levels(1, 2, 3)
    denoiser, noisy = MixtureDenoiser(means, spread, weights), torch.tensor([[[[0.6, 0.6]]]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    which = torch.multinomial(weights, n, replacement=True, generator=generator)
    full = spread[:, None, None, None].expand(3, *shape) if isotropic else spread
    drawn = (means[which] + full[which].sqrt() * normal(n, *shape, seed=2)).flatten(1)
    likelihood = (-(drawn - noisy.flatten(1)).square().sum(1) / (2 * sigma**2)).softmax(0)
    error = 6 / math.sqrt(float(1 / likelihood.square().sum()))
    mean = likelihood @ drawn
    centered = drawn - mean
    covariance = (centered * likelihood[:, None]).T @ centered
    assert covariance.abs().min() > 0.002
    found = denoiser(noisy, levels(sigma)).flatten()
    torch.testing.assert_close(found, mean, rtol=0, atol=error * float(drawn.std()))
    jacobian = denoiser.jacobian(noisy, levels(sigma))[0]
    torch.testing.assert_close(jacobian * sigma**2, covariance, rtol=0, atol=error * float(drawn.var()) * 1.5)


def test_what_fits_nothing_is_refused():
    """Shapes that do not fit together, negative variances, one-sided spectra."""
    mean, flat = torch.zeros(SHAPE), torch.ones(D)
    with pytest.raises(ShapeError, match="eigenvalues"):
        GaussianDenoiser(mean, flat[1:], torch.eye(D))
    with pytest.raises(DataError, match="variance of -1"):
        GaussianDenoiser(mean, -flat, torch.eye(D))
    with pytest.raises(ShapeError, match=r"expected \(C, H, W\)"):
        GaussianDenoiser(mean[0], flat, torch.eye(D))
    with pytest.raises(ShapeError, match="power"):
        StationaryDenoiser(mean, torch.ones(1, 4, 3))
    lopsided = torch.ones(SHAPE)
    lopsided[0, 1, 1] = 2
    with pytest.raises(DataError, match="opposite"):
        StationaryDenoiser(mean, lopsided)
    with pytest.raises(ShapeError, match="weights"):
        MixtureDenoiser(torch.zeros(2, *SHAPE), torch.ones(3), torch.ones(2))
    with pytest.raises(DataError, match="weight"):
        MixtureDenoiser(torch.zeros(2, *SHAPE), torch.ones(2), levels(1, 0))
