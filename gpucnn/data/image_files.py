"""Images that are decoded from their files when they are needed, for folders that do not fit into memory."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucnn import limits
from gpucnn.data.dataset import Dataset, Images, Labels
from gpucnn.data.pictures import decode_picture


class Kept:
    """Decoded images that are kept in memory, up to a number of bytes: the first that are added.

    An epoch reads each image once, so a cache that drops the oldest would never have the image that comes next.
    """

    def __init__(self, most: int) -> None:
        self.most, self.images = most, dict[str, NDArray[np.uint8]]()

    def add(self, path: str, pixels: NDArray[np.uint8]) -> None:
        """Keep an image if there is room."""
        if (len(self.images) + 1) * pixels.nbytes <= self.most:
            self.images[path] = pixels.copy()


class ImageFiles(Dataset):
    """The images of files, decoded to ``shape`` (C, H, W) each time they are read, from any thread.

    paths: of the files; labels: (N,) integers; framing: see ``Splits``; files: their names in reports; kept: a cache that
    sets may share. DataError, which names the file, for an image that cannot be read.
    """

    decodes = True

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        labels: Any,
        class_names: Sequence[str],
        shape: tuple[int, int, int],
        framing: str = "cropped",
        files: Sequence[str] | None = None,
        kept: Kept | None = None,
    ) -> None:
        self.paths, self.labels = [os.fspath(path) for path in paths], np.asarray(labels, np.int64)
        self.class_names, self.shape, self.framing = list(class_names), shape, framing
        self.files = self.paths if files is None else list(files)
        self._kept, self._limited = Kept(0) if kept is None else kept, limits.on()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.shape

    def __getitem__(self, indices: Any) -> tuple[Images, Labels]:
        indices = np.arange(len(self))[indices]
        images = np.empty((len(indices), *self.shape), np.uint8)
        with limits.applied(self._limited):
            for place, index in enumerate(indices):
                path = self.paths[index]
                pixels = self._kept.images.get(path)
                if pixels is None:
                    pixels = decode_picture(Path(path), self.shape, self.framing).pixels
                    self._kept.add(path, pixels)
                images[place] = pixels
        return images, self.labels[indices]

    def subset(self, indices: NDArray[np.int64]) -> ImageFiles:
        return self._other([self.paths[i] for i in indices], self.labels[indices], [self.files[i] for i in indices])

    def relabelled(self, class_names: Sequence[str]) -> ImageFiles:
        other = self._other(self.paths, self._places_in(class_names)[self.labels], self.files)
        other.class_names = list(class_names)
        return other

    def _other(self, paths: Sequence[str], labels: Labels, files: Sequence[str]) -> ImageFiles:
        other = ImageFiles(paths, labels, self.class_names, self.shape, self.framing, files, self._kept)
        other._limited = self._limited
        return other

    def fingerprint(self) -> bytes:
        """Return a SHA-256 of the names and sizes of the files, their labels and the shape: the pixels are not read."""
        digest = hashlib.sha256(f"{self.shape} {self.framing}".encode())
        for path, file in zip(self.paths, self.files, strict=True):
            digest.update(b"\0%b\0%d" % (os.fsencode(file), os.stat(path).st_size))
        digest.update(self.labels.tobytes())
        return digest.digest()

    @property
    def nbytes(self) -> int:
        """The bytes of all images, decoded."""
        return len(self) * math.prod(self.shape)
