"""Measure memgen's speed as ratios: its time divided by that of the computation that it cannot avoid.

    python benchmarks/speed.py [--repeats 9]

Both run by turns in one process. A ratio of 1.0 means that memgen adds no time. The program prints the median ratio and
the smallest and largest one.
"""

import argparse
import time

import numpy as np
import torch

from memgen import spaces
from memgen.base import noise
from memgen.images.duplicates import leaders
from memgen.images.importing import read_images
from memgen.models.networks import BiasFreeBatchNorm, UNetSettings, build
from memgen.models.sampling import SampleSettings, sample
from memgen.models.training import Training, TrainSettings, train
from memgen.spaces.index import Index

SHAPE = (1, 16, 16)


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratios(ours, kernel, repeats: int) -> list[float]:
    ours(), kernel()
    return [seconds(ours) / seconds(kernel) for _ in range(repeats)]


def convolutions_only(network: torch.nn.Module) -> torch.nn.Module:
    """The same network without normalization and ReLU, to time its convolutions alone."""
    for module in network.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, (BiasFreeBatchNorm, torch.nn.ReLU)):
                setattr(module, name, torch.nn.Identity())
    return network


def training_step(repeats: int) -> list[float]:
    settings = TrainSettings(images_seen=10**9)
    pixels = torch.randint(0, 256, (4096, *SHAPE), dtype=torch.uint8)
    steps = train(Training(build(UNetSettings(), SHAPE), settings, (0, 0)), pixels, record_every=10)
    bare = convolutions_only(build(UNetSettings(), SHAPE)).to(memory_format=torch.channels_last)
    noisy = torch.randn(settings.batch_size, *SHAPE).contiguous(memory_format=torch.channels_last)

    def kernel():
        for _ in range(10):
            bare.zero_grad()
            bare.residual(noisy).sum().backward()

    return ratios(lambda: next(steps), kernel, repeats)


def sampling(repeats: int) -> list[float]:
    network = build(UNetSettings(), SHAPE)
    network.initialize(torch.Generator().manual_seed(0))
    network.eval().to(memory_format=torch.channels_last)
    settings = SampleSettings(max_steps=30, sigma_end=1e-30)  # no sample ends before the step limit
    block = torch.randn(settings.micro_batch, *SHAPE)

    def ours():
        sample(network, torch.zeros(SHAPE), range(128), 0, settings)

    def kernel():  # 31 denoisings (30 updates and the last one) of 128 samples, in two calls each
        with torch.inference_mode():
            for _ in range(62):
                network(block)

    return ratios(ours, kernel, repeats)


def search(repeats: int, backend: str) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((20_000, 1, 28, 28), generator=generator)
    index = Index.build(
        images, [str(i) for i in range(len(images))], spaces.find("correlation"), "bench", backend=backend
    )
    queries = torch.rand((1_000, 1, 28, 28), generator=generator)
    x, y = queries.flatten(1), images.flatten(1)
    return ratios(lambda: index.search(queries, 3), lambda: x @ y.T, repeats)


def near_duplicates(repeats: int) -> list[float]:
    """The clusters of the embedded images at 28x28; without a bound, each would be compared with all before it."""
    rows = read_images(resize=28, deduplicate=False).pixels.reshape(-1, 784)
    unit = torch.from_numpy(rows).float()
    unit -= unit.mean(dim=1, keepdim=True)
    unit /= unit.norm(dim=1, keepdim=True)

    def kernel():
        for start in range(0, len(unit), 2048):
            (unit[start : start + 2048] @ unit[: start + 2048].T > 0.99).sum()

    return ratios(lambda: leaders(rows, 0.99), kernel, repeats)


def drawing_noise(repeats: int) -> list[float]:
    streams = [noise.stream("bench", i) for i in range(128)]
    one = np.random.Generator(np.random.Philox(0))
    return ratios(
        lambda: [noise.normal(stream, SHAPE) for stream in streams],
        lambda: one.standard_normal((128, *SHAPE), dtype=np.float32),
        repeats * 20,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    rows = {
        "training step / its convolutions, forward and backward": training_step(repeats),
        "sampling / its network calls": sampling(repeats),
        "exact search with FAISS / one float32 matrix product": search(repeats, "faiss"),
        "exact search with PyTorch / one float32 matrix product": search(repeats, "torch"),
        "near-duplicates / the products of all pairs": near_duplicates(repeats),
        "noise from 128 streams / from one stream": drawing_noise(repeats),
    }
    print(f"one thread, torch {torch.__version__}, {repeats} turns: median [smallest, largest]")
    for name, found in rows.items():
        print(f"{name:58} {np.median(found):6.2f} [{min(found):.2f}, {max(found):.2f}]")


if __name__ == "__main__":
    main()
