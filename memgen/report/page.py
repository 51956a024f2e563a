"""The report of a run: one HTML page that works offline, with its figures as PNG, SVG and PDF files.

The report is made of tables, the manifest and a few images; it computes no measure. It says in words what the run has
not measured. The page loads nothing: styles, pictures, data and scripts are part of it; see `webpage`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure
from numpy.typing import NDArray

from memgen.base import files, wording
from memgen.base.estimates import Estimate
from memgen.findings import bases, calibration, diversities, labels, membership, slopes, transition, verdict
from memgen.findings.bases import Reading
from memgen.findings.likelihoods import Summary
from memgen.findings.verdict import Paragraph
from memgen.report import charts, figures, gallery, scores, sheets, spectra, style, viewers, webpage
from memgen.report.charts import Spec
from memgen.report.downloads import LIMITS, Download
from memgen.report.gallery import Gallery
from memgen.report.live import Live
from memgen.report.sheets import Bases, Copies, Restored, Specimens
from memgen.report.tiles import Tiles
from memgen.report.viewers import Film

_MISSING = {
    "similarity": "Similarities were not measured: there are no nearest neighbors and no comparison of two models.",
    "images": "There are no samples with their nearest training images.",
    "psnr": "Denoising PSNR was not measured.",
    "transition": "nothing was measured that a verdict rests on.",
}
# How people read the units of the tables.
_UNITS = {"pixel units^2": "squared pixel units"}


@dataclass(frozen=True, eq=False)
class ReportInput:
    """What a report is made of. Everything except the title may be empty.

    Attributes:
        title: heading of the page.
        manifest: settings and provenance of the run as JSON (run.json), shown as they are.
        tables: the run's tables by schema name, among them "transition" if any subject was measured.
        pairs: the first samples of each N with their nearest training images, in ascending order of N.
        dimension: number of pixel values of an image, d = C H W; it places a reference line in the PSNR figure.
        metric: the measure of similarity to show, one of those in the tables.
        copies: for each model its samples closest to training images.
        restored: for each restoration task the images that models restored.
        bases: for each N and each imported denoiser, the basis in which it shrinks a noisy image.
        readings: for each of these and each noise level, what the Jacobians say.
        likelihoods: what readers call each model whose likelihood was measured, and its bits.
        models: number of models of the sweep, which the tests for copies judge together; None for those in the tables.
        gallery: all samples with the images beside them.
        films: denoised images on the way of the sampler.
        command: the command that makes the run again; empty where there is none.
        downloads: the tables of the run.
        live: the state of work that is still under way; None where there is none.
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
    likelihoods: Mapping[str, Summary] = field(default_factory=dict)
    models: int | None = None
    gallery: Gallery | None = None
    films: Sequence[Film] = ()
    command: str = ""
    downloads: Sequence[Download] = ()
    live: Live | None = None


def render(report: ReportInput) -> str:
    """The whole page as one string.

    Raises:
        DataError: the transition table has another schema.
    """
    specs = _charts(report)
    stills = {name: charts.svg(spec) for name, spec in _alone(report, specs).items()}
    drawings = {name: style.encode(figure, ".svg") for name, figure in _figures(report).items()}
    return _page(report, drawings, specs, stills)


def write(report: ReportInput, folder: Path) -> list[Path]:
    """Write report.html and figures/NAME.png, .svg and .pdf; the same input always gives the same bytes.

    Figures that an earlier report wrote and that this one does not have are deleted.

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
    specs = _charts(report)
    saved = {name: charts.save(spec, folder / "figures" / name) for name, spec in _alone(report, specs).items()}
    stills = {name: path.read_text() for name, found in saved.items() for path in found if path.suffix == ".svg"}
    paths |= saved
    page = folder / "report.html"
    with files.writing(page) as file:
        file.write(_page(report, drawings, specs, stills).encode())
    for path in (folder / "figures").glob("*"):
        own = path.stem in {*_drawings(report), *_CHARTS} or path.stem.startswith(_RESTORED)
        if own and path.suffix in style.SUFFIXES and path.stem not in paths:
            path.unlink(missing_ok=True)
    return [page, *(path for found in paths.values() for path in found)]


def figures_of(report: ReportInput) -> dict[str, Callable[[], Figure]]:
    """The figures that the input has data for, by name, each with what draws it."""
    return _drawn(report, _for_notebooks(report) | _drawings(report))


_RESTORED = "restored-"


def _drawn(
    report: ReportInput, drawings: Mapping[str, tuple[bool, Callable[[], Figure]]]
) -> dict[str, Callable[[], Figure]]:
    """Those drawings that the input has data for, and the restored images."""
    found = {name: draw for name, (there, draw) in drawings.items() if there}
    return found | {f"{_RESTORED}{task.label}": partial(sheets.figure_restored, task) for task in report.restored}


def _figures(report: ReportInput) -> dict[str, Figure]:
    """The figures that the page shows besides its charts."""
    return {name: draw() for name, draw in _drawn(report, _drawings(report)).items()}


def _drawings(report: ReportInput) -> dict[str, tuple[bool, Callable[[], Figure]]]:
    """For the name of each figure, whether the input has data for it, and how it is drawn."""
    has = {name for name, table in report.tables.items() if table.num_rows}
    return {
        "first": (bool(report.pairs), lambda: sheets.figure_first(report.pairs)),
        "images": (bool(report.pairs), lambda: sheets.figure_images(report.pairs)),
        "copies": (bool(report.copies), lambda: sheets.figure_copies(report.copies)),
        "levels": ("levels" in has, lambda: figures.figure_levels(report.tables["levels"])),
        "likelihood": (bool(report.likelihoods), lambda: scores.figure_likelihood(report.likelihoods)),
        "membership": ("membership" in has, lambda: scores.figure_membership(report.tables["membership"])),
        "spectrum": ("basis" in has, lambda: spectra.figure_spectrum(report.tables["basis"])),
        "bases": (bool(report.bases), lambda: sheets.figure_bases(report.bases)),
        "samples": (bool(report.pairs), lambda: sheets.figure_samples(report.pairs)),
        "slopes": (
            {"slopes", "psnr"} <= has,
            lambda: figures.figure_slopes(report.tables["slopes"], report.tables["psnr"]),
        ),
    }


def _for_notebooks(report: ReportInput) -> dict[str, tuple[bool, Callable[[], Figure]]]:
    """The same for what the page shows as charts."""
    found = _charted(report)
    return {
        "transition": ("transition" in found, lambda: figures.figure_transition(report.tables["transition"])),
        "histograms": ("histograms" in found, lambda: figures.figure_histograms(report.tables, report.metric)),
        "psnr": ("psnr" in found, lambda: figures.figure_psnr(report.tables["psnr"], report.dimension)),
    }


_CHARTS = ("transition", "histograms", "psnr", "training")


def _alone(report: ReportInput, specs: Mapping[str, Spec]) -> dict[str, Spec]:
    """The charts as they stand alone, without a slider, so that they show every size."""
    every = {"histograms": lambda: charts.draw_histograms(report.tables, report.metric, every=True)}
    return {name: every[name]() if name in every else spec for name, spec in specs.items()}


def _charts(report: ReportInput) -> dict[str, Spec]:
    """The charts that the input has data for, by name."""
    tables = report.tables
    draw = {
        "transition": lambda: charts.draw_transition(tables["transition"]),
        "histograms": lambda: charts.draw_histograms(tables, report.metric),
        "psnr": lambda: charts.draw_psnr(tables["psnr"], report.dimension),
        "training": lambda: charts.draw_training(tables["training"]),
    }
    return {name: draw[name]() for name in _charted(report)}


def _charted(report: ReportInput) -> list[str]:
    """The names of the charts that the input has data for."""
    has = {name for name, table in report.tables.items() if table.num_rows}
    there = {
        "transition": _sized(report.tables.get("transition")),
        "histograms": bool(has & {"similarity", "neighbors"}),
        "psnr": "psnr" in has,
        "training": "training" in has,
    }
    return [name for name in _CHARTS if there[name]]


def _sized(table: pa.Table | None) -> bool:
    """Whether anything was measured at a training-set size of a sweep."""
    return table is not None and len(table["n_train"].drop_null()) > 0


# ------------------------------------------------------------------------------------------------- the page


def _page(
    report: ReportInput, drawings: Mapping[str, bytes], specs: Mapping[str, Spec], stills: Mapping[str, str]
) -> str:
    summary = report.tables.get("transition")
    found = verdict.verdict(summary, report.tables.get("copies"), report.models) if summary is not None else None
    paragraphs = () if found is None else found.paragraphs
    sizes = [paragraph for paragraph in paragraphs if paragraph.subject is None]
    imported = [paragraph for paragraph in paragraphs if paragraph.subject is not None]
    provenance = {key: value for key, value in report.manifest.items() if key != "about"}
    packed = Tiles(_no_image if report.gallery is None else report.gallery.image_of)
    panels = _panels(summary, paragraphs, report.gallery)
    data = {
        "panels": panels,
        "gallery": None if report.gallery is None else gallery.payload(report.gallery, packed),
        "films": viewers.film_payload(report.films, packed),
        "bases": viewers.bases_payload(report.bases, packed),
    }
    return webpage.render(
        "report.html.j2",
        data,
        specs,
        stills,
        packed,
        title=report.title,
        live=report.live,
        verdict=found,
        sizes=_numbers(summary, sizes),
        imported=_numbers(summary, imported),
        rules=verdict.RULES,
        definitions=[*transition.QUANTITIES.values(), *transition.POINTS.values()],
        unit=_unit,
        pictures={name: webpage.address(drawing) for name, drawing in drawings.items()},
        missing=_MISSING,
        metric=report.metric,
        dimension=report.dimension,
        copies=_copies(report.tables.get("copies")),
        restored=report.restored,
        calibrated=_calibrated(report.tables.get("calibration")),
        bands=calibration.BANDS,
        geometry=list(_geometry(report.readings)),
        meanings=bases.QUANTITIES.values(),
        likelihoods=report.likelihoods,
        membership=_membership(report.tables.get("membership")),
        diversity=_diversity(report.tables.get("diversity")),
        measures=diversities.QUANTITIES,
        slopes=_slopes(report.tables.get("slopes")),
        training=_training(report.tables.get("training")),
        images=_data(report.tables),
        failed=_failed(report),
        panels=len(panels),
        command=report.command,
        downloads=report.downloads,
        limits=LIMITS,
        gallery=data["gallery"],
        films=data["films"],
        viewed=data["bases"],
        warnings=[*(report.manifest.get("data") or {}).get("warnings", []), *_of_subjects(report.tables)],
        shuffled=report.manifest.get("config", {}).get("data", {}).get("shuffle", False),
        about=report.manifest.get("about"),
        manifest=list(flat(provenance)) if provenance else [],
    )


@dataclass(frozen=True)
class _Numbers:
    """Estimates of the transition table, with a column for each paragraph of the verdict.

    Attributes:
        columns: what the columns are about.
        rows: name of the quantity, unit in words, and an estimate for each column; only quantities that were measured.
    """

    columns: Sequence[Paragraph]
    rows: Sequence[tuple[str, str, Sequence[Estimate]]]


def _numbers(summary: pa.Table | None, paragraphs: Sequence[Paragraph]) -> _Numbers:
    rows = {} if summary is None else transition.estimates(summary)
    found = []
    for key, quantity in transition.QUANTITIES.items():
        cells = [rows[paragraph.key, key] for paragraph in paragraphs]
        if any(cell.estimate is not None for cell in cells):
            found.append((quantity.name, _unit(cells[0].unit), cells))
    return _Numbers(paragraphs, found)


def _no_image(kind: str, position: int) -> NDArray[Any]:
    raise KeyError(f"no images of {kind}")


def _panels(summary: pa.Table | None, paragraphs: Sequence[Paragraph], shown: Gallery | None) -> list[dict[str, Any]]:
    """The steps of the slider: each training-set size and imported subject, with its verdict and numbers in words."""
    rows = {} if summary is None else transition.estimates(summary)
    half = rows.get((None, "N_half"), Estimate.of(None)).estimate
    found = []
    for paragraph in paragraphs:
        numbers = [
            {"name": quantity.name, "value": wording.value(cell), "unit": _unit(cell.unit)}
            | {"interval": wording.interval(cell)}
            for name, quantity in transition.QUANTITIES.items()
            if (cell := rows[paragraph.key, name]).estimate is not None
        ]
        found.append({"name": labels.panel(paragraph.key), "verdict": paragraph.regime, "numbers": numbers})
    known = [panel["name"] for panel in found]
    others = [name for name in dict.fromkeys(() if shown is None else shown.panels) if name not in known]
    found += [{"name": name, "verdict": "", "numbers": []} for name in others]
    # The first look is at the size closest to the transition, where there is something to see.
    sizes = [paragraph.n_train for paragraph in paragraphs if paragraph.n_train and paragraph.subject is None]
    start = len(sizes) // 2
    if half and sizes:
        start = min(range(len(sizes)), key=lambda i: abs(math.log(sizes[i] / half)))
    return [panel | {"start": i == start} for i, panel in enumerate(found)]


def _of_subjects(found: Mapping[str, pa.Table]) -> list[str]:
    """What is to be known of imported subjects, each sentence with their names."""
    if "subjects" not in found:
        return []
    names: dict[str, list[str]] = {}
    for row in found["subjects"].to_pylist():
        for warning in row["warnings"]:
            names.setdefault(warning, []).append(row["subject"])
    return [f"{', '.join(named)}: {warning}" for warning, named in names.items()]


def _failed(report: ReportInput) -> list[str]:
    """What was left out or did not come to its end, in sentences."""
    found = []
    if "samples" in report.tables:
        for key, rows in labels.by_model(report.tables["samples"]):
            counts = {row["values"]: row["counts"] for row in rows["status"].value_counts().to_pylist()}
            for status, words in _UNFINISHED.items():
                if counts.get(status):
                    found.append(f"{labels.model(key)}: {counts[status]:,} of {rows.num_rows:,} samples {words}.")
    return found + [
        f"{reading.label}, noise level {reading.sigma:g}: {reading.unconverged:,} bases did not converge."
        for reading in report.readings
        if reading.unconverged
    ]


_UNFINISHED = {
    "step_cap": "reached the largest number of updates before they were free of noise",
    "diverged": "diverged",
}


def _unit(unit: str) -> str:
    return _UNITS.get(unit, unit)


def _training(table: pa.Table | None) -> list[dict[str, Any]]:
    """Model, steps, images seen and seconds of every training, from its last record."""
    if table is None:
        return []
    keys = ["n_train", "train_seed", "subject", "role", "part"]
    last = table.group_by(keys).aggregate([("step", "max"), ("images_seen", "max"), ("seconds", "max")])
    rows = last.sort_by([(key, "ascending") for key in keys]).to_pylist()
    return [
        {
            "model": labels.model(row),
            "steps": row["step_max"],
            "images_seen": row["images_seen_max"],
            "seconds": row["seconds_max"],
            # How often each image was presented: what makes a small training set easy to memorize.
            "presentations": row["images_seen_max"] / row["n_train"] if row["n_train"] else None,
        }
        for row in rows
    ]


def _copies(table: pa.Table | None) -> list[dict[str, Any]]:
    """The rows of a COPIES table with what readers call their models, and the memorized fraction as an estimate."""
    return [
        row
        | {
            "model": labels.model(row),
            "fraction": Estimate.of(row["memorized_fraction"], row["low"], row["high"], row["samples"], "share"),
        }
        for row in ([] if table is None else table.to_pylist())
    ]


_SCORES = {"psnr": "mean PSNR", "log_density": "log-density"}


def _membership(table: pa.Table | None) -> list[dict[str, Any]]:
    """The rows of a MEMBERSHIP table that are about all noise levels, with their estimates, by model."""
    return [
        row
        | {"model": labels.model(row), "score": _SCORES[row["score"]]}
        | {name: membership.estimate(row, name) for name in ("gap", "auc", "tpr")}
        for _, rows in ([] if table is None else labels.by_model(table))
        for row in rows.to_pylist()
        if row["sigma"] is None
    ]


def _diversity(table: pa.Table | None) -> dict[str, list[dict[str, Any]]]:
    """For each space its models: number of images, and by measure the value of samples and that of held-out images."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for key, rows in [] if table is None else labels.by_model(table):
        for row in rows.to_pylist():
            of_model = {"model": labels.model(key), "images": row["n"], "values": {}}
            own = found.setdefault(row["space"], {}).setdefault(key["subject"], of_model)
            own["values"][row["measure"]] = diversities.estimates(row)
    return {space: list(models.values()) for space, models in found.items()}


def _slopes(table: pa.Table | None) -> list[dict[str, Any]]:
    """The rows of a SLOPES table with what readers call them."""
    return [] if table is None else [row | {"label": slopes.label(row)} for row in table.to_pylist()]


def _calibrated(table: pa.Table | None) -> dict[int, calibration.Calibration]:
    """For each N, how the test for copies did on the controls."""
    sizes = [] if table is None else sorted(set(table["n_train"].to_pylist()))
    return {n: calibration.summarize(calibration.of_size(table, n)) for n in sizes}


@dataclass(frozen=True)
class _Geometry:
    """What the Jacobians say at one noise level.

    Attributes:
        sigma: noise level, pixel units.
        images: number of images behind the means.
        models: labels of the columns.
        rows: name of the quantity, unit in words, and for each model the estimate with what a random
            basis would give.
        unconverged: label and number of bases, for each model with bases that did not converge.
    """

    sigma: float
    images: int
    models: Sequence[str]
    rows: Sequence[tuple[str, str, Sequence[tuple[Estimate, str]]]]
    unconverged: Sequence[tuple[str, int]]


def _geometry(readings: Sequence[Reading]) -> Iterator[_Geometry]:
    for sigma, found, measured in bases.by_level(readings):
        quantities = [(name, bases.QUANTITIES[name]) for name in measured]
        yield _Geometry(
            sigma=sigma,
            images=found[0].images,
            models=[reading.label for reading in found],
            rows=[
                (
                    quantity.name,
                    _unit(quantity.unit),
                    [(reading.values[name], _chance(reading, name)) for reading in found],
                )
                for name, quantity in quantities
            ],
            unconverged=[(reading.label, reading.unconverged) for reading in found if reading.unconverged],
        )


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


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a JSON value with their paths, such as ("config.train.steps", "600")."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)) and any(isinstance(inner, (Mapping, list, tuple)) for inner in value):
        for position, inner in enumerate(value):
            yield from flat(inner, f"{path}[{position}]")
    elif isinstance(value, (list, tuple)):
        yield path, ", ".join(map(str, value))
    else:
        yield path, "" if value is None else str(value)
