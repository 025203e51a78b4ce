"""Small images on a page, and bars of the most probable classes below them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gpucnn.formats import percent
from gpucnn.report.html import name, text
from gpucnn.report.images import data_uri, image_pixels

LARGEST_TILE = 96
"""Longest side of a small image in pixels; larger images are scaled down."""


def scaled_down(pixels: Any, side: int = LARGEST_TILE) -> Any:
    """Return an image scaled down to at most ``side`` rows and columns.

    >>> scaled_down(np.zeros((192, 96), np.uint8)).shape
    (96, 48)
    """
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side), Image.Resampling.BOX)
    return np.asarray(picture)


def tile(pixels: Any, alt: str) -> str:
    """Return uint8 pixels as a small image. alt: the text alternative."""
    pixels = scaled_down(pixels)
    H, W = pixels.shape[:2]
    return f'<img src="{data_uri(pixels)}" alt="{text(alt)}" width="{W}" height="{H}">'


def strip(images: Iterable[Any], alt: str) -> str:
    """Return images (C, H, W) as a row of small ones, all with one text alternative."""
    return f'<div class="strip">{"".join(tile(image_pixels(image), alt) for image in images)}</div>'


def class_bars(class_names: Sequence[str], shares: Sequence[tuple[int, float]], true: int | None = None) -> str:
    """Return bars of classes and their shares, (class, share) pairs; ``true`` is marked as the right one."""
    if not shares:
        return ""
    bars = "".join(
        f'<li class="{"true" if i == true else "other"}" style="--share: {share:.4f}">'
        f"<span>{name(class_names[i])}</span><span>{percent(share, 1)}</span></li>"
        for i, share in shares
    )
    return f'<ol class="bars3">{bars}</ol>'
