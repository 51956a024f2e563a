"""How a denoiser shrinks noise near its training images, beside how it does near held-out ones.

A denoiser that has memorized an image pulls everything near it to that image: its Jacobian there keeps few dimensions.
So a smaller trace near T than near H is a sign of memorization. SURE estimates the error from the noisy image alone; an
estimate that does not fit the error says that the Jacobian is not to be trusted.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from memgen.base import noise, schemas, tables
from memgen.base.errors import DataError
from memgen.base.progress import Progress
from memgen.measures.geometry.basis import Basis, BasisSettings, analyze
from memgen.measures.subject import Subject, lacking
from memgen.models.latent import encoded

_WHOLE = 1024  # numbers of an image up to which its Jacobian is a matrix here, where only its trace is compared
_MEASURED = ("trace", "trace_error", "asymmetry", "squared_error", "sure")


@dataclass(frozen=True, eq=False)
class Seen:
    """A noisy image, and the Jacobian of the denoiser there.

    Attributes:
        kind: train or holdout.
        clean: the image as the denoiser takes it, (C, H, W).
        noisy: the same with noise.
        basis: the decomposed Jacobian.
    """

    kind: str
    clean: Tensor
    noisy: Tensor
    basis: Basis


def measure_shrinkage(
    subject: Subject,
    settings: BasisSettings,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> tuple[pa.Table, list[Seen]]:
    """The Jacobian of a subject near images of T and of H, each with noise of its own.

    Args:
        subject: one that has a denoiser, T and H.
        settings: noise levels, and number of images of each set, the first ones.
        seed: of the noise.
        device: of the denoiser.
        progress: called with (Jacobians done, of how many).

    Returns:
        A SHRINKAGE table of a row for each image and noise level, and what was seen at the first image of each kind,
        train and holdout, at each noise level.

    Raises:
        DataError: the subject lacks something, or its Jacobian cannot be had.
    """
    if reason := lacking(subject, "denoiser", "train", "held_out"):
        raise DataError(f"{subject.identity.subject}: Jacobians cannot be compared, since {reason}.")
    assert subject.denoiser is not None
    rows: list[dict[str, Any]] = []
    first: list[Seen] = []
    sides = {"train": subject.train, "holdout": subject.held_out}
    chosen = {kind: each.take(slice(settings.n_images)) for kind, each in sides.items() if each is not None}
    total = sum(map(len, chosen.values())) * len(settings.sigmas)
    for kind, images in chosen.items():
        clean = encoded(subject.denoiser, images.floats().to(device))
        shape = clean.shape[1], clean.shape[2], clean.shape[3]
        for position, _, _, normal in noise.image_draws(images.ids, shape, 1, 1, seed, 1):
            x, identity = clean[int(position[0])], images.ids[int(position[0])]
            for sigma in sorted(settings.sigmas):
                noisy = x + sigma * torch.from_numpy(normal[0]).to(x.device)
                found = analyze(subject.denoiser, x, noisy, sigma, settings, seed, identity, _WHOLE)
                if position[0] == 0:
                    first.append(Seen(kind, x.cpu(), noisy.cpu(), found))
                measured = {name: getattr(found, name) for name in _MEASURED}
                rows.append({"kind": kind, "image_id": identity, "sigma": sigma, **measured})
                if progress:
                    progress(len(rows), total)
    columns = {name: [row[name] for row in rows] for name in schemas.SHRINKAGE.names}
    return tables.make(schemas.SHRINKAGE, columns, len(rows)), first
