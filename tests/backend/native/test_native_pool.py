"""Compiled pooling against the definition's loops, at every vector width that this processor has."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from native_kernels import LAYOUTS, Device, close, guarded, sliding, width

from gpucnn.backend import Window
from gpucnn.backend.cpu import native as calls

__all__ = ["width"]

WINDOWS = {
    "2x2": Window((2, 2), (2, 2)),
    "3x3, stride 2, padded": Window((3, 3), (2, 2), (1, 1, 1, 1)),
    "overlapping, dilated": Window((2, 3), (1, 2), (0, 1, 1, 2), (2, 1)),
    "apart": Window((2, 2), (3, 4), (1, 0, 0, 0)),
    "the whole image": Window((7, 9), (7, 9)),
    "one pixel": Window((1, 1)),
}
BATCHES = (1, 3, 16, 21)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("N", BATCHES)
@pytest.mark.parametrize("name", WINDOWS)
def test_maxima_and_their_gradients_are_the_definition_s(name: str, N: int, layout: str, width: str) -> None:
    window, device, rng = WINDOWS[name], Device(2), np.random.default_rng(N)
    x = rng.integers(-3, 4, (N, 5, 7, 9)).astype(np.float32)  # with many equal values
    x[0, 1, :4] = -np.inf
    x[-1, 2, 3, 3], x[-1, 3, 5, 4:6] = np.nan, np.nan
    X = guarded(device, x, layout)
    y, indices = calls.max_pool2d(device, X, window)
    assert indices is not None
    dy = rng.standard_normal(y.shape, np.float32)
    expected, dx = oracles.max_pool2d(x, dy, sliding(window))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(calls.max_pool2d(device, X, window, False)[0], expected)
    ours = calls.max_pool2d_gradient(
        device, guarded(device, dy, layout), guarded(device, indices, layout), x.shape, window
    )
    close(ours, dx, "dx")
    device.check()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("N", BATCHES)
@pytest.mark.parametrize("name", WINDOWS)
def test_means_and_their_gradients_are_the_definition_s(name: str, N: int, layout: str, width: str) -> None:
    window, device, rng = WINDOWS[name], Device(2), np.random.default_rng(N)
    x = rng.standard_normal((N, 5, 7, 9), np.float32)
    OH, OW = window.output_size(7, 9)
    dy = rng.standard_normal((N, 5, OH, OW), np.float32)
    counts = [int(n) for n in rng.integers(1, 5, OH)], [int(n) for n in rng.integers(1, 5, OW)]
    for divisor, each in ((4.0, np.full((OH, OW), 4.0)), (counts, np.outer(*counts))):
        y, dx = np.zeros(dy.shape), np.zeros(x.shape)
        for (oh, ow), _, (h, w) in sliding(window).seen(7, 9):
            y[:, :, oh, ow] += x[:, :, h, w] / each[oh, ow]
            dx[:, :, h, w] += dy[:, :, oh, ow] / each[oh, ow]
        close(calls.avg_pool2d(device, guarded(device, x, layout), window, divisor), y, "y")
        close(calls.avg_pool2d_gradient(device, guarded(device, dy, layout), x.shape, window, divisor), dx, "dx")
    device.check()


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_the_number_of_threads_does_not_change_a_bit(threads: int, width: str) -> None:
    rng = np.random.default_rng(0)
    x, window = rng.standard_normal((33, 16, 17, 16), np.float32), WINDOWS["3x3, stride 2, padded"]
    results = []
    for count in (1, threads):
        device = Device(count)
        y, indices = calls.max_pool2d(device, x, window)
        results.append([y, indices, calls.max_pool2d_gradient(device, y, indices, x.shape, window)])
        results[-1].append(calls.avg_pool2d(device, x, window, 9.0))
        results[-1].append(calls.avg_pool2d_gradient(device, y, x.shape, window, 9.0))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
