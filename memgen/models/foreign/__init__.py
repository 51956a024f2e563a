"""Checkpoints that other programs wrote, one file for each format.

To add a format, add a module to this package. memgen finds it there. The module defines what `Format` lists. Formats do
not import each other, and no format executes anything that a file holds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from pydantic import Field, JsonValue

from memgen.base.config import Settings
from memgen.base.discovery import modules_of
from memgen.base.errors import DataError
from memgen.models.networks import ArchitectureSettings, BiasFreeNetwork


class ImportOptions(Settings):
    """Facts about a network that its file of weights does not contain."""

    first_layer_linear: bool | None = Field(
        None, description="BF-CNN only: true if no ReLU follows the first convolution; its weights do not tell"
    )


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


@runtime_checkable
class Format(Protocol):
    """What a module of this package defines.

    Attributes:
        ORDER: formats with a lower number are asked first. A format that its first bytes or its files identify has 0; a
            format of plain weights, which accepts whatever the others leave, has 1.
        KIND: what it reads, as part of an error message.
    """

    ORDER: int
    KIND: str

    def reads(self, source: Path) -> bool:
        """Whether a file or folder is of this format; decided by its first bytes or its files, not by all of it."""
        ...

    def load(self, source: Path, image_size: tuple[int, int], options: ImportOptions) -> ImportedCheckpoint:
        """The network in a source that `reads` accepts.

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


def load(source: Path, image_size: tuple[int, int], options: ImportOptions) -> ImportedCheckpoint:
    """The network in a checkpoint that another program wrote, loaded by the first format that accepts it.

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
        empty = source.stat().st_size == 0 and source.is_file()
        found = next((format_ for format_ in all_formats() if format_.reads(source)), None)
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}). Check the path.") from error
    if empty:
        raise DataError(f"{source}: the file is empty. Copy it again.")
    if found is None:
        known = "; ".join(format_.KIND for format_ in all_formats())
        raise DataError(f"{source}: not a kind of checkpoint that memgen reads. It reads {known}.")
    return found.load(source, image_size, options)
