"""Nearest neighbors of images among a set of reference images: exact, or approximate where that is asked for.

A float32 search (see flat.py) proposes a shortlist. `Space.paired` scores the shortlist again in float64, and these
values are returned. The rounding of float32 scores is as large as the differences between near-copies, so the shortlist
grows until the result is proved: the search stops only when the k-th exact value beats the best value that any image
outside of the shortlist can have, by the error bound of the float32 scores.

So the result is that of a float64 search of all references, with ties broken by position, whatever the backend, the
device, and the other queries.

An approximate search takes the shortlist from some lists of references only (see lists.py), and its values are exact.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.base import files, schemas, tables
from memgen.base.errors import DataError, ShapeError
from memgen.base.strings import Strings
from memgen.images.duplicates import leaders, pixel_rows
from memgen.images.gathered import Images, numbers, tensor
from memgen.images.imageset import floats
from memgen.spaces import Space, find, flat, is_squared, products
from memgen.spaces.pixels import PixelSpace

_SHORTLIST = 16  # of each query at first
_QUERY_NUMBERS = 2**23  # pixels of the queries that are searched at a time: 32 MiB of float32
_PAIRS = 2**22  # queries x shortlist at a time: 64 MiB
_RESCORED = 2**20  # pixels gathered at a time: 4 MiB of float32
_PARTS = ("pixels.npy", "ids.npy", "clusters.npy")
_VECTORS = "vectors.faiss"


@dataclass(frozen=True, eq=False)
class Hits:
    """The k nearest references of M queries, nearest first.

    Attributes:
        reference_index: positions in the index, (M, k) int64.
        value: exact values, (M, k) float64; NaN where undefined (a constant image under correlation), ranked last.
        cluster: position of the leader of the neighbor's cluster of near-duplicates, (M, k) int64.
    """

    reference_index: NDArray[np.int64]
    value: NDArray[np.float64]
    cluster: NDArray[np.int64]


class Index:
    """Reference images, searched exactly. Make one with `Index.build` or `Index.load`.

    Attributes:
        name: train_a, train_b, holdout, or a name of the user's.
        space: how images are compared.
        ids: content ids of the references, (N,).
        clusters: position of the leader of each reference's cluster of near-duplicates, (N,) int64.
        cluster_threshold: correlation from which two references are near-duplicates; None: each is its own cluster.
        backend: faiss or torch.
    """

    def __init__(
        self,
        pixels: Images,
        ids: Sequence[str],
        clusters: NDArray[np.int64],
        space: Space,
        name: str,
        cluster_threshold: float | None,
        search: flat.Search,
    ) -> None:
        self.name, self.space, self.cluster_threshold = name, space, cluster_threshold
        self.ids, self.clusters = Strings(ids), clusters
        self._pixels, self._search = pixels, search

    @classmethod
    def build(
        cls,
        images: Images | Tensor,
        ids: Sequence[str],
        space: Space,
        name: str,
        cluster_threshold: float | None = 0.99,
        backend: str = "auto",
        device: str = "cpu",
    ) -> "Index":
        """An index of reference images.

        Args:
            images: (N, C, H, W), uint8, or float32 in pixel units, in memory or not.
            ids: content ids, (N,).
            space: how images are compared, from `spaces.find`.
            name: name of the index.
            cluster_threshold: correlation from which two references are near-duplicates, whatever the space; those
                with equal ids always are. None leaves each reference a cluster of its own.
            backend: faiss, torch, or auto: faiss where it is installed and the search runs on the CPU.
            device: where the torch backend searches; faiss uses the CPU.

        Raises:
            DataError: there is no image, or a pixel is not finite.
            ShapeError: images and ids do not fit together.
            ConfigError: the backend is unknown, or faiss is requested but not installed.
        """
        pixels = images.detach().cpu().numpy() if isinstance(images, Tensor) else images
        if pixels.ndim != 4 or len(pixels) != len(ids):
            raise ShapeError(
                f"index {name}: found {len(ids)} ids for images of shape {pixels.shape}, expected N for (N, C, H, W)."
            )
        if len(pixels) == 0 or pixels.dtype not in (np.uint8, np.float32):
            raise DataError(
                f"index {name}: found {len(pixels)} images of {pixels.dtype}, expected at least 1, of uint8 or float32."
            )
        if pixels.dtype == np.float32:
            for start, block in products.blocks(pixels, numbers(pixels)):
                _check_finite(floats(np.asarray(block)), f"index {name}: image", ids[start : start + len(block)])
        search = flat.build(pixels, space, backend, device)
        clusters = np.arange(len(pixels))
        if cluster_threshold is not None:
            clusters, _ = leaders(pixel_rows(pixels), cluster_threshold, ids=Strings(ids))
        return cls(pixels, ids, clusters, space, name, cluster_threshold, search)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n(self) -> int:
        """Number of reference images."""
        return len(self.ids)

    @property
    def n_clusters(self) -> int:
        """Number of clusters of near-duplicates among them."""
        return int(np.count_nonzero(self.clusters == np.arange(self.n)))

    @property
    def backend(self) -> str:
        """The backend of the search, faiss or torch."""
        return self._search.backend

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one reference, (C, H, W)."""
        return tuple(self._pixels.shape[1:])

    def search(self, queries: Images | Tensor, k: int = 1, probes: int | None = None) -> Hits:
        """The k nearest references of each query.

        Args:
            queries: (M, C, H, W), a tensor of float32 in pixel units, or images of uint8 or float32, in memory or not.
            k: neighbors per query, 1 to N.
            probes: lists that each query looks at, of about sqrt(N) lists of references. None looks at all references,
                and proves the result.

        Returns:
            The neighbors. Their values are exact in either case. Of equally near ones, an exact search takes the first
            by position, and an approximate one takes any.

        Raises:
            DataError: k is out of range, or a query has a pixel that is not finite.
            ShapeError: the queries are not of the shape of the references.
        """
        if tuple(queries.shape[1:]) != self.image_shape:
            raise ShapeError(
                f"found queries of shape {tuple(queries.shape)}, expected (M, {', '.join(map(str, self.image_shape))}) "
                f"as in index {self.name}."
            )
        if k < 1:
            raise DataError(f"found k={k} neighbors, expected at least 1. Use --k 1 or more.")
        if k > self.n:
            raise DataError(f"found k={k} neighbors for an index of {self.n} images. Use --k {self.n} or less.")
        step = max(1, _QUERY_NUMBERS // math.prod(self.image_shape))
        blocks = [slice(start, min(start + step, len(queries))) for start in range(0, len(queries), step)]
        if queries.dtype != np.uint8:
            for rows in blocks:
                _check_finite(tensor(queries, rows), "query", range(rows.start, rows.stop))
        index = np.empty((len(queries), k), dtype=np.int64)
        value = np.empty((len(queries), k))
        for rows in blocks:
            found = tensor(queries, rows)
            index[rows], value[rows] = self._exact(found, k) if probes is None else self._probed(found, k, probes)
        return Hits(index, value, self.clusters[index])

    def nearest(self, queries: Images | Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Positions (M,) and values (M,) of the nearest reference of each query; see `search`."""
        hits = self.search(queries, 1)
        return hits.reference_index[:, 0], hits.value[:, 0]

    def between(self, one: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
        """The values between pairs of references.

        Args:
            one: positions, (M, 1).
            others: positions, (M, K).

        Returns:
            (M, K), exact; NaN where undefined.
        """
        pairs = np.stack([np.broadcast_to(one, others.shape).ravel(), others.ravel()])
        value = np.empty(pairs.shape[1])
        step = max(1, _RESCORED // int(np.prod(self.image_shape)))
        for start in range(0, len(value), step):
            first, second = (floats(self._pixels[side]) for side in pairs[:, start : start + step])
            value[start : start + step] = self.space.paired(first, second).numpy()
        return value.reshape(others.shape)

    def _probed(self, queries: Tensor, k: int, probes: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The k best of a shortlist from some lists; of a query without k scores, the exact result."""
        wanted, size = flat.Queries(queries.flatten(1), self.space.embed(queries)), min(self.n, max(_SHORTLIST, 2 * k))
        scores, shortlist, error = self._search(wanted, size, probes)
        found = shortlist >= 0
        index, value = self._rescore(queries, np.maximum(shortlist, 0), k, found & ~_falls_short(scores, k, error))
        short = np.flatnonzero(found.sum(axis=1) < k)
        if len(short):
            index[short], value[short] = self._exact(queries[short], k)
        return index, value

    def _exact(self, queries: Tensor, k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Search with a growing shortlist until every query's answer is proved."""
        index = np.empty((len(queries), k), dtype=np.int64)
        value = np.empty((len(queries), k))
        wanted = flat.Queries(queries.flatten(1), self.space.embed(queries))
        unproved, size = np.arange(len(queries)), max(_SHORTLIST, 2 * k)
        while len(unproved):
            size = min(size, self.n)
            proved = np.full(len(queries), size == self.n)
            for rows in np.array_split(unproved, -(-len(unproved) * size // _PAIRS)):
                kept: NDArray[np.bool_] | None = None
                if size < self.n:
                    scores, shortlist, error = self._search(wanted.take(rows), size)
                    usable = np.asarray((np.isfinite(scores) & (shortlist >= 0)).all(axis=1))
                    low = _falls_short(scores, k, error)
                    kept = np.logical_or(~low, ~usable[:, None])
                    outside = np.maximum(scores[:, -1], np.where(low & usable[:, None], scores, -np.inf).max(axis=1))
                    best_outside = np.where(usable, outside + error, np.inf)
                else:
                    shortlist = np.tile(np.arange(self.n), (len(rows), 1))
                    best_outside = np.full(len(rows), -np.inf)
                index[rows], value[rows] = self._rescore(queries[rows], shortlist, k, kept)
                # Strictly larger: an equal value outside the shortlist may belong to an earlier position.
                proved[rows] |= self._score(value[rows, -1], wanted.vectors.shape[1]) > best_outside
            unproved = unproved[~proved[unproved]]
            size *= 4
        return index, value

    def _rescore(
        self, queries: Tensor, shortlist: NDArray[np.int64], k: int, kept: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The k best of each shortlist (M, s) by exact value; equal values stay in the order of their positions."""
        value = np.full(shortlist.size, np.nan)
        pairs = np.arange(shortlist.size) if kept is None else np.flatnonzero(kept)
        step = max(1, _RESCORED // queries[0].numel())

        def score(start: int) -> None:
            chosen = pairs[start : start + step]
            references = floats(self._pixels[shortlist.reshape(-1)[chosen]])
            value[chosen] = self.space.paired(queries[chosen // shortlist.shape[1]], references).numpy()

        starts = range(0, len(pairs), step)
        if torch.get_num_threads() == 1 or not isinstance(self.space, PixelSpace):  # networks have their own threads
            list(map(score, starts))
        else:
            with ThreadPoolExecutor(torch.get_num_threads()) as threads:
                list(threads.map(score, starts))
        values = value.reshape(shortlist.shape)
        order = np.lexsort((shortlist, -values if self.space.larger_is_closer else values))[:, :k]  # NaN goes last
        return np.take_along_axis(shortlist, order, axis=1), np.take_along_axis(values, order, axis=1)

    def _score(self, value: NDArray[np.float64], d: int) -> NDArray[np.float64]:
        """Exact values on the scale of the search among vectors of d numbers; NaN stays NaN and proves nothing."""
        if self.space.larger_is_closer:
            return value
        return -value if is_squared(self.space) else -(value**2) * d

    def to_table(
        self,
        hits: Hits,
        query_kind: str,
        query_ids: Sequence[str],
        keys: Mapping[str, str | int | None],
        query: Sequence[int] | NDArray[np.int64] | None = None,
        query_sources: Sequence[str] | None = None,
        sources: Sequence[str] | None = None,
    ) -> pa.Table:
        """Hits as a table NEIGHBORS of M k rows.

        Args:
            hits: result of `search`.
            query_kind: sample, holdout, train or user.
            query_ids: content ids of the queries, (M,).
            keys: values of the columns subject, role, n_train, part and train_seed.
            query: indices of the queries, such as those of samples, (M,); None for 0 to M - 1.
            query_sources: where the queries come from, (M,); None for samples that were drawn.
            sources: where the images of the index come from, (N,); None if that is not known.
        """
        n_queries, k = hits.value.shape
        of_query, reference = np.repeat(np.arange(n_queries), k), hits.reference_index.ravel()
        return tables.make(
            schemas.NEIGHBORS,
            {
                **keys,
                "query_kind": query_kind,
                "query": of_query if query is None else np.asarray(query)[of_query],
                "query_id": Strings(query_ids)[of_query],
                "query_source": None if query_sources is None else Strings(query_sources)[of_query],
                "reference": self.name,
                "n_reference": self.n,
                "n_clusters": self.n_clusters,
                "metric": self.space.name,
                "rank": np.tile(np.arange(1, k + 1), n_queries),
                "reference_id": self.ids[reference],
                "reference_source": None if sources is None else Strings(sources)[reference],
                "reference_index": reference,
                "cluster": hits.cluster.ravel(),
                "value": hits.value.ravel(),
            },
        )

    def save(self, folder: Path) -> None:
        """Write the index to a folder; `index.json`, with the digests of the other files, comes last.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        arrays: tuple[Any, ...] = (self._pixels, np.array(self.ids, dtype=np.str_), self.clusters)
        for part, array in zip(_PARTS, arrays, strict=True):
            with files.writing(folder / part) as file:
                np.save(file, array, allow_pickle=False)
        parts = list(_PARTS)
        if isinstance(self._search, flat.FaissSearch):
            with files.writing(folder / _VECTORS) as file:
                file.write(self._search.serialized().data)
            parts.append(_VECTORS)
        files.write_json(
            folder / "index.json",
            {
                "name": self.name,
                "metric": self.space.name,
                "space": getattr(self.space, "record", None),
                "cluster_threshold": self.cluster_threshold,
                "images": self.n,
                "digests": {part: files.digest_file(folder / part) for part in parts},
            },
        )

    @classmethod
    def load(cls, folder: Path, backend: str = "auto", device: str = "cpu", space: Space | None = None) -> "Index":
        """Read an index that `save` wrote; its pixels stay on the disk, memory-mapped.

        The vectors of FAISS are read if they were saved, and otherwise computed from the pixels.

        Args:
            folder: where it was saved.
            backend: see `build`.
            device: see `build`.
            space: the space of the index if it was made from a file (`spaces.find("NAME=FILE")`), since its name alone
                does not tell the file; None for a space that `spaces.find` gives for the name.

        Raises:
            DataError: the folder holds no complete index, or a file of it is damaged, or the index was built in another
                space; the message names the file.
            ConfigError: the backend is unknown, or faiss is requested but not installed.
        """
        record = files.read_json(folder / "index.json")
        try:
            name, metric, threshold = record["name"], record["metric"], record["cluster_threshold"]
            space = find(metric) if space is None else space
            digests = dict(record["digests"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{folder / 'index.json'}: not the record of an index. Delete its folder to build it again."
            ) from error
        if (space.name, getattr(space, "record", None)) != (metric, record.get("space")):
            raise DataError(
                f"{folder / 'index.json'}: built in another space than {space.name}, or by another version of its "
                "packages. Delete its folder to build it again."
            )
        for part in {*digests, *_PARTS}:
            if files.digest_file(folder / part) != digests.get(part):
                raise DataError(
                    f"{folder / part}: damaged (its digest has changed). Delete its folder to build it again."
                )
        pixels = np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False)
        ids = np.load(folder / "ids.npy", allow_pickle=False).tolist()
        clusters = np.load(folder / "clusters.npy", allow_pickle=False)
        search = flat.build(pixels, space, backend, device, folder / _VECTORS if _VECTORS in digests else None)
        return cls(pixels, ids, clusters, space, name, threshold, search)


def _falls_short(scores: NDArray[np.float32], k: int, error: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which images fall short of the k-th by more than both errors, so that they need no exact value, (M, s)."""
    return np.asarray(scores < (scores[:, k - 1] - 2.5 * error)[:, None])


def _check_finite(images: Tensor, what: str, labels: Sequence[Any]) -> None:
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    if not bool(finite.all()):
        first = int((~finite).nonzero()[0])
        raise DataError(f"{what} {labels[first]} has a pixel that is NaN or infinite. Leave it out, or make it again.")
