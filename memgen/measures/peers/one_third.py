"""The 1/3 rule: the share of samples whose nearest training image is three times nearer than the second nearest.

    d_1 / d_2 < 1 / 3,    d_k the Euclidean distance, in pixels, to the k-th nearest training image

The threshold is fixed, so the share of false alarms depends on the images. It misses copies with little noise on them
where training images are close to each other, and a training set that holds an image twice has d_2 = d_1 there.

Source: Yoon, Choi, Kwon & Ryu, Diffusion probabilistic models generalize when they fail to memorize, 2023; Gu et al.,
On memorization in diffusion models, 2023 (DiffMemorize), mem_ratio.py.
"""

from typing import Any

from numpy.typing import NDArray

from memgen import spaces
from memgen.base.estimates import Estimate
from memgen.measures.peers import Value, share
from memgen.measures.subject import Subject
from memgen.spaces.index import Index

NAME = "one_third"
TITLE = "the 1/3 rule"
NEEDS = ("samples", "train", "held_out")
RATIO = 1 / 3


def measure(subject: Subject, backend: str, device: str) -> Value:
    """The share of samples, and of held-out images, that fulfil the rule; see `memgen.measures.peers.Measure`."""
    assert subject.samples is not None
    assert subject.train is not None
    assert subject.held_out is not None
    train = subject.train
    index = Index.build(train.pixels, train.ids, spaces.find("rmse"), "train", backend=backend, device=device)
    return Value(_share(index, subject.samples.images), _share(index, subject.held_out.pixels))


def _share(index: Index, queries: NDArray[Any]) -> Estimate:
    """The share of queries that fulfil the rule."""
    if index.n < 2:
        return Estimate.of(None, n=len(queries), unit="share", note="needs two training images")
    hits = index.search(queries, 2)
    return share(hits.value[:, 0] < RATIO * hits.value[:, 1], hits.reference_index[:, 0])
