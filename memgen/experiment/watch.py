"""How far a sweep or an audit is that another process works on, perhaps on another machine.

All of it comes from the files of the run: its tables, and what the work tells of its progress (`journal`). Nothing is
written but a page, and the lock of the run is left alone.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc

from memgen.base import files, wording
from memgen.base.errors import MemgenError
from memgen.experiment import audit, cost, journal, present, reproduce, runs, tasks
from memgen.experiment.audit_settings import NAME
from memgen.experiment.journal import Stage
from memgen.experiment.settings import RunSettings
from memgen.experiment.tasks import Task
from memgen.experiment.workspace import Workspace
from memgen.models import sampling
from memgen.report import live
from memgen.report.live import Live

State = Literal["waiting", "running", "stopped", "finished"]
_MISSED_S = 5.0  # time without a beat after which a process that works counts as dead
_BETWEEN_S = 10.0  # the same for one that is between two parts of its work, and holds no lock
_BEGINNING_S = 120.0  # time that a run may take to begin
_POINTS = 64  # of a curve
_PAGE_SHARE = 0.1  # of the time may go into the page


@dataclass(frozen=True)
class Row:
    """A task of a sweep, or a step of an audit.

    Attributes:
        name: of the task or of the step.
        state: waiting, what is being done, or what was done last.
        under_way: whether it is being worked on.
        steps_done: steps that are done.
        steps: steps.
        done: items done of the step under way: images of a training, updates of a sampling, images of a search. None
            where nothing is under way or nothing is counted.
        total: items of the step under way, for a sampling those to be expected.
        per_second: items a second of the step under way, lately.
        images_seen: training images seen at each point of the curves.
        loss: squared error summed over pixels, in the course of the training, thinned to at most 64 values.
        psnr_db: mean PSNR of denoised training images at these points, in dB.
        held_out_db: mean PSNR of denoised held-out images over all noise levels, in dB, measured after the training.
    """

    name: str
    state: str
    under_way: bool
    steps_done: int
    steps: int
    done: int | None = None
    total: int | None = None
    per_second: float | None = None
    images_seen: Sequence[int] = ()
    loss: Sequence[float] = ()
    psnr_db: Sequence[float] = ()
    held_out_db: float | None = None


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        run: its name.
        kind: sweep or audit.
        state: waiting (not begun), running, stopped (nobody works on it, but work is missing) or finished.
        rows: its tasks or steps.
        seconds_left: time that is left, or of an audit that of the step under way; None where it is not known.
        command: what goes on with a run that has stopped.
        report: the page of the finished run.
    """

    run: str
    kind: str
    state: State
    rows: Sequence[Row]
    seconds_left: float | None
    command: str
    report: str

    @property
    def done(self) -> int:
        """Steps that are done."""
        return sum(row.steps_done for row in self.rows)

    @property
    def total(self) -> int:
        """Steps."""
        return sum(row.steps for row in self.rows)

    @property
    def headline(self) -> str:
        """The state in a sentence or two."""
        steps = f"{self.done} of {self.total} steps are done"
        if self.state == "finished":
            return f"The {self.kind} {self.run} is finished."
        if self.state == "waiting":
            return f"The {self.kind} {self.run} has not begun."
        if self.state == "stopped":
            return (
                f"The {self.kind} {self.run} has stopped: no process works on it, and {steps}. To go on: {self.command}"
            )
        if self.seconds_left is None:
            return f"The {self.kind} {self.run} is running: {steps}."
        of = " of what is under way" if self.kind == runs.AUDIT else ""
        return f"The {self.kind} {self.run} is running: {steps}. Time left{of}: {wording.duration(self.seconds_left)}."


class Pulse:
    """Whether a process works on a run, judged by what is seen of its lock and of its beats.

    Args:
        run: the run.
    """

    def __init__(self, run: runs.Run) -> None:
        self._run, self._beat, self._seen = run, run.last_beat, time.monotonic()

    def __call__(self) -> bool | None:
        """Whether one does; None while this cannot be told yet, for some seconds at most."""
        beat, now = self._run.last_beat, time.monotonic()
        lives = self._run.is_locked_here or beat != self._beat
        if lives:
            self._beat, self._seen = beat, now
            return True
        # An interruption or an error is the last thing that a process writes.
        missed = {"running": _MISSED_S, "idle": _BETWEEN_S}.get(self._run.manifest["status"], 0.0)
        return None if now - self._seen < missed else False


def follow(run: runs.Run, every: float) -> Iterator[Status]:
    """The status of a run again and again, until it is finished or has stopped, which the last status says.

    Args:
        run: a sweep or an audit.
        every: seconds between two looks.

    Raises:
        DataError: a file of the run is damaged.
    """
    pulse, begun = Pulse(run), time.monotonic()
    while True:
        lives = pulse()
        found = _ended(run) if lives is None else None
        found = found or look(run, lives is not False)
        if found.state == "waiting" and time.monotonic() - begun > _BEGINNING_S:
            found = replace(found, state="stopped")
        yield found
        if found.state in ("finished", "stopped"):
            return
        time.sleep(every)


def once(run: runs.Run) -> Status:
    """The status of a run now; it takes some seconds to see that a run has stopped.

    Raises:
        DataError: a file of the run is damaged.
    """
    pulse = Pulse(run)
    while (lives := pulse()) is None:
        if found := _ended(run):
            return found
        time.sleep(runs.BEAT_S / 4)
    return look(run, lives)


def _ended(run: runs.Run) -> Status | None:
    """The status of a run whose last command said that it ended, if nothing is missing; else None."""
    found = look(run, False)
    return found if run.manifest["status"] != "running" and found.state != "stopped" else None


def look(run: runs.Run, lives: bool) -> Status:
    """What the files of a run say of it.

    Args:
        run: a sweep or an audit.
        lives: whether a process works on it.
    """
    is_sweep = run.kind == runs.SWEEP
    rows, seconds = _sweep(run, lives) if is_sweep else _audit(run, lives)
    report = run.report / "report.html"
    complete = report.exists() and all(row.steps_done == row.steps for row in rows)
    manifest = run.manifest
    never = manifest["status"] == "idle" and manifest["wall_seconds"] == 0
    state: State = "waiting" if never else "running" if lives else "finished" if complete else "stopped"
    return Status(run.name, run.kind, state, rows, seconds if lives else None, reproduce.continuing(run), str(report))


# ------------------------------------------------------------------------------------------------- a sweep


def _sweep(run: runs.Run, lives: bool) -> tuple[list[Row], float | None]:
    workspace = Workspace.of(run, "cpu")
    settings = workspace.settings
    listed = tasks.tasks(settings.cells)
    stages = {task.name: journal.read(run, task.name) for task in listed}
    current = {name for name in stages if lives and _is_current(run, name)}
    done = {task.name: [verb for verb in task.verbs if tasks.is_done(workspace, task, verb)] for task in listed}
    rows = [_row(workspace, task, done[task.name], stages[task.name], task.name in current) for task in listed]
    under_way = sum(row.under_way for row in rows)
    return rows, _seconds_left(settings, listed, done, stages, max(1, under_way))


def _is_current(run: runs.Run, name: str) -> bool:
    """Whether a journal was written since the run's manifest was, which every command does when it begins."""
    try:
        return run.journal_path(name).stat().st_mtime_ns >= (run.path / "run.json").stat().st_mtime_ns
    except FileNotFoundError:  # it was not begun, or has ended just now
        return False


def _row(workspace: Workspace, task: Task, done: list[tasks.Verb], stages: list[Stage], current: bool) -> Row:
    state = tasks.DONE[done[-1]] if done else "waiting"
    counted: dict[str, Any] = {}
    under_way = bool(current and stages) and not (stages[-1].ended and stages[-1].name == task.verbs[-1])
    if under_way:
        state = next(text for verb, text in tasks.DOING.items() if verb == stages[-1].name)
        counted = _counted(stages[-1])
        if stages[-1].name == "sample" and counted:  # all samples end together, so their updates tell more
            updates = sampling.expected_updates(workspace.settings.sample)
            counted = {"done": min(updates, stages[-1].measured[-1]["step"]), "total": updates}
    return Row(
        name=task.name,
        state=state,
        under_way=under_way,
        steps_done=len(done),
        steps=len(task.verbs),
        **counted,
        **_curves(workspace.run, task, stages),
    )


def _counted(stage: Stage) -> dict[str, Any]:
    """How far a stage is that counts items, and how fast it is."""
    if stage.total <= 1 or stage.ended:
        return {}
    return {"done": stage.done, "total": stage.total, "per_second": stage.per_second}


def _curves(run: runs.Run, task: Task, stages: list[Stage]) -> dict[str, Any]:
    """Loss and PSNR in the course of a training, and PSNR on held-out images once it is measured."""
    if task.cell is None:
        return {}
    told: Sequence[Mapping[str, Any]]
    if run.has_table("training", task.name):
        told = run.table("training", task.name).to_pylist()
    else:
        told = [{**row, "images_seen": row["done"]} for row in _measured(stages, "train")]
    chosen = [told[i * (len(told) - 1) // max(1, min(len(told), _POINTS) - 1)] for i in range(min(len(told), _POINTS))]
    found: dict[str, Any] = {
        "images_seen": [row["images_seen"] for row in chosen],
        "loss": [row["loss"] for row in chosen],
        "psnr_db": [row["output_psnr_db"] for row in chosen],
    }
    if run.has_table("psnr", task.name):
        measured = run.table("psnr", task.name).filter(pc.field("kind") == "holdout")["output_psnr_db"]
        found["held_out_db"] = pc.mean(measured).as_py()
    return found


def _measured(stages: Sequence[Stage], name: str) -> Sequence[Mapping[str, Any]]:
    return next((stage.measured for stage in stages if stage.name == name), ())


def _seconds_left(
    settings: RunSettings,
    listed: Sequence[Task],
    done: Mapping[str, Sequence[str]],
    stages: Mapping[str, Sequence[Stage]],
    at_a_time: int,
) -> float | None:
    """The time that is left of a sweep: the images that are left, at the speeds seen, divided among the workers.

    It is never less than the longest of the tasks takes. Where no sampling was seen yet, a network takes a third of the
    time for an image that a training takes, which also goes back.
    """
    trained = [rows[-1]["seconds"] / rows[-1]["done"] for each in stages.values() if (rows := _measured(each, "train"))]
    drawn = [found for each in stages.values() for stage in each if (found := _per_denoised(stage, settings))]
    if not trained and not drawn:
        return None
    each_trained = float(np.median(trained)) if trained else 0.0
    each_denoised = float(np.median(drawn)) if drawn else each_trained / 3
    each = []
    for task in listed:
        if task.cell is None:
            continue
        seconds = 0.0
        for verb, images in cost.passes(settings, task.cell).items():
            of_task = done[task.cell.pair] if verb == "compare" else done[task.name]
            left = 0.0 if verb in of_task else 1 - _share(stages[task.name], verb, settings)
            seconds += images * left * (each_trained if verb == "train" else each_denoised)
        each.append(seconds)
    return max(sum(each) / at_a_time, *each)


def _share(stages: Sequence[Stage], verb: str, settings: RunSettings) -> float:
    """The share of a step that is done."""
    rows = _measured(stages, verb)
    if not rows:
        return 0.0
    if verb == "sample":  # all samples go through the updates together
        return float(min(1, rows[-1]["step"] / sampling.expected_updates(settings.sample)))
    return float(min(1, rows[-1]["done"] / rows[-1]["total"]))


def _per_denoised(stage: Stage, settings: RunSettings) -> float | None:
    """Seconds that an image took through the network in a sampling; None for other stages."""
    if stage.name != "sample" or not stage.measured:
        return None
    last = stage.measured[-1]
    images = (settings.sample.n_samples - stage.first) * last["step"]
    return (last["time"] - stage.begun) / images if images > 0 else None


# ------------------------------------------------------------------------------------------------- an audit


def _audit(run: runs.Run, lives: bool) -> tuple[list[Row], float | None]:
    stages, rows, begun, seconds = journal.read(run, NAME), [], False, None
    for name, (done, total) in audit.steps(run).items():
        state = "done" if done == total else "waiting"
        row = Row(name=name, state=state, under_way=False, steps_done=done, steps=total)
        if done < total and not begun and stages and lives:
            begun, now = True, stages[-1]
            row = replace(row, state=now.name, under_way=True, **_counted(now))
            seconds = _left(now, time.time())
        rows.append(row)
    return rows, seconds


def _left(stage: Stage, at: float) -> float | None:
    """Seconds that are left of a stage at a time, by its speed lately or by that since its beginning, the lower one.

    Parts of a search differ, and a cluster tells of each only at its end. So a long silence makes the speed lower.
    """
    if not _counted(stage) or stage.per_second is None:
        return None
    since = (stage.done - stage.first) / (at - stage.begun) if at > stage.begun else stage.per_second
    return (stage.total - stage.done) / min(since, stage.per_second)


# ------------------------------------------------------------------------------------------------- for people


def shown(status: Status, most: int | None = None) -> Live:
    """A status as people read it: sentences and a table.

    Args:
        status: of a run.
        most: rows of the table. Those that are done are left out first, and then those that wait; None shows all.
    """
    is_sweep = status.kind == runs.SWEEP
    columns = ["model" if is_sweep else "step", "state", "progress", "per second"]
    if is_sweep:
        columns += ["steps", "loss", "training PSNR, dB", "held-out PSNR, dB"]
    rows, chosen = [], _chosen(status.rows, most)
    for row in chosen:
        progress = "" if row.done is None else f"{row.done:,} of {row.total:,}"
        speed = "" if row.per_second is None else wording.number(row.per_second, "images")
        cells = [row.name, row.state, progress, speed]
        if is_sweep:
            loss, psnr = (
                f"{wording.sparkline(values)} {values[-1]:.4g}" if values else "" for values in (row.loss, row.psnr_db)
            )
            held_out = "" if row.held_out_db is None else f"{row.held_out_db:.2f}"
            cells += [f"{row.steps_done} of {row.steps}", loss, psnr, held_out]
        rows.append(cells)
    lines = [status.headline]
    if left := len(status.rows) - len(chosen):
        lines.append(f"{left} rows that are done or wait are not shown.")
    return Live(lines, columns, rows)


def _chosen(rows: Sequence[Row], most: int | None) -> Sequence[Row]:
    """The rows to show, in their order: first of all those that are under way, then the next ones, then the last."""
    if most is None or len(rows) <= most:
        return rows
    under_way = [i for i, row in enumerate(rows) if row.under_way]
    waiting = [i for i, row in enumerate(rows) if not row.under_way and row.steps_done < row.steps]
    done = [i for i, row in enumerate(rows) if not row.under_way and row.steps_done == row.steps]
    return [rows[i] for i in sorted([*under_way, *waiting, *reversed(done)][: max(1, most)])]


class Page:
    """The page `report/watch.html`, which a browser loads again and again while a run is under way.

    A thread makes it. The state at its top is always that of the last look. What the run has measured is shown anew
    when there is more of it, and takes a tenth of the time at most.

    Args:
        run: the run.
        every: seconds after which a browser loads it again.
    """

    def __init__(self, run: runs.Run, every: int) -> None:
        self.path = run.report / "watch.html"
        self._run, self._every = run, every
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[str] | None = None
        self._made, self._top, self._of = "", "", 0.0  # the page, the state in it, and how new the tables in it are
        self._begun = self._took = 0.0

    def show(self, status: Status, wait: bool = False) -> str:
        """Begin to write the page, unless that of an earlier look is still being written.

        Args:
            status: what it shows.
            wait: whether to return only when it is written.

        Returns:
            Why an earlier page could not be made, such as a table that vanished while it was read; else nothing.
        """
        told = ""
        if self._writing and (wait or self._writing.done()):
            told = self._writing.result()
        if self._writing is None or self._writing.done():
            self._writing = self._thread.submit(self._write, status)
        return self._writing.result() if wait else told

    def _write(self, status: Status) -> str:
        top, over = shown(status), status.state in ("finished", "stopped")
        if status.state == "finished":
            top = replace(top, refresh=0, then="report.html")
        elif not over:
            top = replace(top, refresh=self._every)
        rested = time.monotonic() - self._begun > self._took / _PAGE_SHARE
        try:  # what is read may vanish, and a command that begins removes temporary files
            newest = max((path.stat().st_mtime for path in (self._run.path / "tables").rglob("*.parquet")), default=0.0)
            if over or not self._made or (newest != self._of and rested):
                self._begun = time.monotonic()
                self._made, self._of = self._whole(status, top), newest
                self._took = time.monotonic() - self._begun
            else:
                self._made = self._made.replace(self._top, live.section(top), 1)
            self._top = live.section(top)
            with files.writing(self.path) as file:
                file.write(self._made.encode())
        except (MemgenError, OSError) as error:
            return f"The page could not be made: {error}"
        return ""

    def _whole(self, status: Status, top: Live) -> str:
        """The page of what the run has measured so far, or of its state alone."""
        made = None
        if status.state == "finished":  # the browser goes on to the report
            pass
        elif self._run.kind == runs.SWEEP:
            made = present.page_so_far(Workspace.of(self._run, "cpu"), top)
        else:
            made = audit.page_so_far(self._run, top)
        return made or live.render(f"memgen: {status.run}", top)
