"""Pooling against the loops of the definition and PyTorch; padding, ties, NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import LAYOUTS, Sliding, assert_close, avg_pool2d, lay_out, max_pool2d

import gpucnn
import gpucnn.functional as F
from gpucnn.backend import Backend

Case = tuple[tuple[int, int, int, int], Sliding]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """An image shape and a pooling window: padding up to half of what it spans, as PyTorch has it."""
    kernel, stride = (tuple(draw(st.integers(1, 3)) for _ in range(2)) for _ in range(2))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2), (2, 1)]))
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    sides = tuple(draw(st.integers(0, spans[i // 2] // 2)) for i in range(4))
    size = []
    for axis, span in enumerate(spans):
        size.append(max(span - sum(sides[2 * axis : 2 * axis + 2]), 1) + draw(st.integers(0, 4)))
    shape = (draw(st.integers(0, 3)), draw(st.integers(1, 3)), *size)
    return shape, Sliding(kernel, stride, sides, dilation, draw(st.booleans()))


def images(shape: tuple[int, ...], dtype: str, kind: str) -> Any:
    rng = np.random.default_rng(3)
    if kind == "ties":
        return rng.integers(0, 2, shape).astype(dtype)
    if kind == "minus infinity":
        return np.where(rng.random(shape) < 0.7, -np.inf, rng.standard_normal(shape)).astype(dtype)
    return (rng.standard_normal(shape) - (5 if kind == "negative" else 0)).astype(dtype)


def hold_max_against_loops(backend: Backend, case: Case, layouts: tuple[str, str], dtype: str, kind: str) -> None:
    shape, window = case
    host = images(shape, dtype, kind)
    dy = np.random.default_rng(4).standard_normal((*shape[:2], *window.output(*shape[2:]))).astype(dtype)
    x = lay_out(host, layouts[0], backend).requires_grad_()
    y = F.max_pool2d(x, window.kernel, window.stride, window.sides, window.dilation, window.ceil)
    expected, expected_dx = max_pool2d(host, dy, window)
    assert np.array_equal(y.numpy(), expected)
    with gpucnn.no_grad():  # which needs no indices, and takes another path
        again = F.max_pool2d(x, window.kernel, window.stride, window.sides, window.dilation, window.ceil)
    assert np.array_equal(again.numpy(), expected)
    y.backward(lay_out(dy, layouts[1], backend))
    assert x.grad is not None
    assert_close(x.grad, expected_dx)


MAX = {
    "case": cases(),
    "layouts": st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    "dtype": st.sampled_from(["float32", "float64"]),
    "kind": st.sampled_from(["normal", "negative", "ties", "minus infinity"]),
}
AVERAGE = {
    "case": cases(),
    "layouts": MAX["layouts"],
    "dtype": MAX["dtype"],
    "include_pad": st.booleans(),
    "divisor": st.sampled_from([None, None, 3, -2]),
}


@given(**MAX)
def test_max_pooling_is_that_of_the_loops(
    backend: Backend, case: Case, layouts: tuple[str, str], dtype: str, kind: str
) -> None:
    hold_max_against_loops(backend, case, layouts, dtype, kind)


def hold_average_against_loops(
    backend: Backend, case: Case, layouts: tuple[str, str], dtype: str, include_pad: bool, divisor: int | None
) -> None:
    shape, window = case
    host = images(shape, dtype, "normal")
    dy = np.random.default_rng(4).standard_normal((*shape[:2], *window.output(*shape[2:]))).astype(dtype)
    x = lay_out(host, layouts[0], backend).requires_grad_()
    y = F.avg_pool2d(x, window.kernel, window.stride, window.sides, window.ceil, include_pad, divisor, window.dilation)
    expected, expected_dx = avg_pool2d(host, dy, window, include_pad, divisor)
    assert_close(y, expected)
    y.backward(lay_out(dy, layouts[1], backend))
    assert x.grad is not None
    assert_close(x.grad, expected_dx)


@given(**AVERAGE)
def test_average_pooling_is_that_of_the_loops(
    backend: Backend, case: Case, layouts: tuple[str, str], dtype: str, include_pad: bool, divisor: int | None
) -> None:
    hold_average_against_loops(backend, case, layouts, dtype, include_pad, divisor)


@given(max_case=st.fixed_dictionaries(MAX), average_case=st.fixed_dictionaries(AVERAGE))
def test_blocks_and_reused_memory_change_nothing(
    cut_small: Backend, max_case: dict[str, Any], average_case: dict[str, Any]
) -> None:
    hold_max_against_loops(cut_small, **max_case)
    hold_average_against_loops(cut_small, **average_case)


@pytest.mark.slow
@settings(max_examples=1000)
@given(max_case=st.fixed_dictionaries(MAX), average_case=st.fixed_dictionaries(AVERAGE))
def test_a_thousand_poolings(backend: Backend, max_case: dict[str, Any], average_case: dict[str, Any]) -> None:
    hold_max_against_loops(backend, **max_case)
    hold_average_against_loops(backend, **average_case)


@given(case=cases(), include_pad=st.booleans())
def test_pooling_is_pytorchs(backend: Backend, case: Case, include_pad: bool) -> None:
    torch = pytest.importorskip("torch")
    (N, C, H, W), window = case
    padding = window.sides[0], window.sides[2]
    assume(all(p <= k // 2 for p, k in zip(padding, window.kernel, strict=True)))  # PyTorch refuses more
    spans = [d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation, strict=True)]
    H, W = (max(n, span - 2 * p) for n, span, p in zip((H, W), spans, padding, strict=True))
    x = images((N, C, H, W), "float64", "normal")
    y = F.max_pool2d(gpucnn.tensor(x), window.kernel, window.stride, padding, window.dilation, window.ceil)
    theirs = torch.nn.functional.max_pool2d(
        torch.tensor(x), window.kernel, window.stride, padding, window.dilation, window.ceil
    )
    assert np.array_equal(y.numpy(), theirs.numpy())
    if window.dilation != (1, 1):
        return  # which PyTorch's average pooling lacks
    average = F.avg_pool2d(gpucnn.tensor(x), window.kernel, window.stride, padding, window.ceil, include_pad)
    theirs = torch.nn.functional.avg_pool2d(
        torch.tensor(x), window.kernel, window.stride, padding, window.ceil, include_pad
    )
    assert_close(average, theirs.numpy())


@pytest.mark.parametrize("value", [-3.0, -np.inf])
def test_padding_never_wins_and_never_gets_a_gradient(backend: Backend, value: float) -> None:
    x = gpucnn.tensor(np.full((2, 1, 4, 4), value), requires_grad=True)
    y = F.max_pool2d(x, 3, stride=2, padding=1)
    assert np.array_equal(y.numpy(), np.full((2, 1, 2, 2), value))
    y.backward(gpucnn.tensor(np.ones(y.shape)))
    assert x.grad is not None
    assert x.grad.numpy().sum() == y.size


def test_of_equal_maxima_the_first_in_row_major_order_gets_the_gradient(backend: Backend) -> None:
    x = gpucnn.tensor(np.array([[[[1.0, 2, 2, 0], [2, 2, 0, 0], [0, 0, 0, 3], [0, 0, 3, 3]]]]), requires_grad=True)
    F.max_pool2d(x, 2).backward(gpucnn.tensor([[[[2.0, 4.0], [6.0, 8.0]]]], dtype="float64"))
    assert x.grad is not None
    assert x.grad.tolist() == [[[[0, 2, 4, 0], [0, 0, 0, 0], [6, 0, 0, 8], [0, 0, 0, 0]]]]


@pytest.mark.parametrize("place", [0, 1, 2, 3])
@pytest.mark.parametrize("recording", [True, False])
def test_nan_wins_wherever_it_stands(backend: Backend, place: int, recording: bool) -> None:
    host = np.array([1.0, 5.0, -np.inf, 2.0])
    host[place] = np.nan
    x = gpucnn.tensor(np.concatenate([host, np.arange(4.0)]).reshape(2, 1, 2, 2), requires_grad=recording)
    y = F.max_pool2d(x, 2).numpy().ravel()
    assert np.isnan(y[0])
    assert y[1] == 3


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_the_gradient_of_a_nan_maximum_goes_to_the_nan(backend: Backend, place: int) -> None:
    host = np.array([1.0, 5.0, 3.0, 2.0])
    host[place] = np.nan
    x = gpucnn.tensor(host.reshape(1, 1, 2, 2), requires_grad=True)
    F.max_pool2d(x, 2).backward(gpucnn.tensor(np.ones((1, 1, 1, 1))))
    assert x.grad is not None
    assert x.grad.numpy().ravel().tolist() == [float(i == place) for i in range(4)]


def test_more_than_127_and_more_than_255_window_elements(backend: Backend) -> None:
    for kernel in (12, 17):  # where the place no longer fits one byte
        host = np.arange(kernel * kernel, dtype=np.float64).reshape(1, 1, kernel, kernel)
        x = gpucnn.tensor(host, requires_grad=True)
        F.max_pool2d(x, kernel).sum().backward()
        assert x.grad is not None
        assert x.grad.numpy().ravel().nonzero()[0].tolist() == [kernel * kernel - 1]


def test_worked_examples_of_the_source_systems(backend: Backend) -> None:
    x = gpucnn.tensor(np.arange(16.0).reshape(1, 4, 4))
    assert F.max_pool2d(x, 3).tolist() == [[[10]]]
    assert F.max_pool2d(x, 3, padding=1, stride=2).tolist() == [[[5, 7], [13, 15]]]
    assert F.max_pool2d(x, (2, 3), stride=(2, 3), padding=(0, 1)).tolist() == [[[5, 7], [13, 15]]]
    leaf = gpucnn.tensor(np.zeros((1, 1, 4, 4)), requires_grad=True)
    F.avg_pool2d(leaf, 2).backward(gpucnn.tensor([[[[2.0, 4.0], [6.0, 8.0]]]], dtype="float64"))
    assert leaf.grad is not None
    assert leaf.grad.numpy()[0, 0, ::2, ::2].tolist() == [[0.5, 1], [1.5, 2]]
    assert leaf.grad.numpy()[0, 0, 1::2, 1::2].tolist() == [[0.5, 1], [1.5, 2]]
