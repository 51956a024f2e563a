"""Closed-form denoisers as architectures: settings, and what fitting gives."""

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from memgen.base import config
from memgen.base.errors import ConfigError, DataError, ShapeError
from memgen.images import imageset, importing
from memgen.models import sampling
from memgen.models.denoiser import Denoiser
from memgen.models.known.empirical import EmpiricalDenoiser
from memgen.models.known.fitting import EmpiricalSettings, FittedSettings, GaussianSettings, LocalSettings, fit
from memgen.models.known.gaussian import GaussianDenoiser, StationaryDenoiser
from memgen.models.known.local import LocalDenoiser

KINDS = {
    EmpiricalSettings(): EmpiricalDenoiser,
    GaussianSettings(): GaussianDenoiser,
    GaussianSettings(stationary=True): StationaryDenoiser,
    LocalSettings(patch=3): LocalDenoiser,
}


def pixels(n: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 1, 6, 6), dtype=np.uint8)


@pytest.mark.parametrize("settings", KINDS)
def test_fit_gives_a_denoiser_of_the_images_given(settings: FittedSettings):
    """Its kind is the settings', uint8 and float32 agree, other images give another one, a read-only array is fine."""
    known = pixels()
    known.flags.writeable = False
    denoiser = fit(settings, known)
    assert type(denoiser) is KINDS[settings]
    assert isinstance(denoiser, Denoiser)
    noisy, sigma = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.full((3,), 0.5)
    denoised = denoiser(noisy, sigma)
    as_floats = fit(settings, known.astype(np.float32) / 255)(noisy, sigma)
    torch.testing.assert_close(as_floats, denoised, rtol=0, atol=1e-5)
    assert (fit(settings, pixels(24)[12:])(noisy, sigma) - denoised).abs().max() > 0.01


def test_every_setting_changes_the_result():
    """The floor, the kind of Gaussian, the side of patches and equivariance each change what is denoised."""
    noisy, sigma = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.full((3,), 0.5)
    for one, other in (
        (GaussianSettings(), GaussianSettings(floor=0.1)),
        (GaussianSettings(), GaussianSettings(stationary=True)),
        (LocalSettings(), LocalSettings(patch=3)),
        (LocalSettings(), LocalSettings(equivariant=False)),
    ):
        assert (fit(one, pixels())(noisy, sigma) - fit(other, pixels())(noisy, sigma)).abs().max() > 1e-3


def test_settings_are_told_apart_by_their_architecture():
    """The union reads back what was written; an even patch, a negative floor and a stray key are errors."""
    adapter = TypeAdapter(FittedSettings)
    for settings in KINDS:
        assert adapter.validate_python(settings.model_dump()) == settings
    for wrong in ({"patch": 4}, {"patch": -1}):
        with pytest.raises(ConfigError, match="patch"):
            config.validate(LocalSettings, wrong, "test")
    with pytest.raises(ConfigError, match="floor"):
        config.validate(GaussianSettings, {"floor": -1}, "test")
    with pytest.raises(ValidationError, match="floor"):
        adapter.validate_python({"architecture": "empirical", "floor": 1})


@pytest.mark.parametrize("settings", KINDS)
def test_images_that_are_no_set_are_refused(settings: FittedSettings):
    """An empty array, one of three axes, and one of integers."""
    with pytest.raises(ShapeError):
        fit(settings, pixels()[:0])
    with pytest.raises(ShapeError):
        fit(settings, pixels()[0])
    with pytest.raises(DataError):
        fit(settings, pixels().astype(np.int32))


@pytest.mark.parametrize("n_train", [1, 4, 100])
def test_the_empirical_denoiser_copies_real_images(n_train: int):
    """All samples drawn from it down to σ = .02 correlate above .999 with one of N embedded images."""
    known = importing.import_images(None, importing.ImportSettings(resize=8), None).images.take(range(n_train))
    assert isinstance(known, imageset.ImageSet)
    settings = config.validate(
        sampling.SampleSettings, {"sigma_end": 0.02, "h0": 0.05, "beta": 0.3, "micro_batch": 16}, "test"
    )
    mean = known.floats().mean(0)
    drawn = sampling.sample(fit(EmpiricalSettings(), known.pixels), mean, range(16), 0, settings)
    assert (drawn.status == "converged").all()
    clean = known.floats().flatten(1).numpy()
    found = np.corrcoef(drawn.images.reshape(16, -1), clean)[:16, 16:].max(axis=1)
    assert found.min() > 0.999
