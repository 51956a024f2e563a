"""The copy-detection network of the package imgsim: a ResNet-50 whose vectors of an image and of its copy are close.

It was trained by itself, without labels, to recognize an image after it was cropped, turned or recolored, and gives 768
numbers between -1 and 1. Its file, `imgsim/model.pth`, holds plain tensors; the package itself is not needed. It takes
images with a shorter side of 350 pixels.

Source: Chen, Xiang, Wu & Gao 2021, AugNet (arXiv 2106.06250), and the package imgsim 0.1.2.
"""

import torch
from torch import Tensor, nn

from memgen.base.errors import DataError
from memgen.base.programs import members
from memgen.spaces.embedders import Embedder, Source, fill, identity, read_state
from memgen.spaces.preprocessing import Preprocessing

ORDER = 1
KIND = "the ResNet-50 of the package imgsim (model.pth)"

_OLD = b"\x80\x02\x8a\n"  # how files of torch 1.5 and older begin
_PREPROCESSING = Preprocessing(
    side=350, fit="whole", interpolation="bilinear", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
_BLOCKS = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks and stride of each stage


def reads(source: Source) -> bool:
    """Whether a file holds tensors of torch.save or safetensors and nothing says what for."""
    path = source.path
    if source.library is not None or not path.is_file():
        return False
    with open(path, "rb") as file:
        return path.suffix == ".safetensors" or file.read(len(_OLD)) == _OLD or "data.pkl" in members(path)


def load(source: Source, stated: Preprocessing | None) -> Embedder:
    """The network; see `embedders.Format`."""
    state = read_state(source.path)
    if "pre.fc.weight" not in state:
        raise DataError(
            f"{source.path}: holds weights without a network, and they are not those of imgsim. Name the architecture "
            "they are for (timm:ARCHITECTURE=FILE or open_clip:ARCHITECTURE=FILE), or save the network as TorchScript."
        )
    with torch.device("meta"):  # no weight has a value before one is given to it
        network = _Network(len(state["pre.fc.weight"]))
    network.to_empty(device="cpu")
    record = identity("imgsim", source.path, torch=torch.__version__)
    return Embedder(fill(network, state, source), stated or _PREPROCESSING, record)


class _Network(nn.Module):
    """torchvision's ResNet-50 with a head of d numbers, and a hyperbolic tangent."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.pre = _ResNet50(d)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to vectors (N, d) between -1 and 1."""
        return torch.tanh(self.pre(images))


class _ResNet50(nn.Module):
    """ResNet-50 with the stride in the 3x3 convolution, under torchvision's names."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels, stages = 64, []
        for width, blocks, stride in _BLOCKS:
            stages.append(
                nn.Sequential(
                    *(_Block(channels if i == 0 else 4 * width, width, stride if i == 0 else 1) for i in range(blocks))
                )
            )
            channels = 4 * width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(channels, d)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to the numbers of the head (N, d)."""
        found = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(images))), 3, stride=2, padding=1)
        found = self.layer4(self.layer3(self.layer2(self.layer1(found))))
        return self.fc(found.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Three convolutions beside an identity, or beside a convolution where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride != 1 or channels != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride=stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, 4 width, H / stride, W / stride)."""
        found = torch.relu(self.bn1(self.conv1(x)))
        found = torch.relu(self.bn2(self.conv2(found)))
        found = self.bn3(self.conv3(found))
        return torch.relu(found + (x if self.downsample is None else self.downsample(x)))
