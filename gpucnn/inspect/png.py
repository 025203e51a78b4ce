"""Pictures as PNG bytes, without a picture library: the format is a header and zlib.

Portable Network Graphics, third edition (W3C 2025): eight bits a channel, no filtering, not interlaced.
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np

from gpucnn.errors import DTypeError, ShapeError

COLOUR_TYPES = {1: 0, 3: 2}
"""Channels -> the standard's number for grey and RGB."""


def png(pixels: Any) -> bytes:
    """Return a picture as the bytes of a PNG file.

    pixels: uint8, grey (H, W) or RGB (H, W, 3). DTypeError for another dtype, ShapeError for another shape or no pixel.

    >>> png(np.zeros((2, 3), np.uint8))[:8]
    b'\\x89PNG\\r\\n\\x1a\\n'
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8:
        raise DTypeError.expected("png", "pixels", "uint8", pixels.dtype)
    C = 1 if pixels.ndim == 2 else pixels.shape[-1] if pixels.ndim == 3 else 0
    if C not in COLOUR_TYPES or not pixels.size:
        raise ShapeError.expected("png", "pixels", "(H, W) or (H, W, 3), not empty", f"shape {pixels.shape}")
    H, W = pixels.shape[:2]
    rows = np.zeros((H, 1 + W * C), np.uint8)  # before each row a byte says how it was filtered: 0, not at all
    rows[:, 1:] = pixels.reshape(H, -1)
    header = struct.pack(">IIBBBBB", W, H, 8, COLOUR_TYPES[C], 0, 0, 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def data_uri(pixels: Any) -> str:
    """Return a picture, as ``png`` takes it, as text that stands where a web page names a picture file.

    >>> data_uri(np.zeros((2, 3), np.uint8))[:26]
    'data:image/png;base64,iVBO'
    """
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()
