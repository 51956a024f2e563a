"""Images in object stores and on the web: s3://BUCKET/FOLDER, gs://, az://, hf://, https:// and the like, by fsspec.

Tar and Parquet files are read where they are, a piece at a time, so that the disk holds none of them. Whatever else a
URL names is fetched into a temporary folder first, under the same names, and read there. So images have the names that
they would have if the files were local.

A store that fails ends the reading with an error: images that did not come are no damaged files.

Passwords and signatures are taken out of a URL before anything is kept of it. This process remembers them and fetches
with them, and no file has them.

pathlib makes one slash of the two in a URL. Either spelling is understood here, so that a source can be a Path.
"""

import contextlib
import errno
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
from typing import IO, Annotated, Any, BinaryIO, cast

from pydantic import AfterValidator

from memgen.base.errors import DataError, MemgenError, StorageError, first_line
from memgen.base.progress import Progress
from memgen.images.names import escaped

# Other protocols of fsspec look into archives, or follow what a file says, and nothing is opened because data name it.
STORES = (
    "abfs", "abfss", "az", "ftp", "gcs", "gs", "hdfs", "hf", "http", "https", "memory", "oci", "oss", "s3", "s3a",
    "sftp", "smb", "webhdfs",
)  # fmt: skip
_WHOLE = ("ftp", "http", "https")  # they may not be able to begin in the middle of a file
_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+):/+(?P<path>.+)", re.IGNORECASE | re.DOTALL)
_WEB = ("http", "https")
# A query with one of the first is all signature. In others, only what is named like the second is a secret.
_SIGNATURES = {"sig", "signature", "x-amz-signature", "x-goog-signature"}
_SECRET = re.compile(r"(?i)sig|token|key|secret|pass|cred|auth")
_PART = re.compile(r":[A-Za-z_][\w.-]*$")  # the array that is meant, after a query
_TOGETHER = 64  # files fetched at a time
_ALONE = 2**24  # bytes from which a file is fetched alone, with its progress


@dataclass(frozen=True)
class _Distant:
    """A file in a store: its file system, its path there, its size in bytes, if the store tells, and its URL."""

    system: Any
    path: str
    size: int | None
    url: str


# What the files of a temporary folder stand for, while it is read.
_stands_for: ContextVar[dict[Path, _Distant]] = ContextVar("stands_for")
_whole: dict[str, str] = {}  # URLs with the secrets that they were given with


def url_of(source: str | Path) -> str | None:
    """The URL that a source is, without secrets; None for a path, also one that is written file:///like/this.

    Raises:
        DataError: the protocol is none from which memgen reads.
    """
    found = _URL.fullmatch(str(source))
    if found is None or found["protocol"] == "file" or os.path.lexists(source):
        return None
    protocol, rest = found["protocol"].lower(), found["path"]
    whole = f"{protocol}://{rest}"
    if protocol not in STORES:
        raise DataError(
            f"{escaped(protocol)}://: not a protocol from which memgen reads images, expected a path, or a URL of one "
            f"of: {', '.join(STORES)}."
        )
    url = _without_secrets(whole)
    if url != whole:
        _whole[url] = whole
    return url


def _without_secrets(url: str) -> str:
    """A URL without password, and without what signs its query or gives a right in it."""
    before, _, query = url.partition("?")
    protocol, _, rest = before.partition("://")
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    user = "" if protocol in _WEB else user.partition(":")[0]  # a token on the web; in abfs://, a container
    every = query.split("&") if query else []
    keys = [each.partition("=")[0].lower() for each in every]
    signed = not _SIGNATURES.isdisjoint(keys)
    kept = [each for each, key in zip(every, keys, strict=True) if not signed and not _SECRET.search(key)]
    part = _PART.search(every[-1]) if every and every[-1] not in kept else None
    query = f"?{'&'.join(kept)}" if kept else ""
    return f"{protocol}://{user}{at if user else ''}{host}{slash}{path}{query}{part[0] if part else ''}"


def named(source: str) -> str:
    """A source as settings keep it: its URL without secrets, or the path as it was given."""
    return url_of(source) or source


def shown(source: str | Path) -> str:
    """The same, in characters that can be stored and printed."""
    return escaped(named(str(source)))


Source = Annotated[str, AfterValidator(named)]  # of images, in settings


def absolute(source: str | Path) -> str:
    """A source in words that hold in any working folder: its URL, or its absolute path."""
    return url_of(source) or str(_local(source).resolve())


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
    with _told(distant.url):
        return cast(BinaryIO, _Stream(distant.system.open(distant.path, "rb"), distant.url))


class _Stream(io.RawIOBase):
    """A file of a store. What its package raises becomes a DataError, which no reader takes for a damaged file."""

    def __init__(self, file: IO[bytes], url: str) -> None:
        self._file, self._url = file, url

    def read(self, size: int = -1) -> bytes:
        with _told(self._url):
            return self._file.read(size)

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _told(self._url):
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
    whole, part = _whole.get(url, url), None
    if whole != url and (said := _PART.search(whole.partition("?")[2])) and url.endswith(said[0]):
        whole, part = whole.removesuffix(said[0]), said[0][1:]  # it is no part of a signature
    system, path = fsspec.core.url_to_fs(whole)
    try:
        about = system.info(path)
    except FileNotFoundError:
        if part is not None:
            raise
        path, colon, part = path.rpartition(":")
        if not colon or "/" in part:
            raise
        about = system.info(path)
    # What follows a ? belongs to the address, not to the name.
    name = PurePosixPath(path.partition("?")[0] if url.startswith("http") else path).name or "images"
    root = folder / name
    if about["type"] != "directory":
        return root, part, {root: _Distant(system, path, about.get("size"), url)}
    files: dict[Path, _Distant] = {}
    for each, info in system.find(path, detail=True).items():
        inside = f"{path.rstrip('/')}/"
        if not info.get("size") and (each.endswith("/") or each == path):
            continue  # an empty object that stands for a folder, as the consoles of stores make them
        relative = each[len(inside) :] if each.startswith(inside) else ""
        if not relative or relative.startswith("/") or relative.endswith("/") or ".." in PurePosixPath(relative).parts:
            raise _unfit(url, each)
        files[root / relative] = _Distant(system, each, info.get("size"), f"{url.rstrip('/')}/{relative}")
    if not files:
        raise FileNotFoundError(f"no file at {path}")
    for folder_of in {parent for file in files for parent in file.parents} & files.keys():
        raise _unfit(url, files[folder_of].path)  # a file and a folder of one name
    return root, part, files


def _unfit(url: str, name: str) -> DataError:
    return DataError(f"{url}: holds the name {escaped(name)}, which no folder can hold. Rename it, or leave it out.")


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
    except MemgenError:
        raise
    except ImportError as error:
        raise DataError(
            f"{shown}: needs a package that is not installed ({_said(error)}). Install it with pip, beside memgen."
        ) from error
    except FileNotFoundError as error:
        cause = error.__cause__  # fsspec calls whatever fails on the web a missing file
        missing = cause is None or isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) == 404
        if url.partition(":")[0] in _WEB and isinstance(cause, Exception) and not missing:
            with _told(url):
                raise cause from None
        raise DataError(f"{shown}: no such file or folder ({_said(error)}). Check the address.") from error
    except PermissionError as error:
        raise DataError(
            f"{shown}: not allowed ({_said(error)}). Give the store's package your credentials, by its "
            f"configuration or environment variables."
        ) from error
    except Exception as error:  # each store has errors of its own
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"cannot write a temporary file in {tempfile.gettempdir()}: {error.strerror}. Free space there, or set "
                f"TMPDIR to a folder with more room."
            ) from error
        raise DataError(
            f"{shown}: cannot be read ({type(error).__name__}: {_said(error)}). Check the address, your credentials "
            f"and the network, and give the command again."
        ) from error


def _said(error: Exception) -> str:
    """What an error says, without the secrets of URLs in it."""
    return escaped(re.sub(r"(://[^\s'\"?]*)\?[^\s'\"]*", r"\1", re.sub(r"://[^\s/@]*@", "://", first_line(error))))
