"""Confidence intervals: the percentile bootstrap over independent units, and Wilson's interval of a share.

Bootstrap: the statistic is recomputed on resamples of the units drawn with replacement; the interval runs between the
(1 - level)/2 and (1 + level)/2 quantiles of those values (Efron & Tibshirani 1993, chapter 13).
Wilson: the values p for which the observed share lies within z standard errors sqrt(p (1 - p) / n) of p
(Wilson 1927); unlike the textbook interval it has a width at zero hits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_CHUNK = 2**22  # numbers resampled at a time: 32 MiB of float64


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


def bootstrap(
    values: NDArray[Any],
    statistic: Callable[[NDArray[Any]], NDArray[Any]],
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval of a statistic, resampling the first axis.

    Args:
        values: one entry per independent unit (an image, a sample), (m, ...); average what is not independent first.
        statistic: maps resamples (r, m, ...) to their statistics (r,).
        seed: of the resampling; the same seed gives the same interval.
        resamples: number of resamples, at least 1.
        level: coverage aimed at, in (0, 1).

    Returns:
        The interval. Its ends are None when m < 2, and where the statistic of any resample is not a number.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    m = len(values)
    if m == 0:
        return Interval(None, None, None, 0)
    estimate = _finite(statistic(values[None])[0])
    if m < 2 or estimate is None:
        return Interval(estimate, None, None, m)
    generator = np.random.Generator(np.random.Philox(seed))
    chunk = max(1, _CHUNK // values.size)
    draws = np.concatenate(
        [
            statistic(values[generator.integers(0, m, (min(chunk, resamples - done), m))])
            for done in range(0, resamples, chunk)
        ]
    )
    if not np.isfinite(draws).all():
        return Interval(estimate, None, None, m)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), m)


def wilson(share: float, n_effective: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share.

    Args:
        share: observed share, in [0, 1].
        n_effective: number of independent observations, which may be fractional (see `effective_count`).
        level: coverage aimed at, in (0, 1).

    Returns:
        (low, high), with low = 0 exactly at share 0 and high = 1 exactly at share 1; (0, 1) without observations.

    Source: Wilson, JASA 22, 1927, 209-212.
    """
    if n_effective <= 0:
        return 0.0, 1.0
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    center = share + z2 / (2 * n_effective)
    half = math.sqrt(z2 * (share * (1 - share) / n_effective + z2 / (4 * n_effective**2)))
    scale = 1 + z2 / n_effective
    # At 0 and 1 the formula gives the end exactly, but for rounding.
    low = 0.0 if share <= 0 else (center - half) / scale
    high = 1.0 if share >= 1 else (center + half) / scale
    return low, high


def effective_count(counts: ArrayLike) -> float:
    """Effective number of independent observations when observations come in groups, (sum n_k)^2 / sum n_k^2.

    Args:
        counts: observations in each group (samples that share a nearest image, say), (g,), not negative.

    Returns:
        Between 1 and the number of groups; 0 when there is no observation.

    Source: Kish, Survey Sampling, 1965, section 8.2 (there for weights).
    """
    numbers = np.asarray(counts, dtype=np.float64)
    squares = float((numbers**2).sum())
    return float(numbers.sum()) ** 2 / squares if squares else 0.0


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
