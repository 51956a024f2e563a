"""The command that makes a run again, from the settings that the run has recorded."""

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from memgen.base.config import Settings, validate
from memgen.experiment import runs
from memgen.experiment.audit_settings import AuditSettings
from memgen.experiment.settings import RunSettings


def command(run: runs.Run) -> str:
    """The command, with every setting that differs from its default.

    It makes the run itself. What was added later by other commands, such as imported models or restored images, is not
    part of it.
    """
    return shlex.join(["memgen", *_words(run)])


def _words(run: runs.Run) -> list[str]:
    """The words of that command after the first."""
    config, words = run.manifest["config"], [run.kind]
    if run.kind == runs.AUDIT:
        given = ("samples", "model", "train", "holdout")
        words += (
            [config["train"], "--model", config["model"]] if config["model"] else [config["samples"], config["train"]]
        )
        words += ["--holdout", config["holdout"]] if config["holdout"] else []
        differing = _differing(AuditSettings, {"samples": "", "train": ""}, config)
        chosen = [(key, value) for key, value in differing if key not in given]
    else:
        words += ["--device", run.manifest["device"]]
        start = {"model": {"architecture": config["model"]["architecture"]}}
        chosen = [("model.architecture", config["model"]["architecture"]), *_differing(RunSettings, start, config)]
        if config["model"]["architecture"] == RunSettings().model.architecture:
            del chosen[0]
    words += ["--run", run.name]
    words += [word for key, value in chosen for word in ("--set", f"{key}={_as_toml(value)}")]
    return words


def continuing(run: runs.Run) -> str:
    """The command that goes on with a run that was interrupted, with the options of the last sweep or audit of it."""
    options = dict(run.manifest.get("options", {}))
    memory = ["--memory", f"{options.pop('memory'):g}"] if "memory" in options else []  # stands before the command
    # A sweep reads its settings from the run, and an audit compares those that it is given.
    words = _words(run) if run.kind == runs.AUDIT else ["sweep", "--run", run.name]
    words += ["--outputs", str(run.path.parent)]
    words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return shlex.join(["memgen", *memory, *words])


def _differing(kind: type[Settings], start: dict[str, Any], config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings that differ from the defaults, by dotted keys."""
    defaults = dict(_leaves(validate(kind, start, source="defaults").model_dump(mode="json")))
    for key, value in _leaves(config):
        default = defaults.get(key)
        if value is not None and value != default:
            yield key, value
        elif value is None and default is not None and key == "data.resize":
            yield key, 0  # TOML has no null. Others that are unset follow from the settings that are given.


def _leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _as_toml(value: Any) -> str:
    """A setting as `--set` reads it: JSON is TOML, but for null."""
    return json.dumps(value, ensure_ascii=False)
