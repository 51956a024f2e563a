"""Use the DnCNN denoisers of the PyPI wheel scico 0.0.7 as memgen denoisers: real networks that never saw your images.

    python benchmarks/dncnn.py FILE.mpk [--photograph PICTURE] [--sigma 0.1]

This prints the PSNR of a gray photograph before and after denoising. The wheel also contains the photograph kodim23.
On it, 17L at sigma .06, 17M at .10 and 17H at .20 reach 35.5, 33.6 and 30.2 dB.

The weights (BSD-3) are the files scico/data/flax/dncnn{6,17}{L,M,H}.mpk in the wheel, which is a zip archive. To get
it, run `pip download --no-deps scico==0.0.7`. Reading the weights needs the package msgpack, which is not a dependency
of memgen. Convolutions wrap around the image, and batch normalization (eps 1e-5) uses running statistics.

Source: Zhang et al., IEEE Trans. Image Process. 26, 2017 (DnCNN); Balke et al., J. Open Source Softw. 7, 2022 (SCICO).
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from memgen.base import noise


class DnCNN(nn.Module):
    """A blind DnCNN with weights from a file, in eval mode. It is a memgen denoiser of images (1, H, W)."""

    blind = True

    def __init__(self, path, image_shape):
        super().__init__()
        if image_shape[0] != 1:
            raise ValueError(f"DnCNN: found images with {image_shape[0]} channels, expected gray images.")
        self.image_shape = tuple(image_shape)
        params, statistics = (_read(path)[part] for part in ("params", "batch_stats"))
        if params["conv_start"]["kernel"].shape[2] != 1:
            raise ValueError(f"{path}: takes the noise level as a second channel. Use a blind variant: L, M or H.")
        layers = [_convolution(params["conv_start"]["kernel"]), nn.ReLU()]
        for number in range(len(params) - 2):
            name = f"ConvBNBlock_{number}"
            block, moments = params[name], statistics[name]["BatchNorm_0"]
            norm = nn.BatchNorm2d(len(moments["mean"]), eps=1e-5)
            norm.load_state_dict(
                {
                    "weight": torch.from_numpy(block["BatchNorm_0"]["scale"]),
                    "bias": torch.from_numpy(block["BatchNorm_0"]["bias"]),
                    "running_mean": torch.from_numpy(moments["mean"]),
                    "running_var": torch.from_numpy(moments["var"]),
                    "num_batches_tracked": torch.tensor(0),
                }
            )
            layers += [_convolution(block["Conv_0"]["kernel"]), norm, nn.ReLU()]
        self.residual = nn.Sequential(*layers, _convolution(params["conv_end"]["kernel"]))
        self.requires_grad_(False).eval()

    def forward(self, noisy, sigma=None):
        return noisy - self.residual(noisy)


def _convolution(kernel):
    """A convolution with a kernel as flax stores it, (3, 3, in, out)."""
    made = nn.Conv2d(*kernel.shape[2:], 3, padding=1, padding_mode="circular", bias=False)
    made.load_state_dict({"weight": torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())})
    return made


def _read(path):
    """The nested dictionary of arrays in a flax file. An array is extension 1, (shape, dtype, bytes)."""
    import msgpack

    def array(code, data):
        if code != 1:
            raise ValueError(f"{path}: found msgpack extension {code}, expected extension 1 (an array).")
        shape, dtype, content = msgpack.unpackb(data)
        return np.frombuffer(content, dtype).reshape(shape).copy()

    return msgpack.unpackb(Path(path).read_bytes(), ext_hook=array)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--photograph", type=Path, help="default: the image 'camera' of scikit-image")
    parser.add_argument("--sigma", type=float, default=0.1)
    arguments = parser.parse_args()
    if arguments.photograph:
        with Image.open(arguments.photograph) as picture:
            clean = np.asarray(picture.convert("L"), dtype=np.float32) / 255
    else:
        from skimage import data

        clean = data.camera().astype(np.float32) / 255
    noisy = clean + np.float32(arguments.sigma) * noise.normal(noise.stream("dncnn", 0), clean.shape)
    with torch.inference_mode():
        denoised = DnCNN(arguments.weights, (1, *clean.shape))(torch.from_numpy(noisy)[None, None])[0, 0].numpy()
    psnr = [-10 * np.log10(np.mean((image - clean) ** 2)) for image in (noisy, denoised)]
    print(f"{arguments.weights.name}, sigma {arguments.sigma}: {psnr[0]:.1f} -> {psnr[1]:.1f} dB")


if __name__ == "__main__":
    main()
