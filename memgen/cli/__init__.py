"""The command line: parse, call one function, show a table, print where it was written.

Results go to stdout (the path written, or JSON with --json), everything else to stderr. No stage is imported before a
command needs it, so `memgen --help` is instant. Importing this package adds every command to `app`.
"""

# ruff: noqa: I001, the help lists the commands in the order of these imports
from memgen.cli.root import app
from memgen.cli import (
    whole,
    watch,
    audit,
    canaries,
    data,
    make,
    search,
    compare,
    measure,
    scores,
    monitor,
    runs,
    weights,
)

__all__ = [
    "app",
    "audit",
    "canaries",
    "compare",
    "data",
    "make",
    "measure",
    "monitor",
    "runs",
    "scores",
    "search",
    "watch",
    "weights",
    "whole",
]
