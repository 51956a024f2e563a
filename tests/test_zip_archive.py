"""Pictures in a ZIP archive are read as those of a folder are; what is no picture is listed with its reason."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from memgen.base.errors import DataError
from memgen.images import archives, readers
from memgen.images.importing import ImportSettings, import_images
from memgen.images.readers import zip_archive

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
AS_THEY_ARE = ImportSettings(deduplicate=False)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def archive(path, members: dict[str, bytes]):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def test_pictures_come_in_by_name(tmp_path):
    """Pixels, order and sources are those of the members, whatever their order in the archive and their folders."""
    members = {f"deep/{i}.png": png(PIXELS[i]) for i in (2, 0, 1)}
    found = import_images(archive(tmp_path / "x.zip", members), AS_THEY_ARE)
    np.testing.assert_array_equal(found.images.pixels[:, 0], PIXELS)
    assert found.images.sources == ("deep/0.png", "deep/1.png", "deep/2.png")
    assert found.skipped.num_rows == 0


def test_what_is_no_picture_is_listed(tmp_path, monkeypatch):
    """Damaged pictures, other files, hidden files and bombs are skipped, each with its reason."""
    monkeypatch.setattr(archives, "LARGEST", 5000)
    members = {"a.png": png(PIXELS[0]), "b.png": b"no", "c.txt": b"x", "__MACOSX/d.png": b"x", ".hidden/e.png": b"x"}
    members |= {"f": b"x", "g.png": b"0" * 5001, "h/": b""}
    found = import_images(archive(tmp_path / "x.zip", members), AS_THEY_ARE)
    assert found.images.sources == ("a.png",)
    reasons = {row["source"]: row["reason"] for row in found.skipped.to_pylist()}
    assert reasons.keys() == set(members) - {"a.png", "h/"}
    assert "not an image that can be read" in reasons["b.png"]
    assert reasons["g.png"] == "too large (5,001 bytes unpacked, expected at most 5,000)"
    assert reasons["__MACOSX/d.png"] == reasons[".hidden/e.png"] == "not an image (hidden, or one of the system)"


@pytest.mark.parametrize("data", [b"PK\x03\x04 no archive", b"text"])
def test_a_damaged_archive_is_named(tmp_path, data):
    """An archive that cannot be opened, and an empty one, are errors that name the file."""
    path = tmp_path / "x.zip"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"x\.zip: damaged, or not a ZIP archive"):
        import_images(path)
    with pytest.raises(DataError, match=r"empty\.zip: the archive is empty"):
        import_images(archive(tmp_path / "empty.zip", {}))


def test_it_is_among_the_readers():
    """The reader is found without being named anywhere, and follows the interface."""
    assert zip_archive in readers.all_readers()
    assert isinstance(zip_archive, readers.Reader)


def test_a_member_without_a_name(tmp_path):
    """A damaged list of members, in which a name is empty, is no reason to fail: that member is listed."""
    archive(tmp_path / "a.zip", {"a.png": png(np.eye(9, dtype=np.uint8) * 255), "x": b"words"})
    data = bytearray((tmp_path / "a.zip").read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    assert data[entry + 28] == 1  # length of the name of the last member
    data[entry + 28 : entry + 30], data[entry + 46 : entry + 47] = b"\0\0", b""
    end = data.rindex(b"PK\x05\x06")
    data[end + 12 : end + 16] = (int.from_bytes(data[end + 12 : end + 16], "little") - 1).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)
    found = import_images(tmp_path / "a.zip")
    assert found.images.sources == ("a.png",)
    assert found.skipped.to_pylist() == [{"source": "", "reason": "not an image (no suffix)"}]


def test_an_archive_of_a_later_version(tmp_path):
    """An archive that asks for a later version of ZIP than there is, is refused by name."""
    data = bytearray(archive(tmp_path / "a.zip", {"a.png": png(PIXELS[0])}).read_bytes())
    data[data.rindex(b"PK\x01\x02") + 6] = 249
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.zip: damaged, or not a ZIP archive \(zip file version 24\.9"):
        import_images(tmp_path / "a.zip")


def test_links_paths_that_lead_out_and_repeated_names(tmp_path):
    """A link, a path that leads out of the archive and a second file of a name are listed; the first file is read."""
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        for name, index in (("a.png", 0), ("../b.png", 1), ("/c.png", 1)):
            file.writestr(name, png(PIXELS[index]))
        file.writestr(link, "a.png")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("a.png", png(PIXELS[2]))
    found = import_images(tmp_path / "x.zip", AS_THEY_ARE)
    np.testing.assert_array_equal(found.images.pixels[:, 0], PIXELS[:1])
    reasons = {row["source"]: row["reason"] for row in found.skipped.to_pylist()}
    assert reasons.pop("../b.png") == reasons.pop("/c.png") == "its path leads out of the archive"
    assert reasons == {"a.png": archives.REPEATED, "link.png": "a link, not followed"}
