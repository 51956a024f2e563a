"""What the report says of likelihood, membership and diversity: what its figures draw, its sentences and its tables."""

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pytest
from drawn import bars, curves, horizontals, legend, panels, styles, verticals, words
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from program import memgen, write_config, write_digits
from scored import diversity, membership, summary
from test_report import Page
from tested import imported, model

from memgen import findings
from memgen.base import schemas, wording
from memgen.findings import diversities, labels
from memgen.measures.diversity import UNITS
from memgen.report import scores
from memgen.report.page import ReportInput, render

DARK, LIGHT = (to_hex(mpl.colormaps["viridis"](x)) for x in (0.0, 0.9))
ORANGE, INK = "#e08214", "#222222"
LAYOUT = Figure.draw_without_rendering


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The layout of figures, which few tests here read, is left unsolved."""
    monkeypatch.setattr(Figure, "draw_without_rendering", lambda figure: None)


def test_models_stand_in_ascending_order():
    """Cells come first by N, seed and part, then imported models by name, whatever their N; rows keep their order."""
    keys = [imported("b", 1), model(1024), model(64, "b"), model(64, "a", 2), imported("a", 128), model(64)]
    table = pa.concat_tables([membership(key, {0.5: (1, 0), 0.1: (2, 0)}) for key in keys])
    found = list(labels.by_model(table))
    names = ["N = 64, model A", "N = 64, model B", "N = 64, model A, seed 2", "N = 1,024, model A", "a", "b"]
    assert [labels.model(key) for key, _ in found] == names
    assert all(rows["subject"].unique().to_pylist() == [key["subject"]] for key, rows in found)
    assert all(rows["sigma"].to_pylist() == [0.5, 0.1] for _, rows in found)
    assert not list(labels.by_model(schemas.MEMBERSHIP.empty_table()))


# ------------------------------------------------------------------------------------------------------- likelihood

LIKELY = {"N = 4, model A": summary(5.0, 25.0), "theirs": summary(None, 6.0), "N = 64": summary(6.5, 6.75)}


def lines(panel) -> dict[float, tuple[float, float, float]]:
    """The horizontal bars of a panel by height: height, left and right end."""
    segments = [segment for found in panel.collections for segment in found.get_segments()]
    return {round(float(s[0, 1]), 2): (float(s[0, 0]), float(s[1, 0])) for s in segments}


def test_bits_stand_beside_their_difference():
    """A row for each model has T in orange above H, and at the right H minus T; without T there is H alone."""
    figure = scores.figure_likelihood(LIKELY)
    left, right = figure.axes
    points = {(round(float(y), 2), to_hex(at.get_color())): x for at in left.lines for x, y in at.get_xydata()}
    assert points == {(-0.12, ORANGE): 5, (0.12, INK): 25, (1.12, INK): 6, (1.88, ORANGE): 6.5, (2.12, INK): 6.75}
    assert lines(left) == {
        -0.12: (4.5, 5.5), 0.12: (24.5, 25.5), 1.12: (5.5, 6.5), 1.88: (6, 7), 2.12: (6.25, 7.25)
    }  # fmt: skip
    assert [at.get_xydata().tolist() for at in right.lines if at.get_marker() == "o"] == [[[20, 0]], [[0.25, 2]]]
    assert lines(right) == {0: (19.5, 20.5), 2: (-0.25, 0.75)}
    assert verticals(right) == [0]
    assert [tick.get_text() for tick in left.get_yticklabels()] == list(LIKELY)
    assert left.get_ylim() == right.get_ylim() == (2.5, -0.5)
    assert legend(figure) == {"training images T": ORANGE, "held-out images H": INK}
    assert list(panels(figure)) == ["Bits that each model spends", "Held-out images minus training images"]
    assert left.get_xlabel() == right.get_xlabel() == "bits per dimension"
    assert (left.get_xscale(), right.get_xscale()) == ("linear", "symlog")
    assert right.get_xlim()[0] < -0.25 < 20.5 < right.get_xlim()[1]
    assert right.xaxis.get_major_formatter()(-0.1, 0) == "\N{MINUS SIGN}0.1"


def test_the_section_of_the_likelihood():
    """It says what a difference means and what it cannot tell, and folds the numbers with their errors."""
    found = LIKELY | {"grouped": summary(6.5, 6.75, independent="group")}
    page = Page(render(ReportInput("x", {}, {}, likelihoods=found)))
    assert (
        "both with noise of \N{GREEK SMALL LETTER SIGMA} = 0.05. A difference above 0 means that the model finds "
        in (page.words["likelihood"])
    )
    assert "The numbers do not tell whether samples look good" in page.words["likelihood"]
    head, first, theirs, _, grouped = page.tables["likelihood"][0]
    assert len(head) == len(first) == 8
    assert first[:3] == ["N = 4, model A", "9 images", "9 images"]
    assert first[3:] == ["5 [4.5, 5.5]", "25 [24.5, 25.5]", "20 [19.5, 20.5]", "0.12", "0.062"]
    assert (theirs[3], theirs[4], theirs[5]) == ("\N{EM DASH}", "6 [5.5, 6.5]", "\N{EM DASH}")
    assert grouped[1] == "9 groups"
    assert "N = 4, model A" in page.folded["likelihood"][0]
    assert len(page.pictures["likelihood"]) == 1


# ------------------------------------------------------------------------------------------------------- membership


def measured() -> pa.Table:
    """Two cells, an imported model whose H is too small for an attack, and rows about all noise levels."""
    return pa.concat_tables(
        [
            membership(model(64, "b"), {0.1: (0.5, 0.25), 0.5: (1.5, 0.5), None: (1.0, 0.375)}),
            membership(model(64, "b"), {None: (20.5, None)}, "log_density"),
            membership(model(64, "a"), {0.5: (3.0, 0.75), 0.1: (2.0, 0.5), None: (2.5, 0.625)}, independent="group"),
            membership(imported(), {0.1: (30.0, None), None: (30.0, None)}, n_units=1, n_held_out=9),
        ]
    )


def test_each_membership_panel_shows_its_own_number():
    """The gap is on the left and the share found on the right, at each noise level alone, a color for each N."""
    figure = scores.figure_membership(measured())
    gap, found = figure.axes
    titles = ["PSNR on training images minus held-out images", "Training images found at 1 % false alarms"]
    assert list(panels(figure)) == titles
    names = ["N = 64, model A", "N = 64, model B", "theirs"]
    assert {name: points.tolist() for name, points in curves(gap).items()} == {
        names[0]: [[0.1, 2.0], [0.5, 3.0]],
        names[1]: [[0.1, 0.5], [0.5, 1.5]],
        names[2]: [[0.1, 30.0]],
    }
    shares = {name: points.tolist() for name, points in curves(found).items()}
    assert shares == {names[0]: [[0.1, 0.5], [0.5, 0.75]], names[1]: [[0.1, 0.25], [0.5, 0.5]]}
    assert styles(gap) == {names[0]: (DARK, "-"), names[1]: (DARK, "--"), names[2]: (LIGHT, "-.")}
    assert (0.1, 1.75, 2.25) in bars(gap)
    assert (0.5, 0.25, 0.75) in bars(found)
    assert not any(low > 20 for _, low, _ in bars(gap))  # of a single training image
    assert (horizontals(gap), horizontals(found)) == ([0], [0.01])
    assert list(legend(figure)) == names
    assert (gap.get_ylabel(), found.get_ylabel()) == ("dB", "share of T")
    assert {panel.get_xlabel() for panel in figure.axes} == {r"noise level $\sigma$ (pixel units)"}
    assert {(panel.get_xscale(), panel.get_yscale()) for panel in figure.axes} == {("log", "symlog")}
    assert gap.get_ylim()[1] > 30
    assert not words(gap) + words(found)
    few = scores.figure_membership(membership(imported(), {0.1: (0.5, None), 0.5: (-2.0, None)}))
    assert [words(panel) for panel in few.axes] == [[], ["not measured"]]
    assert few.axes[0].get_ylim()[0] < -2.25


def test_the_models_of_one_size_stand_together_in_the_legend(monkeypatch):
    """Five sizes take five columns, and six take three of two sizes each; nothing runs over the margin."""
    monkeypatch.setattr(Figure, "draw_without_rendering", LAYOUT)
    for sizes, columns in ((5, 5), (6, 3)):
        keys = [model(10 ** (n + 1), part) for n in range(sizes) for part in "ab"]
        figure = scores.figure_membership(pa.concat_tables([membership(key, {0.1: (0.5, 0.25)}) for key in keys]))
        (found,) = figure.legends
        assert found._ncols == columns
        assert [text.get_text()[-1] for text in found.get_texts()] == ["A", "B"] * sizes
        box = found.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


def test_the_section_of_membership():
    """It says what the numbers mean and cannot tell; the rows about all noise levels are folded, with their units."""
    page = Page(render(ReportInput("x", {}, {"membership": measured()})))
    text = page.words["membership"]
    assert "If a model gives nothing away, the gap is 0, the area under the curve is 1/2, and about 1 % of T" in text
    assert "These numbers tell memorization only if T and H were drawn alike" in text
    head, *rows = page.tables["membership"][0]
    assert head == ["model", "score", "of T", "of H", "gap", "area under the curve", "share of T found"]
    area = ".625 [.375, .875]"
    assert rows == [
        ["N = 64, model A", "mean PSNR dB", "60 groups", "128 groups", "2.50 [2.25, 2.75]", area, ".625 [.375, .875]"],
        ["N = 64, model B", "mean PSNR dB", "60 images", "128 images", "1.00 [0.75, 1.25]", area, ".375 [.125, .625]"],
        ["N = 64, model B", "log-density nats", "60 images", "128 images", "20.5 [20.2, 20.8]", area, "\N{EM DASH}"],
        ["theirs", "mean PSNR dB", "1 image", "9 images", "30.0 [29.8, 30.2]", area, "\N{EM DASH}"],
    ]
    assert "N = 64, model B" in page.folded["membership"][0]
    nats = membership(model(64), {None: (20.5, None)}, "log_density").to_pylist()[0]
    found = [findings.membership.estimate(nats, name) for name in ("gap", "auc", "tpr")]
    assert [(each.estimate, each.low, each.high, each.n) for each in found[:2]] == [
        (20.5, 20.25, 20.75, 60), (0.625, 0.375, 0.875, 60)
    ]  # fmt: skip
    assert [each.unit for each in found] == ["nats", "probability", "share"]
    assert len(page.pictures["membership"]) == 1


# -------------------------------------------------------------------------------------------------------- diversity


def test_the_section_of_diversity():
    """A table for each space has a row for each model, with held-out images below samples; measures are explained."""
    keys = [(imported(), 0.5), (model(64), 0.25)]
    table = pa.concat_tables([*(diversity(*key) for key in keys), diversity(model(64), 0.75, "coarse")])
    page = Page(render(ReportInput("x", {}, {"diversity": table})))
    text = page.words["diversity"]
    assert "held-out images in the place of the samples, which is what a perfect model would have" in text
    assert "None of these numbers sees copies: a model that draws its training images passes for a perfect one" in text
    assert text.index("Images compared by: rmse") < text.index("Images compared by: coarse")
    (head, cell, theirs), (_, other) = page.tables["diversity"]
    units = ["images", "share", "share", "ratio", "share", "squared pixel units"]
    assert head == [
        "model",
        "images",
        *(f"{q.name} {u}" for q, u in zip(diversities.QUANTITIES.values(), units, strict=True)),
    ]
    assert (cell[0], theirs[0], other[0]) == ("N = 64, model A", "theirs", "N = 64, model A")
    assert cell[1:4] == [
        "40",
        "0.25 [0.12, 0.38] held-out 0.75 [0.62, 0.88]",
        "1.250 [1.125, 1.375] held-out 1.750 [1.625, 1.875]",
    ]
    assert theirs[2].startswith("0.5 ")
    assert other[2].startswith("0.75 ")
    assert cell[-1] == "\N{EM DASH}"
    for quantity in diversities.QUANTITIES.values():
        assert f"{quantity.name} {quantity.definition}" in page.folded["diversity"][0]


def test_each_measure_of_diversity_has_a_name():
    """The names are those of the measures, in the order of the table; an estimate has its own unit and count."""
    assert list(diversities.QUANTITIES) == list(UNITS)
    assert all(isinstance(quantity, wording.Quantity) for quantity in diversities.QUANTITIES.values())
    row = diversity(model(), 0.25).to_pylist()[0]
    own, null = diversities.estimates(row)
    assert (own.estimate, own.low, own.high, own.n, own.unit) == (0.25, 0.125, 0.375, 40, "images")
    assert (null.estimate, null.low, null.high, null.n, null.unit) == (0.75, 0.625, 0.875, 41, "images")


# ---------------------------------------------------------------------------------------------------------- the run


@pytest.mark.slow
def test_sections_are_there_once_their_table_is(tiny, monkeypatch):
    """Before the commands the page has none of them; after, the page of the sweep and that of one N have what is theirs."""
    monkeypatch.setattr(scores, "figure_likelihood", lambda found: Figure())
    monkeypatch.setattr(scores, "figure_membership", lambda table: Figure())
    names = ("diversity", "membership", "likelihood")
    before = Page(memgen("report", "--sweep").done().path.read_text())
    assert not set(names) & set(before.sections)
    memgen("likelihood", "--n", "4").done()
    memgen("membership", "--subject", "n4-s0-b").done()
    memgen("diversity", "--n", "4").done()
    memgen("diversity", "--subject", "n1-s0-a").done()
    found = Page(memgen("report", "--sweep").done().path.read_text())
    assert [[row[0] for row in found.tables[name][0][1:]] for name in names] == [
        ["N = 1, model A", "N = 4, model A", "N = 4, model B"],
        ["N = 4, model B"] * 2,
        ["N = 4, model A", "N = 4, model B"],
    ]
    shown = memgen("likelihood", "--subject", "n4-s0-b", "--json").done().json["likelihood"]["n4-s0-b"]
    assert found.tables["likelihood"][0][2][5].startswith(
        wording.number(shown["gap"]["estimate"], "bits per dimension")
    )
    assert np.isfinite(shown["sigma_low"])
    one = Page(memgen("report", "--n", "4").done().path.read_text())
    assert [row[0] for row in one.tables["diversity"][0][1:]] == ["N = 4, model A", "N = 4, model B"]
    assert len(one.tables["likelihood"][0]) == 3
    other = Page(memgen("report", "--n", "1").done().path.read_text())
    assert set(names) & set(other.sections) == {"diversity"}


@pytest.mark.usefixtures("unrendered")
def test_a_likelihood_alone_makes_a_page(tmp_path, monkeypatch):
    """A run whose models were trained and whose likelihood was measured has a page, which gives no verdict."""
    write_config(tmp_path, write_digits(tmp_path / "digits.npy"))
    monkeypatch.chdir(tmp_path)
    memgen("train", "--config", "tiny.toml", "--n", "4", "--part", "a").done()
    memgen("report", "--sweep").failed(4, "holds no measurements")
    memgen("likelihood", "--subject", "n4-s0-a").done()
    page = Page(memgen("report", "--sweep").done().path.read_text())
    assert [row[0] for row in page.tables["likelihood"][0][1:]] == ["N = 4, model A"]
    assert "No verdict: nothing was measured that a verdict rests on." in page.words[""]
