"""Denoisers in TorchScript, torch.export and ONNX: they give what the network gives, and run nothing of their own."""

import importlib.util
import json
import warnings

import pytest
import torch
from torch import nn

import memgen
from memgen.base.errors import ConfigError, DataError
from memgen.measures.geometry import jacobian
from memgen.models import foreign
from memgen.models.foreign import ImportOptions

SHAPE = (3, 12, 10)
SIZE = SHAPE[1:]


class Shrinking(nn.Module):
    """A small denoiser in units of pixels in [0, 1], or what a network of other units predicts of the same images."""

    def __init__(self, predicts: str = "denoised", low: float = 0.0, high: float = 1.0, channels: int = 3):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.predicts, self.low, self.scale = predicts, low, high - low

    def forward(self, noisy, sigma):
        y, s = (noisy - self.low) / self.scale, (sigma / self.scale).view(-1, 1, 1, 1)
        denoised = torch.tanh(self.conv(y)) / (1 + s)
        if self.predicts == "denoised":
            return denoised * self.scale + self.low
        if self.predicts == "noise":
            return (y - denoised) / s
        return (y - denoised) * self.scale


class Blind(nn.Module):
    def __init__(self, residual: bool):
        super().__init__()
        self.inner, self.residual = Shrinking(), residual

    def forward(self, noisy):
        found = self.inner(noisy, torch.ones_like(noisy[:, 0, 0, 0]))
        return noisy - found if self.residual else found


def quietly(function, *arguments, **named):
    """A call of PyTorch's exporters, which warn about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **named)


def inputs(network):
    one = next(network.parameters()).shape[1]
    given = (torch.rand(3, one, *SIZE), torch.rand(3) + 0.1)
    return given[:1] if isinstance(network, Blind) else given


def as_script(network, path):
    quietly(lambda: torch.jit.script(network).save(str(path)))


def as_trace(network, path):
    quietly(lambda: torch.jit.trace(network, inputs(network)).save(str(path)))


def as_export(network, path):
    given, n = inputs(network), torch.export.Dim("n")
    shapes = tuple({0: n} for _ in given)
    quietly(lambda: torch.export.save(torch.export.export(network, given, dynamic_shapes=shapes), path))


def as_onnx(network, path):
    for package in ("onnxruntime", "onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    given, n = inputs(network), torch.export.Dim("n")
    shapes = tuple({0: n} for _ in given)
    quietly(torch.onnx.export, network, given, str(path), dynamo=True, dynamic_shapes=shapes, verbose=False)


FORMATS = {"net.ts": as_script, "net.pt": as_trace, "net.pt2": as_export, "net.onnx": as_onnx}


def units(path, **stated):
    path.with_name(f"{path.name}.json").write_text(json.dumps(stated))


@pytest.fixture
def network():
    return Shrinking().eval().requires_grad_(False)


@pytest.mark.parametrize("name", FORMATS)
def test_a_program_is_the_network(tmp_path, network, name):
    """The same denoised images, for any number of them; without --trust-code."""
    FORMATS[name](network, tmp_path / name)
    denoiser = memgen.load_denoiser(tmp_path / name, SIZE)
    assert (tuple(denoiser.image_shape), denoiser.blind) == (SHAPE, False)
    for count in (1, 2, 5):
        noisy, sigma = torch.rand(count, *SHAPE), torch.rand(count) + 0.05
        torch.testing.assert_close(denoiser(noisy, sigma), network(noisy, sigma), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("predicts", "low", "high"), [("noise", -1, 1), ("residual", -1, 1), ("denoised", 0, 255)])
def test_other_units_are_the_same_denoiser(tmp_path, network, predicts, low, high):
    """Networks that predict the noise or the residual, of pixels in other ranges, become the same denoised images."""
    as_export(Shrinking(predicts, low, high).eval().requires_grad_(False), tmp_path / "other.pt2")
    units(tmp_path / "other.pt2", predicts=predicts, pixels=[low, high])
    denoiser = memgen.load_denoiser(tmp_path / "other.pt2", SIZE)
    noisy, sigma = torch.rand(4, *SHAPE), torch.rand(4) + 0.05
    torch.testing.assert_close(denoiser(noisy, sigma), network(noisy, sigma), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("residual", [False, True])
def test_a_blind_program(tmp_path, residual):
    network = Blind(residual).eval().requires_grad_(False)
    as_trace(network, tmp_path / "blind.pt")
    if residual:
        units(tmp_path / "blind.pt", predicts="residual")
    denoiser, noisy = memgen.load_denoiser(tmp_path / "blind.pt", SIZE), torch.rand(2, *SHAPE)
    assert denoiser.blind
    torch.testing.assert_close(denoiser(noisy), network.inner(noisy, torch.ones(2)), atol=1e-6, rtol=1e-5)


def test_gray_images_are_tried_too(tmp_path):
    as_script(Shrinking(channels=1).eval(), tmp_path / "gray.ts")
    assert memgen.load_denoiser(tmp_path / "gray.ts", SIZE).image_shape == (1, *SIZE)


@pytest.mark.parametrize("name", ["net.pt", "net.pt2"])
def test_programs_have_derivatives(tmp_path, network, name):
    FORMATS[name](network, tmp_path / name)
    denoiser, noisy = memgen.load_denoiser(tmp_path / name, SIZE), torch.rand(1, *SHAPE)
    sigma, own = torch.tensor([0.3]), memgen.FunctionDenoiser(network, SHAPE)
    wanted, found = (jacobian.full(each, noisy, sigma) for each in (own, denoiser))
    torch.testing.assert_close(found, wanted)


def test_onnx_says_that_it_has_none(tmp_path, network):
    as_onnx(network, tmp_path / "net.onnx")
    denoiser = memgen.load_denoiser(tmp_path / "net.onnx", SIZE)
    with pytest.raises(DataError, match=r"net.onnx: ONNX Runtime gives no derivatives.*torch.export.save"):
        denoiser(torch.rand(1, *SHAPE).requires_grad_(), torch.ones(1))


class Writes(nn.Module):
    """Writes a file when it is called, with an operator of PyTorch."""

    def forward(self, noisy, sigma):
        torch.save(noisy, "written.pt")
        return noisy


class Sampled(nn.Module):
    def forward(self, a, b, c):
        return a + b + c


class Flat(nn.Module):
    def forward(self, noisy, sigma):
        return noisy.flatten(1)


class Undefined(nn.Module):
    def forward(self, noisy, sigma):
        return noisy / (noisy - noisy)


class Half(nn.Module):
    def forward(self, noisy, sigma):
        return noisy.half()


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Sampled(), "takes 3 tensors, expected noisy images and their noise levels"),
        (Flat(), r"gives \(2, 360\) of torch.float32|gives \(2, 120\)"),
        (Undefined(), "gives NaN or infinity"),
        (Half(), r"gives \(2, 1, 12, 10\) of torch.float16"),
        (Shrinking(channels=5), "fails on two images of 10 x 12 pixels"),
    ],
)
def test_what_is_no_denoiser_is_named(tmp_path, network, reason):
    as_script(network, tmp_path / "wrong.ts")
    with pytest.raises(DataError, match=rf"wrong.ts: {reason}"):
        memgen.load_denoiser(tmp_path / "wrong.ts", SIZE)


def test_a_program_that_touches_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    as_script(Writes(), tmp_path / "writes.ts")
    with pytest.raises(DataError, match=r"writes.ts: runs the operator aten::save, which memgen does not allow"):
        memgen.load_denoiser(tmp_path / "writes.ts", SIZE)
    assert not (tmp_path / "written.pt").exists()


def test_units_that_say_nothing_are_refused(tmp_path, network):
    as_script(network, tmp_path / "net.ts")
    for stated, reason in (({"predicts": "score"}, "predicts"), ({"pixels": [1, 0]}, "expected black below white")):
        units(tmp_path / "net.ts", **stated)
        with pytest.raises(ConfigError, match=reason):
            memgen.load_denoiser(tmp_path / "net.ts", SIZE)
    as_trace(Blind(residual=False), tmp_path / "blind.pt")
    units(tmp_path / "blind.pt", predicts="noise")
    with pytest.raises(
        DataError, match=r"blind.pt: takes no noise levels, so it cannot predict noise of unit variance"
    ):
        memgen.load_denoiser(tmp_path / "blind.pt", SIZE)


def test_units_under_another_name_are_not_passed_over(tmp_path, network):
    """Units of net.pt in net.json would be read by nobody; what else stands in such a file is not memgen's business."""
    as_trace(network, tmp_path / "net.pt")
    other = tmp_path / "net.json"
    other.write_text('{"predicts": "noise"}')
    with pytest.raises(DataError, match=r"net.json: states units, but those of net.pt are read from net.pt.json"):
        memgen.load_denoiser(tmp_path / "net.pt", SIZE)
    for text in ('{"width": 32, "predicts": "noise"}', "[1]", "{", "{}"):
        other.write_text(text)
        assert memgen.load_denoiser(tmp_path / "net.pt", SIZE).units.predicts == "denoised"
    other.write_text('{"predicts": "noise"}')
    units(tmp_path / "net.pt", predicts="residual")
    assert memgen.load_denoiser(tmp_path / "net.pt", SIZE).units.predicts == "residual"


def test_options_that_a_format_does_not_read_are_refused(tmp_path, network):
    as_script(network, tmp_path / "net.ts")
    with pytest.raises(ConfigError, match=r"net.ts: the option label does nothing with a program of torch.export"):
        foreign.load(tmp_path / "net.ts", SIZE, ImportOptions(label=3))
