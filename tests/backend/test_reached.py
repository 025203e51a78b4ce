"""Every registered implementation is reached by a network or an operation below."""

from __future__ import annotations

from functools import partial, wraps
from typing import Any

import numpy as np
import pytest

import gpucnn
import gpucnn.functional as F
from gpucnn import models, nn, no_grad, optim
from gpucnn.backend import Backend, Window, get_backend, ops
from gpucnn.backend.dispatch import OPERATIONS
from gpucnn.data import ArrayDataset, Dataset
from gpucnn.onnx import tape
from gpucnn.training import Loader, Loop, Normalisation
from gpucnn.training.metrics import LossAndAccuracy

Place = tuple[str, str]
"""The module and the name of an implementation."""


class Generated(Dataset):
    """Images made when they are read, so they are moved to the device batch by batch."""

    def __init__(self) -> None:
        self.class_names = ["dark", "light"]

    def __len__(self) -> int:
        return 8

    def __getitem__(self, indices: Any) -> Any:
        labels = np.asarray(indices) % 2
        return np.broadcast_to(labels[:, None, None, None] * 200, (len(labels), 16, 8, 8)).astype(np.uint8), labels


def place_of(function: Any) -> Place:
    return function.__module__.rpartition(".")[2], function.__name__


def implementations(kind: str) -> set[Place]:
    return {place_of(function) for one in OPERATIONS.values() for _, function in one.implementations.get(kind, ())}


@pytest.fixture
def reached(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> set[Place]:
    """The implementations that have run."""
    found: set[Place] = set()

    def noting(function: Any) -> Any:
        @wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            found.add(place_of(function))
            return function(*arguments, **named)

        return run

    for one in OPERATIONS.values():
        known = one.implementations.get(backend.kind)
        if known:
            monkeypatch.setitem(one.implementations, backend.kind, [(when, noting(f)) for when, f in known])
    return found


def train(net: nn.Module, data: Dataset, make_optimizer: Any, batch: int = 4) -> None:
    backend = get_backend(gpucnn.zeros(1).device)
    net.to(backend.name)
    batches = Loader(data, backend, Normalisation.of(data)).batches(batch, seed=0)
    Loop(net, nn.CrossEntropyLoss(), make_optimizer(net.parameters()), batches, [LossAndAccuracy()]).run(2)
    with no_grad():
        net.eval()(gpucnn.zeros(1, *data.image_shape))


def run_networks() -> None:
    rng = np.random.default_rng(0)
    grey = ArrayDataset(rng.integers(0, 256, (8, 1, 28, 28), dtype=np.uint8), np.arange(8) % 2)
    deep = ArrayDataset(rng.integers(0, 256, (8, 16, 8, 8), dtype=np.uint8), np.arange(8) % 2)
    train(models.lenet(classes=2), grey, partial(optim.SGD, lr=0.01, momentum=0.9))
    train(models.resnet(classes=2, in_channels=16, width=3, blocks=1), deep, optim.Adam)
    fused = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 2))
    train(fused, Generated(), partial(optim.SGD, lr=0.01))
    apart = (
        *(nn.Conv2d(16, 48, 3, padding=1), nn.Conv2d(48, 48, 3, padding=1)),  # multiples of 8 channels
        *(nn.Conv2d(48, 100, 3, padding=1), nn.Conv2d(100, 30, 3, padding=1), nn.Conv2d(30, 100, 3, padding=1)),
        *(nn.Conv2d(100, 48, 1), nn.Tanh(), nn.MaxPool2d(2), nn.AvgPool2d(2)),
    )
    train(nn.Sequential(*apart, nn.Dropout(0.5), nn.Flatten(), nn.Linear(192, 2)), deep, optim.Adam)

    x, w, large = (
        gpucnn.tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=True)
        for shape in ((2, 3, 8, 8), (4, 3, 3, 3), (256, 256))
    )
    F.conv2d(x, w, implementation="im2col").sum().backward()
    x.reshape(6, 64)[gpucnn.tensor([0, 0, 5])].sum().backward()
    (F.relu(F.linear(large, large) @ large) * large).sum().backward()
    F.relu(x @ x).sum().backward()
    with no_grad():
        tape.hardswish(large)  # networks in ONNX files have it, and convolutions with such activations
        ops.conv2d_hard(x.backend, x.array, w.array, None, Window((3, 3)), 1, "hardswish", 1.0, 0.0)


def test_every_implementation_is_reached(backend: Backend, reached: set[Place]) -> None:
    run_networks()
    expected = implementations(backend.kind)
    if backend.kind == "cpu":
        compiled = getattr(backend, "kernels", None) is not None
        expected = {place for place in expected if place[0].startswith("native") == compiled}
        if compiled and backend.sgemm is None:  # type: ignore[attr-defined]
            expected = {place for place in expected if place[0] != "native_linear"}
    expected -= {place for place in expected if place[0] in ("tuned", "cudnn")}  # with GPUCNN_AUTOTUNE=1, and in TF32
    assert expected - reached == set()
