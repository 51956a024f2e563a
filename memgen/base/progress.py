"""The type of the functions that receive progress: they are called with (done, total)."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
