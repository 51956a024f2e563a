"""Readings during a training: times against constructed curves, error over many looks, a real training, and resume."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.datasets import load_digits

import memgen
from memgen.base import schemas, tables
from memgen.base.errors import DataError, ShapeError
from memgen.images.imageset import ImageSet
from memgen.measures import timeline
from memgen.measures.psnr import PsnrSettings
from memgen.measures.timeline import Reached
from memgen.models import networks
from memgen.models.networks import UNetSettings
from memgen.models.training import Training, TrainSettings, train
from memgen.report.timeline import DRAWS_COPIES, GENERALIZES, figure_timeline


def readings(train, held_out):
    """A READINGS table of values (K, n) and (K, m), after 100, 200, ... images seen."""
    parts = []
    for kind, values in (("train", train), ("holdout", held_out)):
        for k, row in enumerate(values, start=1):
            columns = {"images_seen": 100 * k, "kind": kind, "image_id": [f"{kind}{i:03}" for i in range(len(row))]}
            parts.append(tables.make(schemas.READINGS, columns | {"psnr_db": list(row)}))
    return pa.concat_tables(parts)


def test_times_of_a_constructed_training():
    """Held-out PSNR is at its best from reading 3 on, and the gap grows by 1 dB from reading 5 on."""
    rng = np.random.default_rng(0)
    hard = [rng.normal(20, 2, 50), rng.normal(20, 2, 50)]
    quality = np.array([-4, -2, 0, 0.02, 0.01, 0, -0.3])
    grown = np.array([0, 0, 0, 0, 1, 1.2, 1.4])
    noise = rng.normal(0, 0.05, (2, 7, 50))
    found = timeline.timeline(
        readings(hard[0] + (quality + grown)[:, None] + noise[0], hard[1] + quality[:, None] + noise[1])
    )
    assert timeline.generalizes(found) == Reached(200, 300)
    assert timeline.memorizes(found) == Reached(400, 500)
    assert found["growth"].to_numpy() == pytest.approx(grown, abs=0.1)
    widths = [found[f"{name}high"].to_numpy() - found[f"{name}low"].to_numpy() for name in ("", "growth_")]
    assert (widths[1] < 0.2 * widths[0]).all()
    assert timeline.memorizes(found.slice(0, 4)) is None
    assert timeline.generalizes(found.slice(0, 0)) is None


def test_when_samples_come_from_the_training_set():
    """From the first reading on after which every p-value is small enough for that many looks."""
    p = [0.9, 0.004, 0.2, 0.002, 0.001, 1e-4]  # the levels are .025, .0083, .0042, .0025, .0017, .0012
    rows = [{"images_seen": 10 * k, "p": each} for k, each in enumerate(p, start=1)]
    assert timeline.draws_copies(rows) == Reached(30, 40)
    assert timeline.draws_copies(rows[:3]) is None
    assert timeline.draws_copies([]) is None
    late = [{"images_seen": k, "p": 1e-5} for k in range(1, 400)]  # the least p-value counts however many looks
    assert timeline.draws_copies(late) == Reached(0, 1)


def test_the_figure_shows_what_was_read(digits, tmp_path):
    """The curves are the columns of the tables, and each time that was reached is marked in every panel."""
    rng = np.random.default_rng(0)
    found = timeline.timeline(readings(20 + rng.normal(0, 1, (3, 9)), 19 + rng.normal(0, 1, (3, 9))))
    columns = {"images_seen": [100, 200, 300], "samples": 8, "unfinished": 0, "memorized_fraction": [0.0, 0.2, 0.9]}
    columns |= {"low": [-0.1, 0.1, 0.7], "high": [0.1, 0.4, 1.0], "p": [0.5, 0.01, 1e-4], "found": [0, 0, 5]}
    drawn = tables.make(schemas.DRAWN, columns, 3)
    figure = figure_timeline(found, drawn, {GENERALIZES: (100, 200), DRAWS_COPIES: (200, 300)})
    quality, gap, samples = figure.axes
    curves = {line.get_label(): line.get_ydata() for panel in figure.axes for line in panel.lines}
    assert list(curves["held-out images"]) == pytest.approx(found["held_out"].to_pylist())
    assert list(curves["gap"]) == pytest.approx(found["gap"].to_pylist())
    assert list(curves["memorized fraction"]) == [0.0, 0.2, 0.9]
    for panel in (quality, gap, samples):
        assert [line.get_xdata()[0] for line in panel.lines if line.get_label() == DRAWS_COPIES] == [300]
    assert len(figure_timeline(found, schemas.DRAWN.empty_table(), {}).axes) == 2


def test_a_gap_that_closes_again_is_no_memorization():
    """What counts is the first reading from which on all show it."""
    rng = np.random.default_rng(1)
    base = rng.normal(20, 0.1, (2, 20))
    gap = np.array([0, 2, 0, 2, 2])
    found = timeline.timeline(readings(base[0] + gap[:, None], np.tile(base[1], (5, 1))))
    assert found["memorizes"].to_pylist() == [False, True, False, True, True]
    assert timeline.memorizes(found) == Reached(300, 400)


def test_looking_often_stops_in_few_trainings():
    """A training without a gap, looked at 12 times: some look shows memorization in at most 5 % of trainings."""
    rng = np.random.default_rng(2)
    stopped = 0
    for _ in range(40):
        hard = rng.normal(0, 1, (2, 30))
        walk = rng.normal(0, 0.2, (2, 12, 30)).cumsum(axis=1)
        found = timeline.timeline(readings(hard[0] + walk[0], hard[1] + walk[1]))
        stopped += any(found["memorizes"].to_pylist())
    assert stopped <= 6  # of 40 at 5 %: more with a probability of 1 %


@pytest.fixture(scope="module")
def digits():
    return ImageSet.from_pixels((load_digits().images * 15.9).astype(np.uint8)[:, None])


def test_a_training_that_memorizes(digits, tmp_path):
    """16 digits: the gap opens, the monitor says when, and a second monitor of the folder goes on with the readings."""
    T, H = digits.take(slice(0, 16)), digits.take(slice(100, 164))
    monitor = memgen.Monitor(T, H, tmp_path / "mine")
    assert monitor.summary() == "Nothing was measured yet."
    assert not monitor.memorizes
    training = Training(networks.build(UNetSettings(architecture="unet", blocks=1, width=16), (1, 8, 8)),
                        TrainSettings(images_seen=16_000), (0, 0))  # fmt: skip
    for record in train(training, torch.from_numpy(T.pixels), record_every=100):
        assert training.network.training
        monitor(training.network, record.images_seen)
        assert training.network.training  # as it was
    found = monitor.timeline
    assert monitor.memorizes
    good, copies = timeline.generalizes(found), timeline.memorizes(found)
    assert f"between {good.after:,} and {good.by:,} images seen" in monitor.summary()
    assert f"began to memorize between {copies.after:,} and {copies.by:,} images seen" in monitor.summary()
    again = memgen.Monitor(T, H, tmp_path / "mine")
    assert again.timeline == found
    again(None, record.images_seen)  # there is such a reading, so nothing is measured
    with pytest.raises(DataError, match="other images or settings"):
        memgen.Monitor(T, H, tmp_path / "mine", PsnrSettings(sigmas=(0.3,)))
    with pytest.raises(DataError, match="other images or settings"):
        memgen.Monitor(T, T, tmp_path / "mine")


def test_the_order_of_files_changes_nothing(digits, tmp_path):
    """Of many images, those that are measured are chosen by their content: the same ones whatever the order."""
    T, H = digits.take(slice(0, 100)), digits.take(slice(100, 300))
    denoiser = memgen.FunctionDenoiser(lambda noisy, sigma: noisy / 2, (1, 8, 8))
    found = []
    for name, turn in (("a", 1), ("b", -1)):
        monitor = memgen.Monitor(T.take(np.arange(100)[::turn]), H.take(np.arange(200)[::turn]), tmp_path / name)
        monitor(denoiser, 10)
        found.append(monitor.readings.sort_by([("kind", "ascending"), ("image_id", "ascending")]))
    assert found[0].equals(found[1])
    assert set(found[0]["image_id"].to_pylist()) != set(T.ids[:64]) | set(H.ids[:64])


def test_a_function_as_a_denoiser(digits, tmp_path):
    """The identity gains nothing: its PSNR is that of the noise, with no gap."""
    monitor = memgen.Monitor(digits.take(slice(0, 40)), digits.take(slice(40, 80)), tmp_path)
    monitor(memgen.FunctionDenoiser(lambda noisy, sigma: noisy, (1, 8, 8)), 10)
    (row,) = monitor.timeline.to_pylist()
    expected = np.mean([-20 * np.log10(sigma) for sigma in (0.05, 0.1, 0.2, 0.4)])
    assert row["held_out"] == pytest.approx(expected, abs=0.2)
    assert not row["memorizes"]
    assert "Memorization was not seen." in monitor.summary()


def test_sets_of_different_shapes_are_refused(digits, tmp_path):
    small = ImageSet.from_pixels(digits.pixels[:, :, :6, :6])
    with pytest.raises(ShapeError, match="expected the same shape"):
        memgen.Monitor(digits, small, tmp_path)
