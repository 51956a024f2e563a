"""How near to optimal a denoiser is: the slope of output against input PSNR, and its gain on a manifold.

    slope   of the mean curve over a range of input PSNR, by least squares. On images that are C^α up to contours that
            are C^α no denoiser does better than α / (α + 1); on a manifold of k dimensions the best slope is 1.
    gain    10 log10(σ² / E ||f(y) - x||² · d), mean over the noise levels of the range. On a manifold of k dimensions
            it is 10 log10(d / k) at small noise. Squared errors are averaged before the logarithm is taken: with few
            dimensions the mean PSNR of single noise draws is higher, by 5.5 dB for k = 1.

The slope of the oracle that shrinks in a wavelet basis, measured on the same noisy images, says what is left to gain
from a basis adapted to each image. Images are the independent units: each is averaged over noise draws, twins and
training seeds first. The paper's range is 0 to 34 dB; the slope depends on it.

Where the classes differ from the theory: the generator filters white noise by |k|^-α, whose contours are C^(α - 1/2)
and whose backgrounds are C^(α - 1), so that α / (α + 1) is the paper's figure, not a bound that was derived for them.

Source: Kadkhodaie et al. (ICLR 2024), sections 3.1 and 3.2, Figures 4, 5, 16, 17, 19 and 20.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from memgen.base import schemas, tables, wording
from memgen.base.errors import ConfigError, DataError, ShapeError
from memgen.base.estimates import Estimate
from memgen.base.intervals import bootstrap


def slope(input_psnr_db: ArrayLike, output_psnr_db: NDArray[Any], seed: int) -> Estimate:
    """The least-squares slope of output PSNR against input PSNR, with its bootstrap interval over images.

    Args:
        input_psnr_db: (s,), dB, at least two that differ.
        output_psnr_db: (m, s), dB: a row for each image, averaged over noise draws.
        seed: of the bootstrap.

    Returns:
        The slope of the mean curve, 95 %; α / (α + 1) is the optimum on C^α images, 1 that on a manifold.

    Raises:
        ShapeError: the arrays do not fit together, or the input PSNRs do not differ.
        DataError: an output PSNR is not finite.
    """
    x = np.asarray(input_psnr_db, dtype=np.float64)
    if output_psnr_db.ndim != 2 or x.shape != output_psnr_db.shape[1:] or not np.ptp(x) > 0:
        raise ShapeError(
            f"output PSNR of shape {output_psnr_db.shape} at input PSNRs of shape {x.shape}, expected (m, s) and (s,) "
            f"with at least two input PSNRs that differ."
        )
    if not np.isfinite(output_psnr_db).all():
        raise DataError("found an output PSNR that is not finite; leave that image or noise level out.")
    centered = x - x.mean()
    slopes = output_psnr_db @ (centered / (centered @ centered))  # one for each image; their mean is the mean curve's
    return bootstrap(slopes, lambda resamples: resamples.mean(axis=1), seed)


LOW_DB, HIGH_DB = 0.0, 34.0  # the paper's range
_NOTHING = Estimate.of(None)


@dataclass(frozen=True)
class Theory:
    """What the best denoiser of a class does; None where that is not known.

    Attributes:
        slope: of output against input PSNR.
        gain_db: at small noise, on a manifold.
    """

    slope: float | None
    gain_db: float | None


def label(row: Mapping[str, Any]) -> str:
    """What a row of a SLOPES table is called in figures and on the page."""
    return wording.subject_label(row["role"], row["n_train"], row["subject"])


def summarize(
    psnr: pa.Table, expected: Theory, seed: int, low_db: float = LOW_DB, high_db: float = HIGH_DB
) -> pa.Table:
    """Slope and gain of every denoiser on held-out images, with 95 % bootstrap intervals over images.

    Args:
        psnr: a PSNR table; all rows of one image and noise level come from the same noise.
        expected: of the class of the images.
        seed: of the bootstrap.
        low_db: least input PSNR, dB.
        high_db: largest input PSNR, dB; noise levels outside of the range are left out.

    Returns:
        A SLOPES table: each N, then references and baselines, then imported denoisers.

    Raises:
        ConfigError: fewer than two noise levels are in the range.
    """
    held = psnr.filter(pc.equal(psnr["kind"], "holdout"))
    near = 1e-6  # nominal values such as 34 dB are met up to rounding
    inside = (pc.field("input_psnr_db") >= low_db - near) & (pc.field("input_psnr_db") <= high_db + near)
    chosen = held.filter(inside)
    inputs = np.unique(chosen["input_psnr_db"].to_numpy())
    if len(held) and len(inputs) < 2:
        every = ", ".join(f"{x:.1f}" for x in np.unique(held["input_psnr_db"].to_numpy()))
        raise ConfigError(
            f"found {len(inputs)} noise levels of input PSNR from {low_db:g} to {high_db:g} dB, expected at least 2. "
            f"The run has {every} dB: choose a wider range."
        )
    found = [(keys, _Curves.of(rows)) for keys, rows in _groups(chosen)]
    oracle = next(
        (curves for keys, curves in found if keys["subject"] == "wavelet_oracle" and keys["role"] == "baseline"), None
    )
    rows = [keys | _row(curves, oracle, expected, seed) for keys, curves in found]
    return tables.make(schemas.SLOPES, {name: [row[name] for row in rows] for name in schemas.SLOPES.names}, len(rows))


def _groups(psnr: pa.Table) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    """What is averaged and its rows: all trained at an N, or one that is not trained."""
    cells = psnr.filter(pc.equal(psnr["role"], "cell"))
    for n_train in sorted(pc.unique(cells["n_train"]).to_pylist()):
        rows = cells.filter(pc.equal(cells["n_train"], n_train))
        yield (
            {
                "subject": None,
                "role": "cell",
                "n_train": n_train,
                "n_subjects": pc.count_distinct(rows["subject"]).as_py(),
            },
            rows,
        )
    found = {(row["role"], row["subject"]) for row in psnr.select(["role", "subject"]).to_pylist()}
    listed = [("baseline", name) for name in schemas.BASELINES]
    listed += [("reference", name) for name in schemas.REFERENCES.values()]
    listed += sorted((role, name) for role, name in found if role == "imported")
    for role, name in listed:
        if (role, name) in found:
            rows = psnr.filter((pc.field("role") == role) & (pc.field("subject") == name))
            yield {"subject": name, "role": role, "n_train": rows["n_train"][0].as_py(), "n_subjects": 1}, rows


@dataclass(frozen=True, eq=False)
class _Curves:
    """The curves of single images, those that are finite at every noise level."""

    images: NDArray[Any]  # (m,) ids, ascending
    inputs: NDArray[np.float64]  # (s,) dB, ascending
    outputs: NDArray[np.float64]  # (m, s) dB, averaged over draws and denoisers
    errors: NDArray[np.float64]  # (m, s) squared errors per pixel, averaged in the same way

    @classmethod
    def of(cls, psnr: pa.Table) -> "_Curves":
        error = pa.array(10 ** (-psnr["output_psnr_db"].to_numpy() / 10))
        table = psnr.append_column("error", error)
        means = table.group_by(["image_id", "input_psnr_db"], use_threads=False).aggregate(
            [("output_psnr_db", "mean"), ("error", "mean")]
        )
        means = means.sort_by([("image_id", "ascending"), ("input_psnr_db", "ascending")])
        inputs, images = np.unique(means["input_psnr_db"].to_numpy()), np.unique(means["image_id"].to_numpy())
        outputs, errors = (
            means[f"{name}_mean"].to_numpy().astype(np.float64).reshape(len(images), len(inputs))
            for name in ("output_psnr_db", "error")
        )
        whole = np.isfinite(outputs).all(axis=1)
        return cls(images[whole], inputs, outputs[whole], errors[whole])


def _row(curves: _Curves, oracle: _Curves | None, expected: Theory, seed: int) -> dict[str, Any]:
    own = slope(curves.inputs, curves.outputs, seed)
    level = bootstrap(curves.outputs.mean(axis=1), lambda draws: draws.mean(axis=1), seed)
    gain = _NOTHING if expected.gain_db is None else _gain(curves, seed)
    over = _NOTHING if oracle is None else _difference(curves, oracle, seed)
    return {
        "low_db": curves.inputs[0],
        "high_db": curves.inputs[-1],
        "n_levels": len(curves.inputs),
        "n": own.n,
        "slope": own.estimate,
        "low": own.low,
        "high": own.high,
        "level_db": level.estimate,
        "level_low": level.low,
        "level_high": level.high,
        "theory": expected.slope,
        "over_oracle": over.estimate,
        "over_oracle_low": over.low,
        "over_oracle_high": over.high,
        "gain_db": gain.estimate,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "gain_theory": expected.gain_db,
    }


def _difference(curves: _Curves, oracle: _Curves, seed: int) -> Estimate:
    """The slope less that of the oracle on the same images: a slope is linear in the outputs."""
    _, own, its = np.intersect1d(curves.images, oracle.images, assume_unique=True, return_indices=True)
    return slope(curves.inputs, curves.outputs[own] - oracle.outputs[its], seed)


def _gain(curves: _Curves, seed: int) -> Estimate:
    def statistic(errors: NDArray[np.float64]) -> NDArray[np.float64]:
        gains: NDArray[np.float64] = (-10 * np.log10(errors.mean(axis=1)) - curves.inputs).mean(axis=1)
        return gains

    return bootstrap(curves.errors, statistic, seed)
