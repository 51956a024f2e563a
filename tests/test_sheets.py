"""The sheets of images: which image and which number stands in each place, and that pixels are shown as they are."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import synthetic_run
from drawn import sheet

from memgen.report import sheets

BLUE, ORANGE, INK = "#2166ac", "#e08214", "#222222"
SIZE = (2, 4)  # of the images here: not square, so that height and width are told apart


def images(*grays: float) -> np.ndarray:
    """One image for each gray, with a darker first row, (K, 1, 2, 4)."""
    found = np.full((len(grays), 1, *SIZE), 1.0) * np.array(grays)[:, None, None, None]
    found[:, :, 0] /= 2
    return found


def tile(gray: float) -> np.ndarray:
    """What an image of that gray looks like on a sheet."""
    rows = [np.full((SIZE[1], 3), round(level * 255)) for level in (gray / 2, gray)]
    return np.array(rows, dtype=np.uint8)


WHITE = np.full((*SIZE, 3), 255, dtype=np.uint8)


def same(found: dict, expected: dict[tuple[int, int], float]) -> None:
    """Compare the tiles of a sheet with the grays expected by place; all other places are empty."""
    for place, shown in found.items():
        wanted = tile(expected[place]) if place in expected else WHITE
        np.testing.assert_array_equal(shown, wanted, str(place))
    assert expected.keys() <= found.keys()


def pair(n_train: int, start: float) -> sheets.Specimens:
    """Two samples of each model; every image of an N has a gray of its own."""
    grays = np.round(start + np.arange(8) / 25, 2)
    a, near_a, b, near_b = (images(*grays[i : i + 2]) for i in (0, 2, 4, 6))
    values = (start + np.array([[0.001, np.nan], [0.003, 0.004], [0.005, 0.006]])).round(3)
    return sheets.Specimens(n_train, a, near_a, values[0], b, near_b, values[1], values[2])


def test_specimens_are_looked_up_in_the_tables():
    """Nearest images and similarities belong to the sample that they stand beside."""
    run = synthetic_run.run()
    found = sheets.specimens(run.tables, 4, {part: run.samples[4, part] for part in "ab"}, run.image_of, count=5)
    assert found.n_train == 4
    assert found.samples_a.shape == found.nearest_b.shape == (5, 1, 16, 16)
    a, b = (synthetic_run.unit(run.samples[4, part][:5]) for part in "ab")
    np.testing.assert_array_equal(found.samples_a, run.samples[4, "a"][:5])
    np.testing.assert_array_equal(found.samples_b, run.samples[4, "b"][:5])
    assert found.cross == pytest.approx((a * b).sum(axis=1))
    for part, own, nearest, values in (
        ("a", a, found.nearest_a, found.value_a),
        ("b", b, found.nearest_b, found.value_b),
    ):
        similar = own @ synthetic_run.unit(run.sets[part][:4]).T
        np.testing.assert_array_equal(nearest, run.sets[part][similar.argmax(axis=1)])
        assert values == pytest.approx(similar.max(axis=1))
    every = sheets.specimens(run.tables, 4, {"a": run.samples[4, "a"][:3]}, run.image_of)
    assert (len(every.samples_a), every.samples_b) == (3, None)
    assert len(sheets.specimens(run.tables, 4, {"a": run.samples[4, "a"]}, run.image_of).samples_a) == 16


def test_specimens_need_nearest_training_images():
    """Without a table, of another N, of the other half alone or by another measure there are none."""
    run = synthetic_run.run()
    samples = {part: run.samples[4, part] for part in "ab"}
    assert sheets.specimens({}, 4, samples, run.image_of) is None
    assert sheets.specimens(run.tables, 5, samples, run.image_of) is None
    assert sheets.specimens(run.tables, 4, {"b": samples["b"]}, run.image_of) is None
    assert sheets.specimens(run.tables, 4, samples, run.image_of, metric="rmse") is None
    of_a = run.tables["neighbors"].filter(pc.equal(run.tables["neighbors"]["reference"], "train_a"))
    assert sheets.specimens({"neighbors": of_a}, 4, samples, run.image_of).samples_b is None
    alone = {"neighbors": run.tables["neighbors"]}
    assert np.isnan(sheets.specimens(alone, 4, samples, run.image_of, count=2).cross).all()
    undefined = [row | {"value": None} for row in of_a.filter(pc.equal(of_a["n_train"], 4)).to_pylist()]
    found = {"neighbors": pa.Table.from_pylist(undefined, schema=of_a.schema)}
    assert np.isnan(sheets.specimens(found, 4, samples, run.image_of, count=2).value_a).all()


def test_specimens_are_those_of_the_smallest_training_seed():
    """Where several seeds were trained, nearest images and similarities are those of the first."""
    two = synthetic_run.Run((4,), train_seeds=2)
    only = {
        name: two.tables[name].filter(pc.equal(two.tables[name]["train_seed"], 0))
        for name in ("neighbors", "similarity")
    }
    mixed = {name: table.sort_by([("train_seed", "descending")]) for name, table in two.tables.items()}
    samples = {part: two.samples[4, part] for part in "ab"}
    found, expected = (sheets.specimens(tables, 4, samples, two.image_of) for tables in (mixed, only))
    np.testing.assert_array_equal(found.cross, expected.cross)
    np.testing.assert_array_equal(found.value_a, expected.value_a)
    np.testing.assert_array_equal(found.nearest_b, expected.nearest_b)


def test_specimens_leave_other_rows_of_the_tables_out():
    """Neighbors further away, of other queries and sets, other kinds of pairs and other measures are not shown."""
    run = synthetic_run.run()
    samples = {part: run.samples[4, part] for part in "ab"}
    expected = sheets.specimens(run.tables, 4, samples, run.image_of)
    others = {
        "neighbors": (
            {"rank": 2},
            {"metric": "rmse"},
            {"query_kind": "holdout"},
            {"reference": "holdout"},
            {"n_train": 5},
        ),
        "similarity": ({"kind": "different_noise"}, {"metric": "rmse"}, {"n_train": 5}),
    }
    tables = {}
    for name, changes in others.items():
        rows = run.tables[name].filter(pc.equal(run.tables[name]["n_train"], 4))
        false = [row | change | {"value": -0.5} for change in changes for row in rows.to_pylist()]
        tables[name] = pa.concat_tables([pa.Table.from_pylist(false, schema=rows.schema), rows])
    found = sheets.specimens(tables, 4, samples, run.image_of)
    for name in ("value_a", "value_b", "cross", "nearest_a", "nearest_b"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


def test_every_place_of_the_sheet_of_pairs():
    """Each N is a column of nearest image, sample, sample, nearest image; numbers stand between, in their colors."""
    pairs = [pair(1, 0.0), pair(1000, 0.5)]
    found = sheet(sheets.figure_images(pairs), SIZE)
    assert found.titles == {0: "N = 1", 1: "N = 1,000"}
    assert found.names == ["nearest in A", "sample A", "sample B", "nearest in B"] * 2
    assert found.groups == [4, 4]
    grays, numbers = {}, {}
    for column, start in ((0, 0.0), (1, 0.5)):
        for noise in (0, 1):
            top = 4 * noise
            for row, place in enumerate((2, 0, 4, 6)):
                grays[top + row, column] = round(start + (place + noise) / 25, 2)
            if not noise:
                numbers[top, column] = (f"{start + 0.001:.3f}"[1:], ORANGE)
            numbers[top + 1, column] = (f"{start + 0.005 + noise / 1000:.3f}"[1:], BLUE)
            numbers[top + 2, column] = (f"{start + 0.003 + noise / 1000:.3f}"[1:], ORANGE)
    same(found.tiles, grays)
    assert found.numbers == numbers
    one = sheet(sheets.figure_images(pairs, noises=1), SIZE)
    same(one.tiles, {place: gray for place, gray in grays.items() if place[0] < 4})


def test_the_row_that_opens_the_page():
    """Of each N there is the first sample of A, between its nearest training image and the sample of B."""
    pairs = [pair(1, 0.0), pair(1000, 0.5)]
    found = sheet(sheets.figure_first(pairs), SIZE)
    assert found.names == ["nearest in A", "sample A", "sample B"]
    assert found.titles == {0: "N = 1", 1: "N = 1,000"}
    grays = {(row, 0): place / 25 for row, place in enumerate((2, 0, 4))}
    same(found.tiles, grays | {(row, 1): gray + 0.5 for (row, _), gray in grays.items()})
    assert found.numbers == {
        (0, 0): (".001", ORANGE),
        (1, 0): (".005", BLUE),
        (0, 1): (".501", ORANGE),
        (1, 1): (".505", BLUE),
    }
    alone = sheets.Specimens(1, pairs[0].samples_a, pairs[0].nearest_a, pairs[0].value_a)
    assert sheet(sheets.figure_first([alone]), SIZE).names == ["nearest in A", "sample A"]


def test_how_many_samples_are_shown():
    """Three noises beside their neighbors and twelve on the contact sheet, or as many as there are at every N."""
    many = sheets.Specimens(4, *([images(*np.linspace(0, 1, 20))] * 2), np.zeros(20))
    assert len(sheet(sheets.figure_images([many]), SIZE).names) == 2 * 3
    assert len(sheet(sheets.figure_samples([many]), SIZE).tiles) == 12
    few = sheets.Specimens(16, *([images(0.1, 0.2)] * 2), np.zeros(2))
    assert len(sheet(sheets.figure_images([many, few]), SIZE).names) == 2 * 2
    assert len(sheet(sheets.figure_samples([few, many]), SIZE).tiles) == 2 * 2


def test_one_model_alone_has_two_rows():
    """Without a second model the sheet shows the sample and its nearest training image."""
    whole = pair(4, 0.25)
    alone = sheets.Specimens(4, whole.samples_a, whole.nearest_a, whole.value_a)
    for pairs in ([alone], [alone, whole], [whole, alone]):
        found = sheet(sheets.figure_images(pairs), SIZE)
        assert found.names == ["nearest in A", "sample A"] * 2
        same(found.tiles, {(r, c): 0.25 + (2, 0, 3, 1)[r] / 25 for r in range(4) for c in range(len(pairs))})
        assert found.numbers == {(0, column): (".251", ORANGE) for column in range(len(pairs))}


def test_every_place_of_the_contact_sheet():
    """Each model of each N has a row of its samples; without a second model there is no row for it."""
    whole, alone = pair(4, 0.0), pair(1024, 0.5)
    alone = sheets.Specimens(1024, alone.samples_a, alone.nearest_a, alone.value_a)
    found = sheet(sheets.figure_samples([whole, alone]), SIZE)
    assert found.names == ["N = 4   A", "N = 4   B", "N = 1,024   A"]
    assert found.groups == [2, 1]
    same(found.tiles, {(0, 0): 0, (0, 1): 0.04, (1, 0): 0.16, (1, 1): 0.2, (2, 0): 0.5, (2, 1): 0.54})
    assert (found.titles, found.numbers) == ({}, {})
    assert sheet(sheets.figure_samples([alone, whole]), SIZE).groups == [1, 2]
    same(sheet(sheets.figure_samples([whole], count=1), SIZE).tiles, {(0, 0): 0, (1, 0): 0.16})


def test_samples_stand_above_the_images_that_they_depend_on():
    """In the sheet of copies a sample is above its training image, with their correlation between, if there is one."""
    first = sheets.Copies("N = 4  A", 5000, images(0.1, 0.2), images(0.3, 0.4), np.array([0.99, np.nan]))
    second = sheets.Copies("N = 4  B", 1, images(0.5), images(0.6), np.array([0.97]))
    found = sheet(sheets.figure_copies([first, second]), SIZE)
    assert found.names == ["N = 4  A\n5,000 reported", "training image", "N = 4  B\n1 reported", "training image"]
    assert found.groups == [2, 2]
    expected = {(0, 0): 0.1, (0, 1): 0.2, (1, 0): 0.3, (1, 1): 0.4, (2, 0): 0.5, (3, 0): 0.6}
    same(found.tiles, expected)
    assert found.numbers == {(0, 0): (".990", ORANGE), (2, 0): (".970", ORANGE)}
    assert max(column for _, column in found.tiles) == sheets.COPIES_SHOWN - 1


def test_restored_images_stand_below_what_was_measured():
    """Clean and measured images come first, then those of each model, each with its PSNR below."""
    models = [
        sheets.RestoredBy("N = 4  A", images(0.3, 0.4), np.array([20.5, np.nan]), None),
        sheets.RestoredBy("N = 4  B", images(0.5, 0.6), np.array([8.25, 9.5]), None),
        sheets.RestoredBy("theirs", images(0.7, 0.8), np.array([10.5, 11.5]), None),
    ]
    task = sheets.Restored("low_pass-0.1", images(0.9, 1.0), images(0.1, 0.2), models)
    assert task.dimension == 8
    assert replace(task, clean=task.clean.repeat(3, axis=1)).dimension == 24
    found = sheet(sheets.figure_restored(task), SIZE)
    assert found.names == ["clean", "measured", "N = 4  A", "N = 4  B", "theirs"]
    assert found.groups == [2, 2, 1]
    grays = [0.9, 1.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    same(found.tiles, {(i // 2, i % 2): gray for i, gray in enumerate(grays)})
    assert found.numbers == {
        (2, 0): ("20.5", INK),
        (3, 0): ("8.25", INK),
        (3, 1): ("9.50", INK),
        (4, 0): ("10.5", INK),
        (4, 1): ("11.5", INK),
    }


def test_every_place_of_the_sheet_of_bases():
    """A row has the clean, noisy and denoised image and the eigenvectors of one model, with its eigenvalues below."""
    clean, noisy = images(0.9)[0], images(0.1)[0]
    vectors = np.stack([images(*(1 + np.arange(7.0))), -images(*(1 + np.arange(7.0)))])
    vectors[:, 2, :, :, 0] = 0
    values = np.array([np.arange(7) / 10 + 0.001, np.arange(7) / 10 + 0.002])
    twins = sheets.Bases("N = 4", 0.1 + 0.2, clean, noisy, images(0.2, 0.3), values, vectors)
    one = sheets.Bases("theirs", 0.25, clean, noisy, images(0.4), values[:1], vectors[:1])
    found = sheet(sheets.figure_bases([twins, one]), SIZE)
    assert found.names == ["N = 4   A\n$\\sigma$ = 0.3", "N = 4   B\n$\\sigma$ = 0.3", "theirs\n$\\sigma$ = 0.25"]
    assert found.groups == [2, 1]
    assert list(found.titles.values()) == ["$x$", "$y$", "$f(y)$", *(f"$e_{{{k}}}$" for k in range(1, 7))]
    assert max(column for _, column in found.tiles) == 8
    assert sheet(sheets.figure_bases([one, twins]), SIZE).groups == [1, 2]
    assert found.numbers == {
        (row, 3 + k): (f"{values[part, k]:.3f}".removeprefix("0"), INK)
        for row, part in ((0, 0), (1, 1), (2, 0))
        for k in range(6)
    }
    for row, denoised in enumerate((0.2, 0.3, 0.4)):
        for column, gray in enumerate((0.9, 0.1, denoised)):
            np.testing.assert_array_equal(found.tiles[row, column], tile(gray))
        whole = found.tiles[row, 3]  # the largest value is white, and half of it between gray and white
        assert [int(level) for level in whole[:, 0, 0]] == [191, 255]
        assert [int(level) for level in found.tiles[row, 5][:, 0, 0]] == [128, 128]  # 0 is gray
    every = [np.repeat(array[:1], 64, axis=1)[:, :64] for array in (values[:, :1], vectors[:, :1])]
    whole = sheet(sheets.figure_bases([sheets.Bases("all", 0.5, clean, noisy, images(0.4), *every)]), SIZE)
    assert list(whole.titles.values())[3:] == [f"$e_{{{k}}}$" for k in (1, 2, 3, 4, 5, 6, 10, 20, 40, 64)]
    few = sheets.Bases("few", 0.5, clean, noisy, images(0.4), values[:1, :2], vectors[:1, :2])
    assert list(sheet(sheets.figure_bases([twins, few]), SIZE).titles.values())[3:] == ["$e_{1}$", "$e_{2}$"]


@pytest.mark.parametrize("columns", [1, 12])
@pytest.mark.parametrize("draw", [sheets.figure_images, sheets.figure_samples])
def test_a_sheet_fits_a_page(draw, columns):
    """Pixels are squares, margins are narrow, names stand beside the canvas, and titles and numbers over their column."""
    figure = draw([pair(4, 0.1)] * columns)
    (axes,) = figure.axes
    place, (wide, high) = axes.get_position(), figure.get_size_inches()
    across, down = axes.get_xlim()[1], axes.get_ylim()[0]
    assert place.width * wide / across == pytest.approx(place.height * high / down)
    assert 0.5 < place.width * wide / across < 0.86
    assert wide < 9.5
    margins = [place.x0 * wide, place.y0 * high, (1 - place.x1) * wide, (1 - place.y1) * high]
    assert min(margins) > 0.04
    assert max(margins) < 1.5
    assert margins[3] < 0.5
    figure.draw_without_rendering()
    canvas = axes.get_window_extent()
    for text in axes.texts:
        box, (x, _) = text.get_window_extent(), axes.transData.transform(text.get_position())
        assert min(box.x0, box.y0) >= 0, text
        assert box.y1 <= high * figure.dpi, text
        if text.get_position()[0] < 0:
            assert box.x1 < canvas.x0, text
        else:
            assert (box.x0 + box.x1) / 2 == pytest.approx(x, abs=2), text


def test_eigenvectors_are_drawn_around_gray():
    """Zero is gray, the largest value white or black, and the sign that of the clean image's coefficient."""
    clean = np.array([[[1.0, 0.0, 0.5]]])
    vector = np.array([[[-0.8, 0.2, 0.0]]])
    np.testing.assert_allclose(sheets.signed(vector, clean), [[[1.0, 0.375, 0.5]]])
    np.testing.assert_allclose(sheets.signed(-vector, clean), [[[1.0, 0.375, 0.5]]])


def test_images_are_enlarged_without_smoothing():
    """Every pixel becomes a square of one value; values outside [0, 1] are clipped; color keeps its channels."""
    image = np.array([[[-1.0, 0.5], [1.0, 2.0]]])
    shown = sheets._enlarged(image, 3)
    assert shown.shape == (6, 6, 3)
    assert [int(shown[y, x, 0]) for y in (0, 5) for x in (0, 5)] == [0, 128, 255, 255]
    assert len(np.unique(shown[:3, 3:])) == 1
    color = np.zeros((3, 1, 1), dtype=np.uint8)
    color[2] = 9
    assert sheets._enlarged(color, 1)[0, 0].tolist() == [0, 0, 9]
    assert sheets._enlarged(np.full((1, 1, 1), np.nan), 1).max() == 0
    assert sheets._enlarged(np.full((2, 1, 1), 7, dtype=np.uint8), 1)[0, 0].tolist() == [7, 7, 7]
    large = sheets.Specimens(4, *([np.zeros((1, 1, 3, 200))] * 2), np.zeros(1))
    assert sheets.figure_samples([large]).axes[0].images[0].get_array().shape[:2] == (3, 200)
    figure = sheets.figure_samples([pair(4, 0.0)])
    canvas = figure.axes[0].images[0]
    assert canvas.get_interpolation() == "none"
    assert not figure.axes[0].axison
