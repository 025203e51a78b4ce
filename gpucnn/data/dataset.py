"""Data sets: images and labels by index."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucnn.errors import DataError

Images = NDArray[Any]
Labels = NDArray[np.int64]

MOST_CLASSES = 2**16
"""Classes beyond which labels are taken for a mistake, where no class names say otherwise."""

FRAMINGS = ("centred", "cropped")
"""Ways in which a picture file becomes an image like those of a data set; see ``Splits``."""


class Dataset:
    """Base of data sets. A subclass gives ``__len__``, ``__getitem__`` and ``class_names``.

    ``dataset[indices]``, for an integer array of shape (B,), returns images (B, C, H, W), uint8 (0 to 255) or float32, and
    labels (B,) int64 from 0 to classes - 1.
    """

    class_names: list[str]

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


class Subset(Dataset):
    """Some of the images of another data set."""

    def __init__(self, whole: Dataset, indices: NDArray[np.int64]) -> None:
        self.whole, self.indices = whole, np.asarray(indices)
        self.class_names = whole.class_names

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, indices: Any) -> tuple[Images, Labels]:
        return self.whole[self.indices[indices]]


class ArrayDataset(Dataset):
    """Images and labels held in memory, checked once, here.

    images: (N, C, H, W) or (N, H, W), uint8 or floating (floats become float32); labels: (N,) integers from 0.
    class_names: by default "0", "1", ... up to the largest label. DataError for what does not fit.

    >>> data = ArrayDataset(np.zeros((2, 28, 28), np.uint8), [0, 1])
    >>> len(data), data.image_shape, data.class_names
    (2, (1, 28, 28), ['0', '1'])
    """

    def __init__(
        self, images: Any, labels: Any, class_names: Sequence[str] | None = None, where: str = "data set"
    ) -> None:
        images, labels = np.asarray(images), np.asarray(labels)
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
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise DataError.expected(where, "labels", "(N,) integers", f"shape {labels.shape} {labels.dtype}")
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

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Any) -> tuple[Images, Labels]:
        return self.images[indices], self.labels[indices]

    def subset(self, indices: NDArray[np.int64]) -> ArrayDataset:
        return ArrayDataset(self.images[indices], self.labels[indices], self.class_names)


@dataclass
class Splits:
    """A training and a test set of the same task, what they are called, and how a picture file becomes such an image.

    framing: "centred": ink in the middle, light on dark, as in MNIST (colour is only scaled); "cropped": the middle square.
    """

    name: str
    train: Dataset
    test: Dataset
    framing: str = "centred"

    def __post_init__(self) -> None:
        for split, data in (("training", self.train), ("test", self.test)):
            if not len(data):
                raise DataError.expected(f"data set {self.name}", f"{split} set", "at least one image", "none")
        if self.train.image_shape != self.test.image_shape:
            raise DataError.expected(
                f"data set {self.name}", "test images", f"the training images' shape {self.train.image_shape}",
                self.test.image_shape,
            )  # fmt: skip
        if self.test.classes > self.train.classes:
            raise DataError.expected(
                f"data set {self.name}", "test labels", f"the {self.train.classes} classes of the training set",
                f"{self.test.classes} classes",
            )  # fmt: skip

    def sha256(self) -> str | None:
        """Return the SHA-256 of all images and labels, as hexadecimal digits; None where not all are held in memory."""
        digest = hashlib.sha256()
        for data in (self.train, self.test):
            if not isinstance(data, ArrayDataset):
                return None
            digest.update(data.images.data)
            digest.update(data.labels.data)
        return digest.hexdigest()
