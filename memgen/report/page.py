"""The report of a run: one HTML page that opens offline, and its figures as PNG, SVG and PDF.

Tables, the manifest and a few images in; words, tables and pictures out. No measure is computed here. What a run
lacks is said on the page in words. The page loads nothing: styles and pictures are part of it, and it has no script.
"""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from memgen.base import files, wording
from memgen.base.estimates import Estimate
from memgen.findings import bases, calibration, slopes, transition, verdict
from memgen.findings.bases import Reading
from memgen.report import figures, sheets, spectra, style
from memgen.report.sheets import Bases, Copies, Restored, Specimens

_MISSING = {
    "similarity": "Similarities were not measured (no nearest neighbors, no comparison of two models).",
    "images": "There are no samples with their nearest training images.",
    "psnr": "Denoising PSNR was not measured.",
    "transition": "No models of any N were measured.",
}


@dataclass(frozen=True, eq=False)
class ReportInput:
    """What a report is made of; anything may be missing.

    Attributes:
        title: heading of the page.
        manifest: settings and provenance of the run as JSON (run.json); shown as they are.
        tables: the run's tables by schema name; "transition" among them where models of an N were measured.
        pairs: specimens of each N, in ascending order.
        dimension: d = C * H * W, for the reference line of the PSNR figure.
        metric: the measure shown, one of those in the tables.
        copies: what the test for copies found of each model.
        restored: what models made of measured images, one entry for each task.
        bases: what the two denoisers of each N, and each imported one, do to the same noisy image.
        readings: what their Jacobians say of it and others, for each noise level.
    """

    title: str
    manifest: Mapping[str, Any]
    tables: Mapping[str, pa.Table]
    pairs: Sequence[Specimens] = field(default=())
    dimension: int | None = None
    metric: str = "correlation"
    copies: Sequence[Copies] = field(default=())
    restored: Sequence[Restored] = field(default=())
    bases: Sequence[Bases] = field(default=())
    readings: Sequence[Reading] = field(default=())


def render(report: ReportInput) -> str:
    """The page, complete in one string.

    Raises:
        DataError: the transition table has another schema.
    """
    return _page(report, {name: style.encode(figure, ".svg") for name, figure in _figures(report).items()})


def write(report: ReportInput, folder: Path) -> list[Path]:
    """Write report.html and figures/NAME.png, .svg and .pdf; the same input always gives the same bytes.

    Args:
        report: what to show.
        folder: where to write.

    Returns:
        The paths written, the page first.

    Raises:
        DataError: the transition table has another schema.
        StorageError: the disk is full or the folder cannot be written.
    """
    paths = {name: style.save(figure, folder / "figures" / name) for name, figure in _figures(report).items()}
    drawings = {name: path.read_bytes() for name, found in paths.items() for path in found if path.suffix == ".svg"}
    page = folder / "report.html"
    with files.writing(page) as file:
        file.write(_page(report, drawings).encode())
    return [page, *(path for found in paths.values() for path in found)]


def _figures(report: ReportInput) -> dict[str, Figure]:
    """The figures that the input has data for, by name."""
    has = {name for name, table in report.tables.items() if table.num_rows}
    drawn: dict[str, tuple[bool, Callable[[], Figure]]] = {
        "transition": ("transition" in has, lambda: figures.figure_transition(report.tables["transition"])),
        "images": (bool(report.pairs), lambda: sheets.figure_images(report.pairs)),
        "histograms": (
            bool(has & {"similarity", "neighbors"}),
            lambda: figures.figure_histograms(report.tables, report.metric),
        ),
        "copies": (bool(report.copies), lambda: sheets.figure_copies(report.copies)),
        "levels": ("levels" in has, lambda: figures.figure_levels(report.tables["levels"])),
        "psnr": ("psnr" in has, lambda: figures.figure_psnr(report.tables["psnr"], report.dimension)),
        "spectrum": ("basis" in has, lambda: spectra.figure_spectrum(report.tables["basis"])),
        "bases": (bool(report.bases), lambda: sheets.figure_bases(report.bases)),
        "samples": (bool(report.pairs), lambda: sheets.figure_samples(report.pairs)),
        "slopes": (
            {"slopes", "psnr"} <= has,
            lambda: figures.figure_slopes(report.tables["slopes"], report.tables["psnr"]),
        ),
    }
    found = {name: draw() for name, (there, draw) in drawn.items() if there}
    return found | {f"restored-{task.label}": sheets.figure_restored(task) for task in report.restored}


# ------------------------------------------------------------------------------------------------- the page


def _page(report: ReportInput, drawings: Mapping[str, bytes]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("memgen.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    summary = report.tables.get("transition")
    copies = report.tables.get("copies")
    found = verdict.verdict(summary, copies) if summary is not None else None
    provenance = {key: value for key, value in report.manifest.items() if key != "about"}
    return environment.get_template("report.html.j2").render(
        title=report.title,
        verdict=found,
        regimes={} if found is None else found.regimes,
        rules=verdict.RULES,
        numbers=None if summary is None else _numbers(summary),
        definitions=[*transition.QUANTITIES.values(), *transition.POINTS.values()],
        wording=wording,
        pictures={name: _address(drawing) for name, drawing in drawings.items()},
        missing=_MISSING,
        metric=report.metric,
        dimension=report.dimension,
        copies=[] if copies is None else copies.to_pylist(),
        restored=report.restored,
        decibels=lambda value: "" if value is None else wording.number(value, "dB"),
        calibrated=_calibrated(report.tables.get("calibration")),
        geometry=list(_geometry(report.readings)),
        slopes=_slopes(report.tables.get("slopes")),
        training=_training(report.tables.get("training")),
        data=_data(report.tables),
        shuffled=report.manifest.get("config", {}).get("data", {}).get("shuffle", False),
        about=report.manifest.get("about"),
        manifest=list(_flat(provenance)) if provenance else [],
    )


@dataclass(frozen=True)
class _Numbers:
    """The transition table with a column for each quantity and a row for each N."""

    quantities: tuple[tuple[str, str], ...]  # name and unit
    rows: tuple[tuple[int, tuple[Estimate, ...]], ...]
    points: tuple[tuple[str, Estimate], ...]


def _numbers(summary: pa.Table) -> _Numbers:
    rows = transition.estimates(summary)
    sizes = sorted({key for key, _ in rows if isinstance(key, int)})
    names = [name for name in transition.QUANTITIES if any(rows[n, name].estimate is not None for n in sizes)]
    return _Numbers(
        quantities=tuple((transition.QUANTITIES[name].name, rows[sizes[0], name].unit) for name in names),
        rows=tuple((n, tuple(rows[n, name] for name in names)) for n in sizes),
        points=tuple((point.name, rows[None, key]) for key, point in transition.POINTS.items()),
    )


def _address(drawing: bytes) -> str:
    """An SVG as a data address, which loads nothing and stays sharp on any screen."""
    return "data:image/svg+xml;base64," + base64.b64encode(drawing).decode()


def _training(table: pa.Table | None) -> list[dict[str, Any]]:
    """Steps, images seen and seconds of every training, from its last record."""
    if table is None:
        return []
    last = table.group_by(["n_train", "subject"]).aggregate(
        [("step", "max"), ("images_seen", "max"), ("seconds", "max")]
    )
    rows = last.sort_by([("n_train", "ascending"), ("subject", "ascending")]).to_pylist()
    return [
        {
            "subject": row["subject"],
            "n_train": row["n_train"],
            "steps": row["step_max"],
            "images_seen": row["images_seen_max"],
            "seconds": row["seconds_max"],
            # How often each image was presented: what makes a small training set easy to memorize.
            "presentations": row["images_seen_max"] / row["n_train"] if row["n_train"] else None,
        }
        for row in rows
    ]


def _slopes(table: pa.Table | None) -> list[dict[str, Any]]:
    """The rows of a SLOPES table with their names."""
    return [] if table is None else [row | {"label": slopes.label(row)} for row in table.to_pylist()]


def _calibrated(table: pa.Table | None) -> dict[int, list[calibration.Control]]:
    """What the test for copies said of sample sets whose answer is known, for each N at which it was tried."""
    sizes = [] if table is None else sorted(set(table["n_train"].to_pylist()))
    return {n: calibration.summarize(calibration.of_size(table, n)) for n in sizes}


@dataclass(frozen=True)
class _Geometry:
    """The readings of one noise level: a row for each quantity that was measured, a cell for each N."""

    sigma: float
    images: int
    models: tuple[str, ...]
    # Quantity; for each model the estimate and what a random basis would give.
    rows: tuple[tuple[bases.Quantity, tuple[tuple[Estimate, str], ...]], ...]


def _geometry(readings: Sequence[Reading]) -> Iterator[_Geometry]:
    for sigma, found, measured in bases.by_level(readings):
        rows = tuple(
            (bases.QUANTITIES[name], tuple((reading.values[name], _chance(reading, name)) for reading in found))
            for name in measured
        )
        yield _Geometry(sigma, found[0].images, tuple(reading.label for reading in found), rows)


def _chance(reading: Reading, name: str) -> str:
    chance = reading.chance.get(name)
    return "" if chance is None else wording.number(chance, bases.QUANTITIES[name].unit)


def _data(run: Mapping[str, pa.Table]) -> dict[str, Any]:
    """Counts of skipped files, near-duplicates and parts; None where the run has no such table."""
    counts = {name: run[name].num_rows if name in run else None for name in ("skipped", "duplicates")}
    parts: dict[str, int] = {}
    if "split" in run:
        split = run["split"]
        parts = {part: pc.sum(pc.equal(split["part"], part)).as_py() or 0 for part in ("a", "b", "holdout")}
    skipped = run["skipped"].slice(0, 10).to_pylist() if "skipped" in run else []
    return {**counts, "parts": parts, "first_skipped": skipped}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a JSON value with their paths, such as ("config.train.steps", "600")."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(inner, (Mapping, list, tuple)) for inner in value):
        for position, inner in enumerate(value):
            yield from _flat(inner, f"{path}[{position}]")
    elif isinstance(value, (list, tuple)):
        yield path, ", ".join(map(str, value))
    else:
        yield path, "" if value is None else str(value)
