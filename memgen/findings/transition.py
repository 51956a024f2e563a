"""From memorization to generalization as a function of N: the estimates, their intervals, and the verdict in words.

For each training-set size N, from the tables of a run alone:

    nearest_own             median over samples of the similarity to the nearest image of the model's own training set,
                            with its null, the same for held-out images
    cross_same              median similarity of two models' samples from the same noise, with its nulls: samples from
                            different noise, and training images against the nearest of the other half
    memorized_fraction      rho = (P - c) / (1 - c), see `significance`, over the samples of all models at N: P their
                            share nearest to T, the own training set, rather than to H, all that the model never saw
    psnr_gap, disagreement  in denoiser space, on noisy images, averaged over noise levels
    to_linear, to_optimum   PSNR less that of a reference, on noisy held-out images, averaged over noise levels
    bits                    score-difference bits per dimension, see `distances`
    N_cross, N_half         where cross_same overtakes nearest_own; where rho falls through 1/2; linear in log N

Intervals (95 %) are percentile bootstraps over independent units, drawn once for the whole table: sample i keeps its
multiplicity in both models, in both kinds of similarity and at every N, because all of them start from the same noise;
so differences and crossings are resampled jointly. Several training seeds are resampled too (crossed with the samples).
A pair of samples (i, j) counts as often as i times j, which is conservative where each sample is in few pairs.
The memorized fraction has the interval of `intervals.grouped` instead, since samples share nearest images; N_half has
the widest of where the ends of that interval fall through 1/2 and of the bootstrap.

Source: Kadkhodaie et al. 2024, Figs. 1, 2 and 15; residual over a control as in anonymeter (Giomi et al. 2023).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from memgen.base import schemas, tables
from memgen.base.intervals import grouped
from memgen.findings.resampling import Floats, Ints, Observations, Resampling, percentile_interval

QUANTITIES = {
    "nearest_own": "Median, over samples of both models, of the similarity to the nearest image of the model's own "
    "training set. 1 = an exact copy.",
    "nearest_holdout_to_train": "The same for held-out real images: how near a training image is to a new image of the "
    "same kind. This is what nearest_own is judged against.",
    "nearest_minus_holdout": "nearest_own minus nearest_holdout_to_train. Above 0: samples are nearer to the training "
    "set than new real images are.",
    "cross_same": "Median similarity of the two models' samples drawn from the same noise.",
    "cross_different": "The same for samples drawn from different noise: what two unrelated samples have in common.",
    "cross_minus_null": "cross_same minus cross_different. 0: knowing the noise says nothing about the other model.",
    "train_train": "Median similarity of a training image to the nearest image of the other half: how alike two "
    "different real images can be.",
    "cross_minus_nearest": "cross_same minus nearest_own. Above 0: a sample is nearer to its twin than to its model's "
    "training set.",
    "memorized_fraction": "Share of samples whose nearest image, among the training set and all images that the model "
    "never saw, is in the training set, less the share expected of a model that does not know which images it was "
    "trained on. 0 = that expectation, 1 = every sample. Near-duplicates count once.",
    "psnr_gap": "Denoising PSNR on training images minus that on held-out images, mean over noise levels.",
    "disagreement": "V: mean squared difference per pixel of the two denoisers' outputs on the same noisy held-out "
    "image, mean over noise levels.",
    "bits": "Score-difference bits per dimension between the two models, on noised samples of both: what their "
    "densities differ by (KL divergence) if they were exact denoisers. 0: the same function there.",
    "to_linear": "PSNR on held-out images less that of the best linear denoiser, the Wiener filter of all training "
    "images of the run, mean over noise levels. Below 0: the model is poor, whatever it agrees with.",
    "to_optimum": "The same less that of the exact posterior mean, where the images are of a class that has a known "
    "one. 0: nothing is left to learn.",
    "unconverged": "Samples that reached the step cap or diverged. They stay in every number.",
}
POINTS = {
    "N_cross": "Training-set size at which cross_same overtakes nearest_own.",
    "N_half": "Training-set size at which the memorized fraction falls through 1/2.",
}
_SMALLER_IS_CLOSER = frozenset({"rmse"})
_UNITS = {"correlation": "correlation", "cosine": "cosine", "rmse": "pixel units"}


def summarize(run: Mapping[str, pa.Table], seed: int, metric: str = "correlation", resamples: int = 2000) -> pa.Table:
    """Every quantity at every N, and the transition points, with 95 % intervals.

    Args:
        run: the run's tables by name: neighbors, similarity, psnr, distances, samples, significance, copies; any may
            be missing.
        seed: of the bootstrap.
        metric: the measure to read from neighbors and similarity. With rmse, where smaller is closer, the differences
            are taken the other way round, so that positive always means closer.
        resamples: bootstrap resamples.

    Returns:
        A TRANSITION table; what was not measured has a null estimate and a note.
    """
    data = {name: _columns(run[name], metric) for name in _READ if name in run}
    sizes = sorted({int(n) for columns in data.values() for n in columns["n_train"]})
    estimates = _Estimates(data, _references(run.get("psnr")), _resampling(data, seed, resamples), metric)
    rows: list[dict[str, Any]] = []
    for n in sizes:
        rows += [{"n_train": n, "quantity": name, **values} for name, values in estimates.at(n).items()]
    rows += [{"n_train": None, "quantity": name, **values} for name, values in estimates.points(sizes).items()]
    columns = {name: [row[name] for row in rows] for name in schemas.TRANSITION.names}
    return tables.make(schemas.TRANSITION, columns)


_READ = {
    "neighbors": ("query_kind", "query", "query_id", "part", "reference", "value"),
    "similarity": ("kind", "item_a", "item_b", "value"),
    "psnr": ("kind", "image_id", "subject", "sigma", "noise_draw", "output_psnr_db"),
    "distances": ("kind", "image_id", "sigma", "value", "weight"),
    "samples": ("status",),
    "significance": ("sample", "part", "nearest_id", "nearest_in"),
    "copies": ("n_pool_train", "n_pool_heldout"),
}


def _columns(table: pa.Table, metric: str) -> dict[str, NDArray[Any]]:
    """The columns that are read, for rows with an N, of one metric and of rank 1 where the table has these columns."""
    # Queries that belong to no subject, such as held-out images, have no role.
    keep = pc.and_(pc.is_valid(table["n_train"]), pc.equal(pc.fill_null(table["role"], "cell"), "cell"))
    if "metric" in table.column_names:
        keep = pc.and_(keep, pc.equal(table["metric"], metric))
    if "rank" in table.column_names:
        keep = pc.and_(keep, pc.equal(table["rank"], 1))
    rows = table.filter(keep)
    name = next(name for name in _READ if schemas.SCHEMAS[name].names == table.column_names)
    columns = {key: rows[key].to_numpy() for key in ("n_train", *_READ[name])}
    return columns | {"train_seed": pc.fill_null(rows["train_seed"], -1).to_numpy()}


def _references(psnr: pa.Table | None) -> dict[str, dict[tuple[str, float, int], float]]:
    """PSNR of the references that were measured, by their names, and by image, noise level and noise draw."""
    if psnr is None:
        return {}
    found = {}
    for quantity, name in schemas.REFERENCES.items():
        rows = psnr.filter((pc.field("role") == "reference") & (pc.field("subject") == name))
        keys = zip(*(rows[key].to_pylist() for key in ("image_id", "sigma", "noise_draw")), strict=True)
        found[quantity] = dict(zip(keys, rows["output_psnr_db"].to_numpy(), strict=True))
    return found


def _resampling(data: Mapping[str, dict[str, NDArray[Any]]], seed: int, resamples: int) -> Resampling:
    samples, seeds = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    if "neighbors" in data:
        samples.append(data["neighbors"]["query"][data["neighbors"]["query_kind"] == "sample"])
        seeds.append(data["neighbors"]["train_seed"][data["neighbors"]["query_kind"] == "sample"])
    if "significance" in data:
        samples.append(data["significance"]["sample"])
        seeds.append(data["significance"]["train_seed"])
    if "distances" in data:
        ours = np.char.startswith(data["distances"]["kind"].astype(str), "samples")
        samples.append(data["distances"]["image_id"][ours].astype(np.int64))
    if "similarity" in data:
        ours = data["similarity"]["kind"] != "train_train"
        samples += [data["similarity"]["item_a"][ours], data["similarity"]["item_b"][ours]]
    seeds += [data[name]["train_seed"] for name in ("similarity", "psnr", "distances") if name in data]
    return Resampling(seed, resamples, np.unique(np.concatenate(samples)), np.unique(np.concatenate(seeds)))


@dataclass(frozen=True, eq=False)
class _Estimates:
    """What is estimated from the columns of the tables; `_draws` keeps what the transition points need of each N."""

    data: Mapping[str, dict[str, NDArray[Any]]]
    references: Mapping[str, Mapping[tuple[str, float, int], float]]
    plan: Resampling
    metric: str
    _draws: dict[tuple[str, int], Floats] = field(default_factory=dict)
    _bands: dict[int, tuple[float, float]] = field(default_factory=dict)  # interval of the memorized fraction

    def at(self, n: int) -> dict[str, dict[str, Any]]:
        """Every quantity at one N."""
        sign = -1.0 if self.metric in _SMALLER_IS_CLOSER else 1.0
        nearest, holdout = self._nearest(n, "sample"), self._nearest(n, "holdout")
        same, different = self._similarity(n, "same_noise"), self._similarity(n, "different_noise")
        halves = self._similarity(n, "train_train")
        unit = _UNITS.get(self.metric, self.metric)
        medians = [group.medians() for group in (nearest, holdout, same, different)]
        self._draws["N_cross", n] = sign * (medians[2] - medians[0])
        rows = {
            "nearest_own": _row(medians[0], unit, nearest),
            "nearest_holdout_to_train": _row(medians[1], unit, holdout),
            "nearest_minus_holdout": _row(sign * (medians[0] - medians[1]), unit, nearest, holdout),
            "cross_same": _row(medians[2], unit, same),
            "cross_different": _row(medians[3], unit, different),
            "cross_minus_null": _row(sign * (medians[2] - medians[3]), unit, same, different),
            "train_train": _row(halves.medians(), unit, halves),
            "cross_minus_nearest": _row(self._draws["N_cross", n], unit, same, nearest),
            "memorized_fraction": self._memorized(n),
            "psnr_gap": self._gap(n),
            "disagreement": self._disagreement(n),
            "bits": self._bits(n),
            **{quantity: self._to_reference(n, quantity) for quantity in schemas.REFERENCES},
            "unconverged": self._unconverged(n),
        }
        assert rows.keys() == QUANTITIES.keys()
        return rows

    def _rows(self, name: str, n: int, **where: str) -> dict[str, NDArray[Any]]:
        if name not in self.data:
            return {key: np.empty(0) for key in ("n_train", "train_seed", *_READ[name])}
        columns = self.data[name]
        keep = columns["n_train"] == n
        for key, value in where.items():
            keep = keep & (columns[key] == value)
        return {key: values[keep] for key, values in columns.items()}

    def _nearest(self, n: int, kind: str) -> Observations:
        rows = self._rows("neighbors", n, query_kind=kind)
        if kind == "sample":
            own = rows["reference"] == _own(rows["part"])
            units, seeds = rows["query"][own], rows["train_seed"][own]
            return self.plan.observe("sample", self.plan.samples, _floats(rows["value"][own]), [units], seeds)
        own = np.isin(rows["reference"].astype(str), ["train_a", "train_b"])
        images = rows["query_id"][own].astype(str)
        return self.plan.observe("holdout image", np.unique(images), _floats(rows["value"][own]), [images], None)

    def _similarity(self, n: int, kind: str) -> Observations:
        rows = self._rows("similarity", n, kind=kind)
        values = _floats(rows["value"])
        if kind == "train_train":
            return self.plan.observe("training image", np.unique(rows["item_a"]), values, [rows["item_a"]], None)
        units = [rows["item_a"]] if kind == "same_noise" else [rows["item_a"], rows["item_b"]]
        return self.plan.observe("sample", self.plan.samples, values, units, rows["train_seed"])

    def _memorized(self, n: int) -> dict[str, Any]:
        rows, tested = self._rows("significance", n), self._rows("copies", n)
        if not len(rows["sample"]):
            return _absent("share", "not measured: samples were not tested for copies (memgen verdict)")
        sizes = tested["n_pool_train"], tested["n_pool_train"] + tested["n_pool_heldout"]
        control = float(np.mean(sizes[0] / sizes[1]))
        hits = rows["nearest_in"] == "T"
        group = self.plan.observe("sample", self.plan.samples, _floats(hits), [rows["sample"]], rows["train_seed"])
        rho = (group.means() - control) / (1 - control)
        # Samples of one part that share a nearest image hit or miss together.
        shared = _joined(rows["part"], rows["nearest_id"])
        _, first, counts = np.unique(shared, return_index=True, return_counts=True)
        # c is exact (a model blind to the labels T and H finds T that often), so the ends of P map to those of rho.
        low, high = ((x - control) / (1 - control) for x in grouped(counts, hits[first], control))
        note = f"{len(rows['sample'])} samples at {len(counts)} nearest images; control c = {control:.4f}"
        if group.seeds > 1:  # what another training would give comes on top
            wider = percentile_interval(rho, group.units)
            low = low if wider.low is None else min(low, wider.low)
            high = high if wider.high is None else max(high, wider.high)
            note += f"; widened to cover {group.seeds} training seeds"
        self._draws["N_half", n], self._bands[n] = 0.5 - rho, (low, high)
        return {"estimate": rho[0], "low": low, "high": high, "n": group.units, "unit": "share", "note": note}

    def _gap(self, n: int) -> dict[str, Any]:
        sides = []
        for kind, what in (("train", "training image"), ("holdout", "holdout image")):
            rows = self._rows("psnr", n, kind=kind)
            # One mean for each image and denoiser, over noise levels and draws: images are the independent units.
            keys = _joined(rows["image_id"], rows["subject"])
            values, first = _grouped_means(keys, _floats(rows["output_psnr_db"]))
            images, seeds = rows["image_id"][first].astype(str), rows["train_seed"][first]
            sides.append(self.plan.observe(what, np.unique(images), values, [images], seeds))
        train, holdout = sides
        row = _row(train.means() - holdout.means(), "dB", train, holdout)
        if row["estimate"] is not None and n == 1:
            row |= {"low": None, "high": None, "note": "no interval: one training image for each model"}
        return row

    def _disagreement(self, n: int) -> dict[str, Any]:
        rows = self._rows("distances", n, kind="models")
        images = rows["image_id"].astype(str)
        group = self.plan.observe("image", np.unique(images), _floats(rows["value"]), [images], rows["train_seed"])
        return _row(group.means(), "pixel units^2", group)

    def _bits(self, n: int) -> dict[str, Any]:
        sides = [self._rows("distances", n, kind=kind) for kind in ("samples_a", "samples_b")]
        rows = {key: np.concatenate([side[key] for side in sides]) for key in sides[0]}
        if not len(rows["value"]):
            return _absent("bits per dimension", "not measured")
        sigmas, first = np.unique(rows["sigma"], return_index=True)
        share, keys = rows["weight"][first] * sigmas**2 * math.log(2), _joined(rows["kind"], rows["image_id"])
        keys = _joined(keys, rows["train_seed"])
        means, first = _grouped_means(keys, _floats(rows["value"]) * rows["weight"])
        units = rows["image_id"][first].astype(np.int64)
        group = self.plan.observe("sample", self.plan.samples, means * len(sigmas), [units], rows["train_seed"][first])
        row = _row(group.means(), "bits per dimension", group)
        # The quadrature gives its ends away: its weights sum to their distance, and center in their middle, in log σ.
        middle, half = (share @ np.log(sigmas)) / share.sum(), share.sum() / 2
        ends = f"sigma from {math.exp(middle - half):.3g} to {math.exp(middle + half):.3g}"
        return row | {"note": f"{ends}; {row['note']}"}

    def _to_reference(self, n: int, quantity: str) -> dict[str, Any]:
        rows, reference = self._rows("psnr", n, kind="holdout"), self.references.get(quantity)
        if not (reference and len(rows["image_id"])):
            return _absent("dB", "not measured")
        places = zip(rows["image_id"], rows["sigma"], rows["noise_draw"], strict=True)
        better = _floats(rows["output_psnr_db"]) - np.array([reference.get(place, np.nan) for place in places])
        values, first = _grouped_means(_joined(rows["image_id"], rows["subject"]), better)
        images, seeds = rows["image_id"][first].astype(str), rows["train_seed"][first]
        group = self.plan.observe("holdout image", np.unique(images), values, [images], seeds)
        return _row(group.means(), "dB", group)

    def _unconverged(self, n: int) -> dict[str, Any]:
        status = self._rows("samples", n)["status"]
        if not len(status):
            return _absent("samples", "not measured")
        capped, diverged = int(np.sum(status == "step_cap")), int(np.sum(status == "diverged"))
        note = f"of {len(status)} samples: {capped} at the step cap, {diverged} diverged; all kept in every number"
        estimate = float(len(status) - np.sum(status == "converged"))
        return {"estimate": estimate, "low": None, "high": None, "n": len(status), "unit": "samples", "note": note}

    def points(self, sizes: Sequence[int]) -> dict[str, dict[str, Any]]:
        """Where cross_same overtakes nearest_own and where the memorized fraction falls through 1/2."""
        seeds = len(self.plan.train_seeds)
        covers = f"samples and {seeds} training seeds" if seeds > 1 else "samples only"
        rows = {}
        for name in POINTS:
            measured = [n for n in sizes if not np.isnan(self._draws.get((name, n), np.array([np.nan]))[0])]
            if len(measured) < 2:
                rows[name] = _absent("images", "not measured" if not measured else "needs more than one N")
                continue
            curves = np.stack([self._draws[name, n] for n in measured], axis=1)
            rows[name] = _point(curves, measured, len(self.plan.samples), covers)
        if rows["N_half"]["estimate"] is not None:
            self._widen(rows["N_half"])
        return rows

    def _widen(self, half: dict[str, Any]) -> None:
        """Widen the interval of N_half to where the ends of the memorized fraction's intervals fall through 1/2."""
        sizes = sorted(self._bands)
        ends = np.array([self._bands[n] for n in sizes]).T
        low, high = (found[0] if found else None for found in crossings(0.5 - ends, sizes))
        half["low"] = None if low is None or half["low"] is None else min(low, half["low"])
        half["high"] = None if high is None or half["high"] is None else max(high, half["high"])
        half["note"] += "; nearest images shared by samples are covered"


def _floats(values: NDArray[Any]) -> Floats:
    return values.astype(np.float64)


def _joined(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.str_]:
    return np.array([f"{x}/{y}" for x, y in zip(first, second, strict=True)], dtype=np.str_)


def _own(part: NDArray[Any]) -> NDArray[Any]:
    return np.array([f"train_{name}" for name in part], dtype=object)


def _absent(unit: str, note: str) -> dict[str, Any]:
    return {"estimate": None, "low": None, "high": None, "n": 0, "unit": unit, "note": note}


def _row(draws: Floats, unit: str, *groups: Observations) -> dict[str, Any]:
    """A row of the table; for a difference the number of units is that of the smaller group, the note names both."""
    interval = percentile_interval(draws, min(group.units for group in groups))
    if interval.estimate is None:
        return _absent(unit, "not measured" + "".join(group.undefined for group in groups))
    counts = {group.what: group.units for group in groups}
    units = " and ".join(f"{count} {what}{'s' * (count != 1)}" for what, count in counts.items())
    seeds = max(group.seeds for group in groups)
    covers = f"{units} and {seeds} training seeds" if seeds > 1 else f"{units} only"
    note = f"no interval: {units}" if interval.low is None else covers
    note += "".join(dict.fromkeys(group.undefined for group in groups))
    ends = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    return {**ends, "n": interval.n, "unit": unit, "note": note}


def _grouped_means(keys: NDArray[np.str_], values: Floats) -> tuple[Floats, Ints]:
    """The mean of the defined values of each key (NaN if none) and the position of the key's first row."""
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    defined = ~np.isnan(values)
    count = np.bincount(group[defined], minlength=len(first))
    total = np.bincount(group[defined], weights=values[defined], minlength=len(first))
    return np.divide(total, count, out=np.full(len(first), np.nan), where=count > 0), first


def crossings(curves: Floats, sizes: Sequence[int]) -> list[list[float]]:
    """Where each curve rises through 0, interpolated linearly in log N.

    Args:
        curves: (r, K), the values at each N.
        sizes: the K ascending values of N.

    Returns:
        For each curve, its crossings in ascending order; a curve that starts at or above 0 has none there.
    """
    logs = np.log(np.asarray(sizes, dtype=np.float64))
    result: list[list[float]] = []
    for curve in curves:
        rising = np.flatnonzero((curve[:-1] < 0) & (curve[1:] >= 0))
        share = curve[rising] / (curve[rising] - curve[rising + 1])
        result.append([float(x) for x in np.exp(logs[rising] + share * (logs[rising + 1] - logs[rising]))])
    return result


def _point(curves: Floats, sizes: Sequence[int], units: int, covers: str) -> dict[str, Any]:
    """The first crossing with its interval; resamples without one are kept at -infinity or +infinity (censored)."""
    found = crossings(curves, sizes)
    below = curves[:, 0] >= 0
    firsts = np.array([xs[0] if xs else (-np.inf if low else np.inf) for xs, low in zip(found, below, strict=True)])
    before, after = int(np.sum(firsts[1:] == -np.inf)), int(np.sum(firsts[1:] == np.inf))
    note = covers
    if before:
        note += f"; {before} of {len(firsts) - 1} resamples lie below N = {sizes[0]}"
    if after:
        note += f"; {after} of {len(firsts) - 1} resamples do not cross up to N = {sizes[-1]}"
    if len(found[0]) > 1:
        note += "; crosses more than once, the first is given: N = " + ", ".join(f"{x:.3g}" for x in found[0])
    if not np.isfinite(firsts[0]):
        reason = f"not reached up to N = {sizes[-1]}" if firsts[0] > 0 else f"passed below N = {sizes[0]}"
        return {**_absent("images", f"{reason}; {note}"), "n": units}
    interval = percentile_interval(firsts, units)
    ends = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    return {**ends, "n": units, "unit": "images", "note": note}
