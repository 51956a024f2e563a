"""What work under way tells of its progress, for `memgen watch`: lines of JSON in a folder of the run.

    progress/NAME.jsonl   of a task of a sweep, or of an audit: time, stage, items done, items, and what was measured

Each process writes for its own task, so this works with every executor. No result depends on these files. They are
removed when the work has ended well; see `Run.working`.
"""

import time
from dataclasses import dataclass
from typing import Any

from memgen.base import files
from memgen.experiment import runs

_EVERY_S = 1.0  # at most one line in this time
_LATELY = 12  # lines from which the speed is told
_NEWS = {"time", "stage", "done", "total"}
_LINES = 256  # in a long stage, about so many lines for each doubling of its time


class Journal:
    """Tells of the progress of one task.

    The beginning and the end of a stage are always told, and the first news between them. Other news is left out if it
    comes less than a second after the last, or sooner than 1/256 of the time that the stage has taken.

    Args:
        run: the run.
        name: of the task, and of the file.
    """

    def __init__(self, run: runs.Run, name: str) -> None:
        self._path = run.journal_path(name)
        self._stage, self._told = "", 0
        self._begun = self._last = 0.0

    def __call__(self, stage: str, done: int, total: int, **measured: float) -> None:
        """Tell that so many items of a stage are done.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._told, self._begun = stage, 0, now
        elif self._told > 1 and done < total and now - self._last < max(_EVERY_S, (now - self._begun) / _LINES):
            return
        self._told, self._last = self._told + 1, now
        line = {"time": round(time.time(), 3), "stage": stage, "done": done, "total": total, **measured}
        files.append_json(self._path, line)


@dataclass(frozen=True)
class Stage:
    """A stage of a task, as its journal tells it.

    Attributes:
        name: of the stage.
        begun: when it was last begun, in seconds since 1970.
        last: when it last told of its progress, in seconds since 1970.
        first: items that were done when it told of them for the first time since.
        done: items done.
        total: items.
        per_second: items a second, lately; None where this is not known.
        ended: whether nothing is left of it.
        measured: what was measured on the way, in ascending order of `done`, as rows of numbers. Where the work was
            interrupted and parts were done again, these are the later ones.
    """

    name: str
    begun: float
    last: float
    first: int
    done: int
    total: int
    per_second: float | None
    ended: bool
    measured: tuple[dict[str, Any], ...]


def read(run: runs.Run, name: str) -> list[Stage]:
    """The stages that a task has told of; the one that it told of last is the last one."""
    blocks: dict[str, list[list[dict[str, Any]]]] = {}
    previous = None
    for line in files.read_json_lines(run.journal_path(name)):
        if line["stage"] != previous:
            blocks[line["stage"]] = [*blocks.pop(line["stage"], []), []]
        blocks[line["stage"]][-1].append(line)
        previous = line["stage"]
    return [_stage(name, of_stage) for name, of_stage in blocks.items()]


def _stage(name: str, blocks: list[list[dict[str, Any]]]) -> Stage:
    """A stage that was begun once or several times, from its lines."""
    rows: list[dict[str, Any]] = []
    for block in blocks:
        again = [line for line in block if line.keys() > _NEWS]
        rows = [row for row in rows if not again or row["done"] < again[0]["done"]] + again
    last = blocks[-1]
    # A step of a sweep says that it begins and ends in units of itself, and in between it counts items.
    items = [line for line in last if line["total"] > 1] or last
    lately = items[-_LATELY:]
    seconds, count = lately[-1]["time"] - lately[0]["time"], lately[-1]["done"] - lately[0]["done"]
    measured = tuple({key: value for key, value in row.items() if key != "stage"} for row in rows)
    return Stage(
        name=name,
        begun=last[0]["time"],
        last=last[-1]["time"],
        first=items[0]["done"],
        done=items[-1]["done"],
        total=items[-1]["total"],
        per_second=count / seconds if seconds > 0 and count > 0 else None,
        ended=last[-1]["done"] >= last[-1]["total"],
        measured=measured,
    )
