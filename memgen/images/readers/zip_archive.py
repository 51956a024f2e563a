"""Images from the pictures in a ZIP archive, in the order of their names. Nothing is unpacked to the disk."""

import io
import zipfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from memgen.base.errors import DataError, first_line
from memgen.base.progress import Progress
from memgen.images.decoding import from_pictures, is_hidden, is_picture_name
from memgen.images.prepare import FoundImages, ReadSettings

ORDER = 0
KIND = "a ZIP archive of images (.zip)"

_LARGEST = 2**28  # bytes of one unpacked file: a picture of that size is no picture, but an attack on the memory
_ENCRYPTED = 1  # the flag of a member that needs a password


def reads(source: Path) -> bool:
    """Whether the suffix of a file is .zip."""
    return source.is_file() and source.suffix.lower() == ".zip"


def read(source: Path, settings: ReadSettings, report: Progress) -> FoundImages:
    """The pictures of an archive; see `readers.Reader` and `from_pictures`."""
    try:
        archive = zipfile.ZipFile(source)
    except PermissionError:
        raise
    except Exception as error:  # damaged lists of members make zipfile raise many kinds
        raise DataError(
            f"{source}: damaged, or not a ZIP archive ({first_line(error)}). Fetch or save it again."
        ) from error
    with archive:
        skipped = {info.filename: reason for info in archive.infolist() if (reason := _unfit(info))}
        names = [info.filename for info in archive.infolist() if not _is_folder(info) and info.filename not in skipped]
        if not names and not skipped:
            raise DataError(f"{source}: the archive is empty, expected image files. Check the file.")

        def opened(name: str) -> BinaryIO:
            return io.BytesIO(archive.read(name))

        return from_pictures(source, sorted(names), opened, skipped, settings, report)


def _is_folder(info: zipfile.ZipInfo) -> bool:
    return info.filename.endswith("/")  # info.is_dir fails where the name is empty


def _unfit(info: zipfile.ZipInfo) -> str:
    """Why a member is not read as a picture; empty for one that is, and for a folder."""
    name = PurePosixPath(info.filename)
    if _is_folder(info):
        return ""
    if any(map(is_hidden, name.parts)):
        return "not an image (hidden, or one of the system)"
    if not is_picture_name(name.name):
        return f"not an image (suffix {name.suffix})" if name.suffix else "not an image (no suffix)"
    if info.flag_bits & _ENCRYPTED:
        return "needs a password"
    if info.file_size > _LARGEST:
        return f"too large ({info.file_size:,} bytes unpacked, expected at most {_LARGEST:,})"
    return ""
