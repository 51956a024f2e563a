"""Figures and charts that are made, but neither laid out nor rendered, for tests that look at no picture."""

from collections.abc import Callable
from typing import Any

# What is replaced: its files and its places on a page hold a word. It takes most of the time of a report.
REPLACED: dict[str, Callable[..., Any]] = {
    "matplotlib.figure.Figure.draw_without_rendering": lambda figure: None,
    "memgen.report.style.encode": lambda figure, suffix: b"figure",
    "memgen.report.charts.svg": lambda spec: "chart",
    "memgen.report.charts._encoded": lambda drawn, suffix: drawn.encode(),
}
