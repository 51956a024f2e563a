"""Tables that follow a schema: made from columns, written atomically as Parquet, and checked when they are read."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from memgen.base import files
from memgen.base.errors import DataError, first_line
from memgen.base.strings import Strings

T = TypeVar("T")


def make(schema: pa.Schema, columns: Mapping[str, Any], rows: int | None = None) -> pa.Table:
    """A table of the given schema, made from columns.

    A scalar (or None) is repeated for every row. NaN and infinities become null.

    Args:
        schema: one of those in `schemas`.
        columns: a value, sequence, `Strings`, NumPy array or Arrow array for every field.
        rows: number of rows; taken from the first sequence when None.

    Raises:
        DataError: a column is missing, unknown, of another length, or null where the schema forbids it.
    """
    wrong = set(columns) ^ set(schema.names)
    if wrong:
        raise DataError(f"table {name(schema)}: missing or unknown columns {sorted(wrong)}.")
    given = {key: _plain(value) for key, value in columns.items()}
    if rows is None:
        rows = next((len(value) for value in given.values() if isinstance(value, list | tuple | _ARRAYS)), 1)
    arrays = [_column(given[field.name], field.type, rows) for field in schema]
    return check(pa.Table.from_arrays(arrays, schema=schema), schema, source=f"table {name(schema)}")


_ARRAYS = pa.Array | pa.ChunkedArray


def _plain(value: Any) -> Any:
    """What stands for a column as an Arrow array, a list or a scalar; arrays of NumPy give no Python objects."""
    if isinstance(value, Strings):
        return value.arrow
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "biufU":
        return pa.array(value, mask=~np.isfinite(value) if value.dtype.kind == "f" else None)
    return value.tolist() if hasattr(value, "tolist") and not isinstance(value, _ARRAYS) else value


def _column(value: Any, kind: pa.DataType, rows: int) -> pa.Array:
    if isinstance(value, _ARRAYS):
        array = value.cast(kind)
        return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    values = value if isinstance(value, list | tuple) else [value]
    if pa.types.is_floating(kind):
        values = [None if each is None or not abs(each) < float("inf") else each for each in values]
    made = pa.array(values, type=kind)
    return made if isinstance(value, list | tuple) else pa.repeat(made[0], rows)


class Rows(Sequence[T]):
    """The rows of a table, of which only those that are asked for become Python objects.

    Args:
        table: the table.
        order: the rows that count, in their order; None for all as they come.
        make: makes an object of a row, given as a dict.
    """

    def __init__(
        self,
        table: pa.Table,
        order: NDArray[np.int64] | None = None,
        make: Callable[[dict[str, Any]], T] = lambda row: row,  # type: ignore[assignment,return-value]
    ) -> None:
        self._table, self._make = table, make
        self._order: NDArray[np.int64] = np.arange(table.num_rows) if order is None else order

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, which: int) -> T: ...
    @overload
    def __getitem__(self, which: slice) -> list[T]: ...
    def __getitem__(self, which: int | slice) -> T | list[T]:
        """One row, or those of a slice."""
        if isinstance(which, slice):
            return list(map(self._make, self._table.take(pa.array(self._order[which])).to_pylist()))
        (row,) = self._table.take(pa.array(self._order[[which]])).to_pylist()
        return self._make(row)


def name(schema: pa.Schema) -> str:
    """The name of a table, without its version."""
    return str(schema.metadata[b"memgen.schema"].decode().partition("/")[0])


def check(table: pa.Table, schema: pa.Schema, source: str) -> pa.Table:
    """The table itself, after a check that it has the columns and types of a schema, and nulls only where allowed.

    Raises:
        DataError: naming `source` and what differs.
    """
    if table.schema.names != schema.names or table.schema.types != schema.types:
        raise DataError(f"{source}: found columns {table.schema.names}, expected {schema.names} with their types.")
    for field in schema:
        if not field.nullable and table.column(field.name).null_count:
            raise DataError(
                f"{source}: column {field.name} has {table.column(field.name).null_count} nulls; none allowed."
            )
    return table


def write(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    """Write a table as Parquet (zstd), atomically; the same table always gives the same bytes.

    Raises:
        DataError: the table does not have the schema.
        StorageError: the disk is full or the folder cannot be written.
    """
    check(table, schema, source=f"table {name(schema)}")
    with files.replacing(path) as temporary:
        pq.write_table(table.cast(schema).replace_schema_metadata(schema.metadata), temporary, compression="zstd")


def read(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table and check it against its schema.

    Args:
        path: the Parquet file.
        schema: one of those in `schemas`.
        columns: those that are read; None reads all.

    Raises:
        DataError: the file is missing, is not Parquet, is damaged, or has another schema; the message names it.
    """
    with _opened(path) as file:
        table, kind = file.read(None if columns is None else list(columns)), file.schema_arrow.metadata or {}
    stored = kind.get(b"memgen.schema", b"none").decode()
    expected = schema.metadata[b"memgen.schema"].decode()
    if stored != expected:
        raise DataError(
            f"{path}: is a table of kind {stored}, expected {expected}. Delete it and run the command again."
        )
    if columns is None:
        return check(table, schema, source=str(path))
    chosen = pa.schema([schema.field(each) for each in columns])
    return check(table.select([each for each in columns if each in table.column_names]), chosen, source=str(path))


def rows(path: Path) -> int:
    """How many rows a table in a file has; they are not read.

    Raises:
        DataError: the file is missing or is not Parquet.
    """
    with _opened(path) as file:
        return int(file.metadata.num_rows)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        yield pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such table.") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path}: damaged or not a Parquet file ({first_line(error)}). Delete it and run the command again."
        ) from error
