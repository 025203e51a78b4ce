"""What the kernels of several backends are tried on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpucnn.backend import Backend, Window

CONVOLUTIONS: dict[str, tuple[Any, ...]] = {  # (N, C, H, W), F, window, groups
    "tile of 8": ((3, 2, 9, 7), 5, Window((3, 3), (1, 1), (1, 1, 1, 1)), 1),
    "two tiles of 16": ((2, 20, 9, 8), 19, Window((3, 2), (1, 1), (1, 0, 1, 1)), 1),
    "two tiles of 64": ((2, 66, 7, 9), 70, Window((3, 3), (1, 1), (1, 1, 1, 1)), 1),
    "64 filters of one channel, stride 2": ((2, 1, 15, 13), 64, Window((5, 5), (2, 2), (2, 2, 2, 2)), 1),
    "stride 3, dilation 2": ((2, 3, 17, 16), 9, Window((3, 3), (3, 2), (2, 1, 0, 3), (2, 2)), 1),
    "groups of wide tiles": ((1, 80, 6, 6), 72, Window((3, 3), (1, 1), (1, 1, 1, 1)), 2),
    "one filter for each channel": ((2, 12, 8, 8), 12, Window((3, 3), (1, 1), (1, 1, 1, 1)), 12),
    "many pixels": ((3, 2, 40, 33), 6, Window((3, 3), (1, 1), (0, 0, 0, 0)), 1),
    "one pixel": ((1, 1, 1, 1), 1, Window((1, 1)), 1),
}


def convolution_calls(
    backend: Backend, rng: np.random.Generator, window: Window, groups: int, N: int, dtype: Any
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield the name and arguments of every kernel of a convolution of N images; ``backend`` says what shapes come out."""
    x = rng.standard_normal((N, 4, 11, 9), dtype)
    w = rng.standard_normal((6, 4 // groups, *window.kernel), dtype)
    b = rng.standard_normal(6, dtype)
    dy = rng.standard_normal(backend.conv2d(x, w, b, window, groups).shape, dtype)
    yield "conv2d", (x, w, b, window, groups)
    yield "conv2d_input_gradient", (dy, w, x.shape, window, groups)
    yield "conv2d_weight_gradient", (x, dy, w.shape, window, groups)
    if groups == 1:
        y, place = backend.conv2d_relu_max_pool2d(x, w, b, window, 1)
        gradient = rng.standard_normal(y.shape, dtype)
        yield "conv2d_relu_max_pool2d", (x, w, b, window, 1)
        for requires_grad in ((True, True), (True, False), (False, True)):
            yield "conv2d_relu_max_pool2d_gradients", (x, w, gradient, place, window, 1, requires_grad)


def results_of(backends: tuple[Backend, ...], name: str, arguments: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield each array that a kernel returns, as every backend has it; what none of them returns is left out."""
    results = [getattr(backend, name)(*arguments) for backend in backends]
    for arrays in zip(*(r if isinstance(r, tuple) else (r,) for r in results), strict=True):
        missing = [array is None for array in arrays]
        assert all(missing) == any(missing), name
        if not any(missing):
            yield arrays
