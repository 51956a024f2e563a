"""Run memgen on models whose answer is known, and print what it measured next to what is true.

    python benchmarks/known_truth.py [--only empirical|gaussian|coverage|sampler|verdict]

empirical   The posterior mean of N embedded images, N = 1 to 1,000: every sample is a training image.
gaussian    Wiener filters fitted to disjoint halves of a Gaussian class, N = 16 to 16,384: V and bits are compared with
            closed forms. These are computed here, in NumPy, from nothing but the fitted means and covariances.
coverage    How often the 95 % bootstrap intervals of V, of bits and of a median contain the truth, over 1,000 redraws
            of 128 images or samples.
sampler     The same filters with a fixed linear schedule: the covariance of two models' samples from the same noise is
            compared with its recursion.
verdict     Whole sweeps of the embedded images with both kinds of models, and the verdicts in words.

This takes about five minutes on one core.
"""

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np
import torch

from memgen.base import config, noise
from memgen.base.intervals import bootstrap
from memgen.experiment import executors, make, measure, present, runs, sweep, tasks
from memgen.experiment.settings import RunSettings
from memgen.experiment.workspace import Workspace
from memgen.measures import distances
from memgen.models.known.gaussian import GaussianDenoiser
from memgen.models.sampling import SampleSettings, expected_updates, sample

SHAPE = (1, 16, 16)
D = 256
FLOOR = 1e-3  # least variance: with fewer images than pixels, some directions have none
KEYS = {"subject_a": "a", "subject_b": "b", "role": "cell", "n_train": None, "train_seed": None}
SIGMAS = (0.05, 0.1, 0.2, 0.5, 1.0)


class Truth:
    """A Gaussian class of images. Its variances fall as those of photographs do, along fixed random axes."""

    def __init__(self) -> None:
        axes, _ = np.linalg.qr(noise.stream("truth axes", 0).standard_normal((D, D)))
        self.root = axes * np.sqrt(2.0 / np.arange(1, D + 1) ** 1.5)

    def draw(self, count: int, seed: int) -> torch.Tensor:
        images = 0.5 + noise.stream("truth images", seed).standard_normal((count, D)) @ self.root.T
        return torch.from_numpy(images.reshape(count, *SHAPE)).float()


def fitted(truth: Truth, n: int) -> list[GaussianDenoiser]:
    return [GaussianDenoiser.fit(truth.draw(n, seed), FLOOR).eval() for seed in (1, 2)]


def moments(denoiser: GaussianDenoiser) -> tuple[np.ndarray, np.ndarray]:
    vectors, values = denoiser.eigenvectors.numpy(), denoiser.eigenvalues.numpy()
    return denoiser.mean.numpy().ravel(), (vectors * values) @ vectors.T


def wiener(covariance: np.ndarray, sigma: float) -> np.ndarray:
    return np.linalg.solve(covariance + sigma**2 * np.eye(D), covariance)


def expected_v(a, b, images, sigma: float) -> float:
    """E ||f_A - f_B||^2 / d for images ~ N(mean, covariance) plus noise."""
    (m_a, c_a), (m_b, c_b), (m, c) = a, b, images
    w_a, w_b = wiener(c_a, sigma), wiener(c_b, sigma)
    shift = m_a + w_a @ (m - m_a) - m_b - w_b @ (m - m_b)
    difference = w_a - w_b
    return (shift @ shift + np.trace(difference @ (c + sigma**2 * np.eye(D)) @ difference.T)) / D


def divergence(a, b, sigma: float) -> float:
    """KL divergence of the two Gaussians diffused to a noise level, in bits per dimension."""
    (m_a, c_a), (m_b, c_b) = ((m, c + sigma**2 * np.eye(D)) for m, c in (a, b))
    logs = np.linalg.slogdet(c_b)[1] - np.linalg.slogdet(c_a)[1]
    shift = m_b - m_a
    inner = np.trace(np.linalg.solve(c_b, c_a)) - D + shift @ np.linalg.solve(c_b, shift) + logs
    return inner / 2 / math.log(2) / D


def within(values: np.ndarray, true: float) -> tuple[str, bool]:
    """The mean with its interval and the truth as text, and whether the interval contains the truth."""
    found = bootstrap(values, lambda draws: draws.mean(axis=1), seed=0)
    inside = found.low <= true <= found.high
    return (
        f"{found.estimate:.3e} [{found.low:.3e}, {found.high:.3e}], true {true:.3e}{'' if inside else '  <- outside'}",
        inside,
    )


def gaussian() -> None:
    truth, low, high = Truth(), 0.05, 1.0
    images, count = (np.full(D, 0.5), truth.root @ truth.root.T), 400
    fresh, ids = truth.draw(count, 3), [f"image {i}" for i in range(count)]
    sigmas, weights = distances.quadrature(low, high, 12)
    inside = []
    print(f"Gaussian class, d = {D}, least variance {FLOOR}; V on {count} images, bits on {count} samples of A")
    for n in (16, 64, 256, 1024, 4096, 16384):
        a, b = fitted(truth, n)
        known = moments(a), moments(b)
        table = distances.measure({"models": (a, b)}, fresh, ids, SIGMAS, 1, 0, 512, KEYS)
        value, level = table["value"].to_numpy(), table["sigma"].to_numpy()
        for sigma in SIGMAS:
            text, ok = within(value[level == sigma], expected_v(*known, images, sigma))
            inside.append(ok)
            print(f"  N = {n:6,}  V({sigma:4}) {text}", flush=True)
        normals = noise.stream("truth samples", n).standard_normal((count, D))
        drawn = known[0][0] + normals @ (a.eigenvectors * a.eigenvalues.sqrt()).numpy().T
        drawn = torch.from_numpy(drawn.reshape(count, *SHAPE)).float()
        table = distances.measure({"samples_a": (a, b)}, drawn, ids, sigmas, 1, 1, 512, KEYS, weights)
        bits = (table["value"].to_numpy() * table["weight"].to_numpy()).reshape(count, -1).sum(axis=1)
        text, ok = within(bits, divergence(*known, low) - divergence(*known, high))
        inside.append(ok)
        print(f"  N = {n:6,}  bits    {text}", flush=True)
    print(f"  {sum(inside)} of {len(inside)} 95 % intervals contain the truth")


def coverage(redraws: int = 1000, size: int = 128) -> None:
    truth, low, high = Truth(), 0.05, 1.0
    a, b = fitted(truth, 256)
    known, images = (moments(a), moments(b)), (np.full(D, 0.5), truth.root @ truth.root.T)
    sigmas, weights = distances.quadrature(low, high, 12)
    count, found = redraws * size, {}
    ids = [f"image {i}" for i in range(count)]
    fresh = truth.draw(count, 5)
    values = distances.measure({"models": (a, b)}, fresh, ids, (0.1,), 1, 2, 4096, KEYS)["value"].to_numpy()
    found["V(.1)"] = values, expected_v(*known, images, 0.1), np.mean
    normals = noise.stream("truth samples", 6).standard_normal((count, D))
    drawn = known[0][0] + normals @ (a.eigenvectors * a.eigenvalues.sqrt()).numpy().T
    drawn = torch.from_numpy(drawn.reshape(count, *SHAPE)).float()
    table = distances.measure({"samples_a": (a, b)}, drawn, ids, sigmas, 1, 3, 4096, KEYS, weights)
    bits = (table["value"].to_numpy() * table["weight"].to_numpy()).reshape(count, -1).sum(axis=1)
    found["bits"] = bits, divergence(*known, low) - divergence(*known, high), np.mean
    brightness = fresh.flatten(1).mean(dim=1).numpy().astype(np.float64)
    found["median"] = brightness, 0.5, np.median
    print(f"Coverage of 95 % bootstrap intervals over {redraws} redraws of {size}, N = 256")
    for name, (values, true, statistic) in found.items():
        inside = []
        for seed, part in enumerate(values.reshape(redraws, size)):
            interval = bootstrap(part, lambda draws, f=statistic: f(draws, axis=1), seed, resamples=1000)
            inside.append(interval.low <= true <= interval.high)
        share = np.mean(inside)
        print(f"  {name:7} {share:.3f} \u00b1 {math.sqrt(share * (1 - share) / redraws):.3f}", flush=True)


def sampler() -> None:
    truth = Truth()
    settings = SampleSettings(preset="paper", h0=0.05, beta=0.5, sigma_end=0.05, n_samples=600, micro_batch=200)
    print("Sampler, fixed linear schedule, h = .05, beta = .5: variance of A and covariance of A and B, per pixel")
    for n in (64, 1024):
        a, b = fitted(truth, n)
        mean = torch.full(SHAPE, 0.5)
        drawn = [sample(d, mean, range(600), 0, settings).images.reshape(600, D).astype(np.float64) for d in (a, b)]
        own, cross, center = recursion(moments(a), moments(b), settings)
        off = drawn[0] - center[0], drawn[1] - center[1]
        for name, products, true in (("variance", off[0] * off[0], own), ("covariance", off[0] * off[1], cross)):
            text, _ = within(products.mean(axis=1), np.trace(true) / D)
            print(f"  N = {n:5,}  {name:10} {text}", flush=True)
        # Along each eigenvector of the true cross-covariance, whose estimates have known standard errors.
        _, vectors = np.linalg.eigh((cross + cross.T) / 2)
        found = (off[0] @ vectors) * (off[1] @ vectors)
        z = (found.mean(axis=0) - np.diag(vectors.T @ cross @ vectors)) / (found.std(axis=0) / math.sqrt(600))
        print(f"  N = {n:5,}  share of {D} eigenvectors with |z| > 1.96: {np.mean(np.abs(z) > 1.96):.3f}, expected .05")


def recursion(a, b, settings: SampleSettings):
    """Covariance of A's samples, their cross-covariance with B's, and both means. Every update is linear."""
    eye, sigma = np.eye(D), settings.sigma_start
    own, cross = eye * sigma**2, eye * sigma**2
    means = [np.full(D, 0.5), np.full(D, 0.5)]
    for _ in range(expected_updates(settings)):
        contraction = 1 - settings.beta * settings.h0
        gamma = sigma * math.sqrt(contraction**2 - (1 - settings.h0) ** 2)
        moves = [(1 - settings.h0) * eye + settings.h0 * wiener(c, sigma) for _, c in (a, b)]
        own = moves[0] @ own @ moves[0].T + gamma**2 * eye
        cross = moves[0] @ cross @ moves[1].T + gamma**2 * eye
        means = [m + move @ (mean - m) for (m, _), move, mean in zip((a, b), moves, means, strict=True)]
        sigma *= contraction
    return own, cross, means


def run(*overrides: str) -> tuple[Workspace, present.Findings]:
    folder = Path(tempfile.mkdtemp(prefix="memgen-truth-"))
    settings = config.load(RunSettings, None, list(overrides))
    workspace = Workspace(runs.create(folder, "truth", settings.model_dump(mode="json"), "cpu"), settings, "cpu")
    with workspace.run.working():
        make.import_data(workspace)
        sweep.execute(workspace, tasks.tasks(settings.cells), executors.find("local"), lambda event: None)
        return workspace, present.find(workspace)


def empirical() -> None:
    sizes = (1, 2, 5, 10, 50, 100, 500, 1000)
    workspace, found = run(
        "model.architecture=empirical", f"sweep.n_train={list(sizes)}", "sample.sigma_end=0.02", "psnr.n_images=16",
    )  # fmt: skip
    rows = {(row["n_train"], row["quantity"]): row for row in found.transition.to_pylist()}
    print("Posterior mean of N embedded images at 16x16, 128 samples for each half")
    for n in sizes:
        nearest = [
            value
            for part in "ab"
            for value in measure.search_own(workspace, f"n{n}-s0-{part}")[0].to_pandas().query("rank == 1")["value"]
        ]
        share = rows[n, "memorized_fraction"]
        print(
            f"  N = {n:5,}  correlation above .999: {np.mean(np.array(nearest) > 0.999):.0%}  memorized fraction "
            f"{share['estimate']:.3f} [{share['low']:.3f}, {share['high']:.3f}]  {found.verdict.regimes[n]}"
        )


def verdict() -> None:
    for name in ("empirical", "gaussian"):
        _, found = run(f"model.architecture={name}", "sweep.n_train=[16, 1024, 4096]", "psnr.n_images=64")
        print(f"{name}: {found.verdict.headline}")
        print("  " + "\n  ".join(found.verdict.sentences))


def main() -> None:
    sections = {f.__name__: f for f in (empirical, gaussian, coverage, sampler, verdict)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sections)
    only = parser.parse_args().only
    torch.set_num_threads(1)
    for name, section in sections.items():
        if only in (None, name):
            section()


if __name__ == "__main__":
    main()
