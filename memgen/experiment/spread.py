"""The search for copies, spread over an executor: each task looks for some samples in one space.

Where a network computes the vectors of a space, tasks compute those of some images of the pool first, and all searches
look them up.

Tasks read the images of the pool and the samples where they lie, if they lie in files. What a task finds is one file,
so a search that was interrupted goes on where it stopped. Samples are cut where a search in one process cuts them, so
the result is the same.
"""

import functools
import io
import itertools
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from memgen.base import files
from memgen.base.errors import DataError, first_line
from memgen.base.progress import Progress
from memgen.base.strings import Strings
from memgen.experiment.executors import Executor, News, Report
from memgen.images.gathered import Gathered, Images, numbers, tensor
from memgen.images.imageset import floats
from memgen.measures.copies import matching
from memgen.measures.copies.matching import Candidates, LeftOut, Matches
from memgen.measures.copies.sight import BLOCK, Searcher, Sight, spaces_of
from memgen.spaces import products
from memgen.spaces.learned import Stored

_ROWS = 2 * BLOCK  # samples, or images of the pool, of one task


@dataclass(frozen=True)
class Look:
    """A task: to look for some samples in one space.

    Attributes:
        pool: folder of the pool.
        queries: folder of the samples.
        space: name of the space.
        start: number of the first sample.
        stop: number after that of the last.
        exact: whether all images are searched, see `Searcher.see`.
    """

    pool: Path
    queries: Path
    space: str
    start: int
    stop: int
    exact: bool = False

    @property
    def found(self) -> Path:
        """The file of what is found."""
        return self.queries / f"{self.start}-{files.digest(self.space)[:12]}{'-exact' if self.exact else ''}.npz"


@dataclass(frozen=True)
class Embed:
    """A task: to compute the vectors of some images of the pool in a space of a network.

    Attributes:
        pool: folder of the pool.
        space: name of the space.
        start: number of the first image.
        stop: number after that of the last.
    """

    pool: Path
    space: str
    start: int
    stop: int

    @property
    def vectors(self) -> Path:
        """The file of the vectors."""
        return self.pool / f"vectors-{files.digest(self.space)[:12]}" / f"{self.start}.npy"

    @property
    def found(self) -> Path:
        """The file of the keys of the images, which is written last."""
        return self.vectors.with_suffix(".keys.npy")


class SpreadSearcher(Searcher):
    """A searcher whose work an executor does.

    Args:
        pool: the images, see `Searcher`.
        names: spaces that are searched.
        executor: what does the tasks.
        folder: for files, which all machines of the executor see.
        probes: lists of images that are searched for each sample; None searches all images.
    """

    def __init__(
        self, pool: Candidates, names: Sequence[str], executor: Executor, folder: Path, probes: int | None = None
    ) -> None:
        self._pool, self._names, self._executor, self._folder = pool, tuple(names), executor, folder
        self.space_of = spaces_of(names)
        _keep(pool, folder, probes)

    def see(
        self,
        images: Images | Tensor,
        left_out: LeftOut | None = None,
        progress: Progress | None = None,
        exact: bool = False,
    ) -> Sight:
        """Look for samples in all spaces; see `Searcher.see`."""
        looked_for = images.numpy() if isinstance(images, Tensor) else images
        gone = {} if left_out is None else {"unit": left_out.unit, "but": left_out.but}
        queries = self._folder / _digest(looked_for, *gone.values())
        keep_images(looked_for, queries)
        for name, array in gone.items():
            save(queries / f"{name}.npy", array)
        tasks = [
            Look(self._folder, queries, space, start, min(start + _ROWS, len(images)), exact)
            for space in self._names
            for start in range(0, max(1, len(images)), _ROWS)
        ]
        vectors = [
            task
            for space in self._names
            if matching.learned(space) is not None
            for task in _parts_of(self._folder, space, len(self._pool.ids))
            if not task.found.exists()
        ]
        done, total = [0], len(vectors) + len(tasks)

        def hear(news: News[Any]) -> None:
            done[0] += news.state == "finished"
            if progress:
                progress(done[0] * len(images) // total, len(images))

        self._executor.map(embed, vectors, hear)
        self._executor.map(look, tasks, hear)
        sights = (
            Sight.collected((_load(task.found) for task in tasks if task.space == space), len(images))
            for space in self._names
        )
        return Sight(tuple(matches for sight in sights for matches in sight.matches))


def look(task: Look, report: Report) -> None:
    """Do a task, unless its file is there."""
    if task.found.exists():
        return
    rows = slice(task.start, task.stop)
    images, left_out = tensor(images_in(task.queries), rows), None
    if (task.queries / "unit.npy").exists():
        left_out = LeftOut(*(np.load(task.queries / f"{name}.npy")[rows] for name in ("unit", "but")))
    sight = _searcher(task.pool, task.space).see(images, left_out, exact=task.exact)
    found = {f"{i}.{name}": array for i, matches in enumerate(sight.matches) for name, array in vars(matches).items()}
    write_arrays(task.found, found)


def embed(task: Embed, report: Report) -> None:
    """Do a task, unless its files are there."""
    learned = matching.learned(task.space)
    if task.found.exists() or learned is None:
        return
    images = floats(images_in(task.pool)[slice(task.start, task.stop)])
    save(task.vectors, learned(images).numpy())
    save(task.found, learned.keys(images))


def _parts_of(folder: Path, space: str, count: int) -> list[Embed]:
    """The tasks that compute the vectors of a pool of `count` images."""
    return [Embed(folder, space, start, min(start + _ROWS, count)) for start in range(0, count, _ROWS)]


@functools.lru_cache(maxsize=1)
def _searcher(folder: Path, space: str) -> Searcher:
    """The images of a kept pool, indexed in one space; kept for the next task of this process."""
    images, unit = images_in(folder), np.load(folder / "unit.npy")
    learned = matching.learned(space)
    if learned is not None:
        parts = _parts_of(folder, space, len(images))
        learned.stored = Stored(
            [np.load(part.found) for part in parts], [np.load(part.vectors, mmap_mode="r") for part in parts]
        )
    ids = Strings(map(str, range(len(images))))  # a search gives numbers, so any ids will do
    probes = files.read_json(folder / "pool.json")["probes"]
    return Searcher(Candidates(images, ids, unit), [space], probes=probes)


def images_in(folder: Path) -> Gathered:
    """The images that `keep_images` was given."""
    parts = [
        np.load(path, mmap_mode="r", allow_pickle=False) for path in files.read_json(folder / "images.json")["parts"]
    ]
    return Gathered(parts, np.load(folder / "order.npy", mmap_mode="r"))


def _keep(pool: Candidates, folder: Path, probes: int | None) -> None:
    """Write what tasks need to know of a pool."""
    keep_images(pool.pixels, folder)
    save(folder / "unit.npy", pool.unit)
    files.write_json(folder / "pool.json", {"probes": probes})


def keep_images(images: Images, folder: Path) -> None:
    """Write where images lie, and those that lie in no file; `images_in` reads them.

    Args:
        images: (N, C, H, W).
        folder: where it is written.
    """
    parts, order = _parts(images)
    paths = []
    for number, part in enumerate(parts):
        path = file_of(part)
        if path is None:
            path = folder / f"part{number}.npy"
            save(path, part)
        paths.append(str(path))
    save(folder / "order.npy", order)
    files.write_json(folder / "images.json", {"parts": paths})


def file_of(array: NDArray[Any]) -> Path | None:
    """The file that all of an array is mapped from; None if it lies in memory, or is a part of what a file holds."""
    # The base of a part is an array.
    if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.filename:
        return Path(array.filename)
    return None


def _parts(pixels: Images) -> tuple[Sequence[NDArray[Any]], NDArray[np.int64]]:
    if isinstance(pixels, Gathered):
        return pixels.parts, pixels.order
    return [pixels if isinstance(pixels, np.ndarray) else pixels[:]], np.arange(len(pixels))


def _digest(images: Images, *arrays: NDArray[Any]) -> str:
    """A digest of images, which are read in blocks, and of arrays."""
    about = f"{images.dtype} {images.shape}"
    blocks = (images[rows.start : rows.stop].tobytes() for rows in products.steps(len(images), numbers(images)))
    return files.digest_all(itertools.chain([about], blocks, (array.tobytes() for array in arrays)))


def save(path: Path, array: NDArray[Any]) -> None:
    """Write an array to a file, unless it is there."""
    if not path.exists():
        with files.writing(path) as file:
            np.save(file, array, allow_pickle=False)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays with names to one file."""
    made = io.BytesIO()  # np.savez would report a full disk without its cause
    np.savez(made, **arrays)  # type: ignore[arg-type]
    with files.writing(path) as file:
        file.write(made.getbuffer())


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file by their names.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as found:
            return dict(found)
    except Exception as error:  # damaged files make NumPy raise many kinds
        raise DataError(
            f"{path}: missing or damaged ({first_line(error)}). Delete the file and run the command again."
        ) from error


def _load(path: Path) -> Sight:
    found = read_arrays(path)
    count = len({name.partition(".")[0] for name in found})
    names = Matches.__dataclass_fields__
    return Sight(tuple(Matches(**{name: found[f"{i}.{name}"] for name in names}) for i in range(count)))
