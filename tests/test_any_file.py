"""No file ends in a traceback: whatever its bytes, type or shape, it is imported or refused with a reason."""

import warnings
import zipfile

import numpy as np
import picture_files
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from memgen.base.errors import DataError
from memgen.images.importing import ImportSettings, import_images

FEW = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
CASES = {f"{case.suffix} {case.name}": case for case in picture_files.cases()}
# One file of each kind, and one of each way in which memgen itself takes it apart.
KINDS = list({case.suffix: name for name, case in CASES.items()}.values())
KINDS += [
    "png 16-bit RGBA over white", "png 16-bit gray with opacity over white", "png 4-bit palette", "tif 12-bit RGB",
    "tif f4 minisblack > zlib", "tif i2 in tiles, predictor", "tif u2 RGB separate < uncompressed", "tif u1 CMYK",
]  # fmt: skip


def comes_in_or_is_refused(path, **given):
    """The number of images of a file; 0 if it is refused. Any other end fails the test."""
    try:
        found = import_images(path, ImportSettings(deduplicate=False, **given))
    except DataError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert str(path) in message
        assert "\n" not in message
        return 0
    pixels = found.images.pixels
    assert pixels.dtype in (np.uint8, np.float32)
    assert pixels.dtype == np.uint8 or (pixels.min() >= 0 and pixels.max() <= 1)
    return len(pixels)


@pytest.mark.parametrize("name", KINDS)
def test_damaged_pictures(tmp_path, name):
    """A picture that is cut short or has some bytes changed is imported or left out with a reason."""
    case = CASES[name]
    path = tmp_path / f"a.{case.suffix}"

    @FEW
    @given(
        st.integers(0, len(case.data)),
        st.lists(st.tuples(st.integers(0, len(case.data) - 1), st.integers(0, 255)), max_size=4),
    )
    def damaged(length, changes):
        data = bytearray(case.data)
        for at, value in changes:
            data[at] = value
        path.write_bytes(data[: length if length % 2 else None])
        comes_in_or_is_refused(path, range=case.range)

    damaged()


SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 7]), max_size=5).map(tuple)
TYPES = ["?", "u1", "i1", "<u2", ">u2", "i2", "u4", "i4", ">i4", "u8", "i8", "f2", "f4", ">f4", "f8", "g", "c8", "c16"]
TYPES += ["S3", "U2", "V4", "M8[s]", "m8[D]", "u1,f4"]


@FEW
@given(
    st.integers(0, 2**32), st.sampled_from(TYPES), SHAPES, st.sampled_from(["a.npy", "a.npz"]), st.booleans()
)  # fmt: skip
def test_any_array(tmp_path_factory, seed, dtype, shape, name, with_range):
    """An array of any type and shape, of any bytes, is imported or refused by name."""
    path = tmp_path_factory.getbasetemp() / name
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    array = np.frombuffer(np.random.default_rng(seed).bytes(size), dtype=dtype).reshape(shape)
    (np.save if name.endswith("npy") else np.savez)(path, array)
    comes_in_or_is_refused(path, range="-5,100000" if with_range else None)


@pytest.mark.parametrize(
    "dtype", sorted({str(value) for value in vars(torch).values() if isinstance(value, torch.dtype)})
)
def test_any_tensor(tmp_path, dtype):
    """A tensor of any type that torch can keep is imported or refused by name."""
    try:
        warnings.simplefilter("ignore")  # of torch, about types that it supports in part
        tensor = torch.zeros((2, 5, 6), dtype=getattr(torch, dtype.removeprefix("torch.")))
        torch.save(tensor, tmp_path / "a.pt")
    except (RuntimeError, TypeError, NotImplementedError, KeyError):
        pytest.skip("torch makes no such tensor, or does not save it")
    assert comes_in_or_is_refused(tmp_path / "a.pt", range="0,1") in (0, 2)


@pytest.mark.parametrize(
    "value",
    [None, 3, [], {}, (), [[]], {"a": None}, [torch.zeros(2), torch.zeros(3)], {1: torch.zeros(2, 3, 4)},
     torch.zeros(3, 4).to_sparse(), torch.zeros(2, 5, 6).to_sparse(), [torch.zeros(5, 6), torch.zeros(5, 6)]],
    ids=str,
)  # fmt: skip
def test_any_collection_of_tensors(tmp_path, value):
    """Whatever torch.save keeps without executing anything is imported or refused by name."""
    torch.save(value, tmp_path / "a.pt")
    comes_in_or_is_refused(tmp_path / "a.pt")


def test_damaged_archives(tmp_path):
    """A ZIP archive with some bytes changed is imported or refused by name."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(3):
            archive.writestr(f"{index}.png", picture_files.saved(Image.new("L", (5, 5), index), "png"))
    whole = path.read_bytes()

    @FEW
    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=4))
    def damaged(changes):
        data = bytearray(whole)
        for at, value in changes:
            data[at] = value
        path.write_bytes(data)
        comes_in_or_is_refused(path)

    damaged()
