"""The expected cost of a sweep, from a few steps that are timed on the spot."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from memgen.experiment.executors import threads
from memgen.experiment.runs import Cell
from memgen.experiment.settings import RunSettings
from memgen.images.imageset import ImageSet
from memgen.models.denoiser import Denoiser
from memgen.models.known.fitting import fit
from memgen.models.networks import NetworkSettings, build
from memgen.models.sampling import expected_calls
from memgen.models.training import Training, train


@dataclass(frozen=True)
class Cost:
    """The expected cost of a sweep.

    Attributes:
        cells: number of trainings.
        seconds: wall time of training, sampling and denoising, which take nearly all of the time.
        disk_bytes: size of images, weights, samples and indexes, without the tables.
    """

    cells: int
    seconds: float
    disk_bytes: int


def passes(settings: RunSettings, cell: Cell) -> dict[str, int]:
    """How many images each step of a cell takes through its network: `train` there and back, the others once.

    The steps that are left out take little time beside these. Of the comparison of twins, each has half.
    """
    draws = len(settings.psnr.sigmas) * settings.psnr.noise_draws
    return {
        "train": settings.train.budget(cell.n_train) if isinstance(settings.model, NetworkSettings) else 0,
        "sample": settings.sample.n_samples * expected_calls(settings.sample),
        "psnr": (min(cell.n_train, settings.psnr.n_images) + settings.psnr.n_images) * draws,
        "compare": settings.psnr.n_images * draws,
    }


def estimate(settings: RunSettings, images: ImageSet, device: str, jobs: int) -> Cost:
    """Expected cost of a sweep on these images, from a few training steps and network calls timed here and now."""
    cells, pixels = settings.cells, int(np.prod(images.image_shape))
    batch = images.floats(range(min(len(images), settings.train.batch_size))).to(device)
    with threads(settings.compute.threads):
        if isinstance(settings.model, NetworkSettings):
            training = Training(build(settings.model, images.image_shape), settings.train, (0, 0), device)
            step = _timed(islice(train(training, batch, record_every=1), 4))
            weights = training.network.parameter_count * 4
            denoiser: Denoiser = training.result.eval()
        else:  # timed at the mean size of the training sets
            size = int(np.mean([cell.n_train for cell in cells]))
            denoiser, step, weights = fit(settings.model, images.take(range(size)).pixels).to(device), 0.0, 0
        noisy = batch.new_zeros(settings.sample.micro_batch, *images.image_shape)
        sigma = batch.new_ones(settings.sample.micro_batch)
        with torch.inference_mode():
            call = _timed(denoiser(noisy, sigma) for _ in range(4)) / settings.sample.micro_batch
    counted = [passes(settings, cell) for cell in cells]
    trained = sum(found["train"] for found in counted)
    denoised = sum(sum(found.values()) for found in counted) - trained
    seconds = trained / len(batch) * step + denoised * call
    references = sum(cell.n_train for cell in cells) * images.pixels.itemsize * pixels
    samples = len(cells) * settings.sample.n_samples * pixels * 4
    return Cost(len(cells), seconds / jobs, images.pixels.nbytes + references + samples + len(cells) * weights)


def _timed(work: Iterator[Any]) -> float:
    """Median seconds of an item, the first left out."""
    times = [time.perf_counter()]
    times += [time.perf_counter() for _ in work]
    return float(np.median(np.diff(times)[1:]))
