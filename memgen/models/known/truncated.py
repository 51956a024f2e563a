"""The truncated normal distribution: mass, mean, variance and end densities, accurate far out in a tail too.

With a and b the ends in standard deviations from the mean, φ and Φ the standard normal density and distribution,

    mass Z = Φ(b) - Φ(a),    mean = (φ(a) - φ(b)) / Z,    variance = 1 + (a φ(a) - b φ(b)) / Z - mean²

An interval in the left tail is reflected, and in the right tail all terms are divided by φ(a), where the scaled
complementary error function takes the place of Φ. Cancellation leaves an error of about 1e-16 (1 + a²)
standard deviations squared in the variance, and of about 1e-16 (1 + |a|) standard deviations in the mean.

Source: Johnson, Kotz & Balakrishnan 1994, Continuous Univariate Distributions, volume 1, section 13.10.1.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_FAR = 1e10  # standard deviations at which an infinite end is put: its density is 0 there already


class Truncated(NamedTuple):
    """A truncated normal; all float64 and of one shape.

    Attributes:
        log_mass: log of the probability that the whole normal gives the interval.
        mean: of the truncated normal.
        variance: of the truncated normal.
        density_low: its density at the lower end.
        density_high: its density at the upper end.
    """

    log_mass: Tensor
    mean: Tensor
    variance: Tensor
    density_low: Tensor
    density_high: Tensor


def truncated_normal(mean: Tensor, std: Tensor, low: Tensor, high: Tensor) -> Truncated:
    """The normal distribution of the given mean and standard deviation, truncated to low <= x <= high.

    The arguments are broadcast.

    Args:
        mean: float64, of the whole normal.
        std: float64, above 0.
        low: float64, finite or -inf.
        high: float64, above `low`, finite or inf; not both ends infinite.
    """
    a, b = ((low - mean) / std).clamp(-_FAR, _FAR), ((high - mean) / std).clamp(-_FAR, _FAR)
    reflected = a + b < 0
    a, b = torch.where(reflected, -b, a), torch.where(reflected, -a, b)  # now |a| <= b
    log_mass, at_low, at_high = _hazards(a, b)
    center = at_low - at_high
    variance = (1 + a * at_low - b * at_high - center**2).clamp(min=0)
    center = torch.where(reflected, -center, center)
    ends = torch.where(reflected, at_high, at_low) / std, torch.where(reflected, at_low, at_high) / std
    return Truncated(log_mass, torch.clamp(mean + std * center, low, high), variance * std**2, *ends)


def _hazards(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log Z, φ(a) / Z and φ(b) / Z, for |a| <= b."""
    ratio = torch.exp(-(b - a) * (b + a) / 2)  # φ(b) / φ(a)
    log_density = -(a**2) / 2 - math.log(2 * math.pi) / 2
    # Z / φ(a), in the tail from the scaled function, which would overflow elsewhere.
    root = math.sqrt(2)
    tail = math.sqrt(math.pi / 2) * (
        torch.special.erfcx(a.clamp(min=0) / root) - ratio * torch.special.erfcx(b.clamp(min=0) / root)
    )
    mass = torch.special.ndtr(b) - torch.special.ndtr(a)
    in_tail = a > 0
    log_mass = torch.where(in_tail, log_density + tail.log(), mass.log())
    at_low = torch.where(in_tail, 1 / tail, log_density.exp() / mass)
    return log_mass, at_low, at_low * ratio
