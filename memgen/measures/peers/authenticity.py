"""Authenticity: the share of samples that are nearer to a training image than any other training image is.

    d(x, t) <= d(t, t'),    t the training image nearest to x, t' the training image nearest to t

Alaa et al. call all other samples authentic, and report their share, which is 1 minus the share here. The distance is
Euclidean, in pixels. Held-out images do not reach 0, since some of them are nearer to their neighbor than it is to its
own. A training set that holds an image twice has d(t, t') = 0 there, so that only exact copies of it count.

Source: Alaa, van Breugel, Saveliev & van der Schaar, How faithful is your synthetic data?, ICML 2022, section 4.
"""

from typing import Any

from numpy.typing import NDArray

from memgen import spaces
from memgen.base.estimates import Estimate
from memgen.measures.peers import Value, share
from memgen.measures.subject import Subject
from memgen.spaces.index import Index

NAME = "authenticity"
TITLE = "authenticity"
NEEDS = ("samples", "train", "held_out")


def measure(subject: Subject, backend: str, device: str) -> Value:
    """The share of samples, and of held-out images, that are not authentic; see `memgen.measures.peers.Measure`."""
    assert subject.samples is not None
    assert subject.train is not None
    assert subject.held_out is not None
    train = subject.train
    samples, held_out = subject.samples.images, subject.held_out.pixels
    if len(train) < 2:
        missing = [
            Estimate.of(None, n=len(each), unit="share", note="needs two training images")
            for each in (samples, held_out)
        ]
        return Value(*missing)
    index = Index.build(train.pixels, train.ids, spaces.find("rmse"), "train", backend=backend, device=device)
    to_other = index.search(train.pixels, 2).value[:, 1]  # the nearest of all is the image itself

    def shared(queries: NDArray[Any]) -> Estimate:
        hits = index.search(queries, 1)
        nearest = hits.reference_index[:, 0]
        return share(hits.value[:, 0] <= to_other[nearest], nearest)

    return Value(shared(samples), shared(held_out))
