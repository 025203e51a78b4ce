"""The run folder: where a run's settings, environment, metrics and checkpoints are kept."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import os
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

from gpucnn import checkpoint
from gpucnn.checkpoint import Checkpoint, write_atomically
from gpucnn.errors import CheckpointError, RunFolderError, UsageError

OWN_FILES = (
    "config.toml", "environment.json", "metrics.jsonl", "summary.txt", "report.html", "first-filters.safetensors",
    "curves.png", "filters.png", "confusion.png", "mistakes.png",
)  # fmt: skip
OWN_FOLDERS = ("checkpoints", "tensorboard", "looks")


class RunFolder:
    """One run's folder. ``new`` for a new run, ``open`` for one that exists.

    numbered: the folder is the first free of ``path``-1, ``path``-2, ...; new: it must not hold a run.
    """

    def __init__(self, path: Path, overwrite: bool = False, numbered: bool = False, new: bool = False) -> None:
        self.path = path
        self._overwrite, self._numbered, self._new = overwrite, numbered, new
        self._lock: int | None = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @classmethod
    def new(cls, path: Path | None, name: str, overwrite: bool = False) -> RunFolder:
        """Return the folder for a new run: ``path``, or the first free of ``runs/NAME-1``, ``-2``, ... Nothing is made yet.

        UsageError for a folder that holds a run (unless ``overwrite``) or anything else.
        """
        if path is None:
            return cls(Path("runs", re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "run"), numbered=True)
        if os.path.exists(path) and (not path.is_dir() or any(path.iterdir())):
            if not (path / "config.toml").is_file():
                raise UsageError.expected("run folder", str(path), "a new or empty folder", "something that is no run")
            if not overwrite:
                raise _holds_a_run(path)
        return cls(path, overwrite, new=True)

    def make(self) -> None:
        """Make the folder, empty of any run it is to replace, and claim it; RunFolderError where it cannot be."""
        try:
            if self._numbered:
                self.path, self._numbered = _make_numbered(self.path), False
            self.path.mkdir(parents=True, exist_ok=True)
            self.claim()
            if self._overwrite:
                _remove_run(self.path)
        except RunFolderError:
            raise
        except OSError as error:
            raise RunFolderError(
                f"{self.path}: cannot make the run folder ({error.strerror}). Choose another --out."
            ) from None
        if self._new and (self.path / "config.toml").exists():  # another process was quicker
            self.release()
            raise _holds_a_run(self.path)

    def claim(self) -> None:
        """Keep other processes from training in this folder until ``release``; RunFolderError where one does."""
        if self._lock is not None:
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise RunFolderError(
                f"{self.path}: another process is training in this folder. Wait for it to end, or choose another --out."
            ) from None
        except OSError:  # a file system without locks
            pass
        self._lock = handle

    def release(self) -> None:
        """Let other processes train in this folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def abandon(self) -> None:
        """Remove what a run wrote that never came to train, and the folder if it is then empty."""
        with contextlib.suppress(OSError):
            _remove_run(self.path)
            self.path.rmdir()

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return the folder of a run that exists; UsageError where there is none."""
        if not (path / "config.toml").is_file():
            raise UsageError.expected("run folder", str(path), "a run with a config.toml", "none there")
        return cls(path)

    def write(self, name: str, content: str | bytes) -> None:
        """Write one of the run's files whole; RunFolderError where the disk refuses."""
        try:
            write_atomically(self.path / name, content.encode() if isinstance(content, str) else content)
        except OSError as error:
            raise RunFolderError(f"{self.path / name}: cannot be written ({error.strerror}).") from None

    def add_metrics(self, values: dict[str, Any]) -> None:
        """Append one object to ``metrics.jsonl``."""
        line = (json.dumps(values, allow_nan=False) + "\n").encode()
        try:
            _append(self.path / "metrics.jsonl", line)
        except OSError as error:
            raise RunFolderError(f"{self.path / 'metrics.jsonl'}: cannot be written ({error.strerror}).") from None

    def metrics(self) -> list[dict[str, Any]]:
        """Return all objects of ``metrics.jsonl``; a last line torn by a crash is left out."""
        objects = []
        try:
            lines = (self.path / "metrics.jsonl").read_bytes().splitlines()
        except FileNotFoundError:
            return []
        for line in lines:
            try:
                values = json.loads(line)
            except ValueError:
                break
            if not isinstance(values, dict) or not isinstance(values.get("step"), int):
                break
            objects.append(values)
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
                f"{self.checkpoints}: cannot save step {step} ({error.strerror}). What was saved before is untouched; "
                f"mend it and continue with: gpucnn train --resume {shlex.quote(str(self.path))}"
            ) from None

    def load(self, which: str = "last") -> Checkpoint:
        """Return the checkpoint ``last`` or ``best``; CheckpointError where there is none or it is damaged."""
        path = checkpoint.find(self.checkpoints, which)
        if path is None:
            why = "was it stopped before its first one?" if which == "last" else "was it trained with --validation 0?"
            raise CheckpointError(f"{self.path}: the run has no checkpoint {which!r}: {why}")
        return checkpoint.load(path)


def _append(path: Path, line: bytes) -> None:
    """Append a line whole, or leave the file as it was."""
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(before)
            raise


def _make_numbered(stem: Path) -> Path:
    """Make the first free of ``stem``-1, ``stem``-2, ... and return it: two processes never get the same."""
    for number in itertools.count(1):
        path = stem.with_name(f"{stem.name}-{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if not os.path.lexists(path):  # it is the folder above that is in the way
                raise
    raise AssertionError("unreachable")


def _holds_a_run(path: Path) -> UsageError:
    quoted = shlex.quote(str(path))
    return UsageError(
        f"{path} already holds a run. Continue it with --resume {quoted}, replace it with --overwrite, "
        "or choose another --out."
    )


def _remove_run(path: Path) -> None:
    """Delete what a run wrote, and nothing else that a user may have put beside it."""
    for name in OWN_FOLDERS:
        shutil.rmtree(path / name, ignore_errors=True)
    for name in OWN_FILES:
        (path / name).unlink(missing_ok=True)
