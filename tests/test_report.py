"""The report: self-contained, complete in words when data is missing, and every number in its place."""

import re
from html.parser import HTMLParser

import numpy as np
import pyarrow.compute as pc
import pytest
import synthetic_run

from memgen.base import schemas, tables, wording
from memgen.findings import levels, transition, verdict
from memgen.report.page import ReportInput, render, write
from memgen.report.sheets import Copies

MANIFEST = {"config": {"train": {"steps": 600}}, "git": {"commit": "abc<script>"}, "sizes": [1, 4], "cells": [{"n": 1}]}


@pytest.fixture(scope="module")
def full() -> ReportInput:
    run = synthetic_run.run()
    skipped = tables.make(schemas.SKIPPED, {"source": ["<b>.png"], "reason": ["truncated"]})
    summary = transition.summarize(run.tables, 0, resamples=200)
    made = {"transition": summary, "levels": levels.summarize(run.tables, 0), "skipped": skipped}
    found = Copies("N = 4  A", 5, run.samples[4, "a"][:3], run.sets["a"][:3], np.array([0.99, 0.98, np.nan]))
    return ReportInput("A run", MANIFEST, {**run.tables, **made}, run.specimens(), 256, copies=[found])


@pytest.fixture(scope="module")
def page(full) -> str:
    return render(full)


class Page(HTMLParser):
    """What a page shows: its addresses, and by section its tables, pictures and text; elements must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []
        self.scripts = 0
        self.section = ""
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.pictures: dict[str, list[str]] = {}
        self.words: dict[str, str] = {}
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
        self.scripts += tag == "script"
        if tag in ("section", "h2") and "id" in given:
            self.section = given["id"]
        here = self.tables.setdefault(self.section, [])
        if tag == "table":
            here.append([])
        elif tag == "tr":
            here[-1].append([])
        elif tag in ("td", "th"):
            here[-1][-1].append("")
        elif tag == "img":
            self.pictures.setdefault(self.section, []).append(given["alt"])
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words[self.section] = self.words.get(self.section, "") + data
        if {"td", "th"} & set(self.open):
            cell = self.tables[self.section][-1][-1]
            cell[-1] += (" " if cell[-1] and data.strip() else "") + data.strip()


def test_page_loads_nothing(page):
    """Every address on the page is a data address; there is no script and no imported style."""
    parser = Page(page)
    assert parser.scripts == 0
    data, within = ([a for a in parser.found if a.startswith(start)] for start in ("data:", "#"))
    assert len(data) == 8
    assert len(data) + len(within) == len(parser.found)
    assert within
    assert all(f'id="{address[1:]}"' in page for address in within)
    assert "http://" not in page
    assert "https://" not in page
    assert "@import" not in page
    assert not re.search(r"url\(", page)


def test_page_says_the_verdict_with_its_numbers(full, page):
    """Headline, sentences and every estimate of the table are on the page."""
    found = verdict.verdict(full.tables["transition"], full.tables["copies"])
    text = page.replace("&#39;", "'")
    assert found.headline in text
    sentences = [sentence for paragraph in found.paragraphs for sentence in paragraph.sentences]
    assert all(sentence in text for sentence in (*sentences, *found.points, found.unconverged, found.caveat))
    for (n, _), row in transition.estimates(full.tables["transition"]).items():
        if n is not None and row.estimate is not None:
            assert wording.number(row.estimate, row.unit) in page
    assert "4 of 192" in page
    assert "12,800" in page


def test_text_from_outside_is_escaped(page):
    """File names and manifest values cannot become markup."""
    assert "abc&lt;script&gt;" in page
    assert "&lt;b&gt;.png" in page
    assert "config.train.steps" in page
    assert "cells[0].n" in page


def test_same_input_same_page(full):
    """Rendering a small report twice gives the same page, pictures included."""
    table = full.tables["psnr"]
    small = ReportInput("x", MANIFEST, {"psnr": table.filter(pc.equal(table["n_train"], 4))})
    assert render(small) == render(small)


def test_files(full, tmp_path):
    """The page and each figure in three formats are written, and their paths returned."""
    small = ReportInput("x", {}, {"psnr": full.tables["psnr"]})
    paths = write(small, tmp_path)
    names = [path.relative_to(tmp_path).as_posix() for path in paths]
    assert names == ["report.html", "figures/psnr.png", "figures/psnr.svg", "figures/psnr.pdf"]
    assert all(path.stat().st_size > 1000 for path in paths)


@pytest.mark.parametrize("name", ["psnr", "samples", "similarity", "neighbors", "distances", "copies"])
def test_one_table_alone_makes_a_page(name):
    """A run that measured one thing at one N gets a page that says what is missing."""
    run = synthetic_run.run().tables
    one = {name: run[name].filter([n == 16 for n in run[name]["n_train"].to_pylist()])}
    page = render(ReportInput("x", {}, {**one, "transition": transition.summarize(one, 0, resamples=50)}))
    assert "There are no samples with their nearest training images." in page
    assert ("Denoising PSNR was not measured." in page) == (name != "psnr")


def test_what_a_run_is_stands_on_the_page_once():
    """The head of the config file is shown as text, and not again among the settings; shuffling is said."""
    manifest = {"about": "Figure 5 <at CPU size>", "config": {"data": {"shuffle": True}}}
    page = render(ReportInput("x", manifest, {}))
    assert page.count("Figure 5 &lt;at CPU size&gt;") == 1
    assert "were shuffled alike" in page
    assert "were shuffled alike" not in render(ReportInput("x", {"config": {}}, {}))


def test_the_training_budget_of_every_model():
    """Steps, images seen and seconds are those of the last record; each image was seen as often as that makes."""
    run = synthetic_run.run().tables["training"]
    found = Page(render(ReportInput("x", {}, {"training": run}))).tables["budget"][0]
    assert found[1] == ["n1-s0-a", "1", "200", "12,800", "12,800", "8.0"]
    assert found[4] == ["n4-s0-b", "4", "200", "12,800", "3,200", "8.0"]
    assert found[-1] == ["n1024-s0-b", "1,024", "200", "12,800", "12.5", "8.0"]
    assert len(found) == 13


def test_nothing_at_all_makes_a_page():
    """An empty run gets a page that says so."""
    page = render(ReportInput("Nothing", {}, {}))
    assert "No verdict" in page
    assert "No manifest was recorded." in page
