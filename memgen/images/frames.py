"""The frames of a picture file, each as its stored values with the range that the file states for them.

A frame is a page of a TIFF, or an image of an animated GIF, PNG, WebP or AVIF; most files hold one. Its range follows
from the file: the bits of a sample, the largest value of a portable graymap, the colors of a palette. Pillow decodes.
Of colors deeper than 8 bits it would keep the high byte only, so these are read here (PNG, PPM) and in tiff.py. Nothing
in a file is executed: PostScript is refused.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from memgen.base.errors import MemgenError, first_line
from memgen.images import tiff
from memgen.images.levels import Range, RangeError, check, check_numbers, to_uint8, to_unit


class UnusableError(Exception):
    """A file or a frame is left out; the message is the reason that the table SKIPPED gives."""


_BYTE = Range(0, 255)
_GRAY = {"1", "L", "LA", "La"}
_READ = _GRAY | {"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
# Formats whose further frames are no images of their own, and what these are.
_SINGLE = {"MPO": "a preview, a gain map or the view of a second eye", "PSD": "a layer of the picture"}
_MOST_FRAMES = 100_000
_ORIENTATION = ExifTags.Base.Orientation


@dataclass(frozen=True, eq=False)
class Frame:
    """The pixels of a frame as its file states them.

    Attributes:
        values: gray (H, W) or colors (H, W, 3), of any type of numbers.
        of: the values that are black and white; None where the file does not say.
        alpha: opacity (H, W) in [0, 1]; None where all is opaque.
        multiplied: whether the values were multiplied by the opacity.
        inverted: whether the smallest value is white.
        kind: what the values are, for messages, such as "signed 16-bit".
    """

    values: NDArray[Any]
    of: Range | None
    alpha: NDArray[np.float64] | None = None
    multiplied: bool = False
    inverted: bool = False
    kind: str = "8-bit"

    def in_range(self, given: Range | None) -> tuple[float, float, Range]:
        """The smallest and the largest value, and the range that holds: the one given, or that of the file.

        Raises:
            RangeError: there is none, or values lie beyond it.
        """
        check_numbers(self.values)
        low, high = float(self.values.min()), float(self.values.max())
        of = given or self.of
        check(low, high, of, given is not None, self.kind)
        assert of is not None
        return low, high, of

    def opaque(self, of: Range, background: str) -> NDArray[np.uint8]:
        """The frame in 8 bits, (H, W) or (H, W, 3), with what is transparent replaced.

        Args:
            of: the values that become black and white.
            background: what transparent pixels show, white or black.
        """
        if self.values.dtype == np.uint8 and of == _BYTE and self.alpha is None and not self.inverted:
            return self.values
        unit = to_unit(self.values, of)
        if self.inverted:
            unit = 1 - unit
        if self.alpha is not None:
            alpha = self.alpha if unit.ndim == 2 else self.alpha[..., None]
            unit = (unit if self.multiplied else unit * alpha) + (background == "white") * (1 - alpha)
        return to_uint8(np.clip(unit, 0, 1))


class Frames:
    """The frames of one opened file.

    Attributes:
        count: how many images the file holds.
        left_out: the reason for frames that are no images of their own, by position.
    """

    def __init__(self, file: BinaryIO) -> None:
        if file.seek(0, os.SEEK_END) == 0:
            raise UnusableError("empty file")
        file.seek(0)
        self._file = file
        self._pages = tiff.pages(file) if file.read(4) in tiff.MAGIC else []
        self.left_out: dict[int, str] = {}
        self._image: Image.Image | None = None
        if self._pages:
            self.count = len(self._pages)
            for number, page in enumerate(self._pages):
                if number and page.is_reduced:
                    self.left_out[number] = "a smaller copy or a mask of another page, as the file says"
            slices = self._pages[0].slices
            if slices > self.count == 1:
                self.count = slices
                reason = "a slice that ImageJ keeps without a page of its own; save each slice as a page"
                self.left_out = dict.fromkeys(range(1, min(slices, _MOST_FRAMES)), reason)
            return
        self.count = min(getattr(self._opened(), "n_frames", 1), _MOST_FRAMES)
        if what := _SINGLE.get(self._opened().format or ""):
            self.left_out = dict.fromkeys(range(1, self.count), what)

    def read(self, number: int) -> Frame:
        """A frame by its position.

        Raises:
            Exception: whatever Pillow raises on damaged bytes.
        """
        if self._pages and self._pages[number].is_deep:
            return _deep_page(self._file, self._pages[number])
        image = self._opened()
        if number:
            image.seek(number)
        return _frame(image, self._file, self.count)

    def close(self) -> None:
        """Let go of what Pillow holds."""
        if self._image is not None:
            self._image.close()

    def _opened(self) -> Image.Image:
        if self._image is None:
            self._file.seek(0)
            # Pillow hands PostScript to an interpreter, which would run what the file says.
            self._image = Image.open(self._file, formats=[kind for kind in Image.ID if kind != "EPS"])
        return self._image


@contextlib.contextmanager
def reasons() -> Iterator[None]:
    """Whatever is raised inside becomes an UnusableError with a reason for people."""
    try:
        yield
    except (UnusableError, MemgenError):
        raise
    except MemoryError as error:
        raise UnusableError("too large for the memory") from error
    except (PermissionError, FileNotFoundError) as error:
        raise UnusableError(f"cannot be read ({error.strerror})") from error
    except UnidentifiedImageError as error:
        raise UnusableError("not an image that can be read") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnusableError(f"too large ({first_line(error)})") from error
    except (RangeError, tiff.UnsupportedError) as error:
        raise UnusableError(str(error)) from error
    except Exception as error:  # decoders fed with damaged bytes raise anything
        raise UnusableError(f"damaged ({first_line(error)})") from error


def _deep_page(file: BinaryIO, page: tiff.Page) -> Frame:
    """A page of a TIFF that tiff.py reads. Unsigned samples of up to 16 bits state their range; others have none."""
    samples, bits = tiff.samples(file, page), page.bits[0]
    of = Range(0, 2**bits - 1) if page.kind == "u" and bits <= 16 else None
    alpha = None
    if page.alpha and of is not None:
        alpha = to_unit(samples[..., page.colors], of)
    kind = {"u": "unsigned ", "i": "signed ", "f": "float "}[page.kind] + f"{bits}-bit"
    values = samples[..., : page.colors]
    if page.colors == 4:  # CMYK
        if of is None:
            raise UnusableError(f"{kind} CMYK is not read; save it as RGB")
        mixed = Image.fromarray(to_uint8(to_unit(values, of)), mode="CMYK").convert("RGB")
        values, of = np.asarray(mixed), _BYTE
    values = values[..., 0] if page.colors == 1 else values
    found = Frame(values, of, alpha, page.alpha == 1, page.is_inverted, kind)
    return _oriented(found, page.orientation)


def _frame(image: Image.Image, file: BinaryIO, count: int) -> Frame:
    """The current frame of an opened picture."""
    raw, largest = _stored(image)
    if raw.startswith(("RGB;16", "RGBA;16", "LA;16")):
        if image.format != "PNG" or count > 1:
            raise UnusableError("colors of 16 bits, of which Pillow keeps 8; save it as a PNG or TIFF of one image")
        return _deep_png(file, raw)
    if image.mode == "RGB" and largest > 255:
        return _deep_ppm(image, file, largest)
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
        return _deep_gray(upright, image.format or "", largest)
    if upright.mode not in _READ:
        raise UnusableError(f"pixels of mode {upright.mode} are not read; save it as RGB")
    alpha = None
    is_gray = upright.mode in _GRAY
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        alpha = np.asarray(upright)[..., 3] / 255.0
    values = np.array(upright if upright.mode == "L" else upright.convert("L" if is_gray and alpha is None else "RGB"))
    if is_gray and values.ndim == 3:
        values = values[..., 0]
    if largest == 255:
        return Frame(values, _BYTE, alpha)
    # Pillow has scaled the values so that the largest is 255; a range is given for the stored ones.
    stored = np.rint(values * (largest / 255)).astype(np.uint8)
    return Frame(stored, Range(0, largest), alpha, kind=f"values to {largest}")


def _stored(image: Image.Image) -> tuple[str, int]:
    """How Pillow unpacks a picture that is not yet loaded, such as RGB;16B, and the largest value that it may store."""
    tile = image.tile[0] if isinstance(image, ImageFile.ImageFile) and image.tile else None
    arguments = tile.args if tile is not None else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    raw = first if isinstance(first, str) else ""
    if tile is not None and tile.codec_name == "SGI16":
        return "RGB;16B", 65535
    if tile is not None and tile.codec_name in ("ppm", "ppm_plain") and isinstance(arguments, tuple):
        return raw, int(arguments[1])
    if image.mode == "1":
        return raw, 1
    if packed := re.match(r"L;([24])", raw):
        return raw, 2 ** int(packed[1]) - 1
    return raw, 65535 if image.mode.startswith("I") else 255


def _deep_gray(image: Image.Image, kind: str, largest: int) -> Frame:
    """Gray of more than 8 bits outside of TIFF."""
    values = np.asarray(image)
    if image.mode == "F" and kind == "PPM":
        return Frame(values, None, kind="float 32-bit")
    if kind not in ("PNG", "PPM", "JPEG2000") or image.mode == "F":
        raise UnusableError(
            f"{kind} of more than 8 bits (mode {image.mode}) is not read; save it as a 16-bit PNG or TIFF, or an array"
        )
    if kind == "PPM":  # Pillow has scaled the values to 65,535
        values = np.rint(values * (largest / 65535))
    values = values.astype(np.uint16)
    key = image.info.get("transparency")
    alpha = None if key is None else (values != key).astype(np.float64)
    return Frame(values, Range(0, largest), alpha, kind="unsigned 16-bit")


def _deep_png(file: BinaryIO, raw: str) -> Frame:
    """Colors, or gray with opacity, of 16 bits: Pillow unpacks the high byte or the low byte of each sample."""
    if raw == "LA;16B":
        pairs, image = _png(file, "RGBA")  # its two samples of 16 bits are as large as four of 8
        samples = pairs[..., 0::2] * 256 + pairs[..., 1::2]
        values, opacity = samples[..., 0], samples[..., 1:]
    else:
        (high, image), (low, _) = _png(file, raw), _png(file, raw.replace("16B", "16L"))
        samples = high * 256 + low
        values, opacity = samples[..., :3], samples[..., 3:]
    of = Range(0, 65535)
    alpha = to_unit(opacity[..., 0], of) if opacity.shape[2] else None
    if (key := image.info.get("transparency")) is not None:
        alpha = (values != np.array(key)).any(axis=2).astype(np.float64)
    return _oriented(Frame(values, of, alpha, kind="unsigned 16-bit"), image.getexif().get(_ORIENTATION, 1))


def _png(file: BinaryIO, raw: str) -> tuple[NDArray[np.uint16], Image.Image]:
    """The bytes of a PNG that Pillow unpacks as `raw` says, and the picture."""
    file.seek(0)
    image = Image.open(file, formats=["PNG"])
    assert isinstance(image, PngImagePlugin.PngImageFile)
    image.tile = [tile._replace(args=raw) for tile in image.tile]
    return np.array(image).astype(np.uint16), image


def _deep_ppm(image: Image.Image, file: BinaryIO, largest: int) -> Frame:
    """A binary portable pixmap of more than 8 bits."""
    assert isinstance(image, ImageFile.ImageFile)
    (tile,) = image.tile
    if tile.codec_name != "ppm":
        raise UnusableError("colors of 16 bits as text are not read; save it as a PNG")
    width, height = image.size
    file.seek(tile.offset)
    data = file.read(width * height * 6)
    values = np.frombuffer(data, dtype=">u2").reshape(height, width, 3)
    return Frame(values, Range(0, largest), kind="unsigned 16-bit")


def _oriented(frame: Frame, orientation: int) -> Frame:
    """The frame turned upright; orientation as in TIFF and EXIF, 1 to 8."""

    def turned(array: NDArray[Any]) -> NDArray[Any]:
        array = array.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else array
        array = array[::-1] if orientation in (3, 4, 7, 8) else array
        return array[:, ::-1] if orientation in (2, 3, 6, 7) else array

    alpha = None if frame.alpha is None else turned(frame.alpha)
    return replace(frame, values=turned(frame.values), alpha=alpha)
