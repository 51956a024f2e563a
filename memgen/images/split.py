"""The split of images into two training sets, a and b, and a holdout.

A split orders the images by a hash of (seed, id), which does not depend on the order of files. The first images of that
order are the holdout, and the others go to a and b in turn. The training set for N is the first N images of its part,
so it is contained in the training set for every larger N.

Where images have groups (see groups.py), groups are kept whole. They are ordered by a hash of (seed, group). The first
ones go to the holdout until it has as many images as it needs, and each of the others to the smaller of a and b. Within
a part, images have the order of their own hashes, so a small training set has images of many groups.
"""

import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from memgen.base import files, schemas, tables
from memgen.base.errors import DataError
from memgen.base.strings import Strings
from memgen.images.imageset import ImageSet

PARTS = ("holdout", "a", "b")


@dataclass(frozen=True, eq=False)
class Split:
    """Two training sets and a holdout, disjoint by content.

    Args:
        images: the set that is split.
        a: positions in `images`, int64, in rank order: the training set for N is the first N.
        b: the same for the second training set.
        holdout: positions of the images that no denoiser is trained on.

    Raises:
        DataError: an image is in two parts, or twice in one, or a group is in two parts.
    """

    images: ImageSet
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    holdout: NDArray[np.int64]

    def __post_init__(self) -> None:
        positions = np.sort(np.concatenate([self.holdout, self.a, self.b]))
        _, number, counts = np.unique(self.images.ids[positions].firsts(), return_inverse=True, return_counts=True)
        repeated = positions[counts[number] > 1]
        if len(repeated):
            first = int(repeated[0])
            raise DataError(
                f"split: {len(repeated)} images are not unique in content (first: {self.images.ids[first]} = "
                f"{self.images.sources[first]}), but a, b and the holdout must be disjoint. "
                "Remove duplicates when importing, which is the default."
            )
        groups = self.images.groups
        if groups is not None:
            pairs = itertools.combinations((groups[part] for part in (self.holdout, self.a, self.b)), 2)
            shared = sorted({group for one, other in pairs for group in one.shared(other)})
            if shared:
                raise DataError(
                    f"split: {len(shared)} groups are in more than one part (first: {shared[0]}), expected each group "
                    "in one of a, b and holdout. Make the split again."
                )

    @classmethod
    def make(cls, images: ImageSet, holdout: int, seed: int) -> "Split":
        """Split all images of a set.

        Args:
            images: the set; no two images may be equal.
            holdout: number of images that no denoiser is trained on, at least 1. Where images have groups, the holdout
                has up to a group more.
            seed: seed of the order; another seed gives other parts.

        Raises:
            DataError: the holdout is empty, there are too few images or groups, or two images are equal.
        """
        if holdout < 1:
            raise DataError(f"split: found a holdout of {holdout} images, expected at least 1.")
        if len(images) < holdout + 2:
            raise DataError(
                f"split: found {len(images)} images, but a holdout of {holdout} and one image for each of a and b "
                f"need {holdout + 2}. Import more images, or use a smaller holdout (split.holdout)."
            )
        keys = (int(files.digest(str(seed), identity), 16) for identity in images.ids)
        order = np.argsort(np.fromiter(keys, np.uint64, len(images)), kind="stable")
        if images.groups is not None:
            parts = _parts_of_groups(images.groups, holdout, seed)
            part_of = np.fromiter((PARTS.index(parts[group]) for group in images.groups), np.int64, len(images))[order]
            return cls(images, **{part: order[part_of == number] for number, part in enumerate(PARTS)})
        rest = order[holdout:]
        return cls(images, a=rest[0::2], b=rest[1::2], holdout=order[:holdout])

    @property
    def n_max(self) -> int:
        """The largest N for which both parts have a training set."""
        return min(len(self.a), len(self.b))

    def training_indices(self, part: str, n: int) -> NDArray[np.int64]:
        """Positions of the first n images of a part, in rank order.

        Raises:
            DataError: n is below 1, or the smaller part has fewer than n images.
        """
        if n < 1:
            raise DataError(f"split: found a training set of {n} images, expected at least 1.")
        if n > self.n_max:
            held = len(self.holdout)
            if self.images.groups is not None:
                raise DataError(
                    f"split: N = {n} needs {n} training images in each part, but groups are kept whole, and found "
                    f"{len(self.a)} in a, {len(self.b)} in b and {held} in the holdout. Use N up to {self.n_max} "
                    f"(sweep.n_train), a smaller holdout (split.holdout), or more images."
                )
            raise DataError(
                f"split: N = {n} needs 2 x {n} training images and {held} for the holdout, {2 * n + held} in all, but "
                f"found {len(self.images)}. Use N up to {self.n_max}, such as --set 'sweep.n_train=[1,{self.n_max}]', "
                f"a smaller holdout (split.holdout), or more images."
            )
        return (self.a if part == "a" else self.b)[:n]

    def to_table(self) -> pa.Table:
        """The split as a table SPLIT."""
        parts = {part: getattr(self, part) for part in PARTS}
        positions = np.concatenate(list(parts.values()))
        columns = {
            "part": pa.array(list(parts)).take(
                pa.array(np.repeat(np.arange(len(parts)), list(map(len, parts.values()))))
            ),
            "rank": np.concatenate([np.arange(len(members)) for members in parts.values()]),
            "index": positions,
            "image_id": self.images.ids[positions],
        }
        return tables.make(schemas.SPLIT, columns)

    @classmethod
    def from_table(cls, images: ImageSet, table: pa.Table) -> "Split":
        """The split of `images` that a table SPLIT states.

        Raises:
            DataError: the table belongs to other images, lacks a part, or puts an image into two parts.
        """
        rows = table.sort_by("rank")
        index = rows["index"].to_numpy()
        inside = (index >= 0) & (index < len(images))
        if not inside.all() or images.ids[index] != Strings(rows["image_id"]):
            raise DataError("split: the table belongs to other images. Make the split again.")
        members = {part: index[pc.equal(rows["part"], part).to_numpy()] for part in PARTS}
        if sum(map(len, members.values())) != len(index) or not all(map(len, members.values())):
            raise DataError(
                f"split: found parts {sorted(rows['part'].unique().to_pylist())}, expected a, b and holdout. "
                "Make the split again."
            )
        return cls(images, **members)


def _parts_of_groups(groups: Strings, holdout: int, seed: int) -> dict[str, str]:
    """The part of each group.

    Args:
        groups: the group of each image.
        holdout: the fewest images of the holdout.
        seed: seed of the order.

    Raises:
        DataError: there are too few groups for a part to have one.
    """
    sizes, parts = Counter(groups), dict[str, str]()
    images = dict.fromkeys(PARTS, 0)
    for group in sorted(sizes, key=lambda each: files.digest(str(seed), each)):
        part = "holdout" if images["holdout"] < holdout else min(("a", "b"), key=images.__getitem__)
        parts[group] = part
        images[part] += sizes[group]
    if not images["b"]:
        taken, largest = sum(part == "holdout" for part in parts.values()), max(sizes, key=sizes.__getitem__)
        raise DataError(
            f"split: found {len(sizes)} group{'s' * (len(sizes) > 1)} of images (the largest, {largest}, has "
            f"{sizes[largest]}). A holdout of {holdout} images takes {taken} of them whole, and a and b need one each. "
            "Import more groups, use a smaller holdout (split.holdout), or give smaller groups (--groups)."
        )
    return parts
