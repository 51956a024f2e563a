"""How likely images are under a denoiser: the density of what its probability flow draws.

Drawn by the probability flow dy/dσ = (y - f(y)) / σ from m + σ_max z down to σ_min, samples have a density q. Backwards
along the flow from an image y at σ_min,

    log q(y) = log N(y_max; m, σ_max² I) + ∫ (d - tr J) d(log σ),    J = ∂f/∂y at (y, σ), from σ_min to σ_max,

for any denoiser, be it a posterior mean or not. The flow is solved by Heun's method in log σ. The trace is estimated
without bias by vᵀ J v with random signs v that stay the same along the flow (Hutchinson), so that log q has a standard
error. The error of the solver is seen from half as many steps.

The density is that of noisy images, so noise of σ_min is added to each image first: the noise of draw 0 of `psnr`,
which is the same for all denoisers. Bits per dimension, -log2 q / d + 8, count the gray levels of 8-bit images. With
σ_min far above a gray level (1/255) they say how well a model knows blurred images, and are far below the numbers of
papers, which dequantize by less than a gray level.

Source: Song, Sohl-Dickstein, Kingma, Kumar, Ermon & Poole 2021, section 4.3 and appendix D.2; Grathwohl, Chen,
Bettencourt, Sutskever & Duvenaud 2019; Hutchinson 1989.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from memgen.base import noise, schemas, tables
from memgen.base.config import Settings
from memgen.base.errors import DataError
from memgen.base.progress import Progress
from memgen.measures.subject import Subject, lacking
from memgen.models.denoiser import Denoiser, check_measurable
from memgen.models.latent import encoded

GRAY_BITS = 8.0  # log2 of the gray levels by which densities of pixels in [0, 1] are counted


class LikelihoodSettings(Settings):
    """How exactly likelihoods are computed, and of how many images; noise levels are those of `sample`."""

    steps: int = Field(
        32, ge=4, multiple_of=2, description="steps of the flow; half as many show the error that they leave"
    )
    probes: int = Field(4, ge=2, description="random directions that estimate the trace of the Jacobian")
    n_images: int = Field(128, ge=1, description="at most so many images of each set, the first in rank order")


@dataclass(frozen=True)
class Flow:
    """The flow whose density is measured.

    Attributes:
        mean: (C, H, W), the m, on the device of the denoiser.
        high: σ_max, pixel units.
        low: σ_min, above 0.
        settings: steps and probes.
    """

    mean: Tensor
    high: float
    low: float
    settings: LikelihoodSettings


def measure(
    denoiser: Denoiser,
    images: Tensor,
    ids: Sequence[str],
    kind: str,
    flow: Flow,
    noise_seed: int,
    batch: int,
    keys: Mapping[str, str | int | None],
    progress: Progress | None = None,
) -> pa.Table:
    """The log-density of each image with noise of σ_min, and its two errors.

    Args:
        denoiser: in eval mode, on the device of `images`; differentiable in its input.
        images: clean images, (n, C, H, W), float32, pixel units.
        ids: their content ids, (n,).
        kind: train (the denoiser was trained on these images) or holdout.
        flow: the flow, and how it is solved.
        noise_seed: seed of the noise and of the probes, which depend on the id of the image besides.
        batch: images at a time, which bounds the memory.
        keys: values of the columns subject, role, n_train, part and train_seed.
        progress: called with (images done, images).

    Returns:
        A LIKELIHOOD table of n rows.

    Raises:
        ShapeError: the images are not of the denoiser's shape, or not as many as the ids.
        DataError: the denoiser is in train mode, or a density is not finite.
    """
    check_measurable(denoiser, images, ids)
    found = []
    for start in range(0, len(ids), batch):
        block = ids[start : start + batch]
        clean = images[start : start + batch].double()
        normal = [noise.normal(noise.stream(f"image/{each}", noise_seed, 0), tuple(clean.shape[1:])) for each in block]
        noisy = clean + flow.low * torch.from_numpy(np.stack(normal)).to(clean)
        probes = _probes(block, noise_seed, flow.settings.probes, noisy)
        pair = [_log_density(denoiser, noisy, probes, flow, flow.settings.steps // part) for part in (1, 2)]
        found.append(torch.stack(pair))
        if progress:
            progress(start + len(block), len(ids))
    fine, coarse = torch.cat(found, dim=2).cpu().numpy()  # (probes, n) each
    if not np.isfinite(fine).all():
        raise DataError(f"the density of {kind} images is not finite: the denoiser gives values that are not.")
    density = fine.mean(axis=0)
    return tables.make(
        schemas.LIKELIHOOD,
        {
            **keys,
            "kind": kind,
            "image_id": np.array(ids, dtype=object),
            "sigma_low": flow.low,
            "sigma_high": flow.high,
            "dimension": images[0].numel(),
            "log_density": density,
            "probe_error": fine.std(axis=0, ddof=1) / math.sqrt(len(fine)),
            "step_change": density - coarse.mean(axis=0),
            "bits_per_dim": GRAY_BITS - density / (math.log(2) * images[0].numel()),
        },
    )


def measure_likelihood(
    subject: Subject,
    flow: Flow,
    noise_seed: int = 0,
    batch: int = 64,
    device: str = "cpu",
    progress: Progress | None = None,
) -> pa.Table:
    """Likelihood of a subject's training images, where they are known, and of its held-out images.

    Args:
        subject: one that has a denoiser and held-out images.
        flow: the flow, and how it is solved.
        noise_seed: seed of noise and probes.
        batch: images at a time, which bounds the memory.
        device: of the denoiser.
        progress: called with (images done, images) of each set.

    Returns:
        A LIKELIHOOD table; see `measure`.

    Raises:
        DataError: the subject lacks a denoiser or held-out images.
    """
    if reason := lacking(subject, "denoiser", "held_out"):
        raise DataError(f"{subject.identity.subject}: the likelihood cannot be measured, since {reason}.")
    assert subject.denoiser is not None
    found = []
    for kind, images in (("train", subject.train), ("holdout", subject.held_out)):
        if images is not None:
            chosen = images.take(slice(flow.settings.n_images))
            clean, keys = encoded(subject.denoiser, chosen.floats().to(device)), subject.identity.columns
            table = measure(subject.denoiser, clean, chosen.ids, kind, flow, noise_seed, batch, keys, progress)
            found.append(table)
    return pa.concat_tables(found)


def _probes(ids: Sequence[str], seed: int, count: int, like: Tensor) -> Tensor:
    """Random signs, (count, B, C, H, W)."""
    signs = [
        [noise.stream(f"likelihood/{each}", seed, probe).choice([-1.0, 1.0], tuple(like.shape[1:])) for each in ids]
        for probe in range(count)
    ]
    return torch.from_numpy(np.array(signs)).to(like)


def _log_density(denoiser: Denoiser, y: Tensor, probes: Tensor, flow: Flow, steps: int) -> Tensor:
    """log q of images (B, C, H, W) by each probe, (probes, B) float64."""
    log_sigma = np.linspace(math.log(flow.low), math.log(flow.high), steps + 1)
    gained = torch.zeros(probes.shape[:2], dtype=torch.float64, device=y.device)
    for now, following in pairwise(log_sigma):
        step = float(following - now)
        residual, spread = _slopes(denoiser, y, probes, math.exp(now))
        residual_end, spread_end = _slopes(denoiser, y + step * residual, probes, math.exp(following))
        y = y + step / 2 * (residual + residual_end)
        gained += step / 2 * (spread + spread_end)
    squares = (y - flow.mean.double()).flatten(1).square().sum(dim=1) / flow.high**2
    return gained - squares / 2 - y[0].numel() * math.log(flow.high * math.sqrt(2 * math.pi))


def _slopes(denoiser: Denoiser, y: Tensor, probes: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """y - f(y), (B, C, H, W), and d - vᵀ J v of each probe, (probes, B); derivatives by ln σ of y and of -log q."""
    with torch.enable_grad():
        noisy = y.float().requires_grad_()
        denoised = denoiser(noisy, torch.full((len(y),), sigma, dtype=torch.float32, device=y.device))
        traces = []
        for index, probe in enumerate(probes):
            along = (denoised * probe.to(denoised)).sum()
            (gradient,) = torch.autograd.grad(along, noisy, retain_graph=index + 1 < len(probes))
            traces.append((gradient * probe).double().flatten(1).sum(dim=1))
    return y - denoised.detach().double(), y[0].numel() - torch.stack(traces)
