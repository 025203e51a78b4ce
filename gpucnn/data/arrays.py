"""Data sets from named arrays: which part each array is, where the channels are, and which images are held out."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucnn.data.dataset import ArrayDataset, Dataset, Splits
from gpucnn.data.folder import HELD_OUT, PARTS
from gpucnn.errors import DataError, shortened

IMAGES = ("x", "images", "image", "imgs", "img", "data", "features")
LABELS = ("y", "labels", "label", "targets", "target")

LAYOUTS = ("NCHW", "NHWC")

Role = tuple[str, str]
"""A part ("train", "validation", "test") and "images" or "labels"."""


def role_of(name: str, prefixed: bool = False) -> Role | None:
    """Return the role of an array of this name; None for an unknown name. Without a part it is "train".

    prefixed: whether the data set's name may come first, as in file names.

    >>> role_of("x_train"), role_of("test_labels"), role_of("training_images"), role_of("Y")
    (('train', 'images'), ('test', 'labels'), ('train', 'images'), ('train', 'labels'))
    >>> role_of("weights"), role_of("kmnist-test-imgs"), role_of("kmnist-test-imgs", prefixed=True)
    (None, None, ('test', 'images'))
    """
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    if not prefixed and len(words) > 2:
        return None
    part_of = {name: part for part, names in PARTS.items() for name in names}
    kind_of = {name: kind for kind, names in (("images", IMAGES), ("labels", LABELS)) for name in names}
    for one, other in (words[-2:], words[-2:][::-1]) if len(words) > 1 else ():
        if one in part_of and other in kind_of:
            return part_of[one], kind_of[other]
    alone = len(words) == 1 or (prefixed and bool(words))
    return ("train", kind_of[words[-1]]) if alone and words[-1] in kind_of else None


def roles_of(names: Iterable[str], where: str, prefixed: bool = False) -> dict[Role, str]:
    """Return the name of each array that a data set needs; DataError if two have the same role, or some are missing.

    Validation and test arrays may be missing, but images and labels only together.
    """
    found: dict[Role, str] = {}
    names = sorted(names)
    for name in names:
        role = role_of(name, prefixed)
        if role is not None and role in found:
            raise DataError.expected(where, " ".join(role), "one array", f"{found[role]} and {name}")
        if role is not None:
            found[role] = name
    parts = [part for part in PARTS if part == "train" or (part, "images") in found or (part, "labels") in found]
    if "train" in parts and "test" in parts and not any(role[0] == "train" for role in found):
        parts.remove("train")
    if any((part, kind) not in found for part in parts for kind in ("images", "labels")):
        expected = "x_train, y_train, x_test, y_test (or train_images, train_labels, ...)"
        raise DataError.expected(where, "arrays", expected, shortened(names))
    return found


def datasets(
    arrays: dict[Role, NDArray[Any]], class_names: Sequence[str] | None, where: str, layout: str | None = None
) -> dict[str, ArrayDataset]:
    """Return the parts of a data set; their arrays are removed from ``arrays``.

    Labels may be strings; the classes are then the training set's strings, sorted. layout: "NCHW" or "NHWC"; None decides
    by the shape (``channels_first``).
    """
    sets: dict[str, ArrayDataset] = {}
    for part in PARTS:
        if (part, "images") in arrays:
            images, labels = arrays.pop((part, "images")), np.asarray(arrays.pop((part, "labels")))
            if labels.dtype.kind in "US" and labels.ndim in (1, 2):
                class_names, labels = _numbered(labels.reshape(len(labels), -1), class_names, where)
            sets[part] = ArrayDataset(channels_first(images, where, layout), labels, class_names, where)
            class_names = sets[part].class_names
    return sets


def splits_of(name: str, sets: dict[str, ArrayDataset], framing: str = "centred") -> Splits:
    """Return the data set of these parts; without a test part a fifth of each class is held out for testing, with a note."""
    if "train" not in sets:
        raise DataError.expected(name, "arrays", "images to train on", "test images alone")
    train = sets["train"]
    if "test" in sets:
        return Splits(name, train, sets["test"], framing, sets.get("validation"))
    rest, test = held_out(train, name)
    warnings.warn(
        f"{name}: no test images: {len(test):,} are held out for testing, a fifth of each class", stacklevel=3
    )
    return Splits(name, rest, test, framing, sets.get("validation"))


def measured_of(name: str, sets: dict[str, ArrayDataset]) -> ArrayDataset:
    """Return the images for evaluation: the test part, or without one all images, with a note."""
    if "test" in sets:
        return sets["test"]
    warnings.warn(f"{name}: no test images: all are measured", stacklevel=3)
    return joined(list(sets.values()))


def joined(sets: Sequence[ArrayDataset]) -> ArrayDataset:
    """Return the images of several sets of one task as one."""
    if len(sets) == 1:
        return sets[0]
    images, labels = (np.concatenate([getattr(each, kind) for each in sets]) for kind in ("images", "labels"))
    return ArrayDataset(images, labels, max((each.class_names for each in sets), key=len))


def held_out(data: ArrayDataset, where: str) -> tuple[Dataset, Dataset]:
    """Return (rest, fifth) of a set: the fifth has the lowest SHA-256 of each class, so most stay when images are added."""
    hashes = np.array([hashlib.sha256(image.tobytes()).digest()[:8] for image in data.images], "S8")
    test = np.zeros(len(data), bool)
    for label in np.unique(data.labels):
        members = np.flatnonzero(data.labels == label)
        if len(members) == 1:
            continue
        test[members[np.argsort(hashes[members], kind="stable")][: max(round(len(members) / HELD_OUT), 1)]] = True
    if not test.any():
        raise DataError.expected(where, "images", "at least two of a class, one of them for testing", "fewer")
    return data.subset(np.flatnonzero(~test)), data.subset(np.flatnonzero(test))


def channels_first(images: NDArray[Any], where: str, layout: str | None = None) -> NDArray[Any]:
    """Return images as (N, C, H, W); (N, H, W, C), Keras's layout, is converted with a note if the shape is unambiguous.

    It is unambiguous if only one of the two axes can be the channels: of length 1 or 3, or else shorter than both others.
    Arrays with other numbers of axes are returned unchanged. DataError if both axes can; then ``layout`` must say it.

    >>> channels_first(np.zeros((5, 3, 8, 8)), "example").shape
    (5, 3, 8, 8)
    >>> channels_first(np.zeros((5, 8, 8, 3)), "example", "NHWC").shape
    (5, 3, 8, 8)
    """
    if images.ndim != 4:
        return images
    if layout is not None and layout not in LAYOUTS:
        raise DataError.expected(where, "layout", " or ".join(LAYOUTS), repr(layout[:50]))
    if layout is None:
        _, one, two, last = images.shape
        first, usual = (one in (1, 3), last in (1, 3)), (one < min(two, last), last < min(one, two))
        can_be = first if any(first) else usual
        if can_be[0] == can_be[1]:
            raise DataError.expected(
                where, "images", "channels in one of (N, C, H, W) and (N, H, W, C)", f"shape {images.shape}",
                "say which it is: in an .npz, an array layout of the text NCHW or NHWC",
            )  # fmt: skip
        layout = LAYOUTS[can_be[1]]
        if can_be[1]:
            warnings.warn(f"{where}: images are taken as (N, H, W, C), with {last} channels", stacklevel=4)
    return images.transpose(0, 3, 1, 2) if layout == "NHWC" else images


def _numbered(
    labels: NDArray[Any], class_names: Sequence[str] | None, where: str
) -> tuple[Sequence[str], NDArray[np.int64]]:
    """Return the class names, and the index among them of each string label."""
    if labels.shape[1] != 1:
        raise DataError.expected(where, "labels", "(N,) texts", f"shape {labels.shape}")
    texts = [
        text.decode(errors="backslashreplace") if isinstance(text, bytes) else text for text in labels[:, 0].tolist()
    ]
    names = sorted(set(texts)) if class_names is None else class_names
    places = {name: place for place, name in enumerate(names)}
    if unknown := sorted(set(texts) - set(names)):
        raise DataError.expected(where, "labels", f"some of {shortened(', '.join(names))}", shortened(unknown))
    return names, np.array([places[text] for text in texts], np.int64)
