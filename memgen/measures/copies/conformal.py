"""Conformal p-values of samples against held-out images, and the Benjamini-Hochberg procedure."""

import math

import numpy as np

from memgen.base.errors import DataError
from memgen.measures.copies.competition import Bools, Floats


def conformal(scores: Floats, held_out: Floats) -> Floats:
    """Conformal p-values: how rare a score as high as the sample's is among held-out images; ties count against it.

    Valid only if samples are distributed like real images, which the competition does not assume.

    Args:
        scores: of samples, such as minus the distance to the nearest training image, (m,); large = suspicious.
        held_out: the same of held-out images that are not in the pool, (n,), n >= 1.
    Returns:
        (m,) in [1 / (n + 1), 1].
    Raises:
        DataError: there is no held-out score, or a score is NaN.
    """
    if not len(held_out) or np.isnan(scores).any() or np.isnan(held_out).any():
        raise DataError(f"conformal: found {len(held_out)} held-out scores, expected at least 1, and no score NaN.")
    below = np.searchsorted(np.sort(held_out), scores, side="left")
    return np.asarray((1 + len(held_out) - below) / (1 + len(held_out)))


def benjamini_hochberg(p: Floats, q: float = 0.05) -> tuple[Floats, Bools]:
    """Adjusted p-values, and which are discoveries.

    Args:
        p: (m,), in [0, 1].
        q: false-discovery rate aimed at, in (0, 1).
    Returns:
        q-values (m,): the least rate at which each would be a discovery; and whether that is at most q, (m,).
    Source: Benjamini & Hochberg 1995.
    """
    order = np.argsort(p)
    raised = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(raised[::-1])[::-1])
    return adjusted, adjusted <= q * (1 + 1e-12)


def conformal_resolution(n_samples: int, n_held_out: int, q: float = 0.05) -> int:
    """The least number of copies that conformal p-values with `benjamini_hochberg` can flag at all.

    |G| / (q (|H1| + 1)), rounded up.
    """
    return max(1, math.ceil(n_samples / (q * (n_held_out + 1)) * (1 - 1e-12)))
