"""TIFF pages whose pixels Pillow does not keep as the file states them.

Pillow reads pages of up to 8 unsigned bits well. Of other pages it takes the high byte only (16-bit colors), mixes up
bytes (big-endian and compressed, or 16-bit colors in planes), does not invert WhiteIsZero, shows signed bytes as
unsigned ones, or refuses. Here such a page is turned into one of plain bytes: each byte of a row becomes a gray pixel.
Pillow's libtiff decompresses that, and NumPy reads the bytes as what they are.

Source: TIFF Revision 6.0, and Adobe Photoshop TIFF Technical Note 3 (the predictor for floats).
"""

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_DESCRIPTION, _STRIPS, _ORIENTATION, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES = 270, 273, 274, 277, 278, 279
_PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 284, 317, 322, 323, 324, 325
_SUBFILE, _EXTRA, _FORMAT = 254, 338, 339
_USED = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _DESCRIPTION, _STRIPS, _ORIENTATION, _SAMPLES}
_USED |= {_STRIP_ROWS, _STRIP_BYTES, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _SUBFILE}
_USED |= {_EXTRA, _FORMAT}
_LOSSLESS = {1, 5, 8, 32773, 32946, 34925, 50000}  # none, LZW, deflate, PackBits, deflate, LZMA, Zstandard
_PREDICTING = {5, 8, 32946, 34925, 50000}
_COLORS = {0: 1, 1: 1, 2: 3, 5: 4}  # samples of a pixel: gray (WhiteIsZero, BlackIsZero), RGB, CMYK
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
_TYPES = {"u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"}
_MOST_PAGES = 100_000


class UnsupportedError(Exception):
    """A page that memgen does not read; the message says what it holds."""


@dataclass(frozen=True)
class Page:
    """One page of a file.

    Attributes:
        tags: those of its tags that say what its pixels are, by number.
        order: of its bytes, "<" or ">".
    """

    tags: dict[int, Any]
    order: str

    @property
    def is_reduced(self) -> bool:
        """Whether it is a smaller copy of another page, or a mask."""
        return bool(self.tags.get(_SUBFILE, 0) & 5)

    @property
    def bits(self) -> tuple[int, ...]:
        """The bits of each sample of a pixel."""
        samples, bits = self.tags.get(_SAMPLES, 1), self.tags.get(_BITS, (1,))
        return tuple(bits) * samples if len(bits) == 1 else tuple(bits[:samples])

    @property
    def kind(self) -> str:
        """The kind of number of a sample: u, i or f, or another letter for one that memgen does not read."""
        formats = set(self.tags.get(_FORMAT, (1,)))
        return _KINDS.get(formats.pop(), "c") if len(formats) == 1 else "mixed"

    @property
    def is_deep(self) -> bool:
        """Whether this module reads the page, and not Pillow."""
        # Pillow divides by the opacity, and turns the values around; a range holds for those that are stored.
        changed = self.alpha == 1 or (self.is_inverted and set(self.bits) == {8})
        lossless = self.tags.get(_COMPRESSION, 1) in _LOSSLESS
        return (changed and lossless) or self.kind != "u" or any(bits not in (1, 2, 4, 8) for bits in self.bits)

    @property
    def colors(self) -> int:
        """Samples of a pixel that are colors and not transparency."""
        return _COLORS.get(self.tags.get(_PHOTOMETRIC, -1), 0)

    @property
    def is_inverted(self) -> bool:
        """Whether the smallest value is white."""
        return bool(self.tags.get(_PHOTOMETRIC) == 0)

    @property
    def orientation(self) -> int:
        """The orientation, 1 to 8."""
        return int(self.tags.get(_ORIENTATION, 1))

    @property
    def alpha(self) -> int:
        """What the sample after the colors is: 1 transparency whose colors are multiplied, 2 others, 0 none."""
        extra = tuple(self.tags.get(_EXTRA, ()))
        if len(self.bits) <= self.colors:
            return 0
        return int(extra[0]) if extra and extra[0] in (1, 2) else 2 * (not extra and self.colors == 3)

    @property
    def slices(self) -> int:
        """Images that ImageJ says it keeps in the file, which may follow the first without pages of their own."""
        lines = str(self.tags.get(_DESCRIPTION, "")).splitlines()
        counts = [line.removeprefix("images=") for line in lines if line.startswith("images=")]
        return int(counts[0]) if lines and lines[0].startswith("ImageJ=") and counts and counts[0].isdigit() else 1


def pages(file: BinaryIO) -> list[Page]:
    """All pages of a file; the last ones are missing where it ends or its chain of pages is broken.

    Raises:
        OSError, ValueError, SyntaxError, struct.error: the first page cannot be read.
    """
    return list(_pages(file))


def _pages(file: BinaryIO) -> Iterator[Page]:
    file.seek(0)
    header = file.read(8)
    if header[2:3] == b"+" or header[3:4] == b"+":
        header += file.read(8)
    directory = ImageFileDirectory_v2(header)
    order = "<" if header[:2] == b"II" else ">"
    seen: set[int] = set()
    while directory.next and directory.next not in seen and len(seen) < _MOST_PAGES:
        seen.add(directory.next)
        file.seek(directory.next)
        directory.load(file)
        # Others may be damaged, and do not matter.
        yield Page({tag: directory[tag] for tag in _USED if tag in directory}, order)


def samples(file: BinaryIO, page: Page) -> NDArray[Any]:
    """The samples of a deep page as the file holds them, (H, W, S), in the type and byte order of the file.

    Packed samples, such as those of 12 bits, become uint16.

    Raises:
        UnsupportedError: the page holds what memgen does not read.
        Exception: whatever Pillow raises on damaged bytes.
    """
    _check(page)
    height, width, count, bits = int(page.tags[_HEIGHT]), int(page.tags[_WIDTH]), len(page.bits), page.bits[0]
    planes = count if page.tags.get(_PLANAR, 1) == 2 else 1
    per_pixel = count // planes
    found = []
    for plane in range(planes):
        rows = _rows(file, page, plane, planes, per_pixel)
        values = _numbers(rows, page, per_pixel) if bits % 8 == 0 else _unpacked(rows, bits)
        found.append(values[:, : width * per_pixel].reshape(height, width, per_pixel))
    return np.concatenate(found, axis=2)


def _check(page: Page) -> None:
    bits, kind = page.bits, page.kind
    what = (
        f"TIFF of {len(bits)} sample{'s' * (len(bits) > 1)} a pixel with {', '.join(map(str, sorted(set(bits))))} bits"
    )
    packed = kind == "u" and set(bits) <= {10, 12, 14} and _TILES not in page.tags
    if len(set(bits)) != 1 or not (packed or (bits[0] % 8 == 0 and f"{kind}{bits[0] // 8}" in _TYPES)):
        kinds = {"u": "unsigned", "i": "signed", "f": "float"}
        raise UnsupportedError(f"{what} ({kinds.get(kind, 'unknown type')}) is not read; save it with 8 or 16 bits")
    if not page.colors or len(bits) < page.colors:
        raise UnsupportedError(f"{what} and photometric interpretation {page.tags.get(_PHOTOMETRIC)} is not read")
    if page.tags.get(_COMPRESSION, 1) not in _LOSSLESS:
        raise UnsupportedError(f"{what} and compression {page.tags[_COMPRESSION]} is not read; save it uncompressed")


def _rows(file: BinaryIO, page: Page, plane: int, planes: int, per_pixel: int) -> NDArray[np.uint8]:
    """The bytes of a plane, (H, bytes of a row), decompressed by libtiff as a gray image of 8 bits."""
    tags, tiled = page.tags, _TILES in page.tags

    def in_bytes(pixels: int) -> int:
        return (pixels * per_pixel * page.bits[0] + 7) // 8

    offsets, lengths = (tags[tag] for tag in ((_TILES, _TILE_BYTES) if tiled else (_STRIPS, _STRIP_BYTES)))
    share = len(offsets) // planes
    parts = []
    for offset, length in list(zip(offsets, lengths, strict=True))[plane * share : (plane + 1) * share]:
        file.seek(offset)
        parts.append(file.read(length))
        if len(parts[-1]) < length:
            raise OSError("Truncated File Read")
    height, width = int(tags[_HEIGHT]), int(tags[_WIDTH])
    tile_width = int(tags[_TILE_WIDTH]) if tiled else 1
    entries = {
        _WIDTH: in_bytes(-(-width // tile_width) * tile_width),  # whole tiles: a predictor needs all of their bytes
        _HEIGHT: height,
        _BITS: 8,
        _COMPRESSION: tags.get(_COMPRESSION, 1),
        _PHOTOMETRIC: 1,
        _FILL_ORDER: tags.get(_FILL_ORDER, 1),
        _SAMPLES: 1,
    }
    if tiled:
        entries |= {_TILE_WIDTH: in_bytes(tile_width), _TILE_HEIGHT: int(tags[_TILE_HEIGHT])}
    else:
        entries[_STRIP_ROWS] = min(int(tags.get(_STRIP_ROWS, height)), height)
    where = (_TILES, _TILE_BYTES) if tiled else (_STRIPS, _STRIP_BYTES)
    with Image.open(io.BytesIO(_file(entries, where, parts)), formats=["TIFF"]) as image:
        return np.array(image)


def _file(entries: dict[int, int], where: tuple[int, int], parts: Sequence[bytes]) -> bytes:
    """A little-endian TIFF of one page with these tags and these strips or tiles."""
    lists = {tag: struct.pack(f"<{len(parts)}I", *[0] * len(parts)) for tag in where}
    start = 8 + 2 + 12 * (len(entries) + 2) + 4
    begin = start + sum(map(len, lists.values()))
    offsets = [begin]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    lists[where[0]] = struct.pack(f"<{len(parts)}I", *offsets[:-1])
    lists[where[1]] = struct.pack(f"<{len(parts)}I", *map(len, parts))
    listed = {tag: (1, value) for tag, value in entries.items()}
    listed |= {tag: (len(parts), start + at * 4 * len(parts)) for at, tag in enumerate(where)}
    if len(parts) == 1:  # a single value stands in the entry itself
        listed |= {where[0]: (1, begin), where[1]: (1, len(parts[0]))}
    body = b"".join(struct.pack("<HHII", tag, 4, *listed[tag]) for tag in sorted(listed))
    head = b"II*\0" + struct.pack("<IH", 8, len(listed)) + body + struct.pack("<I", 0)
    return head + b"".join(lists[tag] for tag in where) + b"".join(parts)


def _numbers(rows: NDArray[np.uint8], page: Page, per_pixel: int) -> NDArray[Any]:
    """Rows of bytes as rows of numbers, with the predictor undone."""
    dtype = np.dtype(f"{page.order}{page.kind}{page.bits[0] // 8}")
    predictor = page.tags.get(_PREDICTOR, 1) if page.tags.get(_COMPRESSION, 1) in _PREDICTING else 1
    if predictor == 1:
        return rows.view(dtype)
    undone = {2: _undo_differences, 3: _undo_floats}[predictor]
    step = int(page.tags[_TILE_WIDTH]) * per_pixel * dtype.itemsize if _TILES in page.tags else rows.shape[1]
    parts = [rows[:, start : start + step] for start in range(0, rows.shape[1], step)]  # each tile begins anew
    return np.concatenate([undone(np.ascontiguousarray(part), dtype, per_pixel) for part in parts], axis=1)


def _undo_differences(part: NDArray[np.uint8], dtype: np.dtype[Any], per_pixel: int) -> NDArray[Any]:
    """Predictor 2: each sample is stored as the difference from that of the pixel to its left."""
    whole = np.dtype(f"{dtype.byteorder}u{dtype.itemsize}")
    pixels = part.view(whole).reshape(len(part), -1, per_pixel)
    summed = np.add.accumulate(pixels.astype(whole.newbyteorder("=")), axis=1)
    return summed.astype(whole).reshape(len(part), -1).view(dtype)


def _undo_floats(part: NDArray[np.uint8], dtype: np.dtype[Any], per_pixel: int) -> NDArray[Any]:
    """Predictor 3: the most significant bytes of all samples, then the next ones, stored as differences."""
    height, length = part.shape
    summed = np.add.accumulate(part.reshape(height, -1, per_pixel), axis=1, dtype=np.uint8).reshape(height, length)
    ordered = summed.reshape(height, dtype.itemsize, -1).swapaxes(1, 2)
    return np.ascontiguousarray(ordered).view(dtype.newbyteorder(">")).reshape(height, -1)


def _unpacked(rows: NDArray[np.uint8], bits: int) -> NDArray[np.uint16]:
    """Samples of 9 to 16 bits, packed without gaps, most significant bit first."""
    single = np.unpackbits(rows, axis=1)
    single = single[:, : single.shape[1] // bits * bits].reshape(len(rows), -1, bits)
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint16)
    values: NDArray[np.uint16] = (single * weights).sum(axis=2, dtype=np.uint16)
    return values
