"""What a figure shows, read back from matplotlib: panels, curves, outlines, legends, and the tiles of a sheet."""

import itertools
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

STEP = 1.08  # from one column of a sheet to the next, in widths of a tile


def panels(figure: Figure) -> dict[str, Axes]:
    """The panels of a figure by title."""
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}


def curves(panel: Axes) -> dict[str, np.ndarray]:
    """The points (n, 2) of each labeled line of a panel."""
    found = {str(line.get_label()): line.get_xydata() for line in panel.lines}
    return {label: points for label, points in found.items() if not label.startswith("_")}


def styles(panel: Axes) -> dict[str, tuple[str, str]]:
    """Color and line style of each labeled line of a panel."""
    found = {str(line.get_label()): (to_hex(line.get_color()), line.get_linestyle()) for line in panel.lines}
    return {label: style for label, style in found.items() if not label.startswith("_")}


def histograms(panel: Axes) -> dict[str, dict[float, float]]:
    """The bars of each histogram of a panel that are not empty, by label: middle and height."""
    found = {}
    for patch in panel.patches:
        corners = patch.get_xy()
        edges = np.unique(corners[:, 0])
        middles = (edges[1:] + edges[:-1]) / 2
        flat = [(a[0], b[0], a[1]) for a, b in itertools.pairwise(corners) if a[1] == b[1]]
        heights = [max(y for one, two, y in flat if min(one, two) < x < max(one, two)) for x in middles]
        found[str(patch.get_label())] = {float(x): float(y) for x, y in zip(middles, heights, strict=True) if y}
    return found


def bars(panel: Axes) -> list[tuple[float, float, float]]:
    """The vertical bars of a panel's intervals: x, lower end, upper end; those without an interval are left out."""
    segments = [
        segment for found in panel.collections if hasattr(found, "get_segments") for segment in found.get_segments()
    ]
    found = [(float(s[0][0]), float(s[0][1]), float(s[1][1])) for s in segments if len(s) and s[0][0] == s[1][0]]
    return sorted(bar for bar in found if not np.isnan(bar[1:]).any())


def grid(figure: Figure) -> tuple[int, int]:
    """The numbers of rows and columns in which the panels of a figure stand."""
    (found,) = {axes.get_subplotspec().get_gridspec().get_geometry() for axes in figure.axes}
    return found


def words(panel: Axes) -> list[str]:
    """What is written in a panel; it must lie within."""
    area = panel.get_window_extent()
    for text in panel.texts:
        box = text.get_window_extent()
        assert area.x0 <= box.x0 < box.x1 <= area.x1, text
        assert area.y0 <= box.y0 < box.y1 <= area.y1, text
    return [text.get_text() for text in panel.texts]


def numbered(figure: Figure) -> bool:
    """Whether every panel that is shown has numbers along its lower side."""
    return all(axes.xaxis.get_tick_params()["labelbottom"] for axes in figure.axes if axes.axison)


def horizontals(panel: Axes) -> list[float]:
    """The heights of the lines that cross a panel from side to side."""
    return [float(line.get_ydata()[0]) for line in panel.lines if list(line.get_xdata()) == [0, 1]]


def verticals(panel: Axes) -> list[float]:
    """The places of the lines that cross a panel from bottom to top."""
    return [float(line.get_xdata()[0]) for line in panel.lines if list(line.get_ydata()) == [0, 1]]


def legend(figure: Figure) -> dict[str, str]:
    """The labels of a figure's legend with the colors beside them."""
    (found,) = figure.legends
    colors = [
        handle.get_color()
        if isinstance(handle, Line2D)
        else handle.get_facecolor()
        if handle.get_fill()
        else handle.get_edgecolor()
        for handle in found.legend_handles
    ]
    return {text.get_text(): to_hex(color) for text, color in zip(found.get_texts(), colors, strict=True)}


@dataclass(frozen=True)
class Sheet:
    """A sheet of images.

    Attributes:
        names: of the rows, from the top.
        titles: column and title.
        tiles: by row and column, (H, W, 3), 8 bits; a tile that was left out is white.
        numbers: below the tile of a row and column, with their colors.
        groups: numbers of rows that stand together, with more space between groups.
    """

    names: list[str]
    titles: dict[int, str]
    tiles: dict[tuple[int, int], np.ndarray]
    numbers: dict[tuple[int, int], tuple[str, str]]
    groups: list[int]


def sheet(figure: Figure, size: tuple[int, int]) -> Sheet:
    """Take a sheet of images of a size (H, W) apart, by where its words stand."""
    (axes,) = figure.axes
    canvas = axes.images[0].get_array()
    width = round(canvas.shape[1] / axes.get_xlim()[1])
    scale = width // size[1]
    height, tall = size[0] * scale, size[0] / size[1]
    words = [(*text.get_position(), text.get_text(), to_hex(text.get_color())) for text in axes.texts]
    rows = sorted((y - tall / 2, text) for x, y, text, _ in words if x < 0)
    tops = [top for top, _ in rows]
    assert abs(tops[0]) < 1e-9, "the first row is not at the top"
    tiles = {}
    for row, top in enumerate(tops):
        for column in range(round((canvas.shape[1] / width + 0.08) / STEP)):
            y, x = round(top * width), round(column * STEP * width)
            tile = canvas[y : y + height, x : x + width]
            assert (tile[::scale, ::scale].repeat(scale, 0).repeat(scale, 1) == tile).all(), "a pixel is not a square"
            tiles[row, column] = tile[::scale, ::scale]
    numbers = {}
    for x, y, text, color in words:
        if x > 0 and y > 0:
            row = int(np.searchsorted(tops, y)) - 1
            assert y > tops[row] + tall, "a number stands on an image"
            assert row + 1 == len(tops) or y < tops[row + 1], "a number stands on an image"
            assert y < axes.get_ylim()[0], "a number stands outside of the sheet"
            numbers[row, round((x - 0.5) / STEP)] = (text, color)
    titles = {round((x - 0.5) / STEP): text for x, y, text, _ in words if x > 0 and y < 0}
    columns = 1 + max(column for _, column in tiles)
    assert abs(canvas.shape[1] / width - (columns * STEP - 0.08)) < 0.02, "the last column is not at the side"
    steps = np.diff(tops)
    assert (steps < tall + 1).all(), "rows stand far apart"
    apart = np.flatnonzero(steps > steps.min(initial=np.inf) + 0.1) + 1
    groups = np.diff([0, *apart, len(tops)]).tolist()
    return Sheet([name for _, name in rows], titles, tiles, numbers, groups)
