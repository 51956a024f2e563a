"""Images of URLs: the same images under the same names as from the local files, and errors that say what to do."""

import contextlib
import functools
import http.server
import io
import json
import tarfile
import threading
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from program import memgen

from memgen.base.errors import DataError
from memgen.images import remote
from memgen.images.importing import ImportSettings, import_images, read_images

AS_THEY_ARE = ImportSettings(deduplicate=False)
SOURCES = [
    "tars",
    "tars/001.tar",
    "tars/small.tar.gz",
    "rows",
    "rows/1.parquet:image",
    "pictures",
    "a.npy",
    "b.npz:two",
]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A folder with sources of every kind."""
    folder, rng = tmp_path_factory.mktemp("local"), np.random.default_rng(0)

    def png():
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(file, "PNG")
        return file.getvalue()

    for part in ("tars", "rows", "pictures/more"):
        (folder / part).mkdir(parents=True)
    for name, mode in (("000.tar", "w"), ("001.tar", "w"), ("small.tar.gz", "w:gz")):
        with tarfile.open(folder / "tars" / name, mode) as shard:
            for i in range(3):
                content = png()
                member = tarfile.TarInfo(f"{i}.png")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    for i in range(2):
        pq.write_table(pa.table({"image": [png() for _ in range(3)]}), folder / "rows" / f"{i}.parquet")
    for i in range(70):  # more than are fetched at a time
        (folder / "pictures" / ("more" if i % 2 else ".") / f"{i}.png").write_bytes(png())
    (folder / "pictures" / "notes.txt").write_text("no picture")
    one, two = rng.integers(0, 256, (2, 5, 8, 8), dtype=np.uint8)
    np.save(folder / "a.npy", one)
    np.savez(folder / "b.npz", one=one, two=two)
    return folder


@pytest.fixture
def store(local):
    """The same files in a store, which lives in the memory of this process."""
    system = fsspec.filesystem("memory")
    system.put(str(local), "/bucket", recursive=True)
    yield "memory://bucket"
    system.rm("/bucket", recursive=True)


@pytest.mark.parametrize("source", SOURCES)
def test_the_images_are_those_of_the_local_files(local, store, source):
    """Pixels, ids, names and what was skipped are the same; the recipe names the URL, with both of its slashes."""
    here, there = (import_images(Path(f"{root}/{source}"), AS_THEY_ARE) for root in (local, store))
    np.testing.assert_array_equal(there.images.pixels, here.images.pixels)
    assert there.images.ids == here.images.ids
    assert there.images.sources == here.images.sources
    assert there.skipped == here.skipped
    assert there.images.recipe == {**here.images.recipe, "source": f"{store}/{source}"}


@pytest.mark.parametrize(("source", "fetched"), [("tars", False), ("rows", False), ("pictures", True), ("a.npy", True)])
def test_tar_and_parquet_files_are_not_fetched(store, source, fetched):
    """They are read where they are, and bytes that were fetched are reported for all others."""
    reports = []
    with remote.here(Path(f"{store}/{source}"), lambda root: not fetched, lambda *done: reports.append(done)) as root:
        paths = [path for path in (root.rglob("*") if root.is_dir() else [root]) if path.is_file()]
        assert all(len(path.read_bytes()) == path.stat().st_size for path in paths)
        assert any(path.read_bytes().strip(b"\0") for path in paths) == fetched
        with remote.opened(paths[0]) as file:
            assert file.read().strip(b"\0")
    assert not root.exists()
    assert bool(reports) == fetched
    assert all(done <= total for done, total in reports)
    assert not fetched or reports[-1][0] == reports[-1][1] > 0


def test_nothing_is_fetched_of_shards(store, monkeypatch):
    """The readers of tar and Parquet files say themselves that they need nothing on the disk."""
    monkeypatch.setattr(remote, "_fetch", lambda *_: pytest.fail("fetched"))
    for source in ("tars", "tars/001.tar", "rows", "rows/1.parquet:image"):
        assert len(read_images(f"{store}/{source}", deduplicate=False)) >= 3


def test_single_files_come_over_http(local):
    """Files of a web server, also tar and Parquet files; what follows a question mark is no part of their names."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(local))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with contextlib.ExitStack() as stack:
            stack.callback(server.shutdown)
            root = f"http://127.0.0.1:{server.server_port}"
            for source in ("tars/001.tar", "rows/1.parquet", "a.npy"):
                here, there = (read_images(f"{at}/{source}", deduplicate=False) for at in (local, root))
                assert there.ids == here.ids
                assert there.sources == here.sources
            assert read_images(f"{root}/a.npy?key=7", deduplicate=False).sources[0] == "a.npy[0]"
            with pytest.raises(DataError, match=r"none.npy: no such file"):
                read_images(f"{root}/none.npy")


def test_a_path_may_be_written_as_a_url(local):
    """file:///PATH is the path, in this spelling and in that of pathlib."""
    assert len(read_images(f"file://{local}/a.npy", deduplicate=False)) == 5
    assert remote.absolute(Path(f"file://{local}/a.npy")) == str(local / "a.npy")
    assert remote.url_of("C:/images") is None


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://bucket/none", r"memory://bucket/none: no such file or folder .* Check the address"),
        ("memory://bucket/b.npz", r"memory://bucket/b.npz: found arrays one 5x8x8, two 5x8x8, expected one"),
        ("memory://bucket/b.npz:three", r"expected three"),
        ("zip://a.png::memory://bucket/x.zip", r"zip://: not a protocol .* s3"),
        ("smb://host/folder", r"smb://host/folder: needs a package .*smbprotocol"),
    ],
)
def test_what_cannot_be_read(store, url, message):
    """The message names the URL, never a temporary folder or a password."""
    with pytest.raises(DataError, match=message) as caught:
        read_images(url)
    assert "tmp" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_errors_of_a_store_say_what_to_do(store, monkeypatch):
    """Each store raises errors of its own."""
    system = type(fsspec.filesystem("memory"))

    class OwnError(Exception):
        pass

    def refused(*_, **__):
        raise PermissionError("denied")

    def odd(*_, **__):
        raise OwnError("signature")

    for raises, message in ((refused, r"not allowed \(denied\)\. Give .* credentials"), (odd, r"OwnError: signature")):
        monkeypatch.setattr(system, "info", raises)
        with pytest.raises(DataError, match=message):
            read_images(f"{store}/a.npy")


class OwnError(Exception):
    """What the package of a store raises."""


@pytest.mark.parametrize(
    "raised", [OSError("gone"), PermissionError("gone"), FileNotFoundError("gone"), OwnError("gone")]
)
@pytest.mark.parametrize(("source", "whole"), [("tars", 3), ("rows", 5), ("rows", 0), ("pictures", 9)])
def test_a_store_that_fails_ends_the_import(store, monkeypatch, source, whole, raised):
    """Whatever it raises, and wherever: images that did not come are no damaged ones, which would be left out."""
    read, left = type(fsspec.filesystem("memory").open("/bucket/a.npy")).read, [whole]

    def fails(self, size=-1):
        left[0] -= 1
        if left[0] < 0:
            raise raised
        return read(self, size)

    monkeypatch.setattr(type(fsspec.filesystem("memory").open("/bucket/a.npy")), "read", fails)
    with pytest.raises(DataError, match=rf"memory://bucket/{source}.*gone"):
        read_images(f"{store}/{source}")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://me:hush@host/x.npy", "https://host/x.npy"),
        ("https://hush@host/x.npy", "https://host/x.npy"),
        ("sftp://me:hush@host/x.npy", "sftp://me@host/x.npy"),
        ("abfs://box@account.net/x.npy", "abfs://box@account.net/x.npy"),
        ("https://host/x.npz?X-Amz-Date=1&X-Amz-Signature=hush:two", "https://host/x.npz:two"),
        ("https://host/x.npy?sv=1&sig=hush&se=2030-01-01T00:00:00Z", "https://host/x.npy"),
        ("https://host/get?file=x.npy&token=hush", "https://host/get?file=x.npy"),
        ("https://host/get?file=x.npz:two", "https://host/get?file=x.npz:two"),
        ("s3://bucket/x.npy?versionId=3", "s3://bucket/x.npy?versionId=3"),
    ],
)
def test_secrets_of_a_url_are_not_kept(given, kept):
    """Passwords, tokens and signatures are taken out; what says which file is meant stays."""
    assert remote.url_of(given) == remote.absolute(given) == kept
    assert remote.named(given) == kept


def test_no_file_of_a_run_has_a_secret(local, tmp_path):
    """The command fetches with what it was given, also from a config, and keeps and prints the URL without it."""
    asked = []

    class Signed(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def send_head(self):
            asked.append(self.path)
            if "X-Amz-Signature=hush" not in self.path:
                self.send_error(403)
                return None
            return super().send_head()

    handler = functools.partial(Signed, directory=str(local))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        try:
            given = ("--set", "split.holdout=1", "--set", "sweep.n_train=[1]", "--outputs", tmp_path / "o")
            (tmp_path / "own.toml").write_text(f'[data]\nsource = "{root}/b.npz?X-Amz-Signature=hush:two"\n')
            memgen("data", "import", f"{root}/a.npy?X-Amz-Signature=hush", *given, "--run", "option").done()
            memgen("data", "import", "--config", tmp_path / "own.toml", *given, "--run", "config").done()
            remote._whole.clear()  # as in another process
            with pytest.raises(DataError, match=r"a\.npy: cannot be read .*403") as caught:
                read_images(f"{root}/a.npy")
            with pytest.raises(DataError) as missing:
                read_images(f"{root}/none.npy?X-Amz-Signature=hush")
        finally:
            server.shutdown()
    with pytest.raises(DataError, match=r"a\.npy: cannot be read .*network"):  # the server is gone
        read_images(f"{root}/a.npy")
    assert any("hush" in path for path in asked)
    assert "hush" not in str(caught.value) + str(missing.value)
    for path in (tmp_path / "o").rglob("*"):
        assert not path.is_file() or b"hush" not in path.read_bytes(), path
    states = [json.loads((tmp_path / "o" / run / "run.json").read_text()) for run in ("option", "config")]
    assert [state["config"]["data"]["source"] for state in states] == [f"{root}/a.npy", f"{root}/b.npz:two"]


def test_what_comes_cut_off_is_refused(store, monkeypatch):
    """The store states another size than what arrives."""
    system, info = fsspec.filesystem("memory"), fsspec.filesystem("memory").info
    monkeypatch.setattr(type(system), "info", lambda self, path: {**info(path), "size": 7_000})
    with pytest.raises(DataError, match=r"a\.npy came cut off \([0-9,]+ of 7,000 bytes\)"):
        read_images(f"{store}/a.npy")


def test_too_much_for_the_disk_is_refused_before_it_is_fetched(store, monkeypatch):
    """The message says how much room there is."""
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(DataError, match=r"takes [0-9,]+ bytes, and .* has room for 10\. Set TMPDIR"):
        read_images(f"{store}/pictures")


def listing(monkeypatch, *more):
    """Let the store list more objects, each (name, size)."""
    system, find = type(fsspec.filesystem("memory")), fsspec.filesystem("memory").find
    added = {name: {"name": name, "size": size, "type": "file"} for name, size in more}
    monkeypatch.setattr(system, "find", lambda self, path, **options: find(path, **options) | added)


@pytest.mark.parametrize(
    "name", ["/bucket/pictures/../evil.png", "/bucket/pictures/", "/bucket/elsewhere.png", "/bucket/pictures/more"]
)
def test_names_that_no_folder_can_hold_are_refused(store, monkeypatch, name):
    """A store may list a name that would be written outside of the folder, or a file and a folder of one name."""
    listing(monkeypatch, (name, 3))
    with pytest.raises(DataError, match="which no folder can hold"):
        read_images(f"{store}/pictures")


def test_objects_that_stand_for_folders_are_no_files(local, store, monkeypatch):
    """The consoles of stores make an empty object with a slash at its end where a person makes a folder."""
    listing(monkeypatch, ("/bucket/tars/", 0), ("/bucket/tars", 0), ("/bucket/tars/empty/", 0))
    assert read_images(f"{store}/tars").ids == read_images(local / "tars").ids


def test_commands_take_urls(store, tmp_path):
    """An import and an audit state the URL, and the audit compares sets of a store with local ones."""
    given = ("--set", "split.holdout=10", "--set", "sweep.n_train=[1]", "--set", "data.deduplicate=false")
    memgen("data", "import", f"{store}/pictures", *given, "--outputs", tmp_path, "--run", "far").done()
    recipe = json.loads((tmp_path / "far" / "run.json").read_text())
    assert recipe["config"]["data"]["source"] == f"{store}/pictures"
    audit = ("audit", f"{store}/a.npy", f"{store}/pictures", "--holdout", f"{store}/tars", "--space", "pixels")
    memgen(*audit, "--outputs", tmp_path, "--run", "audit").done()
    sets = json.loads((tmp_path / "audit" / "audit.json").read_text())["sets"]
    assert [each["source"] for each in sets.values()] == [f"{store}/a.npy", f"{store}/pictures", f"{store}/tars"]
