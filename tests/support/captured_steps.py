"""Small networks and steps that tests of capture train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import Tensor, nn, optim
from gpucnn.backend import Backend, default_generator
from gpucnn.captured import Captured
from gpucnn.training import train_step

DEVICES = ["cuda-standin", pytest.param("cuda", marks=pytest.mark.cuda)]


on_devices = pytest.mark.parametrize("backend", DEVICES, indirect=True)


Step = Callable[..., Any]


def batches(count: int, size: int = 4, channels: int = 1, pixels: int = 28) -> list[tuple[Tensor, Tensor]]:
    rng = np.random.default_rng(5)
    shape = (size, channels, pixels, pixels)
    return [
        (gpucnn.tensor(rng.standard_normal(shape).astype(np.float32)), gpucnn.tensor(rng.integers(0, 10, size)))
        for _ in range(count)
    ]


def trained(
    make: Callable[[], nn.Module], make_optimizer: Any, captured: bool, count: int = 4, wrong: int | None = None
) -> list[Any]:
    """Return all losses, weights, buffers and optimiser state of a few steps, with a rate and a momentum that change."""
    gpucnn.manual_seed(11)
    net = make()
    optimizer = make_optimizer(net.parameters())
    loss_fn = nn.CrossEntropyLoss()

    def plain(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return train_step(net, loss_fn, optimizer, x, y)

    step: Step = gpucnn.capture(plain, state=[net, optimizer]) if captured else plain
    found: list[Any] = []
    for i, (x, y) in enumerate(batches(count)):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + i)
            if "betas" in group:
                group["betas"] = (0.95 - 0.02 * i, group["betas"][1])
            elif group.get("momentum"):
                group["momentum"] = 0.9 - 0.02 * i
        if i == wrong:
            x = x * float("nan")
        loss, logits = step(x, y)
        found += [loss.numpy(), logits.numpy()]
    if isinstance(step, Captured):
        assert len(step._variants) <= 2, "before the first gradients, and after"
    state = optimizer.state_dict()
    return [*found, *net.state_dict().values(), *state["state"].values(), state["steps"], default_generator.counter]


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Dropout(0.4), nn.Flatten(),
        nn.Linear(64, 10),
    )  # fmt: skip


def descent(net: nn.Module, optimizer: optim.Optimizer) -> Step:
    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = (net(x) * net(x)).sum()
        loss.backward()
        optimizer.step()
        return loss

    return step


def simple(backend: Backend) -> tuple[nn.Linear, optim.Optimizer, Tensor]:
    net = nn.Linear(3, 2)
    return net, optim.SGD(net.parameters(), 0.01), gpucnn.tensor(np.ones((4, 3), np.float32))


def losses_and_weights(make: Callable[[], nn.Module], inputs: Any, captured: bool) -> list[bytes]:
    """Return the losses of plain steps on ``inputs`` (steps, 4, C, H, W), and then the weights, as bytes."""
    gpucnn.manual_seed(1)
    net = make()
    optimizer, loss = optim.SGD(net.parameters(), lr=0.01), nn.CrossEntropyLoss()

    def step(x: Any, y: Any) -> Any:
        return train_step(net, loss, optimizer, x, y)[0]

    run: Any = gpucnn.capture(step, state=[net, optimizer]) if captured else step
    found = [run(gpucnn.tensor(x), gpucnn.tensor([0, 1, 2, 3])).numpy().tobytes() for x in inputs]
    if captured:
        assert [one is not None for one in run._variants.values()] == [True] * 2
    return [*found, *(p.numpy().tobytes() for p in net.parameters())]
