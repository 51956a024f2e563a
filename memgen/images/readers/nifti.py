"""Images from volumes in NIfTI files: the slices along the last axis, in the order of the file.

Slices are as the file holds them and are not turned: its first axis goes right and its second down, whatever these are
in the patient. Of several volumes in a file, the slices of the first come first. A volume (a file) is a group.
"""

import gzip
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from memgen.base.progress import Progress
from memgen.images import archives, names, scans
from memgen.images.folders import all_files, files_of
from memgen.images.frames import UnusableError
from memgen.images.levels import Range
from memgen.images.prepare import FoundImages, ReadSettings

ORDER = 0
KIND = "a NIfTI file or a folder of such files (.nii, .nii.gz)"

_SUFFIXES = (".nii", ".nii.gz")
_GZIP = b"\x1f\x8b"
_VERSIONS = {348: "Nifti1Image", 540: "Nifti2Image"}  # by the size of the header, the first number in it


def reads(source: Path) -> bool:
    """Whether a file has the suffix of a NIfTI file, or a folder holds nothing else."""
    if source.is_dir():
        return all_files(source, lambda path: _is_nifti(path.name))
    return source.is_file() and _is_nifti(source.name)


def read(source: Path, settings: ReadSettings, report: Progress) -> FoundImages:
    """The slices of one or more volumes; see `readers.Reader` and `scans`."""
    nibabel = scans.needs("nibabel", source)
    folder = source if source.is_dir() else source.parent
    files, skipped = files_of(folder, lambda name: "") if source.is_dir() else ([source.name], {})
    left_out = {names.escaped(name): reason for name, reason in skipped.items()}
    found = scans.Scans(source, settings, left_out, len(files), "NIfTI")
    with scans.quiet("nibabel.global"):
        for done, name in enumerate(files):
            report(done, len(files))
            if found.is_full:
                break
            with found.listed(names.escaped(name)), open(folder / name, "rb") as file:
                _add(found, nibabel, file, names.escaped(name))
    report(len(files), len(files))
    return found.finished_scans()


class _Unpacked(gzip.GzipFile):
    """The unpacked bytes of a file, of which nobody may ask for too many at once, whatever a header says."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= archives.LARGEST:
            raise UnusableError("damaged (its header states too many bytes)")
        return super().read(size)


def _add(found: scans.Scans, nibabel: Any, file: BinaryIO, name: str) -> None:
    """Add the slices of a file, or the reasons why not."""
    packed = file.seek(0, os.SEEK_END)
    file.seek(0)
    is_packed = file.read(2) == _GZIP
    file.seek(0)
    stream = _Unpacked(fileobj=file) if is_packed else file
    start = stream.read(4)
    stream.seek(0)
    version = _VERSIONS.get(int.from_bytes(start, "little")) or _VERSIONS.get(int.from_bytes(start, "big"))
    if version is None:
        raise UnusableError("not a NIfTI file")
    volume = getattr(nibabel, version).from_stream(stream)
    header, shape = volume.header, tuple(map(int, volume.shape))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if not 2 <= len(shape) <= 4:
        raise UnusableError(
            f"has {len(shape)} dimensions ({' x '.join(map(str, shape))}), expected up to 4: save each volume by itself"
        )
    kind = header.get_data_dtype()
    if kind.names:
        raise UnusableError("colors are not read; save the volume in gray, or its slices as pictures")
    count = math.prod(shape[2:])
    scans.check_size(shape[0], shape[1], count)
    unpacked = math.prod(shape) * kind.itemsize
    if is_packed and unpacked > archives.most_unpacked(packed):
        raise UnusableError(
            f"too large ({packed:,} bytes that unpack to {unpacked:,}, as those of an attack on the memory do; save it "
            "without compression)"
        )
    window = _window(float(header["cal_min"]), float(header["cal_max"]))
    extra = (0,) * (volume.ndim - len(shape))
    for number, index in enumerate(np.ndindex(*shape[:1:-1])):
        if found.is_full:
            break
        # Outside of the list of slices: after damage, each further slice would be searched for from the start.
        values = np.asarray(volume.dataobj[(slice(None), slice(None), *index[::-1], *extra)])
        title = names.frame(name, number + 1, count)
        with found.listed(title):
            found.add(title, values.T, window, name)


def _window(low: float, high: float) -> Range | None:
    return Range(low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None


def _is_nifti(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)
