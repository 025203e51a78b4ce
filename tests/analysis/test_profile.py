"""Time per layer: which layers, whose time, and that the network is left as it was."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import models, nn
from gpucnn.analysis.profile import profile
from gpucnn.autograd import Tensor, apply
from gpucnn.errors import ParameterError, ShapeError


def batch(*shape: int) -> Tensor:
    return gpucnn.tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def slow(backend: Any, x: Any, requires_grad: Any, forward: float, backward: float) -> Any:
    """The identity, which takes these seconds."""
    time.sleep(forward)

    def back(dy: Any) -> tuple[Any]:
        time.sleep(backward)
        return (dy,)

    return x, back


class Slow(nn.Module):
    def __init__(self, forward: float, backward: float) -> None:
        super().__init__()
        self.seconds = forward, backward

    def forward(self, x: Tensor) -> Tensor:
        return apply(slow, x, forward=self.seconds[0], backward=self.seconds[1])


def test_each_layer_has_its_own_time_also_in_branches() -> None:
    net = nn.Sequential(Slow(0.01, 0.03), nn.Residual(nn.Sequential(Slow(0.02, 0.01), nn.ReLU()), Slow(0.04, 0.02)))
    found = {layer.name: layer for layer in profile(net, batch(2, 3), 2).layers}
    assert list(found) == ["0", "1", "1.block.0", "1.block.1", "1.shortcut"]
    for name, forward, backward in (
        ("0", 0.01, 0.03), ("1.block.0", 0.02, 0.01), ("1.shortcut", 0.04, 0.02), ("1", 0, 0), ("1.block.1", 0, 0),
    ):  # fmt: skip
        assert forward <= found[name].forward, name
        assert backward <= found[name].backward, name
    # Where the machine is busy a sleep takes longer, but never another layer's time as well as its own.
    assert found["1"].forward < found["1.shortcut"].forward
    assert found["1.block.1"].backward < found["1.shortcut"].backward


def test_multiply_adds_and_shapes_are_the_summarys() -> None:
    net = models.lenet()
    found = profile(net, batch(3, 1, 28, 28), 1)
    rows = gpucnn.inspect.summary(net, (1, 28, 28)).rows
    assert [layer.multiply_adds for layer in found.layers] == [3 * row.multiply_adds for row in rows]
    assert [layer.output_shape[1:] for layer in found.layers] == [row.output_shape[1:] for row in rows]
    assert found.step > 0
    assert found.to_dict()["layers"][0]["title"] == "conv1"


def test_the_network_is_left_as_it_was() -> None:
    gpucnn.manual_seed(3)
    net = models.resnet(width=4, blocks=1).eval()
    for parameter in net.parameters():
        parameter.grad = gpucnn.tensor(np.ones(parameter.shape, np.float32))
    before = net.state_dict()
    profile(net, batch(2, 3, 8, 8), 1)
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
    assert all((parameter.grad.numpy() == 1).all() for parameter in net.parameters())
    assert not any(module.training for module in net.modules())
    assert not any(module.has_hooks() for module in net.modules())


def test_dropout_draws_from_elsewhere() -> None:
    def draws(profiled: bool) -> Any:
        gpucnn.manual_seed(5)
        net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5))
        if profiled:
            profile(net, batch(4, 3), 1)
        return net(batch(4, 3)).numpy()

    np.testing.assert_array_equal(draws(False), draws(True))


def test_mistakes() -> None:
    with pytest.raises(ParameterError, match="a Module"):
        profile(len, batch(1, 3))  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="a positive int"):
        profile(nn.ReLU(), batch(1, 3), 0)
    with pytest.raises(ShapeError, match="not empty"):
        profile(nn.ReLU(), batch(0, 3))
