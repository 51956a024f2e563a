"""A run with its settings, and what is read from it: images, split, initial mean and samples."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.base.config import validate
from memgen.base.errors import ConfigError, DataError, RunError
from memgen.experiment import runs
from memgen.experiment.settings import RunSettings
from memgen.images import shuffle
from memgen.images.imageset import ImageSet
from memgen.images.split import Split
from memgen.measures.subject import Samples
from memgen.models.known.gaussian import GaussianDenoiser


@dataclass(frozen=True, eq=False)
class Workspace:
    """A run with its settings, and its images and split, read when first needed.

    Attributes:
        run: the run directory.
        settings: its settings.
        device: where networks run, cpu or cuda.
    """

    run: runs.Run
    settings: RunSettings
    device: str

    def __reduce__(self) -> tuple[Any, ...]:
        # What another process gets is the place of the run, from which it reads what it needs.
        return _reopened, (str(self.run.path.absolute()), self.device)

    @classmethod
    def of(cls, run: runs.Run, device: str) -> "Workspace":
        """The workspace of an existing run."""
        return cls(run, validate(RunSettings, run.manifest["config"], source=str(run.path / "run.json")), device)

    def extended(self, settings: RunSettings) -> "Workspace":
        """The workspace grown to what `settings` ask for; settings that cannot grow must be equal.

        The sizes and training seeds of the sweep are added, and the number of samples is the larger of the two.

        Raises:
            ConfigError: another setting differs.
            DataError: the run has too few images for the largest of the sizes.
        """
        grown = self.grown(settings)
        if grown.sweep != self.settings.sweep:
            with self.run.working():
                if has_data(self.run):  # say what is missing before anything is written
                    self.split.training_indices("a", max(grown.sweep.n_train))
                self.run.update(config=self.settings.model_copy(update={"sweep": grown.sweep}).model_dump(mode="json"))
        return Workspace.of(self.run, self.device).with_samples(grown.sample.n_samples)

    def grown(self, settings: RunSettings) -> RunSettings:
        """The settings of the run grown to what `settings` ask for, as `extended` would write them.

        Raises:
            ConfigError: a setting that cannot grow differs.
        """
        old, new = self.settings.model_dump(mode="json"), settings.model_dump(mode="json")
        differing = [
            text for key, text in _differences(old, new) if not key.startswith("sweep.") and key != "sample.n_samples"
        ]
        if differing:
            raise ConfigError(
                f"{self.run.path} was made with other settings: {'; '.join(differing)}. Only sweep.n_train, "
                f"sweep.train_seeds and sample.n_samples of a run can grow. Choose another name with --run to start a "
                f"new run."
            )
        sweep = {key: sorted({*old["sweep"][key], *new["sweep"][key]}) for key in ("n_train", "train_seeds")}
        count = max(settings.sample.n_samples, self.settings.sample.n_samples)
        values = old | {"sweep": sweep, "sample": old["sample"] | {"n_samples": count}}
        return validate(RunSettings, values, source=str(self.run.path))

    def with_samples(self, count: int) -> "Workspace":
        """The workspace with another number of samples for each model, at least as many as any has by now.

        Samples are kept. What was measured of samples is removed before the settings change, so that no table is ever
        about another number of samples than the settings say. Each is made again when it is asked for.

        Raises:
            ConfigError: a model has more samples.
        """
        settings = self.settings.model_dump(mode="json")
        if count != settings["sample"]["n_samples"]:
            with self.run.working():
                drawn = self.run.table("samples").filter(~pc.field("noise_seed").is_null())["subject"].value_counts()
                most = max(drawn.to_pylist(), key=lambda row: row["counts"], default=None)
                if most and count < most["counts"]:
                    raise ConfigError(
                        f"found {most['counts']:,} samples of {most['values']}, but {count:,} were asked for. Samples "
                        f"are never removed: ask for at least {most['counts']:,}."
                    )
                _forget_samples(self.run)
                self.run.update(config=settings | {"sample": settings["sample"] | {"n_samples": count}})
        return Workspace.of(self.run, self.device)

    @cached_property
    def images(self) -> ImageSet:
        """The run's images.

        Raises:
            RunError: none have been imported.
        """
        if not has_data(self.run):
            raise RunError(
                f"{self.run.path} holds no images. Import some with: memgen data import --run {self.run.name}"
            )
        return ImageSet.load(self.run.images)

    @cached_property
    def split(self) -> Split:
        """The run's split into a, b and holdout."""
        return Split.from_table(self.images, self.run.table("split", "split"))

    @cached_property
    def mean(self) -> Tensor:
        """The mean image of the holdout (C, H, W), on the device: where every sample starts."""
        try:
            return torch.from_numpy(np.load(self.run.holdout_mean, allow_pickle=False)).to(self.device)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{self.run.holdout_mean}: damaged ({error}). Delete it and run the command again."
            ) from error

    @cached_property
    def principal(self) -> Tensor:
        """Principal components of all images of a and b, (d, p) float64, in columns, largest first, on the CPU.

        There are no more of them than images say: p is one less than their number, or d.
        """
        images = self.images.take(np.concatenate([self.split.a, self.split.b]))
        fitted = GaussianDenoiser.fit(torch.tensor(images.pixels), 0)
        return fitted.eigenvectors[:, : max(0, len(images) - 1)]

    def take(self, positions: NDArray[np.int64]) -> tuple[list[str], Tensor]:
        """Ids and pixels (B, C, H, W), [0, 1] and on the device, of images of the run."""
        return [self.images.ids[i] for i in positions], self.images.floats(positions).to(self.device)

    def in_place(self, images: NDArray[Any]) -> NDArray[Any]:
        """Images (..., C, H, W) of the run with their pixels where they were before `data.shuffle` moved them."""
        if not self.settings.data.shuffle:
            return images
        order = shuffle.permutation(self.settings.seed, images.shape[-2] * images.shape[-1])
        return shuffle.shuffled(images, np.argsort(order))

    def load_samples(self, name: str) -> Samples:
        """The samples of a subject.

        Raises:
            RunError: there are none, or some that the settings ask for are missing.
            DataError: the file is damaged.
        """
        draw = f"with memgen sample --subject {name}."
        if not self.run.has_table("samples", name):
            raise RunError(f"{self.run.path} has no samples of {name}. Draw some {draw}")
        if name not in self.complete(self.run.table("samples", name)):
            count, total = len(self.run.table("samples", name)), self.settings.sample.n_samples
            raise RunError(f"{self.run.path} has {count:,} of {total:,} samples of {name}. Draw the others {draw}")
        return self.kept_samples(name)

    def complete(self, samples: pa.Table) -> list[str]:
        """The subjects in a SAMPLES table whose samples were imported, or drawn in the number that the settings say."""
        given = pc.field("noise_seed").is_null()
        imported: list[str] = samples.filter(given)["subject"].unique().to_pylist()
        drawn = samples.filter(~given)["subject"].value_counts().to_pylist()
        return imported + [row["values"] for row in drawn if row["counts"] == self.settings.sample.n_samples]

    def kept_samples(self, name: str, kind: str = "samples") -> Samples:
        """The images that a table lists, be they all that the settings ask for or not.

        Args:
            name: of the subject; for restored images that of the subject and the label of the task (NAME.LABEL).
            kind: the table that lists them, samples or restored.

        Raises:
            DataError: the file is damaged.
        """
        path, index = self.run.samples_path(name), self.run.table(kind, name).column("sample").to_numpy()
        try:
            drawn = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{path}: damaged ({error}). Delete it and its table, and run memgen sample again."
            ) from error
        if len(drawn) < len(index):
            raise DataError(
                f"{path}: {len(drawn)} samples, expected {len(index)}. Delete it and its table, and run "
                f"memgen sample again."
            )
        return Samples(drawn[: len(index)], index)  # a process that was killed may not have listed its new ones


def _reopened(path: str, device: str) -> Workspace:
    return Workspace.of(runs.Run(Path(path)), device)


# Tables about samples that models have drawn, or about as many images in their place.
_OF_SAMPLES = ("trajectory", "similarity", "distances", "calibration", "transition", "levels")
_OF_SUBJECTS = ("significance", "copies", "peers")  # those of imported samples stay
_OF_QUERIES = ("neighbors", "searches")  # those of imported samples and of other images stay


def _forget_samples(run: runs.Run) -> None:
    """Remove all that was measured of samples that models have drawn; the samples themselves stay."""
    drawn = [row["subject"] for row in run.table("subjects").to_pylist() if not row["has_samples"]]
    for kind in _OF_SAMPLES:
        for name in run.table_names(kind):
            run.remove_table(kind, name)
    for kind in _OF_SUBJECTS:
        for name in drawn:
            run.remove_table(kind, name)
    for name in run.table_names("diversity"):
        if run.table("diversity", name)["subject"][0].as_py() in drawn:
            run.remove_table("diversity", name)
    for kind in _OF_QUERIES:
        for name in run.table_names(kind):
            (query,) = run.table(kind, name).slice(0, 1).to_pylist()
            if query["query_kind"] == "sample" and query["subject"] in drawn:
                run.remove_table(kind, name)
    for name in drawn:
        run.trajectory_path(name).unlink(missing_ok=True)


def _differences(old: Any, new: Any, key: str = "") -> list[tuple[str, str]]:
    """The dotted keys in which two JSON values differ, and in words how."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            found
            for name in {**old, **new}
            for found in _differences(old.get(name), new.get(name), f"{key}.{name}".strip("."))
        ]
    if old == new:
        return []
    before, now = ("not set" if value is None else value for value in (old, new))
    return [(key, f"{key} is {before} in the run, and {now} in this command")]


def has_data(run: runs.Run) -> bool:
    """Whether the run's images, split and initial mean are all there."""
    listed = all(run.has_table(kind, kind) for kind in ("skipped", "duplicates", "split"))
    kept = [run.images / name for name in ("pixels.npy", "images.parquet", "images.json")]
    return listed and all(path.exists() for path in [*kept, run.holdout_mean])
