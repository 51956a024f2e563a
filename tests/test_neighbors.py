"""Neighbors against brute force in float64 and scikit-learn, ties and duplicates included."""

import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from memgen import spaces
from memgen.base import files, schemas, tables
from memgen.base.errors import ConfigError, DataError, ShapeError
from memgen.experiment.settings import SearchSettings
from memgen.spaces import find, flat, products
from memgen.spaces.index import Index
from memgen.spaces.pixels import SPACES

METRICS = [space.name for space in SPACES]

BACKENDS = [
    pytest.param("faiss", marks=pytest.mark.skipif(flat.find_faiss() is None, reason="faiss is not installed")),
    "torch",
]


def images(n, shape=(1, 8, 8), seed=0):
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed))


def ids(n):
    return [f"id{i}" for i in range(n)]


def build(references, metric="correlation", backend="torch", **options):
    return Index.build(references, ids(len(references)), find(metric), "train_a", backend=backend, **options)


def brute_force(queries, references, metric, k):
    """Positions and values by scoring every pair in float64; ties by position, NaN last."""
    values = np.stack([find(metric).paired(q.expand_as(references), references).numpy() for q in queries])
    key = -values if find(metric).larger_is_closer else values
    order = np.argsort(np.where(np.isnan(key), np.inf, key), axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(values, order, axis=1)


def assert_equal(hits, expected):
    np.testing.assert_array_equal(hits.reference_index, expected[0])
    np.testing.assert_array_equal(hits.value, expected[1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("metric", METRICS)
def test_equals_brute_force(metric, backend):
    """Positions and values are bit for bit those of a float64 search of every pair."""
    queries, references = images(20, (3, 9, 7)), images(300, (3, 9, 7), seed=1)
    hits = build(references, metric, backend).search(queries, 7)
    assert_equal(hits, brute_force(queries, references, metric, 7))


@pytest.mark.parametrize("backend", BACKENDS)
def test_agrees_with_scikit_learn(backend):
    """Under rmse the neighbors are scikit-learn's Euclidean ones, at distances sqrt(d) times as large."""
    queries, references = images(20), images(300, seed=1)
    hits = build(references, "rmse", backend).search(queries, 5)
    search = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(references.flatten(1).double().numpy())
    distance, index = search.kneighbors(queries.flatten(1).double().numpy())
    np.testing.assert_array_equal(hits.reference_index, index)
    np.testing.assert_allclose(hits.value * 8, distance, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 120),
    k=st.integers(1, 120),
    kinds=st.integers(1, 40),
    metric=st.sampled_from(METRICS),
    spread=st.sampled_from([1e-6, 1e-3, 0.3]),
)
def test_ties_and_near_copies(seed, n, k, kinds, metric, spread):
    """Copies, near-copies below the resolution of float32 scores and constant images come in the exact order."""
    k = min(k, n)
    generator = torch.Generator().manual_seed(seed)
    base = 0.5 + spread * images(kinds, seed=seed)
    base[0] = 0.25
    references = base[torch.randint(kinds, (n,), generator=generator)]
    queries = torch.cat([base[:5], images(3, seed=seed + 1)])
    expected = brute_force(queries, references, metric, k)
    found = ["torch"] + ["faiss"] * (flat.find_faiss() is not None)
    for backend in found:
        assert_equal(build(references, metric, backend).search(queries, k), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("metric", METRICS)
def test_the_shortlist_grows_until_proved(metric, backend):
    """Among 2,000 images that differ from the query by float32 steps in two pixels, the very nearest is found."""
    query = images(1, (1, 16, 16))
    references = query.repeat(2000, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    pixel = torch.randint(256, (2000, 2), generator=generator)
    flat = references.view(2000, 256)
    for column in range(2):
        at = pixel[:, column : column + 1]
        flat.scatter_(1, at, torch.nextafter(flat.gather(1, at), torch.ones(())))
    hits = build(references, metric, backend).search(query, 3)
    assert_equal(hits, brute_force(query, references, metric, 3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_large_reference_set(backend):
    """More references than a block of the search, far from the origin, some so large that float32 overflows."""
    references = images(9000, (1, 4, 4)) + 3
    references[4017] *= 1e12
    references[8999] *= 1e22
    queries = references[[0, 4017, 8500, 8999]]
    hits = build(references, "rmse", backend).search(queries, 2)
    assert hits.reference_index[:, 0].tolist() == [0, 4017, 8500, 8999]
    assert hits.reference_index[3, 1] == 4017  # at a squared distance of infinity in float32, like all others
    assert (hits.value[:, 0] == 0).all()
    assert_equal(hits, brute_force(queries, references, "rmse", 2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_without_rounding(backend):
    """Mid-gray copies, whose float32 scores have no error at all, still come in the order of their positions."""
    references = torch.full((300, 1, 4, 4), 0.5)
    hits = build(references, "rmse", backend).search(references[:2], 3)
    assert hits.reference_index.tolist() == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("metric", METRICS)
def test_company_changes_nothing(metric, backend, monkeypatch):
    """A query's answer is bit-equal alone, with others, in another order, and however the work is cut."""
    queries, references = images(40, (1, 30, 30)), images(200, (1, 30, 30), seed=1)
    index = build(references, metric, backend)
    together = index.search(queries, 4)
    alone = [index.search(queries[i : i + 1], 4) for i in range(40)]
    np.testing.assert_array_equal(together.value, np.concatenate([hits.value for hits in alone]))
    np.testing.assert_array_equal(together.reference_index, np.concatenate([hits.reference_index for hits in alone]))
    for name, size in (("_QUERY_NUMBERS", 6300), ("_PAIRS", 50), ("_RESCORED", 5000), ("_SHORTLIST", 1)):
        monkeypatch.setattr(f"memgen.spaces.index.{name}", size)
    monkeypatch.setattr(products, "_BLOCK_BYTES", 30 * 30 * 17)
    monkeypatch.setattr(flat, "_TILE", 5)
    cut = index.search(queries.flip(0), 4)
    np.testing.assert_array_equal(together.value, cut.value[::-1])
    np.testing.assert_array_equal(together.reference_index, cut.reference_index[::-1])


def test_permuting_references_permutes_positions():
    """The order of the references names them and changes nothing else."""
    queries, references = images(10), images(50, seed=1)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    hits, permuted = build(references).search(queries, 3), build(references[order]).search(queries, 3)
    np.testing.assert_array_equal(hits.value, permuted.value)
    np.testing.assert_array_equal(hits.reference_index, order.numpy()[permuted.reference_index])


def test_uint8_is_the_float_image():
    """Stored as uint8, an image is its own exact copy as float32 / 255, for every gray level."""
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    pixels = torch.cat([pixels, pixels.flip(2), 255 - pixels])
    hits = build(pixels, "rmse").search(pixels.float().div_(255), 1)
    assert hits.reference_index[:, 0].tolist() == [0, 1, 2]
    assert (hits.value == 0).all()


def test_constant_images_have_no_correlation():
    """A constant reference is ranked last with NaN, a constant query has NaN throughout, in order of position."""
    references = images(5)
    references[1] = 0.5
    queries = torch.cat([images(1, seed=2), torch.full((1, 1, 8, 8), 0.1)])
    hits = build(references).search(queries, 5)
    assert hits.reference_index[0, -1] == 1
    assert np.isnan(hits.value[0]).tolist() == [False] * 4 + [True]
    assert np.isnan(hits.value[1]).all()
    assert hits.reference_index[1].tolist() == [0, 1, 2, 3, 4]


def test_near_duplicates_share_a_cluster():
    """Near-duplicates carry the position of the first of them, whatever the metric."""
    references = images(6)
    references[3], references[5] = 0.5 * references[1] + 0.2, references[1] + 0.001 * images(1, seed=9)[0]
    for metric in METRICS:
        index = build(references, metric)
        assert index.clusters.tolist() == [0, 1, 2, 1, 4, 1]
        hits = index.search(references[1:2], 6)
        np.testing.assert_array_equal(hits.cluster, index.clusters[hits.reference_index])
    assert build(references, cluster_threshold=1).clusters.tolist() == [0, 1, 2, 3, 4, 5]


def test_images_of_equal_id_share_a_cluster():
    """Copies that correlation cannot tell, constant ones or at a threshold of 1, are one cluster."""
    references = images(5)
    references[[1, 3]], references[4] = 0.5, references[0]
    for threshold, clusters in ((0.99, [0, 1, 2, 1, 0]), (1, [0, 1, 2, 1, 0])):
        index = Index.build(references, list("abcba"), find("rmse"), "train_a", threshold, "torch")
        assert index.clusters.tolist() == clusters
        assert index.n_clusters == 3


def test_the_table_counts_clusters():
    """Beside the number of references stands that of their clusters, in every row."""
    references = images(6)
    references[4:] = references[2:4]
    index = build(references)
    keys = {"subject": None, "role": None, "n_train": 6, "part": None, "train_seed": None}
    table = index.to_table(index.search(images(2, seed=1), 3), "holdout", ["x", "y"], keys)
    assert table["n_reference"].to_pylist() == [6] * 6
    assert table["n_clusters"].to_pylist() == [4] * 6


@pytest.mark.parametrize("saver", BACKENDS)
@pytest.mark.parametrize("loader", [*BACKENDS, "auto"])
def test_saved_and_loaded(tmp_path, saver, loader):
    """An index read back, by either backend, answers as before and knows what it knew."""
    pixels = (images(40) * 255).to(torch.uint8)
    index = Index.build(pixels, ids(40), find("rmse"), "holdout", cluster_threshold=0.9, backend=saver)
    index.save(tmp_path / "holdout")
    again = Index.load(tmp_path / "holdout", backend=loader)
    assert (again.name, again.space.name, again.ids, again.n) == ("holdout", "rmse", tuple(ids(40)), 40)
    assert again.cluster_threshold == 0.9
    assert again.backend == ("torch" if loader == "auto" else loader)  # images of uint8 need no FAISS
    expected, found = index.search(images(9, seed=3), 4), again.search(images(9, seed=3), 4)
    np.testing.assert_array_equal(found.value, expected.value)
    np.testing.assert_array_equal(found.reference_index, expected.reference_index)
    np.testing.assert_array_equal(found.cluster, expected.cluster)


def test_saving_twice_gives_the_same_bytes(tmp_path):
    """The files are a function of the index, and an index is saved over an older one."""
    build(images(10), backend="auto").save(tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    build(images(20)).save(tmp_path)
    assert Index.load(tmp_path).n == 20
    build(images(10), backend="auto").save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_damage_is_named(tmp_path):
    """A missing, truncated or altered file of an index is named; an unfinished index is not an index."""
    build(images(10), backend="auto").save(tmp_path)
    for name in files.read_json(tmp_path / "index.json")["digests"]:
        whole = (tmp_path / name).read_bytes()
        for damaged in (whole[:-3], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
            (tmp_path / name).write_bytes(damaged)
            with pytest.raises(DataError, match=f"{name}: damaged"):
                Index.load(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(DataError, match=name):
            Index.load(tmp_path)
        (tmp_path / name).write_bytes(whole)
    Index.load(tmp_path)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(DataError, match=r"index\.json: not the record"):
        Index.load(tmp_path)
    (tmp_path / "index.json").unlink()
    with pytest.raises(DataError, match=r"index\.json: no such file"):
        Index.load(tmp_path)


def test_an_interrupted_overwrite_is_noticed(tmp_path, monkeypatch):
    """Killed between two files while replacing an index, the folder is refused and not half believed."""
    build(images(10)).save(tmp_path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        build(images(12)).save(tmp_path)
    with pytest.raises(DataError, match="damaged"):
        Index.load(tmp_path)


def test_table_of_hits():
    """One row per query and rank, with the ids, the keys, and null where the value is undefined."""
    references = images(5)
    references[2] = 0.5
    index = build(references)
    hits = index.search(images(3, seed=1), 5)
    keys = {"subject": "n5-s0-a", "role": "cell", "n_train": 5, "part": "a", "train_seed": 0}
    table = index.to_table(hits, "sample", ["x", "y", "z"], keys, query=[4, 5, 6])
    assert tables.check(table, schemas.NEIGHBORS, "test").num_rows == 15
    rows = table.to_pylist()
    assert [row["query"] for row in rows[:6]] == [4, 4, 4, 4, 4, 5]
    assert [row["rank"] for row in rows[:6]] == [1, 2, 3, 4, 5, 1]
    assert rows[6]["query_id"] == "y"
    assert rows[6]["reference_id"] == f"id{hits.reference_index[1, 1]}"
    assert rows[6]["value"] == hits.value[1, 1]
    assert rows[4]["value"] is None
    assert rows[4]["reference_index"] == 2
    assert (rows[0]["reference"], rows[0]["n_reference"], rows[0]["metric"]) == ("train_a", 5, "correlation")


def test_nearest_is_rank_one():
    """`nearest` is the first column of `search`."""
    index = build(images(20))
    position, value = index.nearest(images(4, seed=1))
    hits = index.search(images(4, seed=1), 3)
    np.testing.assert_array_equal(position, hits.reference_index[:, 0])
    np.testing.assert_array_equal(value, hits.value[:, 0])
    assert len(index.search(images(0), 3).value) == 0


def test_bad_input_is_named():
    """Each refusal says what was found and what to do."""
    index = build(images(10))
    with pytest.raises(DataError, match=r"k=20 neighbors for an index of 10 images. Use --k 10 or less."):
        index.search(images(1), 20)
    with pytest.raises(DataError, match="--k 1 or more"):
        index.search(images(1), 0)
    with pytest.raises(ShapeError, match=r"\(1, 1, 4, 4\), expected \(M, 1, 8, 8\)"):
        index.search(images(1, (1, 4, 4)), 1)
    bad = images(3)
    bad[1, 0, 2, 2] = torch.nan
    with pytest.raises(DataError, match="query 1 has a pixel that is NaN"):
        index.search(bad, 1)
    with pytest.raises(DataError, match="image id1 has a pixel that is NaN"):
        build(bad)
    with pytest.raises(DataError, match="0 images"):
        build(images(0))
    with pytest.raises(DataError, match="float64"):
        build(images(2).double())
    with pytest.raises(ShapeError, match="2 ids"):
        Index.build(images(3), ids(2), find("rmse"), "x")
    with pytest.raises(ConfigError, match="'l2'"):
        build(images(3), "l2")
    with pytest.raises(ConfigError, match="'scann'"):
        build(images(3), backend="scann")


def test_without_faiss(monkeypatch):
    """Without faiss, or with the empty folder of a removed one, auto is torch and faiss gives the install line."""
    for module in (None, types.ModuleType("faiss")):
        monkeypatch.setitem(sys.modules, "faiss", module)
        assert build(images(3), backend="auto").backend == "torch"
        with pytest.raises(ConfigError, match=r"pip install -c constraints.txt '.\[cpu\]'"):
            build(images(3), backend="faiss")


@pytest.mark.skipif(flat.find_faiss() is None, reason="faiss is not installed")
def test_with_faiss(monkeypatch):
    """With faiss, auto is faiss on the CPU of Linux, and two wheels of it are warned of."""
    monkeypatch.setattr(sys, "platform", "linux")
    assert build(images(3), backend="auto").backend == "faiss"
    assert flat.choose("auto", "cuda") == "torch"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert flat.choose("auto", "cpu") == "torch"
    monkeypatch.setattr(flat, "_is_installed", lambda wheel: wheel != "faiss-gpu")
    with pytest.warns(UserWarning, match="faiss-cpu and faiss-gpu-cuvs overwrite each other"):
        flat.find_faiss()


@pytest.mark.gpu
def test_on_cuda():
    """The search on CUDA gives bit for bit the answer of the CPU."""
    queries, references = images(50, (3, 16, 16)), images(500, (3, 16, 16), seed=1)
    levels = (references * 255).to(torch.uint8)
    for metric in METRICS:
        hits = build(references, metric, device="cuda").search(queries, 5)
        assert_equal(hits, brute_force(queries, references, metric, 5))
        for wanted in (queries, (queries * 255).to(torch.uint8).float() / 255):
            hits = build(levels, metric, device="cuda").search(wanted, 5)
            assert_equal(hits, brute_force(wanted, levels.float() / 255, metric, 5))


# All that a new space needs: images compared by the differences of neighboring pixels, more numbers than pixels.
EDGES = '''
"""A space of edges."""

import torch


class Edges:
    name = "edges"
    larger_is_closer = False
    unit = "pixel units"

    def embed(self, images):
        return self._vectors(images).float()

    def paired(self, x, y):
        return (self._vectors(x) - self._vectors(y)).square().mean(dim=1).sqrt()

    def _vectors(self, images):
        pixels = images.detach().cpu().double()
        return torch.cat([pixels.diff(dim=axis).flatten(1) for axis in (-1, -2)], dim=1)


SPACES = (Edges(),)
'''


@pytest.fixture
def edges(tmp_path, monkeypatch):
    """A package of spaces with one file more."""
    (tmp_path / "edges.py").write_text(EDGES)
    monkeypatch.setattr(spaces, "__path__", [*spaces.__path__, str(tmp_path)])
    yield
    sys.modules.pop("memgen.spaces.edges", None)
    vars(spaces).pop("edges", None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_new_space_is_one_new_file(edges, backend, tmp_path):
    """A space that lies in the package can be chosen by its name, searched, tabulated, saved and loaded."""
    assert SearchSettings(metric="edges").metric == "edges"
    assert isinstance(find("edges"), spaces.Space)
    references, queries = images(200, (2, 6, 9)), images(5, (2, 6, 9), seed=1) * 1e-3 + images(5, (2, 6, 9))
    index = build(references, "edges", backend)
    hits = index.search(queries + 7, 4)  # edges do not see brightness
    assert_equal(hits, brute_force(queries + 7, references, "edges", 4))
    assert hits.reference_index[:, 0].tolist() == [0, 1, 2, 3, 4]
    rows = index.to_table(hits, "user", ids(5), dict.fromkeys(("subject", "role", "n_train", "part", "train_seed")))
    assert set(rows["metric"].to_pylist()) == {"edges"}
    index.save(tmp_path / "kept")
    assert_equal(
        Index.load(tmp_path / "kept", backend).search(queries, 4), brute_force(queries, references, "edges", 4)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_neighbors_in_a_new_space_are_proved(edges, backend):
    """Among 2,000 images that float32 distances cannot order, the nearest in a space of more numbers are found."""
    query = images(1, (1, 8, 8))
    references = query.repeat(2000, 1, 1, 1)
    references[:, 0, 4, 4] += 0.3
    references += 1e-7 * images(2000, (1, 8, 8), seed=1)
    assert_equal(build(references, "edges", backend).search(query, 3), brute_force(query, references, "edges", 3))


def test_every_space_follows_the_interface():
    """Every space that is found has a name, a direction, vectors and values."""
    assert set(METRICS) <= set(spaces.all_spaces())
    assert all(isinstance(space, spaces.Space) for space in spaces.all_spaces().values())
