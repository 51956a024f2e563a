"""Checkpoints of memgen: networks saved and loaded, and what state dicts tell about the network they belong to.

A checkpoint is two files: `name.safetensors` holds the weights, and `name.json`, written last, describes them. A
checkpoint exists if and only if the second file exists. Nothing in a file is ever executed.
"""

import re
from pathlib import Path
from typing import Any, Final, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import Field, JsonValue, ValidationError
from torch import Tensor

from memgen.base import files
from memgen.base.config import Settings
from memgen.base.errors import DataError, ShapeError, first_line
from memgen.models.denoiser import ImageShape
from memgen.models.networks import ArchitectureSettings, BiasFreeNetwork, build

State = dict[str, Tensor]
VERSION: Final = 1


class Manifest(Settings):
    """The JSON file of a checkpoint, which describes its weights."""

    version: Literal[1] = VERSION
    architecture: ArchitectureSettings
    image_shape: ImageShape
    parameter_count: int
    weights_digest: str = Field(description="files.digest_file of the weights file")
    extra: dict[str, JsonValue] = Field(description="where the weights come from: training settings, images seen, ...")


def save(path: Path, network: BiasFreeNetwork, settings: ArchitectureSettings, extra: dict[str, Any]) -> Manifest:
    """Write a checkpoint. A process killed at any instant leaves either no checkpoint at `path` or a complete one.

    Args:
        path: the weights file, ending in .safetensors; the manifest goes beside it, ending in .json.
        network: on any device, in any mode; it is not changed.
        settings: the architecture that `network` was built from.
        extra: JSON values that say where the weights come from.

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
        raise DataError(f"{path}: not a checkpoint of memgen (*.safetensors). Import it with: memgen import {path}")
    if not path.is_file():
        raise DataError(f"{path}: no such checkpoint. Train it, or import one with: memgen import FILE")
    manifest = _read_manifest(path)
    if files.digest_file(path) != manifest.weights_digest:
        raise DataError(
            f"{path}: damaged, or not the file that {path.with_suffix('.json').name} describes (its digest is not "
            f"{manifest.weights_digest}). Copy both files again, or delete them and train again."
        )
    network = assemble(path, read_safetensors(path), manifest.architecture, manifest.image_shape)
    return network, manifest


def _read_manifest(path: Path) -> Manifest:
    manifest_path = path.with_suffix(".json")
    if not manifest_path.is_file():
        raise DataError(
            f"{path}: {manifest_path.name} is missing beside it, so it was never finished, or was copied alone. Copy "
            f"both files, run the command that wrote it again, or import the weights with: memgen import {path}"
        )
    values = files.read_json(manifest_path)
    version = values.get("version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > VERSION:
        raise DataError(f"{manifest_path}: has format {version}, this memgen reads up to {VERSION}. Update memgen.")
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        raise DataError(
            f"{manifest_path}: not the manifest of a checkpoint ({first_problem(error)}). Copy it again, or delete it "
            f"and import the weights with: memgen import {path}"
        ) from error


def guess_architecture(shapes: dict[str, tuple[int, ...]]) -> tuple[dict[str, Any], int] | None:
    """The architecture settings and the number of channels that names and shapes of tensors suggest, or None."""
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


def assemble(path: Path, state: State, settings: ArchitectureSettings, image_shape: ImageShape) -> BiasFreeNetwork:
    """The network of `settings` with the weights of `state` as float32, after a check that they fit."""
    try:
        with torch.device("meta"):  # shapes only: nothing is allocated before the weights are known to fit
            network = build(settings, image_shape)
    except ShapeError as error:
        raise ShapeError(f"{path}: {error}") from error
    misfit = _misfit(shapes_of(state), shapes_of(network.state_dict()))
    if misfit:
        guess = guess_architecture(shapes_of(state))
        looks = f" It looks like {architecture_name(guess[0])} for {guess[1]}-channel images." if guess else ""
        wanted = f"{architecture_name(settings.model_dump())} for {image_shape[0]}-channel images"
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
    return "; ".join(f"{name}: {name_list(keys)}" for name, keys in parts.items() if keys)


def _require_finite(path: Path, state: State) -> None:
    for key, value in state.items():
        if not value.isfinite().all():
            raise DataError(
                f"{path}: {key} holds NaN or infinite numbers, so the training diverged. Train again with a lower "
                f"learning rate, or choose an earlier checkpoint."
            )


def read_safetensors(path: Path) -> State:
    """The tensors of a safetensors file."""
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise DataError(f"{path}: damaged ({first_line(error)}). Copy it again.") from error


def shapes_of(state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a state dict."""
    return {key: tuple(value.shape) for key, value in state.items()}


def architecture_name(values: dict[str, Any]) -> str:
    """An architecture in words, such as `unet(blocks=3, width=64)`."""
    settings = ", ".join(f"{key}={value}" for key, value in values.items() if key != "architecture")
    return f"{values['architecture']}({settings})"


def name_list(names: list[str], limit: int = 4) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def first_problem(error: ValidationError) -> str:
    """The first problem that pydantic found, with its location."""
    detail = error.errors()[0]
    return f"{'.'.join(map(str, detail['loc'])) or 'the whole'}: {detail['msg']}"
