"""Drawing samples from a denoiser by stochastic reverse diffusion.

From y = m + σ_0 z, with r(y) = y - f(y) and σ = ||r(y)|| / sqrt(d), repeat until σ <= σ_end:

    h_t = h_0 t / (1 + h_0 (t - 1))          (or h_t = h_0)
    y  <- y - h_t r(y) + γ_t z_t,             γ_t = σ sqrt((1 - β h_t)² - (1 - h_t)²)

With a perfect denoiser each update multiplies the noise level by 1 - β h_t; with β = 1 no noise is injected. As in the
authors' code, the level is measured before the update, so one more update follows the crossing, and a final denoising
ends the sample. A denoiser that needs σ receives the level that the sampler keeps, σ_{t+1} = (1 - β h_t) σ_t.

A linear inverse problem differs in one step: the denoised image is moved to the nearest image that agrees with the
measurement (see `inverse`), and r is the residual after that move. Then y starts at m, completed by the measurement.

The initial and the injected noise of sample i come from one stream, which depends on (noise seed, i) alone, so two
denoisers get the same noise. (The authors restart one generator, so their first injected noise equals the initial
noise.)

Source: Kadkhodaie & Simoncelli (2020); Kadkhodaie et al. (ICLR 2024), Algorithm 1; their released code.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from memgen.base import noise
from memgen.base.config import Settings
from memgen.base.errors import ShapeError
from memgen.models.denoiser import Denoiser
from memgen.models.inverse import Constraint

# Algorithm 1 as printed: constant step, and the last iterate is returned as it is.
_PAPER: dict[str, Any] = {"growing_step": False, "final_denoise": False, "max_steps": 10_000}


class SampleSettings(Settings):
    """How samples are drawn; the defaults are the preset `code` with σ_end = .05."""

    preset: Literal["code", "paper"] = Field("code", description="default values of all other settings in this group")
    n_samples: int = Field(128, ge=1, description="samples drawn from each denoiser")
    h0: float = Field(0.01, gt=0, le=1, description="step size, or its first value if it grows")
    beta: float = Field(
        0.1, gt=0, le=1, description="share of the step that is not refilled with noise; 1 makes sampling deterministic"
    )
    growing_step: bool = Field(True, description="step size h_t = h0 t / (1 + h0 (t - 1)) instead of h0")
    sigma_start: float = Field(
        1.0, gt=0, description="standard deviation of the noise added to the initial mean, in pixel units"
    )
    sigma_end: float = Field(0.05, gt=0, description="noise level at which sampling ends, in pixel units")
    final_denoise: bool = Field(True, description="denoise the last iterate once more")
    max_steps: int = Field(
        2000, ge=1, description="largest number of updates; a sample not done by then is kept and marked step_cap"
    )
    divergence_sigma: float = Field(
        2.0, gt=0, description="noise level above which a sample is kept and marked diverged"
    )
    micro_batch: int = Field(64, ge=1, description="images per network call; the last call is padded to this size")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        return _PAPER | values if isinstance(values, dict) and values.get("preset") == "paper" else values

    def step_size(self, step: int) -> float:
        """h_t for t = 1, 2, ..."""
        return self.h0 * step / (1 + self.h0 * (step - 1)) if self.growing_step else self.h0


def expected_updates(settings: SampleSettings) -> int:
    """Updates with a perfect denoiser: each multiplies σ by 1 - β h_t, and one more follows the crossing."""
    sigma, step = settings.sigma_start, 0
    while sigma > settings.sigma_end and step < settings.max_steps:
        step += 1
        sigma *= 1 - settings.beta * settings.step_size(step)
    return step + 1


@dataclass(frozen=True, eq=False)
class SampleSet:
    """Samples of one denoiser; samples that did not converge are kept and marked.

    Attributes:
        images: (M, C, H, W) float32, about [0, 1], not clipped; a sample that would become NaN keeps its last iterate.
        samples: (M,) index of each sample.
        updates: (M,) updates made.
        sigma: (M,) noise level that the sampler assumed at its last update.
        residual_sigma: (M,) ||r|| / sqrt(d) there; the same as sigma for a blind denoiser.
        status: (M,) converged, step_cap or diverged.
        levels: (steps, M, 2) sigma and residual_sigma at every update, NaN once a sample has ended.
        path: (K, M, C, H, W) denoised images along the way; None unless `path_every` is given.
        path_steps: the updates made before each of the K images of the path.
    """

    images: NDArray[np.float32]
    samples: NDArray[np.int64]
    updates: NDArray[np.int64]
    sigma: NDArray[np.float64]
    residual_sigma: NDArray[np.float64]
    status: NDArray[np.str_]
    levels: NDArray[np.float32]
    path: NDArray[np.float32] | None
    path_steps: tuple[int, ...]


@torch.inference_mode()
def sample(
    denoiser: Denoiser,
    mean: Tensor,
    samples: Sequence[int],
    noise_seed: int,
    settings: SampleSettings,
    path_every: int | None = None,
    on_step: Callable[[int, int], None] | None = None,
    constraint: Constraint | None = None,
) -> SampleSet:
    """Draw samples from a denoiser.

    With the same micro-batch, device and number of threads, a sample is the same bit for bit whatever others are drawn
    with it: every network call has the same shape, and its rows do not depend on each other.

    Args:
        denoiser: in eval mode, on the device of `mean`.
        mean: (C, H, W) initial mean m, [0, 1]; the same for the models that are compared.
        samples: indices of the samples; sample i does not depend on the other indices.
        noise_seed: seed of the noise streams.
        settings: schedule and limits.
        path_every: number of updates between the denoised images that are kept; None keeps none.
        on_step: called after every update with (samples ended, updates made).
        constraint: what was measured, one row for each of `samples`; the returned images agree with it up to rounding.

    Raises:
        ShapeError: `mean` is not an image of the denoiser, or the constraint has another number of rows than samples.
    """
    if tuple(mean.shape) != tuple(denoiser.image_shape):
        raise ShapeError(f"initial mean of shape {tuple(mean.shape)}, but the denoiser takes {denoiser.image_shape}.")
    if constraint is not None and tuple(constraint.measured.shape) != (len(samples), *mean.shape):
        raise ShapeError(
            f"{len(samples)} samples of {tuple(mean.shape)}, but measurements of {tuple(constraint.measured.shape)}."
        )
    state = _State(denoiser, mean, samples, noise_seed, settings, constraint)
    levels: list[NDArray[np.float32]] = []
    path: list[NDArray[np.float32]] = []
    path_steps: list[int] = []
    step = 0
    while len(state.active):
        step += 1
        if path_every and (step - 1) % path_every == 0:
            path.append(state.denoised())
            path_steps.append(step - 1)
        levels.append(state.update(step))
        if on_step:
            on_step(len(samples) - len(state.active), step)
    images = state.denoised() if settings.final_denoise else state.iterates()
    return SampleSet(
        images=images,
        samples=np.asarray(samples, dtype=np.int64),
        updates=state.updates,
        sigma=state.sigma,
        residual_sigma=state.residual_sigma,
        status=state.status,
        levels=np.stack(levels),
        path=np.stack(path) if path else None,
        path_steps=tuple(path_steps),
    )


class _State:
    """The iterates of all samples; samples that have ended no longer change."""

    def __init__(
        self,
        denoiser: Denoiser,
        mean: Tensor,
        samples: Sequence[int],
        noise_seed: int,
        settings: SampleSettings,
        constraint: Constraint | None,
    ) -> None:
        self.denoiser, self.settings, self.shape = denoiser, settings, tuple(mean.shape)
        self.constraint = constraint
        self.streams = [noise.stream("sample", noise_seed, index) for index in samples]
        self.active = np.arange(len(samples))
        start = mean if constraint is None else constraint.filled(mean)
        self.y = start + settings.sigma_start * self._noise(mean.device)  # (M, C, H, W)
        self.sigma = np.full(len(samples), settings.sigma_start)
        self.residual_sigma = np.full(len(samples), np.nan)
        self.updates = np.zeros(len(samples), dtype=np.int64)
        self.status = np.full(len(samples), "step_cap", dtype="<U9")

    def update(self, step: int) -> NDArray[np.float32]:
        """One update of the active samples; returns the levels (M, 2) before it, NaN for those that have ended."""
        settings, active = self.settings, self.active
        index = torch.from_numpy(active).to(self.y.device)
        y = self.y.index_select(0, index)
        residual = y - self._denoise(y, active)
        measured = _norms(residual) / np.sqrt(np.prod(self.shape))
        self.residual_sigma[active] = measured
        if self.denoiser.blind:
            self.sigma[active] = measured
        sigma = self.sigma[active]
        h = settings.step_size(step)
        contraction = 1 - settings.beta * h
        gamma = torch.from_numpy((sigma * np.sqrt(contraction**2 - (1 - h) ** 2)).astype(np.float32))
        injected = self._noise(y.device) if settings.beta < 1 else torch.zeros((), device=y.device)
        moved = y - h * residual + gamma.to(y.device)[:, None, None, None] * injected
        finite = moved.flatten(1).isfinite().all(dim=1)[:, None, None, None]
        self.y.index_copy_(0, index, torch.where(finite, moved, y))
        self.updates[active] = step
        levels = np.full((len(self.status), 2), np.nan, dtype=np.float32)
        levels[active] = np.stack([sigma, measured], axis=1)
        if not self.denoiser.blind:
            self.sigma[active] = contraction * sigma
        self._end(sigma, measured, step)
        return levels

    def denoised(self) -> NDArray[np.float32]:
        """The denoised iterates (M, C, H, W); an iterate that the denoiser maps to no finite image is kept instead."""
        denoised = self._denoise(self.y, np.arange(len(self.y)))
        finite = denoised.flatten(1).isfinite().all(dim=1)[:, None, None, None]
        images: NDArray[np.float32] = np.where(finite.cpu().numpy(), denoised.cpu().numpy(), self.iterates())
        return images

    def iterates(self) -> NDArray[np.float32]:
        """The iterates (M, C, H, W); with a constraint, the images nearest to them that agree with it."""
        y, constraint = self.y, self.constraint
        if constraint is not None:
            rows = torch.arange(len(y), device=y.device)
            y = torch.cat([constraint.nearest(y[i : i + 1], rows[i : i + 1]) for i in range(len(y))])
        images: NDArray[np.float32] = y.cpu().numpy()
        return images

    def _end(self, sigma: NDArray[np.float64], measured: NDArray[np.float64], step: int) -> None:
        """Remove the samples that are done or lost from the active ones."""
        worst = np.maximum(sigma, measured)  # NaN where either is
        diverged = ~(worst <= self.settings.divergence_sigma)
        converged = ~diverged & (sigma <= self.settings.sigma_end)
        self.status[self.active[diverged]] = "diverged"
        self.status[self.active[converged]] = "converged"
        ended = diverged | converged | (step >= self.settings.max_steps)
        self.active = self.active[~ended]

    def _noise(self, device: torch.device) -> Tensor:
        """The next standard normal image of every active sample's own stream."""
        draws = [noise.normal(self.streams[index], self.shape) for index in self.active]
        return torch.from_numpy(np.stack(draws)).to(device)

    def _denoise(self, y: Tensor, rows: NDArray[np.int64]) -> Tensor:
        """Denoise (M, C, H, W), samples `rows`, in calls of exactly `micro_batch` images, the last padded with zeros.

        The constraint is applied within the same blocks, so that here too no row depends on how many there are.
        """
        size, denoised = self.settings.micro_batch, torch.empty_like(y)
        levels = torch.from_numpy(self.sigma[rows].astype(np.float32)).to(y.device)
        for start in range(0, len(y), size):
            count = min(size, len(y) - start)
            block = torch.zeros((size, *self.shape), device=y.device)
            block[:count] = y[start : start + count]
            level = torch.ones(size, device=y.device)
            level[:count] = levels[start : start + count]
            estimate = self.denoiser(block, level)
            if self.constraint is not None:
                row = torch.zeros(size, dtype=torch.int64)
                row[:count] = torch.from_numpy(rows[start : start + count])
                estimate = self.constraint.nearest(estimate, row.to(y.device))
            denoised[start : start + count] = estimate[:count]
        return denoised


def _norms(residual: Tensor) -> NDArray[np.float64]:
    """Euclidean norm of each image, summed in an order that does not depend on how many images there are."""
    rows = residual.flatten(1).double().cpu().numpy()
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", rows, rows)
    return np.sqrt(squares)
