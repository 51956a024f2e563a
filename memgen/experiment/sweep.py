"""Doing the tasks of a sweep with an executor: first those of all subjects, then the comparisons of pairs.

Every step skips what is finished, so a sweep that was killed continues where it stopped, with any executor.
"""

import functools
from collections.abc import Sequence

from memgen.experiment.executors import Executor, News, Resources
from memgen.experiment.tasks import Event, OnEvent, Task, Verb, perform
from memgen.experiment.workspace import Workspace


def execute(workspace: Workspace, listed: Sequence[Task], executor: Executor, on_event: OnEvent) -> None:
    """Do the tasks. Comparisons wait until all subjects are finished.

    Args:
        workspace: a run whose images have been imported and whose lock the caller holds.
        listed: the tasks, in the order in which they are begun.
        executor: what does them; see `resources`.
        on_event: called in this process with news of the tasks.

    Raises:
        MemgenError: the first error of a task. Tasks that have begun are finished, and no further one is begun.
        RunError: a process or a machine that did a task was lost.
    """
    told: set[tuple[str, Verb]] = set()

    def tell(event: Event) -> None:
        if event.done == event.total == 1:
            told.add((event.task, event.verb))
        on_event(event)

    def hear(news: News[Task]) -> None:
        if news.said is not None:
            tell(news.said)
        elif news.state == "finished":
            for verb in news.task.verbs:
                if (news.task.name, verb) not in told:  # an executor on a cluster tells no step
                    tell(Event(news.task.name, verb, 1, 1))

    pairs = [task for task in listed if task.verbs == ("compare",)]
    for part in ([task for task in listed if task not in pairs], pairs):
        executor.map(functools.partial(perform, workspace), part, hear)


def resources(workspace: Workspace) -> Resources:
    """What each task of a sweep of this run needs."""
    return Resources(workspace.settings.compute.threads, workspace.device)
