"""What the comparison of any two subjects says: similarity of their samples, and distance of their denoisers."""

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from memgen.base.estimates import Estimate
from memgen.base.intervals import bootstrap

_KINDS = {
    "samples from the same noise": "same_noise",
    "samples from different noise": "different_noise",
    "training images and the nearest of the other training set": "train_train",
}
APART = "V, mean squared difference of the denoisers"
BITS = "bits per dimension"


def summarize(similarity: pa.Table, distances: pa.Table, seed: int) -> dict[str, Estimate]:
    """Medians of the similarities, and means of the distances, each with its 95 % bootstrap interval.

    Args:
        similarity: a SIMILARITY table of one pair.
        distances: a DISTANCES table of the same pair.
        seed: of the bootstrap.

    Returns:
        Estimates by what they are of; similarities that were not measured are left out. Samples and images are the
        units that are resampled.
    """
    found = {}
    for name, kind in _KINDS.items():
        rows = similarity.filter(pc.field("kind") == kind)
        if len(rows):
            median = bootstrap(_means_by_unit(rows, "item_a"), lambda draws: np.median(draws, axis=1), seed)
            found[name] = replace(median, unit=rows["metric"][0].as_py())
    apart = distances.filter(pc.field("kind") == "models")
    found[APART] = replace(bootstrap(_means_by_unit(apart, "image_id"), _mean, seed), unit="pixel units^2")
    drawn = distances.filter(pc.field("kind").isin(["samples_a", "samples_b"]))
    weighted = pc.multiply(drawn["value"], drawn["weight"])
    drawn = drawn.set_column(drawn.column_names.index("value"), "value", weighted)
    levels = len(pc.unique(drawn["sigma"]))
    bits = bootstrap(levels * _means_by_unit(drawn, "image_id"), _mean, seed)
    found[BITS] = replace(bits, unit="bits per dimension")
    return found


def overlaps(summary: pa.Table, sigma: float, seed: int) -> dict[str, Estimate]:
    """How much of the bases of two denoisers is the same, beside what random bases would have in common.

    Args:
        summary: a BASIS_SUMMARY table of the pair at one noise level.
        sigma: that noise level.
        seed: of the bootstrap over images.
    """
    found = {}
    for name, column in (("overlap of the bases", "overlap_twin"), ("expected of random bases", "overlap_chance")):
        values = summary.rename_columns({column: "value"})
        each = bootstrap(_means_by_unit(values, "image_id"), _mean, seed)
        found[f"{name} at noise {sigma:g}"] = replace(each, unit="mean squared cosine")
    return found


def _means_by_unit(table: pa.Table, unit: str) -> NDArray[np.float64]:
    """The mean value of each unit; units without a defined value are left out."""
    means = table.group_by(unit, use_threads=False).aggregate([("value", "mean")]).sort_by(unit)
    values = [value for value in means["value_mean"].to_pylist() if value is not None and math.isfinite(value)]
    return np.array(values, dtype=np.float64)


def _mean(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(draws.mean(axis=1))
