"""Programs in ONNX (.onnx), run by ONNX Runtime on the CPU.

A file of ONNX is a list of operators of the runtime with their weights; it cannot name a function of Python. Operators
that the runtime does not bring along would need a library of their own, which memgen never loads.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memgen.base import optional
from memgen.base.errors import DataError, first_line
from memgen.base.programs import Program

KIND = "ONNX (FILE.onnx)"


def reads(path: Path) -> bool:
    """Whether the suffix of a file is .onnx."""
    return path.is_file() and path.suffix.lower() == ".onnx"


def load(path: Path) -> Program:
    """The network of the file; see `programs.Format`."""
    runtime = optional.package("onnxruntime", "onnx", "A network in an ONNX file")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises a kind of its own for each cause
        raise DataError(f"{path}: not a network that ONNX Runtime reads ({first_line(error)}).") from error
    inputs = session.get_inputs()
    wrong = [each for each in inputs if each.type != "tensor(float)"]
    if wrong:
        raise DataError(f"{path}: takes {wrong[0].type}, expected tensor(float). Export the network in float32.")

    def run(*tensors: Tensor) -> Any:
        try:
            fed = {each.name: tensor.numpy() for each, tensor in zip(inputs, tensors, strict=True)}
        except RuntimeError as error:  # a tensor that keeps track of what is done with it
            raise DataError(
                f"{path}: ONNX Runtime gives no derivatives, which this measure needs. Export the network with "
                "torch.export.save instead."
            ) from error
        found = tuple(map(torch.from_numpy, session.run(None, fed)))
        return found[0] if len(found) == 1 else found

    # Weights above 2 GB lie in files beside the network, which name them.
    outside = sorted(each for each in path.parent.glob(f"{path.name}*data") if each.is_file())
    return Program(run, len(inputs), (path, *outside), "onnx", {"onnxruntime": runtime.__version__})
