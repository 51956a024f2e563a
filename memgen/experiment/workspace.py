"""A run with its settings, and what is read from it: images, split, initial mean, denoisers, samples."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.base.config import validate
from memgen.base.errors import DataError, RunError
from memgen.experiment import runs
from memgen.experiment.settings import RunSettings
from memgen.images import shuffle
from memgen.images.imageset import ImageSet
from memgen.images.split import Split
from memgen.models import checkpoints
from memgen.models.denoiser import Denoiser
from memgen.models.known.fitting import fit
from memgen.models.known.gaussian import GaussianDenoiser
from memgen.models.networks import NetworkSettings

REFERENCES = ("train_a", "train_b", "holdout")


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

    @classmethod
    def of(cls, run: runs.Run, device: str) -> "Workspace":
        """The workspace of an existing run."""
        return cls(run, validate(RunSettings, run.manifest["config"], source=str(run.path / "run.json")), device)

    @cached_property
    def images(self) -> ImageSet:
        """The run's images.

        Raises:
            RunError: none have been imported.
        """
        if not has_data(self.run):
            raise RunError(f"{self.run.path} holds no images. Import some: memgen data import --run {self.run.name}.")
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
            raise DataError(f"{self.run.holdout_mean}: damaged. Delete it and run the command again.") from error

    @cached_property
    def principal(self) -> Tensor:
        """Principal components of all images of a and b, (d, p) float64, in columns, largest first, on the CPU.

        There are no more of them than images say: p is one less than their number, or d.
        """
        images = self.images.take(np.concatenate([self.split.a, self.split.b]))
        fitted = GaussianDenoiser.fit(torch.tensor(images.pixels), 0)
        return fitted.eigenvectors[:, : max(0, len(images) - 1)]

    def indices(self, reference: str, n_train: int) -> NDArray[np.int64]:
        """Positions of the images behind an index: of a training set, or of the holdout."""
        if reference == "holdout":
            return self.split.holdout
        return self.split.training_indices("a" if reference == "train_a" else "b", n_train)

    def take(self, positions: NDArray[np.int64]) -> tuple[list[str], Tensor]:
        """Ids and pixels (B, C, H, W), [0, 1] and on the device, of images of the run."""
        return [self.images.ids[i] for i in positions], self.images.floats(positions).to(self.device)

    def in_place(self, images: NDArray[Any]) -> NDArray[Any]:
        """Images (..., C, H, W) of the run with their pixels where they were before `data.shuffle` moved them."""
        if not self.settings.data.shuffle:
            return images
        order = shuffle.permutation(self.settings.seed, images.shape[-2] * images.shape[-1])
        return shuffle.shuffled(images, np.argsort(order))

    def denoiser(self, name: str) -> Denoiser:
        """A denoiser of the run in eval mode, on the device; one known in closed form is fitted to its images anew.

        Raises:
            RunError: there is none of that name.
        """
        cell = runs.Cell.parse(name)
        if cell and self.run.fitted(name).exists() and not isinstance(self.settings.model, NetworkSettings):
            chosen = self.indices(f"train_{cell.part}", cell.n_train)
            return fit(self.settings.model, self.images.take(chosen).pixels).to(self.device).eval()
        if not self.run.denoiser(name).exists():
            known = ", ".join(self.run.denoisers()) or "none"
            raise RunError(f"{self.run.path} has no denoiser {name}; denoisers there: {known}. Train it: memgen train.")
        network, _ = checkpoints.load(self.run.denoiser(name))
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def keys(self, name: str) -> dict[str, Any]:
        """The columns denoiser, n_train, part and train_seed of a denoiser; null for one that was imported."""
        cell = runs.Cell.parse(name)
        return (
            cell.keys
            if cell
            else {"subject": name, "role": "imported", "n_train": None, "part": None, "train_seed": None}
        )

    def samples(self, name: str, kind: str = "samples") -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The samples of a denoiser (M, C, H, W) and their indices (M,).

        Args:
            name: of the denoiser; for restored images that of the denoiser and the label of the task (NAME.LABEL).
            kind: the table that lists them, samples or restored.

        Raises:
            RunError: none have been drawn.
            DataError: the file is damaged.
        """
        path = self.run.samples(name)
        if not self.run.has_table(kind, name):
            raise RunError(f"{self.run.path} has no samples of {name}. Draw some: memgen sample.")
        index = self.run.table(kind, name).column("sample").to_numpy()
        try:
            drawn = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{path}: damaged ({error}). Delete it and its table and run memgen sample again."
            ) from error
        if len(drawn) != len(index):
            raise DataError(
                f"{path}: {len(drawn)} samples, expected {len(index)}. Delete it and run memgen sample again."
            )
        return drawn, index


def has_data(run: runs.Run) -> bool:
    """Whether the run's images, split and initial mean are all there."""
    listed = all(run.has_table(kind, kind) for kind in ("skipped", "duplicates", "split"))
    kept = [run.images / name for name in ("pixels.npy", "images.parquet", "images.json")]
    return listed and all(path.exists() for path in [*kept, run.holdout_mean])
