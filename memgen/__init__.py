"""Does an image denoiser or diffusion model memorize its training set, or generalize?

The public names, each loaded when first used, since PyTorch takes seconds to import:

    RunSettings, Workspace     settings of a run; a run with its images (memgen.steps: one function a command)
    ImageSet, Split            images, and their parts a, b and holdout
    Denoiser, build            what a denoiser is; the paper's networks
    Training                   a training under way (memgen.train.train goes through it)
    Index                      exact nearest neighbors
    MemgenError                base of all errors raised on purpose
"""

import importlib
from importlib.metadata import version as _version
from typing import Any

__version__ = _version("memgen")

_HOMES = {
    "RunSettings": "experiment.settings",
    "Workspace": "experiment.workspace",
    "ImageSet": "images.imageset",
    "Split": "images.split",
    "Denoiser": "models.denoiser",
    "build": "models.networks",
    "Training": "models.training",
    "Index": "spaces.index",
    "MemgenError": "base.errors",
}

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"memgen.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'memgen' has no attribute {name!r}")
