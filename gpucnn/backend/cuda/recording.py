"""What the host must do for a step whose launches were recorded once and are replayed: numbers that change each time.

A recorded launch has its scalars baked in. What changes from step to step (learning rate, momentum, bias correction, the
number of a random draw) is therefore read from the device, from slots that the host fills before each replay.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Literal

from gpucnn.backend.device import Array
from gpucnn.backend.random import Generator
from gpucnn.errors import CaptureError

SLOTS = 64
"""Draws, and updates of optimisers, that one step may have."""
NUMBERS = 5
"""Numbers of one update that may change from step to step: rate, momentum, bias correction."""


class Recording:
    """The slots of one step, and who fills them. ``numbers`` (SLOTS, NUMBERS) float32 and ``draws`` (SLOTS, 2) uint64.

    They are memory of their own: a temporary of the recorded step may take any of the step's memory before it is read.
    """

    def __init__(self, numbers: Array, draws: Array) -> None:
        self.mode: Literal["watch", "record", "replay"] = "watch"
        self.optimizers: list[tuple[Any, Callable[[], None]]] = []
        """Each optimiser that stepped, and how to do the host's part of that step again."""
        self.generators: list[Generator] = []
        self.changed: list[Hashable] = []
        """The version of each Tensor that is changed in place."""
        self.updates = 0
        self._numbers, self._draws, self._filled = numbers, draws, 0

    def start(self, mode: Literal["watch", "record", "replay"]) -> None:
        """Begin to watch an ordinary step, to record one, or to fill the slots for a replay."""
        if mode != "replay":
            self.optimizers, self.generators, self.changed, self.updates = [], [], [], 0
        self.mode, self._filled = mode, 0

    def note_step(self, optimizer: Any, again: Callable[[], None]) -> None:
        """Note that an optimiser steps; ``again`` is called before each replay, and may only fill slots."""
        if self.mode != "replay":
            self.optimizers.append((optimizer, again))

    def note_change(self, version: Hashable) -> None:
        """Note that a Tensor is changed in place."""
        self.changed.append(version)

    def note_update(self) -> None:
        """Note that an optimiser asks for one update of one stretch."""
        self.updates += 1

    def next_numbers(self) -> Array:
        """Return the slot of the next update."""
        return self._next(self._numbers)

    def next_draw(self, generator: Generator) -> Array:
        """Return the slot of the next draw, which is one of ``generator``."""
        self.generators.append(generator)
        if len(self.generators) > SLOTS:
            raise CaptureError(f"capture: more than {SLOTS} random draws in one step.")
        return self._draws[len(self.generators) - 1]

    def draws(self) -> list[tuple[Generator, Array]]:
        """Return each generator with its slot, in the order of the draws."""
        return [(generator, self._draws[i]) for i, generator in enumerate(self.generators)]

    def _next(self, slots: Array) -> Array:
        if self._filled >= SLOTS:
            raise CaptureError(f"capture: more than {SLOTS} updates of optimisers in one step.")
        self._filled += 1
        return slots[self._filled - 1]

    def check(self) -> None:
        """CaptureError where an update did not read its numbers from a slot: replayed, it would repeat the old ones."""
        if self.updates != self._filled:
            names = ", ".join(sorted({type(optimizer).__name__ for optimizer, _ in self.optimizers}))
            raise CaptureError(f"capture: the update of {names} is not made for it (float32 SGD, Adam and AdamW are).")
