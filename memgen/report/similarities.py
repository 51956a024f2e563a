"""The similarities that histograms show, and what each of them is called."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

SAME_NOISE = "samples A and B, same noise"
OTHER_NOISE = "reference for blue: different noise"
NEAREST = "sample and its nearest training image"
HELD_OUT = "reference for orange: held-out images"


def values(run: Mapping[str, pa.Table], metric: str) -> dict[tuple[int | str, str], NDArray[np.float64]]:
    """The values of each histogram.

    Args:
        run: the tables similarity and neighbors by name; either may be missing.
        metric: the measure of similarity.

    Returns:
        Values, (n,), by panel (N, or the name of an imported subject) and kind (same, different, nearest or holdout).
    """
    found: dict[tuple[int | str, str], list[float]] = {}
    if "similarity" in run:
        rows = _valued(run["similarity"].filter(pc.equal(run["similarity"]["role"], "cell")), metric)
        names = {"same_noise": "same", "different_noise": "different"}
        for n, kind, value in zip(*(rows[key].to_pylist() for key in ("n_train", "kind", "value")), strict=True):
            if kind in names:
                found.setdefault((n, names[kind]), []).append(value)
    if "neighbors" in run:
        rows = _valued(run["neighbors"].filter(pc.equal(run["neighbors"]["rank"], 1)), metric)
        for row in rows.to_pylist():
            panel = row["subject"] if row["role"] == "imported" else row["n_train"]
            own = "train" if row["part"] is None else f"train_{row['part']}"
            if panel is not None and row["query_kind"] == "sample" and row["reference"] == own:
                found.setdefault((panel, "nearest"), []).append(row["value"])
            elif panel is not None and row["query_kind"] == "holdout" and row["reference"] != "holdout":
                found.setdefault((panel, "holdout"), []).append(row["value"])
    return {key: np.array(values) for key, values in found.items()}


def _valued(table: pa.Table, metric: str) -> pa.Table:
    return table.filter(pc.and_(pc.is_valid(table["value"]), pc.equal(table["metric"], metric)))
