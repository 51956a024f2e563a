"""The scripts in examples/ run as they are, for a few steps."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from program import environment

EXAMPLES = Path(__file__).parents[1] / "examples"
NEEDS = {"train_pytorch.py": (), "train_diffusers.py": ("diffusers", "accelerate")}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_runs(name, tmp_path):
    """It takes its readings, draws them, and says what they show."""
    for package in NEEDS[name]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    arguments = [sys.executable, EXAMPLES / name, "--steps", "4", "--every", "2", "--out", "out"]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=200)
    assert done.returncode == 0, done.stderr
    summary, picture = done.stdout.splitlines()[-2:]
    assert summary.startswith("After 128 images seen, the PSNR on held-out images is ")
    assert (tmp_path / picture).exists()
    assert len(list((tmp_path / picture).parent.glob("0*.parquet"))) == 3
