"""The eigenbasis of a denoiser: closed forms, Stein's estimate, and measures of vectors against references and nulls."""

import math

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import torch
import truth
from hypothesis import given, settings
from hypothesis import strategies as st

from memgen.base import schemas, tables
from memgen.base.errors import DataError, ShapeError
from memgen.measures.geometry import basis, harmonics
from memgen.models.known.empirical import EmpiricalDenoiser
from memgen.models.networks import UNetSettings, build

KEYS = {"subject": "a", "role": "cell", "n_train": 10, "part": "a", "train_seed": 0}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(d: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(normal(d, k, seed=seed))[0]


def noised(clean: torch.Tensor, sigma: float, seed: int = 1) -> torch.Tensor:
    return clean + sigma * normal(*clean.shape, seed=seed).to(clean.dtype)


def test_linear_denoiser_returns_its_own_eigenpairs():
    """A symmetric matrix gives back its eigenvalues and eigenvectors; coefficients are those in that basis."""
    axes, values = orthogonal(24, 24), torch.linspace(1.2, -0.1, 24, dtype=torch.float64)
    denoiser = truth.LinearDenoiser((axes * values) @ axes.T, (2, 3, 4))
    clean = normal(2, 3, 4, seed=2)
    found = basis.eigenbasis(denoiser, clean, noisy := noised(clean, 0.1), 0.1)
    torch.testing.assert_close(found.eigenvalues, values, rtol=0, atol=1e-12)
    signs = (found.eigenvectors * axes).sum(dim=0)
    torch.testing.assert_close(signs.abs(), torch.ones_like(signs), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.coefficients_clean * signs, clean.flatten() @ axes, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.coefficients_noisy * signs, noisy.flatten() @ axes, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.singular_values, values.abs().sort(descending=True).values, rtol=0, atol=1e-12)
    assert found.asymmetry < 1e-14
    assert found.linearity_error < 1e-14
    assert found.trace == pytest.approx(float(values.sum()))
    assert found.negative_part == pytest.approx(float(-values[values < 0].sum() / values.abs().sum()))
    assert found.dimension_squares == pytest.approx(float(values.square().sum()))


def test_asymmetric_denoiser_is_called_so():
    """A rotation has symmetric part cos φ, singular values 1 and asymmetry 2 sin φ; a nilpotent matrix has sqrt 2."""
    angle = 0.3
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    clean = normal(1, 1, 2)
    found = basis.eigenbasis(truth.LinearDenoiser(turn, (1, 1, 2)), clean, clean, 0.1)
    assert found.asymmetry == pytest.approx(2 * math.sin(angle))
    assert found.eigenvalues.tolist() == pytest.approx([math.cos(angle)] * 2)
    assert found.singular_values.tolist() == pytest.approx([1, 1])
    shift = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    found = basis.eigenbasis(truth.LinearDenoiser(shift, (1, 1, 2)), clean, clean, 0.1)
    assert found.asymmetry == pytest.approx(math.sqrt(2))
    assert found.negative_part == pytest.approx(0.5)


def test_gaussian_class():
    """The Wiener filter gives λ / (λ + σ²) and the principal axes to 1e-6, no asymmetry, no negative part."""
    denoiser, sigma = truth.GaussianDenoiser.make((1, 5, 6), seed=3), 0.2
    clean = denoiser.draw(1, seed=4)[0]
    found = basis.eigenbasis(denoiser, clean, noised(clean, sigma), sigma)
    factors = denoiser.variances / (denoiser.variances + sigma**2)
    torch.testing.assert_close(found.eigenvalues, factors, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.singular_values, factors, rtol=0, atol=1e-6)
    for k in (1, 5, 20):
        assert harmonics.overlap(found.eigenvectors[:, :k], denoiser.axes[:, :k]) == pytest.approx(1, abs=1e-6)
    assert found.asymmetry < 1e-12
    assert found.negative_part < 1e-12
    assert found.linearity_error > 0.1  # its mean is an additive constant
    assert found.posterior_error == pytest.approx(denoiser.mean_squared_error(sigma))
    assert found.dimension_99 == int(np.searchsorted(np.cumsum(factors.numpy()), 0.99 * float(factors.sum()))) + 1


def test_empirical_denoiser():
    """A finite set of N images gives the eigenvalues of its posterior covariance over σ²: N - 1 of them above 0."""
    pictures, sigma = torch.rand(6, 1, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 0.8
    noisy = noised(pictures[0], sigma)
    found = basis.eigenbasis(EmpiricalDenoiser(pictures).eval(), pictures[0], noisy, sigma)
    weights = truth.IdealDenoiser(pictures).weights(noisy[None], torch.tensor([sigma], dtype=torch.float64))[0]
    rows = pictures.flatten(1)
    covariance = (rows * weights[:, None]).T @ rows - torch.outer(weights @ rows, weights @ rows)
    expected = torch.linalg.eigvalsh(covariance).flip(0) / sigma**2
    torch.testing.assert_close(found.eigenvalues, expected, rtol=0, atol=1e-12)
    assert (found.eigenvalues[:5] > 1e-4).all()
    assert (found.eigenvalues[5:].abs() < 1e-12).all()
    assert found.trace * sigma**2 == pytest.approx(float((rows - weights @ rows).square().sum(dim=1) @ weights))


def test_trained_like_network_is_linear_around_the_image():
    """A bias-free network in float32 has no linearity error beyond 1e-4, and the trace of its Jacobian is that of J."""
    network = build(UNetSettings(blocks=1, width=4), (3, 8, 8))
    network.initialize(torch.Generator().manual_seed(0))
    clean = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = basis.eigenbasis(network.eval(), clean, noised(clean, 0.1), 0.1)
    assert found.linearity_error < 1e-4
    assert found.eigenvectors.dtype == torch.float64
    assert found.asymmetry > 1e-6


@pytest.mark.parametrize("kind", ["gaussian", "asymmetric"])
def test_sure_is_unbiased(kind):
    """Over 400 draws the mean of SURE less the squared error is 0 within 4 standard errors, for any denoiser."""
    sigma, gaussian = 0.3, truth.GaussianDenoiser.make((1, 3, 4), seed=0)
    matrix = 0.3 * normal(12, 12, seed=5)
    denoiser = gaussian if kind == "gaussian" else truth.LinearDenoiser(matrix, (1, 3, 4))
    differences, errors, posterior = [], [], []
    for index, clean in enumerate(gaussian.draw(400, seed=1)):
        found = basis.eigenbasis(denoiser, clean, noised(clean, sigma, seed=1000 + index), sigma)
        differences.append(found.sure - found.squared_error)
        errors.append(found.squared_error)
        posterior.append(found.posterior_error)
    assert abs(np.mean(differences)) < 4 * np.std(differences) / 20
    assert np.std(differences) / 20 < 0.1 * np.mean(errors)  # so a wrong term would show
    if kind == "gaussian":
        assert abs(np.mean(errors) - np.mean(posterior)) < 4 * np.std(errors) / 20


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("cycles", [1, 2, 3])
def test_local_frequency_of_a_wave(axis, cycles):
    """A cosine across 64 pixels has its own frequency, to the error of differences; a constant 0; 0 / 0 is NaN."""
    wave = torch.cos(2 * math.pi * cycles * (torch.arange(64) + 0.5) / 64)
    image = (wave[:, None] if axis == 0 else wave[None]).expand(64, 64)
    vectors = torch.stack([image.flatten(), torch.ones(4096), torch.zeros(4096)], dim=1)
    found = harmonics.local_frequency(vectors, (1, 64, 64))
    assert float(found[0]) == pytest.approx(cycles / 64, rel=0.01)
    assert float(found[1]) == 0
    assert math.isnan(found[2])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(3, 6), st.integers(3, 6), st.integers(0, 10**6))
def test_nulls_of_a_whole_orthonormal_basis(channels, height, width, seed):
    """Summed over a random orthonormal basis, frequency and contour measures are the numbers that they state."""
    shape = (channels, height, width)
    d = math.prod(shape)
    vectors, clean = orthogonal(d, d, seed), normal(*shape, seed=seed + 1)
    frequency = harmonics.local_frequency(vectors, shape).square().mean()
    assert float(frequency) == pytest.approx(harmonics.chance_frequency(shape) ** 2)
    assert float(harmonics.contour_energy(vectors, clean).mean()) == pytest.approx(1)


def test_contour_measures_know_contours():
    """On a vertical edge, a vector on it has energy and varies across it; one along it, or off it, does not."""
    clean = torch.zeros(1, 12, 12)
    clean[:, :, 6:] = 1
    on = torch.zeros(12, 12)
    on[:, 5:7] = 1
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    vectors = torch.stack([v.flatten() for v in (on, 1 - on, columns, rows, rows + columns)], dim=1)
    energy = harmonics.contour_energy(vectors, clean)
    assert float(energy[0]) == pytest.approx(144 / 24)  # 10 of 12 rows count, of the vector as of the contour
    assert float(energy[1]) == pytest.approx(0)
    direction = harmonics.contour_direction(vectors, clean)
    assert direction[2:].tolist() == pytest.approx([1, 0, 0.5])
    random = harmonics.contour_direction(normal(144, 400), clean)
    assert abs(float(random.mean()) - 0.5) < 4 * float(random.std()) / 20
    assert harmonics.contour_energy(vectors, torch.ones(1, 12, 12)).isnan().all()
    assert harmonics.contour_direction(vectors, torch.ones(1, 12, 12)).isnan().all()


@pytest.mark.parametrize(("k", "m"), [(1, 1), (3, 3), (4, 9), (9, 4), (20, 15)])
def test_overlap_is_the_mean_squared_cosine_of_scipys_angles(k, m):
    """The overlap is the mean of cos² of the principal angles, for random spans and for spans 1e-6 apart."""
    a, b = normal(20, k, seed=k), normal(20, m, seed=100 + m)
    near = a[:, : min(k, m)] + 1e-6 * normal(20, min(k, m), seed=3)
    for other in (b, near):
        angles = scipy.linalg.subspace_angles(a.numpy(), other.numpy())
        assert harmonics.overlap(a, other) == pytest.approx(float((np.cos(angles) ** 2).mean()))


def test_overlap_of_random_spans():
    """It is max(k, m) / d on average, within 4 standard errors over 300 draws; 1 for a span within another."""
    for k, m in ((2, 2), (3, 8)):
        found = [harmonics.overlap(normal(16, k, seed=i), normal(16, m, seed=1000 + i)) for i in range(300)]
        assert abs(np.mean(found) - harmonics.chance_overlap(k, m, 16)) < 4 * np.std(found) / math.sqrt(300)
    a = normal(16, 5)
    assert harmonics.overlap(a[:, :2], a) == pytest.approx(1)
    assert harmonics.overlap(a, a @ normal(5, 5)) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 4, 4)])
def test_dct_is_scipys(shape):
    """Orthonormal; each column is a cosine image of scipy's inverse DCT in one channel; frequencies rise."""
    vectors, d = harmonics.dct(shape), math.prod(shape)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(d, dtype=torch.float64), rtol=0, atol=1e-12)
    coefficients = scipy.fft.dctn(vectors.T.reshape(d, *shape).numpy(), axes=(2, 3), norm="ortho")
    largest = np.abs(coefficients).reshape(d, d).max(axis=1)
    np.testing.assert_allclose(largest, 1, atol=1e-12)
    frequency = harmonics.local_frequency(vectors, shape)
    assert (frequency.diff() >= -1e-12).all()
    assert float(frequency[shape[0] - 1]) < 1e-9 < float(frequency[shape[0]])


def test_tables():
    """The rows hold the basis; overlaps appear where another basis is given, and are null where none is."""
    denoiser, sigma = truth.GaussianDenoiser.make((1, 5, 6), seed=3), 0.2
    clean = denoiser.draw(1, seed=4)[0]
    found = basis.eigenbasis(denoiser, clean, noised(clean, sigma), sigma)
    rows, summary = basis.to_tables(found, clean, "x", 2, KEYS, twin=found, principal=denoiser.axes)
    tables.check(rows, schemas.BASIS, "test")
    assert rows.num_rows == 30
    assert rows.column("k").to_pylist() == list(range(1, 31))
    assert rows.column("eigenvalue").to_pylist() == found.eigenvalues.tolist()
    one = summary.to_pylist()[0]
    assert one["trace"] == found.trace
    assert one["overlap_rank"] == round(found.trace) < 30
    assert one["overlap_pca"] == pytest.approx(1)
    assert one["overlap_twin"] == pytest.approx(1)
    assert 0 < one["overlap_dct"] < 0.9
    assert one["overlap_chance"] == round(found.trace) / 30
    kept = rows.slice(0, one["overlap_rank"]).to_pandas()
    assert one["local_frequency"] == pytest.approx(math.sqrt((kept["local_frequency"] ** 2).mean()))
    for name in ("contour_energy", "contour_direction"):
        assert one[name] == pytest.approx(kept[name].mean())
    assert (one["image_id"], one["noise_draw"], one["sigma"]) == ("x", 2, sigma)
    _, summary = basis.to_tables(found, torch.ones(1, 5, 6), "x", 2, KEYS)
    assert summary.column("overlap_pca").null_count == summary.column("overlap_twin").null_count == 1
    assert basis.to_tables(found, torch.ones(1, 5, 6), "x", 2, KEYS)[0].column("contour_energy").null_count == 30


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 4, 4)])
def test_some_of_the_dct(shape):
    """The slowest cosines are the first of all of them."""
    every = harmonics.dct(shape)
    for count in (1, 4, math.prod(shape)):
        torch.testing.assert_close(harmonics.dct(shape, count), every[:, :count], rtol=0, atol=0)


def test_zero_denoiser():
    """A Jacobian of zeros has no dimension, no asymmetry and no negative part, and no division by zero."""
    clean = normal(1, 3, 3)
    found = basis.eigenbasis(truth.ZeroDenoiser((1, 3, 3)), clean, clean, 0.1)
    assert (found.trace, found.dimension_squares, found.dimension_99) == (0, 0, 0)
    assert (found.asymmetry, found.negative_part, found.linearity_error) == (0, 0, 0)


def test_wrong_input_is_refused():
    """Images and vectors that do not fit, images too small for contours, and a Jacobian that is not finite."""
    clean = normal(1, 3, 3)
    denoiser = truth.LinearDenoiser(torch.eye(9), (1, 3, 3))
    with pytest.raises(ShapeError, match="clean image"):
        basis.eigenbasis(denoiser, clean[:, :2], clean, 0.1)
    with pytest.raises(ShapeError, match="C·H·W"):
        harmonics.local_frequency(torch.eye(8), (1, 3, 3))
    with pytest.raises(ShapeError, match="at least 3"):
        harmonics.contour_energy(torch.eye(6), torch.zeros(1, 2, 3))
    with pytest.raises(ShapeError, match="expected"):
        harmonics.overlap(torch.eye(8), torch.eye(9))
    with pytest.raises(DataError, match="not finite"):
        basis.eigenbasis(truth.LinearDenoiser(torch.full((9, 9), math.inf), (1, 3, 3)), clean, clean, 0.1)


@pytest.mark.gpu
def test_on_a_gpu():
    """Images on a GPU give the eigenvalues and sums of the CPU, with and without the matrix, on the CPU."""
    network = build(UNetSettings(blocks=1, width=4), (1, 8, 8))
    network.initialize(torch.Generator().manual_seed(0))
    clean = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noisy = noised(clean, 0.1)
    ways = (
        lambda *given: basis.eigenbasis(*given, 0.1),
        lambda *given: basis.leading_eigenbasis(*given, 0.1, k=4, probes=8, seed=0),
    )
    for way in ways:
        expected = way(network.cpu().eval(), clean, noisy)
        found = way(network.cuda(), clean.cuda(), noisy.cuda())
        torch.testing.assert_close(found.eigenvalues, expected.eigenvalues, rtol=1e-6, atol=1e-8)
        assert found.trace == pytest.approx(expected.trace)
        assert found.sure == pytest.approx(expected.sure)
