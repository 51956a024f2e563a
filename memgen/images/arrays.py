"""Images from an array in a file: what the readers of array formats share."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memgen.base.errors import DataError, ShapeError
from memgen.base.progress import Progress
from memgen.images.prepare import FoundImages, ReadSettings, prepared

_BLOCK = 512  # images prepared at a time


def from_array(path: Path, array: NDArray[Any], settings: ReadSettings, report: Progress) -> FoundImages:
    """The images of an array, checked, resized and recolored; uint8 stays uint8, and floats become float32.

    Args:
        path: the file that the array comes from; it is named in errors and in the images' sources.
        array: (N, H, W), (N, H, W, C) or (N, C, H, W); uint8, or floats in [0, 1].
        settings: size, color and number of the images.
        report: called with (images done, of how many).

    Raises:
        DataError: the array holds no images, or pixels of another type or range.
        ShapeError: the dimensions of the array are not clear.
    """
    pixels = _prepared_blocks(path, _as_nchw(path, array)[: settings.limit], settings, report)
    return FoundImages(pixels, [f"{path.name}[{index}]" for index in range(len(pixels))])


def _prepared_blocks(path: Path, array: NDArray[Any], settings: ReadSettings, report: Progress) -> NDArray[Any]:
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataError(
            f"{path}: found {array.dtype} pixels, expected uint8 in 0..255 or floats in [0, 1]. Convert and save again."
        )
    channels = {"auto": array.shape[1], "gray": 1, "rgb": 3}[settings.color]
    if array.dtype == np.uint8 and settings.resize is None and channels == array.shape[1]:
        return np.ascontiguousarray(array)
    made: NDArray[Any] | None = None
    for start in range(0, len(array), _BLOCK):
        report(start, len(array))
        block = array[start : start + _BLOCK]
        if block.dtype != np.uint8:
            block = _checked_floats(path, block, start)
        elif not block.flags.writeable:
            block = block.copy()  # torch warns of read-only memory
        block = prepared(block, settings.resize, channels)
        if made is None:
            made = np.empty((len(array), *block.shape[1:]), dtype=block.dtype)
        made[start : start + len(block)] = block
    assert made is not None
    report(len(array), len(array))
    return made


def _as_nchw(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """A view as (N, C, H, W): three dimensions are N, H, W; of four, the one of size 1 or 3 holds the channels."""
    shape = array.shape
    if 0 in shape:
        raise DataError(f"{path}: holds no images (shape {shape}). Save an array with at least one image.")
    if len(shape) == 3 and shape[-1] not in (1, 3, 4):
        return array[:, None]
    if len(shape) == 4:
        first, last = shape[1] in (1, 3), shape[3] in (1, 3)
        if first and not last:
            return array
        if last and not first:
            return np.moveaxis(array, 3, 1)
    raise ShapeError(
        f"{path}: an array of shape {shape} is not clearly (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3. "
        "Reshape it so that exactly one of the second and the last dimension is 1 or 3, and save it again."
    )


def _checked_floats(path: Path, block: NDArray[Any], start: int) -> NDArray[np.float32]:
    """The block as float32, if all pixels are numbers in [0, 1]; `start` is the position of its first image."""
    axes = (1, 2, 3)
    low, high = block.min(axis=axes), block.max(axis=axes)  # NaN where any pixel is
    unfit = np.flatnonzero(~((low >= 0) & (high <= 1)))
    if len(unfit) == 0:
        return block.astype(np.float32)
    first = unfit[0]
    if not np.isfinite([low[first], high[first]]).all():
        raise DataError(
            f"{path}: image {start + first} has NaN or infinite pixels (the first such image). Repair or remove it."
        )
    raise DataError(
        f"{path}: image {start + first} has values from {low[first]:g} to {high[first]:g}, expected [0, 1]. "
        "Rescale and save again: x / 255 for values up to 255, (x + 1) / 2 for values in [-1, 1]."
    )
