"""Measures of other groups: their rule on known distances, their value on held-out images, one file for each."""

import itertools
import types

import numpy as np
import pytest
from program import memgen

import memgen as package
from memgen.base.errors import DataError
from memgen.base.estimates import Estimate
from memgen.images.imageset import ImageSet
from memgen.measures import peers
from memgen.measures.peers import Value, one_third


def flat_images(*levels: float) -> ImageSet:
    """Images of one gray level each, so that distances are differences of levels."""
    return ImageSet.from_pixels(np.stack([np.full((1, 4, 4), level, np.float32) for level in levels]))


def test_the_rule_on_known_distances():
    """With training images at 0, .4 and 1, a sample at x is a copy where its first distance is below a third of its
    second: .05 is (.05 < .35 / 3), .12 is not (.12 > .28 / 3), and held-out images are judged by the same rule."""
    train, held_out = flat_images(0, 0.4, 1), flat_images(0.2, 0.95)
    samples = flat_images(0.05, 0.12, 0.41, 0.7)
    found = one_third.measure(package.subject(samples=samples, train=train, held_out=held_out), "torch", "cpu")
    assert found.samples.estimate == 2 / 4
    assert found.held_out.estimate == 1 / 2
    assert found.samples.low < 0.5 < found.samples.high
    assert (found.samples.n, found.held_out.n) == (4, 2)


def test_one_training_image_has_no_second():
    """With a single training image the rule is undefined: null, not 0."""
    found = one_third.measure(
        package.subject(samples=flat_images(0.1), train=flat_images(0), held_out=flat_images(0.5)), "torch", "cpu"
    )
    assert found.samples.estimate is None
    assert found.samples.status == "not measured"


def test_a_new_measure_is_one_module(monkeypatch):
    """A module that defines what a measure is gets a row of the table, beside those that are there."""
    new = types.ModuleType("new")
    new.NAME, new.TITLE, new.NEEDS = "mean", "the mean pixel", ("samples",)
    new.measure = lambda subject, backend, device: Value(
        Estimate.of(float(subject.samples.images.mean()), n=len(subject.samples), unit="pixel units"), Estimate.of(None)
    )
    known = peers.all_measures()
    monkeypatch.setattr(peers, "modules_of", lambda name, path: [*known, new])
    subject = package.subject("x", flat_images(0.25), train=flat_images(0, 1), held_out=flat_images(0.5))
    rows = {row["measure"]: row for row in peers.measure_peers(subject).to_pylist()}
    assert rows.keys() == {measure.NAME for measure in known} | {"mean"}
    assert rows["mean"]["estimate"] == 0.25
    assert rows["mean"]["subject"] == "x"
    assert all(isinstance(measure, peers.Measure) for measure in known)
    with pytest.raises(DataError, match=r"x: .* cannot be measured, since the images that it was trained on"):
        peers.measure_peers(package.subject("x", flat_images(0.25), held_out=flat_images(0.5)))


def test_command(tiny):
    """The command prints and keeps a row for each subject and measure, and refuses a subject without a training set."""
    rows = memgen("peers", "--n", "4", "--json").done().json["peers"]
    names = [measure.NAME for measure in peers.all_measures()]
    assert [(row["subject"], row["measure"]) for row in rows] == list(itertools.product(("n4-s0-a", "n4-s0-b"), names))
    assert all(0 <= row["low"] <= row["estimate"] <= row["high"] <= 1 for row in rows)
    memgen("import", tiny / "denoisers" / "n4-s0-a.safetensors", "--name", "theirs").done()
    memgen("sample", "--subject", "theirs", "--jobs", "1").done()
    memgen("peers", "--subject", "theirs").failed(4, "--trained-on")
