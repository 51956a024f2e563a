"""How much better a denoiser does on images that it was trained on, at each noise level, and the attack that follows.

A unit is an image, or a group of images that were divided as a whole. Its value at a noise level is the mean output
PSNR over its images and noise draws. The gap is the mean value of units of T minus that of units of H, in dB. Its
intervals hold at all noise levels together: each has the level 1 - .05 / K. The attack is that of `membership`.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memgen.base import schemas, tables
from memgen.base.intervals import welch
from memgen.findings import membership

LEVEL = 0.95  # of all noise levels together


def gaps(psnr: pa.Table, groups: Mapping[str, str] | None = None) -> pa.Table:
    """The gap at each noise level.

    Args:
        psnr: a PSNR table of one denoiser, with rows of the kinds train and holdout.
        groups: the group of each image by its content id; None if images were divided one by one.

    Returns:
        A GAPS table with a row for each noise level, ascending.
    """
    sigmas = np.unique(psnr["sigma"].to_numpy())
    rows = []
    for sigma in sigmas:
        scores = membership.by_unit(psnr.filter(pc.field("sigma") == sigma), "output_psnr_db", groups)
        low, high = welch(scores.train, scores.held_out, 1 - (1 - LEVEL) / len(sigmas))
        found = membership.attack(scores).tpr
        rows.append(
            {
                "sigma": sigma,
                "train": float(scores.train.mean()),
                "held_out": float(scores.held_out.mean()),
                "gap": float(scores.train.mean() - scores.held_out.mean()),
                "low": low,
                "high": high,
                "auc": membership.area(scores),
                "tpr": found.estimate,
                "tpr_low": found.low,
                "tpr_high": found.high,
                "n_train": len(scores.train),
                "n_held_out": len(scores.held_out),
            }
        )
    return tables.make(schemas.GAPS, {name: [row[name] for row in rows] for name in schemas.GAPS.names}, len(rows))
