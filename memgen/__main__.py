"""`memgen` and `python -m memgen`: run the command line, and turn what went wrong into one message and an exit code."""

import errno
import sys
from pathlib import Path

from memgen import cli
from memgen.base import files
from memgen.base.errors import MemgenError


def main() -> None:
    """Run the command line and exit with its code (see errors.py)."""
    try:
        cli.app()
    except MemgenError as error:
        _fail(str(error), error.exit_code)
    except SystemExit as ended:
        if ended.code == 130:  # what Typer makes of an interruption
            _fail("interrupted. Give the same command again to go on.", 130)
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        _fail(str(files.storage_error(Path(error.filename or "a file"), error)), 5)


def _fail(message: str, code: int) -> None:
    text = message.replace("\n", "\n       ")
    print(f"error: {text}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
