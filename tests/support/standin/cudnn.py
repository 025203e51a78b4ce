"""cuDNN's Python package for the stand-in: graphs of one convolution, by the signatures of its `pygraph`, on NumPy.

Strict where the real one is: the order of the steps, keywords, strides, dimensions that do not fit, memory that is not the
device's, a workspace that is too small, another stream than the current one, a plan that is built while a stream captures.
"""

import enum
import types
from importlib.machinery import ModuleSpec
from typing import Any, Self

import numpy as np

from gpucnn.backend import Device, Window, ops

from . import addresses, capture, devices
from .counters import launches, streams
from .cublas import _in_tf32

WORKSPACE = 96
STEPS = ("validate", "build_operation_graph", "create_execution_plans", "deselect_numeric_notes", "build_plans")


class data_type(enum.Enum):
    FLOAT = 0


class heur_mode(enum.Enum):
    A = 0


numerical_note = enum.Enum("numerical_note", "NONDETERMINISTIC REDUCED_PRECISION_REDUCTION FFT WINOGRAD")


class cudnnGraphNotSupportedError(RuntimeError):
    pass


class Handle:
    def __init__(self) -> None:
        self.device, self.stream = devices.current(), 0


def create_handle() -> Handle:
    capture.refuse("a cuDNN handle is made")
    return Handle()


def set_stream(handle: Handle, stream: int) -> None:
    handle.stream = stream


class Tensor:
    def __init__(self, dim: list[int], stride: list[int]) -> None:
        self.dim, self.stride, self.is_output = dim, stride, False

    def set_output(self, value: bool) -> Self:
        self.is_output = value
        return self

    def set_data_type(self, dtype: data_type) -> Self:
        assert dtype is data_type.FLOAT
        return self

    def set_dim(self, dim: list[int]) -> Self:
        self.dim = dim
        return self

    def set_stride(self, stride: list[int]) -> Self:
        self.stride = stride
        return self


class _Host(Device):
    xp = np


class pygraph:
    def __init__(
        self, name: str = "test_graph", io_data_type: Any = None, intermediate_data_type: Any = None,
        compute_data_type: Any = None, handle: Any = None,
    ) -> None:  # fmt: skip
        if not io_data_type is intermediate_data_type is compute_data_type is data_type.FLOAT or not isinstance(
            handle, Handle
        ):
            raise TypeError("types or handle")
        self._handle, self._done, self._operation = handle, 0, None

    def tensor(self, dim: list[int], stride: list[int], data_type: Any, name: str = "") -> Tensor:
        return Tensor(dim, stride)

    def _step(self, name: str) -> None:
        capture.refuse(f"a plan of cuDNN is made ({name})")
        if STEPS[self._done] != name:
            raise RuntimeError(f"{name} before {STEPS[self._done]}")
        self._done += 1

    def _convolution(
        self, kind: str, first: Tensor, second: Tensor, pre_padding: list[int], post_padding: list[int], stride: list[int],
        dilation: list[int], name: str = "",
    ) -> Tensor:  # fmt: skip
        top, left = pre_padding
        bottom, right = post_padding
        self._window = (tuple(stride), (top, bottom, left, right), tuple(dilation))
        result = Tensor([], [])
        self._operation = (kind, first, second, result)
        return result

    def conv_fprop(self, image: Tensor, weight: Tensor, **how: Any) -> Tensor:
        return self._convolution("conv_fprop", image, weight, **how)

    def conv_dgrad(self, loss: Tensor, filter: Tensor, **how: Any) -> Tensor:
        return self._convolution("conv_dgrad", loss, filter, **how)

    def conv_wgrad(self, image: Tensor, loss: Tensor, **how: Any) -> Tensor:
        return self._convolution("conv_wgrad", image, loss, **how)

    def validate(self) -> None:
        self._step("validate")
        kind, first, second, result = self._operation  # type: ignore[misc]
        for tensor in (first, second, result):
            expected = [int(np.prod(tensor.dim[axis + 1 :])) for axis in range(len(tensor.dim))]
            if tensor.stride != expected or not all(type(n) is int for n in tensor.dim):
                raise RuntimeError(f"strides {tensor.stride} of {tensor.dim}")
        x, w, y = {
            "conv_fprop": (first, second, result), "conv_dgrad": (result, second, first),
            "conv_wgrad": (first, result, second),
        }[kind]  # fmt: skip
        self.window = Window(tuple(w.dim[2:]), *self._window)  # type: ignore[arg-type]
        wanted = [x.dim[0], w.dim[0], *self.window.output_size(*x.dim[2:])]
        if y.dim != wanted or x.dim[1] != w.dim[1] or not result.is_output or first.is_output:
            raise RuntimeError(f"{kind} of {first.dim} and {second.dim} does not give {result.dim}")

    def build_operation_graph(self) -> None:
        self._step("build_operation_graph")

    def create_execution_plans(self, heuristics: list[heur_mode]) -> None:
        assert heuristics == [heur_mode.A]
        self._step("create_execution_plans")

    def deselect_numeric_notes(self, notes: list[Any]) -> Self:
        assert numerical_note["NONDETERMINISTIC"] in notes
        self._step("deselect_numeric_notes")
        return self

    def build_plans(self) -> None:
        self._step("build_plans")

    def get_workspace_size(self) -> int:
        assert self._done == len(STEPS)
        return WORKSPACE

    def execute(self, tensor_dict: dict[Tensor, int], workspace: int, handle: Handle) -> None:
        from .cuda import _current

        kind, first, second, result = self._operation  # type: ignore[misc]
        if handle.stream != _current.stream.ptr or handle.device != devices.current() or self._done < len(STEPS):
            raise RuntimeError("not the current stream, another device, or no plan")
        addresses.view(workspace, WORKSPACE, "uint8", devices.current())
        a, b, c = (
            addresses.view(tensor_dict[one], int(np.prod(one.dim)), "float32", devices.current()).reshape(one.dim)
            for one in (first, second, result)
        )
        for one in (a, b, c):
            streams.access(one)
        launches.note(kind)

        def work() -> None:
            given = _in_tf32(a), _in_tf32(b)
            if kind == "conv_fprop":
                c[...] = ops.conv2d(_Host(), *given, None, self.window)
            elif kind == "conv_dgrad":
                c[...] = ops.conv2d_input_gradient(_Host(), *given, tuple(result.dim), self.window)
            else:
                c[...] = ops.conv2d_weight_gradient(_Host(), *given, tuple(result.dim), self.window)[0]

        capture.do(work)


def module() -> types.ModuleType:
    """Return what `import cudnn` finds."""
    made = types.ModuleType("cudnn", "The stand-in for cuDNN's Python package; see tests/support/standin/cudnn.py.")
    made.__spec__ = ModuleSpec("cudnn", None)
    vars(made).update({
        one.__name__: one
        for one in (
            data_type, heur_mode, numerical_note, cudnnGraphNotSupportedError, Handle, Tensor, pygraph, create_handle,
            set_stream,
        )
    })  # fmt: skip
    return made
