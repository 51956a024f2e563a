"""How far apart two denoisers are as functions, on the same noisy images y = x + σz. No sampling is involved.

    models                  ||f_A(y) - f_B(y)||² / d on held-out images: its mean is V(σ), which is twice the model
                            variance for independent training sets
    samples_a, samples_b    the same on noised samples of A, and of B, at the noise levels of a quadrature in log σ
    empirical_a             ||f_A(y) - e_A(y)||² / d on held-out images, e_A the posterior mean of A's training set:
    empirical_b             what f_A would be if it had memorized that; and likewise for B
    empirical               ||e_B(y) - e_A(y)||² / d: how far apart two memorizing denoisers would be

From the second kind come the score-difference bits per dimension between σ_min and σ_max,

    1 / (d ln 2) ∫ E_{y ~ p_A * N(0, σ²)} ||f_A(y) - f_B(y)||² σ⁻³ dσ.

For exact denoisers of p_A and p_B this is the KL divergence of the densities diffused to σ_min, minus that at σ_max. A
network need not be the score of any density, so for networks the number has no other name.

Source: Kadkhodaie et al. 2024, section 2.1 and eq. 2; Song, Durkan, Murray & Ermon 2021, Theorem 1.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from memgen.base import noise, schemas, tables
from memgen.base.config import Settings
from memgen.models.denoiser import Denoiser, check_measurable

Keys = Mapping[str, str | int | None]


class DistanceSettings(Settings):
    """How the denoisers of a pair are compared; noise levels, draws and images are those of `psnr`."""

    bits_levels: int = Field(12, ge=2, description="noise levels of the integral for the bits, from sample.sigma_end")
    empirical_images: int = Field(
        32, ge=0, description="held-out images for the distance to pure memorization; 0 = not measured"
    )


def quadrature(low: float, high: float, levels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Noise levels, and the weight of each value ||f_A(y) - f_B(y)||² / d in the bits per dimension.

    Gauss-Legendre in log σ: Σ_k weight_k V(σ_k) = 1 / ln 2 ∫ V(σ) σ⁻³ dσ for V(σ) σ⁻² a polynomial in log σ of degree
    below 2 levels.

    Args:
        low: σ_min above 0, pixel units.
        high: σ_max above it.
        levels: number of noise levels.

    Returns:
        Ascending noise levels (levels,), pixel units, and weights (levels,), bits per squared pixel unit.
    """
    node, weight = np.polynomial.legendre.leggauss(levels)
    half = math.log(high / low) / 2
    sigmas = np.exp(math.log(low) + half * (node + 1))
    return sigmas, half * weight / sigmas**2 / math.log(2)


def measure(
    pairs: Mapping[str, tuple[Denoiser, Denoiser]],
    images: Tensor,
    ids: Sequence[str],
    sigmas: Sequence[float] | NDArray[np.float64],
    draws: int,
    noise_seed: int,
    batch: int,
    keys: Keys,
    weights: Sequence[float] | NDArray[np.float64] | None = None,
) -> pa.Table:
    """Squared distance per pixel between two denoisers' outputs, for every pair, image, noise draw and noise level.

    With the same seed, ids and draws, the noise is that of `psnr.curve`. A denoiser that is in several pairs runs once.

    Args:
        pairs: the two denoisers by kind (see the module); in eval mode, on the device of `images`.
        images: clean images, (n, C, H, W), float32, pixel units.
        ids: their content ids, (n,).
        sigmas: standard deviations of the noise, pixel units.
        draws: independent noise images per clean image.
        noise_seed: seed of the noise.
        batch: images denoised at a time, which bounds the memory.
        keys: values of the columns subject_a, subject_b, role, n_train and train_seed.
        weights: weight of each noise level in the bits; None where no integral is taken.

    Returns:
        A DISTANCES table of n * draws * len(sigmas) rows for each pair.

    Raises:
        ShapeError: the images are not of the denoisers' shape, or not as many as the ids.
        DataError: a denoiser is in train mode, or gives a value that is not finite.
    """
    denoisers = {id(denoiser): denoiser for pair in pairs.values() for denoiser in pair}
    for denoiser in denoisers.values():
        check_measurable(denoiser, images, ids)
    levels = np.asarray(sigmas, dtype=np.float64)
    values = np.empty((len(pairs), len(ids), draws, len(levels)))
    with torch.inference_mode():
        for image, draw, level, normal in noise.image_draws(
            ids, tuple(images.shape[1:]), len(levels), draws, noise_seed, batch
        ):
            clean = images[torch.from_numpy(image)]
            sigma = torch.from_numpy(levels[level]).float().to(clean.device)
            noisy = clean + sigma.view(-1, 1, 1, 1) * torch.from_numpy(normal).to(clean.device)
            denoised = {key: denoiser(noisy, sigma).double() for key, denoiser in denoisers.items()}
            for row, (first, second) in enumerate(pairs.values()):
                difference = denoised[id(first)] - denoised[id(second)]
                values[row, image, draw, level] = difference.square().flatten(1).mean(dim=1).cpu().numpy()
    kind, image, draw, level = (index.ravel() for index in np.indices(values.shape))
    return tables.make(
        schemas.DISTANCES,
        {
            **keys,
            "kind": np.array(list(pairs), dtype=object)[kind],
            "image_id": np.array(ids, dtype=object)[image],
            "sigma": levels[level],
            "noise_draw": draw,
            "value": values.ravel(),
            "weight": None if weights is None else np.asarray(weights)[level],
        },
    )
