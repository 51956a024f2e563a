"""Images from medical scans: what the readers of DICOM and NIfTI share.

Values are what was measured, such as Hounsfield units, and have no white of their own. A file may state a window: the
values that are to be shown black and white. What lies beyond is shown as the nearer of the two, since that is what a
window means. The range that a person gives holds for all files instead, and values beyond it are refused, as in every
other format. Images are float32.
"""

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from memgen.base import optional
from memgen.base.errors import DataError
from memgen.images.collected import Collected
from memgen.images.frames import UnusableError
from memgen.images.levels import Range, RangeError, check, check_numbers, suggestion, to_unit
from memgen.images.prepare import FoundImages, ReadSettings, prepared

MOST_SLICES = 100_000  # of a file


def needs(package: str, source: Path) -> Any:
    """A package that reads a format.

    Raises:
        DataError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.partition(".")[0]
        raise DataError(
            f"{source}: reading it needs {name}, which is not installed. {optional.install('medical')}."
        ) from error


@contextlib.contextmanager
def quiet(logger: str) -> Iterator[None]:
    """The warnings of a library, and its log, are left out: what it cannot read, it raises."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def check_size(width: int, height: int, slices: int) -> None:
    """Check the size that a file states before memory is taken for it.

    Raises:
        UnusableError: it is not positive, or so large that it is an attack on the memory.
    """
    if min(width, height, slices) < 1:
        raise UnusableError(f"holds no image ({width} x {height} pixels, {slices} slices)")
    most = Image.MAX_IMAGE_PIXELS or 0
    if width * height > most or slices > MOST_SLICES:
        raise UnusableError(
            f"too large ({width:,} x {height:,} pixels, {slices:,} slices; expected at most {most:,} pixels and "
            f"{MOST_SLICES:,} slices)"
        )


class Scans(Collected):
    """The slices of scans, as they come in.

    Args:
        source: the folder or file; it is named in errors.
        settings: size, color, range and number of the images.
        skipped: the reason for each file of the source that is left out, by its name.
        expected: number of slices, as far as it is known.
        kind: the format, for messages.
    """

    def __init__(self, source: Path, settings: ReadSettings, skipped: dict[str, str], expected: int, kind: str) -> None:
        super().__init__(source, settings, skipped, expected, np.float32, f"Give {kind} files of gray images.")
        self._kind = kind
        self._windows: dict[Range, str] = {}  # and the first slice that has it
        self._least, self._most = np.inf, -np.inf

    def add(
        self,
        name: str,
        values: NDArray[Any],
        window: Range | None,
        group: str,
        inverted: bool = False,
        unread: str = "",
    ) -> None:
        """Keep a slice.

        Args:
            name: of the slice.
            values: (H, W), what was measured.
            window: the values that the file wants shown black and white; None where it states none.
            group: what the slice belongs to.
            inverted: whether the smallest value is white.
            unread: what the file states instead of such a window, for the message.

        Raises:
            RangeError: there is neither a range nor a window, values lie beyond the range, or are no real numbers.
        """
        check_numbers(values)
        low, high = float(values.min()), float(values.max())
        if self.given is not None or window is None:
            if self.given is None and unread:
                raise RangeError(
                    f"states {unread}, which is not read. Give the values that become black and white, for example "
                    f"--range {suggestion(low, high)}",
                    (low, high),
                )
            check(low, high, self.given, True, self._kind)
            assert self.given is not None
            self.used.add(low, high, self.given, None)
        unit = to_unit(values, self.given or window)  # type: ignore[arg-type]  # one of them is there
        unit = 1 - unit if inverted else unit
        channels = 3 if self.settings.color == "rgb" else 1
        self.put(name, prepared(unit.astype(np.float32)[None, None], self.settings.resize, channels)[0], group)
        if self.given is None and window is not None:
            self._windows.setdefault(window, name)
            self._least, self._most = min(self._least, low), max(self._most, high)

    def finished_scans(self) -> FoundImages:
        """All slices that came in, with a warning where files state different windows."""
        if len(self._windows) < 2:
            return self.finished()
        (one, first), (other, second), *_ = self._windows.items()
        return self.finished(
            [
                f"The files state {len(self._windows):,} different windows, such as {one} ({first}) and {other} "
                f"({second}), so that equal values differ in brightness. To treat all alike, give the values that "
                f"become black and white, for example --range {suggestion(self._least, self._most)}."
            ]
        )
