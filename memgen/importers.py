"""Import images: a folder of pictures, .npy / .npz, IDX (plain or gzip), a torch tensor, or the embedded set.

Whatever the source, pixels go through the same steps, which the recipe of the resulting ImageSet records:

    1. orientation by EXIF, transparency composited on white (folders only, see pictures.py)
    2. antialiased bicubic resize of the short side to `resize`, center crop to a square (optional)
    3. gray as the plain mean of R, G, B, or RGB by repeating gray (optional)
    4. removal of near-duplicates (see duplicates.py)
    5. one permutation of the pixels of all images (optional, see synthetic.py)

uint8 stays uint8, rounded after steps 2 and 3; floats must lie in [0, 1] and become float32. Nothing in a file is
executed: pickles are refused, and so is PostScript. A file that cannot be used is reported in the table SKIPPED.
"""

import gzip
import importlib.resources
import pickle
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field

from memgen import duplicates, pictures, synthetic, tables
from memgen.config import Settings
from memgen.errors import DataError, ShapeError, first_line
from memgen.images import ImageSet

Progress = Callable[[int, int], None]

EMBEDDED = "fashion-mnist-idx3-ubyte.gz"
_BLOCK = 512


class ImportSettings(Settings):
    """How images are imported."""

    resize: int | None = Field(
        default=None, ge=1, description="side of the square images, in pixels; None keeps their size"
    )
    color: Literal["auto", "gray", "rgb"] = Field(
        default="auto", description="auto: RGB if any image of a folder has color"
    )
    alpha: Literal["white", "black", "skip"] = Field(default="white", description="what lies behind transparent pixels")
    limit: int | None = Field(
        default=None, ge=1, description="import the first images only, counted before de-duplication"
    )
    deduplicate: bool = Field(default=True, description="remove near-duplicates")
    threshold: float = Field(default=0.95, gt=0, le=1, description="correlation above which images are near-duplicates")
    shuffle: bool = Field(
        default=False, description="put the pixels of every image into one order that the seed draws, the same for all"
    )


@dataclass(frozen=True)
class Imported:
    """What an import yields.

    Args:
        images: the images that remain.
        skipped: table SKIPPED, a row for each file that was not imported.
        duplicates: table DUPLICATES, a row for each image that was removed.
    """

    images: ImageSet
    skipped: pa.Table
    duplicates: pa.Table


def import_images(
    source: Path | None, settings: ImportSettings | None = None, progress: Progress | None = None, seed: int = 0
) -> Imported:
    """The images of a source, prepared and without near-duplicates.

    Args:
        source: a folder, or a .npy, .npz, IDX, .pt or .pth file; None for the embedded Fashion-MNIST images.
        settings: size, color, de-duplication; defaults if None.
        progress: called with (files or images done, of how many).
        seed: of the order of the pixels, where they are shuffled.
    Raises:
        DataError: the source cannot be used; the message names the file and the remedy.
    """
    settings = settings or ImportSettings()
    if source is None:
        resource = importlib.resources.files("memgen") / "embedded" / EMBEDDED
        with importlib.resources.as_file(resource) as path:
            imported = _import(path, settings, progress, name="embedded Fashion-MNIST")
    else:
        imported = _import(source, settings, progress, name=str(source))
    return replace(imported, images=_shuffled(imported.images, seed)) if settings.shuffle else imported


def generate_images(
    settings: synthetic.ClassSettings, shuffle: bool, seed: int, progress: Progress | None = None
) -> Imported:
    """The images of a generated class.

    Near-duplicates stay: without them the images would not be of the distribution whose best denoiser is known.

    Args:
        settings: which class, and how many images.
        shuffle: put the pixels of every image into one order that the seed draws.
        seed: of the class and of that order.
        progress: called with (images done, of how many).
    """
    pixels = synthetic.generate(settings, seed, range(settings.n_images), progress)
    recipe = {
        "source": f"generated: {settings.kind}",
        "generated": settings.model_dump(mode="json"),
        "seed": seed,
        "near_duplicates": "kept, since removing them would change the distribution",
        "shuffle": shuffle,
    }
    sources = [f"{settings.kind}[{index}]" for index in range(len(pixels))]
    images = ImageSet.from_pixels(pixels, sources, recipe)
    nothing: dict[str, list[Any]] = {name: [] for name in tables.DUPLICATES.names}
    return Imported(
        _shuffled(images, seed) if shuffle else images,
        tables.make(tables.SKIPPED, {"source": [], "reason": []}),
        tables.make(tables.DUPLICATES, nothing),
    )


def _shuffled(images: ImageSet, seed: int) -> ImageSet:
    """The same images with their pixels in the order that the seed draws; their ids change with their content."""
    _, height, width = images.image_shape
    pixels = synthetic.shuffled(images.pixels, synthetic.permutation(seed, height * width))
    return ImageSet.from_pixels(pixels, images.sources, images.recipe | {"shuffle_seed": seed})


def _import(source: Path, settings: ImportSettings, progress: Progress | None, name: str) -> Imported:
    report = progress or (lambda done, total: None)
    if source.is_dir() or pictures.is_picture(source):
        pixels, sources, skipped = pictures.read(
            source,
            lambda picture, channels: _prepared(picture, settings.resize, channels),
            settings.color,
            settings.alpha,
            settings.limit,
            report,
        )
    else:
        pixels, skipped = _prepare_array(source, _read_array(source), settings, report), {}
        sources = [f"{source.name}[{index}]" for index in range(len(pixels))]
    images = ImageSet.from_pixels(pixels, sources, _recipe(name, settings))
    removed = tables.make(tables.DUPLICATES, {name: [] for name in tables.DUPLICATES.names})
    if settings.deduplicate:
        kept, removed = duplicates.near_duplicates(images, settings.threshold)
        images = _keep(images, kept)
    columns = {"source": list(skipped), "reason": list(skipped.values())}
    return Imported(images, tables.make(tables.SKIPPED, columns), removed)


def _recipe(source: str, settings: ImportSettings) -> dict[str, Any]:
    return {
        "source": source,
        **settings.model_dump(include=set(ImportSettings.model_fields)),
        "resize_method": "short side, bicubic, antialiased, center crop" if settings.resize else None,
        "gray_method": "mean of R, G, B after the resize" if settings.color == "gray" else None,
    }


def _keep(images: ImageSet, kept: NDArray[np.int64]) -> ImageSet:
    """The kept images; moved up in place where the array is ours, so that the set is never twice in memory."""
    pixels = images.pixels
    if not pixels.flags.writeable:
        return images.take(kept)
    for start in range(0, len(kept), _BLOCK):
        # kept ascends, so every image moves to its own place or an earlier one.
        chosen = kept[start : start + _BLOCK]
        pixels[start : start + len(chosen)] = pixels[chosen]
    ids, sources = (tuple(names[i] for i in kept) for names in (images.ids, images.sources))
    return ImageSet(pixels[: len(kept)], ids, sources, images.recipe)


# Steps that all sources share.


def _resize(images: torch.Tensor, side: int) -> torch.Tensor:
    """Images (B, C, H, W), uint8 or float32, with the short side resized to `side`, center-cropped to a square."""
    height, width = images.shape[-2:]
    scale = side / min(height, width)
    size = (max(side, round(height * scale)), max(side, round(width * scale)))
    if size != (height, width):
        images = F.interpolate(images, size=size, mode="bicubic", antialias=True)
        if images.dtype != torch.uint8:
            images = images.clamp(0, 1)  # bicubic overshoots at edges; uint8 saturates by itself
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return images[..., top : top + side, left : left + side]


def _gray(images: NDArray[Any]) -> NDArray[Any]:
    """The plain mean of three channels, (B, 3, H, W) to (B, 1, H, W); integers are rounded."""
    if images.dtype == np.uint8:
        total: NDArray[Any] = images.sum(axis=1, keepdims=True, dtype=np.uint16)
        return ((total + 1) // 3).astype(np.uint8)
    mean: NDArray[Any] = images.mean(axis=1, keepdims=True, dtype=np.float64)
    return mean.astype(np.float32)


def _prepared(images: NDArray[Any], resize: int | None, channels: int) -> NDArray[Any]:
    """Images (B, C, H, W) resized and with the number of channels asked for."""
    if resize is not None:
        images = _resize(torch.from_numpy(np.ascontiguousarray(images)), resize).numpy()
    if images.shape[1] == channels:
        return images
    return _gray(images) if channels == 1 else np.repeat(images, channels, axis=1)


# Arrays.


def _read_array(path: Path) -> NDArray[Any]:
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


def _prepare_array(path: Path, array: NDArray[Any], settings: ImportSettings, report: Progress) -> NDArray[Any]:
    """An array from a file as (N, C, H, W) uint8 or float32, checked, resized and recolored."""
    array = _nchw(path, array)[: settings.limit]
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataError(
            f"{path}: found {array.dtype} pixels, expected uint8 in 0..255 or floats in [0, 1]. Convert and save again."
        )
    wanted = {"auto": array.shape[1], "gray": 1, "rgb": 3}[settings.color]
    if array.dtype == np.uint8 and settings.resize is None and wanted == array.shape[1]:
        return np.ascontiguousarray(array)
    prepared: NDArray[Any] | None = None
    for start in range(0, len(array), _BLOCK):
        report(start, len(array))
        block = array[start : start + _BLOCK]
        if block.dtype != np.uint8:
            block = _checked_floats(path, block, start)
        elif not block.flags.writeable:
            block = block.copy()  # torch warns of read-only memory
        block = _prepared(block, settings.resize, wanted)
        if prepared is None:
            prepared = np.empty((len(array), *block.shape[1:]), dtype=block.dtype)
        prepared[start : start + len(block)] = block
    assert prepared is not None
    report(len(array), len(array))
    return prepared


def _nchw(path: Path, array: NDArray[Any]) -> NDArray[Any]:
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
