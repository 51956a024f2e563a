"""Sets of images.

An ImageSet holds pixels (N, C, H, W) and a content id for every image. Equal images have equal ids, so exact copies can
be recognized everywhere. On disk it is a folder:

    pixels.npy       the pixels, plain .npy, memory-mapped when loaded
    images.parquet   the table IMAGES: id, source and group of every image
    images.json      shape, dtype, digest of the ids and the recipe; written last, it marks the set as complete
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from memgen.base import files, schemas, tables
from memgen.base.errors import DataError, ShapeError, first_line
from memgen.base.strings import Strings

Indices = Sequence[int] | NDArray[Any] | slice | None


_FORMAT = 1
_BLOCK_BYTES = 1 << 24


def floats(pixels: NDArray[Any]) -> torch.Tensor:
    """Pixels of uint8, or of float32 in pixel units, as a new float32 tensor in pixel units."""
    made = torch.from_numpy(pixels.astype(np.float32))
    return made.div_(255) if pixels.dtype == np.uint8 else made


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images with their content ids.

    Args:
        pixels: (N, C, H, W), C-contiguous; uint8 in [0, 255] or float32 in [0, 1]; may be a read-only memory map.
        ids: the content id of each image.
        sources: where each image comes from: a file, or a file and a position in it.
        recipe: how the pixels were made, as JSON.
        groups: what each image belongs to, such as a patient or a video; None where it is not known (see groups.py).

    Raises:
        ShapeError: pixels are not (N, C, H, W) with N >= 1, or there are not N ids, N sources and, if any, N groups.
        DataError: pixels are neither uint8 nor float32.
    """

    pixels: NDArray[Any]
    ids: Strings
    sources: Strings
    recipe: dict[str, Any] = field(default_factory=dict)
    groups: Strings | None = None

    def __post_init__(self) -> None:
        for name in ("ids", "sources", "groups"):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, Strings(given))  # any sequence of strings will do
        shape = self.pixels.shape
        if len(shape) != 4 or 0 in shape:
            raise ShapeError(f"images: found an array of shape {shape}, expected (N, C, H, W) with at least one image.")
        if self.pixels.dtype not in (np.uint8, np.float32):
            raise DataError(f"images: found {self.pixels.dtype} pixels, expected uint8 or float32.")
        if not len(self.ids) == len(self.sources) == shape[0]:
            raise ShapeError(
                f"images: found {len(self.ids)} ids and {len(self.sources)} sources, expected {shape[0]} of each."
            )
        if self.groups is not None and len(self.groups) != shape[0]:
            raise ShapeError(f"images: found {len(self.groups)} groups, expected {shape[0]}, one for each image.")
        if not self.pixels.flags.c_contiguous:
            raise ShapeError("images: the array is not C-contiguous; pass np.ascontiguousarray(pixels).")

    @classmethod
    def from_pixels(
        cls,
        pixels: NDArray[Any],
        sources: Sequence[str] | None = None,
        recipe: dict[str, Any] | None = None,
        groups: Sequence[str] | None = None,
    ) -> "ImageSet":
        """The image set of an array; its ids are computed, and its sources are numbered if none are given.

        Args:
            pixels: (N, C, H, W), uint8 in [0, 255] or float32 in [0, 1].
            sources: where each image comes from, N strings.
            recipe: how the pixels were made, as JSON.
            groups: what each image belongs to, N strings; None where it is not known.
        """
        pixels = np.ascontiguousarray(pixels)
        names = (f"image[{index}]" for index in range(len(pixels))) if sources is None else sources
        ids = Strings(content_id(image) for image in pixels)
        return cls(pixels, ids, Strings(names), recipe or {}, None if groups is None else Strings(groups))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @property
    def digest(self) -> str:
        """A hash of all content ids in their order."""
        return files.digest_all(self.ids)

    def floats(self, indices: Indices = None) -> torch.Tensor:
        """Chosen images as a new tensor.

        Args:
            indices: positions, a mask or a slice; None takes all images.
        Returns:
            (n, C, H, W) float32 in [0, 1].
        """
        return floats(self._chosen(indices))

    def brightness(self) -> tuple[float, float, float]:
        """Mean, smallest and largest value of all pixels, in pixel units."""
        step = max(1, _BLOCK_BYTES // self.pixels[0].nbytes)
        blocks = [self.pixels[start : start + step] for start in range(0, len(self), step)]
        white = 255 if self.pixels.dtype == np.uint8 else 1
        mean = sum(float(block.sum(dtype=np.float64)) for block in blocks) / self.pixels.size
        low, high = min(float(block.min()) for block in blocks), max(float(block.max()) for block in blocks)
        return mean / white, low / white, high / white

    def of_id(self, identity: str) -> torch.Tensor:
        """The first image that has a content id, (C, H, W) float32 in [0, 1]."""
        return self.floats([self.ids.places([identity])[identity]])[0]

    def take(self, indices: Indices) -> "ImageSet":
        """The image set of the chosen images, in the order given, with a copy of their pixels.

        Args:
            indices: positions, a mask or a slice.
        """
        positions = self._positions(indices)
        made = files.room((len(positions), *self.image_shape), self.pixels.dtype)
        step = max(1, _BLOCK_BYTES // self.pixels[0].nbytes)
        for start in range(0, len(positions), step):
            made[start : start + step] = self._chosen(positions[start : start + step])
        return self.of_pixels(made, positions)

    def of_pixels(self, pixels: NDArray[Any], positions: NDArray[np.int64]) -> "ImageSet":
        """The image set of pixels that are those of this set at the given positions, without a copy of them."""
        groups = None if self.groups is None else self.groups[positions]
        return ImageSet(pixels, self.ids[positions], self.sources[positions], self.recipe, groups)

    def to_table(self) -> pa.Table:
        """Id, source and group of each image, as a table IMAGES."""
        columns = {
            "index": np.arange(len(self)),
            "image_id": self.ids,
            "source": self.sources,
            "group": self.groups,
        }
        return tables.make(schemas.IMAGES, columns)

    def save(self, folder: Path) -> None:
        """Write the set to a folder; `images.json` is written last and marks the set as complete.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        try:
            (folder / "images.json").unlink(missing_ok=True)
        except OSError as error:
            raise files.storage_error(folder / "images.json", error) from error
        _write_array(folder / "pixels.npy", self.pixels)
        tables.write(folder / "images.parquet", self.to_table(), schemas.IMAGES)
        manifest = {
            "format": _FORMAT,
            "shape": list(self.pixels.shape),
            "dtype": str(self.pixels.dtype),
            "digest": self.digest,
            "recipe": self.recipe,
        }
        files.write_json(folder / "images.json", manifest)

    @classmethod
    def load(cls, folder: Path) -> "ImageSet":
        """The set in a folder, its pixels memory-mapped, read-only.

        Raises:
            DataError: the set is incomplete, or one of its files is damaged or does not belong to the others.
        """
        path = folder / "images.json"
        if not path.exists():
            raise DataError(f"{path}: no such file, so {folder} holds no complete image set. {_AGAIN}")
        manifest = files.read_json(path)
        try:
            version, recipe = manifest["format"], dict(manifest["recipe"])
            shape, dtype, digest = tuple(manifest["shape"]), str(manifest["dtype"]), manifest["digest"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not a description of images. {_AGAIN}") from error
        if version != _FORMAT:
            raise DataError(f"{path}: found format {version}, this memgen reads format {_FORMAT}. {_AGAIN}")
        ids, sources, groups = _read_names(folder / "images.parquet", digest)
        pixels = _map_array(folder / "pixels.npy", shape, dtype)
        # Checking every id would read the whole file; two are enough to notice another set's pixels.
        if any(content_id(pixels[index]) != ids[index] for index in (0, -1)):
            raise DataError(f"{folder / 'pixels.npy'}: its images are not those of images.parquet. {_AGAIN}")
        return cls(pixels, ids, sources, recipe, groups)

    def _positions(self, indices: Indices) -> NDArray[np.int64]:
        if indices is None:
            indices = slice(None)
        elif not isinstance(indices, slice | np.ndarray):
            indices = np.array(list(indices), dtype=np.int64)
        return np.arange(len(self))[indices]

    def _chosen(self, indices: Indices) -> NDArray[Any]:
        # Rows of a matrix are copied whole; indexing the four-dimensional array copies row by image row.
        rows = self.pixels.reshape(len(self), -1)
        return np.take(rows, self._positions(indices), axis=0).reshape(-1, *self.image_shape)


def content_id(image: NDArray[Any]) -> str:
    """The content id of an image: a hash of shape, dtype and pixels, equal for equal images only.

    Args:
        image: (C, H, W), uint8 or float32.
    """
    return files.digest("x".join(map(str, image.shape)), image.dtype.name, image.tobytes())


_AGAIN = "Delete its folder and import the images again."


def _write_array(path: Path, array: NDArray[Any]) -> None:
    # np.save loses the reason when the disk is full; writing the bytes ourselves keeps it.
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    data = array.reshape(-1).view(np.uint8)
    with files.writing(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(data), _BLOCK_BYTES):
            file.write(data[start : start + _BLOCK_BYTES].data)


def _read_names(path: Path, digest: str) -> tuple[Strings, Strings, Strings | None]:
    table = tables.read(path, schemas.IMAGES)
    try:
        table.validate(full=True)
        ids, sources = (Strings(table[name]) for name in ("image_id", "source"))
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: damaged text. {_AGAIN}") from error
    if files.digest_all(ids) != digest:
        raise DataError(f"{path}: its ids are not those that images.json states. {_AGAIN}")
    groups = table["group"]
    if 0 < groups.null_count < len(groups):
        raise DataError(f"{path}: found images with and without a group, expected one kind. {_AGAIN}")
    return ids, sources, None if groups.null_count else Strings(groups)


def _map_array(path: Path, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    try:
        array: np.memmap[Any, Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. {_AGAIN}") from error
    except Exception as error:  # damaged headers make NumPy raise many kinds
        raise DataError(f"{path}: damaged, or not an array ({first_line(error)}). {_AGAIN}") from error
    if array.shape != shape or array.dtype.name != dtype or not array.flags.c_contiguous:
        raise DataError(
            f"{path}: found {array.dtype} of shape {array.shape}, expected {dtype} of shape {shape}. {_AGAIN}"
        )
    surplus = path.stat().st_size - array.offset - array.nbytes
    if surplus:
        raise DataError(f"{path}: {surplus} bytes too long for its shape {shape}. {_AGAIN}")
    return array
