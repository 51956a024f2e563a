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
from typing import BinaryIO

import numpy as np
from PIL import Image

from memgen.base.progress import Progress
from memgen.images import frames, names
from memgen.images.collected import Collected
from memgen.images.prepare import TRANSPARENT, FoundImages, ReadSettings, few_colored, has_color, prepared

# Where systems and programs keep previews, deleted files and notes of their own; such pictures are not the person's.
HIDDEN_FOLDER = "a hidden folder, or one of the system; nothing in it is read"
_SYSTEM = {"__macosx", "$recycle.bin", "recycler", "#recycle", "@eadir", "lost+found", "system volume information"}

Picture = tuple[str, Callable[[], BinaryIO]]  # its name, escaped, and what opens it for reading


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

    def each() -> Iterator[Picture]:
        for done, name in enumerate(pictures):
            report(done, len(pictures))
            yield names.escaped(name), partial(open_picture, name)

    left_out = {names.escaped(name): reason for name, reason in skipped.items()}
    found = from_stream(source, each(), len(pictures), left_out, settings)
    report(len(pictures), len(pictures))
    return found


def from_stream(
    source: Path, pictures: Iterator[Picture], expected: int, skipped: dict[str, str], settings: ReadSettings
) -> FoundImages:
    """The frames of pictures that come one after another; see `from_pictures`.

    Args:
        source: the folder or file that holds the pictures; it is named in errors.
        pictures: each picture, opened before the next one is asked for, or never. None is asked for once there are as
            many images as the settings allow.
        expected: number of pictures, as far as it is known.
        skipped: the reason for each file that is no picture, by its escaped name; `pictures` may add to it, and what
            cannot be used is added.
        settings: size, color, range, transparency and number of the images.

    Raises:
        DataError: no picture can be used.
        ShapeError: the pictures, prepared, differ in size.
    """
    found = _Pictures(source, settings, skipped, expected)
    with _quiet_pillow():
        for name, opened in pictures:
            found.add_file(name, opened)
            if found.is_full:
                break
    return found.finished(few_colored(found.colored, len(found.sources)))


_REMEDY = (
    "Give image files that Pillow can read, or a folder of nothing but tar files or Parquet files. Arrays and ZIP "
    "archives come in one file each."
)


class _Pictures(Collected):
    """The images of picture files, as they come in."""

    def __init__(self, source: Path, settings: ReadSettings, skipped: dict[str, str], expected: int) -> None:
        super().__init__(source, settings, skipped, expected, np.uint8, _REMEDY)
        self.colored: list[str] = []

    def add_file(self, name: str, opened: Callable[[], BinaryIO]) -> None:
        """Add all frames of a file, or the reasons why not."""
        with self.listed(name), opened() as file:
            found = frames.Frames(file)
            with contextlib.closing(found):
                for number in range(found.count):
                    if self.is_full:
                        break
                    title = names.frame(name, number + 1, found.count)
                    if number in found.left_out:
                        self.skipped[title] = found.left_out[number]
                        continue
                    with self.listed(title):
                        self._add(title, found.read(number))

    def _add(self, name: str, frame: frames.Frame) -> None:
        settings = self.settings
        if settings.alpha == "skip" and frame.alpha is not None and (frame.alpha < 1).any():
            raise frames.UnusableError(TRANSPARENT)
        low, high, of = frame.in_range(self.given)
        opaque = frame.opaque(of, settings.alpha)
        image = opaque[None, None] if opaque.ndim == 2 else np.ascontiguousarray(opaque.transpose(2, 0, 1))[None]
        colored = settings.color == "auto" and bool(has_color(image)[0])
        image = image[:, :1] if settings.color == "auto" and not colored else image
        channels = {"auto": image.shape[1], "gray": 1, "rgb": 3}[settings.color]
        self.put(name, prepared(image, settings.resize, channels)[0])
        self.used.add(low, high, of, frame.of)
        self.colored += [name] if colored else []


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
