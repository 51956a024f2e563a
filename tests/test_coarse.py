"""The space of coarse images: its values are correlations of block means, and the search finds blurred copies."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from memgen import spaces
from memgen.spaces.index import Index


def images(count: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((count, 1, side, side), dtype=np.float32))


def test_values_are_correlations_of_block_means():
    """numpy's correlation of the means of 2x2 blocks, and of the smaller blocks at an odd border."""
    x, y = images(4, 6), images(4, 6, seed=1)
    blocks = [each.double().numpy().reshape(4, 3, 2, 3, 2).mean(axis=(2, 4)).reshape(4, 9) for each in (x, y)]
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(*blocks, strict=True)]
    np.testing.assert_allclose(spaces.find("coarse").paired(x, y), expected, atol=1e-12)
    odd = images(1, 3)
    vector = spaces.find("coarse").embed(odd)[0].double()
    odd = odd.double()
    means = np.array([odd[0, 0, :2, :2].mean(), odd[0, 0, :2, 2].mean(), odd[0, 0, 2, :2].mean(), odd[0, 0, 2, 2]])
    centered = means - means.mean()
    np.testing.assert_allclose(vector, centered / np.linalg.norm(centered), atol=1e-6)


@pytest.mark.parametrize("backend", ["faiss", "torch"])
def test_the_search_finds_blurred_copies(backend):
    """Every blurred copy has its original as the nearest, with the value that `paired` gives; in pixels it is farther."""
    references, space = images(300, 12), spaces.find("coarse")
    index = Index.build(references, [str(i) for i in range(300)], space, "r", backend=backend)
    queries = torch.from_numpy(gaussian_filter(references[:20].numpy(), (0, 0, 0.5, 0.5)))
    position, value = index.nearest(queries)
    assert position.tolist() == list(range(20))
    np.testing.assert_array_equal(value, space.paired(queries, references[:20]))
    assert (value > spaces.find("correlation").paired(queries, references[:20]).numpy()).all()
