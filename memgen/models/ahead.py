"""What a CPU makes for an accelerator, by threads, before it is needed.

Random numbers are drawn on the CPU, so that they are the same on every device. An accelerator computes meanwhile: the
numbers of the next steps are drawn by threads into pinned memory, from which they are copied without waiting.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.base.noise import normal

T = TypeVar("T")
U = TypeVar("U")

_AHEAD = 16  # results that wait to be used, at most
_AT_ONCE = 4096  # numbers drawn from a stream at a time: a call costs as much as some hundred numbers
_NUMBERS = 2**25  # drawn at a time from all streams, at most, unless one image of each is more: 128 MiB
_STREAMS = 16  # that a thread draws from, one after the other


def made_ahead(make: Callable[[T], U], keys: Iterable[T], device: torch.device) -> Iterator[U]:
    """make(key) for each key, in order: by threads ahead of need for an accelerator, or one by one on the CPU."""
    if device.type == "cpu":
        yield from map(make, keys)
        return
    waiting: deque[Future[U]] = deque()
    try:
        for key in keys:
            waiting.append(threads().submit(make, key))
            if len(waiting) == _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@cache
def threads() -> ThreadPoolExecutor:
    """The threads of this process that work for an accelerator."""
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), "memgen-ahead")


def empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Room for float32 numbers on the CPU, from which `moved` copies to the device without waiting."""
    return torch.empty(shape, pin_memory=device.type == "cuda")


def moved(made: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; the copy of pinned memory is waited for by the device alone."""
    return made.to(device, non_blocking=made.is_pinned()) if device.type != "cpu" else made


class Noise:
    """Standard normal images of M streams, one after the other.

    Several images of each stream are drawn at once, which gives the same numbers and costs less. For an accelerator,
    threads draw those that follow meanwhile.

    Args:
        streams: M streams.
        shape: of an image, (C, H, W).
        device: where the images are wanted.
    """

    def __init__(self, streams: Sequence[np.random.Generator], shape: tuple[int, ...], device: torch.device) -> None:
        self._streams, self._shape, self._device = streams, shape, device
        self._ahead = device.type != "cpu"
        numbers = math.prod(shape)
        self._count = max(1, min(_AT_ONCE // numbers, _NUMBERS // (numbers * max(1, len(streams)))))
        self._here, self._position = torch.empty(0), self._count
        self._coming: Callable[[], Tensor] | None = None

    def next(self, which: NDArray[np.int64]) -> Tensor:
        """The next image of some streams, (m, C, H, W) on the device; a stream left out once must not come again."""
        if self._position == self._count:
            self._here = (self._coming or self._begun(which))()
            self._coming = self._begun(which) if self._ahead else None
            self._position = 0
        self._position += 1
        return self._here[:, self._position - 1].index_select(0, torch.from_numpy(which).to(self._device))

    def _begun(self, which: NDArray[np.int64]) -> Callable[[], Tensor]:
        """Begin to draw the next images of some streams; the function gives them, (M, count, C, H, W)."""
        drawn = empty((len(self._streams), self._count, *self._shape), self._device)
        images = drawn.numpy()

        def draw(rows: NDArray[np.int64]) -> None:
            for row in rows:
                normal(self._streams[row], images.shape[1:], out=images[row])

        parts = np.array_split(which, -(-len(which) // _STREAMS))
        begun = threads().map(draw, parts) if self._ahead else map(draw, parts)

        def finished() -> Tensor:
            list(begun)
            return moved(drawn, self._device)

        return finished
