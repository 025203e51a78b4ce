"""Convolution, ReLU and 2x2 max-pooling in one kernel on the CPU.

A pooled pixel looks at four neighbouring outputs of the convolution. So convolve at stride 2 with four copies of the
filters, shifted by (0, 0), (0, 1), (1, 0), (1, 1) in a kernel one larger each way: the four outputs of a pooled pixel come
out as four rows of one product, and pooling is three maxima of contiguous blocks. For a 5x5 kernel that makes 2.8 times
fewer columns, and products of a better shape, for 1.44 times the arithmetic. Bias comes with the product, ReLU after the
maximum, with which it commutes.

Blocks of pooled rows are taken from end to end while their columns are in the second-level cache. Images are held with
even and odd columns apart, so that every column of a window is contiguous.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cpu.blocks import BLOCK_BYTES, add_product
from gpucnn.backend.cpu.device import CpuDevice
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.backend.geometry import Shape, Window

DEEPEST = 512
"""Columns of a window (C * KH * KW) up to which the kernel was faster for 3x3 filters, with 1.8 times the arithmetic.

Forward and backward of a batch of 32 images of 32x32 pixels against the separate operations, on two cores: 1.8 times
faster at 27 columns, 1.2 at 144, 1.03 at 288, 0.98 at 576. For 5x5 filters 1.3 to 1.8 times at any depth.
"""
WIDE = 25
"""Kernel area from which the additional arithmetic is small enough at any depth."""


def _serves(device: CpuDevice, x: Array, w: Array, window: Window, groups: int) -> bool:
    """Whether the kernel serves this case: stride 1, no dilation or groups, a window that is not too deep.

    It stores all padded images at one time, so they must fit the workspace's limit.
    """
    plain = window.stride == (1, 1) and window.dilation == (1, 1) and groups == 1
    area = window.kernel[0] * window.kernel[1]
    bytes_held = x.shape[0] * x.shape[1] * math.prod(window.padded_size(*x.shape[2:])) * x.itemsize
    small = bytes_held <= device.workspace.limit
    return plain and x.size > 0 and small and (area >= WIDE or w.shape[1] * area <= DEEPEST)


def serves(
    device: CpuDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int, needs_indices: bool = True
) -> bool:
    return _serves(device, x, w, window, groups)


@implements(ops.conv2d_relu_max_pool2d, on="cpu", when=serves)
def conv2d_relu_max_pool2d(
    device: CpuDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int, needs_indices: bool = True
) -> tuple[Array, Array | None]:
    OH, OW = window.output_size(*x.shape[2:])
    shape = (x.shape[0], w.shape[0], OH // 2, OW // 2)
    y = device.workspace.empty_batch_last(shape, x.dtype)
    indices = device.workspace.empty_batch_last(shape, np.uint8) if needs_indices else None
    forward(device, window, x, w, b, y, indices)
    return y, indices


def serves_gradients(
    device: CpuDevice, x: Array, w: Array, dy: Array, indices: Array, window: Window, groups: int,
    requires_grad: tuple[bool, bool],
) -> bool:  # fmt: skip
    return _serves(device, x, w, window, groups)


@implements(ops.conv2d_relu_max_pool2d_gradients, on="cpu", when=serves_gradients)
def conv2d_relu_max_pool2d_gradients(
    device: CpuDevice, x: Array, w: Array, dy: Array, indices: Array, window: Window, groups: int,
    requires_grad: tuple[bool, bool],
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    dx = device.workspace.empty_batch_last(x.shape, dy.dtype) if requires_grad[0] else None
    dw, db = (np.empty_like(w), np.empty(w.shape[0], w.dtype)) if requires_grad[1] else (None, None)
    gradients(device, window, x, w, dy, indices, dx, dw, db)
    return dx, dw, db


class Plan:
    """Sizes of the stride-2 convolution: kernel K2H x K2W (both even), pooled output PH x PW."""

    def __init__(self, x_shape: Shape, w_shape: Shape, window: Window) -> None:
        self.N, self.C, self.H, self.W = x_shape
        self.F, _, self.KH, self.KW = w_shape
        OH, OW = window.output_size(self.H, self.W)
        self.PH, self.PW = OH // 2, OW // 2
        self.K2H, self.K2W = self.KH + 1 + (self.KH + 1) % 2, self.KW + 1 + (self.KW + 1) % 2
        self.depth = self.C * self.K2H * self.K2W
        self.top, self.left = window.padding[0], window.padding[2]
        self.rows_held = 2 * self.PH - 2 + self.K2H
        self.columns_held = self.PW - 1 + self.K2W // 2  # of each parity

    def expanded(self, w: Array, b: Array | None) -> Array:
        """Return the (4F, depth + 1) shifted filters, the bias in the last column."""
        filters = np.zeros((4, self.F, self.depth + 1), w.dtype)
        np.copyto(self._shifted(filters), w)
        if b is not None:
            filters[:, :, -1] = b
        return filters.reshape(4 * self.F, self.depth + 1)

    def _shifted(self, filters: Array) -> Array:
        """Return a (2, 2, F, C, KH, KW) view of (4, F, depth + 1): the filters, shifted by (i, j)."""
        s4, sF, size = filters.strides
        row = self.K2W * size
        strides = (2 * s4 + row, s4 + size, sF, self.K2H * row, row, size)
        return np.ndarray((2, 2, self.F, self.C, self.KH, self.KW), filters.dtype, filters, 0, strides)

    def folded(self, gradient: Array) -> tuple[Array, Array]:
        """Return dL/dw and dL/db from the gradient of the expanded filters: the adjoint of ``expanded``."""
        gradient = np.ascontiguousarray(gradient).reshape(4, self.F, self.depth + 1)
        (a, b), (c, d) = self._shifted(gradient)
        return a + b + (c + d), gradient[:, :, -1].sum(0)

    def block_height(self, itemsize: int) -> int:
        return min(max(BLOCK_BYTES // (self.depth * self.PW * self.N * itemsize), 1), self.PH)

    def blocks(self, itemsize: int) -> list[slice]:
        """Split the pooled rows into blocks whose columns fit the cache."""
        height = self.block_height(itemsize)
        return [slice(row, min(row + height, self.PH)) for row in range(0, self.PH, height)]

    def buffers(self, device: CpuDevice, dtype: Any) -> tuple[Array, Array]:
        """Return memory for one block's columns and its four outputs per pooled pixel."""
        pixels = self.block_height(np.dtype(dtype).itemsize) * self.PW * self.N
        return (
            device.workspace.empty(((self.depth + 1) * pixels,), dtype),
            device.workspace.empty((4 * self.F * pixels,), dtype),
        )

    # --- images with even and odd columns apart: (C, rows_held, 2, columns_held, N) --------------------------------

    def held(self, device: CpuDevice, dtype: Any) -> Array:
        return device.workspace.empty((self.C, self.rows_held, 2, self.columns_held, self.N), dtype)

    def _overlap(self, held: Array) -> list[tuple[Array, slice, slice]]:
        """Return for each parity the part of ``held`` inside the image, and its image rows and columns."""
        first_row, last_row = self.top, min(self.top + self.H, self.rows_held)
        parts = []
        for parity in (0, 1):
            first = (self.left - parity + 1) // 2
            last = min((self.left + self.W - 1 - parity) // 2, self.columns_held - 1)
            start = 2 * first + parity - self.left
            columns = slice(start, start + 2 * (last - first) + 1, 2)
            parts.append(
                (held[:, first_row:last_row, parity, first : last + 1], slice(0, last_row - first_row), columns)
            )
        return parts

    def take(self, device: CpuDevice, x: Array) -> Array:
        """Return the images (N, C, H, W) padded, with even and odd columns separated."""
        held = self.held(device, x.dtype)
        covered = self.rows_held <= self.top + self.H and self.top == self.left == 0
        if not covered or 2 * self.columns_held > self.W:
            held.fill(0)
        inner = x.transpose(1, 2, 3, 0)
        for inside, rows, columns in self._overlap(held):
            inside[...] = inner[:, rows, columns]
        return held

    def give(self, held: Array, dx: Array) -> None:
        """Write the gradient of the images, given that of ``held``: the adjoint of ``take``."""
        inner = dx.transpose(1, 2, 3, 0)
        inner[...] = 0
        for inside, rows, columns in self._overlap(held):
            inner[:, rows, columns] = inside

    def windows(self, held: Array, rows: slice) -> Array:
        """Return a (C, K2H/2, 2, K2W/2, 2, block rows, PW, N) view of the pixels that these pooled rows see."""
        sC, sR, sP, sX, sN = held.strides
        shape = (self.C, self.K2H // 2, 2, self.K2W // 2, 2, rows.stop - rows.start, self.PW, self.N)
        strides = (sC, 2 * sR, sR, sX, sP, 2 * sR, sX, sN)
        return np.ndarray(shape, held.dtype, held, 2 * rows.start * sR, strides)

    def columns(self, held: Array, rows: slice, buffer: Array) -> Array:
        """Return the (depth + 1, pixels) columns of these pooled rows; the last row is ones."""
        windows = self.windows(held, rows)
        pixels = (rows.stop - rows.start) * self.PW * self.N
        columns = buffer[: (self.depth + 1) * pixels].reshape(self.depth + 1, pixels)
        np.copyto(columns[:-1].reshape(windows.shape), windows)
        columns[-1] = 1
        return columns


def forward(
    device: CpuDevice, window: Window, x: Array, w: Array, b: Array | None, y: Array, indices: Array | None
) -> None:
    """Write y (N, F, PH, PW) and, if wanted, the argmax of the four (0 to 3), with the bit DEAD where y is 0."""
    plan = Plan(x.shape, w.shape, window)
    F = plan.F
    y = y.transpose(1, 2, 3, 0)
    indices = None if indices is None else indices.transpose(1, 2, 3, 0)
    filters, held = plan.expanded(w, b), plan.take(device, x)
    buffer, outputs = plan.buffers(device, x.dtype)
    for rows in plan.blocks(x.itemsize):
        columns = plan.columns(held, rows, buffer)
        product = outputs[: 4 * F * columns.shape[1]].reshape(4 * F, columns.shape[1])
        np.matmul(filters, columns, out=product)
        four = product.reshape(4, F, rows.stop - rows.start, plan.PW, plan.N)
        _pool(four, y[:, rows], None if indices is None else indices[:, rows])


def _pool(four: Array, y: Array, indices: Array | None) -> None:
    """Write max(four, 0) and its argmax, the first of equals. ``four`` is overwritten."""
    a, b, c, d = four
    if indices is None:
        np.maximum(a, b, out=a)
        np.maximum(c, d, out=c)
        np.maximum(a, c, out=a)
        np.maximum(a, 0, out=y)
        return
    right, right_below, below = np.greater(b, a), np.greater(d, c), np.empty(a.shape, bool)
    np.maximum(a, b, out=a)
    np.maximum(c, d, out=c)
    np.greater(c, a, out=below)
    np.maximum(a, c, out=a)
    np.maximum(a, 0, out=y)
    np.logical_xor(right, right_below, out=right_below)
    np.logical_and(right_below, below, out=right_below)
    np.logical_xor(right, right_below, out=right)  # in the upper row or, if the lower one is greater, in that
    index, dead = below.view(np.uint8), right_below.view(np.uint8)
    np.add(index, index, out=index)
    np.add(index, right.view(np.uint8), out=index)
    np.less_equal(a, 0, out=right_below)
    np.left_shift(dead, 2, out=dead)
    np.add(index, dead, out=indices)


def gradients(
    device: CpuDevice,
    window: Window,
    x: Array,
    w: Array,
    dy: Array,
    indices: Array,
    dx: Array | None,
    dw: Array | None,
    db: Array | None,
) -> None:
    """Write dL/dx, dL/dw and dL/db, as far as they are wanted."""
    plan = Plan(x.shape, w.shape, window)
    N, F = plan.N, plan.F
    held = plan.take(device, x) if dw is not None else None
    total = np.zeros((plan.depth + 1, 4 * F), x.dtype)
    filters = np.ascontiguousarray(plan.expanded(w, None)[:, :-1].T) if dx is not None else None
    dheld = plan.held(device, x.dtype) if dx is not None else None
    if dheld is not None:
        dheld.fill(0)
    gradient, winners = device.workspace.batch_last(dy), device.workspace.batch_last(indices)
    buffer, outputs = plan.buffers(device, x.dtype)
    numbers = np.arange(4, dtype=winners.dtype).reshape(4, 1, 1, 1, 1)
    for rows in plan.blocks(x.itemsize):
        four = outputs[: 4 * F * (rows.stop - rows.start) * plan.PW * N].reshape(4, F, -1, plan.PW, N)
        np.copyto(four, np.equal(winners[:, rows], numbers))
        np.multiply(four, gradient[:, rows], out=four)
        flat = four.reshape(4 * F, -1)
        if held is not None:
            add_product(total, plan.columns(held, rows, buffer), flat)
        if filters is not None:
            columns = buffer[: plan.depth * flat.shape[1]].reshape(plan.depth, flat.shape[1])
            np.matmul(filters, flat, out=columns)
            _scatter(columns, plan.windows(dheld, rows))
    if dheld is not None:
        plan.give(dheld, dx)
    if dw is not None and db is not None:
        dw[...], db[...] = plan.folded(total.T)


def _scatter(columns: Array, windows: Array) -> None:
    """Add the columns to the pixels they were taken from. At stride 2 the four elements of a 2x2 cell never overlap."""
    source = columns.reshape(windows.shape)
    for row in range(windows.shape[1]):
        for column in range(windows.shape[3]):
            seen = windows[:, row, :, column]
            np.add(seen, source[:, row, :, column], out=seen)
