"""Two denoisers trained on disjoint images: how alike are the images that they draw from the same noise?

`compare` sets the similarity of the samples drawn from the same noise between two references: pairs of samples drawn
from different noise, which share no more than the distribution, and training images of one half with their nearest in
the other half, which is as alike as images of the two sets ever come.

Source: Kadkhodaie et al. 2024, Figures 2, 6 and 8.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from memgen import spaces
from memgen.base import schemas, tables

Nearest = Callable[[Tensor], tuple[NDArray[np.int64], NDArray[np.float64]]]
Keys = Mapping[str, str | int | None]

_SHIFTS = 4
_TRAIN_CAP = 1024


def compare(
    samples_a: Tensor,
    samples_b: Tensor,
    train_a: Tensor | None,
    nearest_in_b: Nearest | None,
    metric: str,
    keys: Keys,
) -> pa.Table:
    """Similarity of paired samples, with its two references.

    Args:
        samples_a: samples of denoiser a, (M, C, H, W), pixel units.
        samples_b: samples of denoiser b, same shape; samples_b[i] was drawn from the noise of samples_a[i].
        train_a: training images of denoiser a, (n, C, H, W); of more than 1024, that many evenly spaced ranks are used.
            None where the training sets are not known.
        nearest_in_b: maps images (m, C, H, W) to the ranks (m,) of the most alike training images of denoiser b and
            the values (m,) of the metric; `Index.nearest` of an index of those images. None as above.
        metric: correlation, cosine or rmse.
        keys: values of the columns subject_a, subject_b, role, n_train and train_seed.

    Returns:
        A SIMILARITY table with kind same_noise (A[i] with B[i]), different_noise (A[i] with B[i + s mod M] for up to
        four fixed shifts s spread over M; none when M = 1) and train_train.

    Raises:
        ShapeError: the sample sets differ in shape.
        ConfigError: the metric is unknown.
    """
    space, n_samples = spaces.find(metric), len(samples_a)
    sample = np.arange(n_samples)
    parts = [("same_noise", sample, sample, space.paired(samples_a, samples_b).numpy())]
    for shift in _shifts(n_samples):
        other = (sample + shift) % n_samples
        parts.append(("different_noise", sample, other, space.paired(samples_a, samples_b[other]).numpy()))
    if train_a is not None and nearest_in_b is not None:
        rank = np.unique(np.linspace(0, len(train_a) - 1, min(len(train_a), _TRAIN_CAP)).round().astype(np.int64))
        parts.append(("train_train", rank, *nearest_in_b(train_a[rank])))
    kinds, items_a, items_b, values = zip(*parts, strict=True)
    return tables.make(
        schemas.SIMILARITY,
        {
            **keys,
            "kind": np.repeat(np.array(kinds, dtype=object), [len(items) for items in items_a]),
            "item_a": np.concatenate(items_a),
            "item_b": np.concatenate(items_b),
            "metric": metric,
            "value": np.concatenate(values),
        },
    )


def _shifts(n_samples: int) -> list[int]:
    """Up to four different shifts spread evenly over the samples."""
    steps: NDArray[Any] = np.arange(1, _SHIFTS + 1) * n_samples / (_SHIFTS + 1)
    return sorted({int(shift) for shift in steps.round() if 0 < shift < n_samples})
