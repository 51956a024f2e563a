"""Denoisers known in closed form: what they have in common.

Such a denoiser computes in float64 and returns the type of its input. It is a module without parameters, so it moves
between devices like a network. It is never blind. Its Jacobian is known too; for an exact posterior mean it is
Cov[x|y] / σ².

Source: Miyasawa 1961; Kadkhodaie et al. (ICLR 2024), eq. 9 and 22, for the Jacobian.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from memgen.base.errors import DataError, ShapeError
from memgen.models.denoiser import ImageShape


class ClosedFormDenoiser(nn.Module, ABC):
    """Base of the denoisers known in closed form; each is a `denoiser.Denoiser`.

    Args:
        image_shape: (C, H, W) of the images.
    """

    blind = False

    def __init__(self, image_shape: ImageShape) -> None:
        super().__init__()
        self.image_shape = image_shape

    def forward(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The denoised images (B, C, H, W) of noisy images at noise levels sigma (B,), in the type of `noisy`.

        Raises:
            ShapeError: `noisy` is not of this denoiser's shape, or `sigma` is missing or not one number per image.
            DataError: a noise level is not above 0.
        """
        return self._denoise(noisy.double(), self._levels(noisy, sigma)).to(noisy.dtype)

    def jacobian(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The derivatives ∂f/∂y at noisy images (B, C, H, W) and noise levels (B,): (B, d, d) float64, d = C·H·W.

        Raises:
            ShapeError: as for the denoised images.
            DataError: a noise level is not above 0.
        """
        return self._jacobian(noisy.double(), self._levels(noisy, sigma))

    @abstractmethod
    def _denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The denoised images, of and in float64."""

    @abstractmethod
    def _jacobian(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The derivatives, of and in float64."""

    def _levels(self, noisy: Tensor, sigma: Tensor | None) -> Tensor:
        if tuple(noisy.shape[1:]) != tuple(self.image_shape):
            raise ShapeError(
                f"found noisy images of shape {tuple(noisy.shape)}, expected (B, *{tuple(self.image_shape)})."
            )
        if sigma is None or sigma.shape != noisy.shape[:1]:
            found = None if sigma is None else tuple(sigma.shape)
            raise ShapeError(
                f"found sigma of shape {found}, expected one noise level for each of {len(noisy)} noisy images."
            )
        if bool((sigma <= 0).any()):
            raise DataError(f"found a noise level of {float(sigma.min())}, expected levels above 0.")
        return sigma.double()


def block_numbers(device: torch.device) -> int:
    """How many float64 numbers to process at a time: what a CPU's cache holds, or what keeps another device busy."""
    return 2**17 if device.type == "cpu" else 2**24


def as_float64(pixels: Tensor) -> Tensor:
    """Pixels as float64 in [0, 1]: uint8 divided by 255, floating-point numbers as they are."""
    return pixels.double() / 255 if pixels.dtype == torch.uint8 else pixels.double()


def checked_images(images: Tensor) -> Tensor:
    """The same images, after a check that they can be a training set.

    Raises:
        ShapeError: they are not (N, C, H, W) with at least one image.
        DataError: pixels are neither uint8 nor floating-point numbers.
    """
    if images.ndim != 4 or not images.numel():
        raise ShapeError(f"found images of shape {tuple(images.shape)}, expected (N, C, H, W) with at least one image.")
    if images.dtype != torch.uint8 and not images.dtype.is_floating_point:
        raise DataError(f"found images of type {images.dtype}, expected uint8 or floating-point pixels.")
    return images


def squared_distances(queries: Tensor, references: Tensor) -> Tensor:
    """||q - r||² for rows (..., Q, w) and (..., n, w), summed from differences: (..., Q, n), differentiable in q."""
    fixed = queries.detach()
    squares = torch.cdist(fixed, references, compute_mode="donot_use_mm_for_euclid_dist").square()
    if not torch.is_grad_enabled():
        return squares
    # cdist's own derivative is wrong under vmap and missing in forward mode (PyTorch 2.13), so it is written out:
    # with q = q0 + s and s = 0, ||q - r||² = ||q0 - r||² + 2 s·(q0 - r) + ||s||², which changes no value.
    step = queries - fixed
    along = (step * (2 * fixed + step)).sum(dim=-1, keepdim=True)
    return squares + along - 2 * step @ references.transpose(-1, -2)
