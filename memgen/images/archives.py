"""What the readers of archives share: which members are pictures that may be read, and limits against bombs.

Nothing is unpacked to the disk, so no member can be written outside of a folder. One that would be is refused all the
same: whoever made it did not mean a picture.
"""

from pathlib import Path, PurePosixPath

from memgen.base.errors import DataError
from memgen.images.decoding import is_hidden, is_picture_name

LARGEST = 2**28  # bytes of one unpacked file: a picture of that size is no picture, but an attack on the memory
MOST_TIMES = 200  # unpacked bytes for each packed one; pictures hardly shrink, and gzip reaches 1,000 on zeros
LINK = "a link, not followed"
REPEATED = "a second file of this name; the first one is read"


def unfit(name: str, size: int) -> str:
    """Why a member of an archive is not read as a picture; empty for one that is.

    Args:
        name: as the archive has it.
        size: in bytes, unpacked.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        return "its path leads out of the archive"
    if any(map(is_hidden, path.parts)):
        return "not an image (hidden, or one of the system)"
    if not is_picture_name(path.name):
        return f"not an image (suffix {path.suffix})" if path.suffix else "not an image (no suffix)"
    if size > LARGEST:
        return f"too large ({size:,} bytes unpacked, expected at most {LARGEST:,})"
    return ""


def check_unpacked(path: Path, packed: int, unpacked: int) -> None:
    """Check that an array that is packed in a file does not take far more memory than the file.

    Args:
        path: the file, for the error.
        packed: bytes of the array in the file.
        unpacked: bytes that it takes in the memory.

    Raises:
        DataError: it does.
    """
    if unpacked > most_unpacked(packed):
        raise DataError(
            f"{path}: {packed:,} bytes that become {unpacked:,}, as those of an attack on the memory do. Save the "
            "images without compression."
        )


def most_unpacked(packed: int) -> int:
    """How many bytes a file of `packed` bytes may unpack to: 200 times as many, and 256 MiB always."""
    return max(LARGEST, MOST_TIMES * packed)
