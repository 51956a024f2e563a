"""Samplers that follow a list of noise levels: the lists, and how an iterate goes from one level to the next.

All of them move y = x + σn to lower σ. Diffusion models are written in other coordinates too, but these are the same
points in another scale, so that one loop serves all samplers:

    variance preserving    x_t = sqrt(ā) x + sqrt(1 - ā) n = sqrt(ā) y,    σ² = (1 - ā) / ā
    flow matching          x_t = (1 - t) x + t n = (1 - t) y,              σ = t / (1 - t)

With f the denoised image at (y, σ), and σ' the next level, the samplers are

    euler    y' = f + (σ' / σ) (y - f)          DDIM with η = 0, and Euler's method of flow matching
    heun     Euler's step averaged with that at its end; an error of second order in the size of steps
    ddpm     y' = f + (σ' / σ)² (y - f) + σ' sqrt(1 - (σ' / σ)²) z          the posterior of the forward process

Euler and Heun solve the probability flow dy/dσ = (y - f) / σ, which adds no noise, so that a sample is a function of
its first noise alone.

Source: Karras, Aittala, Aila & Laine 2022, eq. 1 and 5, Algorithm 1 and Table 1; Song, Meng & Ermon 2021, eq. 12; Ho,
Jain & Abbeel 2020, eq. 6 and 7; Lipman, Chen, Ben-Hamu, Nickel & Le 2023, eq. 22, with the time reversed.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Schedule = Literal["edm", "vp", "flow"]
Solver = Literal["heun", "ddim", "ddpm", "euler"]
Denoise = Callable[[Tensor, float], Tensor]
Normal = Callable[[], Tensor]
Step = Callable[[Denoise, Tensor, Tensor, float, float, Normal], Tensor]

# The schedule that each sampler was published with.
SCHEDULES: dict[Solver, Schedule] = {"heun": "edm", "ddim": "vp", "ddpm": "vp", "euler": "flow"}
# The linear variance-preserving process of Ho et al. and Song et al.: ā = exp(-(19.9 t² / 2 + .1 t)), t in [0, 1].
_BETA_SLOPE, _BETA_LEAST = 19.9, 0.1
_HALF_RANGE = 0.5  # those models have pixels in [-1, 1], where the noise is twice that of pixels in [0, 1]


def noise_levels(schedule: Schedule, high: float, low: float, steps: int, rho: float) -> NDArray[np.float64]:
    """Noise levels from high to low.

    Args:
        schedule: edm (σ^(1/ρ) in equal steps), vp (equal steps in the time of the linear variance-preserving process)
            or flow (equal steps in the time t of flow matching). The last two count noise for pixels in [-1, 1].
        high: first level, pixel units.
        low: last level, above 0 and below the first.
        steps: number of levels, at least 2.
        rho: the ρ of edm; large values take small steps at low levels.

    Returns:
        (steps,) falling, pixel units.
    """
    to_time, to_level = _times(schedule, rho)
    levels: NDArray[np.float64] = to_level(np.linspace(to_time(high), to_time(low), steps))
    levels[[0, -1]] = high, low  # free of rounding
    return levels


Times = Callable[[float], float]
Levels = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _times(schedule: Schedule, rho: float) -> tuple[Times, Levels]:
    """The time of a noise level, and the noise levels of times."""
    if schedule == "edm":
        return (lambda sigma: sigma ** (1 / rho)), (lambda time: time**rho)
    if schedule == "flow":
        return (lambda s: s / (s + _HALF_RANGE)), (lambda time: _HALF_RANGE * time / (1 - time))

    def to_time(sigma: float) -> float:
        exponent = math.log1p((sigma / _HALF_RANGE) ** 2)
        return (math.sqrt(_BETA_LEAST**2 + 2 * _BETA_SLOPE * exponent) - _BETA_LEAST) / _BETA_SLOPE

    return to_time, lambda t: _HALF_RANGE * np.sqrt(np.expm1(_BETA_SLOPE * t**2 / 2 + _BETA_LEAST * t))


def euler(denoise: Denoise, y: Tensor, denoised: Tensor, sigma: float, following: float, normal: Normal) -> Tensor:
    """The iterate at the next level, along the straight line through y and the denoised image.

    Args:
        denoise: the denoised images of iterates at one noise level.
        y: iterates at level sigma, (B, C, H, W).
        denoised: the denoised images of y, same shape.
        sigma: noise level of y, pixel units.
        following: the next level, above 0.
        normal: gives fresh standard normal images of the shape of y.

    Returns:
        Iterates at the next level, same shape.
    """
    return denoised + (following / sigma) * (y - denoised)


def heun(denoise: Denoise, y: Tensor, denoised: Tensor, sigma: float, following: float, normal: Normal) -> Tensor:
    """The iterate at the next level by Heun's method; see `euler`."""
    first = (y - denoised) / sigma
    end = y + (following - sigma) * first
    second = (end - denoise(end, following)) / following
    return y + (following - sigma) * (first + second) / 2


def ancestral(denoise: Denoise, y: Tensor, denoised: Tensor, sigma: float, following: float, normal: Normal) -> Tensor:
    """A draw of the iterate at the next level given y, as if the denoised image were the clean one; see `euler`."""
    ratio = (following / sigma) ** 2
    return denoised + ratio * (y - denoised) + following * math.sqrt(1 - ratio) * normal()


STEPS: dict[Solver, Step] = {"heun": heun, "ddim": euler, "ddpm": ancestral, "euler": euler}
