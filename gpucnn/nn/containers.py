"""Containers: layers in sequence, or in parallel on the same input; and a layer made from a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, TypeVar

from gpucnn import functional as F
from gpucnn.autograd import Tensor, concatenate, on_device_of
from gpucnn.checks import check_int, is_integer, shown
from gpucnn.errors import ParameterError, ShapeError, kind_of
from gpucnn.nn.activation import ReLU
from gpucnn.nn.fusion import add_pattern, fuse
from gpucnn.nn.layer import Layer, Shape
from gpucnn.nn.module import Module
from gpucnn.nn.norm import BatchNorm2d
from gpucnn.nn.receptive_field import Field

L = TypeVar("L", bound=Layer)


class Composite(Layer):
    """Base class of layers made of layers. It combines their shapes, costs and receptive fields, by default in sequence."""

    def extra_repr(self) -> str:
        return ""

    def output_shape(self, shape: Shape) -> Shape:
        for layer in self.children():
            shape = as_layer(layer).output_shape(shape)
        return shape

    def multiply_adds(self, shape: Shape) -> int:
        total = 0
        for layer in self.children():
            known = as_layer(layer)
            total, shape = total + known.multiply_adds(shape), known.output_shape(shape)
        return total

    def receptive_field(self, field: Field) -> Field | None:
        if self.branches():
            return super().receptive_field(field)
        seen: Field | None = field
        for layer in self.children():
            seen = None if seen is None else as_layer(layer).receptive_field(seen)
        return seen


def as_layer(module: Module) -> Layer:
    """Return ``module``; NotImplementedError unless it is a ``Layer``, which knows its output shape."""
    if not isinstance(module, Layer):
        raise NotImplementedError(f"{type(module).__name__} is not an nn.Layer and does not know its output shape")
    return module


def made_of(kind: type[L], children: Mapping[str, Module], arguments: dict[str, Any]) -> L:
    """Return a layer of this class with the given layers inside, instead of those that its constructor makes."""
    layer = object.__new__(kind)
    Module.__init__(layer, **arguments)
    for name, child in children.items():
        layer.add_module(name, child)
    return layer


class SideBySide(Composite):
    """Base class of layers whose inner layers all receive the same input."""

    def multiply_adds(self, shape: Shape) -> int:
        return sum(as_layer(layer).multiply_adds(shape) for layer in self.children())

    def _shapes(self, shape: Shape) -> list[Shape]:
        return [shape if layer is None else as_layer(layer).output_shape(shape) for layer in self.branches()]


class Sequential(Composite):
    """Layers in sequence. In the state dictionary a layer has its ``name`` or, without one, its index.

    Takes layers, a list of layers, or a dict from names to layers. ``net[-1] = layer`` replaces a layer and keeps its name.

    >>> from gpucnn import nn
    >>> [name for name, _ in Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, name="out")).named_parameters()]
    ['0.weight', '0.bias', 'out.weight', 'out.bias']
    """

    names_inside: ClassVar[tuple[tuple[str, ...], ...] | None] = None

    def __init__(self, *layers: Module | Mapping[str, Module] | Sequence[Module], name: str | None = None) -> None:
        super().__init__(name)
        only = layers[0] if len(layers) == 1 else None
        if isinstance(only, Mapping):
            for key, layer in only.items():
                self.add_new(key, layer)
        else:
            for item in only if isinstance(only, (list, tuple)) else layers:
                self.append(item)

    @classmethod
    def assembled(cls, children: Mapping[str, Module], arguments: dict[str, Any]) -> Self:
        return cls(dict(children), **arguments)

    def append(self, layer: Any) -> Self:
        """Add ``layer`` at the end and return self; ParameterError unless it is a Module with an unused name."""
        self.add_new(getattr(layer, "name", None) or str(len(self._modules)), layer)
        return self

    def forward(self, x: Any) -> Any:
        return self.run(x, list(self._modules.values()))

    @staticmethod
    def run(x: Any, layers: Sequence[Module]) -> Any:
        """Return the output of layers in sequence for ``x``; neighbours that match a pattern run as one operation."""
        index = 0
        with on_device_of(x):
            while index < len(layers):
                operation, count = fuse(layers, index) or (layers[index], 1)
                x = operation(x)
                index += count
        return x

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | slice | str) -> Module:
        if isinstance(index, slice):
            return Sequential(dict(list(self._modules.items())[index]))
        return self._modules[self._name_at(index)]

    def __setitem__(self, index: int | str, layer: Module) -> None:
        if not isinstance(layer, Module):
            raise ParameterError.expected("Sequential", f"layer {index}", "a Module", kind_of(layer))
        self.add_module(self._name_at(index), layer)

    def _name_at(self, index: int | str) -> str:
        """Return the name of the layer with this index, negative from the end, or with this name."""
        names = list(self._modules)
        if isinstance(index, str) and index in self._modules:
            return index
        if is_integer(index) and -len(names) <= int(index) < len(names):
            return names[int(index)]
        # Python's protocols need these: a loop over indices ends with IndexError; ``net["x"]`` is a missing key.
        words = f"Sequential: expected one of {len(names)} layers, got {shown(index)}."
        raise KeyError(words) if isinstance(index, str) else IndexError(words)


class Branches(SideBySide):
    """Base class of parallel layers, named "0", "1", ... or by their own names."""

    names_inside: ClassVar[tuple[tuple[str, ...], ...] | None] = None

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

    def branches(self) -> list[Module | None]:
        return list(self.children())

    @classmethod
    def assembled(cls, children: Mapping[str, Module], arguments: dict[str, Any]) -> Self:
        layer = cls(*children.values(), **arguments)
        if tuple(layer._modules) != tuple(children):
            words = "the layers' own names, or their indices"
            raise ParameterError.expected(cls.__name__, "children", words, shown(tuple(children)))
        return layer


class Parallel(Branches):
    """The sum of the layers' outputs for one input.

    >>> import gpucnn
    >>> from gpucnn import nn
    >>> nn.Parallel(nn.Identity(), nn.Identity())(gpucnn.tensor([1.0])).tolist()
    [2.0]
    """

    def output_shape(self, shape: Shape) -> Shape:
        return self._shapes(shape)[0]

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor | None = None
        for layer in self:
            y = layer(x)
            total = y if total is None else total + y
        assert total is not None
        return total


class Concat(Branches):
    """The layers' outputs for one input, concatenated along ``axis`` (by default the channels).

    >>> import gpucnn
    >>> from gpucnn import nn
    >>> nn.Concat(nn.Identity(), nn.Identity())(gpucnn.tensor([[1.0]])).tolist()
    [[1.0, 1.0]]
    """

    def __init__(self, *layers: Module, axis: int = 1, name: str | None = None) -> None:
        super().__init__(*layers, name=name)
        self.axis = check_int(axis, "Concat", "axis")

    def output_shape(self, shape: Shape) -> Shape:
        shapes, axis = self._shapes(shape), self.axis % len(shape)
        return *shapes[0][:axis], sum(one[axis] for one in shapes), *shapes[0][axis + 1 :]

    def forward(self, x: Tensor) -> Tensor:
        return concatenate([layer(x) for layer in self], self.axis)


class Residual(SideBySide):
    """block(x) + shortcut(x); the shortcut is the identity by default. Source: He et al. 2016.

    >>> import gpucnn
    >>> from gpucnn import nn
    >>> nn.Residual(nn.ReLU())(gpucnn.tensor([-1.0, 2.0])).tolist()
    [-1.0, 4.0]
    """

    layers_inside = ("block", "shortcut")
    names_inside = (("block",), ("block", "shortcut"))
    block: Module

    def __init__(self, block: Module, shortcut: Module | None = None, *, name: str | None = None) -> None:
        super().__init__(name)
        self.add_new("block", block)
        self.shortcut: Module | None = None
        if shortcut is not None:
            self.add_module("shortcut", shortcut)

    def branches(self) -> list[Module | None]:
        return [self.block, self.shortcut]

    def output_shape(self, shape: Shape) -> Shape:
        return self._shapes(shape)[0]

    @classmethod
    def assembled(cls, children: Mapping[str, Module], arguments: dict[str, Any]) -> Self:
        return cls(children["block"], children.get("shortcut"), **arguments)

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """Return the output or, with ``relu``, its ReLU. A batch norm at the end of the block adds the shortcut itself."""
        norm = self._last_norm()
        y: Tensor = self.block(x) if norm is None else Sequential.run(x, list(self.block.children())[:-1])
        skipped: Tensor = x if self.shortcut is None else self.shortcut(x)
        if y.shape != skipped.shape:
            raise ShapeError.expected("Residual", "block", f"the shortcut's shape {skipped.shape}", y.shape)
        if norm is not None:
            together: Tensor = norm(y, skipped, relu)
            return together
        return F.relu(y + skipped) if relu else y + skipped

    def _last_norm(self) -> BatchNorm2d | None:
        """Return the batch norm at the end of the block; None if there is none, or if hooks watch it."""
        if type(self.block) is not Sequential or self.block.has_hooks() or len(self.block) < 2:
            return None
        last = self.block[-1]
        return last if type(last) is BatchNorm2d and not last.has_hooks() else None


def _residual_relu(layers: Sequence[Module]) -> Callable[[Tensor], Tensor] | None:
    residual = layers[0]
    assert isinstance(residual, Residual)
    return lambda x: residual(x, relu=True)


add_pattern((Residual, ReLU), _residual_relu)


class Lambda(Module):
    """A function as a layer. The structure of a network with it cannot be saved.

    >>> import gpucnn
    >>> Lambda(lambda x: x * 2)(gpucnn.tensor([1.0])).tolist()
    [2.0]
    """

    def __init__(self, function: Callable[..., Any], *, name: str | None = None) -> None:
        super().__init__(name)
        if not callable(function):
            raise ParameterError.expected("Lambda", "function", "a callable", type(function).__name__)
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


class ModuleList(Module):
    """Modules in a list, which registers them: ``layers[0]``, loops, ``append``. It has no forward of its own.

    >>> from gpucnn import nn
    >>> layers = ModuleList([nn.Linear(2, 3), nn.Linear(3, 1)])
    >>> layers.append(nn.Linear(1, 1))[-1], len(layers), [name for name, _ in layers.named_parameters()][:2]
    (Linear(1, 1), 3, ['0.weight', '0.bias'])
    """

    def __init__(self, modules: Iterable[Module] = (), *, name: str | None = None) -> None:
        super().__init__(name)
        self.extend(modules)

    def append(self, module: Module) -> Self:
        """Add a module at the end; return self."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end; return self."""
        if not isinstance(modules, Iterable):
            raise ParameterError.expected("ModuleList", "modules", "a list of Modules", kind_of(modules))
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> None:
        """Put a module before the one with this index."""
        modules = list(self)
        modules.insert(index, module)
        for place, one in enumerate(modules):
            self.add_module(str(place), one)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | slice) -> Any:
        modules = list(self)
        return ModuleList(modules[index]) if isinstance(index, slice) else modules[index]

    def __setitem__(self, index: int, module: Module) -> None:
        self.add_module(str(range(len(self))[index]), module)


class ModuleDict(Module):
    """Modules by name, in a dict that registers them. It has no forward of its own.

    >>> from gpucnn import nn
    >>> layers = ModuleDict({"first": nn.Linear(2, 3)})
    >>> layers["second"] = nn.ReLU()
    >>> list(layers), "first" in layers
    (['first', 'second'], True)
    """

    def __init__(self, modules: Mapping[str, Module] | None = None, *, name: str | None = None) -> None:
        super().__init__(name)
        self.update(modules or {})

    def update(self, modules: Mapping[str, Module]) -> None:
        """Add modules, or put others in their places."""
        if not isinstance(modules, Mapping):
            raise ParameterError.expected("ModuleDict", "modules", "a dict of Modules", kind_of(modules))
        for key, module in modules.items():
            self[key] = module

    def keys(self) -> Iterable[str]:
        """Return the names."""
        return self._modules.keys()

    def values(self) -> Iterable[Module]:
        """Return the modules."""
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Return the pairs of name and module."""
        return self._modules.items()

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def __getitem__(self, key: str) -> Module:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        if key in self._modules:
            self.add_module(key, module)
        else:
            self.add_new(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]  # KeyError for a name that is not there
        object.__delattr__(self, key)
