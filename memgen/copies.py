"""The test for copies (significance.py) applied to a cell of a run.

T is the cell's training set, H the whole other part, which the cell never saw; conformal p-values are judged against
the holdout, which is in neither. Distances are Euclidean between images centered and scaled to length 1, so that
d^2 = 2 (1 - correlation).
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from memgen import duplicates, neighbors, runs, significance, steps, tables
from memgen.similarity import embed
from memgen.workspace import Workspace

SPACE = "pixels, centered and scaled; Euclidean"
_NEIGHBORS = 10  # how many the depth of a sample looks at


def find_copies(workspace: Workspace, cell: runs.Cell) -> pa.Table:
    """Test a cell's samples for copies of its training images; its row of the table COPIES, kept in the run.

    A row for each sample goes into the table SIGNIFICANCE.
    """
    run = workspace.run
    if not run.has_table("copies", cell.name):
        chosen = [workspace.indices(f"train_{cell.part}", cell.n_train), getattr(workspace.split, cell.twin.part)]
        ids_t, ids_h = ([workspace.images.ids[i] for i in part] for part in chosen)
        rows_t, rows_h = (embed(workspace.images.floats(part), "correlation").numpy() for part in chosen)
        pool = duplicates.pool(rows_t, rows_h, ids_t, ids_h, workspace.settings.search.cluster_threshold)
        drawn, position = workspace.samples(cell.name)
        nearest, distances, apart = _depths(
            workspace, np.concatenate(chosen), np.concatenate([rows_t, rows_h]), pool, drawn
        )
        contest = significance.compete(nearest, significance.depth(distances, apart), pool.in_train)
        p = significance.conformal(*_nearness(workspace, cell))
        keys = workspace.keys(cell.name)
        samples = [int(i) for i in position]
        table = significance.to_table(keys, samples, pool.ids, pool.in_train, nearest, distances, contest, p, SPACE)
        run.write_table("significance", cell.name, table)
        share = significance.memorized_fraction(nearest, pool.in_train, workspace.settings.seed)
        held_out = len(workspace.split.holdout)
        _, flagged = significance.benjamini_hochberg(p, contest.q)
        columns = {
            "n_pool_train": int(pool.in_train.sum()),
            "n_pool_heldout": int((~pool.in_train).sum()),
            "n_leaks": pool.n_mixed,
            "samples": len(drawn),
            "q": contest.q,
            "answer": contest.answer,
            "discoveries": int(contest.discovered.sum()),
            "attached": contest.n_attached,
            "k_min": contest.k_min,
            "n_competing": contest.n_competing,
            "memorized_fraction": share.estimate,
            "low": share.low,
            "high": share.high,
            "p": share.p,
            "conformal_discoveries": int(flagged.sum()),
            "conformal_k_min": significance.conformal_resolution(len(drawn), held_out, contest.q),
        }
        run.write_table("copies", cell.name, tables.make(tables.COPIES, keys | columns))
    return run.table("copies", cell.name)


def _depths(
    workspace: Workspace, positions: NDArray[np.int64], rows: NDArray[Any], pool: duplicates.Pool, drawn: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Nearest representative (m,) of each sample, distances to the ten nearest, and theirs from the nearest."""
    search = workspace.settings.search
    pixels = workspace.images.take(positions[pool.representatives]).pixels
    index = neighbors.Index.build(pixels, pool.ids, "correlation", "pool", 1.0, search.backend, workspace.device)
    hits = index.search(torch.from_numpy(drawn), min(_NEIGHBORS, index.n))
    # A constant image is the zero vector here, at distance 1 from every other.
    distances = np.sqrt(np.maximum(0, 2 - 2 * np.nan_to_num(hits.value, nan=0.5)))
    order = np.argsort(distances, axis=1, kind="stable")
    near = np.take_along_axis(hits.reference_index, order, axis=1)
    unit = rows[pool.representatives].astype(np.float64)
    apart = np.linalg.norm(unit[near[:, :1]] - unit[near[:, 1:]], axis=2)
    return near[:, 0], np.take_along_axis(distances, order, axis=1), apart


def _nearness(workspace: Workspace, cell: runs.Cell) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlation of each sample, and of each holdout image, with its nearest training image; -1 where undefined."""
    reference = f"train_{cell.part}"
    found = [
        steps.search_samples(workspace, cell.name, reference, cell.n_train, "correlation"),
        steps.search_holdout(workspace, reference, cell.n_train, "correlation"),
    ]
    first = [table.filter(pc.field("rank") == 1).column("value").to_numpy() for table in found]
    return np.nan_to_num(first[0], nan=-1), np.nan_to_num(first[1], nan=-1)
