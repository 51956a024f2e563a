"""Whether the test for copies is calibrated: what it finds in sample sets with known answers.

The sample sets (controls) are made by `memgen.measures.copies.controls`, and drawn anew in each repeat. The test makes
two promises in each control: at most q of what it finds is false, in the mean over redraws, and its intervals contain
the truth. Each promise is tested by a p-value that holds for however few redraws, and all promises together at 5 %, by
Holm's method. Redraws are independent, given the images.

What a few redraws do not contradict may still be wrong. Therefore a calibration also says which rate of errors would
have been noticed, and the test is called calibrated only if that rate is small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memgen.base.estimates import Estimate
from memgen.base.intervals import binomial_p, bounded_mean, clopper_pearson, detectable_share, mean_p
from memgen.measures.copies.competition import Q

MISSES = 0.07  # intervals meant to miss the truth in 5 % of redraws are too short if they miss it more often than this
LEVEL = 0.05  # how often a test that keeps all its promises is said not to, at most
POWER = 0.8  # chance with which a rate of errors must be noticed to count as one that would have been
SHOWN = 0.2  # the test is called calibrated only if a rate of errors of this size would have been noticed everywhere
BANDS = {"in": "no", "out": "yes", "none": "not judged"}  # whether a control contradicts a promise
Key = tuple[str, float | None, float | None]  # name of a control, share of copies, and noise on them


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
        false_share: mean share of false findings among all findings, over the repeats in which the test could have
            found something; not measured without one.
        power: mean share of the copies that was found; None without copies.
        covered: share of repeats in which the interval of the memorized fraction contains the known value; None where
            that is not known.
        band: "out" if the control contradicts a promise of the test, "in" if it does not, and "none" if it cannot, or
            is shown without being judged.
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
    band: Literal["in", "out", "none"]


@dataclass(frozen=True)
class Calibration:
    """What all controls of one N say together.

    Attributes:
        controls: each by itself.
        repeats: redraws.
        answer: "not calibrated" if a control contradicts a promise; otherwise "calibrated", "not contradicted" or
            "cannot decide", by the rates of errors that would have been noticed.
        noticed: the smallest false-discovery rate that would have been noticed in any control, in which all findings of
            a redraw are false or all are true; None if some control could not show any rate.
        noticed_misses: the smallest rate at which intervals miss the truth, likewise.
    """

    controls: Sequence[Control]
    repeats: int
    answer: Literal["calibrated", "not calibrated", "not contradicted", "cannot decide"]
    noticed: float | None
    noticed_misses: float | None

    @property
    def headline(self) -> str:
        """The answer, in a sentence."""
        out = dict.fromkeys(each.control for each in self.controls if each.band == "out")
        return {
            "calibrated": "The test is calibrated on these images, as far as these redraws can show.",
            "not calibrated": f"The test is not calibrated on these images in: {', '.join(out)}.",
            "not contradicted": "Nothing contradicts that the test is calibrated on these images.",
            "cannot decide": "These redraws cannot show whether the test is calibrated on these images.",
        }[self.answer]

    @property
    def sentences(self) -> list[str]:
        """What the answer rests on, and which errors would have gone unseen."""
        said = [f"This is judged by {self.repeats} redraws."]
        if self.answer == "not calibrated":
            said.append(f"Of a test that keeps all its promises, this is said at most {LEVEL:.0%} of the time.")
        elif self.noticed is None:
            said.append("They are too few: in some control, no false-discovery rate would have been noticed for sure.")
        else:
            said.append(
                f"A false-discovery rate of {self.noticed:.0%} or more in any control would have been noticed with a "
                f"chance of {POWER:.0%}; at most {Q:.0%} is promised."
            )
            if self.noticed_misses is not None:
                said.append(f"So would intervals that miss the truth in {self.noticed_misses:.0%} of redraws or more.")
        mute = dict.fromkeys(each.control for each in self.controls if each.false_share.estimate is None)
        if mute:
            said.append(f"The samples were too few for the test to find anything in: {', '.join(mute)}.")
        return [*said, "More redraws (--repeats) show smaller rates of errors."]


def summarize(table: pa.Table) -> Calibration:
    """What the test found in the controls of one N, over the repeats, and whether it keeps its promises there.

    Args:
        table: a CALIBRATION table of one N.
    """
    found: dict[Key, _Redraws] = {}
    for row in table.sort_by([("repeat", "ascending")]).to_pylist():
        key = (row["control"], row["share"], row["eps"])
        found.setdefault(key, _Redraws(key, [])).rows.append(row)
    promises = [promise for redraws in found.values() for promise in redraws.promises]
    contradicted = {promise.of for promise, is_broken in zip(promises, broken(promises), strict=True) if is_broken}
    judged = {promise.of for promise in promises}
    controls = [redraws.control(key in judged, key in contradicted) for key, redraws in found.items()]
    level = LEVEL / max(1, len(promises))
    noticed, misses = (_noticed([each for each in promises if each.at == at], level) for at in (Q, MISSES))
    answer: Literal["calibrated", "not calibrated", "not contradicted", "cannot decide"] = "not contradicted"
    if any(control.band == "out" for control in controls):
        answer = "not calibrated"
    elif noticed is None:
        answer = "cannot decide"
    elif noticed <= SHOWN and misses is not None and misses <= SHOWN:
        answer = "calibrated"
    return Calibration(controls, max(control.repeats for control in controls), answer, noticed, misses)


@dataclass(frozen=True)
class Promise:
    """A promise of the test on one control, held against its redraws.

    Attributes:
        of: the control.
        at: the rate of errors that is promised.
        errors: of each redraw that can tell, (n,), in [0, 1].
        binary: whether a redraw can only err wholly or not at all.
    """

    of: Key
    at: float
    errors: Sequence[float]
    binary: bool

    @property
    def p(self) -> float:
        """p-value of the hypothesis that the promise is kept."""
        return self._p(self.errors)

    def _p(self, errors: Sequence[float]) -> float:
        return binomial_p(round(sum(errors)), len(errors), self.at) if self.binary else mean_p(errors, self.at)

    def noticed(self, level: float) -> float | None:
        """The smallest rate of errors for which p <= level has a chance of POWER; None if there is none.

        It is that of redraws that err wholly or not at all.
        """
        n = len(self.errors)
        enough = (wrong for wrong in range(n + 1) if self._p([1.0] * wrong + [0.0] * (n - wrong)) <= level)
        return None if (first := next(enough, None)) is None else detectable_share(first, n, POWER)


def _noticed(promises: Sequence[Promise], level: float) -> float | None:
    """The smallest rate of errors that each of some promises would have shown; None if one shows none."""
    alike = {(len(each.errors), each.binary): each for each in promises}.values()
    rates = [each.noticed(level) for each in alike]
    known = [rate for rate in rates if rate is not None]
    return max(known) if known and len(known) == len(rates) else None


def broken(promises: Sequence[Promise]) -> list[bool]:
    """Which promises are not kept. If all are kept, any is said to be broken with a probability of at most LEVEL.

    Source: Holm, Scand. J. Statist. 6, 1979, 65-70.
    """
    p, found = [promise.p for promise in promises], [False] * len(promises)
    for rank, i in enumerate(np.argsort(p, kind="stable")):
        if p[i] > LEVEL / (len(p) - rank):
            break
        found[i] = True
    return found


@dataclass(frozen=True)
class _Redraws:
    """The rows of one control."""

    of: Key
    rows: list[dict[str, Any]]

    @property
    def false(self) -> list[float]:
        """False share of what was found in each redraw in which something could be found."""
        able = [row for row in self.rows if row["answer"] != "cannot decide"]
        return [row["false_discoveries"] / max(1, row["discoveries"]) for row in able]

    @property
    def missed(self) -> list[float]:
        """1 for each interval without the known value, 0 for each other; empty where that is not known."""
        known = [row for row in self.rows if row["known_fraction"] is not None]
        return [float(not row["low"] - 1e-9 <= row["known_fraction"] <= row["high"] + 1e-9) for row in known]

    @property
    def planted(self) -> bool:
        """Whether the samples hold copies."""
        return any(row["copies"] for row in self.rows)

    @property
    def promises(self) -> list[Promise]:
        """What is tested in this control. Nothing is in the memorizer, which must be read as one in every redraw."""
        if self.of[0] in ("mirrored", "empirical"):
            return []
        found = (Promise(self.of, Q, self.false, not self.planted), Promise(self.of, MISSES, self.missed, True))
        return [promise for promise in found if promise.errors]

    def control(self, judged: bool, broken: bool) -> Control:
        """The summary of the rows, given whether a promise was tested here, and whether one was broken."""
        rows, (control, share, eps) = self.rows, self.of
        if control == "empirical":
            judged, broken = True, any(row["memorized_fraction"] <= 1 - 1e-9 for row in rows)
        power = [(row["discoveries"] - row["false_discoveries"]) / row["copies"] for row in rows if row["copies"]]
        covered = [1 - miss for miss in self.missed]
        return Control(
            control=control,
            share=share,
            eps=eps,
            repeats=len(rows),
            copies=float(np.mean([row["copies"] for row in rows])),
            k_min=int(max(row["k_min"] for row in rows)),
            any_found=_share([float(row["discoveries"] > 0) for row in rows]),
            false_share=_mean(self.false) if self.planted else _share(self.false),
            power=_mean(power) if power and control != "empirical" else None,
            covered=_share(covered) if covered else None,
            band="out" if broken else "in" if judged else "none",
        )


def _share(hits: Sequence[float]) -> Estimate:
    """The share of ones among zeros and ones."""
    if not hits:
        return Estimate.of(None)
    return Estimate.of(float(np.mean(hits)), *clopper_pearson(round(sum(hits)), len(hits)), len(hits), "share")


def _mean(values: Sequence[float]) -> Estimate:
    """The mean of numbers in [0, 1]."""
    if not values:
        return Estimate.of(None)
    return Estimate.of(float(np.mean(values)), *bounded_mean(values), len(values), "share")


def of_size(table: pa.Table, n_train: int) -> pa.Table:
    """The rows of one N."""
    return table.filter(pc.equal(table["n_train"], n_train))
