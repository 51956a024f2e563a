"""What the measurements of a run say: the summary with its intervals, the verdict, and the report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from memgen import spaces
from memgen.base import schemas, wording
from memgen.base.errors import RunError
from memgen.base.progress import Progress
from memgen.experiment import geometry, measure, reproduce, runs, showing, subjects
from memgen.experiment.results import Result, check_name
from memgen.experiment.workspace import Workspace
from memgen.findings import bases, headlines, labels, levels, likelihoods, restorations, slopes, transition, verdict
from memgen.findings.headlines import Numbers
from memgen.findings.quantities import Similarity
from memgen.images.imageset import ImageSet
from memgen.measures.subject import Identity
from memgen.models import inverse
from memgen.report import page, sheets, style
from memgen.report.live import Live

_TESTS = {"competition": "discovered", "conformal test": "flagged"}
_MADE_HERE = ("images", "transition", "levels", "trajectory")


def pair_medians(workspace: Workspace, names: Sequence[str]) -> dict[str, float]:
    """Medians of a finished pair of twins, for a line of progress."""
    similar = workspace.run.table("similarity", runs.pair_key(*names)).to_pylist()
    values = {"own nearest": [value for name in names for value in _nearest(workspace, name)]}
    for kind in ("same_noise", "different_noise"):
        values[kind.replace("_", " ")] = [row["value"] for row in similar if row["kind"] == kind]
    return {name: float(np.nanmedian(np.array(found, dtype=float))) for name, found in values.items() if found}


def draw_first(workspace: Workspace, cells: Sequence[runs.Cell]) -> Path:
    """Draw the first sample of each of some cells beside its nearest training image; the path of the PNG.

    It is the sheet with which the report opens, so that people see copies long before the end of a sweep.
    """
    found = {kind: workspace.run.table(kind) for kind in ("neighbors", "samples")}
    drawn = sheets.figure_first(_specimens(workspace, found, cells))
    return style.save(drawn, workspace.run.report / "figures" / "first", (".png",))[0]


def nearest_median(workspace: Workspace, name: str) -> float:
    """The median similarity of a subject's samples to their nearest training images."""
    return float(np.nanmedian(np.array(_nearest(workspace, name), dtype=float)))


def _nearest(workspace: Workspace, name: str) -> list[float | None]:
    """The similarity of each of a subject's samples to its nearest training image."""
    found, _ = measure.search_own(workspace, name)
    return list(found.filter(pc.field("rank") == 1)["value"].to_pylist())


def summary(workspace: Workspace, n_train: int | None = None) -> pa.Table:
    """The TRANSITION table of what the run has measured so far, of one N or of all."""
    return _transition(workspace, _measured(workspace, n_train))


def _transition(workspace: Workspace, measured: dict[str, pa.Table]) -> pa.Table:
    settings = workspace.settings
    sigma_range, space = (settings.sample.sigma_end, settings.sample.sigma_start), spaces.find(settings.search.metric)
    similarity = Similarity(space.name, space.unit, space.larger_is_closer)
    return transition.summarize(
        measured,
        settings.seed,
        similarity,
        sigma_range=sigma_range,
        subjects=measured["subjects"],
        sizes=len(set(settings.sweep.n_train)),
    )


def _verdict(workspace: Workspace, table: pa.Table, copies: pa.Table) -> verdict.Verdict:
    return verdict.verdict(table, copies, len(workspace.settings.cells))


def _measured(workspace: Workspace, n_train: int | None) -> dict[str, pa.Table]:
    """The run's tables, stacked; only the rows of one N where one is given."""
    found = {kind: workspace.run.table(kind) for kind in schemas.SCHEMAS if kind not in _MADE_HERE}
    # Nothing else is measured of a subject whose samples are not all there.
    complete = workspace.complete(found["samples"])
    found["samples"] = found["samples"].filter(pc.field("subject").isin(pa.array(complete, pa.string())))
    if n_train is None:
        return found
    return {
        kind: table.filter(_shown_at(n_train, table)) if "n_train" in table.column_names else table
        for kind, table in found.items()
    }


@dataclass(frozen=True, repr=False, eq=False)
class Findings(Result):
    """What the measurements of a run support, with the numbers behind it. In a notebook it shows itself.

    Attributes:
        verdict: in words.
        transition: a TRANSITION table.
        copies: a COPIES table.
        pairs: the closest pairs of a sample and a training image of each subject; see `pairs`.
        workspace: the run with its settings.
    """

    verdict: verdict.Verdict
    transition: pa.Table
    copies: pa.Table
    pairs: list[dict[str, Any]]
    workspace: Workspace

    @property
    def run(self) -> runs.Run:
        """The run."""
        return self.workspace.run

    @property
    def headline(self) -> str:
        """The verdict in a sentence or two."""
        return self.verdict.headline

    def _sentences(self) -> tuple[str, ...]:
        openings = (paragraph.opening for paragraph in self.verdict.paragraphs)
        return (*openings, *self.verdict.points, *self.verdict.remarks)

    def _numbers(self) -> Numbers:
        return headlines.of_sweep(self.verdict, self.transition)

    @cached_property
    def _drawings(self) -> dict[str, Callable[[], Figure]]:
        return page.figures_of(_shown(self.workspace, _found(self.workspace, None), None, self.workspace.run.report))

    @property
    def figures(self) -> list[str]:
        """The names of the figures that the run has data for."""
        return list(self._drawings)

    def figure(self, name: str) -> Figure:
        """A figure of the report, drawn anew; matplotlib's global settings stay as they are.

        Args:
            name: one of `figures`, such as transition or psnr.

        Raises:
            ConfigError: the run has no data for a figure of that name.
        """
        check_name("figure", name, self.figures)
        return self._drawings[name]()


def find(workspace: Workspace) -> Findings:
    """What the measurements of the run support."""
    table, found = summary(workspace), workspace.run.table("copies")
    return Findings(_verdict(workspace, table, found), table, found, pairs(workspace), workspace)


def pairs(workspace: Workspace, n_train: int | None = None) -> list[dict[str, Any]]:
    """The closest pairs of a sample and a training image of each subject, for one N or for all.

    Samples that a test for copies reports come first, then those that lie deepest in the neighborhood of a training
    image: all that are reported, and of each subject at least as many as its sheet shows. The column `reported_by`
    names the tests.
    """
    table = _at(workspace.run.table("significance"), n_train)
    reported = pc.or_(table["discovered"], table["flagged"])
    table = table.append_column("reported", pc.cast(reported, pa.int8()))
    order = ["role", "n_train", "subject"]
    downward = [("reported", "descending"), ("W", "descending")]
    table = table.sort_by([*((key, "ascending") for key in order), *downward])
    columns = ("n_train", "subject", "sample", "train_id", "correlation", "W")
    found: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        of_subject = found.setdefault(row["subject"], [])
        if row["reported"] or (row["W"] > 0 and len(of_subject) < sheets.COPIES_SHOWN):
            names = [name for name, column in _TESTS.items() if row[column]]
            of_subject.append(
                {name: row[name] for name in columns}
                | {"reported_by": "both tests" if len(names) == len(_TESTS) else "".join(names)}
            )
    for name, rows in found.items():
        train = subjects.find(workspace, name).train
        assert train is not None
        place = train.ids.places([row["train_id"] for row in rows])
        for row in rows:
            row["source"] = train.sources[place[row["train_id"]]]
    return [row for rows in found.values() for row in rows]


def _denoisers(run: runs.Run) -> list[str]:
    """Names of the subjects that have a denoiser."""
    return [record.identity.subject for record in subjects.records(run) if record.has_denoiser]


def measure_slopes(
    workspace: Workspace,
    low_db: float = slopes.LOW_DB,
    high_db: float = slopes.HIGH_DB,
    progress: Progress | None = None,
) -> pa.Table:
    """Slope and gain of every denoiser of the run, and of the baselines: a SLOPES table kept in the run.

    PSNR that was measured is not measured again. The slopes are computed anew for the given range.

    Args:
        workspace: the run.
        low_db: lowest input PSNR, dB.
        high_db: highest input PSNR, dB.
        progress: called with (curves measured, curves).

    Raises:
        ConfigError: the run has fewer than two noise levels in the range.
    """
    work: list[Callable[[], Any]] = [
        *(partial(measure.measure_psnr, workspace, name) for name in _denoisers(workspace.run)),
        partial(geometry.measure_references, workspace),
        partial(geometry.measure_baselines, workspace),
    ]
    for done, step in enumerate(work):
        if progress:
            progress(done, len(work))
        step()
    generated, seed = workspace.settings.data.generated, workspace.settings.seed
    found = slopes.summarize(workspace.run.table("psnr"), geometry.theory(generated, seed), seed, low_db, high_db)
    workspace.run.write_table("slopes", "slopes", found)
    return found


def _at(table: pa.Table, n_train: int | None) -> pa.Table:
    """The rows of the cells of one N, or all rows."""
    return table if n_train is None else table.filter((pc.field("role") == "cell") & (pc.field("n_train") == n_train))


def _shown_at(n_train: int, table: pa.Table) -> pc.Expression:
    """Which rows a report of one N shows: of its cells, of its training sets, and of what they are compared with."""
    here = pc.field("n_train") == n_train
    if "role" not in table.column_names:
        return here
    role = pc.field("role")
    return (here & (pc.is_null(role) | (role == "cell"))) | role.isin(["reference", "baseline"])


def write_report(workspace: Workspace, n_train: int | None = None) -> tuple[verdict.Verdict, pa.Table, list[Path]]:
    """Write the page and figures of one N or of all; returns the verdict, the TRANSITION table and the paths.

    Raises:
        RunError: the run has nothing to report yet.
    """
    run, found = workspace.run, _found(workspace, n_train)
    if n_train is None:
        run.write_table("transition", "transition", found["transition"])
        run.write_table("levels", "levels", found["levels"])
    folder = run.report if n_train is None else run.report / f"n{n_train}"
    paths = page.write(_shown(workspace, found, n_train, folder), folder)
    return _verdict(workspace, found["transition"], found["copies"]), found["transition"], paths


def page_so_far(workspace: Workspace, live: Live) -> str | None:
    """The page of what a run under way has measured; None if that is nothing. Nothing is written.

    Args:
        workspace: the run.
        live: what stands at the top of the page.
    """
    try:
        found = _found(workspace, None)
    except RunError:
        return None
    return page.render(replace(_shown(workspace, found, None, workspace.run.report), live=live))


def _found(workspace: Workspace, n_train: int | None) -> dict[str, pa.Table]:
    """What was measured, with the tables that are made of it."""
    found = _measured(workspace, n_train)
    if not any(found[kind].num_rows for kind in ("neighbors", "similarity", "psnr", "likelihood", "diversity")):
        run = workspace.run
        raise RunError(f"{run.path} holds no measurements. Make some with: memgen sweep --run {run.name}.")
    found["transition"] = _transition(workspace, found)
    found["levels"] = levels.summarize(found, workspace.settings.seed)
    return found


def _shown(workspace: Workspace, found: dict[str, pa.Table], n_train: int | None, folder: Path) -> page.ReportInput:
    """What the page of one N or of all shows, which stands in a folder."""
    run, metric = workspace.run, workspace.settings.search.metric
    return page.ReportInput(
        title=f"memgen: {run.name}" + (f", N = {n_train:,}" if n_train else ""),
        manifest=run.manifest,
        tables={
            name: table
            for name, table in found.items()
            if name != "transition" or table.num_rows > len(transition.POINTS)
        },
        pairs=_specimens(workspace, found, run.cells()),
        copies=_copies(workspace, n_train),
        restored=restored(workspace, n_train),
        bases=_bases(workspace, n_train),
        readings=bases.readings(found["basis_summary"], workspace.settings.seed),
        likelihoods=_likelihoods(workspace, found["likelihood"]),
        dimension=int(np.prod(workspace.images.image_shape)),
        metric=metric,
        models=len(workspace.settings.cells),
        gallery=showing.gallery(workspace, found, n_train),
        films=showing.films(workspace, n_train),
        command=reproduce.command(run),
        downloads=showing.tables(run, folder),
    )


def _likelihoods(workspace: Workspace, table: pa.Table) -> dict[str, likelihoods.Summary]:
    """What readers call each model of a LIKELIHOOD table, and its bits."""
    seed = workspace.settings.seed
    return {
        labels.model(key): likelihoods.summarize(rows, measure.groups_of(workspace, key["subject"]), seed)
        for key, rows in labels.by_model(table)
    }


def restored(workspace: Workspace, n_train: int | None = None, label: str | None = None) -> list[sheets.Restored]:
    """Images that were restored from measurements, an entry for each task; of one N or all, of one task or all."""
    found: dict[str, list[pa.Table]] = {}
    table = workspace.run.table("restored")
    table = _at(table, n_train)
    for name in dict.fromkeys(table["subject"].to_pylist()):
        own = table.filter(pc.field("subject") == name)
        for task, amount in sorted({(row["task"], row["amount"]) for row in own.to_pylist()}):
            chosen = inverse.choose(task, amount, workspace.images.image_shape)
            rows = own.filter((pc.field("task") == task) & (pc.field("amount") == amount))
            if label in (None, chosen.label):
                found.setdefault(chosen.label, []).append(rows)
    return [_restored(workspace, by_model) for by_model in found.values()]


def _restored(workspace: Workspace, by_model: list[pa.Table]) -> sheets.Restored:
    """One task, from the RESTORED tables of its models."""
    first = by_model[0].slice(0, 1).to_pylist()[0]
    task = inverse.choose(first["task"], first["amount"], workspace.images.image_shape)
    names = [rows["subject"][0].as_py() for rows in by_model]
    images = {
        name: workspace.in_place(workspace.kept_samples(f"{name}.{task.label}", "restored").images) for name in names
    }
    models = []
    for name, rows in zip(names, by_model, strict=True):
        identity = subjects.find(workspace, name).identity
        twin = images.get(_twin(identity))
        between = None if twin is None else inverse.psnr_db(images[name], twin).tolist()
        shown = _model_label(identity)
        values = np.array(rows["output_psnr_db"].to_pylist()[: sheets.RESTORED_SHOWN], dtype=np.float64)
        models.append(
            sheets.RestoredBy(
                shown,
                images[name][: sheets.RESTORED_SHOWN],
                values,
                restorations.summarize(rows, workspace.settings.seed, between),
            )
        )
    clean = workspace.images.floats(workspace.split.holdout[: min(sheets.RESTORED_SHOWN, len(by_model[0]))])
    measurement = inverse.build(task, workspace.images.image_shape, workspace.settings.seed)
    measured = inverse.Constraint.of(measurement, clean).measured
    return sheets.Restored(task.label, workspace.in_place(clean.numpy()), workspace.in_place(measured.numpy()), models)


def _twin(identity: Identity) -> str | None:
    """The name of the other cell of the same N and training seed; None where there is none."""
    if identity.role != "cell":
        return None
    assert identity.n_train is not None
    assert identity.train_seed is not None
    return runs.Cell(identity.n_train, identity.train_seed, str(identity.part)).twin.name


def _model_label(identity: Identity) -> str:
    """Label of one model on a sheet of images."""
    label = wording.subject_label(identity.role, identity.n_train, identity.subject)
    if identity.role != "cell":
        return label
    seed = f"  seed {identity.train_seed}" if identity.train_seed else ""
    return f"{label}  {str(identity.part).upper()}{seed}"


def draw_restored(workspace: Workspace, found: sheets.Restored) -> list[Path]:
    """Draw the images of one task, restored by every model so far, beside those of the report; returns the paths."""
    path = workspace.run.report / "figures" / f"restored-{found.label}"
    return style.save(sheets.figure_restored(found), path)


def _copies(workspace: Workspace, n_train: int | None) -> list[sheets.Copies]:
    """The closest pairs of each model, as images."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in pairs(workspace, n_train):
        found.setdefault(row["subject"], []).append(row)
    sheet = []
    for name, rows in found.items():
        reported, rows = sum(bool(row["reported_by"]) for row in rows), rows[: sheets.COPIES_SHOWN]
        subject = subjects.find(workspace, name)
        assert subject.samples is not None
        assert subject.train is not None
        place = {int(sample): i for i, sample in enumerate(subject.samples.index)}
        images = subject.train.ids.places([row["train_id"] for row in rows])
        trained_on = subject.train.floats([images[row["train_id"]] for row in rows])
        sheet.append(
            sheets.Copies(
                _model_label(subject.identity),
                reported,
                workspace.in_place(subject.samples.images[[place[row["sample"]] for row in rows]]),
                workspace.in_place(trained_on.numpy()),
                np.array([row["correlation"] for row in rows], dtype=np.float64),
            )
        )
    return sheet


def _bases(workspace: Workspace, n_train: int | None) -> list[sheets.Bases]:
    """The first image in the bases of the denoisers of each N (smallest training seed) and of imported ones."""
    table = workspace.run.table("basis_summary")
    table = _at(table, n_train)
    keys = ["n_train", "train_seed", "sigma", "role", "subject"]
    rows = table.group_by(keys, use_threads=False).aggregate([]).sort_by([(key, "ascending") for key in keys])
    seeds: dict[str, int | None] = {}
    names: dict[tuple[str, float], list[str]] = {}
    for row in rows.to_pylist():
        label = wording.subject_label(row["role"], row["n_train"], row["subject"])
        if row["train_seed"] == seeds.setdefault(label, row["train_seed"]):
            names.setdefault((label, row["sigma"]), []).append(row["subject"])
    return [_drawn_bases(workspace, label, group, sigma, 1)[0] for (label, sigma), group in names.items()]


def _drawn_bases(
    workspace: Workspace, label: str, names: Sequence[str], sigma: float, count: int, own: ImageSet | None = None
) -> list[sheets.Bases]:
    """The first images in the bases of denoisers, at one noise level."""
    arrays = {name: each[:count] for name, each in geometry.read_bases(workspace, names, sigma, own).items()}
    seen = [workspace.in_place(arrays[name]) for name in ("clean", "noisy", "denoised")]
    vectors = workspace.in_place(arrays["eigenvectors"])
    return [sheets.Bases(label, sigma, *at) for at in zip(*seen, arrays["eigenvalues"], vectors, strict=True)]


def draw_bases(
    workspace: Workspace, models: Sequence[tuple[str, Sequence[str]]], sigmas: Sequence[float], own: ImageSet
) -> list[Path]:
    """Draw the bases at a person's own images, beside the figures of the report; returns the paths.

    Args:
        workspace: the run.
        models: a label and the names of the denoisers, twins or a single one, as given to `geometry.measure_basis`.
        sigmas: noise levels, pixel units.
        own: the images.
    """
    found = [
        _drawn_bases(workspace, label, names, sigma, sheets.OWN_SHOWN, own)
        for label, names in models
        for sigma in sigmas
    ]
    by_image = [bases for of_image in zip(*found, strict=True) for bases in of_image]
    return style.save(sheets.figure_bases(by_image), workspace.run.report / "figures" / f"bases-{own.digest}")


def draw_neighbors(workspace: Workspace, queries: ImageSet, found: measure.Reference, table: pa.Table) -> list[Path]:
    """Draw a person's own images beside their neighbors, beside the figures of the report; returns the paths.

    Args:
        workspace: the run.
        queries: the images searched for.
        found: the reference that was searched.
        table: what the search returned.
    """
    rows = table.to_pylist()
    k, references = max(row["rank"] for row in rows), found.load()
    drawn = []
    for query in range(min(sheets.NEIGHBORS_SHOWN, len(queries))):
        own = rows[query * k : (query + 1) * k]
        nearest = references.floats([row["reference_index"] for row in own]).numpy()
        values = np.array([row["value"] for row in own], dtype=np.float64)
        image = workspace.in_place(queries.floats([query]).numpy())[0]
        drawn.append(sheets.Neighbors(own[0]["query_source"], image, workspace.in_place(nearest), values))
    title = f"neighbors-{measure.key_of(queries)}.{found.key}-{rows[0]['metric']}-k{k}"
    return style.save(sheets.figure_neighbors(drawn), workspace.run.report / "figures" / title)


def _specimens(workspace: Workspace, found: dict[str, pa.Table], cells: Sequence[runs.Cell]) -> list[sheets.Specimens]:
    """The first samples of cells at each N, of the smallest training seed, with their nearest training images."""
    named = found["samples"]["subject"].unique().to_pylist()
    sampled = [cell for cell in cells if cell.name in named]
    pairs = []
    for n_train in sorted({cell.n_train for cell in sampled}):
        seed = min(cell.train_seed for cell in sampled if cell.n_train == n_train)
        drawn = {
            cell.part: workspace.in_place(workspace.load_samples(cell.name).images)
            for cell in sampled
            if (cell.n_train, cell.train_seed) == (n_train, seed)
        }
        pair = sheets.specimens(
            found,
            n_train,
            drawn,
            lambda image_id: workspace.in_place(workspace.images.of_id(image_id).numpy()),
            metric=workspace.settings.search.metric,
        )
        pairs += [pair] if pair else []
    return pairs
