"""A space of your own, and a measure that searches in it: python examples/own_space.py.

The space compares the edges of images, so that a copy with another brightness or contrast is close to its original. The
measure is the share of samples whose nearest image is a training image, beside the share that chance alone gives.
docs/extending.md says where such a file goes in memgen, and how another package adds a space.
"""

import torch
from torch import Tensor

import memgen
from memgen import spaces


class EdgeSpace:
    """Correlation of the differences between neighboring pixels; see `memgen.spaces.Space`."""

    name = "edges"
    larger_is_closer = True
    unit = "correlation of edges"
    _correlation = spaces.find("correlation")

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors of the edges, (B, d)."""
        return self._correlation.embed(edges(images))

    def paired(self, x: Tensor, y: Tensor) -> Tensor:
        """The correlation of the edges of each pair, (B,)."""
        return self._correlation.paired(edges(x), edges(y))


def edges(images: Tensor) -> Tensor:
    """Differences across rows and columns, (B, 2 C, H - 1, W - 1)."""
    x = images.detach().cpu().double()
    return torch.cat([x[..., 1:, 1:] - x[..., :-1, 1:], x[..., 1:, 1:] - x[..., 1:, :-1]], dim=1)


def main() -> None:
    """Search faded copies of training images in the pixels and in the edges."""
    images = memgen.read_images(resize=16, limit=1200)
    train, samples = images.take(slice(500)), images.floats(slice(450, 550))  # half of the samples are training images
    pool = images.take([*range(500), *range(600, 1100)])
    uneven = 0.3 * samples + 0.7 * torch.linspace(0, 1, 16)  # faded, with a shade from left to right
    for space in (spaces.find("correlation"), EdgeSpace()):
        index = memgen.Index.build(pool.pixels, pool.ids, space, "pool")
        nearest = torch.from_numpy(index.search(uneven).reference_index[:, 0].copy())
        right = (nearest[:50] == torch.arange(450, 500)).double().mean()
        share = (nearest < len(train)).double().mean()
        print(f"{space.name}: {right:.0%} of the copies are found, and {share:.0%} of all samples are nearest to T")


if __name__ == "__main__":
    main()
