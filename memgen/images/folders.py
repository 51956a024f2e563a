"""The files of a folder and its subfolders, in the order of their names; what the readers of folders share."""

import os
from collections.abc import Callable
from pathlib import Path

from memgen.images.decoding import HIDDEN_FOLDER, is_hidden


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


def is_folder_of(folder: Path, fits: Callable[[str], bool]) -> bool:
    """Whether a folder holds files whose names fit and nothing else, up to what is hidden."""
    found = [folder / name for name in os.listdir(folder) if not is_hidden(name)]
    return bool(found) and all(path.is_file() and fits(path.name) for path in found)
