"""Networks made of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpucnn.checks import is_integer, shown
from gpucnn.errors import ParameterError, kind_of
from gpucnn.nn.fusion import fuse
from gpucnn.nn.module import Module


class Sequential(Module):
    """Layers one after the other. A layer's ``name``, or else its place, is its name in the state dictionary.

    Takes the layers themselves, a list of them, or a dict that names them. ``net[-1] = layer`` replaces one under its name.

    >>> from gpucnn import nn
    >>> [name for name, _ in Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, name="out")).named_parameters()]
    ['0.weight', '0.bias', 'out.weight', 'out.bias']
    """

    def __init__(self, *layers: Module | Mapping[str, Module] | Sequence[Module], name: str | None = None) -> None:
        super().__init__(name)
        only = layers[0] if len(layers) == 1 else None
        if isinstance(only, Mapping):
            for key, layer in only.items():
                self.add_new(key, layer)
        else:
            for item in only if isinstance(only, (list, tuple)) else layers:
                self.append(item)

    def append(self, layer: Any) -> None:
        """Add ``layer`` at the end; ParameterError unless it is a Module with an unused name."""
        self.add_new(getattr(layer, "name", None) or str(len(self._modules)), layer)

    def forward(self, x: Any) -> Any:
        layers, place = list(self._modules.values()), 0
        while place < len(layers):
            operation, count = fuse(layers, place) or (layers[place], 1)
            x = operation(x)
            place += count
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
        """Return the name of the layer at a place, counted from the end below 0, or of this name."""
        names = list(self._modules)
        if isinstance(index, str) and index in self._modules:
            return index
        if is_integer(index) and -len(names) <= int(index) < len(names):
            return names[int(index)]
        # What Python's own protocols look for: a loop over places ends with it, ``net["x"]`` is a missing key.
        words = f"Sequential: expected one of {len(names)} layers, got {shown(index)}."
        raise KeyError(words) if isinstance(index, str) else IndexError(words)
