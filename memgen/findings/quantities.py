"""Every quantity of a transition table, for the rows of one training-set size or of one imported subject.

See `transition` for what the quantities are, and for what their intervals cover.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memgen.base import schemas
from memgen.base.estimates import Estimate
from memgen.base.intervals import grouped
from memgen.base.wording import joined, listed
from memgen.findings.resampling import Floats, Ints, Observations, Resampling, percentile_interval

Columns = Mapping[str, NDArray[Any]]
Key = int | str | None

# Coverage of all intervals of a sweep together, and of an interval that holds alone: of an imported subject or a point.
LEVEL = 0.95
# The columns that are read of each table, besides train_seed.
READ = {
    "neighbors": ("query_kind", "query", "query_id", "part", "reference", "value"),
    "similarity": ("kind", "item_a", "item_b", "value"),
    "psnr": ("kind", "image_id", "subject", "sigma", "noise_draw", "output_psnr_db"),
    "distances": ("kind", "image_id", "sigma", "value", "weight"),
    "samples": ("status",),
    "significance": ("sample", "part", "nearest_id", "nearest_in"),
    "copies": ("n_pool_train", "n_pool_heldout"),
}
# What each quantity needs of a subject, and what people read where that is lacking.
REASONS = {
    "samples": "There are no samples.",
    "training set": "The training set is not known.",
    "held-out images": "No images are known that the model was not trained on.",
    "denoiser": "There is no denoiser.",
    "second model": "There is no second model that was trained on other images.",
}
NEEDS = {
    "nearest_own": ("samples", "training set"),
    "nearest_holdout_to_train": ("training set", "held-out images"),
    "nearest_minus_holdout": ("samples", "training set", "held-out images"),
    "cross_same": ("second model",),
    "cross_different": ("second model",),
    "cross_minus_null": ("second model",),
    "train_train": ("second model",),
    "cross_minus_nearest": ("second model",),
    "memorized_fraction": ("samples", "training set", "held-out images"),
    "psnr_gap": ("denoiser", "training set", "held-out images"),
    "disagreement": ("second model",),
    "bits": ("second model",),
    "to_linear": ("denoiser", "held-out images"),
    "to_optimum": ("denoiser", "held-out images"),
    "unconverged": ("samples",),
}


@dataclass(frozen=True)
class Similarity:
    """The similarity of images that is read from the tables.

    Attributes:
        name: in the column `metric`.
        unit: unit of its values.
        larger_is_closer: whether a larger value means more alike.
    """

    name: str = "correlation"
    unit: str = "correlation"
    larger_is_closer: bool = True


@dataclass(frozen=True, eq=False)
class Group:
    """What was measured of the models of one training-set size, or of one imported subject.

    Attributes:
        key: N, or the name of the subject.
        tables: the columns READ of each table by its name, with only the rows of this group.
        references: PSNR of the references by the quantity that compares with them, and by image, noise level and
            noise draw.
        plan: bootstrap draws.
        similarity: the similarity of images.
        sigma_range: lowest and highest noise level of the bits, in pixel units; None where they are not known.
        lacks: which of REASONS hold: what the subject does not have.
        level: intended coverage of each interval.
    """

    key: int | str
    tables: Mapping[str, Columns]
    references: Mapping[str, Mapping[tuple[str, float, int], float]]
    plan: Resampling
    similarity: Similarity
    sigma_range: tuple[float, float] | None
    lacks: frozenset[str]
    level: float

    def rows(self, name: str, **where: str) -> Columns:
        """The rows of one table in which columns have the given values; no rows where the table is missing."""
        if name not in self.tables:
            return {key: np.empty(0) for key in ("train_seed", *READ[name])}
        columns = self.tables[name]
        keep = np.ones(len(columns["train_seed"]), dtype=bool)
        for key, value in where.items():
            keep &= columns[key] == value
        return {key: values[keep] for key, values in columns.items()}


@dataclass(frozen=True, eq=False)
class Measured:
    """The estimates of a group, and the draws that the transition points need.

    Attributes:
        rows: an estimate for each quantity.
        lead: draws of the similarity between the two models less that to the training set, (R + 1,).
        fraction: draws of the memorized fraction, (R + 1,); None where it was not measured.
        band: ends of the interval of the memorized fraction that holds alone, for the transition points; None where it
            was not measured.
    """

    rows: Mapping[str, Estimate]
    lead: Floats
    fraction: Floats | None
    band: tuple[float, float] | None


def measure(group: Group) -> Measured:
    """Every quantity of a group, with the draws behind those that cross at a transition point."""
    sign = 1.0 if group.similarity.larger_is_closer else -1.0
    nearest, holdout = _nearest(group, "sample"), _nearest(group, "holdout")
    same, different = _similarity(group, "same_noise"), _similarity(group, "different_noise")
    halves = _similarity(group, "train_train")
    unit = group.similarity.unit
    own, of_holdout, twin, unrelated = (each.medians() for each in (nearest, holdout, same, different))
    lead = sign * (twin - own)
    rho, fraction, band = _memorized(group)
    rows = {
        "nearest_own": _estimate(group, own, unit, nearest),
        "nearest_holdout_to_train": _estimate(group, of_holdout, unit, holdout),
        "nearest_minus_holdout": _estimate(group, sign * (own - of_holdout), unit, nearest, holdout),
        "cross_same": _estimate(group, twin, unit, same),
        "cross_different": _estimate(group, unrelated, unit, different),
        "cross_minus_null": _estimate(group, sign * (twin - unrelated), unit, same, different),
        "train_train": _estimate(group, halves.medians(), unit, halves),
        "cross_minus_nearest": _estimate(group, lead, unit, same, nearest),
        "memorized_fraction": rho,
        "psnr_gap": _gap(group),
        "disagreement": _disagreement(group),
        "bits": _bits(group),
        **{quantity: _to_reference(group, quantity) for quantity in schemas.REFERENCES},
        "unconverged": _unconverged(group),
    }
    return Measured({name: _explained(name, row, group.lacks) for name, row in rows.items()}, lead, fraction, band)


def _explained(quantity: str, row: Estimate, lacks: frozenset[str]) -> Estimate:
    """The row, with the reason where it is missing because of something that the subject lacks."""
    reasons = [REASONS[need] for need in NEEDS[quantity] if need in lacks]
    return row if row.estimate is not None or not reasons else replace(row, note=" ".join(reasons))


def _nearest(group: Group, kind: str) -> Observations:
    rows = group.rows("neighbors", query_kind=kind)
    if kind == "sample":
        own = rows["reference"] == _own(rows["part"])
        units, seeds = rows["query"][own], rows["train_seed"][own]
        return group.plan.observe("sample", group.plan.samples, _floats(rows["value"][own]), [units], seeds)
    own = np.isin(rows["reference"].astype(str), ["train_a", "train_b", "train"])
    images = rows["query_id"][own].astype(str)
    return group.plan.observe("holdout image", np.unique(images), _floats(rows["value"][own]), [images], None)


def _similarity(group: Group, kind: str) -> Observations:
    rows = group.rows("similarity", kind=kind)
    values = _floats(rows["value"])
    if kind == "train_train":
        return group.plan.observe("training image", np.unique(rows["item_a"]), values, [rows["item_a"]], None)
    units = [rows["item_a"]] if kind == "same_noise" else [rows["item_a"], rows["item_b"]]
    return group.plan.observe("sample", group.plan.samples, values, units, rows["train_seed"])


def _memorized(group: Group) -> tuple[Estimate, Floats | None, tuple[float, float] | None]:
    rows, tested = group.rows("significance"), group.rows("copies")
    if not len(rows["sample"]):
        reason = "The samples were not tested for copies. Run memgen verdict."
        return Estimate.of(None, unit="share", note=reason), None, None
    sizes = tested["n_pool_train"], tested["n_pool_train"] + tested["n_pool_heldout"]
    control = float(np.mean(sizes[0] / sizes[1]))
    hits = rows["nearest_in"] == "T"
    observed = group.plan.observe("sample", group.plan.samples, _floats(hits), [rows["sample"]], rows["train_seed"])
    rho = (observed.means() - control) / (1 - control)
    # Samples of one part that share a nearest image hit or miss together.
    shared = _joined(rows["part"], rows["nearest_id"])
    _, first, counts = np.unique(shared, return_index=True, return_counts=True)

    def ends(level: float) -> tuple[float, float]:
        # c is exact (a model blind to the labels T and H finds T that often), so the ends of P map to those of rho.
        low, high = ((x - control) / (1 - control) for x in grouped(counts, hits[first], control, level))
        wider = percentile_interval(rho, observed.units, level) if observed.seeds > 1 else Estimate.of(None)
        return (
            low if wider.low is None else min(low, wider.low),
            high if wider.high is None else max(high, wider.high),
        )

    note = (
        f"{len(hits):,} samples have {len(counts):,} different nearest images. "
        f"A share of {control:.4f} is expected of a model that does not know its training set."
    )
    if observed.seeds > 1:
        note += f" The interval is widened to cover {observed.seeds} training seeds."
    return Estimate.of(float(rho[0]), *ends(group.level), observed.units, "share", note), rho, ends(LEVEL)


def _gap(group: Group) -> Estimate:
    sides = []
    for kind, what in (("train", "training image"), ("holdout", "holdout image")):
        rows = group.rows("psnr", kind=kind)
        # One mean for each image and denoiser, over noise levels and draws: images are the independent units.
        keys = _joined(rows["image_id"], rows["subject"])
        values, first = _grouped_means(keys, _floats(rows["output_psnr_db"]))
        images, seeds = rows["image_id"][first].astype(str), rows["train_seed"][first]
        sides.append(group.plan.observe(what, np.unique(images), values, [images], seeds))
    train, holdout = sides
    found = _estimate(group, train.means() - holdout.means(), "dB", train, holdout)
    if found.estimate is not None and group.key == 1:
        note = "There is no interval, because each model has a single training image."
        return Estimate.of(found.estimate, n=found.n, unit="dB", note=note)
    return found


def _disagreement(group: Group) -> Estimate:
    rows = group.rows("distances", kind="models")
    images = rows["image_id"].astype(str)
    observed = group.plan.observe("image", np.unique(images), _floats(rows["value"]), [images], rows["train_seed"])
    return _estimate(group, observed.means(), "pixel units^2", observed)


def _bits(group: Group) -> Estimate:
    sides = [group.rows("distances", kind=kind) for kind in ("samples_a", "samples_b")]
    rows = {key: np.concatenate([side[key] for side in sides]) for key in sides[0]}
    if not len(rows["value"]):
        return Estimate.of(None, unit="bits per dimension")
    keys = _joined(_joined(rows["kind"], rows["image_id"]), rows["train_seed"])
    means, first = _grouped_means(keys, _floats(rows["value"]) * rows["weight"])
    units = rows["image_id"][first].astype(np.int64)
    levels = len(np.unique(rows["sigma"]))
    observed = group.plan.observe("sample", group.plan.samples, means * levels, [units], rows["train_seed"][first])
    low, high = group.sigma_range or (None, None)
    return replace(_estimate(group, observed.means(), "bits per dimension", observed), sigma_low=low, sigma_high=high)


def _to_reference(group: Group, quantity: str) -> Estimate:
    rows, reference = group.rows("psnr", kind="holdout"), group.references.get(quantity)
    if not (reference and len(rows["image_id"])):
        return Estimate.of(None, unit="dB")
    places = zip(rows["image_id"], rows["sigma"], rows["noise_draw"], strict=True)
    better = _floats(rows["output_psnr_db"]) - np.array([reference.get(place, np.nan) for place in places])
    values, first = _grouped_means(_joined(rows["image_id"], rows["subject"]), better)
    images, seeds = rows["image_id"][first].astype(str), rows["train_seed"][first]
    observed = group.plan.observe("holdout image", np.unique(images), values, [images], seeds)
    return _estimate(group, observed.means(), "dB", observed)


def _unconverged(group: Group) -> Estimate:
    status = group.rows("samples")["status"]
    if not len(status):
        return Estimate.of(None, unit="samples")
    drawn = int(np.sum(status != "given"))
    if not drawn:
        return Estimate.of(None, unit="samples", note="The samples were imported. None was drawn here.")
    capped, diverged = int(np.sum(status == "step_cap")), int(np.sum(status == "diverged"))
    note = f"Of {drawn:,} samples, {capped:,} stopped at the step cap and {diverged:,} diverged. All are kept."
    return Estimate.of(float(capped + diverged), n=drawn, unit="samples", note=note)


def _floats(values: NDArray[Any]) -> Floats:
    return values.astype(np.float64)


def _joined(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.str_]:
    return np.array([f"{x}/{y}" for x, y in zip(first, second, strict=True)], dtype=np.str_)


def _own(part: NDArray[Any]) -> NDArray[Any]:
    """The name of the training set of each sample's model; an imported subject has no part."""
    return np.array(["train" if name is None else f"train_{name}" for name in part], dtype=object)


def _estimate(group: Group, draws: Floats, unit: str, *groups: Observations) -> Estimate:
    """An estimate from its draws; for a difference the number of units is that of the smaller of the observations."""
    found = percentile_interval(draws, min(each.units for each in groups), group.level)
    undefined = joined(*dict.fromkeys(each.undefined for each in groups))
    if found.estimate is None:
        return Estimate.of(None, unit=unit, note=undefined)
    # The bootstrap draws depend on the word "holdout", so that only what people read says "held-out".
    counts = {each.what.replace("holdout", "held-out"): each.units for each in groups}
    units = [f"{count:,} {what}{'s' * (count != 1)}" for what, count in counts.items()]
    note = covers(units, max(each.seeds for each in groups))
    if found.low is None:
        note = f"There is no interval: {listed(units)} are too few."
    return replace(found, unit=unit, note=joined(note, undefined))


def covers(units: Sequence[str], seeds: int) -> str:
    """What an interval covers, in words."""
    if seeds > 1:
        return f"The interval covers {listed([*units, f'{seeds} training seeds'])}."
    return f"The interval covers {listed(units)}. It does not cover what another training would give."


def _grouped_means(keys: NDArray[np.str_], values: Floats) -> tuple[Floats, Ints]:
    """The mean of the defined values of each key (NaN if none) and the position of the key's first row."""
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    defined = ~np.isnan(values)
    count = np.bincount(group[defined], minlength=len(first))
    total = np.bincount(group[defined], weights=values[defined], minlength=len(first))
    return np.divide(total, count, out=np.full(len(first), np.nan), where=count > 0), first
