"""Ways to find the image that a sample may be a copy of: matchers.

A matcher knows the images of a pool, and not which of them are in T. For each sample it finds the nearest image, and a
depth that says how much nearer it is than the other images. Any matcher may be used in the competition, since neither
depends on labels (see `competition`).

    pixels     correlation of the pixels
    blurred    correlation of blurred and reduced images, or of the negative of the sample
    aligned    the sample is mirrored, moved, turned, zoomed or inverted so as to fit each image best (see `alignment`)
    halves     correlation of the left, right, upper or lower half alone: images put together from several, or occluded
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from memgen import spaces
from memgen.base import files
from memgen.base.strings import Strings
from memgen.images.gathered import Images, Viewed
from memgen.measures.copies import competition
from memgen.measures.copies.alignment import AlignedPool, Fit
from memgen.measures.copies.lead import Floats, Ints
from memgen.measures.copies.reduced import reduced
from memgen.spaces import Space
from memgen.spaces.index import Index
from memgen.spaces.learned import Vectors

PIXELS = ("pixels",)
EVERY = ("pixels", "blurred", "aligned", "halves")  # the spaces of an audit, unless told otherwise
EXHAUSTIVE = ("aligned",)  # spaces in which all images are searched, even where lists are asked for
_NEIGHBORS = 10  # from which the depth is computed
_MOST_LEFT_OUT = 512  # images of one unit that are left out of a search, at most

View = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Matches:
    """What a matcher found for M samples.

    Attributes:
        candidates: numbers of the images of the pool that may be the nearest, the nearest first, (M, K).
        closeness: similarity of each, in the units of the matcher, (M, K).
        depth: how much nearer the nearest is than the images of other units, (M,), at least 0.
        part: which part of the sample is compared: whole, left, right, upper or lower, (M,).
        fit: how each sample was changed so as to fit its nearest image, (M, 6); see `alignment.Fit`.
    """

    candidates: Ints
    closeness: Floats
    depth: Floats
    part: NDArray[np.str_]
    fit: Floats

    def take(self, rows: Ints | slice) -> "Matches":
        """What was found for some of the samples."""
        return Matches(**{name: value[rows] for name, value in vars(self).items()})

    def room(self, count: int) -> "Matches":
        """Matches of this kind for a number of samples, to be filled; see `files.room`."""
        return Matches(**{name: files.room((count, *of.shape[1:]), of.dtype) for name, of in vars(self).items()})

    def fill(self, start: int, part: "Matches") -> None:
        """Put in what was found for some samples, of which the first has the number `start`."""
        for name, value in vars(part).items():
            getattr(self, name)[start : start + len(value)] = value


@dataclass(frozen=True, eq=False)
class LeftOut:
    """What is not there for each of M queries, which are images of the pool themselves.

    Attributes:
        unit: number of the unit whose images are left out, (M,); -1 for none.
        but: number of one image that stays all the same, (M,); -1 for none.
    """

    unit: Ints
    but: Ints


class Matcher(Protocol):
    """Finds the images of a pool that samples may be copies of."""

    def match(self, samples: Tensor, left_out: LeftOut | None = None, exact: bool = False) -> Matches:
        """The nearest images of the pool to each sample.

        Args:
            samples: (M, C, H, W), float32, pixel units.
            left_out: what is not there for each of them; None leaves nothing out.
            exact: whether all images are searched, even if the matcher was made to search some lists only.
        """
        ...


@dataclass(frozen=True, eq=False)
class Candidates:
    """The images of a pool.

    Attributes:
        pixels: (n, C, H, W), uint8 or float32.
        ids: their content ids, (n,).
        unit: number of the unit that each belongs to, (n,): the image itself, or its group.
    """

    pixels: Images
    ids: Strings
    unit: Ints


class SpaceMatcher:
    """Searches a space, among the images as they are or among views of them.

    Depth is that of `competition.depth` in a space of unit vectors. In any other space it is
    min over k of (d_k^2 - d_1^2) / d(x_1, x_k)^2, with the distances d of the space: how deep the sample lies in the
    Voronoi cell of its nearest image x_1.

    Args:
        pool: the images.
        space: how they are compared.
        view: what is compared of each image (B, C, H, W), of uint8 or float32; None for the whole.
        part: name of that part.
        negative: whether the negative of a sample is tried too, and the closer of both kept.
        backend: faiss, torch or auto.
        device: where the torch backend searches.
        probes: lists of images that are searched for each sample, see `Index.search`; None searches all images.
    """

    def __init__(
        self,
        pool: Candidates,
        space: Space,
        view: View | None = None,
        part: str = "whole",
        negative: bool = False,
        backend: str = "auto",
        device: str = "cpu",
        probes: int | None = None,
    ) -> None:
        self._probes = probes
        self._space, self._view, self._part, self._negative = space, view, part, negative
        self._unit, self._sizes = pool.unit, np.bincount(pool.unit)
        pixels = pool.pixels if view is None else Viewed(pool.pixels, view)
        self._index = Index.build(pixels, pool.ids, space, "pool", None, backend, device)

    def match(self, samples: Tensor, left_out: LeftOut | None = None, exact: bool = False) -> Matches:
        """The nearest images to each sample; see `Matcher`."""
        probes = None if exact else self._probes
        found = self._match(samples, left_out, probes)
        if self._negative:
            other = self._match(1 - samples, left_out, probes)
            other.fit[:, Fit.NEGATIVE] = 1
            better = self._closer(other.closeness[:, 0], found.closeness[:, 0])
            for name in ("candidates", "closeness", "depth", "fit"):
                getattr(found, name)[better] = getattr(other, name)[better]
        return found

    def _match(self, samples: Tensor, left_out: LeftOut | None, probes: int | None) -> Matches:
        queries = samples if self._view is None else self._view(samples)
        near, value = self._neighbors(queries, left_out, probes)
        distance = self._distances(value)
        order = np.argsort(distance, axis=1, kind="stable")  # an undefined correlation is ranked last by the search
        near = np.take_along_axis(near, order, axis=1)
        value, distance = (np.take_along_axis(each, order, axis=1) for each in (value, distance))
        return Matches(near, value, self._depth(near, distance), np.full(len(near), self._part), Fit.none(len(near)))

    def _neighbors(self, queries: Tensor, left_out: LeftOut | None, probes: int | None) -> tuple[Ints, Floats]:
        """The nearest images and their values, (M, K) each, without those that are left out."""
        if left_out is None:
            hits = self._index.search(queries, min(_NEIGHBORS, self._index.n), probes)
            return hits.reference_index, hits.value
        # With every row, as many images are found as its unit may take, and as many stay.
        gone = np.where(left_out.unit >= 0, self._sizes[left_out.unit] - (left_out.but >= 0), 0)
        most = int(min(gone.max(initial=0), _MOST_LEFT_OUT))
        hits = self._index.search(queries, min(_NEIGHBORS + most, self._index.n), probes)
        near, value = hits.reference_index, hits.value
        out = (self._unit[near] == left_out.unit[:, None]) & (near != left_out.but[:, None])
        order = np.argsort(out, axis=1, kind="stable")[:, : max(1, near.shape[1] - most)]
        return np.take_along_axis(near, order, axis=1), np.take_along_axis(value, order, axis=1)

    def _distances(self, value: Floats) -> Floats:
        if not self._space.larger_is_closer:
            return np.nan_to_num(value, nan=np.inf)
        # A constant image is the zero vector of the correlation, at distance 1 from every other.
        return np.sqrt(np.maximum(0, 2 - 2 * np.nan_to_num(value, nan=0.5)))

    def _depth(self, near: Ints, distance: Floats) -> Floats:
        if near.shape[1] < 2:
            return np.full(len(near), np.inf)  # a single cell is all of space
        apart = self._distances(self._index.between(near[:, :1], near[:, 1:]))
        others = self._unit[near[:, 1:]] != self._unit[near[:, :1]]
        others[~others.any(axis=1), -1] = True  # the other units are at least as far away
        if self._space.larger_is_closer:
            return competition.depth(distance, apart, others)
        gain, whole = distance[:, 1:] ** 2 - distance[:, :1] ** 2, apart**2
        relative = np.divide(gain, whole, out=np.zeros(gain.shape), where=whole > 0)
        return np.asarray(np.where(others, relative, np.inf).min(axis=1))

    def _closer(self, value: Floats, than: Floats) -> NDArray[np.bool_]:
        return np.asarray(value > than if self._space.larger_is_closer else value < than)


class AlignedMatcher:
    """Fits each sample to each image as well as possible; see `alignment`. It always looks at all images."""

    def __init__(self, pool: Candidates) -> None:
        self._pool = AlignedPool(pool.pixels, pool.unit)

    def match(self, samples: Tensor, left_out: LeftOut | None = None, exact: bool = False) -> Matches:
        """The nearest images to each sample; see `Matcher`."""
        unit, but = (None, None) if left_out is None else (left_out.unit, left_out.but)
        candidates, closeness, depth, fit = self._pool.search(samples, unit, but)
        return Matches(candidates, closeness, depth, np.full(len(samples), "whole"), fit)


def build(
    name: str, pool: Candidates, backend: str = "auto", device: str = "cpu", probes: int | None = None
) -> list[Matcher]:
    """The matchers of a space: one of EVERY, or any that `spaces.find` knows; for the others, see `SpaceMatcher`.

    Raises:
        ConfigError: there is no space of that name.
    """
    if name == "aligned":
        return [AlignedMatcher(pool)]
    make = functools.partial(SpaceMatcher, pool, backend=backend, device=device, probes=probes)
    correlation = spaces.find("correlation")
    if name == "pixels":
        return [make(correlation)]
    if name == "blurred":
        return [make(correlation, reduced, negative=True)]
    if name == "halves":
        return [make(correlation, half, part) for part, half in _HALVES.items()]
    return [make(spaces.find(name))]


def learned(name: str) -> Vectors | None:
    """The vectors of a space by its name, if a network computes them.

    Raises:
        ConfigError: there is no space of that name.
        DataError: the file of the space cannot be used.
    """
    return None if name in EVERY else getattr(spaces.find(name), "learned", None)


def matchers_of(name: str) -> int:
    """How many matchers a space has."""
    return len(_HALVES) if name == "halves" else 1


def records(names: Sequence[str]) -> dict[str, Any]:
    """For each space by its name, JSON values that identify what it is made of; None where the name says all.

    Raises:
        ConfigError: there is no space of a name.
        DataError: the file of a space cannot be used.
    """
    known = {name: None if name in EVERY else spaces.find(name) for name in names}
    return {called(name): getattr(space, "record", None) for name, space in known.items()}


def called(name: str) -> str:
    """The name of the space of `NAME=FILE`."""
    return name.partition("=")[0]


_HALVES: Mapping[str, View] = {
    "left": lambda images: images[..., : (images.shape[-1] + 1) // 2].contiguous(),
    "right": lambda images: images[..., images.shape[-1] // 2 :].contiguous(),
    "upper": lambda images: images[..., : (images.shape[-2] + 1) // 2, :].contiguous(),
    "lower": lambda images: images[..., images.shape[-2] // 2 :, :].contiguous(),
}
