"""How every figure looks, and how it is saved."""

import functools
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from memgen.base import files
from memgen.base.estimates import Estimate

BLUE, ORANGE, GRAY, INK = "#2166ac", "#e08214", "#7a7a7a", "#222222"
# Any, because matplotlib types the keys as literals.
STYLE: Any = {
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
    """Decorator: draw in the style of all figures, with a layout that a later save does not move."""

    @functools.wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            figure = draw(*args, **kwargs)
            # The layout is solved once, because solving it again at each save is slow and moves things a little.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            return figure

    return drawn


def band(panel: Axes, x: Sequence[float], y: Sequence[Estimate], color: str, label: str, linestyle: str = "-") -> None:
    """Draw a curve with its intervals, as a band and as bars at the points; a point without an interval has neither."""
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


def legend(
    figure: Figure,
    panels: Iterable[Axes],
    place: Literal["outside right center", "outside upper center"],
    columns: int = 1,
) -> None:
    """Draw one legend outside of all panels, with each label once."""
    handles = {
        label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc=place, ncols=columns)


def drawable(text: str) -> str:
    """A text that is not ours, such as the name of a file, as a figure can show it: what the font lacks becomes ?."""
    font = get_font(findfont(STYLE["font.family"]))
    return "".join(letter if font.get_char_index(ord(letter)) else "?" for letter in text).replace("$", r"\$")


def color_sequence(count: int) -> list[Any]:
    """Colors from dark to light for ascending N, which color-blind readers can tell apart."""
    return [mpl.colormaps["viridis"](x) for x in np.linspace(0.0, 0.9, count)]


# Dates and program names would make the bytes depend on more than the figure.
_NO_METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
SUFFIXES = tuple(_NO_METADATA)  # of the files that a figure is saved as


def save(figure: Figure, path: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Write a figure as PNG (150 dpi), SVG and PDF; the same figure always gives the same bytes.

    Args:
        figure: the figure to write.
        path: path of the files without their suffix.
        suffixes: of the files to write.

    Returns:
        Their paths.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    return save_as(path, lambda suffix: encode(figure, suffix), suffixes)


def save_as(path: Path, encoded: Callable[[str], bytes], suffixes: Sequence[str] | None = None) -> list[Path]:
    """Write one thing as a file of each type, and return the paths.

    Args:
        path: path of the files without their suffix.
        encoded: gives the bytes of a file by its suffix.
        suffixes: of the files to write; None for all of SUFFIXES.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    written = []
    for suffix in suffixes or SUFFIXES:
        target = path.with_name(path.name + suffix)
        with files.writing(target) as file:
            file.write(encoded(suffix))
        written.append(target)
    return written


def encode(figure: Figure, suffix: str) -> bytes:
    """The bytes of a figure as a file of the type .png, .svg or .pdf."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, dpi=150, format=suffix[1:], metadata=_NO_METADATA[suffix])
    return buffer.getvalue()
