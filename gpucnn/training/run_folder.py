"""The run folder, which holds the settings, environment, metrics and checkpoints of a run."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpucnn import checkpoint, disk
from gpucnn.checkpoint import Checkpoint
from gpucnn.errors import CheckpointError, RunFolderError, UsageError
from gpucnn.training import replaced
from gpucnn.training.replaced import CONFIG

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = ".lock"
"""Lock file of the process that trains in a folder; deleted at the end."""


class RunFolder:
    """The folder of one run: ``RunFolder.new`` for a new run, ``RunFolder.open`` for an existing one.

    numbered: the folder is the first free of ``path``-1, ``path``-2, ...; new: it must not hold a run.
    """

    def __init__(self, path: Path, overwrite: bool = False, numbered: bool = False, new: bool = False) -> None:
        self.path = path
        self._overwrite, self._numbered, self._new = overwrite, numbered, new
        self._made = False  # by this process, for a new run
        self._lock: BaseFileLock | None = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @classmethod
    def new(cls, path: Path | None, name: str, overwrite: bool = False) -> RunFolder:
        """Return the folder for a new run: ``path``, or the first free of ``runs/NAME-1``, ``-2``, ... Not created yet.

        UsageError for a folder that holds a run (unless ``overwrite``) or anything else.
        """
        if path is None:
            return cls(Path("runs", re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "run"), numbered=True)
        if os.path.exists(path) and not _is_free(path):
            if not _holds_run(path):
                raise UsageError.expected("run folder", str(path), "a new or empty folder", "something that is no run")
            if not overwrite:
                raise _run_is_there(path)
        return cls(path, overwrite, new=True)

    def make(self) -> None:
        """Create and lock the folder; a run to be replaced is set aside. RunFolderError if that fails."""
        try:
            if self._numbered:
                self.path = _make_numbered(self.path)
            else:
                self.path.mkdir(parents=True, exist_ok=True)
            self.claim()
            if self._new and not self._overwrite and (self.path / CONFIG).exists():  # another process was quicker
                self.release()
                raise _run_is_there(self.path)
            if self._overwrite:
                replaced.put_back(self.path)  # in place of one that was to replace it, and never had a checkpoint
                replaced.set_aside(self.path)
        except RunFolderError:
            raise
        except OSError as error:
            self.release()
            with contextlib.suppress(OSError):
                self.path.rmdir()
            raise RunFolderError(
                f"{self.path}: cannot make the run folder ({error.strerror}). Choose another --out."
            ) from None
        self._made = self._made or self._numbered or self._new
        self._numbered = self._new = self._overwrite = False

    def claim(self) -> None:
        """Keep other processes from training in this folder until ``release``; RunFolderError if one does already.

        What a killed process left half done is finished or undone.
        """
        if self._lock is not None:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that some systems have no locks which end with their process
            from filelock import FileLock, Timeout

            lock = FileLock(self.path / LOCK, timeout=0, thread_local=False)
            try:
                lock.acquire()
            except Timeout:
                raise RunFolderError(
                    f"{self.path}: another process is training in this folder. Wait for it to end, or choose another "
                    "--out."
                ) from None
            except NotImplementedError:  # a file system without locks
                pass
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
                    raise
        self._lock = lock
        disk.clear_temporaries(self.path, lambda name: replaced.is_own(name) or name == replaced.ASIDE)
        checkpoint.clear(self.checkpoints)
        replaced.settle(self.path)
        if self.has_checkpoint():
            replaced.forget(self.path)

    def release(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            if os.name == "posix":  # while it is held; elsewhere a file that is open cannot be deleted
                disk.remove(self.path / LOCK)
            self._lock.release()
            self._lock = None

    def give_up(self) -> None:
        """Put back the run that was to be replaced, if the new one has no checkpoint yet."""
        if self._made and not self.has_checkpoint():
            with contextlib.suppress(OSError):
                replaced.put_back(self.path)

    def abandon(self) -> None:
        """Remove the files of a new run that never trained, and the folder if it is then empty."""
        if self._made:
            with contextlib.suppress(OSError):
                replaced.delete(self.path)
                replaced.put_back(self.path)
                self.release()
                self.path.rmdir()

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Return the folder of an existing run; UsageError if there is none."""
        path = Path(path)
        folder = cls(path)
        if (path / replaced.ASIDE).is_dir():  # killed just when it was to be replaced, or being replaced now
            with contextlib.suppress(OSError):
                folder.claim()
                folder.release()
        if not (path / CONFIG).is_file():
            remedy = "begin it with --out" if path.is_dir() else "check the path"
            raise UsageError.expected("run folder", str(path), "a run with a config.toml", "none there", remedy)
        return folder

    def place(self, folder: str, name: str) -> Path:
        """Return the path of a file in one of the run's folders; RunFolderError if that folder is a link.

        A run folder may be untrusted: writing to it must not write elsewhere.
        """
        if (self.path / folder).is_symlink():
            raise RunFolderError(
                f"{self.path / folder}: is a link, and files of the run are not written through it. "
                "Remove it, or name the file with --out."
            )
        return self.path / folder / name

    def write(self, name: str, content: str | bytes) -> None:
        """Write one of the run's files atomically; RunFolderError if writing fails."""
        try:
            disk.write_atomically(self.path / name, content.encode() if isinstance(content, str) else content)
        except OSError as error:
            raise RunFolderError(f"{self.path / name}: cannot be written ({error.strerror}).") from None

    def write_environment(self, about: dict[str, Any]) -> None:
        """Write ``environment.json`` for this start of the run; the previous one becomes ``environment-K.json``."""
        latest = self.path / "environment.json"
        if latest.exists():
            names = (self.path / f"environment-{number}.json" for number in itertools.count(1))
            free = next(path for path in names if not os.path.lexists(path))
            try:
                os.rename(latest, free)
            except OSError as error:
                raise RunFolderError(f"{free}: cannot be written ({error.strerror}).") from None
        self.write(latest.name, json.dumps(about, indent=1) + "\n")

    def add_metrics(self, values: dict[str, Any]) -> None:
        """Append one object to ``metrics.jsonl``."""
        line = (json.dumps(values, allow_nan=False) + "\n").encode()
        try:
            _append(self.path / "metrics.jsonl", line)
        except OSError as error:
            raise RunFolderError(f"{self.path / 'metrics.jsonl'}: cannot be written ({error.strerror}).") from None

    def metrics(self) -> list[dict[str, Any]]:
        """Return all objects of ``metrics.jsonl``; lines that are damaged, or torn by a crash, are left out."""
        return [values for values in map(_read_metrics, self._metrics_lines()) if values is not None]

    def _metrics_lines(self) -> list[bytes]:
        try:
            return (self.path / "metrics.jsonl").read_bytes().splitlines()
        except FileNotFoundError:
            return []

    def keep_metrics_until(self, step: int) -> None:
        """Drop metrics after ``step`` before the run resumes there; damaged lines are reported in a note."""
        lines = self._metrics_lines()
        found = list(map(_read_metrics, lines))
        if damaged := found[:-1].count(None):  # the last may have been torn by a crash, which is no damage
            warnings.warn(f"{self.path / 'metrics.jsonl'}: left out damaged lines: {damaged}", stacklevel=2)
        kept = (json.dumps(values) for values in found if values is not None and values["step"] <= step)
        self.write("metrics.jsonl", "".join(line + "\n" for line in kept))

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return checkpoint.find(self.checkpoints, "last") is not None

    def begins(self) -> bool:
        """Whether training in this folder starts a run rather than continuing one."""
        return self._new or self._numbered or not self.has_checkpoint()

    def default_checkpoint(self) -> str:
        """Return the default checkpoint: ``best`` if there is one, otherwise ``last``."""
        return "last" if checkpoint.find(self.checkpoints, "best") is None else "best"

    def best_is_last(self) -> bool:
        """Whether the best checkpoint is the last one too; they may be copies."""
        paths = [checkpoint.find(self.checkpoints, which) for which in ("best", "last")]
        try:
            states = {(path / "state.json").read_bytes() for path in paths if path is not None}
        except OSError:
            return False
        return None not in paths and len(states) == 1

    def save(self, step: int, content: Checkpoint, best: bool) -> None:
        """Save a checkpoint; RunFolderError if writing fails, with the previous one still complete."""
        try:
            checkpoint.save(self.checkpoints, step, content, best)
        except OSError as error:
            raise RunFolderError(
                f"{self.checkpoints}: cannot save step {step} ({error.strerror}). {self._remedy()}"
            ) from None
        with contextlib.suppress(OSError):
            replaced.forget(self.path)

    def _remedy(self) -> str:
        """Return the remedy for a failed write."""
        if not self.has_checkpoint() and (self.path / replaced.ASIDE).is_dir():
            return "The previous run is kept; free some space and repeat the command."
        before = "What was saved before is untouched" if self.has_checkpoint() else "Nothing was saved before"
        return f"{before}; mend it and continue with: gpucnn train --resume {shlex.quote(str(self.path))}"

    def load(self, which: str = "last") -> Checkpoint:
        """Return the checkpoint ``last`` or ``best``; CheckpointError if there is none or it is damaged."""
        path = checkpoint.find(self.checkpoints, which)
        if path is None:
            why = "was it stopped before its first one?" if which == "last" else "was it trained with --validation 0?"
            raise CheckpointError(f"{self.path}: the run has no checkpoint {which!r}: {why}")
        return checkpoint.load(path)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)  # one for all lines: making it costs more than reading a line


def _read_metrics(line: bytes) -> dict[str, Any] | None:
    """Return the object of a line of ``metrics.jsonl``; None for a damaged one."""

    try:
        values = _DECODER.decode(line.decode())
    except (ValueError, RecursionError):
        return None
    whole = isinstance(values, dict) and isinstance(values.get("step"), int) and not isinstance(values["step"], bool)
    return values if whole else None


def _append(path: Path, line: bytes) -> None:
    """Append a line completely, or leave the file unchanged."""
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


def _holds_run(path: Path) -> bool:
    return (path / CONFIG).is_file() or (path / replaced.ASIDE / CONFIG).is_file()


def _is_free(path: Path) -> bool:
    """Whether a folder is empty, apart from leftovers of a run killed before it had written a file."""
    return path.is_dir() and all(name == LOCK or disk.is_temporary(name, replaced.is_own) for name in os.listdir(path))


def _run_is_there(path: Path) -> UsageError:
    quoted = shlex.quote(str(path))
    return UsageError(
        f"{path} already holds a run. Continue it with --resume {quoted}, replace it with --overwrite, "
        "or choose another --out."
    )
