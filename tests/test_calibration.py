"""The instrument's self-test: its controls are what they say, its readings hold the test to its promise."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.datasets import load_digits

from memgen.base import schemas, tables
from memgen.base.errors import DataError
from memgen.base.intervals import wilson
from memgen.findings.calibration import of_size, summarize
from memgen.images.imageset import ImageSet
from memgen.measures.copies import controls
from memgen.measures.copies.controls import Design, run_once
from memgen.models.sampling import SampleSettings

DESIGN = Design(100, 200, 60, 0.99, "torch", "cpu", SampleSettings(sigma_end=0.02, h0=0.05))


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return ImageSet.from_pixels((load_digits().images[:600, None] * 15.9375).astype(np.uint8))


@pytest.fixture(scope="module")
def first(digits):
    """The first redraw."""
    return tables.check(run_once(digits, DESIGN, 0, 0), schemas.CALIBRATION, "test")


def of(table, control, eps=None, share=None):
    (row,) = [
        row for row in table.to_pylist() if row["control"] == control and row["eps"] == eps and row["share"] == share
    ]
    return row


def test_the_memorizer_is_read_as_one(first):
    """Every sample of the posterior mean of T is nearest to T, and images of T are found."""
    row = of(first, "empirical")
    assert row["memorized_fraction"] == row["known_fraction"] == row["high"] == 1
    assert row["false_discoveries"] == 0 < row["discoveries"]
    assert row["p"] < 0.01


def test_exact_copies_are_found(first):
    """Planted copies without noise are found, nearly all of them, in one redraw; the share planted is the share asked."""
    row = of(first, "copies", 0.0, 0.3)
    assert (row["copies"], row["samples"], row["known_fraction"]) == (18, 60, 0.3)
    assert row["discoveries"] - row["false_discoveries"] >= 16
    assert of(first, "duplicated", 0.05, 0.3)["discoveries"] >= 14


@pytest.mark.parametrize("control", ["held-out", "broadened", "blurred", "one mode", "correlated"])
def test_nothing_is_found_where_nothing_is_copied(first, control):
    """No discovery in this redraw (by chance in at most one of twenty), and p is not small."""
    row = of(first, control)
    assert row["copies"] == row["discoveries"] == 0
    assert row["p"] > 0.001
    assert row["known_fraction"] == 0


def test_the_same_redraw_every_time(digits, first):
    """A redraw depends on its seed and number; the memorizer draws in the first alone."""
    assert run_once(digits, DESIGN, 0, 0).equals(first)
    second = run_once(digits, DESIGN, 0, 1)
    assert "empirical" not in second["control"].to_pylist()
    assert second["p"].to_pylist() != first["p"].to_pylist()[: len(second)]
    assert run_once(digits, DESIGN, 1, 1)["p"].to_pylist() != second["p"].to_pylist()


def test_too_few_images(digits):
    """Without an image left for H the sizes are named."""
    with pytest.raises(DataError, match="600 images, but T needs 540"):
        run_once(digits, replace(DESIGN, n_train=540), 0, 0)


def rows(control, outcomes, **more):
    """A CALIBRATION table: (discoveries, false ones, low, high) of each repeat."""
    columns = {"n_train": 8, "control": control, "share": None, "eps": None, "samples": 100, "copies": 0, "q": 0.05}
    columns |= {"answer": "none", "k_min": 1, "memorized_fraction": 0.0, "known_fraction": 0.0, "p": 0.5} | more
    discoveries, false, low, high = (list(column) for column in zip(*outcomes, strict=True))
    columns |= {"discoveries": discoveries, "false_discoveries": false, "low": low, "high": high}
    return tables.make(schemas.CALIBRATION, columns | {"repeat": list(range(len(outcomes)))})


def only(table):
    (control,) = summarize(table)
    return control


def test_an_instrument_that_finds_what_is_not_there_is_out():
    """Discoveries in 6 of 20 repeats without copies are too many; in 1 of 20 they are not."""
    nothing, something = (0, 0, -1, 1), (1, 1, -1, 1)
    assert only(rows("held-out", [nothing] * 20)).band == "in"
    assert only(rows("held-out", [nothing] * 19 + [something])).band == "in"
    reading = only(rows("held-out", [nothing] * 14 + [something] * 6))
    assert reading.band == "out"
    assert reading.any_found.estimate == reading.false_share.estimate == 0.3


def test_an_interval_that_misses_is_out():
    """The known fraction outside of the interval in 4 of 20 repeats is too often."""
    assert only(rows("held-out", [(0, 0, -1, 1)] * 18 + [(0, 0, 0.1, 1)] * 2)).band == "in"
    reading = only(rows("held-out", [(0, 0, -1, 1)] * 15 + [(0, 0, 0.1, 1)] * 5))
    assert reading.band == "out"
    assert reading.covered.estimate == 0.75


def test_false_share_and_power():
    """Both are means over repeats; where nothing is found nothing is false."""
    table = rows("copies", [(10, 1, 0, 1), (0, 0, 0, 1)], share=0.1, eps=0.0, copies=10, known_fraction=None)
    reading = only(table)
    assert reading.false_share.estimate == pytest.approx(0.05)
    assert reading.power.estimate == pytest.approx(0.45)
    assert reading.covered is None
    worse = rows("copies", [(10, 3, 0, 1), (10, 2, 0, 1)] * 5, share=0.1, eps=0.0, copies=10, known_fraction=None)
    assert only(worse).band == "out"


def test_what_a_control_says_of_itself():
    """Share, noise and copies are those of the table, k_min the largest; rates have Wilson's interval and a unit."""
    outcomes = [(1, 1, -1, 1), *[(0, 0, -1, 1)] * 19]
    table = rows("copies", outcomes, share=0.1, eps=0.03, copies=[10, *[12] * 19], k_min=[3, 9, *[4] * 18])
    found = only(table)
    assert (found.control, found.share, found.eps, found.repeats, found.copies, found.k_min) == (
        "copies", 0.1, 0.03, 20, pytest.approx(11.9), 9,
    )  # fmt: skip
    low, high = wilson(0.05, 20)
    for rate in (found.any_found, found.false_share):
        assert (rate.estimate, rate.low, rate.high, rate.n, rate.unit) == (0.05, low, high, 20, "share")
    spread = only(rows("copies", [(10, 5, 0, 1), (10, 1, 0, 1), (10, 0, 0, 1)], copies=10)).false_share
    error = np.std([0.5, 0.1, 0.0], ddof=1) / 3**0.5
    assert (spread.estimate, spread.low, spread.n, spread.unit) == (pytest.approx(0.2), 0.0, 3, "share")
    assert spread.high == pytest.approx(0.2 + 2 * error)
    sure = only(rows("copies", [(10, 9, 0, 1), (10, 10, 0, 1)], copies=10)).false_share
    assert (sure.low, sure.high) == (pytest.approx(0.95 - 2 * np.std([0.9, 1], ddof=1) / 2**0.5), 1.0)
    several = pa.concat_tables(
        [rows("held-out", outcomes), rows("copies", outcomes, share=0.1), rows("copies", outcomes, share=0.3)]
    )
    assert [(c.control, c.share) for c in summarize(several)] == [("held-out", None), ("copies", 0.1), ("copies", 0.3)]


def test_known_fractions_at_an_end_are_covered_up_to_rounding():
    """An interval that ends at the known value covers it, whatever the last bits are."""
    for low, high, covered in ((8e-10, 1, 1), (2e-9, 1, 0), (-1, -8e-10, 1), (-1, -2e-9, 0)):
        assert only(rows("held-out", [(0, 0, low, high)] * 2)).covered.estimate == covered


def test_rows_of_one_size():
    """Only the rows of the N that is asked for."""
    table = pa.concat_tables([rows("held-out", [(0, 0, 0, 1)]), rows("held-out", [(0, 0, 0, 1)] * 2, n_train=16)])
    assert (of_size(table, 8).num_rows, of_size(table, 16).num_rows) == (1, 2)


def test_a_memorizer_that_is_not_seen_is_out():
    """One sample that is not nearest to T is enough."""
    assert only(rows("empirical", [(5, 0, 0, 1)], copies=100, memorized_fraction=1.0)).band == "in"
    assert only(rows("empirical", [(5, 0, 0, 1)], copies=100, memorized_fraction=0.99)).band == "out"
    assert only(rows("empirical", [(5, 0, 0, 1)] * 2, copies=100, memorized_fraction=[1.0, 0.99])).band == "out"
    assert only(rows("empirical", [(5, 0, 0, 1)], copies=100, memorized_fraction=1 - 8e-10)).band == "in"
    assert only(rows("empirical", [(5, 0, 0, 1)], copies=100, memorized_fraction=1.0)).power is None


def test_mirrored_copies_are_not_judged():
    """What a comparison of pixels cannot see is shown, not held against it."""
    assert only(rows("mirrored", [(0, 0, 0, 1)] * 3, share=0.3, eps=0.0, copies=30)).band == "none"


def test_controls_are_what_they_say():
    """Broadening, blurring and mirroring by hand; correlated samples in fours; one mode lies on one side."""
    generator = np.random.default_rng(0)
    everything = torch.from_numpy(generator.random((40, 1, 6, 6), dtype=np.float32))
    everything[:, :, :3] *= torch.linspace(0, 1, 40)[:, None, None, None]
    real, train = everything[:20], everything[20:]
    found = {}
    for samples in controls._controls(everything, real, train, generator):
        found.setdefault(samples.control, samples)
    mean = everything.mean(0)
    torch.testing.assert_close(found["broadened"].images - mean, 1.15 * (real - mean))
    torch.testing.assert_close(found["blurred"].images[:, 0, 2, 2], real[:, 0, 1:4, 1:4].mean((1, 2)))
    torch.testing.assert_close(found["blurred"].images[:, 0, 0, 0], real[:, 0, :2, :2].mean((1, 2)))
    assert len(found["correlated"].images) == 20
    spread = found["correlated"].images.view(5, 4, 36).std(dim=1).mean()
    assert 0.03 < spread < 0.07
    assert len(found["one mode"].images) < 20
    top = found["one mode"].images[:, :, :3].mean() - mean[:, :3].mean()
    assert abs(top) > 0.1
    copied = found["mirrored"].images[:6]
    assert all((copy.flip(2) == train).flatten(1).all(1).any() for copy in copied)
