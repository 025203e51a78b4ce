"""Blocks of a convolution and more: every option, channels that are inferred, padding that counts as zeros."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from oracles import assert_close, check_gradients

import gpucnn
import gpucnn.functional as F
from gpucnn import nn, optim
from gpucnn.backend import Backend
from gpucnn.errors import GpucnnError, ParameterError

X = np.random.default_rng(0).standard_normal((2, 4, 7, 8)).astype(np.float32)


@pytest.mark.parametrize("pooling", ["max", "avg", "l2", "centre"])
def test_a_block_has_every_option_of_its_layers(pooling: str) -> None:
    block = nn.ConvBlock(
        4,
        6,
        (3, 2),
        3,
        2,
        "tanh",
        stride=1,
        padding=2,
        dilation=(2, 1),
        groups=2,
        bias=False,
        pooling=pooling,
        pool_padding=1,
    )
    conv, activation, pool = block
    assert isinstance(conv, nn.Conv2d)
    assert (conv.dilation, conv.groups, conv.bias, conv.padding) == ((2, 1), 2, None, 2)
    assert pool.padding == 1  # type: ignore[attr-defined]
    assert_close(block(gpucnn.tensor(X)), pool(activation(conv(gpucnn.tensor(X)))).numpy())
    assert block(gpucnn.tensor(X)).shape == block.output_shape(X.shape)


def test_channels_of_a_separable_convolution_are_inferred(backend: Backend) -> None:
    layer = nn.DepthwiseSeparableConv2d(None, 3, 3, 2, 1, bias=False).eval()
    with pytest.raises(ParameterError, match="infers its input size"):
        list(layer.parameters())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin(gpucnn.tensor(X)).shape == (2, 3, 4, 4)
    y = layer(gpucnn.tensor(X.astype(np.float64)))
    given = nn.DepthwiseSeparableConv2d(4, 3, 3, 2, 1, bias=False, dtype="float64")
    given.load_state_dict(layer.state_dict())
    assert_close(given(gpucnn.tensor(X.astype(np.float64))), y.numpy())
    assert {p.device for p in layer.parameters()} == {backend.name}
    assert {str(p.dtype) for p in layer.parameters()} == {"float64"}
    assert not layer.depthwise.training
    optim.SGD(layer.parameters(), lr=0.1)
    pickle.loads(pickle.dumps(layer))


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_padding_counts_as_zeros_where_it_is_asked_for(backend: Backend, ceil_mode: bool) -> None:
    x = -abs(X) - 1  # all below zero, so that the padding wins wherever it is seen
    layer = nn.MaxPool2d(3, 2, 1, ceil_mode=ceil_mode, zero_padded=True)
    y = layer(gpucnn.tensor(x)).numpy()
    padded = F.pad2d(gpucnn.tensor(x), 1)
    assert_close(y, F.max_pool2d(padded, 3, 2, 0, 1, ceil_mode).numpy())
    assert (y[:, :, 0] == 0).all()
    assert (nn.MaxPool2d(3, 2, 1, ceil_mode=ceil_mode)(gpucnn.tensor(x)).numpy() < 0).all()
    assert y.shape == layer.output_shape(x.shape)
    check_gradients(lambda t: F.max_pool2d(t, 3, 2, 1, zero_padded=True), backend, x.astype(np.float64)[:1, :1])
    assert "zero_padded=True" in repr(layer)


def test_padding_by_the_words_of_a_convolution() -> None:
    x = gpucnn.tensor(X)
    assert F.pad2d(x, "valid", kernel_size=3).shape == x.shape
    assert F.pad2d(x, "full", kernel_size=(3, 2)).shape == (2, 4, 11, 10)
    for stride, dilation in ((1, 1), (2, 1), (1, 2)):
        same = F.pad2d(x, "same", kernel_size=3, stride=stride, dilation=dilation)
        filters = gpucnn.ones(1, 4, 3, 3)
        wanted = F.conv2d(x, filters, stride=stride, padding="same", dilation=dilation)
        assert_close(F.conv2d(same, filters, stride=stride, dilation=dilation), wanted.numpy())


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: nn.ConvBlock(4, 6, 3, pooling="median"),
        lambda: nn.ConvBlock(4, 6, 3, groups=3),
        lambda: nn.MaxPool2d(2, zero_padded="yes"),  # type: ignore[arg-type]
        lambda: F.max_pool2d(gpucnn.tensor(X), 2, padding=1, return_indices=True, zero_padded=True),
        lambda: F.pad2d(gpucnn.tensor(X), "around"),  # type: ignore[arg-type]
        lambda: nn.DepthwiseSeparableConv2d(None, 0, 3),
        lambda: nn.DepthwiseSeparableConv2d(None, 2, 3)(gpucnn.ones(3)),
    ],
)
def test_mistakes(attempt: object) -> None:
    with pytest.raises(GpucnnError):
        attempt()  # type: ignore[operator]
