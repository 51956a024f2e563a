"""Spaces that other installed packages provide, by entry points of the group `memgen.spaces`.

An entry point names one of

    a space              an object that follows `spaces.Space`
    a tuple of spaces
    a function           called with the FILE of `NAME=FILE` where NAME is the name of the entry point; it gives a space
                         of that name

One that cannot be loaded, that is none of these, or whose name is taken is left out, with a warning that names it and
its package.
"""

import functools
import importlib.metadata
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

from memgen.base.errors import first_line
from memgen.spaces import Factory, Space

GROUP = "memgen.spaces"


@dataclass(frozen=True)
class Plugins:
    """What other packages provide, by name."""

    spaces: dict[str, Space] = field(default_factory=dict)
    factories: dict[str, Factory] = field(default_factory=dict)


def find(taken: frozenset[str]) -> Plugins:
    """What the packages on the path provide; each is loaded, and warned of, once.

    Args:
        taken: names of memgen's own spaces and factories.
    """
    return _found(taken, tuple(sys.path))


@functools.lru_cache(maxsize=4)
def _found(taken: frozenset[str], path: tuple[str, ...]) -> Plugins:
    plugins = Plugins()
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda each: (each.name, each.value)):
        package = entry.dist.name if entry.dist else "an unknown package"
        try:
            for name, thing in _things(entry):
                if name in taken or name in plugins.spaces or name in plugins.factories:
                    raise ValueError(f"the name {name} is taken")
                if isinstance(thing, Space):
                    plugins.spaces[name] = thing
                else:
                    plugins.factories[name] = thing
        except (Exception, SystemExit) as error:  # whatever another package does while it is loaded
            warnings.warn(
                f"the entry point {entry.name} = {entry.value} of {package} (group {GROUP}) is left out: "
                f"{type(error).__name__}: {first_line(error)}. Repair or remove {package}.",
                stacklevel=2,
            )
    return plugins


def _things(entry: importlib.metadata.EntryPoint) -> Iterator[tuple[str, Space | Factory]]:
    """The spaces of an entry point by their names, or its function by the name of the entry point."""
    found = entry.load()
    if callable(found) and (isinstance(found, type) or not isinstance(found, Space)):
        yield entry.name, found  # a class makes objects, though it has what its objects have
        return
    several = found if isinstance(found, tuple | list) else [found]
    for each in several:
        if not isinstance(each, Space) or isinstance(each, type):
            raise TypeError(f"found {each!r}, expected a space, a tuple of spaces, or a function")
        yield each.name, each
