"""Latent models: denoisers of what an autoencoder makes of images.

Such a denoiser removes noise from latents, and its samples are decoded. What is measured of denoising is measured on
encoded images, where noise levels and errors count in half of the units that the model sees: latents z become
(z + 1) / 2, as pixels in [-1, 1] become pixels in [0, 1]. What is measured of samples is measured on decoded images.

Source: Rombach, Blattmann, Lorenz, Esser & Ommer 2022.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.base.errors import DataError, ShapeError
from memgen.models.denoiser import Denoiser, ImageShape

_BATCH = 32


class Autoencoder(Protocol):
    """Encodes images, and decodes latents.

    Attributes:
        image_shape: (C, H, W) of images.
    """

    image_shape: ImageShape

    def encode(self, images: Tensor) -> Tensor:
        """The latents (B, c, h, w) of images (B, C, H, W) in [0, 1], without noise of their own."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """The images (B, C, H, W) of latents (B, c, h, w), not clipped."""
        ...


class LatentDenoiser(torch.nn.Module):
    """A denoiser of latents with its autoencoder.

    Args:
        denoiser: of latents.
        autoencoder: whose latents they are.

    Attributes:
        autoencoder: as given.
        image_shape: (c, h, w) of latents.
        blind: whether the denoiser ignores the noise level.
    """

    def __init__(self, denoiser: Denoiser, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.denoiser, self.autoencoder = denoiser, autoencoder
        self.image_shape, self.blind = denoiser.image_shape, denoiser.blind

    def forward(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The denoised latents; see `memgen.models.denoiser.Denoiser`."""
        return self.denoiser(noisy, sigma)


def picture_shape(denoiser: Denoiser) -> ImageShape:
    """(C, H, W) of the images that a denoiser draws: those that it denoises, or those that its latents decode to."""
    return denoiser.autoencoder.image_shape if isinstance(denoiser, LatentDenoiser) else denoiser.image_shape


def encoded(denoiser: Denoiser, images: Tensor) -> Tensor:
    """Images as a denoiser sees them: themselves, or their latents.

    Args:
        denoiser: on the device of the images.
        images: (n, C, H, W), [0, 1].

    Raises:
        ShapeError: the images are not of the shape that the autoencoder takes.
    """
    if not isinstance(denoiser, LatentDenoiser):
        return images
    wanted = denoiser.autoencoder.image_shape
    if tuple(images.shape[1:]) != tuple(wanted):
        raise ShapeError(f"found images of shape {tuple(images.shape[1:])}, expected {tuple(wanted)}.")
    return torch.cat(_each(denoiser.autoencoder.encode, images))


def mean_encoded(denoiser: Denoiser, images: Tensor) -> Tensor:
    """The mean of images as a denoiser sees them, from which sampling starts; see `encoded`."""
    return encoded(denoiser, images).mean(dim=0)


def decoded(denoiser: Denoiser, drawn: NDArray[np.float32], device: str | torch.device) -> NDArray[np.float32]:
    """What a denoiser drew, (n, c, h, w), as images (n, C, H, W)."""
    if not isinstance(denoiser, LatentDenoiser) or not len(drawn):
        return drawn
    decode = denoiser.autoencoder.decode
    found: NDArray[np.float32] = torch.cat(_each(decode, torch.from_numpy(drawn).to(device))).cpu().numpy()
    return found


def require_pixels(denoiser: Denoiser, what: str) -> None:
    """Refuse a latent model for a measure that has no meaning for latents.

    Args:
        denoiser: any.
        what: the measure, as the subject of a sentence in the plural.

    Raises:
        DataError: the denoiser is one of latents.
    """
    if isinstance(denoiser, LatentDenoiser):
        raise DataError(f"{what} are for denoisers of pixels, and this one denoises latents. Choose another subject.")


@torch.inference_mode()
def _each(function: Callable[[Tensor], Tensor], batch: Tensor) -> list[Tensor]:
    return [function(batch[start : start + _BATCH]) for start in range(0, len(batch), _BATCH)]
