"""Means over restored images, of what is finite."""

import pytest

from memgen.base import schemas, tables
from memgen.findings import restorations


def table(**more):
    columns = {"subject": "n4-s0-a", "role": "cell", "n_train": 4, "part": "a", "train_seed": 0, "task": "low_pass"}
    columns |= {"amount": 0.25, "n_measured": 16, "sample": [0, 1, 2], "image_id": ["x", "y", "z"], "noise_seed": 0}
    columns |= {"updates": 5, "sigma": 0.1, "residual_sigma": 0.1, "status": ["converged", "diverged", "converged"]}
    columns |= {"measured_error": 0.0, "output_psnr_db": [20.0, 22.0, 27.0], "filled_psnr_db": [10.0, 11.0, 15.0]}
    return tables.make(schemas.RESTORED, columns | {"pseudo_psnr_db": [5.0, None, 7.0]} | more)


def test_means_over_images():
    """Each mean is over its own column; the interval is over images; nulls are left out."""
    found = restorations.summarize(table(), 0, between=[30.0, 31.0, float("inf")])
    assert (found.subject, found.task, found.amount, found.n_measured) == ("n4-s0-a", "low_pass", 0.25, 16)
    assert (found.psnr.estimate, found.psnr.n) == (23.0, 3)
    assert 20 <= found.psnr.low < 23 < found.psnr.high <= 27
    assert (found.filled_psnr_db, found.pseudo_psnr_db, found.twin_psnr_db) == (12.0, 6.0, 30.5)
    assert found.converged == 2


def test_what_is_not_known():
    """Without a twin, and where every value is null or infinite, there is no mean."""
    found = restorations.summarize(table(output_psnr_db=[20.0, None, 24.0], pseudo_psnr_db=None), 0)
    assert (found.psnr.estimate, found.psnr.n) == (22.0, 2)
    assert found.pseudo_psnr_db is found.twin_psnr_db is None
    assert restorations.summarize(table(), 0, between=[float("inf")] * 3).twin_psnr_db is None
    nan = restorations.summarize(table(), 0, between=[float("nan"), 12.0, 14.0])
    assert nan.twin_psnr_db == pytest.approx(13)
