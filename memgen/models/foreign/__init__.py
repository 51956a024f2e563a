"""Models that other programs made, one file for each format.

To add a format, add a module to this package. memgen finds it there. The module defines what `Format` lists. Formats do
not import each other, and no format executes anything that a file holds unless the option `trust_code` says that it may
(`require_trust`).

A format gives an ImportedCheckpoint where the weights belong to a network that memgen has itself, and a run keeps a
copy of it; or a ForeignModel, which stays where it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import torch
from pydantic import Field, JsonValue
from torch import Tensor

from memgen.base import files
from memgen.base.config import Settings
from memgen.base.discovery import modules_of
from memgen.base.errors import ConfigError, DataError, MemgenError, first_line
from memgen.models.denoiser import Denoiser
from memgen.models.networks import ArchitectureSettings, BiasFreeNetwork


class ImportOptions(Settings):
    """What a source of a model does not tell."""

    first_layer_linear: bool | None = Field(
        None, description="BF-CNN only: true if no ReLU follows the first convolution; its weights do not tell"
    )
    label: int | None = Field(None, ge=0, description="class that is denoised, of a model of classes")
    condition: Path | None = Field(
        None, description="what a text encoder made of the text, for a model of texts: FILE.npy, (tokens, width)"
    )
    guidance: float | None = Field(
        None, ge=0, description="weight of classifier-free guidance by the label or the condition; 1 is none"
    )
    scheduler: Path | None = Field(None, description="folder of the scheduler of a model of diffusers")
    trust_code: bool = Field(False, description="whether code of the source may run; it can do anything that you can")


@dataclass(frozen=True, eq=False)
class ImportedCheckpoint:
    """A network from a file that another program wrote.

    Attributes:
        network: on the CPU, in eval mode, without gradients.
        settings: its architecture.
        provenance: JSON values for `extra` of `checkpoints.save`: the file, its digest, its layout, and the source of
            each setting that the weights do not tell.
    """

    network: BiasFreeNetwork
    settings: ArchitectureSettings
    provenance: dict[str, JsonValue]


@dataclass(frozen=True, eq=False)
class ForeignModel:
    """A model that stays where it is, since memgen has no format of its own for it.

    Attributes:
        denoiser: the model as a denoiser, in eval mode, without gradients of its weights.
        digests: of each file that it depends on, by its path.
        about: JSON values that say what it is.
    """

    denoiser: Denoiser
    digests: dict[str, str]
    about: dict[str, JsonValue]


@runtime_checkable
class Format(Protocol):
    """What a module of this package defines.

    Attributes:
        ORDER: formats with a lower number are asked first. A format that its first bytes or its files identify has 0; a
            format of plain weights, which accepts whatever the others leave, has 1.
        KIND: what it reads, as part of an error message.
        OPTIONS: names of the options that it reads, besides trust_code.
    """

    ORDER: int
    KIND: str
    OPTIONS: tuple[str, ...]

    def reads(self, source: Path) -> bool:
        """Whether a file or folder is of this format; decided by its first bytes or its files, not by all of it."""
        ...

    def load(
        self, source: Path, image_size: tuple[int, int], options: ImportOptions
    ) -> ImportedCheckpoint | ForeignModel:
        """The model in a source that `reads` accepts.

        Args:
            source: a file or a folder.
            image_size: (H, W) of the images that it will denoise.
            options: what the source does not tell.

        Raises:
            DataError: naming the source, if it is damaged, can execute code, holds NaN, or fits no known network.
            ConfigError: the options are needed and missing, or contradict the source.
        """
        ...


def all_formats() -> list[Format]:
    """The modules of this package, in the order in which they are asked."""
    return [cast(Format, module) for module in modules_of(__name__, __path__)]


def load(source: Path, image_size: tuple[int, int], options: ImportOptions) -> ImportedCheckpoint | ForeignModel:
    """The model in a source that another program wrote, loaded by the first format that accepts it.

    Args:
        source: a file or a folder.
        image_size: (H, W) of the images that it will denoise; the number of channels is read off the weights.
        options: what the source does not tell.

    Raises:
        DataError: naming the source, if it is missing or damaged, is of no known format, can execute code, holds NaN,
            or fits no known network.
        ConfigError: the options are needed and missing, or contradict the source.
    """
    try:
        found = next((format_ for format_ in all_formats() if format_.reads(source)), None)
        empty = found is None and source.stat().st_size == 0 and source.is_file()
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}). Check the path.") from error
    if empty:
        raise DataError(f"{source}: the file is empty. Copy it again.")
    if found is None:
        known = "; ".join(format_.KIND for format_ in all_formats())
        raise DataError(f"{source}: not a kind of checkpoint that memgen reads. It reads {known}.")
    for name in options.model_fields_set - {"trust_code", *found.OPTIONS}:
        if getattr(options, name) is not None:
            raise ConfigError(f"{source}: the option {name} does nothing with {found.KIND}. Leave it out.")
    loaded = found.load(source, image_size, options)
    if isinstance(loaded, ForeignModel):
        if isinstance(loaded.denoiser, torch.nn.Module):
            loaded.denoiser.eval().requires_grad_(False)
        check(loaded.denoiser, source)
    return loaded


def check(denoiser: Denoiser, source: Path) -> None:
    """Try a denoiser on two images at two noise levels.

    Raises:
        DataError: naming the source, if it fails, or gives images of another shape or type, or NaN.
    """
    shape = (2, *denoiser.image_shape)
    noisy = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            found = denoiser(noisy, torch.tensor([0.1, 0.5]))
    except MemgenError:
        raise
    except Exception as error:  # of a foreign network
        raise DataError(
            f"{source}: fails on two images of {shape[1:]} ({first_line(error)}). Use --resize if it takes another "
            "size; a file with a fixed number of images must be exported again, with any number."
        ) from error
    if not isinstance(found, Tensor) or tuple(found.shape) != shape or found.dtype != torch.float32:
        what = f"{tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise DataError(f"{source}: gives {what} for images of shape {shape}, expected the same shape in float32.")
    if not bool(torch.isfinite(found).all()):
        raise DataError(f"{source}: gives NaN or infinity for images in [0, 1]. Check its weights and its scheduler.")


def digests(paths: Sequence[Path]) -> dict[str, str]:
    """The digest of each file, by its path.

    Raises:
        DataError: a file cannot be read.
    """
    return {str(path.resolve()): files.digest_file(path) for path in paths}


def require_trust(source: Path, options: ImportOptions, what: str) -> None:
    """Refuse a source whose code would run, unless the person said that it may.

    Raises:
        DataError: it was not said.
    """
    if not options.trust_code:
        raise DataError(
            f"{source}: {what}, which runs code: it can read, change and send whatever you can. If you trust whoever "
            "made it, add --trust-code."
        )
