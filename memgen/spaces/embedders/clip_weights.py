"""Embedders of open_clip: a folder as open_clip saves it, or a file of weights for an architecture of open_clip.

open_clip builds the network from its name or from the folder's own configuration; the weights are read from
safetensors, or from torch.save as plain tensors. Only the image tower is kept. A file of weights does not tell how
images are prepared for it, and the default of open_clip is wrong for some of them, so such a file needs a JSON file.
"""

import json
from pathlib import Path
from typing import Any

import torch

from memgen.base import optional
from memgen.base.errors import DataError, first_line
from memgen.spaces import preprocessing as prepare
from memgen.spaces.embedders import Embedder, Source, fill, identity, read_state, stated_or_error
from memgen.spaces.preprocessing import Preprocessing

ORDER = 0
KIND = "open_clip (a folder with open_clip_config.json and its weights, or open_clip:ARCHITECTURE=FILE and FILE.json)"

_CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def reads(source: Source) -> bool:
    """Whether a person names an architecture of open_clip, or a folder holds its configuration."""
    return source.library == "open_clip" or (source.library is None and (source.path / _CONFIG).is_file())


def load(source: Source, stated: Preprocessing | None) -> Embedder:
    """The image tower; see `embedders.Format`."""
    folder = source.path if source.library is None else None
    preprocessing = stated or (_published(folder) if folder else stated_or_error(None, source))
    clip = optional.package("open_clip", "clip", "A space from open_clip", torchvision=True)
    weights = source.path
    if folder:
        weights = next((folder / each for each in _WEIGHTS if (folder / each).is_file()), folder)
        if weights == folder:
            raise DataError(f"{folder}: holds none of {', '.join(_WEIGHTS)}. Copy the whole folder.")
    state = {name: value for name, value in read_state(weights).items() if name.startswith("visual.")}
    if folder is None and source.architecture not in clip.list_models():
        raise DataError(
            f"{source}: open_clip {clip.__version__} has no architecture {source.architecture!r}. "
            "open_clip.list_models() lists them."
        )
    try:
        config = _json(folder)["model_cfg"] if folder else clip.get_model_config(source.architecture)
        # By itself, since building a whole network could download a text tower or the weights of either.
        vision = {**config["vision_cfg"], "timm_model_pretrained": False}
        with torch.random.fork_rng(devices=()):
            tower = clip.model._build_vision_tower(config["embed_dim"], vision, bool(config.get("quick_gelu")))
    except Exception as error:  # open_clip raises many kinds for a configuration that it does not know
        raise DataError(
            f"{source}: open_clip {clip.__version__} cannot build this network ({first_line(error)})."
        ) from error
    tower = fill(tower, {name.removeprefix("visual."): value for name, value in state.items()}, source)
    paths = [folder / _CONFIG, weights] if folder else [weights]
    record = identity("open_clip", *paths, architecture=source.architecture, open_clip=clip.__version__)
    return Embedder(tower, preprocessing, record)


def _json(folder: Path) -> dict[str, Any]:
    return json.loads((folder / _CONFIG).read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def _published(folder: Path) -> Preprocessing:
    """The preprocessing that the configuration of a folder states."""
    try:
        config = _json(folder)
        stated, side = config["preprocess_cfg"], config["model_cfg"]["vision_cfg"]["image_size"]
        fits = {"shortest": "crop", "squash": "squash"}
        fit = fits[stated.get("resize_mode", "shortest")]
        return prepare.made(
            {
                "side": stated.get("size", side),
                "fit": fit,
                "shorter": stated.get("size", side) if fit == "crop" else None,
                "interpolation": stated.get("interpolation", "bicubic"),
                "mean": stated["mean"],
                "std": stated["std"],
            }
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"states no preprocessing that memgen has ({type(error).__name__}: {error})"
        raise prepare.missing(folder, reason) from error
