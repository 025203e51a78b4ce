"""Pixels for drawing: images, filters, maps and matrices become uint8 pixels, grey (H, W) or RGB (H, W, 3)."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np

from gpucnn.errors import DTypeError, ShapeError

SIGNED = np.array([(33, 102, 172), (146, 197, 222), (247, 247, 247), (244, 165, 130), (178, 24, 43)], np.float64)
"""Blue for negative, red for positive: ColorBrewer's RdBu, which is safe for the colour-blind (Brewer et al. 2003)."""

WARM = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)
"""From low to high, increasingly light: five points of Matplotlib's "inferno" (Smith & van der Walt 2015)."""

GAP = 1
"""Pixels between the tiles of a sheet, before it is enlarged."""

PAPER = 128
"""The grey between tiles, visible on light and on dark pages."""


def image_pixels(image: Any) -> Any:
    """Return the pixels of an image (C, H, W) of a data set: three channels as RGB, others as the grey of their mean.

    uint8 is unchanged. Floats from 0 to 1 become black to white; if some are outside, the range from least to most does.

    >>> image_pixels(np.array([[[0.0, 0.5, 1.0]]])).tolist()
    [[0, 128, 255]]
    """
    image = np.asarray(image)
    if image.ndim != 3:
        raise ShapeError.expected("image_pixels", "image", "(C, H, W)", f"shape {image.shape}")
    C = image.shape[0]
    if image.dtype != np.uint8:
        values = np.nan_to_num(image.astype(np.float64), posinf=0, neginf=0)
        inside = values.min() >= 0 and values.max() <= 1
        image = _bytes(255 * (values if inside else stretched(values)))
    if C == 3:
        return np.ascontiguousarray(image.transpose(1, 2, 0))
    return image[0] if C == 1 else _bytes(image.mean(0))


def stretched(values: Any) -> Any:
    """Return finite values shifted and scaled to 0 to 1; zeros if all are equal.

    >>> stretched(np.array([2.0, 3.0, 6.0])).tolist()
    [0.0, 0.25, 1.0]
    """
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def filter_pixels(filters: Any, largest: float | None = None) -> Any:
    """Return filters (F, C, KH, KW) as images (F, KH, KW, 3), all on one scale from -``largest`` to ``largest``.

    Filters of three channels are RGB, with zero as middle grey; for others the mean over the channels is blue if negative,
    red if positive. largest: by default the largest magnitude shown.

    >>> filter_pixels(np.array([[[[-1.0, 0.0, 1.0]]]])).tolist()
    [[[[33, 102, 172], [247, 247, 247], [178, 24, 43]]]]
    """
    shown = shown_filters(filters)
    largest = float(np.abs(shown).max()) if largest is None else largest
    scaled = shown / (largest or 1.0)
    if shown.ndim == 4:
        return _bytes(127.5 + 127.5 * scaled)
    return coloured((scaled + 1) / 2, SIGNED)


def shown_filters(filters: Any) -> Any:
    """Return the values that ``filter_pixels`` draws: (F, KH, KW, 3) for filters of three channels, else (F, KH, KW).

    >>> shown_filters(np.ones((6, 1, 5, 5))).shape
    (6, 5, 5)
    """
    filters = np.nan_to_num(np.asarray(filters, np.float64), posinf=0, neginf=0)
    if filters.ndim != 4:
        raise ShapeError.expected("filter_pixels", "filters", "(F, C, KH, KW)", f"shape {filters.shape}")
    return filters.transpose(0, 2, 3, 1) if filters.shape[1] == 3 else filters.mean(1)


def coloured(values: Any, colours: Any) -> Any:
    """Return values from 0 to 1, of any shape, as RGB between ``colours`` (K, 3), which are spread evenly over 0 to 1.

    >>> coloured(np.array([0.0, 0.25, 2.0]), np.array([(0, 0, 0), (200, 100, 0)])).tolist()
    [[0, 0, 0], [50, 25, 0], [200, 100, 0]]
    """
    places = np.linspace(0, 1, len(colours))
    return _bytes(np.stack([np.interp(values, places, np.asarray(colours)[:, i]) for i in range(3)], -1))


def sheet(tiles: Any, columns: int | None = None, side: int = 480) -> Any:
    """Return tiles (N, H, W) or (N, H, W, 3), uint8, as one image, row by row, with grey between them.

    columns: by default so many that the sheet is about square. Every pixel is repeated as often as fits into ``side`` pixels
    of width, so that small tiles stay sharp.

    >>> sheet(np.zeros((3, 5, 5), np.uint8), columns=2, side=1).shape
    (13, 13)
    """
    tiles = np.asarray(tiles)
    if tiles.ndim not in (3, 4) or not tiles.size:
        raise ShapeError.expected("sheet", "tiles", "(N, H, W) or (N, H, W, 3), not empty", f"shape {tiles.shape}")
    N, H, W = tiles.shape[:3]
    columns = min(N, columns or math.ceil(math.sqrt(N * H / W)))
    rows = -(-N // columns)
    page = np.full((rows * (H + GAP) + GAP, columns * (W + GAP) + GAP, *tiles.shape[3:]), PAPER, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (H + GAP) + GAP, i % columns * (W + GAP) + GAP
        page[top : top + H, left : left + W] = tile
    return enlarged(page, max(side // page.shape[1], 1))


def enlarged(pixels: Any, times: int) -> Any:
    """Return an image with every pixel repeated ``times`` times in both directions.

    >>> enlarged(np.array([[1, 2]], np.uint8), 2).tolist()
    [[1, 1, 2, 2], [1, 1, 2, 2]]
    """
    return pixels.repeat(times, 0).repeat(times, 1)


def png(pixels: Any) -> bytes:
    """Return an image as the bytes of a PNG file.

    pixels: uint8, grey (H, W) or RGB (H, W, 3). DTypeError for another dtype, ShapeError for another shape or no pixel.

    >>> png(np.zeros((2, 3), np.uint8))[:8]
    b'\\x89PNG\\r\\n\\x1a\\n'
    """
    from PIL import Image

    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8:
        raise DTypeError.expected("png", "pixels", "uint8", pixels.dtype)
    if not pixels.size or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ShapeError.expected("png", "pixels", "(H, W) or (H, W, 3), not empty", f"shape {pixels.shape}")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def data_uri(pixels: Any) -> str:
    """Return an image, in the form that ``png`` takes, as a data URL for a web page.

    >>> data_uri(np.zeros((2, 3), np.uint8))[:26]
    'data:image/png;base64,iVBO'
    """
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def overlaid(image: Any, heat: Any, share: float = 0.6) -> Any:
    """Return an image (C, H, W) in grey with ``heat`` (H, W), from 0 to 1, over it in warm colours: (H, W, 3) uint8.

    share: the share of the colour where the heat is 1; where it is 0, the image is unchanged.

    >>> overlaid(np.full((1, 1, 2), 200, np.uint8), np.array([[0.0, 1.0]]), 1.0).tolist()
    [[[200, 200, 200], [252, 255, 164]]]
    """
    pixels = image_pixels(image)
    grey = pixels if pixels.ndim == 2 else pixels.mean(2)
    amount = (share * heat)[..., None]
    return _bytes((1 - amount) * grey[..., None] + amount * coloured(heat, WARM))


def _bytes(values: Any) -> Any:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
