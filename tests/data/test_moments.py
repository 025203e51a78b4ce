"""Mean and variance of the pixels of many images: of whole numbers exact, of floats as NumPy has them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from gpucnn.data import moments as module
from gpucnn.data.moments import moments


def test_whole_numbers_are_summed_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 300)
    images = np.random.default_rng(1).integers(0, 256, (37, 3, 9, 11), np.uint8)
    mean, variance = moments(images)
    for c in range(3):
        pixels = [Fraction(int(p)) for p in images[:, c].ravel()]
        exact = sum(pixels, Fraction(0)) / len(pixels)
        assert mean[c] == float(exact)
        assert variance[c] == float(sum((p - exact) ** 2 for p in pixels) / len(pixels))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_do_not_cancel(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 64)
    images = (1000 + np.random.default_rng(2).random((20, 2, 7, 5))).astype(dtype)
    mean, variance = moments(images)
    np.testing.assert_allclose(mean, images.mean((0, 2, 3), dtype=np.float64), rtol=1e-14)
    np.testing.assert_allclose(variance, images.var((0, 2, 3), dtype=np.float64), rtol=1e-10)


def test_images_of_one_grey_have_no_variance() -> None:
    for images in (np.full((5, 1, 3, 3), 200, np.uint8), np.full((5, 1, 3, 3), 0.5, np.float32)):
        assert moments(images)[1].tolist() == [0.0]


def test_little_memory_beside_the_images() -> None:
    import tracemalloc

    images = np.ones((2000, 1, 100, 100), np.uint8)
    tracemalloc.start()
    try:
        moments(images)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 8 * module.BLOCK
