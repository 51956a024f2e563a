"""Two denoisers trained on disjoint images: how alike are the images they draw, and how alike are they as functions?

`compare` sets the similarity of the samples drawn from the same noise between two references: pairs of samples drawn
from different noise, which share no more than the distribution, and training images of one half with their nearest in
the other half, which is as alike as images of the two sets ever come.

`disagreement` compares the denoisers on the same noisy images y = x + σz of a held-out set, free of the sampler's
chaos: V(σ) = E ||f_A(y) - f_B(y)||^2 / d, which is twice the model variance for independent training sets.

Source: Kadkhodaie et al. 2024, Figures 2, 6 and 8, section 2.1.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen import noise, tables
from memgen.denoisers import Denoiser, check_measurable
from memgen.similarity import paired

Nearest = Callable[[Tensor], tuple[NDArray[np.int64], NDArray[np.float64]]]
Keys = Mapping[str, str | int | None]

_SHIFTS = 4
_TRAIN_CAP = 1024


def compare(
    samples_a: Tensor, samples_b: Tensor, train_a: Tensor, nearest_in_b: Nearest, metric: str, keys: Keys
) -> pa.Table:
    """Similarity of paired samples, with its two references.

    Args:
        samples_a: samples of denoiser a, (M, C, H, W), pixel units.
        samples_b: samples of denoiser b, same shape; samples_b[i] was drawn from the noise of samples_a[i].
        train_a: training images of denoiser a, (n, C, H, W); of more than 1024, so many evenly spaced ranks are used.
        nearest_in_b: maps images (m, C, H, W) to the ranks (m,) of the most alike training images of denoiser b and
            the values (m,) of the metric; `neighbors.Index.nearest` of an index of those images.
        metric: correlation, cosine or rmse.
        keys: values of the columns denoiser_a, denoiser_b, n_train and train_seed.

    Returns:
        A SIMILARITY table with kind same_noise (A[i] with B[i]), different_noise (A[i] with B[i + s mod M] for up to
        four fixed shifts s spread over M; none when M = 1) and train_train.

    Raises:
        ShapeError: the sample sets differ in shape.
        ConfigError: the metric is unknown.
    """
    n_samples = len(samples_a)
    sample = np.arange(n_samples)
    parts = [("same_noise", sample, sample, paired(samples_a, samples_b, metric).numpy())]
    for shift in _shifts(n_samples):
        other = (sample + shift) % n_samples
        parts.append(("different_noise", sample, other, paired(samples_a, samples_b[other], metric).numpy()))
    rank = np.unique(np.linspace(0, len(train_a) - 1, min(len(train_a), _TRAIN_CAP)).round().astype(np.int64))
    parts.append(("train_train", rank, *nearest_in_b(train_a[rank])))
    kinds, items_a, items_b, values = zip(*parts, strict=True)
    return tables.make(
        tables.SIMILARITY,
        {
            **keys,
            "kind": np.repeat(np.array(kinds, dtype=object), [len(items) for items in items_a]),
            "item_a": np.concatenate(items_a),
            "item_b": np.concatenate(items_b),
            "metric": metric,
            "value": np.concatenate(values),
        },
    )


def disagreement(
    denoiser_a: Denoiser,
    denoiser_b: Denoiser,
    images: Tensor,
    ids: Sequence[str],
    sigmas: Sequence[float],
    draws: int,
    noise_seed: int,
    batch: int,
    keys: Keys,
) -> pa.Table:
    """Squared distance per pixel between two denoisers' outputs, for every image, noise draw and noise level.

    With the same seed, ids and draws, the noise is that of `psnr.curve`.

    Args:
        denoiser_a: in eval mode; it runs on the device of `images`.
        denoiser_b: likewise.
        images: clean held-out images, (n, C, H, W), float32, [0, 1].
        ids: their content ids, (n,).
        sigmas: standard deviations of the noise, pixel units.
        draws: independent noise images per clean image.
        noise_seed: seed of the noise.
        batch: images denoised at a time, which bounds the memory.
        keys: values of the columns denoiser_a, denoiser_b, n_train and train_seed.

    Returns:
        A DISAGREEMENT table of n * draws * len(sigmas) rows.

    Raises:
        ShapeError: the images are not of the denoisers' shape, or not as many as the ids.
        DataError: a denoiser is in train mode, or gives a value that is not finite.
    """
    for denoiser in (denoiser_a, denoiser_b):
        check_measurable(denoiser, images, ids)
    levels = np.asarray(sigmas, dtype=np.float64)
    shape = len(ids), draws, len(levels)
    values = np.empty(shape)
    with torch.inference_mode():
        for image, draw, level, normal in noise.image_draws(
            ids, tuple(images.shape[1:]), len(levels), draws, noise_seed, batch
        ):
            clean = images[torch.from_numpy(image)]
            sigma = torch.from_numpy(levels[level]).float().to(clean.device)
            noisy = clean + sigma.view(-1, 1, 1, 1) * torch.from_numpy(normal).to(clean.device)
            difference = denoiser_a(noisy, sigma) - denoiser_b(noisy, sigma)
            values[image, draw, level] = difference.double().square().flatten(1).mean(dim=1).cpu().numpy()
    image, draw, level = (index.ravel() for index in np.indices(shape))
    return tables.make(
        tables.DISAGREEMENT,
        {
            **keys,
            "image_id": np.array(ids, dtype=object)[image],
            "sigma": levels[level],
            "noise_draw": draw,
            "value": values.ravel(),
        },
    )


def _shifts(n_samples: int) -> list[int]:
    """Up to four different shifts spread evenly over the samples."""
    steps: NDArray[Any] = np.arange(1, _SHIFTS + 1) * n_samples / (_SHIFTS + 1)
    return sorted({int(shift) for shift in steps.round() if 0 < shift < n_samples})
