"""Images divided into lists of like ones, so that a search may look at some lists only: an inverted file.

There are about sqrt(N) lists. A few rounds of k-means among some images find the centers, and every image is put into
the list of the center that is closest to it. A query looks at the lists whose centers are closest to the query. What it
misses is what lies in other lists.

Centers and vectors are rounded to integers so small that sums of their products are exact in float32. So the lists
depend on the vectors alone, and not on threads, devices or the order of sums.

Source: Jegou, Douze & Schmid 2011, Product quantization for nearest neighbor search, section IV.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.spaces import products

_ROUNDS = 5  # of k-means
_LEARNED_FROM = 32  # images for each list, from which the centers are learned
_LEARNED_BYTES = 2**27  # of these images, at most
_EXACT = 2**22  # sums of products up to this size, and their doubles, are exact in float32


class Lists:
    """N vectors, divided into lists.

    Args:
        count: N.
        vectors: gives the vectors at positions, (B, D) float32.
        device: where products are made.
    """

    def __init__(self, count: int, vectors: Callable[[NDArray[np.int64]], Tensor], device: str = "cpu") -> None:
        self._device = device
        lists = max(1, round(math.sqrt(count)))
        d = vectors(np.zeros(1, dtype=np.int64)).shape[1]
        self._levels = max(1, min(127, math.isqrt(_EXACT // d)))
        chosen = spread(count, min(count, max(lists, min(_LEARNED_FROM * lists, _LEARNED_BYTES // d))))
        parts = [vectors(chosen[rows]) for rows in products.steps(len(chosen), d)]
        self._largest = max(max(float(part.abs().max()) for part in parts), 1e-30)
        learned = torch.cat([self._rounded(part) for part in parts])
        del parts
        self._centers = learned[spread(len(learned), lists)].float()
        for _ in range(_ROUNDS):
            self._recenter(learned)
        of = np.empty(count, dtype=np.int64)
        for rows in products.steps(count, d):
            of[rows] = self._closest(self._rounded(vectors(np.arange(count)[rows])))
        self._members = np.argsort(of, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(of, minlength=lists))])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def probed(self, vectors: Tensor, probes: int, least: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """What queries look at.

        Args:
            vectors: of the queries, (M, D) float32.
            probes: lists that each query looks at.
            least: images that each query looks at, at least; it looks at more lists if these hold fewer.

        Returns:
            Positions of the members of each list that a query looks at, ascending, and the numbers of those queries.
        """
        scores = self._scores(self._rounded(vectors))
        ranked = torch.sort(scores, dim=1, descending=True, stable=True).indices.cpu().numpy()
        sizes = np.diff(self._starts)
        before = np.cumsum(sizes[ranked], axis=1) - sizes[ranked]  # images in the lists before each
        query, place = np.nonzero((np.arange(len(self)) < probes) | (before < least))
        of = ranked[query, place]
        order = np.argsort(of, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(of[order])) + 1):
            number = of[rows[0]]
            members = self._members[self._starts[number] : self._starts[number + 1]]
            if len(members):
                yield members, query[rows]

    def _recenter(self, learned: Tensor) -> None:
        """One round of k-means. A center without a vector stays."""
        of = torch.from_numpy(self._closest(learned))
        number = torch.bincount(of, minlength=len(self._centers))
        sums = torch.zeros(self._centers.shape, dtype=torch.int64)
        for rows in products.steps(len(learned), learned.shape[1]):
            sums.index_add_(0, of[rows], learned[rows].long())
        has = number > 0
        self._centers[has] = (sums[has].double() / number[has, None]).round().float()

    def _rounded(self, vectors: Tensor) -> Tensor:
        """Vectors as integers, (B, D) int8."""
        return (vectors * (self._levels / self._largest)).round().clamp(-self._levels, self._levels).to(torch.int8)

    def _scores(self, rounded: Tensor) -> Tensor:
        """How close each vector is to each center, (B, L): 2 <v, c> - ||c||^2, exact."""
        centers = self._centers.to(self._device)
        with products.full_precision():
            return 2 * (rounded.to(self._device).float() @ centers.T) - centers.square().sum(dim=1)

    def _closest(self, rounded: Tensor) -> NDArray[np.int64]:
        """The center closest to each vector, (B,); the first of equals."""
        parts = (rounded[rows] for rows in products.steps(len(rounded), len(self._centers)))
        return np.concatenate([self._scores(part).cpu().numpy().argmax(axis=1) for part in parts])


def spread(count: int, size: int) -> NDArray[np.int64]:
    """Positions among `count`, evenly spread."""
    return np.arange(size, dtype=np.int64) * count // size
