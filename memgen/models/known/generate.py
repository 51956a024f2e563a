"""Classes of generated images, most of them with a known best denoiser.

    texture     stationary Gaussian with a power-law spectrum       Wiener filter (gaussian.StationaryDenoiser)
    mixture     Gaussians around a few component images             posterior mean (gaussian.MixtureDenoiser)
    discs       one disc: a curved manifold of 5 dimensions         posterior mean (discs.DiscDenoiser)
    cone        one image at a random intensity: a ray              posterior mean (ConeDenoiser)
    sinusoids   random phase and amplitude: 2 dimensions            Wiener filter of rank 2
    c_alpha     two backgrounds that meet in a contour, all C^α     not known; the best slope is α / (α + 1)

Image i of a class depends on (seed, i) alone. What all images of a class share, such as the component images, depends
on the seed alone, and so does the permutation that shuffles pixels. No pixel is clipped: images of Gaussian classes may
leave [0, 1], since the denoiser stated would not be the best one for clipped images.

Source: Kadkhodaie et al. (ICLR 2024), sections 3.2 and D, Algorithm 2, and their synthetic_data_generators.py.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.base.noise import normal, stream
from memgen.images.shuffle import permutation
from memgen.models.known.classes import (
    CAlphaSettings,
    ClassSettings,
    ConeSettings,
    DiscSettings,
    MixtureSettings,
    SinusoidSettings,
    TextureSettings,
    image_shape,
)
from memgen.models.known.closed_form import ClosedFormDenoiser
from memgen.models.known.discs import DiscDenoiser
from memgen.models.known.gaussian import MixtureDenoiser, StationaryDenoiser
from memgen.models.known.truncated import Truncated, truncated_normal

Array = NDArray[np.float64]
_BLOCK_PIXELS = 1 << 20


def generate(
    settings: ClassSettings, seed: int, indices: range, progress: Callable[[int, int], None] | None = None
) -> NDArray[np.float32]:
    """Images of a class by their indices; image i does not depend on the other indices.

    Args:
        settings: the class.
        seed: seed of the class; another seed gives other images, and other component images.
        indices: positions of the images, from 0.
        progress: called with (images done, of how many).

    Returns:
        (n, C, H, W) float32; of cone, discs and c_alpha in [0, 1] (cone: in [0, high]), of the others unbounded.
    """
    images = np.empty((len(indices), *image_shape(settings)), dtype=np.float32)
    step = max(1, _BLOCK_PIXELS // math.prod(images.shape[1:]))
    for start in range(0, len(indices), step):
        if progress:
            progress(start, len(indices))
        part = indices[start : start + step]
        streams = [stream(f"class/{settings.kind}", seed, index) for index in part]
        images[start : start + step] = _images(settings, seed, streams)
    if progress:
        progress(len(indices), len(indices))
    return images


def reference(settings: ClassSettings, seed: int, shuffle: bool = False) -> ClosedFormDenoiser | None:
    """The denoiser of least mean squared error on a class, or None if it is not known (c_alpha).

    Args:
        settings: the class.
        seed: seed of the class.
        shuffle: whether the pixels of the images were shuffled with this seed (see `images.shuffle`).
    """
    found = _reference(settings, seed)
    if found is None or not shuffle:
        return found
    return ShuffledDenoiser(found, permutation(seed, settings.side**2))


def tangents(settings: ClassSettings, seed: int, indices: Iterable[int], shuffle: bool = False) -> Tensor | None:
    """Directions in which images can move within their class; None if the class is no manifold of few dimensions.

    Args:
        settings: the class.
        seed: seed of the class.
        indices: positions of n of its images.
        shuffle: whether the pixels of the images were shuffled with this seed (see `images.shuffle`).

    Returns:
        (n, d, k) float64, in columns: discs 5, cone 1, sinusoids 2.
    """
    streams = [stream(f"class/{settings.kind}", seed, index) for index in indices]
    match settings:
        case DiscSettings():
            parameters = settings.prior.draw(torch.from_numpy(_uniform(streams, 6)))
            found = settings.prior.tangents(parameters).transpose(1, 2)
        case ConeSettings():
            found = torch.from_numpy(_ray(settings, seed)).view(1, -1, 1).expand(len(streams), -1, -1)
        case SinusoidSettings():
            waves = torch.from_numpy(np.stack(_quadrature(settings), axis=-1))
            found = waves.view(1, -1, 2).expand(len(streams), -1, -1)
        case _:
            return None
    return found[:, permutation(seed, settings.side**2)] if shuffle else found


class ConeDenoiser(ClosedFormDenoiser):
    """The posterior mean of x = s v for one image v and s uniform on [low, high].

    Given y, s is normal around <y, v> / ||v||² with standard deviation σ / ||v||, cut to the interval. On all of s > 0,
    and far from 0, the mean squared error is σ² / d.

    Args:
        image: (C, H, W), the v, not 0.
        low: least intensity.
        high: largest intensity; may be infinite.
    """

    image: Tensor

    def __init__(self, image: Tensor, low: float, high: float) -> None:
        channels, height, width = image.shape
        super().__init__((channels, height, width))
        self.register_buffer("image", image.double())
        self.low, self.high = low, high

    def _intensity(self, noisy: Tensor, sigma: Tensor) -> Truncated:
        norm = self.image.norm()
        ends = (noisy.new_tensor(end) for end in (self.low, self.high))
        return truncated_normal(noisy.flatten(1) @ self.image.flatten() / norm**2, sigma / norm, *ends)

    def _denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return self._intensity(noisy, sigma).mean[:, None, None, None] * self.image

    def _jacobian(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        share = self._intensity(noisy, sigma).variance / sigma**2
        return share[:, None, None] * torch.outer(self.image.flatten(), self.image.flatten())


class ShuffledDenoiser(ClosedFormDenoiser):
    """The best denoiser of shuffled images: it restores the order of the pixels, denoises, and shuffles again.

    White noise stays white when it is shuffled, so nothing is lost.

    Args:
        plain: the best denoiser of the images before they were shuffled.
        order: (H·W,), the permutation, from `images.shuffle.permutation`.
    """

    order: Tensor
    back: Tensor

    def __init__(self, plain: ClosedFormDenoiser, order: NDArray[np.int64]) -> None:
        super().__init__(plain.image_shape)
        self.plain = plain
        self.register_buffer("order", torch.from_numpy(order))
        self.register_buffer("back", torch.from_numpy(np.argsort(order)))

    def _denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        unshuffled = noisy.flatten(2)[:, :, self.back].view(noisy.shape)
        denoised: Tensor = self.plain(unshuffled, sigma)
        return denoised.flatten(2)[:, :, self.order].view(noisy.shape)

    def _jacobian(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        channels, height, width = self.image_shape
        jacobian = self.plain.jacobian(noisy.flatten(2)[:, :, self.back].view(noisy.shape), sigma)
        planes = torch.arange(channels, device=noisy.device)[:, None] * height * width
        pixels = (planes + self.order).flatten()
        return jacobian[:, pixels][:, :, pixels]


def _reference(settings: ClassSettings, seed: int) -> ClosedFormDenoiser | None:
    shape = image_shape(settings)
    match settings:
        case TextureSettings():
            power = torch.from_numpy(_power(settings.side, settings.exponent, settings.std)).expand(shape)
            return StationaryDenoiser(torch.full(shape, 0.5), power)
        case MixtureSettings():
            means, stds = _components(settings, seed)
            return MixtureDenoiser(torch.from_numpy(means), torch.from_numpy(stds**2), torch.ones(len(means)))
        case DiscSettings():
            return DiscDenoiser(settings.prior)
        case ConeSettings():
            return ConeDenoiser(torch.from_numpy(_ray(settings, seed)), settings.low, settings.high)
        case SinusoidSettings():
            # a cos + b sin is stationary: all of its variance stands at the frequency and its opposite.
            power = torch.zeros(shape, dtype=torch.float64)
            for sign in (1, -1):
                row, column = (sign * periods % settings.side for periods in settings.frequency)
                power[0, row, column] = settings.std**2 * settings.side**2 / 2
            return StationaryDenoiser(torch.full(shape, settings.mean), power)
        case CAlphaSettings():
            return None


def _images(settings: ClassSettings, seed: int, streams: list[np.random.Generator]) -> NDArray[np.floating]:
    """The images that belong to streams, (n, C, H, W)."""
    match settings:
        case TextureSettings():
            return _textures(settings.exponent, settings.std, image_shape(settings), streams)
        case MixtureSettings():
            means, stds = _components(settings, seed)
            chosen = np.array([generator.integers(len(means)) for generator in streams])
            within = np.stack([normal(generator, means.shape[1:]) for generator in streams])
            drawn: Array = means[chosen] + stds[chosen, None, None, None] * within
            return drawn
        case DiscSettings():
            uniforms = torch.from_numpy(_uniform(streams, 6))
            return settings.prior.render(settings.prior.draw(uniforms)).numpy()
        case CAlphaSettings():
            return _c_alpha(settings, streams)
        case ConeSettings():
            intensity: Array = settings.low + (settings.high - settings.low) * _uniform(streams, 1)
            return intensity[:, :, None, None] * _ray(settings, seed)
        case SinusoidSettings():
            cosine, sine = _quadrature(settings)
            a, b = settings.std * np.stack([normal(generator, (2,)) for generator in streams]).astype(float).T
            waves: Array = settings.mean + a[:, None, None] * cosine + b[:, None, None] * sine
            return waves[:, None]


def _quadrature(settings: SinusoidSettings) -> tuple[Array, Array]:
    """The cosine and the sine of a frequency, (side, side) each."""
    grid, (down, across) = np.arange(settings.side) / settings.side, settings.frequency
    phase = 2 * np.pi * (down * grid[:, None] + across * grid)
    return np.cos(phase), np.sin(phase)


def _uniform(streams: Iterable[np.random.Generator], *shape: int) -> Array:
    return np.stack([generator.random(shape) for generator in streams])


def _frequencies(side: int) -> Array:
    """|k| in the order of the Fourier transform, 1 where k = 0: (side, side)."""
    k = np.fft.fftfreq(side) * side
    norms: Array = np.hypot(k[:, None], k)
    norms[0, 0] = 1
    return norms


def _power(side: int, exponent: float, std: float) -> Array:
    """The variance of each coefficient of the orthonormal Fourier transform, (side, side); its mean is std²."""
    power = _frequencies(side) ** -exponent
    scaled: Array = power * (std**2 / power.mean())
    return scaled


def _textures(
    exponent: float, std: float, shape: tuple[int, int, int], streams: Iterable[np.random.Generator]
) -> Array:
    """Stationary Gaussian images (n, C, H, W) of mean 1/2, with independent channels."""
    white = np.stack([normal(generator, shape) for generator in streams]).astype(np.float64)
    gain = np.sqrt(_power(shape[1], exponent, std))
    textures: Array = 0.5 + np.fft.ifft2(np.fft.fft2(white) * gain).real
    return textures


def _components(settings: MixtureSettings, seed: int) -> tuple[Array, Array]:
    """The component images (K, C, H, W) and the standard deviations of the pixels in each (K,)."""
    streams = (stream("class/mixture/component", seed, index) for index in range(settings.components))
    means = _textures(settings.exponent, settings.spread, image_shape(settings), streams)
    return means, np.geomspace(*settings.std, settings.components)


def _ray(settings: ConeSettings, seed: int) -> Array:
    """The image of a cone, (1, H, W), from 0 to 1."""
    texture = _textures(settings.exponent, 1, image_shape(settings), [stream("class/cone/image", seed)])[0]
    return _stretched(texture, np.zeros(()), np.ones(()))


def _stretched(images: Array, low: Array, high: Array) -> Array:
    """Images (..., H, W), shifted and scaled to reach from `low` to `high`, which have one value per image."""
    least, most = (end(images, axis=(-2, -1), keepdims=True) for end in (np.min, np.max))
    share = (images - least) / (most - least)
    stretched: Array = low[..., None, None] + (high - low)[..., None, None] * share
    return stretched


def _c_alpha(settings: CAlphaSettings, streams: list[np.random.Generator]) -> Array:
    """(n, 1, side, side): backgrounds above and below the contour, mixed by a mask blurred over 2x2 pixels."""
    side, beta = settings.side, settings.beta or settings.alpha
    amplitude = {"code": 1.0, "paper": 0.5}[settings.source_range]
    noise = amplitude * (2 * _uniform(streams, 2 * side + 1, side) - 1)  # a contour and two backgrounds, in rows
    ends = _uniform(streams, 3)
    heights = contours(noise[:, 0], settings.alpha)  # a contour outside of the image leaves all of a column on one side
    below = (np.arange(side)[:, None] >= heights[:, None]).astype(np.float64)
    backgrounds = noise[:, 1:].reshape(-1, 2, side, side)
    backgrounds = np.fft.ifft2(np.fft.fft2(backgrounds) * _frequencies(side) ** -beta).real
    # One background reaches from a to 1, the other from 0 to b; chance decides which one.
    first = ends[:, 2] < 0.5
    low = np.stack([np.where(first, ends[:, 0], 0), np.where(first, 0, ends[:, 0])], axis=1)
    high = np.stack([np.where(first, 1, ends[:, 1]), np.where(first, ends[:, 1], 1)], axis=1)
    backgrounds = _stretched(backgrounds, low, high)
    mask = _blurred(below)
    mixed: Array = mask * backgrounds[:, 0] + (1 - mask) * backgrounds[:, 1]
    return mixed[:, None]


def contours(noise: Array, alpha: float) -> NDArray[np.int64]:
    """The first row below a random contour, in each column; may lie outside of the image.

    Args:
        noise: (n, side), the source noise.
        alpha: regularity.

    Returns:
        (n, side), around side / 2.
    """
    side = noise.shape[1]
    k = np.abs(np.fft.fftfreq(side) * side)
    k[0] = 1
    smooth = np.fft.ifft(np.fft.fft(noise, axis=1) * k**-alpha, axis=1).real
    rows: NDArray[np.int64] = np.rint(side * smooth).astype(np.int64) + side // 2
    return rows


def _blurred(masks: Array) -> Array:
    """Means over 2x2 pixels, each with those above and to the left of it; the border reflects."""
    padded = np.pad(masks, ((0, 0), (1, 0), (1, 0)), mode="reflect")
    blurred: Array = (padded[:, 1:, 1:] + padded[:, 1:, :-1] + padded[:, :-1, 1:] + padded[:, :-1, :-1]) / 4
    return blurred
