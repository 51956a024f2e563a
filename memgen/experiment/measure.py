"""What is measured of a run: neighbors, PSNR, similarity and distance of twins, copies, each kept as a table.

Every function here is the library twin of a command, or of a step of the sweep. Each is idempotent: a table that
exists is not made again.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from memgen import spaces
from memgen.base import files, schemas, tables
from memgen.base.errors import RunError
from memgen.base.progress import Progress
from memgen.experiment import runs
from memgen.experiment.workspace import REFERENCES, Workspace
from memgen.images.imageset import ImageSet, content_id
from memgen.measures import compare, distances
from memgen.measures import psnr as denoising
from memgen.measures.copies import competition, conformal, controls, examiner
from memgen.models.known.fitting import EmpiricalSettings, fit
from memgen.spaces import lpips
from memgen.spaces.index import Index


def build_index(workspace: Workspace, reference: str, n_train: int, metric: str | None = None) -> Index:
    """The index of a training set (train_a, train_b) or of the holdout, built if it is not there.

    Raises:
        RunError: the reference is none of train_a, train_b and holdout.
    """
    if reference not in REFERENCES:
        raise RunError(f"no index {reference!r}; a run has {', '.join(REFERENCES)}.")
    search = workspace.settings.search
    metric = metric or search.metric
    folder = workspace.run.index(_index_name(reference, n_train, metric))
    if not (folder / "index.json").exists():
        chosen = workspace.images.take(workspace.indices(reference, n_train))
        built = Index.build(
            chosen.pixels,
            chosen.ids,
            spaces.find(metric),
            reference,
            search.cluster_threshold,
            search.backend,
            workspace.device,
        )
        built.save(folder)
    return Index.load(folder, search.backend, workspace.device)


def _index_name(reference: str, n_train: int, metric: str) -> str:
    return f"{reference}-{metric}" if reference == "holdout" else f"{reference}-n{n_train}-{metric}"


def _search_key(
    workspace: Workspace, name: str, reference: str, n_train: int, metric: str, k: int | None, measured: bool
) -> str:
    """Where a search is kept: with the measurements of the sweep if it is one of them, or else apart, not counted."""
    key = f"{name}.{_index_name(reference, n_train, metric)}" + (f"-k{k}" if k else "")
    return key if measured and k is None and metric == workspace.settings.search.metric else f"searches/{key}"


def search_samples(
    workspace: Workspace, name: str, reference: str, n_train: int, metric: str | None = None, k: int | None = None
) -> pa.Table:
    """The nearest images of a reference to each sample of a denoiser, as a NEIGHBORS table kept in the run.

    Args:
        workspace: the run.
        name: of the denoiser.
        reference: train_a, train_b or holdout.
        n_train: size of the training set meant.
        metric: of the neighbors; that of the settings when None.
        k: neighbors of each sample; that of the settings, or N where that is smaller, when None.
    """
    metric = metric or workspace.settings.search.metric
    cell = runs.Cell.parse(name)
    measured = cell is not None and cell.n_train == n_train and reference == f"train_{cell.part}"
    key = _search_key(workspace, name, reference, n_train, metric, k, measured)
    if not workspace.run.has_table("neighbors", key):
        index = build_index(workspace, reference, n_train, metric)
        drawn, position = workspace.samples(name)
        hits = index.search(torch.from_numpy(drawn), k or min(workspace.settings.search.k, index.n))
        ids = [content_id(image) for image in drawn]
        keys = workspace.keys(name) | {"n_train": n_train}
        table = index.to_table(hits, "sample", ids, keys, [int(i) for i in position])
        workspace.run.write_table("neighbors", key, table)
    return workspace.run.table("neighbors", key)


def search_holdout(
    workspace: Workspace, reference: str, n_train: int, metric: str | None = None, k: int | None = None
) -> pa.Table:
    """The nearest training images to each holdout image: what a model that does not depend on them would do."""
    metric = metric or workspace.settings.search.metric
    measured = n_train in workspace.settings.sweep.n_train
    key = _search_key(workspace, "holdout", reference, n_train, metric, k, measured)
    if not workspace.run.has_table("neighbors", key):
        index = build_index(workspace, reference, n_train, metric)
        chosen = workspace.split.holdout
        hits = index.search(workspace.images.floats(chosen), k or min(workspace.settings.search.k, index.n))
        ids = [workspace.images.ids[i] for i in chosen]
        keys = {"subject": None, "role": None, "n_train": n_train, "part": reference[-1], "train_seed": None}
        workspace.run.write_table("neighbors", key, index.to_table(hits, "holdout", ids, keys))
    return workspace.run.table("neighbors", key)


def search_images(
    workspace: Workspace,
    queries: ImageSet,
    reference: str,
    n_train: int,
    metric: str | None = None,
    k: int | None = None,
) -> pa.Table:
    """The nearest images of a reference to a person's own images, as a NEIGHBORS table kept in the run."""
    metric = metric or workspace.settings.search.metric
    index = build_index(workspace, reference, n_train, metric)
    keys = {"subject": None, "role": None, "n_train": n_train, "part": None, "train_seed": None}
    hits = index.search(queries.floats(None), k or min(workspace.settings.search.k, index.n))
    table = index.to_table(hits, "user", queries.ids, keys)
    key = _search_key(workspace, f"user-{queries.digest}", reference, n_train, metric, k, measured=False)
    workspace.run.write_table("neighbors", key, table)
    return table


def rerank(
    workspace: Workspace, found: pa.Table, trunk: Path, net: str = "alex", queries: ImageSet | None = None
) -> pa.Table:
    """The neighbors that a search found, ranked by LPIPS, as a NEIGHBORS table of its own kept in the run.

    Args:
        workspace: the run.
        found: what a search returned, or its first rows, whole queries only.
        trunk: weights of the trunk of LPIPS.
        net: the trunk, alex or vgg.
        queries: the images searched for, if they were a person's own.
    """
    search = found.slice(0, 1).to_pylist()[0]
    reference, n_train, k = search["reference"], search["n_train"], pc.max(found["rank"]).as_py()
    source = f"{search['subject'] or search['query_kind']}-{files.digest(*found['query_id'].to_pylist())}"
    query = np.arange(len(found)) // k
    if queries is not None:
        images = queries.floats(query)
    elif search["query_kind"] == "sample":
        images = torch.from_numpy(workspace.samples(search["subject"])[0][query])
    else:
        images = workspace.images.floats(workspace.split.holdout[query])
    alike = workspace.images.floats(workspace.indices(reference, n_train)[found["reference_index"].to_numpy()])
    value = lpips.lpips_distance(images, alike, trunk, net).numpy()
    order = np.lexsort((value, query))
    ranked = {"metric": f"lpips_{net}", "rank": found["rank"].to_numpy(), "value": value[order]}
    table = tables.make(schemas.NEIGHBORS, found.take(order).to_pydict() | ranked)
    key = f"searches/{source}.{_index_name(reference, n_train, search['metric'])}-k{k}.lpips-{net}"
    workspace.run.write_table("neighbors", key, table)
    return table


def measure_psnr(workspace: Workspace, name: str) -> pa.Table:
    """PSNR curves of a denoiser on its training images and on the holdout, as a PSNR table kept in the run."""
    run, settings = workspace.run, workspace.settings
    if not run.has_table("psnr", name):
        network, cell = workspace.denoiser(name), runs.Cell.parse(name)
        sets = {"holdout": workspace.split.holdout}
        if cell:
            sets = {"train": workspace.split.training_indices("a" if cell.part == "a" else "b", cell.n_train)} | sets
        curves = []
        for kind, chosen in sets.items():
            ids, clean = workspace.take(chosen[: settings.psnr.n_images])
            batch = settings.sample.micro_batch
            curves.append(
                denoising.curve(network, clean, ids, kind, settings.psnr, settings.seed, batch, workspace.keys(name))
            )
        run.write_table("psnr", name, pa.concat_tables(curves))
    return run.table("psnr", name)


def compare_pair(workspace: Workspace, n_train: int, train_seed: int) -> pa.Table:
    """Similarity of the samples of two twins, as a SIMILARITY table kept in the run."""
    run, settings = workspace.run, workspace.settings
    cell = runs.Cell(n_train, train_seed, "a")
    if not run.has_table("similarity", cell.pair):
        drawn_a, drawn_b = (torch.from_numpy(workspace.samples(name)[0]) for name in (cell.name, cell.twin.name))
        nearest = build_index(workspace, "train_b", n_train).nearest
        train_a = workspace.images.floats(workspace.indices("train_a", n_train))
        similar = compare.compare(drawn_a, drawn_b, train_a, nearest, settings.search.metric, _pair(cell))
        run.write_table("similarity", cell.pair, similar)
    return run.table("similarity", cell.pair)


def _pair(cell: runs.Cell) -> dict[str, str | int]:
    """The columns of a table on the cell of part a and its twin."""
    names = {"subject_a": cell.name, "subject_b": cell.twin.name, "role": "cell"}
    return names | {"n_train": cell.n_train, "train_seed": cell.train_seed}


def measure_distances(workspace: Workspace, n_train: int, train_seed: int) -> pa.Table:
    """How far apart two twins are as denoisers, and from their training sets' posterior means: a DISTANCES table.

    The bits are measured between the noise levels at which sampling ends and starts, where the denoisers are used.
    """
    run, settings = workspace.run, workspace.settings
    cell = runs.Cell(n_train, train_seed, "a")
    if not run.has_table("distances", cell.pair):
        batch, seed, draws = settings.sample.micro_batch, settings.seed, settings.psnr.noise_draws
        a, b = (workspace.denoiser(name) for name in (cell.name, cell.twin.name))
        ids, clean = workspace.take(workspace.split.holdout[: settings.psnr.n_images])
        keys, sigmas = _pair(cell), settings.psnr.sigmas
        found = [distances.measure({"models": (a, b)}, clean, ids, sigmas, draws, seed, batch, keys)]
        if count := settings.distances.empirical_images:
            memories = [
                fit(EmpiricalSettings(), workspace.images.take(workspace.indices(reference, n_train)).pixels)
                for reference in ("train_a", "train_b")
            ]
            e_a, e_b = (denoiser.to(workspace.device).eval() for denoiser in memories)
            pairs = {"empirical_a": (a, e_a), "empirical_b": (b, e_b), "empirical": (e_b, e_a)}
            found.append(distances.measure(pairs, clean[:count], ids[:count], sigmas, draws, seed, batch, keys))
        levels, weights = distances.quadrature(
            settings.sample.sigma_end, settings.sample.sigma_start, settings.distances.bits_levels
        )
        for part, name in (("a", cell.name), ("b", cell.twin.name)):
            drawn, position = workspace.samples(name)
            images = torch.from_numpy(drawn).to(workspace.device)
            ids = [str(i) for i in position]
            kind = {f"samples_{part}": (a, b)}
            found.append(distances.measure(kind, images, ids, levels, 1, seed, batch, keys, weights))
        run.write_table("distances", cell.pair, pa.concat_tables(found))
    return run.table("distances", cell.pair)


def find_copies(workspace: Workspace, cell: runs.Cell) -> pa.Table:
    """Test a cell's samples for copies of its training images; its row of the table COPIES, kept in the run.

    T is the cell's training set, H everything that the cell never saw: the whole other part and the holdout. Conformal
    p-values are judged against the holdout. A row for each sample goes into the table SIGNIFICANCE.
    """
    run, images, split = workspace.run, workspace.images, workspace.split
    if not run.has_table("copies", cell.name):
        unseen = np.concatenate([getattr(split, cell.twin.part), split.holdout])
        train, held_out = (
            images.take(part) for part in (workspace.indices(f"train_{cell.part}", cell.n_train), unseen)
        )
        search = workspace.settings.search
        examining = examiner.Examiner(train, held_out, search.cluster_threshold, search.backend, workspace.device)
        drawn, position = workspace.samples(cell.name)
        found = examining.examine(torch.from_numpy(drawn), workspace.settings.seed)
        pool, contest, share = examining.pool, found.competition, found.fraction
        own, of_holdout = _own_nearest(workspace, cell)
        closeness, null = (np.nan_to_num(table["value"].to_numpy(), nan=-1) for table in (own, of_holdout))
        p = conformal.conformal(closeness, null)
        keys = workspace.keys(cell.name)
        table = examiner.to_table(
            keys,
            [int(i) for i in position],
            pool.ids,
            pool.in_train,
            found.nearest,
            found.distances,
            contest,
            own["reference_id"].to_pylist(),
            closeness,
            p,
            examiner.SPACE,
        )
        run.write_table("significance", cell.name, table)
        _, flagged = conformal.benjamini_hochberg(p, contest.q)
        columns = {
            "n_pool_train": int(pool.in_train.sum()),
            "n_pool_heldout": int((~pool.in_train).sum()),
            "n_leaks": pool.n_mixed,
            "samples": len(drawn),
            "q": contest.q,
            "answer": contest.answer,
            "discoveries": int(contest.discovered.sum()),
            "alike": int((contest.discovered & (closeness >= competition.ALIKE)).sum()),
            "attached": contest.n_attached,
            "k_min": contest.k_min,
            "n_competing": contest.n_competing,
            "memorized_fraction": share.estimate,
            "low": share.low,
            "high": share.high,
            "p": share.p,
            "conformal_discoveries": int(flagged.sum()),
            "conformal_k_min": conformal.conformal_resolution(len(drawn), len(split.holdout), contest.q),
        }
        run.write_table("copies", cell.name, tables.make(schemas.COPIES, keys | columns))
    return run.table("copies", cell.name)


def _own_nearest(workspace: Workspace, cell: runs.Cell) -> list[pa.Table]:
    """The nearest training image, by correlation, of each sample and of each holdout image: NEIGHBORS of rank 1."""
    reference = f"train_{cell.part}"
    found = [
        search_samples(workspace, cell.name, reference, cell.n_train, "correlation"),
        search_holdout(workspace, reference, cell.n_train, "correlation"),
    ]
    return [table.filter(pc.field("rank") == 1) for table in found]


def calibrate(
    workspace: Workspace, n_train: int, repeats: int = controls.REPEATS, progress: Progress | None = None
) -> pa.Table:
    """Try the test for copies on the run's own images, in the sizes in which it tests a cell: a CALIBRATION table.

    Each redraw is kept, so that a longer calibration goes on from a shorter one.

    Args:
        workspace: the run.
        n_train: size of the training set.
        repeats: redraws.
        progress: called with (redraws done, redraws).

    Raises:
        DataError: the run has too few images.
    """
    run, split, settings = workspace.run, workspace.split, workspace.settings
    design = controls.Design(
        n_train=n_train,
        n_held_out=max(len(split.a), len(split.b)) + len(split.holdout),
        n_samples=settings.sample.n_samples,
        threshold=settings.search.cluster_threshold,
        backend=settings.search.backend,
        device=workspace.device,
        sample=settings.sample,
    )
    names = [f"n{n_train}-r{repeat}" for repeat in range(repeats)]
    for repeat, name in enumerate(names):
        if not run.has_table("calibration", name):
            found = controls.run_once(workspace.images, design, settings.seed, repeat)
            run.write_table("calibration", name, found)
        if progress:
            progress(repeat + 1, repeats)
    return pa.concat_tables([run.table("calibration", name) for name in names])
