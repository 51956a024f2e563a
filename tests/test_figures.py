"""The figures: the data that each panel, curve and color shows, files that do not change, and no global state."""

import itertools
import math

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import synthetic_run
from drawn import bars, curves, grid, horizontals, legend, numbered, panels, styles, verticals, words
from matplotlib._pylab_helpers import Gcf
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from memgen.base import schemas, tables
from memgen.report import figures, spectra, style

BLUE, ORANGE = "#2166ac", "#e08214"
LAYOUT = Figure.draw_without_rendering
DARK, LIGHT = (to_hex(mpl.colormaps["viridis"](x)) for x in (0.0, 0.9))  # smallest and largest N
SUBJECT = {"subject": "n4-s0-a", "role": "cell", "n_train": 4, "part": "a", "train_seed": 0}
THEIRS = {"subject": "theirs", "role": "imported", "n_train": None, "part": None, "train_seed": None}


@pytest.fixture(autouse=True, scope="module")
def quick():
    """The layout of figures, which no test here reads, is left unsolved."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "draw_without_rendering", lambda figure: None)
        yield


def known(name: str) -> dict:
    """The key columns of a reference or a baseline."""
    role = "baseline" if name in schemas.BASELINES else "reference"
    return {"subject": name, "role": role, "n_train": None, "part": None, "train_seed": None}


def cell(n_train: int, part: str = "a") -> dict:
    """The key columns of a trained cell."""
    return {**SUBJECT, "subject": f"n{n_train}-s0-{part}", "n_train": n_train, "part": part}


def psnr(subject: dict, kind: str, values: dict[float, list[float]]) -> pa.Table:
    """The output PSNR of each image at each input PSNR, dB."""
    rows = [(level, image, value) for level, found in values.items() for image, value in enumerate(found)]
    levels, images, outputs = zip(*rows, strict=True)
    columns = {"kind": kind, "image_id": [f"{kind}-{i}" for i in images], "noise_draw": 0}
    columns |= {"sigma": [10 ** (-level / 20) for level in levels], "input_psnr_db": list(levels)}
    return tables.make(schemas.PSNR, {**subject, **columns, "output_psnr_db": list(outputs)})


# ------------------------------------------------------------------------------------------------ denoising curves


def test_levels_are_means_over_images_of_means_over_draws():
    """A level equals the mean of per-image means; a single image of each denoiser has no interval."""
    table = synthetic_run.run().tables["psnr"]
    train = table.filter(pc.equal(table["kind"], "train"))
    found = {(level.label, level.sigma): level.mean for level in figures.levels(train, "output_psnr_db")}
    sigma = synthetic_run.SIGMAS[0]
    rows = train.filter(pc.and_(pc.equal(train["n_train"], 16), pc.equal(train["sigma"], sigma)))
    assert found["N = 16", sigma].estimate == pytest.approx(np.mean(rows["output_psnr_db"].to_numpy()))
    assert found["N = 16", sigma].n == 32
    assert found["N = 16", sigma].low < found["N = 16", sigma].estimate < found["N = 16", sigma].high
    assert found["N = 1", sigma].low is None
    assert found["N = 1", sigma].n == 1


def test_levels_weigh_each_image_and_each_denoiser_alike():
    """Draws of an image count once however many there are, and so do the denoisers that saw it."""
    often = psnr(cell(4), "holdout", {20.0: [10.0]})
    often = pa.concat_tables([often] * 3)
    other = psnr(cell(4, "b"), "holdout", {20.0: [20.0, 31.0]})
    (level,) = figures.levels(pa.concat_tables([often, other]), "output_psnr_db")
    assert level.mean.estimate == pytest.approx(((10 + 20) / 2 + 31) / 2)
    assert level.mean.n == 2
    alone = psnr(cell(4), "holdout", {20.0: [10.0, math.nan]})
    (level,) = figures.levels(alone, "output_psnr_db")
    assert (level.mean.estimate, level.mean.low, level.mean.high, level.mean.n) == (10.0, None, None, 1)


# ------------------------------------------------------------------------------------------------ noise levels, slopes


def levels(quantity: str, n: int, estimates: dict[float, float | None]) -> pa.Table:
    values = list(estimates.values())
    ends = {
        side: [None if x is None else x + shift for x in values] for side, shift in (("low", -0.001), ("high", 0.002))
    }
    columns = {
        "n_train": n,
        "subject": None,
        "status": "measured",
        "quantity": quantity,
        "sigma": list(estimates),
        "estimate": values,
        **ends,
        "n": 9,
    }
    return tables.make(schemas.LEVELS, {**columns, "unit": ""})


LEVELS = {
    "disagreement": ("Disagreement V of the models on held-out images", "squared pixel units", "log", []),
    "bits_density": (
        "Bits between the models on their noised samples",
        r"bits per dimension and unit of $\ln \sigma$",
        "log",
        [],
    ),
    "to_empirical": ("Distance to pure memorization", "0 = own training set, 1 = other set", "linear", [0, 1]),
    "to_linear": ("Held-out PSNR minus best linear denoiser", "dB", "linear", [0]),
    "to_optimum": ("Held-out PSNR minus exact optimum", "dB", "linear", [0]),
    "excess_error": ("Error above that of the exact optimum", "share of the squared error", "linear", [0]),
}


def test_each_panel_of_levels_shows_its_own_quantity():
    """Every quantity has a panel with its curve for each N, its unit, its scale and its lines for comparison."""
    values = {name: {0.1: 0.1 + place / 10, 0.5: 0.4 + place / 10} for place, name in enumerate(LEVELS)}
    found = [levels(name, 4, at) for name, at in values.items()]
    found += [levels(name, 16, {0.5: value[0.5] / 2}) for name, value in values.items()]
    figure = figures.figure_levels(pa.concat_tables(found))
    assert list(panels(figure)) == [title for title, *_ in LEVELS.values()]
    assert grid(figure) == (3, 2)
    for name, (title, unit, scale, lines) in LEVELS.items():
        panel = panels(figure)[title]
        drawn = curves(panel)
        assert drawn["N = 4"].tolist() == [[0.1, values[name][0.1]], [0.5, values[name][0.5]]], name
        assert drawn["N = 16"].tolist() == [[0.5, values[name][0.5] / 2]], name
        assert styles(panel) == {"N = 4": (DARK, "-"), "N = 16": (LIGHT, "-")}
        assert (panel.get_xscale(), panel.get_yscale(), panel.get_ylabel()) == ("log", scale, unit)
        assert panel.get_xlabel() == r"noise level $\sigma$ (pixel units)"
        assert horizontals(panel) == lines
        at = values[name][0.1]
        assert (0.1, pytest.approx(at - 0.001), pytest.approx(at + 0.002)) in bars(panel)
    assert legend(figure) == {"N = 4": DARK, "N = 16": LIGHT}
    assert numbered(figure)


def test_curves_are_bands_through_points_in_order():
    """Points are joined in ascending order and shaded between the ends of their intervals, without a mark where many."""
    title = LEVELS["to_linear"][0]

    def drawn(values):
        return panels(figures.figure_levels(levels("to_linear", 4, values)))[title]

    panel = drawn({0.2: 11.0, 0.1: 21.0, 0.15: 16.0})
    line, (area, lines) = panel.lines[0], panel.collections
    assert {to_hex(found.get_color()) for found in (line, lines)} == {to_hex(area.get_facecolor())} == {DARK}
    assert line.get_xydata().tolist() == [[0.1, 21], [0.15, 16], [0.2, 11]]
    assert line.get_marker() == "o"
    assert {float(x) for x, _ in area.get_paths()[0].vertices} == {0.1, 0.15, 0.2}
    assert len(lines.get_segments()) == 3
    many = {float(x): 31.0 for x in range(1, 14)}
    panel = drawn(many)
    assert panel.lines[0].get_marker() == ""
    assert not bars(panel)
    assert len(bars(drawn(dict(list(many.items())[:12])))) == 12


def test_imported_subjects_have_levels_of_their_own():
    """An imported subject has a curve of its name, after those of the sweep."""
    theirs = [
        row | {"n_train": None, "subject": "1st"} for row in levels("to_linear", 4, {0.1: 0.5, 0.5: 0.75}).to_pylist()
    ]
    table = pa.concat_tables(
        [pa.Table.from_pylist(theirs, schema=schemas.LEVELS), levels("to_linear", 1024, {0.1: 0.25})]
    )
    figure = figures.figure_levels(table)
    assert legend(figure) == {"N = 1,024": DARK, "1st": LIGHT}
    shown = curves(panels(figure)[LEVELS["to_linear"][0]])
    assert shown["1st"].tolist() == [[0.1, 0.5], [0.5, 0.75]]
    assert shown["N = 1,024"].tolist() == [[0.1, 0.25]]


def test_levels_without_an_optimum_have_four_panels():
    """Panels that compare with an optimum are left out where there is none; others say that they are missing."""
    figure = figures.figure_levels(levels("to_empirical", 4, {0.1: 0.5, 0.5: 30.0}))
    assert list(panels(figure)) == [title for title, *_ in list(LEVELS.values())[:4]]
    assert [words(axes) for axes in figure.axes] == [["not measured"], ["not measured"], [], ["not measured"]]
    assert figure.axes[0].get_yscale() == "linear"
    assert figure.axes[2].get_ylim() == (-0.1, 2.0)
    low = figures.figure_levels(levels("to_empirical", 4, {0.1: 0.5, 0.5: 0.6})).axes[2]
    assert low.get_ylim()[0] == -0.1
    assert low.get_ylim()[1] == 1.1
    undefined = figures.figure_levels(levels("to_empirical", 4, {0.1: None})).axes[2]
    assert words(undefined) == ["not measured"]
    wide = figures.figure_levels(levels("to_linear", 4, {0.1: 5.0, 0.5: 30.0})).axes[3]
    assert wide.get_ylim()[1] > 30


def slope(subject: dict, place: float, **more: float | None) -> dict:
    none = dict.fromkeys(
        ("theory", "over_oracle", "over_oracle_low", "over_oracle_high", "gain_db", "gain_low", "gain_high")
    )
    keys = {name: subject[name] for name in ("subject", "role", "n_train")}
    values = {"n_subjects": 2, "low_db": 10.0, "high_db": 20.0, "n_levels": 2, "n": 9, "slope": 0.5 + place}
    values |= {"low": 0.4 + place, "high": 0.7 + place, "level_db": 25 + place, "level_low": 24.0, "level_high": 26.0}
    return keys | values | none | {"gain_theory": None} | more


def test_slopes_stand_beside_their_lines():
    """Points are those of held-out images in the range and outside; the line and the slope have one color and one row."""
    names = [
        cell(4) | {"subject": None},
        cell(64) | {"subject": None},
        known("best_linear"),
        known("wavelet_oracle"),
        THEIRS,
    ]
    rows = [slope(name, place / 10) for place, name in enumerate(names)]
    rows[0]["theory"] = 0.75
    rows[2] |= {"slope": None, "low": None, "high": None}
    rows[3]["low"] = None
    table = pa.Table.from_pylist(rows, schema=schemas.SLOPES)
    measured = pa.concat_tables(
        [
            psnr(cell(4), "holdout", {10.0: [22.0, 24.0], 20.0: [26.0, 28.0], 40.0: [30.0, 30.0]}),
            psnr(cell(4), "train", {10.0: [60.0], 20.0: [61.0]}),
            psnr(cell(64), "holdout", {10.0: [21.0], 20.0: [22.0]}),
            psnr(THEIRS, "holdout", {10.0: [31.0], 20.0: [32.0]}),
            psnr(known("best_linear"), "holdout", {10.0: [11.0], 20.0: [12.0]}),
            psnr(known("wavelet_oracle"), "holdout", {10.0: [13.0], 20.0: [14.0]}),
        ]
    )
    figure = figures.figure_slopes(table, measured)
    left, right = figure.axes
    assert grid(figure) == (1, 2)
    dots = {to_hex(line.get_color()): line.get_xydata().tolist() for line in left.lines if line.get_marker() == "o"}
    assert [sorted(at) for at in dots.values() if at] == [
        [[10, 23], [20, 27], [40, 30]],
        [[10, 21], [20, 22]],
        [[10, 11], [20, 12]],
        [[10, 13], [20, 14]],
        [[10, 31], [20, 32]],
    ]
    assert list(dots) == [DARK, LIGHT, "#8fb3d1", BLUE, "#222222"]
    fitted = {
        to_hex(line.get_color()): line.get_xydata().tolist() for line in left.lines if line.get_linestyle() == "-"
    }
    assert fitted[DARK] == [[10, pytest.approx(25 - 0.5 * 5)], [20, pytest.approx(25 + 0.5 * 5)]]
    assert "#8fb3d1" not in fitted
    assert fitted[BLUE] == [[10, pytest.approx(25.3 - 0.8 * 5)], [20, pytest.approx(25.3 + 0.8 * 5)]]
    best = {label: points.tolist() for label, points in curves(left).items()}
    assert best == {"best slope in theory: 0.75": [[10, 25 - 0.75 * 5], [20, 25 + 0.75 * 5]]}
    assert verticals(right) == [0.75]
    points = {to_hex(line.get_color()): line.get_xydata().tolist() for line in right.lines if line.get_marker() == "o"}
    assert points == {DARK: [[0.5, 0]], LIGHT: [[0.6, 1]], BLUE: [[0.8, 3]], "#222222": [[0.9, 4]]}
    assert [to_hex(found.get_color()[0]) for found in right.collections] == [DARK, LIGHT, "#222222"]
    ranges = sorted((*s[:, 0], s[0, 1]) for c in right.collections for s in c.get_segments())
    assert ranges == [(0.4, 0.7, 0), (0.5, pytest.approx(0.8), 1), (0.8, pytest.approx(1.1), 4)]
    labels = [tick.get_text() for tick in right.get_yticklabels()]
    assert labels == ["N = 4", "N = 64", "best linear denoiser", "oracle (wavelet shrinkage)", "theirs"]
    assert right.get_ylim() == (4.5, -0.5)
    assert (left.get_xlabel(), right.get_xlabel()) == ("input PSNR (dB)", "slope")
    assert left.get_ylabel() == "output PSNR on held-out images (dB)"
    assert list(panels(figure)) == [
        "Measured points and fitted lines (colors as on the right)",
        "Slopes with 95 % intervals",
    ]
    assert left.get_legend() is not None


def test_each_baseline_has_a_color_of_its_own():
    """Baselines and the best linear denoiser differ in color from each other and from imported denoisers."""
    names = [known(name) for name in (*schemas.BASELINES, "best_linear")] + [THEIRS]
    measured = pa.concat_tables([psnr(name, "holdout", {10.0: [22.0], 20.0: [26.0]}) for name in names])
    rows = [slope(name, place / 10) for place, name in enumerate(names)]
    right = figures.figure_slopes(pa.Table.from_pylist(rows, schema=schemas.SLOPES), measured).axes[1]
    assert len({to_hex(line.get_color()) for line in right.lines}) == len(names) == 6


def test_the_line_of_theory_runs_through_the_tangent_space():
    """Where the tangent space is known its line carries the best slope; without a theory there is none."""
    measured = psnr(cell(4), "holdout", {10.0: [22.0], 20.0: [26.0]})
    tangents = psnr(known("tangent_oracle"), "holdout", {10.0: [22.0], 20.0: [26.0]})
    measured = pa.concat_tables([measured, tangents, psnr(THEIRS, "holdout", {10.0: [22.0], 20.0: [26.0]})])
    rows = [slope(cell(4) | {"subject": None}, 0.0, theory=1.0), slope(known("tangent_oracle"), 0.1, theory=1.0)]
    left = figures.figure_slopes(pa.Table.from_pylist(rows, schema=schemas.SLOPES), measured).axes[0]
    assert curves(left)["best slope in theory: 1"].tolist() == [[10, pytest.approx(20.1)], [20, pytest.approx(30.1)]]
    rows = [slope(cell(4) | {"subject": None}, 0.0, theory=1.0, level_db=None), slope(THEIRS, 0.0)]
    left, right = figures.figure_slopes(pa.Table.from_pylist(rows[1:], schema=schemas.SLOPES), measured).axes
    assert not curves(left)
    assert not verticals(right)
    assert left.get_legend() is None
    rows[0]["slope"] = None
    assert not curves(figures.figure_slopes(pa.Table.from_pylist(rows, schema=schemas.SLOPES), measured).axes[0])


# ----------------------------------------------------------------------------------------------------------- spectra


def basis(subject: dict, sigma: float, image: str, **columns: list[float]) -> pa.Table:
    count = len(columns["eigenvalue"])
    found = {"k": list(range(1, count + 1)), "image_id": image, "sigma": sigma, "noise_draw": 0, "singular_value": None}
    found |= {"coefficient_noisy": 7.0, "contour_direction": 8.0}
    return tables.make(schemas.BASIS, {**subject, **found, **columns})


def test_each_panel_of_the_spectrum_shows_its_own_column():
    """Factors are means, coefficients and frequencies root mean squares, over images and binned over k; twins differ."""
    ones = {"coefficient_clean": [3.0, 1.0], "local_frequency": [0.1, 0.2], "contour_energy": [1.5, 1.0]}
    twos = {"coefficient_clean": [-4.0, 1.0], "local_frequency": [0.7, 0.2], "contour_energy": [2.5, 1.0]}
    third = 0.1 + 0.2  # which is not .3 to the last bit
    table = pa.concat_tables(
        [
            basis(cell(4), 0.1, "x", eigenvalue=[0.9, 0.2], **ones),
            basis(cell(4), 0.1, "y", eigenvalue=[0.7, 0.4], **twos),
            basis(cell(4), third, "x", eigenvalue=[0.6, 0.1], **ones),
            basis(cell(4), 0.9, "x", eigenvalue=[0.5, 0.0], **ones),
            basis(cell(4, "b"), 0.1, "x", eigenvalue=[0.5, 0.3], **twos),
            basis(cell(1024), 0.1, "x", eigenvalue=[0.95, 0.45], **ones),
            basis(THEIRS, 0.1, "x", eigenvalue=[1.0, 0.0], **ones),
        ]
    )
    figure = spectra.figure_spectrum(table)
    assert len(figure.axes) == 12
    factors, coefficients, frequencies, contours = figure.axes[:4]
    assert curves(factors)["N = 4  A"] == pytest.approx(np.array([[1, 0.8], [2, 0.3]]))
    assert curves(factors)["N = 4  B"] == pytest.approx(np.array([[1, 0.5], [2, 0.3]]))
    assert curves(factors)["theirs"] == pytest.approx(np.array([[1, 1.0], [2, 0.0]]))
    assert curves(coefficients)["N = 4  A"] == pytest.approx(np.array([[1, math.sqrt(12.5)], [2, 1.0]]))
    assert curves(frequencies)["N = 4  A"] == pytest.approx(np.array([[1, 0.5], [2, 0.2]]))
    assert curves(contours)["N = 4  A"] == pytest.approx(np.array([[1, 2.0], [2, 1.0]]))
    assert curves(figure.axes[4])["N = 4  A"] == pytest.approx(np.array([[1, 0.6], [2, 0.1]]))
    assert curves(figure.axes[8])["N = 4  A"] == pytest.approx(np.array([[1, 0.5], [2, 0.0]]))
    assert list(curves(figure.axes[4])) == ["N = 4  A"]
    middle = to_hex(mpl.colormaps["viridis"](0.45))
    lines = {"N = 4  A": (DARK, "-"), "N = 4  B": (DARK, "--"), "N = 1,024  A": (middle, "-"), "theirs": (LIGHT, "-.")}
    assert [styles(panel) for panel in (factors, frequencies, contours)] == [lines] * 3
    assert styles(coefficients) == lines | {r"noise level $\sigma$": ("#7a7a7a", ":")}
    assert legend(figure) == {label: color for label, (color, _) in styles(coefficients).items()}
    assert horizontals(factors) == [0, 1]
    assert horizontals(contours) == [1]
    assert [horizontals(figure.axes[place]) for place in (1, 5, 9)] == [[0.1], [third], [0.9]]
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert titles[0] == r"Shrinkage factors at $\sigma$ = 0.1"
    assert titles[4] == r"Shrinkage factors at $\sigma$ = 0.3"
    assert titles[5] == r"Coefficients of the clean image at $\sigma$ = 0.3"
    assert titles[2:4] == ["Local frequency of the eigenvectors", "Energy of the eigenvectors on contours"]
    units = [
        r"eigenvalue $\lambda_k$",
        r"$|\langle x, e_k \rangle|$ (pixel units)",
        "cycles per pixel",
        "1 = random vectors",
    ]
    assert [panel.get_ylabel() for panel in figure.axes] == units * 3
    assert [panel.get_yscale() for panel in (factors, coefficients, frequencies, contours)] == [
        "linear",
        "log",
        "linear",
        "linear",
    ]
    assert {(panel.get_xscale(), panel.get_xlabel()) for panel in figure.axes} == {("log", "rank k of the eigenvector")}
    assert numbered(figure)
    assert grid(figure) == (6, 2)
    assert figure.axes[0].get_shared_x_axes().joined(figure.axes[0], figure.axes[-1])


def test_neighboring_ranks_are_averaged():
    """Ranks within a tenth of a decade share a point, at the geometric mean of the ranks and the mean of the values."""
    k, means = spectra._in_bins(np.array([1.0, 20.0, 21.0, 40.0]), np.array([1.0, 2.0, 4.0, 8.0]))
    assert k == pytest.approx([1, math.sqrt(420), 40])
    assert means.tolist() == [1.0, 3.0, 8.0]


# -------------------------------------------------------------------------------------------------------------- files


def test_files_are_the_same_bytes_every_time(tmp_path, monkeypatch):
    """Two drawings of the same table give the same PNG, SVG and PDF, and saving twice changes nothing."""
    monkeypatch.setattr(Figure, "draw_without_rendering", LAYOUT)
    table = levels("to_linear", 4, {0.1: 22.0, 0.5: 26.0})
    first, second = (figures.figure_levels(table) for _ in range(2))
    one = style.save(first, tmp_path / "one" / "figure.v1")
    again = style.save(first, tmp_path / "again" / "figure.v1")
    two = style.save(second, tmp_path / "two" / "figure.v1")
    assert [path.name for path in one] == ["figure.v1.png", "figure.v1.svg", "figure.v1.pdf"]
    for x, y, z in zip(one, again, two, strict=True):
        assert x.read_bytes() == y.read_bytes() == z.read_bytes()
    starts = [path.read_bytes()[:5] for path in one]
    assert starts == [b"\x89PNG\r", b"<?xml", b"%PDF-"]
    assert b"Date" not in one[2].read_bytes()
    with Image.open(one[0]) as picture:
        assert picture.size == tuple(150 * first.get_size_inches())


def test_panels_and_legend_have_room(monkeypatch):
    """Once a figure is drawn, no panel with its words lies over another one, over the legend or over the margin."""
    monkeypatch.setattr(Figure, "draw_without_rendering", LAYOUT)
    figure = figures.figure_levels(levels("to_linear", 4, {0.1: 22.0, 0.5: 26.0}))
    boxes = [*(axes.get_tightbbox() for axes in figure.axes), figure.legends[0].get_window_extent()]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(figure.bbox.containsx(x) and figure.bbox.containsy(y) for box in boxes for x, y in (box.min, box.max))


def test_no_global_state(monkeypatch):
    """Drawing changes no setting of matplotlib and registers no figure with it."""
    monkeypatch.setattr(Figure, "draw_without_rendering", LAYOUT)
    before = dict(mpl.rcParams)
    style.encode(figures.figure_levels(levels("to_linear", 4, {0.1: 22.0, 0.5: 26.0})), ".png")
    assert dict(mpl.rcParams) == before
    assert not Gcf.get_all_fig_managers()
