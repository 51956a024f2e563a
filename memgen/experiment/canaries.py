"""Canaries: random images of a folder of which half are to be trained on, and half are kept from training.

The draw is what makes a later test exact, so it is written down before any file is moved: `canaries.json` in the folder
of the kept images. A plant that was interrupted goes on by the same plan.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memgen.base import files, noise
from memgen.base.errors import ConfigError, DataError
from memgen.images.decoding import is_hidden, is_picture_name

PLAN = "canaries.json"
_FORMAT = 1
_MOST = 200  # the exact test of more would take too long


@dataclass(frozen=True)
class Canaries:
    """A draw of canaries.

    Attributes:
        trained: names of the files that stay in the training folder, relative to it.
        kept: names of the files that were moved, relative to either folder.
        folder: the folder of the kept files.
        digests: of each file, when it was drawn.
    """

    trained: tuple[str, ...]
    kept: tuple[str, ...]
    folder: Path
    digests: dict[str, str]

    def check(self, train: Path) -> None:
        """Check that the files of all canaries are where they should be, as they were.

        Args:
            train: the training images. Only in a folder can files be looked at; anything else is not checked.

        Raises:
            DataError: naming the first file that is missing, was changed, or was to be kept from training.
        """
        files_of = [self.folder / name for name in self.kept]
        files_of += [train / name for name in self.trained] if train.is_dir() else []
        for path, name in zip(files_of, (*self.kept, *self.trained), strict=False):
            if not path.is_file() or files.digest_file(path) != self.digests[name]:
                raise DataError(
                    f"{path}: this canary is missing, or was changed since it was drawn. Restore the file, and give "
                    "the folder that the canaries were planted in as TRAIN."
                )


def plant(source: Path, kept: Path, count: int, seed: int) -> Canaries:
    """Draw canaries among the pictures of a folder, and move the half that is kept from training to another folder.

    Args:
        source: the folder of training images.
        kept: where the kept half goes, with its relative paths; not inside the source.
        count: number of canaries, even.
        seed: of the draw.

    Raises:
        ConfigError: the number is odd or below 2, or the folders contain each other.
        DataError: there are too few images, a plan of other settings is there, or a file was changed since.
    """
    source, kept = source.resolve(), kept.resolve()
    if not 2 <= count <= _MOST or count % 2:
        raise ConfigError(f"--n {count}: expected an even number from 2 to {_MOST}; half of the canaries are kept.")
    if kept.is_relative_to(source) or source.is_relative_to(kept):
        raise ConfigError(f"--kept {kept}: expected a folder outside of {source}, whose images are trained on.")
    settings = {"format": _FORMAT, "seed": seed, "n": count, "folder": str(source)}
    path = kept / PLAN
    if path.exists():
        plan = _read(path)
        if differing := [key for key, value in settings.items() if plan.get(key) != value]:
            raise DataError(
                f"{path}: was made with other settings ({', '.join(differing)}). Use another --kept folder for a new "
                "draw."
            )
    else:
        plan = settings | {"canaries": _draw(source, count, seed)}
        files.write_json(path, plan)  # before the first move, so that the draw stands whatever happens
    for canary in plan["canaries"]:
        if canary["use"] == "kept":
            _move(source / canary["file"], kept / canary["file"], canary["digest"])
    return load(path)


def load(path: Path) -> Canaries:
    """The canaries of a plan.

    Raises:
        DataError: the file is missing or is no plan.
    """
    plan = _read(path)
    named = {use: tuple(each["file"] for each in plan["canaries"] if each["use"] == use) for use in ("trained", "kept")}
    digests = {each["file"]: each["digest"] for each in plan["canaries"]}
    return Canaries(named["trained"], named["kept"], path.parent, digests)


def _read(path: Path) -> dict[str, Any]:
    plan = files.read_json(path)
    if not isinstance(plan, dict) or plan.get("format") != _FORMAT or not isinstance(plan.get("canaries"), list):
        raise DataError(f"{path}: not a plan of canaries. Give the canaries.json that memgen canaries plant wrote.")
    return plan


def _draw(source: Path, count: int, seed: int) -> list[dict[str, str]]:
    names = sorted(
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and is_picture_name(path.name) and not any(map(is_hidden, path.relative_to(source).parts))
    )
    if len(names) < 2 * count:
        raise DataError(
            f"{source}: found {len(names)} pictures, expected at least {2 * count} for {count} canaries, so that most "
            "images are trained on. Use a smaller --n."
        )
    chosen = noise.stream("canaries", seed).permutation(len(names))[:count]
    return [
        {
            "file": names[number],
            "digest": files.digest_file(source / names[number]),
            "use": "kept" if place % 2 else "trained",
        }
        for place, number in enumerate(chosen)
    ]


def _move(old: Path, new: Path, digest: str) -> None:
    """Move a file unless that was done; never over another one."""
    where = new if new.exists() else old
    if not where.exists() or files.digest_file(where) != digest:
        raise DataError(f"{where}: missing, or changed since the canaries were drawn. Restore the file and repeat.")
    if where is new:
        return
    new.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(old, new)
    except OSError as error:
        raise files.storage_error(new, error) from error
