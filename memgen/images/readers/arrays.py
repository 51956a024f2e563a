"""Arrays of images from .npy, .npz, IDX and torch files. No file can execute code."""

import gzip
import pickle
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from memgen.base.errors import DataError, ShapeError, first_line


def read_array(path: Path) -> NDArray[Any]:
    """The array in a file, of any shape and number type, or a DataError that names the file."""
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder. Give a folder of images, or a .npy, .npz, IDX or .pt file.")
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path}: empty file. Fetch or save it again.")
        if path.suffix.lower() in (".npy", ".npz"):
            return _read_numpy(path)
        if path.suffix.lower() in (".pt", ".pth"):
            return _read_tensor(path)
        return _read_idx(path)
    except PermissionError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error


def _read_numpy(path: Path) -> NDArray[Any]:
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


def _read_tensor(path: Path) -> NDArray[Any]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\.")  # about storages of files that old versions wrote
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: holds objects other than tensors, which memgen never opens. Save one tensor with torch.save."
        ) from error
    except Exception as error:  # torch raises many kinds for damaged files
        raise DataError(
            f"{path}: damaged, or not a torch file ({first_line(error)}). Save the tensor again with torch.save."
        ) from error
    if isinstance(loaded, dict):
        names = [str(name) for name, value in loaded.items() if isinstance(value, torch.Tensor)]
        if len(loaded) != 1 or len(names) != 1:
            raise DataError(
                f"{path}: found tensors {', '.join(names[:8]) or 'none'}, expected one. Save the images alone."
            )
        loaded = next(iter(loaded.values()))
    if not isinstance(loaded, torch.Tensor) or loaded.layout != torch.strided:
        raise DataError(f"{path}: holds a {type(loaded).__name__}, expected one dense tensor of images.")
    loaded = loaded.detach()
    return (loaded.float() if loaded.dtype == torch.bfloat16 else loaded).numpy()


def _read_idx(path: Path) -> NDArray[Any]:
    """IDX: two zero bytes, type (8 = uint8), number of dimensions, each dimension in 4 bytes, big-endian, pixels."""
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        data = gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({first_line(error)}). Fetch it again.") from error
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise DataError(
            f"{path}: not a kind of file that memgen reads. "
            "Give images, a folder of them, a .npy, .npz, .pt or .pth file, or IDX of unsigned bytes (plain or gzip)."
        )
    n_dimensions = data[3]
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


def as_nchw(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """A view as (N, C, H, W): three dimensions are N, H, W; of four, the one of size 1 or 3 holds the channels."""
    shape = array.shape
    if 0 in shape:
        raise DataError(f"{path}: holds no images (shape {shape}).")
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


def checked_floats(path: Path, block: NDArray[Any], start: int) -> NDArray[np.float32]:
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
