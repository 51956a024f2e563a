"""What the page can step through: the images on the way of the sampler, and the eigenvectors of denoisers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memgen.report.sheets import Bases, signed
from memgen.report.tiles import Tiles

SAMPLES_SHOWN, FRAMES_SHOWN = 8, 40  # of a film
VECTORS_SHOWN = 32  # of a basis


@dataclass(frozen=True, eq=False)
class Film:
    """The denoised images of one model on the way from noise to samples.

    Attributes:
        panel: the training-set size or imported subject; see `labels.panel`.
        model: what draws.
        samples: index of each sample, M of them.
        updates: updates made before each frame, F of them.
        sigmas: noise level that the sampler believes there, pixel units, mean over samples; None where not known.
        frames: (F, M, C, H, W), in pixel units.
    """

    panel: str
    model: str
    samples: Sequence[int]
    updates: Sequence[int]
    sigmas: Sequence[float | None]
    frames: NDArray[Any]


def film_payload(films: Sequence[Film], packed: Tiles) -> list[dict[str, Any]]:
    """Films as the page's script reads them; of each at most 40 frames, evenly spaced, of at most 8 samples."""
    found = []
    for film in films:
        count = len(film.updates)
        kept = np.unique(np.linspace(0, count - 1, min(count, FRAMES_SHOWN)).round().astype(int)).tolist()
        shown = film.samples[:SAMPLES_SHOWN]
        found.append(
            {
                "panel": film.panel,
                "model": film.model,
                "samples": [int(sample) for sample in shown],
                "updates": [int(film.updates[i]) for i in kept],
                "sigmas": [film.sigmas[i] for i in kept],
                "tiles": [[packed.of(film.frames[i, m]) for i in kept] for m in range(len(shown))],
            }
        )
    return found


def bases_payload(bases: Sequence[Bases], packed: Tiles) -> list[dict[str, Any]]:
    """The bases of denoisers as the page's script reads them, with at most 32 eigenvectors each."""
    found = []
    for each in bases:
        models = []
        for part, vectors in enumerate(each.eigenvectors):
            drawn = [signed(vector, each.clean) for vector in vectors[:VECTORS_SHOWN]]
            models.append(
                {
                    "model": f"model {'AB'[part]}" if len(each.eigenvectors) > 1 else "model",
                    "denoised": packed.of(each.denoised[part]),
                    "vectors": [packed.of(vector) for vector in drawn],
                    "values": [float(f"{value:.4g}") for value in each.eigenvalues[part][: len(drawn)]],
                }
            )
        inputs = {"clean": packed.of(each.clean), "noisy": packed.of(each.noisy)}
        found.append({"panel": each.name, "sigma": float(each.sigma), **inputs, "models": models})
    return found
