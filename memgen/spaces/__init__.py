"""How alike two images are, and the search for the most alike.

A space turns images into vectors, so that images that are alike have close vectors. A space has a name, or is made from
a local file, as `NAME=FILE`. To add one, add a module to this package that defines one of

    SPACES      a tuple of objects that follow `Space`; memgen finds each under its name
    FACTORIES   functions by name, each of which makes the FILE of `NAME=FILE` into a space

Another package adds the same by an entry point of the group `memgen.spaces`: see `spaces.plugins`. A file for a name
without a factory is an embedder: see `spaces.embedders`.
"""

import functools
import re
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from memgen.base.discovery import modules_of
from memgen.base.errors import ConfigError, DataError, MemgenError, first_line

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@runtime_checkable
class Space(Protocol):
    """A measure of how alike two images are, and the vectors with which to search for the most alike.

    Let a and b be the float64 vectors of two images, of d numbers each. The value of the pair is <a, b> if larger is
    closer, and ||a - b|| / sqrt(d) if smaller is closer, or ||a - b||^2 if the space has a true attribute `squared`
    (`is_squared`). A space may have an attribute `record`: JSON values that identify what its vectors depend on beside
    memgen itself, such as the digest of a network. If a network computes the vectors, an attribute `learned` may hold
    them (`learned.Vectors`), so that the executor of an audit computes each once.

    `paired` returns this value up to float64 rounding, and `embed` returns the vectors rounded to float32. The search
    relies on both: it proposes neighbors by the float32 vectors, bounds the error of their scores, and shows the values
    of `paired`.

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


Factory = Callable[[str], Space]


def is_squared(space: Space) -> bool:
    """Whether the values of a space are squared distances of its vectors."""
    return bool(getattr(space, "squared", False))


def all_spaces() -> dict[str, Space]:
    """Every space that needs no file, by its name: memgen's own, then those of other packages."""
    return _known()[0]


def all_factories() -> dict[str, Factory]:
    """Every function that makes the FILE of `NAME=FILE` into a space, by that NAME."""
    return _known()[1]


def find(name: str) -> Space:
    """The space of a name, or the space NAME made from a file, for `NAME=FILE`.

    Asked again for the same unchanged file, it gives the same object, which keeps its network and its last vectors.

    Args:
        name: the name of a space; or `NAME=FILE`, where NAME has a factory (`lpips_alex`, ...) or is what the person
            calls the embedder in FILE (see `spaces.embedders.space` for what FILE can be).

    Raises:
        ConfigError: there is no space of that name, the name cannot be used, or a package is not installed.
        DataError: the file cannot be used.
    """
    called, given, source = name.partition("=")
    if given:
        return _made(called, source, _state(source))
    spaces, factories = _known()
    if name in factories:
        raise ConfigError(f"the metric {name} needs a file: write {name}=FILE.")
    if name not in spaces:
        raise ConfigError(
            f"unknown metric {name!r}; known here: {', '.join(spaces)}. A space from a file is written NAME=FILE."
        )
    return spaces[name]


@functools.lru_cache(maxsize=4)
def _made(name: str, source: str, state: object) -> Space:
    """The space NAME=FILE; `state` tells the file from what it was before."""
    spaces, factories = _known()
    if not _NAME.fullmatch(name) or not source:
        raise ConfigError(
            f"found {name + '=' + source!r}, expected NAME=FILE, with a name of letters, digits, '_', '-' and '.'."
        )
    if name in spaces:
        raise ConfigError(f"{name}={source}: memgen has a space {name}, which needs no file. Choose another name.")
    from memgen.spaces import embedders

    make = factories.get(name, functools.partial(embedders.space, name))
    try:
        found = make(source)
    except MemgenError:
        raise
    except Exception as error:  # of another package
        raise DataError(f"{name}={source}: the package that provides {name} failed ({first_line(error)}).") from error
    if not isinstance(found, Space) or found.name != name:
        raise ConfigError(
            f"{name}={source}: the package that provides {name} made {found!r}, expected a space of that name "
            "(see memgen.spaces.Space)."
        )
    return found


def _state(source: str) -> object:
    """Size and time of change of the files of a source, and of the JSON file beside it."""
    from memgen.spaces import embedders, preprocessing

    path = embedders.Source.of(source).path
    files = [*(sorted(path.rglob("*")) if path.is_dir() else [path]), preprocessing.path_beside(path)]
    return tuple((str(each), each.stat().st_mtime_ns, each.stat().st_size) for each in files if each.is_file())


def _known() -> tuple[dict[str, Space], dict[str, Factory]]:
    from memgen.spaces import plugins

    modules = modules_of(__name__, __path__)
    spaces = {space.name: space for module in modules for space in getattr(module, "SPACES", ())}
    factories = {name: make for module in modules for name, make in getattr(module, "FACTORIES", {}).items()}
    more = plugins.find(frozenset({*spaces, *factories}))
    return {**spaces, **more.spaces}, {**factories, **more.factories}
