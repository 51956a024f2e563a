"""Spaces of pixels: three measures of how alike two images are, in float64.

For images x and y of d = C H W pixels, and x' = x - mean(x) (one mean over channels and pixels):

    correlation   <x', y'> / (||x'|| ||y'||)    Pearson's r; the paper calls it cosine similarity
    cosine        <x, y> / (||x|| ||y||)        of the raw pixels
    rmse          ||x - y|| / sqrt(d)           in pixel units, comparable to sigma

A row's value depends on that row alone, bit for bit. An exact copy has correlation and cosine exactly 1 and rmse
exactly 0. Source: Kadkhodaie et al. 2024, Figures 2 and 6.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.base.errors import ShapeError

_CHUNK = 2**16  # pixels converted to float64 at a time: half a MiB, which stays in the cache of one core

Rows = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Code:
    """How the scores of images of uint8 follow from products with their numbers z = x - 128; see `products`.

    With v the vector of a query, the score is scale (<v, z> + shift sum(v)) + offset, less |v|^2 if it is a distance.
    The shift is fixed + relative sum(z).

    Attributes:
        scale: (B,).
        offset: (B,).
        fixed: see above.
        relative: see above.
        total: sum(z), (B,).
        norm: norm of z, (B,).
    """

    scale: Rows
    offset: Rows
    fixed: float
    relative: float
    total: Rows
    norm: Rows


@dataclass(frozen=True)
class PixelSpace:
    """A space whose vectors are computed from the pixels alone; see `spaces.Space`.

    Attributes:
        name: correlation, cosine or rmse.
        larger_is_closer: whether a larger value means more alike.
        unit: unit of the values.
        vectors: makes pixels (B, d) into vectors (B, d).
        values: makes the pixels of two batches, (B, d) each, into the value of each pair, (B,).
        coded: makes d, and the sums and squared norms, (B,) each, of the numbers of images, into scale, offset, fixed
            and relative shift; see `Code`.
    """

    name: str
    larger_is_closer: bool
    unit: str
    vectors: Callable[[Rows], Rows]
    values: Callable[[Rows, Rows], Rows]
    coded: Callable[[int, Rows, Rows], tuple[Rows, Rows, float, float]]

    def code(self, z: NDArray[np.int8]) -> Code:
        """What the scores of images need beside products with their numbers z = x - 128, (B, d)."""
        total, square = (np.empty(len(z)) for _ in range(2))
        step = max(1, _CHUNK // max(1, z.shape[1]))
        for start in range(0, len(z), step):
            whole = z[start : start + step].astype(np.int32)
            total[start : start + step] = whole.sum(axis=1)
            square[start : start + step] = (whole * whole).sum(axis=1, dtype=np.int64)
        return Code(*self.coded(z.shape[1], total, square), total, np.sqrt(square))

    def embed(self, images: Tensor) -> Tensor:
        """Vectors of images (B, C, H, W) in pixel units, (B, d) float32 on the CPU.

        Unit vectors for correlation and cosine, but zero where these are undefined. For rmse the pixels less 1/2: the
        shift leaves distances as they are and halves the rounding errors that grow with the length of the vectors.
        """
        vectors = torch.empty((len(images), images.shape[1:].numel()), dtype=torch.float32)
        for rows in _chunks(images):
            vectors[rows] = torch.from_numpy(self.vectors(_rows(images[rows]))).float()
        return vectors

    def paired(self, x: Tensor, y: Tensor) -> Tensor:
        """The value between x[i] and y[i], computed on the CPU so that every device gives the same.

        Args:
            x: images, (B, C, H, W), pixel units, on any device.
            y: images of the same shape.

        Returns:
            (B,) float64 on the CPU; correlation and cosine in [-1, 1]. NaN where undefined: either image is constant
            (correlation) or zero everywhere (cosine), or has a pixel that is not finite.

        Raises:
            ShapeError: x and y differ in shape.
        """
        if x.shape != y.shape:
            raise ShapeError(
                f"found images of shape {tuple(x.shape)} and {tuple(y.shape)}, expected the same shape for both."
            )
        values = np.empty(len(x))
        for rows in _chunks(x):
            with np.errstate(invalid="ignore", divide="ignore"):
                value = self.values(_rows(x[rows]), _rows(y[rows]))
            values[rows] = np.where(np.isfinite(value), value, np.nan)
        return torch.from_numpy(values)


def _chunks(images: Tensor) -> Iterator[slice]:
    step = max(1, _CHUNK // max(1, images.shape[1:].numel()))
    for start in range(0, len(images), step):
        yield slice(start, start + step)


def _rows(images: Tensor) -> Rows:
    # NumPy converts in this thread, where PyTorch would wait for others at every small block.
    return np.ascontiguousarray(images.detach().cpu().flatten(1).numpy().astype(np.float64))


def _centered(x: Rows) -> Rows:
    centered: Rows = x - x.mean(axis=1, keepdims=True)
    centered[(x == x[:, :1]).all(axis=1)] = 0  # exactly, whatever the rounding of the mean
    return centered


def _unit(x: Rows) -> Rows:
    norm = np.sqrt(_dot(x, x))[:, None]
    return np.asarray(x / np.where(norm > 0, norm, 1))


def _dot(x: Rows, y: Rows) -> Rows:
    # NumPy sums each row along memory by itself; PyTorch may split the sum of a single row among its threads.
    return np.asarray(np.einsum("nd,nd->n", x, y))


def _cosine(x: Rows, y: Rows) -> Rows:
    value = _dot(x, y) / np.sqrt(_dot(x, x) * _dot(y, y))
    return np.asarray(value.clip(-1, 1))


def _rms_difference(x: Rows, y: Rows) -> Rows:
    apart = x - y
    return np.asarray(np.sqrt(_dot(apart, apart) / x.shape[1]))


def _inverse(square: Rows) -> Rows:
    """1 / sqrt, and 0 where there is nothing to divide by."""
    return np.divide(1, np.sqrt(square), out=np.zeros(len(square)), where=square > 0)


# z + 128 are the levels of the pixels, 0 to 255, and z + 1/2 the levels less 127.5. All sums are of whole numbers.


def _code_correlation(d: int, total: Rows, square: Rows) -> tuple[Rows, Rows, float, float]:
    return _inverse((square * d - total**2) / d), np.zeros(len(total)), 0.0, -1 / d


def _code_cosine(d: int, total: Rows, square: Rows) -> tuple[Rows, Rows, float, float]:
    return _inverse(square + 256 * total + 128.0**2 * d), np.zeros(len(total)), 128.0, 0.0


def _code_distance(d: int, total: Rows, square: Rows) -> tuple[Rows, Rows, float, float]:
    return np.full(len(total), 2 / 255), -(square + total + d / 4) / 255**2, 0.5, 0.0


SPACES = (
    PixelSpace(
        "correlation",
        True,
        "correlation",
        lambda x: _unit(_centered(x)),
        lambda x, y: _cosine(_centered(x), _centered(y)),
        _code_correlation,
    ),
    PixelSpace("cosine", True, "cosine", _unit, _cosine, _code_cosine),
    PixelSpace("rmse", False, "pixel units", lambda x: x - 0.5, _rms_difference, _code_distance),
)
