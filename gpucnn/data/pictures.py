"""Reading picture files for a trained network (needs Pillow, the ``images`` extra)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucnn.errors import DataError

LARGEST = 50_000_000
"""Pixels above which a picture is refused: more than a camera's, less than what fills the memory."""


def read_picture(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return a picture file as uint8 (C, H, W) of ``shape``.

    One channel: grey, light on dark whichever way it came, the ink scaled into the middle 20/28 and centred by its mass,
    as MNIST was made (LeCun et al. 1998). Three channels: RGB, scaled to fit. DataError for what is no picture, or is too
    large, and without Pillow.
    """
    C, H, W = shape
    picture = _open(path)
    if C == 3:
        return np.asarray(picture.convert("RGB").resize((W, H))).transpose(2, 0, 1)
    if C != 1:
        raise DataError.expected(str(path), "network", "one that reads grey or RGB pictures", f"{C} channels")
    grey = np.asarray(_on_white(picture).convert("L"), np.float32)
    return _centre(_light_on_dark(grey), H, W)[None]


def _open(path: Path) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("reading pictures needs Pillow. Install it: pip install 'gpucnn[images]'.") from None
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > LARGEST:
                raise DataError.expected(str(path), "picture", f"at most {LARGEST:,} pixels", f"{picture.size}")
            picture.load()
            return picture
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: is no readable picture ({error}).") from None


def _on_white(picture: Any) -> Any:
    """Return the picture on white paper where it is transparent."""
    from PIL import Image

    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)


def _light_on_dark(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the picture with a dark background (0) and light ink (255); the background is what the border shows."""
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    background = float(np.median(border))
    ink = np.abs(grey - background)
    return ink * (255 / max(float(ink.max()), 1.0))


def _centre(ink: NDArray[np.float32], H: int, W: int) -> NDArray[np.uint8]:
    """Return (H, W): the ink in a box of 20/28 of the size, its centre of mass in the middle."""
    from PIL import Image

    marked = ink > 64
    if not marked.any():
        return np.zeros((H, W), np.uint8)
    rows, columns = np.flatnonzero(marked.any(1)), np.flatnonzero(marked.any(0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / 28 * min(H, W) / max(ink.shape)
    size = max(round(ink.shape[1] * scale), 1), max(round(ink.shape[0] * scale), 1)
    small = np.asarray(Image.fromarray(ink.astype(np.uint8)).resize(size, Image.Resampling.LANCZOS), np.float32)
    mass = max(float(small.sum()), 1.0)
    centre_row = float((small.sum(1) * np.arange(small.shape[0])).sum()) / mass
    centre_column = float((small.sum(0) * np.arange(small.shape[1])).sum()) / mass
    top = min(max(round(H / 2 - 0.5 - centre_row), 0), H - small.shape[0])
    left = min(max(round(W / 2 - 0.5 - centre_column), 0), W - small.shape[1])
    page = np.zeros((H, W), np.uint8)
    page[top : top + small.shape[0], left : left + small.shape[1]] = small
    return page
