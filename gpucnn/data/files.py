"""Reading data sets from files: IDX (plain or gzip) and npz. Nothing is unpickled; sizes are checked before use."""

from __future__ import annotations

import gzip
import io
import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucnn.data.dataset import FRAMINGS, ArrayDataset, Splits
from gpucnn.errors import DataError

IDX_DTYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
IDX_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
LARGEST = 2**34  # bytes: more than any data set that fits this package, less than a hostile header can claim
PIECE = 2**24  # bytes read at a time: what a header claims is never set aside before it has come


def read_idx(path: Path) -> NDArray[Any]:
    """Return the array of an IDX file, plain or gzip. DataError where it is missing, truncated or no IDX file.

    Format (Y. LeCun): two zero bytes, a type code, the number of dimensions, each length as big-endian uint32, the data.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in IDX_DTYPES or not 1 <= head[3] <= 4:
                raise DataError.expected(str(path), "header", "an IDX file", f"bytes {head.hex(' ') or 'none'}")
            lengths = file.read(4 * head[3])
            shape = tuple(int(n) for n in np.frombuffer(lengths, ">u4")) if len(lengths) == 4 * head[3] else (-1,)
            dtype = np.dtype(IDX_DTYPES[head[2]])
            size = math.prod(shape) * dtype.itemsize
            if not 0 <= size <= LARGEST:
                raise DataError.expected(str(path), "header", "whole and sensible lengths", f"shape {shape}")
            content = _read(file, size + 1)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}). Fetch the file again.") from None
    if len(content) != size:
        got = "more bytes" if len(content) > size else f"{len(content)} bytes"
        raise DataError.expected(str(path), "content", f"{size} bytes for shape {shape}", got, "fetch the file again")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _read(file: Any, most: int) -> bytearray:
    content = bytearray()
    while len(content) < most and (piece := file.read(min(PIECE, most - len(content)))):
        content += piece
    return content


def find_idx(folder: Path, name: str) -> Path | None:
    """Return the file of this IDX name in a folder, whichever way it is spelt and packed."""
    for stem in (name, name.replace("-idx", ".idx")):
        for suffix in ("", ".gz"):
            if (folder / (stem + suffix)).is_file():
                return folder / (stem + suffix)
    return None


def load_idx_folder(folder: Path, class_names: Sequence[str] | None = None) -> Splits:
    """Return the data set of a folder with the four IDX files under MNIST's names."""
    parts = {}
    for split, names in IDX_NAMES.items():
        files = [find_idx(folder, name) for name in names]
        for name, file in zip(names, files, strict=True):
            if file is None:
                raise DataError.expected(str(folder), "files", f"{name} or {name}.gz", "a folder without it")
        images, labels = (read_idx(file) for file in files if file is not None)
        parts[split] = (images, labels, str(files[0]))
    return _splits(folder.name or str(folder), parts, class_names)


def load_npz(path: Path) -> Splits:
    """Return the data set of an .npz with x_train, y_train, x_test, y_test, and optionally class_names and framing."""
    parts: dict[str, Any] = {}
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in ("x_train", "y_train", "x_test", "y_test") if key not in archive]
            if missing:
                raise DataError.expected(str(path), "arrays", "x_train, y_train, x_test, y_test", sorted(archive))
            for split in ("train", "test"):
                parts[split] = (_images_first(archive[f"x_{split}"]), archive[f"y_{split}"], str(path))
            names = _texts(archive["class_names"], path) if "class_names" in archive else None
            framing = str(archive["framing"]) if "framing" in archive else "centred"
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib, lzma and numpy have a dozen kinds for a damaged file
        raise DataError(
            f"{path}: is no readable .npz of plain arrays ({_one_line(error)}). Save it with numpy.savez."
        ) from None
    if framing not in FRAMINGS:
        raise DataError.expected(str(path), "framing", " or ".join(FRAMINGS), repr(framing[:50]))
    return replace(_splits(path.stem, parts, names), framing=framing)


def npz_bytes(splits: Splits) -> bytes:
    """Return a data set as the content of a packed .npz that ``load_npz`` reads."""
    file = io.BytesIO()
    x_train, y_train = splits.train[np.arange(len(splits.train))]
    x_test, y_test = splits.test[np.arange(len(splits.test))]
    np.savez_compressed(
        file, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test,
        class_names=np.array(splits.train.class_names), framing=np.array(splits.framing),
    )  # fmt: skip
    return file.getvalue()


def _check_sizes(path: Path) -> None:
    """DataError where an array's header claims more than its file holds, or all together too much, before they are read."""
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > LARGEST:
            raise DataError.expected(str(path), "arrays", f"at most {LARGEST:,} bytes", "more")
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
                size = math.prod(shape) * dtype.itemsize
                if not dtype.hasobject and file.tell() + size != member.file_size:
                    raise DataError.expected(
                        str(path),
                        member.filename,
                        f"{size} bytes for shape {shape}",
                        f"{member.file_size - file.tell()}",
                    )


def _texts(names: NDArray[Any], path: Path) -> list[str]:
    if names.ndim != 1 or names.dtype.kind not in "USiu":
        raise DataError.expected(str(path), "class_names", "(classes,) texts", f"shape {names.shape} {names.dtype}")
    return [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names.tolist()]


def _one_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _images_first(images: NDArray[Any]) -> NDArray[Any]:
    """Return (N, H, W, C) images, as Keras keeps them, as (N, C, H, W)."""
    if images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        return images.transpose(0, 3, 1, 2)
    return images


def _splits(name: str, parts: dict[str, Any], class_names: Sequence[str] | None = None) -> Splits:
    images, labels, where = parts["train"]
    train = ArrayDataset(images, labels, class_names, where)
    images, labels, where = parts["test"]
    test = ArrayDataset(images, labels, train.class_names, where)
    return Splits(name, train, test)
