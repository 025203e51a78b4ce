"""Atomic writes of files, and links that work on every system.

A file is written under a temporary name beside it, ``.NAME.PID.tmp``, synced, and renamed. If symbolic links are not
available (Windows without the right to make them, some file systems), a link is a small text file with the name of its
target. Both kinds are read everywhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

TEMPORARY = re.compile(r"\.(?P<name>.+)\.(\d+|copy)\.tmp")
NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}
"""Errors of systems that cannot make a symbolic link here (Windows without the right: EINVAL)."""

LONGEST_NAME = 255


def temporary_name(path: Path) -> Path:
    """Return the path to which ``path`` is written before the rename."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically: under a temporary name, synced, then renamed.

    A character device or a pipe is written directly: replacing /dev/null, as root can, would break the system. Raises
    OSError, also for a path without a name, such as "" or "/".
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.is_char_device() or path.is_fifo():
        path.write_bytes(content)
        return
    temporary = temporary_name(path)
    try:
        write_synced(temporary, content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and sync it to disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power failure, if the system can. Windows cannot open folders."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


def point(link: Path, target: str) -> None:
    """Point ``link`` at ``target`` in the same folder, atomically. A folder named ``link`` is moved aside."""
    temporary = temporary_name(link)
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.symlink(target, temporary)
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LINKS:
                raise
            write_synced(temporary, f"{target}\n".encode())
        if link.is_dir() and not link.is_symlink():  # from a run copied without links
            aside = temporary_name(link.with_name(f"{link.name}-copy"))
            remove(aside)
            os.rename(link, aside)
        os.replace(temporary, link)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def pointed_at(link: Path) -> Path | None:
    """Return the folder that a link points to, or the folder that a copying program replaced it with; else None.

    A link that is a text file can only point to its own folder.
    """
    target: Path | None = link
    if link.is_symlink():
        target = link.parent / os.readlink(link)
    elif link.is_file():
        target = _neighbour(link)
    return target if target is not None and target.is_dir() else None


def _neighbour(file: Path) -> Path | None:
    with file.open("rb") as opened:
        name = opened.read(LONGEST_NAME + 2).decode("utf-8", "replace").strip()
    plain = 0 < len(name) <= LONGEST_NAME and not re.search(r"[/\\:\0]", name) and name not in (".", "..")
    return file.with_name(name) if plain else None


def remove(path: Path) -> None:
    """Delete a file, a link, or a folder with its content. Errors are ignored."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def clear_temporaries(folder: Path, ours: Callable[[str], bool]) -> None:
    """Delete temporary files that a killed process left, of files whose names are ``ours``."""
    for path in list(folder.iterdir()):
        if is_temporary(path.name, ours):
            remove(path)


def is_temporary(name: str, ours: Callable[[str], bool]) -> bool:
    """Whether ``name`` is a temporary name of a file whose final name is ``ours``.

    >>> is_temporary(".config.toml.123.tmp", "config.toml".__eq__), is_temporary(".mine.tmp", "config.toml".__eq__)
    (True, False)
    """
    match = TEMPORARY.fullmatch(name)
    return match is not None and ours(match["name"])
