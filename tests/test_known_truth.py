"""The whole instrument on models whose answer is known: it must read what is there."""

import numpy as np
import pytest

from memgen.base import config
from memgen.experiment import executors, make, measure, present, runs, sweep, tasks
from memgen.experiment.settings import RunSettings
from memgen.experiment.workspace import Workspace

SMALL = [
    "data.resize=8",
    "data.limit=5000",
    "split.holdout=256",
    "sample.sigma_end=0.02",
    "sample.n_samples=48",
    "psnr.n_images=32",
    "psnr.sigmas=[0.1, 0.5]",
]


def swept(tmp_path, verbs, *settings):
    """A run on the embedded images at 8x8, after these steps of a sweep."""
    chosen = config.load(RunSettings, None, [*SMALL, *settings])
    run = runs.create(tmp_path, "truth", chosen.model_dump(mode="json"), "cpu")
    workspace = Workspace(run, chosen, "cpu")
    with run.working():
        make.import_data(workspace)
        sweep.execute(workspace, tasks.tasks(chosen.cells, verbs), executors.find("local"), lambda event: None)
    return workspace


def read(tmp_path, *settings):
    """The verdict and the TRANSITION rows of a sweep."""
    workspace = swept(tmp_path, tasks.VERBS, *settings)
    with workspace.run.working():
        verdict, table, _ = present.write_report(workspace)
    rows = {(row["n_train"], row["quantity"]): row for row in table.to_pylist()}
    return workspace, verdict, rows


@pytest.mark.slow
def test_a_model_that_has_memorized_is_read_as_such(tmp_path):
    """The posterior mean of the training images draws training images, all of them, and is said to, at every N."""
    workspace, verdict, rows = read(tmp_path, "model.architecture=empirical", "sweep.n_train=[1, 4, 64, 512]")
    assert set(verdict.regimes.values()) == {"memorizes"}
    for n_train in (1, 4, 64, 512):
        for part in ("a", "b"):
            found = measure.search_own(workspace, f"n{n_train}-s0-{part}")[0].to_pandas()
            assert (found.query("rank == 1")["value"] > 0.999).all()
        share = rows[n_train, "memorized_fraction"]
        assert share["estimate"] == 1
        assert share["high"] == 1
    assert rows[512, "memorized_fraction"]["low"] > 0.8
    assert rows[None, "N_half"]["estimate"] is None
    for row in workspace.run.table("copies").to_pylist():
        nearest = workspace.run.table("significance", row["subject"]).to_pandas()
        assert row["answer"] == "found"
        assert row["discoveries"] == nearest["nearest_id"].nunique()  # every training image drawn is found
        assert row["discoveries"] + row["attached"] == row["samples"] == 48
        assert set(nearest["nearest_in"]) == {"T"}
        assert row["p"] < 0.01
    assert "copy their training sets" in verdict.sentences[0]


@pytest.mark.slow
def test_a_model_that_generalizes_is_read_as_such(tmp_path):
    """Wiener filters of two halves agree at large N without copying, and not at small N."""
    workspace, verdict, rows = read(
        tmp_path, "model.architecture=gaussian", "sweep.n_train=[4, 1024]", "sample.n_samples=128"
    )
    assert verdict.regimes[1024] == "generalizes"
    assert rows[1024, "cross_same"]["estimate"] > 0.97 > rows[4, "cross_same"]["estimate"]
    low, high = rows[1024, "memorized_fraction"]["low"], rows[1024, "memorized_fraction"]["high"]
    assert low < 0 < high < 0.5
    assert rows[1024, "disagreement"]["estimate"] < 0.1 * rows[4, "disagreement"]["estimate"]
    assert not list((workspace.run.path / "denoisers").glob("*.safetensors"))
    for row in workspace.run.table("copies").to_pylist():
        if row["n_train"] == 1024:
            assert row["answer"] in ("none", "cannot decide")
            assert row["discoveries"] == 0
            assert row["low"] < 0 < row["high"]


@pytest.mark.slow
def test_patches_recombine(tmp_path):
    """The local denoiser draws images that are no training images, though every patch is known to it."""
    settings = [
        "model.architecture=local",
        "model.patch=3",
        "sweep.n_train=[16]",
        "sample.n_samples=8",
        "psnr.n_images=4",
    ]
    workspace, _, rows = read(tmp_path, *settings)
    assert rows[16, "nearest_own"]["estimate"] < 0.99
    drawn = workspace.load_samples("n16-s0-a").images
    assert np.isfinite(drawn).all()


@pytest.mark.parametrize("model", ["empirical", "gaussian"])
def test_same_denoiser_every_time(tmp_path, model):
    """A closed form is fitted anew whenever it is used, to the same images with the same result."""
    few = ("sweep.n_train=[8]", "sample.n_samples=4", "data.limit=600")
    workspace = swept(tmp_path, ("train", "sample"), f"model.architecture={model}", *few)
    kept = workspace.load_samples("n8-s0-a").images
    again = Workspace.of(workspace.run, "cpu")
    workspace.run.samples_path("n8-s0-a").unlink()
    make.sample_subject(again, "n8-s0-a")
    np.testing.assert_array_equal(again.load_samples("n8-s0-a").images, kept)
