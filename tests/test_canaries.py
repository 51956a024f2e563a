"""Canaries: the exact test against brute force, the plan and the move of files, and the audit that uses them."""

import itertools
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from program import memgen as command

import memgen
from memgen.base import files
from memgen.base.errors import ConfigError, DataError
from memgen.experiment import canaries as planting
from memgen.experiment import runs
from memgen.images.importing import ImportSettings, import_images
from memgen.measures.copies.canaries import exposure
from memgen.measures.copies.lead import lead

pytestmark = pytest.mark.usefixtures("unrendered")


def brute_force(score, trained):
    """The p-value by listing every choice of as many canaries."""
    n, count = len(score), int(trained.sum())
    ranks = np.array([(score < s).sum() + ((score == s).sum() + 1) / 2 for s in score])
    choices = [np.isin(np.arange(n), chosen) for chosen in itertools.combinations(range(n), count)]
    sums = np.mean([ranks[chosen].sum() >= ranks[trained].sum() for chosen in choices])
    leads = np.mean([lead(score, chosen) >= lead(score, trained) for chosen in choices])
    return min(1.0, 2 * min(sums, leads))


@pytest.mark.parametrize("n", [4, 7, 10])
def test_the_p_value_is_that_of_all_choices(n):
    """Without ties both parts are exact."""
    rng = np.random.default_rng(5)
    for count in range(1, n):
        score = rng.permutation(n).astype(float) + 1
        trained = np.isin(np.arange(n), rng.permutation(n)[:count])
        assert exposure(score, trained).p == pytest.approx(brute_force(score, trained))


@pytest.mark.parametrize("values", [1, 2, 4, 100])
def test_the_p_value_holds_with_ties(values):
    """Over all draws of 5 of 10 canaries, p is at most a in at most a share a of them, however many scores are equal."""
    score = np.random.default_rng(6).integers(values, size=10).astype(float)
    draws = [np.isin(np.arange(10), chosen) for chosen in itertools.combinations(range(10), 5)]
    p = np.array([exposure(score, draw).p for draw in draws])
    for level in np.unique(p):
        assert np.mean(p <= level) <= level + 1e-12
    for draw in draws[::25]:
        assert exposure(score, draw).p >= brute_force(score, draw) - 1e-12


def test_scores_that_are_all_equal_say_nothing():
    trained = np.arange(20) < 10
    found = exposure(np.zeros(20), trained)
    assert (found.p, found.auc, found.trained, found.kept) == (1.0, 0.5, 10, 10)


def test_few_copies_and_slight_closeness_are_both_seen():
    """Six canaries that stand out are seen by the lead; a shift of all of them by the rank sum."""
    rng = np.random.default_rng(0)
    trained = np.arange(100) < 50
    few = np.where(np.arange(100) < 6, 5 + rng.random(100), 0.0)
    assert exposure(few, trained).p < 0.05
    shifted = rng.random(100) + 0.3 * trained
    assert exposure(shifted, trained).p < 1e-3
    assert exposure(shifted, trained).auc == pytest.approx(
        np.mean(shifted[trained][:, None] > shifted[~trained][None, :])
    )


def test_hundreds_of_canaries_do_not_overflow():
    score = np.arange(200.0)
    assert exposure(score, np.arange(200) % 2 == 0).p > 0.5
    assert exposure(score, np.arange(200) >= 100).p < 1e-50


@pytest.mark.parametrize("trained", [np.zeros(4, bool), np.ones(4, bool)])
def test_both_kinds_of_canaries_are_needed(trained):
    with pytest.raises(DataError, match="expected at least one of each"):
        exposure(np.arange(4.0), trained)


# ------------------------------------------------------------------------------------------------- plants


@pytest.fixture
def folder(tmp_path):
    """A folder with 40 pictures, some in a folder of it, and files that are no pictures."""
    made = tmp_path / "train"
    (made / "ward 2").mkdir(parents=True)
    pixels = np.random.default_rng(1).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(made / (f"{number:02}.png" if number % 2 else f"ward 2/é{number:02}.png"))
    (made / "notes.txt").write_text("not a picture")
    (made / ".hidden.png").write_bytes(b"not seen")
    return made


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png") if path.name[0] != ".")


def test_half_of_the_canaries_move_and_the_rest_stay(folder, tmp_path):
    before = names(folder)
    drawn = planting.plant(folder, tmp_path / "kept", 12, 0)
    assert (len(drawn.trained), len(drawn.kept)) == (6, 6)
    assert names(tmp_path / "kept") == sorted(drawn.kept)
    assert names(folder) == sorted(set(before) - set(drawn.kept))
    assert set(drawn.trained) < set(names(folder))
    assert planting.load(tmp_path / "kept" / planting.PLAN) == drawn


def test_another_seed_draws_others(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "again")
    first = planting.plant(folder, tmp_path / "kept", 12, 0)
    other = planting.plant(tmp_path / "again", tmp_path / "kept 2", 12, 1)
    assert set(first.trained + first.kept) != set(other.trained + other.kept)


def test_an_interrupted_plant_goes_on_with_the_same_draw(folder, tmp_path, monkeypatch):
    """Stopped after two moves, a repeated plant ends as one that was never stopped."""
    shutil.copytree(folder, tmp_path / "whole")
    whole = planting.plant(tmp_path / "whole", tmp_path / "whole kept", 12, 0)
    move, moved = planting._move, []

    def stop(*arguments):
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(arguments)
        move(*arguments)

    monkeypatch.setattr(planting, "_move", stop)
    with pytest.raises(KeyboardInterrupt):
        planting.plant(folder, tmp_path / "kept", 12, 0)
    assert len(names(tmp_path / "kept")) == 2
    monkeypatch.setattr(planting, "_move", move)
    again = planting.plant(folder, tmp_path / "kept", 12, 0)
    assert (again.trained, again.kept) == (whole.trained, whole.kept)
    assert names(tmp_path / "kept") == names(tmp_path / "whole kept")


@pytest.mark.parametrize(
    ("count", "kept", "message"),
    [
        (11, "kept", "expected an even number"),
        (202, "kept", "expected an even number from 2 to 200"),
        (12, "train/kept", "expected a folder outside"),
        (22, "kept", "found 40 pictures, expected at least 44"),
    ],
)
def test_plants_that_are_refused(folder, tmp_path, count, kept, message):
    with pytest.raises((ConfigError, DataError), match=message):
        planting.plant(folder, tmp_path / kept, count, 0)
    assert len(names(folder)) == 40


def test_a_plan_is_not_drawn_twice(folder, tmp_path):
    """Another seed for the same folder, a changed file and a damaged plan are refused by name."""
    drawn = planting.plant(folder, tmp_path / "kept", 12, 0)
    with pytest.raises(DataError, match=r"made with other settings \(seed\)"):
        planting.plant(folder, tmp_path / "kept", 12, 1)
    changed = tmp_path / "kept" / drawn.kept[0]
    changed.write_bytes(changed.read_bytes() + b"x")
    with pytest.raises(DataError, match="missing, or changed since the canaries were drawn"):
        planting.plant(folder, tmp_path / "kept", 12, 0)
    (tmp_path / "kept" / planting.PLAN).write_text("{}")
    with pytest.raises(DataError, match="not a plan of canaries"):
        planting.load(tmp_path / "kept" / planting.PLAN)


# ------------------------------------------------------------------------------------------------- audits


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A training folder of 300 images with 40 canaries, by the command; and the folder with the kept ones."""
    folder = tmp_path_factory.mktemp("canaries")
    pixels = import_images(None, ImportSettings(resize=14, limit=500, deduplicate=False)).images.pixels[:, 0]
    (folder / "train").mkdir()
    for number, image in enumerate(pixels[:300]):
        Image.fromarray(image).save(folder / "train" / f"{number:03}.png")
    done = command("canaries", "plant", folder / "train", "--kept", folder / "kept", "--n", 40, "--json")
    assert done.code == 0, done.err
    assert done.json["kept"] == 20
    (folder / "clean").mkdir()
    (folder / "copied").mkdir()
    drawn = planting.load(folder / "kept" / planting.PLAN)
    for number, image in enumerate(pixels[300:400]):
        Image.fromarray(image).save(folder / "clean" / f"{number:03}.png")
        copied = np.asarray(Image.open(folder / "train" / drawn.trained[number])) if number < 12 else image
        Image.fromarray(copied).save(folder / "copied" / f"{number:03}.png")
    return folder


def test_copied_canaries_are_found_without_held_out_images(planted, tmp_path):
    plan = planted / "kept" / planting.PLAN
    found = memgen.audit(planted / "copied", planted / "train", outputs=tmp_path, canaries=str(plan))
    assert found.answer.answer == "found"
    assert found.answer.headline == "Found: the samples depend on which canaries the model was trained on."
    assert found.answer.headline in found.page.read_text()
    table = runs.Run(found.path).table("canaries").to_pylist()
    assert sum(row["trained"] for row in table) == 20
    assert table[0]["p"] < 0.001
    assert sum(row["score"] > 0 for row in table if row["trained"]) >= 12
    assert found.document["canaries"] == {"trained": 20, "kept": 20, "auc": table[0]["auc"], "p": table[0]["p"]}


def test_samples_without_canaries_stay_undecided(planted, tmp_path):
    plan = planted / "kept" / planting.PLAN
    found = memgen.audit(planted / "clean", planted / "train", outputs=tmp_path, canaries=str(plan))
    assert found.answer.answer == "undecided"
    assert any("Of 40 canaries, 20 were trained on" in sentence for sentence in found.answer.sentences)


@pytest.mark.parametrize("stays", ["00.png", "01.png"])
def test_equal_canaries_do_not_tell_the_draw(planted, tmp_path, stays):
    """Two canaries of equal content, one trained and one kept: the same one gets the sample, whatever the draw."""
    for name in ("train", "kept", "samples"):
        (tmp_path / name).mkdir()
    pictures = sorted((planted / "train").iterdir())[:40]
    for number, picture in enumerate([pictures[0], *pictures]):  # the first two are equal
        shutil.copy(picture, tmp_path / "train" / f"{number:02}.png")
    for number, picture in enumerate(sorted((planted / "clean").iterdir())[:20]):
        shutil.copy(picture if number else pictures[0], tmp_path / "samples" / f"{number:02}.png")
    moved = ({"00.png", "01.png"} - {stays}).pop()
    chosen = [(stays, "trained"), (moved, "kept"), ("02.png", "trained"), ("03.png", "kept")]
    plan = [{"file": name, "use": use, "digest": files.digest_file(tmp_path / "train" / name)} for name, use in chosen]
    for name, use in chosen:
        if use == "kept":
            (tmp_path / "train" / name).rename(tmp_path / "kept" / name)
    (tmp_path / "kept" / planting.PLAN).write_text(json.dumps({"format": 1, "canaries": plan}))
    found = memgen.audit(
        tmp_path / "samples",
        tmp_path / "train",
        outputs=tmp_path / "o",
        canaries=str(tmp_path / "kept" / planting.PLAN),
    )
    samples = {row["file"]: row["samples"] for row in runs.Run(found.path).table("canaries").to_pylist()}
    assert samples["00.png"] > 0
    assert samples["01.png"] == 0


def test_another_training_folder_is_refused(planted, tmp_path):
    plan = str(planted / "kept" / planting.PLAN)
    with pytest.raises(DataError, match="this canary is missing, or was changed since it was drawn"):
        memgen.audit(planted / "copied", planted / "clean", outputs=tmp_path, name="other", canaries=plan)
    packed = shutil.make_archive(str(tmp_path / "clean"), "zip", planted / "clean")
    with pytest.raises(DataError, match="14 of 20 canaries that were to be trained on are not among"):
        memgen.audit(planted / "copied", packed, outputs=tmp_path, name="packed", canaries=plan)


def test_a_kept_canary_among_the_training_images_is_refused(planted, tmp_path):
    """Someone put the kept images back before the audit."""
    shutil.copytree(planted / "train", tmp_path / "train")
    kept = planting.load(planted / "kept" / planting.PLAN).kept[0]
    shutil.copy(planted / "kept" / kept, tmp_path / "train" / kept)
    plan = str(planted / "kept" / planting.PLAN)
    with pytest.raises(DataError, match=f"{kept} was to be kept, but is among the training images"):
        memgen.audit(planted / "copied", tmp_path / "train", outputs=tmp_path / "outputs", canaries=plan)
