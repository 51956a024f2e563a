"""Measure how time and memory of every stage grow with the number of images, their side, and the number of samples.

    python benchmarks/growth.py [--quick] [--only STAGE ...] [--threads 1] [--figure docs/growth.png] [--json FILE]

Each point is measured in a process of its own. Time is that of the processor, in all threads, which other programs
disturb least. The memory is the largest that the stage needs beyond what the process held before it began. Straight
lines are fitted to the logarithms: the slope is the exponent, ± its standard error, and "last" is the slope between the
two largest points, where fixed costs weigh least. No exponent of time may lie above what the algorithm of the stage
needs at most (`STAGES`) by more than three standard errors and a tenth; the program ends with status 1 if one does.
Needs Linux. It takes about fifteen minutes, and with --quick three.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

AXES = {"n": "images", "side": "pixels a side", "samples": "samples"}
REPEATS = 3  # calls of a stage that takes under two seconds; the shortest counts
LONG = 2.0
LEAST = 2**23  # bytes below which the memory of a stage is not told from that of the process


@dataclass(frozen=True)
class Stage:
    """A stage: what makes it ready, and the exponent of its time at most, for each axis on which it depends.

    `make` takes (n, side, samples, a temporary folder) and returns the function that is measured.
    """

    make: Callable[[int, int, int, Path], Callable[[], object]]
    at_most: dict[str, float]
    why: str


def pictures(n: int, side: int, first: int = 0):
    """Mixtures of the embedded images, as an ImageSet."""
    from duplicates import mixtures

    from memgen.images.importing import read_images

    return mixtures(read_images(resize=side, deduplicate=False), first + n).take(slice(first, None))


def written(images, folder: Path) -> Path:
    """A folder of PNG files."""
    from PIL import Image

    folder.mkdir()
    for i, pixels in enumerate(images.pixels):
        Image.fromarray(pixels[0]).save(folder / f"{i:06}.png")
    return folder


def importing(n, side, samples, folder):
    from memgen.images.importing import read_images

    source = written(pictures(n, side), folder / "pictures")
    return lambda: read_images(source, deduplicate=False)


def near_duplicates(n, side, samples, folder):
    from memgen.images.duplicates import near_duplicates

    images = pictures(n, side)
    return lambda: near_duplicates(images)


def index(n, side):
    from memgen import spaces
    from memgen.spaces.index import Index

    images = pictures(n, side)
    return lambda: Index.build(images.pixels, images.ids, spaces.find("correlation"), "growth")


def index_build(n, side, samples, folder):
    return index(n, side)


def search(n, side, samples, folder):
    queries, made = pictures(samples, side, first=n).floats(), index(n, side)()
    return lambda: made.search(queries, 10)


def audit(n, side, samples, folder):
    import memgen

    sets = pictures(n + n // 4 + samples, side)
    for name, rows in {
        "train": slice(n),
        "held_out": slice(n, n + n // 4),
        "samples": slice(n + n // 4, None),
    }.items():
        np.save(folder / f"{name}.npy", sets.pixels[rows])
    sources = [folder / f"{name}.npy" for name in ("samples", "train", "held_out")]
    return lambda: memgen.audit(*sources, outputs=tempfile.mkdtemp(dir=folder), images=False)


def train_step(n, side, samples, folder):
    import torch

    from memgen.models.networks import UNetSettings, build
    from memgen.models.training import Training, TrainSettings, train

    pixels = torch.from_numpy(pictures(n, side).pixels)
    made = Training(build(UNetSettings(), (1, side, side)), TrainSettings(images_seen=10**9), (0, 0))
    steps = train(made, pixels, record_every=10)
    return lambda: next(steps)


def sampling(n, side, samples, folder):
    import torch
    from jacobian import network

    from memgen.models.sampling import SampleSettings, sample

    made, shape = network(side).to(memory_format=torch.channels_last), (1, side, side)
    settings = SampleSettings(max_steps=4, sigma_end=1e-30, divergence_sigma=1e30)
    return lambda: sample(made, torch.zeros(shape), range(samples), 0, settings)


STAGES = {
    "import": Stage(importing, {"n": 1, "side": 2}, "each file is read once"),
    "near-duplicates": Stage(
        near_duplicates,
        {"n": 2, "side": 2},
        "each image is compared with the leaders before it: 1 if their number is fixed, 2 if all are leaders; images "
        "above 20x20 are averaged to that size",
    ),
    "index build": Stage(
        index_build, {"n": 2, "side": 2}, "1 for the vectors, and up to 2 for the near-duplicates of whole images"
    ),
    "search": Stage(search, {"n": 1, "side": 2, "samples": 1}, "one product for each pair of query and image"),
    "audit": Stage(
        audit,
        {"n": 2, "side": 2, "samples": 1},
        "the near-duplicates of all images, and searches for samples and for at most 4,096 held-out images",
    ),
    "train step": Stage(train_step, {"n": 0, "side": 2}, "a batch of 32, whatever the number of images"),
    "sample": Stage(sampling, {"side": 2, "samples": 1}, "network calls of 64 samples"),
}
POINTS = {
    False: {"n": (1024, 2048, 4096, 8192, 16384), "side": (12, 16, 24, 32, 48), "samples": (64, 256, 1024)},
    True: {"n": (256, 512, 1024), "side": (8, 16, 32), "samples": (64, 128, 256)},
}
MIDDLE = {False: {"n": 4096, "side": 16, "samples": 256}, True: {"n": 512, "side": 16, "samples": 64}}


def held(name: str) -> int:
    """Bytes of memory that this process holds (VmRSS), or held at most since `forget` (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def forget() -> None:
    """Let the largest memory so far be that of now; `ru_maxrss` would include what made the stage ready."""
    Path("/proc/self/clear_refs").write_text("5")


def processor_seconds(work: Callable[[], object]) -> float:
    """Seconds of all threads of this process in a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def point(stage: str, n: int, side: int, samples: int) -> dict[str, float]:
    """Seconds and bytes of a stage, measured in this process."""
    with tempfile.TemporaryDirectory() as temporary:
        work = STAGES[stage].make(n, side, samples, Path(temporary))
        before = held("VmRSS")
        forget()
        times = [processor_seconds(work)]
        needed = held("VmHWM") - before
        if times[0] < LONG:
            times += [processor_seconds(work) for _ in range(REPEATS - 1)]
    return {"seconds": min(times), "bytes": needed}


def measured(stage: str, at: dict[str, int], threads: int) -> dict[str, float]:
    """The same in a new process."""
    command = [sys.executable, __file__, "--point", json.dumps({"stage": stage, **at})]
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{stage} at {at} failed:\n{done.stderr}")
    return at | json.loads(done.stdout.splitlines()[-1])


def exponent(x: list[float], y: list[float]) -> tuple[float, float, float]:
    """The slope of log y against log x, its standard error, and the slope between the last two points."""
    a, b = np.log(x), np.log(y)
    slope, level = np.polyfit(a, b, 1)
    left = np.sum((b - slope * a - level) ** 2) / (len(a) - 2)
    return float(slope), float(np.sqrt(left / np.sum((a - a.mean()) ** 2))), float((b[-1] - b[-2]) / (a[-1] - a[-2]))


def curves(chosen: list[str], quick: bool, threads: int) -> Iterator[tuple[str, str, list[dict]]]:
    """(stage, axis, points) of each stage along each axis on which it depends."""
    middle, known = MIDDLE[quick], {}
    for stage in chosen:
        for axis in STAGES[stage].at_most:
            points = []
            for value in POINTS[quick][axis]:
                at = middle | {axis: value}
                key = stage, *at.values()
                if key not in known:
                    known[key] = measured(stage, at, threads)
                points.append(known[key])
                print(f"{stage} {at}: {points[-1]['seconds']:.2f} s", file=sys.stderr, flush=True)
            yield stage, axis, points


def row(stage: str, axis: str, points: list[dict]) -> tuple[str, bool]:
    """A line of the table, and whether the exponent of time is what the algorithm needs at most."""
    x, at_most = [each[axis] for each in points], STAGES[stage].at_most[axis]
    slope, error, last = exponent(x, [each["seconds"] for each in points])
    large = [each for each in points if each["bytes"] > LEAST]
    memory = "too little to tell"
    if len(large) > 2:
        found = exponent([each[axis] for each in large], [each["bytes"] for each in large])
        memory = f"{found[0]:.2f} ± {found[1]:.2f} (last {found[2]:.2f})"
    fits = slope - 3 * error <= at_most + 0.1
    largest = points[-1]
    return (
        f"| {stage} | {AXES[axis]}, {x[0]:,} to {x[-1]:,} | {largest['seconds']:.2f} s | "
        f"{slope:.2f} ± {error:.2f} (last {last:.2f}) | {at_most:g}{'' if fits else ' EXCEEDED'} | "
        f"{largest['bytes'] / 1e6:,.0f} MB | {memory} |"
    ), fits


def draw(found: list[tuple[str, str, list[dict]]], path: Path, title: str) -> None:
    """Time and memory against each axis, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure, grid = pyplot.subplots(2, 3, figsize=(12, 7), sharey="row", sharex="col", layout="constrained")
    stages = list(STAGES)
    for stage, axis, points in found:
        column, style = (
            list(AXES).index(axis),
            {"color": f"C{stages.index(stage)}", "marker": "osD^vP*"[stages.index(stage)]},
        )
        shown = [each for each in points if each["bytes"] > LEAST]
        x = [each[axis] for each in points]
        grid[0][column].loglog(x, [each["seconds"] for each in points], label=stage, **style)
        grid[1][column].loglog([e[axis] for e in shown], [e["bytes"] / 1e6 for e in shown], **style)
        for each in grid[:, column]:
            each.set_xticks(x, [f"{value:,}" for value in x])
            each.xaxis.set_minor_formatter(NullFormatter())
            each.minorticks_off()
    for column, label in enumerate(AXES.values()):
        grid[1][column].set_xlabel(label)
    for axes, label in zip(grid[:, 0], ("processor time, s", "memory, MB"), strict=True):
        axes.set_ylabel(label)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axes in grid.flat:
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
    handles = {line.get_label(): line for axes in grid[0] for line in axes.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and small points")
    parser.add_argument("--only", nargs="+", choices=STAGES, metavar="STAGE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--figure", type=Path, help="picture of the points")
    parser.add_argument("--json", type=Path, help="file for all points")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.point:
        print(json.dumps(point(**given.point)))
        return
    started = time.perf_counter()
    found = list(curves(given.only or list(STAGES), given.quick, given.threads))
    from turns import head, machine, prepare

    prepare(given.threads)
    rows = [row(*each) for each in found]
    middle = ", ".join(f"{value:,} {AXES[axis]}" for axis, value in MIDDLE[given.quick].items())
    print(f"{head(machine())}\nThe axes that do not vary: {middle}. {time.perf_counter() - started:.0f} s in all.\n")
    print("| stage | axis | time of the last | exponent of time | at most | memory of the last | exponent of memory |")
    print("|---|---|---:|---|---|---:|---|")
    print("\n".join(line for line, _ in rows))
    for name in given.only or STAGES:
        print(f"{name}: {STAGES[name].why}.")
    if given.json:
        given.json.write_text(json.dumps([{"stage": s, "axis": a, "points": p} for s, a, p in found], indent=1))
    if given.figure:
        draw(found, given.figure, f"What does not vary: {middle}")
    sys.exit(not all(fits for _, fits in rows))


if __name__ == "__main__":
    main()
