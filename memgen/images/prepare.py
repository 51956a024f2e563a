"""What all readers of images share: their settings, their result, and the steps that every image goes through."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from memgen.base.config import Settings
from memgen.base.strings import Strings
from memgen.images import levels

TRANSPARENT = "has transparent pixels"  # why an image is left out where the settings say so
_FEW_COLORED = 0.05  # of the images: so few with color may be there by mistake


class ReadSettings(Settings):
    """How images are read."""

    resize: int | None = Field(
        default=None, ge=1, description="side of the square images, in pixels; None keeps their size"
    )
    color: Literal["auto", "gray", "rgb"] = Field(
        default="auto", description="gray, rgb, or auto: RGB if any pixel of any image has color"
    )
    range: Annotated[tuple[float, float] | None, BeforeValidator(levels.parse)] = Field(
        default=None,
        description="the values that become black and white, such as [0, 4095] or [-1, 1]; None takes what the files "
        "state",
    )
    alpha: Literal["white", "black", "skip"] = Field(
        default="white", description="background of transparent pixels; skip leaves such images out"
    )
    limit: int | None = Field(
        default=None, ge=1, description="import only so many images, the first ones, before near-duplicates are removed"
    )


@dataclass(frozen=True, eq=False)
class FoundImages:
    """The images that a reader found in a source.

    Attributes:
        pixels: (N, C, H, W), uint8 in [0, 255] or float32 in [0, 1].
        sources: where each image comes from, N strings (see names.py).
        skipped: the reason for each file, or frame of a file, that was left out, by its name (see names.py).
        warnings: what the person should know of the images, in sentences.
        groups: what each image belongs to (a volume, a patient), N strings, where the files state it; None elsewhere.
        of_groups: what the person should know of these groups if they are used, in sentences.
    """

    pixels: NDArray[Any]
    sources: Strings
    skipped: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    groups: Strings | None = None
    of_groups: list[str] = field(default_factory=list)


def resized(images: torch.Tensor, side: int) -> torch.Tensor:
    """Images (B, C, H, W), uint8 or float32, with the short side resized to `side`, center-cropped to a square."""
    height, width = images.shape[-2:]
    scale = side / min(height, width)
    size = (max(side, round(height * scale)), max(side, round(width * scale)))
    if size != (height, width):
        images = F.interpolate(images, size=size, mode="bicubic", antialias=True)
        if images.dtype != torch.uint8:
            images = images.clamp(0, 1)  # bicubic overshoots at edges; uint8 saturates by itself
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return images[..., top : top + side, left : left + side]


def has_color(images: NDArray[Any]) -> NDArray[np.bool_]:
    """Which images (B, C, H, W) have a pixel whose channels differ, (B,)."""
    differs: NDArray[np.bool_] = (images != images[:, :1]).any(axis=(1, 2, 3))
    return differs


def few_colored(colored: Sequence[str], count: int) -> list[str]:
    """What to tell the person if a few images make all others have three channels, in a sentence; else nothing.

    Args:
        colored: names of the images that have color.
        count: number of all images.
    """
    if not 0 < len(colored) < _FEW_COLORED * count:
        return []
    listed = ", ".join(colored[:3]) + (", ..." if len(colored) > 3 else "")
    return [
        f"Color was found in only {len(colored)} of {count:,} images ({listed}), and because of them all images have "
        f"three channels. If that is not meant, take them out, or import with --set data.color=gray."
    ]


def gray(images: NDArray[Any]) -> NDArray[Any]:
    """The plain mean of three channels, (B, 3, H, W) to (B, 1, H, W); integers are rounded."""
    if images.dtype == np.uint8:
        total: NDArray[Any] = images.sum(axis=1, keepdims=True, dtype=np.uint16)
        return ((total + 1) // 3).astype(np.uint8)
    mean: NDArray[Any] = images.mean(axis=1, keepdims=True, dtype=np.float64)
    return mean.astype(np.float32)


def prepared(images: NDArray[Any], resize: int | None, channels: int) -> NDArray[Any]:
    """Images (B, C, H, W) resized to squares of side `resize` (None keeps their size), with the channels asked for."""
    if resize is not None:
        images = resized(torch.from_numpy(np.ascontiguousarray(images)), resize).numpy()
    if images.shape[1] == channels:
        return images
    return gray(images) if channels == 1 else np.repeat(images, channels, axis=1)
