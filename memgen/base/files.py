"""Files that appear whole or not at all.

Every file is written under a temporary name in its own folder, flushed to the disk and renamed. A process that is
killed at any instant leaves either the old file or the new one. Only this module turns errors of the operating system
into StorageError.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from memgen.base.errors import ConfigError, DataError, StorageError

_REMEDY = {
    errno.ENOSPC: "The disk is full: free space, or choose another place for the run.",
    errno.EDQUOT: "Your disk quota is used up: free space, or choose another place for the run.",
    None: "The disk may be full: free space, or choose another place for the run.",  # NumPy loses the reason
    errno.EFBIG: "The file would exceed a size limit of this system: raise the limit, or choose another place.",
    errno.EACCES: "You may not write there: change the permissions, or choose another place for the run.",
    errno.EPERM: "You may not write there: change the permissions, or choose another place for the run.",
    errno.EROFS: "That file system is read-only: choose another place for the run.",
}


MEMORY = "MEMGEN_MEMORY"  # environment variable: gigabytes that a process may use for images and what is made of them
DEFAULT_MEMORY = 2.0
_SHARE = 8  # at no time are there more arrays of the largest size


def in_memory() -> int:
    """Bytes of one array that are kept in memory: an eighth of what MEMGEN_MEMORY says; a larger one lies in a file.

    Raises:
        ConfigError: the variable is not a number above 0.
    """
    said = os.environ.get(MEMORY, str(DEFAULT_MEMORY))
    try:
        gigabytes = float(said)
    except ValueError:
        gigabytes = math.nan
    if not 0 < gigabytes < math.inf:
        raise ConfigError(f"--memory or {MEMORY}: found {said!r}, expected a number of gigabytes above 0, such as 4.")
    return int(gigabytes * 2**30 / _SHARE)


def room(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array to be filled: in memory, or in a temporary file that ends with it if it is larger than `in_memory`.

    Raises:
        StorageError: there is no room for the file, which lies where TMPDIR says.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= in_memory():
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:  # the array keeps it
        try:
            if hasattr(os, "posix_fallocate"):  # else a full disk would end the process at some later write
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, dtype, "w+", shape=shape)
        except OSError as error:
            raise StorageError(
                f"cannot write a temporary file of {size:,} bytes in {tempfile.gettempdir()}: {error.strerror or error}"
                f". Free space there, set TMPDIR to a folder with more space, or give more memory (memgen --memory)."
            ) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """The StorageError that tells a person why `path` could not be written and what to do."""
    remedy = _REMEDY.get(error.errno, "Choose another place for the run.")
    return StorageError(f"cannot write {path}: {error.strerror or error}. {remedy}")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it and rename it to `path`, on failure delete it.

    The temporary name ends in `.tmp` and the suffix of `path`, since some writers insist on a suffix.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # A reader's failure inside the block (a missing input, say) names another file: leave it alone.
        if error.filename is not None and Path(os.fsdecode(error.filename)).parent != path.parent:
            raise
        raise storage_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Like `replacing`, but yields an open binary file."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        yield file


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed process left under `folder`; call it while holding the folder's lock."""
    for path in folder.rglob(".*.tmp*"):
        with contextlib.suppress(OSError):
            path.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    try:
        data = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:  # the path of a file may hold bytes that are no text
        data = json.dumps(value, indent=2, allow_nan=False).encode()
    with writing(path) as file:
        file.write(data + b"\n")


def read_json(path: Path) -> Any:
    """The value stored in a JSON file.

    Raises:
        DataError: the file is missing, cannot be read or is not valid JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}), expected a JSON file.") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid JSON ({error}). Delete the file and run the command again.") from error


def append_json(path: Path, value: Any) -> None:
    """Append `value` to a file as one line of JSON.

    The line is written at once and not flushed to the disk: a process that is killed leaves at most its last line cut.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            file.write(json.dumps(value, allow_nan=False).encode() + b"\n")
    except OSError as error:
        raise storage_error(path, error) from error


def read_json_lines(path: Path) -> list[Any]:
    """The values that `append_json` wrote, without a line that is cut; none if there is no such file."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def digest(*parts: bytes | str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the parts, each preceded by its length."""
    return digest_all(parts)


def digest_all(parts: Iterable[bytes | str]) -> str:
    """The same for parts that come one by one."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()[:16]


def digest_json(value: Any) -> str:
    """The digest of a JSON-serializable value, independent of the order of keys."""
    return digest(json.dumps(value, sort_keys=True, ensure_ascii=False))


def digest_file(path: Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a file's bytes.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
