"""Tasks as jobs of SLURM, in job arrays that submitit submits.

Each task is a job of one CPU process. What `work` reports does not arrive; that a task was submitted and that it is
finished does. Partition, account, time limit and whatever else a site wants are given in the environment variables that
sbatch reads, such as SBATCH_PARTITION, which prevail over what submitit writes into its script.
"""

import functools
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from memgen.base import optional
from memgen.base.errors import ConfigError, MemgenError, RunError, first_line
from memgen.experiment.executors import Executor, News, OnEvent, Resources, T, Work

ARRAY = 1000  # most tasks of a job array; SLURM's own bound is 1001 unless a site has set another
AT_A_TIME = 256  # jobs that run at a time
MINUTES = 24 * 60  # time limit of a job, unless SBATCH_TIMELIMIT sets another
_POLL_S = 0.5
_STOPPING_S = 10.0  # time for jobs to end after an interruption
_LOG_LINES = 20  # of a job that failed


class Slurm(Executor):
    """A cluster of SLURM, seen from a machine that has sbatch.

    Args:
        resources: what each task needs. On a GPU, each task has one of its own.
        jobs: most jobs that run at a time; None for 256, or for one for each CPU core if they run on this machine.
        address: where submitit runs jobs: slurm (None), or local or debug for this machine.
        folder: of submissions and logs, which all machines see. It is emptied before each map, and removed after one
            without an error.

    Raises:
        ConfigError: the package is not installed, or there is no SLURM here.
    """

    def __init__(self, resources: Resources, jobs: int | None, address: str | None, folder: Path) -> None:
        submitit = optional.package("submitit", "slurm", "the executor slurm")
        cluster = address or "slurm"
        self._threads, self._folder = resources.threads, folder.absolute()
        here = cluster != "slurm"  # where all jobs of an array are begun at once
        self._batch = jobs or os.cpu_count() or 1 if here else ARRAY
        try:
            self._executor = submitit.AutoExecutor(folder=self._folder, cluster=cluster)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"--executor slurm: {first_line(error)}. Run the command on a machine that has sbatch and srun, or try "
                f"it on this one with --address local."
            ) from error
        self._executor.update_parameters(
            name="memgen",
            timeout_min=_minutes(os.environ.get("SBATCH_TIMELIMIT", "")),
            cpus_per_task=resources.threads,
            gpus_per_node=int(resources.device.startswith("cuda")) or None,
            mem_gb=None if resources.memory_bytes is None else resources.memory_bytes / 2**30,
            slurm_array_parallelism=jobs or AT_A_TIME,
        )

    def map(self, work: Work[T], tasks: Sequence[T], on_event: OnEvent[T]) -> None:
        """Do all tasks; see `Executor.map`."""
        shutil.rmtree(self._folder, ignore_errors=True)  # a job that an earlier map left in the queue begins no work
        self._folder.mkdir(parents=True)
        stop = self._folder / "stop"
        for first in range(0, len(tasks), self._batch):
            batch = tasks[first : first + self._batch]
            jobs = self._executor.map_array(functools.partial(_do, work, stop, self._threads), batch)
            waiting = dict(zip(jobs, batch, strict=True))
            try:
                for task in batch:
                    on_event(News(task, "begun"))
                self._wait(waiting, stop, on_event)
            finally:
                stop.touch()
                _cancel(list(waiting))  # those that an interruption or an error of on_event has left
            stop.unlink()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait(self, waiting: dict[Any, T], stop: Path, on_event: OnEvent[T]) -> None:
        """Wait for jobs, which are taken out of `waiting`, and raise the first error of one once all have ended."""
        failure: Exception | None = None
        while waiting:
            for job in [job for job in waiting if job.done()]:
                task = waiting.pop(job)
                error = _error(job)
                if error is not None:
                    stop.touch()
                    failure = failure or error
                elif failure is None:
                    on_event(News(task, "finished"))
            time.sleep(_POLL_S if waiting else 0)
        if failure is not None:
            raise failure


def _do(work: Work[T], stop: Path, threads: int, task: T) -> MemgenError | None:
    """Do a task, unless another one has failed. Its error is the result, since submitit keeps only the text of one."""
    if not stop.exists():
        torch.set_num_threads(threads)
        try:
            work(task, lambda said: None)
        except MemgenError as error:
            return error
    return None


def _cancel(jobs: list[Any]) -> None:
    """End jobs, which must not write on when this process no longer holds the lock of the run."""
    for job in jobs:
        job.cancel(check=False)
    deadline = time.monotonic() + _STOPPING_S
    while not all(job.done() for job in jobs) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _error(job: Any) -> Exception | None:
    """What a job that has ended raised, or in words how it was lost."""
    lost: Exception | None = job.exception()
    if lost is None:
        error: MemgenError | None = job.result()
        return error
    log = job.stderr() or str(lost)
    return RunError(
        f"job {job.job_id} failed. {job.paths.stderr} ends with:\n"
        + "\n".join(log.strip().splitlines()[-_LOG_LINES:])
        + "\nFinished work is kept. Run the same command again, with a longer SBATCH_TIMELIMIT or more memory "
        "(SBATCH_MEM_PER_CPU) if the job reached a limit."
    )


def _minutes(limit: str) -> int:
    """Minutes of a time limit as sbatch reads it: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    submitit must know the limit, since it submits a job again that is signaled before it, as one that was preempted.
    """
    days, dash, clock = limit.rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
        hours, minutes, *_ = [*parts, 0] if dash or len(parts) == 3 else [0, *parts]
        return (int(days or 0) * 24 + hours) * 60 + minutes
    except ValueError:
        return MINUTES
