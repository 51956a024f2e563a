"""How a set of vectors fits an image or another set: frequency, contours, and overlap of spans."""

import math

import numpy as np
import torch
from torch import Tensor

from memgen.base.errors import ShapeError
from memgen.models.denoiser import ImageShape


def local_frequency(vectors: Tensor, image_shape: ImageShape) -> Tensor:
    """How fast each vector oscillates: the root mean square of its gradient divided by its own, in cycles per pixel.

    f = sqrt(Σ |∇e|² / Σ e²) / 2π, with differences between neighboring pixels as the gradient; a slow cosine of f
    cycles per pixel has f. The mean of f² over all vectors of an orthonormal basis is the same for every basis,
    (1 - 1/H + 1 - 1/W) / 2π²; bases differ in which of their vectors are slow. A random vector has about the
    square root of this mean (see `chance_frequency`).

    Args:
        vectors: (d, k), in columns.
        image_shape: (C, H, W) with C·H·W = d.

    Returns:
        (k,) cycles per pixel; NaN for a vector of zeros.

    Raises:
        ShapeError: the vectors are not of that shape.
    """
    images = _images(vectors, image_shape)
    squares = sum(images.diff(dim=axis).square().flatten(1).sum(dim=1) for axis in (2, 3))
    return (squares / images.square().flatten(1).sum(dim=1)).sqrt() / (2 * math.pi)


def chance_frequency(image_shape: ImageShape) -> float:
    """The root mean square of `local_frequency` over any whole basis, and so of random vectors: 0.31 at 28x28."""
    _, height, width = image_shape
    return math.sqrt((2 - 1 / height - 1 / width) / 2) / math.pi


def contour_energy(vectors: Tensor, clean: Tensor) -> Tensor:
    """How much of each vector lies on the contours of an image, as a multiple of a random vector's share.

    Σ_p e(p)² g(p) / mean of g over pixels, for unit vectors e and g = |∇x|² the squared gradient of the clean image,
    summed over channels, by central differences, without the pixels at the border.

    Args:
        vectors: (d, k), in columns.
        clean: (C, H, W), sides of at least 3.

    Returns:
        (k,) of at least 0; 1 is expected of a random vector, and is the mean over any orthonormal basis. NaN where the
        image is constant.

    Raises:
        ShapeError: vectors and image do not fit, or a side is below 3.
    """
    images, contours = _images(vectors, tuple(clean.shape)), torch.zeros_like(clean, dtype=torch.float64)
    inside = sum(part.square().sum(dim=0) for part in _gradient(clean.double()))
    contours[:, 1:-1, 1:-1] = inside
    on = (images.square() * contours).flatten(1).sum(dim=1)
    return on / images.square().flatten(1).sum(dim=1) / contours.mean()


def contour_direction(vectors: Tensor, clean: Tensor) -> Tensor:
    """Whether each vector varies across the contours of an image (1) or along them (0).

    Σ_p (∇e · ∇x)² / Σ_p |∇e|² |∇x|², gradients by central differences, within each channel, without the border.

    Args:
        vectors: (d, k), in columns.
        clean: (C, H, W), sides of at least 3.

    Returns:
        (k,) in [0, 1]; about 1/2 for a random vector, and 1/2 for an orthonormal basis as a whole. NaN where the image
        or the vector is constant.

    Raises:
        ShapeError: vectors and image do not fit, or a side is below 3.
    """
    down, right = _gradient(_images(vectors, tuple(clean.shape)))
    x_down, x_right = _gradient(clean.double())
    along = (down * x_down + right * x_right).square()
    both = (down.square() + right.square()) * (x_down.square() + x_right.square())
    return along.flatten(1).sum(dim=1) / both.flatten(1).sum(dim=1)


def overlap(a: Tensor, b: Tensor) -> float:
    """How much of the smaller of two spans lies in the other: the mean of cos² of their principal angles.

    Args:
        a: (d, k), in columns, linearly independent.
        b: (d, m), likewise.

    Returns:
        In [0, 1]; 1 where one contains the other. Random spans have max(k, m) / d on average (see `chance_overlap`).

    Raises:
        ShapeError: the vectors differ in length.
    """
    first, second = _orthonormal(a, b)
    return float((first.T @ second).square().sum()) / min(first.shape[1], second.shape[1])


def chance_overlap(k: int, m: int, d: int) -> float:
    """The overlap expected of random spans of k and m of d dimensions."""
    return max(k, m) / d


def dct(image_shape: ImageShape, count: int | None = None) -> Tensor:
    """The orthonormal discrete cosine basis (DCT-II), in each channel alike, slowest first.

    Args:
        image_shape: (C, H, W); d = C·H·W.
        count: number of vectors, the slowest ones, at most d; None for all.

    Returns:
        (d, count) float64, in columns, in the order of `local_frequency`; the channels of one frequency follow each
        other.
    """
    channels, height, width = image_shape
    count = count or channels * height * width
    # The squared gradient of a cosine between free borders is known, so only the slowest cosines need be made.
    down, right = (np.sin(np.pi * np.arange(side) / (2 * side)) ** 2 for side in (height, width))
    order = np.argsort((down[:, None] + right).ravel(), kind="stable")[: -(-count // channels)]
    rows, columns = np.divmod(order, width)
    products = torch.einsum("yk,xk->kyx", _cosines(height)[:, rows], _cosines(width)[:, columns])
    vectors = products.new_zeros(len(order), channels, channels, height, width)
    for channel in range(channels):
        vectors[:, channel, channel] = products
    return vectors.view(-1, channels * height * width)[:count].T


def _images(vectors: Tensor, image_shape: tuple[int, ...]) -> Tensor:
    """Vectors in columns as images (k, C, H, W) float64."""
    if vectors.ndim != 2 or len(image_shape) != 3 or len(vectors) != math.prod(image_shape):
        raise ShapeError(
            f"found vectors of shape {tuple(vectors.shape)}, expected (C·H·W, k) for images of {image_shape}."
        )
    return vectors.double().T.reshape(-1, *image_shape)


def _gradient(images: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences down and to the right of (..., H, W): two (..., H - 2, W - 2)."""
    if min(images.shape[-2:]) < 3:
        raise ShapeError(
            f"found images of {tuple(images.shape[-2:])} pixels, expected sides of at least 3 for contours."
        )
    down = (images[..., 2:, 1:-1] - images[..., :-2, 1:-1]) / 2
    return down, (images[..., 1:-1, 2:] - images[..., 1:-1, :-2]) / 2


def _orthonormal(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise ShapeError(f"found vectors of shapes {tuple(a.shape)} and {tuple(b.shape)}, expected (d, k) and (d, m).")
    return torch.linalg.qr(a.double())[0], torch.linalg.qr(b.double())[0]


def _cosines(n: int) -> Tensor:
    """(n, n) orthonormal cosines, in columns, frequency rising."""
    position, frequency = np.arange(n)[:, None], np.arange(n)
    scale = np.where(frequency == 0, 1 / n, 2 / n) ** 0.5
    return torch.from_numpy(scale * np.cos(np.pi * (position + 0.5) * frequency / n))
