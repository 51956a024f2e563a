"""Fast search in float32 for the vectors closest to a query, with a bound on the error of its scores.

Two backends give the same result up to rounding: FAISS's flat index, and blocks of a matrix product in PyTorch. Scores
are inner products of the vectors that `Space.embed` makes, or squared distances with the sign reversed if smaller
values are closer. Rounding depends on the backend and on how many queries are searched at once, and
||a||^2 + ||b||^2 - 2 a.b is not even 0 for an exact copy. But with u = 2^-24, a dot product of d float32 numbers,
summed in any order, errs by at most about d u ||a|| ||b||, so a caller can tell which neighbors are proved.

Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1.
"""

import functools
import importlib.metadata
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.base.errors import ConfigError
from memgen.spaces import Space

BACKENDS = ("auto", "faiss", "torch")

_INSTALL = "Install it with: pip install 'memgen[cpu]'; or use the backend torch."
_WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs")
_REFERENCES = 8192  # per block of the torch search


class Search(Protocol):
    """A float32 search among vectors; `longest` is the largest of their norms."""

    backend: str
    longest: float

    def __call__(self, queries: Tensor, size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores (M, size) of the best vectors for each query, descending, larger = closer, and their positions.

        The position is -1 where no score is a number.
        """
        ...


class FaissSearch:
    """FAISS's flat index: inner products, or squared distances."""

    backend = "faiss"

    def __init__(self, index: Any, larger_is_closer: bool) -> None:
        self._index, self._larger_is_closer = index, larger_is_closer
        vectors = _faiss().rev_swig_ptr(index.get_xb(), index.ntotal * index.d)  # a view
        self.longest = _longest(torch.from_numpy(vectors.reshape(index.ntotal, index.d)))

    @classmethod
    def read(cls, path: Path, larger_is_closer: bool) -> "FaissSearch":
        """The search that `serialized` wrote to a file."""
        return cls(_faiss().read_index(str(path)), larger_is_closer)

    def serialized(self) -> NDArray[np.uint8]:
        """The bytes of the index, (bytes,) uint8."""
        # faiss.write_index would report a full disk as a RuntimeError without its cause.
        return np.asarray(_faiss().serialize_index(self._index))

    def __call__(self, queries: Tensor, size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The best vectors for each query; see `Search`."""
        scores, positions = self._index.search(queries.numpy(), size)
        return (scores if self._larger_is_closer else -scores), positions


class TorchSearch:
    """Blocks of a matrix product, from which the best scores are kept."""

    backend = "torch"

    def __init__(self, vectors: Tensor, larger_is_closer: bool, device: str) -> None:
        self._vectors, self._larger_is_closer, self._device = vectors, larger_is_closer, device
        self.longest = _longest(vectors)

    def __call__(self, queries: Tensor, size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The best vectors for each query; see `Search`."""
        queries = queries.to(self._device)
        best = torch.empty((len(queries), 0), device=self._device)
        positions = torch.empty((len(queries), 0), dtype=torch.int64, device=self._device)
        with torch.inference_mode(), _full_precision():
            for start in range(0, len(self._vectors), _REFERENCES):
                block = self._vectors[start : start + _REFERENCES].to(self._device)
                scores = queries @ block.T
                if not self._larger_is_closer:
                    scores = 2 * scores - block.square().sum(1) - queries.square().sum(1, keepdim=True)
                block_best, column = scores.topk(min(size, len(block)), dim=1)
                merged = torch.cat([best, block_best], dim=1)
                best, keep = merged.topk(min(size, merged.shape[1]), dim=1)
                positions = torch.cat([positions, column + start], dim=1).gather(1, keep)
        return best.cpu().numpy(), positions.cpu().numpy()


def build(vectors: Tensor, space: Space, backend: str, device: str = "cpu") -> Search:
    """A search among vectors.

    Args:
        vectors: (N, d) float32 on the CPU, made by `Space.embed`.
        space: that of the vectors.
        backend: faiss or torch; see `choose`.
        device: where torch searches; faiss always uses the CPU.

    Raises:
        ConfigError: faiss is requested but not installed.
    """
    if backend == "torch":
        return TorchSearch(vectors, space.larger_is_closer, device)
    index = (_faiss().IndexFlatIP if space.larger_is_closer else _faiss().IndexFlatL2)(vectors.shape[1])
    index.add(vectors.numpy())
    return FaissSearch(index, space.larger_is_closer)


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


def _longest(vectors: Tensor) -> float:
    starts = range(0, len(vectors), _REFERENCES)
    return max(float(vectors[start : start + _REFERENCES].double().norm(dim=1).max()) for start in starts)


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


@contextmanager
def _full_precision() -> Iterator[None]:
    """Matrix products in true float32, which the error bound assumes, even where TF32 or bfloat16 were allowed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def find_faiss() -> ModuleType | None:
    """The faiss module; None if it is not installed, or if only the empty folder of a removed wheel is left."""
    try:
        import faiss
    except ImportError:
        return None
    installed = [wheel for wheel in _WHEELS if _is_installed(wheel)]
    if len(installed) > 1:
        warnings.warn(f"{' and '.join(installed)} overwrite each other. Remove all and install one.", stacklevel=2)
    return faiss if hasattr(faiss, "IndexFlatL2") else None


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
