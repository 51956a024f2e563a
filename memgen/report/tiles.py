"""Small pictures for the page, packed into sheets, so that thousands of them take few bytes and few objects.

A sheet is one PNG of up to 256 tiles, 16 in a row. Tiles are numbered in the order in which they were asked for; tile t
is number t mod 256 of sheet t div 256. The same image is kept once. Sheets are made one by one, each from the images on
it alone, so the images of a large audit are never all in memory.
"""

import base64
import io
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 64  # longest side of a tile, in pixels; larger images are reduced
ACROSS = 16  # tiles in a row of a sheet
PER_SHEET = ACROSS**2

Place = tuple[str, int]  # a set of images and a position in it
ImageOf = Callable[[str, int], NDArray[Any]]


class Tiles:
    """The tiles of one page.

    Args:
        image_of: gives the image (C, H, W) of a set by its position. All images have one size.
    """

    def __init__(self, image_of: ImageOf) -> None:
        self._image_of = image_of
        self._numbers: dict[Hashable, int] = {}
        self._images: dict[int, NDArray[Any]] = {}  # those at hand, by number
        self._size = (0, 0)

    def __len__(self) -> int:
        return len(self._numbers)

    def at(self, place: Place) -> int:
        """The number of the tile of an image in a set."""
        return self._numbers.setdefault(place, len(self._numbers))

    def of(self, image: NDArray[Any]) -> int:
        """The number of a tile of an image (C, H, W) at hand."""
        number = len(self._numbers)
        self._numbers["image", number] = number
        self._images[number] = image
        return number

    def sheets(self) -> Iterator[bytes]:
        """The sheets as PNG, in order."""
        places = list(self._numbers)
        for start in range(0, len(places), PER_SHEET):
            tiles = [self._tile(number, places[number]) for number in range(start, min(start + PER_SHEET, len(places)))]
            yield encoded(_packed(tiles))

    def size(self) -> tuple[int, int]:
        """Width and height of a tile, pixels; (0, 0) without any."""
        if self._size == (0, 0) and self._numbers:
            place, number = next(iter(self._numbers.items()))
            self._size = self._tile(number, place).size
        return self._size

    def _tile(self, number: int, place: Any) -> Image.Image:
        return reduced(self._images[number] if number in self._images else self._image_of(*place))


def bytes_of(images: list[NDArray[Any]]) -> int:
    """How many bytes a sheet of images (C, H, W) takes."""
    return len(encoded(_packed([reduced(image) for image in images])))


def as_bytes(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image (C, H, W), uint8 or float in pixel units, as bytes (H, W) or (H, W, 3).

    Values outside [0, 1] are clipped. Of an image of neither one nor three channels, the first one is shown.
    """
    pixels = image if image.dtype == np.uint8 else np.round(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    return pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels[0]


def reduced(image: NDArray[Any]) -> Image.Image:
    """An image (C, H, W) as a picture of at most SIDE pixels a side."""
    picture = Image.fromarray(np.ascontiguousarray(as_bytes(image)))
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    return picture


def small(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image (C, H, W) as bytes (1, h, w) or (3, h, w) of at most SIDE pixels a side, to be kept for a tile."""
    pixels = np.asarray(reduced(image))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def encoded(picture: Image.Image) -> bytes:
    """A picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def address(picture: Image.Image) -> str:
    """A picture as a PNG in a data address, which loads nothing."""
    return "data:image/png;base64," + base64.b64encode(encoded(picture)).decode()


def _packed(tiles: list[Image.Image]) -> Image.Image:
    width, height = tiles[0].size
    rows = -(-len(tiles) // ACROSS)
    sheet = Image.new(tiles[0].mode, (ACROSS * width, rows * height))
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place % ACROSS * width, place // ACROSS * height))
    return sheet
