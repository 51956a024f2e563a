"""The measures against scipy and scikit-learn, and their rules at the edges."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances

from memgen.base.errors import ConfigError, ShapeError
from memgen.spaces import find
from memgen.spaces.pixels import SPACES

METRICS = [space.name for space in SPACES]


def images(n, shape=(3, 8, 6), seed=0):
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed))


def test_correlation_is_pearson():
    """Correlation is scipy's Pearson r over all channels and pixels together."""
    x, y = images(5), images(5, seed=1) + images(5)
    expected = [stats.pearsonr(a.double().flatten(), b.double().flatten()).statistic for a, b in zip(x, y, strict=True)]
    assert find("correlation").paired(x, y).numpy() == pytest.approx(expected, abs=1e-14)


def test_cosine_is_raw():
    """Cosine is scikit-learn's cosine of the raw pixels, and is not the correlation."""
    x, y = images(5), images(5, seed=1)
    expected = np.diag(cosine_similarity(x.flatten(1).double(), y.flatten(1).double()))
    assert find("cosine").paired(x, y).numpy() == pytest.approx(expected, abs=1e-14)
    assert (find("cosine").paired(x, y) - find("correlation").paired(x, y)).min() > 0.5


def test_rmse_is_in_pixel_units():
    """Rmse is scikit-learn's Euclidean distance over sqrt(d): noise of deviation sigma lies at a distance of sigma."""
    x, y = images(5), images(5, seed=1)
    expected = np.diag(euclidean_distances(x.flatten(1).double(), y.flatten(1).double())) / np.sqrt(144)
    assert find("rmse").paired(x, y).numpy() == pytest.approx(expected, abs=1e-12)
    clean = images(1, (1, 200, 200))
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    assert find("rmse").paired(clean, noisy).item() == pytest.approx(0.1, rel=0.02)


def test_contrast_and_brightness():
    """Correlation ignores contrast and brightness, cosine contrast alone, rmse neither."""
    x = images(4)
    changed = {metric: find(metric).paired(x, 0.5 * x + 0.3) for metric in METRICS}
    assert changed["correlation"].numpy() == pytest.approx(1, abs=1e-6)
    assert (changed["cosine"] < 0.999).all()
    assert find("cosine").paired(x, 0.5 * x).numpy() == pytest.approx(1, abs=1e-6)
    assert (changed["rmse"] > 0.05).all()


@given(seed=st.integers(0, 10**6), side=st.integers(2, 40))
def test_exact_copy(seed, side):
    """A copy has correlation and cosine of exactly 1 and rmse of exactly 0; a negative has a correlation of -1."""
    x = images(3, (1, side, side), seed)
    assert (find("correlation").paired(x, x.clone()) == 1).all()
    assert (find("cosine").paired(x, x.clone()) == 1).all()
    assert (find("rmse").paired(x, x.clone()) == 0).all()
    assert (find("correlation").paired(x, -x) == -1).all()


def test_undefined_is_nan():
    """A constant image has no correlation, a zero one no cosine, one with a NaN or infinite pixel no value at all."""
    x = images(1).expand(5, -1, -1, -1)
    y = images(5, seed=1)
    y[0], y[1], y[2, 0, 0, 0], y[3, 0, 0, 0] = 0.3, 0.0, torch.nan, torch.inf
    undefined = {metric: find(metric).paired(x, y).isnan().tolist() for metric in METRICS}
    assert undefined["correlation"] == [True, True, True, True, False]
    assert undefined["cosine"] == [False, True, True, True, False]
    assert undefined["rmse"] == [False, False, True, True, False]
    assert find("correlation").paired(y[:1], y[:1]).isnan().all()
    tenths = torch.full((1, 1, 7, 11), 0.1, dtype=torch.float64)  # whose mean is not 0.1 in float64
    assert tenths.numpy().mean() != 0.1
    assert find("correlation").paired(tenths, images(1, (1, 7, 11)).double()).isnan().all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 210, 210)])
def test_a_row_depends_on_itself_alone(metric, shape):
    """Values are bit-equal for one row and for many, for any memory layout, and symmetric."""
    x, y = images(9, shape), images(9, shape, seed=1)
    together = find(metric).paired(x, y)
    assert torch.equal(together, torch.cat([find(metric).paired(x[i : i + 1], y[i : i + 1]) for i in range(9)]))
    columns = x.flatten(1).T.contiguous().T.view(x.shape)
    for other in (x.to(memory_format=torch.channels_last), columns):
        assert other.stride() != x.stride()
        assert torch.equal(together, find(metric).paired(other, y))
    assert torch.equal(together, find(metric).paired(y, x))


@pytest.mark.parametrize("metric", METRICS)
def test_embedding_finds_the_closest(metric):
    """The order of inner products (or distances) of embedded images is the order of the metric."""
    queries, references = images(6), images(50, seed=1)
    values = torch.stack([find(metric).paired(references, q.expand_as(references)) for q in queries])
    a, b = find(metric).embed(queries).double(), find(metric).embed(references).double()
    assert a.shape == (6, 144)
    if find(metric).larger_is_closer:
        assert (a @ b.T).numpy() == pytest.approx(values.numpy(), abs=1e-6)
    else:
        assert (torch.cdist(a, b) / 12).numpy() == pytest.approx(values.numpy(), abs=1e-6)


def test_embedding_of_the_undefined_is_zero():
    """A constant image has the zero vector under correlation and a unit vector under cosine."""
    constant = torch.full((1, 3, 8, 6), 0.3)
    assert find("correlation").embed(constant).abs().max() == 0
    assert find("cosine").embed(constant).norm().item() == pytest.approx(1, abs=1e-6)


@settings(max_examples=30)
@given(rows=st.integers(0, 5), chunk=st.sampled_from([1, 150, 2**20]))
def test_cutting_into_chunks_changes_nothing(rows, chunk):
    """Any chunk size gives the same values and vectors, no row included."""
    from memgen.spaces import pixels

    x, y = images(rows), images(rows, seed=1)
    whole = [find("correlation").paired(x, y), find("correlation").embed(x)]
    before, pixels._CHUNK = pixels._CHUNK, chunk
    try:
        assert torch.equal(find("correlation").paired(x, y), whole[0])
        assert torch.equal(find("correlation").embed(x), whole[1])
    finally:
        pixels._CHUNK = before


def test_wrong_input_is_named():
    """Shapes that differ and unknown metrics are refused by name."""
    with pytest.raises(ShapeError, match=r"\(2, 3, 8, 6\) and \(3, 3, 8, 6\)"):
        find("rmse").paired(images(2), images(3))
    with pytest.raises(ConfigError, match=r"'l2'; known here: .*correlation, cosine, rmse"):
        find("l2")
