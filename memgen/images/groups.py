"""Groups of images: what comes from one patient, volume, video or product, and must not lie on two sides of a split.

Images of one group look alike without anybody having copied them. If some are in the training set and others are held
out, the held-out ones are no fair comparison. Groups are what a file format states (a volume, a series of DICOM), or
what the person says: the folder or the file that an image comes from, or a table. Nobody can tell them from pixels, but
names often tell, and `suspected` says where they seem to.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from memgen.base.errors import DataError, first_line
from memgen.images import names

if TYPE_CHECKING:
    import pyarrow as pa

BY_NAME = ("folder", "file")
_COLUMNS = ("file", "group")
# patient12_slice_003 is image 3 of patient12: the number at the end, and a word that says what is counted.
_NUMBERED = re.compile(
    r"([\s_.-]*(frame|slice|image|img|page|view|shot|scan|crop|tile|patch)|(^|[\s_.-]+)[fistz])?[\s_.-]*\d+$",
    re.IGNORECASE,
)
_SHARE = 0.25  # of the images: fewer may share a beginning by chance, as names of random letters and digits do


def group_of(
    sources: Sequence[str],
    how: str | None,
    stated: Sequence[str] | None = None,
    skipped: Collection[str] = (),
    partial: bool = False,
) -> tuple[str, ...] | None:
    """The group of each image.

    Args:
        sources: where each image comes from (see names.py).
        how: `folder`: the folder that holds the image's file, in the source or in the archive; `file`: the file, so
            that all of its frames, slices or rows are one group; else the path of a CSV file with the columns `file`
            and `group`, a row for each file or image; None: what the files state.
        stated: the groups that the files state, as many as sources; None where they state none.
        skipped: names of files and frames that were left out; a table may have rows for them.
        partial: whether there are images that were not read, in this source or another; a table may have rows for them.

    Returns:
        A group for each source, or None where there are no groups.

    Raises:
        DataError: the CSV file cannot be used, an image has no row in it, or a row no image.
    """
    if how is None:
        return None if stated is None else tuple(stated)
    if how == "file":
        return tuple(file_of(source) for source in sources)
    if how == "folder":
        return tuple(_folder_of(source) for source in sources)
    return _in_table(Path(how), sources, skipped, partial)


def file_of(source: str) -> str:
    """The file, or member of an archive, that an image comes from: its name without frame and position.

    Example:
        >>> file_of("stack.tif#3"), file_of("faces.npz[17]")
        ('stack.tif', 'faces.npz')
    """
    return re.sub(r"\[\d+\]$", "", re.sub(r"#\d+$", "", source))


def across(group_by_source: Mapping[str, str], duplicates: "pa.Table") -> list[str]:
    """What to tell the person of near-duplicates that lie in different groups, in a sentence; else nothing.

    Args:
        group_by_source: the group of each image, by its source.
        duplicates: table DUPLICATES, the images that were removed.
    """
    rows = duplicates.to_pylist()
    groups = [(group_by_source[row["removed_source"]], group_by_source[row["kept_source"]]) for row in rows]
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


def suspected(names_a: Sequence[str], names_b: Sequence[str] = ()) -> list[str]:
    """What to tell the person where names of images suggest groups that nobody declared, in sentences; else nothing.

    A name suggests a group by its folder, by its file if that has several frames, or by what stands before the number
    at its end, such as `patient12` in `patient12_slice_003.png`. There must be at least two groups of several images,
    with a quarter of all images in them, and either one has images on both sides, or one side has two of them. So
    numbers alone, one word for all images, and one for each side, as in `train_17.png` and `test_4.png`, say nothing.

    Args:
        names_a: sources of the images of one side, such as T (see names.py).
        names_b: sources of the images of the other side, such as H; none where there is one side.
    """
    found: dict[frozenset[frozenset[str]], str] = {}  # by how the images are divided, which two kinds may agree on
    for kind in _KINDS:
        sides = [_by_key(names_a, kind.key), _by_key(names_b, kind.key)]
        several = {group: each for group, each in _by_key([*names_a, *names_b], kind.key).items() if len(each) > 1}
        on_both = [group for group in several if group in sides[0] and group in sides[1]]
        on_one = max(sum(len(each) > 1 for each in side.values()) for side in sides)
        images, total = sum(map(len, several.values())), len(names_a) + len(names_b)
        if len(several) < 2 or not (on_both or on_one > 1) or images < _SHARE * total:
            continue
        first = min(on_both or several)
        pair = (sides[0][first][0], sides[1][first][0]) if on_both else several[first][:2]
        on_sides = f", of which {len(on_both):,} have images on both sides" if on_both else ""
        text = (
            f"Names suggest groups that were not declared: {images:,} of {total:,} images share {len(several):,} "
            f"{kind.what}{on_sides} (for example {pair[0]} and {pair[1]}). If these are patients, volumes, videos or "
            f"products, say so when importing: {kind.remedy}."
        )
        found.setdefault(frozenset(map(frozenset, several.values())), text)
    return list(found.values())


def _by_key(sources: Iterable[str], key: Callable[[str], str | None]) -> dict[str, list[str]]:
    """The sources of each key, sorted; those without a key are left out."""
    found: dict[str, list[str]] = defaultdict(list)
    for source in sorted(sources):
        if (group := key(source)) is not None:
            found[group].append(source)
    return found


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
    _Kind("beginnings of names", "--groups CSV, a file with the columns file and group", _stem_of),
)


def _in_table(path: Path, sources: Sequence[str], skipped: Collection[str], partial: bool) -> tuple[str, ...]:
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
    return tuple(table[row] for row in found if row is not None)


def _read(path: Path) -> dict[str, str]:
    """The group of each file in a CSV file."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). --groups takes folder, file, or the path of a CSV file."
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
