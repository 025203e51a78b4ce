"""Images of arrays: what stands where, worked out by hand."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from gpucnn.errors import DTypeError, ShapeError
from gpucnn.report.images import (
    GAP,
    PAPER,
    SIGNED,
    data_uri,
    filter_pixels,
    image_pixels,
    overlaid,
    png,
    sheet,
)  # fmt: skip


def test_images_as_they_look() -> None:
    rng = np.random.default_rng(0)
    grey, colour = rng.integers(0, 256, (1, 3, 4), np.uint8), rng.integers(0, 256, (3, 3, 4), np.uint8)
    assert (image_pixels(grey) == grey[0]).all()
    assert all((image_pixels(colour)[..., c] == colour[c]).all() for c in range(3))
    assert (image_pixels(np.array([[[0, 10]], [[255, 20]]], np.uint8)) == [[128, 15]]).all()
    assert (image_pixels(grey / 255) == grey[0]).all(), "0 to 1 is black to white"
    assert image_pixels(np.array([[[-3.0, 0.0, 1.0]]])).tolist() == [[0, 191, 255]]
    assert image_pixels(np.array([[[np.nan, np.inf, 7.0, 7.0]]])).tolist() == [[0, 0, 255, 255]]
    assert image_pixels(np.full((1, 1, 2), 9.0)).tolist() == [[0, 0]]
    with pytest.raises(ShapeError, match=r"\(C, H, W\)"):
        image_pixels(np.zeros((2, 2)))


def test_filters_are_blue_below_zero_and_red_above() -> None:
    filters = np.zeros((2, 1, 2, 2))
    filters[0, 0, 0], filters[1, 0, 1, 1] = (-2, 2), 1
    pictures = filter_pixels(filters)
    assert pictures.shape == (2, 2, 2, 3)
    assert pictures[0, 0].tolist() == [SIGNED[0].tolist(), SIGNED[-1].tolist()]
    assert pictures[1, 1, 1].tolist() == SIGNED[3].tolist(), "one scale for all filters: half of the largest"
    assert pictures[1, 0, 0].tolist() == SIGNED[2].tolist()
    assert (filter_pixels(filters, 4.0)[0, 0, 1] == SIGNED[3]).all()
    assert (filter_pixels(np.zeros((1, 2, 1, 1))) == SIGNED[2]).all()
    assert (filter_pixels(np.full((1, 1, 1, 1), np.nan)) == SIGNED[2]).all()


def test_filters_of_colour_images_have_colours() -> None:
    filters = np.zeros((1, 3, 1, 2))
    filters[0, :, 0, 0] = 1, 0, -1
    assert filter_pixels(filters).tolist() == [[[[255, 128, 0], [128, 128, 128]]]]


@pytest.mark.parametrize(("count", "columns"), [(1, None), (6, None), (5, 3), (7, 2), (3, 9)])
def test_every_tile_is_in_the_sheet(count: int, columns: int | None) -> None:
    tiles = np.random.default_rng(1).integers(0, 100, (count, 4, 5, 3), np.uint8)
    small = sheet(tiles, columns, side=1)
    found = []
    for top in range(GAP, small.shape[0], 4 + GAP):
        for left in range(GAP, small.shape[1], 5 + GAP):
            found.append(small[top : top + 4, left : left + 5])
    for tile, place in zip(tiles, found, strict=False):
        assert (tile == place).all()
    assert all((place == PAPER).all() for place in found[count:])
    assert (small == PAPER).all(-1).sum() == small.shape[0] * small.shape[1] - 20 * count
    page = sheet(tiles, columns, side=100)
    times = page.shape[1] // small.shape[1]
    assert (page == small.repeat(times, 0).repeat(times, 1)).all()
    assert 50 < page.shape[1] <= 100


def test_heat_over_an_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 4, 4), np.uint8)
    cold = overlaid(image, np.zeros((4, 4)))
    np.testing.assert_array_equal(cold, np.rint(image.astype(float).mean(0))[..., None].repeat(3, 2))
    hot = overlaid(np.zeros((1, 2, 2), np.uint8), np.array([[0, 0], [0, 1.0]]))
    assert hot[1, 1].min() > 90
    assert not hot[0].any()


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (28, 28), (7, 4, 3), (1, 300, 3), (200, 1)])
def test_pixels_come_back(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with Image.open(io.BytesIO(png(pixels))) as picture:
        assert (picture.format, picture.mode) == ("PNG", "L" if len(shape) == 2 else "RGB")
        picture.verify()  # the sums of all chunks
    with Image.open(io.BytesIO(png(pixels))) as picture:
        assert (np.asarray(picture) == pixels).all()


def test_a_view() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    with Image.open(io.BytesIO(png(pixels.T[::2]))) as picture:
        assert np.asarray(picture).tolist() == pixels.T[::2].tolist()


def test_as_text_in_a_page() -> None:
    pixels = np.eye(3, dtype=np.uint8)
    head, _, text = data_uri(pixels).partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(text, validate=True) == png(pixels)


def test_mistakes() -> None:
    with pytest.raises(DTypeError, match="uint8, got float64"):
        png(np.zeros((2, 2)))
    for shape in ((0, 3), (2, 2, 2), (2, 2, 1), (2,), (1, 2, 2, 3)):
        with pytest.raises(ShapeError, match=r"\(H, W\) or \(H, W, 3\)"):
            png(np.zeros(shape, np.uint8))
