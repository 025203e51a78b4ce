"""Modules under PyTorch's names: children, buffers, ``apply``, dtypes, lists and dicts of modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import nn
from gpucnn.errors import GpucnnError

torch = pytest.importorskip("torch")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.heads = nn.ModuleDict({"a": nn.Linear(2, 1), "b": nn.BatchNorm1d(2)})

    def forward(self, x: Any, head: str) -> Any:
        for layer in self.layers:
            x = layer(x)
        return self.heads[head](x)


class Theirs(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
        self.heads = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 1), "b": torch.nn.BatchNorm1d(2)})


def test_a_network_of_lists_and_dicts_has_pytorchs_state() -> None:
    net, theirs = Net(), Theirs()
    net.load_state_dict(theirs.state_dict())
    assert list(net.state_dict()) == list(theirs.state_dict())
    assert net(gpucnn.ones(4, 2), "a").shape == (4, 1)
    assert [name for name, _ in net.named_children()] == [name for name, _ in theirs.named_children()]
    assert [name for name, _ in net.named_buffers()] == [name for name, _ in theirs.named_buffers()]
    assert len(list(net.buffers())) == 3


def test_apply_goes_through_all_modules_in_pytorchs_order() -> None:
    ours: list[str] = []
    theirs: list[str] = []
    assert isinstance(Net().apply(lambda module: ours.append(type(module).__name__)), Net)
    Theirs().apply(lambda module: theirs.append(type(module).__name__))
    assert [name.replace("Net", "Theirs") for name in ours] == theirs


def test_initial_weights_of_ones_own() -> None:
    def one(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.ones_(module.weight)  # type: ignore[arg-type]

    net = Net().apply(one)
    assert (net.state_dict()["layers.2.weight"] == 1).all()


def test_dtypes() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for change, dtype, buffer in (
        ("double", "float64", "float64"),
        ("half", "float16", "float32"),
        ("float", "float32", "float32"),
    ):
        assert getattr(net, change)() is net
        assert {str(p.dtype) for p in net.parameters()} == {dtype}
        assert str(net[1].running_mean.dtype) == buffer  # type: ignore[attr-defined]
    assert net.to(dtype=gpucnn.float64, device="cpu") is net
    assert {str(p.dtype) for p in net.parameters()} == {"float64"}
    assert net.cpu() is net


def test_to_a_gpu(standin: Any) -> None:
    net = nn.Linear(2, 2)
    assert {p.device for p in net.to(device="cuda", dtype="float64").parameters()} == {"cuda:0"}
    assert {str(p.dtype) for p in net.parameters()} == {"float64"}
    assert {p.device for p in net.cpu().parameters()} == {"cpu"}
    assert {p.device for p in net.cuda().parameters()} == {"cuda:0"}
    assert {p.device for p in net.cpu().cuda(0).parameters()} == {"cuda:0"}


def test_a_list_is_a_list() -> None:
    layers = nn.ModuleList([nn.ReLU(), nn.Tanh()])
    layers.insert(0, nn.Sigmoid())
    layers[-1] = nn.Identity()
    assert [type(layer).__name__ for layer in layers] == ["Sigmoid", "ReLU", "Identity"]
    assert list(layers._modules) == ["0", "1", "2"]
    assert [type(layer).__name__ for layer in layers[1:]] == ["ReLU", "Identity"]
    assert len(layers.extend([nn.ReLU()])) == 4
    with pytest.raises(IndexError):
        layers[4]


def test_a_dict_is_a_dict() -> None:
    layers = nn.ModuleDict({"a": nn.ReLU()})
    layers.update({"b": nn.Tanh(), "a": nn.Identity()})
    assert list(layers.keys()) == ["a", "b"]
    assert [type(layer).__name__ for layer in layers.values()] == ["Identity", "Tanh"]
    assert dict(layers.items())["b"] is layers["b"]
    del layers["b"]
    assert "b" not in layers
    assert len(layers) == 1
    with pytest.raises(KeyError):
        del layers["b"]


def test_sequential_appends_in_a_chain() -> None:
    assert len(nn.Sequential().append(nn.ReLU()).append(nn.Tanh())) == 2


MISTAKES: dict[str, Callable[[], Any]] = {
    "to nothing": lambda: nn.Linear(1, 1).to(),
    "to whole numbers": lambda: nn.Linear(1, 1).to(dtype="int64"),
    "to nowhere": lambda: nn.Linear(1, 1).to(device="tpu"),
    "a list of no modules": lambda: nn.ModuleList([1]),  # type: ignore[list-item]
    "no list": lambda: nn.ModuleList(3),  # type: ignore[arg-type]
    "a dict of no modules": lambda: nn.ModuleDict({"a": 1}),  # type: ignore[dict-item]
    "no dict": lambda: nn.ModuleDict([nn.ReLU()]),  # type: ignore[arg-type]
    "a name of ours": lambda: nn.ModuleDict({"keys": nn.ReLU()}),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told(name: str) -> None:
    with pytest.raises(GpucnnError):
        MISTAKES[name]()


def test_nothing_is_moved_where_one_of_both_is_wrong() -> None:
    net = nn.Linear(1, 1)
    with pytest.raises(GpucnnError):
        net.to(device="tpu", dtype="float64")
    assert {str(p.dtype) for p in net.parameters()} == {"float32"}
    np.testing.assert_equal(net.weight.device, "cpu")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name", ["ReLU", "ReLU6", "LeakyReLU", "ELU", "SELU", "SiLU", "Hardtanh", "Hardsigmoid", "Dropout", "Dropout2d"]
)
def test_inplace_is_taken_and_changes_nothing(name: str) -> None:
    layer, plain = getattr(nn, name)(inplace=True).eval(), getattr(nn, name)().eval()
    x = gpucnn.randn(2, 3, 4, 4)
    before = x.numpy()
    np.testing.assert_array_equal(layer(x).numpy(), plain(x).numpy())
    np.testing.assert_array_equal(x.numpy(), before)
    assert repr(layer) == repr(plain)
    assert nn.ReLU(True).name is None
    assert nn.ReLU("first").name == "first"
    assert layer.arguments() == plain.arguments()
    with pytest.raises(GpucnnError, match="inplace"):
        getattr(nn, name)(inplace="yes")
