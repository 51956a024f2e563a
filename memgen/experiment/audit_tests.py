"""The tests of an audit: copies among its samples, what they would find of planted copies, and canaries."""

import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memgen.base import files, noise, schemas, tables
from memgen.base.errors import DataError
from memgen.base.strings import Strings
from memgen.experiment import audit_model, runs
from memgen.experiment import canaries as planted_canaries
from memgen.experiment.audit_images import read_like
from memgen.experiment.audit_settings import NAME, AuditSettings, OnStage, settings_of
from memgen.experiment.executors import Executor
from memgen.experiment.spread import SpreadSearcher
from memgen.experiment.spread_leaders import lead_by
from memgen.images import groups
from memgen.images.gathered import Gathered
from memgen.images.imageset import ImageSet
from memgen.images.names import escaped
from memgen.measures.copies import canaries, planting
from memgen.measures.copies.examiner import Examination, Examiner, judge, nearest, nearest_others, to_tables
from memgen.measures.copies.matching import Candidates
from memgen.measures.copies.sight import Searcher, Sight
from memgen.measures.subject import Identity, Samples

TRAIN = f"{NAME}-train"  # the table of training images among themselves
SHARES = (0.05, 0.1, 0.3)  # of the samples, planted by a calibration
_MOST_PLANTED = 400  # copies of one kind


# Steps of an audit, as people read them.
READING, TESTING, PLANTING = "reading images", "testing for copies", "planting copies"
DENOISING, JACOBIANS = "measuring the denoising of training and held-out images", "measuring Jacobians"
CANARIES = "searching for canaries"


def steps(run: runs.Run) -> dict[str, tuple[int, int]]:
    """The steps that the settings of an audit ask for, in their order: how much is done of each, and of how much."""
    settings = settings_of(run)
    judged, has_model = settings.holdout is not None, settings.model is not None
    tested = _tested(run) if judged else run.has_table("neighbors", NAME)
    found = {READING: (int(run.manifest["data"] is not None), 1), TESTING: (int(tested), 1)}
    if judged and settings.calibrate:
        found[PLANTING] = (settings.calibrate - len(_not_planted(run, settings)), settings.calibrate)
    if judged and has_model:
        found[DENOISING] = (int(run.has_table("gaps", NAME)), 1)
    if judged and has_model and settings.basis.n_images > 0:
        found[JACOBIANS] = (int(run.has_table("shrinkage", NAME)), 1)
    if settings.canaries:
        found[CANARIES] = (int(run.has_table("canaries", NAME)), 1)
    return found


def perform(
    run: runs.Run, sets: dict[str, ImageSet], report: OnStage, device: str = "cpu", executor: Executor | None = None
) -> None:
    """Make every table of an audit that is missing.

    Args:
        run: the audit.
        sets: its images: `samples`, `train`, and maybe `held_out`.
        report: called with (what is being done, items done, items).
        device: where a model runs.
        executor: what searches for copies and near-duplicates; None searches in this process.
    """
    settings = settings_of(run)
    left = [name for name, (done, total) in steps(run).items() if done < total]
    if TESTING in left and "held_out" in sets:
        _test(run, sets, report, executor)
    elif TESTING in left:
        run.write_table("neighbors", TRAIN, nearest_others(sets["train"]))
        run.write_table("neighbors", NAME, nearest(sets["train"], _samples(sets), probes=settings.probes))
    if PLANTING in left:
        _calibrate(run, sets, report, executor)
    if DENOISING in left:
        report(DENOISING, 0, 1)
        audit_model.measure(run, settings, sets["train"], sets["held_out"], device)
    if JACOBIANS in left:

        def count(done: int, total: int) -> None:
            report(JACOBIANS, done, total)

        told = audit_model.measure_jacobians(run, settings, sets["train"], sets["held_out"], count, device)
        data = run.manifest["data"]
        run.update(data=data | {"warnings": [*data["warnings"], *told]})
    if CANARIES in left:
        run.write_table("canaries", NAME, _canaries(run, sets, report))
    shutil.rmtree(run.searches, ignore_errors=True)  # its tables hold what came of them


def _tested(run: runs.Run) -> bool:
    return all(run.has_table(kind, NAME) for kind in ("neighbors", "significance", "copies", "at_risk"))


def _not_planted(run: runs.Run, settings: AuditSettings) -> list[int]:
    """Numbers of the draws of planted copies that are not finished."""
    return [i for i in range(settings.calibrate) if not run.has_table("planted", f"{NAME}-r{i}")]


def _samples(sets: dict[str, ImageSet]) -> Samples:
    return Samples(sets["samples"].pixels, np.arange(len(sets["samples"])))


def _examiner(run: runs.Run, sets: dict[str, ImageSet], report: OnStage, executor: Executor | None) -> Examiner:
    settings, make = settings_of(run), None
    if executor is not None:
        make = functools.partial(SpreadSearcher, executor=executor, folder=run.searches)
    return Examiner(
        sets["train"],
        sets["held_out"],
        settings.cluster_threshold,
        names=settings.spaces,
        make_searcher=make,
        probes=settings.probes,
        lead=lead_by(executor, run.searches, _stage(report, "finding near-duplicates")),
    )


def _test(run: runs.Run, sets: dict[str, ImageSet], report: OnStage, executor: Executor | None) -> None:
    """Test the samples for copies, and keep the tables."""
    settings, samples = settings_of(run), _samples(sets)
    report("building the indexes", 0, 1)
    own = nearest(sets["train"], samples, probes=settings.probes)
    examiner, images = _examiner(run, sets, report, executor), samples.images
    sight = examiner.see(images, progress=_stage(report, "searching for the samples"))
    report("judging by held-out images", 0, 1)
    found = examiner.contest(sight, settings.seed, settings.q)
    judged = judge(examiner.depths(sight), examiner.held_out_depths, settings.q)
    keys = Identity(NAME, "imported", len(sets["train"])).columns
    report("looking for training images as if they were samples", 0, 1)
    checked = examiner.check(images, found, settings.seed)
    significance, copies = to_tables(keys, samples.index, examiner, found, judged, own, checked)
    run.write_table("neighbors", NAME, own)
    run.write_table("significance", NAME, significance)
    run.write_table("at_risk", NAME, _at_risk(sets, significance))
    run.write_table("copies", NAME, copies)


def _canaries(run: runs.Run, sets: dict[str, ImageSet], report: OnStage) -> pa.Table:
    """A CANARIES table: how closely samples follow each canary, among all training images and the kept canaries."""
    settings, train = settings_of(run), sets["train"]
    assert settings.canaries is not None
    drawn = planted_canaries.load(Path(settings.canaries))
    drawn.check(Path(settings.train))
    trained, kept = (tuple(map(escaped, names)) for names in (drawn.trained, drawn.kept))
    of_train = _positions(train, (*trained, *kept))
    if absent := [name for name in trained if name not in of_train]:
        raise DataError(
            f"{settings.canaries}: {len(absent)} of {len(trained)} canaries that were to be trained on are not among "
            f"the training images (the first: {absent[0]}). Give the folder that they were planted in as TRAIN."
        )
    if present := [name for name in kept if name in of_train]:
        raise DataError(f"{settings.canaries}: {present[0]} was to be kept, but is among the training images.")
    set_aside = read_like(train, str(drawn.folder), settings, report)
    of_kept = _positions(set_aside, kept)
    if absent := [name for name in kept if name not in of_kept]:
        raise DataError(f"{drawn.folder}: the kept canary {absent[0]} is missing or cannot be read. Restore it.")
    chosen = set_aside.take([of_kept[name] for name in kept])
    ids = Strings.joined([train.ids, chosen.ids])
    # This order does not know the draw: images of equal content are in the order of their names.
    names = Strings.joined([Strings(map(groups.file_of, train.sources)), Strings(kept)])
    order = _in_order(Strings(map(files.digest, ids)), names)
    pixels = Gathered([train.pixels, chosen.pixels], order)
    searcher = Searcher(Candidates(pixels, ids[order], np.arange(len(ids))), settings.spaces, probes=settings.probes)
    sight = searcher.see(sets["samples"].pixels, progress=_stage(report, CANARIES))
    found = searcher.choose(sight, searcher.standing_out(sight))
    place = np.argsort(order)[[*(of_train[name] for name in trained), *range(len(train), len(ids))]]
    score = np.array([found.magnitude[found.nearest == i].max(initial=0.0) for i in place])
    exposed = canaries.exposure(score, np.arange(len(place)) < len(trained))
    columns = {
        "file": [*trained, *kept],
        "image_id": [ids[order[i]] for i in place],
        "trained": np.arange(len(place)) < len(trained),
        "samples": [int((found.nearest == i).sum()) for i in place],
        "score": score,
        "auc": exposed.auc,
        "p": exposed.p,
    }
    return tables.make(schemas.CANARIES, columns)


def _in_order(*keys: Strings) -> np.ndarray[Any, Any]:
    """The positions that sort strings by the first keys, then by the second, and so on."""
    table = pa.table({str(number): key.arrow for number, key in enumerate(keys)})
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in table.column_names])
    return np.asarray(order, dtype=np.int64)


def _positions(images: ImageSet, wanted: Sequence[str]) -> dict[str, int]:
    """The position of the image of each file that is wanted; of files that are not there, none."""
    return Strings(map(groups.file_of, images.sources)).places(wanted)


def _stage(report: OnStage, what: str) -> Callable[[int, int], None]:
    return lambda done, total: report(what, done, total)


def _at_risk(sets: dict[str, ImageSet], significance: pa.Table) -> pa.Table:
    """An AT_RISK table: every training unit that a sample is nearest to, those in danger first."""
    train, near = sets["train"], significance.filter(pc.field("nearest_in") == "T")
    unit, sample, score, flagged, discovered = (
        near[name].to_numpy() for name in ("unit", "sample", "W", "flagged", "discovered")
    )  # an infinite W is null in the table, and NaN here
    units, of = np.unique(unit, return_inverse=True)
    deepest = np.empty(len(units), dtype=np.int64)
    ascending = np.lexsort((-sample, np.where(np.isnan(score), np.inf, score), discovered))
    deepest[of[ascending]] = ascending  # of several values for one place, the last one stays
    hits = {name: np.bincount(of, each, len(units)) for name, each in (("flagged", flagged), ("found", discovered))}
    score = score[deepest]
    order = np.lexsort((units, -np.where(np.isnan(score), 0, score), hits["flagged"] == 0, hits["found"] == 0))
    deepest = deepest[order]
    rows = near.take(pa.array(deepest))
    position = train.ids.positions(rows["nearest_id"])
    columns = {
        "unit": units[order],
        "group": None if train.groups is None else train.groups[position],
        "image_id": rows["nearest_id"],
        "source": train.sources[position],
        "samples": np.bincount(of, minlength=len(units))[order],
        "flagged": hits["flagged"][order].astype(np.int64),
        "discovered": hits["found"][order] > 0,
        "sample": rows["sample"],
        "sample_source": sets["samples"].sources[sample[deepest]],
        "W": rows["W"],
        "space": rows["space"],
        "closeness": rows["closeness"],
    }
    return tables.make(schemas.AT_RISK, columns, len(units))


def _calibrate(run: runs.Run, sets: dict[str, ImageSet], report: OnStage, executor: Executor | None) -> None:
    """Plant copies of every kind among the samples, and keep what is found: PLANTED tables, one for each draw."""
    settings = settings_of(run)
    examiner, samples = _examiner(run, sets, report, executor), sets["samples"]
    sight = examiner.see(samples.pixels, progress=_stage(report, "searching for the samples"))
    # Copies that were found in the samples would help planted ones to be found.
    significance = run.table("significance", NAME)
    reported = np.logical_or(*(significance[name].to_numpy(zero_copy_only=False) for name in ("discovered", "flagged")))
    clean = np.flatnonzero(~reported)
    for repeat in _not_planted(run, settings):
        order = noise.stream("planted copies", settings.seed, repeat).permutation(
            clean
        )  # they are replaced in this order
        rows: list[dict[str, Any]] = []
        for number, kind in enumerate(planting.KINDS):
            report(PLANTING, number, len(planting.KINDS))
            rows += _planted(examiner, sight, samples, order, sets["train"], kind, settings, repeat)
        columns = {name: [row[name] for row in rows] for name in schemas.PLANTED.names}
        run.write_table("planted", f"{NAME}-r{repeat}", tables.make(schemas.PLANTED, columns))


def _planted(
    examiner: Examiner,
    sight: Sight,
    samples: ImageSet,
    order: np.ndarray[Any, Any],
    train: ImageSet,
    kind: str,
    settings: AuditSettings,
    repeat: int,
) -> list[dict[str, Any]]:
    """What is found of copies of one kind, at each share: rows of a PLANTED table.

    Args:
        examiner: of the audit.
        sight: what all samples look like.
        samples: all samples.
        order: positions of the samples that no test reports; the first are replaced.
        train: T.
        kind: of copies.
        settings: of the audit.
        repeat: number of the draw.
    """
    generator = noise.stream(f"planted copies, {kind}", settings.seed, repeat)
    most = min(max(1, round(max(SHARES) * len(order))), _MOST_PLANTED)
    chosen = _sources(train, generator)[:most]
    most = len(chosen)
    copies = planting.planted(kind, train.floats(chosen), samples.floats(order[:most]), generator)
    planted = examiner.see(copies)
    rows = []
    for share in SHARES:
        count = min(most, max(1, round(share * len(order))))
        both = Sight.joined([planted.take(slice(count)), sight.take(order[count:])])
        found: Examination = examiner.contest(both, settings.seed, settings.q)
        flagged = judge(examiner.depths(both), examiner.held_out_depths, settings.q).flagged
        discovered = found.competition.discovered
        rows.append(
            {
                "kind": kind,
                "share": share,
                "repeat": repeat,
                "samples": len(order),
                "planted": count,
                "found": int(discovered[:count].sum()),
                "flagged": int(flagged[:count].sum()),
                "either": int((discovered | flagged)[:count].sum()),
                "found_others": int(discovered[count:].sum()),
                "flagged_others": int(flagged[count:].sum()),
            }
        )
    return rows


def _sources(train: ImageSet, generator: np.random.Generator) -> np.ndarray[Any, Any]:
    """Positions of training images in a random order; of each group one, since a group is found once."""
    order = generator.permutation(len(train))
    if train.groups is None:
        return order
    return order[np.sort(np.unique(train.groups.firsts()[order], return_index=True)[1])]
