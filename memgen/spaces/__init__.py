"""How alike two images are, and the search for the most alike.

A space turns images into vectors, so that images that are alike have close vectors. To add one, add a module to this
package that defines `SPACES`, a tuple of objects that follow `Space`. memgen finds each under its name.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor

from memgen.base.discovery import modules_of
from memgen.base.errors import ConfigError


@runtime_checkable
class Space(Protocol):
    """A measure of how alike two images are, and the vectors with which to search for the most alike.

    Let a and b be the float64 vectors of two images, of d numbers each. The value of the pair is <a, b> if larger is
    closer, and ||a - b|| / sqrt(d) if smaller is closer. `paired` returns this value up to float64 rounding, and
    `embed` returns the vectors rounded to float32. The search relies on both: it proposes neighbors by the float32
    vectors, bounds the error of their scores, and shows the values of `paired`.

    Attributes:
        name: the name in settings and in the column `metric` of tables.
        larger_is_closer: whether a larger value means more alike.
        unit: unit of the values, in words.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def larger_is_closer(self) -> bool: ...  # noqa: D102

    @property
    def unit(self) -> str: ...  # noqa: D102

    def embed(self, images: Tensor) -> Tensor:
        """The vectors of images, rounded to float32.

        Args:
            images: (B, C, H, W), pixel units.

        Returns:
            (B, d) float32 on the CPU; zero where the value is undefined for an image.
        """
        ...

    def paired(self, x: Tensor, y: Tensor) -> Tensor:
        """The value between x[i] and y[i], computed on the CPU so that every device gives the same.

        Args:
            x: images, (B, C, H, W), pixel units, on any device.
            y: images of the same shape.

        Returns:
            (B,) float64 on the CPU. A row's value depends on that row alone. NaN where it is undefined.

        Raises:
            ShapeError: x and y differ in shape.
        """
        ...


def all_spaces() -> dict[str, Space]:
    """Every space by its name."""
    return {space.name: space for module in modules_of(__name__, __path__) for space in getattr(module, "SPACES", ())}


def find(name: str) -> Space:
    """The space of a name.

    Raises:
        ConfigError: there is no space of that name.
    """
    known = all_spaces()
    if name not in known:
        raise ConfigError(f"unknown metric {name!r}; known here: {', '.join(known)}.")
    return known[name]
