"""Infinity and NaN come out of operations as in PyTorch: as values, without a warning (warnings fail these tests)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import gpucnn
import gpucnn.functional as F
from gpucnn import Tensor
from gpucnn.backend import Backend

INF, NAN = float("inf"), float("nan")
CASES: dict[str, tuple[Callable[[Tensor], Tensor], list[float], list[float]]] = {
    "log": (lambda x: x.log(), [0.0, -1.0, 1.0], [-INF, NAN, 0.0]),
    "a number divided by 0": (lambda x: 1 / x, [0.0, 2.0], [INF, 0.5]),
    "0 divided by 0": (lambda x: x / x, [0.0, 2.0], [NAN, 1.0]),
    "sqrt": (lambda x: x.sqrt(), [-1.0, 4.0], [NAN, 2.0]),
    "exp": (lambda x: x.exp(), [1000.0, -1000.0], [INF, 0.0]),
    "a power below 0": (lambda x: x**-1, [0.0, 2.0], [INF, 0.5]),
    "a product that overflows": (lambda x: x * x, [1e30, 1.0], [INF, 1.0]),
    "a sum that overflows": (lambda x: x.sum(), [3e38, 3e38], INF),  # type: ignore[dict-item]
    "infinity less infinity": (lambda x: x - x, [INF, 1.0], [NAN, 0.0]),
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_pytorchs_and_silent(backend: Backend, name: str) -> None:
    function, values, expected = CASES[name]
    np.testing.assert_array_equal(function(gpucnn.tensor(values)).numpy(), np.float32(expected))


def test_gradients_are_silent_too(backend: Backend) -> None:
    x = gpucnn.tensor([0.0, 4.0], requires_grad=True)
    x.sqrt().sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [INF, 0.25]


def test_changes_in_place_are_silent_too(backend: Backend) -> None:
    x = gpucnn.tensor([1.0, 0.0])
    x /= 0
    np.testing.assert_array_equal(x.numpy(), [INF, NAN])


def test_numpys_own_settings_are_left_alone() -> None:
    before = np.geterr()
    gpucnn.tensor([0.0]).log()
    assert np.geterr() == before


@pytest.mark.parametrize("layout", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_relu_stops_an_infinite_gradient_where_it_is_flat(backend: Backend, layout: str, dtype: str) -> None:
    host = np.array([[-1.0, 0.0, 2.0], [3.0, -2.0, 0.0]], dtype, order=layout)
    dy = np.array([[INF, NAN, INF], [-INF, -5.0, -INF]], dtype, order=layout[::-1])
    x = gpucnn.tensor(host, requires_grad=True)
    F.relu(x).backward(gpucnn.tensor(dy))
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0, INF], [-INF, 0, 0]]
    assert x.grad.dtype == dtype


def test_a_flat_stretch_of_the_hard_sigmoid_and_the_hinge_is_flat_for_infinity_too(backend: Backend) -> None:
    x = gpucnn.tensor([-4.0, 4.0], requires_grad=True)
    F.hardsigmoid(x).backward(gpucnn.tensor([INF, NAN]))
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0]
    assert F.hinge_loss(gpucnn.tensor([INF, -INF]), gpucnn.tensor([1.0, 1.0]), "none").tolist() == [0, INF]
