"""Images from one tensor in a file of torch.save, .pt or .pth. A file with anything but tensors is refused."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from memgen.base.errors import DataError, first_line
from memgen.base.progress import Progress
from memgen.images.arrays import from_array
from memgen.images.prepare import FoundImages, ReadSettings

ORDER = 0
KIND = "a tensor of torch.save (.pt, .pth)"


def reads(source: Path) -> bool:
    """Whether the suffix of a file is .pt or .pth."""
    return source.is_file() and source.suffix.lower() in (".pt", ".pth")


def read(source: Path, settings: ReadSettings, report: Progress) -> FoundImages:
    """The images of the file's only tensor; see `readers.Reader` and `arrays.from_array`."""
    return from_array(source, _load(source), settings, report)


def _load(path: Path) -> NDArray[Any]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\.")  # about storages of files that old versions wrote
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: holds objects other than tensors, which memgen never opens. Save one tensor with torch.save."
        ) from error
    except Exception as error:  # torch raises many kinds for damaged files
        raise DataError(
            f"{path}: damaged, or not a torch file ({first_line(error)}). Save the tensor again with torch.save."
        ) from error
    if isinstance(loaded, dict):
        names = [str(name) for name, value in loaded.items() if isinstance(value, torch.Tensor)]
        if len(loaded) != 1 or len(names) != 1:
            raise DataError(
                f"{path}: found tensors {', '.join(names[:8]) or 'none'}, expected one. Save the images alone."
            )
        loaded = next(iter(loaded.values()))
    if not isinstance(loaded, torch.Tensor) or loaded.layout != torch.strided:
        raise DataError(
            f"{path}: holds a {type(loaded).__name__}, expected one dense tensor of images. Save that with torch.save."
        )
    loaded = loaded.detach()
    return (loaded.float() if loaded.dtype == torch.bfloat16 else loaded).numpy()
