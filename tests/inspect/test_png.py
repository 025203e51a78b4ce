"""PNG files as Pillow reads them."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest

from gpucnn.errors import DTypeError, ShapeError
from gpucnn.inspect.png import data_uri, png

Image = pytest.importorskip("PIL.Image")


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (28, 28), (7, 4, 3), (1, 300, 3), (200, 1)])
def test_pixels_come_back(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with Image.open(io.BytesIO(png(pixels))) as picture:
        assert (picture.format, picture.mode) == ("PNG", "L" if len(shape) == 2 else "RGB")
        picture.verify()  # the sums of all chunks
    with Image.open(io.BytesIO(png(pixels))) as picture:
        assert (np.asarray(picture) == pixels).all()


def test_a_view_and_one_channel() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    with Image.open(io.BytesIO(png(pixels.T[::2]))) as picture:
        assert np.asarray(picture).tolist() == pixels.T[::2].tolist()
    assert png(pixels[..., None]) == png(pixels)


def test_as_text_in_a_page() -> None:
    pixels = np.eye(3, dtype=np.uint8)
    head, _, text = data_uri(pixels).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(text, validate=True) == png(pixels)


def test_mistakes() -> None:
    with pytest.raises(DTypeError, match="uint8, got float64"):
        png(np.zeros((2, 2)))
    for shape in ((0, 3), (2, 2, 2), (2,), (1, 2, 2, 3)):
        with pytest.raises(ShapeError, match=r"\(H, W\) or \(H, W, 3\)"):
            png(np.zeros(shape, np.uint8))
