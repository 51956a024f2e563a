"""The posterior mean of a finite set: brute force in float64, limits, blocks, the Jacobian, and shortlists."""

import math

import numpy as np
import pytest
import torch
from truth import IdealDenoiser

from memgen import spaces
from memgen.base import config
from memgen.base.errors import DataError, ShapeError
from memgen.models import sampling
from memgen.models.denoiser import Denoiser
from memgen.models.known.closed_form import squared_distances
from memgen.models.known.empirical import EmpiricalDenoiser, Shortlist, WeightedMean
from memgen.spaces.index import Index

SHAPE = (2, 4, 5)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def levels(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def noised(images: torch.Tensor, sigma: torch.Tensor, seed: int = 1) -> torch.Tensor:
    return images + sigma[:, None, None, None] * normal(*images.shape, seed=seed)


def nearest(images: torch.Tensor, k: int):
    """An exact search, by brute force."""
    return lambda noisy: torch.cdist(noisy.flatten(1), images.double().flatten(1)).topk(k, largest=False).indices


def test_is_a_denoiser_that_answers_in_the_type_it_is_given():
    """It obeys the protocol, is not blind, keeps float32 and float64, and treats each image at its own noise level."""
    denoiser = EmpiricalDenoiser(uniform(7, *SHAPE))
    assert isinstance(denoiser, Denoiser)
    assert denoiser.image_shape == SHAPE
    assert not denoiser.blind
    noisy, sigma = noised(uniform(3, *SHAPE), levels(0.3, 0.6, 1.2)), levels(0.3, 0.6, 1.2)
    whole = denoiser(noisy, sigma)
    assert whole.dtype == torch.float64
    assert denoiser(noisy.float(), sigma.float()).dtype == torch.float32
    for row in range(3):
        torch.testing.assert_close(denoiser(noisy[row : row + 1], sigma[row : row + 1])[0], whole[row])


def test_wrong_input_is_refused():
    """Images of another shape, missing or too few noise levels, a level of 0, and sets that are none."""
    denoiser = EmpiricalDenoiser(uniform(7, *SHAPE))
    noisy = uniform(2, *SHAPE)
    with pytest.raises(ShapeError, match="expected"):
        denoiser(noisy[:, :1], levels(0.1, 0.1))
    for sigma in (None, levels(0.1)):
        with pytest.raises(ShapeError, match="one noise level for each of 2"):
            denoiser(noisy, sigma)
    with pytest.raises(DataError, match="above 0"):
        denoiser(noisy, levels(0.1, 0.0))
    with pytest.raises(ShapeError, match="at least one image"):
        EmpiricalDenoiser(noisy[:0])
    with pytest.raises(DataError, match="int64"):
        EmpiricalDenoiser(torch.zeros(2, 1, 2, 2, dtype=torch.int64))


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_equals_brute_force(kind: str):
    """It is the softmax-weighted mean, written out in float64, at noise levels where many images share the weight."""
    pixels = (uniform(60, *SHAPE) * 255).to(torch.uint8) if kind == "uint8" else uniform(60, *SHAPE).float()
    images = pixels.double() / 255 if kind == "uint8" else pixels.double()
    sigma = levels(0.4, 0.7, 1.0, 5.0)
    noisy = noised(images[:4], sigma)
    truth = IdealDenoiser(images)
    assert ((truth.weights(noisy, sigma) > 1e-3).sum(1) > 1).sum() >= 3
    torch.testing.assert_close(EmpiricalDenoiser(pixels)(noisy, sigma), truth(noisy, sigma), rtol=0, atol=1e-13)


def test_no_block_size_changes_the_result():
    """Blocks of 1, 7, 64 and all images agree to 1e-12 at every noise level from .01 to 100."""
    images, sigma = uniform(64, 1, 8, 8) * 0.1, torch.logspace(-2, 2, 9, dtype=torch.float64)
    noisy = noised(images[:9], sigma)
    whole = EmpiricalDenoiser(images, block=64)
    assert (whole(noisy, sigma) - images[:9]).abs().amax((1, 2, 3)).max() > 1e-3
    for block in (1, 7, None):
        denoiser = EmpiricalDenoiser(images, block=block)
        torch.testing.assert_close(denoiser(noisy, sigma), whole(noisy, sigma), rtol=0, atol=1e-12)


def test_limits():
    """At no noise it is the nearest image, ties shared; at endless noise the mean of the set."""
    images = uniform(20, *SHAPE)
    noisy = noised(images, torch.full((20,), 0.01, dtype=torch.float64))
    denoiser = EmpiricalDenoiser(images)
    assert torch.equal(denoiser(noisy, torch.full((20,), 1e-6, dtype=torch.float64)), images)
    far = denoiser(noisy, torch.full((20,), 1e6, dtype=torch.float64))
    torch.testing.assert_close(far, images.mean(0).expand_as(far), rtol=0, atol=1e-9)
    middle = (images[:1] + images[1:2]) / 2
    two = EmpiricalDenoiser(images[:2])
    torch.testing.assert_close(two(middle, levels(1e-3)), middle, rtol=0, atol=1e-6)


def test_jacobian_is_the_derivative_of_brute_force():
    """Its closed form equals automatic differentiation of the oracle; entries up to .1, trace above .1, symmetric."""
    images, sigma = uniform(30, *SHAPE), levels(0.5, 1.0)
    noisy, oracle = noised(images[:2], sigma), IdealDenoiser(images)
    found = EmpiricalDenoiser(images, block=11).jacobian(noisy, sigma)
    for row in range(2):
        truth = torch.func.jacrev(lambda y, row=row: oracle(y[None], sigma[row : row + 1])[0])(noisy[row])
        truth = truth.reshape(40, 40)
        assert truth.abs().max() > 0.005
        torch.testing.assert_close(found[row], truth, rtol=0, atol=1e-13)
        torch.testing.assert_close(found[row], found[row].T)
        assert found[row].trace() > 0.1


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own import, for forward mode
def test_autograd_passes_through():
    """Automatic differentiation, forward and backward, gives the same Jacobian, whatever the blocks."""
    images, sigma = uniform(30, *SHAPE), levels(0.5)
    noisy = noised(images[:1], sigma)
    denoiser = EmpiricalDenoiser(images, block=11)
    truth = denoiser.jacobian(noisy, sigma)[0]
    assert truth.abs().max() > 0.05

    def at(y):
        return denoiser(y, sigma)

    for found in (torch.func.jacrev(at)(noisy), torch.autograd.functional.jacobian(at, noisy)):
        torch.testing.assert_close(found.reshape(40, 40), truth, rtol=0, atol=1e-12)
    direction = normal(*noisy.shape, seed=9)
    _, forward = torch.func.jvp(at, (noisy,), (direction,))
    torch.testing.assert_close(forward.flatten(), truth @ direction.flatten(), rtol=0, atol=1e-12)
    with torch.inference_mode():
        fast = denoiser(noisy, sigma)
    assert torch.equal(fast, denoiser(noisy, sigma))


def test_squared_distances_and_their_derivative():
    """Equal to differences squared and summed, an exact copy at 0, with the derivative 2 (q - r) there too."""
    queries, references = uniform(3, 5), uniform(4, 5, seed=1)
    references[2] = queries[1]
    expected = (queries[:, None] - references).square().sum(2)
    torch.testing.assert_close(squared_distances(queries, references), expected, rtol=1e-14, atol=0)
    assert squared_distances(queries, references)[1, 2] == 0
    found = torch.func.jacrev(lambda q: squared_distances(q, references))(queries)  # (3, 4, 3, 5)
    torch.testing.assert_close(found[1, :, 1], 2 * (queries[1] - references), rtol=0, atol=1e-14)


def test_running_mean_survives_log_weights_of_any_size():
    """Blocks with log-weights of -1e9, then 0, then 800 end in the mean of the last ones, and their log-sum-exp."""
    posterior = WeightedMean()
    for log_weight, value in ((-1e9, 5.0), (0.0, 3.0), (800.0, 1.0), (800.0, 2.0), (-1e9, 9.0)):
        posterior.add(levels(log_weight)[None], levels(value)[None])
    assert posterior.mean.item() == 1.5
    assert posterior.log_total.item() == pytest.approx(800 + math.log(2))


def test_shortlist_error_is_within_its_bound():
    """Where the shortlist is used, the bound holds and is not idle; where it is not, the result is the whole sum."""
    images, sigma = uniform(200, 1, 6, 6), levels(*np.geomspace(0.03, 3, 60))
    noisy = noised(images[:60], sigma)
    exact = EmpiricalDenoiser(images)(noisy, sigma)
    for tolerance in (1e-10, 1e-2):
        denoiser = EmpiricalDenoiser(images, shortlist=Shortlist(nearest(images, 8), tolerance))
        denoised, bound = denoiser.denoise(noisy, sigma)
        error = (denoised - exact).square().mean((1, 2, 3)).sqrt()
        used = bound > 0
        assert 10 < used.sum() < 60
        assert (bound <= tolerance).all()
        assert (error <= bound + 1e-14).all()
        assert (error[~used] < 1e-14).all()
        assert torch.equal(denoiser(noisy, sigma), denoised)
    assert error.max() > 1e-5  # the looser tolerance does truncate
    assert (bound[used] / error[used].clamp(min=1e-15)).min() < 1e3


def test_the_index_of_the_house_can_search_for_it():
    """With memgen's own exact search by distance the shortlist is used at small noise, within its tolerance."""
    images, sigma = uniform(200, 1, 6, 6).float(), levels(0.03, 0.06, 0.1)
    found = Index.build(images, [str(i) for i in range(200)], spaces.find("rmse"), "train_a", backend="torch")
    noisy = noised(images[:3].double(), sigma)
    shortlist = Shortlist(lambda queries: torch.from_numpy(found.search(queries.float(), 8).reference_index))
    denoised, bound = EmpiricalDenoiser(images, shortlist=shortlist).denoise(noisy, sigma)
    assert (bound > 0).any()
    assert (denoised - EmpiricalDenoiser(images)(noisy, sigma)).abs().max() < 1e-6


def test_shortlist_of_the_whole_set_is_exact():
    """With k = N nothing is left out: the bound is 0 and the result the whole sum."""
    images, sigma = uniform(9, *SHAPE), levels(0.1, 2.0)
    noisy = noised(images[:2], sigma)
    denoised, bound = EmpiricalDenoiser(images, shortlist=Shortlist(nearest(images, 9))).denoise(noisy, sigma)
    assert torch.equal(bound, torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(denoised, EmpiricalDenoiser(images)(noisy, sigma), rtol=0, atol=1e-14)


def test_searches_that_return_nonsense_are_refused():
    """Positions of the wrong shape or outside of the set."""
    images = uniform(9, *SHAPE)
    for positions, error in ((torch.zeros(3, 1), ShapeError), (torch.full((2, 1), -1), DataError)):
        denoiser = EmpiricalDenoiser(images, shortlist=Shortlist(lambda noisy, found=positions: found.long()))
        with pytest.raises(error, match="search"):
            denoiser(images[:2], levels(0.1, 0.1))


def test_samples_are_training_images():
    """Everything that is sampled from it correlates above .999 with an image of the set, and not always the same."""
    images = uniform(12, 1, 6, 6)
    settings = config.validate(sampling.SampleSettings, {"sigma_end": 0.02, "micro_batch": 8, "h0": 0.05}, "test")
    drawn = sampling.sample(EmpiricalDenoiser(images), images.mean(0).float(), range(16), 0, settings)
    assert (drawn.status == "converged").all()
    found = np.corrcoef(drawn.images.reshape(16, -1), images.flatten(1).numpy())[:16, 16:]
    assert found.max(axis=1).min() > 0.999
    assert len(set(found.argmax(axis=1))) > 3
