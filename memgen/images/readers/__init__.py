"""Readers of images, one file for each format.

To add a format, add a module to this package. memgen finds it there. The module defines what `Reader` lists. Readers do
not import each other: a format that holds arrays passes them to `images.arrays.from_array`, one that holds encoded
pictures passes them to `images.decoding.from_pictures`, or `from_stream` if they come one after another, and one of
medical scans passes slices to `images.scans.Scans`.
"""

from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from memgen.base.discovery import modules_of
from memgen.base.errors import DataError
from memgen.base.progress import Progress
from memgen.images import remote
from memgen.images.arrays import parted
from memgen.images.names import escaped
from memgen.images.prepare import FoundImages, ReadSettings


@runtime_checkable
class Reader(Protocol):
    """What a module of this package defines.

    Attributes:
        ORDER: readers with a lower number are asked first. A format that its suffix or its first bytes identify has 0;
            a reader that takes whatever the others leave has 1.
        KIND: what it reads, as part of an error message: "a NumPy file (.npy, .npz)".

    A module that opens files by `images.remote.opened` alone, and decides by their names and sizes, may also define
    STREAMS = True. Files of a URL are then read where they are, and are not fetched first.
    """

    ORDER: int
    KIND: str

    def reads(self, source: Path) -> bool:
        """Whether a source is of this format; decided by its suffix or its first bytes, without reading all of it."""
        ...

    def read(self, source: Path, settings: ReadSettings, report: Progress) -> FoundImages:
        """The images of a source that `reads` accepts, prepared as the settings say.

        Args:
            source: a folder or a file that is not empty.
            settings: size, color, range, transparency and number of the images.
            report: called with (images or files done, of how many).

        Raises:
            DataError: the source cannot be used; the message names the file and the remedy.
        """
        ...


def all_readers() -> list[Reader]:
    """The modules of this package, in the order in which they are asked."""
    return [cast(Reader, module) for module in modules_of(__name__, __path__)]


def read(source: Path, settings: ReadSettings, report: Progress) -> FoundImages:
    """The images of a source, read by the first reader that accepts it and prepared as the settings say.

    Args:
        source: a folder or a file, or an array in it (FILE.npz:NAME), or a URL of one (see remote.py).
        settings: size, color, range, transparency and number of the images.
        report: called with (images or files done, of how many), or with bytes while they are fetched.

    Raises:
        DataError: the source is missing, empty, damaged or of an unknown format, or holds no image that can be used.
    """
    with remote.here(source, _is_streamed, report) as local:
        path, _ = parted(local)
        try:
            return _read(local, path, settings, report)
        except DataError as error:  # readers name the path as it is; a terminal would obey some of its characters
            named = remote.url_of(source)
            shown = escaped(str(path) if named is None else named)
            raise type(error)(str(error).replace(str(path), shown)) from error.__cause__


def _read(source: Path, path: Path, settings: ReadSettings, report: Progress) -> FoundImages:
    """The images of a source that is, or is in, the file or folder `path`."""
    try:
        if not path.is_dir() and not path.is_file():
            raise DataError(f"{source}: no such file or folder. Check the path. {_known()}")
        if path.is_file() and path.stat().st_size == 0:
            raise DataError(f"{path}: empty file. Fetch or save it again.")
        for reader in all_readers():
            if reader.reads(source):
                return reader.read(source, settings, report)
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror}). Check the path and its permissions.") from error
    except MemoryError as error:
        raise DataError(
            f"{source}: its images do not fit into the memory. Import fewer of them (data.limit)."
        ) from error
    raise DataError(f"{source}: not a kind of file that memgen reads. {_known()}")


def _is_streamed(source: Path) -> bool:
    """Whether a reader reads a source without fetching its files."""
    return any(getattr(reader, "STREAMS", False) and reader.reads(source) for reader in all_readers())


def _known() -> str:
    return f"memgen reads {'; '.join(reader.KIND for reader in all_readers())}."
