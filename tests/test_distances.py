"""Denoisers as functions: distances, bits and distance to pure memorization where they are known."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import nn
from truth import GaussianDenoiser, IdealDenoiser, IdentityDenoiser, LinearDenoiser

from memgen.base import noise, schemas, tables
from memgen.base.errors import DataError, ShapeError
from memgen.measures import distances

SHAPE = (1, 6, 6)
KEYS = {"subject_a": "n4-s0-a", "subject_b": "n4-s0-b", "role": "cell", "n_train": 4, "train_seed": 0}


def images(n, shape=SHAPE, seed=0):
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed))


def ids(n):
    return [f"id{i}" for i in range(n)]


def measure(a, b, clean, sigmas=(0.1, 0.5), batch=64, names=None, seed=0):
    return distances.measure({"models": (a, b)}, clean, names or ids(len(clean)), sigmas, 3, seed, batch, KEYS)


def test_linear_denoisers():
    """For f_A = M y and f_B = y the value is ||(M - 1)(x + sigma z)||^2 / d, with the noise that psnr adds, row by row."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn((36, 36), generator=generator, dtype=torch.float64)
    clean = images(3)
    table = measure(LinearDenoiser(matrix, SHAPE), IdentityDenoiser(SHAPE), clean, seed=5)
    assert tables.check(table, schemas.DISTANCES, "test").num_rows == 3 * 3 * 2
    for row in table.to_pylist():
        z = noise.normal(noise.stream(f"image/{row['image_id']}", 5, row["noise_draw"]), SHAPE)
        noisy = clean[int(row["image_id"][2:])].double() + row["sigma"] * torch.from_numpy(z).double()
        difference = (matrix - torch.eye(36)) @ noisy.flatten()
        assert row["value"] == pytest.approx(difference.square().mean().item(), rel=1e-4)
        assert row["weight"] is None


def test_gaussian_denoisers_in_closed_form():
    """For Wiener filters W_A, W_B of one mean on images of A, V is tr((W_A - W_B)^2 (C_A + s^2)) / d.

    400 images x 3 draws: the relative standard error is below 2 %; four of them are allowed.
    """
    a, sigma = GaussianDenoiser.make(SHAPE, seed=1), 0.2
    b = GaussianDenoiser(a.mean, a.variances.flip(0), a.axes)
    table = measure(a, b, a.draw(400, seed=2).float(), (sigma,), batch=500)
    noisy_variance = a.variances + sigma**2
    difference = a.variances / noisy_variance - b.variances / (b.variances + sigma**2)
    expected = (difference**2 * noisy_variance).mean().item()
    assert np.mean(table["value"].to_pylist()) == pytest.approx(expected, rel=0.08)


def test_bits_are_the_divergence_of_the_diffused_densities():
    """For two Gaussians the weighted values add up to KL at the lower noise level less KL at the upper, in bits.

    The divergences come from their own closed form. 600 samples: five standard errors of the mean are allowed.
    """
    a = GaussianDenoiser.make(SHAPE, seed=1, scale=0.05)
    b = GaussianDenoiser(a.mean + 0.05, a.variances.flip(0), a.axes)
    low, high = 0.05, 1.0
    sigmas, weights = distances.quadrature(low, high, 12)
    kind = {"samples_a": (a, b)}
    clean = a.draw(600, seed=2).float()
    table = distances.measure(kind, clean, ids(600), sigmas, 1, 0, 512, KEYS, weights)
    each = table["value"].to_numpy() * table["weight"].to_numpy()
    bits = each.reshape(600, -1).sum(axis=1)
    shift = ((b.mean - a.mean).flatten() @ a.axes).square()

    def divergence(sigma):
        p, q = a.variances + sigma**2, b.variances + sigma**2
        return float((p / q - 1 - (p / q).log() + shift / q).sum() / 2 / math.log(2) / 36)

    expected = divergence(low) - divergence(high)
    assert expected > 0.1
    assert bits.mean() == pytest.approx(expected, abs=5 * bits.std() / math.sqrt(600))
    assert bits.std() / math.sqrt(600) < 0.05 * expected


@pytest.mark.parametrize("levels", [6, 12])
def test_quadrature(levels):
    """The weights integrate V(sigma) sigma^-3 / ln 2; noise levels ascend within the range."""
    sigmas, weights = distances.quadrature(0.05, 1, levels)
    assert 0.05 < sigmas[0] < sigmas[-1] < 1
    assert (np.diff(sigmas) > 0).all()

    def v(sigma):
        return sigma**2 / (0.1 + sigma**2)

    expected, _ = integrate.quad(lambda s: v(s) * s**-3 / math.log(2), 0.05, 1)
    assert v(sigmas) @ weights == pytest.approx(expected, rel=1e-4 if levels == 6 else 1e-8)


def test_memorizers_disagree_and_twins_agree():
    """A denoiser agrees with itself exactly; two that memorized different images do not."""
    a, b, holdout = IdealDenoiser(images(4)), IdealDenoiser(images(4, seed=1)), images(4, seed=2)
    assert set(measure(a, a, holdout)["value"].to_pylist()) == {0.0}
    assert min(measure(a, b, holdout, sigmas=(0.05,))["value"].to_pylist()) > 0.05


def test_several_pairs_share_noise_and_calls():
    """Each kind's rows are what the pair alone would give, and a denoiser in two pairs runs once a batch."""
    calls = []

    class Counted(IdentityDenoiser):
        def __call__(self, noisy, sigma=None):
            calls.append(len(noisy))
            return super().__call__(noisy, sigma)

    a, b, c = Counted(SHAPE), IdealDenoiser(images(4)), IdealDenoiser(images(4, seed=1))
    both = distances.measure(
        {"empirical_a": (a, b), "empirical": (b, c), "x": (a, c)}, images(5), ids(5), (0.2,), 3, 0, 4, KEYS
    )
    assert sum(calls) == 15
    for kind, pair in (("empirical_a", (a, b)), ("empirical", (b, c))):
        alone = measure(*pair, images(5), (0.2,), batch=4)["value"].to_pylist()
        assert [row["value"] for row in both.to_pylist() if row["kind"] == kind] == alone


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_batch_changes_nothing(batch):
    """Any batch size gives the same table for an image-wise denoiser."""
    a, b = IdentityDenoiser(SHAPE), IdealDenoiser(torch.zeros((1, *SHAPE)))
    assert measure(a, b, images(5), batch=batch).equals(measure(a, b, images(5), batch=13))


class Diverging(nn.Module):
    """f(y) = NaN, and a training flag."""

    image_shape, blind = SHAPE, True

    def forward(self, noisy, sigma=None):
        return noisy * torch.nan


def test_bad_input_is_named():
    """Images of another shape, ids that do not fit, and a denoiser in train mode are refused."""
    identity = IdentityDenoiser(SHAPE)
    with pytest.raises(ShapeError, match=r"\(2, 1, 4, 4\)"):
        measure(identity, identity, images(2, (1, 4, 4)))
    with pytest.raises(ShapeError, match="3 ids"):
        measure(identity, identity, images(2), names=ids(3))
    with pytest.raises(DataError, match="train mode"):
        measure(identity, Diverging().train(), images(1))
    with pytest.raises(DataError, match="nulls"):
        measure(identity, Diverging().eval(), images(1))
