"""Files that are there whole or not at all, and links where the system has them.

A file is written under a temporary name beside it, ``.NAME.PID.tmp``, synced, and renamed. Where symbolic links are not to
be had (Windows without the right to make them, some file systems), a link is a small text file with the name of what it
leads to; both kinds are read everywhere.
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
"""What a system answers that makes no symbolic links here (Windows: EINVAL, of the error for a missing right)."""

LONGEST_NAME = 255


def temporary_name(path: Path) -> Path:
    """Return where ``path`` is written before it is renamed."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync it, rename it: it is there whole or not at all.

    A character device or a pipe is written to: to replace /dev/null, as root may, breaks a system.
    """
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
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power failure, where the system can: Windows opens no folders."""
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
    """Let ``link`` lead to its neighbour of the name ``target``, in one step; a folder in its place gives way."""
    temporary = temporary_name(link)
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.symlink(target, temporary)
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in NO_LINKS:
                raise
            write_synced(temporary, f"{target}\n".encode())
        if link.is_dir() and not link.is_symlink():  # of a run copied without its links; ``pointed_at`` does without it
            aside = temporary_name(link.with_name(f"{link.name}-copy"))
            remove(aside)
            os.rename(link, aside)
        os.replace(temporary, link)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def pointed_at(link: Path) -> Path | None:
    """Return the folder that a link leads to, or the folder that a copying program made of it; None for none.

    A text file leads to a neighbour only, never elsewhere.
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
    """Delete a file, a link or a folder with all that is in it, as far as the system lets us."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def clear_temporaries(folder: Path, ours: Callable[[str], bool]) -> None:
    """Delete what a killed process left half written of the files whose names are ``ours``."""
    for path in list(folder.iterdir()):
        if is_temporary(path.name, ours):
            remove(path)


def is_temporary(name: str, ours: Callable[[str], bool]) -> bool:
    """Whether this is the temporary name of a file whose own name is ``ours``.

    >>> is_temporary(".config.toml.123.tmp", "config.toml".__eq__), is_temporary(".mine.tmp", "config.toml".__eq__)
    (True, False)
    """
    match = TEMPORARY.fullmatch(name)
    return match is not None and ours(match["name"])
