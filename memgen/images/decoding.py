"""Images from encoded pictures (PNG, JPEG, ...): what the readers of picture formats share.

Pillow decodes each picture into upright, opaque, 8-bit pixels; of an animation, the first frame. A picture that cannot
be used is left out with a reason, whatever a decoder raises on damaged bytes. Nothing in a file is executed: PostScript
is refused.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from memgen.base.errors import DataError, ShapeError, first_line
from memgen.base.progress import Progress
from memgen.images.prepare import FoundImages, ReadSettings, prepared


class _UndecodableError(Exception):
    """A picture is left out; the message is the reason that the table SKIPPED gives."""


def is_picture_name(name: str) -> bool:
    """Whether the suffix of a file's name is that of a picture format."""
    Image.init()
    return Path(name).suffix.lower() in Image.EXTENSION


def from_pictures(
    source: Path,
    names: Sequence[str],
    open_picture: Callable[[str], BinaryIO],
    skipped: Mapping[str, str],
    settings: ReadSettings,
    report: Progress,
) -> FoundImages:
    """The pictures of a source, prepared one by one as they are decoded.

    Args:
        source: the folder or file that holds the pictures; it is named in errors.
        names: a name for each picture, in the order of the images.
        open_picture: opens the picture of a name for reading.
        skipped: the reason for each file of the source that is not among the names.
        settings: size, color, transparency and number of the images.
        report: called with (pictures done, of how many).

    Raises:
        DataError: no picture can be used.
        ShapeError: the pictures, prepared, differ in size.
    """
    reasons, pixels, sources = dict(skipped), None, list[str]()
    room = min(len(names), settings.limit or len(names))
    with _quiet_pillow():
        channels = 3 if settings.color == "rgb" else 1
        if settings.color == "auto" and any(_has_color(name, open_picture) for name in names):
            channels = 3
        for done, name in enumerate(names):
            report(done, len(names))
            if len(sources) == room:
                break
            try:
                image = prepared(_decode(name, open_picture, settings.alpha), settings.resize, channels)[0]
            except _UndecodableError as error:
                reasons[name] = str(error)
                continue
            if pixels is None:
                pixels = np.empty((room, *image.shape), dtype=np.uint8)  # the system gives memory as it is filled
            if image.shape != pixels.shape[1:]:
                raise ShapeError(_mixed_sizes(source, sources[0], pixels.shape[2:], name, image.shape[1:]))
            pixels[len(sources)] = image
            sources.append(name)
    report(len(names), len(names))
    if pixels is None:
        raise DataError(_nothing_usable(source, reasons))
    return FoundImages(pixels[: len(sources)], sources, dict(sorted(reasons.items())))


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


@contextlib.contextmanager
def _opened(name: str, open_picture: Callable[[str], BinaryIO]) -> Iterator[Image.Image]:
    with open_picture(name) as file:
        if file.seek(0, os.SEEK_END) == 0:
            raise _UndecodableError("empty file")
        file.seek(0)
        # Pillow hands PostScript to an interpreter, which would run what the file says.
        with Image.open(file, formats=[kind for kind in Image.ID if kind != "EPS"]) as image:
            yield image


def _has_color(name: str, open_picture: Callable[[str], BinaryIO]) -> bool:
    try:
        with _opened(name, open_picture) as image:
            return Image.getmodebase(image.mode) != "L"
    except Exception:  # a damaged file may raise anything; it is reported when it is decoded
        return False


def _decode(name: str, open_picture: Callable[[str], BinaryIO], alpha: str) -> NDArray[np.uint8]:
    """The first frame of a picture, upright and opaque, (1, 1 or 3, H, W).

    Raises:
        _UndecodableError: with the reason.
    """
    try:
        with _opened(name, open_picture) as image:
            image.load()
            pixels = _opaque(ImageOps.exif_transpose(image), image.format or "", alpha)
    except _UndecodableError:
        raise
    except UnidentifiedImageError as error:
        raise _UndecodableError("not an image that can be read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _UndecodableError(f"too large ({first_line(error)})") from error
    except Exception as error:  # decoders fed with damaged bytes raise anything
        raise _UndecodableError(f"damaged ({first_line(error)})") from error
    return pixels[None, None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))[None]


def _opaque(image: Image.Image, kind: str, alpha: str) -> NDArray[np.uint8]:
    """8-bit pixels of an image, (H, W) or (H, W, 3), with what is transparent replaced."""
    if image.has_transparency_data and alpha == "skip":
        raise _UndecodableError("has transparent pixels")
    # Portable graymaps of 16 bits come as mode I; other images of that mode do not say what their white is.
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PPM"):
        deep = np.asarray(image).astype(np.uint32)
        gray = ((deep * 255 + 32767) // 65535).astype(np.uint8)
        if "transparency" in image.info:
            gray[deep == image.info["transparency"]] = 255 if alpha == "white" else 0
        return gray
    if image.mode in ("I", "F"):
        raise _UndecodableError(f"32-bit pixels (mode {image.mode}) have no stated range; save it with 8 or 16 bits")
    target = "L" if Image.getmodebase(image.mode) == "L" else "RGB"
    if image.has_transparency_data:
        front = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", front.size, alpha), front)
        if target == "L":
            return np.asarray(image)[..., 0]
    return np.array(image.convert(target))  # a copy, since PyTorch warns of read-only memory


def _mixed_sizes(source: Path, first: str, size: tuple[int, ...], other: str, found: tuple[int, ...]) -> str:
    return (
        f"{source}: {first} has {size[1]} x {size[0]} pixels but {other} has {found[1]} x {found[0]}, and all images "
        "must have one size. Give the side that all are to be resized and cropped to, for example --resize 64."
    )


def _nothing_usable(source: Path, skipped: Mapping[str, str]) -> str:
    if not skipped:
        return f"{source}: holds no file, expected image files."
    reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(skipped.items())[:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    return f"{source}: no usable image ({reasons}{more}). Give image files that Pillow can read."
