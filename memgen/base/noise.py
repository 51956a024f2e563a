"""Noise that belongs to its image: each stream depends on a purpose, a seed and an index, and on nothing else.

Streams are Philox counters keyed by a hash of (purpose, seed, index...). They are read on the CPU in a fixed order, so
the numbers are the same bit for bit whatever the batch, the number of threads or the device. (PyTorch's own generators
give other numbers on other devices, and one global generator ties every sample to the batch it was drawn in.)
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


def stream(purpose: str, *key: int) -> np.random.Generator:
    """The random stream of a purpose ("sample", "psnr", ...) and a key, such as (seed, sample index)."""
    text = "/".join([purpose, *map(str, key)])
    words = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype="<u8")
    return np.random.Generator(np.random.Philox(key=words))


def normal(
    generator: np.random.Generator, shape: tuple[int, ...], out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """The stream's next standard normal numbers, float32, in `out` if it is given; in parts, they are the same."""
    return generator.standard_normal(shape, dtype=np.float32, out=out)


def image_draws(
    ids: Sequence[str], shape: tuple[int, ...], levels: int, draws: int, seed: int, batch: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """All combinations of image, draw and noise level, in batches, each row with its standard normal image.

    The normal image depends on (seed, id of the clean image, draw) alone. All noise levels and all denoisers share it
    (common random numbers), so differences between denoisers, and curves over the noise level, vary less than with
    independent noise. The images are the independent units.

    Args:
        ids: content ids of the clean images, (n,).
        shape: shape of one image, (C, H, W).
        levels: number of noise levels.
        draws: independent normal images per clean image.
        seed: noise seed.
        batch: rows per batch.

    Yields:
        (image, draw, level, normal): positions (B,), (B,), (B,), with the level varying fastest, and (B, C, H, W).
    """
    rows = len(ids) * draws * levels
    for start in range(0, rows, batch):
        pair, level = np.divmod(np.arange(start, min(start + batch, rows)), levels)
        image, draw = np.divmod(pair, draws)
        pairs = range(int(pair[0]), int(pair[-1]) + 1)
        normals = [normal(stream(f"image/{ids[p // draws]}", seed, p % draws), shape) for p in pairs]
        yield image, draw, level, np.stack(normals)[pair - pair[0]]
