"""The denoiser that has memorized patches: each pixel is the posterior mean given the noisy patch around it alone.

With u the noisy patch of side p around pixel i, and patches P_1, P_2, ... of the training images, of which c_n is the
center,

    f(y)_i = Σ_n w_n c_n,    w_n ∝ exp(-||u - P_n||² / 2σ²)

A local machine compares with patches at the same position; an equivariant one with patches at all positions. At a
border a patch reaches beyond the image, where a convolution sees zeros without noise: they tell exactly how far the
border is, and no patch at another distance from it could have given them. So pixels near a border are compared only
with pixels at the same distances from the same borders, over the part of the patch that lies inside. An equivariant
machine is therefore equivariant in the interior only. With patches that cover the image from every pixel, both are the
posterior mean of the set of images.

Source: Kamb & Ganguli (ICML 2025), the local score machine, and the equivariant one broken by borders.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from memgen.base.errors import ConfigError
from memgen.models.known.closed_form import (
    ClosedFormDenoiser,
    as_float64,
    block_numbers,
    checked_images,
    squared_distances,
)
from memgen.models.known.empirical import WeightedMean


class _Span(NamedTuple):
    """Rows, or columns, that see the same borders: their patches reach equally far before and after them."""

    first: int
    last: int
    before: int
    after: int

    @property
    def length(self) -> int:
        return self.last - self.first + 1

    @property
    def centers(self) -> slice:
        return slice(self.first, self.last + 1)

    @property
    def seen(self) -> slice:
        return slice(self.first - self.before, self.last + self.after + 1)

    @property
    def side(self) -> int:
        return self.before + 1 + self.after


class _Group(NamedTuple):
    """A rectangle of pixels whose patches are compared with one another's."""

    rows: _Span
    columns: _Span

    def patches(self, images: Tensor) -> Tensor:
        """The patches around the group's pixels in (n, C, H, W): (n·rows·columns, C·h·w)."""
        seen = images[:, :, self.rows.seen, self.columns.seen]
        unfolded = seen.unfold(2, self.rows.side, 1).unfold(3, self.columns.side, 1)  # (n, C, rows, columns, h, w)
        return unfolded.permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)

    def centers(self, images: Tensor) -> Tensor:
        """The group's pixels in (n, C, H, W): (n·rows·columns, C)."""
        return images[:, :, self.rows.centers, self.columns.centers].permute(0, 2, 3, 1).flatten(0, 2)


class LocalDenoiser(ClosedFormDenoiser):
    """The local patch denoiser.

    Its time per pixel grows with N·H·W if it is equivariant, and with N if it is not. Its memory grows with neither.

    Args:
        images: (N, C, H, W), uint8 in [0, 255] or floating-point in [0, 1].
        patch: odd side of the patches.
        equivariant: whether to compare with patches at all positions, not only at the same position.
        block: training images at a time; None to fit the device. No result depends on it.

    Raises:
        ConfigError: the side is even or below 1.
    """

    images: Tensor

    def __init__(self, images: Tensor, patch: int, equivariant: bool, block: int | None = None) -> None:
        _, channels, height, width = checked_images(images).shape
        super().__init__((channels, height, width))
        if patch < 1 or patch % 2 == 0:
            raise ConfigError(f"found patches of side {patch}, expected an odd number from 1.")
        self.register_buffer("images", images.contiguous())
        self.block = block
        rows, columns = (_spans(side, patch // 2, equivariant) for side in (height, width))
        self._groups = [_Group(row, column) for row in rows for column in columns]

    def _denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        denoised = torch.zeros_like(noisy)
        for group in self._groups:
            means = self._means(noisy, sigma, group, lambda patches, centers: centers)
            means = means.view(len(noisy), group.rows.length, group.columns.length, -1)
            denoised[:, :, group.rows.centers, group.columns.centers] = means.permute(0, 3, 1, 2)
        return denoised

    def _jacobian(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        # Row i is Cov[x_i, patch | noisy patch] / σ² on the patch around i, and 0 elsewhere.
        jacobian = noisy.new_zeros(len(noisy), *self.image_shape, *self.image_shape)
        for group in self._groups:
            covariance = self._covariance(noisy, sigma, group) / sigma.view(-1, 1, 1, 1, 1, 1, 1) ** 2
            for a, b in torch.cartesian_prod(
                torch.arange(group.rows.length), torch.arange(group.columns.length)
            ).tolist():
                i, j = group.rows.first + a, group.columns.first + b
                rows = slice(i - group.rows.before, i + group.rows.after + 1)
                columns = slice(j - group.columns.before, j + group.columns.after + 1)
                jacobian[:, :, i, j, :, rows, columns] = covariance[:, a, b]
        d = self.images[0].numel()
        return jacobian.view(len(noisy), d, d)

    def _covariance(self, noisy: Tensor, sigma: Tensor, group: _Group) -> Tensor:
        """Posterior covariances of pixels and their patches (B, rows, columns, C, C, h, w)."""
        channels = self.image_shape[0]

        def moments(patches: Tensor, centers: Tensor) -> Tensor:
            products = centers[:, :, None] * patches[:, None]  # (n, C, w)
            return torch.cat([centers, patches, products.flatten(1)], dim=1)

        means = self._means(noisy, sigma, group, moments)
        width = channels * group.rows.side * group.columns.side
        center, patch, product = (
            means[:, :channels],
            means[:, channels : channels + width],
            means[:, channels + width :],
        )
        covariance = product.reshape(-1, channels, width) - center[:, :, None] * patch[:, None]
        sides = (group.rows.side, group.columns.side)
        return covariance.view(len(noisy), group.rows.length, group.columns.length, channels, channels, *sides)

    def _means(self, noisy: Tensor, sigma: Tensor, group: _Group, values: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Posterior means of values(patches, centers) (n, v) at the group's pixels: (B·rows·columns, v)."""
        queries, pixels = group.patches(noisy), group.rows.length * group.columns.length
        precision = (1 / (2 * sigma**2)).repeat_interleave(pixels)[:, None]
        # Tiles of queries and patches about as long as wide. Only one has its sums alive: many small tensors that
        # outlive the large ones around them would fragment the heap.
        budget = block_numbers(noisy.device)
        size = self.block or max(1, math.isqrt(budget) // pixels)
        step = max(1, budget // (size * pixels))
        means: list[Tensor] = []
        for start in range(0, len(queries), step):
            part = slice(start, start + step)
            posterior = WeightedMean()
            for first in range(0, len(self.images), size):
                images = as_float64(self.images[first : first + size])
                patches = group.patches(images)
                log_weights = -squared_distances(queries[part], patches) * precision[part]
                posterior.add(log_weights, values(patches, group.centers(images)))
            means.append(posterior.mean)
        return torch.cat(means)


def _spans(size: int, radius: int, shared: bool) -> list[_Span]:
    """A side of the image cut into spans: one for all positions that see no border if `shared`, and single ones."""
    inside = range(radius, size - radius) if shared else range(0)
    ends = [(index, index) for index in range(size) if index not in inside]
    if inside:
        ends.append((inside[0], inside[-1]))
    return [_Span(first, last, min(radius, first), min(radius, size - 1 - last)) for first, last in ends]
