"""Denoisers from files, whoever wrote them."""

from pathlib import Path

from memgen.base.errors import ConfigError
from memgen.models import checkpoints, foreign
from memgen.models.denoiser import Denoiser
from memgen.models.foreign import ForeignModel, ImportedCheckpoint, ImportOptions


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


def _is_own(source: Path) -> bool:
    """Whether a file is a checkpoint of memgen: weights with a JSON file beside them."""
    return source.suffix == ".safetensors" and source.with_suffix(".json").exists()
