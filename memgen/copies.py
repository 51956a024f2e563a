"""The test for copies (significance.py) on images: samples against a training set T and images H never trained on.

Distances are Euclidean between images centered and scaled to length 1, so that d^2 = 2 (1 - correlation). The pool of T
and H is clustered and indexed once, and any number of sample sets can then be examined against it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from memgen import duplicates, neighbors, significance
from memgen.images import ImageSet
from memgen.similarity import embed

SPACE = "pixels, centered and scaled; Euclidean"
_NEIGHBORS = 10  # how many the depth of a sample looks at


@dataclass(frozen=True, eq=False)
class Examination:
    """What was found of M samples.

    Attributes:
        nearest: number of each sample's nearest representative in the pool, (M,).
        distances: to the nearest representatives, nearest first, (M, K), K at most 10.
        competition: samples that depend on single training images, at a controlled rate.
        fraction: the memorized fraction.
    """

    nearest: NDArray[np.int64]
    distances: NDArray[np.float64]
    competition: significance.Competition
    fraction: significance.MemorizedFraction


class Examiner:
    """T and H, pooled, clustered and indexed.

    Args:
        train: the training set T.
        held_out: images H of the same source that were never trained on.
        threshold: correlation from which two images are near-duplicates, and count once.
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
        rows_t, rows_h = (embed(images.floats(), "correlation").numpy() for images in (train, held_out))
        self.pool = duplicates.pool(rows_t, rows_h, train.ids, held_out.ids, threshold)
        chosen = self.pool.representatives
        self._rows = np.concatenate([rows_t, rows_h])[chosen].astype(np.float64)
        pixels = np.concatenate([train.pixels, held_out.pixels])[chosen]
        # Near-duplicates are gone: a threshold of 1 clusters nothing more.
        self._index = neighbors.Index.build(pixels, self.pool.ids, "correlation", "pool", 1.0, backend, device)

    def examine(self, samples: Tensor, seed: int, q: float = 0.05) -> Examination:
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
        contest = significance.compete(nearest, significance.depth(distances, apart), in_train, q)
        return Examination(nearest, distances, contest, significance.memorized_fraction(nearest, in_train, seed))
