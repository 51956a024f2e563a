"""How far candidates lead in a ranking, and how likely chance leads as far: what both tests for copies have in common.

Candidates and controls are ranked by a score, the largest first. The lead is

    L = max over thresholds t of #{candidates with score >= t} / (1 + #{controls with score >= t})

In the competition, candidates are the training images that compete and controls the held-out ones: it reports images
at the rate q if and only if L >= n_T / (q n_H). In the conformal test, candidates are m samples and controls n held-out
images: Benjamini & Hochberg's procedure flags samples at the rate q if and only if L >= m / (q (n + 1)). Both rates are
about one subject. A sweep tests many, so that its verdict needs the probability of a lead as long by chance alone,
which is exact here: if which entries are candidates is exchangeable, the ranking is an urn from which n_+ candidates
and n_- controls are drawn without replacement, and the lead is reached if and only if the path of the two counts
crosses a line.

Source: counting lattice paths under a boundary (Mohanty, Lattice Path Counting and Applications, 1979, chapter 2).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

_ONE_SIDED = 1.645  # the .95 quantile of a normal number


@dataclass(frozen=True)
class Reach:
    """How far up a ranking exact copies of training images come: at the threshold where they lead most.

    Attributes:
        share: share of exact copies that are candidates with a score of at least the threshold, in [0, 1].
        controls: controls with such a score.
        against: share of exact copies that are such controls: a training image may have a near-duplicate among the
            held-out images, and if that one represents both, a copy counts as nearest to a held-out image.
    """

    share: float = 1.0
    controls: int = 0
    against: float = 0.0


_FIRST = Reach()  # above every control


def reach(copies: Floats, controls: Floats, against: float = 0.0) -> Reach:
    """How far exact copies come in a ranking with controls.

    Args:
        copies: scores of exact copies, (r,): at most 0 for those that are no candidates.
        controls: scores of controls, (n,).
        against: see `Reach`.
    """
    best = Reach(share=0.0, against=against)
    for threshold in np.unique(copies[copies > 0]):
        found = Reach(float((copies >= threshold).mean()), int((controls >= threshold).sum()), against)
        if found.share * (1 + best.controls) > best.share * (1 + found.controls):
            best = found
    return best


def standings(score: Floats, candidate: Bools) -> tuple[Floats, Ints, Ints]:
    """The counts above each threshold.

    Args:
        score: of every entry, (m,), not NaN.
        candidate: whether the entry is a candidate, (m,); the others are controls.
    Returns:
        The different scores in descending order, (k,); and for each the numbers of candidates and of controls whose
        scores are at least as large, (k,) each.
    """
    thresholds, group = np.unique(-score, return_inverse=True)
    candidates, controls = (np.bincount(group[side], minlength=len(thresholds)) for side in (candidate, ~candidate))
    return -thresholds, np.cumsum(candidates), np.cumsum(controls)


def lead(score: Floats, candidate: Bools) -> float:
    """The lead L of the candidates over thresholds above 0; 0 if no candidate has a score above 0.

    Args:
        score: of every entry, (m,), not NaN.
        candidate: whether the entry is a candidate, (m,).
    """
    thresholds, candidates, controls = standings(score, candidate)
    above = thresholds > 0
    return float(np.max(candidates[above] / (1 + controls[above]), initial=0.0))


def probability(length: float, n_candidates: int, n_controls: int, drawn: int | None = None) -> float:
    """The probability that candidates lead by at least `length` if chance alone ranks them; ties make it smaller.

    Args:
        length: of the lead, such as `lead` gives.
        n_candidates: candidates in the urn.
        n_controls: controls in the urn.
        drawn: entries that are ranked, drawn from the urn without replacement; None for all.
    Returns:
        In [0, 1]; 1 for a lead of 0.
    """
    if length <= 0:
        return 1.0
    n = n_candidates + n_controls
    drawn = n if drawn is None else drawn
    total, scale = 0.0, 0.0
    # paths[c]: the number, divided by exp(scale), of paths to (candidates c, controls d) that have not led so far.
    paths = np.empty(0)
    for d in range(n_controls + 1):
        first = max(1, math.ceil(length * (1 + d) * (1 - 1e-12)))  # the candidates that make the lead over d controls
        if first > n_candidates or first + d > drawn:
            break
        paths = np.cumsum(np.concatenate([paths, np.zeros(first - len(paths))])) if d else np.ones(first)
        largest = paths[-1]  # they ascend
        paths, scale = paths / largest, scale + math.log(largest)
        path = _falling(n_candidates, first) + _falling(n_controls, d) - _falling(n, first + d)
        total += math.exp(scale + path)
    return min(1.0, total)


def fewest(
    least: float,
    level: float,
    n_candidates: int,
    n_controls: int,
    drawn: int | None = None,
    reached: Reach = _FIRST,
) -> int | None:
    """The fewest candidates, as far up as exact copies reach, that lead by `least` and are so probable by chance.

    Args:
        least: the lead that is needed at the rate q.
        level: the largest probability by chance, in (0, 1).
        n_candidates: candidates in the urn.
        n_controls: controls in the urn.
        drawn: entries that are ranked, drawn from the urn without replacement; None for all.
        reached: how far up exact copies are ranked; by default above every control.
    Returns:
        At least 1; None if no number of candidates is enough.
    """

    def enough(count: int) -> bool:
        # With `count` copies that are candidates come some that are controls. Their number is about Poisson, and is
        # larger than this in about one case of twenty.
        opposed = count * reached.against / reached.share
        length = count / (1 + reached.controls + opposed + _ONE_SIDED * math.sqrt(opposed))
        return length >= least * (1 - 1e-12) and probability(length, n_candidates, n_controls, drawn) <= level

    low, high = 1, min(n_candidates, n_candidates + n_controls if drawn is None else drawn)
    if not reached.share or low > high or not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _falling(n: int, k: int) -> float:
    """The logarithm of n (n - 1) ... (n - k + 1)."""
    return math.lgamma(n + 1) - math.lgamma(n - k + 1)
