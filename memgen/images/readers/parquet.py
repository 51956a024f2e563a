"""Images from a column of Parquet files, in the layout of Hugging Face: encoded pictures, one a row.

The column holds structs of `bytes` (a PNG, JPEG, ...) and `path`, or the bytes alone. A row that has a path and no
bytes is left out: no file is opened because data name it. Rows are read one at a time.
"""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from memgen.base.errors import DataError, first_line
from memgen.base.progress import Progress
from memgen.images import archives, names
from memgen.images.arrays import parted
from memgen.images.decoding import Picture, from_stream
from memgen.images.folders import holds_shards, shards, unread
from memgen.images.frames import UnusableError
from memgen.images.prepare import FoundImages, ReadSettings
from memgen.images.remote import is_here, opened

ORDER = 0
STREAMS = True
KIND = "a Parquet file with encoded images or a folder of such files (.parquet, or FILE.parquet:NAME for a column)"

_ROWS = 1  # read at a time: a row may hold a large picture, and little time is lost
_BUFFER = 2**20  # bytes
_SMALLEST = 32  # bytes of a picture
_LISTED = 8  # columns named in an error
_SUFFIX = ".parquet"


def reads(source: Path) -> bool:
    """Whether the suffix of a file is .parquet, or a folder holds such files and at most notes beside them."""
    path, _ = parted(source)
    return holds_shards(path, _is_parquet) if path.is_dir() else path.is_file() and _is_parquet(path.name)


def read(source: Path, settings: ReadSettings, report: Progress) -> FoundImages:
    """The pictures in a column of one or more files; see `readers.Reader` and `decoding.from_stream`."""
    path, name = parted(source)
    found_files, skipped = shards(path, _is_parquet, "a Parquet file")
    files: list[tuple[Path, str, str, int, int]] = []  # path, title, column, rows, bytes
    for each, title in found_files:
        with _listed(title, skipped), _opened(each) as file:
            column = _column(path, file.schema_arrow, name)
            files.append((each, title, column, file.metadata.num_rows, each.stat().st_size))
    total = sum(count for *_, count, _ in files)
    # A number that a file states may be wrong; a picture takes some bytes.
    expected = min(total, sum(size for *_, size in files) // _SMALLEST)

    def rows() -> Iterator[Picture]:
        done = 0
        for each, title, column, *_ in files:
            for picture in _rows(each, title, column, skipped):
                report(done, total)
                done += 1
                yield picture

    found = from_stream(path, rows(), expected, skipped, settings)
    report(total, total)
    return replace(found, warnings=[*found.warnings, *unread(found_files, skipped)])


@contextlib.contextmanager
def _listed(title: str, skipped: dict[str, str]) -> Iterator[None]:
    """Whatever a damaged file raises becomes the reason why it, or its rest, is left out."""
    try:
        yield
    except UnusableError as error:
        skipped[title] = str(error)
    except (PermissionError, FileNotFoundError) as error:
        skipped[title] = f"cannot be read ({os.strerror(error.errno) if error.errno else first_line(error)})"
    except (pa.ArrowException, OSError, ValueError) as error:
        skipped[title] = f"damaged, or not a Parquet file ({first_line(error)})"


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    # Without a buffer, pyarrow would take whole groups of rows into the memory.
    with contextlib.ExitStack() as stack:
        # pyarrow takes more memory for a file of Python than for one of its own.
        source = path if is_here(path) else stack.enter_context(opened(path))
        yield stack.enter_context(pq.ParquetFile(source, buffer_size=_BUFFER))


def _rows(path: Path, title: str, column: str, skipped: dict[str, str]) -> Iterator[Picture]:
    """The picture of each row of a file."""
    row = 0
    with _listed(title, skipped), _opened(path) as file:
        for batch in file.iter_batches(batch_size=_ROWS, columns=[column], use_threads=False):
            for value in batch.column(column):
                yield f"{title}[{row}]", partial(_content, value)
                row += 1


def _content(value: pa.Scalar) -> BinaryIO:
    """The encoded picture of a row."""
    if isinstance(value, pa.StructScalar):
        path = value.get("path")
        value = value["bytes"]
        if not value.is_valid and path is not None and path.is_valid:
            raise UnusableError(
                f"holds the path of a file and no bytes ({names.escaped(str(path))}), and memgen opens no path that "
                "data name; save the table with the images in it"
            )
    if not value.is_valid:
        raise UnusableError("holds nothing (null)")
    data = value.as_buffer()
    if data.size > archives.LARGEST:
        raise UnusableError(f"too large ({data.size:,} bytes, expected at most {archives.LARGEST:,})")
    return io.BytesIO(data.to_pybytes())


def _column(path: Path, schema: pa.Schema, asked: str | None) -> str:
    """The column of images: the one asked for, or the only one that Hugging Face calls so, or that can hold them.

    Raises:
        UnusableError: there is none.
        DataError: there is no such column, or there are several.
    """
    fields = [field for field in schema if schema.names.count(field.name) == 1]
    structs = [field.name for field in fields if _is_struct(field.type)]
    plain = [field.name for field in fields if _is_binary(field.type)]
    stated = [name for name in _stated(schema) if name in [*structs, *plain]]
    listed = names.escaped(", ".join(f"{field.name} ({str(field.type)[:40]})" for field in list(schema)[:_LISTED]))
    listed += f" and {len(schema) - _LISTED} more" if len(schema) > _LISTED else ""
    if asked is not None:
        if asked in [*structs, *plain]:
            return asked
        raise DataError(f"{path}: found columns {listed}, expected images in {names.escaped(asked)}. Name one of them.")
    possible = stated or structs or plain
    if not possible:
        raise UnusableError(f"found columns {listed}, expected encoded images: struct<bytes, path>, or binary")
    if len(possible) > 1:
        found, example = names.escaped(", ".join(possible)), names.escaped(f"{path.name}:{possible[0]}")
        raise DataError(f"{path}: found several columns of images ({found}), expected one. Name one, such as {example}")
    return possible[0]


def _stated(schema: pa.Schema) -> list[str]:
    """The columns that the notes of Hugging Face call images."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [name for name, feature in features.items() if feature.get("_type") == "Image"]
    except (KeyError, ValueError, TypeError, AttributeError):  # no such notes, or others
        return []


def _is_struct(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind)) and any(each.name == "bytes" and _is_binary(each.type) for each in kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_parquet(name: str) -> bool:
    return name.lower().endswith(_SUFFIX)
