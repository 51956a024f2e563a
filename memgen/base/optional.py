"""Packages that only some formats need: imported when one is asked for; an error says how to install them."""

import functools
import importlib
from typing import Any

import torch

from memgen.base.errors import ConfigError, first_line


def package(name: str, extra: str, what: str, torchvision: bool = False) -> Any:
    """An optional package.

    Args:
        name: its module.
        extra: the extra of memgen that installs it.
        what: what needs it, as the subject of a sentence.
        torchvision: whether it imports torchvision, which is then made importable first.

    Raises:
        ConfigError: the package, or torchvision where it is needed, is missing or broken.
    """
    try:
        if torchvision:
            _import_torchvision()
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        both = f"packages {name} and torchvision" if torchvision else f"package {name}"
        raise ConfigError(f"{what} needs the {both} ({first_line(error)}). {install(extra)}.") from error


def install(extra: str) -> str:
    """How to install an extra, as a sentence without its full stop. No registry has memgen: its source does."""
    return f"In the folder of memgen's source, run: pip install -c constraints.txt '.[{extra}]'"


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        # Beside a CPU build of torch, a torchvision built for CUDA cannot load its own operators, and fails where it
        # describes them. No space uses any of them: declaring the two is enough.
        if torch.version.cuda is not None:
            raise
        _declare_operators()
        importlib.import_module("torchvision")


@functools.cache  # the declarations last as long as the library object
def _declare_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    return library
