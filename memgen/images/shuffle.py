"""Shuffled images: the pixels of all images in one random order."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memgen.base.noise import stream
from memgen.images.imageset import ImageSet


def permutation(seed: int, pixels: int) -> NDArray[np.int64]:
    """A permutation p of the pixels of an image, (H·W,): pixel j of a shuffled image is pixel p[j] of the image."""
    return stream("shuffle", seed, pixels).permutation(pixels)


def shuffled(images: NDArray[Any], order: NDArray[np.int64]) -> NDArray[Any]:
    """A copy of images (..., H, W) with the pixels of each channel in the given order."""
    return np.take(images.reshape(*images.shape[:-2], -1), order, axis=-1).reshape(images.shape)


def shuffle_images(images: ImageSet, seed: int) -> ImageSet:
    """The same images with their pixels in the order that the seed draws; their ids change with their content."""
    _, height, width = images.image_shape
    pixels = shuffled(images.pixels, permutation(seed, height * width))
    return ImageSet.from_pixels(pixels, images.sources, images.recipe | {"shuffle_seed": seed}, images.groups)
