"""Tables of likelihood, membership and diversity with numbers of one's choice, for tests of what reads them."""

from typing import Any

import pyarrow as pa

from memgen.base import schemas, tables
from memgen.base.estimates import Estimate
from memgen.findings import diversities, likelihoods

UNITS = {"vendi": "images", "density": "ratio", "trajectory_variance": "pixel units^2"}


def summary(train: float | None, held_out: float, **changes: Any) -> likelihoods.Summary:
    """The bits of a model, with intervals of 1/2 on either side; without those of T if it has no T."""
    sides = [bits(train, 1 / 2), bits(held_out, 1 / 2), bits(None if train is None else held_out - train, 1 / 2)]
    columns = {"probe_error": 0.125, "step_change": 0.0625, "sigma_low": 0.05, "independent": "image"}
    return likelihoods.Summary(*sides, **(columns | changes))


def bits(value: float | None, side: float) -> Estimate:
    """An estimate of bits per dimension over 9 images."""
    ends = (None, None) if value is None else (value - side, value + side)
    return Estimate.of(value, *ends, 9, likelihoods.UNIT)


def membership(
    keys: dict[str, Any], levels: dict[float | None, tuple], score: str = "psnr", **changes: Any
) -> pa.Table:
    """A MEMBERSHIP table of a model with the gap and the share found at each noise level, ends 1/4 away; None is all."""
    columns: dict[str, Any] = {"score": score, "sigma": list(levels), "independent": "image", "n_units": 60}
    columns |= {"n_held_out": 128, "unit": "dB" if score == "psnr" else "nats", "fpr": 0.01}
    gaps, shares = (list(values) for values in zip(*levels.values(), strict=True))
    for name, values in (("gap", gaps), ("auc", [0.625] * len(levels)), ("tpr", shares)):
        columns[name] = values
        columns[f"{name}_low"] = [None if value is None else value - 0.25 for value in values]
        columns[f"{name}_high"] = [None if value is None else value + 0.25 for value in values]
    return tables.make(schemas.MEMBERSHIP, keys | columns | changes)


def diversity(keys: dict[str, Any], own: float, space: str = "rmse") -> pa.Table:
    """A DIVERSITY table: measure i is i above `own`, and 1/2 higher on held-out images; ends 1/8 away; no last one."""
    names = list(diversities.QUANTITIES)
    columns: dict[str, Any] = {"space": space, "measure": names, "n": 40, "n_held_out": 41}
    columns["unit"] = [UNITS.get(name, "share") for name in names]
    for name, prefix, start in (("estimate", "", own), ("held_out", "held_out_", own + 0.5)):
        values = [*(start + place for place in range(len(names) - 1)), None]
        columns[name] = values
        for end, away in (("low", -0.125), ("high", 0.125)):
            columns[prefix + end] = [None if value is None else value + away for value in values]
    return tables.make(schemas.DIVERSITY, keys | columns)
