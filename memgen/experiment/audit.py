"""An audit: do samples copy the images that their model was trained on? For anyone's samples and images.

An audit is a run directory of its own kind. It holds the three image sets, the tables of the test for copies, the page,
and `audit.json`, which states the answer with all numbers behind it and the digests of all files.

    run.json                        settings, versions, and what was read; its key `kind` is `audit`
    sets/samples, train, held_out   the images, as ImageSets
    tables/KIND/audit.parquet       skipped, neighbors, significance, copies, at_risk, planted
    report/report.html              the page
    audit.json                      the answer, for programs; `memgen verify` checks it

Each of these is finished when its file exists, so an audit that was interrupted goes on where it stopped.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field

from memgen.base import files, noise, schemas, tables
from memgen.base.config import validate
from memgen.base.errors import ConfigError, DataError, RunError, ShapeError
from memgen.experiment import canaries as planted_canaries
from memgen.experiment import runs
from memgen.findings import audit as findings
from memgen.images import groups
from memgen.images.imageset import ImageSet
from memgen.images.importing import Imported, ImportSettings, import_images
from memgen.images.names import escaped
from memgen.images.prepare import ReadSettings
from memgen.measures.copies import canaries, matching, planting
from memgen.measures.copies.competition import Q
from memgen.measures.copies.examiner import Examination, Examiner, judge, nearest, to_tables
from memgen.measures.copies.matching import Candidates
from memgen.measures.copies.sight import Searcher, Sight
from memgen.measures.subject import Identity, Samples
from memgen.report import audit_page

KIND = "audit"
SETS = ("samples", "train", "held_out")
DOCUMENT = "audit.json"
SHARES = (0.05, 0.1, 0.3)  # of the samples, planted by a calibration
_NAME = "audit"  # of the subject and of its tables
_MIXED = 64  # side to which all images are resized if they have different sizes
_MOST_PLANTED = 400  # copies of one kind
_IN_WORDS = {"samples": "samples", "train": "training images", "held_out": "held-out images"}

OnStage = Callable[[str, int, int], None]


class AuditSettings(ReadSettings):
    """What is audited, and how."""

    samples: str = Field(description="generated images: a folder or a file")
    train: str = Field(description="images that the model was trained on")
    holdout: str | None = Field(None, description="images of the same source that the model never saw")
    groups: str | None = Field(
        None, description="what was divided as a whole: folder, file, or a CSV file with the columns file and group"
    )
    canaries: str | None = Field(None, description="canaries.json that memgen canaries plant wrote before the training")
    spaces: tuple[str, ...] = Field(matching.EVERY, min_length=1, description="spaces that are searched for copies")
    q: float = Field(Q, gt=0, lt=1, description="false-discovery rate aimed at")
    cluster_threshold: float = Field(
        0.99, gt=0, le=1, description="correlation above which two images count as near-duplicates"
    )
    calibrate: int = Field(0, ge=0, description="how often copies of each kind are planted, to learn what is found")
    images: bool = Field(True, description="whether the page shows images")
    seed: int = Field(0, ge=0, description="seed of the permutations and of planted copies")


@dataclass(frozen=True, eq=False)
class Audit:
    """A finished audit.

    Attributes:
        answer: found, none or undecided, in words, with the numbers behind it.
        document: what `audit.json` holds.
        page: the page.
        path: the run directory.
    """

    answer: findings.Answer
    document: dict[str, Any]
    page: Path
    path: Path


def audit(
    samples: str | Path,
    train: str | Path,
    held_out: str | Path | None = None,
    outputs: str | Path = runs.OUTPUTS,
    name: str | None = None,
    on_stage: OnStage | None = None,
    **settings: Any,
) -> Audit:
    """Does a model copy its training images? An answer from its samples alone; nothing is trained.

    Args:
        samples: generated images: a folder or a file.
        train: images that the model was trained on.
        held_out: images of the same source that it never saw. Without them nothing can be concluded.
        outputs: folder that holds the runs.
        name: of the run; None makes one from the settings. A run of that name is continued.
        on_stage: called with (what is being done, items done, items).
        settings: further fields of AuditSettings, such as groups="folder" or calibrate=1.

    Raises:
        ConfigError: a setting is unknown or out of its range.
        DataError: a set of images cannot be used; the message names the file and the remedy.
    """
    given = {"samples": _absolute(samples), "train": _absolute(train), **settings}
    given |= {} if held_out is None else {"holdout": _absolute(held_out)}
    return perform(start(Path(outputs), name, validate(AuditSettings, given, source="audit")), on_stage)


def _absolute(source: str | Path) -> str:
    return str(Path(source).resolve())


def start(outputs: Path, name: str | None, settings: AuditSettings) -> runs.Run:
    """The run of an audit: a new one, or one that was made with the same settings.

    Raises:
        RunError: the run of that name is no audit, or was made with other settings.
    """
    values = settings.model_dump(mode="json")
    lasting = {key: value for key, value in values.items() if key not in ("calibrate", "images")}
    name = name or f"audit-{files.digest_json(lasting)[:6]}"
    if not (outputs / name / "run.json").exists():
        return runs.create(outputs, name, values, "cpu", kind=KIND)
    run = runs.find(outputs, name, KIND)
    before = run.manifest["config"]
    if differing := [key for key in lasting if before.get(key) != lasting[key]]:
        raise ConfigError(
            f"{run.path} was made with other settings: {', '.join(differing)}. Choose another name with --run to start "
            "a new audit."
        )
    if before != values:
        run.update(config=values)
    return run


def settings_of(run: runs.Run) -> AuditSettings:
    """The settings of an audit."""
    return validate(AuditSettings, run.manifest["config"], source=str(run.path / "run.json"))


def perform(run: runs.Run, on_stage: OnStage | None = None) -> Audit:
    """Do what is missing of an audit, write its page and `audit.json`, and return what it says."""
    report = on_stage or (lambda what, done, total: None)
    with run.working():
        sets = _images(run, report)
        if "held_out" in sets and not _tested(run):
            _test(run, sets, report)
        elif not run.has_table("neighbors", _NAME):
            run.write_table("neighbors", _NAME, nearest(sets["train"], _samples(sets)))
        if "held_out" in sets and settings_of(run).calibrate:
            _calibrate(run, sets, report)
        if settings_of(run).canaries and not run.has_table("canaries", _NAME):
            run.write_table("canaries", _NAME, _canaries(run, sets, report))
        report("writing the page", 0, 1)
        answer = _answer(run)
        page = run.report / "report.html"
        with files.writing(page) as file:
            file.write(audit_page.render(_page(run, sets, answer)).encode())
        document = _document(run, answer)
        files.write_json(run.path / DOCUMENT, document)
    return Audit(answer, document, page, run.path)


# ------------------------------------------------------------------------------------------------- images


def _images(run: runs.Run, report: OnStage) -> dict[str, ImageSet]:
    """The image sets, read and prepared alike unless they are there."""
    settings = settings_of(run)
    sources = {"samples": settings.samples, "train": settings.train}
    sources |= {} if settings.holdout is None else {"held_out": settings.holdout}
    if run.manifest["data"] is None:
        read, rule = _read(sources, settings, report)
        for kind, found in read.items():
            found.images.save(run.image_set(kind))
        skipped = [found.skipped for found in read.values()]
        run.write_table("skipped", _NAME, pa.concat_tables(skipped))
        train = read["train"].images
        held_out = read["held_out"].images if "held_out" in read else None
        warnings = list(dict.fromkeys(warning for found in read.values() for warning in found.warnings))
        if train.groups is None:
            warnings += groups.suspected(train.sources, () if held_out is None else held_out.sources)
        if train.groups is not None and held_out is not None:
            _check_groups(train, held_out)
        about = {
            kind: {
                "source": escaped(sources[kind]),
                "images": len(found.images),
                "skipped": found.skipped.num_rows,
                "groups": None if found.images.groups is None else len(set(found.images.groups)),
                "image_shape": list(found.images.image_shape),
                "digest": found.images.digest,
            }
            for kind, found in read.items()
        }
        run.update(data={"sets": about, "rule": rule, "warnings": warnings})
    return {kind: ImageSet.load(run.image_set(kind)) for kind in sources}


def _read(sources: dict[str, str], settings: AuditSettings, report: OnStage) -> tuple[dict[str, Imported], str]:
    """All sets, prepared alike, and the rule by which they were, in a sentence."""
    side = settings.resize
    try:
        read = {kind: _read_set(kind, source, settings, side, "auto", report) for kind, source in sources.items()}
        shapes = {found.images.image_shape[1:] for found in read.values()}
    except ShapeError:
        shapes = set()
    if len(shapes) != 1:
        side = _MIXED
        read = {kind: _read_set(kind, source, settings, side, "auto", report) for kind, source in sources.items()}
    channels = max(found.images.image_shape[0] for found in read.values())
    if any(found.images.image_shape[0] != channels for found in read.values()):
        read = {
            kind: found
            if found.images.image_shape[0] == channels
            else _read_set(kind, sources[kind], settings, side, "rgb", report)
            for kind, found in read.items()
        }
    height, width = next(iter(read.values())).images.image_shape[1:]
    if side is None:
        rule = f"All images have {width} x {height} pixels and were left at that size."
    elif settings.resize is None:
        rule = (
            f"The images differ in size, so all were resized to {side} x {side} pixels (the short side, bicubic with "
            "antialiasing, and the center of the long side). --resize chooses another size."
        )
    else:
        rule = (
            f"All images were resized to {side} x {side} pixels (the short side, bicubic with antialiasing, and the "
            "center of the long side)."
        )
    return read, rule


def _read_set(
    kind: str, source: str, settings: AuditSettings, side: int | None, color: str, report: OnStage
) -> Imported:
    values = {name: getattr(settings, name) for name in ReadSettings.model_fields}
    values |= {"resize": side, "deduplicate": False, "color": settings.color if color == "auto" else color}
    values |= {"groups": settings.groups if kind != "samples" else None}
    chosen = validate(ImportSettings, values, source="audit")
    found = import_images(
        Path(source), chosen, lambda done, total: report(f"reading {_IN_WORDS[kind]}", done, total), settings.seed
    )
    if kind == "samples" and found.images.groups is not None:
        images = found.images  # samples have no patients
        return Imported(
            ImageSet(images.pixels, images.ids, images.sources, images.recipe),
            found.skipped,
            found.duplicates,
            found.warnings,
        )
    return found


def _check_groups(train: ImageSet, held_out: ImageSet) -> None:
    """Refuse groups with images on both sides; the pool would too, but only after all images were read."""
    assert train.groups is not None
    both = set(train.groups) & set(held_out.groups or ())
    if both:
        raise DataError(
            f"--groups: found images of {len(both):,} groups among both the training and the held-out images (for "
            f"example {min(both)}), expected each group on one side. If the images were divided one by one, leave out "
            "--groups."
        )


# ------------------------------------------------------------------------------------------------- measuring


def _tested(run: runs.Run) -> bool:
    return all(run.has_table(kind, _NAME) for kind in ("neighbors", "significance", "copies", "at_risk"))


def _samples(sets: dict[str, ImageSet]) -> Samples:
    return Samples(sets["samples"].floats().numpy(), np.arange(len(sets["samples"])))


def _examiner(run: runs.Run, sets: dict[str, ImageSet]) -> Examiner:
    settings = settings_of(run)
    return Examiner(sets["train"], sets["held_out"], settings.cluster_threshold, names=settings.spaces)


def _test(run: runs.Run, sets: dict[str, ImageSet], report: OnStage) -> None:
    """Test the samples for copies, and keep the tables."""
    settings, samples = settings_of(run), _samples(sets)
    report("building the indexes", 0, 1)
    own = nearest(sets["train"], samples)
    examiner = _examiner(run, sets)
    sight = examiner.see(torch.from_numpy(samples.images), progress=_stage(report, "searching for the samples"))
    report("judging by held-out images", 0, 1)
    found = examiner.contest(sight, settings.seed, settings.q)
    judged = judge(examiner.depths(sight), examiner.held_out_depths, settings.q)
    keys = Identity(_NAME, "imported", len(sets["train"])).columns
    significance, copies = to_tables(
        keys, samples.index, examiner.pool, found, judged, own, examiner.evidence(found), settings.spaces
    )
    run.write_table("neighbors", _NAME, own)
    run.write_table("significance", _NAME, significance)
    run.write_table("at_risk", _NAME, _at_risk(sets, significance))
    run.write_table("copies", _NAME, copies)


def _canaries(run: runs.Run, sets: dict[str, ImageSet], report: OnStage) -> pa.Table:
    """A CANARIES table: how closely samples follow each canary, among all training images and the kept canaries."""
    settings = settings_of(run)
    assert settings.canaries is not None
    drawn, train = planted_canaries.load(Path(settings.canaries)), sets["train"]
    files_of = {name: i for i, name in enumerate(map(groups.file_of, train.sources))}
    if absent := [name for name in map(escaped, drawn.trained) if name not in files_of]:
        raise DataError(
            f"{settings.canaries}: {len(absent)} of {len(drawn.trained)} canaries that were to be trained on are not "
            f"among the training images (the first: {absent[0]}). Give the folder that they were planted in as TRAIN."
        )
    if present := [name for name in map(escaped, drawn.kept) if name in files_of]:
        raise DataError(f"{settings.canaries}: {present[0]} was to be kept, but is among the training images.")
    kept = _read_set("held_out", str(drawn.folder), settings, train.image_shape[1], _color(train), report).images
    position = {name: i for i, name in enumerate(map(groups.file_of, kept.sources))}
    if absent := [name for name in map(escaped, drawn.kept) if name not in position]:
        raise DataError(f"{drawn.folder}: the kept canary {absent[0]} is missing or cannot be read. Restore it.")
    chosen = kept.take([position[name] for name in map(escaped, drawn.kept)])
    ids = [*train.ids, *chosen.ids]
    order = np.array(sorted(range(len(ids)), key=lambda i: files.digest(ids[i])))  # does not know the draw
    pixels = np.concatenate([train.pixels, chosen.pixels])[order]
    searcher = Searcher(Candidates(pixels, [ids[i] for i in order], np.arange(len(ids))), settings.spaces)
    sight = searcher.see(sets["samples"].floats(), progress=_stage(report, "searching for canaries"))
    found = searcher.choose(sight, searcher.standing_out(sight))
    place = np.argsort(order)  # of each image in the pool
    names = [*drawn.trained, *drawn.kept]
    of_train = [files_of[escaped(name)] for name in drawn.trained]
    number = place[[*of_train, *range(len(train), len(ids))]]
    score = np.array([found.magnitude[found.nearest == i].max(initial=0.0) for i in number])
    trained = np.arange(len(names)) < len(drawn.trained)
    exposed = canaries.exposure(score, trained)
    columns = {
        "file": [escaped(name) for name in names],
        "image_id": [ids[order[i]] for i in number],
        "trained": trained,
        "samples": [int((found.nearest == i).sum()) for i in number],
        "score": score,
        "auc": exposed.auc,
        "p": exposed.p,
    }
    return tables.make(schemas.CANARIES, columns)


def _color(images: ImageSet) -> str:
    return "gray" if images.image_shape[0] == 1 else "rgb"


def _stage(report: OnStage, what: str) -> Callable[[int, int], None]:
    return lambda done, total: report(what, done, total)


def _at_risk(sets: dict[str, ImageSet], significance: pa.Table) -> pa.Table:
    """An AT_RISK table: every training unit that a sample is nearest to, those in danger first."""
    train = sets["train"]
    place = {image_id: i for i, image_id in reversed(list(enumerate(train.ids)))}
    units: dict[int, list[dict[str, Any]]] = {}
    for row in significance.to_pylist():
        if row["nearest_in"] == "T":
            units.setdefault(row["unit"], []).append(row)
    rows = []
    for unit, members in units.items():
        deepest = max(
            members, key=lambda row: (row["discovered"], np.inf if row["W"] is None else row["W"], -row["sample"])
        )
        position = place[deepest["nearest_id"]]
        rows.append(
            {
                "unit": unit,
                "group": None if train.groups is None else train.groups[position],
                "image_id": deepest["nearest_id"],
                "source": train.sources[position],
                "samples": len(members),
                "flagged": sum(row["flagged"] for row in members),
                "discovered": any(row["discovered"] for row in members),
                "sample": deepest["sample"],
                "sample_source": sets["samples"].sources[deepest["sample"]],
                "W": deepest["W"],
                "space": deepest["space"],
                "closeness": deepest["closeness"],
            }
        )
    rows.sort(key=lambda row: (not row["discovered"], not row["flagged"], -(row["W"] or 0), row["unit"]))
    return tables.make(schemas.AT_RISK, {key: [row[key] for row in rows] for key in schemas.AT_RISK.names}, len(rows))


def _calibrate(run: runs.Run, sets: dict[str, ImageSet], report: OnStage) -> None:
    """Plant copies of every kind among the samples, and keep what is found: PLANTED tables, one for each draw."""
    settings = settings_of(run)
    missing = [i for i in range(settings.calibrate) if not run.has_table("planted", f"{_NAME}-r{i}")]
    if not missing:
        return
    examiner, images = _examiner(run, sets), sets["samples"].floats()
    sight = examiner.see(images, progress=_stage(report, "searching for the samples"))
    # Copies that were found in the samples would help planted ones to be found.
    significance = run.table("significance", _NAME)
    reported = np.logical_or(*(significance[name].to_numpy(zero_copy_only=False) for name in ("discovered", "flagged")))
    clean = np.flatnonzero(~reported)
    for repeat in missing:
        order = noise.stream("planted copies", settings.seed, repeat).permutation(
            clean
        )  # they are replaced in this order
        rows: list[dict[str, Any]] = []
        for number, kind in enumerate(planting.KINDS):
            report("planting copies", number, len(planting.KINDS))
            rows += _planted(examiner, sight, images, order, sets["train"], kind, settings, repeat)
        columns = {name: [row[name] for row in rows] for name in schemas.PLANTED.names}
        run.write_table("planted", f"{_NAME}-r{repeat}", tables.make(schemas.PLANTED, columns))


def _planted(
    examiner: Examiner,
    sight: Sight,
    images: torch.Tensor,
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
        images: all samples, (M, C, H, W).
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
    copies = planting.planted(kind, train.floats(chosen), images[order[:most]], generator)
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
    names = np.array(train.groups)[order]
    return order[np.sort(np.unique(names, return_index=True)[1])]


# ------------------------------------------------------------------------------------------------- the result


def _answer(run: runs.Run) -> findings.Answer:
    copies = run.table("copies", _NAME) if run.has_table("copies", _NAME) else None
    return findings.answer(copies, run.table("planted"), run.table("canaries"), run.manifest["data"]["sets"])


def _page(run: runs.Run, sets: dict[str, ImageSet], answer: findings.Answer) -> audit_page.AuditInput:
    shown = settings_of(run).images
    return audit_page.AuditInput(
        title=run.name,
        answer=answer,
        manifest=run.manifest,
        pairs=_pairs(run, sets),
        at_risk=run.table("at_risk", _NAME).to_pylist() if run.has_table("at_risk", _NAME) else [],
        planted=findings.powers(run.table("planted")),
        skipped=run.table("skipped", _NAME).to_pylist(),
        image_of=(lambda kind, position: np.asarray(sets[kind].pixels[position])) if shown else None,
    )


def _pairs(run: runs.Run, sets: dict[str, ImageSet], count: int = audit_page.PAIRS_SHOWN) -> list[findings.Pair]:
    """The pairs of a sample and a training image that a test reports, and the closest others, up to a number."""
    significance = run.table("significance", _NAME) if run.has_table("significance", _NAME) else None
    places = {
        kind: {image_id: i for i, image_id in reversed(list(enumerate(found.ids)))} for kind, found in sets.items()
    }
    sources = {kind: found.sources for kind, found in sets.items()}
    groups_of = sets["train"].groups
    return findings.pairs(significance, run.table("neighbors", _NAME), places, sources, groups_of, count)


def _document(run: runs.Run, answer: findings.Answer) -> dict[str, Any]:
    """What `audit.json` holds, made of the run's files alone; its last key is a hash of all others."""
    sets = {kind: ImageSet.load(run.image_set(kind)) for kind in run.manifest["data"]["sets"]}
    made = [path for path in sorted((run.path / "tables").rglob("*.parquet")) if not path.name.startswith(".")]
    made += [path for kind in sets for path in sorted(run.image_set(kind).iterdir()) if not path.name.startswith(".")]
    manifest = run.manifest
    document = {
        "schema": findings.SCHEMA,
        "answer": answer.answer,
        "headline": answer.headline,
        "sentences": list(answer.sentences),
        "discoveries": [pair.as_json() for pair in _pairs(run, sets, 2**31) if pair.reported_by],
        "closest": [pair.as_json() for pair in _pairs(run, sets)],
        "counts": answer.counts,
        "power": findings.powers(run.table("planted")),
        "sets": manifest["data"]["sets"],
        "rule": manifest["data"]["rule"],
        "warnings": manifest["data"]["warnings"],
        "settings": manifest["config"],
        "versions": manifest["versions"],
        "files": {path.relative_to(run.path).as_posix(): _sha256(path) for path in made},
    }
    return document | {"hash": _hash(document)}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash(document: dict[str, Any]) -> str:
    """A hash of all keys of a document but `hash`."""
    return files.digest_json({key: value for key, value in document.items() if key != "hash"})


def verify(path: Path) -> list[str]:
    """What is wrong with an `audit.json` and the run that it stands in, in sentences; empty if all agrees.

    Every file is compared with its digest, and the document is made again from the tables.

    Raises:
        DataError: the file cannot be read or is no audit.
        RunError: it does not stand in the run directory of an audit.
    """
    stated = files.read_json(path)
    if not isinstance(stated, dict) or stated.get("schema") != findings.SCHEMA:
        raise DataError(f"{path}: not an audit of this memgen, which writes {findings.SCHEMA}.")
    if stated.get("hash") != _hash(stated):
        return [f"{path} was changed: its hash does not belong to its content."]
    run = runs.Run(path.resolve().parent)
    if not (run.path / "run.json").exists():
        raise RunError(f"{path} does not stand in a run directory, so its tables cannot be found. Verify it there.")
    wrong = []
    for name, digest in stated["files"].items():
        file = run.path / name
        if not file.exists():
            wrong.append(f"{file} is missing.")
        elif _sha256(file) != digest:
            wrong.append(f"{file} was changed: its digest is not the stated one.")
    if wrong:
        return wrong
    made = _document(run, _answer(run))
    return [f"{path}: {key} is not what the run's tables say." for key in made if made[key] != stated.get(key)]
