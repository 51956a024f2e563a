"""Sheets of images: samples beside their nearest training images, copies, restored images, and eigenvectors.

Each pixel is drawn as a square of one color, without smoothing. The numbers below the images come from the tables of
the run: nothing is searched or compared here.

Source: Kadkhodaie et al. 2024, Figs. 2 (top), 3, 4 and 5.
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
from memgen.report.style import BLUE, INK, ORANGE, drawable, styled


@dataclass(frozen=True, eq=False)
class Specimens:
    """The first K samples of the two models at one N, each with its nearest image in its model's training set.

    Attributes:
        n_train: size of each training set.
        samples_a: samples of model A, (K, C, H, W), uint8, or float in pixel units.
        nearest_a: the nearest image of training set A to each of these, same shape.
        value_a: the similarity of sample and nearest image, (K,); NaN where it is not known.
        samples_b: samples of model B from the same noise. This and the following are None without a second model.
        nearest_b: the nearest image of training set B to each of these.
        value_b: the similarity of sample and nearest image, (K,).
        cross: the similarity of samples_a[i] and samples_b[i], (K,).
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
    """The first samples at one N with their nearest training images, looked up in the run's tables.

    Where several training seeds were run, the tables of the smallest seed are used.

    Args:
        run: the tables neighbors and similarity by name; either may be missing.
        n_train: size of each training set, images.
        samples: samples by part, {"a": (M, C, H, W), "b": ...}, where row i is sample i of the tables. Part b may be
            missing.
        image_of: returns the training image (C, H, W) with a given content id.
        count: largest number of samples to return.
        metric: the measure of similarity to read from the tables.

    Returns:
        The samples; None if the tables hold no nearest training images for part a at this N.
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
    """The rows that have these values, those of the smallest training seed first."""
    for name, value in where.items():
        table = table.filter(pc.equal(table[name], value))
    return list(table.sort_by("train_seed").to_pylist())


@styled
def figure_first(pairs: Sequence[Specimens]) -> Figure:
    """The first sample of model A at each N, with its nearest training image above and model B's sample below.

    The numbers between the images are their similarities, as in `figure_images`.

    Args:
        pairs: the samples of each N, in ascending order.
    """
    return _neighbors(pairs, 1, ("nearest in A", "sample A", "sample B"))


@styled
def figure_images(pairs: Sequence[Specimens], noises: int = 3) -> Figure:
    """The two models' samples from the same noise, each beside its nearest training image, one column for each N.

    The rows are: nearest image in training set A, sample of A, sample of B, nearest image in training set B; and so on
    for each noise. The number between two images is their similarity: blue between the models, orange between a sample
    and its training image. If any N has no second model, there are rows for A alone.

    Args:
        pairs: the samples of each N, in ascending order.
        noises: largest number of noises to show.

    Source: Kadkhodaie et al. 2024, Fig. 2 (top).
    """
    return _neighbors(pairs, noises, ("nearest in A", "sample A", "sample B", "nearest in B"))


def _neighbors(pairs: Sequence[Specimens], noises: int, names: Sequence[str]) -> Figure:
    noises = min(noises, *(len(pair.samples_a) for pair in pairs))
    if any(pair.samples_b is None or pair.nearest_b is None for pair in pairs):
        names = names[:2]
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
    """A contact sheet of the first samples of both models at each N; each column is one noise.

    Args:
        pairs: the samples of each N, in ascending order.
        count: largest number of samples to show for each model.
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
    """The samples of one model that are closest to training images, those first that a test for copies reports.

    Attributes:
        name: label of the model shown to the reader.
        reported: number of samples that a test reports; the first K pairs are shown.
        samples: (K, C, H, W), uint8, or float in pixel units.
        images: the training images, same shape.
        values: correlation of each sample with its training image, (K,); NaN where undefined.
    """

    name: str
    reported: int
    samples: NDArray[Any]
    images: NDArray[Any]
    values: NDArray[np.float64]


@styled
def figure_copies(found: Sequence[Copies]) -> Figure:
    """Samples above the training images that they are closest to, with their correlation between them.

    Args:
        found: one entry for each model.
    """
    page = _Page(found[0].samples.shape[-2:], COPIES_SHOWN, 0.27)
    for place, copies in enumerate(found):
        page.row(f"{copies.name}\n{copies.reported:,} reported", 0.2 if place else 0.0)
        for column, (image, value) in enumerate(zip(copies.samples, copies.values, strict=True)):
            page.put(column, image, float(value), ORANGE)
        page.row("training image", 0.0)
        for column, image in enumerate(copies.images):
            page.put(column, image)
    return page.figure([])


RESTORED_SHOWN = 12


@dataclass(frozen=True, eq=False)
class RestoredBy:
    """Images that one model restored.

    Attributes:
        name: label of the model shown to the reader.
        images: the first K restored images, (K, C, H, W), float in pixel units.
        values: PSNR of each, dB, (K,); NaN where infinite.
        summary: means over all restored images.
    """

    name: str
    images: NDArray[Any]
    values: NDArray[np.float64]
    summary: Restoration


@dataclass(frozen=True, eq=False)
class Restored:
    """Images of one restoration task: clean, measured, and restored by each model.

    Attributes:
        label: name of the task and its amount.
        clean: the first K images, (K, C, H, W), float in pixel units.
        measured: the measurement of each, drawn as an image, same shape.
        models: the images that each model restored, smallest training set first.
    """

    label: str
    clean: NDArray[Any]
    measured: NDArray[Any]
    models: Sequence[RestoredBy]

    @property
    def dimension(self) -> int:
        """The number of pixel values of an image, d = C H W."""
        return math.prod(self.clean.shape[1:])


@styled
def figure_restored(found: Restored) -> Figure:
    """Clean images, their measurements, and what each model restored, with the PSNR below; each column is one image.

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


OWN_SHOWN = 8  # images that a user gave
EIGENVECTORS = (1, 2, 3, 4, 5, 6, 10, 20, 40, 64)


@dataclass(frozen=True, eq=False)
class Bases:
    """The bases in which the two denoisers of one N, or one imported denoiser, shrink the same noisy image.

    The first dimension M of the arrays is 2 for the denoisers trained on parts a and b, and 1 for an imported one.

    Attributes:
        name: label shown to the reader: the N, or the name of the imported denoiser.
        sigma: noise level, pixel units.
        clean: the clean image, (C, H, W).
        noisy: the noisy image, (C, H, W).
        denoised: the denoised images, (M, C, H, W).
        eigenvalues: in descending order, (M, k).
        eigenvectors: the first K of them as images, (M, K, C, H, W).
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
    """A noisy image, the denoised images, and eigenvectors of the denoisers' Jacobians with their eigenvalues below.

    In an eigenvector, gray is 0 and the value of largest magnitude is white or black. Its sign is chosen so that the
    coefficient of the clean image is positive.

    Args:
        found: one entry for each N or imported denoiser, and each noise level.

    Source: Kadkhodaie et al. 2024, Figs. 3, 4 and 5.
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
                vector = signed(bases.eigenvectors[part, k - 1], bases.clean)
                page.put(column, vector, float(bases.eigenvalues[part, k - 1]))
    return page.figure(["$x$", "$y$", "$f(y)$", *(f"$e_{{{k}}}$" for k in shown)])


def signed(vector: NDArray[Any], clean: NDArray[Any]) -> NDArray[Any]:
    """An eigenvector as an image in [0, 1]: 0 becomes gray, and the inner product with the clean image is positive."""
    turned = vector if np.vdot(vector, clean) >= 0 else -vector
    scaled: NDArray[Any] = 0.5 + turned / (2 * np.abs(turned).max())
    return scaled


NEIGHBORS_SHOWN = 16  # images that a user searched for
_LONGEST = 16  # characters of a name that fit beside a row


@dataclass(frozen=True, eq=False)
class Neighbors:
    """An image that a person gave, and the images found nearest to it.

    Attributes:
        name: of the image, as its source.
        image: (C, H, W), uint8, or float in pixel units.
        nearest: the neighbors, nearest first, (k, C, H, W).
        values: their similarity or distance, (k,); NaN where undefined.
    """

    name: str
    image: NDArray[Any]
    nearest: NDArray[Any]
    values: NDArray[np.float64]


@styled
def figure_neighbors(found: Sequence[Neighbors]) -> Figure:
    """Each image of a person in a row with its neighbors, their values below them.

    Args:
        found: one entry for each image.
    """
    page = _Page(found[0].image.shape[-2:], 1 + len(found[0].nearest), 0.27)
    for neighbors in found:
        page.row(drawable(_shortened(neighbors.name)), 0.0)
        page.put(0, neighbors.image)
        for column, (image, value) in enumerate(zip(neighbors.nearest, neighbors.values, strict=True), start=1):
            page.put(column, image, float(value), ORANGE)
    return page.figure(["yours", *(f"nearest {rank}" for rank in range(1, 1 + len(found[0].nearest)))])


def _shortened(name: str) -> str:
    """A name without its middle where it is too long for the margin."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2 - 1]}…{name[-_LONGEST // 2 :]}"


class _Page:
    """Rows of image tiles on one white canvas. Lengths are in widths of a tile."""

    def __init__(self, size: tuple[int, int], columns: int, gap: float) -> None:
        # Each pixel becomes a square of several, so that no viewer smooths it.
        self.scale = max(1, round(128 / size[1]))
        self.width, self.height = size[1] * self.scale, size[0] * self.scale
        self.columns, self.gap = columns, gap
        self.top = 0.0
        self.tops: list[float] = []
        self.names: list[str] = []
        self.tiles: list[tuple[int, int, NDArray[np.uint8]]] = []
        self.texts: list[tuple[float, float, str, str]] = []

    def row(self, name: str, space: float) -> None:
        """Begin a row, with extra space above it."""
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
        """The canvas with row names on its left, column titles above it, and numbers below the images."""
        across, down = self.columns * 1.08 - 0.08, self.top + self.height / self.width
        down = max(
            [down, *(middle + self.gap / 2 for _, middle, _, _ in self.texts)]
        )  # room for numbers below the last row
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
    """An image (C, H, W) as 8-bit RGB (H * scale, W * scale, 3), clipped to [0, 1]; each pixel becomes a square."""
    pixels = image if image.dtype == np.uint8 else np.round(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    rgb = pixels if len(pixels) == 3 else np.repeat(pixels[:1], 3, axis=0)
    return rgb.transpose(1, 2, 0).repeat(scale, axis=0).repeat(scale, axis=1)
