"""Charts as Vega-Lite specifications: plain dictionaries, drawn by the page in the browser and here into files.

Each function takes tables and returns one specification, which holds its data. The parameter `chosen` names the
training-set size, or the imported subject, that the page has selected: its curve stands out, or its histogram is shown.
Files show every size. Bars and bands are 95 % intervals; a point without a bar has no interval. Blue stands for the
comparison of two models and orange for the comparison with the training set, as in the paper.

Source: Kadkhodaie et al. 2024, Figs. 1, 2 and 15.
"""

import functools
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import vl_convert
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from PIL import Image

from memgen.base import wording
from memgen.base.estimates import Estimate
from memgen.findings import labels, transition
from memgen.report import figures, similarities
from memgen.report.style import BLUE, GRAY, INK, ORANGE, color_sequence, save_as
from memgen.report.tiles import encoded

Spec = dict[str, Any]

_PALE_BLUE, _PALE_ORANGE, _GRID = "#8fb3d1", "#b98a4e", "#e6e6e6"
_DASH, _DOT, _DASH_DOT = [5, 3], [2, 2], [7, 3, 2, 3]
_CONFIG: Spec = {
    "font": "DejaVu Sans, system-ui, sans-serif",
    "background": "white",
    "view": {"stroke": None},
    "axis": {
        "gridColor": _GRID,
        "domainColor": INK,
        "tickColor": INK,
        "labelColor": INK,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "titleFontSize": 11,
        "labelFontSize": 11,
        "labelFlush": False,
        "labelOverlap": True,
    },
    "title": {"anchor": "start", "frame": "group", "fontSize": 12, "fontWeight": "normal", "color": INK, "offset": 10},
    "legend": {
        "labelColor": INK,
        "labelFontSize": 11,
        "labelLimit": 0,
        "title": None,
        "orient": "top",
        "symbolType": "stroke",
        "symbolStrokeWidth": 2.5,
        "symbolSize": 300,
        "symbolOpacity": 1,
    },
}
_PANEL = {"width": 330, "height": 220}
_FULL_WIDTH = 760  # of two panels side by side
_BINS = 40
_TRAINING_POINTS = 100  # points of a training curve


def chosen(key: str | None) -> Spec:
    """A specification's parameter: the selected size or subject; None selects none, and all are shown alike."""
    return {"name": "chosen", "value": key}


def dark(specs: Iterable[Spec]) -> dict[str, str]:
    """For each color of these specifications, the one that takes its place on a dark page."""
    found = set(re.findall(r"#[0-9a-f]{6}", repr(list(specs))))
    return {color: _DARK.get(color, _lightened(color)) for color in sorted(found)}


_DARK = {INK: "#e6e8eb", GRAY: "#a0a7b4", _GRID: "#353a41", BLUE: "#7fb3e6", ORANGE: "#f0a04b"}


def _lightened(color: str) -> str:
    """The color itself, with white mixed in where it is dark."""
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    missing = max(0.0, 0.45 - float(channels @ (0.2126, 0.7152, 0.0722)))
    return to_hex((channels + (1 - channels) * missing).tolist())


# ------------------------------------------------------------------------------------------------- the transition


def draw_transition(table: pa.Table) -> Spec:
    """Similarities, memorized fraction, PSNR gap and bits against N, with intervals and transition points.

    Args:
        table: a TRANSITION table.
    """
    rows = transition.estimates(table)
    sizes = sorted({key for key, _ in rows if isinstance(key, int)})
    unit = rows[sizes[0], "cross_same"].unit if sizes else ""
    panels = []
    for title, axis, curves, levels, point in (
        ("Median similarity of two images", unit, _SIMILARITIES, (), ("N_cross", "N*_cross")),
        (
            "Memorized fraction",
            "share of samples, above chance",
            {"memorized_fraction": (None, ORANGE, None)},
            (0, 0.5, 1),
            ("N_half", "N*_half"),
        ),
        (
            "PSNR on training images minus held-out images",
            "dB",
            {"psnr_gap": (None, INK, None)},
            (0,),
            None,
        ),
        (
            "Difference between the two score functions",
            "bits per dimension",
            {"bits": (None, BLUE, None)},
            (),
            None,
        ),
    ):
        found = [
            {"n": n, "key": labels.panel(n), "curve": label, "quantity": name} | _interval(rows[n, name])
            for name, (label, _, _) in curves.items()
            for n in sizes
            if rows[n, name].estimate is not None
        ]
        x = _of_sizes(sizes)
        y: Spec = {"type": "quantitative", "title": axis, "scale": {"zero": False}}
        if "bits" in curves and any(row["estimate"] for row in found):
            y["scale"] = {"type": "log", "nice": False}
            drawn: list[Any] = [row[end] for row in found for end in ("low", "estimate", "high")]
            y["axis"] = {"values": _ticks(drawn)}
        layers = [_levels(levels), _selected(sizes, x), *_curves(found, x, y, curves.values())]
        if point is not None:
            layers += _marked(rows.get((None, point[0])), point[1], sizes, x)
        panels.append(
            {"title": title, **_PANEL, "layer": [layer for layer in layers if layer]} if found else _missing(title)
        )
    return _figure(panels, 2, "Four panels against the number of training images N.")


_SIMILARITIES = {
    "nearest_own": (similarities.NEAREST, ORANGE, None),
    "cross_same": (similarities.SAME_NOISE, BLUE, None),
    "nearest_holdout_to_train": (similarities.HELD_OUT, _PALE_ORANGE, _DASH),
    "cross_different": (similarities.OTHER_NOISE, _PALE_BLUE, _DASH),
}


def _ticks(values: Iterable[float | None]) -> list[float]:
    """Places of numbers along a logarithmic axis: powers of ten, with 2 and 5 times these where there are few."""
    logs = [math.log10(value) for value in values if value]
    low, high = min(logs), max(logs)
    steps = (1,) if high - low > 2.5 else (1, 2, 5)
    found = [step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    return [float(f"{tick:.0e}") for tick in found if low <= math.log10(tick) <= high]


def _interval(found: Estimate) -> Spec:
    """A point with its interval and both as people print them; an interval with an open end is not drawn."""
    whole = found.low is not None and found.high is not None
    ends = (found.low, found.high) if whole else (None, None)
    return {"estimate": found.estimate, "low": ends[0], "high": ends[1], "text": wording.estimate(found)}


def _of_sizes(sizes: Sequence[int]) -> Spec:
    """The axis of N."""
    domain = [sizes[0] / 2, sizes[0] * 2] if len(sizes) == 1 else [sizes[0], sizes[-1]]
    return {
        "field": "n",
        "type": "quantitative",
        "title": "training images N",
        "scale": {"type": "log", "domain": domain, "nice": False, "padding": 8},
        "axis": {"values": list(sizes), "format": ","},
    }


def _levels(values: Sequence[float]) -> Spec | None:
    """Horizontal lines to compare with."""
    if not values:
        return None
    return {
        "data": {"values": [{"level": value} for value in values]},
        "mark": {"type": "rule", "color": GRAY, "strokeDash": _DASH},
        "encoding": {"y": {"field": "level", "type": "quantitative"}},
    }


def _selected(sizes: Sequence[int], x: Spec) -> Spec:
    """A dotted line at the selected N, unlike the lines and strips of transition points."""
    return {
        "data": {"values": [{"n": n, "key": labels.panel(n)} for n in sizes]},
        "transform": [{"filter": "datum.key == chosen"}],
        "mark": {"type": "rule", "color": GRAY, "strokeWidth": 3, "strokeDash": [1, 3]},
        "encoding": {"x": x},
    }


def _curves(
    rows: Sequence[Spec], x: Spec, y: Spec, styles: Iterable[tuple[str | None, str, list[int] | None]]
) -> list[Spec]:
    """Curves with their intervals, as bands and as bars at the points."""
    styles = list(styles)
    named = [(label, color, dash) for label, color, dash in styles if label is not None]
    mark: Spec = {} if named else {"color": styles[0][1]}
    encoding: Spec = {"x": x}
    if named:
        encoding["color"] = _scale("curve", [label for label, _, _ in named], [color for _, color, _ in named])
    dashed = {"strokeDash": _scale("curve", [label for label, _, _ in named], [dash or [1, 0] for *_, dash in named])}
    low, high = y | {"field": "low"}, {"field": "high"}
    middle = y | {"field": "estimate"}
    tip = [{"field": "key", "title": "at"}, {"field": "text", "title": "estimate"}]
    tip += [{"field": "curve", "title": "of"}] if named else []
    layers = [
        {"mark": {"type": "area", "opacity": 0.18, **mark}, "encoding": encoding | {"y": low, "y2": high}},
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", **mark},
            "encoding": encoding | {"y": low, "y2": high},
        },
        {
            "mark": {"type": "line", "strokeWidth": 1.8, **mark},
            "encoding": encoding | (dashed if named else {}) | {"y": middle},
        },
        {
            "mark": {"type": "point", "filled": True, "opacity": 1, "size": 45, **mark},
            "encoding": encoding | {"y": middle, "tooltip": tip},
        },
    ]
    if not any(row["low"] is not None for row in rows):
        layers = layers[2:]
    return [{"data": {"values": list(rows)}, "layer": layers}]


def _scale(field: str, domain: Sequence[Any], colors: Sequence[Any]) -> Spec:
    return {"field": field, "type": "nominal", "scale": {"domain": list(domain), "range": list(colors)}, "title": None}


def _marked(point: Estimate | None, name: str, sizes: Sequence[int], x: Spec) -> list[Spec]:
    """A transition point: a line, its interval as a strip, and its name at the foot of the line."""
    if point is None or point.estimate is None:
        return []
    text = f"{name} = {wording.number(point.estimate, 'images')}"
    row = {"n": point.estimate, "text": text, "low": point.low, "high": point.high}
    ends = {"x": x | {"field": "low"}, "x2": {"field": "high"}}
    left = point.estimate < math.sqrt(sizes[0] * sizes[-1])
    place: Spec = {"align": "left" if left else "right", "dx": 5 if left else -5, "dy": -6, "baseline": "bottom"}
    layers: list[Spec] = [
        {"mark": {"type": "rule", "color": INK}, "encoding": {"x": x}},
        {
            "mark": {"type": "text", "color": INK, "fontSize": 11, **place},
            "encoding": {"x": x, "y": {"value": "height"}, "text": {"field": "text"}},
        },
    ]
    if point.low is not None and point.high is not None:
        layers.insert(0, {"mark": {"type": "rect", "color": INK, "opacity": 0.1}, "encoding": ends})
    return [{"data": {"values": [row]}, "layer": layers}]


# ------------------------------------------------------------------------------------------------- histograms


def draw_histograms(run: Mapping[str, pa.Table], metric: str = "correlation", every: bool = False) -> Spec:
    """Histograms of similarity between the two models and to the nearest training image, at the selected N.

    Imported subjects follow the sizes of the sweep. Each histogram has a reference: samples from different noise, and
    held-out images. Lines mark medians.

    Args:
        run: the tables similarity and neighbors by name; either may be missing.
        metric: the measure of similarity to show.
        every: whether to draw a panel for each N, as files do.

    Source: Kadkhodaie et al. 2024, Fig. 2 (bottom).
    """
    values_of = similarities.values(run, metric)
    keys = sorted({panel for panel, _ in values_of}, key=labels.panel_order)
    edges = _edges(values_of.values())
    outlines, medians = [], []
    for key in keys:
        for kind, (label, _, _) in _HISTOGRAMS.items():
            values = values_of.get((key, kind), np.empty(0))
            if len(values):
                at = {"key": labels.panel(key), "kind": label}
                outlines += [at | row for row in _outline(values, edges)]
                if kind in _FILLED:
                    medians.append(at | {"median": float(np.median(values)), "n": len(values)})
    domain = [float(edges[0]), float(edges[-1])]
    axes = (f"{metric} of two images", "share of pairs", domain)
    panels = [
        _histogram(outlines, medians, axes, _HISTOGRAMS.values(), f"datum.key == {_quoted(labels.panel(key))}")
        | {"title": labels.panel(key), "width": 200, "height": 130}
        for key in keys
    ]
    if not every:
        panels = [_histogram(outlines, medians, axes, _HISTOGRAMS.values(), "datum.key == chosen") | _PANEL]
    first = labels.panel(keys[0]) if keys and not every else None
    return _figure(panels, min(4, len(panels)), f"Histograms of the {metric} of two images.", first)


_HISTOGRAMS: dict[str, tuple[str, str, list[int] | None]] = {
    "nearest": (similarities.NEAREST, ORANGE, None),
    "same": (similarities.SAME_NOISE, BLUE, None),
    "holdout": (similarities.HELD_OUT, INK, _DASH),
    "different": (similarities.OTHER_NOISE, GRAY, None),
}
_FILLED = ("nearest", "same")


def _quoted(text: str) -> str:
    """A text as a constant of Vega's expressions."""
    return json.dumps(text)


def _edges(values: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Edges of bins for all values but the lowest, which the first bin takes too."""
    every = np.concatenate([*values, np.empty(0)])
    if not len(every):
        return np.linspace(0.0, 1.0, _BINS + 1)
    low, high = float(np.quantile(every, 0.002)), float(every.max())
    return np.linspace(low, max(high, low + 1e-3), _BINS + 1)


def _outline(values: NDArray[np.float64], edges: NDArray[np.float64]) -> list[Spec]:
    """The outline of a histogram: at the lower edge of each bin its share, and 0 at the end of the last one."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    shares = [*(counts / len(values)).tolist(), 0.0]
    return [{"at": float(edge), "share": share} for edge, share in zip(edges, shares, strict=True)]


def _histogram(
    outlines: Sequence[Spec],
    medians: Sequence[Spec],
    axes: tuple[str, str, Sequence[float]],
    styles: Iterable[tuple[str, str, list[int] | None]],
    shown: str,
) -> Spec:
    """A panel of outlines over each other; those of references are empty."""
    styles = list(styles)
    label, share, domain = axes
    x: Spec = {"field": "at", "type": "quantitative", "title": label, "scale": {"domain": list(domain)}}
    y: Spec = {"field": "share", "type": "quantitative", "title": share, "axis": {"grid": False, "tickCount": 3}}
    color = _scale("kind", [name for name, _, _ in styles], [hue for _, hue, _ in styles])
    dash = _scale("kind", [name for name, _, _ in styles], [line or [1, 0] for _, _, line in styles])
    filled = sorted({row["kind"] for row in medians})
    area: Spec = {
        "transform": [{"filter": shown}, {"filter": {"field": "kind", "oneOf": filled}}],
        "mark": {"type": "area", "interpolate": "step-after", "opacity": 0.45},
        "encoding": {"x": x, "y": y | {"stack": None}, "color": color},
    }
    line: Spec = {
        "transform": [{"filter": shown}],
        "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1.5},
        "encoding": {"x": x, "y": y, "color": color, "strokeDash": dash},
    }
    median: Spec = {
        "data": {"values": list(medians)},
        "transform": [{"filter": shown}],
        "mark": {"type": "rule", "strokeWidth": 1.5},
        "encoding": {"x": x | {"field": "median"}, "color": color},
    }
    layers = [area, line, median] if medians else [line]
    return {"data": {"values": list(outlines)}, "layer": layers}


# ------------------------------------------------------------------------------------------------- denoising, training


def draw_psnr(psnr: pa.Table, dimension: int | None = None) -> Spec:
    """Output against input PSNR on training images (left) and held-out images (right), one curve for each N.

    Args:
        psnr: a PSNR table. Baselines are left out: they belong to the figure of slopes.
        dimension: d = C H W. It places the dotted line of the optimum for one image of unknown contrast; without it
            there is no such line.

    Source: Kadkhodaie et al. 2024, Fig. 1.
    """
    found = figures.denoising(psnr)
    colors = {name: to_hex(color) for name, color in found.colors.items()}
    styles = [(name, colors.get(name, INK), None if name in colors else _DASH_DOT) for name in found.names]
    ends = (found.inputs[0], found.inputs[-1])
    x: Spec = {"field": "input", "type": "quantitative", "title": "input PSNR (dB)", "scale": {"zero": False}}
    y: Spec = {"type": "quantitative", "title": "output PSNR (dB)"}
    y["scale"] = {"domain": list(found.limits), "zero": False}
    lines = [("identity", GRAY, _DASH, 0.0)]
    if dimension:
        lines.append(("identity + 10 log10 d", GRAY, _DOT, 10 * math.log10(dimension)))
    styles += [(name, color, dash) for name, color, dash, _ in lines]
    panels = []
    for kind, title in (("train", "Training images"), ("holdout", "Held-out images")):
        rows = [
            {"input": -20 * math.log10(level.sigma), "curve": level.label, "key": level.label} | _interval(level.mean)
            for level in found.curves[kind]
        ]
        drawn = [line for line in lines if kind == "train" or not line[3]]
        rows += [
            {"input": at, "curve": name, "key": None, "estimate": at + offset}
            for name, _, _, offset in drawn
            for at in ends
        ]
        panels.append({"title": title, **_PANEL, **_many(rows, x, y, styles, found.references)})
    return _figure(panels, 2, "Output PSNR against input PSNR, on training images and on held-out images.")


def draw_training(table: pa.Table) -> Spec:
    """PSNR of the denoised training images against the images seen, a curve for each training.

    Trainings on part a are solid, those on part b dashed; those of one N share a color.

    Args:
        table: a TRAINING table. Of each training at most 100 records are drawn, evenly spaced.
    """
    models = list(labels.by_model(table))
    keys = list(dict.fromkeys(labels.panel_of(key) for key, _ in models))
    colors = dict(zip(keys, map(to_hex, color_sequence(len(keys))), strict=True))
    rows, styles = [], []
    for key, found in models:
        name, panel = labels.model(key), labels.panel_of(key)
        styles.append((name, colors[panel], _DASH if key["part"] == "b" else None))
        kept = found.sort_by("images_seen").to_pylist()
        picked = np.unique(np.linspace(0, len(kept) - 1, min(len(kept), _TRAINING_POINTS)).round().astype(int))
        rows += [
            {"input": kept[i]["images_seen"], "curve": name, "key": panel, "estimate": kept[i]["output_psnr_db"]}
            for i in picked
        ]
    x: Spec = {"field": "input", "type": "quantitative", "title": "training images seen", "axis": {"format": "~s"}}
    y: Spec = {"type": "quantitative", "title": "PSNR of denoised training images (dB)", "scale": {"zero": False}}
    drawn = {**_PANEL, "width": 700, **_many(rows, x, y, styles, [])}
    return _figure([drawn], 1, "PSNR of the denoised training images while the models were trained.")


def _many(
    rows: Sequence[Spec],
    x: Spec,
    y: Spec,
    styles: Sequence[tuple[str, str, list[int] | None]],
    always: Sequence[str],
) -> Spec:
    """Many curves with bands, of which the selected ones stand out."""
    color = _scale("curve", [name for name, _, _ in styles], [hue for _, hue, _ in styles])
    dash = _scale("curve", [name for name, _, _ in styles], [line or [1, 0] for *_, line in styles])
    stands_out = "chosen == null || datum.key == null || datum.key == chosen"
    stands_out += "".join(f" || datum.key == {_quoted(name)}" for name in always)
    encoding = {"x": x, "color": color}
    tip = [{"field": "curve", "title": "of"}, {"field": "input", "title": x["title"], "format": ".1f"}]
    tip += [{"field": "text", "title": "estimate"}]

    def opacity(usual: float, pale: float) -> Spec:
        return {"opacity": {"condition": {"test": stands_out, "value": usual}, "value": pale}}

    band: Spec = {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "area"},
        "encoding": encoding | {"y": y | {"field": "low"}, "y2": {"field": "high"}} | opacity(0.18, 0.04),
    }
    line: Spec = {
        "mark": {"type": "line", "strokeWidth": 1.8, "clip": True},
        "encoding": encoding | {"y": y | {"field": "estimate"}, "strokeDash": dash} | opacity(1, 0.25),
    }
    points: Spec = {
        "transform": [{"filter": "isValid(datum.text)"}],
        "mark": {"type": "point", "filled": True, "size": 25},
        "encoding": encoding | {"y": y | {"field": "estimate"}, "tooltip": tip} | opacity(1, 0.25),
    }
    layers = [band] if any(row.get("low") is not None for row in rows) else []
    layers += [line, *([points] if any("text" in row for row in rows) else [])]
    return {"data": {"values": list(rows)}, "layer": layers}


# ------------------------------------------------------------------------------------------------- audits

_P_BINS, _DEPTH_BINS = 20, 30
_T, _H = "nearest to a training image", "reference: nearest to a held-out image"
TO_TRAIN, TO_HELD_OUT = "closest training image", "reference: closest held-out image"


def draw_evidence(significance: pa.Table) -> Spec:
    """The p-values of all samples (left) and how far they stand out, by what they are nearest to (right).

    Without copies, at most as many samples as the dashed line says are expected in the first bar, and the outlines of
    both sides have the same shape, if T and H were divided at random.

    Args:
        significance: a SIGNIFICANCE table.
    """
    p = significance["p"].to_numpy()
    counts, edges = np.histogram(p, np.linspace(0, 1, _P_BINS + 1))
    bars = [
        {"low": float(low), "high": float(high), "samples": int(count)}
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    p_values: Spec = {
        "title": "Conformal p-values of all samples",
        **_PANEL,
        "layer": [
            {
                "data": {"values": bars},
                "mark": {"type": "bar", "color": ORANGE, "binSpacing": 1},
                "encoding": {
                    "x": {"field": "low", "type": "quantitative", "bin": {"binned": True, "step": 1 / _P_BINS}}
                    | {"title": "p-value"},
                    "x2": {"field": "high"},
                    "y": {"field": "samples", "type": "quantitative", "title": "samples"},
                    "tooltip": [{"field": "low", "title": "from"}, {"field": "samples"}],
                },
            },
            _levels([len(p) / _P_BINS]),
        ],
    }
    deep = significance.filter(pc.is_valid(significance["W"]))
    depth = np.abs(deep["W"].to_numpy())
    in_t = pc.equal(deep["nearest_in"], "T").to_numpy()
    edges = np.linspace(0, max(float(depth.max(initial=0.0)), 1e-6), _DEPTH_BINS + 1)
    outlines = [
        {"kind": name} | row
        for name, of_side in ((_T, depth[in_t]), (_H, depth[~in_t]))
        if len(of_side)
        for row in _counted(of_side, edges)
    ]
    axes = ("depth in the neighborhood of the nearest image, |W|", "samples", (0.0, float(edges[-1])))
    styles = [(_T, ORANGE, None), (_H, INK, _DASH)]
    panel = {"title": "How far samples stand out", **_PANEL, **_histogram(outlines, [], axes, styles, "true")}
    return _figure([p_values, panel], 2, "Histograms of the p-values and of the depth of all samples.")


def _counted(values: NDArray[np.float64], edges: NDArray[np.float64]) -> list[Spec]:
    """The outline of a histogram of counts."""
    return [row | {"share": round(row["share"] * len(values))} for row in _outline(values, edges)]


def draw_closeness(significance: pa.Table) -> Spec:
    """Similarity of samples to the closest training image and to the closest held-out image, a panel for each space.

    Args:
        significance: a SIGNIFICANCE table; each sample counts in the space in which it stands out most.
    """
    styles = [(TO_TRAIN, ORANGE, None), (TO_HELD_OUT, INK, _DASH)]
    panels = []
    for space in sorted(significance["space"].unique().to_pylist()):
        rows = significance.filter(pc.equal(significance["space"], space))
        values = {
            name: rows[column].drop_null().to_numpy()
            for name, column in ((TO_TRAIN, "found_train"), (TO_HELD_OUT, "found_held_out"))
        }
        edges = _edges(values.values())
        outlines = [
            {"kind": name} | row for name, found in values.items() if len(found) for row in _outline(found, edges)
        ]
        axes = ("similarity", "share of samples", (float(edges[0]), float(edges[-1])))
        title = f"{space}: {len(rows):,} {'sample' if len(rows) == 1 else 'samples'}"
        panels.append({"title": title, **_PANEL, **_histogram(outlines, [], axes, styles, "true")})
    return _figure(panels, 2, "Histograms of the similarity of samples to training and held-out images, by space.")


def draw_gaps(rows: Sequence[Mapping[str, Any]]) -> Spec:
    """PSNR on training images minus that on held-out images against noise level, with intervals.

    Args:
        rows: of a GAPS table.
    """
    found = [
        {"n": row["sigma"], "key": f"noise level {row['sigma']:.3f}", "curve": None}
        | _interval(Estimate.of(row["gap"], row["low"], row["high"], row["n_train"], "dB"))
        for row in rows
    ]
    x: Spec = {"field": "n", "type": "quantitative", "title": "noise level (pixel units)", "scale": {"type": "log"}}
    y: Spec = {"type": "quantitative", "title": "dB"}
    title = "PSNR on training images minus held-out images"
    layers = [_levels([0]), *_curves(found, x, y, [(None, INK, None)])]
    panel = {"title": title, **_PANEL, "width": 700, "layer": layers}
    return _figure([panel], 1, "PSNR gap against noise level.")


# ------------------------------------------------------------------------------------------------- files


def _figure(panels: Sequence[Spec], columns: int, description: str, first: str | None = None) -> Spec:
    """A whole specification of panels side by side, with one legend above them."""
    shared = {"color": "shared", "strokeDash": "shared"}
    letters = max(map(len, _legend(panels)), default=0)
    legend = _CONFIG["legend"] | {"columns": max(1, _FULL_WIDTH // legend_width(letters))}
    return {
        "description": description,
        "usermeta": {"legend_width": legend_width(letters)},
        "params": [chosen(first)],
        "concat": list(panels),
        "columns": columns,
        "resolve": {"scale": shared, "legend": shared},
        "config": _CONFIG | {"legend": legend},
    }


def legend_width(letters: int) -> int:
    """Width of an entry of a legend, pixels, whose label has so many letters."""
    return 50 + 7 * letters


def _legend(spec: Any) -> list[str]:
    """The labels of the colors of a specification."""
    if isinstance(spec, Mapping):
        own = spec["color"]["scale"]["domain"] if "scale" in (spec.get("color") or ()) else []
        return [*own, *(label for key, part in spec.items() if key != "data" for label in _legend(part))]
    return [label for part in spec for label in _legend(part)] if isinstance(spec, list) else []


def _missing(title: str) -> Spec:
    """A panel that says that nothing was measured."""
    mark = {"type": "text", "text": "not measured", "color": GRAY, "fontSize": 12}
    return {"title": title, **_PANEL, "data": {"values": [{}]}, "mark": mark}


def save(spec: Spec, path: Path) -> list[Path]:
    """Write a chart as PNG, SVG and PDF; the same specification always gives the same bytes.

    Args:
        spec: what to draw.
        path: path of the files without their suffix.

    Returns:
        Their paths.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    drawn = svg(spec)
    return save_as(path, lambda suffix: _encoded(drawn, suffix))


def svg(spec: Spec) -> str:
    """A chart as SVG. Its words have the font of all figures, whatever fonts the machine has."""
    _register_fonts()
    drawn = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    # The library numbers clip paths through all charts that it has drawn; here their numbers start anew.
    names = {name: f"clip{i}" for i, name in enumerate(dict.fromkeys(re.findall(r'id="(clip\d+)"', drawn)))}
    return re.sub(r'(id="|url\(#)(clip\d+)', lambda found: found[1] + names[found[2]], drawn)


@functools.cache
def _register_fonts() -> None:
    vl_convert.register_font_directory(str(Path(mpl.get_data_path()) / "fonts" / "ttf"))


_FONTS = re.compile(rb"(?:^ *\/fo\d+ \d+ 0 R\n){2,}", re.MULTILINE)


def _encoded(drawn: str, suffix: str) -> bytes:
    if suffix == ".png":
        # Without the transparency that nothing uses, the file is a third as large.
        with Image.open(io.BytesIO(vl_convert.svg_to_png(drawn, scale=2))) as picture:
            return encoded(picture.convert("RGB"))
    if suffix == ".pdf":
        # The library lists the fonts of a page in an order that changes from call to call.
        return _FONTS.sub(lambda found: b"".join(sorted(found[0].splitlines(True))), vl_convert.svg_to_pdf(drawn))
    return drawn.encode()
