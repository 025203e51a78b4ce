"""Safe and atomic save and load of checkpoints.

    checkpoints/step-000123/   model.safetensors, optimizer.safetensors, state.json (with a SHA-256 of the other two)
    checkpoints/last, best     links to one of them

A checkpoint is written under a temporary name, synced and renamed as a whole; links are replaced atomically; older
checkpoints are deleted last. Whatever moment the power fails at, ``last`` is whole. A step saved again while a link
points at its first checkpoint goes beside it, as step-000123-2: what a link points at is never touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpucnn.errors import CheckpointError

FORMAT = 1
WEIGHTS = ("model", "optimizer")


@dataclass
class Checkpoint:
    """Arrays by name (NumPy) of the model and the optimiser, and the rest of the state as JSON can hold it."""

    model: dict[str, Any]
    optimizer: dict[str, Any]
    state: dict[str, Any]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync it, rename it: it is there whole or not at all.

    A character device or a pipe is written to: to replace /dev/null, as root may, breaks a system.
    """
    if path.is_char_device() or path.is_fifo():
        path.write_bytes(content)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write_synced(temporary, content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def packed(arrays: dict[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    """Return host arrays by name, and texts by name, in the safetensors format."""
    import numpy as np
    import safetensors.numpy

    # safetensors writes the memory as it lies: make it C-ordered
    return safetensors.numpy.save({name: np.asarray(a, order="C") for name, a in arrays.items()}, metadata)


def read_packed(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arrays and texts of a safetensors file; CheckpointError where it is missing or damaged."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="np") as file:
            names = file.keys()  # the only way to them: it is no mapping
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file.") from None
    except (safetensors.SafetensorError, AttributeError, OSError, TypeError, ValueError) as error:  # float8, to NumPy
        raise CheckpointError(f"{path}: is no whole safetensors file ({error}).") from None


def save(folder: Path, step: int, checkpoint: Checkpoint, best: bool = False) -> Path:
    """Write the checkpoint of ``step`` into ``folder``, point ``last`` (and ``best``) at it, delete what neither needs.

    Returns its path. OSError (a full disk, say) leaves the checkpoints before as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = _free_name(folder, f"step-{step:06d}")
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        digests = {}
        for kind in WEIGHTS:
            content = packed(getattr(checkpoint, kind))
            digests[f"{kind}.safetensors"] = hashlib.sha256(content).hexdigest()
            _write_synced(temporary / f"{kind}.safetensors", content)
        state = {"format": FORMAT, "step": step, **checkpoint.state, "sha256": digests}
        _write_synced(temporary / "state.json", json.dumps(state, indent=1).encode())
        _sync_folder(temporary)
        if final.exists():  # left by a run that stopped before it set the links
            shutil.rmtree(final)
        os.rename(temporary, final)
        _sync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for link in ("best", "last") if best else ("last",):  # last comes last: resumed before it, this step is saved again
        _point(folder / link, final.name)
    _sync_folder(folder)
    _delete_unneeded(folder)
    return final


def load(path: Path) -> Checkpoint:
    """Return the checkpoint in this folder; CheckpointError where it is missing, damaged or of a newer format."""
    import safetensors.numpy

    try:
        state = json.loads((path / "state.json").read_bytes())
        if state["format"] > FORMAT:
            raise CheckpointError.expected(str(path), "format", f"at most {FORMAT}", state["format"], "update gpucnn")
        arrays = {}
        for kind in WEIGHTS:
            content = (path / f"{kind}.safetensors").read_bytes()
            if hashlib.sha256(content).hexdigest() != state["sha256"][f"{kind}.safetensors"]:
                raise CheckpointError(
                    f"{path}: {kind}.safetensors is damaged: its SHA-256 is not the one noted for it."
                )
            arrays[kind] = safetensors.numpy.load(content)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no checkpoint: {Path(error.filename).name} is missing.") from None
    except (
        ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError, safetensors.SafetensorError,
    ) as error:  # fmt: skip
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: the checkpoint is damaged ({type(error).__name__}: {error}).") from None
    return Checkpoint(arrays["model"], arrays["optimizer"], state)


def find(folder: Path, link: str) -> Path | None:
    """Return the checkpoint that a link in ``folder`` points at; for "last" without its link, the newest; None for none.

    Copying a run may turn links into folders (scp) or lose them (zip).
    """
    if (folder / link).is_symlink() and (folder / link).exists():
        return folder / os.readlink(folder / link)
    if (folder / link).is_dir():
        return folder / link
    steps = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+(-\d+)?", path.name)]
    newest = max(steps, key=lambda path: [int(number) for number in path.name.split("-")[1:]], default=None)
    return newest if link == "last" else None


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power failure, where the file system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def _point(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.symlink(target, temporary)
        if link.is_dir() and not link.is_symlink():  # of a run copied without its links; ``find`` does without it
            aside = link.with_name(f".{link.name}.copy.tmp")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(link, aside)
        os.replace(temporary, link)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _free_name(folder: Path, name: str) -> Path:
    """Return ``folder / name``, or name-2, name-3, ...: the first that no link points at."""
    needed = _needed(folder)
    return next(folder / free for free in (name, *(f"{name}-{i}" for i in range(2, 5))) if free not in needed)


def _needed(folder: Path) -> set[str]:
    return {os.readlink(folder / link) for link in ("last", "best") if (folder / link).is_symlink()}


def _delete_unneeded(folder: Path) -> None:
    needed = _needed(folder)
    for path in folder.iterdir():
        unfinished = path.name.startswith(".") and path.name.endswith(".tmp")
        if (path.name.startswith("step-") and path.name not in needed) or unfinished:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
