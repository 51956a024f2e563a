"""Find the modules of a package by listing its folder, so that a new module needs no other edit."""

import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType


def modules_of(package: str, path: Iterable[str]) -> list[ModuleType]:
    """All modules of a package, imported; sorted by their attribute `ORDER` (0 if they have none), then by name.

    Args:
        package: the package's dotted name, its `__name__`.
        path: the folders that hold its modules, its `__path__`.
    """
    modules = [importlib.import_module(f"{package}.{found.name}") for found in pkgutil.iter_modules(path)]
    return sorted(modules, key=lambda module: (getattr(module, "ORDER", 0), module.__name__))
