"""Rows of the tables of the test for copies, for tests of what reads them."""

from typing import Any

import numpy as np
import pyarrow as pa

from memgen.base import schemas, tables


def model(n: int = 64, part: str = "a", seed: int = 0) -> dict[str, Any]:
    """The columns that name a model of a sweep."""
    return {"subject": f"n{n}-s{seed}-{part}", "role": "cell", "n_train": n, "part": part, "train_seed": seed}


def imported(name: str = "theirs", n: int | None = 64) -> dict[str, Any]:
    """The columns that name an imported subject."""
    return {"subject": name, "role": "imported", "n_train": n, "part": None, "train_seed": None}


def copies(keys: dict[str, Any], **changes: Any) -> pa.Table:
    """A COPIES table of one model in 200 samples of which no test finds anything, or with changes."""
    columns = {
        "unit": "image",
        "spaces": [["pixels"]],
        "n_pool_train": 64,
        "n_pool_heldout": 6400,
        "n_leaks": 3,
        "samples": 200,
        "q": 0.05,
        "answer": "none",
    }
    columns |= {"discoveries": 0, "alike": 0, "attached": 0, "k_min": 1, "n_competing": 60, "competition_p": 1.0}
    columns |= dict.fromkeys(("memorized_fraction", "low", "high", "p"), 0.5)
    columns |= {"flagged": 0, "flagged_images": 0, "most_shared": 0, "conformal_k_min": 1, "conformal_p": 1.0}
    columns |= {"judged_by": 4096, "closest": 0.9, "exact_copies": 64, "conformal_reach": 1.0, "conformal_as_deep": 0}
    columns |= {"competition_reach": 1.0, "competition_as_deep": 0, "competition_against": 0.0}
    columns |= dict.fromkeys(("probes", "checked", "recall", "recall_low", "recall_high"))
    columns |= dict.fromkeys(("checked_fraction", "exact_fraction"))
    return tables.make(schemas.COPIES, keys | columns | changes)


def significance(keys: dict[str, Any], nearest: np.ndarray, in_train: np.ndarray, **changes: Any) -> pa.Table:
    """A SIGNIFICANCE table of samples at given images, of which no test reports anything, or with changes."""
    columns = {"sample": np.arange(len(nearest)), "nearest_id": [f"image {i}" for i in nearest]}
    columns |= {"nearest_in": np.where(in_train, "T", "H"), "train_id": "x", "cluster": nearest, "W": 0.0}
    columns |= dict.fromkeys(("correlation", "closeness", "found_train_id", "found_train", "found_held_out_id"))
    columns |= {"found_held_out": None, "unit": nearest, "p": 1.0, "q": 1.0, "discovered": False, "flagged": False}
    columns |= {"space": "pixels", "compared": "whole", "mirrored": False, "negative": False, "zoom": 1.0}
    columns |= dict.fromkeys(("shift_x", "shift_y", "rotation"), 0.0) | {"definition": "test"}
    return tables.make(schemas.SIGNIFICANCE, keys | columns | changes)
