"""Images from the pictures of a folder and its subfolders, in the order of their names, or from a single picture."""

from pathlib import Path

from memgen.base.errors import DataError
from memgen.base.progress import Progress
from memgen.images.decoding import from_pictures, is_picture_name
from memgen.images.folders import files_of
from memgen.images.prepare import FoundImages, ReadSettings

ORDER = 1  # it takes every folder, so formats that are folders of their own kind come first
KIND = "a folder of images or a single one (PNG, JPEG and whatever else Pillow reads)"


def reads(source: Path) -> bool:
    """Whether a source is a folder, or a file whose suffix is that of a picture."""
    return source.is_dir() or (source.is_file() and is_picture_name(source.name))


def read(source: Path, settings: ReadSettings, report: Progress) -> FoundImages:
    """The pictures of a folder and its subfolders, or a single one; see `readers.Reader` and `from_pictures`."""
    folder = source if source.is_dir() else source.parent
    names, skipped = files_of(folder, _unfit) if source.is_dir() else ([source.name], {})
    if not names and not skipped:
        raise DataError(f"{source}: the folder is empty, expected image files. Check the path.")
    return from_pictures(source, names, lambda name: open(folder / name, "rb"), skipped, settings, report)


def _unfit(name: str) -> str:
    """Why a file of this name is no picture; empty for one that may be. A name without a suffix may be."""
    suffix = Path(name).suffix
    return f"not an image (suffix {suffix})" if suffix and not is_picture_name(name) else ""
