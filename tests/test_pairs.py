"""What the comparison of two subjects says, on tables whose medians and means are known."""

from itertools import product

import numpy as np
import pyarrow as pa
import pytest

from memgen.base import schemas, tables
from memgen.findings import pairs

PAIR = {"n_train": None, "train_seed": None, "subject_a": "x", "subject_b": "y", "role": "imported"}


def table(schema: pa.Schema, rows: list[dict]) -> pa.Table:
    return tables.make(schema, PAIR | {name: [row[name] for row in rows] for name in rows[0]})


def similarity(values: dict[str, list[tuple[int, float | None]]]) -> pa.Table:
    rows = [
        {"kind": kind, "item_a": item, "item_b": 0, "metric": "rmse", "value": value}
        for kind, of_kind in values.items()
        for item, value in of_kind
    ]
    return table(schemas.SIMILARITY, rows)


def distances(kinds=("models", "samples_a", "samples_b", "empirical")) -> pa.Table:
    """At 3 noise levels and 2 draws: 1 + i for image i between the models, 10 + i of samples, 99 of what is not asked."""
    start = {"models": 1.0, "samples_a": 10.0, "samples_b": 20.0, "empirical": 99.0}
    rows = [
        {
            "kind": kind,
            "image_id": f"{kind}{image}",
            "sigma": sigma,
            "noise_draw": draw,
            "value": start[kind] + image,
            "weight": None if kind == "models" else weight,
        }
        for kind, image, (sigma, weight), draw in product(kinds, range(4), ((0.1, 3.0), (0.2, 2.0), (0.4, 1.0)), (0, 1))
    ]
    return table(schemas.DISTANCES, rows)


SIMILARITIES = {
    "same_noise": [(0, 0.9), (1, 0.7), (2, 0.8)],
    "different_noise": [(0, 0.1), (0, 0.3), (1, 0.4), (2, 0.9), (3, None)],
}


def test_medians_and_means():
    """A median for each kind of similarity; V of the models; bits: the mean over both models' samples, summed over the
    noise levels with their weights."""
    found = pairs.summarize(similarity(SIMILARITIES), distances(), 0)
    assert list(found) == [
        "samples from the same noise",
        "samples from different noise",
        "V, mean squared difference of the denoisers",
        "bits per dimension",
    ]
    same, different = found["samples from the same noise"], found["samples from different noise"]
    assert (same.estimate, same.n, same.unit) == (0.8, 3, "rmse")
    assert same.low == 0.7
    assert same.high == 0.9
    assert different.estimate == pytest.approx(0.4)  # of .2, .4 and .9: items are averaged first, and nulls left out
    assert different.n == 3
    apart, bits = found[pairs.APART], found[pairs.BITS]
    assert (apart.estimate, apart.n, apart.unit) == (2.5, 4, "pixel units^2")
    assert 1 <= apart.low < 2.5 < apart.high <= 4
    assert bits.estimate == pytest.approx((3 + 2 + 1) * np.mean([10, 11, 12, 13, 20, 21, 22, 23]))
    assert (bits.n, bits.unit) == (8, "bits per dimension")
    assert 60 <= bits.low < bits.estimate < bits.high <= 138


def test_training_images_across_are_named():
    """The similarity of training images across the sets stands under its own name."""
    found = pairs.summarize(similarity({"train_train": [(0, 0.2), (1, 0.6)]}), distances(), 0)
    assert found["training images and the nearest of the other training set"].estimate == pytest.approx(0.4)
    assert "samples from the same noise" not in found


def test_the_seed_makes_the_interval():
    """The same seed gives the same interval, and another seed another one."""
    given = similarity(SIMILARITIES), distances()
    assert pairs.summarize(*given, 1) == pairs.summarize(*given, 1)
    assert pairs.summarize(*given, 1)[pairs.BITS].low != pairs.summarize(*given, 2)[pairs.BITS].low
