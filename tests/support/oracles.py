"""What results are held against: the definitions as loops in float64, finite differences, PyTorch. Never gpucnn itself.

Dimensions: N images, C channels, H x W pixels, F filters, KH x KW kernel, OH x OW output pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gpucnn import Tensor
from gpucnn.backend import Backend

Host = np.ndarray[Any, Any]
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
PADDING_NAMES = ("valid", "same", "full")
LAYOUTS = ("C-ordered", "batch-last", "sliced", "negative strides", "reversed axes")


@dataclass(frozen=True)
class Sliding:
    """A window as the definition has it; sides are (top, bottom, left, right)."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    sides: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False

    def output(self, H: int, W: int) -> tuple[int, int]:
        top, bottom, left, right = self.sides
        return self._length(0, H, top, bottom), self._length(1, W, left, right)

    def _length(self, axis: int, n: int, before: int, after: int) -> int:
        span = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        places = 0
        while True:  # count the windows, as one slides along
            start = places * self.stride[axis]
            fits = start + span <= n + before + after
            hangs_over = self.ceil and start < n + before and start < n + before + after - span + self.stride[axis]
            if not (fits or hangs_over):
                return places
            places += 1

    def seen(self, H: int, W: int) -> Iterator[tuple[tuple[int, int], tuple[int, int], tuple[int, int]]]:
        """Yield (output pixel, kernel element, input pixel) wherever the input pixel lies in the image."""
        OH, OW = self.output(H, W)
        for oh in range(OH):
            for ow in range(OW):
                for kh in range(self.kernel[0]):
                    for kw in range(self.kernel[1]):
                        h = oh * self.stride[0] + kh * self.dilation[0] - self.sides[0]
                        w = ow * self.stride[1] + kw * self.dilation[1] - self.sides[2]
                        if 0 <= h < H and 0 <= w < W:
                            yield (oh, ow), (kh, kw), (h, w)


def padding_by_name(
    name: str, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) that a name of padding means for an image of this (H, W)."""
    sides: list[int] = []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        span = d * (k - 1) + 1
        if name == "same":  # ceil(n / s) windows; the odd row or column is at the far side
            whole = max((-(-n // s) - 1) * s + span - n, 0)
            sides += [whole // 2, whole - whole // 2]
        else:
            sides += [span - 1] * 2 if name == "full" else [0, 0]
    return sides[0], sides[1], sides[2], sides[3]


def conv2d(x: Host, w: Host, b: Host | None, window: Sliding, groups: int = 1) -> Host:
    x, w = x.astype(np.float64), w.astype(np.float64)
    N, C, H, W = x.shape
    F, CG = w.shape[:2]
    y = np.zeros((N, F, *window.output(H, W)))
    for (oh, ow), (kh, kw), (h, v) in window.seen(H, W):
        for f in range(F):
            first = f // (F // groups) * CG
            y[:, f, oh, ow] += x[:, first : first + CG, h, v] @ w[f, :, kh, kw]
    return y if b is None else y + b.astype(np.float64)[:, None, None]


def conv2d_gradients(x: Host, w: Host, dy: Host, window: Sliding, groups: int = 1) -> tuple[Host, Host, Host]:
    """Return dL/dx, dL/dw and dL/db for dL/dy: each product of the definition, differentiated."""
    x, w, dy = x.astype(np.float64), w.astype(np.float64), dy.astype(np.float64)
    F, CG = w.shape[:2]
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for (oh, ow), (kh, kw), (h, v) in window.seen(*x.shape[2:]):
        for f in range(F):
            first = f // (F // groups) * CG
            dx[:, first : first + CG, h, v] += dy[:, f, oh, ow, None] * w[f, :, kh, kw]
            dw[f, :, kh, kw] += dy[:, f, oh, ow] @ x[:, first : first + CG, h, v]
    return dx, dw, dy.sum((0, 2, 3))


def max_pool2d(x: Host, dy: Host | None, window: Sliding) -> tuple[Host, Host]:
    """Return the maxima, and dL/dx for dL/dy: of equal maxima the first in row-major order gets it."""
    N, C, H, W = x.shape
    best = np.full((N, C, *window.output(H, W)), -np.inf)
    winner = np.full((*best.shape, 2), -1)
    for (oh, ow), _, (h, w) in window.seen(H, W):
        pixel, old = x[:, :, h, w].astype(np.float64), best[:, :, oh, ow]
        wins = (winner[:, :, oh, ow, 0] < 0) | (pixel > old) | (np.isnan(pixel) & ~np.isnan(old))
        best[:, :, oh, ow] = np.where(wins, pixel, old)
        winner[:, :, oh, ow][wins] = (h, w)
    dx = np.zeros(x.shape)
    if dy is not None:
        for n, c, oh, ow in np.ndindex(*best.shape):
            h, w = winner[n, c, oh, ow]
            if h >= 0:
                dx[n, c, h, w] += dy[n, c, oh, ow]
    return best, dx


def avg_pool2d(
    x: Host, dy: Host | None, window: Sliding, count_include_pad: bool = True, divisor: int | None = None
) -> tuple[Host, Host]:
    """Return the means, and dL/dx for dL/dy. Padding may count, what hangs over the padding never does."""
    N, C, H, W = x.shape
    top, bottom, left, right = window.sides
    y, dx = np.zeros((N, C, *window.output(H, W))), np.zeros(x.shape)
    counts = np.zeros(y.shape[2:])
    for oh, ow in np.ndindex(*counts.shape):
        for kh, kw in np.ndindex(*window.kernel):
            h = oh * window.stride[0] + kh * window.dilation[0] - top
            w = ow * window.stride[1] + kw * window.dilation[1] - left
            in_image = 0 <= h < H and 0 <= w < W
            in_padding = h < H + bottom and w < W + right
            counts[oh, ow] += in_image or (count_include_pad and in_padding)
    counts = np.maximum(counts, 1) if divisor is None else np.full_like(counts, divisor)
    for (oh, ow), _, (h, w) in window.seen(H, W):
        y[:, :, oh, ow] += x[:, :, h, w] / counts[oh, ow]
        if dy is not None:
            dx[:, :, h, w] += dy[:, :, oh, ow] / counts[oh, ow]
    return y, dx


def im2col(x: Host, window: Sliding) -> Host:
    """One row for each (image, output row, output column), one column for each (channel, kernel row, kernel column)."""
    N, C, H, W = x.shape
    OH, OW = window.output(H, W)
    columns = np.zeros((N, OH, OW, C, *window.kernel), x.dtype)
    for (oh, ow), (kh, kw), (h, w) in window.seen(H, W):
        columns[:, oh, ow, :, kh, kw] = x[:, :, h, w]
    return columns.reshape(N * OH * OW, C * window.kernel[0] * window.kernel[1])


def lay_out(host: Host, layout: str, backend: Backend) -> Tensor:
    """Return a tensor with the values of ``host`` whose memory is ordered as ``layout`` says."""
    if layout == "C-ordered" or not host.ndim:
        array = backend.asarray(np.array(host, order="C"))
    elif layout == "batch-last":
        order = (*range(1, host.ndim), 0)
        array = backend.asarray(np.ascontiguousarray(host.transpose(order))).transpose(np.argsort(order).tolist())
    elif layout == "sliced":
        around = np.full([2 * n + 1 for n in host.shape], 99, host.dtype)
        inside = (slice(1, None, 2),) * host.ndim
        around[inside] = host
        array = backend.asarray(around)[inside]
    elif layout == "negative strides":
        backwards = (slice(None, None, -1),) * host.ndim
        array = backend.asarray(np.ascontiguousarray(host[backwards]))[backwards]
    else:
        array = backend.asarray(np.ascontiguousarray(host.T)).T
    return Tensor(array, backend)


def to_tf32(values: Host) -> Host:
    """Return the values rounded to TF32: 10 bits after the leading one, ties away from zero."""
    fraction, exponent = np.frexp(values)  # 0.5 to 1: 11 bits in all
    return np.ldexp(np.trunc(fraction * 2**11 + np.copysign(0.5, fraction)) / 2**11, exponent)


def assert_close(
    got: Tensor | Host, expected: Host, tolerance: float | None = None, summed: Host | None = None
) -> None:
    """Assert one shape and max|a - b| <= tolerance max|b|; by default the tolerance of the dtype that came.

    What is expected to be infinite or NaN must be just that, and does not count in the maxima. ``summed``, where sums may
    cancel: the sums of the absolute values, which then are what the error is measured by.
    """
    values = got.numpy() if isinstance(got, Tensor) else got
    assert values.shape == expected.shape
    if tolerance is None:
        tolerance = TOLERANCE[str(values.dtype)]
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(values[~finite], expected[~finite])
    values, expected = values[finite], expected[finite]
    if expected.size:
        error, scale = np.abs(values - expected).max(), np.abs(expected if summed is None else summed).max()
        tiny = np.finfo(values.dtype).tiny if values.dtype.kind == "f" else 0  # smaller numbers the dtype cannot hold
        assert error <= tolerance * scale + tiny, (
            f"off by {error}, {error / scale if scale else np.inf:.2g} of the largest"
        )


def hold_against_torch(
    backend: Backend,
    ours: Callable[..., Tensor],
    theirs: Callable[..., Any],
    inputs: Sequence[Host | None],
    dtype: str = "float64",
    layouts: Sequence[str] = LAYOUTS[:1],
    seed: int = 0,
) -> None:
    """Assert that a function of the inputs and all its gradients, in ``dtype``, are those of PyTorch in float64.

    Integers take no gradient and None stands for an argument that is absent. The inputs have the layouts in turn.
    """
    torch = pytest.importorskip("torch")
    hosts = [a.astype(dtype) if a is not None and a.dtype.kind == "f" else a for a in inputs]
    tensors, leaves = [], []
    for place, host in enumerate(hosts):
        floats = host is not None and host.dtype.kind == "f"
        layout = layouts[place % len(layouts)]
        tensors.append(None if host is None else lay_out(host, layout, backend).requires_grad_(floats))
        wide = host.astype(np.float64) if floats else host
        leaves.append(None if host is None else torch.tensor(wide, requires_grad=floats))
    y, expected = ours(*tensors), theirs(*leaves)
    assert y.dtype == dtype
    assert_close(y, expected.detach().numpy())
    dy = np.random.default_rng([seed, 1]).standard_normal(y.shape).astype(dtype)
    y.backward(lay_out(dy, layouts[-1], backend))
    expected.backward(torch.tensor(dy.astype(np.float64)))
    for tensor, leaf in zip(tensors, leaves, strict=True):
        if leaf is not None and leaf.requires_grad:
            assert tensor is not None
            assert tensor.grad is not None
            assert tensor.grad.dtype == dtype
            assert_close(tensor.grad, leaf.grad.numpy())


def check_gradients(function: Callable[..., Tensor], backend: Backend, *inputs: Host, step: float = 1e-6) -> None:
    """Assert that all gradients of ``function`` in float64 are those of central differences, for a random dL/dy."""
    tensors = [Tensor(backend.asarray(x.copy()), backend).requires_grad_() for x in inputs]
    y = function(*tensors)
    weights = np.random.default_rng(5).standard_normal(y.shape)
    y.backward(Tensor(backend.asarray(weights), backend))

    def value(arrays: list[Host]) -> float:
        return float((function(*(Tensor(backend.asarray(a), backend) for a in arrays)).numpy() * weights).sum())

    for i, x in enumerate(inputs):
        numeric = np.zeros(x.shape)
        for place in np.ndindex(*x.shape):
            moved = [a.copy() for a in inputs]
            moved[i][place] = x[place] + step
            above = value(moved)
            moved[i][place] = x[place] - step
            numeric[place] = (above - value(moved)) / (2 * step)
        gradient = tensors[i].grad
        assert gradient is not None
        assert gradient.dtype == np.float64
        np.testing.assert_allclose(gradient.numpy(), numeric, rtol=1e-6, atol=1e-7, err_msg=f"input {i}")
