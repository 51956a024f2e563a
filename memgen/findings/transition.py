"""From memorization to generalization as a function of N: estimates and their intervals.

For each training-set size N, and for each imported subject, the tables of a run give

    nearest_own             median over samples of the similarity to the nearest image of the model's own training set.
                            It is judged against the same for held-out images.
    cross_same              median similarity of two models' samples from the same noise. It is judged against samples
                            from different noise, and against training images and the nearest of the other half.
    memorized_fraction      rho = (P - c) / (1 - c) over the samples of all models at N (see `competition`). P is the
                            share of samples that are nearer to T, their own training set, than to H, all images that
                            the model never saw.
    psnr_gap, disagreement  denoisers compared on noisy images, averaged over noise levels
    to_linear, to_optimum   PSNR minus that of a reference on noisy held-out images, averaged over noise levels
    bits                    score-difference bits per dimension (see `distances`)

and for the whole sweep

    N_cross, N_half         N at which cross_same overtakes nearest_own, and N at which rho falls through 1/2, both
                            interpolated linearly in log N

An imported subject has no second model, so that what compares two models is not measured for it.

The intervals of the K sizes of a sweep hold together with 95 %: each has the level 1 - .05 / K (Bonferroni). So a model
that generalizes at every size is seldom accused at any. An imported subject and a transition point are each judged
alone, at 95 %. Intervals are percentile bootstraps over independent units. The units are drawn once for the whole
sweep: sample i keeps its multiplicity in both models, in both kinds of similarity and at every N, because all of these
start from the same noise. Differences and crossings are therefore resampled jointly. If there are several training
seeds, they are resampled too, crossed with the samples. The multiplicity of a pair of samples (i, j) is the product of
those of i and j, which is conservative if each sample is in few pairs. The memorized fraction has the interval of
`intervals.grouped` instead, because samples share nearest images. The interval of N_half spans both its bootstrap
interval and the points at which the ends of that interval fall through 1/2.

Source: Kadkhodaie et al. 2024, Figs. 1, 2 and 15; residual over a control as in anonymeter (Giomi et al. 2023).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from memgen.base import schemas, tables
from memgen.base.estimates import Estimate, Status
from memgen.base.wording import Quantity, listed
from memgen.findings import quantities
from memgen.findings.quantities import Columns, Group, Key, Measured, Similarity
from memgen.findings.resampling import Floats, Resampling, percentile_interval

QUANTITIES = {
    "nearest_own": Quantity(
        "similarity to own training set",
        "Median, over the samples of both models, of the similarity to the nearest image of the model's own training "
        "set. It is 1 for an exact copy.",
    ),
    "nearest_holdout_to_train": Quantity(
        "similarity of held-out images to the training set",
        "Median, over held-out images, of the similarity to the nearest training image. It shows how near a training "
        "image is to a new image of the same kind, and the similarity of samples is judged against it.",
    ),
    "nearest_minus_holdout": Quantity(
        "excess similarity to own training set",
        "Similarity of samples to their own training set minus that of held-out images. Above 0, samples are nearer "
        "to the training set than new real images are.",
    ),
    "cross_same": Quantity(
        "similarity between models (same noise)",
        "Median similarity of the two models' samples drawn from the same noise.",
    ),
    "cross_different": Quantity(
        "similarity between models (different noise)",
        "Median similarity of the two models' samples drawn from different noise. It shows what two unrelated samples "
        "have in common.",
    ),
    "cross_minus_null": Quantity(
        "excess similarity between models",
        "Similarity of the two models' samples from the same noise minus that from different noise. At 0, knowing the "
        "noise says nothing about what the other model draws from it.",
    ),
    "train_train": Quantity(
        "similarity of training images across the halves",
        "Median similarity of a training image to the nearest training image of the other half. It shows how alike "
        "two different real images can be.",
    ),
    "cross_minus_nearest": Quantity(
        "similarity to the other model over that to own training set",
        "Similarity of the two models' samples from the same noise minus the similarity to the model's own training "
        "set. Above 0, a sample is nearer to the other model's sample than to the training set.",
    ),
    "memorized_fraction": Quantity(
        "memorized fraction",
        "Share of samples whose nearest image, among the training set and all images that the model never saw, is in "
        "the training set. From it is taken the share expected of a model that does not know which images it was "
        "trained on, so that 0 is that expectation and 1 is every sample. Near-duplicates count once.",
    ),
    "psnr_gap": Quantity(
        "PSNR gap",
        "Denoising PSNR on training images minus that on held-out images, mean over noise levels.",
    ),
    "disagreement": Quantity(
        "disagreement V",
        "Mean squared difference per pixel between the two denoisers' outputs on the same noisy held-out image, mean "
        "over noise levels.",
    ),
    "bits": Quantity(
        "score difference",
        "Difference between the two models' scores on noised samples of both, in bits per dimension. For exact "
        "denoisers it is the KL divergence between their densities. At 0, the two models are the same function there.",
    ),
    "to_linear": Quantity(
        "PSNR over the best linear denoiser",
        "PSNR on held-out images minus that of the best linear denoiser, which is the Wiener filter of all training "
        "images of the run, mean over noise levels. Below 0, the model is poor, whatever it agrees with.",
    ),
    "to_optimum": Quantity(
        "PSNR over the exact optimum",
        "PSNR on held-out images minus that of the exact posterior mean, for generated images whose exact posterior "
        "mean is known, mean over noise levels. At 0, nothing is left to learn.",
    ),
    "unconverged": Quantity(
        "samples that did not converge",
        "Number of samples that reached the step cap or diverged. They are kept in every other number.",
    ),
}
POINTS = {
    "N_cross": Quantity(
        "N*_cross",
        "Training-set size at which the similarity of the two models, from the same noise, overtakes the similarity to "
        "the own training set.",
    ),
    "N_half": Quantity("N*_half", "Training-set size at which the memorized fraction falls through 1/2."),
}

CORRELATION = Similarity()
LEVEL = (
    0.95  # coverage of all intervals of a sweep together, of those of an imported subject, and of a transition point
)


def summarize(
    run: Mapping[str, pa.Table],
    seed: int,
    similarity: Similarity = CORRELATION,
    resamples: int = 2000,
    sigma_range: tuple[float, float] | None = None,
    subjects: pa.Table | None = None,
    sizes: int | None = None,
) -> pa.Table:
    """Every quantity at every N and of every imported subject, and the transition points, with their intervals.

    Args:
        run: the run's tables by name: neighbors, similarity, psnr, distances, samples, significance, copies. Any of
            them may be missing.
        seed: seed of the bootstrap.
        similarity: the similarity to read from neighbors and similarity. Where a smaller value is closer, differences
            are taken the other way round, so that positive always means closer.
        resamples: number of bootstrap resamples.
        sigma_range: lowest and highest noise level of the bits, pixel units; None if they are not known.
        subjects: a SUBJECTS table. It says what each imported subject has, so that the table can say why something
            was not measured.
        sizes: number of training-set sizes of the sweep, whose intervals hold together; None for those in the tables.

    Returns:
        A TRANSITION table. What was not measured has a null estimate, a status, and a note that may give the reason.
    """
    data = {name: _columns(run[name], name, similarity.name) for name in quantities.READ if name in run}
    lacks = _lacks(subjects)
    keys = {key for columns in data.values() for key in columns["key"] if key is not None} | lacks.keys()
    references = _references(run.get("psnr"))
    of_sweep = _resampling([_chosen(data, key) for key in keys if isinstance(key, int)], seed, resamples)
    together = sizes or max(1, sum(isinstance(key, int) for key in keys))
    at: dict[int | str, Measured] = {}
    for key in sorted(keys, key=lambda key: (isinstance(key, str), key)):
        own = _chosen(data, key)
        # An imported subject has draws of its own, so that importing it changes no interval of the sweep.
        plan = of_sweep if isinstance(key, int) else _resampling([own], seed, resamples)
        lacking = lacks.get(key, {"second model"}) if isinstance(key, str) else ()
        level = 1 - (1 - quantities.LEVEL) / (together if isinstance(key, int) else 1)
        group = Group(key, own, references, plan, similarity, sigma_range, frozenset(lacking), level)
        at[key] = quantities.measure(group)
    found: dict[tuple[Key, str], Estimate] = {
        (key, quantity): row for key, measured in at.items() for quantity, row in measured.rows.items()
    }
    of_sizes = {key: measured for key, measured in at.items() if isinstance(key, int)}
    found |= {(None, name): row for name, row in _points(of_sizes, of_sweep).items()}
    return _table(found)


def estimates(transition: pa.Table) -> dict[tuple[Key, str], Estimate]:
    """The estimates of a TRANSITION table by key and quantity.

    The key is N for a training-set size, the name for an imported subject, and None for a transition point.

    Raises:
        DataError: the table has another schema.
    """
    tables.check(transition, schemas.TRANSITION, "transition table")
    found = {}
    for row in transition.to_pylist():
        n_train, subject, quantity = (row.pop(name) for name in ("n_train", "subject", "quantity"))
        found[n_train if subject is None else subject, quantity] = Estimate(**row)
    return found


def _table(found: Mapping[tuple[Key, str], Estimate]) -> pa.Table:
    columns = {
        "n_train": [key if isinstance(key, int) else None for key, _ in found],
        "subject": [key if isinstance(key, str) else None for key, _ in found],
        "quantity": [quantity for _, quantity in found],
    }
    fields = [name for name in schemas.TRANSITION.names if name not in columns]
    columns |= {name: [getattr(row, name) for row in found.values()] for name in fields}
    return tables.make(schemas.TRANSITION, columns)


def _lacks(subjects: pa.Table | None) -> dict[str, set[str]]:
    """What each imported subject lacks, as keys of REASONS."""
    found = {}
    for row in [] if subjects is None else subjects.filter(pc.equal(subjects["role"], "imported")).to_pylist():
        has = {
            "samples": row["has_samples"] or row["has_denoiser"],  # a denoiser can draw them
            "training set": row["n_train"],
            "held-out images": row["n_held_out"],
            "denoiser": row["has_denoiser"],
            # A pair of imported models is compared by itself: nothing says that they were trained on other images.
            "second model": False,
        }
        found[row["subject"]] = {need for need, there in has.items() if not there}
    return found


def _columns(table: pa.Table, name: str, metric: str) -> Columns:
    """The columns that are read, of one metric and of rank 1 where the table has these, with the key of each row."""
    keep = pc.is_in(pc.fill_null(table["role"], "cell"), pa.array(["cell", "imported"]))
    if "metric" in table.column_names:
        keep = pc.and_(keep, pc.equal(table["metric"], metric))
    if "rank" in table.column_names:
        keep = pc.and_(keep, pc.equal(table["rank"], 1))
    rows = table.filter(keep)
    columns = {key: rows[key].to_numpy() for key in quantities.READ[name]}
    return columns | {"key": _keys(rows), "train_seed": pc.fill_null(rows["train_seed"], -1).to_numpy()}


def _keys(rows: pa.Table) -> NDArray[Any]:
    """N for rows of cells and of held-out images, the name for rows of an imported subject, None for pairs of these."""
    names = rows["subject"].to_pylist() if "subject" in rows.column_names else [None] * rows.num_rows
    found = np.empty(rows.num_rows, dtype=object)
    found[:] = [
        name if role == "imported" else n_train
        for role, name, n_train in zip(rows["role"].to_pylist(), names, rows["n_train"].to_pylist(), strict=True)
    ]
    return found


def _chosen(data: Mapping[str, Columns], key: int | str) -> dict[str, Columns]:
    """The rows of one key in every table that has some."""
    chosen = {name: columns["key"] == key for name, columns in data.items()}
    return {
        name: {column: values[chosen[name]] for column, values in columns.items()}
        for name, columns in data.items()
        if chosen[name].any()
    }


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


def _resampling(groups: Sequence[Mapping[str, Columns]], seed: int, resamples: int) -> Resampling:
    """Bootstrap draws for the samples and training seeds of some groups of rows."""
    samples, seeds = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for data in groups:
        if "neighbors" in data:
            drawn = data["neighbors"]["query_kind"] == "sample"
            samples.append(data["neighbors"]["query"][drawn])
            seeds.append(data["neighbors"]["train_seed"][drawn])
        if "significance" in data:
            samples.append(data["significance"]["sample"])
            seeds.append(data["significance"]["train_seed"])
        if "distances" in data:
            drawn = np.char.startswith(data["distances"]["kind"].astype(str), "samples")
            samples.append(data["distances"]["image_id"][drawn].astype(np.int64))
        if "similarity" in data:
            drawn = data["similarity"]["kind"] != "train_train"
            samples += [data["similarity"]["item_a"][drawn], data["similarity"]["item_b"][drawn]]
        seeds += [data[name]["train_seed"] for name in ("similarity", "psnr", "distances") if name in data]
    return Resampling(seed, resamples, np.unique(np.concatenate(samples)), np.unique(np.concatenate(seeds)))


def _points(at: Mapping[int, Measured], plan: Resampling) -> dict[str, Estimate]:
    """Where cross_same overtakes nearest_own, and where the memorized fraction falls through 1/2."""
    seeds = len(plan.train_seeds)
    covers = quantities.covers(["the samples"], seeds)
    leads = {n: measured.lead for n, measured in at.items() if not np.isnan(measured.lead[0])}
    halves = {n: 0.5 - measured.fraction for n, measured in at.items() if measured.fraction is not None}
    bands = {n: measured.band for n, measured in at.items() if measured.band is not None}
    units = len(plan.samples)
    return {"N_cross": _point(leads, units, covers), "N_half": _widened(_point(halves, units, covers), bands)}


def _widened(half: Estimate, bands: Mapping[int, tuple[float, float]]) -> Estimate:
    """N_half, with its interval widened to where the ends of the memorized fraction's intervals fall through 1/2."""
    if half.estimate is None:
        return half
    curves, sizes = 0.5 - np.array(list(bands.values())).T, list(bands)
    low, high = (found[0] if found else None for found in crossings(curves, sizes))
    open_ends = ""
    for name, end, curve in (("lower", low, curves[0]), ("upper", high, curves[1])):
        if end is None:
            beyond = f"below N = {sizes[0]:,}" if curve[0] >= 0 else f"above N = {sizes[-1]:,}"
            open_ends += f" The {name} end of the interval lies {beyond}."
    low = None if low is None or half.low is None else min(low, half.low)
    high = None if high is None or half.high is None else max(high, half.high)
    note = f"{half.note} It allows for samples that share a nearest image.{open_ends}"
    return Estimate.of(half.estimate, low, high, half.n, half.unit, note)


def crossings(curves: Floats, sizes: Sequence[int]) -> list[list[float]]:
    """The values of N at which each curve rises through 0, interpolated linearly in log N.

    Args:
        curves: values at each N, (r, K).
        sizes: the K ascending values of N.

    Returns:
        For each curve, its crossings in ascending order. A curve that starts at or above 0 does not cross there.
    """
    logs = np.log(np.asarray(sizes, dtype=np.float64))
    result: list[list[float]] = []
    for curve in curves:
        rising = np.flatnonzero((curve[:-1] < 0) & (curve[1:] >= 0))
        share = curve[rising] / (curve[rising] - curve[rising + 1])
        result.append([float(x) for x in np.exp(logs[rising] + share * (logs[rising + 1] - logs[rising]))])
    return result


def _point(draws: Mapping[int, Floats], units: int, covers: str) -> Estimate:
    """The first crossing with its interval, from draws at each N in ascending order.

    Resamples without a crossing are kept at -infinity or +infinity (censored).
    """
    if not draws:
        return _unreached("not measured", "")
    if len(draws) < 2:
        return _unreached("too few sizes", "It cannot be located from a single training-set size.")
    sizes, curves = list(draws), np.stack(list(draws.values()), axis=1)
    found = crossings(curves, sizes)
    below = curves[:, 0] >= 0
    firsts = np.array([xs[0] if xs else (-np.inf if low else np.inf) for xs, low in zip(found, below, strict=True)])
    before, after = int(np.sum(firsts[1:] == -np.inf)), int(np.sum(firsts[1:] == np.inf))
    censored = ""
    if before:
        censored += f" {before:,} of {len(firsts) - 1:,} resamples lie below N = {sizes[0]:,}."
    if after:
        censored += f" {after:,} of {len(firsts) - 1:,} resamples do not cross up to N = {sizes[-1]:,}."
    if firsts[0] == np.inf:
        return _unreached("not reached", f"It is not reached up to N = {sizes[-1]:,}.{censored}", units)
    if firsts[0] == -np.inf:
        return _unreached("below range", f"It lies below N = {sizes[0]:,}.{censored}", units)
    if len(found[0]) > 1:
        every = listed([f"{x:.3g}" for x in found[0]])
        censored += f" The curve crosses more than once, at N = {every}. The first crossing is given."
    interval = percentile_interval(firsts, units)
    return Estimate.of(interval.estimate, interval.low, interval.high, units, "images", covers + censored)


def _unreached(status: Status, note: str, n: int = 0) -> Estimate:
    return Estimate(None, None, None, n, "images", status, note=note)
