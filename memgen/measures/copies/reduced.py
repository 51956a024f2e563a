"""Blurred and reduced images, in which copies stay alike that were blurred, compressed, resampled or made noisy."""

import torch
import torch.nn.functional as F
from torch import Tensor

from memgen.images.imageset import floats

SIDE = 16  # largest side of the reduced images, in pixels, unless told otherwise
_BLUR = 1.1 / 32  # standard deviation of the Gaussian, as a share of the side of the image
# Numbers blurred at a time: 1 MiB. Larger arrays would each be taken from the system anew, and the system clears what
# it gives, which took five times as long as the work itself.
_BLOCK = 2**18


def reduced(images: Tensor, side: int = SIDE) -> Tensor:
    """Images (B, C, H, W), of uint8 or float32, blurred and reduced to at most side x side pixels: float32 on the CPU.

    The blur makes the result depend little on where the pixels of an image lie. A side that is smaller stays as it is,
    and images that are not square are squeezed.
    """
    size = [min(length, side) for length in images.shape[-2:]]
    made = torch.empty((len(images), images.shape[1], *size))
    step = max(1, _BLOCK // max(1, images.shape[1:].numel()))
    for start in range(0, len(images), step):
        block = floats(images[start : start + step].detach().cpu().numpy())
        block = _blurred(_blurred(block).transpose(2, 3)).transpose(2, 3)
        made[start : start + step] = F.interpolate(block, size=size, mode="bilinear", antialias=True)
    return made


def _blurred(images: Tensor) -> Tensor:
    """Images blurred along their columns by a Gaussian; beyond the border, the last pixel is repeated."""
    sigma = _BLUR * images.shape[2]
    radius = max(1, round(3 * sigma))
    distance = torch.arange(-radius, radius + 1).double()
    kernel = torch.exp(-distance.square() / (2 * sigma**2))
    wide = F.pad(images, (0, 0, radius, radius), mode="replicate")
    weights = (kernel / kernel.sum()).float()[None, None, :, None]
    return F.conv2d(wide.flatten(0, 1)[:, None], weights).reshape(images.shape)
