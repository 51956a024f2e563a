"""The sheets of images: what stands beside each sample, and that pixels are shown as they are."""

import numpy as np
import pytest
import synthetic_run

from memgen.report import sheets


def test_specimens_are_looked_up_in_the_tables():
    """Nearest images and similarities belong to the sample that they stand beside."""
    run = synthetic_run.run()
    pair = sheets.specimens(run.tables, 4, {part: run.samples[4, part] for part in "ab"}, run.image_of, count=5)
    assert pair.samples_a.shape == pair.nearest_b.shape == (5, 1, 16, 16)
    for i in range(5):
        a, b = synthetic_run.unit(pair.samples_a[i : i + 1])[0], synthetic_run.unit(pair.samples_b[i : i + 1])[0]
        assert pair.cross[i] == pytest.approx(a @ b)
        assert pair.value_b[i] == pytest.approx(b @ synthetic_run.unit(pair.nearest_b[i : i + 1])[0])
    assert sheets.specimens({}, 4, {"a": run.samples[4, "a"]}, run.image_of) is None


def test_one_model_alone_has_two_rows():
    """Without a second model the sheet shows the sample and its nearest training image."""
    run = synthetic_run.run()
    pair = sheets.specimens(run.tables, 4, {"a": run.samples[4, "a"]}, run.image_of, count=2)
    assert pair.samples_b is None
    (axes,) = sheets.figure_images([pair]).axes
    names = [text.get_text() for text in axes.texts]
    assert names.count("sample A") == 2
    assert "sample B" not in names


def test_images_are_enlarged_without_smoothing():
    """Every pixel becomes a square of one value; values outside [0, 1] are clipped; color keeps its channels."""
    image = np.array([[[-1.0, 0.5], [1.0, 2.0]]])
    shown = sheets._enlarged(image, 3)
    assert shown.shape == (6, 6, 3)
    assert [int(shown[y, x, 0]) for y in (0, 5) for x in (0, 5)] == [0, 128, 255, 255]
    assert len(np.unique(shown[:3, 3:])) == 1
    color = np.zeros((3, 1, 1), dtype=np.uint8)
    color[2] = 9
    assert sheets._enlarged(color, 1)[0, 0].tolist() == [0, 0, 9]
