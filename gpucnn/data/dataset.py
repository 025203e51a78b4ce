"""Data sets: images and labels by index."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucnn.data.mapped import is_mapped
from gpucnn.data.moments import moments
from gpucnn.errors import DataError

Images = NDArray[Any]
Labels = NDArray[np.int64]

MOST_CLASSES = 2**16
"""The most classes without class names; larger labels are treated as a mistake."""

FRAMINGS = ("centred", "cropped")
"""Preprocessing modes of image files; see ``Splits``."""


class Dataset:
    """Base class of data sets. A subclass defines ``__len__``, ``__getitem__`` and ``class_names``.

    ``dataset[indices]``, for an integer array of shape (B,), returns images (B, C, H, W), uint8 (0 to 255) or float32, and
    labels (B,) int64 from 0 to classes - 1.
    """

    class_names: list[str]
    decodes: bool = False
    """Whether images are decoded from files each time: threads then read ahead."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, indices: Any) -> tuple[Images, Labels]:
        raise NotImplementedError

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        images, _ = self[np.arange(min(len(self), 1))]
        C, H, W = images.shape[1:]
        return C, H, W

    def subset(self, indices: NDArray[np.int64]) -> Dataset:
        """Return the data set of these images, in this order."""
        return Subset(self, indices)

    def relabelled(self, class_names: Sequence[str]) -> Dataset:
        """Return the data set with labels as indices into ``class_names``, which include all of its own."""
        return Relabelled(self, class_names)

    def _places_in(self, class_names: Sequence[str]) -> Labels:
        places = {name: place for place, name in enumerate(class_names)}
        return np.array([places[name] for name in self.class_names], np.int64)


class Subset(Dataset):
    """Some of the images of another data set."""

    def __init__(self, whole: Dataset, indices: NDArray[np.int64]) -> None:
        self.whole, self.indices = whole, np.asarray(indices)
        self.class_names, self.decodes = whole.class_names, whole.decodes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, indices: Any) -> tuple[Images, Labels]:
        return self.whole[self.indices[indices]]


class Relabelled(Dataset):
    """The images of another data set, with labels as indices into other class names."""

    def __init__(self, whole: Dataset, class_names: Sequence[str]) -> None:
        self.whole, self.class_names, self.decodes = whole, list(class_names), whole.decodes
        self._places = whole._places_in(class_names)

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, indices: Any) -> tuple[Images, Labels]:
        images, labels = self.whole[indices]
        return images, self._places[labels]


class ArrayDataset(Dataset):
    """Images and labels held in memory, or mapped from a file (``numpy.memmap``); checked once, here.

    images: (N, C, H, W) or (N, H, W), uint8 or floating (floats become float32); labels: (N,) integers from 0, or one-hot,
    (N, classes) with a single 1 in each row. class_names: by default "0", "1", ... up to the largest label. files: the name
    of each image's file, if they have files. DataError for arguments that do not fit.

    >>> data = ArrayDataset(np.zeros((2, 28, 28), np.uint8), [0, 1])
    >>> len(data), data.image_shape, data.class_names
    (2, (1, 28, 28), ['0', '1'])
    """

    files: list[str] | None = None

    def __init__(
        self,
        images: Any,
        labels: Any,
        class_names: Sequence[str] | None = None,
        where: str = "data set",
        files: Sequence[str] | None = None,
    ) -> None:
        images, labels = np.asarray(images), np.asarray(labels)
        if isinstance(class_names, str) or not hasattr(class_names or [], "__iter__"):
            raise DataError.expected(where, "class_names", "a list of names", repr(class_names)[:40])
        if images.ndim == 3:
            images = images[:, None]
        if images.ndim != 4:
            raise DataError.expected(where, "images", "(N, C, H, W) or (N, H, W)", f"shape {images.shape}")
        if 0 in images.shape[1:]:
            raise DataError.expected(where, "images", "at least one pixel", f"shape {images.shape}")
        if images.dtype.kind == "f":
            with np.errstate(over="ignore"):  # a number beyond float32 becomes infinity, and is refused as such
                images = images.astype(np.float32, copy=False)
            if not np.isfinite(images).all():
                raise DataError.expected(where, "images", "finite numbers", "NaN or infinity")
        elif images.dtype != np.uint8:
            raise DataError.expected(where, "images", "uint8 (0 to 255) or a floating dtype", images.dtype)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if is_one_hot(labels):
            class_names = [str(i) for i in range(labels.shape[1])] if class_names is None else class_names
            labels = labels.argmax(1)
        if labels.ndim != 1 or labels.dtype.kind not in "biu":
            expected = "(N,) integers or (N, classes) one-hot"
            raise DataError.expected(where, "labels", expected, f"shape {labels.shape} {labels.dtype}")
        if len(images) != len(labels):
            raise DataError.expected(where, "labels", f"one for each of {len(images)} images", f"{len(labels)}")
        low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, -1)
        most = MOST_CLASSES if class_names is None else len(class_names)
        if low < 0 or high >= most:
            raise DataError.expected(where, "labels", f"0 to {most - 1}", f"{low} to {high}")
        labels = labels.astype(np.int64)
        if class_names is None:
            class_names = [str(i) for i in range(high + 1)]
        self.images: Images = np.ascontiguousarray(images)
        self.labels: Labels = labels
        self.class_names = [str(name) for name in class_names]
        self.files = None if files is None else list(files)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Any) -> tuple[Images, Labels]:
        return self.images[indices], self.labels[indices]

    def subset(self, indices: NDArray[np.int64]) -> Dataset:
        if is_mapped(self.images):  # they would not fit into memory
            return Subset(self, indices)
        files = None if self.files is None else [self.files[i] for i in indices]
        return ArrayDataset(self.images[indices], self.labels[indices], self.class_names, files=files)

    def relabelled(self, class_names: Sequence[str]) -> ArrayDataset:
        return ArrayDataset(self.images, self._places_in(class_names)[self.labels], class_names, files=self.files)


def is_one_hot(labels: NDArray[Any]) -> bool:
    """Whether labels are (N, classes), at least two, with a single 1 and otherwise 0 in each row.

    >>> is_one_hot(np.eye(3)), is_one_hot(np.zeros((3, 2))), is_one_hot(np.array([0, 1]))
    (True, False, False)
    """
    if labels.ndim != 2 or labels.shape[1] < 2 or labels.dtype.kind not in "biuf":
        return False
    ones = labels == 1
    return bool((ones | (labels == 0)).all() and (ones.sum(1) == 1).all())


SAMPLE = 512
"""Number of images per set whose pixels are compared."""

FAR = 32.0
"""Ratio of root mean squares from which two sets count as having different scales."""


def check_scales(where: str, train: Dataset, part: str, data: Dataset) -> None:
    """DataError if the pixels of two sets in memory have different scales."""
    if type(train) is not ArrayDataset or type(data) is not ArrayDataset:  # others may take long to make their images
        return
    first, second = (each.images[:: max(len(each) // SAMPLE, 1)] for each in (train, data))
    expected = f"the training images' scale ({_scale(first)})"
    if first.dtype.kind == "f" and second.dtype == np.uint8:  # the floats are what has to be looked at
        check_scale(
            where, "training images", first, "uint8", root_mean_square(second), f"the {part} images' scale (uint8)"
        )
    else:
        check_scale(where, f"{part} images", second, str(first.dtype), root_mean_square(first), expected)


def check_scale(where: str, what: str, images: Images, dtype: str, usual: float, expected: str) -> None:
    """DataError unless images have the scale of others with this ``dtype`` and root mean square.

    A network gets uint8 as 0 to 1, so floats from 0 to 1 have the same scale. For others its answers would be random.
    """
    floats = images.dtype.kind == "f" and dtype == "uint8" and (images.min() < 0 or images.max() > 1)
    found = root_mean_square(images)
    if floats or max(found, usual) > FAR * min(found, usual) > 0:
        remedy = "save all as uint8, 0 to 255, or as floats of one scale"
        raise DataError.expected(where, what, expected, _scale(images), remedy)


def root_mean_square(images: Images) -> float:
    """Return the root mean square of images before normalisation, with uint8 scaled to 0 to 1."""
    mean, variance = moments(images)
    return float(np.sqrt(np.mean(variance + mean**2))) / (255 if images.dtype == np.uint8 else 1)


def _scale(images: Images) -> str:
    return f"{images.dtype}, {images.min():g} to {images.max():g}"


@dataclass
class Splits:
    """A training and a test set of the same task, their name, and the preprocessing of image files.

    framing: "centred": ink in the middle, light on dark, as in MNIST (colour is only scaled); "cropped": the middle square.
    validation: a set that came with the data; None if one is to be held out of the training set. DataError for sets that are
    empty or do not fit the training set.
    """

    name: str
    train: Dataset
    test: Dataset
    framing: str = "centred"
    validation: Dataset | None = None

    def __post_init__(self) -> None:
        where, train = f"data set {self.name}", self.train
        if not len(train):
            raise DataError.expected(where, "training set", "at least one image", "none")
        for part, data in (("test", self.test), ("validation", self.validation)):
            if data is None:
                continue
            if not len(data):
                raise DataError.expected(where, f"{part} set", "at least one image", "none")
            if train.image_shape != data.image_shape:
                expected = f"the training images' shape {train.image_shape}"
                raise DataError.expected(where, f"{part} images", expected, data.image_shape)
            if data.classes > train.classes:
                expected = f"the {train.classes} classes of the training set"
                raise DataError.expected(where, f"{part} labels", expected, f"{data.classes} classes")
            check_scales(where, train, part, data)

    def sha256(self) -> str | None:
        """Return the SHA-256 of all images and labels, as hexadecimal digits; None for data sets of a user's own.

        For images that are read from files it is the SHA-256 of the files' names and sizes.
        """
        digest = hashlib.sha256()
        for data in (self.train, self.test, *([] if self.validation is None else [self.validation])):
            if data.decodes and hasattr(data, "fingerprint"):
                digest.update(data.fingerprint())
                continue
            if not isinstance(data, ArrayDataset):
                return None
            digest.update(data.images.data)
            digest.update(data.labels.data)
        return digest.hexdigest()
