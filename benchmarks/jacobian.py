"""Compare the speed of memgen's full Jacobian with that of the methods in PyTorch, as ratios.

    python benchmarks/jacobian.py [--repeats 7] [--threads 2] [--side 28]

The network is the demo's UNet. All methods take turns in one process. They are:

    memgen    memgen.measures.geometry.jacobian.full
    rows      one backward pass for each output pixel, through one retained graph
    jacrev    torch.func.jacrev, with the fastest of several chunk sizes in each turn
    jacfwd    the computation of torch.func.jacfwd, with the fastest of several chunk sizes in each turn

The program prints the median, the smallest and the largest time and ratio. All matrices must agree to 1e-5.
"""

import argparse
import warnings

import numpy as np
import torch
from turns import Work, by_turns, head, machine, prepare, seconds

from memgen.measures.geometry import jacobian
from memgen.models.networks import BiasFreeBatchNorm, UNetSettings, build

CHUNKS = (32, 64, 128, 256)


def network(side: int, settings: UNetSettings | None = None):
    """A UNet with weights and norms similar to those of a trained network: features neither vanish nor grow."""
    made = build(settings or UNetSettings(), (1, side, side))
    made.initialize(torch.Generator().manual_seed(0))
    for module in made.modules():
        if isinstance(module, BiasFreeBatchNorm):
            module.gammas.data.normal_(1, 0.1, generator=torch.Generator().manual_seed(1))
    return made.eval()


def methods(side: int) -> dict[str, Work]:
    """The methods, each of which computes one Jacobian; jacrev and jacfwd state the time of their fastest chunks."""
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")
    d, denoiser = side**2, network(side)
    noisy = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(2))
    image = noisy[0]

    def at(x):
        return denoiser(x[None])[0]

    def rows():
        start = noisy.clone().requires_grad_()
        outputs, found = denoiser(start).flatten(), torch.empty(d, d)
        for pixel in range(d):
            (gradient,) = torch.autograd.grad(outputs[pixel], start, retain_graph=True)
            found[pixel] = gradient.flatten()
        return found

    def reverse(chunk):
        return torch.func.jacrev(at, chunk_size=chunk)(image).reshape(d, d)

    def forward(chunk):  # torch.func.jacfwd has no chunk size
        units = torch.eye(d).view(d, 1, side, side)
        push = torch.func.vmap(lambda v: torch.func.jvp(at, (image,), (v,))[1], chunk_size=chunk)
        return push(units).view(d, d).T

    def ours():
        return jacobian.full(denoiser, noisy)[0]

    expected = ours()
    for found in (rows(), reverse(64), forward(64)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    chunks = [chunk for chunk in CHUNKS if chunk <= d]
    return {
        "memgen": ours,
        "rows": rows,
        "jacrev": lambda: min(seconds(lambda c=c: reverse(c)) for c in chunks),
        "jacfwd": lambda: min(seconds(lambda c=c: forward(c)) for c in chunks),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", type=int, default=28, help="side of the images, a multiple of 4")
    options = parser.parse_args()
    prepare(options.threads)
    found = machine()
    t = {name: np.array(values) for name, values in by_turns(methods(options.side), options.repeats).items()}
    print(f"{head(found)}\n{options.side}x{options.side}, {options.repeats} turns: median [smallest, largest]")
    for name, values in t.items():
        print(f"{name + ', s':42} {np.median(values):6.3f} [{values.min():.3f}, {values.max():.3f}]")
    for name, ratio in {
        "rows / memgen": t["rows"] / t["memgen"],
        "memgen / the faster of jacrev and jacfwd": t["memgen"] / np.minimum(t["jacrev"], t["jacfwd"]),
    }.items():
        print(f"{name:42} {np.median(ratio):6.2f} [{ratio.min():.2f}, {ratio.max():.2f}]")


if __name__ == "__main__":
    main()
