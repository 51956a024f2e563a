"""Follow memorization in a plain PyTorch loop: python examples/train_pytorch.py [TRAIN HELD_OUT].

A small network learns to denoise 32 images, until it begins to memorize them. Without arguments, the images are the
embedded ones.
"""

import sys

import torch
from torch import nn

import memgen

SIDE, BATCH, STEPS = 16, 32, 3000


def main() -> None:
    """Train, take readings, and say what they show."""
    if len(sys.argv) > 2:
        train, held_out = (memgen.read_images(path, resize=SIDE, color="gray") for path in sys.argv[1:3])
    else:
        images = memgen.read_images(resize=SIDE, limit=400)
        train, held_out = images.take(slice(32)), images.take(slice(100, 400))
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 48, 3, padding=1), nn.GELU(), *(layer() for _ in range(4) for layer in (_conv, nn.GELU)),
        nn.Conv2d(48, 1, 3, padding=1),
    )  # fmt: skip
    monitor = memgen.Monitor(train, held_out, "outputs/example-pytorch")
    # The network predicts the noise as it is in the image, and does not take its level.
    denoiser = memgen.FunctionDenoiser(lambda noisy, sigma: noisy - network(noisy), train.image_shape, blind=True)
    optimizer, clean = torch.optim.AdamW(network.parameters(), lr=2e-3), train.floats()
    for step in range(STEPS + 1):
        if step % 200 == 0:
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


def _conv() -> nn.Module:
    return nn.Conv2d(48, 48, 3, padding=1)


if __name__ == "__main__":
    main()
