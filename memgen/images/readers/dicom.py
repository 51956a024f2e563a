"""Images from DICOM files: every frame of a file, or of all files of a folder, series by series.

A group is a patient (PatientID). A file that states none belongs to the group of its series, and so do all files if
they state one and the same patient, as an anonymizer may leave them.

Stored values become measured ones by the rescale slope and intercept, and black and white are those of the first
window:

    black = c - 1/2 - (w - 1)/2, white = c - 1/2 + (w - 1)/2    window of center c and width w, function LINEAR
    black = c - w/2,             white = c + w/2                 function LINEAR_EXACT

Source: DICOM PS3.3 C.11.1 (modality), C.11.2.1.2 and C.11.2.1.3.2 (window); C.7.6.2.1.1 (position of a slice);
C.7.6.16.2 (the same of multi-frame files).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from memgen.base.progress import Progress
from memgen.images import names, scans
from memgen.images.folders import all_files, files_of
from memgen.images.frames import UnusableError
from memgen.images.levels import Range
from memgen.images.prepare import FoundImages, ReadSettings

ORDER = 0
KIND = "a DICOM file or a folder of such files"

# Uncompressed, and run lengths: what pydicom decodes by itself, wherever memgen runs.
_DECODED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5")
_HEAD = ["PatientID", "SeriesInstanceUID", "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient"]


def reads(source: Path) -> bool:
    """Whether a file has DICM at byte 128, whatever its name, or all files of a folder have that can be read."""
    return all_files(source, _is_dicom) if source.is_dir() else source.is_file() and bool(_is_dicom(source))


def read(source: Path, settings: ReadSettings, report: Progress) -> FoundImages:
    """The frames of one or more files; see `readers.Reader` and `scans`."""
    pydicom = scans.needs("pydicom", source)
    scans.needs("pydicom.pixels", source)
    folder = source if source.is_dir() else source.parent
    files, skipped = files_of(folder, lambda name: "") if source.is_dir() else ([source.name], {})
    left_out = {names.escaped(name): reason for name, reason in skipped.items()}
    found = scans.Scans(source, settings, left_out, len(files), "DICOM")
    heads: list[_Head] = []
    with scans.quiet("pydicom"):
        for done, name in enumerate(files):
            report(done, 2 * len(files))
            with found.listed(names.escaped(name)):
                heads.append(_head(pydicom, folder / name, name))
        heads = _by_patient(heads)
        for done, head in enumerate(_ordered(heads)):
            report(len(files) + done, 2 * len(files))
            if found.is_full:
                break
            with found.listed(names.escaped(head.name)):
                _add(found, pydicom, folder / head.name, head)
    report(2 * len(files), 2 * len(files))
    return replace(found.finished_scans(), of_groups=_unstated(heads))


def _by_patient(heads: Sequence["_Head"]) -> list["_Head"]:
    """The same files, each with the group that it belongs to."""
    several = len({head.patient for head in heads if head.patient}) > 1
    return [head._replace(group=head.patient if several and head.patient else head.series) for head in heads]


def _unstated(heads: Sequence["_Head"]) -> list[str]:
    """What to tell the person where several series are groups because no patient tells them apart; else nothing."""
    of_series = [head for head in heads if head.group == head.series]
    series = len({head.series for head in of_series})
    if series < 2:
        return []
    patient = of_series[0].patient
    why = f"{len(of_series):,} files state one patient ({patient})" if patient else "Files state no patient (PatientID)"
    return [
        f"{why}, so each of their {series:,} series is a group of its own. Series of one patient look alike, so copies "
        "may be reported where there are none. If patients were divided as a whole, say so with a CSV file of the "
        "columns file and group: --groups CSV."
    ]


class _Head(NamedTuple):
    """What orders a file among others, and the group that it belongs to."""

    series: str
    position: float | None
    number: int
    name: str
    patient: str
    group: str = ""


def _head(pydicom: Any, path: Path, name: str) -> _Head:
    syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID", "none")
    if syntax not in _DECODED:
        raise UnusableError(
            f"compressed ({getattr(syntax, 'name', syntax)}), which is not read; save it uncompressed or with RLE"
        )
    stated = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_HEAD)
    series = names.escaped(str(stated.get("SeriesInstanceUID") or PurePosixPath(name).parent))
    number = stated.get("InstanceNumber")
    patient = names.escaped(str(stated.get("PatientID") or "").strip())
    return _Head(series, _position(stated), 0 if number is None else int(number), name, patient)


def _position(stated: Any) -> float | None:
    """Where a slice lies along the normal of its plane, in mm; None where the file does not say."""
    try:
        row, column = np.reshape(np.array(stated.ImageOrientationPatient, dtype=float), (2, 3))
        at = float(np.cross(row, column) @ np.array(stated.ImagePositionPatient, dtype=float))
    except (AttributeError, ValueError, TypeError):
        return None
    return round(at, 3) if np.isfinite(at) else None


def _ordered(heads: Sequence[_Head]) -> list[_Head]:
    """Series by series; in each by position, if all of its files state one, then by number, then by name."""
    unplaced = {head.series for head in heads if head.position is None}
    return sorted(
        heads, key=lambda each: (each.series, 0 if each.series in unplaced else each.position, each.number, each.name)
    )


def _add(found: scans.Scans, pydicom: Any, path: Path, head: _Head) -> None:
    """Add the frames of a file, or the reasons why not."""
    stated, name = pydicom.dcmread(path, stop_before_pixels=True), names.escaped(head.name)
    if "Rows" not in stated or "Columns" not in stated:
        raise UnusableError("holds no image")
    kind, count = str(stated.get("PhotometricInterpretation", "none")), int(stated.get("NumberOfFrames") or 1)
    if stated.get("SamplesPerPixel") != 1 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnusableError(f"colors ({kind}) are not read; save it in gray (MONOCHROME2), or as a PNG")
    scans.check_size(int(stated.Columns), int(stated.Rows), count)
    frames = pydicom.pixels.iter_pixels(path, raw=True, decoding_plugin="pydicom")
    for number, stored in enumerate(frames):  # after damage, the rest of the file is left out
        if found.is_full:
            break
        title = names.frame(name, number + 1, count)
        with found.listed(title):
            transformed = _part(stated, number, "PixelValueTransformationSequence")
            values = pydicom.pixels.apply_modality_lut(stored, transformed)
            window, unread = _window(_part(stated, number, "FrameVOILUTSequence"))
            found.add(title, values, window, head.group, kind == "MONOCHROME1", unread)


def _part(stated: Any, number: int, sequence: str) -> Any:
    """What a file states of a frame in a sequence: for the frame itself, for all frames, or at the top."""
    each, shared = stated.get("PerFrameFunctionalGroupsSequence"), stated.get("SharedFunctionalGroupsSequence")
    for group in ([each[number]] if each else []) + ([shared[0]] if shared else []):
        if group.get(sequence):
            return group.get(sequence)[0]
    return stated


def _window(stated: Any) -> tuple[Range | None, str]:
    """The values that a file wants shown black and white, and what it states instead of them that is not read."""
    center, width = (_first(stated.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is None or width is None:
        return None, "a table for its window (VOI LUT)" if stated.get("VOILUTSequence") else ""
    function = str(stated.get("VOILUTFunction") or "LINEAR")
    if function not in ("LINEAR", "LINEAR_EXACT"):
        return None, f"a window of the function {names.escaped(function)}"
    half = (width - 1) / 2 if function == "LINEAR" else width / 2
    middle = center - 0.5 if function == "LINEAR" else center
    if not (np.isfinite(middle) and half > 0):
        return None, f"a window of center {center:g} and width {width:g}"
    return Range(middle - half, middle + half), ""


def _first(value: Any) -> float | None:
    """The first of one or more numbers; None where there is none."""
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return None if not several or several[0] in (None, "") else float(several[0])


def _is_dicom(path: Path) -> bool | None:
    """Whether DICM stands at byte 128; None of a file that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return None
