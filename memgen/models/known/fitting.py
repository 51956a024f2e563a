"""Denoisers known in closed form, as architectures: their settings, and how they are fitted to a training set.

    empirical   the posterior mean of the training images: pure memorization (empirical.py)
    gaussian    the Wiener filter of their Gaussian, dense or stationary (gaussian.py)
    local       the posterior mean of each pixel given the patch around it (local.py)

Fitting is not training: it has no budget and no seed, and the same images give the same denoiser.
"""

from typing import Any, Literal

import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator

from memgen.base.config import Settings
from memgen.models.known.closed_form import ClosedFormDenoiser
from memgen.models.known.empirical import EmpiricalDenoiser
from memgen.models.known.gaussian import GaussianDenoiser, StationaryDenoiser
from memgen.models.known.local import LocalDenoiser


class EmpiricalSettings(Settings):
    """The posterior mean of the training images."""

    architecture: Literal["empirical"] = "empirical"


class GaussianSettings(Settings):
    """The Wiener filter of the Gaussian with the training images' mean and covariance."""

    architecture: Literal["gaussian"] = "gaussian"
    floor: float = Field(1e-4, ge=0, description="least variance in any direction, in pixel units squared")
    stationary: bool = Field(
        False, description="use a power spectrum with independent channels instead of a covariance"
    )


class LocalSettings(Settings):
    """The posterior mean of each pixel given the noisy patch around it, over patches of the training images."""

    architecture: Literal["local"] = "local"
    patch: int = Field(5, ge=1, description="odd side of the patches")
    equivariant: bool = Field(True, description="compare with patches at all positions, not only at the same position")

    @field_validator("patch")
    @classmethod
    def _is_odd(cls, patch: int) -> int:
        if patch % 2 == 0:
            raise ValueError("a patch has a center, so its side must be odd")
        return patch


FittedSettings = EmpiricalSettings | GaussianSettings | LocalSettings


def fit(settings: FittedSettings, images: NDArray[Any]) -> ClosedFormDenoiser:
    """The denoiser of the given architecture for a training set, on the CPU.

    Args:
        settings: architecture and its settings.
        images: (N, C, H, W), uint8 in [0, 255] or float32 in [0, 1]; copied.

    Raises:
        ShapeError: the images are not (N, C, H, W) with at least one image.
        DataError: pixels are neither uint8 nor floating-point numbers.
    """
    pixels = torch.tensor(images)
    match settings:
        case EmpiricalSettings():
            return EmpiricalDenoiser(pixels)
        case GaussianSettings():
            return (StationaryDenoiser if settings.stationary else GaussianDenoiser).fit(pixels, settings.floor)
        case LocalSettings():
            return LocalDenoiser(pixels, settings.patch, settings.equivariant)
