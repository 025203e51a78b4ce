"""Containers whose inner layers all see the same input, and a layer from a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gpucnn.autograd import Tensor, concatenate
from gpucnn.checks import check_int
from gpucnn.errors import ParameterError, ShapeError
from gpucnn.nn.module import Module


class Branches(Module):
    """Base: layers side by side, named "0", "1", ... or by their own names."""

    def __init__(self, *layers: Module, name: str | None = None) -> None:
        super().__init__(name)
        if not layers:
            raise ParameterError.expected(type(self).__name__, "layers", "at least one", "none")
        for number, layer in enumerate(layers):
            self.add_new(getattr(layer, "name", None) or str(number), layer)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())


class Parallel(Branches):
    """The sum of what the layers make of one input.

    >>> import gpucnn
    >>> from gpucnn import nn
    >>> nn.Parallel(nn.Identity(), nn.Identity())(gpucnn.tensor([1.0])).tolist()
    [2.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor | None = None
        for layer in self:
            y = layer(x)
            total = y if total is None else total + y
        assert total is not None
        return total


class Concat(Branches):
    """What the layers make of one input, one after the other along ``axis`` (the channels).

    >>> import gpucnn
    >>> from gpucnn import nn
    >>> nn.Concat(nn.Identity(), nn.Identity())(gpucnn.tensor([[1.0]])).tolist()
    [[1.0, 1.0]]
    """

    def __init__(self, *layers: Module, axis: int = 1, name: str | None = None) -> None:
        super().__init__(*layers, name=name)
        self.axis = check_int(axis, "Concat", "axis")

    def forward(self, x: Tensor) -> Tensor:
        return concatenate([layer(x) for layer in self], self.axis)


class Residual(Module):
    """block(x) + shortcut(x); the shortcut is the identity by default. Source: He et al. 2016.

    >>> import gpucnn
    >>> from gpucnn import nn
    >>> nn.Residual(nn.ReLU())(gpucnn.tensor([-1.0, 2.0])).tolist()
    [-1.0, 4.0]
    """

    block: Module

    def __init__(self, block: Module, shortcut: Module | None = None, *, name: str | None = None) -> None:
        super().__init__(name)
        self.add_new("block", block)
        self.shortcut: Module | None = None
        if shortcut is not None:
            self.add_module("shortcut", shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        skipped: Tensor = x if self.shortcut is None else self.shortcut(x)
        if y.shape != skipped.shape:
            raise ShapeError.expected("Residual", "block", f"the shortcut's shape {skipped.shape}", y.shape)
        return y + skipped


class Lambda(Module):
    """A function as a layer. It is not saved with a network's structure.

    >>> import gpucnn
    >>> Lambda(lambda x: x * 2)(gpucnn.tensor([1.0])).tolist()
    [2.0]
    """

    def __init__(self, function: Callable[..., Any], *, name: str | None = None) -> None:
        super().__init__(name)
        if not callable(function):
            raise ParameterError.expected("Lambda", "function", "something to call", type(function).__name__)
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)
