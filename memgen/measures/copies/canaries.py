"""The exact test on canaries: images of which a random half was trained on, and the other half kept.

If the samples do not depend on which canaries were trained on, every choice of as many of them was equally likely when
memgen drew it. So the rank sum of the scores of the trained ones has a known distribution, over all choices, and so has
their lead (`lead`). No image source, sampler or model is assumed: the draw itself is the only thing that is random. The
p-value is twice the smaller of both, at most 1 (Bonferroni).

The rank sum sees that many trained canaries are a little closer to samples than kept ones; the lead sees that a few are
copied.

Source: randomization tests, Fisher 1935; exposure of canaries, Carlini et al., USENIX Security 2019.
"""

from dataclasses import dataclass

import numpy as np

from memgen.base.errors import DataError
from memgen.measures.copies.lead import Bools, Floats, lead, probability


@dataclass(frozen=True)
class Exposure:
    """What canaries say.

    Attributes:
        trained: canaries that were trained on.
        kept: canaries that were not.
        auc: probability that a trained canary has a larger score than a kept one, half of it where they are equal.
        p: exact p-value of the hypothesis that samples do not depend on which were trained on.
    """

    trained: int
    kept: int
    auc: float
    p: float


def exposure(score: Floats, trained: Bools) -> Exposure:
    """Test whether samples depend on which canaries were trained on.

    Args:
        score: how closely samples follow each canary, (n,), computed without looking at `trained`.
        trained: whether the canary was trained on, (n,); drawn at random among all choices of as many.

    Raises:
        DataError: no canary was trained on, or none was kept.
    """
    n, count = len(trained), int(trained.sum())
    if not 0 < count < n:
        raise DataError(f"canaries: found {count} trained and {n - count} kept, expected at least one of each.")
    doubled = _doubled_ranks(score)
    observed = int(doubled[trained].sum())
    p = min(_at_least(doubled, count, observed), probability(lead(score, trained), count, n - count))
    auc = (observed / 2 - count * (count + 1) / 2) / (count * (n - count))
    return Exposure(count, n - count, float(auc), min(1.0, 2 * p))


def _doubled_ranks(score: Floats) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Twice the rank of each score, 1 for the smallest; equal ones have their mean rank, so that this is whole."""
    ordered = np.sort(score)
    below, up_to = np.searchsorted(ordered, score, side="left"), np.searchsorted(ordered, score, side="right")
    return np.asarray(below + up_to + 1, dtype=np.int64)


def _at_least(doubled: np.ndarray[tuple[int], np.dtype[np.int64]], count: int, observed: int) -> float:
    """Share of all choices of `count` entries whose sum is at least `observed`, by counting them."""
    divisor = int(np.gcd.reduce(doubled))
    values, least = doubled // divisor, observed // divisor
    # ways[k, s]: choices of k of the entries so far whose sum is s, all divided by one number so that none overflows.
    ways = np.zeros((count + 1, int(values.sum()) + 1))
    ways[0, 0] = 1.0
    reached = 0
    for taken, value in enumerate(values.tolist(), start=1):
        for k in range(min(count, taken), 0, -1):
            ways[k, value : reached + value + 1] += ways[k - 1, : reached + 1]
        reached += value
        ways[:, : reached + 1] /= ways[:, : reached + 1].max()
    return float(min(1.0, ways[count, least:].sum() / ways[count].sum()))
