"""What denoisers could reach: optimal errors in known cases, and the wavelet denoisers to compare with.

In a fixed orthonormal basis, with c_k = ⟨x, e_k⟩, the best shrinkage factors that an oracle who knows x can choose are

    λ_k = c_k² / (c_k² + σ²),    with the error E ||f(y) - x||² = σ² Σ_k λ_k,

within a factor 2 of Σ_k min(c_k², σ²). If c_k² falls as k^-(α+1), it falls as σ^(2α/(α+1)), so that output PSNR rises
with input PSNR at the slope α / (α + 1); no basis does better on C^α images than the one adapted to each. On an
m-dimensional manifold, as small noise sees it, the optimum is the projection on the tangent space, with the error m σ².

Source: Kadkhodaie et al. (ICLR 2024), sections 3.1 and 3.2 and appendix D.4; Donoho & Johnstone (Biometrika 81, 1994)
for thresholds; Mallat, A Wavelet Tour of Signal Processing, 2009, sections 7.7 and 11.2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from memgen.denoisers import ImageShape
from memgen.errors import ConfigError, DataError, ShapeError
from memgen.intervals import Interval, bootstrap


def oracle_shrinkage(coefficients: Tensor, sigma: float) -> Tensor:
    """The oracle's factors c² / (c² + σ²), in [0, 1).

    Args:
        coefficients: of the clean image in an orthonormal basis, any shape, pixel units.
        sigma: noise level above 0, pixel units.

    Raises:
        DataError: the noise level is not above 0.
    """
    if not sigma > 0:
        raise DataError(f"found a noise level of {sigma}, expected one above 0.")
    squares = coefficients.double().square()
    return squares / (squares + sigma**2)


def oracle_error(coefficients: Tensor, sigma: float) -> Tensor:
    """The oracle's expected squared error per pixel, σ² Σ_k λ_k / d, over the last axis.

    Args:
        coefficients: of clean images in an orthonormal basis, (..., d), pixel units.
        sigma: noise level above 0, pixel units.

    Returns:
        (...), pixel units squared.

    Raises:
        DataError: the noise level is not above 0.
    """
    return sigma**2 * oracle_shrinkage(coefficients, sigma).mean(dim=-1)


def oracle_denoise(noisy: Tensor, clean: Tensor, basis: Tensor, sigma: float) -> Tensor:
    """Noisy images, shrunk by the oracle in an orthonormal basis.

    Args:
        noisy: (n, C, H, W).
        clean: the images without noise, of the same shape.
        basis: (d, d), orthonormal, in columns.
        sigma: noise level above 0, pixel units.

    Returns:
        (n, C, H, W) float64.

    Raises:
        ShapeError: the three do not fit together.
        DataError: the noise level is not above 0.
    """
    y, x = _rows(noisy, clean)
    _fitting(basis, y.shape[1])
    axes = basis.double()
    shrunk = (y @ axes) * oracle_shrinkage(x @ axes, sigma)
    return (shrunk @ axes.T).view(noisy.shape)


def tangent_denoise(noisy: Tensor, clean: Tensor, tangents: Tensor) -> Tensor:
    """The optimum on a manifold at small noise: noisy images projected on its tangent space at the clean image.

    The expected squared error is m σ² / d per pixel: output PSNR is input PSNR + 10 log10(d / m) dB.

    Args:
        noisy: (n, C, H, W) of one clean image.
        clean: (C, H, W), a point of the manifold.
        tangents: (d, m), linearly independent, in columns: derivatives with respect to m parameters.

    Returns:
        (n, C, H, W) float64.

    Raises:
        ShapeError: the three do not fit together.
    """
    y, x = _rows(noisy, clean.expand_as(noisy) if noisy.shape[1:] == clean.shape else clean)
    _fitting(tangents, y.shape[1])
    axes: Tensor = torch.linalg.qr(tangents.double())[0]
    projected = x + ((y - x) @ axes) @ axes.T
    return projected.view(noisy.shape)


def slope(input_psnr_db: ArrayLike, output_psnr_db: NDArray[Any], seed: int) -> Interval:
    """The least-squares slope of output PSNR against input PSNR, with its bootstrap interval over images.

    Args:
        input_psnr_db: (s,), dB, at least two that differ.
        output_psnr_db: (m, s), dB: a row for each image, averaged over noise draws.
        seed: of the bootstrap.

    Returns:
        The slope of the mean curve, 95 %; α / (α + 1) is the optimum on C^α images, 1 that on a manifold.

    Raises:
        ShapeError: the arrays do not fit together, or the input PSNRs do not differ.
        DataError: an output PSNR is not finite.
    """
    x = np.asarray(input_psnr_db, dtype=np.float64)
    if output_psnr_db.ndim != 2 or x.shape != output_psnr_db.shape[1:] or not np.ptp(x) > 0:
        raise ShapeError(
            f"output PSNR of shape {output_psnr_db.shape} at input PSNRs of shape {x.shape}, expected (m, s) and (s,) "
            f"with at least two input PSNRs that differ."
        )
    if not np.isfinite(output_psnr_db).all():
        raise DataError("found an output PSNR that is not finite; leave that image or noise level out.")
    centered = x - x.mean()
    slopes = output_psnr_db @ (centered / (centered @ centered))  # one for each image; their mean is the mean curve's
    return bootstrap(slopes, lambda resamples: resamples.mean(axis=1), seed)


@dataclass(frozen=True)
class WaveletTransform:
    """An orthonormal wavelet transform of images, each channel for itself, periodic at the borders.

    Attributes:
        image_shape: (C, H, W).
        wavelet: name of an orthogonal wavelet of PyWavelets.
        levels: how often the low-pass image is split further; None for as often as both sides are divisible by 2.

    Raises:
        ConfigError: the wavelet is not known or not orthogonal, or the sides are not divisible by 2^levels.
    """

    image_shape: ImageShape
    wavelet: str = "db2"
    levels: int | None = None

    def __post_init__(self) -> None:
        import pywt

        if self.wavelet not in pywt.wavelist(kind="discrete") or not pywt.Wavelet(self.wavelet).orthogonal:
            raise ConfigError(f"found the wavelet {self.wavelet!r}, expected an orthogonal one, such as haar or db2.")
        height, width = self.image_shape[1:]
        if self.depth < 1 or height % 2**self.depth or width % 2**self.depth:
            raise ConfigError(
                f"found {self.depth} levels of wavelets for images of {height}x{width}, expected at least 1, and "
                f"sides divisible by 2^levels. Ask for fewer levels, or use images of even sides."
            )

    @property
    def depth(self) -> int:
        """The number of levels."""
        if self.levels is not None:
            return self.levels
        common = math.gcd(self.image_shape[1], self.image_shape[2])
        return (common & -common).bit_length() - 1  # how often 2 divides both

    @property
    def coarse(self) -> tuple[int, int]:
        """Height and width of the low-pass image: the upper left corner of the coefficients."""
        return self.image_shape[1] >> self.depth, self.image_shape[2] >> self.depth

    def analyze(self, images: Tensor) -> Tensor:
        """The coefficients (n, C, H, W) float64 of images (n, C, H, W).

        Raises:
            ShapeError: the images are of another shape.
        """
        import pywt

        if tuple(images.shape[1:]) != tuple(self.image_shape):
            raise ShapeError(f"images of shape {tuple(images.shape)}, expected (n, *{tuple(self.image_shape)}).")
        low, coefficients = images.double().cpu().numpy(), np.empty(tuple(images.shape))
        for _ in range(self.depth):
            low, details = pywt.dwt2(low, self.wavelet, "periodization")
            for quarter, detail in zip(_quarters(low.shape[-2:]), details, strict=True):
                coefficients[quarter] = detail
        coefficients[..., : low.shape[-2], : low.shape[-1]] = low
        return torch.from_numpy(coefficients).to(images.device)

    def synthesize(self, coefficients: Tensor) -> Tensor:
        """The images (n, C, H, W) float64 of coefficients (n, C, H, W): the inverse, and the transpose, of analysis."""
        import pywt

        numbers = coefficients.double().cpu().numpy()
        height, width = self.coarse
        low = numbers[..., :height, :width]
        for level in range(self.depth):
            details = tuple(numbers[quarter] for quarter in _quarters((height << level, width << level)))
            low = pywt.idwt2((low, details), self.wavelet, "periodization")
        return torch.from_numpy(low).to(coefficients.device)


def _quarters(size: tuple[int, int]) -> tuple[Any, Any, Any]:
    """Where details (horizontal, vertical, diagonal) of height and width `size` stand among the coefficients."""
    height, width = size
    first, second = slice(0, height), slice(height, 2 * height)
    return (..., second, slice(0, width)), (..., first, slice(width, 2 * width)), (..., second, slice(width, 2 * width))


class WaveletDenoiser:
    """Thresholding of wavelet coefficients; a `memgen.denoisers.Denoiser`.

    Details below t are set to 0; others are kept (hard) or moved by t towards 0 (soft). The low-pass image is kept.

    Args:
        transform: the wavelets.
        rule: hard or soft.
        threshold: t as a multiple of σ, at least 0; None for sqrt(2 ln d), above which pure noise seldom rises.

    Raises:
        ConfigError: the threshold is below 0.
    """

    blind = False

    def __init__(
        self, transform: WaveletTransform, rule: Literal["hard", "soft"], threshold: float | None = None
    ) -> None:
        self.image_shape, self.transform, self.rule = transform.image_shape, transform, rule
        self.threshold = math.sqrt(2 * math.log(math.prod(self.image_shape))) if threshold is None else threshold
        if not self.threshold >= 0:
            raise ConfigError(f"found a threshold of {threshold} sigma, expected at least 0.")

    def __call__(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The denoised images (B, C, H, W) of noisy images at noise levels sigma (B,), in the type of `noisy`.

        Raises:
            ShapeError: the images are of another shape, or `sigma` is missing or not one number per image.
        """
        if sigma is None or sigma.shape != noisy.shape[:1]:
            found = None if sigma is None else tuple(sigma.shape)
            raise ShapeError(f"sigma of shape {found}, expected one noise level for each of {len(noisy)} noisy images.")
        coefficients = self.transform.analyze(noisy)
        least = self.threshold * sigma.double().view(-1, 1, 1, 1)
        kept = coefficients * (coefficients.abs() > least)
        if self.rule == "soft":
            kept = kept - kept.sign() * least
        height, width = self.transform.coarse
        kept[:, :, :height, :width] = coefficients[:, :, :height, :width]
        return self.transform.synthesize(kept).to(noisy.dtype)


def oracle_wavelets(noisy: Tensor, clean: Tensor, transform: WaveletTransform, sigma: float) -> Tensor:
    """Noisy images, shrunk by the oracle in a wavelet basis.

    Args:
        noisy: (n, C, H, W).
        clean: the images without noise, of the same shape.
        transform: the wavelets.
        sigma: noise level above 0, pixel units.

    Returns:
        (n, C, H, W) float64.

    Raises:
        ShapeError: the images are not of the transform's shape, or differ in shape.
        DataError: the noise level is not above 0.
    """
    _rows(noisy, clean)
    return transform.synthesize(transform.analyze(noisy) * oracle_shrinkage(transform.analyze(clean), sigma))


class Oracle:
    """What knows the clean image, as a `memgen.denoisers.Denoiser` of noisy images of that one image.

    Args:
        image_shape: (C, H, W).
        rule: maps noisy images (n, C, H, W) of the image, and their one noise level, to denoised ones.
    """

    blind = False

    def __init__(self, image_shape: ImageShape, rule: Callable[[Tensor, float], Tensor]) -> None:
        self.image_shape, self.rule = image_shape, rule

    def __call__(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The denoised images (B, C, H, W) of noisy images at noise levels sigma (B,), in the type of `noisy`.

        Raises:
            ShapeError: `sigma` is missing or not one number per image.
        """
        if sigma is None or sigma.shape != noisy.shape[:1]:
            found = None if sigma is None else tuple(sigma.shape)
            raise ShapeError(f"sigma of shape {found}, expected one noise level for each of {len(noisy)} noisy images.")
        denoised = torch.empty_like(noisy)
        for level in set(sigma.tolist()):
            chosen = sigma == level
            denoised[chosen] = self.rule(noisy[chosen], level).to(noisy.dtype)
        return denoised


def _rows(noisy: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    if noisy.ndim != 4 or noisy.shape != clean.shape:
        raise ShapeError(f"noisy images {tuple(noisy.shape)} and clean ones {tuple(clean.shape)}, expected the same.")
    return noisy.double().flatten(1), clean.double().flatten(1)


def _fitting(vectors: Tensor, d: int) -> None:
    if vectors.ndim != 2 or len(vectors) != d:
        raise ShapeError(f"vectors of shape {tuple(vectors.shape)}, expected ({d}, k), in columns.")
