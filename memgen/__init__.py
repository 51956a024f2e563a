"""Does an image denoiser or diffusion model memorize its training set, or generalize?

The public names. Each is loaded when it is first used, since PyTorch takes seconds to import.

    read_images       images of a folder or a file, as an ImageSet
    load_denoiser     a denoiser from a checkpoint
    subject           samples and / or a denoiser with its training images and held-out images
    audit             does a model copy its training images? an answer from samples alone, in a run directory
    find_copies       test the samples of a subject for copies of its training images
    measure_psnr      denoising PSNR of a subject on training images and held-out images
    read_run          what a finished sweep or audit says; in a notebook, results show themselves
    sweep             the whole experiment as a function of N, in a run directory
    Monitor           follows memorization in anyone's training loop
    FunctionDenoiser  a denoiser made of a function
    DiffusersDenoiser a denoiser made of a network of diffusers and its scheduler

    ImageSet, Split, Subject, Denoiser, Index, RunSettings, SampleSettings, PsnrSettings, Workspace, Findings,
    MemgenError       the types behind them
"""

import importlib
from importlib.metadata import version as _version
from typing import Any

__version__ = _version("memgen")

_HOMES = {
    "read_images": "images.importing",
    "load_denoiser": "models.loading",
    "subject": "measures.subject",
    "find_copies": "measures.copies.examiner",
    "measure_psnr": "measures.psnr",
    "sweep": "experiment.whole",
    "read_run": "experiment.whole",
    "audit": "experiment.audit",
    "ImageSet": "images.imageset",
    "Split": "images.split",
    "Subject": "measures.subject",
    "Denoiser": "models.denoiser",
    "FunctionDenoiser": "models.denoiser",
    "DiffusersDenoiser": "models.foreign.diffusers_folder",
    "Monitor": "experiment.monitor",
    "Index": "spaces.index",
    "RunSettings": "experiment.settings",
    "SampleSettings": "models.sampling",
    "PsnrSettings": "measures.psnr",
    "Workspace": "experiment.workspace",
    "Findings": "experiment.present",
    "MemgenError": "base.errors",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"memgen.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'memgen' has no attribute {name!r}")
