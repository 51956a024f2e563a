"""Fast search for the vectors closest to a query, with a bound on the error of its scores.

Scores are inner products of the vectors that `Space.embed` makes, or squared distances with the sign reversed if
smaller values are closer. Three searches give the same result up to rounding:

    PixelSearch   products with the images themselves, where these are of uint8 and the space is one of pixels: 8-bit
                  integers where the processor has them (see `products`). Nothing but the images is kept
    FaissSearch   FAISS's flat index of float32 vectors, in memory
    TorchSearch   blocks of a matrix product of float32 vectors, which lie in a temporary file if there are many

Rounding depends on the search and on how many queries are searched at once, and ||a||^2 + ||b||^2 - 2 a.b is not even 0
for an exact copy. But with u = 2^-24, a dot product of d float32 numbers, summed in any order, errs by at most about
d u ||a|| ||b||, so a caller can tell which neighbors are proved.

Each of them may also look at some lists of vectors only (`lists`), which is faster and may miss some.

Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1.
"""

import functools
import importlib.metadata
import math
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.base import optional
from memgen.base.errors import ConfigError
from memgen.images.gathered import Images, numbers
from memgen.images.imageset import floats
from memgen.spaces import Space, products
from memgen.spaces.lists import Lists
from memgen.spaces.pixels import PixelSpace

BACKENDS = ("auto", "faiss", "torch")

_INSTALL = f"{optional.install('cpu')}; or use the backend torch."
_WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs")
_TILE = 1024  # queries multiplied with a block at a time


@dataclass(frozen=True, eq=False)
class Queries:
    """Images that are searched for.

    Attributes:
        images: (M, d) float32, pixel units.
        vectors: what `Space.embed` makes of them, (M, D) float32.
    """

    images: Tensor
    vectors: Tensor

    def take(self, rows: NDArray[np.int64]) -> "Queries":
        """Some of them."""
        return Queries(self.images[rows], self.vectors[rows])


class Search(Protocol):
    """A search among vectors whose scores may err."""

    backend: str

    def __call__(
        self, queries: Queries, size: int, probes: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
        """The best vectors for each query.

        Args:
            queries: what is searched for.
            size: how many vectors of each.
            probes: lists of vectors that each query looks at, or more if they hold fewer than `size`; see `Lists`. None
                looks at all vectors.

        Returns:
            Scores (M, size), descending, larger = closer; positions (M, size), -1 where no score is a number; and how
            far, at most, each score of a query is from the exact one, (M,).
        """
        ...


class FaissSearch:
    """FAISS's flat index: inner products, or squared distances."""

    backend = "faiss"

    def __init__(self, index: Any, space: Space) -> None:
        self._index, self._space = index, space
        view = _faiss().rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
        self._in_lists = TorchSearch(view.reshape(index.ntotal, index.d), space, "cpu")

    @classmethod
    def read(cls, path: Path, space: Space) -> "FaissSearch":
        """The search that `serialized` wrote to a file."""
        return cls(_faiss().read_index(str(path)), space)

    def serialized(self) -> NDArray[np.uint8]:
        """The bytes of the index, (bytes,) uint8."""
        # faiss.write_index would report a full disk as a RuntimeError without its cause.
        return np.asarray(_faiss().serialize_index(self._index))

    def __call__(
        self, queries: Queries, size: int, probes: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
        """The best vectors for each query; see `Search`."""
        if probes is not None:
            return self._in_lists(queries, size, probes)
        scores, positions = self._index.search(queries.vectors.numpy(), size)
        error = error_bound(queries.vectors, self._in_lists.longest, self._space)
        return (scores if self._space.larger_is_closer else -scores), positions, error


class TorchSearch:
    """Blocks of a matrix product, from which the best scores are kept.

    Attributes:
        longest: norm of the longest vector.
    """

    backend = "torch"

    def __init__(self, vectors: NDArray[np.float32], space: Space, device: str) -> None:
        self._vectors, self._space, self._device = vectors, space, device
        self.longest = _longest(vectors)

    @functools.cached_property
    def _lists(self) -> Lists:
        return Lists(len(self._vectors), lambda at: torch.from_numpy(np.array(self._vectors[at])), self._device)

    def __call__(
        self, queries: Queries, size: int, probes: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
        """The best vectors for each query; see `Search`."""
        wanted, best = queries.vectors.to(self._device), _Best(len(queries.vectors), size, self._device)
        probed = None if probes is None else self._lists.probed(queries.vectors, probes, size)
        for positions, vectors, tiles in _parts(self._vectors, len(wanted), probed):
            block = torch.from_numpy(vectors).to(self._device)
            for tile in tiles:
                with products.full_precision():
                    scores = wanted[tile] @ block.T
                if not self._space.larger_is_closer:
                    scores = 2 * scores - block.square().sum(1) - wanted[tile].square().sum(1, keepdim=True)
                best.add(tile, scores, positions)
        return *best.found(), error_bound(queries.vectors, self.longest, self._space)


class PixelSearch:
    """Products with images of uint8, in a space of pixels; see `products`.

    Args:
        pixels: (N, C, H, W) uint8, in memory or not.
        space: that of pixels.
        device: where blocks of images are multiplied.
    """

    backend = "torch"

    def __init__(self, pixels: Images, space: PixelSpace, device: str) -> None:
        self._pixels, self._space, self._device = pixels, space, device
        self._d = numbers(pixels)
        parts = [space.code(products.signed(block, "cpu").numpy()) for _, block in products.blocks(pixels, self._d)]
        self._fixed, self._relative = parts[0].fixed, parts[0].relative
        scale, offset, total, norm = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("scale", "offset", "total", "norm")
        )
        self._scale, self._numbers = (
            scale.astype(np.float32),
            np.stack([scale * total, scale, offset]).astype(np.float32),
        )
        shift = self._fixed + self._relative * total
        length = scale * np.sqrt(np.maximum(0, norm**2 + 2 * shift * total + self._d * shift**2))
        self._most = {
            "length": length.max(),
            "norm": (scale * norm).max(),
            **{name: np.abs(row).max() for name, row in zip(("total", "scale", "offset"), self._numbers, strict=True)},
        }

    def __call__(
        self, queries: Queries, size: int, probes: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
        """The best images for each query; see `Search`."""
        exact = products.integers_serve(self._d, torch.device(self._device).type)
        coded = (
            products.Coded.integers(queries.vectors, queries.images)
            if exact
            else products.Coded.floats(queries.vectors)
        )
        # Scores over a, so that a row is a <q, z> + w sum(z) + u, with the scale and the offset of each image.
        w, u = coded.constant + self._relative * coded.total, self._fixed * coded.total
        corrections = np.stack([w, u, np.ones(len(w))], axis=1) / coded.factor[:, None]
        added, best = torch.from_numpy(corrections).float().to(self._device), _Best(len(w), size, self._device)
        probed = None if probes is None else self._lists.probed(queries.vectors, probes, size)
        for positions, block, tiles in _parts(self._pixels, len(w), probed):
            z = products.signed(block, self._device)
            scale, numbers = (
                torch.from_numpy(each[..., positions]).to(self._device) for each in (self._scale, self._numbers)
            )
            for tile in tiles:
                with products.full_precision():
                    scored = torch.addmm(coded.times(z, tile, self._device).mul_(scale), added[tile], numbers)
                best.add(tile, scored, positions)
        scores, positions = best.found()
        length = queries.vectors.double().square().sum(dim=1).numpy()
        own = np.zeros(len(w)) if self._space.larger_is_closer else length
        found = (scores * coded.factor[:, None] - own[:, None]).astype(np.float32)
        return found, positions, self._error(coded, corrections, np.sqrt(length), exact)

    @functools.cached_property
    def _lists(self) -> Lists:
        return Lists(len(self._pixels), lambda at: self._space.embed(floats(self._pixels[at])), self._device)

    def _error(
        self, coded: products.Coded, corrections: NDArray[np.float64], length: NDArray[np.float64], exact: bool
    ) -> NDArray[np.float64]:
        """How far, at most, a score of each query is from the exact one.

        The parts are: what the integers leave out; the rounding of the vectors, and of products if they are of
        float32; and that of a dozen float32 operations, none of whose terms is larger than the sum of all sizes here.
        """
        most, unit = self._most, 2.0**-24
        of_products = 1 if exact else self._d + 16
        sizes = coded.norm * most["norm"] * of_products + np.abs(corrections) @ [
            most["total"],
            most["scale"],
            most["offset"],
        ]
        rounding = (
            16
            * unit
            * (coded.factor * sizes + length * most["length"] + (0 if self._space.larger_is_closer else length**2))
        )
        return np.asarray(coded.missing * most["length"] + rounding)


class _Best:
    """The best scores of M queries so far, descending, and the positions that they belong to."""

    def __init__(self, count: int, size: int, device: str) -> None:
        self._scores = torch.full((count, size), -torch.inf, device=device)
        self._positions = torch.full((count, size), -1, dtype=torch.int64, device=device)

    def add(self, rows: slice | NDArray[np.int64], scores: Tensor, positions: slice | NDArray[np.int64]) -> None:
        """Take in the scores (m, B) of some queries with the images at some positions."""
        size = self._scores.shape[1]
        found, column = scores.topk(min(size, scores.shape[1]), dim=1)
        merged = torch.cat([self._scores[rows], found], dim=1)
        self._scores[rows], keep = merged.topk(size, dim=1)
        if isinstance(positions, slice):
            place = column + positions.start
        else:
            place = torch.from_numpy(positions).to(column.device)[column]
        self._positions[rows] = torch.cat([self._positions[rows], place], dim=1).gather(1, keep)

    def found(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and positions, (M, size) each."""
        return self._scores.cpu().numpy(), self._positions.cpu().numpy()


def _parts(
    images: Any, queries: int, probed: Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]] | None
) -> Iterator[tuple[slice | NDArray[np.int64], NDArray[Any], Sequence[slice | NDArray[np.int64]]]]:
    """What is multiplied: positions of images, these images (B, d), and the queries that look at them, tile by tile.

    Args:
        images: (N, ...), in memory or not.
        queries: number of all queries.
        probed: images and the queries that look at them, see `Lists.probed`; None if all look at all.
    """
    d = math.prod(images.shape[1:])
    if probed is None:
        tiles = [slice(start, min(start + _TILE, queries)) for start in range(0, queries, _TILE)]
        for start, block in products.blocks(images, d):
            yield slice(start, start + len(block)), block, tiles
        return
    for members, looking in probed:
        for rows in products.steps(len(members), d):
            block = np.asarray(images[members[rows]]).reshape(-1, d)
            yield members[rows], block, [looking[start : start + _TILE] for start in range(0, len(looking), _TILE)]


def build(pixels: Images, space: Space, backend: str, device: str = "cpu", saved: Path | None = None) -> Search:
    """A search among images.

    Args:
        pixels: (N, C, H, W), uint8, or float32 in pixel units, in memory or not.
        space: how images are compared.
        backend: auto, faiss or torch.
        device: where torch searches; faiss always uses the CPU.
        saved: a file with what `FaissSearch.serialized` gave for these images, which spares making it anew.

    Raises:
        ConfigError: the backend is unknown, or faiss is requested but not installed.
    """
    chosen = choose(backend, device)
    if isinstance(space, PixelSpace) and pixels.dtype == np.uint8 and backend != "faiss":
        return PixelSearch(pixels, space, device)
    if chosen == "faiss" and saved is not None:
        return FaissSearch.read(saved, space)
    vectors = products.vectors(pixels, space.embed)
    if chosen == "torch" or (backend == "auto" and isinstance(vectors, np.memmap)):
        return TorchSearch(vectors, space, device)
    index = (_faiss().IndexFlatIP if space.larger_is_closer else _faiss().IndexFlatL2)(vectors.shape[1])
    index.add(vectors)
    return FaissSearch(index, space)


def error_bound(queries: Tensor, longest: float, space: Space) -> NDArray[np.float64]:
    """How far, at most, a float32 score of each query is from the exact one.

    With u = 2^-24 and d numbers, |fl(a.b) - a.b| <= d u |a| |b| / (1 - d u) in any order of summation; the squared
    distance, formed directly or as |a|^2 + |b|^2 - 2 a.b, errs by at most (d + 3) u (|a| + |b|)^2 / (1 - d u). Rounding
    the vectors themselves to float32 adds less than 2 u per product; 16 in place of 3 covers it and the float64 side.

    Args:
        queries: vectors of the queries, (M, d) float32.
        longest: norm of the longest vector searched.
        space: that of the vectors.

    Returns:
        (M,), in units of the scores; infinity where d is too large for any bound.
    """
    d = queries.shape[1]
    length = queries.double().norm(dim=1).numpy()
    scale = length * longest if space.larger_is_closer else (length + longest) ** 2
    unit = (d + 16) * 2.0**-24
    return np.asarray(scale * (unit / (1 - unit) if unit < 1 else np.inf))


def _longest(vectors: NDArray[np.float32]) -> float:
    """The largest norm."""
    parts = (np.asarray(rows, dtype=np.float64) for _, rows in products.blocks(vectors, vectors.shape[1]))
    return max(float(np.sqrt(np.einsum("nd,nd->n", rows, rows).max())) for rows in parts)


def choose(backend: str, device: str) -> str:
    """The backend that is used, faiss or torch, when auto, faiss or torch is requested.

    Raises:
        ConfigError: the backend is unknown, or faiss is requested but not installed.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"unknown backend {backend!r}; known here: {', '.join(BACKENDS)}.")
    if backend == "auto":
        # On macOS the OpenMP libraries of faiss and torch crash or deadlock in one process (faiss-wheels issue 40).
        searches_here = torch.device(device).type == "cpu" and sys.platform != "darwin"
        return "faiss" if searches_here and find_faiss() else "torch"
    if backend == "faiss":
        _faiss()
    return backend


def find_faiss() -> ModuleType | None:
    """The faiss module; None if it is not installed, or if only the empty folder of a removed wheel is left."""
    try:
        with _kernels():
            import faiss
    except ImportError:
        return None
    installed = [wheel for wheel in _WHEELS if _is_installed(wheel)]
    if len(installed) > 1:
        warnings.warn(f"{' and '.join(installed)} overwrite each other. Remove all and install one.", stacklevel=2)
    return faiss if hasattr(faiss, "IndexFlatL2") else None


@contextmanager
def _kernels() -> Iterator[None]:
    """Let FAISS multiply with AVX-512: its OpenBLAS takes some new processors for old ones, at a fifth of the speed.

    It reads the variable when it is loaded. What a person has set stays.
    """
    name = "OPENBLAS_CORETYPE"
    if name in os.environ or torch.backends.cpu.get_cpu_capability() != "AVX512":
        yield
        return
    os.environ[name] = "SKYLAKEX"
    try:
        yield
    finally:
        del os.environ[name]


def _faiss() -> ModuleType:
    faiss = find_faiss()
    if faiss is None:
        raise ConfigError(f"the backend faiss was requested, but no working faiss is installed. {_INSTALL}")
    return faiss


@functools.cache
def _is_installed(wheel: str) -> bool:
    try:
        importlib.metadata.distribution(wheel)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
