"""Models that a run does not copy: trust, what a run keeps of them, and what changes since are refused."""

import pickle
import sys

import numpy as np
import pytest
import torch
from program import memgen as command
from program import write_config, write_digits

import memgen
from memgen.base.errors import ConfigError, DataError
from memgen.models import foreign
from memgen.models.foreign import ImportOptions
from memgen.models.foreign.edm_pickle import EdmDenoiser

MADE = """
from pathlib import Path
import torch
import memgen

Path(__file__).with_name("ran").write_text("yes")

class Shrink(torch.nn.Module):
    image_shape, blind = (1, 8, 8), False
    def forward(self, noisy, sigma=None):
        return noisy / (1 + sigma.view(-1, 1, 1, 1) ** 2)

def make():
    return Shrink()

def of_nan():
    return memgen.FunctionDenoiser(lambda noisy, sigma: noisy * float("nan"), (1, 8, 8))

def too_small():
    return memgen.FunctionDenoiser(lambda noisy, sigma: noisy[..., 1:], (1, 8, 8))

def half():
    return memgen.FunctionDenoiser(lambda noisy, sigma: noisy.half(), (1, 8, 8))

def no_denoiser():
    return 7
"""
TRUSTED = ImportOptions(trust_code=True)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A module `theirs` in the working folder, not imported yet."""
    (tmp_path / "theirs.py").write_text(MADE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("theirs", None)


def test_a_function_runs_only_if_it_is_trusted(made):
    with pytest.raises(DataError, match=r"theirs:make: a function of Python, which runs code.*add --trust-code"):
        memgen.load_denoiser("theirs:make", (8, 8))
    assert not (made / "ran").exists()
    found = memgen.load_denoiser("theirs:make", (8, 8), TRUSTED)
    assert (made / "ran").exists()
    assert torch.equal(found(torch.ones(2, 1, 8, 8), torch.ones(2)), torch.full((2, 1, 8, 8), 0.5))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("of_nan", "gives NaN or infinity"),
        ("too_small", r"gives \(2, 1, 7, 8\)|gives \(2, 1, 8, 7\)"),
        ("half", "torch.float16"),
        ("no_denoiser", "made int, expected a denoiser"),
        ("missing", "failed"),
    ],
)
def test_functions_that_make_no_denoiser(made, function, message):
    with pytest.raises(DataError, match=message):
        memgen.load_denoiser(f"theirs:{function}", (8, 8), TRUSTED)


class Edm(torch.nn.Module):
    """As EDM's networks are called: D(x; s, labels), pixels in [-1, 1]."""

    def __init__(self, classes=0):
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = 8, 1, classes
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, sigma, class_labels=None):
        shift = 0 if class_labels is None else class_labels.argmax(dim=1).view(-1, 1, 1, 1) * class_labels.max()
        return self.scale * x / (1 + sigma.view(-1, 1, 1, 1) ** 2) + shift


class Evil:
    def __reduce__(self):
        return (open, ("ran-by-the-pickle", "w"))


def test_edm_pickles(tmp_path, monkeypatch):
    """Opened with --trust-code only; pixels in [0, 1] become [-1, 1] with twice the noise; a class by its label."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"ema": Evil()}))
    with pytest.raises(DataError, match="a pickle, which runs code"):
        memgen.load_denoiser("evil.pkl", (8, 8))
    assert not (tmp_path / "ran-by-the-pickle").exists()
    (tmp_path / "edm.pkl").write_bytes(pickle.dumps({"ema": Edm()}))
    found = memgen.load_denoiser("edm.pkl", (8, 8), TRUSTED)
    assert not found.training
    y, sigma = torch.rand(3, 1, 8, 8), torch.tensor([0.1, 0.5, 1.0])
    expected = ((2 * y - 1) / (1 + (2 * sigma.view(-1, 1, 1, 1)) ** 2) + 1) / 2
    assert torch.allclose(found(y, sigma), expected)
    with pytest.raises(DataError, match="Use --resize 8"):
        memgen.load_denoiser("edm.pkl", (16, 16), TRUSTED)
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"other": 1}))
    with pytest.raises(DataError, match="torch_utils and dnnlib"):
        memgen.load_denoiser("other.pkl", (8, 8), TRUSTED)
    labelled = EdmDenoiser(Edm(4), 3, tmp_path)
    free = EdmDenoiser(Edm(4), None, tmp_path)
    assert torch.allclose(labelled(y, sigma) - free(y, sigma), torch.tensor(1.5))
    with pytest.raises(ConfigError, match="the model has 4 classes"):
        EdmDenoiser(Edm(4), 4, tmp_path)
    (tmp_path / "classes.pkl").write_bytes(pickle.dumps({"ema": Edm(4)}))
    guided = memgen.load_denoiser("classes.pkl", (8, 8), ImportOptions(trust_code=True, label=3, guidance=2.5))
    assert torch.allclose(guided(y, sigma), free(y, sigma) + 2.5 * 1.5)
    assert not guided.training
    with pytest.raises(ConfigError, match="--guidance needs a class"):
        memgen.load_denoiser("classes.pkl", (8, 8), ImportOptions(trust_code=True, guidance=2.5))


def test_a_run_keeps_where_the_model_lies(made):
    """Imported with --trust-code, it has samples, PSNR, bases and a test for copies; a changed file is refused unrun."""
    source = write_digits(made / "digits.npy")
    config = write_config(made, source)
    command("data", "import", source, "--run", "mine", "--outputs", made, "--config", config).done()
    options = ("--run", "mine", "--outputs", made)
    np.save(made / "t.npy", np.load(source)[:20])
    arguments = ("import", "theirs:make", "--name", "theirs", "--trained-on", made / "t.npy", *options)
    command(*arguments).failed(3, "add --trust-code")
    done = command(*arguments, "--trust-code", "--json").done().json
    assert done["kind"] == "denoiser"
    command("sample", "--subject", "theirs", *options).done()
    command("psnr", "--subject", "theirs", *options).done()
    command("basis", "--subject", "theirs", *options).done()
    command("verdict", *options).done()
    (made / "ran").unlink()
    sys.modules.pop("theirs", None)
    (made / "theirs.py").write_text(MADE + "\n# changed\n")
    command("sample", "--subject", "theirs", "--count", 8, *options).failed(3, "changed since the model was imported")
    assert not (made / "ran").exists()


def test_every_source_is_of_one_format(tmp_path):
    """No two formats of order 0 accept a source, and a folder of pictures is none."""
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    readers = [form for form in foreign.all_formats() if form.reads(tmp_path)]
    assert [form.__name__.rpartition(".")[2] for form in readers] == ["diffusers_folder"]
    (tmp_path / "config.json").write_text('{"_class_name": "Other"}')
    assert not [form for form in foreign.all_formats() if form.reads(tmp_path)]
