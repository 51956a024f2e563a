"""The figures: PSNR curves, similarity histograms with their nulls, the transition, and the spectra of Jacobians.

Each function takes tables or arrays and returns a matplotlib Figure; it shows nothing and leaves matplotlib's global
state as it was. Bands are 95 % intervals; a point without a band has none. Blue and orange are the paper's. How figures
look and are saved is decided here too, for the sheets of images as well (see sheets.py).

Source: Kadkhodaie et al. 2024, Figs. 1, 2, 3 and 15.
"""

import functools
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, ParamSpec

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from memgen import files, slopes, tables, verdict
from memgen.intervals import Interval, bootstrap

BLUE, ORANGE, GRAY, INK = "#2166ac", "#e08214", "#7a7a7a", "#222222"
# matplotlib types the keys as literals; a plain dictionary says the same.
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
    "svg.hashsalt": "memgen",
}


_P = ParamSpec("_P")


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """A function that draws, made to draw in the style of all figures, with a layout that no later save moves."""

    @functools.wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            figure = draw(*args, **kwargs)
            # The layout is solved once: solving it again at each save is slow and moves things a little.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            return figure

    return drawn


# ------------------------------------------------------------------------------------------------- Figure 1: PSNR


@dataclass(frozen=True)
class Level:
    """The mean over images at one noise level, with its interval; `label` names the curve it belongs to."""

    label: str
    sigma: float
    mean: Interval


def levels(table: pa.Table, column: str, seed: int = 0) -> list[Level]:
    """The mean of a column at every N and noise level, with an interval over images.

    Args:
        table: a PSNR table of one kind, or a DISAGREEMENT table.
        column: what to average; nulls are left out.
        seed: of the bootstrap.

    Returns:
        One record for each N (or imported denoiser) and noise level, in ascending order. Each image is averaged over
        noise draws and denoisers first: images are the independent units.
    """
    name = "denoiser" if "denoiser" in table.column_names else "denoiser_a"
    defined = table.filter(pc.is_valid(table[column]))
    # Imported denoisers have no N: each is a curve of its own, and they come last.
    labels = [
        (math.inf if n is None else float(n), tables.model_label(n, denoiser))
        for n, denoiser in zip(defined["n_train"].to_pylist(), defined[name].to_pylist(), strict=True)
    ]
    keys = pa.table(
        {
            "order": pa.array([order for order, _ in labels], pa.float64()),
            "label": pa.array([label for _, label in labels], pa.string()),
            "sigma": defined["sigma"],
            "denoiser": defined[name],
            "image": defined["image_id"],
            "value": defined[column],
        }
    )
    means = keys.group_by(["order", "label", "sigma", "denoiser", "image"], use_threads=False).aggregate(
        [("value", "mean")]
    )
    curves: dict[tuple[float, str, float], dict[str, dict[str, float]]] = {}
    for row in means.to_pylist():
        of_denoiser = curves.setdefault((row["order"], row["label"], row["sigma"]), {})
        of_denoiser.setdefault(row["denoiser"], {})[row["image"]] = row["value_mean"]
    return [Level(label, sigma, _mean(found, seed)) for (_, label, sigma), found in sorted(curves.items())]


def _mean(found: Mapping[str, Mapping[str, float]], seed: int) -> Interval:
    """Mean over images of the denoisers' mean; no interval where each denoiser has a single image."""
    images = sorted({image for values in found.values() for image in values})
    each = np.array([np.mean([values[image] for values in found.values() if image in values]) for image in images])
    if all(len(values) == 1 for values in found.values()):
        return Interval(float(each.mean()), None, None, 1)
    return bootstrap(each, lambda draws: draws.mean(axis=1), seed, resamples=1000)


@styled
def figure_psnr(psnr: pa.Table, dimension: int | None = None) -> Figure:
    """Output against input PSNR on training (left) and held-out images (right), one curve for each N; paper, Fig. 1.

    Args:
        psnr: a PSNR table; what only slopes compare with is left out.
        dimension: d = C * H * W, for the dotted line, the optimum for one image of unknown contrast; None: no line.
    """
    psnr = psnr.filter(pc.invert(pc.is_in(psnr["denoiser"], pa.array(tables.BASELINES.values()))))
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    curves = {
        kind: levels(psnr.filter(pc.equal(psnr["kind"], kind)), "output_psnr_db") for kind in ("train", "holdout")
    }
    every = [level for found in curves.values() for level in found]
    labels = list(dict.fromkeys(level.label for level in every))
    trained = [label for label in labels if label not in tables.REFERENCES.values()]
    colors = dict(zip(trained, _sequence(len(trained)), strict=True))
    for panel, (kind, title) in zip(
        panels, (("train", "Training images"), ("holdout", "Held-out images")), strict=True
    ):
        for label in labels:
            points = [level for level in curves[kind] if level.label == label]
            if points:
                x, means = [-20 * math.log10(p.sigma) for p in points], [p.mean for p in points]
                _band(panel, x, means, colors.get(label, INK), label, "-" if label in colors else "-.")
        panel.set_title(title)
        panel.set_xlabel("input PSNR (dB)")
    panels[0].set_ylabel("output PSNR (dB)")
    inputs = np.array(sorted({-20 * math.log10(level.sigma) for level in every}) or [0.0, 1.0])
    heights = [level.mean.estimate for level in every if level.mean.estimate is not None] or [0.0, 1.0]
    panels[0].set_ylim(min(heights) - 1.5, max(heights) + 1.5)
    for panel in panels:
        panel.plot(inputs, inputs, color=GRAY, linewidth=1, linestyle="--", label="identity", zorder=1)
    if dimension:
        label = "identity + 10 log10 d"
        panels[0].plot(
            inputs, inputs + 10 * math.log10(dimension), color=GRAY, linewidth=1.2, linestyle=":", label=label, zorder=1
        )
    _legend(figure, panels, "outside right center")
    return figure


# ------------------------------------------------------------------------------------------------- Figure 2: similarity


@styled
def figure_histograms(run: Mapping[str, pa.Table], metric: str = "correlation") -> Figure:
    """Similarity from model to model and to the nearest training image, with their nulls; paper, Fig. 2 bottom.

    Args:
        run: the tables similarity and neighbors by name.
        metric: measure to read from them.
    """
    panels = _similarities(run, metric)
    sizes = sorted({n for n, _ in panels})
    rows = max(1, math.ceil(len(sizes) / 4))
    columns = max(1, math.ceil(len(sizes) / rows))
    figure = Figure(figsize=(max(9.0, 2.5 * columns), 2.1 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    every = np.concatenate([values for values in panels.values() if len(values)] or [np.array([0.0, 1.0])])
    low, high = float(np.quantile(every, 0.002)), float(every.max())
    bins = np.linspace(low, max(high, low + 1e-3), 41)
    for panel, n in zip(axes, sizes, strict=False):
        for kind, (label, color, drawing) in _HISTOGRAMS.items():
            values = np.clip(panels.get((n, kind), np.empty(0)), bins[0], bins[-1])
            if len(values):
                panel.hist(
                    values, bins, weights=np.full(len(values), 1 / len(values)), label=label, color=color, **drawing
                )
                if drawing["histtype"] == "stepfilled":
                    panel.axvline(float(np.median(values)), color=color, linewidth=1.2)
        panel.set_title(f"N = {n:,}")
        panel.grid(visible=False)
        panel.set_yticks([])
        panel.xaxis.set_tick_params(labelbottom=True)
    for panel in axes[len(sizes) :]:
        panel.set_axis_off()
    figure.supxlabel(f"{metric} of two images", fontsize=10)
    figure.supylabel("share of pairs", fontsize=10)
    _legend(figure, axes, "outside upper center", 2)
    return figure


_FILLED = {"histtype": "stepfilled", "alpha": 0.55}
_HISTOGRAMS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "different": ("sample A to sample B, different noise (null of blue)", GRAY, {"histtype": "step", "linewidth": 1.3}),
    "holdout": (
        "held-out image to its nearest training image (null of orange)",
        INK,
        {"histtype": "step", "linestyle": "--"},
    ),
    "nearest": ("sample to its nearest training image", ORANGE, _FILLED),
    "same": ("sample A to sample B, same noise", BLUE, _FILLED),
}


def _similarities(run: Mapping[str, pa.Table], metric: str) -> dict[tuple[int, str], NDArray[np.float64]]:
    found: dict[tuple[int, str], list[float]] = {}
    if "similarity" in run:
        rows = _valued(run["similarity"], metric)
        names = {"same_noise": "same", "different_noise": "different"}
        for n, kind, value in zip(*(rows[key].to_pylist() for key in ("n_train", "kind", "value")), strict=True):
            if kind in names:
                found.setdefault((n, names[kind]), []).append(value)
    if "neighbors" in run:
        rows = _valued(run["neighbors"].filter(pc.equal(run["neighbors"]["rank"], 1)), metric)
        keys = ("n_train", "query_kind", "part", "reference", "value")
        for n, kind, part, reference, value in zip(*(rows[key].to_pylist() for key in keys), strict=True):
            if kind == "sample" and reference == f"train_{part}":
                found.setdefault((n, "nearest"), []).append(value)
            elif kind == "holdout" and reference in ("train_a", "train_b"):
                found.setdefault((n, "holdout"), []).append(value)
    return {key: np.array(values) for key, values in found.items()}


def _valued(table: pa.Table, metric: str) -> pa.Table:
    keep = pc.and_(pc.is_valid(table["value"]), pc.is_valid(table["n_train"]))
    return table.filter(pc.and_(keep, pc.equal(table["metric"], metric)))


# ------------------------------------------------------------------------------------------------- the transition


@styled
def figure_transition(transition: pa.Table) -> Figure:
    """Similarities, memorized fraction, PSNR gap and bits against N, with intervals and the transition points.

    Args:
        transition: a TRANSITION table.
    """
    rows = verdict.estimates(transition)
    sizes = sorted({n for n, _ in rows if n is not None})
    figure = Figure(figsize=(9.5, 7.6), layout="constrained")
    similarity, fraction, gap, apart = figure.subplots(2, 2, sharex=True).ravel()
    for panel, title, unit, curves in (
        (similarity, "Similarity of images (medians)", None, _SIMILARITIES),
        (
            fraction,
            "Nearest image is a training image, less chance",
            "memorized fraction",
            {"memorized_fraction": ("", ORANGE, "-")},
        ),
        (gap, "PSNR gap, training minus held-out", "dB", {"psnr_gap": ("", INK, "-")}),
        (apart, "Between the two models' score functions", "bits per dimension", {"bits": ("", BLUE, "-")}),
    ):
        measured = False
        for quantity, (label, color, line) in curves.items():
            found = [(n, rows[n, quantity]) for n in sizes if rows[n, quantity].estimate is not None]
            measured |= bool(found)
            if found:
                intervals = [Interval(row.estimate, row.low, row.high, row.n) for _, row in found]
                _band(panel, [n for n, _ in found], intervals, color, label, linestyle=line)
        panel.set_title(title)
        panel.set_ylabel(unit or rows[sizes[0], "cross_same"].unit if sizes else "")
        if not measured:
            panel.text(0.5, 0.5, "not measured", transform=panel.transAxes, ha="center", color=GRAY)
    gap.axhline(0, color=GRAY, linewidth=1, linestyle="--")
    for level in (0, 0.5, 1):
        fraction.axhline(level, color=GRAY, linewidth=1, linestyle="--" if level == 0.5 else ":")
    if any(rows[n, "bits"].estimate for n in sizes):
        apart.set_yscale("log")
    _mark(similarity, rows.get((None, "N_cross")), r"$N^*_\mathrm{cross}$", sizes)
    _mark(fraction, rows.get((None, "N_half")), r"$N^*_\mathrm{half}$", sizes)
    for panel in (similarity, fraction, gap, apart):
        _log_sizes(panel, sizes)
    handles, labels = similarity.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


_SIMILARITIES = {
    "nearest_own": ("sample to its nearest training image", ORANGE, "-"),
    "cross_same": ("sample A to sample B, same noise", BLUE, "-"),
    "nearest_holdout_to_train": ("held-out image to its nearest training image (null of orange)", "#b98a4e", "--"),
    "cross_different": ("sample A to sample B, different noise (null of blue)", "#8fb3d1", "--"),
}


def _mark(panel: Axes, point: verdict.Estimate | None, name: str, sizes: Sequence[int]) -> None:
    """A transition point: a line, its interval as a bar behind it, and its name at the line's foot."""
    if point is None or point.estimate is None:
        return
    panel.axvline(point.estimate, color=INK, linewidth=1)
    if point.low is not None and point.high is not None:
        panel.axvspan(point.low, point.high, color=INK, alpha=0.1, linewidth=0)
    left = point.estimate < math.sqrt(sizes[0] * sizes[-1])
    panel.annotate(
        f"{name} = {verdict.number(point.estimate, 'images')}",
        (point.estimate, 0.03),
        xycoords=("data", "axes fraction"),
        xytext=(5 if left else -5, 0),
        textcoords="offset points",
        ha="left" if left else "right",
        va="bottom",
        fontsize=9.5,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
    )


def _log_sizes(panel: Axes, sizes: Sequence[int]) -> None:
    panel.set_xscale("log")
    panel.set_xticks(list(sizes), [f"{n:,}" for n in sizes])
    panel.set_xticks([], minor=True)
    panel.set_xlabel("training images N")
    panel.xaxis.set_tick_params(labelbottom=True)
    if len(sizes) == 1:
        panel.set_xlim(sizes[0] / 2, sizes[0] * 2)


def _band(panel: Axes, x: Sequence[float], y: Sequence[Interval], color: str, label: str, linestyle: str = "-") -> None:
    """A curve with its intervals: bars at the points and a band between them; nothing where there is no interval."""
    middle = np.array([np.nan if p.estimate is None else p.estimate for p in y])
    low = np.array([np.nan if p.low is None else p.low for p in y])
    high = np.array([np.nan if p.high is None else p.high for p in y])
    order = np.argsort(x, kind="stable")
    at = np.asarray(x, dtype=np.float64)[order]
    marker = "o" if len(at) <= 12 else ""
    panel.plot(at, middle[order], color=color, linestyle=linestyle, marker=marker, label=label)
    panel.fill_between(at, low[order], high[order], color=color, alpha=0.18, linewidth=0)
    if marker:
        panel.vlines(at, low[order], high[order], color=color, linewidth=1)


def _legend(
    figure: Figure,
    panels: Iterable[Axes],
    place: Literal["outside right center", "outside upper center"],
    columns: int = 1,
) -> None:
    """One legend outside of all panels, with each label once."""
    handles = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc=place, ncols=columns)


def _sequence(count: int) -> list[Any]:
    """Colors from dark to light for ascending N, apart for the color-blind."""
    return [mpl.colormaps["viridis"](x) for x in np.linspace(0.0, 0.9, count)]


# ------------------------------------------------------------------------------------------------- noise levels


@styled
def figure_levels(table: pa.Table) -> Figure:
    """Distances between denoisers and PSNR against the references, at each noise level; one curve for each N.

    Args:
        table: a LEVELS table.
    """
    measured = set(table["quantity"].to_pylist())
    drawn = {name: panel for name, panel in _LEVELS.items() if name in measured or name not in _LEVELS_OF_OPTIMUM}
    down = len(drawn) // 2
    figure = Figure(figsize=(9.5, 3.8 * down), layout="constrained")
    panels = figure.subplots(down, 2, sharex=True).ravel()
    sizes = sorted(set(table["n_train"].to_pylist()))
    colors = dict(zip(sizes, _sequence(len(sizes)), strict=True))
    for panel, (quantity, (title, unit, scale, line)) in zip(panels, drawn.items(), strict=True):
        found = table.filter(pc.equal(table["quantity"], quantity)).to_pylist()
        for n in sizes:
            rows = [row for row in found if row["n_train"] == n]
            intervals = [Interval(row["estimate"], row["low"], row["high"], row["n"]) for row in rows]
            if rows:
                _band(panel, [row["sigma"] for row in rows], intervals, colors[n], f"N = {n:,}")
        panel.set_xscale("log")
        if any(row["estimate"] for row in found):
            panel.set_yscale(scale)
        else:
            panel.text(0.5, 0.5, "not measured", transform=panel.transAxes, ha="center", color=GRAY)
        if scale == "linear" and len(line) == 2:  # ratios to ever smaller distances go off the page
            panel.set_ylim(-0.1, min(2.0, panel.get_ylim()[1]))
        for level in line:
            panel.axhline(level, color=GRAY, linewidth=1, linestyle="--")
        panel.set_title(title)
        panel.set_ylabel(unit)
        panel.set_xlabel("noise level, pixel units")
        panel.xaxis.set_tick_params(labelbottom=True)
    _legend(figure, panels, "outside upper center", min(8, max(1, len(sizes))))
    return figure


# Title, unit, scale of the axis, and levels to compare with.
_LEVELS: dict[str, tuple[str, str, str, tuple[float, ...]]] = {
    "disagreement": ("V: the two denoisers on held-out images", "squared pixel units", "log", ()),
    "bits_density": ("Bits, on noised samples of both models", "bits per dimension and unit of ln sigma", "log", ()),
    "to_empirical": ("Distance to pure memorization", "0 = memorized, 1 = as other images' mean", "linear", (0, 1)),
    "to_linear": ("Held-out PSNR against the best linear denoiser", "dB better", "linear", (0,)),
    "to_optimum": ("Held-out PSNR against the exact optimum", "dB better", "linear", (0,)),
    "excess_error": ("Error that the exact optimum would not make", "share of the squared error", "linear", (0,)),
}
_LEVELS_OF_OPTIMUM = ("to_optimum", "excess_error")  # not drawn where no optimum is known


# ------------------------------------------------------------------------------------------------- Figure 3: the basis


@styled
def figure_spectrum(table: pa.Table) -> Figure:
    """Shrinkage factors, coefficients of the clean image, frequency and place of eigenvectors against k; paper, Fig. 3.

    Means over images and training seeds, and over neighboring k but for the factors; root mean squares of coefficients
    and frequencies. A solid line is the twin of part a, a dashed one that of b, a dash-dotted one was imported. Four
    panels for each noise level.

    Args:
        table: a BASIS table.
    """
    sigmas, curves = sorted(pc.unique(table["sigma"]).to_pylist()), _curves(table)
    figure = Figure(figsize=(9.5, 6.2 * len(sigmas) + 0.5), layout="constrained")
    panels = figure.subplots(2 * len(sigmas), 2, squeeze=False, sharex=True)
    for place, sigma in enumerate(sigmas):
        factors, coefficients, frequencies, contours = panels[2 * place : 2 * place + 2].ravel()
        for rows, drawn in curves:
            found = _spectrum(rows.filter(pc.equal(rows["sigma"], sigma)))
            if len(found["k"]):
                factors.plot(found["k"], found["eigenvalue"], **drawn)
                for panel, name, root in (
                    (coefficients, "coefficient_clean", np.sqrt),
                    (frequencies, "local_frequency", np.sqrt),
                    (contours, "contour_energy", np.positive),
                ):
                    k, means = _in_bins(found["k"], found[name])
                    panel.plot(k, root(means), **drawn)
        for panel, level in ((factors, 0), (factors, 1), (contours, 1)):
            panel.axhline(level, color=GRAY, linewidth=1, linestyle=":")
        coefficients.axhline(sigma, color=GRAY, linewidth=1, linestyle=":", label=r"noise, $\sigma$")
        coefficients.set_yscale("log")
        factors.set_title(rf"Shrinkage factors, $\sigma$ = {sigma:g}")
        factors.set_ylabel(r"eigenvalue $\lambda_k$")
        coefficients.set_title(rf"The clean image in the same basis, $\sigma$ = {sigma:g}")
        coefficients.set_ylabel(r"$|\langle x, e_k \rangle|$, pixel units")
        frequencies.set_title("How fast eigenvectors oscillate")
        frequencies.set_ylabel("cycles per pixel")
        contours.set_title("How much of them lies on contours")
        contours.set_ylabel("1 = as of random vectors")
    for panel in panels.ravel():
        panel.set_xscale("log")
        panel.set_xlabel("k")
        panel.xaxis.set_tick_params(labelbottom=True)
    _legend(figure, panels[:, 1], "outside right center")
    return figure


def _curves(table: pa.Table) -> list[tuple[pa.Table, dict[str, Any]]]:
    """The rows of each twin of each N, and of each imported denoiser, with how its curves are drawn."""
    imported = table.filter(pc.is_null(table["n_train"]))
    models: list[tuple[str, Any]] = [
        ("n_train", n) for n in sorted(pc.unique(table["n_train"].drop_null()).to_pylist())
    ]
    models += [("denoiser", name) for name in sorted(pc.unique(imported["denoiser"]).to_pylist())]
    found = []
    for (column, value), color in zip(models, _sequence(len(models)), strict=True):
        for part, line in (("a", "-"), ("b", "--"), (None, "-.")):
            rows = table.filter(pc.equal(table[column], value))
            rows = rows.filter(pc.equal(rows["part"], part) if part else pc.is_null(rows["part"]))
            if len(rows):
                label = f"N = {value:,}  {part.upper()}" if part else value
                found.append((rows, {"color": color, "linestyle": line, "label": label}))
    return found


def _spectrum(rows: pa.Table) -> dict[str, NDArray[np.float64]]:
    """Each k, and of what stands there the mean, or the mean square of coefficients and frequencies."""
    for name in ("coefficient_clean", "local_frequency"):
        rows = rows.set_column(rows.column_names.index(name), name, pc.power(rows[name], 2))
    columns = ("eigenvalue", "coefficient_clean", "local_frequency", "contour_energy")
    means = rows.group_by("k", use_threads=False).aggregate([(name, "mean") for name in columns]).sort_by("k")
    return {"k": means["k"].to_numpy()} | {
        name: means[f"{name}_mean"].to_numpy().astype(np.float64) for name in columns
    }


def _in_bins(k: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The geometric middles of bins of a tenth of a decade, and the means in them."""
    bins = np.round(10 * np.log10(k)).astype(np.int64)
    counts = np.bincount(bins)
    found = counts > 0
    middle = np.bincount(bins, np.log(k))[found] / counts[found]
    return np.exp(middle), np.bincount(bins, values)[found] / counts[found]


# ------------------------------------------------------------------------------------------------- slopes


@styled
def figure_slopes(table: pa.Table, psnr: pa.Table) -> Figure:
    """Held-out PSNR with fitted lines (left) and the slopes (right), beside theory; paper, Figs. 4, 5 and 16.

    Args:
        table: a SLOPES table.
        psnr: the PSNR table behind it.
    """
    rows = table.to_pylist()
    figure = Figure(figsize=(9.5, 4.6), layout="constrained")
    curves, estimates = figure.subplots(1, 2, width_ratios=(1.5, 1))
    held = psnr.filter(pc.equal(psnr["kind"], "holdout"))
    measured: dict[str, list[Level]] = {}
    for level in levels(held, "output_psnr_db"):
        measured.setdefault(level.label, []).append(level)
    trained = [slopes.label(row) for row in rows if row["n_train"] is not None]
    colors = dict(zip(trained, _sequence(len(trained)), strict=True)) | _BASELINES
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
    curves.set_title("Points, and lines fitted to the range; colors as on the right")
    estimates.set_title("Slopes, with 95 % intervals")
    estimates.set_xlabel("slope")
    estimates.set_yticks(range(len(rows)), [slopes.label(row) for row in rows])
    estimates.set_ylim(len(rows) - 0.5, -0.5)
    if curves.get_legend_handles_labels()[0]:
        curves.legend(loc="upper left")
    return figure


_BASELINES = {
    tables.BASELINES["oracle"]: BLUE,
    tables.BASELINES["tangent"]: "#1b7837",
    tables.BASELINES["soft"]: ORANGE,
    tables.BASELINES["hard"]: "#b98a4e",
    tables.REFERENCES["to_linear"]: "#8fb3d1",
}


def _theory(curves: Axes, estimates: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """The best slope, through the middle of the line of the tangent space, or else of the first denoiser.

    On a manifold of k dimensions the theory's gain is no height here: the mean of PSNRs is above the PSNR of the mean.
    """
    known = [row for row in rows if row["theory"] is not None and row["level_db"] is not None]
    if not known:
        return
    first = next((row for row in known if row["denoiser"] == tables.BASELINES["tangent"]), known[0])
    ends, middle = np.array([first["low_db"], first["high_db"]]), (first["low_db"] + first["high_db"]) / 2
    label = f"slope {first['theory']:.3g} of theory"
    line: dict[str, Any] = {"color": GRAY, "linestyle": "--", "linewidth": 1.2}
    curves.plot(ends, first["level_db"] + first["theory"] * (ends - middle), label=label, zorder=1, **line)
    estimates.axvline(first["theory"], zorder=1, **line)


# ------------------------------------------------------------------------------------------------- files


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG (150 dpi), SVG and PDF; the same figure always gives the same bytes.

    Args:
        figure: what to write.
        path: without a suffix.

    Returns:
        The three paths.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    written = []
    for suffix in _NO_METADATA:
        target = path.with_name(path.name + suffix)
        with files.writing(target) as file:
            file.write(encode(figure, suffix))
        written.append(target)
    return written


def encode(figure: Figure, suffix: str) -> bytes:
    """A figure as the bytes of a file of the type .png, .svg or .pdf."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, dpi=150, format=suffix[1:], metadata=_NO_METADATA[suffix])
    return buffer.getvalue()


# Dates and program names would make the bytes depend on more than the figure.
_NO_METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
