"""Jacobians: against automatic differentiation, closed forms and exact eigenvalues; matrices against products."""

import math

import numpy as np
import pytest
import torch
import truth

from memgen.base.errors import ConfigError, DataError, ShapeError
from memgen.measures.geometry import jacobian
from memgen.models.known.empirical import EmpiricalDenoiser
from memgen.models.known.gaussian import GaussianDenoiser, StationaryDenoiser
from memgen.models.networks import BFCNNRFSettings, BFCNNSettings, BiasFreeBatchNorm, UNetSettings, build

NETWORKS = [
    (UNetSettings(blocks=1, width=9), (1, 10, 14)),
    (UNetSettings(blocks=2, width=3), (3, 12, 16)),
    (UNetSettings(blocks=3, width=13), (3, 8, 16)),
    (BFCNNSettings(layers=6, width=5), (3, 11, 9)),
    (BFCNNSettings(layers=5, width=6, first_layer_linear=True), (1, 12, 7)),
    (BFCNNRFSettings(receptive_field=9, width=5), (2, 13, 12)),
]
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own, for forward mode


def network(settings, shape, seed: int = 0):
    """With random norms of both signs, so that nothing is near the identity."""
    made = build(settings, shape)
    generator = torch.Generator().manual_seed(seed)
    made.initialize(generator)
    for module in made.modules():
        if isinstance(module, BiasFreeBatchNorm):
            module.gammas.data.normal_(generator=generator)
            module.running_sd.uniform_(0.5, 1.5, generator=generator)
    return made.eval()


def images(n: int, shape, seed: int = 1, dtype=torch.float32) -> torch.Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype) - 0.2


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


class Smooth(torch.nn.Module):
    """A denoiser that is neither linear, nor bias-free, nor blind, nor symmetric."""

    blind = False

    def __init__(self, shape) -> None:
        super().__init__()
        self.image_shape = shape
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.inner = torch.nn.Conv2d(shape[0], 4, 3, padding=1)
            self.outer = torch.nn.Conv2d(4, shape[0], 5, padding=2)

    def forward(self, noisy, sigma=None):
        return self.outer(torch.tanh(3 * self.inner(noisy))) + noisy / (1 + sigma.view(-1, 1, 1, 1))


def by_jacrev(function, noisy: torch.Tensor) -> torch.Tensor:
    d = noisy[0].numel()
    return torch.stack([torch.func.jacrev(function)(image).reshape(d, d) for image in noisy]).detach()


@pytest.mark.parametrize(("settings", "shape"), NETWORKS, ids=str)
@pytest.mark.parametrize("chunk", [None, 1, 7, 40, 10_000])
def test_network_equals_jacrev(settings, shape, chunk):
    """For every architecture, batches, colors and chunk sizes, the matrix is that of reverse-mode differentiation."""
    denoiser, noisy = network(settings, shape), images(2, shape)
    found = jacobian.full(denoiser, noisy, chunk=chunk)
    assert found.dtype == torch.float32
    expected = by_jacrev(lambda image: denoiser(image[None])[0], noisy)
    assert relative(found, expected) < 1e-6
    assert relative(found[0], found[1]) > 1e-3  # the gates are those of each image


@pytest.mark.parametrize(("settings", "shape"), NETWORKS, ids=str)
def test_output_is_jacobian_times_input(settings, shape):
    """f(y) = J(y) y to 1e-4 in float32 and to 1e-13 in float64, which needs no float64 network."""
    denoiser, noisy = network(settings, shape), images(1, shape)
    assert relative((jacobian.full(denoiser, noisy)[0] @ noisy.flatten()).view(noisy.shape), denoiser(noisy)) < 1e-4
    exact = jacobian.full(denoiser, noisy.double())[0]
    assert exact.dtype == torch.float64
    assert next(denoiser.parameters()).dtype == torch.float32
    denoised = denoiser.double()(noisy.double())
    assert relative((exact @ noisy.double().flatten()).view(noisy.shape), denoised) < 1e-13


def test_any_module_equals_jacrev():
    """A denoiser of unknown make, with a noise level of its own for each image, chunked or not."""
    shape = (2, 5, 6)
    denoiser, noisy, sigma = Smooth(shape).eval(), images(3, shape), torch.tensor([0.1, 0.5, 2.0])
    for chunk in (None, 1, 7, 60, 500):
        found = jacobian.full(denoiser, noisy, sigma, chunk)
        for row in range(3):
            level = sigma[row : row + 1]
            expected = by_jacrev(lambda image, level=level: denoiser(image[None], level)[0], noisy[row : row + 1])[0]
            assert relative(found[row], expected) < 1e-6
    exact = jacobian.full(denoiser, noisy.double(), sigma)
    assert exact.dtype == torch.float64
    assert relative(exact, found.double()) < 1e-5


def test_denoiser_is_left_as_it_is():
    """Weights keep their values, gradients, type and need of gradients; outputs are the same before and after."""
    for denoiser in (network(*NETWORKS[1]), Smooth((3, 12, 16)).eval()):
        noisy, sigma = images(1, (3, 12, 16)), torch.tensor([0.3])
        before = {name: (p.clone(), p.requires_grad, p.dtype) for name, p in denoiser.named_parameters()}
        denoised = denoiser(noisy, sigma).detach()
        for dtype in (torch.float32, torch.float64):
            assert not jacobian.full(denoiser, noisy.to(dtype), sigma).requires_grad
            assert not jacobian.Products(denoiser, noisy.to(dtype), sigma).symmetric(torch.ones(576, 1)).requires_grad
        for name, parameter in denoiser.named_parameters():
            value, needs, kind = before[name]
            assert torch.equal(parameter, value)
            assert (parameter.requires_grad, parameter.dtype) == (needs, kind)
            assert parameter.grad is None
        assert torch.equal(denoiser(noisy, sigma), denoised)
        denoiser(noisy, sigma).sum().backward()  # training can go on
        assert next(denoiser.parameters()).grad is not None


def test_closed_forms_answer_for_themselves():
    """The linear denoiser's matrix; the posterior covariance over σ² of a finite set, by an independent sum."""
    shape, sigma = (1, 4, 5), torch.tensor([0.4, 0.8], dtype=torch.float64)
    noisy = images(2, shape, dtype=torch.float64)
    matrix = torch.randn(20, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = jacobian.full(truth.LinearDenoiser(matrix, shape), noisy)
    torch.testing.assert_close(found, matrix.expand(2, -1, -1))
    pictures = images(15, shape, seed=4, dtype=torch.float64)
    found = jacobian.full(EmpiricalDenoiser(pictures).eval(), noisy, sigma)
    weights = truth.IdealDenoiser(pictures).weights(noisy, sigma)
    for row in range(2):
        rows = pictures.flatten(1).numpy()
        covariance = torch.from_numpy(np.cov(rows.T, aweights=weights[row].numpy(), ddof=0))
        torch.testing.assert_close(found[row], covariance / sigma[row] ** 2, rtol=1e-9, atol=1e-12)
    assert jacobian.full(EmpiricalDenoiser(pictures).eval(), noisy.float(), sigma).dtype == torch.float32
    oracle = jacobian.full(truth.IdealDenoiser(pictures), noisy, sigma)  # of unknown make: by differentiation
    torch.testing.assert_close(oracle, found, rtol=1e-9, atol=1e-12)


def test_gaussian_eigenvalues():
    """Differentiated as a plain function, the Wiener filter has a symmetric J of eigenvalues λ / (λ + σ²), to 1e-12."""
    denoiser, sigma = truth.GaussianDenoiser.make((2, 4, 4), seed=0), torch.tensor([0.15], dtype=torch.float64)
    found = jacobian.full(denoiser, images(1, (2, 4, 4), dtype=torch.float64), sigma)[0]
    torch.testing.assert_close(found, found.T, rtol=0, atol=1e-13)
    eigenvalues = torch.linalg.eigvalsh(found).flip(0)
    torch.testing.assert_close(eigenvalues, denoiser.eigenvalues(sigma)[0], rtol=0, atol=1e-12)


PRODUCTS = [
    *((network(*pair), None) for pair in NETWORKS),
    (Smooth((2, 5, 6)).eval(), torch.tensor([0.5])),
    (EmpiricalDenoiser(images(9, (2, 4, 5), seed=4)).eval(), torch.tensor([0.5])),
    (GaussianDenoiser.fit(images(50, (1, 5, 5), seed=4), 1e-4).eval(), torch.tensor([0.2])),
    (StationaryDenoiser.fit(images(50, (1, 5, 5), seed=4), 1e-4).eval(), torch.tensor([0.2])),
]


@pytest.mark.parametrize(("denoiser", "sigma"), PRODUCTS, ids=lambda item: type(item).__name__)
@pytest.mark.parametrize("chunk", [None, 3])
def test_products_equal_the_matrix(denoiser, sigma, chunk):
    """J V, Jᵀ V and their mean are those of the full matrix, whatever the chunk."""
    noisy = images(1, denoiser.image_shape)
    matrix, products = jacobian.full(denoiser, noisy, sigma)[0], jacobian.Products(denoiser, noisy, sigma, chunk)
    directions = torch.randn(products.d, 8, generator=torch.Generator().manual_seed(5))
    assert relative(products.forward(directions), matrix @ directions) < 1e-5
    assert relative(products.reverse(directions), matrix.T @ directions) < 1e-5
    assert relative(products.symmetric(directions), (matrix + matrix.T) @ directions / 2) < 1e-5


@pytest.mark.parametrize("k", [1, 5, 30])
@pytest.mark.parametrize("seed", [0, 1])
def test_largest_eigenvalues_equal_those_of_the_matrix(k, seed):
    """The k largest eigenvalues of an asymmetric J's symmetric part, within their residuals; eigenvectors orthonormal."""
    denoiser, shape = network(UNetSettings(blocks=2, width=3), (1, 12, 16), seed), (1, 12, 16)
    noisy = images(1, shape, dtype=torch.float64)
    matrix = jacobian.full(denoiser, noisy)[0]
    symmetric = (matrix + matrix.T) / 2
    assert (matrix - matrix.T).norm() > 0.1 * matrix.norm()
    expected, vectors = torch.linalg.eigh(symmetric)
    found = jacobian.largest(jacobian.Products(denoiser, noisy), k, seed, tolerance=1e-8)
    assert found.converged
    torch.testing.assert_close(found.eigenvalues, expected.flip(0)[:k], rtol=1e-9, atol=0)
    assert (found.residuals <= 1e-8 * expected.abs().max()).all()
    torch.testing.assert_close(
        found.eigenvectors.T @ found.eigenvectors, torch.eye(k, dtype=torch.float64), rtol=0, atol=1e-10
    )
    torch.testing.assert_close(
        (symmetric @ found.eigenvectors - found.eigenvectors * found.eigenvalues).norm(dim=0),
        found.residuals,
        rtol=1e-3,
        atol=1e-12,
    )
    aligned = (vectors.flip(1)[:, :1] * found.eigenvectors[:, :1]).sum().abs()
    assert aligned > 1 - 1e-6


def test_residuals_bound_the_error_where_the_iteration_is_cut_short():
    """With too few products it says so, and every value it gives is within its residual of an eigenvalue."""
    matrix = torch.diag(torch.linspace(1, 0, 64, dtype=torch.float64))
    products = jacobian.Products(truth.LinearDenoiser(matrix, (1, 8, 8)), images(1, (1, 8, 8), dtype=torch.float64))
    found = jacobian.largest(products, 4, seed=0, tolerance=1e-10, max_products=25)
    assert not found.converged
    assert found.residuals.max() > 1e-3
    distance = (found.eigenvalues[:, None] - matrix.diagonal()).abs().amin(dim=1)
    assert (distance <= found.residuals * (1 + 1e-9)).all()


def test_largest_finds_repeated_eigenvalues_and_stops_in_an_invariant_space():
    """The identity has eigenvalue 1, k times over; a projection on 3 dimensions has it 3 times, then 0."""
    d = 36
    basis = torch.linalg.qr(torch.randn(d, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    for matrix, expected in (
        (torch.eye(d, dtype=torch.float64), [1.0] * 6),
        (basis @ basis.T, [1.0] * 3 + [0.0] * 3),
    ):
        denoiser = truth.LinearDenoiser(matrix, (1, 6, 6))
        found = jacobian.largest(jacobian.Products(denoiser, images(1, (1, 6, 6), dtype=torch.float64)), 6, seed=0)
        assert found.converged
        torch.testing.assert_close(found.eigenvalues, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)


def test_trace_within_its_error():
    """Over 40 seeds the estimate's errors, in units of its standard error, have mean 0 and deviation 1, to 4 sigma."""
    denoiser, noisy = network(UNetSettings(blocks=1, width=4), (1, 8, 8)), images(1, (1, 8, 8))
    exact = float(jacobian.full(denoiser, noisy)[0].trace())
    products = jacobian.Products(denoiser, noisy)
    found = [jacobian.moments(products, 64, seed) for seed in range(40)]
    z = torch.tensor([(one.trace - exact) / one.trace_error for one in found])
    assert abs(z.mean()) < 4 / math.sqrt(40)
    assert abs(z.std() - 1) < 4 / math.sqrt(80)
    assert len({one.trace for one in found}) == 40
    assert found[0] == jacobian.moments(products, 64, 0)


def test_trace_of_a_diagonal_is_exact():
    """Random signs see trace and norm of a diagonal matrix without error; items have signs of their own."""
    matrix = torch.diag(torch.arange(16.0))
    products = jacobian.Products(truth.LinearDenoiser(matrix, (1, 4, 4)), images(1, (1, 4, 4)))
    assert jacobian.moments(products, 3, seed=7) == jacobian.Moments(120.0, 0.0, 1240.0, 0.0)
    full = jacobian.Products(truth.LinearDenoiser(matrix + 1, (1, 4, 4)), images(1, (1, 4, 4)))
    assert jacobian.moments(full, 3, 7, "a").trace != jacobian.moments(full, 3, 7, "b").trace


@pytest.mark.parametrize("k", [0, 3, 20])
def test_moments_around_a_span(k):
    """Trace, norm and asymmetry are those of the matrix, whatever the span; the larger the span the less the error."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(20, 20, generator=generator, dtype=torch.float64))[0]
    matrix = (axes * torch.logspace(0, -3, 20, dtype=torch.float64)) @ axes.T
    matrix += 0.02 * torch.randn(20, 20, generator=generator, dtype=torch.float64)
    products = jacobian.Products(truth.LinearDenoiser(matrix, (1, 4, 5)), images(1, (1, 4, 5), dtype=torch.float64))
    span = torch.linalg.eigh((matrix + matrix.T) / 2)[1][:, 20 - k :]
    found = [jacobian.moments(products, 200, seed, span=span) for seed in range(10)]
    truths = {
        "trace": float(matrix.trace()),
        "squares": float(matrix.square().sum()),
        "asymmetry": float((matrix - matrix.T).norm() / matrix.norm()),
    }
    for name, exact in truths.items():
        values = np.array([getattr(one, name) for one in found])
        assert abs(values.mean() - exact) <= 4 * values.std(ddof=1) / math.sqrt(10) + 1e-10, name
    plain = jacobian.moments(products, 200, 0).trace_error
    assert found[0].trace_error <= {0: plain, 3: plain / 2, 20: 0.0}[k]


def test_wrong_input_is_refused():
    """Wrong shapes, several images for products, train mode, chunks, counts and directions that make no sense."""
    denoiser, noisy = network(*NETWORKS[0]), images(2, NETWORKS[0][1])
    with pytest.raises(ShapeError, match="denoiser's shape"):
        jacobian.full(denoiser, noisy[:, :, :8])
    with pytest.raises(DataError, match="train mode"):
        jacobian.full(network(*NETWORKS[0]).train(), noisy)
    with pytest.raises(ConfigError, match="at least 1"):
        jacobian.full(denoiser, noisy, chunk=0)
    with pytest.raises(ShapeError, match="expected 1"):
        jacobian.Products(denoiser, noisy)
    products = jacobian.Products(denoiser, noisy[:1])
    with pytest.raises(ShapeError, match="in columns"):
        products.forward(torch.ones(3, 140))
    with pytest.raises(ConfigError, match="1 to 140"):
        jacobian.largest(products, 141, seed=0)
    with pytest.raises(ConfigError, match="at least 2"):
        jacobian.moments(products, 1, seed=0)


@pytest.mark.gpu
@pytest.mark.parametrize(("settings", "shape"), NETWORKS, ids=str)
def test_runs_on_the_device_of_the_images(settings, shape):
    """On a GPU the result stays there and is that of the CPU to 1e-10, in float64."""
    denoiser, noisy = network(settings, shape), images(1, shape, dtype=torch.float64)
    expected = jacobian.full(denoiser, noisy)
    found = jacobian.full(denoiser.cuda(), noisy.cuda())
    assert found.is_cuda
    assert relative(found.cpu(), expected) < 1e-10
    assert jacobian.largest(jacobian.Products(denoiser, noisy.cuda()), 2, seed=0).converged
