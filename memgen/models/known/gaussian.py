"""Denoisers of Gaussians and of mixtures of Gaussians.

For x ~ N(m, Σ) and y = x + σz the posterior mean is the Wiener filter

    f(y) = m + M (y - m),    M = Σ (Σ + σ² I)⁻¹,    with eigenvalues λ / (λ + σ²)

whose matrix M is also the Jacobian. A stationary Gaussian has its eigenvectors in Fourier space and the power spectrum
as its λ.

Source: Wiener 1949; Kay 1993, Fundamentals of Statistical Signal Processing: Estimation Theory, section 12.7.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from memgen.base.errors import DataError, ShapeError
from memgen.models.denoiser import ImageShape
from memgen.models.known.closed_form import ClosedFormDenoiser, as_float64, block_numbers, checked_images


class AffineDenoiser(ClosedFormDenoiser):
    """Base of the denoisers f(y) = m + M(σ) (y - m).

    Args:
        mean: (C, H, W), the m.

    Raises:
        ShapeError: the mean is not (C, H, W).
    """

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__(_image_shape(mean))
        self.register_buffer("mean", mean.double())

    def matrix(self, sigma: float) -> Tensor:
        """M at one noise level above 0: (d, d) float64; also the Jacobian, everywhere."""
        basis = torch.eye(self.mean.numel(), dtype=torch.float64, device=self.mean.device)
        levels = basis.new_full((len(basis),), sigma)
        return self._linear(basis.view(-1, *self.image_shape), levels).flatten(1).T

    @abstractmethod
    def _linear(self, centered: Tensor, sigma: Tensor) -> Tensor:
        """M(σ) applied to each of (B, C, H, W)."""

    def _denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return self.mean + self._linear(noisy - self.mean, sigma)

    def _jacobian(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        matrices = {level: self.matrix(level) for level in set(sigma.tolist())}
        return torch.stack([matrices[level] for level in sigma.tolist()])


class GaussianDenoiser(AffineDenoiser):
    """The Wiener filter of N(mean, U diag(λ) Uᵀ).

    Args:
        mean: (C, H, W).
        eigenvalues: (d,) the λ, falling, at least 0.
        eigenvectors: (d, d) orthogonal, the U: in columns.

    Raises:
        ShapeError: the three do not fit together.
        DataError: an eigenvalue is below 0.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor

    def __init__(self, mean: Tensor, eigenvalues: Tensor, eigenvectors: Tensor) -> None:
        super().__init__(mean)
        d = mean.numel()
        if eigenvalues.shape != (d,) or eigenvectors.shape != (d, d):
            raise ShapeError(
                f"found eigenvalues {tuple(eigenvalues.shape)} and eigenvectors {tuple(eigenvectors.shape)}, expected "
                f"({d},) and ({d}, {d}) for images of {d} numbers."
            )
        self.register_buffer("eigenvalues", _variances(eigenvalues))
        self.register_buffer("eigenvectors", eigenvectors.double())

    @classmethod
    def fit(cls, images: Tensor, floor: float) -> Self:
        """The Gaussian of a set's mean and covariance (divided by N), no eigenvalue of which is below the floor.

        With fewer images than pixels there are directions in which the images do not vary at all. The floor is the
        variance of the model in these directions.

        Args:
            images: (N, C, H, W), uint8 or floating-point.
            floor: least variance in any direction, pixel units squared, at least 0.

        Raises:
            ShapeError, DataError: the images cannot be a training set.
        """
        mean = _mean(checked_images(images))
        covariance = mean.new_zeros(mean.numel(), mean.numel())
        for block in _blocks(images):
            centered = (block - mean).flatten(1)
            covariance += centered.T @ centered
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance / len(images))
        return cls(mean, eigenvalues.flip(0).clamp(min=floor), eigenvectors.flip(1))

    def shrinkage(self, sigma: Tensor) -> Tensor:
        """The eigenvalues λ / (λ + σ²) of the Jacobian at noise levels (B,): (B, d) in [0, 1], falling."""
        return self.eigenvalues / (self.eigenvalues + sigma.double()[:, None] ** 2)

    def _linear(self, centered: Tensor, sigma: Tensor) -> Tensor:
        coefficients = (centered.flatten(1) @ self.eigenvectors) * self.shrinkage(sigma)  # (B, d)
        return (coefficients @ self.eigenvectors.T).view(centered.shape)


class StationaryDenoiser(AffineDenoiser):
    """The Wiener filter of a Gaussian that is stationary on the torus, its channels independent.

    Args:
        mean: (C, H, W).
        power: (C, H, W) the variance of each coefficient of the orthonormal Fourier transform, in the order of
            `torch.fft.fft2`; at least 0 and the same at opposite frequencies.

    Raises:
        ShapeError: the power spectrum is not of the mean's shape.
        DataError: it is below 0 somewhere, or differs between opposite frequencies.
    """

    power: Tensor

    def __init__(self, mean: Tensor, power: Tensor) -> None:
        super().__init__(mean)
        if power.shape != mean.shape:
            raise ShapeError(
                f"found a power spectrum of shape {tuple(power.shape)}, expected that of the mean, {tuple(mean.shape)}."
            )
        opposite = power.flip((1, 2)).roll((1, 1), (1, 2))
        if not torch.allclose(power, opposite, rtol=1e-6, atol=0):
            raise DataError(
                "the power spectrum differs between opposite frequencies, but that of real images is the same there."
            )
        self.register_buffer("power", _variances((power + opposite) / 2))

    @classmethod
    def fit(cls, images: Tensor, floor: float) -> Self:
        """The stationary Gaussian of a set's mean per channel and mean power spectrum, nowhere below the floor.

        Args:
            images: (N, C, H, W), uint8 or floating-point.
            floor: least variance of any Fourier coefficient, pixel units squared, at least 0.

        Raises:
            ShapeError, DataError: the images cannot be a training set.
        """
        image = _mean(checked_images(images))
        mean = image.mean(dim=(1, 2), keepdim=True).expand_as(image).clone()
        power = torch.zeros_like(mean)
        for block in _blocks(images):
            power += torch.fft.fft2(block - mean, norm="ortho").abs().square().sum(dim=0)
        return cls(mean, (power / len(images)).clamp(min=floor))

    def _linear(self, centered: Tensor, sigma: Tensor) -> Tensor:
        return _filtered(centered, self.power / (self.power + sigma[:, None, None, None] ** 2))


class MixtureDenoiser(ClosedFormDenoiser):
    """The posterior mean of a mixture of Gaussians with diagonal covariances.

    Args:
        means: (K, C, H, W).
        variances: (K,) isotropic or (K, C, H, W) diagonal, at least 0.
        weights: (K,) above 0; divided by their sum.

    Raises:
        ShapeError: the three do not fit together.
        DataError: a variance is below 0, or a weight not above 0.
    """

    means: Tensor
    variances: Tensor
    log_weights: Tensor

    def __init__(self, means: Tensor, variances: Tensor, weights: Tensor) -> None:
        _, channels, height, width = checked_images(means).shape
        super().__init__((channels, height, width))
        if variances.shape not in (means.shape, means.shape[:1]) or weights.shape != means.shape[:1]:
            raise ShapeError(
                f"found variances {tuple(variances.shape)} and weights {tuple(weights.shape)}, expected "
                f"({len(means)},) or {tuple(means.shape)}, and ({len(means)},)."
            )
        if not bool((weights > 0).all()):
            raise DataError(f"found a weight of {float(weights.min())}, expected weights above 0.")
        full = variances if variances.ndim == 4 else variances[:, None, None, None].expand_as(means)
        self.register_buffer("means", as_float64(means))
        self.register_buffer("variances", _variances(full.contiguous()))
        self.register_buffer("log_weights", weights.double().log().log_softmax(dim=0))

    def _components(self, noisy: Tensor, sigma: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each component: log p(y, k) up to a constant (B,), E[x|y, k] (B, d), and λ / (λ + σ²) (B, d)."""
        flat = noisy.flatten(1)
        levels = sigma[:, None] ** 2
        for mean, variance, log_weight in zip(
            self.means.flatten(1), self.variances.flatten(1), self.log_weights, strict=True
        ):
            spread, centered = variance + levels, flat - mean  # (B, d)
            log_density = -(centered**2 / spread + spread.log()).sum(dim=1) / 2
            yield log_weight + log_density, mean + variance / spread * centered, variance / spread

    def _denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return self._posterior(noisy, sigma)[1].view(noisy.shape)

    def _posterior(self, noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The probabilities of the components (B, K), and the posterior means (B, d)."""
        shares = torch.stack([joint for joint, _, _ in self._components(noisy, sigma)], dim=1).softmax(dim=1)
        means = torch.zeros_like(noisy).flatten(1)
        for index, (_, mean, _) in enumerate(self._components(noisy, sigma)):
            means = means + shares[:, index, None] * mean
        return shares, means

    def _jacobian(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        shares, means = self._posterior(noisy, sigma)
        within, between = torch.zeros_like(means), means.new_zeros(*means.shape, means.shape[1])
        for index, (_, mean, factor) in enumerate(self._components(noisy, sigma)):
            share, off = shares[:, index, None], mean - means
            within += share * factor
            between += (share * off)[:, :, None] * off[:, None]
        return torch.diag_embed(within) + between / sigma[:, None, None] ** 2


def _filtered(images: Tensor, gain: Tensor) -> Tensor:
    filtered: Tensor = torch.fft.ifft2(torch.fft.fft2(images) * gain).real
    return filtered


def _blocks(images: Tensor) -> Iterator[Tensor]:
    size = max(1, block_numbers(images.device) // images[0].numel())
    return (as_float64(images[start : start + size]) for start in range(0, len(images), size))


def _mean(images: Tensor) -> Tensor:
    return torch.stack([block.sum(dim=0) for block in _blocks(images)]).sum(dim=0) / len(images)


def _variances(values: Tensor) -> Tensor:
    if not bool((values >= 0).all()):
        raise DataError(f"found a variance of {float(values.min())}, expected variances of at least 0.")
    return values.double()


def _image_shape(mean: Tensor) -> ImageShape:
    if mean.ndim != 3:
        raise ShapeError(f"found a mean of shape {tuple(mean.shape)}, expected (C, H, W).")
    channels, height, width = mean.shape
    return channels, height, width
