"""Overview of many run folders: model and data, progress, best figures. Only small text files are read."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpucnn.errors import UsageError
from gpucnn.training.config import Settings, read_toml
from gpucnn.training.replaced import CONFIG
from gpucnn.training.run_folder import RunFolder

DEEPEST = 3
"""How many folders deep ``find_runs`` looks for runs."""


@dataclass(frozen=True)
class RunRecord:
    """A run as described by its folder's text files; what they do not say is None or empty.

    settings: all of ``config.toml``. environment: of the latest start. metrics: the objects of ``metrics.jsonl``.
    problem: why the settings cannot be read.

    >>> RunRecord(Path("runs/a"), Settings(epochs=3)).state
    'not begun'
    """

    path: Path
    settings: Settings | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    problem: str | None = None

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """Return the record of the run in a folder. Damaged files are no error: their values are missing."""
        try:
            settings = Settings(**read_toml(path / CONFIG))
        except UsageError as error:
            return cls(path, problem=str(error))
        try:
            environment = json.loads((path / "environment.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            environment = {}
        try:
            metrics = RunFolder(path).metrics()
        except OSError:
            metrics = []
        return cls(path, settings, environment if isinstance(environment, dict) else {}, metrics)

    @functools.cached_property
    def epochs(self) -> list[dict[str, Any]]:
        """The objects of whole epochs."""
        return [values for values in self.metrics if _number(values.get("train_loss")) is not None]

    @property
    def done(self) -> int:
        """The number of epochs that are done."""
        counts = [values["epoch"] for values in self.epochs if isinstance(values.get("epoch"), int)]
        return max(counts, default=0)

    @property
    def state(self) -> str:
        """The progress of the run, in words."""
        if self.settings is None:
            return "unreadable"
        if self.test_accuracy is not None and self.done:
            return "done"
        return f"epoch {self.done} of {self.settings.epochs}" if self.done else "not begun"

    @property
    def best_epoch(self) -> int | None:
        """The epoch of the highest validation accuracy; None without one."""
        measured = [(a, -v["epoch"]) for v in self.epochs if (a := _number(v.get("val_accuracy"))) is not None]
        return -max(measured)[1] if measured else None

    @property
    def val_accuracy(self) -> float | None:
        """The highest validation accuracy, 0 to 1."""
        return max((a for v in self.epochs if (a := _number(v.get("val_accuracy"))) is not None), default=None)

    @property
    def test_accuracy(self) -> float | None:
        """The last test accuracy, 0 to 1."""
        measured = [a for v in self.metrics if (a := _number(v.get("test_accuracy"))) is not None]
        return measured[-1] if measured else None

    @property
    def seconds(self) -> float:
        """The time that the epochs took."""
        return sum(_number(values.get("seconds")) or 0.0 for values in self.epochs)

    @property
    def date(self) -> str | None:
        """When the run was last started, as ``YYYY-MM-DDTHH:MM:SS+00:00``."""
        date = self.environment.get("date")
        return date if isinstance(date, str) else None

    def figures(self) -> dict[str, Any]:
        """Return what ``gpucnn runs --json`` prints about the run."""
        return {
            "run": str(self.path),
            "model": None if self.settings is None else self.settings.model,
            "data": None if self.settings is None else self.settings.data,
            "state": self.state,
            "epochs": self.done,
            "best_epoch": self.best_epoch,
            "val_accuracy": self.val_accuracy,
            "test_accuracy": self.test_accuracy,
            "seconds": round(self.seconds, 3),
            "date": self.date,
            "problem": self.problem,
        }


def find_runs(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the run folders among ``folders`` and below them, to a depth of ``DEEPEST``, each once and in order of name.

    A link to a folder is followed if it is named, but not below. UsageError for a folder that does not exist.
    """
    seen = set()
    for folder in folders:
        if not folder.is_dir():
            raise UsageError.expected("runs", str(folder), "a folder", "a file" if folder.exists() else "none there")
        for path in _below(folder, DEEPEST):
            real = os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                yield path


def _below(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / CONFIG).is_file():
        yield folder
    elif depth:
        try:
            with os.scandir(folder) as entries:
                inside = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except PermissionError:
            return
        for name in inside:
            yield from _below(folder / name, depth - 1)


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
