"""Many strings, such as the ids of a million images, without a Python object for each."""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_TYPE = pa.large_string()  # offsets of 8 bytes: the bytes of many strings may be more than 2 GiB
_BLOCK = 1 << 16  # strings that are Python objects at one time


class Strings(Sequence[str]):
    """A sequence of strings in an Arrow array, which takes their bytes and 8 more for each. It never changes.

    Args:
        values: strings; an Arrow array of strings without nulls is taken as it is.

    Attributes:
        arrow: the strings, of type large_string.
    """

    def __init__(self, values: "Iterable[str] | pa.Array | pa.ChunkedArray" = ()) -> None:
        if isinstance(values, Strings):
            self.arrow: pa.Array = values.arrow
        elif isinstance(values, pa.Array | pa.ChunkedArray):
            self.arrow = _whole(values)
        else:
            rest = iter(values)
            blocks = iter(lambda: list(itertools.islice(rest, _BLOCK)), [])
            self.arrow = _whole(pa.chunked_array([pa.array(block, _TYPE) for block in blocks], _TYPE))

    @staticmethod
    def joined(parts: "Iterable[Strings]") -> "Strings":
        """Several sequences, one after the other."""
        return Strings(pa.chunked_array([part.arrow for part in parts], _TYPE))

    def __len__(self) -> int:
        return len(self.arrow)

    @overload
    def __getitem__(self, which: int) -> str: ...
    @overload
    def __getitem__(self, which: slice | NDArray[Any]) -> "Strings": ...
    def __getitem__(self, which: Any) -> "str | Strings":
        """One string, or those at some positions, of a slice or of a mask."""
        if isinstance(which, slice):
            which = np.arange(len(self))[which]
        if isinstance(which, np.ndarray) and which.ndim:
            chosen = np.flatnonzero(which) if which.dtype == bool else which
            return Strings(self.arrow.take(pa.array(chosen)))
        return str(self.arrow[int(which)].as_py())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BLOCK):
            yield from self.arrow.slice(start, _BLOCK).to_pylist()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Strings):
            return bool(self.arrow.equals(other.arrow))
        return isinstance(other, Sequence) and len(other) == len(self) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]  # a list of strings has none either

    def __repr__(self) -> str:
        return f"Strings({list(self[:3])}{f', ... {len(self)} in all' if len(self) > 3 else ''})"

    def shared(self, other: "Strings") -> list[str]:
        """The different strings that are in both sequences, sorted."""
        return sorted(self[self.among(other)].arrow.unique().to_pylist())

    def among(self, other: "Strings") -> NDArray[np.bool_]:
        """Whether each string is in another sequence, (N,)."""
        return np.asarray(pc.is_in(self.arrow, value_set=other.arrow))

    def different(self) -> int:
        """How many different strings there are."""
        return len(self.arrow.unique())

    def firsts(self) -> NDArray[np.int64]:
        """For each string the position of the first one that equals it, (N,)."""
        codes = self.arrow.dictionary_encode().indices.to_numpy(zero_copy_only=False)  # numbered as they first appear
        positions = np.empty(codes.max(initial=-1) + 1, dtype=np.int64)
        positions[codes[::-1]] = np.arange(len(self))[::-1]  # of several values for one place, the last one stays
        found: NDArray[np.int64] = positions[codes]
        return found

    def places(self, wanted: Collection[str | None]) -> dict[str, int]:
        """The position of each of some strings, the first one where it occurs several times; others are left out."""
        looked_for = sorted({each for each in wanted if each is not None})
        pairs = zip(looked_for, self.positions(pa.array(looked_for, _TYPE)).tolist(), strict=True)
        return {each: place for each, place in pairs if place >= 0}

    def positions(self, wanted: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        """The position of each of M strings in Arrow, the first one where it occurs several times, (M,).

        It is -1 for strings that are not there, and for null.
        """
        found = pc.index_in(wanted.cast(_TYPE), value_set=self.arrow)
        return np.asarray(pc.fill_null(found, -1).to_numpy(zero_copy_only=False), dtype=np.int64)


class Growing:
    """Strings to which more are added, one by one."""

    def __init__(self) -> None:
        self._full: list[Strings] = []
        self._last: list[str] = []

    def __len__(self) -> int:
        return len(self._full) * _BLOCK + len(self._last)

    def append(self, value: str) -> None:
        """Add a string."""
        self._last.append(value)
        if len(self._last) == _BLOCK:
            self._full.append(Strings(self._last))
            self._last = []

    def strings(self) -> Strings:
        """All strings so far."""
        return Strings.joined([*self._full, Strings(self._last)])


def _whole(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    cast = values.cast(_TYPE)
    return cast.combine_chunks() if isinstance(cast, pa.ChunkedArray) else cast
