"""The fast searches: their precision, the bound on their error, and products of 8-bit integers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memgen.base import files
from memgen.images.imageset import floats
from memgen.spaces import find, flat, products
from memgen.spaces.index import Index
from memgen.spaces.pixels import SPACES

METRICS = [space.name for space in SPACES]


def images(n, shape=(1, 8, 8), seed=0):
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed))


def levels(n, shape, seed, kind="any"):
    """Images of uint8: of any level, of few levels about one that may be near the ends, or of the two ends alone."""
    generator = np.random.default_rng(seed)
    if kind == "any":
        return generator.integers(0, 256, (n, *shape), dtype=np.uint8)
    if kind == "ends":
        return (255 * generator.integers(0, 2, (n, *shape))).astype(np.uint8)
    about = generator.integers(0, 253, (n, 1, 1, 1))
    return (about + generator.integers(0, 3, (n, *shape)) * (generator.random((n, 1, 1, 1)) < 0.8)).astype(np.uint8)


def queries_of(space, wanted):
    return flat.Queries(wanted.flatten(1), space.embed(wanted))


def exact_scores(space, queries, vectors):
    a, b = queries.double().numpy(), vectors.double().numpy()
    return a @ b.T if space.larger_is_closer else -((a[:, None] - b) ** 2).sum(axis=2)


def test_the_search_uses_true_float32(monkeypatch):
    """In a process that allows TF32 or bfloat16 products, the search does not use them, and keeps the setting."""
    seen, product = [], torch.Tensor.__matmul__

    def spy(self, other):
        seen.append(torch.get_float32_matmul_precision())
        return product(self, other)

    search, wanted = flat.build(images(30).numpy(), find("cosine"), "torch"), queries_of(find("cosine"), images(3))
    monkeypatch.setattr(torch.Tensor, "__matmul__", spy)
    torch.set_float32_matmul_precision("medium")
    try:
        search(wanted, 2)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["highest"]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), metric=st.sampled_from(METRICS), shift=st.sampled_from([0.0, 3.0, 1e6]))
def test_scores_err_less_than_the_bound(seed, metric, shift):
    """Every score is within the stated bound of the exact score of the same vectors, far from the origin too."""
    space = find(metric)
    references, wanted = images(50, seed=seed) + shift, queries_of(space, images(5, seed=seed + 1) + shift)
    exact = exact_scores(space, wanted.vectors, space.embed(references))
    for backend in ["torch"] + ["faiss"] * (flat.find_faiss() is not None):
        scores, positions, bound = flat.build(references.numpy(), space, backend)(wanted, 50)
        error = np.abs(scores - np.take_along_axis(exact, positions, axis=1))
        assert (error.max(axis=1) <= bound).all()


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    metric=st.sampled_from(METRICS),
    shape=st.sampled_from([(1, 1, 1), (1, 1, 3), (1, 8, 8), (3, 9, 7)]),
    kind=st.sampled_from(["any", "flat", "ends"]),
    of_levels=st.booleans(),
    integers=st.booleans(),
)
def test_scores_of_pixels_err_less_than_the_bound(seed, metric, shape, kind, of_levels, integers):
    """The same for images of uint8, in integers and in float32, for queries of uint8 and for any others."""
    space, pixels = find(metric), levels(40, shape, seed, kind)
    wanted = floats(levels(6, shape, seed + 1, kind)) if of_levels else 1.2 * images(6, shape, seed) - 0.1
    wanted[0] = floats(pixels[:1])[0]
    queries = queries_of(space, wanted)
    exact = exact_scores(space, queries.vectors, space.embed(floats(pixels)))
    with pytest.MonkeyPatch.context() as patch:
        if not integers:
            patch.setattr(products, "is_exact", lambda device: False)
        scores, positions, bound = flat.build(pixels, space, "torch")(queries, 40)
    error = np.abs(scores - np.take_along_axis(exact, positions, axis=1))
    assert (error.max(axis=1) <= bound).all()
    assert np.isfinite(bound).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("integers", [True, False])
@pytest.mark.parametrize("kind", ["any", "flat", "ends"])
def test_pixels_are_searched_exactly(metric, integers, kind, monkeypatch):
    """Neighbors among images of uint8 are those of scoring every pair in float64, bit for bit, however work is cut."""
    if not integers:
        monkeypatch.setattr(products, "is_exact", lambda device: False)
    pixels, space = levels(300, (3, 9, 7), 1, kind), find(metric)
    pixels[7] = pixels[3]
    wanted = torch.cat([floats(levels(9, (3, 9, 7), 2, kind)), floats(pixels[:4]), images(9, (3, 9, 7))])
    references = floats(pixels)
    value = np.stack([space.paired(query.expand_as(references), references).numpy() for query in wanted])
    key = np.where(np.isnan(value), np.inf, -value if space.larger_is_closer else value)
    order = np.argsort(key, axis=1, kind="stable")[:, :5]
    index = Index.build(pixels, [str(i) for i in range(300)], space, "train", None, "auto")
    for _ in range(2):
        for part in (wanted, wanted[:13], wanted[13:]):  # the 13 are of uint8
            start = 13 if len(part) == 9 else 0
            hits = index.search(part, 5)
            np.testing.assert_array_equal(hits.reference_index, order[start : start + len(part)])
            expected = np.take_along_axis(value, order, axis=1)[start : start + len(part)]
            np.testing.assert_array_equal(hits.value, expected)
        monkeypatch.setattr(products, "_BLOCK_BYTES", 3 * 9 * 7 * 23)
        monkeypatch.setattr(flat, "_TILE", 5)


def test_integers_leave_little_out():
    """Two 8-bit numbers a pixel come within 1e-4 of any unit vector; images of uint8 need one, and lose nothing."""
    space, wanted = find("correlation"), torch.randn((50, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    coded = products.Coded.integers(space.embed(wanted), wanted.flatten(1))
    assert len(coded.terms) == 2
    assert coded.missing.max() < 1e-4
    wanted = floats(levels(50, (1, 16, 16), 0))
    coded = products.Coded.integers(space.embed(wanted), wanted.flatten(1))
    assert len(coded.terms) == 1
    assert coded.missing.max() < 1e-6


def test_a_product_that_saturates_is_not_used(monkeypatch):
    """Processors without instructions for it add pairs of 8-bit products in 16 bits, which is seen."""

    def saturating(a, b):
        pairs = a.short().unflatten(1, (-1, 2))[:, :, :, None] * b.short().T.unflatten(0, (-1, 2)).transpose(0, 1)
        return pairs.int().sum(dim=2).clamp(-(2**15), 2**15 - 1).sum(dim=1, dtype=torch.int32)

    if products.is_exact("cpu"):
        z = torch.from_numpy(levels(8, (24,), 0).astype(np.int16) - 128).to(torch.int8)
        assert torch.equal(products.int_mm(z, z).double(), z.double() @ z.double().T)
    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert not products.is_exact.__wrapped__("cpu")


@pytest.mark.parametrize("d", [1, 3, 8, 64, 100])
def test_short_rows(d):
    """Products of a few numbers are right too, where a single column of PyTorch's product of integers is not."""
    z = torch.randint(-127, 128, (20, d), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    if not products.is_exact("cpu"):
        pytest.skip("this processor does not multiply 8-bit integers exactly")
    assert torch.equal(products.int_mm(z, z).double(), z.double() @ z.double().T)


def test_many_vectors_lie_in_a_file(monkeypatch):
    """Vectors that are too many for memory are searched in a temporary file, with the same result."""
    wanted, references = images(5, seed=1), images(300).numpy()
    small = Index.build(references, [str(i) for i in range(300)], find("rmse"), "train", None, "auto").search(wanted, 4)
    monkeypatch.setenv(files.MEMORY, "7.5e-6")
    index = Index.build(references, [str(i) for i in range(300)], find("rmse"), "train", None, "auto")
    assert isinstance(index._search._vectors, np.memmap)
    found = index.search(wanted, 4)
    np.testing.assert_array_equal(found.reference_index, small.reference_index)
    np.testing.assert_array_equal(found.value, small.value)


def test_large_dark_images_are_searched_exactly():
    """Products of 131,072 numbers of -128 do not fit in 32 bits: the black image is still nearest to itself."""
    pixels = np.zeros((40, 1, 512, 300), dtype=np.uint8)
    pixels[20:] = 60  # products of these do fit
    pixels[:, 0, 0, :] += levels(40, (300,), 0) // 8
    space, references = find("rmse"), floats(pixels)
    hits = Index.build(pixels, [str(i) for i in range(40)], space, "train", None).search(references, 3)
    value = np.stack([space.paired(query.expand_as(references), references).numpy() for query in references])
    order = np.argsort(value, axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(hits.reference_index, order)
    np.testing.assert_array_equal(hits.value, np.take_along_axis(value, order, axis=1))
