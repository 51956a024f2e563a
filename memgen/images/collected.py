"""Images of a source that come in one by one: kept if they fit, and listed with the reason if they do not."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memgen.base import files
from memgen.base.errors import DataError, ShapeError
from memgen.base.strings import Growing
from memgen.images import frames
from memgen.images.levels import Range, RangeError, Used, suggestion
from memgen.images.prepare import FoundImages, ReadSettings

_REASONS = 3  # shown where no image can be used


class Collected:
    """The images of a source, as they come in.

    Args:
        source: the folder or file; it is named in errors.
        settings: the range and the number of the images.
        skipped: the reason for each file of the source that is left out, by its name; more are added to it.
        expected: number of images, if all can be used; more may come.
        dtype: of the pixels, uint8 or float32.
        remedy: what to do where no image can be used, as a sentence.
    """

    def __init__(
        self,
        source: Path,
        settings: ReadSettings,
        skipped: dict[str, str],
        expected: int,
        dtype: type[np.uint8] | type[np.float32],
        remedy: str,
    ) -> None:
        self.settings, self.skipped, self.used = settings, skipped, Used()
        self.given = None if settings.range is None else Range(*settings.range)
        self.sources = Growing()
        self._source, self._dtype, self._remedy = source, dtype, remedy
        self._expected = min(expected, settings.limit or expected)
        self._pixels: NDArray[Any] | None = None
        self._groups = Growing()
        self._unranged: list[tuple[float, float]] = []  # smallest and largest values of what has no fitting range

    @property
    def is_full(self) -> bool:
        """Whether there are as many images as the settings allow."""
        return len(self.sources) == self.settings.limit

    @contextlib.contextmanager
    def listed(self, name: str) -> Iterator[None]:
        """Whatever is raised inside, up to a MemgenError, becomes the reason why the file or frame is left out."""
        try:
            with frames.reasons():
                yield
        except frames.UnusableError as error:
            self.skipped[name] = str(error)
            if isinstance(error.__cause__, RangeError) and error.__cause__.found:
                self._unranged.append(error.__cause__.found)

    def put(self, name: str, image: NDArray[Any], group: str | None = None) -> None:
        """Keep an image.

        Args:
            name: of the image.
            image: (C, H, W), C = 1 or 3. Gray is repeated once an image has three channels.
            group: what the image belongs to; given for all images of a source, or for none.

        Raises:
            ShapeError: it has not the size of the images before it.
        """
        count = len(self.sources)
        if self._pixels is None:
            # Filled as images come; in memory, pages that were never written to take no room.
            self._pixels = files.room((max(1, self._expected), *image.shape), self._dtype)
            self._first = name
        size = self._pixels.shape[2:]
        if image.shape[1:] != size:
            raise ShapeError(_mixed_sizes(self._source, self._first, size, name, image.shape[1:]))
        if count == len(self._pixels):
            self._pixels = _enlarged(self._pixels, count + count // 2 + 1, self._pixels.shape[1], count)
        if len(image) > self._pixels.shape[1]:  # the first image with color
            self._pixels = _enlarged(self._pixels, len(self._pixels), len(image), count)
        self._pixels[count] = image
        self.sources.append(name)
        if group is not None:
            self._groups.append(group)

    def finished(self, warnings: Sequence[str] = ()) -> FoundImages:
        """All images that came in, what was skipped, and what the person should know.

        Raises:
            DataError: there is no image.
        """
        skipped = dict(sorted(self.skipped.items()))
        if self._pixels is None:
            raise DataError(_nothing_usable(self._source, skipped, self._unranged, self._remedy))
        pixels, told = self._pixels[: len(self.sources)], [*self.used.warnings(), *warnings]
        groups = self._groups.strings() if len(self._groups) else None
        return FoundImages(pixels, self.sources.strings(), skipped, told, groups)


def _enlarged(pixels: NDArray[Any], capacity: int, channels: int, count: int) -> NDArray[Any]:
    """A copy with room for more images, or with gray repeated for more channels."""
    made = files.room((capacity, channels, *pixels.shape[2:]), pixels.dtype)
    made[:count] = pixels[:count]
    return made


def _mixed_sizes(source: Path, first: str, size: tuple[int, ...], other: str, found: tuple[int, ...]) -> str:
    return (
        f"{source}: {first} has {size[1]} x {size[0]} pixels but {other} has {found[1]} x {found[0]}, and all images "
        "must have one size. Give the side that all are to be resized and cropped to, for example --resize 64."
    )


def _nothing_usable(
    source: Path, skipped: Mapping[str, str], unranged: Sequence[tuple[float, float]], remedy: str
) -> str:
    if not skipped:
        return f"{source}: holds no file, expected image files."
    names_of: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        names_of.setdefault(reason, []).append(name)
    listed = [
        f"{named[0]}{f' and {len(named) - 1} more' if len(named) > 1 else ''}: {reason}"
        for reason, named in list(names_of.items())[:_REASONS]
    ]
    rest = sum(map(len, list(names_of.values())[_REASONS:]))
    reasons = "; ".join([*listed, *([f"and {rest} more"] if rest else [])])
    if unranged:
        low, high = min(low for low, _ in unranged), max(high for _, high in unranged)
        remedy = f"For all of them together: --range {suggestion(low, high)}."
    return f"{source}: no usable image ({reasons}). {remedy}"
