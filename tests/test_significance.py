"""Significance: small cases by hand, the laws of its null, and copies that were planted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from memgen.base.errors import DataError, ShapeError
from memgen.findings.copies import judge
from memgen.images.imageset import ImageSet
from memgen.measures.copies import examiner
from memgen.measures.copies.competition import DEFINITION, compete, depth, memorized_fraction
from memgen.measures.copies.conformal import benjamini_hochberg, conformal, conformal_resolution
from memgen.measures.copies.pool import pool
from memgen.measures.subject import GivenSubject, Identity, Samples

DIMENSIONS, SAMPLES = 8, 200


def search(samples, representatives, k=10):
    """Nearest representative (m,), distances to the k nearest, and between the first and the others; length 1 all."""
    samples, representatives = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (samples, representatives))
    squared = ((samples**2).sum(1)[:, None] + (representatives**2).sum(1) - 2 * samples @ representatives.T).clip(0)
    # Sorting all distances would take most of the time of these tests.
    near = np.sort(np.argpartition(squared, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(np.take_along_axis(squared, near, axis=1), axis=1, kind="stable")
    nearest = np.take_along_axis(near, order, axis=1)
    distances = np.sqrt(np.take_along_axis(squared, nearest, axis=1))
    apart = np.linalg.norm(representatives[nearest[:, 1:]] - representatives[nearest[:, :1]], axis=2)
    return nearest[:, 0], distances, apart


def experiment(generator, n_t, n_h, copies=0.0, eps=0.0, width=1.0, ambient=DIMENSIONS):
    """A Gaussian of 8 dimensions in `ambient` ones: T then H, and samples of which a share are noisy copies of T."""
    representatives = np.pad(generator.normal(size=(n_t + n_h, DIMENSIONS)), ((0, 0), (0, ambient - DIMENSIONS)))
    samples = np.pad(generator.normal(size=(SAMPLES, DIMENSIONS)), ((0, 0), (0, ambient - DIMENSIONS)))
    samples[:, : DIMENSIONS // 2] *= width
    k = int(copies * SAMPLES)
    samples[:k] = representatives[generator.choice(n_t, k, replace=False)]
    samples[:k] += eps * generator.normal(size=(k, ambient))
    return search(samples, representatives), np.arange(n_t + n_h) < n_t


# ------------------------------------------------------------------------------------------------- competition


def test_depth_by_hand():
    """At x1: 1; on a face of the cell: 0; at half the tangent of x2: 1/2; the shallowest neighbor counts.

    And noise at right angles to all representatives changes nothing.
    """
    representatives = np.eye(4)[:3]
    samples = np.array([[1.0, 0, 0, 0], [1, 1, 0, 0], [1, 0.5, 0, 0], [1, 0.5, 0.75, 0], [1, 0.5, 0.75, 30]])
    _, distances, apart = search(samples, representatives, k=3)
    assert depth(distances, apart) == pytest.approx([1, 0, 0.5, 0.25, 0.25])


def test_depth_at_a_right_angle_is_zero():
    """A sample that no representative is like lies in no cell, whatever the rounding."""
    _, distances, apart = search(np.array([[0.0, 0, 1], [-3, -1, 0]]), np.eye(3)[:2], k=2)
    assert depth(distances, apart).tolist() == [0, 0]


def test_depth_of_equal_representatives_is_zero():
    """Two representatives at one point: a sample there is at neither."""
    _, distances, apart = search(np.ones((1, 2)), np.ones((2, 2)), k=2)
    assert depth(distances, apart) == [0]


@pytest.mark.parametrize(
    ("distances", "apart", "error"),
    [
        ([[1.0]], [[]], ShapeError),
        ([[1.0, 2.0]], [[1.0, 1.0]], ShapeError),
        ([[2.0, 1.0]], [[1.0]], DataError),
        ([[np.nan, 1.0]], [[1.0]], DataError),
        ([[1.0, 2.0]], [[-1.0]], DataError),
        ([[1.0, 3.0]], [[1.0]], DataError),
    ],
)
def test_depth_refuses(distances, apart, error):
    """Distances that are not distances, or not sorted, are errors."""
    with pytest.raises(error, match="depth"):
        depth(np.array(distances), np.array(apart))


def test_competition_by_hand():
    """Of 5 T and 5 H at q = 1/2: the threshold, the discoveries, the attached sample and k_min = 2."""
    in_train = np.arange(10) < 5
    nearest = np.array([0, 0, 1, 2, 3, 5, 4, 6])
    magnitude = np.array([9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0])
    # Signs of the competitors from the top: ++++-+-; (1 + decoys) / targets: 1 1/2 1/3 1/4 2/4 2/5 3/5.
    found = compete(nearest, magnitude, in_train, q=0.5)
    assert found.score.tolist() == [9, 8, 7, 6, 5, -4, 3, -2]
    assert found.competes.tolist() == [True, False] + [True] * 6
    assert (found.threshold, found.k_min, found.n_competing, found.n_attached) == (3, 2, 7, 1)
    assert np.flatnonzero(found.discovered).tolist() == [0, 2, 3, 4, 6]
    assert found.answer == "found"
    assert compete(nearest, magnitude, in_train, q=0.3).threshold == 5
    assert compete(nearest, magnitude, in_train, q=0.21).answer == "none"  # k_min = 5 could be reached, 4 are clear
    assert compete(nearest, magnitude, in_train, q=0.19).answer == "cannot decide"  # k_min = 6, and T has 5
    assert compete(nearest[::-1], magnitude[::-1], in_train, q=0.5).score.tolist() == found.score[::-1].tolist()


def test_equal_magnitudes_stand_or_fall_together():
    """A target and a decoy of one magnitude count both, in whatever order they come."""
    in_train = np.array([True, True, False, False])
    for order in ([0, 1, 2], [2, 0, 1], [0, 2, 1]):
        found = compete(np.array([0, 1, 2])[order], np.array([2.0, 1.0, 1.0])[order], in_train, q=0.99)
        assert found.answer == "none"
    assert compete(np.array([0, 1]), np.array([1.0, 1.0]), in_train, q=0.5).discovered.all()


def test_resolution():
    """8,000 : 1,000 at q = 5 % needs 160 clusters: 159 samples cannot decide, 160 find."""
    in_train = np.arange(9000) < 8000
    for count, answer in ((159, "cannot decide"), (160, "found")):
        found = compete(np.arange(count), np.ones(count), in_train)
        assert (found.answer, found.k_min) == (answer, 160)
    assert compete(np.arange(7900, 8100), np.arange(200, 0, -1.0), in_train).answer == "none"
    assert compete(np.zeros(500, dtype=int), np.ones(500), in_train).answer == "cannot decide"  # one image by all


@pytest.mark.parametrize(
    ("nearest", "magnitude", "in_train", "q", "error"),
    [
        ([0], [1.0], [True, True], 0.05, DataError),
        ([2], [1.0], [True, False], 0.05, DataError),
        ([0], [-1.0], [True, False], 0.05, DataError),
        ([0], [np.nan], [True, False], 0.05, DataError),
        ([0], [1.0], [True, False], 1.0, DataError),
        ([0, 1], [1.0], [True, False], 0.05, ShapeError),
    ],
)
def test_competition_refuses(nearest, magnitude, in_train, q, error):
    """No decoys, a number outside the pool, an impossible magnitude or rate are errors."""
    with pytest.raises(error):
        compete(np.array(nearest), np.array(magnitude), np.array(in_train), q)


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_magnitudes_know_no_labels(seed):
    """Relabeling the pool changes neither |W| nor who competes: only signs."""
    generator = np.random.default_rng(seed)
    nearest, magnitude = generator.integers(30, size=50), generator.exponential(size=50)
    labels = np.arange(30) < 20
    one, other = (compete(nearest, magnitude, x) for x in (labels, generator.permutation(labels)))
    assert np.array_equal(np.abs(one.score), np.abs(other.score))
    assert np.array_equal(one.competes, other.competes)
    assert len(np.unique(nearest[one.competes])) == one.competes.sum() == len(np.unique(nearest))


@pytest.mark.parametrize(
    ("n_t", "n_h", "width"),
    [
        (300, 300, 1.0),
        (800, 200, 1.5),
        pytest.param(800, 200, 1.0, marks=pytest.mark.slow),
        pytest.param(800, 100, 1.0, marks=pytest.mark.slow),
    ],
)
def test_size_of_the_null(n_t, n_h, width):
    """Samples that know no labels, too broad ones too: a discovery in at most 5 % of 200 repeats plus 3 errors.

    And the permutation test: P(p <= alpha) <= alpha + 3 errors at .01, .05 and .1.
    """
    discoveries, p = [], []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        (nearest, distances, apart), labels = experiment(generator, n_t, n_h, width=width)
        discoveries.append(compete(nearest, depth(distances, apart), labels).discovered.any())
        p.append(memorized_fraction(nearest, labels, seed=seed, permutations=199).p)
    assert np.mean(discoveries) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)
    for alpha in (0.01, 0.05, 0.1):
        assert np.mean(np.array(p) <= alpha) <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / 200)


def test_planted_copies_are_found_at_the_promised_rate():
    """30 % copies with noise in 200 dimensions: the mean false share is at most q = 10 % plus 3 errors; 85 % are found.

    By d2/d1, which the noise drives to 1, few are.
    """
    false, power, by_ratio = [], [], []
    planted = np.arange(SAMPLES) < 0.3 * SAMPLES
    for seed in range(40):
        generator = np.random.default_rng(seed)
        (nearest, distances, apart), labels = experiment(generator, 400, 400, copies=0.3, eps=0.2, ambient=200)
        found = compete(nearest, depth(distances, apart), labels, q=0.1).discovered
        ratio = compete(nearest, np.log(distances[:, 1] / distances[:, 0]), labels, q=0.1).discovered
        false.append((found & ~planted).sum() / max(1, found.sum()))
        power.append((found & planted).sum() / planted.sum())
        by_ratio.append((ratio & planted).sum() / planted.sum())
    assert np.mean(false) <= 0.1 + 3 * np.std(false) / np.sqrt(40)
    assert np.mean(power) > 0.85
    assert np.mean(by_ratio) < 0.3


# ------------------------------------------------------------------------------------------------- fraction


def test_fraction_by_hand():
    """6 of 8 samples in T at c = 1/2: rho = 1/2; the permutation p-value is the hypergeometric tail."""
    in_train = np.arange(20) < 10
    found = memorized_fraction(np.array([0, 1, 2, 3, 4, 5, 10, 11]), in_train, seed=0, permutations=100_000)
    assert found.estimate == pytest.approx(0.5)
    assert (found.chance, found.n_samples, found.n_nearest) == (0.5, 8, 8)
    assert found.p == pytest.approx(stats.hypergeom(20, 10, 8).sf(5), abs=4 * 0.0013)
    assert found == memorized_fraction(np.array([0, 1, 2, 3, 4, 5, 10, 11]), in_train, seed=0, permutations=100_000)


def test_fraction_without_hits_and_with_all():
    """None of 50 in T, all of 50: the ends of the scale are reached exactly, and the intervals have a width."""
    in_train = np.arange(200) < 100
    none = memorized_fraction(np.arange(100, 150), in_train, seed=0)
    assert (none.estimate, none.low) == (-1, -1)
    assert -0.9 < none.high < -0.8
    assert none.p == 1
    every = memorized_fraction(np.arange(50), in_train, seed=0, permutations=999)
    assert (every.estimate, every.high, every.p) == (1, 1, 0.001)
    assert 0.8 < every.low < 0.9
    assert memorized_fraction(np.arange(0), in_train, seed=0).estimate is None


def test_one_image_copied_by_all_is_one_observation():
    """1,000 samples on one training image are chance in half of all labelings: p near 1/2, an interval with 0."""
    found = memorized_fraction(np.zeros(1000, dtype=int), np.arange(20) < 10, seed=0)
    assert (found.estimate, found.high, found.n_nearest) == (1, 1, 1)
    assert found.p == pytest.approx(0.5, abs=0.02)
    assert found.low < 0


# ------------------------------------------------------------------------------------------------- pool


def ids(features):
    return [row.tobytes().hex() for row in features]


def test_duplicates_within_t_count_once():
    """Copies of T in T change neither c nor the answer, in whatever order T comes."""
    generator = np.random.default_rng(0)
    t, h = generator.normal(size=(60, DIMENSIONS)), generator.normal(size=(60, DIMENSIONS))
    twice = np.concatenate([t, t + 1e-4 * generator.normal(size=t.shape), t[:10]])
    plain, doubled = pool(np.concatenate([t, h]), ids(t), ids(h)), pool(np.concatenate([twice, h]), ids(twice), ids(h))
    assert plain.chance == doubled.chance == 0.5
    assert doubled.n_mixed == plain.n_mixed == 0
    assert len(doubled.ids) == len(plain.ids) == 120
    assert np.array_equal(doubled.cluster[:60], doubled.cluster[60:120])
    assert np.array_equal(doubled.representatives[doubled.cluster[doubled.representatives]], doubled.representatives)
    for made, rows in ((plain, t), (doubled, twice)):
        nearest, distances, apart = search(t, np.concatenate([rows, h])[made.representatives])
        assert compete(nearest, depth(distances, apart), made.in_train).discovered.sum() == 60
    shuffled = generator.permutation(len(twice))
    assert pool(np.concatenate([twice[shuffled], h]), ids(twice[shuffled]), ids(h)).ids == doubled.ids


def test_clusters_know_no_labels():
    """Moving images between T and H changes labels alone; exact copies across are leaks, and T has no priority."""
    generator = np.random.default_rng(0)
    base = generator.normal(size=(200, DIMENSIONS))
    rows = np.concatenate([base, base])  # every image twice, the second copies all in H
    made = pool(rows, ids(rows[:200]), ids(rows[200:]))
    assert made.n_mixed == len(made.ids) == 200
    assert 70 <= made.in_train.sum() <= 130  # of 200 fair coins: within 4.2 standard errors
    swapped = pool(rows, ids(rows[:50]), ids(rows[50:]))
    assert swapped.ids == made.ids
    assert np.array_equal(swapped.cluster, made.cluster)


def test_pool_refuses():
    """Nothing held out, or ids that do not fit, is an error."""
    with pytest.raises(DataError, match="held-out"):
        pool(np.eye(3), ["a", "b", "c"], [])
    with pytest.raises(DataError, match="ids"):
        pool(np.eye(6)[:, :3], ["a"], ["b", "c", "d"])


# ------------------------------------------------------------------------------------------------- conformal


def test_conformal_by_hand():
    """Ranks among the held-out scores, ties counted against the sample."""
    p = conformal(np.array([5.0, 3.0, 0.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert p == pytest.approx([0.2, 0.6, 1.0, 0.4])
    assert conformal(np.zeros(2), np.zeros(9)).tolist() == [1, 1]
    for bad in ((np.zeros(1), np.zeros(0)), (np.array([np.nan]), np.zeros(1))):
        with pytest.raises(DataError, match="conformal"):
            conformal(*bad)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_benjamini_hochberg_agrees_with_scipy(values):
    """The adjusted p-values are scipy's."""
    p = np.array(values)
    adjusted, found = benjamini_hochberg(p, q=0.1)
    assert adjusted == pytest.approx(stats.false_discovery_control(p))
    assert np.array_equal(found, adjusted <= 0.1 * (1 + 1e-12))


def test_conformal_resolution():
    """1,000 samples against 999 held-out images at 5 %: 19 perfect copies are not found, 20 are; so it is printed."""
    held_out = np.arange(999.0)
    assert conformal_resolution(1000, 999) == 20
    for copies, found in ((19, 0), (20, 20)):
        scores = np.where(np.arange(1000) < copies, 2000.0, -1.0)
        assert benjamini_hochberg(conformal(scores, held_out))[1].sum() == found


# ------------------------------------------------------------------------------------------------- tables


def test_tables_say_what_they_hold():
    """A row a sample with its nearest representative, and a row of counts that are those of the samples."""
    images = np.random.default_rng(0).random((60, 1, 6, 6), dtype=np.float32)
    train, held_out, others = (ImageSet.from_pixels(images[a:b]) for a, b in ((0, 20), (20, 50), (50, 60)))
    drawn = np.concatenate([train.pixels[[3, 3, 4]], others.pixels])
    samples = Samples(drawn, np.arange(7, 20))
    identity = Identity("n4-s0-a", "cell", 4, "a", 0)
    rows, (summary,) = (
        table.to_pylist() for table in examiner.find_copies(GivenSubject(identity, samples, None, train, held_out))
    )
    assert [row["sample"] for row in rows] == list(range(7, 20))
    assert [(row["train_id"], row["nearest_id"], row["nearest_in"]) for row in rows[:3]] == [
        (train.ids[i], train.ids[i], "T") for i in (3, 3, 4)
    ]
    assert [row["W"] for row in rows[:3]] == pytest.approx([1, 1, 1], abs=1e-5)
    assert [row["correlation"] for row in rows[:3]] == pytest.approx([1, 1, 1])
    assert [row["p"] for row in rows[:3]] == pytest.approx([1 / 31] * 3)
    assert all((row["p"] == 1) == (row["W"] <= 0) or row["W"] > 0 for row in rows)
    assert {row["definition"] for row in rows} == {DEFINITION}
    assert {row["subject"] for row in rows} == {"n4-s0-a"}
    flagged = [row for row in rows if row["flagged"]]
    assert summary["flagged"] == len(flagged)
    assert summary["flagged_images"] == len({row["cluster"] for row in flagged})
    assert summary["most_shared"] == (2 if flagged else 0)
    assert (summary["samples"], summary["judged_by"], summary["n_pool_train"]) == (13, 30, 20)
    assert summary["closest"] == pytest.approx(1)
    assert summary["discoveries"] == sum(row["discovered"] for row in rows)
    assert summary["conformal_k_min"] == conformal_resolution(13, 30)


def images_with_leaks(leaks):
    """400 training images and 300 held-out ones, of which the first are equal to training images; and 200 others."""
    pixels = np.random.default_rng(1).random((900, 1, 6, 6), dtype=np.float32)
    pixels[400 : 400 + leaks] = pixels[:leaks]
    return ImageSet.from_pixels(pixels[:400]), ImageSet.from_pixels(pixels[400:700]), pixels[700:]


@pytest.mark.parametrize(("leaks", "samples", "share"), [(0, 14, 0.10), (1, 27, 0.18), (4, 68, 0.27)])
def test_what_would_have_been_found_is_found(leaks, samples, share):
    """So many planted copies as are said to be needed are flagged, and two thirds of them are not.

    Held-out images that equal training images lie as deep as copies of these do, so more copies are needed. A rule that
    takes copies to lie above all held-out images would say 14 each time.
    """
    train, held_out, drawn = images_with_leaks(leaks)
    rng, identity = np.random.default_rng(2), Identity("theirs", "imported", 400)

    def tested(count):
        planted = np.concatenate([train.pixels[rng.choice(400, count, replace=False)], drawn[count:]])
        given = GivenSubject(identity, Samples(planted, np.arange(200)), None, train, held_out)
        copies = examiner.find_copies(given)[1]
        return judge(copies)["theirs"], copies.to_pylist()[0]

    nothing, row = tested(0)
    assert (row["conformal_as_deep"], row["exact_copies"]) == (leaks, 256)
    assert row["conformal_reach"] == pytest.approx(1, abs=0.05)
    assert (row["competition_against"] > 0) == (leaks > 1)  # of one leak, it is the training image that represents it
    said = nothing.sentences[-1]
    assert f"or {samples} samples for the tests" in said
    assert ("as deep in the neighborhood of a training image as exact copies" in said) == (leaks > 0)
    assert nothing.unseen == pytest.approx(share, abs=0.01)
    assert sum(tested(samples)[0].conformal for _ in range(5)) >= 4
    assert not any(tested(samples * 2 // 3)[0].conformal for _ in range(5))
    found = [tested(round(nothing.unseen * 200))[0] for _ in range(5)]
    assert sum(each.competition or each.conformal for each in found) >= 4


def test_nothing_is_found_where_nothing_is_discovered():
    """One training image beside 10,000 held-out ones: samples that lie near held-out images alone find nothing."""
    in_train = np.arange(10_001) == 0
    found = compete(np.arange(1, 6), np.linspace(0.1, 0.5, 5), in_train)
    assert not found.discovered.any()
    assert (found.answer, found.threshold) == ("none", None)
