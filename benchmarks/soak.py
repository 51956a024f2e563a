"""Repeat small work of every kind in one process, and tell whether memory, descriptors or threads grow.

    python benchmarks/soak.py [--minutes 30] [--bound 256] [--trace]

A round imports a folder of pictures, audits samples, makes a sweep with training, sampling, measurements and report
(whose figures take most of the time), searches an index that it saved and loaded, and draws samples and a Jacobian from
a checkpoint. All of that goes to a new temporary folder, which is then deleted. After each round the program reads the
memory that the process holds (VmRSS), its open file descriptors and its threads.

The first rounds (a quarter of all, at least 3) fill caches and do not count. Among the others a line is fitted to the
memory. The program ends with status 1 if descriptors or threads grow, or if memory grows by more than --bound KiB per
round and by more than three standard errors. With --trace it also prints the lines of code that allocated most of what
Python holds more at the end than after the first rounds; that makes it slower. Needs Linux.
"""

import argparse
import contextlib
import ctypes
import gc
import os
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from turns import head, machine, prepare

import memgen
from memgen import spaces
from memgen.measures.geometry import jacobian
from memgen.models.sampling import SampleSettings, sample

FIRST = 3  # rounds at least that do not count
FEWEST = 5  # rounds at least that count
SWEEP = (
    "data.resize=8", "data.limit=400", "split.holdout=64", "model.blocks=1", "model.width=4", "train.images_seen=1600",
    "train.tile_to=256", "sample.n_samples=8", "sample.sigma_end=0.3", "psnr.n_images=8", "sweep.n_train=[1, 16]",
)  # fmt: skip


def work(folder: Path, sources: dict[str, Path]) -> None:
    """A round of everything."""
    images = memgen.read_images(sources["train"])
    assert len(images) > 50
    memgen.audit(**sources, outputs=folder, name="audit", spaces=("pixels", "blurred"))
    found = memgen.sweep(None, folder, "sweep", SWEEP)
    assert found.verdict.headline
    assert next((folder / "sweep").rglob("report.html")).stat().st_size > 10_000
    memgen.Index.build(images.pixels, images.ids, spaces.find("correlation"), "soak").save(folder / "index")
    hits = memgen.Index.load(folder / "index").search(images.floats(), 3)
    assert (hits.reference_index[:, 0] == np.arange(len(images))).all()
    denoiser = memgen.load_denoiser(next(folder.rglob("*.safetensors")))
    drawn = sample(denoiser, torch.zeros(denoiser.image_shape), range(4), 0, SampleSettings(max_steps=20))
    jacobian.full(denoiser, torch.from_numpy(drawn.images[:1]))


def write_sources(folder: Path) -> dict[str, Path]:
    """Folders of embedded images at 16x16: the samples are changed training images and others."""
    pixels = memgen.read_images(resize=16).pixels[:200, 0]
    sets = {"train": pixels[:100], "held_out": pixels[100:160], "samples": np.concatenate([pixels[:10], pixels[160:]])}
    for name, chosen in sets.items():
        (folder / name).mkdir()
        for i, image in enumerate(chosen):
            Image.fromarray(image).save(folder / name / f"{i}.png")
    return {name: folder / name for name in sets}


def now() -> tuple[int, int, int]:
    """KiB of memory that this process holds, its open file descriptors, and its threads.

    What the allocator of glibc keeps for later goes back first, since it depends on the order of all that was freed.
    """
    gc.collect()
    with contextlib.suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]), len(os.listdir("/proc/self/fd")), int(status["Threads"])


def slope(values: np.ndarray) -> tuple[float, float]:
    """Growth per round, and its standard error."""
    rounds = np.arange(len(values))
    growth, level = np.polyfit(rounds, values, 1)
    left = np.sum((values - growth * rounds - level) ** 2) / (len(values) - 2)
    return float(growth), float(np.sqrt(left / np.sum((rounds - rounds.mean()) ** 2)))


def judge(seen: np.ndarray, bound: float) -> tuple[list[str], bool]:
    """What the rounds (rounds, 3) say of the columns of `now`, in sentences, and whether nothing grows."""
    counted = seen[max(FIRST, len(seen) // 4) :]
    growth, error = slope(counted[:, 0])
    leaks = growth > bound and growth > 3 * error
    said = "a leak" if leaks else "no leak" if growth + 3 * error <= bound else "too few rounds to exclude a leak"
    told = [f"Memory grows by {growth:.0f} ± {error:.0f} KiB per round over {len(counted)} rounds: {said}."]
    told.append(f"The bound is {bound:.0f} KiB per round, and the growth is known to three standard errors.")
    for column, name in ((1, "open file descriptors"), (2, "threads")):
        more = int(counted[-1, column] - counted[0, column])
        leaks |= more > 0
        told.append(f"{name}: {counted[0, column]} at first, {counted[-1, column]} at last.")
    return told, not leaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--bound", type=float, default=256, help="KiB per round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="say which lines of code hold more memory")
    given = parser.parse_args()
    prepare(given.threads)
    print(f"{head(machine())}\n\nround   seconds   memory, MiB   descriptors   threads")
    end, seen, first = time.monotonic() + 60 * given.minutes, [], None
    with tempfile.TemporaryDirectory() as temporary:
        sources = write_sources(Path(temporary))
        while time.monotonic() < end or len(seen) < FIRST + FEWEST:
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                work(Path(folder), sources)
            seen.append(now())
            memory, descriptors, threads = seen[-1]
            spent = time.perf_counter() - started
            print(f"{len(seen):5} {spent:9.1f} {memory / 1024:13.1f} {descriptors:13} {threads:9}", flush=True)
            if given.trace and len(seen) == FIRST - 1:
                tracemalloc.start(25)
            if given.trace and len(seen) == FIRST + 1:
                first = tracemalloc.take_snapshot()
    told, fits = judge(np.array(seen), given.bound)
    print("\n" + "\n".join(told))
    if first:
        print("\nPython holds more than after the first rounds, by the line that allocated it:")
        for each in tracemalloc.take_snapshot().compare_to(first, "lineno")[:15]:
            print(each)
    sys.exit(not fits)


if __name__ == "__main__":
    main()
