"""The model of an audit: it is loaded, its samples are drawn, and its denoising is measured on T and on H.

Samples are drawn in parts, each kept when it is finished, and are then audited as the pictures that they would be saved
as: clipped, and of 8 bits where the training images are.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.base import files, schemas, tables
from memgen.base.errors import DataError, ShapeError, first_line
from memgen.base.progress import Progress
from memgen.experiment import references, runs
from memgen.experiment.audit_settings import NAME, AuditSettings, OnStage
from memgen.findings.gaps import gaps
from memgen.images.imageset import ImageSet
from memgen.images.names import escaped
from memgen.measures.copies.pool import label_free_order
from memgen.measures.geometry.shrinkage import Seen, measure_shrinkage
from memgen.measures.psnr import measure_psnr
from memgen.measures.subject import Identity, groups_by_id, subject
from memgen.models import latent, loading, sampling
from memgen.models.denoiser import Denoiser
from memgen.models.foreign import ForeignModel, ImportedCheckpoint
from memgen.report import tiles, viewers
from memgen.report.sheets import Bases
from memgen.report.viewers import Film

_WHERE = {"train": "near a training image", "holdout": "near a held-out image"}
_PART = 4  # micro-batches of samples that are drawn and kept at a time


def load(run: runs.Run, settings: AuditSettings, train: ImageSet, device: str) -> Denoiser:
    """The model of an audit, for images like those of T, on a device; the audit keeps it as a run keeps any model.

    Raises:
        DataError: the file cannot be used.
        ShapeError: the model takes images of another shape.
    """
    if not references.is_kept(run, NAME):
        model = find(settings, train)
        references.keep(run, NAME, Path(str(settings.model)), settings.checkpoint, model)
    return references.load(run, NAME, device)


def find(settings: AuditSettings, train: ImageSet) -> ImportedCheckpoint | ForeignModel:
    """The model of an audit, for images like those of T, from its file.

    Raises:
        DataError: the file cannot be used.
        ShapeError: the model takes images of another shape.
    """
    assert settings.model is not None
    model = loading.find(Path(settings.model), train.image_shape[1:], settings.checkpoint)
    shape = latent.picture_shape(loading.denoiser_of(model))
    if tuple(shape) != train.image_shape:
        (channels, height, width), (found, rows, columns) = shape, train.image_shape
        raise ShapeError(
            f"{settings.model}: takes images of {channels} channels and {width} x {height} pixels, but the "
            f"training images have {found} channels and {columns} x {rows} pixels. Use --resize, or --set "
            "color=gray or rgb."
        )
    return model


def draw(
    run: runs.Run, settings: AuditSettings, real: list[ImageSet], report: OnStage, device: str
) -> tuple[ImageSet, list[str]]:
    """The samples of the model, and what to know of them, in sentences.

    Every sample starts at the mean of all real images, which does not tell which of them are in T.

    Args:
        run: the audit, which keeps finished samples.
        settings: how many are drawn, and how.
        real: T and, where there are any, held-out images.
        report: called with (what is being done, samples done, samples).
        device: where the model runs.

    Raises:
        DataError: the file of the model, or a part of the samples, cannot be used.
        ShapeError: the model takes images of another shape.
    """
    denoiser = load(run, settings, real[0], device)
    count = sum(map(len, real))
    means = [latent.mean_encoded(denoiser, images.floats().to(device)) * (len(images) / count) for images in real]
    mean = torch.stack(means).sum(dim=0)
    total, step, folder = settings.sample.n_samples, _PART * settings.sample.micro_batch, run.path / "drawn"
    parts = []
    for start in range(0, total, step):
        path = folder / f"{start:08}.npz"
        if not path.exists():
            chosen = range(start, min(start + step, total))
            drawn = sampling.sample(
                denoiser,
                mean,
                chosen,
                settings.seed,
                settings.sample,
                on_step=lambda ended, _, start=start: report("drawing samples", start + ended, total),  # type: ignore[misc]
            )
            kept = {name: getattr(drawn, name) for name in ("samples", "updates", "sigma", "residual_sigma", "status")}
            with files.writing(path) as file:
                np.savez(file, images=latent.decoded(denoiser, drawn.images, device), **kept)
        parts.append(_read(path))
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if settings.images:
        _draw_film(run, settings, denoiser, mean, whole["updates"], report)
    pixels = _as_pictures(whole.pop("images"), real[0].pixels.dtype)
    columns = {"sample" if name == "samples" else name: values for name, values in whole.items()}
    keys = Identity(NAME, "imported", len(real[0])).columns
    run.write_table("samples", NAME, tables.make(schemas.SAMPLES, keys | columns | {"noise_seed": settings.seed}))
    tried = real[0].floats(slice(loading.TRIED)).to(device)
    warnings = loading.doubt(denoiser, tried, escaped(str(settings.model)))
    unfinished = int((whole["status"] != "converged").sum())
    if unfinished:
        warnings.append(
            f"{unfinished:,} of {total:,} samples did not converge. They are audited as they are; the table samples "
            "says which they are."
        )
    return ImageSet.from_pixels(pixels, [f"sample {i}" for i in whole["samples"]]), warnings


def _draw_film(
    run: runs.Run,
    settings: AuditSettings,
    denoiser: Denoiser,
    mean: Tensor,
    updates: NDArray[np.int64],
    report: OnStage,
) -> None:
    """Draw the first samples again, and keep the denoised images on the way as small pictures.

    They are drawn in a batch of their own, so their last bits may be others than those of the samples.
    """
    path = run.trajectory_path(NAME)
    if path.exists():
        return
    count = min(len(updates), viewers.SAMPLES_SHOWN)
    drawn = sampling.sample(
        denoiser,
        mean,
        range(count),
        settings.seed,
        settings.sample.model_copy(update={"micro_batch": count, "compiled": False}),
        path_every=-(-int(updates[:count].max()) // viewers.FRAMES_SHOWN),
        on_step=lambda ended, _: report("drawing the film", ended, count),
    )
    assert drawn.path is not None
    frames = [latent.decoded(denoiser, images, mean.device) for images in drawn.path]
    with files.writing(path) as file:
        np.savez(
            file,
            frames=np.stack([[tiles.small(image) for image in images] for images in frames]),
            updates=np.array(drawn.path_steps),
            sigmas=np.nanmean(drawn.levels[list(drawn.path_steps), :, 0], axis=1),
        )


def film(run: runs.Run) -> list[Film]:
    """The film of the first samples, if it was drawn."""
    path = run.trajectory_path(NAME)
    if not path.exists():
        return []
    kept = _read(path, "frames", "updates", "sigmas")
    samples = list(range(kept["frames"].shape[1]))
    return [Film("", "model", samples, kept["updates"].tolist(), kept["sigmas"].tolist(), kept["frames"])]


def measure(run: runs.Run, settings: AuditSettings, train: ImageSet, held_out: ImageSet, device: str) -> None:
    """Measure how well the model denoises images of T and of H: the tables `psnr` and `gaps`."""
    denoiser = load(run, settings, train, device)
    given = subject(NAME, denoiser=denoiser, train=_in_chance_order(train), held_out=_in_chance_order(held_out))
    psnr = measure_psnr(given, settings.psnr, settings.seed, device=device)
    run.write_table("psnr", NAME, psnr)
    run.write_table("gaps", NAME, gaps(psnr, groups_by_id(given)))


def measure_jacobians(
    run: runs.Run, settings: AuditSettings, train: ImageSet, held_out: ImageSet, progress: Progress, device: str
) -> list[str]:
    """Measure the Jacobian of the model near images of T and of H: the table `shrinkage`, and arrays for `bases`.

    Of each group, one image is taken.

    Returns:
        Why it could not be measured, in a sentence; the table is then empty.
    """
    sides = (_in_chance_order(train), _in_chance_order(held_out))
    alone_t, alone_h = map(_one_of_each_group, sides)
    given = subject(NAME, denoiser=load(run, settings, train, device), train=alone_t, held_out=alone_h)
    try:
        found, first = measure_shrinkage(given, settings.basis, settings.seed, device, progress)
    except Exception as error:  # of a foreign network, such as one without derivatives
        run.write_table("shrinkage", NAME, schemas.SHRINKAGE.empty_table())
        return [f"The Jacobians of the model were not measured: {first_line(error)}"]
    with files.writing(run.bases_path(NAME)) as file:
        np.savez(file, **_drawable(first))  # type: ignore[arg-type]
    run.write_table("shrinkage", NAME, found)
    return []


def _one_of_each_group(images: ImageSet) -> ImageSet:
    """The first image of each group; without groups, of each content."""
    belong = images.ids if images.groups is None else images.groups
    return images.take(np.unique(belong.firsts()))


def _in_chance_order(images: ImageSet) -> ImageSet:
    """Images in an order that knows neither folders nor labels, since only the first ones are measured."""
    return images.take(label_free_order(images.ids))


def bases(run: runs.Run) -> list[Bases]:
    """The first eigenvectors near an image of T and one of H, at each noise level; none of what is no picture."""
    path = run.bases_path(NAME)
    if not path.exists():
        return []
    names = ("sigma", "clean", "noisy", "denoised", "eigenvalues", "eigenvectors")
    kept = _read(path, "kind", *names)
    if kept["clean"].shape[1] not in (1, 3):
        return []
    rows = zip(kept["kind"].tolist(), *(kept[name] for name in names), strict=True)
    return [
        Bases(_WHERE[kind], float(sigma), clean, noisy, denoised[None], values[None], vectors[None])
        for kind, sigma, clean, noisy, denoised, values, vectors in rows
    ]


def _drawable(first: list[Seen]) -> dict[str, NDArray[Any]]:
    """The arrays of what was seen at the first images, each with a first dimension for these."""
    shown = min([viewers.VECTORS_SHOWN, *(len(each.basis.eigenvalues) for each in first)])
    rows: list[dict[str, Any]] = [
        {
            "kind": each.kind,
            "sigma": each.basis.sigma,
            "clean": each.clean.numpy(),
            "noisy": each.noisy.numpy(),
            "denoised": each.basis.denoised.float().numpy(),
            "eigenvalues": each.basis.eigenvalues[:shown].numpy(),
            "eigenvectors": each.basis.eigenvectors[:, :shown].T.reshape(-1, *each.basis.image_shape).float().numpy(),
        }
        for each in first
    ]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _as_pictures(images: NDArray[np.float32], dtype: Any) -> NDArray[Any]:
    clipped = np.nan_to_num(images).clip(0, 1)
    return np.asarray((clipped * 255).round().astype(np.uint8) if dtype == np.uint8 else clipped)


def _read(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """The arrays of a file; it must hold those of these names."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file) if not names else {name: file[name] for name in names}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: damaged ({error}). Delete it, and give the command again.") from error
