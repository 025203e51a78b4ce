"""What a ``Loop`` calls as it goes."""

from __future__ import annotations

from typing import Any


class Callback:
    """Base class of callbacks, which a ``Loop`` calls in the order given; its methods do nothing.

    They may read all of the loop (``net``, ``optimizer``, ``epoch``, ``step``, ``history``) and call ``loop.stop()``. An
    exception ends the training, and every callback is still told of the finish.
    """

    def start(self, loop: Any) -> None:
        """Training starts or resumes."""

    def step(self, loop: Any, images: int) -> None:
        """A step on this many images has finished."""

    def log(self, loop: Any, values: dict[str, Any]) -> None:
        """The loss was read, as it is every 100 steps: step, epoch, loss, lr."""

    def epoch(self, loop: Any, values: dict[str, Any]) -> object:
        """An epoch has finished with these values, the last of ``loop.history``; return True to stop training."""

    def finish(self, loop: Any) -> None:
        """Training stopped, for whatever reason."""

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state of this callback for a checkpoint, as JSON values; None for no state."""
        return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
