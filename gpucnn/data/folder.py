"""Data sets of a user's own images: a folder of class folders."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from pathlib import Path

from gpucnn.data.dataset import Dataset, Splits
from gpucnn.data.decoding import ImageSize, read_parts
from gpucnn.errors import DataError, shortened

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
)

PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Names of the folders of a training, validation and test set, in lower case."""

HELD_OUT = 5
"""One image in this many is held out for testing if there is no test folder."""

DEEPEST = 4
"""The most nested folders around a data set, with nothing beside: archives are often packed like that."""

Classes = dict[str, list[Path]]
"""The image files of each class."""


class Finder:
    """Finds the image files of a folder's parts and classes; counts what is skipped.

    Links are followed wherever they lead, because data sets are often made of links to one store. A folder is entered once
    per class, and never one that holds the data set itself, so circular links end.
    """

    def __init__(self, folder: Path) -> None:
        self.ignored: Counter[str] = Counter()
        self.given, self.folder = folder, self._unpacked(folder)
        self._train = self.folder

    def parts(self) -> dict[str, Classes]:
        """Return the classes of those of "train", "validation" and "test" that exist; with no such folder, "train"."""
        folders: dict[str, Path] = {}
        rest = []
        for entry in self._folders(self.folder):
            part = next((part for part, names in PARTS.items() if entry.name.lower() in names), None)
            if part is None or not is_picture_folder(entry):
                rest.append(entry)
            elif part in folders:
                one, other = folders[part].name, entry.name
                raise DataError.expected(str(self.folder), "folders", f"one {part} folder", f"{one} and {other}")
            else:
                folders[part] = entry
        found = {part: self._classes(self._folders(folder)) for part in PARTS if (folder := folders.get(part))}
        if "train" in found:
            self._train = folders["train"]
            self.ignored["beside the train folder"] += len(rest)
        elif rest:
            found["train"] = self._classes(rest)
        return found

    def hash_of(self, path: Path) -> bytes:
        """Return the SHA-256 of a training image's path, from its class folder on."""
        return hashlib.sha256(os.fsencode(path.relative_to(self._train).as_posix())).digest()

    def say(self) -> None:
        """Warn about skipped files."""
        if self.folder != self.given:
            warnings.warn(f"the images lie in {self.folder}", stacklevel=4)
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.ignored.items() if count)
        if kinds:
            warnings.warn(f"ignored: {kinds}", stacklevel=4)

    def _unpacked(self, folder: Path) -> Path:
        """Return the innermost folder that holds more than one other folder."""
        for _ in range(DEEPEST):
            inside = [entry for entry in _visible(folder) if entry.is_dir()]
            named = inside and any(inside[0].name.lower() in names for names in PARTS.values())
            if len(inside) != 1 or named or not is_picture_folder(inside[0]):
                break
            folder = inside[0]
        return folder

    def _folders(self, folder: Path) -> list[Path]:
        found, above = [], {_identity(above) for above in (folder.resolve(), *folder.resolve().parents)}
        for entry in _entries(folder, self.ignored):
            if not entry.is_dir():
                self.ignored["beside the class folders"] += 1
            elif _identity(entry) in above:
                self.ignored["links in a circle"] += 1
            else:
                found.append(entry)
        return found

    def _classes(self, folders: list[Path]) -> Classes:
        """Return the images in each of these folders and their subfolders."""
        classes: Classes = {}
        for folder in folders:
            entered = {_identity(above) for above in self.folder.resolve().parents} | {_identity(self.folder)}
            name = os.fsencode(folder.name).decode(errors="backslashreplace")  # file names need not be UTF-8
            classes[name] = _pictures(folder, entered, self.ignored)
        return classes


def _pictures(folder: Path, entered: set[tuple[int, int]], ignored: Counter[str]) -> list[Path]:
    """Return the image files in a folder and below, except in folders already ``entered``."""
    found: list[Path] = []
    waiting = [folder]
    while waiting:
        entry = waiting.pop()
        if entry.is_dir():
            if _identity(entry) in entered:
                ignored["links in a circle"] += 1
            else:
                entered.add(_identity(entry))
                waiting += reversed(_entries(entry, ignored))
        elif entry.is_file() and entry.suffix.lower() in SUFFIXES:
            found.append(entry)
        else:
            ignored["no images"] += 1
    return found


def _entries(folder: Path, ignored: Counter[str]) -> list[Path]:
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            ignored["hidden"] += 1
        elif entry.is_symlink() and not entry.exists():
            ignored["links that lead nowhere"] += 1
        else:
            found.append(entry)
    return found


def is_picture_folder(folder: Path) -> bool:
    """Whether a folder has subfolders that are not hidden."""
    return any(entry.is_dir() for entry in _visible(folder))


def pictures_below(folder: Path) -> list[Path]:
    """Return the image files in a folder and in the folders below it, by name; DataError if there are none.

    Hidden files are skipped; links are followed, as in a data set.
    """
    try:
        found = _pictures(folder, set(), Counter())
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}).") from None
    if not found:
        raise DataError.expected(str(folder), "folder", f"images ({', '.join(sorted(SUFFIXES))})", "none")
    return found


def load_pictures(
    folder: Path,
    image_size: ImageSize | None = None,
    like: tuple[int, int, int] | None = None,
    framing: str = "cropped",
) -> Splits:
    """Return the data set of ``train/CLASS/*.png`` and ``test/CLASS/*.png``, or of ``CLASS/*.png`` alone.

    Images may have any of Pillow's usual formats, be grey or colour, of any size, also in folders within a class. The middle
    of each is scaled to ``image_size``, S or (H, W), by default the median side, at most 64, square. Images are uint8
    (N, 1, H, W) if all are grey, else (N, 3, H, W); with the shape ``like`` and a ``framing`` they are preprocessed for a
    network that was trained on such images, as by ``read_picture``.

    ``val``, ``valid``, ``validation`` or ``dev`` beside ``train`` is the validation set. Without a test folder a fifth of
    each class is held out, chosen by the SHA-256 of the files' names: the same images on every machine, and mostly the same
    when others are added. Images that do not fit into memory together (``memory.budget``) are read when needed
    (``ImageFiles``), with one channel if all files are grey. A warning says what was scaled, skipped and held out.
    DataError for an image that cannot be read, fewer than two classes, a class without images, and classes that differ
    between the folders.
    """
    try:
        finder = Finder(folder)
        parts = finder.parts()
        has_test = "test" in parts
        if "train" not in parts and parts:
            raise DataError.expected(
                str(folder), "folders", "train, to be trained on", ", ".join(parts), "evaluate reads test alone"
            )
        parts.setdefault("train", {})
        if not has_test:
            parts["test"] = _hold_out(finder, parts["train"])
        _check(folder, parts)
        sets, notes = read_parts(finder.folder, parts, list(parts["train"]), image_size, like, framing)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be read ({error.strerror or error}).") from None
    for note in notes:
        warnings.warn(note, stacklevel=3)
    finder.say()
    if "validation" in sets:
        warnings.warn(f"{len(sets['validation']):,} images beside the train folder are for validation", stacklevel=3)
    if not has_test:
        count = len(sets["test"])
        warnings.warn(f"no test folder: {count:,} images are held out for testing, a fifth of each class", stacklevel=3)
    return Splits(folder.name or str(folder), sets["train"], sets["test"], framing, sets.get("validation"))


def load_test_pictures(
    folder: Path, like: tuple[int, int, int], framing: str = "cropped", held_out: bool = False
) -> Dataset:
    """Return the images of a folder to measure a network on: those of its test folder, or all if there is none.

    held_out: without a test folder, only those that ``load_pictures`` holds out. Images are preprocessed as by
    ``read_picture``; classes without images are left out.
    """
    try:
        finder = Finder(folder)
        parts = finder.parts()
        test = parts.get("test")
        if test is None and held_out:
            test = _hold_out(finder, parts.get("train", {}))
        if test is None:
            test = _joined(parts)
            warnings.warn("no test folder: all images are measured", stacklevel=3)
        test = {name: paths for name, paths in test.items() if paths}
        if not test:
            raise DataError.expected(str(folder), "class folders", "an image in one of them", "none")
        sets, notes = read_parts(finder.folder, {"test": test}, list(test), None, like, framing)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be read ({error.strerror or error}).") from None
    for note in notes:
        warnings.warn(note, stacklevel=3)
    finder.say()
    return sets["test"]


def _joined(parts: dict[str, Classes]) -> Classes:
    names = sorted({name for classes in parts.values() for name in classes})
    return {name: [path for classes in parts.values() for path in classes.get(name, [])] for name in names}


def _hold_out(finder: Finder, train: Classes) -> Classes:
    """Return the test images of each class, taken out of ``train``."""
    test: Classes = {}
    for name, paths in train.items():
        if len(paths) == 1:
            raise DataError.expected(
                str(finder.folder),
                f"class {name}",
                "at least two images, one of them for testing",
                "one",
                "add a test folder",
            )
        by_hash = sorted(paths, key=finder.hash_of)
        count = max(round(len(paths) / HELD_OUT), 1)
        test[name] = sorted(by_hash[:count])
        train[name] = sorted(by_hash[count:])
    return test


def _check(folder: Path, parts: dict[str, Classes]) -> None:
    train = parts["train"]
    if len(train) < 2:
        got = f"only {next(iter(train))!r}" if train else "none"
        raise DataError.expected(str(folder), "class folders", "at least two", got)
    for part, classes in parts.items():
        if set(train) != set(classes):
            differ = shortened(", ".join(sorted(set(train) ^ set(classes))))
            same = f"the same in train and {part}"
            raise DataError.expected(str(folder), "classes", same, f"{differ} in one of them only")
        for name, paths in classes.items():
            if not paths:
                raise DataError.expected(str(folder), f"{part} class {name}", "an image", "none")


def _visible(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*"))


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
