"""One record for everything that is estimated: a number, its interval, and whether it could be measured."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["measured", "no interval", "not measured", "too few sizes", "not reached", "below range"]


@dataclass(frozen=True)
class Estimate:
    """An estimate with the ends of its 95 % interval.

    Attributes:
        estimate: the statistic of the data; None where it is undefined.
        low: lower end of the interval; None where there is none, or where the data do not bound it.
        high: upper end of the interval; None likewise.
        n: number of independent units behind the interval.
        unit: unit of the estimate and of the ends.
        status: whether the estimate and its interval exist. "measured": both do; an end is None where the data do not
            bound it. "no interval": the estimate is a count, or there are too few units. "not measured": something
            that it needs is missing. Of a transition point, "too few sizes": it takes at least two training-set
            sizes; "not reached" and "below range": it lies above the largest or below the smallest of them.
        sigma_low: lowest noise level of the range that the estimate is about, in pixel units; None without a range.
        sigma_high: highest noise level of that range; None without a range.
        note: what the interval covers, or why something is missing. It is written for people and never parsed.
    """

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    unit: str = ""
    status: Status = "measured"
    sigma_low: float | None = None
    sigma_high: float | None = None
    note: str = ""

    @classmethod
    def of(
        cls,
        estimate: float | None,
        low: float | None = None,
        high: float | None = None,
        n: int = 0,
        unit: str = "",
        note: str = "",
    ) -> "Estimate":
        """The record of an estimate, with the status that its values imply: measured, no interval, or not measured."""
        status: Status = "measured"
        if estimate is None:
            status = "not measured"
        elif low is None and high is None:
            status = "no interval"
        return cls(estimate, low, high, n, unit, status, note=note)

    def above(self, bound: float) -> bool:
        """Whether the whole interval lies above `bound`."""
        return self.low is not None and self.low > bound

    def below(self, bound: float) -> bool:
        """Whether the whole interval lies below `bound`."""
        return self.high is not None and self.high < bound
