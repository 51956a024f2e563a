"""Spaces from files: embedders of every format, their preprocessing, spaces of other packages, and LPIPS as a space.

The models are made on the spot. Formats that need a package skip without it (extras onnx, timm, clip, transformers).
The numbers of LPIPS and of imgsim need their files, named by MEMGEN_LPIPS_TRUNK, MEMGEN_LPIPS_TRUNK_VGG and
MEMGEN_IMGSIM: docs/lpips.md and docs/spaces.md say where to get them.
"""

import importlib.util
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from memgen import spaces
from memgen.base import optional
from memgen.base.errors import ConfigError, DataError, ShapeError
from memgen.spaces import embedders, preprocessing
from memgen.spaces.embedders import Source
from memgen.spaces.embedders.copy_detection import _Network
from memgen.spaces.index import Index
from memgen.spaces.learned import Vectors
from memgen.spaces.lpips import lpips_distance
from memgen.spaces.preprocessing import Preprocessing

PREPARED = {"side": 24, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic"}


class Small(nn.Module):
    """A convolution, a normalization and a few attention-like products, (N, 3, H, W) to (N, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.Linear(8, 12)
        self.register_buffer("token", torch.ones(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        x = torch.softmax(x @ x.transpose(1, 2) / 3, dim=-1) @ x
        first, second = self.linear(x).chunk(2, dim=-1)
        return torch.cat([first[:, 0] * 2.0, second.mean(dim=1)], dim=-1)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Small()
        network.norm.running_mean.uniform_(-0.1, 0.1)
    return network.eval().requires_grad_(False)


def images(n: int, shape: tuple[int, ...] = (3, 16, 16), seed: int = 0) -> Tensor:
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed))


def needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def published(variable: str) -> Path:
    if not os.environ.get(variable):
        pytest.skip(f"{variable} does not name a file (see docs/spaces.md)")
    return Path(os.environ[variable])


def quietly(function, *arguments, **named):
    """A call of PyTorch's exporters, which warn about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **named)


def stated(path: Path, **fields) -> Path:
    path.with_name(path.name + ".json").write_text(json.dumps(PREPARED | fields))
    return path


def as_torchscript(network: nn.Module, path: Path) -> Path:
    quietly(lambda: torch.jit.script(network).save(str(path)))
    return stated(path)


def as_trace(network: nn.Module, path: Path) -> Path:
    quietly(lambda: torch.jit.trace(network, torch.zeros(2, 3, 24, 24)).save(str(path)))
    return stated(path)


def as_export(network: nn.Module, path: Path) -> Path:
    shapes = ({0: torch.export.Dim("n")},)
    quietly(
        lambda: torch.export.save(
            torch.export.export(network, (torch.zeros(3, 3, 24, 24),), dynamic_shapes=shapes), path
        )
    )
    return stated(path)


def as_onnx(network: nn.Module, path: Path) -> Path:
    needs("onnxruntime", "onnx", "onnxscript")
    quietly(
        torch.onnx.export,
        network,
        (torch.zeros(3, 3, 24, 24),),
        str(path),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("n")},),
        verbose=False,
    )
    return stated(path)


FORMATS = {
    "small.ts": as_torchscript,
    "small.torchscript.pt": as_trace,
    "small.pt2": as_export,
    "small.onnx": as_onnx,
}


def unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors.detach().double(), dim=1)


# ------------------------------------------------------------------------------------------------ the formats


@pytest.mark.parametrize("name", FORMATS)
def test_vectors_are_those_of_the_network(small, tmp_path, name):
    """A file gives the network's own vectors, scaled to length 1; a row depends on that row alone; values are cosines."""
    path = FORMATS[name](small, tmp_path / name)
    space = spaces.find(f"mine={path}")
    assert isinstance(space, spaces.Space)
    assert (space.name, space.larger_is_closer) == ("mine", True)
    x, y = images(7), images(7, seed=1)
    found = space.embed(x)
    expected = [unit(small(torch.cat([Preprocessing(**PREPARED)(image) for image in batch]))) for batch in (x, y)]
    assert (found.dtype, found.shape) == (torch.float32, (7, 12))
    assert (found - expected[0]).abs().max() < 1e-5
    assert unit(found).sub(found).abs().max() < 1e-7
    value = space.paired(x, y)
    assert value.dtype == torch.float64
    assert (value - (expected[0] * expected[1]).sum(dim=1)).abs().max() < 1e-5
    assert (value - (found.double() * space.embed(y).double()).sum(dim=1)).abs().max() < 1e-6
    assert torch.equal(space.paired(x, x), torch.ones(7, dtype=torch.float64))
    fresh = embedders.space("mine", str(path))  # without the vectors that the other has kept
    assert torch.equal(fresh.embed(x[4:5]), found[4:5])
    assert torch.equal(fresh.embed(torch.cat([y[:2], x[2:4]]))[2:], found[2:4])
    assert torch.equal(fresh.paired(x[5:], y[5:]), value[5:])


def test_a_search_in_an_embedder_is_exact(small, tmp_path):
    """Neighbors are those of all values, and a saved index is read with its space, and refused with another."""
    path = as_trace(small, tmp_path / "small.pt")
    space, references, queries = spaces.find(f"mine={path}"), images(60), images(4, seed=1)
    ids = [str(i) for i in range(60)]
    index = Index.build(references, ids, space, "train", backend="torch")
    value = torch.stack([space.paired(query.expand(60, -1, -1, -1), references) for query in queries])
    best, order = value.sort(dim=1, descending=True)
    hits = index.search(queries, 3)
    assert hits.reference_index.tolist() == order[:, :3].tolist()
    assert hits.value.tolist() == best[:, :3].tolist()
    index.save(tmp_path / "kept")
    again = Index.load(tmp_path / "kept", "torch", space=space).search(queries, 3)
    assert again.value.tolist() == hits.value.tolist()
    with pytest.raises(ConfigError, match="unknown metric 'mine'"):
        Index.load(tmp_path / "kept", "torch")
    other = spaces.find(f"mine={as_trace(Small().eval(), tmp_path / 'other.pt')}")
    for wrong in (other, spaces.find("correlation")):
        with pytest.raises(DataError, match="built in another space"):
            Index.load(tmp_path / "kept", "torch", space=wrong)


def test_what_is_recorded(small, tmp_path):
    """The record identifies the file, the versions and the preprocessing, and is JSON."""
    path = as_trace(small, tmp_path / "small.pt")
    record = spaces.find(f"mine={path}").record
    assert json.loads(json.dumps(record)) == record
    assert record["format"] == "torchscript"
    assert list(record["digests"]) == ["small.pt"]
    assert record["torch"] == torch.__version__
    assert record["preprocessing"]["mean"] == PREPARED["mean"]
    assert str(tmp_path) not in json.dumps(record)
    stated(path, side=32)
    assert spaces.find(f"mine={path}").record["preprocessing"]["side"] == 32  # so it was made again


def test_a_network_without_a_batch_axis_of_its_own(small, tmp_path):
    """An export that takes exactly one image at a time is as good."""
    path = tmp_path / "one.pt2"
    quietly(lambda: torch.export.save(torch.export.export(small, (torch.zeros(1, 3, 24, 24),)), path))
    expected = unit(small(torch.cat([Preprocessing(**PREPARED)(image) for image in images(3)])))
    assert (spaces.find(f"one={stated(path)}").embed(images(3)) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("arch", ["resnet18", "vit_tiny_patch16_224"])
def test_timm(tmp_path, arch):
    """A file of weights with its classifier gives what timm gives without it; a folder states its preprocessing."""
    needs("timm", "torchvision")
    timm = optional.package("timm", "timm", "a test", torchvision=True)
    whole = quietly(timm.create_model, arch, num_classes=10).eval()
    path = tmp_path / "weights.pth"
    torch.save(whole.state_dict(), path)
    published = spaces.find(f"mine=timm:{arch}={path}").record["preprocessing"]
    assert published["side"] == 224
    assert published["shorter"] > 224
    stated(path, side=32)
    headless = timm.create_model(arch, num_classes=0, **({"img_size": 32} if "vit" in arch else {})).eval()
    state = {name: value for name, value in whole.state_dict().items() if name.partition(".")[0] not in ("fc", "head")}
    translate = getattr(sys.modules[type(headless).__module__], "checkpoint_filter_fn", lambda state, network: state)
    headless.load_state_dict(translate(state, headless))
    x = torch.cat([Preprocessing(**(PREPARED | {"side": 32}))(image) for image in images(3)])
    assert (spaces.find(f"mine=timm:{arch}={path}").embed(images(3)) - unit(headless(x))).abs().max() < 1e-5
    folder = tmp_path / "folder"
    folder.mkdir()
    path.rename(folder / "pytorch_model.bin")
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architecture": arch,
                "num_classes": 10,
                "model_args": {"num_classes": 10},
                "pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.8, "mean": [0.5] * 3},
            }
        )
    )
    found = spaces.find(f"mine={folder}").record["preprocessing"]
    assert (found["shorter"], found["mean"]) == (280, [0.5] * 3)
    for wrong, reason in (("hf-hub:timm/resnet18", "no architecture"), ("resnet34", "weights are not those")):
        with pytest.raises(DataError, match=reason):
            spaces.find(f"mine=timm:{wrong}={folder / 'pytorch_model.bin'}")


def test_open_clip(tmp_path):
    """The image tower gives what open_clip gives for images; weights alone do not state the preprocessing."""
    needs("open_clip", "torchvision")
    clip = optional.package("open_clip", "clip", "a test", torchvision=True)
    vision = {"image_size": 24, "layers": 2, "width": 64, "patch_size": 8}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": {"layers": 1, "width": 32, "heads": 2}}
    network = clip.model.CLIP(**config).eval()
    folder = tmp_path / "folder"
    folder.mkdir()
    stating = {"mean": PREPARED["mean"], "std": PREPARED["std"], "interpolation": "bicubic", "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": stating}))
    torch.save(network.state_dict(), folder / "open_clip_pytorch_model.bin")
    x = torch.cat([Preprocessing(**PREPARED)(image) for image in images(3)])
    assert (spaces.find(f"mine={folder}").embed(images(3)) - unit(network.encode_image(x))).abs().max() < 1e-5
    weights = shutil.copy(folder / "open_clip_pytorch_model.bin", tmp_path / "weights.pt")
    with pytest.raises(DataError, match=r"does not say how images are prepared.*weights\.pt\.json"):
        spaces.find(f"mine=open_clip:ViT-B-32={weights}")
    stated(Path(weights))
    for wrong, reason in (("ViT-B-32", "weights are not those"), ("hf-hub:org/model", "no architecture")):
        with pytest.raises(DataError, match=reason):
            spaces.find(f"mine=open_clip:{wrong}={weights}")


def test_transformers(tmp_path):
    """A folder gives what transformers calls pooled, prepared as its image processor does, up to 8 bits."""
    needs("transformers")
    has_torchvision = importlib.util.find_spec("torchvision") is not None
    transformers = optional.package("transformers", "transformers", "a test", has_torchvision)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    network = transformers.Dinov2Model(config).eval()
    quietly(network.save_pretrained, tmp_path / "folder")
    processor = {"size": {"shortest_edge": 30}, "crop_size": {"height": 28, "width": 28}, "do_center_crop": True,
                 "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "image_processor_type": "BitImageProcessor"}  # fmt: skip
    (tmp_path / "folder" / "preprocessor_config.json").write_text(json.dumps(processor))
    space = spaces.find(f"mine={tmp_path / 'folder'}")
    fields = {
        "side": 28,
        "fit": "crop",
        "shorter": 30,
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    assert fields.items() <= space.record["preprocessing"].items()
    x = torch.cat([Preprocessing(**fields)(image) for image in images(3)])
    assert (space.embed(images(3)) - unit(network(pixel_values=x).pooler_output)).abs().max() < 1e-5
    (tmp_path / "folder" / "preprocessor_config.json").write_text(json.dumps(processor | {"do_pad": True}))
    with pytest.raises(DataError, match="do_pad is set"):
        spaces.find(f"mine={tmp_path / 'folder'}")


def resnet(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _Network(768).eval()


def test_imgsim_has_its_names_and_shapes(tmp_path):
    """A file with the names of the package is read without its prefix, at 350 pixels unless a JSON file says less."""
    network, path = resnet(), tmp_path / "model.pth"
    names = list(network.state_dict())
    assert len(names) == 320
    assert {"pre.conv1.weight", "pre.layer4.2.bn3.num_batches_tracked", "pre.layer1.0.downsample.1.bias"} <= set(names)
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, path)
    assert embedders.load(Source.of(str(stated(path)))).preprocessing.side == 24
    x = torch.cat([Preprocessing(**PREPARED)(image) for image in images(2)])
    found = spaces.find(f"imgsim={path}")
    with torch.no_grad():
        assert (found.embed(images(2)) - unit(network(x))).abs().max() < 1e-5
    torch.save({"pre.conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="not those of imgsim"):
        spaces.find(f"imgsim={path}")


def test_imgsim_finds_flipped_and_cropped_photographs():
    """The published weights find the mirrored copy of each of 8 textures that pixels do not find."""
    space = spaces.find(f"imgsim={published('MEMGEN_IMGSIM')}")
    assert space.record["digests"] == {"model.pth": "c2cb3cac82642c56"}
    data = pytest.importorskip("skimage.data")
    found = [np.array(Image.fromarray(getattr(data, name)()).convert("RGB").resize((64, 64))) for name in
             ("astronaut", "cat", "coffee", "rocket", "camera", "coins")]  # fmt: skip
    x = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2) / 255
    references = space.embed(x)
    for copy in (x.flip(3), nn.functional.interpolate(x[:, :, 6:, 6:], (64, 64), mode="bilinear")):
        assert (space.embed(copy) @ references.T).argmax(dim=1).tolist() == list(range(len(x)))


# ------------------------------------------------------------------------------------------------ preprocessing


def test_preprocessing_is_that_of_8_bit_pipelines():
    """Resizing equals Pillow's on 8-bit images up to their rounding, for every method, larger and smaller."""
    x = (images(1, (3, 40, 30))[0] * 255).round()
    for method in ("nearest", "bilinear", "bicubic", "lanczos", "box"):
        for side in (17, 64):
            prepare = Preprocessing(side=side, interpolation=method, mean=[0] * 3, std=[1] * 3)
            picture = Image.fromarray(x.permute(1, 2, 0).byte().numpy())
            expected = np.asarray(picture.resize((side, side), Image.Resampling[method.upper()])) / 255
            assert np.abs(prepare(x / 255)[0].permute(1, 2, 0).numpy() - expected).max() < 1.6 / 255


def test_preprocessing_fits_and_orders_channels():
    """Squashing, cutting out the center and keeping all; gray, blue first, 0 to 255, mean and std."""
    x = images(1, (3, 12, 24))[0]
    plain = {"mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "nearest"}
    assert Preprocessing(side=12, fit="whole", **plain)(x).equal(x[None])
    assert Preprocessing(side=6, fit="crop", shorter=12, **plain)(x).equal(x[None, :, 3:9, 9:15])
    assert Preprocessing(side=12, **plain)(x).shape == (1, 3, 12, 12)
    assert Preprocessing(side=12, fit="whole", channels="BGR", **plain)(x).equal(x.flip(0)[None])
    shifted = plain | {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 4.0]}
    expected = (x * 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    assert Preprocessing(side=12, fit="whole", range=255, **shifted)(x).allclose(expected[None])
    gray = Preprocessing(side=12, fit="whole", channels="L", mean=[0.0], std=[1.0], interpolation="nearest")
    assert gray(x)[0, 0].allclose(x[0] * 0.299 + x[1] * 0.587 + x[2] * 0.114)
    assert gray(x[:1]).equal(x[None, :1])
    assert Preprocessing(side=12, fit="whole", **plain)(x[:1]).equal(x[None, :1].expand(-1, 3, -1, -1))
    assert Preprocessing(side=12, fit="whole", **plain)(x * 3 - 1).max() == 1
    with pytest.raises(ShapeError, match="expected \\(C, H, W\\) with C = 1 or 3"):
        gray(x[:2])


def test_preprocessing_must_be_stated(small, tmp_path):
    """Without a statement the error says what to write and where; a wrong one names each field."""
    path = as_trace(small, tmp_path / "small.pt")
    beside = preprocessing.path_beside(path)
    for text, reason in [
        ('{"side": 24}', "mean: Field required; std: Field required"),
        ('{"side": 24, "mean": [0], "std": [1]}', "found 1 mean and 1 std, expected 3"),
        ('{"side": 24, "mean": [0, 0, 0], "std": [1, 1, 0]}', "numbers above 0"),
        ('{"side": 24, "mean": [0, 0, 0], "std": [1, 1, 1], "crop": 2}', "crop: Extra inputs"),
        ('{"side": 24, "mean": [0, 0, 0], "std": [1, 1, 1], "fit": "crop"}', "shorter belongs to fit = crop"),
        ('{"side": 24, "mean": [0, 0, 0], "std": [1, 1, 1], "fit": "crop", "shorter": 9}', "at least side"),
        ("[1]", "fields: Input should be"),
        ("side = 24", "Expecting value"),
    ]:
        beside.write_text(text)
        with pytest.raises(DataError, match=rf"small\.pt\.json: .*{reason}.*An example: \{{\"side\": 224"):
            spaces.find(f"mine={path}")
    beside.unlink()
    with pytest.raises(DataError, match=r"does not say how images are prepared.*into .*small\.pt\.json, such as"):
        spaces.find(f"mine={path}")


# ------------------------------------------------------------------------------------------------ unusable networks


class Wrong(nn.Module):
    """The mean of each channel, made wrong in one way."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.weight = way, nn.Parameter(torch.ones(1, dtype=torch.float16))

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "nan":
            return x.mean(dim=(2, 3)) / 0 - x.mean(dim=(2, 3)) / 0
        if self.way == "shape":
            return x
        if self.way == "one":
            return x.mean(dim=(0, 2, 3))
        if self.way == "half":
            return x.mean(dim=(2, 3)).half() * self.weight
        if self.way == "random":
            return torch.rand_like(x).mean(dim=(2, 3))
        if self.way == "constant":
            return torch.ones_like(x).mean(dim=(2, 3))
        return x[:, :, 100:].max(dim=2)[0]


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("nan", "returns NaN or infinity"),
        ("shape", r"shape \(1, 3, 24, 24\) for one image, expected \(1, d\)"),
        ("one", r"shape \(3,\) for one image"),
        ("half", r"returns torch\.float16, expected torch\.float32"),
        ("random", "different vectors for the same image"),
        ("constant", "same vector for two different images"),
        ("fails", r"fails on an input of shape \(1, 3, 24, 24\)"),
    ],
)
@pytest.mark.parametrize("save", [as_trace, as_export])
def test_unusable_networks_are_named(tmp_path, save, way, reason):
    """What a network does wrong is said, with its file, when it is loaded."""
    if (save, way) == (as_export, "fails"):
        pytest.skip("torch.export refuses it itself")
    if (save, way) == (as_trace, "fails"):
        save = as_torchscript
    with pytest.raises(DataError, match=rf"wrong\.pt: the network .*{reason}"):
        spaces.find(f"mine={save(Wrong(way).eval(), tmp_path / 'wrong.pt')}")


def test_a_network_that_fails_later(tmp_path, small):
    """An image on which the network gives NaN is an error too; one that is not finite has no value."""

    class Sometimes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3)) / (x.amax() > 0)

    space = spaces.find(f"mine={as_trace(Sometimes(), tmp_path / 'sometimes.pt')}")
    x = torch.cat([torch.full((1, 3, 16, 16), 1.0), torch.full((1, 3, 16, 16), torch.nan)])
    assert space.embed(x)[1].tolist() == [0, 0, 0]
    assert torch.isnan(space.paired(x, x)).tolist() == [False, True]
    with pytest.raises(DataError, match="NaN or infinity"):
        space.embed(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ShapeError, match="expected the same shape"):
        space.paired(x, x[:1])
    with pytest.raises(ShapeError, match="C = 1 or 3"):
        space.embed(torch.zeros(1, 2, 16, 16))


def test_vectors_are_kept_within_a_limit(monkeypatch):
    """An image is computed once while it is kept; the ones not used for longest are dropped first."""
    monkeypatch.setattr("memgen.spaces.learned._KEPT", 24)
    asked = []

    def network(image: Tensor) -> Tensor:
        asked.append(float(image.mean()))
        return image.flatten()[:2].clone()

    vectors, x = Vectors(network), torch.arange(4.0).view(4, 1, 1, 1).expand(-1, -1, 1, 2)
    vectors(x[[0, 1, 2, 0, 1, 0]])
    assert asked == [0, 1, 2]
    vectors(x[[3, 0, 1, 2]])
    assert asked == [0, 1, 2, 3, 2]


# ------------------------------------------------------------------------------------------------ hostile files


class Malicious:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def repacked(source: Path, path: Path, changes: dict[str, bytes]) -> Path:
    """A copy of an archive in which the members whose names end so have other contents."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        replaced = 0
        for name in old.namelist():
            change = next((content for end, content in changes.items() if name.endswith(end)), None)
            replaced += change is not None
            new.writestr(name, old.read(name) if change is None else change)
    assert replaced == len(changes)
    return stated(path)


def pickles(target: Path) -> list[bytes]:
    saved = io.BytesIO()
    torch.save({"weight": Malicious(target)}, saved)
    return [pickle.dumps(Malicious(target)), saved.getvalue()]


def test_state_dicts_that_run_code_are_refused(tmp_path):
    """A pickle in a file of weights is refused before it runs."""
    target, path = tmp_path / "target", tmp_path / "model.pth"
    torch.save({"pre.fc.weight": Malicious(target)}, path)
    sources = [f"{path}"]
    if importlib.util.find_spec("timm"):
        sources.append(f"timm:resnet18={path}")
    if importlib.util.find_spec("open_clip"):
        sources.append(f"open_clip:ViT-B-32={stated(path)}")
    for source in sources:
        with pytest.raises(DataError, match="could execute code"):
            spaces.find(f"mine={source}")
    assert not target.exists()
    torch.load(path, weights_only=False)
    assert target.exists()  # so it was malicious indeed


def test_folders_that_run_code_are_refused(tmp_path):
    """Neither a pickle nor a Python file in a folder of transformers or timm runs."""
    target = tmp_path / "target"
    for package, config in (
        ("transformers", {"model_type": "vit", "hidden_size": 16, "num_attention_heads": 2}),
        ("transformers", {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}),
        ("timm", {"architecture": "resnet18"}),
    ):
        if importlib.util.find_spec(package) is None:
            continue
        folder = tmp_path / f"{package}-{len(config)}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "own.py").write_text(f"import pathlib; pathlib.Path({str(target)!r}).touch()")
        torch.save({"weight": Malicious(target)}, folder / "pytorch_model.bin")
        with pytest.raises(DataError):
            spaces.find(f"mine={stated(folder)}")
    assert not target.exists()


def test_torchscript_that_touches_files_is_refused(tmp_path, small):
    """Pickles in the archive, methods that run while loading, and operators on files run nothing."""
    target = tmp_path / "target"
    whole = as_torchscript(small, tmp_path / "whole.ts")
    for i, content in enumerate(pickles(target)):
        for member in ("data.pkl", "constants.pkl"):
            with pytest.raises(DataError, match="damaged, or no TorchScript"):
                spaces.find(f"mine={repacked(whole, tmp_path / f'{i}{member}.ts', {member: content})}")
    for name, body in {
        "forward": "torch.save(x, PATH)",
        "branch": "if x.sum() > 0:\n            torch.save(x, PATH)",
        "fork": "torch.jit.wait(torch.jit.fork(writes, x))",
        "file": "x = x + torch.from_file(PATH, True, 4).sum()",
    }.items():
        source = tmp_path / f"{name}_module.py"
        text = (
            "import torch\n"
            "def writes(x: torch.Tensor):\n    torch.save(x, PATH)\n    return x\n"
            f"class Bad(torch.nn.Module):\n    def forward(self, x: torch.Tensor):\n        {body}\n"
            "        return x.mean(dim=[2, 3])\n"
        )
        source.write_text(text.replace("PATH", repr(str(target))))
        path = as_torchscript(imported(source).Bad(), tmp_path / f"{name}.ts")
        with pytest.raises(DataError, match=r"calls a method|runs the operator aten::(save|from_file)"):
            spaces.find(f"mine={path}")
    source = tmp_path / "state_module.py"
    source.write_text(
        "import torch\nclass Bad(torch.nn.Module):\n"
        "    def forward(self, x: torch.Tensor):\n        return x.mean(dim=[2, 3])\n"
        "    @torch.jit.export\n    def __getstate__(self):\n        return (self.training, self.training)\n"
        "    @torch.jit.export\n    def __setstate__(self, state: tuple[bool, bool]):\n"
        f"        torch.save(torch.ones(1), {str(target)!r})\n        self.training = state[0]\n"
    )
    path = as_torchscript(imported(source).Bad(), tmp_path / "state.ts")
    with pytest.raises(DataError, match="__setstate__"):
        spaces.find(f"mine={path}")
    assert not target.exists()
    quietly(torch.jit.load, str(path))
    assert target.exists()  # so it was malicious indeed


def imported(source: Path):
    spec = importlib.util.spec_from_file_location(source.stem, source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_exported_programs_that_run_code_are_refused(tmp_path, small):
    """Pickles, texts that PyTorch would evaluate, and operators outside of aten run nothing."""
    target = tmp_path / "target"
    whole = as_export(small, tmp_path / "whole.pt2")
    with zipfile.ZipFile(whole) as archive:
        model = json.loads(archive.read("whole/models/model.json"))
        weights = json.loads(archive.read("whole/data/weights/model_weights_config.json"))
    expected = spaces.find(f"mine={whole}").embed(images(2))
    evil = f"__import__('pathlib').Path({str(target)!r}).touch()"

    def changed(**parts) -> bytes:
        return json.dumps(model | parts).encode()

    graph_module = json.loads(json.dumps(model["graph_module"]).replace("Symbol('", "[" + evil + "][0] or Symbol('"))
    harmless = {"sample_inputs/model.pt": pickles(target)[1], "model.json": changed(guards_code=[evil], graph_module=graph_module)}  # fmt: skip
    path = repacked(whole, tmp_path / "ignored.pt2", harmless)
    assert torch.equal(spaces.find(f"mine={path}").embed(images(2)), expected)
    assert not target.exists()

    for operator in ("torch.load", "torch.ops.aten.from_file.default", "_operator.attrgetter", "torch.ops.aten.__class__.a",
                     "torch.ops.profiler._record_function_enter.default", "math.sin", "os.system"):  # fmt: skip
        graph_module = json.loads(json.dumps(model["graph_module"]).replace("torch.ops.aten.relu.default", operator))
        path = repacked(whole, tmp_path / f"{operator}.pt2", {"model.json": changed(graph_module=graph_module)})
        with pytest.raises(DataError, match=r"found the operator|no program of torch\.export"):
            spaces.find(f"mine={path}")
    for entry in weights["config"].values():
        entry["use_pickle"] = True
    for i, content in enumerate(pickles(target)):
        changes = {"weights/weight_0": content, "weights_config.json": json.dumps(weights).encode()}
        with pytest.raises(DataError, match="is a pickle, which could execute code"):
            spaces.find(f"mine={repacked(whole, tmp_path / f'pickle{i}.pt2', changes)}")
    newer = {"model.json": changed(schema_version={"major": 99, "minor": 0})}
    path = repacked(whole, tmp_path / "newer.pt2", newer)
    with pytest.raises(DataError, match="found version 99 of the layout"):
        spaces.find(f"mine={path}")
    assert not target.exists()


def test_files_of_no_known_kind(tmp_path, small):
    """What is missing, empty, damaged or of another kind is refused by name."""
    whole = as_trace(small, tmp_path / "whole.pt").read_bytes()
    (tmp_path / "folder").mkdir()
    contents = {
        "empty.pt": b"",
        "text.pt": b"hello",
        "half.pt": whole[: len(whole) // 2],
        "picture.onnx": b"\x08\x01oops",
    }
    for name, content in contents.items():
        stated(tmp_path / name).write_bytes(content)
    for name, reason in {
        "missing.pt": "cannot be read",
        "empty.pt": "the file is empty",
        "text.pt": "not an embedder that memgen reads. It reads .*ONNX.*TorchScript",
        "half.pt": "not an embedder that memgen reads|damaged",
        "folder": "not an embedder that memgen reads",
    }.items():
        with pytest.raises(DataError, match=f"{name}: .*{reason}"):
            spaces.find(f"mine={tmp_path / name}")
    with pytest.raises(DataError if importlib.util.find_spec("onnxruntime") else ConfigError, match="ONNX"):
        spaces.find(f"mine={tmp_path / 'picture.onnx'}")


@pytest.mark.parametrize(("package", "source", "extra"), [
    ("onnxruntime", "small.onnx", "onnx"), ("timm", "timm:resnet18=w.pth", "timm"),
    ("open_clip", "open_clip:ViT-B-32=w.pth", "clip"), ("transformers", "folder", "transformers"),
])  # fmt: skip
def test_without_the_extra(tmp_path, monkeypatch, package, source, extra):
    """Where a package is missing, the error says how to install it."""
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text('{"model_type": "vit"}')
    for name in ("small.onnx", "w.pth"):
        (tmp_path / name).write_bytes(b"1")
    for name in ("small.onnx", "w.pth", "folder"):
        stated(tmp_path / name)
    library, found, file = source.rpartition("=")
    with pytest.raises(ConfigError, match=rf"pip install -c constraints.txt '.\[{extra}\]'"):
        spaces.find(f"mine={library}{found}{tmp_path / file}")


def test_nothing_is_imported_before_it_is_asked_for():
    """memgen's spaces load none of the optional packages."""
    names = "{'lpips', 'torchvision', 'timm', 'open_clip', 'transformers', 'onnxruntime'}"
    code = f"import sys, memgen.spaces as s; s.all_spaces(); s.all_factories(); s.embedders.all_formats(); sys.exit(bool({names} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ------------------------------------------------------------------------------------------------ names


def test_names_of_spaces_from_files(small, tmp_path):
    """NAME=FILE is checked; a file may hold `=`, and the same unchanged file gives the same space."""
    path = as_trace(small, tmp_path / "epoch=3.pt")
    assert spaces.find(f"mine={path}") is spaces.find(f"mine={path}")
    for text, error in {
        f"correlation={path}": "memgen has a space correlation",
        f"a/b={path}": "expected NAME=FILE",
        f"={path}": "expected NAME=FILE",
        "mine=": "expected NAME=FILE",
        "mine": "unknown metric 'mine'; known here: .*correlation.*written NAME=FILE",
        "lpips_alex": "write lpips_alex=FILE",
    }.items():
        with pytest.raises(ConfigError, match=error):
            spaces.find(text)


OTHER = """
import torch
from memgen.spaces.coarse import CoarseSpace

class Own(CoarseSpace):
    def __init__(self, name, record=None):
        self.name, self.record = name, record

one, several = Own("own_one"), (Own("own_two"), Own("own_three"))
taken, unusable = Own("correlation"), 3

def factory(file):
    if file == "bad":
        raise RuntimeError("no such thing")
    return Own("own_factory" if file != "misnamed" else "other", {"file": file})
"""
ENTRIES = """[memgen.spaces]
a = own_spaces:one
b = own_spaces:several
own_factory = own_spaces:factory
gone = own_spaces:gone
taken = own_spaces:taken
unusable = own_spaces:unusable
broken = broken_spaces
"""


def test_spaces_of_other_packages(tmp_path, monkeypatch):
    """Entry points add spaces and factories; broken ones are named in a warning, once, and left out."""
    (tmp_path / "own_spaces.py").write_text(OTHER)
    (tmp_path / "broken_spaces.py").write_text("import sys; sys.exit(3)")
    info = tmp_path / "own_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    before = set(spaces.all_spaces())
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(UserWarning, match="is left out") as caught:
        found = spaces.all_spaces()
    said = sorted(str(each.message).partition(" of own-package ")[0] for each in caught)
    left_out = ["broken = broken_spaces", "gone = own_spaces:gone", "taken = own_spaces:taken", "unusable = own_spaces:unusable"]  # fmt: skip
    assert said == [f"the entry point {each}" for each in left_out]
    assert set(found) - before == {"own_one", "own_two", "own_three"}
    assert found["correlation"] is spaces.find("correlation")
    x = images(3)
    assert torch.equal(spaces.find("own_two").paired(x, x), torch.ones(3, dtype=torch.float64))
    assert spaces.find("own_factory=a file").record == {"file": "a file"}
    with pytest.raises(DataError, match="own_factory failed"):
        spaces.find("own_factory=bad")
    with pytest.raises(ConfigError, match="expected a space of that name"):
        spaces.find("own_factory=misnamed")
    monkeypatch.undo()
    assert set(spaces.all_spaces()) == before
    sys.modules.pop("own_spaces", None)


# ------------------------------------------------------------------------------------------------ LPIPS


@pytest.mark.parametrize(("net", "variable"), [("alex", "MEMGEN_LPIPS_TRUNK"), ("vgg", "MEMGEN_LPIPS_TRUNK_VGG")])
def test_lpips_is_a_space(net, variable):
    """Its values are LPIPS, its vectors give them as squared distances, and the search in it is exact."""
    needs("lpips", "torchvision")
    trunk = published(variable)
    space = spaces.find(f"lpips_{net}={trunk}")
    assert (space.name, space.larger_is_closer, spaces.is_squared(space)) == (f"lpips_{net}", False, True)
    for shape in ((3, 32, 32), (1, 20, 16)):
        x, y = images(3, shape), images(3, shape, seed=1)
        value = space.paired(x, y)
        assert value.numpy() == pytest.approx(lpips_distance(x, y, trunk, net).numpy(), rel=1e-5)
        distance = (space.embed(x).double() - space.embed(y).double()).square().sum(dim=1)
        assert value.numpy() == pytest.approx(distance.numpy(), rel=1e-9)
        assert torch.equal(space.paired(x, x), torch.zeros(3, dtype=torch.float64))
    n = 40 if net == "alex" else 17
    references, queries = images(n, (1, 32, 32)), images(2, (1, 32, 32), seed=1)
    index = Index.build(references, [str(i) for i in range(n)], space, "train", backend="torch")
    hits = index.search(queries, 2)
    value = torch.stack([space.paired(query.expand(n, -1, -1, -1), references) for query in queries])
    assert hits.value.tolist() == value.sort(dim=1)[0][:, :2].tolist()
