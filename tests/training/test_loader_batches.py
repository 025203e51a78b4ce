"""The batches of an epoch: the same whether the data set lies on the device or is read and copied batch by batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import nn
from gpucnn.backend import Backend
from gpucnn.data import ArrayDataset, Augmentation, Dataset
from gpucnn.errors import DataError
from gpucnn.training import Loader, Normalisation, evaluate
from gpucnn.training.loader import ReadBatches, ResidentBatches

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (23, 1, 28, 28), np.uint8), RNG.integers(0, 10, 23)
DATA = ArrayDataset(IMAGES, LABELS, [str(i) for i in range(10)])
PLAIN = Normalisation((0.5,), (0.25,))


class Read(Dataset):
    """The same images, made when asked for; ``asked`` says which."""

    class_names = DATA.class_names

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(DATA)

    def __getitem__(self, indices: Any) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(indices.tolist())
        return DATA[indices]


def taken(loader: Loader, size: int, order: Any, start: int = 0, seed: tuple[int, ...] = ()) -> list[tuple[Any, Any]]:
    """Take all batches, and look at them only then: none may change when the next ones come."""
    batches = loader.batches(size)
    tensors = [batches.take(*given) for given in batches.of(order, start, seed)]
    return [(x.numpy(), y.numpy()) for x, y in tensors]


def same(ours: list[tuple[Any, Any]], theirs: list[tuple[Any, Any]]) -> bool:
    return len(ours) == len(theirs) and all(
        np.array_equal(a, b) for pair, other in zip(ours, theirs, strict=True) for a, b in zip(pair, other, strict=True)
    )


@pytest.mark.bits
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("data", [DATA, Read()], ids=["resident", "read"])
@pytest.mark.parametrize(("size", "start"), [(1, 0), (5, 0), (5, 2), (5, 4), (23, 0), (100, 0)])
def test_they_are_the_batches_of_the_loader(backend: Backend, data: Any, size: int, start: int, precision: str) -> None:
    loader = Loader(data, backend, PLAIN, precision)
    assert isinstance(loader.batches(size), ReadBatches if isinstance(data, Read) else ResidentBatches)
    order = loader.order(3, 1)
    expected = []
    for first in range(start * size, 23, size):
        x, y = loader.batch(order[first : first + size])
        expected.append((x.numpy(), y.numpy()))
    assert same(taken(loader, size, order, start), expected)
    assert [len(y) for _, y in expected][-1] == (23 % size or size)


def test_epoch_after_epoch_with_the_same_batches(backend: Backend) -> None:
    loader = Loader(DATA, backend, PLAIN)
    batches = loader.batches(10)
    for order in (np.arange(23), np.arange(23)[::-1], np.arange(23)):
        found = [batches.take(*given)[1].tolist() for given in batches.of(order)]
        assert [label for some in found for label in some] == LABELS[order].tolist()


def test_images_are_read_in_order_once_and_no_sooner_than_needed(backend: Backend) -> None:
    data = Read()
    batches = Loader(data, backend, PLAIN).batches(10)
    data.asked.clear()
    for i, given in enumerate(batches.of(np.arange(23), start=1), start=1):
        assert data.asked == [list(range(first, min(first + 10, 23))) for first in range(10, 10 * i + 10, 10)]
        assert given[0] == (10, 10, 3)[i]


@pytest.mark.bits
def test_augmented_images_depend_on_seed_epoch_and_index_alone(backend: Backend) -> None:
    loader = Loader(DATA, backend, PLAIN, augmentation=Augmentation(shift=2, noise=0.1))
    order = loader.order(0, 0)
    whole = taken(loader, 10, order, 0, (0, 0))
    assert same(taken(loader, 10, order, 1, (0, 0)), whole[1:])
    x, y = loader.batch(order[10:20], (0, 0))
    assert same([(x.numpy(), y.numpy())], whole[1:2])
    assert not same(taken(loader, 10, order, 0, (0, 1)), whole)
    joined = np.concatenate([x for x, _ in whole])
    for size in (1, 4, 23):
        np.testing.assert_array_equal(np.concatenate([x for x, _ in taken(loader, size, order, 0, (0, 0))]), joined)
    again = np.concatenate([x for x, _ in taken(loader, 6, order[::-1], 0, (0, 0))])
    np.testing.assert_array_equal(again[::-1], joined)
    assert not same(taken(loader, 10, order), whole)


@pytest.mark.bits
def test_what_does_not_fit_on_the_device_is_read(standin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = taken(Loader(DATA, standin, PLAIN), 7, np.arange(23))
    bytes_of_data = IMAGES.nbytes + LABELS.nbytes
    for free, kind in ((2 * bytes_of_data, ResidentBatches), (2 * bytes_of_data - 2, ReadBatches)):
        monkeypatch.setattr(standin.xp.cuda.runtime, "memGetInfo", lambda free=free: (free, 2**40))
        with standin.xp.standin.transfers.counted() as inside:
            loader = Loader(DATA, standin, PLAIN)
        assert inside.to_device == (4 if kind is ResidentBatches else 2)  # scale and shift; images and labels
        assert isinstance(loader.batches(7), kind)
        assert same(taken(loader, 7, np.arange(23)), expected)


def test_a_resident_epoch_moves_its_order_and_nothing_else(standin: Any) -> None:
    loader = Loader(DATA, standin, PLAIN)
    batches = loader.batches(5)
    transfers, launches = standin.xp.standin.transfers, standin.xp.standin.launches
    with transfers.counted() as inside:
        given = list(batches.of(loader.order(0, 0)))
    assert (inside.to_device, inside.total) == (1, 1)
    with transfers.counted() as inside, launches.counted() as launched:
        batches.take(*given[0])
    assert inside.total == 0
    assert launched == {"gather_next": 1, "cupy_add": 1}, "the batch, and the cursor"


def test_labels_that_were_changed_since_are_noticed_where_they_go_to_the_device(backend: Backend) -> None:
    data = ArrayDataset(IMAGES, LABELS, DATA.class_names)
    data.labels[3] = 10
    with pytest.raises(DataError, match="ArrayDataset: labels: expected 0 to 9, got 0 to 10"):
        Loader(data, backend, PLAIN)


@pytest.mark.bits
@pytest.mark.parametrize("batch_size", [1, 6, 23])
def test_evaluation_is_the_same_wherever_the_data_lies(backend: Backend, batch_size: int) -> None:
    gpucnn.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    ours, theirs = (evaluate(net, Loader(data, backend, PLAIN), batch_size) for data in (Read(), DATA))
    assert (ours.loss, ours.accuracy) == (theirs.loss, theirs.accuracy)
    for name in ("labels", "predictions", "confidences", "losses"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_evaluation_waits_for_the_device_at_its_end_only(standin: Any) -> None:
    with gpucnn.use(standin):
        net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    seen = []
    for size in (12, 6):
        loader = Loader(DATA, standin, PLAIN)
        with standin.xp.standin.transfers.counted() as inside:
            evaluate(net, loader, size)
        seen.append((inside.to_device, inside.waits))
    assert seen[0] == seen[1], "no more for more batches"
