"""Exact Jacobians of bias-free networks, from the gates of their ReLUs."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from memgen.models.denoiser import Denoiser
from memgen.models.networks import BFCNN, BiasFreeNetwork, UNet


def cast_state(denoiser: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Detached weights of a network in another type, for `torch.func.functional_call`."""
    named = [*denoiser.named_parameters(), *denoiser.named_buffers()]
    return {name: t.detach().to(dtype) if t.is_floating_point() else t for name, t in named}


def is_gated(denoiser: Denoiser) -> bool:
    """Whether a denoiser is a bias-free network of ReLUs, whose Jacobian its gates give."""
    return isinstance(denoiser, UNet | BFCNN)  # whose layers are all among those that _Tangents knows


class Gated:
    """A bias-free network linearized at a noisy image (1, C, H, W)."""

    def __init__(self, network: Any, noisy: Tensor) -> None:
        self._network: BiasFreeNetwork = network
        self._noisy = noisy
        recorder = _GateRecorder()
        with torch.inference_mode():
            state = cast_state(self._network, noisy.dtype)
            with recorder:
                torch.func.functional_call(self._network, state, (noisy,))
        self._gates = recorder.gates

    def matrix(self, chunk: int) -> Tensor:
        """J (d, d), from tiles of about `chunk` pixels."""
        _, channels, height, width = self._noisy.shape
        side, d = max(1, math.isqrt(chunk // channels)), self._noisy.numel()
        residual = self._noisy.new_empty(channels, height, width, d)  # transposed: a row for each input
        with torch.inference_mode():
            for top, left in ((i, j) for i in range(0, height, side) for j in range(0, width, side)):
                tile = residual[:, top : top + side, left : left + side]
                h, w = tile.shape[1:3]
                units = torch.eye(channels * h * w, dtype=residual.dtype, device=residual.device)
                tile.copy_(self._residuals(units.view(-1, channels, h, w), top, left).reshape(tile.shape))
        jacobian = residual.view(d, d).T.neg_()
        jacobian.diagonal().add_(1)
        return jacobian

    def products(self, images: Tensor, chunk: int) -> Tensor:
        """J applied to each of the images (k, C, H, W)."""
        with torch.inference_mode():
            residuals = torch.cat([self._residuals(part, 0, 0) for part in torch.split(images, chunk)])
        return images - residuals

    def _residuals(self, values: Tensor, top: int, left: int) -> Tensor:
        """∂r/∂y applied to images that are zero outside of a window (n, C, h, w) at row `top` and column `left`."""
        values = values.contiguous(memory_format=torch.channels_last)
        size = (self._noisy.shape[2], self._noisy.shape[3])
        window: Any = _Tangents(values, top, left, size, iter(self._gates))
        return self._network.residual(window).whole()  # type: ignore[attr-defined, no-any-return]


class _GateRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the gates of each ReLU: which features pass, times the scale of the batch norm before it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gates: list[Tensor] = []
        self._scale: Tensor | float = 1.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.mul.Tensor:
            self._scale = args[1]
        elif func in (torch.ops.aten.relu.default, torch.ops.aten.relu_.default):
            gate = (args[0] > 0) * self._scale
            self.gates.append(gate.to(args[0].dtype).contiguous(memory_format=torch.channels_last))
            self._scale = 1.0
        return func(*args, **(kwargs or {}))


class _Tangents:
    """A stand-in for a tensor that passes through a bias-free network: features that are zero outside of a window.

    Args:
        values: the window's features, (n, C, h, w).
        top: its first row.
        left: its first column.
        size: height and width of the whole image.
        gates: gates of the ReLUs ahead, in order.
    """

    def __init__(self, values: Tensor, top: int, left: int, size: tuple[int, int], gates: Iterator[Tensor]) -> None:
        self.values, self.top, self.left, self.size, self.gates = values, top, left, size, gates

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _LAYERS[func](*args) if func in _LAYERS else NotImplemented

    def __mul__(self, scale: Tensor) -> "_Tangents":
        return self  # the scale of a batch norm is part of the gates

    def relu(self) -> "_Tangents":
        gate = next(self.gates)
        height, width = self.values.shape[2:]
        self.values.mul_(gate[:, :, self.top : self.top + height, self.left : self.left + width])
        return self

    @property
    def is_whole(self) -> bool:
        return tuple(self.values.shape[2:]) == self.size

    def whole(self) -> Tensor:
        """The features with their zeros, (n, C, H, W)."""
        if self.is_whole:
            return self.values
        (height, width), (bottom, right) = self.values.shape[2:], self.size
        bottom, right = bottom - self.top - height, right - self.left - width
        return F.pad(self.values, (self.left, right, self.top, bottom))


class _Concatenated:
    """Features side by side, each in a window of its own; only a convolution can follow."""

    def __init__(self, parts: list[_Tangents]) -> None:
        self.parts = parts

    __torch_function__ = _Tangents.__torch_function__


def _convolve(features: _Tangents | _Concatenated, weight: Tensor, *_: Any) -> _Tangents:
    if isinstance(features, _Tangents):
        return _convolve_window(features, weight)
    widths = [part.values.shape[1] for part in features.parts]
    found = [
        _convolve_window(part, piece)
        for part, piece in zip(features.parts, torch.split(weight, widths, dim=1), strict=True)
    ]
    found.sort(key=lambda part: part.values[0, 0].numel())
    total = found.pop()  # the skipped features around a pixel lie within the window of those that went deeper
    for part in found:
        height, width = part.values.shape[2:]
        top, left = part.top - total.top, part.left - total.left
        total.values[:, :, top : top + height, left : left + width] += part.values
    return total


def _convolve_window(features: _Tangents, weight: Tensor) -> _Tangents:
    """A convolution: the window grows by half a kernel to all sides, but not beyond the borders."""
    weight, half, values = weight.to(features.values.dtype), weight.shape[2] // 2, features.values
    if weight.shape[0] * 4 < weight.shape[1] and features.is_whole:
        return _Tangents(_convolve_thin(values, weight), 0, 0, features.size, features.gates)
    # A window that spans the whole image needs only the zeros of the border.
    pad = [half if values.shape[axis + 2] == features.size[axis] else 2 * half for axis in (0, 1)]
    values = F.conv2d(values, weight, padding=pad)
    top, left = features.top - pad[0] + half, features.left - pad[1] + half
    bottom, right = (min(values.shape[2], features.size[0] - top), min(values.shape[3], features.size[1] - left))
    values = values[:, :, max(0, -top) : bottom, max(0, -left) : right]
    return _Tangents(values, max(0, top), max(0, left), features.size, features.gates)


def _convolve_thin(values: Tensor, weight: Tensor) -> Tensor:
    """A convolution to few channels, by one matrix product: oneDNN always computes 16 channels at a time."""
    (n, channels, height, width), kernel = values.shape, weight.shape[2]
    spread = weight.flip(2, 3).permute(0, 2, 3, 1).reshape(-1, channels)  # (out·kernel², C)
    rows = spread @ values.permute(0, 2, 3, 1).reshape(n, height * width, channels).transpose(1, 2)
    return F.fold(rows, (height, width), kernel, padding=kernel // 2)


def _upsample(features: _Tangents, weight: Tensor, *_: Any) -> _Tangents:
    """A transposed convolution of 2x2 and stride 2, by one matrix product: each pixel becomes four."""
    (n, channels, height, width), out = features.values.shape, weight.shape[1]
    spread = weight.to(features.values.dtype).permute(0, 2, 3, 1).reshape(channels, -1)  # (in, 2·2·out)
    pixels = features.values.permute(0, 2, 3, 1).reshape(-1, channels) @ spread
    values = pixels.view(n, height, width, 2, 2, out).transpose(2, 3).reshape(n, 2 * height, 2 * width, out)
    size = (2 * features.size[0], 2 * features.size[1])
    return _Tangents(values.permute(0, 3, 1, 2), 2 * features.top, 2 * features.left, size, features.gates)


def _pool(features: _Tangents, *_: Any) -> _Tangents:
    (height, width), size = features.values.shape[2:], features.size
    above, before = features.top % 2, features.left % 2
    even = F.pad(features.values, (before, (before + width) % 2, above, (above + height) % 2))
    half = (size[0] // 2, size[1] // 2)
    return _Tangents(F.avg_pool2d(even, 2), features.top // 2, features.left // 2, half, features.gates)


_LAYERS: dict[Any, Callable[..., Any]] = {
    F.conv2d: _convolve,
    F.conv_transpose2d: _upsample,
    F.avg_pool2d: _pool,
    F.relu: _Tangents.relu,
    torch.cat: lambda parts, *_: _Concatenated(parts),
}
