"""The pool of training and held-out images in which copies are looked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memgen.base import files
from memgen.base.errors import DataError
from memgen.images.duplicates import leaders


@dataclass(frozen=True, eq=False)
class Pool:
    """A training set T and held-out images H together, with one representative for each cluster of near-duplicates.

    Clusters and representatives do not depend on which images are in T and which in H. So, given the pool, the labels
    of the representatives are exchangeable for a model that depends on T only through the source of both.

    Attributes:
        representatives: (n,) positions among the rows of T followed by those of H, in the order of a hash of their ids;
            of two that are equally near to a sample, the first should count as the nearest.
        ids: (n,) content ids of the representatives.
        in_train: (n,) whether the representative is in T.
        cluster: (|T| + |H|,) the number of each row's representative, in [0, n).
        order: (|T| + |H|,) all rows in the order of that hash.
        n_mixed: clusters with members in both T and H: leaks of the split.
    """

    representatives: NDArray[np.int64]
    ids: tuple[str, ...]
    in_train: NDArray[np.bool_]
    cluster: NDArray[np.int64]
    order: NDArray[np.int64]
    n_mixed: int

    def successors(self) -> NDArray[np.int64]:
        """The row that would represent each cluster if its representative were not in the pool, (n,); -1 for none."""
        found = np.full(len(self.representatives), -1)
        others = self.order[~np.isin(self.order, self.representatives)][::-1]
        found[self.cluster[others]] = others  # of equal places the last one is kept: the first in the order
        return found

    @property
    def chance(self) -> float:
        """Probability c that the nearest representative of a sample of a model blind to the labels is in T."""
        return float(self.in_train.mean())


def pool(
    features_t: NDArray[Any],
    features_h: NDArray[Any],
    ids_t: Sequence[str],
    ids_h: Sequence[str],
    threshold: float = 0.99,
) -> Pool:
    """The pool of T and H, clustered without looking at labels. The first of a cluster by a hash of ids represents it.

    If j of k copies with one id are in T, the representative is in T for a share j/k of all ids, as if it were drawn at
    random.

    Args:
        features_t: (|T|, D).
        features_h: (|H|, D).
        ids_t: content ids of T, (|T|,).
        ids_h: content ids of H, (|H|,).
        threshold: correlation above which two rows are near-duplicates, in (0, 1].

    Raises:
        DataError: T or H is empty, ids do not fit the features, or the threshold is not in (0, 1].
    """
    if not (len(features_t) == len(ids_t) > 0 and len(features_h) == len(ids_h) > 0):
        raise DataError(
            f"pool: found {len(features_t)} training rows with {len(ids_t)} ids and {len(features_h)} held-out rows "
            f"with {len(ids_h)} ids; expected at least one row on each side and an id for each."
        )
    ids = [*ids_t, *ids_h]
    order = _label_free_order(ids)
    leader, _ = leaders(np.concatenate([features_t, features_h])[order], threshold, ids=[ids[i] for i in order])
    first, number = np.unique(leader, return_inverse=True)
    cluster = np.empty(len(ids), dtype=np.int64)
    cluster[order] = number
    in_train = np.arange(len(ids)) < len(ids_t)
    mixed = np.intersect1d(cluster[in_train], cluster[~in_train])
    chosen = order[first]
    return Pool(chosen, tuple(ids[i] for i in chosen), in_train[chosen], cluster, order, len(mixed))


def _label_free_order(ids: Sequence[str]) -> NDArray[np.int64]:
    """Positions in the order of a hash of the ids; those of one id are turned by a number that the hash gives."""
    positions: dict[str, list[int]] = {}
    for i, identity in enumerate(ids):
        positions.setdefault(identity, []).append(i)
    order: list[int] = []
    for key, same in sorted((files.digest(identity), same) for identity, same in positions.items()):
        turn = int(key, 16) % len(same)
        order += same[turn:] + same[:turn]
    return np.array(order, dtype=np.int64)
