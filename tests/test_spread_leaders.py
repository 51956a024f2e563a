"""Clusters of near-duplicates that an executor finds: those of one process, byte for byte, whatever is lost on the way."""

import contextlib
import functools
import pickle

import numpy as np
import program
import pytest
from program import memgen

from memgen.base.errors import DataError
from memgen.base.strings import Strings
from memgen.experiment import executors, spread_leaders
from memgen.experiment.executors import Resources
from memgen.experiment.spread_leaders import Spread
from memgen.images import duplicates
from memgen.images.duplicates import Ordered, Pixels, leaders, near_duplicates, pixel_rows
from memgen.images.gathered import Gathered
from memgen.images.imageset import ImageSet


class InTurn(executors.Executor):
    """Does tasks in this process, as others would get them: pickled. It keeps them in `tasks`."""

    def __init__(self):
        self.tasks = []

    def map(self, work, tasks, on_event):
        for task in tasks:
            self.tasks.append(task)
            executors.do(work, pickle.loads(pickle.dumps(task)), on_event)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Some rounds, some tasks in each, blocks that do not divide them, and sketches also where many rows are alike."""
    for name, value in {"_ROUND": 50, "_ROWS": 20, "_ROUNDS": 2}.items():
        monkeypatch.setattr(spread_leaders, name, value)
    monkeypatch.setattr(duplicates, "_BLOCK", 16)
    monkeypatch.setattr(duplicates, "_MANY", 0.2)


def clustered(n=330, dimension=300, n_centers=60, noise=0.2, seed=0):
    rng = np.random.default_rng(seed)
    axes = np.sin(np.outer(np.arange(1, 11), np.linspace(0, 3, dimension)) + rng.uniform(0, 6, (10, 1)))
    rows = (rng.normal(size=(n_centers, 10)) @ axes)[rng.integers(0, n_centers, n)]
    rows += noise * rng.normal(size=rows.shape)
    rows[:: n // 5] = 3.0  # constant rows
    return rows.astype(np.float32)


def numbered(count):
    return Strings([str(i) for i in range(count)])


def ignore(done, total):
    pass


def same(one, other):
    for name, a, b in zip(("leader", "correlation"), one, other, strict=True):
        assert a.dtype == b.dtype, name
        assert a.tobytes() == b.tobytes(), name


KINDS = {
    "clusters": functools.partial(clustered, noise=0.2),
    "chains": functools.partial(clustered, noise=0.5),
    "unlike": lambda: np.random.default_rng(1).normal(size=(330, 300)).astype(np.float32),
    "short": functools.partial(clustered, dimension=30),
    "one cluster": functools.partial(clustered, n_centers=1),
}


@pytest.mark.parametrize("sketched", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_leaders_are_those_of_one_process(kind, sketched, tmp_path, monkeypatch):
    """Of clusters, chains, constant rows and rows without structure, by sketches or without, to the last bit."""
    rows = KINDS[kind]()
    if not sketched:
        monkeypatch.setattr(duplicates.Sketch, "of", lambda rows, threshold: None)
    ids = numbered(len(rows))
    expected = leaders(rows, 0.95, 2048, ids)
    found = int((expected[0] < np.arange(len(rows))).sum())
    assert found == 0 if kind == "unlike" else 100 < found < len(rows)
    executor = InTurn()
    same(leaders(rows, 0.95, ids=ids, lead=Spread(executor, tmp_path, ignore)), expected)
    sketches = len(list(tmp_path.glob("*/*-sketches.npy")))
    assert sketches == (7 if sketched and kind in ("clusters", "chains", "unlike") else 0)
    assert len(executor.tasks) == 3 * (0 + 1 + 1 + 2 + 2 + 3) + 2 * 3  # of 50 rows, and of the last 30


@pytest.mark.parametrize("leading", [1, 20, 50, 75, 330])
def test_rows_that_are_known_to_lead_are_not_compared(leading, tmp_path):
    """Rows after them are compared with them, also where they end within a round."""
    rows = clustered(noise=0.5)
    kept = np.flatnonzero(leaders(rows, 0.95)[0] == np.arange(len(rows)))
    rows = np.concatenate([rows[kept][:leading], rows])[:330]
    leading = min(leading, len(kept))
    executor, ids = InTurn(), numbered(len(rows))
    found = leaders(rows, 0.95, ids=ids, leading=leading, lead=Spread(executor, tmp_path, ignore))
    same(found, leaders(rows, 0.95, 2048, ids, leading))
    assert all(task.start >= leading for task in executor.tasks)


def test_rows_of_equal_content_share_a_leader(tmp_path):
    """Copies of constant rows too, which no correlation shows, and at a threshold of 1."""
    rows = clustered()
    rows = np.concatenate([rows, rows[:60]])
    ids = Strings([str(i % 330) for i in range(390)])
    for threshold in (0.95, 1.0):
        found = leaders(rows, threshold, ids=ids, lead=Spread(InTurn(), tmp_path, ignore))
        same(found, leaders(rows, threshold, 2048, ids))
        assert (found[0][330:] < 330).all()


def test_of_equally_close_leaders_the_earliest_leads(tmp_path, monkeypatch):
    """Whichever tasks and rounds found them: each of the last rows is as close to a row of one round as of another."""
    monkeypatch.setattr(spread_leaders, "_ROUNDS", 1)
    rows = np.random.default_rng(0).normal(size=(330, 300)).astype(np.float32)
    halves = np.zeros((6, 300), np.float32)
    halves[np.arange(6), 2 * np.arange(6)], halves[np.arange(6), 2 * np.arange(6) + 1] = 1, -1
    first, second = [5, 60, 110], [130, 155, 280]  # of rounds 0, 1 and 2, and of 2, 3 and 5
    rows[first], rows[second], rows[-3:] = halves[:3], halves[3:], halves[:3] + halves[3:]
    leader, correlation = leaders(rows, 0.6, ids=numbered(330), lead=Spread(InTurn(), tmp_path, ignore))
    assert leader[-3:].tolist() == first
    assert correlation[-3:] == pytest.approx(np.sqrt(0.5))
    same((leader, correlation), leaders(rows, 0.6, 2048))


@pytest.fixture
def images():
    """200 images of some sets of which each has copies, in memory."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 3, 6, 6)).repeat(4, axis=2).repeat(4, axis=3)[rng.integers(0, 60, 200)]
    return ImageSet.from_pixels(np.clip(pixels + rng.integers(-9, 10, pixels.shape), 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def workers():
    with executors.find("local", Resources(1), 2) as executor:
        yield executor


@pytest.mark.parametrize("name", ["here", "pool"])
def test_images_in_memory_and_in_files(name, images, tmp_path, request):
    """Area averages are written; pixels of files stay where they are, whatever their order. Workers find both."""
    executor = InTurn() if name == "here" else request.getfixturevalue("workers")
    lead = Spread(executor, tmp_path / "searches", ignore)
    kept, table = near_duplicates(images, 0.9, lead=lead)
    alone, expected = near_duplicates(images, 0.9)
    assert 50 < len(kept) < 70
    assert (kept.tolist(), table) == (alone.tolist(), expected)
    (written,) = tmp_path.glob("searches/*/rows.npy")
    assert np.array_equal(np.load(written), duplicates.area_average(images))

    order, parts = np.random.default_rng(1).permutation(200), []
    for number, part in enumerate((images.pixels[:70], images.pixels[70:])):
        np.save(tmp_path / f"{number}.npy", part)
        parts.append(np.load(tmp_path / f"{number}.npy", mmap_mode="r"))
    gathered = Gathered(parts)
    ids, expected = images.ids[order], leaders(Ordered(pixel_rows(gathered), order), 0.9)
    for rows in (Pixels(gathered), pixel_rows(gathered)):  # the second lies in memory
        same(leaders(Ordered(rows, order), 0.9, ids=ids, lead=lead), expected)
    assert len(list(tmp_path.glob("searches/*/rows.npy"))) == 2
    assert not list(tmp_path.glob("searches/*/part*.npy"))


class Interrupted(executors.Executor):
    """Stops after so many tasks."""

    def __init__(self, count):
        self.left = count

    def map(self, work, tasks, on_event):
        for task in tasks:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            executors.do(work, task, on_event)


@pytest.mark.parametrize("count", [0, 1, 4, 13])
def test_what_was_found_before_an_interruption_is_kept(count, tmp_path):
    """Rounds that are done, and parts of the next one, are not looked for again; other images, or another threshold, are."""
    rows, ids, told = clustered(), numbered(330), []
    with pytest.raises(KeyboardInterrupt):
        leaders(rows, 0.95, ids=ids, lead=Spread(Interrupted(count), tmp_path, ignore))
    executor = InTurn()
    lead = Spread(executor, tmp_path, lambda done, total: told.append((done, total)))
    same(leaders(rows, 0.95, ids=ids, lead=lead), leaders(rows, 0.95, 2048, ids))
    assert len(executor.tasks) == 33 - count
    assert told == sorted(told)
    assert told[-1] == (330, 330)
    assert not list(tmp_path.glob("*/*-*.npz"))  # parts of rounds that are done
    executor.tasks.clear()
    same(leaders(rows, 0.95, ids=ids, lead=lead), leaders(rows, 0.95, 2048, ids))
    assert executor.tasks == []
    same(leaders(rows, 0.9, ids=ids, lead=lead), leaders(rows, 0.9, 2048, ids))
    same(leaders(rows[::-1], 0.95, ids=ids[np.arange(330)[::-1]], lead=lead), leaders(rows[::-1], 0.95))
    assert len(executor.tasks) == 66


@pytest.mark.parametrize("lost", ["100-0.npz", "50.npz", "50-sketches.npy", "axes.npy", "rows.npy"])
def test_a_damaged_file_is_named_and_made_again(lost, tmp_path):
    """A file that is cut ends the search with its name; once it is deleted, the result is the same."""
    rows, ids = clustered(), numbered(330)
    find = functools.partial(leaders, rows, 0.95, ids=ids)
    with pytest.raises(KeyboardInterrupt):
        find(lead=Spread(Interrupted(4), tmp_path, ignore))
    (folder,) = tmp_path.glob("leaders-*")
    path = folder / lost
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=rf"{lost}: missing or damaged .*Delete the file and run the command again"):
        find(lead=Spread(InTurn(), tmp_path, ignore))
    path.unlink()
    same(find(lead=Spread(InTurn(), tmp_path, ignore)), find())


def test_few_rows_need_no_tasks(tmp_path):
    """What one round holds is compared in this process, and nothing is written."""
    rows = clustered(50)
    lead = Spread(InTurn(), tmp_path / "none", ignore)
    same(leaders(rows, 0.95, ids=numbered(50), lead=lead), leaders(rows, 0.95))
    assert not (tmp_path / "none").exists()


def test_an_import_is_the_same_with_workers(images, tmp_path, monkeypatch):
    """`memgen data import --executor local --jobs 2` keeps the images and tables of an import without, and no more files."""
    np.save(tmp_path / "images.npy", images.pixels.transpose(0, 2, 3, 1))
    executor, found = InTurn(), []
    monkeypatch.setattr(executors, "find", lambda *given: found.append(given[:1]) or contextlib.nullcontext(executor))
    settings = ("--set", "sweep.n_train=[8]", "--set", "split.holdout=8", "--outputs", tmp_path)
    data = ("data", "import", tmp_path / "images.npy", *settings)
    memgen(*data, "--run", "alone").done()
    assert found == []
    said = memgen(*data, "--run", "shared", "--executor", "local", "--jobs", "2").done().err
    assert "finding near-duplicates" in said
    assert found == [("local",)]
    assert executor.tasks
    alone, shared = (program.artifacts(tmp_path / name) for name in ("alone", "shared"))
    assert len(alone) >= 7
    assert {name: path.read_bytes() for name, path in shared.items()} == {
        name: path.read_bytes() for name, path in alone.items()
    }
    assert not (tmp_path / "shared" / "searches").exists()
