"""The built-in data set ``--data digits``: drawn when its images are first used, and kept in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.data.cache import Arrays, kept
from gpucnn.data.dataset import ArrayDataset
from gpucnn.data.digits import DRAWING, SIZE, draw_digits


class DrawnDigits(ArrayDataset):
    """The first ``count`` digits of a seed, as ``draw_digits`` draws them. ``images`` and ``labels`` are made on first use.

    >>> digits = DrawnDigits("example", 20, seed=0)
    >>> len(digits), digits.image_shape
    (20, (1, 28, 28))
    """

    def __init__(self, name: str, count: int, seed: int) -> None:
        self.name, self.count, self.seed = name, count, seed
        self.class_names = [str(digit) for digit in range(10)]

    def __len__(self) -> int:
        return self.count

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 1, SIZE, SIZE

    def __getattr__(self, name: str) -> Any:
        """Draw the images, or read them from the cache, on the first use of ``images`` or ``labels``."""
        if name not in ("images", "labels"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        # Another NumPy may round another way: a grey level here and there.
        key = f"drawing {DRAWING}, NumPy {np.__version__}, seed {self.seed}, {self.count} digits"
        arrays = kept(f"digits-{self.name}", key, self._draw)
        self.images, self.labels = arrays["images"], arrays["labels"]
        return arrays[name]

    def _draw(self) -> Arrays:
        images, labels = draw_digits(self.count, self.seed, progress=True)
        return {"images": images, "labels": labels}
