"""Whether the test for copies is calibrated: what it finds in sample sets with known answers.

The sample sets (controls) are made by `memgen.measures.copies.controls`, and drawn anew in each repeat.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memgen.base.estimates import Estimate
from memgen.base.intervals import wilson
from memgen.measures.copies.competition import Q

COVERAGE = 0.93  # intervals meant to cover 95 % are too short if they cover less than this


@dataclass(frozen=True)
class Control:
    """What the test found in one control, over its repeats.

    Attributes:
        control: name of the control; see `memgen.measures.copies.controls`.
        share: share of samples that are planted copies; None for a control without copies.
        eps: standard deviation of the noise on the copies, pixel units; None without copies.
        repeats: number of times that images and samples were redrawn.
        copies: mean number of planted copies.
        k_min: smallest number of training images that the test can report, the largest over the repeats.
        any_found: share of repeats in which the test found anything.
        false_share: mean share of false findings among all findings.
        power: mean share of the copies that was found; None without copies.
        covered: share of repeats in which the interval of the memorized fraction contains the known value; None where
            that is not known.
        band: "in" if the test keeps its promise on this control, "out" if it does not, and "none" if the control is
            shown without being judged.
    """

    control: str
    share: float | None
    eps: float | None
    repeats: int
    copies: float
    k_min: int
    any_found: Estimate
    false_share: Estimate
    power: Estimate | None
    covered: Estimate | None
    band: str


def summarize(table: pa.Table) -> list[Control]:
    """What the test found in each control of one N, over the repeats.

    Args:
        table: a CALIBRATION table of one N.
    """
    found: dict[tuple[str, float | None, float | None], list[dict[str, float]]] = {}
    for row in table.sort_by([("repeat", "ascending")]).to_pylist():
        found.setdefault((row["control"], row["share"], row["eps"]), []).append(row)
    return [_control(control, share, eps, rows) for (control, share, eps), rows in found.items()]


def _control(control: str, share: float | None, eps: float | None, rows: Sequence[dict[str, float]]) -> Control:
    false_share = _mean([row["false_discoveries"] / max(1, row["discoveries"]) for row in rows])
    known = [
        row["low"] - 1e-9 <= row["known_fraction"] <= row["high"] + 1e-9
        for row in rows
        if row["known_fraction"] is not None
    ]
    covered = _share(known) if known else None
    planted = [(row["discoveries"] - row["false_discoveries"]) / row["copies"] for row in rows if row["copies"]]
    inside = not false_share.above(Q) and (covered is None or not covered.below(COVERAGE))
    if control == "empirical":
        inside = all(row["memorized_fraction"] > 1 - 1e-9 for row in rows)
    return Control(
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


def _share(hits: Sequence[bool]) -> Estimate:
    share = float(np.mean(hits))
    return Estimate.of(share, *wilson(share, len(hits)), len(hits), "share")


def _mean(values: Sequence[float]) -> Estimate:
    """The mean of numbers in [0, 1] with an interval of two standard errors, or Wilson's if all are 0 or 1."""
    if set(values) <= {0.0, 1.0}:
        return _share([value > 0 for value in values])
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)
    return Estimate.of(mean, max(0.0, mean - 2 * error), min(1.0, mean + 2 * error), len(values), "share")


def of_size(table: pa.Table, n_train: int) -> pa.Table:
    """The rows of one N."""
    return table.filter(pc.equal(table["n_train"], n_train))
