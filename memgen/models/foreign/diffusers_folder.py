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

Source: Ho et al. 2020; Salimans & Ho 2022 (v); Karras et al. 2022, Table 1; Lipman et al. 2023; diffusers 0.42.
"""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

from memgen.base import optional
from memgen.base.errors import ConfigError, DataError, first_line
from memgen.models.foreign import ForeignModel, ImportOptions, digests

ORDER = 0
KIND = "a folder of diffusers (a pipeline, or a model and its scheduler)"

_MODELS = ("UNet2DModel", "DiTTransformer2DModel", "UNet2DConditionModel")
_VP = (
    *("DDPM", "DDIM", "PNDM", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete"),
    *("DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep", "KDPM2Discrete"),
)
_EDM = ("EDMEuler", "EDMDPMSolverMultistep")
_FLOW = ("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete")


def reads(source: Path) -> bool:
    """Whether a folder has the description of a pipeline, or of one of the known models."""
    if not source.is_dir():
        return False
    return (source / "model_index.json").is_file() or _described(source).get("_class_name") in _MODELS


def load(source: Path, image_size: tuple[int, int], options: ImportOptions) -> ForeignModel:
    """The model of a folder; see `foreign.Format`."""
    folder, scheduler = _parts(source, options)
    described = _described(folder)
    kind = described.get("_class_name")
    if kind not in _MODELS:
        raise DataError(f"{folder}: holds a {kind}, expected {', '.join(_MODELS)}.")
    if (source / "vae").is_dir():
        raise DataError(
            f"{source}: a latent model, whose images are decoded by a VAE. memgen measures denoisers of pixels. Audit "
            "samples that it drew: memgen audit SAMPLES TRAIN --holdout H."
        )
    if not list(folder.glob("*.safetensors")):
        raise DataError(
            f"{folder}: holds no weights in safetensors. Save the model again with save_pretrained(FOLDER), which "
            "writes them; other files can execute code."
        )
    diffusers = optional.package("diffusers", "diffusers", f"{source}")
    try:
        network = getattr(diffusers, str(kind)).from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        )
        settings = getattr(diffusers, str(_described(scheduler)["_class_name"])).from_config(_described(scheduler))
    except Exception as error:  # of another package
        raise DataError(f"{source}: diffusers cannot load it ({first_line(error)}). Save it again.") from error
    denoiser = DiffusersDenoiser(network.float(), settings, image_size, options, source)
    files = [path for path in (*sorted(folder.iterdir()), *sorted(scheduler.iterdir())) if path.is_file()]
    about: dict[str, JsonValue] = {"model": kind, "scheduler": type(settings).__name__, "predicts": denoiser.predicts}
    return ForeignModel(denoiser, digests(files), about)


class DiffusersDenoiser(torch.nn.Module):
    """A model of diffusers as a denoiser, in units where pixels lie in [0, 1]; see the head of this module.

    Args:
        network: the model, in evaluation mode.
        scheduler: of diffusers; its kind and settings say what the network sees and predicts.
        image_size: (H, W).
        options: label of the class, for a model of classes.
        source: named in errors.

    Attributes:
        image_shape: (C, H, W).
        blind: False.
        predicts: epsilon, v_prediction, sample or velocity.

    Raises:
        ConfigError: the model needs a class, and none is stated; or it needs a text, which cannot be stated.
        DataError: the scheduler, or what it says that the model predicts, is not known.
    """

    blind = False

    def __init__(
        self,
        network: Any,
        scheduler: Any,
        image_size: tuple[int, int],
        options: ImportOptions,
        source: Path,
    ) -> None:
        super().__init__()
        config, settings = network.config, scheduler.config
        self.network, self.image_shape = network, (int(config.in_channels), *image_size)
        self.family, self.predicts = _family(scheduler, source)
        self.steps = int(settings.num_train_timesteps)
        self.sigma_data = float(settings.get("sigma_data", 0.5))
        self.register_buffer("log_levels", _log_levels(scheduler) if self.family == "vp" else torch.zeros(1))
        self.label = _label(network, options, source)

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
        classes = {} if self.label is None else {"class_labels": time.new_full((len(time),), self.label).long()}
        found: Tensor = self.network(images, time, **classes, return_dict=False)[0]
        return found[:, : images.shape[1]]  # a second half is a learned variance


def _parts(source: Path, options: ImportOptions) -> tuple[Path, Path]:
    """The folders of the model and of its scheduler."""
    if (source / "model_index.json").is_file():
        name = next((name for name in ("unet", "transformer") if (source / name).is_dir()), None)
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


def _family(scheduler: Any, source: Path) -> tuple[str, str]:
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


def _label(network: Any, options: ImportOptions, source: Path) -> int | None:
    """The number of the class that is denoised; None for a model without classes."""
    config = network.config
    if getattr(config, "cross_attention_dim", None) is not None and type(network).__name__ == "UNet2DConditionModel":
        raise ConfigError(
            f"{source}: takes a text, which memgen cannot make. Wrap it in a function of your own: --trust-code and "
            "package.module:factory; see docs/models.md."
        )
    classes, null = getattr(config, "num_class_embeds", None), None
    if type(network).__name__ == "DiTTransformer2DModel":
        classes = null = int(config.num_embeds_ada_norm)
    if classes is None:
        if options.label is not None:
            raise ConfigError(f"{source}: --label {options.label}: the model has no classes. Leave it out.")
        return None
    label = null if options.label is None else options.label
    if label is None:
        raise ConfigError(
            f"{source}: has {classes} classes and none for no class. State one with --label 0 to {classes - 1}."
        )
    if not 0 <= label <= (classes if null is not None else classes - 1):
        raise ConfigError(f"{source}: --label {label}: expected 0 to {classes - 1}.")
    return label
