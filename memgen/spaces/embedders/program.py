"""Embedders in files of tensor operators (TorchScript, torch.export, ONNX), with their preprocessing in FILE.json.

SSCD is published in TorchScript. What such a file can do stands in `memgen.base.programs`.
"""

from typing import Any

from torch import Tensor

from memgen.base import programs
from memgen.spaces.embedders import Embedder, Source, identity, stated_or_error
from memgen.spaces.preprocessing import Preprocessing

ORDER = 0
KIND = f"a program of {programs.kinds()}, with FILE.json"


def reads(source: Source) -> bool:
    """Whether a file is a program of one of the formats."""
    return source.library is None and programs.find(source.path) is not None


def load(source: Source, stated: Preprocessing | None) -> Embedder:
    """The program of the file; see `embedders.Format`."""
    format_ = programs.find(source.path)
    assert format_ is not None
    preprocessing = stated_or_error(stated, source)
    program = format_.load(source.path)

    def network(images: Tensor) -> Any:
        found = program(images)
        vectors = [each for each in found if each.ndim == 2] if isinstance(found, tuple) else []
        return vectors[0] if len(vectors) == 1 else found

    return Embedder(network, preprocessing, identity(program.kind, *program.files, **program.versions))
