"""Denoising PSNR against noise level, image by image.

A clean image x in [0, 1] gets noise, y = x + σz, and the denoiser f is judged by

    output PSNR = -10 log10( ||f(y) - x||^2 / d )  dB,  peak 1,  nothing clipped,

against the nominal input PSNR, -20 log10 σ. Every image, noise draw and σ is one row, so any mean can be taken later;
the paper's curve is the mean of the dB over images. At small N a denoiser is better on images it was trained on than
on others, and the gap between the two curves is the most sensitive sign of memorization. A mean squared error below the
rounding of float32 counts as that, 138.5 dB, so that a denoiser which returns its training images exactly has a PSNR.

Source: Kadkhodaie et al. 2024, Figure 1.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from memgen.base import noise, schemas, tables
from memgen.base.config import Settings
from memgen.base.errors import DataError
from memgen.measures.subject import Subject, lacking
from memgen.models.denoiser import Denoiser, check_measurable
from memgen.models.latent import encoded

# Input PSNR from 42.13 to 0.13 dB in steps of 3 dB: the axis of Figure 1.
PAPER_SIGMAS = tuple(float(sigma) for sigma in np.logspace(0.3, 2.4, 15) / 255)

_ROUNDING = torch.finfo(torch.float32).eps ** 2


class PsnrSettings(Settings):
    """Which noise levels, how many noise draws, how many images."""

    sigmas: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        PAPER_SIGMAS, min_length=1, description="standard deviations of the noise, pixel units"
    )
    noise_draws: int = Field(3, ge=3, description="independent noise images per clean image")
    n_images: int = Field(128, ge=1, description="at most so many images of each set, the first in rank order")


def curve(
    denoiser: Denoiser,
    images: Tensor,
    ids: Sequence[str],
    kind: str,
    settings: PsnrSettings,
    noise_seed: int,
    batch: int,
    keys: Mapping[str, str | int | None],
) -> pa.Table:
    """PSNR of each denoised image, for every noise level and noise draw.

    The noise depends on (noise_seed, image id, draw) alone: neither the batch nor the other images change it, and
    every denoiser and every σ meets the same.

    Args:
        denoiser: in eval mode; it runs on the device of `images`.
        images: clean images, (n, C, H, W), float32, [0, 1]; those beyond `settings.n_images` are left out.
        ids: their content ids, (n,).
        kind: train (the denoiser was trained on these images) or holdout.
        settings: noise levels, draws, number of images.
        noise_seed: seed of the noise.
        batch: images denoised at a time, which bounds the memory.
        keys: values of the columns subject, role, n_train, part and train_seed.

    Returns:
        A PSNR table of n * noise_draws * len(sigmas) rows.

    Raises:
        ShapeError: the images are not of the denoiser's shape, or not as many as the ids.
        DataError: there is no image, or the denoiser is in train mode, where it depends on the batch.
    """
    images, ids = images[: settings.n_images], list(ids[: settings.n_images])
    check_measurable(denoiser, images, ids)
    if not ids:
        raise DataError(f"no {kind} images: PSNR needs at least 1.")
    sigmas = np.asarray(settings.sigmas)
    shape = len(ids), settings.noise_draws, len(sigmas)
    psnr = np.empty(shape)
    with torch.inference_mode():
        for image, draw, level, normal in noise.image_draws(
            ids, tuple(images.shape[1:]), len(sigmas), settings.noise_draws, noise_seed, batch
        ):
            clean = images[torch.from_numpy(image)]
            sigma = torch.from_numpy(sigmas[level]).float().to(clean.device)
            noisy = clean + sigma.view(-1, 1, 1, 1) * torch.from_numpy(normal).to(clean.device)
            error = (denoiser(noisy, sigma) - clean).double().square().flatten(1).mean(dim=1)
            psnr[image, draw, level] = (-10 * error.clamp(min=_ROUNDING).log10()).cpu().numpy()
    image, draw, level = (index.ravel() for index in np.indices(shape))
    return tables.make(
        schemas.PSNR,
        {
            **keys,
            "kind": kind,
            "image_id": np.array(ids, dtype=object)[image],
            "sigma": sigmas[level],
            "noise_draw": draw,
            "input_psnr_db": -20 * np.log10(sigmas)[level],
            "output_psnr_db": psnr.ravel(),
        },
    )


def measure_psnr(
    subject: Subject,
    settings: PsnrSettings | None = None,
    noise_seed: int = 0,
    batch: int = 64,
    device: str = "cpu",
) -> pa.Table:
    """PSNR of a subject on its training images, where they are known, and on its held-out images.

    Args:
        subject: one that has a denoiser and held-out images.
        settings: noise levels, draws, number of images; defaults if None.
        noise_seed: seed of the noise.
        batch: images denoised at a time, which bounds the memory.
        device: of the denoiser.

    Returns:
        A PSNR table; see `curve`.

    Raises:
        DataError: the subject lacks a denoiser or held-out images.
    """
    if reason := lacking(subject, "denoiser", "held_out"):
        raise DataError(f"{subject.identity.subject}: PSNR cannot be measured, since {reason}.")
    assert subject.denoiser is not None
    settings = settings or PsnrSettings()
    found = []
    for kind, images in (("train", subject.train), ("holdout", subject.held_out)):
        if images is not None:
            chosen = images.take(slice(settings.n_images))
            clean, keys = encoded(subject.denoiser, chosen.floats().to(device)), subject.identity.columns
            found.append(curve(subject.denoiser, clean, chosen.ids, kind, settings, noise_seed, batch, keys))
    return pa.concat_tables(found)
