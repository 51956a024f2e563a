"""Groups of images: what comes from one patient, volume, video or product, and must not lie on two sides of a split.

Images of one group look alike without anybody having copied them. If some are in the training set and others are held
out, the held-out ones are no fair comparison. Groups are what a file format states (a volume, a patient of DICOM), or
what the person says: the folder or the file that an image comes from, or a table. Nobody can tell them from pixels, but
names often tell, and `suspected` says where they seem to.
"""

import csv
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from memgen.base.errors import DataError, first_line
from memgen.base.strings import Strings
from memgen.images import names

BY_NAME = ("folder", "file", "name")
_COLUMNS = ("file", "group")
# patient12_slice_003 is image 3 of patient12: the number at the end, and a word that says what is counted.
_NUMBERED = re.compile(
    r"([\s_.-]*(frame|slice|image|img|page|view|shot|scan|crop|tile|patch)|(^|[\s_.-]+)[fistz])?[\s_.-]*\d+$",
    re.IGNORECASE,
)
_SELDOM = 0.001  # probability below which images were hardly divided one by one
_SHARE = 0.25  # of the images: fewer may share a beginning by chance, as names of random letters and digits do


def group_of(
    sources: Sequence[str],
    how: str | None,
    stated: Sequence[str] | None = None,
    skipped: Collection[str] = (),
    partial: bool = False,
) -> Strings | None:
    """The group of each image.

    Args:
        sources: where each image comes from (see names.py).
        how: `folder`: the folder that holds the image's file, in the source or in the archive; `file`: the file, so
            that all of its frames, slices or rows are one group; `name`: what stands before the number at the end of
            the file's name, such as `patient12` in `patient12_slice_003.png`, in one folder, or the file where nothing
            does; else the path of a CSV file with the columns `file` and `group`, a row for each file or image; None:
            what the files state.
        stated: the groups that the files state, as many as sources; None where they state none.
        skipped: names of files and frames that were left out; a table may have rows for them.
        partial: whether there are images that were not read, in this source or another; a table may have rows for them.

    Returns:
        A group for each source, or None where there are no groups.

    Raises:
        DataError: the CSV file cannot be used, an image has no row in it, or a row no image.
    """
    if how is None:
        return None if stated is None else Strings(stated)
    if how == "file":
        return Strings(map(file_of, sources))
    if how == "folder":
        return Strings(map(_folder_of, sources))
    if how == "name":
        return Strings(_stem_of(source) or file_of(source) for source in sources)
    return _in_table(Path(how), sources, skipped, partial)


def check(how: str | None) -> None:
    """Check that a CSV file of groups can be used, before any image is read.

    Args:
        how: as for `group_of`.

    Raises:
        DataError: the CSV file cannot be used.
    """
    if how is not None and how not in BY_NAME:
        _read(Path(how))


def absolute(how: str | None) -> str | None:
    """How groups are stated, with the path of a CSV file made absolute, so that it holds in any working folder."""
    return how if how is None or how in BY_NAME else str(Path(how).resolve())


def file_of(source: str) -> str:
    """The file, or member of an archive, that an image comes from: its name without frame and position.

    Example:
        >>> file_of("stack.tif#3"), file_of("faces.npz[17]")
        ('stack.tif', 'faces.npz')
    """
    return re.sub(r"\[\d+\]$", "", re.sub(r"#\d+$", "", source))


def across(sources: Strings, group_of: Strings, duplicates: pa.Table) -> list[str]:
    """What to tell the person of near-duplicates that lie in different groups, in a sentence; else nothing.

    Args:
        sources: where each image comes from.
        group_of: the group of each image.
        duplicates: table DUPLICATES, the images that were removed.
    """
    rows = duplicates.to_pylist()
    place = sources.places([row[side] for row in rows for side in ("removed_source", "kept_source")])
    groups = [(group_of[place[row["removed_source"]]], group_of[place[row["kept_source"]]]) for row in rows]
    apart = [(row, pair) for row, pair in zip(rows, groups, strict=True) if pair[0] != pair[1]]
    if not apart:
        return []
    row, (removed, kept) = apart[0]
    pairs = len({frozenset(pair) for _, pair in apart})
    return [
        f"Images of different groups look alike: {len(apart):,} near-duplicate{'s' * (len(apart) > 1)} of an image in "
        f"another group {'were' if len(apart) > 1 else 'was'} removed, over {pairs:,} pair{'s' * (pairs > 1)} of "
        f"groups. For example, {row['removed_source']} (group {removed}) looks like {row['kept_source']} (group "
        f"{kept}). If such groups are one patient or product, give them one name in a CSV file: --groups CSV."
    ]


class Suspected(NamedTuple):
    """Groups that names of images suggest, though nobody declared them.

    Attributes:
        text: what to tell the person, in sentences.
        whole: whether they were divided as a whole: images that were divided one by one would seldom leave each group
            on one side.
    """

    text: str
    whole: bool


def suspected(names_a: Sequence[str], names_b: Sequence[str] = ()) -> list[Suspected]:
    """The groups that names of images suggest, though nobody declared them.

    A name suggests a group by its folder, by its file if that has several frames, or by what stands before the number
    at its end, such as `patient12` in `patient12_slice_003.png`. There must be at least two groups of several images,
    with a quarter of all images in them, and either one has images on both sides, or one side has two of them. So
    numbers alone, one word for all images, and one for each side, as in `train_17.png` and `test_4.png`, say nothing.

    Args:
        names_a: sources of the images of one side, such as T (see names.py).
        names_b: sources of the images of the other side, such as H; none where there is one side.
    """
    sources = Strings.joined([Strings(names_a), Strings(names_b)])
    in_a = np.arange(len(sources)) < len(names_a)
    found: dict[bytes, Suspected] = {}  # by how the images are divided, which two kinds may agree on
    for kind in _KINDS:
        key, number = _divided(sources, kind.key)
        sides = [np.bincount(number[side & (number >= 0)], minlength=len(sources)) for side in (in_a, ~in_a)]
        several = np.flatnonzero(sides[0] + sides[1] > 1)
        on_both = several[(sides[0][several] > 0) & (sides[1][several] > 0)]
        on_one = max(np.count_nonzero(side > 1) for side in sides)
        of_several = np.isin(number, several)
        images, total = np.count_nonzero(of_several), len(sources)
        if len(several) < 2 or not (len(on_both) or on_one > 1) or images < _SHARE * total:
            continue
        first = _least(key[on_both if len(on_both) else several])
        of_first = np.asarray(pc.equal(key.arrow, first))
        if len(on_both):
            pair = [_least(sources[of_first & side]) for side in (in_a, ~in_a)]
        else:
            pair = sorted(sources[of_first])[:2]
        on_sides = f", of which {len(on_both):,} have images on both sides" if len(on_both) else ""
        whole = not len(on_both) and _chance_of_whole(sides, several) <= _SELDOM
        text = (
            f"Names suggest groups that were not declared: {images:,} of {total:,} images share {len(several):,} "
            f"{kind.what}{on_sides} (for example {pair[0]} and {pair[1]})."
        )
        if len(on_both):
            text += (
                " If these are patients, volumes, videos or products, they were not divided as a whole, and held-out "
                "images show what the model has seen of them. Hold out whole ones."
            )
        else:
            text += f"{' Each is on one side.' if whole else ''} If these are patients, volumes, videos or products, "
            text += f"say so: {kind.remedy}."
        found.setdefault(np.where(of_several, number, -1).tobytes(), Suspected(text, whole))
    return list(found.values())


def _chance_of_whole(sides: Sequence[NDArray[np.int64]], several: NDArray[np.int64]) -> float:
    """The probability that images which are divided one by one leave each of several groups on one side."""
    sizes, share = (sides[0] + sides[1])[several], sides[0].sum() / (sides[0].sum() + sides[1].sum())
    return float(np.prod(share**sizes + (1 - share) ** sizes))


def _divided(sources: Strings, key_of: Callable[[str], str | None]) -> tuple[Strings, NDArray[np.int64]]:
    """The key of each source, empty for none, and the first position at which the key occurs, -1 for none."""
    key = Strings(key_of(source) or "" for source in sources)
    return key, np.where(pc.equal(key.arrow, ""), -1, key.firsts())


def _least(names: Strings) -> str:
    return str(pc.min(names.arrow).as_py())


def _folder_of(source: str) -> str:
    """The folder that holds the file of an image; `.` for that which was read itself."""
    return str(PurePosixPath(file_of(source)).parent)


def _frames_of(source: str) -> str | None:
    """The file of a frame; None for an image that is no frame of several."""
    return re.sub(r"#\d+$", "", source) if re.search(r"#\d+$", source) else None


def _stem_of(source: str) -> str | None:
    """The folder, and what stands before the number at the end of the file's name; None where nothing does."""
    if re.search(r"\[\d+\](#\d+)?$", source):  # a position in an array or a table; its file has no say
        return None
    path = PurePosixPath(file_of(source))
    name = path.name.removesuffix(path.suffix)
    stem = _NUMBERED.sub("", name)
    return str(path.parent / stem) if stem not in ("", name) else None


class _Kind(NamedTuple):
    """A way in which names suggest groups."""

    what: str
    remedy: str
    key: Callable[[str], str | None]


_KINDS = (
    _Kind("folders", "--groups folder", _folder_of),
    _Kind("files with several frames", "--groups file", _frames_of),
    _Kind("beginnings of names", "--groups name", _stem_of),
)


def _in_table(path: Path, sources: Sequence[str], skipped: Collection[str], partial: bool) -> Strings:
    """The groups that a CSV file gives to images, by the name of the image or of its file."""
    table = _read(path)
    rows = {form: row for row in table for form in (names.escaped(str(PurePosixPath(row))), row)}
    found = [rows.get(source, rows.get(file_of(source))) for source in sources]
    missing = [source for source, row in zip(sources, found, strict=True) if row is None]
    if missing:
        raise DataError(
            f"{path}: {len(missing):,} of {len(sources):,} images have no row (the first is {missing[0]}). Add a row "
            "for each image or its file."
        )
    known = {*filter(None, found), *(rows.get(form, "") for name in skipped for form in (name, file_of(name)))}
    unused = [] if partial else [row for row in table if row not in known]
    if unused:
        raise DataError(
            f"{path}: {len(unused):,} of {len(table):,} rows name no image (the first is {names.escaped(unused[0])}). "
            "Name files by their paths under the folder that is imported, or as memgen shows them."
        )
    return Strings(table[row] for row in found if row is not None)


def _read(path: Path) -> dict[str, str]:
    """The group of each file in a CSV file."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). --groups takes folder, file, name, or the path of a CSV file."
        ) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8 ({first_line(error)}). Save it again as one.") from error
    if not set(_COLUMNS) <= set(columns):
        raise DataError(
            f"{path}: found columns {names.escaped(', '.join(map(str, columns)) or 'none')}, expected file and group "
            "in the first line."
        )
    table: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        name, group = row["file"], names.escaped((row["group"] or "").strip())
        if not name or not group:
            raise DataError(f"{path}: row {number} has no file or no group. Give both, or delete the row.")
        if table.setdefault(name, group) != group:
            raise DataError(
                f"{path}: {names.escaped(name)} is in two groups, {table[name]} and {group}. Leave one of its rows."
            )
    return table
