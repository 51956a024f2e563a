"""Kinds of copies that an audit plants among samples, to learn what it would find.

Lengths are stated in pixels of an image with a side of 32, and grow with the side. Copies are clipped to [0, 1], except
those with noise, since samples are not clipped either.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from memgen.base import noise
from memgen.base.errors import ShapeError
from memgen.measures.copies.alignment import Fit, warped

# Makes copies of images (n, C, H, W), in [0, 1]; others of that shape supply what is not copied.
Kind = Callable[[Tensor, Tensor, np.random.Generator], Tensor]
_SIDE = 32  # of the images whose pixels are meant


def planted(kind: str, images: Tensor, others: Tensor, generator: np.random.Generator) -> Tensor:
    """Copies of images.

    Args:
        kind: one of KINDS.
        images: that are copied, (n, C, H, W), float32 in [0, 1].
        others: images, real or generated, that supply what is not copied, of the same shape.
        generator: of what is random in a copy.

    Returns:
        (n, C, H, W), float32.

    Raises:
        ShapeError: the shapes differ, or the images have no 1 or 3 channels, which JPEG needs.
    """
    if images.shape != others.shape or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ShapeError(
            f"planted copies: found images of shape {tuple(images.shape)} and others of shape {tuple(others.shape)}, "
            "expected one shape (n, C, H, W) with C = 1 or 3."
        )
    return KINDS[kind](images, others.clamp(0, 1), generator).float()


def _noisy(sigma: float) -> Kind:
    return lambda x, others, generator: x + sigma * torch.from_numpy(noise.normal(generator, tuple(x.shape)))


def _moved(x: float = 0.0, y: float = 0.0, angle: float = 0.0, zoom: float = 1.0) -> Kind:
    """Moved to the right and down, turned clockwise, or enlarged about the center; bilinear, the border repeated."""
    change = torch.zeros(1, 6)
    change[0, Fit.SHIFT_X], change[0, Fit.SHIFT_Y] = x / _SIDE, y / _SIDE
    change[0, Fit.ANGLE], change[0, Fit.LOG_ZOOM] = np.radians(angle), np.log(zoom)
    return lambda images, others, generator: warped(images, change.expand(len(images), 6)).clamp(0, 1)


def _jpeg(quality: int) -> Kind:
    return lambda images, others, generator: torch.stack([_compressed(image, quality) for image in images])


def _compressed(image: Tensor, quality: int) -> Tensor:
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(buffer, "JPEG", quality=quality)
    read = np.array(Image.open(buffer), dtype=np.float32).reshape(pixels.shape) / 255
    return torch.from_numpy(read).permute(2, 0, 1)


def _blurred(images: Tensor, others: Tensor, generator: np.random.Generator) -> Tensor:
    for axis in (2, 3):
        sigma = images.shape[axis] / _SIDE
        radius = max(1, round(3 * sigma))
        kernel = torch.exp(-torch.arange(-radius, radius + 1).double().square() / (2 * sigma**2))
        pad = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        wide = F.pad(images, pad, mode="replicate")
        weights = (kernel / kernel.sum()).float().reshape(shape)
        images = F.conv2d(wide.flatten(0, 1)[:, None], weights).reshape(images.shape)
    return images


def _cropped(images: Tensor, others: Tensor, generator: np.random.Generator) -> Tensor:
    height, width = images.shape[-2:]
    top, left = max(1, round(height * 0.05)), max(1, round(width * 0.05))
    cropped = images[..., top : height - top, left : width - left]
    return F.interpolate(cropped, size=(height, width), mode="bicubic", antialias=True).clamp(0, 1)


def _occluded(images: Tensor, others: Tensor, generator: np.random.Generator) -> Tensor:
    made, height, width = images.clone(), images.shape[-2] // 2, images.shape[-1] // 2
    for image, corner in zip(made, generator.integers(4, size=len(images)), strict=True):
        rows = slice(None, height) if corner < 2 else slice(-height, None)
        columns = slice(None, width) if corner % 2 == 0 else slice(-width, None)
        image[:, rows, columns] = 0.5
    return made


def _put_together(rows: float, columns: float) -> Kind:
    """The upper left of the copied images, up to these shares of height and width, in other images."""

    def made(images: Tensor, others: Tensor, generator: np.random.Generator) -> Tensor:
        found = others.clone()
        height, width = round(rows * images.shape[-2]), round(columns * images.shape[-1])
        found[..., :height, :width] = images[..., :height, :width]
        return found

    return made


KINDS: Mapping[str, Kind] = {
    "exact": lambda images, others, generator: images,
    "noise .1": _noisy(0.1),
    "noise .2": _noisy(0.2),
    "noise .3": _noisy(0.3),
    "half the contrast": lambda images, others, generator: 0.5 + 0.5 * (images - 0.5),
    "brighter by .2": lambda images, others, generator: (images + 0.2).clamp(0, 1),
    "gamma 1.6": lambda images, others, generator: images**1.6,
    "JPEG quality 30": _jpeg(30),
    "JPEG quality 5": _jpeg(5),
    "mirrored": lambda images, others, generator: images.flip(3),
    "shifted by 1/2 pixel": _moved(x=0.5, y=0.5),
    "shifted by 1 pixel": _moved(x=1.0),
    "shifted by 2 pixels": _moved(x=2.0, y=-2.0),
    "cropped by 10 %": _cropped,
    "turned by 5 degrees": _moved(angle=5.0),
    "turned by 15 degrees": _moved(angle=15.0),
    "blurred by 1 pixel": _blurred,
    "negative": lambda images, others, generator: 1 - images,
    "a quarter occluded": _occluded,
    "left half": _put_together(1.0, 0.5),
    "upper half": _put_together(0.5, 1.0),
    "a quarter": _put_together(0.5, 0.5),
}
