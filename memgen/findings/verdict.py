"""What a transition table says, in words: a regime for each N by a stated rule, and sentences with their numbers.

The rule uses intervals only where it says so, and answers "cannot decide" where they are too wide or missing.
It judges copying and agreement, not truth: two models can agree and both be wrong (Maillard & Goldt 2026).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from memgen.base.estimates import Estimate
from memgen.base.wording import estimate, value
from memgen.findings.transition import estimates
from memgen.measures.copies import competition

MARGIN = 0.01
GAP_DB = 0.1
LINEAR_DB = 0.5
RULES = {
    "memorizes": "The memorized fraction is at least 1/2 and its interval excludes 0, and samples are nearer to their "
    "own training set than held-out images are (interval excludes 0).",
    "generalizes": "From the same noise the two models draw more similar images than from different noise (interval "
    "excludes 0). The interval of the memorized fraction contains 0 and lies below 1/2, and no training image was "
    f"found that samples depend on. Either samples are at most {MARGIN} nearer to their training set than held-out "
    "images are (whole interval), or they are nearer to the other model's sample than to their training set (interval "
    f"excludes 0). And training images are not shown to be denoised more than {GAP_DB} dB better than held-out ones.",
    "underfits": "As for generalizes, but held-out images are denoised more than "
    f"{LINEAR_DB} dB worse than by the best linear denoiser (whole interval): the models agree on too little.",
    "mixed": "None of these, and the models depend on their own training set (memorized fraction, nearness to the "
    f"training set, a training image found, or a PSNR gap above {GAP_DB} dB: intervals exclude 0).",
    "cannot decide": "Anything else: the intervals are too wide, or a measurement is missing.",
}
# Similarity above which two images pass for copies, and near-duplicates are removed; the word is used nowhere below it.
COPY_SIMILARITY = {"correlation": competition.ALIKE}
CAVEAT = (
    "Agreement is not truth: two models that draw the same images have learned the same thing, not necessarily the "
    "distribution of the data. Denoising better than the best linear denoiser is needed for that, not enough."
)


@dataclass(frozen=True)
class Paragraph:
    """What holds at one training-set size, or of one imported subject.

    Attributes:
        label: heading for people: `N = 64`, or the name of the subject.
        n_train: training-set size of the sweep; None for an imported subject.
        subject: name of the imported subject; None for a size of the sweep.
        regime: one of the keys of RULES.
        opening: the regime as a sentence.
        copies: what the test for copies found, as a sentence; empty if samples were not tested.
        samples: what was measured of the samples, as a sentence; empty if nothing was.
        functions: what was measured of the models as functions, as a sentence; empty if nothing was.
        missing: what was not measured, and why, as a sentence; empty if nothing has to be said.
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
        """The sentences that there are, in the order in which they are read."""
        return tuple(filter(None, (self.opening, self.copies, self.samples, self.functions, self.missing)))


@dataclass(frozen=True)
class Verdict:
    """What a transition table says, in words.

    Attributes:
        headline: the regimes in one sentence.
        paragraphs: one for each N in ascending order, then one for each imported subject.
        points: a sentence for each transition point that can be spoken of.
        unconverged: the samples that did not converge, as a sentence; empty if all did.
        caveat: CAVEAT where some regime needs it; or else empty.
    """

    headline: str
    paragraphs: tuple[Paragraph, ...]
    points: tuple[str, ...]
    unconverged: str
    caveat: str

    @property
    def regimes(self) -> dict[int | str, str]:
        """The regime at each N, and of each imported subject by its name."""
        return {paragraph.key: paragraph.regime for paragraph in self.paragraphs}

    @property
    def sentences(self) -> tuple[str, ...]:
        """Every paragraph as one text, then the sentences that are about all of them."""
        paragraphs = (" ".join(paragraph.sentences) for paragraph in self.paragraphs)
        return (*paragraphs, *self.points, *filter(None, (self.unconverged, self.caveat)))


def verdict(transition: pa.Table, copies: pa.Table | None = None) -> Verdict:
    """The regime at each N by RULES, and sentences that say what the numbers show and no more.

    Args:
        transition: a TRANSITION table.
        copies: a COPIES table, if samples were tested for copies.

    Raises:
        DataError: the table has another schema.
    """
    rows = estimates(transition)
    at: dict[int | str, dict[str, Estimate]] = {}
    for (key, quantity), row in rows.items():
        if key is not None:
            at.setdefault(key, {})[quantity] = row
    found = [] if copies is None else copies.to_pylist()
    paragraphs = tuple(
        _paragraph(
            key, of_key, [row for row in found if key == (row["n_train"] if row["role"] == "cell" else row["subject"])]
        )
        for key, of_key in at.items()
    )
    sizes = [paragraph.n_train for paragraph in paragraphs if paragraph.n_train is not None]
    points = {quantity: row for (key, quantity), row in rows.items() if key is None}
    needs_caveat = any(paragraph.regime in ("generalizes", "underfits") for paragraph in paragraphs)
    return Verdict(
        headline=_headline(paragraphs),
        paragraphs=paragraphs,
        points=tuple(_points(points)) if len(sizes) > 1 else (),
        unconverged=_unconverged({paragraph.label: at[paragraph.key]["unconverged"] for paragraph in paragraphs}),
        caveat=CAVEAT if needs_caveat else "",
    )


def _paragraph(key: int | str, at: Mapping[str, Estimate], tested: Sequence[Mapping[str, Any]]) -> Paragraph:
    regime = _regime(at, sum(row["discoveries"] for row in tested))
    label = f"N = {key:,}" if isinstance(key, int) else key
    samples, functions = (_sentence(parts) for parts in (_of_samples(at), _of_functions(at)))
    return Paragraph(
        label=label,
        n_train=key if isinstance(key, int) else None,
        subject=key if isinstance(key, str) else None,
        regime=regime,
        opening=_opening(label, regime, at),
        copies=_copies(tested),
        samples=samples,
        functions=functions,
        missing="" if samples or functions else "Nothing was measured.",
    )


def _sentence(parts: Sequence[str]) -> str:
    """The parts that are not empty as one sentence; empty if there are none."""
    text = "; ".join(part for part in parts if part)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _regime(at: Mapping[str, Estimate], discoveries: int) -> str:
    rho, nearness = at["memorized_fraction"], at["nearest_minus_holdout"]
    depends = rho.above(0) or discoveries > 0 or at["psnr_gap"].above(GAP_DB)
    agreement, lead = at["cross_minus_null"], at["cross_minus_nearest"]
    if rho.estimate is not None and rho.estimate >= 0.5 and rho.above(0) and nearness.above(0):
        return "memorizes"
    independent = (nearness.high is not None and nearness.high <= MARGIN) or lead.above(0)
    if agreement.above(0) and rho.below(0.5) and not depends and independent:
        return "underfits" if at["to_linear"].below(-LINEAR_DB) else "generalizes"
    return "mixed" if depends or nearness.above(0) else "cannot decide"


def _opening(label: str, regime: str, at: Mapping[str, Estimate]) -> str:
    """The regime in words; "copy" only where samples are as alike to training images as copies are."""
    copying = COPY_SIMILARITY.get(at["nearest_own"].unit)
    copies = copying is not None and at["nearest_own"].above(copying)
    return {
        "memorizes": f"At {label} the models {'copy' if copies else 'memorize'} their training sets.",
        "generalizes": f"At {label} the two models draw similar images from the same noise, and no copying is shown.",
        "underfits": f"At {label} the two models agree without copying, but on too little.",
        "mixed": f"At {label} the models depend on the training set in part.",
        "cannot decide": f"At {label} the measurements do not decide.",
    }[regime]


def _of_samples(at: Mapping[str, Estimate]) -> list[str]:
    return [_nearest(at), _fraction(at), _agreement(at)]


def _of_functions(at: Mapping[str, Estimate]) -> list[str]:
    bits, parts = at["bits"], [_gap(at)]
    if bits.estimate is not None:
        extent = "" if bits.sigma_low is None else f" (sigma from {bits.sigma_low:.3g} to {bits.sigma_high:.3g})"
        parts.append(f"the two models' score functions differ by {estimate(bits)} bits per dimension{extent}")
    for quantity, reference in (("to_linear", "the best linear denoiser"), ("to_optimum", "the exact optimum")):
        row = at[quantity]
        if row.estimate is not None:
            how = "better than" if row.above(0) else "worse than" if row.below(0) else "about as well as"
            parts.append(f"held-out images are denoised {how} by {reference} ({estimate(row)} dB)")
    return parts


def _copies(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the test for copies found at one N, over its models."""
    if not rows:
        return ""
    discoveries, alike, attached = (sum(row[name] for row in rows) for name in ("discoveries", "alike", "attached"))
    samples, q = sum(row["samples"] for row in rows), rows[0]["q"]
    models = f"{len(rows)} models" if len(rows) > 1 else "the model"
    start = f"{samples:,} samples of {models} were tested image by image (false-discovery rate {q:.0%}):"
    if discoveries:
        each = ", ".join(f"{row['subject']} {row['discoveries']}" for row in rows)
        found = f"they depend on {discoveries:,} single training image{'s' if discoveries > 1 else ''} ({each})"
        look = f"those that look like the sample (correlation {competition.ALIKE:g} or more): {alike:,}"
        return f"{start} {found}; {look}; further samples at these: {attached:,}."
    undecided = [row for row in rows if row["answer"] == "cannot decide"]
    if undecided:
        needed = max(row["k_min"] for row in undecided)
        return f"{start} cannot decide; {needed:,} training images would have to be found for any to be found."
    return f"{start} no dependence on single training images found."


def _nearest(at: Mapping[str, Estimate]) -> str:
    own, holdout, nearness = at["nearest_own"], at["nearest_holdout_to_train"], at["nearest_minus_holdout"]
    if own.estimate is None:
        return ""
    text = f"{_middle(own)} from the median sample to its nearest training image"
    if nearness.estimate is None:
        return f"{text} (no held-out images to judge this by)"
    return f"{text}, {_middle(holdout)} from a held-out image (difference {estimate(nearness)})"


def _fraction(at: Mapping[str, Estimate]) -> str:
    rho = at["memorized_fraction"]
    return "" if rho.estimate is None else f"memorized fraction {estimate(rho)}"


def _agreement(at: Mapping[str, Estimate]) -> str:
    same, different, gain = at["cross_same"], at["cross_different"], at["cross_minus_null"]
    if same.estimate is None:
        return ""
    text = f"{_middle(same)} between the two models' samples from the same noise"
    if gain.estimate is None:
        return f"{text} (no samples from different noise to judge this by)"
    return f"{text}, {_middle(different)} from different noise (difference {estimate(gain)})"


def _gap(at: Mapping[str, Estimate]) -> str:
    gap = at["psnr_gap"]
    if gap.estimate is None:
        return ""
    if gap.low is None:
        return f"training images denoised {estimate(gap)} dB better than held-out ones (one image, no interval)"
    if gap.above(0):
        return f"training images denoised {estimate(gap)} dB better than held-out ones"
    return f"training images not shown to be denoised better than held-out ones ({estimate(gap)} dB)"


def _middle(row: Estimate) -> str:
    """A similarity without its interval: the sentence gives that of the difference, the table all of them."""
    return f"{row.unit} {value(row)}"


def _points(points: Mapping[str, Estimate]) -> list[str]:
    words = {
        "N_cross": "the two models' samples become more alike than samples and nearest training images",
        "N_half": "the memorized fraction falls through 1/2",
    }
    result = []
    for name, what in words.items():
        point = points[name]
        if point.estimate is not None:
            result.append(f"{name.replace('N_', 'N*_')} = {estimate(point)}: there {what} ({point.note}).")
        elif point.status != "not measured":
            result.append(f"{name.replace('N_', 'N*_')}, where {what}: {point.note}.")
    return result


def _unconverged(found: Mapping[str, Estimate]) -> str:
    counts = {label: row for label, row in found.items() if row.estimate}
    if not counts:
        return ""
    listed = ", ".join(f"{value(row)} of {row.n} at {label}" for label, row in counts.items())
    return f"Samples that did not converge, kept in every number: {listed}."


def _headline(paragraphs: Sequence[Paragraph]) -> str:
    parts = []
    for regime in ("memorizes", "mixed", "underfits", "generalizes", "cannot decide"):
        sizes = [f"{each.n_train:,}" for each in paragraphs if each.regime == regime and each.n_train is not None]
        if sizes:
            parts.append(f"{regime} at N = {', '.join(sizes)}")
    text = "; ".join(parts) or "nothing was measured"
    return f"{text[0].upper()}{text[1:]}."
