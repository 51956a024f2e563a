"""Many samples: they are read in blocks as they are, and tables with a row for each do not become Python objects."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import tested
import torch

from memgen.base import files, schemas, tables
from memgen.base.strings import Strings
from memgen.experiment import audit_tests, showing
from memgen.findings import audit as findings
from memgen.images.gathered import Gathered
from memgen.images.imageset import ImageSet, content_id
from memgen.measures.copies import examiner as examining
from memgen.measures.copies import sight
from memgen.measures.copies.examiner import Examiner, nearest, nearest_others
from memgen.measures.subject import Samples
from memgen.report import gallery
from memgen.spaces import find, index


def pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)


class Watched(Gathered):
    """Images that remember how many of them were read at a time."""

    read: list[int]

    def __init__(self, images: np.ndarray) -> None:
        super().__init__([images])
        self.read = []

    def __getitem__(self, which):
        found = super().__getitem__(which)
        self.read.append(len(found))
        return found


def as_floats(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).float() / 255


def same(one: sight.Sight, other: sight.Sight) -> None:
    for a, b in zip(one.matches, other.matches, strict=True):
        for name, value in vars(a).items():
            assert np.array_equal(value, getattr(b, name)), name


@pytest.fixture
def blocks(monkeypatch):
    """Blocks of 16 images."""
    monkeypatch.setattr(sight, "BLOCK", 16)
    monkeypatch.setattr(sight, "_TAKEN", 16)
    monkeypatch.setattr(examining, "_BLOCK", 16)
    monkeypatch.setattr(index, "_QUERY_NUMBERS", 16 * 64)


@pytest.fixture
def sides():
    """Training and held-out images."""
    return ImageSet.from_pixels(pixels(60, 0)), ImageSet.from_pixels(pixels(50, 1))


def test_neighbors_of_bytes_are_those_of_floats(blocks, tmp_path):
    """Samples of uint8, in memory, in a mapped file and in an order, have the neighbors of the same float32."""
    references, queries = pixels(60, 0), pixels(40, 2)
    searched = index.Index.build(references, [str(i) for i in range(60)], find("correlation"), "t")
    expected = searched.search(as_floats(queries), 3)
    np.save(tmp_path / "queries.npy", queries)
    watched = Watched(queries)
    for given in (queries, np.load(tmp_path / "queries.npy", mmap_mode="r"), watched, as_floats(queries).numpy()):
        found = searched.search(given, 3)
        assert np.array_equal(found.reference_index, expected.reference_index)
        assert np.array_equal(found.value, expected.value)
    assert watched.read == [16, 16, 8]


def test_a_block_of_samples_is_read_at_a_time(blocks, sides):
    """The test for copies reads 16 of 70 samples at a time, and finds what it finds in float32 tensors."""
    samples = np.concatenate([sides[0].pixels[:30], pixels(40, 3)])
    watched, examiner = Watched(samples), Examiner(*sides, 0.99, names=("pixels", "halves"))
    found, expected = examiner.examine(watched, 0), examiner.examine(as_floats(samples), 0)
    same(found.sight, expected.sight)
    assert max(watched.read) == 16
    evidence = examiner.evidence(found)
    for name, values in examiner.evidence(expected).items():
        assert values.equals(evidence[name]) if isinstance(values, pa.Array) else np.array_equal(values, evidence[name])
    numbers = np.arange(70)
    assert nearest(sides[0], Samples(samples, numbers)).equals(
        nearest(sides[0], Samples(as_floats(samples).numpy(), numbers))
    )


def test_held_out_images_are_read_in_blocks(blocks, sides):
    """Held-out images, and training images that are looked for as if they were samples, never become floats at once."""
    train, held_out = sides
    examiner = Examiner(train, held_out, 0.99)
    expected = examiner.held_out_depths, examiner.exact_copies, nearest_others(train)
    again = Examiner(train, held_out, 0.99)
    asked: list[int] = []
    see = again.searcher.see

    def seen(images, *rest, **named):
        assert not isinstance(images, torch.Tensor), "all images became floats at once"
        asked.append(len(images))
        return see(images, *rest, **named)

    again.searcher.see = seen  # type: ignore[method-assign]
    assert np.array_equal(again.held_out_depths, expected[0])
    same(again.exact_copies, expected[1])
    assert asked == [50, 60]


def test_the_ids_of_samples_are_those_of_floats():
    """The same for samples of uint8 and of float32, whatever the block."""
    images = pixels(9, 4)
    expected = [content_id(image) for image in as_floats(images).numpy()]
    for given in (images, as_floats(images).numpy()):
        assert list(Samples(given, np.arange(9)).ids) == expected


def test_what_is_found_lies_in_files(blocks, sides, monkeypatch):
    """With little memory, matches are mapped files with the same numbers, also those of some of the samples."""
    examiner, samples = Examiner(*sides, 0.99, names=("pixels", "halves")), pixels(70, 3)
    expected = examiner.see(samples)
    assert not isinstance(expected.matches[0].candidates, np.memmap)
    monkeypatch.setenv(files.MEMORY, str(8 * 4000 / 2**30))
    found = examiner.see(samples)
    assert isinstance(found.matches[0].candidates, np.memmap)
    same(found, expected)
    rows = np.random.default_rng(0).permutation(70)
    taken = found.take(rows)
    assert isinstance(taken.matches[0].candidates, np.memmap)
    same(taken, sight.Sight(tuple(each.take(rows) for each in expected.matches)))
    same(sight.Sight.joined([found.take(slice(0, 33)), found.take(slice(33, None))]), expected)


# ------------------------------------------------------------------------------------------------- rows


COUNT = 300


@pytest.fixture(params=[None, "groups"])
def audited(request):
    """A significance table with ties and nulls, the nearest training images, and sets whose images repeat."""
    rng = np.random.default_rng(5)
    train, held_out = pixels(40, 6), pixels(30, 7)
    train[7] = train[3]  # of equal images, the first one stands for all
    groups = Strings(f"g{i // 3}" for i in range(40)) if request.param else None
    sets = {
        "train": ImageSet.from_pixels(train, [f"t{i}" for i in range(40)], groups=groups),
        "held_out": ImageSet.from_pixels(held_out, [f"h{i}" for i in range(30)]),
        "samples": ImageSet.from_pixels(pixels(COUNT, 8), [f"s{i}" for i in range(COUNT)]),
    }
    number, in_train = rng.integers(0, 30, COUNT), rng.random(COUNT) < 0.6
    ids = {kind: list(sets[kind].ids) for kind in ("train", "held_out")}
    score = np.where(in_train, 1, -1) * rng.integers(0, 5, COUNT) / 4
    score[rng.random(COUNT) < 0.1] = np.inf
    near = {kind: rng.integers(0, 30, COUNT) for kind in ids}
    absent = {kind: rng.random(COUNT) < 0.2 for kind in ids}
    significance = tested.significance(
        tested.imported("audit", 40),
        np.where(in_train, number, 40 + number),
        in_train,
        nearest_id=[ids["train" if t else "held_out"][n] for t, n in zip(in_train, number, strict=True)],
        W=score,
        p=rng.random(COUNT),
        q=rng.random(COUNT),
        discovered=in_train & (rng.random(COUNT) < 0.1),
        flagged=in_train & (rng.random(COUNT) < 0.1),
        space=rng.choice(["pixels", "halves"], COUNT),
        closeness=rng.random(COUNT),
        **{
            f"found_{kind}_id": [
                None if gone else ids[kind][n] for gone, n in zip(absent[kind], near[kind], strict=True)
            ]
            for kind in ids
        },
        **{f"found_{kind}": np.where(absent[kind], np.nan, rng.random(COUNT)) for kind in ids},
    )
    value = rng.integers(0, 9, COUNT) / 8
    value[rng.random(COUNT) < 0.1] = np.nan
    order = rng.permutation(COUNT)  # of the queries
    columns = dict.fromkeys(schemas.NEIGHBORS.names) | {"query": order, "value": value[order], "rank": 1}
    columns |= {"query_kind": "sample", "query_id": "x", "reference": "train", "n_reference": 40, "n_clusters": 40}
    columns |= {"metric": "correlation", "reference_id": "x", "reference_index": number, "cluster": number}
    return significance, tables.make(schemas.NEIGHBORS, columns), sets


def pairs_of(significance, neighbors, sets):
    ids, sources = ({kind: getattr(found, name) for kind, found in sets.items()} for name in ("ids", "sources"))
    return findings.pairs(significance, neighbors, ids, sources, sets["train"].groups)


def test_pairs_stand_in_the_order_of_the_rows(audited):
    """Against a sort of Python rows: reported ones first, then those nearest to T, the deepest, and the first."""
    significance, neighbors, sets = audited
    own = {row["query"]: row["value"] for row in neighbors.to_pylist()}
    rows = [row for row in significance.to_pylist() if row["found_train_id"] is not None]
    rows.sort(
        key=lambda row: (
            not row["discovered"],
            not row["flagged"],
            row["nearest_in"] != "T",
            -abs(row["W"] or 0),
            row["sample"],
        )
    )
    found = pairs_of(*audited)
    assert len(found) == len(rows) < COUNT
    for pair, row in zip(found, rows, strict=True):
        train = list(sets["train"].ids).index(row["found_train_id"])
        assert (pair.sample, pair.sample_source) == (row["sample"], f"s{row['sample']}")
        assert (pair.train, pair.train_source, pair.score, pair.p) == (train, f"t{train}", row["W"], row["p"])
        assert pair.group == (None if sets["train"].groups is None else f"g{train // 3}")
        held_out = row["found_held_out_id"]
        assert pair.held_out == (None if held_out is None else list(sets["held_out"].ids).index(held_out))
        assert (pair.closeness, pair.held_out_closeness) == (row["found_train"], row["found_held_out"])
        assert (pair.space, pair.correlation) == (row["space"], own[row["sample"]])
    reported = sum(row["discovered"] or row["flagged"] for row in rows)
    assert findings.reported(found) == reported > 20
    assert [pair.sample for pair in found[3:9]] == [row["sample"] for row in rows[3:9]]


def test_pairs_without_a_test_are_the_closest(audited):
    """By the correlation, undefined ones last, and equal ones as they come."""
    _, neighbors, sets = audited
    rows = neighbors.to_pylist()
    rows.sort(key=lambda row: (row["value"] is None, -(row["value"] or 0)))
    found = pairs_of(None, neighbors, sets)
    assert [(pair.sample, pair.train, pair.closeness) for pair in found] == [
        (row["query"], row["reference_index"], row["value"]) for row in rows
    ]


def test_training_images_at_risk_are_those_of_the_rows(audited):
    """Against Python rows: of each unit the deepest sample, an infinite score being the deepest, and the counts."""
    significance, _, sets = audited
    units: dict[int, list] = {}
    for row in significance.to_pylist():
        if row["nearest_in"] == "T":
            units.setdefault(row["unit"], []).append(row)
    expected = []
    for unit, members in units.items():
        deepest = max(
            members, key=lambda row: (row["discovered"], np.inf if row["W"] is None else row["W"], -row["sample"])
        )
        position = list(sets["train"].ids).index(deepest["nearest_id"])
        groups = sets["train"].groups
        expected.append(
            {
                "unit": unit,
                "group": None if groups is None else groups[position],
                "image_id": deepest["nearest_id"],
                "source": f"t{position}",
                "samples": len(members),
                "flagged": sum(row["flagged"] for row in members),
                "discovered": any(row["discovered"] for row in members),
                "sample": deepest["sample"],
                "sample_source": f"s{deepest['sample']}",
                **{name: deepest[name] for name in ("W", "space", "closeness")},
            }
        )
    expected.sort(key=lambda row: (not row["discovered"], not row["flagged"], -(row["W"] or 0), row["unit"]))
    found = audit_tests._at_risk(sets, significance)
    assert found.to_pylist() == expected
    nothing = significance.slice(0, 0)
    assert audit_tests._at_risk(sets, nothing).num_rows == 0
    reported = [max(1, row["flagged"]) for row in expected if row["discovered"] or row["flagged"]]
    assert findings.growth(found, COUNT)[-1]["units"] == pytest.approx(len(reported))


def test_the_gallery_takes_the_first_pairs(audited, monkeypatch):
    """Of many samples the first ones are shown, which a test reports, and the page knows how many there are."""
    significance = audited[0]
    whole = showing.of_audit(pairs_of(*audited), None, significance)
    monkeypatch.setattr(showing, "MOST", 50)
    monkeypatch.setattr(gallery, "MOST", 50)
    made: list[int] = []
    build = findings._tested
    monkeypatch.setattr(findings, "_tested", lambda row, *rest: made.append(row["sample"]) or build(row, *rest))
    pairs = pairs_of(*audited)
    found = gallery.payload(showing.of_audit(pairs, None, significance), SimpleNamespace())
    assert (found["total"], len(found["names"])) == (len(pairs), 50)
    assert found["reported_total"] == findings.reported(pairs) == int(whole.reported.sum())
    assert found["names"] == list(whole.names[:50])
    assert found["values"]["q"] == [float(f"{value:.6g}") for value in whole.values["q"][:50]]
    assert len(made) < 100  # no other pair became an object
