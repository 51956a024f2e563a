"""Drawing samples from a denoiser.

The default is stochastic reverse diffusion. From y = m + σ_0 z, with r(y) = y - f(y) and σ = ||r(y)|| / sqrt(d), repeat
until σ <= σ_end:

    h_t = h_0 t / (1 + h_0 (t - 1))          (or h_t = h_0)
    y  <- y - h_t r(y) + γ_t z_t,             γ_t = σ sqrt((1 - β h_t)² - (1 - h_t)²)

With a perfect denoiser each update multiplies the noise level by 1 - β h_t; with β = 1 no noise is injected. As in the
authors' code, the level is measured before the update, so one more update follows the crossing, and a final denoising
ends the sample. A denoiser that needs σ receives the level that the sampler keeps, σ_{t+1} = (1 - β h_t) σ_t.

A linear inverse problem differs in one step: the denoised image is moved to the nearest image that agrees with the
measurement (see `inverse`), and r is the residual after that move. Then y starts at m, completed by the measurement.

The other samplers follow a list of noise levels that is fixed beforehand (see `solvers`), and a last denoising ends the
sample too. A denoiser that needs σ receives the level of the list. A blind one does not, and how far its residual is
from that level is kept.

The initial and the injected noise of sample i come from one stream, which depends on (noise seed, i) alone, so two
denoisers get the same noise. (The authors restart one generator, so their first injected noise equals the initial
noise.)

Source: Kadkhodaie & Simoncelli (2020); Kadkhodaie et al. (ICLR 2024), Algorithm 1; their released code.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from memgen.base import noise
from memgen.base.config import Settings, validate
from memgen.base.errors import ShapeError
from memgen.models import ahead
from memgen.models.denoiser import Denoiser
from memgen.models.inverse import Constraint
from memgen.models.solvers import SCHEDULES, STEPS, Schedule, Solver, noise_levels

# Algorithm 1 as printed: constant step, and the last iterate is returned as it is.
_PAPER: dict[str, Any] = {"growing_step": False, "final_denoise": False, "max_steps": 10_000}
# Settings of one kind of sampler alone, which must keep their defaults with the other.
_OF_STOCHASTIC = ("preset", "h0", "beta", "growing_step", "max_steps")
_OF_SOLVERS = ("steps", "schedule", "rho", "sigmas")

Method = Literal["stochastic", Solver]
METHODS: tuple[Method, ...] = get_args(Method)


class SampleSettings(Settings):
    """How samples are drawn; the defaults are the preset `code` with σ_end = .05."""

    method: Method = Field(
        "stochastic",
        description="stochastic reverse diffusion, heun (probability flow), ddim, ddpm, or euler (flow matching)",
    )
    preset: Literal["code", "paper"] = Field(
        "code", description="default values of the other settings of stochastic reverse diffusion"
    )
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
    steps: int = Field(32, ge=2, description="noise levels of all methods but stochastic")
    schedule: Literal["auto", Schedule] = Field(
        "auto",
        description="noise levels between sigma_start and sigma_end: edm, vp, flow; auto is that of the method's paper",
    )
    rho: float = Field(7.0, gt=0, description="exponent of the schedule edm; larger takes smaller steps at low noise")
    sigmas: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (), description="falling noise levels, pixel units, instead of sigma_start, sigma_end, steps and schedule"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="number type of the network; iterates and noise levels are float32 and float64"
    )
    compiled: bool = Field(
        False,
        description="compile the network with torch.compile, which takes about a minute and pays for many samples on a "
        "GPU; samples differ by rounding",
    )
    micro_batch: int = Field(64, ge=1, description="images per network call; the last call is padded to this size")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        return _PAPER | values if isinstance(values, dict) and values.get("preset") == "paper" else values

    @model_validator(mode="before")
    @classmethod
    def _fill_from_sigmas(cls, values: Any) -> Any:
        sigmas = values.get("sigmas") if isinstance(values, dict) else None
        if not isinstance(sigmas, list | tuple) or len(sigmas) < 2:
            return values
        return {"sigma_start": sigmas[0], "sigma_end": sigmas[-1], "steps": len(sigmas)} | values

    @model_validator(mode="after")
    def _fits_the_method(self) -> Self:
        self._must_be_default(_OF_SOLVERS if self.method == "stochastic" else _OF_STOCHASTIC)
        if self.sigmas:
            if len(self.sigmas) < 2 or any(low >= high for high, low in pairwise(self.sigmas)):
                raise ValueError("sigmas must be at least two noise levels, each below the one before it")
            ends = self.sigmas[0], self.sigmas[-1], len(self.sigmas)
            if (self.sigma_start, self.sigma_end, self.steps) != ends:
                raise ValueError("sigma_start, sigma_end and steps follow from sigmas; leave them out")
        if self.sigma_end >= self.sigma_start and self.method != "stochastic":
            raise ValueError("sigma_end must be below sigma_start")
        return self

    def _must_be_default(self, names: Sequence[str]) -> None:
        changed = [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
        if changed:
            verb = "does" if len(changed) == 1 else "do"
            raise ValueError(f"{', '.join(changed)} {verb} nothing with the method {self.method}; leave it out")

    def drawn_by(self, method: Method) -> "SampleSettings":
        """The settings of another method, with the same samples, range of noise and limits; the rest are its defaults.

        Raises:
            ConfigError: sigma_end is not below sigma_start.
        """
        kept = self.model_dump(exclude={*_OF_STOCHASTIC, *_OF_SOLVERS}) | {"method": method}
        return self if method == self.method else validate(SampleSettings, kept, f"method {method}")

    @property
    def levels(self) -> NDArray[np.float64]:
        """The noise levels of all methods but stochastic, falling, pixel units."""
        assert self.method != "stochastic"
        if self.sigmas:
            return np.array(self.sigmas)
        schedule = SCHEDULES[self.method] if self.schedule == "auto" else self.schedule
        return noise_levels(schedule, self.sigma_start, self.sigma_end, self.steps, self.rho)

    def step_size(self, step: int) -> float:
        """h_t for t = 1, 2, ..."""
        return self.h0 * step / (1 + self.h0 * (step - 1)) if self.growing_step else self.h0


def expected_calls(settings: SampleSettings) -> int:
    """Denoised images that a sample takes, besides the last: an update takes one each, and one of Heun's takes two."""
    return expected_updates(settings) * (2 if settings.method == "heun" else 1)


def expected_updates(settings: SampleSettings) -> int:
    """Updates with a perfect denoiser: each multiplies σ by 1 - β h_t, and one more follows the crossing.

    All methods but stochastic make one less than they have noise levels.
    """
    if settings.method != "stochastic":
        return settings.steps - 1
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
    kind = _StochasticState if settings.method == "stochastic" else _SolverState
    state = kind(denoiser, mean, samples, noise_seed, settings, constraint)
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


class _State(ABC):
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
        self.network: Callable[[Tensor, Tensor], Tensor] = denoiser
        if settings.compiled:
            graphs = "reduce-overhead" if mean.device.type == "cuda" else "default"
            self.network = torch.compile(denoiser, mode=graphs, dynamic=False)
        self.constraint = constraint
        self.active = np.arange(len(samples))
        self.noise = ahead.Noise(
            [noise.stream("sample", noise_seed, index) for index in samples], self.shape, mean.device
        )
        start = mean if constraint is None else constraint.filled(mean)
        self.y = start + settings.sigma_start * self.noise.next(self.active)  # (M, C, H, W)
        self.sigma = np.full(len(samples), settings.sigma_start)
        self.residual_sigma = np.full(len(samples), np.nan)
        self.updates = np.zeros(len(samples), dtype=np.int64)
        self.status = np.full(len(samples), "step_cap", dtype="<U9")

    @abstractmethod
    def update(self, step: int) -> NDArray[np.float32]:
        """One update of the active samples; returns the levels (M, 2) before it, NaN for those that have ended."""

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

    def _keep(self, moved: Tensor, y: Tensor, index: Tensor, step: int) -> NDArray[np.bool_]:
        """Take over the moved iterates that are finite; returns which are."""
        finite = moved.flatten(1).isfinite().all(dim=1)[:, None, None, None]
        self.y.index_copy_(0, index, torch.where(finite, moved, y))
        self.updates[self.active] = step
        which: NDArray[np.bool_] = finite.flatten().cpu().numpy()
        return which

    def _levels(self, sigma: NDArray[np.float64], measured: NDArray[np.float64]) -> NDArray[np.float32]:
        """The levels (M, 2) of the active samples, NaN for the others."""
        levels = np.full((len(self.status), 2), np.nan, dtype=np.float32)
        levels[self.active] = np.stack([sigma, measured], axis=1)
        return levels

    def _measure(self, y: Tensor, denoised: Tensor) -> NDArray[np.float64]:
        """||r|| / sqrt(d) of the active samples, which is kept."""
        measured: NDArray[np.float64] = _norms(y - denoised) / np.sqrt(np.prod(self.shape))
        self.residual_sigma[self.active] = measured
        return measured

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
            with torch.autocast(y.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
                estimate = self.network(block, level).float()
            if self.constraint is not None:
                row = torch.zeros(size, dtype=torch.int64)
                row[:count] = torch.from_numpy(rows[start : start + count])
                estimate = self.constraint.nearest(estimate, row.to(y.device))
            denoised[start : start + count] = estimate[:count]
        return denoised


class _StochasticState(_State):
    """Samples by stochastic reverse diffusion, each of which ends when it is done."""

    def update(self, step: int) -> NDArray[np.float32]:
        """See _State."""
        settings, active = self.settings, self.active
        index = torch.from_numpy(active).to(self.y.device)
        y = self.y.index_select(0, index)
        denoised = self._denoise(y, active)
        residual, measured = y - denoised, self._measure(y, denoised)
        if self.denoiser.blind:
            self.sigma[active] = measured
        sigma = self.sigma[active]
        h = settings.step_size(step)
        contraction = 1 - settings.beta * h
        gamma = torch.from_numpy((sigma * np.sqrt(contraction**2 - (1 - h) ** 2)).astype(np.float32))
        injected = self.noise.next(active) if settings.beta < 1 else torch.zeros((), device=y.device)
        moved = y - h * residual + gamma.to(y.device)[:, None, None, None] * injected
        self._keep(moved, y, index, step)
        levels = self._levels(sigma, measured)
        if not self.denoiser.blind:
            self.sigma[active] = contraction * sigma
        self._end(sigma, measured, step)
        return levels

    def _end(self, sigma: NDArray[np.float64], measured: NDArray[np.float64], step: int) -> None:
        """Remove the samples that are done or lost from the active ones."""
        worst = np.maximum(sigma, measured)  # NaN where either is
        diverged = ~(worst <= self.settings.divergence_sigma)
        converged = ~diverged & (sigma <= self.settings.sigma_end)
        self.status[self.active[diverged]] = "diverged"
        self.status[self.active[converged]] = "converged"
        ended = diverged | converged | (step >= self.settings.max_steps)
        self.active = self.active[~ended]


class _SolverState(_State):
    """Samples along the noise levels of the settings, which all end at the last of them."""

    def update(self, step: int) -> NDArray[np.float32]:
        """See _State."""
        settings, active, levels = self.settings, self.active, self.settings.levels
        assert settings.method != "stochastic"
        sigma, following = float(levels[step - 1]), float(levels[step])
        index = torch.from_numpy(active).to(self.y.device)
        y = self.y.index_select(0, index)

        def denoise(at: Tensor, level: float) -> Tensor:
            self.sigma[active] = level
            return self._denoise(at, active)

        denoised = denoise(y, sigma)
        measured = self._measure(y, denoised)
        moved = STEPS[settings.method](denoise, y, denoised, sigma, following, lambda: self.noise.next(active))
        finite = self._keep(moved, y, index, step)
        found = self._levels(np.full(len(active), sigma), measured)
        self.sigma[active] = following
        lost = ~(finite & (measured <= max(settings.divergence_sigma, 2 * sigma)))
        self.sigma[active[lost]] = sigma
        self.status[active[lost]] = "diverged"
        self.active = active[~lost]
        if step == len(levels) - 1:
            self.status[self.active] = "converged"
            self.active = self.active[:0]
        return found


def _norms(residual: Tensor) -> NDArray[np.float64]:
    """Euclidean norm of each image, summed on the CPU in an order that does not depend on how many images there are."""
    if residual.device.type != "cpu":
        return np.asarray(residual.flatten(1).double().square().sum(dim=1).sqrt().cpu().numpy())
    rows = residual.flatten(1).double().numpy()
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", rows, rows)
    return np.sqrt(squares)
