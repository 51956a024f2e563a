"""Models that a function of yours makes: `package.module:function`, with --trust-code.

The function takes nothing and returns a denoiser: an object with `image_shape`, `blind` and `(noisy, sigma) ->
denoised`, in units where pixels lie in [0, 1], such as `memgen.FunctionDenoiser`.
"""

import importlib
import re
import sys
from pathlib import Path

from memgen.base.errors import DataError, first_line
from memgen.models.denoiser import Denoiser
from memgen.models.foreign import ForeignModel, ImportOptions, digests, require_trust

ORDER = 0
OPTIONS = ()
KIND = "a function package.module:function that makes a denoiser (with --trust-code)"

_NAMED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def reads(source: Path) -> bool:
    """Whether the source is the name of a function, and no file."""
    return _NAMED.fullmatch(str(source)) is not None and not source.exists()


def load(source: Path, image_size: tuple[int, int], options: ImportOptions) -> ForeignModel:
    """The denoiser that the function makes; see `foreign.Format`."""
    require_trust(source, options, "a function of Python")
    module, _, name = str(source).partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        found = importlib.import_module(module)
        denoiser = getattr(found, name)()
    except Exception as error:  # of foreign code
        where = " memgen looks in the working folder and on PYTHONPATH." * isinstance(error, ModuleNotFoundError)
        raise DataError(f"{source}: failed ({type(error).__name__}: {first_line(error)}).{where}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(denoiser, Denoiser):
        raise DataError(
            f"{source}: made {type(denoiser).__name__}, expected a denoiser: an object with image_shape, blind and "
            "(noisy, sigma) -> denoised. memgen.FunctionDenoiser makes one of a function."
        )
    files = [Path(found.__file__)] if found.__file__ else []
    return ForeignModel(denoiser, digests(files), {"function": str(source)})
