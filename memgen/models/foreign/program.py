"""Denoisers in files of tensor operators (TorchScript, torch.export, ONNX), which need no code of their authors.

The program takes noisy images (B, C, H, W) and, unless it is blind, their noise levels (B,). A file beside it, named
like it with .json at the end (network.pt.json), may say in which units, if they are not memgen's:

    {"predicts": "denoised", "pixels": [0, 1]}       the default: denoised images, black is 0 and white is 1
    {"predicts": "noise", "pixels": [-1, 1]}         the noise n of y = x + s n; black is -1 and white is 1
    {"predicts": "residual"}                         s n, as the networks of Kadkhodaie et al. do inside

The noise level s is in the units of the pixels. A program of another kind, such as one that takes a time, is wrapped
before it is exported. What such a file can do stands in `memgen.base.programs`.
"""

from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import JsonValue, model_validator
from torch import Tensor

from memgen.base import files, programs
from memgen.base.config import Settings, validate
from memgen.base.errors import DataError
from memgen.base.programs import Program
from memgen.models.foreign import ForeignModel, ImportOptions, digests

ORDER = 0
OPTIONS = ()
KIND = f"a program of {programs.kinds()}"


class Units(Settings):
    """What FILE.json says of a program."""

    predicts: Literal["denoised", "noise", "residual"] = "denoised"
    pixels: tuple[float, float] = (0.0, 1.0)

    @model_validator(mode="after")
    def _black_below_white(self) -> Self:
        if not self.pixels[0] < self.pixels[1]:
            raise ValueError(f"pixels = {list(self.pixels)}: expected black below white, such as [-1, 1]")
        return self


def reads(source: Path) -> bool:
    """Whether a file is a program of one of the formats."""
    return programs.find(source) is not None


def load(source: Path, image_size: tuple[int, int], options: ImportOptions) -> ForeignModel:
    """The program of a file; see `foreign.Format`."""
    format_ = programs.find(source)
    assert format_ is not None
    stated = source.with_name(f"{source.name}.json")
    _refuse_misnamed(source, stated)
    units = validate(Units, files.read_json(stated), source=str(stated)) if stated.exists() else Units()
    program = format_.load(source)
    if program.inputs not in (1, 2):
        raise DataError(
            f"{source}: takes {program.inputs} tensors, expected noisy images and their noise levels, or noisy images "
            "alone. Wrap the network in a module that takes these, and export that."
        )
    if program.inputs == 1 and units.predicts == "noise":
        raise DataError(
            f"{source}: takes no noise levels, so it cannot predict noise of unit variance. If it predicts the noise "
            f'as it is in the image, state "predicts": "residual" in {stated.name}.'
        )
    reasons = []
    for channels in (1, 3):
        denoiser = ProgramDenoiser(program, units, (channels, *image_size)).eval()
        try:
            with torch.inference_mode():
                denoiser(torch.zeros(2, *denoiser.image_shape), torch.ones(2))
        except Exception as error:  # a network fails in every possible way
            reasons.append(f"{channels} channels: {programs.reason(error)}")
            continue
        about: dict[str, JsonValue] = {"format": program.kind, **units.model_dump(mode="json"), **program.versions}
        needed = [*program.files, *([stated] if stated.exists() else [])]
        return ForeignModel(denoiser, digests(needed), about)
    width, height = image_size[::-1]
    raise DataError(
        f"{source}: fails on two images of {width} x {height} pixels ({'; '.join(reasons)}). Use --resize if it takes "
        "another size. If it takes a fixed number of images, export it again for any number (dynamic_shapes)."
    )


def _refuse_misnamed(source: Path, stated: Path) -> None:
    """Refuse units of network.pt that stand in network.json, where nobody would read them.

    Raises:
        DataError: they do.
    """
    other = source.with_suffix(".json")
    try:
        found = {} if stated.exists() or not other.is_file() else files.read_json(other)
    except DataError:  # whatever it is, it is not about this program
        return
    if isinstance(found, dict) and found and found.keys() <= Units.model_fields.keys():
        raise DataError(f"{other}: states units, but those of {source.name} are read from {stated.name}. Rename it.")


class ProgramDenoiser(torch.nn.Module):
    """A program as a denoiser, in units where pixels lie in [0, 1].

    Args:
        program: takes one tensor or two.
        units: of the program.
        image_shape: (C, H, W).

    Attributes:
        image_shape: (C, H, W).
        blind: whether the program takes no noise levels.
    """

    def __init__(self, program: Program, units: Units, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.run, self.units, self.image_shape = program.run, units, image_shape
        self.blind = program.inputs == 1

    def forward(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The denoised images; see `memgen.models.denoiser.Denoiser`."""
        black, white = self.units.pixels
        scale = white - black
        given = [noisy * scale + black]
        if not self.blind:
            assert sigma is not None
            given.append(sigma * scale)
        if not isinstance(self.run, torch.nn.Module):
            given = [each.cpu() for each in given]
        found: Tensor = self.run(*given)
        if not isinstance(found, Tensor):
            return found  # `foreign.check` says what is wrong
        found = found.to(noisy.device)
        if self.units.predicts == "residual":
            return noisy - found / scale
        if self.units.predicts == "noise":
            assert sigma is not None
            return noisy - sigma.view(-1, 1, 1, 1) * found
        return (found - black) / scale
