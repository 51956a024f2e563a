"""The basis in which a denoiser shrinks: eigenvectors of its Jacobian, and how they fit the image.

Near a noisy image y = x + σz a denoiser acts as its Jacobian J. With λ_k and e_k the eigenvalues and eigenvectors of
the symmetric part (J + Jᵀ) / 2, a bias-free network gives f(y) = J y ≈ Σ_k λ_k ⟨y, e_k⟩ e_k: shrinkage factors in a
basis that it adapts to the image. The exact posterior mean has J symmetric with eigenvalues of at least 0, and then

    E ||f(y) - x||² = σ² E tr J;    for any denoiser    E ||f(y) - x||² = E [ ||y - f(y)||² - σ² d + 2σ² tr J ]  (SURE)

The effective dimension has three definitions in use: tr J; the sum of the squared singular values; the number of
singular values, largest first, that reach 99 % of their sum.

Measures of how a set of vectors fits an image, or another set, each say what a random basis would give. Of each N and
noise level, means over images are taken with intervals, since images are the independent units.

Source: Kadkhodaie et al. (ICLR 2024), section 3.1 and eq. 6, 7 and 10; Mohan et al. (ICLR 2020), section 5, for squared
singular values; Stein 1981 for SURE; Björck & Golub 1973 for principal angles.
"""

import math
from collections.abc import Mapping
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
    """At which noisy images Jacobians are taken."""

    sigmas: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.1,), min_length=1, description="standard deviations of the noise, pixel units"
    )
    n_images: int = Field(8, ge=1, description="held-out images, the first in rank order")


@dataclass(frozen=True, eq=False)
class Basis:
    """The Jacobian J of a denoiser at one noisy image, taken apart; all tensors float64, on the CPU.

    Attributes:
        image_shape: (C, H, W); d = C·H·W.
        sigma: noise level of the noisy image, pixel units.
        eigenvalues: (d,) of (J + Jᵀ) / 2, falling: the shrinkage factors.
        eigenvectors: (d, d), in columns.
        singular_values: (d,) of J, falling.
        asymmetry: ||J - Jᵀ|| / ||J||, Frobenius norms, in [0, 2]; 0 for an exact posterior mean.
        linearity_error: ||J y - f(y)|| / ||f(y)||; 0 but for rounding for a bias-free network.
        coefficients_clean: (d,) ⟨x, e_k⟩.
        coefficients_noisy: (d,) ⟨y, e_k⟩.
        squared_error: ||f(y) - x||² / d, pixel units squared.
        sure: Stein's estimate of it, which does not look at x.
    """

    image_shape: ImageShape
    sigma: float
    eigenvalues: Tensor
    eigenvectors: Tensor
    singular_values: Tensor
    asymmetry: float
    linearity_error: float
    coefficients_clean: Tensor
    coefficients_noisy: Tensor
    squared_error: float
    sure: float

    @property
    def trace(self) -> float:
        """tr J = Σ λ_k, the effective dimension of Kadkhodaie et al."""
        return float(self.eigenvalues.sum())

    @property
    def dimension_squares(self) -> float:
        """Σ s_k² over the singular values, the effective dimension of Mohan et al."""
        return float(self.singular_values.square().sum())

    @property
    def dimension_99(self) -> int:
        """The least number of singular values that sum to 99 % of all; 0 where J = 0."""
        total = self.singular_values.cumsum(0)
        return int((total < 0.99 * total[-1]).sum()) + 1 if float(total[-1]) > 0 else 0

    @property
    def negative_part(self) -> float:
        """Σ |λ_k| over the negative eigenvalues, as a share of Σ |λ_k|; in [0, 1], 0 for an exact posterior mean."""
        total = float(self.eigenvalues.abs().sum())
        return float(self.eigenvalues.clamp(max=0).abs().sum()) / total if total > 0 else 0.0

    @property
    def posterior_error(self) -> float:
        """σ² tr J / d: what the exact posterior mean's squared error is on average, pixel units squared."""
        return self.sigma**2 * self.trace / len(self.eigenvalues)


def eigenbasis(denoiser: Denoiser, clean: Tensor, noisy: Tensor, sigma: float, chunk: int | None = None) -> Basis:
    """The basis in which a denoiser shrinks a noisy image.

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
    if clean.shape != noisy.shape:
        raise ShapeError(f"clean image of shape {tuple(clean.shape)}, noisy one of shape {tuple(noisy.shape)}.")
    batch, level = noisy[None], noisy.new_tensor([sigma])
    matrix = jacobian.full(denoiser, batch, level, chunk)[0].double()
    with torch.no_grad():
        denoised = jacobian.function(denoiser, batch, level, 0)(noisy).double().flatten()
    if not bool(matrix.isfinite().all()):
        raise DataError("the Jacobian of the denoiser is not finite at this image. Check its weights and the image.")
    x, y = clean.double().flatten(), noisy.double().flatten()
    eigenvalues, eigenvectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    eigenvalues, eigenvectors = eigenvalues.flip(0), eigenvectors.flip(1)
    residual = float((y - denoised).square().mean())
    return Basis(
        image_shape=(clean.shape[0], clean.shape[1], clean.shape[2]),
        sigma=sigma,
        eigenvalues=eigenvalues.cpu(),
        eigenvectors=eigenvectors.cpu(),
        singular_values=torch.linalg.svdvals(matrix).cpu(),
        asymmetry=_share((matrix - matrix.T).norm(), matrix.norm()),
        linearity_error=_share((matrix @ y - denoised).norm(), denoised.norm()),
        coefficients_clean=(x @ eigenvectors).cpu(),
        coefficients_noisy=(y @ eigenvectors).cpu(),
        squared_error=float((denoised - x).square().mean()),
        sure=residual - sigma**2 + 2 * sigma**2 * float(matrix.trace()) / len(x),
    )


def local_frequency(vectors: Tensor, image_shape: ImageShape) -> Tensor:
    """How fast each vector oscillates: the root mean square of its gradient over that of itself, in cycles.

    f = sqrt(Σ |∇e|² / Σ e²) / 2π, with differences between neighboring pixels as the gradient; a slow cosine of f
    cycles per pixel has f. The mean of f² over all vectors of an orthonormal basis is the same for every basis,
    (1 - 1/H + 1 - 1/W) / 2π²; bases differ in which of their vectors are slow. A random vector has about its root,
    0.31 at 28x28.

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


def dct(image_shape: ImageShape) -> Tensor:
    """The orthonormal discrete cosine basis (DCT-II), in each channel alike, slowest first.

    Args:
        image_shape: (C, H, W); d = C·H·W.

    Returns:
        (d, d) float64, in columns; the channels of a frequency follow each other, and frequencies are in the order
        of `local_frequency`.
    """
    channels, height, width = image_shape
    products = torch.einsum("ya,xb->yxab", _cosines(height), _cosines(width)).reshape(height * width, -1)
    order = local_frequency(products, (1, height, width)).argsort(stable=True)
    # kron numbers rows (channel, pixel) if the channel's identity comes first, but columns must go the other way.
    basis = torch.kron(torch.eye(channels, dtype=torch.float64), products[:, order])
    d = channels * height * width
    return basis.view(d, channels, height * width).transpose(1, 2).reshape(d, d)


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
    from 1 to d; with t tangents, between the first t and the tangents.

    Args:
        basis: of one noisy image.
        clean: (C, H, W), the clean image.
        image_id: its content id.
        noise_draw: which noise image was added.
        keys: values of the columns denoiser, n_train, part and train_seed.
        twin: the basis of the twin model at the same noisy image; None if there is none.
        principal: (d, p) principal components of images, in columns, largest first; None if not known. Where p is
            below m the overlap is null.
        tangents: (d, t) directions in which the clean image can move, in columns; None if not known.

    Returns:
        A BASIS table of d rows, and a BASIS_SUMMARY table of one.

    Raises:
        ShapeError: basis and image do not fit.
    """
    clean = clean.cpu()
    d, vectors = len(basis.eigenvalues), basis.eigenvectors
    shared = {**keys, "image_id": image_id, "sigma": basis.sigma, "noise_draw": noise_draw}
    long = {
        "k": list(range(1, d + 1)),
        "eigenvalue": basis.eigenvalues,
        "singular_value": basis.singular_values,
        "coefficient_clean": basis.coefficients_clean,
        "coefficient_noisy": basis.coefficients_noisy,
        "local_frequency": local_frequency(vectors, basis.image_shape),
        "contour_energy": contour_energy(vectors, clean),
        "contour_direction": contour_direction(vectors, clean),
    }
    rank = min(d, max(1, round(basis.trace)))
    others = {
        "overlap_dct": dct(basis.image_shape),
        "overlap_pca": None if principal is None or principal.shape[1] < rank else principal,
        "overlap_twin": None if twin is None else twin.eigenvectors,
    }
    summary = {
        "trace": basis.trace,
        "dimension_squares": basis.dimension_squares,
        "dimension_99": basis.dimension_99,
        "asymmetry": basis.asymmetry,
        "negative_part": basis.negative_part,
        "linearity_error": basis.linearity_error,
        "squared_error": basis.squared_error,
        "sure": basis.sure,
        "posterior_error": basis.posterior_error,
        "overlap_rank": rank,
        "overlap_chance": chance_overlap(rank, rank, d),
        **{
            name: None if other is None else overlap(vectors[:, :rank], other[:, :rank])
            for name, other in others.items()
        },
        "overlap_tangent": None if tangents is None else overlap(vectors[:, : tangents.shape[1]], tangents),
        "overlap_tangent_chance": None if tangents is None else tangents.shape[1] / d,
    }
    return tables.make(tables.BASIS, shared | long, d), tables.make(tables.BASIS_SUMMARY, shared | summary, 1)


@dataclass(frozen=True)
class Quantity:
    """A mean over images, and what it is judged against.

    Attributes:
        text: what it says.
        column: of the table BASIS_SUMMARY, that is averaged.
        by: the column whose mean divides that of `column`; None for none.
        chance: the column with what a random basis would give; None where there is no such thing.
        unit: of the mean.
    """

    text: str
    column: str
    by: str | None = None
    chance: str | None = None
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
    """What the Jacobians of one N and noise level say.

    Attributes:
        n_train: size of the training sets.
        sigma: noise level, pixel units.
        images: how many.
        values: means over images by name of QUANTITIES, with intervals where there are at least two images.
        chance: what a random basis would give, for those that have such a thing.
    """

    n_train: int
    sigma: float
    images: int
    values: Mapping[str, Interval]
    chance: Mapping[str, float]

    def told(self, name: str) -> tuple[Interval, str, str, float | None]:
        """One of QUANTITIES: interval, unit, text, and what a random basis would give; None without such a thing."""
        quantity = QUANTITIES[name]
        return self.values[name], quantity.unit, quantity.text, self.chance.get(name)


def readings(summary: pa.Table, seed: int) -> list[Reading]:
    """Means over images of each N and noise level, with 95 % bootstrap intervals.

    Each image is averaged over twins and training seeds first. A ratio is that of two means.

    Args:
        summary: a BASIS_SUMMARY table.
        seed: of the bootstrap.

    Returns:
        One reading for each N and noise level, in ascending order.
    """
    columns = sorted({name for q in QUANTITIES.values() for name in (q.column, q.by, q.chance) if name})
    known = summary.filter(pc.is_valid(summary["n_train"]))
    keys = ["n_train", "sigma", "image_id"]
    means = known.group_by(keys, use_threads=False).aggregate([(name, "mean") for name in columns])
    rows = means.sort_by([(key, "ascending") for key in keys]).to_pylist()
    found: dict[tuple[int, float], list[dict[str, float | None]]] = {}
    for row in rows:
        found.setdefault((row["n_train"], row["sigma"]), []).append({name: row[f"{name}_mean"] for name in columns})
    return [_reading(n_train, sigma, images, seed) for (n_train, sigma), images in found.items()]


def _reading(n_train: int, sigma: float, images: list[dict[str, float | None]], seed: int) -> Reading:
    values, chance = {}, {}
    for name, quantity in QUANTITIES.items():
        wanted = [column for column in (quantity.column, quantity.by) if column]
        units = np.array([[row[column] for column in wanted] for row in images], dtype=np.float64)
        values[name] = bootstrap(
            units[np.isfinite(units).all(axis=1)],
            lambda draws: draws[..., 0].mean(axis=1) / (draws[..., 1].mean(axis=1) if draws.shape[-1] > 1 else 1),
            seed,
        )
        by_chance = [row[quantity.chance] for row in images] if quantity.chance else []
        if values[name].n and by_chance:
            chance[name] = float(np.mean(np.array(by_chance, dtype=np.float64)))
    return Reading(n_train, sigma, len(images), values, chance)


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
