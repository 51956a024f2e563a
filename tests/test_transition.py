"""The transition: known answers, resampling, censoring, and what the words may say."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import synthetic_run
import tested

from memgen.base import noise, schemas, tables, wording
from memgen.base.errors import DataError
from memgen.base.estimates import Estimate
from memgen.base.intervals import grouped
from memgen.findings import quantities, transition, verdict
from memgen.findings.transition import crossings, summarize


@pytest.fixture(scope="module")
def rows():
    return transition.estimates(summarize(synthetic_run.run().tables, seed=0))


def neighbors(values: np.ndarray, n: int, **more) -> pa.Table:
    """A NEIGHBORS table of samples of part a with given values to their own training set."""
    sample = np.arange(len(values))
    columns = {
        "query_kind": "sample",
        "query": sample,
        "query_id": [str(i) for i in sample],
        "query_source": None,
        "subject": f"n{n}-s0-a",
        "role": "cell",
    }
    columns |= {"n_train": n, "part": "a", "train_seed": 0, "reference": "train_a", "n_reference": n, "n_clusters": n}
    columns |= {"metric": "correlation", "rank": 1, "reference_id": "x", "reference_source": None, "value": values}
    return tables.make(schemas.NEIGHBORS, columns | {"reference_index": sample, "cluster": sample} | more)


def examined(n: int, nearest: np.ndarray, hits: np.ndarray, pool: tuple[int, int], part="a", seed=0) -> dict:
    """SIGNIFICANCE and COPIES tables of samples with given nearest images in a pool of given sizes of T and H."""
    trained = tested.model(n, part, seed)
    sizes = {"n_pool_train": pool[0], "n_pool_heldout": pool[1], "samples": len(nearest)}
    return {
        "significance": tested.significance(trained, nearest, hits),
        "copies": tested.copies(trained, **sizes),
    }


def similarity(n: int, kind: str, values: np.ndarray, shift: int = 0, **more) -> pa.Table:
    """A SIMILARITY table of given values."""
    i = np.arange(len(values))
    columns = {
        "subject_a": "a",
        "subject_b": "b",
        "role": "cell",
        "n_train": n,
        "train_seed": 0,
        "kind": kind,
        "item_a": i,
    }
    columns |= {"item_b": (i + shift) % len(values), "metric": "correlation", "value": values}
    return tables.make(schemas.SIMILARITY, columns | more)


def test_medians_are_those_of_the_tables(rows):
    """Without resampling every median equals numpy's on the rows that it is about."""
    run = synthetic_run.run().tables
    same = run["similarity"].filter(pc.equal(run["similarity"]["kind"], "same_noise"))
    for n in synthetic_run.COPIES:
        values = same.filter(pc.equal(same["n_train"], n))["value"].to_numpy()
        assert rows[n, "cross_same"].estimate == pytest.approx(np.median(values), abs=1e-12)
        assert rows[n, "cross_same"].low <= np.median(values) <= rows[n, "cross_same"].high


def test_memorized_fraction_recovers_the_planted_share(rows):
    """The interval of the memorized fraction contains the share of samples that are copies."""
    for n, share in synthetic_run.COPIES.items():
        rho = rows[n, "memorized_fraction"]
        assert rho.low - 1e-9 <= share <= rho.high + 1e-9
    assert rows[1, "nearest_own"].estimate > 0.99
    assert rows[1, "cross_minus_null"].low <= 0 <= rows[1, "cross_minus_null"].high
    assert rows[1024, "cross_minus_nearest"].low > 0


def test_transition_points_lie_where_they_were_planted(rows):
    """Copies fall through one half between N = 64 (.6) and N = 256 (.25), and so does the crossing."""
    for point in ("N_half", "N_cross"):
        row = rows[None, point]
        assert 64 < row.low <= row.estimate <= row.high < 256


def test_one_training_image_gives_no_interval_of_the_gap(rows):
    """With one training image for each model the PSNR gap has an estimate and null ends, with the reason."""
    gap = rows[1, "psnr_gap"]
    assert gap.estimate > 20
    assert gap.low is None
    assert gap.high is None
    assert gap.status == "no interval"
    assert gap.note == "There is no interval, because each model has a single training image."
    assert rows[4, "psnr_gap"].low > 0
    assert rows[1024, "psnr_gap"].low < 0 < rows[1024, "psnr_gap"].high


def test_the_same_seed_gives_the_same_table_in_any_row_order():
    """The bootstrap depends on its seed alone, not on the order of rows."""
    run = synthetic_run.run().tables
    first = summarize(run, seed=3, resamples=200)
    shuffled = {}
    for name, table in run.items():
        shuffled[name] = table.take(np.random.default_rng(0).permutation(table.num_rows))
    second = summarize(shuffled, seed=3, resamples=200)
    for column in ("estimate", "low", "high"):
        x, y = (t[column].to_pylist() for t in (first, second))
        assert [v is None for v in x] == [v is None for v in y]
        np.testing.assert_allclose([v for v in x if v is not None], [v for v in y if v is not None], rtol=1e-9)
    assert not summarize(run, seed=4, resamples=200).equals(first)


def test_bootstrap_of_a_median_agrees_with_plain_resampling():
    """Multiplicities give the same distribution of medians as drawing samples and taking numpy's median."""
    values = np.random.default_rng(0).normal(size=60)
    row = transition.estimates(summarize({"similarity": similarity(8, "same_noise", values)}, seed=0))[8, "cross_same"]
    draws = np.median(np.random.default_rng(1).choice(values, (4000, 60)), axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert row.estimate == np.median(values)
    assert row.low == pytest.approx(low, abs=0.08)
    assert row.high == pytest.approx(high, abs=0.08)


def test_differences_are_resampled_jointly():
    """Same- and different-noise values that differ by a constant per sample give a difference without any width."""
    values = np.random.default_rng(0).normal(size=41)
    table = pa.concat_tables([similarity(8, "same_noise", values + 0.25), similarity(8, "different_noise", values)])
    # item_b = item_a in both: a pair (i, i) would count as i squared, so let the null depend on i alone.
    row = transition.estimates(summarize({"similarity": table, "neighbors": _own(values)}, 0))[8, "cross_minus_nearest"]
    assert row.estimate == pytest.approx(0.25)
    assert row.high - row.low < 1e-9


def _own(values: np.ndarray) -> pa.Table:
    return neighbors(values, 8)


def test_memorized_fraction_covers_zero_at_the_null():
    """Where labels are exchangeable the interval contains 0 in nearly all runs, although samples share neighbors."""
    covered = 0
    runs = 60
    for number in range(runs):
        rng = noise.stream("test", number)
        # 120 samples choose among 150 images with unequal popularity; labels T and H are random.
        popularity = rng.dirichlet(np.full(150, 0.3))
        choice = rng.choice(150, size=120, p=popularity)
        label = rng.permutation(np.arange(150) < 50)
        run = examined(50, choice, label[choice], (50, 100))
        rho = transition.estimates(summarize(run, 0, resamples=2))[50, "memorized_fraction"]
        covered += rho.low <= 0 <= rho.high
    # 95 % intended, 97.5 % expected; at a true 93 % fewer than 50 of 60 happens in less than 1 % of suites.
    assert covered >= 50
    assert rho.note.startswith("120 samples have ")


def test_both_models_count_and_the_control_is_removed():
    """P is over the samples of both; the control is the share of T in the pool; the interval is that of `grouped`."""
    hits = np.arange(40) < 30
    run = synthetic_run.stacked(
        examined(10, np.arange(40), hits, (10, 30)), examined(10, np.arange(40), ~hits, (10, 30), part="b")
    )
    rho = transition.estimates(summarize(run, 0))[10, "memorized_fraction"]
    assert rho.estimate == pytest.approx((0.5 - 0.25) / 0.75)
    assert rho.note == (
        "80 samples have 80 different nearest images. A share of 0.2500 is expected of a model that does not know its "
        "training set."
    )
    ends = grouped(np.ones(80, int), np.concatenate([hits, ~hits]), 0.25)
    assert (rho.low, rho.high) == pytest.approx([(end - 0.25) / 0.75 for end in ends])


def test_samples_at_one_image_count_as_one():
    """A hundred samples at one training image say no more than one sample does."""
    many = transition.estimates(summarize(examined(8, np.zeros(100, int), np.ones(100, bool), (8, 8)), 0))
    rho = many[8, "memorized_fraction"]
    assert rho.estimate == 1
    assert rho.low < 0 < rho.high == 1


def test_training_seeds_widen_the_memorized_fraction():
    """Seeds of which one copies and one does not give an interval that says that a third might do either."""
    none, every = np.zeros(60, bool), np.ones(60, bool)
    for seeds in ((none, every, none, every), (every, none, every, none)):
        sets = [examined(8, np.arange(60), hits, (50, 50), seed=s) for s, hits in enumerate(seeds)]
        rho = transition.estimates(summarize(synthetic_run.stacked(*sets), 0))[8, "memorized_fraction"]
        assert rho.low <= -0.9
        assert rho.high >= 0.9
        assert rho.note.endswith(" The interval is widened to cover 4 training seeds.")


def test_the_interval_of_n_half_covers_shared_images():
    """Where samples share a few nearest images N_half is less certain than where each has its own, at equal shares."""
    found = []
    for images in (400, 20):
        nearest = np.arange(400) * images // 400
        sets = [examined(n, nearest, nearest < share * images, (50, 50)) for n, share in ((10, 0.95), (1000, 0.2))]
        found.append(transition.estimates(summarize(synthetic_run.stacked(*sets), 0))[None, "N_half"])
    distinct, shared = found
    assert distinct.estimate == pytest.approx(shared.estimate)
    assert 10 < distinct.low < distinct.high < 1000
    assert shared.low is None or shared.low < 0.8 * distinct.low
    assert shared.high > 1.2 * distinct.high


def test_the_interval_of_n_half_is_open_where_shared_images_leave_it_open():
    """An end is open if the interval of the memorized fraction does not pass 1/2, though no resample lies there."""
    nearest = np.arange(400) * 10 // 400
    sets = [examined(n, nearest, nearest < hits, (50, 50)) for n, hits in ((10, 9), (1000, 6))]
    half = transition.estimates(summarize(synthetic_run.stacked(*sets), 0))[None, "N_half"]
    assert 10 < half.estimate < 1000
    assert (half.low, half.high, half.status) == (None, None, "no interval")
    assert half.note == (
        "The interval covers the samples. It does not cover what another training would give. It allows for samples "
        "that share a nearest image. The lower end of the interval lies below N = 10. The upper end of the interval lies "
        "above N = 1,000."
    )


def test_smaller_is_closer_for_rmse():
    """With rmse the smaller distance wins and positive differences still mean closer."""
    near, far = np.full(20, 0.01), np.full(20, 0.2)
    run = {"neighbors": neighbors(far, 10, metric="rmse")}
    run["similarity"] = pa.concat_tables(
        [similarity(10, "same_noise", near, metric="rmse"), similarity(10, "different_noise", far, 3, metric="rmse")]
    )
    rows = transition.estimates(summarize(run, 0, quantities.Similarity("rmse", "pixel units", larger_is_closer=False)))
    assert rows[10, "cross_minus_nearest"].estimate == pytest.approx(0.19)
    assert rows[10, "cross_minus_null"].estimate == pytest.approx(0.19)


def test_undefined_values_are_left_out_and_counted():
    """A null similarity changes no median and is named in the note."""
    values = np.arange(11.0)
    values[3] = np.nan
    row = transition.estimates(summarize({"similarity": similarity(4, "same_noise", values)}, 0))[4, "cross_same"]
    assert row.estimate == np.nanmedian(values)
    assert row.note == (
        "The interval covers 10 samples. It does not cover what another training would give. 1 of 11 values are "
        "undefined and left out."
    )


def test_crossings_are_exact_in_log_n():
    """A curve linear in log N crosses where it should, to rounding; several crossings are all found."""
    sizes = [1, 10, 100, 1000]
    line = np.log10(sizes) - 1.25
    assert crossings(line[None], sizes)[0] == pytest.approx([10**1.25])
    assert crossings(np.array([[-1.0, 1.0, -1.0, 3.0]]), sizes)[0] == pytest.approx([10**0.5, 10**2.25])
    assert crossings(np.array([[-1.0, 0.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0]]), sizes) == [[pytest.approx(10)], []]


def _crossing(level: float, spread: float):
    """N_cross for nearest at `level` and cross at 0, .5 with the given spread over samples, at N = 1 and 100."""
    jitter = spread * np.linspace(-1, 1, 50)
    run = {
        "neighbors": pa.concat_tables([neighbors(np.full(50, level), n) for n in (1, 100)]),
        "similarity": pa.concat_tables(
            [similarity(1, "same_noise", np.zeros(50)), similarity(100, "same_noise", 0.5 + jitter)]
        ),
    }
    return transition.estimates(summarize(run, 0))[None, "N_cross"]


def _crossings_of(cross: dict[int, float], spread: float = 0.0):
    """N_cross where each sample has a similarity of .5 to its training set, and of a given median to its twin."""
    around = spread * np.linspace(-1, 1, 51)
    run = {
        "neighbors": pa.concat_tables([neighbors(np.full(51, 0.5), n) for n in cross]),
        "similarity": pa.concat_tables([similarity(n, "same_noise", value + around) for n, value in cross.items()]),
    }
    return transition.estimates(summarize(run, 0))[None, "N_cross"]


def test_a_crossing_that_is_not_reached_is_an_answer():
    """Without a crossing the estimate is null and the note says up to where it was looked for."""
    row = _crossing(0.9, 0.1)
    assert (row.estimate, row.status, row.n) == (None, "not reached", 50)
    assert row.note == "It is not reached up to N = 100. 2,000 of 2,000 resamples do not cross up to N = 100."
    far = _crossings_of({1: 0.25, 10: 0.3, 100: 0.4})
    assert far.note == row.note
    before = _crossing(-0.1, 0.1)
    assert (before.estimate, before.status) == (None, "below range")
    assert before.note == "It lies below N = 1. 2,000 of 2,000 resamples lie below N = 1."


def test_of_several_crossings_the_first_is_given():
    """The estimate is the first crossing, and the note names every one; of a single crossing it says nothing."""
    covers = "The interval covers the samples. It does not cover what another training would give."
    row = _crossings_of({1: 0.375, 10: 0.625, 100: 0.375, 1000: 0.625}, spread=0.1)
    assert row.estimate == pytest.approx(10**0.5)
    assert 1 < row.low < row.estimate < row.high < 10
    assert (row.n, row.unit, row.status) == (51, "images", "measured")
    assert row.note == f"{covers} The curve crosses more than once, at N = 3.16 and 316. The first crossing is given."
    assert _crossings_of({1: 0.375, 10: 0.625}).note == covers
    assert _crossings_of({1: 0.5, 10: 0.625}).status == "below range"
    point = _crossings_of({10: 0.5})
    assert (point.status, point.n) == ("too few sizes", 0)
    assert point.note == "It cannot be located from a single training-set size."


def test_sizes_without_a_measurement_move_no_crossing():
    """An N at which one side of a comparison was not measured is left out of the points, and of nothing else."""
    nearest = np.arange(50)
    tested = synthetic_run.stacked(
        *(examined(n, nearest, nearest < hits, (50, 50)) for n, hits in ((1, 48), (100, 30)))
    )
    pairs = [similarity(n, "same_noise", np.full(50, value)) for n, value in ((1, 0.25), (100, 0.75))]
    run = tested | {"neighbors": pa.concat_tables([neighbors(np.full(50, 0.5), n) for n in (1, 100)])}
    run["similarity"] = pa.concat_tables(pairs)
    expected = transition.estimates(summarize(run, 0))
    assert expected[None, "N_cross"].estimate == pytest.approx(10)
    assert 1 < expected[None, "N_half"].estimate < 100
    run["neighbors"] = pa.concat_tables([run["neighbors"], neighbors(np.full(50, 0.9), 10)])
    rows = transition.estimates(summarize(run, 0))
    assert rows[10, "nearest_own"].estimate == 0.9
    for point in ("N_cross", "N_half"):
        assert rows[None, point] == expected[None, point]


def test_training_images_are_no_samples():
    """Similarities of training images across the halves change no interval of the samples."""
    values = np.random.default_rng(0).normal(size=20)
    same = similarity(8, "same_noise", values)
    across = similarity(8, "train_train", np.linspace(0, 1, 60))
    alone, both = (
        transition.estimates(summarize({"similarity": pa.concat_tables(found)}, 0))[8, "cross_same"]
        for found in ([same], [same, across])
    )
    assert alone == both


def test_draws_without_a_crossing_are_censored_not_dropped():
    """Where many resamples do not cross, the interval is open above and their number is in the note."""
    row = _crossing(0.499, 0.2)
    assert row.estimate == pytest.approx(100 ** (0.499 / 0.5))
    assert row.low is not None
    assert row.high is None
    assert "do not cross up to N = 100" in row.note
    assert wording.interval(row).endswith("?]")


def test_training_seeds_are_resampled_when_there_are_several():
    """Seeds that disagree widen the interval, and the note says that they are covered."""
    values = np.linspace(0, 0.01, 30)
    seeds = [similarity(8, "same_noise", values + 0.1 * k, train_seed=k) for k in range(4)]
    several = transition.estimates(summarize({"similarity": pa.concat_tables(seeds)}, 0))[8, "cross_same"]
    single = transition.estimates(summarize({"similarity": seeds[0]}, 0))[8, "cross_same"]
    assert several.high - several.low > 0.1 > single.high - single.low
    assert several.note == "The interval covers 30 samples and 4 training seeds."
    assert single.note == "The interval covers 30 samples. It does not cover what another training would give."
    alone = pa.concat_tables([neighbors(values + 0.1 * k, 8, train_seed=k) for k in range(4)])
    row = transition.estimates(summarize({"neighbors": alone}, 0))[8, "nearest_own"]
    assert row.note == "The interval covers 30 samples and 4 training seeds."


def reference(psnr: pa.Table, name: str, better: float) -> pa.Table:
    """The PSNR of a reference: that of one model on held-out images, plus a number of dB."""
    rows = psnr.filter(pc.equal(psnr["kind"], "holdout")).to_pandas()
    rows = rows[rows["subject"] == rows["subject"].iloc[0]]
    columns = {column: rows[column].tolist() for column in rows.columns}
    columns |= {"subject": name, "role": "reference", "n_train": None, "part": None, "train_seed": None}
    columns["output_psnr_db"] = [value + better for value in columns["output_psnr_db"]]
    return tables.make(schemas.PSNR, columns, len(rows))


OF_ONE = (
    "nearest_own", "nearest_holdout_to_train", "nearest_minus_holdout", "memorized_fraction", "psnr_gap", "to_linear",
    "to_optimum",
)  # fmt: skip
OF_TWO = (
    "cross_same", "cross_different", "cross_minus_null", "train_train", "cross_minus_nearest", "disagreement", "bits",
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    """A run of two sizes, with references."""
    run = synthetic_run.Run(sizes=(4, 64)).tables
    known = [reference(run["psnr"], name, db) for name, db in (("best_linear", -1.0), ("exact_optimum", 2.0))]
    return run | {"psnr": pa.concat_tables([run["psnr"], *known])}


def test_an_imported_subject_has_the_numbers_of_a_model_with_its_rows(small):
    """The same rows give the same numbers, as those of one model of a sweep or as those of an imported subject."""
    cell = {}
    for name, table in small.items():
        if "part" in table.column_names:
            own = pc.field("part").is_null() | (pc.field("part") == "a")
            cell[name] = table.filter(own & (pc.field("n_train").is_null() | (pc.field("n_train") == 64)))
    cell["neighbors"] = cell["neighbors"].filter(pc.field("reference") == "train_a")
    expected = transition.estimates(summarize(cell, 0, resamples=300))
    run = synthetic_run.stacked(
        synthetic_run.imported(small, 64, "theirs"), {"psnr": small["psnr"].filter(pc.field("role") == "reference")}
    )
    found = transition.estimates(summarize(run, 0, resamples=300, subjects=synthetic_run.subject("theirs")))
    for quantity in OF_ONE:
        assert found["theirs", quantity] == expected[64, quantity]
        assert found["theirs", quantity].status == "measured"
    for quantity in OF_TWO:
        row = found["theirs", quantity]
        assert (row.status, row.estimate, row.n) == ("not measured", None, 0)
        assert row.note == "There is no second model that was trained on other images."
    assert found["theirs", "unconverged"].note == "The samples were imported. None was drawn here."
    assert found["theirs", "unconverged"].status == "not measured"
    assert {key for key, _ in found} == {"theirs", None}


def test_an_imported_subject_changes_nothing_of_the_sweep(small):
    """Neither its rows nor pairs of imported subjects change a number of a training-set size or a transition point."""
    expected = summarize(small, 0, resamples=300)
    pair = similarity(64, "same_noise", np.linspace(0, 1, 500), role="imported")
    theirs = synthetic_run.imported(small, 64, "theirs")
    later = theirs["neighbors"].to_pandas().assign(query=lambda rows: rows["query"] + 1000)
    nothing = dict.fromkeys(("part", "train_seed", "query_source"))
    theirs["neighbors"] = tables.make(
        schemas.NEIGHBORS, {name: later[name].tolist() for name in later.columns} | nothing
    )
    run = synthetic_run.stacked(small, theirs, {"similarity": pair})
    subjects = synthetic_run.subject("theirs")
    found = summarize(run, 0, resamples=300, subjects=subjects)
    assert found.filter(pc.field("subject").is_null()).equals(expected)
    assert set(found["subject"].drop_null().to_pylist()) == {"theirs"}
    both = transition.estimates(found)
    assert both["theirs", "memorized_fraction"].estimate is not None
    assert both["theirs", "cross_same"].estimate is None


SECOND = "There is no second model that was trained on other images."
SAMPLES, DENOISER, SET = "There are no samples.", "There is no denoiser.", "The training set is not known."
UNSEEN = "No images are known that the model was not trained on."


@pytest.mark.parametrize(
    ("lacking", "own", "of_holdout", "fraction", "gap", "linear", "unconverged"),
    [
        ({}, "", "", "The samples were not tested for copies. Run memgen verdict.", "", "", ""),
        ({"has_denoiser": False}, "", "", "The samples were not tested for copies. Run memgen verdict.", DENOISER, DENOISER, ""),
        ({"has_samples": False}, "", "", "The samples were not tested for copies. Run memgen verdict.", "", "", ""),
        ({"n_train": None}, SET, SET, SET, SET, "", ""),
        ({"n_held_out": None}, "", UNSEEN, UNSEEN, UNSEEN, UNSEEN, ""),
        (
            {"has_samples": False, "has_denoiser": False, "n_train": None, "n_held_out": 0},
            f"{SAMPLES} {SET}", f"{SET} {UNSEEN}", f"{SAMPLES} {SET} {UNSEEN}", f"{DENOISER} {SET} {UNSEEN}",
            f"{DENOISER} {UNSEEN}", SAMPLES,
        ),
    ],
)  # fmt: skip
def test_reasons_for_what_is_not_measured(lacking, own, of_holdout, fraction, gap, linear, unconverged):
    """What an imported subject lacks is the reason, in words; what could have been measured has no such reason."""
    found = transition.estimates(summarize({}, 0, subjects=synthetic_run.subject("theirs", **lacking)))
    notes = {quantity: row.note for (key, quantity), row in found.items() if key == "theirs"}
    assert notes["nearest_own"] == own
    assert notes["nearest_holdout_to_train"] == of_holdout
    reasons = [reason for reason in (SAMPLES, SET, UNSEEN) if reason in own + of_holdout]
    assert notes["nearest_minus_holdout"] == " ".join(reasons)
    assert notes["memorized_fraction"] == fraction
    assert notes["psnr_gap"] == gap
    assert notes["to_linear"] == notes["to_optimum"] == linear
    assert notes["unconverged"] == unconverged
    assert {notes[quantity] for quantity in OF_TWO} == {SECOND}
    assert {row.status for (key, _), row in found.items() if key == "theirs"} == {"not measured"}


def test_a_number_stands_whatever_the_subject_is_said_to_lack(small):
    """A reason is given in the place of a number only."""
    subjects = synthetic_run.subject("theirs", has_denoiser=False)
    found = transition.estimates(
        summarize(synthetic_run.imported(small, 64, "theirs"), 0, resamples=20, subjects=subjects)
    )
    assert found["theirs", "psnr_gap"].note.startswith("The interval covers 60 training images and 60 held-out images.")


def test_every_quantity_says_what_it_needs():
    """Every quantity has a name of its own, a definition, and needs that have reasons."""
    assert list(quantities.NEEDS) == list(transition.QUANTITIES)
    assert set().union(*quantities.NEEDS.values()) == set(quantities.REASONS)
    every = [*transition.QUANTITIES.values(), *transition.POINTS.values()]
    assert len({quantity.name for quantity in every}) == len(every)
    assert all(quantity.definition.endswith(".") for quantity in every)
    assert not any("_" in quantity.name for quantity in transition.QUANTITIES.values())


def test_an_imported_subject_without_any_row(small):
    """It stands in the table all the same, with reasons; without a SUBJECTS table only the second model is missed."""
    bare_subject = synthetic_run.subject("theirs", has_samples=False, has_denoiser=False)
    found = transition.estimates(summarize({}, 0, subjects=bare_subject))
    assert found["theirs", "nearest_own"].note == "There are no samples."
    assert {row.status for (key, _), row in found.items() if key == "theirs"} == {"not measured"}
    bare = transition.estimates(summarize(synthetic_run.imported(small, 64, "theirs"), 0, resamples=20))
    assert bare["theirs", "to_linear"].note == ""
    assert bare["theirs", "bits"].note == "There is no second model that was trained on other images."
    cell = synthetic_run.subject("n4-s0-a", role="cell")
    assert {key for key, _ in transition.estimates(summarize({}, 0, subjects=cell))} == {None}


def test_the_noise_levels_of_the_bits(small):
    """The range given stands with the bits and with nothing else; without one there is none."""
    found = transition.estimates(summarize(small, 0, resamples=20, sigma_range=(0.05, 1.0)))
    assert {quantity for (_, quantity), row in found.items() if row.sigma_low is not None} == {"bits"}
    assert (found[4, "bits"].sigma_low, found[4, "bits"].sigma_high) == (0.05, 1.0)
    unknown = transition.estimates(summarize(small, 0, resamples=20))
    assert (unknown[4, "bits"].sigma_low, unknown[4, "bits"].sigma_high) == (None, None)


def test_regimes_follow_the_planted_answer(rows):
    """Copies at small N, a mixture between, common new images at large N; every sentence carries its numbers."""
    tables = synthetic_run.run().tables
    found = verdict.verdict(summarize(tables, seed=0), tables["copies"])
    assert found.regimes == {
        1: "memorizes", 4: "memorizes", 16: "memorizes", 64: "memorizes", 256: "mixed", 1024: "generalizes",
    }  # fmt: skip
    assert found.headline == (
        "The models memorize at N = 1, 4, 16, and 64, depend in part on their training sets at N = 256, and "
        "generalize at N = 1,024."
    )
    assert wording.estimate(rows[4, "memorized_fraction"]) in found.sentences[1]
    assert wording.estimate(rows[1024, "cross_minus_null"]) in found.sentences[5]
    assert any("4 of 192 at N = 16" in sentence for sentence in found.sentences)
    assert found.sentences[-1] == verdict.CAVEAT


def test_agreement_alone_is_not_generalization():
    """Two models that agree cannot be said to generalize where nearness to the training set was not measured."""
    rng = np.random.default_rng(0)
    same, different = 0.9 + 0.01 * rng.random(50), 0.2 + 0.01 * rng.random(50)
    table = pa.concat_tables([similarity(64, "same_noise", same), similarity(64, "different_noise", different, 7)])
    found = verdict.verdict(summarize({"similarity": table}, 0))
    assert found.regimes == {64: "cannot decide"}


def test_nothing_measured_gives_a_table_and_a_verdict():
    """An empty run has no rows but the transition points, and says that nothing was measured."""
    summary = summarize({}, 0)
    assert summary["quantity"].to_pylist() == list(transition.POINTS)
    assert verdict.verdict(summary).headline == "Nothing was measured that a verdict rests on."
    assert transition.estimates(summary)[None, "N_half"] == Estimate(None, None, None, 0, "images", "not measured")
    with pytest.raises(DataError, match=r"^transition table: found columns"):
        transition.estimates(schemas.LEVELS.empty_table())


def test_no_torch():
    """The transition is computed without importing torch."""
    code = "import sys, memgen.findings.transition, memgen.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
