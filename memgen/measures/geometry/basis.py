"""The basis in which a denoiser shrinks: eigenvectors of its Jacobian, and how they fit the image.

Near a noisy image y = x + σz a denoiser acts as its Jacobian J. With λ_k and e_k the eigenvalues and eigenvectors of
the symmetric part (J + Jᵀ) / 2, a bias-free network gives f(y) = J y ≈ Σ_k λ_k ⟨y, e_k⟩ e_k: shrinkage factors in a
basis that it adapts to the image. The exact posterior mean has J symmetric with eigenvalues of at least 0, and then

    E ||f(y) - x||² = σ² E tr J;    for any denoiser    E ||f(y) - x||² = E [ ||y - f(y)||² - σ² d + 2σ² tr J ]  (SURE)

The effective dimension has three definitions in use: tr J; the sum of the squared singular values; the number of
singular values, largest first, that reach 99 % of their sum.

If images have too many pixels for a matrix, the largest eigenpairs are found from products with J, and sums over all
eigenvalues are estimated from random directions (see `jacobian`). What needs every singular value is then unknown.

Each measure of how a set of vectors fits an image, or another set, comes with the value expected of a random basis.

Source: Kadkhodaie et al. (ICLR 2024), section 3.1 and eq. 6, 7 and 10; Mohan et al. (ICLR 2020), section 5, for squared
singular values; Stein 1981 for SURE; Björck & Golub 1973 for principal angles.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import pyarrow as pa
import torch
from pydantic import Field
from torch import Tensor

from memgen.base import schemas, tables
from memgen.base.config import Settings
from memgen.base.errors import DataError, ShapeError
from memgen.measures.geometry import jacobian
from memgen.measures.geometry.harmonics import (
    chance_frequency,
    chance_overlap,
    contour_direction,
    contour_energy,
    dct,
    local_frequency,
    overlap,
)
from memgen.models.denoiser import Denoiser, ImageShape


class BasisSettings(Settings):
    """Where Jacobians are computed, and what is kept of them."""

    sigmas: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.1,), min_length=1, description="standard deviations of the noise, in pixel units"
    )
    n_images: int = Field(8, ge=1, description="number of held-out images, the first in rank order")
    vectors: int = Field(64, ge=1, description="eigenvectors kept as images; for large images, only these are computed")
    probes: int = Field(
        32, ge=2, description="random directions that estimate sums over all eigenvalues of large images"
    )


@dataclass(frozen=True, eq=False)
class Basis:
    """The decomposed Jacobian J of a denoiser at one noisy image; all tensors are float64 on the CPU.

    All k = d eigenpairs are there if J was computed as a matrix, and otherwise the k largest.

    Attributes:
        image_shape: (C, H, W); d = C·H·W.
        sigma: noise level of the noisy image, pixel units.
        eigenvalues: (k,) of (J + Jᵀ) / 2, falling: the shrinkage factors.
        eigenvectors: (d, k), in columns.
        residual: bound on the distance of each eigenvalue from a true one; 0 if J was computed as a matrix.
        converged: whether the residual is within the tolerance.
        singular_values: (d,) of J, falling; None without the matrix.
        trace: tr J = Σ λ_k, the effective dimension of Kadkhodaie et al.
        trace_error: its standard error over random directions; 0 if J was computed as a matrix.
        dimension_squares: Σ s_k² over the singular values, the effective dimension of Mohan et al.
        asymmetry: ||J - Jᵀ|| / ||J||, Frobenius norms, in [0, 2]; 0 for an exact posterior mean.
        linearity_error: ||J y - f(y)|| / ||f(y)||; 0 up to rounding for a bias-free network.
        coefficients_clean: (k,) ⟨x, e_k⟩.
        coefficients_noisy: (k,) ⟨y, e_k⟩.
        denoised: (C, H, W), f(y).
        squared_error: ||f(y) - x||² / d, pixel units squared.
        sure: Stein's estimate of it, which does not look at x.
    """

    image_shape: ImageShape
    sigma: float
    eigenvalues: Tensor
    eigenvectors: Tensor
    residual: float
    converged: bool
    singular_values: Tensor | None
    trace: float
    trace_error: float
    dimension_squares: float
    asymmetry: float
    linearity_error: float
    coefficients_clean: Tensor
    coefficients_noisy: Tensor
    denoised: Tensor
    squared_error: float
    sure: float

    @property
    def d(self) -> int:
        """C·H·W, the side of J."""
        return len(self.eigenvectors)

    @property
    def dimension_99(self) -> int | None:
        """The least number of singular values that reach 99 % of their sum; 0 if J = 0, None if they are unknown."""
        if self.singular_values is None:
            return None
        total = self.singular_values.cumsum(0)
        return int((total < 0.99 * total[-1]).sum()) + 1 if float(total[-1]) > 0 else 0

    @property
    def negative_part(self) -> float | None:
        """Σ |λ_k| over the negative eigenvalues, as a share of Σ |λ_k|; in [0, 1], 0 for an exact posterior mean.

        None if not all eigenvalues are known.
        """
        if len(self.eigenvalues) < self.d:
            return None
        total = float(self.eigenvalues.abs().sum())
        return float(self.eigenvalues.clamp(max=0).abs().sum()) / total if total > 0 else 0.0

    @property
    def posterior_error(self) -> float:
        """σ² tr J / d, the average squared error of an exact posterior mean, pixel units squared."""
        return self.sigma**2 * self.trace / self.d


WHOLE = 6400  # numbers of an image up to which its Jacobian is made as a matrix


def analyze(
    denoiser: Denoiser,
    clean: Tensor,
    noisy: Tensor,
    sigma: float,
    settings: BasisSettings,
    seed: int,
    item: str = "",
    whole: int | None = None,
) -> Basis:
    """The basis from the whole Jacobian of images up to a size, and its leading part for larger ones.

    Args:
        denoiser: see `eigenbasis`, as for the next three.
        clean: the x.
        noisy: the y.
        sigma: noise level.
        settings: how many eigenpairs are found of large images, and how sums over all of them are estimated.
        seed: of random directions.
        item: name of the image; each image has random directions of its own.
        whole: numbers of an image up to which its Jacobian is made as a matrix; None takes WHOLE.

    Raises:
        ShapeError, DataError: see `eigenbasis`.
    """
    d = clean.numel()
    if d <= (WHOLE if whole is None else whole):
        return eigenbasis(denoiser, clean, noisy, sigma)
    return leading_eigenbasis(denoiser, clean, noisy, sigma, min(d, settings.vectors), settings.probes, seed, item)


def eigenbasis(denoiser: Denoiser, clean: Tensor, noisy: Tensor, sigma: float, chunk: int | None = None) -> Basis:
    """The basis in which a denoiser shrinks a noisy image, from its Jacobian as a matrix.

    Args:
        denoiser: in eval mode, on the device of the images; it is not changed.
        clean: (C, H, W), [0, 1], the x.
        noisy: (C, H, W), the y = x + σz, in the same units, not clipped; float32 or float64, in which J is computed.
        sigma: noise level, pixel units.
        chunk: directions at a time (see `jacobian.full`).

    Raises:
        ShapeError: the images differ in shape, or are not of the denoiser's.
        DataError: the denoiser is in train mode, or its Jacobian is not finite.
    """
    _check_alike(clean, noisy)
    batch, level = noisy[None], noisy.new_tensor([sigma])
    matrix = jacobian.full(denoiser, batch, level, chunk)[0].double()
    if not bool(matrix.isfinite().all()):
        raise DataError(_NOT_FINITE)
    eigenvalues, eigenvectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    singular_values = torch.linalg.svdvals(matrix)
    sums = jacobian.Moments(
        trace=float(matrix.trace()),
        trace_error=0.0,
        squares=float(singular_values.square().sum()),
        asymmetry=_share((matrix - matrix.T).norm(), matrix.norm()),
    )
    exact = torch.zeros_like(eigenvalues)
    pairs = jacobian.Eigenpairs(eigenvalues.flip(0), eigenvectors.flip(1), exact, converged=True)
    return _basis(denoiser, clean, noisy, sigma, pairs, singular_values.cpu(), sums, matrix @ noisy.double().flatten())


def leading_eigenbasis(
    denoiser: Denoiser, clean: Tensor, noisy: Tensor, sigma: float, k: int, probes: int, seed: int, item: str = ""
) -> Basis:
    """The basis in which a denoiser shrinks a noisy image, for its largest eigenvalues only, without J as a matrix.

    Args:
        denoiser: in eval mode, on the device of the images; it is not changed.
        clean: (C, H, W), [0, 1], the x.
        noisy: (C, H, W), the y = x + σz, in the same units, not clipped; float32 or float64, in which J is applied.
        sigma: noise level, pixel units.
        k: eigenpairs to find, from 1 to d.
        probes: random directions for the sums over all eigenvalues, at least 2.
        seed: seed of the random directions.
        item: name of the image; each image has random directions of its own.

    Raises:
        ShapeError: the images differ in shape, or are not of the denoiser's.
        DataError: the denoiser is in train mode, or its Jacobian is not finite.
        ConfigError: k or the number of probes is out of range.
    """
    _check_alike(clean, noisy)
    products = jacobian.Products(denoiser, noisy[None], noisy.new_tensor([sigma]))
    times_noisy = products.forward(noisy.flatten()[:, None])[:, 0].double()
    if not bool(times_noisy.isfinite().all()):
        raise DataError(_NOT_FINITE)
    found = jacobian.largest(products, k, seed)
    sums = jacobian.moments(products, probes, seed, item, found.eigenvectors)
    return _basis(denoiser, clean, noisy, sigma, found, None, sums, times_noisy)


_NOT_FINITE = "the Jacobian of the denoiser is not finite at this image. Check its weights and the image."


def _check_alike(clean: Tensor, noisy: Tensor) -> None:
    if clean.shape != noisy.shape:
        raise ShapeError(
            f"found a clean image of shape {tuple(clean.shape)} and a noisy one of shape {tuple(noisy.shape)}, "
            "expected one shape."
        )


def _basis(
    denoiser: Denoiser,
    clean: Tensor,
    noisy: Tensor,
    sigma: float,
    pairs: jacobian.Eigenpairs,
    singular_values: Tensor | None,
    sums: jacobian.Moments,
    times_noisy: Tensor,
) -> Basis:
    """The basis, assembled from eigenpairs, singular values, sums, J y and the images."""
    eigenvectors = pairs.eigenvectors.cpu()
    with torch.no_grad():
        denoised = jacobian.function(denoiser, noisy[None], noisy.new_tensor([sigma]), 0)(noisy).double().flatten()
    x, y = clean.double().flatten(), noisy.double().flatten()
    rest = float((y - denoised).square().mean())
    return Basis(
        image_shape=(clean.shape[0], clean.shape[1], clean.shape[2]),
        sigma=sigma,
        eigenvalues=pairs.eigenvalues.cpu(),
        eigenvectors=eigenvectors,
        residual=float(pairs.residuals.max()),
        converged=pairs.converged,
        singular_values=singular_values,
        trace=sums.trace,
        trace_error=sums.trace_error,
        dimension_squares=sums.squares,
        asymmetry=sums.asymmetry,
        linearity_error=_share((times_noisy - denoised).norm(), denoised.norm()),
        coefficients_clean=x.cpu() @ eigenvectors,
        coefficients_noisy=y.cpu() @ eigenvectors,
        denoised=denoised.cpu().view(clean.shape),
        squared_error=float((denoised - x).square().mean()),
        sure=rest - sigma**2 + 2 * sigma**2 * sums.trace / len(x),
    )


def to_tables(
    basis: Basis,
    clean: Tensor,
    image_id: str,
    noise_draw: int,
    keys: Mapping[str, str | int | None],
    twin: Basis | None = None,
    principal: Tensor | None = None,
    tangents: Tensor | None = None,
) -> tuple[pa.Table, pa.Table]:
    """The rows of one basis in the tables BASIS and BASIS_SUMMARY.

    Overlaps compare the first m eigenvectors with the first m vectors of the other basis, where m is the rounded trace,
    at least 1 and at most the number of known eigenvectors. With t tangents, the first t eigenvectors are compared.

    Args:
        basis: the basis at one noisy image.
        clean: (C, H, W), the clean image.
        image_id: its content id.
        noise_draw: index of the noise image that was added.
        keys: values of the columns subject, role, n_train, part and train_seed.
        twin: the basis of the twin model at the same noisy image, with as many eigenvectors; None if there is no twin.
        principal: (d, p) principal components of images, in columns, largest first; None if not known. If p
            is below m, the overlap is null.
        tangents: (d, t) directions in which the clean image can move, in columns; None if not known.

    Returns:
        A table BASIS with a row for each eigenpair, and a table BASIS_SUMMARY with one row.

    Raises:
        ShapeError: basis and image do not fit.
    """
    clean = clean.cpu()
    d, known, vectors = basis.d, len(basis.eigenvalues), basis.eigenvectors
    shared = {**keys, "image_id": image_id, "sigma": basis.sigma, "noise_draw": noise_draw}
    harmonics = {
        "local_frequency": local_frequency(vectors, basis.image_shape),
        "contour_energy": contour_energy(vectors, clean),
        "contour_direction": contour_direction(vectors, clean),
    }
    long = {
        "k": list(range(1, known + 1)),
        "eigenvalue": basis.eigenvalues,
        "singular_value": [None] * known if basis.singular_values is None else basis.singular_values,
        "coefficient_clean": basis.coefficients_clean,
        "coefficient_noisy": basis.coefficients_noisy,
        **harmonics,
    }
    rank = min(known, max(1, round(basis.trace)))
    others = {
        "overlap_dct": dct(basis.image_shape, rank),
        "overlap_pca": None if principal is None or principal.shape[1] < rank else principal,
        "overlap_twin": None if twin is None else twin.eigenvectors,
    }
    summary = {
        "eigenpairs": known,
        "residual": basis.residual,
        "converged": basis.converged,
        "trace": basis.trace,
        "trace_error": basis.trace_error,
        "dimension_squares": basis.dimension_squares,
        "dimension_99": basis.dimension_99,
        "asymmetry": basis.asymmetry,
        "negative_part": basis.negative_part,
        "linearity_error": basis.linearity_error,
        "squared_error": basis.squared_error,
        "sure": basis.sure,
        "posterior_error": basis.posterior_error,
        "local_frequency": float(harmonics["local_frequency"][:rank].square().mean().sqrt()),
        "contour_energy": float(harmonics["contour_energy"][:rank].mean()),
        "contour_direction": float(harmonics["contour_direction"][:rank].mean()),
        "local_frequency_chance": chance_frequency(basis.image_shape),
        "overlap_rank": rank,
        "overlap_chance": chance_overlap(rank, rank, d),
        **{
            name: None if other is None else overlap(vectors[:, :rank], other[:, :rank])
            for name, other in others.items()
        },
        "overlap_tangent": None if tangents is None else overlap(vectors[:, : tangents.shape[1]], tangents),
        "overlap_tangent_chance": None if tangents is None else tangents.shape[1] / d,
    }
    return tables.make(schemas.BASIS, shared | long, known), tables.make(schemas.BASIS_SUMMARY, shared | summary, 1)


def _share(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if float(whole) > 0 else 0.0
