"""Removing an imported subject from a run: what is of it alone goes, and what others need stays.

A table of several subjects, such as a comparison with another one or the summary of the run, goes too. It can be made
again of the subjects that stay, and until then nothing of the run is about a subject that it does not have.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from memgen.base import schemas
from memgen.base.errors import RunError
from memgen.experiment import runs, subjects

_NAMED = ("subject_skipped", "subject_samples")  # kinds of tables without a column `subject`
_BESIDE = ("method_samples", "restored")  # kinds of tables of images that lie in samples/ under a longer name


def belongings(run: runs.Run, name: str) -> list[Path]:
    """The files and folders that `remove` deletes, in this order; the table that says that the subject exists is last.

    Raises:
        RunError: there is no subject of that name, or it is a model of the sweep.
    """
    every = {record.identity.subject: record for record in subjects.records(run)}
    if name not in every:
        known = ", ".join(each for each, record in every.items() if record.identity.role != "cell") or "none"
        raise RunError(f"{run.path} has no subject {name!r}; its imported subjects are: {known}.")
    if every[name].identity.role == "cell":
        raise RunError(
            f"{name} is a model of the sweep, which the run cannot do without. Only imported subjects can be removed; "
            "memgen runs remove deletes a whole run."
        )
    kinds = [kind for kind in schemas.KINDS if kind != "subjects"]
    listed = [(kind, table) for kind in kinds for table in run.table_names(kind)]
    about = [each for each in listed if _is_about(run, *each, name, every)]
    # What another subject drew by another method may have been imported under the name that it has as a file.
    kept = {run.samples_path(table) for kind, table in listed if kind in _BESIDE and (kind, table) not in about}
    folders = [run.samples_path(name).parent, run.bases_path(name).parent, run.denoiser_path(name).parent]
    folders += [run.readings(name).parent, run.progress]
    entries = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    found = [run.table_path(*each) for each in about]
    found += [path for path in entries if name in _owners(path.name, every) and path not in kept]
    sets = {each: {every[each].train_set, every[each].held_out_set} for each in every}
    others: set[str | None] = set().union({None}, *(sets[each] for each in every if each != name))
    for digest in sorted(each for each in sets[name] if each is not None and each not in others):
        found += [*sorted(run.index_path(digest).parent.glob(f"train-{digest}-*")), run.image_set(digest)]
    return [*found, run.table_path("subjects", name)]


def remove(run: runs.Run, name: str) -> list[Path]:
    """Delete an imported subject, and all that was measured of it; returns what was deleted.

    Cut short, it leaves the subject in the run, and does the rest when it is called again.

    Raises:
        RunError: as for `belongings`, or another process works on the run.
    """
    with run.working():
        found = belongings(run, name)
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return found


def _is_about(run: runs.Run, kind: str, table: str, name: str, every: Iterable[str]) -> bool:
    if "+" in table or kind in _NAMED:  # a pair of subjects, or a table without a column of them
        return name in (_owners(table, every) if "+" in table else (table,))
    if "subject" not in schemas.KINDS[kind].names:
        return False
    named = run.table(kind, table)["subject"].unique().to_pylist()
    return name in (named or _owners(table, every))


def _owners(stem: str, every: Iterable[str]) -> list[str]:
    """The subjects that the name of a file or table begins with, or each half of the name of a pair."""
    halves = [[each for each in every if half == each or half.startswith(f"{each}.")] for half in stem.split("+")]
    return [max(found, key=len) for found in halves if found]
