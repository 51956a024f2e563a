"""How well models restore held-out images from linear measurements."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from memgen.base import estimates, intervals


@dataclass(frozen=True)
class Restoration:
    """How well one model restored held-out images from one kind of measurement, in means over images.

    Attributes:
        subject: name of the model.
        task: what was measured, such as inpainting.
        amount: how much was measured, in the terms of the task.
        n_measured: real numbers measured of each image.
        psnr: PSNR of the restored images, dB, with its 95 % interval over images.
        filled_psnr_db: PSNR of the measurement completed by the mean image, from which restoration starts.
        pseudo_psnr_db: PSNR of the measurement alone, P x.
        twin_psnr_db: PSNR between the restored images of the model and those of its twin; None without a twin. Where it
            is above `psnr`, the two models agree on what they add.
        converged: number of images whose restoration converged.
    """

    subject: str
    task: str
    amount: float
    n_measured: int
    psnr: estimates.Estimate
    filled_psnr_db: float | None
    pseudo_psnr_db: float | None
    twin_psnr_db: float | None
    converged: int


def summarize(table: pa.Table, seed: int, between: Sequence[float] | None = None) -> Restoration:
    """Summarize the RESTORED table of one model and measurement.

    Args:
        table: a RESTORED table of one model and one measurement.
        seed: seed of the bootstrap.
        between: PSNR between each restored image and that of the model's twin, dB; None without a twin.
    """
    first = table.slice(0, 1).to_pylist()[0]
    values = np.array(table["output_psnr_db"].drop_null().to_pylist(), dtype=np.float64)
    return Restoration(
        subject=first["subject"],
        task=first["task"],
        amount=first["amount"],
        n_measured=first["n_measured"],
        psnr=intervals.bootstrap(values, lambda resampled: resampled.mean(axis=1), seed),
        filled_psnr_db=_mean(table["filled_psnr_db"].to_pylist()),
        pseudo_psnr_db=_mean(table["pseudo_psnr_db"].to_pylist()),
        twin_psnr_db=None if between is None else _mean(between),
        converged=table["status"].to_pylist().count("converged"),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(finite)) if finite else None
