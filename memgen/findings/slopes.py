"""How near to optimal a denoiser is: the slope of output PSNR against input PSNR, and its gain on a manifold.

    slope   slope of the mean curve over a range of input PSNR, by least squares. On images that are C^α away from
            contours that are C^α, no denoiser does better than α / (α + 1). On a manifold of k dimensions the best
            slope is 1.
    gain    10 log10(σ² / E ||f(y) - x||² · d), mean over the noise levels of the range. On a manifold of k dimensions
            the best gain at small noise is 10 log10(d / k). Squared errors are averaged before the logarithm is taken,
            because with few dimensions the mean PSNR of single noise draws is higher, by 5.5 dB for k = 1.

The same slope is measured for an oracle that shrinks wavelet coefficients, on the same noisy images. The difference
shows what a basis adapted to each image gains. Images are the independent units: the values of an image are averaged
over noise draws, twins and training seeds first. The slope depends on the range, which is 0 to 34 dB in the paper.

The generated classes differ from the theory. The generator filters white noise by |k|^-α, so that contours are
C^(α - 1/2) and backgrounds are C^(α - 1). The value α / (α + 1) is therefore that of the paper, and not a bound that
was derived for these images.

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
        seed: seed of the bootstrap.

    Returns:
        The slope of the mean curve with its 95 % interval. The optimum is α / (α + 1) on C^α images and 1 on a
        manifold.

    Raises:
        ShapeError: the arrays do not fit together, or the input PSNRs do not differ.
        DataError: an output PSNR is not finite.
    """
    x = np.asarray(input_psnr_db, dtype=np.float64)
    if output_psnr_db.ndim != 2 or x.shape != output_psnr_db.shape[1:] or not np.ptp(x) > 0:
        raise ShapeError(
            f"found output PSNR of shape {output_psnr_db.shape} and input PSNR of shape {x.shape}. Expected (m, s) and "
            f"(s,), with at least two different input PSNRs."
        )
    if not np.isfinite(output_psnr_db).all():
        raise DataError("found an output PSNR that is not finite. Leave out that image or noise level.")
    centered = x - x.mean()
    # One slope for each image. Their mean is the slope of the mean curve.
    slopes = output_psnr_db @ (centered / (centered @ centered))
    return bootstrap(slopes, lambda resamples: resamples.mean(axis=1), seed)


LOW_DB, HIGH_DB = 0.0, 34.0  # the range of the paper
_NOTHING = Estimate.of(None)


@dataclass(frozen=True)
class Theory:
    """What the best denoiser of a class of images achieves; None where that is not known.

    Attributes:
        slope: slope of output PSNR against input PSNR.
        gain_db: gain in PSNR at small noise, dB, on a manifold.
    """

    slope: float | None
    gain_db: float | None


def label(row: Mapping[str, Any]) -> str:
    """The name of a row of a SLOPES table in figures and on the page."""
    return wording.subject_label(row["role"], row["n_train"], row["subject"])


def summarize(
    psnr: pa.Table, expected: Theory, seed: int, low_db: float = LOW_DB, high_db: float = HIGH_DB
) -> pa.Table:
    """Slope and gain of every denoiser on held-out images, with 95 % bootstrap intervals over images.

    Args:
        psnr: a PSNR table. All denoisers were given the same noisy images.
        expected: what the best denoiser of the images' class achieves.
        seed: seed of the bootstrap.
        low_db: lowest input PSNR, dB.
        high_db: highest input PSNR, dB. Noise levels outside the range are left out.

    Returns:
        A SLOPES table with a row for each N, then for each baseline and reference, then for each imported denoiser.

    Raises:
        ConfigError: fewer than two noise levels lie in the range.
    """
    held = psnr.filter(pc.equal(psnr["kind"], "holdout"))
    near = 1e-6  # nominal values such as 34 dB are met up to rounding
    inside = (pc.field("input_psnr_db") >= low_db - near) & (pc.field("input_psnr_db") <= high_db + near)
    chosen = held.filter(inside)
    inputs = np.unique(chosen["input_psnr_db"].to_numpy())
    if len(held) and len(inputs) < 2:
        every = ", ".join(f"{x:.1f}" for x in np.unique(held["input_psnr_db"].to_numpy()))
        raise ConfigError(
            f"found {len(inputs)} noise levels with an input PSNR from {low_db:g} to {high_db:g} dB, expected at least "
            f"2. The run has {every} dB. Choose a wider range."
        )
    found = [(keys, _Curves.of(rows)) for keys, rows in _groups(chosen)]
    oracle = next(
        (curves for keys, curves in found if keys["subject"] == "wavelet_oracle" and keys["role"] == "baseline"), None
    )
    rows = [keys | _row(curves, oracle, expected, seed) for keys, curves in found]
    return tables.make(schemas.SLOPES, {name: [row[name] for row in rows] for name in schemas.SLOPES.names}, len(rows))


def _groups(psnr: pa.Table) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    """The keys and the rows of everything that has a slope: all cells of an N together, every other denoiser alone."""
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
    """The curves of single images, of those whose PSNR is finite at every noise level."""

    images: NDArray[Any]  # (m,) ascending ids
    inputs: NDArray[np.float64]  # (s,) ascending, dB
    outputs: NDArray[np.float64]  # (m, s) dB, mean over noise draws and denoisers
    errors: NDArray[np.float64]  # (m, s) squared error per pixel, mean over the same

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
    """The slope minus that of the oracle, on the same images; it is the slope of the difference of the curves."""
    _, own, its = np.intersect1d(curves.images, oracle.images, assume_unique=True, return_indices=True)
    return slope(curves.inputs, curves.outputs[own] - oracle.outputs[its], seed)


def _gain(curves: _Curves, seed: int) -> Estimate:
    def statistic(errors: NDArray[np.float64]) -> NDArray[np.float64]:
        gains: NDArray[np.float64] = (-10 * np.log10(errors.mean(axis=1)) - curves.inputs).mean(axis=1)
        return gains

    return bootstrap(curves.errors, statistic, seed)
