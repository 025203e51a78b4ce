"""Compiled convolutions against the definition's loops in float64, at every vector width that this processor has."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import oracles
import pytest
from cases import CONVOLUTIONS
from native_kernels import LAYOUTS, Device, Host, close, guarded, sliding, width

from gpucnn.backend import Backend, Window, ops
from gpucnn.backend.cpu import native as calls

__all__ = ["width"]

CASES: dict[str, tuple[Any, ...]] = CONVOLUTIONS | {
    "one image, rows shorter than a vector": ((1, 5, 9, 6), 7, Window((3, 3), (1, 1), (1, 1, 1, 1)), 1),
    "one image, long rows": ((1, 3, 6, 70), 4, Window((5, 5), (1, 1), (2, 2, 2, 2)), 1),
    "a vector of images": ((16, 4, 6, 5), 6, Window((3, 3), (1, 1), (1, 1, 1, 1)), 1),
    "batch that is no multiple of a vector": ((21, 3, 5, 7), 5, Window((3, 3), (1, 1), (1, 1, 1, 1)), 1),
    "two runs of images": ((64, 2, 6, 6), 5, Window((5, 5)), 1),
    "runs of images of two lengths": ((101, 2, 5, 5), 3, Window((3, 3), (1, 1), (1, 1, 1, 1)), 1),
    "1x1": ((33, 7, 4, 5), 9, Window((1, 1)), 1),
    "1x1, stride 2": ((33, 7, 7, 6), 9, Window((1, 1), (2, 2)), 1),
    "stride larger than the kernel": ((8, 3, 11, 12), 4, Window((2, 2), (3, 4), (1, 0, 0, 1)), 1),
    "stride and dilation without a common divisor": (
        (9, 2, 19, 21),
        3,
        Window((3, 4), (3, 2), (2, 3, 4, 1), (2, 3)),
        1,
    ),
    "dilation equal to the stride": ((4, 2, 12, 12), 3, Window((3, 3), (2, 2), (2, 2, 2, 2), (2, 2)), 1),
    "more padding than kernel": ((8, 2, 3, 3), 3, Window((2, 2), (1, 1), (3, 4, 5, 3)), 1),
    "negative padding": ((8, 2, 9, 9), 3, Window((3, 3), (1, 1), (-1, -2, 0, -1)), 1),
    "many channels of few pixels": ((17, 40, 2, 2), 24, Window((3, 3), (1, 1), (1, 1, 1, 1)), 1),
    "groups": ((18, 6, 6, 7), 9, Window((3, 3), (2, 1), (1, 1, 1, 1)), 3),
    "depthwise with two filters a channel": ((32, 5, 7, 7), 10, Window((3, 3), (1, 1), (1, 1, 1, 1)), 5),
    "a row of pixels": ((2, 3, 1, 50), 4, Window((1, 7), (1, 2), (0, 0, 3, 3)), 1),
}


class Reference(Backend):
    xp = np


@cache
def example(case: str) -> tuple[Host, ...]:
    """Return x, w, b, dy and what the definition makes of them: y, y without bias, dx, dw, db."""
    shape, F, window, groups = CASES[case]
    rng = np.random.default_rng(len(case))
    x = rng.standard_normal(shape, np.float32)
    w = rng.standard_normal((F, shape[1] // groups, *window.kernel), np.float32)
    b = rng.standard_normal(F, np.float32)
    dy = rng.standard_normal((shape[0], F, *window.output_size(*shape[2:])), np.float32)
    y, plain = (oracles.conv2d(x, w, bias, sliding(window), groups) for bias in (b, None))
    return x, w, b, dy, y, plain, *oracles.conv2d_gradients(x, w, dy, sliding(window), groups)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_convolution_and_its_gradients_are_the_definition_s(case: str, layout: str, width: str) -> None:
    shape, _, window, groups = CASES[case]
    x, w, b, dy, y, plain, dx, dw, db = example(case)
    device = Device(2)
    X, DY = guarded(device, x, layout), guarded(device, dy, layout)
    close(calls.conv2d(device, X, w, b, window, groups), y, "y")
    close(calls.conv2d_relu(device, X, w, b, window, groups), np.maximum(y, 0), "relu")
    close(calls.conv2d(device, X, w, None, window, groups), plain, "no bias")
    close(calls.conv2d_input_gradient(device, DY, w, shape, window, groups), dx, "dx")
    our_dw, our_db = calls.conv2d_weight_gradient(device, X, DY, w.shape, window, groups)
    close(our_dw, dw, "dw")
    close(our_db, db, "db")
    device.check()


@pytest.mark.parametrize("activation", ["hardswish", "hardsigmoid"])
@pytest.mark.parametrize("case", CASES)
def test_convolution_and_activation_in_one_are_the_reference_s(case: str, activation: str, width: str) -> None:
    _, _, window, groups = CASES[case]
    x, w, b, *_ = example(case)
    device = Device(2)
    X = guarded(device, x, "batch last")
    X[0, 0, 0, :3], X[-1, -1, -1, -1] = (np.nan, np.inf, -np.inf)[: X.shape[3]], 1e20
    y = calls.conv2d(device, X, w, b, window, groups)
    function = ops.hardswish if activation == "hardswish" else ops.limited_line
    with np.errstate(invalid="ignore"):
        wanted = function(Reference(), y, 0.7, -0.2)
    ours = calls.conv2d_hard(device, X, w, b, window, groups, activation, 0.7, -0.2)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)
    device.check()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [case for case in CASES if min(example(case)[4].shape[2:]) > 1])
def test_convolution_relu_and_pooling_in_one_are_the_definition_s(case: str, layout: str, width: str) -> None:
    shape, _, window, groups = CASES[case]
    x, w, b, _, y, *_ = example(case)
    device, pairs = Device(2), Window((2, 2), (2, 2))
    X = guarded(device, x, layout)
    ours, indices = calls.conv2d_relu_max_pool2d(device, X, w, b, window, groups)
    pooled = oracles.max_pool2d(y, None, sliding(pairs))[0]
    close(ours, np.maximum(pooled, 0), "y")
    close(
        calls.conv2d_relu_max_pool2d(device, X, w, b, window, groups, False)[0],
        np.maximum(pooled, 0),
        "without indices",
    )
    assert indices is not None
    # Where two pixels are as good as equal, either may be chosen: the indices must be right to rounding, then decide.
    N, F, PH, PW = pooled.shape
    cells = y[:, :, : 2 * PH, : 2 * PW].reshape(N, F, PH, 2, PW, 2).transpose(0, 1, 2, 4, 3, 5).reshape(N, F, PH, PW, 4)
    alive = indices < 4
    chosen = np.take_along_axis(cells, (indices % 4)[..., None].astype(int), -1)[..., 0]
    assert np.abs((chosen - pooled)[alive]).max(initial=0) < 1e-5 * np.abs(y).max()
    assert (np.where(alive, pooled, -pooled) > -1e-5 * np.abs(y).max()).all()
    assert set(np.unique(indices)) <= {0, 1, 2, 3, 4}

    dy = np.random.default_rng(1).standard_normal(pooled.shape, np.float32)
    between = np.zeros(y.shape)
    for k in range(4):
        between[:, :, k // 2 : 2 * PH : 2, k % 2 : 2 * PW : 2] = np.where(indices == k, dy, 0)
    expected = oracles.conv2d_gradients(x, w, between.astype(np.float32), sliding(window), groups)
    DY, places = guarded(device, dy, layout), guarded(device, indices, layout)
    for requires_grad in ((True, True), (True, False), (False, True)):
        gradients = calls.conv2d_relu_max_pool2d_gradients(device, X, w, DY, places, window, groups, requires_grad)
        for one, other, needed in zip(
            gradients, expected, (requires_grad[0], requires_grad[1], requires_grad[1]), strict=True
        ):
            assert (one is not None) == needed
            if one is not None:
                close(one, other, str(requires_grad))
    device.check()


@pytest.mark.parametrize("case", CASES)
def test_the_number_of_threads_does_not_change_a_bit(case: str, width: str) -> None:
    shape, _, window, groups = CASES[case]
    x, w, b, dy, *_ = example(case)
    expected: list[Host] | None = None
    for threads in (1, 2, 3, 8):
        device = Device(threads)
        results = [
            calls.conv2d(device, x, w, b, window, groups),
            calls.conv2d_input_gradient(device, dy, w, shape, window, groups),
            *calls.conv2d_weight_gradient(device, x, dy, w.shape, window, groups),
        ]
        expected = expected or results
        for one, other in zip(results, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("case", CASES)
def test_no_memory_is_read_but_the_arrays(case: str, width: str) -> None:
    """NaN stands around every array in ``guarded``, and in memory of the kernels' own that calls before left behind."""
    shape, _, window, groups = CASES[case]
    x, w, b, dy, *_ = example(case)
    device = Device()
    calls.conv2d(
        device,
        np.full((8, 8, 40, 40), np.nan, np.float32),
        np.full((8, 8, 3, 3), np.nan, np.float32),
        None,
        Window((3, 3)),
    )
    calls.conv2d_weight_gradient(
        device,
        np.full((8, 8, 40, 40), np.nan, np.float32),
        np.full((8, 8, 38, 38), np.nan, np.float32),
        (8, 8, 3, 3),
        Window((3, 3)),
    )
    X, DY, FILTERS = (guarded(device, a, "C-ordered") for a in (x, dy, w))
    assert np.isfinite(calls.conv2d(device, X, FILTERS, b, window, groups)).all()
    assert np.isfinite(calls.conv2d_input_gradient(device, DY, FILTERS, shape, window, groups)).all()
    assert all(np.isfinite(a).all() for a in calls.conv2d_weight_gradient(device, X, DY, w.shape, window, groups))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_reaches_the_pixels_that_see_it_and_no_others(bad: float, width: str) -> None:
    rng = np.random.default_rng(3)
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    for N in (1, 5, 16, 40):
        x, w = rng.standard_normal((N, 3, 6, 9), np.float32), rng.standard_normal((4, 3, 3, 3), np.float32)
        x[N // 2, 1, 2, 4] = bad
        y = calls.conv2d(Device(), x, w, None, window)
        expected = np.zeros(y.shape, bool)
        expected[N // 2, :, 1:4, 3:6] = True
        np.testing.assert_array_equal(~np.isfinite(y), expected)
        assert np.isfinite(calls.conv2d_relu_max_pool2d(Device(), x, w, None, window, 1)[0]).all() == (bad == -1)
        dy = np.ones(y.shape, np.float32)
        dy[N // 2, :, 1:4, 3:6] = 0  # 0 times what is not finite is NaN, and nothing else is
        dw, _ = calls.conv2d_weight_gradient(Device(), x, dy, w.shape, window)
        assert np.isnan(dw[:, 1]).all()
        assert np.isfinite(dw[:, [0, 2]]).all()


def test_empty_arrays_come_out_empty_or_as_the_bias(width: str) -> None:
    device, window = Device(), Window((3, 3))
    w, b = np.ones((4, 3, 3, 3), np.float32), np.arange(4, dtype=np.float32)
    assert calls.conv2d(device, np.empty((0, 3, 5, 5), np.float32), w, b, window).shape == (0, 4, 3, 3)
    no_channels = calls.conv2d(
        device, np.empty((2, 0, 5, 5), np.float32), np.empty((4, 0, 3, 3), np.float32), b, window
    )
    np.testing.assert_array_equal(no_channels, np.broadcast_to(b[:, None, None], (2, 4, 3, 3)))
    dw, db = calls.conv2d_weight_gradient(
        device, np.empty((0, 3, 5, 5), np.float32), np.empty((0, 4, 3, 3), np.float32), w.shape, window
    )
    assert not dw.any()
    assert not db.any()


def test_arguments_that_do_not_fit_are_refused(width: str) -> None:
    from gpucnn.backend.native import library

    x, w, y = np.zeros((2, 3, 5, 5), np.float32), np.zeros((4, 3, 3, 3), np.float32), np.zeros((4, 3, 3, 2), np.float32)
    last, out = np.asfortranarray(x).transpose(0, 1, 2, 3), y.transpose(3, 0, 1, 2)
    last = np.ascontiguousarray(x.transpose(1, 2, 3, 0)).transpose(3, 0, 1, 2)
    numbers = (3, 3, 1, 1, 0, 0, 0, 0, 1, 1)
    conv = library().conv2d
    conv(last, 4, 1, *numbers, w, None, out, None, 0, 0, 1, 0, 1)
    for arguments, error in (
        ((x, 4, 1, *numbers, w, None, out, None, 0, 0, 1, 0, 1), "batch last"),
        ((last.astype(np.float64), 4, 1, *numbers, w, None, out, None, 0, 0, 1, 0, 1), "float32"),
        ((last, 4, 1, *numbers, w[:3], None, out, None, 0, 0, 1, 0, 1), "w"),
        ((last, 4, 1, *numbers, w, np.zeros(3, np.float32), out, None, 0, 0, 1, 0, 1), "b"),
        ((last, 4, 2, *numbers, w, None, out, None, 0, 0, 1, 0, 1), "divisor"),
        ((last, 4, 1, 3, 3, 0, 1, 0, 0, 0, 0, 1, 1, w, None, out, None, 0, 0, 1, 0, 1), "positive"),
        ((last, 4, 1, 3, 3, 1, 1, 1, 0, 0, 0, 1, 1, w, None, out, None, 0, 0, 1, 0, 1), "y"),
        ((last, 4, 1, *numbers, w, None, None, None, 0, 0, 1, 0, 1), "y"),
        ((last, 4, 1, *numbers, w, None, out, np.zeros((2, 4, 3, 3), np.uint8), 0, 0, 1, 0, 1), "argmax"),
        ((last, 4, 1, *numbers, w, None, out, None, 4, 0, 1, 0, 1), "activation"),
        ((last, 4, 1, *numbers, w, None, out, None, -1, 0, 1, 0, 1), "activation"),
    ):
        with pytest.raises(ValueError, match=error):
            conv(*arguments)
    with pytest.raises(TypeError):
        conv(last, 4)
    with pytest.raises(TypeError):
        conv(last, 4, 1, *numbers, w, None, out, None, 0, 0, 1, 0, 1, 1)
    out.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        conv(last, 4, 1, *numbers, w, None, out, None, 0, 0, 1, 0, 1)


def over_taps_inside(x: Host, w: Host, dy: Host) -> tuple[Host, Host, Host]:
    """Return y, dx and dw of a 3x3 convolution with one pixel of padding, where taps in the padding are left out."""
    y, dx, dw = np.zeros(dy.shape), np.zeros(x.shape), np.zeros(w.shape)
    H, W = x.shape[2:]
    for i in range(3):
        for j in range(3):
            out = (..., slice(max(1 - i, 0), min(H + 1 - i, H)), slice(max(1 - j, 0), min(W + 1 - j, W)))
            seen = (..., slice(max(i - 1, 0), min(H + i - 1, H)), slice(max(j - 1, 0), min(W + j - 1, W)))
            y[out] += np.einsum("fc,nchw->nfhw", w[:, :, i, j].astype(float), x[seen])
            dx[seen] += np.einsum("fc,nfhw->nchw", w[:, :, i, j].astype(float), dy[out])
            dw[:, :, i, j] = np.einsum("nfhw,nchw->fc", dy[out].astype(float), x[seen])
    return y, dx, dw


@pytest.mark.parametrize("N", [1, 3, 16, 40])
def test_what_is_infinite_meets_padding_as_zeros_or_not_at_all(N: int, width: str) -> None:
    """Infinity times a zero of the padding is NaN by the definition. A kernel may leave the padding out, as PyTorch's do."""
    rng, window = np.random.default_rng(4), Window((3, 3), (1, 1), (1, 1, 1, 1))
    x, w = rng.standard_normal((N, 2, 6, 7), np.float32), rng.standard_normal((3, 2, 3, 3), np.float32)
    dy = rng.standard_normal((N, 3, 6, 7), np.float32)
    w[1, 0, 0, 0], w[2, 1, 2, 1], dy[0, 0, 0, 0] = np.inf, -np.inf, np.inf
    device = Device(2)
    ours = (
        calls.conv2d(device, x, w, None, window),
        calls.conv2d_input_gradient(device, dy, w, x.shape, window),
        calls.conv2d_weight_gradient(device, x, dy, w.shape, window)[0],
    )
    with np.errstate(invalid="ignore"):
        beside = over_taps_inside(x, w, dy)
        padded = tuple(np.pad(a, ((0, 0), (0, 0), (1, 1), (1, 1))) for a in (x, dy))
        turned = w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3).astype(float)
        views = [np.lib.stride_tricks.sliding_window_view(a, (3, 3), (2, 3)) for a in padded]
        zeros = (
            np.einsum("nchwij,fcij->nfhw", views[0], w.astype(float)),
            np.einsum("nfhwij,cfij->nchw", views[1], turned),
            np.einsum("nchwij,nfhw->fcij", views[0], dy.astype(float)),
        )
    for found, without, with_zeros in zip(ours, beside, zeros, strict=True):
        assert not np.array_equal(np.isnan(without), np.isnan(with_zeros)), "the two differ"
        close_to = [np.isclose(found, a, 1e-4, 1e-4, equal_nan=True) for a in (without, with_zeros)]
        assert (close_to[0] | close_to[1]).all()
