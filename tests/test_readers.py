"""The readers of images: each module follows the interface, and a new format is one new file."""

import sys

import numpy as np
import pytest

from memgen.base.errors import DataError
from memgen.images import readers
from memgen.images.importing import ImportSettings, import_images

PLAIN = ImportSettings(deduplicate=False)

# All that a new format needs: gray images as plain text, in a folder of their own kind.
TEXT_READER = '''
"""Images from a folder of text files, one image a file, one row a line."""

import numpy as np

from memgen.images.arrays import from_array

ORDER = 0
KIND = "a folder of text files"


def reads(source):
    return (source / "text_images").is_file()


def read(source, settings, report):
    return from_array(source, np.stack([np.loadtxt(path) for path in sorted(source.glob("*.txt"))]), settings, report)
'''


@pytest.fixture
def text_reader(tmp_path, monkeypatch):
    """A package of readers with one file more."""
    folder = tmp_path / "more_readers"
    folder.mkdir()
    (folder / "text_folder.py").write_text(TEXT_READER)
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(folder)])
    yield
    sys.modules.pop("memgen.images.readers.text_folder", None)
    vars(readers).pop("text_folder", None)


def test_every_reader_follows_the_interface():
    """Every module of the package defines what a reader defines, and says in a few words what it reads."""
    found = readers.all_readers()
    assert all(isinstance(reader, readers.Reader) for reader in found)
    names = [reader.__name__.rpartition(".")[2] for reader in found]
    assert {"idx", "numpy_file", "torch_file"} < set(names)
    assert names[-1] == "pictures"  # it takes every folder, so it is asked last
    assert all(reader.KIND.startswith(("a ", "an ")) for reader in found)


def test_a_new_format_is_one_new_file(tmp_path, text_reader):
    """A reader that lies in the package is found, asked before the reader of all folders, and named in errors."""
    images = np.random.default_rng(0).random((3, 6, 7)).astype(np.float32)
    (tmp_path / "mine").mkdir()
    for index, image in enumerate(images):
        np.savetxt(tmp_path / "mine" / f"{index}.txt", image)
    with pytest.raises(DataError, match="no usable image"):
        import_images(tmp_path / "mine", PLAIN)
    (tmp_path / "mine" / "text_images").touch()
    found = import_images(tmp_path / "mine", PLAIN).images
    np.testing.assert_array_equal(found.pixels[:, 0], images)
    assert found.sources == ("mine[0]", "mine[1]", "mine[2]")
    assert import_images(tmp_path / "mine", ImportSettings(resize=4, color="rgb")).images.image_shape == (3, 4, 4)
    with pytest.raises(DataError, match=r"no such file or folder.*memgen reads .*; a folder of text files; "):
        import_images(tmp_path / "gone", PLAIN)


def test_errors_name_every_kind_that_is_read(tmp_path):
    """What cannot be read is refused with the kinds that can, as their readers state them."""
    (tmp_path / "a.txt").write_text("hello")
    for name in ("a.txt", "gone.npy"):
        with pytest.raises(DataError) as caught:
            import_images(tmp_path / name, PLAIN)
        assert all(reader.KIND in str(caught.value) for reader in readers.all_readers())


def test_an_empty_file_is_refused(tmp_path):
    """An empty file is refused as such, whatever its suffix says it is."""
    for name in ("a.npy", "a.pt", "a.png", "a-idx3-ubyte"):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match=rf"{name}: empty file"):
            import_images(tmp_path / name, PLAIN)
