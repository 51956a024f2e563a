"""Make the images that come with memgen: a seeded, de-duplicated part of the training images of Fashion-MNIST.

    python benchmarks/make_embedded.py train-images-idx3-ubyte.gz memgen/embedded/fashion-mnist-idx3-ubyte.gz

The order of the training images is shuffled by a hash of the seed and their content. An image is then dropped if it
correlates above .95 with an earlier one. This is done first at 28 x 28, on area averages of 20 x 20. It is repeated
after the importer's resize to 16 x 16, where a few more images become near-duplicates. The first N_IMAGES of the rest
are written as an IDX file. The bytes are the same every time, and DIGEST is the hash of their content ids.
"""

import gzip
import sys
from pathlib import Path

import numpy as np

from memgen.base import files
from memgen.images.duplicates import near_duplicates
from memgen.images.imageset import ImageSet
from memgen.images.importing import ImportSettings, import_images

SEED = 0
N_START = 22_000
N_IMAGES = 9_728
DIGEST = "3b2d2b8cba12effa"


def choose(source: Path) -> ImageSet:
    full = import_images(source, ImportSettings(deduplicate=False)).images
    order = sorted(range(len(full)), key=lambda index: files.digest(str(SEED), full.ids[index]))
    start = full.take(order[:N_START])
    at_28 = start.take(near_duplicates(start)[0])
    print(f"{len(start)} images, {len(at_28)} remain without near-duplicates at 28 x 28", file=sys.stderr)
    return at_28


def main(source: Path, target: Path) -> None:
    at_28 = choose(source)
    write_idx(target, at_28)
    kept = import_images(target, ImportSettings(resize=16)).images
    positions = [int(name.partition("[")[2].rstrip("]")) for name in kept.sources]
    print(f"{len(kept)} remain without near-duplicates at 16 x 16", file=sys.stderr)
    if len(kept) < N_IMAGES:
        sys.exit(f"error: found {len(kept)} images after removing near-duplicates, expected {N_IMAGES}. Raise N_START.")
    final = at_28.take(positions[:N_IMAGES])
    write_idx(target, final)
    print(f"{target}: {len(final)} images, {target.stat().st_size} bytes, digest {final.digest}")
    if final.digest != DIGEST:
        sys.exit(f"error: expected the digest {DIGEST}. Is the source the Fashion-MNIST training file?")


def write_idx(path: Path, images: ImageSet) -> None:
    header = b"\x00\x00\x08\x03" + np.array([len(images), *images.image_shape[1:]], dtype=">u4").tobytes()
    path.write_bytes(gzip.compress(header + images.pixels.tobytes(), compresslevel=9, mtime=0))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
