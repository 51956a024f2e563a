"""A sweep that is killed again and again: `python killing.py RUN KILLED.json MOMENTS.json ARGUMENTS...`.

Loads memgen once, then runs it with these arguments in one forked child after the other, on the same run. Each child
kills itself with SIGKILL at the first of the moments at which none was killed before: just before or just after a kind of
file is renamed to its final name, after a kind of table is removed, or in the middle of training, sampling or
importing. The child that reaches no new moment finishes; the moments are then written to KILLED.json in their order.
"""

import importlib
import json
import os
import pkgutil
import signal
import sys
from pathlib import Path

from unrendered import REPLACED

# Every kind of file that a sweep writes.
KINDS = {
    *("run.json", "images/pixels.npy", "images/images.parquet", "images/images.json", "holdout_mean.npy"),
    *(f"tables/{kind}" for kind in ("skipped", "duplicates", "split", "subjects", "training", "samples", "neighbors")),
    *(f"tables/{kind}" for kind in ("similarity", "psnr", "distances", "significance", "copies")),
    *("denoisers/*.safetensors", "denoisers/*.json", "denoisers/*.pt", "samples/*.npy"),
    *(f"indexes/{name}" for name in ("pixels.npy", "ids.npy", "clusters.npy", "index.json")),
}
REPORTED = ("transition.parquet", "levels.parquet", "report.html")


def main() -> None:
    run, killed, arguments = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[4:]
    planned = set(json.loads(Path(sys.argv[3]).read_text()))
    for name in (
        "__main__",
        "experiment.make",
        "experiment.sweep",
        "experiment.executors.local",
        "experiment.present",
        "experiment.cost",
        "cli.terminal",
    ):
        importlib.import_module(f"memgen.{name}")
    # What a training and a report load by themselves, and each child would load anew.
    for name in ("faiss", "torch._dynamo", "memgen.report.page"):
        importlib.import_module(name)
    moments: list[str] = []
    reader, writer = os.pipe()
    while len(moments) <= len(planned):
        child = os.fork()
        if not child:
            work(run, planned - set(moments), writer, arguments)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            killed.write_text(json.dumps(moments))
            sys.exit(os.waitstatus_to_exitcode(status))
        assert os.WTERMSIG(status) == signal.SIGKILL
        moments.append(os.read(reader, 1000).decode())
    sys.exit("killed too often")


def work(run: Path, planned: set[str], writer: int, arguments: list[str]) -> None:
    """Run memgen in this child, to its end or to one of the moments planned."""

    def reach(moment: str) -> None:
        if moment in planned:
            os.write(writer, moment.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    watch(run, reach)
    sys.argv = ["memgen", *arguments]
    sys.modules["memgen.__main__"].main()


def watch(run: Path, reach) -> None:
    for name, instead in REPLACED.items():  # a picture is no artifact that a killed sweep might lose
        home, _, last = name.rpartition(".")
        setattr(pkgutil.resolve_name(home), last, instead)
    from memgen.experiment import make, runs
    from memgen.images import importing
    from memgen.models import sampling, training

    make._SAVE_EVERY_S = 0.0  # keep the state of a training at every record
    rename, remove = os.replace, runs.Run.remove_table
    update, rate, read = sampling._StochasticState.update, training._learning_rate, importing.readers.read

    def replace(source, target) -> None:
        kind = kind_of(Path(target).relative_to(run))
        reach(f"before {kind}")
        rename(source, target)
        reach(f"after {kind}")

    def removed(run, kind, name):
        remove(run, kind, name)
        reach(f"removed {kind}")

    def updated(state, step):
        if step == 5:
            reach("sampling")
        return update(state, step)

    def rated(settings, seen, budget):
        if seen >= 60 * settings.batch_size:
            reach("training")
        return rate(settings, seen, budget)

    def found(*given):
        images = read(*given)
        reach("importing")
        return images

    runs.Run.remove_table = removed
    os.replace, sampling._StochasticState.update = replace, updated
    training._learning_rate, importing.readers.read = rated, found


def kind_of(path: Path) -> str:
    """What kind of artifact a file of a run is; empty for the figures of the report."""
    folder = path.parts[0]
    if folder == "report":
        return path.name if path.suffix == ".html" else ""
    if folder == "tables":
        return path.name if path.parts[1] in ("transition", "levels") else f"tables/{path.parts[1]}"
    if folder in ("denoisers", "samples"):
        return f"{folder}/*{path.suffix}"
    return f"indexes/{path.name}" if folder == "indexes" else path.as_posix()


if __name__ == "__main__":
    main()
