"""Summaries at each noise level: means, ratios, references, and what is null."""

import numpy as np
import pyarrow as pa
import pytest
import synthetic_run
from synthetic_run import role_of

from memgen.base import schemas, tables
from memgen.findings import levels

SIGMAS = np.array([0.1, 0.4])
PAIR = {"subject_a": "n8-s0-a", "subject_b": "n8-s0-b", "role": "cell", "n_train": 8, "train_seed": 0}


def apart(kind: str, values: np.ndarray, sigmas: np.ndarray = SIGMAS, **more) -> pa.Table:
    """A DISTANCES table of values (images, levels), one draw."""
    image, level = (index.ravel() for index in np.indices(values.shape))
    columns = {"kind": kind, "image_id": [f"i{i}" for i in image], "sigma": sigmas[level], "noise_draw": 0}
    return tables.make(schemas.DISTANCES, PAIR | columns | {"value": values.ravel(), "weight": None} | more)


def psnr(denoiser: str, values: np.ndarray, n_train: int | None) -> pa.Table:
    """A PSNR table of values (images, levels) on held-out images."""
    image, level = (index.ravel() for index in np.indices(values.shape))
    columns = {
        "subject": denoiser,
        "role": role_of(denoiser, n_train),
        "n_train": n_train,
        "part": n_train and "a",
        "train_seed": n_train and 0,
    }
    columns |= {"kind": "holdout", "image_id": [f"i{i}" for i in image], "sigma": SIGMAS[level], "noise_draw": 0}
    columns |= {"input_psnr_db": -20 * np.log10(SIGMAS)[level], "output_psnr_db": values.ravel()}
    return tables.make(schemas.PSNR, columns)


def rows(run: dict, quantity: str) -> list[dict]:
    found = levels.summarize(run, seed=0)
    tables.check(found, schemas.LEVELS, "test")
    return [row for row in found.to_pylist() if row["quantity"] == quantity]


def test_disagreement_is_the_mean_over_images():
    """V is the mean of the models' values at each level, its interval contains it and has a width."""
    values = np.random.default_rng(0).random((50, 2)) * [1, 10]
    found = rows({"distances": apart("models", values)}, "disagreement")
    assert [row["sigma"] for row in found] == SIGMAS.tolist()
    for row, column in zip(found, values.T, strict=True):
        assert row["estimate"] == pytest.approx(column.mean())
        assert row["low"] < row["estimate"] < row["high"]
        assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * column.std() / 50**0.5, rel=0.2)
        assert (row["n"], row["n_train"], row["unit"]) == (50, 8, "pixel units^2")


def test_bits_density_weighs_by_the_noise_level():
    """Samples of both models count, in bits: V / (sigma^2 ln 2)."""
    a, b = np.full((10, 2), 0.2), np.full((10, 2), 0.4)
    run = {"distances": pa.concat_tables([apart("samples_a", a), apart("samples_b", b)])}
    found = rows(run, "bits_density")
    assert [row["estimate"] for row in found] == pytest.approx((0.3 / SIGMAS**2 / np.log(2)).tolist())


def empirical(own: np.ndarray, far: np.ndarray) -> dict:
    kinds = {"empirical_a": own, "empirical_b": own, "empirical": far}
    return {"distances": pa.concat_tables([apart(kind, values) for kind, values in kinds.items()])}


def test_distance_to_memorization_is_a_ratio_of_means():
    """0 for a model that is the posterior mean of its set, 1 for one as far as another set's is; not a mean of ratios."""
    far = np.random.default_rng(0).random((30, 2)) + 0.1
    assert {row["estimate"] for row in rows(empirical(0 * far, far), "to_empirical")} == {0}
    shuffled = far[::-1]
    for row in rows(empirical(shuffled, far), "to_empirical"):
        assert row["estimate"] == pytest.approx(1)
        assert row["low"] < 1 < row["high"]


def test_distance_to_memorization_is_null_below_the_floor():
    """Where two sets have the same posterior mean up to rounding there is no ratio."""
    far = np.full((30, 2), [0.5, levels.FLOOR / 2])
    first, second = rows(empirical(far, far), "to_empirical")
    assert (first["estimate"], first["status"]) == (pytest.approx(1), "measured")
    assert (second["estimate"], second["status"], second["n"]) == (None, "not measured", 30)


def test_references_are_paired_with_the_same_images():
    """A model 2 dB above the linear reference on every image has 2 dB and no width, whatever the images are."""
    known = 20 + 10 * np.random.default_rng(0).random((20, 2))
    run = {
        "psnr": pa.concat_tables([psnr("n8-s0-a", known + 2, 8), psnr(schemas.REFERENCES["to_linear"], known, None)])
    }
    for row in rows(run, "to_linear"):
        assert (row["estimate"], row["low"], row["high"]) == pytest.approx((2, 2, 2))
    assert rows(run, "to_optimum") == []


def test_excess_error_is_a_share_of_the_mean_error():
    """Twice the optimum's error on every image is a share of 1/2 beyond it; means of errors count, not of decibels."""
    least = 20 + 10 * np.random.default_rng(0).random((20, 2))
    optimum = psnr(schemas.REFERENCES["to_optimum"], least, None)
    run = {"psnr": pa.concat_tables([psnr("n8-s0-a", least - 10 * np.log10(2), 8), optimum])}
    for row in rows(run, "excess_error"):
        assert (row["estimate"], row["low"], row["high"]) == pytest.approx((0.5, 0.5, 0.5))
        assert row["unit"] == "share"
    worse = least - 10 * np.random.default_rng(1).random((20, 2))
    run = {"psnr": pa.concat_tables([psnr("n8-s0-a", worse, 8), optimum])}
    expected = 1 - (10 ** (-least / 10)).mean(axis=0) / (10 ** (-worse / 10)).mean(axis=0)
    assert [row["estimate"] for row in rows(run, "excess_error")] == pytest.approx(expected.tolist())
    assert [row["low"] < row["estimate"] < row["high"] for row in rows(run, "excess_error")] == [True, True]


def test_an_imported_denoiser_has_its_own_levels():
    """It is compared with the references on the images and noise levels that both have, and belongs to no size."""
    known = 20 + 10 * np.random.default_rng(0).random((20, 2))
    theirs = psnr("theirs", known[5:] + 2, None).to_pylist()
    for row in theirs:
        row["image_id"] = f"i{int(row['image_id'][1:]) + 5}"
    other = [row | {"image_id": f"elsewhere {row['image_id']}", "output_psnr_db": 0.0} for row in theirs]
    columns = {name: [row[name] for row in theirs + other] for name in schemas.PSNR.names}
    optimum = psnr(schemas.REFERENCES["to_optimum"], known, None)
    cell = psnr("n8-s0-a", known + 1, 8)
    found = rows({"psnr": pa.concat_tables([cell, tables.make(schemas.PSNR, columns), optimum])}, "to_optimum")
    assert [(row["n_train"], row["subject"], row["n"]) for row in found] == [
        (8, None, 20), (8, None, 20), (None, "theirs", 15), (None, "theirs", 15),
    ]  # fmt: skip
    assert [row["estimate"] for row in found] == pytest.approx([1, 1, 2, 2])
    pair = apart("models", np.ones((4, 2)), role="imported")
    assert levels.summarize({"distances": pair}, 0).num_rows == 0


def test_nothing_measured_gives_no_rows():
    """An empty run, or one without a reference, has no such rows."""
    assert levels.summarize({}, 0).num_rows == 0
    assert rows({"psnr": psnr("n8-s0-a", np.ones((3, 2)), 8)}, "to_linear") == []


def test_a_whole_run():
    """Every N of a run has its curves, in ascending order."""
    found = levels.summarize(synthetic_run.run().tables, seed=0)
    for quantity in ("disagreement", "bits_density"):
        sizes = [row["n_train"] for row in found.to_pylist() if row["quantity"] == quantity]
        assert sorted(set(sizes)) == list(synthetic_run.COPIES)
        assert sizes == sorted(sizes)


def test_sizes_and_names_ascend_whatever_the_order_of_the_rows():
    """N in ascending order, then imported denoisers by name; each quantity has its unit."""
    values = np.full((3, 2), 20.0)
    pairs = [apart("models", values, n_train=n) for n in (64, 8)]
    pairs += [apart(kind, values, n_train=n) for n in (64, 8) for kind in ("samples_a", "samples_b")]
    kinds = ("empirical_a", "empirical_b", "empirical")
    pairs += [apart(kind, values, n_train=n) for n in (64, 8) for kind in kinds]
    denoisers = [
        psnr(name, values, n) for name, n in (("n64-s0-a", 64), ("n8-s0-a", 8), ("zebra", None), ("ape", None))
    ]
    references = [psnr(name, values - 1, None) for name in schemas.REFERENCES.values()]
    run = {"distances": pa.concat_tables(pairs), "psnr": pa.concat_tables([*denoisers, *references])}
    found = levels.summarize(run, 0).to_pylist()
    keys = {}
    for row in found:
        keys.setdefault(row["quantity"], []).append((row["n_train"], row["subject"]))
    sizes, names = [(8, None), (64, None)], [(None, "ape"), (None, "zebra")]
    for quantity, of in keys.items():
        of_one = quantity in ("to_linear", "to_optimum", "excess_error")
        assert list(dict.fromkeys(of)) == (sizes + names if of_one else sizes)
    assert {row["quantity"]: row["unit"] for row in found} == {
        "disagreement": "pixel units^2",
        "bits_density": "bits per dimension and ln sigma",
        "to_empirical": "ratio",
        "to_linear": "dB",
        "to_optimum": "dB",
        "excess_error": "share",
    }


def test_small_errors_have_a_share():
    """The floor is for distances to posterior means alone, and it is a hundredth of a gray level."""
    least = np.full((3, 2), 110.0)
    run = {"psnr": pa.concat_tables([psnr("n8-s0-a", least - 3, 8), psnr("exact_optimum", least, None)])}
    assert [row["estimate"] for row in rows(run, "excess_error")] == pytest.approx([1 - 10**-0.3] * 2)
    assert levels.FLOOR == (0.01 / 255) ** 2
    assert [row["estimate"] for row in rows(empirical(0 * least, 0 * least + levels.FLOOR), "to_empirical")] == [0, 0]


def test_bits_take_samples_of_both_models():
    """Samples of one model alone give no bits."""
    for kind in ("samples_a", "samples_b"):
        assert levels.summarize({"distances": apart(kind, np.ones((3, 2)))}, 0).num_rows == 0


def test_a_denoiser_with_other_held_out_images_has_no_difference_to_the_references():
    """Its held-out images are its own, and none of them is among those of the reference: no row, and no error."""
    reference, values = schemas.REFERENCES["to_linear"], np.arange(8.0).reshape(4, 2)
    other = psnr("theirs", values, None)
    other = other.set_column(
        other.schema.get_field_index("image_id"), "image_id", pa.array([f"o{i // 2}" for i in range(8)])
    )
    measured = [psnr(reference, values, None), other, psnr("alike", values + 1, None)]
    run = {"psnr": pa.concat_tables([each.cast(schemas.PSNR) for each in measured])}
    assert {row["subject"] for row in rows(run, "to_linear")} == {"alike"}
