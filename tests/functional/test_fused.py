"""Convolution, ReLU and 2x2 max-pooling as one operation: the values and gradients of the three."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import (
    LAYOUTS,
    Sliding,
    assert_close,
    check_gradients,
    conv2d,
    conv2d_gradients,
    lay_out,
    max_pool2d,
    to_tf32,
)

import gpucnn
from gpucnn.backend import Backend
from gpucnn.errors import ShapeError
from gpucnn.functional.conv import conv2d_relu_max_pool2d

TWO = Sliding((2, 2), (2, 2))


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    kernel, sides = draw(st.tuples(*[st.integers(1, 4)] * 2)), draw(st.tuples(*[st.integers(0, 3)] * 4))
    odd = draw(st.integers(0, 4)) == 0  # now and then a case that the fast kernel leaves to the reference
    stride, dilation, groups = ((2, 1), (1, 2), 2) if odd else ((1, 1), (1, 1), 1)
    size = []
    for axis in range(2):
        span = dilation[axis] * (kernel[axis] - 1) + 1 + stride[axis]  # two outputs at least
        size.append(max(span - sum(sides[2 * axis : 2 * axis + 2]), 1) + draw(st.integers(0, 4)))
    return {
        "shape": (draw(st.integers(1, 4)), groups * draw(st.integers(1, 3)), *size),
        "F": groups * draw(st.integers(1, 3)),
        "window": Sliding(kernel, stride, sides, dilation),
        "groups": groups,
        "bias": draw(st.booleans()),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "layouts": tuple(draw(st.sampled_from(LAYOUTS)) for _ in range(3)),
    }


def hold_against_loops(
    backend: Backend,
    case: dict[str, Any],
    keep: Callable[[Any], Any] = lambda host: host,
    tolerance: float | None = None,
) -> None:
    """Compare output and all gradients with the loops; ``keep`` makes the factors what they may be."""
    rng = np.random.default_rng(6)
    window, groups, dtype = case["window"], case["groups"], case["dtype"]
    x_host = keep(rng.standard_normal(case["shape"]).astype(dtype))
    w_host = keep(rng.standard_normal((case["F"], case["shape"][1] // groups, *window.kernel)).astype(dtype))
    b_host = rng.standard_normal(case["F"]).astype(dtype) if case["bias"] else None
    between = conv2d(x_host, w_host, b_host, window, groups)
    pooled, _ = max_pool2d(between, None, TWO)
    dy_host = keep(rng.standard_normal(pooled.shape).astype(dtype))
    _, d_between = max_pool2d(between, dy_host * (pooled > 0), TWO)
    x, w, dy = (
        lay_out(a, layout, backend) for a, layout in zip((x_host, w_host, dy_host), case["layouts"], strict=True)
    )
    b = None if b_host is None else gpucnn.tensor(b_host, requires_grad=True)
    arguments = b, window.stride, window.sides, window.dilation, groups
    assert_close(conv2d_relu_max_pool2d(x, w, *arguments), np.maximum(pooled, 0), tolerance)
    x.requires_grad_(), w.requires_grad_()
    y = conv2d_relu_max_pool2d(x, w, *arguments)
    assert_close(y, np.maximum(pooled, 0), tolerance)
    y.backward(dy)
    dx, dw, db = conv2d_gradients(x_host, w_host, d_between, window, groups)
    for tensor, expected in ((x, dx), (w, dw), (b, db)):
        if tensor is not None:
            assert tensor.grad is not None
            assert_close(tensor.grad, expected, tolerance)


@given(case=cases())
def test_values_and_gradients_are_those_of_the_loops(backend: Backend, case: dict[str, Any]) -> None:
    hold_against_loops(backend, case)


@pytest.mark.parametrize("backend", ["cuda-standin", pytest.param("cuda", marks=pytest.mark.cuda)], indirect=True)
@given(case=cases())
def test_values_and_gradients_in_tf32_of_factors_that_tf32_holds(backend: Backend, case: dict[str, Any]) -> None:
    with backend.tf32():
        hold_against_loops(backend, case, to_tf32, tolerance=1e-5)


@given(case=cases())
def test_blocks_and_reused_memory_change_nothing(cut_small: Backend, case: dict[str, Any]) -> None:
    hold_against_loops(cut_small, case)


def test_gradients_are_those_of_finite_differences(backend: Backend) -> None:
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((2, 2, 6, 5)), rng.standard_normal((3, 2, 3, 2)), rng.standard_normal(3)
    check_gradients(lambda x, w, b: conv2d_relu_max_pool2d(x, w, b, padding=(1, 0, 1, 1)), backend, *inputs)


@pytest.mark.parametrize(("N", "single"), [(0, False), (1, True)])
def test_empty_batches_and_single_images(backend: Backend, N: int, single: bool) -> None:
    x = gpucnn.tensor(np.ones((2, 5, 5) if single else (N, 2, 5, 5)), requires_grad=True)
    w = gpucnn.tensor(np.ones((3, 2, 2, 2)), requires_grad=True)
    y = conv2d_relu_max_pool2d(x, w)
    assert y.shape == ((3, 2, 2) if single else (N, 3, 2, 2))
    y.sum().backward()
    assert w.grad is not None
    assert (w.grad.numpy() == (4 if single else 0)).all()
    assert x.grad is not None
    assert x.grad.shape == x.shape


def test_a_nan_pixel_spoils_only_its_own_windows(backend: Backend) -> None:
    host = np.ones((2, 1, 6, 6))
    host[0, 0, 0, 0] = np.nan
    y = conv2d_relu_max_pool2d(gpucnn.tensor(host), gpucnn.tensor(np.ones((1, 1, 2, 2)))).numpy()
    assert np.isnan(y).nonzero() == (0, 0, 0, 0)


@pytest.mark.parametrize("size", [(2, 5), (5, 2)])
def test_too_small_an_image_is_named(backend: Backend, size: tuple[int, int]) -> None:
    with pytest.raises(gpucnn.errors.ShapeError, match="at least 2x2 pixels"):
        conv2d_relu_max_pool2d(gpucnn.tensor(np.ones((1, 1, *size))), gpucnn.tensor(np.ones((1, 1, 2, 2))))


def test_a_bias_for_each_position_is_refused_by_name() -> None:
    x, w = gpucnn.tensor(np.ones((1, 1, 5, 5))), gpucnn.tensor(np.ones((2, 1, 2, 2)))
    with pytest.raises(ShapeError, match=r"conv2d_relu_max_pool2d: bias: expected shape \(2,\), got \(2, 4, 4\)"):
        conv2d_relu_max_pool2d(x, w, gpucnn.tensor(np.ones((2, 4, 4))))
