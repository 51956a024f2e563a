"""The test for copies on images: samples against a training set T and images H that the model never saw.

Distances are Euclidean, between images that are centered and scaled to length 1, so d^2 = 2 (1 - correlation). The pool
of T and H is clustered and indexed once. Then any number of sample sets can be examined against it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from memgen.measures.copies.competition import ALIKE, DEFINITION, Bools, Competition, Floats, Ints, MemorizedFraction, Q
from memgen.measures.copies.conformal import benjamini_hochberg, conformal, conformal_resolution
from memgen.measures.copies.pool import Pool, pool
from memgen.measures.subject import Samples, Subject, lacking
from memgen.spaces import index

SPACE = "pixels, centered and scaled; Euclidean"
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
        hits = self._index.search(samples, min(_NEIGHBORS, self._index.n))
        # A constant image is the zero vector here, at distance 1 from every other.
        distances = np.sqrt(np.maximum(0, 2 - 2 * np.nan_to_num(hits.value, nan=0.5)))
        order = np.argsort(distances, axis=1, kind="stable")
        near = np.take_along_axis(hits.reference_index, order, axis=1)
        distances = np.take_along_axis(distances, order, axis=1)
        apart = np.linalg.norm(self._rows[near[:, :1]] - self._rows[near[:, 1:]], axis=2)
        nearest, in_train = near[:, 0], self.pool.in_train
        contest = competition.compete(nearest, competition.depth(distances, apart), in_train, q)
        return Examination(nearest, distances, contest, competition.memorized_fraction(nearest, in_train, seed))


def to_table(
    trained: Mapping[str, Any],
    samples: Sequence[int],
    ids: Sequence[str],
    in_train: Bools,
    nearest: Ints,
    distances: Floats,
    competition: Competition,
    train_ids: Sequence[str],
    correlation: Floats,
    p: Floats | None,
    space: str,
) -> pa.Table:
    """A row for each sample: a table SIGNIFICANCE.

    Args:
        trained: values of the columns subject, role, n_train, part and train_seed.
        samples: their indices, (m,).
        ids: content ids of the representatives, (n,).
        in_train: whether each is in T, (n,).
        nearest: number of each sample's nearest representative, (m,).
        distances: (m, K), nearest first, K >= 2.
        competition: of these samples.
        train_ids: content id of the training image nearest to each sample, (m,); it may be a near-duplicate of another.
        correlation: of each sample with that image, (m,).
        p: conformal p-values, (m,); None where not computed. q-values come from `benjamini_hochberg`.
        space: name of the feature space and metric.
    """
    columns = {
        "sample": list(samples),
        "nearest_id": [ids[i] for i in nearest],
        "nearest_in": np.where(in_train[nearest], "T", "H"),
        "train_id": list(train_ids),
        "correlation": correlation,
        "d1": distances[:, 0],
        "d2": distances[:, 1],
        "cluster": nearest,
        "W": competition.score,
        "p": p,
        "q": None if p is None else benjamini_hochberg(p, competition.q)[0],
        "discovered": competition.discovered,
        "space": space,
        "definition": DEFINITION,
    }
    return tables.make(schemas.SIGNIFICANCE, {**trained, **columns})


def find_copies(
    subject: Subject,
    own: pa.Table | None = None,
    null: pa.Table | None = None,
    seed: int = 0,
    threshold: float = 0.99,
    backend: str = "auto",
    device: str = "cpu",
) -> tuple[pa.Table, pa.Table]:
    """Test the samples of a subject for copies of its training images.

    T is compared with everything that the subject never saw. Conformal p-values are judged against H alone.

    Args:
        subject: one that has samples, T and H.
        own: the nearest training image, by correlation, to each sample: a NEIGHBORS table of rank 1. None: searched.
        null: the same to each image of H.
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
    assert subject.held_out is not None
    assert subject.unseen is not None
    samples = subject.samples
    if own is None or null is None:
        own, null = _nearest(subject.train, samples, subject.held_out, threshold, backend, device)
    examining = Examiner(subject.train, subject.unseen, threshold, backend, device)
    found = examining.examine(torch.from_numpy(samples.images), seed)
    pooled, contest, share = examining.pool, found.competition, found.fraction
    closeness, of_held_out = (np.nan_to_num(table["value"].to_numpy(), nan=-1) for table in (own, null))
    p = conformal(closeness, of_held_out)
    keys = subject.identity.columns
    significance = to_table(
        keys,
        [int(i) for i in samples.index],
        pooled.ids,
        pooled.in_train,
        found.nearest,
        found.distances,
        contest,
        own["reference_id"].to_pylist(),
        closeness,
        p,
        SPACE,
    )
    _, flagged = benjamini_hochberg(p, contest.q)
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
        "memorized_fraction": share.estimate,
        "low": share.low,
        "high": share.high,
        "p": share.p,
        "conformal_discoveries": int(flagged.sum()),
        "conformal_k_min": conformal_resolution(len(samples), len(null), contest.q),
    }
    return significance, tables.make(schemas.COPIES, keys | columns)


def _nearest(
    train: ImageSet, samples: Samples, held_out: ImageSet, threshold: float, backend: str, device: str
) -> tuple[pa.Table, pa.Table]:
    """The nearest training image to each sample and to each held-out image: two NEIGHBORS tables of rank 1."""
    space, nothing = spaces.find("correlation"), dict.fromkeys(("subject", "role", "n_train", "part", "train_seed"))
    searched = index.Index.build(train.pixels, train.ids, space, "train", threshold, backend, device)
    queries = (("sample", torch.from_numpy(samples.images), samples.ids), ("holdout", held_out.floats(), held_out.ids))
    own, null = (searched.to_table(searched.search(images, 1), kind, ids, nothing) for kind, images, ids in queries)
    return own, null
