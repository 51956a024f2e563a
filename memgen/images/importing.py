"""Import images: read any source that a reader accepts (see `readers`), or the embedded Fashion-MNIST images.

Whatever the source, pixels go through the same steps, which the recipe of the resulting ImageSet records:

    1. the values that the file or `range` states as black and white become 0 and 1 (see levels.py); pictures are
       turned upright; transparency is composited on white
    2. antialiased bicubic resize of the short side to `resize`, center crop to a square (optional)
    3. gray as the plain mean of R, G, B, or RGB by repeating gray (optional)
    4. removal of near-duplicates (see duplicates.py)
    5. one permutation of the pixels of all images (optional, see shuffle.py)

Pictures, and arrays of bool or of uint8 without a given range, become uint8, rounded after each step; other arrays
become float32 in [0, 1]. Each frame of a picture file is an image. Every file is imported or listed in the table
SKIPPED. Nothing in a file is executed: pickles and PostScript are refused.
"""

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from memgen.base import files, schemas, tables
from memgen.base.config import validate
from memgen.base.errors import DataError
from memgen.base.progress import Progress
from memgen.base.strings import Strings
from memgen.images import duplicates, groups, readers, remote
from memgen.images.duplicates import Lead
from memgen.images.imageset import ImageSet
from memgen.images.prepare import ReadSettings
from memgen.images.shuffle import shuffle_images

EMBEDDED = "fashion-mnist-idx3-ubyte.gz"
_BLOCK = 512


class ImportSettings(ReadSettings):
    """How images are imported."""

    deduplicate: bool = Field(default=True, description="remove near-duplicates")
    threshold: float = Field(default=0.95, gt=0, le=1, description="correlation above which images are near-duplicates")
    shuffle: bool = Field(
        default=False, description="put the pixels of all images into one random order, drawn from the seed"
    )
    groups: str | None = Field(
        default=None,
        description="which images belong together and come to one side of the split: those of a folder, of a file, or "
        "of a name without the number at its end, or the path of a CSV file with the columns file and group; None "
        "takes what the files state",
    )
    add_to: str | None = Field(
        default=None,
        description="folder of images that were imported before, and that come first; near-duplicates are not looked "
        "for among these again",
    )


def by_reason(skipped: pa.Table) -> list[dict[str, Any]]:
    """Why the files of a SKIPPED table were left out: for each reason, how many `files`, and the `first` by name.

    What is seldom comes first. Thousands of captions beside the pictures would hide the one file that is damaged.
    """
    found = skipped.group_by("reason").aggregate([("source", "count"), ("source", "min")]).to_pylist()
    rows = [{"reason": row["reason"], "files": row["source_count"], "first": row["source_min"]} for row in found]
    return sorted(rows, key=lambda row: (row["files"], row["first"]))


def skipped_of_sets(read: Mapping[str, "Imported"]) -> pa.Table:
    """The files that were left out of several sets of images: a table SUBJECT_SKIPPED.

    Args:
        read: what was imported, by the name of the set.
    """
    of_sets = [
        found.skipped.add_column(0, "set", pa.repeat(name, found.skipped.num_rows)) for name, found in read.items()
    ]
    empty = schemas.SUBJECT_SKIPPED.empty_table()
    return pa.concat_tables([empty, *(each.cast(empty.schema) for each in of_sets)])


@dataclass(frozen=True)
class Imported:
    """The result of an import.

    Attributes:
        images: the images that remain.
        skipped: table SKIPPED, a row for each file or frame that was not imported.
        duplicates: table DUPLICATES, a row for each image that was removed.
        warnings: what the person should know of the images, in sentences; the recipe of the images has them too.
    """

    images: ImageSet
    skipped: pa.Table
    duplicates: pa.Table
    warnings: Sequence[str] = ()


def import_images(
    source: Path | None,
    settings: ImportSettings | None = None,
    progress: Progress | None = None,
    seed: int = 0,
    shared_table: bool = False,
    lead: Lead | None = None,
) -> Imported:
    """The images of a source, prepared and without near-duplicates.

    Args:
        source: a folder, a file that a reader accepts, or an array in it (FILE.npz:NAME); None for the embedded
            Fashion-MNIST images.
        settings: how they are prepared; None for the defaults.
        progress: called with (files or images done, of how many).
        seed: seed of the order of the pixels, if they are shuffled.
        shared_table: whether the table of groups may have rows for images of other sources.
        lead: what compares the images, see `duplicates.leaders`; None compares them in this process.
    Raises:
        DataError: the source cannot be used; the message names the file and the remedy.
    """
    settings = settings or ImportSettings()
    if source is None:
        resource = importlib.resources.files("memgen") / "embedded" / EMBEDDED
        with importlib.resources.as_file(resource) as path:
            imported = _import(path, settings, progress, "embedded Fashion-MNIST", shared_table, lead)
    else:
        imported = _import(source, settings, progress, remote.shown(source), shared_table, lead)
    return replace(imported, images=shuffle_images(imported.images, seed)) if settings.shuffle else imported


def read_images(source: str | Path | None = None, **settings: Any) -> ImageSet:
    """The images of a source, without any run.

    Args:
        source: a folder or a file that memgen reads; None for the embedded Fashion-MNIST images.
        settings: fields of ImportSettings, such as resize=32, color="gray", groups="folder" or deduplicate=False.

    Raises:
        DataError: the source cannot be used; the message names the file and the remedy.
        ConfigError: a setting is unknown or out of its range.

    Example:
        >>> read_images(resize=8, limit=100, deduplicate=False).pixels.shape
        (100, 1, 8, 8)
    """
    chosen = validate(ImportSettings, settings, source="read_images")
    return import_images(None if source is None else Path(source), chosen).images


def _import(
    source: Path,
    settings: ImportSettings,
    progress: Progress | None,
    name: str,
    shared_table: bool,
    lead: Lead | None,
) -> Imported:
    groups.check(settings.groups)
    found = readers.read(source, settings, progress or (lambda done, total: None))
    partial = shared_table or settings.limit is not None
    belong = groups.group_of(found.sources, settings.groups, found.groups, found.skipped, partial)
    images, told = ImageSet.from_pixels(found.pixels, found.sources, groups=belong), list(found.warnings)
    told += found.of_groups if settings.groups is None else []
    leading = 0
    if settings.add_to is not None:
        earlier = ImageSet.load(Path(settings.add_to))
        images, leading = _added(earlier, images), _without_duplicates(earlier, settings)
    removed = tables.make(schemas.DUPLICATES, {name: [] for name in schemas.DUPLICATES.names})
    if settings.deduplicate:
        kept, removed = duplicates.near_duplicates(images, settings.threshold, leading, lead)
        told += groups.across(images.sources, images.groups, removed) if images.groups is not None else []
        images = _keep(images, kept)
    images = replace(images, recipe=_recipe(name, settings) | {"warnings": told})
    columns = {"source": list(found.skipped), "reason": list(found.skipped.values())}
    return Imported(images, tables.make(schemas.SKIPPED, columns), removed, told)


def _added(earlier: ImageSet, images: ImageSet) -> ImageSet:
    """Images that were imported earlier, followed by others.

    Raises:
        DataError: they are not of one kind, or the pixels of the earlier ones were put into another order.
    """
    if earlier.recipe.get("shuffle"):
        raise DataError("add_to: the pixels of the earlier images are shuffled. Import all images again in one run.")
    kinds = [(each.image_shape, each.pixels.dtype, each.groups is None) for each in (earlier, images)]
    if kinds[0] != kinds[1]:
        one, other = (
            f"{'x'.join(map(str, shape))} of {dtype} {'without' if ungrouped else 'with'} groups"
            for shape, dtype, ungrouped in kinds
        )
        raise DataError(f"add_to: found images {other}, expected {one}, as the earlier ones are. Prepare them alike.")
    pixels = files.room((len(earlier) + len(images), *earlier.image_shape), earlier.pixels.dtype)
    pixels[: len(earlier)], pixels[len(earlier) :] = earlier.pixels, images.pixels
    ids, sources = (Strings.joined(both) for both in ((earlier.ids, images.ids), (earlier.sources, images.sources)))
    belong = None if earlier.groups is None or images.groups is None else [earlier.groups, images.groups]
    return ImageSet(pixels, ids, sources, groups=None if belong is None else Strings.joined(belong))


def _without_duplicates(earlier: ImageSet, settings: ImportSettings) -> int:
    """How many images of an earlier import are known to have no near-duplicates among each other: all, or none."""
    done = earlier.recipe.get("deduplicate") and earlier.recipe.get("threshold", 1) <= settings.threshold
    return len(earlier) if done else 0


def _recipe(source: str, settings: ImportSettings) -> dict[str, Any]:
    return {
        "source": source,
        **settings.model_dump(include=set(ImportSettings.model_fields)),
        "resize_method": "short side, bicubic, antialiased, center crop" if settings.resize else None,
        "gray_method": "mean of R, G, B after the resize" if settings.color == "gray" else None,
    }


def _keep(images: ImageSet, kept: NDArray[np.int64]) -> ImageSet:
    """The kept images, moved up in place if the array can be written, so that the set is never in memory twice."""
    pixels = images.pixels
    if not pixels.flags.writeable:
        return images.take(kept)
    for start in range(0, len(kept), _BLOCK):
        # kept ascends, so every image moves to its own place or an earlier one.
        chosen = kept[start : start + _BLOCK]
        pixels[start : start + len(chosen)] = pixels[chosen]
    return images.of_pixels(pixels[: len(kept)], kept)
