"""Networks made of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpucnn.nn.fusion import fuse
from gpucnn.nn.module import Module


class Sequential(Module):
    """Layers one after the other. A layer's ``name``, or else its place, is its name in the state dictionary.

    >>> from gpucnn import nn
    >>> [name for name, _ in Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, name="out")).named_parameters()]
    ['0.weight', '0.bias', 'out.weight', 'out.bias']
    """

    def __init__(self, *layers: Module | Mapping[str, Module], name: str | None = None) -> None:
        super().__init__(name)
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            for key, layer in layers[0].items():
                self.add_new(key, layer)
        else:
            for item in layers:
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
        if isinstance(index, str):
            return self._modules[index]
        if isinstance(index, slice):
            return Sequential(dict(list(self._modules.items())[index]))
        return list(self._modules.values())[index]
