"""Fixtures of the tests that run the whole program: one tiny finished sweep, made once, and copies of it."""

import os
import shutil
from pathlib import Path

import program
import pytest
import torch
from unrendered import REPLACED


def pytest_configure() -> None:
    """One thread for each process of pytest-xdist, since the processes share the cores."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """A file of 80 handwritten digits, 8x8."""
    return program.write_digits(tmp_path_factory.mktemp("digits") / "digits.npy")


@pytest.fixture(scope="session")
def config(tmp_path_factory, digits) -> Path:
    """The configuration of the tiny sweep."""
    return program.write_config(tmp_path_factory.mktemp("config"), digits)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, config) -> Path:
    """The finished run `tiny`, made in this process without interruption, its pictures unrendered; only to be read."""
    outputs = tmp_path_factory.mktemp("finished") / "outputs"
    with pytest.MonkeyPatch.context() as patch:
        unrender(patch)
        program.memgen("sweep", "--config", config, "--outputs", outputs, "--run", "tiny", "--jobs", "1").done()
    return outputs / "tiny"


@pytest.fixture
def tiny(finished, tmp_path, monkeypatch) -> Path:
    """A copy of the finished run, the only one under outputs/ in the current folder."""
    run = tmp_path / "outputs" / "tiny"
    shutil.copytree(finished, run)
    monkeypatch.chdir(tmp_path)
    return run


@pytest.fixture
def unrendered(monkeypatch) -> None:
    """For tests that look at no picture: figures and charts are made, but not rendered."""
    unrender(monkeypatch)


def unrender(patch: pytest.MonkeyPatch) -> None:
    for name, instead in REPLACED.items():
        patch.setattr(name, instead)
