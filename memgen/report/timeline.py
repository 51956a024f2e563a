"""The figure of a training: quality, gap, and what samples show, against the images that the model has seen."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from memgen.base.estimates import Estimate
from memgen.report.style import BLUE, GRAY, INK, ORANGE, band, legend, styled

Between = tuple[int, int]  # images seen: the reading before, and the reading that showed it


GENERALIZES = "comes near its best on held-out images"
DENOISES_BETTER = "denoises training images better than held-out ones"
DRAWS_COPIES = "draws training images"
_COLORS = {GENERALIZES: BLUE, DENOISES_BETTER: INK, DRAWS_COPIES: ORANGE}


@styled
def figure_timeline(timeline: pa.Table, drawn: pa.Table, marks: Mapping[str, Between]) -> Figure:
    """PSNR on training and held-out images, its gap with intervals, and the memorized fraction of samples.

    Args:
        timeline: a TIMELINE table.
        drawn: a DRAWN table; without rows, there is no panel of samples.
        marks: between which readings GENERALIZES, DENOISES_BETTER and DRAWS_COPIES were reached, as far as they were.

    Source: after Bonnaire, Urfin, Biroli & Mezard 2025, Fig. 1.
    """
    panels = 3 if drawn.num_rows else 2
    figure = Figure(figsize=(8, 2.5 * panels + 0.6), layout="constrained")
    quality, gap, *samples = figure.subplots(panels, 1, sharex=True)
    rows = timeline.to_pylist()
    seen = [row["images_seen"] for row in rows]
    for name, color, label in (("train", ORANGE, "training images"), ("held_out", BLUE, "held-out images")):
        band(quality, seen, [Estimate.of(row[name]) for row in rows], color, label)
    quality.set_title("PSNR of denoised images")
    quality.set_ylabel("dB")
    band(gap, seen, [_estimate(row, "gap", "") for row in rows], INK, "gap")
    band(
        gap,
        seen,
        [_estimate(row, "growth", "growth_") for row in rows],
        GRAY,
        "its growth since the first reading",
        "--",
    )
    gap.axhline(0, color=GRAY, linewidth=1)
    gap.set_title("PSNR on training images minus held-out images, with intervals that hold together")
    gap.set_ylabel("dB")
    for panel in samples:
        kept = drawn.to_pylist()
        fractions = [_estimate(row, "memorized_fraction", "") for row in kept]
        band(panel, [row["images_seen"] for row in kept], fractions, ORANGE, "memorized fraction")
        panel.axhline(0, color=GRAY, linewidth=1)
        panel.set_title(f"Memorized fraction of {kept[0]['samples']} samples")
        panel.set_ylabel("share, above chance")
    every = (quality, gap, *samples)
    for label, between in marks.items():
        _mark(every, between, label)
    for panel in every:
        if min(seen, default=0) > 0:
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_minor_formatter(NullFormatter())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda seen, _: f"{seen:,.0f}"))
    every[-1].set_xlabel("training images seen")
    legend(figure, every, "outside upper center", columns=2)
    return figure


def _mark(panels: tuple[Axes, ...], between: Between, label: str) -> None:
    color = _COLORS[label]
    for panel in panels:
        panel.axvspan(max(between[0], between[1] / 1e3), between[1], color=color, alpha=0.15, linewidth=0)
        panel.axvline(between[1], color=color, linewidth=1.5, linestyle=":", label=label)


def _estimate(row: Mapping[str, Any], name: str, prefix: str) -> Estimate:
    return Estimate.of(row[name], row[f"{prefix}low"], row[f"{prefix}high"])
