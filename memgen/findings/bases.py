"""What the Jacobians of denoisers show: means over images, with intervals and the values expected by chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memgen.base import wording
from memgen.base.estimates import Estimate
from memgen.base.intervals import bootstrap


@dataclass(frozen=True)
class Quantity:
    """A mean over images, and what it is judged against.

    Attributes:
        name: what people read in place of its key.
        definition: what it is, in a sentence or two.
        column: the column of the table BASIS_SUMMARY that is averaged.
        by: the column whose mean divides the mean of `column`; None where nothing does.
        chance: the value of a random basis, or the column that holds it; None where there is no such value.
        unit: unit of the mean.
    """

    name: str
    definition: str
    column: str
    by: str | None = None
    chance: str | float | None = None
    unit: str = ""


QUANTITIES = {
    "trace": Quantity(
        "dimensions kept",
        "tr J, the sum of the eigenvalues: how many dimensions of the noisy image the denoiser keeps.",
        "trace",
        unit="dimensions",
    ),
    "dimension_squares": Quantity(
        "dimensions kept, by squares",
        "The sum of the squared singular values of J.",
        "dimension_squares",
        unit="dimensions",
    ),
    "dimension_99": Quantity(
        "singular values for 99 %",
        "How many of the largest singular values reach 99 % of the sum of all.",
        "dimension_99",
        unit="dimensions",
    ),
    "asymmetry": Quantity("asymmetry of J", "||J - Jᵀ|| / ||J||. It is 0 for an exact posterior mean.", "asymmetry"),
    "negative_part": Quantity(
        "share of negative eigenvalues",
        "The negative part of the sum of the absolute eigenvalues. It is 0 for an exact posterior mean.",
        "negative_part",
    ),
    "squared_error": Quantity(
        "squared error", "||f(y) - x||² / d, the squared error per pixel.", "squared_error", unit="pixel units^2"
    ),
    "sure_ratio": Quantity(
        "Stein's estimate of the error",
        "Stein's unbiased estimate, which does not use x, divided by the squared error. It is 1 on average.",
        "sure",
        "squared_error",
    ),
    "posterior_ratio": Quantity(
        "posterior estimate of the error",
        "σ² tr J / d divided by the squared error. It is 1 on average for an exact posterior mean.",
        "posterior_error",
        "squared_error",
    ),
    "local_frequency": Quantity(
        "frequency of the vectors kept",
        "How fast the first m eigenvectors oscillate from pixel to pixel, root mean square. m is tr J rounded.",
        "local_frequency",
        chance="local_frequency_chance",
        unit="cycles per pixel",
    ),
    "contour_energy": Quantity(
        "energy on the contours",
        "How much of the first m eigenvectors lies on the contours of x, relative to random vectors.",
        "contour_energy",
        chance=1.0,
    ),
    "contour_direction": Quantity(
        "variation across the contours",
        "Whether the first m eigenvectors vary across the contours of x (1) or along them (0).",
        "contour_direction",
        chance=0.5,
    ),
    "overlap_twin": Quantity(
        "overlap with the other model's basis",
        "Overlap of the first m eigenvectors with those of the model trained on the other images. It is 1 where both "
        "span the same space.",
        "overlap_twin",
        chance="overlap_chance",
    ),
    "overlap_dct": Quantity(
        "overlap with the slowest cosines",
        "Overlap of the first m eigenvectors with the m slowest cosines of the discrete cosine transform.",
        "overlap_dct",
        chance="overlap_chance",
    ),
    "overlap_pca": Quantity(
        "overlap with the principal components",
        "Overlap of the first m eigenvectors with the first m principal components of all training images.",
        "overlap_pca",
        chance="overlap_chance",
    ),
    "overlap_tangent": Quantity(
        "overlap with the tangent directions",
        "Overlap of the first eigenvectors with as many directions in which the clean image can move within its class.",
        "overlap_tangent",
        chance="overlap_tangent_chance",
    ),
}


@dataclass(frozen=True)
class Reading:
    """What the Jacobians of one N, or of one imported denoiser, show at one noise level.

    Attributes:
        n_train: size of the training sets; None where it is not known.
        subject: name of the imported denoiser; None for the models of a training-set size.
        sigma: noise level, pixel units.
        images: number of images.
        unconverged: number of bases whose eigenpairs were not found as precisely as requested.
        values: mean over images for each of QUANTITIES, with an interval if there are at least two images.
        chance: value of a random basis, for the quantities that have one.
    """

    n_train: int | None
    subject: str | None
    sigma: float
    images: int
    unconverged: int
    values: Mapping[str, Estimate]
    chance: Mapping[str, float]

    @property
    def label(self) -> str:
        """Heading for people: `N = 64`, or the name of the imported denoiser."""
        return wording.subject_label("cell" if self.subject is None else "imported", self.n_train, self.subject)


def readings(summary: pa.Table, seed: int) -> list[Reading]:
    """Means over images for each N, and for each imported denoiser, at each noise level, with 95 % intervals.

    The values of an image are averaged over twins and training seeds first. A ratio is a ratio of two means.

    Args:
        summary: a BASIS_SUMMARY table.
        seed: seed of the bootstrap.

    Returns:
        A reading for each N and noise level in ascending order, then for each imported denoiser by name.
    """
    names = {name for q in QUANTITIES.values() for name in (q.column, q.by, q.chance)}
    columns = sorted(name for name in names if isinstance(name, str))
    wanted = [(name, "mean") for name in columns] + [("unconverged", "sum")]
    # The denoisers of an N are averaged; an imported one stands for itself.
    of_its_own = pc.if_else(pc.equal(summary["role"], "cell"), pa.scalar(None, pa.string()), summary["subject"])
    named = summary.set_column(summary.column_names.index("subject"), "subject", of_its_own)
    named = named.append_column("unconverged", pc.invert(named["converged"]))
    keys = ["n_train", "subject", "sigma", "image_id"]
    means = named.group_by(keys, use_threads=False).aggregate(wanted)
    rows = means.sort_by([(key, "ascending") for key in keys]).to_pylist()
    found: dict[tuple[int | None, str | None, float], list[dict[str, float]]] = {}
    for row in rows:
        found.setdefault((row["n_train"], row["subject"], row["sigma"]), []).append(row)
    return [
        Reading(*key, len(images), sum(int(row["unconverged_sum"]) for row in images), *_averaged(images, seed))
        for key, images in sorted(found.items(), key=lambda item: item[0][1] or "")
    ]


def by_level(found: Sequence[Reading]) -> list[tuple[float, list[Reading], list[str]]]:
    """Each noise level, ascending, with its readings and the keys of the QUANTITIES that any of them has."""
    levels = {sigma: [reading for reading in found if reading.sigma == sigma] for sigma in {r.sigma for r in found}}
    return [
        (sigma, here, [name for name in QUANTITIES if any(reading.values[name].n for reading in here)])
        for sigma, here in sorted(levels.items())
    ]


def _averaged(images: list[dict[str, float]], seed: int) -> tuple[dict[str, Estimate], dict[str, float]]:
    """The mean over images of each of QUANTITIES, and the values of a random basis."""
    values, chance = {}, {}
    for name, quantity in QUANTITIES.items():
        wanted = [column for column in (quantity.column, quantity.by) if column]
        units = np.array([[row[f"{column}_mean"] for column in wanted] for row in images], dtype=np.float64)
        found = bootstrap(
            units[np.isfinite(units).all(axis=1)],
            lambda draws: draws[..., 0].mean(axis=1) / (draws[..., 1].mean(axis=1) if draws.shape[-1] > 1 else 1),
            seed,
        )
        values[name] = replace(found, unit=quantity.unit)
        if values[name].n and quantity.chance is not None:
            column = quantity.chance
            chance[name] = (
                float(np.mean([row[f"{column}_mean"] for row in images])) if isinstance(column, str) else column
            )
    return values, chance
