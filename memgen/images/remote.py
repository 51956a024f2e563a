"""Images in object stores and on the web: s3://BUCKET/FOLDER, gs://, az://, hf://, https:// and the like, by fsspec.

Tar and Parquet files are read where they are, a piece at a time, so that the disk holds none of them. Whatever else a
URL names is fetched into a temporary folder first, under the same names, and read there. So images have the names that
they would have if the files were local.

pathlib makes one slash of the two in a URL. Either spelling is understood here, so that a source can be a Path.
"""

import contextlib
import importlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

from memgen.base.errors import DataError, first_line
from memgen.base.progress import Progress
from memgen.images.names import escaped

# Other protocols of fsspec look into archives, or follow what a file says, and nothing is opened because data name it.
STORES = (
    "abfs", "abfss", "az", "ftp", "gcs", "gs", "hdfs", "hf", "http", "https", "memory", "oci", "oss", "s3", "s3a",
    "sftp", "smb", "webhdfs",
)  # fmt: skip
_WHOLE = ("ftp", "http", "https")  # they may not be able to begin in the middle of a file
_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+):/+(?P<path>.+)", re.IGNORECASE | re.DOTALL)
_TOGETHER = 64  # files fetched at a time
_ALONE = 2**24  # bytes from which a file is fetched alone, with its progress


@dataclass(frozen=True)
class _Distant:
    """A file in a store: its file system, its path there, and its size in bytes, if the store tells."""

    system: Any
    path: str
    size: int | None


# What the files of a temporary folder stand for, while it is read.
_stands_for: ContextVar[dict[Path, _Distant]] = ContextVar("stands_for")


def url_of(source: str | Path) -> str | None:
    """The URL that a source is; None for a path, also one that is written file:///like/this.

    Raises:
        DataError: the protocol is none from which memgen reads, or the URL holds a password.
    """
    found = _URL.fullmatch(str(source))
    if found is None or found["protocol"] == "file" or os.path.lexists(source):
        return None
    protocol, rest = found["protocol"].lower(), found["path"]
    url = f"{protocol}://{rest}"
    if protocol not in STORES:
        raise DataError(
            f"{escaped(protocol)}://: not a protocol from which memgen reads images, expected a path, or a URL of one "
            f"of: {', '.join(STORES)}."
        )
    if ":" in rest.partition("/")[0].rpartition("@")[0]:
        raise DataError(
            f"{protocol}://...@{escaped(rest.rpartition('@')[2])}: found a password in a URL, which would be written "
            f"into the run. Give it to the store's own package, by its configuration or environment variables."
        )
    return url


def absolute(source: str | Path) -> str:
    """A source in words that hold in any working folder: its URL, or its absolute path."""
    return url_of(source) or str(_local(source).resolve())


def shown(source: str | Path) -> str:
    """A source as it was given, in words that can be stored and printed."""
    return escaped(url_of(source) or str(source))


@contextlib.contextmanager
def here(source: Path, is_read_there: Callable[[Path], bool], report: Progress) -> Iterator[Path]:
    """The source as a path: itself, or of a URL a temporary folder or file that stands for it.

    Args:
        source: a path or a URL. A URL may name an array or a column in its file (URL:NAME).
        is_read_there: whether a folder or file of such names and sizes is read by `opened` alone, so that nothing has
            to be fetched.
        report: called with (bytes fetched, bytes), of what is fetched.

    Raises:
        DataError: the store or the file cannot be reached, or came cut off; the message says what to do.
    """
    url = url_of(source)
    if url is None:
        yield _local(source)
        return
    with tempfile.TemporaryDirectory(prefix="memgen-", ignore_cleanup_errors=True) as folder:
        with _told(url):
            root, part, files = _listed(url, Path(folder))
            for path, distant in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "wb") as file:
                    file.truncate(distant.size or 0)  # readers look at sizes; the file takes no room
        token = _stands_for.set(files)
        try:
            if url.partition(":")[0] in _WHOLE or not is_read_there(root):
                _stands_for.set({})
                with _told(url):
                    _fetch(url, files, Path(folder), report)
            yield root if part is None else root.with_name(f"{root.name}:{part}")
        finally:
            _stands_for.reset(token)


def is_here(path: Path) -> bool:
    """Whether a file is itself, and stands for none in a store."""
    return path not in _stands_for.get({})


def opened(path: Path) -> BinaryIO:
    """A file, opened to read: the file itself, or what it stands for."""
    if is_here(path):
        return open(path, "rb")
    distant = _stands_for.get()[path]
    with _as_os_error():
        return cast(BinaryIO, _Stream(distant.system.open(distant.path, "rb")))


class _Stream(io.RawIOBase):
    """A file of a store. Whatever its package raises becomes an OSError, which readers expect of a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        with _as_os_error():
            return self._file.read(size)

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _as_os_error():
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def _local(source: str | Path) -> Path:
    """A path, which may be written as a URL."""
    found = _URL.fullmatch(str(source))
    is_file = found is not None and found["protocol"] == "file" and not os.path.lexists(source)
    return Path(f"/{found['path']}") if found is not None and is_file else Path(source)


def _listed(url: str, folder: Path) -> tuple[Path, str | None, dict[Path, _Distant]]:
    """Where in a folder a URL has its place, the array that it names, and the files that belong there."""
    fsspec = importlib.import_module("fsspec")
    system, path = fsspec.core.url_to_fs(url)
    part = None
    try:
        about = system.info(path)
    except FileNotFoundError:
        path, colon, part = path.rpartition(":")
        if not colon or "/" in part:
            raise
        about = system.info(path)
    # What follows a ? belongs to the address, not to the name.
    name = PurePosixPath(path.partition("?")[0] if url.startswith("http") else path).name or "images"
    root = folder / name
    if about["type"] != "directory":
        return root, part, {root: _Distant(system, path, about.get("size"))}
    files: dict[Path, _Distant] = {}
    for each, info in system.find(path, detail=True).items():
        relative = each[len(path.rstrip("/")) :].lstrip("/") if each.startswith(path.rstrip("/")) else ""
        if not relative or relative.endswith("/") or ".." in PurePosixPath(relative).parts:
            raise DataError(
                f"{url}: holds the name {escaped(each)}, which no folder can hold. Rename it, or leave it out."
            )
        files[root / relative] = _Distant(system, each, info.get("size"))
    if not files:
        raise FileNotFoundError(f"no file at {path}")
    return root, part, files


def _fetch(url: str, files: dict[Path, _Distant], folder: Path, report: Progress) -> None:
    """Fetch files, and check that they are whole."""
    total = sum(distant.size or 0 for distant in files.values())
    free = shutil.disk_usage(folder).free
    if total > free:
        raise DataError(
            f"{url}: takes {total:,} bytes, and {folder.parent} has room for {free:,}. Set TMPDIR to a folder with "
            f"more room, or pack the images into tar or Parquet files, which need none."
        )
    done = 0
    for batch in _batches(list(files.items())):
        if len(batch) == 1:
            ((path, distant),) = batch
            with distant.system.open(distant.path, "rb") as source, open(path, "wb") as copy:
                while piece := source.read(_ALONE):
                    copy.write(piece)
                    report(done + copy.tell(), max(total, done + copy.tell()))
        else:
            system = batch[0][1].system
            system.get([distant.path for _, distant in batch], [str(path) for path, _ in batch])
        for path, distant in batch:
            found = path.stat().st_size
            if distant.size is not None and found != distant.size:
                raise DataError(
                    f"{url}: {escaped(distant.path)} came cut off ({found:,} of {distant.size:,} bytes). Try again."
                )
            done += found
        report(done, max(total, done))


def _batches(files: list[tuple[Path, _Distant]]) -> Iterator[list[tuple[Path, _Distant]]]:
    """Large files alone, small ones together."""
    batch: list[tuple[Path, _Distant]] = []
    for path, distant in files:
        if distant.size is None or distant.size >= _ALONE:
            yield [(path, distant)]
            continue
        batch.append((path, distant))
        if len(batch) == _TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    """Whatever a store's package raises becomes a DataError that says what to do."""
    shown = escaped(url)
    try:
        yield
    except DataError:
        raise
    except ImportError as error:
        raise DataError(
            f"{shown}: needs a package that is not installed ({first_line(error)}). Install it with pip, beside memgen."
        ) from error
    except FileNotFoundError as error:
        raise DataError(f"{shown}: no such file or folder ({first_line(error)}). Check the address.") from error
    except PermissionError as error:
        raise DataError(
            f"{shown}: not allowed ({first_line(error)}). Give the store's package your credentials, by its "
            f"configuration or environment variables."
        ) from error
    except Exception as error:  # each store has errors of its own
        raise DataError(
            f"{shown}: cannot be read ({type(error).__name__}: {first_line(error)}). Check the address, your "
            f"credentials and the network."
        ) from error


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {first_line(error)}") from error
