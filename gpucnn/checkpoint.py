"""Safe and atomic save and load of checkpoints.

    checkpoints/step-000123/   model.safetensors, optimizer.safetensors, state.json (with a SHA-256 of the other two)
    checkpoints/last, best     links to one of them

A checkpoint is written under a temporary name, synced and renamed as a whole; links are replaced atomically; older
checkpoints are deleted last. Whatever moment the power fails at, ``last`` is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
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
    """Write a file under a temporary name, sync it, rename it: it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write_synced(temporary, content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def save(folder: Path, step: int, checkpoint: Checkpoint, best: bool = False) -> Path:
    """Write the checkpoint of ``step`` into ``folder``, point ``last`` (and ``best``) at it, delete what neither needs.

    Returns its path. OSError (a full disk, say) leaves the checkpoints before as they were.
    """
    import safetensors.numpy

    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:06d}"
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        digests = {}
        for kind in WEIGHTS:
            content = safetensors.numpy.save(getattr(checkpoint, kind))
            digests[f"{kind}.safetensors"] = hashlib.sha256(content).hexdigest()
            _write_synced(temporary / f"{kind}.safetensors", content)
        state = {"format": FORMAT, "step": step, **checkpoint.state, "sha256": digests}
        _write_synced(temporary / "state.json", json.dumps(state, indent=1).encode())
        _sync_folder(temporary)
        if final.exists():  # left by a run that was overtaken by its own resumption
            shutil.rmtree(final)
        os.rename(temporary, final)
        _sync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for link in ("last", "best") if best else ("last",):
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
    except (ValueError, KeyError, TypeError, OSError, safetensors.SafetensorError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: the checkpoint is damaged ({type(error).__name__}: {error}).") from None
    return Checkpoint(arrays["model"], arrays["optimizer"], state)


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
    os.symlink(target, temporary)
    os.replace(temporary, link)


def _delete_unneeded(folder: Path) -> None:
    needed = {os.readlink(folder / link) for link in ("last", "best") if (folder / link).is_symlink()}
    for path in folder.iterdir():
        unfinished = path.name.startswith(".") and path.name.endswith(".tmp")
        if (path.name.startswith("step-") and path.name not in needed) or unfinished:
            shutil.rmtree(path, ignore_errors=True)
