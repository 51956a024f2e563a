"""Programs that torch.export.save wrote (.pt2): a list of operators with the names of what each takes and gives.

PyTorch's own loader opens pickles of the file without restriction, and evaluates some of its texts as Python. memgen
does not use it. The list is plain JSON and the weights are plain numbers; memgen reads both, and runs the list operator
by operator. It allows the operators of PyTorch's core library (aten), except those that touch files, and arithmetic of
whole numbers.
"""

import json
import operator
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memgen.base.errors import DataError, first_line
from memgen.base.programs import Program, members

KIND = "torch.export (FILE.pt2)"

_MODEL = "models/model.json"
_VERSION = 8  # major version of the layout, `schema_version` of the file; that of torch 2.13
_ATEN = "torch.ops.aten."
_FORBIDDEN = ("from_file", "save")
_WHOLE_NUMBERS = ("add", "sub", "mul", "floordiv", "mod", "neg", "ge", "gt", "le", "lt", "eq", "ne", "getitem")
# Codes of the layout (torch/_export/serde/schema.py).
_TYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_PLAIN = (
    "as_int",
    "as_ints",
    "as_float",
    "as_floats",
    "as_string",
    "as_strings",
    "as_bool",
    "as_bools",
    "as_int_lists",
)

Values = dict[str, Any]
Step = tuple[Callable[..., Any], Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]


def reads(path: Path) -> bool:
    """Whether a file is an archive of torch.export.save."""
    return _MODEL in members(path)


def load(path: Path) -> Program:
    """The program of the file; see `programs.Format`."""
    try:
        with zipfile.ZipFile(path) as archive:
            program = _Program(archive)
    except (DataError, PermissionError):
        raise
    except _NotAllowedError as error:
        raise DataError(
            f"{path}: {error}. Export the network again, in evaluation mode and in float32: "
            "torch.export.save(torch.export.export(network.eval(), INPUTS), FILE)."
        ) from error
    except Exception as error:  # damaged files fail in every possible way
        raise DataError(
            f"{path}: damaged, or no program of torch.export.save ({first_line(error)}). Export it again."
        ) from error
    return Program(program, program.inputs, (path,), "torch.export", {"torch": torch.__version__})


class _NotAllowedError(Exception):
    """Something in the file that memgen does not read; the message says what."""


class _Program:
    """The operators of a file, and its weights."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        model = json.loads(_member(archive, _MODEL))
        version = model["schema_version"]["major"]
        if version != _VERSION:
            raise _NotAllowedError(f"found version {version} of the layout, expected {_VERSION}")
        graph, signature = model["graph_module"]["graph"], model["graph_module"]["signature"]
        stored = _stored(archive, "weights", "weights") | _stored(archive, "constants", "constants")
        self._values: Values = {}
        inputs = []
        for spec in signature["input_specs"]:
            ((kind, found),) = spec.items()
            if kind == "user_input":
                inputs.append(found["arg"]["as_tensor"]["name"])
            elif kind in ("parameter", "buffer", "tensor_constant"):
                self._values[found["arg"]["name"]] = stored[found[f"{kind}_name"]]
            else:
                raise _NotAllowedError(f"found an input of kind {kind}, expected weights and tensors")
        outputs = [
            found["arg"]["as_tensor"]["name"]
            for spec in signature["output_specs"]
            for kind, found in spec.items()
            if kind == "user_output"
        ]
        if not inputs or len(outputs) != 1:
            raise _NotAllowedError(f"found {len(inputs)} inputs and {len(outputs)} outputs, expected one output")
        self._inputs, (self._output,) = inputs, outputs
        self._steps: list[Step] = [
            (_function(node["target"]), node["inputs"], node["outputs"]) for node in graph["nodes"]
        ]
        last = {name: i for i, node in enumerate(graph["nodes"]) for name in _names(node["inputs"])}
        last.pop(self._output, None)
        # What no later operator takes is let go after each one, which bounds the memory as PyTorch itself does.
        self._done: list[list[str]] = [[] for _ in self._steps]
        for name, i in last.items():
            self._done[i].append(name)

    @property
    def inputs(self) -> int:
        return len(self._inputs)

    def __call__(self, *tensors: Tensor) -> Tensor:
        values = self._values | dict(zip(self._inputs, tensors, strict=True))
        for (function, inputs, outputs), done in zip(self._steps, self._done, strict=True):
            positional = [_argument(each["arg"], values) for each in inputs if each.get("kind") != 2]
            named = {each["name"]: _argument(each["arg"], values) for each in inputs if each.get("kind") == 2}
            found = function(*positional, **named)
            given = [found] if len(outputs) == 1 else found or ()
            for output, value in zip(outputs, given, strict=True):
                _keep(output, value, values)
            del found, given
            for name in done:
                values.pop(name, None)
        return values[self._output]  # type: ignore[no-any-return]


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    (full,) = [each for each in archive.namelist() if each.partition("/")[2] == name]
    return archive.read(full)


def _stored(archive: zipfile.ZipFile, folder: str, kind: str) -> dict[str, Tensor]:
    """The tensors of a folder of the archive, by name."""
    config = json.loads(_member(archive, f"data/{folder}/model_{kind}_config.json"))["config"]
    tensors = {}
    for name, entry in config.items():
        meta = entry["tensor_meta"]
        if entry["use_pickle"] or meta is None:
            raise _NotAllowedError(f"{name} is a pickle, which could execute code")
        sizes, strides = ([each["as_int"] for each in meta[key]] for key in ("sizes", "strides"))
        data = bytearray(_member(archive, f"data/{folder}/{entry['path_name']}"))
        type_ = _TYPES[meta["dtype"]]
        flat = torch.frombuffer(data, dtype=type_) if data else torch.empty(0, dtype=type_)
        tensors[name] = flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"])
    return tensors


def _function(target: str) -> Callable[..., Any]:
    """The operator of a name, if it is allowed."""
    library, _, name = target.rpartition(".") if target.startswith("_operator.") else ("", "", "")
    if library == "_operator" and name in _WHOLE_NUMBERS:
        return getattr(operator, name)  # type: ignore[no-any-return]
    packet, _, overload = target.removeprefix(_ATEN).partition(".")
    if not target.startswith(_ATEN) or packet in _FORBIDDEN or not packet.isidentifier() or not overload.isidentifier():
        raise _NotAllowedError(f"found the operator {target!r}, expected operators of aten that touch no file")
    found = getattr(getattr(torch.ops.aten, packet), overload)
    if not isinstance(found, torch._ops.OpOverload):
        raise _NotAllowedError(f"found the operator {target!r}, which aten does not have")
    return found


def _names(found: Any) -> Iterator[str]:
    """The names of the values that arguments refer to."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            if key in ("name", "as_name") and isinstance(value, str):
                yield value
            else:
                yield from _names(value)
    elif isinstance(found, list):
        for each in found:
            yield from _names(each)


def _argument(argument: Mapping[str, Any], values: Values) -> Any:
    """The value of an argument, of which the key says the kind."""
    ((kind, found),) = argument.items()
    if kind == "as_none":
        return None
    if kind in _PLAIN:
        return found
    if kind == "as_tensor":
        return values[found["name"]]
    if kind == "as_tensors":
        return [values[each["name"]] for each in found]
    if kind == "as_optional_tensor":
        return _argument(found, values)
    if kind in ("as_optional_tensors", "as_sym_ints"):
        return [_argument(each, values) for each in found]
    if kind in ("as_sym_int", "as_sym_bool"):
        return _argument(found, values)
    if kind == "as_name":
        return values[found]
    if kind == "as_scalar_type":
        return _TYPES[found]
    if kind == "as_memory_format":
        return _MEMORY_FORMATS[found]
    if kind == "as_device":
        return torch.device("cpu")
    if kind == "as_layout":
        return torch.strided
    raise ValueError(f"an argument of kind {kind}, which memgen does not read")


def _keep(output: Mapping[str, Any], value: Any, values: Values) -> None:
    """Keep what an operator gave under its name."""
    ((kind, found),) = output.items()
    if kind == "as_tensors":
        values.update({each["name"]: part for each, part in zip(found, value, strict=True)})
    elif kind == "as_tensor":
        values[found["name"]] = value
    elif kind in ("as_sym_int", "as_sym_bool"):
        values[found["as_name"]] = value
