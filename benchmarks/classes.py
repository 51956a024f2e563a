"""Measure what is known about the generated classes: contours, PSNR gains, and the posterior mean of discs.

    python benchmarks/classes.py [--draws 2000000] [--images 6]

Three tables are printed:

Contours: the standard deviation of contours in pixels at 80x80, with its standard error, next to the closed form.
Gains: output PSNR minus input PSNR at small noise and 80x80, with its standard error, next to 10 log10(d / dimension).
Discs at 16x16, at several noise levels:
    difference   between the posterior mean and an estimate from draws of the prior, weighted by their likelihood. It
                 is a root mean square in units of the expected Monte Carlo error, so that 1 means agreement.
    draws        the effective number of draws behind that estimate
    quadrature   the quadrature error in units of sigma, found by halving the grid spacing
    left out     an upper bound on the weight of the discs that the posterior mean leaves out
    MSE          the mean squared error divided by 5 sigma^2 / d, with its standard error over images
    s            seconds for each image
"""

import argparse
import math
import time

import numpy as np
import torch

from memgen.models.known.classes import ConeSettings, DiscSettings, SinusoidSettings
from memgen.models.known.discs import DiscDenoiser
from memgen.models.known.generate import ConeDenoiser, contours, generate, reference

CONTOURS = {1: 10.7, 1.5: 9.6, 2: 9.3, 3: 9.1, 4: 8.8, 5: 8.9}


def noised(clean, sigma, seed):
    generator = torch.Generator().manual_seed(seed)
    return clean + sigma * torch.randn(clean.shape, generator=generator, dtype=torch.float64)


def levels(sigma, n):
    return torch.full((n,), sigma, dtype=torch.float64)


def show_contours(n=20_000, side=80):
    print("Standard deviation of C^alpha contours at 80x80 (pixels): alpha, measured, closed form, official")
    noise = np.random.default_rng(0).uniform(-1, 1, (n, side))
    k = np.maximum(np.abs(np.fft.fftfreq(side) * side), 1)
    for alpha, paper in CONTOURS.items():
        squares = ((contours(noise, alpha) - side // 2) ** 2).mean(axis=1)
        std = math.sqrt(squares.mean())
        error = squares.std() / math.sqrt(n) / (2 * std)
        closed = math.sqrt(side * (k ** (-2 * alpha)).sum() / 3 + 1 / 12)
        print(f"  {alpha:<4} {std:6.3f} ± {error:.3f}   {closed:6.3f}   {paper}")


def decibels(squares, sigma, d):
    """10 log10 of σ² d divided by the mean squared norm of the error, with its standard error."""
    gain = 10 * math.log10(sigma**2 * d / float(squares.mean()))
    return gain, 10 / math.log(10) * float(squares.std() / squares.mean()) / math.sqrt(len(squares))


def show_intercepts(images, side=80, n=2000, sigma=0.002):
    d = side**2
    print("PSNR gain at small noise, 80x80: class, measured (dB), closed form (dB)")
    for name, settings, dimension in (
        ("cone", ConeSettings(side=side, low=0.3, high=0.9), 1),
        ("sinusoids", SinusoidSettings(side=side), 2),
    ):
        known = reference(settings, 0)
        denoiser = ConeDenoiser(known.image, 0, math.inf) if dimension == 1 else known
        squares = []
        for start in range(0, n, 100):
            clean = torch.from_numpy(generate(settings, 0, range(start, start + 100))).double()
            denoised = denoiser(noised(clean, sigma, start), levels(sigma, 100))
            squares.append((denoised - clean).square().flatten(1).sum(dim=1))
        gain, error = decibels(torch.cat(squares), sigma, d)
        print(f"  {name:<10} {gain:6.2f} ± {error:.2f}   {10 * math.log10(d / dimension):.2f}")
    prior = DiscSettings(side=side).prior
    parameters = drawn(prior, images, 0)
    noisy, started = noised(prior.render(parameters), sigma, 1), time.perf_counter()
    left = DiscDenoiser(prior).variance(noisy, levels(sigma, images)) * d
    seconds = (time.perf_counter() - started) / images
    gain, error = decibels(left, sigma, d)
    print(f"  {'discs':<10} {gain:6.3f} ± {error:.3f}   {10 * math.log10(d / 5):.3f}   {seconds:.1f} s for each image")
    off = DiscDenoiser(prior)(noisy, levels(sigma, images)) - prior.project(parameters, noisy)
    print(f"  discs: rms distance from tangent projection / sigma: {float(off.square().mean().sqrt()) / sigma:.1e}")


def drawn(prior, n, seed):
    return prior.draw(torch.rand(n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def by_prior(prior, noisy, sigma, draws):
    """The posterior mean of one image from draws of the prior, its squared error, and the effective number of draws."""
    peak, total, squares = -math.inf, 0.0, 0.0
    mean, second = np.zeros(prior.side**2), np.zeros(prior.side**2)
    third = np.zeros(prior.side**2)
    for seed in range(0, draws, 20_000):
        images = prior.render(drawn(prior, 20_000, 1000 + seed)).flatten(1).numpy()
        log_weights = -((images - noisy) ** 2).sum(axis=1) / (2 * sigma**2)
        scale = math.exp(peak - max(peak, log_weights.max())) if math.isfinite(peak) else 0.0
        peak = max(peak, log_weights.max())
        weights = np.exp(log_weights - peak)
        total, squares = total * scale + weights.sum(), squares * scale**2 + (weights**2).sum()
        mean = mean * scale + weights @ images
        second = second * scale**2 + weights**2 @ images
        third = third * scale**2 + weights**2 @ images**2
    center = mean / total
    return center, (third - 2 * center * second + center**2 * squares) / total**2, total**2 / squares


def show_discs(images, draws):
    prior = DiscSettings(side=16).prior
    usual, fine = DiscDenoiser(prior), DiscDenoiser(prior, resolution=0.5)
    print("Discs at 16x16: sigma, difference / MC error, draws, quadrature / sigma, left out, MSE d / (5 sigma²), s")
    for sigma in (2.0, 1.0, 0.7, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.002):
        clean = prior.render(drawn(prior, images, 5))
        noisy, started = noised(clean, sigma, 6), time.perf_counter()
        found = usual(noisy, levels(sigma, images))
        seconds = (time.perf_counter() - started) / images
        agreement = ""
        if sigma >= 0.5:
            checks = [by_prior(prior, image.flatten().numpy(), sigma, draws) for image in noisy[:3]]
            off = sum(((f.flatten().numpy() - mean) ** 2).sum() for f, (mean, _, _) in zip(found, checks, strict=False))
            expected = sum(error.sum() for _, error, _ in checks)
            agreement = f"{math.sqrt(off / expected):.2f}  {min(count for _, _, count in checks):.0f}"
        quadrature = (found - fine(noisy, levels(sigma, images))).square().flatten(1).mean(dim=1).sqrt().max() / sigma
        left_out = float(usual.dropped(noisy, levels(sigma, images)).max())
        ratio = usual.variance(noisy, levels(sigma, images)) * prior.side**2 / (5 * sigma**2)
        error = float(ratio.std()) / math.sqrt(images)
        numbers = f"{float(quadrature):.1e}  {left_out:.1e}  {float(ratio.mean()):.3f} ± {error:.3f}  {seconds:.2f}"
        print(f"  {sigma:<6} {agreement:<12} {numbers}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2_000_000, help="draws from the prior for each of three images")
    parser.add_argument("--images", type=int, default=6, help="number of discs at each noise level")
    options = parser.parse_args()
    torch.set_num_threads(1)
    show_contours()
    show_intercepts(options.images)
    show_discs(options.images, options.draws)


if __name__ == "__main__":
    main()
