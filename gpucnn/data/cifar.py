"""Reading CIFAR-10 in its binary version; the version that needs pickle is not read."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from gpucnn.data.dataset import ArrayDataset, Splits
from gpucnn.data.sources import SOURCES
from gpucnn.errors import DataError, shortened

ARCHIVE = "cifar-10-binary.tar.gz"
INSIDE = "cifar-10-batches-bin"
PICKLED = "cifar-10-batches-py"
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = "test_batch.bin"
SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
MOST = 10_000 * RECORD
"""Bytes of a file of records."""
UNPACKED = 2**28
"""The most bytes that are unpacked from an archive; the published one has 184 million."""


def is_cifar10(folder: Path) -> bool:
    """Whether a folder holds CIFAR-10's archive or the files in it."""
    return any((folder / name).is_file() for name in (ARCHIVE, TEST, f"{INSIDE}/{TEST}"))


def load_cifar10(folder: Path) -> Splits:
    """Return CIFAR-10 from a folder with cifar-10-binary.tar.gz, or with the .bin files in it, here or one folder down.

    Images are uint8 (N, 3, 32, 32). A record is a label and 1,024 red, green and blue bytes each (Krizhevsky 2009).
    DataError if a file is missing or damaged. Nothing is unpacked to the disk.
    """
    if (folder / ARCHIVE).is_file():
        content, where = _unpack(folder / ARCHIVE), folder / ARCHIVE
    else:
        where = folder / INSIDE if (folder / INSIDE).is_dir() else folder
        content = {name: _read(where / name) for name in (*TRAIN, TEST)}
    for name in (*TRAIN, TEST):
        size = len(content.get(name, b""))
        if not size or size % RECORD or size > MOST:
            records = f"up to {MOST // RECORD:,} records of {RECORD:,} bytes"
            got = f"{size:,} bytes" if name in content else "none"
            raise DataError.expected(str(where), name, records, got, "fetch the file again")
    train = _dataset(b"".join(content[name] for name in TRAIN), where)
    return Splits("cifar10", train, _dataset(content[TEST], where))


def _dataset(records: bytes, where: Path) -> ArrayDataset:
    rows = np.frombuffer(records, np.uint8).reshape(-1, RECORD)
    return ArrayDataset(rows[:, 1:].reshape(-1, *SHAPE), rows[:, 0], SOURCES["cifar10"].class_names, str(where))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST + 1)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from None


class _Limited:
    """A file that gives at most ``UNPACKED`` bytes, whatever the headers in it claim."""

    def __init__(self, file: Any) -> None:
        self.file, self.left = file, UNPACKED

    def read(self, size: int) -> bytes:
        piece: bytes = self.file.read(size)
        self.left -= len(piece)
        if self.left < 0:
            raise tarfile.ReadError(f"more than {UNPACKED:,} bytes")
        return piece


def _unpack(path: Path) -> dict[str, bytes]:
    """Return the files of records in an archive by name; links, other names and other sizes are skipped."""
    found: dict[str, bytes] = {}
    wanted = {f"{INSIDE}/{name}": name for name in (*TRAIN, TEST)}
    try:
        with gzip.open(path) as file:
            limited = _Limited(file)
            with tarfile.open(fileobj=limited, mode="r|") as archive:  # type: ignore[call-overload]
                for member in archive:
                    content = archive.extractfile(member) if member.isreg() and member.name in wanted else None
                    if content is not None and member.size <= MOST:
                        found[wanted[member.name]] = content.read()
            while limited.read(2**16):  # to the end, where gzip's checksum is
                pass
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({shortened(error)}). Fetch the file again.") from None
    return found
