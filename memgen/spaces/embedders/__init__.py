"""Spaces from learned embedders: a network in a local file, one module for each format.

To add a format, add a module to this package. memgen finds it there. The module defines what `Format` lists. Formats do
not import each other, nothing is downloaded, and no format executes Python that a file holds; what each one lets a file
do instead stands in its docstring.

The value of a pair of images is the cosine of their vectors.
"""

import pickle
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import safetensors.torch
import torch
from pydantic import JsonValue
from torch import Tensor

from memgen.base import files
from memgen.base.discovery import modules_of
from memgen.base.errors import DataError, MemgenError, first_line
from memgen.base.programs import reason
from memgen.spaces import preprocessing
from memgen.spaces.learned import Vectors
from memgen.spaces.pixels import SPACES as PIXEL_SPACES
from memgen.spaces.preprocessing import Preprocessing

_LIBRARY = re.compile(r"(timm|open_clip):([^=]+)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """What a person gives: a file or folder, or LIBRARY:ARCHITECTURE=FILE.

    Attributes:
        path: the file or folder.
        library: timm or open_clip, if the person names the architecture that the weights are for.
        architecture: its name in that library.
    """

    path: Path
    library: str | None = None
    architecture: str | None = None

    @classmethod
    def of(cls, text: str) -> "Source":
        """The source that a text names."""
        found = _LIBRARY.fullmatch(text)
        return cls(Path(found[3]).expanduser(), found[1], found[2]) if found else cls(Path(text).expanduser())

    def __str__(self) -> str:
        return str(self.path) if self.library is None else f"{self.library}:{self.architecture}={self.path}"


@dataclass(frozen=True, eq=False)
class Embedder:
    """A network that makes an image into a vector.

    Attributes:
        network: makes the prepared image, (1, c, h, w) float32, into its vector, (1, d) float32; on the CPU.
        preprocessing: prepares the image.
        record: JSON values that identify it: the format, the digests of its files, the versions of packages that
            compute it, and whatever else its values depend on.
    """

    network: Callable[[Tensor], Tensor]
    preprocessing: Preprocessing
    record: dict[str, JsonValue]

    def vector(self, image: Tensor) -> Tensor:
        """The vector of one image, (d,) float32.

        Args:
            image: (C, H, W) float32 on the CPU, pixel units, C = 1 or 3.

        Raises:
            ShapeError: the image is neither gray nor RGB.
            DataError: the network fails, or gives anything but one row of finite float32 numbers.
        """
        prepared = self.preprocessing(image)
        try:
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of libraries about themselves
                found = self.network(prepared)
        except MemgenError:
            raise
        except Exception as error:  # a network fails in every possible way
            raise DataError(
                f"the network fails on an input of shape {tuple(prepared.shape)} ({reason(error)}). Compare the shape "
                "with what its authors say, and correct side, fit and channels of its preprocessing."
            ) from error
        if not isinstance(found, Tensor):
            raise DataError(
                f"the network returns {type(found).__name__}, expected one tensor (N, d). Export it so that it returns "
                "the embedding alone."
            )
        if found.ndim != 2 or len(found) != 1 or found.shape[1] == 0:
            raise DataError(
                f"the network returns a tensor of shape {tuple(found.shape)} for one image, expected (1, d). Export it "
                "so that it returns one vector for each image."
            )
        if found.dtype != torch.float32:
            raise DataError(
                f"the network returns {found.dtype}, expected torch.float32. Convert it with .float() and export it "
                "again."
            )
        if not bool(torch.isfinite(found).all()):
            raise DataError(
                "the network returns NaN or infinity for an image. Check its weights and its preprocessing."
            )
        return found[0].clone()


class EmbedderSpace:
    """The cosine of the vectors of an embedder; see `spaces.Space`.

    Attributes:
        name: as the person calls it.
        record: JSON values that identify the embedder and its preprocessing.
    """

    larger_is_closer = True
    unit = "cosine of embeddings"
    _cosine = next(space for space in PIXEL_SPACES if space.name == "cosine")

    def __init__(self, name: str, embedder: Embedder) -> None:
        self.name, self.learned = name, Vectors(embedder.vector)
        self.record: dict[str, JsonValue] = {
            **embedder.record,
            "preprocessing": embedder.preprocessing.model_dump(mode="json"),
        }

    def embed(self, images: Tensor) -> Tensor:
        """Vectors of length 1; see `spaces.Space`."""
        return self._cosine.embed(self.learned(images))

    def paired(self, x: Tensor, y: Tensor) -> Tensor:
        """The cosine of the vectors; see `spaces.Space`."""
        return self.learned.pairs(x, y, self._cosine.paired)


@runtime_checkable
class Format(Protocol):
    """What a module of this package defines.

    Attributes:
        ORDER: formats with a lower number are asked first. A format that its files or the person's words identify has
            0; a format of plain weights, which takes what the others leave, has 1.
        KIND: what it reads, as part of an error message.
    """

    ORDER: int
    KIND: str

    def reads(self, source: Source) -> bool:
        """Whether a source is of this format; decided by names and by the list of contents of a file."""
        ...

    def load(self, source: Source, stated: Preprocessing | None) -> Embedder:
        """The embedder in a source that `reads` accepts.

        Args:
            source: what the person gives.
            stated: the preprocessing that a JSON file beside the source states. It comes before that of the source.

        Raises:
            DataError: naming the source, if it is damaged, holds what could execute code, or fits no network, or if
                nothing states the preprocessing.
            ConfigError: a package is not installed.
        """
        ...


def all_formats() -> list[Format]:
    """The modules of this package, in the order in which they are asked."""
    return [cast(Format, module) for module in modules_of(__name__, __path__)]


def load(source: Source) -> Embedder:
    """The embedder in a source, loaded by the first format that accepts it, and tried on two images.

    Raises:
        DataError: naming the source, if it is missing, damaged, of no known format, or holds what could execute code;
            if nothing states its preprocessing; or if the network gives no usable vector.
        ConfigError: a package is not installed.
    """
    path = source.path
    try:
        if not path.is_dir() and path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty. Copy it again.")
        found = next((format_ for format_ in all_formats() if format_.reads(source)), None)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}). Check the path.") from error
    if found is None:
        known = "; ".join(format_.KIND for format_ in all_formats())
        raise DataError(f"{source}: not an embedder that memgen reads. It reads {known}.")
    embedder = found.load(source, preprocessing.beside(path))
    try:
        _try(embedder)
    except DataError as error:
        raise DataError(f"{source}: {error}") from error
    return embedder


def space(name: str, source: str) -> EmbedderSpace:
    """The space of an embedder.

    Args:
        name: how the person calls the space.
        source: a file or folder, or timm:ARCHITECTURE=FILE, or open_clip:ARCHITECTURE=FILE.

    Raises:
        DataError: see `load`.
        ConfigError: a package is not installed.
    """
    return EmbedderSpace(name, load(Source.of(source)))


def _try(embedder: Embedder) -> None:
    """Raise a DataError unless the embedder gives one vector for an image, always the same, and another for another."""
    row, column = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    images = [torch.stack([(row + k * column) % 17 / 16 for k in factors]) for factors in ((0, 1, 2), (3, 5, 0))]
    first, second, again = (embedder.vector(images[i]) for i in (0, 1, 0))
    if not torch.equal(first, again):
        raise DataError(
            "the network gives different vectors for the same image. Export it in evaluation mode (model.eval())."
        )
    if first.shape == second.shape and torch.equal(first, second):
        raise DataError("the network gives the same vector for two different images. Check its weights.")


# ------------------------------------------------------------------------------------------- for the formats


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights, safetensors or torch.save, by name. Nothing else in it is opened.

    A dictionary of torch.save may hold the weights under state_dict or model, as checkpoints of trainings do; a prefix
    `module.` on every name is left out.

    Raises:
        DataError: naming the file, if it is damaged, holds objects other than tensors and plain values, or no weights.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\.")  # about storages of files that old versions wrote
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: holds objects other than tensors, which could execute code; memgen never opens them. Save the "
            "state dict alone, with safetensors.torch.save_file."
        ) from error
    except Exception as error:  # damaged files fail in every possible way
        raise DataError(f"{path}: damaged, or no file of weights ({first_line(error)}). Copy it again.") from error
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    items = found.items() if isinstance(found, dict) else ()
    state = {str(name): value for name, value in items if isinstance(value, Tensor)}
    if not state:
        raise DataError(f"{path}: holds no weights by name. Save the state dict of the network.")
    prefixed = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if prefixed else name: value for name, value in state.items()}


def fill(network: torch.nn.Module, state: dict[str, Tensor], source: Source, unused: str = r"$^") -> torch.nn.Module:
    """A network with the weights of a state dict, in evaluation mode, without gradients.

    Args:
        network: the module.
        state: its weights by name.
        source: named in errors.
        unused: a regular expression of names that may be left over, such as those of a classifier.

    Raises:
        DataError: a weight is missing, left over or of another shape, or is not finite.
    """
    try:
        missing, left = network.load_state_dict(
            {name: value.float() if value.is_floating_point() else value for name, value in state.items()}, strict=False
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise DataError(f"{source}: the weights are not those of this architecture ({reason}).") from error
    left = [name for name in left if not re.match(unused, name)]
    if missing or left:
        wrong = [*(f"{name} is missing" for name in missing), *(f"{name} is left over" for name in left)]
        raise DataError(
            f"{source}: the weights are not those of this architecture ({len(wrong)} do not fit; {wrong[0]}). "
            "Name the architecture that they were trained with."
        )
    for name, value in network.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise DataError(f"{source}: the weight {name} holds NaN or infinity. Fetch the file again.")
    return network.eval().requires_grad_(False)


def identity(kind: str, *paths: Path, **more: JsonValue) -> dict[str, JsonValue]:
    """The record of an embedder: its format, the digest of each of its files, and more.

    Raises:
        DataError: a file cannot be read.
    """
    return {"format": kind, "digests": {path.name: files.digest_file(path) for path in paths}, **more}


def stated_or_error(stated: Preprocessing | None, source: Source) -> Preprocessing:
    """The preprocessing beside a source that states none itself.

    Raises:
        DataError: there is none; the message says what to write.
    """
    if stated is None:
        raise preprocessing.missing(source.path)
    return stated
