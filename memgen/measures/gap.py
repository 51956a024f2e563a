"""How much better a denoiser does on images that it was trained on, at each noise level, and the attack that follows.

A unit is an image, or a group of images that were divided as a whole. Its value at a noise level is the mean output
PSNR over its images and noise draws.

    gap    mean value of units of T minus that of units of H, in dB
    auc    probability that a unit of T has a larger value than one of H, half of it where they are equal
    tpr    share of the units of T whose value is above that of all but a share FALSE_ALARMS of the units of H: what a
           membership attack finds that calls a unit trained-on if the model denoises it well

The intervals of the gap hold at all noise levels together: each has the level 1 - .05 / K. They are Welch's, with the
normal distribution in place of Student's. Those of tpr are Clopper & Pearson's, given the threshold.

Source: Yeom et al. 2018 (loss threshold); Carlini et al. 2022 (true positives at a low rate of false ones); Welch 1947.
"""

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memgen.base import schemas, tables
from memgen.base.intervals import clopper_pearson
from memgen.measures.copies.lead import Floats

FALSE_ALARMS = 0.01
LEVEL = 0.95


def gaps(psnr: pa.Table, groups: Mapping[str, str] | None = None) -> pa.Table:
    """The gap at each noise level.

    Args:
        psnr: a PSNR table of one denoiser, with rows of the kinds train and holdout.
        groups: the group of each image by its content id; None if images were divided one by one.

    Returns:
        A GAPS table with a row for each noise level, ascending.
    """
    sigmas = np.unique(psnr["sigma"].to_numpy())
    rows = []
    for sigma in sigmas:
        here = psnr.filter(pc.field("sigma") == sigma)
        train, held_out = (_values(here.filter(pc.field("kind") == kind), groups) for kind in ("train", "holdout"))
        low, high = welch(train, held_out, 1 - (1 - LEVEL) / len(sigmas))
        attack = threshold(held_out)
        hits = None if attack is None else int((train > attack).sum())
        tpr_low, tpr_high = (None, None) if hits is None else clopper_pearson(hits, len(train), LEVEL)
        rows.append(
            {
                "sigma": sigma,
                "train": float(train.mean()),
                "held_out": float(held_out.mean()),
                "gap": float(train.mean() - held_out.mean()),
                "low": low,
                "high": high,
                "auc": float(np.mean(_above(train, held_out))),
                "tpr": None if hits is None else hits / len(train),
                "tpr_low": tpr_low,
                "tpr_high": tpr_high,
                "n_train": len(train),
                "n_held_out": len(held_out),
            }
        )
    return tables.make(schemas.GAPS, {name: [row[name] for row in rows] for name in schemas.GAPS.names}, len(rows))


def threshold(held_out: Floats) -> float | None:
    """The value that at most a share FALSE_ALARMS of the units of H exceed, (n,); None where H has too few units.

    Below 1 / FALSE_ALARMS units, one false alarm is already too many.
    """
    allowed = math.floor(FALSE_ALARMS * len(held_out))
    return float(np.sort(held_out)[-1 - allowed]) if allowed else None


def _values(psnr: pa.Table, groups: Mapping[str, str] | None) -> Floats:
    """The value of each unit, in the order of their names, (n,)."""
    names = psnr["image_id"].to_pylist()
    units = names if groups is None else [groups[name] for name in names]
    found = pa.table({"unit": units, "value": psnr["output_psnr_db"]})
    means = found.group_by("unit", use_threads=False).aggregate([("value", "mean")]).sort_by("unit")
    return np.asarray(means["value_mean"].to_numpy(), dtype=np.float64)


def welch(train: Floats, held_out: Floats, level: float) -> tuple[float | None, float | None]:
    """Welch's interval of the difference of two means, with the normal distribution in place of Student's.

    Args:
        train: values of units of T, (n,).
        held_out: values of units of H, (m,).
        level: coverage, in (0, 1).

    Returns:
        (low, high); None for both with fewer than two units on a side.
    """
    if min(len(train), len(held_out)) < 2:
        return None, None
    error = math.sqrt(train.var(ddof=1) / len(train) + held_out.var(ddof=1) / len(held_out))
    half = NormalDist().inv_cdf((1 + level) / 2) * error
    difference = float(train.mean() - held_out.mean())
    return difference - half, difference + half


def _above(train: Floats, held_out: Floats) -> Floats:
    """For each unit of T, the share of units of H below it, half of those equal to it, (n,)."""
    ordered = np.sort(held_out)
    below, up_to = np.searchsorted(ordered, train, side="left"), np.searchsorted(ordered, train, side="right")
    return np.asarray((below + up_to) / 2 / len(held_out))
