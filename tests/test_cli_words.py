"""What the commands print and give as JSON, held against the run's own tables; which subjects, sizes and paths."""

import contextlib
import inspect
import io
import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import program
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from program import memgen

from memgen.base import schemas
from memgen.cli import app, measure, shared, terminal
from memgen.experiment import executors, make, present
from memgen.experiment.cost import Cost
from memgen.experiment.runs import Run
from memgen.experiment.workspace import Workspace
from memgen.findings import transition
from memgen.images.imageset import ImageSet
from memgen.measures import peers
from memgen.models import inverse

pytestmark = pytest.mark.usefixtures("unrendered")


@dataclass(frozen=True)
class Printed:
    """A table that a command printed."""

    title: str
    columns: list[str]
    rows: list[list]
    note: str = ""

    def column(self, name: str) -> list:
        """The cells under a heading."""
        position = self.columns.index(name)
        return [row[position] for row in self.rows]


@pytest.fixture
def printed(monkeypatch) -> list[Printed]:
    """The tables that commands print, in order; they are printed all the same."""
    found, table = [], terminal.table

    def record(title, columns, rows, note=""):
        found.append(Printed(title, list(columns), [list(row) for row in rows], note))
        table(title, columns, rows, note)

    monkeypatch.setattr(terminal, "table", record)
    return found


@pytest.fixture
def bars(monkeypatch) -> list[str]:
    """What stands beside the bars that commands draw, in order."""
    found, bar, stages = [], terminal.bar, terminal.stages

    def record(description):
        found.append(description)
        return bar(description)

    @contextlib.contextmanager
    def record_each():
        with stages() as show:

            def shown(stage, done, total):
                if stage not in found:
                    found.append(stage)
                show(stage, done, total)

            yield shown

    monkeypatch.setattr(terminal, "bar", record)
    monkeypatch.setattr(terminal, "stages", record_each)
    return found


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """The steps that commands ask for, which are not taken: (subjects, verbs) of each task, and the run's path."""
    found = []

    def execute(workspace, listed, jobs, options=None):
        found.extend((str(workspace.run.path), task.subjects, task.verbs) for task in listed)

    for command in ("make", "measure", "whole"):
        monkeypatch.setattr(f"memgen.cli.{command}.execute", execute)
    return found


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Reports have no figures and no page, which take most of the time."""
    monkeypatch.setattr(present.page, "write", lambda page, folder: [folder / "report.html", folder / "verdict.json"])


def frame(run: Path, kind: str, name: str = "*") -> pd.DataFrame:
    """A table of a run, read with pandas."""
    return pd.concat([pd.read_parquet(path) for path in sorted((run / "tables" / kind).glob(f"{name}.parquet"))])


def assert_reasons(shown: Printed, skipped: pd.DataFrame) -> None:
    """A table says how many files were skipped for each reason, and names the first of them."""
    assert (shown.title, shown.columns) == (f"skipped files ({len(skipped)})", ["reason", "files", "such as"])
    grouped = skipped.groupby("reason")["source"].agg(["size", "min"]).sort_values(["size", "min"])
    assert shown.rows == [[reason, row["size"], row["min"]] for reason, row in grouped.iterrows()]


def settings_of(run: Path) -> dict:
    """The settings in the manifest of a run."""
    return json.loads((run / "run.json").read_text())["config"]


def set_sweep(run: Path, **changes) -> None:
    """Change the sizes or seeds in the manifest of a run."""
    manifest = json.loads((run / "run.json").read_text())
    manifest["config"]["sweep"] |= changes
    (run / "run.json").write_text(json.dumps(manifest))


def end(path: Path, ended: list[str]) -> None:
    """Write into a table how each of its samples ended."""
    table = pq.read_table(path)
    position = table.schema.get_field_index("status")
    pq.write_table(table.set_column(position, table.schema.field(position), [ended]), path)


def training_images(run: Path, part: str, n_train: int) -> np.ndarray:
    """The training images of the cells of a part, uint8 (N, 1, 8, 8)."""
    rows = frame(run, "split").query("part == @part and rank < @n_train").sort_values("rank")
    return np.load(run / "images" / "pixels.npy")[rows["index"]]


def saved(path: Path, images: np.ndarray) -> Path:
    np.save(path, images)
    return path


# ------------------------------------------------------------------------------------------------ runs


def test_runs_list_is_what_the_folders_hold(tiny, printed):
    """Each run has its name, date, status, trained cells of those of the settings, largest N and size on disk."""
    half = tiny.parent / "half"
    shutil.copytree(tiny, half)
    (half / "tables" / "subjects" / "n4-s0-b.parquet").unlink()
    manifest = json.loads((half / "run.json").read_text())
    changes = {"created": "2020-01-02T03:04:05.678+00:00", "status": "interrupted"}
    (half / "run.json").write_text(json.dumps(manifest | changes))
    set_sweep(half, train_seeds=[0, 1])
    (tiny.parent / "broken").mkdir()
    (tiny.parent / "broken" / "run.json").write_text("{" + " " * 149_999)
    listed = memgen("runs", "list", "--json").done().json
    (shown,) = printed
    assert shown.title == "runs in outputs"
    assert shown.columns == ["run", "kind", "created (UTC)", "status", "trained cells", "largest N", "MB"]
    rows = [dict(zip(shown.columns, row, strict=True)) for row in shown.rows]
    assert rows == [row | {"MB": f"{row['MB']:.1f}"} for row in listed]
    megabytes = [
        f"{sum(path.stat().st_size for path in run.rglob('*') if path.is_file()) / 1e6:.1f}" for run in (half, tiny)
    ]
    created = json.loads((tiny / "run.json").read_text())["created"][:16]
    assert shown.rows == [
        ["half", "sweep", "2020-01-02T03:04", "interrupted", "3 of 8", 4, megabytes[0]],
        ["tiny", "sweep", created, "finished", "4 of 4", 4, megabytes[1]],
        ["broken", None, None, "damaged", None, None, "0.1"],
    ]
    (tiny / "tables" / "copies" / "n4-s0-b.parquet").unlink()
    manifest = json.loads((half / "run.json").read_text()) | {"status": "idle", "wall_seconds": 0}
    (half / "run.json").write_text(json.dumps(manifest))
    states = {row["run"]: row["status"] for row in memgen("runs", "list", "--json").done().json}
    assert states == {"half": "not begun", "tiny": "incomplete", "broken": "damaged"}
    assert memgen("runs", "list").done().out == "outputs\n"


def test_runs_show_counts_the_rows_of_each_table(tiny, printed):
    """The run that was named is shown, each setting under its dotted key and each table with its number of rows."""
    shutil.copytree(tiny, tiny.parent / "newest")
    manifest = json.loads((tiny.parent / "newest" / "run.json").read_text())
    (tiny.parent / "newest" / "run.json").write_text(json.dumps(manifest | {"created": "2999-01-01T00:00:00+00:00"}))
    shutil.rmtree(tiny.parent / "newest" / "tables" / "psnr")
    assert memgen("runs", "show", "tiny").done().out == "outputs/tiny\n"
    assert (printed[0].title, printed[0].columns) == ("outputs/tiny", ["key", "value"])
    cells = dict(printed[0].rows)
    assert cells["config.sweep.n_train"] == "[1, 4]"
    counts = {
        kind: sum(pq.read_metadata(path).num_rows for path in (tiny / "tables" / kind).glob("*.parquet"))
        for kind in schemas.KINDS
        if kind != "images"
    }
    assert {key.removeprefix("rows."): int(value) for key, value in cells.items() if key.startswith("rows.")} == counts
    assert len(set(counts.values())) > 5
    assert memgen("runs", "show", "--json").done().json["rows"]["psnr"] == 0
    assert len(printed) == 1  # with --json there is no table


def test_removal_asks_about_the_run_by_its_path(tiny, monkeypatch):
    """The question names the run that goes and its size, and yes removes it."""
    megabytes = sum(path.stat().st_size for path in tiny.rglob("*") if path.is_file()) / 1e6
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    outcome = memgen("runs", "remove", "tiny").done()
    assert (outcome.out + outcome.err).startswith(f"Delete outputs/tiny ({megabytes:.1f} MB)?")
    assert not tiny.exists()


# ------------------------------------------------------------------------------------------------ images


def test_imported_images_are_counted(tmp_path, digits, printed, bars, monkeypatch):
    """The counts, the brightness and the first twenty of the skipped files are those of the images on disk."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    pictures = np.load(digits)[:26] // 2 + 9
    for index, image in enumerate([*pictures, pictures[0]]):
        Image.fromarray(image).save(tmp_path / "photos" / f"{index:02}.png")
    for index in range(23):
        (tmp_path / "photos" / f"text{index:02}.png").write_text("no picture")
    given = ("--set", "split.holdout=7", "--set", "sweep.n_train=[1]", "--run", "photos", "--seed", "3")
    outcome = memgen("data", "import", "photos", *given).done()
    assert settings_of(outcome.path.parent)["data"]["source"] == str(tmp_path / "photos")
    assert settings_of(outcome.path.parent)["seed"] == 3
    assert bars == ["importing images", "finding near-duplicates"]
    split = pd.read_parquet(outcome.path.parent / "tables" / "split")["part"].value_counts()
    assert split["a"] != split["b"]
    removed = len(frame(outcome.path.parent, "duplicates"))
    assert removed not in (0, 23)
    assert (
        f"{split['a']} in part a, {split['b']} in part b, 7 held out. Skipped files: 23. "
        f"Near-duplicates removed: {removed}." in outcome.err
    )
    assert_reasons(printed.pop(), frame(outcome.path.parent, "skipped"))
    shown = memgen("data", "inspect", "--json").done().json
    pixels = np.load(outcome.path / "pixels.npy") / 255
    assert (printed[0].title, printed[0].columns) == ("images", ["", "value"])
    values = dict(printed[0].rows)
    assert {key.replace("_", " ") for key in shown} - set(values) == {
        "path",
        "skipped by reason",
        "skipped files",
        "warnings",
    }
    for key, expected in (("mean", pixels.mean()), ("minimum", pixels.min()), ("maximum", pixels.max())):
        assert shown[key] == pytest.approx(expected)
        assert values[key] == str(shown[key])
    assert values["images"] == str(len(pixels))
    skipped = frame(outcome.path.parent, "skipped")
    assert_reasons(printed[1], skipped)
    assert shown["skipped_by_reason"] == [{"reason": skipped["reason"][0], "files": 23, "first": "text00.png"}]
    assert len(shown["skipped_files"]) == 23
    printed.clear()
    shown = memgen("data", "split", "--json").done().json
    counts = {"a": split["a"], "b": split["b"], "holdout": 7, "largest n": min(split["a"], split["b"])}
    assert (printed[0].title, printed[0].columns) == ("split", ["part", "images"])
    assert dict(printed[0].rows) == counts
    assert Path(shown["path"]) == Path("outputs/photos/tables/split/split.parquet")
    shutil.rmtree(outcome.path)
    memgen("data", "inspect").failed(4, "outputs/photos holds no images", "memgen data import --run photos")


def test_a_run_without_usable_images_is_removed_again(tmp_path, monkeypatch):
    """An import that fails leaves no new run behind, and keeps a run that had its images."""
    monkeypatch.chdir(tmp_path)
    memgen("data", "import", "gone.npy", "--run", "first").failed(3, "no such file")
    assert memgen("runs", "list", "--json").done().json == []
    saved(tmp_path / "all.npy", np.random.default_rng(0).integers(0, 256, (9, 8, 8), dtype=np.uint8))
    given = ("data", "import", "all.npy", "--run", "kept", "--set", "split.holdout=2", "--set", "sweep.n_train=[1]")
    first = memgen(*given, "--json").done().json
    assert memgen(*given, "--json").done().json == first  # the images are there, and counted as before
    shutil.rmtree(tmp_path / "outputs" / "kept" / "images")
    (tmp_path / "all.npy").unlink()
    memgen(*given).failed(3, "no such file")
    assert [row["run"] for row in memgen("runs", "list", "--json").done().json] == ["kept"]


@pytest.mark.parametrize(
    ("count", "asked", "fitting"),
    [
        (100, [], ["split.holdout=33", "sweep.n_train=[1,4,16]"]),  # 67 are left for two parts
        (100, ["split.holdout=40"], ["split.holdout=33", "sweep.n_train=[1,4,16]"]),
        (100, ["split.holdout=20"], ["sweep.n_train=[1,4,16]"]),
        (30, ["split.holdout=4", "sweep.n_train=[20]"], ["sweep.n_train=[13]"]),
        (5, [], ["split.holdout=1", "sweep.n_train=[1]"]),
    ],
)
def test_too_few_images_are_told_what_fits(tmp_path, monkeypatch, count, asked, fitting):
    """The settings that the error names are those with which the same import works."""
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "all.npy", np.random.default_rng(0).integers(0, 256, (count, 8, 8), dtype=np.uint8))
    given = ["data", "import", "all.npy", "--run", "few"]
    before = [word for each in asked for word in ("--set", each)]
    words = shlex.join([word for each in fitting for word in ("--set", each)])
    memgen(*given, *before).failed(3, f"This fits these images: {words}.")
    assert memgen(*given, *before, *shlex.split(words)).done().path.exists()


def test_images_that_are_added_are_prepared_as_the_earlier_ones(tmp_path, monkeypatch):
    """Seed, split, sizes and settings of the images are those of the earlier run, unless others are given."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (14, 8, 8), dtype=np.uint8)
    saved(tmp_path / "first.npy", pixels[:9])
    saved(tmp_path / "more.npy", pixels[9:])
    given = ("--seed", "3", "--resize", "4", "--set", "split.holdout=2", "--set", "sweep.n_train=[1]")
    limited = (*given, "--set", "data.limit=9")
    memgen("data", "import", "first.npy", "--run", "first", *limited, "--set", "data.threshold=1").done()
    more = memgen("data", "import", "more.npy", "--add-to", "first", "--run", "second").done()
    found, before = settings_of(more.path.parent), settings_of(tmp_path / "outputs" / "first")
    added = {"source": str(tmp_path / "more.npy"), "add_to": str(tmp_path / "outputs/first/images"), "limit": None}
    assert found == before | {"data": before["data"] | added}
    assert np.load(more.path / "pixels.npy").shape == (14, 1, 4, 4)
    (tmp_path / "settings.toml").write_text("[split]\nholdout = 4\n")
    more = memgen("data", "import", "more.npy", "--add-to", "first", "-c", "settings.toml", "--seed", "5").done()
    found = settings_of(more.path.parent)
    assert (found["split"]["holdout"], found["seed"], found["data"]["resize"]) == (4, 5, 4)


# ------------------------------------------------------------------------------------------------ new runs


def test_train_starts_a_run_only_where_there_is_none(tmp_path, config, asked, monkeypatch):
    """Without settings the newest run goes on; with some, or without any run, one is made, named after them."""
    monkeypatch.chdir(tmp_path)
    outcome = memgen("train").done()
    assert outcome.err == "new run outputs/default\nN = 1, 4, 16, 64, 256, 1024, 4096\n"
    assert Run(tmp_path / "outputs" / "default").manifest["about"] == ""  # a config has a header, the defaults none
    assert outcome.out == "outputs/default/denoisers\n"
    assert [verbs for _, _, verbs in asked] == [("train",)] * 14
    asked.clear()
    assert memgen("train", "--n", "4", "--part", "b").done().out == "outputs/default/denoisers\n"
    assert asked == [("outputs/default", ("n4-s0-b",), ("train",))]
    other = memgen("train", "--seed", "0").done().path.parent  # a seed is a setting, even the default one
    assert other == Path("outputs/default")
    other = memgen("train", "--seed", "5", "--set", "seed=4").done().path.parent
    assert other.name.startswith("run-")
    assert settings_of(other)["seed"] == 5
    other = memgen("train", "--set", "seed=5", "--seed", "0", "--run", "zero").done().path.parent
    assert settings_of(other)["seed"] == 0
    other = memgen("train", "-c", config).done().path.parent
    assert other.name.startswith("tiny-")
    assert memgen("train", "--set", "train.batch_size=8").done().path.parent.name.startswith("run-")
    assert len(Run(tmp_path / "outputs" / "default").manifest["config"]["sweep"]["n_train"]) == 7


def test_train_of_a_further_size_extends_the_run(tiny, asked):
    """An N that the run lacks is added to its settings, and only its cells are trained."""
    memgen("train", "--n", "8", "--part", "a").done()
    assert settings_of(tiny)["sweep"]["n_train"] == [1, 4, 8]
    assert asked == [("outputs/tiny", ("n8-s0-a",), ("train",))]


def test_a_wrong_part_starts_no_run(tmp_path, asked, monkeypatch):
    """A mistake in the options is found before a run is made."""
    monkeypatch.chdir(tmp_path)
    memgen("train", "--part", "c").failed(2, "--part c", "a or b")
    assert not (tmp_path / "outputs").exists()


def test_commands_without_settings_take_the_run_as_it_is(tiny, asked):
    """A run that is named goes on with its own settings, and with a seed only if it is the run's."""
    assert memgen("train", "--run", "tiny").done().err.startswith("run outputs/tiny\n")
    assert len(asked) == 4
    memgen("train", "--run", "tiny", "--seed", "7").failed(2, "seed is 0 in the run, and 7 in this command")
    memgen("train", "--run", "tiny", "--set", "train.batch_size=8").failed(2, "train.batch_size is 4")


def test_dry_run_prints_the_estimate(tmp_path, config, digits, printed, bars, monkeypatch):
    """A dry run prints the number of images, trainings, the time in fit units, the disk space and every setting."""
    given = []

    def estimate(settings, images, device, jobs):
        given.append((settings, device, jobs))
        return Cost(cells=12, seconds=seconds, disk_bytes=34_000_000)

    monkeypatch.setattr("memgen.experiment.cost.estimate", estimate)
    for seconds, shown in ((600, "10.0 min"), (9000, "2.5 h")):
        arguments = ("-c", config, "--outputs", tmp_path / "outputs", "--seed", "5", "--jobs", "3", "--device", "cpu")
        said = memgen("sweep", *arguments, "--dry-run", "--json").done().json
        settings, cost = printed[-2:]
        assert [(table.title, table.columns) for table in (settings, cost)] == [
            ("settings", ["key", "value"]),
            ("cost", ["", ""]),
        ]
        images = len(np.load(digits))
        parts = (
            "".join(f"{said['split'][part]} in part {part}, " for part in "ab") + f"{said['split']['holdout']} held out"
        )
        assert said["images"] == sum(said["split"].values())
        assert cost.rows[1:] == [
            ["split", parts],
            ["cells (trainings)", 12],
            ["time, about", shown],
            ["disk, about", "34 MB"],
        ]
        count, _, shape = dict(cost.rows)["images"].split()[:3]
        assert images - 10 < int(count) <= images
        assert (shape, str(digits) in dict(cost.rows)["images"]) == ("1x8x8", True)
        assert dict(settings.rows)["sweep.n_train"] == "[1, 4]"
        assert dict(settings.rows)["seed"] == "5"
        assert said["cost"] == {"cells": 12, "seconds": seconds, "disk_bytes": 34_000_000}
        assert said["settings"]["sweep"]["n_train"] == [1, 4]
    assert bars == ["reading images"] * 2
    assert [(found.seed, device, jobs) for found, device, jobs in given] == [(5, "cpu", 3)] * 2
    assert not (tmp_path / "outputs").exists()


def test_demo_with_another_seed(tmp_path, asked, monkeypatch):
    """The demo with a seed is a run of its own; both have the sizes and the header of the config that memgen carries."""
    monkeypatch.setattr("memgen.cli.whole.write_report", lambda workspace, as_json: print(workspace.run.path))
    run = memgen("demo", "--seed", "5", "--outputs", tmp_path).done().path
    assert settings_of(run)["seed"] == 5
    assert run.name.startswith("demo-")
    assert len([verbs for _, _, verbs in asked if "train" in verbs]) == 10
    other = memgen("demo", "--outputs", tmp_path).done().path
    assert other == tmp_path / "demo"
    assert settings_of(other)["sweep"]["n_train"] == settings_of(run)["sweep"]["n_train"] == [1, 8, 64, 512, 4096]
    assert "Kadkhodaie" in Run(other).manifest["about"]
    assert memgen("demo", "--outputs", tmp_path).done().path == other  # it goes on


def test_workers(monkeypatch):
    """There are as many workers as asked for, or one for each core, or one on a GPU, and never more than tasks."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert [shared.worker_count(*given) for given in ((None, "cpu", 9), (None, "cuda", 9), (4, "cpu", 9))] == [6, 1, 4]
    assert [shared.worker_count(*given) for given in ((None, "cpu", 2), (4, "cuda", 3), (4, "cpu", 0))] == [2, 3, 1]


def test_no_worker_is_started_for_what_is_done(tiny, monkeypatch):
    """A command on a finished run works in this process; a worker is started for each task that has a step left."""
    asked, find = [], executors.find

    def found(name, resources, jobs, *more):
        asked.append(jobs)
        return find(name, resources, 1, *more)

    monkeypatch.setattr(executors, "find", found)
    memgen("verdict", "--jobs", "4").done()
    for name in ("n1-s0-a", "n4-s0-b"):
        (tiny / "tables" / "copies" / f"{name}.parquet").unlink()
    memgen("verdict", "--jobs", "4").done()
    assert asked == [1, 2]


def test_device(monkeypatch):
    """auto is CUDA where there is one, and the CPU elsewhere."""
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert shared.choose_device("auto") == device
    assert shared.choose_device("cpu") == "cpu"


def test_a_sweep_says_what_it_does(tiny, config, monkeypatch):
    """The trainings ahead and their share of the time, the median of each search, and the pictures of a new N."""
    monkeypatch.setattr("memgen.cli.whole.write_report", lambda workspace, as_json: print(workspace.run.path))
    monkeypatch.setattr("memgen.experiment.cost.estimate", lambda *_: Cost(cells=6, seconds=900, disk_bytes=0))
    (tiny / "tables" / "neighbors" / "n4-s0-a.train_a-n4-correlation.parquet").unlink()
    given = ("sweep", "-c", config, "--run", "tiny", "--jobs", "1")
    found = memgen(*given, "--set", "sweep.n_train=[8]").done().err
    assert "\n2 networks to train. With all that is measured, this takes about 5.0 min on this machine.\n" in found
    medians = {n: frame(tiny, "neighbors", f"n{n}-s0-a.*").query("rank == 1")["value"].median() for n in (4, 8)}
    for n, pictures in ((4, ""), (8, "; pictures: ")):
        said = f"median correlation of samples with their nearest training images {medians[n]:.3f}{pictures}"
        (line,) = (line for line in found.splitlines() if said in line)
        assert f" n{n}-s0-a" in f" {line}"
        assert line.count("median") == 1
        assert ("pictures" in line) == bool(pictures)
    noted = [f"n{n}-s0{end}" for n in (1, 4, 8) for end in ("", "-a")]  # the pairs, and the part a of each
    assert sorted(re.findall(r"^  (n\S+)  ", found, re.MULTILINE)) == noted
    (folder,) = re.findall(r"; pictures: (\S+)", found)
    assert Path(folder).exists()
    assert "to train" not in memgen(*given).done().err


# ------------------------------------------------------------------------------------------------ which subjects


def test_choice_of_subjects(tiny):
    """--n, --part and --subject choose what is said, the largest trained N by default, and refuse what is not there."""
    set_sweep(tiny, n_train=[1, 4, 8])  # 8 is not trained
    chosen = {
        (): ["n4-s0-a", "n4-s0-b"],
        ("--part", "a"): ["n4-s0-a"],
        ("--n", "1", "--part", "b"): ["n1-s0-b"],
        ("--n", "4", "--n", "1"): ["n1-s0-a", "n1-s0-b", "n4-s0-a", "n4-s0-b"],
        ("--subject", "n1-s0-a"): ["n1-s0-a"],
    }
    for given, names in chosen.items():
        shown = memgen("sample", *given, "--jobs", "1", "--json").done().json
        assert list(shown["samples"]) == names, given
        assert shown["path"] == f"outputs/tiny/samples/{names[-1]}.npy"
    assert "N = 1, 4\n" in memgen("sample", "--n", "4", "--n", "1", "--jobs", "1").done().err
    memgen("sample", "--part", "c").failed(2, "--part c", "a or b")
    memgen("sample", "--subject", "n4-s0-a", "--part", "a").failed(2, "--subject", "--part")
    memgen("sample", "--subject", "n4-s0-a", "--n", "4").failed(2, "--subject", "--n")
    for command in ("sample", "psnr", "basis"):
        memgen(command, "--n", "8").failed(4, "has no N = 8; it has N = 1, 4", "memgen train --run tiny --n 8")
    (tiny / "tables" / "subjects" / "n4-s0-b.parquet").unlink()
    memgen("sample", "--part", "b").failed(4, "has no N = 4 of part b; it has N = 1", "memgen train --run tiny --n 4")
    memgen("sample", "--device", "meta").failed(2, "--device meta", "--device cpu")
    shutil.rmtree(tiny / "tables" / "subjects")
    memgen("sample").failed(4, "outputs/tiny has no trained models", "memgen train --run tiny")


REFUSALS = {
    "report --sweep --n 1": "--sweep reports every N. Leave out --n, or leave out --sweep.",
    "nn-search --index own": "--index own: expected --subject with the name of the subject whose training set is searched.",
    "nn-search mine.npy --subject n4-s0-a --index train_b": (
        "--index train_b: --subject has no effect on a search for your own images there. Leave out --subject, or give "
        "--index own."
    ),
    "nn-search --subject n4-s0-a --n 4": "--n 4: the training set of n4-s0-a has a size of its own. Leave out --n.",
    "compare n4-s0-a": "found one subject, n4-s0-a; expected two names, or none. memgen subjects lists the names.",
    "compare n4-s0-a n4-s0-b --n 4": (
        "found two names and --n. Leave out --n, or leave out the names to compare the models of an N."
    ),
    "psnr --subject n4-s0-a --n 4": "--subject names one subject. Leave out --n, or leave out --subject.",
    "basis --subject n4-s0-a": (
        "--subject n4-s0-a: found a model of the sweep, expected an imported denoiser. Choose the models of the sweep "
        "with --n."
    ),
    "sample --part c": "--part c: expected a or b.",
    "sample --subject n4-s0-a --n 4": (
        "--subject names one subject. Leave out --n and --part, or leave out --subject."
    ),
    "sample --n 8 --n 9": (
        "outputs/tiny has no N = 8, 9; it has N = 1, 4. Train what is missing with: memgen train --run tiny --n 8 --n 9"
    ),
    "sample --n 8 --part b": (
        "outputs/tiny has no N = 8 of part b; it has N = 1, 4. Train what is missing with: memgen train --run tiny --n 8"
    ),
    "sample --device meta": ("--device meta: memgen computes on cpu and cuda only. Use --device cpu or --device auto."),
    "import mine.npy --as x": "--as x: expected denoiser or samples.",
}


def test_options_that_do_not_fit_together_are_refused_in_words(tiny):
    """The message says what was given, what was expected and what to do; nothing is measured."""
    for command, message in REFUSALS.items():
        outcome = memgen(*command.split())
        assert outcome.code == (4 if "outputs/tiny has no" in message else 2), command
        assert outcome.err.removeprefix("run outputs/tiny\n") == f"error: {message}\n", command


def test_options_are_off_unless_given():
    """No command prints JSON, skips a question or chooses anything but the device, the executor and the folder of runs."""
    given = {"outputs": Path("outputs"), "device": "auto", "executor": "local"}
    given |= {"lpips_net": "alex", "low_db": 0.0, "high_db": 34.0, "n": 50, "seconds": 2.0}
    required = {("import_", "source"), ("runs_remove", "run"), ("restore", "task"), ("verify", "document")}
    required |= {("weights", "source"), ("weights", "target")}
    required |= {("canaries_plant", "folder"), ("canaries_plant", "kept")}
    apps = [app, *(group.typer_instance for group in app.registered_groups)]
    commands = [command.callback for each in apps for command in each.registered_commands]
    assert len(commands) > 20
    for command in commands:
        for name, parameter in inspect.signature(command).parameters.items():
            if (command.__name__, name) in required:
                assert parameter.default is inspect.Parameter.empty
            else:
                flag = get_args(parameter.annotation)[0] is bool
                assert parameter.default == given.get(name, False if flag else None), (command.__name__, name)


def test_usage(tiny):
    """A size or a number of workers below 1 is a usage error; -h is help, as is memgen alone; a table of exit codes."""
    for wrong in (["compare", "--n", "0"], ["calibrate", "--n", "0"], ["train", "--n", "0"], ["sample", "--jobs", "0"]):
        assert memgen(*wrong).code == 2, wrong
    assert "Usage" in memgen("-h").done().out
    alone = memgen()
    assert "Exit codes" in alone.out + alone.err
    codes = " ".join(memgen("--help").done().out.replace("│", " ").split())
    assert "4 a run that is missing, locked or incomplete; 5 disk full or not writable" in codes


# ------------------------------------------------------------------------------------------------ imported subjects


@pytest.fixture
def theirs(tiny, tmp_path) -> Path:
    """The run with a model of the sweep imported as `theirs`: T has 4 images and H has 5."""
    train, unseen = training_images(tiny, "a", 4), training_images(tiny, "b", 5)
    memgen(
        *("import", tiny / "denoisers" / "n4-s0-a.safetensors", "--name", "theirs"),
        *("--trained-on", saved(tmp_path / "t.npy", train), "--holdout", saved(tmp_path / "h.npy", unseen)),
    ).done()
    return tiny


def test_import_says_what_came_in(tiny, tmp_path, printed, bars):
    """The name, the training and held-out images, the samples and the skipped files are those that were given."""
    train, unseen = training_images(tiny, "a", 4), training_images(tiny, "b", 5)
    given = ("--trained-on", saved(tmp_path / "t.npy", train), "--holdout", saved(tmp_path / "h.npy", unseen))
    folder = tmp_path / "drawn.v2"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(unseen[index, 0]).save(folder / f"{index}.png")
    for index in range(22):
        (folder / f"text{index:02}.png").write_text("no picture")
    shown = memgen("import", folder, *given, "--json").done().json
    assert shown["path"] == "outputs/tiny/tables/subjects/drawn.v2.parquet"
    assert (shown["name"], shown["kind"], shown["samples"]) == ("drawn.v2", "samples", 3)
    assert (shown["training images"], shown["held-out images"]) == (4, 5)
    assert (printed[0].title, bars) == ("drawn.v2", ["importing"])
    assert printed[0].rows == [
        ["kind", "samples"],
        ["samples", "3"],
        ["training images", "4"],
        ["held-out images", "5"],
    ]
    assert_reasons(printed[1], frame(tiny, "subject_skipped", "drawn.v2"))
    printed.clear()
    shown = memgen("import", tiny / "denoisers" / "n1-s0-a.safetensors", "--name", "bare", "--json").done().json
    assert (shown["kind"], shown["training images"], shown["held-out images"]) == ("denoiser", None, 8)
    assert ["training images", "not known"] in printed[0].rows
    assert ["architecture", "unet"] in printed[0].rows
    printed.clear()
    memgen("import", tmp_path / "h.npy").done()
    shown = memgen("subjects", "--json").done().json
    assert shown["path"] == "outputs/tiny/tables/subjects"
    assert printed[-1].title == "subjects of outputs/tiny"
    assert printed[-1].columns == ["name", "origin", "has", "training images", "held-out images", "source"]
    assert printed[-1].rows == [
        *([f"n{n}-s0-{part}", "sweep", "denoiser", n, 8, "unet"] for n in (1, 4) for part in "ab"),
        ["bare", "imported", "denoiser", None, 8, str(tiny / "denoisers" / "n1-s0-a.safetensors")],
        ["h", "imported", "samples", None, 8, str(tmp_path / "h.npy")],
        ["drawn.v2", "imported", "samples", 4, 5, str(folder)],
    ]
    assert [row["source"] for row in shown["subjects"]] == [row[-1] for row in printed[-1].rows]
    memgen("sample", "--subject", "h").failed(4, "h", "no denoiser")
    (tiny / "tables" / "samples" / "n4-s0-a.parquet").unlink()
    memgen("compare", "n4-s0-a", "h").failed(4, "h", "no denoiser")
    assert not (tiny / "tables" / "samples" / "n4-s0-a.parquet").exists()  # refused before anything is drawn


def test_sample_counts_how_the_samples_ended(tiny, printed, bars):
    """The counts of each ending and the fewest, median and most updates are those of the table of samples."""
    ended = ["converged", "step_cap", "converged", "diverged", "converged", "step_cap"]
    end(tiny / "tables" / "samples" / "n4-s0-a.parquet", ended)
    shown = memgen("sample", "--jobs", "1", "--json").done().json["samples"]
    assert shown["n4-s0-a"] == {"converged": 3, "step_cap": 2, "diverged": 1}
    assert printed[0].title == "samples"
    assert printed[0].columns[:4] == ["subject", "converged", "step cap", "diverged"]
    assert printed[0].rows[0][:4] == ["n4-s0-a", 3, 2, 1]
    for row, name in zip(printed[0].rows, ("n4-s0-a", "n4-s0-b"), strict=True):
        updates = sorted(frame(tiny, "samples", name)["updates"])
        assert row[0] == name
        assert row[4:] == [updates[0], updates[3], updates[-1]]
    assert printed[0].columns[4:] == ["fewest updates", "median", "most"]
    before = (tiny / "tables" / "neighbors" / "n1-s0-a.train_a-n1-correlation.parquet").stat()
    shutil.rmtree(tiny / "tables" / "samples")
    shutil.rmtree(tiny / "tables" / "significance")
    memgen("sample", "--n", "1", "--jobs", "1").done()
    assert {path.stem for path in (tiny / "tables" / "samples").iterdir()} == {"n1-s0-a", "n1-s0-b"}
    assert not (tiny / "tables" / "significance").exists()
    assert (tiny / "tables" / "neighbors" / "n1-s0-a.train_a-n1-correlation.parquet").stat() == before
    memgen("sample", "--n", "1", "--part", "a", "--trajectories", "10").done()
    assert bars == ["sampling n1-s0-a"]


def test_index_is_of_the_images_asked_for(tiny, printed):
    """Each index has the images of its training set, at the largest N by default, or of the holdout."""
    outcome = memgen("index", "--json").done()
    assert outcome.err.startswith("run outputs/tiny\nN = 4\n")
    shown = outcome.json["indexes"]
    assert [row[:3] for row in shown] == [
        ["train_a", 4, "correlation"],
        ["train_b", 4, "correlation"],
        ["holdout", 8, "correlation"],
    ]
    assert printed[0].columns[:3] == ["index", "images", "metric"]
    assert printed[0].rows == shown
    shown = memgen("index", "--name", "train_b", "--n", "1", "--n", "2", "--json").done().json["indexes"]
    assert [row[:2] for row in shown] == [["train_b", 1], ["train_b", 2]]


# ------------------------------------------------------------------------------------------------ measures


def test_nn_search_prints_its_table(tiny, printed):
    """Queries, images, values and both medians are those of the neighbors' tables, of the half and the N named."""
    for index, n_train, name in (("train_a", 4, "n4-s0-a"), ("train_b", 1, "n1-s0-b")):
        shown = memgen("nn-search", "--index", index, "--n", str(n_train), "--k", str(n_train), "--json").done().json
        first = frame(tiny, "neighbors", f"{name}.{index}-n{n_train}-correlation").query("rank == 1")
        table = printed[-1]
        assert table.title == f"nearest images in {index} (N = {n_train}), the first 6 queries"
        assert table.columns == ["sample", "nearest image", "correlation"]
        assert table.rows == first[["query", "reference_source", "value"]].to_numpy().tolist()
        images = ImageSet.load(tiny / "images")
        sources = dict(zip(images.ids, images.sources, strict=True))
        assert [row[1] for row in table.rows] == [sources[image_id] for image_id in first["reference_id"]]
        held = frame(tiny, "neighbors", f"holdout.{index}-n{n_train}-correlation").query("rank == 1")["value"]
        assert table.note == (
            f"median of 6 queries: {first['value'].median():.4f}; for comparison, median of 8 held-out images: "
            f"{held.median():.4f}"
        )
        assert {row["subject"] for row in shown["neighbors"]} == {name}
        assert shown["path"] == "outputs/tiny/tables"
        assert max(row["rank"] for row in shown["neighbors"]) == n_train
    assert memgen("nn-search", "--k", "1").done().path == Path("outputs/tiny/tables")
    held = frame(tiny, "neighbors", "holdout.train_a-n4-correlation")
    assert held["rank"].max() == settings_of(tiny)["search"]["k"]  # --k is for the queries
    default = memgen("nn-search", "--json").done().json["neighbors"]
    assert {(row["subject"], row["reference"], row["n_train"]) for row in default} == {("n4-s0-a", "train_a", 4)}


def test_nn_search_of_the_holdout(tiny, printed):
    """The holdout has no N and no comparison; the samples are those of the N given, on part a, of the first seed."""
    set_sweep(tiny, train_seeds=[0, 1])
    found = memgen("nn-search", "--index", "holdout", "--n", "1", "--json").done().json["neighbors"]
    assert {row["subject"] for row in found} == {"n1-s0-a"}
    assert {row["reference"] for row in found} == {"holdout"}
    assert printed[-1].title == "nearest images in holdout, the first 6 queries"
    assert "comparison" not in printed[-1].note
    assert "median of 6 queries: " in printed[-1].note


def test_nn_search_of_many_images(tiny, tmp_path, printed, bars):
    """Own images are called queries, the first twenty are shown, and one without any contrast has no value."""
    images = saved(tmp_path / "many.npy", np.load(tiny / "images" / "pixels.npy")[:22])
    memgen("nn-search", images).done()
    assert (printed[-1].title, len(printed[-1].rows)) == ("nearest images in train_a (N = 4), the first 20 queries", 20)
    assert printed[-1].columns == ["query", "nearest image", "correlation"]
    assert printed[-1].note.startswith("median of 22 queries: ")
    assert bars == ["reading images"]
    memgen("nn-search", saved(tmp_path / "gray.npy", np.full((1, 8, 8), 9, np.uint8))).done()
    assert printed[-1].note.startswith("no value is defined; for comparison, median of 8 held-out images: ")


def test_nn_search_by_lpips(theirs, printed, monkeypatch):
    """The neighbors are shown by their correlation and again by LPIPS, beside as many images that were never seen."""
    asked = []

    def rerank(workspace, reference, found, trunk, net, own):
        asked.append((len(found), str(trunk), net, own is not None))
        rows = [row | {"metric": f"lpips_{net}", "value": 0.25} for row in found.to_pylist()]
        return pa.Table.from_pylist(rows, schema=found.schema)

    monkeypatch.setattr("memgen.experiment.measure.rerank", rerank)
    given = ("nn-search", "--lpips", "trunk", "--lpips-net", "vgg", "--k", "2", "--json")
    k, n = 2, 6
    for subject, unseen in ((None, False), ("n4-s0-a", False), ("theirs", True)):
        if subject == "theirs":
            memgen("sample", "--subject", "theirs", "--jobs", "1").done()
        asked.clear()
        printed.clear()
        shown = memgen(*given, *(() if subject is None else ("--subject", subject))).done().json
        held = min(n, 5 if unseen else 8)
        assert asked == [(k * held, "trunk", "vgg", unseen), (k * n, "trunk", "vgg", False)], subject
        assert [table.columns[2] for table in printed] == ["correlation", "lpips_vgg"]
        assert (
            printed[1].note == f"median of 6 queries: 0.2500; for comparison, median of {held} held-out images: 0.2500"
        )
        assert {row["value"] for row in shown["reranked"]} == {0.25}
        assert len(shown["reranked"]) == len(shown["neighbors"]) == k * n


def test_nn_search_compares_with_images_that_the_subject_never_saw(tiny, tmp_path, printed):
    """A model that was trained on images of the run's holdout is compared with the others of them alone."""
    split = frame(tiny, "split").query("part == 'holdout'").sort_values("rank")
    holdout = np.load(tiny / "images" / "pixels.npy")[split["index"]]
    some = saved(tmp_path / "some.npy", holdout[:3])
    memgen("import", tiny / "denoisers" / "n4-s0-a.safetensors", "--name", "theirs", "--trained-on", some).done()
    memgen("sample", "--subject", "theirs", "--jobs", "1").done()
    memgen("nn-search", "--subject", "theirs").done()
    unseen, train = (images.reshape(len(images), -1) for images in (holdout[3:], holdout[:3]))
    nearest = [max(np.corrcoef(image, other)[0, 1] for other in train) for image in unseen]
    assert printed[-1].title == "nearest images in train (N = 3), the first 6 queries"
    assert printed[-1].note.endswith(f"median of 5 held-out images: {np.median(nearest):.4f}")


def test_nn_search_of_a_subject(theirs, tmp_path):
    """A subject is searched for in its own training images unless another index is named; own images in train_a."""
    memgen("sample", "--subject", "theirs", "--jobs", "1").done()
    own = {image.tobytes() for image in training_images(theirs, "a", 4)}
    assert len(own) == 4
    ids = set(frame(theirs, "split").query("part == 'a' and rank < 4")["image_id"])
    found = memgen("nn-search", "--subject", "theirs", "--json").done().json["neighbors"]
    assert {row["subject"] for row in found} == {"theirs"}
    assert {row["reference_id"] for row in found} <= ids
    assert not {row["reference"] for row in found} & {"train_a", "train_b", "holdout"}
    again = memgen("nn-search", "--subject", "theirs", "--index", "own", "--json").done().json["neighbors"]
    assert again == found
    found = memgen("nn-search", "--subject", "theirs", "--index", "train_b", "--json").done().json["neighbors"]
    assert {row["reference"] for row in found} == {"train_b"}
    queries = saved(tmp_path / "q.npy", training_images(theirs, "a", 2))
    found = memgen("nn-search", queries, "--n", "4", "--k", "1", "--json").done().json["neighbors"]
    assert [row["value"] for row in found] == pytest.approx([1, 1])
    assert {row["reference"] for row in found} == {"train_a"}
    given = (queries, "--subject", "theirs", "--k", "4", "--json")
    found = memgen("nn-search", *given).done().json["neighbors"]
    assert memgen("nn-search", *given, "--index", "own").done().json["neighbors"] == found
    assert {row["query_kind"] for row in found} == {"user"}
    assert {row["reference_id"] for row in found} == ids
    assert {row["reference"] for row in found} == {"train"}
    memgen("nn-search", "--index", "own").failed(2, "--index own", "--subject")
    memgen("nn-search", queries, "--subject", "theirs", "--index", "train_b").failed(2, "--index train_b", "--subject")
    memgen("nn-search", "--subject", "theirs", "--n", "4").failed(2, "--n 4", "theirs")
    memgen("nn-search", "--index", "nowhere").failed(2, "'nowhere'", "train_a, train_b, holdout")


def test_compare_draws_what_is_missing_and_prints_the_estimates(tiny, monkeypatch):
    """The samples of the N named are drawn, and the table has the estimates of the pair in the summary, and no more."""
    said = []
    monkeypatch.setattr(terminal, "say_estimates", said.append)
    before = frame(tiny, "similarity", "n4-s0-a+n4-s0-b")
    for kind in ("samples", "similarity", "distances"):
        shutil.rmtree(tiny / "tables" / kind)
    outcome = memgen("compare", "--n", "4", "--jobs", "1", "--json").done()
    assert {path.stem for path in (tiny / "tables" / "samples").iterdir()} == {"n4-s0-a", "n4-s0-b"}
    pd.testing.assert_frame_equal(frame(tiny, "similarity"), before)
    shown = outcome.json["summary"]
    quantities = ["cross_same", "cross_different", "cross_minus_null", "train_train", "disagreement", "bits"]
    assert sorted(row["quantity"] for row in shown) == sorted(quantities)
    assert {row["n_train"] for row in shown} == {4}
    assert all(row["estimate"] is not None for row in shown)
    assert said == [shown]
    assert outcome.json["path"] == "outputs/tiny/tables/similarity"
    medians = before.groupby("kind")["value"].median()
    assert f"same noise {medians['same_noise']:.3f}, different noise {medians['different_noise']:.3f}" in outcome.err
    values = {row["quantity"]: row["estimate"] for row in shown}
    assert values["cross_same"] == pytest.approx(medians["same_noise"])


def test_compare_of_two_subjects_prints_its_summary(tiny, printed, bars):
    """The table has the rows of the summary under their headings; one name, or names beside --n, is refused."""
    outcome = memgen("compare", "n4-s0-b", "n1-s0-a", "--json").done()
    summary = outcome.json["summary"]
    assert bars == ["sampling n4-s0-b", "sampling n1-s0-a"]
    assert printed[-1].title == "n4-s0-b and n1-s0-a, with 95 % intervals"
    assert printed[-1].columns == ["", "estimate", "low", "high", "n", "unit"]
    rows = [[name, *(row[key] for key in ("estimate", "low", "high", "n", "unit"))] for name, row in summary.items()]
    assert printed[-1].rows == rows
    assert all(row[2] <= row[1] <= row[3] for row in rows if row[2] is not None)
    path = tiny / "tables" / "similarity" / "n4-s0-b+n1-s0-a.parquet"
    assert Path(outcome.json["path"]).resolve() == path.resolve()
    pairs = pd.read_parquet(path).query("kind == 'same_noise'")
    assert summary["samples from the same noise"]["estimate"] == pytest.approx(pairs["value"].median())
    first = pd.read_parquet(path).query("kind == 'train_train'")
    assert len(first) == 4  # one for each training image of the first
    memgen("compare", "n4-s0-a").failed(2, "one subject, n4-s0-a", "two names")
    memgen("compare", "n4-s0-a", "n4-s0-b", "--n", "4").failed(2, "two names", "--n")


def test_psnr_is_measured_with_its_references(tiny, monkeypatch):
    """PSNR of the models of an N and of the references is measured, and the gaps of that N are printed."""
    said = []
    monkeypatch.setattr(terminal, "say_estimates", said.append)
    every = memgen("psnr", "--n", "1", "--jobs", "1", "--json").done().json["summary"]
    assert {row["n_train"] for row in every} == {1}
    assert all(row["estimate"] is not None for row in every)
    said.clear()
    before = {path.name: path.read_bytes() for path in (tiny / "tables" / "psnr").iterdir()}
    shutil.rmtree(tiny / "tables" / "psnr")
    outcome = memgen("psnr", "--n", "1", "--jobs", "1", "--json").done()
    after = {path.name: path.read_bytes() for path in (tiny / "tables" / "psnr").iterdir()}
    assert after == {name: content for name, content in before.items() if not name.startswith("n4")}
    shown = outcome.json["summary"]
    assert {row["n_train"] for row in shown} == {1}
    assert {name for names in measure._QUANTITIES.values() for name in names} <= transition.QUANTITIES.keys()
    assert {"psnr_gap", "to_linear"} <= {row["quantity"] for row in shown} <= {"psnr_gap", "to_linear", "to_optimum"}
    assert said == [shown]
    assert outcome.json["path"] == "outputs/tiny/tables/psnr"


def test_psnr_of_a_subject_is_its_curve(tiny, printed):
    """The curve has the mean output PSNR of each noise level, on training and on held-out images."""
    outcome = memgen("psnr", "--subject", "n4-s0-a", "--json").done()
    table = frame(tiny, "psnr", "n4-s0-a")
    means = table.groupby(["kind", "sigma", "input_psnr_db"])["output_psnr_db"].mean()
    assert printed[-1].title == "n4-s0-a"
    assert printed[-1].columns == ["images", "sigma", "input PSNR (dB)", "mean output PSNR (dB)"]
    assert [tuple(row[:3]) for row in printed[-1].rows] == list(means.index)
    assert printed[-1].column("mean output PSNR (dB)") == pytest.approx(means.tolist())
    assert [list(row.values()) for row in outcome.json["curve"]] == printed[-1].rows
    assert outcome.json["path"] == "outputs/tiny/tables/psnr/n4-s0-a.parquet"
    memgen("psnr", "--subject", "n4-s0-a", "--n", "4").failed(2, "--subject", "--n")


def test_basis_is_printed_at_the_levels_asked_for(theirs, bars, monkeypatch):
    """The readings printed are those of JSON, at each N and level asked for; a subject beside --n is refused."""
    said = []
    monkeypatch.setattr(terminal, "say_basis", said.append)
    outcome = memgen("basis", "--n", "1", "--sigma", "0.3", "--json").done()
    (readings,) = said
    assert [(reading.n_train, reading.sigma) for reading in readings] == [(1, 0.3)]
    assert [row["sigma"] for row in outcome.json["readings"]] == [0.3]
    assert outcome.json["path"] == "outputs/tiny/tables/basis_summary"
    assert {path.stem for path in (theirs / "tables" / "basis_summary").iterdir()} == {"n1-s0-a+n1-s0-b.sigma0.3"}
    memgen("basis", "--subject", "theirs", "--sigma", "0.3").done()
    assert bars == ["N = 1, sigma 0.3: Jacobians", "theirs, sigma 0.3: Jacobians"]
    memgen("basis", "--subject", "theirs", "--n", "4").failed(
        2, "error: --subject theirs names one denoiser. Leave out --n, or leave out --subject."
    )
    memgen("basis", "--subject", "n4-s0-a").failed(2, "--subject n4-s0-a", "expected an imported")


def test_peers_prints_samples_beside_held_out_images(tiny, printed):
    """Each subject of the N named has its estimate and that of held-out images, each with its own interval."""
    one = memgen("peers", "--n", "1", "--json").done().json["peers"][0]
    assert (one["subject"], one["estimate"], printed[-1].rows[0][2]) == ("n1-s0-a", None, None)
    shutil.rmtree(tiny / "tables" / "peers")
    memgen("peers", "--n", "4").done()
    path = tiny / "tables" / "peers" / "n4-s0-a.parquet"
    table = pq.read_table(path)
    position = table.schema.get_field_index("estimate")
    pq.write_table(table.set_column(position, table.schema.field(position), [[0.125] * len(table)]), path)
    memgen("peers", "--n", "4").done()
    rows = frame(tiny, "peers").to_dict("records")
    assert {row["subject"] for row in rows} == {"n4-s0-a", "n4-s0-b"}
    titles = {measure.NAME: measure.TITLE for measure in peers.all_measures()}
    assert printed[-1].title == "measures of other groups, with 95 % intervals"
    assert printed[-1].columns == ["subject", "measure", "samples", "held-out images"]
    assert printed[-1].rows == [
        [
            row["subject"],
            titles[row["measure"]],
            f"{row['estimate']:.3f}\n[{row['low']:.3f}, {row['high']:.3f}]",
            f"{row['held_out']:.3f}\n[{row['held_out_low']:.3f}, {row['held_out_high']:.3f}]",
        ]
        for row in rows
    ]
    assert all(row[2] != row[3] for row in printed[-1].rows)


def test_calibration_is_of_the_size_and_repeats_asked_for(tiny, bars, monkeypatch):
    """The controls are printed for the N asked for, by as many redraws as were asked for; the default N is trained."""
    said = []
    monkeypatch.setattr(terminal, "say_calibration", lambda found, n_train: said.append((found, n_train)))
    shown = memgen("calibrate", "--n", "8", "--repeats", "2", "--json").done().json
    ((found, n_train),) = said
    assert bars == ["calibrating at N = 8"]
    assert (n_train, shown["n_train"]) == (8, 8)
    assert found.repeats == shown["repeats"] == 2
    assert len(shown["controls"]) == len(found.controls)
    assert (shown["headline"], shown["sentences"]) == (found.headline, found.sentences)
    assert shown["path"] == "outputs/tiny/tables/calibration"
    monkeypatch.setattr("memgen.experiment.measure.calibrate", lambda workspace, size, *_: pytest.fail(f"at {size}"))
    with pytest.raises(pytest.fail.Exception, match="at 4"):
        memgen("calibrate")


def test_slopes_are_printed_with_their_intervals(tmp_path, printed, bars, monkeypatch):
    """Each column has the numbers of the table of slopes; the gain has columns where there is one in theory only."""
    sets = ["data.generated.kind=c_alpha", "data.generated.side=8", "data.generated.n_images=80", "split.holdout=8"]
    sets += ["model.architecture=gaussian", "sweep.n_train=[32]", "psnr.n_images=8"]
    given = ["--outputs", tmp_path, "--run", "smooth"]
    memgen("train", "--part", "a", *given, *(part for value in sets for part in ("--set", value))).done()
    rows = memgen("slopes", "--low-db", "5", *given, "--json").done().json["slopes"]
    gain = {"gain_db": 1.5, "gain_low": 1.25, "gain_high": 1.75, "gain_theory": 2.0}
    table = pa.Table.from_pylist([rows[0] | gain, *rows[1:]])
    monkeypatch.setattr(present, "measure_slopes", lambda *_: table)
    memgen("slopes", *given).done()

    def cells(*names):
        estimate, low, high = ([row[name] for row in rows] for name in names)
        ends = ["" if a is None else f"\n[{a:.3f}, {b:.3f}]" for a, b in zip(low, high, strict=True)]
        return [None if value is None else f"{value:.3f}{end}" for value, end in zip(estimate, ends, strict=True)]

    assert bars == ["importing images", "measuring PSNR", "measuring PSNR"]
    for shown in printed:
        assert shown.column("denoiser")[0] == "N = 32"
        assert shown.column("slope") == cells("slope", "low", "high")
        assert shown.column("mean PSNR (dB)") == cells("level_db", "level_low", "level_high")
        assert shown.column("slope minus the oracle's") == cells("over_oracle", "over_oracle_low", "over_oracle_high")
        span = f"{rows[0]['low_db']:.1f} to {rows[0]['high_db']:.1f} dB, {rows[0]['n_levels']} noise levels"
        title = f"slope of output PSNR against input PSNR on held-out images, {span}, with 95 % intervals"
        assert shown.title == title
        assert shown.column("slope in theory") == [row["theory"] and f"{row['theory']:.3f}" for row in rows]
    assert any(row["low"] is not None for row in rows)
    assert rows[0]["low_db"] >= 5
    assert "gain (dB)" not in printed[0].columns
    assert printed[1].column("gain (dB)")[0] == "1.500\n[1.250, 1.750]"
    assert printed[1].column("gain in theory (dB)")[0] == "2.000"


def test_restore_prints_the_means_of_the_models_named(tiny, printed, bars, monkeypatch):
    """Each model named has the mean PSNR of its images beside those of the starts, and the picture is named."""
    monkeypatch.setattr(present, "draw_restored", lambda workspace, found: [tiny / f"{found.label}.png"])
    for name in ("n4-s0-a", "n1-s0-a"):
        make.restore_images(Workspace.of(Run(tiny), "cpu"), name, inverse.choose("inpainting", None, (1, 8, 8)))
    end(tiny / "tables" / "restored" / "n1-s0-a.inpainting-4.parquet", ["step_cap", *["converged"] * 7])
    outcome = memgen("restore", "--task", "inpainting", "--n", "1", "--json").done()
    table, shown = printed[-1], outcome.json
    assert bars == ["restoring with n1-s0-a", "restoring with n1-s0-b"]
    assert [row["subject"] for row in shown["restored"]] == table.column("subject") == ["n1-s0-a", "n1-s0-b"]
    assert table.title == "inpainting-4: 48 of 64 numbers are measured"
    assert shown["picture"] == str(tiny / "inpainting-4.png")
    assert table.note.endswith(shown["picture"])
    for row, name in zip(shown["restored"], ("n1-s0-a", "n1-s0-b"), strict=True):
        rows = frame(tiny, "restored", f"{name}.inpainting-4")
        found = dict(zip(table.columns, table.rows[table.column("subject").index(name)], strict=True))
        assert found["images"] == len(rows)
        assert found["converged"] == (rows["status"] == "converged").sum()
        assert found["PSNR (dB)"] == pytest.approx(rows["output_psnr_db"].mean())
        assert found["completed by the mean image"] == pytest.approx(rows["filled_psnr_db"].mean())
        assert found["measurement alone"] == pytest.approx(rows["pseudo_psnr_db"].mean())
        assert found["A to B"] == row["twin_psnr_db"]
        assert found["95 % interval"] == f"[{row['psnr']['low']:.2f}, {row['psnr']['high']:.2f}]"


# ------------------------------------------------------------------------------------------------ report and verdict


def test_report_is_of_the_size_asked_for(tiny, undrawn, monkeypatch):
    """The report is about the largest trained N, the one given, or all; the verdict is printed and given whole."""
    said = []
    monkeypatch.setattr(terminal, "say", lambda found, summary: said.append((found, summary)))
    set_sweep(tiny, n_train=[1, 4, 8])  # 8 is not trained
    for given, sizes, folder in (
        ((), {4}, "report/n4"),
        (("--n", "1"), {1}, "report/n1"),
        (("--sweep",), {1, 4}, "report"),
    ):
        outcome = memgen("report", *given, "--json").done()
        assert outcome.err == "run outputs/tiny\n" + ("" if given else "N = 4\n"), given
        shown = outcome.json
        assert {row["n_train"] for row in shown["summary"]} - {None} == sizes, given
        assert shown["path"] == f"outputs/tiny/{folder}/report.html"
        found, summary = said.pop()
        assert not said
        assert shown["headline"] == found.headline
        assert shown["sentences"] == list(found.sentences)
        assert shown["regimes"] == {str(key): regime for key, regime in found.regimes.items()}
        assert len(shown["summary"]) == len(summary)
    memgen("report", "--sweep", "--n", "1").failed(2, "--sweep", "--n")


def test_verdict_prints_the_copies_of_the_subjects_asked_for(tiny, printed, monkeypatch):
    """Only the subjects asked for are tested, from the samples on; their rows and pairs are those of the tables."""
    said = []
    monkeypatch.setattr(terminal, "say", lambda found, summary: said.append(found))
    columns = {
        "subject": "subject",
        "competition": "answer",
        "images found": "discoveries",
        "of these alike": "alike",
        "further samples": "attached",
        "samples flagged": "flagged",
        "closest pair": "closest",
        "memorized fraction": "memorized_fraction",
    }
    every = frame(tiny, "copies").set_index("subject", drop=False)
    rows = frame(tiny, "significance")
    rows = rows.assign(reported=rows["discovered"] | rows["flagged"]).query("reported or W > 0")
    rows = rows.sort_values(["reported", "W"], ascending=False)
    reported = rows.query("reported")
    assert set(reported["subject"]) == {"n1-s0-a"}
    for kind in ("samples", "neighbors", "copies", "significance"):
        for path in (tiny / "tables" / kind).glob("n4-*"):
            path.unlink()
    for given, names in ((("--n", "4"), ["n4-s0-a", "n4-s0-b"]), (("--subject", "n1-s0-a"), ["n1-s0-a"])):
        printed.clear()
        shown = memgen("verdict", *given, "--jobs", "1", "--json").done().json
        assert printed[0].title == ("what the tests for copies found of each subject")
        assert printed[0].columns == list(columns)
        assert printed[0].rows == every.loc[names, list(columns.values())].to_numpy().tolist()
        assert [row["subject"] for row in shown["copies"]] == names
        pairs = rows[rows["subject"].isin(names)]
        assert len(shown["pairs"]) == len(pairs) <= 12 * len(names)
        assert len(printed) == (2 if len(pairs) else 1)
        assert said.pop().headline == shown["headline"]
    assert (tiny / "tables" / "neighbors" / "n4-s0-b.train_b-n4-correlation.parquet").exists()
    assert len(frame(tiny, "samples", "n4-*")) == 12
    found = dict(zip(printed[1].columns, printed[1].rows[0], strict=True))
    sources = pd.read_parquet(tiny / "images" / "images.parquet").set_index("image_id")["source"]
    pair = pairs.to_dict("records")[0]
    assert found == {
        "subject": "n1-s0-a",
        "sample": pair["sample"],
        "training image": sources[pair["train_id"]],
        "correlation": pair["correlation"],
        "depth": pair["W"],
        "reported by": "competition",
    }
    assert printed[1].title.endswith(f"{len(pairs)} of {len(pairs)} (1 are reported by a test)")


def test_verdict_of_a_model_of_the_sweep_measures_no_psnr(tiny, asked):
    """What the tests for copies need of it is measured; its PSNR is the sweep's."""
    memgen("verdict", "--subject", "n1-s0-a").done()
    assert asked == [("outputs/tiny", ("n1-s0-a",), ("sample", "search", "copies"))]


def test_verdict_of_imported_subjects(theirs, tmp_path, printed):
    """An imported denoiser is sampled, searched, tested and measured; of many pairs the first twenty are printed."""
    images = saved(tmp_path / "copies.npy", training_images(theirs, "a", 33))
    unseen = saved(tmp_path / "unseen.npy", training_images(theirs, "b", 32))
    memgen("import", images, "--trained-on", images, "--holdout", unseen).done()
    printed.clear()
    shown = memgen("verdict", "--subject", "copies", "--jobs", "1", "--json").done().json
    assert len(shown["pairs"]) == shown["copies"][0]["discoveries"] == 33
    assert printed[1].title.endswith("20 of 33 (33 are reported by a test)")
    assert printed[1].column("sample") == [pair["sample"] for pair in shown["pairs"][:20]]
    assert (frame(theirs, "neighbors", "copies.*")["subject"] == "copies").all()
    assert not (theirs / "tables" / "copies" / "theirs.parquet").exists()
    memgen("verdict", "--jobs", "1").done()
    for kind in ("samples", "copies", "psnr"):
        assert (theirs / "tables" / kind / "theirs.parquet").exists()
    assert (frame(theirs, "neighbors", "theirs.*")["subject"] == "theirs").all()


def test_verdict_searches_in_the_space_of_the_settings(theirs):
    """Where the settings compare images by another value than correlation, neighbors by that value are measured too."""
    manifest = json.loads((theirs / "run.json").read_text())
    manifest["config"]["search"]["metric"] = "rmse"
    (theirs / "run.json").write_text(json.dumps(manifest))
    for name in ("n4-s0-a", "theirs"):
        memgen("verdict", "--subject", name, "--jobs", "1").done()
        assert set(frame(theirs, "neighbors", f"{name}.*-rmse")["subject"]) == {name}


def test_standard_output_has_the_path_alone(tiny):
    """Whatever a command says besides its result goes to standard error."""
    for command in (["sample", "--jobs", "1"], ["index"], ["data", "split"], ["subjects"], ["peers"]):
        outcome = memgen(*command).done()
        assert len(outcome.out.splitlines()) == 1, command
        assert outcome.path.exists()
        assert program.memgen(*command, "--json").done().json["path"] == str(outcome.path)
