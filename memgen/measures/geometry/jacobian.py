"""The Jacobian J = ∂f/∂y of a denoiser at a noisy image: as a matrix, or as products with it.

For an exact posterior mean J = Cov[x|y] / σ²; for the bias-free networks, which are piecewise linear, f(y) = J(y) y.
J is never that of the residual, r = y - f(y), which is I - J.

A closed-form denoiser knows its Jacobian. Near y a bias-free network equals the same network with each ReLU fixed as an
open or closed gate, as it was at y. So one run on y records the gates, and plain runs on unit images give the columns
of J, without automatic differentiation. A unit image is zero but for one pixel, and after a few convolutions it is
still zero outside of a window. The runs take a square tile of pixels at a time and compute only the window. For any
other denoiser, torch.func's reverse mode gives the rows; in our measurements it was faster than forward mode.

Beyond some thousands of pixels the matrix does not fit into memory. Then products J v and Jᵀ v give the largest
eigenvalues of the symmetric part, the trace, the norm and the asymmetry. benchmarks/jacobian.py measures time and
memory.

Source: Mohan, Kadkhodaie, Simoncelli & Fernandez-Granda (ICLR 2020), sections 4 and 5, for J of bias-free networks;
Kadkhodaie et al. (ICLR 2024), eq. 6 and 9; Musco & Musco (NeurIPS 2015), block Krylov iteration; Parlett, The
Symmetric Eigenvalue Problem, 1998, section 4.5, for the bound by residuals; Hutchinson (1989) and Meyer et al. (SOSA
2021) for the trace.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from memgen.base import noise
from memgen.base.errors import ConfigError, ShapeError
from memgen.measures.geometry.gated import Gated, cast_state, is_gated
from memgen.models.denoiser import Denoiser, check_measurable
from memgen.models.known.closed_form import ClosedFormDenoiser, block_numbers

_BLOCK = 8  # directions by which the Krylov space grows, beyond those asked for


def full(denoiser: Denoiser, noisy: Tensor, sigma: Tensor | None = None, chunk: int | None = None) -> Tensor:
    """The Jacobians ∂f_i/∂y_j of a denoiser at noisy images.

    Args:
        denoiser: in eval mode, on the device of `noisy`; it is not changed.
        noisy: (B, C, H, W), float32 or float64; everything is computed in this type.
        sigma: noise levels (B,), pixel units; may be None for a blind denoiser.
        chunk: directions at a time, at least 1; None to fit image and device. It changes the memory needed, and the
            result only by rounding.

    Returns:
        (B, d, d) in the type of `noisy`, d = C·H·W: row i is the gradient of output i.

    Raises:
        ShapeError: the images are not of the denoiser's shape.
        DataError: the denoiser is in train mode.
        ConfigError: the chunk is below 1.
    """
    _check(denoiser, noisy, chunk)
    if isinstance(denoiser, ClosedFormDenoiser):
        return denoiser.jacobian(noisy, sigma).to(noisy.dtype)  # type: ignore[arg-type] # it checks sigma itself
    d = noisy[0].numel()
    # Tiles of about 50 pixels keep both windows and runs small; memory bounds the rows of reverse mode.
    columns, rows = chunk or 49 * noisy.shape[1], chunk or max(1, block_numbers(noisy.device) // (2 * d))
    if is_gated(denoiser):
        return torch.stack([Gated(denoiser, image[None]).matrix(columns) for image in noisy])
    jacobians = []
    for index, image in enumerate(noisy):
        at = function(denoiser, noisy, sigma, index)
        jacobians.append(torch.func.jacrev(at, chunk_size=min(rows, d))(image).reshape(d, d).detach())
    return torch.stack(jacobians)


def function(denoiser: Denoiser, noisy: Tensor, sigma: Tensor | None, index: int) -> Callable[[Tensor], Tensor]:
    """The denoiser as a function of one image (C, H, W), at the noise level of image `index`, in the type of `noisy`.

    A network is run with its weights converted to that type, and detached; the network itself keeps them.
    """
    level = None if sigma is None else sigma[index : index + 1]
    # A closed form has no weights and always computes in float64.
    if not isinstance(denoiser, nn.Module) or next(denoiser.parameters(), None) is None:
        return lambda image: denoiser(image[None], level)[0]
    module, state = denoiser, cast_state(denoiser, noisy.dtype)
    level = None if level is None else level.to(noisy.dtype)

    def at(image: Tensor) -> Tensor:
        denoised: Tensor = torch.func.functional_call(module, state, (image[None], level))[0]
        return denoised

    return at


class Products:
    """J and Jᵀ at one noisy image, applied to directions without the matrix.

    Args:
        denoiser: in eval mode, on the device of `noisy`; it is not changed.
        noisy: (1, C, H, W), float32 or float64; everything is computed in this type.
        sigma: noise level (1,), pixel units; may be None for a blind denoiser.
        chunk: directions at a time, at least 1; None to fit image and device.

    Raises:
        ShapeError: `noisy` is not one image of the denoiser's shape.
        DataError: the denoiser is in train mode.
        ConfigError: the chunk is below 1.
    """

    def __init__(
        self, denoiser: Denoiser, noisy: Tensor, sigma: Tensor | None = None, chunk: int | None = None
    ) -> None:
        _check(denoiser, noisy, chunk)
        if len(noisy) != 1:
            raise ShapeError(f"found {len(noisy)} noisy images, expected 1: products are taken at one image.")
        self.d = noisy.numel()
        self._noisy = noisy
        self._chunk = chunk or max(1, 4 * block_numbers(noisy.device) // self.d)
        self._function = function(denoiser, noisy, sigma, 0)
        self._gated = Gated(denoiser, noisy) if is_gated(denoiser) else None

    def forward(self, directions: Tensor) -> Tensor:
        """J V for directions V in columns: (d, k) to (d, k)."""
        if self._gated is not None:
            return self._gated.products(self._images(directions), self._chunk).flatten(1).T
        image, function = self._noisy[0], self._function
        push = torch.func.vmap(lambda v: torch.func.jvp(function, (image,), (v,))[1], chunk_size=self._chunk)
        return self._columns(push(self._images(directions)))

    def reverse(self, directions: Tensor) -> Tensor:
        """Jᵀ V for directions V in columns: (d, k) to (d, k)."""
        pull = torch.func.vjp(self._function, self._noisy[0])[1]
        return self._columns(torch.func.vmap(lambda v: pull(v)[0], chunk_size=self._chunk)(self._images(directions)))

    def symmetric(self, directions: Tensor) -> Tensor:
        """(J + Jᵀ) V / 2 for directions V in columns: (d, k) to (d, k)."""
        return (self.forward(directions) + self.reverse(directions)) / 2

    def _images(self, directions: Tensor) -> Tensor:
        if directions.ndim != 2 or len(directions) != self.d:
            raise ShapeError(
                f"found directions of shape {tuple(directions.shape)}, expected ({self.d}, k), in columns."
            )
        return directions.to(self._noisy).T.reshape(-1, *self._noisy.shape[1:])

    def _columns(self, images: Tensor) -> Tensor:
        return images.detach().flatten(1).T


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """Approximate eigenpairs of the symmetric part of a Jacobian.

    Attributes:
        eigenvalues: (k,) falling, float64.
        eigenvectors: (d, k) orthonormal, in columns, float64.
        residuals: (k,) norms ||S u - θ u||, float64: S has an eigenvalue within this distance of θ. They do not show
            that no larger eigenvalue was missed, but that can happen only if the iteration was cut short.
        converged: whether all residuals are within the tolerance.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    residuals: Tensor
    converged: bool


def largest(products: Products, k: int, seed: int, tolerance: float = 1e-4, max_products: int = 2000) -> Eigenpairs:
    """The k largest eigenvalues of S = (J + Jᵀ) / 2, by block Krylov iteration with full orthogonalization.

    Starting with k + 8 random directions, the space span(Q, S Q, S² Q, ...) grows by as many directions in each step,
    and S restricted to it gives the eigenpairs (Rayleigh & Ritz).

    Args:
        products: products with J.
        k: number of eigenvalues, from 1 to d.
        seed: seed of the random directions.
        tolerance: residual norm at which an eigenvalue is accepted, as a share of the largest absolute eigenvalue.
        max_products: directions that S is applied to at most; `converged` is False if they do not suffice.

    Raises:
        ConfigError: k is out of range.
    """
    d = products.d
    if not 1 <= k <= d:
        raise ConfigError(f"found k = {k} eigenvalues for a matrix of {d} x {d}, expected 1 to {d}.")
    block = _normals(d, min(d, k + _BLOCK), seed)
    space, image = block.new_empty(d, 0), block.new_empty(d, 0)
    while True:
        for _ in range(2):  # doing it once leaves rounding errors
            block = block - space @ (space.T @ block)
        block, triangle = torch.linalg.qr(block)
        block = block[:, triangle.diagonal().abs() > 1e-12 * triangle.abs().max()]  # an invariant space grows no more
        space = torch.cat([space, block], dim=1)
        image = torch.cat([image, products.symmetric(block).double().cpu()], dim=1)
        small = space.T @ image
        values, vectors = torch.linalg.eigh((small + small.T) / 2)
        best = vectors[:, -k:].flip(1)
        eigenvalues, eigenvectors = values[-k:].flip(0), space @ best
        residuals = (image @ best - eigenvectors * eigenvalues).norm(dim=0)
        converged = bool((residuals <= tolerance * values.abs().max()).all())
        width = min(block.shape[1], d - space.shape[1])
        if converged or not width or space.shape[1] + width > max_products:
            return Eigenpairs(eigenvalues, eigenvectors, residuals, converged)
        block = image[:, -block.shape[1] :][:, :width]


@dataclass(frozen=True)
class Moments:
    """Sums over a whole Jacobian J, estimated from random directions.

    Attributes:
        trace: tr J.
        trace_error: its standard error; 0 if the given span was the whole space.
        squares: tr JᵀJ = ||J||², the sum of the squared singular values.
        asymmetry: ||J - Jᵀ|| / ||J||, Frobenius norms, in [0, 2]; 0 if J is 0.
    """

    trace: float
    trace_error: float
    squares: float
    asymmetry: float


def moments(products: Products, probes: int, seed: int, item: str = "", span: Tensor | None = None) -> Moments:
    """Trace, norm and asymmetry of J from products with random signs v: E vᵀ J v = tr J, E ||J v||² = ||J||².

    On a given span that holds most of J, such as that of its largest eigenvectors, everything is computed exactly.
    Random directions estimate only what is orthogonal to it, so the error is that of this rest alone.

    Args:
        products: products with J.
        probes: number of random directions, at least 2.
        seed: seed of the signs; probe i depends on (seed, item, i) alone.
        item: name of what J belongs to, such as an image; other items have independent signs.
        span: (d, k) orthonormal, in columns; None for none.

    Raises:
        ConfigError: there are fewer than two probes, which have no standard error.

    Source: Hutchinson, Communications in Statistics 18, 1989, 1059-1076; Meyer, Musco, Musco & Woodruff, Hutch++:
    Optimal Stochastic Trace Estimation, SOSA 2021, for the span.
    """
    if probes < 2:
        raise ConfigError(f"found {probes} probes, expected at least 2, for a standard error.")
    streams = [noise.stream(f"jacobian/probe/{item}", seed, index) for index in range(probes)]
    signs = torch.stack([torch.from_numpy(stream.choice([-1.0, 1.0], products.d)) for stream in streams], dim=1)
    inside = signs.new_empty(products.d, 0) if span is None else span.to(signs)
    outside = signs - inside @ (inside.T @ signs)
    directions = torch.cat([inside, outside], dim=1)
    pushed, pulled = (products_of(directions).double().cpu() for products_of in (products.forward, products.reverse))
    k = inside.shape[1]

    def total(values: Tensor) -> tuple[float, float]:
        """The exact sum on the span plus the mean over probes outside of it, and its standard error."""
        error = 0.0 if k == products.d else float(values[k:].std()) / math.sqrt(probes)
        return float(values[:k].sum() + values[k:].mean()), error

    trace, error = total((directions * pushed).sum(dim=0))
    squares, skew = (total(images.square().sum(dim=0))[0] for images in (pushed, pushed - pulled))
    return Moments(trace, error, squares, math.sqrt(skew / squares) if squares > 0 else 0.0)


def _normals(d: int, k: int, seed: int) -> Tensor:
    columns = [noise.stream("jacobian/krylov", seed, index).standard_normal(d) for index in range(k)]
    return torch.stack([torch.from_numpy(column) for column in columns], dim=1)


def _check(denoiser: Denoiser, noisy: Tensor, chunk: int | None) -> None:
    check_measurable(denoiser, noisy, [str(index) for index in range(len(noisy))])
    if chunk is not None and chunk < 1:
        raise ConfigError(f"found a chunk of {chunk} directions, expected at least 1.")
