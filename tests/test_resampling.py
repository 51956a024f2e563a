"""Bootstrap draws against plain resampling: a value counts as often as its units and its training seed were drawn."""

import numpy as np
import pytest

from memgen.base import noise
from memgen.base.estimates import Estimate
from memgen.findings.resampling import Resampling, percentile_interval

UNITS = np.array([3, 5, 8, 9])


def plan(resamples=40, seeds=(-1,), samples=UNITS):
    return Resampling(7, resamples, np.asarray(samples), np.array(seeds))


def counts(plan, what, units):
    """How often each unit was drawn in each resample, seen through the sums of single values."""
    columns = []
    for unit in range(units):
        found = plan.observe(what, np.arange(units), np.ones(1), [np.array([unit])], None)
        ((multiplicities, where),) = found.factors
        columns.append(multiplicities[:, where[0]])
    return np.stack(columns, axis=1)


def test_multiplicities_are_draws_with_replacement():
    """The data are the first row; every resample draws as many units as there are, and most leave one out."""
    drawn = counts(plan(), "sample", 4)
    assert drawn.shape == (41, 4)
    assert drawn[0].tolist() == [1, 1, 1, 1]
    assert (drawn.sum(axis=1) == 4).all()
    assert (drawn[1:] == 0).any(axis=1).mean() > 0.5
    assert len({tuple(row) for row in drawn[1:].tolist()}) > 10


def test_draws_depend_on_seed_name_and_number():
    """Equal names and numbers of units share their draws; another name, number or seed has others."""
    first = counts(plan(), "sample", 4)
    assert (counts(plan(), "sample", 4) == first).all()
    assert (counts(plan(), "image", 4) != first).any()
    assert (counts(Resampling(8, 40, UNITS, np.array([-1])), "sample", 4) != first).any()
    assert counts(plan(), "sample", 5).shape == (41, 5)


def test_draws_are_those_of_their_noise_stream():
    """The stream of a name and a seed gives the units of one resample after another; intervals rest on it."""
    stream = noise.stream("bootstrap sample", 7)
    expected = [np.bincount(stream.integers(4, size=4), minlength=4) for _ in range(40)]
    assert (counts(plan(), "sample", 4)[1:] == expected).all()


@pytest.mark.parametrize("crossed", [0, 2, 3])
def test_means_and_medians_are_those_of_repeated_values(crossed):
    """With any number of seeds, each draw is numpy's statistic of the values, repeated as often as their factors multiply to; ties included."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, 11).astype(float)
    units, others = UNITS[rng.integers(0, 4, 11)], UNITS[rng.integers(0, 4, 11)]
    names = np.arange(10, 10 + max(1, crossed))
    seeds = names[rng.integers(0, crossed, 11)] if crossed else None
    made = plan(seeds=names)
    found = made.observe("sample", UNITS, values, [units, others] if crossed else [units], seeds)
    drawn = counts(made, "sample", 4)
    of_seeds = counts(made, "training seed", len(names))
    position = np.searchsorted(UNITS, units)
    means, medians = found.means(), found.medians()
    assert len(means) == len(medians) == 41
    for r in range(41):
        times = drawn[r, position]
        if crossed:
            times = times * drawn[r, np.searchsorted(UNITS, others)] * of_seeds[r, seeds - 10]
        repeated = np.repeat(values, times)
        if len(repeated):
            assert means[r] == pytest.approx(repeated.mean())
            assert medians[r] == np.median(repeated)
        else:
            assert np.isnan([means[r], medians[r]]).all()
    assert (found.units, found.what, found.seeds) == (len(set(units)), "sample", crossed or 1)


def test_an_even_number_has_the_mean_of_the_middle_two():
    """In any order of the values."""
    found = plan().observe("sample", UNITS, np.array([9.0, 1.0, 4.0, 2.0]), [UNITS], None)
    assert (found.medians()[0], found.means()[0]) == (3.0, 4.0)
    one = plan().observe("sample", UNITS, np.array([9.0]), [UNITS[:1]], None)
    assert one.medians()[0] == one.means()[0] == 9.0


def test_undefined_values_are_left_out():
    """They count neither in the statistic nor as units, and are told of."""
    values = np.array([np.nan, 1.0, 5.0, np.nan])
    found = plan(seeds=(0, 1)).observe("sample", UNITS, values, [UNITS], np.array([0, 0, 1, 1]))
    assert (found.means()[0], found.medians()[0], found.units, found.seeds) == (3.0, 3.0, 2, 2)
    assert found.undefined == "2 of 4 values are undefined and left out."
    one = plan().observe("sample", UNITS, np.array([np.nan, 1, 2, 3]), [UNITS], None)
    assert one.undefined == "1 of 4 values are undefined and left out."
    assert plan().observe("sample", UNITS, np.ones(4), [UNITS], None).undefined == ""


def test_no_values_at_all():
    """Every draw is undefined, without a unit."""
    empty = np.empty(0)
    for population in (UNITS, empty):
        found = plan().observe("sample", population, empty, [empty], None)
        assert np.isnan(found.means()).all()
        assert np.isnan(found.medians()).all()
        assert (found.units, found.undefined) == (0, "")


def test_many_values_take_several_steps():
    """Working through the draws in pieces changes nothing."""
    rng = np.random.default_rng(1)
    values, units = rng.normal(size=100_001), rng.integers(0, 50, 100_001)
    made = plan(60, samples=np.arange(50))
    found = made.observe("sample", np.arange(50), values, [units], None)
    drawn = counts(made, "sample", 50)
    means = found.means()
    for r in (0, 1, 38, 39, 40, 59, 60):
        assert means[r] == pytest.approx(np.average(values, weights=drawn[r, units]), abs=1e-12)


def test_percentile_intervals():
    """Entry 0 is the estimate; ends are draws; undefined draws are left out; an infinite end is not known."""
    draws = np.concatenate([[7.0], np.arange(1000.0)])
    assert percentile_interval(draws, 5) == Estimate.of(7.0, 24.0, 974.0, 5)
    some = np.concatenate([draws, [np.nan] * 100])
    assert percentile_interval(some, 5) == Estimate.of(7.0, 24.0, 974.0, 5)
    assert percentile_interval(draws, 2).low == 24.0
    assert percentile_interval(draws, 5, 0.9) == Estimate.of(7.0, 49.0, 949.0, 5)
    assert percentile_interval(draws, 1) == Estimate.of(7.0, n=1)
    assert percentile_interval(np.array([7.0, np.nan]), 5) == Estimate.of(7.0, n=5)
    assert percentile_interval(np.concatenate([[np.nan], draws]), 5) == Estimate.of(None, n=5)
    censored = np.concatenate([draws, [np.inf] * 100])
    assert percentile_interval(censored, 5) == Estimate.of(7.0, 27.0, None, 5)
    below = np.concatenate([draws, [-np.inf] * 100])
    assert (percentile_interval(below, 5).low, percentile_interval(below, 5).high) == (None, 972.0)
