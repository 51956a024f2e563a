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

_CHUNK = 2**20  # pixels converted to float64 at a time: 8 MiB, about what a cache holds

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class PixelSpace:
    """A space whose vectors are computed from the pixels alone; see `spaces.Space`.

    Attributes:
        name: correlation, cosine or rmse.
        larger_is_closer: whether a larger value means more alike.
        unit: unit of the values.
        vectors: makes pixels (B, d) into vectors (B, d).
        values: makes the pixels of two batches, (B, d) each, into the value of each pair, (B,).
    """

    name: str
    larger_is_closer: bool
    unit: str
    vectors: Callable[[Rows], Rows]
    values: Callable[[Rows, Rows], Rows]

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
    return images.detach().cpu().flatten(1).to(torch.float64).contiguous().numpy()


def _centered(x: Rows) -> Rows:
    constant = x.max(axis=1, keepdims=True) == x.min(axis=1, keepdims=True)
    return np.where(constant, 0, x - x.mean(axis=1, keepdims=True))  # exactly, whatever the rounding of the mean


def _unit(x: Rows) -> Rows:
    norm = np.sqrt((x * x).sum(axis=1, keepdims=True))
    return np.asarray(x / np.where(norm > 0, norm, 1))


# NumPy sums each row along memory by itself; PyTorch may split the sum of a single row among its threads.


def _cosine(x: Rows, y: Rows) -> Rows:
    value = (x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    return np.asarray(value.clip(-1, 1))


def _rms_difference(x: Rows, y: Rows) -> Rows:
    return np.asarray(np.sqrt(((x - y) ** 2).mean(axis=1)))


SPACES = (
    PixelSpace(
        "correlation",
        True,
        "correlation",
        lambda x: _unit(_centered(x)),
        lambda x, y: _cosine(_centered(x), _centered(y)),
    ),
    PixelSpace("cosine", True, "cosine", _unit, _cosine),
    PixelSpace("rmse", False, "pixel units", lambda x: x - 0.5, _rms_difference),
)
