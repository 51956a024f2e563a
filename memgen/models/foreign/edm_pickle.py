"""Networks of EDM and EDM2, in the pickles of their authors, with --trust-code: such a pickle holds Python source.

The pickle is a dict whose `ema` is a network D(x; s) with pixels in [-1, 1], so s = 2 σ. It has `img_resolution`,
`img_channels` and `label_dim`. To open it, the authors' packages `torch_utils` and `dnnlib` must be importable, for
example with PYTHONPATH.

Source: Karras et al. 2022 and 2024, and their released code.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memgen.base.errors import ConfigError, DataError, first_line
from memgen.models.denoiser import Denoiser
from memgen.models.foreign import ForeignModel, ImportOptions, digests, require_trust
from memgen.models.guidance import GuidedDenoiser

ORDER = 0
OPTIONS = ("label", "guidance")
KIND = "a pickle of EDM or EDM2 (FILE.pkl, with --trust-code)"


def reads(source: Path) -> bool:
    """Whether a file is a pickle by its first bytes and its suffix."""
    if not source.is_file() or source.suffix != ".pkl":
        return False
    with open(source, "rb") as file:
        return file.read(1) == b"\x80"


def load(source: Path, image_size: tuple[int, int], options: ImportOptions) -> ForeignModel:
    """The network of a pickle; see `foreign.Format`."""
    require_trust(source, options, "a pickle")
    try:
        with open(source, "rb") as file:
            network = pickle.load(file)["ema"]
    except Exception as error:  # of foreign code
        raise DataError(
            f"{source}: cannot be opened ({type(error).__name__}: {first_line(error)}). Put the authors' code, with "
            "torch_utils and dnnlib, on PYTHONPATH."
        ) from error
    denoiser: Denoiser = EdmDenoiser(network, options.label, source)
    if options.guidance is not None:
        if options.label is None:
            raise ConfigError(f"{source}: --guidance needs a class. State one with --label.")
        denoiser = GuidedDenoiser(denoiser, EdmDenoiser(network, None, source), options.guidance)
    if denoiser.image_shape[1:] != tuple(image_size):
        size = denoiser.image_shape[1]
        raise DataError(
            f"{source}: denoises images of {size} x {size} pixels, found {image_size[1]} x {image_size[0]}. Use "
            f"--resize {size}."
        )
    about = {"model": type(network).__name__, "parameters": sum(each.numel() for each in network.parameters())}
    return ForeignModel(denoiser, digests([source]), about)


class EdmDenoiser(torch.nn.Module):
    """A network D(x; s) of EDM as a denoiser, in units where pixels lie in [0, 1].

    Args:
        network: with img_resolution, img_channels and label_dim.
        label: number of the class, for a model of classes; None is no class.
        source: named in errors.

    Attributes:
        image_shape: (C, H, W).
        blind: False.

    Raises:
        ConfigError: the label is not one of the model.
    """

    blind = False

    def __init__(self, network: Any, label: int | None, source: Path) -> None:
        super().__init__()
        self.network = network.float()
        side = int(network.img_resolution)
        self.image_shape = (int(network.img_channels), side, side)
        self.classes, self.label = int(network.label_dim), label
        if self.label is not None and self.label >= self.classes:
            raise ConfigError(f"{source}: --label {self.label}: the model has {self.classes} classes.")

    def forward(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The denoised images; see `memgen.models.denoiser.Denoiser`."""
        assert sigma is not None
        labels = None
        if self.classes:
            labels = noisy.new_zeros((len(noisy), self.classes))  # zeros mean no class
            if self.label is not None:
                labels[:, self.label] = 1
        denoised: Tensor = self.network(2 * noisy - 1, 2 * sigma, labels)
        return (denoised + 1) / 2
