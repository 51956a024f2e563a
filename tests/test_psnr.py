"""PSNR against scikit-image and denoisers known in closed form."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import nn
from truth import GaussianDenoiser, IdealDenoiser, IdentityDenoiser

from memgen.base import config, noise, schemas, tables
from memgen.base.errors import ConfigError, DataError, ShapeError
from memgen.measures.psnr import PAPER_SIGMAS, PsnrSettings, curve

SHAPE = (1, 6, 6)
KEYS = {"subject": "n4-s0-a", "role": "cell", "n_train": 4, "part": "a", "train_seed": 0}


def images(n, shape=SHAPE, seed=0):
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(seed))


def ids(n):
    return [f"id{i}" for i in range(n)]


def measure(denoiser, clean, settings=None, kind="holdout", noise_seed=0, batch=50, names=None):
    settings = settings or PsnrSettings(sigmas=(0.05, 0.5))
    return curve(denoiser, clean, names or ids(len(clean)), kind, settings, noise_seed, batch, KEYS)


def normal_image(name, seed, draw, shape=SHAPE):
    return noise.normal(noise.stream(f"image/{name}", seed, draw), shape)


def test_identity_gives_the_noise_itself():
    """The identity's PSNR is -10 log10 of the added noise's mean square, and -20 log10 sigma on average."""
    table = measure(IdentityDenoiser((1, 40, 40)), images(3, (1, 40, 40)), noise_seed=7)
    for row in table.to_pylist():
        added = row["sigma"] * normal_image(row["image_id"], 7, row["noise_draw"], (1, 40, 40)).astype(float)
        assert row["output_psnr_db"] == pytest.approx(-10 * math.log10((added**2).mean()), abs=1e-4)
        assert row["input_psnr_db"] == pytest.approx(-20 * math.log10(row["sigma"]), abs=1e-12)
        # 1,600 pixels: a standard deviation of 0.15 dB
        assert row["output_psnr_db"] == pytest.approx(row["input_psnr_db"], abs=0.7)


def test_agrees_with_scikit_image():
    """Each row is scikit-image's PSNR of the denoised image with peak 1, clipped nowhere."""
    denoiser, clean = GaussianDenoiser.make(SHAPE, seed=0), images(2)
    table = measure(denoiser, clean, PsnrSettings(sigmas=(0.1, 2.0)))
    for row in table.to_pylist():
        x = clean[int(row["image_id"][2:])]
        noisy = x + row["sigma"] * torch.from_numpy(normal_image(row["image_id"], 0, row["noise_draw"]))
        denoised = denoiser(noisy[None], torch.tensor([row["sigma"]]))[0]
        expected = peak_signal_noise_ratio(x.double().numpy(), denoised.double().numpy(), data_range=1)
        assert row["output_psnr_db"] == pytest.approx(expected, abs=1e-4)


def test_wiener_filter_in_closed_form():
    """On images of its own Gaussian, the Wiener filter's mean squared error is the mean of v s^2 / (v + s^2).

    400 images x 3 draws: the relative standard error of the mean is below 1.5 %; four of them are allowed.
    """
    denoiser = GaussianDenoiser.make(SHAPE, seed=1)
    settings = PsnrSettings(sigmas=(0.02, 0.1, 0.5), n_images=400)
    table = measure(denoiser, denoiser.draw(400, seed=2).float(), settings, batch=1000).to_pandas()
    error = 10 ** (-table.output_psnr_db / 10)
    for sigma, mean in error.groupby(table.sigma).mean().items():
        assert mean == pytest.approx(denoiser.mean_squared_error(sigma), rel=0.06)


def test_memorizer_has_a_gap():
    """The ideal denoiser of four images restores them perfectly at small sigma (null: infinite dB) and others not."""
    train, holdout = images(4), images(4, seed=1)
    denoiser, settings = IdealDenoiser(train), PsnrSettings(sigmas=(0.01, 0.1))
    on_train = measure(denoiser, train, settings, kind="train").to_pandas()
    on_holdout = measure(denoiser, holdout, settings).to_pandas()
    assert set(on_train.kind) == {"train"}
    assert on_train.output_psnr_db.isna().all() or on_train.output_psnr_db.min() > 100
    assert on_holdout.output_psnr_db.max() < 15


def test_an_exact_denoiser_has_a_finite_psnr():
    """A denoiser that returns the clean image exactly has the PSNR of rounding, not an infinite one, which tables drop."""
    (clean,) = images(1)

    class Exact(IdentityDenoiser):
        def __call__(self, noisy, sigma=None):
            return clean.expand_as(noisy)

    psnr = measure(Exact(SHAPE), clean[None])["output_psnr_db"].to_numpy()
    np.testing.assert_allclose(psnr, -20 * math.log10(2**-23))


def test_one_row_for_each_image_draw_and_level():
    """The table has each combination once, with the keys and the schema; images beyond n_images are left out."""
    settings = PsnrSettings(sigmas=(0.1, 0.2), noise_draws=4, n_images=5)
    table = measure(IdentityDenoiser(SHAPE), images(9), settings, names=ids(9))
    assert tables.check(table, schemas.PSNR, "test").num_rows == 5 * 4 * 2
    rows = {(row["image_id"], row["noise_draw"], row["sigma"]) for row in table.to_pylist()}
    assert rows == {(f"id{i}", draw, sigma) for i in range(5) for draw in range(4) for sigma in (0.1, 0.2)}
    assert {key: table[key].to_pylist()[0] for key in KEYS} == KEYS


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_batch_changes_nothing(batch):
    """Any batch size gives the same noise bit for bit, and the same table for an image-wise denoiser."""
    settings = PsnrSettings(sigmas=(0.05, 0.2, 0.7))
    expected = measure(IdentityDenoiser(SHAPE), images(5), settings, batch=13)
    assert measure(IdentityDenoiser(SHAPE), images(5), settings, batch=batch).equals(expected)


def test_the_noise_belongs_to_the_image():
    """An image's rows depend on its id, not on its position or company; draws, seeds and ids have their own noise."""
    clean = images(4)
    forward = measure(IdentityDenoiser(SHAPE), clean).to_pandas()
    backward = measure(IdentityDenoiser(SHAPE), clean.flip(0), names=ids(4)[::-1]).to_pandas()
    keys = ["image_id", "noise_draw", "sigma"]
    assert forward.sort_values(keys).output_psnr_db.tolist() == backward.sort_values(keys).output_psnr_db.tolist()
    assert forward.output_psnr_db[forward.sigma == 0.05].nunique() == 4 * 3
    other = measure(IdentityDenoiser(SHAPE), clean, noise_seed=1).to_pandas()
    assert not set(other.output_psnr_db) & set(forward.output_psnr_db)


def test_common_noise_for_all_levels():
    """Every noise level scales one normal image: the identity's PSNR less its nominal value is that of any level."""
    table = measure(IdentityDenoiser(SHAPE), 0 * images(3)).to_pandas()
    excess = (table.output_psnr_db - table.input_psnr_db).to_numpy().reshape(9, 2)
    assert excess[:, 0] == pytest.approx(excess[:, 1], abs=1e-5)
    assert np.ptp(excess[:, 0]) > 0.1


def test_default_levels_are_the_papers():
    """Fifteen levels, from an input PSNR of 42.13 dB down to 0.13 in steps of 3 dB."""
    psnr = -20 * np.log10(PAPER_SIGMAS)
    assert psnr == pytest.approx(42.13 - 3 * np.arange(15), abs=0.01)
    assert PsnrSettings().sigmas == PAPER_SIGMAS


def test_settings_are_checked():
    """Fewer than three draws, no level, a level of zero and no image are refused."""
    for wrong in ({"noise_draws": 2}, {"sigmas": []}, {"sigmas": [0.1, 0.0]}, {"n_images": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            config.validate(PsnrSettings, wrong, "test")
    assert config.validate(PsnrSettings, {"sigmas": [0.1, 1]}, "test").sigmas == (0.1, 1.0)


class Halving(nn.Module):
    """f(y) = y / 2, and a training flag."""

    image_shape, blind = SHAPE, True

    def forward(self, noisy, sigma=None):
        return noisy / 2


def test_bad_input_is_named():
    """Images of another shape, ids that do not fit, no image, and a denoiser in train mode are refused."""
    with pytest.raises(ShapeError, match=r"\(2, 1, 4, 4\)"):
        measure(IdentityDenoiser(SHAPE), images(2, (1, 4, 4)))
    with pytest.raises(ShapeError, match="3 ids"):
        measure(IdentityDenoiser(SHAPE), images(2), names=ids(3))
    with pytest.raises(DataError, match="no holdout images"):
        measure(IdentityDenoiser(SHAPE), images(0))
    with pytest.raises(DataError, match="train mode"):
        measure(Halving().train(), images(1))
    assert measure(Halving().eval(), images(1)).num_rows == 6
