"""The few numbers by which people read a sweep or an audit, with their intervals and what they are judged against."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from memgen.base import wording
from memgen.base.estimates import Estimate
from memgen.findings import transition
from memgen.findings.audit import Answer
from memgen.findings.verdict import Verdict

_SHOWN = ("nearest_own", "cross_same", "memorized_fraction", "psnr_gap", "bits", "to_linear")
_NULLS = {"nearest_own": "nearest_holdout_to_train", "cross_same": "cross_different"}


@dataclass(frozen=True)
class Number:
    """An estimate as people read it.

    Attributes:
        value: the estimate; a dash where there is none.
        interval: its interval; empty where there is none.
        null: what it is judged against; empty where that is no measurement.
    """

    value: str
    interval: str = ""
    null: str = ""


@dataclass(frozen=True)
class Numbers:
    """A table of numbers, with a row for each size or subject of a sweep, or for each question of an audit.

    Attributes:
        columns: heads, without that of the labels.
        labels: of the rows.
        rows: their numbers.
        regimes: verdict of each row of a sweep; empty for an audit.
        intervals: what the intervals are, in words.
        nulls: what stands in parentheses, in words.
    """

    columns: Sequence[str]
    labels: Sequence[str]
    rows: Sequence[Sequence[Number]]
    regimes: Sequence[str]
    intervals: str
    nulls: Sequence[str]


def of_sweep(found: Verdict, summary: pa.Table) -> Numbers:
    """The main numbers of each size and imported subject; only quantities that were measured.

    Args:
        found: the verdict.
        summary: the TRANSITION table that it is about.
    """
    rows, units = transition.estimates(summary), {"dB", "bits per dimension"}
    keys = [paragraph.key for paragraph in found.paragraphs]
    measured = [name for name in _SHOWN if any(rows[key, name].estimate is not None for key in keys)]
    columns = []
    for quantity in measured:
        unit = {rows[key, quantity].unit for key in keys} & units
        columns.append(", ".join((transition.QUANTITIES[quantity].name, *unit)))

    def number(key: int | str, quantity: str) -> Number:
        estimate = rows[key, quantity]
        null = rows[key, _NULLS[quantity]] if quantity in _NULLS else Estimate.of(None)
        judged = "" if null.estimate is None else wording.value(null)
        return Number(wording.value(estimate), wording.interval(estimate), judged)

    return Numbers(
        columns=columns,
        labels=[f"{each.n_train:,}" if each.n_train is not None else each.label for each in found.paragraphs],
        rows=[[number(key, quantity) for quantity in measured] for key in keys],
        regimes=[paragraph.regime for paragraph in found.paragraphs],
        intervals="intervals that hold together with 95 %",
        nulls=[transition.QUANTITIES[_NULLS[quantity]].name for quantity in measured if quantity in _NULLS],
    )


def of_audit(found: Answer, gaps: Sequence[Mapping[str, Any]]) -> Numbers:
    """The main numbers of an audit, with how probable as much is by chance; no rows without held-out images.

    Args:
        found: the answer.
        gaps: rows of a GAPS table.
    """
    counts, labels, rows = found.counts, [], []

    def add(label: str, number: Number, p: float | None = None) -> None:
        labels.append(label)
        rows.append([number, Number("" if p is None else f"{p:.2g}")])

    if counts:
        unit = counts["unit"]
        add(f"training {unit}s that samples depend on", Number(f"{counts['discoveries']:,}"), counts["competition_p"])
        add("samples flagged as copies", Number(f"{counts['flagged']:,}"), counts["conformal_p"])
        fraction = Estimate.of(counts["memorized_fraction"], counts["low"], counts["high"], counts["samples"], "share")
        shown = Number(wording.value(fraction), wording.interval(fraction), "0")
        add("memorized fraction", shown, counts["p"])
    for row in gaps:
        gap = Estimate.of(row["gap"], row["low"], row["high"], unit="dB")
        label = f"PSNR gap at noise level {row['sigma']:.3g}, dB"
        add(label, Number(wording.value(gap), wording.interval(gap), "0"))
    return Numbers(
        columns=("found", "probability of as much by chance"),
        labels=labels,
        rows=rows,
        regimes=(),
        intervals="95 % intervals",
        nulls=("what a model that copies nothing has",) if rows else (),
    )
