"""What an audit says: found, none, or undecided, with the pairs and the power behind it.

found       one of the two tests for copies reports something, and chance alone would seldom lead as far (`copies`),
            or the exact test on canaries says that samples depend on the draw
none        neither does, and they would have found exact copies of different images in 5 % of the samples
undecided   neither does, and they might have missed such copies; or there are no held-out images to compare with
"""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memgen.base.intervals import clopper_pearson
from memgen.base.strings import Strings
from memgen.base.tables import Rows
from memgen.base.wording import number
from memgen.findings.copies import ASSUMPTIONS, LEVEL, MOST_UNSEEN, Tested, judge
from memgen.findings.verdict import GAP_DB
from memgen.measures.copies.rarefaction import rarefied

SCHEMA = "memgen.audit/1"
REPORTED_BY = {"discovered": "competition", "flagged": "conformal test"}
_CLOSE = 0.95  # quantile of the closeness of training images to each other, beyond which samples are counted
_FOUND = 0.8  # power from which a kind of copy counts as found


@dataclass(frozen=True)
class Answer:
    """What an audit says.

    Attributes:
        answer: found, none or undecided.
        headline: the answer as a sentence.
        sentences: what it rests on, and what it cannot tell.
        counts: the numbers behind it, by name; empty without held-out images.
        identical: samples with the pixels of a training image, which are copies whatever the tests say.
    """

    answer: Literal["found", "none", "undecided"]
    headline: str
    sentences: tuple[str, ...]
    counts: Mapping[str, Any]
    identical: int = 0


@dataclass(frozen=True)
class Pair:
    """A sample and the training image that it may be a copy of.

    Attributes:
        sample: index of the sample.
        sample_source: the file that it comes from.
        train: position of the training image in T.
        train_source: the file that it comes from.
        group: its group; None where units are images.
        held_out: position in H of the closest held-out image in the same space; None where none was near.
        space: space in which the sample is judged; pixels where nothing was tested.
        closeness: similarity of sample and training image in that space; None where undefined.
        held_out_closeness: similarity of the sample and that held-out image.
        correlation: of the sample with its closest training image in pixels.
        transformation: how the sample was changed so as to fit, and the part that was compared; see `SIGNIFICANCE`.
        score: W in the competition; None where nothing was tested.
        p: conformal p-value; None where nothing was tested.
        reported_by: the tests that report it.
    """

    sample: int
    sample_source: str
    train: int
    train_source: str
    group: str | None
    held_out: int | None
    space: str
    closeness: float | None
    held_out_closeness: float | None
    correlation: float | None
    transformation: Mapping[str, Any] | None
    score: float | None
    p: float | None
    reported_by: tuple[str, ...]

    @property
    def change(self) -> str:
        """The transformation in words; empty if the sample was compared as it is."""
        return described(self.transformation)

    def as_json(self) -> dict[str, Any]:
        """The pair in `audit.json`."""
        return {
            "sample": self.sample_source,
            "training_image": self.train_source,
            "group": self.group,
            "space": self.space,
            "transformation": None if self.transformation is None else dict(self.transformation),
            "score": self.score,
            "closeness": self.closeness,
            "correlation": self.correlation,
            "p": self.p,
            "reported_by": list(self.reported_by),
        }


_CHANGES = ("compared", "mirrored", "negative", "shift_x", "shift_y", "rotation", "zoom")
_JUDGED = ("sample", "space", "found_train", "found_held_out", "W", "p", *REPORTED_BY, *_CHANGES)
OF_TESTS = ("nearest_in", "found_train_id", "found_held_out_id", *_JUDGED)
OF_NEIGHBORS = ("query", "reference_index", "value")


def described(change: Mapping[str, Any] | None) -> str:
    """A transformation in words, with what is too small to see left out."""
    if change is None:
        return ""
    words = [f"{change['compared']} half"] if change["compared"] != "whole" else []
    words += ["mirrored"] if change["mirrored"] else []
    if max(abs(change["shift_x"]), abs(change["shift_y"])) >= 0.25:
        words.append(f"shifted by {change['shift_x']:+.1f}, {change['shift_y']:+.1f} pixels")
    if abs(change["rotation"]) >= 1:
        words.append(f"turned by {change['rotation']:+.0f} degrees")
    if abs(change["zoom"] - 1) >= 0.01:
        words.append(f"zoomed by {change['zoom']:.2f}")
    return ", ".join([*words, *(["negative"] if change["negative"] else [])])


def pairs(
    significance: pa.Table | None,
    neighbors: pa.Table,
    ids: Mapping[str, Strings],
    sources: Mapping[str, Strings],
    groups: Strings | None,
) -> Rows[Pair]:
    """The pairs of samples and training images; those that a test reports, and the deepest, first.

    Args:
        significance: the columns OF_TESTS of a SIGNIFICANCE table; None where nothing was tested.
        neighbors: the columns OF_NEIGHBORS of a NEIGHBORS table of rank 1: the closest training image to each sample in
            pixels.
        ids: content ids of the images in `train` and, where something was tested, in `held_out`.
        sources: where each image comes from, in `samples` and in `train`.
        groups: group of each image of T; None without groups.
    """
    if significance is None:
        value = neighbors["value"].to_numpy()  # null becomes NaN
        undefined = np.isnan(value)
        order = np.lexsort((-np.where(undefined, 0, value), undefined))
        return Rows(neighbors, order, lambda row: _untested(row, sources, groups))
    sample, query = significance["sample"].to_numpy(), neighbors["query"].to_numpy()
    by_query = np.argsort(query)
    own = by_query[np.searchsorted(query, sample, sorter=by_query)]
    made = significance.select(_JUDGED)
    made = made.append_column("correlation", neighbors["value"].take(pa.array(own)))
    for name in ("train", "held_out"):
        made = made.append_column(name, pa.array(ids[name].positions(significance[f"found_{name}_id"])))
    score = significance["W"].to_numpy()
    keys = (
        sample,
        -np.abs(np.where(np.isnan(score), 0, score)),
        pc.not_equal(significance["nearest_in"], "T").to_numpy(),
        pc.invert(significance["flagged"]).to_numpy(),
        pc.invert(significance["discovered"]).to_numpy(),
    )
    order = np.lexsort(keys)
    order = order[significance["found_train_id"].is_valid().to_numpy()[order]]
    return Rows(made, order, lambda row: _tested(row, sources, groups))


def reported(pairs: Sequence[Pair]) -> int:
    """How many pairs a test reports; these are the first."""
    return bisect.bisect_left(pairs, True, key=lambda pair: not pair.reported_by)


def _untested(row: Mapping[str, Any], sources: Mapping[str, Strings], groups: Strings | None) -> Pair:
    place = row["reference_index"]
    group = None if groups is None else groups[place]
    sample, train = sources["samples"][row["query"]], sources["train"][place]
    value = row["value"]
    return Pair(row["query"], sample, place, train, group, None, "pixels", value, None, value, None, None, None, ())


def _tested(row: Mapping[str, Any], sources: Mapping[str, Strings], groups: Strings | None) -> Pair:
    place = row["train"]
    return Pair(
        sample=row["sample"],
        sample_source=sources["samples"][row["sample"]],
        train=place,
        train_source=sources["train"][place],
        group=None if groups is None else groups[place],
        held_out=None if row["held_out"] < 0 else row["held_out"],
        space=row["space"],
        closeness=row["found_train"],
        held_out_closeness=row["found_held_out"],
        correlation=row["correlation"],
        transformation={name: row[name] for name in _CHANGES},
        score=row["W"],
        p=row["p"],
        reported_by=tuple(name for column, name in REPORTED_BY.items() if row[column]),
    )


def powers(planted: pa.Table) -> list[dict[str, Any]]:
    """How many planted copies of each kind were found at each share, with an interval: JSON.

    The interval is that of Clopper and Pearson, as if copies were found one by one; those of one draw are found
    together or not at all, so it is rather too short.

    Args:
        planted: a PLANTED table; empty if nothing was planted.
    """
    found: dict[tuple[str, float], dict[str, int]] = {}
    for row in planted.sort_by([("repeat", "ascending")]).to_pylist():
        sums = found.setdefault(
            (row["kind"], row["share"]), dict.fromkeys(("planted", "found", "flagged", "either"), 0)
        )
        for name in sums:
            sums[name] += row[name]
    listed_powers = []
    for (kind, share), sums in found.items():
        low, high = clopper_pearson(sums["either"], sums["planted"])
        power = sums["either"] / sums["planted"]
        listed_powers.append({"kind": kind, "share": share, **sums, "power": power, "low": low, "high": high})
    return listed_powers


def growth(at_risk: pa.Table, samples: int) -> list[dict[str, Any]]:
    """How the number of different training images or groups that are reported grows with the samples; see `rarefied`.

    A unit has as many samples as were flagged, or one if only the competition reports it.

    Args:
        at_risk: an AT_RISK table.
        samples: number of all samples.

    Returns:
        For a quarter, a half, three quarters and all of the samples, their number and the expected number of units;
        empty if none is reported.
    """
    reported = at_risk.filter(pc.field("discovered") | (pc.field("flagged") > 0))
    hits = [max(1, flagged) for flagged in reported["flagged"].to_pylist()]
    drawn = [samples * part // 4 for part in range(1, 5)]
    return [{"samples": m, "units": rarefied(hits, samples, m)} for m in drawn] if hits else []


def answer(
    tables: Mapping[str, pa.Table],
    sets: Mapping[str, Mapping[str, Any]],
    undeclared: bool = False,
    identical: Mapping[str, Mapping[str, Any]] | None = None,
) -> Answer:
    """What an audit says.

    Args:
        tables: the tables `copies`, `significance` and `at_risk` (empty without held-out images), `planted` and
            `canaries` (empty where none were), and `neighbors`, of samples and, without held-out images, of training
            images among themselves. Of the tables with a row for each sample, only the columns that this module names
            need be there: `p`; `discovered` and `flagged`; `query_kind` and `value`.
        sets: number of images of each set, as `audit.json` has them.
        undeclared: whether names suggest groups that were divided as a whole and that nobody declared. Then the rate
            of false finds is unknown, and the answer says so.
        identical: of `samples` and `held_out`, those with the pixels of a training image: their `count`, and as
            `example` the names of a pair.
    """
    identical = identical or {}
    same = [_IDENTICAL[kind].format(of=of) for kind, of in identical.items()]
    copied = identical["samples"]["count"] if "samples" in identical else 0
    but = f" But {_number(copied, 'sample')} {'has' if copied == 1 else 'have'} the same pixels as a training image."
    of_draw = exposed(tables["canaries"])
    of_canaries = _canaries(of_draw)
    depends = of_draw is not None and of_draw["p"] <= LEVEL
    if not tables["copies"].num_rows:
        alone = [*same, *of_canaries, *_among_themselves(tables["neighbors"], sets["train"]["images"])]
        if depends:
            return Answer("found", _EXPOSED, tuple(alone), {}, copied)
        return Answer(
            "undecided",
            f"Undecided: without held-out images, nothing tells a copy from a natural resemblance.{but * bool(copied)}",
            (
                *alone,
                "Images of one kind resemble each other, so a close pair proves nothing by itself. Give images of the "
                "same source that the model never saw with --holdout.",
            ),
            {},
            copied,
        )
    (row,) = tables["copies"].to_pylist()
    (tested,) = judge(tables["copies"]).values()
    power = powers(tables["planted"])
    unit = f"training {row['unit']}"
    if tested.found:
        kind: Literal["found", "none", "undecided"] = "found"
        headline = _found(row, tested, unit, undeclared)
    elif depends:
        kind, headline = "found", _EXPOSED
    elif tested.unseen <= MOST_UNSEEN:
        kind = "none"
        headline = (
            f"None found: exact copies in {tested.unseen_in_words} of the samples or more would have been found, with "
            "a probability of 95 %."
        )
    else:
        kind = "undecided"
        hidden = (
            f", hidden by near-duplicates of {_number(row['n_leaks'], 'training image')} among the held-out images"
            if row["n_leaks"] and tested.hidden
            else ""
        )
        headline = f"Undecided: copies in up to {tested.unseen_in_words} of the samples could have gone unseen{hidden}."
    if kind != "found" and copied:
        headline += but
    sentences = [
        *same,
        *tested.sentences,
        *([] if tested.found else _deepest(tables["significance"], row)),
        *_growth(growth(tables["at_risk"], sets["samples"]["images"]), unit),
        *of_canaries,
        *_gaps(tables["gaps"]),
        *_fraction(row),
        *_recall(row),
        *_power(power),
    ]
    if kind == "undecided":
        sentences.append(_larger(row, tested))
    if row["n_leaks"]:
        sentences.append(
            f"{row['n_leaks']:,} training images have near-duplicates among the held-out images. Each such cluster "
            "counts as one image, on one side."
        )
    if undeclared and not tested.found:
        sentences.append(_UNDECLARED)
    return Answer(kind, headline, (*sentences, ASSUMPTIONS), _counts(row, tested), copied)


_UNDECLARED = "Names suggest groups, such as patients, that were divided as a whole. State them with --groups."
_IDENTICAL = {
    "samples": "{of[count]:,} of the samples have the same pixels as a training image (for example {of[example][0]} "
    "and {of[example][1]}). They are copies, whatever the tests say.",
    "held_out": "{of[count]:,} of the held-out images have the same pixels as a training image (for example "
    "{of[example][0]} and {of[example][1]}). If the model was trained on them, remove them from the held-out images.",
}
_EXPOSED = "Found: the samples depend on which canaries the model was trained on."


def _among_themselves(neighbors: pa.Table, train: int) -> list[str]:
    """How close samples are to training images, and how close these are to each other: the only baseline without H."""
    values = {
        kind: np.nan_to_num(neighbors.filter(pc.field("query_kind") == kind)["value"].to_numpy(), nan=-1)
        for kind in ("sample", "train")
    }
    if train < 2 or not len(values["train"]):
        return []
    limit = float(np.quantile(values["train"], _CLOSE))
    median = {kind: number(float(np.median(each)), "correlation") for kind, each in values.items()}
    closer = float(np.mean(values["sample"] > limit))
    return [
        f"The nearest of {train:,} training images was found for each of {len(values['sample']):,} samples: the "
        f"correlation has the median {median['sample']}. Between a training image and the nearest other one it has the "
        f"median {median['train']}. {closer:.0%} of the samples are closer than {number(limit, 'correlation')}, where "
        f"{1 - _CLOSE:.0%} of the training images are. A larger share may come from copies, or from samples that vary "
        "less than training images do."
    ]


def exposed(canaries: pa.Table) -> dict[str, Any] | None:
    """What a CANARIES table says of all canaries, as `audit.json` has it; None without canaries."""
    if not canaries.num_rows:
        return None
    trained = sum(canaries["trained"].to_pylist())
    row = {name: canaries[name][0].as_py() for name in ("auc", "p")}
    return {"trained": trained, "kept": canaries.num_rows - trained, **row}


def _canaries(found: Mapping[str, Any] | None) -> list[str]:
    """What canaries say, in a sentence; nothing without them."""
    if found is None:
        return []
    return [
        f"Of {found['trained'] + found['kept']} canaries, {found['trained']} were trained on, as a random draw "
        f"decided. A trained canary is followed more closely by samples than a kept one with a probability of "
        f"{found['auc']:.2f}, where 0.5 is chance. If the samples did not depend on the draw, chance alone would give "
        f"as much with a probability of {found['p']:.2g}."
    ]


def _growth(found: Sequence[Mapping[str, Any]], unit: str) -> list[str]:
    """What fewer samples would have shown, in a sentence; nothing where nothing was reported."""
    if not found:
        return []
    half, everything = found[1], found[-1]
    return [
        f"The tests report {_number(round(everything['units']), unit)} in all, and half as many samples would be "
        f"expected to show {half['units']:.1f} of them. If that is near a half of all, more samples would show many "
        "more; if it is near all, few."
    ]


def _found(row: Mapping[str, Any], tested: Tested, unit: str, undeclared: bool) -> str:
    if tested.competition:
        found, reported = f"samples depend on {_number(row['discoveries'], unit)}", "these"
    else:
        found = f"{_number(row['flagged'], 'sample')} lie too close to {_number(row['flagged_images'], unit)}"
        reported = "these samples"
    if undeclared:
        return f"Found, but with an unknown share of false finds: {found}. {_UNDECLARED}"
    return f"Found: {found}. At most {row['q']:.0%} of {reported} are expected to be false finds."


def _fraction(row: Mapping[str, Any]) -> list[str]:
    if row["memorized_fraction"] is None:
        return []
    chance = row["n_pool_train"] / (row["n_pool_train"] + row["n_pool_heldout"])
    return [
        f"Over all samples: if the model did not depend on the training images, {chance:.1%} of the samples would be "
        f"nearest to one of them, rather than to a held-out image. The memorized fraction, 0 at chance and 1 if all "
        f"are, is {row['memorized_fraction']:.3f} [{row['low']:.3f}, {row['high']:.3f}], and chance alone gives as "
        f"much with a probability of {row['p']:.2g}."
    ]


def _deepest(significance: pa.Table, row: Mapping[str, Any]) -> list[str]:
    """How many samples no held-out image equals in depth, and how many chance would bring, in sentences."""
    least = 1 / (row["judged_by"] + 1)
    beyond = int(np.count_nonzero(significance["p"].to_numpy() <= least * (1 + 1e-9)))
    if not beyond:
        return []
    return [
        f"{beyond:,} {'sample lies' if beyond == 1 else 'samples lie'} deeper in the neighborhood of a training image "
        f"than all {row['judged_by']:,} held-out {row['unit']}s do, where chance alone would bring at most "
        f"{least * row['samples']:.1f} on average. Look at the closest pairs: a test reports no number so small."
    ]


def _recall(row: Mapping[str, Any]) -> list[str]:
    """What an approximate search missed, and what its error does to the answer; nothing of an exact search."""
    if row["probes"] is None:
        return []
    fraction = (
        ""
        if row["exact_fraction"] is None
        else f" Their memorized fraction is {row['checked_fraction']:.3f} by the approximate search, and "
        f"{row['exact_fraction']:.3f} by the exact one."
    )
    return [
        f"The search was approximate: each sample looked at {_number(row['probes'], 'list')} of like images. Of "
        f"{_number(row['checked'], 'sample')} that were searched exactly too, it found {row['recall']:.1%} "
        f"[{row['recall_low']:.1%}, {row['recall_high']:.1%}] of the nearest images (recall@1).{fraction} The lists do "
        "not depend on which images are training images, so the rates of false finds hold. Copies may be missed."
    ]


_DENOISES = "Whether the model does better as a denoiser on training images than on held-out ones"


def _gaps(gaps: pa.Table) -> list[str]:
    """What the denoising of training and held-out images says of the model; nothing where it was not measured.

    The intervals hold at all noise levels together, so the one that reaches highest and the lowest end that is largest
    may be taken. A gap counts as memorization where it does in the verdict of a sweep.
    """
    rows = gaps.to_pylist()
    if not rows:
        return []
    if any(row["low"] is None for row in rows):
        return [
            f"{_DENOISES} cannot be told: {rows[0]['n_train']} and {rows[0]['n_held_out']} images or groups were "
            "measured, and an interval needs two of each."
        ]
    most = max(rows, key=lambda row: row["low"])
    if most["low"] <= 0:
        widest = max(rows, key=lambda row: row["high"])
        if widest["high"] <= GAP_DB:
            return [
                f"As a denoiser, the model does not do better on training images than on held-out ones by more than "
                f"{GAP_DB} dB: at every one of {len(rows)} noise levels, the gap of PSNR is at most "
                f"{widest['high']:.2f} dB."
            ]
        return [
            f"{_DENOISES} cannot be told: no gap of PSNR is shown, but one of up to {widest['high']:.2f} dB could have "
            f"gone unseen, at a noise level of {widest['sigma']:.3g}. More images may tell (psnr.n_images; "
            f"{widest['n_train']:,} training and {widest['n_held_out']:,} held-out images or groups were measured)."
        ]
    found = (
        ""
        if most["tpr"] is None
        else f" Whoever calls an image that is denoised well a training image finds {most['tpr']:.0%} "
        f"[{most['tpr_low']:.0%}, {most['tpr_high']:.0%}] of them so, at 1 % false alarms."
    )
    says = "memorizes" if most["low"] > GAP_DB else "does a little better on training images than on held-out ones"
    return [
        f"As a denoiser, the model {says}: at a noise level of {most['sigma']:.3g}, its PSNR on training images is "
        f"{most['gap']:.2f} dB [{most['low']:.2f}, {most['high']:.2f}] larger than on held-out ones.{found}"
    ]


def _power(power: Sequence[Mapping[str, Any]]) -> list[str]:
    """What planted copies say of what would have been found: each kind at the smallest share at which most were."""
    if not power:
        return ["How many copies of which kind would have been found, --calibrate tells."]
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(power, key=lambda row: row["share"]):
        kinds.setdefault(row["kind"], []).append(row)
    first: dict[float, list[str]] = {}
    for kind, rows in kinds.items():
        share = next((row["share"] for row in rows if row["power"] >= _FOUND), None)
        if share is not None:
            first.setdefault(share, []).append(kind)
    sentences = [
        f"Of copies planted in {share:.0%} of the samples, at least {_FOUND:.0%} were found if they were: "
        f"{'; '.join(first[share])}."
        for share in sorted(first)
    ]
    rest = [kind for kind in kinds if not any(kind in found for found in first.values())]
    if rest:
        most = max(row["share"] for row in power)
        missed = "; ".join(f"{kind} ({kinds[kind][-1]['power']:.0%} were found)" for kind in rest)
        sentences.append(
            f"Even of copies planted in {most:.0%} of the samples, many were missed if they were: {missed}."
        )
    return sentences


def _larger(row: Mapping[str, Any], tested: Tested) -> str:
    """What would have to be larger, and by how much."""
    if (needed := tested.samples_needed) is not None:
        return f"About {needed:,} samples (there are {row['samples']:,}) would be enough for an answer."
    if tested.hidden and row["n_leaks"]:
        return (
            "More samples alone would not be enough for an answer: remove the held-out images that are near-duplicates "
            "of training images, or give others that the model never saw."
        )
    return (
        f"More samples alone would not be enough for an answer: give more than {row['n_pool_heldout']:,} held-out "
        f"{row['unit']}s too."
    )


def _counts(row: Mapping[str, Any], tested: Tested) -> dict[str, Any]:
    """The numbers of a COPIES row under the names of its columns, without those that name a subject of a sweep."""
    left_out = ("subject", "role", "part", "train_seed", "n_train", "answer")
    return {key: value for key, value in row.items() if key not in left_out} | {"unseen": tested.unseen}


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
