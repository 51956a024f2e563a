"""The test for copies on images: samples against a training set T and images H that the model never saw.

Distances are Euclidean, between images that are centered and scaled to length 1, so d^2 = 2 (1 - correlation). The pool
of T and H is clustered and indexed once. Then any number of sample sets can be examined against it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen import spaces
from memgen.base import schemas, tables
from memgen.base.errors import DataError
from memgen.images.imageset import ImageSet
from memgen.measures.copies import competition
from memgen.measures.copies.competition import ALIKE, DEFINITION, Competition, MemorizedFraction, Q
from memgen.measures.copies.conformal import benjamini_hochberg, conformal, conformal_resolution
from memgen.measures.copies.lead import Bools, Floats, Ints, lead, probability
from memgen.measures.copies.pool import Pool, pool
from memgen.measures.subject import Samples, Subject, lacking
from memgen.spaces import index

SPACE = "pixels, centered and scaled; Euclidean"
# Samples are judged by at most so many held-out images. More would sharpen p-values below 1/4,000, at a cost in time.
JUDGED_BY = 4096
_NEIGHBORS = 10  # number of neighbors from which the depth of a sample is computed


@dataclass(frozen=True, eq=False)
class Examination:
    """The result of the test for M samples.

    Attributes:
        nearest: number of each sample's nearest representative in the pool, (M,).
        distances: to the nearest representatives, nearest first, (M, K), K at most 10.
        competition: the samples that depend on single training images, at a controlled rate.
        fraction: the memorized fraction.
    """

    nearest: NDArray[np.int64]
    distances: NDArray[np.float64]
    competition: Competition
    fraction: MemorizedFraction


@dataclass(frozen=True, eq=False)
class Judgement:
    """The samples of an examination, judged by held-out images.

    Attributes:
        p: conformal p-value of each sample, (M,).
        q: the same after Benjamini & Hochberg, (M,).
        flagged: samples that are discoveries at the rate of the competition, (M,).
        chance: exact probability that samples lead held-out images by as much if both are exchangeable (see `lead`).
        judged_by: number of held-out images.
    """

    p: Floats
    q: Floats
    flagged: Bools
    chance: float
    judged_by: int


class Examiner:
    """T and H, pooled, clustered and indexed.

    Args:
        train: the training set T.
        held_out: images H of the same source that the model never saw.
        threshold: correlation above which two images are near-duplicates and count as one.
        backend: faiss, torch or auto.
        device: where the torch backend searches.

    Attributes:
        pool: the representatives of T and H.

    Raises:
        DataError: T or H is empty, or the threshold is not in (0, 1].
    """

    def __init__(
        self, train: ImageSet, held_out: ImageSet, threshold: float, backend: str = "auto", device: str = "cpu"
    ) -> None:
        space = spaces.find("correlation")
        rows_t, rows_h = (space.embed(images.floats()).numpy() for images in (train, held_out))
        self.pool: Pool = pool(rows_t, rows_h, train.ids, held_out.ids, threshold)
        self._held_out, self._n_train = held_out, len(train)
        chosen = self.pool.representatives
        self._rows = np.concatenate([rows_t, rows_h])[chosen].astype(np.float64)
        pixels = np.concatenate([train.pixels, held_out.pixels])[chosen]
        # Near-duplicates are gone: a threshold of 1 clusters nothing more.
        self._index = index.Index.build(pixels, self.pool.ids, space, "pool", 1.0, backend, device)

    def examine(self, samples: Tensor, seed: int, q: float = Q) -> Examination:
        """Test samples (M, C, H, W) for dependence on single images of T.

        Args:
            samples: float32, pixel units.
            seed: of the label permutations.
            q: false-discovery rate aimed at, in (0, 1).

        Raises:
            ShapeError: the samples are not of the shape of the images.
            DataError: a sample has a pixel that is not finite.
        """
        near, distances = self._neighbors(samples, _NEIGHBORS)
        nearest, in_train = near[:, 0], self.pool.in_train
        contest = competition.compete(nearest, self._depth(near, distances), in_train, q)
        return Examination(nearest, distances, contest, competition.memorized_fraction(nearest, in_train, seed))

    @cached_property
    def held_out_depths(self) -> Floats:
        """W of at most JUDGED_BY held-out images, whose ids choose them, each as if it had not been in the pool."""
        order = self.pool.order
        rows = order[order >= self._n_train][:JUDGED_BY]
        numbers = self.pool.cluster[rows]
        represents = self.pool.representatives[numbers] == rows
        heir = self.pool.successors()[numbers]
        near, distances = self._neighbors(self._held_out.floats(rows - self._n_train), _NEIGHBORS + 1)
        # An image that represents itself alone leaves the pool; any other cluster stays, with the label of its heir.
        own = near == numbers[:, None]
        own[~(represents & (heir < 0))] = False
        own[~own.any(axis=1), -1] = True  # one of each row is left out: itself, or the farthest
        shape = len(rows), near.shape[1] - 1
        near, distances = near[~own].reshape(shape), distances[~own].reshape(shape)
        in_train = self.pool.in_train[near[:, 0]]
        inherited = represents & (heir >= 0) & (near[:, 0] == numbers)
        in_train[inherited] = heir[inherited] < self._n_train
        depths = self._depth(near, distances)
        return np.where(in_train, depths, -depths)

    def _neighbors(self, images: Tensor, k: int) -> tuple[Ints, Floats]:
        """The nearest representatives and the distances to them, nearest first; (M, K) each, K at most k."""
        hits = self._index.search(images, min(k, self._index.n))
        # A constant image is the zero vector here, at distance 1 from every other.
        distances = np.sqrt(np.maximum(0, 2 - 2 * np.nan_to_num(hits.value, nan=0.5)))
        order = np.argsort(distances, axis=1, kind="stable")
        return np.take_along_axis(hits.reference_index, order, axis=1), np.take_along_axis(distances, order, axis=1)

    def _depth(self, near: Ints, distances: Floats) -> Floats:
        if near.shape[1] < 2:
            return np.full(len(near), np.inf)  # a single cell is all of space
        apart = np.linalg.norm(self._rows[near[:, :1]] - self._rows[near[:, 1:]], axis=2)
        return competition.depth(distances, apart)


def judge(found: Examination, held_out: Floats) -> Judgement:
    """Judge the samples of an examination by the scores W of held-out images, (n,)."""
    scores, others = np.maximum(found.competition.score, 0), np.maximum(held_out, 0)
    p = conformal(scores, others)
    q, flagged = benjamini_hochberg(p, found.competition.q)
    is_sample = np.arange(len(scores) + len(others)) < len(scores)
    ahead = lead(np.concatenate([scores, others]), is_sample)
    return Judgement(p, q, flagged, probability(ahead, len(scores), len(others)), len(others))


def find_copies(
    subject: Subject,
    own: pa.Table | None = None,
    seed: int = 0,
    threshold: float = 0.99,
    backend: str = "auto",
    device: str = "cpu",
) -> tuple[pa.Table, pa.Table]:
    """Test the samples of a subject for copies of its training images, in two ways.

    The competition compares T with everything that the subject never saw, and finds training images. The conformal test
    compares samples with images of that, and finds samples. See `competition` and `conformal` for what each assumes.

    Args:
        subject: one that has samples, T and H.
        own: the nearest training image, by correlation, to each sample: a NEIGHBORS table of rank 1. None: searched.
        seed: of the label permutations.
        threshold: correlation above which two images are near-duplicates and count as one.
        backend: faiss, torch or auto.
        device: where the torch backend searches.

    Returns:
        A SIGNIFICANCE table of a row for each sample, and a COPIES table of one row.

    Raises:
        DataError: the subject lacks samples, T or H.
    """
    if reason := lacking(subject, "samples", "train", "held_out", "unseen"):
        raise DataError(f"{subject.identity.subject}: cannot be tested for copies, since {reason}.")
    assert subject.samples is not None
    assert subject.train is not None
    assert subject.unseen is not None
    if own is None:
        own = _nearest(subject.train, subject.samples, threshold, backend, device)
    examiner = Examiner(subject.train, subject.unseen, threshold, backend, device)
    found = examiner.examine(torch.from_numpy(subject.samples.images), seed)
    judged = judge(found, examiner.held_out_depths)
    return to_tables(subject.identity.columns, subject.samples.index, examiner.pool, found, judged, own)


def to_tables(
    keys: Mapping[str, Any], samples: Ints, pooled: Pool, found: Examination, judged: Judgement, own: pa.Table
) -> tuple[pa.Table, pa.Table]:
    """A SIGNIFICANCE table of a row for each sample, and a COPIES table of one row.

    Args:
        keys: values of the columns subject, role, n_train, part and train_seed.
        samples: their indices, (m,).
        pooled: T and H.
        found: of these samples in the competition.
        judged: by held-out images.
        own: the nearest training image, by correlation, to each sample: a NEIGHBORS table of rank 1.
    """
    contest, share = found.competition, found.fraction
    closeness = own["value"].to_numpy(zero_copy_only=False).astype(np.float64)
    columns = {
        "sample": samples,
        "nearest_id": [pooled.ids[i] for i in found.nearest],
        "nearest_in": np.where(pooled.in_train[found.nearest], "T", "H"),
        "train_id": own["reference_id"].to_pylist(),
        "correlation": closeness,
        "d1": found.distances[:, 0],
        "d2": found.distances[:, 1],
        "cluster": found.nearest,
        "W": contest.score,
        "p": judged.p,
        "q": judged.q,
        "discovered": contest.discovered,
        "flagged": judged.flagged,
        "space": SPACE,
        "definition": DEFINITION,
    }
    significance = tables.make(schemas.SIGNIFICANCE, {**keys, **columns})
    sharing = np.bincount(found.nearest[judged.flagged])
    columns = {
        "n_pool_train": int(pooled.in_train.sum()),
        "n_pool_heldout": int((~pooled.in_train).sum()),
        "n_leaks": pooled.n_mixed,
        "samples": len(samples),
        "q": contest.q,
        "answer": contest.answer,
        "discoveries": int(contest.discovered.sum()),
        "alike": int((contest.discovered & (closeness >= ALIKE)).sum()),
        "attached": contest.n_attached,
        "k_min": contest.k_min,
        "n_competing": contest.n_competing,
        "competition_p": competition.chance(contest, pooled.in_train),
        "memorized_fraction": share.estimate,
        "low": share.low,
        "high": share.high,
        "p": share.p,
        "flagged": int(judged.flagged.sum()),
        "flagged_images": int(np.count_nonzero(sharing)),
        "most_shared": int(sharing.max(initial=0)),
        "conformal_k_min": conformal_resolution(len(samples), judged.judged_by, contest.q),
        "conformal_p": judged.chance,
        "judged_by": judged.judged_by,
        "closest": float(np.nan_to_num(closeness, nan=-1).max(initial=-1)),
    }
    return significance, tables.make(schemas.COPIES, {**keys, **columns})


def _nearest(train: ImageSet, samples: Samples, threshold: float, backend: str, device: str) -> pa.Table:
    """The nearest training image to each sample: a NEIGHBORS table of rank 1."""
    space, nothing = spaces.find("correlation"), dict.fromkeys(("subject", "role", "n_train", "part", "train_seed"))
    searched = index.Index.build(train.pixels, train.ids, space, "train", threshold, backend, device)
    return searched.to_table(searched.search(torch.from_numpy(samples.images), 1), "sample", samples.ids, nothing)
