"""Checkpoints: networks saved, loaded, and imported from the files of the paper's authors.

A checkpoint is two files: `name.safetensors` holds the weights, and `name.json`, written last, says what they are.
There is a checkpoint if and only if the second file exists.

Authors' files are plain state dicts, written by torch.save or safetensors. What network they belong to is read off
the names and shapes of their tensors, with one exception: whether a ReLU follows the first convolution of a BF-CNN
changes no tensor. A wrong guess would load without any error and denoise differently, so it must be stated (only the
legacy layout, of which all released files have that ReLU, implies it). Nothing in a file is ever executed.

Source: Kadkhodaie et al. (ICLR 2024), released code; Kadkhodaie & Simoncelli (arXiv 2007.13640), released
checkpoints, for the legacy layout.
"""

import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import Field, JsonValue, TypeAdapter, ValidationError
from torch import Tensor

from memgen import files
from memgen.config import Settings
from memgen.denoisers import ArchitectureSettings, BiasFreeNetwork, ImageShape, build
from memgen.errors import ConfigError, DataError, ShapeError, first_line

State = dict[str, Tensor]

VERSION: Final = 1


class Manifest(Settings):
    """What the JSON file of a checkpoint says about its weights."""

    version: Literal[1] = VERSION
    architecture: ArchitectureSettings
    image_shape: ImageShape
    parameter_count: int
    weights_digest: str = Field(description="files.digest_file of the weights file")
    extra: dict[str, JsonValue] = Field(description="how the weights came about: training settings, images seen, ...")


def save(path: Path, network: BiasFreeNetwork, settings: ArchitectureSettings, extra: dict[str, Any]) -> Manifest:
    """Write a checkpoint; killed at any instant it leaves either no checkpoint at `path` or a whole one.

    Args:
        path: the weights file, ending in .safetensors; the manifest goes beside it, ending in .json.
        network: on any device, in any mode; it is not changed.
        settings: the architecture that `network` was built from.
        extra: JSON values that say how the weights came about.

    Returns:
        The manifest that was written.

    Raises:
        DataError: a weight is NaN or infinite.
        StorageError: the disk is full or the folder cannot be written.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    _require_finite(path, state)
    try:  # no moment may show a manifest beside weights that it does not describe
        path.with_suffix(".json").unlink(missing_ok=True)
    except OSError as error:
        raise files.storage_error(path.with_suffix(".json"), error) from error
    with files.writing(path) as file:
        file.write(safetensors.torch.save(state))
    manifest = Manifest(
        architecture=settings,
        image_shape=network.image_shape,
        parameter_count=network.parameter_count,
        weights_digest=files.digest_file(path),
        extra=extra,
    )
    files.write_json(path.with_suffix(".json"), manifest.model_dump(mode="json"))
    return manifest


def load(path: Path) -> tuple[BiasFreeNetwork, Manifest]:
    """The network of a checkpoint, on the CPU, in eval mode and without gradients, and its manifest.

    Args:
        path: the weights file, ending in .safetensors.

    Raises:
        DataError: naming the file, if it is missing, unfinished or damaged, does not fit its manifest, or holds NaN.
    """
    if path.suffix != ".safetensors":
        raise DataError(f"{path}: not a checkpoint of memgen (*.safetensors). Bring it in with: memgen import {path}")
    if not path.is_file():
        raise DataError(f"{path}: no such checkpoint. Train it, or bring one in with: memgen import")
    manifest = _read_manifest(path)
    if files.digest_file(path) != manifest.weights_digest:
        raise DataError(
            f"{path}: damaged, or not the file that {path.with_suffix('.json').name} describes (its digest is not "
            f"{manifest.weights_digest}). Copy both files again, or delete them and train again."
        )
    network = _assemble(path, _read_safetensors(path), manifest.architecture, manifest.image_shape)
    return network, manifest


def _read_manifest(path: Path) -> Manifest:
    manifest_path = path.with_suffix(".json")
    if not manifest_path.is_file():
        raise DataError(
            f"{path}: {manifest_path.name} is missing beside it, so it was never finished, or was copied alone. Copy "
            f"both files, run the command that wrote it again, or bring the weights in with: memgen import {path}"
        )
    values = files.read_json(manifest_path)
    version = values.get("version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise DataError(f"{manifest_path}: has format {version}, this memgen reads up to {VERSION}. Update memgen.")
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        raise DataError(
            f"{manifest_path}: not the manifest of a checkpoint ({_first_error(error)}). Copy it again, or delete it "
            f"and bring the weights in with: memgen import {path}"
        ) from error


class ImportOptions(Settings):
    """What the weights of an authors' file do not tell."""

    first_layer_linear: bool | None = Field(
        None, description="BF-CNN only: true if no ReLU follows the first convolution; its weights do not tell"
    )


@dataclass(frozen=True, eq=False)
class ImportedCheckpoint:
    """A network from an authors' file.

    Attributes:
        network: on the CPU, in eval mode, without gradients.
        settings: its architecture, as read off the weights.
        provenance: JSON values for `extra` of `save`: the file, its digest, its layout, and where the one setting
            that weights do not tell came from.
    """

    network: BiasFreeNetwork
    settings: ArchitectureSettings
    provenance: dict[str, JsonValue]


def import_checkpoint(source: Path, image_size: tuple[int, int], options: ImportOptions) -> ImportedCheckpoint:
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
    guess = _guess(_shapes(state))
    if guess is None:
        raise DataError(
            f"{source}: holds {_listed(list(state))}, no known network. Known are UNet (encoder.0.0.weight, "
            f"mid_block.0.weight, ...) and BF-CNN (conv_layers.0.weight, with BN_layers.0.gammas or gammas.0, ...)."
        )
    values, channels = guess
    linear, reason = _first_layer(source, values, layout, options.first_layer_linear)
    if values["architecture"] == "bf_cnn":
        values["first_layer_linear"] = linear
    try:
        settings: ArchitectureSettings = TypeAdapter(ArchitectureSettings).validate_python(values)
    except ValidationError as error:
        raise DataError(f"{source}: looks like {_named(values)}, but {_first_error(error)}.") from error
    network = _assemble(source, state, settings, (channels, *image_size))
    provenance: dict[str, JsonValue] = {
        "source": source.name,
        "source_digest": files.digest_file(source),
        "layout": layout,
        "first_layer_linear": reason,
    }
    return ImportedCheckpoint(network, settings, provenance)


def _first_layer(source: Path, values: dict[str, Any], layout: str, stated: bool | None) -> tuple[bool, str]:
    """Whether the first layer is linear, and how that is known."""
    known = {"unet": False, "bf_cnn_rf": True}.get(values["architecture"])
    if known is not None:
        if stated not in (None, known):
            raise ConfigError(
                f"{source}: first_layer_linear = {str(stated).lower()} was stated, but the first layer of "
                f"{_named(values)} is always {'linear' if known else 'followed by a ReLU'}. Leave it out."
            )
        return known, "always so in this architecture"
    if stated is not None:
        return stated, "stated"
    if layout == "legacy":
        return False, "implied by the legacy layout"
    raise ConfigError(
        f"{source}: is {_named(values)}, whose weights do not tell whether a ReLU follows the first convolution; a "
        f"wrong choice denoises differently without any error. State first_layer_linear: false (with ReLU) is the "
        f"default of the authors' training script, true (without) that of their loading script."
    )


def _guess(shapes: dict[str, tuple[int, ...]]) -> tuple[dict[str, Any], int] | None:
    """The architecture settings and the number of channels that names and shapes point to, or None."""
    first = shapes.get("encoder.0.0.weight", shapes.get("conv_layers.0.weight", ()))
    if len(first) != 4:
        return None
    width, channels = first[:2]
    if "encoder.0.0.weight" in shapes:
        blocks = len({key.split(".")[1] for key in shapes if key.startswith("encoder.")})
        return {"architecture": "unet", "blocks": blocks, "width": width}, channels
    kernels = [shape[-1] for key, shape in shapes.items() if re.fullmatch(r"conv_layers\.\d+\.weight", key) and shape]
    if 1 in kernels:  # the first and the last layer have kernel 3 and make 5; each further one adds 2
        receptive_field = 1 + 2 * kernels.count(3)
        return {"architecture": "bf_cnn_rf", "receptive_field": receptive_field, "width": width}, channels
    return {"architecture": "bf_cnn", "layers": len(kernels), "width": width}, channels


def _without_prefix(state: State) -> State:
    if all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _current_layout(state: State) -> tuple[State, Literal["current", "legacy"]]:
    """The state dict under current names, and the layout it came in."""
    legacy = re.compile(r"(gammas|running_sd)\.(\d+)")
    renamed = {legacy.sub(r"BN_layers.\2.\1", key) if legacy.fullmatch(key) else key: state[key] for key in state}
    return renamed, "current" if renamed.keys() == state.keys() else "legacy"


def _assemble(path: Path, state: State, settings: ArchitectureSettings, image_shape: ImageShape) -> BiasFreeNetwork:
    """The network of `settings` holding the weights of `state` as float32, once they are known to fit."""
    try:
        with torch.device("meta"):  # shapes only: nothing is allocated before the weights are known to fit
            network = build(settings, image_shape)
    except ShapeError as error:
        raise ShapeError(f"{path}: {error}") from error
    misfit = _misfit(_shapes(state), _shapes(network.state_dict()))
    if misfit:
        guess = _guess(_shapes(state))
        looks = f" It looks like {_named(guess[0])} for {guess[1]}-channel images." if guess else ""
        wanted = f"{_named(settings.model_dump())} for {image_shape[0]}-channel images"
        raise DataError(f"{path}: does not hold {wanted}: {misfit}.{looks} Choose the file that fits.")
    state = {key: value.float() for key, value in state.items()}
    _require_finite(path, state)
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def _misfit(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> str:
    """What keeps a state dict from fitting, in words; empty if it fits."""
    reshaped = [key for key in expected if key in found and found[key] != expected[key]]
    shapes = [f"{key} is {found[key]}, not {expected[key]}" for key in reshaped]
    parts = {
        "missing": [key for key in expected if key not in found],
        "unexpected": [key for key in found if key not in expected],
        "of another shape": shapes,
    }
    return "; ".join(f"{name}: {_listed(keys)}" for name, keys in parts.items() if keys)


def _require_finite(path: Path, state: State) -> None:
    for key, value in state.items():
        if not value.isfinite().all():
            raise DataError(
                f"{path}: {key} holds NaN or infinite numbers, so the training diverged. Train again with a lower "
                f"learning rate, or choose an earlier checkpoint."
            )


# The bytes with which torch.save began its files before it wrote zip archives (torch 1.5 and older).
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_REMEDY = "save its state_dict where it was made (torch.save(network.state_dict(), file)), and import that"


def _read(path: Path) -> State:
    """The tensors of a foreign file, whose kind is told by its first bytes, since suffixes are not reliable."""
    try:
        with open(path, "rb") as file:
            head = file.read(32)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    if not head:
        raise DataError(f"{path}: the file is empty. Copy it again.")
    if head[8:9] == b"{":
        state = _read_safetensors(path)
    elif head.startswith(b"PK"):
        _check_archive(path)
        state = _read_torch(path)
    elif head.startswith(_OLD_TORCH):
        state = _read_torch(path)
    elif head.startswith(b"\x80"):
        raise DataError(f"{path}: a pickle, which executes code when opened; {_REMEDY}.")
    else:
        raise DataError(f"{path}: neither safetensors nor a file of torch.save. Choose the file of the weights.")
    odd = [str(key) for key, value in state.items() if not (isinstance(key, str) and _is_plain(value))]
    if odd or not state:
        found = f"values that are not plain tensors ({_listed(odd)})" if odd else "no tensors"
        raise DataError(f"{path}: holds {found}, where a state dict was expected; {_REMEDY}.")
    return state


def _check_archive(path: Path) -> None:
    """Refuse zip archives that torch.load would read although they are damaged, or that are of another kind."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.rpartition("/")[2] for name in archive.namelist()}
            damaged = archive.testzip() is not None  # torch.load compares no checksum
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path}: damaged ({error}). Copy it again.") from error
    if damaged:
        raise DataError(f"{path}: damaged (a checksum is wrong). Copy it again.")
    if "constants.pkl" in names:
        raise DataError(f"{path}: a TorchScript program, not weights; {_REMEDY}.")
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


def _read_safetensors(path: Path) -> State:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise DataError(f"{path}: damaged ({first_line(error)}). Copy it again.") from error


def _shapes(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def _named(values: dict[str, Any]) -> str:
    """An architecture in words, such as `unet(blocks=3, width=64)`."""
    settings = ", ".join(f"{key}={value}" for key, value in values.items() if key != "architecture")
    return f"{values['architecture']}({settings})"


def _listed(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _first_error(error: ValidationError) -> str:
    detail = error.errors()[0]
    return f"{'.'.join(map(str, detail['loc'])) or 'the whole'}: {detail['msg']}"
