"""What the blocks of the documentation need before they run: folders of small images, models, and names in Python."""

import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import program
from PIL import Image

import memgen

SIDE = 8
_NETWORK = "import torch\nnetwork = lambda noisy, sigma=None: 0.9 * noisy\n"
_ARRAYS = (
    "import memgen\n"
    f"images = memgen.read_images(resize={SIDE}, limit=120)\n"
    "train, held_out, samples = images.take(slice(40)), images.take(slice(40, 80)), images.take(slice(80, 100))\n"
)
# Names that a block of Python takes for granted, by the word after `given`.
NAMES = {
    "network": _NETWORK,
    "module": (
        "import torch\n"
        "class Network(torch.nn.Module):\n"
        "    def forward(self, noisy, sigma):\n"
        "        return noisy / (1 + sigma.view(-1, 1, 1, 1))\n"
        "network = Network()\n"
    ),
    "batches": "batches, batch_size = [None] * 1001, 32\n",
    "samples": _ARRAYS,
}


def images(first: int, count: int) -> np.ndarray:
    """Some of the embedded images, (count, 8, 8), uint8."""
    found = memgen.read_images(resize=SIDE, limit=400, deduplicate=False).pixels
    return np.asarray(found[first : first + count, 0])


def write_images(folder: Path, pixels: np.ndarray, patients: int = 10) -> None:
    """PNG files in folders, which may stand for patients; the names of folders belong to the set."""
    for i, image in enumerate(pixels):
        path = folder / f"{folder.name[0]}{i % patients:02d}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def write_model(path: Path, factor: float = 0.9) -> None:
    """A denoiser in TorchScript that makes every pixel darker."""
    import torch

    class Darker(torch.nn.Module):
        def forward(self, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return factor * noisy

    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is old, and read all the same
        torch.jit.save(torch.jit.trace(Darker(), (torch.rand(2, 1, SIDE, SIDE), torch.rand(2))), str(path))


def write_pickle(path: Path) -> None:
    """A whole network as torch.save keeps it, whose class is in a module beside it."""
    (path.parent / "network.py").write_text(NAMES["module"])
    code = f"import sys, torch; sys.path.insert(0, '.'); import network; torch.save(network.network, {path.name!r})"
    subprocess.run([sys.executable, "-c", code], cwd=path.parent, check=True)


def write_checkpoints(folder: Path) -> None:
    """Two models whose names say how far the training was."""
    for step in (100, 200):
        write_model(folder / f"step-{step}.pt", 1 - 1 / step)


def write_groups(path: Path) -> None:
    """A table that says for every image which patient it is of."""
    rows = [
        f"{image.relative_to(path.parent / name).as_posix()},{image.parent.name}"
        for name in ("TRAIN", "HELD_OUT")
        for image in sorted((path.parent / name).rglob("*.png"))
    ]
    path.write_text("\n".join(["file,group", *rows]) + "\n")


def write_audit(run: Path) -> None:
    """A finished audit of that name."""
    work = run.parents[1]
    memgen.audit(work / "SAMPLES", work / "TRAIN", work / "HELD_OUT", outputs=run.parent, name=run.name)


SETS = {"TRAIN": (0, 120), "HELD_OUT": (120, 60), "SAMPLES": (200, 20), "FOLDER": (300, 20)}
MAKERS: dict[str, Callable[[Path], None]] = {
    **{name: lambda path, chosen=chosen: write_images(path, images(*chosen)) for name, chosen in SETS.items()},
    "MODEL": write_model,
    "MODEL_A": write_model,
    "MODEL_B": lambda path: write_model(path, 0.8),
    "network.pt": write_pickle,
    "CHECKPOINTS": write_checkpoints,
    "groups.csv": write_groups,
    "outputs/AUDIT": write_audit,
    "train": lambda path: write_images(path, images(*SETS["TRAIN"])),
    "held-out": lambda path: write_images(path, images(*SETS["HELD_OUT"])),
    "digits.npy": program.write_digits,
}


def is_run(name: str) -> bool:
    """Whether a name is that of a run, which is a copy of the finished run of the tests."""
    return name.startswith("outputs/") and name not in MAKERS


def make(names: tuple[str, ...], folder: Path, finished: Callable[[], Path]) -> str:
    """Make what a block is given in the folder where it runs, and return what goes before it in Python."""
    before = ""
    for name in names:
        if name in NAMES:
            before += NAMES[name]
        elif (folder / name).exists():
            continue
        elif is_run(name):
            shutil.copytree(finished(), folder / name)
        else:
            MAKERS[name](folder / name)
    return before
