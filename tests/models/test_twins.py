"""Weights move to a ``torch.nn`` twin and back: one set of names, shapes and dtypes, the same bits, the same outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from oracles import assert_close

import gpucnn
from gpucnn import models, nn
from gpucnn.backend import Backend

torch = pytest.importorskip("torch")
tnn = torch.nn

# What is built of either library (``n``), and the shape of its input.
LAYERS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    "Conv1d": (lambda n: n.Conv1d(4, 6, 3, 2, 1, 2, 2), (2, 4, 9)),
    "Conv2d": (lambda n: n.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), 2), (2, 4, 7, 6)),
    "Conv2d, same": (lambda n: n.Conv2d(2, 3, (3, 1), padding="same"), (2, 2, 5, 6)),
    "Conv2d, depthwise without bias": (lambda n: n.Conv2d(4, 4, 3, groups=4, bias=False), (2, 4, 7, 6)),
    "Conv2d, reflected": (lambda n: n.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 2, 5, 6)),
    "Conv2d, replicated": (lambda n: n.Conv2d(2, 3, 3, padding=2, padding_mode="replicate"), (2, 2, 5, 6)),
    "ConvTranspose2d": (lambda n: n.ConvTranspose2d(4, 6, (3, 2), 2, 1, (1, 0), 2, True, (1, 2)), (2, 4, 5, 3)),
    "Linear": (lambda n: n.Linear(5, 3), (4, 5)),
    "Linear, without bias": (lambda n: n.Linear(5, 3, bias=False), (2, 4, 5)),
    "BatchNorm1d": (lambda n: n.BatchNorm1d(3), (5, 3)),
    "BatchNorm1d, sequences": (lambda n: n.BatchNorm1d(3, momentum=None), (5, 3, 4)),
    "BatchNorm2d": (lambda n: n.BatchNorm2d(3, 1e-3, 0.3), (2, 3, 4, 5)),
    "BatchNorm2d, without weights": (lambda n: n.BatchNorm2d(3, affine=False), (2, 3, 4, 5)),
    "BatchNorm2d, without running values": (lambda n: n.BatchNorm2d(3, track_running_stats=False), (2, 3, 4, 5)),
    "BatchNorm2d, without bias": (lambda n: n.BatchNorm2d(3, bias=False), (2, 3, 4, 5)),
    "LayerNorm, without bias": (lambda n: n.LayerNorm((4, 5), 1e-3, True, False), (2, 3, 4, 5)),
    "GroupNorm, without bias": (lambda n: n.GroupNorm(2, 4, bias=False), (2, 4, 3, 3)),
    "LayerNorm": (lambda n: n.LayerNorm((4, 5)), (2, 3, 4, 5)),
    "LayerNorm, without weights": (lambda n: n.LayerNorm(5, elementwise_affine=False), (2, 5)),
    "GroupNorm": (lambda n: n.GroupNorm(2, 4), (2, 4, 3, 3)),
    "GroupNorm, without weights": (lambda n: n.GroupNorm(2, 4, affine=False), (2, 4, 3, 3)),
    "Sequential": (
        lambda n: n.Sequential(n.Conv2d(1, 2, 3), n.BatchNorm2d(2), n.Sequential(n.Flatten(), n.Linear(18, 2))),
        (2, 1, 5, 5),
    ),
}  # fmt: skip


def conv_norm(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> list[Any]:
    conv = tnn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    return [conv, tnn.BatchNorm2d(out_channels)]


class Block(tnn.Module):
    """Two convolutions and what goes around them, by the paper."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        layers = [*conv_norm(in_channels, channels, 3, stride), tnn.ReLU(), *conv_norm(channels, channels)]
        self.block = tnn.Sequential(*layers)
        changes = stride != 1 or in_channels != channels
        self.shortcut = tnn.Sequential(*conv_norm(in_channels, channels, 1, stride)) if changes else None

    def forward(self, x: Any) -> Any:
        return self.block(x) + (x if self.shortcut is None else self.shortcut(x))


def their_lenet(activation: Any, pooling: Any, padding: int, pixels: int, hidden: int) -> Any:
    return tnn.Sequential(
        tnn.Conv2d(1, 6, 5, padding=padding), activation(), pooling(2), tnn.Conv2d(6, 16, 5), activation(), pooling(2),
        tnn.Flatten(), tnn.Linear(16 * pixels, hidden), activation(), tnn.Linear(hidden, 84), activation(),
        tnn.Linear(84, 10),
    )  # fmt: skip


def their_vgg() -> Any:
    layers: list[Any] = []
    for before, filters in ((3, 32), (32, 64), (64, 128)):
        first, second = conv_norm(before, filters), conv_norm(filters, filters)
        layers += [*first, tnn.ReLU(), *second, tnn.ReLU(), tnn.MaxPool2d(2)]
    head = [tnn.Linear(128 * 16, 128), tnn.ReLU(), tnn.Dropout(0.5), tnn.Linear(128, 10)]
    return tnn.Sequential(*layers, tnn.Flatten(), *head)


def their_resnet() -> Any:
    layers: list[Any] = [*conv_norm(3, 16), tnn.ReLU()]
    for before, filters, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
        for place in range(3):
            block = Block(before, filters, stride) if place == 0 else Block(filters, filters, 1)
            layers += [block, tnn.ReLU()]
    return tnn.Sequential(*layers, tnn.AdaptiveAvgPool2d(1), tnn.Flatten(), tnn.Linear(64, 10))


def their_simple_convnet() -> Any:
    return tnn.Sequential(
        tnn.Conv2d(1, 30, 5), tnn.ReLU(), tnn.MaxPool2d(2), tnn.Flatten(), tnn.Linear(4320, 100), tnn.ReLU(),
        tnn.Linear(100, 10),
    )  # fmt: skip


def their_conv_mlp() -> Any:
    head = [tnn.Linear(16 * 26 * 26, 64), tnn.ReLU(), tnn.Linear(64, 10)]
    return tnn.Sequential(tnn.Conv2d(1, 16, 3), tnn.Flatten(), tnn.Dropout(0.2), *head)


DIGIT, PICTURE = (3, 1, 28, 28), (3, 3, 32, 32)
MODELS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "lenet": (lambda: their_lenet(tnn.ReLU, tnn.MaxPool2d, 2, 25, 120), DIGIT),
    "lenet:activation=sigmoid,padding=0,hidden=128,init=xavier_normal": (
        lambda: their_lenet(tnn.Sigmoid, tnn.MaxPool2d, 0, 16, 128), DIGIT),
    "lenet:activation=sigmoid,pooling=avg,init=xavier_uniform": (
        lambda: their_lenet(tnn.Sigmoid, tnn.AvgPool2d, 2, 25, 120), DIGIT),
    "simple_convnet": (their_simple_convnet, DIGIT),
    "conv_mlp": (their_conv_mlp, DIGIT),
    "vgg": (their_vgg, PICTURE),
    "resnet": (their_resnet, PICTURE),
}  # fmt: skip


def hold_twins(backend: Backend, ours: nn.Module, theirs: Any, shape: tuple[int, ...]) -> None:
    """Assert that state goes both ways unchanged and that outputs agree, in training and in evaluation."""
    rng = np.random.default_rng(3)
    theirs.double()
    ours.to("float64")
    assert_same_state(ours.state_dict(), theirs.state_dict(), values=False)
    for name, value in theirs.state_dict().items():  # running values too are other than at first
        if value.is_floating_point():
            value.copy_(torch.tensor(rng.random(value.shape) * (1 if name.endswith("var") else 0.2) + 0.1))
    ours.load_state_dict(theirs.state_dict())
    assert_same_state(ours.state_dict(), theirs.state_dict())
    x = rng.standard_normal(shape)
    dropout = any(isinstance(layer, nn.Dropout) for layer in ours.modules())
    for training in (False,) if dropout else (True, False):  # what dropout drops, no two libraries agree on
        ours.train(training), theirs.train(training)
        assert_close(ours(gpucnn.tensor(x)), theirs(torch.tensor(x)).detach().numpy())
    back = {name: torch.from_numpy(np.asarray(values + 1)) for name, values in ours.state_dict().items()}
    theirs.load_state_dict(back, strict=True)
    assert all(torch.equal(value, back[name]) for name, value in theirs.state_dict().items())


def assert_same_state(ours: dict[str, np.ndarray], theirs: dict[str, Any], values: bool = True) -> None:
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert (ours[name].shape, ours[name].dtype) == (tuple(value.shape), value.numpy().dtype), name
        assert not values or ours[name].tobytes() == value.numpy().tobytes(), name


@pytest.mark.parametrize("name", LAYERS)
def test_layers(backend: Backend, name: str) -> None:
    build, shape = LAYERS[name]
    hold_twins(backend, build(nn), build(tnn), shape)


@pytest.mark.parametrize("name", MODELS)
def test_models(backend: Backend, name: str) -> None:
    build, shape = MODELS[name]
    hold_twins(backend, models.build(name), build(), shape)


def test_a_separable_convolution_is_two_of_theirs(backend: Backend) -> None:
    class Twin(tnn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise, self.pointwise = tnn.Conv2d(3, 3, 3, groups=3, bias=False), tnn.Conv2d(3, 5, 1)

        def forward(self, x: Any) -> Any:
            return self.pointwise(self.depthwise(x))

    hold_twins(backend, nn.DepthwiseSeparableConv2d(3, 5, 3), Twin(), (2, 3, 6, 5))


def test_every_layer_with_parameters_and_every_model_has_its_twin_here() -> None:
    without = {"ConvBlock", "Concat", "Parallel", "Residual", "LocallyConnected2d"}  # made of layers that have theirs
    here = {name.partition(",")[0] for name in LAYERS} | {"DepthwiseSeparableConv2d"} | without
    kinds = {"Weighted", "Scaled"}
    learning = {
        name for name in nn.__all__
        if isinstance(getattr(nn, name), type) and kinds & {base.__name__ for base in getattr(nn, name).__mro__}
    }  # fmt: skip
    assert learning <= here
    theirs = {name for name, make in models.MODELS.items() if make.__module__ == "gpucnn.models.torchvision"}
    assert {name.partition(":")[0] for name in MODELS} == set(
        models.MODELS
    ) - theirs  # tests/models/test_torchvision.py
