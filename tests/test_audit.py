"""memgen audit: the answer on sets with and without copies, its evidence, its files, and what it refuses."""

import itertools
import json
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import sorted_pixels
from PIL import Image
from program import memgen as command

import memgen
from memgen.base import schemas
from memgen.base.errors import ConfigError, DataError, RunError
from memgen.experiment import audit as auditing
from memgen.experiment import audit_tests, executors, runs
from memgen.images.imageset import ImageSet
from memgen.images.importing import ImportSettings, import_images
from memgen.measures.copies.examiner import nearest_others
from memgen.measures.copies.rarefaction import rarefied
from memgen.report import audit_page

pytestmark = pytest.mark.usefixtures("unrendered")


@pytest.fixture(scope="module")
def images():
    """900 embedded images at 14x14, as uint8."""
    return import_images(None, ImportSettings(resize=14, limit=900, deduplicate=False)).images.pixels[:, 0]


def save(pixels, folder, prefix=""):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{prefix}{number:04}.png")
    return folder


@pytest.fixture(scope="module")
def sets(images, tmp_path_factory):
    """Folders: training images, held-out images, samples without copies, and samples with 60 mirrored ones."""
    folder = tmp_path_factory.mktemp("sets")
    copied = images[600:800].copy()
    copied[:60] = images[:60, :, ::-1]
    return {
        "train": save(images[:300], folder / "train"),
        "holdout": save(images[300:600], folder / "holdout"),
        "clean": save(images[600:800], folder / "clean"),
        "copied": save(copied, folder / "copied"),
    }


@pytest.fixture(scope="module")
def found(sets, tmp_path_factory):
    """The audit of the samples with copies."""
    outputs = tmp_path_factory.mktemp("outputs")
    return memgen.audit(sets["copied"], sets["train"], sets["holdout"], outputs=outputs, name="copied")


@pytest.fixture(scope="module")
def few(images, tmp_path_factory):
    """Fewer images for tests that ask how an audit is made: training and held-out images, and samples with copies.

    At q = 5 % and as many held-out images, at least 20 samples must lead to the training set: here 30 are mirrored copies.
    """
    folder = tmp_path_factory.mktemp("few")
    copied = images[600:640].copy()
    copied[:30] = images[:30, :, ::-1]
    chosen = {"copied": copied, "train": images[:60], "holdout": images[300:360]}  # in the order of memgen.audit
    return {name: save(pixels, folder / name) for name, pixels in chosen.items()}


@pytest.fixture(scope="module")
def found_in_few(few, tmp_path_factory):
    done = memgen.audit(*few.values(), outputs=tmp_path_factory.mktemp("outputs"), name="copied")
    assert done.answer.answer == "found"
    return done


def test_mirrored_copies_are_found(found):
    """Most of 60 mirrored copies are found, with their right training images; at most 5 % of the finds are others."""
    assert found.answer.answer == "found"
    assert found.answer.headline.startswith("Found: samples depend on ")
    by_competition = [pair for pair in found.document["discoveries"] if "competition" in pair["reported_by"]]
    right = [pair for pair in by_competition if pair["sample"] == pair["training_image"]]
    assert len(right) >= 50
    assert len(by_competition) - len(right) <= 4
    assert all(pair["transformation"]["mirrored"] and pair["space"] == "aligned" for pair in right[:40])
    assert found.document["counts"]["discoveries"] == len(by_competition)


def test_the_document_says_what_was_audited(found, sets):
    """Schema, answer, sets with digests, settings, versions, and the digest of every table and image file."""
    document = json.loads((found.path / "audit.json").read_text())
    assert document == found.document
    assert document["schema"] == "memgen.audit/1"
    assert (document["answer"], document["sets"]["train"]["images"]) == ("found", 300)
    assert document["sets"]["held_out"]["source"] == str(sets["holdout"])
    assert document["settings"]["q"] == 0.05
    assert {"tables/copies/audit.parquet", "sets/train/pixels.npy"} <= document["files"].keys()
    assert len(document["closest"]) == 40
    assert document["versions"]["memgen"] == memgen.__version__


def test_documents_follow_the_published_schema(found, sets, tmp_path):
    """audit.json of an audit with finds, and of one without held-out images, agree with docs/audit.schema.json."""
    schema = json.loads((Path(__file__).parents[1] / "docs" / "audit.schema.json").read_text())
    alone = memgen.audit(sets["clean"], sets["train"], outputs=tmp_path)
    for document in (found.document, alone.document):
        jsonschema.validate(json.loads(json.dumps(document)), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found.document | {"answer": "copied"}, schema)


def test_training_images_at_risk(found):
    """The table lists each training image that a sample is nearest to, those first that were found."""
    table = runs.Run(found.path).table("at_risk").to_pylist()
    discovered = [row["discovered"] for row in table]
    assert discovered == sorted(discovered, reverse=True)
    assert sum(discovered) == found.document["counts"]["discoveries"]
    assert sum(row["samples"] for row in table) <= 200
    assert table[0]["source"] == table[0]["sample_source"]  # the files of copies have the names of their sources


def test_rarefaction_is_the_mean_over_all_choices():
    """Against every choice of 3 of 8 samples; none of them shows nothing, and all show every unit."""
    units = np.array([0, 0, 0, 1, 1, 2, -1, -1])  # of each sample; -1 for none
    hits = [3, 2, 1]
    chosen = itertools.combinations(units.tolist(), 3)
    mean = np.mean([len(set(each) - {-1}) for each in chosen])
    assert rarefied(hits, 8, 3) == pytest.approx(mean)
    assert (rarefied(hits, 8, 0), rarefied(hits, 8, 8)) == (0, 3)


def test_what_fewer_samples_would_have_shown(found):
    """Each of 50 copied images has one sample, so half of the samples show half of them."""
    growth = found.document["growth"]
    assert [row["samples"] for row in growth] == [50, 100, 150, 200]
    assert growth[-1]["units"] >= found.document["counts"]["discoveries"]
    assert growth[1]["units"] == pytest.approx(growth[-1]["units"] / 2, rel=0.1)
    assert f"half as many samples would be expected to show {growth[1]['units']:.1f} of them" in found.page.read_text()


def test_the_page_shows_the_pairs(found):
    """The page has the answer, four pictures for a pair, and no link to any network."""
    page = found.page.read_text()
    assert found.answer.headline in page
    assert page.count("data:image/png") >= 40 * 3
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "http://" not in markup
    assert "https://" not in markup
    assert "mirrored" in page
    data = json.loads(re.search(r'id="page-data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["gallery"]["total"] == len(data["gallery"]["names"]) == 200
    assert list(data["charts"]) == ["evidence", "closeness"]
    assert {path.name for path in (found.page.parent / "figures").iterdir()} == {
        f"{name}.{suffix}" for name in data["charts"] for suffix in ("png", "svg", "pdf")
    }
    shown = [data["gallery"]["names"][i] for i, reported in enumerate(data["gallery"]["reported"]) if reported]
    assert shown == [Path(pair["sample"]).name for pair in found.document["discoveries"]]


def test_the_page_counts_what_it_leaves_out_and_names_stated_groups(found):
    """Samples without a training image near them are counted; groups that files state are groups, without --groups."""
    run = found.run
    sets = {kind: ImageSet.load(run.image_set(kind)) for kind in ("samples", "train", "held_out")}
    shown = auditing._page(run, sets, found.answer)
    gap = dict.fromkeys(schemas.KINDS["gaps"].names, 0.5)
    about = json.loads(json.dumps(run.manifest["data"]))
    page = audit_page.render(replace(shown, gaps=[gap]))
    assert "no training image among their neighbors" not in page
    assert "share of training images that an attack finds" in page
    about["sets"]["samples"]["images"] += 3
    about["sets"]["train"]["groups"] = 7
    page = audit_page.render(replace(shown, gaps=[gap], manifest=run.manifest | {"data": about}))
    assert "The other 3 of 203 samples have no training image among their neighbors." in page
    assert "share of training groups that an attack finds" in page


def test_verify_agrees_and_names_a_changed_byte(found, tmp_path):
    """An untouched audit agrees; one flipped byte in a table, in pixels or in the document is named."""
    run_folder = tmp_path / "copied"
    shutil.copytree(found.path, run_folder)
    document = run_folder / "audit.json"
    assert auditing.verify(document) == auditing.verify(document.parent) == []
    for name in ("tables/significance/audit.parquet", "sets/samples/pixels.npy"):
        path = run_folder / name
        before = path.read_bytes()
        changed = bytearray(before)
        changed[len(changed) // 2] ^= 1
        path.write_bytes(bytes(changed))
        assert auditing.verify(document) == [f"{path} was changed: its digest is not the stated one."]
        path.write_bytes(before)
    document.write_text(document.read_text().replace('"answer": "found"', '"answer": "none"'))
    (sentence,) = auditing.verify(document)
    assert "its hash does not belong to its content" in sentence


def test_a_document_whose_hash_was_made_anew_disagrees_with_the_tables(found, tmp_path):
    """Whoever changes the answer and its hash is still told what the tables say."""
    run_folder = tmp_path / "copied"
    shutil.copytree(found.path, run_folder)
    stated = json.loads((run_folder / "audit.json").read_text()) | {"answer": "none"}
    stated["hash"] = auditing._hash(stated)
    (run_folder / "audit.json").write_text(json.dumps(stated))
    assert "answer is not what the run's tables say" in auditing.verify(run_folder / "audit.json")[0]


def test_verify_refuses_what_is_no_audit(found, tmp_path):
    (tmp_path / "audit.json").write_text('{"schema": "other/1"}')
    with pytest.raises(DataError, match="not an audit"):
        auditing.verify(tmp_path / "audit.json")
    shutil.copy(found.path / "audit.json", tmp_path / "alone.json")
    with pytest.raises(RunError, match="does not stand in a run directory"):
        auditing.verify(tmp_path / "alone.json")


def test_nothing_is_found_without_copies(sets, tmp_path):
    """Held-out images posing as samples, compared in pixels: nothing is reported, and the sentence says what was seen."""
    done = memgen.audit(sets["clean"], sets["train"], sets["holdout"], outputs=tmp_path, spaces=("pixels",))
    assert done.document["discoveries"] == []
    assert done.answer.answer in ("none", "undecided")
    assert "could have gone unseen" in " ".join(done.answer.sentences)


def test_planted_copies_say_what_would_have_been_found(sets, tmp_path):
    """In pixels, exact copies in 30 % of the samples are found, and mirrored ones are not; the audit stays."""
    done = memgen.audit(
        sets["clean"], sets["train"], sets["holdout"], outputs=tmp_path, spaces=("pixels",), calibrate=1
    )
    power = {(row["kind"], row["share"]): row["power"] for row in done.document["power"]}
    assert power["exact", 0.3] >= 0.95
    assert power["mirrored", 0.3] <= 0.1
    sentences = " ".join(done.answer.sentences)
    assert "Even of copies planted in 30% of the samples, many were missed if they were: " in sentences
    assert done.document["discoveries"] == []
    assert auditing.verify(done.path / "audit.json") == []


def test_calibrate_continues_an_audit(few, tmp_path):
    """memgen calibrate --run AUDIT plants copies among its samples; what was planted before is kept."""
    arguments = few.values()
    once = memgen.audit(*arguments, outputs=tmp_path, name="mine", spaces=("pixels",), calibrate=1)
    kept = runs.Run(once.path).table("planted", "audit-r0")
    arguments = ["calibrate", "--run", "mine", "--outputs", tmp_path]
    document = command(*arguments, "--repeats", 2, "--json").done().json
    assert document["settings"]["calibrate"] == 2
    assert {row["kind"] for row in document["power"]} == {row["kind"] for row in once.document["power"]}
    assert runs.Run(once.path).table("planted", "audit-r0") == kept
    command(*arguments, "--n", 4).failed(2, "is an audit of one model")


def test_a_space_from_a_file_competes_with_the_others(sets, tmp_path):
    """An embedder that sorts pixels finds images whose pixels were exchanged; audit.json says what it is made of."""
    file = tmp_path / "sorted.ts"
    space = sorted_pixels.save(file, 14)
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted(sets["clean"].iterdir())])
    train = np.stack([np.asarray(Image.open(path)) for path in sorted(sets["train"].iterdir())])
    exchanged = np.random.default_rng(0).permuted(train[:50].reshape(50, -1), axis=1).reshape(50, 14, 14)
    samples = save(np.concatenate([exchanged, pixels[50:]]), tmp_path / "samples")
    arguments = ("audit", samples, sets["train"], "--holdout", sets["holdout"], "--outputs", tmp_path, "--run", "mine")
    done = command(*arguments, "--space", "pixels", "--space", space, "--json").done().json
    assert done["answer"] == "found"
    right = [pair for pair in done["discoveries"] if pair["sample"] == pair["training_image"]]
    assert len(right) >= 45
    assert {pair["space"] for pair in right} == {"sorted"}
    assert done["spaces"]["pixels"] is None
    assert list(done["spaces"]["sorted"]["digests"]) == ["sorted.ts"]
    sorted_pixels.state(file, 7)
    again = command(*arguments, "--space", "pixels", "--space", space)
    again.failed(3, "the file of the space sorted, or a package that reads it, has changed")
    command(*arguments[:-2], "--space", "nothing").failed(2, "unknown metric 'nothing'")


def test_without_held_out_images_nothing_is_concluded(sets, tmp_path):
    """Exact copies, but no control: undecided, with the closest pairs."""
    done = memgen.audit(shutil.copytree(sets["train"], tmp_path / "same"), sets["train"], outputs=tmp_path)
    assert done.answer.answer == "undecided"
    assert "--holdout" in " ".join(done.answer.sentences)
    assert done.document["closest"][0]["correlation"] == 1
    (baseline,) = [each for each in done.answer.sentences if "nearest other one" in each]
    assert "has the median 1.000. Between" in baseline
    assert "100% of the samples are closer than" in baseline
    assert done.document["counts"] == {}
    assert auditing.verify(done.path / "audit.json") == []


def test_training_images_among_themselves(images):
    """The nearest other image, by brute force; images of one group are no others."""
    pixels = np.concatenate([images[:40], images[:4]])[:, None]
    for groups in (None, tuple(str(i // 4) for i in range(44))):
        made = ImageSet.from_pixels(pixels)
        train = ImageSet(made.pixels, made.ids, made.sources, made.recipe, groups)
        table = nearest_others(train)
        correlation = np.corrcoef(pixels.reshape(44, -1).astype(float))
        unit = np.arange(44) if groups is None else np.arange(44) // 4
        correlation[unit[:, None] == unit[None, :]] = -1
        assert table["query"].to_pylist() == list(range(44))
        assert np.allclose(table["value"].to_numpy(), correlation.max(axis=1))
        assert table["value"][0].as_py() == pytest.approx(1)  # the copy of it at the end


def test_a_second_audit_does_nothing_again(sets, tmp_path, monkeypatch):
    """The same sets and settings: the tables stay as they are, whatever is asked of the page."""
    arguments = (sets["clean"], sets["train"], sets["holdout"])
    first = memgen.audit(*arguments, outputs=tmp_path, spaces=("pixels",))
    monkeypatch.setattr(audit_tests, "Examiner", None)
    second = memgen.audit(*arguments, outputs=tmp_path, spaces=("pixels",), images=False)
    assert second.path == first.path
    assert second.document["files"] == first.document["files"]
    markup = re.sub(r"<script>.*?</script>", "", second.page.read_text(), flags=re.DOTALL)
    assert "data:image/png" not in markup
    assert 'class="sheet"' not in markup
    assert "--no-images" in second.page.read_text()


def test_other_settings_need_another_run(sets, tmp_path):
    memgen.audit(sets["clean"], sets["train"], outputs=tmp_path, name="mine")
    with pytest.raises(ConfigError, match="other settings: samples"):
        memgen.audit(sets["copied"], sets["train"], outputs=tmp_path, name="mine")
    with pytest.raises(RunError, match="holds an audit, expected a sweep"):
        runs.find(tmp_path, "mine")


def test_different_sizes_and_colors_are_made_alike(images, tmp_path):
    """Gray and colored sets of several sizes are brought to one size and three channels, by a rule that is stated."""
    gray = save(images[:40], tmp_path / "gray")
    colored = tmp_path / "colored"
    colored.mkdir()
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 255, (20 + number % 2, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(colored / f"{number}.png")
    quick = {"outputs": tmp_path / "outputs", "spaces": ("pixels",), "images": False}
    done = memgen.audit(gray, colored, **quick)
    assert done.document["sets"]["samples"]["image_shape"] == [3, 64, 64]
    assert "resized to 64 x 64" in done.document["rule"]
    small = memgen.audit(gray, colored, resize=10, **quick)
    assert small.document["sets"]["train"]["image_shape"] == [3, 10, 10]


def test_files_that_are_left_out_are_listed_with_their_set(images, tmp_path):
    """One file of one name in each of the sets, which only the set tells apart: in the table and on the page."""
    folders = [save(images[20 * i : 20 * i + 20], tmp_path / name) for i, name in enumerate("STH")]
    for folder, data in zip(folders, (b"no", b"a", b"picture"), strict=True):
        (folder / "broken.png").write_bytes(data)
    (folders[2] / "other.png").write_bytes(b"")
    done = memgen.audit(*folders, outputs=tmp_path / "o", spaces=("pixels",))
    rows = done.table("subject_skipped").to_pylist()
    names = [("samples", "broken.png"), ("train", "broken.png"), ("held_out", "broken.png"), ("held_out", "other.png")]
    assert [(row["set"], row["source"]) for row in rows] == names
    assert {kind: found["skipped"] for kind, found in done.document["sets"].items()} == {
        "samples": 1, "train": 1, "held_out": 2,
    }  # fmt: skip
    assert "<li>other.png (held-out): " in done.page.read_text()


def test_groups_compete_and_must_not_straddle(images, tmp_path):
    """Folders as groups: units are groups; a folder with images on both sides is refused by name."""
    for number in range(20):
        save(images[10 * number : 10 * number + 10], tmp_path / ("train" if number < 10 else "holdout") / f"p{number}")
    samples = save(images[600:660], tmp_path / "samples")
    done = memgen.audit(
        samples,
        tmp_path / "train",
        tmp_path / "holdout",
        outputs=tmp_path / "outputs",
        groups="folder",
        spaces=("pixels",),
    )
    counts = done.document["counts"]
    assert (counts["unit"], counts["n_pool_train"], counts["n_pool_heldout"]) == ("group", 10, 10)
    assert done.document["sets"]["train"]["groups"] == 10
    assert {pair["group"] for pair in done.document["closest"]} <= {f"p{i}" for i in range(10)}
    folders = [tmp_path / "train", tmp_path / "holdout"]
    files = [path.relative_to(folder) for folder in folders for path in sorted(folder.rglob("*.png"))]
    rows = [f"{path.as_posix()},{path.parent.name}" for path in files]
    table = tmp_path / "groups.csv"  # one table has the groups of both folders
    table.write_text("\n".join(["file,group", *rows]))
    tabled = memgen.audit(
        samples, *folders, outputs=tmp_path / "outputs", groups=str(table), spaces=("pixels",), name="tabled"
    )
    assert tabled.document["counts"] == counts
    table.write_text("\n".join(["file,group", *rows[:-1]]))
    with pytest.raises(DataError, match=r"1 of 100 images have no row \(the first is p19/0009\.png\)"):
        memgen.audit(samples, *folders, outputs=tmp_path / "outputs", groups=str(table), name="short")
    save(images[800:803], tmp_path / "holdout" / "p3")
    with pytest.raises(DataError, match="p3"):
        memgen.audit(
            samples, tmp_path / "train", tmp_path / "holdout", outputs=tmp_path / "outputs", groups="folder", name="two"
        )


def test_names_that_suggest_groups_are_pointed_out(images, tmp_path):
    """Files named after patients, on both sides, without --groups: a warning."""
    for side, offset in (("train", 0), ("holdout", 100)):
        folder = tmp_path / side
        folder.mkdir()
        for number in range(60):
            Image.fromarray(images[offset + number]).save(folder / f"patient{number % 6}_slice_{number:03}.png")
    samples = save(images[600:640], tmp_path / "samples")
    done = memgen.audit(samples, tmp_path / "train", tmp_path / "holdout", outputs=tmp_path / "o", spaces=("pixels",))
    assert any("Names suggest groups" in warning for warning in done.document["warnings"])
    assert "State them with --groups." not in " ".join(done.answer.sentences)  # they were not divided as a whole


def test_finds_of_undeclared_groups_have_no_rate(images, tmp_path):
    """Files named after patients, each on one side: without --groups the answer states no rate; with them it does."""
    for side, offset in (("train", 0), ("holdout", 300)):
        folder = tmp_path / side
        folder.mkdir()
        for number in range(300):
            Image.fromarray(images[offset + number]).save(folder / f"{side[0]}{number // 3}_scan_{number % 3}.png")
    samples = save(np.concatenate([images[:90], images[600:700]]), tmp_path / "samples")
    given = {"outputs": tmp_path / "o", "spaces": ("pixels",)}
    done = memgen.audit(samples, tmp_path / "train", tmp_path / "holdout", **given)
    assert done.headline.startswith("Found, but with an unknown share of false finds: samples depend on")
    assert "State them with --groups." in done.headline
    assert not auditing.verify(done.path / "audit.json")
    named = memgen.audit(samples, tmp_path / "train", tmp_path / "holdout", **given, groups="name")
    assert named.document["sets"]["train"]["groups"] == 100
    assert re.match("Found: samples depend on 3[0-2] training groups. At most 5% of these", named.headline)
    assert "The competition found 3" in " ".join(named.answer.sentences)
    assert "training groups that samples depend on" in " ".join(named.answer.sentences)
    clean = save(images[700:800], tmp_path / "clean")
    nothing = memgen.audit(clean, tmp_path / "train", tmp_path / "holdout", **given)
    assert any("State them with --groups." in sentence for sentence in nothing.answer.sentences)


def test_pixels_of_training_images_are_told(images, tmp_path):
    """Among samples they are copies whatever a test says; among held-out images they hide copies, and all are refused."""
    given = {"outputs": tmp_path / "o", "spaces": ("pixels",)}
    train, holdout = save(images[:300], tmp_path / "train"), save(images[300:600], tmp_path / "holdout")
    few = save(np.concatenate([images[:5], images[600:700]]), tmp_path / "few")
    done = memgen.audit(few, train, holdout, **given)
    assert done.answer.answer == "undecided"
    assert done.headline.endswith("But 5 samples have the same pixels as a training image.")
    assert "(for example 0000.png and 0000.png)" in done.answer.sentences[0]
    assert done.document["identical"] == {"samples": {"count": 5, "example": ["0000.png", "0000.png"]}}
    significance = done.table("significance")["p"].to_numpy()
    deepest = np.count_nonzero(significance <= 1 / (done.answer.counts["judged_by"] + 1) + 1e-12)
    assert deepest >= 5
    assert any(text.startswith(f"{deepest} samples lie deeper") for text in done.answer.sentences)
    assert not auditing.verify(done.path / "audit.json")
    alone = memgen.audit(few, train, **given)
    assert alone.answer.sentences[0] == done.answer.sentences[0]
    assert alone.headline.endswith("But 5 samples have the same pixels as a training image.")
    schema = json.loads((Path(__file__).parents[1] / "docs" / "audit.schema.json").read_text())
    jsonschema.validate(json.loads(json.dumps(alone.document)), schema)
    leaked = save(images[100:300], tmp_path / "leaked")
    save(images[300:500], leaked, "new")
    hidden = memgen.audit(save(images[:100], tmp_path / "copies"), train, leaked, **given)
    assert "200 of the held-out images have the same pixels as a training image" in " ".join(hidden.answer.sentences)
    some = memgen.audit(few, train, leaked, **given)
    assert re.search("hidden by near-duplicates of 2.. training images among the held-out images", some.headline)
    with pytest.raises(DataError, match="all 100 held-out images are training images too"):
        memgen.audit(few, train, save(images[:100], tmp_path / "seen"), **given)
    for sets in ((train, train, holdout), (few, train, train), (few, train, few)):
        with pytest.raises(ConfigError, match="expected two sets of images"):
            memgen.audit(*sets, **given)


def test_pixels_of_training_images_fail_where_finds_do(images, tmp_path):
    """One exact copy never makes an answer found, but exit code 6; without copies, undecided passes for found alone."""
    train, holdout = save(images[:30], tmp_path / "train"), save(images[30:60], tmp_path / "holdout")
    given = ("--holdout", holdout, "--space", "pixels", "--outputs", tmp_path / "o", "--json", "--fail-on", "found")
    copied = command("audit", save(images[[3, *range(60, 80)]], tmp_path / "copied"), train, *given)
    assert (copied.code, copied.json["answer"]) == (6, "undecided")
    assert copied.json["headline"].endswith("But 1 sample has the same pixels as a training image.")
    clean = save(images[60:80], tmp_path / "clean")
    assert command("audit", clean, train, *given).done().json["identical"] == {}
    assert command("audit", clean, train, *given[:-1], "undecided").code == 6


def test_the_command(few, tmp_path):
    """Page on standard output, the answer on standard error; --json, --fail-on and verify; a config reproduces it."""
    arguments = ["audit", few["copied"], few["train"], "--holdout", few["holdout"], "--outputs", tmp_path]
    done = command(*arguments, "--fail-on", "found")
    assert done.code == 6
    assert done.path.name == "report.html"
    assert "Found: samples depend on" in done.err
    document = command(*arguments, "--json").done().json
    assert document["answer"] == "found"
    stated = next(tmp_path.iterdir()) / "audit.json"
    assert "Every file and every number agrees." in command("verify", stated).done().err
    config = tmp_path / "audit.toml"
    config.write_text(f'samples = "{few["copied"]}"\ntrain = "{few["train"]}"\nholdout = "{few["holdout"]}"\n')
    again = command("audit", "--config", config, "--outputs", tmp_path, "--json").done().json
    assert again["hash"] == document["hash"]
    command("audit", few["copied"], "--outputs", tmp_path).failed(2, "expected both")
    command("audit", *arguments[1:3], "--fail-on", "never").failed(2, "expected found or undecided")
    assert "audit" in command("runs", "list", "--outputs", tmp_path).done().err
    command("verdict", "--outputs", tmp_path).failed(4)


def test_a_dry_run_says_what_the_audit_does(few, tmp_path):
    """Sets, spaces, rule and number of comparisons are those of the audit; nothing is written, and errors are the same."""
    arguments = [
        "audit",
        few["copied"],
        few["train"],
        "--holdout",
        few["holdout"],
        "--outputs",
        tmp_path / "o",
        "--json",
    ]
    planned = command(*arguments, "--dry-run").done()
    assert not (tmp_path / "o").exists()
    document = command(*arguments).done().json
    found = planned.json["audit"]
    assert planned.json["settings"] == document["settings"]
    assert {key: found["data"][key] for key in ("sets", "rule", "warnings", "spaces", "identical")} == {
        key: document[key] for key in ("sets", "rule", "warnings", "spaces", "identical")
    }
    assert (found["name"], found["there"]) == (next((tmp_path / "o").iterdir()).name, False)
    assert (found["samples"], found["least"], found["comparisons"]) == (40, 20, 40 * 120)
    assert found["disk_bytes"] == 160 * 14 * 14
    assert found["tests"] == ["competition", "conformal test"]
    assert "20" in planned.err
    assert command(*arguments, "--dry-run").done().json["audit"]["there"]
    command(*arguments, "--dry-run", "--groups", tmp_path / "gone.csv").failed(3, "gone.csv")
    alone = command("audit", few["copied"], few["train"], "--outputs", tmp_path / "o", "--dry-run").done()
    assert "none, since there are no held-out images" in alone.err


def test_little_memory_changes_nothing(few, found_in_few, tmp_path, monkeypatch):
    """With no room for arrays in memory, the audit works on temporary files and blocks, and ends with the same tables."""
    from memgen.base import files
    from memgen.spaces import products

    monkeypatch.setenv(files.MEMORY, "7.5e-6")
    monkeypatch.setattr(products, "_BLOCK_BYTES", 14 * 14 * 50)
    again = memgen.audit(*few.values(), outputs=tmp_path, name="copied")
    assert again.document["files"] == found_in_few.document["files"]


def test_a_search_that_is_spread_gives_the_same(few, found_in_few, tmp_path):
    """What tasks find that were sent away is what one process finds, byte for byte, and they leave nothing behind.

    They are done here, as they arrive. tests/test_executors.py sends them to other processes (slow).
    """

    class Sent(executors.Executor):
        tasks = 0

        def map(self, work, tasks, on_event):
            for task in tasks:
                self.tasks += 1
                executors.do(*pickle.loads(pickle.dumps((work, task))), on_event)

    executor = Sent()
    again = memgen.audit(*few.values(), outputs=tmp_path, name="copied", executor=executor)
    assert executor.tasks > 3
    assert again.document["files"] == found_in_few.document["files"]
    assert not (again.path / "searches").exists()


def test_a_search_that_was_interrupted_goes_on(sets, tmp_path, monkeypatch):
    """What tasks have found is kept, and only what is missing is looked for again."""

    class Failing(executors.Executor):
        done = ()

        def map(self, work, tasks, on_event):
            for task in tasks:
                if not task.found.exists():
                    if len(self.done) == 3:
                        raise RunError("lost")
                    executors.do(work, task, on_event)
                    self.done += (task.found,)

    run, first = {"outputs": tmp_path, "name": "copied"}, Failing()
    with pytest.raises(RunError, match="lost"):
        memgen.audit(sets["copied"], sets["train"], sets["holdout"], executor=first, **run)
    kept = {path: path.stat().st_mtime_ns for path in first.done}
    second = Failing()
    with pytest.raises(RunError, match="lost"):
        memgen.audit(sets["copied"], sets["train"], sets["holdout"], executor=second, **run)
    assert set(first.done).isdisjoint(second.done)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
