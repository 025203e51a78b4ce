"""Runs that replace others, and the bytes of a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from runs import trainer

from gpucnn import checkpoint
from gpucnn.checkpoint import Checkpoint
from gpucnn.training import Reporter, RunFolder, Trainer


def overwriting(path: Path, reporter: Reporter | None = None, **changes: Any) -> Trainer:
    made = trainer(path.with_name("unused"), reporter, **changes)
    made.folder = RunFolder.new(path, "", overwrite=True)
    return made


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below ``folder``, links as what they say."""
    return {
        str(path.relative_to(folder)): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def refuse(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


class KilledError(BaseException):
    """Nothing happens after it."""


def make_run(path: Path, number: int, steps: int = 1) -> None:
    path.mkdir()
    for name in ("config.toml", "metrics.jsonl", "environment.json", "environment-1.json", "report.html"):
        (path / name).write_text(str(number))
    (path / "looks").mkdir()
    (path / "looks" / "a.html").write_text(str(number))
    for step in range(1, steps + 1):
        checkpoint.save(path / "checkpoints", step, Checkpoint({"w": np.full(2, number)}, {}, {}), best=True)


def overwrite(path: Path) -> None:
    """Write files as a run does that replaces another."""
    folder = RunFolder.new(path, "", overwrite=True)
    folder.make()
    folder.write("config.toml", "2")
    folder.write_environment({})
    folder.save(7, Checkpoint({"w": np.full(2, 2)}, {}, {}), best=True)
    folder.release()
