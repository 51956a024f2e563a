"""DICOM files of known pixels come in with the right window, order and group, or are refused by name."""

import sys

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import compress
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from memgen.base.errors import DataError
from memgen.images import readers
from memgen.images.importing import ImportSettings, import_images
from memgen.images.readers import dicom

PLAIN = ImportSettings(deduplicate=False)
CT = np.random.default_rng(0).integers(0, 4096, (6, 7, 5)).astype(np.uint16)  # stored values
HU = CT.astype(np.float64) - 1024


def scan(path, pixels, syntax=ExplicitVRLittleEndian, **tags):
    """A file of stored values (H, W) or (frames, H, W); a tag of the value None is left out."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID = CTImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID = "1.2.3"
    file.file_meta.TransferSyntaxUID = syntax if syntax != RLELossless else ExplicitVRLittleEndian
    file.Rows, file.Columns = pixels.shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated = file.BitsStored = 8 * pixels.itemsize
    file.HighBit, file.PixelRepresentation = file.BitsStored - 1, int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        file.NumberOfFrames = len(pixels)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    file.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    file.PixelData += b"\0" * (len(file.PixelData) % 2)
    file["PixelData"].VR = "OW" if pixels.itemsize > 1 else "OB"
    for name, value in tags.items():
        if value is None:
            delattr(file, name)
        else:
            setattr(file, name, value)
    if syntax == RLELossless:
        compress(file, RLELossless)
    file.save_as(path, enforce_file_format=True)
    return path


def shown(values, center, width):
    """The window of PS3.3 C.11.2.1.2, as its pseudocode has it, from 0 to 1."""
    low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    inside = (values - (center - 0.5)) / (width - 1) + 0.5
    return np.where(values <= low, 0, np.where(values > high, 1, inside))


def reasons(found):
    return {row["source"]: row["reason"] for row in found.skipped.to_pylist()}


RESCALED = {"RescaleSlope": 1, "RescaleIntercept": -1024}
WINDOW = RESCALED | {"WindowCenter": [40, 600], "WindowWidth": [400, 2000]}


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless],
    ids=lambda uid: uid.name,
)
def test_the_window_is_that_of_the_standard(tmp_path, syntax):
    """16-bit values become measured ones, the first window gives black and white, and what lies beyond is clipped."""
    found = import_images(scan(tmp_path / "slice", CT[0], syntax, **WINDOW), PLAIN)
    assert found.images.pixels.dtype == np.float32
    np.testing.assert_allclose(found.images.pixels[0, 0], shown(HU[0], 40, 400), atol=1e-6)
    assert found.images.sources == ("slice",)
    assert found.images.groups == (".",)
    assert found.warnings == []


def test_kinds_of_windows(tmp_path):
    """LINEAR_EXACT has its own ends; other functions, tables and windows of no width are refused with a range."""
    exact = scan(tmp_path / "a.dcm", CT[0], **WINDOW | {"VOILUTFunction": "LINEAR_EXACT"})
    pixels = import_images(exact, PLAIN).images.pixels[0, 0]
    np.testing.assert_allclose(pixels, np.clip((HU[0] - 40) / 400 + 0.5, 0, 1), atol=1e-6)
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [2, 0, 16], b"\0\0\1\0"
    table["LUTData"].VR = "OW"
    for tags, words in (
        (WINDOW | {"VOILUTFunction": "SIGMOID"}, "a window of the function SIGMOID"),
        (RESCALED | {"VOILUTSequence": [table]}, r"a table for its window \(VOI LUT\)"),
        (WINDOW | {"WindowWidth": 1}, "a window of center 40 and width 1"),
    ):
        path = scan(tmp_path / "b.dcm", CT[0], **tags)
        with pytest.raises(DataError, match=rf"states {words}, which is not read\. .*--range -\d+,\d+"):
            import_images(path, PLAIN)
        assert len(import_images(path, ImportSettings(range="-1024,3071")).images) == 1


def test_the_range_of_the_person(tmp_path):
    """Without a window a range must be given; it holds for all files, and values beyond it are refused."""
    scan(tmp_path / "a.dcm", CT[0], **RESCALED)
    scan(tmp_path / "b.dcm", CT[1], **WINDOW)
    with pytest.raises(DataError, match=r"a\.dcm: no usable image .*DICOM pixels with values.*--range -\d+,\d+"):
        import_images(tmp_path / "a.dcm", PLAIN)
    found = import_images(tmp_path, PLAIN)
    assert found.images.sources == ("b.dcm",)
    assert "does not state which value is white" in reasons(found)["a.dcm"]
    found = import_images(tmp_path, ImportSettings(deduplicate=False, range="-1024,3071"))
    np.testing.assert_allclose(found.images.pixels[:, 0], (HU[:2] + 1024) / 4095, atol=1e-6)
    with pytest.raises(DataError, match="beyond --range 0,400"):
        import_images(tmp_path, ImportSettings(range="0,400"))


@pytest.mark.parametrize("given", [None, "0,4095"])
def test_white_may_be_the_smallest_value(tmp_path, given):
    """MONOCHROME1 is turned around, with a window and with a range."""
    window = {"WindowCenter": 2048, "WindowWidth": 4096, "PhotometricInterpretation": "MONOCHROME1"}
    found = import_images(scan(tmp_path / "a", CT[0], **window), ImportSettings(range=given))
    np.testing.assert_allclose(found.images.pixels[0, 0], 1 - CT[0] / 4095, atol=1e-6)


def test_signed_values_and_unused_bits(tmp_path):
    """Signed values keep their sign, and bits beyond those stored do not count."""
    signed = HU[0].astype(np.int16)
    found = import_images(scan(tmp_path / "a", signed, WindowCenter=40, WindowWidth=400), PLAIN)
    np.testing.assert_allclose(found.images.pixels[0, 0], shown(HU[0], 40, 400), atol=1e-6)
    tags = {"BitsStored": 12, "HighBit": 11, "WindowCenter": 2048, "WindowWidth": 4096}
    found = import_images(scan(tmp_path / "b", CT[0] | 0xF000, **tags), PLAIN)
    np.testing.assert_allclose(found.images.pixels[0, 0], CT[0] / 4095, atol=1e-6)


def test_a_folder_in_the_order_of_its_series(tmp_path):
    """Slices lie by position along the normal, or by number where a slice has no position; a series is a group."""
    axial = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    places = {"x": 2, "y": 0, "z": 1}
    (tmp_path / "patient").mkdir()
    for index, (name, place) in enumerate(places.items()):
        at = axial | {"ImagePositionPatient": [0, 0, 2.5 * place], "InstanceNumber": index, "SeriesInstanceUID": "1.1"}
        scan(tmp_path / "patient" / name, CT[index], **WINDOW, **at)
    for index, name in enumerate(("n2", "n1")):
        tags = {"InstanceNumber": 2 - index, "SeriesInstanceUID": "1.0"}
        scan(tmp_path / name, CT[3 + index], **WINDOW, **tags)
    scan(tmp_path / "patient" / "alone", CT[5], **WINDOW)
    found = import_images(tmp_path, PLAIN)
    assert found.images.sources == ("n1", "n2", "patient/y", "patient/z", "patient/x", "patient/alone")
    assert found.images.groups == ("1.0", "1.0", "1.1", "1.1", "1.1", "patient")
    expected = shown(HU[[4, 3, 1, 2, 0, 5]], 40, 400)
    np.testing.assert_allclose(found.images.pixels[:, 0], expected, atol=1e-6)
    by_folder = import_images(tmp_path, ImportSettings(deduplicate=False, groups="folder")).images
    assert by_folder.groups == (".", ".", "patient", "patient", "patient", "patient")


def test_a_group_is_a_patient(tmp_path):
    """Series of one patient are one group. Files without a patient are told of, and stay in series of their own."""
    stated = (("P1", "1.1"), ("P1", "1.2"), ("P2", "1.3"), ("", "1.4"), (" ", "1.5"))
    for index, (patient, series) in enumerate(stated):
        scan(tmp_path / f"{index}.dcm", CT[index], **WINDOW, PatientID=patient, SeriesInstanceUID=series)
    found = import_images(tmp_path, PLAIN)
    assert found.images.groups == ("P1", "P1", "P2", "1.4", "1.5")
    (told,) = found.warnings
    assert told.startswith("Files state no patient (PatientID), so each of their 2 series is a group of its own.")
    assert not import_images(tmp_path, ImportSettings(deduplicate=False, groups="file")).warnings
    (tmp_path / "4.dcm").unlink()
    assert not import_images(tmp_path, PLAIN).warnings


def test_one_patient_for_all_files_tells_nothing_apart(tmp_path):
    """Where an anonymizer left one PatientID, series are groups, and the person is told."""
    for index in range(3):
        scan(tmp_path / f"{index}", CT[index], **WINDOW, PatientID="ANON", SeriesInstanceUID=f"1.{index}")
    found = import_images(tmp_path, PLAIN)
    assert found.images.groups == ("1.0", "1.1", "1.2")
    (told,) = found.warnings
    assert told.startswith("3 files state one patient (ANON), so each of their 3 series is a group of its own.")


def test_frames_of_a_file(tmp_path):
    """Each frame is an image, with its own window and slope where the file states one for each frame."""
    frames = []
    for slope in (1, 2):
        frame, lut, voi = Dataset(), Dataset(), Dataset()
        lut.RescaleSlope, lut.RescaleIntercept, lut.RescaleType = slope, 0, "US"
        voi.WindowCenter, voi.WindowWidth = 2048 * slope, 4096 * slope
        frame.PixelValueTransformationSequence, frame.FrameVOILUTSequence = [lut], [voi]
        frames.append(frame)
    path = scan(tmp_path / "a.dcm", CT[:2], PerFrameFunctionalGroupsSequence=frames, SeriesInstanceUID="1.9")
    found = import_images(path, PLAIN)
    assert found.images.sources == ("a.dcm#1", "a.dcm#2")
    assert found.images.groups == ("1.9", "1.9")
    expected = [shown(CT[0], 2048, 4096), shown(2.0 * CT[1], 4096, 8192)]
    np.testing.assert_allclose(found.images.pixels[:, 0], expected, atol=1e-6)
    (warning,) = found.warnings
    assert "The files state 2 different windows, such as 0,4095 (a.dcm#1) and 0,8191 (a.dcm#2)" in warning
    assert len(import_images(path, ImportSettings(limit=1)).images) == 1
    shared = scan(tmp_path / "b.dcm", CT[:2], SharedFunctionalGroupsSequence=frames[:1])
    np.testing.assert_allclose(import_images(shared, PLAIN).images.pixels[:, 0], CT[:2] / 4095, atol=1e-6)


def test_what_cannot_be_decoded_is_refused_by_name(tmp_path):
    """Compressed files, colors, files without pixels, damaged and huge ones are listed, and the rest comes in."""
    scan(tmp_path / "good", CT[0], **WINDOW)
    scan(tmp_path / "wide", CT[0], Columns=60_000, Rows=60_000)
    scan(tmp_path / "rgb", np.zeros((3, 7, 5), np.uint8), SamplesPerPixel=3, PhotometricInterpretation="RGB",
         PlanarConfiguration=1, NumberOfFrames=None)  # fmt: skip
    scan(tmp_path / "none", CT[0], Rows=None, PixelData=None)
    scan(tmp_path / "short", CT[1], PixelData=b"\0\0", **WINDOW)
    scan(tmp_path / "deflated", CT[0], DeflatedExplicitVRLittleEndian)
    path = scan(tmp_path / "jpeg", CT[0])
    path.write_bytes(path.read_bytes().replace(ExplicitVRLittleEndian.encode() + b"\0", JPEG2000Lossless.encode()[:20]))
    head = (tmp_path / "good").read_bytes()
    (tmp_path / "cut").write_bytes(head[:300])
    found = import_images(tmp_path, PLAIN)
    assert found.images.sources == ("good",)
    given = reasons(found)
    assert set(given) == {"wide", "rgb", "none", "short", "deflated", "jpeg", "cut"}
    assert given["wide"].startswith("too large (60,000 x 60,000 pixels, 1 slices")
    assert given["rgb"] == "colors (RGB) are not read; save it in gray (MONOCHROME2), or as a PNG"
    assert given["none"] == "holds no image"
    assert given["deflated"].startswith("compressed (Deflated Explicit VR Little Endian)")
    assert given["jpeg"].startswith("compressed (")
    assert given["short"].startswith("damaged (")


def test_only_folders_of_dicom_files_are_taken(tmp_path):
    """A file is known by its bytes and not by its name; another file in the folder hands it to the other readers."""
    scan(tmp_path / "a.png", CT[0], **WINDOW)
    assert dicom.reads(tmp_path / "a.png")
    assert dicom.reads(tmp_path)
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert dicom.reads(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert not dicom.reads(tmp_path)
    (tmp_path / "void").mkdir()
    assert not dicom.reads(tmp_path / "void")


def test_without_the_extra(tmp_path, monkeypatch):
    """Where pydicom is not installed, the error says how to install it."""
    path = scan(tmp_path / "a", CT[0], **WINDOW)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"a: reading it needs pydicom.*pip install -c constraints.txt '.\[medical\]'"):
        import_images(path)


def test_it_is_among_the_readers():
    """The reader is found without being named anywhere, and follows the interface."""
    assert dicom in readers.all_readers()
    assert isinstance(dicom, readers.Reader)
    assert pydicom.__version__ >= "3"
