"""Capture state: the host's part of a captured step, and the counters of its random draws on the device.

The scalar arguments of a captured launch are fixed. Values that change from step to step are therefore read from the
device: rates (learning rate, momentum) from arrays of the optimiser, which the host writes when they change; counters
(updates, random draws) from arrays that the step itself increments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Literal

from gpucnn.backend.device import Array
from gpucnn.backend.random import Generator


class Draws:
    """A generator's seed and draw counter on one device, (2,) uint64, and the values that the host knows to be there."""

    def __init__(self, state: Array) -> None:
        self.state = state
        self.known: tuple[int, int] | None = None


class CaptureState:
    """The host's part of one step: optimiser steps, random draws and in-place changes."""

    def __init__(self) -> None:
        self.mode: Literal["observe", "capture"] = "observe"
        self.optimizers: list[tuple[Any, Callable[[], None]]] = []
        """Each optimiser that stepped, and the function that repeats the host's part of the step."""
        self.generators: list[Generator] = []
        """The generator of each draw."""
        self.changed: list[Hashable] = []
        """The version of each Tensor that was changed in place."""

    def start(self, mode: Literal["observe", "capture"]) -> None:
        """Start to observe an eager step, or to capture one."""
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
        """Return each generator that was drawn from, with the number of draws."""
        counts = Counter(map(id, self.generators))
        return [(generator, counts[key]) for key, generator in {id(one): one for one in self.generators}.items()]
