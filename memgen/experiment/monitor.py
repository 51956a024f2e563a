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
"""

from pathlib import Path

import pyarrow as pa
import torch

from memgen.base import files, schemas, tables
from memgen.base.errors import DataError, ShapeError
from memgen.images.imageset import ImageSet
from memgen.images.importing import read_images
from memgen.measures import timeline
from memgen.measures.psnr import PsnrSettings, measure_psnr
from memgen.measures.subject import subject
from memgen.models.denoiser import Denoiser

# Where gaps open first, at a cost that a training bears: 4 noise levels, 3 draws, 64 images of each side.
SIGMAS = (0.05, 0.1, 0.2, 0.4)
N_IMAGES = 64


class Monitor:
    """Measures a denoiser on training and held-out images as it is trained.

    Args:
        train: images that it is trained on: an ImageSet, or what `memgen.read_images` reads.
        held_out: images of the same source that it is not trained on.
        folder: where readings are kept; those that are there are continued.
        settings: noise levels, noise draws and number of images; None takes SIGMAS, 3 draws and N_IMAGES.
        device: where the denoiser is.

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
    ) -> None:
        self._train, self._held_out = _images(train), _images(held_out)
        if self._train.image_shape != self._held_out.image_shape:
            raise ShapeError(
                f"found training images of shape {self._train.image_shape} and held-out images of shape "
                f"{self._held_out.image_shape}, expected the same shape."
            )
        self._settings = settings or PsnrSettings(sigmas=SIGMAS, n_images=N_IMAGES)
        self._device, self.folder = device, Path(folder)
        self._claim()

    def __call__(self, denoiser: Denoiser, images_seen: int) -> None:
        """Take a reading, unless there is one for as many images seen.

        A network in train mode is put in eval mode for the reading. If a function wraps it, do that yourself.

        Args:
            denoiser: the model as it is now.
            images_seen: training images that it has seen, counted with repetitions.
        """
        path = self.folder / f"{images_seen:012}.parquet"
        if path.exists():
            return
        training = isinstance(denoiser, torch.nn.Module) and denoiser.training
        if training:
            denoiser.eval()  # type: ignore[attr-defined]
        try:
            given = subject("monitor", denoiser=denoiser, train=self._train, held_out=self._held_out)
            psnr = measure_psnr(given, self._settings, device=self._device)
        finally:
            if training:
                denoiser.train()  # type: ignore[attr-defined]
        means = psnr.group_by(["kind", "image_id"], use_threads=False).aggregate([("output_psnr_db", "mean")])
        columns = {"kind": means["kind"].to_pylist(), "image_id": means["image_id"].to_pylist()}
        columns |= {"psnr_db": means["output_psnr_db_mean"].to_numpy(), "images_seen": images_seen}
        tables.write(path, tables.make(schemas.READINGS, columns, len(means)), schemas.READINGS)

    @property
    def readings(self) -> pa.Table:
        """All readings: a READINGS table."""
        parts = [tables.read(path, schemas.READINGS) for path in sorted(self.folder.glob("*.parquet"))]
        return pa.concat_tables([schemas.READINGS.empty_table(), *parts])

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
        return " ".join(sentences)

    def _claim(self) -> None:
        """Write down what is measured, or check that the folder holds readings of the same."""
        stated = {
            "train": self._train.digest,
            "held_out": self._held_out.digest,
            "settings": self._settings.model_dump(mode="json"),
        }
        path = self.folder / "monitor.json"
        if path.exists() and files.read_json(path) != stated:
            raise DataError(
                f"{self.folder}: holds readings of other images or settings. Use another folder, or remove this one."
            )
        files.write_json(path, stated)


def _images(source: ImageSet | str | Path) -> ImageSet:
    return source if isinstance(source, ImageSet) else read_images(source, deduplicate=False)
