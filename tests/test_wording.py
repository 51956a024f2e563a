"""Numbers, intervals and names as people read them, and the record that they are read from."""

import pytest

from memgen.base import schemas, wording
from memgen.base.estimates import Estimate

MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.9567, "correlation", ".957"),
        (-0.0004, "correlation", ".000"),
        (-0.25, "correlation", f"{MINUS}.250"),
        (0.99996, "share", "1.000"),
        (0.9994, "share", ".999"),
        (0.9995, "share", "1.000"),
        (-0.9995, "share", f"{MINUS}1.000"),
        (1.25, "ratio", "1.250"),
        (1234.5, "images", "1,230"),
        (10.0, "images", "10"),
        (9.96, "images", "10"),
        (9.4, "images", "9.4"),
        (3.14, "images", "3.1"),
        (0.000123, "pixel units^2", f"1.2e{MINUS}4"),
        (-123.0, "pixel units^2", f"{MINUS}1.2e2"),
        (0.0, "pixel units^2", "0"),
        (-0.12, "dB", f"{MINUS}0.12"),
        (-0.001, "dB", "0.00"),
        (9.994, "dB", "9.99"),
        (10.0, "dB", "10.0"),
        (31.25, "dB", "31.2"),
        (3466.66, "nats", "3466.7"),
        (4.0, "samples", "4"),
        (1234.56, "dimensions", "1,234.6"),
        (3.926, "bits per dimension", "3.93"),
        (15.92, "bits per dimension", "15.9"),
        (1.0, "bits per dimension", "1"),
        (0.302, "bits per dimension", ".302"),
        (-2.5, "bits per dimension", f"{MINUS}2.5"),
    ],
)
def test_numbers_read_as_people_print_them(value, unit, text):
    """No negative zero, no leading zero of correlations, three digits of N."""
    assert wording.number(value, unit) == text


@pytest.mark.parametrize(
    ("low", "high", "interval", "estimate"),
    [
        (0.948, 0.961, "[.948, .961]", ".956 [.948, .961]"),
        (None, 0.961, "[?, .961]", ".956 [?, .961]"),
        (0.948, None, "[.948, ?]", ".956 [.948, ?]"),
        (None, None, "", ".956"),
    ],
)
def test_estimates_and_their_intervals(low, high, interval, estimate):
    """Number and interval are had apart and together; an unknown end is a question mark."""
    found = Estimate.of(0.956, low, high, 10, "share")
    assert (wording.value(found), wording.interval(found), wording.estimate(found)) == (".956", interval, estimate)
    assert found.status == ("no interval" if low is high is None else "measured")


def test_an_estimate_that_does_not_exist():
    """It is a dash without an interval, whatever its ends, and its status says that it was not measured."""
    found = Estimate.of(None, 0.1, 0.2, 3, "dB", "why")
    assert (wording.value(found), wording.interval(found), wording.estimate(found)) == (
        "\N{EM DASH}",
        "",
        "\N{EM DASH}",
    )
    assert (found.status, found.n, found.unit, found.note) == ("not measured", 3, "dB", "why")
    assert (Estimate.of(None).n, Estimate.of(1.0).n) == (0, 0)
    assert Estimate(1.0, 0.5, 1.5, 3).status == "measured"


def test_above_and_below_are_about_the_whole_interval():
    """A bound that is met exactly is neither exceeded nor undercut; without an end there is no answer but no."""
    found = Estimate.of(0.5, 0.4, 0.6)
    assert (found.above(0.39), found.above(0.4), found.above(0.5)) == (True, False, False)
    assert (found.below(0.61), found.below(0.6), found.below(0.5)) == (True, False, False)
    bare = Estimate.of(0.5)
    assert not bare.above(0)
    assert not bare.below(1)


def test_names_of_subjects():
    """Cells are known by their N, imported subjects by their name, references and baselines by what they are."""
    assert wording.subject_label("cell", 1024, "n1024-s0-a") == "N = 1,024"
    assert wording.subject_label("imported", 64, "theirs") == "theirs"
    assert wording.subject_label("reference", None, "best_linear") == "best linear denoiser"
    assert wording.KNOWN_SUBJECTS == {
        "best_linear": "best linear denoiser",
        "exact_optimum": "exact optimum",
        "wavelet_oracle": "oracle (wavelet shrinkage)",
        "tangent_oracle": "oracle (tangent space)",
        "soft_threshold": "wavelets (soft threshold)",
        "hard_threshold": "wavelets (hard threshold)",
    }
    assert set(wording.KNOWN_SUBJECTS) == {*schemas.REFERENCES.values(), *schemas.BASELINES}


def test_lists_and_joined_sentences():
    """A list reads as one in a sentence, and empty sentences leave no gap."""
    assert [wording.listed(list("abcd"[:n])) for n in range(5)] == ["", "a", "a and b", "a, b, and c", "a, b, c, and d"]
    assert wording.joined("One.", "", "Two.") == "One. Two."
    assert wording.joined("", "") == ""
