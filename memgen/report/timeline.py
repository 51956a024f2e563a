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


@styled
def figure_timeline(
    timeline: pa.Table, drawn: pa.Table, generalizes: Between | None, memorizes: Between | None
) -> Figure:
    """PSNR on training and held-out images, its gap with intervals, and the memorized fraction of samples.

    Args:
        timeline: a TIMELINE table.
        drawn: a DRAWN table; without rows, there is no panel of samples.
        generalizes: between which readings the model came near its best on held-out images; None if it is not known.
        memorizes: between which readings it began to memorize; None if that was not seen.

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
    for between, label, color in (
        (generalizes, "comes near its best on held-out images", BLUE),
        (memorizes, "begins to memorize", ORANGE),
    ):
        if between is not None:
            _mark(every, between, label, color)
    for panel in every:
        if min(seen, default=0) > 0:
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_major_formatter(FuncFormatter(lambda seen, _: f"{seen:,.0f}"))
            panel.xaxis.set_minor_formatter(NullFormatter())
    every[-1].set_xlabel("training images seen")
    legend(figure, every, "outside upper center", columns=2)
    return figure


def _mark(panels: tuple[Axes, ...], between: Between, label: str, color: str) -> None:
    for panel in panels:
        panel.axvspan(max(between[0], between[1] / 1e3), between[1], color=color, alpha=0.15, linewidth=0)
        panel.axvline(between[1], color=color, linewidth=1, linestyle=":", label=label)


def _estimate(row: Mapping[str, Any], name: str, prefix: str) -> Estimate:
    return Estimate.of(row[name], row[f"{prefix}low"], row[f"{prefix}high"])
