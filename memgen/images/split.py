"""The split of images into two training sets, a and b, and a holdout.

A split orders the images by a hash of (seed, id), which does not depend on the order of files. The first images of that
order are the holdout, and the others go to a and b in turn. The training set for N is the first N images of its part,
so it is contained in the training set for every larger N.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from memgen.base import files, schemas, tables
from memgen.base.errors import DataError
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
        DataError: an image is in two parts, or twice in one.
    """

    images: ImageSet
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    holdout: NDArray[np.int64]

    def __post_init__(self) -> None:
        positions = np.concatenate([self.holdout, self.a, self.b])
        counts = Counter(self.images.ids[index] for index in positions)
        repeated = sorted(index for index in positions if counts[self.images.ids[index]] > 1)
        if repeated:
            first = repeated[0]
            raise DataError(
                f"split: {len(repeated)} images are not unique in content (first: {self.images.ids[first]} = "
                f"{self.images.sources[first]}), but a, b and the holdout must be disjoint. "
                "Remove duplicates when importing, which is the default."
            )

    @classmethod
    def make(cls, images: ImageSet, holdout: int, seed: int) -> "Split":
        """Split all images of a set.

        Args:
            images: the set; no two images may be equal.
            holdout: number of images that no denoiser is trained on, at least 1.
            seed: seed of the order; another seed gives other parts.

        Raises:
            DataError: the holdout is empty, there are too few images, or two images are equal.
        """
        if holdout < 1:
            raise DataError(f"split: found a holdout of {holdout} images, expected at least 1.")
        if len(images) < holdout + 2:
            raise DataError(
                f"split: found {len(images)} images, but a holdout of {holdout} and one image for each of a and b "
                f"need {holdout + 2}. Import more images, or use a smaller holdout (split.holdout)."
            )
        keys = [files.digest(str(seed), identity) for identity in images.ids]
        order = np.array(sorted(range(len(images)), key=keys.__getitem__), dtype=np.int64)
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
            raise DataError(
                f"split: N = {n} needs 2 x {n} training images and {held} for the holdout, {2 * n + held} in all, but "
                f"found {len(self.images)}. Use N up to {self.n_max} (sweep.n_train), "
                f"a smaller holdout (split.holdout), or more images."
            )
        return (self.a if part == "a" else self.b)[:n]

    def to_table(self) -> pa.Table:
        """The split as a table SPLIT."""
        parts = {part: getattr(self, part) for part in PARTS}
        positions = np.concatenate(list(parts.values()))
        columns = {
            "part": [part for part, members in parts.items() for _ in members],
            "rank": [rank for members in parts.values() for rank in range(len(members))],
            "index": positions,
            "image_id": [self.images.ids[index] for index in positions],
        }
        return tables.make(schemas.SPLIT, columns)

    @classmethod
    def from_table(cls, images: ImageSet, table: pa.Table) -> "Split":
        """The split of `images` that a table SPLIT states.

        Raises:
            DataError: the table belongs to other images, lacks a part, or puts an image into two parts.
        """
        rows = sorted(table.to_pylist(), key=lambda row: row["rank"])
        if any(not 0 <= row["index"] < len(images) or images.ids[row["index"]] != row["image_id"] for row in rows):
            raise DataError("split: the table belongs to other images. Make the split again.")
        members = {part: [row["index"] for row in rows if row["part"] == part] for part in PARTS}
        if sum(map(len, members.values())) != len(rows) or not all(members.values()):
            raise DataError(
                f"split: found parts {sorted({row['part'] for row in rows})}, expected a, b and holdout. "
                "Make the split again."
            )
        return cls(images, **{part: np.array(indices, dtype=np.int64) for part, indices in members.items()})
