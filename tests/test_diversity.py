"""Diversity: closed cases, the packages of others, the intervals, the baseline, and the command."""

import numpy as np
import pytest
import torch
from program import memgen
from truth import GaussianDenoiser

from memgen import spaces
from memgen.base import noise
from memgen.base.errors import DataError
from memgen.experiment.runs import Run
from memgen.images.imageset import ImageSet
from memgen.measures import diversity
from memgen.measures.diversity import DiversitySettings, Start, measure_diversity, reached, vendi, vendi_interval
from memgen.measures.subject import subject
from memgen.models.sampling import SampleSettings

RMSE, CORRELATION = spaces.find("rmse"), spaces.find("correlation")


def features(n: int, width: int, seed: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)) * scale


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_vendi_of_known_sets():
    """n images with nothing in common count n, equal ones 1, and g groups of equal ones of the same size g."""
    assert vendi(np.eye(7)) == pytest.approx(7)
    assert vendi(np.ones((7, 7))) == pytest.approx(1)
    assert vendi(np.kron(np.eye(3), np.ones((4, 4)))) == pytest.approx(3)
    assert vendi(np.array([[1, 0.6], [0.6, 1]])) == pytest.approx(np.exp(-0.8 * np.log(0.8) - 0.2 * np.log(0.2)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_vendi_equals_the_package():
    """vendi-score gives the same for the same similarities."""
    package = pytest.importorskip("vendi_score.vendi", reason="needs the package vendi-score")
    vectors = unit(features(60, 12, 0))
    assert vendi(vectors @ vectors.T) == pytest.approx(package.score_K(vectors @ vectors.T), rel=1e-6)


def test_neighbors_equal_the_package():
    """prdc gives the same precision, recall, density and coverage for the same features."""
    package = pytest.importorskip("prdc", reason="needs the package prdc")
    real, drawn = features(80, 8, 1), features(60, 8, 2, 0.9)
    for k in (1, 3, 5):
        wanted = package.compute_prdc(real, drawn, k)
        found = {name: float(values.mean()) for name, values in reached(real, drawn, k).items()}
        assert found == pytest.approx({name: float(value) for name, value in wanted.items()}, abs=1e-12)
        assert 0 < found["recall"] < 1


def test_neighbors_of_known_sets():
    """On a line, by hand: reference 0, 1, 2, 10 with k = 1 reaches 1, 1, 1 and 8."""
    real, drawn = np.array([[0.0], [1], [2], [10]]), np.array([[0.5], [3.5], [30]])
    found = reached(real, drawn, 1)
    assert found["precision"].tolist() == [1, 1, 0]  # 3.5 is 6.5 from 10, which reaches 8
    assert found["density"].tolist() == [2, 1, 0]
    assert found["coverage"].tolist() == [1, 1, 0, 1]
    assert found["recall"].tolist() == [1, 1, 1, 1]  # drawn images reach 3, 3 and 26.5
    assert reached(real, drawn[:2] - 90, 1)["recall"].sum() == 0


def test_the_interval_of_vendi_covers():
    """Over 60 sets of 40 vectors, the interval covers the mean score of such sets in most; a bootstrap would in few."""
    sets = [unit(features(40, 6, seed)) for seed in range(60)]
    kernels = [each @ each.T for each in sets]
    truth = np.mean([vendi(kernel) for kernel in kernels])
    found = [vendi_interval(kernel, seed) for seed, kernel in enumerate(kernels)]
    assert np.mean([each.low <= truth <= each.high for each in found]) > 0.85
    again = np.random.default_rng(0).integers(0, 40, (60, 40))
    resampled = [vendi(kernel[np.ix_(draw, draw)]) for kernel, draw in zip(kernels, again, strict=True)]
    assert np.mean(resampled) < truth - 0.1
    assert vendi_interval(np.eye(3), 0).low is None


def images(n: int, seed: int, spread: float = 0.1) -> np.ndarray:
    return (0.5 + spread * np.random.default_rng(seed).normal(size=(n, 1, 4, 4))).astype(np.float32)


def measured(samples: np.ndarray, held_out: ImageSet, space=RMSE, **given):
    found = measure_diversity(subject("s", samples, held_out=held_out), space, DiversitySettings(**given))
    return {row["measure"]: row for row in found.to_pylist()}


@pytest.mark.parametrize("space", [RMSE, CORRELATION, spaces.find("coarse")], ids=lambda space: space.name)
def test_samples_like_held_out_images_have_their_diversity(space):
    """Samples of the same law: each interval meets the baseline's. One image again and again: no diversity at all."""
    held_out = ImageSet.from_pixels(images(200, 0))
    same = measured(images(150, 1), held_out, space)
    assert list(same) == ["vendi", "precision", "recall", "density", "coverage", "trajectory_variance"]
    for name in ("vendi", "precision", "recall", "density", "coverage"):
        row = same[name]
        assert row["low"] < row["held_out_high"], name
        assert row["held_out_low"] < row["high"], name
        assert row["space"] == space.name
    assert same["vendi"]["n"] == same["vendi"]["n_held_out"] == 100
    one = measured(np.repeat(images(1, 3), 100, axis=0), held_out, space)
    assert one["vendi"]["estimate"] == pytest.approx(1, abs=1e-6)
    assert one["coverage"]["high"] < one["coverage"]["held_out_low"]
    assert one["recall"]["estimate"] == 0
    assert same["trajectory_variance"]["estimate"] is None


def test_narrow_samples_are_precise_and_not_varied():
    """Samples closer to the mean than images are: precision 1, less recall, less Vendi score than the baseline."""
    found = measured(images(100, 1, 0.03), ImageSet.from_pixels(images(200, 0)))
    assert found["precision"]["estimate"] == 1
    assert found["recall"]["high"] < found["recall"]["held_out_low"]
    assert found["vendi"]["high"] < found["vendi"]["held_out_low"]


def test_images_of_a_group_stay_in_one_half():
    """Reference and baseline share no group, or the baseline would look better than any model can."""
    pixels = images(40, 0)
    groups = [f"patient {i // 4}" for i in range(40)]
    halves = diversity._halves(ImageSet.from_pixels(pixels, groups=groups))
    assert sorted(np.concatenate(halves)) == list(range(40))
    assert not {groups[i] for i in halves[0]} & {groups[i] for i in halves[1]}
    assert [len(half) for half in halves] == [20, 20]


def test_too_few_images():
    """Without k + 1 images there are no neighbors, which is said by null; with one held-out image there is no answer."""
    found = measured(images(4, 1), ImageSet.from_pixels(images(20, 0)))
    assert found["precision"]["estimate"] is None
    assert found["vendi"]["estimate"] > 1
    with pytest.raises(DataError, match="1 held-out images"):
        measured(images(4, 1), ImageSet.from_pixels(images(1, 0)))
    with pytest.raises(DataError, match="no samples"):
        measure_diversity(subject("s", held_out=ImageSet.from_pixels(images(9, 0))), RMSE)


class Modes:
    """The posterior mean of two images a and b of equal weight, with the flow's noise level."""

    blind = False

    def __init__(self, a, b):
        self.a, self.b, self.image_shape = a, b, tuple(a.shape)

    def __call__(self, noisy, sigma):
        far = (noisy - self.a).flatten(1).square().sum(1) - (noisy - self.b).flatten(1).square().sum(1)
        share = torch.sigmoid(far / (2 * sigma**2))[:, None, None, None]
        return (1 - share) * self.a + share * self.b


def test_trajectory_variance():
    """By hand for a Gaussian, 0 for one image, and large for a sample that starts between two modes."""
    truth, shape = GaussianDenoiser.make((1, 2, 2), seed=0), (1, 2, 2)
    start = Start(torch.zeros(shape), 0, SampleSettings(sigma_end=0.1, micro_batch=4))
    levels = start.settings.drawn_by("heun").levels
    window = levels[len(levels) // 2 :]
    clean = truth.draw(3, 0).float()
    normal = torch.stack([torch.from_numpy(noise.normal(noise.stream(f"image/{i}", 0, 0), shape)) for i in "abc"])
    path = torch.stack([truth(clean + s * normal, torch.full((3,), s)).double() for s in window])
    found = diversity.noised_variance(truth, clean, ("a", "b", "c"), start)
    assert found == pytest.approx(path.var(0, correction=0).mean((1, 2, 3)).numpy(), rel=1e-4)
    ends, top = [], torch.stack([torch.from_numpy(noise.normal(noise.stream("sample", 0, i), shape)) for i in (0, 1)])
    for level in window:  # the flow of a Gaussian scales each coefficient like its deviation
        scale = ((truth.variances + level**2) / (truth.variances + 1)).sqrt()
        y = truth.mean + (((top.double() - truth.mean).flatten(1) @ truth.axes * scale) @ truth.axes.T).view(top.shape)
        ends.append(truth(y, torch.full((2,), level)))
    wanted = torch.stack(ends).var(0, correction=0).mean((1, 2, 3))
    assert diversity.trajectory_variance(truth, [0, 1], start) == pytest.approx(wanted.numpy(), rel=0.02)
    image = torch.rand(shape)
    assert diversity.trajectory_variance(Modes(image, image), [0, 1], start).max() < 1e-12
    a, b = torch.zeros(shape), torch.full(shape, 0.2)
    wavering = diversity.trajectory_variance(Modes(a, b), list(range(6)), start)
    apart = diversity.trajectory_variance(Modes(a, b + 3), list(range(6)), start)
    assert len(wavering) == 6
    # Modes 3 apart are decided before the window begins; modes .2 apart are decided in it.
    assert wavering.max() > 1e-4
    assert apart.max() < 1e-6


def test_the_command(tiny):
    """What is printed is what is kept; other spaces are kept beside it, and more samples make it anew."""
    rows = memgen("diversity", "--subject", "n4-s0-a", "--json").done().json["diversity"]
    assert [row["measure"] for row in rows] == list(diversity.UNITS)
    kept = Run(tiny).table("diversity", "n4-s0-a.correlation").to_pylist()
    assert [row["estimate"] for row in kept] == [row["estimate"] for row in rows]
    assert rows[0]["n"] == 4  # half of the 8 held-out images
    assert rows[-1]["estimate"] > 0
    memgen("diversity", "--n", "4", "--metric", "rmse").done()
    assert Run(tiny).table_names("diversity") == ["n4-s0-a.correlation", "n4-s0-a.rmse", "n4-s0-b.rmse"]
    memgen("sample", "--count", "7", "--jobs", "1").done()
    assert Run(tiny).table_names("diversity") == []
    memgen("diversity", "--metric", "nothing").failed(2, "nothing")
