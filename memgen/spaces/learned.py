"""Spaces whose vectors a network computes, one image at a time.

The sums inside a network depend on how many images it is given at once, by about 1e-6 of the result. Here every image
is given by itself, so a row's vector depends on that row alone, bit for bit, on one machine with one number of threads.
On a CPU this costs little: the networks in use are as fast with one image of 224 x 224 as with many.

The search asks for the value of the same images over and over (`Space.paired` of each query with each image of its
shortlist), so the vectors that were used last are kept. Those of many images can be computed once, by many processes,
and looked up by all (`Stored`).
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.base.errors import ShapeError

_KEPT = 2**28  # bytes of vectors kept by a space: those of 87,000 images with 768 numbers each
_PAIRED = 2**22  # numbers of each batch of vectors in `pairs`: 16 MiB


class Stored:
    """Vectors that were computed before.

    Args:
        keys: of the images of each part, (n, 2) uint64, as `Vectors.keys` gives them.
        vectors: of these images, (n, d) float32, in memory or mapped.
    """

    def __init__(self, keys: Sequence[NDArray[np.uint64]], vectors: Sequence[NDArray[np.float32]]) -> None:
        self._vectors, self._starts = vectors, np.cumsum([0, *map(len, keys)])
        both = np.concatenate(keys)
        self._order = np.argsort(both[:, 0], kind="stable")
        self._keys = both[self._order]

    def find(self, key: bytes) -> Tensor | None:
        """The vector of the image of a key, (d,); None if it is not there."""
        first, second = np.frombuffer(key, dtype="<u8")
        place = int(np.searchsorted(self._keys[:, 0], first))
        while place < len(self._keys) and self._keys[place, 0] == first:
            if self._keys[place, 1] == second:
                row = self._order[place]
                part = int(np.searchsorted(self._starts, row, side="right")) - 1
                return torch.from_numpy(np.array(self._vectors[part][row - self._starts[part]]))
            place += 1
        return None


class Vectors:
    """The vectors of images by a network, of which those used last are kept.

    Attributes:
        network: makes an image, (C, H, W) float32 in pixel units, into its vector, (d,) float32.
        stored: where a vector is looked for before the network computes it; None for nowhere.
    """

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self.network = network
        self.stored: Stored | None = None
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

    def keys(self, images: Tensor) -> NDArray[np.uint64]:
        """What tells images (B, C, H, W) apart in a `Stored`, (B, 2)."""
        keys = [_key(image) for image in images.detach().cpu().float().contiguous()]
        return np.frombuffer(b"".join(keys), dtype="<u8").reshape(-1, 2)

    def _vector(self, image: Tensor) -> Tensor:
        key = _key(image)
        found = self._kept.pop(key, None)
        if found is None:
            found = self.stored.find(key) if self.stored else None
            found = self.network(image) if found is None else found
            self._bytes += found.nbytes
        self._kept[key] = found
        while self._bytes > _KEPT and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return found


def _key(image: Tensor) -> bytes:
    """16 bytes that tell an image from others."""
    return hashlib.blake2b(repr(tuple(image.shape)).encode() + image.numpy().tobytes(), digest_size=16).digest()
