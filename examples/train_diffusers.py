"""Follow memorization in a training of diffusers with accelerate: python examples/train_diffusers.py [--images 64].

The loop is that of diffusers' unconditional example. A UNet2DModel is trained on so many of the embedded images, and
saved as a pipeline that `memgen audit --model` takes. Every 100 steps a reading shows whether it memorizes.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from PIL import Image

import memgen

SIDE, BATCH = 16, 32


def main() -> None:
    """Train, take readings, and say what they show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--samples", type=int, default=0, help="drawn at each reading")
    parser.add_argument("--out", type=Path, default=Path("outputs/example-diffusers"))
    given = parser.parse_args()

    images = memgen.read_images(resize=SIDE, limit=given.images + 1000, deduplicate=False)
    train, held_out = images.take(slice(given.images)), images.take(slice(given.images, None))
    for name, part in (("train", train), ("held-out", held_out)):
        folder = given.out / name
        folder.mkdir(parents=True, exist_ok=True)
        for i, picture in enumerate(part.pixels[:, 0]):
            Image.fromarray(picture).save(folder / f"{i:05}.png")

    torch.manual_seed(0)
    network = UNet2DModel(
        sample_size=SIDE, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(32, 48),
        norm_num_groups=8, down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    scheduler = DDPMScheduler(num_train_timesteps=1000, clip_sample=False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    rate = get_cosine_schedule_with_warmup(optimizer, 100, given.steps)
    loader = torch.utils.data.DataLoader(
        2 * train.floats() - 1,
        BATCH,
        sampler=torch.utils.data.RandomSampler(train, replacement=True, num_samples=BATCH * given.steps),
    )
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    network, optimizer, loader, rate = accelerator.prepare(network, optimizer, loader, rate)

    drawing = memgen.SampleSettings(method="heun", sigma_start=20, sigma_end=0.005)
    monitor = memgen.Monitor(
        train, held_out, given.out / "readings", device=str(accelerator.device), samples=given.samples, drawing=drawing
    )
    plain = accelerator.unwrap_model(network)
    denoiser = memgen.DiffusersDenoiser(plain, scheduler, (SIDE, SIDE)).to(accelerator.device)
    for step, clean in enumerate(loader):
        if step % given.every == 0 and accelerator.is_main_process:
            monitor(denoiser, images_seen=step * BATCH)
        noise = torch.randn_like(clean)
        time = torch.randint(1000, (len(clean),), device=clean.device)
        loss = (network(scheduler.add_noise(clean, noise, time), time).sample - noise).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()

    if accelerator.is_main_process:
        monitor(denoiser, images_seen=given.steps * BATCH)
        DDPMPipeline(plain.eval(), scheduler).save_pretrained(given.out / "model")
        print(monitor.summary())
        print(monitor.keep_figure())


if __name__ == "__main__":
    main()
