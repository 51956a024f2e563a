"""The pool of training and held-out images in which copies are looked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memgen.base import files
from memgen.base.errors import DataError
from memgen.base.strings import Strings
from memgen.base.wording import listed
from memgen.images.duplicates import Lead, Ordered, Rows, leaders

_NAMED = 3  # groups named in an error


@dataclass(frozen=True, eq=False)
class Pool:
    """A training set T and held-out images H together, with one representative for each cluster of near-duplicates.

    A unit is what was put into T or H as a whole: an image, or a group of images, such as those of a patient. Clusters,
    representatives and units do not depend on which images are in T and which in H. So, given the pool, the labels of
    the units are exchangeable for a model that depends on T only through the source of both.

    Attributes:
        representatives: (n,) positions among the rows of T followed by those of H, in the order of a hash of their ids;
            of two that are equally near to a sample, the first should count as the nearest.
        ids: (n,) content ids of the representatives.
        in_train: (n,) whether the representative is in T.
        cluster: (|T| + |H|,) the number of each row's representative, in [0, n).
        order: (|T| + |H|,) all rows in the order of that hash.
        n_mixed: clusters with members in both T and H: leaks of the split.
        unit: (n,) number of the unit of each representative, in [0, u).
        unit_in_train: (u,) whether the unit is in T.
        row_unit: (|T| + |H|,) number of the unit of each row; -1 where the unit has no representative.
        groups: (|T| + |H|,) number of the group of each row; without groups, each row is its own.
        grouped: whether units are groups.
    """

    representatives: NDArray[np.int64]
    ids: Strings
    in_train: NDArray[np.bool_]
    cluster: NDArray[np.int64]
    order: NDArray[np.int64]
    n_mixed: int
    unit: NDArray[np.int64]
    unit_in_train: NDArray[np.bool_]
    row_unit: NDArray[np.int64]
    groups: NDArray[np.int64]
    grouped: bool

    def successors(self) -> NDArray[np.int64]:
        """The row that would represent each cluster without the unit of its representative, (n,); -1 for none."""
        found = np.full(len(self.representatives), -1)
        of = self.groups[self.representatives[self.cluster]]
        others = self.order[self.groups[self.order] != of[self.order]][::-1]
        found[self.cluster[others]] = others  # of equal places the last one is kept: the first in the order
        return found

    @property
    def chance(self) -> float:
        """Probability c that the nearest unit of a sample of a model blind to the labels is in T."""
        return float(self.unit_in_train.mean())


def pool(
    features: Rows,
    ids_t: Sequence[str],
    ids_h: Sequence[str],
    threshold: float = 0.99,
    groups_t: Sequence[str] | None = None,
    groups_h: Sequence[str] | None = None,
    lead: Lead | None = None,
) -> Pool:
    """The pool of T and H, clustered without looking at labels. The first of a cluster by a hash of ids represents it.

    If j of k copies with one id are in T, the representative is in T for a share j/k of all ids, as if it were drawn at
    random.

    Args:
        features: of T followed by H, (|T| + |H|, D).
        ids_t: content ids of T, (|T|,).
        ids_h: content ids of H, (|H|,).
        threshold: correlation above which two rows are near-duplicates, in (0, 1].
        groups_t: name of the group of each image of T, (|T|,); None if each image was put into T by itself.
        groups_h: the same for H.
        lead: what compares the rows, see `leaders`; None compares them in this process.

    Raises:
        DataError: T or H is empty, ids or groups do not fit the features, a group is in both T and H, only one of T and
            H has groups, or the threshold is not in (0, 1].
    """
    if not (len(features) == len(ids_t) + len(ids_h) and len(ids_t) > 0 and len(ids_h) > 0):
        raise DataError(
            f"pool: found {len(features)} rows with {len(ids_t)} ids of training images and {len(ids_h)} of held-out "
            "images, expected at least one image on each side and a row for each."
        )
    ids = Strings.joined([Strings(ids_t), Strings(ids_h)])
    in_train = np.arange(len(ids)) < len(ids_t)
    groups = _numbered(groups_t, groups_h, len(ids))
    order = label_free_order(ids)
    leader, _ = leaders(Ordered(features, order), threshold, ids=ids[order], lead=lead)
    first, number = np.unique(leader, return_inverse=True)
    cluster = np.empty(len(ids), dtype=np.int64)
    cluster[order] = number
    mixed = np.intersect1d(cluster[in_train], cluster[~in_train])
    chosen = order[first]
    # Units are numbered in the order of their first representatives, which ignores labels and names of groups.
    known, position, unit = np.unique(groups[chosen], return_index=True, return_inverse=True)
    rank = np.empty(len(known), dtype=np.int64)
    rank[np.argsort(position)] = np.arange(len(known))
    number_of = np.full(groups.max() + 1, -1)
    number_of[known] = rank
    return Pool(
        representatives=chosen,
        ids=ids[chosen],
        in_train=in_train[chosen],
        cluster=cluster,
        order=order,
        n_mixed=len(mixed),
        unit=rank[unit],
        unit_in_train=in_train[chosen][np.sort(position)],
        row_unit=number_of[groups],
        groups=groups,
        grouped=groups_t is not None,
    )


def _numbered(groups_t: Sequence[str] | None, groups_h: Sequence[str] | None, count: int) -> NDArray[np.int64]:
    """The number of the group of each row; without groups, each row is its own."""
    if (groups_t is None) != (groups_h is None):
        missing = "training" if groups_t is None else "held-out"
        raise DataError(
            f"pool: the {missing} images have no groups, but the others have. State the groups of both, or of neither."
        )
    if groups_t is None or groups_h is None:
        return np.arange(count)
    sides = Strings(groups_t), Strings(groups_h)
    both = sides[0].shared(sides[1])
    if both:
        named = listed(both[:_NAMED]) + (", ..." if len(both) > _NAMED else "")
        raise DataError(
            f"pool: found images of {len(both)} groups in both the training and the held-out images ({named}), "
            "expected each group on one side. Groups are what was divided as a whole, such as patients. If the images "
            "were divided one by one, leave the groups out."
        )
    names = Strings.joined(sides)
    if len(names) != count:
        raise DataError(f"pool: found {len(names)} names of groups for {count} images, expected one for each.")
    return np.asarray(np.unique(names.firsts(), return_inverse=True)[1], dtype=np.int64)


def label_free_order(ids: Sequence[str]) -> NDArray[np.int64]:
    """Positions in the order of a hash of the ids; those of one id are turned by a number that the hash gives."""
    ids = Strings(ids)
    first, number, count = np.unique(ids.firsts(), return_inverse=True, return_counts=True)
    key = np.fromiter((int(files.digest(identity), 16) for identity in ids[first]), np.uint64, len(first))
    together = np.argsort(number, kind="stable")  # ids in the order of their first positions
    rank = np.empty(len(ids), dtype=np.int64)
    rank[together] = np.arange(len(ids)) - np.repeat(np.cumsum(count) - count, count)
    turned = (rank - (key % count.astype(np.uint64)).astype(np.int64)[number]) % count[number]
    return np.lexsort((turned, first[number], key[number]))
