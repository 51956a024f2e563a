"""Figures of what a model knows of its training images: their likelihood, and what its PSNR gives away.

Each function takes findings or a table and returns a matplotlib Figure. T are training images and H held-out images.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memgen.base import wording
from memgen.base.estimates import Estimate
from memgen.findings import labels, likelihoods, membership
from memgen.report.style import GRAY, INK, ORANGE, band, color_sequence, legend, styled

TRAIN, HELD_OUT = "training images T", "held-out images H"
_LINES = {"a": "-", "b": "--", None: "-."}
# Where axes change from linear to logarithmic. A model of one image differs by far more than others do.
_LINEAR_BITS, _LINEAR_DB, _CHANCE = 0.1, 1.0, membership.FALSE_POSITIVES


@styled
def figure_likelihood(found: Mapping[str, likelihoods.Summary]) -> Figure:
    """Bits per dimension of T and of H (left), and their difference (right), a row for each model.

    Args:
        found: what readers call each model, and its bits; in the order of the rows.
    """
    figure = Figure(figsize=(9.5, 1.7 + 0.32 * len(found)), layout="constrained")
    bits, difference = figure.subplots(1, 2, sharey=True)
    for place, summary in enumerate(found.values()):
        _point(bits, summary.train, place - 0.12, ORANGE, TRAIN)
        _point(bits, summary.held_out, place + 0.12, INK, HELD_OUT)
        _point(difference, summary.gap, place, INK)
    difference.axvline(0, color=GRAY, linewidth=1, linestyle="--")
    difference.set_xscale("symlog", linthresh=_LINEAR_BITS)
    difference.set_xlim(_limits([summary.gap for summary in found.values()], _LINEAR_BITS))
    difference.xaxis.set_major_formatter(_plain)
    bits.set_title("Bits that each model spends")
    difference.set_title("Held-out images minus training images")
    for panel in (bits, difference):
        panel.set_xlabel(likelihoods.UNIT)
    bits.set_yticks(range(len(found)), list(found))
    bits.set_ylim(len(found) - 0.5, -0.5)
    legend(figure, [bits], "outside upper center", 2)
    return figure


def _limits(found: Iterable[Estimate], linear: float) -> tuple[float, float]:
    """The ends of an axis that holds these estimates with their intervals, and the part of it that is linear."""
    ends = [end for each in found for end in (each.estimate, each.low, each.high) if end is not None]
    return min([-linear, *(1.5 * end for end in ends)]), max([linear, *(1.5 * end for end in ends)])


def _plain(value: float, _: int) -> str:
    """A number beside an axis, which is not a power of ten."""
    return f"{value:g}".replace("-", wording.MINUS)


def _point(panel: Axes, found: Estimate, height: float, color: str, label: str = "") -> None:
    """A point with the bar of its interval, if there is one."""
    if found.estimate is None:
        return
    panel.plot(found.estimate, height, color=color, linestyle="", marker="o", label=label)
    if found.low is not None and found.high is not None:
        panel.hlines(height, found.low, found.high, color=color, linewidth=1.5)


@styled
def figure_membership(table: pa.Table) -> Figure:
    """The PSNR gap (left) and the share of T that the attack finds (right) against noise level, a curve for each model.

    Models of one N share a color; lines are solid for part a, dashed for part b, and dash-dotted for imported models.

    Args:
        table: a MEMBERSHIP table.
    """
    levels = table.filter((pc.field("score") == "psnr") & pc.is_valid(pc.field("sigma")))
    models = list(labels.by_model(levels))
    sizes = [key["n_train"] if key["role"] == "cell" else key["subject"] for key, _ in models]
    colors = dict(zip(dict.fromkeys(sizes), color_sequence(len(set(sizes))), strict=True))
    figure = Figure(figsize=(9.5, 4.8), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    for panel, name, title, unit, null, linear, share in (
        (panels[0], "gap", "PSNR on training images minus held-out images", "dB", 0, _LINEAR_DB, 1),
        (panels[1], "tpr", "Training images found at 1 % false alarms", "share of T", _CHANCE, _CHANCE, 0.3),
    ):
        for (key, rows), size in zip(models, sizes, strict=True):
            points = [(row["sigma"], _drawn(membership.estimate(row, name))) for row in rows.to_pylist()]
            points = [(sigma, point) for sigma, point in points if point.estimate is not None]
            if points:
                x, y = zip(*points, strict=True)
                band(panel, x, y, colors[size], labels.model(key), _LINES[key["part"]])
        if not panel.lines:
            panel.text(0.5, 0.5, "not measured", transform=panel.transAxes, ha="center", color=GRAY)
        panel.axhline(null, color=GRAY, linewidth=1, linestyle="--", zorder=1)
        panel.set_xscale("log")
        panel.set_yscale("symlog", linthresh=linear, linscale=share)
        panel.yaxis.set_major_formatter(_plain)
        panel.set_title(title)
        panel.set_ylabel(unit)
        panel.set_xlabel(r"noise level $\sigma$ (pixel units)")
    panels[0].set_ylim(_limits([_drawn(membership.estimate(row, "gap")) for row in levels.to_pylist()], _LINEAR_DB))
    panels[1].set_ylim(-_CHANCE / 4, 1.3)
    down = 2 * math.ceil(len(models) / 10)  # an even number, so that the models of one N stand together
    legend(figure, panels, "outside upper center", math.ceil(len(models) / down))
    return figure


def _drawn(found: Estimate) -> Estimate:
    """An estimate without the interval of a single image, which is so wide that it would hide all others."""
    return found if found.n > 1 else replace(found, low=None, high=None)
