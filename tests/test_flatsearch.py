"""The float32 search: its precision, the bound on its error, and which backend is taken."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memgen.spaces import find, flat
from memgen.spaces.pixels import SPACES

METRICS = [space.name for space in SPACES]


def images(n, shape=(1, 8, 8), seed=0):
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed))


def test_the_search_uses_true_float32():
    """In a process that allows TF32 or bfloat16 products, the search does not use them, and keeps the setting."""

    class Spy(torch.Tensor):
        seen = ()

        def __matmul__(self, other):
            Spy.seen += (torch.get_float32_matmul_precision(),)
            return torch.Tensor(self) @ torch.Tensor(other)

        def to(self, *_):
            return self

    search = flat.TorchSearch(find("cosine").embed(images(30)), larger_is_closer=True, device="cpu")
    torch.set_float32_matmul_precision("medium")
    try:
        search(find("cosine").embed(images(3)).as_subclass(Spy), 2)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert Spy.seen == ("highest",)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), metric=st.sampled_from(METRICS), shift=st.sampled_from([0.0, 3.0, 1e6]))
def test_scores_err_less_than_the_bound(seed, metric, shift):
    """Every score is within the stated bound of the exact score of the same vectors, far from the origin too."""
    space = find(metric)
    vectors, queries = space.embed(images(50, seed=seed) + shift), space.embed(images(5, seed=seed + 1) + shift)
    a, b = queries.double().numpy(), vectors.double().numpy()
    exact = a @ b.T if space.larger_is_closer else -((a[:, None] - b) ** 2).sum(axis=2)
    for backend in ["torch"] + ["faiss"] * (flat.find_faiss() is not None):
        search = flat.build(vectors, space, backend)
        scores, positions = search(queries, 50)
        bound = flat.error_bound(queries, search.longest, space)
        error = np.abs(scores - np.take_along_axis(exact, positions, axis=1))
        assert (error.max(axis=1) <= bound).all()
