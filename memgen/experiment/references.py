"""Models from elsewhere, as a run keeps them.

A network that memgen has itself is copied into the run. Of any other model, the run keeps where it lies, the digests of
its files, and its options. It is loaded anew whenever it is needed, and refused if a file of it has changed since. The
digests are compared before the model is loaded, so that code that was trusted once cannot be exchanged.
"""

from pathlib import Path
from typing import Any

import torch

from memgen.base import files
from memgen.base.config import validate
from memgen.base.errors import DataError
from memgen.experiment import runs
from memgen.models import checkpoints, foreign
from memgen.models.denoiser import Denoiser, ImageShape
from memgen.models.foreign import ForeignModel, ImportedCheckpoint, ImportOptions
from memgen.models.latent import picture_shape
from memgen.models.loading import denoiser_of, on_device


def keep(
    run: runs.Run, name: str, source: Path, options: ImportOptions, model: ImportedCheckpoint | ForeignModel
) -> None:
    """Keep a model in a run.

    Args:
        run: the run.
        name: of the subject.
        source: what the model was loaded from.
        options: how.
        model: as `memgen.models.loading.find` gave it.
    """
    if isinstance(model, ImportedCheckpoint):
        checkpoints.save(run.denoiser_path(name), model.network, model.settings, model.provenance)
        return
    record = {
        "source": str(source.resolve() if source.exists() else source),
        "image_shape": list(picture_shape(model.denoiser)),
        "options": options.model_dump(mode="json"),
        "digests": model.digests,
        "about": model.about,
    }
    files.write_json(run.reference_path(name), record)


def is_kept(run: runs.Run, name: str) -> bool:
    """Whether a run keeps a model of that name."""
    return run.reference_path(name).exists() or run.denoiser_path(name).exists()


def load(run: runs.Run, name: str, device: str) -> Denoiser:
    """A model that a run keeps, on a device.

    Raises:
        DataError: a file of it is missing, damaged or has changed, or it cannot be loaded.
    """
    if not run.reference_path(name).exists():
        network, _ = checkpoints.load(run.denoiser_path(name))
        return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    record = _read(run.reference_path(name))
    for file, digest in record["digests"].items():
        if not Path(file).is_file() or files.digest_file(Path(file)) != digest:
            raise DataError(
                f"{file}: missing, or changed since the model was imported. Bring it back, or import the model again "
                "under another name."
            )
    shape: ImageShape = tuple(record["image_shape"])
    options = validate(ImportOptions, record["options"], source=str(run.reference_path(name)))
    found = denoiser_of(foreign.load(Path(record["source"]), shape[1:], options))
    return on_device(found, device)


def options(run: runs.Run, name: str) -> dict[str, Any] | None:
    """The options with which a model was loaded that a run does not copy; None for a network of memgen."""
    return dict(_read(run.reference_path(name))["options"]) if run.reference_path(name).exists() else None


def about(run: runs.Run, name: str) -> dict[str, Any]:
    """What a model that a run keeps is: its architecture and its number of parameters, or what its format says."""
    if run.reference_path(name).exists():
        return dict(_read(run.reference_path(name))["about"])
    network, manifest = checkpoints.load(run.denoiser_path(name))
    return manifest.architecture.model_dump() | {"parameters": network.parameter_count}


def _read(path: Path) -> dict[str, Any]:
    record = files.read_json(path)
    if not isinstance(record, dict) or not {"source", "image_shape", "options", "digests", "about"} <= record.keys():
        raise DataError(f"{path}: damaged. Import the model again under another name.")
    return record
