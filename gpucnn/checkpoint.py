"""Saving and loading checkpoints, safely and atomically.

    checkpoints/step-000123/   model.safetensors, optimizer.safetensors, state.json (with a SHA-256 of all three)
    checkpoints/last, best     links to one of them

A checkpoint is written under a temporary name, synced and renamed as a whole. Links are replaced atomically. Older
checkpoints are deleted last. So ``last`` is complete whenever the power fails. If a step is saved again, its new checkpoint
is step-000123-2: an existing checkpoint is never changed. Only checkpoints of this run are deleted: ``.written.PID.tmp``
lists them while links change, so that the next save can finish an interrupted one.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpucnn import disk
from gpucnn.errors import CheckpointError, shortened

FORMAT = 1
WEIGHTS = ("model", "optimizer")
LINKS = ("best", "last")  # last is updated last: a run resumed before that saves this step again
STATE = "state.json"
STEP = re.compile(r"step-(\d+)(-\d+)?")
TEMPORARIES = (*LINKS, *(f"{link}-copy" for link in LINKS))
UNSIGNED = "0" * 64
"""The placeholder for the SHA-256 of state.json while it is computed."""


@dataclass
class Checkpoint:
    """The NumPy arrays of the model and the optimiser by name, and the remaining state as JSON data."""

    model: dict[str, Any]
    optimizer: dict[str, Any]
    state: dict[str, Any]


def packed(arrays: dict[str, Any], metadata: dict[str, str] | None = None) -> bytes:
    """Return named host arrays and named strings in the safetensors format."""
    import numpy as np
    import safetensors.numpy

    # safetensors writes memory without reordering, so it must be C-ordered
    return safetensors.numpy.save({name: np.asarray(a, order="C") for name, a in arrays.items()}, metadata)


def refuse_pickle(path: Path) -> None:
    """CheckpointError for a file of PyTorch's own format, which says how to convert it."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(2)
        if (start == b"PK" and path.suffix.lower() != ".npz") or (
            start[:1] == b"\x80" and start[1:] in b"\x02\x03\x04\x05"
        ):
            convert = (
                "import torch; from safetensors.torch import save_file; "
                f"save_file(torch.load({str(path)!r}, weights_only=True), {str(path.with_suffix('.safetensors'))!r})"
            )
            raise CheckpointError(
                f"{path}: is a pickle, as torch.save writes it, which can run code. Convert it where PyTorch is: {convert}"
            )


def read_packed(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arrays and strings of a safetensors file; CheckpointError if it is missing or damaged."""
    import safetensors

    try:
        with safetensors.safe_open(path, framework="np") as file:
            names = file.keys()  # ``file`` is not a mapping
            short = [name for name in names if file.get_slice(name).get_dtype() == "BF16"]
            arrays = {name: file.get_tensor(name) for name in names if name not in short}
            return arrays | (_widened(path, short) if short else {}), file.metadata() or {}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file.") from None
    except (
        safetensors.SafetensorError,
        AttributeError,
        OSError,
        TypeError,
        ValueError,
    ) as error:  # NumPy has no float8
        raise CheckpointError(f"{path}: is not a complete safetensors file ({shortened(error)}).") from None


def _widened(path: Path, names: list[str]) -> dict[str, Any]:
    """Return the bfloat16 arrays of a valid safetensors file as float32, because NumPy has no bfloat16."""
    import numpy as np

    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header, arrays = json.loads(content[8:start]), {}
    for name in names:
        first, last = header[name]["data_offsets"]
        half = np.frombuffer(content[start + first : start + last], "<u2").reshape(header[name]["shape"])
        arrays[name] = (half.astype("<u4") << 16).view("<f4")
    return arrays


def save(folder: Path, step: int, checkpoint: Checkpoint, best: bool = False) -> Path:
    """Write the checkpoint of ``step`` into ``folder``, point ``last`` (and ``best``) at it, and delete unused ones.

    Returns its path. OSError (such as a full disk) leaves earlier checkpoints unchanged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clear(folder)
    links = LINKS if best else LINKS[1:]
    names = (f"step-{step:06d}{suffix}" for suffix in itertools.chain([""], map("-{}".format, itertools.count(2))))
    final = next(folder / name for name in names if not os.path.lexists(folder / name))
    temporary = disk.temporary_name(final)
    try:
        temporary.mkdir()
        digests = {}
        for kind in WEIGHTS:
            content = packed(getattr(checkpoint, kind))
            digests[f"{kind}.safetensors"] = hashlib.sha256(content).hexdigest()
            disk.write_synced(temporary / f"{kind}.safetensors", content)
        state = {"format": FORMAT, "step": step, **checkpoint.state, "sha256": digests}
        disk.write_synced(temporary / STATE, _signed(state))
        disk.sync_folder(temporary)
        old = [name for link in links if (name := _written(folder, link)) is not None]
        with disk.temporary_name(folder / "written").open("a", encoding="utf-8") as mark:
            mark.write("\n".join(["", final.name, *old, ""]))  # appended, because the last line may be incomplete
        # Without a link "last" the newest checkpoint is the last. A first "best" must exist as soon as the checkpoint does.
        first = [link for link in links if link != "last" and not os.path.lexists(folder / link)]
        for link in first:
            disk.point(folder / link, final.name)
        os.rename(temporary, final)
        disk.sync_folder(folder)
        for link in links:
            if link not in first:
                disk.point(folder / link, final.name)
        disk.sync_folder(folder)
    finally:
        clear(folder)
    return final


def load(path: Path) -> Checkpoint:
    """Return the checkpoint in this folder; CheckpointError if it is missing, damaged or of a newer format."""
    import safetensors.numpy

    try:
        text = (path / STATE).read_bytes()
        state = json.loads(text, parse_constant=_constant)
        if state["format"] > FORMAT:
            raise CheckpointError.expected(str(path), "format", f"at most {FORMAT}", state["format"], "update gpucnn")
        digests = state["sha256"]
        if digests.keys() - {STATE} != {f"{kind}.safetensors" for kind in WEIGHTS}:
            raise ValueError("its list of files is not that of a checkpoint")
        if STATE in digests and not _is_signed(text, digests[STATE]):  # gpucnn 0.1.0 signed only the weights
            raise _damaged(path, STATE)
        arrays = {}
        for kind in WEIGHTS:
            content = (path / f"{kind}.safetensors").read_bytes()
            if hashlib.sha256(content).hexdigest() != digests[f"{kind}.safetensors"]:
                raise _damaged(path, f"{kind}.safetensors")
            arrays[kind] = safetensors.numpy.load(content)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no checkpoint: {Path(error.filename).name} is missing.") from None
    except (
        ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError, safetensors.SafetensorError,
    ) as error:  # fmt: skip
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path}: the checkpoint is damaged ({type(error).__name__}: {shortened(error)})."
        ) from None
    return Checkpoint(arrays["model"], arrays["optimizer"], state)


def find(folder: Path, link: str) -> Path | None:
    """Return the checkpoint that a link in ``folder`` points at; the newest if "last" has no link; None if there is none.

    Copying a run may replace links with folders (scp) or drop them (zip).
    """
    if (target := disk.pointed_at(folder / link)) is not None:
        return target
    steps = [path for path in folder.glob("step-*") if STEP.fullmatch(path.name)]
    newest = max(steps, key=lambda path: [int(number) for number in path.name.split("-")[1:]], default=None)
    return newest if link == "last" else None


def clear(folder: Path) -> None:
    """Delete checkpoints of this run that no link points at, and temporary files of killed processes."""
    with contextlib.suppress(OSError):
        linked = {os.path.realpath(path) for link in LINKS if (path := disk.pointed_at(folder / link)) is not None}
        needed = linked | {os.path.realpath(path) for path in [find(folder, "last")] if path is not None}
        for mark in folder.glob(".written.*.tmp"):
            lines = mark.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            # A line without an end is incomplete, and its name is wrong.
            ours = [folder / line[:-1] for line in lines if line.endswith("\n") and STEP.fullmatch(line[:-1])]
            for path in ours:
                if os.path.realpath(path) not in needed:
                    disk.remove(path)
            if not any(os.path.lexists(path) and os.path.realpath(path) not in linked for path in ours):
                disk.remove(mark)
        disk.clear_temporaries(folder, lambda name: name in TEMPORARIES or STEP.fullmatch(name) is not None)


def _written(folder: Path, link: str) -> str | None:
    """Return the name of the checkpoint that a link points at, if this run wrote it; not a user's copy, nor elsewhere."""
    target = disk.pointed_at(folder / link)
    try:
        if target is None:
            return None
        state = (target / STATE).read_bytes()
        name = f"step-{json.loads(state)['step']:06d}"
        if target == folder / link:  # copied as a folder, next to the original
            return name if (folder / name / STATE).read_bytes() == state else None
        ours = os.path.dirname(os.path.realpath(target)) == os.path.realpath(folder)
        match = STEP.fullmatch(target.name)
        return target.name if ours and match and f"step-{match[1]}" == name else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _signed(state: dict[str, Any]) -> bytes:
    """Return the state as JSON that includes its own SHA-256."""
    state["sha256"][STATE] = UNSIGNED
    content = json.dumps(state, indent=1).encode()
    head, _, tail = content.rpartition(UNSIGNED.encode())
    return head + hashlib.sha256(content).hexdigest().encode() + tail


def _is_signed(content: bytes, digest: str) -> bool:
    head, found, tail = content.rpartition(digest.encode())
    return bool(found) and hashlib.sha256(head + UNSIGNED.encode() + tail).hexdigest() == digest


def _damaged(path: Path, name: str) -> CheckpointError:
    return CheckpointError(f"{path}: {name} is damaged: its SHA-256 does not match the recorded one.")


def _constant(name: str) -> float:
    """Return an infinity, which schedules may save; ValueError for NaN, which is never saved."""
    if name == "NaN":
        raise ValueError("NaN among the numbers")
    return float(name)
