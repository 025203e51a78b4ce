"""A matrix (H, W) is an image of one channel; sequences have every option of images."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import gpucnn
import gpucnn.functional as F
from gpucnn import models, nn
from gpucnn.backend import Backend
from gpucnn.errors import ParameterError, ShapeError

MATRIX = np.random.default_rng(0).standard_normal((7, 8)).astype(np.float32)


def test_convolution_of_a_matrix(backend: Backend) -> None:
    layer = nn.Conv2d(1, 3, 3, padding=1, padding_mode="reflect", device=backend)
    x = gpucnn.tensor(MATRIX, device=backend)
    y = layer(x)
    assert y.shape == (3, 7, 8)
    np.testing.assert_array_equal(y.numpy(), layer(x.reshape(1, 1, 7, 8)).numpy()[0])
    assert nn.Conv2d(1, 1, 3, device=backend)(x).shape == (1, 5, 6), "the axis of the filters stays"
    assert nn.ConvTranspose2d(1, 2, 2, device=backend)(x).shape == (2, 8, 9)
    fused = nn.Sequential(nn.Conv2d(1, 3, 3, device=backend), nn.ReLU(), nn.MaxPool2d(2))
    assert fused(x).shape == (3, 2, 3)
    with pytest.raises(ShapeError, match="expected 2 channels"):
        nn.Conv2d(2, 3, 3, device=backend)(x)


@pytest.mark.parametrize(
    "layer", [nn.MaxPool2d(2), nn.AvgPool2d(3, 2), nn.LPPool2d(2, 2), nn.AdaptiveAvgPool2d(3), nn.AdaptiveMaxPool2d(2)]
)
def test_pooling_of_a_matrix(backend: Backend, layer: nn.Module) -> None:
    x = gpucnn.tensor(MATRIX, device=backend)
    y = layer(x)
    assert y.ndim == 2
    np.testing.assert_array_equal(y.numpy(), layer(x.reshape(1, 1, 7, 8)).numpy()[0, 0])


def test_what_is_neither_is_refused() -> None:
    for x in (gpucnn.ones(3), gpucnn.ones(1, 1, 1, 7, 8)):
        with pytest.raises(ShapeError, match=r"expected \(N, C, H, W\), \(C, H, W\) or \(H, W\)"):
            F.max_pool2d(x, 2)


@pytest.mark.parametrize("implementation", ["auto", "im2col", "loops"])
def test_sequences_have_a_bias_per_position_and_every_implementation(backend: Backend, implementation: str) -> None:
    gpucnn.manual_seed(0)
    layer = nn.Conv1d(
        2, 3, 3, padding=1, bias="position", length=6, implementation=implementation, device=backend
    )  # fmt: skip
    assert layer.bias is not None
    assert layer.bias.shape == (3, 6)
    x = gpucnn.tensor(np.random.default_rng(1).standard_normal((4, 2, 6)).astype(np.float32), device=backend)
    y = layer(x)
    plain = F.conv1d(x, layer.weight, None, padding=1).numpy()
    np.testing.assert_allclose(y.numpy(), plain + layer.bias.numpy(), rtol=1e-5, atol=1e-6)
    y.sum().backward()
    assert layer.bias.grad is not None
    assert layer.bias.grad.tolist() == [[4.0] * 6] * 3
    with pytest.raises(ShapeError, match="one per position"):
        layer(x[:, :, :5])


def test_such_a_layer_is_saved_copied_and_printed() -> None:
    layer = nn.Conv1d(2, 3, 3, bias="position", length=6, implementation="im2col")
    assert repr(layer) == "Conv1d(2, 3, kernel_size=3, bias='position', length=6, implementation='im2col')"
    again = models.rebuild(models.describe(nn.Sequential(layer)))
    assert repr(again[0]) == repr(copy.deepcopy(layer)) == repr(layer)


def test_mistakes_are_named() -> None:
    with pytest.raises(ParameterError, match="Conv1d: length: expected the size of the input for a bias per position"):
        nn.Conv1d(2, 3, 3, bias="position")
    with pytest.raises(ParameterError, match="Conv1d: bias: expected True, False, 'channel' or 'position'"):
        nn.Conv1d(2, 3, 3, bias="nonsense")
    with pytest.raises(ParameterError, match="Conv1d: implementation: expected 'auto', 'im2col' or 'loops'"):
        nn.Conv1d(2, 3, 3, implementation="fast")
