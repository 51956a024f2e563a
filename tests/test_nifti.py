"""NIfTI files of known values come in slice by slice with the right scale and window, or are refused by name."""

import gzip
import sys

import nibabel
import numpy as np
import pytest

from memgen.base.errors import DataError
from memgen.images import archives, readers
from memgen.images.importing import ImportSettings, import_images
from memgen.images.readers import nifti

PLAIN = ImportSettings(deduplicate=False)
VALUES = np.random.default_rng(0).integers(-1000, 3000, (7, 5, 4)).astype(np.int16)


def volume(path, values, window=None, scale=None, kind=nibabel.Nifti1Image):
    image = kind(values, np.diag([-1, 2, 3, 1]))
    if window:
        image.header["cal_min"], image.header["cal_max"] = window
    if scale:
        image.header.set_slope_inter(*scale)
    nibabel.save(image, path)
    return path


def reasons(found):
    return {row["source"]: row["reason"] for row in found.skipped.to_pylist()}


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_slices_of_a_volume(tmp_path, name, kind):
    """Slices lie along the last axis, the first axis goes right, and the file is a group; the window clips."""
    found = import_images(volume(tmp_path / name, VALUES, (-200, 800), kind=kind), PLAIN)
    expected = np.clip((VALUES.astype(float) + 200) / 1000, 0, 1).transpose(2, 1, 0)
    assert found.images.pixels.dtype == np.float32
    np.testing.assert_allclose(found.images.pixels[:, 0], expected, atol=1e-6)
    assert found.images.sources == tuple(f"{name}#{i}" for i in (1, 2, 3, 4))
    assert found.images.groups == (name,) * 4
    assert len(import_images(tmp_path / name, ImportSettings(limit=3)).images) == 3


def test_the_scale_of_the_file(tmp_path):
    """Stored whole numbers become measured values by slope and intercept; a range holds for these."""
    image = nibabel.Nifti1Image(VALUES * 0.5 + 3, np.eye(4))
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii.gz")
    found = import_images(tmp_path / "a.nii.gz", ImportSettings(deduplicate=False, range="-600,1600"))
    expected = ((VALUES * 0.5 + 3 + 600) / 2200).transpose(2, 1, 0)
    np.testing.assert_allclose(found.images.pixels[:, 0], expected, atol=1e-4)


def test_the_range_of_the_person(tmp_path):
    """Without a window a range must be given; values beyond it are refused, slice by slice."""
    path = volume(tmp_path / "a.nii", VALUES)
    with pytest.raises(DataError, match=r"NIfTI pixels with values from.*For all of them together: --range -\d+,\d+"):
        import_images(path, PLAIN)
    wild = VALUES.copy()
    wild[0, 0, 2] = 9000
    found = import_images(volume(path, wild), ImportSettings(deduplicate=False, range="-1000,3000"))
    assert found.images.sources == ("a.nii#1", "a.nii#2", "a.nii#4")
    assert "beyond --range -1000,3000" in reasons(found)["a.nii#3"]


def test_several_volumes_and_one_slice(tmp_path):
    """Slices of the first of several volumes come first; a single slice has the name of the file."""
    values = np.random.default_rng(1).random((4, 3, 2, 3)).astype(np.float32)
    found = import_images(volume(tmp_path / "a.nii.gz", values, (0, 1)), PLAIN)
    expected = values.transpose(3, 2, 1, 0).reshape(6, 3, 4)
    np.testing.assert_allclose(found.images.pixels[:, 0], expected, atol=1e-6)
    for shape in ((4, 3), (4, 3, 1), (4, 3, 1, 1, 1)):
        path = volume(tmp_path / "b.nii", values[:, :, 0, 0].reshape(shape), (0, 1))
        found = import_images(path, PLAIN)
        np.testing.assert_allclose(found.images.pixels[0, 0], values[:, :, 0, 0].T, atol=1e-6)
        assert found.images.sources == ("b.nii",)
    five = volume(tmp_path / "c.nii", np.zeros((3, 3, 1, 1, 3), np.float32), (0, 1))
    with pytest.raises(DataError, match=r"has 5 dimensions \(3 x 3 x 1 x 1 x 3\), expected up to 4: save each volume"):
        import_images(five)


def test_a_folder_of_volumes(tmp_path):
    """Each file is a group; different windows are told; what cannot be read is listed, and the rest comes in."""
    (tmp_path / "sub").mkdir()
    volume(tmp_path / "sub" / "b.nii", VALUES, (0, 1000))
    volume(tmp_path / "a.nii.gz", VALUES[..., :2], (0, 500))
    colors = np.zeros((7, 5, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    volume(tmp_path / "c.nii", colors)
    volume(tmp_path / "d.nii", VALUES.astype(np.complex64), (0, 1))
    (tmp_path / "e.nii").write_bytes(b"no")
    whole = (tmp_path / "sub" / "b.nii").read_bytes()
    (tmp_path / "f.nii").write_bytes(whole[:360])
    (tmp_path / "g.nii.gz").write_bytes(gzip.compress(whole)[:100])
    found = import_images(tmp_path, PLAIN)
    assert found.images.groups == ("a.nii.gz",) * 2 + ("sub/b.nii",) * 4
    (warning,) = found.warnings
    assert "2 different windows, such as 0,500 (a.nii.gz#1) and 0,1000 (sub/b.nii#1)" in warning
    given = reasons(found)
    assert given["c.nii"] == "colors are not read; save the volume in gray, or its slices as pictures"
    assert "values of type complex64" in given["d.nii#1"]
    assert given["e.nii"] == "not a NIfTI file"
    assert given["f.nii"].startswith("damaged (")
    assert given["g.nii.gz"].startswith("damaged (")
    (tmp_path / "notes.json").touch()
    assert not nifti.reads(tmp_path)


def test_bombs(tmp_path, monkeypatch):
    """A header that claims too much, and a file that unpacks to too much, are refused before memory is taken."""
    monkeypatch.setattr(archives, "LARGEST", 2**20)
    volume(tmp_path / "packed.nii.gz", np.zeros((128, 128, 100), np.uint8), (0, 1))
    wide = bytearray(volume(tmp_path / "wide.nii", VALUES, (0, 1)).read_bytes())
    wide[42:46] = np.array([30_000, 30_000], "<i2").tobytes()
    (tmp_path / "wide.nii").write_bytes(wide)
    notes = bytearray(volume(tmp_path / "x.nii", VALUES, (0, 1)).read_bytes())
    (tmp_path / "x.nii").unlink()
    notes[108:112], notes[348:352] = np.float32(2**30).tobytes(), b"\1\0\0\0"
    notes[352:360] = np.array([2**30 - 352, 0], "<i4").tobytes()
    (tmp_path / "notes.nii.gz").write_bytes(gzip.compress(bytes(notes)))
    with pytest.raises(DataError, match="no usable image") as caught:
        import_images(tmp_path, PLAIN)
    for words in (
        "unpack to 1,638,400",
        "too large (30,000 x 30,000 pixels, 4 slices",
        "its header states too many bytes",
    ):
        assert words in str(caught.value)


def test_without_the_extra(tmp_path, monkeypatch):
    """Where nibabel is not installed, the error says how to install it."""
    path = volume(tmp_path / "a.nii", VALUES)
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(
        DataError, match=r"a\.nii: reading it needs nibabel.*pip install -c constraints.txt '.\[medical\]'"
    ):
        import_images(path)


def test_it_is_among_the_readers():
    """The reader is found without being named anywhere, and follows the interface."""
    assert nifti in readers.all_readers()
    assert isinstance(nifti, readers.Reader)
