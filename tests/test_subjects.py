"""Subjects: what is imported is measured as a trained cell is, and what cannot be measured says why."""

import io
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest
import torch
from filelock import FileLock
from PIL import Image
from program import memgen

from memgen.base import schemas
from memgen.base.errors import DataError, RunError, ShapeError
from memgen.experiment import measure, subjects, tasks
from memgen.experiment.runs import Run, pair_key
from memgen.experiment.workspace import Workspace
from memgen.images import prepare
from memgen.images.imageset import ImageSet
from memgen.measures import psnr
from memgen.measures.copies import examiner
from memgen.measures.subject import GivenSubject, Identity, Samples, lacking

pytestmark = pytest.mark.usefixtures("unrendered")

IDENTITY = ["subject", "role", "n_train", "part", "train_seed"]


def saved(path: Path, images: ImageSet) -> Path:
    """An array file of the pixels of images."""
    np.save(path, images.pixels)
    return path


@pytest.fixture
def workspace(tiny) -> Workspace:
    """A copy of the finished run, as a workspace."""
    return Workspace.of(Run(tiny), "cpu")


@pytest.fixture
def train(workspace, tmp_path) -> Path:
    """The training images of the cell n4-s0-a, as an array file."""
    return saved(tmp_path / "train.npy", subjects.find(workspace, "n4-s0-a").train)


def same_numbers(workspace: Workspace, kind: str, name: str, other: str) -> None:
    """The tables of two subjects agree in everything but the identity, to the last bit, in whatever order of rows."""
    one, two = (workspace.run.table(kind, each).drop_columns(IDENTITY) for each in (name, other))
    by = [(column, "ascending") for column in ("kind", "image_id", "sigma", "noise_draw") if column in one.column_names]
    if by:
        one, two = one.sort_by(by), two.sort_by(by)
    assert one.equals(two), kind


def test_an_imported_denoiser_is_measured_as_the_cell_that_it_was(workspace, train, tmp_path):
    """A cell's weights, imported with T and H as files, get the samples, copies, PSNR and neighbors of the cell."""
    cell = subjects.find(workspace, "n4-s0-a")
    weights = workspace.run.denoiser_path("n4-s0-a")
    memgen("import", weights, "--name", "theirs", "--trained-on", train).done()
    shown = memgen("verdict", "--subject", "theirs", "--jobs", "1", "--json").done().json
    for kind in ("samples", "psnr"):
        same_numbers(workspace, kind, "theirs", "n4-s0-a")
    np.testing.assert_array_equal(subjects.find(workspace, "theirs").samples.images, cell.samples.images)
    own, null = measure.search_own(workspace, "theirs")
    of_cell, of_holdout = measure.search_own(workspace, "n4-s0-a")
    other = [*IDENTITY, "reference", "reference_source", "reference_index", "cluster"]
    assert own.drop_columns(other).equals(of_cell.drop_columns(other))
    assert null.drop_columns(other).equals(of_holdout.drop_columns(other))
    assert set(null["subject"].to_pylist()) == {"theirs"}
    (row,) = shown["copies"]
    assert (row["subject"], row["role"], row["n_train"]) == ("theirs", "imported", 4)
    assert row["n_pool_heldout"] == len(workspace.split.holdout)  # the cell has the other half besides
    unseen = saved(tmp_path / "unseen.npy", cell.unseen)
    memgen("import", weights, "--name", "again", "--trained-on", train, "--holdout", unseen).done()
    memgen("verdict", "--subject", "again", "--jobs", "1").done()
    found, expected = (workspace.run.table("copies", name).to_pylist()[0] for name in ("again", "n4-s0-a"))
    for key in expected.keys() - set(IDENTITY):
        assert found[key] == expected[key], key


def test_samples_of_another_method_are_measured_with_the_images_of_their_model(workspace):
    """--trained-on takes the name of a subject: what it was trained on, and what it has never seen."""
    memgen("sample", "--n", "4", "--method", "ddim").done()
    drawn = workspace.run.samples_path("n4-s0-a.ddim")
    memgen("import", drawn, "--as", "samples", "--trained-on", "n4-s0-a").done()
    kept, cell = (subjects.find(workspace, name) for name in ("n4-s0-a.ddim", "n4-s0-a"))
    assert set(kept.train.ids) == set(cell.train.ids)
    assert set(kept.held_out.ids) == set(cell.unseen.ids)
    assert kept.identity.n_train == 4
    np.testing.assert_array_equal(kept.samples.images, np.load(drawn))
    assert np.load(drawn).min() < 0  # as it was drawn, with values that pictures do not have
    (row,) = memgen("verdict", "--subject", "n4-s0-a.ddim", "--jobs", "1", "--json").done().json["copies"]
    assert row["n_pool_heldout"] == len(cell.unseen)
    memgen("import", drawn, "--name", "x", "--as", "samples", "--trained-on", "n9-s0-a").failed(3, "n9-s0-a")


def test_a_model_that_does_not_denoise_is_doubted(workspace, train, tmp_path):
    """A network that gives the noise passes for a denoiser in every other way, wherever a model comes in."""

    class Blurs(torch.nn.Module):
        def forward(self, noisy, sigma):
            return torch.nn.functional.avg_pool2d(noisy, 3, stride=1, padding=1)

    class Flat(torch.nn.Module):  # nearer than much noise is
        def forward(self, noisy, sigma):
            return noisy.mean(dim=(1, 2, 3), keepdim=True).expand_as(noisy)

    class Noise(Blurs):
        def forward(self, noisy, sigma):
            return (noisy - super().forward(noisy, sigma)) / sigma.view(-1, 1, 1, 1)

    for name, network in (("blurs", Blurs()), ("flat", Flat()), ("noise", Noise())):
        with warnings.catch_warnings(action="ignore"):  # PyTorch's exporters warn about themselves
            torch.jit.trace(network, (torch.rand(2, 1, 8, 8), torch.rand(2))).save(str(tmp_path / f"{name}.pt"))
    doubt = "does not denoise: at noise levels 0.05, 0.1, 0.3, 1.0,"
    models = [tmp_path / "blurs.pt", tmp_path / "noise.pt"]
    for model in (*models, tmp_path / "flat.pt"):
        said = memgen("import", model, "--trained-on", train, "--json").done()
        assert [f"{model} {doubt}" in warning for warning in said.json["warnings"]] == [True] * (model != models[0])
    page = memgen("report", "--sweep").done().path.read_text()
    assert page.count(f"noise: {models[1]} {doubt}") == 1  # kept, and shown under what failed
    images = ("--images", train, "--count", "2", "--set", "sample.max_steps=2", "--run", "pair")
    assert memgen("compare", *models, *images).done().err.count(doubt) == 1
    audited = memgen("audit", train, "--model", models[1], "--count", "2", "--set", "sample.max_steps=2").done()
    assert doubt in audited.err
    (tmp_path / "noise.pt.json").write_text('{"predicts": "noise"}')
    assert memgen("import", models[1], "--name", "stated", "--run", "tiny", "--json").done().json["warnings"] == []


def test_images_are_measured_in_an_order_that_knows_no_folder(workspace, train, tmp_path):
    """Files are often in the order of classes, and only the first images are measured: theirs is the order of a hash."""
    weights = workspace.run.denoiser_path("n4-s0-a")
    ordered = saved(tmp_path / "ordered.npy", workspace.images.take(slice(0, 20)))
    turned = saved(tmp_path / "turned.npy", workspace.images.take(np.arange(20)[::-1]))
    for name, path in (("ordered", ordered), ("turned", turned)):
        memgen("import", weights, "--name", name, "--trained-on", train, "--holdout", path).done()
    one, two = (subjects.find(workspace, name).held_out for name in ("ordered", "turned"))
    assert one.ids == two.ids
    assert list(one.ids) != list(workspace.images.take(slice(0, 20)).ids)


def test_imported_samples_are_tested_for_copies(workspace, train, tmp_path):
    """Copies among imported samples lie on their training images; the report shows them, and other numbers stay."""
    before = memgen("report", "--sweep", "--json").done().json["regimes"]
    folder = tmp_path / "drawn"
    folder.mkdir()
    images = np.load(train)[[0, 1, 2, 3, 0, 1]]
    np.save(folder.with_suffix(".npy"), images)
    shown = memgen("import", folder.with_suffix(".npy"), "--trained-on", train, "--json").done().json
    assert (shown["name"], shown["kind"], shown["samples"], shown["training images"]) == ("drawn", "samples", 6, 4)
    memgen("verdict", "--subject", "drawn", "--jobs", "1").done()
    table = workspace.run.table("significance", "drawn").to_pandas()
    assert table["correlation"].tolist() == pytest.approx([1] * 6)
    assert (table["nearest_in"] == "T").all()
    (row,) = workspace.run.table("copies", "drawn").to_pylist()
    assert row["memorized_fraction"] == 1
    samples = workspace.run.table("samples", "drawn").to_pandas()
    assert (samples["status"] == "given").all()
    assert samples["noise_seed"].isna().all()
    assert not workspace.run.has_table("psnr", "drawn")
    outcome = memgen("report", "--sweep", "--json").done().json
    assert {n: regime for n, regime in outcome["regimes"].items() if n in before} == before
    assert "drawn" in (workspace.run.report / "report.html").read_text()


def test_what_is_not_known_is_said(workspace, tmp_path):
    """Without --trained-on, held-out PSNR is measured, and the rest is refused or left out with the reason."""
    memgen("import", workspace.run.denoiser_path("n4-s0-b"), "--name", "theirs").done()
    record = subjects.find(workspace, "theirs").record
    assert record.train_set is None
    assert record.identity.n_train is None
    (task,) = tasks.imported_tasks([record], tasks.VERBS)
    assert task.verbs == ("sample", "psnr")
    memgen("verdict", "--subject", "theirs", "--jobs", "1").done()
    assert set(workspace.run.table("psnr", "theirs")["kind"].to_pylist()) == {"holdout"}
    for refused in (measure.search_own, measure.find_copies):
        with pytest.raises(RunError, match=r"trained on are not known\. Remedy: import it with --trained-on"):
            refused(workspace, "theirs")
    memgen("nn-search", "--subject", "theirs").failed(4, "not known", "--trained-on")


def test_held_out_images_are_never_training_images(workspace, tmp_path):
    """Images of the holdout that are in T are left out of H, and where none is left the import is refused."""
    holdout = workspace.images.take(workspace.split.holdout)
    some = saved(tmp_path / "some.npy", holdout.take(slice(0, 3)))
    weights = workspace.run.denoiser_path("n4-s0-a")
    memgen("import", weights, "--name", "some", "--trained-on", some).done()
    subject = subjects.find(workspace, "some")
    assert subject.held_out.ids == holdout.ids[3:]
    assert subject.record.n_held_out == len(holdout) - 3
    every = saved(tmp_path / "every.npy", holdout)
    memgen("import", weights, "--name", "every", "--trained-on", every).failed(3, "are also in", "--holdout")
    assert not workspace.run.has_table("subjects", "every")
    memgen("import", weights, "--name", "every", "--trained-on", every, "--holdout", some).failed(3, "--holdout")


def test_names_of_subjects(workspace, train):
    """A name is given once, is a file name, and is not one of a cell; the kind of a source can be stated."""
    weights = workspace.run.denoiser_path("n4-s0-a")
    memgen("import", train).done()
    memgen("import", train).failed(4, "already has a subject train", "--name")
    for name in ("n9-s0-a", "../train", "a+b", ""):
        if name:
            memgen("import", train, "--name", name).failed(4, name, "--name")
    memgen("import", weights, "--as", "samples", "--name", "x").failed(3, weights.name)
    memgen("import", train, "--as", "nothing").failed(2, "denoiser or samples")
    listed = memgen("subjects", "--json").done().json["subjects"]
    cells = [cell.name for cell in workspace.run.cells()]
    assert [row["subject"] for row in listed] == [*cells, "train"]


def test_two_subjects_are_compared(workspace, train):
    """A denoiser and its own copy agree in every sample, V and bits; samples from elsewhere have no noise to compare."""
    memgen("import", workspace.run.denoiser_path("n4-s0-a"), "--name", "theirs", "--trained-on", train).done()
    found = memgen("compare", "n4-s0-a", "theirs", "--json").done().json["summary"]
    assert found["samples from the same noise"]["estimate"] == pytest.approx(1)
    assert found["samples from different noise"]["estimate"] < 0.9999
    assert found["training images and the nearest of the other training set"]["estimate"] == pytest.approx(1)
    assert found["V, mean squared difference of the denoisers"]["estimate"] == 0
    assert found["bits per dimension"]["estimate"] == 0
    key = pair_key("n4-s0-a", "theirs")
    for kind in ("similarity", "distances"):
        rows = workspace.run.table(kind, key).to_pandas()
        assert set(rows["role"]) == {"imported"}
        assert rows["n_train"].isna().all()
    memgen("compare", "n4-s0-a", "n4-s0-b", "--json").done()  # twins keep their N
    twins = workspace.run.table("similarity", pair_key("n4-s0-a", "n4-s0-b"))
    assert set(twins["n_train"].to_pylist()) == {4}
    memgen("import", train).done()
    memgen("compare", "n4-s0-a", "train").failed(4, "train", "no denoiser")
    memgen("compare", "n4-s0-a").failed(2, "two names")


def test_a_comparison_is_what_its_tables_say(workspace):
    """The medians and means that compare prints are those of the tables, computed here with pandas."""
    memgen("sample", "--n", "1", "--jobs", "1").done()
    found = memgen("compare", "n1-s0-a", "n4-s0-b", "--json").done().json["summary"]
    key = pair_key("n1-s0-a", "n4-s0-b")
    similar, apart = (workspace.run.table(kind, key).to_pandas() for kind in ("similarity", "distances"))
    kinds = {"same_noise": "samples from the same noise", "different_noise": "samples from different noise"}
    for kind, name in kinds.items():
        expected = similar[similar["kind"] == kind].groupby("item_a")["value"].mean().median()
        assert found[name]["estimate"] == pytest.approx(expected)
        assert found[name]["low"] <= expected <= found[name]["high"]
    v = apart[apart["kind"] == "models"]["value"].mean()
    assert found["V, mean squared difference of the denoisers"]["estimate"] == pytest.approx(v)
    drawn = apart[apart["kind"].isin(["samples_a", "samples_b"])]
    bits = (drawn["value"] * drawn["weight"]).groupby([drawn["kind"], drawn["image_id"]]).sum().mean()
    assert found["bits per dimension"]["estimate"] == pytest.approx(bits)


def test_arrays_at_hand_are_a_subject(workspace):
    """The pure measures take arrays without any run, and give the numbers that the run keeps."""
    kept = subjects.find(workspace, "n4-s0-a")
    given = GivenSubject(kept.identity, kept.samples, kept.denoiser, kept.train, kept.held_out)
    settings = workspace.settings
    found = psnr.measure_psnr(given, settings.psnr, settings.seed, settings.sample.micro_batch, "cpu")
    assert found.equals(workspace.run.table("psnr", "n4-s0-a"))
    assert given.unseen is kept.held_out
    own, _ = measure.search_own(workspace, "n4-s0-a")
    own = own.filter(pc.field("rank") == 1)
    significance, summary = examiner.find_copies(given, own, settings.seed, settings.search.cluster_threshold)
    assert len(significance) == len(kept.samples)
    assert summary["n_pool_heldout"].to_pylist() == [len(kept.held_out)]


def test_lacking_names_every_gap():
    """What is absent is named in words, in the order asked for; a complete subject lacks nothing."""
    bare = GivenSubject(Identity("x", "imported"))
    assert lacking(bare, "samples", "train") == "it has no samples and the images that it was trained on are not known"
    drawn = Samples(np.zeros((1, 1, 4, 4), np.float32), np.array([0]))
    assert lacking(GivenSubject(Identity("x", "imported"), drawn), "samples") == ""


def test_the_holdout_of_another_size_of_image_is_refused(workspace, tmp_path):
    """Images of another number of channels are prepared as the run's were: gray, and resized only if those were."""
    color = np.random.default_rng(0).integers(0, 255, (5, 12, 12, 3), dtype=np.uint8)
    np.save(tmp_path / "color.npy", color[:, :8, :8])
    np.save(tmp_path / "large.npy", color)
    images = subjects.prepared(workspace, tmp_path / "color.npy").images
    np.testing.assert_array_equal(images.pixels, prepare.gray(color[:, :8, :8].transpose(0, 3, 1, 2)))
    with pytest.raises(ShapeError, match=r"found images of 12 x 12 pixels, expected 8 x 8.*not resized"):
        subjects.prepared(workspace, tmp_path / "large.npy")
    data = workspace.settings.data.model_copy(update={"resize": 8})
    resizing = replace(workspace, settings=workspace.settings.model_copy(update={"data": data}))
    assert subjects.prepared(resizing, tmp_path / "large.npy").images.image_shape == workspace.images.image_shape
    with pytest.raises(DataError, match=r"nothing\.npy"):
        subjects.prepared(workspace, tmp_path / "nothing.npy")


def test_files_that_cannot_be_read_are_listed(workspace, tmp_path):
    """A folder of samples with a file that is no picture is imported without it, and the file is named with a reason."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8), 80 * i, np.uint8)).save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    outcome = memgen("import", folder, "--json").done()
    assert outcome.json["samples"] == 3
    (row,) = outcome.json["skipped_files"]
    assert "broken.png" in row["source"]
    assert row["set"] == "samples"
    assert "broken.png" in outcome.err
    assert workspace.run.table("subject_skipped", "drawn").num_rows == 1
    assert workspace.run.table("skipped").num_rows == 0  # the run's own files are another matter


def contents(run: Path) -> dict[str, bytes]:
    """All artifacts of a run; not its manifest, its page and its lock."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in ("run.json", ".lock")]
    return {str(path.relative_to(run)): path.read_bytes() for path in files if "report" not in path.parts}


def test_a_removed_subject_leaves_the_run_as_if_it_had_never_been_there(workspace, train, tmp_path):
    """Also where names are alike, sets are shared, and two were compared; what others have stays, byte for byte."""
    run, weights = workspace.run, workspace.run.denoiser_path("n4-s0-a")
    memgen("sample", "--n", "4", "--method", "ddim").done()
    memgen("report", "--sweep").done()
    drawn = run.samples_path("n4-s0-a.ddim")

    def bring(source: Path, name: str, *options) -> None:
        memgen("import", source, "--name", name, *options).done()
        memgen("verdict", "--subject", name, "--jobs", "1").done()

    before = contents(run.path)
    bring(weights, "mine", "--trained-on", train)
    bring(drawn, "n4-s0-a.ddim", "--as", "samples", "--trained-on", "n4-s0-a")
    first = contents(run.path)
    unseen = saved(tmp_path / "unseen.npy", subjects.find(workspace, "n4-s0-a").unseen)
    bring(weights, "mine.v2", "--trained-on", train, "--holdout", unseen)
    memgen("compare", "mine", "mine.v2").done()
    memgen("basis", "--subject", "mine.v2").done()
    memgen("restore", "--subject", "mine.v2", "--task", "inpainting").done()
    memgen("sample", "--subject", "mine.v2", "--trajectories", "20").done()
    memgen("sample", "--subject", "mine.v2", "--method", "heun").done()
    memgen("report", "--sweep").done()
    own = subjects.find(workspace, "mine.v2").record.held_out_set
    shutil.rmtree(run.image_set(own))  # as a removal leaves it that was cut short
    done = memgen("subjects", "--remove", "mine.v2", "--yes", "--json").done()
    assert "tables/similarity/mine+mine.v2.parquet" in done.err
    assert "tables/subjects/mine.v2.parquet" in done.json["removed"]
    assert not (run.path / "tables/transition/transition.parquet").exists()
    memgen("report", "--sweep").done()
    summary = {"tables/transition/transition.parquet", "tables/levels/levels.parquet"}
    found = contents(run.path)
    assert found.keys() == first.keys()
    assert all(found[name] == first[name] for name in found.keys() - summary)
    assert "mine.v2" not in (run.report / "report.html").read_text()
    for name in ("mine", "n4-s0-a.ddim"):
        memgen("subjects", "--remove", name, "--yes").done()
    memgen("report", "--sweep").done()
    assert contents(run.path) == before


def test_what_cannot_be_removed(workspace, train, monkeypatch):
    """Models of the sweep, unknown names, and what a person does not confirm; a run that is worked on stays whole."""
    memgen("import", workspace.run.denoiser_path("n4-s0-a"), "--name", "mine", "--trained-on", train).done()
    memgen("subjects", "--remove", "n4-s0-a", "--yes").failed(4, "n4-s0-a is a model of the sweep")
    memgen("subjects", "--remove", "nobody", "--yes").failed(4, "its imported subjects are: mine.")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert memgen("subjects", "--remove", "mine").code != 0
    before = contents(workspace.run.path)
    with FileLock(workspace.run.lock):
        memgen("subjects", "--remove", "mine", "--yes").failed(4, "in use by another")
    assert contents(workspace.run.path) == before
    assert "mine" in memgen("subjects").done().err


def test_a_record_comes_back_as_it_was_written(tmp_path, workspace):
    """Every field of a record survives the table, nulls included."""
    record = subjects.Record(
        Identity("x", "imported", 3), True, False, "abc", None, 5, "x.pt", ["Be warned.", "Twice."]
    )
    record.write(workspace.run)
    assert subjects.Record.of(workspace.run.table("subjects", "x").to_pylist()[0]) == record
    assert workspace.run.table("subjects").schema.names == schemas.SUBJECTS.names
    assert isinstance(pd.read_parquet(workspace.run.path / "tables" / "subjects"), pd.DataFrame)
    with pytest.raises(RunError, match=r"no subject 'y'; its subjects are: n1-s0-a, .*, x\."):
        subjects.find(workspace, "y")
