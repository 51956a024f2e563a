"""Pictures of a folder, or a single one, decoded by Pillow into upright, opaque, 8-bit pixels.

Subfolders are read too, all in the order of their names; of an animation the first frame. What cannot be used is left
out with a reason, whatever a decoder raises on damaged bytes. Nothing in a file is executed: PostScript is refused.
"""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from memgen.base.errors import DataError, ShapeError, first_line


class _UndecodableError(Exception):
    """An image file is left out; the message is the reason that the table SKIPPED gives."""


def is_picture(path: Path) -> bool:
    """Whether a file's name says that it is an image."""
    Image.init()
    return path.is_file() and path.suffix.lower() in Image.EXTENSION


def read(
    source: Path,
    prepare: Callable[[NDArray[np.uint8], int], NDArray[np.uint8]],
    color: str,
    alpha: str,
    limit: int | None,
    report: Callable[[int, int], None],
) -> tuple[NDArray[np.uint8], list[str], dict[str, str]]:
    """All pictures of a folder and its subfolders, or a single one, prepared one by one as they are decoded.

    Args:
        source: the folder, or the picture's file.
        prepare: makes a picture, (1, C, H, W) with C = 1 or 3, have the channels asked for and its final size.
        color: gray, rgb, or auto: RGB if any picture has color.
        alpha: what lies behind transparent pixels, white or black; skip leaves such pictures out.
        limit: read the first pictures only; None reads all.
        report: called with (files done, of how many).

    Returns:
        Pixels (N, C, H, W), the name of each picture's file, and a reason for each file that was skipped.

    Raises:
        DataError: no picture can be used.
        ShapeError: the pictures, prepared, differ in size.
    """
    folder = source if source.is_dir() else source.parent
    candidates, skipped = _candidates(folder) if source.is_dir() else ([source.name], {})
    with _quiet_pillow():
        channels = 3 if color == "rgb" else 1
        if color == "auto" and any(_has_color(folder / name) for name in candidates):
            channels = 3
        room = min(len(candidates), limit or len(candidates))
        pixels: NDArray[np.uint8] | None = None
        sources: list[str] = []
        for done, name in enumerate(candidates):
            report(done, len(candidates))
            if len(sources) == room:
                break
            try:
                image = prepare(_decode(folder / name, alpha), channels)[0]
            except _UndecodableError as error:
                skipped[name] = str(error)
                continue
            if pixels is None:
                pixels = np.empty((room, *image.shape), dtype=np.uint8)  # the system gives memory as it is filled
            if image.shape != pixels.shape[1:]:
                raise ShapeError(_mixed_sizes(folder, sources[0], pixels.shape[2:], name, image.shape[1:]))
            pixels[len(sources)] = image
            sources.append(name)
    report(len(candidates), len(candidates))
    if pixels is None:
        raise DataError(_nothing_usable(source, skipped))
    return pixels[: len(sources)], sources, dict(sorted(skipped.items()))


def _candidates(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Names of files that may be images, sorted, and the reason for each other file; all relative to the folder."""
    Image.init()
    found: list[str] = []
    skipped: dict[str, str] = {}

    def unreadable(error: OSError) -> None:
        skipped[Path(os.fsdecode(error.filename)).relative_to(folder).as_posix()] = f"cannot be read ({error.strerror})"

    for where, subfolders, names in os.walk(folder, onerror=unreadable):
        here = Path(where)
        for name in subfolders:
            if (here / name).is_symlink():
                skipped[(here / name).relative_to(folder).as_posix()] = "a link to a folder, not followed"
        for name in names:
            path = here / name
            relative = path.relative_to(folder).as_posix()
            if name.startswith("."):
                skipped[relative] = "not an image (hidden file)"
            elif path.suffix and path.suffix.lower() not in Image.EXTENSION:
                skipped[relative] = f"not an image (suffix {path.suffix})"
            elif not path.is_file():
                skipped[relative] = "not an image (not a regular file)"
            else:
                found.append(relative)
    return sorted(found), skipped


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


def _open(path: Path) -> Image.Image:
    # Pillow hands PostScript to an interpreter, which would run what the file says.
    return Image.open(path, formats=[name for name in Image.ID if name != "EPS"])


def _has_color(path: Path) -> bool:
    try:
        with _open(path) as image:
            return Image.getmodebase(image.mode) != "L"
    except Exception:  # a damaged file may raise anything; it is reported when it is decoded
        return False


def _decode(path: Path, alpha: str) -> NDArray[np.uint8]:
    """The first frame of an image file, upright and opaque, (1, 1 or 3, H, W).

    Raises:
        _UndecodableError: with the reason.
    """
    try:
        if path.stat().st_size == 0:
            raise _UndecodableError("empty file")
        with _open(path) as image:
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


def _mixed_sizes(folder: Path, first: str, size: tuple[int, ...], other: str, found: tuple[int, ...]) -> str:
    return (
        f"{folder}: {first} has {size[1]} x {size[0]} pixels but {other} has {found[1]} x {found[0]}, and all images "
        "must have one size. Give a side that all are resized and cropped to, for example --resize 64."
    )


def _nothing_usable(source: Path, skipped: dict[str, str]) -> str:
    if not skipped:
        return f"{source}: the folder is empty; expected image files."
    reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(skipped.items())[:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    return f"{source}: no usable image ({reasons}{more}). Give a folder with image files that Pillow can read."
