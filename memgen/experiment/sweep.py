"""Doing the tasks of a sweep, in this process or in a pool of worker processes.

The workers are spawned processes with one CPU thread each, unless the settings say more, so the result does not depend
on the number of workers. On an accelerator the work is done in this process. Every step skips what is finished, so a
sweep that was killed continues where it stopped.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import torch

from memgen.base.errors import RunError
from memgen.experiment.runs import Run
from memgen.experiment.tasks import Event, OnEvent, Task, perform, threads
from memgen.experiment.workspace import Workspace


def execute(workspace: Workspace, listed: list[Task], jobs: int, on_event: OnEvent) -> None:
    """Do the tasks. A comparison waits until both of its subjects are finished.

    Args:
        workspace: a run whose images have been imported and whose lock the caller holds.
        listed: the tasks, in the order in which they are begun.
        jobs: number of worker processes; 1 means that this process does the work.
        on_event: called in this process with news of the tasks.

    Raises:
        MemgenError: the first error of a task. Tasks that have begun are finished, and no further one is begun.
        RunError: a worker process died.
    """
    if jobs == 1:
        with threads(workspace.settings.compute.threads):
            for task in listed:
                perform(workspace, task, on_event)
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
            "a worker process was killed, perhaps for lack of memory. Finished work is kept. Run the same command "
            "again, with fewer workers (--jobs 1) if memory is short."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        news.cancel_join_thread()  # a killed worker may hold the lock of the queue
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
        unfinished = {name for task in pending.values() for name in task.subjects}
        for task in [task for task in waiting if unfinished.isdisjoint(task.subjects)]:
            waiting.remove(task)
            submit(task)
        finished, _ = wait(pending, return_when=FIRST_COMPLETED)
        for future in finished:
            del pending[future]
            future.result()


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
    perform(Workspace.of(Run(Path(path)), device), task, _news.put)


def _listen(news: "Queue[Event | None]", on_event: OnEvent, failures: list[Exception]) -> None:
    while (event := news.get()) is not None:
        try:
            on_event(event)
        except Exception as error:  # raised in the main thread, once the workers are done
            failures.append(error)
