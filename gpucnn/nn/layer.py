"""Layer, a module that describes itself: its arguments, output shape, cost and receptive field.

A layer keeps each argument of its constructor as an attribute of the same name. The names are read once per class from the
signature, for printing, saving and rebuilding, so the author of a layer writes them once. The values are read at the time of
use: a layer that is changed (``dropout.p = 0.1``) prints and is saved with its new values.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, ClassVar, Self, cast

from gpucnn import limits
from gpucnn.autograd import Parameter, Tensor
from gpucnn.backend import Backend, get_backend, ops
from gpucnn.backend.geometry import Pair
from gpucnn.checks import check_flag, shown
from gpucnn.errors import DTypeError, ParameterError, ShapeError
from gpucnn.nn import init
from gpucnn.nn.module import Module
from gpucnn.nn.receptive_field import Field, merged

Shape = tuple[int, ...]

NOT_SAVED = ("name", "device", "generator", "inplace")
"""Constructor arguments that are not part of a layer's description."""


@cache
def _arguments_of(kind: Any) -> dict[str, inspect.Parameter]:
    if kind.made_of_layers:
        return {}
    parameters = inspect.signature(kind).parameters
    fixed = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    return {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in fixed and name not in NOT_SAVED and name not in kind.layers_inside
    }


def arguments_of(kind: type[Layer]) -> dict[str, inspect.Parameter]:
    """Return the constructor's arguments that describe a layer, without layers inside it.

    >>> from gpucnn import nn
    >>> list(arguments_of(nn.Dropout))
    ['p']
    """
    return _arguments_of(cast(Any, kind))


class Layer(Module):
    """Base class of layers: a Module that describes itself. Override ``forward``, and the methods below where they differ.

    >>> import gpucnn
    >>> class Shift(Layer):
    ...     elementwise = True
    ...     def __init__(self, by: float = 1.0, *, name: str | None = None) -> None:
    ...         super().__init__(name)
    ...         self.by = by
    ...     def forward(self, x):
    ...         return x + self.by
    >>> Shift(2.0), Shift(2.0).arguments(), Shift().output_shape((1, 3))
    (Shift(by=2.0), {'by': 2.0}, (1, 3))
    """

    elementwise: ClassVar[bool] = False
    """Whether output element i depends on input element i only, so that shape and receptive field are unchanged."""

    always_shown: ClassVar[tuple[str, ...]] = ()
    """Arguments that are printed even if they have their default value."""

    layers_inside: ClassVar[tuple[str, ...]] = ()
    """Names of constructor arguments that are layers. They are saved as layers."""

    made_of_layers: ClassVar[bool] = False
    """Whether the layers inside describe the layer completely, so that its arguments are not kept."""

    names_inside: ClassVar[tuple[tuple[str, ...], ...] | None] = ((),)
    """The allowed sets of names of the layers inside; by default no layers. None allows any names."""

    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments that make an equal layer."""
        return {name: self.argument(name) for name in arguments_of(type(self))}

    def argument(self, name: str) -> Any:
        """Return the value of a constructor's argument: by default, the attribute of that name."""
        return getattr(self, name)

    def extra_repr(self) -> str:
        words = []
        for name, parameter in arguments_of(type(self)).items():
            value = self.argument(name)
            if parameter.default is parameter.empty and name != "kernel_size":
                words.append(repr(value))
            elif name != "dtype" and (name in self.always_shown or not _is_usual(value, parameter.default)):
                words.append(f"{name}={value!r}")
        return ", ".join(words)

    def output_shape(self, shape: Shape) -> Shape:
        """Return the output shape for a batch of this shape; ShapeError if the layer does not accept it.

        NotImplementedError if the layer does not know its output shape.
        """
        if self.elementwise:
            return shape
        raise NotImplementedError(f"{type(self).__name__} does not know its output shape")

    def multiply_adds(self, shape: Shape) -> int:
        """Return the number of multiply-adds for a batch of this shape, without biases."""
        return 0

    def column_elements(self, shape: Shape) -> int:
        """Return the number of elements of the im2col matrix for a batch of this shape."""
        return 0

    def receptive_field(self, field: Field) -> Field | None:
        """Return the receptive field of the outputs, given that of the inputs; None if it is unknown."""
        if self.elementwise:
            return field
        branches = self.branches()
        if not branches:
            return None
        return merged([field if layer is None else _field_after(layer, field) for layer in branches])

    def branches(self) -> list[Module | None]:
        """Return the layers that run in parallel on the input, None standing for the input itself; by default none."""
        return []

    @classmethod
    def assembled(cls, children: Mapping[str, Module], arguments: dict[str, Any]) -> Self:
        """Return a layer with these arguments and these layers inside. ``models.rebuild`` has checked their names."""
        return cls(**arguments)


def _field_after(layer: Module, field: Field) -> Field | None:
    return layer.receptive_field(field) if isinstance(layer, Layer) else None


def _is_usual(value: Any, default: Any) -> bool:
    """Whether ``value`` is the default, or the pair that a default int becomes."""
    pair_of_it = isinstance(value, tuple) and isinstance(default, int) and set(value) == {default}
    return pair_of_it or (type(value) is type(default) and bool(value == default))


def images_of(where: str, shape: Shape, dimensions: int) -> tuple[Shape, Pair]:
    """Return the leading axes and the (H, W) of a batch of sequences or images; ShapeError for others."""
    if len(shape) not in (dimensions + 1, dimensions + 2):
        words = "(N, C, L) or (C, L)" if dimensions == 1 else "(N, C, H, W) or (C, H, W)"
        raise ShapeError.expected(where, "input", words, f"shape {shape}")
    size = shape[-dimensions:]
    return shape[:-dimensions], (size[0], size[1]) if dimensions == 2 else (1, size[0])


_made: ContextVar[list[int] | None] = ContextVar("gpucnn_parameters_made", default=None)
"""The number of parameters that layers have made, and the most that they may make."""


@contextmanager
def at_most_parameters(count: int) -> Iterator[None]:
    """Limit the number of parameters made in the block; ParameterError, before memory is allocated, for more.

    If the bounds on files are lifted (``gpucnn.limits``), so is this one.
    """
    token = _made.set([0, count])
    try:
        yield
    finally:
        _made.reset(token)


def new_parameter(shape: Shape, device: str | Backend | None, dtype: Any) -> Parameter:
    """Return a parameter of zeros; DTypeError unless the dtype is a floating one."""
    made = _made.get()
    if made is not None:
        made[0] += math.prod(shape)
        limits.check("layer", "parameters in all, those of the file", made[0], made[1], ParameterError)
    backend = get_backend(device)
    try:
        zeros = ops.zeros(backend, shape, "float32" if dtype is None else dtype)
    except (TypeError, ValueError):
        raise DTypeError.expected("layer", "dtype", "a floating dtype", shown(dtype)) from None
    return Parameter(Tensor(zeros, backend))


class Weighted(Layer):
    """A layer with a weight (out, in, *kernel) and an optional bias (out,), initialised from U(-b, b), b = 1 / sqrt(fan_in).

    This is PyTorch's default (LeCun et al. 1998, "Efficient backprop"; He et al. 2015 with a = sqrt(5)).
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(self, bias: bool, device: str | Backend | None, dtype: Any, name: str | None) -> None:
        super().__init__(name)
        self._wants_bias = check_flag(bias, type(self).__name__, "bias")
        self._device, self._dtype = device, dtype
        self.weight = self.bias = None

    def argument(self, name: str) -> Any:
        if name == "bias":
            return self._wants_bias
        return dtype_of(self, self._dtype) if name == "dtype" else super().argument(name)

    def weight_shape(self, in_size: int) -> tuple[int, ...]:
        raise NotImplementedError

    def bias_shape(self) -> tuple[int, ...]:
        """Return the shape of the bias, once the weight exists."""
        assert self.weight is not None
        return self.weight.shape[:1]

    def fan_in(self) -> int:
        """Return the number of inputs of one output, once the weight exists."""
        assert self.weight is not None
        return init.fans(self.weight)[0]

    def materialise(self, in_size: int) -> None:
        self.weight = new_parameter(self.weight_shape(in_size), self._device, self._dtype)
        bound = 1 / math.sqrt(self.fan_in())
        init.uniform_(self.weight, -bound, bound)
        if self._wants_bias:
            self.bias = new_parameter(self.bias_shape(), self._device, self._dtype)
            init.uniform_(self.bias, -bound, bound)

    def waits_for_input(self) -> bool:
        return self.weight is None

    def in_size_of(self, x: Tensor) -> int:
        """Return the input size for ``x``; ShapeError or DTypeError if the layer cannot accept it."""
        raise NotImplementedError

    def ready_for(self, x: Tensor) -> Parameter:
        """Return the weight. If it does not exist yet, make it for inputs like ``x``."""
        if self.weight is None:
            in_size = self.in_size_of(x)
            self._device, self._dtype = x.backend, self._dtype or x.dtype
            self.materialise(in_size)
        assert self.weight is not None
        return self.weight


def dtype_of(layer: Module, asked: Any) -> str:
    """Return the name of the dtype of a layer's parameters, or the requested one if there are none yet."""
    tensors = (*layer._parameters.values(), *layer._buffers.values())
    found = next((tensor.dtype for tensor in tensors if tensor.dtype.kind == "f"), None)
    return str(found or get_backend("cpu").dtype("float32" if asked is None else asked))
