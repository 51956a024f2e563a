"""Tables: long form, units in the metadata, the same bytes for the same rows, readable elsewhere."""

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memgen.base import schemas, tables
from memgen.base.errors import DataError

KEYS = {"subject": "n4-s0-a", "role": "cell", "n_train": 4, "part": "a", "train_seed": 0}


def psnr(values) -> pa.Table:
    n = len(values)
    return tables.make(
        schemas.PSNR,
        KEYS
        | {
            "kind": "train",
            "image_id": [f"id{i}" for i in range(n)],
            "sigma": np.full(n, 0.1),
            "noise_draw": np.arange(n),
            "input_psnr_db": 20.0,
            "output_psnr_db": np.array(values, dtype=float),
        },
    )


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=20))
def test_round_trip_is_the_identity(tmp_path_factory, values):
    """Written and read back equal, and what is not finite is null."""
    path = tmp_path_factory.mktemp("t") / "a.parquet"
    table = psnr(values)
    tables.write(path, table, schemas.PSNR)
    again = tables.read(path, schemas.PSNR)
    assert again.equals(table)
    expected = [value if np.isfinite(value) else None for value in values]
    assert again.column("output_psnr_db").to_pylist() == expected


def test_some_columns_are_read(tmp_path):
    """Those asked for in their order, of the rows that the file has; a column that the file lacks is an error."""
    path = tmp_path / "a.parquet"
    tables.write(path, psnr([1.0, 2.0, 3.0]), schemas.PSNR)
    found = tables.read(path, schemas.PSNR, ("output_psnr_db", "image_id"))
    assert found.to_pydict() == {"output_psnr_db": [1.0, 2.0, 3.0], "image_id": ["id0", "id1", "id2"]}
    assert tables.rows(path) == 3
    pa.parquet.write_table(psnr([1.0]).drop_columns(["image_id"]), path)
    with pytest.raises(DataError, match="expected \\['image_id'\\]"):
        tables.read(path, schemas.PSNR, ("image_id",))
    path.write_bytes(b"no table")
    for reading in (tables.rows, lambda path: tables.read(path, schemas.PSNR, ("image_id",))):
        with pytest.raises(DataError, match="not a Parquet file"):
            reading(path)
    path.unlink()
    with pytest.raises(DataError, match="no such table"):
        tables.rows(path)


def test_rows_become_objects_when_asked_for():
    """One row, a slice and all of them, in an order, made into something."""
    table, made = pa.table({"a": [1, 2, 3, 4]}), []
    rows = tables.Rows(table, np.array([3, 0, 2]), lambda row: made.append(row["a"]) or str(row["a"]))
    assert (len(rows), rows[1], rows[-1], rows[:2], made) == (3, "1", "3", ["4", "1"], [1, 3, 4, 1])
    assert list(rows) == ["4", "1", "3"]
    assert list(tables.Rows(table)) == table.to_pylist()
    with pytest.raises(IndexError):
        rows[3]


def test_text_of_numpy_is_a_column():
    """An array of strings, of one length or another, gives the column of its list."""
    words = np.array(["T", "", "left", "é"])
    found = tables.make(
        schemas.PSNR, {name: psnr([1.0] * 4)[name] for name in schemas.PSNR.names} | {"image_id": words}
    )
    assert found["image_id"].to_pylist() == words.tolist()


def test_same_table_same_bytes(tmp_path):
    """Rewriting gives the same file."""
    for name in ("a", "b"):
        tables.write(tmp_path / name, psnr([1.0, 2.0]), schemas.PSNR)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_programs_read_it_with_units(tmp_path):
    """pandas, polars and DuckDB see the same rows; the units are in the Arrow schema."""
    path = tmp_path / "a.parquet"
    tables.write(path, psnr([30.0, float("nan")]), schemas.PSNR)
    assert pd.read_parquet(path)["output_psnr_db"].tolist()[0] == 30.0
    assert pl.read_parquet(path)["output_psnr_db"].to_list() == [30.0, None]
    assert duckdb.sql(f"select count(output_psnr_db), max(n_train) from '{path}'").fetchall() == [(1, 4)]
    schema = pa.parquet.read_schema(path)
    assert schema.field("output_psnr_db").metadata[b"unit"] == b"dB"
    assert schema.metadata[b"memgen.schema"] == b"psnr/1"


@pytest.mark.parametrize(
    "change", [{"sigma": None}, {"extra": 1}, {"image_id": ["a"], "noise_draw": [1, 2]}, {"noise_draw": "x"}]
)
def test_wrong_columns_are_refused(change):
    """A null where none is allowed, an unknown column, columns of unequal length and a wrong type are errors."""
    columns = {"kind": "train", "image_id": "x", "sigma": 0.1, "noise_draw": 0, "input_psnr_db": 1.0}
    with pytest.raises((DataError, pa.ArrowException)):
        tables.make(schemas.PSNR, KEYS | columns | {"output_psnr_db": 1.0} | change)


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "other"])
def test_a_damaged_table_is_named(tmp_path, damage):
    """Whatever is wrong with the file, the message names it and says what to do."""
    path = tmp_path / "broken.parquet"
    tables.write(path, psnr([1.0] * 50), schemas.PSNR)
    whole = path.read_bytes()
    if damage == "other":
        row = {"source": "a", "reason": "b"}
        tables.write(path, tables.make(schemas.SKIPPED, row), schemas.SKIPPED)
    else:
        path.write_bytes({"empty": b"", "text": b"hello", "truncated": whole[: len(whole) // 2]}[damage])
    with pytest.raises(DataError, match=r"broken\.parquet.*Delete it"):
        tables.read(path, schemas.PSNR)


def test_every_field_is_documented():
    """Each column of each schema says what it means."""
    assert {id(each) for each in vars(schemas).values() if isinstance(each, pa.Schema)} == {
        id(each) for each in schemas.SCHEMAS.values()
    }
    for schema in schemas.SCHEMAS.values():
        for field in schema:
            assert field.metadata[b"doc"], (tables.name(schema), field.name)
