"""Files appear whole or not at all, and a full disk is one clear error."""

import errno
import os
import tempfile

import numpy as np
import pytest

from memgen.base import files
from memgen.base.errors import DataError, StorageError


def test_a_failed_write_leaves_the_old_file(tmp_path):
    """An exception inside the block leaves the old content and no temporary file."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail():
        with files.writing(path) as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_file_is_replaced_not_overwritten(tmp_path):
    """Whoever has the old file open goes on reading it whole: the new one is another file under the same name."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with open(path, "rb") as reader:
        with files.writing(path) as file:
            file.write(b"new content")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new content"


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "permissions"), (errno.EROFS, "read-only")]
)
def test_errors_of_the_disk_say_what_to_do(tmp_path, monkeypatch, number, words):
    """Each becomes a StorageError that names the file and the remedy; the old file stays."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=words) as caught, files.writing(path) as file:
        file.write(b"new")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_full_folder_of_temporary_files_is_told_apart(tmp_path, monkeypatch):
    """Another place for the run would not help: the message names the folder, the bytes and TMPDIR."""

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(files, "in_memory", lambda: 10)
    assert not isinstance(files.room((10,), np.uint8), np.memmap)
    monkeypatch.setattr(files.os, "posix_fallocate", fail, raising=False)
    with pytest.raises(StorageError, match=f"temporary file of 4,400 bytes in {tmp_path}: No space.*TMPDIR"):
        files.room((11, 100), np.float32)
    assert not os.listdir(tmp_path)


def test_a_readers_error_is_not_blamed_on_the_disk(tmp_path):
    """A missing input read inside the block stays the reader's error."""
    with pytest.raises(FileNotFoundError), files.writing(tmp_path / "out" / "a.bin"):
        open(tmp_path / "elsewhere" / "b.bin")  # noqa: SIM115


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    """Temporary files go, everything else stays, hidden files too."""
    (tmp_path / "sub").mkdir()
    for name in (".a.npy.123-ab.tmp.npy", "sub/.b.json.9-cd.tmp.json"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / ".lock").write_bytes(b"")
    (tmp_path / "a.npy").write_bytes(b"x")
    files.remove_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [".lock", "a.npy"]


def test_json_round_trip_and_damage(tmp_path):
    """What is written is read back; a damaged or missing file is named; NaN is refused."""
    path = tmp_path / "a.json"
    files.write_json(path, {"a": [1, None, "é"]})
    assert files.read_json(path) == {"a": [1, None, "é"]}
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, float("nan"))
    path.write_bytes(b'{"a": ')
    with pytest.raises(DataError, match=r"a\.json"):
        files.read_json(path)
    with pytest.raises(DataError, match=r"none\.json"):
        files.read_json(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"cannot be read .*directory"):
        files.read_json(tmp_path)


def test_digests_tell_parts_apart(tmp_path):
    """Where a part ends matters; the order of JSON keys does not; a file's digest is that of its bytes."""
    assert files.digest("ab", "c") != files.digest("a", "bc")
    assert files.digest_json({"a": 1, "b": 2}) == files.digest_json({"b": 2, "a": 1})
    (tmp_path / "x").write_bytes(b"abc")
    assert files.digest_file(tmp_path / "x") == "ba7816bf8f01cfea"  # SHA-256 of "abc"
