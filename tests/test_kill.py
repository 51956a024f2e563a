"""Killed at any moment, a sweep that is run again ends with the tables, images and weights of an undisturbed one."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import killing
import program
import pytest
from elsewhere import is_alive, wait_for
from program import memgen

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")

# The moment after a file is that before the next one, unless a step of the work ends with it.
FEW = {
    *("before denoisers/*.json", "after tables/split", "after denoisers/*.pt", "after transition.parquet"),
    *("importing", "training", "sampling"),
}
ALL = FEW | {f"{when} {kind}" for kind in (*killing.KINDS, *killing.REPORTED) for when in ("before", "after")}


@pytest.mark.parametrize("planned", [FEW, pytest.param(ALL, marks=pytest.mark.slow)], ids=["few", "all"])
def test_killed_again_and_again(config, finished, tmp_path, planned):
    """SIGKILL during import, training, sampling, indexing, table writing: nothing stays behind and nothing changes."""
    killed_at(planned, tmp_path / "tiny", "sweep", "--config", config)
    program.assert_same_runs(tmp_path / "tiny", finished)


def killed_at(planned: set[str], run: Path, command: str, *arguments: str | Path) -> None:
    """Give a command on a run again and again, each time until one of the moments, and at last to its end."""
    killed, moments = run.parent / "killed.json", run.parent / "moments.json"
    moments.write_text(json.dumps(sorted(planned)))
    given = [command, "--outputs", run.parent, "--run", run.name, "--jobs", "1", *arguments]
    process = [sys.executable, killing.__file__, run, killed, moments, *given]
    ended = subprocess.run(list(map(str, process)), capture_output=True, text=True, env=program.environment())
    assert ended.returncode == 0, ended.stderr
    assert sorted(json.loads(killed.read_text())) == sorted(planned)
    assert not list(run.rglob("*.tmp*"))
    assert json.loads((run / "run.json").read_text())["status"] == "idle"


# A run that is extended to more samples: measures are removed, settings changed, images written, and then their table.
GROWING = {"removed similarity", "removed levels", "removed neighbors", "sampling"}
GROWING |= {"before samples/*.npy", "after samples/*.npy", "after tables/samples"}


@pytest.mark.slow
def test_killed_while_a_run_is_extended(config, finished, tmp_path, monkeypatch):
    """More samples of a finished run: it ends as a run that was made with their number, whenever it is killed."""
    run, nine = tmp_path / "tiny", ("--set", "sample.n_samples=9", "--config", config, "--outputs")
    shutil.copytree(finished, run)
    killed_at(GROWING, run, "sample", "--count", "9")
    monkeypatch.setattr("memgen.cli.whole.write_report", lambda workspace, as_json: print(workspace.run.path))
    again = ("sweep", "--run", "tiny", "--jobs", "1")
    memgen(*again, *nine, tmp_path).done()
    memgen(*again, *nine, tmp_path / "whole").done()
    monkeypatch.undo()
    for outputs in (tmp_path, tmp_path / "whole"):
        memgen("report", "--sweep", "--outputs", outputs).done()
    program.assert_same_runs(run, tmp_path / "whole" / "tiny")


def start(config: Path, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "memgen", "sweep", "--config", str(config), "--run", "tiny", "--jobs", "2"]
    return subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, env=program.environment(), start_new_session=True
    )


def workers(parent: int) -> list[int]:
    """The process ids of the workers of a sweep."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers through /proc")
@pytest.mark.slow
def test_killed_parent_takes_its_workers_along(config, finished, tmp_path):
    """No worker outlives a killed parent, to write on without the lock; the next run ends with the same tables."""
    with start(config, tmp_path) as running:
        try:
            wait_for(lambda: list(tmp_path.glob("outputs/tiny/denoisers/*.json")))
            pids = workers(running.pid)
            assert len(pids) == 2
            os.kill(running.pid, signal.SIGKILL)
            wait_for(lambda: not any(map(is_alive, pids)), seconds=10)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
        assert "Traceback" not in running.stderr.read()
    assert not (tmp_path / "outputs/tiny/report").exists()
    arguments = ["--config", config, "--outputs", tmp_path / "outputs", "--run", "tiny", "--jobs", "1"]
    memgen("sweep", *arguments).done()
    program.assert_same_runs(tmp_path / "outputs/tiny", finished)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers through /proc")
def test_killed_worker(config, tmp_path):
    """A worker that is killed, as for lack of memory, ends the sweep with one message that says what to do."""
    with start(config, tmp_path) as running:
        try:
            wait_for(lambda: list(tmp_path.glob("outputs/tiny/denoisers/*.json")))
            os.kill(workers(running.pid)[0], signal.SIGKILL)
            err = running.communicate(timeout=60)[1]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    program.Outcome(running.returncode, "", err).failed(4, "a worker process was killed", "--jobs 1")
