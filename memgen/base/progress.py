"""How long work tells whoever waits for it how far it is: a function that is called with (done, total)."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
