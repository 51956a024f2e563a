"""A run that is extended to more samples: what is kept, what is drawn, and what was measured of fewer."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from program import memgen

from memgen.base.errors import ConfigError
from memgen.experiment import make, measure
from memgen.experiment.runs import Run
from memgen.experiment.workspace import Workspace

pytestmark = pytest.mark.usefixtures("unrendered")

OF_SAMPLES = ("neighbors", "significance", "copies", "similarity", "distances", "transition", "levels")


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory) -> Path:
    """The finished run with a denoiser, the weights of a cell, and with given samples, both measured; only to be read."""
    outputs = tmp_path_factory.mktemp("measured")
    run, seen, there = outputs / "tiny", outputs / "seen.npy", ("--outputs", outputs)
    shutil.copytree(finished, run)
    np.save(seen, np.load(run / "images" / "pixels.npy")[:, 0][:20])
    given = ("--trained-on", seen, *there)
    memgen("import", run / "denoisers" / "n4-s0-a.safetensors", "--name", "theirs", *given).done()
    memgen("import", seen, "--as", "samples", "--name", "pictures", *given).done()
    memgen("verdict", "--jobs", "1", *there).done()
    memgen("peers", "--subject", "theirs", *there).done()
    memgen("nn-search", "--subject", "theirs", "--k", "2", *there).done()
    memgen("calibrate", "--n", "8", "--repeats", "2", *there).done()
    return run


@pytest.fixture
def imported(measured, tmp_path, monkeypatch) -> Run:
    """A copy of that run, the only one under outputs/ in the current folder."""
    shutil.copytree(measured, tmp_path / "outputs" / "tiny")
    monkeypatch.chdir(tmp_path)
    return Run(tmp_path / "outputs" / "tiny")


def samples(run: Run, name: str) -> np.ndarray:
    return np.load(run.samples_path(name))


def test_finished_samples_are_kept_and_the_missing_ones_drawn(imported):
    """Of every model, trained or imported; the new samples of an imported cell are those of the cell itself."""
    names = ["n1-s0-a", "n1-s0-b", "n4-s0-a", "n4-s0-b", "theirs"]
    before, pictures = {name: samples(imported, name) for name in names}, samples(imported, "pictures")
    rows = imported.table("samples", "theirs")
    shown = memgen("sample", "--count", "9", "--jobs", "1", "--json").done()
    assert {name: sum(found.values()) for name, found in shown.json["samples"].items()} == dict.fromkeys(names, 9)
    assert "now has 9 samples of each model instead of 6" in shown.err
    for name in names:
        assert len(samples(imported, name)) == 9
        np.testing.assert_array_equal(samples(imported, name)[:6], before[name])
    np.testing.assert_array_equal(samples(imported, "theirs"), samples(imported, "n4-s0-a"))
    assert imported.table("samples", "theirs").slice(0, 6).equals(rows)
    assert imported.table("samples", "theirs")["sample"].to_pylist() == list(range(9))
    np.testing.assert_array_equal(samples(imported, "pictures"), pictures)
    assert json.loads((imported.path / "run.json").read_text())["config"]["sample"]["n_samples"] == 9


def test_what_was_measured_of_fewer_samples_is_gone(imported):
    """No table of the old samples stays; what is known of training images, of given samples and of denoisers does."""
    psnr = {name: imported.table_path("psnr", name).stat().st_mtime_ns for name in imported.table_names("psnr")}
    memgen("sample", "--count", "9", "--n", "4", "--jobs", "1").done()
    for kind in ("similarity", "distances", "calibration", "transition", "levels", "peers"):
        assert imported.table_names(kind) == [], kind
    assert imported.table_names("copies") == imported.table_names("significance") == ["pictures"]
    left = {kind: imported.table(kind).to_pylist() for kind in ("neighbors", "searches")}
    assert {row["subject"] for row in left["neighbors"] if row["query_kind"] == "sample"} == {"pictures"}
    assert {row["query_kind"] for row in left["neighbors"]} == {"sample", "holdout"}
    assert not any(row["query_kind"] == "sample" for row in left["searches"])
    assert psnr == {name: imported.table_path("psnr", name).stat().st_mtime_ns for name in imported.table_names("psnr")}


def test_a_model_with_too_few_samples_is_not_measured(imported):
    """Only the models of N = 4 were extended. The others are refused, left out of the report, and extended later."""
    memgen("sample", "--count", "9", "--n", "4", "--jobs", "1").done()
    assert (len(samples(imported, "n4-s0-a")), len(samples(imported, "n1-s0-a"))) == (9, 6)
    memgen("nn-search", "--n", "1").failed(4, "has 6 of 9 samples of n1-s0-a", "memgen sample --subject n1-s0-a")
    memgen("peers", "--subject", "theirs").failed(4, "has 6 of 9 samples of theirs")
    memgen("nn-search", "--n", "4").done()
    found = memgen("report", "--sweep", "--json").done().json["summary"]
    counted = {(row["n_train"], row["subject"]): row["n"] for row in found if row["quantity"] == "unconverged"}
    assert {n for n in counted.values() if n} == {18}
    memgen("verdict", "--jobs", "1").done()
    assert set(imported.table("copies")["samples"].to_pylist()) == {9, 20}
    assert memgen("peers", "--subject", "theirs", "--json").done().json["peers"][0]["n"] == 9
    memgen("calibrate", "--n", "8", "--repeats", "2").done()
    assert imported.table("calibration").filter(imported.table("calibration")["samples"].to_numpy() == 6).num_rows == 0


def test_samples_are_never_removed(tiny):
    """Fewer than there are is refused, and nothing changes; a number that no model has reached yet can be taken back."""
    run, before = Run(tiny), (tiny / "run.json").read_text()
    memgen("sample", "--count", "5").failed(2, "found 6 samples of n1-s0-a, but 5 were asked for", "at least 6")
    assert json.loads((tiny / "run.json").read_text())["config"] == json.loads(before)["config"]
    assert all(run.table_names(kind) for kind in OF_SAMPLES)
    far = Workspace.of(run, "cpu").with_samples(1_000_000)
    assert far.settings.sample.n_samples == 1_000_000
    assert far.with_samples(6).settings.sample.n_samples == 6
    with pytest.raises(ConfigError, match="5 were asked for"):
        far.with_samples(5)
    workspace = Workspace.of(run, "cpu")
    assert len(measure.search_own(workspace, "n4-s0-a")[0]) == 18


def test_the_same_count_again_changes_nothing(tiny):
    """No sample is drawn and no table removed."""
    before = {path: path.stat().st_mtime_ns for path in (tiny / "tables").rglob("*.parquet")}
    assert "instead of" not in memgen("sample", "--count", "6", "--jobs", "1").done().err
    assert {path: path.stat().st_mtime_ns for path in (tiny / "tables").rglob("*.parquet")} == before


def test_a_wrong_choice_is_refused_before_anything_is_removed(tiny):
    """A subject that cannot be sampled leaves the run as it was."""
    memgen("sample", "--count", "9", "--subject", "nobody").failed(4, "no subject 'nobody'")
    memgen("sample", "--count", "9", "--n", "5").failed(4, "no N = 5")
    assert Workspace.of(Run(tiny), "cpu").settings.sample.n_samples == 6
    assert all(Run(tiny).table_names(kind) for kind in OF_SAMPLES)


def test_a_config_of_fewer_samples_continues_an_extended_run(tiny, config):
    """The sweep that made the run goes on with the larger number, and says so; a larger one in its settings extends it."""
    memgen("sample", "--count", "9", "--jobs", "1").done()
    given = ("data", "import", "--config", config, "--run", "tiny")
    assert "keeps 9 samples of each model; sample.n_samples = 6 removes none" in memgen(*given).done().err
    said = memgen(*given, "--set", "sample.n_samples=12").done().err
    assert "\nThe run now has 12 samples of each model instead of 9. What was measured of 9 is removed." in said
    assert Workspace.of(Run(tiny), "cpu").settings.sample.n_samples == 12
    memgen(*given, "--set", "sample.h0=0.5").failed(
        2, "sample.h0 is 0.01 in the run, and 0.5 in this command", "sample.n_samples of a"
    )


def test_paths_of_an_extended_run(tiny):
    """The way of all samples is kept, and finished samples stay as they are, even if they would now come out otherwise."""
    changed = samples(Run(tiny), "n4-s0-a") + np.float32(0.25)
    np.save(tiny / "samples" / "n4-s0-a.npy", changed)
    memgen("sample", "--part", "a", "--count", "9", "--trajectories", "10").done()
    np.testing.assert_array_equal(samples(Run(tiny), "n4-s0-a")[:6], changed)
    with np.load(tiny / "samples" / "n4-s0-a.path.npz") as path:
        assert path["path"].shape[1] == 9
    assert set(Run(tiny).table("trajectory", "n4-s0-a")["sample"].to_pylist()) == set(range(9))
    memgen("sample", "--part", "a", "--count", "10").done()
    assert Run(tiny).table_names("trajectory") == []
    assert not (tiny / "samples" / "n4-s0-a.path.npz").exists()


def test_progress_counts_finished_samples(tiny):
    """The bar starts at the samples that are kept and ends at the number of all."""
    workspace, seen = Workspace.of(Run(tiny), "cpu").with_samples(9), []
    make.sample_subject(workspace, "n4-s0-a", lambda ended, step: seen.append(ended))
    assert 6 <= seen[0] <= seen[-1] == 9


def test_samples_whose_file_is_gone_are_drawn_again(tiny):
    """All of them, the same bits, and the table lists each once."""
    whole = samples(Run(tiny), "n4-s0-a")
    (tiny / "samples" / "n4-s0-a.npy").unlink()
    memgen("sample", "--count", "9", "--jobs", "1").done()
    np.testing.assert_array_equal(samples(Run(tiny), "n4-s0-a")[:6], whole)
    assert Run(tiny).table("samples", "n4-s0-a")["sample"].to_pylist() == list(range(9))
