"""Conformal p-values of samples against held-out images, and the Benjamini-Hochberg procedure.

    p(g) = (1 + #{h: s(h) >= s(g)}) / (1 + number of h)

The score s is W of the competition where it is above 0, and 0 elsewhere: how deep g lies in the cell of a training
image. Unlike the competition, the p-values compare samples with other images, not training images with held-out ones.
So they see several samples at one image, and few copies. In return they assume more: that samples which are no copies
lie no deeper in the cells of training images than held-out images do. Depth makes this mild. Smooth samples are more
similar to all images than real images are, and the similarity to T then takes them for copies; their depth does not
grow.

Source: Bates et al., Ann. Statist. 51, 2023; Benjamini & Hochberg, J. R. Statist. Soc. B 57, 1995.
"""

import math

import numpy as np

from memgen.base.errors import DataError
from memgen.measures.copies.competition import Q
from memgen.measures.copies.lead import Bools, Floats


def conformal(scores: Floats, held_out: Floats) -> Floats:
    """Conformal p-values: how rare a score as high as that of the sample is among held-out images. Ties count.

    Args:
        scores: of the samples, (m,); large = suspicious.
        held_out: scores of held-out images, (n,), n >= 1.
    Returns:
        (m,) in [1 / (n + 1), 1].
    Raises:
        DataError: there is no held-out score, or a score is NaN.

    Example:
        >>> conformal(np.array([0.9, 0.1]), np.array([0.0, 0.2, 0.3, 0.4])).tolist()
        [0.2, 0.8]
    """
    if not len(held_out) or np.isnan(scores).any() or np.isnan(held_out).any():
        raise DataError(f"conformal: found {len(held_out)} held-out scores, expected at least 1, and no score NaN.")
    below = np.searchsorted(np.sort(held_out), scores, side="left")
    return np.asarray((1 + len(held_out) - below) / (1 + len(held_out)))


def benjamini_hochberg(p: Floats, q: float = Q) -> tuple[Floats, Bools]:
    """The adjusted p-values, and which of them are discoveries.

    Args:
        p: (m,), in [0, 1].
        q: false-discovery rate aimed at, in (0, 1).
    Returns:
        q-values (m,): the lowest rate at which each would be a discovery; and whether it is at most q, (m,).
    Source: Benjamini & Hochberg 1995.

    Example:
        >>> adjusted, discovered = benjamini_hochberg(np.array([0.01, 0.5, 0.02]))
        >>> adjusted.round(2).tolist(), discovered.tolist()
        ([0.03, 0.5, 0.03], [True, False, True])
    """
    order = np.argsort(p)
    raised = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(raised[::-1])[::-1])
    return adjusted, adjusted <= q * (1 + 1e-12)


def conformal_resolution(n_samples: int, n_held_out: int, q: float = Q) -> int:
    """The smallest number of copies that conformal p-values with `benjamini_hochberg` can flag.

    |G| / (q (|H1| + 1)), rounded up.

    Example:
        >>> conformal_resolution(n_samples=1000, n_held_out=1999)  # of 1,000 samples, at least 10 are flagged or none
        10
    """
    return max(1, math.ceil(n_samples / (q * (n_held_out + 1)) * (1 - 1e-12)))
