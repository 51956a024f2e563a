"""Oracles: the best that denoisers could do if they knew the clean image.

In a fixed orthonormal basis, with c_k = ⟨x, e_k⟩, the best shrinkage factors that an oracle who knows x can choose are

    λ_k = c_k² / (c_k² + σ²),    with the error E ||f(y) - x||² = σ² Σ_k λ_k,

within a factor 2 of Σ_k min(c_k², σ²). If c_k² falls as k^-(α+1), it falls as σ^(2α/(α+1)), so that output PSNR rises
with input PSNR at the slope α / (α + 1); no basis does better on C^α images than the one adapted to each. On an
m-dimensional manifold, at small noise, the optimum is the projection on the tangent space, with the error m σ².

Source: Kadkhodaie et al. (ICLR 2024), sections 3.1 and 3.2 and appendix D.4; Donoho & Johnstone (Biometrika 81, 1994)
for thresholds; Mallat, A Wavelet Tour of Signal Processing, 2009, sections 7.7 and 11.2.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from memgen.base.errors import DataError, ShapeError
from memgen.models.denoiser import ImageShape
from memgen.models.known.wavelets import WaveletTransform


def oracle_shrinkage(coefficients: Tensor, sigma: float) -> Tensor:
    """The oracle's factors c² / (c² + σ²), in [0, 1).

    Args:
        coefficients: of the clean image in an orthonormal basis, any shape, pixel units.
        sigma: noise level above 0, pixel units.

    Raises:
        DataError: the noise level is not above 0.
    """
    if not sigma > 0:
        raise DataError(f"found a noise level of {sigma}, expected one above 0.")
    squares = coefficients.double().square()
    return squares / (squares + sigma**2)


def tangent_denoise(noisy: Tensor, clean: Tensor, tangents: Tensor) -> Tensor:
    """The optimum on a manifold at small noise: noisy images projected on its tangent space at the clean image.

    The expected squared error is m σ² / d per pixel: output PSNR is input PSNR + 10 log10(d / m) dB.

    Args:
        noisy: (n, C, H, W) of one clean image.
        clean: (C, H, W), a point of the manifold.
        tangents: (d, m), linearly independent, in columns: derivatives with respect to m parameters.

    Returns:
        (n, C, H, W) float64.

    Raises:
        ShapeError: the three do not fit together.
    """
    y, x = _rows(noisy, clean.expand_as(noisy) if noisy.shape[1:] == clean.shape else clean)
    _fitting(tangents, y.shape[1])
    axes: Tensor = torch.linalg.qr(tangents.double())[0]
    projected = x + ((y - x) @ axes) @ axes.T
    return projected.view(noisy.shape)


def oracle_wavelets(noisy: Tensor, clean: Tensor, transform: WaveletTransform, sigma: float) -> Tensor:
    """Noisy images, shrunk by the oracle in a wavelet basis.

    Args:
        noisy: (n, C, H, W).
        clean: the images without noise, of the same shape.
        transform: the wavelets.
        sigma: noise level above 0, pixel units.

    Returns:
        (n, C, H, W) float64.

    Raises:
        ShapeError: the images are not of the transform's shape, or differ in shape.
        DataError: the noise level is not above 0.
    """
    _rows(noisy, clean)
    return transform.synthesize(transform.analyze(noisy) * oracle_shrinkage(transform.analyze(clean), sigma))


class Oracle:
    """An oracle as a `denoiser.Denoiser`: it knows one clean image, and denoises noisy versions of it.

    Args:
        image_shape: (C, H, W).
        rule: maps noisy versions (n, C, H, W) of the image, and their common noise level, to denoised images.
    """

    blind = False

    def __init__(self, image_shape: ImageShape, rule: Callable[[Tensor, float], Tensor]) -> None:
        self.image_shape, self.rule = image_shape, rule

    def __call__(self, noisy: Tensor, sigma: Tensor | None = None) -> Tensor:
        """The denoised images (B, C, H, W) of noisy images at noise levels sigma (B,), in the type of `noisy`.

        Raises:
            ShapeError: `sigma` is missing or not one number per image.
        """
        if sigma is None or sigma.shape != noisy.shape[:1]:
            found = None if sigma is None else tuple(sigma.shape)
            raise ShapeError(
                f"found sigma of shape {found}, expected one noise level for each of {len(noisy)} noisy images."
            )
        denoised = torch.empty_like(noisy)
        for level in set(sigma.tolist()):
            chosen = sigma == level
            denoised[chosen] = self.rule(noisy[chosen], level).to(noisy.dtype)
        return denoised


def _rows(noisy: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    if noisy.ndim != 4 or noisy.shape != clean.shape:
        raise ShapeError(
            f"found noisy images of shape {tuple(noisy.shape)} and clean ones of shape {tuple(clean.shape)}, expected "
            "the same shape."
        )
    return noisy.double().flatten(1), clean.double().flatten(1)


def _fitting(vectors: Tensor, d: int) -> None:
    if vectors.ndim != 2 or len(vectors) != d:
        raise ShapeError(f"found vectors of shape {tuple(vectors.shape)}, expected ({d}, k), in columns.")
