"""Embedders of transformers: a folder with config.json, preprocessor_config.json and the weights of a vision model.

transformers builds the network from the name in config.json; code that a folder brings along is never run, and weights
of torch.save are opened as plain tensors. The vector is the image embedding of models of images and text; of the others
what they call pooled, and the class token where they have none or where the weights of the pooling are missing.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memgen.base import optional
from memgen.base.errors import DataError, first_line
from memgen.spaces import preprocessing as prepare
from memgen.spaces.embedders import Embedder, Source, identity
from memgen.spaces.preprocessing import Preprocessing

ORDER = 0
KIND = "transformers (a folder with config.json, preprocessor_config.json and its weights)"

_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box"}  # as Pillow numbers them
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")


def reads(source: Source) -> bool:
    """Whether the config.json of a folder names a type of model of transformers."""
    return source.library is None and "model_type" in _json(source.path / "config.json")


def load(source: Source, stated: Preprocessing | None) -> Embedder:
    """The vision model; see `embedders.Format`."""
    folder = source.path
    preprocessing = stated or _published(folder)
    has_torchvision = importlib.util.find_spec("torchvision") is not None  # which transformers imports if it is there
    transformers = optional.package("transformers", "transformers", "A space from transformers", has_torchvision)
    weights = [folder / each for each in _WEIGHTS if (folder / each).is_file()]
    if not weights:
        raise DataError(f"{folder}: holds none of {', '.join(_WEIGHTS)}. Copy the whole folder.")
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        network, info = transformers.AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            dtype=torch.float32,
            use_safetensors="safetensors" in weights[0].name,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises many kinds
        raise DataError(
            f"{folder}: transformers {transformers.__version__} cannot load it ({first_line(error)})."
        ) from error
    finally:
        if shown:
            bars.enable_progress_bar()
    missing = sorted(info["missing_keys"])
    wrong = [*(name for name in missing if not name.startswith("pooler.")), *map(str, info["mismatched_keys"])]
    if wrong:
        raise DataError(f"{folder}: {len(wrong)} weights are missing or of another shape ({wrong[0]}). Copy it again.")
    network.eval().requires_grad_(False)

    def run(images: Tensor) -> Any:
        if hasattr(network, "get_image_features"):
            found = network.get_image_features(pixel_values=images)
            found = getattr(found, "pooler_output", found)
        else:
            output = network(pixel_values=images)
            pooled = None if missing else getattr(output, "pooler_output", None)
            found = output.last_hidden_state[:, 0] if pooled is None else pooled
        return found.flatten(1) if isinstance(found, Tensor) and found.shape[2:].numel() == 1 else found

    names = [folder / each for each in ("config.json", "preprocessor_config.json") if (folder / each).is_file()]
    files = [*names, *weights[:1], *sorted(folder.glob("*-of-*"))]
    record = identity("transformers", *files, model=type(network).__name__, transformers=transformers.__version__)
    return Embedder(run, preprocessing, record)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _published(folder: Path) -> Preprocessing:
    """The preprocessing that preprocessor_config.json states."""
    config = _json(folder / "preprocessor_config.json")
    if not config:
        raise prepare.missing(folder, "holds no preprocessor_config.json")
    try:
        return prepare.made(_fields(config))
    except (ValueError, KeyError, TypeError) as error:
        reason = f"preprocessor_config.json states no preprocessing that memgen has ({type(error).__name__}: {error})"
        raise prepare.missing(folder, reason) from error


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Preprocessing`, of those of an image processor."""
    for key in ("do_pad", "rescale_offset", "do_split_image", "do_image_splitting"):
        if config.get(key):
            raise ValueError(f"{key} is set")
    if not config.get("do_resize", True):
        raise ValueError("images are not resized, so the side of the input is not known")
    size = config["size"]
    size = {"shortest_edge": size} if isinstance(size, int) and config.get("do_center_crop") else size
    size = {"height": size, "width": size} if isinstance(size, int) else size
    cut = config.get("crop_size")
    cut = cut if isinstance(cut, dict) else {"height": cut, "width": cut}
    fields: dict[str, Any] = {"interpolation": _RESAMPLING[config.get("resample", 2)]}
    if "height" in size:
        if size["height"] != size["width"] or (config.get("do_center_crop") and cut != size):
            raise ValueError(f"size is {size} and crop_size is {cut}")
        fields |= {"side": size["height"], "fit": "squash"}
    elif config.get("do_center_crop"):
        if cut["height"] != cut["width"]:
            raise ValueError(f"crop_size is {cut}")
        fields |= {"side": cut["height"], "fit": "crop", "shorter": size["shortest_edge"]}
    elif "crop_pct" in config and size["shortest_edge"] < 384:  # ConvNeXt: enlarged first, then cut out
        side = size["shortest_edge"]
        fields |= {"side": side, "fit": "crop", "shorter": int(side / config["crop_pct"])}
    elif "crop_pct" in config:
        fields |= {"side": size["shortest_edge"], "fit": "squash"}
    else:
        fields |= {"side": size["shortest_edge"], "fit": "whole"}
    rescaled = config.get("do_rescale", True)
    if rescaled and abs(config.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise ValueError(f"rescale_factor is {config['rescale_factor']}")
    normalized = config.get("do_normalize", True)
    return fields | {
        "range": 1 if rescaled else 255,
        "mean": config["image_mean"] if normalized else (0.0, 0.0, 0.0),
        "std": config["image_std"] if normalized else (1.0, 1.0, 1.0),
        "channels": "BGR" if config.get("do_flip_channel_order") else "RGB",
    }
