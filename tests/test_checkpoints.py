"""Checkpoints: what is saved comes back, what is damaged or foreign is refused by name, and nothing is executed."""

import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import skimage.data
import torch
from torch import Tensor, nn

from memgen.base import files
from memgen.base.errors import ConfigError, DataError, ShapeError, StorageError
from memgen.models import foreign
from memgen.models.checkpoints import load, save
from memgen.models.foreign import ImportedCheckpoint, ImportOptions
from memgen.models.networks import (
    BFCNNRFSettings,
    BFCNNSettings,
    BiasFreeBatchNorm,
    BiasFreeNetwork,
    UNetSettings,
    build,
)

Settings = UNetSettings | BFCNNSettings | BFCNNRFSettings
State = dict[str, Tensor]

SMALL: list[Settings] = [
    UNetSettings(blocks=2, width=4),
    BFCNNSettings(layers=5, width=6),
    BFCNNSettings(layers=5, width=6, first_layer_linear=True),
    BFCNNRFSettings(receptive_field=9, width=6),
]
UNET, BF_CNN = SMALL[:2]


def _network(settings: Settings, channels: int = 1, seed: int = 0) -> BiasFreeNetwork:
    """A network none of whose numbers is at its default."""
    network = build(settings, (channels, 8, 8))
    network.initialize(torch.Generator().manual_seed(seed))
    for module in network.modules():
        if isinstance(module, BiasFreeBatchNorm):
            module.gammas.data.uniform_(0.5, 2, generator=torch.Generator().manual_seed(seed + 1))
            module.running_sd.uniform_(0.5, 2, generator=torch.Generator().manual_seed(seed + 2))
    return network


def _same(first: BiasFreeNetwork, second: BiasFreeNetwork) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][key], states[1][key]) for key in states[0]
    )


def _imported(path: Path, stated: bool | None = None) -> ImportedCheckpoint:
    return foreign.load(path, (8, 8), ImportOptions(first_layer_linear=stated))


def _refusal(path: Path, stated: bool | None = None) -> str:
    """The message with which an import is refused: one line that begins with the file."""
    with pytest.raises(DataError) as caught:
        _imported(path, stated)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


# Saved and loaded.


@pytest.mark.parametrize("settings", SMALL, ids=str)
def test_round_trip(tmp_path: Path, settings: Settings):
    """A checkpoint gives back every number, ready to measure with, and all that was said about it."""
    network = _network(settings, channels=3).train()
    extra = {"images_seen": 4096, "train": {"learning_rate": 0.001, "note": "naïve"}, "losses": [1.5, None]}
    written = save(tmp_path / "folder" / "n64-s0-a.safetensors", network, settings, extra)
    loaded, manifest = load(tmp_path / "folder" / "n64-s0-a.safetensors")
    assert _same(loaded, network)
    assert type(loaded) is type(network)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert manifest == written
    assert manifest.architecture == settings
    assert manifest.image_shape == loaded.image_shape == (3, 8, 8)
    assert manifest.parameter_count == network.parameter_count
    assert manifest.extra == extra
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    noisy = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(noisy), network.eval()(noisy))
    assert (loaded(noisy) - noisy).norm() > 1e-3


def test_layout_on_disk(tmp_path: Path):
    """The weights are plain safetensors under the authors' names, the manifest plain JSON with their digest."""
    network = _network(UNET)
    save(tmp_path / "a.safetensors", network.to(memory_format=torch.channels_last), UNET, {"images_seen": 1})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors"]
    weights = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert weights.keys() == network.state_dict().keys()
    manifest = json.loads((tmp_path / "a.json").read_text())
    assert manifest["version"] == 1
    assert manifest["architecture"] == {"architecture": "unet", "blocks": 2, "width": 4}
    assert manifest["weights_digest"] == files.digest_file(tmp_path / "a.safetensors")


def test_saving_again_replaces(tmp_path: Path):
    """A second checkpoint under the same name replaces the first, weights and manifest."""
    path = tmp_path / "a.safetensors"
    save(path, _network(UNET), UNET, {"images_seen": 1})
    save(path, _network(BF_CNN), BF_CNN, {"images_seen": 2})
    loaded, manifest = load(path)
    assert _same(loaded, _network(BF_CNN))
    assert manifest.extra == {"images_seen": 2}


def test_building_does_not_touch_global_randomness(tmp_path: Path):
    """Loading and importing leave PyTorch's global random state as it was."""
    save(tmp_path / "a.safetensors", _network(UNET), UNET, {})
    before = torch.get_rng_state()
    load(tmp_path / "a.safetensors")
    _imported(tmp_path / "a.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


_KILLED_SAVE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from memgen.models.checkpoints import save
from test_checkpoints import UNET, _network
replace, calls = os.replace, []
def dying(source, target):
    calls.append(target)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = dying
save(Path({path!r}), _network(UNET, seed=7), UNET, {{"images_seen": 2}})
"""


@pytest.mark.parametrize("call", [1, 2], ids=["before the weights", "before the manifest"])
def test_killed_while_saving(tmp_path: Path, call: int):
    """Killed between its two files, a save leaves no checkpoint that loads as another; saving again mends it."""
    path = tmp_path / "a.safetensors"
    save(path, _network(UNET), UNET, {"images_seen": 1})
    script = _KILLED_SAVE.format(tests=str(Path(__file__).parent), call=call, path=str(path))
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "a.json").exists()
    with pytest.raises(DataError, match=r"a\.json is missing beside it, so it was never finished"):
        load(path)
    save(path, _network(UNET, seed=7), UNET, {"images_seen": 2})
    files.remove_leftovers(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.json", "a.safetensors"]
    assert _same(load(path)[0], _network(UNET, seed=7))


@pytest.mark.parametrize("blocked", ["a.json", "a.safetensors"])
def test_blocked_names(tmp_path: Path, blocked: str):
    """Where one of the two files cannot be written, the error names it and tells what to do."""
    (tmp_path / blocked).mkdir()
    with pytest.raises(StorageError, match=rf"cannot write .*{blocked}: Is a directory\. Choose another place"):
        save(tmp_path / "a.safetensors", _network(UNET), UNET, {})
    assert [path.name for path in tmp_path.iterdir()] == [blocked]


def test_diverged_weights_are_not_saved(tmp_path: Path):
    """A network that holds NaN is refused before anything is written, and an older checkpoint stays."""
    path = tmp_path / "a.safetensors"
    save(path, _network(UNET), UNET, {})
    network = _network(UNET)
    network.get_parameter("mid_block.0.weight").data[0, 0, 0, 0] = torch.nan
    with pytest.raises(DataError, match=r"a\.safetensors: mid_block\.0\.weight holds NaN .* lower learning rate"):
        save(path, network, UNET, {})
    assert _same(load(path)[0], _network(UNET))


def _rewrite(path: Path, change: Callable[[State], Any]) -> None:
    """Change the weights of a checkpoint and make its digest agree."""
    state = safetensors.torch.load_file(path)
    change(state)
    safetensors.torch.save_file(state, path)
    _edit(path, weights_digest=files.digest_file(path))


def _edit(path: Path, **values: Any) -> None:
    manifest = files.read_json(path.with_suffix(".json"))
    files.write_json(path.with_suffix(".json"), manifest | values)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate_with_digest(path: Path) -> None:
    _truncate(path)
    _edit(path, weights_digest=files.digest_file(path))


def _nan(state: State) -> None:
    state["encoder.0.3.running_sd"][0, 1] = torch.nan


def _reshape(state: State) -> None:
    state["mid_block.0.weight"] = torch.zeros(16, 8, 1, 1)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (Path.unlink, "no such checkpoint"),
        (lambda path: path.with_suffix(".json").unlink(), "a.json is missing beside it"),
        (lambda path: path.write_bytes(b""), "damaged, or not the file that a.json describes"),
        (_truncate, "damaged, or not the file that a.json describes"),
        (_flip, "damaged, or not the file that a.json describes"),
        (_truncate_with_digest, "damaged"),
        (lambda path: _rewrite(path, _nan), "encoder.0.3.running_sd holds NaN"),
        (lambda path: _rewrite(path, _reshape), "mid_block.0.weight is (16, 8, 1, 1), not (16, 8, 3, 3)"),
        (lambda path: _rewrite(path, lambda state: state.pop("upsample.1.weight")), "missing: upsample.1.weight"),
        (lambda path: _rewrite(path, lambda state: state.update(w=torch.ones(1))), "unexpected: w"),
        (lambda path: _edit(path, architecture=BF_CNN.model_dump()), "It looks like unet(blocks=2, width=4)"),
        (lambda path: _edit(path, image_shape=[3, 8, 8]), "for 3-channel images: of another shape: encoder.0.0.weight"),
        (lambda path: _edit(path, image_shape=[1, 6, 8]), "divisible by 4, found 6x8"),
        (lambda path: _edit(path, version=2), "has format 2, this memgen reads up to 1"),
        (lambda path: _edit(path, version=None), "not the manifest of a checkpoint (version"),
        (lambda path: _edit(path, architecture={"architecture": "vit"}), "not the manifest of a checkpoint"),
        (lambda path: path.with_suffix(".json").write_text("[]"), "not the manifest of a checkpoint (the whole"),
        (lambda path: path.with_suffix(".json").write_text('{"version'), "not valid JSON"),
    ],
)
def test_damaged_checkpoints(tmp_path: Path, harm: Callable[[Path], Any], message: str):
    """Whatever is wrong with a checkpoint, loading says it in one line that names the file."""
    path = tmp_path / "a.safetensors"
    save(path, _network(UNET), UNET, {})
    load(path)
    harm(path)
    with pytest.raises(DataError) as caught:
        load(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path.with_suffix("")))
    assert "\n" not in str(caught.value)


def test_foreign_suffix(tmp_path: Path):
    """An authors' file given where a checkpoint is expected is sent to the import."""
    with pytest.raises(DataError, match=r"model\.pt: not a checkpoint of memgen .* memgen import"):
        load(tmp_path / "model.pt")


# Imported: authors' layouts.


def _legacy(state: State) -> State:
    """The names of the layout before BF-CNN had modules for its norms."""
    renamed = {}
    for key, value in state.items():
        _, _, rest = key.partition("BN_layers.")
        layer, _, name = rest.partition(".")
        renamed[f"{name}.{layer}" if rest else key] = value
    return renamed


def _write(path: Path, state: State) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("settings", "stated"),
    [
        (UNetSettings(blocks=1, width=3), None),
        (UNetSettings(blocks=3, width=2), None),
        (BFCNNSettings(layers=21, width=3), False),
        (BFCNNSettings(layers=20, width=3, first_layer_linear=True), True),
        (BFCNNRFSettings(receptive_field=5, width=3), None),
        (BFCNNRFSettings(receptive_field=9, width=3), None),
        (BFCNNRFSettings(receptive_field=13, width=3), None),
        (BFCNNRFSettings(receptive_field=23, width=3), True),
    ],
    ids=str,
)
def test_authors_layouts(tmp_path: Path, settings: Settings, stated: bool | None, prefix: str, suffix: str):
    """The architecture, to the number of layers and channels, is read off names and shapes, with or without prefix."""
    network = _network(settings, channels=2)
    state = {prefix + key: value for key, value in network.state_dict().items()}
    imported = _imported(_write(tmp_path / f"model{suffix}", state), stated)
    assert imported.settings == settings
    assert imported.network.image_shape == (2, 8, 8)
    assert _same(imported.network, network)
    assert not imported.network.training
    noisy = torch.rand(1, 2, 8, 8)
    assert torch.equal(imported.network(noisy), network.eval()(noisy))


def test_full_receptive_field_is_a_linear_bf_cnn(tmp_path: Path):
    """BF_CNN_RF of the full field has the tensors of a 21-layer BF-CNN; stated linear, it computes the same."""
    network = _network(BFCNNRFSettings(receptive_field=43, width=3)).eval()
    imported = _imported(_write(tmp_path / "model.pt", network.state_dict()), stated=True)
    assert imported.settings == BFCNNSettings(layers=21, width=3, first_layer_linear=True)
    noisy = torch.rand(1, 1, 8, 8)
    assert torch.equal(imported.network(noisy), network(noisy))


@pytest.mark.parametrize("stated", [None, False, True])
def test_legacy_layout(tmp_path: Path, stated: bool | None):
    """The legacy layout loads under current names; its first layer has a ReLU unless the caller says otherwise."""
    network = _network(BF_CNN)
    path = _write(tmp_path / "model.pt", _legacy(network.state_dict()))
    assert "gammas.0" in torch.load(path, weights_only=True)
    imported = _imported(path, stated)
    assert imported.settings == BFCNNSettings(layers=5, width=6, first_layer_linear=bool(stated))
    assert _same(imported.network, network)
    assert imported.provenance == {
        "source": "model.pt",
        "source_digest": files.digest_file(path),
        "layout": "legacy",
        "first_layer_linear": "implied by the legacy layout" if stated is None else "stated",
    }


def test_first_layer_must_be_stated(tmp_path: Path):
    """For the current layout of BF-CNN nothing is guessed: the message explains what must be stated and why."""
    path = _write(tmp_path / "model.pt", _network(BF_CNN).state_dict())
    with pytest.raises(ConfigError, match=r"model\.pt: .*layers=5.* do not tell .* State first_layer_linear"):
        _imported(path)
    noisy = torch.rand(1, 1, 8, 8)
    linear, rectified = (_imported(path, stated).network(noisy) for stated in (True, False))
    assert not torch.allclose(linear, rectified, rtol=0.01)


@pytest.mark.parametrize(("settings", "stated"), [(SMALL[3], False), (UNET, True)], ids=str)
def test_first_layer_cannot_be_contradicted(tmp_path: Path, settings: Settings, stated: bool):
    """Stating a first layer that the architecture does not have is an error, not ignored."""
    path = _write(tmp_path / "model.pt", _network(settings).state_dict())
    with pytest.raises(ConfigError, match=r"the first layer of .* is always"):
        _imported(path, stated)
    assert _imported(path, not stated).settings == settings


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_types_become_float32(tmp_path: Path, dtype: torch.dtype):
    """Weights of any real type become float32 numbers of the same value."""
    network = _network(UNET)
    state = {key: value.to(dtype) for key, value in network.state_dict().items()}
    imported = _imported(_write(tmp_path / "model.pt", state)).network.state_dict()
    assert {value.dtype for value in imported.values()} == {torch.float32}
    assert all(torch.equal(imported[key], state[key].float()) for key in state)


def test_imported_network_can_be_saved(tmp_path: Path):
    """An imported network becomes a checkpoint that remembers where it came from."""
    imported = _imported(_write(tmp_path / "model.pt", _legacy(_network(BF_CNN).state_dict())))
    save(tmp_path / "a.safetensors", imported.network, imported.settings, imported.provenance)
    loaded, manifest = load(tmp_path / "a.safetensors")
    assert _same(loaded, imported.network)
    assert manifest.extra == imported.provenance


def test_image_size_must_fit(tmp_path: Path):
    """A size that a UNet cannot pool is refused with the name of the file."""
    path = _write(tmp_path / "model.pt", _network(UNET).state_dict())
    assert foreign.load(path, (12, 20), ImportOptions()).network.image_shape == (1, 12, 20)
    with pytest.raises(ShapeError, match=r"model\.pt: .* divisible by 4, found 10x20"):
        foreign.load(path, (10, 20), ImportOptions())


# Imported: everything else is refused.


class _Malicious:
    """Unpickled, it creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle", "nested"])
@pytest.mark.parametrize("name", ["model.pt", "exp_arguments.pkl", "model.safetensors"])
def test_pickles_are_not_executed(tmp_path: Path, how: str, name: str):
    """A file with code in it is refused under any name, and the code does not run."""
    path, target = tmp_path / name, tmp_path / "executed"
    payload = _Malicious(target)
    if how == "pickle":
        path.write_bytes(pickle.dumps(payload))
    elif how == "nested":
        torch.save({**_network(UNET).state_dict(), "config": payload}, path)
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=how == "torch")
    message = _refusal(path)
    assert ("code when opened; save its state_dict" in message) != ("add --trust-code" in message)
    assert not target.exists()
    with open(path, "rb") as file:  # the payload is live: opened the other way, it runs
        pickle.load(file) if how == "pickle" else torch.load(file, weights_only=False)
    assert target.exists()


def test_whole_modules_are_refused(tmp_path: Path):
    """A pickled module is named as such: torch.save(model) instead of its state_dict."""
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    assert "holds more than tensors (torch.nn.modules.linear.Linear)" in _refusal(tmp_path / "model.pt")


def _resnet_like() -> State:
    return {
        "conv1.weight": torch.ones(64, 3, 7, 7),
        "bn1.weight": torch.ones(64),
        "bn1.bias": torch.ones(64),
        "layer1.0.conv1.weight": torch.ones(64, 64, 3, 3),
        "fc.weight": torch.ones(10, 64),
    }


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            _resnet_like(),
            "holds conv1.weight, bn1.weight, bn1.bias, layer1.0.conv1.weight and 1 more, no known network",
        ),
        ({"encoder.0.0.weight": torch.ones(4, 1, 3, 3)}, "does not hold unet(blocks=1, width=4)"),
        ({"encoder.0.0.weight": torch.ones(4)}, "no known network"),
        ({"mine.weight": torch.ones(4)}, "save it with torch.export or TorchScript, or name a function"),
        (
            {f"encoder.{i}.0.weight": torch.ones(4, 1, 3, 3) for i in range(6)},
            "looks like unet(blocks=6, width=4), but",
        ),
        ({"conv_layers.0.weight": torch.ones(4, 1, 3, 3)}, "looks like bf_cnn(layers=1"),
        (
            {f"conv_layers.{i}.weight": torch.ones(4, 1, 1, 1) for i in range(9)},
            "looks like bf_cnn_rf(receptive_field=1",
        ),
        ({"state_dict": {"w": torch.ones(1)}, "epoch": 3}, "values that are not plain tensors (state_dict, epoch)"),
        ({"encoder.0.0.weight": torch.ones(4, 1, 3, 3, dtype=torch.complex64)}, "not plain tensors"),
        ({3: torch.ones(1)}, "not plain tensors (3)"),
        ({}, "holds no tensors"),
        (torch.ones(3), "holds a Tensor, not a state dict"),
        ([torch.ones(3)], "holds a list, not a state dict"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, state: Any, message: str):
    """What is not the state dict of a known network is refused, saying what was found."""
    torch.save(state, tmp_path / "model.pt")
    stated = False if "bf_cnn(" in message else None
    assert message in _refusal(tmp_path / "model.pt", stated)


@pytest.mark.parametrize("settings", SMALL, ids=str)
def test_incomplete_networks_are_refused(tmp_path: Path, settings: Settings):
    """A known network that lacks a tensor, or has one of another shape or too many, is refused by that tensor."""
    stated = settings.first_layer_linear if isinstance(settings, BFCNNSettings) else None
    whole = _network(settings).state_dict()
    last = list(whole)[-1]
    lacking = {key: value for key, value in whole.items() if key != last}
    assert f"missing: {last}" in _refusal(_write(tmp_path / "lacking.pt", lacking), stated)
    assert "unexpected: bias" in _refusal(_write(tmp_path / "more.pt", {**whole, "bias": torch.ones(1)}), stated)
    reshaped = {**whole, last: torch.ones(7)}
    assert f"of another shape: {last} is (7,), not" in _refusal(_write(tmp_path / "reshaped.pt", reshaped), stated)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_diverged_weights_are_refused(tmp_path: Path, bad: float):
    """Weights that hold NaN or infinity are refused."""
    state = _network(UNET).state_dict()
    state["decoder.1.1.gammas"][0, 2] = bad
    assert "decoder.1.1.gammas holds NaN or infinite" in _refusal(_write(tmp_path / "model.pt", state))


def _torch_script(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:  # as torch.jit.save lays it out
        for name in ("model/data.pkl", "model/constants.pkl", "model/code/__torch__.py", "model/version"):
            archive.writestr(name, "3\n")


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/a.png", "a")


def _good(path: Path) -> None:
    torch.save(_network(UNET).state_dict(), path)


def _good_old(path: Path) -> None:
    torch.save(_network(UNET).state_dict(), path, _use_new_zipfile_serialization=False)


def _then(*steps: Callable[[Path], Any]) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        for step in steps:
            step(path)

    return run


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot be read (No such file or directory)"),
        (Path.mkdir, "not a kind of checkpoint that memgen reads"),
        (Path.touch, "the file is empty"),
        (lambda path: path.write_text("these are not weights\n" * 9), "not a kind of checkpoint that memgen reads"),
        (
            lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)),
            "a state dict, written by torch.save or safetensors",
        ),
        (lambda path: path.write_bytes(b"\x50\x00\x00\x00\x00\x00\x00\x00{broken"), "damaged"),
        (_torch_script, "damaged, or no TorchScript"),
        (_zip, "a zip archive, but not of torch.save"),
        (_then(_good, _truncate), "damaged"),
        (_then(_good, _flip), "damaged (a checksum is wrong)"),
        (_then(_good_old, _truncate), "damaged"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, make: Callable[[Path], Any], message: str):
    """Files that are missing, damaged or of another kind are refused, saying which."""
    path = tmp_path / "model.pt"
    make(path)
    assert message in _refusal(path)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "model"])
@pytest.mark.parametrize("make", [_good, _good_old])
def test_files_of_torch_under_any_name(tmp_path: Path, make: Callable[[Path], None], name: str):
    """Files of torch.save, also from before it wrote zip archives, are known by their content."""
    make(tmp_path / name)
    assert _same(_imported(tmp_path / name).network, _network(UNET))


def test_weights_saved_on_an_accelerator(tmp_path: Path):
    """Weights that were saved on a CUDA device load where there is none."""
    _good(tmp_path / "saved.pt")
    with zipfile.ZipFile(tmp_path / "saved.pt") as saved, zipfile.ZipFile(tmp_path / "model.pt", "w") as moved:
        for name in saved.namelist():
            place, elsewhere = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"  # as pickle writes the strings
            moved.writestr(name, saved.read(name).replace(place, elsewhere))
    assert b"cuda:0" in (tmp_path / "model.pt").read_bytes()
    assert _same(_imported(tmp_path / "model.pt").network, _network(UNET))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path):
    """A file that may not be read is refused by name."""
    _good(tmp_path / "model.pt")
    (tmp_path / "model.pt").chmod(0)
    assert "cannot be read (Permission denied)" in _refusal(tmp_path / "model.pt")


# The authors' own files.

RELEASED = Path(__file__).parents[2] / "shared" / "checkpoints"


def _psnr(found: Tensor, clean: Tensor) -> float:
    return float(-10 * (found - clean).square().mean().log10())


@pytest.mark.skipif(not RELEASED.is_dir(), reason="the authors' checkpoints are not here")
@pytest.mark.parametrize(
    ("name", "channels", "parameters", "expected_db"),
    [("bf_cnn_BSD400_gray.pt", 1, 665_856, 29.0), ("bf_cnn_BSD300_color.pt", 3, 668_160, 32.1)],
)
def test_released_checkpoints(name: str, channels: int, parameters: int, expected_db: float):
    """The authors' released BF-CNN denoise photographs as good denoisers do; with the wrong flag they do not at all."""
    pixels = skimage.data.camera()[None] if channels == 1 else skimage.data.astronaut().transpose(2, 0, 1)
    clean = torch.from_numpy(pixels[:, 100:196, 180:276].copy()).float() / 255
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    denoised = {}
    for stated in (None, True):
        imported = foreign.load(RELEASED / name, (96, 96), ImportOptions(first_layer_linear=stated))
        assert imported.network.parameter_count == parameters
        assert imported.network.image_shape == (channels, 96, 96)
        assert imported.settings == BFCNNSettings(layers=20, width=64, first_layer_linear=bool(stated))
        assert imported.provenance["layout"] == "legacy"
        denoised[stated] = imported.network((clean + 25 / 255 * noise)[None])[0]
    assert _psnr(clean + 25 / 255 * noise, clean) == pytest.approx(20.17, abs=0.1)
    assert _psnr(denoised[None], clean) == pytest.approx(expected_db, abs=0.3)
    assert _psnr(denoised[True], clean) < 21


@pytest.mark.skipif(not RELEASED.is_dir(), reason="the authors' checkpoints are not here")
@pytest.mark.parametrize(("sigma", "least"), [(25 / 255, 7.5), (50 / 255, 10.5)])
def test_the_released_checkpoint_gains_what_its_authors_report(sigma: float, least: float):
    """The gain of PSNR on gray photographs, the mean of three that scikit-image carries."""
    network = foreign.load(RELEASED / "bf_cnn_BSD400_gray.pt", (128, 128), ImportOptions()).network
    gains = []
    for name in ("camera", "coins", "moon"):
        clean = torch.from_numpy(getattr(skimage.data, name)()[60:188, 120:248].copy()).float()[None] / 255
        noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        gains.append(_psnr(network(noisy[None])[0], clean) - _psnr(noisy, clean))
    assert sum(gains) / 3 >= least


@pytest.mark.skipif(not RELEASED.is_dir(), reason="the authors' checkpoints are not here")
def test_released_checkpoint_is_homogeneous():
    """The laws of bias-free networks hold for real trained weights: f(3y) = 3 f(y), and f(-y) is not -f(y)."""
    network = foreign.load(RELEASED / "bf_cnn_BSD400_gray.pt", (32, 32), ImportOptions()).network.double()
    noisy = torch.rand(1, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    denoised = network(noisy)
    assert (network(3 * noisy) - 3 * denoised).norm() < 1e-12 * denoised.norm()
    assert (network(-noisy) + denoised).norm() > 1e-2 * denoised.norm()


# A further format.

FORMAT = '''
"""Weights as text: the width of a UNet of one block, then all its numbers."""

import torch

from memgen.models.foreign import ImportedCheckpoint
from memgen.models.networks import UNetSettings, build

ORDER = 0
OPTIONS = ()
KIND = "a folder with weights.txt"


def reads(source):
    return (source / "weights.txt").is_file()


def load(source, image_size, options):
    width, *numbers = (source / "weights.txt").read_text().split()
    settings = UNetSettings(blocks=1, width=int(width))
    network = build(settings, (1, *image_size)).eval().requires_grad_(False)
    torch.nn.utils.vector_to_parameters(torch.tensor([float(n) for n in numbers]), network.parameters())
    return ImportedCheckpoint(network, settings, {"source": source.name})
'''


def test_a_new_format_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A format that lies in the package is found, loaded, and named in errors."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "as_text.py").write_text(FORMAT)
    monkeypatch.setattr(foreign, "__path__", [*foreign.__path__, str(tmp_path / "more")])
    network = _network(UNetSettings(blocks=1, width=2))
    numbers = nn.utils.parameters_to_vector(network.parameters()).tolist()
    (tmp_path / "model").mkdir()
    try:
        assert "It reads a folder with weights.txt; " in _refusal(tmp_path / "model")
        (tmp_path / "model" / "weights.txt").write_text(" ".join(map(str, [2, *numbers])))
        found = _imported(tmp_path / "model")
    finally:
        sys.modules.pop("memgen.models.foreign.as_text", None)
        vars(foreign).pop("as_text", None)
    assert (found.settings, found.provenance) == (UNetSettings(blocks=1, width=2), {"source": "model"})
    assert nn.utils.parameters_to_vector(found.network.parameters()).tolist() == numbers


def test_every_format_follows_the_interface():
    """Every module of the package defines what a format defines."""
    assert [format_.__name__.rpartition(".")[2] for format_ in foreign.all_formats()] == [
        "diffusers_folder",
        "edm_pickle",
        "factory",
        "program",
        "kadkhodaie",
    ]
    assert all(isinstance(format_, foreign.Format) for format_ in foreign.all_formats())
