"""Measure memgen's speed beside that of other programs, and of the computation that nobody can avoid.

    python benchmarks/speed.py [--quick] [--json FILE] [--repeats R] [--threads T] [--only NAME ...]

A job of memgen and its rivals take turns in one process. The table gives memgen's time divided by the other's in the
same turn: below 1, memgen is faster. It is the median ratio, with the smallest and the largest. Names for --only:

    training       steps of a training / a plain PyTorch loop / the convolutions alone, forward and backward
    sampling       samples / the bare network calls / one image at a time
    neighbors      exact nearest images / one bare float32 matrix product / PyTorch, FAISS, scikit-learn
    near_duplicates  clusters of near-duplicates / the products of all pairs / FAISS
    jacobian       full Jacobians / the methods of PyTorch (see jacobian.py)
    noise          noise from a stream for each image / from one stream
    time_to_psnr   the training time until a held-out PSNR, preset fast / preset paper; only if it is named,
                   and half an hour or more without --quick

--quick takes small sizes and few turns, under 3 minutes on 2 cores. Without it, all jobs but time_to_psnr take under 25
minutes. A job of long calls makes fewer turns, but at least 3. The JSON file holds every time. Needs the extras cpu
and dev.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jacobian
import numpy as np
import peers
import torch
from duplicates import mixtures
from turns import Work, by_turns, counted, head, machine, prepare

from memgen import spaces
from memgen.base import noise
from memgen.images.duplicates import leaders
from memgen.images.importing import read_images
from memgen.measures.psnr import PsnrSettings, curve
from memgen.models.networks import UNetSettings, build
from memgen.models.sampling import SampleSettings, sample
from memgen.models.training import Training, TrainSettings, train
from memgen.spaces.index import Index

LARGE = UNetSettings(blocks=3, width=64)  # 7.66 million parameters
K = 10


@dataclass
class Job:
    """What memgen does, in one or more ways, and what others do instead.

    Attributes:
        name: the job in words.
        unit: what is counted, in words.
        count: how many of them one call makes, the same for all.
        ours: memgen's ways.
        others: what each of them is compared with.
        once: whether a call takes minutes, so that it is made once.
        notes: sentences to print below the table, which the calls may add.
    """

    name: str
    unit: str
    count: int
    ours: dict[str, Work]
    others: dict[str, Work]
    once: bool = False
    notes: list[str] = field(default_factory=list)


def training(quick: bool) -> Iterator[Job]:
    yield _training_steps(UNetSettings(), 16, 32, 10)
    yield _training_steps(UNetSettings(), 28, 32, 3 if quick else 10)
    yield _training_steps(LARGE, 80, 4 if quick else 16, 1)


def _training_steps(settings: UNetSettings, side: int, batch: int, steps: int) -> Job:
    shape = (1, side, side)
    pixels = torch.randint(0, 256, (1024, *shape), dtype=torch.uint8)
    chosen = TrainSettings(images_seen=10**9, batch_size=batch)
    records = train(Training(build(settings, shape), chosen, (0, 0)), pixels, record_every=steps)
    loop = peers.training(jacobian.network(side, settings), pixels, batch)
    bare = peers.convolutions_only(build(settings, shape)).to(memory_format=torch.channels_last)
    noisy = torch.randn(batch, *shape).contiguous(memory_format=torch.channels_last)

    def convolutions():
        for _ in range(steps):
            bare.zero_grad()
            bare.residual(noisy).sum().backward()

    return Job(
        f"training, {_size(settings)} at {side}x{side}, batches of {batch}",
        "images",
        steps * batch,
        {"": lambda: next(records)},
        {"plain PyTorch loop": lambda: loop(steps), "its convolutions alone": convolutions},
    )


def _size(settings: UNetSettings) -> str:
    return "UNet of 7.7M weights" if settings == LARGE else "demo's UNet"


def sampling(quick: bool) -> Iterator[Job]:
    yield _samples(UNetSettings(), 28, *((64, 10) if quick else (128, 30)))
    yield _samples(LARGE, 80, *((4, 2) if quick else (16, 4)))


def _samples(settings: UNetSettings, side: int, count: int, updates: int) -> Job:
    shape = (1, side, side)
    network = jacobian.network(side, settings)
    official = peers.plain(network)
    network.to(memory_format=torch.channels_last)
    batch = min(64, count)
    # No sample ends before the number of updates.
    chosen = SampleSettings(max_steps=updates, sigma_end=1e-30, divergence_sigma=1e30, micro_batch=batch)
    block = torch.randn(batch, *shape)

    def ours():
        return sample(network, torch.zeros(shape), range(count), 0, chosen)

    def calls():
        with torch.inference_mode():
            for _ in range((updates + 1) * count // batch):  # the last one denoises
                network(block)

    assert (ours().updates == updates).all()
    return Job(
        f"sampling, {_size(settings)} at {side}x{side}, {count} samples, {updates} updates",
        "updates of a sample",
        count * updates,
        {"": ours},
        {
            "its network calls alone": calls,
            "one image at a time": lambda: peers.sample_singly(official, shape, count, updates),
        },
    )


def neighbors(quick: bool) -> Iterator[Job]:
    sizes = [((1, 28, 28), 20_000, 1_000)]
    if not quick:
        sizes += [((3, 32, 32), 50_000, 500), ((1, 80, 80), 100_000, 250)]
    for shape, n, m in sizes:
        images = _images(shape, n + m)
        for metric in ("correlation", "rmse"):
            yield _search(images[:n], images[n:], metric)


def _images(shape: tuple[int, int, int], count: int) -> np.ndarray:
    """Mixtures of the embedded images, each channel by itself, uint8."""
    source = read_images(resize=shape[1], deduplicate=False)
    return mixtures(source, count * shape[0]).pixels.reshape(count, *shape)


def _search(images: np.ndarray, queries: np.ndarray, metric: str) -> Job:
    space, ids = spaces.find(metric), [str(i) for i in range(len(images))]
    whole = torch.from_numpy(queries).float() / 255
    asked = {
        "pictures": whole,
        "floats": whole + 0.01 * torch.randn(whole.shape, generator=torch.Generator().manual_seed(0)),
    }
    ours = {}
    for backend in ("faiss", "torch"):
        index = Index.build(images, ids, space, "bench", None, backend)
        for kind, each in asked.items():
            ours[f"{backend}, {kind}"] = lambda index=index, each=each: index.search(each, K)
    x, y = space.embed(whole), space.embed(torch.from_numpy(images).float().div_(255))
    others = (peers.by_product if space.larger_is_closer else peers.by_distance)(x, y, K)
    expected = ours["faiss, pictures"]().reference_index[:, 0]
    for name, work in others.items():
        assert np.mean(work()[:, 0].numpy() == expected) > 0.99, f"{name} finds other neighbors"
    return Job(
        f"{K} nearest of {len(images):,} x {y.shape[1]:,} by {metric}, {len(x):,} queries",
        "queries",
        len(x),
        ours,
        {"one float32 matrix product": lambda: x @ y.T, **others},
    )


def near_duplicates(quick: bool) -> Iterator[Job]:
    source = read_images(resize=28, deduplicate=False)
    yield _clusters("embedded images", source.pixels[: 4_000 if quick else None])
    if not quick:
        yield _clusters("mixtures", mixtures(source, 30_000).pixels)


def _clusters(name: str, pixels: np.ndarray) -> Job:
    rows = pixels.reshape(len(pixels), -1)
    unit = torch.from_numpy(rows).float()
    unit -= unit.mean(dim=1, keepdim=True)
    unit /= unit.norm(dim=1, keepdim=True)
    return Job(
        f"near-duplicates of {len(rows):,} {name} of 28x28",
        "images",
        len(rows),
        {"": lambda: leaders(rows, 0.99)},
        peers.close_pairs(unit, 0.99),
    )


def jacobians(quick: bool) -> Iterator[Job]:
    side = 16 if quick else 28
    ours, *others = jacobian.methods(side).items()
    names = {"rows": "a backward pass for each row", "jacrev": "torch.func.jacrev", "jacfwd": "torch.func.jacfwd"}
    yield Job(
        f"Jacobian of the demo's UNet at {side}x{side}",
        "matrices",
        1,
        {"": ours[1]},
        {names[name]: work for name, work in others},
    )


def noises(quick: bool) -> Iterator[Job]:
    shape, count, times = (1, 16, 16), 128, 20
    streams = [noise.stream("bench", i) for i in range(count)]
    one = np.random.Generator(np.random.Philox(0))
    yield Job(
        "normal noise of 16x16",
        "images",
        count * times,
        {"": lambda: [noise.normal(stream, shape) for _ in range(times) for stream in streams]},
        {"from one stream": lambda: [one.standard_normal((count, *shape), dtype=np.float32) for _ in range(times)]},
    )


def time_to_psnr(quick: bool) -> Iterator[Job]:
    """The seconds of both presets of the training until a PSNR, without those that measure it.

    They are seconds of the processor: the trainings take minutes, one after the other, and other programs come and go.
    """
    images = read_images(resize=16).take(slice(4096 + 128))
    pixels, held_out = torch.from_numpy(images.pixels[:4096]), images.take(slice(4096, None))
    seen = 10**5 if quick else 10**6
    notes: list[str] = []

    def psnr(network) -> float:
        network.eval()
        keys = {"subject": "", "role": "", "n_train": 4096, "part": "a", "train_seed": 0}
        table = curve(network, held_out.floats(), held_out.ids, "holdout", PsnrSettings(), 0, 64, keys)
        network.train()
        return float(np.mean(table["output_psnr_db"].to_numpy()))

    def paper() -> tuple[float, float]:
        started = time.process_time()
        made = Training(build(UNetSettings(), (1, 16, 16)), TrainSettings(preset="paper"), (0, 0))
        for _ in train(made, pixels, record_every=1):
            if made.images_seen >= seen:
                break
        spent = time.process_time() - started
        found = psnr(made.result)
        notes.append(f"paper: {found:.2f} dB on held-out images after {made.images_seen:,} images, {spent:.0f} s")
        return spent, found

    def fast() -> float:
        budget = TrainSettings().images_seen
        while True:
            spent = 0.0
            made = Training(build(UNetSettings(), (1, 16, 16)), TrainSettings(images_seen=budget), (0, 0))
            steps = train(made, pixels)
            while made.images_seen < budget:
                started = time.process_time()
                next(steps)
                spent += time.process_time() - started
                found = psnr(made.result)
                if found >= target:
                    notes.append(f"fast: {found:.2f} dB after {made.images_seen:,} of {budget:,} images, {spent:.0f} s")
                    return spent
            notes.append(f"fast: only {found:.2f} dB after its budget of {budget:,} images, so it gets twice as many")
            budget *= 2

    paper_seconds, target = paper()
    yield Job(
        f"training to the held-out PSNR of preset paper after {seen:,} images",
        "trainings",
        1,
        {"": fast},
        {"preset paper": lambda: paper_seconds},
        once=True,
        notes=notes,
    )


FAMILIES = {
    "training": training,
    "sampling": sampling,
    "neighbors": neighbors,
    "near_duplicates": near_duplicates,
    "jacobian": jacobians,
    "noise": noises,
    "time_to_psnr": time_to_psnr,
}
ASKED = {"time_to_psnr"}


def measure(job: Job, repeats: int, limit: float) -> dict:
    """The times of a job in each turn, and its rows: the ratios of each of memgen's ways to each other program."""
    works = {("memgen", name): work for name, work in job.ours.items()}
    works |= {("other", name): work for name, work in job.others.items()}
    times = counted(works, 1) if job.once else by_turns(works, repeats, limit)
    rows = []
    for ours in job.ours:
        for other in job.others:
            pair = times["memgen", ours], times["other", other]
            ratios = [a / b for a, b in zip(*pair, strict=True)]
            rows.append(
                {
                    "memgen": ours,
                    "other": other,
                    "ratio": float(np.median(ratios)),
                    "smallest": min(ratios),
                    "largest": max(ratios),
                    "rates": [job.count / float(np.median(each)) for each in pair],
                }
            )
    seconds = {kind: {name: times[of, name] for of, name in times if of == kind} for kind in ("memgen", "other")}
    turns = len(next(iter(times.values())))
    told = {"job": job.name, "unit": job.unit, "count": job.count, "turns": turns}
    return told | {"seconds": seconds, "rows": rows, "notes": job.notes}


def table(found: list[dict]) -> Iterator[str]:
    """The lines of the table, a row for each way of memgen and each other program."""
    yield "| job | compared with | memgen, per s | other, per s | memgen's time / other's | turns |"
    yield "|---|---|---:|---:|---|---:|"
    for job in found:
        for row in job["rows"]:
            name = job["job"] + (f": {row['memgen']}" if row["memgen"] else "")
            ours, other = (f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}" for rate in row["rates"])
            ratio = f"{row['ratio']:.2f} [{row['smallest']:.2f}, {row['largest']:.2f}]"
            yield f"| {name} | {row['other']} | {ours} {job['unit']} | {other} | {ratio} | {job['turns']} |"
    for job in found:
        yield from job["notes"]


def run(families: dict, quick: bool, repeats: int, limit: float) -> list[dict]:
    """Measure all jobs of some families, one after the other, and say which on stderr."""
    found = []
    for name, jobs in families.items():
        started = time.perf_counter()
        for job in jobs(quick):
            found.append(measure(job, repeats, limit))
            del job  # its arrays, before those of the next job are made
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and few turns")
    parser.add_argument("--json", type=Path, help="file for all times and ratios")
    parser.add_argument("--repeats", type=int, help="turns at most; 9, or 5 with --quick")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, metavar="NAME", help="only these; the names are above")
    given = parser.parse_args()
    prepare(given.threads)
    about, repeats = machine(), given.repeats or (5 if given.quick else 9)
    chosen = {name: jobs for name, jobs in FAMILIES.items() if name in (given.only or FAMILIES.keys() - ASKED)}
    found = run(chosen, given.quick, repeats, 5 if given.quick else 40)
    print(f"{head(about)}\nat most {repeats} turns in one process; the ratio is memgen's time / the other's:")
    print("median [smallest, largest] over the turns, below 1 where memgen is faster\n")
    print("\n".join(table(found)))
    if given.json:
        given.json.write_text(json.dumps(about | {"quick": given.quick, "repeats": repeats, "jobs": found}, indent=1))


if __name__ == "__main__":
    main()
