"""What is measured at each noise level, for each training-set size N, with intervals over images or samples.

    disagreement    V(σ) = E ||f_A(y) - f_B(y)||² / d on noisy held-out images
    bits_density    V(σ) σ⁻² / ln 2 on noised samples of both models: score-difference bits per dimension and unit of
                    ln σ, whose integral over ln σ is `bits` of the transition table
    to_empirical    E ||f_A(y) - e_A(y)||² / E ||e_B(y) - e_A(y)||², e the posterior mean of a model's training set,
                    and the same with A and B exchanged: 0 for a model that has memorized its set, 1 for one as far
                    from that as the posterior mean of other images is. Null where the denominator is below FLOOR
    to_linear       output PSNR less that of the best linear denoiser, on the same noisy held-out images
    to_optimum      output PSNR less that of the exact optimum, where it is known
    excess_error    the share of the mean squared error that the exact optimum would not make, 1 - E* / E

Each unit (an image, a sample) is averaged over noise draws, models and training seeds first, and units are resampled.

Source: `distances` and `psnr`, of which these are summaries.
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

FLOOR = (0.01 / 255) ** 2  # a hundredth of a gray level: nearer than float32 networks compute
UNITS = {
    "disagreement": "pixel units^2",
    "bits_density": "bits per dimension and ln sigma",
    "to_empirical": "ratio",
    **dict.fromkeys(schemas.REFERENCES, "dB"),
    "excess_error": "share",
}


def summarize(run: Mapping[str, pa.Table], seed: int) -> pa.Table:
    """Every quantity at every N and noise level, with 95 % bootstrap intervals.

    Args:
        run: the tables distances and psnr by name; either may be missing.
        seed: of the bootstrap.

    Returns:
        A LEVELS table, without rows where nothing was measured.
    """
    rows: list[dict[str, Any]] = []
    for quantity, n_train, sigmas, values in _observed(run):
        for sigma, columns in zip(sigmas, values, strict=True):
            found = _interval(quantity, columns, seed)
            values_of = {name: getattr(found, name) for name in ("estimate", "low", "high", "n", "status")}
            place = {"n_train": n_train, "subject": None, "quantity": quantity, "sigma": sigma}
            rows.append({**place, "unit": UNITS[quantity], **values_of})
    return tables.make(schemas.LEVELS, {name: [row[name] for row in rows] for name in schemas.LEVELS.names}, len(rows))


def _interval(quantity: str, values: NDArray[np.float64], seed: int) -> Estimate:
    """The mean of a unit's values (m, 1), or the ratio of the means of (m, 2)."""
    defined = values[np.isfinite(values).all(axis=1)]
    if values.shape[1] == 1:
        return bootstrap(defined[:, 0], lambda draws: draws.mean(axis=1), seed)
    if quantity == "to_empirical" and len(defined) and defined[:, 1].mean() < FLOOR:
        return Estimate.of(None, n=len(defined))
    return bootstrap(defined, lambda draws: draws[..., 0].mean(axis=1) / draws[..., 1].mean(axis=1), seed)


def _observed(
    run: Mapping[str, pa.Table],
) -> Iterator[tuple[str, int, NDArray[np.float64], NDArray[np.float64]]]:
    """Quantity, N, noise levels (K,) and what is averaged at each: (K, units, 1 or 2)."""
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
            cells = held.filter(pc.field("role") == "cell")
            for n_train in sorted(pc.unique(cells["n_train"]).to_pylist()) if len(reference) else []:
                own = cells.filter(pc.field("n_train") == n_train)
                (sigmas, values), (_, known) = (_grid(table, "output_psnr_db") for table in (own, reference))
                yield quantity, n_train, sigmas, (values - known)[..., None]
                if quantity == "to_optimum":
                    errors, least = (_grid(table, "squared_error")[1] for table in (own, reference))
                    yield "excess_error", n_train, sigmas, np.stack([errors - least, errors], axis=2)


def _grid(table: pa.Table, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Noise levels (K,), ascending, and the mean of a column for each level and image: (K, images)."""
    means = table.group_by(["sigma", "image_id"], use_threads=False).aggregate([(column, "mean")])
    means = means.sort_by([("sigma", "ascending"), ("image_id", "ascending")])
    sigmas = np.unique(means["sigma"].to_numpy())
    return sigmas, means[f"{column}_mean"].to_numpy().astype(np.float64).reshape(len(sigmas), -1)
