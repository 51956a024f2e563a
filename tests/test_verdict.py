"""The words: each regime by its rule, and sentences that claim what the numbers support."""

import pytest

from memgen.base import schemas, tables
from memgen.findings import verdict
from memgen.findings.transition import POINTS, QUANTITIES

AGREES = {
    "nearest_own": (0.8, 0.79, 0.81, "correlation"),
    "nearest_holdout_to_train": (0.82, 0.81, 0.83, "correlation"),
    "nearest_minus_holdout": (-0.02, -0.03, -0.01, "correlation"),
    "cross_same": (0.95, 0.94, 0.96, "correlation"),
    "cross_different": (0.4, 0.3, 0.5, "correlation"),
    "cross_minus_null": (0.55, 0.45, 0.65, "correlation"),
    "cross_minus_nearest": (0.15, 0.13, 0.17, "correlation"),
    "memorized_fraction": (0.01, -0.1, 0.12, "share"),
    "psnr_gap": (0.02, -0.1, 0.2, "dB"),
    "to_linear": (1.5, 1.2, 1.8, "dB"),
    "bits": (0.02, 0.01, 0.03, "bits per dimension"),
}


def table(**changes):
    """A TRANSITION table at N = 64 of two models that agree without copying, with changes; None = not measured."""
    found = AGREES | changes
    rows = []
    for quantity in QUANTITIES:
        values = found.get(quantity)
        estimate, low, high, unit = values if values else (None, None, None, "")
        status = "measured" if values else "not measured"
        sigmas = (0.05, 1.0) if quantity == "bits" else (None, None)
        rows.append([64, None, quantity, estimate, low, high, 10, unit, status, *sigmas, "10 samples only"])
    rows += [[None, None, point, None, None, None, 0, "images", "too few sizes", None, None, ""] for point in POINTS]
    columns = dict(zip(schemas.TRANSITION.names, zip(*rows, strict=True), strict=True))
    return tables.make(schemas.TRANSITION, {name: list(values) for name, values in columns.items()})


def copies(discoveries, alike=0, answer="found"):
    """A COPIES table of one model."""
    columns = dict.fromkeys(("n_leaks", "attached", "n_competing", "conformal_discoveries"), 3)
    columns |= {
        "subject": "n64-s0-a",
        "role": "cell",
        "n_train": 64,
        "part": "a",
        "train_seed": 0,
        "samples": 100,
        "q": 0.05,
    }
    columns |= {"n_pool_train": 64, "n_pool_heldout": 640, "k_min": 2, "conformal_k_min": 1, "answer": answer}
    columns |= dict.fromkeys(("memorized_fraction", "low", "high", "p"), 0.1)
    return tables.make(schemas.COPIES, columns | {"discoveries": discoveries, "alike": alike}, rows=1)


@pytest.mark.parametrize(
    ("changes", "regime"),
    [
        ({}, "generalizes"),
        ({"to_linear": None}, "generalizes"),
        ({"psnr_gap": None}, "generalizes"),
        ({"psnr_gap": (0.5, 0.2, 0.8, "dB")}, "mixed"),
        ({"psnr_gap": (0.08, 0.05, 0.09, "dB")}, "generalizes"),
        ({"to_linear": (-2, -2.2, -1.8, "dB")}, "underfits"),
        ({"to_linear": (-0.4, -0.6, -0.2, "dB")}, "generalizes"),
        ({"memorized_fraction": (0.2, 0.1, 0.3, "share")}, "mixed"),
        ({"memorized_fraction": (0.2, -0.1, 0.6, "share")}, "cannot decide"),
        ({"cross_minus_null": (0.1, -0.1, 0.3, "correlation")}, "cannot decide"),
        (
            {
                "memorized_fraction": (0.9, 0.8, 1, "share"),
                "nearest_minus_holdout": (0.18, 0.17, 0.19, "correlation"),
                "psnr_gap": (20, 19, 21, "dB"),
            },
            "memorizes",
        ),
    ],
)
def test_regimes(changes, regime):
    """One condition of a rule at a time decides the regime."""
    found = verdict.verdict(table(**changes))
    assert found.regimes == {64: regime}
    assert found.headline == f"{regime[0].upper()}{regime[1:]} at N = 64."
    assert (verdict.CAVEAT in found.sentences) == (regime in ("generalizes", "underfits"))


def test_a_discovery_rules_out_generalizing():
    """Two models that agree but depend on single training images are mixed, and it is said how many look alike."""
    assert verdict.verdict(table(), copies(0, answer="none")).regimes == {64: "generalizes"}
    found = verdict.verdict(table(), copies(5, alike=2))
    assert found.regimes == {64: "mixed"}
    assert "they depend on 5 single training images (n64-s0-a 5); those that look like" in found.sentences[0]
    assert "(correlation 0.95 or more): 2; further samples at these: " in found.sentences[0]
    assert "on 1 single training image (n64-s0-a 1)" in verdict.verdict(table(), copies(1, alike=0)).sentences[0]


def test_words_follow_the_intervals():
    """Bits with their range; better, worse or only compared, by whether the interval excludes 0."""
    text = verdict.verdict(table()).paragraphs[0].functions
    assert "; the two models' score functions differ by .020 [.010, .030] bits per dimension" in text
    assert "(sigma from 0.05 to 1)" in text
    assert "denoised better than by the best linear denoiser (1.50 [1.20, 1.80] dB)" in text
    worse = verdict.verdict(table(to_linear=None, to_optimum=(-1, -1.1, -0.9, "dB"))).paragraphs[0].functions
    assert "denoised worse than by the exact optimum (\N{MINUS SIGN}1.00" in worse
    unclear = verdict.verdict(table(to_linear=(0.1, -0.1, 0.3, "dB"))).paragraphs[0].functions
    assert "denoised about as well as by the best linear denoiser (0.10 [\N{MINUS SIGN}0.10, 0.30] dB)" in unclear


def test_nothing_about_functions_where_nothing_was_measured():
    """Without bits and references there is no sentence about them."""
    (found,) = verdict.verdict(table(bits=None, to_linear=None, psnr_gap=None)).paragraphs
    assert found.functions == ""
    assert found.samples.startswith("Correlation .800 from the median sample")
    (nothing,) = verdict.verdict(table(**dict.fromkeys(AGREES))).paragraphs
    assert nothing.sentences == ("At N = 64 the measurements do not decide.", "Nothing was measured.")


def test_an_answer_that_cannot_be_given():
    """Where k_min is out of reach the verdict says so."""
    assert (
        "cannot decide; 2 training images would have to be found"
        in verdict.verdict(table(), copies(0, answer="cannot decide")).sentences[0]
    )
