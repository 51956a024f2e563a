"""Images from encoded pictures (PNG, JPEG, TIFF, ...): what the readers of picture formats share.

Each frame of each picture becomes an upright, opaque image of 8 bits (see frames.py). One that cannot be used is left
out with a reason, whatever a decoder raises on damaged bytes.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from memgen.base.errors import DataError, ShapeError
from memgen.base.progress import Progress
from memgen.images import frames, names
from memgen.images.levels import Range, RangeError, Used, suggestion
from memgen.images.prepare import TRANSPARENT, FoundImages, ReadSettings, few_colored, has_color, prepared

# Where systems and programs keep previews, deleted files and notes of their own; such pictures are not the person's.
HIDDEN_FOLDER = "a hidden folder, or one of the system; nothing in it is read"
_SYSTEM = {"__macosx", "$recycle.bin", "recycler", "#recycle", "@eadir", "lost+found", "system volume information"}
_REASONS = 3  # shown where no image can be used


def is_picture_name(name: str) -> bool:
    """Whether the suffix of a file's name is that of a picture format."""
    Image.init()
    return Path(name).suffix.lower() in Image.EXTENSION


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or belongs to the system: a trash or previews."""
    return name.startswith(".") or name.lower() in _SYSTEM


def from_pictures(
    source: Path,
    pictures: Sequence[str],
    open_picture: Callable[[str], BinaryIO],
    skipped: Mapping[str, str],
    settings: ReadSettings,
    report: Progress,
) -> FoundImages:
    """The frames of the pictures of a source, prepared one by one as they are decoded.

    Args:
        source: the folder or file that holds the pictures; it is named in errors.
        pictures: the name of each picture as the source has it, in the order of the images.
        open_picture: opens the picture of a name for reading.
        skipped: the reason for each file of the source that is not among the pictures, by its name in the source.
        settings: size, color, range, transparency and number of the images.
        report: called with (pictures done, of how many).

    Raises:
        DataError: no picture can be used.
        ShapeError: the pictures, prepared, differ in size.
    """
    found = _Set(source, settings, {names.escaped(name): reason for name, reason in skipped.items()}, len(pictures))
    with _quiet_pillow():
        for done, name in enumerate(pictures):
            report(done, len(pictures))
            if found.is_full:
                break
            found.add_file(names.escaped(name), partial(open_picture, name))
    report(len(pictures), len(pictures))
    return found.finished()


class _Set:
    """The images of a source, as they come in."""

    def __init__(self, source: Path, settings: ReadSettings, skipped: dict[str, str], expected: int) -> None:
        self._source, self._settings, self._skipped = source, settings, skipped
        self._expected = min(expected, settings.limit or expected)
        self._pixels: NDArray[np.uint8] | None = None
        self._sources: list[str] = []
        self._colored: list[str] = []
        self._used = Used()
        self._unranged: list[tuple[float, float]] = []  # smallest and largest values of what has no fitting range

    @property
    def is_full(self) -> bool:
        """Whether there are as many images as the settings allow."""
        return len(self._sources) == self._settings.limit

    def add_file(self, name: str, opened: Callable[[], BinaryIO]) -> None:
        """Add all frames of a file, or the reasons why not."""
        with self._listed(name), frames.reasons(), opened() as file:
            found = frames.Frames(file)
            with contextlib.closing(found):
                for number in range(found.count):
                    if self.is_full:
                        break
                    title = names.frame(name, number + 1, found.count)
                    if number in found.left_out:
                        self._skipped[title] = found.left_out[number]
                        continue
                    with self._listed(title), frames.reasons():
                        self._add(title, found.read(number))

    @contextlib.contextmanager
    def _listed(self, name: str) -> Iterator[None]:
        try:
            yield
        except frames.UnusableError as error:
            self._skipped[name] = str(error)
            if isinstance(error.__cause__, RangeError) and error.__cause__.found:
                self._unranged.append(error.__cause__.found)

    def _add(self, name: str, frame: frames.Frame) -> None:
        settings = self._settings
        given = None if settings.range is None else Range(*settings.range)
        if settings.alpha == "skip" and frame.alpha is not None and (frame.alpha < 1).any():
            raise frames.UnusableError(TRANSPARENT)
        low, high, of = frame.in_range(given)
        opaque = frame.opaque(of, settings.alpha)
        image = opaque[None, None] if opaque.ndim == 2 else np.ascontiguousarray(opaque.transpose(2, 0, 1))[None]
        colored = settings.color == "auto" and bool(has_color(image)[0])
        image = image[:, :1] if settings.color == "auto" and not colored else image
        channels = {"auto": image.shape[1], "gray": 1, "rgb": 3}[settings.color]
        self._put(name, prepared(image, settings.resize, channels)[0])
        self._used.add(low, high, of, frame.of)
        self._colored += [name] if colored else []

    def _put(self, name: str, image: NDArray[Any]) -> None:
        count = len(self._sources)
        if self._pixels is None:
            self._pixels = np.empty((max(1, self._expected), *image.shape), dtype=np.uint8)  # filled as images come
        size = self._pixels.shape[2:]
        if image.shape[1:] != size:
            raise ShapeError(_mixed_sizes(self._source, self._sources[0], size, name, image.shape[1:]))
        if count == len(self._pixels):
            self._pixels = _enlarged(self._pixels, count + count // 2 + 1, self._pixels.shape[1], count)
        if len(image) > self._pixels.shape[1]:  # the first image with color
            self._pixels = _enlarged(self._pixels, len(self._pixels), len(image), count)
        self._pixels[count] = image
        self._sources.append(name)

    def finished(self) -> FoundImages:
        """All images that came in, what was skipped, and what the person should know."""
        skipped = dict(sorted(self._skipped.items()))
        if self._pixels is None:
            raise DataError(_nothing_usable(self._source, skipped, self._unranged))
        warnings = self._used.warnings() + few_colored(self._colored, len(self._sources))
        return FoundImages(self._pixels[: len(self._sources)], self._sources, skipped, warnings)


def _enlarged(pixels: NDArray[np.uint8], capacity: int, channels: int, count: int) -> NDArray[np.uint8]:
    """A copy with room for more images, or with gray repeated for more channels."""
    made = np.empty((capacity, channels, *pixels.shape[2:]), dtype=np.uint8)
    made[:count] = pixels[:count]
    return made


@contextlib.contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Pillow's warnings about truncated or oversized images become errors; its others, and its log, are left out."""
    silence, log = logging.NullHandler(), logging.getLogger("PIL")
    log.addHandler(silence)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            warnings.filterwarnings("error", message="(?i).*truncated")
            warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
            yield
    finally:
        log.removeHandler(silence)


def _mixed_sizes(source: Path, first: str, size: tuple[int, ...], other: str, found: tuple[int, ...]) -> str:
    return (
        f"{source}: {first} has {size[1]} x {size[0]} pixels but {other} has {found[1]} x {found[0]}, and all images "
        "must have one size. Give the side that all are to be resized and cropped to, for example --resize 64."
    )


def _nothing_usable(source: Path, skipped: Mapping[str, str], unranged: Sequence[tuple[float, float]]) -> str:
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
    else:
        remedy = "Give image files that Pillow can read."
    return f"{source}: no usable image ({reasons}). {remedy}"
