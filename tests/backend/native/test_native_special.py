"""NaN, infinities, subnormal numbers and signed zeros come out of compiled kernels as the references have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from native_kernels import Host, width

from gpucnn.backend import Window, ops
from gpucnn.backend.cpu import CpuDevice
from gpucnn.backend.device import Device

__all__ = ["width"]

POOL, OVERLAPPING = Window((2, 2), (2, 2)), Window((3, 3), (2, 2), (1, 1, 1, 1))
AXES = (0, 2, 3)


class Reference(Device):
    """A device that no fast implementation is registered for."""

    name, xp = "cpu", np


def pooled(device: Device, x: Host, window: Window) -> tuple[Any, ...]:
    y, indices = ops.max_pool2d(device, x, window)
    return y, indices, ops.max_pool2d_gradient(device, y, indices, x.shape, window)


def normalised(device: Device, x: Host) -> tuple[Any, ...]:
    y, mean, _, factor = ops.batch_norm(device, x, None, None, None, 1e-5, False)
    gradients = ops.batch_norm_gradients(device, x[:, :, ::-1].copy(), x, None, None, mean, factor, False)
    return y, factor, gradients[0]


KERNELS: dict[str, Callable[[Device, Host], tuple[Any, ...]]] = {
    "max-pooling": lambda device, x: pooled(device, x, POOL),
    "overlapping max-pooling": lambda device, x: pooled(device, x, OVERLAPPING),
    "average pooling": lambda device, x: (
        ops.avg_pool2d(device, x, OVERLAPPING, 9.0),
        ops.avg_pool2d_gradient(device, ops.avg_pool2d(device, x, OVERLAPPING, 9.0), x.shape, OVERLAPPING, 9.0),
    ),
    "batch norm": normalised,
    "ReLU": lambda device, x: (ops.relu(device, x), ops.relu_gradient(device, x, ops.relu(device, x))),
    "convolution": lambda device, x: (
        ops.conv2d(device, x, np.full((3, 4, 3, 3), 0.5, np.float32), np.ones(3, np.float32), Window((3, 3))),
        ops.conv2d_input_gradient(
            device, x, np.full((4, 2, 3, 3), 0.5, np.float32), (len(x), 2, 34, 34), Window((3, 3))
        ),
        *ops.conv2d_weight_gradient(device, x, x[:, :2, 2:, 2:].copy(), (2, 4, 3, 3), Window((3, 3))),
    ),
}


@pytest.mark.parametrize("N", [1, 3, 16])
@pytest.mark.parametrize("what", ["NaN", "infinity", "both infinities", "subnormal", "largest", "zeros of both signs"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_special_numbers(kernel: str, what: str, N: int, width: str) -> None:
    rng = np.random.default_rng(0)
    x = np.ascontiguousarray(rng.standard_normal((4, 32, 32, N), np.float32)).transpose(3, 0, 1, 2)
    if what == "subnormal":
        x = x * np.float32(1e-39)
    elif what == "zeros of both signs":
        x = np.copysign(np.float32(0), x)
    else:
        bad = {
            "NaN": [np.nan],
            "infinity": [np.inf],
            "both infinities": [np.inf, -np.inf],
            "largest": [3.4e38, -3.4e38],
        }
        for i, value in enumerate(bad[what]):
            x[N // 2, 1, 5 + i, 7] = value
    if (kernel, what) == ("convolution", "largest"):
        pytest.skip("whether such sums are NaN or infinite depends on their order")
    ours, theirs = CpuDevice(2), Reference()
    with np.errstate(all="ignore"):
        found, expected = KERNELS[kernel](ours, x), KERNELS[kernel](theirs, x)
    assert any(name.endswith(".fast") for name in ours.ran)
    if (kernel, what) == ("batch norm", "largest"):
        found, expected = found[:2], expected[:2]  # whether sums in the gradient overflow depends on their order
    for one, other in zip(found, expected, strict=True):
        tolerance = (
            1e-5 * np.abs(other[np.isfinite(other)]).max(initial=0)
            if what != "subnormal" or other.max() > 1e-30
            else 1e-43
        )
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("what", ["stride", "dilation"])
def test_windows_beyond_the_kernels_numbers_are_the_references(what: str) -> None:
    big = 1 << 31
    x, w = np.ones((2, 1, 4, 4), np.float32), np.ones((1, 1, 1, 1), np.float32)
    window = {
        "stride": Window((2, 2), (big, 2)),
        "dilation": Window((1, 1), dilation=(big, 1)),
    }[what]
    device = CpuDevice(1)
    assert device.kernels is not None
    for got, expected in zip(pooled(device, x, window)[:1], pooled(Reference(), x, window)[:1], strict=True):
        np.testing.assert_array_equal(got, expected)
    if what != "stride":
        np.testing.assert_array_equal(
            ops.conv2d(device, x, w, None, window), ops.conv2d(Reference(), x, w, None, window)
        )
    np.testing.assert_array_equal(ops.avg_pool2d(device, x, window, 1.0), ops.avg_pool2d(Reference(), x, window, 1.0))
