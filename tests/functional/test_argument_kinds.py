"""What users pass for sizes, numbers and tensors: NumPy's kinds serve as Python's do, and junk is refused in our words."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpucnn
import gpucnn.functional as F
from gpucnn import nn, optim
from gpucnn.backend import Generator
from gpucnn.errors import DTypeError, GpucnnError, ParameterError

JUNK: tuple[Any, ...] = (
    None,
    "nonsense",
    b"ab",
    1.5,
    -1,
    0,
    True,
    [],
    (),
    {},
    object(),
    np.ones(2),
    [1, "a"],
    float("nan"),
    10**400,
)


def x(*shape: int) -> gpucnn.Tensor:
    return gpucnn.tensor(np.ones(shape, np.float32))


FITTING: dict[str, tuple[Any, ...]] = {
    "adaptive_avg_pool2d": (x(1, 2, 4, 4), 2), "adaptive_max_pool2d": (x(1, 2, 4, 4), 2),
    "affine": (x(3), 1.0, 0.0), "avg_pool2d": (x(1, 2, 4, 4), 2, 2, 0, False, True, None, 1),
    "avg_pool1d": (x(1, 2, 4), 2, 2, 0, False, True), "max_pool1d": (x(1, 2, 4), 2, 2, 0, 1, False),
    "batch_norm": (x(4, 2), x(2), x(2), x(2), x(2), True, 0.1, 1e-5),
    "binary_cross_entropy": (x(3), x(3)), "binary_cross_entropy_with_logits": (x(3), x(3)),
    "centre_pool2d": (x(1, 2, 4, 4), 2, 2, 0, 1, False), "col2im": (x(9, 8), (1, 2, 4, 4), 2, 1, 0, 1),
    "conv1d": (x(1, 2, 6), x(3, 2, 2), x(3), 1, 0, 1, 1), "conv2d": (x(1, 2, 4, 4), x(3, 2, 2, 2), x(3), 1, 0, 1, 1),
    "conv2d_loops": (x(1, 1, 3, 3), x(1, 1, 2, 2), x(1), 1, 0, 1, 1),
    "conv2d_relu_max_pool2d": (x(1, 2, 5, 5), x(3, 2, 2, 2), x(3), 1, 0, 1, 1),
    "conv_transpose2d": (x(1, 2, 4, 4), x(2, 3, 2, 2), x(3), 1, 0, 0, 1, 1), "corr2d": (x(4, 4), x(2, 2), 1, 0),
    "cross_entropy": (x(2, 3), gpucnn.tensor([0, 1])), "dropout": (x(3), 0.5, True, None),
    "dropout2d": (x(2, 3), 0.5, True, None), "elu": (x(3), 1.0), "exponential": (x(3),), "gelu": (x(3), "none"),
    "global_avg_pool2d": (x(1, 2, 4, 4),), "global_max_pool2d": (x(1, 2, 4, 4),),
    "group_norm": (x(2, 4), 2, x(4), x(4), 1e-5), "hardsigmoid": (x(3),), "hinge_loss": (x(3), x(3)),
    "huber_loss": (x(3), x(3), "mean", 1.0), "im2col": (x(1, 2, 4, 4), 2, 1, 0, 1), "l1_loss": (x(3), x(3)),
    "layer_norm": (x(2, 4), (4,), x(4), x(4), 1e-5), "leaky_relu": (x(3), 0.1), "linear": (x(2, 3), x(4, 3), x(4)),
    "log_softmax": (x(2, 3), 1), "lp_pool2d": (x(1, 2, 4, 4), 2.0, 2, 2, 0, 1, False),
    "max_pool2d": (x(1, 2, 4, 4), 2, 2, 0, 1, False), "max_pool2d_with_indices": (x(1, 2, 4, 4), 2, 2, 0, 1, False),
    "max_unpool2d": (x(1, 1, 2, 2), gpucnn.tensor([[[[0, 2], [8, 10]]]]), 2, 2, 0, (4, 4)), "mse_loss": (x(3), x(3)),
    "nll_loss": (x(2, 3), gpucnn.tensor([0, 1])), "pad2d": (x(1, 2, 4, 4), 1, "zeros"), "relu": (x(3),),
    "selu": (x(3),), "sigmoid": (x(3),), "silu": (x(3),), "softmax": (x(2, 3), 1), "softplus": (x(3), 1.0, 20.0),
    "by_output": (x(3), lambda x: x * 1, lambda y: y * 0 + 1), "convolve2d": (x(1, 2, 4, 4), x(3, 2, 2, 2), x(3), 1, 0),
    "interpolate": (x(1, 2, 4, 4), 3, None, "nearest", False), "output_size": ((4, 4), 2, 1, 0, 1),
    "locally_connected2d": (x(1, 2, 4, 4), x(3, 3, 3, 2, 2, 2), x(3, 3, 3), 1, 0, 1),
    "tanh": (x(3),), "hardtanh": (x(3), -1.0, 1.0), "relu6": (x(3),),
}  # fmt: skip


def functions() -> list[str]:
    return sorted(name for name in F.__all__ if callable(getattr(F, name)))


def test_every_function_has_fitting_arguments_here() -> None:
    assert set(functions()) == set(FITTING)
    for name, arguments in FITTING.items():
        getattr(F, name)(*arguments)


@pytest.mark.parametrize("name", FITTING)
def test_junk_in_any_argument_of_a_function_is_refused_in_our_words(name: str) -> None:
    words: list[str] = []
    for place in range(len(FITTING[name])):
        for junk in JUNK:
            arguments = list(FITTING[name])
            arguments[place] = junk
            try:
                getattr(F, name)(*arguments)
            except GpucnnError as error:
                words.append(str(error))
    assert words
    assert max(map(len, words)) < 500


LAYERS: dict[str, dict[str, Any]] = {
    "Conv1d": {"in_channels": 2, "out_channels": 3, "kernel_size": 2}, "BatchNorm1d": {"num_features": 2},
    "Conv2d": {"in_channels": 2, "out_channels": 3, "kernel_size": 2}, "BatchNorm2d": {"num_features": 2},
    "ConvTranspose2d": {"in_channels": 2, "out_channels": 3, "kernel_size": 2},
    "Linear": {"in_features": 2, "out_features": 3}, "LayerNorm": {"normalized_shape": 4},
    "GroupNorm": {"num_groups": 2, "num_channels": 4}, "MaxPool2d": {"kernel_size": 2}, "AvgPool2d": {"kernel_size": 2},
    "MaxPool1d": {"kernel_size": 2}, "AvgPool1d": {"kernel_size": 2},
    "LPPool2d": {"norm_type": 2, "kernel_size": 2}, "CentrePool2d": {"kernel_size": 2},
    "AdaptiveAvgPool2d": {"output_size": 2}, "AdaptiveMaxPool2d": {"output_size": 2}, "MaxUnpool2d": {"kernel_size": 2},
    "Dropout": {}, "Dropout2d": {}, "ReLU": {}, "ReLU6": {}, "SELU": {}, "SiLU": {}, "Hardsigmoid": {},
    "Flatten": {}, "Softmax": {}, "LeakyReLU": {}, "ELU": {}, "GELU": {}, "Softplus": {},
    "Affine": {}, "CrossEntropyLoss": {}, "NLLLoss": {}, "HuberLoss": {}, "MSELoss": {}, "Concat": {},
    "DepthwiseSeparableConv2d": {"in_channels": 2, "out_channels": 3, "kernel_size": 2},
    "Upsample": {"scale_factor": 2},
    "LocallyConnected2d": {"in_channels": 2, "out_channels": 3, "kernel_size": 2, "image_size": 4},
    "Hardtanh": {}, "BasicBlock": {"in_channels": 2, "channels": 2}, "Bottleneck": {"in_channels": 2, "channels": 2},
    "InvertedResidual": {"in_channels": 2, "out_channels": 2, "stride": 1, "expand_ratio": 2},
    "DenseLayer": {"in_channels": 2, "growth": 2},
    "Fire": {"in_channels": 2, "squeeze_channels": 2, "expand1x1_channels": 2, "expand3x3_channels": 2},
    "ConvBlock": {"channels": 1, "filters": 2, "filter_size": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_junk_in_any_argument_of_a_layer_is_refused_in_our_words(name: str) -> None:
    kind = getattr(nn, name)
    inside = (nn.ReLU(),) if name == "Concat" else ()
    kind(*inside, **LAYERS[name])
    words: list[str] = []
    for argument, parameter in inspect.signature(kind).parameters.items():
        if argument == "name" or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        for junk in JUNK:
            try:
                kind(*inside, **{**LAYERS[name], argument: junk})
            except GpucnnError as error:
                words.append(str(error))
    assert words
    assert max(map(len, words)) < 500


FLAGS = [
    (name, argument)
    for name in LAYERS
    for argument, parameter in inspect.signature(getattr(nn, name)).parameters.items()
    if isinstance(parameter.default, bool)
]


@pytest.mark.parametrize(("name", "argument"), FLAGS)
def test_a_flag_of_a_layer_is_true_or_false(name: str, argument: str) -> None:
    with pytest.raises(ParameterError, match=argument):
        getattr(nn, name)(**{**LAYERS[name], argument: "nonsense"})
    getattr(nn, name)(**{**LAYERS[name], argument: np.bool_(True)} | ({"image_size": 4} if name == "Conv2d" else {}))


def test_numpys_numbers_serve_as_sizes_axes_and_factors() -> None:
    two, one = np.int64(2), np.int32(1)
    image = x(1, 2, 6, 6)
    assert F.conv2d(image, x(3, 2, 2, 2), None, two, (one, one), one, one).shape == (1, 3, 4, 4)
    assert F.max_pool2d(image, two, one).shape == (1, 2, 5, 5)
    assert F.softmax(image, one).shape == image.shape
    assert image.sum(np.int64(1)).shape == (1, 6, 6)
    assert image.reshape(np.int64(2), -1).shape == (2, 36)
    assert (image * np.float32(2)).sum().item() == 144
    assert (np.float32(2) * image + np.int8(1)).sum().item() == 216
    assert F.leaky_relu(x(1), np.float32(0.5)).item() == 1
    assert gpucnn.concatenate([image, image], np.int64(1)).shape == (1, 4, 6, 6)
    assert Generator(np.int64(7)).next_key() == [7, 0]
    assert type(Generator(np.int64(7)).seed) is int


def test_numpys_numbers_in_layers_become_pythons() -> None:
    layer = nn.Conv2d(np.int64(1), np.int32(2), (np.int64(3), 3), np.int8(1), np.uint8(1), bias=np.bool_(False))
    assert repr(layer) == repr(nn.Conv2d(1, 2, 3, 1, 1, bias=False))
    assert repr(nn.LeakyReLU(np.float64(0.5))) == "LeakyReLU(negative_slope=0.5)"
    assert repr(nn.Dropout(np.float32(0.5))) == "Dropout(p=0.5)"


def test_numpys_numbers_are_rates_of_optimisers() -> None:
    net = nn.Linear(2, 1)
    optimizer = optim.SGD(net.parameters(), lr=np.float32(0.5), momentum=np.float64(0.5))
    net(x(1, 2)).sum().backward()
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert json.loads(json.dumps(optimizer.state_dict()["param_groups"]))[0]["momentum"] == 0.5
    schedules = optim.lr_scheduler
    for make in (
        lambda: schedules.StepLR(optimizer, np.int64(2), np.float32(0.5)),
        lambda: schedules.MultiStepLR(optimizer, [np.int64(2), 3]),
        lambda: schedules.CosineAnnealingLR(optimizer, np.int32(5)),
        lambda: schedules.OneCycleLR(optimizer, np.float32(0.1), np.int64(10)),
    ):
        make()


def test_a_tensor_of_another_library_is_told_apart_by_its_name() -> None:
    torch = pytest.importorskip("torch")
    for call in (lambda t: F.relu(t), lambda t: nn.Conv2d(1, 1, 1)(t), lambda t: x(2) + t, lambda t: nn.Parameter(t)):
        with pytest.raises(DTypeError, match=r"a Tensor.*got torch\.Tensor"):
            call(torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda loss: f"{loss:.4f}", "1.2346"), (lambda loss: round(loss, 2), 1.23),
        (lambda loss: f"{loss:>8.2f}", "    1.23"),
        (lambda loss: np.mean(loss), 1.23456), (lambda loss: round(loss), 1),
    ],
)  # fmt: skip
def test_a_loss_formats_and_rounds_like_a_number(call: Callable[[Any], Any], value: Any) -> None:
    result = call(gpucnn.tensor(1.23456))
    result = result.item() if isinstance(result, gpucnn.Tensor) else result
    assert result == (value if isinstance(value, str) else pytest.approx(value, rel=1e-6))


def test_numpys_reductions_take_a_tensor() -> None:
    t = gpucnn.tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    assert np.sum(t).item() == 11
    assert np.max(t, axis=1).tolist() == [2, 5]
    assert np.shape(t) == (2, 2)
    np.mean(t).backward()
    assert t.grad is not None
    assert t.grad.tolist() == [[0.25, 0.25], [0.25, 0.25]]
    with pytest.raises(DTypeError, match=r"numpy\.median takes NumPy arrays.*tensor\.numpy\(\)"):
        np.median(t)


def test_no_grad_is_a_decorator() -> None:
    t = gpucnn.tensor([1.0], requires_grad=True)

    @gpucnn.no_grad()
    def called(factor: float) -> gpucnn.Tensor:
        return t * factor

    @gpucnn.no_grad
    def bare() -> gpucnn.Tensor:
        return t * 2

    @gpucnn.no_grad()
    def each() -> Any:
        yield (t * 2).requires_grad

    assert called.__name__ == "called"
    assert not called(2).requires_grad
    assert not bare().requires_grad
    for recorded in each():
        assert not recorded
        assert (t * 2).requires_grad  # between two steps of the generator its caller records
    assert (t * 2).requires_grad


def test_padding_as_large_as_the_window_is_refused_and_less_is_not() -> None:
    """PyTorch refuses more than half the window; ONNX defines it."""
    image = gpucnn.tensor(np.arange(1, 5, dtype=np.float32).reshape(1, 1, 1, 4), requires_grad=True)
    y = F.max_pool2d(image, (1, 3), 1, (0, 2))
    assert y.tolist() == [[[[1, 2, 3, 4, 4, 4]]]]
    y.sum().backward()
    assert image.grad is not None
    assert image.grad.tolist() == [[[[1, 1, 1, 3]]]]
    assert F.avg_pool2d(image, (1, 3), 1, (0, 2), count_include_pad=False).tolist() == [[[[1, 1.5, 2, 3, 3.5, 4]]]]
    assert F.avg_pool2d(image, (1, 3), 3, (0, 2)).tolist() == [[[[pytest.approx(1 / 3), 3]]]]
    for call in (F.max_pool2d, F.avg_pool2d, F.centre_pool2d):
        with pytest.raises(ParameterError, match="less than the window"):
            call(image, (1, 3), 1, (0, 3))
    with pytest.raises(ParameterError, match="less than the window"):
        nn.MaxPool2d(2, padding=2)


def test_images_are_padded_by_an_int_or_a_pair() -> None:
    image = x(1, 1, 1, 1)
    assert F.pad2d(image, 1).shape == (1, 1, 3, 3)
    assert F.pad2d(image, (0, 2)).shape == (1, 1, 1, 5)
    assert F.pad2d(x(2, 3, 3), (0, 1, 0, 0), "replicate").shape == (2, 4, 3)
