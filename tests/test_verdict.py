"""The words: each regime by its rule, and sentences that claim what the numbers support."""

import pyarrow as pa
import pytest
import tested

from memgen.base import schemas, tables
from memgen.base.errors import DataError
from memgen.findings import verdict
from memgen.findings.copies import ASSUMPTIONS
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
COPIES = {
    "nearest_own": (0.98, 0.97, 0.99, "correlation"),
    "nearest_minus_holdout": (0.18, 0.17, 0.19, "correlation"),
    "cross_same": (0.45, 0.4, 0.5, "correlation"),
    "cross_minus_null": (0.05, -0.1, 0.2, "correlation"),
    "cross_minus_nearest": (-0.53, -0.6, -0.5, "correlation"),
    "memorized_fraction": (0.9, 0.8, 1, "share"),
    "psnr_gap": (20, 19, 21, "dB"),
    "to_linear": (-3, -4, -2, "dB"),
}
MINUS = "\N{MINUS SIGN}"


def rows(key, found, **notes):
    """The rows of one N or of one imported subject; a quantity that is not in `found` was not measured."""
    made = []
    for quantity in QUANTITIES:
        values = found.get(quantity)
        estimate, low, high, unit = values if values else (None, None, None, "")
        status = "measured" if values else "not measured"
        sigmas = (0.05, 1.0) if quantity == "bits" else (None, None)
        place = (key, None) if isinstance(key, int) else (None, key)
        note = notes.get(quantity, "")
        made.append([*place, quantity, estimate, low, high, 10, unit, status, *sigmas, note])
    return made


def point(name, estimate=None, low=None, high=None, status="measured", note="It covers the samples."):
    return [None, None, name, estimate, low, high, 10, "images", status, None, None, note]


def made(*several, points=()):
    """A TRANSITION table of the given rows; transition points that are not given were not measured."""
    given = {row[2]: row for row in points}
    last = [given.get(name, point(name, status="not measured")) for name in POINTS]
    every = [row for each in several for row in each] + last
    columns = dict(zip(schemas.TRANSITION.names, zip(*every, strict=True), strict=True))
    return tables.make(schemas.TRANSITION, {name: list(values) for name, values in columns.items()})


def table(**changes):
    """A TRANSITION table at N = 64 of two models that agree without copying, with changes; None = not measured."""
    return made(rows(64, AGREES | changes))


def clean(transition):
    """A COPIES table of two models at each N and one of each imported subject, in which no test finds anything."""
    keys = {row["n_train"] or row["subject"] for row in transition.to_pylist()} - {None}
    models = [
        [tested.model(key, part) for part in "ab"] if isinstance(key, int) else [tested.imported(key)] for key in keys
    ]
    return pa.concat_tables([tested.copies(model) for each in models for model in each])


def judged(transition, copies=None):
    return verdict.verdict(transition, clean(transition) if copies is None else copies)


def only(transition, copies=None):
    (paragraph,) = judged(transition, copies).paragraphs
    return paragraph


def copies(**more):
    """A COPIES table of the two models at N = 64, in which no test finds anything, or with changes."""
    return pa.concat_tables([tested.copies(tested.model(64, part), **more) for part in "ab"])


FOUND = {"answer": "found", "discoveries": 5, "competition_p": 1e-6}
FLAGGED = {"flagged": 3, "flagged_images": 2, "most_shared": 2, "conformal_p": 1e-6}


@pytest.mark.parametrize(
    ("changes", "regime"),
    [
        # Each condition of "generalizes", on both sides of its bound.
        ({}, "generalizes"),
        ({"cross_minus_null": (0.1, -0.1, 0.3, "correlation")}, "cannot decide"),
        ({"cross_minus_null": (0.1, 0.0, 0.3, "correlation")}, "cannot decide"),
        ({"cross_minus_null": None}, "cannot decide"),
        ({"memorized_fraction": (0.2, -0.1, 0.49, "share")}, "generalizes"),
        ({"memorized_fraction": (0.2, 0.0, 0.49, "share")}, "generalizes"),
        ({"memorized_fraction": (0.2, -0.1, 0.5, "share")}, "cannot decide"),
        ({"memorized_fraction": (0.2, 0.1, 0.3, "share")}, "mixed"),
        ({"memorized_fraction": None}, "cannot decide"),
        ({"psnr_gap": (0.5, 0.2, 0.8, "dB")}, "mixed"),
        ({"psnr_gap": (0.5, 0.1, 0.8, "dB")}, "generalizes"),
        ({"psnr_gap": None}, "generalizes"),
        # Near to the training set only by MARGIN, or nearer to the twin: either is enough.
        ({"nearest_minus_holdout": (0.005, -0.001, 0.01, "correlation"), "cross_minus_nearest": None}, "generalizes"),
        (
            {"nearest_minus_holdout": (0.005, -0.001, 0.011, "correlation"), "cross_minus_nearest": None},
            "cannot decide",
        ),
        ({"nearest_minus_holdout": (0.05, 0.04, 0.06, "correlation")}, "generalizes"),
        (
            {
                "nearest_minus_holdout": (0.05, 0.04, 0.06, "correlation"),
                "cross_minus_nearest": (0.1, -0.1, 0.3, "correlation"),
            },
            "cannot decide",
        ),
        ({"nearest_minus_holdout": None, "cross_minus_nearest": None}, "cannot decide"),
        ({"nearest_minus_holdout": None}, "generalizes"),
        # Poor models that agree.
        ({"to_linear": (-2, -2.2, -1.8, "dB")}, "underfits"),
        ({"to_linear": (-0.6, -0.8, -0.5, "dB")}, "generalizes"),
        ({"to_linear": None}, "generalizes"),
        # Each condition of "memorizes".
        (COPIES, "memorizes"),
        (COPIES | {"memorized_fraction": (0.5, 0.3, 0.7, "share")}, "memorizes"),
        (COPIES | {"memorized_fraction": (0.49, 0.3, 0.7, "share")}, "mixed"),
        (COPIES | {"memorized_fraction": (0.9, 0.0, 1, "share"), "psnr_gap": None}, "cannot decide"),
        (COPIES | {"memorized_fraction": None}, "mixed"),
        (COPIES | {"nearest_minus_holdout": (0.18, 0.0, 0.2, "correlation")}, "mixed"),
        (COPIES | {"nearest_minus_holdout": None}, "mixed"),
        # Each sign of dependence alone. Nearness is none: smooth samples are nearer to all images than real ones are.
        ({"cross_minus_null": None, "nearest_minus_holdout": (0.02, 0.01, 0.03, "correlation")}, "cannot decide"),
        ({"cross_minus_null": None, "psnr_gap": (0.5, 0.2, 0.8, "dB")}, "mixed"),
        ({"cross_minus_null": None, "memorized_fraction": (0.2, 0.1, 0.3, "share")}, "mixed"),
    ],
)
def test_regimes(changes, regime):
    """One condition of a rule at a time decides the regime, and a bound that is met exactly decides nothing."""
    found = judged(table(**changes))
    assert found.regimes == {64: regime}
    assert regime in verdict.RULES
    assert (found.caveat == verdict.CAVEAT) == (regime in ("generalizes", "underfits"))
    assert (verdict.CAVEAT in found.sentences) == (regime in ("generalizes", "underfits"))


@pytest.mark.parametrize(
    ("changes", "opening"),
    [
        ({}, "At N = 64 the two models draw similar images from the same noise, and no copying is shown."),
        (COPIES, "At N = 64 the models copy their training sets."),
        (
            COPIES | {"nearest_own": (0.96, 0.95, 0.97, "correlation")},
            "At N = 64 the models memorize their training sets.",
        ),
        (COPIES | {"nearest_own": (0.98, 0.97, 0.99, "cosine")}, "At N = 64 the models memorize their training sets."),
        ({"to_linear": (-2, -3, -1, "dB")}, "At N = 64 the two models agree without copying, but they have learned too little."),
        ({"psnr_gap": (1, 0.5, 2, "dB")}, "At N = 64 the models depend in part on their training sets."),
        (dict.fromkeys(AGREES), "At N = 64 the measurements do not decide."),
    ],
)  # fmt: skip
def test_openings(changes, opening):
    """Each regime has its sentence; "copy" is said only where samples are as similar as copies are."""
    assert only(table(**changes)).opening == opening


@pytest.mark.parametrize(
    ("regimes", "headline"),
    [
        ({4: COPIES}, "The models memorize at N = 4."),
        (
            {4: COPIES, 16: COPIES, 64: AGREES | {"psnr_gap": (1, 0.5, 2, "dB")}, 1024: AGREES},
            "The models memorize at N = 4 and 16, depend in part on their training sets at N = 64, and generalize at "
            "N = 1,024.",
        ),
        (
            {4: AGREES | {"to_linear": (-2, -3, -1, "dB")}, 16: {}},
            "The models underfit at N = 4. The measurements do not decide at N = 16.",
        ),
        ({4: {}, 16: {}, 64: {}}, "The measurements do not decide at N = 4, 16, and 64."),
    ],
)
def test_headlines(regimes, headline):
    """The headline names every N under its regime, from memorizing to generalizing."""
    assert judged(made(*(rows(n, found) for n, found in regimes.items()))).headline == headline


def test_nothing_measured():
    """An empty table has a headline too."""
    assert verdict.verdict(made()).headline == "Nothing was measured that a verdict rests on."


def test_a_find_of_either_test_rules_out_generalizing():
    """Two models that agree but of which a test finds copies are mixed; a find at another N changes nothing."""
    assert only(table(), copies()).regime == "generalizes"
    assert only(table(), copies(**FOUND)).regime == "mixed"
    assert only(table(), copies(**FLAGGED)).regime == "mixed"
    one = pa.concat_tables([tested.copies(tested.model(64, "a"), **FLAGGED), tested.copies(tested.model(64, "b"))])
    assert only(table(), one).regime == "mixed"
    elsewhere = pa.concat_tables([copies(), tested.copies(tested.model(16), **FOUND)])
    assert only(table(), elsewhere).regime == "generalizes"
    assert only(table(), tested.copies(tested.model(16))).copies == ""


def test_nothing_is_acquitted_by_tests_that_see_too_little():
    """Without the tests, or where copies in 5 % of the samples could go unseen, no regime is given, and why is said."""
    untested = verdict.verdict(table())
    assert untested.regimes == {64: "cannot decide"}
    assert only(table(), copies(samples=40)).regime == "cannot decide"
    paragraph = only(table(), copies(judged_by=100, n_pool_train=6400))
    assert paragraph.regime == "cannot decide"
    assert paragraph.opening == (
        "At N = 64 the measurements do not decide. The tests would not have found copies in 5% of the samples. It "
        "takes about 608 samples of each model."
    )
    assert only(table(), copies(judged_by=100, n_pool_train=6400, samples=608, n_competing=608)).regime == "generalizes"
    assert only(table(), copies(judged_by=100)).regime == "generalizes"  # the competition sees enough
    assert only(table(), copies(n_pool_train=6400)).regime == "generalizes"  # the conformal test sees enough


def test_a_regime_needs_converged_samples():
    """Beyond 5 % of unconverged samples models are neither acquitted nor said to memorize; dependence stays said."""
    few, many = ({"unconverged": (count, None, None, "samples")} for count in (0.5, 0.6))  # of 10
    assert only(table(**few)).regime == "generalizes"
    assert only(table(**many)).regime == "cannot decide"
    assert only(table(**many)).opening == (
        "At N = 64 the measurements do not decide. A regime needs samples of which at most 5% did not converge."
    )
    assert only(table(**COPIES | few)).regime == "memorizes"
    assert only(table(**COPIES | many)).regime == "mixed"
    theirs = judged(made(rows("theirs", ONE | many)))
    assert theirs.paragraphs[0].opening.endswith("A regime needs samples of which at most 5% did not converge.")


def test_sentences_on_samples():
    """Similarities stand beside what they are judged against, each with its own number."""
    assert only(table()).samples == (
        "The median sample has a correlation of .800 with its nearest training image, and the median held-out image "
        f"one of .820 (difference {MINUS}.020 [{MINUS}.030, {MINUS}.010]). "
        f"The memorized fraction is .010 [{MINUS}.100, .120]. "
        "Samples of the two models from the same noise have a correlation of .950 with each other, and samples from "
        "different noise one of .400 (difference .550 [.450, .650])."
    )
    alone = only(table(nearest_minus_holdout=None, cross_minus_null=None, memorized_fraction=None)).samples
    assert alone == (
        "The median sample has a correlation of .800 with its nearest training image; there are no held-out images to "
        "judge this by. Samples of the two models from the same noise have a correlation of .950 with each other; "
        "there are no samples from different noise to judge this by."
    )
    far = only(table(nearest_own=(0.1, 0.05, 0.2, "pixel units"), nearest_minus_holdout=None)).samples
    assert far.startswith("The median sample has a distance of .100 pixel units from its nearest training image;")
    assert only(table(nearest_own=None)).samples.startswith("The memorized fraction")
    assert only(table(cross_same=None)).samples.endswith(".120].")


def test_sentences_on_functions():
    """The gap, the bits with their noise levels, and better, worse or about as well, by whether intervals exclude 0."""
    assert only(table()).functions == (
        f"Training images are not shown to be denoised better than held-out images (0.02 [{MINUS}0.10, 0.20] dB). "
        "The two models' scores differ by .020 [.010, .030] bits per dimension at noise levels from 0.05 to 1. "
        "Held-out images are denoised better than by the best linear denoiser (1.50 [1.20, 1.80] dB)."
    )
    gap = only(table(psnr_gap=(0.5, 0.2, 0.8, "dB"))).functions
    assert gap.startswith("Training images are denoised 0.50 [0.20, 0.80] dB better than held-out images. The two")
    bare = only(table(psnr_gap=(0.5, None, None, "dB"))).functions
    assert bare.startswith("Training images are denoised 0.50 dB better than held-out images; there is no interval. ")
    optimum = (-1, -1.1, -0.9, "dB")
    worse = only(table(to_linear=None, psnr_gap=None, bits=None, to_optimum=optimum)).functions
    assert worse == (
        f"Held-out images are denoised worse than by the exact optimum ({MINUS}1.00 [{MINUS}1.10, {MINUS}0.90] dB)."
    )
    unclear = only(table(to_linear=(0.1, -0.1, 0.3, "dB"))).functions
    assert f"denoised about as well as by the best linear denoiser (0.10 [{MINUS}0.10, 0.30] dB)" in unclear
    poor = only(table(to_linear=(0.5, 0.2, 0.8, "dB"), to_optimum=(-0.5, -0.8, -0.2, "dB"))).functions
    assert poor.endswith(
        "Held-out images are denoised better than by the best linear denoiser (0.50 [0.20, 0.80] dB). Held-out images "
        f"are denoised worse than by the exact optimum ({MINUS}0.50 [{MINUS}0.80, {MINUS}0.20] dB)."
    )


def test_bits_without_a_known_range():
    """Where the noise levels of the bits are not known, none are named."""
    unknown = rows(64, AGREES)
    for row in unknown:
        row[9:11] = [None, None]
    assert "by .020 [.010, .030] bits per dimension. Held" in only(made(unknown)).functions


def test_nothing_measured_at_a_size():
    """Without samples and functions the paragraph says so, and only then."""
    functions = only(table(bits=None, to_linear=None, psnr_gap=None))
    assert (functions.functions, functions.missing) == ("", "")
    samples = only(made(rows(64, {"bits": AGREES["bits"]})))
    assert (samples.samples, samples.missing) == ("", "")
    nothing = only(made(rows(64, {})), tested.copies(tested.model(16)))
    assert nothing.sentences == ("At N = 64 the measurements do not decide.", "Nothing was measured.")


def test_transition_points_in_words():
    """A point is given with its interval and its note; one that is not reached says so; one not measured is left out."""
    two = (rows(64, AGREES), rows(1024, AGREES))
    said = verdict.verdict(made(*two, points=[point("N_cross", 153.7, 133, 180), point("N_half", 48, 39, None)])).points
    assert said == (
        "At N*_cross = 154 [133, 180], the two models' samples from the same noise become more alike than samples and "
        "their nearest training images. It covers the samples.",
        "At N*_half = 48 [39, ?], the memorized fraction falls through 1/2. It covers the samples.",
    )
    unreached = point("N_half", status="not reached", note="It is not reached up to N = 1,024.")
    assert verdict.verdict(made(*two, points=[unreached])).points == (
        "N*_half is the training-set size at which the memorized fraction falls through 1/2. It is not reached up to "
        "N = 1,024.",
    )
    one = verdict.verdict(made(rows(64, AGREES), points=[point("N_half", status="too few sizes", note="Too few.")]))
    assert one.points == ()


def test_samples_that_did_not_converge():
    """They are counted at each N at which there are any."""
    some = {"unconverged": (4, None, None, "samples")}
    none = {"unconverged": (0, None, None, "samples")}
    found = verdict.verdict(made(rows(4, COPIES | some), rows(16, COPIES | none), rows("theirs", some)))
    assert found.unconverged == (
        "Some samples did not converge; they are kept in every number: 4 of 10 at N = 4 and 4 of 10 of theirs."
    )
    assert verdict.verdict(made(rows(16, COPIES | none))).unconverged == ""


def test_sentences_are_the_fields_in_order():
    """For JSON a paragraph is one text, then points, unconverged samples and the caveat; nothing is lost or empty."""
    some = {"unconverged": (0.4, None, None, "samples")}
    points = [point("N_half", 48, 39, 59)]
    found = judged(made(rows(64, AGREES | some), rows(1024, AGREES), points=points))
    first, second = found.paragraphs
    assert first.sentences == (first.opening, first.copies, first.samples, first.functions)
    assert found.sentences == (
        " ".join(first.sentences), " ".join(second.sentences), *found.points, found.assumptions, found.unconverged, found.caveat,
    )  # fmt: skip
    assert all(found.sentences)
    assert found.assumptions == ASSUMPTIONS
    assert verdict.verdict(made(rows(64, AGREES))).assumptions == ""
    mixed = judged(made(rows(64, COPIES), rows(1024, AGREES)))
    assert mixed.caveat == verdict.CAVEAT
    assert (first.label, first.n_train, first.subject, second.label) == ("N = 64", 64, None, "N = 1,024")


# ------------------------------------------------------------------------------------------- imported subjects

ONE = {name: AGREES[name] for name in ("nearest_own", "nearest_holdout_to_train", "memorized_fraction")}
ONE |= {"nearest_minus_holdout": AGREES["nearest_minus_holdout"], "psnr_gap": AGREES["psnr_gap"]}
NO_SECOND = dict.fromkeys(("cross_same", "bits"), "There is no second model.")


@pytest.mark.parametrize(
    ("changes", "regime", "opening"),
    [
        (COPIES | {"cross_minus_null": None}, "memorizes", "The model theirs copies its training set."),
        (COPIES | {"nearest_own": (0.9, 0.8, 0.94, "correlation")}, "memorizes", "The model theirs memorizes its training set."),
        ({"psnr_gap": (1, 0.5, 2, "dB")}, "mixed", "The model theirs depends in part on its training set."),
        ({"memorized_fraction": (0.2, -0.1, 0.4, "share")}, "cannot decide", "No copying is shown for the model theirs, but the measurements do not decide whether it generalizes."),
        ({}, "cannot decide", "No copying is shown for the model theirs, but the measurements do not decide whether it generalizes."),
        ({"memorized_fraction": (0.2, -0.1, 0.5, "share")}, "cannot decide", "The measurements do not decide whether the model theirs memorizes its training set."),
        ({"nearest_minus_holdout": (0.0, -0.1, 0.02, "correlation")}, "cannot decide", "The measurements do not decide whether the model theirs memorizes its training set."),
        ({"nearest_minus_holdout": (0.05, 0.04, 0.06, "correlation")}, "cannot decide", "The measurements do not decide whether the model theirs memorizes its training set. Samples are nearer to their training set than held-out images are. Copies are, and so are samples that are smoother than real images."),
    ],
)  # fmt: skip
def test_one_imported_model(changes, regime, opening):
    """The same rules hold for an imported subject, in the singular; it has a paragraph of its own after the sizes."""
    found = judged(made(rows(64, AGREES), rows("theirs", ONE | changes)))
    assert found.regimes == {64: "generalizes", "theirs": regime}
    _, paragraph = found.paragraphs
    assert (paragraph.label, paragraph.n_train, paragraph.subject) == ("theirs", None, "theirs")
    assert paragraph.opening == opening
    first, _, _ = opening.partition(". ")
    assert found.headline == f"The models generalize at N = 64. {first.rstrip('.')}."
    assert "two models" not in paragraph.opening + paragraph.missing


def test_what_is_missing_of_an_imported_model():
    """What was not measured is named with its reason; quantities with one reason share a sentence."""
    notes = NO_SECOND | {"psnr_gap": "There is no denoiser.", "to_linear": "There is no denoiser."}
    paragraph = only(made(rows("theirs", ONE | {"psnr_gap": None}, **notes)), tested.copies(tested.imported("other")))
    assert paragraph.missing == (
        "Not measured: PSNR gap and PSNR over the best linear denoiser. There is no denoiser. "
        "Not measured: similarity between models (same noise) and score difference. There is no second model."
    )
    assert paragraph.functions == ""
    assert paragraph.sentences == (paragraph.opening, paragraph.samples, paragraph.missing)
    every = dict.fromkeys(("nearest_own", "memorized_fraction", "psnr_gap", "to_linear", "cross_same", "bits"), "Why.")
    assert only(made(rows("theirs", {}, **every))).missing == (
        "Not measured: similarity to own training set, memorized fraction, PSNR gap, PSNR over the best linear "
        "denoiser, similarity between models (same noise), and score difference. Why."
    )
    found = only(made(rows("theirs", ONE, **NO_SECOND)))
    assert found.sentences == (found.opening, found.copies, found.samples, found.functions, found.missing)
    assert all(found.sentences)
    unexplained = only(made(rows("theirs", ONE, **NO_SECOND))).missing
    assert unexplained.startswith("Not measured: PSNR over the best linear denoiser. Not measured: similarity between")


def test_copies_of_an_imported_model():
    """The test for copies counts for the imported subject of its name, and for no size."""
    found = pa.concat_tables([copies(), tested.copies(tested.imported(), **FOUND)])
    both = judged(made(rows(64, AGREES), rows("theirs", ONE)), found)
    assert both.regimes == {64: "generalizes", "theirs": "mixed"}
    size, theirs = both.paragraphs
    assert "400 samples of 2 models" in size.copies
    assert "found 5 training images that samples depend on, at" in theirs.copies
    # Its training set may be as large as one of the sweep.
    assert judged(made(rows(64, AGREES)), found).regimes == {64: "generalizes"}
    unseen = judged(made(rows("theirs", ONE)), tested.copies(tested.imported(), samples=20))
    assert unseen.paragraphs[0].opening == (
        "The measurements do not decide whether the model theirs memorizes its training set. The tests would not have "
        "found copies in 5% of the samples. It takes about 64 samples of each model."
    )


def test_imported_subjects_alone_have_no_points():
    """Transition points take training-set sizes of a sweep."""
    table = made(rows("one", ONE), rows("two", ONE), points=[point("N_half", status="too few sizes")])
    assert verdict.verdict(table).points == ()
    assert verdict.verdict(table).caveat == ""


def test_another_schema_is_refused():
    """A table of another kind is named in the error."""
    with pytest.raises(DataError, match="transition table"):
        verdict.verdict(copies())


def test_rules_and_bounds():
    """Every regime has its rule, and the rules state the bounds that the code uses."""
    assert list(verdict.RULES) == ["memorizes", "generalizes", "underfits", "mixed", "cannot decide"]
    assert (verdict.MARGIN, verdict.GAP_DB, verdict.LINEAR_DB) == (0.01, 0.1, 0.5)
    starts = {
        "memorizes": "The memorized fraction is at least 1/2, and",
        "generalizes": "Samples that the two models draw from the same noise are more similar than",
        "underfits": "All that “generalizes” asks for holds",
        "mixed": "None of these holds, and something shows that the models depend on",
        "cannot decide": "None of these holds. The intervals are too wide",
    }
    assert all(verdict.RULES[regime].startswith(start) for regime, start in starts.items())
    assert verdict.CAVEAT.startswith("Agreement is not truth: ")
    assert "at most 0.01 nearer" in verdict.RULES["generalizes"]
    assert "would have found copies in 5% of the samples of each model. Either" in verdict.RULES["generalizes"]
    for regime in ("memorizes", "generalizes"):
        assert "At most 5% of the samples did not converge." in verdict.RULES[regime]
    assert "more than 0.1 dB better" in verdict.RULES["generalizes"]
    assert "more than 0.5 dB worse" in verdict.RULES["underfits"]
    assert "above 0.1 dB" in verdict.RULES["mixed"]
    assert verdict.COPY_SIMILARITY == {"correlation": 0.95}
