"""Images from an array in a NumPy file, .npy or .npz. Pickled objects are refused."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memgen.base.errors import DataError, first_line
from memgen.base.progress import Progress
from memgen.images import archives
from memgen.images.arrays import chosen, from_array, parted
from memgen.images.prepare import FoundImages, ReadSettings

ORDER = 0
KIND = "a NumPy file (.npy, .npz, or FILE.npz:NAME for an array in it)"


def reads(source: Path) -> bool:
    """Whether the suffix of a file is .npy or .npz."""
    path, _ = parted(source)
    return path.is_file() and path.suffix.lower() in (".npy", ".npz")


def read(source: Path, settings: ReadSettings, report: Progress) -> FoundImages:
    """The images of an array of the file; see `readers.Reader` and `arrays`."""
    path, name = parted(source)
    return from_array(path, _load(path, name), settings, report)


def _load(path: Path, name: str | None) -> NDArray[Any]:
    try:
        if path.suffix.lower() == ".npy":
            if name is not None:
                raise DataError(f"{path}: a .npy file holds one array without a name. Leave out :{name}.")
            return np.lib.format.open_memmap(path, mode="r")
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            shapes = {key: _shape(archive.zip, key) for key in archive.files}
            objects = bool(shapes) and not any(shape is not None for shape in shapes.values())
            key = archive.files[0] if objects else chosen(path, shapes, name)
            for info in archive.zip.infolist():
                if info.filename.removesuffix(".npy") == key:
                    archives.check_unpacked(path, info.compress_size, info.file_size)
            return np.asarray(archive[key])
    except (PermissionError, DataError):
        raise
    except Exception as error:  # damaged headers and archives make NumPy raise many kinds
        if any(sign in str(error) for sign in ("pickle", "Python objects", "magic string")):
            raise DataError(
                f"{path}: not an array of plain numbers, and memgen never opens pickles. Save the images with np.save."
            ) from error
        raise DataError(
            f"{path}: damaged, or not a NumPy file ({first_line(error)}). Save it again with np.save."
        ) from error


def _shape(archive: zipfile.ZipFile, name: str) -> tuple[int, ...] | None:
    """The shape of an array in an archive, read from its header; None for what is no array of numbers."""
    try:
        with archive.open(f"{name}.npy") as member:
            old = np.lib.format.read_magic(member) == (1, 0)
            read_header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
            shape, _, dtype = read_header(member)
    except (KeyError, ValueError):
        return None
    return None if dtype.hasobject else shape
