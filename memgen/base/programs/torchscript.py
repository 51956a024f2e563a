"""Programs in TorchScript, a file of torch.jit.save, such as those in which SSCD is published.

TorchScript is a language of its own: a file of it holds a program of PyTorch's operators, and cannot name a function of
Python. Loading it would run only methods called __setstate__, so a file that has one is refused before it is loaded.
Two of PyTorch's operators touch files (`save`, `from_file`), three speak to other computers (`rpc`), and operators of
other libraries can do anything: before the program runs, each operator in it is looked at, and these are refused. So is
a program in which memgen cannot see every operator.
"""

import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from memgen.base.errors import DataError, first_line
from memgen.base.programs import Program, members

KIND = "TorchScript"

_LIBRARIES = ("aten", "prim")
_FORBIDDEN = (
    "aten::save",
    "aten::from_file",
    "prim::rpc_async",
    "prim::rpc_remote",
    "prim::rpc_sync",
    "prim::PythonOp",
)
_UNSEEN = ("prim::CallMethod", "prim::CallFunction")  # what remains of calls after inlining


def reads(path: Path) -> bool:
    """Whether a file is an archive of torch.jit.save."""
    return "constants.pkl" in members(path)


def load(path: Path) -> Program:
    """The program of the file; see `programs.Format`."""
    try:
        with zipfile.ZipFile(path) as archive:
            code = [archive.read(name) for name in archive.namelist() if name.endswith(".py")]
        if any(re.search(rb"\b__setstate__\b", each) for each in code):
            raise DataError(
                f"{path}: holds a method __setstate__, which would run while the file is loaded. Export the network "
                "without one (quantized networks have it: export the one in float32)."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript itself; its files remain
            network = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (DataError, PermissionError):
        raise
    except Exception as error:  # damaged files fail in every possible way
        raise DataError(f"{path}: damaged, or no TorchScript ({first_line(error)}). Export it again.") from error
    for operator in sorted(set(_operators(network.inlined_graph))):
        if operator in _UNSEEN:
            raise DataError(
                f"{path}: calls a method through an interface or a fork, so memgen cannot see what would run. Export "
                "the network with torch.jit.trace."
            )
        if operator in _FORBIDDEN or operator.partition("::")[0] not in _LIBRARIES:
            raise DataError(
                f"{path}: runs the operator {operator}, which memgen does not allow, since it could touch files or "
                "leave PyTorch. Export the network without it."
            )
    inputs = len(list(network.inlined_graph.inputs())) - 1  # the first is the module itself
    return Program(network, inputs, (path,), "torchscript", {"torch": torch.__version__})


def _operators(graph: Any) -> Iterator[str]:
    """The operators of a graph, with those of its branches, loops and forks."""
    for node in graph.nodes():
        yield node.kind()
        inner = list(node.blocks())
        for name in node.attributeNames():
            if node.kindOf(name) in ("g", "gs"):
                inner += [node.g(name)] if node.kindOf(name) == "g" else node.gs(name)
        for each in inner:
            yield from _operators(each)
