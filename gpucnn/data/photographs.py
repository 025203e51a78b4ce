"""What augmentation does to photographs: crops that are padded or resized, and colours that vary."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""How much red, green and blue count in grey (ITU-R BT.601)."""

ASPECT = 4 / 3
"""The most that a box is wider than high, or higher than wide, beside the image."""


def padded_crop(images: Pixels, corners: NDArray[np.int64], pad: int) -> Pixels:
    """Return the windows of images (B, C, H, W), padded by ``pad`` zeros on each side, at ``corners`` (B, 2).

    >>> padded_crop(np.array([[[[1, 2]]]], np.uint8), np.array([[1, 0]]), 1).tolist()
    [[[[0, 1]]]]
    """
    H, W = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    rows, columns = corners[:, :1] + np.arange(H), corners[:, 1:] + np.arange(W)
    every = np.arange(len(images))[:, None, None]
    cropped = padded[every, :, rows[:, :, None], columns[:, None, :]]  # the axes of indices come first
    return np.ascontiguousarray(np.moveaxis(cropped, 3, 1))


def draw_boxes(rng: np.random.Generator, B: int, least: float) -> NDArray[np.float64]:
    """Return boxes (B, 4), as shares of an image: top, left, height, width; their areas are from ``least`` to 1.

    >>> top, left, height, width = draw_boxes(np.random.default_rng(0), 1, 0.5)[0]
    >>> bool(top + height <= 1 and left + width <= 1 and height * width >= 0.49)
    True
    """
    area, aspect = rng.uniform(least, 1, B), np.exp(rng.uniform(-np.log(ASPECT), np.log(ASPECT), B))
    aspect = np.clip(aspect, area, 1 / area)  # so that both sides fit
    height, width = np.sqrt(area / aspect), np.sqrt(area * aspect)
    top, left = rng.random(B) * (1 - height), rng.random(B) * (1 - width)
    return np.stack([top, left, height, width], 1)


def box_places(boxes: NDArray[np.float64], H: int, W: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the rows and columns (B, H, W) at which images are read so that each shows its box alone."""
    top, left, height, width = (boxes[:, i, None] for i in range(4))
    y = (top + height * (np.arange(H) + 0.5) / H) * H - 0.5
    x = (left + width * (np.arange(W) + 0.5) / W) * W - 0.5
    shape = (len(boxes), H, W)
    rows, columns = np.broadcast_to(y[:, :, None], shape), np.broadcast_to(x[:, None, :], shape)
    return rows.astype(np.float32), columns.astype(np.float32)


def vary_colours(images: Pixels, factors: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return images (B, C, H, W) with brightness, contrast and saturation times ``factors`` (B, 3), as float32.

    Saturation changes images of three channels only. uint8 images stay within 0 to 255 after each.

    >>> vary_colours(np.array([[[[100, 200]]]], np.uint8), np.array([[0.5, 2.0, 1.0]])).tolist()
    [[[[25.0, 125.0]]]]
    """
    top = 255.0 if images.dtype == np.uint8 else np.inf
    low = 0.0 if images.dtype == np.uint8 else -np.inf
    brightness, contrast, saturation = (factors[:, i].astype(np.float32)[:, None, None, None] for i in range(3))
    x = np.clip(images.astype(np.float32) * brightness, low, top)
    mean = grey(x).mean((1, 2, 3), dtype=np.float64, keepdims=True).astype(np.float32)
    x = np.clip(mean + (x - mean) * contrast, low, top)
    if x.shape[1] == 3:
        shade = grey(x)
        x = np.clip(shade + (x - shade) * saturation, low, top)
    varied: NDArray[np.float32] = x
    return varied


def grey(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the grey of images (B, C, H, W), (B, 1, H, W): by luma for three channels, else the mean."""
    if images.shape[1] == 3:
        red, green, blue = (images[:, i : i + 1] * LUMA[i] for i in range(3))
        shade: NDArray[np.float32] = red + green + blue
        return shade
    mean: NDArray[np.float32] = images.mean(1, dtype=np.float32, keepdims=True)
    return mean
