"""Measure the demo: its time, and the ratio of that to the bare convolutions that it contains.

    python benchmarks/demo.py [--outputs FOLDER]

The demo runs in this process, with one thread. Every call of a network is counted by the shape of its batch, with or
without gradients. Then the same networks without normalization and ReLU, whose convolutions nobody can avoid, do as
many calls of the same shapes; a sample of each kind is timed. The ratio is that of processor times, which depends on
the processor less than minutes do. It takes as long as the demo on one core.
"""

import argparse
import tempfile
import time
from collections import Counter
from importlib.resources import as_file, files
from pathlib import Path

import torch
from peers import convolutions_only
from torch.nn.modules.module import register_module_forward_pre_hook

import memgen
from memgen.models.networks import UNetSettings, build

TIMED = 30  # calls of each kind that are timed


def bare_seconds(shape, trains):
    """Processor seconds of one call of the bare network; of one training step if it trains."""
    network = convolutions_only(build(UNetSettings(), shape[1:])).to(memory_format=torch.channels_last)
    batch = torch.randn(shape).contiguous(memory_format=torch.channels_last)

    def call():
        if trains:
            network.zero_grad()
            network.residual(batch).sum().backward()
        else:
            with torch.inference_mode():
                network.residual(batch)

    call()
    start = time.process_time()
    for _ in range(TIMED):
        call()
    return (time.process_time() - start) / TIMED


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", type=Path, help="folder for the run; a temporary one without it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    calls = Counter()

    def count(module, given):
        if isinstance(module, torch.nn.Conv2d) and module.in_channels == 1:  # the first of a gray network
            calls[tuple(given[0].shape), torch.is_grad_enabled()] += 1

    with tempfile.TemporaryDirectory() as temporary, as_file(files("memgen") / "embedded" / "demo.toml") as config:
        hook = register_module_forward_pre_hook(count)
        start, wall = time.process_time(), time.perf_counter()
        found = memgen.sweep(config, arguments.outputs or temporary, "demo", jobs=1)
        spent, minutes = time.process_time() - start, (time.perf_counter() - wall) / 60
        hook.remove()
    print(found.verdict.headline)
    bare = {key: number * bare_seconds(*key) for key, number in calls.items()}
    for trains in (True, False):
        number = sum(count for (_, each), count in calls.items() if each is trains)
        seconds = sum(second for (_, each), second in bare.items() if each is trains)
        print(f"{'training steps' if trains else 'other calls'}: {number:,}, bare convolutions {seconds:.0f} s")
    total = sum(bare.values())
    print(
        f"whole run on one core: {minutes:.1f} min, {spent:.0f} s of processor time, "
        f"{spent / total:.2f} times the bare convolutions ({total:.0f} s)"
    )


if __name__ == "__main__":
    main()
