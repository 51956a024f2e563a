"""A run with its settings, and what is read from it: images, split, initial mean, denoisers, samples.

The settings of a run are those of its stages, each declared beside the code that reads it, under one roof.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, model_validator
from pydantic_core import PydanticCustomError

from memgen import spaces
from memgen.base import config as configuration
from memgen.base.config import Settings
from memgen.experiment import runs
from memgen.images.importing import ImportSettings
from memgen.images.names import escaped
from memgen.images.remote import Source
from memgen.measures.distances import DistanceSettings
from memgen.measures.diversity import DiversitySettings
from memgen.measures.geometry.basis import BasisSettings
from memgen.measures.likelihood import LikelihoodSettings
from memgen.measures.psnr import PsnrSettings
from memgen.models.inverse import RestoreSettings
from memgen.models.known.classes import GeneratedSettings
from memgen.models.known.fitting import FittedSettings
from memgen.models.networks import NetworkSettings, UNetSettings
from memgen.models.sampling import SampleSettings
from memgen.models.training import TrainSettings


def _known_space(name: str) -> str:
    known = spaces.all_spaces()
    if name not in known:
        raise PydanticCustomError("metric", "Input should be one of {known}", {"known": ", ".join(known)})
    return name


Metric = Annotated[str, AfterValidator(_known_space)]
ModelSettings = Annotated[NetworkSettings | FittedSettings, Field(discriminator="architecture")]


class DataSettings(ImportSettings):
    """Which images are used, and how they are prepared. Default: the embedded Fashion-MNIST subset at 16x16."""

    source: Source | None = Field(None, description="folder, file or URL of images; without one, the embedded images")
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
            "range": "their pixels are in [0, 1]",
            "groups": "each is drawn independently of the others",
            "add_to": "set generated.n_images",
            "deduplicate": "near-duplicates are kept, since removing them would change the distribution",
        }
        for name, remedy in remedies.items():
            if getattr(self, name):
                raise ValueError(f"{name} is not for generated images: {remedy}")
        if self.color != "auto":
            raise ValueError("color is not for generated images: set generated.channels where the class has it")
        return self

    @property
    def stated(self) -> bool:
        """Whether other images than the embedded ones are named."""
        return bool(self.source or self.generated)

    @property
    def name(self) -> str:
        """Description of the images for people."""
        if self.generated:
            return f"generated: {self.generated.kind}"
        return escaped(self.source or "embedded Fashion-MNIST subset")


class SplitSettings(Settings):
    """How the images are divided into a, b and holdout."""

    holdout: int = Field(1024, ge=1, description="images that no denoiser is trained on")


class SearchSettings(Settings):
    """How neighbors are searched."""

    metric: Metric = Field(
        "correlation", description="space in which images are compared, such as correlation, cosine or rmse"
    )
    k: int = Field(3, ge=1, description="number of neighbors kept for each query")
    cluster_threshold: float = Field(
        0.99, gt=0, le=1, description="correlation above which two images count as near-duplicates"
    )
    backend: Literal["auto", "faiss", "torch"] = Field(
        "auto", description="auto uses faiss where it is installed, and torch otherwise"
    )


class SweepSettings(Settings):
    """The trainings of the sweep: every N with every training seed, on both halves of the images."""

    n_train: tuple[PositiveInt, ...] = Field(
        (1, 4, 16, 64, 256, 1024, 4096), min_length=1, description="training-set sizes"
    )
    train_seeds: tuple[NonNegativeInt, ...] = Field(
        (0,), min_length=1, description="seeds of the trainings; several seeds replicate each training"
    )


class ComputeSettings(Settings):
    """Settings on which the last bits of a result depend."""

    threads: int = Field(
        1, ge=1, description="CPU threads of each worker; the result depends on it, but not on the number of workers"
    )


class RunSettings(Settings):
    """All settings of a run; the defaults are those of `memgen sweep`."""

    seed: int = Field(0, ge=0, description="seed of the split and of the noise")
    data: DataSettings = DataSettings()
    split: SplitSettings = SplitSettings()
    model: ModelSettings = UNetSettings()
    train: TrainSettings = TrainSettings()
    sample: SampleSettings = SampleSettings()
    restore: RestoreSettings = RestoreSettings()
    search: SearchSettings = SearchSettings()
    psnr: PsnrSettings = PsnrSettings()
    likelihood: LikelihoodSettings = LikelihoodSettings()
    diversity: DiversitySettings = DiversitySettings()
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

    @classmethod
    def asked(
        cls,
        config: Path | None,
        overrides: Sequence[str],
        given: Mapping[str, Any],
        run: runs.Run | None,
        base: Mapping[str, Any] | None = None,
    ) -> Self:
        """The settings that a command asks for.

        Args:
            config: TOML file of settings.
            overrides: strings such as "train.images_seen=4096".
            given: values by dotted keys.
            run: the run that the command names, if it is there. Without a config, its settings take the place of the
                defaults, so that nothing need be repeated to extend it.
            base: other settings that take the place of the defaults, by nested keys.

        Raises:
            ConfigError: a setting is unknown or out of its range.
        """
        if base is None and run is not None and config is None:
            base = run.manifest["config"]
        return configuration.load(cls, config, list(overrides), given, base)

    @property
    def cells(self) -> list[runs.Cell]:
        """The cells of the sweep, smallest training set first."""
        sizes, seeds = sorted(set(self.sweep.n_train)), sorted(set(self.sweep.train_seeds))
        return [runs.Cell(n, seed, part) for n in sizes for seed in seeds for part in ("a", "b")]
