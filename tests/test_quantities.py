"""Every quantity against the number that its table was made for."""

import numpy as np
import pyarrow as pa
import pytest
from synthetic_run import stacked
from test_transition import examined, neighbors, similarity

from memgen.base import schemas, tables
from memgen.findings.quantities import Similarity
from memgen.findings.transition import POINTS, QUANTITIES, estimates, summarize

CORRELATION, RMSE = Similarity(), Similarity("rmse", "pixel units", larger_is_closer=False)
SAMPLES = np.arange(20)


def found(run, of=CORRELATION, key=8):
    rows = estimates(summarize(run, 0, of, resamples=50, sigma_range=(0.1, 1.0)))
    assert [quantity for at, quantity in rows if at == key] == list(QUANTITIES)
    return {quantity: row for (at, quantity), row in rows.items() if at == key}


def held_out(values, metric="correlation", **more):
    """NEIGHBORS of held-out images, searched in the training set of part a."""
    columns = {"query_kind": "holdout", "subject": None, "role": None, "part": None, "train_seed": None}
    return neighbors(np.asarray(values), 8, **(columns | {"metric": metric} | more))


def psnr(values, kind, part="a", seed=0, sigmas=(0.1, 0.4), **more):
    """A PSNR table of values (images, noise levels)."""
    image, level = (index.ravel() for index in np.indices(values.shape))
    columns = {"subject": f"n8-s{seed}-{part}", "role": "cell", "n_train": 8, "part": part, "train_seed": seed}
    columns |= {"kind": kind, "image_id": [f"{kind} {i}" for i in image], "sigma": np.array(sigmas)[level]}
    columns |= {"noise_draw": 0, "input_psnr_db": 20.0, "output_psnr_db": values.ravel()}
    return tables.make(schemas.PSNR, columns | more)


def distances(values, kind, weights=None, **more):
    """A DISTANCES table of values (images or samples, noise levels)."""
    image, level = (index.ravel() for index in np.indices(values.shape))
    columns = {"subject_a": "n8-s0-a", "subject_b": "n8-s0-b", "role": "cell", "n_train": 8, "train_seed": 0}
    columns |= {
        "kind": kind,
        "image_id": [str(i) for i in image],
        "sigma": np.array([0.1, 0.4])[level],
        "noise_draw": 0,
    }
    columns |= {"value": values.ravel(), "weight": None if weights is None else np.array(weights)[level]}
    return tables.make(schemas.DISTANCES, columns | more)


@pytest.mark.parametrize(("of", "sign"), [(CORRELATION, 1), (RMSE, -1)])
def test_similarities_and_their_differences(of, sign):
    """Each median is of its own rows; a difference is positive where the first is closer."""
    names = {"metric": of.name}
    run = {
        "neighbors": pa.concat_tables([neighbors(np.full(20, 0.9), 8, **names), held_out(np.full(30, 0.6), of.name)]),
        "similarity": pa.concat_tables(
            [
                similarity(8, "same_noise", np.full(20, 0.75), **names),
                similarity(8, "different_noise", np.full(20, 0.35), 7, **names),
                similarity(8, "train_train", np.full(8, 0.5), **names),
            ]
        ),
    }
    rows = found(run, of)
    expected = {"nearest_own": 0.9, "nearest_holdout_to_train": 0.6, "nearest_minus_holdout": sign * 0.3}
    expected |= {"cross_same": 0.75, "cross_different": 0.35, "cross_minus_null": sign * 0.4}
    expected |= {"train_train": 0.5, "cross_minus_nearest": sign * -0.15}
    counts = {"nearest_holdout_to_train": 30, "train_train": 8}
    for quantity, value in expected.items():
        row = rows[quantity]
        assert (row.estimate, row.low, row.high) == pytest.approx((value, value, value)), quantity
        assert (row.unit, row.n) == ({1: "correlation", -1: "pixel units"}[sign], counts.get(quantity, 20)), quantity
    assert rows["nearest_minus_holdout"].note.startswith("The interval covers 20 samples and 30 held-out images.")
    assert rows["cross_minus_nearest"].note.startswith("The interval covers 20 samples.")
    assert rows["train_train"].note.startswith("The interval covers 8 training images.")
    other = found(run | {"psnr": psnr(np.ones((2, 2)), "train")}, RMSE if of is CORRELATION else CORRELATION)
    assert other["nearest_own"].status == other["cross_same"].status == "not measured"


def test_only_the_nearest_image_of_the_own_training_set_counts():
    """Other ranks, other training sets, other queries and the holdout as a reference are left out."""
    values = np.full(20, 0.9)
    others = [neighbors(values - 0.5, 8, rank=2), neighbors(values - 0.5, 8, reference="train_b")]
    others += [neighbors(values - 0.5, 8, reference="holdout"), neighbors(values - 0.5, 8, query_kind="user")]
    others += [held_out(np.zeros(30), reference="holdout"), held_out(np.full(30, 0.2)), held_out(np.zeros(30), rank=2)]
    rows = found({"neighbors": pa.concat_tables([neighbors(values, 8), *others])})
    assert rows["nearest_own"].estimate == pytest.approx(0.9)
    assert rows["nearest_holdout_to_train"].estimate == pytest.approx(0.2)
    both = held_out(np.full(30, 0.4), reference="train_b", query_id=[f"other {i}" for i in range(30)])
    twins = found({"neighbors": pa.concat_tables([held_out(np.full(30, 0.2)), both])})
    assert (twins["nearest_holdout_to_train"].estimate, twins["nearest_holdout_to_train"].n) == (pytest.approx(0.3), 60)


def test_a_pair_of_samples_counts_as_often_as_both():
    """Samples from different noise are resampled by both samples of a pair; from the same noise, once."""
    values = np.random.default_rng(0).normal(size=20)
    same = found({"similarity": similarity(8, "same_noise", values)})["cross_same"]
    shifted = found({"similarity": similarity(8, "different_noise", values, 7)})["cross_different"]
    alone = found({"similarity": similarity(8, "different_noise", values, 0)})["cross_different"]
    assert same.estimate == shifted.estimate == alone.estimate
    assert len({(row.low, row.high) for row in (same, shifted, alone)}) > 1
    assert (shifted.low, shifted.high) != (alone.low, alone.high)


def test_the_gap_averages_images_first():
    """Each image and model has one mean over its rows, whatever their number; the gap is that of the means."""
    train = psnr(np.array([[30.0, 20.0], [40.0, 30.0]]), "train")
    more = psnr(np.array([[30.0, 20.0]]), "train", noise_draw=1)  # the first image, drawn twice
    held = psnr(np.array([[20.0, 10.0], [22.0, 14.0], [24.0, 18.0]]), "holdout")
    gap = found({"psnr": pa.concat_tables([train, more, held])})["psnr_gap"]
    assert gap.estimate == pytest.approx((25 + 35) / 2 - (15 + 18 + 21) / 3)
    assert (gap.n, gap.unit, gap.status) == (2, "dB", "measured")
    assert gap.low < gap.estimate < gap.high
    assert gap.note.startswith("The interval covers 2 training images and 3 held-out images.")
    undefined = psnr(np.array([[20.0, 10.0], [22.0, 14.0], [24.0, 18.0], [np.nan, np.nan]]), "holdout")
    same = found({"psnr": pa.concat_tables([train, more, undefined])})["psnr_gap"]
    assert same.estimate == gap.estimate
    assert same.note.endswith(" 1 of 4 values are undefined and left out.")
    none = found({"psnr": pa.concat_tables([train, psnr(np.full((3, 2), np.nan), "holdout")])})["psnr_gap"]
    assert (none.estimate, none.note) == (None, "3 of 3 values are undefined and left out.")
    alone = found({"psnr": psnr(np.ones((2, 2)), "train")})["psnr_gap"]
    assert (alone.estimate, alone.status, alone.unit, alone.note) == (None, "not measured", "dB", "")
    one = found({"psnr": pa.concat_tables([psnr(np.full((1, 2), 30.0), "train"), held])})["psnr_gap"]
    assert (one.estimate, one.low, one.status, one.n) == (12.0, None, "no interval", 1)
    assert one.note == "There is no interval: 1 training image and 3 held-out images are too few."


def test_single_training_images_have_no_interval():
    """At N = 1 there are two training images, of two models, and no interval all the same."""
    rows = [psnr(np.full((1, 2), 30.0), "train", part, image_id=f"{part} image", n_train=1) for part in "ab"]
    rows += [psnr(np.full((4, 2), 20.0), "holdout", part, n_train=1) for part in "ab"]
    gap = found({"psnr": pa.concat_tables(rows)}, key=1)["psnr_gap"]
    assert (gap.estimate, gap.low, gap.high, gap.n, gap.unit) == (10.0, None, None, 2, "dB")
    assert gap.note == "There is no interval, because each model has a single training image."


def test_training_seeds_are_resampled_with_the_images():
    """Seeds that differ widen the intervals of the gap, of V, of the bits and of PSNR over a reference."""
    values = np.random.default_rng(0).normal(20, 0.1, (30, 2))
    seeds = range(3)
    rows = [
        psnr(values + 10 * (kind == "train") + seed, kind, seed=seed) for seed in seeds for kind in ("train", "holdout")
    ]
    reference = {"role": "reference", "subject": "best_linear", "n_train": None, "part": None, "train_seed": None}
    rows.append(psnr(values, "holdout", **reference))
    apart = [distances(np.abs(values) + seed, "models", train_seed=seed) for seed in seeds]
    apart += [
        distances(np.abs(values) + seed, f"samples_{part}", (1, 1), train_seed=seed) for seed in seeds for part in "ab"
    ]
    several = found({"psnr": pa.concat_tables(rows), "distances": pa.concat_tables(apart)})
    for quantity, width in (("disagreement", 1.0), ("bits", 2.0), ("to_linear", 1.0)):
        row = several[quantity]
        assert "3 training seeds" in row.note
        assert row.high - row.low > width, quantity
    assert several["psnr_gap"].estimate == pytest.approx(10)
    assert (
        several["psnr_gap"].note == "The interval covers 30 training images, 30 held-out images, and 3 training seeds."
    )


def test_disagreement_is_the_mean_over_images_and_levels():
    """V is a mean of all rows of the pair on held-out images, and of no other kind."""
    values = np.arange(20.0).reshape(10, 2)
    run = {"distances": pa.concat_tables([distances(values, "models"), distances(values + 100, "empirical")])}
    row = found(run)["disagreement"]
    assert (row.estimate, row.n, row.unit) == (9.5, 10, "pixel units^2")
    assert row.note.startswith("The interval covers 10 images.")


def test_bits_are_an_integral_over_noise_levels():
    """Weighted values are added up over levels and averaged over the samples of both models."""
    a, b = np.full((6, 2), [1.0, 2.0]), np.full((6, 2), [3.0, 4.0])
    rows = [distances(a, "samples_a", (10, 100)), distances(b, "samples_b", (10, 100)), distances(a + 50, "models")]
    row = found({"distances": pa.concat_tables(rows)})["bits"]
    assert row.estimate == pytest.approx(((10 + 200) + (30 + 400)) / 2)
    assert (row.n, row.unit, row.sigma_low, row.sigma_high) == (6, "bits per dimension", 0.1, 1.0)
    none = found({"distances": distances(a, "models")})["bits"]
    assert (none.status, none.unit, none.sigma_low, none.note) == ("not measured", "bits per dimension", None, "")


def test_a_reference_is_compared_at_the_same_noisy_images():
    """PSNR less that of the reference with the same image, noise level and draw; what has no partner is left out."""
    known = np.array([[30.0, 10.0], [20.0, 40.0]])
    own = psnr(known + np.array([[1.0, 3.0], [2.0, 4.0]]), "holdout")
    elsewhere = psnr(np.full((1, 2), 99.0), "holdout", image_id="elsewhere")
    columns = {"role": "reference", "n_train": None, "part": None, "train_seed": None}
    linear = psnr(known, "holdout", subject="best_linear", **columns)
    optimum = psnr(known + 5, "holdout", subject="exact_optimum", **columns)
    other_draw = psnr(known + 70, "holdout", subject="best_linear", noise_draw=1, **columns)
    train = psnr(known + 50, "train")
    rows = found({"psnr": pa.concat_tables([train, own, elsewhere, linear, other_draw, optimum])})
    assert (rows["to_linear"].estimate, rows["to_linear"].n, rows["to_linear"].unit) == (2.5, 2, "dB")
    assert rows["to_linear"].note.startswith("The interval covers 2 held-out images.")
    assert rows["to_linear"].note.endswith(" 1 of 3 values are undefined and left out.")
    assert rows["to_optimum"].estimate == -2.5
    alone = found({"psnr": pa.concat_tables([own, optimum])})
    assert (alone["to_linear"].status, alone["to_linear"].unit) == ("not measured", "dB")
    assert alone["to_optimum"].estimate == -2.5


def test_samples_that_did_not_converge_are_counted_by_kind():
    """Given samples are neither drawn nor counted."""
    status = ["converged"] * 5 + ["step_cap"] * 2 + ["diverged"] * 3
    columns = {"subject": "n8-s0-a", "role": "cell", "n_train": 8, "part": "a", "train_seed": 0, "noise_seed": 0}
    columns |= {"updates": 9, "sigma": 0.1, "residual_sigma": 0.1}
    rows = tables.make(schemas.SAMPLES, columns | {"sample": np.arange(10), "status": status})
    row = found({"samples": rows})["unconverged"]
    assert (row.estimate, row.low, row.n, row.unit, row.status) == (5.0, None, 10, "samples", "no interval")
    assert row.note == "Of 10 samples, 2 stopped at the step cap and 3 diverged. All are kept."
    given = tables.make(schemas.SAMPLES, columns | {"sample": np.arange(2), "status": ["given", "diverged"]})
    assert found({"samples": given})["unconverged"].n == 1
    given = tables.make(schemas.SAMPLES, columns | {"sample": np.arange(2), "status": ["given", "given"]})
    row = found({"samples": given})["unconverged"]
    assert (row.estimate, row.unit) == (None, "samples")
    assert row.note == "The samples were imported. None was drawn here."
    row = found({"psnr": psnr(np.ones((2, 2)), "train")})["unconverged"]
    assert (row.estimate, row.unit, row.note) == (None, "samples", "")


def test_the_share_expected_by_chance_is_that_of_the_pools():
    """With pools of unequal size the control is the mean of their shares of T."""
    hits = np.arange(20) < 10
    both = stacked(examined(8, SAMPLES, hits, (10, 30)), examined(8, SAMPLES, hits, (30, 30), part="b"))
    rho = found(both)["memorized_fraction"]
    control = (0.25 + 0.5) / 2
    assert rho.estimate == pytest.approx((0.5 - control) / (1 - control))
    assert (rho.n, rho.unit) == (20, "share")
    assert rho.note == (
        "40 samples have 40 different nearest images. A share of 0.3750 is expected of a model that does not know its "
        "training set."
    )
    many = found(examined(8, np.arange(2200) % 1100, np.arange(2200) % 2 < 1, (10, 10)))["memorized_fraction"]
    assert many.estimate == 0
    assert many.note.startswith("2,200 samples have 1,100 different nearest images. A share of 0.5000 is expected")
    none = found({"psnr": psnr(np.ones((2, 2)), "train")})["memorized_fraction"]
    assert (none.unit, none.note) == ("share", "The samples were not tested for copies. Run memgen verdict.")


@pytest.mark.parametrize(
    ("key", "name", "said"),
    [
        ("nearest_own", "similarity to own training set", "nearest image of the model's own training set"),
        (
            "nearest_holdout_to_train",
            "similarity of held-out images to the training set",
            "Median, over held-out images",
        ),
        ("nearest_minus_holdout", "excess similarity to own training set", "minus that of held-out images"),
        ("cross_same", "similarity between models (same noise)", "from the same noise."),
        ("cross_different", "similarity between models (different noise)", "from different noise. It"),
        ("cross_minus_null", "excess similarity between models", "same noise minus that from different noise"),
        ("train_train", "similarity of training images across the halves", "training image of the other half"),
        ("cross_minus_nearest", "similarity to the other model over that to own training set", "other model's sample"),
        ("memorized_fraction", "memorized fraction", "Share of samples whose nearest image"),
        ("psnr_gap", "PSNR gap", "PSNR on training images minus that on held-out images"),
        ("disagreement", "disagreement V", "Mean squared difference per pixel"),
        ("bits", "score difference", "in bits per dimension"),
        ("to_linear", "PSNR over the best linear denoiser", "minus that of the best linear denoiser"),
        ("to_optimum", "PSNR over the exact optimum", "minus that of the exact posterior mean"),
        ("unconverged", "samples that did not converge", "Number of samples that reached the step cap"),
        ("N_cross", "N*_cross", "overtakes the similarity to the own training set"),
        ("N_half", "N*_half", "memorized fraction falls through 1/2"),
    ],
)
def test_each_quantity_has_its_own_words(key, name, said):
    """The name and the definition that people read are those of the number that stands under the key."""
    quantity = (QUANTITIES | POINTS)[key]
    assert quantity.name == name
    assert said in quantity.definition
