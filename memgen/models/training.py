"""Training a blind denoiser: minimize E ||r(y) - σz||² over clean images x, noise levels σ and noise z, y = x + σz.

One loop serves both presets. `paper` follows Kadkhodaie et al. (ICLR 2024, A.1) and their code in every constant:
σ = u² with u uniform on [0, 1], Adam at 1e-3 halved every 100 of 1,000 epochs, batches of 512, and an epoch that tiles
the training set to about 250,000 images, so the number of images seen depends on N. `fast` (the default) gives every N
the same budget of images seen, with a warm-up and a cosine decay. It weights the loss so that low noise, where the
squared error is small, is learned too.

The order of the images depends on (seed, part, epoch) alone, and the noise of a step on (seed, part, step) alone. So a
training that is resumed from its saved state ends with the same weights as one that was never interrupted.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from memgen.base import noise
from memgen.base.config import Settings
from memgen.base.errors import DataError
from memgen.models import ahead
from memgen.models.networks import BiasFreeNetwork

_SHIFT = 8  # share of the side, 1 / _SHIFT, by which images are shifted at most
_PAPER: dict[str, Any] = {
    "images_seen": None,
    "epochs": 1000,
    "tile_to": 250_000,
    "batch_size": 512,
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "schedule": "halving",
    "warmup": 0.0,
    "weight_decay": 0.0,
    "weight_floor": None,
}


class TrainSettings(Settings):
    """How a denoiser is trained; the defaults are the preset `fast`."""

    preset: Literal["fast", "paper"] = Field("fast", description="default values of all other settings in this group")
    images_seen: int | None = Field(76_800, ge=1, description="training budget in images, the same for every N")
    epochs: int | None = Field(None, ge=1, description="training budget in epochs, instead of images_seen")
    tile_to: int = Field(
        8192, ge=1, description="an epoch repeats the training set floor(tile_to / N) times, at least once"
    )
    batch_size: int = Field(32, ge=1, description="images per step")
    optimizer: Literal["adam", "adamw"] = Field("adamw", description="optimizer of the weights")
    learning_rate: float = Field(6e-3, gt=0, description="largest learning rate")
    schedule: Literal["cosine", "halving"] = Field(
        "cosine", description="decay to 0, or halve after each tenth of the budget"
    )
    warmup: float = Field(
        0.05, ge=0, lt=1, description="share of the budget over which the learning rate rises linearly"
    )
    weight_decay: float = Field(0.0, ge=0, description="weight decay of the optimizer")
    sigma_law: Literal["quadratic", "uniform"] = Field(
        "quadratic", description="noise level u² or u, with u uniform on [0, 1]"
    )
    weight_floor: float | None = Field(
        0.15,
        gt=0,
        description="floor of the loss weight 1 / (1 + (noise level / floor)^2); None weights all noise levels equally",
    )
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="decay of an exponential average of the weights; None keeps no average"
    )
    augment: tuple[Literal["mirror", "shift"], ...] = Field(
        (), description="changes made to clean images at random: mirror, and shift by up to an eighth of the side"
    )
    data_noise: float = Field(
        0.0,
        ge=0,
        description="standard deviation of noise that is added once to each training image, which the model never sees "
        "without it, in pixel units",
    )
    checkpoints: int = Field(
        0,
        ge=0,
        le=24,
        description="weights kept on the way, each after half of the images of the next; see memgen monitor",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="number type of the network's forward and backward pass"
    )
    compiled: bool = Field(
        False,
        description="compile the network with torch.compile, which takes about a minute and pays in long trainings on "
        "a GPU; the result differs by rounding",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") == "paper":
            chosen = _PAPER | values
            return chosen | {"epochs": None} if values.get("images_seen") else chosen
        if isinstance(values, dict) and values.get("epochs"):
            return {"images_seen": None} | values
        return values

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.images_seen is None) == (self.epochs is None):
            raise ValueError("give exactly one of images_seen and epochs")
        return self

    def epoch_images(self, n_train: int) -> int:
        """Images in one epoch of a training set of n_train images."""
        return n_train * max(1, self.tile_to // n_train)

    def budget(self, n_train: int) -> int:
        """Images seen in all by a training on n_train images."""
        return self.images_seen or (self.epochs or 0) * self.epoch_images(n_train)

    def kept_at(self, n_train: int) -> list[int]:
        """After how many images seen, or as soon as possible afterwards, weights are kept on the way, ascending."""
        budget = self.budget(n_train)
        return sorted({budget >> halvings for halvings in range(1, self.checkpoints + 1)} - {0})


@dataclass(frozen=True)
class TrainingRecord:
    """Progress of a training; see schemas.TRAINING for the meaning of each field."""

    step: int
    images_seen: int
    seconds: float
    learning_rate: float
    loss: float
    output_psnr_db: float


@dataclass
class Training:
    """A training in progress, with everything needed to resume it.

    Attributes:
        network: the network that is trained; given on the CPU, it is moved to the device and put in train mode.
        settings: how it is trained.
        seed: (training seed, 0 for part a or 1 for part b); it determines initial weights, order and noise.
        device: where it is trained.
        records: the progress so far.
    """

    network: BiasFreeNetwork
    settings: TrainSettings
    seed: tuple[int, int]
    device: str = "cpu"
    step: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    records: list[TrainingRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Draw the initial weights, the same on every device, and make the optimizer."""
        self.network.initialize(_torch_generator("weights", *self.seed))
        self.network.train().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        kind = torch.optim.Adam if self.settings.optimizer == "adam" else torch.optim.AdamW
        self.optimizer = kind(
            self.network.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        self.residual = self.network.residual
        if self.settings.compiled:
            graphs = "reduce-overhead" if torch.device(self.device).type == "cuda" else "default"
            self.residual = torch.compile(self.network.residual, mode=graphs, dynamic=False)
        self.ema = None
        if self.settings.ema_decay:
            average = get_ema_multi_avg_fn(self.settings.ema_decay)  # type: ignore[no-untyped-call]
            self.ema = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)

    @property
    def result(self) -> BiasFreeNetwork:
        """The trained network, with averaged weights if an average is kept."""
        return self.ema.module if self.ema else self.network  # type: ignore[return-value]

    def state(self) -> dict[str, Any]:
        """Everything that training changes, as tensors and plain values (loadable with weights_only=True)."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "progress": [self.step, self.images_seen, self.seconds],
            "records": [asdict(record) for record in self.records],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Return to a state that `state` gave."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.step, self.images_seen, self.seconds = state["progress"]
        self.records = [TrainingRecord(**record) for record in state["records"]]


def train(training: Training, pixels: Tensor, record_every: int = 40) -> Iterator[TrainingRecord]:
    """Train to the end of the budget, yielding a record every `record_every` steps and at the end.

    The state may be saved whenever a record has been yielded.

    Args:
        training: a new or a restored training; changed in place.
        pixels: (N, C, H, W) training images, uint8 or float32 in [0, 1], on the device of the training.
        record_every: steps between records.

    Raises:
        DataError: the loss is no longer finite.
    """
    settings = training.settings
    if settings.data_noise:
        pixels = _noised(pixels, settings.data_noise, training.seed)
    budget, device = settings.budget(len(pixels)), pixels.device
    started, before = time.perf_counter(), training.seconds
    loss_sum = torch.zeros((), device=device)
    psnr_sum = torch.zeros((), device=device)
    count = 0
    for batch in _drawn(training, pixels):
        rate = _learning_rate(settings, training.images_seen, budget)
        for group in training.optimizer.param_groups:
            group["lr"] = rate
        clean = _unit(pixels.index_select(0, ahead.moved(batch.indices, device)))
        if settings.augment:
            clean = _augmented(clean, settings.augment, noise.stream("augmentation", *training.seed, training.step))
        sigma, z = ahead.moved(batch.sigma, device), ahead.moved(batch.normal, device)
        target = sigma * z
        noisy = (clean + target).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            # A smaller batch would be compiled anew.
            whole = len(noisy) == settings.batch_size
            residual = training.residual(noisy) if whole else training.network.residual(noisy)
        errors = (residual.float() - target).square().flatten(1).sum(dim=1)  # (B,)
        training.optimizer.zero_grad()
        weight = 1.0 if settings.weight_floor is None else 1 / (1 + (sigma.flatten() / settings.weight_floor).square())
        (weight * errors).mean().backward()  # type: ignore[no-untyped-call]
        training.optimizer.step()
        if training.ema:
            training.ema.update_parameters(training.network)
        training.step += 1
        training.images_seen += len(batch.indices)
        with torch.no_grad():
            loss_sum += errors.sum()
            psnr_sum += (-10 * torch.log10(errors / clean[0].numel())).sum()
        count += len(batch.indices)
        if training.step % record_every == 0 or training.images_seen >= budget:
            training.seconds = before + time.perf_counter() - started
            loss, psnr = float(loss_sum) / count, float(psnr_sum) / count
            if not np.isfinite(loss):
                raise DataError(
                    f"training diverged at step {training.step} (loss {loss}). Use a smaller train.learning_rate."
                )
            record = TrainingRecord(training.step, training.images_seen, training.seconds, rate, loss, psnr)
            training.records.append(record)
            loss_sum.zero_()
            psnr_sum.zero_()
            count = 0
            yield record


def _batches(training: Training, n_train: int) -> Iterator[NDArray[np.int64]]:
    """Indices of the remaining batches; the last batch of an epoch and of the budget may be smaller."""
    settings = training.settings
    epoch_images, budget = settings.epoch_images(n_train), settings.budget(n_train)
    seen = training.images_seen
    while seen < budget:
        epoch, offset = divmod(seen, epoch_images)
        order = noise.stream("order", *training.seed, epoch).permutation(epoch_images) % n_train
        while offset < epoch_images and seen < budget:
            batch = order[offset : offset + min(settings.batch_size, budget - seen)]
            offset, seen = offset + len(batch), seen + len(batch)
            yield batch


def _learning_rate(settings: TrainSettings, images_seen: int, budget: int) -> float:
    if settings.schedule == "halving":
        return settings.learning_rate * 0.5 ** (10 * images_seen // budget)
    share = images_seen / budget
    if share < settings.warmup:
        return settings.learning_rate * (share / settings.warmup + 1e-3)
    return settings.learning_rate * 0.5 * (1 + float(np.cos(np.pi * (share - settings.warmup) / (1 - settings.warmup))))


@dataclass(frozen=True, eq=False)
class _Batch:
    """What is drawn for one step, on the CPU.

    Attributes:
        indices: positions of the training images, (B,).
        sigma: noise levels, (B, 1, 1, 1), pixel units.
        normal: standard normal noise, (B, C, H, W).
    """

    indices: Tensor
    sigma: Tensor
    normal: Tensor


def _drawn(training: Training, pixels: Tensor) -> Iterator[_Batch]:
    """What the remaining steps draw; for an accelerator, threads draw it before it is needed."""
    shape, device = pixels.shape[1:], pixels.device

    def draw(numbered: tuple[int, NDArray[np.int64]]) -> _Batch:
        step, indices = numbered
        generator = _torch_generator("training", *training.seed, step)
        sigma, normal = (ahead.empty((len(indices), *rest), device) for rest in ((1, 1, 1), shape))
        torch.rand(sigma.shape, generator=generator, out=sigma)
        torch.randn(normal.shape, generator=generator, out=normal)
        law = sigma.square_() if training.settings.sigma_law == "quadratic" else sigma
        return _Batch(torch.from_numpy(indices), law, normal)

    return ahead.made_ahead(draw, enumerate(_batches(training, len(pixels)), training.step), device)


def _noised(pixels: Tensor, sigma: float, seed: tuple[int, int]) -> Tensor:
    """Every training image with noise of its own, (N, C, H, W) float32, the same whenever it is seen."""
    shape = tuple(pixels.shape[1:])
    normal = [noise.normal(noise.stream("data noise", *seed, i), shape) for i in range(len(pixels))]
    return _unit(pixels) + sigma * torch.from_numpy(np.stack(normal)).to(pixels.device)


def _augmented(clean: Tensor, kinds: Sequence[str], generator: np.random.Generator) -> Tensor:
    """Clean images (B, C, H, W), each changed at random; beyond the border, the last pixel is repeated."""
    count, (height, width) = len(clean), clean.shape[2:]
    numbers = generator.integers(2**31, size=(3, count))
    rows, columns = (torch.arange(side).expand(count, -1) for side in (height, width))
    if "shift" in kinds:
        down, right = (
            torch.from_numpy(draw % (2 * (side // _SHIFT) + 1) - side // _SHIFT)[:, None]
            for draw, side in zip(numbers[:2], (height, width), strict=True)
        )
        rows, columns = (rows - down).clamp(0, height - 1), (columns - right).clamp(0, width - 1)
    if "mirror" in kinds:
        columns = torch.where(torch.from_numpy(numbers[2] % 2 == 1)[:, None], columns.flip(1), columns)
    places = (rows[:, :, None] * width + columns[:, None, :]).flatten(1).to(clean.device)
    changed = clean.flatten(2).gather(2, places[:, None].expand(-1, clean.shape[1], -1))
    return changed.view_as(clean)


def _torch_generator(purpose: str, *key: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(noise.stream(purpose, *key).integers(2**63)))


def _unit(pixels: Tensor) -> Tensor:
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
