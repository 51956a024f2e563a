"""What Jacobians show: means over images, ratios of means, values of a random basis, and their order."""

import numpy as np
import pytest

from memgen.base import schemas, tables
from memgen.findings import bases

NULL = {"dimension_99", "negative_part", "local_frequency", "contour_energy", "contour_direction"}
NULL |= {"overlap_pca", "overlap_twin", "overlap_tangent", "overlap_tangent_chance"}


def summary(subject="n4-s0-a", n_train=4, sigma=0.1, images=3, role="cell", **more):
    """A BASIS_SUMMARY table of one denoiser; what is not given is 0, or null where it may be."""
    fields = [field for field in schemas.BASIS_SUMMARY if field.name not in ("image_id", "converged")]
    columns = {field.name: None if field.name in NULL else 0 for field in fields}
    columns |= {
        "subject": subject,
        "role": role,
        "n_train": n_train,
        "sigma": sigma,
        "converged": True,
        "squared_error": 1.0,
    }
    columns |= {"part": subject[-1] if role == "cell" else None, "train_seed": 0 if role == "cell" else None}
    return tables.make(schemas.BASIS_SUMMARY, columns | {"image_id": [f"i{i}" for i in range(images)]} | more)


def stacked(*several):
    return tables.make(
        schemas.BASIS_SUMMARY,
        {name: [x for one in several for x in one[name].to_pylist()] for name in schemas.BASIS_SUMMARY.names},
    )


def test_both_models_of_a_size_are_averaged_by_image():
    """A mean over images of means over models; its interval is over images, and its unit is that of the quantity."""
    a, b = summary(trace=[1.0, 2.0, 6.0]), summary("n4-s0-b", trace=[3.0, 2.0, 4.0])
    (reading,) = bases.readings(stacked(a, b), 0)
    found = reading.values["trace"]
    assert (found.estimate, found.n, found.unit) == (3.0, 3, "dimensions")
    assert 2.0 <= found.low < 3.0 < found.high <= 5.0
    assert (reading.n_train, reading.subject, reading.sigma, reading.images) == (4, None, 0.1, 3)
    assert reading.label == "N = 4"


def test_a_ratio_is_one_of_means():
    """Stein's estimate and the posterior estimate are divided by the mean error, not image by image."""
    errors = {"squared_error": [1.0, 3.0], "sure": [2.0, 2.0], "posterior_error": [1.0, 1.0]}
    (reading,) = bases.readings(summary(images=2, **errors), 0)
    assert reading.values["sure_ratio"].estimate == 1.0
    assert reading.values["posterior_ratio"].estimate == 0.5
    assert reading.values["squared_error"].estimate == 2.0
    twice = {"squared_error": [1.0, 3.0, 8.0], "sure": [2.0, 6.0, 16.0]}
    ratio = bases.readings(summary(**twice), 0)[0].values["sure_ratio"]
    assert (ratio.low, ratio.estimate, ratio.high) == pytest.approx((2, 2, 2))


def test_what_was_not_measured_has_no_value_and_no_chance():
    """Nulls are left out; a quantity without any value is not among those of its noise level."""
    columns = {"overlap_twin": [0.5, None, 0.7], "overlap_chance": [0.1, 0.2, 0.3]}
    (reading,) = bases.readings(summary(**columns), 0)
    assert (reading.values["overlap_twin"].estimate, reading.values["overlap_twin"].n) == (pytest.approx(0.6), 2)
    assert reading.chance["overlap_twin"] == pytest.approx(0.2)
    assert reading.values["overlap_pca"].status == "not measured"
    assert "overlap_pca" not in reading.chance
    assert "trace" not in reading.chance
    ((sigma, here, measured),) = bases.by_level([reading])
    assert (sigma, here) == (0.1, [reading])
    assert "overlap_pca" not in measured
    assert measured == [name for name in bases.QUANTITIES if name in measured]
    assert {"trace", "overlap_twin"} <= set(measured)


def test_chance_is_a_column_or_a_constant():
    """Random vectors have an energy of 1 on the contours and a direction of 1/2; other values are in the table."""
    columns = {"contour_energy": 2.0, "contour_direction": 0.9, "local_frequency": 0.1, "local_frequency_chance": 0.3}
    columns |= {"overlap_tangent": 0.9, "overlap_tangent_chance": 0.05, "overlap_pca": 0.8, "overlap_chance": 0.2}
    (reading,) = bases.readings(summary(**columns), 0)
    expected = {"contour_energy": 1.0, "contour_direction": 0.5, "local_frequency": 0.3, "overlap_tangent": 0.05}
    expected |= {"overlap_dct": 0.2, "overlap_pca": 0.2}
    assert reading.chance == pytest.approx(expected)


def test_each_quantity_reads_its_own_column():
    """No two quantities are exchanged."""
    numbers = {name: float(i + 1) for i, name in enumerate(schemas.BASIS_SUMMARY.names[7:]) if name != "converged"}
    numbers |= {name: int(numbers[name]) for name in ("eigenpairs", "dimension_99", "overlap_rank")}
    (reading,) = bases.readings(summary(images=2, **numbers), 0)
    for name, quantity in bases.QUANTITIES.items():
        expected = numbers[quantity.column] / (numbers[quantity.by] if quantity.by else 1)
        assert reading.values[name].estimate == pytest.approx(expected), name
    same = {name for name, quantity in bases.QUANTITIES.items() if quantity.column == name}
    assert set(bases.QUANTITIES) - same == {"sure_ratio", "posterior_ratio"}
    assert {name: q.unit for name, q in bases.QUANTITIES.items() if q.unit} == {
        "trace": "dimensions",
        "dimension_squares": "dimensions",
        "dimension_99": "dimensions",
        "squared_error": "pixel units^2",
        "local_frequency": "cycles per pixel",
    }


WORDS = {
    "trace": ("dimensions kept", "tr J, the sum of the eigenvalues"),
    "dimension_squares": ("dimensions kept, by squares", "The sum of the squared singular values"),
    "dimension_99": ("singular values for 99 %", "How many of the largest singular values"),
    "asymmetry": ("asymmetry of J", "||J - Jᵀ|| / ||J||"),
    "negative_part": ("share of negative eigenvalues", "The negative part of the sum of the absolute eigenvalues"),
    "squared_error": ("squared error", "||f(y) - x||² / d"),
    "sure_ratio": ("Stein's estimate of the error", "Stein's unbiased estimate"),
    "posterior_ratio": ("posterior estimate of the error", "σ² tr J / d"),
    "local_frequency": ("frequency of the vectors kept", "How fast the first m eigenvectors oscillate"),
    "contour_energy": ("energy on the contours", "How much of the first m eigenvectors lies on the contours"),
    "contour_direction": ("variation across the contours", "Whether the first m eigenvectors vary across"),
    "overlap_twin": ("overlap with the other model's basis", "Overlap of the first m eigenvectors with those of"),
    "overlap_dct": ("overlap with the slowest cosines", "Overlap of the first m eigenvectors with the m slowest"),
    "overlap_pca": ("overlap with the principal components", "Overlap of the first m eigenvectors with the first m"),
    "overlap_tangent": ("overlap with the tangent directions", "Overlap of the first eigenvectors with as many dir"),
}


def test_each_quantity_has_its_words():
    """Names and definitions say what the column is; people read them in place of it."""
    assert list(bases.QUANTITIES) == list(WORDS)
    for key, (name, start) in WORDS.items():
        assert bases.QUANTITIES[key].name == name
        assert bases.QUANTITIES[key].definition.startswith(start)


def test_order_of_readings():
    """Sizes come in ascending order, then imported denoisers by name, each with its noise levels in ascending order."""
    several = [summary("zebra", 64, 0.1, role="imported"), summary("ape", None, 0.2, role="imported")]
    several += [summary("ape", None, 0.1, role="imported"), summary("n64-s0-a", 64), summary("n4-s0-a", 4, 0.2)]
    found = bases.readings(stacked(*several, summary("n4-s0-b", 4, 0.1)), 0)
    keys = [(reading.n_train, reading.subject, reading.sigma) for reading in found]
    assert keys == [
        (4, None, 0.1), (4, None, 0.2), (64, None, 0.1), (None, "ape", 0.1), (None, "ape", 0.2), (64, "zebra", 0.1),
    ]  # fmt: skip
    assert [reading.label for reading in found][3:] == ["ape", "ape", "zebra"]
    levels = bases.by_level(found)
    assert [(sigma, len(here)) for sigma, here, _ in levels] == [(0.1, 4), (0.2, 2)]
    sigmas = [0.7, 0.05, 2.0, 0.3, 0.1, 1.1, 0.02]
    many = bases.by_level([bases.readings(summary(sigma=sigma), 0)[0] for sigma in sigmas])
    assert [sigma for sigma, _, _ in many] == sorted(sigmas)
    one_has_it = [summary(), summary("theirs", None, role="imported", overlap_pca=0.5)]
    ((_, _, measured),) = bases.by_level(bases.readings(stacked(*one_has_it), 0))
    assert "overlap_pca" in measured


def test_bases_that_did_not_converge_are_counted():
    """Every one of both models counts."""
    a, b = summary(converged=[True, False, False]), summary("n4-s0-b", converged=[False, True, True])
    (reading,) = bases.readings(stacked(a, b), 0)
    assert reading.unconverged == 3


def test_the_seed_moves_the_interval_alone():
    """Intervals are bootstraps with the seed given."""
    table = summary(images=8, trace=np.arange(8.0))
    first, again, other = (bases.readings(table, seed)[0].values["trace"] for seed in (0, 0, 1))
    assert first == again
    assert first.estimate == other.estimate
    assert (first.low, first.high) != (other.low, other.high)
