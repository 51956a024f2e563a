"""What a transition table says, in words: a regime by a stated rule, and sentences with the numbers behind it.

There is a paragraph for each training-set size, and one for each imported subject. The rule uses intervals wherever it
says so, and both tests for copies. The sizes of a sweep are judged as one family: their intervals hold together, and a
find of a test counts only if chance seldom gives one anywhere in the sweep. So models that generalize at all sizes are
called so in 95 % of sweeps. The rule answers "cannot decide" where the evidence could not have convicted. It judges
copying and agreement, not truth: two models can agree and both be wrong (Maillard & Goldt 2026).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from memgen.base.estimates import Estimate
from memgen.base.wording import estimate, joined, listed, value
from memgen.findings import copies as of_copies
from memgen.findings.copies import MOST_UNSEEN, Tested
from memgen.findings.transition import POINTS, QUANTITIES, estimates
from memgen.measures.copies import competition

MARGIN = 0.01
GAP_DB = 0.1
LINEAR_DB = 0.5
MOST_UNCONVERGED = 0.05
RULES = {
    "memorizes": "The memorized fraction is at least 1/2, and its interval lies above 0. Samples are nearer to the "
    "training set of their own model than held-out images are (the interval lies above 0). At most "
    f"{MOST_UNCONVERGED:.0%} of the samples did not converge.",
    "generalizes": "Samples that the two models draw from the same noise are more similar than samples from different "
    "noise (the interval lies above 0). The interval of the memorized fraction reaches down to 0 and lies below 1/2. "
    "Neither of the two tests for copies finds anything, and at least one of them would have found copies in "
    f"{MOST_UNSEEN:.0%} of the samples of each model. Either samples are at most {MARGIN} nearer to their training set "
    "than held-out images are (the whole interval), or they are nearer to the other model's sample than to their "
    f"training set (the interval lies above 0). Training images are not shown to be denoised more than {GAP_DB} dB "
    f"better than held-out images. At most {MOST_UNCONVERGED:.0%} of the samples did not converge. This takes two "
    "models that were trained on different images.",
    "underfits": "All that \N{LEFT DOUBLE QUOTATION MARK}generalizes\N{RIGHT DOUBLE QUOTATION MARK} asks for holds, "
    f"but held-out images are denoised more than {LINEAR_DB} dB worse than by the best linear denoiser (the whole "
    "interval). The models agree, but they have learned too little.",
    "mixed": "None of these holds, and something shows that the models depend on their own training set: a memorized "
    f"fraction above 0, a find of either test for copies, or a PSNR gap above {GAP_DB} dB. A number counts if its "
    "whole interval lies above the bound. That samples are nearer to the training set than held-out images are does "
    "not count: samples that are smoother than real images are nearer to all images.",
    "cannot decide": "None of these holds. The intervals are too wide, a measurement is missing, the tests for copies "
    "could not have found them, or samples did not converge.",
}
# Similarity above which two images pass for copies, and near-duplicates are removed; the word is used nowhere below it.
COPY_SIMILARITY = {"correlation": competition.ALIKE}
CAVEAT = (
    "Agreement is not truth: two models that draw the same images have learned the same thing, which need not be the "
    "distribution of the data. Denoising better than the best linear denoiser is necessary for that but not sufficient."
)
# What the paragraph of an imported subject says of quantities that were not measured.
_SPOKEN_OF = ("nearest_own", "memorized_fraction", "psnr_gap", "to_linear", "cross_same", "bits")


@dataclass(frozen=True)
class Paragraph:
    """What holds at one training-set size, or of one imported subject.

    Attributes:
        label: heading for people: `N = 64`, or the name of the subject.
        n_train: training-set size of the sweep; None for an imported subject.
        subject: name of the imported subject; None for a size of the sweep.
        regime: one of the keys of RULES.
        opening: the regime as a sentence.
        copies: what the test for copies found, in sentences; empty if samples were not tested.
        samples: what was measured of the samples, in sentences; empty if nothing was.
        functions: what was measured of the models as functions, in sentences; empty if nothing was.
        missing: what was not measured, and why, in sentences; empty if there is nothing to say.
    """

    label: str
    n_train: int | None
    subject: str | None
    regime: str
    opening: str
    copies: str
    samples: str
    functions: str
    missing: str

    @property
    def key(self) -> int | str:
        """N, or the name of the imported subject."""
        return self.n_train if self.n_train is not None else str(self.subject)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The fields that are not empty, in the order in which they are read."""
        return tuple(filter(None, (self.opening, self.copies, self.samples, self.functions, self.missing)))


@dataclass(frozen=True)
class Verdict:
    """What a transition table says, in words.

    Attributes:
        headline: the regimes in one or two sentences.
        paragraphs: one for each N in ascending order, then one for each imported subject.
        points: sentences about each transition point, where more than one N was measured.
        assumptions: what the tests for copies assume, where samples were tested; otherwise empty.
        unconverged: the samples that did not converge, as a sentence; empty if all did.
        caveat: CAVEAT where some regime needs it; otherwise empty.
    """

    headline: str
    paragraphs: tuple[Paragraph, ...]
    points: tuple[str, ...]
    assumptions: str
    unconverged: str
    caveat: str

    @property
    def regimes(self) -> dict[int | str, str]:
        """The regime at each N, and of each imported subject by its name."""
        return {paragraph.key: paragraph.regime for paragraph in self.paragraphs}

    @property
    def sentences(self) -> tuple[str, ...]:
        """Each paragraph as one text, then the sentences that are about all of them."""
        paragraphs = (" ".join(paragraph.sentences) for paragraph in self.paragraphs)
        return (*paragraphs, *self.points, *self.remarks)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is said of all paragraphs together, besides the points."""
        return tuple(filter(None, (self.assumptions, self.unconverged, self.caveat)))


def verdict(transition: pa.Table, copies: pa.Table | None = None, models: int | None = None) -> Verdict:
    """The regime at each N and of each imported subject by RULES, with sentences that say what the numbers show.

    Args:
        transition: a TRANSITION table.
        copies: a COPIES table, if samples were tested for copies.
        models: number of models of the sweep, which the tests for copies judge together; None for those in `copies`.

    Raises:
        DataError: the table has another schema.
    """
    rows = estimates(transition)
    at: dict[int | str, dict[str, Estimate]] = {}
    for (key, quantity), row in rows.items():
        if key is not None:
            at.setdefault(key, {})[quantity] = row
    judged = of_copies.judge(copies, models)
    nothing = Tested((), 0.0)
    paragraphs = tuple(_paragraph(key, of_key, judged.get(key, nothing)) for key, of_key in at.items())
    several = sum(paragraph.n_train is not None for paragraph in paragraphs) > 1
    agree = any(paragraph.regime in ("generalizes", "underfits") for paragraph in paragraphs)
    return Verdict(
        headline=_headline(paragraphs),
        paragraphs=paragraphs,
        points=_points(rows) if several else (),
        assumptions=of_copies.ASSUMPTIONS if judged else "",
        unconverged=_unconverged({paragraph: at[paragraph.key]["unconverged"] for paragraph in paragraphs}),
        caveat=CAVEAT if agree else "",
    )


def _paragraph(key: int | str, at: Mapping[str, Estimate], tested: Tested) -> Paragraph:
    regime = _regime(at, tested)
    samples, functions = joined(_nearest(at), _fraction(at), _agreement(at)), joined(*_functions(at))
    copies = joined(*tested.sentences)
    if isinstance(key, int):
        missing = "" if samples or functions else "Nothing was measured."
        opening = joined(_opening(key, regime, at), _undecided(regime, at, tested))
        return Paragraph(f"N = {key:,}", key, None, regime, opening, copies, samples, functions, missing)
    opening = joined(_opening_of_one(key, regime, at, tested), _undecided(regime, at, tested))
    return Paragraph(key, None, key, regime, opening, copies, samples, functions, _missing(at))


def _regime(at: Mapping[str, Estimate], tested: Tested) -> str:
    rho, nearness = at["memorized_fraction"], at["nearest_minus_holdout"]
    depends = rho.above(0) or tested.found or at["psnr_gap"].above(GAP_DB)
    agreement, lead = at["cross_minus_null"], at["cross_minus_nearest"]
    if _converged(at):
        if rho.estimate is not None and rho.estimate >= 0.5 and rho.above(0) and nearness.above(0):
            return "memorizes"
        acquitted = not depends and rho.below(0.5) and tested.unseen <= MOST_UNSEEN
        if acquitted and agreement.above(0) and (_near(nearness) or lead.above(0)):
            return "underfits" if at["to_linear"].below(-LINEAR_DB) else "generalizes"
    return "mixed" if depends else "cannot decide"  # nearness shows nothing: smooth samples are near to any image


def _converged(at: Mapping[str, Estimate]) -> bool:
    """Whether nearly all samples that were drawn here converged."""
    unconverged = at["unconverged"]
    return not unconverged.estimate or unconverged.estimate <= MOST_UNCONVERGED * unconverged.n


def _undecided(regime: str, at: Mapping[str, Estimate], tested: Tested) -> str:
    """Why the measurements do not decide, where it is not the width of an interval."""
    if regime in ("memorizes", "generalizes", "underfits"):
        return ""
    if not _converged(at):
        return f"A regime needs samples of which at most {MOST_UNCONVERGED:.0%} did not converge."
    if regime == "cannot decide" and tested.rows and tested.unseen > MOST_UNSEEN:
        enough = tested.samples_needed
        needed = "more held-out images" if enough is None else f"about {enough:,} samples of each model"
        return f"The tests would not have found copies in {MOST_UNSEEN:.0%} of the samples. It takes {needed}."
    if regime == "cannot decide" and at["nearest_minus_holdout"].above(0):
        return (
            "Samples are nearer to their training set than held-out images are. Copies are, and so are samples that "
            "are smoother than real images."
        )
    return ""


def _near(nearness: Estimate) -> bool:
    """Whether samples are no nearer to the training set than held-out images are, by more than MARGIN."""
    return nearness.high is not None and nearness.high <= MARGIN


def _copy(at: Mapping[str, Estimate]) -> bool:
    """Whether samples are as similar to training images as copies are."""
    copying = COPY_SIMILARITY.get(at["nearest_own"].unit)
    return copying is not None and at["nearest_own"].above(copying)


def _opening(n: int, regime: str, at: Mapping[str, Estimate]) -> str:
    """The regime of the models of one training-set size, as a sentence."""
    return {
        "memorizes": f"At N = {n:,} the models {'copy' if _copy(at) else 'memorize'} their training sets.",
        "generalizes": f"At N = {n:,} the two models draw similar images from the same noise, and no copying is shown.",
        "underfits": f"At N = {n:,} the two models agree without copying, but they have learned too little.",
        "mixed": f"At N = {n:,} the models depend in part on their training sets.",
        "cannot decide": f"At N = {n:,} the measurements do not decide.",
    }[regime]


def _opening_of_one(name: str, regime: str, at: Mapping[str, Estimate], tested: Tested) -> str:
    """The regime of an imported subject, as a sentence; those that rest on agreement take a second model."""
    if regime == "memorizes":
        return f"The model {name} {'copies' if _copy(at) else 'memorizes'} its training set."
    if regime == "mixed":
        return f"The model {name} depends in part on its training set."
    if at["memorized_fraction"].below(0.5) and _near(at["nearest_minus_holdout"]) and tested.unseen <= MOST_UNSEEN:
        return f"No copying is shown for the model {name}, but the measurements do not decide whether it generalizes."
    return f"The measurements do not decide whether the model {name} memorizes its training set."


def _missing(at: Mapping[str, Estimate]) -> str:
    """What was not measured of an imported subject, and why; quantities that lack the same things share a sentence."""
    names: dict[str, list[str]] = {}
    for quantity in _SPOKEN_OF:
        if at[quantity].estimate is None:
            names.setdefault(at[quantity].note, []).append(QUANTITIES[quantity].name)
    return joined(*(f"Not measured: {listed(of_reason)}. {reason}".rstrip() for reason, of_reason in names.items()))


def _nearest(at: Mapping[str, Estimate]) -> str:
    own, holdout, nearness = at["nearest_own"], at["nearest_holdout_to_train"], at["nearest_minus_holdout"]
    if own.estimate is None:
        return ""
    text = f"The median sample has {_similarity(own)} its nearest training image"
    if nearness.estimate is None:
        return f"{text}; there are no held-out images to judge this by."
    return f"{text}, and the median held-out image one of {value(holdout)} (difference {estimate(nearness)})."


def _fraction(at: Mapping[str, Estimate]) -> str:
    rho = at["memorized_fraction"]
    return "" if rho.estimate is None else f"The memorized fraction is {estimate(rho)}."


def _agreement(at: Mapping[str, Estimate]) -> str:
    same, different, gain = at["cross_same"], at["cross_different"], at["cross_minus_null"]
    if same.estimate is None:
        return ""
    text = f"Samples of the two models from the same noise have {_similarity(same)} each other"
    if gain.estimate is None:
        return f"{text}; there are no samples from different noise to judge this by."
    return f"{text}, and samples from different noise one of {value(different)} (difference {estimate(gain)})."


def _similarity(row: Estimate) -> str:
    """A similarity without its interval: the sentence gives that of the difference, the table gives all of them."""
    if row.unit == "pixel units":
        return f"a distance of {value(row)} pixel units from"
    return f"a {row.unit} of {value(row)} with"


def _functions(at: Mapping[str, Estimate]) -> list[str]:
    bits, found = at["bits"], [_gap(at)]
    if bits.estimate is not None:
        levels = f" at noise levels from {bits.sigma_low:.3g} to {bits.sigma_high:.3g}" if bits.sigma_low else ""
        found.append(f"The two models' scores differ by {estimate(bits)} bits per dimension{levels}.")
    for quantity, reference in (("to_linear", "the best linear denoiser"), ("to_optimum", "the exact optimum")):
        row = at[quantity]
        if row.estimate is not None:
            how = "better than" if row.above(0) else "worse than" if row.below(0) else "about as well as"
            found.append(f"Held-out images are denoised {how} by {reference} ({estimate(row)} dB).")
    return found


def _gap(at: Mapping[str, Estimate]) -> str:
    gap = at["psnr_gap"]
    if gap.estimate is None:
        return ""
    if gap.low is None:
        return f"Training images are denoised {estimate(gap)} dB better than held-out images; there is no interval."
    if gap.above(0):
        return f"Training images are denoised {estimate(gap)} dB better than held-out images."
    return f"Training images are not shown to be denoised better than held-out images ({estimate(gap)} dB)."


def _points(rows: Mapping[tuple[int | str | None, str], Estimate]) -> tuple[str, ...]:
    what = {
        "N_cross": "the two models' samples from the same noise become more alike than samples and their nearest "
        "training images",
        "N_half": "the memorized fraction falls through 1/2",
    }
    result = []
    for name, quantity in POINTS.items():
        point = rows[None, name]
        if point.estimate is not None:
            result.append(f"At {quantity.name} = {estimate(point)}, {what[name]}. {point.note}")
        elif point.status != "not measured":
            result.append(f"{quantity.name} is the training-set size at which {what[name]}. {point.note}")
    return tuple(result)


def _unconverged(found: Mapping[Paragraph, Estimate]) -> str:
    counts = [
        f"{value(row)} of {row.n} {'of' if paragraph.n_train is None else 'at'} {paragraph.label}"
        for paragraph, row in found.items()
        if row.estimate
    ]
    return f"Some samples did not converge; they are kept in every number: {listed(counts)}." if counts else ""


def _headline(paragraphs: Sequence[Paragraph]) -> str:
    verbs = {
        "memorizes": "memorize",
        "mixed": "depend in part on their training sets",
        "underfits": "underfit",
        "generalizes": "generalize",
    }
    sizes: dict[str, list[str]] = {regime: [] for regime in RULES}
    for paragraph in paragraphs:
        if paragraph.n_train is not None:
            sizes[paragraph.regime].append(f"{paragraph.n_train:,}")
    parts = [f"{verb} at N = {listed(sizes[regime])}" for regime, verb in verbs.items() if sizes[regime]]
    undecided = f"The measurements do not decide at N = {listed(sizes['cannot decide'])}."
    return (
        joined(
            f"The models {listed(parts)}." if parts else "",
            undecided if sizes["cannot decide"] else "",
            # The first sentence alone: why the measurements do not decide stands in the paragraph. Names have no blank.
            *(f"{each.opening.split('. ')[0].rstrip('.')}." for each in paragraphs if each.subject is not None),
        )
        or "Nothing was measured that a verdict rests on."
    )
