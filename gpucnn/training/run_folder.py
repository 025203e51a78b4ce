"""The run folder: where a run's settings, environment, metrics and checkpoints are kept."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from gpucnn import checkpoint
from gpucnn.checkpoint import Checkpoint, write_atomically
from gpucnn.errors import CheckpointError, RunFolderError, UsageError

OWN_FILES = ("config.toml", "environment.json", "metrics.jsonl", "summary.txt")


class RunFolder:
    """One run's folder. ``new`` for a new run, ``open`` for one that exists."""

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self.path = path
        self._overwrite = overwrite

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @classmethod
    def new(cls, path: Path | None, name: str, overwrite: bool = False) -> RunFolder:
        """Return the folder for a new run: ``path``, or the first free of ``runs/NAME-1``, ``-2``, ... Nothing is made yet.

        UsageError for a folder that holds a run (unless ``overwrite``) or anything else.
        """
        if path is None:
            stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "run"
            return cls(
                next(
                    Path("runs", f"{stem}-{i}") for i in itertools.count(1) if not Path("runs", f"{stem}-{i}").exists()
                )
            )
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            if not (path / "config.toml").is_file():
                raise UsageError.expected("run folder", str(path), "a new or empty folder", "something that is no run")
            if not overwrite:
                raise UsageError(
                    f"{path} already holds a run. Continue it with --resume {path}, replace it with --overwrite, "
                    "or choose another --out."
                )
        return cls(path, overwrite)

    def make(self) -> None:
        """Make the folder, empty of any run it is to replace; RunFolderError where it cannot be."""
        try:
            if self._overwrite:
                _remove_run(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{self.path}: cannot make the run folder ({error.strerror}). Choose --out.") from None

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return the folder of a run that exists; UsageError where there is none."""
        if not (path / "config.toml").is_file():
            raise UsageError.expected("run folder", str(path), "a run with a config.toml", "none there")
        return cls(path)

    def write(self, name: str, text: str) -> None:
        """Write one of the run's files whole; RunFolderError where the disk refuses."""
        try:
            write_atomically(self.path / name, text.encode())
        except OSError as error:
            raise RunFolderError(f"{self.path / name}: cannot be written ({error.strerror}).") from None

    def add_metrics(self, values: dict[str, Any]) -> None:
        """Append one object to ``metrics.jsonl``."""
        try:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise RunFolderError(f"{self.path / 'metrics.jsonl'}: cannot be written ({error.strerror}).") from None

    def metrics(self) -> list[dict[str, Any]]:
        """Return all objects of ``metrics.jsonl``; a last line torn by a crash is left out."""
        objects = []
        try:
            lines = (self.path / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        for line in lines:
            try:
                objects.append(json.loads(line))
            except ValueError:
                break
        return objects

    def keep_metrics_until(self, step: int) -> None:
        """Drop what was noted after ``step``, before the run goes on from there."""
        kept = [json.dumps(values) for values in self.metrics() if values["step"] <= step]
        self.write("metrics.jsonl", "".join(line + "\n" for line in kept))

    def save(self, step: int, content: Checkpoint, best: bool) -> None:
        """Save a checkpoint; RunFolderError where the disk refuses, with the last one still whole."""
        try:
            checkpoint.save(self.checkpoints, step, content, best)
        except OSError as error:
            raise RunFolderError(
                f"{self.checkpoints}: cannot save step {step} ({error.strerror}). The checkpoint before is untouched; "
                f"free some space and continue with --resume {self.path}."
            ) from None

    def load(self, which: str = "last") -> Checkpoint:
        """Return the checkpoint ``last`` or ``best``; CheckpointError where there is none or it is damaged."""
        if not (self.checkpoints / which).exists():
            raise CheckpointError(
                f"{self.path}: has no checkpoint {which!r}. Was the run stopped before its first one?"
            )
        return checkpoint.load(self.checkpoints / os.readlink(self.checkpoints / which))


def _remove_run(path: Path) -> None:
    """Delete what a run wrote, and nothing else that a user may have put beside it."""
    shutil.rmtree(path / "checkpoints", ignore_errors=True)
    for name in OWN_FILES:
        (path / name).unlink(missing_ok=True)
