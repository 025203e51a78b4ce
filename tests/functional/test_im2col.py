"""im2col against the definition, col2im as its adjoint."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import LAYOUTS, Sliding, assert_close, check_gradients, im2col, lay_out

import gpucnn
import gpucnn.functional as F
from gpucnn.backend import Backend


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, int, int, int], Sliding]:
    """An image shape and a window that fits it."""
    kernel, stride, dilation = (tuple(draw(st.integers(1, 3)) for _ in range(2)) for _ in range(3))
    sides = draw(st.tuples(*[st.integers(0, 2)] * 4))
    size = []
    for axis in range(2):
        span = dilation[axis] * (kernel[axis] - 1) + 1
        size.append(max(span - sum(sides[2 * axis : 2 * axis + 2]), 1) + draw(st.integers(0, 3)))
    return (draw(st.integers(0, 3)), draw(st.integers(1, 3)), *size), Sliding(kernel, stride, sides, dilation)


@given(case=windows(), layout=st.sampled_from(LAYOUTS), dtype=st.sampled_from(["float32", "float64", "uint8", "bool"]))
def test_columns_are_those_of_the_definition(
    backend: Backend, case: tuple[tuple[int, int, int, int], Sliding], layout: str, dtype: str
) -> None:
    shape, window = case
    host = (np.random.default_rng(0).standard_normal(shape) * 9).astype(dtype)
    columns = F.im2col(lay_out(host, layout, backend), window.kernel, window.stride, window.sides, window.dilation)
    expected = im2col(host, window)
    assert columns.dtype == dtype
    assert np.array_equal(columns.numpy(), expected)


@given(case=windows(), layout=st.sampled_from(LAYOUTS))
def test_col2im_is_the_adjoint_of_im2col(
    backend: Backend, case: tuple[tuple[int, int, int, int], Sliding], layout: str
) -> None:
    shape, window = case
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape)
    c = rng.standard_normal(im2col(x, window).shape)
    arguments = window.kernel, window.stride, window.sides, window.dilation
    image = F.col2im(lay_out(c, layout, backend), shape, *arguments)
    assert image.shape == shape
    assert np.isclose((im2col(x, window) * c).sum(), (x * image.numpy()).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("shape", "expected"), [((1, 3, 7, 7), (9, 75)), ((10, 3, 7, 7), (90, 75))])
def test_shapes_of_system_3(backend: Backend, shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    assert F.im2col(gpucnn.tensor(np.zeros(shape)), 5).shape == expected


def test_rows_of_overlapping_windows_are_summed(backend: Backend) -> None:
    ones = gpucnn.tensor(np.ones((4, 4)))
    assert_close(F.col2im(ones, (1, 1, 3, 3), 2), np.array([[[[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]]]))


def test_gradients_of_both(backend: Backend) -> None:
    rng = np.random.default_rng(2)
    check_gradients(lambda x: F.im2col(x, 2, (2, 1), (1, 0, 0, 1)), backend, rng.standard_normal((2, 2, 3, 3)))
    columns = rng.standard_normal((2 * 2 * 3, 2 * 4))
    check_gradients(lambda c: F.col2im(c, (2, 2, 3, 3), 2, (2, 1), (1, 0, 0, 1)), backend, columns)


def test_a_single_image_gives_its_own_rows(backend: Backend) -> None:
    x = gpucnn.tensor(np.arange(12.0).reshape(1, 3, 4))
    assert np.array_equal(F.im2col(x, 2).numpy(), F.im2col(x.reshape(1, 1, 3, 4), 2).numpy())
