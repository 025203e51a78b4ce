"""Batch norm with the residual sum and the ReLU after it in one operation: PyTorch's gradients, and what errors leave."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from oracles import assert_close

import gpucnn
from gpucnn import nn
from gpucnn.backend import Backend
from gpucnn.errors import GpucnnError

X = np.random.default_rng(0).standard_normal((5, 4, 6, 7)).astype(np.float32) * 2 + 1


def block(lib: Any, stride: int = 1, affine: bool = True, tracked: bool = True) -> list[Any]:
    return [
        lib.Conv2d(4, 4, 3, stride, 1), lib.BatchNorm2d(4, affine=affine, track_running_stats=tracked), lib.ReLU(),
        lib.Conv2d(4, 4, 3, 1, 1, bias=False), lib.BatchNorm2d(4, affine=affine, track_running_stats=tracked),
    ]  # fmt: skip


def ours(stride: int, affine: bool, tracked: bool, dtype: str = "float32") -> nn.Sequential:
    shortcut = None if stride == 1 else nn.Sequential(nn.Conv2d(4, 4, 1, stride), nn.BatchNorm2d(4))
    net = nn.Sequential(nn.Residual(nn.Sequential(*block(nn, stride, affine, tracked)), shortcut), nn.ReLU())
    rng = np.random.default_rng(1)
    state = dict(net.state_dict())
    for name, value in state.items():
        if not name.endswith("tracked"):
            state[name] = rng.uniform(0.5 if name.endswith("var") else -0.5, 1, value.shape).astype(np.float32)
    net.load_state_dict(state)
    return net.to(dtype)


def theirs(net: nn.Sequential, stride: int, affine: bool, tracked: bool) -> Any:
    torch = pytest.importorskip("torch")

    class Sum(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.block = torch.nn.Sequential(*block(torch.nn, stride, affine, tracked))
            self.shortcut = None
            if stride > 1:
                self.shortcut = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1, stride), torch.nn.BatchNorm2d(4))

        def forward(self, x: Any) -> Any:
            return self.block(x) + (x if self.shortcut is None else self.shortcut(x))

    their = torch.nn.Sequential(Sum(), torch.nn.ReLU()).double()
    their.load_state_dict({name: torch.tensor(value) for name, value in net.state_dict().items()})
    return their


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("stride", "affine", "tracked"), [(1, True, True), (2, True, True), (1, False, True), (1, True, False)]
)
def test_a_residual_block_is_pytorchs(
    backend: Backend, stride: int, affine: bool, tracked: bool, training: bool, dtype: str
) -> None:
    torch = pytest.importorskip("torch")
    net = ours(stride, affine, tracked, dtype)
    their = theirs(net, stride, affine, tracked)
    net.train(training)
    their.train(training)
    x = gpucnn.tensor(X.astype(dtype), requires_grad=True)
    their_x = torch.tensor(X.astype(np.float64), requires_grad=True)
    for _ in range(2):
        y, their_y = net(x), their(their_x)
        assert_close(y, their_y.detach().numpy())
        (y * y).sum().backward()
        (their_y * their_y).sum().backward()
    assert x.grad is not None
    scale = float(their_x.grad.abs().max())
    np.testing.assert_allclose(x.grad.numpy() / scale, their_x.grad.numpy() / scale, atol=2e-5)
    known = dict(their.named_parameters())
    for name, parameter in net.named_parameters():
        expected = known[name].grad.numpy()
        assert parameter.grad is not None
        scale = max(float(abs(expected).max()), 1.0)
        np.testing.assert_allclose(parameter.grad.numpy() / scale, expected / scale, atol=5e-5, err_msg=name)
    for name, value in their.state_dict().items():
        np.testing.assert_allclose(net.state_dict()[name], value.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_errors_name_the_layer_and_lose_nothing(backend: Backend) -> None:
    one = nn.Sequential(nn.BatchNorm2d(4, name="norm"), nn.ReLU())
    with pytest.raises(GpucnnError, match=r"(?s)more than one value.*norm"):
        one(gpucnn.tensor(X[:1, :, :1, :1]))
    assert one[0].num_batches_tracked.item() == 0
    assert one[0].running_mean.tolist() == [0.0] * 4
    net = nn.Sequential(nn.Residual(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1))), nn.ReLU())
    with pytest.raises(GpucnnError, match="the shortcut's shape"):
        net(gpucnn.tensor(X))
    assert net.state_dict()["0.block.0.num_batches_tracked"] == 1  # it ran once
    wide = nn.Residual(nn.Sequential(nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)))
    with pytest.raises(GpucnnError, match="the shortcut's shape"):
        nn.Sequential(wide, nn.ReLU())(gpucnn.tensor(X))


def test_a_subclass_and_a_hooked_sum_run_as_they_are(backend: Backend) -> None:
    class Doubled(nn.BatchNorm2d):
        def forward(self, x: Any) -> Any:  # type: ignore[override]
            return super().forward(x) * 2

    x = gpucnn.tensor(X)
    layer = Doubled(4)
    plain = nn.BatchNorm2d(4)
    y = nn.Sequential(layer, nn.ReLU())(x)
    assert_close(y, 2 * np.maximum(plain(x).detach().numpy(), 0))
    net = ours(1, True, True)
    watched = copy.deepcopy(net)
    seen: list[Any] = []
    for layer in (watched[0], watched[0].block, watched[0].block[4], watched[1]):
        layer.register_forward_hook(lambda module, inputs, output: seen.append(type(module).__name__))
    assert_close(net(x), watched(x).detach().numpy())
    assert seen == ["BatchNorm2d", "Sequential", "Residual", "ReLU"]
