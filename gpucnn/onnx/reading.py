"""ONNX files as graphs. A file may be untrusted: its claims are compared with its contents before memory is allocated.

Nothing in the file is executed. Weights in other files are read from the file's own folder only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn import limits
from gpucnn.errors import CheckpointError, GpucnnError, ParameterError, how_to_add, shortened
from gpucnn.onnx.graph import Constant, Graph, Node, Value

FILE_BYTES = 2**31
"""Largest file: what the format's own encoding allows."""

OLDEST = 1
"""The oldest operator set whose meaning of the operators is followed."""

DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip
"""NumPy's name of each element type."""


def library() -> Any:
    """Return the module ``onnx``; GpucnnError, with the command that installs it, if it is missing."""
    try:
        import onnx
    except ImportError:
        raise GpucnnError(f"onnx: the package onnx is not installed. Add it with: {how_to_add('onnx')}.") from None
    return onnx


def read_graph(source: str | os.PathLike[str] | bytes) -> Graph:
    """Return the graph of a file, or of a file's bytes; CheckpointError if it is missing, damaged or unknown.

    >>> read_graph("nowhere.onnx")
    Traceback (most recent call last):
    gpucnn.errors.CheckpointError: nowhere.onnx: no such file.
    """
    if isinstance(source, bytes):
        return parsed(source, "ONNX", None)
    path = Path(source)
    try:
        limits.check(str(path), "bytes", path.stat().st_size, FILE_BYTES, CheckpointError)
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: cannot be read ({reason}).") from None
    return parsed(content, str(path), path.parent)


def parsed(content: bytes, where: str, folder: Path | None) -> Graph:
    """Return the graph of a file's bytes. ``folder``: where its external data may be; None: nowhere."""
    onnx = library()
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
        if not model.HasField("graph") or not model.graph.node:
            raise ValueError("it has no graph with nodes")
        return _Reader(where, folder).graph(model)
    except GpucnnError as error:
        raise CheckpointError(f"{where}: {error}") from None
    except (ValueError, TypeError, RecursionError, UnicodeDecodeError, onnx_error()) as error:
        raise CheckpointError(f"{where}: not an ONNX model ({shortened(error, 120)}).") from None


def onnx_error() -> type[Exception]:
    from google.protobuf.message import DecodeError

    return DecodeError  # type: ignore[no-any-return]


class _Reader:
    """Reads one model."""

    def __init__(self, where: str, folder: Path | None) -> None:
        self._where, self._folder = where, folder

    def graph(self, model: Any) -> Graph:
        version = self._version(model)
        graph = model.graph
        if len(graph.sparse_initializer):
            raise ParameterError("sparse initialisers are not supported. Store the tensors as dense ones.")
        constants: dict[str, Constant] = {}
        for tensor in graph.initializer:
            if not tensor.name or tensor.name in constants:
                raise ParameterError.expected("initialiser", "name", "one of its own", repr(shortened(tensor.name, 60)))
            constants[tensor.name] = self.tensor(tensor, f"initialiser {shortened(tensor.name, 60)!r}")
        nodes = [self._node(node, version) for node in graph.node]
        inputs = tuple(_value(value) for value in graph.input if value.name not in constants)
        outputs = tuple(str(value.name) for value in graph.output)
        if not outputs:
            raise ParameterError("the graph has no output.")
        ordered = in_order(nodes, {*constants, *(value.name for value in inputs)}, outputs)
        metadata = {str(entry.key): str(entry.value) for entry in model.metadata_props}
        return Graph(tuple(ordered), constants, inputs, outputs, version, metadata)

    def _version(self, model: Any) -> int:
        versions = {entry.domain: entry.version for entry in model.opset_import}
        version = versions.get("", versions.get("ai.onnx", 1 if not versions else 0))
        newest = library().defs.onnx_opset_version()
        if not OLDEST <= version <= newest:
            remedy = "convert the file with onnx.version_converter" if version < OLDEST else "install a newer onnx"
            raise ParameterError.expected("opset_import", "version", f"{OLDEST} to {newest}", version, remedy)
        return int(version)

    def _node(self, node: Any, version: int) -> Node:
        op = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        bare = Node(op, node.name, tuple(node.input), tuple(node.output))
        attributes = {str(entry.name): self._attribute(entry, bare.place) for entry in node.attribute}
        return Node(op, node.name, bare.inputs, bare.outputs, attributes, version)

    def _attribute(self, entry: Any, place: str) -> Any:
        kinds: dict[int, Callable[[], Any]] = {
            1: lambda: float(entry.f),
            2: lambda: int(entry.i),
            3: lambda: entry.s.decode("utf-8", "replace"),
            4: lambda: self.tensor(entry.t, f"{place}: {entry.name}"),
            6: lambda: tuple(map(float, entry.floats)),
            7: lambda: tuple(map(int, entry.ints)),
            8: lambda: tuple(text.decode("utf-8", "replace") for text in entry.strings),
        }
        return kinds[entry.type]() if entry.type in kinds else None  # graphs: no operator here has them

    def tensor(self, tensor: Any, place: str) -> Constant:
        """Return the values of a tensor; ParameterError unless it holds as many as its shape says."""
        if tensor.data_type not in DTYPES:
            raise ParameterError.expected(place, "type", ", ".join(DTYPES.values()), _type_name(tensor.data_type))
        dtype = np.dtype(DTYPES[tensor.data_type])
        shape = tuple(map(int, tensor.dims))
        if any(n < 0 for n in shape) or len(shape) > 32:
            raise ParameterError.expected(place, "shape", "at most 32 lengths of 0 or more", shortened(shape, 80))
        count = math.prod(shape)
        if tensor.data_location == 1:
            raw = self._external(tensor, place, count * dtype.itemsize)
        elif tensor.HasField("raw_data"):
            raw = tensor.raw_data
        else:
            return self._listed(tensor, place, dtype, shape, count)
        if len(raw) != count * dtype.itemsize:
            words = f"{count * dtype.itemsize:,} bytes for shape {shortened(shape, 80)} of {dtype}"
            raise ParameterError.expected(place, "data", words, f"{len(raw):,}")
        if dtype.kind == "b" and raw.strip(b"\0\1"):
            raise ParameterError.expected(place, "data", "bytes of 0 and 1", "others")
        return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype).reshape(shape)

    def _listed(self, tensor: Any, place: str, dtype: Any, shape: tuple[int, ...], count: int) -> Constant:
        """Return the values of a tensor from the field of its type."""
        fields = {"float32": "float_data", "float64": "double_data", "int64": "int64_data", "uint32": "uint64_data",
                  "uint64": "uint64_data"}  # fmt: skip
        values = getattr(tensor, fields.get(dtype.name, "int32_data"))
        if len(values) != count:
            raise ParameterError.expected(place, "data", f"{count:,} values for its shape", f"{len(values):,}")
        if dtype == np.float16:  # its bits, in ints
            return np.array(values, np.int64).astype(np.uint16).view(np.float16).reshape(shape)
        wide = np.array(values, {"f": np.float64, "u": np.uint64}.get(dtype.kind, np.int64))
        return wide.astype(dtype).reshape(shape)

    def _external(self, tensor: Any, place: str, size: int) -> bytes:
        """Return the bytes of a tensor that another file of the same folder holds."""
        entries = {str(entry.key): str(entry.value) for entry in tensor.external_data}
        name = entries.get("location", "")
        if self._folder is None:
            raise ParameterError.expected(
                place, "data", "values in the file", "a file beside it", "load it by its path"
            )
        folder = os.path.realpath(self._folder)
        path = os.path.realpath(os.path.join(folder, name)) if name and "\0" not in name else folder
        if os.path.isabs(name) or os.path.commonpath([folder, path]) != folder or not os.path.isfile(path):
            raise ParameterError.expected(place, "location", "a file in the model's folder", repr(shortened(name, 80)))
        offset, length = _number(entries.get("offset", "0")), _number(entries.get("length", str(size)))
        if offset is None or length != size:
            words = f"an offset, and a length of {size:,} bytes"
            raise ParameterError.expected(place, "external data", words, shortened(entries, 120))
        if offset + size > os.path.getsize(path):
            raise ParameterError.expected(place, "external data", f"{offset + size:,} bytes", os.path.getsize(path))
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _type_name(number: int) -> str:
    names = {value: name for name, value in library().TensorProto.DataType.items()}
    return str(names.get(number, number)).lower()


def _value(value: Any) -> Value:
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type not in DTYPES:
        got = _type_name(kind.elem_type) if value.type.HasField("tensor_type") else "no tensor"
        words = f"a tensor of {', '.join(DTYPES.values())}"
        raise ParameterError.expected(f"input {shortened(value.name, 60)!r}", "type", words, got)
    lengths = tuple(int(d.dim_value) if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim)
    return Value(str(value.name), DTYPES[kind.elem_type], lengths if kind.HasField("shape") else None)


def in_order(nodes: list[Node], known: set[str], outputs: tuple[str, ...]) -> Iterator[Node]:
    """Return the nodes so that each comes after those it reads; ParameterError for a circle or an unknown value."""
    makers: dict[str, int] = {}
    for number, node in enumerate(nodes):
        for name in filter(None, node.outputs):
            if name in makers or name in known:
                raise ParameterError.expected(node.place, "output", "a name of its own", repr(shortened(name, 60)))
            makers[name] = number
    waits = [{makers[name] for name in node.inputs if name in makers} for node in nodes]
    for number, node in enumerate(nodes):
        for name in filter(None, node.inputs):
            if name not in makers and name not in known:
                raise ParameterError.expected(node.place, "input", "a value of the graph", repr(shortened(name, 60)))
        if number in waits[number]:
            raise ParameterError(f"{node.place} reads its own result: the graph is a circle.")
    for name in outputs:
        if name not in makers and name not in known:
            raise ParameterError.expected("output", "name", "a value of the graph", repr(shortened(name, 60)))
    users: dict[int, list[int]] = {}
    for number, sources in enumerate(waits):
        for source in sources:
            users.setdefault(source, []).append(number)
    left = [len(sources) for sources in waits]
    ready = [number for number in range(len(nodes) - 1, -1, -1) if not left[number]]
    ordered: list[Node] = []
    while ready:
        number = ready.pop()
        ordered.append(nodes[number])
        for user in reversed(users.get(number, ())):
            left[user] -= 1
            if not left[user]:
                ready.append(user)
    if len(ordered) < len(nodes):
        stuck = next(node for node, count in zip(nodes, left, strict=True) if count)
        raise ParameterError(f"{stuck.place} waits for its own result: the graph has a circle.")
    return iter(ordered)
