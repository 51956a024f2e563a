"""What is measured at each noise level σ, for each training-set size N, with intervals over images or samples.

    disagreement    V(σ) = E ||f_A(y) - f_B(y)||² / d on noisy held-out images
    bits_density    V(σ) σ⁻² / ln 2 on noised samples of both models: score-difference bits per dimension and unit of
                    ln σ. Its integral over ln σ is `bits` in the transition table.
    to_empirical    E ||f_A(y) - e_A(y)||² / E ||e_B(y) - e_A(y)||², where e_A is the posterior mean of A's training
                    set, averaged with the same for B. It is 0 for a model that has memorized its training set, and 1
                    for a model that is as far from that as the posterior mean of the other images is. It is null where
                    the denominator is below FLOOR.
    to_linear       output PSNR minus that of the best linear denoiser, on the same noisy held-out images
    to_optimum      output PSNR minus that of the exact optimum, where that is known
    excess_error    1 - E* / E, the share of the mean squared error that the exact optimum would not make

The values of a unit (an image or a sample) are first averaged over noise draws, models and training seeds. The
bootstrap then resamples the units. An imported denoiser has the last three quantities.

Source: the tables `distances` and `psnr`, which are summarized here.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from memgen.base import schemas, tables
from memgen.base.estimates import Estimate
from memgen.base.intervals import bootstrap

FLOOR = (0.01 / 255) ** 2  # a hundredth of a gray level: float32 networks are not more precise than that
UNITS = {
    "disagreement": "pixel units^2",
    "bits_density": "bits per dimension and ln sigma",
    "to_empirical": "ratio",
    **dict.fromkeys(schemas.REFERENCES, "dB"),
    "excess_error": "share",
}


def summarize(run: Mapping[str, pa.Table], seed: int) -> pa.Table:
    """Every quantity at every N, and of every imported denoiser, at each noise level, with 95 % intervals.

    Args:
        run: the tables distances and psnr by name. Either may be missing.
        seed: seed of the bootstrap.

    Returns:
        A LEVELS table. It has no rows for what was not measured.
    """
    rows: list[dict[str, Any]] = []
    for quantity, key, sigmas, values in _observed(run):
        for sigma, columns in zip(sigmas, values, strict=True):
            found = _interval(quantity, columns, seed)
            place = {"n_train": key if isinstance(key, int) else None, "subject": key if isinstance(key, str) else None}
            place |= {"quantity": quantity, "sigma": sigma, "unit": UNITS[quantity]}
            rows.append(place | {name: getattr(found, name) for name in ("estimate", "low", "high", "n", "status")})
    return tables.make(schemas.LEVELS, {name: [row[name] for row in rows] for name in schemas.LEVELS.names}, len(rows))


def _interval(quantity: str, values: NDArray[np.float64], seed: int) -> Estimate:
    """The mean over units of values (m, 1), or the ratio of the two means of values (m, 2)."""
    defined = values[np.isfinite(values).all(axis=1)]
    if values.shape[1] == 1:
        return bootstrap(defined[:, 0], lambda draws: draws.mean(axis=1), seed)
    if quantity == "to_empirical" and defined[:, 1].mean() < FLOOR:
        return Estimate.of(None, n=len(defined))
    return bootstrap(defined, lambda draws: draws[..., 0].mean(axis=1) / draws[..., 1].mean(axis=1), seed)


def _observed(
    run: Mapping[str, pa.Table],
) -> Iterator[tuple[str, int | str, NDArray[np.float64], NDArray[np.float64]]]:
    """Quantity, N or imported denoiser, noise levels (K,), and the values that are averaged, (K, units, 1 or 2)."""
    if "distances" in run:
        apart = run["distances"].filter(pc.field("role") == "cell")
        for n_train in sorted(pc.unique(apart["n_train"]).to_pylist()):
            here = apart.filter(pc.equal(apart["n_train"], n_train))
            kinds = {kind: here.filter(pc.equal(here["kind"], kind)) for kind in pc.unique(here["kind"]).to_pylist()}
            if "models" in kinds:
                sigmas, values = _grid(kinds["models"], "value")
                yield "disagreement", n_train, sigmas, values[..., None]
            if "samples_a" in kinds and "samples_b" in kinds:
                sigmas, values = _grid(pa.concat_tables([kinds["samples_a"], kinds["samples_b"]]), "value")
                yield "bits_density", n_train, sigmas, values[..., None] / sigmas[:, None, None] ** 2 / math.log(2)
            if "empirical" in kinds:
                own = pa.concat_tables([kinds["empirical_a"], kinds["empirical_b"]])
                (sigmas, near), (_, far) = _grid(own, "value"), _grid(kinds["empirical"], "value")
                yield "to_empirical", n_train, sigmas, np.stack([near, far], axis=2)
    if "psnr" in run:
        held = run["psnr"].filter(pc.equal(run["psnr"]["kind"], "holdout"))
        held = held.append_column("squared_error", pc.power(10.0, pc.multiply(held["output_psnr_db"], -0.1)))
        for quantity, name in schemas.REFERENCES.items():
            reference = held.filter((pc.field("role") == "reference") & (pc.field("subject") == name))
            for key, own in _denoisers(held) if len(reference) else ():
                pair = _shared(own, reference)
                if not pair[0].num_rows:  # held-out images of its own, and none of them is the run's
                    continue
                (sigmas, values), (_, known) = (_grid(table, "output_psnr_db") for table in pair)
                yield quantity, key, sigmas, (values - known)[..., None]
                if quantity == "to_optimum":
                    errors, least = (_grid(table, "squared_error")[1] for table in pair)
                    yield "excess_error", key, sigmas, np.stack([errors - least, errors], axis=2)


def _denoisers(psnr: pa.Table) -> Iterator[tuple[int | str, pa.Table]]:
    """The rows of each N, in ascending order, and then of each imported denoiser."""
    cells, imported = (psnr.filter(pc.field("role") == role) for role in ("cell", "imported"))
    for n_train in sorted(pc.unique(cells["n_train"]).to_pylist()):
        yield n_train, cells.filter(pc.field("n_train") == n_train)
    for name in sorted(pc.unique(imported["subject"]).to_pylist()):
        yield name, imported.filter(pc.field("subject") == name)


def _shared(first: pa.Table, second: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows of both tables for the images and noise levels that are in both."""
    for column in ("image_id", "sigma"):
        both = np.intersect1d(first[column].to_pylist(), second[column].to_pylist())
        first, second = (table.filter(pc.is_in(table[column], pa.array(both))) for table in (first, second))
    return first, second


def _grid(table: pa.Table, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ascending noise levels (K,), and the mean of a column for each noise level and image, (K, images)."""
    means = table.group_by(["sigma", "image_id"], use_threads=False).aggregate([(column, "mean")])
    means = means.sort_by([("sigma", "ascending"), ("image_id", "ascending")])
    sigmas = np.unique(means["sigma"].to_numpy())
    return sigmas, means[f"{column}_mean"].to_numpy().astype(np.float64).reshape(len(sigmas), -1)
