"""What changes a sample: batches, threads, micro-batch size. Needs a finished run (memgen demo).

    python benchmarks/determinism.py [outputs/demo] [--n 64 --n 4096]

Cutting the sample set must change no bit. Another micro-batch size or number of threads changes the order of sums in
the network's kernels; chaotic samplers may then take another branch. Prints, for each change, the median and largest
rms difference over samples (pixel units) and how many samples bifurcate (correlation with their other self under .95).
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from memgen.experiment.runs import Run
from memgen.experiment.workspace import Workspace
from memgen.models.sampling import sample
from memgen.spaces import find


def draw(workspace: Workspace, name: str, samples, threads: int, micro_batch: int) -> np.ndarray:
    torch.set_num_threads(threads)
    settings = workspace.settings.sample.model_copy(update={"micro_batch": micro_batch})
    return sample(workspace.denoiser(name), workspace.mean, samples, workspace.settings.seed, settings).images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="outputs/demo", type=Path)
    parser.add_argument("--n", action="append", type=int)
    arguments = parser.parse_args()
    workspace = Workspace.of(Run(arguments.run), "cpu")
    count, size = workspace.settings.sample.n_samples, workspace.settings.sample.micro_batch
    for n_train in arguments.n or [64, 4096]:
        name = f"n{n_train}-s0-a"
        kept, _ = workspace.samples(name)
        cut = np.concatenate(
            [draw(workspace, name, range(i, min(i + 37, count)), 1, size) for i in range(0, count, 37)]
        )
        changes = {"cut into parts of 37": cut, "2 threads": draw(workspace, name, range(count), 2, size)}
        changes |= {f"micro-batch {m}": draw(workspace, name, range(count), 1, m) for m in (1, 16, 128)}
        for change, images in changes.items():
            rms = np.sqrt(((images - kept).astype(np.float64) ** 2).mean(axis=(1, 2, 3)))
            alike = find("correlation").paired(torch.from_numpy(kept), torch.from_numpy(images)).numpy()
            same = "bit-equal" if np.array_equal(images, kept) else f"{(rms > 0).sum()} of {count} differ"
            print(
                f"N = {n_train}, {change:22} {same:18} rms median {np.median(rms):.1e}, largest {rms.max():.1e}, "
                f"bifurcated {(alike < 0.95).sum()} of {count}"
            )


if __name__ == "__main__":
    main()
