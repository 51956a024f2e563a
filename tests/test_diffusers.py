"""Models of diffusers as denoisers: loops through memgen equal diffusers' own schedulers; labels; what is refused."""

import importlib.util
import itertools
import json
import shutil
import warnings

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

from memgen.base import noise as streams
from memgen.base.errors import ConfigError, DataError
from memgen.experiment import runs
from memgen.measures.copies.pool import label_free_order
from memgen.measures.psnr import PsnrSettings, curve
from memgen.models import foreign, latent
from memgen.models.foreign import ForeignModel, ImportOptions
from memgen.models.sampling import SampleSettings, sample

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
    settings = {"sample_size": 16, "in_channels": 3, "out_channels": 3} | more
    return diffusers.UNet2DModel(
        block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1, **settings,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
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
    """No scheduler, no safetensors, an unknown autoencoder or prediction, another size, NaN: each by name."""
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
        ("latent", DataError, "vae: holds a None, expected AutoencoderKL"),
        ("alone/unet", ConfigError, "found no scheduler"),
        ("pickled", DataError, "holds no weights in safetensors"),
        ("odd", DataError, "predicts 'sideways'"),
        ("nan/unet", DataError, "gives NaN"),
    ):
        with pytest.raises(error, match=message):
            denoiser_of(tmp_path / folder)
    with pytest.raises(DataError, match="fails on two images of"):
        foreign.load(tmp_path / "whole", (15, 15), ImportOptions())


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("kind", ["HeunDiscreteScheduler", "EulerDiscreteScheduler"])
def test_samples_are_those_of_diffusers(tmp_path, kind, predicts):
    """memgen's own sampler, Heun and DDIM, draws what diffusers draws from the same noise; in pixels, to 1e-4."""
    import diffusers

    scheduler = getattr(diffusers, kind)(num_train_timesteps=1000, prediction_type=predicts)
    network = saved(tmp_path, scheduler)
    scheduler.set_timesteps(10)  # 999 / 9 is a whole number, so every step is one of the training
    levels = scheduler.sigmas.double().unique().flip(0)[:-1] / 2  # the last is 0, where memgen denoises once more
    z = torch.stack([torch.from_numpy(noise_of(i)) for i in range(2)])
    theirs = 2 * levels[0].float() * z
    with torch.inference_mode():
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(theirs, t)
            theirs = scheduler.step(network(seen, t).sample, t, theirs).prev_sample
    settings = SampleSettings(
        method="heun" if kind.startswith("Heun") else "ddim", sigmas=levels.tolist(), divergence_sigma=1e6, n_samples=2
    )
    drawn = sample(denoiser_of(tmp_path), torch.full(SHAPE, 0.5), range(2), 0, settings)
    scale = max(1.0, theirs.abs().max().item())
    np.testing.assert_allclose(2 * drawn.images - 1, theirs.numpy(), atol=1e-4 * scale)


def noise_of(index):
    """The first noise of a sample of memgen."""
    return streams.normal(streams.stream("sample", 0, index), SHAPE)


@pytest.mark.parametrize("kind", ["AutoencoderKL", "VQModel", "AutoencoderTiny"])
def test_latent_models(tmp_path, kind):
    """Sampling in latents and decoding is what diffusers does; images come back as the autoencoder gives them."""
    import diffusers

    scheduler = diffusers.DDIMScheduler(num_train_timesteps=1000, clip_sample=False)
    network = saved(tmp_path, scheduler, sample_size=8, in_channels=4, out_channels=4)
    vae = autoencoder(kind)
    vae.save_pretrained(tmp_path / ("vqvae" if kind == "VQModel" else "vae"))
    denoiser = denoiser_of(tmp_path)
    assert isinstance(denoiser, latent.LatentDenoiser)
    assert (tuple(denoiser.image_shape), latent.picture_shape(denoiser)) == ((4, 8, 8), SHAPE)

    scheduler.set_timesteps(20)
    theirs = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    kept, times = scheduler.alphas_cumprod, [int(t) for t in scheduler.timesteps]
    levels = [((1 - kept[t]) / kept[t]).sqrt().item() / 2 for t in times]
    ours = (theirs / kept[times[0]].sqrt() + 1) / 2
    with torch.inference_mode():
        for t in scheduler.timesteps:
            theirs = scheduler.step(network(theirs, t).sample, t, theirs, eta=0.0).prev_sample
        end = scheduler_end(scheduler, levels, len(levels) - 1, kept)
        for sigma, after in itertools.pairwise([*levels, end]):
            clean = denoiser(ours, torch.full((3,), sigma))
            ours = clean + after / sigma * (ours - clean)
    scaled = (2 * ours - 1) / (1 + (2 * end) ** 2) ** 0.5  # diffusers ends with a little noise
    assert torch.allclose(scaled, theirs, atol=1e-4 * max(1.0, theirs.abs().max().item()))
    with torch.inference_mode():
        wanted = (vae.decode(theirs / (vae.config.scaling_factor or 1)).sample + 1) / 2
    found = latent.decoded(denoiser, ((theirs + 1) / 2).numpy(), "cpu")
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5, rtol=1e-5)

    images = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        z = vae.encode(2 * images - 1)
        z = z.latent_dist.mode() if kind == "AutoencoderKL" else z.latents
    torch.testing.assert_close(2 * latent.encoded(denoiser, images) - 1, z * (vae.config.scaling_factor or 1))


def autoencoder(kind):
    import diffusers

    torch.manual_seed(3)
    blocks = {"block_out_channels": (8, 16), "in_channels": 3, "out_channels": 3, "latent_channels": 4}
    if kind == "AutoencoderTiny":
        # It halves the side once for each block after the first.
        small = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
        counts = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1), "latent_channels": 4}
        return diffusers.AutoencoderTiny(**small, **counts).eval()
    downs = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return getattr(diffusers, kind)(**blocks, **downs, norm_num_groups=4).eval()


def test_a_latent_model_is_measured_and_audited(tmp_path):
    """PSNR in latents, samples in pixels; measures of pixels are refused; another size is named."""
    import diffusers
    from PIL import Image

    import memgen

    saved(tmp_path / "model", diffusers.DDPMScheduler(), sample_size=8, in_channels=4, out_channels=4)
    autoencoder("AutoencoderKL").save_pretrained(tmp_path / "model" / "vae")
    rng = np.random.default_rng(0)
    for name in ("t", "h"):
        (tmp_path / name).mkdir()
        for i in range(12):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    found = memgen.audit(
        None, tmp_path / "t", tmp_path / "h", tmp_path / "o", model=str(tmp_path / "model"),
        sample={"method": "heun", "steps": 4, "n_samples": 10}, psnr={"sigmas": (0.1, 0.5), "noise_draws": 3},
    )  # fmt: skip
    run = runs.Run(found.path)
    assert run.table("gaps").num_rows == 2
    assert found.document["sets"]["samples"]["images"] == 10
    # A table of the same numbers, from the parts.
    denoiser = denoiser_of(tmp_path / "model")
    images = memgen.read_images(tmp_path / "t", deduplicate=False)
    images = images.take(label_free_order(images.ids))  # the order in which they are measured
    z = latent.encoded(denoiser, images.floats())
    by_hand = curve(denoiser, z, images.ids, "train", PsnrSettings(sigmas=(0.1, 0.5), noise_draws=3), 0, 64, IDENTITY)
    kept = run.table("psnr").filter(pc.field("kind") == "train")["output_psnr_db"].to_numpy()
    np.testing.assert_allclose(kept, by_hand["output_psnr_db"].to_numpy(), atol=1e-4)
    with pytest.raises(DataError, match="Bases are for denoisers of pixels"):
        latent.require_pixels(denoiser, "Bases")
    with pytest.raises(DataError, match=r"vae: .*Use --resize"):
        foreign.load(tmp_path / "model", (15, 15), ImportOptions())


IDENTITY = {"subject": "audit", "role": "imported", "n_train": 12, "part": None, "train_seed": None}


def test_dit(tmp_path):
    """A transformer of classes: no class is the default, and guidance moves away from it."""
    import diffusers

    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=6, num_layers=2, sample_size=16,
        patch_size=4, num_embeds_ada_norm=5, norm_num_groups=4,
    ).eval()  # fmt: skip
    network.save_pretrained(tmp_path / "transformer")
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.save_pretrained(tmp_path / "scheduler")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline"}))
    y, t = torch.rand(2, *SHAPE), 300
    s = ((1 - scheduler.alphas_cumprod[t]) / scheduler.alphas_cumprod[t]).sqrt()
    sigma = torch.full((2,), s.item() / 2)
    both = []
    for label in (2, 5):  # 5 is no class
        with torch.inference_mode():
            x = 2 * y - 1
            seen = x / (1 + s**2).sqrt()
            p = network(seen, torch.full((2,), t), class_labels=torch.full((2,), label)).sample[:, :3]
            both.append((x - s * p + 1) / 2)
    for options, wanted in (
        ({"label": 2}, both[0]),
        ({}, both[1]),
        ({"label": 2, "guidance": 3.0}, both[1] + 3 * (both[0] - both[1])),
    ):
        with torch.inference_mode():
            torch.testing.assert_close(denoiser_of(tmp_path, **options)(y, sigma), wanted, atol=2e-4, rtol=1e-4)


def test_models_of_texts(tmp_path):
    """What the text encoder made of a text is the condition; with that of the empty text, there is guidance."""
    import diffusers

    torch.manual_seed(0)
    network = diffusers.UNet2DConditionModel(
        sample_size=16, in_channels=3, out_channels=3, block_out_channels=(8, 16), norm_num_groups=4,
        layers_per_block=1, cross_attention_dim=6, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip
    network.save_pretrained(tmp_path / "unet")
    scheduler = diffusers.DDPMScheduler(prediction_type="sample")
    scheduler.save_pretrained(tmp_path / "scheduler")
    (tmp_path / "model_index.json").write_text("{}")
    texts = torch.randn(2, 7, 6)
    np.save(tmp_path / "one.npy", texts[0].numpy())
    np.save(tmp_path / "both.npy", texts.numpy())
    np.save(tmp_path / "wide.npy", np.zeros((7, 8)))
    evil = np.empty(1, dtype=object)
    evil[0] = Touches(tmp_path / "touched")
    np.save(tmp_path / "evil.npy", evil, allow_pickle=True)
    s = ((1 - scheduler.alphas_cumprod[500]) / scheduler.alphas_cumprod[500]).sqrt()
    y, sigma = torch.rand(2, *SHAPE), torch.full((2,), s.item() / 2)
    with torch.inference_mode():
        seen = (2 * y - 1) / (1 + s**2).sqrt()
        time = torch.full((2,), 500)
        with_it, without = ((network(seen, time, text.expand(2, -1, -1)).sample + 1) / 2 for text in texts)
        found = denoiser_of(tmp_path, condition=tmp_path / "one.npy")(y, sigma)
        guided = denoiser_of(tmp_path, condition=tmp_path / "both.npy", guidance=4.0)(y, sigma)
    torch.testing.assert_close(found, with_it, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(guided, without + 4 * (with_it - without), atol=1e-3, rtol=1e-3)
    for options, error, message in (
        ({}, ConfigError, r"takes a text. Give what its text encoder makes of it with --condition"),
        ({"condition": tmp_path / "wide.npy"}, DataError, r"found an array of shape \(7, 8\), expected finite numbers"),
        ({"condition": tmp_path / "none.npy"}, DataError, "cannot be read as .npy"),
        ({"condition": tmp_path / "evil.npy"}, DataError, "cannot be read as .npy"),
        ({"condition": tmp_path / "one.npy", "guidance": 2.0}, ConfigError, "--guidance needs"),
    ):
        with pytest.raises(error, match=message):
            denoiser_of(tmp_path, **options)
    assert not (tmp_path / "touched").exists()


class Touches:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)
