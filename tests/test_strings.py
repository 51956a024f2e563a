"""Strings in an Arrow array: they behave as a tuple of strings does."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memgen.base import strings
from memgen.base.strings import Growing, Strings

MANY = st.lists(st.text(alphabet="abü ", max_size=3), max_size=12)


@given(MANY, st.data())
def test_strings_are_as_a_tuple(values, data):
    """Length, items, slices, positions, masks, iteration and equality are those of a tuple."""
    found, known = Strings(values), tuple(values)
    assert len(found) == len(known)
    assert list(found) == list(known)
    assert found == known
    assert (found == (*known, "x")) is False
    assert found == Strings(pa.chunked_array([pa.array(values[:2], pa.string()), pa.array(values[2:], pa.string())]))
    start, stop = data.draw(st.integers(-13, 13)), data.draw(st.integers(-13, 13))
    assert found[start:stop] == known[start:stop]
    if known:
        chosen = np.array(data.draw(st.lists(st.integers(0, len(known) - 1))), dtype=np.int64)
        assert found[chosen] == tuple(known[i] for i in chosen)
        assert found[-1] == known[-1]
        assert found[np.int64(0)] == known[0]
    mask = np.array([value == "a" for value in values], dtype=bool)
    assert found[mask] == tuple(value for value in values if value == "a")
    with pytest.raises(IndexError):
        found[len(known)]


@given(MANY, MANY)
def test_what_is_asked_of_strings(values, others):
    """First positions, places, what two sequences share, and the number of different ones: as Python finds them."""
    found, other = Strings(values), Strings(others)
    assert found.firsts().tolist() == [values.index(value) for value in values]
    assert found.places([*others, None]) == {value: values.index(value) for value in others if value in values}
    wanted = pa.array([*others, None], pa.string())
    assert found.positions(wanted).tolist() == [*(values.index(x) if x in values else -1 for x in others), -1]
    assert found.shared(other) == sorted(set(values) & set(others))
    assert found.among(other).tolist() == [value in others for value in values]
    assert found.different() == len(set(values))
    assert Strings.joined([found, other]) == (*values, *others)


def test_strings_come_in_blocks(monkeypatch):
    """More strings than a block holds, from a generator and one by one."""
    monkeypatch.setattr(strings, "_BLOCK", 4)
    growing = Growing()
    for number in range(11):
        assert len(growing) == number
        growing.append(str(number))
    assert growing.strings() == Strings(str(number) for number in range(11)) == tuple(map(str, range(11)))
    assert list(growing.strings()) == [str(number) for number in range(11)]


def test_few_strings_are_shown():
    """A long sequence shows its first strings and their number."""
    assert repr(Strings(["a", "b"])) == "Strings(['a', 'b'])"
    assert repr(Strings(map(str, range(9)))) == "Strings(['0', '1', '2'], ... 9 in all)"
