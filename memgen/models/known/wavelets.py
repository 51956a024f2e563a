"""Orthonormal wavelets, and denoising by thresholds on their coefficients."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from memgen.base.errors import ConfigError, ShapeError
from memgen.models.denoiser import ImageShape


@dataclass(frozen=True)
class WaveletTransform:
    """An orthonormal wavelet transform of each channel of images, periodic at the borders.

    Attributes:
        image_shape: (C, H, W).
        wavelet: name of an orthogonal wavelet of PyWavelets.
        levels: how often the low-pass image is split; None for as often as 2 divides both sides.

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
                f"sides divisible by 2^levels. Use fewer levels, or images with even sides."
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
            raise ShapeError(f"found images of shape {tuple(images.shape)}, expected (n, *{tuple(self.image_shape)}).")
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
    """Thresholding of wavelet coefficients, as a `denoiser.Denoiser`.

    Details below t are set to 0; others are kept (hard) or moved by t towards 0 (soft). The low-pass image is kept.

    Args:
        transform: the wavelets.
        rule: hard or soft.
        threshold: t as a multiple of σ, at least 0; None for sqrt(2 ln d), which pure noise seldom exceeds.

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
            raise ShapeError(
                f"found sigma of shape {found}, expected one noise level for each of {len(noisy)} noisy images."
            )
        coefficients = self.transform.analyze(noisy)
        least = self.threshold * sigma.double().view(-1, 1, 1, 1)
        kept = coefficients * (coefficients.abs() > least)
        if self.rule == "soft":
            kept = kept - kept.sign() * least
        height, width = self.transform.coarse
        kept[:, :, :height, :width] = coefficients[:, :, :height, :width]
        return self.transform.synthesize(kept).to(noisy.dtype)
