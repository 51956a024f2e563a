"""How memgen prints numbers, intervals and names of models for people."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from memgen.base.estimates import Estimate

MINUS, DASH = "\N{MINUS SIGN}", "\N{EM DASH}"
_BLOCKS = "▁▂▃▄▅▆▇█"
# What people read for subjects with the roles `reference` and `baseline`.
KNOWN_SUBJECTS = {
    "best_linear": "best linear denoiser",
    "exact_optimum": "exact optimum",
    "wavelet_oracle": "oracle (wavelet shrinkage)",
    "tangent_oracle": "oracle (tangent space)",
    "soft_threshold": "wavelets (soft threshold)",
    "hard_threshold": "wavelets (hard threshold)",
}


@dataclass(frozen=True)
class Quantity:
    """What people read for something that is measured.

    Attributes:
        name: short name, shown in place of the key that tables use.
        definition: what it is, in a sentence or two.
    """

    name: str
    definition: str


def subject_label(role: str, n_train: int | None, subject: str | None) -> str:
    """The name of a subject in figures and tables: `N = 64` for a cell, its own name for any other."""
    if role == "cell":
        return f"N = {n_train:,}"
    return str(subject) if role == "imported" else KNOWN_SUBJECTS[str(subject)]


def number(value: float, unit: str = "") -> str:
    """A number as people print it, with about three digits; correlations and shares have no leading zero."""
    if unit == "images":
        text = f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 10 else f"{value:.2g}"
    elif unit == "samples":
        text = f"{value:.0f}"
    elif unit in ("dB", "nats"):
        text = f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
    elif unit == "dimensions":
        text = f"{value:,.1f}"
    elif unit.startswith("bits") and abs(value) >= 1:
        text = f"{value:.3g}"
    elif unit == "pixel units^2":
        digits, _, power = f"{value:.1e}".partition("e")
        text = f"{digits}e{int(power)}" if value else "0"
    else:
        text = f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 0.9995 else f"{value:.3f}"
    if not any(digit in text for digit in "123456789"):
        text = text.removeprefix("-")
    return text.replace("-", MINUS)


def value(found: Estimate) -> str:
    """An estimate as people print it, without its interval; a dash where it does not exist."""
    return DASH if found.estimate is None else number(found.estimate, found.unit)


def interval(found: Estimate) -> str:
    """The interval of an estimate, such as `[.948, .961]`, with `?` for an unknown end; empty where there is none."""
    if found.estimate is None or (found.low is None and found.high is None):
        return ""
    low, high = ("?" if end is None else number(end, found.unit) for end in (found.low, found.high))
    return f"[{low}, {high}]"


def estimate(found: Estimate) -> str:
    """An estimate with its interval, such as `.956 [.948, .961]`; a dash where it does not exist."""
    return f"{value(found)} {interval(found)}".rstrip()


def sparkline(values: Sequence[float], width: int = 8) -> str:
    """The course of some values as a line of blocks, lowest to highest; means of equal parts if they are many."""
    count = min(width, len(values))
    edges = [i * len(values) // count for i in range(count + 1)] if count else []
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = (min(means), max(means)) if means else (0.0, 0.0)
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round((mean - low) / (high - low) * top) if high > low else 0] for mean in means)


def duration(seconds: float) -> str:
    """A time as people read it: `40 s`, `12 min`, `3.5 h` from two hours on."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence: `a`, `a and b`, `a, b, and c`."""
    if len(words) < 3:
        return " and ".join(words)
    return f"{', '.join(words[:-1])}, and {words[-1]}"


def joined(*sentences: str) -> str:
    """The sentences that are not empty, as one text."""
    return " ".join(filter(None, sentences))
