"""The basis in which a denoiser shrinks: eigenvectors of its Jacobian, and how they fit the image.

Near a noisy image y = x + σz a denoiser acts as its Jacobian J. With λ_k and e_k the eigenvalues and eigenvectors of
the symmetric part (J + Jᵀ) / 2, a bias-free network gives f(y) = J y ≈ Σ_k λ_k ⟨y, e_k⟩ e_k: shrinkage factors in a
basis that it adapts to the image. The exact posterior mean has J symmetric with eigenvalues of at least 0, and then

    E ||f(y) - x||² = σ² E tr J;    for any denoiser    E ||f(y) - x||² = E [ ||y - f(y)||² - σ² d + 2σ² tr J ]  (SURE)

The effective dimension has three definitions in use: tr J; the sum of the squared singular values; the number of
singular values, largest first, that reach 99 % of their sum.

Where images have too many pixels for a matrix, the largest eigenpairs are found from products with J, and sums over
all of them are estimated from random directions (see `jacobian`); what needs every singular value is then unknown.

Measures of how a set of vectors fits an image, or another set, each say what a random basis would give. Of each N and
noise level, means over images are taken with intervals, since images are the independent units.

Source: Kadkhodaie et al. (ICLR 2024), section 3.1 and eq. 6, 7 and 10; Mohan et al. (ICLR 2020), section 5, for squared
singular values; Stein 1981 for SURE; Björck & Golub 1973 for principal angles.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field
from torch import Tensor

from memgen import jacobian, tables
from memgen.config import Settings
from memgen.denoisers import Denoiser, ImageShape
from memgen.errors import DataError, ShapeError
from memgen.intervals import Interval, bootstrap


class BasisSettings(Settings):
    """At which noisy images Jacobians are taken, and what is kept of them."""

    sigmas: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.1,), min_length=1, description="standard deviations of the noise, pixel units"
    )
    n_images: int = Field(8, ge=1, description="held-out images, the first in rank order")
    vectors: int = Field(64, ge=1, description="eigenvectors kept as images; of large images, no others are found")
    probes: int = Field(32, ge=2, description="random directions, for sums over all eigenvalues of large images")


@dataclass(frozen=True, eq=False)
class Basis:
    """The Jacobian J of a denoiser at one noisy image, taken apart; all tensors float64, on the CPU.

    Of d eigenpairs all k = d are there if J was made as a matrix, or else the k largest.

    Attributes:
        image_shape: (C, H, W); d = C·H·W.
        sigma: noise level of the noisy image, pixel units.
        eigenvalues: (k,) of (J + Jᵀ) / 2, falling: the shrinkage factors.
        eigenvectors: (d, k), in columns.
        residual: the eigenvalues are within this of true ones; 0 if J was made as a matrix.
        converged: whether the residual is as small as was asked for.
        singular_values: (d,) of J, falling; None without the matrix.
        trace: tr J = Σ λ_k, the effective dimension of Kadkhodaie et al.
        trace_error: its standard error over random directions; 0 if J was made as a matrix.
        dimension_squares: Σ s_k² over the singular values, the effective dimension of Mohan et al.
        asymmetry: ||J - Jᵀ|| / ||J||, Frobenius norms, in [0, 2]; 0 for an exact posterior mean.
        linearity_error: ||J y - f(y)|| / ||f(y)||; 0 but for rounding for a bias-free network.
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
        """The least number of singular values that sum to 99 % of all, 0 where J = 0; None where they are unknown."""
        if self.singular_values is None:
            return None
        total = self.singular_values.cumsum(0)
        return int((total < 0.99 * total[-1]).sum()) + 1 if float(total[-1]) > 0 else 0

    @property
    def negative_part(self) -> float | None:
        """Σ |λ_k| over the negative eigenvalues, as a share of Σ |λ_k|; in [0, 1], 0 for an exact posterior mean.

        None where not all eigenvalues are known.
        """
        if len(self.eigenvalues) < self.d:
            return None
        total = float(self.eigenvalues.abs().sum())
        return float(self.eigenvalues.clamp(max=0).abs().sum()) / total if total > 0 else 0.0

    @property
    def posterior_error(self) -> float:
        """σ² tr J / d: what the exact posterior mean's squared error is on average, pixel units squared."""
        return self.sigma**2 * self.trace / self.d


def eigenbasis(denoiser: Denoiser, clean: Tensor, noisy: Tensor, sigma: float, chunk: int | None = None) -> Basis:
    """The basis in which a denoiser shrinks a noisy image, from its Jacobian as a matrix.

    Args:
        denoiser: in eval mode, on the device of the images; it is left as it is.
        clean: (C, H, W), [0, 1], the x.
        noisy: (C, H, W), the y = x + σz, in the same units, not clipped; float32 or float64, in which J is computed.
        sigma: noise level, pixel units.
        chunk: directions at a time (see `memgen.jacobian.full`).

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
    """The basis in which a denoiser shrinks a noisy image, as far as its largest eigenvalues: J is never a matrix.

    Args:
        denoiser: in eval mode, on the device of the images; it is left as it is.
        clean: (C, H, W), [0, 1], the x.
        noisy: (C, H, W), the y = x + σz, in the same units, not clipped; float32 or float64, in which J is applied.
        sigma: noise level, pixel units.
        k: eigenpairs to find, from 1 to d.
        probes: random directions for the sums over all eigenvalues, at least 2.
        seed: of what is random.
        item: the image, so that each has random directions of its own.

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
        raise ShapeError(f"clean image of shape {tuple(clean.shape)}, noisy one of shape {tuple(noisy.shape)}.")


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
    """What is known of eigenpairs, singular values, sums and J y, put beside the images."""
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


def local_frequency(vectors: Tensor, image_shape: ImageShape) -> Tensor:
    """How fast each vector oscillates: the root mean square of its gradient over that of itself, in cycles.

    f = sqrt(Σ |∇e|² / Σ e²) / 2π, with differences between neighboring pixels as the gradient; a slow cosine of f
    cycles per pixel has f. The mean of f² over all vectors of an orthonormal basis is the same for every basis,
    (1 - 1/H + 1 - 1/W) / 2π²; bases differ in which of their vectors are slow. A random vector has about its root
    (see `chance_frequency`).

    Args:
        vectors: (d, k), in columns.
        image_shape: (C, H, W) with C·H·W = d.

    Returns:
        (k,) cycles per pixel; NaN for a vector of zeros.

    Raises:
        ShapeError: the vectors are not of that shape.
    """
    images = _images(vectors, image_shape)
    squares = sum(images.diff(dim=axis).square().flatten(1).sum(dim=1) for axis in (2, 3))
    return (squares / images.square().flatten(1).sum(dim=1)).sqrt() / (2 * math.pi)


def chance_frequency(image_shape: ImageShape) -> float:
    """The root mean square of `local_frequency` over any whole basis, and so of random vectors: 0.31 at 28x28."""
    _, height, width = image_shape
    return math.sqrt((2 - 1 / height - 1 / width) / 2) / math.pi


def contour_energy(vectors: Tensor, clean: Tensor) -> Tensor:
    """How much of each vector lies on the contours of an image, as a multiple of what a random vector has there.

    Σ_p e(p)² g(p) / mean of g over pixels, for unit vectors e and g = |∇x|² the squared gradient of the clean image,
    summed over channels, by central differences, without the pixels at the border.

    Args:
        vectors: (d, k), in columns.
        clean: (C, H, W), sides of at least 3.

    Returns:
        (k,) of at least 0; 1 is expected of a random vector, and is the mean over any orthonormal basis. NaN where the
        image is constant.

    Raises:
        ShapeError: vectors and image do not fit, or a side is below 3.
    """
    images, contours = _images(vectors, tuple(clean.shape)), torch.zeros_like(clean, dtype=torch.float64)
    inside = sum(part.square().sum(dim=0) for part in _gradient(clean.double()))
    contours[:, 1:-1, 1:-1] = inside
    on = (images.square() * contours).flatten(1).sum(dim=1)
    return on / images.square().flatten(1).sum(dim=1) / contours.mean()


def contour_direction(vectors: Tensor, clean: Tensor) -> Tensor:
    """Whether each vector varies across the contours of an image (1) or along them (0).

    Σ_p (∇e · ∇x)² / Σ_p |∇e|² |∇x|², gradients by central differences, within each channel, without the border.

    Args:
        vectors: (d, k), in columns.
        clean: (C, H, W), sides of at least 3.

    Returns:
        (k,) in [0, 1]; about 1/2 for a random vector, and 1/2 for an orthonormal basis as a whole. NaN where the image
        or the vector is constant.

    Raises:
        ShapeError: vectors and image do not fit, or a side is below 3.
    """
    down, right = _gradient(_images(vectors, tuple(clean.shape)))
    x_down, x_right = _gradient(clean.double())
    along = (down * x_down + right * x_right).square()
    both = (down.square() + right.square()) * (x_down.square() + x_right.square())
    return along.flatten(1).sum(dim=1) / both.flatten(1).sum(dim=1)


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """The principal angles between the spans of two sets of vectors, those of twin models say.

    Args:
        a: (d, k), in columns, linearly independent.
        b: (d, m), likewise.

    Returns:
        (min(k, m),) radians in [0, π/2], rising; 0 where the spans share a direction. Precise near 0 too, where
        arccos of the cosines is not.

    Raises:
        ShapeError: the vectors differ in length.
    """
    first, second = _orthonormal(a, b)
    if first.shape[1] < second.shape[1]:
        first, second = second, first
    product = first.T @ second
    cosines = torch.linalg.svdvals(product).clamp(max=1)
    sines = torch.linalg.svdvals(second - first @ product).flip(0).clamp(max=1)
    return torch.where(cosines.square() < 0.5, cosines.arccos(), sines.arcsin())


def overlap(a: Tensor, b: Tensor) -> float:
    """How much of the smaller of two spans lies in the other: the mean of cos² of their principal angles.

    Args:
        a: (d, k), in columns, linearly independent.
        b: (d, m), likewise.

    Returns:
        In [0, 1]; 1 where one contains the other. Random spans have max(k, m) / d on average (see `chance_overlap`).

    Raises:
        ShapeError: the vectors differ in length.
    """
    first, second = _orthonormal(a, b)
    return float((first.T @ second).square().sum()) / min(first.shape[1], second.shape[1])


def chance_overlap(k: int, m: int, d: int) -> float:
    """The overlap expected of random spans of k and m of d dimensions."""
    return max(k, m) / d


def dct(image_shape: ImageShape, count: int | None = None) -> Tensor:
    """The orthonormal discrete cosine basis (DCT-II), in each channel alike, slowest first.

    Args:
        image_shape: (C, H, W); d = C·H·W.
        count: how many of the slowest, at most d; None for all.

    Returns:
        (d, count) float64, in columns; the channels of a frequency follow each other, and frequencies are in the order
        of `local_frequency`.
    """
    channels, height, width = image_shape
    count = count or channels * height * width
    # The squared gradient of a cosine between free borders is known, so that the others need not be made.
    down, right = (np.sin(np.pi * np.arange(side) / (2 * side)) ** 2 for side in (height, width))
    order = np.argsort((down[:, None] + right).ravel(), kind="stable")[: -(-count // channels)]
    rows, columns = np.divmod(order, width)
    products = torch.einsum("yk,xk->kyx", _cosines(height)[:, rows], _cosines(width)[:, columns])
    vectors = products.new_zeros(len(order), channels, channels, height, width)
    for channel in range(channels):
        vectors[:, channel, channel] = products
    return vectors.view(-1, channels * height * width)[:count].T


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

    Overlaps are between the first m eigenvectors and the first m vectors of the other basis, m the trace rounded,
    from 1 to the number of eigenvectors known; with t tangents, between the first t and the tangents.

    Args:
        basis: of one noisy image.
        clean: (C, H, W), the clean image.
        image_id: its content id.
        noise_draw: which noise image was added.
        keys: values of the columns denoiser, n_train, part and train_seed.
        twin: the basis of the twin model at the same noisy image, with as many eigenvectors; None if there is none.
        principal: (d, p) principal components of images, in columns, largest first; None if not known. Where p is
            below m the overlap is null.
        tangents: (d, t) directions in which the clean image can move, in columns; None if not known.

    Returns:
        A BASIS table of a row for each eigenpair, and a BASIS_SUMMARY table of one.

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
    return tables.make(tables.BASIS, shared | long, known), tables.make(tables.BASIS_SUMMARY, shared | summary, 1)


@dataclass(frozen=True)
class Quantity:
    """A mean over images, and what it is judged against.

    Attributes:
        text: what it says.
        column: of the table BASIS_SUMMARY, that is averaged.
        by: the column whose mean divides that of `column`; None for none.
        chance: what a random basis would give, or the column that has it; None where there is no such thing.
        unit: of the mean.
    """

    text: str
    column: str
    by: str | None = None
    chance: str | float | None = None
    unit: str = ""


QUANTITIES = {
    "trace": Quantity("tr J: how many dimensions the denoiser keeps", "trace", unit="dimensions"),
    "dimension_squares": Quantity("the same by squared singular values", "dimension_squares", unit="dimensions"),
    "dimension_99": Quantity("singular values that reach 99 % of their sum", "dimension_99", unit="dimensions"),
    "asymmetry": Quantity("||J - Jᵀ|| / ||J||; the exact posterior mean has 0", "asymmetry"),
    "negative_part": Quantity("negative eigenvalues' share; the exact posterior mean has 0", "negative_part"),
    "squared_error": Quantity("||f(y) - x||² / d", "squared_error", unit="pixel units^2"),
    "sure_ratio": Quantity("Stein's estimate over that error; 1 on average", "sure", "squared_error"),
    "posterior_ratio": Quantity(
        "sigma^2 tr J / d over that error; 1 on average for a posterior mean", "posterior_error", "squared_error"
    ),
    "local_frequency": Quantity(
        "of the m = tr J vectors kept: how fast they oscillate, rms",
        "local_frequency",
        chance="local_frequency_chance",
        unit="cycles per pixel",
    ),
    "contour_energy": Quantity("of these: how much of them lies on the contours of x", "contour_energy", chance=1.0),
    "contour_direction": Quantity(
        "of these: whether they vary across contours (1) or along them (0)", "contour_direction", chance=0.5
    ),
    "overlap_twin": Quantity("with the twin's eigenvectors: one basis is 1", "overlap_twin", chance="overlap_chance"),
    "overlap_dct": Quantity("with as many of the slowest cosines", "overlap_dct", chance="overlap_chance"),
    "overlap_pca": Quantity(
        "with as many principal components of all training images", "overlap_pca", chance="overlap_chance"
    ),
    "overlap_tangent": Quantity(
        "with the directions in which the clean image can move", "overlap_tangent", chance="overlap_tangent_chance"
    ),
}


@dataclass(frozen=True)
class Reading:
    """What the Jacobians of one N, or of one imported denoiser, say at one noise level.

    Attributes:
        n_train: size of the training sets; None for an imported denoiser.
        denoiser: name of the imported denoiser; None for all that were trained at an N.
        sigma: noise level, pixel units.
        images: how many.
        unconverged: bases whose eigenpairs were not found as precisely as was asked for.
        values: means over images by name of QUANTITIES, with intervals where there are at least two images.
        chance: what a random basis would give, for those that have such a thing.
    """

    n_train: int | None
    denoiser: str | None
    sigma: float
    images: int
    unconverged: int
    values: Mapping[str, Interval]
    chance: Mapping[str, float]

    @property
    def label(self) -> str:
        """What it is of, for people."""
        return tables.model_label(self.n_train, self.denoiser)

    def told(self, name: str) -> tuple[Interval, str, str, float | None]:
        """One of QUANTITIES: interval, unit, text, and what a random basis would give; None without such a thing."""
        quantity = QUANTITIES[name]
        return self.values[name], quantity.unit, quantity.text, self.chance.get(name)


def readings(summary: pa.Table, seed: int) -> list[Reading]:
    """Means over images of each N (or imported denoiser) and noise level, with 95 % bootstrap intervals.

    Each image is averaged over twins and training seeds first. A ratio is that of two means.

    Args:
        summary: a BASIS_SUMMARY table.
        seed: of the bootstrap.

    Returns:
        One reading for each N and noise level, in ascending order, and then for each imported denoiser.
    """
    names = {name for q in QUANTITIES.values() for name in (q.column, q.by, q.chance)}
    columns = sorted(name for name in names if isinstance(name, str))
    wanted = [(name, "mean") for name in columns] + [("unconverged", "sum")]
    # All denoisers of an N are read together; one that was imported stands for itself.
    of_its_own = pc.if_else(pc.is_null(summary["n_train"]), summary["denoiser"], pa.scalar(None, pa.string()))
    named = summary.set_column(summary.column_names.index("denoiser"), "denoiser", of_its_own)
    named = named.append_column("unconverged", pc.invert(named["converged"]))
    keys = ["n_train", "denoiser", "sigma", "image_id"]
    means = named.group_by(keys, use_threads=False).aggregate(wanted)
    rows = means.sort_by([(key, "ascending") for key in keys]).to_pylist()  # nulls come last
    found: dict[tuple[int | None, str | None, float], list[dict[str, float]]] = {}
    for row in rows:
        found.setdefault((row["n_train"], row["denoiser"], row["sigma"]), []).append(row)
    return [
        Reading(*key, len(images), sum(int(row["unconverged_sum"]) for row in images), *_averaged(images, seed))
        for key, images in found.items()
    ]


def by_level(found: Sequence[Reading]) -> list[tuple[float, list[Reading], list[str]]]:
    """Noise levels, ascending, with the readings of each and the names of QUANTITIES that any of them has."""
    levels = {sigma: [reading for reading in found if reading.sigma == sigma] for sigma in {r.sigma for r in found}}
    return [
        (sigma, here, [name for name in QUANTITIES if any(reading.values[name].n for reading in here)])
        for sigma, here in sorted(levels.items())
    ]


def _averaged(images: list[dict[str, float]], seed: int) -> tuple[dict[str, Interval], dict[str, float]]:
    """Means over images of each of QUANTITIES, and what a random basis would give."""
    values, chance = {}, {}
    for name, quantity in QUANTITIES.items():
        wanted = [column for column in (quantity.column, quantity.by) if column]
        units = np.array([[row[f"{column}_mean"] for column in wanted] for row in images], dtype=np.float64)
        values[name] = bootstrap(
            units[np.isfinite(units).all(axis=1)],
            lambda draws: draws[..., 0].mean(axis=1) / (draws[..., 1].mean(axis=1) if draws.shape[-1] > 1 else 1),
            seed,
        )
        if values[name].n and quantity.chance is not None:
            column = quantity.chance
            chance[name] = (
                float(np.mean([row[f"{column}_mean"] for row in images])) if isinstance(column, str) else column
            )
    return values, chance


def _share(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if float(whole) > 0 else 0.0


def _images(vectors: Tensor, image_shape: tuple[int, ...]) -> Tensor:
    """Vectors in columns as images (k, C, H, W) float64."""
    if vectors.ndim != 2 or len(image_shape) != 3 or len(vectors) != math.prod(image_shape):
        raise ShapeError(f"vectors of shape {tuple(vectors.shape)}, expected (C·H·W, k) for images of {image_shape}.")
    return vectors.double().T.reshape(-1, *image_shape)


def _gradient(images: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences down and to the right of (..., H, W): two (..., H - 2, W - 2)."""
    if min(images.shape[-2:]) < 3:
        raise ShapeError(f"images of {tuple(images.shape[-2:])} pixels, expected sides of at least 3 for contours.")
    down = (images[..., 2:, 1:-1] - images[..., :-2, 1:-1]) / 2
    return down, (images[..., 1:-1, 2:] - images[..., 1:-1, :-2]) / 2


def _orthonormal(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
        raise ShapeError(f"vectors of shapes {tuple(a.shape)} and {tuple(b.shape)}, expected (d, k) and (d, m).")
    return torch.linalg.qr(a.double())[0], torch.linalg.qr(b.double())[0]


def _cosines(n: int) -> Tensor:
    """(n, n) orthonormal cosines, in columns, frequency rising."""
    position, frequency = np.arange(n)[:, None], np.arange(n)
    scale = np.where(frequency == 0, 1 / n, 2 / n) ** 0.5
    return torch.from_numpy(scale * np.cos(np.pi * (position + 0.5) * frequency / n))
