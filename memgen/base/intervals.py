"""Confidence intervals: the percentile bootstrap over independent units, and intervals of shares and bounded means.

Bootstrap: the statistic is recomputed on resamples of the units drawn with replacement. The interval runs from the
(1 - level)/2 quantile to the (1 + level)/2 quantile of those values (Efron & Tibshirani 1993, chapter 13).
Wilson: the interval holds every p for which the observed share lies within z standard errors sqrt(p (1 - p) / n) of p
(Wilson 1927). Unlike the textbook interval, it has a width at zero hits.
Clopper-Pearson: exact for a share of independent observations, however few.
Bounded: the mean of independent numbers in [0, 1], of any distribution. It too holds for however few.
Grouped: where the observations of a group hit or miss together, a test of the share is inverted, as Clopper and Pearson
do for single observations. Two models describe how hits may be spread over groups of unequal size.
"""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memgen.base.estimates import Estimate

_CHUNK = 2**22  # numbers resampled at a time: 32 MiB of float64


def bootstrap(
    values: NDArray[Any],
    statistic: Callable[[NDArray[Any]], NDArray[Any]],
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
) -> Estimate:
    """A statistic with its percentile bootstrap interval, resampling the first axis.

    Args:
        values: one entry for each independent unit (an image, a sample), (m, ...). Average what is not independent
            first.
        statistic: maps resamples (r, m, ...) to their statistics (r,).
        seed: seed of the resampling. The same seed gives the same interval.
        resamples: number of resamples, at least 1.
        level: intended coverage, in (0, 1).

    Returns:
        The estimate. The ends of its interval are None if m < 2, or if the statistic of a resample is not finite.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    m = len(values)
    if m == 0:
        return Estimate.of(None)
    estimate = _finite(statistic(values[None])[0])
    if m < 2 or estimate is None:
        return Estimate.of(estimate, n=m)
    generator = np.random.Generator(np.random.Philox(seed))
    chunk = max(1, _CHUNK // values.size)
    draws = np.concatenate(
        [
            statistic(values[generator.integers(0, m, (min(chunk, resamples - done), m))])
            for done in range(0, resamples, chunk)
        ]
    )
    if not np.isfinite(draws).all():
        return Estimate.of(estimate, n=m)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate.of(estimate, float(low), float(high), m)


def wilson(share: float, n_effective: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share.

    Args:
        share: observed share, in [0, 1].
        n_effective: number of independent observations, which may be fractional (see `effective_count`).
        level: intended coverage, in (0, 1).

    Returns:
        (low, high). At a share of 0, low is exactly 0; at a share of 1, high is exactly 1. Without observations the
        interval is (0, 1).

    Source: Wilson, JASA 22, 1927, 209-212.
    """
    if n_effective <= 0:
        return 0.0, 1.0
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    center = share + z2 / (2 * n_effective)
    half = math.sqrt(z2 * (share * (1 - share) / n_effective + z2 / (4 * n_effective**2)))
    scale = 1 + z2 / n_effective
    # At shares of 0 and 1 the formula gives that end up to rounding.
    low = 0.0 if share <= 0 else (center - half) / scale
    high = 1.0 if share >= 1 else (center + half) / scale
    return low, high


def binomial_p(hits: int, n: int, share: float) -> float:
    """Probability of at least so many hits among n independent observations that each hit with probability `share`."""
    return max(0.0, _tails(np.array([1]), np.array([n]), np.array([share]), 0, hits)[1])


def clopper_pearson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share: the values that neither of the exact one-sided tests at (1 - level) / 2 rejects.

    Args:
        hits: observations that hit.
        n: independent observations.
        level: least coverage, in (0, 1), whatever the share and n.

    Returns:
        (low, high). Without observations the interval is (0, 1).

    Source: Clopper & Pearson, Biometrika 26, 1934, 404-413.

    Example:
        >>> [round(end, 3) for end in clopper_pearson(0, 200)]  # nothing in 200 cases may still be 1.8 %
        [0.0, 0.018]
    """
    tail = (1 - level) / 2
    low, misses = (detectable_share(count, n, tail) if count else 0.0 for count in (hits, n - hits))
    return low, 1 - misses


_VANISHED = 1e-40  # far less than the rounding of probabilities
# Shares of the largest bet, denser near 0, where small excesses are best bet on. A finite mixture is as exact as any.
_BETS = ((np.arange(200) + 0.5) / 200) ** 2


def mean_p(values: ArrayLike, mean: float) -> float:
    """p-value of the hypothesis that numbers in [0, 1] have an expectation of at most `mean`, for any distribution.

    Whoever bets a share b of the capital on each value x at fair odds multiplies it by 1 + b (x / mean - 1), whose
    expectation is at most 1 under the hypothesis. So is that of the capital of many who bet different shares, and by
    Markov's inequality it exceeds 1 / p with a probability of at most p.

    Args:
        values: independent numbers in [0, 1], (n,).
        mean: in [0, 1].

    Source: betting, Waudby-Smith & Ramdas, J. R. Stat. Soc. B 86, 2024, 1-27, here with a fixed mixture of bets.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if mean <= 0:
        return 0.0 if (numbers > 0).any() else 1.0
    capital = np.log1p(_BETS[:, None] * (numbers / mean - 1)).sum(axis=1)
    largest = capital.max()
    return float(min(1.0, np.exp(-largest) / np.exp(capital - largest).mean()))


def bounded_mean(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Interval of the expectation of numbers in [0, 1], which covers it for any distribution and however few numbers.

    Args:
        values: independent numbers in [0, 1], (n,).
        level: least coverage, in (0, 1).

    Returns:
        (low, high): the values that `mean_p` rejects on neither side at (1 - level) / 2. Without numbers, (0, 1).
    """
    numbers, tail = np.asarray(values, dtype=np.float64), (1 - level) / 2
    return _least_mean(numbers, tail), 1 - _least_mean(1 - numbers, tail)


def _least_mean(numbers: NDArray[np.float64], p: float) -> float:
    """The smallest mean that is not rejected at p as too small."""
    return _bisect(lambda mean: mean_p(numbers, mean) > p, 1.0) or 0.0


def welch(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> tuple[float | None, float | None]:
    """Interval of the difference of the means of two sets of unlike variance.

    Args:
        first: independent numbers, (n,).
        second: independent numbers, (m,).
        level: intended coverage, in (0, 1).

    Returns:
        (low, high) of the mean of the first minus that of the second; None for both with fewer than two on a side.

    Source: Welch, Biometrika 34, 1947, 28-35.
    """
    sides = [np.asarray(each, dtype=np.float64) for each in (first, second)]
    if min(map(len, sides)) < 2:
        return None, None
    squares = [float(each.var(ddof=1)) / len(each) for each in sides]
    difference, half = float(sides[0].mean() - sides[1].mean()), 0.0
    if sum(squares) > 0:
        freedom = 1 / sum(
            (each / sum(squares)) ** 2 / (len(side) - 1) for each, side in zip(squares, sides, strict=True)
        )
        half = student(level, freedom) * math.sqrt(sum(squares))
    return difference - half, difference + half


def student(level: float, freedom: float) -> float:
    """The t for which Student's distribution has the probability `level` in [-t, t].

    Args:
        level: in (0, 1).
        freedom: degrees of freedom, at least 1; not only whole numbers. Above 10^5 it counts as so many.

    Example:
        >>> round(student(0.95, 9.5), 3)
        2.244
    """
    # With t = sqrt(freedom) tan(angle), the density is a power of the cosine, which few nodes integrate.
    freedom = min(freedom, 1e5)
    scale = 2 * math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    nodes, weights = np.polynomial.legendre.leggauss(64)

    def inside(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        return scale * angle / 2 * float(weights @ np.cos(angle * (nodes + 1) / 2) ** (freedom - 1))

    low = high = NormalDist().inv_cdf((1 + level) / 2)  # Student's is larger
    while inside(high) < level:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < level else (low, middle)
    return high


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


def grouped(counts: ArrayLike, hits: ArrayLike, chance: float, level: float = 0.95) -> tuple[float, float]:
    """Interval of the expected share of hits P among observations that come in groups, exact given the groups.

    The interval holds every P for which the observed number of misses lies in neither tail of (1 - level) / 2 of its
    distribution, under one of two models of how hits are spread over the groups. In the even model, each group hits
    with probability P. In the lumped model, the largest groups hit by chance and all others surely, with so many by
    chance that the expected share is P. The number of observations that hit by chance varies as it does in independent
    draws. Wilson's interval at Kish's effective count covers the even model only, and is too short where small groups
    hit surely and large groups hit by chance. The interval is conservative, as inversions of discrete tests are. The
    distributions are exact given the groups, through their characteristic functions, except that a binomial stands for
    the variation in the lumped model.

    Args:
        counts: observations in each group, (g,), integers of at least 1.
        hits: whether the group hits, (g,).
        chance: probability of a hit by chance, in (0, 1).
        level: intended coverage, in (0, 1).

    Returns:
        (low, high) in [0, 1]. Without hits, low is exactly 0; without misses, high is exactly 1. Without groups the
        interval is (0, 1).

    Source: Clopper & Pearson, Biometrika 26, 1934, 404-413, extended to groups; checked by benchmarks/significance.py.
    """
    numbers, hit = np.asarray(counts, dtype=np.int64), np.asarray(hits, dtype=bool)
    if not len(numbers):
        return 0.0, 1.0
    sizes, groups = np.unique(numbers, return_counts=True)
    total, missed, tail = int(numbers.sum()), int(numbers[~hit].sum()), (1 - level) / 2

    def even(share: float) -> tuple[float, float]:
        return _tails(sizes, groups, np.full(len(sizes), share), 0, missed)

    def lumped(share: float) -> tuple[float, float]:
        mass = (sizes * groups)[::-1]
        by_chance = total * share / (1 - chance)  # observations, in the largest groups first
        whole, part = np.divmod(np.clip(by_chance - (np.cumsum(mass) - mass), 0, mass)[::-1] / sizes, 1)
        variance = (1 - chance) ** 2 * by_chance * (1 - by_chance / total)
        shares = (1 - chance) * np.concatenate([np.ones(len(sizes)), part])
        several = np.concatenate([whole, np.ones(len(sizes))])
        return _tails(np.tile(sizes, 2), several, shares, 2 * math.ceil(max(0.0, 2 * variance)), missed)

    ends = []
    for tails, largest in ((even, 1.0), (lumped, 1 - chance)):
        from_below = _bisect(lambda h, f=tails: f(h)[1] > tail, largest)  # type: ignore[misc]
        if from_below is not None:
            from_above = _bisect(lambda h, f=tails: f(h)[0] <= tail, largest)  # type: ignore[misc]
            ends += [from_below, largest if from_above is None else from_above]
    return 1 - max(ends), 1 - min(ends)


def detectable_share(hits: int, trials: int, power: float = 0.95) -> float:
    """The smallest probability of a hit at which at least `hits` of `trials` independent trials hit with this power.

    Args:
        hits: number of hits that are needed, at least 1.
        trials: number of trials.
        power: in (0, 1).

    Returns:
        In (0, 1]; 1 if there are fewer trials than hits.

    Source: the upper end of Clopper & Pearson's one-sided interval at hits - 1, Biometrika 26, 1934.
    """
    if hits > trials:
        return 1.0
    return _bisect(lambda share: binomial_p(hits, trials, share) >= power, 1.0) or 0.0


def _tails(
    sizes: NDArray[np.int64], groups: NDArray[Any], shares: NDArray[np.float64], spread: int, x: int
) -> tuple[float, float]:
    """P(X <= x) and P(X >= x), where X is the sum over j of sizes[j] times a binomial of groups[j] trials at shares[j].

    A binomial of `spread` trials (an even number) at 1/2, minus its mean, is added to X.
    """
    # Outside of `width` around its mean, X lies with a probability below 1e-30 (Hoeffding), so it is known modulo that.
    width = 2 * math.ceil(math.sqrt(35 * float((groups * sizes**2).sum() + spread))) + 2
    length, start = int((sizes * groups).sum()) + 1 + spread, -(spread // 2)
    if width < length:
        length, start = width, max(start, math.floor(float((sizes * groups * shares).sum())) - width // 2)
    angle = 2 * np.pi * np.arange(length // 2 + 1) / length
    factor = np.cos(angle / 2).astype(np.complex128) ** spread  # as if from -spread / 2
    kept = np.arange(len(angle))
    for size, group, share in zip(sizes, groups, shares, strict=True):
        if group and share:
            # No factor is larger than 1, so what has vanished stays so. Mostly few are left after the first.
            left = np.abs(factor) > _VANISHED
            if 2 * np.count_nonzero(left) < len(left):
                kept, factor, angle = kept[left], factor[left], angle[left]
            factor *= (1 - share + share * np.exp(-1j * angle * size)) ** group
    transform = np.zeros(length // 2 + 1, dtype=np.complex128)
    transform[kept] = factor
    probability = np.roll(np.fft.irfft(transform, length), -start)
    at = min(max(x - start, -1), length)
    if at < 0:
        return 0.0, 1.0
    return float(probability[: at + 1].sum()), float(probability[at:].sum())


def _bisect(holds: Callable[[float], bool], high: float) -> float | None:
    """The smallest value in [0, high] above which a condition holds, to 1e-7; None if it holds nowhere."""
    if holds(low := 0.0):
        return low
    if not holds(high):
        return None
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return (low + high) / 2


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
