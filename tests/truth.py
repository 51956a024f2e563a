"""Denoisers whose answers are known in closed form, against which everything that measures a denoiser is tested.

They compute in float64 and answer in the type of what they are given.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

ImageShape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class GaussianDenoiser:
    """The Wiener filter, E[x|y] for x ~ N(mean, U diag(λ) Uᵀ): f(y) = mean + U diag(λ/(λ + σ²)) Uᵀ (y - mean).

    Attributes:
        mean: (C, H, W).
        variances: (d,) the λ, with d = C·H·W.
        axes: (d, d) orthogonal, the U: principal axes in columns.
    """

    mean: Tensor
    variances: Tensor
    axes: Tensor
    blind = False

    @classmethod
    def make(cls, image_shape: ImageShape, seed: int, decay: float = 1.0, scale: float = 0.1) -> "GaussianDenoiser":
        """A Gaussian with mean near 1/2, random axes and λ_k = scale / k^decay."""
        generator = torch.Generator().manual_seed(seed)
        d = image_shape[0] * image_shape[1] * image_shape[2]
        axes, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
        mean = 0.5 + 0.1 * torch.randn(image_shape, generator=generator, dtype=torch.float64)
        return cls(mean, scale * torch.arange(1, d + 1, dtype=torch.float64) ** -decay, axes)

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W)."""
        channels, height, width = self.mean.shape
        return channels, height, width

    def __call__(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The posterior means of (B, C, H, W) noisy images at noise levels sigma (B,)."""
        coefficients = (noisy.double() - self.mean).flatten(1) @ self.axes  # (B, d)
        shrunk = coefficients * self.eigenvalues(_needed(sigma, noisy))
        return (self.mean + (shrunk @ self.axes.T).view(noisy.shape)).to(noisy.dtype)

    def eigenvalues(self, sigma: Tensor) -> Tensor:
        """(B, d) eigenvalues of the Jacobian, λ/(λ + σ²)."""
        return self.variances / (self.variances + sigma.double()[:, None] ** 2)

    def mean_squared_error(self, sigma: float) -> float:
        """E‖x - f(y)‖² / d = mean of λσ²/(λ + σ²), the least that any denoiser can reach on these images."""
        return float((self.variances * sigma**2 / (self.variances + sigma**2)).mean())

    def draw(self, n: int, seed: int) -> Tensor:
        """(n, C, H, W) float64 images of this Gaussian."""
        generator = torch.Generator().manual_seed(seed)
        normal = torch.randn(n, len(self.variances), generator=generator, dtype=torch.float64)
        return self.mean + ((normal * self.variances.sqrt()) @ self.axes.T).view(n, *self.image_shape)


@dataclass(frozen=True, eq=False)
class IdealDenoiser:
    """The denoiser that has memorized a finite set: E[x|y] for x uniform on it, Σ w_i x_i, w ∝ exp(-‖y - x_i‖²/2σ²).

    Attributes:
        images: (N, C, H, W).
    """

    images: Tensor
    blind = False

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W)."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def __call__(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The posterior means of (B, C, H, W) noisy images at noise levels sigma (B,)."""
        denoised = self.weights(noisy, _needed(sigma, noisy)) @ self.images.double().flatten(1)
        return denoised.view(noisy.shape).to(noisy.dtype)

    def weights(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """(B, N) posterior probabilities of the images."""
        differences = noisy.double().flatten(1)[:, None] - self.images.double().flatten(1)  # (B, N, d)
        return (-differences.square().sum(2) / (2 * sigma.double()[:, None] ** 2)).softmax(1)


@dataclass(frozen=True, eq=False)
class LinearDenoiser:
    """f(y) = M y, whatever the noise level.

    Attributes:
        matrix: (d, d), the M; also the Jacobian.
        image_shape: (C, H, W) with C·H·W = d.
    """

    matrix: Tensor
    image_shape: ImageShape
    blind = True

    def __call__(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """M applied to each of (B, C, H, W) noisy images."""
        return (noisy.double().flatten(1) @ self.matrix.double().T).view(noisy.shape).to(noisy.dtype)


@dataclass(frozen=True)
class IdentityDenoiser:
    """f(y) = y: PSNR out is PSNR in, and a sampler sees no noise at all."""

    image_shape: ImageShape
    blind = True

    def __call__(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The noisy images themselves."""
        return noisy.clone()


@dataclass(frozen=True)
class ZeroDenoiser:
    """f(y) = 0: a sampler contracts straight to zero at its nominal rate."""

    image_shape: ImageShape
    blind = True

    def __call__(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Zeros of the shape of the noisy images."""
        return torch.zeros_like(noisy)


def _needed(sigma: Tensor | None, noisy: Tensor) -> Tensor:
    if sigma is None or sigma.shape != noisy.shape[:1]:
        raise ValueError(f"expected one sigma per image, found {sigma!r}")
    return sigma
