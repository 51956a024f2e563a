"""The lead of candidates over controls, against every ranking of small urns and against simulation."""

import itertools
import math

import numpy as np
import pytest

from memgen.base import noise
from memgen.measures.copies.lead import Reach, fewest, lead, probability, reach, standings


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


def test_how_far_copies_reach_by_hand():
    """The threshold is where copies lead most."""
    assert reach(np.array([3.0, 3, 3, 3]), np.array([2.0, 1])) == Reach(1, 0, 0)
    # All four lie above 1 with two controls, three above 2 with one, two above 3 with none.
    assert reach(np.array([1.0, 2, 3, 3]), np.array([2.0, 1])) == Reach(0.5, 0, 0)
    # Leads of .75 / 4 and .5 / 3.
    assert reach(np.array([1.0, 3, 3, -5]), np.array([1.0, 4, 4]), 0.25) == Reach(0.75, 3, 0.25)
    assert reach(np.array([0.0, -1]), np.array([1.0])) == Reach(0, 0, 0)


@pytest.mark.parametrize("controls", [0, 3, 9])
@pytest.mark.parametrize("least", [0.2, 4.0])
def test_the_fewest_copies_by_trying_each_number(controls, least):
    """With so many copies the lead is long enough and improbable, and with one less it is not."""
    found = fewest(least, 0.01, 200, 400, reached=Reach(0.8, controls))
    for count, expected in ((found, True), (found - 1, False)):
        score = np.full(count + controls, 2.0)
        length = lead(score, np.arange(len(score)) < count)
        assert (length >= least and probability(length, 200, 400) <= 0.01) == expected


def test_copies_at_held_out_images_count_against():
    """As many copies as are said to be enough lead by so much in at least 95 % of the draws, or nearly."""
    reached = Reach(0.9, 2, 0.02)
    found = fewest(6.0, 0.5, 500, 400, reached=reached)
    opposed = noise.stream("against", 0).binomial(round(found / reached.share), reached.against, 10_000)
    assert np.mean(found / (1 + reached.controls + opposed) >= 6.0) >= 0.94
    assert found > fewest(6.0, 0.5, 500, 400, reached=Reach(0.9, 2))


def test_no_number_of_copies_is_enough():
    """Where copies never count, or too many count against, none is found."""
    assert fewest(1.0, 0.01, 200, 400, reached=Reach(0, 0, 0)) is None
    assert fewest(10.0, 0.01, 200, 400, reached=Reach(0.9, 0, 0.1)) is None
