"""A search for copies that an executor does: the same result, and every vector of a network computed once."""

import pickle
from collections import Counter

import numpy as np
import pytest
import sorted_pixels
import torch

from memgen import spaces
from memgen.base.strings import Strings
from memgen.experiment import executors, spread
from memgen.measures.copies import matching
from memgen.measures.copies.matching import Candidates, LeftOut
from memgen.measures.copies.sight import Searcher
from memgen.spaces.learned import Stored, Vectors


class InTurn(executors.Executor):
    """Does tasks in this process, as others would get them: pickled."""

    def map(self, work, tasks, on_event):
        for task in tasks:
            executors.do(work, pickle.loads(pickle.dumps(task)), on_event)


@pytest.fixture(autouse=True)
def no_searcher_is_kept():
    spread._searcher.cache_clear()


@pytest.fixture
def sorting(tmp_path):
    """A space of a network in a file."""
    return sorted_pixels.save(tmp_path / "sorted.ts", 8)


def pool(count=60, shape=(1, 8, 8)):
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    return Candidates(pixels, Strings([str(i) for i in range(count)]), np.arange(count))


def samples(count=20, shape=(1, 8, 8)):
    return torch.rand((count, *shape), generator=torch.Generator().manual_seed(1))


def equal(one, other):
    for a, b in zip(one.matches, other.matches, strict=True):
        for name, value in vars(a).items():
            assert np.array_equal(value, getattr(b, name)), name


@pytest.mark.parametrize("probes", [None, 2])
def test_the_result_is_that_of_one_process(sorting, tmp_path, monkeypatch, probes):
    """Whatever is searched: some samples at a time, with images left out, in lists or in all images."""
    monkeypatch.setattr(spread, "_ROWS", 16)
    images, names = pool(), ("pixels", "aligned", sorting)
    alone = Searcher(images, names, probes=probes)
    shared = spread.SpreadSearcher(images, names, InTurn(), tmp_path / "searches", probes)
    equal(alone.see(samples()), shared.see(samples()))
    equal(alone.see(samples(), exact=True), shared.see(samples(), exact=True))
    gone = LeftOut(np.arange(20), np.full(20, -1))
    equal(alone.see(samples(), gone), shared.see(samples(), gone))


def test_samples_in_a_file_stay_there(tmp_path, monkeypatch):
    """Tasks read mapped samples where they lie. A part of a file is no file, so it is written, as tensors are."""
    monkeypatch.setattr(spread, "_ROWS", 16)
    pixels = np.random.default_rng(1).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "samples.npy", pixels)
    mapped, folder = np.load(tmp_path / "samples.npy", mmap_mode="r"), tmp_path / "searches"
    images = pool()
    alone, shared = Searcher(images, ["pixels"]), spread.SpreadSearcher(images, ["pixels"], InTurn(), folder)
    for queries, written in ((mapped, 0), (mapped[4:], 1), (torch.from_numpy(pixels).float() / 255, 1)):
        before = set(folder.glob("*/part0.npy"))
        equal(alone.see(queries), shared.see(queries))
        assert len(set(folder.glob("*/part0.npy")) - before) == written


def test_every_vector_is_computed_once(sorting, tmp_path, monkeypatch):
    """Tasks compute the vectors of the pool, some images each; searches look them up and compute those of samples."""
    monkeypatch.setattr(spread, "_ROWS", 16)
    images, seen = pool(), Counter()
    learned = matching.learned(sorting)
    network, learned.network = learned.network, lambda image: seen.update([image.numpy().tobytes()]) or network(image)
    monkeypatch.setattr("memgen.spaces.learned._KEPT", 0)  # nothing is remembered in memory
    shared = spread.SpreadSearcher(images, [sorting], InTurn(), tmp_path / "searches")
    shared.see(samples(5))
    of_pool = [(image.astype(np.float32) / 255).tobytes() for image in images.pixels]
    assert [seen[each] for each in of_pool] == [1] * 60
    made = sorted(path.name for path in (tmp_path / "searches").glob("vectors-*/*"))
    assert made == sorted(f"{start}{end}.npy" for start in (0, 16, 32, 48) for end in ("", ".keys"))
    shared.see(samples(7))
    assert [seen[each] for each in of_pool] == [1] * 60
    learned.network = network


def test_vectors_that_are_there_are_not_computed_again(sorting, tmp_path, monkeypatch):
    """After an interruption, only the parts that are missing are computed."""
    monkeypatch.setattr(spread, "_ROWS", 16)
    images, seen = pool(), []
    shared = spread.SpreadSearcher(images, [sorting], InTurn(), tmp_path / "searches")
    shared.see(samples(5))
    lost = next((tmp_path / "searches").glob("vectors-*/16.keys.npy"))
    lost.unlink()
    monkeypatch.setattr(spread, "embed", lambda task, report: seen.append(task.start) or done(task, report))
    shared.see(samples(6))
    assert seen == [16]
    assert lost.exists()


done = spread.embed


def test_pixels_have_no_vectors_of_a_network(sorting):
    """Spaces of pixels are searched as they are."""
    assert [matching.learned(name) for name in matching.EVERY] == [None] * 4
    assert matching.learned("correlation") is None
    assert isinstance(matching.learned(sorting), Vectors)
    assert matching.learned(sorting) is spaces.find(sorting).learned


def test_a_store_finds_what_was_put_into_it():
    """Each image its own vector, from whichever part; no vector for another image, and equal first halves of keys."""
    vectors = Vectors(lambda image: image.flatten()[:3])
    images = samples(30)
    keys, rows = vectors.keys(images), vectors(images).numpy()
    stored = Stored([keys[:10], keys[10:]], [rows[:10], rows[10:]])
    for key, row in zip(keys, rows, strict=True):
        assert stored.find(key.tobytes()).numpy().tolist() == row.tolist()
    assert stored.find(vectors.keys(samples(31))[30].tobytes()) is None
    alike = keys[:3].copy()
    alike[:, 0] = 7
    shared = Stored([alike], [rows[:3]])
    assert [shared.find(key.tobytes()).tolist() for key in alike] == rows[:3].tolist()
