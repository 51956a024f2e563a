"""Images from a tensor in a file of torch.save, .pt or .pth. Nothing but tensors and plain values is opened."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from memgen.base.errors import DataError, first_line
from memgen.base.progress import Progress
from memgen.images import archives
from memgen.images.arrays import chosen, from_array, parted
from memgen.images.prepare import FoundImages, ReadSettings

ORDER = 0
KIND = "a tensor of torch.save (.pt, .pth, or FILE.pt:NAME for a tensor in it)"


def reads(source: Path) -> bool:
    """Whether the suffix of a file is .pt or .pth."""
    path, _ = parted(source)
    return path.is_file() and path.suffix.lower() in (".pt", ".pth")


def read(source: Path, settings: ReadSettings, report: Progress) -> FoundImages:
    """The images of a tensor of the file, or of a list of tensors; see `readers.Reader` and `arrays`."""
    path, name = parted(source)
    found = _stacked(_load(path))
    shapes = {key: tuple(tensor.shape) for key, tensor in found.items()}
    return from_array(path, _as_array(path, found[chosen(path, shapes, name)]), settings, report)


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\.")  # about storages of files that old versions wrote
            return torch.load(path, map_location="cpu", weights_only=True)
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


def _stacked(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """The tensors in nested dictionaries, lists and tuples by dotted names; equal ones of a list count as one stack."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    if isinstance(value, list | tuple):
        shapes = {tuple(each.shape) if isinstance(each, torch.Tensor) else None for each in value}
        if len(shapes) == 1 and len(value) > 1 and len(next(iter(shapes)) or ()) in (2, 3):
            return {name: torch.stack([each.to(value[0].dtype) for each in value])}
        value = dict(enumerate(value))
    inner = value.items() if isinstance(value, dict) else ()
    return {
        found: tensor for key, each in inner for found, tensor in _stacked(each, f"{name}.{key}".lstrip(".")).items()
    }


def _as_array(path: Path, tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor as an array; types that NumPy lacks, such as bfloat16, become float32."""
    if tensor.layout == torch.strided:  # a few numbers may be shown as many by strides of 0
        archives.check_unpacked(path, tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size())
    try:
        dense = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
        dense = dense.dequantize() if dense.is_quantized else dense.resolve_conj().resolve_neg()
        try:
            return dense.numpy()
        except TypeError:
            return dense.float().numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise DataError(
            f"{path}: holds a tensor of type {tensor.dtype}, which cannot be read ({first_line(error)}). "
            "Save it as float32 or uint8."
        ) from error
