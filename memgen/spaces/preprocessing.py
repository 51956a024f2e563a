"""What becomes of an image before a network sees it: stated by whoever published the network, and recorded.

The same image gives another vector if it is resized or scaled in another way, so nothing here is guessed. A source that
states its preprocessing is read by its format (`spaces.embedders`); beside any other lies a JSON file, `FILE.json` for
`FILE`, with the fields of `Preprocessing`.

Images are resized by Pillow in 32-bit floating point, channel by channel, without the rounding to 8 bits of the
pipelines of torchvision, timm, open_clip and transformers. Apart from it the results are the same. Where an image is
made smaller, Pillow averages over all pixels that fall together.
"""

import json
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, PositiveInt, ValidationError, model_validator
from torch import Tensor

from memgen.base.config import Settings
from memgen.base.errors import DataError, ShapeError

_EXAMPLE = (
    '{"side": 224, "fit": "squash", "interpolation": "bicubic", '
    '"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "channels": "RGB", "range": 1}'
)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow's conversion of RGB to gray


class Preprocessing(Settings):
    """How an image in [0, 1] becomes the input of a network."""

    side: PositiveInt = Field(description="height and width of the network's input, in pixels")
    fit: Literal["squash", "crop", "whole"] = Field(
        "squash",
        description="squash: both sides become `side`. crop: the shorter side becomes `shorter`, and the center is cut "
        "out. whole: the shorter side becomes `side`, and nothing is cut off",
    )
    shorter: PositiveInt | None = Field(None, description="with crop: the shorter side before the center is cut out")
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    channels: Literal["RGB", "BGR", "L"] = Field("RGB", description="order of the channels; L: one gray channel")
    range: Literal[1, 255] = Field(1, description="value of white before mean and std are applied")
    mean: tuple[float, ...] = Field(description="subtracted from each channel, in the order of `channels`")
    std: tuple[float, ...] = Field(description="by which each channel is divided after that")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        wanted = 1 if self.channels == "L" else 3
        if not len(self.mean) == len(self.std) == wanted:
            raise ValueError(f"found {len(self.mean)} mean and {len(self.std)} std, expected {wanted} of each")
        if min(self.std) <= 0:
            raise ValueError(f"found std = {list(self.std)}, expected numbers above 0")
        if (self.shorter is not None) != (self.fit == "crop"):
            raise ValueError("shorter belongs to fit = crop, which needs it")
        if self.shorter is not None and self.shorter < self.side:
            raise ValueError(f"found shorter = {self.shorter}, expected at least side = {self.side}")
        return self

    def __call__(self, image: Tensor) -> Tensor:
        """The input of the network for one image.

        Pixels outside [0, 1] are clipped, before and while resizing, as those of an 8-bit file would be.

        Args:
            image: (C, H, W) float32 on the CPU in pixel units, with C = 1 or 3.

        Returns:
            (1, c, h, w) float32, with c = 1 for gray networks, else 3; h = w = side unless `fit` is whole.

        Raises:
            ShapeError: the image is neither gray nor RGB.
        """
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ShapeError(f"found an image of shape {tuple(image.shape)}, expected (C, H, W) with C = 1 or 3.")
        image = image.clamp(0, 1)
        if self.channels == "L":
            image = image if len(image) == 1 else (image * torch.tensor(_LUMA).view(3, 1, 1)).sum(dim=0, keepdim=True)
        else:
            image = image.expand(3, -1, -1)
        image = self._resized(image)
        image = image.flip(0) if self.channels == "BGR" else image
        mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (self.mean, self.std))
        return ((image * self.range - mean) / std)[None]

    def _resized(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        target = (self.side, self.side)
        if self.fit != "squash":
            scale = (self.shorter or self.side) / min(height, width)
            target = (max(1, round(height * scale)), max(1, round(width * scale)))
        if target != (height, width):
            method = Image.Resampling[self.interpolation.upper()]
            image = torch.from_numpy(np.stack([_plane(plane, target, method) for plane in image.numpy()]))
        if self.fit == "crop":
            top, left = (target[0] - self.side) // 2, (target[1] - self.side) // 2
            image = image[:, top : top + self.side, left : left + self.side]
        return image


def _plane(plane: NDArray[np.float32], target: tuple[int, int], method: Image.Resampling) -> NDArray[np.float32]:
    """One channel, resized to (height, width): along rows, then columns, clipped after each as 8 bits would be."""
    rows = Image.fromarray(plane).resize((target[1], plane.shape[0]), method)
    both = Image.fromarray(np.asarray(rows).clip(0, 1)).resize(target[::-1], method)
    return np.asarray(both).clip(0, 1)


def path_beside(source: Path) -> Path:
    """The JSON file that states the preprocessing of a source: FILE.json for FILE."""
    return Path(f"{source}.json")


def beside(source: Path) -> Preprocessing | None:
    """The preprocessing that the JSON file beside a source states; None if there is no such file.

    Raises:
        DataError: the file is not JSON, or a field is missing, unknown or out of range; the message shows an example.
    """
    path = path_beside(source)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Write it again, such as: {_EXAMPLE}") from error
    try:
        return made(json.loads(text))
    except ValueError as error:
        raise DataError(f"{path}: no preprocessing of a network ({error}). An example: {_EXAMPLE}") from error


def made(values: object) -> Preprocessing:
    """The preprocessing of plain values.

    Raises:
        ValueError: a field is missing, unknown or out of range; the message names each.
    """
    try:
        return Preprocessing.model_validate(values)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, each['loc'])) or 'fields'}: {each['msg']}" for each in error.errors()]
        raise ValueError("; ".join(wrong)) from error


def missing(source: Path, reason: str = "it does not say how images are prepared for it") -> DataError:
    """The error for a source without a usable preprocessing: what to write, and where.

    Args:
        source: a file or folder.
        reason: what is wrong with what the source itself states.
    """
    return DataError(f"{source}: {reason}. Write what its authors say into {path_beside(source)}, such as: {_EXAMPLE}")
