"""Reading data sets from files: IDX (plain or gzip), npz and npy. Nothing is unpickled; sizes are checked before use."""

from __future__ import annotations

import gzip
import io
import math
import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucnn import limits
from gpucnn.data.arrays import Role, datasets, role_of, roles_of, splits_of
from gpucnn.data.dataset import FRAMINGS, ArrayDataset, Splits
from gpucnn.data.mapped import is_large, mapped, mapped_member
from gpucnn.errors import DataError, shortened

IDX_DTYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
IDX_FILE = re.compile(
    r"(?:(?P<set>[a-z0-9]+(?:-[a-z]+)?)-)?(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(?:\.gz)?",
    re.I,
)
"""MNIST's names, and EMNIST's: emnist-letters-train-images-idx3-ubyte."""

PIECE = 2**24  # bytes read at a time: what a header claims is never set aside before it has come


def read_idx(path: Path) -> NDArray[Any]:
    """Return the array of an IDX file, plain or gzip. DataError if it is missing, truncated or no IDX file.

    Format (Y. LeCun): two zero bytes, a type code, the number of dimensions, each length as big-endian uint32, the data.
    """
    try:
        with path.open("rb") as raw:
            zipped, packed = raw.read(2) == b"\x1f\x8b", os.fstat(raw.fileno()).st_size
        with gzip.open(path) if zipped else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_DTYPES or not 1 <= head[3] <= 4:
                raise DataError.expected(str(path), "header", "an IDX file", f"bytes {head.hex(' ') or 'none'}")
            lengths = file.read(4 * head[3])
            shape = tuple(int(n) for n in np.frombuffer(lengths, ">u4")) if len(lengths) == 4 * head[3] else (-1,)
            dtype = np.dtype(IDX_DTYPES[head[2]])
            size = math.prod(shape) * dtype.itemsize
            if size < 0 or math.prod(max(n, 1) for n in shape) > 2**48:
                raise DataError.expected(str(path), "header", "whole and sensible lengths", f"shape {shape}")
            if 0 in shape[1:]:
                raise DataError.expected(str(path), "header", "at least one pixel", f"shape {shape}")
            limits.check(str(path), "bytes", size, limits.unpacked_bytes(packed) if zipped else limits.DATA_BYTES)
            if dtype == np.uint8 and not zipped and packed == file.tell() + size and is_large(size):
                return mapped(path, np.uint8, file.tell(), shape)
            content = _read(file, size + 1)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({shortened(error)}). Fetch the file again.") from None
    if len(content) != size:
        got = "more bytes" if len(content) > size else f"{len(content)} bytes"
        raise DataError.expected(str(path), "content", f"{size} bytes for shape {shape}", got, "fetch the file again")
    if not size:
        return np.zeros(shape, dtype.newbyteorder("="))
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _read(file: Any, most: int) -> bytearray:
    content = bytearray()
    while len(content) < most and (piece := file.read(min(PIECE, most - len(content)))):
        content += piece
    return content


def idx_home(folder: Path) -> Path | None:
    """Return the folder with the IDX files of a folder: itself, or "raw" in it or in one of its folders, as in torchvision.

    None if there is none; DataError if there are several.
    """
    found = [home for home in (folder, folder / "raw") if _idx_files(home)]
    if not found and folder.is_dir():
        found = [home for home in sorted(folder.glob("*/raw")) if _idx_files(home)]
    if len(found) > 1 and folder not in found:
        homes = ", ".join(home.relative_to(folder).as_posix() for home in found)
        raise DataError.expected(str(folder), "data sets", "one", shortened(homes), "name the folder of one of them")
    return found[0] if found else None


def _idx_files(folder: Path) -> dict[str, dict[Role, Path]]:
    """Return the IDX files of a folder by the set they belong to ("" for MNIST's own names); plain before packed."""
    sets: dict[str, dict[Role, Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (name := IDX_FILE.fullmatch(file.name)) and file.is_file():
            part = "train" if name["part"].lower() == "train" else "test"
            sets.setdefault((name["set"] or "").lower(), {}).setdefault((part, name["kind"].lower()), file)
    return sets


def load_idx_folder(folder: Path, class_names: Sequence[str] | None = None) -> Splits:
    """Return the data set of a folder with the four IDX files under MNIST's names, or of one of EMNIST's sets under its own.

    EMNIST's files hold transposed images, which are turned upright.
    """
    sets = _idx_files(idx_home(folder) or folder)
    if len(sets) > 1:
        names = ", ".join(sorted(sets))
        raise DataError.expected(str(folder), "IDX files", "one data set", names, "put the files of one into a folder")
    name, files = next(iter(sets.items()), ("", {}))
    arrays: dict[Role, NDArray[Any]] = {}
    for part, word in (("train", "train"), ("test", "test" if name else "t10k")):
        for kind, dimensions in (("images", 3), ("labels", 1)):
            if (part, kind) not in files:
                usual = f"{name}-{word}".strip("-") + f"-{kind}-idx{dimensions}-ubyte"
                raise DataError.expected(str(folder), "files", f"{usual} or {usual}.gz", "a folder without it")
            arrays[part, kind] = read_idx(files[part, kind])
    if name.startswith("emnist"):
        warnings.warn("EMNIST's images lie on their side: rows and columns are exchanged", stacklevel=2)
        for part in ("train", "test"):
            arrays[part, "images"] = arrays[part, "images"].swapaxes(-1, -2)
    parts = {}
    for part in ("train", "test"):
        where = str(files[part, "images"])
        parts[part] = ArrayDataset(arrays[part, "images"], arrays[part, "labels"], class_names, where)
        class_names = parts[part].class_names
    return Splits(name or folder.name or str(folder), parts["train"], parts["test"])


def load_npz(path: Path) -> Splits:
    """Return the data set of an .npz with x_train, y_train, x_test, y_test, and optionally class_names and framing.

    Other usual names are understood too (``arrays.role_of``), and validation sets. Without test images a fifth is held out.
    """
    sets, framing = read_npz(path)
    return splits_of(path.stem, sets, framing)


def read_npz(path: Path) -> tuple[dict[str, ArrayDataset], str]:
    """Return the parts of the data set of an .npz, and its framing."""
    with _opened_npz(path) as archive:
        arrays = {}
        for role, name in roles_of(archive, str(path)).items():
            large = mapped_member(path, name) if role[1] == "images" else None
            arrays[role] = archive[name] if large is None else large
        names = _texts(archive["class_names"], path) if "class_names" in archive else None
        framing, layout = (str(archive[key]) if key in archive else None for key in ("framing", "layout"))
    framing = framing or "centred"
    if framing not in FRAMINGS:
        raise DataError.expected(str(path), "framing", " or ".join(FRAMINGS), repr(framing[:50]))
    return datasets(arrays, names, str(path), layout), framing


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return all arrays of an .npz by name; DataError for one that is missing, damaged, or too large unpacked."""
    with _opened_npz(path) as archive:
        return {name: archive[name] for name in archive.files}


@contextmanager
def _opened_npz(path: Path) -> Iterator[Any]:
    """Open an .npz whose sizes are within the bounds; DataError for anything wrong with it, in the block too."""
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (DataError, MemoryError):
        raise
    except Exception as error:  # zipfile, zlib, lzma and numpy have a dozen kinds for a damaged file
        why = shortened(error) or type(error).__name__
        raise DataError(f"{path}: is no readable .npz of plain arrays ({why}). Save it with numpy.savez.") from None


def array_files(folder: Path) -> dict[Role, Path] | None:
    """Return the .npy files, or .npz files of one array each, that make up a data set; None if there are none.

    They have the names of arrays in an .npz: x_train.npy, y_train.npy, ..., or kmnist-train-imgs.npz, ...
    """
    files = [entry for entry in sorted(folder.iterdir()) if entry.suffix in (".npy", ".npz") and entry.is_file()]
    stems = {file.stem: file for file in files}
    if not any(role_of(stem, prefixed=True) for stem in stems):
        return None
    return {role: stems[stem] for role, stem in roles_of(stems, str(folder), prefixed=True).items()}


def read_array_files(files: dict[Role, Path], where: str) -> dict[str, ArrayDataset]:
    """Return the parts of a data set from files of one array each."""
    return datasets({role: _read_array(path) for role, path in files.items()}, None, where)


def _read_array(path: Path) -> NDArray[Any]:
    try:
        if path.suffix == ".npz":
            _check_sizes(path)
            with np.load(path, allow_pickle=False) as archive:
                if len(archive.files) != 1:
                    raise DataError.expected(str(path), "arrays", "one", shortened(archive.files))
                array: NDArray[Any] = archive[archive.files[0]]
                return array
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            limits.check(str(path), "bytes", size, limits.DATA_BYTES)
            _check_array(file, size, str(path), "array")
            file.seek(0)
            array = np.load(path if is_large(size) else file, "r" if is_large(size) else None, allow_pickle=False)
            return array
    except (DataError, MemoryError):
        raise
    except Exception as error:
        why = shortened(error) or type(error).__name__
        raise DataError(f"{path}: is no readable array ({why}). Save it with numpy.save.") from None


def npz_bytes(splits: Splits) -> bytes:
    """Return a data set as the bytes of a compressed .npz that ``load_npz`` reads."""
    file = io.BytesIO()
    x_train, y_train = splits.train[np.arange(len(splits.train))]
    x_test, y_test = splits.test[np.arange(len(splits.test))]
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    if splits.validation is not None:
        arrays["x_val"], arrays["y_val"] = splits.validation[np.arange(len(splits.validation))]
    names = np.array(splits.train.class_names)
    np.savez_compressed(
        file, **arrays, class_names=names, framing=np.array(splits.framing), layout=np.array("NCHW"), allow_pickle=False
    )
    return file.getvalue()


def _check_sizes(path: Path) -> None:
    """DataError, before reading, if array headers claim more than their files hold or too much together."""
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
        limits.check(str(path), "bytes", size, limits.unpacked_bytes(path.stat().st_size))
        for member in archive.infolist():
            with archive.open(member) as file:
                _check_array(file, member.file_size, str(path), member.filename)


def _check_array(file: Any, length: int, where: str, name: str) -> None:
    """DataError if the header of an array in npy format claims another size than the ``length`` of its file."""
    version = np.lib.format.read_magic(file)
    digits = 2 if version == (1, 0) else 4
    header = int.from_bytes(file.read(digits), "little")
    if header > length:  # NumPy would make room for it first
        raise DataError.expected(
            where, shortened(name, 60), f"a header within {length} bytes", f"one of {header} bytes"
        )
    file.seek(-digits, os.SEEK_CUR)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    size = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and file.tell() + size != length:
        expected = f"{size} bytes for shape {shortened(shape, 60)}"
        raise DataError.expected(where, shortened(name, 60), expected, length - file.tell())


def _texts(names: NDArray[Any], path: Path) -> list[str]:
    if names.ndim != 1 or names.dtype.kind not in "USiu":
        raise DataError.expected(str(path), "class_names", "(classes,) texts", f"shape {names.shape} {names.dtype}")
    return [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names.tolist()]
