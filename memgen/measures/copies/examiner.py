"""The test for copies on images: samples against a training set T and images H that the model never saw.

The pool of T and H is clustered and indexed once, and then any number of sample sets can be examined against it.

What samples look like among the images, in one space or in several, is the matter of `sight`.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from memgen import spaces
from memgen.base import schemas, tables
from memgen.base.errors import DataError
from memgen.base.intervals import clopper_pearson
from memgen.base.progress import Progress
from memgen.images.duplicates import Lead, pixel_rows
from memgen.images.gathered import Gathered, Images, tensor
from memgen.images.imageset import ImageSet
from memgen.measures.copies import competition
from memgen.measures.copies.alignment import Fit
from memgen.measures.copies.competition import ALIKE, DEFINITION, Competition, MemorizedFraction, Q
from memgen.measures.copies.conformal import benjamini_hochberg, conformal, conformal_resolution
from memgen.measures.copies.lead import Bools, Floats, Ints, Reach, lead, probability, reach
from memgen.measures.copies.matching import EXHAUSTIVE, PIXELS, Candidates, LeftOut, Matches
from memgen.measures.copies.pool import Pool, label_free_order, pool
from memgen.measures.copies.sight import Chosen, Searcher, Sight
from memgen.measures.subject import Samples, Subject, lacking
from memgen.spaces import index
from memgen.spaces.lists import spread

# Samples are judged by at most so many held-out images. More would sharpen p-values below 1/4,000, at a cost in time.
JUDGED_BY = 4096
# So many training images are looked for as if they were samples, at most: they say how deep exact copies lie.
_COPIED = 256
_CHECKED = 256  # samples of an approximate search that are searched exactly too
_BLOCK = 2**16  # samples whose evidence is put together at a time


@dataclass(frozen=True, eq=False)
class Examination:
    """The result of the test for M samples.

    Attributes:
        sight: what the samples look like among the images of the pool.
        chosen: the space in which each competes.
        competition: the samples that depend on single units of T, at a controlled rate.
        fraction: the memorized fraction.
    """

    sight: Sight
    chosen: Chosen
    competition: Competition
    fraction: MemorizedFraction

    @property
    def nearest(self) -> Ints:
        """Number of each sample's nearest representative, in the space in which it competes, (M,)."""
        return self.chosen.nearest


@dataclass(frozen=True, eq=False)
class Judgement:
    """The samples of an examination, judged by held-out images.

    Attributes:
        p: conformal p-value of each sample, (M,).
        q: the same after Benjamini & Hochberg, (M,).
        flagged: samples that are discoveries at the rate of the competition, (M,).
        chance: exact probability that samples lead held-out images by as much if both are exchangeable (see `lead`).
        judged_by: number of held-out images.
    """

    p: Floats
    q: Floats
    flagged: Bools
    chance: float
    judged_by: int


@dataclass(frozen=True)
class Checked:
    """An approximate search, and how it compares with an exact one.

    Attributes:
        probes: lists of images that each sample looked at.
        samples: samples that were searched exactly too.
        recall: share of the nearest images of these that the approximate search found, in all spaces (recall@1).
        low: lower end of its 95 % interval, as if each sample had been searched in one space.
        high: upper end.
        fraction: memorized fraction of these samples by the approximate search.
        exact_fraction: the same by the exact search.
    """

    probes: int
    samples: int
    recall: float
    low: float
    high: float
    fraction: float | None
    exact_fraction: float | None


class Examiner:
    """T and H, pooled, clustered and indexed.

    Args:
        train: the training set T. If it has groups, units are groups, else images.
        held_out: images H of the same source that the model never saw.
        threshold: correlation above which two images are near-duplicates and count as one.
        backend: faiss, torch or auto.
        device: where the torch backend searches.
        names: spaces that are searched; see `matching`.
        make_searcher: makes the searcher of candidates in these spaces, with these probes, in place of one that
            searches in this process.
        probes: lists of images that are searched for each sample, see `Index.search`; None searches all images.
        lead: what compares the images of T and H with each other, see `leaders`; None compares them in this process.

    Attributes:
        pool: the representatives of T and H.
        names: the spaces.
        searcher: the representatives, indexed in these spaces.

    Raises:
        DataError: T or H is empty, their groups do not fit together, or the threshold is not in (0, 1].
        ConfigError: there is no space of a name.
    """

    def __init__(
        self,
        train: ImageSet,
        held_out: ImageSet,
        threshold: float,
        backend: str = "auto",
        device: str = "cpu",
        names: Sequence[str] = PIXELS,
        make_searcher: Callable[..., Searcher] | None = None,
        probes: int | None = None,
        lead: Lead | None = None,
    ) -> None:
        self.pool: Pool = _pooled(train, held_out, threshold, lead)
        self.names, self._probes = tuple(names), probes
        self._train, self._held_out, self._n_train = train, held_out, len(train)
        self._pixels = Gathered([train.pixels, held_out.pixels], self.pool.representatives)
        candidates = Candidates(self._pixels, self.pool.ids, self.pool.unit)
        make = make_searcher or functools.partial(Searcher, backend=backend, device=device)
        self.searcher: Searcher = make(candidates, self.names, probes=probes)

    def examine(self, samples: Images | Tensor, seed: int, q: float = Q) -> Examination:
        """Test samples (M, C, H, W) for dependence on single units of T.

        Args:
            samples: a tensor of float32 in pixel units, or images of uint8 or float32, in memory or not.
            seed: of the label permutations.
            q: false-discovery rate aimed at, in (0, 1).

        Raises:
            ShapeError: the samples are not of the shape of the images.
            DataError: a sample has a pixel that is not finite.
        """
        return self.contest(self.see(samples), seed, q)

    def contest(self, sight: Sight, seed: int, q: float = Q) -> Examination:
        """The same for samples that were looked at before."""
        chosen = self.searcher.choose(sight, self.searcher.standing_out(sight))
        unit, in_train = self.pool.unit[chosen.nearest], self.pool.unit_in_train
        found = competition.compete(unit, chosen.magnitude, in_train, q)
        return Examination(sight, chosen, found, competition.memorized_fraction(unit, in_train, seed))

    def see(self, images: Images | Tensor, left_out: LeftOut | None = None, progress: Progress | None = None) -> Sight:
        """Look for samples (M, C, H, W), or images in their place, in all spaces; see `Searcher.see`."""
        return self.searcher.see(images, left_out, progress)

    def check(self, images: Images | Tensor, found: Examination, seed: int) -> Checked | None:
        """How an approximate search compares with an exact one, on samples evenly spread among all.

        Args:
            images: the samples, (M, C, H, W).
            found: of these samples.
            seed: of the label permutations.

        Returns:
            None where all spaces are searched exactly.
        """
        listed = ~np.isin(self.searcher.space_of, EXHAUSTIVE)
        if self._probes is None or not listed.any():
            return None
        rows = spread(len(images), min(_CHECKED, len(images)))
        sights = {False: found.sight.take(rows), True: self.searcher.see(tensor(images, rows), exact=True)}
        closest = {exact: _closest(sight)[listed] for exact, sight in sights.items()}
        recalled = np.equal(closest[True], closest[False]) | np.isnan(closest[True])
        recall = float(recalled.mean()) if recalled.size else 1.0
        fraction = {exact: self.contest(sight, seed).fraction.estimate for exact, sight in sights.items()}
        low, high = clopper_pearson(math.floor(recall * len(rows)), len(rows))
        return Checked(self._probes, len(rows), recall, low, high, fraction[False], fraction[True])

    def evidence(self, found: Examination) -> dict[str, Any]:
        """Columns of a SIGNIFICANCE table: the space in which each sample competes, and what was found there."""
        matcher, (height, width) = found.chosen.matcher, self._pixels.shape[-2:]
        blocks = [slice(start, start + _BLOCK) for start in range(0, max(1, len(matcher)), _BLOCK)]
        parts = [self._of_chosen(found.sight.take(rows), matcher[rows]) for rows in blocks]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        fit = columns["fit"]
        return {
            "space": self.searcher.space_of[matcher],
            "closeness": columns["closeness"],
            "found_train_id": _ids(self.pool, columns["T"]),
            "found_train": columns["in T"],
            "found_held_out_id": _ids(self.pool, columns["H"]),
            "found_held_out": columns["in H"],
            "compared": columns["part"],
            "mirrored": fit[:, Fit.MIRRORED] > 0,
            "negative": fit[:, Fit.NEGATIVE] > 0,
            "shift_x": fit[:, Fit.SHIFT_X] * width,
            "shift_y": fit[:, Fit.SHIFT_Y] * height,
            "rotation": np.degrees(fit[:, Fit.ANGLE]),
            "zoom": np.exp(fit[:, Fit.LOG_ZOOM]),
        }

    def _of_chosen(self, sight: Sight, matcher: Ints) -> dict[str, NDArray[Any]]:
        """What was found of some samples by the matcher of the space in which each competes; see `_evidence`."""
        each, rows = [self._evidence(matches) for matches in sight.matches], np.arange(len(matcher))
        return {name: np.stack([side[name] for side in each])[matcher, rows] for name in each[0]}

    def _evidence(self, found: Matches) -> dict[str, NDArray[Any]]:
        """What a matcher found: the similarity to the nearest, the closest images in T and in H, -1 for none; the fit.

        The rows are those of the samples.
        """
        columns: dict[str, NDArray[Any]] = {
            "closeness": found.closeness[:, 0],
            "part": found.part,
            "fit": found.fit,
        }
        in_train = self.pool.in_train[found.candidates]
        for name, side in (("T", in_train), ("H", ~in_train)):
            first, there = side.argmax(axis=1)[:, None], side.any(axis=1)
            columns[name] = np.where(there, np.take_along_axis(found.candidates, first, axis=1)[:, 0], -1)
            value = np.take_along_axis(found.closeness, first, axis=1)[:, 0]
            columns[f"in {name}"] = np.where(there, value, np.nan)
        return columns

    def depths(self, sight: Sight) -> Floats:
        """The score W of samples in the conformal test, (M,): the largest over spaces, + in T, - in H."""
        chosen = self.searcher.choose(sight, self.searcher.comparable(sight))
        return np.where(self.pool.in_train[chosen.nearest], chosen.magnitude, -chosen.magnitude)

    @cached_property
    def held_out_depths(self) -> Floats:
        """The same of at most JUDGED_BY held-out images, whose ids choose them, each as if its unit were not there.

        Of each group one image is chosen, since images of one group say little more than one of them.
        """
        rows = self._chosen(self.pool.order >= self._n_train, JUDGED_BY)
        numbers = self.pool.cluster[rows]
        represents = self.pool.representatives[numbers] == rows
        heir = np.where(represents, self.pool.successors()[numbers], -1)
        # A cluster that has members in other units stays, with the label of its heir.
        left_out = LeftOut(
            np.where(represents | self.pool.grouped, self.pool.row_unit[rows], -1), np.where(heir >= 0, numbers, -1)
        )
        sight = self.see(Gathered([self._held_out.pixels], rows - self._n_train), left_out)
        chosen = self.searcher.choose(sight, self.searcher.comparable(sight))
        in_train = self.pool.in_train[chosen.nearest]
        inherited = (heir >= 0) & (chosen.nearest == numbers)
        in_train[inherited] = heir[inherited] < self._n_train
        return np.where(in_train, chosen.magnitude, -chosen.magnitude)

    @cached_property
    def exact_copies(self) -> Sight:
        """What samples would look like that are exact copies of training images: of at most _COPIED, of each group one.

        Nothing is left out for them, since a copy finds the image that it was copied from.
        """
        return self.see(Gathered([self._train.pixels], self._chosen(self.pool.order < self._n_train, _COPIED)))

    def reaches(self, found: Examination) -> tuple[Reach, Reach]:
        """How far exact copies come in the competition of an examination, and in the conformal test."""
        both = Sight.joined([found.sight, self.exact_copies])
        chosen = self.searcher.choose(both, self.searcher.standing_out(both))
        nearest, magnitude, samples = chosen.nearest, chosen.magnitude, slice(len(found.sight))
        contest = competition.compete(
            self.pool.unit[nearest[samples]], magnitude[samples], self.pool.unit_in_train, found.competition.q
        )
        of_copies = np.where(self.pool.in_train[nearest], magnitude, -magnitude)[len(found.sight) :]
        opposed = ~self.pool.in_train[self.pool.cluster[: self._n_train]]
        in_competition = reach(of_copies, -contest.score[contest.competes], float(opposed.mean()))
        return in_competition, reach(self.depths(self.exact_copies), np.maximum(self.held_out_depths, 0))

    def _chosen(self, side: Bools, most: int) -> Ints:
        """At most so many rows of one side of the pool, of each group one; their ids choose them.

        Args:
            side: whether each row belongs to the side, in the order of the pool, (|T| + |H|,).
            most: number of rows.
        """
        rows = self.pool.order[side]
        return rows[np.sort(np.unique(self.pool.groups[rows], return_index=True)[1])][:most]


def judge(scores: Floats, held_out: Floats, rate: float = Q) -> Judgement:
    """Judge samples by held-out images.

    Args:
        scores: W of the samples, (m,), such as `Examiner.depths` gives.
        held_out: W of held-out images, (n,), such as `Examiner.held_out_depths`.
        rate: false-discovery rate aimed at, in (0, 1).
    """
    scores, others = np.maximum(scores, 0), np.maximum(held_out, 0)
    p = conformal(scores, others)
    q, flagged = benjamini_hochberg(p, rate)
    is_sample = np.arange(len(scores) + len(others)) < len(scores)
    ahead = lead(np.concatenate([scores, others]), is_sample)
    return Judgement(p, q, flagged, probability(ahead, len(scores), len(others)), len(others))


def find_copies(
    subject: Subject,
    own: pa.Table | None = None,
    seed: int = 0,
    threshold: float = 0.99,
    backend: str = "auto",
    device: str = "cpu",
    names: Sequence[str] = PIXELS,
) -> tuple[pa.Table, pa.Table]:
    """Test the samples of a subject for copies of its training images, in two ways.

    The competition compares T with everything that the subject never saw, and finds training images. The conformal test
    compares samples with images of that, and finds samples. See `competition` and `conformal` for what each assumes.
    If T and H have groups, both are about groups.

    Args:
        subject: one that has samples, T and H.
        own: the nearest training image, by correlation, to each sample: a NEIGHBORS table of rank 1. None: searched.
        seed: of the label permutations.
        threshold: correlation above which two images are near-duplicates and count as one.
        backend: faiss, torch or auto.
        device: where the torch backend searches.
        names: spaces that are searched; see `matching`.

    Returns:
        A SIGNIFICANCE table of a row for each sample, and a COPIES table of one row.

    Raises:
        DataError: the subject lacks samples, T or H.
    """
    if reason := lacking(subject, "samples", "train", "held_out", "unseen"):
        raise DataError(f"{subject.identity.subject}: cannot be tested for copies, since {reason}.")
    assert subject.samples is not None
    assert subject.train is not None
    assert subject.unseen is not None
    if own is None:
        own = nearest(subject.train, subject.samples, backend, device)
    examiner = Examiner(subject.train, subject.unseen, threshold, backend, device, names)
    found = examiner.examine(subject.samples.images, seed)
    judged = judge(examiner.depths(found.sight), examiner.held_out_depths, found.competition.q)
    keys, index_of = subject.identity.columns, subject.samples.index
    return to_tables(keys, index_of, examiner, found, judged, own)


def to_tables(
    keys: Mapping[str, Any],
    samples: Ints,
    examiner: Examiner,
    found: Examination,
    judged: Judgement,
    own: pa.Table,
    checked: Checked | None = None,
) -> tuple[pa.Table, pa.Table]:
    """A SIGNIFICANCE table of a row for each sample, and a COPIES table of one row.

    Args:
        keys: values of the columns subject, role, n_train, part and train_seed.
        samples: their indices, (m,).
        examiner: of T and H.
        found: of these samples in the competition.
        judged: by held-out images.
        own: the nearest training image, by correlation, to each sample: a NEIGHBORS table of rank 1.
        checked: what an exact search says of an approximate one; None where the search was exact.
    """
    pooled, contest, share = examiner.pool, found.competition, found.fraction
    in_competition, in_conformal = examiner.reaches(found)
    unit = pooled.unit[found.nearest]
    closeness = own["value"].to_numpy(zero_copy_only=False).astype(np.float64)
    columns = {
        "sample": samples,
        "nearest_id": _ids(pooled, found.nearest),
        "nearest_in": np.where(pooled.in_train[found.nearest], "T", "H"),
        "train_id": own["reference_id"],
        "correlation": closeness,
        "cluster": found.nearest,
        "unit": unit,
        "W": contest.score,
        "p": judged.p,
        "q": judged.q,
        "discovered": contest.discovered,
        "flagged": judged.flagged,
        "definition": DEFINITION,
    }
    significance = tables.make(schemas.SIGNIFICANCE, {**keys, **columns, **examiner.evidence(found)})
    sharing = np.bincount(unit[judged.flagged])
    columns = {
        "unit": "group" if pooled.grouped else "image",
        "spaces": list(examiner.names),
        "n_pool_train": int(pooled.unit_in_train.sum()),
        "n_pool_heldout": int((~pooled.unit_in_train).sum()),
        "n_leaks": pooled.n_mixed,
        "samples": len(samples),
        "q": contest.q,
        "answer": contest.answer,
        "discoveries": int(contest.discovered.sum()),
        "alike": int((contest.discovered & (closeness >= ALIKE)).sum()),
        "attached": contest.n_attached,
        "k_min": contest.k_min,
        "n_competing": contest.n_competing,
        "competition_p": competition.chance(contest, pooled.unit_in_train),
        "memorized_fraction": share.estimate,
        "low": share.low,
        "high": share.high,
        "p": share.p,
        "flagged": int(judged.flagged.sum()),
        "flagged_images": int(np.count_nonzero(sharing)),
        "most_shared": int(sharing.max(initial=0)),
        "conformal_k_min": conformal_resolution(len(samples), judged.judged_by, contest.q),
        "conformal_p": judged.chance,
        "judged_by": judged.judged_by,
        "exact_copies": len(examiner.exact_copies),
        "competition_reach": in_competition.share,
        "competition_as_deep": in_competition.controls,
        "competition_against": in_competition.against,
        "conformal_reach": in_conformal.share,
        "conformal_as_deep": in_conformal.controls,
        "closest": float(np.nan_to_num(closeness, nan=-1).max(initial=-1)),
        "probes": checked and checked.probes,
        "checked": checked and checked.samples,
        "recall": checked and checked.recall,
        "recall_low": checked and checked.low,
        "recall_high": checked and checked.high,
        "checked_fraction": checked and checked.fraction,
        "exact_fraction": checked and checked.exact_fraction,
    }
    return significance, tables.make(schemas.COPIES, {**keys, **{name: [value] for name, value in columns.items()}})


def _closest(sight: Sight) -> Floats:
    """Similarity of each sample to the nearest image, by matcher, (matchers, M)."""
    return np.stack([matches.closeness[:, 0] for matches in sight.matches])


def _pooled(train: ImageSet, held_out: ImageSet, threshold: float, lead: Lead | None) -> Pool:
    """The pool of T and H; a function of its own, so that the rows are freed before the indexes are built."""
    rows = pixel_rows(Gathered([train.pixels, held_out.pixels]))
    return pool(rows, train.ids, held_out.ids, threshold, train.groups, held_out.groups, lead)


def _ids(pooled: Pool, numbers: Ints) -> pa.Array:
    """Content ids of representatives; null for -1."""
    return pooled.ids.arrow.take(pa.array(numbers, mask=numbers < 0))


def nearest(
    train: ImageSet, samples: Samples, backend: str = "auto", device: str = "cpu", probes: int | None = None
) -> pa.Table:
    """The nearest training image, by correlation, to each sample: a NEIGHBORS table of rank 1; see `Index.search`."""
    space, nothing = spaces.find("correlation"), dict.fromkeys(("subject", "role", "n_train", "part", "train_seed"))
    searched = index.Index.build(train.pixels, train.ids, space, "train", None, backend, device)
    hits = searched.search(samples.images, 1, probes)
    return searched.to_table(hits, "sample", samples.ids, nothing, sources=train.sources)


def nearest_others(train: ImageSet, count: int = JUDGED_BY, most: int = 512) -> pa.Table:
    """The nearest other training image, by correlation, to each of some training images: a NEIGHBORS table of rank 1.

    Images of one group are no others of each other. Without held-out images, this is what samples can be compared with.

    Args:
        train: T.
        count: number of images that are looked for, at most; their ids choose them.
        most: images of one group that are passed over, at most; where all of the nearest are, the value is null.
    """
    space, nothing = spaces.find("correlation"), dict.fromkeys(("subject", "role", "n_train", "part", "train_seed"))
    searched = index.Index.build(train.pixels, train.ids, space, "train", None)
    unit = np.arange(len(train)) if train.groups is None else np.unique(train.groups.firsts(), return_inverse=True)[1]
    chosen = np.sort(label_free_order(train.ids)[:count])
    count_of_hits = min(len(train), 1 + min(most, int(np.bincount(unit).max())))
    hits = searched.search(Gathered([train.pixels], chosen), count_of_hits)
    others = unit[hits.reference_index] != unit[chosen][:, None]
    first = others.argmax(axis=1)[:, None]
    place = np.take_along_axis(hits.reference_index, first, axis=1)
    value = np.take_along_axis(hits.value, first, axis=1)
    value = np.where(others.any(axis=1)[:, None], value, np.nan)
    found = index.Hits(place, value, place)
    ids, sources = train.ids[chosen], train.sources[chosen]
    return searched.to_table(found, "train", ids, nothing, chosen, sources, train.sources)
