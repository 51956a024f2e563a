"""Sheets of images: samples beside each other, beside the training images nearest to them, and eigenvectors.

Every image is drawn as it is, each pixel a square of several, in rows that a page of tiles holds together; the numbers
between the rows are similarities from the run's tables. Nothing is searched or compared here.

Source: Kadkhodaie et al. 2024, Figs. 2 (top) and 3 to 5.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from numpy.typing import NDArray

from memgen.base import wording
from memgen.findings.restorations import Restoration
from memgen.report.style import BLUE, INK, ORANGE, styled


@dataclass(frozen=True, eq=False)
class Specimens:
    """The first K samples of a pair of denoisers at one N, each with its nearest image in the own training set.

    Attributes:
        n_train: size of each training set.
        samples_a: samples of model A, (K, C, H, W), uint8, or float in pixel units.
        nearest_a: nearest image of training set A to each, same shape.
        value_a: their similarity, (K,); NaN where unknown.
        samples_b: samples of model B from the same noise; None without a second model, and so for the rest.
        nearest_b: nearest image of training set B to each of these.
        value_b: their similarity, (K,).
        cross: similarity of samples_a[i] and samples_b[i], (K,).
    """

    n_train: int
    samples_a: NDArray[Any]
    nearest_a: NDArray[Any]
    value_a: NDArray[np.float64]
    samples_b: NDArray[Any] | None = None
    nearest_b: NDArray[Any] | None = None
    value_b: NDArray[np.float64] | None = None
    cross: NDArray[np.float64] | None = None


def specimens(
    run: Mapping[str, pa.Table],
    n_train: int,
    samples: Mapping[str, NDArray[Any]],
    image_of: Callable[[str], NDArray[Any]],
    count: int = 16,
    metric: str = "correlation",
) -> Specimens | None:
    """The first samples at one N, looked up in the run's tables (of the smallest training seed).

    Args:
        run: the tables neighbors and similarity by name.
        n_train: size of the training sets.
        samples: images by part, {"a": (M, C, H, W), "b": ...}; sample i of the tables is row i; part b may be missing.
        image_of: gives the training image (C, H, W) of a content id.
        count: how many samples to take.
        metric: measure to read from the tables.

    Returns:
        The specimens; None where the tables hold no nearest training images of part a at this N.
    """
    found = {part: _own_nearest(run, n_train, part, min(count, len(samples[part])), metric) for part in samples}
    if not found.get("a"):
        return None
    sides = {}
    for part, hits in found.items():
        if hits:
            nearest = np.stack([np.asarray(image_of(hits[i][0])) for i in sorted(hits)])
            values = np.array([hits[i][1] for i in sorted(hits)], dtype=np.float64)
            sides[part] = (np.asarray(samples[part][sorted(hits)]), nearest, values)
    if "b" not in sides:
        return Specimens(n_train, *sides["a"])
    rows = _where(run["similarity"], n_train=n_train, kind="same_noise", metric=metric) if "similarity" in run else []
    cross = {row["item_a"]: row["value"] for row in reversed(rows)}
    values = np.array([cross.get(i) for i in sorted(found["a"])], dtype=np.float64)
    return Specimens(n_train, *sides["a"], *sides["b"], values)


def _own_nearest(
    run: Mapping[str, pa.Table], n: int, part: str, count: int, metric: str
) -> dict[int, tuple[str, float | None]]:
    if "neighbors" not in run:
        return {}
    where = {"n_train": n, "part": part, "reference": f"train_{part}", "query_kind": "sample", "metric": metric}
    rows = [row for row in _where(run["neighbors"], rank=1, **where) if row["query"] < count]
    return {row["query"]: (row["reference_id"], row["value"]) for row in reversed(rows)}


def _where(table: pa.Table, **where: Any) -> list[dict[str, Any]]:
    """The rows with these values, those of the smallest training seed first."""
    for name, value in where.items():
        table = table.filter(pc.equal(table[name], value))
    return list(table.sort_by("train_seed").to_pylist())


@styled
def figure_images(pairs: Sequence[Specimens], noises: int = 3) -> Figure:
    """Closest in A, sample A, sample B, closest in B (rows) for each N (columns) and several noises; paper, Fig. 2 top.

    The similarity of two neighboring images stands between them: blue from model to model, orange to the training set.

    Args:
        pairs: specimens of each N, in ascending order.
        noises: how many samples to show.
    """
    noises = min(noises, *(len(pair.samples_a) for pair in pairs))
    one = any(pair.samples_b is None or pair.nearest_b is None for pair in pairs)
    names = ["closest in A", "sample A"] if one else ["closest in A", "sample A", "sample B", "closest in B"]
    page = _Page(pairs[0].samples_a.shape[-2:], len(pairs), 0.27)
    for noise in range(noises):
        for row, name in enumerate(names):
            page.row(name, 0.3 if row == 0 and noise else 0.0)
            for column, pair in enumerate(pairs):
                shown = (pair.nearest_a, pair.samples_a, pair.samples_b, pair.nearest_b)[row]
                values = (pair.value_a, pair.cross, pair.value_b, None)[row] if row + 1 < len(names) else None
                assert shown is not None
                value = None if values is None else float(values[noise])
                page.put(column, shown[noise], value, BLUE if row == 1 else ORANGE)
    return page.figure([f"N = {pair.n_train:,}" for pair in pairs])


@styled
def figure_samples(pairs: Sequence[Specimens], count: int = 12) -> Figure:
    """A contact sheet: the first samples of both models at each N; one column is one noise.

    Args:
        pairs: specimens of each N, in ascending order.
        count: samples of each model.
    """
    count = min(count, *(len(pair.samples_a) for pair in pairs))
    page = _Page(pairs[0].samples_a.shape[-2:], count, 0.06)
    for place, pair in enumerate(pairs):
        for part, images in (("A", pair.samples_a), ("B", pair.samples_b)):
            if images is not None:
                page.row(f"N = {pair.n_train:,}   {part}", 0.25 if part == "A" and place else 0.0)
                for column in range(min(count, len(images))):
                    page.put(column, images[column])
    return page.figure([])


COPIES_SHOWN = 12


@dataclass(frozen=True, eq=False)
class Copies:
    """What the test for copies found of one model: samples with the training images that they depend on.

    Attributes:
        name: of the model, for people.
        total: how many were found; the first K are shown.
        samples: (K, C, H, W), uint8, or float in pixel units.
        images: the training images, same shape.
        values: correlation of the two, (K,); NaN where undefined.
    """

    name: str
    total: int
    samples: NDArray[Any]
    images: NDArray[Any]
    values: NDArray[np.float64]


@styled
def figure_copies(found: Sequence[Copies]) -> Figure:
    """Samples above the training images that they depend on, with the correlation of the two between them.

    Args:
        found: of each model with discoveries.
    """
    page = _Page(found[0].samples.shape[-2:], COPIES_SHOWN, 0.27)
    for place, copies in enumerate(found):
        page.row(f"{copies.name}\n{len(copies.samples)} of {copies.total} found", 0.2 if place else 0.0)
        for column, (image, value) in enumerate(zip(copies.samples, copies.values, strict=True)):
            page.put(column, image, float(value), ORANGE)
        page.row("training image", 0.0)
        for column, image in enumerate(copies.images):
            page.put(column, image)
    return page.figure([])


RESTORED_SHOWN = 12


@dataclass(frozen=True, eq=False)
class RestoredBy:
    """What one model made of measured images.

    Attributes:
        name: of the model, for people.
        images: the first K restored images, (K, C, H, W), float in pixel units.
        values: their PSNR, dB, (K,); NaN where infinite.
        summary: over all restored images.
    """

    name: str
    images: NDArray[Any]
    values: NDArray[np.float64]
    summary: Restoration


@dataclass(frozen=True, eq=False)
class Restored:
    """Images of one task: as they are, as they were measured, and as models restored them.

    Attributes:
        label: the task and its amount.
        clean: the first K images, (K, C, H, W), float in pixel units.
        measured: what was measured of them, as images, same shape.
        models: what each model made of them, smallest training set first.
    """

    label: str
    clean: NDArray[Any]
    measured: NDArray[Any]
    models: Sequence[RestoredBy]

    @property
    def dimension(self) -> int:
        """d = C H W."""
        return math.prod(self.clean.shape[1:])


@styled
def figure_restored(found: Restored) -> Figure:
    """Clean, measured, and restored by each model, with the PSNR below; one column is one image.

    Args:
        found: the images of one task.
    """
    page = _Page(found.clean.shape[-2:], RESTORED_SHOWN, 0.27)
    for name, images in (("clean", found.clean), ("measured", found.measured)):
        page.row(name, 0.0)
        for column, image in enumerate(images):
            page.put(column, image)
    for place, model in enumerate(found.models):
        page.row(model.name, 0.0 if place % 2 else 0.15)
        for column, (image, value) in enumerate(zip(model.images, model.values, strict=True)):
            page.put(column, image, float(value), unit="dB")
    return page.figure([])


OWN_SHOWN = 8  # of a person's own images
EIGENVECTORS = (1, 2, 3, 4, 5, 6, 10, 20, 40, 64)


@dataclass(frozen=True, eq=False)
class Bases:
    """The bases in which the two denoisers of one N, or one imported denoiser, shrink the same noisy image.

    Attributes:
        name: the N, or the name of the imported denoiser, for people.
        sigma: noise level, pixel units.
        clean: (C, H, W).
        noisy: (C, H, W).
        denoised: by part, a and b, (2, C, H, W), or of one denoiser, (1, C, H, W), and so for the rest.
        eigenvalues: (2, k), falling.
        eigenvectors: the first of them, (2, K, C, H, W).
    """

    name: str
    sigma: float
    clean: NDArray[Any]
    noisy: NDArray[Any]
    denoised: NDArray[Any]
    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[Any]


@styled
def figure_bases(found: Sequence[Bases]) -> Figure:
    """A noisy image, what denoisers make of it, and the eigenvectors of their Jacobians; paper, Figs. 3 to 5.

    Gray is 0 in an eigenvector, its largest value is white or black, and its sign is that of the clean image's
    coefficient. The number below it is its eigenvalue.

    Args:
        found: one for each model, or two of one N, and noise level.
    """
    shown = [k for k in EIGENVECTORS if k <= min(len(bases.eigenvectors[0]) for bases in found)]
    page = _Page(found[0].noisy.shape[-2:], 3 + len(shown), 0.27)
    for place, bases in enumerate(found):
        twins = ["   A", "   B"] if len(bases.denoised) > 1 else [""]
        for part, twin in enumerate(twins):
            page.row(f"{bases.name}{twin}\n$\\sigma$ = {bases.sigma:g}", 0.2 if place and not part else 0.0)
            for column, image in enumerate((bases.clean, bases.noisy, bases.denoised[part])):
                page.put(column, image)
            for column, k in enumerate(shown, start=3):
                vector = _signed(bases.eigenvectors[part, k - 1], bases.clean)
                page.put(column, vector, float(bases.eigenvalues[part, k - 1]))
    return page.figure(["$x$", "$y$", "$f(y)$", *(f"$e_{{{k}}}$" for k in shown)])


def _signed(vector: NDArray[Any], clean: NDArray[Any]) -> NDArray[Any]:
    """An eigenvector as an image: 0 is gray, and it is turned to where the clean image is."""
    turned = vector if np.vdot(vector, clean) >= 0 else -vector
    scaled: NDArray[Any] = 0.5 + turned / (2 * np.abs(turned).max())
    return scaled


class _Page:
    """Rows of image tiles on one white canvas; a unit is the width of a tile."""

    def __init__(self, size: tuple[int, int], columns: int, gap: float) -> None:
        # Every pixel becomes a square of several, so that no viewer smooths it.
        self.scale = max(1, round(128 / size[1]))
        self.width, self.height = size[1] * self.scale, size[0] * self.scale
        self.columns, self.gap = columns, gap
        self.top = 0.0
        self.tops: list[float] = []
        self.names: list[str] = []
        self.tiles: list[tuple[int, int, NDArray[np.uint8]]] = []
        self.texts: list[tuple[float, float, str, str]] = []

    def row(self, name: str, space: float) -> None:
        """Begin a row, `space` further down than usual."""
        if self.tops:
            self.top += self.height / self.width + self.gap + space
        self.tops.append(self.top)
        self.names.append(name)

    def put(
        self, column: int, image: NDArray[Any], value: float | None = None, color: str = INK, unit: str = ""
    ) -> None:
        """Place an image in the current row, with a number below it."""
        self.tiles.append((len(self.tops) - 1, column, _enlarged(image, self.scale)))
        if value is not None and not math.isnan(value):
            middle = self.top + self.height / self.width + self.gap / 2
            self.texts.append((column * 1.08 + 0.5, middle, wording.number(value, unit), color))

    def figure(self, titles: Sequence[str]) -> Figure:
        """The canvas with row names on the left, column titles and numbers."""
        across, down = self.columns * 1.08 - 0.08, self.top + self.height / self.width
        down = max([down, *(middle + self.gap / 2 for _, middle, _, _ in self.texts)])  # numbers below the last row
        canvas = np.full((round(down * self.width), round(across * self.width), 3), 255, dtype=np.uint8)
        for row, column, tile in self.tiles:
            y, x = round(self.tops[row] * self.width), round(column * 1.08 * self.width)
            canvas[y : y + self.height, x : x + self.width] = tile
        left, head, inch = 1.25, 0.4 if titles else 0.05, min(0.85, 8.0 / across)
        figure = Figure(figsize=(across * inch + left + 0.1, down * inch + head + 0.1))
        width, height = figure.get_size_inches()
        axes = figure.add_axes((left / width, 0.1 / height, across * inch / width, down * inch / height))
        axes.imshow(canvas, extent=(0, across, down, 0), interpolation="none")
        axes.set_axis_off()
        for top, name in zip(self.tops, self.names, strict=True):
            axes.text(-0.12, top + self.height / self.width / 2, name, ha="right", va="center", fontsize=9, color=INK)
        for column, title in enumerate(titles):
            axes.text(
                column * 1.08 + 0.5, -0.1, title, ha="center", va="bottom", fontsize=9.5, weight="bold", color=INK
            )
        for across, down, text, color in self.texts:
            axes.text(across, down, text, ha="center", va="center", fontsize=8, color=color)
        return figure


def _enlarged(image: NDArray[Any], scale: int) -> NDArray[np.uint8]:
    """An image (C, H, W) as 8-bit RGB, clipped to [0, 1], every pixel a square."""
    pixels = image if image.dtype == np.uint8 else np.round(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    rgb = pixels if len(pixels) == 3 else np.repeat(pixels[:1], 3, axis=0)
    return rgb.transpose(1, 2, 0).repeat(scale, axis=0).repeat(scale, axis=1)
