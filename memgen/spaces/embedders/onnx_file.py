"""Embedders in ONNX (.onnx), run by ONNX Runtime on the CPU.

A file of ONNX is a list of operators of the runtime with their weights; it cannot name a function of Python. Operators
that the runtime does not bring along would need a library of their own, which memgen never loads.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memgen.base import optional
from memgen.base.errors import DataError, first_line
from memgen.spaces.embedders import Embedder, Source, identity, stated_or_error
from memgen.spaces.preprocessing import Preprocessing

ORDER = 0
KIND = "ONNX (FILE.onnx and FILE.onnx.json)"


def reads(source: Source) -> bool:
    """Whether the suffix of a file is .onnx."""
    return source.library is None and source.path.is_file() and source.path.suffix.lower() == ".onnx"


def load(source: Source, stated: Preprocessing | None) -> Embedder:
    """The network of the file; see `embedders.Format`."""
    path = source.path
    preprocessing = stated_or_error(stated, source)
    runtime = optional.package("onnxruntime", "onnx", "A space from an ONNX file")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises a kind of its own for each cause
        raise DataError(f"{path}: not a network that ONNX Runtime reads ({first_line(error)}).") from error
    inputs = session.get_inputs()
    outputs = [each for each in session.get_outputs() if len(each.shape) == 2]
    if len(inputs) != 1 or len(outputs) != 1:
        given, got = ([f"{each.name} {each.shape}" for each in side] for side in (inputs, session.get_outputs()))
        raise DataError(
            f"{path}: takes {', '.join(given)} and gives {', '.join(got)}; expected one input and exactly one output "
            "(N, d). Export the network so that it returns the embedding alone."
        )
    if inputs[0].type != "tensor(float)":
        raise DataError(f"{path}: takes {inputs[0].type}, expected tensor(float). Export the network in float32.")

    def run(images: Tensor) -> Any:
        (found,) = session.run([outputs[0].name], {inputs[0].name: images.numpy()})
        return torch.from_numpy(found)

    # Weights above 2 GB lie in files beside the network, which name them.
    outside = sorted(each for each in path.parent.glob(f"{path.name}*data") if each.is_file())
    record = identity("onnx", path, *map(Path, outside), onnxruntime=runtime.__version__)
    return Embedder(run, preprocessing, record)
