"""The files of a folder and its subfolders, in the order of their names; what the readers of folders share."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from memgen.images.decoding import HIDDEN_FOLDER, is_hidden
from memgen.images.names import escaped

_NOTES = {".crc", ".csv", ".idx", ".index", ".json", ".jsonl", ".log", ".md", ".md5", ".sha256", ".tsv", ".txt"}
_NOTES |= {".yaml", ".yml"}  # suffixes of files that stand beside shards and hold no images
_NAMED = 3  # files named in a warning


def files_of(folder: Path, unfit: Callable[[str], str]) -> tuple[list[str], dict[str, str]]:
    """Names of the files, sorted, and the reason for each other file; all relative to the folder.

    Links to folders are not followed. Hidden files and folders, and those of the system, are left out.

    Args:
        folder: the folder.
        unfit: why a file of this name is left out; empty for one that is not.
    """
    found: list[str] = []
    skipped: dict[str, str] = {}

    def unreadable(error: OSError) -> None:
        skipped[Path(os.fsdecode(error.filename)).relative_to(folder).as_posix()] = f"cannot be read ({error.strerror})"

    for where, subfolders, names in os.walk(folder, onerror=unreadable):
        here = Path(where)
        for name in list(subfolders):
            relative = (here / name).relative_to(folder).as_posix()
            if is_hidden(name):
                subfolders.remove(name)
                skipped[relative] = HIDDEN_FOLDER
            elif (here / name).is_symlink():
                skipped[relative] = "a link to a folder, not followed"
        for name in names:
            path = here / name
            relative = path.relative_to(folder).as_posix()
            if is_hidden(name):
                skipped[relative] = "not an image (hidden, or one of the system)"
            elif reason := unfit(name):
                skipped[relative] = reason
            elif not path.is_file():
                skipped[relative] = "not an image (not a regular file)"
            else:
                found.append(relative)
    return sorted(found), skipped


def all_files(folder: Path, fits: Callable[[Path], bool | None]) -> bool:
    """Whether a folder and its subfolders hold files that fit, and none that does not.

    Hidden files, and what is no regular file, have no say, nor has one of which `fits` says None.

    Args:
        folder: the folder.
        fits: whether a file fits; not asked any more after one that does not.
    """
    found = False
    for where, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not is_hidden(name)]
        for path in (Path(where) / name for name in names if not is_hidden(name)):
            says = fits(path) if path.is_file() else None
            if says is False:
                return False
            found |= says is True
    return found


def holds_shards(folder: Path, fits: Callable[[str], bool]) -> bool:
    """Whether a folder and its subfolders hold files whose names fit, and beside them at most notes.

    Notes are what data sets and the programs that write them leave beside their shards, such as README.md or _SUCCESS.
    """
    return all_files(folder, lambda path: True if fits(path.name) else None if _is_note(path.name) else False)


def shards(source: Path, fits: Callable[[str], bool], kind: str) -> tuple[list[tuple[Path, str]], dict[str, str]]:
    """The shards of a source, each with its escaped name, in the order of the names, and why others are left out.

    Args:
        source: a shard, or a folder of them.
        fits: whether the name of a file is that of a shard.
        kind: what a shard is, such as "a tar file".
    """
    if not source.is_dir():
        return [(source, escaped(source.name))], {}
    found, skipped = files_of(source, lambda name: "" if fits(name) else f"not {kind}")
    left_out = {escaped(name): reason for name, reason in skipped.items()}
    return [(source / name, escaped(name)) for name in found], left_out


def unread(shards: Sequence[tuple[Path, str]], skipped: Mapping[str, str]) -> list[str]:
    """A warning that names the shards that could not be read to their end, if there are any: images are missing."""
    cut = [f"{name}: {skipped[name]}" for _, name in shards if name in skipped]
    if not cut:
        return []
    more = f"; and {len(cut) - _NAMED:,} more" if len(cut) > _NAMED else ""
    return [
        f"{len(cut):,} of {len(shards):,} files could not be read, or not to the end, and their images are missing "
        f"({'; '.join(cut[:_NAMED])}{more}). Fetch them again."
    ]


def _is_note(name: str) -> bool:
    return name.startswith("_") or name in ("README", "LICENSE") or Path(name).suffix.lower() in _NOTES
