"""A run with its settings, and what is read from it: images, split, initial mean, denoisers, samples.

The settings of a run are those of its stages, each declared beside the code that reads it, under one roof.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from memgen import checkpoints, runs, synthetic
from memgen.basis import BasisSettings
from memgen.closed_form import FittedSettings, fit
from memgen.config import Settings, validate
from memgen.denoisers import Denoiser, NetworkSettings, UNetSettings
from memgen.distances import DistanceSettings
from memgen.errors import DataError, RunError
from memgen.gaussian import GaussianDenoiser
from memgen.images import ImageSet, Split
from memgen.importers import ImportSettings
from memgen.inverse import RestoreSettings
from memgen.psnr import PsnrSettings
from memgen.sample import SampleSettings
from memgen.synthetic import GeneratedSettings
from memgen.train import TrainSettings

Progress = Callable[[int, int], None]
REFERENCES = ("train_a", "train_b", "holdout")
Metric = Literal["correlation", "cosine", "rmse"]
ModelSettings = Annotated[NetworkSettings | FittedSettings, Field(discriminator="architecture")]


class DataSettings(ImportSettings):
    """Which images, and how they are prepared; the defaults are the embedded Fashion-MNIST subset at 16x16."""

    source: str | None = Field(None, description="folder, .npy, .npz, IDX or .pt file; nothing = the embedded images")
    generated: GeneratedSettings | None = Field(None, description="a class of generated images, instead of a source")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        # The embedded images are resized to 16 unless told otherwise, a person's keep their size; 0 says keep, since
        # TOML has no null. Generated ones have a size and a number of their own, and no near-duplicate is removed.
        if not isinstance(values, dict):
            return values
        given = bool(values.get("source") or values.get("generated"))
        chosen = {"resize": None if given else 16, "deduplicate": not values.get("generated")} | values
        return chosen | {"resize": chosen["resize"] or None}

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if self.generated is None:
            return self
        if self.source:
            raise ValueError(f"found both source = {self.source!r} and generated; give one of them")
        remedies = {
            "resize": "set generated.side, the size they are drawn at",
            "limit": "set generated.n_images",
            "deduplicate": "their near-duplicates stay, since without them the distribution would be another",
        }
        for name, remedy in remedies.items():
            if getattr(self, name):
                raise ValueError(f"{name} is not for generated images: {remedy}")
        if self.color != "auto":
            raise ValueError("color is not for generated images: set generated.channels where the class has it")
        return self

    @property
    def name(self) -> str:
        """What the images are, for people."""
        if self.generated:
            return f"generated: {self.generated.kind}"
        return self.source or "embedded Fashion-MNIST subset"


class SplitSettings(Settings):
    """How the images are divided into a, b and holdout."""

    holdout: int = Field(1024, ge=1, description="images that no denoiser is trained on")


class SearchSettings(Settings):
    """How neighbors are searched."""

    metric: Metric = Field("correlation", description="correlation (mean removed), cosine (raw) or rmse")
    k: int = Field(3, ge=1, description="neighbors kept of each query; fewer where the set is smaller")
    cluster_threshold: float = Field(0.99, gt=0, le=1, description="correlation from which images are near-duplicates")
    backend: Literal["auto", "faiss", "torch"] = Field("auto", description="faiss where it is installed, or else torch")


class SweepSettings(Settings):
    """The cells: every N with every training seed, on both parts."""

    n_train: tuple[PositiveInt, ...] = Field(
        (1, 4, 16, 64, 256, 1024, 4096), min_length=1, description="training-set sizes"
    )
    train_seeds: tuple[NonNegativeInt, ...] = Field(
        (0,), min_length=1, description="seeds; more than one replicates each training"
    )


class ComputeSettings(Settings):
    """What may change the last bits of a result."""

    threads: int = Field(
        1, ge=1, description="CPU threads of each worker; part of the result, unlike the workers' number"
    )


class RunSettings(Settings):
    """All settings of a run; the defaults are those of `memgen demo`."""

    seed: int = Field(0, ge=0, description="of the split and of the noise")
    data: DataSettings = DataSettings()
    split: SplitSettings = SplitSettings()
    model: ModelSettings = UNetSettings()
    train: TrainSettings = TrainSettings()
    sample: SampleSettings = SampleSettings()
    restore: RestoreSettings = RestoreSettings()
    search: SearchSettings = SearchSettings()
    psnr: PsnrSettings = PsnrSettings()
    distances: DistanceSettings = DistanceSettings()
    basis: BasisSettings = BasisSettings()
    sweep: SweepSettings = SweepSettings()
    compute: ComputeSettings = ComputeSettings()

    @model_validator(mode="before")
    @classmethod
    def _name_architecture(cls, values: Any) -> Any:
        # pydantic wants every member of a union named; a person who sets the width of the default means the default.
        if isinstance(values, dict) and isinstance(values.get("model"), dict):
            return values | {"model": {"architecture": UNetSettings().architecture} | values["model"]}
        return values

    @property
    def cells(self) -> list[runs.Cell]:
        """The cells of the sweep, smallest training set first."""
        sizes, seeds = sorted(set(self.sweep.n_train)), sorted(set(self.sweep.train_seeds))
        return [runs.Cell(n, seed, part) for n in sizes for seed in seeds for part in ("a", "b")]


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
        return self.split.train("a" if reference == "train_a" else "b", n_train)

    def take(self, positions: NDArray[np.int64]) -> tuple[list[str], Tensor]:
        """Ids and pixels (B, C, H, W), [0, 1] and on the device, of images of the run."""
        return [self.images.ids[i] for i in positions], self.images.floats(positions).to(self.device)

    def in_place(self, images: NDArray[Any]) -> NDArray[Any]:
        """Images (..., C, H, W) of the run with their pixels where they were before `data.shuffle` moved them."""
        if not self.settings.data.shuffle:
            return images
        order = synthetic.permutation(self.settings.seed, images.shape[-2] * images.shape[-1])
        return synthetic.shuffled(images, np.argsort(order))

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
        return cell.keys if cell else {"denoiser": name, "n_train": None, "part": None, "train_seed": None}

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
