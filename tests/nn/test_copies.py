"""Copies and pickles: whole, of their own memory, owned by no optimiser; an optimiser's copy owns the copied parameters."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import nn, optim
from gpucnn.backend import Backend

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": lambda thing, p=protocol: pickle.loads(pickle.dumps(thing, p)) for protocol in range(2, 6)
    },
}
every_copy = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


def network() -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(12, 2),
    )
    net[6].weight.configure(lr_multiplier=0.5, l1=0.1, l2=0.2)
    net[6].bias.configure(frozen=True)
    return net


def images() -> gpucnn.Tensor:
    return gpucnn.tensor(np.random.default_rng(0).normal(size=(8, 1, 6, 6)).astype(np.float32))


def train(net: nn.Module, optimizer: optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (net(images()) ** 2).sum().backward()
        optimizer.step()


def state(net: nn.Module) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in net.state_dict().items()}


@every_copy
def test_a_copied_network_is_unbound_and_whole(backend: Backend, copied: Callable[[Any], Any]) -> None:
    net = network()
    optimizer = optim.Adam(net.parameters(), lr=0.01)
    train(net, optimizer, 2)
    twin = copied(net)
    assert state(twin) == state(net)
    assert all(p.store is None and p.grad is None and p.backend is backend for p in twin.parameters())
    last = twin[6].weight
    assert (last.lr_multiplier, last.l1, last.l2, last.requires_grad) == (0.5, 0.1, 0.2, True)
    assert not twin[6].bias.requires_grad
    before = state(net)
    train(twin, optim.SGD(twin.parameters(), lr=0.1), 1)
    assert state(net) == before
    assert state(twin) != before
    train(net, optimizer, 1)  # which still owns the original


@pytest.mark.bits
@every_copy
@pytest.mark.parametrize("make", [optim.Adam, optim.SGD, optim.RMSprop, optim.Adagrad, optim.Adadelta])
def test_a_copied_optimiser_goes_on_with_the_copied_network(copied: Callable[[Any], Any], make: Any) -> None:
    for order in (1, -1):
        net = network()
        optimizer = make(net.named_parameters(), lr=0.01)
        train(net, optimizer, 3)
        net.eval()
        both = copied((net, optimizer)[::order])
        twin, its = both[::order]
        train(net, optimizer, 2)
        train(twin, its, 2)
        assert state(twin) == state(net)
        assert its.steps == optimizer.steps == 5


@every_copy
def test_a_copied_schedule_goes_on(copied: Callable[[Any], Any]) -> None:
    optimizer = optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    schedule.step()
    twin = copied(schedule)
    twin.step()
    assert (twin.optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["lr"]) == (0.25, 0.5)


@pytest.mark.parametrize("copied", [copy.copy, *COPIES.values()])
def test_a_copied_tensor_has_memory_of_its_own(backend: Backend, copied: Callable[[Any], Any]) -> None:
    leaf = gpucnn.tensor([1.0, 2.0], requires_grad=True)
    (leaf * leaf).sum().backward()
    for one in (leaf, leaf * 2, nn.Parameter(gpucnn.tensor([3.0]))):
        twin = copied(one)
        assert (type(twin), twin.tolist(), twin.requires_grad) == (type(one), one.tolist(), True)
        assert twin.is_leaf
        with gpucnn.no_grad():
            twin += 1
        assert twin.tolist() != one.tolist()


def test_a_tied_parameter_stays_tied() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    optim.SGD(net.parameters(), lr=0.1)
    twin = pickle.loads(pickle.dumps(net))
    assert twin[1].weight is twin[0].weight


def test_values_that_cannot_be_written_are_copied() -> None:
    """As joblib gives them to its workers, which read large arrays from a file."""
    net = nn.Linear(2, 2)
    buffers: list[Any] = []
    content = pickle.dumps(net, 5, buffer_callback=buffers.append)
    read_only = [bytes(buffer.raw()) for buffer in buffers]
    assert read_only, "arrays go out of band"
    twin = pickle.loads(content, buffers=read_only)
    train_it = optim.SGD(twin.parameters(), lr=0.1)
    twin(gpucnn.tensor([[1.0, 2.0]])).sum().backward()
    train_it.step()
    assert state(twin) != state(net)
