"""Augmentation of photographs: padded and resized crops, and colours."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""The weights of red, green and blue in grey (ITU-R BT.601)."""

ASPECT = 4 / 3
"""The largest aspect ratio of a box, relative to that of the image."""


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


def boxes(numbers: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Return boxes (B, 4), as fractions of an image: top, left, height, width; their areas are from ``least`` to 1.

    numbers: (B, 4) random numbers from 0 to 1.

    >>> boxes(np.array([[0.0, 0.5, 1.0, 0.5]]), 0.25).tolist()
    [[0.5, 0.25, 0.5, 0.5]]
    """
    area, aspect = least + (1 - least) * numbers[:, 0], np.exp(np.log(ASPECT) * (2 * numbers[:, 1] - 1))
    aspect = np.clip(aspect, area, 1 / area)  # so that both sides fit
    height, width = np.sqrt(area / aspect), np.sqrt(area * aspect)
    return np.stack([numbers[:, 2] * (1 - height), numbers[:, 3] * (1 - width), height, width], 1)


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


def turn_hues(images: Pixels, turns: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return images (B, C, H, W) with hues turned by ``turns`` (B,) of the colour circle, as float32; only RGB changes.

    The largest and the smallest of red, green and blue keep their values, as in HSV.

    >>> turn_hues(np.array([[[[255]], [[0]], [[0]]]], np.uint8), np.array([1 / 3])).ravel().tolist()
    [0.0, 255.0, 0.0]
    """
    x = images.astype(np.float32)
    if x.shape[1] != 3:
        return x
    high, low = x.max(1), x.min(1)
    chroma = high - low
    red, green, blue = x[:, 0], x[:, 1], x[:, 2]
    safe = np.where(chroma > 0, chroma, np.float32(1))
    sixths = np.where(
        high == red, (green - blue) / safe, np.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    sixths += np.mod(6 * turns, 6).astype(np.float32)[:, None, None]
    turned = np.empty_like(x)
    for channel, offset in enumerate((5, 3, 1)):
        place = np.mod(offset + sixths, 6)
        turned[:, channel] = high - chroma * np.clip(np.minimum(place, 4 - place), 0, 1)
    return turned


def blur(images: Pixels, sigmas: NDArray[np.float64], largest: float) -> NDArray[np.float32]:
    """Return images (B, C, H, W) smoothed by Gaussians of standard deviations ``sigmas`` (B,) pixels, as float32.

    Both axes, one after the other, up to three standard deviations; border pixels are repeated. largest: an upper bound of
    the sigmas, which decides the order of sums.

    >>> blur(np.array([[[[0, 100, 0]]]], np.uint8), np.array([0.5]), 0.5).round().tolist()
    [[[[11.0, 79.0, 11.0]]]]
    """
    x = images.astype(np.float32)
    reach = int(np.ceil(3 * largest))
    steps, wide = np.arange(-reach, reach + 1), np.maximum(sigmas, 1e-3)[:, None]
    weights = np.where(np.abs(steps) <= np.ceil(3 * wide), np.exp(-0.5 * (steps / wide) ** 2), 0)
    weights /= weights.sum(1, keepdims=True)
    for axis in (2, 3):
        pad = [(0, 0)] * 4
        pad[axis] = (reach, reach)
        padded, size = np.pad(x, pad, "edge"), x.shape[axis]
        x = np.zeros_like(x)
        for step, weight in enumerate(weights.astype(np.float32).T):
            part = [slice(None)] * 4
            part[axis] = slice(step, step + size)
            x += weight[:, None, None, None] * padded[tuple(part)]
    return x
