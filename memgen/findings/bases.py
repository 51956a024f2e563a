"""What the Jacobians of denoisers say: means over images, with intervals and chance values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memgen.base import wording
from memgen.base.estimates import Interval
from memgen.base.intervals import bootstrap


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
        subject: name of the imported denoiser; None for all that were trained at an N.
        sigma: noise level, pixel units.
        images: how many.
        unconverged: bases whose eigenpairs were not found as precisely as was asked for.
        values: means over images by name of QUANTITIES, with intervals where there are at least two images.
        chance: what a random basis would give, for those that have such a thing.
    """

    n_train: int | None
    subject: str | None
    sigma: float
    images: int
    unconverged: int
    values: Mapping[str, Interval]
    chance: Mapping[str, float]

    @property
    def label(self) -> str:
        """What it is of, for people."""
        return wording.subject_label("cell" if self.subject is None else "imported", self.n_train, self.subject)

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
    of_its_own = pc.if_else(pc.equal(summary["role"], "cell"), pa.scalar(None, pa.string()), summary["subject"])
    named = summary.set_column(summary.column_names.index("subject"), "subject", of_its_own)
    named = named.append_column("unconverged", pc.invert(named["converged"]))
    keys = ["n_train", "subject", "sigma", "image_id"]
    means = named.group_by(keys, use_threads=False).aggregate(wanted)
    rows = means.sort_by([(key, "ascending") for key in keys]).to_pylist()  # nulls come last
    found: dict[tuple[int | None, str | None, float], list[dict[str, float]]] = {}
    for row in rows:
        found.setdefault((row["n_train"], row["subject"], row["sigma"]), []).append(row)
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
