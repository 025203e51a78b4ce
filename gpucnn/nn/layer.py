"""What a layer knows of itself: its arguments, the shape of its output, its cost and what its outputs see.

A layer keeps each argument of its constructor as an attribute of the same name. The names come from the signature, once
for each class, and serve printing, saving and rebuilding; so whoever adds a layer writes them once. The values are read
when they are asked for: a layer that is changed (``dropout.p = 0.1``) prints and is saved as it is.
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

NOT_SAVED = ("name", "device", "generator")
"""What a constructor takes beside the arguments that make one layer like another."""


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
    """Return the arguments of a layer's constructor that describe it; layers inside it are no arguments.

    >>> from gpucnn import nn
    >>> list(arguments_of(nn.Dropout))
    ['p']
    """
    return _arguments_of(cast(Any, kind))


class Layer(Module):
    """Base of layers: a Module that describes itself. Write ``forward``, and of the methods below those that differ.

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
    """Whether each element of the output belongs to the element of the input at its place: shape and field stay."""

    always_shown: ClassVar[tuple[str, ...]] = ()
    """Arguments that are printed even where they have their usual value."""

    layers_inside: ClassVar[tuple[str, ...]] = ()
    """Names of constructor arguments that are layers: they are saved as such."""

    made_of_layers: ClassVar[bool] = False
    """Whether the layers inside say all there is to say, so that the arguments which made them are not kept."""

    names_inside: ClassVar[tuple[tuple[str, ...], ...] | None] = ((),)
    """The names that the layers inside may have: none, or some sets of them; None for any."""

    def arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments that make another layer like this one."""
        return {name: self.argument(name) for name in arguments_of(type(self))}

    def argument(self, name: str) -> Any:
        """Return the value of a constructor's argument: the attribute of that name, where a layer keeps no other."""
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
        """Return the shape of the output for a batch of this shape; ShapeError where none fits.

        NotImplementedError where a layer cannot tell.
        """
        if self.elementwise:
            return shape
        raise NotImplementedError(f"{type(self).__name__} does not tell its output's shape")

    def multiply_adds(self, shape: Shape) -> int:
        """Return the multiplications with a weight for a batch of this shape, without biases."""
        return 0

    def column_elements(self, shape: Shape) -> int:
        """Return the elements of the matrix of columns that plain im2col would make for a batch of this shape."""
        return 0

    def receptive_field(self, field: Field) -> Field | None:
        """Return what the outputs see of the image, from what the inputs see; None where it cannot be told."""
        if self.elementwise:
            return field
        branches = self.branches()
        if not branches:
            return None
        return merged([field if layer is None else _field_after(layer, field) for layer in branches])

    def branches(self) -> list[Module | None]:
        """Return the layers on the same input whose outputs are joined, None for the input itself; as a rule none."""
        return []

    @classmethod
    def assembled(cls, children: Mapping[str, Module], arguments: dict[str, Any]) -> Self:
        """Return a layer of these arguments with these layers inside, whose names fit: for ``models.rebuild``."""
        return cls(**arguments)


def _field_after(layer: Module, field: Field) -> Field | None:
    return layer.receptive_field(field) if isinstance(layer, Layer) else None


def _is_usual(value: Any, default: Any) -> bool:
    """Whether ``value`` is the default, or the pair that an int becomes."""
    pair_of_it = isinstance(value, tuple) and isinstance(default, int) and set(value) == {default}
    return pair_of_it or (type(value) is type(default) and bool(value == default))


def images_of(where: str, shape: Shape, dimensions: int) -> tuple[Shape, Pair]:
    """Return the axes before the pixels of a batch of sequences or images, and its (H, W); ShapeError for other shapes."""
    if len(shape) not in (dimensions + 1, dimensions + 2):
        words = "(N, C, L) or (C, L)" if dimensions == 1 else "(N, C, H, W) or (C, H, W)"
        raise ShapeError.expected(where, "input", words, f"shape {shape}")
    size = shape[-dimensions:]
    return shape[:-dimensions], (size[0], size[1]) if dimensions == 2 else (1, size[0])


_made: ContextVar[list[int] | None] = ContextVar("gpucnn_parameters_made", default=None)
"""How many parameters layers have made, and how many they may."""


@contextmanager
def at_most_parameters(count: int) -> Iterator[None]:
    """Within, layers make so many parameters in all; ParameterError, before any memory is taken, for more.

    Where bounds on files are lifted (``gpucnn.limits``), this one is too.
    """
    token = _made.set([0, count])
    try:
        yield
    finally:
        _made.reset(token)


def new_parameter(shape: Shape, device: str | Backend | None, dtype: Any) -> Parameter:
    """Return zeros as a parameter of a layer; DTypeError for a dtype that none can have."""
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
    """A layer with a weight (out, in, *kernel) and an optional bias (out,), both drawn from U(-b, b), b = 1 / sqrt(fan_in).

    That is PyTorch's default (LeCun et al. 1998, "Efficient backprop"; He et al. 2015 with a = sqrt(5)).
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
        """Return the shape of the bias, once the weight is there."""
        assert self.weight is not None
        return self.weight.shape[:1]

    def materialise(self, in_size: int) -> None:
        self.weight = new_parameter(self.weight_shape(in_size), self._device, self._dtype)
        fan_in, _ = init.fans(self.weight)
        bound = 1 / math.sqrt(fan_in)
        init.uniform_(self.weight, -bound, bound)
        if self._wants_bias:
            self.bias = new_parameter(self.bias_shape(), self._device, self._dtype)
            init.uniform_(self.bias, -bound, bound)

    def waits_for_input(self) -> bool:
        return self.weight is None

    def in_size_of(self, x: Tensor) -> int:
        """Return the input size that fits ``x``; ShapeError or DTypeError where none does."""
        raise NotImplementedError

    def ready_for(self, x: Tensor) -> Parameter:
        """Return the weight, made now for input like ``x`` if it was waiting."""
        if self.weight is None:
            in_size = self.in_size_of(x)
            self._device, self._dtype = x.backend, self._dtype or x.dtype
            self.materialise(in_size)
        assert self.weight is not None
        return self.weight


def dtype_of(layer: Module, asked: Any) -> str:
    """Return the name of the dtype of a layer's numbers, or of the one asked for where there are none yet."""
    tensors = (*layer._parameters.values(), *layer._buffers.values())
    found = next((tensor.dtype for tensor in tensors if tensor.dtype.kind == "f"), None)
    return str(found or get_backend("cpu").dtype("float32" if asked is None else asked))
