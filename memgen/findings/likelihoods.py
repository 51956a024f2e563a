"""What likelihoods say: how many more bits an unseen image costs, and how far apart two models are.

    bits gap       bits per dimension of images of H minus those of T. Null: 0, for a model that treats both alike
    divergence     bits per dimension that model B spends more than A on images y: mean of (log2 q_A - log2 q_B) / d

For images that A draws, the divergence is the Kullback-Leibler divergence of A's density from B's, per dimension. For
held-out images it says which of the two finds unseen images more likely, and may be below 0.

Source: Cover & Thomas 2006, section 5.4, for what a wrong code costs; the table `likelihood`, which is read here.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memgen.base.errors import DataError
from memgen.base.estimates import Estimate
from memgen.base.intervals import bootstrap
from memgen.findings import membership
from memgen.findings.membership import Groups, Scores

UNIT = "bits per dimension"


@dataclass(frozen=True)
class Summary:
    """Bits per dimension of one subject.

    Attributes:
        train: mean over images of T, or over groups of them, with a 95 % bootstrap interval.
        held_out: the same of H.
        gap: held_out minus train.
        probe_error: the largest standard error over probes of an image, bits per dimension.
        step_change: the largest change of an image when the number of steps was doubled, bits per dimension.
        sigma_low: noise level of the density, pixel units.
        independent: the independent unit: image, or group, whose images' bits are averaged.
    """

    train: Estimate
    held_out: Estimate
    gap: Estimate
    probe_error: float
    step_change: float
    sigma_low: float
    independent: str


def summarize(table: pa.Table, groups: Groups | None, seed: int) -> Summary:
    """The bits of T and H and their difference, with the largest error of an image.

    Args:
        table: a LIKELIHOOD table of one subject.
        groups: group of each image by its id; None where images are independent.
        seed: of the bootstrap.
    """
    bits = membership.by_unit(table, "bits_per_dim", groups)
    train, held_out = (
        replace(bootstrap(each, lambda draws: draws.mean(axis=1), seed), unit=UNIT)
        for each in (bits.train, bits.held_out)
    )
    per_bit = table["dimension"].to_numpy() * math.log(2)
    probe, step = (float(np.abs(table[name].to_numpy() / per_bit).max()) for name in ("probe_error", "step_change"))
    unit = "group" if groups else "image"
    return Summary(train, held_out, gap(table, groups, seed), probe, step, table["sigma_low"][0].as_py(), unit)


def gap(table: pa.Table, groups: Groups | None, seed: int) -> Estimate:
    """Bits per dimension of H minus those of T, with a 95 % bootstrap interval over images, or groups of them.

    Args:
        table: a LIKELIHOOD table of one subject.
        groups: group of each image by its id; None where images are independent.
        seed: of the bootstrap.
    """
    bits = membership.by_unit(table, "bits_per_dim", groups)
    return membership.gap(Scores(-bits.train, -bits.held_out), seed, UNIT)


def divergence(own: pa.Table, other: pa.Table, seed: int, groups: Groups | None = None) -> Estimate:
    """Bits per dimension that the second model spends more on the same images, with a 95 % bootstrap interval.

    The interval is over images, or groups of them.

    Args:
        own: a LIKELIHOOD table of the first model.
        other: that of the second, of the same images with the same noise.
        seed: of the bootstrap.
        groups: group of each image by its id; None where images are independent.

    Raises:
        DataError: the two are not of the same images, or not at the same lowest noise level.
    """
    for name in ("image_id", "sigma_low"):
        if own[name].to_pylist() != other[name].to_pylist():
            names = " and ".join(str(table["subject"][0]) for table in (own, other))
            raise DataError(
                f"the likelihoods of {names} differ in {name}, expected the same images with the same noise in each. "
                f"Compare two subjects that have the same held-out images."
            )
    more = other["bits_per_dim"].to_numpy() - own["bits_per_dim"].to_numpy()
    place = own.column_names.index("bits_per_dim")
    units = membership.by_unit(own.set_column(place, "bits_per_dim", pa.array(more)), "bits_per_dim", groups)
    values = np.concatenate([units.train, units.held_out])
    return replace(bootstrap(values, lambda draws: draws.mean(axis=1), seed), unit=UNIT)


def on_held_out(own: pa.Table, other: pa.Table, groups: Groups | None, seed: int) -> Estimate:
    """The bits that the second model spends more on held-out images, from all rows of both; see `divergence`."""
    own, other = (table.filter(pc.field("kind") == "holdout") for table in (own, other))
    return divergence(own, other, seed, groups)
