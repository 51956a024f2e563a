"""Tasks for the tests of executors, in a module that other processes can import."""

import hashlib
import os
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import torch

from memgen.base import files
from memgen.base.errors import DataError


@dataclass(frozen=True)
class Task:
    """A task that writes `number.bin`.

    Attributes:
        folder: where it writes, and where it notes that it was begun.
        number: its name.
        seconds: how long it takes.
        held: whether it waits for the file `go`.
        fails: the error that it ends with, wrong or broken.
    """

    folder: Path
    number: int
    seconds: float = 0.0
    held: bool = False
    fails: str = ""

    @property
    def path(self) -> Path:
        return self.folder / f"{self.number}.bin"


def work(task: Task, report) -> None:
    """Note pid, machine and number of threads; then write the file, unless it is there."""
    ray = sys.modules.get("ray")
    # Asking for the context initializes Ray, and so joins whatever cluster runs on this machine.
    node = ray.get_runtime_context().get_node_id() if ray and ray.is_initialized() else "here"
    noted = f"{os.getpid()} {node} {torch.get_num_threads()}".encode()
    with files.writing(task.folder / "begun" / f"{task.number}-{uuid.uuid4().hex}") as file:
        file.write(noted)
    if task.path.exists():
        return
    report(f"half of {task.number}")
    wait_for(lambda: not task.held or (task.folder / "go").exists())
    time.sleep(task.seconds)
    if task.fails == "wrong":
        raise DataError(f"task {task.number} is wrong.")
    if task.fails == "broken":
        raise ValueError(f"task {task.number} is broken")
    with files.writing(task.path) as file:
        file.write(hashlib.sha256(str(task.number).encode()).digest() * 1000)


def note_memory(task: Task, report) -> None:
    """Write how many bytes Ray has set aside for this task."""
    reserved = sys.modules["ray"].get_runtime_context().get_assigned_resources()["memory"]
    with files.writing(task.path) as file:
        file.write(str(reserved).encode())


def begun(folder: Path) -> list[tuple[int, int, str, int]]:
    """Number, pid, machine and number of threads of every beginning of a task."""
    found = []
    for path in (folder / "begun").glob("[0-9]*"):
        pid, node, threads = path.read_text().split()
        found.append((int(path.name.partition("-")[0]), int(pid), node, int(threads)))
    return sorted(found)


def wait_for(condition, seconds: float = 60.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
