"""Pooling by norm and by distance against loops, to a given size against PyTorch; all pooling with padding by name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import (
    LAYOUTS,
    PADDING_NAMES,
    Host,
    Sliding,
    assert_close,
    avg_pool2d,
    hold_against_torch,
    lay_out,
    max_pool2d,
    padding_by_name,
)

import gpucnn
import gpucnn.functional as F
from gpucnn.backend import Backend

Case = dict[str, Any]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """An image and a window: padding as four sides of up to half the kernel, or by name."""

    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    kernel, stride, dilation = pair(1, 3), pair(1, 3), pair(1, 2)
    four = draw(st.tuples(*[st.integers(0, kernel[i // 2] // 2) for i in range(4)]))
    padding = draw(st.sampled_from([four, four, *PADDING_NAMES]))
    size = []
    for axis in range(2):
        span = dilation[axis] * (kernel[axis] - 1) + 1
        least = {"same": 1, "full": 1, "valid": span}.get(
            str(padding), max(span - sum(four[2 * axis : 2 * axis + 2]), 1)
        )
        size.append(draw(st.integers(least, least + 4)))
    sides = four if padding is four else padding_by_name(padding, (size[0], size[1]), kernel, stride, dilation)
    return {
        "shape": (draw(st.integers(0, 3)), draw(st.integers(1, 3)), *size),
        "padding": padding,
        "window": Sliding(kernel, stride, sides, dilation, draw(st.booleans())),
        "p": draw(st.sampled_from([0.5, 1, 2, 2.5, 3, math.inf])),
        "include_pad": draw(st.booleans()),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "layouts": tuple(draw(st.sampled_from(LAYOUTS)) for _ in range(2)),
        "seed": draw(st.integers(0, 99)),
    }


def norm_pool(x: Host, dy: Host, window: Sliding, p: float) -> tuple[Host, Host]:
    """Return (sum |x|^p)^(1/p) of each window and dL/dx."""
    if math.isinf(p):
        y, dx = max_pool2d(abs(x), dy, window)
        return y, dx * np.sign(x)
    total, dx = np.zeros((*x.shape[:2], *window.output(*x.shape[2:]))), np.zeros(x.shape)
    for (oh, ow), _, (h, w) in window.seen(*x.shape[2:]):
        total[:, :, oh, ow] += abs(x[:, :, h, w]) ** p
    y = total ** (1 / p)
    for (oh, ow), _, (h, w) in window.seen(*x.shape[2:]):
        pixel = x[:, :, h, w]
        dx[:, :, h, w] += dy[:, :, oh, ow] * np.sign(pixel) * (abs(pixel) / y[:, :, oh, ow]) ** (p - 1)
    return y, dx


def centre_pool(x: Host, dy: Host, window: Sliding) -> tuple[Host, Host]:
    """Return the means weighted by 1 / (1 + distance from the window's centre), and dL/dx."""
    KH, KW = window.kernel
    weights = np.zeros(window.kernel)
    for kh, kw in np.ndindex(KH, KW):
        weights[kh, kw] = 1 / (1 + math.sqrt((kh - (KH - 1) / 2) ** 2 + (kw - (KW - 1) / 2) ** 2))
    weights /= weights.sum()
    y, dx = np.zeros((*x.shape[:2], *window.output(*x.shape[2:]))), np.zeros(x.shape)
    for (oh, ow), (kh, kw), (h, w) in window.seen(*x.shape[2:]):
        y[:, :, oh, ow] += weights[kh, kw] * x[:, :, h, w]
        dx[:, :, h, w] += weights[kh, kw] * dy[:, :, oh, ow]
    return y, dx


def hold_against_loops(backend: Backend, case: Case) -> None:
    """Hold norm, centre, max and average pooling of one case against the loops."""
    rng, window, dtype, padding = np.random.default_rng(case["seed"]), case["window"], case["dtype"], case["padding"]
    undilated = Sliding(window.kernel, window.stride, window.sides, ceil=window.ceil)
    floored = Sliding(window.kernel, window.stride, window.sides, window.dilation)
    k, s, d, ceil, p = window.kernel, window.stride, window.dilation, window.ceil, case["p"]
    x = (rng.uniform(0.2, 2, case["shape"]) * rng.choice([-1, 1], case["shape"])).astype(dtype)
    wide = x.astype(np.float64)
    calls: list[tuple[Any, Any, Sliding]] = [
        (lambda t: F.lp_pool2d(t, p, k, s, padding, d, ceil), lambda w, dy: norm_pool(wide, dy, w, p), window),
        (lambda t: F.centre_pool2d(t, k, s, padding, d), lambda w, dy: centre_pool(wide, dy, w), floored),
        (lambda t: F.max_pool2d(t, k, s, padding, d, ceil), lambda w, dy: max_pool2d(wide, dy, w), window),
    ]  # fmt: skip
    if d == (1, 1):
        count = case["include_pad"]
        calls.append((
            lambda t: F.avg_pool2d(t, k, s, padding, ceil, count), lambda w, dy: avg_pool2d(wide, dy, w, count), undilated
        ))  # fmt: skip
    for function, oracle, seen in calls:
        tensor = lay_out(x, case["layouts"][0], backend).requires_grad_()
        y = function(tensor)
        dy = rng.standard_normal((*x.shape[:2], *seen.output(*x.shape[2:]))).astype(dtype)
        expected, expected_dx = oracle(seen, dy.astype(np.float64))
        assert_close(y, expected)
        y.backward(lay_out(dy, case["layouts"][1], backend))
        assert tensor.grad is not None
        assert_close(tensor.grad, expected_dx)


@given(case=cases())
def test_norm_centre_max_and_average_pooling_are_those_of_the_loops(backend: Backend, case: Case) -> None:
    hold_against_loops(backend, case)


@pytest.mark.slow
@settings(max_examples=1000)
@given(case=cases())
def test_a_thousand_poolings_of_each_kind(backend: Backend, case: Case) -> None:
    hold_against_loops(backend, case)


@given(case=cases())
def test_blocks_and_reused_memory_change_nothing(cut_small: Backend, case: Case) -> None:
    hold_against_loops(cut_small, case)


@pytest.mark.parametrize("N", [0, 1])
@pytest.mark.parametrize("padding", [*PADDING_NAMES, (0, 0, 0, 0)])
def test_one_pixel_images_and_empty_batches(backend: Backend, N: int, padding: Any) -> None:
    case = {
        "shape": (N, 2, 1, 1), "padding": padding, "window": Sliding((1, 1), (2, 1)), "p": 3, "include_pad": True,
        "dtype": "float64", "layouts": ("sliced", "negative strides"), "seed": 0,
    }  # fmt: skip
    hold_against_loops(backend, case)


@st.composite
def adaptive_cases(draw: st.DrawFn) -> Case:
    size, wanted = ([draw(st.integers(1, 7)) for _ in range(2)] for _ in range(2))
    return {
        "shape": (draw(st.integers(0, 3)), draw(st.integers(1, 3)), *size),
        "output": draw(st.sampled_from([wanted[0], (wanted[0], None), (None, wanted[1]), tuple(wanted)])),
        "ties": draw(st.booleans()),
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "layouts": tuple(draw(st.sampled_from(LAYOUTS)) for _ in range(2)),
        "seed": draw(st.integers(0, 99)),
    }


def hold_adaptive_against_pytorch(backend: Backend, case: Case) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(case["seed"])
    x = rng.integers(0, 3, case["shape"]).astype(float) if case["ties"] else rng.standard_normal(case["shape"])
    for name in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        hold_against_torch(
            backend,
            lambda t, name=name: getattr(F, name)(t, case["output"]),
            lambda t, name=name: getattr(torch.nn.functional, name)(t, case["output"]),
            [x], case["dtype"], case["layouts"], case["seed"],
        )  # fmt: skip


@given(case=adaptive_cases())
def test_adaptive_pooling_is_pytorchs(backend: Backend, case: Case) -> None:
    hold_adaptive_against_pytorch(backend, case)


@pytest.mark.slow
@settings(max_examples=1000)
@given(case=adaptive_cases())
def test_a_thousand_adaptive_poolings(backend: Backend, case: Case) -> None:
    hold_adaptive_against_pytorch(backend, case)


@given(case=cases())
def test_indices_and_unpooling_bring_the_maxima_back(backend: Backend, case: Case) -> None:
    window, shape = case["window"], case["shape"]
    x = np.random.default_rng(case["seed"]).standard_normal(shape)
    arguments = window.kernel, window.stride, case["padding"], window.dilation, window.ceil
    y, places = F.max_pool2d_with_indices(lay_out(x, case["layouts"][0], backend), *arguments)
    expected, winners = max_pool2d(x, np.ones(y.shape), window)
    assert_close(y, expected)
    assume(np.isfinite(expected).all())  # a dilated window may see nothing but padding, and then has no place
    pixels, flat = (
        x.reshape(*shape[:2], shape[2] * shape[3]),
        places.numpy().reshape(*shape[:2], y.shape[2] * y.shape[3]),
    )
    np.testing.assert_array_equal(np.take_along_axis(pixels, flat, -1).reshape(y.shape), expected)
    back = F.max_unpool2d(y, places, window.kernel, window.stride, output_size=shape[2:])
    np.testing.assert_array_equal(back.numpy(), np.where(winners > 0, x, 0))


def test_integers_are_named(backend: Backend) -> None:
    with pytest.raises(gpucnn.errors.DTypeError, match="lp_pool2d: input"):
        F.lp_pool2d(gpucnn.tensor(np.ones((1, 1, 2, 2), np.int64)), 2, 2)
