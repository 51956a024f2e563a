"""An embedder in a file that sorts pixels: images with the same pixels in other places have the same vector."""

import json
import warnings
from pathlib import Path

import torch


class _Sorted(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=1).flatten(1).sort(dim=1).values


def save(file: Path, side: int) -> str:
    """Save the embedder for images of a side, and return the space of it: sorted=FILE."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporter warns about itself
        torch.jit.script(_Sorted()).save(str(file))
    state(file, side)
    return f"sorted={file}"


def state(file: Path, side: int) -> None:
    """State how images are prepared for the embedder, beside its file."""
    stated = {"side": side, "interpolation": "bilinear", "mean": [0, 0, 0], "std": [1, 1, 1]}
    Path(f"{file}.json").write_text(json.dumps(stated))
