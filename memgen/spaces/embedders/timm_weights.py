"""Embedders of timm: a folder as timm saves it, or a file of weights for an architecture of timm.

timm builds the network from its name; the weights are read from safetensors, or from torch.save as plain tensors.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memgen.base import optional
from memgen.base.errors import DataError, first_line
from memgen.spaces import preprocessing as prepare
from memgen.spaces.embedders import Embedder, Source, fill, identity, read_state
from memgen.spaces.preprocessing import Preprocessing

ORDER = 0
KIND = "timm (a folder with config.json and its weights, or timm:ARCHITECTURE=FILE)"

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def reads(source: Source) -> bool:
    """Whether a person names an architecture of timm, or the config.json of a folder does."""
    return source.library == "timm" or (source.library is None and "architecture" in _config(source.path))


def load(source: Source, stated: Preprocessing | None) -> Embedder:
    """The network without its classifier; see `embedders.Format`."""
    timm = optional.package("timm", "timm", "A space from timm", torchvision=True)
    config = _config(source.path) if source.library is None else {}
    name, weights = str(config.get("architecture") or source.architecture), source.path
    if source.library is None:
        weights = next((source.path / each for each in _WEIGHTS if (source.path / each).is_file()), source.path)
        if weights == source.path:
            raise DataError(f"{source.path}: holds none of {', '.join(_WEIGHTS)}. Copy the whole folder.")
    if not timm.is_model(name):
        raise DataError(
            f"{source}: timm {timm.__version__} has no architecture {name!r}. timm.list_models() lists them."
        )
    state, arguments = read_state(weights), {**config.get("model_args", {}), "pretrained": False, "num_classes": 0}
    try:
        network = _built(timm, name, arguments)
        published = {**network.pretrained_cfg, **config.get("pretrained_cfg", {})}
        preprocessing = stated or _published(source, published)
        if preprocessing.side != published["input_size"][-1] and hasattr(network, "pos_embed"):
            network = _built(timm, name, {**arguments, "img_size": preprocessing.side})
    except DataError:
        raise
    except Exception as error:  # timm raises many kinds for a name or an argument that it does not know
        raise DataError(f"{source}: timm {timm.__version__} cannot build {name!r} ({first_line(error)}).") from error
    heads = published.get("classifier") or ()
    heads = [heads] if isinstance(heads, str) else heads
    state = _converted(state, network)
    unused = "|".join(re.escape(head) + r"\." for head in heads) or r"$^"
    paths = [weights] if source.library else [source.path / "config.json", weights]
    record = identity("timm", *paths, architecture=name, timm=timm.__version__)
    return Embedder(fill(network, state, source, unused), preprocessing, record)


def _built(timm: Any, name: str, arguments: dict[str, Any]) -> Any:
    with torch.random.fork_rng(devices=()):  # the first weights are drawn, and replaced
        return timm.create_model(name, **arguments)


def _config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder; empty if there is none."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _converted(state: dict[str, Tensor], network: Any) -> dict[str, Tensor]:
    """Weights under timm's names: a family of networks brings a function that translates those of its authors."""
    translate = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    return dict(translate(state, network)) if translate else state


def _published(source: Source, config: dict[str, Any]) -> Preprocessing:
    """The preprocessing that timm publishes for a network, or that its folder states."""
    side, square = config["input_size"][-1], config["input_size"][-2] == config["input_size"][-1]
    if not square or config.get("crop_mode", "center") not in ("center", "squash"):
        raise prepare.missing(source.path, f"states a preprocessing that memgen does not have ({config})")
    cut = config.get("crop_mode", "center") == "center"
    try:
        return prepare.made(
            {
                "side": side,
                "fit": "crop" if cut else "squash",
                "shorter": int(side / config.get("crop_pct", 0.875)) if cut else None,
                "interpolation": config["interpolation"],
                "mean": config["mean"],
                "std": config["std"],
            }
        )
    except (ValueError, KeyError) as error:
        raise prepare.missing(source.path, f"states no usable preprocessing ({error})") from error
