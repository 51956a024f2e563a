"""Denoisers from files, whoever wrote them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from memgen.base import noise
from memgen.base.errors import ConfigError
from memgen.models import checkpoints, foreign, latent
from memgen.models.denoiser import Denoiser
from memgen.models.foreign import ForeignModel, ImportedCheckpoint, ImportOptions

# Noise levels at which `doubt` tries a model, in pixel units, and images: few, since a model may take seconds for each.
# Nearly every denoiser passes at the first.
DOUBTED, TRIED = (0.3, 0.1, 0.05, 1.0), 4
# Files of these types are taken for plain weights. A torch file can hold images too, and then a person says so.
WEIGHTS = (".safetensors", ".pt", ".pth")


def load_denoiser(
    source: str | Path, image_size: tuple[int, int] | None = None, options: ImportOptions | None = None
) -> Denoiser:
    """The denoiser in a file or folder, on the CPU, in eval mode and without gradients.

    Nothing in it is executed, unless the option `trust_code` says that it may.

    Args:
        source: a checkpoint of memgen, or anything in one of the formats of `memgen.models.foreign`.
        image_size: (H, W) of the images that it will denoise. A checkpoint of memgen states it.
        options: what the source does not tell.

    Raises:
        DataError: the source is missing, damaged, of no known format, or can execute code.
        ConfigError: the image size or an option is needed and missing.
    """
    path = Path(source)
    if image_size is None:
        if not _is_own(path):
            raise ConfigError(f"{path}: the file does not state the size of the images. Give image_size=(H, W).")
        return checkpoints.load(path)[0]
    return denoiser_of(find(path, image_size, options or ImportOptions()))


def find(source: Path, image_size: tuple[int, int], options: ImportOptions) -> ImportedCheckpoint | ForeignModel:
    """The model in a source, for images of a size; see `load_denoiser`."""
    if _is_own(source):
        network, manifest = checkpoints.load(source)
        if manifest.image_shape[1:] == image_size:
            return ImportedCheckpoint(network, manifest.architecture, manifest.extra)
    return foreign.load(source, image_size, options)


def denoiser_of(model: ImportedCheckpoint | ForeignModel) -> Denoiser:
    """The model as a denoiser."""
    return model.denoiser if isinstance(model, ForeignModel) else model.network


def doubt(denoiser: Denoiser, images: Tensor, source: str | Path) -> list[str]:
    """Why a model may be none of denoised images in memgen's units, in a sentence; nothing if it denoises at all.

    A model that predicts noise, or counts noise in other units, loads and runs like any other, and every number of it
    would be about something else. At one of the noise levels at least, a denoiser comes nearer to an image than both
    what it gets and a flat image of the right brightness.

    Args:
        denoiser: on the device of the images.
        images: (n, C, H, W), [0, 1], of the kind that it was trained on.
        source: of the model, for the sentence.
    """
    clean = latent.encoded(denoiser, images)
    flat = float((clean - clean.mean(dim=(1, 2, 3), keepdim=True)).square().mean())
    draws = noise.normal(noise.stream("doubt", 0), (len(DOUBTED), *clean.shape))
    for sigma, draw in zip(DOUBTED, torch.from_numpy(draws).to(clean.device), strict=True):
        noisy = clean + sigma * draw
        with torch.inference_mode():
            found = denoiser(noisy, noisy.new_full((len(clean),), sigma))
        if float((found - clean).square().mean()) < min(float((noisy - clean).square().mean()), flat or np.inf):
            return []
    return [
        f"{source} does not denoise: at noise levels {', '.join(map(str, sorted(DOUBTED)))}, what it gives is further "
        "from the images than what it gets, or than a flat image. Its numbers then mean nothing. It may predict the "
        "noise, expect other pixels or noise levels than memgen gives it (docs/models.md), or be trained on others."
    ]


def on_device(denoiser: Denoiser, device: str) -> Denoiser:
    """A denoiser on a device, where it can be moved."""
    return denoiser.to(device) if isinstance(denoiser, torch.nn.Module) else denoiser


def is_model(source: Path) -> bool:
    """Whether a source is taken for a model, by its format or its suffix; everything else is read as images."""
    if any(form.ORDER == 0 and form.reads(source) for form in foreign.all_formats()):
        return True
    return source.suffix.lower() in WEIGHTS and not source.is_dir()


def _is_own(source: Path) -> bool:
    """Whether a file is a checkpoint of memgen: weights with a JSON file beside them."""
    return source.suffix == ".safetensors" and source.with_suffix(".json").exists()
