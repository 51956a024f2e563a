"""The denoiser protocol: a function of noisy images and their noise levels, in units where pixels lie in [0, 1]."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from memgen.base.errors import DataError, ShapeError

ImageShape = tuple[int, int, int]


@runtime_checkable
class Denoiser(Protocol):
    """Anything that maps noisy images and their noise level to denoised images.

    Attributes:
        image_shape: (C, H, W) of the images it was made for.
        blind: whether σ is accepted and ignored.
    """

    image_shape: ImageShape
    blind: bool

    def __call__(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The denoised images.

        Args:
            noisy: (B, C, H, W), in units where clean pixels lie in [0, 1]; not clipped.
            sigma: (B,) standard deviation of the noise, same units; may be None for a blind denoiser.

        Returns:
            (B, C, H, W), same units, not clipped.
        """
        ...


@dataclass(frozen=True, eq=False)
class FunctionDenoiser:
    """A denoiser made of a function, such as the network of a training loop.

    Attributes:
        function: maps noisy images (B, C, H, W) and their noise levels (B,), in units where clean pixels lie in [0, 1],
            to the denoised images.
        image_shape: (C, H, W).
        blind: whether the function ignores the noise levels.

    Example:
        >>> import torch
        >>> half = FunctionDenoiser(lambda noisy, sigma: noisy / 2, image_shape=(1, 8, 8))
        >>> half(torch.ones(2, 1, 8, 8), torch.tensor([0.1, 0.1])).mean().item()
        0.5
    """

    function: Callable[[Tensor, Tensor | None], Tensor]
    image_shape: ImageShape
    blind: bool = False

    def __call__(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The denoised images; see `Denoiser`."""
        return self.function(noisy, sigma)


def check_measurable(denoiser: Denoiser, images: Tensor, ids: Sequence[str]) -> None:
    """Check that a denoiser can be measured on images (n, C, H, W) with content ids (n,).

    Raises:
        ShapeError: the images do not have the denoiser's shape, or their number differs from that of the ids.
        DataError: the denoiser is in train mode, where its output depends on the batch.
    """
    if tuple(images.shape[1:]) != tuple(denoiser.image_shape) or len(images) != len(ids):
        raise ShapeError(
            f"found {len(ids)} ids and images of shape {tuple(images.shape)}, expected an id for each image and "
            f"images of the denoiser's shape, {tuple(denoiser.image_shape)}."
        )
    if getattr(denoiser, "training", False):
        raise DataError("the denoiser is in train mode, where its output depends on the batch. Call its eval() first.")
