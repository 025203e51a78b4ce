"""Augmentation of photographs: against Pillow, PyTorch, or by definition."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from gpucnn.data import Augmentation
from gpucnn.data.augment import _interpolate
from gpucnn.data.photographs import blur, box_places, boxes, padded_crop, turn_hues, vary_colours

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 3, 9, 7), np.uint8)


@pytest.mark.parametrize("kind", ["Brightness", "Contrast", "Color"])
@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_colours_are_those_of_pillow(kind: str, factor: float) -> None:
    factors = np.ones((6, 3))
    factors[:, ["Brightness", "Contrast", "Color"].index(kind)] = factor
    found = np.rint(vary_colours(IMAGES, factors))
    for image, ours in zip(IMAGES, found, strict=True):
        theirs = getattr(ImageEnhance, kind)(Image.fromarray(image.transpose(1, 2, 0))).enhance(factor)
        assert np.abs(ours - np.asarray(theirs).transpose(2, 0, 1)).max() <= 1.01  # they round grey and mean first


def test_a_padded_crop_is_a_window_of_the_padded_image() -> None:
    corners = RNG.integers(0, 7, (6, 2))
    found = padded_crop(IMAGES, corners, 3)
    for image, (top, left), crop in zip(IMAGES, corners, found, strict=True):
        padded = np.zeros((3, 15, 13), np.uint8)
        padded[:, 3:12, 3:10] = image
        np.testing.assert_array_equal(crop, padded[:, top : top + 9, left : left + 7])


def test_a_resized_crop_is_the_box_scaled_up() -> None:
    torch = pytest.importorskip("torch")
    image = RNG.random((1, 1, 8, 8))
    found = _interpolate(image, *box_places(np.array([[0.25, 0.5, 0.5, 0.5]]), 8, 8))
    box = torch.tensor(image[:, :, 2:6, 4:8])
    expected = torch.nn.functional.interpolate(box, size=(8, 8), mode="bilinear", align_corners=False).numpy()
    np.testing.assert_allclose(
        found[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1], rtol=1e-5
    )  # ours sees beyond the box


def test_boxes_are_in_the_image_and_of_the_area() -> None:
    top, left, height, width = boxes(np.random.default_rng(1).random((5000, 4)), 0.2).T
    assert (np.minimum(top, left) >= 0).all()
    assert (np.maximum(top + height, left + width) <= 1 + 1e-12).all()
    area = height * width
    assert 0.2 - 1e-9 <= area.min() < 0.21
    assert 0.99 < area.max() <= 1 + 1e-9


def test_each_kind_is_decided_by_the_seed() -> None:
    for text in ("crop=2", "resized_crop=0.3", "colour=0.4", "hue=0.2", "grey=0.5", "blur=1"):
        augment = Augmentation.parse(text)
        first, again, other = (augment(IMAGES, np.random.default_rng(seed)) for seed in (3, 3, 4))
        assert first.dtype == IMAGES.dtype
        assert first.shape == IMAGES.shape
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other), text
    greys = Augmentation(grey=1.0)(IMAGES, np.random.default_rng(0))
    assert (greys == greys[:, :1]).all()


@pytest.mark.parametrize("turn", [-0.5, -0.2, 0.0, 0.1, 1 / 3, 0.5])
def test_hues_are_those_of_the_standard_library(turn: float) -> None:
    images = np.concatenate([IMAGES, np.full((1, 3, 9, 7), 77, np.uint8)])
    found = turn_hues(images, np.full(7, turn))
    for image, ours in zip(images, found, strict=True):
        for place in np.ndindex(9, 7):
            h, s, v = colorsys.rgb_to_hsv(*(image[(slice(None), *place)] / 255))
            expected = np.array(colorsys.hsv_to_rgb((h + turn) % 1, s, v)) * 255
            np.testing.assert_allclose(ours[(slice(None), *place)], expected, atol=1e-3)


def test_hues_of_other_than_three_channels_stay() -> None:
    np.testing.assert_array_equal(turn_hues(IMAGES[:, :1], np.full(6, 0.3)), IMAGES[:, :1])


def test_a_blur_is_a_gaussian_of_each_images_own_width() -> None:
    sigmas = np.array([0.0, 0.3, 0.8, 1.0, 1.7, 2.0])
    found = blur(IMAGES, sigmas, 2.0)
    np.testing.assert_allclose(found[0], IMAGES[0])
    for image, ours, sigma in list(zip(IMAGES, found, sigmas, strict=True))[1:]:
        reach = int(np.ceil(3 * sigma))
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        kernel = np.outer(weights, weights) / weights.sum() ** 2
        padded = np.pad(image.astype(float), ((0, 0), (reach, reach), (reach, reach)), "edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape, (1, 2))
        np.testing.assert_allclose(ours, (windows * kernel).sum((3, 4)), atol=1e-3)
