"""Measures of copying that other groups use, one file for each, in one common table.

memgen's own test for copies controls its error rate; these rules do not. They are here so that a number can be set
beside a published one, and next to the value of the same rule on held-out images, which nobody has copied.

To add a measure, add a module to this package. It is found by itself, and it defines what `Measure` lists. Measures do
not import each other.
"""

from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from memgen.base import schemas, tables
from memgen.base.discovery import modules_of
from memgen.base.errors import DataError
from memgen.base.estimates import Estimate
from memgen.base.intervals import effective_count, wilson
from memgen.measures.subject import Subject, lacking


@dataclass(frozen=True)
class Value:
    """The value of a measure.

    Attributes:
        samples: on the samples of a subject.
        held_out: on its held-out images in the place of samples.
    """

    samples: Estimate
    held_out: Estimate


def share(copied: NDArray[np.bool_], nearest: NDArray[np.int64]) -> Estimate:
    """The share of images that a rule calls copies, with its 95 % interval.

    Images with the same nearest training image tend to be called alike, so the interval is Wilson's at their effective
    count.

    Args:
        copied: (M,), what the rule says of each image.
        nearest: (M,), position of its nearest training image.
    """
    _, counts = np.unique(nearest, return_counts=True)
    value = float(copied.mean())
    return Estimate.of(value, *wilson(value, effective_count(counts)), len(copied), "share")


@runtime_checkable
class Measure(Protocol):
    """What a module of this package defines.

    Attributes:
        NAME: in the column `measure` of the table.
        TITLE: for people.
        NEEDS: attributes of a subject that it needs; see `memgen.measures.subject.lacking`.
    """

    NAME: str
    TITLE: str
    NEEDS: tuple[str, ...]

    def measure(self, subject: Subject, backend: str, device: str) -> Value:
        """The value of the measure on a subject that has what it needs.

        Args:
            subject: what is measured.
            backend: of searches: faiss, torch or auto.
            device: where the torch backend searches.
        """
        ...


def all_measures() -> list[Measure]:
    """The modules of this package."""
    return [cast(Measure, module) for module in modules_of(__name__, __path__)]


def measure_peers(subject: Subject, backend: str = "auto", device: str = "cpu") -> pa.Table:
    """Every measure of this package on a subject: a PEERS table of a row for each.

    Raises:
        DataError: the subject lacks what a measure needs.
    """
    rows = []
    for measure in all_measures():
        if reason := lacking(subject, *measure.NEEDS):
            raise DataError(f"{subject.identity.subject}: {measure.TITLE} cannot be measured, since {reason}.")
        found = measure.measure(subject, backend, device)
        samples, held_out = found.samples, found.held_out
        values = {"estimate": samples.estimate, "low": samples.low, "high": samples.high, "n": samples.n}
        null = {"held_out": held_out.estimate, "held_out_low": held_out.low, "held_out_high": held_out.high}
        rows.append({"measure": measure.NAME, **values, **null, "n_held_out": held_out.n, "unit": samples.unit})
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return tables.make(schemas.PEERS, subject.identity.columns | columns)
