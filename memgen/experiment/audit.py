"""An audit: do samples copy the images that their model was trained on? For anyone's samples and images.

An audit is a run directory of its own kind. It holds the three image sets, the tables of the test for copies, the page,
and `audit.json`, which states the answer with all numbers behind it and the digests of all files.

    run.json                        settings, versions, and what was read; its key `kind` is `audit`
    sets/samples, train, held_out   the images, as ImageSets
    tables/KIND/audit.parquet       subject_skipped, neighbors, significance, copies, at_risk, planted
    report/report.html              the page
    audit.json                      the answer, for programs; `memgen verify` checks it

Each of these is finished when its file exists, so an audit that was interrupted goes on where it stopped.
"""

import hashlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from memgen.base import files
from memgen.base.config import validate
from memgen.base.errors import ConfigError, DataError, RunError
from memgen.base.tables import Rows
from memgen.experiment import audit_images, audit_model, audit_tests, reproduce, runs, showing
from memgen.experiment.audit_settings import NAME, AuditSettings, OnStage, settings_of
from memgen.experiment.executors import Executor
from memgen.experiment.journal import Journal
from memgen.experiment.results import Result
from memgen.findings import audit as findings
from memgen.findings import headlines, shrinkage
from memgen.findings.headlines import Numbers
from memgen.images import remote
from memgen.images.imageset import ImageSet
from memgen.measures.copies import planting
from memgen.measures.copies.competition import fewest
from memgen.report import audit_page, charts
from memgen.report.live import Live

DOCUMENT = "audit.json"
WRITING = "writing the page"  # the last step
_FREE = ("calibrate", "images")  # settings that can change when an audit goes on


@dataclass(frozen=True, repr=False, eq=False)
class Audit(Result):
    """A finished audit. In a notebook it shows itself.

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

    @property
    def run(self) -> runs.Run:
        """The run."""
        return runs.Run(self.path)

    @property
    def headline(self) -> str:
        """The answer as a sentence."""
        return self.answer.headline

    def _sentences(self) -> tuple[str, ...]:
        return self.answer.sentences

    def _numbers(self) -> Numbers:
        return headlines.of_audit(self.answer, self.document["gaps"])


def audit(
    samples: str | Path | None,
    train: str | Path,
    held_out: str | Path | None = None,
    outputs: str | Path = runs.OUTPUTS,
    name: str | None = None,
    on_stage: OnStage | None = None,
    device: str = "cpu",
    executor: Executor | None = None,
    **settings: Any,
) -> Audit:
    """Does a model copy its training images? An answer from its samples alone; nothing is trained.

    Args:
        samples: generated images: a folder or a file; None for samples that are drawn from the setting `model`.
        train: images that the model was trained on.
        held_out: images of the same source that it never saw. Without them nothing can be concluded.
        outputs: folder that holds the runs.
        name: of the run; None makes one from the settings. A run of that name is continued.
        on_stage: called with (what is being done, items done, items).
        device: where a model runs.
        executor: what searches for copies and near-duplicates (see `executors.find`); None searches in this process.
        settings: further fields of AuditSettings, such as groups="folder", calibrate=1 or model="checkpoint.pt".

    Raises:
        ConfigError: a setting is unknown or out of its range.
        DataError: a set of images cannot be used; the message names the file and the remedy.
    """
    sets = {"samples": samples, "train": train, "holdout": held_out}
    given = {name: remote.absolute(source) for name, source in sets.items() if source is not None} | settings
    return perform(
        start(Path(outputs), name, validate(AuditSettings, given, source="audit")), on_stage, device, executor
    )


@dataclass(frozen=True)
class Plan:
    """What an audit would do.

    Attributes:
        name: of its run.
        there: whether there is a run of that name, with which the audit would go on.
        data: what its run would say of the images that are read; see `audit_images.prepare`.
        samples: number of samples.
        tests: the tests that would be made, in words.
        least: the smallest number of training images, or groups, that the competition can find; None without held-out
            images.
        comparisons: pairs of a sample and a training or held-out image in each space.
        disk_bytes: what the images take in the run.
    """

    name: str
    there: bool
    data: dict[str, Any]
    samples: int
    tests: tuple[str, ...]
    least: int | None
    comparisons: int
    disk_bytes: int


def plan(outputs: Path, name: str | None, settings: AuditSettings, on_stage: OnStage | None = None) -> Plan:
    """What an audit with these settings would do. Images and the model are read; nothing is written, drawn or searched.

    Raises:
        ConfigError: as for `start`.
        DataError: as for `audit`.
        ShapeError: the model takes images of another shape.
        RunError: as for `start`.
    """
    _check_sources(settings)
    name, there = _existing(outputs, name, settings)
    read, data = audit_images.prepare(settings, on_stage or (lambda what, done, total: None))
    if settings.model is not None:
        audit_model.find(settings, read["train"].images)
    sets, shape = data["sets"], data["sets"]["train"]["image_shape"]
    samples = sets["samples"]["images"] if settings.model is None else settings.sample.n_samples
    units = {kind: of["images"] if of["groups"] is None else of["groups"] for kind, of in sets.items()}
    tests = ["competition", "conformal test"] if "held_out" in sets else []
    tests += [f"{settings.calibrate} x {len(planting.KINDS)} kinds of planted copies"] if settings.calibrate else []
    tests += ["canaries"] if settings.canaries else []
    if settings.model is not None and "held_out" in sets:
        tests += ["denoising of training and held-out images"]
        tests += ["Jacobians"] if settings.basis.n_images else []
    real = sum(of["images"] for kind, of in sets.items() if kind != "samples")
    return Plan(
        name=name,
        there=there is not None,
        data=data,
        samples=samples,
        tests=tuple(tests),
        least=fewest(units["train"], units["held_out"], settings.q) if "held_out" in units else None,
        comparisons=samples * real,
        disk_bytes=(samples + real) * math.prod(shape) * read["train"].images.pixels.itemsize,
    )


def start(outputs: Path, name: str | None, settings: AuditSettings) -> runs.Run:
    """The run of an audit: a new one, or one that was made with the same settings.

    Raises:
        ConfigError: two of the three sets are one folder or file, or the run was made with other settings.
        RunError: the run of that name is no audit.
    """
    _check_sources(settings)
    values = settings.model_dump(mode="json")
    name, run = _existing(outputs, name, settings)
    if run is None:
        return runs.create(outputs, name, values, "cpu", kind=runs.AUDIT)
    if run.manifest["config"] != values:
        run.update(config=values)
    return run


def _check_sources(settings: AuditSettings) -> None:
    """Refuse one folder or file in two roles."""
    sources = {"samples": settings.samples, "training images": settings.train, "held-out images": settings.holdout}
    for (first, one), (second, other) in itertools.combinations(sources.items(), 2):
        if one is not None and one == other:
            raise ConfigError(f"{one} was given as {first} and as {second}, expected two sets of images.")


def _existing(outputs: Path, name: str | None, settings: AuditSettings) -> tuple[str, runs.Run | None]:
    """The name of the run of an audit, and the run if it is there; one with other settings is refused."""
    lasting = {key: value for key, value in settings.model_dump(mode="json").items() if key not in _FREE}
    name = name or f"audit-{files.digest_json(lasting)[:6]}"
    run = runs.there(outputs, name, runs.AUDIT)
    before = lasting if run is None else run.manifest["config"]
    if run is not None and (differing := [key for key in lasting if before.get(key) != lasting[key]]):
        raise ConfigError(
            f"{run.path} was made with other settings: {', '.join(differing)}. Choose another name with --run to start "
            "a new audit."
        )
    return name, run


def perform(
    run: runs.Run,
    on_stage: OnStage | None = None,
    device: str = "cpu",
    executor: Executor | None = None,
    options: Mapping[str, Any] | None = None,
) -> Audit:
    """Do what is missing of an audit, write its page and `audit.json`, and return what it says.

    Args:
        run: the audit.
        on_stage: called with (what is being done, items done, items).
        device: where a model runs.
        executor: what searches for copies and near-duplicates; None searches in this process.
        options: what the run keeps of the command; see `Run.working`.
    """
    journal = Journal(run, NAME)

    def report(what: str, done: int, total: int) -> None:
        journal(what, done, total)
        if on_stage:
            on_stage(what, done, total)

    with run.working(options):
        sets = audit_images.load(run, report, device)
        audit_tests.perform(run, sets, report, device, executor)
        report(WRITING, 0, 1)
        answer = _answer(run)
        page, shown = run.report / "report.html", _page(run, sets, answer)
        for title, spec in audit_page.draw(shown).items():
            charts.save(spec, run.report / "figures" / title)
        with files.writing(page) as file:
            file.write(audit_page.render(shown).encode())
        document = _document(run, answer)
        files.write_json(run.path / DOCUMENT, document)
    return Audit(answer, document, page, run.path)


def read(run: runs.Run) -> Audit:
    """What a finished audit says.

    Raises:
        RunError: it is not finished; the message says how to go on.
    """
    if not (run.path / DOCUMENT).exists():
        raise RunError(f"{run.path}: the audit is not finished. To go on: {reproduce.continuing(run)}")
    return Audit(_answer(run), files.read_json(run.path / DOCUMENT), run.report / "report.html", run.path)


def steps(run: runs.Run) -> dict[str, tuple[int, int]]:
    """The steps of an audit, in their order: how much is done of each, and of how much."""
    return audit_tests.steps(run) | {WRITING: (int((run.path / DOCUMENT).exists()), 1)}


def page_so_far(run: runs.Run, live: Live) -> str | None:
    """The page of what an audit under way has found; None before its samples are tested.

    Args:
        run: the audit.
        live: what stands at the top of the page.
    """
    done, total = audit_tests.steps(run)[audit_tests.TESTING]
    if done < total:
        return None
    sets = {kind: ImageSet.load(run.image_set(kind)) for kind in run.manifest["data"]["sets"]}
    return audit_page.render(replace(_page(run, sets, _answer(run)), live=live))


def _answer(run: runs.Run) -> findings.Answer:
    tables = {kind: run.table(kind) for kind in ("copies", "planted", "canaries", "gaps")}
    of_samples = {"at_risk": ("discovered", "flagged"), "significance": ("p",), "neighbors": ("query_kind", "value")}
    tables |= {kind: run.table(kind, columns=columns) for kind, columns in of_samples.items()}
    data = run.manifest["data"]
    return findings.answer(tables, data["sets"], data.get("undeclared", False), data.get("identical", {}))


def _page(run: runs.Run, sets: dict[str, ImageSet], answer: findings.Answer) -> audit_page.AuditInput:
    shown = settings_of(run).images
    image_of = (lambda kind, position: np.asarray(sets[kind].pixels[position])) if shown else None
    pairs, significance = _pairs(run, sets), run.table("significance", columns=audit_page.OF_SAMPLES)
    return audit_page.AuditInput(
        title=run.name,
        answer=answer,
        manifest=run.manifest,
        pairs=pairs[: audit_page.PAIRS_SHOWN],
        at_risk=Rows(run.table("at_risk")),
        planted=findings.powers(run.table("planted")),
        gaps=run.table("gaps").to_pylist(),
        shrinkage=shrinkage.compare(run.table("shrinkage")),
        films=audit_model.film(run) if shown else [],
        bases=audit_model.bases(run) if shown else [],
        skipped=Rows(run.table("subject_skipped", NAME)),
        image_of=image_of,
        significance=significance,
        gallery=showing.of_audit(pairs, image_of, significance),
        command=reproduce.command(run),
        downloads=showing.tables(run, run.report),
    )


def _pairs(run: runs.Run, sets: dict[str, ImageSet]) -> Rows[findings.Pair]:
    """The pairs of a sample and a training image, those first that a test reports, and then the closest."""
    tested = run.has_table("significance", NAME)
    significance = run.table("significance", NAME, findings.OF_TESTS) if tested else None
    ids, sources = ({kind: getattr(found, name) for kind, found in sets.items()} for name in ("ids", "sources"))
    return findings.pairs(
        significance, run.table("neighbors", NAME, findings.OF_NEIGHBORS), ids, sources, sets["train"].groups
    )


def _document(run: runs.Run, answer: findings.Answer) -> dict[str, Any]:
    """What `audit.json` holds, made of the run's files alone; its last key is a hash of all others."""
    sets = {kind: ImageSet.load(run.image_set(kind)) for kind in run.manifest["data"]["sets"]}
    made = [path for path in sorted((run.path / "tables").rglob("*.parquet")) if not path.name.startswith(".")]
    made += [path for kind in sets for path in sorted(run.image_set(kind).iterdir()) if not path.name.startswith(".")]
    manifest, pairs = run.manifest, _pairs(run, sets)
    document = {
        "schema": findings.SCHEMA,
        "answer": answer.answer,
        "headline": answer.headline,
        "sentences": list(answer.sentences),
        "discoveries": [pair.as_json() for pair in pairs[: findings.reported(pairs)]],
        "closest": [pair.as_json() for pair in pairs[: audit_page.PAIRS_SHOWN]],
        "counts": answer.counts,
        "power": findings.powers(run.table("planted")),
        "growth": findings.growth(
            run.table("at_risk", columns=("discovered", "flagged")), manifest["data"]["sets"]["samples"]["images"]
        ),
        "gaps": run.table("gaps").to_pylist(),
        "shrinkage": shrinkage.compare(run.table("shrinkage")),
        "canaries": findings.exposed(run.table("canaries")),
        "identical": manifest["data"].get("identical", {}),
        "sets": manifest["data"]["sets"],
        "rule": manifest["data"]["rule"],
        "warnings": manifest["data"]["warnings"],
        "spaces": manifest["data"]["spaces"],
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
    """What is wrong with an `audit.json`, or that of a run directory, and with its run, in sentences; empty if nothing.

    Every file is compared with its digest, and the document is made again from the tables.

    Raises:
        DataError: the file cannot be read or is no audit.
        RunError: it does not stand in the run directory of an audit.
    """
    path = path / DOCUMENT if path.is_dir() else path
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
