"""How alike two images are: three measures, in float64, and the vectors with which to search for the most alike.

For images x and y of d = C H W pixels, and x' = x - mean(x) (one mean over channels and pixels):

    correlation   <x', y'> / (||x'|| ||y'||)    Pearson's r; the paper calls it cosine similarity
    cosine        <x, y> / (||x|| ||y||)        of the raw pixels
    rmse          ||x - y|| / sqrt(d)           in pixel units, comparable to sigma

A row's value depends on that row alone, bit for bit, and an exact copy has correlation and cosine exactly 1 and rmse
exactly 0. Source: Kadkhodaie et al. 2024, Figures 2 and 6.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.base.errors import ConfigError, ShapeError

METRICS = ("correlation", "cosine", "rmse")
_CHUNK = 2**20  # pixels converted to float64 at a time: 8 MiB, about what a cache holds

Rows = NDArray[np.float64]


def larger_is_closer(metric: str) -> bool:
    """Whether a larger value of the metric means more alike.

    Raises:
        ConfigError: the metric is unknown.
    """
    if metric not in METRICS:
        raise ConfigError(f"unknown metric {metric!r}; known here: {', '.join(METRICS)}.")
    return metric != "rmse"


def paired(x: Tensor, y: Tensor, metric: str) -> Tensor:
    """The metric between x[i] and y[i].

    Computed on the CPU whatever the device of the images, so that every device gives the same value.

    Args:
        x: images, (B, C, H, W), pixel units, on any device.
        y: images of the same shape.
        metric: correlation, cosine or rmse.

    Returns:
        (B,) float64 on the CPU; correlation and cosine in [-1, 1]. NaN where undefined: either image is constant
        (correlation) or zero everywhere (cosine), or has a pixel that is not finite.

    Raises:
        ShapeError: x and y differ in shape.
        ConfigError: the metric is unknown.
    """
    if x.shape != y.shape:
        raise ShapeError(f"images of shape {tuple(x.shape)} and {tuple(y.shape)} cannot be compared pair by pair.")
    larger_is_closer(metric)
    values = np.empty(len(x))
    for rows in _chunks(x):
        values[rows] = _score(_rows(x[rows]), _rows(y[rows]), metric)
    return torch.from_numpy(values)


def embed(images: Tensor, metric: str) -> Tensor:
    """Vectors whose largest inner product (correlation, cosine) or least distance (rmse) marks the closest image.

    Args:
        images: (B, C, H, W), pixel units.
        metric: correlation, cosine or rmse.

    Returns:
        (B, d) float32 on the CPU. Unit vectors for correlation and cosine, but zero where the metric is undefined. For
        rmse the pixels less 1/2: the shift leaves distances as they are and halves the rounding errors that grow with
        the length of the vectors.

    Raises:
        ConfigError: the metric is unknown.
    """
    larger_is_closer(metric)
    vectors = torch.empty((len(images), images.shape[1:].numel()), dtype=torch.float32)
    for rows in _chunks(images):
        x = _rows(images[rows])
        if metric == "rmse":
            x = x - 0.5
        else:
            x = _centered(x) if metric == "correlation" else x
            norm = np.sqrt((x * x).sum(axis=1, keepdims=True))
            x = x / np.where(norm > 0, norm, 1)
        vectors[rows] = torch.from_numpy(x).float()
    return vectors


def _chunks(images: Tensor) -> Iterator[slice]:
    step = max(1, _CHUNK // max(1, images.shape[1:].numel()))
    for start in range(0, len(images), step):
        yield slice(start, start + step)


def _rows(images: Tensor) -> Rows:
    return images.detach().cpu().flatten(1).to(torch.float64).contiguous().numpy()


def _score(x: Rows, y: Rows, metric: str) -> Rows:
    # NumPy sums each row along memory by itself; PyTorch may split the sum of a single row among its threads.
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric == "rmse":
            value = np.sqrt(((x - y) ** 2).mean(axis=1))
        else:
            if metric == "correlation":
                x, y = _centered(x), _centered(y)
            value = (x * y).sum(axis=1) / np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
            value = value.clip(-1, 1)
    return np.where(np.isfinite(value), value, np.nan)


def _centered(x: Rows) -> Rows:
    constant = x.max(axis=1, keepdims=True) == x.min(axis=1, keepdims=True)
    return np.where(constant, 0, x - x.mean(axis=1, keepdims=True))  # exactly, whatever the rounding of the mean
