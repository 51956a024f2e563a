"""Bootstrap draws that are shared by everything that is estimated from one set of tables.

A resample gives each independent unit a multiplicity: how often it was drawn. Row 0 of all multiplicities is 1, so
that entry 0 of every array of draws is the statistic of the data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memgen.base import noise
from memgen.base.estimates import Estimate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Observations:
    """Values, with the multiplicities of the units that they belong to.

    Attributes:
        values: the defined values, (k,).
        factors: multiplicities (R + 1, u), and for each value the position of its unit (k,). A value counts as often as
            the product of its factors.
        units: number of independent units.
        what: what a unit is, for people and as the name of the bootstrap draws.
        seeds: number of training seeds that are resampled with the units; 1 if they are not resampled.
        undefined: how many values are left out, as a sentence; empty if none are.
    """

    values: Floats
    factors: tuple[tuple[Ints, Ints], ...]
    units: int
    what: str
    seeds: int
    undefined: str

    def _weights(self) -> Iterator[tuple[slice, Ints]]:
        draws = self.factors[0][0].shape[0]
        step = max(1, 4_000_000 // max(1, len(self.values)))
        for start in range(0, draws, step):
            rows = slice(start, start + step)
            weights = np.ones((1, len(self.values)), dtype=np.int64)
            for counts, unit in self.factors:
                weights = weights * counts[rows][:, unit]
            yield rows, weights  # (r, k)

    def medians(self) -> Floats:
        """The median of the data (entry 0) and of every resample, (R + 1,); NaN where there are no values."""
        result = np.full(self.factors[0][0].shape[0], np.nan)
        order = np.argsort(self.values, kind="stable")
        ascending = self.values[order]
        for rows, weights in self._weights():
            running = np.cumsum(weights[:, order], axis=1)
            total = running[:, -1:] if len(ascending) else np.zeros((len(weights), 1), dtype=np.int64)
            some = total[:, 0] > 0
            # Positions of the two middle values, which are one for an odd total.
            low = (running < (total + 1) // 2).sum(axis=1)[some]
            high = (running < total // 2 + 1).sum(axis=1)[some]
            result[rows][some] = (ascending[low] + ascending[high]) / 2
        return result

    def means(self) -> Floats:
        """The mean of the data (entry 0) and of every resample, (R + 1,); NaN where there are no values."""
        result = np.full(self.factors[0][0].shape[0], np.nan)
        for rows, weights in self._weights():
            total = weights.sum(axis=1)
            np.divide(weights @ self.values, total, out=result[rows], where=total > 0)
        return result


@dataclass(frozen=True, eq=False)
class Resampling:
    """One set of bootstrap multiplicities for everything that is estimated.

    Attributes:
        seed: seed of the draws.
        resamples: number of resamples R.
        samples: indices of all samples, ascending.
        train_seeds: all training seeds, ascending.
    """

    seed: int
    resamples: int
    samples: Ints
    train_seeds: Ints
    _known: dict[tuple[str, int], Ints] = field(default_factory=dict)

    def observe(
        self, what: str, population: NDArray[Any], values: Floats, units: Sequence[NDArray[Any]], seeds: Ints | None
    ) -> Observations:
        """The defined values with the multiplicities of their units and of their training seeds.

        Args:
            what: what a unit is, in the singular. Equal names and numbers of units have equal draws.
            population: all units, ascending.
            values: (k,); NaN where undefined.
            units: for each factor the units that the values belong to, (k,).
            seeds: training seeds of the values, (k,); None if they have none.
        """
        defined = ~np.isnan(values)
        multiplicities = self._multiplicities(what, len(population))
        factors = [(multiplicities, np.searchsorted(population, unit[defined])) for unit in units]
        several = len(self.train_seeds) if seeds is not None else 1
        if seeds is not None and several > 1:
            of_seeds = self._multiplicities("training seed", len(self.train_seeds))
            factors.append((of_seeds, np.searchsorted(self.train_seeds, seeds[defined])))
        count = len(np.unique(units[0][defined])) if len(values) else 0
        left_out = f"{np.count_nonzero(~defined):,} of {len(values):,} values are undefined and left out."
        return Observations(values[defined], tuple(factors), count, what, several, "" if defined.all() else left_out)

    def _multiplicities(self, what: str, units: int) -> Ints:
        if (what, units) not in self._known:
            counts = np.ones((self.resamples + 1, units), dtype=np.int64)
            generator = noise.stream(f"bootstrap {what}", self.seed)
            for row in counts[1:]:
                row[:] = np.bincount(generator.integers(units, size=units), minlength=units) if units else 0
            self._known[what, units] = counts
        return self._known[what, units]


def percentile_interval(draws: Floats, units: int, level: float = 0.95) -> Estimate:
    """The estimate (entry 0) with the percentile interval of the resamples; fewer than two units give no interval."""
    if np.isnan(draws[0]):
        return Estimate.of(None, n=units)
    resampled = draws[1:][~np.isnan(draws[1:])]
    if units < 2 or not len(resampled):
        return Estimate.of(float(draws[0]), n=units)
    # Infinite draws are censored crossings, so no interpolation between draws.
    tail = round((1 - level) / 2, 12)  # (1 - .95) / 2 is just above .025, which would be another draw
    low, high = (float(x) for x in np.quantile(resampled, [tail, 1 - tail], method="inverted_cdf"))
    return Estimate.of(float(draws[0]), low if np.isfinite(low) else None, high if np.isfinite(high) else None, units)
