"""An ONNX graph as a module that runs node after node and whose weights can be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gpucnn.autograd import Parameter, Tensor, is_grad_enabled, is_watched, on_device_of, tensor
from gpucnn.backend import Backend, get_backend
from gpucnn.errors import DTypeError, ParameterError, ShapeError, kind_of
from gpucnn.nn import Module
from gpucnn.onnx.folding import roles
from gpucnn.onnx.fusing import Fused, Part, last_uses, plan
from gpucnn.onnx.graph import Graph, Node, Value
from gpucnn.onnx.running import run
from gpucnn.onnx.steps import add_graph

After = Callable[[Node, Sequence[Tensor | None], Sequence[Tensor]], None]


class GraphModule(Module):
    """The network of an ONNX file. ``gpucnn.onnx.load`` makes it.

    Weights are parameters under their names in the file; running statistics and other floating constants are buffers.
    After ``train()`` batch normalisation uses the batch, and dropout is active. ``forward`` takes a tensor for each input of
    the graph and returns one for each output: a tensor, or a tuple of them.
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
        self._plain: list[Part] = list(graph.nodes)
        self._fused = plan(graph, self.constant)
        known = self._homes.__contains__
        self._last_plain, self._last_fused = (last_uses(p, graph.outputs, known) for p in (self._plain, self._fused))
        graph.constants.clear()  # they are the module's now, and change with training

    def constant(self, name: str) -> Tensor | None:
        """Return the weight, buffer or number of this name in the file; None if it is not a constant."""
        if name not in self._homes:
            return None
        registry, key = self._homes[name]
        found: Tensor = registry[key]
        return found

    def is_weight(self, name: str) -> bool:
        """Whether the constant of this name in the file is a parameter."""
        return name in self._homes and self._homes[name][0] is self._parameters

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.run_graph(inputs)

    def run_graph(self, inputs: Sequence[Any], after: After | None = None) -> Tensor | tuple[Tensor, ...]:
        """Run the nodes; ``after(node, inputs, results)`` is called after each."""
        values = dict(self._checked(inputs))
        fixed, given_batch = self._batches(inputs)
        with on_device_of(inputs[0] if inputs else None):
            fast = not (self.training or is_grad_enabled() or is_watched() or after or fixed != given_batch)
            parts, last = (self._fused, self._last_fused) if fast else (self._plain, self._last_plain)
            for part, finished in zip(parts, last, strict=True):
                if isinstance(part, Fused):
                    values[part.outputs[0]] = part.run(values[part.inputs[0]], self.constant)
                else:
                    given = [self._value(name, values) for name in part.inputs]
                    if fixed != given_batch and part.op == "Reshape":
                        given = _for_batch(given, fixed, given_batch)
                    results = run(part, given, self.training)
                    if after is not None:
                        after(part, given, results)
                    values.update(zip(part.outputs, results, strict=False))
                for name in finished:
                    values.pop(name, None)
        outputs = tuple(self._output(name, values) for name in self.graph.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def as_operations(self, steps: Any, value: int, path: str) -> int:
        """Add the nodes to the operations of a playground and return the number of the result."""
        return add_graph(self, steps, value, path)

    def _batches(self, inputs: Sequence[Tensor]) -> tuple[int, int]:
        """Return the number of images that the file was made for, and the actual number; equal if it takes any number."""
        if not inputs or not inputs[0].ndim:
            return 0, 0
        shape, given = self.graph.inputs[0].shape, inputs[0].shape[0]
        return (shape[0] or given) if shape else given, given

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

    def _checked(self, inputs: Sequence[Any]) -> Iterator[tuple[str, Tensor]]:
        """Yield the name and tensor of each input; an error unless number, dtypes and shapes are the file's."""
        where, wanted = "onnx", self.graph.inputs
        if len(inputs) != len(wanted):
            names = ", ".join(value.name for value in wanted)
            raise ParameterError.expected(where, "inputs", f"{len(wanted)} tensors ({names})", len(inputs))
        for value, x in zip(wanted, inputs, strict=True):
            if not isinstance(x, Tensor):
                remedy = "wrap it in gpucnn.tensor(...)"
                raise DTypeError.expected(where, f"input {value.name}", "a Tensor", kind_of(x), remedy)
            if x.dtype != value.dtype and not x.dtype.kind == x.backend.dtype(value.dtype).kind == "f":
                raise DTypeError.expected(where, f"input {value.name}", value.dtype, x.dtype)
            check_shape(value, x.shape)
            yield value.name, x

    def extra_repr(self) -> str:
        inputs = ", ".join(f"{value.name} {shape_words(value)}" for value in self.graph.inputs)
        return f"{len(self.graph.nodes)} nodes, inputs: {inputs}"


def _for_batch(given: list[Tensor | None], fixed: int, batch: int) -> list[Tensor | None]:
    """Return the inputs of a Reshape to a shape that begins with a fixed number of images, for another number of them."""
    x, shape = given[0], given[1] if len(given) > 1 else None
    if x is None or shape is None or not x.ndim or not shape.size:
        return given
    lengths = shape.reshape(-1).tolist()
    if x.shape[0] == batch and lengths[0] == fixed:
        return [x, tensor([batch, *lengths[1:]], "int64", "cpu")]
    return given


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
