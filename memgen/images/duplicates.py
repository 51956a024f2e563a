"""Near-duplicates: images whose area averages correlate above a threshold with an image that was kept before them.

    x_i = the image averaged over areas to at most 20 x 20, minus its mean
    r(i, j) = <x_i, x_j> / (|x_i| |x_j|)
    image i is removed if r(i, j) > threshold for some kept image j before it, in the order of the set

The official code of Kadkhodaie et al. 2024 (quality_metrics_func.py, remove_repeats) differs in three ways that lose
images or need much memory. It compares |r|, so a negative of an image counts as its copy. It compares with removed
images too, so in a chain A ~ B ~ C both B and C are removed although A and C differ. And it forms the whole N x N
matrix. Here the matrix exists one block at a time.

Most pairs are settled by a bound. With P an orthogonal projection to few dimensions and u, v of unit length,

    <u, v> <= <Pu, Pv> + |u - Pu| |v - Pv|

which is the product of two short vectors (`Sketch`). Only pairs whose bound exceeds the threshold are looked at. Where
these are many, as among images without structure, whole products are taken instead. Float32 decides only where it is
far from the threshold. Near it, and for every correlation that is returned, float64 decides. So the result is that of
the definition, and depends neither on the projection, nor on the block size, nor on the number of threads.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from memgen.base import files, schemas, tables
from memgen.base.errors import DataError
from memgen.base.progress import Progress
from memgen.base.strings import Strings
from memgen.images.gathered import Images, numbers
from memgen.images.imageset import ImageSet, floats

# Far above the rounding of a float32 product of unit vectors, and small enough that few pairs need float64.
_SLACK = 1e-4
_POOL_BLOCK = 1024
_BLOCK = 2048  # rows compared at a time, at most
_PAIR_VALUES = 1 << 22
_SKETCHED = 32  # dimensions of the projection
_SAMPLED = 512  # rows that choose it
# Share of pairs above the bound from which whole products cost less than looking at each pair.
_MANY = 1 / 512


def area_average(images: ImageSet, size: int = 20) -> NDArray[np.float32]:
    """The images averaged over areas, each down to at most size x size and never enlarged.

    A pixel that lies in two areas counts in each by the share of it that lies there, so all pixels have the same
    weight. (Where the sides are multiples of `size` this is average pooling.)

    Args:
        images: N images of C channels.
        size: largest height and width of the result, in pixels.
    Returns:
        (N, C * min(H, size) * min(W, size)) float32 in [0, 1].
    """
    channels, height, width = images.image_shape
    white = 255 if images.pixels.dtype == np.uint8 else 1
    # Whole numbers times whole numbers: for uint8 pixels the sums are exact, in whatever order they are taken. Float32
    # holds them if they are small enough, and gives the same quotients.
    small = images.pixels.dtype == np.uint8 and height * width * white < 2**24
    dtype = np.dtype(np.float32 if small else np.float64)
    rows, columns = (_overlap(side, min(side, size)).astype(dtype) for side in (height, width))
    averages = np.empty((len(images), channels, len(rows), len(columns)), dtype=np.float32)
    for start in range(0, len(images), _POOL_BLOCK):
        block = images.pixels[start : start + _POOL_BLOCK].astype(dtype)
        summed = rows @ (block.reshape(-1, width) @ columns.T).reshape(-1, height, len(columns))
        averages[start : start + _POOL_BLOCK] = summed.reshape(-1, *averages.shape[1:]) / dtype.type(
            height * width * white
        )
    return averages.reshape(len(images), -1)


class AreaAverages:
    """The rows of `area_average`, computed when they are asked for, so that they need no memory.

    Args:
        images: N images.
    """

    def __init__(self, images: ImageSet) -> None:
        self._images = images
        self.shape = len(images), area_average(images.take(slice(1))).shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """The rows at some positions, (n, D)."""
        return (
            area_average(self._images.take(positions)) if len(positions) else np.empty((0, self.shape[1]), np.float32)
        )


class Pixels:
    """Images as rows, which become float32 when they are asked for, so that they need no memory.

    Args:
        images: (N, C, H, W), in memory or not.

    Attributes:
        images: see above.
    """

    def __init__(self, images: Images) -> None:
        self.images = images
        self.shape = len(images), numbers(images)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """The rows at some positions, (n, D), in pixel units."""
        return floats(np.asarray(self.images[positions])).flatten(1).numpy()


class Ordered:
    """Rows in another order.

    Args:
        rows: N rows.
        order: positions among them, (n,).

    Attributes:
        rows: see above.
        order: see above.
    """

    def __init__(self, rows: "Rows", order: NDArray[np.int64]) -> None:
        self.rows, self.order = rows, order
        self.shape: tuple[int, int] = len(order), rows.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """The rows at some positions of the order, (n, D)."""
        return self.rows[self.order[positions]]


Rows = NDArray[Any] | AreaAverages | Pixels | Ordered


def pixel_rows(images: Images) -> Rows:
    """Images (N, C, H, W) as rows (N, D) of float32: in memory if they are few, else made when they are asked for."""
    rows = Pixels(images)
    small = 4 * rows.shape[0] * rows.shape[1] <= files.in_memory()
    return rows[np.arange(len(rows))] if small else rows


Leaders = tuple[NDArray[np.int64], NDArray[np.float64]]  # of each row: its leader, and the correlation with it
Lead = Callable[[Rows, Strings | None, float, int], Leaders]  # takes rows, ids, threshold and leading; see `leaders`
Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]  # rows, leaders of them, and correlations


def leaders(
    features: Rows | torch.Tensor,
    threshold: float,
    block: int | None = None,
    ids: Strings | None = None,
    leading: int = 0,
    lead: Lead | None = None,
) -> Leaders:
    """Greedy clusters by Pearson correlation: for each row its leader, the earlier leader with the largest correlation.

    A row becomes a leader if it correlates with no earlier leader above the threshold (strictly). Constant rows have
    no correlation and are leaders, but rows of equal content share one leader whatever their correlation.

    Args:
        features: (N, D).
        threshold: in (0, 1].
        block: rows compared at a time, see `alone`; it changes memory and speed, never the result.
        ids: (N,), equal where the images behind the rows are equal; None: no row is known to equal another.
        leading: so many first rows are known to be leaders, and are not compared with each other.
        lead: what compares the rows, such as an executor; None compares them in this process.
    Returns:
        leader: (N,) int64; leader[i] == i for leaders, and the earliest of equally close ones otherwise.
        correlation: (N,) float64 of each row with its leader, 1 for leaders, NaN for constant rows.
    Raises:
        DataError: the threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise DataError(f"duplicates: found a threshold of {threshold}, expected a correlation above 0 and up to 1.")
    rows = features if isinstance(features, AreaAverages | Pixels | Ordered) else np.asarray(features)
    leader, correlation = (lead or functools.partial(alone, block=block))(rows, ids, threshold, leading)
    if ids is not None:
        first = ids.firsts()
        # Copies that the correlation does not show: constant rows, or a threshold of 1.
        copies = (leader == np.arange(len(rows))) & (first != np.arange(len(rows)))
        leader[copies] = leader[first[copies]]
    return leader, correlation


def alone(
    rows: Rows,
    ids: Strings | None,
    threshold: float,
    leading: int,
    block: int | None = None,
    progress: Progress | None = None,
) -> Leaders:
    """Compare rows in this process: a `Lead`, which needs no ids.

    Args:
        rows: (N, D).
        ids: not read.
        threshold: see `leaders`.
        leading: see `leaders`.
        block: rows compared at a time; None for as many as memory allows, and 2,048 at most.
        progress: called with (rows done, rows).
    """
    block = block or block_of(rows)
    sketch = Sketch.of(rows, threshold) if len(rows) > block else None
    led = lead_within(rows, threshold, sketch, 0, len(rows), leading=leading, block=block, progress=progress)
    return led.leader, led.correlation


@dataclass(frozen=True, eq=False)
class Led:
    """What is known of consecutive rows.

    Attributes:
        leader: (n,) int64, see `leaders`; positions among all rows.
        correlation: (n,) float64.
        kept: the leaders among them, in their order, without unit rows if there are sketches.
    """

    leader: NDArray[np.int64]
    correlation: NDArray[np.float64]
    kept: "list[Block]"


def lead_within(
    rows: Rows,
    threshold: float,
    sketch: "Sketch | None",
    start: int,
    stop: int,
    before: Pairs | None = None,
    leading: int = 0,
    block: int | None = None,
    progress: Progress | None = None,
) -> Led:
    """The leaders of the rows from `start` to `stop`, where it is known how close they are to the leaders before them.

    Args:
        rows: all rows, (N, D).
        threshold: see `leaders`.
        sketch: of the rows; None compares whole rows.
        start: first of the rows.
        stop: number after that of the last.
        before: of each of them that is close to an earlier leader, the closest one, see `closest`; None for none.
        leading: see `leaders`.
        block: see `alone`.
        progress: called with (rows done, N).
    """
    block = block or block_of(rows)
    leader, correlation = np.arange(start, stop, dtype=np.int64), np.ones(stop - start)
    kept: list[Block] = []
    known = min(max(leading, start), stop)
    starts = [*range(start, known, block), *range(known, stop, block), stop]
    for first, last in itertools.pairwise(starts):
        here = Block.of(rows, np.arange(first, last), sketch)
        correlation[here.positions[~here.unit.any(axis=1)] - start] = np.nan
        if first < known:
            kept.append(here.without_units(sketch))
            continue
        found = [_close_pairs(rows, here, earlier, threshold) for earlier in kept]
        if before is not None:
            of_these = slice(*np.searchsorted(before[0], [first, last]))
            found.append((before[0][of_these], before[1][of_these], before[2][of_these]))
        led = np.isin(here.positions, np.concatenate([i for i, _, _ in found])) if found else np.zeros(len(here), bool)
        chosen = _choose(rows, here.take(~led), threshold)
        leads = np.isin(here.positions, chosen)
        kept.append(here.take(leads).without_units(sketch))
        within = _close_pairs(rows, here.take(~leads), kept[-1], threshold)
        i, j, value = best([*found, within])
        leader[i - start], correlation[i - start] = j, value
        if progress:
            progress(last, len(rows))
    return Led(leader, correlation, kept)


def closest(
    rows: Rows,
    threshold: float,
    sketch: "Sketch | None",
    positions: NDArray[np.int64],
    earlier: "Sequence[Block]",
) -> Pairs:
    """Of each row that is close to some of these leaders, the closest leader; see `best`.

    Args:
        rows: all rows, (N, D).
        threshold: see `leaders`.
        sketch: of the rows; None compares whole rows.
        positions: the rows that are compared, ascending, (n,).
        earlier: leaders before all of them.
    """
    found, block = [_NO_PAIRS], block_of(rows)
    for start in range(0, len(positions), block):
        here = Block.of(rows, positions[start : start + block], sketch)
        found.append(best([_close_pairs(rows, here, each, threshold) for each in earlier]))
    return best(found)


def best(found: Sequence[Pairs]) -> Pairs:
    """Of each row in some pairs its closest leader, the earliest of equals; the rows ascend."""
    i, j, value = (np.concatenate(column) for column in zip(_NO_PAIRS, *found, strict=True))
    order = np.lexsort((j, -value, i))
    rows, first = np.unique(i[order], return_index=True)
    return rows, j[order][first], value[order][first]


_NO_PAIRS: Pairs = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)


def block_of(rows: Rows) -> int:
    """How many rows are compared at a time: 2,048, or fewer if so many are large in float64."""
    return max(1, min(_BLOCK, files.in_memory() // (8 * max(1, int(rows.shape[1])))))


def near_duplicates(
    images: ImageSet, threshold: float = 0.95, leading: int = 0, lead: Lead | None = None
) -> tuple[NDArray[np.int64], pa.Table]:
    """Which images to keep, and why the others are removed.

    Images of equal content are duplicates whatever the threshold, constant ones too.

    Args:
        images: the set; its order decides which image of a cluster is kept: the first.
        threshold: correlation above which two images are near-duplicates, in (0, 1].
        leading: so many first images are known to have no near-duplicates among each other.
        lead: what compares the images, see `leaders`; None compares them in this process.
    Returns:
        Positions of the kept images in their order, and the table DUPLICATES with a row for each removed image.
    Raises:
        DataError: the threshold is not in (0, 1].
    """
    leader, correlation = leaders(AreaAverages(images), threshold, ids=images.ids, leading=leading, lead=lead)
    positions = np.arange(len(images))
    removed = np.flatnonzero(leader != positions)
    columns = {
        "removed_id": images.ids[removed],
        "removed_source": images.sources[removed],
        "kept_id": images.ids[leader[removed]],
        "kept_source": images.sources[leader[removed]],
        "correlation": correlation[removed],
    }
    return np.flatnonzero(leader == positions), tables.make(schemas.DUPLICATES, columns)


def _overlap(n_pixels: int, n_areas: int) -> NDArray[np.float64]:
    """The length shared by each area and each pixel, (n_areas, n_pixels), in units of 1 / n_areas of a pixel."""
    areas, pixels = np.arange(n_areas)[:, None] * n_pixels, np.arange(n_pixels)[None, :] * n_areas
    shared = np.minimum(areas + n_pixels, pixels + n_areas) - np.maximum(areas, pixels)
    return np.asarray(np.maximum(shared, 0), dtype=np.float64)


def _unit(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Rows minus their means, scaled to length 1; a row that is constant up to rounding becomes zero."""
    wide: NDArray[np.float64] = rows.astype(np.float64)
    size = np.linalg.norm(wide, axis=1, keepdims=True)
    wide -= wide.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(wide, axis=1, keepdims=True)
    constant = norm <= 1e-6 * size
    wide /= np.where(constant, 1, norm)
    wide[constant[:, 0]] = 0
    return wide


@dataclass(frozen=True, eq=False)
class Sketch:
    """Short vectors whose products bound those of unit rows from above.

    Attributes:
        axes: (D, k) orthonormal columns, float32.
    """

    axes: NDArray[np.float32]

    @classmethod
    def of(cls, rows: Rows, threshold: float) -> "Sketch | None":
        """The sketch along the first principal axes of some rows; None where it would save nothing.

        Rows that are short themselves need none, and where many pairs of these rows are above the bound it is useless.
        """
        if rows.shape[1] <= 4 * _SKETCHED:
            return None
        chosen = np.unique(np.linspace(0, len(rows) - 1, _SAMPLED).astype(np.int64))
        sample = _unit(rows[chosen])
        _, vectors = np.linalg.eigh(sample @ sample.T)
        axes, _ = np.linalg.qr(sample.T @ vectors[:, ::-1][:, :_SKETCHED])
        sketch = cls(axes.astype(np.float32))
        short = sketch(sample.astype(np.float32))
        open_ = np.count_nonzero(short @ short.T > threshold - _SLACK) - len(short)
        return None if open_ > _MANY * len(short) ** 2 else sketch

    def __call__(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        """The sketches of unit rows, (n, k + 1); the last number is what the projection leaves out."""
        inside = unit @ self.axes
        # Float32 loses up to some 1e-6 of the squared length; 1e-5 more keeps the bound a bound.
        outside = np.sqrt(np.maximum(1 - np.square(inside).sum(axis=1), 0) + 1e-5)
        return np.column_stack([inside, outside]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows: their positions (n,), unit rows (n, D), and sketches; unit rows may be left out, and made again."""

    positions: NDArray[np.int64]
    unit: NDArray[np.float32]
    sketches: NDArray[np.float32] | None

    @classmethod
    def of(cls, rows: Rows, positions: NDArray[np.int64], sketch: Sketch | None) -> "Block":
        """The rows at some positions, with their sketches if there is one."""
        unit = _unit(rows[positions]).astype(np.float32)
        return cls(positions, unit, None if sketch is None else sketch(unit))

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, which: NDArray[np.bool_]) -> "Block":
        """Some of the rows."""
        return Block(self.positions[which], self.unit[which], None if self.sketches is None else self.sketches[which])

    def without_units(self, sketch: Sketch | None) -> "Block":
        """The same with little memory, where sketches take the place of unit rows."""
        # A part of the array would keep all of it.
        return self if sketch is None else Block(self.positions, self.unit[:0].copy(), self.sketches)

    def units(self, rows: Rows) -> NDArray[np.float32]:
        """The unit rows."""
        return self.unit if len(self.unit) == len(self) else _unit(rows[self.positions]).astype(np.float32)


def _close_pairs(rows: Rows, left: Block, right: Block, threshold: float) -> Pairs:
    """Positions i in left and j < i in right whose exact correlation is above the threshold, and that correlation."""
    proposed = _few(left, right, threshold)
    if proposed is None:
        proposed = np.flatnonzero(left.unit @ right.units(rows).T > threshold - _SLACK)
    i, j = left.positions[proposed // max(1, len(right))], right.positions[proposed % max(1, len(right))]
    i, j = i[j < i], j[j < i]
    exact = _exact(rows, i, j)
    above = exact > threshold
    return i[above], j[above], exact[above]


def _few(left: Block, right: Block, threshold: float) -> NDArray[np.int64] | None:
    """The flat places of pairs that the bound does not settle; None where they are many, or there is no sketch."""
    if left.sketches is None or right.sketches is None:
        return None
    open_ = left.sketches @ right.sketches.T > threshold - _SLACK
    if np.count_nonzero(open_) > len(left) + _MANY * open_.size:  # of a block with itself, each row is its own pair
        return None
    return np.flatnonzero(open_)


def _exact(rows: Rows, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.float64]:
    """The correlation of rows i[p] and j[p] for each pair p, in float64; 0 where one is constant."""
    exact = np.empty(len(i))
    step = max(1, _PAIR_VALUES // rows.shape[1])
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        # Some rows are in many pairs, so each is read once.
        sides = (np.unique(side[part], return_inverse=True) for side in (i, j))
        one, other = (_unit(rows[different])[number] for different, number in sides)
        exact[part] = np.einsum("pd,pd->p", one, other)
    return np.minimum(exact, 1)


def _choose(rows: Rows, candidates: Block, threshold: float) -> NDArray[np.int64]:
    """The candidates that become leaders: in order, each that is not close to a leader chosen before it."""
    positions, count = candidates.positions, len(candidates)
    proposed = _few(candidates, candidates, threshold)
    if proposed is None:
        scores = candidates.unit @ candidates.unit.T
        close = scores > threshold
        i, j = np.nonzero(np.tril(np.abs(scores - threshold) <= _SLACK, -1))
    else:
        close = np.zeros((count, count), dtype=bool)
        i, j = proposed // count, proposed % count
        i, j = i[j < i], j[j < i]
    close[i, j] = _exact(rows, positions[i], positions[j]) > threshold
    leads = np.ones(count, dtype=bool)
    for earlier in np.flatnonzero(close.any(axis=0)):
        if leads[earlier]:
            leads[earlier + 1 :] &= ~close[earlier + 1 :, earlier]
    return positions[leads]
