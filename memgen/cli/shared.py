"""What commands share: how a run is opened, how work is done with bars, and how a result is printed.

The heavy imports stand inside the functions, so that `memgen --help` is instant.
"""

import functools
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memgen.base import files
from memgen.base.errors import ConfigError, DataError, RunError, first_line
from memgen.experiment import runs

if TYPE_CHECKING:
    from memgen.experiment import executors
    from memgen.experiment.settings import RunSettings
    from memgen.experiment.tasks import Task, Verb
    from memgen.experiment.workspace import Workspace
    from memgen.images.imageset import ImageSet


# ------------------------------------------------------------------------------------------------- opening a run


@dataclass(frozen=True)
class Workers:
    """What was given to a command about who does its work.

    Attributes:
        jobs: most tasks at a time; None for the executor's own bound.
        executor: its name.
        address: of its cluster.
    """

    jobs: int | None = None
    executor: str = "local"
    address: str | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether the work may be done on other machines."""
        return self.executor != "local"


@dataclass(frozen=True)
class New:
    """What was given to a command that may start a run."""

    outputs: Path
    run: str | None
    config: Path | None
    overrides: list[str] | None
    seed: int | None
    device: str
    given: Mapping[str, Any] = field(default_factory=dict)  # settings that options of the command name, by dotted key
    workers: "Workers | None" = None
    base: Mapping[str, Any] | None = None  # settings in the place of the defaults, by nested keys

    def settings(self) -> "RunSettings":
        """The settings asked for: without a config, those of the run that is named, where nothing else is stated."""
        from memgen.experiment.settings import RunSettings

        seed = {} if self.seed is None else {"seed": self.seed}
        there = runs.there(self.outputs, self.run) if self.run else None
        return RunSettings.asked(self.config, self.overrides or (), {**self.given, **seed}, there, self.base)

    @property
    def plain(self) -> bool:
        """Whether no setting was given."""
        return self.config is None and not self.overrides and not self.given and self.seed is None

    def there(self, settings: "RunSettings", device: str) -> "Workspace | None":
        """The run asked for, as it is, if there is one."""
        from memgen.experiment.workspace import Workspace

        run = runs.there(self.outputs, self._name(settings))
        return None if run is None else Workspace.of(run, device)

    def open(self) -> "Workspace":
        """The run asked for, with the sizes and seeds of its sweep extended, or a new run."""
        from memgen.base import config
        from memgen.experiment.workspace import Workspace

        settings = self.settings()
        elsewhere = self.workers is not None and self.workers.elsewhere
        device = choose_device_elsewhere(self.device) if elsewhere else choose_device(self.device)
        workspace = self.there(settings, device)
        if workspace is None:
            name = self._name(settings)
            about = config.header(self.config) if self.config else ""
            run = runs.create(self.outputs, name, settings.model_dump(mode="json"), device, about)
            note(f"new run {run.path}")
            if self.run and self.config is None and not settings.data.stated:
                note(
                    f"There was no run {name}, so it is about the images that come with memgen. For your own: memgen "
                    f"data import FOLDER --run NAME."
                )
            return Workspace(run, settings, device)
        note(f"run {workspace.run.path}")
        asked, found = settings.sample.n_samples, grown(workspace, workspace.extended(settings))
        if (kept := found.settings.sample.n_samples) > asked:
            note(f"The run keeps {kept:,} samples of each model; sample.n_samples = {asked:,} removes none.")
        return found

    def _name(self, settings: "RunSettings") -> str:
        """The name given, or else `default` for the default settings, or that of the config and a hash of settings."""
        from memgen.experiment.settings import RunSettings

        if self.run or settings == RunSettings():
            return self.run or "default"
        return f"{self.config.stem if self.config else 'run'}-{files.digest_json(settings.model_dump(mode='json'))[:6]}"


def grown(before: "Workspace", after: "Workspace") -> "Workspace":
    """The second of two states of a run, after a word on what was removed if the number of samples has changed."""
    old, new = (workspace.settings.sample.n_samples for workspace in (before, after))
    if new != old:
        note(
            f"The run now has {new:,} samples of each model instead of {old:,}. What was measured of {old:,} is "
            f"removed. To measure again: memgen sweep --run {after.run.name}, and memgen verdict for imported models."
        )
    return after


def existing(outputs: Path, name: str | None, device: str = "cpu") -> "Workspace":
    """The workspace of an existing run."""
    from memgen.experiment.workspace import Workspace

    workspace = Workspace.of(runs.find(outputs, name), choose_device(device))
    note(f"run {workspace.run.path}")
    return workspace


def choose_device(asked: str) -> str:
    """The device asked for; auto is cuda where there is one.

    Raises:
        ConfigError: the device is not there.
    """
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.empty(1, device=asked).device.type not in ("cpu", "cuda"):
            raise RuntimeError("memgen computes on cpu and cuda only.")
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {asked}: {first_line(error)}. Use --device cpu or --device auto.") from error
    return asked


def choose_device_elsewhere(asked: str) -> str:
    """The device asked for, of machines that this process does not see; auto is what there is here.

    Raises:
        ConfigError: it is neither cpu nor cuda.
    """
    if asked not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"--device {asked}: expected cpu or cuda, since the cluster gives each task a GPU of its own."
        )
    return choose_device(asked) if asked == "auto" else asked


def own_images(workspace: "Workspace", source: Path, value_range: str | None) -> tuple["ImageSet", dict[str, Any]]:
    """A person's own images, and what could not be read of them, which is printed."""
    from memgen.cli import terminal
    from memgen.experiment import subjects

    with terminal.bar("reading images") as progress:
        found = subjects.prepared(workspace, source, progress, value_range)
    terminal.say_skipped(found.skipped)
    say_warnings(found.warnings)
    return found.images, {"skipped_files": found.skipped.to_pylist(), "warnings": list(found.warnings)}


def options_of(workers: Workers, device: str) -> dict[str, Any]:
    """What was given to a command and is no setting of a run, by the names of the options; defaults are left out.

    Args:
        workers: who does the work.
        device: as it was asked for.
    """
    memory = float(os.environ.get(files.MEMORY, files.DEFAULT_MEMORY))
    given = {"memory": memory, "device": device, **asdict(workers)}
    defaults = {"memory": files.DEFAULT_MEMORY, "device": "auto", **asdict(Workers())}
    return {name: value for name, value in given.items() if value != defaults[name]}


@contextmanager
def searching(run: runs.Run, workers: Workers) -> Iterator["executors.Executor | None"]:
    """What searches for copies and near-duplicates: None for this process, with all of its threads."""
    import torch

    from memgen.experiment import executors

    if not workers.elsewhere and workers.address is None and (workers.jobs or 1) == 1:
        yield None
        return
    threads = 1 if workers.elsewhere else max(1, torch.get_num_threads() // (workers.jobs or 1))
    resources = executors.Resources(threads)
    with executors.find(workers.executor, resources, workers.jobs, workers.address, run.jobs) as executor:
        yield executor


@contextmanager
def prepared(
    workspace: "Workspace",
    executor: "executors.Executor | None" = None,
    options: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Hold the run's lock, with its images imported; a run that never had usable images is removed again.

    Args:
        workspace: of the run.
        executor: what looks for near-duplicates among images that are yet to be imported; None: this process.
        options: what the run keeps of the command; see `Run.working`.
    """
    from memgen.experiment.workspace import has_data

    try:
        with workspace.run.working(options):
            yield _import(workspace, executor)
    except DataError:
        if not has_data(workspace.run) and workspace.run.manifest["data"] is None:
            runs.remove(workspace.run)
        raise


def _import(workspace: "Workspace", executor: "executors.Executor | None") -> dict[str, Any]:
    """Import the run's images unless they are there."""
    from memgen.cli import terminal
    from memgen.experiment import make
    from memgen.experiment.workspace import has_data

    if has_data(workspace.run):
        return make.import_data(workspace)
    with terminal.stages() as show:
        read, compared = (functools.partial(show, what) for what in ("importing images", "finding near-duplicates"))
        counts = make.import_data(workspace, read, compared, executor)
    note(
        f"{counts['images']:,} images of {'x'.join(map(str, counts['image_shape']))} from {counts['source']}: "
        f"{counts['a']:,} in part a, {counts['b']:,} in part b, {counts['holdout']:,} held out. "
        f"Skipped files: {counts['skipped']:,}. Near-duplicates removed: {counts['near_duplicates_removed']:,}."
    )
    terminal.say_skipped(workspace.run.table("skipped"))
    say_warnings(counts["warnings"])
    return counts


def import_options(
    label: int | None = None,
    condition: Path | None = None,
    guidance: float | None = None,
    scheduler: Path | None = None,
    trust_code: bool = False,
    first_layer_linear: bool | None = None,
) -> dict[str, Any]:
    """Values of `memgen.models.foreign.ImportOptions` that options of a command state."""
    stated = {
        "label": label,
        "condition": condition and str(condition.resolve()),
        "guidance": guidance,
        "scheduler": scheduler and str(scheduler.resolve()),
        "trust_code": trust_code or None,
        "first_layer_linear": first_layer_linear,
    }
    return {name: value for name, value in stated.items() if value is not None}


# ------------------------------------------------------------------------------------------------- doing work


def execute(
    workspace: "Workspace", listed: "list[Task]", given: Workers, options: Mapping[str, Any] | None = None
) -> None:
    """Do tasks with bars, holding the lock. No worker process is started for tasks of which every step is done.

    Args:
        workspace: of the run.
        listed: the tasks.
        given: who does them.
        options: what the run keeps of the command; see `Run.working`.
    """
    from memgen.cli import terminal
    from memgen.experiment import executors, present, sweep
    from memgen.experiment.tasks import is_done

    metric, searched = workspace.settings.search.metric, dict[int, runs.Cell]()
    made = set(workspace.run.cells())

    def told(task: "Task", verb: "Verb") -> str:
        if verb == "compare":
            medians = present.pair_medians(workspace, task.subjects)
            return f"median {metric}: " + ", ".join(f"{name} {value:.3f}" for name, value in medians.items())
        if verb != "search" or task.cell is None or task.cell.part != "a":
            return ""
        median = present.nearest_median(workspace, task.name)
        found = f"median {metric} of samples with their nearest training images {median:.3f}"
        if task.cell in made or task.cell.n_train in searched:
            return found
        searched[task.cell.n_train] = task.cell
        return f"{found}; pictures: {present.draw_first(workspace, list(searched.values()))}"

    left = [task for task in listed if not all(is_done(workspace, task, verb) for verb in task.verbs)]
    jobs = given.jobs if given.elsewhere else worker_count(given.jobs, workspace.device, len(left))
    found = executors.find(given.executor, sweep.resources(workspace), jobs, given.address, workspace.run.jobs)
    with found as executor, prepared(workspace, executor, options):
        _announce(workspace, [task for task in listed if task.cell not in made], None if given.elsewhere else jobs)
        with terminal.bars(listed, told) as on_event:
            sweep.execute(workspace, listed, executor, on_event)


def _announce(workspace: "Workspace", listed: "list[Task]", workers: int | None) -> None:
    """Say how many networks are to be trained, and how long it may take, unless the workers are elsewhere (None)."""
    from memgen.experiment.cost import estimate

    settings, count = workspace.settings, sum("train" in task.verbs for task in listed)
    if not count:
        return
    networks = f"{count} {'networks' if count > 1 else 'network'} to train"
    if workers is None:
        note(f"{networks}.")
        return
    cost = estimate(settings, workspace.images, workspace.device, workers)
    several = f" in {workers} processes" if workers > 1 else ""
    note(
        f"{networks}{several}. With all that is measured, this takes "
        f"about {in_minutes(cost.seconds * count / len(settings.cells))} on this machine."
    )


def in_minutes(seconds: float) -> str:
    """A time as people read it: minutes, or hours from two hours on."""
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def tasks_of(workspace: "Workspace", names: Sequence[str], verbs: "Sequence[Verb]") -> "list[Task]":
    """The steps to take on subjects of the run, whether cells or imported."""
    from memgen.experiment import subjects, tasks

    found = [subjects.find(workspace, name).record for name in names]
    cells = [subjects.cell_of(record) for record in found if record.identity.role == "cell"]
    imported = [record for record in found if record.identity.role != "cell"]
    return tasks.tasks(cells, verbs) + tasks.imported_tasks(imported, verbs)


def worker_count(asked: int | None, device: str, count: int) -> int:
    """Worker processes for so many tasks: as asked, or one for each CPU core, or one on an accelerator."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(asked or (cores if device == "cpu" else 1), max(1, count))


# ------------------------------------------------------------------------------------------------- choosing subjects


def check_part(part: str | None) -> None:
    """Check that a part is one of the halves of the images.

    Raises:
        ConfigError: it is not.
    """
    if part not in (None, "a", "b"):
        raise ConfigError(f"--part {part}: expected a or b.")


def choose_cells(workspace: "Workspace", sizes: list[int] | None, part: str | None, trained: bool) -> list[runs.Cell]:
    """The cells asked for, among those that are trained or all of the settings; by default those of the largest N."""
    check_part(part)
    known = workspace.run.cells() if trained else workspace.settings.cells
    if not known:
        raise RunError(
            f"{workspace.run.path} has no trained models. Train some with: memgen train --run {workspace.run.name}"
        )
    wanted = set(sizes) if sizes else {max(cell.n_train for cell in known)}
    chosen = [cell for cell in known if cell.n_train in wanted and part in (None, cell.part)]
    missing = sorted(wanted - {cell.n_train for cell in chosen})
    if missing:
        asked, of_part = ", ".join(map(str, missing)), "" if part is None else f" of part {part}"
        have = ", ".join(map(str, sorted({cell.n_train for cell in known if part in (None, cell.part)}))) or "none"
        train = " ".join(("memgen train --run", workspace.run.name, *(f"--n {n}" for n in missing)))
        raise RunError(
            f"{workspace.run.path} has no N = {asked}{of_part}; it has N = {have}. Train what is missing with: {train}"
        )
    note(f"N = {', '.join(map(str, sorted(wanted)))}")
    return chosen


def choose_subjects(
    workspace: "Workspace", sizes: list[int] | None, part: str | None, subject: str | None
) -> list[str]:
    """Names of the subjects asked for: one by its name, or the trained cells of some sizes."""
    from memgen.experiment import subjects

    if subject is None:
        return [cell.name for cell in choose_cells(workspace, sizes, part, trained=True)]
    if sizes or part:
        raise ConfigError("--subject names one subject. Leave out --n and --part, or leave out --subject.")
    return [subjects.find(workspace, subject).name]


def largest_size(workspace: "Workspace") -> int:
    """The largest N that was trained, or else the largest in the settings; printed."""
    trained = [cell.n_train for cell in workspace.run.cells()]
    found = max(trained or workspace.settings.sweep.n_train)
    note(f"N = {found}")
    return found


# ------------------------------------------------------------------------------------------------- printing


def flat_rows(values: dict[str, Any], prefix: str = "") -> list[list[str]]:
    """The leaves of a JSON value, each with its dotted key."""
    rows: list[list[str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        rows += flat_rows(value, f"{name}.") if isinstance(value, dict) else [[name, json.dumps(value)]]
    return rows


def note(text: str) -> None:
    """Print a line on standard error."""
    print(text, file=sys.stderr)


def say_warnings(warnings: Sequence[str]) -> None:
    """Print what the person should know of images, on standard error."""
    for warning in warnings:
        note(f"warning: {warning}")


def finish(as_json: bool, path: Path, **result: Any) -> None:
    """Print the last line on standard output: the path written, or the whole result as JSON."""
    print(json.dumps({"path": str(path), **result}, indent=2, default=str) if as_json else path)
