"""Models of diffusers as denoisers: loops through memgen equal diffusers' own schedulers; labels; what is refused."""

import importlib.util
import itertools
import json
import shutil
import warnings

import numpy as np
import pytest
import torch

from memgen.base.errors import ConfigError, DataError
from memgen.models import foreign
from memgen.models.foreign import ForeignModel, ImportOptions

pytestmark = pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is not installed")
SHAPE = (3, 16, 16)


@pytest.fixture(autouse=True)
def _quiet():
    """diffusers warns of what it will change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def unet(**more):
    import diffusers

    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"), **more,
    ).eval()  # fmt: skip


def saved(folder, scheduler, **more):
    """A model folder and its scheduler, as a pipeline saves them; returns the network."""
    network = unet(**more)
    with torch.no_grad():  # an untrained network predicts next to nothing
        for parameter in network.parameters():
            parameter.mul_(1.5)
    network.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline"}))
    return network


def denoiser_of(folder, **options):
    found = foreign.load(folder, SHAPE[1:], ImportOptions(**options))
    assert isinstance(found, ForeignModel)
    assert not found.denoiser.training
    return found.denoiser


def noise(seed=0, count=3):
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", ["DDIMScheduler", "DDPMScheduler"])
def test_vp_models_draw_what_diffusers_draws(tmp_path, kind, predicts):
    """DDIM with eta 0, and DDPM with the same noise at each step, from the same start; in pixels, to 1e-4."""
    import diffusers

    scheduler = getattr(diffusers, kind)(num_train_timesteps=1000, prediction_type=predicts, clip_sample=False)
    network = saved(tmp_path, scheduler)
    scheduler.set_timesteps(20)
    kept = scheduler.alphas_cumprod
    generator, theirs = torch.Generator().manual_seed(5), noise()
    with torch.inference_mode():
        for t in scheduler.timesteps:
            step = {"generator": generator} if kind == "DDPMScheduler" else {"eta": 0.0}
            theirs = scheduler.step(network(theirs, t).sample, t, theirs, **step).prev_sample
    # The same in memgen's coordinates: y = (x_t / sqrt(kept) + 1) / 2 with noise of s / 2.
    denoiser, generator = denoiser_of(tmp_path), torch.Generator().manual_seed(5)
    times = [int(t) for t in scheduler.timesteps]
    levels = [((1 - kept[t]) / kept[t]).sqrt().item() / 2 for t in times]
    ours = (noise() / kept[times[0]].sqrt() + 1) / 2
    with torch.inference_mode():
        for i, sigma in enumerate(levels):
            clean = denoiser(ours, torch.full((len(ours),), sigma))
            last = i == len(levels) - 1
            after = 0.0 if last and kind == "DDPMScheduler" else scheduler_end(scheduler, levels, i, kept)
            if kind == "DDIMScheduler":
                ours = clean + after / sigma * (ours - clean)
            else:
                ratio = (after / sigma) ** 2
                ours = clean + ratio * (ours - clean)
                if not last:
                    z = torch.randn(ours.shape, generator=generator)
                    ours = ours + after * (1 - ratio) ** 0.5 * z
    end = scheduler_end(scheduler, levels, len(levels) - 1, kept) if kind == "DDIMScheduler" else 0.0
    scale = 1 / (1 + (2 * end) ** 2) ** 0.5
    assert torch.allclose(ours, (theirs / scale + 1) / 2, atol=1e-4 * max(1.0, theirs.abs().max().item()))


def scheduler_end(scheduler, levels, i, kept):
    """The level after step i: the next one, or that of the scheduler's last step."""
    if i + 1 < len(levels):
        return levels[i + 1]
    final = getattr(scheduler, "final_alpha_cumprod", torch.tensor(1.0))
    return ((1 - final) / final).sqrt().item() / 2


def test_flow_matching(tmp_path):
    """Euler's method of the flow, as FlowMatchEulerDiscreteScheduler steps it."""
    import diffusers

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    network = saved(tmp_path, scheduler)
    scheduler.set_timesteps(12)
    theirs = noise()
    with torch.inference_mode():
        for t in scheduler.timesteps:
            theirs = scheduler.step(network(theirs, t).sample, t, theirs).prev_sample
    denoiser, times = denoiser_of(tmp_path), scheduler.sigmas.tolist()
    # At tau = 1 there is no signal, so x / (1 - tau) has no value: the first step is diffusers' own.
    with torch.inference_mode():
        first = noise() + (times[1] - times[0]) * network(noise(), torch.tensor(1000.0)).sample
        ours = (first / (1 - times[1]) + 1) / 2
        for tau, after in itertools.pairwise(times[1:]):
            sigma, following = (each / (1 - each) / 2 for each in (tau, after))
            clean = denoiser(ours, torch.full((3,), sigma))
            ours = clean + following / sigma * (ours - clean)
    assert torch.allclose(2 * ours - 1, theirs, atol=2e-4)


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_edm_preconditioning(tmp_path, predicts):
    """The denoised images are those of EDMEulerScheduler, and so are its steps."""
    import diffusers

    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.01, sigma_max=20.0, prediction_type=predicts)
    network = saved(tmp_path, scheduler)
    scheduler.set_timesteps(10)
    theirs = noise() * scheduler.init_noise_sigma
    start = theirs.clone()
    with torch.inference_mode():
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(theirs, t)
            theirs = scheduler.step(network(seen, t).sample, t, theirs).prev_sample
    denoiser, levels = denoiser_of(tmp_path), scheduler.sigmas.tolist()
    ours = (start + 1) / 2
    with torch.inference_mode():
        for s, after in itertools.pairwise(levels):
            clean = denoiser(ours, torch.full((3,), s / 2))
            ours = clean + after / s * (ours - clean)
    assert torch.allclose(2 * ours - 1, theirs, atol=1e-4 * max(1.0, theirs.abs().max().item()))


def test_between_two_steps_the_time_is_between(tmp_path):
    import diffusers

    scheduler = diffusers.DDPMScheduler(num_train_timesteps=100)
    saved(tmp_path, scheduler)
    denoiser = denoiser_of(tmp_path)
    levels = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
    assert denoiser._time(levels.log()).numpy() == pytest.approx(np.arange(100), abs=1e-3)
    middle = (levels[40] * levels[41]).sqrt().log()[None]
    assert denoiser._time(middle).item() == pytest.approx(40.5, abs=1e-3)
    assert denoiser._time(torch.tensor([-20.0, 20.0])).tolist() == [0, 99]


def test_models_of_classes(tmp_path):
    """Each label has images of its own; without one, the model is refused, as is a label of a model without classes."""
    import diffusers

    saved(tmp_path / "classes", diffusers.DDPMScheduler(), num_class_embeds=4)
    first, second = (denoiser_of(tmp_path / "classes", label=label) for label in (0, 3))
    y, sigma = torch.rand(2, *SHAPE), torch.tensor([0.3, 0.3])
    with torch.inference_mode():
        assert not torch.allclose(first(y, sigma), second(y, sigma))
    for options, message in (({}, "has 4 classes and none for no class. State one"), ({"label": 4}, "expected 0 to 3")):
        with pytest.raises(ConfigError, match=message):
            denoiser_of(tmp_path / "classes", **options)
    saved(tmp_path / "plain", diffusers.DDPMScheduler())
    with pytest.raises(ConfigError, match="the model has no classes"):
        denoiser_of(tmp_path / "plain", label=0)


def test_what_is_refused(tmp_path):
    """No scheduler, no safetensors, a latent model, an unknown prediction, another size, NaN: each by name."""
    import diffusers

    network = saved(tmp_path / "whole", diffusers.DDPMScheduler())
    assert denoiser_of(tmp_path / "whole" / "unet", scheduler=tmp_path / "whole" / "scheduler")
    shutil.copytree(tmp_path / "whole", tmp_path / "latent")
    (tmp_path / "latent" / "vae").mkdir()
    shutil.copytree(tmp_path / "whole" / "unet", tmp_path / "alone" / "unet")
    shutil.copytree(tmp_path / "whole", tmp_path / "pickled")
    weights = tmp_path / "pickled" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    saved(tmp_path / "odd", diffusers.DDPMScheduler())
    settings = tmp_path / "odd" / "scheduler" / "scheduler_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"prediction_type": "sideways"}))
    with torch.no_grad():
        network.conv_out.weight[0] = float("nan")
    network.save_pretrained(tmp_path / "nan" / "unet")
    shutil.copytree(tmp_path / "whole" / "scheduler", tmp_path / "nan" / "scheduler")
    for folder, error, message in (
        ("latent", DataError, "a latent model"),
        ("alone/unet", ConfigError, "found no scheduler"),
        ("pickled", DataError, "holds no weights in safetensors"),
        ("odd", DataError, "predicts 'sideways'"),
        ("nan/unet", DataError, "gives NaN"),
    ):
        with pytest.raises(error, match=message):
            denoiser_of(tmp_path / folder)
    with pytest.raises(DataError, match="fails on images of"):
        foreign.load(tmp_path / "whole", (15, 15), ImportOptions())
