"""Figure of the spectra of Jacobians: eigenvalues, coefficients, frequencies and places of eigenvectors."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from numpy.typing import NDArray

from memgen.report.style import GRAY, color_sequence, legend, styled


@styled
def figure_spectrum(table: pa.Table) -> Figure:
    """Shrinkage factors, coefficients of the clean image, and frequency and place of eigenvectors, against rank k.

    Each noise level has four panels. Curves are means over images and training seeds; coefficients and frequencies are
    root mean squares. All curves except those of the shrinkage factors are averaged over neighboring ranks. Solid lines
    are models trained on part a, dashed lines models trained on part b, and dash-dotted lines imported models.

    Args:
        table: a BASIS table.

    Source: Kadkhodaie et al. 2024, Fig. 3.
    """
    sigmas, curves = sorted(pc.unique(table["sigma"]).to_pylist()), _curves(table)
    figure = Figure(figsize=(9.5, 6.2 * len(sigmas) + 0.5), layout="constrained")
    panels = figure.subplots(2 * len(sigmas), 2, squeeze=False, sharex=True)
    for place, sigma in enumerate(sigmas):
        factors, coefficients, frequencies, contours = panels[2 * place : 2 * place + 2].ravel()
        for rows, drawn in curves:
            found = _spectrum(rows.filter(pc.equal(rows["sigma"], sigma)))
            if len(found["k"]):
                factors.plot(found["k"], found["eigenvalue"], **drawn)
                for panel, name, root in (
                    (coefficients, "coefficient_clean", np.sqrt),
                    (frequencies, "local_frequency", np.sqrt),
                    (contours, "contour_energy", np.positive),
                ):
                    k, means = _in_bins(found["k"], found[name])
                    panel.plot(k, root(means), **drawn)
        for panel, level in ((factors, 0), (factors, 1), (contours, 1)):
            panel.axhline(level, color=GRAY, linewidth=1, linestyle=":")
        coefficients.axhline(sigma, color=GRAY, linewidth=1, linestyle=":", label=r"noise level $\sigma$")
        coefficients.set_yscale("log")
        factors.set_title(rf"Shrinkage factors at $\sigma$ = {sigma:g}")
        factors.set_ylabel(r"eigenvalue $\lambda_k$")
        coefficients.set_title(rf"Coefficients of the clean image at $\sigma$ = {sigma:g}")
        coefficients.set_ylabel(r"$|\langle x, e_k \rangle|$ (pixel units)")
        frequencies.set_title("Local frequency of the eigenvectors")
        frequencies.set_ylabel("cycles per pixel")
        contours.set_title("Energy of the eigenvectors on contours")
        contours.set_ylabel("1 = random vectors")
    for panel in panels.ravel():
        panel.set_xscale("log")
        panel.set_xlabel("rank k of the eigenvector")
        panel.xaxis.set_tick_params(labelbottom=True)
    legend(figure, panels[:, 1], "outside right center")
    return figure


def _curves(table: pa.Table) -> list[tuple[pa.Table, dict[str, Any]]]:
    """The rows of each model with the style of its curve; cells of one N and part share a curve."""
    imported = table.filter(pc.equal(table["role"], "imported"))
    cells = table.filter(pc.equal(table["role"], "cell"))
    models: list[tuple[str, Any]] = [("n_train", n) for n in sorted(pc.unique(cells["n_train"]).to_pylist())]
    models += [("subject", name) for name in sorted(pc.unique(imported["subject"]).to_pylist())]
    found = []
    for (column, value), color in zip(models, color_sequence(len(models)), strict=True):
        for part, line in (("a", "-"), ("b", "--"), (None, "-.")):
            rows = table.filter(pc.equal(table[column], value))
            rows = rows.filter(pc.equal(rows["part"], part) if part else pc.is_null(rows["part"]))
            if len(rows):
                label = f"N = {value:,}  {part.upper()}" if part else value
                found.append((rows, {"color": color, "linestyle": line, "label": label}))
    return found


def _spectrum(rows: pa.Table) -> dict[str, NDArray[np.float64]]:
    """Means at each rank k; means of squares for coefficients and frequencies."""
    for name in ("coefficient_clean", "local_frequency"):
        rows = rows.set_column(rows.column_names.index(name), name, pc.power(rows[name], 2))
    columns = ("eigenvalue", "coefficient_clean", "local_frequency", "contour_energy")
    means = rows.group_by("k", use_threads=False).aggregate([(name, "mean") for name in columns]).sort_by("k")
    return {"k": means["k"].to_numpy()} | {
        name: means[f"{name}_mean"].to_numpy().astype(np.float64) for name in columns
    }


def _in_bins(k: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values averaged in bins of a tenth of a decade, and the geometric mean of the ranks in each bin."""
    bins = np.round(10 * np.log10(k)).astype(np.int64)
    counts = np.bincount(bins)
    found = counts > 0
    middle = np.bincount(bins, np.log(k))[found] / counts[found]
    return np.exp(middle), np.bincount(bins, values)[found] / counts[found]
