"""A space of coarse images: correlation after each 2x2 block of pixels is replaced by its mean.

A copy that was slightly blurred, or that carries noise, is closer in this space than in that of the pixels. Images that
differ in fine detail alone are the same here. A block at a border of odd length holds the pixels that are there.
"""

import torch.nn.functional as F
from torch import Tensor

from memgen.spaces.pixels import SPACES as PIXEL_SPACES


class CoarseSpace:
    """Correlation of images averaged over 2x2 pixels; see `spaces.Space`."""

    name = "coarse"
    larger_is_closer = True
    unit = "coarse correlation"
    _correlation = next(space for space in PIXEL_SPACES if space.name == "correlation")

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors of the averaged images; see `spaces.Space`."""
        return self._correlation.embed(_averaged(images))

    def paired(self, x: Tensor, y: Tensor) -> Tensor:
        """The correlation of the averaged images; see `spaces.Space`."""
        return self._correlation.paired(_averaged(x), _averaged(y))


def _averaged(images: Tensor) -> Tensor:
    return F.avg_pool2d(images.detach().cpu().double(), 2, ceil_mode=True, count_include_pad=False)


SPACES = (CoarseSpace(),)
