"""Making the parts of a run: images, denoisers, samples and restored images.

Each function is the library twin of a command. It takes what is there, calls one stage, and writes what is missing. An
artifact that exists is not made again. Measuring these parts is the task of `measure`, and reporting that of `present`.
"""

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from memgen.base import files, schemas, tables
from memgen.base.errors import DataError, first_line
from memgen.base.progress import Progress
from memgen.experiment import runs, subjects
from memgen.experiment.executors import Executor
from memgen.experiment.settings import RunSettings
from memgen.experiment.spread_leaders import lead_by
from memgen.experiment.subjects import KeptSubject, Record
from memgen.experiment.workspace import Workspace, has_data
from memgen.images import importing
from memgen.images.duplicates import Lead
from memgen.images.imageset import ImageSet
from memgen.images.importing import Imported
from memgen.images.shuffle import shuffle_images
from memgen.images.split import Split
from memgen.measures.subject import Identity
from memgen.models import checkpoints, inverse, latent, sampling
from memgen.models.known import classes, generate
from memgen.models.networks import NetworkSettings, build
from memgen.models.sampling import Method
from memgen.models.training import Training, TrainingRecord, train

_SAVE_EVERY_S = 20.0


def read_images(settings: RunSettings, progress: Progress | None = None) -> Imported:
    """The images that a run with these settings would have, and the files that were left out. Nothing is written."""
    return _import(settings, progress)


def _import(settings: RunSettings, progress: Progress | None, lead: Lead | None = None) -> importing.Imported:
    data = settings.data
    if data.generated:
        return generate_images(data.generated, data.shuffle, settings.seed, progress)
    return importing.import_images(Path(data.source) if data.source else None, data, progress, settings.seed, lead=lead)


def import_data(
    workspace: Workspace,
    progress: Progress | None = None,
    compared: Progress | None = None,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Import the images of a run, remove near-duplicates, and split the rest; returns the counts.

    Args:
        workspace: the run.
        progress: called with (files or images read, of how many).
        compared: called with (images compared with those before them, of how many).
        executor: what looks for near-duplicates; None looks for them in this process.

    Raises:
        DataError: the images cannot be used, or there are fewer than the settings need.
    """
    run, settings = workspace.run, workspace.settings
    if not has_data(run):
        lead = lead_by(executor, run.searches, compared or (lambda done, total: None))
        imported = _import(settings, progress, lead)
        before = run.manifest["data"]
        if before and before["digest"] != imported.images.digest:
            raise DataError(
                f"{before['source']}: no longer holds the images that {run.path} was made from. Restore them, or "
                f"start a new run."
            )
        split = split_images(imported.images, settings)  # says what is missing before anything is written
        imported.images.save(run.images)
        run.write_table("skipped", "skipped", imported.skipped)
        run.write_table("duplicates", "duplicates", imported.duplicates)
        with files.writing(run.holdout_mean) as file:
            np.save(file, imported.images.floats(split.holdout).mean(dim=0).numpy())
        run.write_table("split", "split", split.to_table())
        shutil.rmtree(run.searches, ignore_errors=True)  # the table of near-duplicates holds what came of them
    found = workspace.images
    counts = {
        "source": settings.data.name,
        "images": len(found),
        "image_shape": list(found.image_shape),
        "digest": found.digest,
        "skipped": run.table("skipped").num_rows,
        "warnings": list(found.recipe.get("warnings", [])),
        "near_duplicates_removed": run.table("duplicates").num_rows,
        "a": len(workspace.split.a),
        "b": len(workspace.split.b),
        "holdout": len(workspace.split.holdout),
    }
    if run.manifest["data"] != counts:
        run.update(data=counts)
    return counts


def split_images(images: ImageSet, settings: RunSettings) -> Split:
    """The split of a run's images into a, b and holdout, with enough images for every size of its sweep.

    Raises:
        DataError: they cannot be split, or are too few; the message names settings that fit them.
    """
    try:
        return _split(images, settings.split.holdout, settings.sweep.n_train, settings.seed)
    except DataError as error:
        fitting = _fitting(images, settings)
        raise DataError(f"{error} {fitting}".rstrip()) from None


def _split(images: ImageSet, holdout: int, sizes: Sequence[int], seed: int) -> Split:
    split = Split.make(images, holdout, seed)
    for n_train in sizes:
        split.training_indices("a", n_train)
    return split


def _fitting(images: ImageSet, settings: RunSettings) -> str:
    """The options with which a run fits its images, in a sentence: those sizes of its sweep for which there are enough.

    A third of the images is held out, unless fewer are asked for. It is empty where nothing fits.
    """
    holdout = min(settings.split.holdout, max(1, len(images) // 3))
    try:
        most = Split.make(images, holdout, settings.seed).n_max
        sizes = sorted({n for n in settings.sweep.n_train if n <= most} or {most})
        _split(images, holdout, sizes, settings.seed)
    except DataError:
        return ""
    held_out = "" if holdout == settings.split.holdout else f"--set split.holdout={holdout} "
    return f"This fits these images: {held_out}--set 'sweep.n_train={json.dumps(sizes, separators=(',', ':'))}'."


def train_cell(
    workspace: Workspace, cell: runs.Cell, on_record: Callable[[TrainingRecord, int], None] | None = None
) -> None:
    """Train the denoiser of a cell, or continue a training that was interrupted. The cell is then a subject of the run.

    A denoiser known in closed form needs no training: it is fitted each time it is used.

    Args:
        workspace: the run.
        cell: the training to do.
        on_record: called with each new record and the budget in images.
    """
    run, settings = workspace.run, workspace.settings
    if isinstance(settings.model, NetworkSettings):
        _train_network(workspace, cell, settings.model, on_record)
    if not run.has_table("subjects", cell.name):
        record = Record(
            identity=Identity(**cell.keys),
            has_denoiser=True,
            has_samples=False,
            train_set=None,
            held_out_set=None,
            n_held_out=len(workspace.split.holdout),
            source=settings.model.architecture,
        )
        record.write(run)
    run.training_state_path(cell.name).unlink(missing_ok=True)


def _train_network(
    workspace: Workspace,
    cell: runs.Cell,
    model: NetworkSettings,
    on_record: Callable[[TrainingRecord, int], None] | None,
) -> None:
    """Train the network of a cell, and keep its weights and the table of its training."""
    run, settings = workspace.run, workspace.settings
    path, state = run.denoiser_path(cell.name), run.training_state_path(cell.name)
    if path.exists() and run.has_table("training", cell.name) and path.with_suffix(".json").exists():
        return
    chosen = workspace.split.training_indices(cell.part, cell.n_train)
    pixels = torch.from_numpy(np.ascontiguousarray(workspace.images.take(chosen).pixels)).to(workspace.device)
    network = build(model, workspace.images.image_shape)
    training = Training(network, settings.train, (cell.train_seed, int(cell.part == "b")), workspace.device)
    if state.exists():
        training.restore(_load_state(state, workspace.device))
    budget = settings.train.budget(cell.n_train)
    saved = training.seconds
    due = [seen for seen in settings.train.kept_at(cell.n_train) if seen > training.images_seen]
    for record in train(training, pixels):
        if on_record:
            on_record(record, budget)
        if due and record.images_seen >= due[0]:
            due = [seen for seen in due if seen > record.images_seen]
            kept = run.checkpoint_path(cell.name, record.images_seen)
            checkpoints.save(kept, training.result, model, {"images_seen": record.images_seen, **cell.keys})
        if record.seconds - saved > _SAVE_EVERY_S and record.images_seen < budget:
            saved = record.seconds
            saving = io.BytesIO()  # torch.save would report a full disk as a RuntimeError without its cause
            torch.save(training.state(), saving)
            with files.writing(state) as file:
                file.write(saving.getbuffer())
    records = [asdict(record) for record in training.records]
    columns = {name: [record[name] for record in records] for name in records[0]}
    extra = {"train": settings.train.model_dump(mode="json"), "images_seen": training.images_seen, **cell.keys}
    checkpoints.save(path, training.result, model, extra)
    # Last, since it alone holds wall times: what a killed process has to do again then comes out the same.
    run.write_table("training", cell.name, tables.make(schemas.TRAINING, cell.keys | columns))


def _load_state(path: Path, device: str) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise DataError(
            f"{path}: the state of the training is damaged ({first_line(error)}). Delete the file to train "
            f"again from the start."
        ) from error
    return state


def sample_subject(
    workspace: Workspace,
    name: str,
    on_step: Progress | None = None,
    path_every: int | None = None,
    method: Method | None = None,
) -> Path:
    """Draw those samples of a subject that are missing; returns the path of the images.

    Samples that are finished stay as they are. With `path_every` they are drawn again, for their path alone. Samples by
    another method than that of the run are kept beside its own, and nothing is measured of them.

    Args:
        workspace: the run.
        name: of the subject, which has a denoiser.
        on_step: called with (samples finished, updates made).
        path_every: number of updates after which the denoised images are kept each time; None keeps none.
        method: of sampling; that of the settings when None.

    Raises:
        RunError: there is no such subject, or it has no denoiser.
    """
    run, settings = workspace.run, workspace.settings
    chosen_by = settings.sample.drawn_by(method or settings.sample.method)
    kind, key = samples_place(workspace, name, method)
    path = run.samples_path(key)
    kept = len(run.table(kind, key)) if run.has_table(kind, key) and path.exists() else 0
    total, first = settings.sample.n_samples, 0 if path_every else kept
    if kept == total and (path_every is None or _path_interval(run, key) == path_every):
        return path
    subject, before = require_denoiser(workspace, name), [workspace.kept_samples(key, kind).images] if kept else []
    assert subject.denoiser is not None

    def report(ended: int, step: int) -> None:
        if on_step:
            on_step(first + ended, step)

    chosen, device = range(first, total), workspace.device
    drawn = sampling.sample(subject.denoiser, subject.start, chosen, settings.seed, chosen_by, path_every, report)
    new = slice(kept - first, None)
    images = latent.decoded(subject.denoiser, drawn.images[new], device)
    with files.writing(path) as file:
        np.save(file, np.concatenate([*before, images]))
    if drawn.path is not None:
        path_images = np.stack([latent.decoded(subject.denoiser, each, device) for each in drawn.path])
        with files.writing(run.trajectory_path(key)) as file:
            np.savez(file, path=path_images, steps=np.array(drawn.path_steps), interval=np.array(path_every))
        run.write_table("trajectory", key, _trajectory(name, drawn))
    columns = {
        "sample": drawn.samples[new],
        "noise_seed": settings.seed,
        "updates": drawn.updates[new],
        "sigma": drawn.sigma[new],
        "residual_sigma": drawn.residual_sigma[new],
        "status": drawn.status[new],
    }
    listed = tables.make(schemas.SAMPLES, subject.identity.columns | columns)
    if kept:
        listed = pa.concat_tables([run.table(kind, key), listed]).combine_chunks()
    run.write_table(kind, key, listed)
    return path


def samples_place(workspace: Workspace, name: str, method: Method | None = None) -> tuple[str, str]:
    """Kind and name of the table of a subject's samples by a method: the run's own, or another one."""
    own = method in (None, workspace.settings.sample.method)
    return ("samples", name) if own else ("method_samples", f"{name}.{method}")


def restore_images(
    workspace: Workspace, name: str, task: inverse.MeasurementSettings, on_step: Progress | None = None
) -> Path:
    """Restore held-out images from a linear measurement of them; returns the path of the restored images.

    Sample i restores held-out image i. It starts from the noise of the unconditional sample i, so two denoisers get the
    same measurements and the same noise.

    Args:
        workspace: the run.
        name: of the subject.
        task: the measurement.
        on_step: called with (images finished, updates made).

    Raises:
        ConfigError: the measurement is impossible for images of this shape.
    """
    run, settings, kept = workspace.run, workspace.settings, f"{name}.{task.label}"
    if run.has_table("restored", kept) and run.samples_path(kept).exists():
        return run.samples_path(kept)
    subject = require_denoiser(workspace, name)
    assert subject.denoiser is not None
    latent.require_pixels(subject.denoiser, "Restorations")
    chosen = workspace.split.holdout[: settings.restore.n_images]
    clean = workspace.images.floats(chosen).to(workspace.device)
    measurement = inverse.build(task, workspace.images.image_shape, settings.seed, workspace.device)
    constraint = inverse.Constraint.of(measurement, clean)
    restored = sampling.sample(
        subject.denoiser,
        workspace.mean,
        range(len(chosen)),
        settings.seed,
        settings.sample.model_copy(update={"beta": settings.restore.beta}),
        None,
        on_step,
        constraint,
    )
    again = inverse.Constraint.of(measurement, torch.from_numpy(restored.images).to(workspace.device))
    error = (again.measured - constraint.measured).double().square().flatten(1).mean(dim=1).sqrt()
    truth = clean.cpu().numpy()
    columns = {
        "task": task.task,
        "amount": float(task.amount),
        "n_measured": measurement.n_measured,
        "sample": restored.samples,
        "image_id": [workspace.images.ids[i] for i in chosen],
        "noise_seed": settings.seed,
        "updates": restored.updates,
        "sigma": restored.sigma,
        "residual_sigma": restored.residual_sigma,
        "status": restored.status,
        "measured_error": error.cpu().numpy(),
        "output_psnr_db": inverse.psnr_db(restored.images, truth),
        "filled_psnr_db": inverse.psnr_db(constraint.filled(workspace.mean).cpu().numpy(), truth),
        "pseudo_psnr_db": inverse.psnr_db(constraint.measured.cpu().numpy(), truth),
    }
    with files.writing(run.samples_path(kept)) as file:
        np.save(file, restored.images)
    run.write_table("restored", kept, tables.make(schemas.RESTORED, subject.identity.columns | columns))
    return run.samples_path(kept)


def require_denoiser(workspace: Workspace, name: str) -> KeptSubject:
    """The subject of that name, which must have a denoiser.

    Raises:
        RunError: there is no such subject, or it has no denoiser.
    """
    subject = subjects.find(workspace, name)
    subjects.require(subject, "denoiser")
    return subject


def _path_interval(run: runs.Run, name: str) -> int | None:
    """Number of updates between the denoised images that were kept; None where none were kept."""
    path = run.trajectory_path(name)
    if not (run.has_table("trajectory", name) and path.exists()):
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            return int(kept["interval"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # damaged: drawn again


def _trajectory(name: str, drawn: sampling.SampleSet) -> pa.Table:
    step, position = np.nonzero(~np.isnan(drawn.levels[:, :, 1]))
    return tables.make(
        schemas.TRAJECTORY,
        {
            "subject": name,
            "sample": drawn.samples[position],
            "step": step,
            "sigma": drawn.levels[step, position, 0],
            "residual_sigma": drawn.levels[step, position, 1],
        },
    )


def generate_images(
    settings: classes.ClassSettings, shuffle: bool, seed: int, progress: Progress | None = None
) -> Imported:
    """The images of a generated class.

    Near-duplicates are kept. Without them, the images would follow another distribution than the one whose best
    denoiser is known.

    Args:
        settings: the class, and the number of images.
        shuffle: whether to put the pixels of all images into one random order.
        seed: of the class and of that order.
        progress: called with (images done, of how many).
    """
    pixels = generate.generate(settings, seed, range(settings.n_images), progress)
    recipe = {
        "source": f"generated: {settings.kind}",
        "generated": settings.model_dump(mode="json"),
        "seed": seed,
        "near_duplicates": "kept, since removing them would change the distribution",
        "shuffle": shuffle,
    }
    sources = [f"{settings.kind}[{index}]" for index in range(len(pixels))]
    images = ImageSet.from_pixels(pixels, sources, recipe)
    nothing: dict[str, list[Any]] = {name: [] for name in schemas.DUPLICATES.names}
    return Imported(
        shuffle_images(images, seed) if shuffle else images,
        tables.make(schemas.SKIPPED, {"source": [], "reason": []}),
        tables.make(schemas.DUPLICATES, nothing),
    )
