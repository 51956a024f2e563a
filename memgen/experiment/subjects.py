"""The subjects of a run: what is kept of each, how it is looked up, and how one is imported.

A run keeps one row of the table SUBJECTS for each subject, written when the subject is complete. A trained cell takes T
and H from the run's split. An imported subject has image sets of its own, prepared as the run's images were.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from memgen.base import files, schemas, tables
from memgen.base.config import validate
from memgen.base.errors import DataError, RunError, ShapeError
from memgen.base.progress import Progress
from memgen.experiment import references, runs
from memgen.experiment.workspace import Workspace
from memgen.images import remote
from memgen.images.groups import BY_NAME
from memgen.images.imageset import ImageSet
from memgen.images.importing import Imported, ImportSettings, import_images, skipped_of_sets
from memgen.images.names import escaped
from memgen.measures.copies.pool import label_free_order
from memgen.measures.subject import Identity, Samples, Subject, lacking
from memgen.models import latent, loading
from memgen.models.denoiser import Denoiser
from memgen.models.foreign import ImportOptions
from memgen.models.known.fitting import fit
from memgen.models.networks import NetworkSettings


@dataclass(frozen=True)
class Record:
    """What a run says of a subject: one row of the table SUBJECTS.

    Attributes:
        identity: the columns that name the subject.
        has_denoiser: whether it has a denoiser.
        has_samples: whether its samples were imported; the samples of a denoiser are drawn.
        train_set: name of the image set T of an imported subject; None if T is not known, and for a cell.
        held_out_set: name of the image set H of an imported subject; None where H is the run's holdout without T.
        n_held_out: number of images in H; None where there are none.
        source: file or folder that it was imported from, or the architecture of a cell.
        warnings: what to know of its images and of the model, in sentences.
    """

    identity: Identity
    has_denoiser: bool
    has_samples: bool
    train_set: str | None
    held_out_set: str | None
    n_held_out: int | None
    source: str
    warnings: Sequence[str] = ()

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Record":
        """The record in a row of the table."""
        names = Identity("", "cell").columns.keys()
        identity = Identity(**{name: row[name] for name in names})
        return cls(identity, **{name: value for name, value in row.items() if name not in names})

    def write(self, run: runs.Run) -> None:
        """Keep the record in a run: from then on the subject exists."""
        columns = {name: value for name, value in vars(self).items() if name != "identity"}
        columns["warnings"] = [list(self.warnings)]
        table = tables.make(schemas.SUBJECTS, self.identity.columns | columns)
        run.write_table("subjects", self.identity.subject, table)


def records(run: runs.Run) -> list[Record]:
    """All subjects of a run: trained cells, smallest training set first, and then imported subjects by name."""
    found = [Record.of(row) for row in run.table("subjects").to_pylist()]
    return sorted(found, key=lambda record: (record.identity.role != "cell", record.identity.n_train or 0))


def find(workspace: Workspace, name: str) -> "KeptSubject":
    """A subject of the run by its name.

    Raises:
        RunError: there is none of that name.
    """
    if not workspace.run.has_table("subjects", name):
        known = ", ".join(record.identity.subject for record in records(workspace.run)) or "none"
        raise RunError(
            f"{workspace.run.path} has no subject {name!r}; its subjects are: {known}. Train a model with memgen "
            f"train, or import one with memgen import."
        )
    (row,) = workspace.run.table("subjects", name).to_pylist()
    return KeptSubject(workspace, Record.of(row))


def require(subject: Subject, *needs: str) -> None:
    """Check that a subject has what a measure needs; see `memgen.measures.subject.lacking`.

    Raises:
        RunError: something is missing; the message says what, and how to give it.
    """
    if reason := lacking(subject, *needs):
        remedies = {
            "samples": f"draw some with memgen sample --subject {subject.identity.subject}",
            "denoiser": "import its checkpoint with memgen import",
            "train": "import it with --trained-on",
            "held_out": "import it with --holdout",
        }
        remedy = "; ".join(remedies[need] for need in needs if getattr(subject, need) is None)
        raise RunError(f"{subject.identity.subject}: this cannot be measured, since {reason}. Remedy: {remedy}.")


def cell_of(record: Record) -> runs.Cell:
    """The cell that a record of the role `cell` is of."""
    identity = record.identity
    assert identity.n_train is not None
    assert identity.train_seed is not None
    assert identity.part is not None
    return runs.Cell(identity.n_train, identity.train_seed, identity.part)


@dataclass(frozen=True, eq=False)
class KeptSubject:
    """A subject of a run, whose parts are read when they are first needed; see `memgen.measures.subject.Subject`.

    Attributes:
        workspace: the run.
        record: what the run says of the subject.
    """

    workspace: Workspace
    record: Record

    @property
    def identity(self) -> Identity:
        """The columns that name the subject."""
        return self.record.identity

    @property
    def name(self) -> str:
        """The name of the subject."""
        return self.identity.subject

    @cached_property
    def train(self) -> ImageSet | None:
        """T."""
        if self.identity.role == "cell":
            assert self.identity.part is not None
            assert self.identity.n_train is not None
            chosen = self.workspace.split.training_indices(self.identity.part, self.identity.n_train)
            return self.workspace.images.take(chosen)
        return self._image_set(self.record.train_set)

    @cached_property
    def held_out(self) -> ImageSet | None:
        """H, in the order in which its images are measured."""
        if self.record.n_held_out is None:
            return None
        if self.record.held_out_set is not None:
            return self._image_set(self.record.held_out_set)
        holdout = self.workspace.images.take(self.workspace.split.holdout)
        return holdout if self.identity.role == "cell" or self.train is None else without(holdout, self.train)

    @cached_property
    def unseen(self) -> ImageSet | None:
        """H, preceded by the half of the images that the twin of a cell is trained on."""
        if self.identity.role != "cell":
            return self.held_out
        split = self.workspace.split
        other = split.b if self.identity.part == "a" else split.a
        return self.workspace.images.take(np.concatenate([other, split.holdout]))

    @cached_property
    def samples(self) -> Samples | None:
        """The samples that were drawn or imported."""
        return self.workspace.load_samples(self.name) if self.workspace.run.has_table("samples", self.name) else None

    @property
    def sample_sources(self) -> list[str] | None:
        """Where imported samples come from; None if they were drawn."""
        run = self.workspace.run
        if not run.has_table("subject_samples", self.name):
            return None
        return list(run.table("subject_samples", self.name)["source"].to_pylist())

    @cached_property
    def denoiser(self) -> Denoiser | None:
        """The denoiser; one known in closed form is fitted anew."""
        if not self.record.has_denoiser:
            return None
        settings, device = self.workspace.settings.model, self.workspace.device
        if self.identity.role == "cell" and not isinstance(settings, NetworkSettings):
            assert self.train is not None
            return fit(settings, self.train.pixels).to(device).eval()
        return references.load(self.workspace.run, self.name, str(device))

    @cached_property
    def start(self) -> Tensor:
        """The initial mean of sampling: that of the run's held-out images, or of their latents for a latent model."""
        denoiser, workspace = self.denoiser, self.workspace
        if not isinstance(denoiser, latent.LatentDenoiser):
            return workspace.mean
        held_out = workspace.images.floats(workspace.split.holdout)
        return latent.mean_encoded(denoiser, held_out.to(workspace.device))

    def _image_set(self, name: str | None) -> ImageSet | None:
        return None if name is None else ImageSet.load(self.workspace.run.image_set(name))


def without(images: ImageSet, others: ImageSet) -> ImageSet | None:
    """The images whose content is not among others, in their order; None where none is left."""
    kept = np.flatnonzero(~images.ids.among(others.ids))
    return images.take(kept) if len(kept) else None


# ------------------------------------------------------------------------------------------------- importing


def prepared(
    workspace: Workspace, source: Path, progress: Progress | None = None, value_range: str | None = None
) -> Imported:
    """A person's images, prepared as the run's were, and the files that were skipped; near-duplicates are kept.

    They are resized only if the run's images were.

    Args:
        workspace: the run.
        source: a folder, a file or an array in it.
        progress: called with (images done, of how many).
        value_range: the values that become black and white, LOW,HIGH; None takes those of the run's images.

    Raises:
        ConfigError: `value_range` is no range.
        DataError: the images cannot be used, or are not of the shape of the run's images.
    """
    data, shape = workspace.settings.data, workspace.images.image_shape
    changes = {"deduplicate": False, "limit": None, "color": "gray" if shape[0] == 1 else "rgb"}
    changes |= {} if value_range is None else {"range": value_range}
    # A table of groups names the images of the run, and no others.
    changes |= {"groups": data.groups if data.groups in BY_NAME else None}
    kept = {name: getattr(data, name) for name in ImportSettings.model_fields}
    settings = validate(ImportSettings, kept | changes, source="settings")
    found = import_images(source, settings, progress, workspace.settings.seed)
    if found.images.image_shape != shape:
        height, width = found.images.image_shape[1:]
        raise ShapeError(
            f"{remote.shown(source)}: found images of {width} x {height} pixels, expected {shape[2]} x {shape[1]}, the "
            f"size of the run's images, which were not resized. Resize yours to that size."
        )
    return found


def import_subject(
    workspace: Workspace,
    source: Path,
    name: str,
    as_denoiser: bool,
    trained_on: Path | None = None,
    holdout: Path | None = None,
    options: ImportOptions | None = None,
    progress: Progress | None = None,
    value_range: str | None = None,
) -> Record:
    """Bring a denoiser or a set of samples into the run, with the images that it was trained on.

    Args:
        workspace: the run, which has images; the caller holds its lock.
        source: a checkpoint of the paper's authors or of memgen, or images: a folder, a picture or an array file.
        name: of the subject.
        as_denoiser: whether the source holds the weights of a denoiser, or samples.
        trained_on: the images that it was trained on, or the name of a subject of the run that has the same T, such as
            the model that drew the samples; None if they are not known.
        holdout: images of the same source that it never saw; None for those of the subject that `trained_on` names, or
            else the run's held-out images. Images that are also in T are left out.
        options: what the weights of a checkpoint do not tell.
        progress: called with (images read, of how many).
        value_range: the values that become black and white in all of these images, LOW,HIGH; see `prepared`.

    Returns:
        What the run says of the subject.

    Raises:
        RunError: a subject of that name exists, or the name is reserved.
        DataError: a file is unusable, or no held-out image is left.
    """
    run = workspace.run
    _check_name(run, name)
    named = None
    if trained_on is not None and not trained_on.exists() and run.has_table("subjects", str(trained_on)):
        named = find(workspace, str(trained_on))
    drawn = not as_denoiser and source.is_file() and source.resolve().parent == run.samples_path(name).resolve().parent
    sources = {
        "train": trained_on if named is None else None,
        "held_out": holdout,
        "samples": None if as_denoiser or drawn else source,
    }
    read = {
        kind: prepared(workspace, path, progress, value_range) for kind, path in sources.items() if path is not None
    }
    # The first images of a set are those that are measured, and files are often in the order of classes or of patients.
    own = {
        kind: found.images.take(label_free_order(found.images.ids)) for kind, found in read.items() if kind != "samples"
    }
    if named is not None:
        known = {"train": named.train, "held_out": named.unseen}
        own = {kind: images for kind, images in known.items() if images is not None} | own
    train = own.get("train")
    held_out = own["held_out"] if "held_out" in own else workspace.images.take(workspace.split.holdout)
    unseen = held_out if train is None else without(held_out, train)
    if unseen is None:
        raise DataError(
            f"{holdout or run.path}: all of its {len(held_out)} held-out images are also in {trained_on}. Give images "
            f"that the model never saw with --holdout."
        )
    identity = Identity(name, "imported", None if train is None else len(train))
    warnings = [warning for found in read.values() for warning in found.warnings]
    if as_denoiser:
        denoiser = _import_denoiser(workspace, source, name, options or ImportOptions())
        tried = unseen if train is None else train
        warnings += loading.doubt(denoiser, tried.floats(slice(loading.TRIED)), remote.shown(source))
    else:
        _keep_samples(run, _drawn(source) if drawn else read["samples"].images, identity)
    run.write_table("subject_skipped", name, skipped_of_sets(read))
    record = Record(
        identity=identity,
        has_denoiser=as_denoiser,
        has_samples=not as_denoiser,
        train_set=None if train is None else _keep(run, train),
        held_out_set=_keep(run, unseen) if "held_out" in own else None,
        n_held_out=len(unseen),
        source=remote.shown(source),
        warnings=list(dict.fromkeys(warnings)),
    )
    record.write(run)  # last: it says that the subject is complete
    return record


def is_same(workspace: Workspace, name: str, source: Path, options: ImportOptions) -> bool:
    """Whether an imported denoiser of the run came from a source with these options."""
    record = find(workspace, name).record
    kept = references.options(workspace.run, name)
    return record.source == remote.shown(source) and kept in (None, options.model_dump(mode="json"))


def _check_name(run: runs.Run, name: str) -> None:
    if not runs.is_name(name):
        raise RunError(f"subject name {name!r}: use letters, digits, '.', '_' and '-' only. Choose one with --name.")
    if runs.is_cell_name(name):
        raise RunError(f"{name} is a name that the sweep gives to its cells. Choose another one with --name.")
    if run.has_table("subjects", name):
        raise RunError(f"{run.path} already has a subject {name}. Choose another name with --name.")


def _keep(run: runs.Run, images: ImageSet) -> str:
    """Keep an image set in the run under the digest of its content, unless it is there; returns its name."""
    name = images.digest
    if not (run.image_set(name) / "images.json").exists():
        images.save(run.image_set(name))
    return name


def _import_denoiser(workspace: Workspace, source: Path, name: str, options: ImportOptions) -> Denoiser:
    channels, height, width = workspace.images.image_shape
    model = loading.find(source, (height, width), options)
    denoiser = loading.denoiser_of(model)
    found = latent.picture_shape(denoiser)
    if found[0] != channels:
        raise DataError(
            f"{source}: takes images of {found[0]} channels, but the images of the run have {channels}. Start a "
            f"run for it with memgen data import and --set data.color={'gray' if channels > 1 else 'rgb'}."
        )
    if found[1:] != (height, width):
        raise DataError(
            f"{source}: takes images of {found[2]} x {found[1]} pixels, but the images of the run have {width} x "
            f"{height}. Start a run for it with memgen data import and --resize {found[1]}."
        )
    references.keep(workspace.run, name, source, options, model)
    return denoiser


def _drawn(path: Path) -> ImageSet:
    """Samples that the run drew by another method, as they are: like all that a model draws, they may leave [0, 1]."""
    try:
        pixels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: damaged ({error}). Delete it, and draw the samples again.") from error
    return ImageSet.from_pixels(pixels, [f"{escaped(path.name)}[{index}]" for index in range(len(pixels))])


def _keep_samples(run: runs.Run, images: ImageSet, identity: Identity) -> None:
    with files.writing(run.samples_path(identity.subject)) as file:
        np.save(file, images.floats().numpy())
    nothing = dict.fromkeys(("noise_seed", "updates", "sigma", "residual_sigma"))
    columns = {"sample": list(range(len(images))), "status": "given", **nothing}
    run.write_table("subject_samples", identity.subject, images.to_table())
    run.write_table("samples", identity.subject, tables.make(schemas.SAMPLES, identity.columns | columns))
