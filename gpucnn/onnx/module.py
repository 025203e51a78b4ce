"""A graph of ONNX as a module: it runs node after node, and its weights can be trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpucnn.autograd import Parameter, Tensor, on_device_of
from gpucnn.backend import Backend, get_backend
from gpucnn.errors import DTypeError, ParameterError, ShapeError, kind_of
from gpucnn.nn import Module
from gpucnn.onnx.folding import roles
from gpucnn.onnx.graph import Graph, Value
from gpucnn.onnx.running import run


class GraphModule(Module):
    """The network of an ONNX file. ``gpucnn.onnx.load`` makes it.

    Weights are parameters under their names in the file; running statistics and other floating constants are buffers.
    ``train()`` lets batch normalisation use the batch, and dropout drop. ``forward`` takes a tensor for each input of the
    graph and returns one for each output: a tensor, or a tuple of them.
    """

    def __init__(self, graph: Graph, device: str | Backend | None = None) -> None:
        super().__init__()
        self.graph = graph
        backend, host = get_backend(device), get_backend("cpu")
        weights, numbers = roles(graph)
        self._fixed: dict[str, Tensor] = {}
        self._homes: dict[str, tuple[dict[str, Any], str]] = {}
        for name, values in graph.constants.items():
            if name in numbers and name not in weights:
                self._fixed[name] = Tensor(host.asarray(values), host)
                self._homes[name] = (self._fixed, name)
                continue
            own = values if values.flags.writeable else values.copy()
            tensor = Tensor(backend.asarray(own), backend)
            key = name if not hasattr(type(self), name) and name not in self.__dict__ else f"{name}_"
            registry: dict[str, Any] = self._parameters if name in weights else self._buffers
            registry[key] = Parameter(tensor) if name in weights else tensor
            self._homes[name] = (registry, key)
        self._last = self._last_uses()
        graph.constants.clear()  # they are the module's now, and change with training

    def _last_uses(self) -> list[tuple[str, ...]]:
        """Return for each node the values that no later node reads."""
        seen, found = set(self.graph.outputs), []
        for node in reversed(self.graph.nodes):
            names = {name for name in node.inputs if name and name not in seen and name not in self._homes}
            seen |= names
            found.append((*names, *(name for name in node.outputs if name not in seen)))
        return found[::-1]

    def constant(self, name: str) -> Tensor | None:
        """Return the weight, buffer or number of this name in the file; None if it is not a constant."""
        if name not in self._homes:
            return None
        registry, key = self._homes[name]
        found: Tensor = registry[key]
        return found

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        values = dict(self._checked(inputs))
        with on_device_of(inputs[0] if inputs else None):
            for node, finished in zip(self.graph.nodes, self._last, strict=True):
                results = run(node, [self._value(name, values) for name in node.inputs], self.training)
                values.update(zip(node.outputs, results, strict=False))
                for name in finished:
                    values.pop(name, None)
        outputs = tuple(self._output(name, values) for name in self.graph.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def _value(self, name: str, values: dict[str, Tensor]) -> Tensor | None:
        if not name:
            return None
        home = self._homes.get(name)
        if home is not None:
            return home[0][home[1]]  # type: ignore[no-any-return]
        return values.get(name)

    def _output(self, name: str, values: dict[str, Tensor]) -> Tensor:
        found = self._value(name, values)
        if found is None:
            raise ParameterError.expected("load", "output", "a value that its node gives", repr(name))
        return found

    def _checked(self, inputs: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and tensor of each input; an error unless number, dtypes and shapes are the file's."""
        where, wanted = "onnx", self.graph.inputs
        if len(inputs) != len(wanted):
            names = ", ".join(value.name for value in wanted)
            raise ParameterError.expected(where, "inputs", f"{len(wanted)} tensors ({names})", len(inputs))
        for value, tensor in zip(wanted, inputs, strict=True):
            if not isinstance(tensor, Tensor):
                remedy = "wrap it in gpucnn.tensor(...)"
                raise DTypeError.expected(where, f"input {value.name}", "a Tensor", kind_of(tensor), remedy)
            if tensor.dtype != value.dtype and not tensor.dtype.kind == tensor.backend.dtype(value.dtype).kind == "f":
                raise DTypeError.expected(where, f"input {value.name}", value.dtype, tensor.dtype)
            check_shape(value, tensor.shape)
            yield value.name, tensor

    def extra_repr(self) -> str:
        inputs = ", ".join(f"{value.name} {shape_words(value)}" for value in self.graph.inputs)
        return f"{len(self.graph.nodes)} nodes, inputs: {inputs}"


def check_shape(value: Value, shape: tuple[int, ...]) -> None:
    """Raise ShapeError unless an input's shape is the file's. The first axis, the batch, may differ from a fixed one."""
    if value.shape is None:
        return
    fits = len(shape) == len(value.shape) and all(
        n in (None, m) or (axis == 0 and len(shape) > 2)
        for axis, (n, m) in enumerate(zip(value.shape, shape, strict=True))
    )
    if not fits:
        raise ShapeError.expected("onnx", f"input {value.name}", f"shape {shape_words(value)}", shape)


def shape_words(value: Value) -> str:
    """Return a shape in words: ``?`` stands for any length."""
    if value.shape is None:
        return "of any shape"
    return f"({', '.join('?' if n is None else str(n) for n in value.shape)})"
