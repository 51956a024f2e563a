"""The experiment as a function of N: every cell trained, sampled, searched and measured, twins compared.

Work is cut into tasks, each a list of steps on one cell or one pair of cells, run by a pool of spawned processes (one
CPU thread each unless the settings say more, so the result does not depend on the number of workers) or, on an
accelerator, in this process. Every step skips what is finished, so a killed sweep goes on where it was.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from memgen import geometry, measure, steps
from memgen.closed_form import fit
from memgen.denoisers import Denoiser, NetworkSettings, build
from memgen.errors import RunError
from memgen.images import ImageSet
from memgen.runs import Cell, Run
from memgen.sample import expected_updates
from memgen.train import Training, TrainingRecord, train
from memgen.workspace import RunSettings, Workspace

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


def execute(workspace: Workspace, listed: list[Task], jobs: int, on_event: OnEvent) -> None:
    """Do the tasks; a comparison waits for both of its cells.

    Args:
        workspace: a run whose images have been imported and whose lock the caller holds.
        listed: the tasks, most wanted first.
        jobs: worker processes; 1 works in this process.
        on_event: called, in this process, with news of the tasks.

    Raises:
        MemgenError: the first that a task raised; tasks under way are finished, the others are not begun.
        RunError: a worker process died.
    """
    if jobs == 1:
        with threads(workspace.settings.compute.threads):
            for task in listed:
                _perform(workspace, task, on_event)
        return
    context = multiprocessing.get_context("spawn")
    news: Queue[Event | None] = context.Queue()
    failures: list[Exception] = []
    listener = threading.Thread(target=_listen, args=(news, on_event, failures), daemon=True)
    listener.start()
    life, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (news, life, workspace.settings.compute.threads))
    try:
        with _without_interruption():  # Ctrl-C is for this process alone, which then ends its workers
            for _ in range(jobs):
                pool.submit(int)  # starts a worker
        _schedule(pool, workspace, listed)
    except KeyboardInterrupt:
        ours.close()
        raise
    except BrokenProcessPool as error:
        raise RunError(
            "a worker process was killed, perhaps for lack of memory. Finished work is kept: run the same command "
            "again, with fewer workers (--jobs 1) if memory is short."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        news.cancel_join_thread()  # a worker that was killed may hold the lock of the queue for ever
        news.put(None)
        listener.join(timeout=5)
    if failures:
        raise failures[0]


def _schedule(pool: ProcessPoolExecutor, workspace: Workspace, listed: list[Task]) -> None:
    waiting = [task for task in listed if task.verbs == ("compare",)]
    pending: dict[Future[Any], Task] = {}

    def submit(task: Task) -> None:
        pending[pool.submit(_work, str(workspace.run.path), workspace.device, task)] = task

    for task in listed:
        if task not in waiting:
            submit(task)
    while waiting or pending:
        unfinished = {task.cell.pair for task in pending.values()}
        for task in [task for task in waiting if task.cell.pair not in unfinished]:
            waiting.remove(task)
            submit(task)
        finished, _ = wait(pending, return_when=FIRST_COMPLETED)
        for future in finished:
            del pending[future]
            future.result()


@dataclass(frozen=True)
class Cost:
    """What a sweep is expected to take.

    Attributes:
        cells: trainings in all.
        seconds: wall time of training, sampling and denoising, which are nearly all of it.
        disk_bytes: images, weights, samples and indexes; tables come on top.
    """

    cells: int
    seconds: float
    disk_bytes: int


def estimate(settings: RunSettings, images: ImageSet, device: str, jobs: int) -> Cost:
    """Expected cost of a sweep on these images, from a few training steps and network calls timed here and now."""
    cells, pixels = settings.cells, int(np.prod(images.image_shape))
    batch = images.floats(range(min(len(images), settings.train.batch_size))).to(device)
    with threads(settings.compute.threads):
        if isinstance(settings.model, NetworkSettings):
            training = Training(build(settings.model, images.image_shape), settings.train, (0, 0), device)
            step = _timed(islice(train(training, batch, record_every=1), 4))
            weights = training.network.parameter_count * 4
            denoiser: Denoiser = training.result.eval()
        else:  # timed at the mean size of the training sets
            size = int(np.mean([cell.n_train for cell in cells]))
            denoiser, step, weights = fit(settings.model, images.take(range(size)).pixels).to(device), 0.0, 0
        noisy = batch.new_zeros(settings.sample.micro_batch, *images.image_shape)
        sigma = batch.new_ones(settings.sample.micro_batch)
        with torch.inference_mode():
            call = _timed(denoiser(noisy, sigma) for _ in range(4)) / settings.sample.micro_batch
    trained = sum(settings.train.budget(cell.n_train) for cell in cells)
    updates = expected_updates(settings.sample)
    measured = sum(min(cell.n_train, settings.psnr.n_images) + settings.psnr.n_images for cell in cells)
    denoised = len(cells) * settings.sample.n_samples * updates
    denoised += (measured + len(cells) * settings.psnr.n_images) * len(settings.psnr.sigmas) * settings.psnr.noise_draws
    seconds = trained / len(batch) * step + denoised * call
    references = sum(cell.n_train for cell in cells) * pixels * 5  # pixels and float32 vectors
    samples = len(cells) * settings.sample.n_samples * pixels * 4
    return Cost(len(cells), seconds / jobs, images.pixels.nbytes + references + samples + len(cells) * weights)


def _timed(work: Iterator[Any]) -> float:
    """Median seconds of an item, the first left out."""
    times = [time.perf_counter()]
    times += [time.perf_counter() for _ in work]
    return float(np.median(np.diff(times)[1:]))


_news: "Queue[Event | None] | None" = None  # of a worker process: where it reports to


def _start_worker(news: "Queue[Event | None]", life: Connection, count: int) -> None:
    global _news
    _news = news
    torch.set_num_threads(count)
    threading.Thread(target=_leave_with, args=(life,), daemon=True).start()


def _leave_with(life: Connection) -> None:
    """End this worker when the other end closes: by a parent that was interrupted, or with one that was killed.

    A worker must not outlive its parent, since it would write on without the lock of the run.
    """
    life.poll(None)
    os._exit(1)


@contextmanager
def _without_interruption() -> Iterator[None]:
    """Ctrl-C waits until the end, and never comes to processes started meanwhile, which inherit the signal mask."""
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(path: str, device: str, task: Task) -> None:
    assert _news is not None
    _perform(Workspace.of(Run(Path(path)), device), task, _news.put)


def _listen(news: "Queue[Event | None]", on_event: OnEvent, failures: list[Exception]) -> None:
    while (event := news.get()) is not None:
        try:
            on_event(event)
        except Exception as error:  # raised in the main thread, once the workers are done
            failures.append(error)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Work on this many CPU threads, which are part of a result."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _perform(workspace: Workspace, task: Task, on_event: OnEvent) -> None:
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

    steps.train_cell(workspace, cell, on_record)


def _sample(workspace: Workspace, cell: Cell, report: Report) -> None:
    total = workspace.settings.sample.n_samples
    steps.sample_denoiser(workspace, cell.name, lambda ended, step: report(ended, total, f"step {step}"))


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
