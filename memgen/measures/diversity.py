"""How varied samples are, and whether each lies where real images do, beside the same of held-out images.

    vendi                 exp of the entropy of the eigenvalues of K / n, K the similarities of n images: how many
                          images that have nothing in common would be as varied
    precision             share of samples within reach of a reference image
    recall                share of reference images within reach of a sample
    density               how many reference images reach a sample, divided by k, on average; it may exceed 1
    coverage              share of reference images that reach a sample
    trajectory_variance   variance of the denoised image of a sample over the lower half of the noise levels, mean over
                          pixels: large where a sample wavers between two kinds of images until late

An image reaches as far as its k-th nearest neighbor in its own set. Held-out images are cut into a reference and a
baseline, which takes the place of the samples: what a perfect model would have. All sets are of one size, because each
of these numbers depends on it. None of them sees copies: a model that draws its training images is as varied and as
near to real images as they are.

Similarities and distances are those of a space. Where larger values are closer, K is the cosine of its vectors. Else it
is exp(-(distance / h)² / 2), h the median distance between held-out images.

The trajectory is that of the probability flow from the noise of each sample, by Heun's method. The baseline is the
variance of the denoised images of a held-out image with the same noise at the same levels.

Intervals of shares are those of Clopper and Pearson, which have a width where all images hit. Those of density and
variance are bootstraps. Both are over the images that are averaged, given the other set. The bootstrap repeats images,
which makes a set less varied than it is, so the interval of vendi comes from halves of the set instead, drawn without
replacement.

Source: Friedman & Dieng 2023, eq. 2; Kynkäänniemi, Karras, Laine, Lehtinen & Aila 2019; Naeem, Oh, Uh, Choi & Yoo 2020;
Aithal, Maini, Lipton & Kolter 2024, section 5; Wu 1986 and Shao & Wu 1989, the delete-half jackknife.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from memgen.base import noise, schemas, tables
from memgen.base.config import Settings
from memgen.base.errors import DataError
from memgen.base.estimates import Estimate
from memgen.base.intervals import bootstrap, clopper_pearson
from memgen.base.strings import Strings
from memgen.images.gathered import tensor
from memgen.images.imageset import ImageSet
from memgen.measures.subject import Subject, lacking
from memgen.models.denoiser import Denoiser
from memgen.models.latent import encoded
from memgen.models.sampling import SampleSettings, sample
from memgen.spaces import Space

Floats = NDArray[np.float64]

# The unit of each measure, in the order of the table.
UNITS = {
    "vendi": "images",
    "precision": "share",
    "recall": "share",
    "density": "ratio",
    "coverage": "share",
    "trajectory_variance": "pixel units^2",
}
_HALVES = 200
_TINY = 1e-12  # in the place of a bandwidth of 0, of images that are all equal


class DiversitySettings(Settings):
    """How diversity is measured."""

    neighbors: int = Field(5, ge=1, description="k: an image reaches as far as its k-th nearest neighbor in its set")
    n_images: int = Field(512, ge=2, description="at most so many samples, reference images and baseline images each")
    n_paths: int = Field(64, ge=1, description="at most so many trajectories, of the first samples")


@dataclass(frozen=True)
class Start:
    """Where trajectories start, and how they are drawn.

    Attributes:
        mean: (C, H, W), on the device of the denoiser.
        noise_seed: seed of the noise of the samples.
        settings: of sampling; their range of noise levels, with Heun's method.
    """

    mean: Tensor
    noise_seed: int
    settings: SampleSettings


def vendi(similarities: Floats) -> float:
    """The Vendi score of images with these similarities, (n, n) positive semidefinite with ones on the diagonal."""
    eigenvalues = np.linalg.eigvalsh(similarities / len(similarities))
    positive = eigenvalues[eigenvalues > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def vendi_interval(similarities: Floats, seed: int) -> Estimate:
    """The Vendi score with its 95 % interval from halves of the set, on the scale of the logarithm.

    Args:
        similarities: (n, n), see `vendi`.
        seed: of the choice of halves.
    """
    n, value = len(similarities), vendi(similarities)
    if n < 4:
        return Estimate.of(value, n=n, unit=UNITS["vendi"], note="An interval takes at least 4 images.")
    generator, logs = noise.stream("diversity/halves", seed), []
    for _ in range(_HALVES):
        half = generator.permutation(n)[: n // 2]
        logs.append(math.log(vendi(similarities[np.ix_(half, half)])))
    kept = n // 2
    reach = NormalDist().inv_cdf(0.975) * float(np.std(logs)) * math.sqrt(kept / (n - kept))
    return Estimate.of(value, value * math.exp(-reach), value * math.exp(reach), n, UNITS["vendi"])


def reached(real: Floats, drawn: Floats, k: int) -> dict[str, Floats]:
    """The values whose means are precision, recall, density and coverage.

    Args:
        real: vectors of the reference images, (n, w).
        drawn: vectors of the samples, (m, w).
        k: neighbor that an image reaches; below n and m.

    Returns:
        By measure: a value for each sample (m,), or for each reference image (n,).
    """
    between = distances(real, drawn)  # (n, m)
    from_real = between < _reach(real, k)[:, None]
    from_drawn = between < _reach(drawn, k)
    return {
        "precision": from_real.any(axis=0) * 1.0,
        "recall": from_drawn.any(axis=1) * 1.0,
        "density": from_real.sum(axis=0) / k,
        "coverage": from_real.any(axis=1) * 1.0,
    }


def distances(a: Floats, b: Floats) -> Floats:
    """Euclidean distances of rows, (n, m)."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    found: Floats = np.sqrt(np.maximum(squares, 0))
    return found


def _reach(vectors: Floats, k: int) -> Floats:
    """Distance of each row to its k-th nearest other row, (n,)."""
    between = distances(vectors, vectors)
    np.fill_diagonal(between, np.inf)
    found: Floats = np.partition(between, k - 1, axis=1)[:, k - 1]
    return found


def measure_diversity(
    subject: Subject,
    space: Space,
    settings: DiversitySettings | None = None,
    start: Start | None = None,
    seed: int = 0,
) -> pa.Table:
    """Diversity of a subject's samples, beside that of held-out images: a DIVERSITY table, one row for each measure.

    Args:
        subject: one that has samples and held-out images. Images of one group are kept in one half of the held-out
            images.
        space: in which images are compared.
        settings: neighbors and numbers of images; defaults if None.
        start: of trajectories; None leaves their variance out.
        seed: of the intervals.

    Raises:
        DataError: the subject lacks samples or held-out images, or there are fewer than two held-out images.
    """
    if reason := lacking(subject, "samples", "held_out"):
        raise DataError(f"{subject.identity.subject}: diversity cannot be measured, since {reason}.")
    assert subject.samples is not None
    assert subject.held_out is not None
    settings = settings or DiversitySettings()
    reference, baseline = _halves(subject.held_out)
    n = min(len(subject.samples), len(reference), len(baseline), settings.n_images)
    if n < 1:
        raise DataError(
            f"{subject.identity.subject}: diversity cannot be measured with {len(subject.held_out)} held-out images, "
            f"expected at least two (of different groups)."
        )
    held_out = subject.held_out
    sets = {
        "samples": tensor(subject.samples.images, slice(n)),
        "real": held_out.floats(reference[:n]),
        "baseline": held_out.floats(baseline[:n]),
    }
    vectors = {name: _vectors(space, images) for name, images in sets.items()}
    rows = dict(_compared(space, vectors, settings.neighbors, seed))
    rows["trajectory_variance"] = _trajectories(subject, held_out.take(baseline[:n]), settings.n_paths, start, seed)
    names = [name for name in UNITS if name in rows]
    columns: dict[str, Any] = {"space": space.name, "measure": names, "unit": [UNITS[name] for name in names]}
    for side, prefix in ((0, ""), (1, "held_out_")):
        found = [rows[name][side] for name in names]
        columns[prefix.rstrip("_") or "estimate"] = [each.estimate for each in found]
        columns[f"{prefix}low"] = [each.low for each in found]
        columns[f"{prefix}high"] = [each.high for each in found]
        columns["n_held_out" if side else "n"] = [each.n for each in found]
    return tables.make(schemas.DIVERSITY, subject.identity.columns | columns)


Both = tuple[Estimate, Estimate]


def _halves(images: ImageSet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the images of every other group, and of the rest; an image without a group is one of its own."""
    names = images.groups or [str(index) for index in range(len(images))]
    order = {name: rank for rank, name in enumerate(dict.fromkeys(names))}
    odd = np.array([order[name] % 2 for name in names])
    return np.flatnonzero(odd == 0), np.flatnonzero(odd == 1)


def _vectors(space: Space, images: Tensor) -> Floats:
    """Vectors of images, (n, w); of length 1 where larger values of the space are closer, or zero where undefined."""
    vectors: Floats = space.embed(images).double().numpy()
    if not space.larger_is_closer:
        return vectors
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def _compared(space: Space, vectors: Mapping[str, Floats], k: int, seed: int) -> Iterator[tuple[str, Both]]:
    """Each measure that compares images, of the samples and of the baseline."""
    scale = float(np.median(distances(vectors["real"], vectors["baseline"])))
    drawn, baseline = vectors["samples"], vectors["baseline"]
    kernels = [_similarities(space, each, scale) for each in (drawn, baseline)]
    yield "vendi", (vendi_interval(kernels[0], seed), vendi_interval(kernels[1], seed))
    if len(drawn) <= k:
        note = f"The {k}-th neighbor takes more than {k} samples, and twice as many held-out images."
        missing = Estimate.of(None, n=len(drawn), note=note)
        yield from ((name, (missing, missing)) for name in ("precision", "recall", "density", "coverage"))
        return
    sides = [reached(vectors["real"], each, k) for each in (drawn, baseline)]
    for name in sides[0]:
        own, null = (_mean(side[name], seed, UNITS[name]) for side in sides)
        yield name, (own, null)


def _similarities(space: Space, vectors: Floats, scale: float) -> Floats:
    if space.larger_is_closer:
        kernel: Floats = vectors @ vectors.T
    else:
        kernel = np.exp(-((distances(vectors, vectors) / max(scale, _TINY)) ** 2) / 2)
    np.fill_diagonal(kernel, 1.0)
    return kernel


def _mean(values: Floats, seed: int, unit: str) -> Estimate:
    if unit == "share":
        return Estimate.of(float(values.mean()), *clopper_pearson(int(values.sum()), len(values)), len(values), unit)
    return replace(bootstrap(values, lambda draws: draws.mean(axis=1), seed), unit=unit)


def _trajectories(subject: Subject, held_out: ImageSet, most: int, start: Start | None, seed: int) -> Both:
    """The variance along trajectories of the first samples, and of as many held-out images."""
    assert subject.samples is not None
    if subject.denoiser is None or start is None:
        missing = Estimate.of(None, note="There is no denoiser.")
        return missing, missing
    n = min(most, len(held_out))
    index = [int(each) for each in subject.samples.index[:n]]
    own = trajectory_variance(subject.denoiser, index, start)
    clean = encoded(subject.denoiser, held_out.floats(slice(n)).to(start.mean.device))
    null = noised_variance(subject.denoiser, clean, held_out.ids[:n], start)
    unit = UNITS["trajectory_variance"]
    return _mean(own, seed, unit), _mean(null, seed, unit)


def trajectory_variance(denoiser: Denoiser, index: list[int], start: Start) -> Floats:
    """The variance of the denoised images along the flow that draws samples of these numbers, (n,), mean over pixels.

    Args:
        denoiser: in eval mode, on the device of the mean.
        index: numbers of the samples, which choose their noise.
        start: of the flow.
    """
    settings = start.settings.drawn_by("heun").model_copy(update={"final_denoise": True})
    window, size, found = len(settings.levels) // 2, settings.micro_batch, []
    for first in range(0, len(index), size):
        chosen = index[first : first + size]
        drawn = sample(denoiser, start.mean, chosen, start.noise_seed, settings, path_every=1)
        assert drawn.path is not None
        path = np.concatenate([drawn.path, drawn.images[None]])[window:].astype(np.float64)
        found.append(path.var(axis=0).mean(axis=(1, 2, 3)))
    return np.concatenate(found)


def noised_variance(denoiser: Denoiser, images: Tensor, ids: Strings, start: Start) -> Floats:
    """The variance of the denoised images of clean images with one noise at the same levels, (n,), mean over pixels.

    Args:
        denoiser: in eval mode, on the device of the images.
        images: (n, C, H, W), pixel units.
        ids: their content ids, which choose the noise.
        start: whose settings give the levels.
    """
    settings, shape = start.settings.drawn_by("heun"), tuple(images.shape[1:])
    levels, size, found = settings.levels[len(settings.levels) // 2 :], settings.micro_batch, []
    with torch.inference_mode():
        for first in range(0, len(ids), size):
            clean = images[first : first + size]
            streams = [noise.stream(f"image/{each}", start.noise_seed, 0) for each in ids[first : first + size]]
            normal = torch.from_numpy(np.stack([noise.normal(stream, shape) for stream in streams])).to(clean)
            denoised = [denoiser(clean + sigma * normal, clean.new_full((len(clean),), sigma)) for sigma in levels]
            path = torch.stack(denoised).double().cpu().numpy()
            found.append(path.var(axis=0).mean(axis=(1, 2, 3)))
    return np.concatenate(found)
