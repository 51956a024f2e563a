"""Measure what changes a sample: parts, threads, and the size of micro-batches. Needs a finished run (memgen demo).

    python benchmarks/determinism.py [outputs/demo] [--n 64 --n 4096]

Drawing the samples in several parts must not change a single bit. Another size of micro-batch or another number of
threads changes the order of sums inside the network. A sampler is chaotic, so a sample may then become another image.

For each change, this program prints the median and the largest rms difference over samples, in pixel units. It also
prints how many samples became another image (correlation with the original sample below .95).
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from memgen.experiment import subjects
from memgen.experiment.runs import Run
from memgen.experiment.workspace import Workspace
from memgen.models.sampling import sample
from memgen.spaces import find


def draw(workspace: Workspace, name: str, samples, threads: int, micro_batch: int) -> np.ndarray:
    torch.set_num_threads(threads)
    settings = workspace.settings.sample.model_copy(update={"micro_batch": micro_batch})
    return sample(
        subjects.find(workspace, name).denoiser, workspace.mean, samples, workspace.settings.seed, settings
    ).images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="outputs/demo", type=Path)
    parser.add_argument("--n", action="append", type=int)
    arguments = parser.parse_args()
    workspace = Workspace.of(Run(arguments.run), "cpu")
    count, size = workspace.settings.sample.n_samples, workspace.settings.sample.micro_batch
    for n_train in arguments.n or [64, 4096]:
        name = f"n{n_train}-s0-a"
        kept = workspace.load_samples(name).images
        cut = np.concatenate(
            [draw(workspace, name, range(i, min(i + 37, count)), 1, size) for i in range(0, count, 37)]
        )
        changes = {"drawn in parts of 37": cut, "2 threads": draw(workspace, name, range(count), 2, size)}
        changes |= {f"micro-batch {m}": draw(workspace, name, range(count), 1, m) for m in (1, 16, 128)}
        for change, images in changes.items():
            rms = np.sqrt(((images - kept).astype(np.float64) ** 2).mean(axis=(1, 2, 3)))
            alike = find("correlation").paired(torch.from_numpy(kept), torch.from_numpy(images)).numpy()
            same = "equal bit for bit" if np.array_equal(images, kept) else f"{(rms > 0).sum()} of {count} differ"
            print(
                f"N = {n_train}, {change:22} {same:18} rms: median {np.median(rms):.1e}, largest {rms.max():.1e}, "
                f"became another image: {(alike < 0.95).sum()} of {count}"
            )


if __name__ == "__main__":
    main()
