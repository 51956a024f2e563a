"""The documentation says what is so: its blocks run, its commands exist, and its examples give what they show."""

import ast
import doctest
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import given
import numpy as np
import pages
import program
import pytest
from PIL import Image

from memgen.base.errors import MemgenError

# One page of the fastest blocks; all others are run by `python3 make.py docs`.
FAST = {"docs/sampling.md"}
# What a page needs to run, if it is not in every environment that tests memgen.
NEEDS = {"docs/tutorials/diffusers.md": ("diffusers",), "docs/tutorials/ray.md": ("ray",)}


@pytest.mark.parametrize("page", pages.PAGES)
def test_every_block_can_be_checked(page):
    """Each block names its language, and is right in it; each block that does not run says why."""
    for block in pages.blocks(page):
        assert block.language in pages.LANGUAGES, block
        if block.language == "python":
            ast.parse(block.text)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "toml":
            tomllib.loads(block.text)
        for name in block.given:
            assert name in {*given.MAKERS, *given.NAMES} or given.is_run(name), (block, name)


@pytest.mark.parametrize("page", pages.PAGES)
def test_every_command_exists(page):
    """Each command in a block or in a sentence has options and settings that memgen has, whether or not it is run."""
    for block in pages.blocks(page):
        for words in pages.commands(block.text if block.language == "bash" else ""):
            pages.check(pages.bare(words))
    for words in pages.inline_commands(page):
        pages.check(words, complete=False)


@pytest.mark.parametrize("page", pages.PAGES)
def test_every_script_exists(page):
    """Each script of the repository that a page calls is there, and reads the options that it is given."""
    text = (pages.ROOT / page).read_text().replace("\\\n", " ")
    for match in re.finditer(r"python3? ((?:benchmarks|examples|docs)/\w+\.py)([^`\n]*)", text):
        source = (pages.ROOT / match[1]).read_text()
        for option in re.findall(r"(?<!\S)(--[\w-]+)", match[2]):
            assert f'"{option}"' in source, (page, match[0], option)


def test_the_checks_can_fail():
    """A command with an unknown option, choice, setting or config is told from a right one."""
    pages.check(shlex.split("sweep --set sweep.n_train=[1,16] --config configs/smoke.toml"))
    for wrong in (
        "swep",
        "sweep --sett 1",
        "sweep --executor moon",
        "sweep --set sweep.n_trian=[1]",
        "sweep --config configs/none.toml",
        "audit S T --jobs zero",
        "weights",
    ):
        with pytest.raises((AssertionError, MemgenError)):
            pages.check(shlex.split(wrong))
    assert list(pages.commands("a && memgen sweep \\\n  --jobs 2 # why\nray exec c.yaml 'memgen demo --jobs 1'")) == [
        ["sweep", "--jobs", "2"],
        ["demo", "--jobs", "1"],
    ]


@pytest.fixture(scope="session")
def programs(tmp_path_factory) -> Path:
    """A folder with the programs that blocks call: memgen, python and python3, as they are here."""
    folder = tmp_path_factory.mktemp("bin")
    for name, call in (("memgen", "-m memgen"), ("python", ""), ("python3", "")):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def run_block(block: pages.Block, folder: Path, programs: Path, before: str) -> subprocess.CompletedProcess[str]:
    """Run a block in a folder as a person does, and return what it printed on both streams, in their order."""
    if block.kept_as:
        (folder / block.kept_as).write_text(block.text)
    environment = program.environment() | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(pages.ROOT),
        "COLUMNS": "100",
    }
    shell = ["bash", "-euo", "pipefail", "-c", block.text]
    command = shell if block.language == "bash" else [sys.executable, "-c", before + block.text]
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
    )


RUN = [page for page in pages.PAGES if any(block.runs for block in pages.blocks(page))]


@pytest.mark.timeout(1200)  # a page is a test, and may train, audit and draw
@pytest.mark.parametrize("page", [pytest.param(page, marks=[pytest.mark.slow] * (page not in FAST)) for page in RUN])
def test_the_blocks_of_a_page_run(page, tmp_path, programs, request):
    """Each block runs as it is written, one after the other in one folder, and prints what the page shows of it."""
    for package in NEEDS.get(page, ()):
        pytest.importorskip(package)
    (tmp_path / "docs").mkdir()
    for name in ("configs", "examples", "benchmarks", "docs/pictures.py"):
        (tmp_path / name).symlink_to(pages.ROOT / name)
    printed = ""
    for block in pages.blocks(page):
        if block.runs:
            before = given.make(block.given, tmp_path, lambda: request.getfixturevalue("finished"))
            done = run_block(block, tmp_path, programs, before)
            assert done.returncode == 0, f"{block}\n{block.text}\n{done.stdout}"
            printed = done.stdout
        elif block.language == "text" and printed and not block.not_run:
            assert shown(block.text, printed), f"{block}: not printed:\n{block.text}\nbut:\n{printed}"
    for picture in (tmp_path / "docs").rglob("*.png"):
        kept = pages.ROOT / picture.relative_to(tmp_path)
        assert difference(picture, kept) < 0.02, f"{kept} is not what the command beside it draws now"


def shown(text: str, printed: str) -> bool:
    """Whether a text was printed; spaces and ends of lines do not count, and three dots stand for what was left out."""
    pattern = ".*".join(re.escape(part.strip()) for part in " ".join(text.split()).split("..."))
    return re.search(pattern, " ".join(printed.split()), re.S) is not None


def difference(one: Path, other: Path) -> float:
    """The mean absolute difference of two pictures, 0 to 1; 1 if they differ in size."""
    with Image.open(one) as first, Image.open(other) as second:
        if first.size != second.size:
            return 1.0
        return float(np.abs(np.asarray(first.convert("L"), float) - np.asarray(second.convert("L"))).mean() / 255)


def test_what_is_shown_was_printed():
    """Spaces do not count, dots stand for what was left out, and anything else must have been printed."""
    assert shown("Found:  3 ... of 5", "Found: 3 things\n of   5, and more")
    assert not shown("Found: 3", "Found: 4")


DOCTESTS = [
    ".".join(path.relative_to(pages.ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((pages.ROOT / "memgen").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", DOCTESTS)
def test_examples_in_docstrings(name):
    """Each example of a docstring gives what it shows."""
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed
