"""The table of operations: how each operation of the tape is written in operators of ONNX.

    @emits("gpucnn.functional.activation._relu")
    def relu(w: Writer, step: Step, x: str) -> str: ...

A function gets the names of the step's inputs, None for an absent one, and returns the name of its result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., str])

EMITTERS: dict[str, Callable[..., str]] = {}


def emits(*names: str) -> Callable[[F], F]:
    """Return a decorator that adds a function to the table, under the names of operations with their modules."""

    def add(function: F) -> F:
        EMITTERS.update(dict.fromkeys(names, function))
        return function

    return add
