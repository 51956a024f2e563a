"""Estimates: a number with the interval that it lies in."""

from dataclasses import dataclass

from memgen.base.wording import DASH, number


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its interval.

    Attributes:
        estimate: the statistic of the data; None where it is undefined.
        low: lower end; None where there is no interval, as with a single unit.
        high: upper end; None where there is no interval.
        n: independent units behind the interval.
    """

    estimate: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Estimate:
    """One row of a transition table."""

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    unit: str
    note: str

    def above(self, bound: float) -> bool:
        """Whether the whole interval lies above `bound`."""
        return self.low is not None and self.low > bound

    def below(self, bound: float) -> bool:
        """Whether the whole interval lies below `bound`."""
        return self.high is not None and self.high < bound

    def __str__(self) -> str:
        """The estimate and its interval, such as `.956 [.948, .961]`; a dash where it does not exist."""
        if self.estimate is None:
            return DASH
        text = number(self.estimate, self.unit)
        if self.low is None and self.high is None:
            return text
        low, high = ("?" if end is None else number(end, self.unit) for end in (self.low, self.high))
        return f"{text} [{low}, {high}]"
