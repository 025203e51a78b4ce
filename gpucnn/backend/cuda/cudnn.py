"""Convolutions in TF32 by cuDNN, where its Python package is installed (extra ``cudnn``) and ``GPUCNN_CUDNN`` is not 0.

Each convolution is a graph of cuDNN with one operation. It is built when its shapes first occur, and held against our
kernels before it is used. Plans that sum in another order from run to run are left out. In float32 our kernels serve: the
plans that cuDNN proposes first for that compute in TF32.
"""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda import conv
from gpucnn.backend.cuda.blas import product
from gpucnn.backend.cuda.conv import Shape
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.cuda.proof import CLOSE_TF32, distrust
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.backend.geometry import Window
from gpucnn.errors import DeviceError, how_to_add

MOST_PLANS = 512
"""The most plans that are kept on a device. Further shapes are left to our kernels."""
FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = "conv_fprop", "conv_dgrad", "conv_wgrad"


@dataclass
class Plan:
    """One convolution for one set of shapes: its graph, and what stands in it for its two inputs and its result."""

    graph: Any
    inputs: tuple[Any, Any]
    result: Any
    shapes: tuple[Shape, Shape, Shape]
    workspace: int


class _CuDNN:
    """cuDNN on one device. Threads share its handle, one at a time."""

    def __init__(self, module: Any) -> None:
        self.module, self.lock = module, threading.Lock()
        self.plans: dict[Any, Plan | None] = {}
        self._handle: Any = None

    @property
    def handle(self) -> Any:
        if self._handle is None:
            self._handle = self.module.create_handle()
        return self._handle


_devices: weakref.WeakKeyDictionary[CudaDevice, _CuDNN | None] = weakref.WeakKeyDictionary()


def _of(device: CudaDevice) -> _CuDNN | None:
    """Return cuDNN on a device; None if there is none or it is not wanted; DeviceError if it must be there."""
    if device not in _devices:
        wanted = os.environ.get("GPUCNN_CUDNN", "")
        try:
            module = None if wanted == "0" else importlib.import_module("cudnn")
        except Exception as error:  # the package, or a library that it loads, is missing or does not fit
            if wanted == "1":
                why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                raise DeviceError(f"GPUCNN_CUDNN=1, but cuDNN cannot be used ({why}). {how_to_add('cudnn')}.") from None
            module = None
        _devices[device] = None if module is None else _CuDNN(module)
    return _devices[device]


# --- plans -----------------------------------------------------------------------------------------------------------


def build(cudnn: Any, kind: str, x: Shape, w: Shape, window: Window, **place: Any) -> Plan:
    """Return cuDNN's plan of a convolution. ``place``: the handle for which it is built."""
    number = cudnn.data_type.FLOAT
    graph = cudnn.pygraph(io_data_type=number, intermediate_data_type=number, compute_data_type=number, **place)
    y = (x[0], w[0], *window.output_size(*x[2:]))
    shapes = {FORWARD: (x, w, y), INPUT_GRADIENT: (y, w, x), WEIGHT_GRADIENT: (x, y, w)}[kind]
    first, second = (
        graph.tensor(name=name, dim=list(shape), stride=strides(shape), data_type=number)
        for name, shape in zip(("first", "second"), shapes[:2], strict=True)
    )
    top, bottom, left, right = window.padding
    how = {
        "pre_padding": [top, left], "post_padding": [bottom, right], "stride": list(window.stride),
        "dilation": list(window.dilation), "name": kind,
    }  # fmt: skip
    if kind == FORWARD:
        result = graph.conv_fprop(image=first, weight=second, **how)
    elif kind == INPUT_GRADIENT:
        result = graph.conv_dgrad(loss=first, filter=second, **how)
    else:
        result = graph.conv_wgrad(image=first, loss=second, **how)
    result.set_output(True).set_data_type(number).set_dim(list(shapes[2])).set_stride(strides(shapes[2]))
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A])
    notes = cudnn.numerical_note
    graph.deselect_numeric_notes([notes.NONDETERMINISTIC, notes.REDUCED_PRECISION_REDUCTION, notes.FFT, notes.WINOGRAD])
    graph.build_plans()
    return Plan(graph, (first, second), result, shapes, int(graph.get_workspace_size()))


def strides(shape: Shape) -> list[int]:
    """Return the strides, in elements, of a C-ordered array."""
    return [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]


def _plan(device: CudaDevice, kind: str, x: Shape, w: Shape, window: Window, groups: int) -> Plan | None:
    """Return the plan of a convolution, which has given correct results for these shapes; None if cuDNN does not serve."""
    if not device.in_tf32 or groups != 1:
        return None
    cudnn = _of(device)
    if cudnn is None:
        return None
    key = kind, x, w, window
    if key not in cudnn.plans:
        capture = device.capture_state
        if len(cudnn.plans) >= MOST_PLANS or (capture is not None and capture.mode == "capture"):
            return None  # nothing can be built in a capture; the eager run before it builds
        why = None
        cudnn.plans[key] = None
        try:
            with device.active():
                plan = build(cudnn.module, kind, x, w, window, handle=cudnn.handle)
                if not _agrees(device, kind, plan, window):
                    why = f"{kind} of {x} with {w} gives a wrong result"
                else:
                    cudnn.plans[key] = plan
        except MemoryError:  # nothing is known about the plan
            del cudnn.plans[key]
        except Exception as error:  # whatever cuDNN raises
            unsupported = getattr(cudnn.module, "cudnnGraphNotSupportedError", None)
            if unsupported is None or not isinstance(error, unsupported):
                why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        if why is not None:
            distrust(device, {"cudnn": why})
    return cudnn.plans.get(key)


def _agrees(device: CudaDevice, kind: str, plan: Plan, window: Window) -> bool:
    """Hold a plan against our kernels, on small integers, which TF32 represents exactly."""
    first, second = (_integers(device, shape, most) for shape, most in zip(plan.shapes, (7, 5), strict=False))
    found = _run(device, plan, first, second)
    if kind == FORWARD:
        wanted = conv.forward(device, first, second, None, window, 1)
    elif kind == INPUT_GRADIENT:
        wanted = conv.input_gradient(device, first, None, second, plan.shapes[2], window, 1)
    else:
        wanted, _ = conv.weight_gradient(device, first, second, None, plan.shapes[2], window, 1)
    largest = float(abs(wanted).max())
    return bool(float(abs(found - wanted).max()) <= CLOSE_TF32 * max(largest, 1))  # NaN: False


def _integers(device: CudaDevice, shape: Shape, most: int) -> Array:
    count = int(np.prod(shape, dtype=np.int64))
    return (device.xp.arange(count, dtype=np.int32) * 5 % 11 % most - most // 2).astype(np.float32).reshape(shape)


def _run(device: CudaDevice, plan: Plan, first: Array, second: Array) -> Array:
    cudnn = _devices[device]
    assert cudnn is not None
    result = device.empty("cuDNN", plan.shapes[2], np.float32)
    workspace = device.empty("cuDNN", (max(plan.workspace, 1),), np.uint8)
    arrays = {plan.inputs[0]: first.data.ptr, plan.inputs[1]: second.data.ptr, plan.result: result.data.ptr}
    with cudnn.lock:
        cudnn.module.set_stream(cudnn.handle, device.xp.cuda.get_current_stream().ptr)
        plan.graph.execute(arrays, workspace.data.ptr, handle=cudnn.handle)
    return result


# --- implementations -------------------------------------------------------------------------------------------------


def _forward_serves(device: CudaDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> bool:
    takes = device.in_tf32 and conv.takes(device, x.shape, w.shape, window, groups, x, w, b)
    return takes and _plan(device, FORWARD, x.shape, w.shape, window, groups) is not None


def _input_gradient_serves(
    device: CudaDevice, dy: Array, w: Array, shape: Shape, window: Window, groups: int = 1
) -> bool:
    takes = device.in_tf32 and conv.takes(device, shape, w.shape, window, groups, dy, w)
    return takes and _plan(device, INPUT_GRADIENT, shape, w.shape, window, groups) is not None


def _weight_gradient_serves(
    device: CudaDevice, x: Array, dy: Array, shape: Shape, window: Window, groups: int = 1
) -> bool:
    takes = device.in_tf32 and conv.takes(device, x.shape, shape, window, groups, x, dy)
    return takes and _plan(device, WEIGHT_GRADIENT, x.shape, shape, window, groups) is not None


def _served(device: CudaDevice, kind: str, x: Shape, w: Shape, window: Window, first: Array, second: Array) -> Array:
    plan = _plan(device, kind, x, w, window, 1)
    assert plan is not None  # the condition has built it
    return _run(device, plan, *device.contiguous(first, second))


@implements(ops.conv2d, on="cuda", when=_forward_serves, first=True)
def conv2d(device: CudaDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> Array:
    y = _served(device, FORWARD, x.shape, w.shape, window, x, w)
    if b is not None:
        y += b.reshape(-1, 1, 1)
    return y


@implements(ops.conv2d_input_gradient, on="cuda", when=_input_gradient_serves, first=True)
def conv2d_input_gradient(
    device: CudaDevice, dy: Array, w: Array, shape: Shape, window: Window, groups: int = 1
) -> Array:
    return _served(device, INPUT_GRADIENT, shape, w.shape, window, dy, w)


@implements(ops.conv2d_weight_gradient, on="cuda", when=_weight_gradient_serves, first=True)
def conv2d_weight_gradient(
    device: CudaDevice, x: Array, dy: Array, shape: Shape, window: Window, groups: int = 1
) -> tuple[Array, Array]:
    dw = _served(device, WEIGHT_GRADIENT, x.shape, shape, window, x, dy)
    N, F, OH, OW = dy.shape
    (dy,) = device.contiguous(dy)
    of_images = product(device, dy.reshape(N * F, OH * OW), device.xp.ones((OH * OW, 1), dy.dtype)).reshape(N, F)
    return dw, product(device, device.xp.ones((1, N), dy.dtype), of_images).reshape(F)
