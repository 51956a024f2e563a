"""Images from one array in a NumPy file, .npy or .npz. Pickled objects are refused."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memgen.base.errors import DataError, first_line
from memgen.base.progress import Progress
from memgen.images.arrays import from_array
from memgen.images.prepare import FoundImages, ReadSettings

ORDER = 0
KIND = "a NumPy file (.npy, .npz)"


def reads(source: Path) -> bool:
    """Whether the suffix of a file is .npy or .npz."""
    return source.is_file() and source.suffix.lower() in (".npy", ".npz")


def read(source: Path, settings: ReadSettings, report: Progress) -> FoundImages:
    """The images of the file's only array; see `readers.Reader` and `arrays.from_array`."""
    return from_array(source, _load(source), settings, report)


def _load(path: Path) -> NDArray[Any]:
    try:
        if path.suffix.lower() == ".npy":
            return np.lib.format.open_memmap(path, mode="r")
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            if len(archive.files) != 1:
                raise DataError(
                    f"{path}: found arrays {', '.join(archive.files) or 'none'}, expected one. "
                    "Save the array of images alone, with np.savez_compressed(path, images)."
                )
            return np.asarray(archive[archive.files[0]])
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
