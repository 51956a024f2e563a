"""Controls of the test for copies: sample sets whose answer is known, made of a person's own images.

All images of a run are divided again and again into a training set T, held-out images H and images G that pose as
samples, in the sizes of the test itself. A control makes samples from G and T whose answer is known:

    held-out     G itself: nothing may be found
    broadened    G with 1.15 times the contrast around the mean image: nothing may be found, however poor the samples
    blurred      G averaged over 3 x 3 pixels: nothing may be found
    one mode     G from one half of the images, divided by their first principal component: nothing may be found
    correlated   four noisy versions of each of a quarter of G: nothing may be found
    copies       a share of the samples are images of T plus Gaussian noise: the false share of what is found may be at
                 most q, and the share of the copies that is found is the power
    duplicated   copies, where half of T are near-duplicates of the other half
    mirrored     copies that are mirrored, which a comparison of pixels cannot see: only the power is of interest
    empirical    samples of the posterior mean of T, which is a perfect memorizer: every sample must be nearest to T

Whether the test is calibrated on these images follows from all controls together: see `findings.calibration`.

Source: target-decoy practice of entrapment experiments (Granholm, Noble & Kall 2011), here with images.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from memgen.base import noise, schemas, tables
from memgen.base.errors import DataError
from memgen.images.imageset import ImageSet
from memgen.measures.copies.competition import Q
from memgen.measures.copies.examiner import Examination, Examiner
from memgen.models.known.empirical import EmpiricalDenoiser
from memgen.models.sampling import SampleSettings, sample

REPEATS = 20  # redraws unless told otherwise; the error of a rate falls with their number
_SHARES, _NOISES = (0.05, 0.3), (0.0, 0.05, 0.1, 0.2)
_VERSIONS = 4  # of an image of G in `correlated`


@dataclass(frozen=True)
class Design:
    """The sizes and settings of the test that is checked.

    Attributes:
        n_train: images in T.
        n_held_out: images in H; as many as are left where they are fewer.
        n_samples: samples.
        threshold: correlation from which two images are near-duplicates.
        backend: faiss, torch or auto.
        device: where the torch backend searches, and the memorizer draws.
        sample: how the memorizer draws.
    """

    n_train: int
    n_held_out: int
    n_samples: int
    threshold: float
    backend: str
    device: str
    sample: SampleSettings


@dataclass(frozen=True, eq=False)
class _Samples:
    """Samples of a control, with the known answer."""

    control: str
    images: Tensor  # (M, C, H, W)
    copied: NDArray[np.bool_]  # (M,)
    share: float | None = None
    eps: float | None = None
    fraction: float | None = 0.0  # the true memorized fraction; None where the noise leaves it unknown


def run_once(images: ImageSet, design: Design, seed: int, repeat: int) -> pa.Table:
    """One redraw of T, H and G, and the result of the test for each control.

    Args:
        images: all images of the run.
        design: sizes and settings.
        seed: of the redraws.
        repeat: number of the redraw; the memorizer draws in the first one only.

    Returns:
        A CALIBRATION table with a row for each control.

    Raises:
        DataError: there are too few images for T, G and at least one image in H.
    """
    spare = len(images) - design.n_train - design.n_samples
    if spare < 1:
        raise DataError(
            f"calibration: found {len(images)} images, but T needs {design.n_train} and {design.n_samples} pose as "
            f"samples, so none is left to be held out. Use a smaller N (--n)."
        )
    generator = noise.stream("calibration", seed, design.n_train, repeat)
    order = generator.permutation(len(images))
    posing, rest = order[: design.n_samples], order[design.n_samples :]
    train, held_out = rest[: design.n_train], rest[design.n_train :][: design.n_held_out]
    plain, doubled = images.take(train), _doubled(images.take(train), generator)
    everything, real = images.floats(), images.floats(posing)
    controls: Iterable[_Samples] = _controls(everything, real, plain.floats(), generator)
    if repeat == 0:
        controls = itertools.chain(controls, [_memorizer(plain, everything.mean(dim=0), seed, design)])
    copies = _copycat("duplicated", real, doubled.floats(slice(len(doubled) // 2)), max(_SHARES), 0.05, generator)
    rows = []
    for chosen, tried in ((plain, controls), (doubled, [copies])):
        examiner = Examiner(chosen, images.take(held_out), design.threshold, design.backend, design.device)
        rows += [_row(samples, examiner.examine(samples.images, seed, Q)) for samples in tried]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return tables.make(schemas.CALIBRATION, {"n_train": design.n_train, "repeat": repeat, "q": Q} | columns)


def _controls(everything: Tensor, real: Tensor, train: Tensor, generator: np.random.Generator) -> Iterator[_Samples]:
    """The controls made of images alone: of all (n, C, H, W), of those that pose as samples (M, ...), and of T."""
    mean, none = everything.mean(dim=0), np.zeros(len(real), dtype=bool)
    yield _Samples("held-out", real, none)
    yield _Samples("broadened", mean + 1.15 * (real - mean), none)
    yield _Samples("blurred", F.avg_pool2d(real, 3, stride=1, padding=1, count_include_pad=False), none)
    one_mode = _on_one_side(everything, mean, real)
    yield _Samples("one mode", one_mode, none[: len(one_mode)])
    few = real[: max(1, len(real) // _VERSIONS)].repeat_interleave(_VERSIONS, dim=0)
    yield _Samples("correlated", few + _noise(few, 0.05, generator), np.zeros(len(few), dtype=bool))
    for share in _SHARES:
        for eps in _NOISES:
            yield _copycat("copies", real, train, share, eps, generator)
    yield _copycat("mirrored", real, train.flip(3), max(_SHARES), 0.0, generator)


def _memorizer(train: ImageSet, mean: Tensor, seed: int, design: Design) -> _Samples:
    """Samples of the posterior mean of T."""
    denoiser = EmpiricalDenoiser(torch.from_numpy(train.pixels)).to(design.device).eval()
    drawn = sample(denoiser, mean.to(design.device), range(design.n_samples), seed, design.sample)
    copied = np.ones(design.n_samples, dtype=bool)
    return _Samples("empirical", torch.from_numpy(drawn.images), copied, fraction=1.0)


def _doubled(train: ImageSet, generator: np.random.Generator) -> ImageSet:
    """T with its second half replaced by near-duplicates of its first."""
    half = train.floats(slice(len(train) // 2))
    near = half + _noise(half, 0.005, generator)
    return ImageSet.from_pixels(torch.cat([half, near, train.floats(slice(2 * len(half), None))]).numpy())


def _copycat(
    control: str, real: Tensor, train: Tensor, share: float, eps: float, generator: np.random.Generator
) -> _Samples:
    """Samples of which a share is images of T, all different, plus Gaussian noise, and the others are held out."""
    count = min(len(train), round(share * len(real)))
    copied = torch.from_numpy(generator.permutation(len(train))[:count])
    images = real.clone()
    images[:count] = train[copied] + _noise(images[:count], eps, generator)
    known = count / len(real) if eps == 0 and control == "copies" else None
    return _Samples(control, images, np.arange(len(real)) < count, share, eps, known)


def _noise(images: Tensor, eps: float, generator: np.random.Generator) -> Tensor:
    return eps * torch.from_numpy(noise.normal(generator, tuple(images.shape)))


def _on_one_side(everything: Tensor, mean: Tensor, images: Tensor) -> Tensor:
    """Those of some images that lie on one side of the mean of all along about their first principal component."""
    centered = (everything - mean).flatten(1)
    direction = centered[0]
    for _ in range(10):  # power iteration: any direction of much variance makes a mode
        direction = F.normalize(centered.T @ (centered @ direction), dim=0)
    return images[(images - mean).flatten(1) @ direction > 0]


def _row(samples: _Samples, found: Examination) -> dict[str, str | float | int | None]:
    discovered, fraction = found.competition.discovered, found.fraction
    return {
        "control": samples.control,
        "share": samples.share,
        "eps": samples.eps,
        "samples": len(samples.images),
        "copies": int(samples.copied.sum()),
        "discoveries": int(discovered.sum()),
        "false_discoveries": int((discovered & ~samples.copied).sum()),
        "answer": found.competition.answer,
        "k_min": found.competition.k_min,
        "memorized_fraction": fraction.estimate,
        "low": fraction.low,
        "high": fraction.high,
        "known_fraction": samples.fraction,
        "p": fraction.p,
    }
