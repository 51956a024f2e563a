"""What the test for copies said of sample sets whose answer is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memgen.base.intervals import wilson
from memgen.measures.copies.competition import Q

COVERAGE = 0.93  # of 95 % intervals, below which they are too short


@dataclass(frozen=True)
class Rate:
    """A rate over repeats with its 95 % interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Reading:
    """What the test said of one control, over its repeats.

    Attributes:
        control: its name (see the module).
        share: share of copies planted; None where there are none.
        eps: standard deviation of the noise on them, pixel units.
        repeats: redraws.
        copies: planted, mean.
        k_min: training images that must be found for any to be found, largest.
        any_found: share of repeats in which anything was found.
        false_share: expected false share of what was found.
        power: share of the copies that was found; None without copies.
        covered: share of repeats whose interval of the memorized fraction contains the known one; None where unknown.
        band: in, out, or none where there is nothing to hold it against.
    """

    control: str
    share: float | None
    eps: float | None
    repeats: int
    copies: float
    k_min: int
    any_found: Rate
    false_share: Rate
    power: Rate | None
    covered: Rate | None
    band: str


def readings(table: pa.Table) -> list[Reading]:
    """Every control of one N over its repeats.

    Args:
        table: a CALIBRATION table of one N.
    """
    found: dict[tuple[str, float | None, float | None], list[dict[str, float]]] = {}
    for row in table.sort_by([("repeat", "ascending")]).to_pylist():
        found.setdefault((row["control"], row["share"], row["eps"]), []).append(row)
    return [_reading(control, share, eps, rows) for (control, share, eps), rows in found.items()]


def _reading(control: str, share: float | None, eps: float | None, rows: Sequence[dict[str, float]]) -> Reading:
    false_share = _mean([row["false_discoveries"] / max(1, row["discoveries"]) for row in rows])
    known = [
        row["low"] - 1e-9 <= row["known_fraction"] <= row["high"] + 1e-9
        for row in rows
        if row["known_fraction"] is not None
    ]
    covered = _share(known) if known else None
    planted = [(row["discoveries"] - row["false_discoveries"]) / row["copies"] for row in rows if row["copies"]]
    inside = false_share.low <= Q and (covered is None or covered.high >= COVERAGE)
    if control == "empirical":
        inside = all(row["memorized_fraction"] > 1 - 1e-9 for row in rows)
    return Reading(
        control=control,
        share=share,
        eps=eps,
        repeats=len(rows),
        copies=float(np.mean([row["copies"] for row in rows])),
        k_min=int(max(row["k_min"] for row in rows)),
        any_found=_share([row["discoveries"] > 0 for row in rows]),
        false_share=false_share,
        power=_mean(planted) if planted and control != "empirical" else None,
        covered=covered,
        band="none" if control == "mirrored" else "in" if inside else "out",
    )


def _share(hits: Sequence[bool]) -> Rate:
    share = float(np.mean(hits))
    return Rate(share, *wilson(share, len(hits)))


def _mean(values: Sequence[float]) -> Rate:
    """The mean of numbers from 0 to 1 with an interval of two standard errors; Wilson's where all are 0 or 1."""
    if set(values) <= {0.0, 1.0}:
        return _share([value > 0 for value in values])
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)
    return Rate(mean, max(0.0, mean - 2 * error), min(1.0, mean + 2 * error))


def of_size(table: pa.Table, n_train: int) -> pa.Table:
    """The rows of one N."""
    return table.filter(pc.equal(table["n_train"], n_train))
