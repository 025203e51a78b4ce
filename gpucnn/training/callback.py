"""What a ``Loop`` calls as it goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class Callback:
    """Base class of callbacks, which a ``Loop`` calls in the order given; its methods do nothing.

    They may read everything of the loop (``net``, ``optimizer``, ``epoch``, ``step``, ``history``) and call ``loop.stop()``.
    An exception ends the training; ``finish`` of every callback is still called.
    """

    def resume(self, loop: Any) -> None:
        """Called before ``start`` of all callbacks: restore the loop's saved state, if this callback has one."""

    def start(self, loop: Any) -> None:
        """Training starts or resumes."""

    def step(self, loop: Any, images: int) -> None:
        """A step on this many images has finished."""

    def log(self, loop: Any, values: dict[str, Any]) -> None:
        """The loss was read, as it is every 100 steps, and five times an epoch of 50 to 500 steps.

        values: step, epoch, progress (epochs done, with the part of this one), loss (of the last batch), lr, and the
        metrics of the epoch so far, as running_loss and running_accuracy.
        """

    def epoch(self, loop: Any, values: dict[str, Any]) -> object:
        """An epoch has finished with these values, the last of ``loop.history``; return True to stop training."""

    def finish(self, loop: Any) -> None:
        """Training stopped, for whatever reason."""

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state of this callback for a checkpoint, as JSON values; None for no state."""
        return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""

    def arrays(self) -> dict[str, Any]:
        """Return the host arrays that belong to the state of this callback, by name."""
        return {}

    def load_arrays(self, arrays: dict[str, Any]) -> None:
        """Restore what ``arrays`` returned; called even where there are none."""


@contextmanager
def telling(callbacks: Sequence[Callback], loop: Any) -> Iterator[None]:
    """Call ``resume`` and ``start`` of all callbacks, and ``finish`` of each in the end, even if another raises."""
    try:
        for callback in callbacks:
            callback.resume(loop)
        for callback in callbacks:
            callback.start(loop)
        yield
    finally:
        _finish(callbacks, loop)


def _finish(callbacks: Sequence[Callback], loop: Any) -> None:
    if callbacks:
        try:
            callbacks[0].finish(loop)
        finally:
            _finish(callbacks[1:], loop)


def arrays_of(callbacks: Sequence[Callback]) -> dict[str, Any]:
    """Return the arrays of all callbacks, by names that identify the callback."""
    return {
        _prefix(number) + name: array
        for number, callback in enumerate(callbacks)
        for name, array in callback.arrays().items()
    }


def load_arrays(callbacks: Sequence[Callback], arrays: dict[str, Any]) -> dict[str, Any]:
    """Restore what ``arrays_of`` returned; return those of ``arrays`` that belong to no callback."""
    for number, callback in enumerate(callbacks):
        start = _prefix(number)
        own = {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
        callback.load_arrays(own)
        arrays = {name: array for name, array in arrays.items() if not name.startswith(start)}
    return arrays


def _prefix(number: int) -> str:
    return f"callback{number}."
