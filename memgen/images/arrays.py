"""Images from arrays in files: what the readers of array formats share.

A file may hold several arrays. The one of images is taken if no other could be; otherwise the person names it:
FILE.npz:NAME.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memgen.base import files
from memgen.base.errors import DataError, ShapeError
from memgen.base.progress import Progress
from memgen.base.strings import Strings
from memgen.images import names
from memgen.images.levels import Range, RangeError, Used, check, check_numbers, shown, stated, to_uint8, to_unit
from memgen.images.prepare import TRANSPARENT, FoundImages, ReadSettings, few_colored, has_color, prepared

_BLOCK = 512  # images prepared at a time
_LISTED = 8  # arrays named in an error


def parted(source: Path) -> tuple[Path, str | None]:
    """The file or folder that a source names, and what is meant in it: FILE:NAME, unless such a whole name exists."""
    file, colon, name = str(source).rpartition(":")
    is_part = file and colon and name and not os.path.exists(source) and os.path.exists(file)
    return (Path(file), name) if is_part else (source, None)


def chosen(path: Path, shapes: Mapping[str, Sequence[int] | None], name: str | None) -> str:
    """The name of the array of images among those of a file.

    Args:
        path: the file, for errors.
        shapes: the shape of each array; None for what is no array of numbers.
        name: the array that the person asked for; None if none was.

    Raises:
        DataError: there is no such array, none can be images, or several can; the message lists them.
    """
    listed = [f"{key} {'x'.join(map(str, shape)) or 'scalar'}" for key, shape in shapes.items() if shape is not None]
    listed = [*listed[:_LISTED], f"and {len(listed) - _LISTED} more"] if len(listed) > _LISTED else listed
    found = f"found arrays {names.escaped(', '.join(listed))}" if listed else "found no array of numbers"
    possible = [key for key, shape in shapes.items() if shape is not None and len(shape) in (3, 4)]
    if name is not None:
        if shapes.get(name) is not None:
            return name
        raise DataError(f"{path}: {found}, expected {names.escaped(name)}. Name one of them.")
    if len(shapes) == 1 and listed:
        return next(iter(shapes))
    if len(possible) == 1:
        return possible[0]
    if not possible:
        raise DataError(f"{path}: {found}, expected images (N, H, W), (N, H, W, C) or (N, C, H, W). Save them alone.")
    example = names.escaped(f"{path.name}:{possible[0]}")
    raise DataError(f"{path}: {found}, expected one. Name the images, for example {example}")


def from_array(path: Path, array: NDArray[Any], settings: ReadSettings, report: Progress) -> FoundImages:
    """The images of an array, checked, resized and recolored.

    uint8 without a given range stays uint8, and bool becomes uint8. Everything else becomes float32 in [0, 1].

    Args:
        path: the file that the array comes from; it is named in errors and in the images' sources.
        array: (N, H, W), (N, H, W, C) or (N, C, H, W), C = 1, 3 or 4 (the fourth is opacity); any type of real numbers.
        settings: size, color, range, transparency and number of the images.
        report: called with (images done, of how many).

    Raises:
        DataError: the array holds no images, pixels that are no real numbers, or values beyond their range.
        ShapeError: the dimensions of the array are not clear.
    """
    images = _as_nchw(path, array)[: settings.limit]
    of, used = _range_of(path, images, settings)
    name = names.escaped(path.name)
    kept, skipped = np.arange(len(images)), dict[str, str]()
    if settings.alpha == "skip" and images.shape[1] == 4:
        clear = np.concatenate([(to_unit(block[:, 3], of) < 1).any(axis=(1, 2)) for _, block in _blocks(images)])
        kept, skipped = np.flatnonzero(~clear), {f"{name}[{i}]": TRANSPARENT for i in np.flatnonzero(clear)}
        if len(kept) == 0:
            raise DataError(f"{path}: all images have transparent pixels. Import them with --set data.alpha=white.")
    warnings = used.warnings()
    channels = {"auto": min(images.shape[1], 3), "gray": 1, "rgb": 3}[settings.color]
    if channels == 3 and settings.color == "auto":
        colored = np.concatenate([has_color(block[:, :3]) for _, block in _blocks(images)])[kept]
        channels = 3 if colored.any() else 1
        warnings += few_colored([f"{name}[{i}]" for i in kept[colored]], len(kept))
    pixels = _prepared(images, kept, of, channels, settings, report)
    return FoundImages(pixels, Strings(f"{name}[{i}]" for i in kept), skipped, warnings)


def _prepared(
    images: NDArray[Any], kept: NDArray[np.int64], of: Range, channels: int, settings: ReadSettings, report: Progress
) -> NDArray[Any]:
    """The kept images as uint8 or float32, (N, channels, H, W)."""
    whole = settings.range is None and (images.dtype == np.uint8 or images.dtype.kind == "b")
    if whole and images.dtype == np.uint8 and settings.resize is None and channels == images.shape[1]:
        return np.ascontiguousarray(images)
    made: NDArray[Any] | None = None
    for start in range(0, len(kept), _BLOCK):
        report(start, len(kept))
        block = images[kept[start : start + _BLOCK]]
        unit = to_unit(block[:, :3], of)
        if block.shape[1] == 4:
            alpha = to_unit(block[:, 3:], of)
            unit = unit * alpha + (settings.alpha == "white") * (1 - alpha)
        unit = unit[:, :1] if channels == 1 and settings.color == "auto" else unit
        block = prepared(to_uint8(unit) if whole else unit.astype(np.float32), settings.resize, channels)
        if made is None:
            made = files.room((len(kept), *block.shape[1:]), block.dtype)
        made[start : start + len(block)] = block
    assert made is not None
    report(len(kept), len(kept))
    return made


def _blocks(images: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """The position of the first image of each block, and the block."""
    for start in range(0, len(images), _BLOCK):
        yield start, images[start : start + _BLOCK]


def _as_nchw(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """A view as (N, C, H, W): of four dimensions, the second or the last is C if it is 1 or 3, or else if it is 4."""
    shape = array.shape
    if 0 in shape:
        raise DataError(f"{path}: holds no images (shape {shape}). Save an array with at least one image.")
    if len(shape) == 3 and shape[-1] not in (1, 3, 4):
        return array[:, None]
    for channels in ((1, 3), (4,)) if len(shape) == 4 else ():
        first, last = shape[1] in channels, shape[3] in channels
        if first and last:
            break
        if first or last:
            return array if first else np.moveaxis(array, 3, 1)
    raise ShapeError(
        f"{path}: an array of shape {shape} is not clearly (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1, 3 or 4. "
        "Reshape it so that exactly one of the second and the last dimension is 1, 3 or 4, and save it again."
    )


def _range_of(path: Path, images: NDArray[Any], settings: ReadSettings) -> tuple[Range, Used]:
    """The values that are black and white, and how much of them the images use; all pixels are checked."""
    used, axes, of = Used(), (1, 2, 3), Range(*settings.range) if settings.range else stated(images.dtype)
    low, high = np.empty(len(images)), np.empty(len(images))
    try:
        check_numbers(images[:0])
        for start, block in _blocks(images):
            here = slice(start, start + len(block))
            low[here], high[here] = block.min(axis=axes), block.max(axis=axes)  # NaN where any pixel is
            bad = np.flatnonzero(~(np.isfinite(low[here]) & np.isfinite(high[here])))
            if len(bad):
                raise RangeError(f"image {start + bad[0]} has NaN or infinite pixels (the first such image). Repair it")
            if of is not None:
                colors = block[:, :3]
                used.add(float(colors.min()), float(colors.max()), of, stated(images.dtype), len(block))
        check(float(low.min()), float(high.max()), of, settings.range is not None, str(images.dtype))
    except RangeError as error:
        raise DataError(f"{path}: {error}{_first_beyond(low, high, of, error)}.") from error
    assert of is not None
    return of, used


def _first_beyond(low: NDArray[np.float64], high: NDArray[np.float64], of: Range | None, error: RangeError) -> str:
    """Which image is the first with values beyond the range, where there is a range and such an image."""
    if of is None or error.found is None:
        return ""
    first = np.flatnonzero((low < of.black) | (high > of.white))[0]
    return f" (the first such image is {first}, with values from {shown(low[first])} to {shown(high[first])})"
