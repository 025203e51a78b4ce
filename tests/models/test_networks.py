"""The networks by name besides LeNet: their layers, sizes, initial weights, and that they learn."""

from __future__ import annotations

import numpy as np
import pytest

import gpucnn
from gpucnn import models, nn, optim
from gpucnn.backend import Backend
from gpucnn.errors import GpucnnError, UsageError
from gpucnn.models.deep import residual_block
from gpucnn.nn.activation import ACTIVATIONS
from gpucnn.training import train_step


def kinds(net: nn.Module) -> list[str]:
    assert isinstance(net, nn.Sequential)
    return [type(layer).__name__ for layer in net]


def size(net: nn.Module) -> int:
    return sum(parameter.size for parameter in net.parameters())


@pytest.mark.parametrize("name", ["lenet", "simple_convnet", "conv_mlp", "vgg", "resnet"])
def test_every_network_takes_classes_channels_and_image_size(backend: Backend, name: str) -> None:
    net = models.build(f"{name}:classes=3", in_channels=2, image_size=20)
    assert net.eval()(gpucnn.tensor(np.zeros((2, 2, 20, 20), np.float32))).shape == (2, 3)


@pytest.mark.parametrize("name", ["lenet", "simple_convnet", "conv_mlp", "vgg:width=4", "resnet:width=4,blocks=1"])
def test_every_network_learns_a_batch_by_heart(name: str) -> None:
    gpucnn.manual_seed(0)
    rng = np.random.default_rng(0)
    net = models.build(name, in_channels=1, image_size=16)
    x, y = gpucnn.tensor(rng.standard_normal((8, 1, 16, 16)).astype(np.float32)), gpucnn.tensor(rng.integers(0, 10, 8))
    optimizer, loss_fn = optim.Adam(net.parameters(), lr=0.01), nn.CrossEntropyLoss()
    losses = [train_step(net, loss_fn, optimizer, x, y)[0].item() for _ in range(15)]
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert losses[-1] < losses[0] / 2


def test_lenet_of_system_1() -> None:
    net = models.build("lenet:activation=sigmoid,padding=0,hidden=128,init=xavier_normal")
    state = net.state_dict()
    shapes = [values.shape for values in state.values()][::2]
    assert shapes == [(6, 1, 5, 5), (16, 6, 5, 5), (128, 256), (84, 128), (10, 84)]
    assert all(not values.any() for name, values in state.items() if name.endswith("bias"))
    wanted = np.sqrt(2 / (256 + 128))
    assert abs(state["7.weight"].std() / wanted - 1) < 0.02
    assert abs(state["7.weight"]).max() > 3 * wanted, "normal, not uniform"


def test_lenet_of_system_5() -> None:
    state = models.build("lenet:activation=sigmoid,pooling=avg,init=xavier_uniform").state_dict()
    bound = np.sqrt(6 / (400 + 120))
    assert 0.99 * bound < abs(state["7.weight"]).max() <= bound


def test_he_initialisation() -> None:
    state = models.build("lenet:init=kaiming_normal").state_dict()
    assert abs(state["7.weight"].std() / np.sqrt(2 / 400) - 1) < 0.02
    state = models.build("lenet:init=kaiming_uniform").state_dict()
    assert 0.99 < abs(state["7.weight"]).max() / np.sqrt(6 / 400) <= 1


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_lenet_takes_every_activation_by_name(name: str) -> None:
    net = models.build(f"lenet:activation={name}")
    layers = list(net.children())
    assert [type(layers[i]) for i in (1, 4, 8, 10)] == [ACTIVATIONS[name]] * 4
    assert len({id(layer) for layer in layers}) == 12, "each place has its own layer"


def test_simple_convnet_is_system_3s() -> None:
    parameters = {"filter_num": 30, "filter_size": 5, "pad": 0, "stride": 1}
    net = models.simple_convnet(**parameters)
    assert kinds(net) == ["Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear", "ReLU", "Linear"]
    state = net.state_dict()
    assert [values.shape for values in state.values()] == [(30, 1, 5, 5), (30,), (100, 4320), (100,), (10, 100), (10,)]
    assert abs(state["4.weight"].std() / 0.01 - 1) < 0.01
    assert not state["0.bias"].any()
    smaller = models.build("simple_convnet:filter_num=4,filter_size=3,pad=1,stride=2,hidden=7").state_dict()
    assert [values.shape for values in smaller.values()][::2] == [(4, 1, 3, 3), (7, 4 * 7 * 7), (10, 7)]


def test_conv_mlp_is_system_4s() -> None:
    net = models.conv_mlp()
    assert kinds(net) == ["Conv2d", "Flatten", "Dropout", "Linear", "ReLU", "Linear"]
    assert [values.shape for values in net.state_dict().values()][::2] == [(16, 1, 3, 3), (64, 16 * 26 * 26), (10, 64)]
    dropout = list(net.children())[2]
    assert isinstance(dropout, nn.Dropout)
    assert dropout.p == 0.2


@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_deep_networks_are_small_and_normalised(name: str) -> None:
    net = models.build(name)
    assert 200_000 < size(net) < 1_000_000
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == sum(isinstance(layer, nn.BatchNorm2d) for layer in net.modules())
    assert all(layer.bias is None for layer in convolutions), "batch norm's shift is the bias"


def test_resnet_has_1x1_shortcuts_where_the_shape_changes() -> None:
    net = models.resnet(blocks=2)
    shortcuts = [layer.shortcut for layer in net.modules() if isinstance(layer, nn.Residual)]
    assert [shortcut is not None for shortcut in shortcuts] == [False, False, True, False, True, False]
    changed = [next(iter(shortcut.children())) for shortcut in shortcuts if shortcut is not None]
    assert [(c.kernel_size, c.stride) for c in changed if isinstance(c, nn.Conv2d)] == [((1, 1), (2, 2))] * 2
    assert "GlobalAvgPool2d" in kinds(net)


def test_a_stride_alone_needs_a_shortcut() -> None:
    block = nn.Sequential(*residual_block(4, 4, stride=2))
    assert block(gpucnn.tensor(np.zeros((1, 4, 6, 6), np.float32))).shape == (1, 4, 3, 3)


def test_resnet_takes_images_of_any_size() -> None:
    net = models.resnet(width=2, blocks=1).eval()
    for shape in ((1, 3, 8, 12), (1, 3, 33, 17)):
        assert net(gpucnn.tensor(np.zeros(shape, np.float32))).shape == (1, 10)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lenet:init=glorot", "init: expected default or .*xavier_uniform"),
        ("lenet:hidden=0", "out_features"),
        ("simple_convnet:filter_size=29", "simple_convnet"),
        ("simple_convnet:stride=0", "stride"),
        ("simple_convnet:init_std=-1", "std"),
        ("conv_mlp:image_size=2", "conv_mlp"),
        ("conv_mlp:dropout=2", "probability"),
        ("vgg:image_size=7", "vgg"),
        ("vgg:width=no", "width"),
        ("resnet:blocks=0", "blocks"),
        ("resnet:width=1.5", "width"),
        ("resnet:depth=20", "OPTION=VALUE"),
    ],
)
def test_a_wrong_description_is_wrong_usage(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        models.build(text)


@pytest.mark.parametrize("activation", [None, nn.ReLU(), 3])
def test_an_activation_is_a_name(activation: object) -> None:
    with pytest.raises(GpucnnError, match="lenet: activation"):
        models.lenet(activation=activation)  # type: ignore[arg-type]
