"""Small cases of every kernel, on which it is held against the reference (``proof``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.device import Device
from gpucnn.backend.dispatch import Operation
from gpucnn.backend.geometry import Window
from gpucnn.backend.precision import HALF

WIDE_ARGUMENTS: dict[str, tuple[int, ...]] = {
    "conv2d": (), "conv2d_input_gradient": (), "conv2d_weight_gradient": (), "conv2d_relu_max_pool2d": (),
    "conv2d_relu_max_pool2d_gradients": (), "im2col": (), "col2im": (), "max_pool2d": (), "max_pool2d_gradient": (),
    "avg_pool2d": (), "avg_pool2d_gradient": (), "linear": (), "linear_parameter_gradients": (), "matmul": (),
    "batch_norm": (), "batch_norm_inference": (1, 2), "batch_norm_gradients": (4, 5), "relu": (), "relu_gradient": (),
    "copy_all": (), "gather": (2, 3), "gather_next": (5, 6), "update_metrics": (1,),
}  # fmt: skip
"""Operations whose kernels take float16, and the places of those of their arguments that are float32 then too."""

WIDE = (
    ((2, 16, 6, 9), 16, Window((3, 3), (1, 1), (1, 1, 1, 1))), ((2, 32, 7, 6), 32, Window((3, 3), (1, 1), (1, 1, 1, 1))),
    ((2, 80, 4, 5), 64, Window((3, 3), (1, 1), (1, 1, 1, 1))), ((2, 48, 7, 8), 80, Window((3, 3), (2, 2), (1, 1, 1, 1))),
)  # fmt: skip
"""Shapes, filters and windows of convolutions that together launch every wide kernel."""


class Host(Device):
    """The references on NumPy."""

    xp = np


@dataclass
class Case:
    """One call of an operation, on host arrays."""

    operation: Operation[..., Any]
    arguments: Sequence[Any]
    named: dict[str, Any] = field(default_factory=dict)


def cases(seed: int = 0) -> list[Case]:
    """Return cases that together launch every kernel."""
    rng = np.random.default_rng(seed)

    def some(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    def positive(*shape: int) -> Any:
        return (rng.random(shape) + 0.5).astype(np.float32)

    found: list[Case] = []

    def add(operation: Any, *arguments: Any, **named: Any) -> None:
        found.append(Case(operation, arguments, named))

    host = Host()
    for F, groups, window in (
        (5, 1, Window((3, 3), (1, 1), (1, 1, 1, 1))), (20, 2, Window((3, 2), (2, 1))), (40, 1, Window((1, 3))),
    ):  # fmt: skip
        shape, w = (2, F if F > 5 else 4, 8, 9), some(F, (F if F > 5 else 4) // groups, *window.kernel)
        x, b, dy = some(*shape), some(F), some(2, F, *window.output_size(8, 9))
        add(ops.conv2d, x, w, b, window, groups)
        add(ops.conv2d_input_gradient, dy, w, shape, window, groups)
        add(ops.conv2d_weight_gradient, x, dy, w.shape, window, groups)
        add(ops.conv2d_relu_max_pool2d, x, w, b, window, groups)
        pooled, indices = ops.conv2d_relu_max_pool2d(host, x, w, b, window, groups)
        indices = indices.astype(np.uint8)  # type: ignore[union-attr]
        add(ops.conv2d_relu_max_pool2d_gradients, x, w, some(*pooled.shape), indices, window, groups, (True, True))
    for shape, F, window in WIDE:
        x, w, b, dy = (
            some(*shape),
            some(F, shape[1], *window.kernel),
            some(F),
            some(2, F, *window.output_size(*shape[2:])),
        )
        add(ops.conv2d, x, w, b, window)
        add(ops.conv2d_input_gradient, dy, w, shape, window)
        add(ops.conv2d_weight_gradient, x, dy, w.shape, window)
        add(ops.conv2d_relu_max_pool2d, x, w, b, window, 1)
        pooled, indices = ops.conv2d_relu_max_pool2d(host, x, w, b, window, 1)
        indices = indices.astype(np.uint8)  # type: ignore[union-attr]
        add(ops.conv2d_relu_max_pool2d_gradients, x, w, some(*pooled.shape), indices, window, 1, (True, True))
    window = Window((3, 3), (1, 1), (1, 1, 1, 1))
    columns = ops.im2col(host, some(2, 3, 6, 6), window)
    add(ops.im2col, some(2, 3, 6, 6), window)
    add(ops.col2im, some(*columns.shape), (2, 3, 6, 6), window)
    for window in (Window((2, 3), (2, 1)), Window((16, 16), (16, 16))):
        x = some(2, 3, 17, 17)
        y, indices = ops.max_pool2d(host, x, window)
        indices = indices.astype(np.uint8 if window.kernel == (2, 3) else np.int32)  # type: ignore[union-attr]
        add(ops.max_pool2d, x, window)
        add(ops.max_pool2d_gradient, some(*y.shape), indices, x.shape, window)
        add(ops.avg_pool2d, x, window, float(np.prod(window.kernel)))
        add(ops.avg_pool2d_gradient, some(*y.shape), x.shape, window, float(np.prod(window.kernel)))
    for M, N in ((7, 10), (64 * 12, 64 * 11), (128 * 12, 128 * 11)):
        x, w, dy = some(M, 9), some(N, 9), some(M, N)
        add(ops.linear, x, w, some(N))
        add(ops.linear_parameter_gradients, some(5, N), some(5, M))
        add(ops.matmul, x, some(9, N))
    add(ops.matmul, some(3, 5, 9), some(3, 7, 9).swapaxes(1, 2))
    add(ops.matmul, some(5, 9).astype(np.float64).T, some(5, 7).astype(np.float64))
    x, y, weight, bias, mean, var = some(3, 4, 5, 6), some(3, 4, 5, 6), some(4), some(4), some(4), positive(4)
    add(ops.batch_norm, x, weight, bias, y, 1e-5, True)
    add(ops.batch_norm_inference, x, mean, var, weight, bias, None, 1e-5, False)
    add(ops.batch_norm_gradients, some(3, 4, 5, 6), x, y, weight, mean, positive(4), True)
    add(ops.batch_norm_gradients, some(3, 4, 5, 6), x, None, weight, mean, positive(4), False)
    add(ops.update_running_statistics, some(4), positive(4), mean, var, 90, 0.1)
    add(ops.relu, some(700))
    add(ops.relu_gradient, some(700), some(700))
    add(ops.cross_entropy, some(6, 40), rng.integers(0, 40, 6), True)
    add(ops.mean_loss, some(300), 300.0)
    add(ops.scale, some(300), np.array(0.7, np.float32), 3.0)
    add(ops.set_numbers, np.zeros(2), (0.1, 0.9))
    add(ops.copy_all, [(np.zeros(n, np.float32), some(n)) for n in range(1, 15)])
    sgd = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    add(ops.sgd_update, some(300), some(300), some(300), **sgd)
    adam = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01, "step": np.array([3.0])}
    add(ops.adam_update, some(300), some(300), some(300), positive(300), **adam, where=np.array(True))
    images, scale, shift = rng.integers(0, 255, (9, 2, 3, 3)).astype(np.uint8), positive(2), some(2)
    add(ops.gather, images, np.array([3, 8, 0, 3]), scale, shift, np.float32)
    labels, order = rng.integers(0, 5, 9), rng.permutation(9)
    add(ops.gather_next, images, labels, order, np.array([2.0]), 4, scale, shift, np.float32)
    add(ops.update_metrics, np.zeros(4), np.array(0.3, np.float32), some(9, 5), labels)
    return found


def half_cases(seed: int = 0) -> list[Case]:
    """Return the cases of ``cases`` for kernels that read and write float16."""
    found = []
    for case in cases(seed):
        kept = WIDE_ARGUMENTS.get(case.operation.name)
        if kept is None:
            continue
        arguments = [one if i in kept else _halved(one) for i, one in enumerate(case.arguments)]
        if any(new is not old for new, old in zip(arguments, case.arguments, strict=True)):  # one of float64 stays so
            found.append(Case(case.operation, arguments, case.named))
    return found


def _halved(argument: Any) -> Any:
    if argument is np.float32:  # the dtype that is wanted
        return np.float16
    return mapped(argument, lambda array: array.astype(HALF) if array.dtype == np.float32 else array)


def mapped(found: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(found, np.ndarray):
        return change(found)
    if isinstance(found, dict):
        return {key: mapped(value, change) for key, value in found.items()}
    if type(found) in (tuple, list):
        return type(found)(mapped(value, change) for value in found)
    return found
