"""Measure memgen on one GPU: training, sampling and search, as shares of what the card does and against bare kernels.

    python benchmarks/gpu.py [--only training sampling search small] [--json FILE]

The card's peak is that of a bfloat16 matrix product of 8192 x 8192 x 8192 on random numbers, measured first. Shares
count the floating-point operations of convolutions alone, three forward passes for a step of training. All times are
medians, and the smallest and the largest are printed beside them.
"""

import argparse
import json
import platform
import time
from itertools import islice

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from memgen import spaces
from memgen.models.networks import UNetSettings, build
from memgen.models.sampling import SampleSettings, sample
from memgen.models.training import Training, TrainSettings, train
from memgen.spaces.index import Index

DEVICE = "cuda"
LARGE = (UNetSettings(blocks=3, width=64), (1, 80, 80))
SMALL = (UNetSettings(), (1, 28, 28))
found: dict[str, dict[str, float]] = {}


def timed(work, repeats: int = 7) -> list[float]:
    """Seconds of each call, after two that warm up."""
    times = []
    for turn in range(repeats + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        if turn >= 2:
            times.append(time.perf_counter() - start)
    return times


def say(name: str, seconds: list[float], **numbers: float) -> None:
    found[name] = {"seconds": float(np.median(seconds)), "least": min(seconds), "most": max(seconds), **numbers}
    text = ", ".join(f"{key} {value:,.3g}" if value < 1000 else f"{key} {value:,.0f}" for key, value in numbers.items())
    print(f"{name:52} {np.median(seconds):8.4f} s [{min(seconds):.4f}, {max(seconds):.4f}]  {text}", flush=True)


def flops(network: torch.nn.Module, shape: tuple[int, ...]) -> float:
    """Floating-point operations of one forward pass of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *shape, device=next(network.parameters()).device))
    return float(counter.get_total_flops())


def peak() -> float:
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    seconds = timed(lambda: [a @ b for _ in range(10)])
    rate = 10 * 2 * 8192**3 / float(np.median(seconds))
    say("10 bfloat16 products of 8192^3", seconds, tflops=rate / 1e12)
    return rate


def training(rate: float) -> None:
    steps = 20
    for name, (settings, shape), batch in (("large UNet, 80x80", LARGE, 512), ("small UNet, 28x28", SMALL, 512)):
        work = 3 * flops(build(settings, shape).eval(), shape)
        pixels = torch.randint(0, 256, (4096, *shape), dtype=torch.uint8, device=DEVICE)
        for precision, compiled in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
            chosen = TrainSettings(images_seen=10**9, batch_size=batch, precision=precision, compiled=compiled)
            running = train(Training(build(settings, shape), chosen, (0, 0), DEVICE), pixels, record_every=steps)
            seconds = timed(lambda running=running: next(running), repeats=4)
            running.close()
            speed = steps * batch / float(np.median(seconds))
            how = f"{precision}{', compiled' if compiled else ''}"
            say(f"training, {name}, {how}", seconds, images_per_s=speed, share_of_peak=speed * work / rate)


def sampling(rate: float) -> None:
    steps = 20
    for name, (settings, shape), count in (("large UNet, 80x80", LARGE, 1024), ("small UNet, 28x28", SMALL, 4096)):
        network = build(settings, shape)
        network.initialize(torch.Generator().manual_seed(0))
        network.eval().to(DEVICE, memory_format=torch.channels_last)
        work = flops(network, shape)
        block = torch.randn(count, *shape, device=DEVICE)
        for precision, compiled in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
            chosen = SampleSettings(
                max_steps=steps, sigma_end=1e-30, micro_batch=count, precision=precision, compiled=compiled
            )
            called = torch.compile(network, mode="reduce-overhead", dynamic=False) if compiled else network

            def bare(called=called, block=block, precision=precision):
                with torch.inference_mode(), torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bfloat16"):
                    for _ in range(steps + 1):
                        called(block)

            def ours(network=network, chosen=chosen, shape=shape, count=count):
                sample(network, torch.zeros(shape, device=DEVICE), range(count), 0, chosen)

            least, seconds = timed(bare, 4), timed(ours, 4)
            how = f"{precision}{', compiled' if compiled else ''}"
            speed = (steps + 1) * count / float(np.median(seconds))
            over = float(np.median(seconds) / np.median(least))
            say(f"sampling, {name}, {how}", seconds, updates_per_s=speed, to_bare=over, share=speed * work / rate)
        one = torch.randn(1, *shape, device=DEVICE)

        def official(network=network, one=one):
            with torch.inference_mode():
                for _ in range(steps + 1):
                    network(one)

        seconds = timed(official, 4)
        say(f"one image at a time, {name}, float32", seconds, updates_per_s=(steps + 1) / float(np.median(seconds)))


def search(rate: float) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (500_000, 3, 32, 32), dtype=np.uint8)
    queries = torch.from_numpy(generator.integers(0, 256, (10_000, 3, 32, 32), dtype=np.uint8)).float() / 255
    index = Index.build(pixels, range(len(pixels)), spaces.find("correlation"), "bench", None, device=DEVICE)
    x, y = torch.from_numpy(pixels).flatten(1), queries.flatten(1).to(DEVICE)

    def product():
        for start in range(0, len(x), 8192):
            y @ x[start : start + 8192].to(DEVICE).float().T

    bare = timed(product, 3)
    operations = 2 * x.numel() * len(y)
    say("float32 products, 10,000 x 500,000 x 3,072", bare, tflops=operations / float(np.median(bare)) / 1e12)
    for name, wanted in (("of uint8", queries), ("others", queries + 1e-3)):
        seconds = timed(lambda wanted=wanted: index.search(wanted, 10), 3)
        say(f"exact search, queries {name}", seconds, to_products=float(np.median(seconds) / np.median(bare)))


def small(rate: float) -> None:
    """Several small trainings at once, each in a process of its own."""
    context = torch.multiprocessing.get_context("spawn")
    for count in (1, 2, 4):
        started, barrier = time.perf_counter(), context.Barrier(count + 1)
        workers = [context.Process(target=_one_small, args=(barrier,)) for _ in range(count)]
        for worker in workers:
            worker.start()
        barrier.wait()
        started = time.perf_counter()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - started
        say(
            f"{count} trainings at once, default UNet, 16x16, 25,600 images",
            [seconds],
            trainings_per_min=60 * count / seconds,
        )


def _one_small(barrier) -> None:
    shape = (1, 16, 16)
    pixels = torch.randint(0, 256, (4096, *shape), dtype=torch.uint8, device=DEVICE)
    running = train(Training(build(UNetSettings(), shape), TrainSettings(images_seen=25_600), (0, 0), DEVICE), pixels)
    list(islice(running, 2))
    barrier.wait()
    list(running)


JOBS = {"training": training, "sampling": sampling, "search": search, "small": small}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*JOBS], default=[*JOBS])
    parser.add_argument("--json", help="file for all numbers")
    chosen = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {platform.processor() or platform.machine()}")
    rate = peak()
    for name in chosen.only:
        start = time.perf_counter()
        JOBS[name](rate)
        print(f"({name}: {time.perf_counter() - start:.0f} s)", flush=True)
    if chosen.json:
        with open(chosen.json, "w") as file:
            json.dump(
                {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "found": found}, file, indent=1
            )


if __name__ == "__main__":
    main()
