"""Batches on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpucnn.backend import Backend
from gpucnn.data import ArrayDataset, Augmentation, Dataset
from gpucnn.errors import DataError
from gpucnn.training import Loader, Normalisation

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (9, 2, 5, 5), np.uint8)
LABELS = np.arange(9) % 3


class OneByOne(Dataset):
    """A user's own data set: nothing in memory, images made when asked for."""

    class_names = ("a", "b", "c")  # type: ignore[assignment]

    def __init__(self, images: Any = IMAGES, labels: Any = LABELS) -> None:
        self.source = images, labels

    def __len__(self) -> int:
        return len(self.source[0])

    def __getitem__(self, indices: Any) -> tuple[np.ndarray, np.ndarray]:
        images, labels = self.source
        return images[indices], labels[indices]


@pytest.mark.parametrize("kind", [ArrayDataset, OneByOne])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_pixels_are_converted_and_normalised(backend: Backend, kind: Any, precision: str) -> None:
    data = kind(IMAGES, LABELS)
    loader = Loader(data, backend, Normalisation.of(data), precision)
    x, y = loader.batch(np.array([4, 0, 8]))
    pixels = IMAGES.astype(np.float64) / 255
    mean, std = pixels.mean((0, 2, 3), keepdims=True), pixels.std((0, 2, 3), keepdims=True)
    expected = ((pixels - mean) / std)[[4, 0, 8]]
    assert (x.dtype, y.dtype, x.shape) == (precision, "int64", (3, 2, 5, 5))
    np.testing.assert_allclose(x.numpy(), expected, rtol=0, atol=1e-5 if precision == "float32" else 1e-12)
    assert y.tolist() == [1, 0, 2]
    assert x.device == backend.name


@pytest.mark.parametrize("kind", [ArrayDataset, OneByOne])
def test_floats_are_taken_as_they_are(backend: Backend, kind: Any) -> None:
    images = RNG.standard_normal((9, 1, 4, 4)).astype(np.float32) * 7 + 3
    data = kind(images, LABELS)
    x, _ = Loader(data, backend, Normalisation((0.0,), (1.0,))).batch(np.arange(9))
    np.testing.assert_array_equal(x.numpy(), images)
    whole, _ = Loader(data, backend, Normalisation.of(data)).batch(np.arange(9))
    assert abs(whole.numpy().mean()) < 1e-5
    assert abs(whole.numpy().std() - 1) < 1e-5


def test_images_travel_as_they_are_stored(backend: Backend) -> None:
    loader = Loader(ArrayDataset(IMAGES, LABELS), backend, Normalisation((0.0, 0.0), (1.0, 1.0)))
    assert loader._resident is not None
    assert loader._resident[0].dtype == np.uint8


def test_channel_of_one_value_is_not_divided_by_zero(backend: Backend) -> None:
    data = ArrayDataset(np.full((3, 1, 4, 4), 77, np.uint8), [0, 1, 2])
    x, _ = Loader(data, backend, Normalisation.of(data)).batch(np.arange(3))
    np.testing.assert_allclose(x.numpy(), 0, atol=1e-6)


def test_order_is_seeded_complete_and_new_in_each_epoch(backend: Backend) -> None:
    loader = Loader(ArrayDataset(IMAGES, LABELS), backend, Normalisation((0.0, 0.0), (1.0, 1.0)))
    orders = [loader.order(seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert orders == [loader.order(seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.bits
@pytest.mark.parametrize("kind", [ArrayDataset, OneByOne])
def test_augmentation_only_with_a_seed_which_decides_it(backend: Backend, kind: Any) -> None:
    as_they_are = Normalisation((0.0, 0.0), (1 / 255, 1 / 255))
    loader = Loader(kind(IMAGES, LABELS), backend, as_they_are, augmentation=Augmentation(shift=1, noise=0.1))
    chosen = np.array([4, 0, 8])
    plain, _ = loader.batch(chosen)
    np.testing.assert_allclose(plain.numpy(), IMAGES[chosen], atol=1e-4)
    (first, labels), (again, _) = (loader.batch(chosen, (0, 0, 5)) for _ in range(2))
    np.testing.assert_array_equal(first.numpy(), again.numpy())
    assert labels.tolist() == LABELS[chosen].tolist()
    others = [loader.batch(chosen, seed)[0].numpy() for seed in ((0, 0, 0), (0, 0, 6), (0, 1, 5), (1, 0, 5))]
    for i, one in enumerate([plain.numpy(), first.numpy(), *others]):
        assert sum(np.array_equal(one, other) for other in [plain.numpy(), first.numpy(), *others]) == 1, i
    assert np.abs(first.numpy() - first.numpy().round()).max() < 1e-4, "augmented as uint8, before the normalisation"


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (IMAGES[:, 0], LABELS, "images: expected (2, C, H, W)"),
        (IMAGES.astype(int), LABELS, "uint8 or floating"),
        (IMAGES, LABELS.astype(float), "labels: expected (2,) integers"),
        (IMAGES, LABELS[:, None], "labels: expected (2,) integers, got (2, 1)"),
        (IMAGES, LABELS + 1, "labels: expected 0 to 2, got 3 to 3"),
        (IMAGES, LABELS - 3, "labels: expected 0 to 2"),
    ],
)
def test_own_data_set_that_breaks_its_promise_is_told(images: Any, labels: Any, said: str) -> None:
    from gpucnn.backend import get_backend

    with pytest.raises(DataError) as caught:
        Loader(OneByOne(images, labels), get_backend("cpu"), Normalisation((0.0, 0.0), (1.0, 1.0))).batch(
            np.array([2, 5])
        )
    assert said.replace("(2,", "(") in str(caught.value).replace("(1,", "(").replace("(2,", "(")
    assert "OneByOne" in str(caught.value)
