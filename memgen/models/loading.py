"""Denoisers from files, whoever wrote them."""

from pathlib import Path

from memgen.base.errors import ConfigError
from memgen.models import checkpoints, foreign
from memgen.models.denoiser import Denoiser


def load_denoiser(
    source: str | Path, image_size: tuple[int, int] | None = None, options: foreign.ImportOptions | None = None
) -> Denoiser:
    """The denoiser in a file, on the CPU, in eval mode and without gradients. Nothing in the file is executed.

    Args:
        source: a checkpoint of memgen, or a file in one of the formats of `memgen.models.foreign`.
        image_size: (H, W) of the images that it will denoise. A checkpoint of memgen states it.
        options: what the file of another program does not tell.

    Raises:
        DataError: the file is missing, damaged, of no known format, or can execute code.
        ConfigError: the image size or an option is needed and missing.
    """
    path = Path(source)
    if path.suffix == ".safetensors" and path.with_suffix(".json").exists():
        return checkpoints.load(path)[0]
    if image_size is None:
        raise ConfigError(f"{path}: the file does not state the size of the images. Give image_size=(H, W).")
    return foreign.load(path, image_size, options or foreign.ImportOptions()).network
