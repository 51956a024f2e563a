"""What the page lets people look through: tiles, the gallery and how it is cut, tables, and the command of a run."""

import base64
import csv
import gzip
import io
import itertools
import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import browsing
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from memgen.base import config, schemas
from memgen.experiment import reproduce, runs, showing
from memgen.experiment.audit_settings import AuditSettings
from memgen.experiment.settings import RunSettings
from memgen.experiment.workspace import Workspace
from memgen.report import downloads, gallery, viewers, webpage
from memgen.report.tiles import Tiles, reduced

ROOT = Path(__file__).parents[1]


def tile(sheets: list[bytes], number: int, size: tuple[int, int]) -> np.ndarray:
    """A tile, cut out of its sheet as the page's script does it."""
    sheet = np.asarray(Image.open(io.BytesIO(sheets[number // 256])))
    (width, height), place = size, number % 256
    y, x = place // 16 * height, place % 16 * width
    return sheet[y : y + height, x : x + width]


# ------------------------------------------------------------------------------------------------- tiles


@pytest.mark.parametrize("channels", [1, 3])
def test_every_tile_is_its_image(channels):
    """300 images on two sheets come back pixel by pixel, and an image asked for twice is kept once."""
    images = np.random.default_rng(0).integers(0, 256, (300, channels, 5, 7), dtype=np.uint8)
    packed = Tiles(lambda name, position: images[position])
    assert [packed.at(("set", i)) for i in range(300)] == list(range(300))
    assert packed.at(("set", 17)) == 17
    extra = packed.of(images[3].astype(np.float32) / 255)
    assert (extra, len(packed), packed.size()) == (300, 301, (7, 5))
    sheets = list(packed.sheets())
    assert len(sheets) == 2
    for number in (0, 15, 16, 255, 256, 299):
        expected = images[number].transpose(1, 2, 0).squeeze()
        assert (tile(sheets, number, (7, 5)) == expected).all()
    assert (tile(sheets, extra, (7, 5)) == images[3].transpose(1, 2, 0).squeeze()).all()


def test_images_are_read_sheet_by_sheet():
    """No image of a later sheet is read before the sheet is asked for."""
    read = []

    def image_of(name: str, position: int) -> np.ndarray:
        read.append(position)
        return np.zeros((1, 2, 2), np.uint8)

    packed = Tiles(image_of)
    for i in range(600):
        packed.at(("set", i))
    sheets = packed.sheets()
    next(sheets)
    assert max(read) == 255


def test_large_images_are_reduced():
    """The longer side of a tile is 64 pixels at most; smaller images keep their size."""
    assert reduced(np.zeros((3, 200, 100), np.uint8)).size == (32, 64)
    assert reduced(np.zeros((1, 64, 10), np.float32)).size == (10, 64)


def test_what_is_no_gray_and_no_color_image_shows_its_first_channel():
    """Two channels cannot be shown as a picture, and values outside [0, 1] are clipped."""
    image = np.stack([np.full((2, 2), 1.5), np.zeros((2, 2))]).astype(np.float32)
    assert (np.asarray(reduced(image)) == 255).all()


# ------------------------------------------------------------------------------------------------- the gallery


def given(count: int = 400) -> gallery.Gallery:
    """Samples of two models at two N, of noise that no compression helps."""
    images = np.random.default_rng(1).integers(0, 256, (count, 1, 16, 16), dtype=np.uint8)
    quarter = np.arange(count) * 4 // count
    return gallery.Gallery(
        pictures=("sample", "nearest"),
        measures=[gallery.Measure("near", "nearness", "How near.")],
        values={"near": np.where(np.arange(count) == 5, np.nan, np.arange(count) / 3)},
        places=[[("samples", i) for i in range(count)], [None if i == 7 else ("train", i % 10) for i in range(count)]],
        names=[f"sample {i}" for i in range(count)],
        notes=[""] * count,
        panels=[f"N = {1 + k // 2}" for k in quarter],
        models=["AB"[k % 2] for k in quarter],
        spaces=["pixels"] * count,
        reported=np.arange(count) % 100 > 89,
        image_of=lambda name, position: images[position],
    )


def test_the_gallery_holds_every_sample_that_fits():
    """Values, texts and tiles are those of the samples; what is missing is null or -1, and equal images share a tile."""
    packed = Tiles(given().image_of)
    found = gallery.payload(given(), packed)
    assert (found["total"], len(found["names"]), found["reported_total"]) == (400, 400, 40)
    assert found["values"]["near"][4:6] == [pytest.approx(4 / 3, rel=1e-5), None]
    assert found["tiles"][1][7] == -1
    assert found["tiles"][1][0] == found["tiles"][1][10]
    assert len(packed) == 410
    assert found["panel"]["list"] == ["N = 1", "N = 2"]
    assert [found["model"]["list"][i] for i in found["model"]["of"][::100]] == ["A", "B", "A", "B"]
    assert json.loads(webpage.embedded(found)) == found


def test_a_gallery_without_pictures_is_bounded_too(monkeypatch):
    """By the number of samples: those that tests report stay, and the first of each model."""
    monkeypatch.setattr(gallery, "MOST", 60)
    plain = replace(given(), pictures=(), places=())
    found = gallery.payload(plain, Tiles(plain.image_of))
    assert (found["total"], len(found["names"]), sum(found["reported"]), found["reported_total"]) == (400, 60, 40, 40)


def test_a_large_gallery_keeps_what_is_reported_and_some_of_each_model():
    """With room for a part, all that tests report stay, others are the first of each model, and the page says so."""
    packed = Tiles(given().image_of)
    found = gallery.payload(given(), packed, budget=40_000)
    kept = [int(name.split()[1]) for name in found["names"]]
    assert 50 < len(kept) < 200
    assert kept == sorted(kept)
    assert sum(found["reported"]) == found["reported_total"] == 40
    others = [i for i in kept if i % 100 <= 89]
    counts = np.bincount([i // 100 for i in others])
    assert max(counts) - min(counts) <= 1
    assert all(i % 100 < max(counts) for i in others)
    assert sum(map(len, packed.sheets())) < 1.5 * 40_000
    few = gallery.payload(given(), Tiles(given().image_of), budget=3_000)
    assert sum(few["reported"]) == len(few["names"]) < 40


def test_the_page_says_how_many_samples_it_shows():
    """The number that is shown and the number that there are stand on the page; nothing is said where all are shown."""
    from memgen.report import page as pages

    report, _ = browsing.sweep((4,))
    small = replace(report, films=(), bases=(), tables={}, gallery=report.gallery)
    assert "The gallery holds" not in pages.render(small)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery.payload, "__defaults__", (8_000,))
        text = " ".join(pages.render(small).split())
    shown, total = len(json.loads(text.split('id="page-data">')[1].split("</script>")[0])["gallery"]["names"]), 192
    assert 6 <= shown < total
    assert f"The gallery holds {shown} of {total} samples" in text
    assert "all 6 that a test reports" in text


# ------------------------------------------------------------------------------------------------- viewers


def test_long_films_are_thinned():
    """Of 100 frames of 20 samples, 40 frames of 8 samples are kept, the first and the last among them."""
    frames = np.zeros((100, 20, 1, 2, 2), np.float32)
    film = viewers.Film("N = 1", "A", range(20), [10 * i for i in range(100)], [None] * 100, frames)
    packed = Tiles(lambda name, position: frames[0, 0])
    (found,) = viewers.film_payload([film], packed)
    assert (len(found["updates"]), found["updates"][0], found["updates"][-1]) == (40, 0, 990)
    assert (len(found["tiles"]), {len(row) for row in found["tiles"]}) == (8, {40})
    assert len(packed) == 320


# ------------------------------------------------------------------------------------------------- tables


def test_small_tables_become_part_of_the_page():
    """A small table stands on the page as CSV with all its values; a large one is linked alone."""
    small = pa.table({"a": [1, None], "b": ['x, "y"', "<z>"], "c": [[1, 2], None], "d": [True, False]})
    large = pa.table({"a": np.random.default_rng(0).random(80_000)})
    found = downloads.downloads([("large", large, ["../large.parquet"]), ("small", small, ["../small.parquet"])])
    assert [(each.name, each.rows, bool(each.csv)) for each in found] == [("large", 80_000, False), ("small", 2, True)]
    text = gzip.decompress(base64.b64decode(found[1].csv.partition("base64,")[2])).decode()
    rows = list(csv.reader(io.StringIO(text)))
    assert rows == [["a", "b", "c", "d"], ["1", 'x, "y"', "[1, 2]", "true"], ["", "<z>", "", "false"]]


def test_a_table_of_many_rows_is_compressed_in_parts(monkeypatch):
    """All rows come back, below one line of names; a table of too many rows is not even tried."""
    many = pa.table({"a": np.arange(10_000) % 7})
    (found,) = downloads.downloads([("many", many, [])])
    text = gzip.decompress(base64.b64decode(found.csv.partition("base64,")[2])).decode()
    assert text.split() == ['"a"', *map(str, many["a"].to_pylist())]
    monkeypatch.setattr(downloads, "MOST_ROWS", 9_999)
    (left,) = downloads.downloads([("many", many, ["../many.parquet"])])
    assert (left.rows, left.csv) == (10_000, "")


def test_all_tables_together_stay_small():
    """The smallest tables are taken first, until their CSV reaches the limit."""
    rng = np.random.default_rng(0)
    tables = [(f"t{i}", pa.table({"a": rng.random(40_000 if i else 80_000)}), []) for i in range(9)]
    found = downloads.downloads(tables)
    sizes = [len(base64.b64decode(each.csv.partition("base64,")[2])) for each in found]
    assert sizes[0] == 0  # it takes more than one table may
    assert all(size <= downloads.LARGEST for size in sizes)
    assert downloads.TOTAL - max(sizes) < sum(sizes) <= downloads.TOTAL


# ------------------------------------------------------------------------------------------------- of a run


def overrides(command: str) -> list[str]:
    """The settings in a command."""
    words = shlex.split(command)
    return [value for word, value in itertools.pairwise(words) if word == "--set"]


@pytest.mark.parametrize("path", [*sorted((ROOT / "configs").glob("*.toml")), None], ids=str)
def test_the_command_makes_the_settings_again(path):
    """For every config: the settings read from the command are those that the run has recorded."""
    settings = config.load(RunSettings, path)
    manifest = {"config": settings.model_dump(mode="json"), "device": "cpu"}
    command = reproduce.command(SimpleNamespace(kind=runs.SWEEP, name="mine", manifest=manifest))
    assert command.startswith("memgen sweep --device cpu --run mine")
    assert config.load(RunSettings, None, overrides(command)) == settings
    assert bool(overrides(command)) == (path is not None)


def test_the_command_of_an_audit():
    """Sources are arguments, other settings follow; odd names are quoted."""
    given = {"samples": "/a b/s'.npy", "train": "/t", "holdout": "/h", "calibrate": 2, "spaces": ["pixels"]}
    settings = config.validate(AuditSettings, given, "test")
    manifest = {"config": settings.model_dump(mode="json"), "device": "cpu"}
    command = reproduce.command(SimpleNamespace(kind=runs.AUDIT, name="mine", manifest=manifest))
    words = shlex.split(command)
    assert words[:6] == ["memgen", "audit", "/a b/s'.npy", "/t", "--holdout", "/h"]
    sources = {name: given[name] for name in ("samples", "train", "holdout")}
    assert config.load(AuditSettings, None, overrides(command), sources) == settings
    drawn = config.validate(AuditSettings, {"model": "/m", "train": "/t", "sample": {"n_samples": 9}}, "test")
    manifest = {"config": drawn.model_dump(mode="json"), "device": "cpu"}
    words = shlex.split(reproduce.command(SimpleNamespace(kind=runs.AUDIT, name="x", manifest=manifest)))
    assert words[:5] == ["memgen", "audit", "/t", "--model", "/m"]
    assert "sample.n_samples=9" in words


def test_the_gallery_of_a_run(finished):
    """Every sample of every model has the pictures and the numbers that its tables say."""
    workspace = Workspace.of(runs.Run(finished), "cpu")
    run = workspace.run
    tables = {kind: run.table(kind) for kind in schemas.SCHEMAS}
    found = showing.gallery(workspace, tables)
    assert len(found) == tables["samples"].num_rows
    assert list(found.pictures) == ["sample", "nearest training image", "other model, same noise"]
    hits = {
        (row["subject"], row["query"]): row
        for row in tables["neighbors"].to_pylist()
        if row["rank"] == 1 and row["query_kind"] == "sample" and row["reference"] == f"train_{row['part']}"
    }
    tested = {(row["subject"], row["sample"]): row for row in tables["significance"].to_pylist()}
    pairs = {
        (row["n_train"], row["item_a"]): row["value"]
        for row in tables["similarity"].to_pylist()
        if row["kind"] == "same_noise"
    }
    for i, ((name, place), near, twin) in enumerate(zip(*found.places, strict=True)):
        subject = name.removeprefix("samples/")
        n_train = int(subject[1:].partition("-")[0])
        assert found.panels[i] == f"N = {n_train}"
        assert found.models[i].endswith(subject[-1].upper())
        drawn = np.load(run.samples_path(subject))
        assert (found.image_of(name, place) == drawn[place]).all()
        hit = hits[subject, place]
        assert workspace.images.ids[near[1]] == hit["reference_id"]
        assert (found.image_of(*near) == workspace.images.pixels[near[1]]).all()
        assert found.values["nearest"][i] == pytest.approx(hit["value"])
        assert twin == (f"samples/{subject[:-1]}{'b' if subject.endswith('a') else 'a'}", place)
        assert found.values["twin"][i] == pytest.approx(pairs[n_train, place])
        judged = tested[subject, place]
        assert found.values["p"][i] == judged["p"]
        assert found.reported[i] == (judged["discovered"] or judged["flagged"])
    one = showing.gallery(workspace, tables, max(cell.n_train for cell in run.cells()))
    assert set(one.panels) == {f"N = {max(cell.n_train for cell in run.cells())}"}
    assert showing.gallery(workspace, tables | {"samples": schemas.SAMPLES.empty_table()}) is None


def test_links_to_tables_lead_to_files(finished):
    """Each link of the page, seen from its folder, is a file of the run."""
    run = runs.Run(finished)
    for folder in (run.report, run.report / "n4"):
        found = showing.tables(run, folder)
        assert {each.name for each in found} >= {"transition", "neighbors", "samples"}
        for each in found:
            assert all((folder / unquote(link)).resolve().is_file() for link in each.files)
            assert each.rows == run.table(each.name).num_rows


def test_films_of_a_run(tiny):
    """Images on the way stand on the page of the run in their order, with the noise levels of the table."""
    from memgen.experiment import make

    workspace = Workspace.of(runs.Run(tiny), "cpu")
    assert showing.films(workspace) == []
    name = workspace.run.cells()[-1].name
    make.sample_subject(workspace, name, path_every=5)
    (film,) = showing.films(workspace)
    with np.load(workspace.run.trajectory_path(name)) as kept:
        assert film.updates == kept["steps"].tolist()
        assert (film.frames == kept["path"][:, : viewers.SAMPLES_SHOWN]).all()
    way = workspace.run.table("trajectory", name).to_pylist()
    at = film.updates[1]
    assert film.sigmas[1] == pytest.approx(np.mean([row["sigma"] for row in way if row["step"] == at]))
    assert showing.films(workspace, 10**6) == []
