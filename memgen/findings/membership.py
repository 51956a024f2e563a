"""What a score of images gives away of which of them a model was trained on: the gap between T and H, and the attack.

The score is higher for images that the model fits better: the PSNR of a denoised image at a noise level, or its
log-density. If T and H are drawn alike, a model that has not memorized gives both the same scores on average.

    gap     mean score on T minus that on H. Null: 0
    auc     probability that an image of T has a higher score than one of H, ties counting half. Null: 1/2
    tpr     share of T above a threshold that a new image of H exceeds with a probability of at most 1 %. Null: that

The attack with a threshold says "trained on" where the score exceeds it (Yeom et al. 2018). The threshold is the k-th
largest score of n images of H, k = floor(.01 (n + 1)), which a new one exceeds with a probability of k / (n + 1) at
most: 99 images are the least. Where images come in groups, such as patients, a group is one unit, with the mean score
of its images, for the images of a group are alike.

Source: Yeom, Giacomelli, Fredrikson & Jha 2018; Carlini et al. 2022, for the true positives at few false ones; Vovk,
Gammerman & Shafer 2005, for the rank.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from memgen.base import noise, schemas, tables
from memgen.base.estimates import Estimate
from memgen.base.intervals import clopper_pearson

FALSE_POSITIVES = 0.01
_RESAMPLES = 2000

Floats = NDArray[np.float64]
Groups = Mapping[str, str]


@dataclass(frozen=True)
class Scores:
    """Scores of independent units, higher where the model fits better.

    Attributes:
        train: of T, (n,).
        held_out: of H, (m,).
    """

    train: Floats
    held_out: Floats

    @property
    def n(self) -> int:
        """Units of the smaller of the two."""
        return min(len(self.train), len(self.held_out))


def by_unit(rows: pa.Table, column: str, groups: Groups | None) -> Scores:
    """The mean of a column for each image, or each group of images, of T and of H.

    Args:
        rows: a table with the columns kind (train or holdout) and image_id.
        column: its scores; undefined ones are left out.
        groups: group of each image by its id; None where images are independent.
    """
    kind, ids = rows["kind"].to_numpy(zero_copy_only=False), rows["image_id"].to_pylist()
    values = rows[column].to_numpy(zero_copy_only=False).astype(np.float64)
    units = np.array([groups[each] if groups else each for each in ids], dtype=object)

    def means(wanted: str) -> Floats:
        keep = (kind == wanted) & np.isfinite(values)
        _, unit = np.unique(units[keep].astype(str), return_inverse=True)
        return np.bincount(unit, values[keep]) / np.maximum(1, np.bincount(unit))

    return Scores(means("train"), means("holdout"))


def gap(scores: Scores, seed: int, unit: str) -> Estimate:
    """Mean score of T minus that of H, with a 95 % bootstrap interval over units.

    Args:
        scores: of the units.
        seed: of the bootstrap.
        unit: of the scores, for the estimate.
    """
    if scores.n == 0:
        return Estimate.of(None, unit=unit, note="There are no images of T, or none of H.")
    value = float(scores.train.mean() - scores.held_out.mean())
    if scores.n < 2:
        return Estimate.of(value, n=scores.n, unit=unit, note="One image has no interval.")
    train, held_out = (_multiplicities(len(each), side, seed) for side, each in _sides(scores))
    draws = train @ scores.train / len(scores.train) - held_out @ scores.held_out / len(scores.held_out)
    return Estimate.of(value, *_ends(draws), scores.n, unit)


def auc(scores: Scores, seed: int) -> Estimate:
    """The area under the curve of the attack, with a 95 % bootstrap interval over units of T and of H."""
    if scores.n == 0:
        return Estimate.of(None, unit="probability", note="There are no images of T, or none of H.")
    higher = _higher(scores)
    if scores.n < 2:
        return Estimate.of(float(higher.mean()), n=scores.n, unit="probability", note="One image has no interval.")
    train, held_out = (_multiplicities(len(each), side, seed) for side, each in _sides(scores))
    draws = np.einsum("rm,rm->r", train @ higher, held_out) / higher.size
    return Estimate.of(float(higher.mean()), *_ends(draws), scores.n, "probability")


def area(scores: Scores) -> float:
    """The area under the curve of the attack, without an interval; there is at least one unit of T and one of H."""
    return float(_higher(scores).mean())


def _higher(scores: Scores) -> Floats:
    """Whether a unit of T has a higher score than one of H, 1/2 where they are equal, (n, m)."""
    return np.sign(scores.train[:, None] - scores.held_out) / 2 + 0.5


@dataclass(frozen=True)
class Attack:
    """True positives of the attack at few false ones.

    Attributes:
        tpr: share of T above the threshold, with the 95 % Clopper-Pearson interval for this threshold.
        fpr: probability that a new unit of H exceeds it; None where H is too small.
    """

    tpr: Estimate
    fpr: float | None


def attack(scores: Scores, rate: float = FALSE_POSITIVES) -> Attack:
    """The attack at a rate of false positives; see the module."""
    n, rank = len(scores.held_out), math.floor(rate * (len(scores.held_out) + 1))
    if rank < 1 or not len(scores.train):
        needed = math.ceil(1 / rate) - 1
        note = f"A rate of {rate:.0%} takes at least {needed} units of H, and one of T; H has {n}."
        return Attack(Estimate.of(None, n=len(scores.train), unit="share", note=note), None)
    hits = int((scores.train > np.sort(scores.held_out)[-rank]).sum())
    members = len(scores.train)
    found = Estimate.of(hits / members, *clopper_pearson(hits, members), members, "share")
    return Attack(found, rank / (n + 1))


def summarize(psnr: pa.Table, likelihood: pa.Table | None, groups: Groups | None, seed: int) -> pa.Table:
    """The gap and the attack of one subject, by its PSNR at each noise level and at all, and by its likelihood.

    Args:
        psnr: a PSNR table of one subject with rows of T and of H.
        likelihood: its LIKELIHOOD table; None where it was not measured.
        groups: group of each image by its id; None where images are independent.
        seed: of the bootstrap.

    Returns:
        A MEMBERSHIP table, one row for each score.
    """
    rows: list[dict[str, Any]] = []
    for name, sigma, column, part in _parts(psnr, likelihood):
        scores, unit = by_unit(part, column, groups), "dB" if name == "psnr" else "nats"
        shift, area, found = gap(scores, seed, unit), auc(scores, seed), attack(scores)
        rows.append(
            {
                "score": name,
                "sigma": sigma,
                "n_units": len(scores.train),
                "n_held_out": len(scores.held_out),
                "unit": unit,
                "fpr": found.fpr,
                **_columns("gap", shift),
                **_columns("auc", area),
                **_columns("tpr", found.tpr),
            }
        )
    names = ("subject", "role", "n_train", "part", "train_seed")
    keys = {name: psnr[name][0].as_py() for name in names} | {"independent": "group" if groups else "image"}
    return tables.make(schemas.MEMBERSHIP, keys | {name: [row[name] for row in rows] for name in rows[0]})


def estimate(row: Mapping[str, Any], name: str) -> Estimate:
    """An estimate of a row of a MEMBERSHIP table: gap, auc or tpr, with its interval and its unit."""
    unit = {"gap": row["unit"], "auc": "probability", "tpr": "share"}[name]
    return Estimate.of(row[name], row[f"{name}_low"], row[f"{name}_high"], row["n_units"], unit)


def _parts(psnr: pa.Table, likelihood: pa.Table | None) -> Iterator[tuple[str, float | None, str, pa.Table]]:
    """Name, noise level, column and rows of each score."""
    sigmas = psnr["sigma"].to_numpy()
    for sigma in np.unique(sigmas):
        yield "psnr", float(sigma), "output_psnr_db", psnr.filter(pa.array(sigmas == sigma))
    yield "psnr", None, "output_psnr_db", psnr
    if likelihood is not None:
        yield "log_density", None, "log_density", likelihood


def _columns(name: str, found: Estimate) -> dict[str, float | None]:
    return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}


def _sides(scores: Scores) -> list[tuple[str, Floats]]:
    return [("train", scores.train), ("holdout", scores.held_out)]


def _multiplicities(units: int, side: str, seed: int) -> Floats:
    """How often each unit is drawn in each resample, (R, units)."""
    drawn = noise.stream(f"membership/{side}", seed).multinomial(units, np.full(units, 1 / units), _RESAMPLES)
    return drawn.astype(np.float64)


def _ends(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
