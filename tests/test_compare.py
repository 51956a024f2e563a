"""Comparison of two denoisers whose samples and outputs are known."""

import numpy as np
import pytest
import torch

from memgen.base import schemas, tables
from memgen.base.errors import ShapeError
from memgen.measures.compare import compare
from memgen.spaces import find
from memgen.spaces.index import Index
from memgen.spaces.pixels import SPACES

METRICS = [space.name for space in SPACES]

SHAPE = (1, 6, 6)
KEYS = {"subject_a": "n4-s0-a", "subject_b": "n4-s0-b", "role": "cell", "n_train": 4, "train_seed": 0}


def images(n, shape=SHAPE, seed=0):
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed))


def ids(n):
    return [f"id{i}" for i in range(n)]


def index_b(references, metric="correlation"):
    return Index.build(references, ids(len(references)), find(metric), "train_b", backend="torch")


def values(table, kind):
    rows = [row for row in table.to_pylist() if row["kind"] == kind]
    return [(row["item_a"], row["item_b"]) for row in rows], [row["value"] for row in rows]


@pytest.mark.parametrize("metric", METRICS)
def test_rows_are_the_pairs_they_name(metric):
    """Each row's value is the metric between the two images it names, in all three kinds."""
    a, b, train_a, train_b = images(10), images(10, seed=1), images(7, seed=2), images(8, seed=3)
    table = compare(a, b, train_a, index_b(train_b, metric).nearest, metric, KEYS)
    tables.check(table, schemas.SIMILARITY, "test")
    for kind, left, right in (
        ("same_noise", a, b), ("different_noise", a, b), ("train_train", train_a, train_b),
    ):  # fmt: skip
        pairs, found = values(table, kind)
        i, j = torch.tensor(pairs).T
        assert found == find(metric).paired(left[i], right[j]).tolist()
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
    with pytest.raises(ShapeError, match="the same shape for both"):
        compare(images(3), images(4), images(1), index_b(images(1)).nearest, "correlation", KEYS)
