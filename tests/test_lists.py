"""Approximate search: lists of like images, what it misses, and how that is measured."""

import numpy as np
import pytest
import torch

from memgen.base.schemas import COPIES
from memgen.findings import audit
from memgen.images.imageset import ImageSet
from memgen.measures.copies.examiner import Examiner, judge, nearest, to_tables
from memgen.measures.subject import Samples
from memgen.spaces import find, flat
from memgen.spaces.index import Index
from memgen.spaces.lists import Lists, spread
from tests.tested import copies, model

IN_GROUPS = ["correlation", "rmse", "cosine"]


def in_groups(count, seed=0, of=12):
    """Images of uint8 around a few centers, (N, 1, 6, 6): those around one are far more alike than others."""
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(99).integers(40, 216, (of, 1, 6, 6))
    return (centers[generator.integers(0, of, count)] + generator.integers(-20, 21, (count, 1, 6, 6))).astype(np.uint8)


def queries(count, seed=1):
    return torch.from_numpy(in_groups(count, seed).astype(np.float32) / 255)


def index_of(pixels, metric="correlation", backend="auto"):
    return Index.build(pixels, [str(i) for i in range(len(pixels))], find(metric), "x", None, backend)


@pytest.mark.parametrize("metric", IN_GROUPS)
@pytest.mark.parametrize("as_floats", [False, True])
def test_all_lists_give_the_exact_result(metric, as_floats):
    """A query that looks at all lists finds what an exact search finds, by 8-bit products, FAISS and PyTorch."""
    pixels = in_groups(400)
    pixels = pixels.astype(np.float32) / 255 if as_floats else pixels
    for backend in ["auto", "torch"] + ["faiss"] * (flat.find_faiss() is not None):
        index = index_of(pixels, metric, backend)
        exact, found = index.search(queries(50), 5), index.search(queries(50), 5, probes=400)
        assert np.array_equal(found.reference_index, exact.reference_index)
        assert np.array_equal(found.value, exact.value)


@pytest.mark.parametrize("metric", IN_GROUPS)
def test_few_lists_are_less_work_and_find_most(metric):
    """One list of twenty holds the nearest of images in groups most of the time, and few products are made."""
    index, wanted = index_of(in_groups(400), metric), queries(200)
    seen = {}
    product = index._search
    for probes in (1, 3):
        looked = product._lists.probed(find(metric).embed(wanted), probes, 16)
        seen[probes] = sum(len(members) * len(rows) for members, rows in looked) / (400 * len(wanted))
    hits = {probes: index.search(wanted, 1, probes) for probes in (1, 3)}
    exact = index.search(wanted, 1)
    right = {probes: np.count_nonzero(hits[probes].value == exact.value) for probes in (1, 3)}
    assert seen[1] < seen[3] < 0.4
    assert 100 < right[1] < right[3]
    assert 170 < right[3] <= len(exact.value) == 200


def test_values_of_an_approximate_search_are_exact():
    """What it finds has the value of the pair, to the last bit."""
    pixels, wanted, space = in_groups(300), queries(20), find("correlation")
    hits = index_of(pixels).search(wanted, 3, probes=1)
    images = torch.from_numpy(pixels.astype(np.float32) / 255)
    for rank in range(3):
        assert np.array_equal(hits.value[:, rank], space.paired(wanted, images[hits.reference_index[:, rank]]).numpy())


def test_an_image_finds_itself_in_one_list():
    """Equal vectors are in the list that is looked at first, so exact copies are never missed."""
    pixels = in_groups(500)
    hits = index_of(pixels).search(torch.from_numpy(pixels.astype(np.float32) / 255), 1, probes=1)
    assert np.allclose(hits.value[:, 0], 1)


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_as_many_neighbors_as_asked_for(count):
    """However few images the lists hold, a query gets its k neighbors, all different."""
    hits = index_of(in_groups(count)).search(queries(10), count, probes=1)
    assert [sorted(row) for row in hits.reference_index.tolist()] == [list(range(count))] * 10


def test_lists_do_not_depend_on_threads_or_blocks(monkeypatch):
    """Every image is in one list, and the same one whatever the number of threads and the size of blocks."""
    from memgen.spaces import products

    pixels, space = in_groups(600), find("correlation")
    vectors = space.embed(torch.from_numpy(pixels.astype(np.float32) / 255))
    before, made = torch.get_num_threads(), []
    try:
        for threads, block in ((1, 8192), (2, 8192), (1, 17)):
            torch.set_num_threads(threads)
            monkeypatch.setattr(products, "_BLOCK_IMAGES", block)
            made.append(Lists(600, lambda at: vectors[at]))
    finally:
        torch.set_num_threads(before)
    assert sorted(made[0]._members.tolist()) == list(range(600))
    for other in made[1:]:
        assert np.array_equal(made[0]._members, other._members)
        assert np.array_equal(made[0]._starts, other._starts)


def test_equal_images_share_a_list():
    """Lists of equal images work: other lists are empty, and a query looks where the images are."""
    same = np.full((50, 1, 6, 6), 7, dtype=np.uint8)
    hits = index_of(same, "rmse").search(queries(4), 3, probes=2)
    assert [len(set(row)) for row in hits.reference_index.tolist()] == [3] * 4
    assert (hits.value == hits.value[:, :1]).all()


def test_evenly_spread():
    """Positions are evenly spread, and all of them where as many are asked for."""
    assert spread(10, 4).tolist() == [0, 2, 5, 7]
    assert spread(5, 5).tolist() == [0, 1, 2, 3, 4]


def sets(count=400, held=200):
    train, held_out = (ImageSet.from_pixels(in_groups(n, seed)) for n, seed in ((count, 5), (held, 6)))
    return train, held_out


def test_an_audit_says_what_an_approximate_search_missed():
    """The recall is that of an exact search of the same samples; the memorized fraction is there by both searches."""
    train, held_out = sets()
    images = queries(300, seed=7)
    images[:20] = train.floats(np.arange(20))
    found = {}
    for probes in (None, 1):
        examiner = Examiner(train, held_out, 0.99, probes=probes)
        found[probes] = (examiner, examiner.examine(images, 0))
    examiner, examination = found[1]
    checked = examiner.check(images, examination, 0)
    rows = spread(300, 256)
    same = found[None][1].sight.matches[0].closeness[rows, 0] == examination.sight.matches[0].closeness[rows, 0]
    assert (checked.probes, checked.samples, checked.recall) == (1, 256, same.mean())
    assert checked.low < checked.recall < checked.high < 1
    assert found[None][0].check(images, found[None][1], 0) is None
    exact = Examiner(train, held_out, 0.99).examine(images[rows], 0)
    assert checked.exact_fraction == exact.fraction.estimate
    samples = Samples(images.numpy(), np.arange(300))
    judged = judge(examiner.depths(examination.sight), examiner.held_out_depths, 0.05)
    own = nearest(train, samples, probes=1)
    _, table = to_tables(model(), samples.index, examiner, examination, judged, own, checked)
    row = table.to_pylist()[0]
    assert table.schema.equals(COPIES)
    assert (row["probes"], row["checked"], row["recall"]) == (1, 256, checked.recall)
    (sentence,) = audit._recall(row)
    assert f"found {checked.recall:.1%} [{checked.low:.1%}, {checked.high:.1%}]" in sentence
    assert "looked at 1 list of like images" in sentence


def test_an_exact_search_says_nothing_of_recall():
    """No sentence, and no numbers."""
    assert audit._recall(copies(model()).to_pylist()[0]) == []
