"""The scripts in examples/ and the notebook run as they are; trainings for a few steps."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from program import environment

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS = {"train_pytorch.py": (), "train_diffusers.py": ("diffusers", "accelerate")}
# What the other scripts print last, without arguments.
PRINTS = {
    "audit_samples.py": ("Found: samples depend on ", "outputs/example-audit/report/report.html"),
    "medical_set.py": ("scans: 480 scans of 120 patients, and 150 generated images",),
    "own_space.py": (
        "correlation: 0% of the copies are found, and ",
        "edges: 100% of the copies are found, and ",
    ),
}

SLOW = {"audit_samples.py"}


def run(name, folder, *arguments):
    """What an example prints, in lines."""
    command = [sys.executable, EXAMPLES / name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment(), timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_example_is_run():
    """No script of the folder is left out."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*NEEDS, *PRINTS}


# `python3 make.py docs`, and so CI, runs all examples. What the slow ones call is also tested by test_monitor.py and
# test_audit.py.
@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_a_training_runs(name, tmp_path):
    """It takes its readings, draws them, and says what they show."""
    for package in NEEDS[name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    summary, picture = run(name, tmp_path, "--steps", "4", "--every", "2", "--out", "out")[-2:]
    assert summary.startswith("After 128 images seen, the PSNR on held-out images is ")
    assert (tmp_path / picture).exists()
    assert len(list((tmp_path / picture).parent.glob("0*.parquet"))) == 3


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in PRINTS])
def test_an_example_runs(name, tmp_path):
    """It prints what it promises."""
    printed = run(name, tmp_path)[-len(PRINTS[name]) :]
    for line, expected in zip(printed, PRINTS[name], strict=True):
        assert line.startswith(expected), line


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    """Each cell of the notebook runs; the audit finds the planted copies, and the training memorizes."""
    nbclient = pytest.importorskip("nbclient", reason="needs the extra docs")
    nbformat = pytest.importorskip("nbformat", reason="needs the extra docs")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(EXAMPLES / "first_look.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=200, resources={"metadata": {"path": tmp_path}}).execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    assert "Found: samples depend on " in printed
    assert "It began to memorize between " in printed
    shown = [output.get("data", {}) for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("The models memorize at N = 1" in data.get("text/html", "") for data in shown)
    assert any("image/png" in data for data in shown)


def test_the_notebook_is_kept_without_output():
    """Nothing that depends on a machine is committed, and every cell of code is in order and has run nowhere."""
    notebook = json.loads((EXAMPLES / "first_look.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
