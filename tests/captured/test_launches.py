"""How many kernels a training step launches: what is captured in one graph, and what an eager step costs the host."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import models, nn, optim
from gpucnn.training import train_step


@pytest.mark.parametrize(("model", "shape", "most"), [("lenet", (2, 1, 28, 28), 30), ("resnet", (2, 3, 8, 8), 400)])
def test_a_training_step_has_few_launches(standin: Any, model: str, shape: tuple[int, ...], most: int) -> None:
    with gpucnn.use(standin):
        net = models.build(model)
        optimizer = optim.Adam(net.parameters())
        x = gpucnn.tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
        y = gpucnn.tensor([1, 2])
        train_step(net, nn.CrossEntropyLoss(), optimizer, x, y)
        with standin.xp.standin.launches.counted() as launches, standin.xp.standin.transfers.counted() as moved:
            train_step(net, nn.CrossEntropyLoss(), optimizer, x, y)
    assert 10 < sum(launches.values()) <= most, launches
    assert moved.total == 0
