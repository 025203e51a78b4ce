"""A network's structure as plain data: there and back for every layer, and nothing but that."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import Tensor, models, nn
from gpucnn.errors import ParameterError
from gpucnn.models import structure
from gpucnn.models.structure import describe, rebuild

NO_LAYER = {"Module", "ModuleDict", "ModuleList", "Layer", "Activation", "Lambda"}
LAYERS = {
    name
    for name, value in vars(nn).items()
    if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ != "gpucnn.nn.loss"
} - NO_LAYER
IMAGES, SEQUENCES, ROWS = (2, 4, 6, 8), (2, 4, 8), (2, 4)

EXAMPLES: dict[str, list[tuple[Callable[[], nn.Module], tuple[int, ...]]]] = {
    "Conv2d": [
        (lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0, 2, 1), (1, 2), 2, False, "replicate"), IMAGES),
        (lambda: nn.Conv2d(4, 2, 3, padding="same", exact=True, name="first"), IMAGES),
        (lambda: nn.Conv2d(4, 2, 1, dtype="float64"), IMAGES),
        (lambda: nn.Conv2d(4, 2, 3, 2, 1, bias="position", image_size=(6, 8)), IMAGES),
    ],
    "Conv1d": [(lambda: nn.Conv1d(4, 6, 3, 2, 1, 2, 2, False), SEQUENCES), (lambda: nn.Conv1d(4, 2, 1), SEQUENCES)],
    "ConvTranspose2d": [
        (lambda: nn.ConvTranspose2d(4, 6, (3, 2), 2, (1, 0), (1, 0), 2, False, 2), IMAGES),
        (lambda: nn.ConvTranspose2d(4, 6, 2), IMAGES),
    ],
    "Linear": [(lambda: nn.Linear(4, 3), ROWS), (lambda: nn.Linear(4, 3, False, dtype="float64"), ROWS)],
    "MaxPool1d": [(lambda: nn.MaxPool1d(3, (2,), 1, 1, True), SEQUENCES)],
    "AvgPool1d": [(lambda: nn.AvgPool1d((3,), 2, 1, True, False), SEQUENCES)],
    "MaxPool2d": [(lambda: nn.MaxPool2d((3, 2), 2, (1, 0), (1, 2), True), IMAGES)],
    "AvgPool2d": [
        (lambda: nn.AvgPool2d((3, 2), 2, 1, True, False), IMAGES),
        (lambda: nn.AvgPool2d(2, divisor_override=3), IMAGES),
    ],
    "LPPool2d": [
        (lambda: nn.LPPool2d(3.5, (3, 2), 2, True, padding=1, dilation=(1, 2)), IMAGES),
        (lambda: nn.LPPool2d(float("inf"), 2), IMAGES),
    ],
    "CentrePool2d": [(lambda: nn.CentrePool2d((3, 2), 2, (1, 0), (1, 2)), IMAGES)],
    "AdaptiveAvgPool2d": [(lambda: nn.AdaptiveAvgPool2d((None, 3)), IMAGES), (lambda: nn.AdaptiveAvgPool2d(2), IMAGES)],
    "AdaptiveMaxPool2d": [(lambda: nn.AdaptiveMaxPool2d((2, 3)), IMAGES)],
    "GlobalAvgPool2d": [(nn.GlobalAvgPool2d, IMAGES)],
    "GlobalMaxPool2d": [(nn.GlobalMaxPool2d, IMAGES)],
    "MaxUnpool2d": [(lambda: nn.MaxUnpool2d((2, 3), (2, 1), (1, 0)), ())],
    "BatchNorm1d": [(lambda: nn.BatchNorm1d(4, 0.1, 0.5), SEQUENCES)],
    "BatchNorm2d": [
        (lambda: nn.BatchNorm2d(4, affine=False), IMAGES),
        (lambda: nn.BatchNorm2d(4, track_running_stats=False), IMAGES),
        (lambda: nn.BatchNorm2d(4, bias=False), IMAGES),
        (lambda: nn.BatchNorm2d(4, affine=False, dtype="float64"), IMAGES),
    ],
    "LayerNorm": [
        (lambda: nn.LayerNorm((6, 8), 0.1), IMAGES),
        (lambda: nn.LayerNorm(4, 0.1, False), ROWS),
        (lambda: nn.LayerNorm(4, bias=False), ROWS),
    ],
    "GroupNorm": [
        (lambda: nn.GroupNorm(2, 4, 0.1), IMAGES),
        (lambda: nn.GroupNorm(2, 4, affine=False), IMAGES),
        (lambda: nn.GroupNorm(2, 4, bias=False), IMAGES),
    ],
    "Dropout": [(lambda: nn.Dropout(0.25), ROWS)],
    "Dropout2d": [(lambda: nn.Dropout2d(0.25), IMAGES)],
    "Flatten": [(lambda: nn.Flatten(2, -1), IMAGES)],
    "Softmax": [(lambda: nn.Softmax(1), IMAGES)],
    "LogSoftmax": [(lambda: nn.LogSoftmax(1), IMAGES)],
    "LeakyReLU": [(lambda: nn.LeakyReLU(0.25), ROWS)],
    "ELU": [(lambda: nn.ELU(0.5), ROWS)],
    "GELU": [(lambda: nn.GELU("tanh"), ROWS)],
    "Softplus": [(lambda: nn.Softplus(2.0, 0.5), ROWS)],
    "Affine": [(lambda: nn.Affine(3, -1.5), ROWS)],
    "Sequential": [
        (lambda: nn.Sequential({"a": nn.Linear(4, 3), "b": nn.Sequential(nn.ReLU(), nn.Linear(3, 2, name="out"))}), ROWS),
        (nn.Sequential, ROWS),
        (lambda: nn.Sequential(*[nn.Affine(i, 1) for i in range(12)], name="twelve"), ROWS),
    ],
    "ConvBlock": [
        (lambda: nn.ConvBlock(4, 2, (3, 2), 2, 1, nn.LeakyReLU(0.5), stride=2, padding=1, pooling="avg"), IMAGES),
        (lambda: nn.ConvBlock(4, 2, 3, None, None), IMAGES),
    ],
    "Parallel": [(lambda: nn.Parallel(nn.Linear(4, 3), nn.Linear(4, 3, name="other")), ROWS)],
    "Concat": [(lambda: nn.Concat(nn.Identity(), nn.Tanh(), axis=2), IMAGES)],
    "Residual": [
        (lambda: nn.Residual(nn.Conv2d(4, 4, 3, padding=1)), IMAGES),
        (lambda: nn.Residual(nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1, bias=False)), IMAGES),
    ],
    "BasicBlock": [
        (lambda: nn.BasicBlock(4, 4), IMAGES),
        (lambda: nn.BasicBlock(4, 6, 2, name="first"), IMAGES),
    ],
    "Bottleneck": [(lambda: nn.Bottleneck(4, 1), IMAGES), (lambda: nn.Bottleneck(4, 2, 2), IMAGES)],
    "InvertedResidual": [
        (lambda: nn.InvertedResidual(4, 4, 1, 6), IMAGES),
        (lambda: nn.InvertedResidual(4, 6, 2, 1), IMAGES),
    ],
    "Fire": [(lambda: nn.Fire(4, 2, 3, 5), IMAGES)],
    "DenseLayer": [
        (lambda: nn.DenseLayer(4, 3), IMAGES),
        (lambda: nn.DenseLayer(4, 3, 2, dropout=0.25), IMAGES),
    ],
    "Upsample": [
        (lambda: nn.Upsample((9, 5)), IMAGES),
        (lambda: nn.Upsample(scale_factor=1.5, mode="bilinear", align_corners=True), IMAGES),
    ],
    "LocallyConnected2d": [
        (lambda: nn.LocallyConnected2d(4, 3, (3, 2), (2, 1), (1, 0, 2, 1), (1, 2), False, image_size=(6, 8)), IMAGES),
        (lambda: nn.LocallyConnected2d(4, 3, 3, padding="same", image_size=(6, 8), dtype="float64"), IMAGES),
    ],
    "Hardtanh": [(lambda: nn.Hardtanh(-2, 0.5), ROWS)],
    "DepthwiseSeparableConv2d": [(lambda: nn.DepthwiseSeparableConv2d(4, 3, 3, 2, 1, bias=False), IMAGES)],
}  # fmt: skip
EXAMPLES |= {name: [(getattr(nn, name), ROWS)] for name in LAYERS - EXAMPLES.keys()}
CASES = [(name, number) for name in sorted(EXAMPLES) for number in range(len(EXAMPLES[name]))]


NARROW = {
    "alexnet": "hidden=8", "vgg11": "hidden=8,width=2", "vgg16": "hidden=8,width=2", "vgg16_bn": "hidden=8,width=2",
    "resnet18": "width=4", "resnet34": "width=4", "resnet50": "width=4", "mobilenet_v2": "width_mult=0.1",
    "densenet121": "growth_rate=4",
}  # fmt: skip
"""Options that make a large network small."""


def inputs(layer: nn.Module, shape: tuple[int, ...]) -> list[Tensor]:
    if isinstance(layer, nn.MaxUnpool2d):
        return [gpucnn.tensor([[[1.0, 2.0], [3.0, 4.0]]]), gpucnn.tensor([[[0, 1], [2, 3]]])]
    dtype = describe(layer)["arguments"].get("dtype", "float32")
    return [gpucnn.tensor(np.random.default_rng(0).standard_normal(shape).astype(dtype))]


def there_and_back(model: nn.Module) -> nn.Module:
    """Return the network of the description, by way of a JSON text whose keys were sorted."""
    again = rebuild(json.loads(json.dumps(describe(model), sort_keys=True, allow_nan=False)))
    again.load_state_dict(model.state_dict())
    return again


def test_the_table_has_every_layer() -> None:
    assert set(structure.layer_classes()) == LAYERS == set(EXAMPLES)


@pytest.mark.bits
@pytest.mark.parametrize(("name", "number"), CASES)
def test_there_and_back(name: str, number: int) -> None:
    make, shape = EXAMPLES[name][number]
    layer = make()
    again = there_and_back(layer)
    assert type(again) is type(layer)
    assert repr(again) == repr(layer)
    assert again.name == layer.name
    assert describe(again) == describe(layer)
    x = inputs(layer, shape)
    np.testing.assert_array_equal(again.eval()(*x).numpy(), layer.eval()(*x).numpy())
    assert list(again.state_dict()) == list(layer.state_dict())
    assert [str(v.dtype) for v in again.state_dict().values()] == [str(v.dtype) for v in layer.state_dict().values()]


@pytest.mark.bits
@pytest.mark.parametrize("name", models.MODELS)
def test_networks_there_and_back(name: str) -> None:
    net = models.build(f"{name}:{NARROW.get(name, '')}", in_channels=3, image_size=64)
    again = there_and_back(net)
    x = gpucnn.tensor(np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32))
    np.testing.assert_array_equal(again.eval()(x).numpy(), net.eval()(x).numpy())


def test_a_layer_that_waits_for_its_input_still_waits() -> None:
    net = nn.Sequential(nn.Conv2d(None, 2, 3), nn.Flatten(), nn.Linear(None, 3))
    again = rebuild(describe(net))
    x = gpucnn.tensor(np.ones((1, 3, 4, 4), np.float32))
    net(x)
    assert again(x).shape == (1, 3)
    assert describe(again) == describe(net)


def test_a_network_that_was_moved_to_float64_is_described_so() -> None:
    net = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1)).to("float64")
    assert {str(p.dtype) for p in rebuild(describe(net)).parameters()} == {"float64"}


# --- what is refused -------------------------------------------------------------------------------------------------


class Mine(nn.Module):
    pass


class Linear(nn.Linear):
    """A class of the user's under the name of a known one."""


def own_layer(name: str) -> nn.Module:
    relu = nn.ReLU()
    relu.name = name
    return relu


def tied() -> nn.Module:
    layer = nn.Linear(2, 2)
    return nn.Sequential(layer, nn.ReLU(), layer)


def longer_block() -> nn.Module:
    block = nn.ConvBlock(1, 1, 1)
    block.append(nn.ReLU())
    return nn.Sequential(block)


def changed(layer: nn.Module, **attributes: Any) -> nn.Module:
    for name, value in attributes.items():
        setattr(layer, name, value)
    return nn.Sequential(nn.ReLU(), layer)


def deep(depth: int) -> nn.Module:
    net: nn.Module = nn.ReLU()
    for _ in range(depth):
        net = nn.Sequential(net)
    return net


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Sequential(nn.ReLU(), nn.Lambda(abs)), r"layer 1: expected a layer of .*Lambda\(abs\)"),
        (lambda: nn.Sequential(nn.Residual(nn.Sequential(Mine()))), r"layer 0\.block\.0: .*Mine"),
        (lambda: nn.Sequential(Linear(1, 1)), "layer 0"),
        (lambda: nn.CrossEntropyLoss(), "model: expected a layer"),
        (lambda: 3, "a Module, got int"),
        (tied, "layer 2: expected parameters of its own, got those of layer 0"),
        (longer_block, "layer 0: layers inside ConvBlock: expected conv, activation"),
        (lambda: changed(nn.Linear(1, 1), extra=nn.ReLU()), "layer 1: layers inside Linear: expected none, got extra"),
        (lambda: changed(nn.Dropout(), p=[0.5]), "layer 1: p: expected a number"),
        (lambda: changed(nn.MaxPool2d(2), ceil_mode=1), "layer 1: ceil_mode: expected true or false"),
        (lambda: own_layer("a.b"), "model: name"),
        (lambda: deep(60), "at most 50 deep"),
    ],
)
def test_what_cannot_be_described_names_the_layer(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ParameterError, match=f"describe: .*{words}"):
        describe(make())


def test_a_layer_without_parameters_may_stand_in_two_places() -> None:
    relu = nn.ReLU()
    assert len(list(rebuild(describe(nn.Sequential(relu, nn.Tanh(), relu))).children())) == 3


def layer(kind: Any, **arguments: Any) -> dict[str, Any]:
    return {"layer": kind, "arguments": arguments}


def around(*pairs: Any, kind: str = "Sequential", **arguments: Any) -> dict[str, Any]:
    return {"layer": kind, "arguments": arguments, "children": list(pairs)}


def nested(depth: int) -> dict[str, Any]:
    found = layer("ReLU")
    for _ in range(depth):
        found = around(["0", found])
    return found


def in_itself() -> dict[str, Any]:
    found = layer("Sequential")
    found["children"] = [["a", found], ["b", found]]
    return found


RELU = {"layer": "ReLU"}
HOSTILE: dict[str, tuple[Any, str]] = {
    "no dict": ([], "model: expected a dict"),
    "nothing": (None, "NoneType"),
    "an unknown key": ({**RELU, "code": "1"}, "code"),
    "no layer": ({}, "the name of a layer"),
    "an unknown layer": (layer("Lambda"), "'Lambda'"),
    "a name from elsewhere": (layer("os.system"), "'os.system'"),
    "a base class": (layer("Module"), "'Module'"),
    "a loss": (layer("CrossEntropyLoss"), "'CrossEntropyLoss'"),
    "a layer that is no text": (layer(["ReLU"]), "ReLU"),
    "an unknown argument": (layer("ReLU", inplace=True), "arguments of ReLU.*inplace"),
    "a device": (layer("Linear", in_features=1, out_features=1, device="cuda"), "device"),
    "a missing argument": (layer("Linear", in_features=1), "out_features"),
    "arguments that are no dict": ({"layer": "ReLU", "arguments": [1]}, "arguments of ReLU"),
    "a text for a number": (layer("Linear", in_features="4", out_features=1), "in_features: expected null or a whole"),
    "a bool for a number": (layer("Linear", in_features=True, out_features=1), "in_features"),
    "a float for a count": (layer("Linear", in_features=2.0, out_features=1), "in_features"),
    "zero": (layer("Linear", in_features=1, out_features=0), "out_features"),
    "less than nothing": (layer("Conv2d", in_channels=1, out_channels=-1, kernel_size=1), "out_channels"),
    "a number for a flag": (layer("Linear", in_features=1, out_features=1, bias=1), "bias: expected true or false"),
    "no number": (layer("Dropout", p=float("nan")), "p: expected a number"),
    "a far too large number": (layer("Dropout", p=10**5000), "p: expected a number, got int"),
    "a word that is no number": (layer("Softplus", threshold="much"), "threshold"),
    "an object": (layer("GELU", approximate=object()), "approximate"),
    "a foreign dtype": (layer("Linear", in_features=1, out_features=1, dtype="object"), "dtype: expected float16"),
    "five sides": (layer("MaxPool2d", kernel_size=2, padding=[0] * 5), "padding"),
    "sides in sides": (layer("MaxPool2d", kernel_size=[[2]]), "kernel_size"),
    "what the layer refuses": (layer("Dropout", p=2), "model: Dropout: p"),
    "groups that do not divide": (layer("Conv2d", in_channels=3, out_channels=2, kernel_size=1, groups=2), "groups"),
    "a name that is no text": ({**RELU, "name": 3}, "name"),
    "a name with dots": ({**RELU, "name": "a.b"}, "name"),
    "a name that hides a method": (around(["forward", RELU]), "model: name: .*'forward'"),
    "a name that hides the registry": (around(["_modules", {**RELU, "name": "_modules"}], kind="Parallel"), "_modules"),
    "an endless name": ({**RELU, "name": "a" * 101}, "name"),
    "children that are no list": ({"layer": "Sequential", "children": {"0": RELU}}, "children"),
    "children without names": (around(RELU), "children"),
    "one name twice": (around(["a", RELU], ["a", RELU]), "each name once"),
    "children of a leaf": (around(["0", RELU], kind="Linear", in_features=1, out_features=1), "inside Linear: .*none"),
    "a block without its layers": (layer("Residual"), "inside Residual: expected block or block, shortcut, got none"),
    "other layers in a block": (around(["conv", RELU], kind="DepthwiseSeparableConv2d"), "expected depthwise, pointwise"),
    "branches under other names": (around(["a", RELU], ["b", RELU], kind="Parallel"), "Parallel: children"),
    "no branch": (layer("Parallel"), "at least one"),
    "very deep": (nested(60), "at most 50 deep"),
    "endlessly deep": (nested(100_000), "at most 50 deep"),
    "in itself": (in_itself(), "at most"),
    "many layers": (around(*[[f"n{i}", RELU] for i in range(10_001)]), "at most 10000 layers"),
    "a large layer": (layer("Linear", in_features=2**20, out_features=2**20), "at most 67,108,864 parameters"),
    "a large kernel": (layer("Conv2d", in_channels=1, out_channels=1, kernel_size=2**15), "parameters"),
    "large only with groups": (
        layer("Conv2d", in_channels=2**30, out_channels=2**30, kernel_size=1, groups=2**30), "parameters"),
    "a large norm": (layer("BatchNorm2d", num_features=2**31), "parameters"),
    "a large bias": (
        layer("Conv2d", in_channels=1, out_channels=1, kernel_size=1, bias="position", image_size=2**16), "parameters"),
    "a large bias by its border": (
        layer("Conv2d", in_channels=1, out_channels=1, kernel_size=1, bias="position", image_size=1,
              padding=[2**16] * 4), "parameters"),
    "a large bias by a full border": (
        layer("Conv2d", in_channels=1, out_channels=1, kernel_size=2, bias="position", image_size=1, padding="full",
              dilation=2**16), "parameters"),
    "another bias": (layer("Conv2d", in_channels=1, out_channels=1, kernel_size=1, bias="sides"), "bias: .*'position'"),
    "large together": (
        around(*[[f"n{i}", layer("Linear", in_features=2**14, out_features=2**14)] for i in range(2)]), "layer n1"),
    "beyond all bounds": (layer("Linear", in_features=2**80, out_features=1), "in_features"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_describe_does_not_return_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "large together":
        monkeypatch.setattr(structure, "MOST_ALONE", 2**15)
        hostile = around(*[[f"n{i}", layer("Linear", in_features=128, out_features=129)] for i in range(2)])
    else:
        hostile = HOSTILE[name][0]
    with pytest.raises(ParameterError, match=f"rebuild: .*{HOSTILE[name][1]}") as caught:
        rebuild(hostile)
    assert len(str(caught.value)) < 500


def test_grouped_convolutions_count_what_they_have() -> None:
    depthwise = layer("Conv2d", in_channels=2**15, out_channels=2**15, kernel_size=3, groups=2**15)
    assert sum(p.size for p in rebuild(depthwise).parameters()) == 2**15 * 10
