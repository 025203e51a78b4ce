"""Layers that run as one operation compute what they compute one by one, and what PyTorch's do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracles import assert_close

import gpucnn
from gpucnn import nn
from gpucnn.backend import Backend
from gpucnn.errors import ShapeError

RNG = np.random.default_rng


def images(*shape: int) -> Any:
    return RNG(0).standard_normal(shape).astype(np.float32)


def nets() -> dict[str, Any]:
    return {
        "conv norm relu": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        "conv norm": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2, bias=False), nn.BatchNorm2d(4, affine=False)),
        "conv norm without bias": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, bias=False), nn.ReLU()),
        "norm relu": lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()),
        "grouped": lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.ReLU()),
        "residual": lambda: nn.Sequential(
            nn.Residual(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))), nn.ReLU()
        ),
        "residual without relu": lambda: nn.Sequential(
            nn.Residual(
                nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 1), nn.BatchNorm2d(4)),
                nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
            )
        ),
        "reflected": lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4), nn.ReLU()
        ),
    }


def prepared(name: str) -> nn.Module:
    """Return a network whose norms have other weights and statistics than they are made with."""
    gpucnn.manual_seed(0)
    net: nn.Module = nets()[name]()
    rng = RNG(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            C = module.num_features
            state = {"running_mean": rng.standard_normal(C), "running_var": rng.random(C) + 0.5}
            if module.weight is not None:
                state["weight"] = rng.standard_normal(C)
            if module.bias is not None:
                state["bias"] = rng.standard_normal(C)
            module.load_state_dict(state, strict=False)
    return net


def one_by_one(net: nn.Module) -> list[str]:
    """Hook every layer, which keeps it from being fused, and return the classes of the layers that then run."""
    ran: list[str] = []
    for module in net.modules():
        module.register_forward_hook(lambda module, inputs, output: ran.append(type(module).__name__))
    return ran


@pytest.mark.parametrize("name", nets())
def test_evaluation_without_gradients(backend: Backend, name: str) -> None:
    fused, apart = prepared(name).to(backend).eval(), prepared(name).to(backend).eval()
    ran = one_by_one(apart)
    x = gpucnn.tensor(images(5, 3, 8, 8), device=backend)
    with gpucnn.no_grad():
        expected = apart(x).numpy()
        backend.ran.clear()
        got = fused(x).numpy()
    assert ran
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    folded = backend.ran["batch_norm_inference.fast"] + backend.ran["batch_norm_inference.reference"]
    if name in ("conv norm relu", "conv norm", "grouped"):
        assert folded == 0, "folded into the convolution"


@pytest.mark.parametrize("name", nets())
@pytest.mark.parametrize("training", [True, False])
def test_training_and_frozen_statistics(backend: Backend, name: str, training: bool) -> None:
    nets_ = [prepared(name).to(backend).train(training) for _ in range(2)]
    one_by_one(nets_[1])
    results = []
    for net in nets_:
        x = gpucnn.tensor(images(5, 3, 8, 8), device=backend, requires_grad=True)
        y = net(x)
        slope = gpucnn.tensor(RNG(2).standard_normal(y.shape).astype(np.float32), device=backend)
        (y * slope).sum().backward()
        gradients = {key: parameter.grad.numpy() for key, parameter in net.named_parameters()}
        results.append({"y": y.numpy(), "x": x.grad.numpy(), **gradients, **net.state_dict()})
    assert results[0].keys() == results[1].keys()
    for key, value in results[0].items():
        assert_close(value, results[1][key], 2e-5)


def test_folding_sees_what_changes(backend: Backend) -> None:
    net = prepared("conv norm relu").to(backend).eval()
    x = gpucnn.tensor(images(2, 3, 8, 8), device=backend)
    with gpucnn.no_grad():
        before = net(x).numpy()
        state = net.state_dict()
        net.load_state_dict({**state, "1.running_mean": state["1.running_mean"] + 1, "0.bias": state["0.bias"] + 1})
        np.testing.assert_allclose(net(x).numpy(), before, atol=1e-5)  # both move the same way
        net.load_state_dict({**state, "0.weight": 2 * state["0.weight"]})
        assert not np.allclose(net(x).numpy(), before, atol=1e-2)


def test_the_parts_and_their_order_are_pytorchs(backend: Backend) -> None:
    torch = pytest.importorskip("torch")
    net = prepared("conv norm relu").to(backend)
    theirs = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    theirs.load_state_dict({key: torch.tensor(value) for key, value in net.state_dict().items()})
    x = images(4, 3, 6, 6)
    for training in (True, False):
        net.train(training), theirs.train(training)
        with gpucnn.no_grad():
            got = net(gpucnn.tensor(x, device=backend)).numpy()
        assert_close(got, theirs(torch.tensor(x)).detach().numpy(), 1e-5)
        assert_close(net.state_dict()["1.running_var"], theirs.state_dict()["1.running_var"].numpy(), 1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_errors_name_the_layer_that_refuses(training: bool) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(5), nn.ReLU()).train(training)
    with gpucnn.no_grad(), pytest.raises(ShapeError, match="one for each channel"):
        net(gpucnn.tensor(images(2, 3, 8, 8)))
    with gpucnn.no_grad(), pytest.raises(ShapeError, match="3 channels"):
        net(gpucnn.tensor(images(2, 4, 8, 8)))
    odd = nn.Sequential(nn.Residual(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))), nn.ReLU())
    with pytest.raises(ShapeError, match="the shortcut's shape"):
        odd(gpucnn.tensor(images(2, 3, 8, 8)))


def test_values_that_are_not_finite_go_through(backend: Backend) -> None:
    x = images(3, 3, 4, 4)
    x[0, 0, 0, 0] = np.nan
    for name in ("norm relu", "residual"):
        net = prepared(name).to(backend)
        y = net(gpucnn.tensor(x, device=backend)).numpy()
        assert np.isnan(y[:, 0]).any()


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_and_its_relu_are_one_operation_of_the_same_bits(
    backend: Backend, shape: tuple[int, ...], bias: bool
) -> None:
    net = nn.Sequential(nn.Linear(7, 4, bias=bias), nn.ReLU())
    x = gpucnn.tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32), requires_grad=True)
    y = net(x)
    assert y.node is not None
    assert "linear_relu" in str(y.node.name) or len(shape) == 3, "a reshape comes last"
    y.sum().backward()
    assert x.grad is not None
    found = [y.numpy(), x.grad.numpy(), *(p.grad.numpy() for p in net.parameters() if p.grad is not None)]
    x.grad = None
    for parameter in net.parameters():
        parameter.grad = None
    apart = net[1](net[0](x))
    apart.sum().backward()
    expected = [apart.numpy(), x.grad.numpy(), *(p.grad.numpy() for p in net.parameters() if p.grad is not None)]
    assert len(found) == len(expected) == 3 + bias
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_linear_layer_without_its_size_yet_takes_it_from_the_first_input() -> None:
    net = nn.Sequential(nn.Linear(None, 4), nn.ReLU())
    assert net(gpucnn.tensor(np.ones((2, 7), np.float32))).shape == (2, 4)
    assert net(gpucnn.tensor(np.ones((2, 7), np.float32))).shape == (2, 4)
    with pytest.raises(ShapeError, match=r"in layer Linear\(7, 4\)"):
        net(gpucnn.tensor(np.ones((2, 6), np.float32)))
