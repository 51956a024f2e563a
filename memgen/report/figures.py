"""Figures of measurements by matplotlib: denoising curves, similarities, the transition, noise levels, and slopes.

Each function takes tables and returns a matplotlib Figure. It opens no window and does not change matplotlib's global
settings. Bars and bands are 95 % intervals; a point without a bar has no interval. Blue stands for the comparison of
two models and orange for the comparison with the training set, as in the paper.

Source: Kadkhodaie et al. 2024, Figs. 1, 2, 4, 5, 15 and 16.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memgen.base import schemas, wording
from memgen.base.estimates import Estimate
from memgen.base.intervals import bootstrap
from memgen.findings import labels, slopes, transition
from memgen.report import similarities
from memgen.report.style import BLUE, GRAY, INK, ORANGE, band, color_sequence, legend, styled


@dataclass(frozen=True)
class Level:
    """The mean over images at one noise level, with its interval; `label` names the curve that it belongs to."""

    label: str
    sigma: float
    mean: Estimate


def levels(table: pa.Table, column: str, seed: int = 0) -> list[Level]:
    """The mean of a column at every N and noise level, with an interval over images.

    Args:
        table: a PSNR table of one kind of images.
        column: the column to average; nulls are left out.
        seed: seed of the bootstrap.

    Returns:
        One record for each curve and noise level, in ascending order of N. All cells of one N share a curve; every
        other subject has its own, after those. Noise draws and denoisers are averaged for each image first, because
        images are the independent units.
    """
    defined = table.filter(pc.is_valid(table[column]))
    rows = zip(*(defined[name].to_pylist() for name in ("role", "n_train", "subject")), strict=True)
    named = [
        (float(n) if role == "cell" else math.inf, wording.subject_label(role, n, subject)) for role, n, subject in rows
    ]
    keys = pa.table(
        {
            "order": pa.array([order for order, _ in named], pa.float64()),
            "label": pa.array([label for _, label in named], pa.string()),
            "sigma": defined["sigma"],
            "subject": defined["subject"],
            "image": defined["image_id"],
            "value": defined[column],
        }
    )
    means = keys.group_by(["order", "label", "sigma", "subject", "image"], use_threads=False).aggregate(
        [("value", "mean")]
    )
    curves: dict[tuple[float, str, float], dict[str, dict[str, float]]] = {}
    for row in means.to_pylist():
        of_denoiser = curves.setdefault((row["order"], row["label"], row["sigma"]), {})
        of_denoiser.setdefault(row["subject"], {})[row["image"]] = row["value_mean"]
    return [Level(label, sigma, _mean(found, seed)) for (_, label, sigma), found in sorted(curves.items())]


def _mean(found: Mapping[str, Mapping[str, float]], seed: int) -> Estimate:
    """The mean over images of the mean over denoisers; no interval where each denoiser has a single image."""
    images = sorted({image for values in found.values() for image in values})
    each = np.array([np.mean([values[image] for values in found.values() if image in values]) for image in images])
    if all(len(values) == 1 for values in found.values()):
        return Estimate.of(float(each.mean()), n=1)
    return bootstrap(each, lambda draws: draws.mean(axis=1), seed, resamples=1000)


@dataclass(frozen=True)
class Denoising:
    """What denoising curves are drawn of.

    Attributes:
        curves: the points of all curves, for training images (train) and held-out images (holdout).
        names: of the curves.
        references: names of those that belong to known denoisers.
        colors: of the others, as matplotlib has them.
        inputs: input PSNR of all points, dB, ascending.
        limits: smallest and largest output PSNR shown, dB.
    """

    curves: Mapping[str, Sequence[Level]]
    names: Sequence[str]
    references: Sequence[str]
    colors: Mapping[str, Any]
    inputs: Sequence[float]
    limits: tuple[float, float]


def denoising(psnr: pa.Table) -> Denoising:
    """What the denoising curves of a PSNR table are drawn of. Baselines are left out: they belong to the slopes."""
    psnr = psnr.filter(pc.field("role") != "baseline")
    curves = {
        kind: levels(psnr.filter(pc.equal(psnr["kind"], kind)), "output_psnr_db") for kind in ("train", "holdout")
    }
    every = [level for found in curves.values() for level in found]
    names = list(dict.fromkeys(level.label for level in every))
    references = [wording.KNOWN_SUBJECTS[name] for name in schemas.REFERENCES.values()]
    trained = [name for name in names if name not in references]
    colors = dict(zip(trained, color_sequence(len(trained)), strict=True))
    inputs = sorted({-20 * math.log10(level.sigma) for level in every}) or [0.0, 1.0]
    heights = [level.mean.estimate for level in every if level.mean.estimate is not None] or [0.0, 1.0]
    return Denoising(curves, names, references, colors, inputs, (min(heights) - 1.5, max(heights) + 1.5))


@styled
def figure_psnr(psnr: pa.Table, dimension: int | None = None) -> Figure:
    """Output against input PSNR on training images (left) and held-out images (right), one curve for each N.

    Args:
        psnr: a PSNR table. Baselines are left out: they belong to the figure of slopes.
        dimension: d = C H W. It places the dotted line of the optimum for one image of unknown contrast; without it
            there is no such line.

    Source: Kadkhodaie et al. 2024, Fig. 1.
    """
    found = denoising(psnr)
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, (kind, title) in zip(
        panels, (("train", "Training images"), ("holdout", "Held-out images")), strict=True
    ):
        for label in found.names:
            points = [level for level in found.curves[kind] if level.label == label]
            if points:
                x, means = [-20 * math.log10(p.sigma) for p in points], [p.mean for p in points]
                band(panel, x, means, found.colors.get(label, INK), label, "-" if label in found.colors else "-.")
        panel.set_title(title)
        panel.set_xlabel("input PSNR (dB)")
    panels[0].set_ylabel("output PSNR (dB)")
    inputs = np.array(found.inputs)
    panels[0].set_ylim(found.limits)
    for panel in panels:
        panel.plot(inputs, inputs, color=GRAY, linewidth=1, linestyle="--", label="identity", zorder=1)
    if dimension:
        label = "identity + 10 log10 d"
        panels[0].plot(
            inputs, inputs + 10 * math.log10(dimension), color=GRAY, linewidth=1.2, linestyle=":", label=label, zorder=1
        )
    legend(figure, panels, "outside right center")
    return figure


@styled
def figure_histograms(run: Mapping[str, pa.Table], metric: str = "correlation") -> Figure:
    """Histograms of similarity between the two models and to the nearest training image, one panel for each N.

    Imported subjects have a panel each, after those of the sweep. Each histogram has a reference: samples from
    different noise, and held-out images.

    Args:
        run: the tables similarity and neighbors by name; either may be missing.
        metric: the measure of similarity to show.

    Source: Kadkhodaie et al. 2024, Fig. 2 (bottom).
    """
    values_of = similarities.values(run, metric)
    shown = sorted({panel for panel, _ in values_of}, key=labels.panel_order)
    rows = max(1, math.ceil(len(shown) / 4))
    columns = max(1, math.ceil(len(shown) / rows))
    figure = Figure(figsize=(max(9.0, 2.5 * columns), 2.1 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    every = np.concatenate(list(values_of.values()) or [np.array([0.0, 1.0])])
    low, high = float(np.quantile(every, 0.002)), float(every.max())
    bins = np.linspace(low, max(high, low + 1e-3), 41)
    for panel, key in zip(axes, shown, strict=False):
        for kind, (label, color, drawing) in _HISTOGRAMS.items():
            values = np.clip(values_of.get((key, kind), np.empty(0)), bins[0], bins[-1])
            if len(values):
                panel.hist(
                    values, bins, weights=np.full(len(values), 1 / len(values)), label=label, color=color, **drawing
                )
                if drawing["histtype"] == "stepfilled":
                    panel.axvline(float(np.median(values)), color=color, linewidth=1.2)
        panel.set_title(labels.panel(key))
        panel.grid(visible=False)
        panel.set_yticks([])
        panel.xaxis.set_tick_params(labelbottom=True)
    for panel in axes[len(shown) :]:
        panel.set_axis_off()
    figure.supxlabel(f"{metric} of two images", fontsize=10)
    figure.supylabel("share of pairs", fontsize=10)
    legend(figure, axes, "outside upper center", 2)
    return figure


_FILLED = {"histtype": "stepfilled", "alpha": 0.55}
_HISTOGRAMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "different": (similarities.OTHER_NOISE, GRAY, {"histtype": "step", "linewidth": 1.3}),
    "holdout": (
        similarities.HELD_OUT,
        INK,
        {"histtype": "step", "linestyle": "--"},
    ),
    "nearest": (similarities.NEAREST, ORANGE, _FILLED),
    "same": (similarities.SAME_NOISE, BLUE, _FILLED),
}


@styled
def figure_transition(table: pa.Table) -> Figure:
    """Similarities, memorized fraction, PSNR gap and bits against N, with intervals and transition points.

    Args:
        table: a TRANSITION table.
    """
    rows = transition.estimates(table)
    sizes = sorted({key for key, _ in rows if isinstance(key, int)})
    figure = Figure(figsize=(9.5, 7.6), layout="constrained")
    similarity, fraction, gap, apart = figure.subplots(2, 2, sharex=True).ravel()
    for panel, title, unit, curves in (
        (similarity, "Median similarity of two images", None, _SIMILARITIES),
        (
            fraction,
            "Memorized fraction",
            "share of samples, above chance",
            {"memorized_fraction": ("", ORANGE, "-")},
        ),
        (gap, "PSNR on training images minus held-out images", "dB", {"psnr_gap": ("", INK, "-")}),
        (apart, "Difference between the two score functions", "bits per dimension", {"bits": ("", BLUE, "-")}),
    ):
        measured = False
        for quantity, (label, color, line) in curves.items():
            found = [(n, rows[n, quantity]) for n in sizes if rows[n, quantity].estimate is not None]
            measured |= bool(found)
            if found:
                band(panel, [n for n, _ in found], [row for _, row in found], color, label, linestyle=line)
        panel.set_title(title)
        panel.set_ylabel(unit or rows[sizes[0], "cross_same"].unit if sizes else "")
        if not measured:
            panel.text(0.5, 0.5, "not measured", transform=panel.transAxes, ha="center", color=GRAY)
    gap.axhline(0, color=GRAY, linewidth=1, linestyle="--")
    for level in (0, 0.5, 1):
        fraction.axhline(level, color=GRAY, linewidth=1, linestyle="--" if level == 0.5 else ":", zorder=1)
    if any(rows[n, "bits"].estimate for n in sizes):
        apart.set_yscale("log")
    _mark(similarity, rows.get((None, "N_cross")), r"$N^*_\mathrm{cross}$", sizes)
    _mark(fraction, rows.get((None, "N_half")), r"$N^*_\mathrm{half}$", sizes)
    for panel in (similarity, fraction, gap, apart):
        _log_sizes(panel, sizes)
    handles, texts = similarity.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper center", ncols=2)
    return figure


_SIMILARITIES = {
    "nearest_own": (similarities.NEAREST, ORANGE, "-"),
    "cross_same": (similarities.SAME_NOISE, BLUE, "-"),
    "nearest_holdout_to_train": (similarities.HELD_OUT, "#b98a4e", "--"),
    "cross_different": (similarities.OTHER_NOISE, "#8fb3d1", "--"),
}


def _mark(panel: Axes, point: Estimate | None, name: str, sizes: Sequence[int]) -> None:
    """Mark a transition point: a line, its interval as a shaded strip, and its name at the foot of the line."""
    if point is None or point.estimate is None:
        return
    panel.axvline(point.estimate, color=INK, linewidth=1)
    if point.low is not None and point.high is not None:
        panel.axvspan(point.low, point.high, color=INK, alpha=0.1, linewidth=0)
    left = point.estimate < math.sqrt(sizes[0] * sizes[-1])
    panel.annotate(
        f"{name} = {wording.number(point.estimate, 'images')}",
        (point.estimate, 0.03),
        xycoords=("data", "axes fraction"),
        xytext=(5 if left else -5, 0),
        textcoords="offset points",
        ha="left" if left else "right",
        va="bottom",
        fontsize=9.5,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        zorder=1.5,  # below the curves, which it must not hide
    )


def _log_sizes(panel: Axes, sizes: Sequence[int]) -> None:
    panel.set_xscale("log")
    panel.set_xticks(list(sizes), [f"{n:,}" for n in sizes])
    panel.set_xticks([], minor=True)
    panel.set_xlabel("training images N")
    panel.xaxis.set_tick_params(labelbottom=True)
    if len(sizes) == 1:
        panel.set_xlim(sizes[0] / 2, sizes[0] * 2)


@styled
def figure_levels(table: pa.Table) -> Figure:
    """What was measured at each noise level, one panel for each quantity and one curve for each N or subject.

    Args:
        table: a LEVELS table.
    """
    measured = set(table["quantity"].to_pylist())
    drawn = {name: panel for name, panel in _LEVELS.items() if name in measured or name not in _LEVELS_OF_OPTIMUM}
    down = len(drawn) // 2
    figure = Figure(figsize=(9.5, 3.8 * down), layout="constrained")
    panels = figure.subplots(down, 2, sharex=True).ravel()
    keys = [row["subject"] if row["n_train"] is None else row["n_train"] for row in table.to_pylist()]
    table = table.append_column("key", pa.array([labels.panel(key) for key in keys], pa.string()))
    names = [labels.panel(key) for key in sorted(set(keys), key=labels.panel_order)]
    colors = dict(zip(names, color_sequence(len(names)), strict=True))
    for panel, (quantity, (title, unit, scale, line)) in zip(panels, drawn.items(), strict=True):
        found = table.filter(pc.equal(table["quantity"], quantity)).to_pylist()
        for label in names:
            rows = [row for row in found if row["key"] == label]
            intervals = [Estimate.of(row["estimate"], row["low"], row["high"], row["n"]) for row in rows]
            if rows:
                band(panel, [row["sigma"] for row in rows], intervals, colors[label], label)
        panel.set_xscale("log")
        if any(row["estimate"] for row in found):
            panel.set_yscale(scale)
        else:
            panel.text(0.5, 0.5, "not measured", transform=panel.transAxes, ha="center", color=GRAY)
        if scale == "linear" and len(line) == 2:  # the ratio has no bound where its denominator is small
            panel.set_ylim(-0.1, min(2.0, max(1.1, panel.get_ylim()[1])))
        for level in line:
            panel.axhline(level, color=GRAY, linewidth=1, linestyle="--")
        panel.set_title(title)
        panel.set_ylabel(unit)
        panel.set_xlabel(r"noise level $\sigma$ (pixel units)")
        panel.xaxis.set_tick_params(labelbottom=True)
    legend(figure, panels, "outside upper center", min(8, max(1, len(names))))
    return figure


# Title, unit, scale of the axis, and the levels to compare with.
_LEVELS: dict[str, tuple[str, str, str, tuple[float, ...]]] = {
    "disagreement": ("Disagreement V of the models on held-out images", "squared pixel units", "log", ()),
    "bits_density": (
        "Bits between the models on their noised samples",
        r"bits per dimension and unit of $\ln \sigma$",
        "log",
        (),
    ),
    "to_empirical": ("Distance to pure memorization", "0 = own training set, 1 = other set", "linear", (0, 1)),
    "to_linear": ("Held-out PSNR minus best linear denoiser", "dB", "linear", (0,)),
    "to_optimum": ("Held-out PSNR minus exact optimum", "dB", "linear", (0,)),
    "excess_error": ("Error above that of the exact optimum", "share of the squared error", "linear", (0,)),
}
_LEVELS_OF_OPTIMUM = ("to_optimum", "excess_error")  # left out where no optimum is known


@styled
def figure_slopes(table: pa.Table, psnr: pa.Table) -> Figure:
    """Held-out PSNR with fitted lines (left), and the slopes of these lines (right), both with the slope in theory.

    Args:
        table: a SLOPES table.
        psnr: the PSNR table that the slopes were computed from.

    Source: Kadkhodaie et al. 2024, Figs. 1, 2, 4, 5, 15 and 16.
    """
    rows = table.to_pylist()
    figure = Figure(figsize=(9.5, 4.6), layout="constrained")
    curves, estimates = figure.subplots(1, 2, width_ratios=(1.5, 1))
    held = psnr.filter(pc.equal(psnr["kind"], "holdout"))
    measured: dict[str, list[Level]] = {}
    for level in levels(held, "output_psnr_db"):
        measured.setdefault(level.label, []).append(level)
    trained = [slopes.label(row) for row in rows if row["n_train"] is not None]
    colors = dict(zip(trained, color_sequence(len(trained)), strict=True)) | _BASELINES
    for place, row in enumerate(rows):
        name, color = slopes.label(row), colors.get(slopes.label(row), INK)
        points = measured.get(name, [])
        x, y = [-20 * math.log10(p.sigma) for p in points], [p.mean.estimate for p in points]
        curves.plot(x, y, color=color, linestyle="", marker="o", markersize=4)
        if row["slope"] is not None:
            ends = np.array([row["low_db"], row["high_db"]])
            inputs = np.array([i for i in x if ends[0] - 1e-6 <= i <= ends[1] + 1e-6])
            curves.plot(ends, row["level_db"] + row["slope"] * (ends - inputs.mean()), color=color, linewidth=1.2)
            estimates.plot(row["slope"], place, color=color, marker="o")
            if row["low"] is not None:
                estimates.hlines(place, row["low"], row["high"], color=color, linewidth=1.5)
    _theory(curves, estimates, rows)
    curves.set_xlabel("input PSNR (dB)")
    curves.set_ylabel("output PSNR on held-out images (dB)")
    curves.set_title("Measured points and fitted lines (colors as on the right)")
    estimates.set_title("Slopes with 95 % intervals")
    estimates.set_xlabel("slope")
    estimates.set_yticks(range(len(rows)), [slopes.label(row) for row in rows])
    estimates.set_ylim(len(rows) - 0.5, -0.5)
    if curves.get_legend_handles_labels()[0]:
        curves.legend(loc="upper left")
    return figure


_BASELINES = {
    wording.KNOWN_SUBJECTS[name]: color
    for name, color in (
        ("wavelet_oracle", BLUE),
        ("tangent_oracle", "#1b7837"),
        ("soft_threshold", ORANGE),
        ("hard_threshold", "#b98a4e"),
        ("best_linear", "#8fb3d1"),
    )
}


def _theory(curves: Axes, estimates: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the best slope in theory, through the middle of the tangent space's line or else of the first line.

    Only the slope comes from theory. The gain in theory gives no height, because the mean of PSNRs lies above the PSNR
    of the mean error.
    """
    known = [row for row in rows if row["theory"] is not None and row["level_db"] is not None]
    if not known:
        return
    first = next((row for row in known if row["subject"] == "tangent_oracle"), known[0])
    ends, middle = np.array([first["low_db"], first["high_db"]]), (first["low_db"] + first["high_db"]) / 2
    label = f"best slope in theory: {first['theory']:.3g}"
    line: dict[str, Any] = {"color": GRAY, "linestyle": "--", "linewidth": 1.2}
    curves.plot(ends, first["level_db"] + first["theory"] * (ends - middle), label=label, zorder=1, **line)
    estimates.axvline(first["theory"], zorder=1, **line)
