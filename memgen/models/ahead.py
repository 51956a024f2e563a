"""What a CPU makes for an accelerator, by threads, before it is needed.

Random numbers are drawn on the CPU, so that they are the same on every device. An accelerator computes meanwhile: the
numbers of the next steps are drawn by threads into pinned memory, from which they are copied without waiting.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
U = TypeVar("U")

_THREADS = 8  # more draw no faster than one accelerator needs
_AHEAD = 2 * _THREADS


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
    return ThreadPoolExecutor(max(1, min(_THREADS, (os.cpu_count() or 1) - 1)), "memgen-ahead")


def empty(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Room for float32 numbers on the CPU, from which `moved` copies to the device without waiting."""
    return torch.empty(shape, pin_memory=device.type == "cuda")


def moved(made: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; the copy of pinned memory is waited for by the device alone."""
    return made.to(device, non_blocking=made.is_pinned()) if device.type != "cpu" else made
