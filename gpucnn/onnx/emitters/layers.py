"""Convolution, pooling, normalisation, padding and fully connected layers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from gpucnn.backend import Window
from gpucnn.functional.pool import window_counts
from gpucnn.onnx.emitters.registry import emits
from gpucnn.onnx.tracing import Step
from gpucnn.onnx.writing import Writer

CONV, POOL, NORM = "gpucnn.functional.conv", "gpucnn.functional.pool", "gpucnn.functional.norm"


def pads_of(window: Window) -> list[int]:
    """Return the padding in ONNX's order: top, left, bottom, right."""
    top, bottom, left, right = window.padding
    return [top, left, bottom, right]


def sliding(window: Window, padded: bool = True) -> dict[str, Any]:
    """Return the attributes that describe a window."""
    spread = list(window.dilation) if window.dilation != (1, 1) else None
    return {
        "kernel_shape": list(window.kernel), "strides": list(window.stride), "dilations": spread,
        "pads": pads_of(window) if padded else None,
    }  # fmt: skip


@emits(f"{CONV}._conv2d", f"{CONV}._conv2d_im2col", f"{CONV}._conv2d_loops")
def conv(w: Writer, step: Step, x: str, weight: str, bias: str | None) -> str:
    return w.node("Conv", [x, weight, bias], group=step.params["groups"], **sliding(step.params["window"]))


@emits(f"{CONV}._conv2d_relu_max_pool2d")
def conv_relu_max_pool(w: Writer, step: Step, x: str, weight: str, bias: str | None) -> str:
    return w.node("MaxPool", [w.node("Relu", [conv(w, step, x, weight, bias)])], kernel_shape=[2, 2], strides=[2, 2])


@emits(f"{CONV}._conv_transpose2d")
def conv_transpose(w: Writer, step: Step, x: str, weight: str, bias: str | None) -> str:
    window, sizes = step.params["window"], step.params["shape"][2:]
    top, bottom, left, right = window.padding
    (SH, SW), (EH, EW), (H, W) = window.stride, window.extent, step.shapes[0][2:]
    usual = ((H - 1) * SH + EH - top - bottom, (W - 1) * SW + EW - left - right)
    extra = [n - m for n, m in zip(sizes, usual, strict=True)]
    attributes = {**sliding(window), "output_padding": extra if any(extra) else None}
    return w.node("ConvTranspose", [x, weight, bias], group=step.params["groups"], **attributes)


@emits(f"{CONV}._im2col")
def im2col(w: Writer, step: Step, x: str) -> str:
    """The columns are the outputs of a convolution whose filters are single ones."""
    window, C = step.params["window"], step.shapes[0][1]
    size = C * math.prod(window.kernel)
    filters = w.constant(np.eye(size).reshape(size, C, *window.kernel), step.dtype)
    y = w.node("Transpose", [w.node("Conv", [x, filters], **sliding(window))], perm=[0, 2, 3, 1])
    return w.node("Reshape", [y, w.constant([-1, size], "int64")])


@emits("gpucnn.functional.linear._linear")
def linear(w: Writer, step: Step, x: str, weight: str, bias: str | None) -> str:
    return w.node("Gemm", [x, weight, bias], transB=1)


@emits("gpucnn.functional.linear._linear_relu")
def linear_relu(w: Writer, step: Step, x: str, weight: str, bias: str | None) -> str:
    return w.node("Relu", [linear(w, step, x, weight, bias)])


# --- normalisation ----------------------------------------------------------------------------------------------------


@emits("BatchNorm")
def batch_norm(w: Writer, step: Step, x: str, weight: str | None, bias: str | None, mean: str, var: str) -> str:
    C = step.shapes[0][1]
    scale = weight or w.constant(np.ones(C), step.dtype)
    shift = bias or w.constant(np.zeros(C), step.dtype)
    return w.node("BatchNormalization", [x, scale, shift, mean, var], epsilon=step.params["eps"])


@emits(f"{NORM}._batch_norm_inference")
def batch_norm_inference(
    w: Writer, step: Step, x: str, mean: str, var: str, weight: str | None, bias: str | None, residual: str | None
) -> str:
    return _finished(w, step, batch_norm(w, step, x, weight, bias, mean, var), residual)


@emits(f"{NORM}._batch_norm")
def batch_norm_by_batch(
    w: Writer, step: Step, x: str, weight: str | None, bias: str | None, residual: str | None
) -> str:
    """By the batch's own statistics, as without running ones."""
    axes, shape = [0, *range(2, len(step.shapes[0]))], [1, -1, *(1,) * (len(step.shapes[0]) - 2)]
    y = _standardised(w, step, x, axes)
    for op, part in (("Mul", weight), ("Add", bias)):
        if part is not None:
            y = w.node(op, [y, w.node("Reshape", [part, w.constant(shape, "int64")])])
    return _finished(w, step, y, residual)


@emits(f"{CONV}._conv2d_folded")
def conv_batch_norm(
    w: Writer,
    step: Step,
    x: str,
    weight: str,
    bias: str | None,
    mean: str,
    var: str,
    scale: str | None,
    shift: str | None,
) -> str:
    channels = replace(step, shapes=(step.shape, *step.shapes[1:]))
    return _finished(w, step, batch_norm(w, channels, conv(w, step, x, weight, bias), scale, shift, mean, var), None)


def _finished(w: Writer, step: Step, y: str, residual: str | None) -> str:
    """Return what is added after a normalisation, and the ReLU of that where it is asked for."""
    y = y if residual is None else w.node("Add", [y, residual])
    return w.node("Relu", [y]) if step.params["relu"] else y


@emits(f"{NORM}.normalise")
def normalise(w: Writer, step: Step, x: str) -> str:
    return _standardised(w, step, x, list(step.params["axes"]))


def _standardised(w: Writer, step: Step, x: str, axes: list[int]) -> str:
    centred = w.node("Sub", [x, w.reduce("ReduceMean", x, axes, True)])
    variance = w.reduce("ReduceMean", w.node("Mul", [centred, centred]), axes, True)
    shifted = w.node("Add", [variance, w.constant(step.params["eps"], step.dtype)])
    return w.node("Div", [centred, w.node("Sqrt", [shifted])])


# --- padding and pooling ----------------------------------------------------------------------------------------------


@emits("gpucnn.functional.padding._pad2d")
def pad(w: Writer, step: Step, x: str) -> str:
    rows, columns = step.params["rows"], step.params["columns"]
    if all(source is None for part in (rows, columns) for source in _border(part)):
        before, after = (rows.first, columns.first), tuple(len(p.sources) - p.first - p.length for p in (rows, columns))
        return w.node("Pad", [x, w.constant([0, 0, *before, 0, 0, *after], "int64")])
    for axis, part in ((2, rows), (3, columns)):
        if len(part.sources) > part.length:
            x = w.node("Gather", [x, w.constant(part.sources, "int64")], axis=axis)
    return x


def _border(part: Any) -> list[int | None]:
    inside = range(part.first, part.first + part.length)
    return [source for i, source in enumerate(part.sources) if i not in inside]


def padded(w: Writer, x: str, window: Window, fill: float, dtype: str) -> tuple[str, Window]:
    """Return the image and the window of a pooling; padding as large as the window, which runtimes refuse, is done apart."""
    top, bottom, left, right = window.padding
    (KH, KW) = window.kernel
    if max(top, bottom) < KH and max(left, right) < KW:
        return x, window
    pads = w.constant([0, 0, top, left, 0, 0, bottom, right], "int64")
    return w.node("Pad", [x, pads, w.constant(fill, dtype)]), window.with_padding((0, 0, 0, 0))


@emits(f"{POOL}._max_pool2d")
def max_pool(w: Writer, step: Step, x: str) -> str:
    x, window = padded(w, x, step.params["window"], -math.inf, step.dtype)
    return w.node("MaxPool", [x], **sliding(window))


@emits(f"{POOL}._max_pool2d_indices")
def max_pool_indices(w: Writer, step: Step, x: str) -> str:
    H, W = step.shapes[0][2:]
    _, places = w.results("MaxPool", [x], 2, **sliding(step.params["window"]))
    return w.node("Mod", [places, w.constant(H * W, "int64")])


@emits(f"{POOL}._avg_pool2d")
def avg_pool(w: Writer, step: Step, x: str) -> str:
    window, divisor = step.params["window"], step.params["divisor"]
    dtype, size = step.dtype, step.shapes[0][2:]
    plain = window.dilation == (1, 1) or w.opset >= 19
    counted = max(window.padding[:2]) < window.kernel[0] and max(window.padding[2:]) < window.kernel[1]
    if plain and counted and divisor == window_counts(window, (0, 0, 0, 0), size):  # type: ignore[arg-type]
        return w.node("AveragePool", [x], **sliding(window))
    whole = math.prod(window.kernel)
    y = _window_means(w, step, x, window, plain)
    if isinstance(divisor, float):
        return y if divisor == whole else w.node("Mul", [y, w.constant(whole / divisor, dtype)])
    return w.node("Mul", [y, w.constant(whole / np.outer(*divisor), dtype)])


def _window_means(w: Writer, step: Step, x: str, window: Window, plain: bool) -> str:
    """Return the sum of each window divided by the number of its elements, padding included."""
    if plain:
        x, window = padded(w, x, window, 0.0, step.dtype)
        return w.node("AveragePool", [x], count_include_pad=1, **sliding(window))
    C, whole = step.shapes[0][1], math.prod(window.kernel)
    weights = w.constant(np.full((C, 1, *window.kernel), 1 / whole), step.dtype)
    return w.node("Conv", [x, weights], group=C, **sliding(window))


@emits(f"{POOL}._lp_pool2d")
def lp_pool(w: Writer, step: Step, x: str) -> str:
    """(sum |x|^p)^(1/p), by its definition: LpPool takes whole p only, and dilation from set 18 on."""
    window, p = step.params["window"], step.params["p"]
    powers = w.node("Pow", [w.node("Abs", [x]), w.constant(p, step.dtype)])
    means = _window_means(w, step, powers, window, window.dilation == (1, 1) or w.opset >= 19)
    sums = w.node("Mul", [means, w.constant(math.prod(window.kernel), step.dtype)])
    return w.node("Pow", [sums, w.constant(1 / p, step.dtype)])


@emits(f"{POOL}._adaptive_max_pool2d")
def adaptive_max_pool(w: Writer, step: Step, x: str) -> str:
    for axis, bins in ((2, step.params["rows"]), (3, step.params["columns"])):
        parts = []
        for first, last in bins:
            ends = [w.constant([n], "int64") for n in (first, last, axis)]
            parts.append(w.reduce("ReduceMax", w.node("Slice", [x, *ends]), [axis], True))
        x = w.node("Concat", parts, axis=axis) if len(parts) > 1 else parts[0]
    return x


@emits(f"{POOL}._max_unpool2d")
def max_unpool(w: Writer, step: Step, x: str, indices: str) -> str:
    (OH, OW), (N, C) = step.params["size"], step.shape[:2]
    zeros = w.node("Expand", [w.constant(0, step.dtype), w.shape([N, C, OH * OW])])
    flat = [w.node("Reshape", [value, w.constant([0, 0, -1], "int64")]) for value in (indices, x)]
    y = w.node("ScatterElements", [zeros, *flat], axis=2)
    return w.node("Reshape", [y, w.constant([0, 0, OH, OW], "int64")])
