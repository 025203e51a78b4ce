"""Convolution (cross-correlation, as in every framework) by im2col and one matrix product, and its gradients."""

from __future__ import annotations

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation
from gpucnn.backend.geometry import Cut, Shape, Window

# --- im2col ----------------------------------------------------------------------------------------------------------


def pad(device: Device, x: Array, window: Window, fill: float = 0) -> Array:
    """Return ``x`` with the window's padding around its last two axes."""
    top, bottom, left, right = window.padding
    if not any(window.padding):
        return x
    return device.xp.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)


def patches_of(device: Device, x: Array, window: Window, fill: float = 0) -> Array:
    """Return a (N, C, OH, OW, KH, KW) view of the padded image: the pixels that each window sees."""
    N, C, H, W = x.shape
    OH, OW = window.output_size(H, W)
    (KH, KW), (SH, SW), (DH, DW) = window.kernel, window.stride, window.dilation
    padded = pad(device, x, window, fill)
    sN, sC, sH, sW = padded.strides
    return device.xp.lib.stride_tricks.as_strided(
        padded, (N, C, OH, OW, KH, KW), (sN, sC, sH * SH, sW * SW, sH * DH, sW * DW)
    )


def sum_of_patches(device: Device, patches: Array, shape: Shape, window: Window) -> Array:
    """Sum (N, C, OH, OW, KH, KW) patches into an image of ``shape``: the adjoint of ``patches_of``."""
    N, C, H, W = shape
    KH, KW = window.kernel
    top, _, left, _ = window.padding
    size = window.output_size(H, W)
    padded = device.xp.zeros((N, C, *window.padded_size(H, W)), patches.dtype)
    for kh in range(KH):
        for kw in range(KW):
            padded[(..., *_seen(window, size, kh, kw))] += patches[..., kh, kw]
    return device.xp.ascontiguousarray(padded[:, :, top : top + H, left : left + W])


def _seen(window: Window, size: tuple[int, int], kh: int, kw: int) -> Cut:
    """Return the rows and columns of the padded image that kernel element (kh, kw) sees."""
    (OH, OW), (SH, SW), (DH, DW) = size, window.stride, window.dilation
    row, column = kh * DH, kw * DW
    return slice(row, row + SH * (OH - 1) + 1, SH), slice(column, column + SW * (OW - 1) + 1, SW)


@operation()
def im2col(device: Device, x: Array, window: Window) -> Array:
    """Return the (N*OH*OW, C*KH*KW) matrix with one window in each row, ordered channel, row, column."""
    patches = patches_of(device, x, window)
    N, C, OH, OW, KH, KW = patches.shape
    return patches.transpose(0, 2, 3, 1, 4, 5).reshape(N * OH * OW, C * KH * KW)


@operation(widens=True)
def col2im(device: Device, columns: Array, shape: Shape, window: Window) -> Array:
    """Add each row of ``columns`` back to the pixels it came from: the adjoint of ``im2col``."""
    N, C, H, W = shape
    OH, OW = window.output_size(H, W)
    KH, KW = window.kernel
    patches = columns.reshape(N, OH, OW, C, KH, KW).transpose(0, 3, 1, 2, 4, 5)
    return sum_of_patches(device, patches, shape, window)


# --- the convolution and its gradients -------------------------------------------------------------------------------


@operation(widens=True)
def conv2d(device: Device, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> Array:
    """Return y (N, F, OH, OW): the inner product of each window with each filter of its group, plus the bias."""
    F, G, N = w.shape[0], groups, x.shape[0]
    OH, OW = window.output_size(*x.shape[2:])
    y = device.xp.matmul(_grouped_columns(device, x, window, G), _grouped_filters(w, G).transpose(0, 2, 1))
    y = y.transpose(0, 2, 1).reshape(F, N, OH, OW).transpose(1, 0, 2, 3)
    return device.xp.ascontiguousarray(y if b is None else y + b[:, None, None])


@operation(widens=True)
def conv2d_input_gradient(device: Device, dy: Array, w: Array, shape: Shape, window: Window, groups: int = 1) -> Array:
    """Return dL/dx of ``shape``: each output pixel adds dL/dy times its filter to the window it saw."""
    columns = device.xp.matmul(_grouped_outputs(dy, groups), _grouped_filters(w, groups))
    G, P, K = columns.shape
    return col2im(device, columns.transpose(1, 0, 2).reshape(P, G * K), shape, window)


@operation(widens=True)
def conv2d_weight_gradient(
    device: Device, x: Array, dy: Array, shape: Shape, window: Window, groups: int = 1
) -> tuple[Array, Array]:
    """Return dL/dw of ``shape``, the sum of the windows weighted by dL/dy, and dL/db (F,)."""
    columns = _grouped_columns(device, x, window, groups)
    outputs = _grouped_outputs(dy, groups)
    dw = device.xp.matmul(outputs.transpose(0, 2, 1), columns)
    return dw.reshape(shape), outputs.sum(1).reshape(shape[0])


def _grouped_columns(device: Device, x: Array, window: Window, groups: int) -> Array:
    """Return (G, N*OH*OW, C/G*KH*KW)."""
    columns = im2col(device, x, window)
    P, K = columns.shape
    return columns.reshape(P, groups, K // groups).transpose(1, 0, 2)


def _grouped_filters(w: Array, groups: int) -> Array:
    """Return (G, F/G, C/G*KH*KW)."""
    F, CG, KH, KW = w.shape
    return w.reshape(groups, F // groups, CG * KH * KW)


def _grouped_outputs(dy: Array, groups: int) -> Array:
    """Return (G, N*OH*OW, F/G)."""
    N, F, OH, OW = dy.shape
    return dy.transpose(1, 0, 2, 3).reshape(groups, F // groups, N * OH * OW).transpose(0, 2, 1)


@operation()
def add_channel_bias(device: Device, x: Array, b: Array) -> Array:
    """Return (N, C, H, W) with b (C,) added to each channel."""
    return x + b[:, None, None]
