import resource

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memgen.base import files, schemas, tables
from memgen.base.errors import DataError, ShapeError, StorageError
from memgen.images.imageset import ImageSet, content_id
from memgen.images.split import Split


def random_images(n, shape=(1, 6, 5), dtype=np.uint8, seed=0):
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 256, (n, *shape), dtype=np.uint8)
    return ImageSet.from_pixels(values if dtype == np.uint8 else (values / 255).astype(dtype))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_saved_set_loads_equal_and_memory_mapped(tmp_path, dtype):
    """Writing and reading a set is the identity, and reading does not copy the pixels."""
    images = random_images(7, (3, 4, 5), dtype)
    ImageSet(images.pixels, images.ids, images.sources, {"resize": 4}).save(tmp_path / "set")
    loaded = ImageSet.load(tmp_path / "set")
    assert isinstance(loaded.pixels, np.memmap)
    np.testing.assert_array_equal(loaded.pixels, images.pixels)
    assert (loaded.ids, loaded.sources, loaded.recipe) == (images.ids, images.sources, {"resize": 4})
    assert loaded.image_shape == (3, 4, 5)
    assert len(loaded) == 7
    np.testing.assert_array_equal(np.load(tmp_path / "set" / "pixels.npy"), images.pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    "indices",
    [None, [3, 0, 3], (1, 2), slice(1, 6, 2), np.array([5, 4]), np.arange(7) % 2 == 0, [-1], []],
    ids=["all", "repeats", "tuple", "slice", "array", "mask", "negative", "none"],
)
def test_floats_are_the_chosen_pixels_over_255(tmp_path, dtype, indices):
    """Every way to choose images gives those images as float32 in [0, 1], from memory and from a memory map."""
    images = random_images(7, (3, 4, 5), dtype)
    images.save(tmp_path)
    exact = images.pixels / np.float32(255) if dtype == np.uint8 else images.pixels
    expected = exact if indices is None else exact[list(indices) if isinstance(indices, tuple) else indices]
    for source in (images, ImageSet.load(tmp_path)):
        found = source.floats(indices)
        assert found.dtype == torch.float32
        np.testing.assert_array_equal(found.numpy(), expected)


def test_floats_are_a_copy():
    """Writing into the tensor does not change the images."""
    images = random_images(3, dtype=np.float32)
    before = images.pixels.copy()
    images.floats().zero_()
    np.testing.assert_array_equal(images.pixels, before)


def test_take_keeps_pixels_ids_and_sources_together():
    """A taken set holds the chosen images in the order given, and its ids still describe its pixels."""
    images = random_images(6)
    taken = images.take([4, 1])
    assert taken.ids == (images.ids[4], images.ids[1])
    assert taken.sources == (images.sources[4], images.sources[1])
    assert [content_id(image) for image in taken.pixels] == list(taken.ids)


def test_content_id_depends_on_shape_type_and_every_pixel():
    """Equal content has equal ids; another pixel, shape or type has another."""
    image = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    changed = image.copy()
    changed[0, 2, 3] += 1
    others = [changed, image.reshape(1, 4, 3), image.view(np.int8)]
    assert content_id(image) == content_id(image.copy())
    assert len({content_id(other) for other in [image, *others]}) == 4


@pytest.mark.parametrize(
    ("pixels", "error"),
    [
        (np.zeros((3, 4, 4), np.uint8), ShapeError),
        (np.zeros((0, 1, 4, 4), np.uint8), ShapeError),
        (np.zeros((2, 1, 4, 4), np.float64), DataError),
    ],
)
def test_unfit_pixels_are_refused(pixels, error):
    """A set has four dimensions, at least one image, and uint8 or float32 pixels."""
    with pytest.raises(error, match="expected"):
        ImageSet(pixels, ("x",) * len(pixels), ("x",) * len(pixels))


def damage_pixels(folder):
    path = folder / "pixels.npy"
    path.write_bytes(path.read_bytes()[:-10])


def lengthen_pixels(folder):
    path = folder / "pixels.npy"
    path.write_bytes(path.read_bytes() + b"xx")


def empty_pixels(folder):
    (folder / "pixels.npy").write_bytes(b"")


def pickled_pixels(folder):
    np.save(folder / "pixels.npy", np.array([{}], dtype=object), allow_pickle=True)


def other_pixels(folder):
    np.save(folder / "pixels.npy", random_images(9, seed=1).pixels)


def fewer_pixels(folder):
    np.save(folder / "pixels.npy", random_images(8).pixels)


def unclosed_header(folder):
    path = folder / "pixels.npy"
    path.write_bytes(path.read_bytes().replace(b"}", b"(", 1))


def no_pixels(folder):
    (folder / "pixels.npy").unlink()


def damage_table(folder):
    path = folder / "images.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def other_table(folder):
    random_images(9, seed=1).save(folder / "other")
    (folder / "other" / "images.parquet").rename(folder / "images.parquet")


def damage_manifest(folder):
    (folder / "images.json").write_text("{")


def foreign_manifest(folder):
    (folder / "images.json").write_text("[1]")


def later_manifest(folder):
    files.write_json(folder / "images.json", {**files.read_json(folder / "images.json"), "format": 99})


def no_manifest(folder):
    (folder / "images.json").unlink()


@pytest.mark.parametrize(
    ("damage", "named"),
    [(f, "pixels.npy") for f in (damage_pixels, lengthen_pixels, empty_pixels, pickled_pixels, other_pixels)]
    + [(f, "pixels.npy") for f in (fewer_pixels, unclosed_header, no_pixels)]
    + [(f, "images.parquet") for f in (damage_table, other_table)]
    + [(f, "images.json") for f in (damage_manifest, foreign_manifest, later_manifest, no_manifest)],
)
def test_damaged_set_names_its_file_in_one_line(tmp_path, damage, named):
    """Whatever is wrong with a stored set, the error is a DataError of one line that names the file."""
    random_images(9).save(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError) as caught:
        ImageSet.load(tmp_path)
    assert str(tmp_path / named) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_interrupted_save_is_not_a_set(tmp_path, monkeypatch):
    """A save that stops before its end leaves no set, even where one was before."""
    random_images(9).save(tmp_path)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        random_images(5, seed=2).save(tmp_path)
    with pytest.raises(DataError, match=r"images.json.*complete"):
        ImageSet.load(tmp_path)


def test_full_disk_says_why(tmp_path):
    """When the system refuses more bytes, the error names the file and the reason, and no half file stays."""
    images = random_images(64, (3, 64, 64))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match=r"pixels\.npy.*limit"):
            images.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def contents(split, indices):
    return [split.images.ids[index] for index in indices]


@given(n=st.integers(4, 60), holdout=st.integers(1, 10), seed=st.integers(0, 5), order=st.randoms())
@settings(max_examples=40, deadline=None)
def test_split_is_disjoint_nested_and_blind_to_order(n, holdout, seed, order):
    """Parts share no image and use all; sets are nested in N; permuting the images changes positions only."""
    holdout = min(holdout, n - 2)
    images = random_images(n)
    split = Split.make(images, holdout, seed)
    assert sorted([*split.holdout, *split.a, *split.b]) == list(range(n))
    assert len(split.holdout) == holdout
    assert 0 <= len(split.a) - len(split.b) <= 1
    assert split.n_max == (n - holdout) // 2
    for part in ("a", "b"):
        largest = split.training_indices(part, split.n_max)
        for size in range(1, split.n_max + 1):
            np.testing.assert_array_equal(split.training_indices(part, size), largest[:size])
    permutation = order.sample(range(n), n)
    permuted = Split.make(images.take(permutation), holdout, seed)
    for part in ("holdout", "a", "b"):
        assert contents(split, getattr(split, part)) == contents(permuted, getattr(permuted, part))


def test_split_depends_on_the_seed():
    """Another seed gives another holdout."""
    images = random_images(50)
    assert set(Split.make(images, 10, 0).holdout) != set(Split.make(images, 10, 1).holdout)


def test_split_table_round_trip():
    """A split written as a table and read again is the same split."""
    images = random_images(11)
    split = Split.make(images, 3, 0)
    again = Split.from_table(images, tables.check(split.to_table(), schemas.SPLIT, "split"))
    for part in ("holdout", "a", "b"):
        np.testing.assert_array_equal(getattr(again, part), getattr(split, part))
        assert getattr(again, part).dtype == np.int64


def test_split_table_of_other_images_is_refused():
    """A table is read only with the images it was made for, and only whole."""
    split = Split.make(random_images(11), 3, 0)
    for others in (random_images(11, seed=1), random_images(5)):
        with pytest.raises(DataError, match="other images"):
            Split.from_table(others, split.to_table())
    with pytest.raises(DataError, match="expected a, b and holdout"):
        Split.from_table(split.images, split.to_table().slice(0, 3))


def test_shared_content_is_refused_by_name():
    """Equal images cannot be split; the error counts them, names the first with its source, and says what to do."""
    images = random_images(10).take([0, 1, 2, 3, 2, 5, 6, 7])
    with pytest.raises(DataError, match=r"2 images.*first: \w{16} = image\[2\].*[Rr]emove duplicates"):
        Split.make(images, 2, 0)
    unique = random_images(4)
    one, two = np.array([0]), np.array([0, 1])
    with pytest.raises(DataError, match="2 images"):
        Split(unique, a=one, b=two, holdout=np.array([3]))


@pytest.mark.parametrize(("holdout", "message"), [(0, "at least 1"), (9, "found 10 images.*need 11")])
def test_unfit_holdout_is_refused(holdout, message):
    """The holdout has at least one image and leaves one for each part."""
    with pytest.raises(DataError, match=message):
        Split.make(random_images(10), holdout, 0)


@pytest.mark.parametrize(
    ("n", "message"), [(0, "at least 1"), (-1, "at least 1"), (5, "13 in all, but found 11.*to 4")]
)
def test_unfit_training_size_is_refused(n, message):
    """N is at least 1 and at most half of what the holdout leaves; the error says how many images N needs."""
    with pytest.raises(DataError, match=message):
        Split.make(random_images(11), 3, 0).training_indices("b", n)
