"""Time several computations by turns in one process, and say on which machine.

Programs that run beside a benchmark slow all computations of a turn alike, so ratios within turns vary less than times.
"""

import contextlib
import datetime
import importlib.metadata
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import threadpoolctl
import torch

Work = Callable[[], float | object]
FEWEST = 3  # turns that are made even if they take longer than the limit


def seconds(work: Work) -> float:
    """The seconds that a call takes; a call that returns a number states them itself."""
    start = time.perf_counter()
    stated = work()
    return stated if isinstance(stated, float) else time.perf_counter() - start


def by_turns(works: Mapping[str, Work], repeats: int, limit: float = float("inf")) -> dict[str, list[float]]:
    """Seconds of each computation in each turn, after one call of each that is not counted.

    Every second turn runs in reverse order. No turn begins after `limit` seconds, except for the first three.
    """
    for work in works.values():
        work()
    return counted(works, repeats, limit)


def counted(works: Mapping[str, Work], repeats: int, limit: float = float("inf")) -> dict[str, list[float]]:
    """The same without the call that is not counted, for computations of minutes."""
    times: dict[str, list[float]] = {name: [] for name in works}
    started = time.perf_counter()
    for turn in range(repeats):
        if turn >= FEWEST and time.perf_counter() - started > limit:
            break
        for name in sorted(works, key=list(works).index, reverse=turn % 2 == 1):
            times[name].append(seconds(works[name]))
    return times


def ratios(ours: Work, other: Work, repeats: int) -> list[float]:
    """The time of the one divided by that of the other, in each turn."""
    times = by_turns({"ours": ours, "other": other}, repeats)
    return [a / b for a, b in zip(times["ours"], times["other"], strict=True)]


def prepare(threads: int) -> None:
    """Let PyTorch, BLAS, OpenMP, FAISS and scikit-learn compute with so many threads; call it before any of them works.

    The OpenBLAS in the wheels of FAISS is older than recent processors and takes those it does not know for one of
    2004, which makes FAISS several times slower than it can be. So it is told of AVX-512, unless OPENBLAS_CORETYPE is
    set.
    """
    if "avx512f" in _flags():
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
    for package in ("faiss", "sklearn.neighbors"):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(package)
    torch.set_num_threads(threads)
    threadpoolctl.threadpool_limits(threads)


def machine() -> dict[str, object]:
    """Processor, its wide instructions, cores, load, versions and date, for the head of a table and for JSON."""
    packages = ("memgen", "torch", "numpy", "faiss-cpu", "scikit-learn")
    blas = {Path(each["filepath"]).parent.name: each["architecture"] for each in threadpoolctl.threadpool_info()
            if each["internal_api"] == "openblas"}  # fmt: skip
    return {
        "processor": (_cpuinfo("model name") or [platform.processor() or platform.machine()])[0],
        "flags": sorted(flag for flag in _flags() if flag.startswith(("avx2", "avx512", "avx_vnni", "amx"))),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {each: _version(each) for each in packages},
        "openblas": blas,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _cpuinfo(name: str) -> list[str]:
    """The values of a name in /proc/cpuinfo, none on other systems than Linux."""
    path = Path("/proc/cpuinfo")
    return re.findall(rf"^{name}\s*:\s*(.*)$", path.read_text(), flags=re.MULTILINE) if path.exists() else []


def _flags() -> set[str]:
    return set(" ".join(_cpuinfo("flags")[:1]).split())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def head(found: Mapping[str, object]) -> str:
    """The machine in three lines."""
    flags, versions = found["flags"], found["versions"]
    wide = ("avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "amx_int8")
    with_them = ", ".join(name for name in wide if name in flags) or "neither AVX-512 nor AMX"
    packages = ", ".join(f"{name} {version or 'is not installed'}" for name, version in versions.items())
    blas = ", ".join(f"{place} computes as for {name}" for place, name in found["openblas"].items())
    return (
        f"{found['processor']}, {found['cores']} cores ({with_them}), {found['threads']} thread(s), "
        f"load {found['load']:.1f} before the start\n{packages}, {found['date']}\n"
        f"OpenBLAS: {blas or 'none'}"
    )
