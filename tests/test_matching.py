"""Spaces of an audit: alignment finds known changes, groups compete as one, and labels decide signs alone."""

import math

import numpy as np
import pytest
import torch

from memgen.base.errors import DataError
from memgen.images.imageset import ImageSet
from memgen.images.importing import ImportSettings, import_images
from memgen.measures.copies.alignment import AlignedPool, Fit, warped
from memgen.measures.copies.examiner import Examiner, judge
from memgen.measures.copies.matching import EVERY, Candidates, LeftOut, SpaceMatcher, build
from memgen.measures.copies.planting import planted
from memgen.measures.copies.pool import pool
from memgen.measures.copies.sight import Sight
from memgen.spaces import find


@pytest.fixture(scope="module")
def images():
    """1,200 embedded images at 28x28."""
    return import_images(None, ImportSettings(limit=1200, deduplicate=False)).images


def grouped(images, groups):
    return ImageSet(images.pixels, images.ids, images.sources, images.recipe, tuple(groups))


def known_change(**values):
    change = torch.zeros(1, 6)
    for name, value in values.items():
        change[0, getattr(Fit, name)] = value
    return change


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"SHIFT_X": 2 / 28, "SHIFT_Y": -1 / 28},
        {"ANGLE": math.radians(12)},
        {"LOG_ZOOM": math.log(1.15)},
        {"MIRRORED": 1},
        {"MIRRORED": 1, "SHIFT_X": 1 / 28, "ANGLE": math.radians(-6)},
        {"NEGATIVE": 1, "LOG_ZOOM": math.log(0.9)},
    ],
)
def test_alignment_finds_the_image_and_undoes_the_change(images, changed):
    """Samples changed in a known way: the right images are nearest, and the change found is the inverse.

    A mirrored sample must be mirrored back first, which turns the sign of a shift to the right and of an angle.
    """
    pool_images = images.floats(slice(300))
    samples = warped(pool_images[:20], known_change(**changed).expand(20, 6))
    samples = 1 - samples if changed.get("NEGATIVE") else samples
    near, value, depth, fit = AlignedPool(pool_images.numpy(), np.arange(300)).search(samples)
    right = near[:, 0] == np.arange(20)
    assert right.mean() >= 0.9
    assert np.median(value[right, 0]) > 0.99
    assert np.median(depth) > 0.3
    found = np.median(fit[right], axis=0)
    mirror = -1 if changed.get("MIRRORED") else 1
    assert found[Fit.MIRRORED] == changed.get("MIRRORED", 0)
    assert found[Fit.NEGATIVE] == changed.get("NEGATIVE", 0)
    assert found[Fit.ANGLE] == pytest.approx(-mirror * changed.get("ANGLE", 0), abs=math.radians(1.5))
    assert found[Fit.LOG_ZOOM] == pytest.approx(-changed.get("LOG_ZOOM", 0), abs=0.02)
    assert found[Fit.SHIFT_Y] == pytest.approx(-changed.get("SHIFT_Y", 0), abs=0.012)


def test_a_sample_does_not_depend_on_its_company(images):
    """What alignment finds of a sample is the same whatever else is searched."""
    ap, samples = AlignedPool(images.pixels[:200], np.arange(200)), images.floats(slice(200, 230))
    whole = ap.search(samples)
    pieces = [ap.search(piece) for piece in samples.split([1, 9, 20])]
    for number, found in enumerate(whole):
        assert np.allclose(found, np.concatenate([piece[number] for piece in pieces]), atol=1e-4)


def test_what_is_left_out_is_not_found(images):
    """An image of the pool, searched without its unit, is nearest to another unit; one image may stay."""
    chosen = images.take(slice(60))
    unit = np.arange(60) // 3
    candidates = Candidates(chosen.pixels, chosen.ids, unit)
    for name in EVERY:
        for matcher in build(name, candidates):
            gone = matcher.match(chosen.floats(), LeftOut(unit, np.full(60, -1)))
            assert (unit[gone.candidates[:, 0]] != unit).all()
            kept = matcher.match(chosen.floats(), LeftOut(unit, np.arange(60)))
            assert (kept.candidates[:, 0] == np.arange(60)).all()


def test_depth_looks_at_other_units_alone(images):
    """Two images of one unit are no neighbors of each other: a sample between them is as deep as without one."""
    chosen = images.take(slice(40))
    twin = (chosen.floats([0]) + 0.15 * torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))).clamp(
        0, 1
    )
    doubled = ImageSet.from_pixels(torch.cat([chosen.floats(), twin]).numpy())
    copy = 0.6 * chosen.floats([0]) + 0.4 * twin
    correlation = find("correlation")
    alone = SpaceMatcher(Candidates(chosen.floats().numpy(), chosen.ids, np.arange(40)), correlation).match(copy)
    units = np.append(np.arange(40), 0)
    together = SpaceMatcher(Candidates(doubled.pixels, doubled.ids, units), correlation).match(copy)
    apart = SpaceMatcher(Candidates(doubled.pixels, doubled.ids, np.arange(41)), correlation).match(copy)
    assert together.depth[0] == pytest.approx(alone.depth[0], abs=1e-6)
    assert apart.depth[0] < alone.depth[0]


def test_labels_decide_signs_alone_in_every_space(images):
    """T and H exchanged: the same spaces, neighbors and magnitudes, and W of the other sign."""
    # What holds for each sample needs no power: 60 samples, a third of them copies, come from several spaces.
    t, h, samples = images.take(slice(0, 100)), images.take(slice(100, 200)), images.floats(slice(600, 640))
    samples = torch.cat([samples, t.floats(slice(20)).flip(3)])
    one, other = (Examiner(*sides, 0.99, names=EVERY).examine(samples, 0) for sides in ((t, h), (h, t)))
    assert len(set(one.chosen.matcher)) > 3
    assert np.array_equal(one.chosen.matcher, other.chosen.matcher)
    assert np.array_equal(one.nearest, other.nearest)
    assert np.array_equal(one.competition.score, -other.competition.score)


def test_mirrored_copies_are_found_in_all_spaces_and_not_in_pixels(images):
    """60 mirrored copies among 100 samples: the pixels see none, all spaces together nearly all, and say how.

    At q = 5 % and 1 : 1, 20 leading samples of T are the least that can be found, so 60 leave room for a few that are not.
    """
    t, h = images.take(slice(0, 120)), images.take(slice(120, 240))
    samples = torch.cat([t.floats(slice(60)).flip(3), images.floats(slice(800, 840))])
    pixels, every = Examiner(t, h, 0.99), Examiner(t, h, 0.99, names=EVERY)
    assert not pixels.examine(samples, 0).competition.discovered.any()
    found = every.examine(samples, 0)
    discovered = found.competition.discovered
    assert discovered[:60].mean() >= 0.9
    assert discovered[60:].sum() <= 8
    evidence = every.evidence(found)
    assert (evidence["space"][:60] == "aligned").mean() >= 0.9
    assert evidence["mirrored"][:60].mean() >= 0.9
    judged = judge(every.depths(found.sight), every.held_out_depths)
    assert judged.flagged[:60].mean() >= 0.9


def test_planted_copies_may_be_joined_to_samples_seen_before(images):
    """Samples seen apart, joined, are those seen together."""
    t, h = images.take(slice(0, 200)), images.take(slice(200, 400))
    examiner, samples = Examiner(t, h, 0.99, names=("pixels", "halves")), images.floats(slice(400, 460))
    copies = planted("left half", t.floats(slice(15)), samples[:15], np.random.default_rng(0))
    apart = Sight.joined([examiner.see(copies), examiner.see(samples).take(slice(15, None))])
    together = examiner.see(torch.cat([copies, samples[15:]]))
    one, other = (examiner.contest(sight, 0).competition for sight in (apart, together))
    assert np.array_equal(one.score, other.score)


def test_groups_compete_as_one(images):
    """40 copies of images of 4 groups: at most 4 units are found, each by its deepest sample."""
    t, h = images.take(slice(0, 200)), images.take(slice(200, 400))
    t, h = grouped(t, [f"a{i // 10}" for i in range(200)]), grouped(h, [f"b{i // 10}" for i in range(200)])
    examiner = Examiner(t, h, 0.99)
    assert examiner.pool.unit_in_train.sum() == (~examiner.pool.unit_in_train).sum() == 20
    samples = torch.cat([t.floats(slice(40)), images.floats(slice(400, 500))])
    found = examiner.examine(samples, 0, q=0.5)
    units = examiner.pool.unit[found.nearest[found.competition.competes]]
    assert len(set(units)) == len(units)
    assert found.competition.discovered[:40].sum() <= 4
    assert found.competition.k_min == 2
    assert len(examiner.held_out_depths) == 20  # one image of each group


def test_the_pool_numbers_units_without_labels():
    """Groups: c is of groups; a unit's label is that of its images; names of groups and sides do not change units."""
    rows = np.random.default_rng(0).normal(size=(12, 8))
    ids = [f"{i:02}" for i in range(12)]
    names = [f"g{i // 3}" for i in range(12)]
    one = pool(rows, ids[:9], ids[9:], groups_t=names[:9], groups_h=names[9:])
    other = pool(
        np.concatenate([rows[9:], rows[:9]]),
        ids[9:],
        ids[:9],
        groups_t=["z"] * 3,
        groups_h=[f"y{i // 3}" for i in range(9)],
    )
    assert one.chance == 0.75
    assert other.chance == 0.25
    assert one.ids == other.ids
    assert np.array_equal(one.unit, other.unit)
    assert np.array_equal(one.unit_in_train, ~other.unit_in_train)
    assert np.array_equal(one.unit_in_train[one.unit], one.in_train)
    with pytest.raises(DataError, match="g1"):
        pool(rows, ids[:5], ids[5:], groups_t=names[:5], groups_h=names[5:])
    with pytest.raises(DataError, match="have no groups"):
        pool(rows, ids[:6], ids[6:], groups_t=names[:6])


@pytest.mark.parametrize("names", [("pixels",), pytest.param(EVERY, marks=pytest.mark.slow)])
def test_patients_without_copies_are_not_found(images, names):
    """Correlated images of 40 patients divided by patient, no copies: with groups, nothing is found in 15 of 15 redraws.

    At q = 1/2 and 1 : 1, 2 leading patients of T would be a find; its probability is at most 1/2, + 3 errors.
    """
    rng = np.random.default_rng(5)
    found = []
    for repeat in range(15):
        bases = images.floats(rng.permutation(len(images))[:50])
        every = (bases.repeat_interleave(6, dim=0) + 0.1 * torch.randn(300, 1, 28, 28)).clamp(0, 1)
        sets = [ImageSet.from_pixels(every[rows].numpy()) for rows in (slice(0, 120), slice(120, 240))]
        t, h = (grouped(each, [f"{side}{i // 6}" for i in range(120)]) for side, each in zip("th", sets, strict=True))
        examiner = Examiner(t, h, 0.999, names=names)
        seen = examiner.examine(every[240:], repeat, q=0.5)
        found.append(seen.competition.discovered.any())
    assert np.mean(found) <= 0.5 + 3 * np.sqrt(0.25 / 15)
