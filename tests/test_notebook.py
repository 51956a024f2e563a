"""Results in a notebook: what they show of themselves, their tables as pandas and polars, and their figures."""

import html
import re
import shutil
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import polars as pl
import program
import pyarrow as pa
import pytest

import memgen
from memgen.base import wording
from memgen.base.errors import ConfigError, RunError
from memgen.experiment import audit
from memgen.findings import transition


@pytest.fixture(scope="module")
def swept(finished):
    """The findings of the finished sweep."""
    return memgen.read_run(finished)


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """An audit of 160 samples, 60 of which are training images."""
    folder = tmp_path_factory.mktemp("audited")
    images = np.load(program.write_digits(folder / "digits.npy", 400))
    chosen = {"train": images[:150], "held": images[150:300], "samples": np.concatenate([images[:60], images[300:]])}
    for name, pixels in chosen.items():
        np.save(folder / f"{name}.npy", pixels)
    given = (folder / f"{name}.npy" for name in ("samples", "train", "held"))
    return memgen.audit(*given, outputs=folder / "outputs", name="a1", spaces=("pixels",))


def text_of(source: str) -> str:
    """The text of a piece of HTML, without its styles, all spaces alike."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            if self.cdata_elem is None:
                found.append(data)

    Reader().feed(source)
    return " ".join(" ".join(found).split())


def test_a_sweep_shows_its_verdict_and_its_main_numbers(swept, finished):
    """The headline, every main number with its interval and what it is judged against, and the way to the page."""
    shown = swept._repr_html_()
    text = text_of(shown)
    assert text.startswith(swept.verdict.headline)
    rows = transition.estimates(swept.transition)
    for key in (1, 4):
        for quantity in ("nearest_own", "memorized_fraction", "psnr_gap"):
            estimate = rows[key, quantity]
            assert estimate.estimate is not None
            value, interval = wording.value(estimate), wording.interval(estimate)
            null = rows[key, "nearest_holdout_to_train"]
            after = f" ({wording.value(null)})" if quantity == "nearest_own" else ""
            assert " ".join(f"{value} {interval}".split()) + after in text, (key, quantity)
    for paragraph in swept.verdict.paragraphs:
        assert paragraph.opening in text
        assert paragraph.regime in text
    (address,) = re.findall('href="([^"]*)"', shown)
    assert Path(address).resolve() == finished / "report" / "report.html"
    assert repr(swept) == f"<Findings {finished}: {swept.verdict.headline}>"


def test_an_audit_shows_its_answer(audited):
    """The headline, the counts with their probability by chance, and the memorized fraction with its interval."""
    text, counts = text_of(audited._repr_html_()), audited.answer.counts
    assert text.startswith(audited.answer.headline)
    assert counts["discoveries"] > 0
    assert f"training images that samples depend on {counts['discoveries']} {counts['competition_p']:.2g} " in text
    assert f"samples flagged as copies {counts['flagged']} {counts['conformal_p']:.2g} " in text
    ends = [wording.number(counts[name]) for name in ("memorized_fraction", "low", "high")]
    assert f"memorized fraction {ends[0]} [{ends[1]}, {ends[2]}] (0) {counts['p']:.2g}" in text
    for sentence in audited.answer.sentences:
        assert sentence in text
    again = memgen.read_run(audited.path)
    assert repr(again) == repr(audited) == f"<Audit {audited.path}: {audited.answer.headline}>"
    assert again._repr_html_() == audited._repr_html_()


def test_what_is_shown_is_escaped(audited, swept, tmp_path, monkeypatch):
    """Names of folders and of models, and all texts, are shown as they are, and are never markup."""
    evil = "<script>alert(1)</script>&\"'"
    answer = replace(audited.answer, headline=evil, sentences=(evil,))
    folder = tmp_path / "<b>&\"' x"
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "report.html").touch()
    monkeypatch.chdir(tmp_path)
    paragraphs = tuple(replace(each, opening=evil) for each in swept.verdict.paragraphs)
    verdict = replace(swept.verdict, headline=evil, paragraphs=paragraphs)
    for found in (replace(audited, answer=answer, path=folder), replace(swept, verdict=verdict)):
        shown = found._repr_html_()
        assert "<script" not in shown
        assert "<b>" not in shown
        assert shown.count(html.escape("<script>alert(1)</script>")) >= 2
    (address,) = re.findall('href="([^"]*)"', replace(audited, path=folder)._repr_html_())
    assert address == "%3Cb%3E%26%22%27%20x/report/report.html"


def test_an_audit_without_held_out_images_shows_no_numbers(audited, digits, tmp_path):
    """It says that nothing can be concluded, above no table."""
    copied = shutil.copy(digits, tmp_path / "samples.npy")
    found = memgen.audit(copied, digits, outputs=tmp_path, name="alone")
    shown = found._repr_html_()
    assert text_of(shown).startswith("Undecided: without held-out images")
    assert "<table" not in shown


def test_colors_are_those_of_the_notebook(swept):
    """No color is set for texts and backgrounds, so that they can be read in the light and in the dark."""
    (style,) = re.findall("<style>(.*?)</style>", swept._repr_html_(), flags=re.DOTALL)
    for name, value in re.findall(r"[{;]\s*(color|background)\s*:\s*([^;}]+)", style):
        assert value.strip() == {"color": "inherit", "background": "none"}[name]
    assert all(rule.strip().startswith(".memgen") for rule in style.split("}") if rule.strip())


@pytest.mark.parametrize("kind", ["psnr", "neighbors", "subjects", "copies", "split"])
def test_tables_are_the_same_in_every_package(swept, kind):
    """Rows, columns, values and gaps of the table of pyarrow, as pandas and as polars."""
    arrow = swept.table(kind)
    assert arrow.num_rows > 0
    assert kind in swept.tables
    frame = swept.table(kind, as_="pandas")
    assert isinstance(frame, pd.DataFrame)
    assert pa.Table.from_pandas(frame, arrow.schema, preserve_index=False).equals(arrow)
    frame = swept.table(kind, as_="polars")
    assert isinstance(frame, pl.DataFrame)
    assert frame.rows(named=True) == arrow.to_pylist()


def test_tables_that_are_not_there(swept, audited):
    """A kind that does not exist, one that was not made, and another package are refused with a remedy."""
    with pytest.raises(ConfigError, match=r"found no table 'neighbours'.* Did you mean 'neighbors'\?"):
        swept.table("neighbours")
    with pytest.raises(RunError, match=r"has no table 'likelihood'; it has: .*psnr"):
        swept.table("likelihood")
    with pytest.raises(ConfigError, match="as_='dask': expected arrow, pandas or polars"):
        swept.table("psnr", as_="dask")
    assert audited.table("at_risk").num_rows > 0


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_package_that_is_missing_is_named_with_its_remedy(swept, monkeypatch, package):
    """The table of pyarrow is had without it."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ConfigError, match=rf"needs the package {package} .*pip install -c constraints.txt '.\[notebook\]'"
    ):
        swept.table("psnr", as_=package)
    assert swept.table("psnr").num_rows > 0


def test_figures_draw_the_tables_and_leave_matplotlib_alone(swept):
    """The curves of the transition are its estimates; no setting changes, and no window is opened."""
    before = dict(mpl.rcParams)
    assert {"transition", "psnr", "images"} <= set(swept.figures)
    figure = swept.figure("transition")
    assert dict(mpl.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    rows = transition.estimates(swept.transition)
    drawn = [line.get_xydata().tolist() for axes in figure.axes for line in axes.lines]
    for quantity in ("nearest_own", "cross_same", "memorized_fraction"):
        assert [[n, rows[n, quantity].estimate] for n in (1, 4)] in drawn, quantity
    assert swept.figure("transition") is not figure
    with pytest.raises(ConfigError, match=r"found no figure 'transitions'.* Did you mean 'transition'\?"):
        swept.figure("transitions")


def test_a_run_is_read_by_its_folder(finished, audited, tmp_path):
    """No run and an audit that is not finished are refused; the latter with the command that goes on with it."""
    with pytest.raises(RunError, match="has no run 'nothing'"):
        memgen.read_run(tmp_path / "nothing")
    shutil.copytree(audited.path, tmp_path / "half")
    (tmp_path / "half" / audit.DOCUMENT).unlink()
    with pytest.raises(RunError, match=r"the audit is not finished. To go on: memgen audit .* --run half"):
        memgen.read_run(tmp_path / "half")
    assert memgen.read_run(str(finished)).transition.equals(memgen.read_run(finished).transition)


@pytest.mark.slow
def test_in_a_real_notebook(finished, monkeypatch):
    """A cell that ends with a run shows it as HTML, and a figure as a picture."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cells = [f"%matplotlib inline\nimport memgen\nrun = memgen.read_run({str(finished)!r})\nrun"]
    cells.append("run.figure('transition')")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    shown, drawn = (cell.outputs[-1]["data"] for cell in book.cells)
    assert shown["text/html"].startswith('<div class="memgen">')
    assert shown["text/plain"].startswith("<Findings ")
    assert drawn["image/png"]
