"""The 1/3 rule: the share of samples whose nearest training image is three times nearer than the second nearest.

    d_1 / d_2 < 1 / 3,    d_k the Euclidean distance, in pixels, to the k-th nearest training image

The threshold is fixed, so the share of false alarms depends on the images. It misses copies with little noise on them
where training images are close to each other, and a training set that holds an image twice has d_2 = d_1 there.

Source: Yoon, Choi, Kwon & Ryu, Diffusion probabilistic models generalize when they fail to memorize, 2023; Gu et al.,
On memorization in diffusion models, 2023 (DiffMemorize), mem_ratio.py.
"""

import torch

from memgen import spaces
from memgen.base.estimates import Estimate
from memgen.base.intervals import effective_count, wilson
from memgen.images.imageset import ImageSet
from memgen.measures.peers import Value
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
    return Value(
        _share(subject.train, torch.from_numpy(subject.samples.images), backend, device),
        _share(subject.train, subject.held_out.floats(), backend, device),
    )


def _share(train: ImageSet, queries: torch.Tensor, backend: str, device: str) -> Estimate:
    """The share with its Wilson interval, at the effective count of the training images that are nearest to a query."""
    if len(train) < 2:
        return Estimate.of(None, n=len(queries), unit="share", note="needs two training images")
    index = Index.build(train.pixels, train.ids, spaces.find("rmse"), "train", backend=backend, device=device)
    hits = index.search(queries, 2)
    near = hits.value[:, 0] < RATIO * hits.value[:, 1]
    _, counts = torch.unique(torch.from_numpy(hits.reference_index[:, 0]), return_counts=True)
    low, high = wilson(float(near.mean()), effective_count(counts.numpy()))
    return Estimate.of(float(near.mean()), low, high, len(queries), "share")
