"""Classifier-free guidance: two denoisers, one with and one without a condition, as a denoiser of its own.

    f(y) = f_without(y) + w (f_with(y) - f_without(y))

w = 1 is the conditional denoiser and w = 0 the unconditional one. With w above 1 samples fit the condition more, and
vary less. Such a denoiser is no posterior mean, so its flow has a likelihood, but not that of the images.

Source: Ho & Salimans 2021, eq. 6, whose w is this one less 1.
"""

import torch
from torch import Tensor

from memgen.base.errors import ShapeError
from memgen.models.denoiser import Denoiser


class GuidedDenoiser(torch.nn.Module):
    """A `denoiser.Denoiser` that follows a condition more than its model does.

    Args:
        conditional: the denoiser with the condition, such as a class label.
        unconditional: the denoiser without it, for images of the same shape.
        weight: the w.

    Attributes:
        image_shape: (C, H, W), that of both.
        blind: whether both ignore the noise level.

    Raises:
        ShapeError: the two denoisers are for images of different shapes.
    """

    def __init__(self, conditional: Denoiser, unconditional: Denoiser, weight: float) -> None:
        super().__init__()
        with_it, without = (tuple(each.image_shape) for each in (conditional, unconditional))
        if with_it != without:
            raise ShapeError(
                f"found a conditional denoiser for images of {with_it} and an unconditional one for {without}, "
                f"expected the same shape."
            )
        self.conditional, self.unconditional, self.weight = conditional, unconditional, weight
        self.image_shape = conditional.image_shape
        self.blind = conditional.blind and unconditional.blind
        # In train mode, nothing is measured: it is in train mode if one of the two is.
        self.training = any(getattr(each, "training", False) for each in (conditional, unconditional))

    def forward(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The denoised images (B, C, H, W) of noisy images at noise levels sigma (B,)."""
        without = self.unconditional(noisy, sigma)
        return without + self.weight * (self.conditional(noisy, sigma) - without)
