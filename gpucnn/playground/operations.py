"""A network as the list of operations that the page runs, each with its inputs, its numbers and a name.

Value 0 is the image, value k the result of the k-th operation, counted from 1; shapes have no batch axis. Containers are
expanded; a layer of a class that is not in ``LAYERS`` is refused by its name. Any other module, such as a graph, may have a
method ``as_operations(steps, value, path)`` that adds its operations to ``steps`` and returns the number of its result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpucnn import nn
from gpucnn.autograd import Tensor
from gpucnn.errors import ParameterError, shortened
from gpucnn.functional.pool import centre_weights, pooling_window, window_counts
from gpucnn.nn.deep_blocks import Block

Shape = tuple[int, ...]

IMAGE = 0
"""The number of the value that is the image."""


@dataclass(frozen=True)
class Operation:
    """One step of a network.

    kind: what the page runs. name: readable, such as conv1. path: its place in the network, "0" or "block.0". inputs:
    numbers of values. shape: of the result, without the batch axis. arguments: plain values. arrays: float32, by name.
    """

    kind: str
    name: str
    path: str
    inputs: tuple[int, ...]
    shape: Shape
    arguments: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Any] = field(default_factory=dict)


class Operations:
    """The operations of a network on images of one shape (C, H, W), in the order in which they run.

    >>> steps = Operations((1, 28, 28))
    >>> steps.follow(nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.Conv2d(6, 8, 5)), 0, "")
    3
    >>> [(step.name, step.inputs, step.shape) for step in steps.all]
    [('conv1', (0,), (6, 24, 24)), ('relu1', (1,), (6, 24, 24)), ('conv2', (2,), (8, 20, 20))]
    """

    def __init__(self, image_shape: Shape) -> None:
        self.all: list[Operation] = []
        self._image_shape = image_shape
        self._counts: dict[str, int] = {}
        self._names: set[str] = set()
        self._places: dict[int, str] = {}

    def shape(self, value: int) -> Shape:
        """Return the shape of a value."""
        return self.all[value - 1].shape if value else self._image_shape

    def add(
        self,
        kind: str,
        inputs: tuple[int, ...],
        shape: Shape,
        path: str,
        *,
        word: str = "",
        name: str | None = None,
        arguments: dict[str, Any] | None = None,
        arrays: dict[str, Any] | None = None,
    ) -> int:
        """Add an operation and return the number of its result.

        name: of its own; without one it is ``word``, by default the kind, and a number.
        """
        word = word or kind
        self._counts[word] = self._counts.get(word, 0) + 1
        name = name or f"{word}{self._counts[word]}"
        while name in self._names:
            name += "'"
        self._names.add(name)
        numbers = {key: np.ascontiguousarray(value, np.float32) for key, value in (arrays or {}).items()}
        self.all.append(Operation(kind, name, path, inputs, tuple(shape), arguments or {}, numbers))
        return len(self.all)

    def follow(self, module: nn.Module, value: int, path: str) -> int:
        """Add the operations of ``module`` on a value and return the number of the result.

        ParameterError, which names the layer, for one that the page cannot run.
        """
        path = self._places.get(id(module), path)
        own = getattr(module, "as_operations", None)
        if own is not None:
            result: int = own(self, value, path)
            return result
        for kind in type(module).__mro__:
            if kind in LAYERS and _same(type(module), kind):
                return LAYERS[kind](self, module, value, path)
        raise refused(path, "one that the page can run", shortened(repr(module), 24))

    def follow_body(self, block: Block, value: int, path: str) -> int:
        """Add the operations of a block whose layers have names of their own; in its body they have other places."""
        self._places |= {id(layer): below(path, name) for name, layer in block.named_modules() if layer is not block}
        return self.follow(block.body(), value, path)

    def layer(self, kind: str, module: nn.Layer, value: int, path: str, **rest: Any) -> int:
        """Add a layer with one input, whose shape it knows itself."""
        shape = module.output_shape((1, *self.shape(value)))
        return self.add(kind, (value,), shape[1:], path, name=module.name, **rest)


def operations_of(net: nn.Module, image_shape: Shape) -> list[Operation]:
    """Return the operations of a network for images (C, H, W); its result must be a number for each class.

    Raises ParameterError, which names the layer, for a layer that the page cannot run, ShapeError for images that do
    not fit.

    >>> operations_of(nn.Sequential(nn.LPPool2d(2, 2)), (1, 2, 2))
    Traceback (most recent call last):
    gpucnn.errors.ParameterError: playground: layer 0: expected one that the page can run, got LPPool2d(2, kernel_si....
    """
    steps = Operations(image_shape)
    last = steps.follow(net, IMAGE, "")
    if len(steps.shape(last)) != 1 or last != len(steps.all):
        raise ParameterError.expected(
            "playground", "network", "one number for each class", f"shape {steps.shape(last)}"
        )
    return steps.all


def _same(own: type[nn.Module], kind: type[nn.Module]) -> bool:
    """Whether a layer of class ``own``, derived from ``kind``, computes the same."""
    return all(getattr(own, name, None) is getattr(kind, name, None) for name in ("forward", "function"))


def refused(path: str, expected: str, got: str) -> ParameterError:
    """Return the error for a layer that the page cannot run."""
    return ParameterError.expected("playground", f"layer {path}" if path else "network", expected, got)


def below(path: str, name: str) -> str:
    """Return the path of a layer inside another.

    >>> below("", "0"), below("0", "block")
    ('0', '0.block')
    """
    return f"{path}.{name}" if path else name


# --- containers ------------------------------------------------------------------------------------------------------


def _in_sequence(steps: Operations, module: nn.Module, value: int, path: str) -> int:
    for name, child in module._modules.items():
        value = steps.follow(child, value, below(path, name))
    return value


def _each(steps: Operations, module: nn.Module, value: int, path: str) -> tuple[int, ...]:
    return tuple(steps.follow(child, value, below(path, name)) for name, child in module._modules.items())


def _residual(steps: Operations, module: Any, value: int, path: str) -> int:
    block = steps.follow(module.block, value, below(path, "block"))
    shortcut = module.shortcut
    skipped = value if shortcut is None else steps.follow(shortcut, value, below(path, "shortcut"))
    return steps.add("add", (block, skipped), steps.shape(block), path, name=module.name)


def _parallel(steps: Operations, module: Any, value: int, path: str) -> int:
    values = _each(steps, module, value, path)
    return steps.add("add", values, steps.shape(values[0]), path, name=module.name)


def _concat(steps: Operations, module: Any, value: int, path: str) -> int:
    values = _each(steps, module, value, path)
    shapes = [steps.shape(one) for one in values]
    if module.axis % (len(shapes[0]) + 1) != 1:
        raise refused(path, "axis 1, the channels", f"axis {module.axis}")
    shape = (sum(one[0] for one in shapes), *shapes[0][1:])
    return steps.add("concat", values, shape, path, name=module.name)


def _clip(low: str | float, high: str | float) -> Callable[[Operations, Any, int, str], int]:
    """Return what adds an activation that clips, to numbers or to what the layer's arguments of these names are."""

    def add(steps: Operations, module: Any, value: int, path: str) -> int:
        bounds = [end if isinstance(end, float) else float(module.argument(end)) for end in (low, high)]
        arguments = {"function": "clip", "slope": 1.0, "intercept": 0.0, "low": bounds[0], "high": bounds[1]}
        return steps.layer("activation", module, value, path, word=type(module).__name__.lower(), arguments=arguments)

    return add


# --- layers ----------------------------------------------------------------------------------------------------------


def numbers(tensor: Tensor | None) -> Any:
    """Return a parameter's or buffer's values on the host."""
    assert tensor is not None
    return tensor.detach().numpy()


def _window(window: Any) -> dict[str, Any]:
    return {"kernel": window.kernel, "stride": window.stride, "padding": window.padding, "dilation": window.dilation}


def _conv(steps: Operations, module: Any, value: int, path: str) -> int:
    arguments = _window(module.window_on(steps.shape(value)[1:]))
    arguments |= {"groups": module.groups, "border": module.padding_mode}
    arrays = {"weight": numbers(module.weight)}
    if module.bias is not None:
        arrays["bias"] = numbers(module.bias)
    return steps.layer("conv", module, value, path, arguments=arguments, arrays=arrays)


def _linear(steps: Operations, module: Any, value: int, path: str) -> int:
    if len(steps.shape(value)) != 1:
        raise refused(path, "an input without pixels, as Flatten makes it", f"shape {steps.shape(value)}")
    arrays = {"weight": numbers(module.weight)}
    if module.bias is not None:
        arrays["bias"] = numbers(module.bias)
    return steps.layer("linear", module, value, path, arrays=arrays)


def _flatten(steps: Operations, module: Any, value: int, path: str) -> int:
    axes = len(steps.shape(value)) + 1
    if (module.start_dim % axes, module.end_dim % axes) != (1, axes - 1):
        raise refused(path, "all axes but the batch", f"axes {module.start_dim} to {module.end_dim}")
    return steps.layer("flatten", module, value, path)


def _max_pool(steps: Operations, module: Any, value: int, path: str) -> int:
    if module.zero_padded:
        raise refused(path, "padding that is never the maximum", "zeros that count")
    arguments = _window(module.window_on(steps.shape(value)[1:]))
    return steps.layer("max_pool", module, value, path, word="pool", arguments=arguments)


def _avg_pool(steps: Operations, module: Any, value: int, path: str) -> int:
    size: Any = steps.shape(value)[1:]
    where = type(module).__name__
    kernel, stride, padding, dilation = module._as_images()
    window, asked = pooling_window(where, size, kernel, stride, padding, dilation, module.ceil_mode)
    divisor: Any = window_counts(window, asked if module.count_include_pad else (0, 0, 0, 0), size)
    if module.divisor_override is not None:
        divisor = float(module.divisor_override)
    OH, OW = window.output_size(*size)
    rows, columns = divisor if isinstance(divisor, tuple) else ([divisor] * OH, [1] * OW)
    arguments = {**_window(window), "counts": [list(rows), list(columns)]}
    return steps.layer("avg_pool", module, value, path, word="pool", arguments=arguments)


def _centre_pool(steps: Operations, module: Any, value: int, path: str) -> int:
    C, H, W = steps.shape(value)
    window = module.window_on((H, W))
    weight = np.broadcast_to(centre_weights(window.kernel), (C, 1, *window.kernel))
    arguments = {**_window(window), "groups": C, "border": "zeros"}
    return steps.layer("conv", module, value, path, word="pool", arguments=arguments, arrays={"weight": weight})


def _adaptive(kind: str) -> Callable[[Operations, Any, int, str], int]:
    return lambda steps, module, value, path: steps.layer(kind, module, value, path, word="pool")


def _batch_norm(steps: Operations, module: Any, value: int, path: str) -> int:
    if module.running_mean is None:
        raise refused(path, "running statistics", "those of the batch, which one image has none of")
    scale = 1 / np.sqrt(numbers(module.running_var).astype(np.float64) + module.eps)
    shift = np.zeros(len(scale))
    if module.weight is not None:
        scale = scale * numbers(module.weight)
    if module.bias is not None:
        shift = numbers(module.bias)
    arrays = {"mean": numbers(module.running_mean), "scale": scale, "shift": shift}
    return steps.layer("norm", module, value, path, arrays=arrays)


def _activation(name: str) -> Callable[[Operations, Any, int, str], int]:
    def add(steps: Operations, module: Any, value: int, path: str) -> int:
        options = {key: float(option) if key != "approximate" else option for key, option in module.arguments().items()}
        arguments = {"function": name, **options}
        return steps.layer("activation", module, value, path, word=name, arguments=arguments)

    return add


def _softmax(kind: str) -> Callable[[Operations, Any, int, str], int]:
    def add(steps: Operations, module: Any, value: int, path: str) -> int:
        axes = len(steps.shape(value)) + 1
        if axes != 2 or module.dim % axes != 1:
            raise refused(path, "one axis, the classes", f"dim {module.dim} of {axes} axes")
        return steps.layer(kind, module, value, path)

    return add


def _identity(word: str) -> Callable[[Operations, Any, int, str], int]:
    return lambda steps, module, value, path: steps.layer("identity", module, value, path, word=word)


LAYERS: dict[type[nn.Module], Callable[[Operations, Any, int, str], int]] = {
    nn.Sequential: _in_sequence,
    nn.DepthwiseSeparableConv2d: _in_sequence,
    nn.Residual: _residual,
    nn.Parallel: _parallel,
    nn.Concat: _concat,
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.Flatten: _flatten,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.CentrePool2d: _centre_pool,
    nn.GlobalAvgPool2d: _adaptive("bins_mean"),
    nn.AdaptiveAvgPool2d: _adaptive("bins_mean"),
    nn.GlobalMaxPool2d: _adaptive("bins_max"),
    nn.AdaptiveMaxPool2d: _adaptive("bins_max"),
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.Softmax: _softmax("softmax"),
    nn.LogSoftmax: _softmax("log_softmax"),
    nn.Dropout: _identity("dropout"),
    nn.Dropout2d: _identity("dropout"),
    nn.Identity: _identity("identity"),
    nn.Hardtanh: _clip("min_val", "max_val"),
    nn.ReLU6: _clip(0.0, 6.0),
    **dict.fromkeys(
        (nn.BasicBlock, nn.Bottleneck, nn.InvertedResidual, nn.Fire, nn.DenseLayer), Operations.follow_body
    ),
    **{
        kind: _activation(kind.__name__.lower())
        for kind in (
            nn.ReLU, nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Hardsigmoid,
            nn.Affine, nn.Exponential,
        )
    },
}  # fmt: skip
"""What is done with each class of layers; a subclass that keeps ``forward`` is treated as its base class."""
