"""The lead of candidates over controls, against every ranking of small urns and against simulation."""

import itertools
import math

import numpy as np
import pytest

from memgen.base import noise
from memgen.measures.copies.lead import fewest, lead, probability, standings


def test_standings_by_hand():
    """Equal scores count together, and the largest comes first."""
    score, candidate = np.array([3.0, 1.0, 3.0, 2.0]), np.array([True, True, False, True])
    thresholds, candidates, controls = standings(score, candidate)
    assert thresholds.tolist() == [3, 2, 1]
    assert candidates.tolist() == [1, 2, 3]
    assert controls.tolist() == [1, 1, 1]
    assert lead(score, candidate) == 3 / 2


def test_a_lead_needs_scores_above_0():
    """Candidates that are not above 0 never lead, however many there are."""
    assert lead(np.array([0.0, -1.0]), np.array([True, True])) == 0
    assert lead(np.array([0.5, 0.0]), np.array([True, True])) == 1
    assert lead(np.empty(0), np.empty(0, dtype=bool)) == 0


@pytest.mark.parametrize(
    ("n_candidates", "n_controls", "drawn"), [(3, 4, 7), (4, 3, 7), (4, 5, 5), (2, 7, 4), (5, 1, 6)]
)
def test_the_probability_of_a_lead_is_that_of_every_ranking(n_candidates, n_controls, drawn):
    """All orders of the urn are listed, and every lead that occurs has the share of orders that reach it."""
    n = n_candidates + n_controls
    score = -np.arange(drawn, dtype=np.float64) + n
    leads = [
        lead(score, np.isin(np.arange(n), chosen)[:drawn]) for chosen in itertools.combinations(range(n), n_candidates)
    ]
    assert len(leads) == math.comb(n, n_candidates)
    for length in {0.4, 0.5, 1.0, 1.5, *leads}:
        share = np.mean(np.array(leads) >= length)
        assert probability(length, n_candidates, n_controls, drawn) == pytest.approx(share)
    assert probability(0, n_candidates, n_controls, drawn) == 1


def test_the_probability_of_a_lead_in_a_large_urn():
    """With many entries it is the share of random rankings, within three standard errors."""
    generator, draws = noise.stream("lead", 0), 4000
    score = np.arange(1100, 0, -1, dtype=np.float64)
    found = []
    for _ in range(draws):
        candidate = np.zeros(1100, dtype=bool)
        candidate[generator.choice(1100, 100, replace=False)] = True
        found.append(lead(score, candidate))
    for length in (0.3, 0.5, 1.0, 2.0):
        share = np.mean(np.array(found) >= length)
        assert probability(length, 100, 1000) == pytest.approx(share, abs=3 * math.sqrt(share / draws))
    assert probability(1.0, 3000, 60_000) < probability(0.5, 3000, 60_000) < 1  # neither overflows


def test_fewest_candidates():
    """One more than the largest number that is too probable, and never fewer than the rate q needs."""
    found = fewest(1, 0.001, 128, 1024)
    assert probability(found, 128, 1024) <= 0.001 < probability(found - 1, 128, 1024)
    for level in (0.2, 0.05, 0.01, 0.001, 1e-4, 1e-6):
        first = next(k for k in range(1, 129) if probability(k, 128, 1024) <= level)
        assert fewest(0, level, 128, 1024) == first
    assert fewest(2 * (1 + 1e-14), 0.5, 128, 1024) == 2  # a ratio that rounding has raised
    assert fewest(5.2, 0.001, 128, 1024) == 6
    assert fewest(1, 0.001, 1, 9) is None
    assert fewest(3, 0.5, 2, 9) is None
    assert fewest(1, 0.001, 5000, 5000, drawn=3) is None
