"""Following memorization during a training, in anyone's training loop.

    monitor = memgen.Monitor("train/", "held-out/", "outputs/mine")
    denoiser = memgen.FunctionDenoiser(lambda noisy, sigma: network(noisy, sigma), image_shape=(3, 32, 32))
    for step, batch in enumerate(batches):
        ...
        if step % 1000 == 0:
            monitor(denoiser, images_seen=step * batch_size)
            if monitor.memorizes:
                break
    print(monitor.summary())

A reading takes a few hundred network calls. Readings are kept in a folder, one Parquet file each, so a training that is
resumed goes on with them. A network of yours becomes a denoiser by `memgen.FunctionDenoiser`.

With samples, each reading also draws images, always from the same noise, and counts those that come from the training
set. This takes as long as it takes to draw them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from memgen.base import files, schemas, tables
from memgen.base.errors import DataError, ShapeError
from memgen.images.imageset import ImageSet
from memgen.images.importing import read_images
from memgen.measures import timeline
from memgen.measures.copies.competition import memorized_fraction
from memgen.measures.copies.examiner import Examiner
from memgen.measures.copies.pool import label_free_order
from memgen.measures.psnr import PsnrSettings, measure_psnr
from memgen.measures.subject import subject
from memgen.models import latent, sampling
from memgen.models.denoiser import Denoiser
from memgen.models.sampling import SampleSettings
from memgen.report import style
from memgen.report.timeline import DENOISES_BETTER, DRAWS_COPIES, GENERALIZES, figure_timeline

# Where gaps open first, at a cost that a training bears: 4 noise levels, 3 draws, 64 images of each side.
SIGMAS = (0.05, 0.1, 0.2, 0.4)
N_IMAGES = 64
_THRESHOLD = 0.99  # correlation above which two images count as one


def default_psnr() -> PsnrSettings:
    """What a reading measures unless it is told otherwise."""
    return PsnrSettings(sigmas=SIGMAS, n_images=N_IMAGES)


class Monitor:
    """Measures a denoiser on training and held-out images as it is trained.

    Args:
        train: images that it is trained on: an ImageSet, or what `memgen.read_images` reads.
        held_out: images of the same source that it is not trained on.
        folder: where readings are kept; those that are there are continued.
        settings: noise levels, noise draws and number of images; None takes SIGMAS, 3 draws and N_IMAGES.
        device: where the denoiser is.
        samples: number of samples that are drawn at each reading.
        drawing: how; None draws by stochastic reverse diffusion with its defaults.

    Raises:
        ShapeError: the images of the two sets differ in shape.
        DataError: the folder holds readings of other images or settings.
    """

    def __init__(
        self,
        train: ImageSet | str | Path,
        held_out: ImageSet | str | Path,
        folder: str | Path,
        settings: PsnrSettings | None = None,
        device: str = "cpu",
        samples: int = 0,
        drawing: SampleSettings | None = None,
    ) -> None:
        # Only the first images are measured, and files are often in the order of classes or of patients.
        self._train, self._held_out = (
            each.take(label_free_order(each.ids)) for each in (_images(train), _images(held_out))
        )
        if self._train.image_shape != self._held_out.image_shape:
            raise ShapeError(
                f"found training images of shape {self._train.image_shape} and held-out images of shape "
                f"{self._held_out.image_shape}, expected the same shape."
            )
        self._settings = settings or default_psnr()
        self._samples, self._drawing = samples, drawing or SampleSettings()
        self._device, self.folder = device, Path(folder)
        self._claim()

    def has(self, images_seen: int) -> bool:
        """Whether there is a reading after so many images seen."""
        return self._path(images_seen).exists()

    def __call__(self, denoiser: Denoiser, images_seen: int) -> None:
        """Take a reading, unless there is one for as many images seen.

        A network in train mode is put in eval mode for the reading. If a function wraps it, do that yourself.

        Args:
            denoiser: the model as it is now.
            images_seen: training images that it has seen, counted with repetitions.
        """
        if self.has(images_seen):
            return
        with _in_eval_mode(denoiser):
            given = subject("monitor", denoiser=denoiser, train=self._train, held_out=self._held_out)
            psnr = measure_psnr(given, self._settings, device=self._device)
            if self._samples:
                drawn = self._drawn(denoiser, images_seen)
                tables.write(self.folder / "drawn" / f"{images_seen:012}.parquet", drawn, schemas.DRAWN)
        means = psnr.group_by(["kind", "image_id"], use_threads=False).aggregate([("output_psnr_db", "mean")])
        columns = {"kind": means["kind"].to_pylist(), "image_id": means["image_id"].to_pylist()}
        columns |= {"psnr_db": means["output_psnr_db_mean"].to_numpy(), "images_seen": images_seen}
        # Last, since it says that the reading is complete.
        tables.write(self._path(images_seen), tables.make(schemas.READINGS, columns, len(means)), schemas.READINGS)

    def _drawn(self, denoiser: Denoiser, images_seen: int) -> pa.Table:
        """Samples after so many images seen, and how many of them come from T: a DRAWN table of one row."""
        real = [latent.encoded(denoiser, each.floats().to(self._device)) for each in (self._train, self._held_out)]
        mean, size = torch.cat(real).mean(dim=0), self._drawing.micro_batch
        images, unfinished = [], 0
        for first in range(0, self._samples, size):
            chosen = range(first, min(first + size, self._samples))
            found = sampling.sample(denoiser, mean, chosen, 0, self._drawing)
            unfinished += int((found.status != "converged").sum())
            images.append(latent.decoded(denoiser, found.images, self._device))
        examined = self._examiner.examine(torch.from_numpy(np.nan_to_num(np.concatenate(images))), 0)
        pool = self._examiner.pool
        share = memorized_fraction(pool.unit[examined.nearest], pool.unit_in_train, 0, timeline.PERMUTATIONS)
        columns = {
            "images_seen": images_seen,
            "samples": self._samples,
            "unfinished": unfinished,
            "memorized_fraction": share.estimate,
            "low": share.low,
            "high": share.high,
            "p": share.p,
            "found": int(examined.competition.discovered.sum()),
        }
        return tables.make(schemas.DRAWN, {name: [value] for name, value in columns.items()})

    @cached_property
    def _examiner(self) -> Examiner:
        return Examiner(self._train, self._held_out, _THRESHOLD, device=self._device)

    def _path(self, images_seen: int) -> Path:
        return self.folder / f"{images_seen:012}.parquet"

    @property
    def readings(self) -> pa.Table:
        """All readings: a READINGS table."""
        parts = [tables.read(path, schemas.READINGS) for path in sorted(self.folder.glob("*.parquet"))]
        return pa.concat_tables([schemas.READINGS.empty_table(), *parts])

    @property
    def drawn(self) -> pa.Table:
        """What the samples of all readings show: a DRAWN table, in the order of images seen."""
        done = [path for path in sorted((self.folder / "drawn").glob("*.parquet")) if self.has(int(path.stem))]
        return pa.concat_tables([schemas.DRAWN.empty_table(), *(tables.read(path, schemas.DRAWN) for path in done)])

    @property
    def timeline(self) -> pa.Table:
        """The gap and the quality at each reading: a TIMELINE table."""
        return timeline.timeline(self.readings)

    @property
    def memorizes(self) -> bool:
        """Whether the last reading shows memorization; to be asked after each reading, as often as one likes."""
        found = self.timeline["memorizes"].to_pylist()
        return bool(found and found[-1])

    def summary(self) -> str:
        """What the readings say, in sentences."""
        found = self.timeline
        if not found.num_rows:
            return "Nothing was measured yet."
        good, copies = timeline.generalizes(found), timeline.memorizes(found)
        last = found.slice(found.num_rows - 1).to_pylist()[0]
        assert good is not None
        sentences = [
            f"After {last['images_seen']:,} images seen, the PSNR on held-out images is {last['held_out']:.2f} dB, and "
            f"{last['gap']:.2f} dB more on training images.",
            f"The model came within {timeline.TOLERANCE} dB of its best on held-out images between {good.after:,} and "
            f"{good.by:,} images seen.",
        ]
        if copies is None:
            sentences.append("Memorization was not seen.")
        else:
            sentences.append(
                f"It began to memorize between {copies.after:,} and {copies.by:,} images seen: from then on, it "
                "denoises training images better."
            )
        sentences += _of_samples(self.drawn.to_pylist())
        return " ".join(sentences)

    def keep_figure(self) -> Path:
        """Draw the readings as timeline.png in the folder; returns its path."""
        found, drawn = self.timeline, self.drawn
        times = {
            GENERALIZES: timeline.generalizes(found),
            DENOISES_BETTER: timeline.memorizes(found),
            DRAWS_COPIES: timeline.draws_copies(drawn.to_pylist()),
        }
        marks = {what: (reached.after, reached.by) for what, reached in times.items() if reached is not None}
        figure = figure_timeline(found, drawn, marks)
        return style.save(figure, self.folder / "timeline", [".png"])[0]

    def _claim(self) -> None:
        """Write down what is measured, or check that the folder holds readings of the same."""
        stated = {
            "train": self._train.digest,
            "held_out": self._held_out.digest,
            "settings": self._settings.model_dump(mode="json"),
            "samples": self._samples,
            "drawing": self._drawing.model_dump(mode="json") if self._samples else None,
        }
        path = self.folder / "monitor.json"
        if path.exists() and files.read_json(path) != stated:
            raise DataError(
                f"{self.folder}: holds readings of other images or settings. Use another folder, or remove this one."
            )
        files.write_json(path, stated)


def _images(source: ImageSet | str | Path) -> ImageSet:
    return source if isinstance(source, ImageSet) else read_images(source, deduplicate=False)


def _of_samples(drawn: list[dict[str, Any]]) -> list[str]:
    """What rows of a DRAWN table say, in a sentence; none without rows."""
    if not drawn:
        return []
    first, last = drawn[0], drawn[-1]
    was, is_now = (f"{row['memorized_fraction']:.2f} [{row['low']:.2f}, {row['high']:.2f}]" for row in (first, last))
    reached = timeline.draws_copies(drawn)
    began = (
        "Its samples did not show that they come from training images."
        if reached is None
        else f"Its samples began to come from training images between {reached.after:,} and {reached.by:,} images seen."
    )
    return [
        f"{began} Their memorized fraction was {was} after {first['images_seen']:,} images seen and {is_now} after "
        f"{last['images_seen']:,} ({last['samples']} samples, which depend on {last['found']} training images)."
    ]


@contextmanager
def _in_eval_mode(denoiser: Denoiser) -> Iterator[None]:
    """Puts a network that is being trained in eval mode, and back."""
    training = denoiser if isinstance(denoiser, torch.nn.Module) and denoiser.training else None
    if training is not None:
        training.eval()
    try:
        yield
    finally:
        if training is not None:
            training.train()
