"""The charts: the data that each panel, curve and color shows, what the selection changes, and files that do not change."""

import json
import re

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import synthetic_run
import tested
from matplotlib.colors import to_hex
from plotted import curves, layers, levels, of_mark, ranges, texts
from test_figures import THEIRS, cell, known, psnr

from memgen.base import schemas, tables, wording
from memgen.findings import transition
from memgen.report import charts
from memgen.report.similarities import HELD_OUT, NEAREST, OTHER_NOISE, SAME_NOISE

BLUE, ORANGE, INK, GRAY = "#2166ac", "#e08214", "#222222", "#7a7a7a"
DARK, LIGHT = (to_hex(mpl.colormaps["viridis"](x)) for x in (0.0, 0.9))  # smallest and largest N

# ------------------------------------------------------------------------------------------------ denoising, training


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
    spec = charts.draw_psnr(table, 100)
    left, right = spec["concat"]
    assert (left["title"], right["title"], spec["columns"]) == ("Training images", "Held-out images", 2)
    found = {side: curves(panel) for side, panel in (("left", left), ("right", right))}

    def points(side: str, name: str) -> list:
        return sorted([round(x, 9), round(y, 9)] for x, y in found[side][name])

    assert points("left", "N = 4") == [[10, 35.5], [20, 41.5]]
    assert points("left", "N = 64") == [[10, 25.5], [20, 31.5]]
    assert points("right", "N = 4") == [[10, 14.25], [20, 15.25]]
    assert points("right", "N = 64") == [[10, 24.25], [20, 30.25]]
    assert points("left", "identity") == points("right", "identity") == [[10, 10], [20, 20]]
    assert points("left", "identity + 10 log10 d") == [[10, 30], [20, 40]]
    linear = wording.KNOWN_SUBJECTS["best_linear"]
    assert found["right"].keys() - found["left"].keys() == {linear}
    assert found["left"].keys() - found["right"].keys() == {"identity + 10 log10 d"}
    (line,) = of_mark(left, "line")
    colors, dashes = ranges(line), ranges(line, "strokeDash")
    assert colors == {"N = 4": DARK, "N = 64": LIGHT, linear: INK, "identity": GRAY, "identity + 10 log10 d": GRAY}
    assert dashes["N = 4"] == dashes["N = 64"] == [1, 0]
    assert len({tuple(dashes[name]) for name in (linear, "identity", "identity + 10 log10 d", "N = 4")}) == 4
    (band,) = of_mark(left, "area")
    rows = {(round(row["input"]), row["curve"]): row for row in band["rows"]}
    assert (rows[20, "N = 4"]["low"], rows[20, "N = 4"]["high"]) == (41, 42)
    assert (rows[20, "N = 64"]["low"], rows[20, "N = 64"]["high"]) == (31, 32)
    assert rows[20, "N = 64"]["text"] == "31.500 [31.000, 32.000]"
    assert line["encoding"]["y"]["scale"]["domain"] == [12.75, 43.0]
    axes = [line["encoding"][axis]["title"] for axis in "xy"]
    assert axes == ["input PSNR (dB)", "output PSNR (dB)"]
    assert "identity + 10 log10 d" not in json.dumps(charts.draw_psnr(table))


def test_imported_denoisers_have_curves_of_their_own():
    """An imported denoiser bears its name, and comes after those of the sweep."""
    table = pa.concat_tables(
        [psnr(THEIRS, "holdout", {20.0: [1.0, 3.0]}), psnr(cell(4), "holdout", {20.0: [5.0, 5.0]})]
    )
    right = charts.draw_psnr(table)["concat"][1]
    colors = ranges(of_mark(right, "line")[0])
    assert list(colors.items())[:2] == [("N = 4", DARK), ("theirs", LIGHT)]


def test_the_selected_curves_stand_out():
    """Without a selection all curves are alike; with one, others are pale, but for references and the identity."""
    table = pa.concat_tables(
        [psnr(cell(4), "holdout", {20.0: [5.0]}), psnr(known("best_linear"), "holdout", {20.0: [6.0]})]
    )
    spec = charts.draw_psnr(table)
    assert spec["params"] == [{"name": "chosen", "value": None}]
    (line,) = of_mark(spec["concat"][1], "line")
    opacity = line["encoding"]["opacity"]
    assert opacity["condition"]["value"] == 1 > opacity["value"]
    assert {row["curve"]: row["key"] for row in line["rows"]}["N = 4"] == "N = 4"
    assert {row["curve"]: row["key"] for row in line["rows"]}["identity"] is None
    test = opacity["condition"]["test"]
    assert test == (
        'chosen == null || datum.key == null || datum.key == chosen || datum.key == "best linear denoiser"'
        ' || datum.key == "exact optimum"'
    )


def training(subject: dict, values: list[float]) -> pa.Table:
    count = len(values)
    columns = {"step": list(range(1, count + 1)), "images_seen": [64 * i for i in range(1, count + 1)], "loss": 1.0}
    return tables.make(
        schemas.TRAINING, subject | columns | {"seconds": 1.0, "learning_rate": 1e-3, "output_psnr_db": values}, count
    )


def test_training_curves():
    """Each training has a curve of at most 100 points, first and last among them; N share a color, parts differ in dash."""
    long = [float(i) for i in range(250)]
    table = pa.concat_tables(
        [training(cell(4), [10.0, 11.0, 12.0]), training(cell(4, "b"), [11.0]), training(cell(64), long)]
    )
    (panel,) = charts.draw_training(table)["concat"]
    found = curves(panel)
    assert found["N = 4, model A"] == [(64, 10.0), (128, 11.0), (192, 12.0)]
    assert found["N = 4, model B"] == [(64, 11.0)]
    assert len(found["N = 64, model A"]) == 100
    assert found["N = 64, model A"][0] == (64, 0.0)
    assert found["N = 64, model A"][-1] == (16000, 249.0)
    (line,) = of_mark(panel, "line")
    colors, dashes = ranges(line), ranges(line, "strokeDash")
    assert colors == {"N = 4, model A": DARK, "N = 4, model B": DARK, "N = 64, model A": LIGHT}
    assert dashes["N = 4, model A"] != dashes["N = 4, model B"]
    assert {row["key"] for row in line["rows"]} == {"N = 4", "N = 64"}


# ---------------------------------------------------------------------------------------- similarities


def similarity(n: int, kind: str, values: list[float | None], metric: str = "correlation") -> pa.Table:
    pair = {"subject_a": f"n{n}-s0-a", "subject_b": f"n{n}-s0-b", "role": "cell", "n_train": n, "train_seed": 0}
    items = list(range(len(values)))
    return tables.make(
        schemas.SIMILARITY, {**pair, "kind": kind, "item_a": items, "item_b": items, "metric": metric, "value": values}
    )


def neighbors(
    n: int | None,
    kind: str,
    part: str | None,
    reference: str,
    values: list[float],
    rank: int = 1,
    metric: str = "correlation",
) -> pa.Table:
    columns = {"subject": None, "role": None, "n_train": n, "part": part, "train_seed": 0, "query_kind": kind}
    columns |= {"query": list(range(len(values))), "query_id": "q", "query_source": None, "reference": reference}
    columns |= {"n_reference": 9, "n_clusters": 9, "metric": metric, "rank": rank, "reference_id": "r"}
    columns |= {"reference_index": 0, "reference_source": None}
    return tables.make(schemas.NEIGHBORS, {**columns, "cluster": 0, "value": values}, len(values))


def outlines(spec: dict, key: str) -> dict[str, dict[float, float]]:
    """The bins of each histogram of a panel that are not empty, by label: lower edge and height."""
    found: dict[str, dict[float, float]] = {}
    for row in of_mark(spec["concat"][0], "line")[0]["rows"]:
        if row["key"] == key and row["share"]:
            found.setdefault(row["kind"], {})[row["at"]] = row["share"]
    return found


def medians(spec: dict, key: str) -> dict[str, float]:
    (rule,) = of_mark(spec["concat"][0], "rule")
    return {row["kind"]: row["median"] for row in rule["rows"] if row["key"] == key}


def compared() -> dict[str, pa.Table]:
    """Similarities of every kind at N = 4, and of one kind at N = 16."""
    return {
        "similarity": pa.concat_tables(
            [
                similarity(4, "same_noise", [0.1, 0.1, 0.9]),
                similarity(4, "different_noise", [0.3, 0.3, None]),
                similarity(4, "train_train", [0.55]),
                similarity(4, "same_noise", [0.75], "rmse"),
                similarity(16, "same_noise", [0.5, 0.6]),
            ]
        ),
        "neighbors": pa.concat_tables(
            [
                neighbors(4, "sample", "a", "train_a", [0.95, 0.8]),
                neighbors(4, "sample", "b", "train_b", [0.95]),
                neighbors(4, "sample", "a", "train_b", [0.45]),
                neighbors(4, "sample", "a", "holdout", [0.46]),
                neighbors(4, "sample", "a", "train_a", [0.47], rank=2),
                neighbors(4, "sample", "a", "train_a", [0.75], metric="rmse"),
                neighbors(None, "sample", "a", "train_a", [0.48]),
                neighbors(4, "holdout", None, "train_a", [0.7]),
                neighbors(4, "holdout", None, "train_b", [0.7, 0.6]),
                neighbors(4, "holdout", None, "holdout", [0.49]),
            ]
        ),
    }


@pytest.fixture(scope="module")
def run() -> dict[str, pa.Table]:
    return compared()


def test_histograms_show_each_comparison_under_its_name(run):
    """Every outline has the values of its own comparison, as shares; the filled ones have a line at their median."""
    spec = charts.draw_histograms(run)
    expected = {SAME_NOISE: {0.1: 2 / 3, 0.9: 1 / 3}, OTHER_NOISE: {0.3: 1.0}, NEAREST: {0.95: 2 / 3, 0.8: 1 / 3}}
    expected[HELD_OUT] = {0.7: 2 / 3, 0.6: 1 / 3}
    width = (0.95 - 0.1) / 40
    found = outlines(spec, "N = 4")
    assert found.keys() == expected.keys()
    for label, shares in expected.items():
        assert sum(found[label].values()) == pytest.approx(1)
        for value, share in shares.items():
            (height,) = (y for at, y in found[label].items() if at - 1e-6 <= value <= at + width + 1e-6)
            assert height == pytest.approx(share), (label, value)
    assert medians(spec, "N = 4") == {SAME_NOISE: 0.1, NEAREST: 0.95}
    assert outlines(spec, "N = 16").keys() == {SAME_NOISE}
    assert medians(spec, "N = 16") == {SAME_NOISE: pytest.approx(0.55)}
    (line,) = of_mark(spec["concat"][0], "line")
    assert ranges(line) == {NEAREST: ORANGE, SAME_NOISE: BLUE, HELD_OUT: INK, OTHER_NOISE: GRAY}
    assert line["encoding"]["x"]["title"] == "correlation of two images"
    assert line["encoding"]["y"]["title"] == "share of pairs"
    (area,) = of_mark(spec["concat"][0], "area")
    assert area["transform"][1]["filter"]["oneOf"] == sorted([NEAREST, SAME_NOISE])
    assert outlines(charts.draw_histograms({"neighbors": run["neighbors"]}), "N = 4").keys() == {NEAREST, HELD_OUT}
    alone = charts.draw_histograms({"similarity": run["similarity"]})
    assert outlines(alone, "N = 4").keys() == {SAME_NOISE, OTHER_NOISE}
    other = charts.draw_histograms(run, "rmse")
    assert medians(other, "N = 4") == {SAME_NOISE: 0.75, NEAREST: 0.75}
    assert of_mark(other["concat"][0], "line")[0]["encoding"]["x"]["title"] == "rmse of two images"


def test_the_page_shows_the_histogram_of_the_selection_and_files_show_all(run):
    """On the page a panel is kept to the selected N; alone, there is a panel for each N, four in a row."""
    spec = charts.draw_histograms(run)
    assert spec["params"][0]["value"] == "N = 4"
    assert {layer["transform"][0]["filter"] for layer in layers(spec["concat"][0])} == {"datum.key == chosen"}
    every = charts.draw_histograms(run, every=True)
    assert [panel["title"] for panel in every["concat"]] == ["N = 4", "N = 16"]
    filters = [{layer["transform"][0]["filter"] for layer in layers(panel)} for panel in every["concat"]]
    assert filters == [{'datum.key == "N = 4"'}, {'datum.key == "N = 16"'}]
    five = {"similarity": pa.concat_tables([similarity(n, "same_noise", [0.5, 0.7]) for n in (1, 4, 16, 64, 1024)])}
    wide = charts.draw_histograms(five, every=True)
    assert [panel["title"] for panel in wide["concat"]] == ["N = 1", "N = 4", "N = 16", "N = 64", "N = 1,024"]
    assert wide["columns"] == 4
    same = charts.draw_histograms({"similarity": similarity(4, "same_noise", [0.5, 0.5])})
    assert list(outlines(same, "N = 4")[SAME_NOISE].values()) == [1.0]  # of values that do not differ


def test_imported_subjects_have_histograms_of_their_own():
    """An imported subject is compared with its own training set under its name, after those of the sweep."""
    theirs = neighbors(4, "sample", None, "train", [0.75, 0.85])
    unseen = neighbors(4, "holdout", None, "train", [0.35])
    other = neighbors(4, "sample", None, "holdout", [0.45])
    name = '1st" || true || "'
    rows = pa.concat_tables([theirs, unseen, other]).to_pylist()
    theirs = [row | {"subject": name, "role": "imported", "train_seed": None} for row in rows]
    pairs = [row | {"role": "imported"} for row in similarity(4, "same_noise", [0.2]).to_pylist()]
    given = {
        "neighbors": pa.concat_tables(
            [pa.Table.from_pylist(theirs, schema=schemas.NEIGHBORS), neighbors(16, "sample", "a", "train_a", [0.95])]
        ),
        "similarity": pa.Table.from_pylist(pairs, schema=schemas.SIMILARITY),
    }
    spec = charts.draw_histograms(given)
    found = outlines(spec, name)
    assert found.keys() == {NEAREST, HELD_OUT}
    assert list(found[NEAREST].values()) == [0.5, 0.5]
    assert medians(spec, name) == {NEAREST: pytest.approx(0.8)}
    assert outlines(spec, "N = 16").keys() == {NEAREST}
    every = charts.draw_histograms(given, every=True)
    assert [panel["title"] for panel in every["concat"]] == ["N = 16", name]
    assert layers(every["concat"][1])[0]["transform"][0]["filter"] == f"datum.key == {json.dumps(name)}"


# ---------------------------------------------------------------------------------------- transition


@pytest.fixture(scope="module")
def summary() -> pa.Table:
    """The TRANSITION table of the synthetic run."""
    return transition.summarize(synthetic_run.run().tables, 0, resamples=100)


@pytest.fixture(scope="module")
def shown(summary):
    """The transition chart of the synthetic run: its panels by title."""
    spec = charts.draw_transition(summary)
    assert spec["columns"] == 2
    return {panel["title"]: panel for panel in spec["concat"]}


TRANSITION = {
    "Median similarity of two images": {
        "nearest_own": (NEAREST, ORANGE, [1, 0]),
        "cross_same": (SAME_NOISE, BLUE, [1, 0]),
        "nearest_holdout_to_train": (HELD_OUT, "#b98a4e", [5, 3]),
        "cross_different": (OTHER_NOISE, "#8fb3d1", [5, 3]),
    },
    "Memorized fraction": {"memorized_fraction": (None, ORANGE, None)},
    "PSNR on training images minus held-out images": {"psnr_gap": (None, INK, None)},
    "Difference between the two score functions": {"bits": (None, BLUE, None)},
}


@pytest.mark.parametrize("title", TRANSITION)
def test_each_transition_panel_shows_its_own_quantity(summary, shown, title):
    """Each curve has the estimates and the intervals of its quantity at every N, in its color, under its label."""
    rows, panel = transition.estimates(summary), shown[title]
    sizes = sorted({key for key, _ in rows if isinstance(key, int)})
    (line,) = of_mark(panel, "line")
    drawn = {(row["curve"], row["n"]): row for row in line["rows"]}
    assert len(drawn) == len(line["rows"]) == len(TRANSITION[title]) * len(sizes)
    for quantity, (label, color, dashes) in TRANSITION[title].items():
        for n in sizes:
            row, cell = drawn[label, n], rows[n, quantity]
            assert (row["estimate"], row["low"], row["high"]) == (cell.estimate, cell.low, cell.high)
            assert (row["text"], row["key"]) == (wording.estimate(cell), f"N = {n:,}")
        if label is None:
            assert line["mark"]["color"] == color
        else:
            assert (ranges(line)[label], ranges(line, "strokeDash")[label]) == (color, dashes)
    (band,) = of_mark(panel, "area")
    assert (band["encoding"]["y"]["field"], band["encoding"]["y2"]["field"]) == ("low", "high")
    x = line["encoding"]["x"]
    assert (x["scale"]["type"], x["axis"]["values"], x["title"]) == ("log", sizes, "training images N")
    assert not any("not measured" in text for text in texts(panel))


def test_transition_panels_say_what_their_axes_are(shown):
    """Units are beside the axes; lines mark 0, one half and all of the fraction, and no gap; bits are on a log scale."""
    axes = [of_mark(panel, "line")[0]["encoding"]["y"] for panel in shown.values()]
    assert [y["title"] for y in axes] == ["correlation", "share of samples, above chance", "dB", "bits per dimension"]
    assert [y["scale"].get("type") for y in axes] == [None, None, None, "log"]
    assert [levels(panel) for panel in shown.values()] == [[], [0, 0.5, 1], [0], []]


@pytest.mark.parametrize(
    ("title", "point"), [("Median similarity of two images", "N_cross"), ("Memorized fraction", "N_half")]
)
def test_transition_points_stand_in_their_panel(summary, shown, title, point):
    """A point is a vertical line at its estimate, with its interval behind it and its name and number at its foot."""
    row, panel = transition.estimates(summary)[None, point], shown[title]
    (strip,), (text,) = of_mark(panel, "rect"), of_mark(panel, "text")
    assert [(each["low"], each["high"]) for each in strip["rows"]] == [(row.low, row.high)]
    assert texts(panel) == [f"N*_{point.removeprefix('N_')} = {wording.number(row.estimate, 'images')}"]
    assert [each["n"] for each in text["rows"]] == [row.estimate]
    assert text["mark"]["align"] == ("left" if row.estimate < 32 else "right")
    assert all(not of_mark(other, "rect") for other in list(shown.values())[2:])


def test_transition_names_stand_where_there_is_room(summary):
    """The name of a point in the upper half of the sizes is on its left, in the lower half on its right."""
    for estimate, side, offset in ((31.0, "left", 5), (33.0, "right", -5)):
        found = [row | ({"estimate": estimate} if row["quantity"] == "N_half" else {}) for row in summary.to_pylist()]
        panel = charts.draw_transition(pa.Table.from_pylist(found, schema=summary.schema))["concat"][1]
        (text,) = of_mark(panel, "text")
        assert (text["mark"]["align"], text["mark"]["dx"]) == (side, offset)


def test_a_transition_of_one_measure_says_what_is_missing(summary):
    """At one N with similarities alone three panels say that they were not measured, and no point is marked."""
    similar = synthetic_run.run().tables["similarity"]
    one = {"similarity": similar.filter(pc.equal(similar["n_train"], 16))}
    first, *others = charts.draw_transition(transition.summarize(one, 0, resamples=50))["concat"]
    assert [texts(panel) for panel in others] == [["not measured"]] * 3
    assert texts(first) == []
    (line,) = of_mark(first, "line")
    assert line["encoding"]["x"]["scale"]["domain"] == [8, 32]
    assert {row["curve"] for row in line["rows"]} == {SAME_NOISE, OTHER_NOISE}
    open_ended = [row | ({"low": None} if row["n_train"] is None else {}) for row in summary.to_pylist()]
    panels = charts.draw_transition(pa.Table.from_pylist(open_ended, schema=summary.schema))["concat"]
    assert not any(of_mark(panel, "rect") for panel in panels)
    assert of_mark(panels[0], "text")


def test_an_interval_with_an_open_end_is_not_drawn(summary):
    """A point whose interval has no lower or no upper end has neither bar nor band."""
    for end in ("low", "high"):
        rows = [row | ({end: None} if row["n_train"] == 16 else {}) for row in summary.to_pylist()]
        panel = charts.draw_transition(pa.Table.from_pylist(rows, schema=summary.schema))["concat"][1]
        (line,) = of_mark(panel, "line")
        assert [row["n"] for row in line["rows"] if row["low"] is not None] == [1, 4, 64, 256, 1024]
        assert [row["n"] for row in line["rows"] if row["high"] is not None] == [1, 4, 64, 256, 1024]


def test_the_selected_size_is_marked(shown):
    """Every panel has a dotted line at the selected N, which nobody takes for the strip of an interval."""
    for panel in shown.values():
        (dotted,) = (layer for layer in of_mark(panel, "rule") if layer["mark"].get("strokeDash") == [1, 3])
        assert dotted["mark"]["strokeWidth"] < 5
        assert dotted["transform"] == [{"filter": "datum.key == chosen"}]
        assert [(row["n"], row["key"]) for row in dotted["rows"]][:2] == [(1, "N = 1"), (4, "N = 4")]


def test_numbers_along_a_logarithmic_axis():
    """Powers of ten over many decades, with 2 and 5 times these over few; all lie within the values."""
    assert charts._ticks([0.08, None, 18.0]) == [0.1, 0.2, 0.5, 1, 2, 5, 10]
    assert charts._ticks([0.01, 100.0]) == [0.01, 0.1, 1, 10, 100]


# ---------------------------------------------------------------------------------------- audits


@pytest.fixture(scope="module")
def significance() -> pa.Table:
    in_train = np.array([True, True, True, False])
    return tested.significance(
        tested.imported("audit"),
        np.arange(4),
        in_train,
        W=[3.0, 1.0, None, -2.0],
        p=[0.01, 0.02, 0.51, 1.0],
        found_train=[0.9, 0.5, None, 0.4],
        found_held_out=[0.3, 0.6, 0.2, 0.8],
        space=["aligned", "pixels", "pixels", "pixels"],
    )


def test_p_values_beside_what_chance_gives(significance):
    """Each bar counts the p-values in a twentieth; the line is a twentieth of the samples."""
    panel = charts.draw_evidence(significance)["concat"][0]
    (bars,) = of_mark(panel, "bar")
    assert {round(row["low"], 2): row["samples"] for row in bars["rows"] if row["samples"]} == {0: 2, 0.5: 1, 0.95: 1}
    assert len(bars["rows"]) == 20
    assert levels(panel) == [4 / 20]


def test_depth_by_what_is_nearest(significance):
    """Samples nearest to T and those nearest to H are counted in outlines of their own, by the size of W."""
    panel = charts.draw_evidence(significance)["concat"][1]
    (line,) = of_mark(panel, "line")
    counts: dict[str, dict[float, int]] = {}
    for row in line["rows"]:
        if row["share"]:
            counts.setdefault(row["kind"], {})[round(row["at"], 3)] = row["share"]
    assert counts == {
        "nearest to a training image": {1.0: 1, 2.9: 1},
        "reference: nearest to a held-out image": {2.0: 1},
    }
    assert set(ranges(line)) == set(counts)


def test_closeness_in_each_space(significance):
    """A panel for each space shows the similarity to T and to H of the samples judged there."""
    spec = charts.draw_closeness(significance)
    assert [panel["title"] for panel in spec["concat"]] == ["aligned: 1 sample", "pixels: 3 samples"]
    (line,) = of_mark(spec["concat"][1], "line")
    shares: dict[str, list[float]] = {}
    for row in line["rows"]:
        if row["share"]:
            shares.setdefault(row["kind"], []).append(row["share"])
    assert shares == {charts.TO_TRAIN: [0.5, 0.5], charts.TO_HELD_OUT: pytest.approx([1 / 3] * 3)}


def test_the_gap_at_each_noise_level():
    """Each noise level has its gap with its interval, and a line marks no gap."""
    gap = {"sigma": 0.1, "gap": 2.0, "low": 1.0, "high": 3.0, "n_train": 9}
    (panel,) = charts.draw_gaps([gap, gap | {"sigma": 0.5, "gap": 0.25, "low": None}])["concat"]
    (line,) = of_mark(panel, "line")
    drawn = [(row["n"], row["estimate"], row["low"], row["high"]) for row in line["rows"]]
    assert drawn == [(0.1, 2.0, 1.0, 3.0), (0.5, 0.25, None, None)]
    assert levels(panel) == [0]


# ---------------------------------------------------------------------------------------- colors and files


def contrast(one: str, other: str) -> float:
    def luminance(color: str) -> float:
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(c * w for c, w in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_colors_can_be_seen_on_a_dark_page(summary):
    """Every color of a chart has one for a dark page, and all but the grid differ from the page by 3 to 1."""
    specs = [charts.draw_transition(summary), charts.draw_psnr(synthetic_run.run().tables["psnr"])]
    swapped = charts.dark(specs)
    assert set(re.findall(r"#[0-9a-f]{6}", json.dumps(specs))) == set(swapped)
    for color, other in swapped.items():
        assert color == "#e6e6e6" or contrast(other, "#15171a") >= 3, color


def test_files_are_the_same_bytes_every_time(tmp_path):
    """Two drawings of the same table give the same PNG, SVG and PDF, in the font that every machine has."""
    table = psnr(cell(4), "holdout", {10.0: [22.0, 24.0], 20.0: [26.0, 28.0]})
    one, two = (charts.save(charts.draw_psnr(table), tmp_path / name / "psnr") for name in ("one", "two"))
    assert [path.name for path in one] == ["psnr.png", "psnr.svg", "psnr.pdf"]
    for path, again in zip(one, two, strict=True):
        assert path.read_bytes() == again.read_bytes()
    assert [path.read_bytes()[:5] for path in one] == [b"\x89PNG\r", b"<svg ", b"%PDF-"]
    assert set(re.findall(rb"/BaseFont /\w+\+(\w+)", one[2].read_bytes())) <= {b"DejaVuSans"}
    assert b"DejaVu Sans" in one[1].read_bytes()


def test_every_number_of_a_chart_is_json(summary):
    """No NaN or infinity stands in a specification, which a browser could not read."""
    run = synthetic_run.run().tables
    specs = [charts.draw_transition(summary), charts.draw_psnr(run["psnr"]), charts.draw_histograms(run)]
    for spec in specs:
        assert json.loads(json.dumps(spec, allow_nan=False)) == spec
