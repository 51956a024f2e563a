"""Images from an IDX file, plain or gzip, the format of MNIST.

The file holds two zero bytes, the type (8 = uint8), the number of dimensions, each dimension in 4 bytes (big-endian),
and the pixels (big-endian).
"""

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memgen.base.errors import DataError, first_line
from memgen.base.progress import Progress
from memgen.images import archives
from memgen.images.arrays import from_array
from memgen.images.prepare import FoundImages, ReadSettings

ORDER = 0
KIND = "an IDX file (plain or gzip)"
_TYPES = {8: "u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_GZIP = b"\x1f\x8b"
_DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error)


def reads(source: Path) -> bool:
    """Whether a file begins like IDX, plain or gzip; also of a gzip file that is too damaged to tell."""
    if not source.is_file():
        return False
    with open(source, "rb") as file:
        start = file.read(3)
    if start[:2] != _GZIP:
        return _is_idx(start)
    try:
        with gzip.open(source) as unzipped:
            return _is_idx(unzipped.read(3))
    except _DAMAGED:
        return True


def read(source: Path, settings: ReadSettings, report: Progress) -> FoundImages:
    """The images of the file; see `readers.Reader` and `arrays.from_array`."""
    return from_array(source, _load(source), settings, report)


def _is_idx(start: bytes) -> bool:
    return len(start) == 3 and start[:2] == b"\0\0" and start[2] in _TYPES


def _load(path: Path) -> NDArray[Any]:
    try:
        with open(path, "rb") as file:
            packed = file.seek(0, os.SEEK_END)
            file.seek(0)
            is_packed = file.read(2) == _GZIP
            file.seek(0)
            most = archives.most_unpacked(packed)
            data = gzip.GzipFile(fileobj=file).read(most + 1) if is_packed else file.read()
            archives.check_unpacked(path, packed, len(data))
    except _DAMAGED as error:
        raise DataError(f"{path}: damaged gzip file ({first_line(error)}). Fetch it again.") from error
    n_dimensions = data[3] if len(data) > 3 else 0
    if n_dimensions not in (3, 4):
        raise DataError(
            f"{path}: an IDX file of {n_dimensions} dimensions, expected 3 or 4 (images, height, width, and colors). "
            "One dimension means labels; give the file of images."
        )
    start, dtype = 4 + 4 * n_dimensions, np.dtype(_TYPES[data[2]])
    shape = tuple(int.from_bytes(data[at : at + 4], "big") for at in range(4, start, 4))
    expected = start + math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise DataError(
            f"{path}: found {len(data)} bytes, but an array of shape {shape} takes {expected}. Fetch it again."
        )
    return np.frombuffer(data, dtype=dtype, offset=start).reshape(shape)
