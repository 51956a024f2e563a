"""Measure what memgen's adapters add to the time of the network that they wrap.

    python benchmarks/adapters.py [--repeats 15] [--images 16] [--side 32]

Each adapter and its bare network denoise the same images by turns in one process. A ratio of 1.0 means that memgen adds
no time. The network is a UNet of diffusers (extra diffusers); the last rows run it as TorchScript, torch.export and
ONNX (extra onnx), and there the bare time is that of the program, or of the network in PyTorch for torch.export, whose
list of operators memgen runs itself.
"""

import argparse
import platform
import statistics
import tempfile
import warnings
from pathlib import Path

import torch
from turns import ratios

import memgen
from memgen.base import programs
from memgen.models.foreign import ImportOptions, load
from memgen.models.foreign.edm_pickle import EdmDenoiser
from memgen.models.latent import LatentDenoiser


class Edm(torch.nn.Module):
    """A network with the attributes of those of EDM."""

    def __init__(self, inner, side: int) -> None:
        super().__init__()
        self.inner, self.img_resolution, self.img_channels, self.label_dim = inner, side, 3, 0

    def forward(self, x, sigma, class_labels=None):
        return self.inner(x, sigma).sample


class Plain(torch.nn.Module):
    """The network as a program takes it."""

    def __init__(self, inner) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, noisy, sigma):
        return self.inner(noisy, sigma, return_dict=False)[0]


def main() -> None:
    warnings.simplefilter("ignore")
    import diffusers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--side", type=int, default=32)
    given = parser.parse_args()
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=given.side, in_channels=3, out_channels=3, block_out_channels=(32, 64, 128), layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    shape = (3, given.side, given.side)
    noisy, sigma = torch.rand(given.images, *shape), torch.rand(given.images) + 0.1
    cases = {}

    def bare():
        return network(noisy, sigma, return_dict=False)

    for scheduler in (
        diffusers.DDPMScheduler(),
        diffusers.DDIMScheduler(prediction_type="v_prediction"),
        diffusers.EDMEulerScheduler(),
        diffusers.FlowMatchEulerDiscreteScheduler(),
    ):
        adapter = memgen.DiffusersDenoiser(network, scheduler, shape[1:])
        cases[type(scheduler).__name__] = (lambda adapter=adapter: adapter(noisy, sigma), bare)
    edm = EdmDenoiser(Edm(network, given.side), None, Path())
    cases["EDM pickle"] = (lambda: edm(noisy, sigma), bare)
    function = memgen.FunctionDenoiser(lambda y, s: network(y, s).sample, shape)
    cases["FunctionDenoiser"] = (lambda: function(noisy, sigma), bare)
    wrapped = LatentDenoiser(memgen.DiffusersDenoiser(network, diffusers.DDPMScheduler(), shape[1:]), None)
    cases["latent"] = (lambda: wrapped(noisy, sigma), bare)
    folder = Path(tempfile.mkdtemp())
    plain, inputs, n = Plain(network).eval(), (noisy, sigma), torch.export.Dim("n", max=63)
    torch.jit.trace(plain, inputs, check_trace=False).save(str(folder / "net.pt"))
    exported = torch.export.export(plain, inputs, dynamic_shapes=({0: n}, {0: n}))
    torch.export.save(exported, folder / "net.pt2")
    torch.onnx.export(
        plain, inputs, str(folder / "net.onnx"), dynamo=True, dynamic_shapes=({0: n}, {0: n}), verbose=False
    )
    for name in ("net.pt", "net.pt2", "net.onnx"):
        adapter = load(folder / name, shape[1:], ImportOptions()).denoiser
        program = programs.find(folder / name).load(folder / name)
        kernel = bare if name == "net.pt2" else (lambda program=program: program(noisy, sigma))
        cases[f"{program.kind} ({name})"] = (lambda adapter=adapter: adapter(noisy, sigma), kernel)

    machine = platform.processor() or platform.machine()
    print(f"{machine}, {torch.get_num_threads()} threads, {given.images} images {shape}")
    with torch.inference_mode():
        for name, (ours, kernel) in cases.items():
            found = ratios(ours, kernel, given.repeats)
            print(f"{name:36} {statistics.median(found):.3f}  [{min(found):.3f}, {max(found):.3f}]", flush=True)


if __name__ == "__main__":
    main()
