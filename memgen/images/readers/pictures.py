"""Images from the pictures of a folder and its subfolders, in the order of their names, or from a single picture."""

import os
from pathlib import Path

from memgen.base.errors import DataError
from memgen.base.progress import Progress
from memgen.images.decoding import HIDDEN_FOLDER, from_pictures, is_hidden, is_picture_name
from memgen.images.prepare import FoundImages, ReadSettings

ORDER = 1  # it takes every folder, so formats that are folders of their own kind come first
KIND = "a folder of images or a single one (PNG, JPEG and whatever else Pillow reads)"


def reads(source: Path) -> bool:
    """Whether a source is a folder, or a file whose suffix is that of a picture."""
    return source.is_dir() or (source.is_file() and is_picture_name(source.name))


def read(source: Path, settings: ReadSettings, report: Progress) -> FoundImages:
    """The pictures of a folder and its subfolders, or a single one; see `readers.Reader` and `from_pictures`."""
    folder = source if source.is_dir() else source.parent
    names, skipped = _candidates(folder) if source.is_dir() else ([source.name], {})
    if not names and not skipped:
        raise DataError(f"{source}: the folder is empty, expected image files. Check the path.")
    return from_pictures(source, names, lambda name: open(folder / name, "rb"), skipped, settings, report)


def _candidates(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Names of files that may be pictures, sorted, and the reason for each other file; all relative to the folder."""
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
            elif path.suffix and not is_picture_name(name):
                skipped[relative] = f"not an image (suffix {path.suffix})"
            elif not path.is_file():
                skipped[relative] = "not an image (not a regular file)"
            else:
                found.append(relative)
    return sorted(found), skipped
