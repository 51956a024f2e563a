"""Clusters of near-duplicates, spread over an executor: see `memgen.images.duplicates.leaders`.

Rows are taken in rounds, in their order. Of each round, tasks compare some rows with some of the leaders of earlier
rounds, and write the closest one of each row. This process then compares the rows of the round with each other, as it
would alone. So all but one round's worth of the products is done by tasks, and the result is that of one process, byte
for byte: which leader is the closest does not depend on how the leaders were divided, and float64 decides.

    leaders-KEY/                 KEY is a digest of the ids of the images, the threshold and the sizes below
      rows.npy                   the rows; or images.json and order.npy, if images lie in files where they are
      axes.npy                   the axes of the sketches
      START.npz                  a round that is done: leader and correlation of its rows
      START-sketches.npy         sketches of its leaders
      START-FIRST.npz            what a task has found for rows from START among the leaders from FIRST, until the round
                                 is done

A task reads 132 bytes for each leader, and the rows of those pairs that sketches do not settle.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memgen.base import files
from memgen.base.errors import DataError, first_line
from memgen.base.progress import Progress
from memgen.base.strings import Strings
from memgen.experiment.executors import Executor, News, Report
from memgen.experiment.spread import file_of, images_in, keep_images, read_arrays, save, write_arrays
from memgen.images import duplicates
from memgen.images.duplicates import Block, Lead, Leaders, Ordered, Pairs, Pixels, Rows, Sketch
from memgen.images.gathered import Gathered

_ROUND = 2**16  # rows of a round
_ROWS = 2**13  # rows of a task
_ROUNDS = 16  # rounds whose leaders a task compares them with, at most
_WRITTEN_BYTES = 2**24  # of rows at a time
_SKETCHES = "-sketches.npy"  # end of names


def lead_by(executor: Executor | None, folder: Path, progress: Progress) -> Lead:
    """What finds the near-duplicates of a run: an executor, or this process if there is none.

    Args:
        executor: what does the tasks.
        folder: for files, which all machines of the executor see.
        progress: called with (rows done, rows).
    """
    return (
        functools.partial(duplicates.alone, progress=progress)
        if executor is None
        else Spread(executor, folder, progress)
    )


@dataclass(frozen=True)
class Compare:
    """A task: to find the closest leader of each of some rows among the leaders of some earlier rounds.

    Attributes:
        folder: of the rows.
        threshold: correlation above which two rows are near-duplicates.
        start: number of the first row.
        stop: number after that of the last.
        rounds: number of the first row of each of the earlier rounds.
    """

    folder: Path
    threshold: float
    start: int
    stop: int
    rounds: tuple[int, ...]

    @property
    def found(self) -> Path:
        """The file of what is found."""
        return self.folder / f"{self.start}-{self.rounds[0]}.npz"


class Spread:
    """A `Lead` whose work an executor does.

    Args:
        executor: what does the tasks.
        folder: for files, which all machines of the executor see. What it holds is not needed any more once the result
            is kept elsewhere.
        progress: called with (rows done, rows).
    """

    def __init__(self, executor: Executor, folder: Path, progress: Progress) -> None:
        self._executor, self._folder, self._progress = executor, folder.absolute(), progress

    def __call__(self, rows: Rows, ids: Strings | None, threshold: float, leading: int) -> Leaders:
        """The leader of each row; see `duplicates.leaders`.

        Raises:
            DataError: a file that an interrupted search has left is damaged.
        """
        if len(rows) <= _ROUND:
            return duplicates.alone(rows, ids, threshold, leading, progress=self._progress)
        assert ids is not None  # they say whether files that are there are about these rows
        about = [files.digest_all(ids), type(rows).__name__, *rows.shape, threshold, leading, _ROUND, _ROWS, _ROUNDS]
        folder = self._folder / f"leaders-{files.digest_json(about)}"
        _keep(rows, folder)
        if not (folder / "axes.npy").exists():
            for path in folder.glob(f"*{_SKETCHES}"):
                path.unlink()  # sketches along other axes bound nothing
            sketch = Sketch.of(rows, threshold)
            save(folder / "axes.npy", np.empty((rows.shape[1], 0), np.float32) if sketch is None else sketch.axes)
        for start in range(0, len(rows), _ROUND):
            if not _is_done(folder, start):
                self._lead(folder, threshold, start, min(start + _ROUND, len(rows)), leading)
        done = [read_arrays(_round(folder, start)) for start in range(0, len(rows), _ROUND)]
        return np.concatenate([each["leader"] for each in done]), np.concatenate([each["correlation"] for each in done])

    def _lead(self, folder: Path, threshold: float, start: int, stop: int, leading: int) -> None:
        """Find the leaders of the rows of a round, and write them."""
        earlier, known = range(0, start, _ROUND), min(max(leading, start), stop)
        tasks = [
            Compare(folder, threshold, row, min(row + _ROWS, stop), tuple(earlier[first : first + _ROUNDS]))
            for row in range(known, stop, _ROWS)
            for first in range(0, len(earlier), _ROUNDS)
        ]
        rows, sketch = _opened(folder)
        left = [task for task in tasks if not task.found.exists()]
        done = itertools.count(1 + len(tasks) - len(left))

        def hear(news: News[Any]) -> None:
            if news.state == "finished":
                self._progress(start + (stop - start) * next(done) // (1 + len(tasks)), len(rows))

        self._executor.map(compare, left, hear)
        before = duplicates.best([_found(task.found) for task in tasks])
        led = duplicates.lead_within(rows, threshold, sketch, start, stop, before, leading)
        if sketch is not None:
            save(
                _sketches(folder, start),
                np.concatenate([block.sketches for block in led.kept if block.sketches is not None]),
            )
        write_arrays(_round(folder, start), {"leader": led.leader, "correlation": led.correlation})
        for task in tasks:
            task.found.unlink()
        self._progress(stop, len(rows))


def compare(task: Compare, report: Report) -> None:
    """Do a task, unless its file is there."""
    if task.found.exists():
        return
    rows, sketch = _opened(task.folder)
    earlier = [block for start in task.rounds for block in _leaders(task.folder, start, sketch, rows)]
    row, leader, correlation = duplicates.closest(
        rows, task.threshold, sketch, np.arange(task.start, task.stop), earlier
    )
    write_arrays(task.found, {"row": row, "leader": leader, "correlation": correlation})


def _leaders(folder: Path, start: int, sketch: Sketch | None, rows: Rows) -> Iterator[Block]:
    """The leaders of a round that is done, with their sketches or without."""
    leader = read_arrays(_round(folder, start))["leader"]
    positions = start + np.flatnonzero(leader == np.arange(start, start + len(leader)))
    sketches = None if sketch is None else _mapped(_sketches(folder, start))
    nothing, size = np.empty((0, rows.shape[1]), np.float32), duplicates.block_of(rows)
    for first in range(0, len(positions), size):
        part = slice(first, first + size)
        yield Block(positions[part], nothing, None if sketches is None else sketches[part])


def _keep(rows: Rows, folder: Path) -> None:
    """Write rows where tasks find them; images that lie in files stay where they are."""
    images = _images(rows)
    if images is not None:
        keep_images(images, folder)
    elif not (folder / "rows.npy").exists():
        step = max(1, _WRITTEN_BYTES // (8 * rows.shape[1]))
        first = np.asarray(rows[np.arange(1)])
        header = {
            "descr": np.lib.format.dtype_to_descr(first.dtype),
            "fortran_order": False,
            "shape": tuple(rows.shape),
        }
        with files.writing(folder / "rows.npy") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(rows), step):
                file.write(np.ascontiguousarray(rows[np.arange(start, min(start + step, len(rows)))]).data)


def _images(rows: Rows) -> Gathered | None:
    """The images whose pixels are the rows, if all of them lie in files."""
    if isinstance(rows, Ordered):
        images = _images(rows.rows)
        return None if images is None else Gathered(images.parts, images.order[rows.order])
    if not (isinstance(rows, Pixels) and isinstance(rows.images, Gathered)):
        return None
    return rows.images if all(file_of(part) for part in rows.images.parts) else None


def _opened(folder: Path) -> tuple[Rows, Sketch | None]:
    """The rows in a folder, none of them in memory, and their sketch."""
    path, axes = folder / "rows.npy", np.asarray(_mapped(folder / "axes.npy"))
    rows = _mapped(path) if path.exists() else Pixels(images_in(folder))
    return rows, Sketch(axes) if axes.shape[1] else None


def _is_done(folder: Path, start: int) -> bool:
    """Whether a round is done."""
    sketched = _mapped(folder / "axes.npy").shape[1] > 0
    return _round(folder, start).exists() and (not sketched or _sketches(folder, start).exists())


def _round(folder: Path, start: int) -> Path:
    return folder / f"{start}.npz"


def _sketches(folder: Path, start: int) -> Path:
    return folder / f"{start}{_SKETCHES}"


def _found(path: Path) -> Pairs:
    found = read_arrays(path)
    return found["row"], found["leader"], found["correlation"]


def _mapped(path: Path) -> NDArray[Any]:
    """An array in a file.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array
    except Exception as error:  # damaged files make NumPy raise many kinds
        raise DataError(
            f"{path}: missing or damaged ({first_line(error)}). Delete the file and run the command again."
        ) from error
