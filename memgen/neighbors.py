"""Exact nearest neighbors of images among a set of reference images.

A float32 search (FAISS's flat index, or blocks of a matrix product in PyTorch) proposes a shortlist; the shortlist is
scored again by `similarity.paired` in float64, and that value is the one shown. Float32 scores are noise at the level
where near-copies differ (||a||^2 + ||b||^2 - 2 a.b does not even see an exact copy at distance 0, and depends on how
many queries are searched at once), so the shortlist grows until the answer is proved: with u = 2^-24, a dot product of
d float32 numbers, summed in any order, errs by at most about d u ||a|| ||b|| (Higham 2002, section 3.1), and the search
stops only when the k-th exact value beats the best value that any image outside the shortlist can have.

So the answer is that of a float64 search of everything, ties broken by position, whatever the backend, the device, and
the company a query is searched in.
"""

import functools
import importlib.metadata
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen import files, tables
from memgen.duplicates import leaders
from memgen.errors import ConfigError, DataError, ShapeError
from memgen.similarity import embed, larger_is_closer, paired

BACKENDS = ("auto", "faiss", "torch")

_INSTALL = "Install it with: pip install 'memgen[cpu]'; or use the backend torch."
_WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs")
_SHORTLIST = 16  # of each query at first
_QUERIES = 1024  # searched at a time
_PAIRS = 2**22  # queries x shortlist at a time: 64 MiB
_REFERENCES = 8192  # per block of the torch search
_RESCORED = 2**20  # pixels gathered at a time: 4 MiB of float32
_PARTS = ("pixels.npy", "ids.npy", "clusters.npy")
_VECTORS = "vectors.faiss"


@dataclass(frozen=True, eq=False)
class Hits:
    """The k nearest references of M queries, nearest first.

    Attributes:
        reference_index: positions in the index, (M, k) int64.
        value: the metric, exact, (M, k) float64; NaN where undefined (a constant image under correlation), ranked last.
        cluster: position of the leader of the neighbor's cluster of near-duplicates, (M, k) int64.
    """

    reference_index: NDArray[np.int64]
    value: NDArray[np.float64]
    cluster: NDArray[np.int64]


class _Search(Protocol):
    """A float32 search among vectors, of which the longest has norm `longest`."""

    backend: str
    longest: float

    def __call__(self, queries: Tensor, size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores of the best `size` vectors for each query (M, size), falling, larger = closer, and their positions.

        A position of -1 stands where there is no score that is a number.
        """
        ...


class Index:
    """Reference images, searched exactly. Make one with `Index.build` or `Index.load`.

    Attributes:
        name: train_a, train_b, holdout, or a user's.
        metric: correlation, cosine or rmse.
        ids: content ids of the references, (N,).
        clusters: position of the leader of each reference's cluster of near-duplicates, (N,) int64.
        cluster_threshold: correlation from which two references are near-duplicates.
        backend: faiss or torch.
    """

    def __init__(
        self,
        pixels: NDArray[Any],
        ids: Sequence[str],
        clusters: NDArray[np.int64],
        metric: str,
        name: str,
        cluster_threshold: float,
        search: _Search,
    ) -> None:
        self.name, self.metric, self.cluster_threshold = name, metric, cluster_threshold
        self.ids, self.clusters = tuple(ids), clusters
        self._pixels, self._search = pixels, search

    @classmethod
    def build(
        cls,
        images: NDArray[Any] | Tensor,
        ids: Sequence[str],
        metric: str,
        name: str,
        cluster_threshold: float = 0.99,
        backend: str = "auto",
        device: str = "cpu",
    ) -> "Index":
        """An index of reference images.

        Args:
            images: (N, C, H, W), uint8, or float32 in pixel units.
            ids: content ids, (N,).
            metric: correlation, cosine or rmse.
            name: of the index.
            cluster_threshold: correlation from which two references are near-duplicates, whatever the metric.
            backend: faiss, torch, or auto: faiss where it is installed and the search runs on the CPU.
            device: where the torch backend searches; faiss uses the CPU.

        Raises:
            DataError: there is no image, or a pixel is not finite.
            ShapeError: images and ids do not fit together.
            ConfigError: the metric or the backend is unknown, or faiss is asked for and not installed.
        """
        pixels = images.detach().cpu().numpy() if isinstance(images, Tensor) else images
        if pixels.ndim != 4 or len(pixels) != len(ids):
            raise ShapeError(f"index {name}: {len(ids)} ids and images of shape {pixels.shape}, expected (N, C, H, W).")
        if len(pixels) == 0 or pixels.dtype not in (np.uint8, np.float32):
            raise DataError(
                f"index {name}: {len(pixels)} images of {pixels.dtype}, expected at least 1, uint8 or float32."
            )
        floats = _floats(pixels)
        _check_finite(floats, f"index {name}: image", ids)
        search = _search(embed(floats, metric), metric, _choose(backend, device), device)
        clusters, _ = leaders(floats.flatten(1), cluster_threshold)
        return cls(pixels, ids, clusters, metric, name, cluster_threshold, search)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n(self) -> int:
        """Number of reference images."""
        return len(self.ids)

    @property
    def backend(self) -> str:
        """The backend of the search, faiss or torch."""
        return self._search.backend

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one reference, (C, H, W)."""
        return tuple(self._pixels.shape[1:])

    def search(self, queries: Tensor, k: int = 1) -> Hits:
        """The k nearest references of each query.

        Args:
            queries: (M, C, H, W), float32, pixel units.
            k: neighbors per query, 1 to N.

        Raises:
            DataError: k is out of range, or a query has a pixel that is not finite.
            ShapeError: the queries are not of the shape of the references.
        """
        if tuple(queries.shape[1:]) != self.image_shape:
            raise ShapeError(
                f"queries of shape {tuple(queries.shape)}, expected (M, {', '.join(map(str, self.image_shape))}) "
                f"as in index {self.name}."
            )
        if k < 1:
            raise DataError(f"k={k} neighbors asked. Use --k 1 or more.")
        if k > self.n:
            raise DataError(f"k={k} neighbors asked from an index of {self.n} images. Use --k {self.n} or less.")
        _check_finite(queries, "query", range(len(queries)))
        index = np.empty((len(queries), k), dtype=np.int64)
        value = np.empty((len(queries), k))
        for start in range(0, len(queries), _QUERIES):
            rows = slice(start, start + _QUERIES)
            index[rows], value[rows] = self._exact(queries[rows].float().cpu(), k)
        return Hits(index, value, self.clusters[index])

    def nearest(self, queries: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Positions (M,) and values (M,) of the nearest reference of each query; see `search`."""
        hits = self.search(queries, 1)
        return hits.reference_index[:, 0], hits.value[:, 0]

    def _exact(self, queries: Tensor, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Search with a growing shortlist until every query's answer is proved."""
        index = np.empty((len(queries), k), dtype=np.int64)
        value = np.empty((len(queries), k))
        vectors = embed(queries, self.metric)
        error = _error(vectors, self._search.longest, self.metric)
        unproved, size = np.arange(len(queries)), max(_SHORTLIST, 2 * k)
        while len(unproved):
            size = min(size, self.n)
            proved = np.full(len(queries), size == self.n)
            for rows in np.array_split(unproved, -(-len(unproved) * size // _PAIRS)):
                if size < self.n:
                    scores, shortlist = self._search(vectors[rows], size)
                    usable = (np.isfinite(scores) & (shortlist >= 0)).all(axis=1)
                    best_outside = np.where(usable, scores[:, -1] + error[rows], np.inf)
                else:
                    shortlist = np.tile(np.arange(self.n), (len(rows), 1))
                    best_outside = np.full(len(rows), -np.inf)
                index[rows], value[rows] = self._rescore(queries[rows], shortlist, k)
                # Strictly larger: an equal value outside the shortlist may belong to an earlier position.
                proved[rows] |= self._score(value[rows, -1]) > best_outside
            unproved = unproved[~proved[unproved]]
            size *= 4
        return index, value

    def _rescore(
        self, queries: Tensor, shortlist: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The k best of each shortlist (M, s) by the exact value; equal values in the order of their positions."""
        value = np.empty(shortlist.shape)
        pairs = shortlist.reshape(-1)
        step = max(1, _RESCORED // queries[0].numel())
        for start in range(0, len(pairs), step):
            chosen = pairs[start : start + step]
            query = np.arange(start, start + len(chosen)) // shortlist.shape[1]
            references = _floats(self._pixels[chosen])
            value.reshape(-1)[start : start + step] = paired(queries[query], references, self.metric).numpy()
        order = np.lexsort((shortlist, -value if larger_is_closer(self.metric) else value))[:, :k]  # NaN goes last
        return np.take_along_axis(shortlist, order, axis=1), np.take_along_axis(value, order, axis=1)

    def _score(self, value: NDArray[np.float64]) -> NDArray[np.float64]:
        """Exact values on the scale of the search, larger = closer; NaN stays NaN and proves nothing."""
        if larger_is_closer(self.metric):
            return value
        return -(value**2) * np.prod(self.image_shape)

    def to_table(
        self,
        hits: Hits,
        query_kind: str,
        query_ids: Sequence[str],
        keys: Mapping[str, str | int | None],
        query: Sequence[int] | None = None,
    ) -> pa.Table:
        """Hits as a NEIGHBORS table of M k rows.

        Args:
            hits: result of `search`.
            query_kind: sample, holdout, train or user.
            query_ids: content ids of the queries, (M,).
            keys: values of the columns denoiser, n_train, part and train_seed.
            query: indices of the queries (of the samples, say), (M,); 0 to M - 1 when None.
        """
        n_queries, k = hits.value.shape
        return tables.make(
            tables.NEIGHBORS,
            {
                **keys,
                "query_kind": query_kind,
                "query": np.repeat(np.arange(n_queries) if query is None else np.asarray(query), k),
                "query_id": np.repeat(np.array(query_ids, dtype=object), k),
                "reference": self.name,
                "n_reference": self.n,
                "metric": self.metric,
                "rank": np.tile(np.arange(1, k + 1), n_queries),
                "reference_id": np.array(self.ids, dtype=object)[hits.reference_index.ravel()],
                "reference_index": hits.reference_index.ravel(),
                "cluster": hits.cluster.ravel(),
                "value": hits.value.ravel(),
            },
        )

    def save(self, folder: Path) -> None:
        """Write the index to a folder; `index.json`, with the digests of the other files, comes last.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        arrays = (self._pixels, np.array(self.ids, dtype=np.str_), self.clusters)
        for part, array in zip(_PARTS, arrays, strict=True):
            with files.writing(folder / part) as file:
                np.save(file, array, allow_pickle=False)
        parts = list(_PARTS)
        if isinstance(self._search, _FaissSearch):
            with files.writing(folder / _VECTORS) as file:
                file.write(self._search.serialized().data)
            parts.append(_VECTORS)
        files.write_json(
            folder / "index.json",
            {
                "name": self.name,
                "metric": self.metric,
                "cluster_threshold": self.cluster_threshold,
                "images": self.n,
                "digests": {part: files.digest_file(folder / part) for part in parts},
            },
        )

    @classmethod
    def load(cls, folder: Path, backend: str = "auto", device: str = "cpu") -> "Index":
        """Read an index that `save` wrote; its pixels stay on the disk, memory-mapped.

        The vectors of FAISS are read where they were kept and made from the pixels otherwise.

        Raises:
            DataError: the folder holds no complete index, or a file of it is damaged; the message names the file.
            ConfigError: the backend is unknown, or faiss is asked for and not installed.
        """
        record = files.read_json(folder / "index.json")
        try:
            name, metric, threshold = record["name"], record["metric"], record["cluster_threshold"]
            digests = dict(record["digests"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{folder / 'index.json'}: not the record of an index. Build the index again.") from error
        for part in {*digests, *_PARTS}:
            if files.digest_file(folder / part) != digests.get(part):
                raise DataError(f"{folder / part}: damaged, its digest is not the recorded one. Build the index again.")
        pixels = np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False)
        ids = np.load(folder / "ids.npy", allow_pickle=False).tolist()
        clusters = np.load(folder / "clusters.npy", allow_pickle=False)
        chosen = _choose(backend, device)
        if chosen == "faiss" and _VECTORS in digests:
            search: _Search = _FaissSearch(_faiss().read_index(str(folder / _VECTORS)), metric)
        else:
            search = _search(embed(_floats(pixels), metric), metric, chosen, device)
        return cls(pixels, ids, clusters, metric, name, threshold, search)


class _FaissSearch:
    """FAISS's flat index: inner products, or squared distances."""

    backend = "faiss"

    def __init__(self, index: Any, metric: str) -> None:
        self._index, self._metric = index, metric
        vectors = _faiss().rev_swig_ptr(index.get_xb(), index.ntotal * index.d)  # a view
        self.longest = _longest(torch.from_numpy(vectors.reshape(index.ntotal, index.d)))

    def serialized(self) -> NDArray[np.uint8]:
        # faiss.write_index would report a full disk as a RuntimeError without its cause.
        return np.asarray(_faiss().serialize_index(self._index))

    def __call__(self, queries: Tensor, size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        scores, positions = self._index.search(queries.numpy(), size)
        return (scores if larger_is_closer(self._metric) else -scores), positions


class _TorchSearch:
    """Blocks of a matrix product, of which the best rows are kept."""

    backend = "torch"

    def __init__(self, vectors: Tensor, metric: str, device: str) -> None:
        self._vectors, self._metric, self._device = vectors, metric, device
        self.longest = _longest(vectors)

    def __call__(self, queries: Tensor, size: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        queries = queries.to(self._device)
        best = torch.empty((len(queries), 0), device=self._device)
        positions = torch.empty((len(queries), 0), dtype=torch.int64, device=self._device)
        with torch.inference_mode(), _full_precision():
            for start in range(0, len(self._vectors), _REFERENCES):
                block = self._vectors[start : start + _REFERENCES].to(self._device)
                scores = queries @ block.T
                if not larger_is_closer(self._metric):
                    scores = 2 * scores - block.square().sum(1) - queries.square().sum(1, keepdim=True)
                block_best, column = scores.topk(min(size, len(block)), dim=1)
                merged = torch.cat([best, block_best], dim=1)
                best, keep = merged.topk(min(size, merged.shape[1]), dim=1)
                positions = torch.cat([positions, column + start], dim=1).gather(1, keep)
        return best.cpu().numpy(), positions.cpu().numpy()


def _search(vectors: Tensor, metric: str, backend: str, device: str) -> _Search:
    if backend == "torch":
        return _TorchSearch(vectors, metric, device)
    index = (_faiss().IndexFlatIP if larger_is_closer(metric) else _faiss().IndexFlatL2)(vectors.shape[1])
    index.add(vectors.numpy())
    return _FaissSearch(index, metric)


def _error(queries: Tensor, longest: float, metric: str) -> NDArray[np.float64]:
    """How far, at most, a float32 score of each query (M,) is from the exact one.

    With u = 2^-24 and d numbers, |fl(a.b) - a.b| <= d u |a| |b| / (1 - d u) in any order of summation; the squared
    distance, formed directly or as |a|^2 + |b|^2 - 2 a.b, errs by at most (d + 3) u (|a| + |b|)^2 / (1 - d u). Rounding
    the vectors themselves to float32 adds less than 2 u per product; 16 in place of 3 covers it and the float64 side.
    """
    d = queries.shape[1]
    length = queries.double().norm(dim=1).numpy()
    scale = length * longest if larger_is_closer(metric) else (length + longest) ** 2
    unit = (d + 16) * 2.0**-24
    return np.asarray(scale * (unit / (1 - unit) if unit < 1 else np.inf))


def _longest(vectors: Tensor) -> float:
    starts = range(0, len(vectors), _REFERENCES)
    return max(float(vectors[start : start + _REFERENCES].double().norm(dim=1).max()) for start in starts)


def _floats(pixels: NDArray[Any]) -> Tensor:
    """Pixels as float32 in pixel units; uint8 is divided by 255."""
    if pixels.dtype == np.uint8:
        return torch.from_numpy(np.divide(pixels, 255, dtype=np.float32))
    return torch.from_numpy(np.array(pixels))  # a copy, since PyTorch warns of read-only memory


def _check_finite(images: Tensor, what: str, labels: Sequence[Any]) -> None:
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    if not bool(finite.all()):
        first = int((~finite).nonzero()[0])
        raise DataError(f"{what} {labels[first]} has a pixel that is NaN or infinite. Leave it out, or make it again.")


def _choose(backend: str, device: str) -> str:
    if backend not in BACKENDS:
        raise ConfigError(f"unknown backend {backend!r}; known here: {', '.join(BACKENDS)}.")
    if backend == "auto":
        # On macOS the OpenMP libraries of faiss and torch crash or deadlock in one process (faiss-wheels issue 40).
        searches_here = torch.device(device).type == "cpu" and sys.platform != "darwin"
        return "faiss" if searches_here and _find_faiss() else "torch"
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


def _find_faiss() -> ModuleType | None:
    """The faiss module; None where it is not installed, or is the empty folder left by removing one of two wheels."""
    try:
        import faiss
    except ImportError:
        return None
    installed = [wheel for wheel in _WHEELS if _is_installed(wheel)]
    if len(installed) > 1:
        warnings.warn(f"{' and '.join(installed)} overwrite each other. Remove all and install one.", stacklevel=2)
    return faiss if hasattr(faiss, "IndexFlatL2") else None


def _faiss() -> ModuleType:
    faiss = _find_faiss()
    if faiss is None:
        raise ConfigError(f"the backend faiss was asked for, but no working faiss is installed. {_INSTALL}")
    return faiss


@functools.cache
def _is_installed(wheel: str) -> bool:
    try:
        importlib.metadata.distribution(wheel)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
