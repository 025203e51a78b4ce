"""Batches on the device: images are kept and moved as they are stored, and converted and normalised there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucnn.autograd import Tensor
from gpucnn.backend import Array, Backend
from gpucnn.data import ArrayDataset, Augmentation, Dataset
from gpucnn.errors import DataError
from gpucnn.training.batches import Batches, ReadBatches, ResidentBatches, Scaling
from gpucnn.training.step import Totals

AUGMENTING = 1
"""Last number of the seed of an augmented batch; none is 0, which would seed as if it were left out."""

SAMPLE = 10_000
"""Images from which the mean and standard deviation are measured, where a data set is not in memory."""


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel, of pixels scaled to 0..1 (or as they are, for floats)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, data: Dataset) -> Normalisation:
        """Measure the images of a data set."""
        if isinstance(data, ArrayDataset):
            images = data.images
        else:
            images, _ = data[np.arange(min(len(data), SAMPLE))]
        scale = 255.0 if images.dtype == np.uint8 else 1.0
        mean = images.mean((0, 2, 3), dtype=np.float64) / scale
        std = images.std((0, 2, 3), dtype=np.float64) / scale
        return cls(tuple(mean.tolist()), tuple(float(s) if s > 0 else 1.0 for s in std))


def read_batch(data: Dataset, indices: Any) -> tuple[Any, Any]:
    """Return ``data[indices]``; DataError where it is not what ``Dataset`` promises."""
    images, labels = data[indices]
    images, labels = np.asarray(images), np.asarray(labels)
    where, count = type(data).__name__, len(indices)
    if images.ndim != 4 or len(images) != count or (images.dtype != np.uint8 and images.dtype.kind != "f"):
        raise DataError.expected(
            where, "images", f"({count}, C, H, W), uint8 or floating", f"{images.shape} {images.dtype}"
        )
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DataError.expected(where, "labels", f"({count},) integers", f"{labels.shape} {labels.dtype}")
    check_labels(where, labels, data.classes)
    return images, labels.astype(np.int64, copy=False)


def check_labels(where: str, labels: Any, classes: int) -> None:
    """DataError unless all labels are from 0 to ``classes`` - 1: a GPU cannot complain of them."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError.expected(where, "labels", f"0 to {classes - 1}", f"{labels.min()} to {labels.max()}")


class Feed:
    """Gives batches of a data set as tensors on a device: images (B, C, H, W) normalised, labels (B,) int64.

    A data set in memory goes to the device as a whole where it fits; others are read and moved batch by batch. With an
    ``augmentation``, batches that are asked for with a seed are augmented, on the host.
    """

    def __init__(
        self,
        data: Dataset,
        backend: Backend,
        normalisation: Normalisation,
        precision: str = "float32",
        augmentation: Augmentation | None = None,
    ) -> None:
        self.data, self.backend, self.augmentation = data, backend, augmentation
        first, _ = read_batch(data, np.arange(min(len(data), 1)))
        pixel = 255.0 if first.dtype == np.uint8 else 1.0
        mean, std, dtype = np.array(normalisation.mean), np.array(normalisation.std), np.dtype(precision)
        wide = np.promote_types(dtype, np.float32)
        scale, shift = (1 / (pixel * std)).astype(wide), (-mean / std).astype(wide)
        self._scaling: Scaling = backend.asarray(scale), backend.asarray(shift), dtype
        self._resident: tuple[Array, Array] | None = None
        if isinstance(data, ArrayDataset) and augmentation is None:
            self._resident = self._moved_whole(data)

    def _moved_whole(self, data: ArrayDataset) -> tuple[Array, Array] | None:
        """Return images and labels on the device; None where they do not fit there."""
        if not self.backend.fits(data.images.nbytes + data.labels.nbytes):
            return None
        check_labels(type(data).__name__, data.labels, data.classes)
        return self.backend.asarray(data.images), self.backend.asarray(data.labels)

    def __len__(self) -> int:
        return len(self.data)

    def order(self, seed: int, epoch: int) -> Any:
        """Return the shuffled indices of an epoch, on the host."""
        return np.random.default_rng([seed, epoch]).permutation(len(self))

    def batches(self, size: int, totals: Totals) -> Batches:
        """Return the batches, of ``size`` images and the rest, of orders that are given epoch by epoch.

        ``totals`` count the images of an epoch, on the device, and so how far its order is used up.
        """
        if self._resident is not None:
            return ResidentBatches(self.backend, *self._resident, self._scaling, size, totals)
        return ReadBatches(self.backend, self._read, self._scaling, size)

    def batch(self, indices: Any, seed: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """Return the images and labels of these indices (a host array).

        They are augmented where ``seed`` is given, and it alone says how: a resumed run sees what it would have seen.
        """
        backend = self.backend
        with backend.active():
            if self._resident is not None:
                images, labels = self._resident
                chosen = backend.asarray(indices)
                labels = labels[chosen]
            else:
                images, labels = (backend.asarray(part) for part in self._read(indices, seed))
                chosen = backend.xp.arange(len(indices))
            x = backend.gather(images, chosen, *self._scaling)
        return Tensor(x, backend), Tensor(labels, backend)

    def _read(self, indices: Any, seed: tuple[int, ...]) -> tuple[Any, Any]:
        images, labels = read_batch(self.data, indices)
        if self.augmentation is not None and seed:
            images = self.augmentation(images, np.random.default_rng([*seed, AUGMENTING]))
        return images, labels
