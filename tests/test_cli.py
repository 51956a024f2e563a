"""The command line, through the real program on real images: what it prints, writes, refuses and keeps."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import program
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image
from program import memgen

import memgen as package
from memgen.experiment import present, subjects, tasks
from memgen.experiment.runs import Run
from memgen.experiment.workspace import Workspace
from memgen.images import shuffle
from memgen.models import sampling
from memgen.models.known import classes, generate
from memgen.models.networks import BFCNNSettings, UNetSettings, build

pytestmark = pytest.mark.usefixtures("unrendered")

# What a person who reads a table with other programs relies on: these columns, some with these units.
COLUMNS = {
    "images": {"index": "", "image_id": "", "source": ""},
    "skipped": {"source": "", "reason": ""},
    "duplicates": {"removed_id": "", "kept_id": "", "correlation": ""},
    "split": {"part": "", "rank": "", "image_id": ""},
    "training": {
        "subject": "",
        "role": "",
        "n_train": "images",
        "images_seen": "images",
        "seconds": "s",
        "output_psnr_db": "dB",
    },
    "samples": {"sample": "", "noise_seed": "", "updates": "", "sigma": "pixel units", "status": ""},
    "trajectory": {"sample": "", "step": "", "sigma": "pixel units", "residual_sigma": "pixel units"},
    "neighbors": {"query_kind": "", "n_train": "images", "reference": "", "rank": "", "cluster": "", "value": ""},
    "similarity": {"n_train": "images", "kind": "", "item_a": "", "item_b": "", "value": ""},
    "psnr": {"kind": "", "sigma": "pixel units", "input_psnr_db": "dB", "output_psnr_db": "dB"},
    "distances": {
        "kind": "",
        "sigma": "pixel units",
        "noise_draw": "",
        "value": "pixel units^2",
        "weight": "bits / pixel units^2",
    },
    "levels": {"n_train": "images", "quantity": "", "sigma": "pixel units", "estimate": "", "low": "", "high": ""},
    "significance": {
        "sample": "",
        "nearest_id": "",
        "nearest_in": "",
        "closeness": "",
        "W": "",
        "p": "",
        "discovered": "",
    },
    "copies": {"n_pool_train": "units", "answer": "", "discoveries": "", "k_min": "", "memorized_fraction": ""},
    "calibration": {"n_train": "images", "control": "", "discoveries": "", "known_fraction": "", "eps": "pixel units"},
    "basis": {"sigma": "pixel units", "k": "", "eigenvalue": "", "coefficient_clean": "pixel units"},
    "basis_summary": {"trace": "", "asymmetry": "", "sure": "pixel units^2", "overlap_twin": "", "overlap_chance": ""},
    "transition": {"n_train": "images", "quantity": "", "estimate": "", "low": "", "high": "", "n": "", "unit": ""},
}


@pytest.fixture
def quick(monkeypatch) -> None:
    """A sweep ends without its report, whose figures take most of the time."""
    monkeypatch.setattr("memgen.cli.whole.write_report", lambda workspace, as_json: print(workspace.run.path))


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of 30 digits as PNG, with one file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, pixels in enumerate(np.load(program.write_digits(tmp_path / "photos.npy", 30))):
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
    (folder / "[").mkdir()
    (folder / "[" / "notes].png").write_text("not an image")  # a name that Rich would read as markup
    return folder


def images_in(folder: Path) -> np.ndarray:
    return np.load(folder / "pixels.npy")


# ------------------------------------------------------------------------------------------------ the program itself


def test_version():
    """--version prints the version and nothing else."""
    assert memgen("--version").done().out == f"memgen {package.__version__}\n"


def test_help_is_instant():
    """--help of the program and of a command loads neither torch nor any other heavy package."""
    code = (
        "import sys; sys.argv = ['memgen', *sys.argv[1:]]\n"
        "from memgen.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as ended: code = ended.code\n"
        "heavy = {'torch', 'matplotlib', 'faiss', 'pandas', 'PIL'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else code)"
    )
    for arguments in (["--help"], ["sweep", "--help"]):
        ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
        assert "Usage" in ended.stdout
    assert "Exit codes" in memgen("--help").out


def test_usage_error():
    """An unknown option is a usage error: exit code 2, no traceback, nothing on stdout."""
    outcome = memgen("sweep", "--frobnicate")
    assert (outcome.code, outcome.out) == (2, "")
    assert "Traceback" not in outcome.err


# ------------------------------------------------------------------------------------------------ data


def test_data_import_folder(photos, tmp_path):
    """Importing a folder keeps its images and lists what it skipped, with the reason."""
    settings = ["--set", "split.holdout=8", "--set", "sweep.n_train=[1,4]", "--outputs", tmp_path / "outputs"]
    outcome = memgen("data", "import", photos, *settings, "--run", "photos", "--json").done()
    counts = outcome.json
    assert Path(counts["path"]) == tmp_path / "outputs" / "photos" / "images"
    assert (counts["images"] + counts["near_duplicates_removed"], counts["skipped"]) == (30, 1)
    assert counts["image_shape"] == [1, 8, 8]
    assert counts["a"] + counts["b"] + counts["holdout"] == counts["images"] == len(images_in(Path(counts["path"])))
    inspected = memgen("data", "inspect", "--outputs", tmp_path / "outputs").done()
    assert inspected.path == Path(counts["path"])
    assert "[/notes].png" in inspected.err
    assert memgen("data", "inspect", "--outputs", tmp_path / "outputs", "--json").done().json["skipped_files"] == [
        {"source": "[/notes].png", "reason": "not an image that can be read"}
    ]


def test_a_dry_run_of_an_import_says_what_the_import_does(photos, tmp_path, monkeypatch):
    """Images, split and skipped files are those of the import itself, settings that do not fit fail, nothing is written."""
    monkeypatch.chdir(tmp_path)
    fits = ("--set", "split.holdout=8", "--set", "sweep.n_train=[1,4]", "--json")
    said = memgen("data", "import", photos, *fits, "--dry-run").done()
    planned = said.json
    assert "skipped files (1)" in said.err
    assert "[/notes].png" in said.err
    memgen("data", "import", photos, "--dry-run").failed(3, "This fits these images: ")
    memgen("sweep", "--set", f"data.source={photos}", "--dry-run").failed(3, "This fits these images: ")
    assert not (tmp_path / "outputs").exists()
    counts = memgen("data", "import", photos, *fits).done().json
    assert planned["images"] == counts["images"]
    assert planned["split"] == {part: counts[part] for part in ("a", "b", "holdout")}
    run = Path(counts["path"]).parent
    assert planned["settings"] == json.loads((run / "run.json").read_text())["config"]


def test_data_import_array_resized(digits, tmp_path):
    """Importing an array with --resize resizes it; the last line is the folder of the images."""
    outcome = memgen(
        *("data", "import", digits, "--resize", "4", "--outputs", tmp_path, "--run", "small"),
        *("--set", "split.holdout=8", "--set", "sweep.n_train=[1]", "--set", "data.deduplicate=false"),
    ).done()
    assert images_in(outcome.path).shape == (80, 1, 4, 4)


def test_generated_images_in_a_run(tmp_path):
    """Importing a generated class says so, again with the same content; a source beside it, or a resize, is refused."""
    few = ["--set", "split.holdout=8", "--set", "sweep.n_train=[1,4]", "--outputs", tmp_path, "--run", "discs"]
    chosen = ["--set", "data.generated.kind=discs", "--set", "data.generated.n_images=40", "--seed", "3"]
    outcome = memgen("data", "import", *chosen, *few, "--json").done()
    assert (
        "40 images of 1x16x16 from generated: discs: 16 in part a, 16 in part b, 8 held out. Skipped files: 0."
        in outcome.err
    )
    counts = outcome.json
    assert (counts["source"], counts["images"], counts["a"]) == ("generated: discs", 40, 16)
    expected = generate.generate(classes.DiscSettings(), 3, range(40))
    assert np.array_equal(images_in(Path(counts["path"])), expected)
    shutil.rmtree(counts["path"])
    assert memgen("data", "import", *chosen, *few, "--json").done().json["digest"] == counts["digest"]
    memgen("data", "import", tmp_path, *chosen, *few).failed(2, "give one of them")
    memgen("data", "import", "--resize", "8", *chosen, *few).failed(2, "generated.side")


def test_sweep_of_a_shuffled_class(tmp_path, quick):
    """A dry run writes nothing; a sweep on shuffled textures has their shuffled pixels and ends with its tables."""
    (tmp_path / "class.toml").write_text(
        """# Textures, their pixels <shuffled>.
        model = { architecture = "gaussian" }
        split = { holdout = 16 }
        sample = { n_samples = 4, sigma_end = 0.3 }
        psnr = { sigmas = [0.2], n_images = 8 }
        sweep = { n_train = [64] }
        [data]
        shuffle = true
        generated = { kind = "texture", n_images = 160, side = 8 }
        """
    )
    arguments = ["sweep", "-c", tmp_path / "class.toml", "--outputs", tmp_path / "outputs", "--run", "class"]
    memgen(*arguments, "--dry-run").done()
    assert not (tmp_path / "outputs").exists()
    run = Run(memgen(*arguments, "--jobs", "1").done().path)
    found = images_in(run.images)
    plain = generate.generate(classes.TextureSettings(side=8), 0, range(160))
    assert np.array_equal(found, shuffle.shuffled(plain, shuffle.permutation(0, 64)))
    assert run.table("psnr").to_pandas()["output_psnr_db"].notna().all()

    assert run.manifest["about"] == "Textures, their pixels <shuffled>."

    # Pictures show the pixels where they were before.
    there = ["--run", "class", "--outputs", tmp_path / "outputs"]
    memgen("basis", *there).done()
    memgen("restore", "--task", "inpainting", *there).done()
    workspace = Workspace.of(run, "cpu")
    (pair,) = present._specimens(workspace, present._measured(workspace, None), workspace.run.cells())
    (bases,) = present._bases(workspace, None)
    (restored,) = present.restored(workspace)
    known = restored.measured != 0
    for shown in (pair.nearest_a, pair.nearest_b, [bases.clean], restored.clean):
        assert all(np.abs(plain - image).max(axis=(1, 2, 3)).min() < 1e-6 for image in shown)
    np.testing.assert_allclose(restored.measured[known], restored.clean[known], atol=1e-6)
    np.testing.assert_allclose(restored.models[0].images[known], restored.clean[known], atol=1e-3)
    order = shuffle.permutation(0, 64)
    drawn = workspace.load_samples("n64-s0-a").images
    np.testing.assert_array_equal(shuffle.shuffled(pair.samples_a, order), drawn[: len(pair.samples_a)])


def test_data_split(tiny):
    """The split is disjoint in content and says the largest N."""
    shown = memgen("data", "split", "--json").done().json
    table = pq.read_table(shown["path"]).to_pandas()
    assert table["image_id"].is_unique
    assert table["part"].value_counts().to_dict() == {part: shown[part] for part in ("a", "b", "holdout")}
    assert shown["largest_n"] == min(shown["a"], shown["b"])
    assert memgen("data", "split").done().path.exists()


# ------------------------------------------------------------------------------------------------ stages


@pytest.mark.slow
def test_stages_by_themselves_make_the_sweep(config, finished, tmp_path, monkeypatch):
    """The commands of the stages, one after the other, end with the tables and images of the sweep, byte for byte."""
    monkeypatch.chdir(tmp_path)
    assert memgen("data", "import", "-c", config, "--run", "tiny").done().path.is_dir()
    every = ("--n", "1", "--n", "4", "--jobs", "1")
    assert memgen("train", "--n", "1", "--part", "a", "--jobs", "1").done().path.is_dir()
    assert memgen("train", "--jobs", "1", "--json").done().json["subjects"][-1] == "n4-s0-b"
    assert memgen("sample", *every).done().path.name == "n4-s0-b.npy"
    assert memgen("index", "--name", "train_a", *every[:4], "--json").done().json["indexes"][0][0] == "train_a"
    for n_train in ("1", "4"):
        for part in ("a", "b"):
            memgen("nn-search", "--index", f"train_{part}", "--n", n_train).done()
    quantities = {row["quantity"] for row in memgen("compare", *every, "--json").done().json["summary"]}
    assert {"cross_same", "cross_different", "disagreement", "bits"} <= quantities
    assert memgen("verdict", "--jobs", "1").done().path.is_dir()
    assert memgen("psnr", *every).done().path.is_dir()
    assert memgen("report", "--sweep").done().path.name == "report.html"
    program.assert_same_runs(tmp_path / "outputs" / "tiny", finished)


@pytest.mark.slow
def test_lines_of_the_card(tiny):
    """The three lines of the card work as they are written, on the newest run, and end with a path that exists."""
    shutil.copytree(tiny, tiny.parent / "older")
    manifest = json.loads((tiny / "run.json").read_text())
    (tiny.parent / "older" / "run.json").write_text(json.dumps(manifest | {"created": "2020-01-01T00:00:00.000+00:00"}))
    for line in ("memgen sample", "memgen nn-search --index train_a", "memgen report --sweep"):
        outcome = memgen(*line.split()[1:]).done()
        assert outcome.path.exists()
        assert outcome.path.parts[:2] == ("outputs", "tiny")


def test_report_says_the_verdict(tiny):
    """The report of one N is JSON with a verdict and numbers, and does not touch that of the whole sweep."""
    before = (tiny / "report" / "report.html").read_bytes()
    shown = memgen("report", "--n", "4", "--json").done().json
    assert {row["n_train"] for row in shown["summary"] if row["n_train"] is not None} == {4}
    assert set(shown["regimes"]) == {"4"}
    assert shown["headline"]
    assert Path(shown["path"]).parent == Path("outputs/tiny/report/n4")
    assert (tiny / "report" / "report.html").read_bytes() == before


def test_verdict(tiny):
    """Samples are tested for copies, and what was found is said in words and as JSON."""
    shown = memgen("verdict", "--json").done().json
    assert {row["subject"] for row in shown["copies"]} == {f"n{n}-s0-{part}" for n in (1, 4) for part in "ab"}
    assert {row["answer"] for row in shown["copies"]} <= {"found", "none", "cannot decide"}
    assert sum("were tested for copies in two ways" in sentence for sentence in shown["sentences"]) == 2
    reported = [pair for pair in shown["pairs"] if pair["reported_by"] in ("competition", "both tests")]
    assert len(reported) == sum(row["discoveries"] for row in shown["copies"])
    drawn = np.load(tiny / "samples" / "n1-s0-a.npy")
    sources = pd.read_parquet(tiny / "images" / "images.parquet").set_index("image_id")["source"]
    for pair in shown["pairs"]:
        assert pair["source"] == sources[pair["train_id"]]
        assert 0 <= pair["sample"] < len(drawn)
    rows = Run(tiny).table("significance", "n4-s0-a").to_pandas()
    assert rows["sample"].tolist() == list(range(6))
    assert (rows["closeness"] >= rows["correlation"] - 1e-12).all()  # the nearest may be in H
    assert rows["p"].between(0, 1).all()


def test_calibrate(tiny):
    """The test is tried on the run's own images; more redraws go on from fewer, and the report carries the result."""
    shown = memgen("calibrate", "--n", "8", "--repeats", "2", "--json").done().json
    controls = {row["control"] for row in shown["controls"]}
    assert {"held-out", "broadened", "blurred", "one mode", "correlated", "copies", "empirical"} <= controls
    first = (tiny / "tables" / "calibration" / "n8-r0.parquet").stat()
    outcome = memgen("calibrate", "--n", "8", "--repeats", "3").done()
    assert "calibrated on these images" in " ".join(outcome.err.split())
    assert "by 3 redraws" in " ".join(outcome.err.split())
    assert (tiny / "tables" / "calibration" / "n8-r0.parquet").stat() == first
    assert len(Run(tiny).table("calibration").to_pandas()["repeat"].unique()) == 3
    assert "N = 8: " in memgen("report", "--sweep").done().path.read_text()


def test_calibrate_with_too_few_images(tiny):
    """A training set that leaves no images to pose as samples is named, with what to do."""
    memgen("calibrate", "--n", "75", "--repeats", "2").failed(3, "73 images", "smaller N (--n)")


def test_trajectories(tiny, monkeypatch):
    """Keeping the way of the samples changes no sample, keeps to the threads of the run, and makes a table of levels."""
    before = (tiny / "samples" / "n4-s0-a.npy").read_bytes()
    used = []
    draw = sampling.sample
    monkeypatch.setattr(sampling, "sample", lambda *given: (used.append(torch.get_num_threads()), draw(*given))[1])
    with tasks.threads(2):
        shown = memgen("sample", "--part", "a", "--trajectories", "10", "--json").done().json
    assert used == [1]
    assert (tiny / "samples" / "n4-s0-a.npy").read_bytes() == before
    assert sum(shown["samples"]["n4-s0-a"].values()) == 6
    with np.load(tiny / "samples" / "n4-s0-a.path.npz") as path:
        assert path["path"].shape == (len(path["steps"]), 6, 1, 8, 8)
    levels = Run(tiny).table("trajectory", "n4-s0-a").to_pandas()
    updates = Run(tiny).table("samples", "n4-s0-a").to_pandas()["updates"]
    assert levels.groupby("sample")["step"].max().tolist() == (updates - 1).tolist()
    with np.load(tiny / "samples" / "n4-s0-a.path.npz") as kept:
        assert kept["steps"].tolist() == list(range(0, int(updates.max()), 10))
    memgen("sample", "--part", "a", "--trajectories", "7").done()  # another interval is not taken for the same
    with np.load(tiny / "samples" / "n4-s0-a.path.npz") as kept:
        assert kept["steps"].tolist() == list(range(0, int(updates.max()), 7))
    assert (tiny / "samples" / "n4-s0-a.npy").read_bytes() == before


def test_sample_by_another_method(tiny):
    """Its samples stand beside the run's own, which keep every bit, are continued, and are those of the library."""
    before = {path: path.read_bytes() for path in (tiny / "tables").rglob("*.parquet")}
    own = (tiny / "samples" / "n4-s0-a.npy").read_bytes()
    shown = memgen("sample", "--part", "a", "--method", "heun", "--json").done().json
    assert shown["path"].endswith("samples/n4-s0-a.heun.npy")
    assert sum(shown["samples"]["n4-s0-a"].values()) == 6
    workspace = Workspace.of(Run(tiny), "cpu")
    settings = workspace.settings.sample.drawn_by("heun")
    with tasks.threads(1):
        denoiser = subjects.find(workspace, "n4-s0-a").denoiser
        wanted = sampling.sample(denoiser, workspace.mean, range(6), workspace.settings.seed, settings).images
    np.testing.assert_array_equal(np.load(tiny / "samples" / "n4-s0-a.heun.npy"), wanted)
    assert (tiny / "samples" / "n4-s0-a.npy").read_bytes() == own
    assert all(path.read_bytes() == content for path, content in before.items())
    assert Run(tiny).table("method_samples", "n4-s0-a.heun").num_rows == 6
    memgen("sample", "--part", "a", "--method", "edm").failed(2, "--method edm", "stochastic, heun, ddim, ddpm, euler")


def test_a_run_with_another_method(tmp_path, config, monkeypatch):
    """A method in the settings draws the samples of the run, and settings that do nothing with it are refused."""
    monkeypatch.chdir(tmp_path)
    given = ["--run", "flow", "--config", config]
    heun = [*given, "--set", "sample.method=heun"]
    memgen("train", "--n", "4", *heun, "--set", "sample.preset=paper").failed(2, "do nothing with the method heun")
    memgen("train", "--n", "4", *heun, "--set", "sample.steps=5").done()
    memgen("sample", "--run", "flow", "--jobs", "1").done()
    found = Run(tmp_path / "outputs" / "flow").table("samples").to_pandas()
    assert set(found["updates"]) == {4}
    assert set(found["status"]) == {"converged"}


def test_imported_denoiser(tiny, tmp_path):
    """An authors' UNet is imported under a name, sampled, and its samples searched."""
    network = build(UNetSettings(blocks=1, width=4), (1, 8, 8))
    torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, tmp_path / "theirs.pt")
    shown = memgen("import", "theirs.pt", "--json").done().json
    assert (shown["name"], shown["architecture"], shown["blocks"]) == ("theirs", "unet", 1)
    assert shown["parameters"] == network.parameter_count
    outcome = memgen("sample", "--subject", "theirs").done()
    assert np.load(outcome.path).shape == (6, 1, 8, 8)
    found = memgen("nn-search", "--index", "train_b", "--subject", "theirs", "--json").done().json["neighbors"]
    assert {row["subject"] for row in found} == {"theirs"}
    assert {row["reference"] for row in found} == {"train_b"}
    curve = memgen("psnr", "--subject", "theirs", "--json").done().json["curve"]
    assert [row["images"] for row in curve] == ["holdout"] * len(curve)
    assert all(row["mean output PSNR (dB)"] is not None for row in curve)
    memgen("import", "theirs.pt").failed(4, "already has a subject theirs")
    memgen("import", "theirs.pt", "--name", "n4-s0-a").failed(4, "n4-s0-a")
    memgen("import", "theirs.pt", "--name", "../../theirs").failed(4, "../../theirs")
    assert memgen("report", "--sweep", "--json").done().json["regimes"].keys() == {"1", "4", "theirs"}


def test_imported_bf_cnn(tiny, tmp_path):
    """A BF-CNN in safetensors says that it needs to be told about its first layer, and is imported once it is told."""
    network = build(BFCNNSettings(layers=3, width=4, first_layer_linear=False), (1, 8, 8))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "bf.safetensors")
    memgen("import", "bf.safetensors").failed(2, "bf.safetensors", "ReLU")
    assert memgen("import", "bf.safetensors", "--first-layer-relu").done().path.exists()


def test_nn_search_of_own_images(tiny, photos):
    """A person's own training image is found at correlation 1, in an image set prepared as the run's."""
    sources = Run(tiny).table("split").to_pandas().query("part == 'a' and rank < 4")
    pixels = np.load(tiny / "images" / "pixels.npy")[sources["index"].iloc[2], 0]
    queries = photos.parent / "queries"
    queries.mkdir()
    Image.fromarray(pixels).save(queries / "mine.png")
    found = memgen("nn-search", "queries", "--index", "train_a", "--n", "4", "--json").done().json["neighbors"]
    assert found[0]["value"] == pytest.approx(1)
    assert found[0]["reference_id"] == sources["image_id"].iloc[2]
    assert {row["query_kind"] for row in found} == {"user"}


def test_nn_search_metric_and_k(tiny):
    """--metric and --k do what they say, and the run's own table is left as it was."""
    own = tiny / "tables" / "neighbors" / "n4-s0-a.train_a-n4-correlation.parquet"
    before = own.read_bytes()
    found = memgen("nn-search", "--index", "train_a", "--metric", "rmse", "--k", "2", "--json").done().json["neighbors"]
    assert {row["metric"] for row in found} == {"rmse"}
    assert {row["rank"] for row in found} == {1, 2}
    assert all(found[i]["value"] <= found[i + 1]["value"] for i in range(0, len(found), 2))
    assert own.read_bytes() == before


def test_searches_leave_the_measurements_alone(tiny):
    """Whatever is searched for, the summary of the run stays as it is: a search is no measurement of the sweep."""
    workspace = Workspace.of(Run(tiny), "cpu")
    before = present.summary(workspace)
    for more in (
        ["--k", "1"],
        ["--metric", "rmse"],
        ["--subject", "n4-s0-a", "--index", "train_a", "--n", "1"],
        ["--subject", "n1-s0-b"],
        ["--index", "holdout", "--k", "2"],
        [tiny.parent / "tiny" / "images" / "pixels.npy"],
    ):
        memgen("nn-search", *more).done()
        assert present.summary(workspace).equals(before), more


# ------------------------------------------------------------------------------------------------ tables


def test_tables_are_read_by_others(tiny):
    """pandas, polars and DuckDB read every table with the same columns and rows; units stand in the metadata."""
    memgen("sample", "--trajectories", "20").done()
    memgen("calibrate", "--n", "8", "--repeats", "2").done()
    memgen("basis").done()
    for kind, columns in COLUMNS.items():
        folder = tiny / "images" if kind == "images" else tiny / "tables" / kind
        pattern = str(folder / "*.parquet")
        rows = sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))
        frames = [pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))]
        polars = pl.read_parquet(pattern)
        duck = duckdb.sql(f"select * from read_parquet('{pattern}')")
        assert sum(map(len, frames)) == len(polars) == duck.shape[0] == rows, kind
        assert list(frames[0].columns) == polars.columns == duck.columns, kind
        assert columns.keys() <= set(polars.columns), kind
        schema = pq.read_schema(next(folder.glob("*.parquet")))
        assert schema.metadata[b"memgen.schema"].decode().startswith(f"{kind}/")
        assert {name: schema.field(name).metadata[b"unit"].decode() for name in columns} == columns
        assert all(field.metadata[b"doc"] for field in schema)
    assert rows > 0


def test_interval_over_one_image_is_null(tiny):
    """The PSNR gap at N = 1, over one image, has an estimate and no interval."""
    gap = pd.read_parquet(tiny / "tables" / "transition").query("quantity == 'psnr_gap' and n_train == 1")
    assert gap["estimate"].notna().all()
    assert gap[["low", "high"]].isna().all(axis=None)


# ------------------------------------------------------------------------------------------------ sweep


@pytest.mark.slow
def test_sweep_in_another_process_with_two_workers(config, finished, tmp_path):
    """The same settings in a fresh process, with two workers, end with the same tables and bit-identical images."""
    arguments = ("sweep", "--config", config, "--run", "tiny", "--jobs", "2", "--json")
    outcome = program.memgen_process(*arguments, cwd=tmp_path).done()
    assert Path(outcome.json["path"]) == Path("outputs/tiny/report/report.html")
    assert (tmp_path / outcome.json["path"]).exists()
    program.assert_same_runs(tmp_path / "outputs" / "tiny", finished)


def test_finished_sweep_is_not_done_again(tiny, config, quick):
    """A sweep over a finished run writes no artifact, and one with a further N adds its own only."""
    before = {name: path.stat() for name, path in program.artifacts(tiny).items()}
    memgen("sweep", "-c", config, "--run", "tiny", "--jobs", "1").done()
    memgen("sweep", "-c", config, "--run", "tiny", "--set", "sweep.n_train=[4, 8]", "--jobs", "1").done()
    after = {name: path.stat() for name, path in program.artifacts(tiny).items()}
    for name, found in before.items():
        assert (after[name].st_mtime_ns, after[name].st_ino) == (found.st_mtime_ns, found.st_ino), name
    assert json.loads((tiny / "run.json").read_text())["config"]["sweep"]["n_train"] == [1, 4, 8]
    assert [cell.name for cell in Run(tiny).cells()][-2:] == ["n8-s0-a", "n8-s0-b"]
    assert all("n8" in name for name in after.keys() - before.keys())
    assert (tiny / "tables" / "similarity" / "n8-s0-a+n8-s0-b.parquet").exists()


def test_training_seeds_extend_a_run(tiny, config, quick):
    """A second training seed adds replicates: other weights, the same noise."""
    memgen("sweep", "-c", config, "--run", "tiny", "--set", "sweep.train_seeds=[1]", "--jobs", "1").done()
    assert {cell.train_seed for cell in Run(tiny).cells()} == {0, 1}
    weights = [(tiny / "denoisers" / f"n4-s{seed}-a.safetensors").read_bytes() for seed in (0, 1)]
    assert weights[0] != weights[1]
    assert Run(tiny).table("samples").column("noise_seed").unique().to_pylist() == [0]


def test_demo_dry_run(tmp_path):
    """A dry run says settings, time and disk, and writes nothing."""
    shown = memgen("demo", "--dry-run", "--outputs", tmp_path / "outputs", "--json").done().json
    assert shown["settings"]["sweep"]["n_train"] == [1, 8, 64, 512, 4096]
    assert shown["cost"]["seconds"] > 0
    assert shown["cost"]["disk_bytes"] > 0
    assert not (tmp_path / "outputs").exists()


# ------------------------------------------------------------------------------------------------ runs


def test_runs_list_and_show(tiny):
    """The runs are listed with their cells, and shown with their manifest and the rows of their tables."""
    (row,) = memgen("runs", "list", "--json").done().json
    assert (row["run"], row["trained cells"], row["largest N"], row["status"]) == ("tiny", "4 of 4", 4, "finished")
    assert memgen("runs", "list").done().path.exists()
    shown = memgen("runs", "show", "tiny", "--json").done().json
    assert shown["rows"]["samples"] == 4 * 6
    assert shown["wall_seconds"] > 0
    assert {"memgen", "torch", "numpy"} <= shown["versions"].keys()
    assert memgen("runs", "show").done().path == Path("outputs/tiny")


def test_runs_remove(tiny, monkeypatch):
    """A run is removed when it is confirmed, and only then."""
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert memgen("runs", "remove", "tiny").code == 1
    assert tiny.exists()
    assert memgen("runs", "remove", "tiny", "--yes", "--json").done().json["removed"]
    assert not tiny.exists()
    memgen("runs", "remove", "tiny", "--yes").failed(4, "no run 'tiny'")


# ------------------------------------------------------------------------------------------------ what is refused


def test_no_run(tmp_path, monkeypatch):
    """Without any run, a command that needs one says how to start one, and exits with 4."""
    monkeypatch.chdir(tmp_path)
    for command in (["sample"], ["nn-search"], ["report", "--sweep"], ["data", "inspect"], ["runs", "show"]):
        memgen(*command).failed(4, "no run in outputs", "memgen demo")


def test_another_seed(tiny):
    """A seed that is not the run's is refused, since a run has one; commands on an existing run take none."""
    memgen("sweep", "--run", "tiny", "--seed", "7").failed(2, "seed is 0 in the run, and 7 in this command")
    assert "--seed" not in memgen("sample", "--help").done().out


def test_other_settings(tiny, config):
    """A run is never continued with other settings; the message names them."""
    memgen("sweep", "-c", config, "--run", "tiny", "--set", "train.batch_size=8").failed(
        2, "train.batch_size is 4 in the run, and 8 in this command"
    )


def test_a_run_needs_no_config_to_grow(tiny, quick):
    """Without a config, the run's own settings hold; only what is stated differs, and a dry run shows just that."""
    before = Run(tiny).manifest["config"]
    memgen("sweep", "--run", "tiny", "--set", "train.batch_size=8", "--set", "sweep.n_train=[1,2]").failed(
        2, "outputs/tiny was made with other settings: train.batch_size is 4 in the run, and 8 in this command. Only"
    )
    other = memgen("sweep", "--run", "tiny", "--set", "model.architecture=bf_cnn")
    other.failed(2, "model.architecture is unet in the run, and bf_cnn in this command")
    assert "data." not in other.err
    more = ("sweep", "--run", "tiny", "--set", "sweep.n_train=[2]")
    dry = memgen(*more, "--dry-run", "--json").done().json
    assert dry["settings"] == before | {"sweep": before["sweep"] | {"n_train": [1, 2, 4]}}
    assert dry["cost"]["cells"] == 2
    assert Run(tiny).manifest["config"] == before
    memgen(*more, "--jobs", "1").done()
    assert sorted({cell.n_train for cell in Run(tiny).cells()}) == [1, 2, 4]
    assert Run(tiny).manifest["config"] == dry["settings"]


def test_a_name_without_a_run_is_about_the_embedded_images(tmp_path, monkeypatch):
    """A mistyped name, or one whose import failed, would start the experiment on other images: this is said at once."""
    monkeypatch.setattr("memgen.cli.whole.execute", lambda *given: None)
    monkeypatch.setattr("memgen.cli.whole.write_report", lambda *given: None)
    where = ("--outputs", tmp_path / "outputs")
    assert "There was no run faces" in memgen("sweep", "--run", "faces", *where).done().err
    assert "There was no run" not in memgen("sweep", "--run", "faces", *where).done().err
    assert "There was no run" not in memgen("sweep", "--run", "x", "--set", "data.source=x", *where).done().err


def test_unknown_setting(tmp_path):
    """An unknown key exits with 2 and suggests the one that was meant, and no run is made."""
    outcome = memgen("sweep", "--set", "train.learning_rat=1", "--outputs", tmp_path / "outputs")
    outcome.failed(2, "unknown key train.learning_rat", "did you mean train.learning_rate?")
    assert not (tmp_path / "outputs").exists()


def test_locked_run(tiny, config):
    """A run that another process writes to is left alone, settings included, with exit code 4."""
    code = (
        "import sys, filelock\n"
        "with filelock.FileLock('outputs/tiny/.lock'):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "locked\n"
        before = (tiny / "run.json").read_bytes()
        memgen("sample").failed(4, "outputs/tiny is in use")
        memgen("runs", "remove", "tiny", "--yes").failed(4, "outputs/tiny is in use")
        memgen("sweep", "-c", config, "--run", "tiny", "--set", "sweep.n_train=[8]").failed(4, "outputs/tiny is in use")
        assert (tiny / "run.json").read_bytes() == before
        holder.stdin.close()
    memgen("sample", "--jobs", "1").done()


@pytest.mark.parametrize("delay", [0.3, *(pytest.param(d, marks=pytest.mark.slow) for d in (0, 0.1, 0.6, 1.2, 2, 6))])
def test_interrupt(config, tmp_path, delay):
    """Ctrl-C ends the program and its workers with code 130, one message and no traceback."""
    command = [sys.executable, "-m", "memgen", "sweep", "-c", config, "--run", "tiny", "--jobs", "2"]
    command += ["--set", "train.images_seen=100000000"]
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=program.environment(), start_new_session=True
    ) as running:
        try:
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob("outputs/tiny/tables/split/*.parquet")):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(delay)  # the workers are starting, or at work
            os.killpg(running.pid, signal.SIGINT)
            err = running.communicate(timeout=30)[1]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 130
    assert "Traceback" not in err, err
    assert "error: interrupted" in err
    assert json.loads((tmp_path / "outputs/tiny/run.json").read_text())["status"] == "interrupted"
