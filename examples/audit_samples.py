"""Audit samples from Python: python examples/audit_samples.py [SAMPLES TRAIN HELD_OUT].

Without folders, it makes three of the embedded images. Of the 200 samples, 60 are training images.
"""

import sys
from pathlib import Path

import numpy as np

import memgen


def make_sets(folder: Path) -> list[Path]:
    """Samples, training images and held-out images, as arrays in a folder."""
    images = memgen.read_images(resize=10, limit=1500).pixels[:, 0]
    folder.mkdir(parents=True, exist_ok=True)
    sets = {
        "samples": np.concatenate([images[:60], images[800:940]]),
        "train": images[:400],
        "held-out": images[400:800],
    }
    for name, pixels in sets.items():
        np.save(folder / f"{name}.npy", pixels)
    return [folder / f"{name}.npy" for name in sets]


def main() -> None:
    """Audit, and print the answer and the pairs that are closest."""
    samples, train, held_out = sys.argv[1:] or make_sets(Path("outputs/example-sets"))
    found = memgen.audit(samples, train, held_out, name="example-audit")
    for pair in found.document["closest"][:5]:
        print(pair["sample"], "depends on" if pair["reported_by"] else "is closest to", pair["training_image"])
    print(found.answer.headline)
    print(found.page)


if __name__ == "__main__":
    main()
