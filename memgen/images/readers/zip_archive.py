"""Images from the pictures in a ZIP archive, in the order of their names. Nothing is unpacked to the disk."""

import io
import stat
import zipfile
from pathlib import Path
from typing import BinaryIO

from memgen.base.errors import DataError, first_line
from memgen.base.progress import Progress
from memgen.images import archives
from memgen.images.decoding import from_pictures
from memgen.images.prepare import FoundImages, ReadSettings

ORDER = 0
KIND = "a ZIP archive of images (.zip)"

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
        members: dict[str, zipfile.ZipInfo] = {}
        skipped: dict[str, str] = {}
        for info in archive.infolist():
            reason = _unfit(info) or (archives.REPEATED if info.filename in members else "")
            if reason:
                skipped[info.filename] = reason
            elif not _is_folder(info):
                members[info.filename] = info
        if not members and not skipped:
            raise DataError(f"{source}: the archive is empty, expected image files. Check the file.")

        def opened(name: str) -> BinaryIO:
            # Without a number of bytes, zipfile unpacks whatever there is, beyond the size that the archive states.
            with archive.open(members[name]) as member:
                return io.BytesIO(member.read(members[name].file_size))

        return from_pictures(source, sorted(members), opened, skipped, settings, report)


def _is_folder(info: zipfile.ZipInfo) -> bool:
    return info.filename.endswith("/")  # info.is_dir fails where the name is empty


def _unfit(info: zipfile.ZipInfo) -> str:
    """Why a member is not read as a picture; empty for one that is, and for a folder."""
    if _is_folder(info):
        return ""
    if stat.S_ISLNK(info.external_attr >> 16):
        return archives.LINK
    if reason := archives.unfit(info.filename, info.file_size):
        return reason
    return "needs a password" if info.flag_bits & _ENCRYPTED else ""
