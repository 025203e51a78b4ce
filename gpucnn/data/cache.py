"""A cache of arrays that take long to make, in the folder that downloads use.

An entry is one safetensors file that holds its key and its SHA-256. It is written under a temporary name and renamed; an
entry that is damaged, or has another key, counts as missing. Without a writable folder everything is computed each time:
the cache only saves time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

LARGEST = 2**30
"""Arrays of more bytes are not cached."""

ENTRIES = 8
"""Number of entries; adding one removes the least recently read."""


def cache_home() -> Path | None:
    """Return the folder for downloads and cached arrays: ``GPUCNN_CACHE``, or gpucnn's in the platform's cache folder.

    None if the system names none, as for a user without a home folder.
    """
    try:
        if named := os.environ.get("GPUCNN_CACHE"):
            return Path(named).expanduser()
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA")
            return Path(local, "gpucnn", "gpucnn", "Cache") if local else None
        if sys.platform == "darwin":
            return Path("~/Library/Caches/gpucnn").expanduser()
        if (named := os.environ.get("XDG_CACHE_HOME", "").strip()) and os.path.isabs(named):
            return Path(named, "gpucnn")
        return Path("~/.cache/gpucnn").expanduser()
    except RuntimeError:  # no home folder
        return None


def kept(name: str, key: str, make: Callable[[], Arrays]) -> Arrays:
    """Return what ``make`` returns, or the cached result for the same ``key``.

    name: of the entry, a file name without extension. Arrays are C-ordered and writable.
    """
    home = cache_home()
    path = None if home is None else home / "made" / f"{name}.safetensors"
    if path is not None and (found := _read(path, key)) is not None:
        return found
    arrays = make()
    if path is not None and sum(array.nbytes for array in arrays.values()) <= LARGEST:
        with contextlib.suppress(OSError):
            _write(path, key, arrays)
    return arrays


def _read(path: Path, key: str) -> Arrays | None:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="np") as file:
            said = file.metadata() or {}
            if said.get("key") != key:
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        if said.get("sha256") != _sha256(arrays):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # when it was read last
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, AttributeError):
        return None
    return {name: array if array.flags.writeable else array.copy() for name, array in arrays.items()}


def _write(path: Path, key: str, arrays: Arrays) -> None:
    """Write an entry atomically. It is not synced: an entry damaged by a power failure is made again."""
    import safetensors.numpy

    path.parent.mkdir(parents=True, exist_ok=True)
    content = safetensors.numpy.save(arrays, {"key": key, "sha256": _sha256(arrays)})
    handle, temporary = tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # a cache may be shared
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _delete_oldest(path.parent)


def _delete_oldest(folder: Path) -> None:
    entries = sorted(folder.glob("*.safetensors"), key=lambda entry: entry.stat().st_mtime)
    for entry in entries[:-ENTRIES]:
        entry.unlink(missing_ok=True)


def _sha256(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()
