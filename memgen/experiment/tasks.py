"""The steps of a sweep, and the order in which they are taken."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from memgen.experiment import geometry, make, measure
from memgen.experiment.runs import Cell
from memgen.experiment.workspace import Workspace
from memgen.models.training import TrainingRecord

Verb = Literal["train", "sample", "search", "copies", "psnr", "references", "compare"]
VERBS: tuple[Verb, ...] = get_args(Verb)


@dataclass(frozen=True)
class Task:
    """Steps to take on one cell (or on its pair, for compare).

    Attributes:
        cell: the cell; part a stands for the pair.
        verbs: the steps, in this order.
    """

    cell: Cell
    verbs: tuple[Verb, ...]

    @property
    def name(self) -> str:
        """What a progress bar calls the task."""
        return self.cell.pair if self.verbs == ("compare",) else self.cell.name


@dataclass(frozen=True)
class Event:
    """News of a task, for whoever draws the bars.

    Attributes:
        task: name of the task.
        verb: the step under way.
        done: work done of it, in units of `total`.
        total: work of the step.
        text: a figure worth showing beside the bar.
    """

    task: str
    verb: Verb
    done: int
    total: int
    text: str = ""


OnEvent = Callable[[Event], None]


def tasks(cells: Iterable[Cell], verbs: Iterable[Verb] = VERBS) -> list[Task]:
    """One task for each cell, followed by one for each pair of twins where `compare` is asked for.

    References are of the whole run: the first cell's task measures them, lest several workers do at once.
    """
    wanted = set(verbs)
    single = tuple(verb for verb in VERBS if verb in wanted - {"references", "compare"})
    listed = [Task(cell, single) for cell in cells if single]
    if listed and "references" in wanted:
        listed[0] = Task(listed[0].cell, (*single, "references"))
    pairs = sorted({Cell(cell.n_train, cell.train_seed, "a") for cell in cells}) if "compare" in wanted else []
    return listed + [Task(cell, ("compare",)) for cell in pairs]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Work on this many CPU threads, which are part of a result."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def perform(workspace: Workspace, task: Task, on_event: OnEvent) -> None:
    """Take the steps of a task, one after the other, in this process."""
    for verb in task.verbs:

        def report(done: int, total: int, text: str = "", verb: Verb = verb) -> None:
            on_event(Event(task.name, verb, done, total, text))

        report(0, 1)
        _STEPS[verb](workspace, task.cell, report)
        report(1, 1)


Report = Callable[..., None]


def _train(workspace: Workspace, cell: Cell, report: Report) -> None:
    def on_record(record: TrainingRecord, budget: int) -> None:
        report(record.images_seen, budget, f"{record.output_psnr_db:.1f} dB")

    make.train_cell(workspace, cell, on_record)


def _sample(workspace: Workspace, cell: Cell, report: Report) -> None:
    total = workspace.settings.sample.n_samples
    make.sample_denoiser(workspace, cell.name, lambda ended, step: report(ended, total, f"step {step}"))


def _search(workspace: Workspace, cell: Cell, report: Report) -> None:
    measure.search_samples(workspace, cell.name, f"train_{cell.part}", cell.n_train)
    measure.search_holdout(workspace, f"train_{cell.part}", cell.n_train)


def _copies(workspace: Workspace, cell: Cell, report: Report) -> None:
    measure.find_copies(workspace, cell)


def _psnr(workspace: Workspace, cell: Cell, report: Report) -> None:
    measure.measure_psnr(workspace, cell.name)


def _references(workspace: Workspace, cell: Cell, report: Report) -> None:
    geometry.measure_references(workspace)


def _compare(workspace: Workspace, cell: Cell, report: Report) -> None:
    measure.compare_pair(workspace, cell.n_train, cell.train_seed)
    measure.measure_distances(workspace, cell.n_train, cell.train_seed)


_STEPS: dict[Verb, Callable[[Workspace, Cell, Report], None]] = {
    "train": _train,
    "sample": _sample,
    "search": _search,
    "copies": _copies,
    "psnr": _psnr,
    "references": _references,
    "compare": _compare,
}
