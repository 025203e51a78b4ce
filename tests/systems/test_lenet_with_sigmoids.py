"""System 5: convolutions explored, and LeNet with sigmoids on a GPU."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpucnn
import gpucnn.functional as F
from gpucnn import models, nn
from gpucnn.backend import Backend
from gpucnn.training import Loader, Normalisation, evaluate


def counting(*shape: int, start: int = 0) -> gpucnn.Tensor:
    return gpucnn.tensor(np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape))


def test_corr2d(backend: Backend) -> None:
    assert F.corr2d(counting(3, 3), counting(2, 2)).tolist() == [[19, 25], [37, 43]]


def stripes() -> gpucnn.Tensor:
    image = np.ones((6, 8), np.float32)
    image[:, 2:6] = 0
    return gpucnn.tensor(image)


def test_edge_detection(backend: Backend) -> None:
    edges = F.corr2d(stripes(), gpucnn.tensor([[1.0, -1.0]]))
    assert edges.tolist() == [[0, 1, 0, 0, 0, -1, 0]] * 6
    assert F.corr2d(stripes().T, gpucnn.tensor([[1.0, -1.0]])).tolist() == [[0] * 5] * 8


def test_the_kernel_can_be_learnt(backend: Backend) -> None:
    gpucnn.manual_seed(0)
    x, y = stripes().reshape(1, 1, 6, 8), F.corr2d(stripes(), gpucnn.tensor([[1.0, -1.0]])).reshape(1, 1, 6, 7)
    conv = nn.Conv2d(1, 1, (1, 2), bias=False)
    weight = conv.weight
    assert weight is not None
    for _ in range(30):
        conv.zero_grad()
        F.mse_loss(conv(x), y, "sum").backward()
        assert weight.grad is not None
        with gpucnn.no_grad():
            weight -= 0.03 * weight.grad
    np.testing.assert_allclose(weight.numpy().ravel(), [1, -1], atol=0.1)


@pytest.mark.parametrize(
    ("kernel", "padding", "stride", "size"),
    [(3, 1, 1, (8, 8)), ((5, 3), (2, 1), 1, (8, 8)), (3, 1, 2, (4, 4)), ((3, 5), (0, 1), (3, 4), (2, 2))],
)
def test_padding_and_stride(backend: Backend, kernel: Any, padding: Any, stride: Any, size: tuple[int, int]) -> None:
    conv = nn.Conv2d(1, 1, kernel, padding=padding, stride=stride)
    assert conv(counting(1, 1, 8, 8)).shape == (1, 1, *size)


def test_several_channels(backend: Backend) -> None:
    x = gpucnn.concatenate([counting(1, 3, 3), counting(1, 3, 3, start=1)])
    kernel = gpucnn.concatenate([counting(1, 2, 2), counting(1, 2, 2, start=1)])
    assert F.conv2d(x, kernel.reshape(1, 2, 2, 2)).tolist() == [[[56, 72], [104, 120]]]
    stacked = gpucnn.concatenate([(kernel + i).reshape(1, 2, 2, 2) for i in range(3)])
    wanted = [[[56, 72], [104, 120]], [[76, 100], [148, 172]], [[96, 128], [192, 224]]]
    assert F.conv2d(x, stacked).tolist() == wanted


def test_a_1x1_convolution_is_a_matrix_product_over_channels(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    x, w = (gpucnn.tensor(rng.standard_normal(shape).astype(np.float32)) for shape in ((3, 3, 3), (2, 3)))
    product = (w @ x.reshape(3, 9)).reshape(2, 3, 3)
    assert abs(F.conv2d(x, w.reshape(2, 3, 1, 1)).numpy() - product.numpy()).max() < 1e-6


def test_pooling_of_3x3(backend: Backend) -> None:
    x = counting(1, 3, 3)
    assert F.max_pool2d(x, 2, stride=1).tolist() == [[[4, 5], [7, 8]]]
    assert F.avg_pool2d(x, 2, stride=1).tolist() == [[[2, 3], [5, 6]]]


def test_pooling_of_4x4(backend: Backend) -> None:
    x = counting(1, 4, 4)
    assert nn.MaxPool2d(3)(x).tolist() == [[[10]]]
    assert nn.MaxPool2d(3, padding=1, stride=2)(x).tolist() == [[[5, 7], [13, 15]]]
    assert nn.MaxPool2d((2, 3), stride=(2, 3), padding=(0, 1))(x).tolist() == [[[5, 7], [13, 15]]]
    both = nn.MaxPool2d(3, padding=1, stride=2)(gpucnn.concatenate([x, x + 1]))
    assert both.tolist() == [[[5, 7], [13, 15]], [[6, 8], [14, 16]]]


def test_lenet_layer_shapes_and_initial_weights(backend: Backend) -> None:
    net = models.build("lenet:activation=sigmoid,pooling=avg,init=xavier_uniform")
    x, shapes = counting(1, 1, 28, 28), []
    for layer in net.children():
        x = layer(x)
        if not isinstance(layer, nn.Sigmoid):
            shapes.append(x.shape[1:])
    assert shapes == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (400,), (120,), (84,), (10,)]
    assert {type(layer).__name__ for layer in net.children()} >= {"Sigmoid", "AvgPool2d"}
    for name, values in net.state_dict().items():
        if name.endswith("weight"):
            area = np.prod(values.shape[2:])
            assert abs(values).max() <= np.sqrt(6 / ((values.shape[0] + values.shape[1]) * area))


def test_evaluation_happens_on_the_device_that_holds_the_model(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    data = gpucnn.data.ArrayDataset(rng.integers(0, 256, (4, 28, 28), np.uint8), np.arange(4))
    net = models.lenet()
    found = evaluate(net, Loader(data, backend, Normalisation((0.0,), (1.0,))))
    assert {p.device for p in net.parameters()} == {backend.name}
    assert found.predictions.shape == (4,)


def test_the_script_prints_curves_in_numbers_and_throughput(run_script: Callable[..., str], tiny_mnist: Path) -> None:
    said = run_script("system_5", "--data", tiny_mnist, "--epochs", 2)
    epoch = r"^epoch \d: train loss \d\.\d{3}, train accuracy \d\.\d{3}, test accuracy \d\.\d{3}$"
    assert len(re.findall(epoch, said, re.MULTILINE)) == 2
    assert re.search(r"\d+\.\d examples/s", said)
    assert "0.469" in said


@pytest.mark.slow
def test_the_published_run(accuracy_on_mnist: Callable[[str], float]) -> None:
    assert accuracy_on_mnist("system_5") >= 0.95
