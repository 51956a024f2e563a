import numpy as np
import pytest
import threadpoolctl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memgen.base import schemas
from memgen.base.errors import DataError
from memgen.images import duplicates
from memgen.images.duplicates import area_average, leaders, near_duplicates
from memgen.images.imageset import ImageSet


def removed(images: ImageSet, threshold: float = 0.95):
    """The images that are kept, and the table of those that are not."""
    kept, table = near_duplicates(images, threshold)
    return images.take(kept), table


def greedy(features, threshold):
    """The definition, one pair at a time in float64."""
    kept, leader, value = [], [], []
    for i, row in enumerate(features.astype(np.float64)):
        found = [(np.corrcoef(row, features[j].astype(np.float64))[0, 1], -j) for j in kept]
        best = max(found, default=(-2, 0))
        if best[0] > threshold:
            leader.append(-best[1])
            value.append(best[0])
        else:
            kept.append(i)
            leader.append(i)
            value.append(1.0)
    return np.array(leader), np.array(value)


def clustered(n, dimension, n_centers, noise, seed):
    generator = np.random.default_rng(seed)
    centers = generator.standard_normal((n_centers, dimension))
    rows = centers[generator.integers(0, n_centers, n)] + noise * generator.standard_normal((n, dimension))
    return rows.astype(np.float32)


@given(seed=st.integers(0, 1000), noise=st.sampled_from([0.05, 0.3, 0.5]), block=st.sampled_from([1, 7, 32, 500]))
@settings(max_examples=25, deadline=None)
def test_leaders_are_the_definition_whatever_the_block(seed, noise, block):
    """Leaders and their correlations equal the definition evaluated pair by pair, in blocks of any size."""
    rows = clustered(90, 30, 20, noise, seed)
    expected, value = greedy(rows, 0.9)
    leader, correlation = leaders(rows, 0.9, block)
    np.testing.assert_array_equal(leader, expected)
    np.testing.assert_allclose(correlation, value, atol=1e-12)


def smooth_rows(n, d, noise, seed):
    """Rows in few dimensions, with faint copies of some of them, as images are."""
    rng = np.random.default_rng(seed)
    axes = np.sin(np.outer(np.arange(1, 11), np.linspace(0, 3, d)) + rng.uniform(0, 6, (10, 1)))
    rows = rng.normal(size=(n, 10)) @ axes
    rows[n // 2 :] = rows[: n - n // 2] + noise * rng.normal(size=(n - n // 2, d))
    return rows[rng.permutation(n)].astype(np.float32)


@pytest.mark.parametrize("many", [0.5, 0.005])
@pytest.mark.parametrize("noise", [0.1, 0.6])
@pytest.mark.parametrize("block", [16, 37])
def test_leaders_by_the_bound_are_the_definition(noise, block, many, monkeypatch):
    """Whether pairs are looked at one by one or by whole products, in some blocks or in all, the leaders are the same."""
    rows = smooth_rows(120, 300, noise, 4)
    sketch = duplicates.Sketch.of(rows, 1.0)
    monkeypatch.setattr(duplicates, "_MANY", many)
    monkeypatch.setattr(duplicates.Sketch, "of", lambda rows, threshold: sketch)
    expected, value = greedy(rows, 0.9)
    assert 50 <= len(set(expected)) < 110
    leader, correlation = leaders(rows, 0.9, block)
    assert leader.tolist() == expected.tolist()
    assert correlation == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_is_a_bound(seed, monkeypatch):
    """No product of sketches is below the correlation of the rows, also for equal rows and rows that are all inside."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate([smooth_rows(60, 400, 0.05, seed), rng.normal(size=(20, 400)), smooth_rows(4, 400, 0, seed)])
    monkeypatch.setattr(duplicates, "_MANY", 1)
    sketch = duplicates.Sketch.of(smooth_rows(60, 400, 0.05, seed), 1.0)
    unit = duplicates._unit(np.concatenate([rows, rows[:5]]))
    short = sketch(unit.astype(np.float32)).astype(np.float64)
    assert (short @ short.T >= unit @ unit.T - 1e-6).all()
    assert short.shape[1] == 33


def test_rows_without_structure_are_not_sketched():
    """The bound settles nothing for white noise at a low threshold, nor for short rows."""
    rows = np.random.default_rng(0).normal(size=(600, 400)).astype(np.float32)
    assert duplicates.Sketch.of(rows, 0.5) is None
    assert duplicates.Sketch.of(rows[:, :100], 0.99) is None


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 17)])
def test_area_averages_are_computed_when_asked_for(shape):
    images = ImageSet.from_pixels(np.random.default_rng(0).integers(0, 256, (9, *shape), dtype=np.uint8))
    whole, lazy = area_average(images), duplicates.AreaAverages(images)
    assert lazy.shape == whole.shape
    assert np.array_equal(lazy[np.array([4, 0, 4])], whole[[4, 0, 4]])
    assert lazy[np.array([], dtype=np.int64)].shape == (0, whole.shape[1])


def test_truth_of_the_property_above_is_not_degenerate():
    """Those rows have chains: images removed although close to other removed images, and many leaders too."""
    leader, _ = greedy(clustered(90, 30, 20, 0.3, 0), 0.9)
    assert 25 < len(set(leader)) < 80


def test_chain_keeps_its_end():
    """In a chain A ~ B ~ C with A unlike C, only B goes: C resembles no image that was kept."""
    a, c = clustered(2, 50, 2, 1, 2)
    a, c = ((row - row.mean()) / row.std() for row in (a, c))
    rows = np.stack([a, a + c, c])
    assert abs(np.corrcoef(a, c)[0, 1]) < 0.2
    assert leaders(rows, 0.6)[0].tolist() == [0, 0, 2]


def test_negative_is_not_a_duplicate():
    """An image and its negative are both kept: the correlation is signed."""
    rows = clustered(1, 40, 1, 0.1, 0)
    assert leaders(np.concatenate([rows, 1 - rows]), 0.95)[0].tolist() == [0, 1]


def test_brightness_and_contrast_do_not_hide_a_duplicate():
    """Correlation ignores offset and positive scale."""
    rows = clustered(1, 40, 1, 0.1, 0)
    leader, correlation = leaders(np.concatenate([rows, 0.3 * rows + 5]), 0.95)
    assert leader.tolist() == [0, 0]
    assert correlation[1] == pytest.approx(1, abs=1e-9)


def exactly_correlated(r):
    """Two rows whose correlation is r, up to the rounding of float64."""
    basis = np.linalg.qr(np.concatenate([np.ones((64, 1)), np.random.default_rng(1).standard_normal((64, 2))], 1))[0]
    return np.stack([basis[:, 1], r * basis[:, 1] + np.sqrt(1 - r * r) * basis[:, 2]])


@pytest.mark.parametrize("excess", [1e-6, 1e-9, 1e-12])
def test_threshold_is_decided_in_float64(excess):
    """Differences far below float32 rounding decide at the threshold, which is itself excluded."""
    rows = exactly_correlated(0.95)
    value = np.corrcoef(rows)[0, 1]
    assert leaders(rows, value - excess)[0].tolist() == [0, 0]
    assert leaders(rows, value + excess)[0].tolist() == [0, 1]


def test_the_threshold_itself_is_not_above_it():
    """A correlation of exactly the threshold keeps both: rows of +1 and -1 that correlate exactly .5."""
    row = np.tile([1.0, -1.0], 8)
    other = row.copy()
    other[[0, 1, 2, 3]] *= -1
    assert leaders(np.stack([row, other]), 0.5)[0].tolist() == [0, 1]
    assert leaders(np.stack([row, other]), np.nextafter(0.5, 0))[0].tolist() == [0, 0]


def test_no_correlation_is_above_one():
    """Rounding never lifts a correlation above 1: at threshold 1 even equal rows all lead."""
    rows = clustered(200, 30, 200, 0, 0)
    assert leaders(np.concatenate([rows, rows]), 1)[0].tolist() == list(range(400))


def test_dense_clusters_do_not_depend_on_blocks_or_threads():
    """With many pairs within float32 rounding of the threshold, blocks and threads still change nothing."""
    rows = clustered(400, 100, 3, 0.2293, 3)
    reference = leaders(rows, 0.95, 400)
    assert 20 < len(set(reference[0])) < 380
    for block, n_threads in [(1, 1), (64, 2), (333, 1), (4096, 2)]:
        with threadpoolctl.threadpool_limits(n_threads):
            found = leaders(torch.from_numpy(rows), 0.95, block)
        for column, expected in zip(found, reference, strict=True):
            np.testing.assert_array_equal(column, expected)


def test_constant_rows_lead_themselves():
    """A constant row has no correlation: it is kept, leads nobody, and its correlation is NaN."""
    rows = np.stack([np.full(30, 0.1), np.arange(30.0), np.full(30, 0.1), np.arange(30.0)]).astype(np.float32)
    for threshold in (0.95, 1e-6):
        leader, correlation = leaders(rows, threshold)
        assert leader.tolist() == [0, 1, 2, 1]
        np.testing.assert_array_equal(np.isnan(correlation), [True, False, True, False])


def test_rows_that_are_constant_up_to_rounding_lead_themselves():
    """Float32 rounding of a constant is no pattern: two such rows are not correlated."""
    row = np.full(30, 0.1, np.float32)
    row[::3] = np.nextafter(row[::3], np.float32(1))
    assert leaders(np.stack([row, row]), 0.95)[0].tolist() == [0, 1]


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, float("nan")])
def test_unfit_threshold_is_refused(threshold):
    """A threshold is a correlation above 0 and at most 1."""
    with pytest.raises(DataError, match="threshold"):
        leaders(np.zeros((2, 3)), threshold)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 30, 45), (1, 40, 80), (2, 12, 33), (1, 20, 7)])
def test_area_average_is_the_mean_over_areas(shape, dtype):
    """Averages equal block means of the image enlarged to a common multiple of both sizes; small sides stay."""
    channels, height, width = shape
    h, w = min(20, height), min(20, width)
    values = np.random.default_rng(0).integers(0, 256, (5, *shape), dtype=np.uint8)
    images = ImageSet.from_pixels(values if dtype == np.uint8 else (values / 255).astype(np.float32))
    fine = (values / 255).repeat(h, axis=2).repeat(w, axis=3)
    truth = fine.reshape(5, channels, h, height, w, width).mean(axis=(3, 5))
    found = area_average(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, truth.reshape(5, -1), atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 256, 257), (1, 301, 303), (3, 32, 32)])
def test_area_averages_are_exact_quotients_rounded_once(shape):
    """Of 8-bit images they are sums of whole numbers divided by one, also where float32 can just not hold the sums."""
    values = np.random.default_rng(0).integers(250, 256, (3, *shape), dtype=np.uint8)
    values[0] = 255
    height, width = shape[1:]
    shared = [duplicates._overlap(side, 20).astype(np.int64) for side in (height, width)]
    sums = np.einsum("bchw,rh,sw->bcrs", values.astype(np.int64), *shared)
    truth = (sums / (height * width * 255)).astype(np.float32).reshape(3, -1)
    assert np.array_equal(area_average(ImageSet.from_pixels(values)), truth)


@pytest.mark.parametrize(("numbers", "rows"), [(3_072, 2_048), (200_000, 167), (10**9, 1)])
def test_long_rows_are_compared_a_few_at_a_time(numbers, rows, monkeypatch):
    """So that a block of them in float64 is no larger than other arrays in memory may be."""
    monkeypatch.setenv("MEMGEN_MEMORY", "2")
    assert duplicates.block_of(np.lib.stride_tricks.as_strided(np.zeros(1), (10, numbers), (0, 0))) == rows


def test_area_average_is_average_pooling_where_sides_are_multiples():
    """At 80 x 80 the features are the official ones: average pooling by 4."""
    images = ImageSet.from_pixels(np.random.default_rng(0).integers(0, 256, (3, 1, 80, 80), dtype=np.uint8))
    pooled = torch.nn.functional.avg_pool2d(images.floats(), 4).flatten(1)
    np.testing.assert_allclose(area_average(images), pooled.numpy(), atol=1e-6)


def smooth_images(n, seed=0, side=24):
    generator = np.random.default_rng(seed)
    coarse = torch.from_numpy(generator.random((n, 1, 6, 6), dtype=np.float32))
    return (torch.nn.functional.interpolate(coarse, size=side, mode="bilinear") * 255).byte().numpy()


def test_removal_keeps_the_first_and_names_it():
    """Copies and faint variants go; the table names each with the image that stays and their correlation."""
    pixels = smooth_images(6)
    variant = np.clip(pixels[2].astype(int) + np.random.default_rng(1).integers(-8, 9, pixels[2].shape), 0, 255)
    pixels = np.concatenate([pixels, pixels[4:5], variant[None].astype(np.uint8)])
    images = ImageSet.from_pixels(pixels, sources=[f"{index}.png" for index in range(8)])
    kept, table = removed(images)
    assert kept.sources == tuple(f"{index}.png" for index in range(6))
    assert table.schema.equals(schemas.DUPLICATES)
    assert table.column("removed_source").to_pylist() == ["6.png", "7.png"]
    assert table.column("kept_source").to_pylist() == ["4.png", "2.png"]
    assert table.column("kept_id").to_pylist() == [images.ids[4], images.ids[2]]
    assert table.column("removed_id").to_pylist() == [images.ids[6], images.ids[7]]
    features = area_average(images).astype(float)
    truth = [1, np.corrcoef(features[7], features[2])[0, 1]]
    np.testing.assert_allclose(table.column("correlation").to_pylist(), truth, atol=1e-9)


def test_constant_images_go_only_when_equal():
    """Constant images without correlation are compared exactly; the table says null for their correlation."""
    constant = np.full((1, 1, 24, 24), 10, np.uint8)
    pixels = np.concatenate([constant, smooth_images(1), constant, constant + 1])
    kept, table = near_duplicates(ImageSet.from_pixels(pixels))
    assert kept.tolist() == [0, 1, 3]
    assert table.column("correlation").to_pylist() == [None]


def test_images_with_constant_averages_are_not_confused():
    """Two textures that average to the same gray are different images and stay; copies of them go."""
    board = (np.indices((40, 40)).sum(axis=0) % 2 * 200).astype(np.uint8)
    stripes = np.broadcast_to(np.arange(40) % 2 * 200, (40, 40)).astype(np.uint8)
    for dtype in (np.uint8, np.float32):
        pixels = np.stack([board, stripes, 200 - board, board])[:, None].astype(dtype)
        images = ImageSet.from_pixels(pixels if dtype == np.uint8 else pixels / np.float32(255))
        assert near_duplicates(images)[0].tolist() == [0, 1, 2]


def test_threshold_of_one_removes_exact_copies_only():
    """At 1 only equal pixels are duplicates: a brighter version correlates perfectly and stays."""
    pixels = smooth_images(2) // 2
    pixels = np.concatenate([pixels, pixels[1:], pixels[:1] + 20])
    assert near_duplicates(ImageSet.from_pixels(pixels), threshold=1)[0].tolist() == [0, 1, 3]


def test_copy_of_a_removed_image_points_to_one_that_is_kept():
    """Copies of a removed near-duplicate are removed too, and every kept_id is in the kept set."""
    pixels = smooth_images(3)
    variant = np.minimum(pixels[0], 250)
    images = ImageSet.from_pixels(np.stack([pixels[0], variant, pixels[1], variant, pixels[2], pixels[1]]))
    kept, table = removed(images)
    assert len(kept) == 3
    assert set(table.column("kept_id").to_pylist()) <= set(kept.ids)
    assert table.num_rows == 3


def test_kept_images_have_no_duplicates_left():
    """De-duplicating twice removes nothing the second time."""
    pixels = np.concatenate([smooth_images(30), smooth_images(30) // 2, smooth_images(10, seed=5)])
    kept, _ = removed(ImageSet.from_pixels(pixels), 0.8)
    again, table = removed(kept, 0.8)
    assert len(kept) < 70
    assert again.ids == kept.ids
    assert table.num_rows == 0


@pytest.mark.parametrize("leading", [1, 5, 40])
def test_images_are_added_without_starting_over(leading, monkeypatch):
    """Rows that are known to be leaders are not compared with each other, and the result is that of all rows."""
    rows = np.random.default_rng(3).normal(size=(60, 12))
    rows[45:] = rows[:15] + 0.01 * rows[15:30]
    rows[50] = rows[46]
    whole, added = leaders(rows, 0.9, 8), leaders(rows, 0.9, 8, leading=leading)
    assert [part.tolist() for part in whole] == [part.tolist() for part in added]
    assert (whole[0] < np.arange(60)).sum() == 15
    compared = []
    inner = duplicates._close_pairs
    monkeypatch.setattr(
        duplicates, "_close_pairs", lambda *given: (compared.append(given[1].positions), inner(*given))[1]
    )
    leaders(rows, 0.9, 8, leading=40)
    assert min(positions.min() for positions in compared if len(positions)) >= 40
