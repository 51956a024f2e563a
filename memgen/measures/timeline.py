"""When, during a training, a model began to generalize, and when it began to memorize.

A reading is what was measured of the model after some images seen: the PSNR of images of T and of H with the same noise
each time, averaged over noise levels and draws.

    tau_gen    the first reading that denoises H as well as the best one does, within TOLERANCE dB: the paired interval
               of the difference over images does not exclude it
    tau_mem    the first reading from which on every reading shows memorization: the interval of the gap, PSNR on T
               minus PSNR on H, lies above 0, or that of its growth since the first reading does

    tau_copy   the first reading from which on the samples of every reading come from T: the exact p-value of their
               memorized fraction is small enough

Images differ in how hard they are to denoise. The growth compares each image with itself, so its interval is about half
as wide. The times are known to lie between the reading before and that one.

Reading k has the level 1 - .05 / (k (k + 1)), half of the error for each of the two intervals. These errors add up to
.05 over any number of readings. So whoever stops as soon as a reading shows memorization stops for no reason in at most
5 % of trainings, if T and H were divided at random.

Samples are tested at the level .05 / (k (k + 1)) too, but not below 1e-5, which their p-values can reach.

Source: Bonnaire, Urfin, Biroli & Mezard 2025, who read tau_gen off the quality of samples, and tau_mem off the share of
copies among them, which is tau_copy here. The denoiser shows both without samples, and memorization earlier.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memgen.base import schemas, tables
from memgen.base.intervals import welch
from memgen.measures.copies.lead import Floats

TOLERANCE = 0.1  # dB
PERMUTATIONS = 99_999  # random labels behind the p-value of samples, so that it can be as small as 1e-5
_ERROR = 0.05


@dataclass(frozen=True)
class Reached:
    """When something was reached.

    Attributes:
        after: images seen at the last reading before; 0 if the first reading reached it.
        by: images seen at the first reading that reached it.
    """

    after: int
    by: int


def timeline(readings: pa.Table) -> pa.Table:
    """The gap and the quality at each reading: a TIMELINE table, in the order of images seen.

    Args:
        readings: a READINGS table, with the same images in every reading.
    """
    seen = np.unique(readings["images_seen"].to_numpy())
    sides = {kind: [_values(readings, each, kind) for each in seen] for kind in ("train", "holdout")}
    best = max(range(len(seen)), key=lambda i: float(sides["holdout"][i].mean())) if len(seen) else 0
    rows: list[dict[str, Any]] = []
    for k, images_seen in enumerate(seen, start=1):
        train, held_out = sides["train"][k - 1], sides["holdout"][k - 1]
        level = 1 - _ERROR / (k * (k + 1)) / 2
        low, high = welch(train, held_out, level)
        grown = train - sides["train"][0], held_out - sides["holdout"][0]
        grown_low, grown_high = welch(*grown, level)
        behind = sides["holdout"][best] - held_out
        error = float(behind.std(ddof=1)) / math.sqrt(len(behind)) if len(behind) > 1 else 0.0
        rows.append(
            {
                "images_seen": int(images_seen),
                "train": float(train.mean()),
                "held_out": float(held_out.mean()),
                "gap": float(train.mean() - held_out.mean()),
                "low": low,
                "high": high,
                "growth": float(grown[0].mean() - grown[1].mean()),
                "growth_low": grown_low,
                "growth_high": grown_high,
                "memorizes": any(end is not None and end > 0 for end in (low, grown_low)),
                "as_good": float(behind.mean()) - NormalDist().inv_cdf((1 + level) / 2) * error <= TOLERANCE,
            }
        )
    names = schemas.TIMELINE.names
    return tables.make(schemas.TIMELINE, {name: [row[name] for row in rows] for name in names}, len(rows))


def generalizes(timeline: pa.Table) -> Reached | None:
    """tau_gen of a TIMELINE table; None without readings."""
    good = timeline["as_good"].to_pylist()
    return _reached(timeline["images_seen"].to_pylist(), good.index(True)) if any(good) else None


def memorizes(timeline: pa.Table) -> Reached | None:
    """tau_mem of a TIMELINE table; None where the last reading shows no gap."""
    return _last_from(timeline["memorizes"].to_pylist(), timeline["images_seen"].to_pylist())


def draws_copies(drawn: Sequence[Mapping[str, Any]]) -> Reached | None:
    """tau_copy of the rows of a DRAWN table, in order; None where the last one does not show it."""
    levels = [max(_ERROR / (k * (k + 1)), 1 / (PERMUTATIONS + 1)) for k in range(1, len(drawn) + 1)]
    shown = [row["p"] <= level for row, level in zip(drawn, levels, strict=True)]
    return _last_from(shown, [row["images_seen"] for row in drawn])


def _last_from(shown: Sequence[bool], seen: Sequence[int]) -> Reached | None:
    """When something was reached that all readings show from then on."""
    start = max((i + 1 for i, each in enumerate(shown) if not each), default=0)
    return _reached(seen, start) if start < len(shown) else None


def _reached(seen: Sequence[int], position: int) -> Reached:
    return Reached(seen[position - 1] if position else 0, seen[position])


def _values(readings: pa.Table, images_seen: int, kind: str) -> Floats:
    """The values of one reading, in the order of the ids of the images, (n,)."""
    here = readings.filter((pc.field("images_seen") == int(images_seen)) & (pc.field("kind") == kind))
    return np.asarray(here.sort_by("image_id")["psnr_db"].to_numpy(), dtype=np.float64)
