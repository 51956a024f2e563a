"""Follow memorization in a plain PyTorch loop: python examples/train_pytorch.py [--train FOLDER --held-out FOLDER].

A small network learns to denoise 32 of the embedded images, or your own, until it begins to memorize them.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import memgen

SIDE, BATCH, WIDTH = 16, 32, 48


def main() -> None:
    """Train, take readings, and say what they show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--held-out", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--every", type=int, default=200, help="steps between two readings")
    parser.add_argument("--out", type=Path, default=Path("outputs/example-pytorch"))
    given = parser.parse_args()
    if given.train:
        train, held_out = (
            memgen.read_images(each, resize=SIDE, color="gray") for each in (given.train, given.held_out)
        )
    else:
        images = memgen.read_images(resize=SIDE, limit=400)
        train, held_out = images.take(slice(32)), images.take(slice(100, 400))

    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(1, WIDTH, 3, padding=1), nn.GELU()]
    for _ in range(4):
        layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.GELU()]
    network = nn.Sequential(*layers, nn.Conv2d(WIDTH, 1, 3, padding=1))
    # The network predicts the noise as it is in the image, and does not take its level.
    denoiser = memgen.FunctionDenoiser(lambda noisy, sigma: noisy - network(noisy), train.image_shape, blind=True)
    monitor = memgen.Monitor(train, held_out, given.out)
    optimizer, clean = torch.optim.AdamW(network.parameters(), lr=2e-3), train.floats()
    for step in range(given.steps + 1):
        if step % given.every == 0:
            monitor(denoiser, images_seen=step * BATCH)
            if monitor.memorizes:
                break
        x = clean[torch.randint(len(clean), (BATCH,))]
        noise = torch.rand(BATCH, 1, 1, 1).square() * torch.randn_like(x)
        loss = (network(x + noise) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(monitor.summary())
    print(monitor.keep_figure())


if __name__ == "__main__":
    main()
