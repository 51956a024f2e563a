"""Every door through which images come in: each takes a range, says what is odd, and lists what it leaves out."""

import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import picture_files
import pytest
import torch
from PIL import Image
from program import memgen

from memgen.experiment import subjects
from memgen.experiment.runs import Run
from memgen.experiment.workspace import Workspace
from memgen.images.imageset import ImageSet

SMALL = ["--set", "split.holdout=2", "--set", "sweep.n_train=[1]", "--set", "data.deduplicate=false"]
DOORS = ["folder", "single.png", "a.zip", "a.npy", "a.npz", "a.npz:x", "a.pt", "a.pt:x", "a-idx3", "a-idx3.gz"]


def twelve_bits(images):
    """Images of 8 bits as values up to 4,080, kept in 16 bits."""
    return images.astype(np.uint16) * 16


def write(door, values, where):
    """Write values (N, H, W) of 16 bits as what the name of the door says; returns what a person would give."""
    pictures = [picture_files.saved(Image.fromarray(image), "png") for image in values]
    if door == "folder":
        (where / "folder").mkdir()
        for index, data in enumerate(pictures):
            (where / "folder" / f"{index}.png").write_bytes(data)
    elif door == "single.png":
        (where / door).write_bytes(pictures[0])
    elif door == "a.zip":
        with zipfile.ZipFile(where / door, "w") as archive:
            for index, data in enumerate(pictures):
                archive.writestr(f"{index}.png", data)
    elif door == "a.npy":
        np.save(where / door, values)
    elif door.startswith("a.npz"):
        np.savez(where / "a.npz", x=values, y=values[:, :3])
    elif door.startswith("a.pt"):
        torch.save({"x": torch.from_numpy(values.astype(np.int32)), "n": torch.arange(3)}, where / "a.pt")
    else:
        data = b"\0\0\x0b\x03" + np.array(values.shape, ">u4").tobytes() + values.astype(">i2").tobytes()
        (where / door).write_bytes(gzip.compress(data) if door.endswith("gz") else data)
    return where / door


def is_stated(door):
    """Whether the file says which value is white: pictures do, arrays of whole numbers do not."""
    return door in ("folder", "single.png", "a.zip")


@pytest.mark.parametrize("door", [door for door in DOORS if door not in ("single.png", "a.npz")])
def test_data_import_takes_a_range(tmp_path, monkeypatch, digits, door):
    """Without a range, what is too dark is noticed or refused; with it the pixels are right, and the run keeps both."""
    monkeypatch.chdir(tmp_path)
    values = twelve_bits(np.load(digits)[:9])
    source = write(door, values, tmp_path)
    outcome = memgen("data", "import", source, *SMALL, "--run", "dark", "--json")
    if is_stated(door):
        (warning,) = outcome.done().json["warnings"]
        assert f"warning: {warning}" in outcome.err
        assert "--range 0,4095" in warning
        assert warning in memgen("sweep", "--dry-run", "--set", f"data.source={source}", *SMALL).done().err
        inspected = memgen("data", "inspect", "--run", "dark", "--json").done()
        assert inspected.json["warnings"] == [warning]
        assert f"\nwarning: {warning}\n" in inspected.err
        assert Run(tmp_path / "outputs" / "dark").manifest["data"]["warnings"] == [warning]
    else:
        outcome.failed(3, "values from 0 to 4,080", "does not state which value is white", "--range 0,4095")
    counts = memgen("data", "import", source, *SMALL, "--run", "right", "--range", "0,4080", "--json").done().json
    assert counts["warnings"] == []
    images = ImageSet.load(tmp_path / "outputs" / "right" / "images")
    np.testing.assert_allclose(images.floats()[:, 0], values / 4080, atol=0.5 / 255 if is_stated(door) else 1e-6)
    again = Run(tmp_path / "outputs" / "right").manifest["config"]["data"]["range"]
    assert again == [0, 4080]


def test_several_arrays_must_be_named(tmp_path, monkeypatch, digits):
    """The error lists the arrays of a file with their shapes."""
    monkeypatch.chdir(tmp_path)
    source = write("a.npz", twelve_bits(np.load(digits)[:9]), tmp_path)
    memgen("data", "import", source, *SMALL).failed(3, "x 9x8x8, y 9x3x8", "a.npz:x")


@pytest.mark.parametrize("given", ["0,4080", "[0, 4080]"])
def test_the_range_in_a_config(tmp_path, monkeypatch, digits, given):
    """The section [data] of a config takes the range too, as numbers or as text; --set takes both."""
    monkeypatch.chdir(tmp_path)
    values = twelve_bits(np.load(digits)[:9])
    source = write("a.npy", values, tmp_path)
    written = given if given.startswith("[") else f'"{given}"'
    Path("a.toml").write_text(f"[data]\nsource = {json.dumps(str(source))}\nrange = {written}\n")
    memgen("data", "import", "--config", "a.toml", *SMALL, "--run", "a").done()
    memgen("data", "import", source, "--set", f"data.range={given}", *SMALL, "--run", "b").done()
    for name in "ab":
        images = ImageSet.load(tmp_path / "outputs" / name / "images")
        np.testing.assert_allclose(images.floats()[:, 0], values / 4080, atol=1e-6)
    for wrong in ("4080", "1,0", "0,white", "0,1,2", "0,inf"):
        memgen("data", "import", source, "--range", wrong, *SMALL).failed(2, "data.range", "0,4095")
    memgen("data", "import", "--set", "data.generated.kind=texture", "--range", "0,1").failed(2, "range", "generated")


@pytest.mark.parametrize("door", [door for door in DOORS if door != "a.npz"])
def test_own_images_of_a_run(tiny, tmp_path, digits, door):
    """Images that are searched for are prepared as the run's; a range can be given for them alone."""
    pixels = np.load(tiny / "images" / "pixels.npy")[:3, 0]
    source = write(door, twelve_bits(pixels), tmp_path)
    workspace = Workspace.of(Run(tiny), "cpu")
    found = subjects.prepared(workspace, source, value_range="0,4080").images
    wanted = pixels[:1] if door == "single.png" else pixels
    np.testing.assert_allclose(found.floats()[:, 0], wanted / 255, atol=1e-6)


def test_nn_search_says_what_it_found(tiny, tmp_path):
    """Own images are called by their files, files that cannot be read are listed, and a picture shows the neighbors."""
    pixels = ImageSet.load(tiny / "images")
    write("folder", twelve_bits(pixels.pixels[:4, 0]), tmp_path)
    (tmp_path / "folder" / "1.png").write_text("damaged")
    outcome = memgen("nn-search", "folder", "--index", "holdout", "--k", "2", "--json").done()
    assert [row["source"] for row in outcome.json["skipped_files"]] == ["1.png"]
    (warning,) = outcome.json["warnings"]
    assert "--range 0,4095" in warning
    rows = outcome.json["neighbors"]
    assert [row["query_source"] for row in rows[::2]] == ["0.png", "2.png", "3.png"]
    sources = dict(zip(pixels.ids, pixels.sources, strict=True))
    assert all(sources[row["reference_id"]] == row["reference_source"] for row in rows)
    for text in ("1.png", "not an image", warning, "0.png", rows[0]["reference_source"]):
        assert text in outcome.err
    picture = np.asarray(Image.open(outcome.json["picture"]))
    assert picture.std() > 30
    outcome = memgen("nn-search", "folder", "--range", "0,4080").done()
    assert "warning" not in outcome.err
    assert outcome.path.suffix == ".png"
    assert outcome.path.exists()


def test_nn_search_of_images_that_are_not_square(tmp_path, monkeypatch):
    """Images that are not square, in a run that did not resize its own, are searched for as they are."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 5, 9), dtype=np.uint8)
    np.save("all.npy", pixels)
    memgen("data", "import", "all.npy", *SMALL, "--run", "a", "--set", "sweep.n_train=[5]").done()
    np.save("mine.npy", pixels[3:6])
    rows = [memgen("nn-search", "mine.npy", "--index", index, "--k", "1", "--json").done().json["neighbors"] for index in ("train_a", "train_b", "holdout")]  # fmt: skip
    best = [max(each, key=lambda row: row["value"]) for each in zip(*rows, strict=True)]
    assert [row["reference_source"] for row in best] == ["all.npy[3]", "all.npy[4]", "all.npy[5]"]
    assert [row["query_source"] for row in best] == ["mine.npy[0]", "mine.npy[1]", "mine.npy[2]"]
    np.save("mine.npy", pixels[3:6, :, :8])
    memgen("nn-search", "mine.npy").failed(3, "8 x 5", "9 x 5")


def test_basis_of_own_images(tiny, tmp_path):
    """The command basis says what it left out too, and takes a range."""
    pixels = np.load(tiny / "images" / "pixels.npy")[:2, 0]
    write("folder", twelve_bits(pixels), tmp_path)
    (tmp_path / "folder" / "text.txt").write_text("no picture")
    outcome = memgen("basis", "folder", "--n", "1", "--sigma", "0.5", "--json").done()
    assert [row["source"] for row in outcome.json["skipped_files"]] == ["text.txt"]
    assert "--range 0,4095" in outcome.json["warnings"][0]
    assert np.asarray(Image.open(outcome.json["path"])).std() > 30  # the picture, as for nn-search
    assert memgen("basis", "folder", "--n", "1", "--sigma", "0.5", "--range", "0,4080", "--json").done().json["warnings"] == []  # fmt: skip


def test_import_of_samples_and_their_images(tiny, tmp_path):
    """The images that a subject was trained on, those held out and its samples all take the range, and say what is odd."""
    pixels = np.load(tiny / "images" / "pixels.npy")[:9, 0]
    sources = {}
    for place, (name, part) in enumerate({"samples": pixels[:3], "train": pixels[3:6], "held": pixels[6:]}.items()):
        (tmp_path / name).mkdir()
        sources[name] = write(["a.npz:x", "folder", "a.zip"][place], twelve_bits(part), tmp_path / name)
    given = ["import", sources["samples"], "--trained-on", sources["train"], "--holdout", sources["held"]]
    memgen(*given, "--name", "dark").failed(3, "a.npz", "--range 0,4095")
    outcome = memgen(*given, "--range", "0,4080", "--json").done()
    assert outcome.json["name"] == "a"
    assert outcome.json["warnings"] == []
    subject = subjects.find(Workspace.of(Run(tiny), "cpu"), "a")
    np.testing.assert_allclose(subject.samples.images[:, 0], pixels[:3] / 255, atol=1e-6)
    for found, wanted in ((subject.train, pixels[3:6]), (subject.held_out, pixels[6:])):
        both = [found.floats()[:, 0].numpy(), wanted / 255]  # the order is that of a hash
        one, other = (each[np.argsort(each.sum(axis=(1, 2)))] for each in both)
        np.testing.assert_allclose(one, other, atol=0.5 / 255)
    shown = memgen("nn-search", "--subject", "a", "--json").done()
    assert [row["query_source"] for row in shown.json["neighbors"][::3]] == [f"a.npz[{i}]" for i in range(3)]
    assert shown.json["neighbors"][0]["reference_source"] in shown.err
    np.save(tmp_path / "bright.npy", pixels[:3])
    outcome = memgen("import", "bright.npy", "--trained-on", sources["train"], "--json").done()
    assert any("nearly black" in warning for warning in outcome.json["warnings"])
    assert "warning: " in outcome.err


def test_hidden_folders_are_listed_not_read(tmp_path, monkeypatch, digits):
    """Folders that programs leave behind give no image, and each is one row of the skipped files."""
    monkeypatch.chdir(tmp_path)
    pixels = np.load(digits)
    for place, folder in enumerate(
        (".", ".ipynb_checkpoints", "sub/.thumbnails", "__MACOSX", ".git/x", "$RECYCLE.BIN")
    ):
        (tmp_path / "mine" / folder).mkdir(parents=True, exist_ok=True)
        for index in range(9 if place == 0 else 2):
            Image.fromarray(pixels[10 * place + index]).save(tmp_path / "mine" / folder / f"{index}.png")
    counts = memgen("data", "import", "mine", *SMALL, "--run", "a", "--json").done().json
    assert (counts["images"], counts["skipped"]) == (9, 5)
    rows = memgen("data", "inspect", "--json").done().json["skipped_files"]
    assert {row["source"] for row in rows} == {".ipynb_checkpoints", "sub/.thumbnails", "__MACOSX", ".git", "$RECYCLE.BIN"}  # fmt: skip
    assert {row["reason"] for row in rows} == {"a hidden folder, or one of the system; nothing in it is read"}
