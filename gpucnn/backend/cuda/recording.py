"""What a captured step changes on the host's side, and the random draws that it makes on the device's.

A captured launch has its scalars baked in. What changes from step to step (learning rate, momentum, number of updates,
number of a random draw) is therefore read from the device: rates from arrays of the optimiser, which the host writes when
they change; counts from arrays that the step itself advances.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Literal

from gpucnn.backend.device import Array
from gpucnn.backend.random import Generator


class Draws:
    """The seed and the number of the next draw of one generator on one device: (2,) uint64, and what is known of them."""

    def __init__(self, state: Array) -> None:
        self.state = state
        self.known: tuple[int, int] | None = None


class Recording:
    """What one step does beside its launches."""

    def __init__(self) -> None:
        self.mode: Literal["watch", "record"] = "watch"
        self.optimizers: list[tuple[Any, Callable[[], None]]] = []
        """Each optimiser that stepped, and how to do the host's part of that step again."""
        self.generators: list[Generator] = []
        """The generator of each draw."""
        self.changed: list[Hashable] = []
        """The version of each Tensor that is changed in place."""

    def start(self, mode: Literal["watch", "record"]) -> None:
        """Begin to watch an ordinary step, or to record one."""
        self.optimizers, self.generators, self.changed = [], [], []
        self.mode = mode

    def note_step(self, optimizer: Any, again: Callable[[], None]) -> None:
        """Note that an optimiser steps; ``again`` is called before each replay."""
        self.optimizers.append((optimizer, again))

    def note_change(self, version: Hashable) -> None:
        """Note that a Tensor is changed in place."""
        self.changed.append(version)

    def note_draw(self, generator: Generator) -> None:
        """Note that a generator is drawn from."""
        self.generators.append(generator)

    def draws(self) -> list[tuple[Generator, int]]:
        """Return each generator that was drawn from, and how often."""
        counts = Counter(map(id, self.generators))
        return [(generator, counts[key]) for key, generator in {id(one): one for one in self.generators}.items()]
