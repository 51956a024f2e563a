"""What the two tests for copies say of a sweep, judged over all of its models, and of imported subjects.

Each test gives a model the probability that chance leads as far (columns `competition_p` and `conformal_p`). A test
finds something if it reports anything at its rate q and this probability is at most LEVEL, divided by the number of
models in the sweep (Bonferroni). An imported subject is judged alone. The other half of the error that a sweep may make
goes to the memorized fraction, whose intervals hold together.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from memgen.base.intervals import detectable_share
from memgen.base.wording import listed, number
from memgen.findings.quantities import LEVEL as TOGETHER
from memgen.measures.copies import competition, lead
from memgen.measures.copies.lead import Reach

LEVEL = (1 - TOGETHER) / 4  # of each test, over all models: together, the tests have half of the error of a sweep
# The tests must be able to see copies in this share of the samples before a model is said to generalize.
MOST_UNSEEN = 0.05
ASSUMPTIONS = (
    "The competition assumes only that training and held-out images were divided at random. The conformal test assumes "
    "that samples other than copies lie no deeper in the neighborhoods of training images than held-out images do."
)


@dataclass(frozen=True)
class Tested:
    """What the tests say of one or more models.

    Attributes:
        rows: of a COPIES table, one for each model.
        limit: largest probability by chance at which a find counts.
    """

    rows: Sequence[Mapping[str, Any]]
    limit: float

    @property
    def competition(self) -> bool:
        """Whether the competition finds training images."""
        return any(self._counts(row, "discoveries", "competition_p") for row in self.rows)

    @property
    def conformal(self) -> bool:
        """Whether the conformal test finds samples."""
        return any(self._counts(row, "flagged", "conformal_p") for row in self.rows)

    @property
    def found(self) -> bool:
        """Whether a test finds something."""
        return self.competition or self.conformal

    @property
    def hidden(self) -> bool:
        """Whether held-out images lie as deep as exact copies do, so that these are hard to see."""
        return any(row["conformal_as_deep"] or row["competition_as_deep"] for row in self.rows)

    @property
    def unseen_in_words(self) -> str:
        """`unseen` in percent, with a decimal where it is small."""
        return f"{self.unseen:.1%}" if self.unseen < 0.1 else f"{self.unseen:.0%}"

    @property
    def unseen(self) -> float:
        """The share of samples below which copies could have gone unseen in some model; 1 without any test.

        A larger share of exact copies of different images would have been found with a probability of 95 %.
        """
        return max(map(_unseen_with, self._needs), default=1.0)

    @property
    def samples_needed(self) -> int | None:
        """The number of samples of each model, a multiple of 32, with which few enough copies go unseen; None for none.

        It looks up to 100 times the samples that there are, and takes them to be nearest to different images.
        """
        for samples in itertools.takewhile(lambda m: m <= 100 * self.rows[0]["samples"], _steps()):
            larger = [_with_samples(row, samples) for row in self.rows]
            if Tested(larger, self.limit).unseen <= MOST_UNSEEN:
                return samples
        return None

    @cached_property
    def _needs(self) -> list[list[tuple[str, float]]]:
        """What the tests need in each model; see `_needed`."""
        return [self._needed(row) for row in self.rows]

    def _counts(self, row: Mapping[str, Any], found: str, chance: str) -> bool:
        return bool(row[found] > 0 and row[chance] <= self.limit)

    def _needed(self, row: Mapping[str, Any]) -> list[tuple[str, float]]:
        """What each test needs in order to find something in a model, in words, and the share of copies it sees.

        Of exact copies only some may lie deep enough to count, and some held-out images may lie as deep as they.
        """
        m, q, n_t, n_h = row["samples"], row["q"], row["n_pool_train"], row["n_pool_heldout"]
        images = Reach(row["competition_reach"], row["competition_as_deep"], row["competition_against"])
        samples = Reach(row["conformal_reach"], row["conformal_as_deep"])
        needed = [
            (
                lead.fewest(n_t / (q * n_h), self.limit, n_t, n_h, row["n_competing"], images),
                images,
                f"training {row['unit']}",
            ),
            (
                lead.fewest(m / (q * (row["judged_by"] + 1)), self.limit, m, row["judged_by"], reached=samples),
                samples,
                "sample",
            ),
        ]
        return [
            (_count(math.ceil(count / of.share), what), min(1.0, detectable_share(count, m) / of.share))
            for count, of, what in needed
            if count
        ]

    @property
    def sentences(self) -> list[str]:
        """What was tested and found, and what could have gone unseen; empty if nothing was tested."""
        if not self.rows:
            return []
        models = f"{len(self.rows)} models" if len(self.rows) > 1 else "the model"
        start = f"{self._sum('samples'):,} samples of {models} were tested for copies in two ways."
        found = [start, self._competition(), self._conformal(), self._closest()]
        return found if self.found else [*found, self._unseen()]

    def _competition(self) -> str:
        discoveries = self._sum("discoveries")
        if not discoveries:
            return f"The competition found no {self._unit} that samples depend on."
        if not self.competition:
            reports = f"The competition reports {_count(discoveries, self._unit)}"
            return f"{reports}, which {self._too_few('competition_p')}"
        several = len(self.rows) > 1
        each = listed([f"{row['discoveries']:,} for {row['subject']}" for row in self.rows])
        return (
            f"The competition found {_count(discoveries, self._unit)} that samples depend on"
            f"{f' ({each})' if several else ''}, at a false-discovery rate of {self.rows[0]['q']:.0%}"
            f"{' for each model' if several else ''}. "
            f"{self._sum('alike'):,} of {discoveries:,} correlate with the sample at {competition.ALIKE:g} or "
            f"more, pixel by pixel. For {self._sum('attached'):,} further samples, the nearest image is one of these."
        )

    def _conformal(self) -> str:
        flagged = self._sum("flagged")
        if not flagged:
            return "The conformal test flags no sample."
        if not self.conformal:
            return f"The conformal test flags {_count(flagged, 'sample')}, which {self._too_few('conformal_p')}"
        shared = max(row["most_shared"] for row in self.rows)
        belong = "They belong" if flagged > 1 else "It belongs"
        return (
            f"The conformal test flags {_count(flagged, 'sample')}, at the same rate. "
            f"{belong} to {_count(self._sum('flagged_images'), self._unit)}"
            + (f", and up to {shared:,} samples share one." if shared > 1 else ".")
        )

    @property
    def _unit(self) -> str:
        return f"training {self.rows[0]['unit']}"

    def _too_few(self, chance: str) -> str:
        smallest = min(row[chance] for row in self.rows)
        among = " among so many models" if self.limit < LEVEL else ""
        return (
            f"chance alone does too often to count: the probability is {smallest:.2g}, and it must be at most "
            f"{self.limit:.3g}{among}."
        )

    def _closest(self) -> str:
        closest = number(max(row["closest"] for row in self.rows), "correlation")
        return f"The closest pair of a sample and a training image has a correlation of {closest}."

    def _unseen(self) -> str:
        needed = max(self._needs, key=_unseen_with)
        if not needed:
            hidden = self._hidden() or "there are too few held-out images."
            return f"Neither test could have found copies, however many there are: {hidden}"
        enough, hidden = " or ".join(what for what, _ in needed), self._hidden()
        return (
            f"Copies in fewer than {self.unseen_in_words} of the samples could have gone unseen: it takes {enough} for "
            f"the tests to find something{f', since {hidden}' if hidden else '.'}"
        )

    def _hidden(self) -> str:
        """Why copies are hard to see where held-out images lie as deep as they do; empty where none does."""
        row = max(self.rows, key=lambda row: row["conformal_as_deep"])
        if not row["conformal_as_deep"]:
            return ""
        judges = _count(row["judged_by"], f"held-out {row['unit']}")
        few = f"{row['conformal_as_deep']:,} of {judges}"
        return (
            f"{few} {'lies' if row['conformal_as_deep'] == 1 else 'lie'} as deep in the neighborhood of a training "
            "image as exact copies do. Near-duplicates of training images among the held-out images do so."
        )

    def _sum(self, column: str) -> int:
        return sum(row[column] for row in self.rows)


def judge(copies: pa.Table | None, models: int | None = None) -> dict[int | str, Tested]:
    """What the tests say at each training-set size, and of each imported subject by its name.

    Args:
        copies: a COPIES table, if samples were tested.
        models: number of models of the sweep, over which they are judged; None for those in the table.
    """
    rows = [] if copies is None else copies.to_pylist()
    models = models or max(1, sum(row["role"] == "cell" for row in rows))
    found: dict[int | str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["n_train"] if row["role"] == "cell" else row["subject"], []).append(row)
    return {key: Tested(of_key, LEVEL / (models if isinstance(key, int) else 1)) for key, of_key in found.items()}


def _with_samples(row: Mapping[str, Any], samples: int) -> dict[str, Any]:
    """A row of a COPIES table as it would be with so many samples; those that compete grow with their number."""
    deep = math.ceil(row["competition_as_deep"] * samples / row["samples"])
    return dict(row) | {"samples": samples, "n_competing": samples, "competition_as_deep": deep}


def _unseen_with(needed: Sequence[tuple[str, float]]) -> float:
    """The share of copies that the better of the tests does not see."""
    return min((share for _, share in needed), default=1.0)


def _steps() -> Iterator[int]:
    """Multiples of 32 that grow by about a tenth."""
    samples = 32
    while True:
        yield samples
        samples = 32 * math.ceil(1.1 * samples / 32)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"
