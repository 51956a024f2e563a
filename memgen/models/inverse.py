"""Linear inverse problems: what is measured of an image, and the images that agree with a measurement.

A measurement keeps the part P x of an image x, with P an orthogonal projection (P = Pᵀ = P²) of rank n_measured:

    inpainting           every pixel but those of a square in the middle
    random_pixels        pixels chosen at random, all channels of each
    super_resolution     the means of blocks of s x s pixels
    random_projections   the part in the span of random orthonormal images: the Q of a QR of normal numbers
    low_pass             the Fourier coefficients of frequencies up to a cutoff

The images that agree with P x_c are the affine set {x : P x = P x_c}, and the nearest of them to an image y is

    Π y = y - P y + P x_c.

The direction in which the authors restore, d = r - P r + (P y - P x_c) with r = y - f(y), is y - Π f(y): the residual
of the denoiser that ends with Π. So a restoration is a sample (see `sampling`) of that denoiser. It starts at
Π m + σ_0 z, and its last denoised image lies on the set. (The authors end with f(y) as it is. Applying Π moves it no
further from x_c, which lies on the set, and makes it agree with the measurement exactly.)

For a Gaussian, the mean over noises is E[x | P x] at small β. The spread is correct with small constant steps. Steps
that grow to near 1, as the authors' and the default ones do, leave little more than half of the variance
(tests/test_inverse.py).

The set of frequencies is symmetric: it contains -k with every k, so a filtered image is real and P is a projection.
(The authors' set is not symmetric, and filtering twice differs from filtering once.) It keeps as many real numbers as
frequencies.

Source: Kadkhodaie & Simoncelli (2020), "Solving linear inverse problems using the prior implicit in a denoiser"; their
released code.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from memgen.base import noise
from memgen.base.config import Settings, validate
from memgen.base.errors import ConfigError, ShapeError
from memgen.models.denoiser import ImageShape

_LARGEST_BASIS = 2**26  # numbers of a random basis: 0.5 GiB in float64, about three times that while it is made


class RestoreSettings(Settings):
    """How images are restored; everything else follows the settings of sampling."""

    n_images: int = Field(128, ge=1, description="largest number of held-out images restored, the first in rank order")
    beta: float = Field(0.01, gt=0, le=1, description="replaces sample.beta; restoration needs a small value")


class TaskSettings(Settings):
    """Base of the settings of a measurement; each task has one number, its amount."""

    task: str
    amount: float

    @property
    def label(self) -> str:
        """The name of the task with its amount, for files and titles."""
        return f"{self.task}-{self.amount}"


class InpaintingSettings(TaskSettings):
    """Measure everything but a square in the middle."""

    task: Literal["inpainting"] = "inpainting"
    amount: int = Field(ge=1, description="side of the square that is not measured, pixels")


class RandomPixelsSettings(TaskSettings):
    """Measure pixels chosen at random."""

    task: Literal["random_pixels"] = "random_pixels"
    amount: float = Field(0.1, gt=0, lt=1, description="share of the pixels that is measured")


class SuperResolutionSettings(TaskSettings):
    """Measure the means of blocks."""

    task: Literal["super_resolution"] = "super_resolution"
    amount: int = Field(4, ge=2, description="side of the blocks whose mean is measured, pixels")


class RandomProjectionsSettings(TaskSettings):
    """Measure inner products with random orthonormal images."""

    task: Literal["random_projections"] = "random_projections"
    amount: float = Field(0.1, gt=0, lt=1, description="inner products measured, as a share of d = C H W")


class LowPassSettings(TaskSettings):
    """Measure low frequencies."""

    task: Literal["low_pass"] = "low_pass"
    amount: float = Field(0.125, gt=0, lt=0.75, description="largest frequency measured, cycles per pixel")


MeasurementSettings = Annotated[
    InpaintingSettings | RandomPixelsSettings | SuperResolutionSettings | RandomProjectionsSettings | LowPassSettings,
    Field(discriminator="task"),
]
TASKS: dict[str, type[Any]] = {
    "inpainting": InpaintingSettings,
    "random_pixels": RandomPixelsSettings,
    "super_resolution": SuperResolutionSettings,
    "random_projections": RandomProjectionsSettings,
    "low_pass": LowPassSettings,
}


def choose(task: str, amount: float | None, image_shape: ImageShape) -> MeasurementSettings:
    """The settings of a task given by its name.

    Args:
        task: one of TASKS.
        amount: the number of the task; None for the task's default, which is half of the image for inpainting.
        image_shape: (C, H, W) of the images.

    Raises:
        ConfigError: there is no such task, or the amount is out of its range.
    """
    if task not in TASKS:
        raise ConfigError(f"--task {task}: there is no such task; expected {', '.join(TASKS)}.")
    if amount is None and task == "inpainting":
        amount = min(image_shape[1:]) // 2
    given = {} if amount is None else {"amount": amount}
    chosen: MeasurementSettings = validate(TASKS[task], given, source=f"--task {task}")
    return chosen


@dataclass(frozen=True, eq=False)
class Measurement(ABC):
    """An orthogonal projection P of images of one shape.

    Attributes:
        image_shape: (C, H, W).
        n_measured: rank of P: how many real numbers are measured, of d = C H W.
    """

    image_shape: ImageShape
    n_measured: int

    @abstractmethod
    def project(self, images: Tensor) -> Tensor:
        """P x of each of (B, C, H, W) images, float32; the same shape, on their device."""


@dataclass(frozen=True, eq=False)
class PixelMeasurement(Measurement):
    """Some pixels as they are, zero elsewhere.

    Attributes:
        mask: (H, W) bool, True where a pixel is measured.
    """

    mask: Tensor

    def project(self, images: Tensor) -> Tensor:
        """See Measurement."""
        return images.where(self.mask, 0)


@dataclass(frozen=True, eq=False)
class BlockMeasurement(Measurement):
    """Each pixel replaced by the mean of its block.

    Attributes:
        side: of the blocks; divides H and W.
    """

    side: int

    def project(self, images: Tensor) -> Tensor:
        """See Measurement."""
        means = torch.nn.functional.avg_pool2d(images, self.side)
        return means.repeat_interleave(self.side, dim=2).repeat_interleave(self.side, dim=3)


@dataclass(frozen=True, eq=False)
class BasisMeasurement(Measurement):
    """The part in a subspace.

    Attributes:
        basis: (d, n_measured) float32, orthonormal columns.
    """

    basis: Tensor

    def project(self, images: Tensor) -> Tensor:
        """See Measurement."""
        return ((images.flatten(1) @ self.basis) @ self.basis.T).view(images.shape)


@dataclass(frozen=True, eq=False)
class FrequencyMeasurement(Measurement):
    """The part of the frequencies of a symmetric set.

    Attributes:
        mask: (H, W // 2 + 1) bool, the half of the set that the Fourier transform of a real image needs.
    """

    mask: Tensor

    def project(self, images: Tensor) -> Tensor:
        """See Measurement."""
        filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(images) * self.mask, s=images.shape[-2:])
        return filtered


def build(settings: MeasurementSettings, image_shape: ImageShape, seed: int, device: str = "cpu") -> Measurement:
    """The measurement of the given settings.

    Args:
        settings: task and amount.
        image_shape: (C, H, W) of the images.
        seed: seed of random measurements; the same seed gives the same measurement on every device.
        device: device of the images that will be projected.

    Raises:
        ConfigError: nothing or everything would be measured, blocks do not divide the image, or the basis is too
            large.
    """
    match settings:
        case InpaintingSettings():
            made: Measurement = _pixels(_outside(settings, image_shape), image_shape, device)
        case RandomPixelsSettings():
            made = _pixels(_chosen(settings, image_shape, seed), image_shape, device)
        case SuperResolutionSettings():
            made = _blocks(settings, image_shape)
        case RandomProjectionsSettings():
            basis = _random_basis(settings, image_shape, seed)
            made = BasisMeasurement(image_shape, basis.shape[1], torch.from_numpy(basis).to(device))
        case LowPassSettings():
            made = _frequencies(settings, image_shape, device)
    if not 0 < made.n_measured < _dimension(image_shape):
        nothing = "nothing" if made.n_measured == 0 else "everything"
        raise ConfigError(
            f"--task {settings.task} --amount {settings.amount}: {nothing} of an image of {_by(image_shape)} would be "
            f"measured, expected a part of it. The amount is the {_meaning(settings)}. Choose another."
        )
    return made


def _pixels(mask: NDArray[np.bool_], image_shape: ImageShape, device: str) -> PixelMeasurement:
    return PixelMeasurement(image_shape, image_shape[0] * int(mask.sum()), torch.from_numpy(mask).to(device))


def _outside(settings: InpaintingSettings, image_shape: ImageShape) -> NDArray[np.bool_]:
    _, height, width = image_shape
    mask = np.ones((height, width), dtype=bool)
    top, left = max(0, (height - settings.amount) // 2), max(0, (width - settings.amount) // 2)
    mask[top : top + settings.amount, left : left + settings.amount] = False
    return mask


def _chosen(settings: RandomPixelsSettings, image_shape: ImageShape, seed: int) -> NDArray[np.bool_]:
    _, height, width = image_shape
    mask = np.zeros(height * width, dtype=bool)
    order = noise.stream(settings.task, seed).permutation(height * width)
    mask[order[: round(settings.amount * height * width)]] = True
    return mask.reshape(height, width)


def _blocks(settings: SuperResolutionSettings, image_shape: ImageShape) -> BlockMeasurement:
    side, (channels, height, width) = settings.amount, image_shape
    if height % side or width % side:
        smaller = min(height, width)
        fitting = [str(s) for s in range(2, smaller + 1) if height % s == 0 and width % s == 0]
        raise ConfigError(
            f"--task {settings.task} --amount {side}: blocks of {side} x {side} do not divide an image of "
            f"{_by(image_shape)}. Use one of {', '.join(fitting) or 'another size of image'}."
        )
    return BlockMeasurement(image_shape, channels * (height // side) * (width // side), side)


def _frequencies(settings: LowPassSettings, image_shape: ImageShape, device: str) -> FrequencyMeasurement:
    channels, height, width = image_shape
    mask = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]) <= settings.amount
    half = np.ascontiguousarray(mask[:, : width // 2 + 1])
    return FrequencyMeasurement(image_shape, channels * int(mask.sum()), torch.from_numpy(half).to(device))


def _random_basis(settings: RandomProjectionsSettings, image_shape: ImageShape, seed: int) -> NDArray[np.float32]:
    d = _dimension(image_shape)
    count = round(settings.amount * d)
    if d * count > _LARGEST_BASIS:
        raise ConfigError(
            f"--task {settings.task} --amount {settings.amount}: a basis of {count:,} images of {d:,} numbers has "
            f"{d * count:,}, expected at most {_LARGEST_BASIS:,}. Use --amount {_LARGEST_BASIS / d**2:.2g} or less, or "
            f"smaller images."
        )
    normal = noise.stream(settings.task, seed).standard_normal((d, count))
    basis, _ = np.linalg.qr(normal)
    return basis.astype(np.float32)


def _meaning(settings: MeasurementSettings) -> str:
    return str(type(settings).model_fields["amount"].description)


def _dimension(image_shape: ImageShape) -> int:
    return image_shape[0] * image_shape[1] * image_shape[2]


def _by(image_shape: ImageShape) -> str:
    return " x ".join(map(str, image_shape))


@dataclass(frozen=True, eq=False)
class Constraint:
    """The images that agree with what was measured: one set {x : P x = P x_c} for each of M images x_c.

    Attributes:
        measurement: the P.
        measured: the P x_c, (M, C, H, W) float32, on the device where images are restored.
    """

    measurement: Measurement
    measured: Tensor

    @classmethod
    def of(cls, measurement: Measurement, clean: Tensor) -> "Constraint":
        """Measure images x_c, (M, C, H, W) float32, one at a time, so that no row depends on another.

        Raises:
            ShapeError: the images are not of the measurement's shape.
        """
        if tuple(clean.shape[1:]) != tuple(measurement.image_shape):
            raise ShapeError(
                f"found images of shape {tuple(clean.shape[1:])}, expected the shape of the measurement, "
                f"{tuple(measurement.image_shape)}."
            )
        return cls(measurement, torch.cat([measurement.project(image[None]) for image in clean]))

    def filled(self, mean: Tensor) -> Tensor:
        """Π m, (M, C, H, W): each measurement, completed by one image m (C, H, W)."""
        return self.measured + (mean - self.measurement.project(mean[None])[0])

    def nearest(self, images: Tensor, rows: Tensor) -> Tensor:
        """Π y of images (B, C, H, W), row k on the set of rows[k]."""
        return images - self.measurement.project(images) + self.measured[rows]


def psnr_db(x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """PSNR between x[i] and y[i], (M, C, H, W) in pixel units: (M,) dB, peak 1; infinite where they are equal."""
    difference = x.astype(np.float64) - y.astype(np.float64)
    with np.errstate(divide="ignore"):
        values: NDArray[np.float64] = -10 * np.log10((difference**2).mean(axis=(1, 2, 3)))
    return values
