"""The posterior mean of a finite set of images: the denoiser that has memorized it.

For x uniform on x_1 ... x_N and y = x + σz, a denoiser that has memorized its training set computes

    f(y) = Σ_i w_i x_i,    w_i = exp(-||y - x_i||² / 2σ²) / Σ_j exp(-||y - x_j||² / 2σ²)

The sum runs over blocks of the set by a running log-sum-exp. Distances are computed from differences: the expansion
||y||² + ||x||² - 2 y·x, divided by 2σ², would lose the digits that decide between near images.

Source: Miyasawa 1961; Kadkhodaie et al. (ICLR 2024), eq. 9 and 22, for the Jacobian.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from memgen.base.errors import DataError, ShapeError
from memgen.models.known.closed_form import (
    ClosedFormDenoiser,
    as_float64,
    block_numbers,
    checked_images,
    squared_distances,
)


class WeightedMean:
    """Means Σ_i exp(l_i) v_i / Σ_i exp(l_i), one for each of Q queries, of values that arrive in blocks."""

    def __init__(self) -> None:
        # They begin without dimensions, since such tensors go together with those of any device.
        self._peak = torch.tensor(-math.inf, dtype=torch.float64)  # the largest log-weight so far, then (Q,)
        self._total = torch.zeros((), dtype=torch.float64)  # Σ exp(l - peak), then (Q,)
        self._sum = torch.zeros((), dtype=torch.float64)  # Σ exp(l - peak) v, then (Q, width)

    def add(self, log_weights: Tensor, values: Tensor) -> None:
        """Add a block: log-weights (Q, n) of values (n, width), float64."""
        peak = torch.maximum(self._peak, log_weights.detach().amax(dim=1))
        before, weights = (self._peak - peak).exp(), (log_weights - peak[:, None]).exp()
        self._total = self._total * before + weights.sum(dim=1)
        self._sum = self._sum * before[:, None] + weights @ values
        self._peak = peak

    @property
    def mean(self) -> Tensor:
        """(Q, width)."""
        return self._sum / self._total[:, None]

    @property
    def log_total(self) -> Tensor:
        """log Σ_i exp(l_i), (Q,)."""
        return self._peak + self._total.log()


@dataclass(frozen=True)
class Shortlist:
    """A way to sum over the nearest images only, where the others provably do not matter.

    Attributes:
        search: maps noisy images (B, C, H, W) float64 to the positions (B, k) of their k nearest images by Euclidean
            distance, each once. It must be exact: the error bound rests on no other image being nearer.
        tolerance: largest bound on the error, as a root mean square over pixels, at which the shortlist is used.
    """

    search: Callable[[Tensor], Tensor]
    tolerance: float = 1e-7


class EmpiricalDenoiser(ClosedFormDenoiser):
    """The posterior mean of a finite set: pure memorization.

    Args:
        images: (N, C, H, W), uint8 in [0, 255] or floating-point in [0, 1].
        block: images summed at a time; None to fit the device. No result depends on it.
        shortlist: avoids the sum over the whole set where the noise is small; None always sums over the whole set.
    """

    images: Tensor

    def __init__(self, images: Tensor, block: int | None = None, shortlist: Shortlist | None = None) -> None:
        _, channels, height, width = checked_images(images).shape
        super().__init__((channels, height, width))
        self.register_buffer("images", images.contiguous())
        self.block, self.shortlist = block, shortlist
        low, high = as_float64(torch.stack([*images.aminmax()]))
        self._span = float(high - low)

    def denoise(self, noisy: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The denoised images, and a bound on the error of summing over a shortlist.

        With Z the sum of the shortlist's weights and R that of the others, R <= (N - k) exp(-d_k² / 2σ²), the result
        lacks a share R / (Z + R) of another point of the images' range.

        Args:
            noisy: (B, C, H, W).
            sigma: (B,), above 0.

        Returns:
            (B, C, H, W) float64, and a bound (B,) on the root mean square over pixels of its truncation error, in
            pixel units: at most the shortlist's tolerance, 0 where the whole set was summed.

        Raises:
            ShapeError: the images or noise levels do not fit, or the search returned no positions (B, k).
            DataError: a noise level is not above 0, or the search returned positions outside of the set.
        """
        levels, queries = self._levels(noisy, sigma), noisy.double().flatten(1)
        if self.shortlist is None:
            return self._summed(queries, levels).mean.view(noisy.shape), torch.zeros_like(levels)
        means, bound = self._shortlisted(queries, levels, self.shortlist.search(noisy.double()))
        whole = ~(bound <= self.shortlist.tolerance)  # NaN too
        if bool(whole.any()):
            means = means.index_put((whole,), self._summed(queries[whole], levels[whole]).mean)
        return means.view(noisy.shape), bound.masked_fill(whole, 0)

    def _denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return self.denoise(noisy, sigma)[0]

    def _jacobian(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        queries, precision = noisy.flatten(1), 1 / (2 * sigma**2)
        posterior = self._summed(queries, sigma)
        covariance = queries.new_zeros(len(queries), queries.shape[1], queries.shape[1])
        for references in self._blocks(len(queries)):
            log_weights = -squared_distances(queries, references) * precision[:, None]
            weights = (log_weights - posterior.log_total[:, None]).exp()  # (B, n)
            for row, mean in enumerate(posterior.mean):
                centered = references - mean
                covariance[row] += (centered * weights[row, :, None]).T @ centered
        return covariance / sigma[:, None, None] ** 2

    def _summed(self, queries: Tensor, sigma: Tensor) -> WeightedMean:
        """The posterior of (B, d) queries over the whole set."""
        posterior, precision = WeightedMean(), 1 / (2 * sigma**2)
        for references in self._blocks(len(queries)):
            posterior.add(-squared_distances(queries, references) * precision[:, None], references)
        return posterior

    def _blocks(self, queries: int) -> Iterator[Tensor]:
        """The set in blocks (n, d), each no larger than what it is compared with allows."""
        size = self.block or max(1, block_numbers(self.images.device) // max(queries, self.images[0].numel()))
        for start in range(0, len(self.images), size):
            yield as_float64(self.images[start : start + size]).flatten(1)

    def _shortlisted(self, queries: Tensor, sigma: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior means (B, d) over shortlists (B, k), and the bound on their error (B,)."""
        n_images, positions = len(self.images), positions.to(queries.device)
        if positions.ndim != 2 or len(positions) != len(queries) or not positions.numel():
            raise ShapeError(
                f"search: found positions of shape {tuple(positions.shape)}, expected ({len(queries)}, k)."
            )
        if bool(((positions < 0) | (positions >= n_images)).any()):
            raise DataError(f"search: found positions outside of 0 to {n_images - 1}, the images of this denoiser.")
        references = as_float64(self.images[positions]).flatten(2)  # (B, k, d)
        log_weights = -squared_distances(queries[:, None], references)[:, 0] / (2 * sigma[:, None] ** 2)  # (B, k)
        means = (log_weights.softmax(dim=1)[:, None] @ references)[:, 0]
        left_out = n_images - positions.shape[1]
        log_rest = log_weights.amin(dim=1) + (math.log(left_out) if left_out > 0 else -math.inf)
        return means, self._span * torch.sigmoid(log_rest - log_weights.logsumexp(dim=1))
