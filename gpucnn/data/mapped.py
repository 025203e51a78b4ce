"""Arrays of files that are too large for the memory are mapped, so that the system reads only the pages in use."""

from __future__ import annotations

import mmap
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucnn.data import memory
from gpucnn.errors import DataError

PIECE = 2**24
"""Bytes that are read at a time to check a file."""


def is_mapped(array: NDArray[Any]) -> bool:
    """Whether an array is in a file rather than in memory."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return isinstance(base, mmap.mmap)


def is_large(size: int) -> bool:
    """Whether this many bytes are more than half of what the pixels of a data set may take (``memory.budget``)."""
    return size > memory.budget() // 2


def mapped(path: Path, dtype: Any, offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the read-only array at ``offset`` of a file."""
    return np.memmap(path, dtype, "r", offset, shape)


def mapped_member(path: Path, name: str) -> NDArray[Any] | None:
    """Return an array of an .npz, mapped; None if it is packed, small, or not in C order. DataError if it is damaged.

    Errors of zipfile and NumPy for files of another format pass through.
    """
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED or not is_large(member.file_size):
            return None
    with path.open("rb") as file:
        file.seek(member.header_offset)
        head = file.read(30)
        start = (
            member.header_offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        )
        file.seek(start)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, in_columns, dtype = read(file)
        offset = file.tell()
        if in_columns or dtype.hasobject:
            return None
        file.seek(start)
        checksum, left = 0, member.file_size
        while left and (piece := file.read(min(PIECE, left))):
            checksum, left = zlib.crc32(piece, checksum), left - len(piece)
    if checksum != member.CRC:
        raise DataError(f"{path}: {name} is damaged (its checksum is another). Fetch or save the file again.")
    return mapped(path, dtype, offset, shape)
