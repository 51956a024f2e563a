"""Picture files of known pixels, made by hand where a library could hide what is tested.

`python tests/picture_files.py` prints the table: for each file the pixels that went in and those that came out.
"""

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from PIL import Image

SHORT, LONG = 3, 4


def png(header, rows, chunks=b""):
    """A PNG: `header` is (width, height, depth, color type), `rows` the raw bytes of each row."""
    data = b"".join(b"\0" + row for row in rows)
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)) + chunks + chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def packed(values, bits):
    """Rows of samples packed without gaps, most significant bit first; each row begins a byte."""
    flat = values.reshape(len(values), -1)
    single = (flat[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return [np.packbits(row.reshape(-1).astype(np.uint8)).tobytes() for row in single]


def tiff(pages, order="<"):
    """A TIFF of uncompressed pages, each (tags, data): tags by number with (type, values)."""
    body = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", 42)
    parts, at = [], 8
    for position, (tags, data) in enumerate(pages):
        tags = dict(tags) | {273: (LONG, [at]), 279: (LONG, [len(data)])}
        where = at + len(data)
        extra_at, extra, entries = where + 2 + 12 * len(tags) + 4, b"", b""
        for tag, (kind, values) in sorted(tags.items()):
            raw = struct.pack(f"{order}{len(values)}{'H' if kind == SHORT else 'I'}", *values)
            if len(raw) > 4:
                value, extra = struct.pack(order + "I", extra_at + len(extra)), extra + raw
            else:
                value = raw.ljust(4, b"\0")
            entries += struct.pack(order + "HHI", tag, kind, len(values)) + value
        after = extra_at + len(extra)
        following = after if position + 1 < len(pages) else 0
        # The next page's pixels come first, and its directory after them.
        if following:
            following = after + len(pages[position + 1][1])
        parts.append(
            (data, struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", following) + extra)
        )
        at = after
    first = 8 + len(pages[0][1])
    return body + struct.pack(order + "I", first) + b"".join(data + directory for data, directory in parts)


def tags(height, width, bits, photometric, samples=1, **more):
    """The tags of a page; `more` holds further ones as t339=(SHORT, [2])."""
    plain = {
        256: (SHORT, [width]), 257: (SHORT, [height]), 258: (SHORT, [bits] * samples), 259: (SHORT, [1]),
        262: (SHORT, [photometric]), 277: (SHORT, [samples]), 278: (SHORT, [height]),
    }  # fmt: skip
    return plain | {int(name[1:]): value for name, value in more.items()}


@dataclass
class Case:
    """A file, and what must come of it.

    Attributes:
        name: what is in the file.
        suffix: of the file.
        data: its bytes.
        stored: the values that went in, (H, W) or (H, W, C).
        expected: the 8-bit pixels that must come out, (H, W) or (H, W, 3); None if it must be left out.
        reason: a part of the reason, if it must be left out.
        range: the range that the person gives, as in --range.
    """

    name: str
    suffix: str
    data: bytes
    stored: np.ndarray
    expected: np.ndarray | None
    reason: str = ""
    range: str | None = None


def levels(stored, low, high, inverted=False):
    """The 8-bit pixels of values of which low is black and high is white."""
    unit = (stored.astype(np.float64) - low) / (high - low)
    return np.floor((1 - unit if inverted else unit) * 255 + 0.5).astype(np.uint8)


def ramp(low, high, kind, shape=(5, 7)):
    """Values from low to high, both included."""
    values = np.linspace(low, high, int(np.prod(shape))).reshape(shape)
    return (values if np.dtype(kind).kind == "f" else np.rint(values)).astype(kind)


def color(low, high, kind, shape=(5, 7), channels=3):
    """Colors whose channels differ."""
    flat = ramp(low, high, kind, shape)
    return np.stack([flat, flat[::-1], flat[:, ::-1], flat[::-1, ::-1]][:channels], axis=-1).astype(kind)


def saved(image, suffix, **options):
    """The bytes of a picture that Pillow writes."""
    buffer = io.BytesIO()
    image.save(
        buffer,
        format={"jp2": "JPEG2000", "tif": "TIFF", "jpg": "JPEG", "tga": "TGA"}.get(suffix, suffix.upper()),
        **options,
    )
    return buffer.getvalue()


def written(array, **options):
    """The bytes of a TIFF that tifffile writes."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, metadata=None, **options)
    return buffer.getvalue()


def cases():
    """All files of the table."""
    return [*_png(), *_packed_tiff(), *_tiff(), *_tiff_colors(), *_portable(), *_others()]


def _png():
    for bits in (1, 2, 4, 8, 16):
        top = 2**bits - 1
        gray = ramp(0, top, np.uint16)
        yield Case(f"{bits}-bit gray", "png", png((7, 5, bits, 0), packed(gray, bits)), gray, levels(gray, 0, top))
        if bits < 16:
            yield Case(
                f"{bits}-bit gray",
                "png",
                png((7, 5, bits, 0), packed(gray, bits)),
                gray,
                levels(gray, 0, top),
                range=f"0,{top}",
            )
            table = np.random.default_rng(bits).integers(0, 256, (top + 1, 3), dtype=np.uint8)
            data = png((7, 5, bits, 3), packed(gray, bits), chunk(b"PLTE", table.tobytes()))
            yield Case(f"{bits}-bit palette", "png", data, gray, table[gray])
    for bits in (8, 16):
        top, kind = 2**bits - 1, f">u{bits // 8}"
        rgb, rgba, la = (color(0, top, kind, channels=n) for n in (3, 4, 2))
        opacity = rgba[..., 3:] / top
        yield Case(
            f"{bits}-bit RGB", "png", png((7, 5, bits, 2), [row.tobytes() for row in rgb]), rgb, levels(rgb, 0, top)
        )
        data = png((7, 5, bits, 6), [row.tobytes() for row in rgba])
        over = np.floor(((rgba[..., :3] / top) * opacity + 1 - opacity) * 255 + 0.5).astype(np.uint8)
        yield Case(f"{bits}-bit RGBA over white", "png", data, rgba, over)
        gray, opacity = la[..., 0] / top, la[..., 1] / top
        over = np.floor((gray * opacity + 1 - opacity) * 255 + 0.5).astype(np.uint8)
        yield Case(
            f"{bits}-bit gray with opacity over white",
            "png",
            png((7, 5, bits, 4), [row.tobytes() for row in la]),
            la,
            over,
        )
    deep = ramp(0, 4095, np.uint16)
    data = png((7, 5, 16, 0), packed(deep, 16))
    yield Case("12 bits in 16-bit gray", "png", data, deep, levels(deep, 0, 4095), range="0,4095")
    colors = color(0, 4095, ">u2")
    data = png((7, 5, 16, 2), [row.tobytes() for row in colors])
    yield Case("12 bits in 16-bit RGB", "png", data, colors, levels(colors, 0, 4095), range="0,4095")
    yield Case(
        "16-bit gray",
        "png",
        png((7, 5, 16, 0), packed(ramp(0, 65535, np.uint16), 16)),
        ramp(0, 65535, np.uint16),
        None,
        "beyond --range 0,4095",
        range="0,4095",
    )
    keyed = ramp(0, 65535, np.uint16)
    expected = levels(keyed, 0, 65535)
    expected[keyed == keyed[2, 3]] = 255
    yield Case(
        "16-bit gray, one value transparent",
        "png",
        png((7, 5, 16, 0), packed(keyed, 16), chunk(b"tRNS", struct.pack(">H", keyed[2, 3]))),
        keyed,
        expected,
    )


def _packed_tiff():
    for bits in (1, 2, 4, 8, 10, 12, 14):
        top = 2**bits - 1
        gray = ramp(0, top, np.uint16)
        for photometric, word in ((0, "WhiteIsZero"), (1, "BlackIsZero")):
            for order in "<>":
                data = tiff([(tags(5, 7, bits, photometric), b"".join(packed(gray, bits)))], order)
                yield Case(f"{bits}-bit {word} {order}", "tif", data, gray, levels(gray, 0, top, photometric == 0))
        if bits > 8:
            rgb = color(0, top, np.uint16)
            data = tiff([(tags(5, 7, bits, 2, 3), b"".join(packed(rgb, bits)))])
            yield Case(f"{bits}-bit RGB", "tif", data, rgb, levels(rgb, 0, top))
    some = ramp(0, 200, np.uint8)
    for photometric, word in ((0, "WhiteIsZero"), (1, "BlackIsZero")):
        data = tiff([(tags(5, 7, 8, photometric), some.tobytes())])
        yield Case(f"8-bit {word}", "tif", data, some, levels(some, 0, 200, photometric == 0), range="0,200")
    odd = ramp(0, 63, np.uint16)
    yield Case("6-bit BlackIsZero", "tif", tiff([(tags(5, 7, 6, 1), b"".join(packed(odd, 6)))]), odd, None, "6 bits")
    table = np.random.default_rng(0).integers(0, 256, (3, 256))
    gray = ramp(0, 255, np.uint8)
    data = tiff([(tags(5, 7, 8, 3, t320=(SHORT, (table * 257).reshape(-1).tolist())), gray.tobytes())])
    yield Case("8-bit palette", "tif", data, gray, table.T.astype(np.uint8)[gray])


def _tiff():
    for kind, low, high in (
        ("i1", -128, 127), ("u2", 0, 65535), ("i2", -1000, 3000), ("u4", 0, 4_000_000_000), ("i4", -70_000, 70_000),
        ("f2", -1, 1), ("f4", -1000, 1000), ("f8", 0, 1), ("u8", 0, 2**40), ("i8", -5, 2**40),
    ):  # fmt: skip
        gray = ramp(low, high, kind)
        for photometric in ("miniswhite", "minisblack"):
            for order in "<>":
                for compression in (None, "zlib"):
                    data = written(gray, photometric=photometric, byteorder=order, compression=compression)
                    name = f"{kind} {photometric} {order} {compression or 'uncompressed'}"
                    inverted = photometric == "miniswhite"
                    if kind == "u2":
                        yield Case(name, "tif", data, gray, levels(gray, low, high, inverted))
                    else:
                        yield Case(name, "tif", data, gray, None, "does not state which value is white")
                    yield Case(name, "tif", data, gray, levels(gray, low, high, inverted), range=f"{low},{high}")
        tiled = ramp(low, high, kind, (20, 40))
        data = written(tiled, photometric="minisblack", tile=(16, 16), compression="zlib")
        yield Case(f"{kind} in tiles", "tif", data, tiled, levels(tiled, low, high), range=f"{low},{high}")
        if kind in ("u2", "i2", "u4", "i4"):
            data = written(tiled, photometric="minisblack", tile=(16, 16), compression="zlib", predictor=True)
            yield Case(
                f"{kind} in tiles, predictor", "tif", data, tiled, levels(tiled, low, high), range=f"{low},{high}"
            )
    tall = ramp(0, 65535, np.uint16)
    for orientation in range(2, 9):
        data = written(tall, photometric="minisblack", extratags=[(274, SHORT, 1, orientation, True)])
        reference = Image.fromarray(levels(tall, 0, 65535))
        turn = [None, None, 0, 3, 1, 5, 4, 6, 2][orientation]
        yield Case(f"u2 orientation {orientation}", "tif", data, tall, np.asarray(reference.transpose(turn)))
    nothing = np.full((5, 7), np.nan, np.float32)
    yield Case("f4 of NaN", "tif", written(nothing), nothing, None, "NaN")
    complex_ = np.ones((5, 7), np.complex64)
    yield Case("complex", "tif", written(complex_), complex_.real, None, "not read")


def _tiff_colors():
    for kind, low, high in (("u1", 0, 255), ("u2", 0, 65535), ("i2", -300, 300), ("f4", -1, 1)):
        for planar in ("contig", "separate"):
            for order in "<>":
                for compression in (None, "zlib"):
                    rgb = color(low, high, kind)
                    array = rgb if planar == "contig" else rgb.transpose(2, 0, 1)
                    data = written(
                        array, photometric="rgb", planarconfig=planar, byteorder=order, compression=compression
                    )
                    name = f"{kind} RGB {planar} {order} {compression or 'uncompressed'}"
                    yield Case(
                        name,
                        "tif",
                        data,
                        rgb,
                        levels(rgb, low, high),
                        range=None if kind[0] == "u" else f"{low},{high}",
                    )
    for kind, top in (("u1", 255), ("u2", 65535)):
        for extra, word in (("unassalpha", "opacity"), ("assocalpha", "multiplied opacity")):
            rgba = color(0, top, kind, channels=4)
            if extra == "assocalpha":
                rgba[..., :3] = np.minimum(rgba[..., :3], rgba[..., 3:])
            share = rgba[..., 3:] / top
            colors = rgba[..., :3] / top
            over = np.floor(((colors if extra == "assocalpha" else colors * share) + 1 - share) * 255 + 0.5).astype(
                np.uint8
            )
            yield Case(
                f"{kind} RGB with {word} over white",
                "tif",
                written(rgba, photometric="rgb", extrasamples=[extra]),
                rgba,
                over,
            )
        cmyk = color(0, top, kind, channels=4)
        reference = Image.fromarray(levels(cmyk, 0, top), mode="CMYK").convert("RGB")
        yield Case(f"{kind} CMYK", "tif", written(cmyk, photometric="separated"), cmyk, np.asarray(reference))


def _portable():
    for top in (1, 3, 15, 100, 255, 1023, 4095, 65535):
        gray, rgb = ramp(0, top, np.uint16), color(0, top, np.uint16)
        kind = ">u1" if top < 256 else ">u2"
        for letter, values, suffix in (("5", gray, "pgm"), ("6", rgb, "ppm")):
            data = f"P{letter} 7 5 {top}\n".encode() + values.astype(kind).tobytes()
            expected = levels(values, 0, top)
            yield Case(f"largest value {top}", suffix, data, values, expected)
            yield Case(f"largest value {top}", suffix, data, values, expected, range=f"0,{top}")
        text = f"P2\n7 5\n{top}\n" + " ".join(map(str, gray.reshape(-1)))
        yield Case(f"text, largest value {top}", "pgm", text.encode(), gray, levels(gray, 0, top))
    text = "P3\n7 5\n65535\n" + " ".join(map(str, color(0, 65535, np.uint16).reshape(-1)))
    yield Case("text, largest value 65535", "ppm", text.encode(), color(0, 65535, np.uint16), None, "as text")
    bits = ramp(0, 1, np.uint16)
    yield Case("1-bit, 1 is black", "pbm", b"P4 7 5\n" + b"".join(packed(bits, 1)), bits, levels(bits, 0, 1, True))
    real = ramp(-2, 2, np.float32)
    data = b"Pf\n7 5\n-1.0\n" + real[::-1].astype("<f4").tobytes()
    yield Case("32-bit float", "pfm", data, real, None, "--range -2,2")
    yield Case("32-bit float", "pfm", data, real, levels(real, -2, 2), range="-2,2")


def _others():
    gray, rgb = ramp(0, 255, np.uint8), color(0, 255, np.uint8)
    for suffix in ("bmp", "tga", "gif", "pcx", "sgi", "jp2", "tif", "webp", "ppm", "ico"):
        for array, word in ((gray, "8-bit gray"), (rgb, "8-bit RGB")):
            options: dict[str, Any] = (
                {"lossless": True} if suffix == "webp" else {"irreversible": False} if suffix == "jp2" else {}
            )
            if suffix == "gif" and array is rgb:
                continue
            yield Case(word, suffix, saved(Image.fromarray(array), suffix, **options), array, array)
    palette = Image.fromarray(gray).convert("P")
    yield Case("8-bit gray palette", "gif", saved(palette, "gif"), gray, gray)
    deep = ramp(0, 65535, np.uint16)
    yield Case(
        "16-bit gray", "jp2", saved(Image.fromarray(deep), "jp2", irreversible=False), deep, levels(deep, 0, 65535)
    )
    yield Case("16-bit gray", "sgi", _sgi16(deep), deep, None, "16 bits")
    bits = Image.fromarray(gray).convert("1", dither=Image.Dither.NONE)
    for suffix in ("bmp", "tif", "png", "pcx", "xbm", "msp"):
        yield Case("1-bit", suffix, saved(bits, suffix), np.asarray(bits), np.asarray(bits.convert("L")))
    yield Case("FITS of 16 bits", "fits", _fits(deep), deep, None, "FITS of more than 8 bits")


def _sgi16(values):
    height, width = values.shape
    head = struct.pack(">HBBHHHHll4x80sl404x", 474, 0, 2, 2, width, height, 1, 0, 65535, b"", 0)
    return head + values[::-1].astype(">u2").tobytes()


def _fits(values):
    cards = ["SIMPLE  =                    T", "BITPIX  =                   16", "NAXIS   =                    2",
             f"NAXIS1  = {values.shape[1]:20}", f"NAXIS2  = {values.shape[0]:20}", "END"]  # fmt: skip
    head = "".join(card.ljust(80) for card in cards).ljust(2880)
    return head.encode() + values.astype(">i2").tobytes().ljust(2880, b"\0")


def read(case, folder):
    """What memgen makes of a case: its image (C, H, W) and the reasons for what was left out."""
    from memgen.base.errors import DataError
    from memgen.images.importing import ImportSettings, import_images

    path = folder / f"a.{case.suffix}"
    path.write_bytes(case.data)
    try:
        found = import_images(path, ImportSettings(deduplicate=False, range=case.range))
    except DataError as error:
        return None, str(error)
    return found.images.pixels[0], ""


def main():
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        print("| file | what it holds | --range | in: first, middle, last value | out: same pixels | |")
        print("|---|---|---|---|---|---|")
        for case in cases():
            image, reason = read(case, Path(folder))
            flat = case.stored.reshape(-1)
            went_in = ", ".join(f"{flat[at]:g}" for at in (0, len(flat) // 2, -1))
            if image is None:
                good = case.expected is None and case.reason in reason
                came = f"left out: {reason.partition(': no usable image (')[2].partition(': ')[2].rpartition(').')[0]}"
            else:
                wanted = case.expected
                shown = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
                good = wanted is not None and np.array_equal(shown, wanted)
                flat = shown.reshape(-1)
                came = ", ".join(f"{flat[at]}" for at in (0, len(flat) // 2, -1))
            print(
                f"| .{case.suffix} | {case.name} | {case.range or ''} | {went_in} | {came} | {'right' if good else 'WRONG'} |"
            )


if __name__ == "__main__":
    main()
