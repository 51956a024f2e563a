"""Checkpoints of the authors of Kadkhodaie et al. (ICLR 2024), in both of their layouts.

Their files are plain state dicts, written by torch.save or safetensors. The names and shapes of the tensors tell which
network they belong to, with one exception: whether a ReLU follows the first convolution of a BF-CNN changes no tensor.
A wrong guess would load without any error and denoise differently, so the user must state it. (Only the legacy layout
implies it: all files released in that layout have the ReLU.)

Source: Kadkhodaie et al. (ICLR 2024), released code; Kadkhodaie & Simoncelli (arXiv 2007.13640), released checkpoints,
for the legacy layout.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import JsonValue, TypeAdapter, ValidationError
from torch import Tensor

from memgen.base import files
from memgen.base.errors import ConfigError, DataError, first_line
from memgen.models.checkpoints import (
    State,
    architecture_name,
    assemble,
    first_problem,
    guess_architecture,
    name_list,
    read_safetensors,
    shapes_of,
)
from memgen.models.foreign import ImportedCheckpoint, ImportOptions
from memgen.models.networks import ArchitectureSettings

ORDER = 1  # it accepts any file of weights, so that a refusal can say what is wrong with the file
OPTIONS = ("first_layer_linear",)
KIND = "the weights of a UNet, BF-CNN or BF_CNN_RF (a state dict, written by torch.save or safetensors)"

# The bytes with which torch.save began its files before it wrote zip archives (torch 1.5 and older).
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_ZIP, _PICKLE = b"PK", b"\x80"
_REMEDY = "save its state_dict where it was made (torch.save(network.state_dict(), file)), and import that"


def reads(source: Path) -> bool:
    """Whether a file begins like safetensors, torch.save or a pickle, whatever its suffix."""
    if not source.is_file():
        return False
    head = _head(source)
    return _is_safetensors(head) or head.startswith((_ZIP, _PICKLE))


def load(source: Path, image_size: tuple[int, int], options: ImportOptions) -> ImportedCheckpoint:
    """The network in an authors' file: a state dict of a UNet, BF-CNN or BF_CNN_RF, in the current or legacy layout.

    Args:
        source: a file written by torch.save or safetensors; keys may carry the prefix `module.` of DataParallel.
        image_size: (H, W) of the images it will denoise; the number of channels is read off the weights.
        options: what the weights do not tell.

    Raises:
        DataError: naming the file, if it is missing or damaged, can execute code, holds NaN, or fits no known network.
        ConfigError: the options are needed and missing, or contradict the file.
    """
    state, layout = _current_layout(_without_prefix(_read(source)))
    guess = guess_architecture(shapes_of(state))
    if guess is None:
        raise DataError(
            f"{source}: holds {name_list(list(state))}, no known network. Known are UNet (encoder.0.0.weight, "
            f"mid_block.0.weight, ...) and BF-CNN (conv_layers.0.weight, with BN_layers.0.gammas or gammas.0, ...). "
            f"Weights of a network of yours do not say what it computes: save it with torch.export or TorchScript, or "
            f"name a function that makes it (docs/models.md)."
        )
    values, channels = guess
    linear, reason = _first_layer(source, values, layout, options.first_layer_linear)
    if values["architecture"] == "bf_cnn":
        values["first_layer_linear"] = linear
    try:
        settings: ArchitectureSettings = TypeAdapter(ArchitectureSettings).validate_python(values)
    except ValidationError as error:
        raise DataError(f"{source}: looks like {architecture_name(values)}, but {first_problem(error)}.") from error
    network = assemble(source, state, settings, (channels, *image_size))
    provenance: dict[str, JsonValue] = {
        "source": source.name,
        "source_digest": files.digest_file(source),
        "layout": layout,
        "first_layer_linear": reason,
    }
    return ImportedCheckpoint(network, settings, provenance)


def _first_layer(source: Path, values: dict[str, Any], layout: str, stated: bool | None) -> tuple[bool, str]:
    """Whether the first layer is linear, and how this is known."""
    known = {"unet": False, "bf_cnn_rf": True}.get(values["architecture"])
    if known is not None:
        if stated not in (None, known):
            raise ConfigError(
                f"{source}: first_layer_linear = {str(stated).lower()} was stated, but the first layer of "
                f"{architecture_name(values)} is always {'linear' if known else 'followed by a ReLU'}. Leave it out."
            )
        return known, "always so in this architecture"
    if stated is not None:
        return stated, "stated"
    if layout == "legacy":
        return False, "implied by the legacy layout"
    raise ConfigError(
        f"{source}: is {architecture_name(values)}, whose weights do not tell whether a ReLU follows the first "
        f"convolution; a wrong choice denoises differently without any error. State first_layer_linear: false "
        f"(with ReLU) is the default of the authors' training script, true (without) that of their loading script."
    )


def _without_prefix(state: State) -> State:
    if all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _current_layout(state: State) -> tuple[State, Literal["current", "legacy"]]:
    """The state dict under current names, and the layout it came in."""
    legacy = re.compile(r"(gammas|running_sd)\.(\d+)")
    renamed = {legacy.sub(r"BN_layers.\2.\1", key) if legacy.fullmatch(key) else key: state[key] for key in state}
    return renamed, "current" if renamed.keys() == state.keys() else "legacy"


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(32)


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{"


def _read(path: Path) -> State:
    """The tensors of a file; its first bytes tell its kind, since suffixes are not reliable."""
    head = _head(path)
    if _is_safetensors(head):
        state = read_safetensors(path)
    elif head.startswith(_ZIP):
        _check_archive(path)
        state = _read_torch(path)
    elif head.startswith(_OLD_TORCH):
        state = _read_torch(path)
    else:
        raise DataError(f"{path}: a pickle, which executes code when opened; {_REMEDY}.")
    odd = [str(key) for key, value in state.items() if not (isinstance(key, str) and _is_plain(value))]
    if odd or not state:
        found = f"values that are not plain tensors ({name_list(odd)})" if odd else "no tensors"
        raise DataError(f"{path}: holds {found}, where a state dict was expected; {_REMEDY}.")
    return state


def _check_archive(path: Path) -> None:
    """Refuse zip archives of another kind, and damaged ones, which torch.load does not always notice."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
            damaged = archive.testzip() is not None  # torch.load compares no checksum
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: damaged ({error}). Copy it again.") from error
    if damaged:
        raise DataError(f"{path}: damaged (a checksum is wrong). Copy it again.")
    if "data.pkl" not in names:
        raise DataError(f"{path}: a zip archive, but not of torch.save. Choose the file of the weights.")


def _read_torch(path: Path) -> dict[Any, Any]:
    try:
        with open(path, "rb") as file:  # given a name, torch.load goes by its suffix
            value = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        found = f"holds more than tensors ({name[1]})" if name else "is damaged or holds more than tensors"
        raise DataError(f"{path}: {found}, and may execute code when opened; {_REMEDY}.") from error
    except Exception as error:  # damaged files fail in the unpickler in every possible way
        raise DataError(f"{path}: damaged ({type(error).__name__}: {first_line(error)}). Copy it again.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a {type(value).__name__}, not a state dict; {_REMEDY}.")
    return value


def _is_plain(value: Any) -> bool:
    """Whether a value is an ordinary tensor of real numbers."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not (value.is_complex() or value.is_quantized)
    )
