"""Data sets of a user's own pictures: a folder of class folders (needs Pillow, the ``images`` extra)."""

from __future__ import annotations

import hashlib
import os
import stat
import statistics
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpucnn.data.dataset import ArrayDataset, Splits
from gpucnn.data.files import LARGEST
from gpucnn.data.pictures import open_picture, read_picture, square
from gpucnn.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg")

LARGEST_SIDE = 64
"""Pixels of a side beyond which pictures are scaled down where no size is asked for: what a CPU trains in minutes."""

HELD_OUT = 5
"""One picture in so many is held out for testing where there is no test folder."""


@dataclass
class _Reader:
    """Finds pictures and reads them at one size; counts what was passed over and what was changed."""

    size: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    resized: int = 0
    cropped: int = 0

    def pictures(self, folder: Path) -> list[Path]:
        """Return a folder's picture files by name."""
        return [entry for entry in self._entries(folder) if self._is_picture(entry)]

    def folders(self, folder: Path) -> list[Path]:
        """Return the folders in a folder by name."""
        return [entry for entry in self._entries(folder) if self._is_folder(entry)]

    def _entries(self, folder: Path) -> list[Path]:
        found = []
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith("."):
                self.ignored["hidden"] += 1
            elif entry.is_symlink():
                self.ignored["links"] += 1
            else:
                found.append(entry)
        return found

    def _is_folder(self, entry: Path) -> bool:
        if not entry.is_dir():
            self.ignored["beside the class folders"] += 1
        return entry.is_dir()

    def _is_picture(self, entry: Path) -> bool:
        regular = stat.S_ISREG(entry.stat().st_mode)
        if not regular or entry.suffix.lower() not in SUFFIXES:
            self.ignored["neither .png nor .jpg"] += 1
            return False
        return True

    def read(self, paths: list[Path]) -> NDArray[np.uint8]:
        """Return pictures as (N, size, size, 3)."""
        shape = (len(paths), self.size, self.size, 3)
        if np.prod(shape, dtype=float) > LARGEST:
            raise DataError.expected("pictures", "all together", f"at most {LARGEST:,} bytes", f"{shape}")
        images = np.empty(shape, np.uint8)
        for image, path in zip(images, paths, strict=True):
            picture = open_picture(path, near=self.size)
            self.resized += picture.size != (self.size, self.size)
            self.cropped += picture.width != picture.height
            image[...] = square(picture.convert("RGB"), self.size, self.size)
        return images

    def say(self) -> None:
        """Warn of what is not as it was in the files."""
        if self.resized:
            crops = f" ({self.cropped:,} are not square: their middle is taken)" if self.cropped else ""
            warnings.warn(f"{self.resized:,} pictures resized to {self.size}x{self.size} pixels{crops}", stacklevel=4)
        if self.ignored:
            kinds = ", ".join(f"{count} {kind}" for kind, count in self.ignored.items())
            warnings.warn(f"ignored: {kinds}", stacklevel=4)


def is_picture_folder(folder: Path) -> bool:
    """Whether there are folders in a folder, hidden ones and links aside."""
    return any(entry.is_dir() and not entry.is_symlink() for entry in folder.glob("[!.]*"))


def pictures_below(folder: Path) -> list[Path]:
    """Return the picture files in a folder and in the folders below it, by name; DataError where there are none.

    Hidden files and folders, and links to folders, are passed over.
    """
    found = []
    for here, folders, files in os.walk(folder, onerror=_refused):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES)
        found += [Path(here, name) for name in names]
    if not found:
        raise DataError.expected(str(folder), "folder", f"pictures ({', '.join(SUFFIXES)})", "none")
    return found


def _refused(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror}).") from None


def load_pictures(
    folder: Path, image_size: int | None = None, like: tuple[int, int, int] | None = None, framing: str = "cropped"
) -> Splits:
    """Return the data set of ``train/CLASS/*.png`` and ``test/CLASS/*.png``, or of ``CLASS/*.png`` alone.

    PNG and JPEG, grey or colour, of any size: the middle square of each is scaled to ``image_size``, by default the median
    side, at most 64. Images are uint8 (N, 1, S, S) where all are grey, else (N, 3, S, S); with the shape ``like`` and a
    ``framing`` they are read as ``read_picture`` reads them for a network that was trained on such images.

    Without a test folder a fifth of each class is held out, chosen by the SHA-256 of the files' names: the same pictures
    on every machine, and the same ones when others are added. Links, hidden files and other kinds are passed over. A
    warning says what was scaled, passed over and held out. DataError for a picture that cannot be read, fewer than two
    classes, a class without pictures, and classes that differ between the two folders.
    """
    reader = _Reader(image_size or 0)
    try:
        given = (folder / "train").is_dir() and is_picture_folder(folder / "train")
        train = _classes(reader, folder / "train" if given else folder)
        has_test = given and (folder / "test").is_dir()
        test = _classes(reader, folder / "test") if has_test else _hold_out(folder, train)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be read ({error.strerror or error}).") from None
    _check(folder, train, test)
    if like is None:
        reader.size = reader.size or _usual_side([path for paths in train.values() for path in paths])
        parts = _as_grey([[reader.read(paths) for paths in part.values()] for part in (train, test)])
    else:
        parts = [
            np.stack([read_picture(path, like, framing) for paths in part.values() for path in paths])
            for part in (train, test)
        ]
    reader.say()
    if not has_test:
        count = sum(len(paths) for paths in test.values())
        warnings.warn(
            f"no test folder: {count:,} pictures are held out for testing, a fifth of each class", stacklevel=3
        )
    names = list(train)
    sets = [
        ArrayDataset(
            images, np.repeat(range(len(names)), [len(part[name]) for name in names]), names, os.fspath(folder)
        )
        for images, part in zip(parts, (train, test), strict=True)
    ]
    return Splits(folder.name or str(folder), sets[0], sets[1], framing)


def _classes(reader: _Reader, folder: Path) -> dict[str, list[Path]]:
    return {entry.name: reader.pictures(entry) for entry in reader.folders(folder)}


def _hold_out(folder: Path, train: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Return the test pictures of each class, taken out of ``train``."""
    test: dict[str, list[Path]] = {}
    for name, paths in train.items():
        if len(paths) == 1:
            raise DataError.expected(
                str(folder),
                f"class {name}",
                "at least two pictures, one of them for testing",
                "one",
                "add a test folder",
            )
        by_hash = sorted(paths, key=lambda path: hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest())
        count = max(round(len(paths) / HELD_OUT), 1)
        test[name] = sorted(by_hash[:count])
        train[name] = sorted(by_hash[count:])
    return test


def _check(folder: Path, train: dict[str, list[Path]], test: dict[str, list[Path]]) -> None:
    if len(train) < 2:
        got = f"only {next(iter(train))!r}" if train else "none"
        raise DataError.expected(str(folder), "class folders", "at least two", got)
    if set(train) != set(test):
        differ = ", ".join(sorted(set(train) ^ set(test)))
        raise DataError.expected(str(folder), "classes", "the same in train and test", f"{differ} in one of them only")
    for part, classes in (("train", train), ("test", test)):
        for name, paths in classes.items():
            if not paths:
                raise DataError.expected(str(folder), f"{part} class {name}", "a .png or .jpg file", "none")


def _usual_side(paths: list[Path]) -> int:
    """Return the median of the pictures' shorter sides, at most ``LARGEST_SIDE``."""
    sides = [min(open_picture(path, decode=False).size) for path in paths]
    return min(int(statistics.median_low(sides)), LARGEST_SIDE)


def _as_grey(parts: list[list[NDArray[np.uint8]]]) -> list[NDArray[np.uint8]]:
    """Return (N, S, S, 3) images of classes as (N, 1, S, S) where all of them are grey, else as (N, 3, S, S)."""
    grey = all(bool((images[..., :1] == images[..., 1:]).all()) for part in parts for images in part)
    return [np.concatenate(part)[..., : 1 if grey else 3].transpose(0, 3, 1, 2) for part in parts]
