"""Comparison of two denoisers whose samples and outputs are known."""

import numpy as np
import pytest
import torch
from torch import nn
from truth import GaussianDenoiser, IdealDenoiser, IdentityDenoiser, LinearDenoiser

from memgen import noise, tables
from memgen.compare import compare, disagreement
from memgen.errors import DataError, ShapeError
from memgen.neighbors import Index
from memgen.similarity import METRICS, paired

SHAPE = (1, 6, 6)
KEYS = {"denoiser_a": "n4-s0-a", "denoiser_b": "n4-s0-b", "n_train": 4, "train_seed": 0}


def images(n, shape=SHAPE, seed=0):
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed))


def ids(n):
    return [f"id{i}" for i in range(n)]


def index_b(references, metric="correlation"):
    return Index.build(references, ids(len(references)), metric, "train_b", backend="torch")


def values(table, kind):
    rows = [row for row in table.to_pylist() if row["kind"] == kind]
    return [(row["item_a"], row["item_b"]) for row in rows], [row["value"] for row in rows]


@pytest.mark.parametrize("metric", METRICS)
def test_rows_are_the_pairs_they_name(metric):
    """Each row's value is the metric between the two images it names, in all three kinds."""
    a, b, train_a, train_b = images(10), images(10, seed=1), images(7, seed=2), images(8, seed=3)
    table = compare(a, b, train_a, index_b(train_b, metric).nearest, metric, KEYS)
    tables.check(table, tables.SIMILARITY, "test")
    for kind, left, right in (
        ("same_noise", a, b), ("different_noise", a, b), ("train_train", train_a, train_b),
    ):  # fmt: skip
        pairs, found = values(table, kind)
        i, j = torch.tensor(pairs).T
        assert found == paired(left[i], right[j], metric).tolist()
    assert set(table["metric"].to_pylist()) == {metric}
    assert {key: table[key].to_pylist()[0] for key in KEYS} == KEYS


def test_which_pairs():
    """Same noise pairs i with i; different noise pairs every i at four spread shifts, never with itself, none twice."""
    a = images(128)
    table = compare(a, a, images(3, seed=2), index_b(images(4, seed=3)).nearest, "correlation", KEYS)
    same, found = values(table, "same_noise")
    assert same == [(i, i) for i in range(128)]
    assert found == [1.0] * 128
    pairs, found = values(table, "different_noise")
    assert len(pairs) == len(set(pairs)) == 4 * 128
    assert {(j - i) % 128 for i, j in pairs} == {26, 51, 77, 102}
    assert max(found) < 0.9
    assert [i for i, _ in values(table, "train_train")[0]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("n_samples", "shifts"), [(1, set()), (2, {1}), (3, {1, 2}), (5, {1, 2, 3, 4}), (7, {1, 3, 4, 6})]
)
def test_few_samples(n_samples, shifts):
    """With few samples there are fewer shifts, and with one no pair of different noise."""
    a = images(n_samples)
    table = compare(a, a, images(1, seed=2), index_b(images(1, seed=3)).nearest, "correlation", KEYS)
    pairs, _ = values(table, "different_noise")
    assert {(j - i) % n_samples for i, j in pairs} == shifts
    assert len(pairs) == len(shifts) * n_samples


def test_large_training_sets_are_thinned_evenly():
    """Of 3,000 training images, 1,024 evenly spaced ranks are looked up, the first and the last among them."""
    train_a = torch.arange(3000.0).view(3000, 1, 1, 1)

    def nearest(queries):
        return queries.flatten().numpy().astype(np.int64), np.ones(len(queries))

    table = compare(images(1), images(1), train_a, nearest, "rmse", KEYS)
    pairs, _ = values(table, "train_train")
    ranks = [i for i, _ in pairs]
    assert [j for _, j in pairs] == ranks
    assert (len(ranks), ranks[0], ranks[-1]) == (1024, 0, 2999)
    assert set(np.diff(ranks)) == {2, 3}


def test_undefined_pairs_are_null():
    """A sample that is constant or not finite has no similarity: null, in the rows that it belongs to."""
    a, b = images(3), images(3, seed=1)
    a[0], b[1] = 0.5, torch.nan
    table = compare(a, b, images(2), index_b(images(2)).nearest, "correlation", KEYS)
    for row in table.to_pylist():
        assert (row["value"] is None) == (row["kind"] != "train_train" and (row["item_a"] == 0 or row["item_b"] == 1))


def test_samples_of_different_shape():
    """Sample sets that do not pair up are refused."""
    with pytest.raises(ShapeError, match="pair by pair"):
        compare(images(3), images(4), images(1), index_b(images(1)).nearest, "correlation", KEYS)


def disagree(a, b, clean, sigmas=(0.1, 0.5), batch=64, names=None, seed=0):
    return disagreement(a, b, clean, names or ids(len(clean)), sigmas, 3, seed, batch, KEYS)


def test_disagreement_of_linear_denoisers():
    """For f_A = M y and f_B = y, V = ||(M - 1)(x + sigma z)||^2 / d, with the noise that psnr adds, row by row."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn((36, 36), generator=generator, dtype=torch.float64)
    clean = images(3)
    table = disagree(LinearDenoiser(matrix, SHAPE), IdentityDenoiser(SHAPE), clean, seed=5)
    assert tables.check(table, tables.DISAGREEMENT, "test").num_rows == 3 * 3 * 2
    for row in table.to_pylist():
        z = noise.normal(noise.stream(f"image/{row['image_id']}", 5, row["noise_draw"]), SHAPE)
        noisy = clean[int(row["image_id"][2:])].double() + row["sigma"] * torch.from_numpy(z).double()
        difference = (matrix - torch.eye(36)) @ noisy.flatten()
        assert row["value"] == pytest.approx(difference.square().mean().item(), rel=1e-4)


def test_disagreement_of_gaussian_denoisers_in_closed_form():
    """For Wiener filters W_A, W_B of one mean on images of A, V is tr((W_A - W_B)^2 (C_A + s^2)) / d.

    400 images x 3 draws: the relative standard error is below 2 %; four of them are allowed.
    """
    a, sigma = GaussianDenoiser.make(SHAPE, seed=1), 0.2
    b = GaussianDenoiser(a.mean, a.variances.flip(0), a.axes)
    table = disagree(a, b, a.draw(400, seed=2).float(), (sigma,), batch=500)
    noisy_variance = a.variances + sigma**2
    difference = a.variances / noisy_variance - b.variances / (b.variances + sigma**2)
    expected = (difference**2 * noisy_variance).mean().item()
    assert np.mean(table["value"].to_pylist()) == pytest.approx(expected, rel=0.08)


def test_memorizers_disagree_and_twins_agree():
    """A denoiser agrees with itself exactly; two that memorized different images do not."""
    a, b, holdout = IdealDenoiser(images(4)), IdealDenoiser(images(4, seed=1)), images(4, seed=2)
    assert set(disagree(a, a, holdout)["value"].to_pylist()) == {0.0}
    assert min(disagree(a, b, holdout, sigmas=(0.05,))["value"].to_pylist()) > 0.05


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_batch_changes_nothing(batch):
    """Any batch size gives the same table for an image-wise denoiser."""
    a, b = IdentityDenoiser(SHAPE), IdealDenoiser(torch.zeros((1, *SHAPE)))
    assert disagree(a, b, images(5), batch=batch).equals(disagree(a, b, images(5), batch=13))


class Diverging(nn.Module):
    """f(y) = NaN, and a training flag."""

    image_shape, blind = SHAPE, True

    def forward(self, noisy, sigma=None):
        return noisy * torch.nan


def test_bad_input_is_named():
    """Images of another shape, ids that do not fit, and a denoiser in train mode are refused."""
    identity = IdentityDenoiser(SHAPE)
    with pytest.raises(ShapeError, match=r"\(2, 1, 4, 4\)"):
        disagree(identity, identity, images(2, (1, 4, 4)))
    with pytest.raises(ShapeError, match="3 ids"):
        disagree(identity, identity, images(2), names=ids(3))
    with pytest.raises(DataError, match="train mode"):
        disagree(identity, Diverging().train(), images(1))
    with pytest.raises(DataError, match="nulls"):
        disagree(identity, Diverging().eval(), images(1))
