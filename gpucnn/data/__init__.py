"""Data sets, as uint8 arrays and integer labels; this room knows NumPy and nothing of tensors."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from gpucnn.data.dataset import ArrayDataset, Dataset, Splits, Subset
from gpucnn.data.digits import draw_digits
from gpucnn.data.files import load_idx_folder, load_npz, read_idx
from gpucnn.errors import DataError

NAMES = ("digits", "mnist", "fashion-mnist", "kmnist")
DIGITS_TRAIN, DIGITS_TEST = 60_000, 10_000


def load(source: str) -> Splits:
    """Return the data set that ``source`` names.

    "digits" (built in, drawn now); "mnist", "fashion-mnist" or "kmnist", in a folder of that name under ``GPUCNN_DATA``; a
    folder with IDX files; an ``.npz`` with x_train, y_train, x_test, y_test. DataError where it is missing or damaged.

    >>> load("digits").train.image_shape  # doctest: +SKIP
    (1, 28, 28)
    """
    if source == "digits":
        return Splits("digits", _digits(DIGITS_TRAIN, seed=0), _digits(DIGITS_TEST, seed=1))
    path = Path(source).expanduser()
    if source in NAMES and not os.path.exists(path):
        home = os.environ.get("GPUCNN_DATA")
        if home is None:
            raise DataError(
                f"{source}: not at hand. Put its four IDX files into a folder and pass --data FOLDER, "
                f"or set GPUCNN_DATA to the parent of a folder {source!r}."
            )
        path = Path(home).expanduser() / source
    if os.path.isdir(path):  # unlike path.is_dir(), says no to a name that is too long to be one
        return load_idx_folder(path)
    if path.suffix == ".npz":
        return load_npz(path)
    near = difflib.get_close_matches(source, NAMES, 1)
    raise DataError.expected(
        "data", "source", f"{', '.join(NAMES)}, a folder with IDX files, or an .npz", f"{str(path)!r}, which is neither",
        f"did you mean {near[0]}?" if near else "check the path",
    )  # fmt: skip


def _digits(count: int, seed: int) -> ArrayDataset:
    return ArrayDataset(*draw_digits(count, seed), [str(digit) for digit in range(10)])


__all__ = [
    "ArrayDataset", "Dataset", "Splits", "Subset", "draw_digits", "load", "load_idx_folder", "load_npz", "read_idx",
]  # fmt: skip
