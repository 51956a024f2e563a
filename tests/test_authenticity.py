"""Authenticity on known distances, against a direct computation, and where it is undefined."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from test_peers import flat_images

import memgen
from memgen.images.imageset import ImageSet
from memgen.measures.peers import authenticity


def test_on_known_distances():
    """Training images at 0, .1 and 1 are .1, .1 and .9 from the next. A sample at .3 is .2 from the nearest: authentic;
    one at .7 is .3 from the nearest, less than .9: not authentic."""
    train, held_out = flat_images(0, 0.1, 1), flat_images(0.95, 0.3, 0.35, 0.4)
    samples = flat_images(0.02, 0.3, 0.7, 1)
    subject = memgen.subject(samples=samples, train=train, held_out=held_out)
    found = authenticity.measure(subject, "torch", "cpu")
    assert found.samples.estimate == 3 / 4
    assert found.held_out.estimate == 1 / 4
    assert found.samples.low < 3 / 4 < found.samples.high
    assert (found.samples.n, found.held_out.n) == (4, 4)


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_against_all_distances(backend):
    """The same share as from all pairwise distances, on noise images."""
    random = np.random.default_rng(0)
    train, samples, held_out = (random.random((n, 1, 4, 4), dtype=np.float32) for n in (60, 40, 30))
    subject = memgen.subject(
        samples=ImageSet.from_pixels(samples),
        train=ImageSet.from_pixels(train),
        held_out=ImageSet.from_pixels(held_out),
    )
    found = authenticity.measure(subject, backend, "cpu")
    of_train = cdist(train.reshape(60, -1), train.reshape(60, -1))
    np.fill_diagonal(of_train, np.inf)
    for queries, estimate in ((samples, found.samples), (held_out, found.held_out)):
        distances = cdist(queries.reshape(len(queries), -1), train.reshape(60, -1))
        copied = distances.min(axis=1) <= of_train.min(axis=1)[distances.argmin(axis=1)]
        assert estimate.estimate == copied.mean()


def test_one_training_image_has_no_neighbor():
    """With a single training image it is undefined: null, not 0."""
    subject = memgen.subject(samples=flat_images(0.1), train=flat_images(0), held_out=flat_images(0.5))
    found = authenticity.measure(subject, "torch", "cpu")
    assert found.samples.estimate is None
    assert found.samples.note == "needs two training images"
