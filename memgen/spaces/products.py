"""Inner products of many vectors with images of uint8, which are read in blocks and never become float vectors.

Let z_i = x_i - 128 be the numbers of image i, in [-128, 127]. For each space of pixels (see `pixels.Code`) the score of
a query with vector v, and of image i, is

    scale_i (<v, z_i> + shift_i sum(v)) + offset_i + (a number of the query)

So <v, z_i> is all that is needed. Where the processor multiplies 8-bit integers exactly, v is written as

    v ~ a (q_1 + q_2 / 254) + b,        q_1, q_2 of 8 bits

and both products are exact, at about a quarter of the time of a float32 product each. A query of uint8 pixels is its
own q_1, and needs no q_2. How far v is from its approximation is computed, and is part of the error bound.

Without instructions for this (VNNI, AMX, or a GPU), PyTorch's product of 8-bit integers saturates without a word, so
it is tried once before it is trusted. Then blocks become float32, which are multiplied by v itself.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.base import files
from memgen.images.gathered import Images, numbers
from memgen.images.imageset import floats

_BLOCK_BYTES = 2**25  # of images multiplied at a time
_BLOCK_IMAGES = 8192
_LEVELS = 127  # of q_1 on either side of 0
_FINER = 254  # levels of q_2 in one of q_1
_LONGEST = 2**17 - 1  # numbers of an image whose products with -128 do not exceed 32 bits


@dataclass(frozen=True, eq=False)
class Coded:
    """Vectors of M queries, v ~ a q + b; see the head of this module.

    Attributes:
        terms: q_1, and q_2 where it is needed, (M, d) int8 each; or v itself, float32, where integers do not serve.
        factor: a, (M,) float64, above 0.
        constant: b, (M,) float64.
        total: sum of the numbers of each approximation, (M,) float64.
        norm: norm of each q, (M,) float64.
        missing: distance of each vector from its approximation, (M,) float64.
    """

    terms: tuple[Tensor, ...]
    factor: NDArray[np.float64]
    constant: NDArray[np.float64]
    total: NDArray[np.float64]
    norm: NDArray[np.float64]
    missing: NDArray[np.float64]

    @classmethod
    def floats(cls, vectors: Tensor) -> "Coded":
        """Vectors (M, d) float32 as they are."""
        total, norm = vectors.double().sum(dim=1).numpy(), vectors.double().norm(dim=1).numpy()
        return cls((vectors,), np.ones(len(total)), np.zeros(len(total)), total, norm, np.zeros(len(total)))

    @classmethod
    def integers(cls, vectors: Tensor, images: Tensor) -> "Coded":
        """Vectors (M, d) float32 of queries, whose images (M, d) are in pixel units."""
        levels = images.mul(255).round()
        if bool(((levels >= 0) & (levels <= 255)).all()) and torch.equal(levels.div(255), images):
            terms: tuple[Tensor, ...] = (levels.sub(128).to(torch.int8),)
        else:
            coarse = vectors.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / _LEVELS
            first = (vectors / coarse).round()
            second = ((vectors - first * coarse) * (_FINER / coarse)).round().clamp(-_LEVELS, _LEVELS)
            terms = first.to(torch.int8), second.to(torch.int8)
        factor, constant, total, norm, missing = (np.zeros(len(vectors)) for _ in range(5))
        for i in range(0, len(vectors), 256):  # in float64, some rows at a time
            rows = slice(i, i + 256)
            exact, whole = vectors[rows].double(), _joined([term[rows].double() for term in terms])
            centered = whole - whole.mean(dim=1, keepdim=True)
            length = centered.square().sum(dim=1)
            a = (exact * centered).sum(dim=1) / length  # the a and b that fit best
            constant_ones = ~(a > 0)  # these are all b
            for term in terms:
                term[rows][constant_ones] = 0
            whole[constant_ones], a[constant_ones] = 0, 1
            b = exact.mean(dim=1) - a * whole.mean(dim=1)
            found = a[:, None] * whole + b[:, None]
            factor[rows], constant[rows], total[rows] = a.numpy(), b.numpy(), found.sum(dim=1).numpy()
            norm[rows], missing[rows] = whole.norm(dim=1).numpy(), (exact - found).norm(dim=1).numpy()
        return cls(terms, factor, constant, total, norm, missing)

    def times(self, z: Tensor, rows: slice | NDArray[np.int64], device: str) -> Tensor:
        """<q, z> of some queries and of all images, whose numbers z are (B, d) int8 on the device: (m, B) float32."""
        terms = [term[rows].to(device) for term in self.terms]
        if terms[0].dtype == torch.float32:
            return terms[0] @ z.to(torch.float32).T
        return _joined([int_mm(term, z) for term in terms])


def _joined(terms: Sequence[Tensor]) -> Tensor:
    """q_1 + q_2 / 254; integers become float32."""
    whole = terms[0] if terms[0].is_floating_point() else terms[0].to(torch.float32)
    return whole if len(terms) == 1 else whole.add_(terms[1], alpha=1 / _FINER)


def steps(count: int, d: int) -> Iterator[slice]:
    """Rows 0 to count - 1 in order, so many at a time that their d numbers each need little memory."""
    step = max(16, min(_BLOCK_IMAGES, _BLOCK_BYTES // d))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def blocks(pixels: Any, d: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Images (N, ...) in order, as (position of the first, (B, d)), so many at a time that they need little memory."""
    for rows in steps(len(pixels), d):
        yield rows.start, np.asarray(pixels[rows]).reshape(-1, d)


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products in true float32, which error bounds assume, even where TF32 or bfloat16 were allowed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def vectors(pixels: Images, embed: Callable[[Tensor], Tensor]) -> NDArray[np.float32]:
    """Vectors of images (N, C, H, W), (N, D), in memory or, if there are many, in a temporary file.

    Args:
        pixels: at least one image, of uint8 or float32, in memory or not.
        embed: takes images (B, C, H, W), float32 in pixel units, to vectors (B, D).
    """
    made: NDArray[np.float32] | None = None
    for start, block in blocks(pixels, numbers(pixels)):
        found = embed(floats(block.reshape(-1, *pixels.shape[1:]))).numpy()
        if made is None:
            made = files.room((len(pixels), found.shape[1]), np.float32)
        made[start : start + len(found)] = found
    assert made is not None
    return made


def signed(block: NDArray[np.uint8], device: str) -> Tensor:
    """z = x - 128 of images (B, d) of uint8, (B, d) int8 on the device."""
    return torch.from_numpy((block ^ np.uint8(128)).view(np.int8)).to(device)


def int_mm(a: Tensor, b: Tensor) -> Tensor:
    """The product a b^T of matrices (M, d) and (B, d) of int8, (M, B) int32, on a device where `is_exact`."""
    rows, columns, short = a.shape[0], b.shape[0], -a.shape[1] % 8
    if short:  # CUDA asks for multiples of 8, and on the CPU a single column gives garbage
        a, b = (torch.nn.functional.pad(each, (0, short)) for each in (a, b))
    if a.is_cuda:
        a = torch.nn.functional.pad(a, (0, 0, 0, max(0, 32 - rows)))
        b = torch.nn.functional.pad(b, (0, 0, 0, -columns % 8))
    return torch._int_mm(a, b.T)[:rows, :columns]


def integers_serve(d: int, device: str) -> bool:
    """Whether products of images of d numbers are exact in integers on a device."""
    return d <= _LONGEST and is_exact(device)


@functools.cache
def is_exact(device: str) -> bool:
    """Whether the device multiplies 8-bit integers exactly: numbers are multiplied that would show saturation."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 2, (64, 256), generator=generator).mul(255).sub(128).to(torch.int8)
    b = torch.randint(-128, 128, (64, 256), generator=generator).to(torch.int8)
    try:
        there = [int_mm(left.to(device), right.to(device)).cpu() for left, right in ((a, a), (a, b), (b, a))]
    except (AttributeError, RuntimeError):  # another PyTorch, or a device without such a product
        return False
    exact = [(left.double() @ right.double().T).to(torch.int32) for left, right in ((a, a), (a, b), (b, a))]
    return all(torch.equal(found, right) for found, right in zip(there, exact, strict=True))
