"""The whole experiment in one call: what the command `memgen sweep` does, without a terminal; and finished runs."""

from collections.abc import Sequence
from pathlib import Path

from memgen.base import config as configuration
from memgen.experiment import audit, executors, make, present, runs, tasks
from memgen.experiment import sweep as sweeping
from memgen.experiment.audit import Audit
from memgen.experiment.present import Findings
from memgen.experiment.settings import RunSettings
from memgen.experiment.tasks import OnEvent
from memgen.experiment.workspace import Workspace


def sweep(
    config: str | Path | None = None,
    outputs: str | Path = runs.OUTPUTS,
    name: str = "sweep",
    overrides: Sequence[str] = (),
    device: str = "cpu",
    jobs: int = 1,
    on_event: OnEvent | None = None,
) -> Findings:
    """What the models of a sweep do as a function of N; the run is made, or continued if it is there.

    Args:
        config: TOML file of settings; None for those of the run if it is there, or else for the defaults.
        outputs: folder that holds the runs.
        name: of the run.
        overrides: settings such as "train.images_seen=4096".
        device: where networks run, cpu or cuda.
        jobs: worker processes; with more than one, call this under `if __name__ == "__main__":`.
        on_event: called with news of the work.

    Returns:
        The verdict, its numbers, and what the test for copies found. Tables, figures and the page stand in the run.

    Raises:
        ConfigError: a setting is unknown or out of its range, or the run was made with others.
        DataError: the images cannot be used.
    """
    path = None if config is None else Path(config)
    there = runs.there(Path(outputs), name)
    settings = RunSettings.asked(path, overrides, {}, there)
    if there is not None:
        workspace = Workspace.of(there, device).extended(settings)
    else:
        about = configuration.header(path) if path else ""
        run = runs.create(Path(outputs), name, settings.model_dump(mode="json"), device, about)
        workspace = Workspace(run, settings, device)
    with workspace.run.working():
        make.import_data(workspace)
        listed = tasks.tasks(workspace.settings.cells)
        with executors.find("local", sweeping.resources(workspace), jobs) as executor:
            sweeping.execute(workspace, listed, executor, on_event or (lambda event: None))
        present.write_report(workspace)
        return present.find(workspace)


def read_run(path: str | Path) -> Findings | Audit:
    """What a run says: of a sweep the findings of all that it has measured so far, of an audit its answer.

    Args:
        path: the run directory, such as "outputs/demo".

    Raises:
        RunError: there is no run, or it is an audit that is not finished.
    """
    run = runs.find(Path(path).parent, Path(path).name, None)
    return audit.read(run) if run.kind == runs.AUDIT else present.find(Workspace.of(run, "cpu"))
