"""Names of files: whatever bytes they have, they are imported, shown as one safe line, and found again in every table."""

import os
import unicodedata
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from program import memgen

from memgen.base import files
from memgen.experiment.runs import Run
from memgen.images import names
from memgen.images.imageset import ImageSet
from memgen.images.importing import ImportSettings, import_images

PLAIN = ImportSettings(deduplicate=False)
# Bytes that are no UTF-8, controls of the terminal, marks that turn the text around, and what looks like a frame.
ODD = [
    b"a\xff\xfe.png", b"b\nc.png", b"d\x1b[31m.png", "e\u202egnp.png".encode(), "f\u2028g.png".encode(), b"h\\x41.png",
    b"[bold]i.png", b"j'\"$k$.png", "ü 漢 😀.png".encode(), b" .png", b"l" * 251 + b".png", b"m#3", b"n\\.png",
]  # fmt: skip


@given(st.text(st.characters(codec=None)) | st.binary().map(os.fsdecode))
def test_names_are_read_back(name):
    """The escaped name is one line of visible Unicode text, and gives the name back; different names stay different."""
    shown = names.escaped(name)
    assert names.original(shown) == name
    shown.encode()
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in shown)


@pytest.mark.parametrize("name", ["a.png", "a b#c.png", "ü.png", "a/b.png", "#3.png"])
def test_plain_names_stay(name):
    """Names that can be stored and shown are kept as they are."""
    assert names.escaped(name) == name
    assert names.frame(name, 1, 1) == name
    assert names.frame(name, 3, 5) == f"{name}#3"


def test_a_file_that_is_called_like_a_frame():
    """No file has the name of a frame of another one."""
    assert names.escaped("a#3") != names.frame(names.escaped("a"), 3, 4)


@pytest.fixture
def odd_folder(tmp_path):
    """A folder of pictures with odd names, one that is no picture, in a folder with an odd name; and their pixels."""
    folder = tmp_path / os.fsdecode(b"in\xff\n\x1b")
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (len(ODD), 6, 6), dtype=np.uint8)
    for name, image in zip(ODD, pixels, strict=True):
        with open(folder / os.fsdecode(name), "wb") as file:
            Image.fromarray(image).save(file, format="PNG")
    (folder / os.fsdecode(b"bad\xff\n.png")).write_text("no picture")
    return folder, {os.fsdecode(name): image for name, image in zip(ODD, pixels, strict=True)}


def test_odd_names_are_imported_and_found_again(odd_folder, tmp_path):
    """Each image has a name that leads to its file, after the set was written and read, and skipped files too."""
    folder, pixels = odd_folder
    found = import_images(folder, PLAIN)
    found.images.save(tmp_path / "kept")
    kept = ImageSet.load(tmp_path / "kept")
    assert {names.original(name) for name in kept.sources} == set(pixels)
    for name, image in zip(kept.sources, kept.pixels, strict=True):
        np.testing.assert_array_equal(image[0], pixels[names.original(name)])
    (skipped,) = found.skipped.to_pylist()
    assert (folder / names.original(skipped["source"])).read_text() == "no picture"


def test_odd_names_in_an_archive(tmp_path):
    """Names in a ZIP archive are as safe."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for index, name in enumerate(["a\nb.png", "c\x1b[1m.png", "ü#1.png"]):
            with archive.open(name, "w") as file:
                Image.new("L", (4, 4), index * 50).save(file, format="PNG")
    images = import_images(tmp_path / "a.zip", PLAIN).images
    assert images.sources == (r"a\nb.png", r"c\u001b[1m.png", "ü#1.png")


def test_odd_names_through_the_program(odd_folder, tmp_path, monkeypatch):
    """The command line imports such a folder, shows no control character, and finds each image by its file."""
    folder, pixels = odd_folder
    monkeypatch.chdir(tmp_path)
    small = ["--set", "split.holdout=2", "--set", "sweep.n_train=[1,4]", "--set", "data.deduplicate=false"]
    outcome = memgen("data", "import", folder, *small, "--run", "odd", "--range", "0,255").done()
    outcomes = [outcome, memgen("data", "inspect").done()]
    run = Run(tmp_path / "outputs" / "odd")
    assert run.manifest["config"]["data"]["source"] == str(folder)
    outcomes.append(memgen("nn-search", folder, "--k", "1").done())
    rows = run.table("searches").to_pylist()
    assert {names.original(row["query_source"]) for row in rows} == set(pixels)
    assert {names.original(row["reference_source"]) for row in rows} <= set(pixels)
    ids = dict(zip(*(ImageSet.load(run.images).sources, ImageSet.load(run.images).ids), strict=True))
    assert all(ids[row["reference_source"]] == row["reference_id"] for row in rows)
    for outcome in outcomes:
        shown = outcome.out + outcome.err
        assert not any(unicodedata.category(character) in ("Cf", "Cs", "Zl") for character in shown)
        assert not any(unicodedata.category(character) == "Cc" and character != "\n" for character in shown)
    assert r"bad\xff\n.png" in outcomes[1].err
    memgen("data", "import", folder / "gone", *small).failed(3, "no such file")


def test_json_keeps_paths_that_are_no_text(tmp_path):
    """A path with bytes that are no UTF-8 is written as valid JSON and read back; other text stays as it is."""
    value = {"path": os.fsdecode(b"a\xff"), "name": "ü"}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
    files.write_json(tmp_path / "a.json", {"name": "ü"})
    assert "ü" in (tmp_path / "a.json").read_text()
