"""Spaces whose vectors a network computes, one image at a time.

The sums inside a network depend on how many images it is given at once, by about 1e-6 of the result. Here every image
is given by itself, so a row's vector depends on that row alone, bit for bit, on one machine with one number of threads.
On a CPU this costs little: the networks in use are as fast with one image of 224 x 224 as with many.

The search asks for the value of the same images over and over (`Space.paired` of each query with each image of its
shortlist), so the vectors that were used last are kept.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from memgen.base.errors import ShapeError

_KEPT = 2**28  # bytes of vectors kept by a space: those of 87,000 images with 768 numbers each
_PAIRED = 2**22  # numbers of each batch of vectors in `pairs`: 16 MiB


class Vectors:
    """The vectors of images by a network, of which those used last are kept.

    Attributes:
        network: makes an image, (C, H, W) float32 in pixel units, into its vector, (d,) float32.
    """

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self.network = network
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._bytes = 0

    def __call__(self, images: Tensor) -> Tensor:
        """The vectors of images.

        Args:
            images: (B, C, H, W), pixel units, on any device.

        Returns:
            (B, d) float32 on the CPU; zero where the image has a pixel that is not finite. (0, 0) for no image.

        Raises:
            ShapeError: the images are not (B, C, H, W), or their shape is not one that the network takes.
            DataError: the network gives no vector for an image.
        """
        if images.ndim != 4:
            raise ShapeError(f"found images of shape {tuple(images.shape)}, expected (B, C, H, W).")
        rows = images.detach().cpu().float().contiguous()
        finite = torch.isfinite(rows).flatten(1).all(dim=1).tolist()
        found = [self._vector(row) if whole else None for row, whole in zip(rows, finite, strict=True)]
        vectors = torch.zeros(len(found), next((len(vector) for vector in found if vector is not None), 0))
        for i, vector in enumerate(found):
            if vector is not None:
                vectors[i] = vector
        return vectors

    def pairs(self, x: Tensor, y: Tensor, value: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """A value of the vectors of x[i] and y[i], a few pairs at a time, so that long vectors fit into memory.

        Args:
            x: images, (B, C, H, W), pixel units, on any device.
            y: images of the same shape.
            value: makes two batches of vectors, (b, d) each, into (b,) float64.

        Returns:
            (B,) float64 on the CPU; NaN where either image has a pixel that is not finite.

        Raises:
            ShapeError: x and y differ in shape.
        """
        if x.shape != y.shape:
            raise ShapeError(
                f"found images of shape {tuple(x.shape)} and {tuple(y.shape)}, expected the same shape for both."
            )
        values = torch.full((len(x),), torch.nan, dtype=torch.float64)
        finite = (torch.isfinite(x) & torch.isfinite(y)).flatten(1).all(dim=1).nonzero()[:, 0].cpu()
        step = 1
        while len(finite):
            rows, finite = finite[:step], finite[step:]
            a, b = self(x[rows]), self(y[rows])
            values[rows] = value(a, b)
            step = max(1, _PAIRED // a.shape[1])
        return values

    def _vector(self, image: Tensor) -> Tensor:
        key = hashlib.blake2b(repr(tuple(image.shape)).encode() + image.numpy().tobytes(), digest_size=16).digest()
        found = self._kept.pop(key, None)
        if found is None:
            found = self.network(image)
            self._bytes += found.nbytes
        self._kept[key] = found
        while self._bytes > _KEPT and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return found
