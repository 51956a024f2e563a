"""The search for images that a sample fits after it was mirrored, moved, turned, zoomed or inverted.

Images are blurred and reduced (see `reduced`), and weighted so that their borders, which such changes move out of
sight, count little. Let s(g, x) be the largest correlation of a changed sample g with an image x, over all changes.

    proposals   for each of 62 changes on a grid, correlations of luminance with all images of the pool; the images with
                the best of these are proposed
    refinement  for each proposal, the change is refined by Gauss-Newton steps on shift, angle and zoom, in all channels
    depth       log(d_2 / d_1), with d^2 = 1 - s, of the nearest image and the nearest one of another unit

Each image has a change of its own. If all were compared after the one change that suits the nearest image, every sample
would lie deep: in trials on Fashion-MNIST, no copy that was turned or blurred was then found.

Source: Gauss-Newton alignment as in Lucas & Kanade, IJCAI 1981, and Simard, LeCun & Denker, NeurIPS 1992 (tangent
distance).
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from memgen.images.gathered import Images
from memgen.measures.copies.reduced import reduced
from memgen.spaces import products

_PROPOSALS = 6
_STEPS = 3
_QUERIES = 512  # compared at a time
# Numbers of the pairs that are refined at a time. Arrays that are some times larger than this would each be taken from
# the system anew, and the system clears what it gives: that took as long as the work itself.
_REFINED = 2**17
_BLOCKS = 16  # in which the pool is searched; each change proposes the best image of each
_FLOOR = 1e-4  # added to 1 - s: below it, the differences of two images are those of rounding and resampling
_FINE = 32  # largest side of the images in which changes are refined, in pixels
_TAPER = 3 / 16  # share of the side at each border over which the weight rises from 0 to 1
_LIMITS = (0.13, 0.13, 0.35, 0.25)  # of shift (share of the side), angle (radians) and logarithm of the zoom
_STEP = (0.5, 0.5, 0.03, 0.03)  # units of a move: shift in pixels of the reduced image, radians, logarithm of the zoom
_DAMPING = 1e-2


class Fit:
    """Columns of the array that says how a sample was changed: from the sample to what is compared.

    Positive shifts move the content right and down, in shares of the width and height. A positive angle turns it
    clockwise, and a positive logarithm of the zoom enlarges it. Mirroring comes first.
    """

    SHIFT_X, SHIFT_Y, ANGLE, LOG_ZOOM, MIRRORED, NEGATIVE = range(6)

    @staticmethod
    def none(count: int) -> NDArray[np.float64]:
        """No change, for so many samples, (count, 6)."""
        return np.zeros((count, 6))


class AlignedPool:
    """The images of a pool, searched by samples that are changed so as to fit them.

    Args:
        pixels: (n, C, H, W), uint8 or float32.
        unit: number of the unit of each, (n,).
    """

    def __init__(self, pixels: Images, unit: NDArray[np.int64]) -> None:
        self._unit = torch.from_numpy(np.ascontiguousarray(unit))
        self._pixels = pixels
        luminance = products.vectors(pixels, lambda images: _embedded(reduced(images.mean(dim=1, keepdim=True))))
        self._luminance = torch.from_numpy(luminance)
        self._changes = _grid(pixels.shape[-2], pixels.shape[-1])

    def search(
        self, samples: Tensor, left_out: NDArray[np.int64] | None = None, but: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The images that fit each sample best.

        Args:
            samples: (M, C, H, W), float32.
            left_out: number of the unit whose images are left out for each, (M,); -1 for none.
            but: number of one image that stays all the same, (M,); -1 for none.

        Returns:
            Numbers of the images, the best first, (M, K), and the correlations s, (M, K); depth, (M,); and how each
            sample was changed to fit the first, (M, 6), see `Fit`.
        """
        parts = []
        for start in range(0, len(samples), _QUERIES):
            rows = slice(start, start + _QUERIES)
            gone, kept = (None if each is None else torch.from_numpy(each[rows]) for each in (left_out, but))
            parts.append(self._search(samples[rows], gone, kept))
        near, value, depth, fit = (torch.cat(each).numpy() for each in zip(*parts, strict=True))
        return near, value.astype(np.float64), depth.astype(np.float64), fit.astype(np.float64)

    def _search(self, samples: Tensor, left_out: Tensor | None, but: Tensor | None) -> tuple[Tensor, ...]:
        change, near = self._proposed(samples, left_out, but)
        count = near.shape[1]
        start = self._changes[change.flatten()]
        fine, images = reduced(samples, _FINE), near.flatten().numpy()
        value, fit = torch.empty(len(start)), torch.empty(start.shape)
        step = count * max(1, _REFINED // fine[0].numel() // count)  # a row alone would be rounded in another way
        for first in range(0, len(start), step):
            rows = slice(first, first + step)
            found = _embedded(reduced(torch.from_numpy(self._pixels[images[rows]]), _FINE))
            targets = found * (1 - 2 * start[rows, Fit.NEGATIVE, None])
            sample = torch.arange(first, first + len(found)) // count
            value[rows], fit[rows] = self._refined(fine[sample], start[rows], targets)
        value, fit = value.view(-1, count), fit.view(-1, count, 6)
        order = value.argsort(dim=1, descending=True, stable=True)
        near, value = near.gather(1, order), value.gather(1, order)
        return near, value, self._depth(near, value), fit[torch.arange(len(fit)), order[:, 0]]

    def _proposed(self, samples: Tensor, left_out: Tensor | None, but: Tensor | None) -> tuple[Tensor, Tensor]:
        """Changes (on the grid) and images of the pool that fit each sample best, (M, _PROPOSALS) each.

        The images are different ones, unless fewer are the best of their block for any change.
        """
        luminance, n = reduced(samples.mean(dim=1, keepdim=True)), len(self._luminance)
        changed = [change for change in self._changes if not change[Fit.NEGATIVE]]
        queries = [_embedded(warped(luminance, change.expand(len(samples), 6))) for change in changed]
        best: list[tuple[Tensor, Tensor, int]] = []  # values, images, and number of the change
        block = -(-n // _BLOCKS)
        # One buffer for all scores: freed one by one between what is kept, they would leave holes of many gigabytes.
        room = torch.empty(len(samples) * block)
        for start in range(0, n, block):
            columns = slice(start, min(start + block, n))
            hidden = None
            if left_out is not None and but is not None:
                number = torch.arange(columns.start, columns.stop)
                hidden = (self._unit[columns] == left_out[:, None]) & (number != but[:, None])
            for number_of_change, query in enumerate(queries):
                score = room[: len(samples) * (columns.stop - columns.start)].view(len(samples), -1)
                torch.mm(query, self._luminance[columns].T, out=score)
                if hidden is not None:
                    score.masked_fill_(hidden, 0.0)
                high, low = score.max(dim=1), score.min(dim=1)
                best.append((high.values, high.indices + start, 2 * number_of_change))
                best.append((-low.values, low.indices + start, 2 * number_of_change + 1))
        values = torch.stack([value for value, _, _ in best], dim=1)
        images = torch.stack([image for _, image, _ in best], dim=1)
        changes = torch.tensor([each[2] for each in best]).expand(len(samples), -1)
        order = values.argsort(dim=1, descending=True, stable=True)
        values, images, changes = (each.gather(1, order) for each in (values, images, changes))
        # Of one image, only its best change is proposed.
        by_image = images.argsort(dim=1, stable=True)
        sorted_images = images.gather(1, by_image)
        again = torch.zeros_like(sorted_images, dtype=torch.bool)
        again[:, 1:] = sorted_images[:, 1:] == sorted_images[:, :-1]
        repeated = torch.zeros_like(again).scatter_(1, by_image, again)
        order = repeated.to(torch.uint8).argsort(dim=1, stable=True)[:, :_PROPOSALS]
        return changes.gather(1, order), images.gather(1, order)

    def _refined(self, samples: Tensor, start: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The largest correlation of each changed sample with its target, and the change, by Gauss-Newton steps."""
        limits = torch.tensor([*_LIMITS, 1.0, 1.0])
        height, width = samples.shape[-2:]
        unit = torch.tensor([_STEP[0] / width, _STEP[1] / height, *_STEP[2:]])
        change, best, kept = start, torch.full((len(start),), -2.0), start
        for step in range(_STEPS + 1):
            images = warped(samples, change)
            vectors = _embedded(images)
            value = (vectors * targets).sum(dim=1)
            better = value > best
            best, kept = torch.where(better, value, best), torch.where(better[:, None], change, kept)
            if step == _STEPS:
                break
            slopes = _slopes(images, vectors, change) * unit
            normal = slopes.mT @ slopes
            normal = normal + _DAMPING * torch.diag_embed(normal.diagonal(dim1=1, dim2=2)) + 1e-6 * torch.eye(4)
            moves = torch.linalg.solve(normal, slopes.mT @ (targets - vectors)[:, :, None])[:, :, 0].clamp(-3, 3)
            change = F.pad(moves * unit, (0, 2)) + change
            change = torch.minimum(torch.maximum(change, -limits), limits)
        return best, kept

    def _depth(self, near: Tensor, value: Tensor) -> Tensor:
        if near.shape[1] < 2:
            return torch.full((len(near),), math.inf)  # a single image is the nearest of all
        unit = self._unit[near]
        others = unit[:, 1:] != unit[:, :1]
        others[~others.any(dim=1), -1] = True  # the other units are at least as far away
        second = torch.where(others, value[:, 1:], -1.0).max(dim=1).values
        squared = [(1 - each).clamp(min=0).double() + _FLOOR for each in (second, value[:, 0])]
        return 0.5 * torch.log(squared[0] / squared[1])


def _weighted(images: Tensor) -> Tensor:
    """Weighted images less their weighted means, (B, C h w)."""
    weight = _window(images.shape[-2])[:, None] * _window(images.shape[-1])[None, :]
    mean = (images * weight.square()).sum(dim=(1, 2, 3), keepdim=True) / (images.shape[1] * weight.square().sum())
    return ((images - mean) * weight).flatten(1)


def _embedded(images: Tensor) -> Tensor:
    """The same, scaled to length 1; zero for a constant image."""
    vectors = _weighted(images)
    length = vectors.norm(dim=1, keepdim=True)
    return torch.where(length > 1e-5, vectors / length.clamp(min=1e-5), 0.0)


def _slopes(images: Tensor, vectors: Tensor, changes: Tensor) -> Tensor:
    """Derivatives of the vectors of changed images by shifts, angle and logarithm of the zoom, (B, C h w, 4).

    They follow from the gradient of the changed image: a further shift moves its content, and a further turn or zoom
    is about the point to which the center was moved.
    """
    height, width = images.shape[-2:]
    wide = F.pad(images, (1, 1, 1, 1), mode="replicate")
    across = (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]) * (width / 4)  # the image spans -1 to 1
    down = (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]) * (height / 4)
    x = (torch.arange(width) + 0.5) * 2 / width - 1 - 2 * changes[:, Fit.SHIFT_X, None]
    y = (torch.arange(height) + 0.5) * 2 / height - 1 - 2 * changes[:, Fit.SHIFT_Y, None]
    x, y = x[:, None, None, :], y[:, None, :, None]
    raw = torch.stack([-2 * across, -2 * down, across * y - down * x, -across * x - down * y], dim=1)
    centered, length = _weighted(raw.flatten(0, 1)), _weighted(images).norm(dim=1)
    slopes: Tensor = centered.view(len(images), 4, -1) / length.clamp(min=1e-5)[:, None, None]
    # A vector of length 1 changes at a right angle to itself.
    slopes -= (slopes @ vectors[:, :, None]) * vectors[:, None, :]
    return slopes.transpose(1, 2)


def _window(side: int) -> Tensor:
    """Weights along one side whose squares rise from each border as a squared sine."""
    taper = round(_TAPER * side)
    weight = torch.ones(side)
    rise = torch.sin((torch.arange(taper) + 0.5) / max(1, taper) * math.pi / 2)
    weight[:taper], weight[side - taper :] = rise, rise.flip(0)
    return weight


def _grid(height: int, width: int) -> Tensor:
    """The changes that are tried, each also as a negative (odd rows), (124, 6); see `Fit`.

    Shifts are by up to 1/14 of the side in five steps, which are whole pixels of an image of 28 x 28.
    """
    x, y = (max(1, round(side / 28)) / side for side in (width, height))
    moves = [(i * x, j * y, 0.0, 0.0) for i in range(-2, 3) for j in range(-2, 3)]
    moves += [(0.0, 0.0, math.radians(angle), 0.0) for angle in (-15, -7.5, 7.5, 15)]
    moves += [(0.0, 0.0, 0.0, math.log(zoom)) for zoom in (0.88, 1.12)]
    return torch.tensor([(*move, mirrored, negative) for mirrored in (0, 1) for move in moves for negative in (0, 1)])


def warped(images: Tensor, changes: Tensor) -> Tensor:
    """Changed images (B, C, h, w); beyond the border, the last pixel is repeated. `NEGATIVE` is left to the caller."""
    cos, sin = torch.cos(changes[:, Fit.ANGLE]), torch.sin(changes[:, Fit.ANGLE])
    shrink = torch.exp(-changes[:, Fit.LOG_ZOOM])
    shift = -2 * changes[:, [Fit.SHIFT_X, Fit.SHIFT_Y]]  # the grid spans -1 to 1
    inverse = torch.stack(
        [torch.stack([cos * shrink, sin * shrink], dim=1), torch.stack([-sin * shrink, cos * shrink], dim=1)], dim=1
    )
    inverse = torch.cat([inverse, (inverse @ shift[:, :, None])], dim=2)
    mirror = torch.ones_like(inverse)
    mirror[:, 0] *= (1 - 2 * changes[:, Fit.MIRRORED])[:, None]
    grid = F.affine_grid(inverse * mirror, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
