"""Tasks on a Ray cluster, or on a Ray that is started on this machine.

Ray does a task again, up to three times, if the process that did it was killed or its machine has left. This is
harmless, since tasks skip what is done and their files appear whole. What `work` reports does not arrive; that a task
was handed over and that it is finished does. No array enters Ray's object store.
"""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from memgen.base import optional
from memgen.base.errors import ConfigError, RunError, first_line
from memgen.experiment.executors import Executor, News, OnEvent, Resources, T, Work, feed

WINDOW = 4  # tasks that Ray holds at a time, for each CPU of the cluster
RETRIES = 3  # of a task whose process or machine was lost
CURRENT = Path("/tmp/ray/ray_current_cluster")  # where Ray writes the address of its latest cluster
_ANSWER_S = 10.0  # time for a cluster to take a connection
_STOPPING_S = 10.0  # time for tasks to end after an interruption


def answering(address: str | None) -> str | None:
    """The address to give to Ray, once it is known that a cluster there takes connections.

    Ray itself would try for a quarter of an hour. A cluster that was killed leaves its address behind on the machine.
    Where no cluster was asked for, it counts as none, and a Ray of one's own is started.

    Args:
        address: of the cluster, as given; None or auto for the one that Ray's own rule names.

    Raises:
        ConfigError: a cluster was asked for, and nothing answers at its HOST:PORT.
    """
    remedy = "Check the address, and the cluster with: ray status."
    given = os.environ.get("RAY_ADDRESS") or address if address in (None, "auto") else address
    found = given
    if given in (None, "auto") and CURRENT.is_file():
        found = CURRENT.read_text().strip()
        remedy = f"{CURRENT} names it: end what is left of that cluster with ray stop, or start it again."
    host, _, port = (found or "").rpartition(":")
    if "/" in host or not port.isdecimal():  # a client's address, or none
        return address
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
    except OSError as error:
        if given is None:
            return "local"
        raise ConfigError(
            f"--executor ray: no cluster of Ray answers at {found} ({first_line(error)}). {remedy} See "
            f"docs/executors.md."
        ) from error
    return address


class Ray(Executor):
    """A Ray cluster.

    Args:
        resources: what each task needs. On a GPU, each task has one of its own.
        jobs: most tasks that Ray holds at a time; None for 4 for each CPU of the cluster.
        address: of the cluster (auto, HOST:PORT or ray://HOST:PORT). None follows Ray's own rule: the address in
            RAY_ADDRESS, or else a cluster that runs on this machine, or else one that is started for this executor. If
            Ray is already initialized in this process, it is used as it is, and left so.

    Raises:
        ConfigError: the package is not installed, or the cluster cannot be reached.
    """

    def __init__(self, resources: Resources, jobs: int | None, address: str | None) -> None:
        self._ray = optional.package("ray", "ray", "the executor ray")
        self._resources, self._jobs = resources, jobs
        self._started = not self._ray.is_initialized()
        if self._started:
            joined = answering(address)
            try:
                self._ray.init(address=joined, log_to_driver=False, logging_level="warning")
            except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
                given = "" if address is None else f" --address {address}"
                raise ConfigError(
                    f"--executor ray{given}: Ray cannot be reached ({first_line(error)}). Check the cluster with: ray "
                    f"status. See docs/executors.md."
                ) from error

    def map(self, work: Work[T], tasks: Sequence[T], on_event: OnEvent[T]) -> None:
        """Do all tasks; see `Executor.map`."""
        ray, needed = self._ray, self._resources
        remote = ray.remote(
            num_cpus=needed.threads,
            num_gpus=int(needed.device.startswith("cuda")),
            memory=needed.memory_bytes,
            max_retries=RETRIES,
            scheduling_strategy="SPREAD",
        )(_do)
        under_way: set[Any] = set()

        def begin(task: T) -> Any:
            reference = remote.remote(work, task, needed.threads)
            under_way.add(reference)
            on_event(News(task, "begun"))
            return reference

        def ended(references: list[Any]) -> list[Any]:
            return list(ray.wait(references, num_returns=1)[0])

        def end(reference: Any, task: T) -> None:
            under_way.remove(reference)
            self._settle(reference)
            on_event(News(task, "finished"))

        try:
            feed(tasks, self._width, begin, ended, end)
        finally:
            self._stop(list(under_way))  # those that an interruption or an error of on_event has left

    def close(self) -> None:
        """End the Ray that this executor started, or leave the cluster that it joined."""
        if self._started:
            self._ray.shutdown()

    def _width(self) -> int:
        # Asked anew each time, since a cluster grows and shrinks.
        return self._jobs or WINDOW * max(1, int(self._ray.cluster_resources().get("CPU", 0)))

    def _settle(self, reference: Any) -> None:
        """Raise what a task that has ended raised, as it raised it."""
        errors = self._ray.exceptions
        try:
            self._ray.get(reference)
        except errors.RayTaskError as error:
            raise (error.cause or error) from None
        except errors.RayError as error:
            raise RunError(
                f"Ray lost the process or the machine of a task {RETRIES + 1} times ({first_line(error)}). Finished "
                f"work is kept. Run the same command again, with fewer tasks at a time (--jobs) if memory is short."
            ) from error

    def _stop(self, references: list[Any]) -> None:
        """End tasks, which must not write on when this process no longer holds the lock of the run."""
        for reference in references:
            self._ray.cancel(reference, force=True)
        if references:
            self._ray.wait(references, num_returns=len(references), timeout=_STOPPING_S)


def _do(work: Work[T], task: T, threads: int) -> None:
    torch.set_num_threads(threads)  # of a process of Ray, which does nothing else
    work(task, lambda said: None)
