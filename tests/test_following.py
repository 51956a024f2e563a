"""Checkpoints: which are found, what the command shows of them, and that those of a killed training are the same."""

import json
import shutil

import numpy as np
import pytest
import torch
from program import memgen as command
from program import write_config, write_digits
from safetensors.torch import load_file

import memgen
from memgen.base.errors import DataError, RunError
from memgen.cli.shared import existing
from memgen.experiment import following, make, runs, subjects
from memgen.measures.copies.examiner import find_copies
from memgen.models import checkpoints, networks, sampling
from memgen.models.networks import UNetSettings
from memgen.models.training import TrainSettings

pytestmark = pytest.mark.usefixtures("unrendered")

KEPT = ("--set", "train.checkpoints=3", "--set", "sweep.n_train=[4]", "--set", "train.images_seen=1200")


def saved(path, seed=0):
    """A network of the shape of the digits, as a checkpoint of memgen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    settings = UNetSettings(architecture="unet", blocks=1, width=4)
    checkpoints.save(path, networks.build(settings, (1, 8, 8)).eval(), settings, {})
    return path


def test_names_say_how_far_the_training_was(tmp_path):
    """The last number in the name counts, or that of the folder above; what holds no number or no model is left out."""
    for name in ("step-20.safetensors", "run2-step-3.safetensors", "final.safetensors"):
        saved(tmp_path / "several" / name)
    (tmp_path / "several" / "log-7.txt").write_text("7")
    found = following.checkpoints([tmp_path / "several"], each=10)
    assert {seen: path.name for seen, path in found.items()} == {
        30: "run2-step-3.safetensors",
        200: "step-20.safetensors",
    }
    assert list(found) == [30, 200]
    inside = saved(tmp_path / "checkpoint-50" / "weights.safetensors")
    assert list(following.checkpoints([inside])) == [50]
    shutil.copytree(tmp_path / "several", tmp_path / "again")
    for sources, message in (
        ([tmp_path / "several", tmp_path / "again"], "both have the number 3"),
        ([tmp_path / "nothing"], "not a model that memgen reads, and no folder of models"),
        ([tmp_path / "checkpoint-50"], "holds no model that memgen reads with a number in its name"),
    ):
        with pytest.raises(DataError, match=message):
            following.checkpoints(sources)


@pytest.mark.parametrize(("settings", "kept"), [
    ({"images_seen": 1000, "checkpoints": 3}, [125, 250, 500]),
    ({"images_seen": 6, "checkpoints": 9}, [1, 3]),
    ({"images_seen": 1000}, []),
])  # fmt: skip
def test_checkpoints_are_kept_at_halves_of_the_budget(settings, kept):
    assert TrainSettings(**settings).kept_at(10) == kept


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A tiny sweep that kept checkpoints of its trainings."""
    folder = tmp_path_factory.mktemp("swept")
    config = write_config(folder, write_digits(folder / "digits.npy"))
    command("train", "--run", "mine", "--outputs", folder, "--config", config, *KEPT, "--jobs", 1).done()
    return folder


def test_a_killed_training_keeps_the_same_checkpoints(swept, tmp_path, monkeypatch):
    """Stopped at each record once, with its state saved every time: the same weights on the way and at the end."""
    config = write_config(tmp_path, swept / "digits.npy")
    command("data", "import", "--run", "mine", "--outputs", tmp_path, "--config", config, *KEPT).done()
    monkeypatch.setattr(make, "_SAVE_EVERY_S", -1.0)
    workspace, stops = existing(tmp_path, "mine"), [0]

    def stop(record, budget):
        stops[0] += 1
        if stops[0] % 2:
            raise KeyboardInterrupt

    torch.set_num_threads(1)
    while not workspace.run.denoiser_path("n4-s0-a").exists():
        try:
            make.train_cell(workspace, runs.Cell(4, 0, "a"), stop)
        except KeyboardInterrupt:
            continue
    assert stops[0] > 8
    whole = runs.find(swept, "mine")
    names = [path.name for path in sorted(whole.checkpoints("n4-s0-a").glob("*.safetensors"))]
    assert len(names) == 3
    assert [path.name for path in sorted(workspace.run.checkpoints("n4-s0-a").glob("*.safetensors"))] == names
    for name in names:
        found, wanted = (load_file(run.checkpoints("n4-s0-a") / name) for run in (workspace.run, whole))
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), name


def test_the_checkpoints_of_a_sweep(swept):
    """The command takes a reading of each and of the end, as the monitor would in the loop; again, it takes none."""
    arguments = ("monitor", "--run", "mine", "--outputs", swept, "--count", 6, "--json")
    done = command(*arguments).done()
    found = done.json["subjects"]
    assert set(found) == {"n4-s0-a", "n4-s0-b"}
    rows = found["n4-s0-a"]["timeline"]
    run = runs.find(swept, "mine")
    assert [row["images_seen"] for row in rows][-1] == 1200
    assert len(rows) == 4
    assert "generaliz" in done.err or "came within" in done.err
    workspace = existing(swept, "mine")
    subject = subjects.find(workspace, "n4-s0-a")
    monitor = memgen.Monitor(subject.train, subject.held_out, swept / "direct")
    for path in sorted(run.checkpoints("n4-s0-a").glob("*.safetensors")):
        monitor(checkpoints.load(path)[0], int(path.stem))
    direct = monitor.timeline.to_pylist()
    assert [row["gap"] for row in direct] == pytest.approx([row["gap"] for row in rows[:3]])

    before = {path: path.stat().st_mtime_ns for path in run.readings("n4-s0-a").glob("*.parquet")}
    assert command(*arguments).done().json == done.json
    assert {path: path.stat().st_mtime_ns for path in run.readings("n4-s0-a").glob("*.parquet")} == before
    shutil.rmtree(run.checkpoints("n4-s0-a"))
    with pytest.raises(RunError, match=r"no checkpoints were kept of n4-s0-a.*train\.checkpoints=8"):
        following.follow_cell(workspace, "n4-s0-a")


def test_checkpoints_of_ones_own(swept, tmp_path):
    """Files and folders of images in place of a run; steps become images by --each; samples are drawn and tested."""
    digits = np.load(swept / "digits.npy")
    np.save(tmp_path / "t.npy", digits[:10])
    np.save(tmp_path / "h.npy", digits[10:60])
    for step in (5, 50):
        saved(tmp_path / "models" / f"step-{step}.safetensors", step)
    arguments = ("monitor", tmp_path / "t.npy", tmp_path / "models", "--holdout", tmp_path / "h.npy")
    options = (
        "--each",
        4,
        "--count",
        5,
        "--set",
        "sample.method=heun",
        "--set",
        "sample.steps=4",
        "--outputs",
        tmp_path,
    )
    done = command(*arguments, *options, "--run", "own", "--json").done()
    assert [row["images_seen"] for row in done.json["timeline"]] == [20, 200]
    drawn = done.json["drawn"]
    assert [row["samples"] for row in drawn] == [5, 5]
    assert (tmp_path / "own" / "timeline.png").exists()
    # The same samples, tested by the function that tests any.
    T, H = (memgen.read_images(tmp_path / f"{name}.npy", deduplicate=False) for name in "th")
    network = checkpoints.load(tmp_path / "models" / "step-50.safetensors")[0]
    settings = memgen.SampleSettings(method="heun", steps=4, n_samples=5)
    mean = torch.cat([T.floats(), H.floats()]).mean(dim=0)
    images = sampling.sample(network, mean, range(5), 0, settings).images
    (row,) = find_copies(memgen.subject(samples=images, train=T, held_out=H))[1].to_pylist()
    assert [drawn[1][name] for name in ("memorized_fraction", "low", "high", "p")] == pytest.approx(
        [row[name] for name in ("memorized_fraction", "low", "high", "p")],
        rel=0.1,  # p-values by random labels, here ten times as many
    )
    for step in (5, 50):
        saved(tmp_path / "others" / f"step-{step}.safetensors", step)
    other = ("monitor", tmp_path / "t.npy", tmp_path / "others", "--holdout", tmp_path / "h.npy")
    command(*other, *options, "--run", "own").failed(3, "holds readings of other checkpoints")
    names = [command(*each, *options, "--json").done().err.splitlines()[0] for each in (arguments, other, arguments)]
    assert names[0] == names[2] != names[1]
    saved(tmp_path / "models" / "step-70.safetensors", 70)
    grown = command(*arguments, *options, "--run", "own", "--json").done().json["timeline"]
    assert [row["images_seen"] for row in grown] == [20, 200, 280]
    changed = json.loads((tmp_path / "own" / "monitor.json").read_text())
    assert changed["samples"] == 5
    command(*arguments, "--each", 4, "--outputs", tmp_path, "--run", "own").failed(3, "other images or settings")


def test_what_does_not_go_together(tmp_path):
    np.save(tmp_path / "t.npy", np.zeros((3, 8, 8), np.uint8))
    saved(tmp_path / "m" / "1.safetensors")
    command("monitor", tmp_path / "t.npy", tmp_path / "m").failed(2, "no held-out images, expected both")
    command("monitor", "--holdout", tmp_path / "t.npy").failed(2, "--holdout is for checkpoints of your own")
    arguments = ("monitor", tmp_path / "t.npy", tmp_path / "m", "--holdout", tmp_path / "t.npy", "--outputs", tmp_path)
    command(*arguments, "--n", 4).failed(2, "choose models of a run")
    np.save(tmp_path / "color.npy", np.arange(3 * 192, dtype=np.uint8).reshape(3, 8, 8, 3))
    arguments = ("monitor", tmp_path / "color.npy", tmp_path / "m", "--holdout", tmp_path / "color.npy")
    command(*arguments, "--outputs", tmp_path).failed(3, "1.safetensors: takes images of shape (1, 8, 8)")
