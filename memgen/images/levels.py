"""Levels: which stored values are black and white, and whether a set of images uses what lies between.

    x = (value - black) / (white - black)

A source states its range, or the person does (`--range LOW,HIGH`). uint8 states 0 to 255, bool and floats 0 to 1, a
picture its bits. Nothing else does: a uint16 array with a largest value of 4,095 may come from 12 bits or be dark. A
range is never taken from the values themselves, since each set, or each image, would get another one.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-4  # of the range: how far a value may lie beyond it, since arithmetic in float16 or float32 rounds
_FEW = 0.25  # of the range: a set of images that uses no more of it was probably read with the wrong range
_BITS = (1, 2, 4, 8, 10, 12, 14, 16)


class Range(NamedTuple):
    """The stored values that become black (0) and white (1)."""

    black: float
    white: float

    def __str__(self) -> str:
        return f"{plain(self.black)},{plain(self.white)}"


class RangeError(Exception):
    """Values lie beyond their range, or have none; the message says what was found and which range to give.

    Attributes:
        found: the smallest and the largest value; None where there are no such numbers.
    """

    def __init__(self, message: str, found: tuple[float, float] | None = None) -> None:
        super().__init__(message)
        self.found = found


def plain(value: float) -> str:
    """A value as `--range` takes it: whole numbers without a decimal point, others with seven digits."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e16 else f"{value:.7g}"


def shown(value: float) -> str:
    """A value for people: whole numbers with thousands separators, others with up to six digits."""
    return f"{int(value):,}" if float(value).is_integer() and abs(value) < 1e16 else f"{value:.6g}"


def parse(value: Any) -> Any:
    """The setting `range` as two numbers; a person writes LOW,HIGH or [LOW, HIGH], or nothing.

    Raises:
        ValueError: it is none of these, or LOW is not below HIGH.
    """
    if value is None:
        return None
    numbers = value.split(",") if isinstance(value, str) else value
    try:
        black, white = (float(number) for number in numbers)
    except (TypeError, ValueError) as error:
        raise ValueError("expected the two values that become black and white, such as 0,4095") from error
    if not (math.isfinite(black) and math.isfinite(white) and black < white):
        raise ValueError("expected two numbers, the first below the second, such as 0,4095")
    return black, white


def stated(dtype: np.dtype[Any]) -> Range | None:
    """The range that a type of numbers states by itself; None where it states none."""
    if dtype == np.uint8:
        return Range(0, 255)
    return Range(0, 1) if dtype.kind in "bf" else None


def suggestion(low: float, high: float) -> str:
    """A range for values from low to high, as `--range` takes it: that of their bits where they look like any."""
    low, high = float(f"{low:.6g}"), float(f"{high:.6g}")  # -1.0000001 is -1
    if low < 0:
        return str(Range(-1, 1)) if low >= -1 and high <= 1 else str(Range(low, max(high, 0)))
    if high > 32 or float(high).is_integer():
        high = next((2**bits - 1 for bits in _BITS if high <= 2**bits - 1), high)
    elif _FEW < high <= 1:
        high = 1
    return str(Range(0, high or 1))


def check_numbers(values: NDArray[Any]) -> None:
    """Check that values are real numbers, none of them NaN or infinite.

    Raises:
        RangeError: they are not.
    """
    if values.dtype.kind not in "buif":
        raise RangeError(f"found values of type {values.dtype}, expected whole numbers, floats or bool")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise RangeError("has NaN or infinite pixels")


def check(low: float, high: float, of: Range | None, given: bool, kind: str) -> None:
    """Check that values from low to high lie in their range, up to rounding.

    Args:
        low: the smallest value.
        high: the largest value.
        of: the range; None where nothing states one.
        given: whether the person gave it.
        kind: what the values are, such as "uint16", for the message.

    Raises:
        RangeError: they do not.
    """
    found = f"values from {shown(low)} to {shown(high)}"
    if of is None:
        raise RangeError(
            f"has {kind} pixels with {found}, and does not state which value is white. Give the values that become "
            f"black and white, for example --range {suggestion(low, high)}",
            (low, high),
        )
    slack = _ROUNDING * (of.white - of.black)
    if low < of.black - slack or high > of.white + slack:
        wider = suggestion(low, high)
        source = f"--range {of}" if given else f"{shown(of.black)} to {shown(of.white)}"
        message = f"has {found}, beyond {source}. Give the values that become black and white: --range {wider}"
        raise RangeError(message, (low, high))


def to_unit(values: NDArray[Any], of: Range) -> NDArray[np.float64]:
    """Values of any type on the scale where black is 0 and white is 1, clipped; see `check`."""
    wide = values.astype(np.float64)
    wide -= of.black
    wide /= of.white - of.black
    return np.clip(wide, 0, 1, out=wide)


def to_uint8(unit: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Values in [0, 1] as 8 bits, rounded half up."""
    return np.floor(unit * 255 + 0.5).astype(np.uint8)


class Used:
    """How much of their range the images of a set use; told of one image, or block of them, after another."""

    def __init__(self) -> None:
        self._values: dict[tuple[Range, Range | None], tuple[float, float, int]] = {}

    def add(self, low: float, high: float, of: Range, own: Range | None, count: int = 1) -> None:
        """Count images with stored values from low to high.

        Args:
            low: the smallest value.
            high: the largest value.
            of: the values that become black and white.
            own: those that the file states, if it does. Images with another one are of another kind, such as 8 bits
                among 12.
            count: number of images.
        """
        least, most, before = self._values.get((of, own), (math.inf, -math.inf, 0))
        self._values[of, own] = (min(least, low), max(most, high), before + count)

    def warnings(self) -> list[str]:
        """What to tell the person of the images of a kind, where these use hardly any of their range; in sentences."""
        return [
            self._warning(of, low, high, count)
            for (of, _), (low, high, count) in self._values.items()
            if 0 < high - low <= _FEW * (of.white - of.black)
        ]

    def _warning(self, of: Range, low: float, high: float, count: int) -> str:
        total = sum(number for _, _, number in self._values.values())
        subject = "The images use" if count == total else f"{count:,} of {total:,} images use"
        near_black = low - of.black <= _FEW * (of.white - of.black)
        wanted = suggestion(max(low, 0), high) if near_black and of.black == 0 else str(Range(low, high))
        return (
            f"{subject} only the values {shown(low)} to {shown(high)} of the range {shown(of.black)} to "
            f"{shown(of.white)}, so that they are nearly {'black' if near_black else 'uniform'}. If their range is "
            f"{wanted.replace(',', ' to ')}, give --range {wanted}."
        )
