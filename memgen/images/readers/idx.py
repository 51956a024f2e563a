"""Images from an IDX file of unsigned bytes, plain or gzip, the format of MNIST.

The file holds two zero bytes, the type (8 = uint8), the number of dimensions, each dimension in 4 bytes (big-endian),
and the pixels.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memgen.base.errors import DataError, first_line
from memgen.base.progress import Progress
from memgen.images.arrays import from_array
from memgen.images.prepare import FoundImages, ReadSettings

ORDER = 0
KIND = "an IDX file of unsigned bytes (plain or gzip)"
_START = b"\x00\x00\x08"
_GZIP = b"\x1f\x8b"
_DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error)


def reads(source: Path) -> bool:
    """Whether a file begins like IDX, plain or gzip; also of a gzip file that is too damaged to tell."""
    if not source.is_file():
        return False
    with open(source, "rb") as file:
        start = file.read(3)
    if start[:2] != _GZIP:
        return start == _START
    try:
        with gzip.open(source) as unzipped:
            return unzipped.read(3) == _START
    except _DAMAGED:
        return True


def read(source: Path, settings: ReadSettings, report: Progress) -> FoundImages:
    """The images of the file; see `readers.Reader` and `arrays.from_array`."""
    return from_array(source, _load(source), settings, report)


def _load(path: Path) -> NDArray[np.uint8]:
    data = path.read_bytes()
    try:
        data = gzip.decompress(data) if data.startswith(_GZIP) else data
    except _DAMAGED as error:
        raise DataError(f"{path}: damaged gzip file ({first_line(error)}). Fetch it again.") from error
    n_dimensions = data[3] if len(data) > 3 else 0
    if n_dimensions != 3:
        raise DataError(
            f"{path}: an IDX file of {n_dimensions} dimensions, expected 3 (images, height, width). "
            "One dimension means labels; give the file of images."
        )
    shape = tuple(int.from_bytes(data[at : at + 4], "big") for at in (4, 8, 12))
    expected = 16 + shape[0] * shape[1] * shape[2]
    if len(data) != expected:
        raise DataError(
            f"{path}: found {len(data)} bytes, but {shape[0]} images of {shape[2]} x {shape[1]} take {expected}. "
            "Fetch it again."
        )
    return np.frombuffer(data, dtype=np.uint8, offset=16).reshape(shape)
