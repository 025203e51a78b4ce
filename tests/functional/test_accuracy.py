"""Sums over many values in float32 stay near those of float64, and large or exact values keep what they can."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gpucnn
import gpucnn.functional as F

RANDOM = np.random.default_rng(5)


def off(found: gpucnn.Tensor | None, wanted: np.ndarray) -> float:
    """Return the largest error, in steps between float32 numbers of that size."""
    assert found is not None
    step = np.spacing(np.abs(wanted).astype(np.float32)).astype(np.float64)
    return float((np.abs(found.numpy() - wanted) / step).max())


@pytest.mark.parametrize("N", [64, 1000, 4096])
def test_bias_gradients_are_summed_in_a_good_order(N: int) -> None:
    """One after the other, thousands of values were off by some ten to fifty steps."""
    rows = gpucnn.tensor(np.ones((N, 2), np.float32))
    dy = (RANDOM.standard_normal((N, 3)) + 1).astype(np.float32)
    bias = gpucnn.tensor(np.zeros(3, np.float32), requires_grad=True)
    weight = gpucnn.tensor(np.zeros((3, 2), np.float32), requires_grad=True)
    F.linear(rows, weight, bias).backward(gpucnn.tensor(dy))
    assert off(bias.grad, dy.astype(np.float64).sum(0)) <= 4

    image = gpucnn.tensor(np.ones((N, 1, 2, 2), np.float32))
    dy = (RANDOM.standard_normal((N, 3, 2, 2)) + 1).astype(np.float32)
    filters = gpucnn.tensor(np.zeros((1, 3, 1, 1), np.float32), requires_grad=True)
    bias = gpucnn.tensor(np.zeros(3, np.float32), requires_grad=True)
    F.conv_transpose2d(image, filters, bias).backward(gpucnn.tensor(dy))
    assert off(bias.grad, dy.astype(np.float64).sum((0, 2, 3))) <= 4

    spread = gpucnn.tensor(np.zeros(3, np.float32), requires_grad=True)
    wide = dy[:, :, 0, 0]
    (spread + gpucnn.tensor(np.zeros((N, 3), np.float32))).backward(gpucnn.tensor(np.ascontiguousarray(wide)))
    assert off(spread.grad, wide.astype(np.float64).sum(0)) <= 4


def test_hardsigmoids_gradient_is_a_sixth_in_float64() -> None:
    """PyTorch's is the float32 nearest to it, in float64 too."""
    x = gpucnn.tensor(np.array([-1.0, 0.5, 2.9]), requires_grad=True)
    F.hardsigmoid(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1 / 6] * 3


@pytest.mark.parametrize(
    "name", ["elu", "gelu", "hardsigmoid", "leaky_relu", "selu", "sigmoid", "silu", "softplus", "tanh"]
)
def test_huge_values_have_the_gradient_of_the_limit(name: str) -> None:
    for value, slope in ((1e20, 0.0 if name in ("hardsigmoid", "sigmoid", "tanh") else 1.0), (3e38, None)):
        x = gpucnn.tensor(np.array([value, -value], np.float32), requires_grad=True)
        y = getattr(F, name)(x)
        y.sum().backward()
        assert x.grad is not None
        assert np.isfinite(y.numpy()).all()
        assert np.isfinite(x.grad.numpy()).all()
        if slope is not None and name != "selu":
            assert math.isclose(x.grad.numpy()[0], slope)


def test_approximate_gelu_of_huge_values_has_a_gradient() -> None:
    x = gpucnn.tensor(np.array([1e20, -1e20], np.float32), requires_grad=True)
    F.gelu(x, "tanh").sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 0]
