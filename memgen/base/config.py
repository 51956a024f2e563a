"""Settings: frozen pydantic models filled from defaults, then a TOML file, then flags. Unknown keys are errors.

Each stage declares its own settings as a subclass of `Settings` beside the code that reads them. This module fills any
such class and explains what is wrong with the values that it was given.
"""

import difflib
import itertools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from memgen.base.errors import ConfigError


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


SettingsT = TypeVar("SettingsT", bound=Settings)


def load(
    kind: type[SettingsT],
    path: Path | None = None,
    overrides: list[str] | None = None,
    given: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
) -> SettingsT:
    """Settings of one kind: its defaults, overridden by a base, a TOML file, `key=value` strings, and values.

    Args:
        kind: the class to fill.
        path: a TOML file; None for defaults only.
        overrides: strings such as `train.images_seen=4096`; the value is read as TOML, or else as a plain string.
        given: values by dotted keys, such as those of options.
        base: values by dotted keys that come before all others, such as those of another run.

    Raises:
        ConfigError: the file is missing or malformed, a key is unknown (the message suggests the nearest one), or a
            value is out of range. All wrong keys are named at once.
    """
    values: dict[str, Any] = {}
    for key, value in (base or {}).items():
        _set(values, key, value, key)
    if path is not None:
        try:
            _lay(values, tomllib.loads(_read(path)))
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: not valid TOML ({error}).") from error
    for override in overrides or []:
        _set(values, *_parsed(override), f"--set {override}")
    for key, value in (given or {}).items():
        _set(values, key, value, key)
    return validate(kind, values, source=str(path) if path else "settings")


def header(path: Path) -> str:
    """The comment at the top of a TOML file, without the comment marks.

    Raises:
        ConfigError: the file cannot be read.
    """
    lines = itertools.takewhile(lambda line: line.startswith("#"), _read(path).splitlines())
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)


def validate(kind: type[SettingsT], values: dict[str, Any], source: str) -> SettingsT:
    """Fill `kind` from a dictionary.

    Raises:
        ConfigError: naming `source` and every key that is wrong.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_explain(kind, detail) for detail in error.errors()]
        raise ConfigError("\n".join(f"{source}: {line}" for line in lines)) from error


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML ({error}).") from error


def _parsed(override: str) -> tuple[str, Any]:
    """Key and value of a `key=value` string."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override}: expected key=value, for example --set train.images_seen=4096.")
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text


def _set(values: dict[str, Any], key: str, value: Any, source: str) -> None:
    *parents, last = key.strip().split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{source}: {parent} is a value, not a group of settings.")
        values = child
    values[last] = value


def _lay(values: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Lay the values of a nested dictionary over those of another."""
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _lay(values[key], value)
        else:
            values[key] = value


def _explain(kind: type[BaseModel], detail: ErrorDetails) -> str:
    unknown = detail["type"] == "extra_forbidden"
    location = [str(part) for part in detail["loc"]]
    path, known = _follow(kind, location[:-1] if unknown else location)
    if unknown:
        match = difflib.get_close_matches(location[-1], known, n=1)
        dotted = ".".join([*path, location[-1]])
        if match:
            return f"unknown key {dotted}; did you mean {'.'.join([*path, match[0]])}?"
        return f"unknown key {dotted}; known here: {', '.join(known)}."
    found = "" if isinstance(detail["input"], dict) else f" (got {detail['input']!r})"
    return f"{'.'.join(path) or 'settings'}: {detail['msg']}{found}."


def _follow(kind: type[BaseModel], location: list[str]) -> tuple[list[str], list[str]]:
    """The keys of a location as a person writes them, and the keys that are known there.

    Pydantic's location also names the chosen member of a union, such as an architecture, which is not a key.
    """
    models, path = [kind], []
    for part in location:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if fields or len(models) < 2:
            path.append(part)
            models = [model for field in fields for model in _models(field.annotation)]
        else:
            models = [model for model in models if part in [field.default for field in model.model_fields.values()]]
    return path, list(dict.fromkeys(key for model in models for key in model.model_fields))


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes in an annotation, also inside unions and `Annotated`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [model for option in get_args(annotation) for model in _models(option)]
    return []
