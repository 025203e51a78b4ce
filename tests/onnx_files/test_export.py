"""Exporting networks: every layer, in old and new operator sets, as onnxruntime computes them; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpucnn
import gpucnn.functional as F
from gpucnn import Tensor, models, nn
from gpucnn.autograd import apply
from gpucnn.backend import Window
from gpucnn.errors import GpucnnError, ParameterError, ShapeError
from gpucnn.functional.conv import _conv2d_folded
from gpucnn.functional.norm import batch_norm_fused
from gpucnn.models.structure import layer_classes
from gpucnn.onnx import Preprocessing, export

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

IMAGE = (4, 11, 9)


def scaled(block: nn.Module) -> nn.Module:
    """Return a block behind small inputs: its outputs are then as small as those of the other layers."""
    return nn.Sequential(nn.Affine(0.01), block)


LAYERS: dict[str, list[tuple[Any, tuple[int, ...]]]] = {
    "AdaptiveAvgPool2d": [(lambda: nn.AdaptiveAvgPool2d((3, 2)), IMAGE), (lambda: nn.AdaptiveAvgPool2d(2), (4, 8, 6))],
    "AdaptiveMaxPool2d": [(lambda: nn.AdaptiveMaxPool2d((3, 2)), IMAGE), (lambda: nn.AdaptiveMaxPool2d(1), IMAGE)],
    "Affine": [(lambda: nn.Affine(2, 1), IMAGE)],
    "AvgPool1d": [(lambda: nn.AvgPool1d(3, 2, 1), (4, 11)), (lambda: nn.AvgPool1d(3, 2, 1, True, False), (4, 12))],
    "AvgPool2d": [
        (lambda: nn.AvgPool2d(2), IMAGE),
        (lambda: nn.AvgPool2d(3, 2, 1), IMAGE),
        (lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False), IMAGE),
        (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True), (4, 12, 8)),
        (lambda: nn.AvgPool2d(2, 3, 1, ceil_mode=True, count_include_pad=False), (4, 12, 8)),
        (lambda: nn.AvgPool2d(3, 1, (2, 0, 1, 2), divisor_override=5), IMAGE),
        (lambda: nn.AvgPool2d(3, 2, 1, dilation=2), IMAGE),
        (lambda: nn.AvgPool2d(3, 2, "same", count_include_pad=False, dilation=2), IMAGE),
    ],
    "BatchNorm1d": [(lambda: nn.BatchNorm1d(4), (4,)), (lambda: nn.BatchNorm1d(4, affine=False), (4, 7))],
    "BatchNorm2d": [(lambda: nn.BatchNorm2d(4, eps=0.01), IMAGE), (lambda: nn.BatchNorm2d(4, bias=False), IMAGE)],
    "CentrePool2d": [(lambda: nn.CentrePool2d(3, 2, 1), IMAGE)],
    "Concat": [(lambda: nn.Concat(nn.Conv2d(4, 2, 1), nn.Identity()), IMAGE)],
    "Conv1d": [(lambda: nn.Conv1d(4, 6, 3, 2, 1, groups=2), (4, 11)), (lambda: nn.Conv1d(4, 2, 3, padding="same"), (4, 11))],
    "Conv2d": [
        (lambda: nn.Conv2d(4, 6, 3), IMAGE),
        (lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2, 0, 1), (1, 2), groups=2, bias=False), IMAGE),
        (lambda: nn.Conv2d(4, 3, 4, 2, "same"), IMAGE),
        (lambda: nn.Conv2d(4, 3, 3, padding="full"), IMAGE),
        (lambda: nn.Conv2d(4, 3, 3, padding=2, padding_mode="reflect"), IMAGE),
        (lambda: nn.Conv2d(4, 3, 3, padding=2, padding_mode="replicate"), IMAGE),
        (lambda: nn.Conv2d(4, 3, 3, bias="position", image_size=IMAGE[1:]), IMAGE),
        (lambda: nn.Conv2d(4, 3, 3, implementation="im2col"), IMAGE),
    ],
    "ConvBlock": [(lambda: nn.ConvBlock(4, 3, 3), IMAGE)],
    "ConvTranspose2d": [
        (lambda: nn.ConvTranspose2d(4, 3, 3), IMAGE),
        (lambda: nn.ConvTranspose2d(4, 6, (2, 3), 2, 1, 1, groups=2, dilation=2), IMAGE),
        (lambda: nn.ConvTranspose2d(4, 6, 2, 1, 1, 1, dilation=2), IMAGE),
    ],
    "DepthwiseSeparableConv2d": [(lambda: nn.DepthwiseSeparableConv2d(4, 6, 3, padding=1), IMAGE)],
    "Dropout": [(lambda: nn.Sequential(nn.Dropout(0.5), nn.ReLU()), IMAGE)],
    "Dropout2d": [(lambda: nn.Sequential(nn.Dropout2d(0.5), nn.ReLU()), IMAGE)],
    "ELU": [(lambda: nn.ELU(0.7), IMAGE)],
    "Exponential": [(nn.Exponential, IMAGE)],
    "Flatten": [(nn.Flatten, IMAGE), (lambda: nn.Flatten(2), IMAGE)],
    "GELU": [(nn.GELU, IMAGE), (lambda: nn.GELU("tanh"), IMAGE)],
    "GlobalAvgPool2d": [(nn.GlobalAvgPool2d, IMAGE)],
    "GlobalMaxPool2d": [(nn.GlobalMaxPool2d, IMAGE)],
    "GroupNorm": [(lambda: nn.GroupNorm(2, 4), IMAGE), (lambda: nn.GroupNorm(2, 4, bias=False), IMAGE)],
    "BasicBlock": [(lambda: scaled(nn.BasicBlock(4, 4)), IMAGE), (lambda: scaled(nn.BasicBlock(4, 6, 2)), IMAGE)],
    "Bottleneck": [(lambda: scaled(nn.Bottleneck(4, 2, 2)), IMAGE)],
    "DenseLayer": [(lambda: scaled(nn.DenseLayer(4, 3, dropout=0.5)), IMAGE)],
    "Fire": [(lambda: nn.Fire(4, 2, 3, 5), IMAGE)],
    "Upsample": [
        (lambda: nn.Upsample(scale_factor=2.0), IMAGE),
        (lambda: nn.Upsample((7, 12), mode="bilinear"), IMAGE),
    ],
    "LocallyConnected2d": [(lambda: nn.LocallyConnected2d(4, 3, 3, 2, 1, image_size=IMAGE[1:]), IMAGE)],
    "Hardtanh": [(lambda: nn.Hardtanh(-0.5, 2), IMAGE)],
    "InvertedResidual": [(lambda: nn.InvertedResidual(4, 4, 1, 6), IMAGE), (lambda: nn.InvertedResidual(4, 6, 2, 1), IMAGE)],
    "ReLU6": [(nn.ReLU6, IMAGE)],
    "Hardsigmoid": [(nn.Hardsigmoid, IMAGE)],
    "Identity": [(lambda: nn.Sequential(nn.Identity(), nn.ReLU()), IMAGE)],
    "LPPool2d": [
        (lambda: nn.LPPool2d(2, 3, 2, padding=1), IMAGE),
        (lambda: nn.LPPool2d(1.5, 2, ceil_mode=True), IMAGE),
        (lambda: nn.LPPool2d(2, 3, 2, dilation=2), IMAGE),
    ],
    "LayerNorm": [(lambda: nn.LayerNorm(IMAGE[1:]), IMAGE), (lambda: nn.LayerNorm(IMAGE[1:], bias=False), IMAGE)],
    "LeakyReLU": [(lambda: nn.LeakyReLU(0.2), IMAGE)],
    "Linear": [(lambda: nn.Linear(4, 3), (4,)), (lambda: nn.Linear(9, 3, bias=False), IMAGE)],
    "LogSoftmax": [(nn.LogSoftmax, (5,)), (lambda: nn.LogSoftmax(1), IMAGE)],
    "MaxPool1d": [(lambda: nn.MaxPool1d(3, 2, 1), (4, 11))],
    "MaxPool2d": [
        (lambda: nn.MaxPool2d(2), IMAGE),
        (lambda: nn.MaxPool2d(3, 2, 2, 2, ceil_mode=True), IMAGE),
        (lambda: nn.MaxPool2d(2, 3, 1, ceil_mode=True), (4, 12, 8)),
        (lambda: nn.MaxPool2d(3, 2, "full"), IMAGE),
    ],
    "MaxUnpool2d": [(lambda: Unpooling(), IMAGE)],
    "Parallel": [(lambda: nn.Parallel(nn.Conv2d(4, 4, 1), nn.Identity()), IMAGE)],
    "ReLU": [(nn.ReLU, IMAGE)],
    "Residual": [(lambda: nn.Residual(nn.Conv2d(4, 4, 3, padding=1)), IMAGE)],
    "SELU": [(nn.SELU, IMAGE)],
    "Sequential": [(lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.MaxPool2d(2)), IMAGE)],
    "SiLU": [(nn.SiLU, IMAGE)],
    "Sigmoid": [(nn.Sigmoid, IMAGE)],
    "Softmax": [(nn.Softmax, (5,)), (lambda: nn.Softmax(1), IMAGE)],
    "Softplus": [(nn.Softplus, IMAGE), (lambda: nn.Softplus(2.0), IMAGE)],
    "Tanh": [(nn.Tanh, IMAGE)],
}  # fmt: skip
"""For each layer of ``gpucnn.nn``, what is exported, and the shape of an input. A new layer has to be entered here."""


class Unpooling(nn.Module):
    """Maxima back where they were."""

    def forward(self, x: Tensor) -> Tensor:
        y, indices = F.max_pool2d_with_indices(x, 2)
        return F.max_unpool2d(y, indices, 2, output_size=x.shape[2:])  # type: ignore[arg-type]


def test_every_layer_is_exported_here() -> None:
    losses = {name for name in layer_classes() if name.endswith("Loss")}
    assert set(layer_classes()) - losses - set(LAYERS) == set(), (
        "add a line to LAYERS, and an emitter where one is missing"
    )


def shaken(net: nn.Module) -> nn.Module:
    """Give a network numbers by which a mistake would show: running statistics and shifts other than 0 and 1."""
    rng = np.random.default_rng(5)
    state = {
        name: (rng.random(v.shape) + 0.5).astype(v.dtype) if v.dtype.kind == "f" else v
        for name, v in net.state_dict().items()
    }
    net.load_state_dict(state)
    return net


@pytest.mark.parametrize("opset", [13, 17, None])
@pytest.mark.parametrize("name", LAYERS)
def test_onnxruntime_computes_each_layer_as_gpucnn_does(name: str, opset: int | None, tmp_path: Path) -> None:
    for number, (make, shape) in enumerate(LAYERS[name]):
        for batch in ("dynamic", 2):
            done = export(shaken(make()), tmp_path / f"{number}{batch}.onnx", shape, opset=opset, batch=batch)
            assert done.difference is not None
            assert done.difference < 1e-4, (number, batch)
            assert opset in (None, done.opset)


class Mine(nn.Module):
    """A user's own network: branches, arithmetic, slices, a concatenation and a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(8, 5)
        self.scale = nn.Parameter(gpucnn.tensor([2.0]))

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.first(x))
        for _ in range(2):
            a = a + F.tanh(self.second(a)) * self.scale
        both = gpucnn.concatenate([a[:, :2, ::2, ::2], a[:, 2:, 1::2, 1::2]], 1)
        spread = ((both - both.mean((2, 3), keepdims=True)) ** 2).mean((2, 3))
        return self.head(gpucnn.concatenate([both.max((2, 3)), spread.sqrt()], 1)) / (
            1 + abs(x).sum((1, 2, 3)).reshape(-1, 1)
        )


def test_a_users_own_module_is_exported_through_its_trace(tmp_path: Path) -> None:
    for opset in (13, 18, None):
        done = export(Mine(), tmp_path / f"{opset}.onnx", (3, 8, 8), opset=opset)
        assert done.difference is not None
        assert done.difference < 1e-5
    weights = {t.name for t in onnx.load(tmp_path / "None.onnx").graph.initializer}
    assert {"first.weight", "second.bias", "head.weight", "scale"} <= weights
    net = gpucnn.onnx.load(tmp_path / "None.onnx")
    again = export(net, tmp_path / "again.onnx", (3, 8, 8))
    assert again.difference is not None
    assert again.difference < 1e-5


def statistics() -> tuple[Tensor, ...]:
    rng = np.random.default_rng(2)
    return tuple(gpucnn.tensor(rng.random(3).astype(np.float32) + 0.5) for _ in range(4))


NORMS: dict[str, Any] = {
    "given statistics": lambda x: F.batch_norm(x, *statistics()),
    "the batch's own": lambda x: F.batch_norm(x, None, None, *statistics()[2:]),
    "without scale": lambda x: F.batch_norm(x, None, None),
    "with what is added": lambda x: batch_norm_fused(x, *statistics(), residual=x * 2, relu=True),
    "folded": lambda x: conv2d_batch_norm(x),
}  # fmt: skip


def conv2d_batch_norm(x: Tensor) -> Tensor:
    """A convolution and normalisation that run as one."""
    mean, var, weight, bias = statistics()
    filters = gpucnn.tensor(np.random.default_rng(3).standard_normal((3, 3, 3, 3)).astype(np.float32))
    window = Window((3, 3), padding=(1, 1, 1, 1))
    return apply(
        _conv2d_folded, x, filters, bias, mean, var, weight, None, window=window, groups=1, eps=1e-5, relu=True
    )


@pytest.mark.parametrize("name", NORMS)
def test_batch_normalisation_as_a_function(name: str, tmp_path: Path) -> None:
    for opset in (13, None):
        batch: int | str = 4 if "own" in name or "without" in name else "dynamic"
        done = export(nn.Lambda(NORMS[name]), tmp_path / f"{opset}.onnx", (3, 5, 4), opset=opset, batch=batch)
        assert done.difference is not None
        assert done.difference < 1e-4


def of(function: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.Lambda(function))


def changed(x: Tensor) -> Tensor:
    y = x * 1
    y *= 2
    return y + 1


CANNOT: dict[str, tuple[nn.Module, str]] = {
    "a loop": (of(lambda x: gpucnn.concatenate([x[i : i + 1] for i in range(len(x))])), "what it computes depends"),
    "a number read back": (of(lambda x: x * x.max().item()), "layer 1 .Lambda.: it uses a value that depends on the input"),
    "a decision": (nn.Lambda(lambda x: F.relu(x) if x.sum().item() > 0 else F.tanh(x)), "depends on the numbers"),
    "the number of images": (of(lambda x: x / len(x)), "or on the number of images"),
    "a change in place": (of(changed), "a tensor is changed in place"),
    "an operation of training": (of(lambda x: F.dropout(x, 0.5)), "layer 1 .Lambda.: .*depends|dropout cannot be written"),
    "no tensor": (of(lambda x: [x.numpy()]), "output: expected tensors"),
}  # fmt: skip


@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_be_exported_is_named_with_its_layer(name: str, tmp_path: Path) -> None:
    net, words = CANNOT[name]
    with pytest.raises(GpucnnError, match=words):
        export(net, tmp_path / "net.onnx", (3, 4, 4))
    assert not list(tmp_path.iterdir())


def test_a_fixed_batch_lifts_what_only_the_batch_forbids(tmp_path: Path) -> None:
    done = export(CANNOT["the number of images"][0], tmp_path / "net.onnx", (3, 4, 4), batch=5)
    assert done.difference is not None
    assert done.difference < 1e-6
    assert [d.dim_value for d in onnx.load(tmp_path / "net.onnx").graph.input[0].type.tensor_type.shape.dim] == [
        5,
        3,
        4,
        4,
    ]


def test_images_go_in_and_probabilities_come_out(tmp_path: Path) -> None:
    net = models.lenet()
    how = Preprocessing((0.13,), (0.31,), "centred")
    path = tmp_path / "lenet.onnx"
    export(
        net,
        path,
        (1, 28, 28),
        preprocessing=how,
        probabilities=True,
        class_names=list("abcdefghij"),
        metadata={"run": "x"},
    )
    images = np.random.default_rng(0).integers(0, 256, (7, 1, 28, 28), np.uint8)
    (found,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": images})
    x = (images / 255 - 0.13) / 0.31
    with gpucnn.no_grad():
        wanted = F.softmax(net.eval()(gpucnn.tensor(x.astype(np.float32)))).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    model = onnx.load(path)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about["gpucnn.classes"]) == list("abcdefghij")
    assert json.loads(about["gpucnn.input"]) == {
        "shape": [1, 28, 28],
        "mean": [0.13],
        "std": [0.31],
        "framing": "centred",
    }
    assert about["gpucnn.run"] == "x"
    assert (model.producer_name, model.producer_version) == ("gpucnn", gpucnn.__version__)


def test_a_file_is_not_replaced_unasked_and_arguments_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"mine")
    net = nn.Linear(3, 2)
    with pytest.raises(ParameterError, match=r"expected a new file, got .*Pass overwrite=True"):
        export(net, path, (3,))
    assert path.read_bytes() == b"mine"
    export(net, path, (3,), overwrite=True)
    for options, words in (
        ({"opset": 12}, "opset: expected an int from 13 to"),
        ({"opset": 99}, "opset: expected an int from 13 to"),
        ({"batch": 0}, "batch: expected 'dynamic', or a positive int"),
    ):
        with pytest.raises(ParameterError, match=words):
            export(net, tmp_path / "other.onnx", (3,), **options)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="input_shape: expected positive ints"):
        export(net, tmp_path / "other.onnx", ())
    with pytest.raises(ShapeError, match=r"expected \(C, H, W\) with the 1 channels of the preprocessing"):
        export(net, tmp_path / "other.onnx", (3,), preprocessing=Preprocessing((0.0,), (1.0,)))
    with pytest.raises(GpucnnError, match="cannot be written"):
        export(net, tmp_path / "nowhere" / "net.onnx", (3,))


def test_without_onnxruntime_nothing_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert export(nn.Linear(3, 2), tmp_path / "net.onnx", (3,)).difference is None
