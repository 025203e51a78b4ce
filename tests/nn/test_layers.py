"""The layers: PyTorch's twins both ways, sizes learnt at the first call, loading, and mistakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracles import assert_close

import gpucnn
from gpucnn import Tensor, nn
from gpucnn.backend import Backend
from gpucnn.errors import CheckpointError, DTypeError, GpucnnError, ParameterError, ShapeError

IMAGES = np.random.default_rng(0).standard_normal((3, 4, 9, 8)).astype(np.float32)
ROWS = np.random.default_rng(1).standard_normal((5, 6)).astype(np.float32)
TWINS: dict[str, tuple[Callable[[Any], Any], np.ndarray[Any, Any]]] = {
    "Conv2d": (lambda lib: lib.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2), IMAGES),
    "Conv2d, no bias": (lambda lib: lib.Conv2d(4, 5, 3, padding="same", bias=False), IMAGES),
    "Linear": (lambda lib: lib.Linear(6, 3), ROWS),
    "Linear, no bias": (lambda lib: lib.Linear(8, 3, bias=False), IMAGES),
    "MaxPool2d": (lambda lib: lib.MaxPool2d(3, 2, 1, 1, ceil_mode=True), IMAGES),
    "MaxPool2d, dilated": (lambda lib: lib.MaxPool2d((2, 3), dilation=2), IMAGES),
    "AvgPool2d": (lambda lib: lib.AvgPool2d(3, 2, 1, True, False), IMAGES),
    "AvgPool2d, divided": (lambda lib: lib.AvgPool2d((2, 3), divisor_override=5), IMAGES),
    "Flatten": (lambda lib: lib.Flatten(1, 2), IMAGES),
    "ReLU": (lambda lib: lib.ReLU(), IMAGES),
    "Sigmoid": (lambda lib: lib.Sigmoid(), IMAGES),
    "Tanh": (lambda lib: lib.Tanh(), IMAGES),
    "Softmax": (lambda lib: lib.Softmax(1), IMAGES),
    "LogSoftmax": (lambda lib: lib.LogSoftmax(dim=-1), IMAGES),
    "Dropout, evaluated": (lambda lib: lib.Dropout(0.5).eval(), IMAGES),
    "LeNet": (
        lambda lib: lib.Sequential(
            lib.Conv2d(4, 6, 5, padding=2), lib.ReLU(), lib.MaxPool2d(2), lib.Conv2d(6, 8, 3), lib.Tanh(),
            lib.AvgPool2d(2, 1), lib.Flatten(), lib.Linear(8, 7), lib.Sigmoid(), lib.Linear(7, 3),
        ),
        IMAGES,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TWINS)
def test_weights_move_to_pytorch_and_back(backend: Backend, name: str) -> None:
    torch = pytest.importorskip("torch")
    make, host = TWINS[name]
    ours, theirs = make(nn), make(torch.nn)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, their_x = gpucnn.tensor(host, requires_grad=True), torch.tensor(host, requires_grad=True)
    y, expected = ours(x), theirs(their_x)
    assert_close(y, expected.detach().numpy())
    dy = np.random.default_rng(2).standard_normal(y.shape).astype(np.float32)
    y.backward(gpucnn.tensor(dy))
    expected.backward(torch.tensor(dy))
    assert x.grad is not None
    assert_close(x.grad, their_x.grad.numpy())
    for (key, parameter), twin in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert parameter.grad is not None, key
        assert_close(parameter.grad, twin.grad.numpy())
    fresh = make(torch.nn)
    fresh.load_state_dict({key: torch.tensor(value) for key, value in ours.state_dict().items()}, strict=True)
    assert torch.equal(fresh(torch.tensor(host)), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_are_pytorchs(backend: Backend, reduction: str) -> None:
    torch = pytest.importorskip("torch")
    labels = np.array([0, 2, 5, 1, 1])
    ours = nn.CrossEntropyLoss(reduction)(gpucnn.tensor(ROWS), gpucnn.tensor(labels))
    assert_close(ours, torch.nn.CrossEntropyLoss(reduction=reduction)(torch.tensor(ROWS), torch.tensor(labels)).numpy())
    ours = nn.MSELoss(reduction)(gpucnn.tensor(ROWS), gpucnn.tensor(ROWS * 2))
    assert_close(ours, torch.nn.MSELoss(reduction=reduction)(torch.tensor(ROWS), torch.tensor(ROWS * 2)).numpy())


def test_sizes_are_learnt_at_the_first_call(backend: Backend) -> None:
    net = nn.Sequential(nn.Conv2d(None, 6, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(None, 3))
    with pytest.raises(ParameterError, match="infers its input size in the first call"):
        list(net.parameters())
    assert net(gpucnn.tensor(IMAGES)).shape == (3, 3)
    assert net.state_dict()["0.weight"].shape == (6, 2, 3, 3)
    assert net.state_dict()["3.weight"].shape == (3, 6 * 7 * 6)
    assert repr(net[0]) == "Conv2d(4, 6, kernel_size=(3, 3), groups=2)"


def test_learnt_sizes_take_the_device_and_dtype_of_the_input(backend: Backend) -> None:
    layer = nn.Linear(None, 3, device="cpu")
    assert layer(gpucnn.tensor(ROWS.astype(np.float64))).dtype == "float64"
    assert {p.device for p in layer.parameters()} == {backend.name}


@pytest.mark.parametrize(
    ("layer", "wrong"),
    [
        (lambda: nn.Conv2d(None, 6, 3, groups=2), lambda x: x[:, :3]),
        (lambda: nn.Conv2d(None, 6, 3, groups=2), lambda x: x[:, :1]),
        (lambda: nn.Conv2d(None, 6, 3), lambda x: x[:, :0]),
        (lambda: nn.Conv2d(None, 6, 3), lambda x: x[0, 0]),
        (lambda: nn.Conv2d(None, 6, 3), lambda x: x.to("int64")),
        (lambda: nn.Conv2d(None, 6, 3), lambda x: x.numpy()),
        (lambda: nn.Linear(None, 6), lambda x: x[..., :0]),
        (lambda: nn.Linear(None, 6), lambda x: x.sum()),
        (lambda: nn.Linear(None, 6), lambda x: x > 0),
        (lambda: nn.Linear(None, 6), lambda x: [1.0]),
    ],
)
def test_a_failed_first_call_teaches_nothing(backend: Backend, layer: Callable[[], Any], wrong: Any) -> None:
    learner, x = layer(), gpucnn.tensor(IMAGES)
    with pytest.raises(GpucnnError):
        learner(wrong(x))
    assert learner.waits_for_input()
    assert learner(x).shape[0] == 3


def test_loading_teaches_the_size(backend: Backend) -> None:
    state = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(252, 3)).state_dict()
    net = nn.Sequential(nn.Conv2d(None, 6, 3, groups=2), nn.Flatten(), nn.Linear(None, 3))
    net.load_state_dict(state)
    assert all(np.array_equal(net.state_dict()[name], value) for name, value in state.items())


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a missing name": (lambda s: s.pop("2.bias"), "missing: .*2.bias"),
    "an unknown name": (lambda s: s.update(extra=np.ones(1)), "unknown: .*extra"),
    "another shape": (lambda s: s.update({"2.weight": np.ones((2, 1))}), r"2.weight: expected shape \(1, 2\), got \(2, 1\)"),
    "a list": (lambda s: s.update({"2.bias": [1.0]}), "2.bias: .*list"),
    "text": (lambda s: s.update({"2.bias": "a"}), "2.bias: .*str"),
    "an array of texts": (lambda s: s.update({"2.bias": np.array(["a"])}), "2.bias"),
    "an array of objects": (lambda s: s.update({"2.bias": np.array([{}])}), "2.bias"),
    "None": (lambda s: s.update({"2.bias": None}), "2.bias: .*NoneType"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_loading_what_does_not_fit_changes_nothing(backend: Backend, name: str) -> None:
    damage, words = BROKEN[name]
    net, state = small(), small().state_dict()
    before = net.state_dict()
    damage(state)
    with pytest.raises(CheckpointError, match=words):
        net.load_state_dict(state)
    assert all(np.array_equal(net.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize(
    "weight", [np.ones((6, 4, 5, 5)), np.ones(6), np.ones((6, 4)), [1.0], None, np.ones((6, 0, 3, 3))]
)
def test_loading_what_does_not_fit_teaches_no_size(backend: Backend, weight: Any) -> None:
    layer = nn.Conv2d(None, 6, 3)
    with pytest.raises(CheckpointError):
        layer.load_state_dict({"weight": weight, "bias": np.ones(6)})
    assert layer.waits_for_input()
    assert layer(gpucnn.tensor(IMAGES)).shape == (3, 6, 7, 6)


def test_loading_is_lenient_when_asked(backend: Backend) -> None:
    net, state = small(), small().state_dict()
    net.load_state_dict({"0.weight": state["0.weight"], "other": np.ones(1)}, strict=False)
    assert np.array_equal(net.state_dict()["0.weight"], state["0.weight"])
    assert not np.array_equal(net.state_dict()["2.weight"], state["2.weight"])
    with pytest.raises(CheckpointError, match="load_state_dict"):
        net.load_state_dict([1, 2])  # type: ignore[arg-type]


def test_loading_takes_tensors_arrays_and_parameters_of_pytorch(backend: Backend) -> None:
    torch = pytest.importorskip("torch")
    net, theirs = nn.Linear(3, 2), torch.nn.Linear(3, 2)
    net.load_state_dict(dict(theirs.named_parameters()))
    assert np.array_equal(net.state_dict()["weight"], theirs.weight.detach().numpy())
    net.load_state_dict({"weight": gpucnn.tensor(np.ones((2, 3))), "bias": np.zeros(2)})
    assert net.state_dict()["weight"].dtype == "float32"
    assert net.state_dict()["weight"].sum() == 6


def test_the_state_is_a_copy(backend: Backend) -> None:
    layer = nn.Linear(3, 2)
    state = layer.state_dict()
    state["weight"][:] = 7
    assert not (layer.weight.numpy() == 7).any()
    assert state["weight"].flags.c_contiguous


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "in_channels 0": (lambda: nn.Conv2d(0, 1, 1), "Conv2d: in_channels: expected a positive int, got 0"),
    "in_channels as float": (lambda: nn.Conv2d(1.0, 1, 1), "Conv2d: in_channels"),
    "out_channels None": (lambda: nn.Conv2d(1, None, 1), "Conv2d: out_channels"),
    "out_channels True": (lambda: nn.Conv2d(1, True, 1), "Conv2d: out_channels"),
    "kernel_size 0": (lambda: nn.Conv2d(1, 1, 0), "Conv2d: kernel_size"),
    "kernel_size as text": (lambda: nn.Conv2d(1, 1, "3"), "Conv2d: kernel_size"),
    "groups that do not divide": (lambda: nn.Conv2d(3, 4, 1, groups=2), "Conv2d: groups: .*3 and 4 channels, got 2"),
    "stride 0": (lambda: nn.Conv2d(1, 1, 1, stride=0), "Conv2d: stride"),
    "dilation as float": (lambda: nn.Conv2d(1, 1, 1, dilation=1.0), "Conv2d: dilation"),
    "an integer dtype": (lambda: nn.Conv2d(1, 1, 1, dtype="int32"), "floating dtype"),
    "no dtype": (lambda: nn.Conv2d(1, 1, 1, dtype="banana"), "dtype"),
    "no device": (lambda: nn.Linear(1, 1, device="banana"), "'cpu', 'cuda', 'cuda:N' or 'auto', got 'banana'"),
    "in_features below 0": (lambda: nn.Linear(-1, 1), "Linear: in_features"),
    "out_features as text": (lambda: nn.Linear(1, "2"), "Linear: out_features"),
    "pooling kernel None": (lambda: nn.MaxPool2d(None), "MaxPool2d: kernel_size"),
    "pooling stride 0": (lambda: nn.AvgPool2d(2, 0), "AvgPool2d: stride"),
    "p above 1": (lambda: nn.Dropout(2), "Dropout: p"),
    "reduction": (lambda: nn.CrossEntropyLoss("median"), "CrossEntropyLoss: reduction"),
    "flatten backwards": (lambda: nn.Flatten(2, 1)(gpucnn.tensor(IMAGES)), "flatten: start_dim"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(backend: Backend, name: str) -> None:
    attempt, words = MISTAKES[name]
    with pytest.raises((ParameterError, DTypeError, ShapeError), match=words):
        attempt()


def test_layers_are_made_on_the_chosen_device(backend: Backend) -> None:
    assert nn.Linear(2, 2).weight.device == backend.name
    assert nn.Conv2d(1, 1, 1, dtype="float64").weight.dtype == "float64"


def test_one_seed_gives_every_device_the_same_weights(backend: Backend) -> None:
    gpucnn.manual_seed(4)
    drawn = nn.Conv2d(2, 3, 3).state_dict()
    gpucnn.manual_seed(4)
    with gpucnn.use("cpu"):
        expected = nn.Conv2d(2, 3, 3).state_dict()
    assert all(np.array_equal(drawn[name], value) for name, value in expected.items())


@pytest.mark.bits
def test_layers_keep_nothing_of_a_call(backend: Backend) -> None:
    net = small()
    x = gpucnn.tensor(np.ones((2, 3), np.float32))
    first = net(x).sum()
    with gpucnn.no_grad():
        net(x * 5)  # evaluation between forward and backward
    first.backward()
    gradient = net[0].weight.grad
    assert gradient is not None
    expected = gradient.numpy()
    net.zero_grad()
    net(x).sum().backward()
    again: Tensor = net[0].weight.grad
    assert np.array_equal(again.numpy(), expected)
