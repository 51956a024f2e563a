"""Tables that follow a schema: made from columns, written atomically as Parquet, and checked when they are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from memgen.base import files
from memgen.base.errors import DataError, first_line


def make(schema: pa.Schema, columns: Mapping[str, Any], rows: int | None = None) -> pa.Table:
    """A table of the given schema, made from columns.

    A scalar (or None) is repeated for every row. NaN and infinities become null.

    Args:
        schema: one of those in `schemas`.
        columns: a value, sequence or array for every field.
        rows: number of rows; taken from the first sequence when None.

    Raises:
        DataError: a column is missing, unknown, of another length, or null where the schema forbids it.
    """
    wrong = set(columns) ^ set(schema.names)
    if wrong:
        raise DataError(f"table {name(schema)}: missing or unknown columns {sorted(wrong)}.")
    plain = {key: value.tolist() if hasattr(value, "tolist") else value for key, value in columns.items()}
    scalars = {key: not isinstance(value, (list, tuple)) for key, value in plain.items()}
    if rows is None:
        rows = next((len(plain[key]) for key in plain if not scalars[key]), 1)
    arrays = []
    for field in schema:
        values = [plain[field.name]] * rows if scalars[field.name] else plain[field.name]
        if pa.types.is_floating(field.type):
            values = [None if value is None or not abs(value) < float("inf") else value for value in values]
        arrays.append(pa.array(values, type=field.type))
    return check(pa.Table.from_arrays(arrays, schema=schema), schema, source=f"table {name(schema)}")


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


def read(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a table and check it against its schema.

    Raises:
        DataError: the file is missing, is not Parquet, is damaged, or has another schema; the message names it.
    """
    try:
        table = pq.ParquetFile(path).read()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such table.") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path}: damaged or not a Parquet file ({first_line(error)}). Delete it and run the command again."
        ) from error
    stored = (table.schema.metadata or {}).get(b"memgen.schema", b"none").decode()
    expected = schema.metadata[b"memgen.schema"].decode()
    if stored != expected:
        raise DataError(
            f"{path}: is a table of kind {stored}, expected {expected}. Delete it and run the command again."
        )
    return check(table, schema, source=str(path))
