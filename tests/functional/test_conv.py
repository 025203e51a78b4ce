"""Convolution against the loops of the definition, over shapes, windows, groups and memory layouts, and against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import (
    LAYOUTS,
    PADDING_NAMES,
    Sliding,
    assert_close,
    conv2d,
    conv2d_gradients,
    hold_against_torch,
    lay_out,
    padding_by_name,
    to_tf32,
)

import gpucnn
import gpucnn.functional as F
from gpucnn.backend import Backend

DTYPES = ("float32", "float64")


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """Everything that a convolution can be asked, small."""

    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    kernel, dilation = pair(1, 3), pair(1, 2)
    sides = draw(st.tuples(*[st.integers(0, 2)] * 4))
    stride, padding = pair(1, 3), draw(st.sampled_from([sides, sides, *PADDING_NAMES]))
    size = []
    for axis in range(2):
        span = dilation[axis] * (kernel[axis] - 1) + 1
        least = {"same": 1, "full": 1, "valid": span}.get(
            str(padding), max(span - sum(sides[2 * axis : 2 * axis + 2]), 1)
        )
        size.append(draw(st.integers(least, least + 4)))
    if isinstance(padding, str):
        sides = padding_by_name(padding, (size[0], size[1]), kernel, stride, dilation)
    return {
        "N": draw(st.sampled_from([0, 1, 2, 3])),
        "C": groups * draw(st.integers(1, 3)),
        "F": groups * draw(st.integers(1, 3)),
        "size": tuple(size),
        "window": Sliding(kernel, stride, sides, dilation),
        "padding": padding,
        "groups": groups,
        "bias": draw(st.booleans()),
        "dtype": draw(st.sampled_from(DTYPES)),
        "layouts": tuple(draw(st.sampled_from(LAYOUTS)) for _ in range(3)),
        "seed": draw(st.integers(0, 99)),
    }


def hold_against_loops(
    backend: Backend,
    case: dict[str, Any],
    implementation: str = "auto",
    keep: Callable[[Any], Any] = lambda host: host,
    tolerance: float | None = None,
) -> None:
    """Compare output and all gradients of one convolution with the loops; ``keep`` makes the factors what they may be."""
    rng = np.random.default_rng(case["seed"])
    window, groups, (H, W) = case["window"], case["groups"], case["size"]
    x_host = keep(rng.standard_normal((case["N"], case["C"], H, W)).astype(case["dtype"]))
    w_host = keep(rng.standard_normal((case["F"], case["C"] // groups, *window.kernel)).astype(case["dtype"]))
    b_host = rng.standard_normal(case["F"]).astype(case["dtype"]) if case["bias"] else None
    dy_host = keep(rng.standard_normal((case["N"], case["F"], *window.output(H, W))).astype(case["dtype"]))
    x, w, dy = (
        lay_out(a, layout, backend) for a, layout in zip((x_host, w_host, dy_host), case["layouts"], strict=True)
    )
    b = None if b_host is None else gpucnn.tensor(b_host).requires_grad_()
    x.requires_grad_(), w.requires_grad_()
    padding = case.get("padding", window.sides)
    y = F.conv2d(x, w, b, window.stride, padding, window.dilation, groups, False, implementation)
    assert y.dtype == case["dtype"]
    assert_close(y, conv2d(x_host, w_host, b_host, window, groups), tolerance)
    y.backward(dy)
    expected = conv2d_gradients(x_host, w_host, dy_host, window, groups)
    summed = conv2d_gradients(abs(x_host), abs(w_host), abs(dy_host), window, groups)
    for tensor, gradient, sums in zip((x, w, b), expected, summed, strict=True):
        if tensor is not None:
            assert tensor.grad is not None
            assert_close(tensor.grad, gradient, tolerance, summed=sums)


@given(case=cases())
def test_convolution_and_its_gradients_are_those_of_the_loops(backend: Backend, case: dict[str, Any]) -> None:
    hold_against_loops(backend, case)


@pytest.mark.parametrize("backend", ["cuda-standin", pytest.param("cuda", marks=pytest.mark.cuda)], indirect=True)
@given(case=cases())
def test_convolution_in_tf32_of_factors_that_tf32_holds(backend: Backend, case: dict[str, Any]) -> None:
    with backend.tf32():
        hold_against_loops(backend, case, keep=to_tf32, tolerance=1e-5)


@pytest.mark.slow
@settings(max_examples=1000)
@given(case=cases())
def test_a_thousand_convolutions(backend: Backend, case: dict[str, Any]) -> None:
    hold_against_loops(backend, case)


@pytest.mark.parametrize("implementation", ["im2col", "loops"])
@given(case=cases())
def test_a_convolution_chosen_by_name(backend: Backend, implementation: str, case: dict[str, Any]) -> None:
    hold_against_loops(backend, case, implementation)


def test_the_name_decides_which_kernels_run(backend: Backend) -> None:
    x, w = gpucnn.tensor(np.ones((2, 1, 4, 4)), requires_grad=True), gpucnn.tensor(np.ones((1, 1, 2, 2)))
    backend.ran.clear()
    F.conv2d(x, w, implementation="im2col").sum().backward()
    assert {"conv2d.reference", "conv2d_input_gradient.reference"} <= set(backend.ran)
    assert not {name for name in backend.ran if "conv2d" in name and not name.endswith(".reference")}
    backend.ran.clear()
    F.conv2d(x, w, implementation="loops").sum().backward()
    assert not {name for name in backend.ran if "conv2d" in name}


@given(case=cases())
def test_blocks_and_reused_memory_change_nothing(cut_small: Backend, case: dict[str, Any]) -> None:
    hold_against_loops(cut_small, case)


@given(case=cases())
def test_products_of_whole_rows_change_nothing(by_rows: Backend, case: dict[str, Any]) -> None:
    hold_against_loops(by_rows, case)


@given(case=cases(), limit=st.integers(1, 500))
def test_images_padded_a_tile_at_a_time_change_nothing(cut_small: Backend, case: dict[str, Any], limit: int) -> None:
    cut_small.workspace.limit = limit  # type: ignore[attr-defined]
    hold_against_loops(cut_small, case)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_convolution_in_every_layout(backend: Backend, layout: str, dtype: str) -> None:
    case = {
        "N": 3, "C": 4, "F": 6, "size": (7, 6), "window": Sliding((3, 2), (2, 1), (1, 2, 0, 1), (1, 2)), "groups": 2,
        "bias": True, "dtype": dtype, "layouts": (layout,) * 3, "seed": 0,
    }  # fmt: skip
    hold_against_loops(backend, case)


@pytest.mark.parametrize("N", [0, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_pixel_images_and_empty_batches(backend: Backend, N: int, layout: str) -> None:
    case = {
        "N": N, "C": 2, "F": 3, "size": (1, 1), "window": Sliding((3, 3), (1, 1), (1, 1, 1, 1)), "groups": 1,
        "bias": True, "dtype": "float64", "layouts": (layout,) * 3, "seed": 1,
    }  # fmt: skip
    hold_against_loops(backend, case)


@pytest.mark.bits
def test_a_single_image_is_a_batch_of_one_without_its_first_axis(backend: Backend) -> None:
    rng = np.random.default_rng(0)
    x, w = gpucnn.tensor(rng.standard_normal((2, 5, 6))), gpucnn.tensor(rng.standard_normal((3, 2, 2, 2)))
    single = F.conv2d(x, w)
    assert single.shape == (3, 4, 5)
    assert np.array_equal(single.numpy(), F.conv2d(x.reshape(1, 2, 5, 6), w).numpy()[0])


@pytest.mark.parametrize("shift", [(1, 0), (0, 2), (3, 1)])
def test_convolution_commutes_with_shifts(backend: Backend, shift: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((2, 3, 12, 12)), gpucnn.tensor(rng.standard_normal((4, 3, 3, 3)))
    down, right = shift
    first = F.conv2d(gpucnn.tensor(x), w).numpy()
    shifted = F.conv2d(gpucnn.tensor(np.roll(x, shift, (2, 3))), w).numpy()
    assert_close(shifted[:, :, down:, right:], first[:, :, : 10 - down, : 10 - right], 1e-12)


@pytest.mark.parametrize("size", [(1, 1), (5, 6), (7, 4), (8, 8)])
@pytest.mark.parametrize("stride", [1, 2, 3, (2, 3)])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 3), (4, 5)])
def test_same_padding_gives_ceil_of_size_over_stride(
    backend: Backend, size: tuple[int, int], stride: Any, kernel: tuple[int, int]
) -> None:
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((1, 1, *size)), rng.standard_normal((1, 1, *kernel))
    steps = (stride, stride) if isinstance(stride, int) else stride
    needed = [max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in zip(size, steps, kernel, strict=True)]
    sides = (needed[0] // 2, -(-needed[0] // 2), needed[1] // 2, -(-needed[1] // 2))  # the odd one at the far side
    y = F.conv2d(gpucnn.tensor(x), gpucnn.tensor(w), stride=stride, padding="same")
    assert y.shape[2:] == tuple(-(-n // s) for n, s in zip(size, steps, strict=True))
    assert_close(y, conv2d(x, w, None, Sliding(kernel, steps, sides)))


@pytest.mark.parametrize(
    ("padding", "sides"),
    [
        ("valid", (0, 0, 0, 0)),
        ("full", (2, 2, 4, 4)),
        (0, (0, 0, 0, 0)),
        (2, (2, 2, 2, 2)),
        ((1, 3), (1, 1, 3, 3)),
        ([1, 0, 2, 3], (1, 0, 2, 3)),
    ],
)
def test_every_form_of_padding(backend: Backend, padding: Any, sides: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((2, 2, 6, 5)), rng.standard_normal((3, 2, 3, 3))
    y = F.conv2d(gpucnn.tensor(x), gpucnn.tensor(w), padding=padding, dilation=(1, 2))
    assert_close(y, conv2d(x, w, None, Sliding((3, 3), (1, 1), sides, (1, 2))))


def test_exact_refuses_what_the_stride_leaves_over(backend: Backend) -> None:
    x, w = gpucnn.tensor(np.zeros((1, 1, 6, 7), np.float32)), gpucnn.tensor(np.zeros((1, 1, 2, 3), np.float32))
    assert F.conv2d(x, w, stride=2).shape == (1, 1, 3, 3)
    assert F.conv2d(x, w, stride=2, exact=True).shape == (1, 1, 3, 3)
    assert F.conv2d(x, w, stride=3).shape == (1, 1, 2, 2)
    with pytest.raises(gpucnn.errors.ShapeError, match=r"conv2d: .*1 rows and 1 columns left over"):
        F.conv2d(x, w, stride=3, exact=True)


def test_only_the_gradients_asked_for_are_made(backend: Backend) -> None:
    for wanted in range(8):
        x, w, b = (gpucnn.tensor(np.ones(shape)) for shape in ((2, 1, 4, 4), (1, 1, 2, 2), (1,)))
        for i, tensor in enumerate((x, w, b)):
            tensor.requires_grad_(bool(wanted >> i & 1))
        y = F.conv2d(x, w, b)
        assert y.requires_grad == bool(wanted)
        if wanted:
            y.sum().backward()
        assert [t.grad is not None for t in (x, w, b)] == [bool(wanted >> i & 1) for i in range(3)]


@settings(max_examples=25)
@given(case=cases())
def test_convolution_is_pytorchs(backend: Backend, case: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(case["seed"])
    window, groups = case["window"], case["groups"]
    x = rng.standard_normal((case["N"], case["C"], *case["size"]))
    w = rng.standard_normal((case["F"], case["C"] // groups, *window.kernel))
    b = rng.standard_normal(case["F"]) if case["bias"] else None
    top, bottom, left, right = window.sides

    def theirs(x: Any, w: Any, b: Any) -> Any:
        padded = torch.nn.functional.pad(x, (left, right, top, bottom))
        return torch.nn.functional.conv2d(padded, w, b, window.stride, 0, window.dilation, groups)

    hold_against_torch(
        backend,
        lambda x, w, b: F.conv2d(x, w, b, window.stride, case["padding"], window.dilation, groups),
        theirs, (x, w, b), case["dtype"], case["layouts"], case["seed"],
    )  # fmt: skip
