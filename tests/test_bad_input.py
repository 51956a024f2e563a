"""Bad input: one message that names the file and the remedy, the exit code of its kind, no traceback, nothing lost."""

import contextlib
import errno
import json
import os
import pickle
import resource
import shutil
import subprocess
from pathlib import Path

import killing
import numpy as np
import program
import pytest
import torch
from PIL import Image
from program import memgen

from memgen.base import files
from memgen.experiment.runs import Run
from memgen.models.networks import UNetSettings, build

pytestmark = pytest.mark.usefixtures("unrendered")

SMALL = ["--set", "split.holdout=2", "--set", "sweep.n_train=[1]", "--set", "data.deduplicate=false"]


@pytest.fixture
def pictures(tmp_path, digits, monkeypatch) -> Path:
    """A folder of 12 JPEG pictures of 32x32, in the current folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, pixels in enumerate(np.load(digits)[:12]):
        Image.fromarray(pixels).resize((32, 32)).save(folder / f"{index:02}.jpg")
    return folder


def contents(run: Path) -> dict[str, bytes]:
    """The artifacts of a run; what an attempt has told of its progress is none."""
    artifacts = program.artifacts(run).items()
    return {name: path.read_bytes() for name, path in artifacts if not name.startswith("progress/")}


# ------------------------------------------------------------------------------------------------ images


def test_unusable_files_are_listed(pictures):
    """A truncated JPEG, an empty file and a text file named .png are skipped, each with its reason in the table."""
    whole = (pictures / "00.jpg").read_bytes()
    (pictures / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (pictures / "empty.png").touch()
    (pictures / "text.png").write_text("hello")
    (pictures / "notes.txt").write_text("hello")
    counts = memgen("data", "import", "pictures", *SMALL, "--run", "mine", "--json").done().json
    assert (counts["images"], counts["skipped"]) == (12, 4)
    reasons = {row["source"]: row["reason"] for row in Run(Path("outputs/mine")).table("skipped").to_pylist()}
    for name, part in {"cut.jpg": "truncated", "empty.png": "empty", "text.png": "not an image"}.items():
        assert part in reasons[name].lower()
    assert reasons.keys() == {"cut.jpg", "empty.png", "text.png", "notes.txt"}


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (lambda folder: [path.write_bytes(b"") for path in folder.iterdir()], ["no usable image", "empty file"]),
        (lambda folder: [path.unlink() for path in folder.iterdir()], ["the folder is empty"]),
        (lambda folder: shutil.rmtree(folder), ["no such file or folder"]),
        (lambda folder: Image.new("L", (16, 16)).save(folder / "odd.png"), ["one size", "--resize"]),
    ],
    ids=["unusable", "empty", "missing", "mixed-sizes"],
)
def test_unusable_folder(pictures, spoil, parts):
    """A folder without one usable image, or of images of several sizes, is refused, and leaves no run behind."""
    spoil(pictures)
    memgen("data", "import", "pictures", *SMALL, "--run", "mine").failed(3, str(pictures), *parts)
    memgen("runs", "show").failed(4, "no run")


@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (np.full((9, 8, 8), np.nan, dtype=np.float32), ["image 0", "NaN"]),
        (np.full((9, 8, 8), 7, dtype=np.float32), ["beyond 0 to 1", "--range"]),
        (np.zeros((9, 8, 8), dtype=np.int64), ["int64", "--range"]),
        (np.zeros((9, 8, 8, 8), dtype=np.uint8), ["shape", "Reshape"]),
        (np.array([{"executed": "never"}], dtype=object), ["never opens pickles"]),
    ],
    ids=["nan", "range", "type", "shape", "objects"],
)
def test_unusable_array(tmp_path, monkeypatch, array, parts):
    """An array that cannot be images is refused by name, with what to do."""
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", array)
    memgen("data", "import", "images.npy", *SMALL).failed(3, str(tmp_path / "images.npy"), *parts)
    assert not list(Path("outputs").iterdir())


def test_too_few_images(pictures):
    """Fewer images than 2 N + holdout: the message says how many are needed and found, and what N would do."""
    outcome = memgen("data", "import", "pictures", *SMALL, "--set", "sweep.n_train=[1, 100]", "--run", "mine")
    outcome.failed(3, "N = 100 needs", "202 in all", "found 12", "N up to 5, such as --set 'sweep.n_train=[1,5]'")
    memgen("data", "import", "pictures", *SMALL, "--set", "split.holdout=11").failed(3, "found 12 images", "holdout")


def test_size_that_the_run_cannot_have(tiny):
    """A further N that is 0 or too large is refused, and the run's settings stay as they were."""
    before = (tiny / "run.json").read_bytes()
    assert memgen("train", "--n", "0").code == 2
    memgen("sweep", "--run", "new", "--set", "sweep.n_train=[0]").failed(2, "sweep.n_train.0", "greater than 0")
    memgen("train", "--n", "4000").failed(3, "N = 4000 needs", "Use N up to")
    assert json.loads((tiny / "run.json").read_bytes())["config"] == json.loads(before)["config"]
    memgen("sample", "--n", "3").failed(4, "has no N = 3; it has N = 1, 4")


def test_more_neighbors_than_images(tiny):
    """k > N is refused with the largest k there is."""
    memgen("nn-search", "--k", "5").failed(3, "k=5", "--k 4")
    memgen("nn-search", "--index", "train_c").failed(2, "train_c", "train_a, train_b, holdout")
    memgen("nn-search", "--metric", "l1").failed(2, "l1", "correlation, cosine, rmse")


# ------------------------------------------------------------------------------------------------ checkpoints


class Payload:
    """Creates the file `executed` when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_pickle_posing_as_checkpoint(tiny, tmp_path):
    """A pickle, alone or inside a file of torch.save, is refused and not executed."""
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Payload()))
    torch.save({"encoder.0.0.weight": Payload()}, tmp_path / "saved.pt")
    for name in ("bare.pt", "saved.pt"):
        memgen("import", name).failed(3, name, "execute", "state_dict")
    assert not Path("executed").exists()
    assert [cell.name for cell in Run(tiny).cells()] == ["n1-s0-a", "n1-s0-b", "n4-s0-a", "n4-s0-b"]


def test_checkpoint_of_another_architecture(tiny, tmp_path):
    """A network that memgen does not know, one of another number of channels, and a damaged file are refused."""
    torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / "linear.pt")
    memgen("import", "linear.pt").failed(3, "linear.pt", "no known network", "UNet")
    torch.save(build(UNetSettings(blocks=1, width=4), (3, 8, 8)).state_dict(), tmp_path / "color.pt")
    memgen("import", "color.pt").failed(3, "color.pt", "3 channels", "data.color")
    whole = (tmp_path / "color.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    memgen("import", "cut.pt").failed(3, "cut.pt", "damaged")
    memgen("import", "gone.pt").failed(3, "gone.pt", "No such file")


# ------------------------------------------------------------------------------------------------ damaged runs

# Each artifact, the command that comes upon it, and what the message says to delete.
DAMAGED = {
    "images/pixels.npy": ("train", "images/pixels.npy"),
    "images/images.parquet": ("train", "images/images.parquet"),
    "images/images.json": ("train", "images/images.json"),
    "tables/split/split.parquet": ("train", "tables/split/split.parquet"),
    "tables/duplicates/duplicates.parquet": ("train", "tables/duplicates/duplicates.parquet"),
    "holdout_mean.npy": ("sample", "holdout_mean.npy"),
    "denoisers/n4-s0-b.safetensors": ("sample", "denoisers/n4-s0-b.safetensors"),
    "denoisers/n4-s0-b.json": ("sample", "denoisers/n4-s0-b.json"),
    "samples/n4-s0-b.npy": ("compare", "samples/n4-s0-b.npy"),
    "indexes/train_b-n4-correlation/pixels.npy": ("index", "indexes/train_b-n4-correlation"),
    "indexes/train_b-n4-correlation/index.json": ("index", "indexes/train_b-n4-correlation"),
    "tables/samples/n4-s0-b.parquet": ("report", "tables/samples/n4-s0-b.parquet"),
    "tables/similarity/n4-s0-a+n4-s0-b.parquet": ("report", "tables/similarity/n4-s0-a+n4-s0-b.parquet"),
    "tables/psnr/n4-s0-a.parquet": ("report", "tables/psnr/n4-s0-a.parquet"),
}


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("damage", ["cut", pytest.param("flipped", marks=pytest.mark.slow)])
def test_damaged_artifact(tiny, config, finished, monkeypatch, name, damage):
    """A damaged file of a run is named, nothing else is touched, and doing what the message says gives the run back."""
    command, remedy = DAMAGED[name]
    whole = (tiny / name).read_bytes()
    middle = len(whole) // 2
    if damage == "flipped" and name in ("images/pixels.npy", "samples/n4-s0-b.npy", "holdout_mean.npy"):
        pytest.skip("a changed pixel is still an image")
    (tiny / name).write_bytes(whole[:middle] if damage == "cut" else whole[:8] + bytes(b ^ 255 for b in whole[8:]))
    if command in ("sample", "compare"):  # what is finished is not made again, so take away what it made
        made = "samples" if command == "sample" else "similarity"
        shutil.rmtree(tiny / "tables" / made)
    before = contents(tiny)
    jobs = [] if command in ("index", "report") else ["--jobs", "1"]
    memgen(command, *jobs).failed(3, str(Path("outputs/tiny") / name), "elete")
    assert {key: value for key, value in contents(tiny).items() if key in before} == before
    target = tiny / remedy
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    if command == "index":
        memgen("index", "--name", "train_b").done()
    monkeypatch.setattr("memgen.cli.whole.write_report", lambda workspace, as_json: print(workspace.run.path))
    memgen("sweep", "-c", config, "--run", "tiny", "--jobs", "1").done()
    program.assert_same_runs(tiny, finished)


def test_damaged_table_with_workers(tiny):
    """A damaged table that is met while bars are drawn ends in the same message with several workers."""
    name = "tables/neighbors/n4-s0-b.train_b-n4-correlation.parquet"
    (tiny / name).write_bytes(b"PAR1 is not enough")
    for jobs in ("1", "2"):
        for part in "ab":  # what is done is given to no worker
            (tiny / "tables" / "copies" / f"n4-s0-{part}.parquet").unlink(missing_ok=True)
        memgen("verdict", "--n", "4", "--jobs", jobs).failed(3, name, "damaged")


def test_images_that_changed_since(tiny, config, digits):
    """Images that were lost are imported again only from the same source; the trained run survives in any case."""
    moved = digits.with_name("moved.npy")
    (tiny / "holdout_mean.npy").unlink()
    before = contents(tiny)
    try:
        digits.rename(moved)
        memgen("sweep", "-c", config, "--run", "tiny", "--jobs", "1").failed(3, str(digits), "no such file")
        np.save(digits, np.load(moved)[::-1])
        memgen("sweep", "-c", config, "--run", "tiny", "--jobs", "1").failed(3, str(digits), "no longer holds")
    finally:
        moved.replace(digits)
    assert contents(tiny) == before


def test_rest_of_a_removed_run(tiny, config):
    """What a removal that was cut short left is never taken for results of a new run."""
    (tiny / "run.json").unlink()
    memgen("sweep", "-c", config, "--run", "tiny").failed(4, "outputs/tiny", "Delete the folder")


# ------------------------------------------------------------------------------------------------ the disk


@pytest.fixture
def sweep(config):
    """Runs the tiny sweep in a folder."""
    return lambda outputs: memgen("sweep", "--config", config, "--outputs", outputs, "--run", "tiny", "--jobs", "1")


@pytest.mark.slow
def test_size_limit_at_every_kind_of_file(sweep, finished, tmp_path, monkeypatch):
    """A write that the system really refuses, at each kind of file once: exit 5 and its name; then all is well."""
    run, tried = tmp_path / "tiny", []
    replacing, (soft, hard) = files.replacing, resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextlib.contextmanager
    def limited(path: Path):
        kind = killing.kind_of(path.relative_to(run))
        with replacing(path) as temporary:
            if not kind or kind in tried:
                yield temporary
                return
            tried.append(kind)
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
            try:
                yield temporary
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr("memgen.base.files.replacing", limited)
    monkeypatch.setattr("memgen.experiment.make._SAVE_EVERY_S", 0.0)  # write the state of a training, too
    for attempt in range(100):
        outcome = sweep(tmp_path)
        if outcome.code == 0:
            break
        assert len(tried) == attempt + 1
        outcome.failed(5, "cannot write", str(run), "or choose another place")
    assert set(tried) == {*killing.KINDS, *killing.REPORTED}
    program.assert_same_runs(run, finished)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_full_disk(sweep, finished, tmp_path):
    """On a disk that fills up the sweep ends with exit code 5 and keeps what is finished; with more room it goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        sweep(disk).failed(5, "cannot write", str(disk / "tiny"), "The disk is full")
        finished_before = contents(disk / "tiny")
        assert finished_before
        subprocess.run(["mount", "-o", "remount,size=50m", disk], check=True)
        sweep(disk).done()
        assert finished_before.items() <= contents(disk / "tiny").items()
        program.assert_same_runs(disk / "tiny", finished)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)  # images are still mapped into memory


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_write_error(tiny, monkeypatch, number):
    """Any refusal to write ends in one message, and the run stays as it was."""

    def refuse(_):
        raise OSError(number, os.strerror(number))

    before = contents(tiny)
    monkeypatch.setattr("memgen.base.files.os.fsync", refuse)
    memgen("report").failed(5, "cannot write outputs/tiny/run.json", os.strerror(number))
    assert contents(tiny) == before


def test_outputs_that_cannot_be_written(config, tmp_path, monkeypatch):
    """Outputs that are a file, or lie under one, or in a folder where nobody may write, are named in one message."""
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("a file")
    for outputs in ("taken", "taken/outputs", "/proc/memgen"):
        memgen("sweep", "-c", config, "--outputs", outputs, "--run", "tiny").failed(
            5, f"{outputs}/tiny", "another place"
        )
    assert Path("taken").read_text() == "a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_outputs_without_permission(config, tiny, tmp_path):
    """A folder, or a run, that one may not write to is named, with the remedy."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    memgen("sweep", "-c", config, "--outputs", closed, "--run", "tiny").failed(5, str(closed), "permissions")
    tiny.chmod(0o500)
    memgen("sample").failed(5, "outputs/tiny", "permissions")
    tiny.chmod(0o700)


# ------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[train\nimages_seen = 3", ["not valid TOML"]),
        ("[train]\nimages_sen = 3", ["unknown key train.images_sen", "did you mean train.images_seen?"]),
        ("[train]\nimages_seen = 0", ["train.images_seen", "greater than or equal to 1"]),
        ("[sampling]\nbeta = 1", ["unknown key sampling", "did you mean sample?"]),
    ],
    ids=["syntax", "key", "value", "group"],
)
def test_bad_config(tmp_path, monkeypatch, text, parts):
    """A configuration with a mistake is named with the mistake, and starts no run."""
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_text(text)
    memgen("sweep", "--config", "my.toml").failed(2, "my.toml", *parts)
    memgen("sweep", "--config", "gone.toml").failed(2, "gone.toml", "No such file")
    memgen("sweep", "--set", "train.images_seen").failed(2, "expected key=value")
    assert not Path("outputs").exists()


@pytest.mark.parametrize("device", ["quantum", "cuda:99", "meta"])
def test_unknown_device(tiny, device):
    """A device that is not there is refused with the ones that always work."""
    memgen("sample", "--device", device).failed(2, f"--device {device}", "--device cpu")
