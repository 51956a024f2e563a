"""The benchmarks' machinery, on rows so small that they take no time; no test asks how fast anything is."""

import importlib
import json
import sys
import time
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
import torch

from memgen.models.networks import UNetSettings


@pytest.fixture
def benchmark(monkeypatch):
    """A function that imports a benchmark by its name."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module


def test_the_page_that_is_measured_holds_its_samples(benchmark, tmp_path):
    """The benchmark of pages makes a page of an audit, and tells its size and how many samples it shows."""
    page, queue = benchmark("page"), SimpleQueue()
    page.made(tmp_path / "report.html", 60, 3, 8, queue)
    found = queue.get()
    assert found["shown"] == 60
    assert found["bytes"] == (tmp_path / "report.html").stat().st_size > 900_000
    assert found["made_s"] > 0


def test_a_function_beside_itself_is_as_fast(benchmark, monkeypatch, tmp_path, capsys):
    """The table has a row for each pair with its ratio, which includes 1 for a function beside itself, and JSON holds all times."""
    speed, file = benchmark("speed"), tmp_path / "found.json"

    def trivial(quick):
        assert quick
        yield speed.Job("waiting", "pauses", 1, {"": wait}, {"the same": wait, "ten times": lambda: wait(0.02)})

    def wait(length=0.002):
        time.sleep(length)

    monkeypatch.setattr(speed, "FAMILIES", {"trivial": trivial})
    monkeypatch.setattr(speed, "prepare", lambda threads: None)  # the threads of the other tests stay as they are
    monkeypatch.setattr(sys, "argv", ["speed.py", "--quick", "--repeats", "21", "--json", str(file)])
    speed.main()
    printed = capsys.readouterr().out
    assert "below 1 where memgen is faster" in printed
    found = json.loads(file.read_text())
    assert {"processor", "flags", "threads", "versions", "load", "date", "openblas", "quick", "repeats"} < set(found)
    assert found["processor"] in printed
    (job,) = found["jobs"]
    assert {len(each) for of in job["seconds"].values() for each in of.values()} == {job["turns"]} == {21}
    same, tenfold = job["rows"]
    assert same["smallest"] <= 1 <= same["largest"]
    assert same["smallest"] <= same["ratio"] <= same["largest"]
    expected = np.divide(job["seconds"]["memgen"][""], job["seconds"]["other"]["ten times"])
    assert tenfold["ratio"] == np.median(expected) < 1
    assert f"| waiting | ten times | {tenfold['rates'][0]:,.0f} pauses |" in printed


def test_turns_alternate_and_end_at_the_limit(benchmark):
    """All computations run in every turn, every second turn in reverse; a call may state its time; the limit spares three turns."""
    turns, seen = benchmark("turns"), []
    works = {"a": lambda: seen.append("a"), "b": lambda: seen.append("b") or 5.0}
    times = turns.by_turns(works, 4)
    assert "".join(seen) == "ab" + "ab" + "ba" + "ab" + "ba"
    assert times["b"] == [5.0] * 4
    assert max(times["a"]) < 1
    assert len(turns.by_turns(works, 9, limit=0)["a"]) == 3


def test_the_plain_network_computes_the_same(benchmark):
    """The network of the plain loop gives the residuals of memgen's and moves its running deviation alike."""
    peers, network = benchmark("peers"), benchmark("jacobian").network(8, UNetSettings(width=4))
    noisy = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for mode in (False, True):
        plain = peers.plain(network.train(mode))
        assert any(isinstance(module, peers.PlainNorm) for module in plain.modules())
        torch.testing.assert_close(plain.residual(noisy), network.residual(noisy), rtol=1e-4, atol=1e-5)
        for name, buffer in network.named_buffers():
            torch.testing.assert_close(plain.get_buffer(name), buffer)


def test_the_searches_of_others_find_the_nearest(benchmark):
    """Every other search finds the neighbors of a float64 search."""
    pytest.importorskip("faiss")
    peers, generator = benchmark("peers"), torch.Generator().manual_seed(0)
    x, y = torch.randn(5, 7, generator=generator), torch.randn(40, 7, generator=generator)
    nearest = torch.cdist(x.double(), y.double()).argsort(dim=1)[:, :3]
    closest = (x.double() @ y.double().T).argsort(dim=1, descending=True)[:, :3]
    for expected, works in ((nearest, peers.by_distance(x, y, 3)), (closest, peers.by_product(x, y, 3))):
        for name, work in works.items():
            assert torch.equal(work(), expected), name


def test_exponents(benchmark):
    """The exponent of a power is found exactly, and an exponent above what a stage needs at most is told."""
    growth = benchmark("growth")
    slope, error, last = growth.exponent([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0])
    assert [slope, error, last] == pytest.approx([2, 0, 2], abs=1e-9)
    for power, fits in ((1, True), (2, False)):
        points = [{"n": n, "seconds": n**power, "bytes": 10**8} for n in (1, 2, 4, 8)]
        line, judged = growth.row("search", "n", points)
        assert judged is fits
        assert ("EXCEEDED" in line) is not fits


def test_a_leak_is_told_and_noise_is_not(benchmark):
    """Memory, descriptors or threads that grow from round to round are told; memory that moves about a level is not."""
    judge, rng = benchmark("soak").judge, np.random.default_rng(0)
    still = np.stack([10**6 + rng.integers(-3000, 3000, 40), np.full(40, 9), np.full(40, 4)], axis=1)
    assert judge(still, 256)[1]
    for column, growth in ((0, 1000), (1, 1), (2, 1)):
        assert not judge(still + growth * np.arange(40)[:, None] * (np.arange(3) == column), 256)[1]
