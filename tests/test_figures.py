"""The figures: what they show, that they are reproducible, and that they leave no global state."""

import matplotlib as mpl
import numpy as np
import pyarrow.compute as pc
import pytest
import synthetic_run
from matplotlib._pylab_helpers import Gcf

from memgen.base import schemas, tables, wording
from memgen.findings import transition
from memgen.report import figures, style


def test_levels_are_means_over_images_of_means_over_draws():
    """A level equals the mean of per-image means; a single image of each denoiser has no interval."""
    psnr = synthetic_run.run().tables["psnr"]
    train = psnr.filter(pc.equal(psnr["kind"], "train"))
    found = {(level.label, level.sigma): level.mean for level in figures.levels(train, "output_psnr_db")}
    sigma = synthetic_run.SIGMAS[0]
    rows = train.filter(pc.and_(pc.equal(train["n_train"], 16), pc.equal(train["sigma"], sigma)))
    assert found["N = 16", sigma].estimate == pytest.approx(np.mean(rows["output_psnr_db"].to_numpy()))
    assert found["N = 16", sigma].n == 32
    assert found["N = 16", sigma].low < found["N = 16", sigma].estimate < found["N = 16", sigma].high
    assert found["N = 1", sigma].low is None
    assert found["N = 1", sigma].n == 1


def test_imported_denoisers_have_curves_of_their_own():
    """Without an N a curve bears the denoiser's name."""
    columns = {
        "subject": "theirs",
        "role": "imported",
        "n_train": None,
        "part": None,
        "train_seed": None,
        "kind": "holdout",
    }
    columns |= {
        "image_id": ["x", "y"],
        "sigma": 0.1,
        "noise_draw": 0,
        "input_psnr_db": 20.0,
        "output_psnr_db": [1.0, 3.0],
    }
    table = tables.make(schemas.PSNR, columns, rows=2)
    (level,) = figures.levels(table, "output_psnr_db")
    assert (level.label, level.mean.estimate) == ("theirs", 2.0)
    assert "theirs" in [text.get_text() for text in figures.figure_psnr(table).legends[0].get_texts()]


def test_transition_figure_shows_the_points():
    """The transition points are drawn at their estimates, with their numbers."""
    summary = transition.summarize(synthetic_run.run().tables, 0, resamples=100)
    figure = figures.figure_transition(summary)
    point = transition.estimates(summary)[None, "N_cross"]
    lines = [line.get_xdata()[0] for line in figure.axes[0].lines if len(set(line.get_xdata())) == 1]
    assert lines == [point.estimate]
    assert any(wording.number(point.estimate, "images") in text.get_text() for text in figure.axes[0].texts)


def test_files_are_the_same_bytes_every_time(tmp_path):
    """Two drawings of the same tables give the same PNG, SVG and PDF, and saving twice changes nothing."""
    run = synthetic_run.run().tables
    first, second = (figures.figure_histograms(run) for _ in range(2))
    one = style.save(first, tmp_path / "one" / "figure.v1")
    again = style.save(first, tmp_path / "again" / "figure.v1")
    two = style.save(second, tmp_path / "two" / "figure.v1")
    assert [path.name for path in one] == ["figure.v1.png", "figure.v1.svg", "figure.v1.pdf"]
    for x, y, z in zip(one, again, two, strict=True):
        assert x.read_bytes() == y.read_bytes() == z.read_bytes()


def test_no_global_state():
    """Drawing changes no setting of matplotlib and registers no figure with it."""
    before = dict(mpl.rcParams)
    style.encode(figures.figure_psnr(synthetic_run.run().tables["psnr"], 256), ".png")
    assert dict(mpl.rcParams) == before
    assert not Gcf.get_all_fig_managers()
