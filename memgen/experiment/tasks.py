"""The steps of a sweep, and the tasks that they are grouped into."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from memgen.base import schemas
from memgen.experiment import geometry, make, measure
from memgen.experiment.executors import threads as threads
from memgen.experiment.journal import Journal
from memgen.experiment.runs import Cell, pair_key
from memgen.experiment.subjects import Record
from memgen.experiment.workspace import Workspace
from memgen.models.training import TrainingRecord

Verb = Literal["train", "sample", "search", "copies", "psnr", "references", "compare"]
VERBS: tuple[Verb, ...] = get_args(Verb)
# What people read of a step under way, and of a model of which it is the last step that is done.
DOING: dict[Verb, str] = {
    "train": "training",
    "sample": "sampling",
    "search": "searching neighbors",
    "copies": "testing for copies",
    "psnr": "measuring PSNR",
    "references": "measuring references",
    "compare": "comparing twins",
}
DONE: dict[Verb, str] = {
    "train": "trained",
    "sample": "sampled",
    "search": "searched",
    "copies": "tested",
    "psnr": "measured",
    "references": "measured",
    "compare": "compared",
}


@dataclass(frozen=True)
class Task:
    """Steps to take on one subject, or on a pair of subjects.

    Attributes:
        name: what a progress bar calls the task.
        subjects: name of the subject, or of both subjects of a pair.
        verbs: the steps, in this order.
        cell: the cell, if the subject is one that may still have to be trained.
    """

    name: str
    subjects: tuple[str, ...]
    verbs: tuple[Verb, ...]
    cell: Cell | None = None


@dataclass(frozen=True)
class Event:
    """News of a task, for whoever draws the bars.

    Attributes:
        task: name of the task.
        verb: the step under way.
        done: work done of it, in units of `total`.
        total: work of the step.
        text: a number to show beside the bar.
    """

    task: str
    verb: Verb
    done: int
    total: int
    text: str = ""


OnEvent = Callable[[Event], None]


def tasks(cells: Iterable[Cell], verbs: Iterable[Verb] = VERBS) -> list[Task]:
    """One task for each cell, followed by one for each pair of twins where `compare` is asked for.

    The references belong to the whole run. The task of the first cell measures them, so that no two workers do.
    """
    wanted = set(verbs)
    single = tuple(verb for verb in VERBS if verb in wanted - {"references", "compare"})
    listed = [Task(cell.name, (cell.name,), single, cell) for cell in cells if single]
    if listed and "references" in wanted:
        listed[0] = replace(listed[0], verbs=(*single, "references"))
    pairs = sorted({Cell(cell.n_train, cell.train_seed, "a") for cell in cells}) if "compare" in wanted else []
    return listed + [Task(cell.pair, (cell.name, cell.twin.name), ("compare",)) for cell in pairs]


# What a step needs of an imported subject; the steps that are not listed are for cells alone.
_NEEDS: dict[Verb, tuple[str, ...]] = {
    "sample": ("denoiser",),
    "search": ("train",),
    "copies": ("train",),
    "psnr": ("denoiser",),
}


def imported_tasks(records: Iterable[Record], verbs: Iterable[Verb]) -> list[Task]:
    """One task for each imported subject, of those steps for which it has what they need."""
    wanted, listed = _NEEDS.keys() & set(verbs), []
    for record in records:
        has = {"denoiser": record.has_denoiser, "train": record.train_set is not None}
        possible = tuple(verb for verb in VERBS if verb in wanted and all(has[need] for need in _NEEDS[verb]))
        if possible:
            name = record.identity.subject
            listed.append(Task(name, (name,), possible))
    return listed


def perform(workspace: Workspace, task: Task, on_event: OnEvent) -> None:
    """Take the steps of a task, one after the other, in this process."""
    journal = Journal(workspace.run, task.name)
    for verb in task.verbs:

        def report(done: int, total: int, text: str = "", verb: Verb = verb, **measured: float) -> None:
            journal(verb, done, total, **measured)
            on_event(Event(task.name, verb, done, total, text))

        report(0, 1)
        _STEPS[verb](workspace, task, report)
        report(1, 1)


def is_done(workspace: Workspace, task: Task, verb: Verb) -> bool:
    """Whether a step of a task is done, as far as the names and the lengths of the run's tables tell."""
    run, name = workspace.run, task.subjects[0]
    if verb == "train":
        return run.has_table("subjects", name)
    if verb == "sample":
        return run.has_table("samples", name) and name in workspace.complete(run.table("samples", name))
    if verb == "search":
        return any(key.startswith(f"{name}.train") for key in run.table_names("neighbors"))
    if verb == "references":
        return run.has_table("psnr", f"reference-{schemas.REFERENCES['to_linear']}")
    if verb == "compare":
        return all(run.has_table(kind, pair_key(*task.subjects)) for kind in ("similarity", "distances"))
    return run.has_table(verb, name)


Report = Callable[..., None]


def _train(workspace: Workspace, task: Task, report: Report) -> None:
    def on_record(record: TrainingRecord, budget: int) -> None:
        measured = {name: getattr(record, name) for name in ("step", "seconds", "loss", "output_psnr_db")}
        report(record.images_seen, budget, f"{record.output_psnr_db:.1f} dB", **measured)

    assert task.cell is not None
    make.train_cell(workspace, task.cell, on_record)


def _sample(workspace: Workspace, task: Task, report: Report) -> None:
    total = workspace.settings.sample.n_samples
    make.sample_subject(
        workspace, task.subjects[0], lambda ended, step: report(ended, total, f"step {step}", step=step)
    )


def _search(workspace: Workspace, task: Task, report: Report) -> None:
    measure.search_own(workspace, task.subjects[0])


def _copies(workspace: Workspace, task: Task, report: Report) -> None:
    measure.find_copies(workspace, task.subjects[0])


def _psnr(workspace: Workspace, task: Task, report: Report) -> None:
    measure.measure_psnr(workspace, task.subjects[0])


def _references(workspace: Workspace, task: Task, report: Report) -> None:
    geometry.measure_references(workspace)


def _compare(workspace: Workspace, task: Task, report: Report) -> None:
    measure.compare_samples(workspace, *task.subjects)
    measure.measure_distances(workspace, *task.subjects)


_STEPS: dict[Verb, Callable[[Workspace, Task, Report], None]] = {
    "train": _train,
    "sample": _sample,
    "search": _search,
    "copies": _copies,
    "psnr": _psnr,
    "references": _references,
    "compare": _compare,
}
