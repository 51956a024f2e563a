"""memgen watch: what it says of runs that have not begun, that are under way, that were killed, and that are finished."""

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import program
import pytest
from elsewhere import wait_for
from program import memgen, memgen_process
from rich.console import Console

from memgen.base import files, wording
from memgen.cli import terminal
from memgen.experiment import audit, cost, executors, journal, runs, tasks, watch
from memgen.experiment.journal import Journal
from memgen.experiment.workspace import Workspace
from memgen.models import sampling
from memgen.report import live

pytestmark = pytest.mark.usefixtures("unrendered")

ROOT = Path(__file__).parents[1]


def state_of(run: Path) -> dict[str, tuple[int, bytes]]:
    """All files of a run but its page, with their times and contents."""
    found = {path: path for path in run.rglob("*") if path.is_file() and path.name != "watch.html"}
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def killed(run: Path, *missing: str) -> runs.Run:
    """A finished run as a killed process leaves it: without some files, and said to be running."""
    for name in missing:
        (run / name).unlink()
    files.write_json(run / "run.json", json.loads((run / "run.json").read_text()) | {"status": "running"})
    return runs.Run(run)


# ------------------------------------------------------------------------------------------------- the journal


def test_a_journal_tells_beginnings_and_ends_and_once_a_second_between(tmp_path, monkeypatch):
    """Of 1,000 pieces of news in 10 s about 10 are kept; of a long stage fewer, and never its end less."""
    run, clock = runs.Run(tmp_path), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    tell = Journal(run, "one")
    tell("train", 0, 1)
    for i in range(1, 1001):
        clock[0] += 0.01
        tell("train", i, 1000, loss=1 / i)
    tell("train", 1, 1)
    lines = files.read_json_lines(run.journal_path("one"))
    assert [line["done"] for line in lines[:2]] == [0, 1]
    assert [line["done"] for line in lines[-2:]] == [1000, 1]
    assert 11 <= len(lines) <= 15
    long = Journal(run, "long")
    for i in range(100_000):
        clock[0] += 1
        long("train", i, 10**6)
    assert 256 < len(files.read_json_lines(run.journal_path("long"))) < 256 * 10


def test_a_journal_is_read_without_a_line_that_is_cut_and_with_what_was_done_again(tmp_path):
    """The stage told of last is the last; a training that went back to 40 images counts what came after it."""
    run = runs.Run(tmp_path)
    path = run.journal_path("cell")
    for at, done in ((1.0, 20), (2.0, 40), (3.0, 60), (4.0, 80)):
        files.append_json(path, {"time": at, "stage": "train", "done": done, "total": 100, "loss": done})
    files.append_json(path, {"time": 9.0, "stage": "sample", "done": 0, "total": 1})
    for at, done in ((20.0, 60), (22.0, 80)):
        files.append_json(path, {"time": at, "stage": "train", "done": done, "total": 100, "loss": done + 1})
    with open(path, "ab") as file:
        file.write(b'{"time": 23.0, "stage": "tra')
    drawn, trained = journal.read(run, "cell")
    assert (drawn.name, trained.name, trained.done, trained.total, trained.ended) == ("sample", "train", 80, 100, False)
    assert [row["loss"] for row in trained.measured] == [20, 40, 61, 81]
    assert (trained.begun, trained.first, trained.per_second) == (20.0, 60, 10.0)
    assert journal.read(run, "nothing") == []


# ------------------------------------------------------------------------------------------------- states


def test_no_run(tmp_path):
    """It says that there is none."""
    memgen("watch", "--outputs", tmp_path).failed(4, "no run in")
    memgen("watch", "--outputs", tmp_path, "--run", "theirs").failed(4, "no run 'theirs'")


def test_a_run_that_has_not_begun(tmp_path, config):
    """It waits, and nothing of it is done."""
    from memgen.base import config as configuration
    from memgen.experiment.settings import RunSettings

    settings = configuration.load(RunSettings, config)
    runs.create(tmp_path, "new", settings.model_dump(mode="json"), "cpu")
    found = memgen("watch", "--outputs", tmp_path, "--json", "--no-page").done().json
    assert (found["state"], found["headline"]) == ("waiting", "The sweep new has not begun.")
    assert {row["state"] for row in found["rows"]} == {"waiting"}
    assert [row["name"] for row in found["rows"]] == ["n1-s0-a", "n1-s0-b", "n4-s0-a", "n4-s0-b", "n1-s0", "n4-s0"]


def test_a_finished_run(tiny):
    """It ends at once with the report, changes no file, and its page goes on to the report."""
    before = state_of(tiny)
    done = memgen("watch").done()
    assert done.out.strip() == str(Path("outputs/tiny/report/report.html"))
    assert "The sweep tiny is finished." in done.err
    assert state_of(tiny) == before
    assert 'content="0; url=report.html"' in (tiny / "report" / "watch.html").read_text()
    found = memgen("watch", "--json").done().json
    assert (found["state"], found["seconds_left"]) == ("finished", None)
    assert all(row["steps_done"] == row["steps"] for row in found["rows"])


def test_on_a_terminal_and_once(tiny, monkeypatch):
    """The table has a row for each model, with its last loss; on a terminal it is drawn in place."""
    loss = f"{watch.look(runs.Run(tiny), False).rows[0].loss[-1]:.4g}"
    drawn = Console(file=io.StringIO(), force_terminal=True, width=140, height=40)
    for options in (("--once", "--no-page"), ("--no-page",)):
        monkeypatch.setattr(terminal, "console", drawn)
        assert memgen("watch", *options).done().out.strip().endswith("report.html")
        lines = [line for line in drawn.file.getvalue().splitlines() if "n1-s0-a" in line]
        assert lines
        assert all(loss in line and "measured" in line for line in lines)
        drawn.file.truncate(drawn.file.seek(0))


def test_curves_and_held_out_psnr_are_those_of_the_tables(tiny):
    """Of a trained model: the last loss and PSNR of its training, and the mean PSNR on held-out images."""
    run = runs.Run(tiny)
    row = next(row for row in watch.look(run, False).rows if row.name == "n4-s0-b")
    told = run.table("training", "n4-s0-b").to_pylist()
    assert list(row.loss) == [each["loss"] for each in told]
    assert list(row.psnr_db) == [each["output_psnr_db"] for each in told]
    psnr = [each for each in run.table("psnr", "n4-s0-b").to_pylist() if each["kind"] == "holdout"]
    assert row.held_out_db == pytest.approx(np.mean([each["output_psnr_db"] for each in psnr]))
    loss, _, held_out = watch.shown(watch.look(run, False)).rows[3][-3:]
    assert loss.split() == [wording.sparkline(row.loss), f"{row.loss[-1]:.4g}"]
    assert held_out == f"{row.held_out_db:.2f}"


def test_a_killed_run_is_called_stopped(tiny, monkeypatch):
    """No lock and no beat, but work is missing: exit code 4 with the command that goes on."""
    monkeypatch.setattr(watch, "_MISSED_S", 0.3)
    killed(tiny, "tables/copies/n4-s0-a.parquet", "tables/similarity/n4-s0-a+n4-s0-b.parquet")
    found = memgen("watch", "--json", "--no-page").done().json
    states = {row["name"]: (row["state"], row["steps_done"], row["steps"]) for row in found["rows"]}
    assert states["n4-s0-a"] == ("measured", 4, 5)
    assert states["n4-s0"] == ("waiting", 0, 1)
    assert states["n1-s0"] == ("compared", 1, 1)
    assert found["state"] == "stopped"
    words = ("has stopped: no process works on it, and 21 of 23 steps", "To go on: ")
    memgen("watch", "--every", "0.2", "--no-page").failed(4, *words)
    assert found["command"] == "memgen sweep --run tiny --outputs outputs --jobs 1"


def test_the_command_that_goes_on_keeps_who_does_the_work_and_how(tiny, monkeypatch):
    """Memory, device, executor and address are those of the last sweep, not of commands after it; no defaults."""
    monkeypatch.setattr(watch, "_MISSED_S", 0.0)
    monkeypatch.setenv(files.MEMORY, "2")
    ray = ("--executor", "ray", "--address", "head node:6379", "--device", "cpu")
    table = "tables/copies/n4-s0-a.parquet"
    run, local = runs.Run(Path("outputs/tiny")), executors.find

    def find(name, resources, jobs, address, folder):
        if name == "ray":  # which has no cluster here
            return local("local", resources, 1, None, folder)
        return local(name, resources, jobs, address, folder)

    monkeypatch.setattr(executors, "find", find)
    memgen("--memory", 1.5, "sweep", "--run", "tiny", *ray).done()
    killed(tiny, table)
    words = ["memgen", "--memory", "1.5", "sweep", "--run", "tiny", "--outputs", "outputs", "--device", "cpu"]
    words += ["--executor", "ray", "--address", "head node:6379"]
    assert shlex.split(memgen("watch", "--json", "--no-page").done().json["command"]) == words
    monkeypatch.setenv(files.MEMORY, "2")
    memgen("verdict", "--jobs", 1).done()
    assert shlex.split(watch.look(run, False).command) == words
    memgen("sweep", "--run", "tiny", "--device", "cpu").done()
    killed(tiny, table)
    stopped = watch.look(run, False)
    assert stopped.command == "memgen sweep --run tiny --outputs outputs --device cpu"
    memgen(*shlex.split(stopped.command)[1:]).done()
    assert watch.look(run, False).state == "finished"


def test_a_run_that_is_worked_on_is_seen_without_touching_its_lock(tiny, monkeypatch):
    """Through the list of locks of this machine, or else through the beats, as from another machine; else it is dead."""
    run = killed(tiny, "tables/copies/n4-s0-a.parquet")
    pulse = watch.Pulse(run)
    with run.working():
        if sys.platform == "linux":
            assert run.is_locked_here
            assert pulse() is True
        monkeypatch.setattr(runs.Run, "is_locked_here", False)
        pulse = watch.Pulse(run)
        assert pulse() is None
        assert wait_for(pulse, seconds=5)
        assert watch.once(run).state == "running"
    monkeypatch.setattr(watch, "_BETWEEN_S", 0.3)
    assert watch.once(run).state == "stopped"


# ------------------------------------------------------------------------------------------------- under way


def told(run: runs.Run, name: str, stage: str, begun: float, news: list[tuple[float, int, int, dict]]) -> None:
    """A journal: the beginning of a stage, and news of it."""
    lines = [(begun, 0, 1, {}), *news]
    for at, done, total, more in lines:
        files.append_json(run.journal_path(name), {"time": at, "stage": stage, "done": done, "total": total, **more})


def test_progress_and_time_left_of_a_sweep(tiny):
    """What is left, at the speeds that the work has told, divided among two workers."""
    for kind in ("subjects", "training", "samples", "neighbors", "significance", "copies", "psnr", "similarity"):
        for path in (tiny / "tables" / kind).glob("*n4*"):
            path.unlink()
    for kind in ("neighbors", "distances"):
        for path in (tiny / "tables" / kind).glob("*n4*"):
            path.unlink()
    run = killed(tiny)
    measured = {"step": 60, "seconds": 12.0, "loss": 3.5, "output_psnr_db": 20.5}
    news = [(10.0, 200, 400, {**measured, "seconds": 10.0}), (12.0, 240, 400, measured)]
    told(run, "n4-s0-a", "train", 0.0, news)
    told(run, "n4-s0-b", "train", 0.0, [(20.0, 400, 400, {**measured, "seconds": 20.0}), (20.0, 1, 1, {})])
    told(run, "n4-s0-b", "sample", 20.0, [(30.0, 0, 6, {"step": 10})])
    found = watch.look(run, True)
    rows = {row.name: row for row in found.rows}
    one, other = rows["n4-s0-a"], rows["n4-s0-b"]
    assert (one.state, one.done, one.total, one.per_second) == ("training", 240, 400, 20.0)
    assert (list(one.loss), list(one.psnr_db)) == ([3.5, 3.5], [20.5, 20.5])
    settings = Workspace.of(run, "cpu").settings
    updates = sampling.expected_updates(settings.sample)
    assert (other.state, other.done, other.total) == ("sampling", 10, updates)
    cell = next(cell for cell in settings.cells if cell.name == "n4-s0-a")
    passes = cost.passes(settings, cell)
    trained, denoised = 0.05, 10.0 / (6 * 10)  # 12 s for 240 images, and 10 s for 10 updates of 6 samples
    rest = (passes["psnr"] + passes["compare"]) * denoised
    left = [160 * trained + passes["sample"] * denoised + rest]
    left.append(passes["sample"] * denoised * (1 - 10 / updates) + rest)
    assert found.seconds_left == pytest.approx(max(sum(left) / 2, *left))
    assert f"Time left: {wording.duration(found.seconds_left)}." in found.headline
    assert watch.look(run, False).seconds_left is None


def test_the_page_shows_what_is_there_so_far_and_reloads_itself(tiny):
    """Pictures and measurements, under a state that follows every look; nothing else is written."""
    run = killed(tiny, "tables/similarity/n4-s0-a+n4-s0-b.parquet", "report/report.html")
    before, status = state_of(tiny), watch.look(run, True)
    page = watch.Page(run, 3)
    assert page.show(status, wait=True) == ""
    html = page.path.read_text()
    assert '<meta http-equiv="refresh" content="3">' in html
    assert "The sweep tiny is running: 22 of 23 steps are done." in html
    assert "Samples and their nearest training images" in html
    later = replace(status, rows=[replace(row, state="<later>") for row in status.rows])
    page.show(later, wait=True)
    assert page.path.read_text() == html.replace(live.section(_top(status)), live.section(_top(later)))
    assert page.path.read_text().count("&lt;later&gt;") == len(status.rows)
    assert state_of(tiny) == before
    page.show(replace(status, state="stopped"), wait=True)
    assert 'http-equiv="refresh"' not in page.path.read_text()


def _top(status: watch.Status) -> live.Live:
    return replace(watch.shown(status), refresh=3)


def test_a_page_that_cannot_be_made_says_why(tiny):
    """It names the table, and the page of the next look is there."""
    run = killed(tiny, "report/report.html")
    table = tiny / "tables" / "psnr" / "n4-s0-a.parquet"
    whole, status = table.read_bytes(), watch.look(run, True)
    table.write_bytes(b"damaged")
    page = watch.Page(run, 3)
    assert str(table) in page.show(status, wait=True)
    assert not page.path.exists()
    table.write_bytes(whole)
    assert page.show(status, wait=True) == ""
    assert page.path.exists()


def test_a_long_table_keeps_what_is_under_way():
    """What is done is left out first, its oldest rows before the others, and then what waits."""
    row = watch.Row(name="", state="", under_way=False, steps_done=0, steps=1)
    rows = [replace(row, name=f"done {i}", steps_done=1) for i in range(4)]
    rows += [replace(row, name="works", under_way=True), *(replace(row, name=f"waits {i}") for i in range(2))]
    status = watch.Status("x", "sweep", "running", rows, None, "", "")
    assert [each[0] for each in watch.shown(status, 4).rows] == ["done 3", "works", "waits 0", "waits 1"]
    assert watch.shown(status, 4).lines[1] == "3 rows that are done or wait are not shown."
    assert [each[0] for each in watch.shown(status, 2).rows] == ["works", "waits 0"]
    assert len(watch.shown(status).rows) == 7


def test_sparklines_and_durations():
    """The lowest value is the lowest block and the highest the highest; many values are averaged in parts."""
    assert wording.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert wording.sparkline([3.0, 3.0]) == "▁▁"
    assert wording.sparkline([]) == ""
    assert wording.sparkline([0, 2, 10, 12], width=2) == "▁█"
    assert [wording.duration(seconds) for seconds in (7.4, 600, 9000)] == ["7 s", "10 min", "2.5 h"]


# ------------------------------------------------------------------------------------------------- audits


@pytest.fixture
def sets(tmp_path, digits) -> dict[str, Path]:
    """Files of samples, training images and held-out images; five samples are training images."""
    images = np.load(digits)
    chosen = {"train": images[:30], "held out": images[30:60], "samples": np.concatenate([images[60:], images[:5]])}
    for name, pixels in chosen.items():
        np.save(tmp_path / f"{name}.npy", pixels)
    return {name: tmp_path / f"{name}.npy" for name in chosen}


def test_time_left_grows_while_nothing_is_told():
    """What began fast and then is silent is not said to end soon: an audit searches its cheap spaces first."""
    stage = journal.Stage("searching", 100.0, 105.0, 0, 500, 4000, 100.0, False, ())
    assert watch._left(stage, 105.0) == pytest.approx(35)
    assert watch._left(stage, 90.0) == pytest.approx(35)  # the clock of another machine
    assert watch._left(stage, 150.0) == pytest.approx(350)
    assert watch._left(replace(stage, per_second=50.0), 105.0) == pytest.approx(70)
    assert watch._left(replace(stage, total=1), 105.0) is None
    assert watch._left(replace(stage, per_second=None), 105.0) is None


def test_an_audit_from_its_beginning_to_its_end(sets, tmp_path):
    """At each stage the status says what is done and counted; stopped, its command finishes the same audit."""
    seen: list[watch.Status] = []
    pages: list[str] = []
    outputs = tmp_path / "out puts"

    def look(what: str, done: int, total: int) -> None:
        run = runs.Run(outputs / "a1")
        seen.append(watch.look(run, True))
        if len(seen) == 1 or (what, done) == ("planting copies", 3):
            pages.append(audit.page_so_far(run, watch.shown(seen[-1])) or "")
        if len(pages) == 2:
            raise KeyboardInterrupt

    given = (sets["samples"], sets["train"], sets["held out"])
    with pytest.raises(KeyboardInterrupt):
        audit.audit(*given, outputs, "a1", look, calibrate=1, q=0.1, spaces=("pixels", "blurred"), color="gray")
    names = ["reading images", "testing for copies", "planting copies", "writing the page"]
    assert [row.name for row in seen[-1].rows] == names
    under_way = [next(row for row in status.rows if row.under_way) for status in seen]
    assert {row.name for row in under_way} == set(names[1:3])
    searches = [row for row in under_way if row.state == "searching for the samples" and row.name == names[1]]
    assert searches[-1].total == 25
    assert under_way[-1].done <= 3  # at most one line a second is told
    assert under_way[-1].total == 22
    assert not pages[0]
    assert pages[-1].count('alt="training image"') > 4
    assert "is running: 2 of 4 steps are done." in pages[-1]
    run = runs.Run(outputs / "a1")
    stopped = watch.once(run)
    assert (stopped.state, stopped.done, stopped.total) == ("stopped", 2, 4)
    words = shlex.split(stopped.command)
    assert memgen(*words[1:], "--device", "cpu", "--jobs", 2).done().path == run.report / "report.html"
    assert shlex.split(watch.look(run, False).command) == [*words, "--device", "cpu", "--jobs", "2"]
    assert watch.once(run).state == "finished"
    assert not run.progress.exists()


# ------------------------------------------------------------------------------------------------- as people use it


def started(folder: Path, *arguments: str | Path) -> subprocess.Popen:
    """memgen in a process of its own."""
    command = [sys.executable, "-m", "memgen", *map(str, arguments)]
    where = {"cwd": folder, "env": program.environment()}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **where)


@pytest.mark.slow
def test_a_sweep_is_watched_to_its_end(tmp_path):
    """While it trains there are losses and a time left; the watch ends by itself when the sweep does."""
    with started(tmp_path, "sweep", "--config", ROOT / "configs/smoke.toml", "--run", "smoke", "--jobs", "1") as work:
        wait_for((tmp_path / "outputs/smoke/progress/n1-s0-b.jsonl").exists, seconds=120)
        looked = memgen_process("watch", "--json", "--no-page", cwd=tmp_path).done().json
        assert looked["state"] == "running"
        assert looked["seconds_left"] > 0
        assert {row["state"] for row in looked["rows"] if row["under_way"]} <= set(tasks.DOING.values())
        assert any(row["under_way"] for row in looked["rows"])
        first = looked["rows"][0]
        assert first["held_out_db"] > 0
        assert len(first["loss"]) == 10
        assert first["loss"][-1] < first["loss"][0]
        once = memgen_process("watch", "--once", cwd=tmp_path).done()
        assert "n64-s0-b" in once.err
        ended = memgen_process("watch", "--every", "0.5", cwd=tmp_path).done()
        assert work.wait(timeout=60) == 0
    assert ended.path == Path("outputs/smoke/report/report.html")
    assert "n64-s0: compared" in ended.err
    assert ended.err.splitlines()[-1] == "The sweep smoke is finished."


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")
def test_a_sweep_that_was_killed(config, finished, tmp_path):
    """Killed in a training, it is called stopped; its command makes the run that an undisturbed sweep makes."""
    with started(tmp_path, "sweep", "--config", config, "--run", "tiny", "--jobs", "1") as work:
        wait_for(lambda: list(tmp_path.glob("outputs/tiny/denoisers/n1-s0-b.json")), seconds=120)
        os.kill(work.pid, signal.SIGKILL)
    ended = memgen_process("watch", cwd=tmp_path)
    command = "memgen sweep --run tiny --outputs outputs --jobs 1"
    ended.failed(4, "has stopped: no process works on it", command)
    memgen_process(*command.split()[1:], cwd=tmp_path).done()
    program.assert_same_runs(tmp_path / "outputs/tiny", finished)
    assert "is finished" in memgen_process("watch", cwd=tmp_path).done().err
    shutil.rmtree(tmp_path / "outputs")


@pytest.mark.slow
def test_an_audit_is_watched_to_its_end(sets, tmp_path):
    """The watch begins before the audit has read its images, and ends with its page."""
    given = (sets["samples"], sets["train"], "--holdout", sets["held out"], "--calibrate", "1", "--run", "a1")
    with started(tmp_path, "audit", *given) as work:
        wait_for((tmp_path / "outputs/a1/run.json").exists)
        ended = memgen_process("watch", "--every", "0.2", cwd=tmp_path).done()
        assert work.wait(timeout=60) == 0
    assert ended.path == Path("outputs/a1/report/report.html")
    assert "planting copies: " in ended.err
    assert ended.err.splitlines()[-1] == "The audit a1 is finished."
