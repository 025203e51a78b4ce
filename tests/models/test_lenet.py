"""LeNet and networks by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from oracles import assert_close

import gpucnn
from gpucnn import models, nn
from gpucnn.backend import Backend
from gpucnn.errors import GpucnnError, ParameterError, UsageError


def test_layer_shapes_are_those_of_system_5(backend: Backend) -> None:
    x, shapes = gpucnn.tensor(np.zeros((1, 1, 28, 28), np.float32)), []
    for layer in models.build("lenet:activation=sigmoid,pooling=avg"):
        x = layer(x)
        if not isinstance(layer, nn.Sigmoid):
            shapes.append(x.shape[1:])
    assert shapes == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (400,), (120,), (84,), (10,)]


def test_lenet_is_pytorchs(backend: Backend) -> None:
    torch = pytest.importorskip("torch")
    ours = models.lenet()
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 5, padding=2), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 16, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(400, 120), torch.nn.ReLU(), torch.nn.Linear(120, 84), torch.nn.ReLU(), torch.nn.Linear(84, 10),
    )  # fmt: skip
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x, y = np.random.default_rng(0).standard_normal((6, 1, 28, 28)).astype(np.float32), np.arange(6)
    expected = theirs(torch.tensor(x))
    assert_close(ours(gpucnn.tensor(x)), expected.detach().numpy())
    torch.nn.functional.cross_entropy(expected, torch.tensor(y)).backward()
    nn.CrossEntropyLoss()(ours(gpucnn.tensor(x)), gpucnn.tensor(y)).backward()
    for mine, twin in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert mine.grad is not None
        assert_close(mine.grad, twin.grad.numpy(), 2e-5)


@pytest.mark.parametrize(
    ("text", "size", "channels", "classes"),
    [
        ("lenet", 28, 1, 10),
        ("lenet:padding=0,image_size=32", 32, 1, 10),
        ("lenet:in_channels=3,classes=7,activation=tanh", 28, 3, 7),
        ("lenet:padding=same,image_size=17", 17, 1, 10),
        ("lenet:", 28, 1, 10),
    ],
)
def test_networks_by_name(backend: Backend, text: str, size: int, channels: int, classes: int) -> None:
    net = models.build(text)
    assert net(gpucnn.tensor(np.zeros((2, channels, size, size), np.float32))).shape == (2, classes)


def test_options_win_over_defaults_and_unknown_defaults_are_left_out() -> None:
    net = models.build("lenet:classes=3", classes=5, in_channels=2, nonsense=1)
    assert net.state_dict()["11.bias"].shape == (3,)
    assert net.state_dict()["0.weight"].shape == (6, 2, 5, 5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lenot", "model: name: .*lenet.*'lenot'. Did you mean lenet?"),
        ("", "model: name"),
        ("lenet:colour=red", "OPTION=VALUE with classes, in_channels, .*'colour=red'"),
        ("lenet:activaton=relu", "Did you mean activation?"),
        ("lenet:relu", "OPTION=VALUE"),
        ("lenet:activation=softsign", "activation.*relu or sigmoid or tanh, got 'softsign'"),
        ("lenet:pooling=min", "pooling"),
        ("lenet:classes=0", "out_features"),
        ("lenet:classes=ten", "out_features"),
        ("lenet:classes=1e3", "out_features"),
        ("lenet:in_channels=true", "in_channels"),
        ("lenet:padding=huge", "padding"),
        ("lenet:image_size=2", "image"),
        ("lenet:image_size=big", "image_size"),
        ("lenet:image_size=28.5", "image_size"),
    ],
)
def test_a_wrong_description_is_wrong_usage(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        models.build(text)


@pytest.mark.parametrize(
    "options", [{"activation": "swish"}, {"pooling": None}, {"image_size": 0}, {"image_size": "x"}]
)
def test_a_wrong_argument_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(GpucnnError, match="lenet"):
        models.lenet(**options)
    assert not issubclass(ParameterError, UsageError)
