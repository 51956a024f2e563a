"""The local patch denoiser: brute force pixel by pixel, borders, blocks, its limits and its Jacobian."""

import numpy as np
import pytest
import torch
from truth import IdealDenoiser

from memgen.base.errors import ConfigError
from memgen.models.denoiser import Denoiser
from memgen.models.known.local import LocalDenoiser, _spans


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noised(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return images + sigma[:, None, None, None] * torch.randn(images.shape, generator=generator, dtype=torch.float64)


def brute_force(images: np.ndarray, noisy: np.ndarray, sigma: float, patch: int, equivariant: bool) -> np.ndarray:
    """One image (C, H, W), pixel by pixel, as a convolution sees it: padded with zeros.

    A training patch can be the clean one only if its padding lies where that of the noisy patch lies.
    """
    r = patch // 2
    _, height, width = noisy.shape

    def pad(image):
        return np.pad(image, [(0, 0)] * (image.ndim - 2) + [(r, r), (r, r)])

    mask, padded, clean = pad(np.ones((height, width))), pad(noisy), pad(images)
    denoised = np.zeros_like(noisy)
    for i in range(height):
        for j in range(width):
            window = slice(i, i + patch), slice(j, j + patch)
            logs, centers = [], []
            for k in range(height) if equivariant else [i]:
                for m in range(width) if equivariant else [j]:
                    other = slice(k, k + patch), slice(m, m + patch)
                    if (mask[window] == mask[other]).all():
                        differences = padded[:, *window] - clean[:, :, *other]
                        logs += list(-(differences**2).sum((1, 2, 3)) / (2 * sigma**2))
                        centers += list(images[:, :, k, m])
            weights = np.exp(np.array(logs) - max(logs))
            denoised[:, i, j] = weights @ np.array(centers) / weights.sum()
    return denoised


@pytest.mark.parametrize("equivariant", [False, True])
@pytest.mark.parametrize(("shape", "patch"), [((1, 6, 7), 3), ((2, 6, 5), 3), ((1, 4, 7), 5), ((1, 5, 5), 1)])
def test_equals_brute_force(shape: tuple[int, int, int], patch: int, equivariant: bool):
    """Every pixel, at corners and edges too, is the brute-force posterior mean, from uint8 images too."""
    pixels = (uniform(6, *shape) * 255).to(torch.uint8)
    images, sigma = pixels.double() / 255, torch.tensor([0.1, 0.5], dtype=torch.float64)
    noisy = noised(images[:2], sigma)
    denoiser = LocalDenoiser(pixels, patch, equivariant)
    found = denoiser(noisy, sigma)
    truth = [brute_force(images.numpy(), noisy[b].numpy(), float(sigma[b]), patch, equivariant) for b in range(2)]
    np.testing.assert_allclose(found, truth, atol=1e-13)
    assert np.abs(np.array(truth) - images[:2].numpy()).max() > 0.05
    assert isinstance(denoiser, Denoiser)
    assert denoiser(noisy.float(), sigma.float()).dtype == torch.float32


@pytest.mark.parametrize("equivariant", [False, True])
def test_patches_as_large_as_the_image_give_the_empirical_denoiser(equivariant: bool):
    """Patches that cover the image from every pixel leave no position and no image part unseen."""
    images, sigma = uniform(20, 2, 5, 4), torch.tensor([0.3, 0.6], dtype=torch.float64)
    noisy = noised(images[:2], sigma)
    truth = IdealDenoiser(images)(noisy, sigma)
    torch.testing.assert_close(LocalDenoiser(images, 9, equivariant)(noisy, sigma), truth, rtol=0, atol=1e-13)
    assert (LocalDenoiser(images, 7, equivariant)(noisy, sigma) - truth).abs().max() > 1e-4


@pytest.mark.parametrize("equivariant", [False, True])
def test_no_block_size_changes_the_result(equivariant: bool, monkeypatch):
    """Blocks of 1, 3 and all images, and queries cut into parts, agree to 1e-12, the Jacobian to 1e-10."""
    images, sigma = uniform(10, 1, 6, 6), torch.tensor([0.05, 0.3, 2.0], dtype=torch.float64)
    noisy = noised(images[:3], sigma)
    whole = LocalDenoiser(images, 3, equivariant)
    truth, slope = whole(noisy, sigma), whole.jacobian(noisy, sigma)
    monkeypatch.setattr("memgen.models.known.local.block_numbers", lambda device: 100)
    for block in (1, 3, None):
        denoiser = LocalDenoiser(images, 3, equivariant, block)
        torch.testing.assert_close(denoiser(noisy, sigma), truth, rtol=0, atol=1e-12)
        torch.testing.assert_close(denoiser.jacobian(noisy, sigma), slope, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("size", "radius"), [(7, 0), (7, 2), (5, 2), (4, 2), (3, 4)])
def test_spans_take_each_position_once(size: int, radius: int, shared: bool):
    """No row is computed twice, and what sees no border is one span where positions share their patches."""
    spans = _spans(size, radius, shared)
    assert sorted(i for span in spans for i in range(span.first, span.last + 1)) == list(range(size))
    interior = max(0, size - 2 * radius)
    assert len(spans) == (size - interior + (interior > 0) if shared else size)


def test_equivariance_ends_where_borders_are_seen():
    """Shifting the noisy image shifts the equivariant answer where no border is seen, and the local one nowhere."""
    images, sigma = uniform(5, 1, 9, 9), torch.tensor([0.3], dtype=torch.float64)
    noisy = noised(images[:1], sigma)
    moved = noisy.roll((1, 2), (2, 3))
    inside = (slice(None), slice(None), slice(3, 8), slice(4, 8))
    before = (slice(None), slice(None), slice(2, 7), slice(2, 6))
    for equivariant in (True, False):
        denoiser = LocalDenoiser(images, 3, equivariant)
        same = torch.isclose(denoiser(moved, sigma)[inside], denoiser(noisy, sigma)[before], atol=1e-12)
        assert same.all() == equivariant
        assert same.any() == equivariant


def test_limits():
    """At no noise a training image is its own answer; at endless noise the local answer is the mean image."""
    images = uniform(5, 1, 6, 6)
    for equivariant in (True, False):
        denoiser = LocalDenoiser(images, 3, equivariant)
        assert torch.equal(denoiser(images, torch.full((5,), 1e-6)), images)
        far = denoiser(images, torch.full((5,), 1e6))
        interior = images[:, :, 1:-1, 1:-1].mean() if equivariant else images[:, :, 2, 2].mean()
        torch.testing.assert_close(far[:, 0, 2, 2], interior.expand(5), rtol=0, atol=1e-9)


@pytest.mark.parametrize("equivariant", [False, True])
def test_jacobian_is_the_derivative(equivariant: bool):
    """The closed form equals central differences of the denoiser, in which no row is zero, and is local."""
    images, sigma = uniform(12, 2, 4, 4), torch.tensor([0.6, 1.0], dtype=torch.float64)
    noisy, denoiser = noised(images[:2], sigma), LocalDenoiser(images, 3, equivariant)
    found = denoiser.jacobian(noisy, sigma)
    steps = 1e-5 * torch.eye(32, dtype=torch.float64).view(32, 2, 4, 4)
    for row in range(2):
        level = sigma[row].expand(32)
        difference = denoiser(noisy[row] + steps, level) - denoiser(noisy[row] - steps, level)
        truth = difference.flatten(1).T / 2e-5
        assert truth.abs().amax(1).min() > 1e-3
        torch.testing.assert_close(found[row], truth, rtol=0, atol=1e-8)
    automatic = torch.autograd.functional.jacobian(lambda y: denoiser(y, sigma[:1]), noisy[:1]).reshape(32, 32)
    torch.testing.assert_close(found[0], automatic, rtol=0, atol=1e-12)
    outside = found.view(2, 2, 4, 4, 2, 4, 4)[:, :, 0, 0, :, 2:, 2:]
    assert torch.equal(outside, torch.zeros_like(outside))


@pytest.mark.parametrize("patch", [0, 2, -1])
def test_patches_without_a_centre_are_refused(patch: int):
    """The side of a patch is odd and at least 1."""
    with pytest.raises(ConfigError, match="odd"):
        LocalDenoiser(uniform(3, 1, 4, 4), patch, True)
