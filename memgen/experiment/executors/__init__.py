"""Executors: they do tasks in this process, in processes beside it, on a Ray cluster, or as jobs of SLURM.

    with executors.find("ray", Resources(threads=1), address="auto") as executor:
        executor.map(work, tasks, on_event)

`work(task, report)` is a function at the top level of a module, or a `functools.partial` of one. A task is a small
object that can be pickled. It holds paths and numbers, never pixels: `work` reads its inputs from files, and writes its
results to files that appear whole or not at all (`files.writing`). Nothing but news travels back. `work` skips what is
already there, so a map that was cut short is resumed by mapping again, and a task that is done twice does no harm. All
executors therefore leave the same files, whatever is killed on the way. Other machines must see the files under the
same absolute paths.

Tasks of one map do not wait for each other. Work that needs what other tasks write is a second map.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar

import torch

from memgen.base.errors import ConfigError

NAMES = ("local", "ray", "slurm")

T = TypeVar("T")
Handle = TypeVar("Handle")
Report = Callable[[Any], None]  # takes whatever can be pickled
Work = Callable[[T, Report], None]


@dataclass(frozen=True)
class Resources:
    """What each task needs.

    Attributes:
        threads: CPU threads of PyTorch, on which the last bits of a result depend.
        device: where networks run, cpu or cuda.
        memory_bytes: memory to reserve for a task; None reserves none. The executor local reserves none.
    """

    threads: int = 1
    device: str = "cpu"
    memory_bytes: int | None = None


@dataclass(frozen=True)
class News(Generic[T]):
    """News of a task.

    Attributes:
        task: the task.
        state: begun, under way or finished. A cluster has been handed a task that is said to have begun.
        said: what `work` reported, if the task is under way.
    """

    task: T
    state: Literal["begun", "under way", "finished"]
    said: Any = None


OnEvent = Callable[[News[T]], None]


class Executor(ABC):
    """Something that does tasks; leaving its context gives back what it holds."""

    @abstractmethod
    def map(self, work: Work[T], tasks: Sequence[T], on_event: OnEvent[T]) -> None:
        """Do all tasks, and return when they are finished.

        Args:
            work: called with each task and with a function that reports on it.
            tasks: in the order in which they are begun.
            on_event: called in this process with news of the tasks, never twice at the same time. Whether what `work`
                reports arrives depends on the executor; that a task has begun and that it is finished always does.

        Raises:
            MemgenError: the first error that `work` raised. Tasks that have begun are finished first, and no further
                one is begun.
            RunError: a process or a machine that did a task was lost.
        """

    def close(self) -> None:  # noqa: B027 (most executors hold nothing)
        """Give back what is held, such as the connection to a cluster."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def find(
    name: str,
    resources: Resources | None = None,
    jobs: int | None = None,
    address: str | None = None,
    folder: Path | None = None,
) -> Executor:
    """An executor by its name.

    Args:
        name: local, ray or slurm.
        resources: what each task needs; by default one thread of a CPU.
        jobs: most tasks at a time. None means that local works in this process, and that clusters have their own bound.
        address: of the Ray cluster, as `ray.init` takes it; or slurm, local or debug, where submitit runs its jobs.
        folder: where slurm keeps submissions and logs, which its jobs must see. They are removed after a success.

    Raises:
        ConfigError: there is no executor of that name, its package is not installed, or it cannot be reached.
    """
    resources = resources or Resources()
    if name == "local":
        from memgen.experiment.executors.local import Local

        if address is not None:
            raise ConfigError(f"--address {address}: found the executor local. Choose another with --executor.")
        return Local(resources, jobs or 1)
    if name == "ray":
        from memgen.experiment.executors.on_ray import Ray

        return Ray(resources, jobs, address)
    if name == "slurm":
        from memgen.experiment.executors.slurm import Slurm

        if folder is None:
            raise ConfigError("the executor slurm needs a folder for its submissions and logs.")
        return Slurm(resources, jobs, address, folder)
    raise ConfigError(f"--executor {name}: expected {', '.join(NAMES[:-1])} or {NAMES[-1]}.")


def do(work: Work[T], task: T, tell: OnEvent[T]) -> None:
    """Do a task in this process, and tell its news."""
    tell(News(task, "begun"))
    work(task, lambda said: tell(News(task, "under way", said)))
    tell(News(task, "finished"))


def feed(
    tasks: Sequence[T],
    width: Callable[[], int],
    begin: Callable[[T], Handle],
    wait: Callable[[list[Handle]], Sequence[Handle]],
    end: Callable[[Handle, T], None],
) -> None:
    """Begin tasks, never more than `width` at a time, until all have ended.

    After the first error that `end` raises, no further task is begun. Those under way are waited for, and the error is
    raised.

    Args:
        tasks: in their order.
        width: most tasks at a time, now.
        begin: hands out a task.
        wait: waits until some of the handles have ended, and returns those.
        end: called for each task that has ended.
    """
    waiting, under_way = iter(tasks), dict[Handle, T]()
    failure: Exception | None = None
    while True:
        most = width()
        while failure is None and len(under_way) < most:
            for task in waiting:
                under_way[begin(task)] = task
                break
            else:
                break
        if not under_way:
            break
        for handle in wait(list(under_way)):
            try:
                end(handle, under_way.pop(handle))
            except Exception as error:
                failure = failure or error
    if failure is not None:
        raise failure


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Work with this number of CPU threads, on which the last bits of a result depend."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
