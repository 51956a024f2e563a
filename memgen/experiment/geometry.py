"""References and baselines for the denoisers of a run, and the bases in which they shrink noise, kept as tables.

The references are the best linear denoiser and the exact optimum. The baselines are oracles and wavelet thresholding.
The bases are the eigenvectors of the Jacobians. A table that exists is not made again.
"""

import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from memgen.base import files, noise, schemas
from memgen.base.errors import ConfigError, DataError, first_line
from memgen.base.progress import Progress
from memgen.experiment import runs, subjects
from memgen.experiment.workspace import Workspace
from memgen.findings.slopes import Theory
from memgen.images.imageset import ImageSet
from memgen.measures import psnr as denoising
from memgen.measures.geometry import basis
from memgen.models import latent
from memgen.models.denoiser import Denoiser
from memgen.models.known import classes, generate, oracles, wavelets
from memgen.models.known.closed_form import ClosedFormDenoiser
from memgen.models.known.fitting import GaussianSettings, fit

_DENSE = 4096  # pixels up to which a covariance is made and diagonalized: 2 minutes and 0.5 GB there


def measure_references(workspace: Workspace) -> None:
    """Measure PSNR on held-out images for the best linear denoiser and the exact optimum: PSNR tables kept in the run.

    The best linear denoiser is the Wiener filter of all training images. It has a dense covariance where there are at
    least twice as many images as pixels and the matrix is of moderate size, and a stationary one otherwise. The exact
    optimum is known for some generated classes.
    """
    _measure_known(workspace, "reference", schemas.REFERENCES.values(), _reference)


def measure_baselines(workspace: Workspace) -> None:
    """Measure PSNR on held-out images for the denoisers with which slopes are compared: PSNR tables kept in the run.

    These are wavelet thresholding at sigma sqrt(2 ln d), the oracle that shrinks wavelet coefficients, and the
    projection on the tangent space of a generated manifold. The noise is the same as for the models. Images with an odd
    side have no orthonormal wavelets here.
    """
    _measure_known(workspace, "baseline", schemas.BASELINES, _baseline)


# Denoisers, each with the images that it denoises: an oracle is made for one image.
_Known = Iterable[tuple[Denoiser, slice]]


def _measure_known(
    workspace: Workspace, role: str, names: Iterable[str], known: Callable[[Workspace, str], _Known | None]
) -> None:
    """Keep a PSNR table on held-out images for each name that is known for these images."""
    run, settings = workspace.run, workspace.settings
    for name in names:
        key = f"{role}-{name}"
        if run.has_table("psnr", key) or (denoisers := known(workspace, name)) is None:
            continue
        ids, clean = workspace.take(workspace.split.holdout[: settings.psnr.n_images])
        keys = {"subject": name, "role": role, "n_train": None, "part": None, "train_seed": None}
        batch, seed = settings.sample.micro_batch, settings.seed
        curves = [
            denoising.curve(denoiser, clean[part], ids[part], "holdout", settings.psnr, seed, batch, keys)
            for denoiser, part in denoisers
        ]
        run.write_table("psnr", key, pa.concat_tables(curves))


def _reference(workspace: Workspace, name: str) -> _Known | None:
    """The denoiser of a name in schemas.REFERENCES; None where it is not known."""
    found = _optimum(workspace) if name == "exact_optimum" else _best_linear(workspace)
    return None if found is None else [(found.to(workspace.device).eval(), slice(None))]


def _optimum(workspace: Workspace) -> ClosedFormDenoiser | None:
    data = workspace.settings.data
    return generate.reference(data.generated, workspace.settings.seed, data.shuffle) if data.generated else None


def _best_linear(workspace: Workspace) -> ClosedFormDenoiser:
    split = workspace.split
    chosen = np.concatenate([split.a, split.b])
    d = math.prod(workspace.images.image_shape)
    gaussian = GaussianSettings(floor=1e-6, stationary=len(chosen) < 2 * d or d > _DENSE)
    return fit(gaussian, workspace.images.take(chosen).pixels)


def _baseline(workspace: Workspace, name: str) -> _Known | None:
    """The denoisers of a name in schemas.BASELINES; None where there is none."""
    chosen, shape = workspace.split.holdout[: workspace.settings.psnr.n_images], workspace.images.image_shape
    _, clean = workspace.take(chosen)
    if name == "tangent_oracle":
        axes = _tangents(workspace, chosen, workspace.settings.data.shuffle)
        if axes is None:
            return None
        rules = [partial(_project, *pair) for pair in zip(clean, axes.to(workspace.device), strict=True)]
    elif any(side % 2 for side in shape[1:]):
        return None
    elif name == "wavelet_oracle":
        rules = [partial(_shrink, image, wavelets.WaveletTransform(shape)) for image in clean]
    else:
        rule: Literal["hard", "soft"] = "hard" if name == "hard_threshold" else "soft"
        return [(wavelets.WaveletDenoiser(wavelets.WaveletTransform(shape), rule), slice(None))]
    return [(oracles.Oracle(shape, rule), slice(i, i + 1)) for i, rule in enumerate(rules)]


def _project(clean: Tensor, axes: Tensor, noisy: Tensor, sigma: float) -> Tensor:
    return oracles.tangent_denoise(noisy, clean, axes)


def _shrink(clean: Tensor, transform: wavelets.WaveletTransform, noisy: Tensor, sigma: float) -> Tensor:
    return oracles.oracle_wavelets(noisy, clean.expand_as(noisy), transform, sigma)


def measure_basis(
    workspace: Workspace,
    names: Sequence[str],
    sigma: float,
    own: ImageSet | None = None,
    progress: Progress | None = None,
) -> tuple[pa.Table, pa.Table]:
    """The bases in which denoisers shrink the same noisy images: BASIS and BASIS_SUMMARY kept in the run.

    The noise is the first of `psnr`'s draws, the same for all denoisers. Images and the first eigenvectors are kept as
    arrays (see `read_bases`). Jacobians of images of up to 6,400 numbers are made as matrices; of larger ones the
    largest eigenpairs are found, and there are no overlaps with principal components. Where the run shuffled the
    pixels, the tables have the eigenvectors with their pixels in place again, the arrays as the denoisers know them.

    Args:
        workspace: the run.
        names: of two twins, a and b, which are compared, or of one imported denoiser.
        sigma: noise level, pixel units.
        own: a person's own clean images, prepared as the run's were; the first held-out ones if None. Their tables are
            kept beside the others and not stacked with them.
        progress: called with (bases done, of how many).

    Raises:
        ConfigError: the noise level is not above 0.
    """
    if not sigma > 0:
        raise ConfigError(f"--sigma {sigma:g}: expected more than 0, in pixel units, such as 0.1.")
    run, key = workspace.run, _basis_key(names, sigma, own)
    kinds = ("own_basis", "own_basis_summary") if own else ("basis", "basis_summary")
    if not (all(run.has_table(kind, key) for kind in kinds) and run.bases_path(key).exists()):
        found, arrays = _bases(workspace, names, sigma, own, progress)
        for kind, table in zip(kinds, found, strict=True):
            run.write_table(kind, key, table)
        with files.writing(run.bases_path(key)) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    return run.table(kinds[0], key), run.table(kinds[1], key)


def _basis_key(names: Sequence[str], sigma: float, own: ImageSet | None) -> str:
    key = f"{runs.pair_key(*names) if len(names) > 1 else names[0]}.sigma{sigma}"
    return f"{key}.{own.digest}" if own else key


def _bases(
    workspace: Workspace, names: Sequence[str], sigma: float, own: ImageSet | None, progress: Progress | None
) -> tuple[tuple[pa.Table, pa.Table], dict[str, NDArray[Any]]]:
    """The tables, and the arrays: those of the noisy images are (images, [denoisers,] ...)."""
    settings, shape = workspace.settings, workspace.images.image_shape
    models = [subjects.find(workspace, name) for name in names]
    for model in models:
        subjects.require(model, "denoiser")
    denoisers = [model.denoiser for model in models if model.denoiser is not None]
    for denoiser in denoisers:
        latent.require_pixels(denoiser, "Bases")
    if own:
        ids, clean, tangents = list(own.ids), own.floats(None).to(workspace.device), None
    else:
        chosen = workspace.split.holdout[: settings.basis.n_images]
        ids, clean = workspace.take(chosen)
        tangents = _tangents(workspace, chosen, shuffle=False)  # in place
    # Principal components come from a matrix of that side too.
    principal = _in_place(workspace, workspace.principal) if math.prod(shape) <= basis.WHOLE else None
    rows: list[tuple[pa.Table, pa.Table]] = []
    arrays: list[dict[str, NDArray[Any]]] = []
    for position, _, _, normal in noise.image_draws(ids, shape, 1, 1, settings.seed, 1):
        i = int(position[0])
        noisy = clean[i] + sigma * torch.from_numpy(normal[0]).to(clean.device)
        found = []
        for denoiser in denoisers:
            found.append(basis.analyze(denoiser, clean[i], noisy, sigma, settings.basis, settings.seed, ids[i]))
            if progress:
                progress(len(rows) + len(found), len(names) * len(ids))
        placed = [replace(one, eigenvectors=_in_place(workspace, one.eigenvectors)) for one in found]
        image = torch.from_numpy(workspace.in_place(clean[i].cpu().numpy()))
        twins = placed[::-1] if len(placed) > 1 else [None]
        for model, one, twin in zip(models, placed, twins, strict=True):
            axes = None if tangents is None else tangents[i]
            keys = model.identity.columns
            rows.append(basis.to_tables(one, image, ids[i], 0, keys, twin, principal, axes))
        vectors = [one.eigenvectors[:, : settings.basis.vectors].T.reshape(-1, *shape).float() for one in found]
        arrays.append(
            {
                "noisy": noisy.cpu().numpy(),
                "denoised": torch.stack([one.denoised for one in found]).float().numpy(),
                "eigenvalues": torch.stack([one.eigenvalues for one in found]).numpy(),
                "eigenvectors": torch.stack(vectors).numpy(),
            }
        )
    long, summary = (pa.concat_tables(found) for found in zip(*rows, strict=True))
    stacked = {name: np.stack([each[name] for each in arrays]) for name in arrays[0]}
    return (long, summary), {"clean": clean.cpu().numpy(), **stacked}


def read_bases(
    workspace: Workspace, names: Sequence[str], sigma: float, own: ImageSet | None = None
) -> dict[str, NDArray[Any]]:
    """The arrays behind the bases of denoisers at one noise level, by name (see `measure_basis`).

    Returns:
        clean and noisy (images, C, H, W); denoised (images, denoisers, C, H, W); eigenvalues (images, denoisers, k)
        and the first eigenvectors (images, denoisers, K, C, H, W).

    Raises:
        DataError: the file is damaged or missing.
    """
    path = workspace.run.bases_path(_basis_key(names, sigma, own))
    try:
        with np.load(path, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: damaged ({first_line(error)}). Delete it and run memgen basis again.") from error


def _in_place(workspace: Workspace, vectors: Tensor) -> Tensor:
    """Vectors (d, k) in columns, with their pixels where they were before the run shuffled them."""
    images = vectors.T.reshape(-1, *workspace.images.image_shape).numpy()
    return torch.from_numpy(workspace.in_place(images)).reshape(vectors.shape[::-1]).T


def _tangents(workspace: Workspace, positions: NDArray[np.int64], shuffle: bool) -> Tensor | None:
    """The directions in which images can move, where their class says so, with their pixels in place or shuffled."""
    generated = workspace.settings.data.generated
    if generated is None:
        return None
    return generate.tangents(generated, workspace.settings.seed, positions.tolist(), shuffle)


def theory(settings: classes.ClassSettings | None, seed: int = 0) -> Theory:
    """The best slope of a generated class, or of images of which nothing is known.

    Args:
        settings: the class; None for other images.
        seed: of the class.
    """
    if settings is None:
        return Theory(None, None)
    if isinstance(settings, classes.CAlphaSettings):
        alpha = min(settings.alpha, settings.beta or settings.alpha)
        return Theory(alpha / (alpha + 1), None)
    directions = generate.tangents(settings, seed, [0])
    if directions is None:
        return Theory(None, None)
    return Theory(1.0, 10 * math.log10(directions.shape[1] / directions.shape[2]))
