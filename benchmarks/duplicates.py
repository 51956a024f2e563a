"""Measure time and memory of the near-duplicates of many images, as an import finds them.

    python benchmarks/duplicates.py --images 50000 [--source IMAGES.npy] [--threads 1]

The images are mixtures of two of the source at random, so that their number has no limit. The default source is the
embedded images at 28x28; the numbers in docs/determinism.md are of 20,000 images of CIFAR-10.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch

from memgen.images.duplicates import near_duplicates
from memgen.images.imageset import ImageSet
from memgen.images.importing import read_images

_BLOCK = 20_000


def mixtures(source: ImageSet, count: int) -> ImageSet:
    """So many mixtures of two images, with numbers in the place of content ids."""
    rng = np.random.default_rng(0)
    pixels = np.empty((count, *source.image_shape), dtype=np.uint8)
    for start in range(0, count, _BLOCK):
        here = slice(start, min(start + _BLOCK, count))
        size = here.stop - here.start
        i, j = rng.integers(0, len(source), (2, size))
        share = rng.uniform(0.3, 0.7, (size, 1, 1, 1)).astype(np.float32)
        pixels[here] = share * source.pixels[i] + (1 - share) * source.pixels[j]
    ids = tuple(f"{i:016x}" for i in range(count))
    return ImageSet(pixels, ids, ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    source = read_images(given.source, deduplicate=False, **({} if given.source else {"resize": 28}))
    images = mixtures(source, given.images)
    started = time.perf_counter()
    kept, _ = near_duplicates(images)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{given.images:,} images of {source.image_shape}: {seconds:.1f} s, {given.images - len(kept):,} removed, peak"
    )
    print(f"{peak / 1e9:.2f} GB, of which {images.pixels.nbytes / 1e9:.2f} GB are the pixels")


if __name__ == "__main__":
    main()
