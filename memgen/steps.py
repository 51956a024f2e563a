"""What each command does to a run: take what is there, call one stage, write what is missing.

Every function here is the library twin of a command. Each is idempotent: an artifact that exists is not made again.
This module and `sweep` are the only places where two stages meet.
"""

import io
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen import (
    checkpoints,
    compare,
    files,
    importers,
    neighbors,
    perceptual,
    report,
    runs,
    sheets,
    tables,
    transition,
    verdict,
)
from memgen import psnr as denoising
from memgen import sample as sampling
from memgen.denoisers import NetworkSettings, build
from memgen.errors import DataError, RunError
from memgen.images import ImageSet, Split, content_id
from memgen.train import Training, TrainingRecord, train
from memgen.workspace import REFERENCES, Progress, RunSettings, Workspace, has_data

_SAVE_EVERY_S = 20.0


def read_images(settings: RunSettings, progress: Progress | None = None) -> ImageSet:
    """The images that a run of these settings would have, without writing anything."""
    return _import(settings, progress).images


def _import(settings: RunSettings, progress: Progress | None) -> importers.Imported:
    data = settings.data
    if data.generated:
        return importers.generate_images(data.generated, data.shuffle, settings.seed, progress)
    return importers.import_images(Path(data.source) if data.source else None, data, progress, settings.seed)


def import_data(workspace: Workspace, progress: Progress | None = None) -> dict[str, Any]:
    """Import the run's images, remove near-duplicates, split them, and record all of it; returns the counts.

    Raises:
        DataError: the images cannot be used, or are fewer than the settings need.
    """
    run, settings = workspace.run, workspace.settings
    if not has_data(run):
        imported = _import(settings, progress)
        before = run.manifest["data"]
        if before and before["digest"] != imported.images.digest:
            raise DataError(
                f"{before['source']}: no longer holds the images that {run.path} was made from. Restore them, or "
                f"start another run."
            )
        split = Split.make(imported.images, settings.split.holdout, settings.seed)
        for n_train in settings.sweep.n_train:
            split.train("a", n_train)  # says what is missing before anything is written
        imported.images.save(run.images)
        run.write_table("skipped", "skipped", imported.skipped)
        run.write_table("duplicates", "duplicates", imported.duplicates)
        with files.writing(run.holdout_mean) as file:
            np.save(file, imported.images.floats(split.holdout).mean(dim=0).numpy())
        run.write_table("split", "split", split.to_table())
    found = workspace.images
    counts = {
        "source": settings.data.name,
        "images": len(found),
        "image_shape": list(found.image_shape),
        "digest": found.digest,
        "skipped": run.table("skipped").num_rows,
        "near_duplicates_removed": run.table("duplicates").num_rows,
        "a": len(workspace.split.a),
        "b": len(workspace.split.b),
        "holdout": len(workspace.split.holdout),
    }
    if run.manifest["data"] != counts:
        run.update(data=counts)
    return counts


def train_cell(
    workspace: Workspace, cell: runs.Cell, on_record: Callable[[TrainingRecord, int], None] | None = None
) -> Path:
    """Train the denoiser of a cell, or go on from where a killed process left it; returns the path of its weights.

    A denoiser known in closed form needs no training: its architecture is noted, and it is fitted when it is used.

    Args:
        workspace: the run.
        cell: which training.
        on_record: called with each new record and the budget in images.
    """
    run, settings = workspace.run, workspace.settings
    if not isinstance(settings.model, NetworkSettings):
        if not run.fitted(cell.name).exists():
            files.write_json(run.fitted(cell.name), settings.model.model_dump(mode="json") | cell.keys)
        return run.fitted(cell.name)
    path, state = run.denoiser(cell.name), run.training_state(cell.name)
    if path.exists() and run.has_table("training", cell.name) and path.with_suffix(".json").exists():
        state.unlink(missing_ok=True)  # left by a process killed in the instant after the last file
        return path
    chosen = workspace.indices(f"train_{cell.part}", cell.n_train)
    pixels = torch.from_numpy(np.ascontiguousarray(workspace.images.take(chosen).pixels)).to(workspace.device)
    network = build(settings.model, workspace.images.image_shape)
    training = Training(network, settings.train, (cell.train_seed, int(cell.part == "b")), workspace.device)
    if state.exists():
        training.restore(_load_state(state, workspace.device))
    budget = settings.train.budget(cell.n_train)
    saved = training.seconds
    for record in train(training, pixels):
        if on_record:
            on_record(record, budget)
        if record.seconds - saved > _SAVE_EVERY_S and record.images_seen < budget:
            saved = record.seconds
            saving = io.BytesIO()  # torch.save would report a full disk as a RuntimeError without its cause
            torch.save(training.state(), saving)
            with files.writing(state) as file:
                file.write(saving.getbuffer())
    records = [asdict(record) for record in training.records]
    columns = {name: [record[name] for record in records] for name in records[0]}
    extra = {"train": settings.train.model_dump(), "images_seen": training.images_seen, **cell.keys}
    checkpoints.save(path, training.result, settings.model, extra)
    # Last, since it alone holds wall times: what a killed process has to do again then comes out the same.
    run.write_table("training", cell.name, tables.make(tables.TRAINING, cell.keys | columns))
    state.unlink(missing_ok=True)
    return path


def _load_state(path: Path, device: str) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise DataError(f"{path}: damaged training state. Delete it to train again from the start.") from error
    return state


def import_denoiser(
    workspace: Workspace, source: Path, name: str, options: checkpoints.ImportOptions
) -> checkpoints.ImportedCheckpoint:
    """Bring a checkpoint of the paper's authors, or another of memgen's layouts, into the run under a name.

    Raises:
        RunError: a denoiser of that name exists, or the name is a cell's.
        DataError: the file is no checkpoint that memgen knows, or takes images of another number of channels.
    """
    if not runs.is_name(name):
        raise RunError(f"denoiser name {name!r}: use letters, digits, '.', '_' and '-' only. Choose one with --name.")
    if runs.Cell.parse(name):
        raise RunError(f"{name} is the name of a trained cell. Choose another name for the imported denoiser.")
    if workspace.run.denoiser(name).exists():
        raise RunError(f"{workspace.run.path} already has a denoiser {name}. Choose another name.")
    channels, height, width = workspace.images.image_shape
    imported = checkpoints.import_checkpoint(source, (height, width), options)
    if imported.network.image_shape[0] != channels:
        raise DataError(
            f"{source}: takes images of {imported.network.image_shape[0]} channels, but the run's have {channels}. "
            f"Import the images with data.color = {'gray' if channels > 1 else 'rgb'}."
        )
    checkpoints.save(workspace.run.denoiser(name), imported.network, imported.settings, imported.provenance)
    return imported


def sample_denoiser(
    workspace: Workspace, name: str, on_step: Progress | None = None, path_every: int | None = None
) -> Path:
    """Draw the samples of a denoiser; returns the path of the images.

    Args:
        workspace: the run.
        name: of the denoiser.
        on_step: called with (samples ended, updates made).
        path_every: also keep the denoised images every so many updates, and the noise levels in a table.
    """
    run, settings = workspace.run, workspace.settings
    finished = run.has_table("samples", name) and run.samples(name).exists()
    if finished and (path_every is None or _path_interval(run, name) == path_every):
        return run.samples(name)
    drawn = sampling.sample(
        workspace.denoiser(name),
        workspace.mean,
        range(settings.sample.n_samples),
        settings.seed,
        settings.sample,
        path_every,
        on_step,
    )
    with files.writing(run.samples(name)) as file:
        np.save(file, drawn.images)
    if drawn.path is not None:
        with files.writing(run.sample_path(name)) as file:
            np.savez(file, path=drawn.path, steps=np.array(drawn.path_steps), interval=np.array(path_every))
        run.write_table("trajectory", name, _trajectory(name, drawn))
    columns = {
        "sample": drawn.samples,
        "noise_seed": settings.seed,
        "updates": drawn.updates,
        "sigma": drawn.sigma,
        "residual_sigma": drawn.residual_sigma,
        "status": drawn.status,
    }
    run.write_table("samples", name, tables.make(tables.SAMPLES, workspace.keys(name) | columns))
    return run.samples(name)


def _path_interval(run: runs.Run, name: str) -> int | None:
    """Updates between the images kept along the way of a denoiser's samples; None where none were kept."""
    path = run.sample_path(name)
    if not (run.has_table("trajectory", name) and path.exists()):
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            return int(kept["interval"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # damaged: drawn again


def _trajectory(name: str, drawn: sampling.SampleSet) -> pa.Table:
    step, position = np.nonzero(~np.isnan(drawn.levels[:, :, 1]))
    return tables.make(
        tables.TRAJECTORY,
        {
            "denoiser": name,
            "sample": drawn.samples[position],
            "step": step,
            "sigma": drawn.levels[step, position, 0],
            "residual_sigma": drawn.levels[step, position, 1],
        },
    )


def build_index(workspace: Workspace, reference: str, n_train: int, metric: str | None = None) -> neighbors.Index:
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
        index = neighbors.Index.build(
            chosen.pixels, chosen.ids, metric, reference, search.cluster_threshold, search.backend, workspace.device
        )
        index.save(folder)
    return neighbors.Index.load(folder, search.backend, workspace.device)


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
    measured = cell is not None and cell.n_train == n_train
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
        keys = {"denoiser": None, "n_train": n_train, "part": reference[-1], "train_seed": None}
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
    keys = {"denoiser": None, "n_train": n_train, "part": None, "train_seed": None}
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
    source = f"{search['denoiser'] or search['query_kind']}-{files.digest(*found['query_id'].to_pylist())}"
    query = np.arange(len(found)) // k
    if queries is not None:
        images = queries.floats(query)
    elif search["query_kind"] == "sample":
        images = torch.from_numpy(workspace.samples(search["denoiser"])[0][query])
    else:
        images = workspace.images.floats(workspace.split.holdout[query])
    alike = workspace.images.floats(workspace.indices(reference, n_train)[found["reference_index"].to_numpy()])
    value = perceptual.lpips_distance(images, alike, trunk, net).numpy()
    order = np.lexsort((value, query))
    ranked = {"metric": f"lpips_{net}", "rank": found["rank"].to_numpy(), "value": value[order]}
    table = tables.make(tables.NEIGHBORS, found.take(order).to_pydict() | ranked)
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
            sets = {"train": workspace.split.train("a" if cell.part == "a" else "b", cell.n_train)} | sets
        curves = []
        for kind, chosen in sets.items():
            ids, clean = _first(workspace, chosen)
            batch = settings.sample.micro_batch
            curves.append(
                denoising.curve(network, clean, ids, kind, settings.psnr, settings.seed, batch, workspace.keys(name))
            )
        run.write_table("psnr", name, pa.concat_tables(curves))
    return run.table("psnr", name)


def _first(workspace: Workspace, chosen: NDArray[np.int64]) -> tuple[list[str], Tensor]:
    """Ids and pixels of the first images of a part, as many as PSNR is measured on."""
    chosen = chosen[: workspace.settings.psnr.n_images]
    return [workspace.images.ids[i] for i in chosen], workspace.images.floats(chosen).to(workspace.device)


def compare_pair(workspace: Workspace, n_train: int, train_seed: int) -> pa.Table:
    """Similarity of the samples of two twins, and their disagreement as denoisers; the former is returned."""
    run, settings = workspace.run, workspace.settings
    cell = runs.Cell(n_train, train_seed, "a")
    pair: compare.Keys = {
        "denoiser_a": cell.name,
        "denoiser_b": cell.twin.name,
        "n_train": n_train,
        "train_seed": train_seed,
    }
    if not run.has_table("similarity", cell.pair):
        drawn_a, drawn_b = (torch.from_numpy(workspace.samples(name)[0]) for name in (cell.name, cell.twin.name))
        nearest = build_index(workspace, "train_b", n_train).nearest
        train_a = workspace.images.floats(workspace.indices("train_a", n_train))
        similar = compare.compare(drawn_a, drawn_b, train_a, nearest, settings.search.metric, pair)
        run.write_table("similarity", cell.pair, similar)
    if not run.has_table("disagreement", cell.pair):
        ids, clean = _first(workspace, workspace.split.holdout)
        twins = workspace.denoiser(cell.name), workspace.denoiser(cell.twin.name)
        table = compare.disagreement(
            *twins,
            clean,
            ids,
            settings.psnr.sigmas,
            settings.psnr.noise_draws,
            settings.seed,
            settings.sample.micro_batch,
            pair,
        )
        run.write_table("disagreement", cell.pair, table)
    return run.table("similarity", cell.pair)


def pair_medians(workspace: Workspace, n_train: int, train_seed: int) -> dict[str, float]:
    """Medians of a finished pair, for a line of progress: own nearest, same noise, different noise."""
    similar = workspace.run.table("similarity", runs.Cell(n_train, train_seed, "a").pair).to_pylist()
    own = []
    for part in ("a", "b"):
        found = search_samples(workspace, runs.Cell(n_train, train_seed, part).name, f"train_{part}", n_train)
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
