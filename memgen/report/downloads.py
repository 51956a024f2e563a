"""The tables of a run on its page: small ones as CSV in the page itself, and all as links to their files beside it.

In the page a table is compressed with gzip. The page's script unpacks it; without scripts the packed file is saved.
"""

import base64
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv

LARGEST, TOTAL = 512 * 2**10, 2 * 2**20  # bytes of compressed CSV: of one table, and of all
LIMITS = (LARGEST, TOTAL)
MOST_ROWS = LARGEST // 4  # of a table that is even tried: a row takes some bytes, however it is compressed
_BATCH = 4096  # rows that are compressed at a time


@dataclass(frozen=True)
class Download:
    """A kind of table.

    Attributes:
        name: of the kind.
        rows: how many it has.
        files: paths of its Parquet files, relative to the page, with `/` between folders.
        csv: the whole table as compressed CSV in a data address; empty where it is too large for the page.
    """

    name: str
    rows: int
    files: Sequence[str]
    csv: str


def downloads(tables: Sequence[tuple[str, pa.Table, Sequence[str]]]) -> list[Download]:
    """The downloads of tables, of which the smallest become part of the page.

    Args:
        tables: name, content and files of each kind.
    """
    addresses: dict[str, str] = {}
    left = TOTAL
    for name, table, _ in sorted(tables, key=lambda each: each[1].nbytes):
        packed = _packed(table, min(LARGEST, left)) if table.num_rows <= MOST_ROWS else None
        if packed is not None:
            addresses[name] = "data:application/gzip;base64," + base64.b64encode(packed).decode()
            left -= len(packed)
    return [Download(name, table.num_rows, files, addresses.get(name, "")) for name, table, files in tables]


def _packed(table: pa.Table, most: int) -> bytes | None:
    """A table as CSV, compressed as gzip without a time; None as soon as it takes more than `most` bytes."""
    packer, packed = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS), b""
    for start in range(0, max(1, table.num_rows), _BATCH):
        packed += packer.compress(_csv(table.slice(start, _BATCH), header=start == 0))
        if len(packed) > most:
            return None
    packed += packer.flush()
    return packed if len(packed) <= most else None


def _csv(table: pa.Table, header: bool) -> bytes:
    """A table as CSV, with or without the names of its columns; lists become JSON."""
    columns = [
        pa.array([None if value is None else json.dumps(value) for value in column.to_pylist()], pa.string())
        if pa.types.is_nested(column.type)
        else column
        for column in table.columns
    ]
    buffer = io.BytesIO()
    options = pa.csv.WriteOptions(include_header=header)
    pa.csv.write_csv(pa.table(columns, names=table.column_names), buffer, options)
    return buffer.getvalue()
