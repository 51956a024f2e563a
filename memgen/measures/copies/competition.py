"""Which samples depend on single training images: target-decoy competition, and the memorized fraction.

T is the training set. H holds images of the same source that the model never saw. Near-duplicates in T and H together
count as one (`pool`), and n_T and n_H are the numbers of representatives in each. If a model depends on T only through
the source of both, the labels T and H are exchangeable, given the samples and the unlabeled pool. All guarantees here
rest on that, and none on the quality of the samples.

    competition         W(g) = +- depth(g), + where the nearest representative is in T. For each representative its
                        deepest sample competes. Discoveries: W >= t, with the smallest t > 0 such that
                        n_T / n_H * (1 + #{W <= -t}) / max(1, #{W >= t}) <= q
    depth               min over k >= 2 of (1 - <g, x_k> / <g, x_1>) / (1 - <x_1, x_k>), all of length 1: how deep g
                        lies in the Voronoi cell of its nearest representative x_1, relative to the distance of each
                        neighbor x_k: 0 on a face of the cell, 1 at x_1 itself
    memorized fraction  rho = (P - c) / (1 - c), P the share of samples nearest to T, c = n_T / (n_T + n_H)

The competition controls the expected share of false finds among the training clusters that are found. With labels drawn
without replacement, E[#{false W >= t} / (1 + #{W <= -t})] <= n_T / (n_H + 1), so the guarantee also holds for a pool of
fixed size. Depth is valid because it does not look at labels. Noise on a copy adds the same amount to all d_k^2, and
when g is scaled to length 1 it shrinks all <g, x_k> by the same factor. So log(d_2 / d_1) fades with noise, and depth
does not. The cells of vectors of length 1 are cones, so dividing by <g, x_1> moves no face of a cell. In few
dimensions, such as 8, log(d_2 / d_1) finds somewhat more.

Source: Barber & Candes, Ann. Statist. 43, 2015, Theorem 3 (Selective SeqStep+); Elias & Gygi, Nat. Methods 4, 2007;
residual over a control as in anonymeter (Giomi et al. 2023).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from memgen.base import noise
from memgen.base.errors import DataError, ShapeError
from memgen.base.intervals import grouped
from memgen.measures.copies.lead import Bools, Floats, Ints, lead, probability, standings

Q = 0.05  # the false-discovery rate aimed at, unless told otherwise
DEFINITION = "significance/5"
# Correlation above which a sample and a training image look like one picture; images this alike are near-duplicates.
ALIKE = 0.95


def depth(distances: Floats, apart: Floats, others: Bools | None = None) -> Floats:
    """How deep each sample lies in the Voronoi cell of its nearest representative, relative to its neighbors.

    Args:
        distances: to the K nearest representatives, ascending, (m, K), K >= 2, Euclidean between vectors of length 1,
            in [0, 2]; 10 are enough.
        apart: between the nearest representative and each of the others, (m, K - 1), in the same space.
        others: which of these count, at least one in each row, (m, K - 1): those of other units than the nearest. None
            for all.
    Returns:
        (m,), at least 0; 0 where two nearest representatives are one point, and where the sample is at a right angle or
        more to the nearest.
    Raises:
        ShapeError: the arrays do not fit together.
        DataError: distances are not ascending, or outside [0, 2].

    Example:
        >>> depth(np.array([[0.0, 1.0], [0.5, 0.5]]), np.array([[1.0], [0.9]])).tolist()  # at an image, and on a border
        [1.0, 0.0]
    """
    if distances.ndim != 2 or distances.shape[1] < 2 or apart.shape != (len(distances), distances.shape[1] - 1):
        raise ShapeError(
            f"depth: found distances {distances.shape} and apart {apart.shape}, expected (m, K) and (m, K - 1), K >= 2."
        )
    if not all(((x >= 0) & (x <= 2 + 1e-6)).all() for x in (distances, apart)):
        raise DataError("depth: found a distance outside [0, 2]. Scale the vectors to length 1.")
    if (np.diff(distances, axis=1) < 0).any():
        raise DataError("depth: found distances that fall with the rank. Sort each row, nearest first.")
    projection = 1 - distances[:, :1] ** 2 / 2  # <g, x_1>
    gain = distances[:, 1:] ** 2 - distances[:, :1] ** 2  # 2 <g, x_1 - x_k>
    whole = projection * apart**2
    relative = np.divide(gain, whole, out=np.zeros(gain.shape), where=whole > 0)
    return np.asarray((relative if others is None else np.where(others, relative, np.inf)).min(axis=1))


@dataclass(frozen=True, eq=False)
class Competition:
    """The outcome of a target-decoy competition.

    Attributes:
        q: the rate at which the expected false share of training clusters found is controlled.
        score: W of every sample, (m,); positive where its nearest representative is in T.
        competes: (m,) whether the sample is the one that competes for its representative.
        discovered: (m,) the competitors that were found.
        threshold: smallest W of a discovery; None without one.
        k_min: the smallest number of training clusters that can be found, n_T / (q n_H) rounded up.
        n_competing: competitors with a W other than 0.
        n_attached: further samples at the representatives that were found. They did not compete, so they have no rate
            of their own.
        answer: found, none, or cannot decide: the competitors are fewer than k_min, so nothing could have been found.
    """

    q: float
    score: Floats
    competes: Bools
    discovered: Bools
    threshold: float | None
    k_min: int
    n_competing: int
    n_attached: int
    answer: Literal["found", "none", "cannot decide"]


def fewest(n_t: int, n_h: int, q: float = Q) -> int:
    """The smallest number of training clusters that can be found, n_T / (q n_H) rounded up.

    Example:
        >>> fewest(300, 300)
        20
    """
    return math.ceil(n_t / (q * n_h) * (1 - 1e-12))


def compete(nearest: Ints, magnitude: Floats, in_train: Bools, q: float = Q) -> Competition:
    """Find samples that depend on single training images, with a controlled false-discovery rate.

    Args:
        nearest: number of each sample's nearest representative, (m,); which of equally near ones must not depend on
            labels.
        magnitude: of W, (m,), at least 0, computed without looking at `in_train`, such as `depth`.
        in_train: whether each representative is in T, (n,).
        q: false-discovery rate aimed at, in (0, 1).
    Raises:
        DataError: T or H has no representative, a magnitude is negative or NaN, `nearest` points outside, or q is not
            in (0, 1).
        ShapeError: `nearest` and `magnitude` differ in length.

    Example:
        >>> nearest, in_train = np.arange(60), np.arange(100) < 50  # of 60 samples, 50 are nearest to an image of T
        >>> found = compete(nearest, np.where(nearest < 40, 0.9, 0.1), in_train)
        >>> found.k_min, int(found.discovered.sum()), found.answer
        (20, 40, 'found')
    """
    n_t, n_h = _sides(nearest, in_train)
    if magnitude.shape != nearest.shape:
        raise ShapeError(
            f"competition: found nearest {nearest.shape} and magnitude {magnitude.shape}, expected one shape."
        )
    if not (magnitude >= 0).all():
        raise DataError("competition: found a magnitude that is negative or NaN, expected numbers of at least 0.")
    if not 0 < q < 1:
        raise DataError(f"competition: found q = {q}, expected a rate between 0 and 1.")
    score = np.where(in_train[nearest], magnitude, -magnitude)
    competes = _deepest(nearest, magnitude)
    contest = score[competes & (score != 0)]
    threshold = _threshold(contest, n_t, n_h, q)
    discovered = competes & (score >= threshold) if threshold is not None else np.zeros(len(nearest), dtype=bool)
    if not discovered.any():  # a T that is small beside H can pass a threshold that no competitor in T reaches
        threshold = None
    k_min = fewest(n_t, n_h, q)
    reachable = min(len(contest), n_t) >= k_min
    return Competition(
        q=q,
        score=score,
        competes=competes,
        discovered=discovered,
        threshold=threshold,
        k_min=k_min,
        n_competing=len(contest),
        n_attached=int(np.isin(nearest, nearest[discovered]).sum() - discovered.sum()),
        answer="found" if threshold is not None else "none" if reachable else "cannot decide",
    )


def chance(found: Competition, in_train: Bools) -> float:
    """The exact probability that competitors in T lead by as much if labels are exchangeable (see `lead`).

    Whoever tests many subjects judges each by it, since q is the rate of one.

    Args:
        found: the competition.
        in_train: whether each representative is in T, (n,).
    """
    contest = found.score[found.competes & (found.score != 0)]
    n_t = int(in_train.sum())
    return probability(lead(np.abs(contest), contest > 0), n_t, len(in_train) - n_t, len(contest))


def _sides(nearest: Ints, in_train: Bools) -> tuple[int, int]:
    """Representatives in T and in H."""
    n_t, n_h = int(in_train.sum()), int((~in_train).sum())
    if not (n_t and n_h):
        raise DataError(f"significance: found {n_t} representatives in T and {n_h} in H, expected at least 1 in each.")
    if nearest.ndim != 1 or (len(nearest) and not 0 <= nearest.min() <= nearest.max() < len(in_train)):
        raise DataError(f"significance: expected for each sample the number of its nearest, 0 to {len(in_train) - 1}.")
    return n_t, n_h


def _deepest(nearest: Ints, magnitude: Floats) -> Bools:
    """For each representative the sample of largest magnitude, the first of equals."""
    order = np.lexsort((np.arange(len(nearest)), -magnitude))
    _, first = np.unique(nearest[order], return_index=True)
    competes = np.zeros(len(nearest), dtype=bool)
    competes[order[first]] = True
    return competes


def _threshold(contest: Floats, n_t: int, n_h: int, q: float) -> float | None:
    """The smallest t that satisfies the rule; None where none does."""
    thresholds, targets, decoys = standings(np.abs(contest), contest > 0)
    allowed = np.flatnonzero(n_t * (1 + decoys) <= q * n_h * np.maximum(1, targets) * (1 + 1e-12))
    # The rule can hold at a decoy too; the discoveries are the same.
    return float(thresholds[allowed[-1]]) if len(allowed) else None


@dataclass(frozen=True)
class MemorizedFraction:
    """The memorized fraction with its interval and its test.

    Attributes:
        estimate: rho, from -c / (1 - c) to 1; 0 for a model blind to the labels. None without samples.
        low: lower end of the interval; None without samples.
        high: upper end of the interval; None without samples.
        p: label-permutation p-value of the hypothesis that the model is blind to the labels, against rho > 0.
        chance: c.
        n_samples: samples.
        n_nearest: distinct representatives nearest to a sample: the independent units.
    """

    estimate: float | None
    low: float | None
    high: float | None
    p: float | None
    chance: float
    n_samples: int
    n_nearest: int


def memorized_fraction(
    nearest: Ints, in_train: Bools, seed: int, permutations: int = 9999, level: float = 0.95
) -> MemorizedFraction:
    """The share of samples nearest to T, minus the share expected of a model that is blind to the labels.

    Samples at one representative count as one (see `intervals.grouped`). The p-value is exact under exchangeability:
    P(p <= alpha) <= alpha.

    Args:
        nearest: number of each sample's nearest representative, (m,).
        in_train: whether each representative is in T, (n,).
        seed: of the permutations.
        permutations: random relabelings of the representatives.
        level: coverage of the interval.
    Raises:
        DataError: T or H has no representative, or `nearest` points outside.

    Example:
        >>> in_train = np.arange(200) < 100
        >>> found = memorized_fraction(np.arange(50, 150), in_train, seed=0)  # half of the samples are nearest to T
        >>> found.chance, found.estimate
        (0.5, 0.0)
    """
    n_t, n_h = _sides(nearest, in_train)
    chance = n_t / (n_t + n_h)
    if not len(nearest):
        return MemorizedFraction(None, None, None, None, chance, 0, 0)
    which, counts = np.unique(nearest, return_counts=True)
    hits = in_train[which]
    ends = grouped(counts, hits, chance, level)
    share = counts[hits].sum() / counts.sum()
    estimate, low, high = ((value - chance) / (1 - chance) for value in (share, *ends))
    p = _permutation_p(counts, int(counts[hits].sum()), n_t, n_t + n_h, seed, permutations)
    return MemorizedFraction(float(estimate), float(low), float(high), p, chance, len(nearest), len(which))


def _permutation_p(counts: Ints, observed: int, n_t: int, n: int, seed: int, permutations: int) -> float:
    """Share of relabelings, the observed one among them, with at least as many samples nearest to T."""
    sizes, groups = np.unique(counts, return_counts=True)
    colors = np.append(groups, n - len(counts))  # representatives by their number of samples; those without any
    generator = noise.stream("label permutation", seed)
    drawn = generator.multivariate_hypergeometric(colors, n_t, size=permutations, method="marginals")
    return float((1 + np.count_nonzero(drawn[:, :-1] @ sizes >= observed)) / (1 + permutations))
