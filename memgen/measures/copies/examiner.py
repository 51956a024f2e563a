"""The test for copies on images: samples against a training set T and images H that the model never saw.

The pool of T and H is clustered and indexed once, and then any number of sample sets can be examined against it.

One space is searched, or several. With one space, such as the pixels of a sweep's images, the depth of a sample in that
space is its magnitude in the competition. With several, each sample competes in the space in which it stands out most,
and the rate q need not be divided by their number. Let D be the depth of a sample in a space, and D_1, ..., D_R those
of R images of the pool, each as if its own unit were not there:

    e(t) = m (1 + #{i: D_i >= t}) / (1 + R) / #{samples with a depth of at least t}
    magnitude = -log min(1, min over t <= D of e(t)), in the space where it is largest

So e(t) compares how many of the m samples lie as deep as t with how many would if samples lay as deep as images of the
pool do. A depth that some samples always reach in a space, such as that of photographs of one product, counts little.

Proof that the competition keeps its rate. Given the pool without labels and the samples, the nearest image and the
depth of every sample in each space are fixed numbers, and so are D_1, ..., D_R, since no search knows labels. So the
space in which a sample stands out most, its nearest image there and its magnitude are fixed too. The labels of units
are exchangeable given all of this, which is all that `competition` needs.

A conformal p-value must treat samples and held-out images alike, and e(t) does not. Its score is therefore the largest
over the spaces of D / a below a, and 1 + (D - a) / b above, where a is the .9 quantile of D_1, ..., D_R and b the mean
of D_i - a over those above a; the score is 0 where the nearest image, in that space, is in H. With one space it is D.

The alternative, a test at q / S in each of S spaces, needs S times as many discoveries before it can report any.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen import spaces
from memgen.base import schemas, tables
from memgen.base.errors import DataError
from memgen.base.progress import Progress
from memgen.images.imageset import ImageSet
from memgen.measures.copies import competition, matching
from memgen.measures.copies.alignment import Fit
from memgen.measures.copies.competition import ALIKE, DEFINITION, Competition, MemorizedFraction, Q
from memgen.measures.copies.conformal import benjamini_hochberg, conformal, conformal_resolution
from memgen.measures.copies.lead import Bools, Floats, Ints, lead, probability
from memgen.measures.copies.matching import PIXELS, Candidates, LeftOut, Matches
from memgen.measures.copies.pool import Pool, pool
from memgen.measures.subject import Samples, Subject, lacking
from memgen.spaces import index

# Samples are judged by at most so many held-out images. More would sharpen p-values below 1/4,000, at a cost in time.
JUDGED_BY = 4096
SCALED_BY = 2048  # images of the pool by whose depths spaces are made comparable, at most
_COMMON = 0.9  # quantile of these depths up to which a depth is common
_SMALLEST = 1e-3  # depth that counts as more than rounding
_TIES = 1e-6  # weight of what puts equal magnitudes in order
_BLOCK = 1024  # samples matched at a time


@dataclass(frozen=True, eq=False)
class Sight:
    """What M samples, or images in their place, look like among the images of a pool.

    Attributes:
        matches: what each matcher found.
    """

    matches: tuple[Matches, ...]

    def __len__(self) -> int:
        return len(self.matches[0].depth)

    def take(self, rows: Ints | slice) -> "Sight":
        """What is known of some of the samples."""
        return Sight(tuple(each.take(rows) for each in self.matches))

    @staticmethod
    def joined(parts: Sequence["Sight"]) -> "Sight":
        """What is known of several sets of samples, one after the other."""
        return Sight(tuple(map(Matches.joined, zip(*(part.matches for part in parts), strict=True))))


@dataclass(frozen=True, eq=False)
class Chosen:
    """M samples, each in the space in which it stands out most.

    Attributes:
        nearest: number of the nearest representative there, (M,).
        magnitude: how much the sample stands out, (M,).
        matcher: number of the matcher, (M,).
    """

    nearest: Ints
    magnitude: Floats
    matcher: Ints


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


class Examiner:
    """T and H, pooled, clustered and indexed.

    Args:
        train: the training set T. If it has groups, units are groups, else images.
        held_out: images H of the same source that the model never saw.
        threshold: correlation above which two images are near-duplicates and count as one.
        backend: faiss, torch or auto.
        device: where the torch backend searches.
        names: spaces that are searched; see `matching`.

    Attributes:
        pool: the representatives of T and H.
        names: the spaces.

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
    ) -> None:
        space = spaces.find("correlation")
        rows_t, rows_h = (space.embed(images.floats()).numpy() for images in (train, held_out))
        self.pool: Pool = pool(rows_t, rows_h, train.ids, held_out.ids, threshold, train.groups, held_out.groups)
        self.names = tuple(names)
        self._held_out, self._n_train = held_out, len(train)
        self._pixels = np.concatenate([train.pixels, held_out.pixels])[self.pool.representatives]
        candidates = Candidates(self._pixels, self.pool.ids, self.pool.unit)
        built = {name: matching.build(name, candidates, backend, device) for name in self.names}
        self._matchers = [matcher for matchers in built.values() for matcher in matchers]
        self._space_of = np.array([name for name, matchers in built.items() for _ in matchers])

    def examine(self, samples: Tensor, seed: int, q: float = Q) -> Examination:
        """Test samples (M, C, H, W) for dependence on single units of T.

        Args:
            samples: float32, pixel units.
            seed: of the label permutations.
            q: false-discovery rate aimed at, in (0, 1).

        Raises:
            ShapeError: the samples are not of the shape of the images.
            DataError: a sample has a pixel that is not finite.
        """
        return self.contest(self.see(samples), seed, q)

    def contest(self, sight: Sight, seed: int, q: float = Q) -> Examination:
        """The same for samples that were looked at before."""
        chosen = self._choose(sight, self._standing_out(sight))
        unit, in_train = self.pool.unit[chosen.nearest], self.pool.unit_in_train
        found = competition.compete(unit, chosen.magnitude, in_train, q)
        return Examination(sight, chosen, found, competition.memorized_fraction(unit, in_train, seed))

    def see(self, images: Tensor, left_out: LeftOut | None = None, progress: Progress | None = None) -> Sight:
        """Look for samples (M, C, H, W), or images in their place, in all spaces.

        Args:
            images: float32, pixel units.
            left_out: what is not there for each of them; None leaves nothing out.
            progress: called with (images done, images).
        """
        parts = []
        for start in range(0, max(1, len(images)), _BLOCK):
            if progress:
                progress(start, len(images))
            rows = slice(start, start + _BLOCK)
            gone = None if left_out is None else LeftOut(left_out.unit[rows], left_out.but[rows])
            parts.append(Sight(tuple(matcher.match(images[rows], gone) for matcher in self._matchers)))
        return Sight.joined(parts)

    def evidence(self, found: Examination) -> dict[str, Any]:
        """Columns of a SIGNIFICANCE table: the space in which each sample competes, and what was found there."""
        chosen, rows = found.chosen, np.arange(len(found.sight))
        height, width = self._pixels.shape[-2:]
        each = [self._evidence(matches) for matches in found.sight.matches]
        columns = {name: np.stack([side[name] for side in each])[chosen.matcher, rows] for name in each[0]}
        fit = np.stack([matches.fit for matches in found.sight.matches])[chosen.matcher, rows]
        return {
            "space": self._space_of[chosen.matcher],
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

    def _evidence(self, found: Matches) -> dict[str, NDArray[Any]]:
        """What a matcher found: the similarity to the nearest, and the closest images in T and in H, -1 for none."""
        columns: dict[str, NDArray[Any]] = {"closeness": found.closeness[:, 0], "part": found.part}
        in_train = self.pool.in_train[found.candidates]
        for name, side in (("T", in_train), ("H", ~in_train)):
            first, there = side.argmax(axis=1)[:, None], side.any(axis=1)
            columns[name] = np.where(there, np.take_along_axis(found.candidates, first, axis=1)[:, 0], -1)
            value = np.take_along_axis(found.closeness, first, axis=1)[:, 0]
            columns[f"in {name}"] = np.where(there, value, np.nan)
        return columns

    def depths(self, sight: Sight) -> Floats:
        """The score W of samples in the conformal test, (M,): the largest over spaces, + in T, - in H."""
        chosen = self._choose(sight, self._comparable(sight))
        return np.where(self.pool.in_train[chosen.nearest], chosen.magnitude, -chosen.magnitude)

    @cached_property
    def held_out_depths(self) -> Floats:
        """The same of at most JUDGED_BY held-out images, whose ids choose them, each as if its unit were not there.

        Of each group one image is chosen, since images of one group say little more than one of them.
        """
        order, groups = self.pool.order, self.pool.groups
        rows = order[order >= self._n_train]
        rows = rows[np.sort(np.unique(groups[rows], return_index=True)[1])][:JUDGED_BY]
        numbers = self.pool.cluster[rows]
        represents = self.pool.representatives[numbers] == rows
        heir = np.where(represents, self.pool.successors()[numbers], -1)
        # A cluster that has members in other units stays, with the label of its heir.
        left_out = LeftOut(
            np.where(represents | self.pool.grouped, self.pool.row_unit[rows], -1), np.where(heir >= 0, numbers, -1)
        )
        sight = self.see(self._held_out.floats(rows - self._n_train), left_out)
        chosen = self._choose(sight, self._comparable(sight))
        in_train = self.pool.in_train[chosen.nearest]
        inherited = (heir >= 0) & (chosen.nearest == numbers)
        in_train[inherited] = heir[inherited] < self._n_train
        return np.where(in_train, chosen.magnitude, -chosen.magnitude)

    @cached_property
    def _usual(self) -> list[Floats]:
        """For each matcher, the depths of images of the pool, each as if its unit were not there, ascending."""
        count = min(SCALED_BY, len(self.pool.ids))
        images = matching.floats(self._pixels[:count])
        sight = self.see(images, LeftOut(self.pool.unit[:count], np.full(count, -1)))
        return [np.sort(each.depth) for each in sight.matches]

    def _choose(self, sight: Sight, magnitudes: Sequence[Floats]) -> Chosen:
        """For each sample the matcher of the largest magnitude, the first of equals."""
        matcher = np.argmax(magnitudes, axis=0)
        nearest = np.stack([each.candidates[:, 0] for each in sight.matches])
        return Chosen(nearest[matcher, np.arange(len(matcher))], np.max(magnitudes, axis=0), matcher)

    def _standing_out(self, sight: Sight) -> list[Floats]:
        """The magnitude of each sample in the competition, for each matcher; see the head of this module."""
        if len(sight.matches) == 1:
            return [sight.matches[0].depth]
        # Equal magnitudes are put in order by the scores of the conformal test.
        ties = self._comparable(sight)
        found = [_excess(each.depth, usual) for each, usual in zip(sight.matches, self._usual, strict=True)]
        return [excess + _TIES * tie for excess, tie in zip(found, ties, strict=True)]

    def _comparable(self, sight: Sight) -> list[Floats]:
        """The score of each sample in the conformal test, for each matcher; see the head of this module."""
        if len(sight.matches) == 1:
            return [sight.matches[0].depth]
        return [_scaled(each.depth, usual) for each, usual in zip(sight.matches, self._usual, strict=True)]


def _excess(depth: Floats, usual: Floats) -> Floats:
    """-log of the smallest e(t) up to the depth of each sample; see the head of this module.

    Args:
        depth: of the samples, (m,).
        usual: of images of the pool, ascending, (R,).
    """
    order = np.argsort(depth)
    ascending = depth[order]
    as_deep = len(depth) - np.searchsorted(ascending, ascending, side="left")
    usually = 1 + len(usual) - np.searchsorted(usual, ascending, side="left")
    expected = len(depth) * usually / (1 + len(usual)) / as_deep
    found = np.empty(len(depth))
    found[order] = -np.log(np.minimum(1, np.minimum.accumulate(expected)))
    return found


def _scaled(depth: Floats, usual: Floats) -> Floats:
    """Depths on a scale on which those of different spaces can be compared; see the head of this module."""
    common = max(float(np.quantile(usual, _COMMON)), _SMALLEST)
    deeper = usual[usual > common] - common
    beyond = max(float(deeper.mean()) if len(deeper) else 0.0, _SMALLEST)
    return np.asarray(np.where(depth < common, depth / common, 1 + (depth - common) / beyond))


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
    found = examiner.examine(torch.from_numpy(subject.samples.images), seed)
    judged = judge(examiner.depths(found.sight), examiner.held_out_depths, found.competition.q)
    keys, index_of = subject.identity.columns, subject.samples.index
    return to_tables(keys, index_of, examiner.pool, found, judged, own, examiner.evidence(found), names)


def to_tables(
    keys: Mapping[str, Any],
    samples: Ints,
    pooled: Pool,
    found: Examination,
    judged: Judgement,
    own: pa.Table,
    evidence: Mapping[str, Any],
    names: Sequence[str],
) -> tuple[pa.Table, pa.Table]:
    """A SIGNIFICANCE table of a row for each sample, and a COPIES table of one row.

    Args:
        keys: values of the columns subject, role, n_train, part and train_seed.
        samples: their indices, (m,).
        pooled: T and H.
        found: of these samples in the competition.
        judged: by held-out images.
        own: the nearest training image, by correlation, to each sample: a NEIGHBORS table of rank 1.
        evidence: the columns that say where each sample competes; see `Examiner.evidence`.
        names: spaces that were searched.
    """
    contest, share = found.competition, found.fraction
    unit = pooled.unit[found.nearest]
    closeness = own["value"].to_numpy(zero_copy_only=False).astype(np.float64)
    columns = {
        "sample": samples,
        "nearest_id": _ids(pooled, found.nearest),
        "nearest_in": np.where(pooled.in_train[found.nearest], "T", "H"),
        "train_id": own["reference_id"].to_pylist(),
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
    significance = tables.make(schemas.SIGNIFICANCE, {**keys, **columns, **evidence})
    sharing = np.bincount(unit[judged.flagged])
    columns = {
        "unit": "group" if pooled.grouped else "image",
        "spaces": list(names),
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
        "closest": float(np.nan_to_num(closeness, nan=-1).max(initial=-1)),
    }
    return significance, tables.make(schemas.COPIES, {**keys, **{name: [value] for name, value in columns.items()}})


def _ids(pooled: Pool, numbers: Ints) -> list[str | None]:
    """Content ids of representatives; None for -1."""
    return [pooled.ids[i] if i >= 0 else None for i in numbers]


def nearest(train: ImageSet, samples: Samples, backend: str = "auto", device: str = "cpu") -> pa.Table:
    """The nearest training image, by correlation, to each sample: a NEIGHBORS table of rank 1."""
    space, nothing = spaces.find("correlation"), dict.fromkeys(("subject", "role", "n_train", "part", "train_seed"))
    searched = index.Index.build(train.pixels, train.ids, space, "train", None, backend, device)
    hits = searched.search(torch.from_numpy(samples.images), 1)
    return searched.to_table(hits, "sample", samples.ids, nothing, sources=train.sources)
