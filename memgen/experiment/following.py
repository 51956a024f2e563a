"""Following memorization through the checkpoints of a training that is over, or still running."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from memgen.base import files
from memgen.base.errors import DataError, RunError, ShapeError
from memgen.base.progress import Progress
from memgen.experiment import subjects
from memgen.experiment.monitor import Monitor, default_psnr
from memgen.experiment.workspace import Workspace
from memgen.images.importing import read_images
from memgen.images.prepare import ReadSettings
from memgen.images.remote import Source
from memgen.measures.psnr import PsnrSettings
from memgen.models import checkpoints as own
from memgen.models import latent, loading
from memgen.models.foreign import ImportOptions
from memgen.models.sampling import SampleSettings

_NUMBER = re.compile(r"\d+")
_SUFFIXES = (*loading.WEIGHTS, ".pt2", ".onnx", ".pkl", ".ts")


class _Drawn(SampleSettings):
    """How samples are drawn at each checkpoint."""

    n_samples: int = Field(0, ge=0, description="samples drawn at each checkpoint; 0 draws none")


class FollowSettings(ReadSettings):
    """What is followed, and how."""

    train: Source = Field(description="images that the model is trained on")
    holdout: Source = Field(description="images of the same source that it is not trained on")
    each: int = Field(1, ge=1, description="images seen for each unit of the number in the name of a checkpoint")
    psnr: PsnrSettings = Field(default_factory=default_psnr, description="where denoising is measured")
    sample: _Drawn = Field(default_factory=_Drawn, description="how samples are drawn")
    checkpoint: ImportOptions = Field(
        default_factory=ImportOptions, description="what the file of a model does not tell"
    )


def checkpoints(sources: Sequence[Path], each: int = 1) -> dict[int, Path]:
    """The checkpoints in folders, or those named, by images seen, ascending.

    The last number in the name of a checkpoint, or else of the folder that holds it, says how far the training was.

    Args:
        sources: models, or folders that hold them.
        each: images seen for each unit of that number.

    Raises:
        DataError: there is no model, a name holds no number, or two have the same one.
    """
    found: dict[int, Path] = {}
    for path in [path for source in sources for path in _models(source)]:
        numbers = [numbers[-1] for part in path.resolve().parts[::-1] if (numbers := _NUMBER.findall(_stem(part)))]
        if not numbers:
            raise DataError(f"{path}: found no number in its name, expected one such as checkpoint-5000.")
        seen = int(numbers[0]) * each
        if seen in found:
            raise DataError(f"{found[seen]} and {path}: both have the number {numbers[0]}. Name one of them.")
        found[seen] = path
    return dict(sorted(found.items()))


def _models(source: Path) -> list[Path]:
    """The source if it is a model, or else the models in it."""
    if loading.is_model(source):
        return [source]
    if not source.is_dir():
        raise DataError(f"{source}: not a model that memgen reads, and no folder of models. Check the path.")
    inside = [path for path in sorted(source.iterdir()) if _NUMBER.search(_stem(path.name)) and loading.is_model(path)]
    if not inside:
        raise DataError(
            f"{source}: holds no model that memgen reads with a number in its name, such as checkpoint-5000 or "
            "5000.safetensors. See docs/models.md for what a model can be."
        )
    return inside


def _stem(name: str) -> str:
    """A name without the suffix of a model's file, whose digits count nothing, such as .pt2."""
    return Path(name).stem if Path(name).suffix.lower() in _SUFFIXES else name


def name_of(found: Mapping[int, Path], settings: FollowSettings) -> str:
    """The name of the folder of readings of these checkpoints with these settings, unless a person gives one."""
    return f"monitor-{files.digest_json([_pattern(found), settings.model_dump(mode='json')])[:6]}"


def _pattern(found: Mapping[int, Path]) -> list[str]:
    """What the paths of checkpoints have in common: the paths without their numbers, so that further ones may come."""
    return sorted({_NUMBER.sub("#", str(path.resolve())) for path in found.values()})


def follow(
    found: Mapping[int, Path],
    settings: FollowSettings,
    folder: Path,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Monitor:
    """Take a reading of each checkpoint, unless there is one.

    Args:
        found: the checkpoints; see `checkpoints`.
        settings: images, and what is measured.
        folder: where readings are kept.
        device: where models run.
        progress: called with (checkpoints done, checkpoints).

    Raises:
        DataError: a checkpoint cannot be used, or the folder holds readings of other checkpoints, images or settings.
        ShapeError: a checkpoint takes images of another shape.
    """
    claimed, stated = folder / "checkpoints.json", {"each": settings.each, "paths": _pattern(found)}
    if claimed.exists() and files.read_json(claimed) != stated:
        raise DataError(f"{folder}: holds readings of other checkpoints. Use another folder with --run.")
    reading = {name: getattr(settings, name) for name in ReadSettings.model_fields} | {"deduplicate": False}
    train, held_out = (read_images(source, **reading) for source in (settings.train, settings.holdout))
    drawing, psnr = settings.sample, settings.psnr
    monitor = Monitor(train, held_out, folder, psnr, device, drawing.n_samples, drawing if drawing.n_samples else None)
    files.write_json(claimed, stated)
    for done, (seen, path) in enumerate(found.items()):
        if progress:
            progress(done, len(found))
        if monitor.has(seen):
            continue
        denoiser = loading.denoiser_of(loading.find(path, train.image_shape[1:], settings.checkpoint))
        shape = latent.picture_shape(denoiser)
        if tuple(shape) != train.image_shape:
            raise ShapeError(
                f"{path}: takes images of shape {tuple(shape)}, but the training images have {train.image_shape}. Use "
                "--resize, or --set color=gray or rgb."
            )
        monitor(loading.on_device(denoiser, device), seen)
    if progress:
        progress(len(found), len(found))
    return monitor


def follow_cell(workspace: Workspace, name: str, samples: int = 0, progress: Progress | None = None) -> Monitor:
    """Take a reading of each checkpoint of a cell of a sweep, and of its denoiser, unless there is one.

    Args:
        workspace: the run, made with train.checkpoints above 0.
        name: of the cell.
        samples: number of samples that are drawn at each checkpoint, as the run draws samples.
        progress: called with (checkpoints done, checkpoints).

    Raises:
        RunError: the subject has no checkpoints.
    """
    run, subject = workspace.run, subjects.find(workspace, name)
    kept = sorted(run.checkpoints(name).glob("*.safetensors"))
    if not kept:
        raise RunError(
            f"{run.path}: no checkpoints were kept of {name}. Make a run with --set train.checkpoints=8, for example."
        )
    assert subject.train is not None
    assert subject.held_out is not None
    device, drawing = str(workspace.device), workspace.settings.sample
    monitor = Monitor(
        subject.train, subject.held_out, run.readings(name), device=device, samples=samples, drawing=drawing
    )
    whole = [*kept, run.denoiser_path(name)]
    for done, path in enumerate(whole):
        if progress:
            progress(done, len(whole))
        network, manifest = own.load(path)
        monitor(loading.on_device(network, device), int(str(manifest.extra["images_seen"])))
    if progress:
        progress(len(whole), len(whole))
    return monitor
