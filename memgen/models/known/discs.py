"""Images of one disc, which form a curved manifold of five dimensions, and the posterior mean on them.

    x = background + (foreground - background) m,    m = 1 / (1 + exp(-4 (radius - distance from the center) / edge))

Pixel (i, j) stands at (i + 1/2, j + 1/2). The edge is as steep as a ramp of width `edge`. Center and radius are uniform
on intervals, (foreground, background) on the two triangles of [0, 1]² where they differ by at least the contrast.

Given the mask m an image is linear in the two intensities, so that their posterior is a bivariate normal cut to the
triangles: one of the two is integrated in closed form (truncated.py), the other by Gauss-Legendre quadrature where the
integrand, which is log-concave, is not negligible. Over center and radius the posterior is summed by the midpoint rule
on a grid with corrections of the fifth order at its ends, which for a smooth peak inside converges faster than any
power of the spacing. The grid is refined where the posterior is: cells are halved until the spacing is a given share of
the posterior standard deviation, and dropped when no disc in them can explain the image nearly as well as the best one
does, to five standard deviations of the noise. The dropped weight is bounded, and the bound is returned. It holds for
images of discs with noise of the stated level; for other images, only the likely discs are found.

At small σ all of this approaches the projection on the tangent space, whose squared error is 5 σ².

Source: Kadkhodaie et al. (ICLR 2024), section 3.2; Euler-Maclaurin and Gregory's end corrections, Davis & Rabinowitz
1984, Methods of Numerical Integration, section 2.9.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from memgen.base.errors import ConfigError
from memgen.models.known.closed_form import ClosedFormDenoiser, block_numbers
from memgen.models.known.truncated import truncated_normal

_START = (10, 10, 5)  # cells of the coarsest grid along row, column and radius
_DEVIATIONS = 5.0  # of the noise, by which a cell that is dropped could look worse than it is
_NEGLIGIBLE = 18.0  # log-likelihood below the best, from which a cell is dropped
_OF_EDGE = 0.33  # spacing in widths of the edge, at resolution 1
_NODES = 16  # of the quadrature over the background
_DROP = 18.0  # log of the share of its peak to which the integrand over the background is followed
# Added to the weights of the five midpoints next to an end. With them the rule is exact for polynomials of degree 4:
# Σ_j c_j (j + 1/2)^p = B_{p+1}(1/2) / (p + 1), which is 0, -1/24, 0, 7/960, 0.
_END = (101 / 640, -2213 / 5760, 143 / 384, -349 / 1920, 103 / 2880)


@dataclass(frozen=True)
class DiscPrior:
    """The distribution of the discs.

    Attributes:
        side: of the square images, pixels.
        center: smallest and largest row, and column, of the center; pixels from the corner of the image.
        radius: smallest and largest radius, pixels.
        contrast: least difference of foreground and background, in (0, 1).
        edge: width of the edge, pixels, at least 1.

    Raises:
        ConfigError: a disc would leave the image or be no wider than its own edge, or a number is out of range.
    """

    side: int
    center: tuple[float, float]
    radius: tuple[float, float]
    contrast: float
    edge: float

    def __post_init__(self) -> None:
        (nearest, farthest), (smallest, largest) = self.center, self.radius
        if not (nearest < farthest and smallest < largest):
            raise ConfigError(f"discs: center {self.center} and radius {self.radius}, expected (smaller, larger).")
        if self.edge < 1 or not 0 < self.contrast < 1:
            raise ConfigError(
                f"discs: edge {self.edge} and contrast {self.contrast}, expected an edge of at least 1 pixel and a "
                "contrast between 0 and 1."
            )
        if smallest < 2 * self.edge:
            raise ConfigError(
                f"discs: the smallest radius is {smallest:g} pixels, expected at least twice the edge of "
                f"{self.edge:g}. Use a larger side, larger radii or a narrower edge."
            )
        if nearest - largest < 0 or farthest + largest > self.side:
            raise ConfigError(
                f"discs: centers from {nearest:g} to {farthest:g} with radii up to {largest:g} leave an image of "
                f"{self.side} pixels. Use smaller radii, or centers nearer to the middle."
            )

    def draw(self, uniforms: Tensor) -> Tensor:
        """Discs from independent uniform numbers.

        Args:
            uniforms: (n, 6) in [0, 1).

        Returns:
            (n, 5) float64: row, column and radius in pixels, foreground and background in [0, 1].
        """
        uniforms = uniforms.double()
        low = uniforms.new_tensor([self.center[0], self.center[0], self.radius[0]])
        high = uniforms.new_tensor([self.center[1], self.center[1], self.radius[1]])
        # Two sorted uniforms are uniform on a triangle; the larger one is moved away by the contrast.
        pair = uniforms[:, 3:5].sort(dim=1).values * (1 - self.contrast)
        pair = pair + pair.new_tensor([0, self.contrast])
        intensities = torch.where(uniforms[:, 5:] < 0.5, pair, pair.flip(1))
        return torch.cat([low + (high - low) * uniforms[:, :3], intensities], dim=1)

    def masks(self, places: Tensor) -> Tensor:
        """The masks of discs (n, 3) of row, column and radius: (n, side²) float64 in (0, 1)."""
        rows, columns, radius = places.double()[:, :, None].unbind(dim=1)  # (n, 1)
        grid = torch.arange(self.side, dtype=torch.float64, device=places.device) + 0.5
        squares = (grid - rows).square()[:, :, None] + (grid - columns).square()[:, None]
        masks: Tensor = torch.sigmoid((radius[:, :, None] - squares.sqrt()) * (4 / self.edge))
        return masks.flatten(1)

    def render(self, parameters: Tensor) -> Tensor:
        """The images of discs (n, 5): (n, 1, side, side) float64 in (0, 1)."""
        foreground, background = parameters.double()[:, 3:4], parameters.double()[:, 4:5]
        images: Tensor = background + (foreground - background) * self.masks(parameters[:, :3])
        return images.view(-1, 1, self.side, self.side)

    def tangents(self, parameters: Tensor) -> Tensor:
        """The derivatives of discs (n, 5) with respect to their parameters, each of norm 1: (n, 5, side²) float64."""
        row, column, radius, foreground, background = parameters.double()[:, :, None].unbind(dim=1)
        grid = torch.arange(self.side, dtype=torch.float64, device=parameters.device) + 0.5
        down = (row - grid)[:, :, None].expand(-1, -1, self.side).flatten(1)
        across = (column - grid)[:, None].expand(-1, self.side, -1).flatten(1)
        distance = (down.square() + across.square()).sqrt().clamp(min=1e-12)
        mask = torch.sigmoid((radius - distance) * (4 / self.edge))
        slope = (foreground - background) * mask * (1 - mask) * 4 / self.edge
        by_parameter = [-slope * down / distance, -slope * across / distance, slope, mask, 1 - mask]
        derivatives = torch.stack(by_parameter, dim=1)
        normalized: Tensor = derivatives / derivatives.norm(dim=2, keepdim=True)
        return normalized

    def project(self, parameters: Tensor, noisy: Tensor) -> Tensor:
        """Noisy images projected on the tangent spaces at their clean discs: the denoised images of an oracle.

        Its mean squared error is 5 σ² / d: at small σ that of the posterior mean.

        Args:
            parameters: (n, 5), the clean discs.
            noisy: (n, 1, side, side).
        """
        clean = self.render(parameters)
        basis, _ = torch.linalg.qr(self.tangents(parameters).transpose(1, 2))  # (n, d, 5)
        noise = (noisy.double() - clean).flatten(1)[:, :, None]
        projected: Tensor = clean + (basis @ (basis.transpose(1, 2) @ noise)).view(clean.shape)
        return projected


class _Fit(NamedTuple):
    """Least squares of an image on masks m and 1 - m, for each of P cells: ||y - x||² = left + (u - û)ᵀ A (u - û)."""

    gram: Tensor  # (P, 2, 2), the A, for u = (foreground, background)
    best: Tensor  # (P, 2), the û, anywhere
    left: Tensor  # (P,)
    modes: Tensor  # (P, 2, 2), the allowed u nearest to û, on each of the triangles
    apart: Tensor  # (P,), (u - û)ᵀ A (u - û) at the better mode

    @property
    def squared(self) -> Tensor:
        """The least ||y - x||² over allowed intensities, (P,)."""
        return self.left + self.apart

    @property
    def contrast(self) -> Tensor:
        """|foreground - background| there, at most: (P,)."""
        return (self.modes[..., 0] - self.modes[..., 1]).abs().amax(dim=1)


class _Intensities(NamedTuple):
    """The posterior of (foreground, background) in each of P cells."""

    log_evidence: Tensor  # (P,), log of the mean likelihood over the prior of the intensities
    mean: Tensor  # (P, 2)
    covariance: Tensor  # (P, 2, 2)


class _Posterior(NamedTuple):
    """The posterior of an image: discs at P places with weights, and their intensities."""

    places: Tensor  # (P, 3)
    weights: Tensor  # (P,)
    intensities: _Intensities
    dropped: Tensor  # bound on the weight that is missing


class DiscDenoiser(ClosedFormDenoiser):
    """The posterior mean of images of discs.

    Args:
        prior: the distribution of the discs.
        resolution: spacing of the grid over center and radius in posterior standard deviations of the radius (root mean
            square over the posterior), and in units of 0.33 widths of the edge, at most. Halving it changes the result
            by about the quadrature error.
    """

    def __init__(self, prior: DiscPrior, resolution: float = 1.0) -> None:
        super().__init__((1, prior.side, prior.side))
        self.prior, self.resolution = prior, resolution
        self._nodes, self._node_weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(_NODES))

    def dropped(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """A bound (B,) on the posterior weight of the discs that were dropped, for noisy images of discs.

        Raises:
            ShapeError, DataError: as for the denoised images.
        """
        levels = self._levels(noisy, sigma)
        return torch.stack([p.dropped for p in self._posteriors(noisy.double(), levels)])

    def variance(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """tr Cov[x|y] / d, the mean squared error that remains: (B,) float64, pixel units squared.

        Raises:
            ShapeError, DataError: as for the denoised images.
        """
        levels = self._levels(noisy, sigma)
        return torch.stack([self._variance(posterior) for posterior in self._posteriors(noisy.double(), levels)])

    def _denoise(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        return torch.stack([self._mean(p) for p in self._posteriors(noisy, sigma)]).view(noisy.shape)

    def _jacobian(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        d = noisy[0].numel()
        jacobian = noisy.new_zeros(len(noisy), d, d)
        for row, posterior in enumerate(self._posteriors(noisy, sigma)):
            mean = self._mean(posterior)
            for part, pair in self._blocks(posterior):  # pair: the images m and 1 - m, (p, 2, d)
                weights, intensities = posterior.weights[part], posterior.intensities
                centered = (intensities.mean[part][:, None] @ pair)[:, 0] - mean
                jacobian[row] += (centered * weights[:, None]).T @ centered
                spread = (intensities.covariance[part] * weights[:, None, None]) @ pair
                jacobian[row] += pair.flatten(0, 1).T @ spread.flatten(0, 1)
        return jacobian / sigma[:, None, None] ** 2

    def _mean(self, posterior: _Posterior) -> Tensor:
        """E[x|y], (d,)."""
        total = posterior.weights.new_zeros(self.prior.side**2)
        for part, pair in self._blocks(posterior):
            weighted = posterior.weights[part, None] * posterior.intensities.mean[part]
            total += weighted.flatten() @ pair.flatten(0, 1)
        return total

    def _variance(self, posterior: _Posterior) -> Tensor:
        mean, total = self._mean(posterior), posterior.weights.new_zeros(())
        for part, pair in self._blocks(posterior):
            centered = (posterior.intensities.mean[part][:, None] @ pair)[:, 0] - mean
            within = (posterior.intensities.covariance[part] * (pair @ pair.transpose(1, 2))).sum(dim=(1, 2))
            total += posterior.weights[part] @ (centered.square().sum(dim=1) + within)
        return total / len(mean)

    def _blocks(self, posterior: _Posterior) -> Iterator[tuple[slice, Tensor]]:
        """The discs of a posterior in blocks, each with the images m and 1 - m of its discs, (p, 2, d)."""
        for part, masks in self._masks(posterior.places):
            yield part, torch.stack([masks, 1 - masks], dim=1)

    def _masks(self, places: Tensor) -> Iterator[tuple[slice, Tensor]]:
        size = max(1, block_numbers(places.device) // self.prior.side**2)
        for start in range(0, len(places), size):
            part = slice(start, start + size)
            yield part, self.prior.masks(places[part])

    # The grid over center and radius, coarse to fine.

    def _posteriors(self, noisy: Tensor, sigma: Tensor) -> Iterator[_Posterior]:
        for image, level in zip(noisy.flatten(1), sigma.tolist(), strict=True):
            yield self._posterior(image, level)

    def _posterior(self, image: Tensor, sigma: float) -> _Posterior:
        """The posterior of one image (d,)."""
        low, extent = self._domain(image.device)
        counts = torch.tensor(_START, device=image.device)
        cells = torch.cartesian_prod(*(torch.arange(count, device=image.device) for count in _START))  # (P, 3)
        dropped = []  # logs of bounds on the evidence of what is left out
        while True:
            spacing = extent / counts
            fit = self._fit(low + (cells + 0.5) * spacing, image)
            nearest = self._bound(fit, low[2] + (cells[:, 2] + 0.5) * spacing[2], spacing, sigma)
            kept = nearest <= fit.squared.min() + 2 * sigma**2 * _NEGLIGIBLE
            dropped.append(torch.logsumexp(self._log_bound(fit, nearest, sigma)[~kept], dim=0) + spacing.log().sum())
            cells, fit = cells[kept], _Fit(*(part[kept] for part in fit))
            places = low + (cells + 0.5) * spacing
            if self._is_fine(fit, places[:, 2], spacing, sigma):
                break
            corners = torch.cartesian_prod(*[torch.arange(2, device=cells.device)] * 3)
            counts, cells = 2 * counts, (2 * cells[:, None] + corners).flatten(0, 1)
        # On this grid a cell is as heavy as its midpoint says.
        kept = fit.squared <= fit.squared.min() + 2 * sigma**2 * _NEGLIGIBLE
        cells, places, fit = cells[kept], places[kept], _Fit(*(part[kept] for part in fit))
        intensities = self._intensities(fit, sigma)
        log_weights = intensities.log_evidence + self._end_weights(cells, counts).log()
        left_out = torch.logsumexp(torch.stack(dropped), dim=0) - log_weights.logsumexp(dim=0) - spacing.log().sum()
        weights = log_weights.softmax(dim=0)
        heavy = weights > 1e-12 / len(weights)
        intensities = _Intensities(*(part[heavy] for part in intensities))
        return _Posterior(places[heavy], weights[heavy], intensities, left_out.exp())

    def _domain(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The least row, column and radius, and how far each reaches: (3,), (3,)."""
        ends = torch.tensor([self.prior.center, self.prior.center, self.prior.radius], dtype=torch.float64)
        return ends[:, 0].to(device), (ends[:, 1] - ends[:, 0]).to(device)

    def _fit(self, places: Tensor, image: Tensor) -> _Fit:
        """Least squares at each of (P, 3) places."""
        products = torch.cat(
            [
                torch.stack([masks.square().sum(dim=1), masks.sum(dim=1), masks @ image], dim=1)
                for _, masks in self._masks(places)
            ]
        )
        mm, m, my = products.unbind(dim=1)
        mn, nn, ny = m - mm, self.prior.side**2 - 2 * m + mm, image.sum() - my  # n = 1 - m
        gram = torch.stack([mm, mn, mn, nn], dim=1).view(-1, 2, 2)
        onto = torch.stack([my, ny], dim=1)
        best = torch.linalg.solve(gram, onto)
        left = (image.square().sum() - (onto * best).sum(dim=1)).clamp(min=0)
        modes, apart = _nearest(_triangles(self.prior.contrast).to(places.device), gram, best)
        return _Fit(gram, best, left, modes, apart.amin(dim=1))

    def _bound(self, fit: _Fit, radius: Tensor, spacing: Tensor, sigma: float) -> Tensor:
        """What ||y - x||² may fall to anywhere in cells, (P,), for noise that is y - x of some disc.

        In a cell an image moves by at most `reach`. Let S² = ||y - x||² less the energy of the noise, the squared
        distance of x from the clean image: it falls to no less than (S - reach)², and the inner product of the noise
        with the movement is within so many standard deviations.
        """
        # To a corner of the cell the circle moves by this root mean square along its circumference. The integral of
        # (m(ρ + moved) - m(ρ))² over the edge is concave in moved², so that no other movement changes the mask more.
        moved, steep = (spacing[0] ** 2 + spacing[2] ** 2).sqrt() / 2, 4 / self.prior.edge
        across = (steep * moved / torch.tanh(steep * moved / 2) - 2) / steep
        contrast = (1.2 * torch.maximum(fit.contrast, fit.contrast[fit.squared.argmin()])).clamp(max=1)
        reach = contrast * (2 * math.pi * (radius + spacing[2] / 2) * across).sqrt()
        random = 2 * _DEVIATIONS * sigma * reach
        energy = (fit.squared - reach**2 - random).min().clamp(min=0)
        away = (fit.squared - energy).sqrt()
        nearest: Tensor = fit.squared - away**2 + (away - reach).clamp(min=0) ** 2 - random
        return nearest

    def _log_bound(self, fit: _Fit, nearest: Tensor, sigma: float) -> Tensor:
        """A bound on the log-evidence of cells, from the least ||y - x||² in them."""
        volume: Tensor = 2 * math.pi * sigma**2 / torch.linalg.det(fit.gram).sqrt()
        return -nearest / (2 * sigma**2) + (volume / (1 - self.prior.contrast) ** 2).clamp(max=1).log()

    def _is_fine(self, fit: _Fit, radius: Tensor, spacing: Tensor, sigma: float) -> bool:
        """Whether the grid resolves both the edge and the posterior."""
        if float(spacing.max()) > self.resolution * _OF_EDGE * self.prior.edge:
            return False
        # The squared norm of the derivative of an image by its radius.
        stiffness = fit.contrast**2 * 2 * math.pi * radius * (4 / self.prior.edge) / 6
        weights = (-fit.squared / (2 * sigma**2)).softmax(dim=0)
        return float(spacing.max()) * math.sqrt(float(weights @ stiffness)) <= self.resolution * sigma

    def _end_weights(self, cells: Tensor, counts: Tensor) -> Tensor:
        """The corrections (P,) to the midpoint rule near the ends of the three intervals."""
        weights = torch.ones(cells.shape, dtype=torch.float64, device=cells.device)
        for offset, correction in enumerate(_END):
            for end in (torch.full_like(counts, offset), counts - 1 - offset):
                weights += correction * (cells == end)
        return weights.prod(dim=1)

    # The intensities.

    def _intensities(self, fit: _Fit, sigma: float) -> _Intensities:
        """Foreground in closed form given the background, background by quadrature from end to end of a triangle."""
        contrast, device = self.prior.contrast, fit.best.device
        # On either triangle the background lies between two ends, the foreground between two lines in it.
        ends = torch.tensor([[0, 1 - contrast], [contrast, 1]], dtype=torch.float64, device=device)
        lower = torch.tensor([[contrast, 1], [0, 0]], dtype=torch.float64, device=device)
        upper = torch.tensor([[1, 0], [-contrast, 1]], dtype=torch.float64, device=device)
        slope = -(fit.gram[:, 0, 1] / fit.gram[:, 0, 0])[:, None, None]  # (P, 1, 1)
        spread = sigma / fit.gram[:, 0, 0].sqrt()[:, None, None]
        width = sigma / (torch.linalg.det(fit.gram) / fit.gram[:, 0, 0]).sqrt()[:, None, None]
        foreground, background = (part[:, None, None] for part in fit.best.unbind(dim=1))

        def given(at: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            """At backgrounds (P, 2, Q): log of the integrand, its derivative, and foreground's mean and variance."""
            low, high = (line[:, :1] + line[:, 1:] * at for line in (lower, upper))
            cut = truncated_normal(foreground + slope * (at - background), spread, low, high)
            offset = (at - background) / width
            bend = (upper[:, 1:] - slope) * cut.density_high - (lower[:, 1:] - slope) * cut.density_low
            return cut.log_mass - offset**2 / 2, bend - offset / width, cut.mean, cut.variance

        start = fit.modes[..., 1:]  # (P, 2, 1); pushed inside, where the foreground has room
        start = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * ((start - ends[:, :1]) / (1 - contrast)).clamp(
            1e-6, 1 - 1e-6
        )
        outward = width * given(start)[1]
        # The curvature is at least 1 / width²: beyond these points the integrand is below exp(-_DROP) of its peak.
        before = start - width * (-outward + (outward**2 + 2 * _DROP).sqrt())
        after = start + width * (outward + (outward**2 + 2 * _DROP).sqrt())
        before, after = torch.maximum(before, ends[:, :1]), torch.minimum(after, ends[:, 1:])
        nodes, node_weights = self._nodes.to(device), self._node_weights.to(device)
        at = (before + after) / 2 + (after - before) / 2 * nodes  # (P, 2, Q)
        log_density, _, mean, variance = given(at)
        log_weights = (log_density + ((after - before) / 2 * node_weights).log()).flatten(1)  # (P, 2Q)
        log_total = log_weights.logsumexp(dim=1)
        weights = (log_weights - log_total[:, None]).exp()
        values = torch.stack([mean.flatten(1), at.flatten(1)], dim=2)  # (P, 2Q, 2)
        center = (weights[:, :, None] * values).sum(dim=1)
        off = values - center[:, None]
        covariance = (weights[:, :, None] * off).transpose(1, 2) @ off
        covariance[:, 0, 0] += (weights * variance.flatten(1)).sum(dim=1)
        normal = (math.sqrt(2 * math.pi) * spread[:, 0, 0] / (1 - contrast) ** 2).log()
        return _Intensities(log_total + normal - fit.left / (2 * sigma**2), center, covariance)


def _triangles(contrast: float) -> Tensor:
    """The corners (foreground, background) of the two triangles: (2, 3, 2)."""
    brighter = [[contrast, 0.0], [1.0, 0.0], [1.0, 1 - contrast]]
    return torch.tensor([brighter, [corner[::-1] for corner in brighter]], dtype=torch.float64)


def _nearest(triangles: Tensor, gram: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
    """The points u of triangles nearest to û by (u - û)ᵀ A (u - û), (P, 2, 2), and that distance (P, 2)."""
    edges = triangles.roll(-1, dims=1) - triangles  # (2, 3, 2)
    off = triangles - best[:, None, None]  # (P, 2, 3, 2)
    pulled = edges @ gram[:, None]  # (P, 2, 3, 2), A e
    share = -(off * pulled).sum(dim=3) / (edges * pulled).sum(dim=3)
    points = off + share.clamp(0, 1)[..., None] * edges
    squares = ((points @ gram[:, None]) * points).sum(dim=3)  # (P, 2, 3)
    chosen = squares.argmin(dim=2, keepdim=True)
    point = points.gather(2, chosen[..., None].expand(-1, -1, -1, 2))[:, :, 0]
    # û itself, where it lies on the same side of all edges.
    sides = edges[..., 0] * -off[..., 1] - edges[..., 1] * -off[..., 0]
    inside = (sides > 0).all(dim=2) | (sides < 0).all(dim=2)
    point = point.masked_fill(inside[..., None], 0)
    return best[:, None] + point, squares.amin(dim=2).masked_fill(inside, 0)
