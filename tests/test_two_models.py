"""memgen compare of two models of files: itself, two whose distance is known, and what is refused."""

import shutil
import sys

import numpy as np
import pytest
import torch
from program import memgen as command
from program import write_digits

from memgen.experiment import runs
from memgen.models import checkpoints, networks
from memgen.models.networks import UNetSettings

pytestmark = pytest.mark.usefixtures("unrendered")

MADE = """
import memgen

def shrinking(share):
    return memgen.FunctionDenoiser(lambda noisy, sigma: share * noisy, (1, 8, 8))

def half():
    return shrinking(0.5)

def third():
    return shrinking(1 / 3)
"""
FEW = ("--count", 6, "--set", "sample.method=heun", "--set", "sample.steps=4", "--set", "basis.n_images=2")


@pytest.fixture
def folder(tmp_path):
    write_digits(tmp_path / "digits.npy", 40)
    torch.manual_seed(0)
    settings = UNetSettings(architecture="unet", blocks=1, width=4)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        network = networks.build(settings, (1, 8, 8)).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        checkpoints.save(tmp_path / name / "net.safetensors", network, settings, {})
    return tmp_path


def test_a_model_and_itself(folder):
    """Similarity 1, bits 0, and the same bases; the same command goes on in its run and draws nothing again."""
    shutil.copytree(folder / "one", folder / "copy")
    sources = (folder / "one" / "net.safetensors", folder / "copy" / "net.safetensors")
    arguments = ("compare", *sources, "--images", folder / "digits.npy", *FEW, "--outputs", folder, "--bases", "--json")
    done = command(*arguments).done()
    found = done.json["summary"]
    assert done.json["subjects"] == ["net-1", "net-2"]
    assert found["samples from the same noise"]["estimate"] == pytest.approx(1)
    assert found["samples from different noise"]["estimate"] < 0.9999
    assert (
        found["bits per dimension"]["estimate"] == found["V, mean squared difference of the denoisers"]["estimate"] == 0
    )
    assert found["overlap of the bases at noise 0.1"]["estimate"] == pytest.approx(1, abs=1e-4)
    assert 0 < found["expected of random bases at noise 0.1"]["estimate"] <= 1
    (run,) = runs.list_runs(folder)
    before = {path: path.stat().st_mtime_ns for path in (run.path / "samples").iterdir()}
    assert len(before) == 2
    assert command(*arguments).done().json == done.json
    assert {path: path.stat().st_mtime_ns for path in (run.path / "samples").iterdir()} == before
    assert len(runs.list_runs(folder)) == 1


def test_two_functions_whose_difference_is_known(folder, monkeypatch):
    """f = y / 2 and f = y / 3 differ by (y / 6)^2: V is its mean over noisy held-out images."""
    monkeypatch.chdir(folder)
    (folder / "linear.py").write_text(MADE)
    try:
        arguments = ("compare", "linear:half", "linear:third", "--images", "digits.npy", *FEW, "--outputs", "o")
        command(*arguments).failed(3, "add --trust-code")
        done = command(*arguments, "--trust-code", "--json").done()
    finally:
        sys.modules.pop("linear", None)
    assert done.json["subjects"] == ["linear-half", "linear-third"]
    run = runs.find(folder / "o", None)
    rows = run.table("distances").to_pandas()
    rows = rows[rows.kind == "models"]
    digits = np.load("digits.npy") / 255
    for sigma, each in rows.groupby("sigma"):
        wanted = (np.mean(digits**2) + sigma**2) / 36
        assert each.value.mean() == pytest.approx(wanted, rel=0.15), sigma


def test_what_is_refused(folder):
    """Every wrong combination is named, and another model under the same name in the same run too."""
    one, two = (folder / name / "net.safetensors" for name in ("one", "two"))
    images, outputs = ("--images", folder / "digits.npy"), ("--outputs", folder)
    command("compare", one, *images, *outputs).failed(2, "expected two names")
    command("compare", one, two, *outputs).failed(2, "add --images FOLDER")
    command("compare", *images, *outputs).failed(2, "--images is for two models of files")
    command("compare", one, folder / "digits.npy", *images, *outputs).failed(
        2, "digits.npy: not a model that memgen reads"
    )
    command("compare", "a", "b", "--count", 3, *outputs).failed(2, "--count is for two models of files")
    command("compare", "--bases", "--n", 3, *outputs).failed(4)
    shutil.copytree(folder / "one", folder / "other")
    named = (*images, *FEW, *outputs, "--run", "mine")
    command("compare", one, two, *named).done()
    command("compare", folder / "other" / "net.safetensors", two, *named).failed(
        2, "has another model of the name net-1"
    )
    np.save(folder / "color.npy", np.arange(12 * 192, dtype=np.uint8).reshape(12, 8, 8, 3))
    command("compare", one, two, "--images", folder / "color.npy", *FEW, *outputs).failed(
        3, "takes images of 1 channels"
    )


@pytest.mark.parametrize(("text", "name"), [
    ("n4-s0-a", "model-n4-s0-a"), ("my net (2)", "my-net-2-"), ("..", "model-"), ("linear:half", "linear-half"),
])  # fmt: skip
def test_names_of_subjects_like_those_of_files(text, name):
    assert runs.name_like(text) == name
    assert runs.is_name(name)
