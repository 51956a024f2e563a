"""What is measured of the subjects of a run: neighbors, copies, PSNR, similarity and distance of two, kept as tables.

Each function looks its subjects up, calls a measure, and keeps the tables that it returns. It is the library twin of a
command, or of a step of the sweep. Each is idempotent: a table that exists is not made again.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from memgen import spaces
from memgen.base import files, schemas, tables
from memgen.base.errors import ConfigError, DataError, RunError
from memgen.base.progress import Progress
from memgen.experiment import runs, subjects
from memgen.experiment.subjects import KeptSubject
from memgen.experiment.workspace import Workspace
from memgen.findings import membership
from memgen.images.gathered import tensor
from memgen.images.imageset import ImageSet
from memgen.measures import compare, distances, diversity, likelihood, peers, psnr
from memgen.measures.copies import controls, examiner
from memgen.measures.subject import Samples, groups_by_id
from memgen.models import latent
from memgen.models.denoiser import Denoiser
from memgen.models.known.fitting import EmpiricalSettings, fit
from memgen.spaces import lpips
from memgen.spaces.index import Index

# ------------------------------------------------------------------------------------------------- what is searched


@dataclass(frozen=True, eq=False)
class Reference:
    """A set of images that is searched.

    Attributes:
        name: train_a, train_b or holdout; train for the training set of an imported subject.
        key: name of its index, without the metric.
        n_train: number of training images; None for the holdout.
        load: gives the images.
        sources: where each of them comes from.
    """

    name: str
    key: str
    n_train: int | None
    load: Callable[[], ImageSet]
    sources: Sequence[str]


REFERENCES = ("train_a", "train_b", "holdout")


def reference(workspace: Workspace, name: str, n_train: int) -> Reference:
    """A training set of the run's split, or its holdout.

    Args:
        workspace: the run.
        name: one of REFERENCES.
        n_train: size of the training set; the holdout is the same for all.

    Raises:
        ConfigError: there is no reference of that name.
    """
    images, split = workspace.images, workspace.split
    if name not in REFERENCES:
        raise ConfigError(f"found the index {name!r}, expected one of {', '.join(REFERENCES)}.")
    key, size, chosen = name, None, split.holdout
    if name != "holdout":
        key, size, chosen = f"{name}-n{n_train}", n_train, split.training_indices(name.removeprefix("train_"), n_train)
    return Reference(name, key, size, lambda: images.take(chosen), [images.sources[position] for position in chosen])


def own_reference(subject: KeptSubject) -> Reference:
    """The training set of a subject.

    Raises:
        RunError: it is not known.
    """
    subjects.require(subject, "train")
    identity = subject.identity
    assert identity.n_train is not None
    if identity.role == "cell":
        return reference(subject.workspace, f"train_{identity.part}", identity.n_train)
    assert subject.train is not None
    train = subject.train
    return Reference("train", f"train-{subject.record.train_set}", identity.n_train, lambda: train, train.sources)


def build_index(workspace: Workspace, found: Reference, metric: str | None = None) -> Index:
    """The index of a reference, built if it is not there."""
    search = workspace.settings.search
    metric = metric or search.metric
    folder = workspace.run.index_path(f"{found.key}-{metric}")
    if not (folder / "index.json").exists():
        images = found.load()
        built = Index.build(
            images.pixels,
            images.ids,
            spaces.find(metric),
            found.name,
            search.cluster_threshold,
            search.backend,
            workspace.device,
        )
        built.save(folder)
    return Index.load(folder, search.backend, workspace.device)


# ------------------------------------------------------------------------------------------------- neighbors


def search_own(workspace: Workspace, name: str, metric: str | None = None) -> tuple[pa.Table, pa.Table]:
    """The nearest training images to each sample of a subject, and to each of its held-out images, for comparison.

    Args:
        workspace: the run.
        name: of the subject.
        metric: of the neighbors; that of the settings when None.

    Returns:
        Two NEIGHBORS tables kept in the run. All cells of one training set share the second.

    Raises:
        RunError: the subject has no samples, training set or held-out images.
    """
    subject = subjects.find(workspace, name)
    subjects.require(subject, "samples", "train", "held_out")
    found = own_reference(subject)
    return search_samples(workspace, name, found, metric), search_held_out(subject, found, metric)


def search_samples(
    workspace: Workspace, name: str, found: Reference, metric: str | None = None, k: int | None = None
) -> pa.Table:
    """The nearest images of a reference to each sample of a subject, as a NEIGHBORS table kept in the run.

    Args:
        workspace: the run.
        name: of the subject.
        found: the reference.
        metric: of the neighbors; that of the settings when None.
        k: neighbors of each sample; that of the settings, or N where that is smaller, when None.
    """
    subject = subjects.find(workspace, name)
    is_own = subject.identity.n_train is not None and found.key == own_reference(subject).key
    kind, key = _place(workspace, name, found, metric, k, counted=is_own)

    def search(index: Index, k: int) -> pa.Table:
        subjects.require(subject, "samples")
        assert subject.samples is not None
        drawn = subject.samples
        keys = subject.identity.columns | ({} if found.n_train is None else {"n_train": found.n_train})
        hits = index.search(drawn.images, k)
        return index.to_table(hits, "sample", drawn.ids, keys, drawn.index, subject.sample_sources, found.sources)

    return _kept(workspace, kind, key, found, metric, k, search)


def search_holdout(workspace: Workspace, found: Reference, metric: str | None = None, k: int | None = None) -> pa.Table:
    """The nearest images of a reference to each image of the run's holdout, as a NEIGHBORS table kept in the run.

    This is what a model would do that does not depend on the images of the reference.
    """
    counted = found.n_train in workspace.settings.sweep.n_train and found.name in ("train_a", "train_b")
    kind, key = _place(workspace, "holdout", found, metric, k, counted)
    nothing = dict.fromkeys(("subject", "role", "train_seed"))
    part = found.name.removeprefix("train_") if found.name.startswith("train_") else None

    def search(index: Index, k: int) -> pa.Table:
        queries = workspace.images.take(workspace.split.holdout)
        keys = nothing | {"n_train": found.n_train, "part": part}
        hits = index.search(queries.pixels, k)
        return index.to_table(hits, "holdout", queries.ids, keys, None, queries.sources, found.sources)

    return _kept(workspace, kind, key, found, metric, k, search)


def search_held_out(
    subject: KeptSubject, found: Reference, metric: str | None = None, k: int | None = None
) -> pa.Table:
    """The same for the held-out images of a subject in its own training set.

    The run's holdout may hold training images of an imported subject, whose held-out images never do.
    """
    workspace = subject.workspace
    if subject.identity.role == "cell":
        return search_holdout(workspace, found, metric, k)
    kind, key = _place(workspace, f"{subject.name}.holdout", found, metric, k, counted=True)

    def search(index: Index, k: int) -> pa.Table:
        queries = subject.held_out
        assert queries is not None
        hits, keys = index.search(queries.pixels, k), subject.identity.columns
        return index.to_table(hits, "holdout", queries.ids, keys, None, queries.sources, found.sources)

    return _kept(workspace, kind, key, found, metric, k, search)


def search_images(
    workspace: Workspace, queries: ImageSet, found: Reference, metric: str | None = None, k: int | None = None
) -> pa.Table:
    """The nearest images of a reference to a person's own images, as a NEIGHBORS table kept in the run."""
    kind, key = _place(workspace, f"user-{key_of(queries)}", found, metric, k, counted=False)
    keys = dict.fromkeys(("subject", "role", "part", "train_seed")) | {"n_train": found.n_train}

    def search(index: Index, k: int) -> pa.Table:
        hits = index.search(queries.pixels, k)
        return index.to_table(hits, "user", queries.ids, keys, None, queries.sources, found.sources)

    return _kept(workspace, kind, key, found, metric, k, search)


def key_of(queries: ImageSet) -> str:
    """What a person's own images are called in the names of files: images of other files have another key."""
    return files.digest_all(itertools.chain([queries.digest], queries.sources))


def _place(
    workspace: Workspace, name: str, found: Reference, metric: str | None, k: int | None, counted: bool
) -> tuple[str, str]:
    """Kind and name of the table of a search: with the measurements that are summarized, or else apart."""
    usual = workspace.settings.search.metric
    key = f"{name}.{found.key}-{metric or usual}" + (f"-k{k}" if k else "")
    return "neighbors" if counted and k is None and metric in (None, usual) else "searches", key


def _kept(
    workspace: Workspace,
    kind: str,
    key: str,
    found: Reference,
    metric: str | None,
    k: int | None,
    search: Callable[[Index, int], pa.Table],
) -> pa.Table:
    """The table of a search, made unless it is there."""
    if not workspace.run.has_table(kind, key):
        index = build_index(workspace, found, metric)
        table = search(index, k or min(workspace.settings.search.k, index.n))
        workspace.run.write_table(kind, key, table)
    return workspace.run.table(kind, key)


def rerank(
    workspace: Workspace,
    found: Reference,
    table: pa.Table,
    trunk: Path,
    net: str = "alex",
    queries: ImageSet | None = None,
) -> pa.Table:
    """The neighbors that a search found, ranked by LPIPS, as a NEIGHBORS table of its own kept in the run.

    Args:
        workspace: the run.
        found: the reference that was searched.
        table: what the search returned, or its first rows, whole queries only.
        trunk: weights of the trunk of LPIPS.
        net: the trunk, alex or vgg.
        queries: the images searched for, if they were a person's own.
    """
    search = table.slice(0, 1).to_pylist()[0]
    k = pc.max(table["rank"]).as_py()
    source = f"{search['subject'] or search['query_kind']}-{files.digest(*table['query_id'].to_pylist())}"
    query = np.arange(len(table)) // k
    if queries is not None:
        images = queries.floats(query)
    elif search["query_kind"] == "sample":
        images = tensor(workspace.load_samples(search["subject"]).images, query)
    else:
        images = workspace.images.floats(workspace.split.holdout[query])
    alike = found.load().floats(table["reference_index"].to_numpy())
    value = lpips.lpips_distance(images, alike, trunk, net).numpy()
    order = np.lexsort((value, query))
    ranked = {"metric": f"lpips_{net}", "rank": table["rank"].to_numpy(), "value": value[order]}
    result = tables.make(schemas.NEIGHBORS, table.take(order).to_pydict() | ranked)
    workspace.run.write_table("searches", f"{source}.{found.key}-{search['metric']}-k{k}.lpips-{net}", result)
    return result


# ------------------------------------------------------------------------------------------------- one subject


def measure_psnr(workspace: Workspace, name: str) -> pa.Table:
    """PSNR curves of a subject on its training images, where they are known, and on held-out images: a PSNR table.

    Raises:
        RunError: the subject has no denoiser or no held-out images.
    """
    run, settings = workspace.run, workspace.settings
    if not run.has_table("psnr", name):
        subject = subjects.find(workspace, name)
        subjects.require(subject, "denoiser", "held_out")
        found = psnr.measure_psnr(subject, settings.psnr, settings.seed, settings.sample.micro_batch, workspace.device)
        run.write_table("psnr", name, found)
    return run.table("psnr", name)


def measure_likelihood(workspace: Workspace, name: str, progress: Progress | None = None) -> pa.Table:
    """Likelihood of training images, where they are known, and of held-out images: a LIKELIHOOD table kept in the run.

    Args:
        workspace: the run.
        name: of the subject.
        progress: called with (images done, images) of each set.

    Raises:
        RunError: the subject has no denoiser or no held-out images.
    """
    run, settings = workspace.run, workspace.settings
    if not run.has_table("likelihood", name):
        subject = subjects.find(workspace, name)
        subjects.require(subject, "denoiser", "held_out")
        sample = settings.sample
        flow = likelihood.Flow(subject.start, sample.sigma_start, sample.sigma_end, settings.likelihood)
        found = likelihood.measure_likelihood(
            subject, flow, settings.seed, sample.micro_batch, workspace.device, progress
        )
        run.write_table("likelihood", name, found)
    return run.table("likelihood", name)


def measure_membership(workspace: Workspace, name: str) -> pa.Table:
    """What PSNR, and likelihood where it was measured, give away of T: a MEMBERSHIP table, made anew in the run.

    Raises:
        RunError: the subject has no denoiser, training set or held-out images.
    """
    run = workspace.run
    subjects.require(subjects.find(workspace, name), "denoiser", "train", "held_out")
    likely = run.table("likelihood", name) if run.has_table("likelihood", name) else None
    groups = groups_of(workspace, name)
    found = membership.summarize(measure_psnr(workspace, name), likely, groups, workspace.settings.seed)
    run.write_table("membership", name, found)
    return found


def groups_of(workspace: Workspace, name: str) -> dict[str, str] | None:
    """The groups of the images of a subject of the run; see `memgen.measures.subject.groups_by_id`."""
    return groups_by_id(subjects.find(workspace, name))


def find_copies(workspace: Workspace, name: str) -> pa.Table:
    """Test the samples of a subject for copies of its training images; its row of the table COPIES, kept in the run.

    A row for each sample goes into the table SIGNIFICANCE.

    Raises:
        RunError: the subject has no samples, training set or held-out images.
    """
    run, search = workspace.run, workspace.settings.search
    if not run.has_table("copies", name):
        own, _ = search_own(workspace, name, "correlation")
        significance, summary = examiner.find_copies(
            subjects.find(workspace, name),
            own.filter(pc.field("rank") == 1),
            workspace.settings.seed,
            search.cluster_threshold,
            search.backend,
            workspace.device,
        )
        run.write_table("significance", name, significance)
        run.write_table("copies", name, summary)
    return run.table("copies", name)


def measure_peers(workspace: Workspace, name: str) -> pa.Table:
    """The measures of copying that other groups use, of a subject: a PEERS table kept in the run.

    Raises:
        RunError: the subject has no samples, training set or held-out images.
    """
    run = workspace.run
    if not run.has_table("peers", name):
        subject = subjects.find(workspace, name)
        subjects.require(subject, *{need for measure in peers.all_measures() for need in measure.NEEDS})
        found = peers.measure_peers(subject, workspace.settings.search.backend, workspace.device)
        run.write_table("peers", name, found)
    return run.table("peers", name)


def measure_diversity(workspace: Workspace, name: str, metric: str | None = None) -> pa.Table:
    """How varied the samples of a subject are, beside held-out images: a DIVERSITY table kept in the run.

    Args:
        workspace: the run.
        name: of the subject.
        metric: name of the space in which images are compared; that of the settings when None.

    Raises:
        RunError: the subject has no samples or no held-out images.
    """
    run, settings = workspace.run, workspace.settings
    space = spaces.find(metric or settings.search.metric)
    key = f"{name}.{space.name}"
    if not run.has_table("diversity", key):
        subject = subjects.find(workspace, name)
        subjects.require(subject, "samples", "held_out")
        start = diversity.Start(subject.start, settings.seed, settings.sample)
        run.write_table(
            "diversity", key, diversity.measure_diversity(subject, space, settings.diversity, start, settings.seed)
        )
    return run.table("diversity", key)


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
            run.write_table("calibration", name, controls.run_once(workspace.images, design, settings.seed, repeat))
        if progress:
            progress(repeat + 1, repeats)
    return pa.concat_tables([run.table("calibration", name) for name in names])


# ------------------------------------------------------------------------------------------------- two subjects


def pair_columns(a: KeptSubject, b: KeptSubject) -> dict[str, Any]:
    """The columns that name a pair: twins of the sweep keep their N and training seed, other pairs have none."""
    first, second = a.identity, b.identity
    twins = first.role == second.role == "cell" and (first.n_train, first.train_seed) == (
        second.n_train,
        second.train_seed,
    )
    names = {"subject_a": first.subject, "subject_b": second.subject, "role": "cell" if twins else "imported"}
    return names | {
        "n_train": first.n_train if twins else None,
        "train_seed": first.train_seed if twins else None,
    }


def _drawn_alike(a: KeptSubject, b: KeptSubject) -> tuple[Samples, Samples]:
    """The samples of two subjects, if they were drawn from the same noise.

    Raises:
        RunError: one has no samples, or the noise is not the same.
    """
    for subject in (a, b):
        subjects.require(subject, "samples")
        if subject.record.has_samples:
            raise RunError(
                f"{subject.name}: its samples were imported, so the noise that they were drawn from is not known. "
                f"Compare two subjects that have denoisers."
            )
    assert a.samples is not None
    assert b.samples is not None
    return a.samples, b.samples


def compare_samples(workspace: Workspace, name_a: str, name_b: str) -> pa.Table:
    """Similarity of the samples that two subjects draw from the same noise, as a SIMILARITY table kept in the run.

    Raises:
        RunError: a subject has no samples, or its samples were imported.
    """
    run, metric, key = workspace.run, workspace.settings.search.metric, runs.pair_key(name_a, name_b)
    if not run.has_table("similarity", key):
        a, b = (subjects.find(workspace, name) for name in (name_a, name_b))
        drawn_a, drawn_b = (tensor(drawn.images, slice(None)) for drawn in _drawn_alike(a, b))
        train = nearest = None
        if a.train is not None and b.train is not None:
            train, nearest = a.train.floats(), build_index(workspace, own_reference(b)).nearest
        found = compare.compare(drawn_a, drawn_b, train, nearest, metric, pair_columns(a, b))
        run.write_table("similarity", key, found)
    return run.table("similarity", key)


def measure_distances(workspace: Workspace, name_a: str, name_b: str) -> pa.Table:
    """How far apart two subjects are as denoisers, and from their training sets' posterior means: a DISTANCES table.

    The bits are measured between the noise levels at which sampling ends and starts, where the denoisers are used.

    Raises:
        RunError: a subject has no denoiser, no samples of its own, or no held-out images.
    """
    run, settings, key = workspace.run, workspace.settings, runs.pair_key(name_a, name_b)
    if not run.has_table("distances", key):
        a, b = (subjects.find(workspace, name) for name in (name_a, name_b))
        for subject in (a, b):
            subjects.require(subject, "denoiser", "held_out")
        drawn = _drawn_alike(a, b)
        assert a.denoiser is not None
        assert b.denoiser is not None
        assert a.held_out is not None
        batch, seed, draws = settings.sample.micro_batch, settings.seed, settings.psnr.noise_draws
        clean, keys, sigmas = a.held_out.take(slice(settings.psnr.n_images)), pair_columns(a, b), settings.psnr.sigmas
        images, ids = _seen_by_both(a.denoiser, b.denoiser, clean.floats().to(workspace.device)), list(clean.ids)
        found = [distances.measure({"models": (a.denoiser, b.denoiser)}, images, ids, sigmas, draws, seed, batch, keys)]
        if (count := settings.distances.empirical_images) and a.train is not None and b.train is not None:
            e_a, e_b = (_memory(workspace, each.denoiser, each.train) for each in (a, b))
            pairs = {
                "empirical_a": (a.denoiser, e_a),
                "empirical_b": (b.denoiser, e_b),
                "empirical": (e_b, e_a),
            }
            found.append(distances.measure(pairs, images[:count], ids[:count], sigmas, draws, seed, batch, keys))
        levels, weights = distances.quadrature(
            settings.sample.sigma_end, settings.sample.sigma_start, settings.distances.bits_levels
        )
        for kind, samples in zip(("samples_a", "samples_b"), drawn, strict=True):
            noised = latent.encoded(a.denoiser, tensor(samples.images, slice(None)).to(workspace.device))
            numbers = [str(i) for i in samples.index]
            both = {kind: (a.denoiser, b.denoiser)}
            found.append(distances.measure(both, noised, numbers, levels, 1, seed, batch, keys, weights))
        run.write_table("distances", key, pa.concat_tables(found))
    return run.table("distances", key)


def _seen_by_both(first: Denoiser, second: Denoiser, images: torch.Tensor) -> torch.Tensor:
    """Images as two denoisers see them, for whom they are the same.

    Raises:
        DataError: one of them sees pixels and the other latents, or they see latents of different autoencoders.
    """
    one, other = (latent.encoded(denoiser, images) for denoiser in (first, second))
    if one.shape != other.shape or not torch.equal(one, other):
        raise DataError(
            "the two models see different latents of the same image, so they cannot be compared as functions. Compare "
            "their samples, or choose models with the same autoencoder."
        )
    return one


def _memory(workspace: Workspace, denoiser: Denoiser | None, train: ImageSet | None) -> Denoiser:
    """The posterior mean of a training set, as a denoiser sees it: what it would be if it had memorized the set."""
    assert denoiser is not None
    assert train is not None
    pixels = train.pixels
    if isinstance(denoiser, latent.LatentDenoiser):
        pixels = latent.encoded(denoiser, train.floats().to(workspace.device)).cpu().numpy()
    return fit(EmpiricalSettings(), pixels).to(workspace.device).eval()
