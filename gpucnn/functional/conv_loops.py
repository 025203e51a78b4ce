"""Convolution by its definition, one loop for each dimension: to read, and to check the fast ones by."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from gpucnn.autograd.operations import Needs, Result
from gpucnn.backend import Array, Backend, Window
from gpucnn.backend.ops.reduction import sum_of as total

Shape = tuple[int, ...]
Place = tuple[int, ...]


def loop_convolution(
    backend: Backend, x: Array, w: Array, b: Array | None, needs: Needs, window: Window, groups: int
) -> Result:
    """Array level: y[n, f, i, j] = b[f] + sum of w[f, c, kh, kw] x[n, c', i stride + kh dilation - top, ...].

    c' runs over the channels of f's group, and pixels outside the image are 0. Each such product is one turn of the loop,
    forward and backward; sums are of Python's floats. Works on the host, whatever the device.
    """
    images, filters = x.tolist(), w.tolist()
    N, F, (OH, OW) = x.shape[0], w.shape[0], window.output_size(*x.shape[2:])
    biases = [0.0] * F if b is None else b.tolist()
    y = [[[[bias] * OW for _ in range(OH)] for bias in biases] for _ in range(N)]
    for (n, f, i, j), (channel, row, column), (c, kh, kw) in products(x.shape, w.shape, window, groups):
        y[n][f][i][j] += filters[f][c][kh][kw] * images[n][channel][row][column]
    result = backend.asarray(y, x.dtype).reshape(N, F, OH, OW)
    if not any(needs):
        return result, None
    x_shape, w_shape, dtype = x.shape, w.shape, x.dtype

    def backward(dy: Array) -> tuple[Array | None, Array | None, Array | None]:
        gradients = dy.tolist()
        dx, dw = _zeros(x_shape), _zeros(w_shape)
        for (n, f, i, j), (channel, row, column), (c, kh, kw) in products(x_shape, w_shape, window, groups):
            dx[n][channel][row][column] += filters[f][c][kh][kw] * gradients[n][f][i][j]
            dw[f][c][kh][kw] += images[n][channel][row][column] * gradients[n][f][i][j]
        return (
            backend.asarray(dx, dtype).reshape(x_shape) if needs[0] else None,
            backend.asarray(dw, dtype).reshape(w_shape) if needs[1] else None,
            total(dy, (0, 2, 3), keepdims=False) if needs[2] else None,
        )

    return result, backward


def products(x_shape: Shape, w_shape: Shape, window: Window, groups: int) -> Iterator[tuple[Place, Place, Place]]:
    """Yield, for each product of a convolution, the places of the output, of the pixel and of the filter's element."""
    (N, _, H, W), (F, CG, KH, KW) = x_shape, w_shape
    OH, OW = window.output_size(H, W)
    (SH, SW), (DH, DW), (top, _, left, _) = window.stride, window.dilation, window.padding
    for n, f, i, j in itertools.product(range(N), range(F), range(OH), range(OW)):
        for c, kh, kw in itertools.product(range(CG), range(KH), range(KW)):
            row, column = i * SH + kh * DH - top, j * SW + kw * DW - left
            if 0 <= row < H and 0 <= column < W:
                yield (n, f, i, j), (f // (F // groups) * CG + c, row, column), (c, kh, kw)


def _zeros(shape: Shape) -> Any:
    return 0.0 if not shape else [_zeros(shape[1:]) for _ in range(shape[0])]
