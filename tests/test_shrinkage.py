"""Jacobians near training and held-out images: against a denoiser whose Jacobian is known, and numbers by hand."""

import numpy as np
import pytest
import scipy.stats
import torch

import memgen
from memgen.base import noise, schemas, tables
from memgen.base.errors import DataError
from memgen.findings import shrinkage
from memgen.images.imageset import ImageSet
from memgen.measures.geometry.basis import BasisSettings
from memgen.measures.geometry.shrinkage import measure_shrinkage
from memgen.measures.subject import subject

SHAPE = (1, 4, 4)


class Shrinks(torch.nn.Module):
    """Keeps a share of what it sees: the smaller one where the mean of the image is above 1/2."""

    image_shape, blind = SHAPE, False

    def forward(self, noisy, sigma=None):
        share = torch.where(noisy.mean(dim=(1, 2, 3), keepdim=True) > 0.5, 0.25, 0.75).detach()
        return share * noisy


def images(mean, count, seed):
    rng = np.random.default_rng(seed)
    return ImageSet.from_pixels((mean + 0.05 * rng.normal(size=(count, *SHAPE))).astype(np.float32))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own, for forward mode
@pytest.mark.parametrize("shape", [SHAPE, (1, 40, 40)])
def test_traces_and_errors_of_a_known_jacobian(shape, monkeypatch):
    """The trace is the share kept times d, exactly or from random directions; SURE is its formula."""
    monkeypatch.setattr(f"{__name__}.SHAPE", shape)
    denoiser = Shrinks().eval()
    denoiser.image_shape = shape
    given = subject("x", denoiser=denoiser, train=images(0.8, 5, 0), held_out=images(0.2, 4, 1))
    settings = BasisSettings(sigmas=(0.1, 0.3), n_images=4, vectors=3)
    done = []
    table, first = measure_shrinkage(given, settings, progress=lambda *each: done.append(each))
    d = np.prod(shape)
    assert table.num_rows == 16
    assert done[-1] == (16, 16)
    for row in table.to_pylist():
        share = 0.25 if row["kind"] == "train" else 0.75
        assert row["trace"] == pytest.approx(share * d, rel=1e-4, abs=5 * row["trace_error"])
        assert row["asymmetry"] == pytest.approx(0, abs=1e-5)
    (row,) = [row for row in table.to_pylist() if row["image_id"] == given.train.ids[2] and row["sigma"] == 0.3]
    (*_, normal) = next(noise.image_draws(given.train.ids[2:3], shape, 1, 1, 0, 1))
    clean = given.train.floats([2])[0].numpy()
    noisy = clean + 0.3 * normal[0]
    assert row["squared_error"] == pytest.approx(np.mean((0.25 * noisy - clean) ** 2), rel=1e-4)
    sure = np.mean((0.75 * noisy) ** 2) - 0.3**2 + 2 * 0.3**2 * 0.25
    assert row["sure"] == pytest.approx(sure, rel=1e-3)
    assert [(seen.kind, seen.basis.sigma) for seen in first] == [
        ("train", 0.1), ("train", 0.3), ("holdout", 0.1), ("holdout", 0.3)
    ]  # fmt: skip
    for seen, side, share in zip(first, [given.train] * 2 + [given.held_out] * 2, [0.25] * 2 + [0.75] * 2, strict=True):
        np.testing.assert_array_equal(seen.clean.numpy(), side.floats([0])[0].numpy())
        assert float((seen.noisy - seen.clean).std()) == pytest.approx(seen.basis.sigma, rel=0.5)
        assert seen.basis.eigenvalues[:3].numpy() == pytest.approx(share, abs=1e-5)
    levels = shrinkage.compare(table)
    assert [each["sigma"] for each in levels] == [0.1, 0.3]
    assert levels[0]["difference"] == pytest.approx(-0.5 * d, rel=1e-2)


def test_the_comparison_by_hand():
    rows = [("train", 2.0), ("train", 4.0), ("holdout", 7.0), ("holdout", 9.0), ("holdout", 11.0)]
    columns = {
        "kind": [kind for kind, _ in rows],
        "image_id": list("abcde"),
        "sigma": 0.1,
        "trace": [t for _, t in rows],
    }
    more = {"trace_error": 0.0, "asymmetry": 0.5, "squared_error": 0.02, "sure": 0.03}
    (found,) = shrinkage.compare(tables.make(schemas.SHRINKAGE, columns | more, 5))
    freedom = (1 + 4 / 3) ** 2 / (1**2 / 1 + (4 / 3) ** 2 / 2)
    error = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(2 / 2 + 4 / 3)
    assert (found["trace_train"], found["trace_held_out"], found["difference"]) == (3, 9, -6)
    assert (found["low"], found["high"]) == pytest.approx((-6 - error, -6 + error), rel=1e-5)
    assert (found["sure_train"], found["squared_error_held_out"]) == pytest.approx((0.03, 0.02))
    assert shrinkage.compare(schemas.SHRINKAGE.empty_table()) == []


def test_what_is_lacking_is_named():
    with pytest.raises(DataError, match="Jacobians cannot be compared, since there are no held-out images"):
        measure_shrinkage(subject("x", denoiser=Shrinks().eval(), train=images(0.8, 2, 0)), BasisSettings())


@pytest.mark.usefixtures("unrendered")
def test_an_audit_of_a_model_without_derivatives_says_so(tmp_path, monkeypatch):
    """The table is empty, the reason is a warning, and the same audit does not try again."""
    from memgen.experiment import audit_model

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "no_derivatives.py").write_text(
        "import memgen\n"
        "def make():\n"
        "    return memgen.FunctionDenoiser(lambda y, s: refuse(y), (1, 8, 8))\n"
        "def refuse(y):\n"
        "    if y.requires_grad or type(y).__name__ != 'Tensor' or 'GradTrackingTensor' in repr(y):\n"
        "        raise memgen.MemgenError('no derivatives here')\n"
        "    return y / 2\n"
    )
    rng = np.random.default_rng(0)
    for name in ("t", "h"):
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 256, (30, 8, 8), dtype=np.uint8))
    settings = {
        "model": "no_derivatives:make", "checkpoint": {"trust_code": True}, "spaces": ("pixels",),
        "sample": {"method": "heun", "steps": 3, "n_samples": 8},
    }  # fmt: skip
    found = memgen.audit(None, tmp_path / "t.npy", tmp_path / "h.npy", tmp_path / "o", **settings)
    assert found.document["shrinkage"] == []
    (warning,) = [each for each in found.document["warnings"] if "Jacobians" in each]
    assert "no derivatives here" in warning
    monkeypatch.setattr(audit_model, "measure_jacobians", None)
    again = memgen.audit(None, tmp_path / "t.npy", tmp_path / "h.npy", tmp_path / "o", **settings)
    assert again.document["warnings"] == found.document["warnings"]
