"""Images from the pictures in tar files, plain or gzip, one or folders of them: the layout of WebDataset.

A tar file is read once, from its beginning to its end, so its images come in the order in which it holds them. Several
files are read in the order of their names. Nothing is unpacked to the disk, and no link is followed.
"""

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from memgen.base.errors import first_line
from memgen.base.progress import Progress
from memgen.images import archives, names
from memgen.images.decoding import Picture, from_stream
from memgen.images.folders import holds_shards, shards, unread
from memgen.images.prepare import FoundImages, ReadSettings
from memgen.images.remote import opened

ORDER = 0
KIND = "a tar file of images or a folder of such files (.tar, .tar.gz, .tgz)"
STREAMS = True

_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_GZIP = b"\x1f\x8b"
_LONGEST_NOTE = 2**20  # bytes of a long name or of other notes on a member, which tarfile reads into the memory
_NOTES = {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}
_DAMAGED = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError)


def reads(source: Path) -> bool:
    """Whether a file has the suffix of a tar file, or a folder holds such files and at most notes beside them."""
    return holds_shards(source, _is_tar) if source.is_dir() else source.is_file() and _is_tar(source.name)


def read(source: Path, settings: ReadSettings, report: Progress) -> FoundImages:
    """The pictures of one or more tar files; see `readers.Reader` and `decoding.from_stream`."""
    files, skipped = shards(source, _is_tar, "a tar file")

    def each() -> Iterator[Picture]:
        for done, (path, title) in enumerate(files):
            report(done, len(files))
            yield from _pictures(path, title, f"{title}/" if source.is_dir() else "", skipped)

    found = from_stream(source, each(), len(files), skipped, settings)
    report(len(files), len(files))
    return replace(found, warnings=[*found.warnings, *unread(files, skipped)])


class _BadError(Exception):
    """The rest of a tar file is not read; the message says why."""


class _Member(tarfile.TarInfo):
    """The head of a member. One that is damaged is an error, where tarfile takes it for the end of the file."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Member":
        try:
            found = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise _BadError(f"damaged ({first_line(error)})") from error
            raise  # the end
        if found.type in _NOTES and found.size > _LONGEST_NOTE:
            raise _BadError(f"the notes on a member take {found.size:,} bytes, expected at most {_LONGEST_NOTE:,}")
        return found


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a gzip file, up to a limit."""

    def __init__(self, file: BinaryIO, packed: int) -> None:
        self._file, self._limit = gzip.GzipFile(fileobj=file), archives.most_unpacked(packed)
        self._packed, self._done = packed, 0

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(size)
        self._done += len(found)
        if self._done > self._limit:
            raise _BadError(
                f"cut off: its {self._packed:,} bytes unpack to more than {self._limit:,}, as those of an attack on "
                "the memory do; save it without compression"
            )
        return found


def _pictures(path: Path, title: str, prefix: str, skipped: dict[str, str]) -> Iterator[Picture]:
    """The pictures of a tar file in its order; everything else, and why reading ended early, goes into `skipped`."""
    any_file = False
    seen: set[str] = set()
    try:
        with opened(path) as file, _opened(file) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep all of them
                if member.isdir():
                    continue
                any_file = True
                plain = str(PurePosixPath(member.name))
                reason = _unfit(member) or (archives.REPEATED if plain in seen else "")
                name = prefix + names.escaped(plain)
                if reason:
                    skipped[name] = reason
                    continue
                seen.add(plain)
                yield name, partial(_content, archive, member)
            if not any_file:
                skipped[title] = "holds no file"
    except _BadError as error:
        skipped[title] = str(error)
    except (PermissionError, FileNotFoundError) as error:
        skipped[title] = f"cannot be read ({error.strerror})"
    except _DAMAGED as error:
        found = f"after {len(seen):,} pictures" if seen else "or not a tar file"
        skipped[title] = f"damaged, {found} ({first_line(error)})"


def _opened(file: BinaryIO) -> tarfile.TarFile:
    start, size = file.read(2), file.seek(0, os.SEEK_END)
    file.seek(0)
    stream = _Unpacked(file, size) if start == _GZIP else file
    return tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> BinaryIO:
    """A member in the memory: a stream cannot go back, and decoders do."""
    opened = archive.extractfile(member)
    assert opened is not None  # it is a regular file
    return io.BytesIO(opened.read())


def _unfit(member: tarfile.TarInfo) -> str:
    """Why a member is not read as a picture; empty for one that is."""
    if member.issym() or member.islnk():
        return archives.LINK
    if not member.isfile():
        return "not a regular file"
    return archives.unfit(member.name, member.size)


def _is_tar(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)
