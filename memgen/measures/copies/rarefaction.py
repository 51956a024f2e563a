"""Rarefaction: how many different training images fewer samples would have shown as copied.

If each of M samples was as likely to be left out as any other, m of them hit unit u, to which h_u samples belong, with
the probability 1 - C(M - h_u, m) / C(M, m). The sum over units is the expected number of different ones. Where it still
grows at m = M, more samples would show more.

Source: Hurlbert 1971, Ecology 52(4), equation 14.
"""

import math
from collections.abc import Sequence


def rarefied(hits: Sequence[int], samples: int, drawn: int) -> float:
    """The expected number of different units among `drawn` of the samples.

    Args:
        hits: number of samples of each unit, each from 1 to `samples`.
        samples: number of all samples M.
        drawn: how many of them are kept, 0 to M.

    Example:
        >>> rarefied([1, 3], samples=4, drawn=4)  # all samples show both units
        2.0
        >>> round(rarefied([1, 3], samples=4, drawn=1), 6)  # one sample shows one unit
        1.0
    """
    missed = (_log_choices(samples - h, drawn) - _log_choices(samples, drawn) for h in hits)
    return sum(1 - math.exp(each) for each in missed)


def _log_choices(n: int, k: int) -> float:
    """The logarithm of the number of choices of k of n; minus infinity where there is none."""
    return -math.inf if k > n else math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
