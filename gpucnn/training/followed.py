"""The run folder, as seen by the processes that train together with the one that writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpucnn.checkpoint import Checkpoint
from gpucnn.training.run_folder import RunFolder


class FollowedFolder(RunFolder):
    """A run folder that another process, rank 0, makes and writes: this one reads it and leaves it alone.

    begins: whether rank 0 begins a run in it.
    """

    def __init__(self, path: Path, begins: bool) -> None:
        super().__init__(path)
        self._begins = begins

    def make(self) -> None:
        """Leave it to rank 0, as everything below."""

    def claim(self) -> None: ...

    def release(self) -> None: ...

    def give_up(self) -> None: ...

    def abandon(self) -> None: ...

    def write(self, name: str, content: str | bytes) -> None: ...

    def write_environment(self, about: dict[str, Any]) -> None: ...

    def add_metrics(self, values: dict[str, Any]) -> None: ...

    def keep_metrics_until(self, step: int) -> None: ...

    def save(self, step: int, content: Checkpoint, best: bool) -> None: ...

    def begins(self) -> bool:
        return self._begins
