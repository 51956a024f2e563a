"""The bias-free networks of the paper.

A denoiser maps a noisy image y = x + σz, z ~ N(0, I), x in [0, 1], to an estimate f(y) of the clean image x. The
networks here are blind (σ is never an input) and compute the residual r(y) = y - f(y) ≈ σz. They have no additive
constants, so in eval mode f(cy) = c f(y) for c > 0 and f(y) = ∇f(y) y. In train mode batch statistics break this, and
nothing is measured in train mode.

Source: Kadkhodaie, Guth, Simoncelli & Mallat (ICLR 2024), appendix A.1, and the authors' released code. Parameters and
buffers have the authors' names, so their checkpoints load unchanged.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from memgen.base.config import Settings
from memgen.base.errors import ConfigError, ShapeError
from memgen.models.denoiser import ImageShape


class UNetSettings(Settings):
    """A bias-free UNet. The paper's has 3 blocks and base width 64 at 80x80."""

    architecture: Literal["unet"] = "unet"
    blocks: int = Field(2, ge=1, le=4, description="encoder blocks; image sides must be divisible by 2^blocks")
    width: int = Field(16, ge=1, description="channels of the first block, doubled in each further block")


class BFCNNSettings(Settings):
    """A bias-free stack of 3x3 convolutions without subsampling. The paper's has 21 layers of width 64."""

    architecture: Literal["bf_cnn"] = "bf_cnn"
    layers: int = Field(21, ge=3, description="number of convolutions, including the first and the last")
    width: int = Field(64, ge=1, description="channels of every inner layer")
    first_layer_linear: bool = Field(
        False, description="true if no ReLU follows the first convolution; the weights do not tell"
    )


class BFCNNRFSettings(Settings):
    """A BF-CNN of 21 layers whose receptive field is reduced by making most inner layers 1x1."""

    architecture: Literal["bf_cnn_rf"] = "bf_cnn_rf"
    receptive_field: Literal[5, 9, 13, 23, 43] = 43
    width: int = Field(64, ge=1, description="channels of every inner layer")


NetworkSettings = UNetSettings | BFCNNSettings | BFCNNRFSettings
ArchitectureSettings = Annotated[NetworkSettings, Field(discriminator="architecture")]


class _ScaleByDeviation(torch.autograd.Function):
    """x γ / s per channel, s the batch's standard deviation, with the gradient through s, in few passes over x.

    With n pixels per channel, c = x - mean, u = γ / s and D = Σ g x, the gradients are dx = u g - (u D / (n s²)) c and
    dγ = D / s. Two plain passes for mean and variance: `var_mean` takes a quarter of a training step on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.float().mean(dim=(0, 2, 3), keepdim=True) if x.dtype == torch.bfloat16 else x.mean((0, 2, 3), True)
        centered = x - mean  # float32 for bfloat16 features: statistics must not be rounded to 8 bits
        deviation = (centered.square().mean(dim=(0, 2, 3), keepdim=True) + 1e-5).sqrt()
        ctx.save_for_backward(centered, mean, gamma, deviation)
        ctx.mark_non_differentiable(deviation)
        return (x * (gamma / deviation)).to(x.dtype), deviation

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        centered, mean, gamma, deviation = ctx.saved_tensors
        axes = (0, 2, 3)
        dot = (grad * centered).sum(dim=axes, keepdim=True) + mean * grad.sum(dim=axes, keepdim=True)
        scale = gamma / deviation
        slope = scale * dot / (grad.numel() // grad.shape[1] * deviation.square())
        return torch.addcmul(grad * scale, centered, slope, value=-1).to(grad.dtype), dot / deviation


class BiasFreeBatchNorm(nn.Module):
    """Divides each channel by its standard deviation and multiplies it by γ; subtracts and adds nothing.

    Train mode uses the batch's biased standard deviation (about its mean, variance + 1e-5) and moves `running_sd`, a
    running standard deviation, by 0.1 of the way; eval mode uses `running_sd`.
    """

    running_sd: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gammas = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.register_buffer("running_sd", torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Scale (B, C, H, W) features per channel."""
        if not self.training:
            return x * (self.gammas / self.running_sd)
        if torch.compiler.is_compiling():  # the compiler fuses the formula itself into few passes
            deviation = (x.float().var(dim=(0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
            scaled = (x * (self.gammas / deviation)).to(x.dtype)
        else:
            scaled, deviation = _ScaleByDeviation.apply(x, self.gammas)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.running_sd.lerp_(deviation, 0.1)
        return scaled


class BiasFreeNetwork(nn.Module, ABC):
    """Base of the networks: a denoiser that subtracts its `residual` from noisy images.

    Args:
        image_shape: (C, H, W) of the images.
    """

    blind = True

    def __init__(self, image_shape: ImageShape) -> None:
        super().__init__()
        self.image_shape = image_shape

    @abstractmethod
    def residual(self, noisy: Tensor) -> Tensor:
        """The residual r(y) = y - f(y) of noisy images (B, C, H, W)."""

    def forward(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The denoised images f(y) = y - r(y); `sigma` is ignored (see Denoiser)."""
        return noisy - self.residual(noisy)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw the initial weights: Kaiming normal (fan in) convolutions; γ ~ N(0, (2/9/64)²), clamped to ±.025."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, generator=generator)
            elif isinstance(module, BiasFreeBatchNorm):
                nn.init.normal_(module.gammas, std=2 / 9 / 64, generator=generator)
                module.gammas.data.clamp_(-0.025, 0.025)
                nn.init.ones_(module.running_sd)

    @property
    def parameter_count(self) -> int:
        """Number of trained parameters, without buffers."""
        return sum(parameter.numel() for parameter in self.parameters())


def _conv(channels_in: int, channels_out: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)


def _normed(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [_conv(channels_in, channels_out), BiasFreeBatchNorm(channels_out), nn.ReLU(inplace=True)]


class UNet(BiasFreeNetwork):
    """Bias-free UNet: encoder blocks with average pooling, a middle block, decoder blocks with skip connections.

    Raises:
        ShapeError: a side of the image is not divisible by 2^blocks.
    """

    def __init__(self, settings: UNetSettings, image_shape: ImageShape) -> None:
        super().__init__(image_shape)
        channels, height, width = image_shape
        step = 2**settings.blocks
        if height % step or width % step:
            raise ShapeError(
                f"a UNet of {settings.blocks} blocks needs image sides divisible by {step}, found {height}x{width}. "
                f"Resize the images, or use a UNet of fewer blocks."
            )
        widths = [settings.width * 2**block for block in range(settings.blocks + 1)]
        self.encoder = nn.ModuleDict()
        self.encoder["0"] = nn.Sequential(
            _conv(channels, widths[0]), nn.ReLU(inplace=True), *_normed(widths[0], widths[0])
        )
        for block in range(1, settings.blocks):
            self.encoder[str(block)] = nn.Sequential(
                *_normed(widths[block - 1], widths[block]), *_normed(widths[block], widths[block])
            )
        self.mid_block = nn.Sequential(*_normed(widths[-2], widths[-1]), *_normed(widths[-1], widths[-1]))
        self.decoder = nn.ModuleDict()
        self.upsample = nn.ModuleDict()
        for block in reversed(range(settings.blocks)):
            self.upsample[str(block)] = nn.ConvTranspose2d(widths[block + 1], widths[block], 2, stride=2, bias=False)
            last = _normed(widths[block], widths[block]) if block else [_conv(widths[0], channels)]
            self.decoder[str(block)] = nn.Sequential(*_normed(2 * widths[block], widths[block]), *last)
        self.pool = nn.AvgPool2d(2)

    def residual(self, noisy: Tensor) -> Tensor:
        """The residual of noisy images (B, C, H, W)."""
        features: Tensor = noisy
        skips: list[Tensor] = []
        for encoder in self.encoder.values():
            features = encoder(features)
            skips.append(features)
            features = self.pool(features)
        features = self.mid_block(features)
        for block, decoder in self.decoder.items():
            features = decoder(torch.cat([self.upsample[block](features), skips.pop()], dim=1))
        return features


class BFCNN(BiasFreeNetwork):
    """Bias-free CNN: convolutions with batch norm and ReLU between a plain first and a plain last convolution."""

    def __init__(self, settings: BFCNNSettings, image_shape: ImageShape) -> None:
        super().__init__(image_shape)
        self._build(settings.layers, settings.width, iter([3] * (settings.layers - 2)))
        self.first_layer_linear = settings.first_layer_linear

    def _build(self, layers: int, width: int, kernels: Iterator[int]) -> None:
        channels = self.image_shape[0]
        inner = [_conv(width, width, kernel) for kernel in kernels]
        self.conv_layers = nn.ModuleList([_conv(channels, width), *inner, _conv(width, channels)])
        self.BN_layers = nn.ModuleList(BiasFreeBatchNorm(width) for _ in range(layers - 2))

    def residual(self, noisy: Tensor) -> Tensor:
        """The residual of noisy images (B, C, H, W)."""
        first, *inner, last = self.conv_layers
        features = first(noisy)
        if not self.first_layer_linear:
            features = features.relu()
        for convolution, norm in zip(inner, self.BN_layers, strict=True):
            features = norm(convolution(features)).relu()
        residual: Tensor = last(features)
        return residual


class BFCNNRF(BFCNN):
    """BF-CNN of 21 layers, the first linear, in which most inner layers are 1x1."""

    def __init__(self, settings: BFCNNRFSettings, image_shape: ImageShape) -> None:
        BiasFreeNetwork.__init__(self, image_shape)
        self._build(21, settings.width, _rf_kernels(settings.receptive_field))
        self.first_layer_linear = True


# Receptive field: n, where every n-th inner layer is 3x3. Each of these adds 2 to the 5 of the two outer layers.
_WIDE_EVERY = {5: 20, 9: 8, 13: 4, 23: 2, 43: 1}


def _rf_kernels(receptive_field: int) -> Iterator[int]:
    every = _WIDE_EVERY[receptive_field]
    return (3 if layer % every == 0 else 1 for layer in range(1, 20))


def build(settings: NetworkSettings, image_shape: ImageShape) -> BiasFreeNetwork:
    """A network of the given architecture, whose weights are not yet initialized (see `BiasFreeNetwork.initialize`).

    Raises:
        ShapeError: the images do not fit the architecture.
        ConfigError: the architecture is unknown.
    """
    with torch.random.fork_rng(
        devices=[]
    ):  # PyTorch's layers draw weights, which must not change the global random state
        match settings:
            case UNetSettings():
                return UNet(settings, image_shape)
            case BFCNNSettings():
                return BFCNN(settings, image_shape)
            case BFCNNRFSettings():
                return BFCNNRF(settings, image_shape)
    raise ConfigError(f"unknown architecture {settings!r}; known: unet, bf_cnn, bf_cnn_rf.")
