"""Files that were made to do harm: each is refused by name, the rest comes in, nothing is run, and memory is bounded."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
import zlib

import numpy as np
import picture_files
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import test_dicom
import test_nifti
import torch
from PIL import Image

from memgen.base.errors import DataError
from memgen.images import names
from memgen.images.importing import ImportSettings, import_images

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)
PLAIN = ImportSettings(deduplicate=False)
GOOD = picture_files.saved(Image.fromarray(PIXELS[0]), "png")
MOST = 2**27  # bytes that may be taken while a file is refused


def reasons(found):
    return {row["source"]: row["reason"] for row in found.skipped.to_pylist()}


@pytest.fixture
def bounded():
    """The memory that Python takes never exceeds 128 MiB, or the test fails."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST


class Zeros(io.RawIOBase):
    """A file of zeros without end."""

    def read(self, size=-1):
        return bytes(size)


class Loaded:
    """An object whose unpickling makes a file."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.mkdir, (self.canary,)


def huge_png(side, real):
    """A PNG that states a side of many pixels, and has them or not."""
    header = picture_files.chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + -(-side // 8))) for _ in range(side if real else 1)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + header + picture_files.chunk(b"IDAT", rows) + picture_files.chunk(b"IEND", b"")


def huge_tiff(side):
    """A TIFF of 16 bits that states a side of many pixels."""
    return picture_files.tiff([(picture_files.tags(side, side, 16, 1, t256=(4, [side]), t257=(4, [side])), bytes(100))])


# ----------------------------------------------------------------------------------------------------------- pictures


def test_pictures_that_would_fill_the_memory(tmp_path, bounded):
    """Pictures that state far too many pixels, whether they have them or not, are refused before they are decoded."""
    (tmp_path / "good.png").write_bytes(GOOD)
    (tmp_path / "claims.png").write_bytes(huge_png(30_000, real=False))
    (tmp_path / "bomb.png").write_bytes(huge_png(20_000, real=True))
    (tmp_path / "deep.tif").write_bytes(huge_tiff(30_000))
    found = import_images(tmp_path, PLAIN)
    assert found.images.sources == ("good.png",)
    given = reasons(found)
    assert set(given) == {"claims.png", "bomb.png", "deep.tif"}
    assert given["claims.png"].startswith("too large (")
    assert given["bomb.png"].startswith("too large (")


# ----------------------------------------------------------------------------------------------------------- archives


def member(name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, io.BytesIO(data)


def test_archives_that_would_fill_the_memory(tmp_path, bounded):
    """A member of 300 MB of zeros is refused in a ZIP archive, also if its size is a lie, and in a packed tar file."""
    size = 300_000_000
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("good.png", GOOD)
        with archive.open("bomb.png", "w") as file:
            for _ in range(300):
                file.write(bytes(size // 300))
    found = import_images(tmp_path / "a.zip", PLAIN)
    assert found.images.sources == ("good.png",)
    assert reasons(found)["bomb.png"].startswith("too large (300,000,000 bytes unpacked")
    data = (tmp_path / "a.zip").read_bytes().replace(struct.pack("<I", size), struct.pack("<I", 1000))
    (tmp_path / "lie.zip").write_bytes(data)
    found = import_images(tmp_path / "lie.zip", PLAIN)
    assert found.images.sources == ("good.png",)
    assert set(reasons(found)) == {"bomb.png"}
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.addfile(*member("good.png", GOOD))
        info = tarfile.TarInfo("bomb.png")
        info.size = size
        archive.addfile(info, Zeros())
        archive.addfile(*member("late.png", GOOD))
    found = import_images(tmp_path / "b.tar.gz", PLAIN)
    assert found.images.sources == ("good.png",)
    assert reasons(found)["bomb.png"].startswith("too large (300,000,000 bytes unpacked")
    assert "unpack to more than 268,435,456" in reasons(found)["b.tar.gz"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_paths_that_lead_out(tmp_path, kind):
    """Nothing is written or read outside of an archive, whatever its members are called."""
    source, outside = tmp_path / "in" / f"a.{kind}", tmp_path / "outside.png"
    source.parent.mkdir()
    evil = ["../outside.png", str(outside), "x/../../outside.png"]
    if kind == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            for name in [*evil, "good.png"]:
                archive.writestr(name, GOOD)
    else:
        with tarfile.open(source, "w") as archive:
            for name in [*evil, "good.png"]:
                archive.addfile(*member(name, GOOD))
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    found = import_images(source, PLAIN)
    assert sorted(tmp_path.rglob("*")) == before
    assert found.images.sources == ("good.png",)
    assert set(reasons(found)) == {*evil, *(["link.png"] if kind == "tar" else [])}


# ------------------------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "plain.npy", "plain.npz", "plain.pt", "plain.parquet"])
def test_pickles_are_never_opened(tmp_path, name):
    """Objects that run code when they are unpickled are refused, whatever the name of their file."""
    canary, path = tmp_path / "canary", tmp_path / name
    objects = np.array([Loaded(canary)], dtype=object)
    if name == "a.npy":
        np.save(path, objects, allow_pickle=True)
    elif name == "a.npz":
        np.savez(path, objects=objects)
    elif name == "a.pt":
        torch.save({"images": torch.zeros(2, 5, 5), "more": Loaded(canary)}, path)
    else:
        path.write_bytes(pickle.dumps(Loaded(canary)))
    with pytest.raises(DataError, match=rf"{name}: "):
        import_images(path, PLAIN)
    assert not canary.exists()


def test_arrays_that_would_fill_the_memory(tmp_path, bounded):
    """Arrays that are packed, or repeat a number, into far more than their file holds are refused, with their sizes."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (3000, 320, 320)})
        with archive.open("images.npy", "w") as file:
            file.write(head.getvalue())
            for _ in range(3000):
                file.write(bytes(320 * 320))
    np.save(tmp_path / "b.npy", PIXELS)
    claims = (tmp_path / "b.npy").read_bytes().replace(b"(6, 8, 8), }   ", b"(900000,9,9), }")
    (tmp_path / "b.npy").write_bytes(claims)
    torch.save(torch.zeros(1).expand(10**6, 1000, 1000), tmp_path / "c.pt")
    for name, words in (
        ("a.npz", "that become 307,200,128, as those of an attack on the memory do"),
        ("b.npy", "damaged"),
        ("c.pt", "that become 4,000,000,000,000"),
    ):
        with pytest.raises(DataError, match=rf"{name.replace('.', '[.]')}: .*{words}"):
            import_images(tmp_path / name, PLAIN)


def test_a_packed_idx_file_that_would_fill_the_memory(tmp_path, monkeypatch):
    """A gzip file is unpacked up to the limit and no further."""
    monkeypatch.setattr("memgen.images.archives.LARGEST", 2**20)
    data = b"\0\0\x08\x03" + struct.pack(">III", 400, 100, 100) + bytes(4_000_000)
    (tmp_path / "d.gz").write_bytes(gzip.compress(data))
    with pytest.raises(DataError, match=r"d\.gz: [\d,]+ bytes that become 1,048,577, as those of an attack"):
        import_images(tmp_path / "d.gz", PLAIN)


# ------------------------------------------------------------------------------------------------------------ folders


def test_links_that_go_round(tmp_path):
    """Links to folders above, to themselves and to nothing, pipes and devices are listed, and reading ends."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "good.png").write_bytes(GOOD)
    (tmp_path / "deep" / "up").symlink_to(tmp_path)
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "one.png").symlink_to(tmp_path / "two.png")
    (tmp_path / "two.png").symlink_to(tmp_path / "one.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.png")
    found = import_images(tmp_path, PLAIN)
    assert found.images.sources == ("deep/good.png",)
    given = reasons(found)
    assert given.pop("deep/up") == "a link to a folder, not followed"
    assert given == dict.fromkeys(
        ("self.png", "one.png", "two.png", "gone.png", "zero.png", "pipe.png"), "not an image (not a regular file)"
    )


ODD = [
    "größe.png",
    "図.png",
    "line\nbreak.png",
    "\x1b[31mred.png",
    "a[3].png",
    "tab\t.png",
    "‮gnp.exe.png",
    "back\\n.png",
]


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_odd_names(tmp_path, kind):
    """Names of any characters come in, one image each, are shown without what a terminal obeys, and are read back."""
    source = tmp_path / ("folder" if kind == "folder" else f"a.{kind}")
    if kind == "folder":
        source.mkdir()
        for name in [*ODD, "bad\n.png"]:
            (source / name).write_bytes(GOOD if name in ODD else b"no")
    elif kind == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            for name in [*ODD, "bad\n.png"]:
                archive.writestr(name, GOOD if name in ODD else b"no")
    else:
        with tarfile.open(source, "w") as archive:
            for name in [*ODD, "bad\n.png"]:
                archive.addfile(*member(name, GOOD if name in ODD else b"no"))
    found = import_images(source, PLAIN)
    assert sorted(names.original(shown) for shown in found.images.sources) == sorted(ODD)
    assert reasons(found) == {"bad\\n.png": "not an image that can be read"}
    assert all(shown.isprintable() for shown in found.images.sources)


# ------------------------------------------------------------------------------------ a folder that changes meanwhile


def changing(path, grows, vanishes):
    """What is called with progress: when reading begins, one file grows and one vanishes."""
    left = [True]

    def report(done, total):
        if left.pop() if left else False:
            with open(path / grows, "ab") as file:
                file.write(bytes(1000))
            (path / vanishes).unlink()

    return report


def make_folder(kind, path):
    """Three sources of two images each in a folder of a kind; their names."""
    files = []
    for index in range(3):
        two = [PIXELS[2 * index], PIXELS[2 * index + 1]]
        pictures = [picture_files.saved(Image.fromarray(each), "png") for each in two]
        if kind == "pictures":
            files.append(f"{index}.tif")
            Image.fromarray(two[0]).save(path / files[-1], save_all=True, append_images=[Image.fromarray(two[1])])
        elif kind == "tar":
            files.append(f"{index}.tar")
            with tarfile.open(path / files[-1], "w") as archive:
                for number, data in enumerate(pictures):
                    archive.addfile(*member(f"{number}.png", data))
        elif kind == "parquet":
            files.append(f"{index}.parquet")
            pq.write_table(pa.table({"image": pictures}), path / files[-1])
        elif kind == "dicom":
            files.append(f"{index}.dcm")
            window = {"WindowCenter": 128, "WindowWidth": 256, "InstanceNumber": index}
            test_dicom.scan(path / files[-1], np.stack(two), **window)
        else:
            files.append(f"{index}.nii")
            test_nifti.volume(path / files[-1], np.stack(two, axis=2), (0, 255))
    return files


@pytest.mark.parametrize("kind", ["pictures", "tar", "parquet", "dicom", "nifti"])
def test_a_folder_that_changes_while_it_is_read(tmp_path, kind):
    """A file that vanishes after it was listed is named, one that grows does no harm, and the others come in."""
    files = make_folder(kind, tmp_path)
    whole = import_images(tmp_path, PLAIN).images
    assert len(whole) == 6
    found = import_images(tmp_path, PLAIN, progress=changing(tmp_path, grows=files[1], vanishes=files[2]))
    given = reasons(found)
    assert given.pop(files[2]) == "cannot be read (No such file or directory)"
    assert len(found.images) == 4 or given.keys() == {files[1]}
    assert set(found.images.ids) <= set(whole.ids[:4])
    assert set(whole.ids[:2]) <= set(found.images.ids)
