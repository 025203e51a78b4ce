"""Batches under PyTorch's name: shapes, orders, and what a loop makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import nn, optim
from gpucnn.backend import Backend
from gpucnn.data import ArrayDataset
from gpucnn.errors import DataError, GpucnnError
from gpucnn.training import Accuracy, DataLoader, Loop

IMAGES = np.arange(10 * 4, dtype=np.uint8).reshape(10, 1, 2, 2)
DATA = ArrayDataset(IMAGES, np.arange(10) % 3)


class Pairs:
    """A data set in PyTorch's style: one example at a time."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index >= 7:
            raise IndexError(index)
        return np.full((2,), index, np.float64), index % 2


def labels(loader: DataLoader) -> list[int]:
    return [label for _, y in loader for label in y.tolist()]


def test_batches_are_tensors_on_the_device(backend: Backend) -> None:
    loader = DataLoader(DATA, batch_size=4)
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert [tuple(x.shape) for x, _ in batches] == [(4, 1, 2, 2), (4, 1, 2, 2), (2, 1, 2, 2)]
    x, y = batches[1]
    assert (x.device, y.device) == (backend.name, backend.name)
    np.testing.assert_array_equal(x.numpy(), IMAGES[4:8].astype(np.float32) / np.float32(255))
    assert y.tolist() == [1, 2, 0, 1]
    assert str(y.dtype) == "int64"


def test_each_epoch_has_its_order_and_a_seed_repeats_them() -> None:
    loaders = [DataLoader(DATA, 3, shuffle=True, seed=seed) for seed in (1, 1, 2)]
    orders = [
        [tuple(int(v * 255 + 0.5) // 4 for x, _ in loader for v in x.numpy()[:, 0, 0, 0]) for _ in range(2)]
        for loader in loaders
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0][0] != orders[0][1]
    assert all(sorted(order) == list(range(10)) for order in orders[0])


def test_the_last_batch_can_be_left_out_and_inputs_transformed() -> None:
    loader = DataLoader(DATA, 4, drop_last=True, transform=lambda x: x.astype(np.float32) - 1)
    assert len(loader) == len(list(loader)) == 2
    x, _ = next(iter(loader))
    assert x.numpy().ravel()[:3].tolist() == [-1, 0, 1]


def test_data_sets_of_pytorchs_style() -> None:
    x, y = next(iter(DataLoader(Pairs(), batch_size=5)))
    assert (tuple(x.shape), str(x.dtype), y.tolist()) == ((5, 2), "float64", [0, 1, 0, 1, 0])
    assert labels(DataLoader([(gpucnn.ones(2), 1), (gpucnn.ones(2), 0)])) == [1, 0]


def test_a_loop_takes_it_as_its_batches() -> None:
    gpucnn.manual_seed(0)
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = (rng.random((60, 1, 3, 3)) + y[:, None, None, None]).astype(np.float32)
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    loader = DataLoader(ArrayDataset(x, y), 10, shuffle=True)
    history = Loop(net, nn.CrossEntropyLoss(), optim.Adam(net.parameters(), lr=0.05), loader, [Accuracy()]).run(8)
    assert history[-1]["accuracy"] == 1
    assert loader.epoch == 8


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: DataLoader(3),
        lambda: DataLoader(DATA, 0),
        lambda: DataLoader(DATA, shuffle="yes"),  # type: ignore[arg-type]
        lambda: DataLoader(DATA, transform=3),  # type: ignore[arg-type]
        lambda: DataLoader(DATA, seed="a"),  # type: ignore[arg-type]
        lambda: DataLoader([]),
        lambda: DataLoader(DATA, 11, drop_last=True),
        lambda: list(DataLoader([1, 2])),
    ],
)
def test_mistakes(attempt: Any) -> None:
    with pytest.raises(GpucnnError):
        attempt()


def test_no_batch_is_told_before_the_loop() -> None:
    with pytest.raises(DataError, match="at least one batch, got 10 examples"):
        DataLoader(DATA, 11, drop_last=True)
