"""Samples among the images of a pool, seen in one space or in several.

With one space, such as the pixels of a sweep's images, the depth of a sample in that space is its magnitude in the
competition. With several, each sample competes in the space in which it stands out most, and the rate q need not be
divided by their number. Let D be the depth of a sample in a space, and D_1, ..., D_R those of R images of the pool,
each as if its own unit were not there:

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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from memgen.base.progress import Progress
from memgen.images.gathered import Images, tensor
from memgen.measures.copies import matching
from memgen.measures.copies.lead import Floats, Ints
from memgen.measures.copies.matching import Candidates, LeftOut, Matches

SCALED_BY = 1024  # images of the pool by whose depths spaces are made comparable, at most
_COMMON = 0.9  # quantile of these depths up to which a depth is common
_SMALLEST = 1e-3  # depth that counts as more than rounding
_TIES = 1e-6  # weight of what puts equal magnitudes in order
BLOCK = 1024  # samples matched at a time
_TAKEN = 2**16  # samples whose matches are copied at a time


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
        numbers = np.arange(len(self))[rows]
        blocks = (numbers[start : start + _TAKEN] for start in range(0, max(1, len(numbers)), _TAKEN))
        parts = (Sight(tuple(each.take(block) for each in self.matches)) for block in blocks)
        return Sight.collected(parts, len(numbers))

    @staticmethod
    def joined(parts: Sequence["Sight"]) -> "Sight":
        """What is known of several sets of samples, one after the other."""
        return Sight.collected(parts, sum(map(len, parts)))

    @staticmethod
    def collected(parts: Iterable["Sight"], count: int) -> "Sight":
        """The same for sets that are made one by one, so that only one is there at a time.

        Args:
            parts: at least one.
            count: number of all samples.
        """
        made: tuple[Matches, ...] | None = None
        start = 0
        for part in parts:
            made = made or tuple(each.room(count) for each in part.matches)
            for whole, each in zip(made, part.matches, strict=True):
                whole.fill(start, each)
            start += len(part)
        assert made is not None
        return Sight(made)


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


class Searcher:
    """The images of a pool, indexed in all spaces.

    Args:
        pool: the images; equal ones should come in an order that does not depend on labels.
        names: spaces that are searched; see `matching`.
        backend: faiss, torch or auto.
        device: where the torch backend searches.
        probes: lists of images that are searched for each sample; None searches all images.

    Attributes:
        space_of: name of the space of each matcher.

    Raises:
        ConfigError: there is no space of a name.
    """

    def __init__(
        self,
        pool: Candidates,
        names: Sequence[str],
        backend: str = "auto",
        device: str = "cpu",
        probes: int | None = None,
    ) -> None:
        self._pool = pool
        self._matchers = [matcher for name in names for matcher in matching.build(name, pool, backend, device, probes)]
        self.space_of: NDArray[np.str_] = spaces_of(names)

    def see(
        self,
        images: Images | Tensor,
        left_out: LeftOut | None = None,
        progress: Progress | None = None,
        exact: bool = False,
    ) -> Sight:
        """Look for samples (M, C, H, W), or images in their place, in all spaces.

        Args:
            images: a tensor of float32 in pixel units, or images of uint8 or float32, in memory or not.
            left_out: what is not there for each of them; None leaves nothing out.
            progress: called with (images done, images).
            exact: whether all images are searched, whatever `probes` is.
        """

        def part(start: int) -> Sight:
            if progress:
                progress(start, len(images))
            rows = slice(start, start + BLOCK)
            gone = None if left_out is None else LeftOut(left_out.unit[rows], left_out.but[rows])
            block = tensor(images, rows)
            return Sight(tuple(matcher.match(block, gone, exact) for matcher in self._matchers))

        return Sight.collected(map(part, range(0, max(1, len(images)), BLOCK)), len(images))

    @cached_property
    def usual(self) -> list[Floats]:
        """For each matcher, the depths of images of the pool, each as if its unit were not there, ascending."""
        count = min(SCALED_BY, len(self._pool.ids))
        sight = self.see(self._pool.pixels[:count], LeftOut(self._pool.unit[:count], np.full(count, -1)))
        return [np.sort(each.depth) for each in sight.matches]

    def choose(self, sight: Sight, magnitudes: Sequence[Floats]) -> Chosen:
        """For each sample the matcher of the largest magnitude, the first of equals."""
        matcher = np.argmax(magnitudes, axis=0)
        nearest = np.stack([each.candidates[:, 0] for each in sight.matches])
        return Chosen(nearest[matcher, np.arange(len(matcher))], np.max(magnitudes, axis=0), matcher)

    def standing_out(self, sight: Sight) -> list[Floats]:
        """The magnitude of each sample in the competition, for each matcher; see the head of this module."""
        if len(sight.matches) == 1:
            return [sight.matches[0].depth]
        # Equal magnitudes are put in order by the scores of the conformal test.
        ties = self.comparable(sight)
        found = [_excess(each.depth, usual) for each, usual in zip(sight.matches, self.usual, strict=True)]
        return [excess + _TIES * tie for excess, tie in zip(found, ties, strict=True)]

    def comparable(self, sight: Sight) -> list[Floats]:
        """The score of each sample in the conformal test, for each matcher; see the head of this module."""
        if len(sight.matches) == 1:
            return [sight.matches[0].depth]
        return [_scaled(each.depth, usual) for each, usual in zip(sight.matches, self.usual, strict=True)]


def spaces_of(names: Sequence[str]) -> NDArray[np.str_]:
    """The name of the space of each matcher."""
    return np.repeat([matching.called(name) for name in names], [matching.matchers_of(name) for name in names])


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
