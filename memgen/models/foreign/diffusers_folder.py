"""Models of diffusers: folders that `save_pretrained` wrote, of a pipeline or of a model with its scheduler.

Such a model sees pixels in [-1, 1] in coordinates of its own, and predicts the clean image, the noise, or a mixture of
both. Here every one becomes the denoised image of x = x_0 + s n, with x_0 in [-1, 1] and s = 2 σ:

    family    the model sees                                time
    VP        x / sqrt(1 + s²)                              t with s = sqrt((1 - ā_t) / ā_t), between steps by log s
    EDM       x / sqrt(s² + s_data²)                        log(s) / 4
    flow      (1 - τ) x with τ = s / (1 + s)                1000 τ (the number of training steps)

    predicts                  x_0
    epsilon (VP)              x - s p
    v_prediction (VP)         (x - s sqrt(1 + s²) p) / (1 + s²)
    sample (VP)               p
    epsilon, v (EDM)          x s_data² / (s² + s_data²) ± p s s_data / sqrt(s² + s_data²)
    velocity (flow)           (1 - τ) x - τ p

The family is that of the scheduler. At the noise levels on which the model was trained, the result is exact; between
them, the time is a number between two whole ones. Nothing is clipped.

A latent model has a folder vae or vqvae. Its latents are scaled as the network sees them, and take the place of x.

Source: Ho et al. 2020; Salimans & Ho 2022 (v); Karras et al. 2022, Table 1; Lipman et al. 2023; diffusers 0.42.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from memgen.base import optional
from memgen.base.errors import ConfigError, DataError, first_line
from memgen.models.denoiser import Denoiser, ImageShape
from memgen.models.foreign import ForeignModel, ImportOptions, digests
from memgen.models.guidance import GuidedDenoiser
from memgen.models.latent import LatentDenoiser

ORDER = 0
OPTIONS = ("label", "condition", "guidance", "scheduler")
KIND = "a folder of diffusers (a pipeline, or a model and its scheduler)"

_MODELS = ("UNet2DModel", "DiTTransformer2DModel", "UNet2DConditionModel")
_PARTS = ("unet", "transformer")  # folders of a pipeline, or of a checkpoint of diffusers' training scripts
_AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny", "VQModel")
_VP = (
    *("DDPM", "DDIM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete"),
    *("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "KDPM2Discrete"),
)
_EDM = ("EDMEuler", "EDMDPMSolverMultistep")
_FLOW = ("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete")


def reads(source: Path) -> bool:
    """Whether a folder has the description of a pipeline, of one of the known models, or of a folder of one."""
    if not source.is_dir():
        return False
    folders = (source, *(source / name for name in _PARTS))
    return (source / "model_index.json").is_file() or any(
        _described(folder).get("_class_name") in _MODELS for folder in folders
    )


def load(source: Path, image_size: tuple[int, int], options: ImportOptions) -> ForeignModel:
    """The model of a folder; see `foreign.Format`."""
    folder, scheduler = _parts(source, options)
    autoencoder = next((source / name for name in ("vae", "vqvae") if (source / name).is_dir()), None)
    diffusers = optional.package("diffusers", "diffusers", f"{source}")
    network = _network(diffusers, folder, _MODELS)
    described = _described(scheduler)
    try:
        settings = getattr(diffusers, str(described.get("_class_name"))).from_config(described)
    except Exception as error:  # of another package
        raise DataError(f"{scheduler}: diffusers cannot load it ({first_line(error)}). Save it again.") from error
    codec = None
    if autoencoder is not None:
        codec = VaeOfDiffusers(_network(diffusers, autoencoder, _AUTOENCODERS), image_size, autoencoder)
    size = image_size if codec is None else codec.latent_shape[1:]
    _check_channels(network, codec, source)
    label, no_label = _label(network, options, source)
    condition, no_condition = _condition(network, options, source)
    denoiser: Denoiser = DiffusersDenoiser(network, settings, size, label, condition, source)
    if options.guidance is not None:
        if no_label is None and no_condition is None:
            raise ConfigError(
                f"{source}: --guidance needs a model that knows no class beside its classes, or two conditions in "
                "--condition FILE: (2, tokens, width), with that of the empty text second."
            )
        without = DiffusersDenoiser(network, settings, size, no_label, no_condition, source)
        denoiser = GuidedDenoiser(denoiser, without, options.guidance)
    kinds: dict[str, JsonValue] = {"model": type(network).__name__, "scheduler": type(settings).__name__}
    kinds |= {"predicts": _family(settings, source)[1]}
    if codec is not None:
        denoiser = LatentDenoiser(denoiser, codec)
        kinds |= {"autoencoder": type(codec.network).__name__, "latents": " x ".join(map(str, codec.latent_shape))}
    folders = [folder, scheduler, *([autoencoder] if autoencoder else [])]
    files = [path for each in folders for path in sorted(each.iterdir()) if path.is_file()]
    return ForeignModel(denoiser, digests([*files, *([options.condition] if options.condition else [])]), kinds)


def _network(diffusers: Any, folder: Path, known: tuple[str, ...]) -> Any:
    """The network of a folder, in float32 and in eval mode."""
    kind = _described(folder).get("_class_name")
    if kind not in known:
        raise DataError(f"{folder}: holds a {kind}, expected {', '.join(known)}.")
    if not list(folder.glob("*.safetensors")):
        raise DataError(
            f"{folder}: holds no weights in safetensors. Save the model again with save_pretrained(FOLDER), which "
            "writes them; other files can execute code."
        )
    try:
        network = getattr(diffusers, str(kind)).from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        )
    except Exception as error:  # of another package
        raise DataError(f"{folder}: diffusers cannot load it ({first_line(error)}). Save it again.") from error
    return network.float().eval()


def _check_channels(network: Any, autoencoder: "VaeOfDiffusers | None", source: Path) -> None:
    found = int(network.config.in_channels)
    if autoencoder is not None and found != autoencoder.latent_shape[0]:
        raise DataError(
            f"{source}: the network takes {found} channels, but its autoencoder has {autoencoder.latent_shape[0]}. "
            "memgen reads models that see noisy latents alone."
        )


class VaeOfDiffusers(torch.nn.Module):
    """An autoencoder of diffusers; see `memgen.models.latent.Autoencoder`.

    Args:
        network: the autoencoder, in eval mode.
        image_size: (H, W) of images.
        source: named in errors.

    Attributes:
        network: as given.
        image_shape: (C, H, W) of images.
        latent_shape: (c, h, w) of latents.

    Raises:
        DataError: it cannot encode and decode images of that size.
    """

    def __init__(self, network: Any, image_size: tuple[int, int], source: Path) -> None:
        super().__init__()
        self.network = network
        self.image_shape: ImageShape = (int(network.config.in_channels), *image_size)
        self.scale = float(network.config.get("scaling_factor") or 1.0)
        self.shift = float(network.config.get("shift_factor") or 0.0)
        try:
            with torch.inference_mode():
                latents = self.encode(torch.zeros(1, *self.image_shape))
                back = self.decode(latents)
        except Exception as error:  # of a foreign network
            raise DataError(
                f"{source}: fails on images of {image_size[1]} x {image_size[0]} pixels ({first_line(error)}). "
                "Use --resize."
            ) from error
        if tuple(back.shape[1:]) != self.image_shape:
            raise DataError(
                f"{source}: makes images of {back.shape[3]} x {back.shape[2]} pixels out of those of "
                f"{image_size[1]} x {image_size[0]}. Use --resize {back.shape[3]}."
            )
        self.latent_shape: ImageShape = tuple(latents.shape[1:])  # type: ignore[assignment]

    def encode(self, images: Tensor) -> Tensor:
        """The latents of images; of a distribution, its mode."""
        found = self.network.encode(2 * images - 1)
        latents: Tensor = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents
        return ((latents - self.shift) * self.scale + 1) / 2

    def decode(self, latents: Tensor) -> Tensor:
        """The images of latents."""
        found: Tensor = self.network.decode((2 * latents - 1) / self.scale + self.shift).sample
        return (found + 1) / 2


class DiffusersDenoiser(torch.nn.Module):
    """A model of diffusers as a denoiser, in units where pixels lie in [0, 1]; see the head of this module.

    Args:
        network: the model, in evaluation mode.
        scheduler: of diffusers; its kind and settings say what the network sees and predicts.
        image_size: (H, W) of what it denoises.
        label: number of the class, for a model of classes.
        condition: (tokens, width) float32, for a model of texts.
        source: named in errors.

    Attributes:
        image_shape: (C, H, W).
        blind: False.
        predicts: epsilon, v_prediction, sample or velocity.

    Raises:
        DataError: the scheduler, or what it says that the model predicts, is not known.
    """

    blind = False

    def __init__(
        self,
        network: Any,
        scheduler: Any,
        image_size: tuple[int, int],
        label: int | None = None,
        condition: Tensor | None = None,
        source: Path | str = "the model",
    ) -> None:
        super().__init__()
        settings = scheduler.config
        self.network, self.image_shape = network, (int(network.config.in_channels), *image_size)
        self.family, self.predicts = _family(scheduler, source)
        self.steps = int(settings.num_train_timesteps)
        self.sigma_data = float(settings.get("sigma_data", 0.5))
        self.register_buffer("log_levels", _log_levels(scheduler) if self.family == "vp" else torch.zeros(1))
        self.register_buffer("condition", condition)
        self.label = label

    def forward(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The denoised images; see `memgen.models.denoiser.Denoiser`."""
        assert sigma is not None
        x, s = 2 * noisy - 1, 2 * sigma.view(-1, 1, 1, 1)
        denoised: Tensor = getattr(self, f"_{self.family}")(x, s)
        return (denoised + 1) / 2

    def _vp(self, x: Tensor, s: Tensor) -> Tensor:
        scale = (1 + s**2).sqrt()
        predicted = self._call(x / scale, self._time(s.flatten().log()))
        if self.predicts == "epsilon":
            return x - s * predicted
        return predicted if self.predicts == "sample" else (x - s * scale * predicted) / scale**2

    def _edm(self, x: Tensor, s: Tensor) -> Tensor:
        total = s**2 + self.sigma_data**2
        predicted = self._call(x / total.sqrt(), s.flatten().log() / 4)
        sign = 1 if self.predicts == "epsilon" else -1
        return x * self.sigma_data**2 / total + sign * predicted * s * self.sigma_data / total.sqrt()

    def _flow(self, x: Tensor, s: Tensor) -> Tensor:
        tau = s / (1 + s)
        seen = (1 - tau) * x
        return seen - tau * self._call(seen, self.steps * tau.flatten())

    def _time(self, level: Tensor) -> Tensor:
        """The time at which log s is `level`, (B,); the first or last one beyond the levels of the training."""
        levels = self.log_levels
        assert isinstance(levels, Tensor)
        place = torch.searchsorted(levels, level.contiguous()).clamp(1, len(levels) - 1)
        low, high = levels[place - 1], levels[place]
        return (place - 1 + (level - low) / (high - low)).clamp(0, len(levels) - 1)

    def _call(self, images: Tensor, time: Tensor) -> Tensor:
        given: dict[str, Tensor] = {}
        if self.label is not None:
            given["class_labels"] = torch.full((len(time),), self.label, device=time.device)
        if self.condition is not None:
            assert isinstance(self.condition, Tensor)
            given["encoder_hidden_states"] = self.condition.expand(len(time), -1, -1)
        found: Tensor = self.network(images, time, **given, return_dict=False)[0]
        return found[:, : images.shape[1]]  # a second half is a learned variance


def _parts(source: Path, options: ImportOptions) -> tuple[Path, Path]:
    """The folders of the model and of its scheduler."""
    if not (source / "config.json").is_file():
        name = next((name for name in _PARTS if (source / name).is_dir()), None)
        if name is None:
            raise DataError(f"{source}: a pipeline without a folder unet or transformer. Give the folder of its model.")
        folder = source / name
    else:
        folder = source
    known = [options.scheduler] if options.scheduler else [source / "scheduler", source.parent / "scheduler"]
    scheduler = next((path for path in known if path is not None and (path / "scheduler_config.json").is_file()), None)
    if scheduler is None:
        raise ConfigError(
            f"{source}: found no scheduler, which says what the model predicts. Name the folder that holds its "
            "scheduler_config.json with --scheduler."
        )
    return folder, scheduler


def _described(folder: Path) -> dict[str, Any]:
    """What config.json or scheduler_config.json of a folder says; nothing where there is none."""
    for name in ("config.json", "scheduler_config.json"):
        try:
            found = json.loads((folder / name).read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise DataError(f"{folder / name}: cannot be read as JSON ({first_line(error)}).") from error
        return found if isinstance(found, dict) else {}
    return {}


def _family(scheduler: Any, source: Path | str) -> tuple[str, str]:
    name = type(scheduler).__name__.removesuffix("Scheduler")
    families = {"vp": _VP, "edm": _EDM, "flow": _FLOW}
    family = next((family for family, names in families.items() if name in names), None)
    if family is None:
        raise DataError(
            f"{source}: has a {type(scheduler).__name__}, which memgen does not know. Name the folder of one that the "
            f"model was trained with, such as DDPMScheduler, with --scheduler."
        )
    if family == "flow":
        return family, "velocity"
    predicts = str(scheduler.config.get("prediction_type", "epsilon"))
    known = ("epsilon", "v_prediction") + (("sample",) if family == "vp" else ())
    if predicts not in known:
        raise DataError(f"{source}: predicts {predicts!r}, expected one of {', '.join(known)}.")
    return family, predicts


def _log_levels(scheduler: Any) -> Tensor:
    """log s of every training step, ascending; a last step without any signal is left out."""
    kept: Tensor = scheduler.alphas_cumprod.double()
    kept = kept[kept > torch.finfo(torch.float32).tiny]
    return (((1 - kept) / kept).log() / 2).float()


def _label(network: Any, options: ImportOptions, source: Path) -> tuple[int | None, int | None]:
    """The number of the class that is denoised, and that of no class; None for a model that has none."""
    config = network.config
    classes, null = getattr(config, "num_class_embeds", None), None
    if type(network).__name__ == "DiTTransformer2DModel":
        classes = null = int(config.num_embeds_ada_norm)
    if classes is None:
        if options.label is not None:
            raise ConfigError(f"{source}: --label {options.label}: the model has no classes. Leave it out.")
        return None, None
    label = null if options.label is None else options.label
    if label is None:
        raise ConfigError(
            f"{source}: has {classes} classes and none for no class. State one with --label 0 to {classes - 1}."
        )
    if not 0 <= label <= (classes if null is not None else classes - 1):
        raise ConfigError(f"{source}: --label {label}: expected 0 to {classes - 1}.")
    return label, null


def _condition(network: Any, options: ImportOptions, source: Path) -> tuple[Tensor | None, Tensor | None]:
    """What the text encoder made of the text, and of the empty text; None for a model that takes no text."""
    width = getattr(network.config, "cross_attention_dim", None)
    takes = type(network).__name__ == "UNet2DConditionModel" and width is not None
    if not takes:
        if options.condition is not None:
            raise ConfigError(f"{source}: --condition {options.condition}: the model takes no text. Leave it out.")
        return None, None
    if options.condition is None:
        raise ConfigError(
            f"{source}: takes a text. Give what its text encoder makes of it with --condition FILE.npy, of shape "
            "(tokens, width); see docs/models.md."
        )
    try:
        found = np.load(options.condition, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{options.condition}: cannot be read as .npy ({first_line(error)}).") from error
    shape, found = found.shape, found[None] if found.ndim == 2 else found
    if found.ndim != 3 or len(found) > 2 or found.shape[2] != width or not np.isfinite(found).all():
        raise DataError(
            f"{options.condition}: found an array of shape {shape}, expected finite numbers (tokens, {width}), or "
            f"(2, tokens, {width}) with those of the empty text second."
        )
    both = torch.from_numpy(found.astype(np.float32))
    return both[0], both[1] if len(both) > 1 else None
