"""Discs: their images, their tangents, and their posterior mean against Monte Carlo, derivatives and the tangent space."""

import math

import numpy as np
import pytest
import torch

from memgen.base.errors import ConfigError
from memgen.models.denoiser import Denoiser
from memgen.models.known.discs import DiscDenoiser, DiscPrior
from memgen.models.known.empirical import EmpiricalDenoiser
from memgen.models.known.gaussian import GaussianDenoiser

SIDE = 12
PRIOR = DiscPrior(SIDE, center=(3.6, 8.4), radius=(2.2, 3.6), contrast=0.3, edge=1.0)
LARGE = DiscPrior(80, center=(24, 56), radius=(12, 24), contrast=0.3, edge=1.0)


def rendered(parameters: np.ndarray, prior: DiscPrior = PRIOR) -> np.ndarray:
    """The images (n, d) of discs (n, 5), written out anew."""
    grid = np.arange(prior.side) + 0.5
    row, column, radius, foreground, background = parameters.T[:, :, None, None]
    distance = np.hypot(row - grid[:, None], column - grid[None])
    mask = 0.5 * (1 + np.tanh(2 * (radius - distance) / prior.edge))
    return (foreground * mask + background * (1 - mask)).reshape(len(parameters), -1)


def allowed(parameters: np.ndarray, prior: DiscPrior = PRIOR) -> np.ndarray:
    (low, high), (small, large) = prior.center, prior.radius
    row, column, radius, foreground, background = parameters.T
    inside = (row > low) & (row < high) & (column > low) & (column < high) & (radius > small) & (radius < large)
    inside &= (np.minimum(foreground, background) > 0) & (np.maximum(foreground, background) < 1)
    return inside & (np.abs(foreground - background) > prior.contrast)


def discs(n: int, seed: int, prior: DiscPrior = PRIOR) -> torch.Tensor:
    return prior.draw(torch.rand(n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def observed(parameters: torch.Tensor, sigma: float, seed: int, prior: DiscPrior = PRIOR) -> torch.Tensor:
    clean = prior.render(parameters)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return clean + sigma * noise


def levels(sigma: float, n: int = 1) -> torch.Tensor:
    return torch.full((n,), sigma, dtype=torch.float64)


def weighted(log_weights: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Self-normalized importance sampling: the mean, its standard error, and the effective number of draws."""
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    mean = weights @ images
    return mean, np.sqrt(weights**2 @ (images - mean) ** 2), 1 / (weights**2).sum()


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """The images (200000, d) of draws of the prior, by rejection from the box around it."""
    n, generator = 200_000, np.random.default_rng(1)
    low = np.array([PRIOR.center[0], PRIOR.center[0], PRIOR.radius[0], 0, 0])
    high = np.array([PRIOR.center[1], PRIOR.center[1], PRIOR.radius[1], 1, 1])
    places = low + (high - low) * generator.random((2 * n, 5))
    return rendered(places[allowed(places)][:n])


def by_prior(noisy: np.ndarray, sigma: float, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The posterior mean from images of draws of the prior."""
    return weighted(-((noisy - images) ** 2).sum(1) / (2 * sigma**2), images)


def by_peak(noisy: np.ndarray, sigma: float, start: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The posterior mean from draws of a t distribution of 6 degrees of freedom fitted to the peak next to `start`."""
    generator, peak = np.random.default_rng(2), start.copy()

    def slopes(at: np.ndarray) -> np.ndarray:
        steps = 1e-5 * np.eye(5)
        return (rendered(at + steps) - rendered(at - steps)).T / 2e-5  # (d, 5)

    for _ in range(20):
        peak = peak + np.linalg.lstsq(slopes(peak), noisy - rendered(peak[None])[0], rcond=None)[0]
    root = np.linalg.cholesky(1.3 * sigma**2 * np.linalg.inv(slopes(peak).T @ slopes(peak)))
    normal, chi = generator.standard_normal((n, 5)), generator.chisquare(6, n) / 6
    t = normal / np.sqrt(chi)[:, None]
    drawn, log_density = peak + t @ root.T, -(6 + 5) / 2 * np.log1p((t**2).sum(1) / 6)
    inside = allowed(drawn)
    images = rendered(drawn[inside])
    return weighted(-((noisy - images) ** 2).sum(1) / (2 * sigma**2) - log_density[inside], images)


# Ordinary discs, one that the floor of the contrast holds, and one at the ends of centre and radius.
PLACES = {
    "bright": [5.1, 6.6, 2.9, 0.8, 0.35],
    "dark": [6.4, 4.9, 3.1, 0.15, 0.7],
    "faint": [6.0, 6.2, 3.0, 0.62, 0.31],
    "cornered": [3.7, 8.3, 3.5, 0.98, 0.05],
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("sigma", [1.0, 0.7])
def test_posterior_mean_equals_draws_of_the_prior(drawn: np.ndarray, place: str, sigma: float):
    """E[x|y] is the mean of prior draws weighted by their likelihood, to 5 of its errors in every pixel."""
    noisy = observed(torch.tensor([PLACES[place]], dtype=torch.float64), sigma, seed=len(place))
    mean, error, effective = by_prior(noisy.flatten().numpy(), sigma, drawn)
    denoiser = DiscDenoiser(PRIOR)
    assert effective > 20
    spread = float(denoiser.variance(noisy, levels(sigma)).sqrt())
    assert spread > 6 * math.sqrt((error**2).mean())  # the error is small beside what is not known about x
    off = denoiser(noisy, levels(sigma)).flatten().numpy() - mean
    assert (np.abs(off) < 5 * error + 2e-3 * sigma).all()
    assert np.sqrt((off**2).mean()) < 2.5 * np.sqrt((error**2).mean()) + 2e-3 * sigma


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("sigma", [0.1, 0.02])
def test_posterior_mean_equals_draws_around_the_peak(place: str, sigma: float):
    """E[x|y] is the mean of draws around the peak weighted by density ratios, to 5 of its errors in every pixel."""
    truth = torch.tensor([PLACES[place]], dtype=torch.float64)
    noisy = observed(truth, sigma, seed=len(place))
    mean, error, effective = by_peak(noisy.flatten().numpy(), sigma, truth[0].numpy(), 20_000)
    denoiser = DiscDenoiser(PRIOR)
    assert effective > 1000
    spread = float(denoiser.variance(noisy, levels(sigma)).sqrt())
    assert 0.4 * math.sqrt(5 / SIDE**2) < spread / sigma < 1.6 * math.sqrt(5 / SIDE**2)
    assert spread > 20 * math.sqrt((error**2).mean())
    off = denoiser(noisy, levels(sigma)).flatten().numpy() - mean
    assert (np.abs(off) < 5 * error + 1e-5 * sigma).all()


@pytest.mark.parametrize(("sigma", "largest"), [(1.5, 1e-3), (0.2, 1e-3), (0.03, 2e-4)])
def test_quadrature_error(sigma: float, largest: float):
    """Half the spacing moves the result by less than this share of σ, twice the spacing by more; little is dropped."""
    parameters = torch.tensor([PLACES["bright"], PLACES["cornered"]], dtype=torch.float64)
    noisy, sigmas = observed(parameters, sigma, seed=5), levels(sigma, 2)
    crude, usual, fine = (DiscDenoiser(PRIOR, resolution)(noisy, sigmas) for resolution in (2.0, 1.0, 0.5))
    off = float((usual - fine).square().flatten(1).mean(dim=1).sqrt().max())
    assert off < largest * sigma
    assert float((crude - fine).square().flatten(1).mean(dim=1).sqrt().max()) > off
    assert float(DiscDenoiser(PRIOR).dropped(noisy, sigmas).max()) < 1e-4


def test_grid_is_exact_for_polynomials():
    """The corrected midpoint rule integrates polynomials of degree 4 in row, column and radius to rounding."""
    counts = torch.tensor([12, 10, 6])
    cells = torch.cartesian_prod(*(torch.arange(int(count)) for count in counts))
    weights, places = DiscDenoiser(PRIOR)._end_weights(cells, counts), (cells + 0.5) / counts
    for powers in ((0, 0, 0), (4, 0, 0), (0, 3, 4), (1, 2, 3), (4, 4, 4)):
        found = float((weights * (places ** torch.tensor(powers)).prod(dim=1)).sum()) / len(cells)
        assert found == pytest.approx(1 / math.prod(power + 1 for power in powers), rel=1e-5)  # float32 places


@pytest.mark.parametrize("sigma", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("halvings", [0, 2])
def test_nothing_in_a_cell_is_better_than_its_bound(sigma: float, halvings: int):
    """No disc in a cell has a smaller ||y - x||² than the bound of the cell says, by which cells are dropped."""
    denoiser, noisy = DiscDenoiser(PRIOR), observed(discs(6, seed=3), sigma, seed=4)
    low, extent = denoiser._domain(torch.device("cpu"))
    counts = torch.tensor([10, 10, 5]) * 2**halvings
    spacing = extent / counts
    for image in noisy.flatten(1):
        grid = torch.cartesian_prod(*(torch.arange(int(count)) for count in counts))
        coarse = denoiser._fit(low + (grid + 0.5) * spacing, image)
        cells = grid[coarse.squared.argsort()[:20]]  # the likely ones, where it matters
        places = low + (cells + 0.5) * spacing
        bound = denoiser._bound(denoiser._fit(places, image), places[:, 2], spacing, sigma)
        inside = torch.cartesian_prod(*[torch.linspace(-0.5, 0.5, 7, dtype=torch.float64)] * 3) * spacing
        found = denoiser._fit((places[:, None] + inside).flatten(0, 1), image).squared.view(20, -1).amin(dim=1)
        assert (bound <= found + 1e-9).all()
        assert (bound < coarse.squared.max()).any()  # and it is not so low that nothing could be dropped


def test_jacobian_is_the_derivative():
    """J is symmetric, J v is the difference quotient in random directions, and σ² tr J / d the variance left."""
    sigma, denoiser = 0.2, DiscDenoiser(PRIOR)
    noisy = observed(torch.tensor([PLACES["faint"], PLACES["bright"]], dtype=torch.float64), sigma, seed=3)
    jacobian = denoiser.jacobian(noisy, levels(sigma, 2))
    torch.testing.assert_close(jacobian, jacobian.transpose(1, 2))
    trace = jacobian.diagonal(dim1=1, dim2=2).sum(dim=1)
    assert (trace > 2).all()
    torch.testing.assert_close(denoiser.variance(noisy, levels(sigma, 2)), sigma**2 * trace / SIDE**2)
    for seed in range(2):
        step = torch.randn(noisy.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1e-3
        forward, backward = (denoiser(noisy + sign * step, levels(sigma, 2)) for sign in (1, -1))
        expected = (jacobian @ step.flatten(1)[:, :, None])[:, :, 0]
        found = ((forward - backward) / 2).flatten(1)
        assert float((found - expected).norm() / expected.norm()) < 2e-3


@pytest.mark.slow
def test_no_other_denoiser_is_better():
    """Its error is what it says is left, and less than that of a wrong σ, of shrinking, Wiener and empirical."""
    n, sigma, denoiser = 80, 0.3, DiscDenoiser(PRIOR)
    parameters = discs(n, seed=10)
    clean, noisy = PRIOR.render(parameters), observed(parameters, sigma, seed=11)
    known = PRIOR.render(discs(2000, seed=12))

    def errors(denoised: torch.Tensor) -> torch.Tensor:
        return (denoised - clean).square().flatten(1).mean(dim=1)

    best = denoiser(noisy, levels(sigma, n))
    off = errors(best) - denoiser.variance(noisy, levels(sigma, n))
    assert abs(float(off.mean())) < 4 * float(off.std()) / math.sqrt(n)
    assert float(errors(best).mean()) < 0.4 * float(errors(noisy).mean())
    others = {
        "wrong sigma": denoiser(noisy, levels(1.8 * sigma, n)),
        "shrunk": best + 0.15 * (best.mean(dim=0) - best),
        "Wiener": GaussianDenoiser.fit(known, 1e-6)(noisy, levels(sigma, n)),
        "empirical": EmpiricalDenoiser(known)(noisy, levels(sigma, n)),
        "oracle of the wrong disc": PRIOR.project(parameters.roll(1, 0), noisy),
    }
    for name, other in others.items():
        worse = errors(other) - errors(best)
        assert float(worse.mean()) > 2.5 * float(worse.std()) / math.sqrt(n), name


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_is_a_denoiser(kind: torch.dtype):
    """It obeys the protocol, answers in the type of its input, and no image depends on its batch."""
    denoiser = DiscDenoiser(PRIOR)
    assert isinstance(denoiser, Denoiser)
    assert (denoiser.image_shape, denoiser.blind) == ((1, SIDE, SIDE), False)
    noisy, sigma = observed(discs(3, seed=1), 0.3, seed=2).to(kind), torch.tensor([0.3, 0.1, 0.3], dtype=kind)
    together = denoiser(noisy, sigma)
    assert together.dtype == kind
    for row in range(3):
        assert torch.equal(denoiser(noisy[row : row + 1], sigma[row : row + 1])[0], together[row])


@pytest.mark.parametrize("sigma", [3.0, 0.1, 0.003])
def test_images_that_are_no_discs_have_answers_too(sigma: float):
    """A flat image, noise around no disc, and an image outside of [0, 1] give images in [0, 1]."""
    noise = torch.randn(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    strange = torch.stack([torch.full_like(noise, 0.5), 0.3 * noise + 0.5, 2.0 * (noise > 0) - 0.5])
    denoised = DiscDenoiser(PRIOR)(strange, levels(sigma, 3))
    assert bool(((denoised >= -1e-12) & (denoised <= 1 + 1e-12)).all())


@pytest.mark.parametrize("prior", [PRIOR, LARGE])
def test_images_and_tangents(prior: DiscPrior):
    """Images are the formula's, and tangents their difference quotients, of norm 1."""
    parameters = discs(4, seed=6, prior=prior)
    images = prior.render(parameters).flatten(1).numpy()
    np.testing.assert_allclose(images, rendered(parameters.numpy(), prior), atol=1e-12)
    tangents = prior.tangents(parameters).numpy()
    np.testing.assert_allclose(np.linalg.norm(tangents, axis=2), 1, rtol=1e-12)
    for axis, step in enumerate(1e-6 * np.eye(5)):
        slope = rendered(parameters.numpy() + step, prior) - rendered(parameters.numpy() - step, prior)
        slope /= np.linalg.norm(slope, axis=1, keepdims=True)
        np.testing.assert_allclose(tangents[:, axis], slope, atol=1e-7)


def test_projection_keeps_five_dimensions_of_the_noise():
    """The oracle's mean squared error is 5 σ² / d, and a move along a tangent is kept."""
    parameters, sigma = discs(1, seed=7).expand(4000, 5), 0.1
    noisy, clean = observed(parameters, sigma, seed=8), PRIOR.render(parameters)
    squares = (PRIOR.project(parameters, noisy) - clean).square().flatten(1).sum(dim=1) / sigma**2
    assert float(squares.mean()) == pytest.approx(5, abs=4 * math.sqrt(10 / 4000))
    along = PRIOR.tangents(parameters[:1]).sum(dim=1).view(1, 1, SIDE, SIDE)
    torch.testing.assert_close(PRIOR.project(parameters[:1], clean[:1] + along), clean[:1] + along)


@pytest.mark.slow
def test_intercept_of_the_psnr_curve():
    """At small noise on 80 x 80 pixels the output PSNR is the input's + 10 log10(d / 5) = + 31.07 dB."""
    parameters, sigma, denoiser = discs(4, seed=9, prior=LARGE), 0.002, DiscDenoiser(LARGE)
    noisy = observed(parameters, sigma, seed=10, prior=LARGE)
    gain = -10 * math.log10(float((denoiser.variance(noisy, levels(sigma, 4)) / sigma**2).mean()))
    assert gain == pytest.approx(31.07, abs=0.02)
    projected = LARGE.project(parameters, noisy)
    off = (denoiser(noisy, levels(sigma, 4)) - projected).norm() / (projected - LARGE.render(parameters)).norm()
    assert float(off) < 0.05


def test_draws_are_of_the_prior():
    """Parameters are uniform: moments of centre and radius, and areas of the triangles of intensities."""
    drawn = discs(20_000, seed=0).numpy()
    assert allowed(drawn).all()
    for values, (low, high) in zip(drawn.T[:3], (PRIOR.center, PRIOR.center, PRIOR.radius), strict=True):
        share = (values - low) / (high - low)
        assert abs(share.mean() - 1 / 2) < 4 * math.sqrt(1 / 12 / 20_000)
        assert abs((share**2).mean() - 1 / 3) < 4 * math.sqrt(4 / 45 / 20_000)
    foreground, background = drawn.T[3:]
    for happens, chance in (
        (foreground > background, 1 / 2),
        (np.abs(foreground - background) > 0.65, 1 / 4),  # (.35 / .7)²
        (np.maximum(foreground, background) < 0.65, 1 / 4),
        (np.minimum(foreground, background) > 0.35, 1 / 4),
    ):
        assert abs(happens.mean() - chance) < 4 * math.sqrt(chance * (1 - chance) / 20_000)
    assert abs(np.corrcoef(drawn[:, :3].T)[np.triu_indices(3, 1)]).max() < 0.03


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"center": (8.4, 3.6)}, "smaller, larger"),
        ({"radius": (1.5, 3)}, "twice the edge"),
        ({"edge": 0.5}, "edge of at least 1"),
        ({"contrast": 0}, "between 0 and 1"),
        ({"radius": (2.2, 5)}, "leave an image of 12 pixels"),
    ],
)
def test_what_is_no_prior_is_refused(wrong: dict, words: str):
    """Intervals the wrong way, discs as narrow as their edges, sharp edges, no contrast, discs beyond the image."""
    right = {"side": SIDE, "center": (3.6, 8.4), "radius": (2.2, 3.6), "contrast": 0.3, "edge": 1.0}
    with pytest.raises(ConfigError, match=words):
        DiscPrior(**right | wrong)
