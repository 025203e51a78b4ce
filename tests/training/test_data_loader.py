"""Batches under PyTorch's name: shapes, orders, and what a loop makes of them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import nn, optim
from gpucnn.backend import Backend
from gpucnn.data import ArrayDataset, Augmentation
from gpucnn.distributed import Communicator
from gpucnn.errors import DataError, GpucnnError, ParameterError
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
    assert loader.passes == 0, "the loop says which epoch it wants"


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


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_change_neither_order_nor_bits(workers: int) -> None:
    """Also where some images take longer than others."""

    class Slow(Pairs):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            time.sleep(0.002 * (index % 3))
            return super().__getitem__(index)

    augmentation = Augmentation(shift=1, noise=0.1)
    for data, options in ((DATA, {"augmentation": augmentation}), (Slow(), {})):
        alone, helped = (
            [
                (x.numpy(), y.numpy())
                for loader in [DataLoader(data, 3, shuffle=True, seed=4, workers=count, **options)]
                for _ in range(2)
                for x, y in loader
            ]
            for count in (0, workers)
        )
        assert len(alone) == len(helped) == 2 * -(-len(data) // 3)
        for (x, y), (other_x, other_y) in zip(alone, helped, strict=True):
            np.testing.assert_array_equal(x, other_x)
            np.testing.assert_array_equal(y, other_y)


def test_augmentation_depends_on_the_index_and_not_on_the_batch() -> None:
    seen = []
    for size in (1, 3, 10):
        loader = DataLoader(DATA, size, augmentation=Augmentation(shift=1, noise=0.2), seed=2, workers=2)
        seen.append(np.concatenate([x.numpy() for x, _ in loader]))
    np.testing.assert_array_equal(seen[0], seen[1])
    np.testing.assert_array_equal(seen[0], seen[2])


def test_an_error_in_a_worker_comes_where_its_batch_is_due() -> None:
    class Broken(Pairs):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            if index == 4:
                raise SystemExit("the worker leaves")
            return super().__getitem__(index)

    before, seen = threading.active_count(), []
    batches = iter(DataLoader(Broken(), 2, workers=2))
    for _ in range(2):
        seen += next(batches)[1].tolist()
    with pytest.raises(SystemExit, match="the worker leaves"):
        next(batches)
    assert seen == [0, 1, 0, 1]
    assert threading.active_count() == before, "no thread is left"


def test_an_epoch_that_is_left_leaves_no_thread() -> None:
    before = threading.active_count()
    batches = iter(DataLoader(DATA, 1, workers=2))
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_an_epoch_that_a_fork_cuts_is_told() -> None:
    program = """
import os, sys
import numpy as np
from gpucnn.data import ArrayDataset, Augmentation
from gpucnn.errors import DataError
from gpucnn.training import DataLoader
loader = DataLoader(ArrayDataset(np.zeros((40, 1, 2, 2), np.uint8), np.arange(40) % 2), 1, workers=2, device="cpu")
batches = iter(loader)
next(batches)
child = os.fork()
if child == 0:
    try:
        next(batches)
    except DataError as error:
        print(error, flush=True)
        print(len(list(loader)), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(sum(1 for _ in batches))
"""
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    told, new, rest = run.stdout.splitlines()
    assert "forked from it" in told
    assert "Begin the epoch after the fork" in told
    assert (new, rest) == ("40", "39")


def test_ctrl_c_ends_an_epoch_with_workers() -> None:
    program = """
import os, signal, threading, time
import numpy as np
from gpucnn.training import DataLoader
class Slow:
    def __len__(self): return 1000
    def __getitem__(self, index):
        if index == 20:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        return np.zeros(2), 0
try:
    for _ in DataLoader(Slow(), 2, workers=2, device="cpu"): pass
except KeyboardInterrupt:
    print("interrupted", threading.active_count())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.stdout == "interrupted 1\n", run.stderr


@pytest.mark.parametrize("workers", [-1, 1.5, "2", 256, True])
def test_numbers_of_workers_that_cannot_be_are_told(workers: Any) -> None:
    with pytest.raises(GpucnnError, match="workers: expected a whole number from 0 to 255"):
        DataLoader(DATA, workers=workers)


def test_a_loop_goes_on_with_the_epochs_order() -> None:
    """What is resumed in an epoch takes the batches that were due, in the order of that epoch."""
    loader = DataLoader(DATA, 3, shuffle=True, seed=1)
    whole = [y.tolist() for _, _, y in loader.epoch(5)]
    assert [y.tolist() for _, _, y in loader.epoch(5, 2)] == whole[2:]
    assert loader.order(5).tolist() != loader.order(4).tolist()


class _Rank(Communicator):
    """One of two processes."""

    size = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank


@pytest.mark.parametrize("count", [9, 8, 5])  # the last batch of 4: one image, none missing, one image
def test_processes_share_the_batches_of_one(count: int) -> None:
    data = ArrayDataset(np.arange(count * 4, dtype=np.uint8).reshape(count, 1, 2, 2), np.arange(count) % 3)
    kinds: dict[str, Any] = {"batch_size": 4, "shuffle": True, "seed": 3}
    whole = list(DataLoader(data, **kinds))
    parts = [list(DataLoader(data, **kinds, comm=_Rank(rank))) for rank in range(2)]
    assert len(whole) == len(parts[0]) == len(parts[1])
    for (x, y), first, second in zip(whole, *parts, strict=True):
        assert np.array_equal(x.numpy(), np.concatenate([first[0].numpy(), second[0].numpy()]))
        assert y.tolist() == first[1].tolist() + second[1].tolist()
    if count % 4 == 1:
        assert parts[1][-1][0].shape == (0, 1, 2, 2)


def test_an_empty_part_of_items_that_are_pairs() -> None:
    pairs = [(np.full(3, i, np.float32), i) for i in range(3)]
    (_, (x, y)) = list(DataLoader(pairs, 2, comm=_Rank(1)))
    assert x.shape == (0, 3)
    assert y.shape == (0,)


def test_a_communicator_that_is_none() -> None:
    with pytest.raises(ParameterError, match="comm: expected a communicator"):
        DataLoader([(1.0, 0)], comm="mpi")  # type: ignore[arg-type]
