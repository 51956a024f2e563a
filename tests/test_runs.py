"""The run directory: found by name or age, locked while written to, removed whole."""

import subprocess
import sys
import time

import pytest

from memgen.base.errors import DataError, RunError
from memgen.experiment import runs
from memgen.experiment.runs import Cell

CONFIG = {"seed": 0}


def test_cells_have_names_of_their_own():
    """The name of a cell says N, seed and part; no other name is reserved, and no pair has the name of a subject."""
    cell = Cell(64, 3, "b")
    assert cell.name == "n64-s3-b"
    assert cell.twin == Cell(64, 3, "a")
    assert cell.pair == cell.twin.pair == "n64-s3"
    assert runs.is_cell_name(cell.name)
    for name in ("n64-s3", "n64-s3-c", "bf_cnn", "n64-s3-a.training"):
        assert not runs.is_cell_name(name)
    assert not runs.is_name(runs.pair_key(cell.name, cell.twin.name))


def test_the_newest_run_is_the_default(tmp_path):
    """No name means the newest; a name or a path means that one; an unknown name lists the known."""
    for name in ("zeta", "alpha"):
        runs.create(tmp_path, name, CONFIG, "cpu")
        time.sleep(0.002)
    assert runs.find(tmp_path, None).name == "alpha"
    assert runs.find(tmp_path, "zeta").name == "zeta"
    assert runs.find(tmp_path, str(tmp_path / "zeta")).path == tmp_path / "zeta"
    with pytest.raises(RunError, match="zeta, alpha"):
        runs.find(tmp_path, "beta")
    with pytest.raises(RunError, match="memgen demo"):
        runs.find(tmp_path / "empty", None)


def test_a_run_is_created_once(tmp_path):
    """The same name twice, or a name that is a path, is refused."""
    run = runs.create(tmp_path, "one", CONFIG, "cpu")
    assert run.manifest["config"] == CONFIG
    assert run.manifest["versions"]["torch"]
    with pytest.raises(RunError, match="exists"):
        runs.create(tmp_path, "one", CONFIG, "cpu")
    for name in ("../evil", "", "a/b", ".hidden"):
        with pytest.raises(RunError, match="run name"):
            runs.create(tmp_path, name, CONFIG, "cpu")


def test_a_run_is_locked_while_written_to(tmp_path):
    """A second process is refused, and the lock of a killed process is free at once."""
    run = runs.create(tmp_path, "one", CONFIG, "cpu")
    code = (
        "import sys, time; from pathlib import Path; from memgen.experiment.runs import Run\n"
        f"with Run(Path({str(run.path)!r})).working():\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="in use"), run.working():
            pass
        with pytest.raises(RunError, match="in use"):
            runs.remove(run)
        assert run.manifest["status"] == "running"
        other.kill()
    with run.working():
        pass
    assert run.manifest["status"] == "idle"


def test_status_and_time_are_recorded(tmp_path):
    """A failure is recorded as such, and wall time adds up over commands."""
    run = runs.create(tmp_path, "one", CONFIG, "cpu")

    def fail():
        with run.working():
            time.sleep(0.02)
            raise ValueError("of a stage")

    with pytest.raises(ValueError, match="of a stage"):
        fail()
    assert run.manifest["status"] == "failed"
    first = run.manifest["wall_seconds"]
    assert first >= 0.02
    with run.working():
        time.sleep(0.02)
    assert run.manifest["wall_seconds"] >= first + 0.02


def test_removed_runs_are_gone(tmp_path):
    """Nothing is left of a removed run, and the others stay."""
    one, two = (runs.create(tmp_path, name, CONFIG, "cpu") for name in ("one", "two"))
    (one.path / "denoisers").mkdir()
    (one.path / "denoisers" / "x.json").write_text("{}")
    runs.remove(one)
    assert not one.path.exists()
    assert [run.name for run in runs.list_runs(tmp_path)] == [two.name]


def test_tables_are_stacked_in_the_order_of_n(tmp_path):
    """Names sort by their numbers, so N = 4 comes before N = 16; a damaged table is named."""
    from memgen.base import schemas, tables

    run = runs.create(tmp_path, "one", CONFIG, "cpu")
    for n in (16, 4, 100):
        cell = Cell(n, 0, "a")
        row = {"step": 1, "images_seen": 1, "seconds": 0.0, "learning_rate": 0.1, "loss": 1.0, "output_psnr_db": 1.0}
        run.write_table("training", cell.name, tables.make(schemas.TRAINING, cell.keys | row))
    assert run.table("training").column("n_train").to_pylist() == [4, 16, 100]
    run.table_path("training", "n4-s0-a").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"n4-s0-a\.parquet"):
        run.table("training")


def test_a_damaged_manifest_hides_no_other_run(tmp_path):
    """A run whose run.json is damaged is named as such, and the others are found as before."""
    runs.create(tmp_path, "whole", CONFIG, "cpu")
    time.sleep(0.002)
    broken = runs.create(tmp_path, "broken", CONFIG, "cpu")
    (broken.path / "run.json").write_text('{"format": 2, ')
    assert runs.find(tmp_path, None).name == "whole"
    assert list(runs.damaged_runs(tmp_path)) == [broken.path]
    with pytest.raises(DataError, match=r"broken.run\.json"):
        _ = runs.find(tmp_path, "broken").manifest
    runs.remove(broken)
    assert not broken.path.exists()


@pytest.mark.parametrize("other", [1, 99])
def test_another_format_is_refused(tmp_path, other):
    """A run of an earlier or a later format is not misread: the message says what to do."""
    run = runs.create(tmp_path, "one", CONFIG, "cpu")
    path = run.path / "run.json"
    path.write_text(path.read_text().replace('"format": 2', f'"format": {other}'))
    with pytest.raises(RunError, match=rf"run format {other}, .* reads format 2\. Make the run again"):
        _ = run.manifest
