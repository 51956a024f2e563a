"""Tasks in this process, or in a pool of worker processes beside it.

Workers are spawned, so that they inherit nothing but the settings, and end with this process. What `work` reports
arrives while it works.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch

from memgen.base.errors import RunError
from memgen.experiment.executors import Executor, News, OnEvent, Resources, T, Work, do, feed, threads


class Local(Executor):
    """This process, or a pool of worker processes that lasts until the executor is closed.

    Args:
        resources: what each task needs.
        jobs: most tasks at a time; 1 means that this process does them.
    """

    def __init__(self, resources: Resources, jobs: int) -> None:
        self._threads, self._jobs = resources.threads, jobs
        self._workers: _Workers | None = None

    def map(self, work: Work[T], tasks: Sequence[T], on_event: OnEvent[T]) -> None:
        """Do all tasks; see `Executor.map`."""
        jobs = min(self._jobs, len(tasks))
        if jobs > 1:
            self._spread(work, tasks, jobs, on_event)
            return
        with threads(self._threads):
            for task in tasks:
                do(work, task, on_event)

    def close(self) -> None:
        """End the worker processes."""
        if self._workers is not None:
            self._workers.pool.shutdown(wait=True, cancel_futures=True)
            self._workers = None

    def _spread(self, work: Work[T], tasks: Sequence[T], jobs: int, on_event: OnEvent[T]) -> None:
        if self._workers is None or self._workers.count < jobs:
            self.close()
            self._workers = _Workers(jobs, self._threads)
        pool, news = self._workers.pool, self._workers.news
        failures: list[Exception] = []
        listener = threading.Thread(target=_listen, args=(news, on_event, failures), daemon=True)
        listener.start()

        def begin(task: T) -> Future[None]:
            return pool.submit(_do, work, task)

        def ended(futures: list[Future[None]]) -> list[Future[None]]:
            return list(wait(futures, return_when=FIRST_COMPLETED).done)

        heard = True  # all that workers said is in the queue: they say it before their task ends
        try:
            feed(tasks, lambda: jobs, begin, ended, lambda future, task: future.result())
        except KeyboardInterrupt:
            heard = False
            self._workers.ours.close()
            raise
        except BrokenProcessPool as error:
            heard = False  # a killed worker may hold the lock of the queue
            raise RunError(
                "a worker process was killed, perhaps for lack of memory. Finished work is kept. Run the same command "
                "again, with fewer workers (--jobs 1) if memory is short."
            ) from error
        finally:
            if heard:
                news.put(None)
                listener.join()
            else:
                self.close()
        if failures:
            raise failures[0]


class _Workers:
    """A pool of worker processes, with the queue of their news and the pipe that they live by."""

    def __init__(self, count: int, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.count = count
        self.news: SimpleQueue[News[Any] | None] = context.SimpleQueue()
        life, self.ours = context.Pipe(duplex=False)
        self.pool = ProcessPoolExecutor(count, context, _start_worker, (self.news, life, threads))
        with _without_interruption():  # Ctrl-C is for this process alone, which then ends its workers
            for _ in range(count):
                self.pool.submit(int)  # starts a worker


_news: "SimpleQueue[News[Any] | None] | None" = None  # of a worker process: where it reports to


def _start_worker(news: "SimpleQueue[News[Any] | None]", life: Connection, count: int) -> None:
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


def _do(work: Work[T], task: T) -> None:
    assert _news is not None
    do(work, task, _news.put)


def _listen(news: "SimpleQueue[News[T] | None]", on_event: OnEvent[T], failures: list[Exception]) -> None:
    while (event := news.get()) is not None:
        try:
            on_event(event)
        except Exception as error:  # raised in the main thread, once the workers are done
            failures.append(error)
