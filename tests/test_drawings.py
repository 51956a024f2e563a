"""The figures of notebooks that pages draw as charts: the data that each panel, curve and color shows."""

import matplotlib as mpl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import synthetic_run
from drawn import bars, curves, grid, histograms, horizontals, legend, numbered, panels, styles, verticals, words
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from test_charts import compared, neighbors, similarity
from test_figures import THEIRS, cell, known, psnr

from memgen.base import schemas, wording
from memgen.findings import transition
from memgen.report import figures
from memgen.report.similarities import HELD_OUT, NEAREST
from memgen.report.similarities import OTHER_NOISE as OTHER
from memgen.report.similarities import SAME_NOISE as SAME

BLUE, ORANGE = "#2166ac", "#e08214"
LAYOUT = Figure.draw_without_rendering
DARK, LIGHT = (to_hex(mpl.colormaps["viridis"](x)) for x in (0.0, 0.9))  # smallest and largest N


@pytest.fixture(autouse=True, scope="module")
def quick():
    """The layout of figures, which no test here reads, is left unsolved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "draw_without_rendering", lambda figure: None)
        yield


# ------------------------------------------------------------------------------------------------ denoising curves


def test_each_denoising_panel_shows_its_own_images():
    """Training images are on the left and held-out images on the right, each N in one color, with its intervals."""
    table = pa.concat_tables(
        [
            psnr(cell(64), "train", {10.0: [25.0, 26.0], 20.0: [31.0, 32.0]}),
            psnr(cell(64), "holdout", {10.0: [24.0, 24.5], 20.0: [30.0, 30.5]}),
            psnr(cell(4), "train", {10.0: [35.0, 36.0], 20.0: [41.0, 42.0]}),
            psnr(cell(4), "holdout", {10.0: [14.0, 14.5], 20.0: [15.0, 15.5]}),
            psnr(known("best_linear"), "holdout", {10.0: [20.0, 21.0]}),
            psnr(known("wavelet_oracle"), "holdout", {10.0: [50.0, 50.0]}),
        ]
    )
    figure = figures.figure_psnr(table, 100)
    left, right = figure.axes
    assert (left.get_title(loc="left"), right.get_title(loc="left")) == ("Training images", "Held-out images")
    assert grid(figure) == (1, 2)
    assert curves(left)["N = 4"].tolist() == [[10, 35.5], [20, 41.5]]
    assert curves(left)["N = 64"].tolist() == [[10, 25.5], [20, 31.5]]
    assert curves(right)["N = 4"].tolist() == [[10, 14.25], [20, 15.25]]
    assert curves(right)["N = 64"].tolist() == [[10, 24.25], [20, 30.25]]
    assert curves(left)["identity"].tolist() == curves(right)["identity"].tolist() == [[10, 10], [20, 20]]
    assert curves(left)["identity + 10 log10 d"].tolist() == [[10, 30], [20, 40]]
    linear = wording.KNOWN_SUBJECTS["best_linear"]
    assert curves(right).keys() - curves(left).keys() == {linear}
    assert curves(left).keys() - curves(right).keys() == {"identity + 10 log10 d"}
    assert styles(left)["N = 4"] == styles(right)["N = 4"] == (DARK, "-")
    assert styles(left)["N = 64"] == styles(right)["N = 64"] == (LIGHT, "-")
    assert styles(right)[linear] == ("#222222", "-.")
    found = {bar for bar in bars(left) if bar[0] == 20}
    assert found == {(20, 31, 32), (20, 41, 42)}
    assert left.get_ylim() == right.get_ylim() == (12.75, 43.0)
    assert (left.get_xlabel(), left.get_ylabel()) == ("input PSNR (dB)", "output PSNR (dB)")
    assert (right.get_xlabel(), right.get_ylabel()) == ("input PSNR (dB)", "")
    labels = ["N = 4", "N = 64", "identity", "identity + 10 log10 d", linear]
    assert list(legend(figure)) == labels
    assert [legend(figure)[label] for label in labels[:2]] == [DARK, LIGHT]
    assert "identity + 10 log10 d" not in legend(figures.figure_psnr(table))


def test_imported_denoisers_have_curves_of_their_own():
    """Without an N a curve bears the denoiser's name, and comes after those of the sweep."""
    table = pa.concat_tables(
        [psnr(THEIRS, "holdout", {20.0: [1.0, 3.0]}), psnr(cell(4), "holdout", {20.0: [5.0, 5.0]})]
    )
    assert [(level.label, level.mean.estimate) for level in figures.levels(table, "output_psnr_db")] == [
        ("N = 4", 5.0),
        ("theirs", 2.0),
    ]
    figure = figures.figure_psnr(table)
    assert legend(figure)["theirs"] == LIGHT
    assert styles(figure.axes[1])["theirs"] == (LIGHT, "-")


def test_curves_are_bands_through_points_in_order():
    """Points are joined in ascending order and shaded between the ends of their intervals, without a mark where many."""
    values = {float(x): [30.0 - x, 32.0 - x] for x in (20, 10, 15)}
    panel = figures.figure_psnr(psnr(cell(4), "holdout", values)).axes[1]
    (line, _), (area, lines) = panel.lines, panel.collections
    assert {to_hex(found.get_color()) for found in (line, lines)} == {to_hex(area.get_facecolor())} == {DARK}
    assert line.get_xydata().tolist() == [[10, 21], [15, 16], [20, 11]]
    assert line.get_marker() == "o"
    corners = {(float(x), float(y)) for x, y in area.get_paths()[0].vertices}
    assert corners == {(x, y) for x, values in values.items() for y in values}
    assert len(lines.get_segments()) == 3
    many = {float(x): [30.0, 32.0] for x in range(13)}
    panel = figures.figure_psnr(psnr(cell(4), "holdout", many)).axes[1]
    assert panel.lines[0].get_marker() == ""
    assert not bars(panel)
    twelve = dict(list(many.items())[:12])
    assert len(bars(figures.figure_psnr(psnr(cell(4), "holdout", twelve)).axes[1])) == 12


def test_an_interval_with_an_open_end_is_not_drawn(summary):
    """A point whose interval has no lower or no upper end has neither bar nor band."""
    for end in ("low", "high"):
        rows = [row | ({end: None} if row["n_train"] == 16 else {}) for row in summary.to_pylist()]
        panel = figures.figure_transition(pa.Table.from_pylist(rows, schema=summary.schema)).axes[1]
        assert [n for n, _, _ in bars(panel)] == [1, 4, 64, 256, 1024]


# ---------------------------------------------------------------------------------------- similarities and transition


def test_histograms_show_each_comparison_under_its_name():
    """Every outline has the values of its own comparison, as shares; the filled ones have a line at their median."""
    run = compared()
    figure = figures.figure_histograms(run)
    first, second = panels(figure)["N = 4"], panels(figure)["N = 16"]
    expected = {SAME: {0.1: 2 / 3, 0.9: 1 / 3}, OTHER: {0.3: 1.0}, NEAREST: {0.95: 2 / 3, 0.8: 1 / 3}}
    expected[HELD_OUT] = {0.7: 2 / 3, 0.6: 1 / 3}
    width = (0.95 - 0.1) / 40
    assert histograms(first).keys() == expected.keys()
    for label, shares in expected.items():
        found = histograms(first)[label]
        assert sum(found.values()) == pytest.approx(1)
        for value, share in shares.items():
            (height,) = (y for x, y in found.items() if x - width / 2 <= value + 1e-9 < x + width / 2 + 1e-6)
            assert height == pytest.approx(share), (label, value)
    assert sorted(verticals(first)) == [0.1, 0.95]
    assert {to_hex(line.get_color()): line.get_xdata()[0] for line in first.lines} == {BLUE: 0.1, ORANGE: 0.95}
    assert histograms(second).keys() == {SAME}
    assert not len(first.get_yticks())
    assert verticals(second) == [pytest.approx(0.55)]
    assert legend(figure) == {OTHER: "#7a7a7a", HELD_OUT: "#222222", NEAREST: ORANGE, SAME: BLUE}
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("correlation of two images", "share of pairs")
    alone = figures.figure_histograms({"neighbors": run["neighbors"]})
    assert histograms(panels(alone)["N = 4"]).keys() == {NEAREST, HELD_OUT}
    alone = figures.figure_histograms({"similarity": run["similarity"]})
    assert histograms(panels(alone)["N = 4"]).keys() == {SAME, OTHER}
    other = figures.figure_histograms(run, "rmse")
    assert other.get_supxlabel() == "rmse of two images"
    assert list(panels(other)) == ["N = 4"]
    assert {float(line.get_xdata()[0]) for line in panels(other)["N = 4"].lines} == {0.75}


def test_imported_subjects_have_histograms_of_their_own():
    """An imported subject is compared with its own training set in a panel of its name, after those of the sweep."""
    theirs = neighbors(4, "sample", None, "train", [0.75, 0.85])
    unseen = neighbors(4, "holdout", None, "train", [0.35])
    other = neighbors(4, "sample", None, "holdout", [0.45])
    rows = pa.concat_tables([theirs, unseen, other]).to_pylist()
    theirs = [row | {"subject": "1st", "role": "imported", "train_seed": None} for row in rows]
    pairs = [row | {"role": "imported"} for row in similarity(4, "same_noise", [0.2]).to_pylist()]
    run = {
        "neighbors": pa.concat_tables(
            [pa.Table.from_pylist(theirs, schema=schemas.NEIGHBORS), neighbors(16, "sample", "a", "train_a", [0.95])]
        ),
        "similarity": pa.Table.from_pylist(pairs, schema=schemas.SIMILARITY),
    }
    figure = figures.figure_histograms(run)
    assert list(panels(figure)) == ["N = 16", "1st"]
    found = histograms(panels(figure)["1st"])
    assert found.keys() == {NEAREST, HELD_OUT}
    assert list(found[NEAREST].values()) == [0.5, 0.5]
    assert verticals(panels(figure)["1st"]) == [pytest.approx(0.8)]
    assert histograms(panels(figure)["N = 16"]).keys() == {NEAREST}


def test_histograms_have_four_panels_in_a_row():
    """Five sizes take two rows of three; the panel left over is empty."""
    run = {"similarity": pa.concat_tables([similarity(n, "same_noise", [0.5, 0.7]) for n in (1, 4, 16, 64, 1024)])}
    figure = figures.figure_histograms(run)
    assert list(panels(figure)) == ["N = 1", "N = 4", "N = 16", "N = 64", "N = 1,024"]
    assert grid(figure) == (2, 3)
    assert [axes.axison for axes in figure.axes] == [True] * 5 + [False]
    assert numbered(figure)
    four = {"similarity": pa.concat_tables([similarity(n, "same_noise", [0.5, 0.7]) for n in (1, 4, 16, 64)])}
    assert grid(figures.figure_histograms(four)) == (1, 4)
    one = figures.figure_histograms({"similarity": similarity(4, "same_noise", [0.5, 0.5])})
    assert grid(one) == (1, 1)
    assert list(histograms(one.axes[0])[SAME].values()) == [1.0]  # of values that do not differ


@pytest.fixture(scope="module")
def summary() -> pa.Table:
    """The TRANSITION table of the synthetic run."""
    return transition.summarize(synthetic_run.run().tables, 0, resamples=100)


@pytest.fixture(scope="module")
def shown(summary):
    """The transition figure of the synthetic run."""
    return figures.figure_transition(summary)


TRANSITION = {
    "Median similarity of two images": {
        "nearest_own": (NEAREST, ORANGE, "-"),
        "cross_same": (SAME, BLUE, "-"),
        "nearest_holdout_to_train": (HELD_OUT, "#b98a4e", "--"),
        "cross_different": (OTHER, "#8fb3d1", "--"),
    },
    "Memorized fraction": {"memorized_fraction": ("", ORANGE, "-")},
    "PSNR on training images minus held-out images": {"psnr_gap": ("", "#222222", "-")},
    "Difference between the two score functions": {"bits": ("", BLUE, "-")},
}


@pytest.mark.parametrize("title", TRANSITION)
def test_each_transition_panel_shows_its_own_quantity(summary, shown, title):
    """Each curve has the estimates and the intervals of its quantity at every N, in its color, under its label."""
    rows, panel = transition.estimates(summary), panels(shown)[title]
    sizes = sorted({key for key, _ in rows if isinstance(key, int)})
    drawn = [line for line in panel.lines if len(line.get_xdata()) == len(sizes)]
    assert len(drawn) == len(TRANSITION[title])
    expected = set()
    for line, (quantity, (label, color, dashes)) in zip(drawn, TRANSITION[title].items(), strict=True):
        assert line.get_xydata().tolist() == [[n, rows[n, quantity].estimate] for n in sizes]
        assert (to_hex(line.get_color()), line.get_linestyle()) == (color, dashes)
        assert line.get_label() == label or not label
        expected |= {
            (n, rows[n, quantity].low, rows[n, quantity].high) for n in sizes if rows[n, quantity].low is not None
        }
    assert set(bars(panel)) == expected
    assert not any("not measured" in text.get_text() for text in panel.texts)
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["1", "4", "16", "64", "256", "1,024"]
    assert panel.get_xscale() == "log"
    assert panel.get_xlim()[0] < 1 < 1024 < panel.get_xlim()[1]
    assert not len(panel.get_xticks(minor=True))
    assert panel.get_xlabel() == "training images N"


def test_transition_panels_say_what_their_axes_are(shown):
    """Units are beside the axes; lines mark 0, one half and all of the fraction, and no gap; bits are on a log scale."""
    units = {title: panel.get_ylabel() for title, panel in panels(shown).items()}
    assert list(units.values()) == ["correlation", "share of samples, above chance", "dB", "bits per dimension"]
    _, fraction, gap, apart = panels(shown).values()
    assert horizontals(fraction) == [0, 0.5, 1]
    assert [line.get_linestyle() for line in fraction.lines if list(line.get_xdata()) == [0, 1]] == [":", "--", ":"]
    assert horizontals(gap) == [0]
    assert [panel.get_yscale() for panel in (fraction, gap, apart)] == ["linear", "linear", "log"]
    assert numbered(shown)
    assert grid(shown) == (2, 2)
    assert shown.axes[0].get_shared_x_axes().joined(shown.axes[0], shown.axes[-1])
    assert legend(shown) == {label: color for label, color, _ in TRANSITION["Median similarity of two images"].values()}


@pytest.mark.parametrize(
    ("title", "point"), [("Median similarity of two images", "N_cross"), ("Memorized fraction", "N_half")]
)
def test_transition_points_stand_in_their_panel(summary, shown, title, point):
    """A point is a vertical line at its estimate, with its interval behind it and its name and number at its foot."""
    row, panel = transition.estimates(summary)[None, point], panels(shown)[title]
    assert verticals(panel) == [row.estimate]
    (span,) = panel.patches
    assert (span.get_x(), span.get_x() + span.get_width()) == (pytest.approx(row.low), pytest.approx(row.high))
    (text,) = panel.texts
    name = point.removeprefix("N_")
    assert text.get_text() == rf"$N^*_\mathrm{{{name}}}$ = {wording.number(row.estimate, 'images')}"
    assert text.xy[0] == row.estimate
    assert text.get_ha() == ("left" if row.estimate < 32 else "right")
    assert all(not verticals(other) for _, other in list(panels(shown).items())[2:])


def test_transition_names_stand_where_there_is_room(summary):
    """The name of a point in the upper half of the sizes is on its left, in the lower half on its right."""
    marked = summary.to_pylist()
    for estimate, side, offset in ((31.0, "left", 5), (33.0, "right", -5)):
        found = [row | ({"estimate": estimate} if row["quantity"] == "N_half" else {}) for row in marked]
        panel = figures.figure_transition(pa.Table.from_pylist(found, schema=summary.schema)).axes[1]
        assert (panel.texts[0].get_ha(), panel.texts[0].xyann) == (side, (offset, 0))
        words, area = panel.texts[0].get_window_extent(), panel.get_window_extent()
        at = panel.transData.transform((estimate, 0.5))[0]
        assert 0 < (words.x0 - at if side == "left" else at - words.x1) < 15
        assert area.y0 < words.y0 < words.y1 < area.y0 + 0.2 * area.height


def test_a_transition_figure_of_one_measure_says_what_is_missing(summary):
    """At one N with similarities alone three panels say that they were not measured, and no point is marked."""
    run = synthetic_run.run().tables
    one = {"similarity": run["similarity"].filter(pc.equal(run["similarity"]["n_train"], 16))}
    table = transition.summarize(one, 0, resamples=50)
    figure = figures.figure_transition(table)
    assert [words(axes) for axes in figure.axes] == [[], ["not measured"], ["not measured"], ["not measured"]]
    assert figure.axes[0].get_xlim() == (8, 32)
    assert list(curves(figure.axes[0])) == [SAME, OTHER]
    assert figure.axes[3].get_yscale() == "linear"
    open_ended = [row | ({"low": None} if row["n_train"] is None else {}) for row in summary.to_pylist()]
    figure = figures.figure_transition(pa.Table.from_pylist(open_ended, schema=summary.schema))
    assert not any(axes.patches for axes in figure.axes)
    assert verticals(figure.axes[0])
