"""Networks in files that hold a program of tensor operators instead of Python: TorchScript, torch.export and ONNX.

To add a format, add a module to this package. memgen finds it there. The module defines what `Format` lists. No format
runs Python that a file holds; what each one lets a file do instead stands in its docstring.
"""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

from torch import Tensor

from memgen.base.discovery import modules_of


@dataclass(frozen=True, eq=False)
class Program:
    """A network of tensor operators.

    Attributes:
        run: makes one tensor, or several of them, into what the network gives. It is a torch.nn.Module where the
            network can run on another device; elsewhere it takes and gives tensors on the CPU.
        inputs: the number of tensors that it takes.
        files: the files that it depends on.
        kind: the format, in a word.
        versions: of the packages that run it, by name.
    """

    run: Callable[..., Any]
    inputs: int
    files: tuple[Path, ...]
    kind: str
    versions: dict[str, str]

    def __call__(self, *tensors: Tensor) -> Any:
        """What the network gives for tensors."""
        return self.run(*tensors)


@runtime_checkable
class Format(Protocol):
    """What a module of this package defines.

    Attributes:
        KIND: what it reads, as part of an error message.
    """

    KIND: str

    def reads(self, path: Path) -> bool:
        """Whether a file is of this format; decided by its name and its list of contents."""
        ...

    def load(self, path: Path) -> Program:
        """The program of a file that `reads` accepts.

        Raises:
            DataError: naming the file, if it is damaged, or could touch files or leave PyTorch.
            ConfigError: a package is not installed.
        """
        ...


def all_formats() -> list[Format]:
    """The modules of this package."""
    return [cast(Format, module) for module in modules_of(__name__, __path__)]


def kinds() -> str:
    """What the formats read, for an error message."""
    *others, last = [format_.KIND for format_ in all_formats()]
    return f"{', '.join(others)} or {last}"


def find(path: Path) -> Format | None:
    """The format of a file; None if it is no program."""
    return next((format_ for format_ in all_formats() if format_.reads(path)), None)


def reason(error: Exception) -> str:
    """Why a network failed: the last line of the message, since PyTorch's interpreter puts a traceback before it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")[:300]


def members(path: Path) -> list[str]:
    """The names of the files in a zip archive, without their common first folder; none for anything else."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return []
    with zipfile.ZipFile(path) as archive:
        return [name.partition("/")[2] for name in archive.namelist()]
