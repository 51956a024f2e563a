"""The whole program, as tests use it: commands in this process or another one, a tiny experiment, equality of runs."""

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
from sklearn.datasets import load_digits

from memgen.__main__ import main

# A sweep of seconds: 8x8 handwritten digits, one block of width 4, and 100 steps, of which every 40th is recorded.
TINY = """
[data]
source = "{source}"
[split]
holdout = 8
[model]
architecture = "unet"
blocks = 1
width = 4
[train]
images_seen = 400
batch_size = 4
[sample]
n_samples = 6
sigma_end = 0.3
micro_batch = 6
[psnr]
sigmas = [0.1, 0.5]
n_images = 4
[sweep]
n_train = [1, 4]
"""


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def path(self) -> Path:
        """The last line on stdout."""
        return Path(self.out.splitlines()[-1])

    @property
    def json(self) -> Any:
        """All of stdout, as JSON."""
        return json.loads(self.out)

    def done(self) -> "Outcome":
        """The outcome itself, of a command that must succeed."""
        assert self.code == 0, self.err
        return self

    def failed(self, code: int, *parts: str) -> "Outcome":
        """The outcome itself, of a command that must fail with one message that has these parts in it."""
        assert self.code == code, (self.code, self.err)
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, self.err
        assert "Traceback" not in self.err
        assert self.out == ""
        for part in parts:
            assert part in errors[0], (part, errors[0])
        return self


def memgen(*arguments: str | Path) -> Outcome:
    """Run a command in this process; an error that memgen does not turn into a message goes through.

    The command finds one core, since the processes of pytest-xdist share them: only `--jobs` starts processes beside it.
    """
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        mock.patch.object(os, "sched_getaffinity", return_value={0}, create=True),
        mock.patch.object(sys, "argv", ["memgen", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def memgen_process(*arguments: str | Path, cwd: Path | None = None) -> Outcome:
    """Run a command in a process of its own, as a person does."""
    command = [sys.executable, "-m", "memgen", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment(), timeout=200)
    return Outcome(ended.returncode, ended.stdout, ended.stderr)


def environment() -> dict[str, str]:
    """The environment of a process that may use one thread."""
    return os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}


def write_digits(path: Path, count: int = 80) -> Path:
    """Handwritten digits (count, 8, 8), uint8, from scikit-learn."""
    np.save(path, (load_digits().images[:count] * (255 / 16)).round().astype(np.uint8))
    return path


def write_config(folder: Path, source: Path) -> Path:
    """The tiny experiment on these images, as a TOML file."""
    path = folder / "tiny.toml"
    path.write_text(TINY.format(source=source.as_posix()))
    return path


def artifacts(run: Path) -> dict[str, Path]:
    """All files of a run that a finished sweep never writes again, by their path in the run."""
    paths = {path.relative_to(run).as_posix(): path for path in sorted(run.rglob("*")) if path.is_file()}
    again = ("report/", "tables/transition/", "tables/levels/")
    return {
        name: path for name, path in paths.items() if name not in ("run.json", ".lock") and not name.startswith(again)
    }


def assert_same_runs(found: Path, expected: Path) -> None:
    """Two runs hold the same artifacts, byte for byte; only the wall times of trainings and of run.json may differ."""
    ours, theirs = artifacts(found), artifacts(expected)
    assert ours.keys() ^ theirs.keys() == set()
    for name, path in ours.items():
        if name.startswith("tables/training/"):
            one, other = (pq.read_table(each).drop_columns("seconds") for each in (path, theirs[name]))
            assert one.equals(other, check_metadata=True), name
        else:
            assert path.read_bytes() == theirs[name].read_bytes(), name
    manifests = [json.loads((run / "run.json").read_text()) for run in (found, expected)]
    for key in ("config", "data", "versions"):
        assert manifests[0][key] == manifests[1][key]
    for kind in ("transition", "levels"):
        summaries = [pq.read_table(run / "tables" / kind / f"{kind}.parquet") for run in (found, expected)]
        assert summaries[0].equals(summaries[1], check_metadata=True), kind
