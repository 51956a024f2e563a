"""Encoded pictures in a column of Parquet files are read row by row; what is no picture is listed with its row."""

import io
import json
import os
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from memgen.base.errors import DataError
from memgen.images import archives, readers
from memgen.images.importing import ImportSettings, import_images
from memgen.images.readers import parquet

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
AS_THEY_ARE = ImportSettings(deduplicate=False)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def structs(indices):
    """Images as Hugging Face keeps them."""
    return [{"bytes": png(PIXELS[i]), "path": f"{i}.png"} for i in indices]


def written(path, columns, images=(), **options):
    """A file of these columns; `images` are those that its notes call images."""
    table = pa.table(columns)
    if images:
        notes = {"info": {"features": {name: {"_type": "Image"} for name in images} | {"label": {"dtype": "int64"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(notes)})
    pq.write_table(table, path, **options)
    return path


def reasons(found):
    return {row["source"]: row["reason"] for row in found.skipped.to_pylist()}


@pytest.mark.parametrize("images", [(), ("image",)])
def test_a_column_of_structs(tmp_path, images):
    """Pixels and sources are those of the rows in their order, over all groups of rows, whatever other columns hold."""
    columns = {"label": [1, 2, 3, 4, 5], "image": structs([3, 1, 0, 2, 4]), "hash": [b"x"] * 5}
    found = import_images(written(tmp_path / "x.parquet", columns, images, row_group_size=2), AS_THEY_ARE)
    np.testing.assert_array_equal(found.images.pixels[:, 0], PIXELS[[3, 1, 0, 2, 4]])
    assert found.images.sources == tuple(f"x.parquet[{i}]" for i in range(5))
    assert found.skipped.num_rows == 0


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_a_column_of_bytes(tmp_path, kind):
    """A plain column of encoded pictures is read too, and each frame of a row is an image."""
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[1]).save(buffer, "TIFF", save_all=True, append_images=[Image.fromarray(PIXELS[2])])
    column = pa.array([png(PIXELS[0]), buffer.getvalue(), b"no picture", None], kind)
    found = import_images(written(tmp_path / "x.PARQUET", {"jpg": column}), AS_THEY_ARE)
    np.testing.assert_array_equal(found.images.pixels[:, 0], PIXELS[:3])
    assert found.images.sources == ("x.PARQUET[0]", "x.PARQUET[1]#1", "x.PARQUET[1]#2")
    assert reasons(found) == {
        "x.PARQUET[2]": "not an image that can be read",
        "x.PARQUET[3]": "holds nothing (null)",
    }


def test_several_columns_of_images(tmp_path):
    """Of several columns the person names one; the error lists them. Notes of Hugging Face decide where they can."""
    columns = {"image": structs([0, 1]), "mask": structs([2, 3]), "raw": [png(PIXELS[4])] * 2}
    path = written(tmp_path / "x.parquet", columns)
    with pytest.raises(DataError, match=r"several columns of images \(image, mask\).*such as x\.parquet:image"):
        import_images(path)
    for name, expected in (("image", [0, 1]), ("mask", [2, 3]), ("raw", [4, 4])):
        found = import_images(tmp_path / f"x.parquet:{name}", AS_THEY_ARE)
        np.testing.assert_array_equal(found.images.pixels[:, 0], PIXELS[expected])
    with pytest.raises(DataError, match=r"x\.parquet: found columns image \(struct.*expected images in gone"):
        import_images(tmp_path / "x.parquet:gone")
    found = import_images(written(tmp_path / "y.parquet", columns, ["mask"]), AS_THEY_ARE)
    np.testing.assert_array_equal(found.images.pixels[:, 0], PIXELS[[2, 3]])


def test_a_folder_of_files(tmp_path):
    """Files come by their names, and a column is named behind the folder; a file without images is listed."""
    folder = tmp_path / "data"
    folder.mkdir()
    for index in (1, 0):
        columns = {"image": structs([2 * index, 2 * index + 1]), "mask": structs([4, 5])}
        written(folder / f"train-{index}.parquet", columns)
    written(folder / "labels.parquet", {"label": [1]})
    (folder / "broken.parquet").write_bytes(b"PAR1 no")
    (folder / ".lock").touch()
    with pytest.raises(DataError, match=r"data: found several columns of images \(image, mask\).*such as data:image"):
        import_images(folder)
    (folder / "labels.parquet").unlink()
    found = import_images(tmp_path / "data:image", AS_THEY_ARE)
    np.testing.assert_array_equal(found.images.pixels[:, 0], PIXELS[:4])
    assert found.images.sources == tuple(f"train-{i}.parquet[{j}]" for i in (0, 1) for j in (0, 1))
    assert set(reasons(found)) == {".lock", "broken.parquet"}
    limited = import_images(tmp_path / "data:image", ImportSettings(deduplicate=False, limit=3))
    assert limited.images.ids == found.images.ids[:3]
    (told,) = found.warnings
    assert told.startswith("1 of 3 files could not be read")
    assert "broken.parquet: damaged" in told
    (folder / "README.md").touch()
    (folder / "test").mkdir()
    written(folder / "test" / "train-0.parquet", {"image": structs([5])})
    found = import_images(tmp_path / "data:image", AS_THEY_ARE)
    assert found.images.sources[-1] == "train-1.parquet[1]"
    assert found.images.sources[0] == "test/train-0.parquet[0]"
    assert reasons(found)["README.md"] == "not a Parquet file"
    (folder / "x.png").touch()
    assert not parquet.reads(folder)


def test_files_without_images_are_named(tmp_path):
    """A file without a column of images says which columns it has; among others it is listed."""
    written(tmp_path / "a.parquet", {"label": [1], "pixels": [[1, 2]]})
    with pytest.raises(DataError, match=r"a\.parquet: no usable image .*label \(int64\), pixels \(list.*struct<bytes"):
        import_images(tmp_path / "a.parquet")
    written(tmp_path / "b.parquet", {"image": structs([0])})
    found = import_images(tmp_path, AS_THEY_ARE)
    assert found.images.sources == ("b.parquet[0]",)
    assert set(reasons(found)) == {"a.parquet"}
    (tmp_path / "a.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match=r"a\.parquet: no usable image .*damaged, or not a Parquet file"):
        import_images(tmp_path / "a.parquet")


def test_no_path_in_the_data_is_opened(tmp_path):
    """A row with a path instead of bytes is listed, though a picture lies there."""
    outside = tmp_path / "outside\x1b.png"
    outside.write_bytes(png(PIXELS[1]))
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [*structs([0]), {"bytes": None, "path": str(outside)}, None, {"bytes": b"", "path": None}]
    path = written(tmp_path / "x.parquet", {"image": pa.array(rows, kind)})
    found = import_images(path, AS_THEY_ARE)
    assert found.images.sources == ("x.parquet[0]",)
    given = reasons(found)
    assert "holds the path of a file and no bytes" in given["x.parquet[1]"]
    assert "outside\\u001b.png" in given["x.parquet[1]"]
    assert given["x.parquet[2]"] == "holds nothing (null)"
    assert given["x.parquet[3]"] == "empty file"


def test_rows_come_one_at_a_time(tmp_path, monkeypatch):
    """Memory holds a row and not the file; a row that is no picture by its size is listed."""
    monkeypatch.setattr(archives, "LARGEST", 2**21)
    data = np.random.default_rng(0).bytes(2**20)
    rows = [data, data[1:], png(PIXELS[0]), data[2:], data[3:], data * 3]
    path = written(tmp_path / "x.parquet", {"image": rows * 2}, compression="zstd", use_dictionary=False)
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    tracemalloc.start()
    found = import_images(path, AS_THEY_ARE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.images) == 2
    assert reasons(found)["x.parquet[5]"] == "too large (3,145,728 bytes, expected at most 2,097,152)"
    assert peak < 2**22 < 12 * 2**20
    assert pool.bytes_allocated() <= before + 2**20


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_files(tmp_path_factory, data):
    """A Parquet file that is cut short or has some bytes changed is imported or refused by name."""
    path = tmp_path_factory.getbasetemp() / "damaged.parquet"
    written(path, {"image": structs([0, 1, 2])}, ["image"], row_group_size=1)
    changed = bytearray(path.read_bytes())
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(changed) - 1), st.integers(0, 255)), max_size=4)):
        changed[at] = value
    path.write_bytes(changed[: data.draw(st.sampled_from([len(changed), len(changed) // 2, 1]))])
    try:
        found = import_images(path, AS_THEY_ARE)
    except DataError as error:
        message = str(error)
    else:
        message = f"{path}: {len(found.images)} images"
    assert message.startswith(f"{path}: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_listed(tmp_path):
    """A file that may not be read is listed, and the others are read."""
    written(tmp_path / "a.parquet", {"image": structs([0])})
    written(tmp_path / "b.parquet", {"image": structs([1])}).chmod(0)
    found = import_images(tmp_path, AS_THEY_ARE)
    assert reasons(found) == {"b.parquet": "cannot be read (Permission denied)"}


def test_it_is_among_the_readers():
    """The reader is found without being named anywhere, and follows the interface."""
    assert parquet in readers.all_readers()
    assert isinstance(parquet, readers.Reader)
