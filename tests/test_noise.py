"""Noise belongs to its image: a function of purpose, seed and index alone."""

import numpy as np
import pytest

from memgen.base import noise


def test_a_stream_depends_on_its_key_alone():
    """Drawing others first, or the global state of numpy, changes nothing; another key gives other numbers."""
    first = noise.normal(noise.stream("sample", 3, 7), (5,))
    np.random.default_rng(0).normal(size=100)
    noise.normal(noise.stream("sample", 3, 6), (50,))
    np.testing.assert_array_equal(noise.normal(noise.stream("sample", 3, 7), (5,)), first)
    for other in (("sample", 3, 8), ("sample", 4, 7), ("image", 3, 7)):
        assert not np.array_equal(noise.normal(noise.stream(*other), (5,)), first)


def test_numbers_are_pinned():
    """The streams must never change: these numbers were drawn on the day they were defined."""
    np.testing.assert_allclose(
        noise.normal(noise.stream("sample", 0, 0), (4,)),
        np.array([0.15905968844890594, 0.850212812423706, -0.19422322511672974, 2.4457802772521973], dtype=np.float32),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("key", [("sample", 0, 1), ("weights", 5, 0)])
def test_streams_are_standard_normal_and_uncorrelated(key):
    """Mean, variance and correlation with another stream within 4.5 standard errors (a false alarm in 1 of 50,000)."""
    n = 200_000
    x = noise.normal(noise.stream(*key), (n,)).astype(np.float64)
    y = noise.normal(noise.stream(key[0], key[1], key[2] + 1), (n,)).astype(np.float64)
    bound = 4.5 / np.sqrt(n)
    assert abs(x.mean()) < bound
    assert abs(x.var() - 1) < bound * np.sqrt(2)
    assert abs((x * y).mean()) < bound


def test_image_draws_do_not_depend_on_the_batch():
    """Every (image, draw, level) gets the same normal image however the rows are cut, and all levels share it."""
    ids = ["a", "b", "c"]

    def collect(batch: int):
        rows = {}
        for image, draw, level, normal in noise.image_draws(ids, (1, 2, 2), 4, 2, seed=9, batch=batch):
            rows |= {(i, j, k): z for i, j, k, z in zip(image, draw, level, normal, strict=True)}
        return rows

    whole, cut = collect(1000), collect(5)
    assert whole.keys() == cut.keys()
    assert len(whole) == 3 * 2 * 4
    for key, value in whole.items():
        np.testing.assert_array_equal(value, cut[key])
        np.testing.assert_array_equal(value, whole[(key[0], key[1], 0)])
    assert not np.array_equal(whole[(0, 0, 0)], whole[(0, 1, 0)])
    assert not np.array_equal(whole[(0, 0, 0)], whole[(1, 0, 0)])
