"""Mean and variance of the pixels of many images, without a float64 copy of them all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 2**20
"""Pixels that are widened to float64 together."""


def moments(images: Any, indices: Any = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean (C,) and the variance (C,) of the channels of images (N, C, H, W), N > 0, uint8 or floating.

    indices: of the images to include, by default all.

    For uint8 the sums are exact and divided once: sums of squares of integers fit into float64. For floats the mean is
    computed first, and the squares are of deviations from it, to avoid cancellation.

    >>> mean, variance = moments(np.array([[[[0, 2]]], [[[4, 6]]]], np.uint8))
    >>> mean.tolist(), variance.tolist()
    ([3.0], [5.0])
    """
    _, C, H, W = images.shape
    N = len(images) if indices is None else len(indices)
    count, whole = N * H * W, images.dtype == np.uint8
    means, variances = np.zeros(C), np.zeros(C)
    for c in range(C):
        total = sum(float(block.sum()) for block in _blocks(images[:, c], indices))
        means[c] = total / count
        if whole:
            squares = sum(int(block @ block) for block in _blocks(images[:, c], indices))
            variances[c] = (count * squares - int(total) ** 2) / count**2
        else:
            variances[c] = (
                sum(float(np.square(block - means[c]).sum()) for block in _blocks(images[:, c], indices)) / count
            )
    return means, variances


def _blocks(images: Any, indices: Any) -> Iterator[NDArray[np.float64]]:
    """Yield the pixels of images (N, H, W), a whole number of images at a time."""
    step = max(BLOCK // max(math.prod(images.shape[1:]), 1), 1)
    for start in range(0, len(images) if indices is None else len(indices), step):
        some = slice(start, start + step)
        yield images[some if indices is None else indices[some]].astype(np.float64).ravel()
