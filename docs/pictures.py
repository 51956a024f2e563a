"""Draw the pictures of docs/statistics.md, by memgen's own functions on the images that come with memgen.

    python docs/pictures.py [NAME ...] [--out docs/pictures]

Without names, all are drawn, in about a minute on one core.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

import memgen
from memgen.base import noise
from memgen.images.imageset import ImageSet
from memgen.measures.copies.competition import compete, depth, memorized_fraction
from memgen.measures.copies.examiner import Examination, Examiner
from memgen.measures.copies.lead import standings
from memgen.report.style import BLUE, GRAY, INK, ORANGE, save, styled

SIDE, IN_T, IN_H, SAMPLES = 14, 1000, 1000, 400


def generator(name: str) -> np.random.Generator:
    """The random numbers of a picture, the same at every call."""
    return noise.stream(f"docs/pictures {name}", 0)


# Real images with planted copies


class World(NamedTuple):
    """Embedded images, divided at random: T, H, and others of the same source that stand for samples without copies."""

    train: ImageSet
    held_out: ImageSet
    others: torch.Tensor
    examiner: Examiner


@cache
def world() -> World:
    images = memgen.read_images(resize=SIDE)
    order = generator("which division").permutation(len(images))
    train, held_out = images.take(order[:IN_T]), images.take(order[IN_T : IN_T + IN_H])
    others = images.floats(order[IN_T + IN_H : IN_T + IN_H + SAMPLES])
    return World(train, held_out, others, Examiner(train, held_out, threshold=0.99))


@cache
def examined(share: float) -> Examination:
    """What memgen finds in 400 samples, some of which are copies of different training images, with a little noise."""
    here, copies = world(), round(share * SAMPLES)
    noisy = here.train.floats(slice(copies)) + 0.05 * torch.from_numpy(
        noise.normal(generator("noise"), (copies, 1, SIDE, SIDE))
    )
    return here.examiner.examine(torch.cat([noisy.float(), here.others[copies:]]), seed=0)


# The pictures


@styled
def exchangeability() -> Figure:
    """How many samples are nearest to T, over divisions that could have been made, and in the one that was."""
    figure = Figure(figsize=(8.4, 3.1), layout="constrained")
    in_train = world().examiner.pool.unit_in_train
    draws = generator("labels")
    for panel, share in zip(figure.subplots(1, 2, sharey=True), (0.0, 0.25), strict=True):
        nearest = examined(share).nearest
        could = [int(draws.permutation(in_train)[nearest].sum()) for _ in range(5000)]
        panel.hist(could, bins=np.arange(140, 262, 3), color=GRAY, alpha=0.6, label="other divisions into T and H")
        panel.axvline(int(in_train[nearest].sum()), color=ORANGE, label="the division that was made")
        panel.set(title=f"copies in {share:.0%} of the samples", xlabel=f"of {SAMPLES} samples, nearest to T")
        panel.set_ylim(0, 750)
    figure.axes[0].set_ylabel("of 5,000 divisions")
    panel.legend(loc="upper left", fontsize=8)
    return figure


@styled
def the_depth() -> Figure:
    """The depth of every point of a plane among ten images, of which five are in T."""
    draws = generator("plane")
    places = draws.uniform(-1, 1, (10, 2)) * [0.5, 0.3]
    points = np.column_stack([places, np.ones(10)])  # seen from the origin, so that vectors of length 1 fill a window
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    x, y = np.meshgrid(np.linspace(-0.55, 0.55, 440), np.linspace(-0.34, 0.34, 272))
    grid = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
    grid /= np.linalg.norm(grid, axis=1, keepdims=True)
    apart = np.linalg.norm(grid[:, None] - points, axis=2)
    order = np.argsort(apart, axis=1)
    between = np.linalg.norm(points[order[:, :1]] - points[order[:, 1:]], axis=2)
    deep = depth(np.take_along_axis(apart, order, axis=1), between).reshape(x.shape)
    figure = Figure(figsize=(7.2, 4.1), layout="constrained")
    panel: Axes = figure.subplots()
    shown = panel.contourf(x, y, deep, levels=np.linspace(0, 1, 11), cmap="Greys", extend="max")
    panel.contour(x, y, order[:, 0].reshape(x.shape), levels=np.arange(10) + 0.5, colors=INK, linewidths=0)
    border = np.zeros(x.shape, dtype=bool)
    number = order[:, 0].reshape(x.shape)
    border[:, 1:] |= number[:, 1:] != number[:, :-1]
    border[1:] |= number[1:] != number[:-1]
    panel.pcolormesh(x, y, np.where(border, 1.0, np.nan), cmap=ListedColormap([INK]), rasterized=True)
    for first, color, label in ((0, ORANGE, "image in T"), (5, BLUE, "image in H")):
        panel.scatter(*places[first : first + 5].T, s=45, color=color, edgecolor="white", zorder=3, label=label)
    panel.set(xticks=[], yticks=[], xlim=(-0.55, 0.55), ylim=(-0.34, 0.34))
    panel.grid(visible=False)
    panel.legend(loc="upper right", frameon=True)
    figure.colorbar(shown, ax=panel, label="depth")
    return figure


@styled
def competition() -> Figure:
    """The scores of the competitors, and the estimated share of false finds at every threshold."""
    found, in_train = examined(0.1).competition, world().examiner.pool.unit_in_train
    contest = found.score[found.competes & (found.score != 0)]
    n_t, n_h = int(in_train.sum()), int((~in_train).sum())
    thresholds, targets, decoys = standings(np.abs(contest), contest > 0)
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, 1.4])
    for side, color, label in ((contest > 0, ORANGE, "nearest in T"), (contest < 0, BLUE, "nearest in H")):
        up = 1 if color == ORANGE else -1
        above.vlines(np.abs(contest[side]), 0, up, color=color, linewidth=0.9, label=f"{label}: {side.sum()}")
    above.set(yticks=[], ylabel="competitors", ylim=(-1.2, 1.9))
    above.legend(loc="upper center", ncols=2)
    below.step(thresholds, n_t / n_h * (1 + decoys) / np.maximum(1, targets), where="post", color=INK)
    below.axhline(found.q, color=GRAY, linestyle="--")
    below.text(0.02, found.q * 1.12, "q = 5 %", color=GRAY)
    below.set(yscale="log", xlabel="depth", ylabel="estimated share\nof false finds", ylim=(0.015, 1.5))
    for panel in (above, below):
        panel.axvspan(found.threshold, 1.02, color=ORANGE, alpha=0.12)
    below.text(found.threshold + 0.01, 0.5, f"{found.discovered.sum()} training images\nare found")
    below.set_xlim(0, 1.02)
    return figure


@styled
def k_min() -> Figure:
    """The share of copies that the competition finds, against their number, for three ratios of T and H."""
    figure = Figure(figsize=(7.2, 3.3), layout="constrained")
    panel: Axes = figure.subplots()
    for ratio, color in ((1, BLUE), (4, ORANGE), (8, INK)):
        counts = np.unique(np.geomspace(4, 400, 56).astype(int))
        power = [np.mean([planted_scores(copies, ratio, draw) for draw in range(20)]) for copies in counts]
        least = compete(np.array([0]), np.array([1.0]), np.arange(500 * (ratio + 1)) < 500 * ratio).k_min
        panel.plot(counts, power, color=color, label=f"|T| : |H| = {ratio} : 1")
        panel.axvline(least, color=color, linestyle=":")
        panel.text(least * 1.03, 1.03, f"k_min = {least}", color=color, fontsize=9)
    panel.set(xscale="log", ylim=(-0.03, 1.12), xlabel="copies of different training images among the samples")
    panel.set_xticks([5, 10, 20, 40, 80, 160, 320], labels=["5", "10", "20", "40", "80", "160", "320"])
    panel.minorticks_off()
    panel.set_ylabel("share of copies found")
    panel.legend(loc="center right")
    return figure


def planted_scores(copies: int, ratio: int, draw: int) -> float:
    """The share of planted copies that is found, where copies lie deeper than the 300 other samples."""
    draws = noise.stream("docs/pictures k_min", draw, ratio, copies)
    in_train = np.arange(500 * (ratio + 1)) < 500 * ratio
    copied = draws.choice(500 * ratio, copies, replace=False)
    nearest = np.concatenate([copied, draws.integers(len(in_train), size=300)])
    magnitude = np.concatenate([draws.uniform(0.9, 1, copies), draws.uniform(0, 0.8, 300)])
    found = compete(nearest, magnitude, in_train)
    return float(np.isin(copied, nearest[found.discovered]).mean())


@styled
def groups() -> Figure:
    """How often a model that copies nothing looks suspicious, by images and by patients."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    panel: Axes = figure.subplots()
    by_image, by_patient = map(np.sort, zip(*patients(), strict=True))
    steps = np.arange(1, len(by_image) + 1) / len(by_image)
    panel.step(by_image, steps, color=ORANGE, where="post", label="images counted")
    panel.step(by_patient, steps, color=BLUE, where="post", label="patients counted")
    panel.plot([0, 1], [0, 1], color=GRAY, linestyle="--", label="what a p-value promises at most")
    panel.set(xlabel="p-value of the memorized fraction", ylabel="share of divisions with at most that")
    panel.legend(loc="lower right")
    return figure


def patients(divisions: int = 400, each: int = 25, count: int = 40) -> Iterator[tuple[float, float]]:
    """p-values by images and by patients where patients are divided as a whole and nothing is copied.

    A sample looks like some patient, and is nearest to any of this patient's images. Some patients are more common
    among the samples than others, as some kinds of images are.
    """
    draws = generator("patients")
    for _ in range(divisions):
        in_train = draws.permutation(count) < count // 2
        patient = draws.choice(count, size=200, p=draws.dirichlet(np.ones(count)))
        image = patient * each + draws.integers(each, size=200)
        by_image = memorized_fraction(image, np.repeat(in_train, each), seed=0, permutations=999).p
        by_patient = memorized_fraction(patient, in_train, seed=0, permutations=999).p
        assert by_image is not None
        assert by_patient is not None
        yield by_image, by_patient


@styled
def fraction() -> Figure:
    """The memorized fraction with its interval against the share of copies."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    panel: Axes = figure.subplots()
    shares = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    found = [examined(share).fraction for share in shares]
    middle = np.array([each.estimate for each in found])
    ends = np.array([(each.low, each.high) for each in found]).T
    panel.plot([0, 1], [0, 1], color=GRAY, linestyle="--", label="the truth")
    panel.errorbar(shares, middle, np.abs(ends - middle), fmt="o", color=ORANGE, label="memorized fraction, 95 %")
    share = [(each.estimate * (1 - each.chance) + each.chance) for each in found]  # P of its definition
    panel.plot(shares, share, "s", color=BLUE, label="share of samples nearest to T")
    panel.set(xlabel="share of samples that are copies", xlim=(-0.03, 1.03))
    panel.legend(loc="lower right")
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    "exchangeability": exchangeability,
    "depth": the_depth,
    "competition": competition,
    "k_min": k_min,
    "groups": groups,
    "fraction": fraction,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    given = parser.parse_args()
    if unknown := set(given.names) - set(PICTURES):
        parser.error(f"no picture of the name {min(unknown)}; there are {', '.join(PICTURES)}")
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.names or PICTURES:
        print(*save(PICTURES[name](), given.out / name, [".png"]))


if __name__ == "__main__":
    main()
