"""Every error that memgen raises on purpose, and the exit code the command line gives it.

    MemgenError            something a person can act on; exit code 1
    ├── ConfigError        a setting is unknown, malformed or contradicts another; 2
    ├── DataError          an input (image, array, checkpoint, table) is unusable; 3
    │   └── ShapeError     arrays or images whose shapes do not fit together; 3
    ├── RunError           a run is missing, locked, or lacks what a command needs; 4
    └── StorageError       the disk is full or a folder cannot be written; 5

A message says what was found, what was expected, and what to do next, in that order.
Usage errors (an unknown option) exit with 2 and an interruption with 130.
"""


class MemgenError(Exception):
    """Base of all errors that a person sees as one message, without a traceback."""

    exit_code = 1


class ConfigError(MemgenError):
    """A setting is unknown, malformed, or contradicts another."""

    exit_code = 2


class DataError(MemgenError):
    """An input file or array cannot be used."""

    exit_code = 3


class ShapeError(DataError):
    """Arrays or images whose shapes do not fit together."""


class RunError(MemgenError):
    """A run directory is missing, locked, or lacks an artifact that a command needs."""

    exit_code = 4


class StorageError(MemgenError):
    """The disk is full, or a folder cannot be written."""

    exit_code = 5


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, without a final period; its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
