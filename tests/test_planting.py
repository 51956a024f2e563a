"""Planted copies: each kind against what is known of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memgen.base.errors import ShapeError
from memgen.measures.copies.planting import KINDS, planted


def images(n=3, channels=1, height=32, width=32, seed=0):
    """Smooth random images."""
    drawn = np.random.default_rng(seed).random((n, channels, height // 4 + 1, width // 4 + 1)).astype(np.float32)
    size = (height, width)
    return torch.nn.functional.interpolate(torch.from_numpy(drawn), size=size, mode="bilinear", align_corners=False)


def make(kind, x, others=None, seed=0):
    return planted(
        kind, x, images(len(x), *x.shape[1:], seed=9) if others is None else others, np.random.default_rng(seed)
    )


def point(row, column):
    x = torch.zeros(1, 1, 32, 32)
    x[0, 0, row, column] = 1
    return x


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.integers(4, 40), st.integers(4, 40), st.sampled_from([1, 3]))
def test_every_kind_keeps_shape_and_type(kind, height, width, channels):
    """Any size of at least 4 x 4, gray or in color; within [0, 1], except with noise; and the input stays as it was."""
    x = images(2, channels, height, width)
    before = x.clone()
    made = make(kind, x)
    assert made.shape == x.shape
    assert made.dtype == torch.float32
    assert torch.equal(x, before)
    assert kind.startswith("noise") or (made.min() >= 0 and made.max() <= 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides(kind):
    """The same generator gives the same copies."""
    assert torch.equal(make(kind, images(), seed=4), make(kind, images(), seed=4))


def test_moves_are_as_long_as_they_say():
    """A point moves by so many pixels of a side of 32, right and up; on a side of 64, by twice as many."""
    assert make("shifted by 1 pixel", point(10, 10))[0, 0, 10, 11] == pytest.approx(1, abs=1e-4)
    assert make("shifted by 2 pixels", point(10, 10))[0, 0, 8, 12] == pytest.approx(1, abs=1e-4)
    half = make("shifted by 1/2 pixel", point(10, 10))[0, 0, 10:12, 10:12]
    assert half.flatten().tolist() == pytest.approx([0.25] * 4, abs=1e-4)
    large = torch.zeros(1, 1, 64, 64)
    large[0, 0, 20, 20] = 1
    assert make("shifted by 1 pixel", large)[0, 0, 20, 22] == pytest.approx(1, abs=1e-4)


def test_turns_are_clockwise():
    """A point right of the center moves down: by 15 degrees of a circle of 10 pixels, about 2.6 pixels."""
    x = point(15, 26) + point(16, 26)
    made = make("turned by 15 degrees", x)[0, 0]
    rows = torch.arange(32.0)
    center = (made.sum(dim=1) * rows).sum() / made.sum()
    assert float(center - 15.5) == pytest.approx(10.5 * np.sin(np.radians(15)), abs=0.2)


def test_kinds_without_resampling():
    """Mirror, negative, contrast, brightness and gamma are their formulas."""
    x = images()
    assert torch.equal(make("exact", x), x)
    assert torch.equal(make("mirrored", make("mirrored", x)), x)
    assert torch.equal(make("negative", x), 1 - x)
    assert torch.allclose(make("half the contrast", x), 0.25 + x / 2)
    assert torch.equal(make("brighter by .2", x), (x + 0.2).clamp(max=1))
    assert torch.allclose(make("gamma 1.6", x), x**1.6)


@pytest.mark.parametrize("sigma", [0.1, 0.2, 0.3])
def test_noise_is_as_large_as_it_says(sigma):
    x = images(8, 3)
    difference = make(f"noise {sigma:.1f}".replace("0.", "."), x) - x
    assert float(difference.std()) == pytest.approx(sigma, rel=0.02)


def test_blur_spreads_a_point_by_one_pixel():
    """The squared distance of the spread point has variance 1 along each axis, and no light is lost."""
    made = make("blurred by 1 pixel", point(16, 16))[0, 0]
    distance = (torch.arange(32.0) - 16).square()
    assert float(made.sum()) == pytest.approx(1, abs=1e-4)
    assert float((made.sum(dim=0) * distance).sum()) == pytest.approx(1, abs=0.05)
    assert float((made.sum(dim=1) * distance).sum()) == pytest.approx(1, abs=0.05)


def test_a_crop_enlarges_about_the_center():
    """The crop removes two pixels at each border, so a distance grows by 32 / 28."""
    x = torch.zeros(1, 1, 32, 32)
    x[0, 0, :, 24:] = 1  # an edge 8 pixels right of the center
    made = make("cropped by 10 %", x)[0, 0]
    edge = 32 - float(made[16].sum())
    assert edge - 16 == pytest.approx(8 * 32 / 28, abs=0.3)


def test_jpeg_loses_more_at_a_lower_quality():
    x = images(4, 3)
    high, low = ((make(f"JPEG quality {q}", x) - x).square().mean() for q in (30, 5))
    assert 0 < high < low < 0.05


def test_an_occluded_quarter_is_gray_and_the_rest_untouched():
    x = images(40)
    made = make("a quarter occluded", x)
    changed = (made != x).any(dim=1)
    assert all(int(each.sum()) <= 256 for each in changed)
    assert {tuple(each.nonzero()[0].tolist()) for each in changed} <= {(0, 0), (0, 16), (16, 0), (16, 16)}
    assert len({tuple(each.nonzero()[0].tolist()) for each in changed}) == 4
    assert (made[changed[:, None]] == 0.5).all()


def test_images_put_together_are_of_the_right_images():
    """The named part is of the copied image, and all else of the other."""
    x, others = images(), images(seed=5)
    assert torch.equal(make("left half", x, others), torch.cat([x[..., :16], others[..., 16:]], dim=3))
    assert torch.equal(make("upper half", x, others), torch.cat([x[..., :16, :], others[..., 16:, :]], dim=2))
    quarter = make("a quarter", x, others)
    assert torch.equal(quarter[..., :16, :16], x[..., :16, :16])
    assert torch.equal(quarter[..., 16:, :], others[..., 16:, :])
    assert torch.equal(quarter[..., :16, 16:], others[..., :16, 16:])


def test_refuses():
    """Images and others of different shapes, and images with two channels."""
    with pytest.raises(ShapeError, match="one shape"):
        make("exact", images(), images(2))
    with pytest.raises(ShapeError, match="C = 1 or 3"):
        make("exact", images(1, 2))
