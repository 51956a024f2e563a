"""The truncated normal against SciPy, in the middle, far out in both tails, and on short intervals."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from memgen.models.known.truncated import Truncated, truncated_normal

CASES = [
    (0.0, 1.0, -1.0, 2.0),
    (0.3, 0.5, 0.0, 1.0),
    (0.0, 1.0, 3.0, 4.0),
    (0.0, 1.0, -9.0, -8.0),
    (5.0, 2.0, -1.0, 0.0),
    (0.0, 1.0, 30.0, 31.0),
    (0.0, 10.0, 0.0, 0.1),
    (-2.0, 0.1, 0.0, 1.0),
    (0.4, 0.2, 0.0, math.inf),
    (-3.0, 1.0, 0.0, math.inf),
    (0.0, 1.0, -math.inf, -2.0),
]


def found(*case: float) -> Truncated:
    return truncated_normal(*(torch.tensor(value, dtype=torch.float64) for value in case))


@pytest.mark.parametrize("case", CASES)
def test_equals_scipy(case):
    """Mass, mean and end densities are those of SciPy; the variance that of SciPy or of quadrature in a far tail."""
    mean, std, low, high = case
    a, b = (low - mean) / std, (high - mean) / std
    expected, cut = stats.truncnorm(a, b, mean, std), found(*case)
    mass = stats.norm.logsf(a) if high == math.inf else stats.norm.logcdf(b)
    if math.isfinite(high) and math.isfinite(low):
        a, b = (-b, -a) if a + b < 0 else (a, b)
        mass = stats.norm.logsf(a) + math.log1p(-stats.norm.sf(b) / stats.norm.sf(a))
    assert float(cut.log_mass) == pytest.approx(mass, rel=1e-9)
    assert float(cut.mean) == pytest.approx(expected.mean(), abs=1e-10)
    if math.isfinite(low):
        assert float(cut.density_low) == pytest.approx(expected.pdf(low), rel=1e-9)
    if math.isfinite(high):
        assert float(cut.density_high) == pytest.approx(expected.pdf(high), rel=1e-9)
    start = low if math.isfinite(low) else high - 12 * std
    stop = high if math.isfinite(high) else max(low, mean) + 12 * std
    stop = min(stop, start + 40 * std / a) if a > 8 else stop
    center = float(cut.mean)
    second = integrate.quad(lambda x: (x - center) ** 2 * expected.pdf(x), start, stop, points=[center], epsabs=1e-16)[
        0
    ]
    assert float(cut.variance) == pytest.approx(second, rel=1e-6)


def test_broadcasts_and_stays_inside():
    """Arguments broadcast; mean and variance stay within what the interval allows, out to 1,000 deviations."""
    mean = torch.from_numpy(np.linspace(-1000, 1000, 401))
    cut = truncated_normal(mean, torch.ones((), dtype=torch.float64), torch.zeros(()), torch.full((3, 1), 2.0))
    assert cut.mean.shape == cut.variance.shape == cut.log_mass.shape == (3, 401)
    assert ((cut.mean >= 0) & (cut.mean <= 2) & (cut.variance >= 0) & (cut.variance <= 1 / 3 + 1e-12)).all()
    assert (cut.mean.diff(dim=1) >= -1e-12).all()
    assert torch.isfinite(cut.log_mass).all()
