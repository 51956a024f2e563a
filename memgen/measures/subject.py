"""What is measured: a subject.

A subject is a set of samples, a denoiser, or both, together with

    T   the images that it was trained on
    H   images of the same source that it never saw

Any of them may be absent, and then what needs it cannot be measured. A cell of a sweep, a denoiser from elsewhere and a
folder of generated images are all subjects, and every measure treats them alike.
"""

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from memgen.base.strings import Strings
from memgen.images.imageset import ImageSet, content_id, floats
from memgen.models.denoiser import Denoiser

_BLOCK_NUMBERS = 2**20  # of samples that are float32 at a time: 4 MiB

Role = Literal["cell", "imported", "reference", "baseline"]


@dataclass(frozen=True)
class Identity:
    """The columns that name a subject in every table.

    Attributes:
        subject: its name.
        role: cell (trained by the sweep), imported, reference or baseline.
        n_train: number of images in T; None where T is not known.
        part: half of the run's images that T comes from, a or b; None unless the subject is a cell.
        train_seed: seed of the training; None unless the subject is a cell.
    """

    subject: str
    role: Role
    n_train: int | None = None
    part: str | None = None
    train_seed: int | None = None

    @property
    def columns(self) -> dict[str, Any]:
        """The values of the columns, by name."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Samples:
    """Images drawn from a model.

    Attributes:
        images: (M, C, H, W), in memory or not: uint8, or float32 in units where pixels lie in [0, 1], not clipped.
        index: (M,) index of each sample; its noise depends on the seed and this index alone.
    """

    images: NDArray[Any]
    index: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def ids(self) -> Strings:
        """Content id of each sample as float32."""
        step = max(1, _BLOCK_NUMBERS // math.prod(self.images.shape[1:]))
        blocks = (self.images[start : start + step] for start in range(0, len(self), step))
        return Strings(content_id(image) for block in blocks for image in floats(block).numpy())


class Subject(Protocol):
    """What is measured. An attribute is None where there is no such thing.

    Attributes:
        identity: the columns that name it.
        samples: images drawn from it.
        denoiser: in eval mode, on the device where networks run.
        train: T.
        held_out: H; the first images of it are those on which PSNR is measured.
        unseen: all images that the subject never saw: H and, in a sweep, the half that the twin was trained on.
    """

    @property
    def identity(self) -> Identity: ...  # noqa: D102
    @property
    def samples(self) -> Samples | None: ...  # noqa: D102
    @property
    def denoiser(self) -> Denoiser | None: ...  # noqa: D102
    @property
    def train(self) -> ImageSet | None: ...  # noqa: D102
    @property
    def held_out(self) -> ImageSet | None: ...  # noqa: D102
    @property
    def unseen(self) -> ImageSet | None: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class GivenSubject:
    """A subject whose parts are at hand; see `Subject`."""

    identity: Identity
    samples: Samples | None = None
    denoiser: Denoiser | None = None
    train: ImageSet | None = None
    held_out: ImageSet | None = None

    @property
    def unseen(self) -> ImageSet | None:
        """H, since nothing else is known to be unseen."""
        return self.held_out


def subject(
    name: str = "subject",
    samples: NDArray[Any] | ImageSet | None = None,
    denoiser: Denoiser | None = None,
    train: ImageSet | None = None,
    held_out: ImageSet | None = None,
) -> GivenSubject:
    """A subject of arrays at hand.

    Args:
        name: of the subject, for the tables.
        samples: images (M, C, H, W) drawn from the model: uint8, or in units where pixels lie in [0, 1].
        denoiser: in eval mode.
        train: the images that it was trained on.
        held_out: images of the same source that it never saw.

    Example:
        >>> from memgen.images.importing import read_images
        >>> images = read_images(resize=8, limit=90)
        >>> train, held_out = images.take(slice(40)), images.take(slice(40, 80))
        >>> mine = subject("mine", images.take(slice(10)), train=train, held_out=held_out)
        >>> mine.identity.n_train, len(mine.samples)
        (40, 10)
    """
    drawn = samples.pixels if isinstance(samples, ImageSet) else samples
    if drawn is not None and drawn.dtype != np.uint8:
        drawn = drawn.astype(np.float32, copy=False)
    return GivenSubject(
        Identity(name, "imported", None if train is None else len(train)),
        None if drawn is None else Samples(drawn, np.arange(len(drawn))),
        denoiser,
        train,
        held_out,
    )


def groups_by_id(subject: Subject) -> dict[str, str] | None:
    """The group of each image of T and H by its content id; None where one of the sets has no groups.

    A group of T and one of H that have the same name are two.
    """
    found: dict[str, str] = {}
    for label, images in (("T", subject.train), ("H", subject.held_out)):
        if images is None:
            continue
        if images.groups is None:
            return None
        found |= {each: f"{label}/{group}" for each, group in zip(images.ids, images.groups, strict=True)}
    return found or None


# What a measure can need, in words.
NEEDS = {
    "samples": "it has no samples",
    "denoiser": "it has no denoiser",
    "train": "the images that it was trained on are not known",
    "held_out": "there are no held-out images",
    "unseen": "no images are known that it never saw",
}


def lacking(subject: Subject, *needs: str) -> str:
    """Why a measure cannot be taken of a subject, in words; empty where it has all that is needed.

    Args:
        subject: what would be measured.
        needs: names of the attributes that the measure needs, among NEEDS.
    """
    return " and ".join(NEEDS[need] for need in needs if getattr(subject, need) is None)
