"""The gap between T and H and the attack that it implies: known answers, units, intervals, and the command."""

import numpy as np
import pandas as pd
import pytest
from program import memgen
from tested import imported

from memgen.base import schemas, tables
from memgen.experiment import measure
from memgen.experiment.runs import Run
from memgen.findings import membership
from memgen.findings.membership import Scores
from memgen.images.imageset import ImageSet
from memgen.measures.subject import subject

pytestmark = pytest.mark.usefixtures("unrendered")


def psnr_table(train: np.ndarray, held_out: np.ndarray, sigmas=(0.1, 0.5)):
    """A PSNR table with these values of each image (n, levels, draws)."""
    columns = {name: [] for name in ("kind", "image_id", "sigma", "noise_draw", "input_psnr_db", "output_psnr_db")}
    for kind, values in (("train", train), ("holdout", held_out)):
        for (image, level, draw), value in np.ndenumerate(values):
            row = (kind, f"{kind}{image}", sigmas[level], draw, -20 * np.log10(sigmas[level]), value)
            for name, cell in zip(columns, row, strict=True):
                columns[name].append(cell)
    return tables.make(schemas.PSNR, imported() | columns)


def test_gap_and_attack_by_hand():
    """At each level and at all: the difference of means, the share of pairs, and the share above the k-th largest."""
    random = np.random.default_rng(0)
    held_out = random.normal(size=(250, 2, 3))
    train = random.normal(size=(60, 2, 3)) + np.array([2.0, 0.1])[:, None]
    found = membership.summarize(psnr_table(train, held_out), None, None, 0).to_pandas()
    assert found["score"].tolist() == ["psnr"] * 3
    assert found["sigma"].tolist()[:2] == [0.1, 0.5]
    assert np.isnan(found["sigma"][2])
    for row, (t, h) in enumerate([(train[:, i], held_out[:, i]) for i in (0, 1)] + [(train, held_out)]):
        t, h = t.reshape(len(t), -1).mean(1), h.reshape(len(h), -1).mean(1)
        assert found["gap"][row] == pytest.approx(t.mean() - h.mean())
        assert found["auc"][row] == pytest.approx(np.mean(t[:, None] > h))
        assert found["tpr"][row] == pytest.approx(np.mean(t > np.sort(h)[-2]))  # floor(.01 * 251) = 2
    assert found["fpr"].tolist() == pytest.approx([2 / 251] * 3)
    assert found["gap_low"][0] > 0
    assert found["gap_low"][1] < 0.1 < found["gap_high"][1]
    assert found["auc_low"][0] > 0.9
    assert (found["tpr_low"] <= found["tpr"]).all()
    assert (found["tpr"] <= found["tpr_high"]).all()


def test_nothing_to_find_is_not_found():
    """Where T and H are alike, the intervals hold the null in about 95 % of repeats, and false alarms keep their rate."""
    random, covered, hits = np.random.default_rng(1), [], []
    for repeat in range(100):
        scores = Scores(random.normal(size=40), random.normal(size=120))
        shift, area, found = (
            membership.gap(scores, repeat, "dB"),
            membership.auc(scores, repeat),
            membership.attack(scores),
        )
        covered.append((shift.low <= 0 <= shift.high, area.low <= 0.5 <= area.high, found.tpr.low <= found.fpr))
        hits.append(found.tpr.estimate)
    for share in np.mean(covered, axis=0):
        assert share > 0.9
    assert np.mean(hits) == pytest.approx(1 / 121, abs=4 * np.std(hits) / np.sqrt(100))


def test_too_few_held_out_images_have_no_threshold():
    """With 98 of them no threshold has at most 1 % false positives; with 99 it is their largest score."""
    train = np.full(5, 10.0)
    few = membership.attack(Scores(train, np.arange(98.0)))
    assert (few.tpr.estimate, few.fpr) == (None, None)
    assert "at least 99" in few.tpr.note
    enough = membership.attack(Scores(np.array([98.0, 98.5]), np.arange(99.0)))
    assert (enough.tpr.estimate, enough.fpr) == (0.5, 0.01)


def test_ties_count_half_and_one_image_has_no_interval():
    """The area of equal scores is 1/2; with one training image there is a value without an interval."""
    alone = Scores(np.array([1.0]), np.array([1.0, 0.0, 2.0, 1.0]))
    area, shift = membership.auc(alone, 0), membership.gap(alone, 0, "dB")
    assert area.estimate == 0.5
    assert (area.low, shift.low, shift.estimate) == (None, None, 0.0)
    assert membership.gap(Scores(np.empty(0), np.ones(3)), 0, "dB").estimate is None


def test_groups_are_the_units():
    """Images of a group count once, with their mean; the interval is wider than over images, and groups are counted."""
    random = np.random.default_rng(2)
    effect = random.normal(size=20).repeat(10)  # 20 groups of 10 images that are alike
    train, held_out = (half[:, None, None] + 0.01 * random.normal(size=(100, 2, 3)) for half in np.split(effect, 2))
    table = psnr_table(train, held_out)
    groups = {f"{kind}{i}": f"{kind}/{i // 10}" for kind in ("train", "holdout") for i in range(100)}
    by_group = membership.summarize(table, None, groups, 0).to_pandas()
    by_image = membership.summarize(table, None, None, 0).to_pandas()
    assert set(by_group["independent"]) == {"group"}
    assert set(by_group["n_units"]) == {10}
    assert by_group["gap"].to_numpy() == pytest.approx(by_image["gap"].to_numpy())
    width = [found["gap_high"][0] - found["gap_low"][0] for found in (by_group, by_image)]
    assert width[0] > 2 * width[1]
    assert by_group["tpr"].isna().all()  # 10 groups of H have no threshold at 1 %


def test_the_commands(tiny):
    """Likelihood and membership of a model: what is printed is what is kept, and a memorizing model shows a gap."""
    shown = memgen("likelihood", "--n", "4", "--json").done().json
    table = Run(tiny).table("likelihood", "n4-s0-a").to_pandas()
    means = table.groupby("kind")["bits_per_dim"].mean()
    found = shown["likelihood"]["n4-s0-a"]
    assert found["train"]["estimate"] == pytest.approx(means["train"])
    assert found["gap"]["estimate"] == pytest.approx(means["holdout"] - means["train"])
    assert found["step_change"] == pytest.approx((table["step_change"].abs() / (64 * np.log(2))).max())
    assert set(table["sigma_low"]) == {0.3}
    apart = memgen("likelihood", "--subject", "n4-s0-a", "--against", "n4-s0-b", "--json").done().json
    other = Run(tiny).table("likelihood", "n4-s0-b").to_pandas().groupby("kind")["bits_per_dim"].mean()
    assert list(apart["likelihood"]) == ["n4-s0-a", "n4-s0-b"]
    (more,) = apart["more_bits"].items()
    assert (more[0], more[1]["n"]) == ("n4-s0-a", 8)
    assert more[1]["estimate"] == pytest.approx(other["holdout"] - means["holdout"])
    assert "bits that n4-s0-b spends more" in memgen("likelihood", "--n", "4", "--against", "n4-s0-b").done().err
    memgen("likelihood", "--subject", "n4-s0-a", "--against", "n4-s0-a").failed(2, "--against", "another subject")
    memgen("likelihood", "--subject", "n4-s0-a", "--against", "nobody").failed(4, "nobody")
    rows = memgen("membership", "--subject", "n4-s0-a", "--json").done().json["membership"]["n4-s0-a"]
    assert [row["score"] for row in rows] == ["psnr", "psnr", "psnr", "log_density"]
    psnr = Run(tiny).table("psnr", "n4-s0-a").to_pandas()
    low = psnr[psnr["sigma"] == 0.1].groupby("kind")["output_psnr_db"].mean()
    assert rows[0]["gap"] == pytest.approx(low["train"] - low["holdout"])
    assert rows[0]["independent"] == "image"
    assert Run(tiny).table("membership", "n4-s0-a").num_rows == 4
    memgen("report", "--sweep").done()
    before = pd.Timestamp.now()
    memgen("likelihood", "--n", "4").done()  # is not measured again
    assert (tiny / "tables" / "likelihood" / "n4-s0-a.parquet").stat().st_mtime < before.timestamp()


def test_groups_of_a_subject(monkeypatch):
    """The groups of T and H are looked up by image, and a name in both is two groups; without groups there are none."""
    pixels = np.random.default_rng(0).random((4, 1, 2, 2)).astype(np.float32)
    train, held_out = (ImageSet.from_pixels(half, groups=["p1", "p2"]) for half in (pixels[:2], pixels[2:]))
    monkeypatch.setattr(measure.subjects, "find", lambda _, name: subject(name, train=train, held_out=held_out))
    found = measure.groups_of(None, "any")
    assert list(found) == [*train.ids, *held_out.ids]
    assert list(found.values()) == ["T/p1", "T/p2", "H/p1", "H/p2"]
    held_out = ImageSet.from_pixels(pixels[2:])
    assert measure.groups_of(None, "any") is None
