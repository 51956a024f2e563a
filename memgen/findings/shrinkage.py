"""What the Jacobians near training and held-out images say, at each noise level."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memgen.base.intervals import welch

LEVEL = 0.95  # of all noise levels together


def compare(shrinkage: pa.Table) -> list[dict[str, Any]]:
    """The mean trace near images of T and of H, their difference with an interval, and errors beside their estimates.

    Args:
        shrinkage: a SHRINKAGE table.

    Returns:
        A JSON row for each noise level, ascending; the intervals hold at all of them together.
    """
    levels = np.unique(shrinkage["sigma"].to_numpy())
    rows = []
    for sigma in levels:
        here = shrinkage.filter(pc.field("sigma") == sigma)
        train, held_out = (here.filter(pc.field("kind") == kind) for kind in ("train", "holdout"))
        near_t, near_h = (side["trace"].to_numpy() for side in (train, held_out))
        low, high = welch(near_t, near_h, 1 - (1 - LEVEL) / len(levels))
        means = {
            f"{name}_{side}": float(np.mean(part[name].to_numpy()))
            for side, part in (("train", train), ("held_out", held_out))
            for name in ("trace", "squared_error", "sure", "asymmetry")
        }
        rows.append(
            {
                "sigma": float(sigma),
                **means,
                "difference": float(near_t.mean() - near_h.mean()),
                "low": low,
                "high": high,
                "n_train": len(near_t),
                "n_held_out": len(near_h),
            }
        )
    return rows
