"""Images in any order, or seen in another way, of which only the block that is asked for is in memory.

Both classes stand where an array (N, C, H, W) does: they have a shape and a type, and give the images at positions.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.images.imageset import floats


class Gathered:
    """Images of several arrays one after the other, in an order.

    Args:
        parts: arrays (n_i, C, H, W) of uint8, or float32 in pixel units, in memory or mapped. If their types differ,
            all images become float32.
        order: positions in all parts together, (N,); None for all of them as they come.

    Attributes:
        parts: see above.
        order: see above.
    """

    def __init__(self, parts: Sequence[NDArray[Any]], order: NDArray[np.int64] | None = None) -> None:
        self.parts, self._starts = parts, np.cumsum([0, *map(len, parts)])
        self.order: NDArray[np.int64] = np.arange(self._starts[-1]) if order is None else order
        types = {part.dtype for part in parts}
        self.dtype = types.pop() if len(types) == 1 else np.dtype(np.float32)
        self.shape: tuple[int, ...] = len(self.order), *parts[0].shape[1:]
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice | NDArray[Any]) -> NDArray[Any]:
        """The images at some positions, (n, C, H, W), as a new array."""
        positions = self.order[which]
        made = np.empty((len(positions), *self.shape[1:]), dtype=self.dtype)
        of = np.searchsorted(self._starts, positions, side="right") - 1
        for number, part in enumerate(self.parts):
            rows = np.flatnonzero(of == number)
            rows = rows[np.argsort(positions[rows], kind="stable")]  # a disk reads forward fastest
            found = part.reshape(len(part), -1)[positions[rows] - self._starts[number]].reshape(-1, *self.shape[1:])
            made[rows] = found if part.dtype == self.dtype else floats(found).numpy()
        return made


class Viewed:
    """What a view shows of each image.

    Args:
        images: (N, C, H, W), an array or `Gathered`.
        view: takes images (B, C, H, W) to (B, C', H', W'), each by itself.
    """

    def __init__(self, images: Any, view: Callable[[Tensor], Tensor]) -> None:
        self._images, self._view = images, view
        first = self[:1]
        self.dtype, self.shape, self.ndim = first.dtype, (len(images), *first.shape[1:]), first.ndim

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, which: slice | NDArray[Any]) -> NDArray[Any]:
        """What is seen of the images at some positions, (n, C', H', W')."""
        return self._view(torch.from_numpy(np.array(self._images[which]))).numpy()


Images = NDArray[Any] | Gathered | Viewed


def tensor(images: Images | Tensor, which: slice | NDArray[Any]) -> Tensor:
    """The images at some positions as float32 in pixel units, (n, C, H, W), on the CPU.

    Args:
        images: (N, C, H, W): a tensor in pixel units, or an array of uint8, or of float32 in pixel units.
        which: positions, a mask or a slice.
    """
    if isinstance(images, Tensor):
        return images[which].detach().float().cpu()
    return floats(np.asarray(images[which]))


def numbers(images: Images) -> int:
    """How many numbers an image has."""
    return math.prod(images.shape[1:])
