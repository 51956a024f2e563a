"""The settings of an audit, and the name of its tables."""

from collections.abc import Callable
from typing import Self

from pydantic import Field, model_validator

from memgen.base.config import validate
from memgen.experiment import runs
from memgen.images.prepare import ReadSettings
from memgen.images.remote import Source
from memgen.measures.copies import matching
from memgen.measures.copies.competition import Q
from memgen.measures.geometry.basis import BasisSettings
from memgen.measures.psnr import PsnrSettings
from memgen.models.foreign import ImportOptions
from memgen.models.sampling import SampleSettings

NAME = "audit"  # of the subject and of its tables

OnStage = Callable[[str, int, int], None]


class _Drawn(SampleSettings):
    """How samples are drawn from the model of an audit."""

    n_samples: int = Field(512, ge=1, description="samples drawn from the model")


class _Bases(BasisSettings):
    """Where the Jacobians of the model of an audit are computed."""

    n_images: int = Field(
        16, ge=0, description="images of each set near which the Jacobian is computed; 0 computes none"
    )
    vectors: int = Field(8, ge=1, description="eigenvectors of large images that are computed")


class AuditSettings(ReadSettings):
    """What is audited, and how."""

    samples: Source | None = Field(None, description="generated images: a folder or a file")
    model: str | None = Field(None, description="the model itself, of which samples are drawn: a file or a folder")
    train: Source = Field(description="images that the model was trained on")
    holdout: Source | None = Field(None, description="images of the same source that the model never saw")
    groups: str | None = Field(
        None,
        description="what was divided as a whole: folder, file, name, or a CSV file with the columns file and group",
    )
    canaries: str | None = Field(None, description="canaries.json that memgen canaries plant wrote before the training")
    sample: _Drawn = Field(default_factory=_Drawn, description="how samples are drawn from the model")
    psnr: PsnrSettings = Field(default_factory=PsnrSettings, description="where the denoising of the model is measured")
    basis: _Bases = Field(default_factory=_Bases, description="where the Jacobians of the model are computed")
    checkpoint: ImportOptions = Field(
        default_factory=ImportOptions, description="what the file of the model does not tell"
    )
    spaces: tuple[str, ...] = Field(matching.EVERY, min_length=1, description="spaces that are searched for copies")
    probes: int | None = Field(
        None, ge=1, description="lists of images that each sample looks at; without it, all images are searched"
    )
    q: float = Field(Q, gt=0, lt=1, description="false-discovery rate aimed at")
    cluster_threshold: float = Field(
        0.99, gt=0, le=1, description="correlation above which two images count as near-duplicates"
    )
    calibrate: int = Field(0, ge=0, description="how often copies of each kind are planted, to learn what is found")
    images: bool = Field(True, description="whether the page shows images")
    seed: int = Field(0, ge=0, description="seed of the noise, of the permutations and of planted copies")

    @model_validator(mode="after")
    def _samples_or_model(self) -> Self:
        if (self.samples is None) == (self.model is None):
            raise ValueError("give exactly one of samples and model")
        return self


def settings_of(run: runs.Run) -> AuditSettings:
    """The settings of an audit."""
    return validate(AuditSettings, run.manifest["config"], source=str(run.path / "run.json"))
