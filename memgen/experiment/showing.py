"""What the report of a run lets people look through: all samples, the way of the sampler, and the tables."""

import os
import urllib.parse
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from memgen.base import schemas
from memgen.experiment import runs, subjects
from memgen.experiment.subjects import Record
from memgen.experiment.workspace import Workspace
from memgen.findings import labels
from memgen.findings.audit import Pair, reported
from memgen.images.imageset import ImageSet
from memgen.report import viewers
from memgen.report.downloads import MOST_ROWS, Download, downloads
from memgen.report.gallery import MOST, Gallery, Measure
from memgen.report.tiles import ImageOf, Place
from memgen.report.viewers import Film

_TWIN = "other model, same noise"
_PICTURES = ("sample", "nearest training image", _TWIN)
_OF_TESTS = {
    "W": ("depth W", "How deep the sample lies in the neighborhood of an image of T (above 0) or of H (below 0)."),
    "p": ("p-value", "Of the conformal test: how often a held-out image would lie as deep."),
    "q": ("q-value", "The p-value after Benjamini and Hochberg: the share of false finds if this sample is reported."),
}


def measures(metric: str) -> list[Measure]:
    """The numbers by which the samples of a run are sorted."""
    return [
        Measure("nearest", f"{metric}, training image", "Of the sample with the nearest image of its training set."),
        Measure("twin", f"{metric}, other model", "Of the two models' samples from the same noise."),
        *(Measure(name, *words) for name, words in _OF_TESTS.items()),
        Measure("updates", "updates", "Updates of the sampler."),
    ]


def gallery(workspace: Workspace, tables: Mapping[str, pa.Table], n_train: int | None = None) -> Gallery | None:
    """All samples of a run, or of one N, with their nearest training images and the twins' samples.

    Args:
        workspace: the run.
        tables: its tables by kind, of which samples, neighbors, similarity and significance are read.
        n_train: the N; None for all, and for imported subjects.

    Returns:
        The samples of each model in order, those first that a test reports; None if there are none.
    """
    metric = workspace.settings.search.metric
    rows: list[dict[str, Any]] = []
    complete = set(tables["samples"]["subject"].to_pylist())
    for record in subjects.records(workspace.run):
        here = n_train is None or (record.identity.role == "cell" and record.identity.n_train == n_train)
        if here and record.identity.subject in complete:
            rows += _of_subject(workspace, tables, record, metric)
    if not rows:
        return None
    found = measures(metric)
    values = {
        each.name: np.array([row.get(each.name) for row in rows], dtype=np.float64)  # None becomes NaN
        for each in found
    }
    found = [each for each in found if not np.isnan(values[each.name]).all()]
    places = [[row[title] for row in rows] for title in _PICTURES]
    shown = [i for i, of_picture in enumerate(places) if any(place is not None for place in of_picture)]
    return Gallery(
        pictures=[_PICTURES[i] for i in shown],
        measures=found,
        values=values,
        places=[places[i] for i in shown],
        names=[row["name"] for row in rows],
        notes=[row["note"] for row in rows],
        panels=[row["panel"] for row in rows],
        models=[row["model"] for row in rows],
        spaces=[row["space"] for row in rows],
        reported=np.array([row["reported"] for row in rows], dtype=bool),
        image_of=_images(workspace),
    )


def _of_subject(
    workspace: Workspace, tables: Mapping[str, pa.Table], record: Record, metric: str
) -> list[dict[str, Any]]:
    """The samples of one subject, those first that a test reports."""
    identity = record.identity
    name = identity.subject
    samples = tables["samples"].filter(pc.field("subject") == name).to_pylist()
    own = (pc.field("subject") == name) & (pc.field("query_kind") == "sample") & (pc.field("rank") == 1)
    of_own = pc.field("reference").isin([f"train_{identity.part}", "train"]) & (pc.field("metric") == metric)
    nearest = {row["query"]: row for row in tables["neighbors"].filter(own & of_own).to_pylist()}
    tested = {row["sample"]: row for row in tables["significance"].filter(pc.field("subject") == name).to_pylist()}
    twin, between = None, dict[int, float]()
    if identity.role == "cell":
        other = subjects.cell_of(record).twin.name
        twin = other if other in tables["samples"]["subject"].to_pylist() else None
        mine = f"item_{identity.part}"
        pair = pc.field(f"subject_{identity.part}") == name
        chosen = pair & (pc.field("kind") == "same_noise") & (pc.field("metric") == metric)
        between = {row[mine]: row["value"] for row in tables["similarity"].filter(chosen).to_pylist()}
    sources = subjects.find(workspace, name).sample_sources
    train_set = "images" if identity.role == "cell" else f"sets/{record.train_set}"
    wanted = [row["reference_id"] for row in nearest.values()]
    position = _image_set(workspace, train_set).ids.places(wanted) if nearest else {}
    rows = []
    for place, sample in enumerate(samples):
        number = sample["sample"]
        found, judged = nearest.get(number), tested.get(number)
        at = None if found is None else position.get(found["reference_id"])
        rows.append(
            {
                "panel": labels.panel_of(vars(identity)),
                "model": labels.model(vars(identity)),
                "name": f"sample {number}" if sources is None else sources[place],
                "note": sample["status"].replace("_", " ") if sample["status"] in ("step_cap", "diverged") else "",
                "space": "" if judged is None else judged["space"],
                "reported": judged is not None and (judged["discovered"] or judged["flagged"]),
                "updates": sample["updates"],
                "nearest": None if found is None else found["value"],
                "twin": between.get(number),
                **({} if judged is None else {key: judged[key] for key in _OF_TESTS}),
                "place": place,
                _PICTURES[0]: (f"samples/{name}", place),
                _PICTURES[1]: None if at is None else (train_set, at),
                _PICTURES[2]: None if twin is None else (f"samples/{twin}", place),
            }
        )
    return sorted(rows, key=lambda row: (not row["reported"], row["place"]))


def _image_set(workspace: Workspace, name: str) -> ImageSet:
    """The run's images, or a set of an imported subject (`sets/NAME`)."""
    if name == "images":
        return workspace.images
    return ImageSet.load(workspace.run.image_set(name.removeprefix("sets/")))


def _images(workspace: Workspace) -> ImageOf:
    """Gives an image of a set by its position; arrays are mapped, so that only what is shown is read."""

    @cache
    def array(name: str) -> NDArray[Any]:
        if name.startswith("samples/"):
            found: NDArray[Any] = np.load(
                workspace.run.samples_path(name.removeprefix("samples/")), mmap_mode="r", allow_pickle=False
            )
            return found
        return _image_set(workspace, name).pixels

    return lambda name, position: workspace.in_place(np.asarray(array(name)[position]))


def films(workspace: Workspace, n_train: int | None = None) -> list[Film]:
    """The denoised images that were kept on the way of the sampler, of each model that has any."""
    found = []
    for record in subjects.records(workspace.run):
        identity = record.identity
        path = workspace.run.trajectory_path(identity.subject)
        here = n_train is None or (identity.role == "cell" and identity.n_train == n_train)
        if not (here and path.exists() and workspace.run.has_table("trajectory", identity.subject)):
            continue
        way = workspace.run.table("trajectory", identity.subject).group_by("step").aggregate([("sigma", "mean")])
        levels = dict(zip(way["step"].to_pylist(), way["sigma_mean"].to_pylist(), strict=True))
        with np.load(path, allow_pickle=False) as kept:
            steps, frames = kept["steps"].tolist(), workspace.in_place(kept["path"][:, : viewers.SAMPLES_SHOWN])
        model, panel = labels.model(vars(identity)), labels.panel_of(vars(identity))
        numbers = list(range(frames.shape[1]))
        found.append(Film(panel, model, numbers, steps, [levels.get(step) for step in steps], frames))
    return found


def tables(run: runs.Run, folder: Path) -> list[Download]:
    """The tables of a run for a page in a folder.

    Args:
        run: a sweep or an audit.
        folder: where the page is.
    """
    links = {}
    for kind in schemas.KINDS:
        if names := run.table_names(kind):
            paths = [os.path.relpath(run.table_path(kind, name), folder) for name in names]
            links[kind] = [urllib.parse.quote(path.replace(os.sep, "/")) for path in paths]
    rows = {kind: run.rows(kind) for kind in links}
    small = [kind for kind in links if rows[kind] <= MOST_ROWS]
    found = dict(zip(small, downloads([(kind, run.table(kind), links[kind]) for kind in small]), strict=True))
    return [found.get(kind) or Download(kind, rows[kind], of_kind, "") for kind, of_kind in links.items()]


def of_audit(found: Sequence[Pair], image_of: ImageOf | None, significance: pa.Table) -> Gallery:
    """The samples of an audit, as many as a gallery shows, with the closest training and held-out images.

    Args:
        found: all pairs, in the order of `findings.audit.pairs`.
        image_of: gives an image of a set; None shows none.
        significance: the SIGNIFICANCE table, for the q-values; empty without held-out images.
    """
    pairs = found[:MOST]
    of_these = significance.filter(pc.field("sample").isin([pair.sample for pair in pairs]))
    q = dict(zip(of_these["sample"].to_pylist(), of_these["q"].to_pylist(), strict=True))
    columns = {
        "closeness": [pair.closeness for pair in pairs],
        "held_out": [pair.held_out_closeness for pair in pairs],
        "correlation": [pair.correlation for pair in pairs],
        "W": [pair.score for pair in pairs],
        "p": [pair.p for pair in pairs],
        "q": [q.get(pair.sample) for pair in pairs],
    }
    values = {name: np.array(found, dtype=np.float64) for name, found in columns.items()}
    places: list[list[Place | None]] = [
        [("samples", pair.sample) for pair in pairs],
        [("train", pair.train) for pair in pairs],
        [None if pair.held_out is None else ("held_out", pair.held_out) for pair in pairs],
    ]
    titles = ("sample", "closest training image", "closest held-out image")
    shown = [i for i in range(3) if image_of is not None and any(place is not None for place in places[i])]
    measured = [
        Measure("closeness", "similarity, training image", "To the closest training image in the space of the sample."),
        Measure("held_out", "similarity, held-out image", "To the closest held-out image in the same space."),
        Measure("correlation", "correlation of pixels", "With the closest training image in pixels."),
        *(Measure(name, *words) for name, words in _OF_TESTS.items()),
    ]
    return Gallery(
        pictures=[titles[i] for i in shown],
        measures=[each for each in measured if not np.isnan(values[each.name]).all()],
        values=values,
        places=[places[i] for i in shown],
        names=[pair.sample_source for pair in pairs],
        notes=[
            f"{pair.train_source}{f', group {pair.group}' if pair.group is not None else ''}"
            f"{f'; compared after this change: {pair.change}' if pair.change else ''}"
            for pair in pairs
        ],
        panels=[""] * len(pairs),
        models=[""] * len(pairs),
        spaces=[pair.space for pair in pairs],
        reported=np.array([bool(pair.reported_by) for pair in pairs], dtype=bool),
        total=len(found),
        reported_total=reported(found),
        **({} if image_of is None else {"image_of": image_of}),
    )
