"""Convolutions with ``GPUCNN_AUTOTUNE=1``: the fastest of the implementations that serve, by timing each once."""

from __future__ import annotations

from functools import partial
from typing import Any

from gpucnn.backend import ops
from gpucnn.backend.cuda.conv import Shape, takes
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import Operation, implements
from gpucnn.backend.geometry import Window
from gpucnn.backend.precision import is_half


def _tunes(device: CudaDevice, groups: int) -> bool:
    return device.autotuner is not None and not device.proving and groups == 1


def _forward_serves(device: CudaDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> bool:
    return _tunes(device, groups) and takes(device, x.shape, w.shape, window, groups, x, w, b)


def _input_gradient_serves(
    device: CudaDevice, dy: Array, w: Array, shape: Shape, window: Window, groups: int = 1
) -> bool:
    return _tunes(device, groups) and takes(device, shape, w.shape, window, groups, dy, w)


def _weight_gradient_serves(
    device: CudaDevice, x: Array, dy: Array, shape: Shape, window: Window, groups: int = 1
) -> bool:
    return _tunes(device, groups) and takes(device, x.shape, shape, window, groups, x, dy)


def _fastest(operation: Operation[..., Any], device: CudaDevice, *arguments: Any) -> Any:
    """Run the fastest implementation of ``operation``; the reference if all others are switched off."""
    half = is_half(arguments[0])
    candidates = {
        function.__module__.rpartition(".")[2]: partial(function, device, *arguments)
        for serves, function in operation.implementations[device.kind]
        if function.__module__ != __name__
        and (not half or function in operation.reads_half)
        and (serves is None or serves(device, *arguments))
    }
    if not candidates:
        return operation.reference(device, *arguments)
    precision = ["float16"] if half else ["tf32"] if device.in_tf32 else []
    case = (operation.name, *(getattr(one, "shape", one) for one in arguments), *precision)
    assert device.autotuner is not None
    return device.autotuner.run(case, candidates)


@implements(ops.conv2d, on="cuda", when=_forward_serves, first=True, half=True)
def conv2d(device: CudaDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> Array:
    return _fastest(ops.conv2d, device, x, w, b, window, groups)


@implements(ops.conv2d_input_gradient, on="cuda", when=_input_gradient_serves, first=True, half=True)
def conv2d_input_gradient(
    device: CudaDevice, dy: Array, w: Array, shape: Shape, window: Window, groups: int = 1
) -> Array:
    return _fastest(ops.conv2d_input_gradient, device, dy, w, shape, window, groups)


@implements(ops.conv2d_weight_gradient, on="cuda", when=_weight_gradient_serves, first=True, half=True)
def conv2d_weight_gradient(
    device: CudaDevice, x: Array, dy: Array, shape: Shape, window: Window, groups: int = 1
) -> tuple[Array, Array]:
    found: tuple[Array, Array] = _fastest(ops.conv2d_weight_gradient, device, x, dy, shape, window, groups)
    return found
