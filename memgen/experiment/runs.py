"""The run directory. It holds every artifact of one experiment, and only this module knows their file names.

    outputs/NAME/
      run.json              configuration, versions, commit, device, times: the manifest
      images/               the ImageSet (pixels.npy, images.parquet, images.json)
      sets/NAME/            image sets of imported subjects: what they were trained on, and their held-out images
      holdout_mean.npy      the common initial mean of all sampling
      tables/KIND/NAME.parquet      one table for each subject or pair; `Run.table(KIND)` stacks them
      denoisers/NAME.safetensors    weights, with NAME.json beside them; a closed form has none and is fitted anew
      denoisers/NAME.checkpoints/   weights on the way, if train.checkpoints asks for them
      readings/NAME/        what memgen monitor measured of these
      samples/NAME.npy      images drawn, or imported
      bases/NAME.npz        eigenvectors of the Jacobians of twins, or of one imported denoiser
      indexes/NAME/         FAISS indexes
      report/               the page and its figures
      jobs/                 submissions and logs of SLURM jobs, while they run or after an error
      progress/             how far the work is, while a command works or after an error; see `journal`

A run has one configuration, made with it; only the sizes and seeds of its sweep and the number of samples can grow (see
`Workspace.extended`). A cell is one (N, training seed, part) of it. A subject, whether
a trained cell or imported, exists exactly when its table of the kind `subjects` does. An artifact is finished exactly
when its file exists, since every file appears whole or not at all. Resuming needs no other state: a finished artifact
is never made again. This module does not import PyTorch.
"""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from memgen.base import files, schemas, tables
from memgen.base.errors import MemgenError, RunError

FORMAT = 2
OUTPUTS = Path("outputs")
SWEEP, AUDIT = "sweep", "audit"  # kinds of runs: one whose models memgen trains, and one of anyone's samples


_KINDS = {SWEEP: "a sweep", AUDIT: "an audit"}
BEAT_S = 1.0  # how often a process that works on a run shows that it lives


@dataclass(frozen=True, order=True)
class Cell:
    """One training of a sweep.

    Attributes:
        n_train: size of the training set.
        train_seed: seed of the training.
        part: half of the images that the training set comes from, a or b.
    """

    n_train: int
    train_seed: int
    part: str

    @property
    def name(self) -> str:
        """The name of the cell as a subject."""
        return f"{self.pair}-{self.part}"

    @property
    def pair(self) -> str:
        """The name of the cell and its twin on the other part, taken together."""
        return f"n{self.n_train}-s{self.train_seed}"

    @property
    def twin(self) -> "Cell":
        """The cell of the same size and seed on the other part."""
        return Cell(self.n_train, self.train_seed, "b" if self.part == "a" else "a")

    @property
    def keys(self) -> dict[str, Any]:
        """The identity of the cell as a subject: the columns that every table of it has."""
        return {
            "subject": self.name,
            "role": "cell",
            "n_train": self.n_train,
            "part": self.part,
            "train_seed": self.train_seed,
        }


@dataclass(frozen=True, eq=False)
class Run:
    """One run directory."""

    path: Path

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def manifest(self) -> dict[str, Any]:
        """The content of run.json.

        Raises:
            RunError: the run was made by a memgen of another run format.
        """
        manifest: dict[str, Any] = files.read_json(self.path / "run.json")
        if manifest.get("format") != FORMAT:
            raise RunError(
                f"{self.path} has run format {manifest.get('format')}, but this memgen reads format {FORMAT}. Make the "
                f"run again under another name, or use the memgen that made it."
            )
        return manifest

    def update(self, **changes: Any) -> None:
        """Change keys of the manifest."""
        files.write_json(self.path / "run.json", self.manifest | changes | {"updated": _now()})

    @contextlib.contextmanager
    def working(self, options: Mapping[str, Any] | None = None) -> Iterator[None]:
        """Hold the run's lock while a command writes to it; add its wall time and its outcome to the manifest.

        What the work has told of its progress is removed when it ends well.

        Args:
            options: options of the command that are no settings, by their names, for the command that goes on with the
                run (`reproduce.continuing`). None keeps those of an earlier command.

        Raises:
            RunError: another process holds the lock.
        """
        started = time.monotonic()
        with _locked(self.path), _beating(self.lock):
            files.remove_leftovers(self.path)
            self.update(status="running", **({} if options is None else {"options": dict(options)}))
            status = "interrupted"
            try:
                yield
                status = "idle"
                shutil.rmtree(self.progress, ignore_errors=True)
            except Exception:
                status = "failed"
                raise
            finally:
                seconds = self.manifest["wall_seconds"] + time.monotonic() - started
                self.update(status=status, wall_seconds=seconds)

    @property
    def kind(self) -> str:
        """What the run is: a sweep or an audit."""
        return str(self.manifest.get("kind", SWEEP))

    @property
    def lock(self) -> Path:
        """The file that is locked while a command writes to the run."""
        return self.path / ".lock"

    @property
    def is_locked_here(self) -> bool:
        """Whether a process of this machine is known to hold the lock. Only Linux tells; the lock is left alone."""
        try:
            found, lines = self.lock.stat(), Path("/proc/locks").read_text().splitlines()
        except OSError:
            return False
        place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        return any(place in line.split() for line in lines)

    @property
    def last_beat(self) -> int:
        """When the process that holds the lock last showed that it lives, in ns by the clock of the file system.

        This is 0 if no process has ever held the lock.
        """
        try:
            with open(self.lock, "rb") as file:  # a network file system asks its server when a file is opened
                return os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return 0

    @property
    def progress(self) -> Path:
        """The folder of what work under way tells of its progress."""
        return self.path / "progress"

    def journal_path(self, name: str) -> Path:
        """Where a task under way tells of its progress."""
        return self.progress / f"{name}.jsonl"

    @property
    def images(self) -> Path:
        """The folder of the ImageSet."""
        return self.path / "images"

    @property
    def holdout_mean(self) -> Path:
        """The file of the mean image (C, H, W), where sampling starts."""
        return self.path / "holdout_mean.npy"

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return self.path / "report"

    @property
    def jobs(self) -> Path:
        """The folder of submissions and logs of SLURM jobs."""
        return self.path / "jobs"

    @property
    def searches(self) -> Path:
        """Folder of what the tasks of an executor have found; see `spread`. It is removed when nothing needs it."""
        return self.path / "searches"

    def image_set(self, name: str) -> Path:
        """The folder of an image set of imported subjects."""
        return self.path / "sets" / name

    def denoiser_path(self, name: str) -> Path:
        """The weights of a denoiser."""
        return self.path / "denoisers" / f"{name}.safetensors"

    def reference_path(self, name: str) -> Path:
        """Where a model lies that the run does not copy; see `references`."""
        return self.path / "denoisers" / f"{name}.source.json"

    def training_state_path(self, name: str) -> Path:
        """The state of a training under way."""
        return self.path / "denoisers" / f"{name}.training.pt"

    def checkpoint_path(self, name: str, images_seen: int) -> Path:
        """Weights of a training on the way."""
        return self.checkpoints(name) / f"{images_seen:012}.safetensors"

    def checkpoints(self, name: str) -> Path:
        """Folder of the weights of a training on the way."""
        return self.path / "denoisers" / f"{name}.checkpoints"

    def readings(self, name: str) -> Path:
        """Folder of what was measured of these weights; see `memgen.Monitor`."""
        return self.path / "readings" / name

    def samples_path(self, name: str) -> Path:
        """The file of the samples (M, C, H, W) of a subject."""
        return self.path / "samples" / f"{name}.npy"

    def trajectory_path(self, name: str) -> Path:
        """The denoised iterates kept along the way."""
        return self.path / "samples" / f"{name}.path.npz"

    def bases_path(self, name: str) -> Path:
        """The arrays behind the tables basis and basis_summary of that name."""
        return self.path / "bases" / f"{name}.npz"

    def index_path(self, name: str) -> Path:
        """The folder of an index."""
        return self.path / "indexes" / name

    def table_path(self, kind: str, name: str) -> Path:
        """The file of one table of a kind."""
        return self.path / "tables" / kind / f"{name}.parquet"

    def has_table(self, kind: str, name: str) -> bool:
        """Whether that table is finished."""
        return self.table_path(kind, name).exists()

    def write_table(self, kind: str, name: str, table: pa.Table) -> Path:
        """Write one table of a kind in schemas.KINDS; returns its path."""
        path = self.table_path(kind, name)
        tables.write(path, table, schemas.KINDS[kind])
        return path

    def table(self, kind: str, name: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """One table of a kind, or all of them stacked in the order of their names (numbers by value).

        Args:
            kind: of table.
            name: of the one table; None stacks all.
            columns: those that are read; None reads all.

        Raises:
            DataError: a table is damaged; the message names the file.
        """
        schema = schemas.KINDS[kind]
        if name is not None:
            return tables.read(self.table_path(kind, name), schema, columns)
        stacked = [tables.read(self.table_path(kind, name), schema, columns) for name in self.table_names(kind)]
        empty = schema.empty_table()
        return pa.concat_tables(stacked) if stacked else empty if columns is None else empty.select(list(columns))

    def rows(self, kind: str) -> int:
        """How many rows all tables of a kind have; they are not read.

        Raises:
            DataError: a table is damaged; the message names the file.
        """
        return sum(tables.rows(self.table_path(kind, name)) for name in self.table_names(kind))

    def table_names(self, kind: str) -> list[str]:
        """The names of the finished tables of a kind, in order (numbers by value)."""
        paths = sorted((self.path / "tables" / kind).glob("*.parquet"), key=_natural)
        return [path.stem for path in paths if not path.name.startswith(".")]

    def remove_table(self, kind: str, name: str) -> None:
        """Remove one table of a kind, if it is there."""
        self.table_path(kind, name).unlink(missing_ok=True)

    def cells(self) -> list[Cell]:
        """The cells that are trained, smallest training set first."""
        rows = self.table("subjects").to_pylist()
        return sorted(Cell(row["n_train"], row["train_seed"], row["part"]) for row in rows if row["role"] == "cell")


def create(outputs: Path, name: str, config: dict[str, Any], device: str, about: str = "", kind: str = SWEEP) -> Run:
    """A new, empty run.

    Args:
        outputs: folder of the runs.
        name: of the run.
        config: its settings, as JSON.
        device: where networks run.
        about: what the run is and what to expect of it, for people.
        kind: what the run is: a sweep or an audit.

    Raises:
        RunError: a run of that name exists, or the name is no plain folder name.
    """
    if not is_name(name):
        raise RunError(
            f"run name {name!r}: expected letters, digits, '.', '_' and '-' only. Choose another with --run."
        )
    run = Run(outputs / name)
    if (run.path / "run.json").exists():
        raise RunError(
            f"{run.path} already exists. Choose another name with --run, or remove it with memgen runs remove {name}."
        )
    if run.path.is_dir() and any(not path.name.startswith(".") for path in run.path.iterdir()):
        raise RunError(
            f"{run.path} holds files but no run.json, as a removal that was cut short leaves it. Delete the folder, or "
            f"choose another name."
        )
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "name": name,
        "status": "idle",
        "created": _now(),
        "updated": _now(),
        "wall_seconds": 0.0,
        "device": device,
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": versions(),
        "git": git_state(),
        "about": about,
        "config": config,
        "data": None,
    }
    files.write_json(run.path / "run.json", manifest)
    return run


def pair_key(a: str, b: str) -> str:
    """The name of the artifacts of two subjects taken together; no subject can have a `+` in its name."""
    return f"{a}+{b}"


def is_cell_name(name: str) -> bool:
    """Whether a name is reserved for cells."""
    return re.fullmatch(r"n\d+-s\d+-[ab]", name) is not None


def is_name(name: str) -> bool:
    """Whether a run or a denoiser may have that name, which becomes that of a file."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None


def name_like(text: str) -> str:
    """A name for an imported subject that reminds of a text, such as that of a file."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")
    return name if name and not is_cell_name(name) else f"model-{name}"


def there(outputs: Path, name: str, kind: str = SWEEP) -> Run | None:
    """The run of that name in a folder of runs, if there is one.

    Raises:
        RunError: it is of another kind.
    """
    return find(outputs, name, kind) if (outputs / name / "run.json").exists() else None


def find(outputs: Path, name: str | None, kind: str | None = SWEEP) -> Run:
    """The run of that name (or path), or the newest one.

    Args:
        outputs: folder of the runs.
        name: of the run; None for the newest.
        kind: what the run must be; None takes any.

    Raises:
        RunError: there is none, or it is of another kind.
    """
    if name is None:
        found = [run for run in list_runs(outputs) if kind in (None, run.kind)]
        if not found and kind not in (None, SWEEP):
            raise RunError(f"no {kind} in {outputs}. Start one with: memgen {kind}")
        if not found:
            raise RunError(f"no run in {outputs}. Start one: memgen demo, or memgen data import FOLDER.")
        return found[-1]
    for path in (outputs / name, Path(name)):
        if (path / "run.json").exists():
            run = Run(path)
            if kind not in (None, run.kind):
                raise RunError(
                    f"{path} holds {_KINDS.get(run.kind, run.kind)}, expected {_KINDS.get(kind or '', kind)}. Choose "
                    "another one with --run; memgen runs list shows what each run is."
                )
            return run
    known = ", ".join(run.name for run in list_runs(outputs)) or "none"
    raise RunError(
        f"{outputs} has no run {name!r}; its runs are: {known}. Choose one with --run, or start one with memgen demo."
    )


def list_runs(outputs: Path) -> list[Run]:
    """All runs in a folder whose manifest can be read, oldest first."""
    damaged = damaged_runs(outputs)
    found = [Run(path.parent) for path in outputs.glob("*/run.json") if path.parent not in damaged]
    return sorted(found, key=lambda run: (run.manifest["created"], run.name))


def damaged_runs(outputs: Path) -> dict[Path, str]:
    """The run directories whose manifest cannot be read, and why."""
    damaged = {}
    for path in sorted(outputs.glob("*/run.json")):
        try:
            _ = Run(path.parent).manifest["created"]
        except (MemgenError, KeyError, TypeError, AttributeError) as error:
            damaged[path.parent] = str(error)
    return damaged


def remove(run: Run) -> None:
    """Delete a run directory and all in it.

    Raises:
        RunError: a command is working on it.
    """
    with _locked(run.path):
        (run.path / "run.json").unlink()  # first, so that a removal cut short leaves no half of a run behind
        for path in run.path.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(run.path)


def size_bytes(run: Run) -> int:
    """Bytes that the run's files take."""
    return sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())


def versions() -> dict[str, str | None]:
    """Versions of memgen and of the packages whose numbers end up in its results."""
    names = ["memgen", "torch", "numpy", "faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "pyarrow", "pillow", "lpips"]
    names += ["pydicom", "nibabel", "onnxruntime", "timm", "open-clip-torch", "transformers"]
    found: dict[str, str | None] = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout that this code runs from; None if it runs from none."""
    folder = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # an installed copy may lie inside another repository
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "."))}
    except (OSError, subprocess.SubprocessError):
        return None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        with FileLock(path / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise RunError(f"{path} is in use by another memgen process. Wait for it, or choose another --run.") from error
    except PermissionError as error:
        raise files.storage_error(path / ".lock", error) from error


@contextlib.contextmanager
def _beating(lock: Path) -> Iterator[None]:
    """Change the time of a lock's file again and again, which other machines see that share the file system."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_S):
            with contextlib.suppress(OSError):
                os.utime(lock)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _natural(path: Path) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", path.stem)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
