"""Pictures in tar files are read in the order of the files; what is no picture is listed with its reason."""

import gzip
import io
import os
import tarfile
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from memgen.base.errors import DataError
from memgen.images import archives, readers
from memgen.images.importing import ImportSettings, by_reason, import_images
from memgen.images.readers import tar_shards

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
AS_THEY_ARE = ImportSettings(deduplicate=False)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def shard(path, members, mode="w"):
    """A tar file of members, each (name, bytes) or a TarInfo without bytes."""
    with tarfile.open(path, mode) as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                file.addfile(info, io.BytesIO(member[1]))
    return path


def special(name, kind, target=""):
    """A member that is no regular file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def reasons(found):
    return {row["source"]: row["reason"] for row in found.skipped.to_pylist()}


@pytest.mark.parametrize(("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz"), ("x.TGZ", "w:gz"), ("x.tar", "w:gz")])
def test_pictures_come_in_the_order_of_the_file(tmp_path, name, mode):
    """Pixels, order and sources are those of the members, whatever their names; labels beside them are listed."""
    members = [("./b/2.png", png(PIXELS[0])), ("a/1.png", png(PIXELS[1])), ("a/1.cls", b"7"), ("0.png", png(PIXELS[2]))]
    found = import_images(shard(tmp_path / name, members, mode), AS_THEY_ARE)
    np.testing.assert_array_equal(found.images.pixels[:, 0], PIXELS[:3])
    assert found.images.sources == ("b/2.png", "a/1.png", "0.png")
    assert reasons(found) == {"a/1.cls": "not an image (suffix .cls)"}


def test_a_folder_of_shards(tmp_path):
    """Shards come by their names, and a name says which shard an image is in, so equal keys stay apart."""
    for index in (2, 0, 1):
        members = [(f"{key}.png", png(PIXELS[2 * index + key])) for key in (0, 1)]
        shard(tmp_path / f"s-{index}.tar", members)
    (tmp_path / ".index").write_text("hidden")
    found = import_images(tmp_path, AS_THEY_ARE)
    np.testing.assert_array_equal(found.images.pixels[:, 0], PIXELS)
    assert found.images.sources[:3] == ("s-0.tar/0.png", "s-0.tar/1.png", "s-1.tar/0.png")
    assert reasons(found) == {".index": "not an image (hidden, or one of the system)"}
    limited = import_images(tmp_path, ImportSettings(deduplicate=False, limit=3))
    assert limited.images.ids == found.images.ids[:3]


def test_shards_lie_in_subfolders_beside_notes(tmp_path):
    """Shards of one name in two folders stay apart. Notes beside them are listed; other images beside them are not lost."""
    for folder in ("b", "a"):
        (tmp_path / folder).mkdir()
        shard(tmp_path / folder / "s.tar", [("0.png", png(PIXELS["ab".index(folder)]))])
    (tmp_path / "a" / "README.md").write_text("notes")
    (tmp_path / "_SUCCESS").touch()
    found = import_images(tmp_path, AS_THEY_ARE)
    np.testing.assert_array_equal(found.images.pixels[:, 0], PIXELS[:2])
    assert found.images.sources == ("a/s.tar/0.png", "b/s.tar/0.png")
    assert reasons(found) == {"_SUCCESS": "not a tar file", "a/README.md": "not a tar file"}
    assert not tar_shards.reads(tmp_path / "a" / "README.md")
    for other in ("x.png", "x.npy", "x.parquet", "x"):
        (tmp_path / "b" / other).touch()
        assert not tar_shards.reads(tmp_path)
        (tmp_path / "b" / other).unlink()
    assert tar_shards.reads(tmp_path)


def test_a_shard_that_is_cut_off_is_a_warning(tmp_path):
    """The images in its rest are missing, which the row among thousands of captions would not say."""
    for name in ("s-0.tar", "s-1.tar"):
        members = [(f"{key}.{kind}", png(PIXELS[key])) for key in range(6) for kind in ("png", "cls")]
        shard(tmp_path / name, members)
    whole = import_images(tmp_path, AS_THEY_ARE)
    assert whole.warnings == []
    os.truncate(tmp_path / "s-1.tar", 5000)
    found = import_images(tmp_path, AS_THEY_ARE)
    assert len(found.images) < len(whole.images)
    (told,) = found.warnings
    assert told.startswith(
        "1 of 2 files could not be read, or not to the end, and their images are missing (s-1.tar: damaged"
    )
    counted = by_reason(found.skipped)
    assert [row["files"] for row in counted] == [1, found.skipped.num_rows - 1]
    assert (counted[0]["first"], counted[1]["first"]) == ("s-1.tar", "s-0.tar/0.cls")


def test_frames_of_a_member(tmp_path):
    """Each frame of a member is an image of its own."""
    buffer = io.BytesIO()
    frames = [Image.fromarray(pixels) for pixels in PIXELS[:2]]
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:])
    found = import_images(shard(tmp_path / "x.tar", [("a.tif", buffer.getvalue())]), AS_THEY_ARE)
    assert found.images.sources == ("a.tif#1", "a.tif#2")


def test_nothing_but_files_inside_is_read(tmp_path, monkeypatch):
    """Links, devices, paths that lead out, hidden files, repeated names and bombs are listed, each with its reason."""
    monkeypatch.setattr(archives, "LARGEST", 5000)
    picture = png(PIXELS[0])
    (tmp_path / "outside.png").write_bytes(png(PIXELS[1]))
    members = [
        ("a.png", picture), ("../outside.png", picture), ("/abs.png", picture), ("a/../../b.png", picture),
        ("a.png", png(PIXELS[1])), (".hidden/c.png", picture), ("large.png", b"0" * 5001), ("no.png", b"no"),
        special("link.png", tarfile.SYMTYPE, str(tmp_path / "outside.png")), special("hard.png", tarfile.LNKTYPE, "a.png"),
        special("pipe.png", tarfile.FIFOTYPE), special("device.png", tarfile.CHRTYPE), special("folder", tarfile.DIRTYPE),
        ("z.png", png(PIXELS[2])),
    ]  # fmt: skip
    found = import_images(shard(tmp_path / "x.tar", members), AS_THEY_ARE)
    np.testing.assert_array_equal(found.images.pixels[:, 0], PIXELS[[0, 2]])
    given = reasons(found)
    assert {given.pop(name) for name in ("../outside.png", "/abs.png", "a/../../b.png")} == {
        "its path leads out of the archive"
    }
    assert given.pop("link.png") == given.pop("hard.png") == archives.LINK
    assert given.pop("pipe.png") == given.pop("device.png") == "not a regular file"
    assert given.pop("a.png") == archives.REPEATED
    assert "not an image that can be read" in given.pop("no.png")
    assert given == {
        ".hidden/c.png": "not an image (hidden, or one of the system)",
        "large.png": "too large (5,001 bytes unpacked, expected at most 5,000)",
    }


def test_a_bomb_is_cut_off(tmp_path, monkeypatch):
    """A compressed file that unpacks to far more than its size is read up to the limit, in little memory."""
    monkeypatch.setattr(archives, "LARGEST", 2**20)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz", compresslevel=9) as file:
        for name, data in (("a.png", png(PIXELS[0])), ("zeros.bin", bytes(2**24)), ("b.png", png(PIXELS[1]))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    tracemalloc.start()
    found = import_images(tmp_path / "x.tar.gz", AS_THEY_ARE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.images.sources == ("a.png",)
    assert "unpack to more than" in reasons(found)["x.tar.gz"]
    assert peak < 2**22


def test_notes_of_many_bytes_are_not_read(tmp_path):
    """A member whose name claims to take megabytes ends the reading; tarfile would take them into the memory."""
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 2**23
    data = shard(tmp_path / "a.tar", [("a.png", png(PIXELS[0]))]).read_bytes().rstrip(b"\0")
    data = data.ljust(-(-len(data) // 512) * 512, b"\0") + long_name.tobuf(tarfile.GNU_FORMAT) + b"a" * 2**23
    with gzip.open(tmp_path / "b.tar.gz", "wb") as file:
        file.write(data)
    found = import_images(tmp_path / "b.tar.gz", AS_THEY_ARE)
    assert found.images.sources == ("a.png",)
    assert reasons(found)["b.tar.gz"] == "the notes on a member take 8,388,608 bytes, expected at most 1,048,576"


@pytest.mark.parametrize("data", [b"text", b"\x1f\x8b no gzip", b"\x1f\x8b", bytes(10240), b"\xfd7zXZ"])
def test_a_file_that_is_no_tar_is_named(tmp_path, data):
    """A file that is no tar file, and an empty one, are errors that name it; among others they are listed."""
    (tmp_path / "one").mkdir()
    for path in (tmp_path / "x.tar", tmp_path / "one" / "x.tar"):
        path.write_bytes(data)
    with pytest.raises(DataError, match=r"x\.tar: (no usable image|damaged)"):
        import_images(tmp_path / "x.tar")
    shard(tmp_path / "one" / "y.tar", [("a.png", png(PIXELS[0]))])
    found = import_images(tmp_path / "one", AS_THEY_ARE)
    assert found.images.sources == ("y.tar/a.png",)
    assert set(reasons(found)) == {"x.tar"}


def test_a_damaged_head_in_the_middle_is_told(tmp_path):
    """What follows a damaged head is not read, and the table says so; tarfile by itself would end in silence."""
    path = shard(tmp_path / "x.tar", [(f"{i}.png", png(PIXELS[i])) for i in range(3)])
    data = bytearray(path.read_bytes())
    data[data.index(b"1.png")] = ord("7")
    path.write_bytes(data)
    found = import_images(path, AS_THEY_ARE)
    assert found.images.sources == ("0.png",)
    assert reasons(found) == {"x.tar": "damaged (bad checksum)"}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_tar_files(tmp_path_factory, data):
    """A tar file that is cut short or has some bytes changed is imported or refused by name."""
    path = tmp_path_factory.getbasetemp() / "damaged.tar.gz"
    shard(path, [(f"{i}.png", png(PIXELS[i])) for i in range(3)], data.draw(st.sampled_from(["w", "w:gz"])))
    changed = bytearray(path.read_bytes())
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(changed) - 1), st.integers(0, 255)), max_size=4)):
        changed[at] = value
    path.write_bytes(changed[: data.draw(st.integers(1, len(changed)))])
    try:
        found = import_images(path, AS_THEY_ARE)
    except DataError as error:
        message = str(error)
    else:
        message = f"{path}: {len(found.images)} images"
    assert message.startswith(f"{path}: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_shard_without_permission_is_listed(tmp_path):
    """A shard that may not be read is listed, and the others are read."""
    shard(tmp_path / "a.tar", [("a.png", png(PIXELS[0]))])
    shard(tmp_path / "b.tar", [("b.png", png(PIXELS[1]))]).chmod(0)
    found = import_images(tmp_path, AS_THEY_ARE)
    assert found.images.sources == ("a.tar/a.png",)
    assert reasons(found) == {"b.tar": "cannot be read (Permission denied)"}


def test_it_is_among_the_readers():
    """The reader is found without being named anywhere, and follows the interface."""
    assert tar_shards in readers.all_readers()
    assert isinstance(tar_shards, readers.Reader)
