"""What a run's measurements say: the summary with its intervals, the verdict in words, the report."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memgen import measure, report, runs, sheets, tables, transition, verdict
from memgen.errors import RunError
from memgen.workspace import Workspace


def pair_medians(workspace: Workspace, n_train: int, train_seed: int) -> dict[str, float]:
    """Medians of a finished pair, for a line of progress: own nearest, same noise, different noise."""
    similar = workspace.run.table("similarity", runs.Cell(n_train, train_seed, "a").pair).to_pylist()
    own = []
    for part in ("a", "b"):
        found = measure.search_samples(workspace, runs.Cell(n_train, train_seed, part).name, f"train_{part}", n_train)
        own += [row["value"] for row in found.to_pylist() if row["rank"] == 1]
    values = {"own nearest": own}
    for kind in ("same_noise", "different_noise"):
        values[kind.replace("_", " ")] = [row["value"] for row in similar if row["kind"] == kind]
    return {name: float(np.nanmedian(np.array(found, dtype=float))) for name, found in values.items() if found}


def summary(workspace: Workspace, n_train: int | None = None) -> pa.Table:
    """The TRANSITION table of what the run has measured so far, of one N or of all."""
    return transition.summarize(
        _measured(workspace, n_train), workspace.settings.seed, workspace.settings.search.metric
    )


def _measured(workspace: Workspace, n_train: int | None) -> dict[str, pa.Table]:
    """The run's tables, stacked; only the rows of one N where one is given."""
    found = {
        kind: workspace.run.table(kind) for kind in tables.SCHEMAS if kind not in ("images", "transition", "trajectory")
    }
    if n_train is None:
        return found
    return {
        kind: table.filter(pc.field("n_train") == n_train) if "n_train" in table.column_names else table
        for kind, table in found.items()
    }


def say_verdict(workspace: Workspace) -> tuple[verdict.Verdict, pa.Table, pa.Table]:
    """What the run's measurements support; returns the verdict, the TRANSITION and the COPIES table behind it."""
    table, found = summary(workspace), workspace.run.table("copies")
    return verdict.verdict(table, found), table, found


def write_report(workspace: Workspace, n_train: int | None = None) -> tuple[verdict.Verdict, pa.Table, list[Path]]:
    """Summarize the run, of one N or of all, and write page and figures; returns verdict, TRANSITION table and paths.

    Raises:
        RunError: the run has nothing to report yet.
    """
    run, metric = workspace.run, workspace.settings.search.metric
    found = _measured(workspace, n_train)
    if not any(found[kind].num_rows for kind in ("neighbors", "similarity", "psnr")):
        raise RunError(f"{run.path} holds no measurements. Make some: memgen sweep --run {run.name}.")
    found["transition"] = transition.summarize(found, workspace.settings.seed, metric)
    if n_train is None:
        run.write_table("transition", "transition", found["transition"])
    page = report.ReportInput(
        title=f"memgen: {run.name}" + (f", N = {n_train:,}" if n_train else ""),
        manifest=run.manifest,
        tables=found,
        pairs=_specimens(workspace, found),
        dimension=int(np.prod(workspace.images.image_shape)),
        metric=metric,
    )
    folder = run.report if n_train is None else run.report / f"n{n_train}"
    return verdict.verdict(found["transition"], found["copies"]), found["transition"], report.write(page, folder)


def _specimens(workspace: Workspace, found: dict[str, pa.Table]) -> list[sheets.Specimens]:
    """The first samples at each N, of the smallest training seed, with their nearest training images."""
    position = {image_id: i for i, image_id in enumerate(workspace.images.ids)}
    sampled = [cell for cell in workspace.run.cells() if workspace.run.has_table("samples", cell.name)]
    sampled = [cell for cell in sampled if cell.n_train in found["samples"].column("n_train").to_pylist()]
    pairs = []
    for n_train in sorted({cell.n_train for cell in sampled}):
        seed = min(cell.train_seed for cell in sampled if cell.n_train == n_train)
        drawn = {
            cell.part: workspace.samples(cell.name)[0]
            for cell in sampled
            if (cell.n_train, cell.train_seed) == (n_train, seed)
        }
        pair = sheets.specimens(
            found,
            n_train,
            drawn,
            lambda image_id: workspace.images.floats([position[image_id]])[0].numpy(),
            metric=workspace.settings.search.metric,
        )
        pairs += [pair] if pair else []
    return pairs
