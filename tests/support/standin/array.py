"""The stand-in's array: a NumPy array that only the stand-in's own functions can reach."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from . import addresses, capture, devices
from .counters import launches, streams, transfers
from .signatures import Call, gap, missing, real_cupy
from .values import check_supported, is_scalar, poison, unsupported


class ndarray:
    """cupy.ndarray: a view of host memory that will not be taken for a NumPy array."""

    __slots__ = ("__weakref__", "_base", "_device", "_memory")
    __array_priority__ = 100
    __module__ = "cupy"
    _memory: np.ndarray[Any, Any]
    _base: "ndarray | None"
    _device: int

    def __init__(
        self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: Any = "C"
    ) -> None:
        check_supported(np.dtype(dtype))
        if strides is not None and memptr is None:
            raise gap("cupy.ndarray(strides=...) without memptr")
        self._base, self._device = None, devices.current()
        if memptr is None:
            capture.refuse_default_pool()
            self._memory = poison(np.empty(shape, dtype, order=order))
        else:
            self._memory = np.ndarray(shape, dtype, memptr.buffer, memptr.offset, strides, order)

    def __getattr__(self, name: str) -> Any:
        # Reached for what this class does not define itself: methods that NumPy has too.
        real = getattr(real_cupy().ndarray, name, None)
        if real is None or name.startswith("__"):
            raise missing("cupy.ndarray", name)
        return functools.partial(_method(name), self)

    @property
    def _host(self) -> "np.ndarray[Any, Any]":
        """The values, for work on the current stream; what only asks about the layout takes `_memory`."""
        devices.check(self._device)
        streams.access(self._memory)
        return self._memory

    # Memory layout

    @property
    def shape(self) -> Any:
        return self._memory.shape

    @shape.setter
    def shape(self, shape: Any) -> None:
        reshaped = self._memory.view()
        reshaped.shape = shape
        self._memory = reshaped

    dtype = property(lambda self: self._memory.dtype)
    strides = property(lambda self: self._memory.strides)
    ndim = property(lambda self: self._memory.ndim)
    size = property(lambda self: self._memory.size)
    itemsize = property(lambda self: self._memory.itemsize)
    nbytes = property(lambda self: self._memory.nbytes)
    base = property(lambda self: self._base)

    @property
    def flags(self) -> Any:
        # CuPy's own class: it has c_contiguous, f_contiguous, owndata, fnc, forc, and no writeable.
        flags = self._memory.flags
        return real_cupy()._core.flags.Flags(flags.c_contiguous, flags.f_contiguous, self._base is None)

    @property
    def data(self) -> Any:
        from .cuda import MemoryPointer

        pointer = MemoryPointer.of(self._memory)
        addresses.note(pointer, self._memory, self._device)
        return pointer

    @property
    def device(self) -> Any:
        from .cuda import Device

        return Device(self._device)

    T = property(lambda self: self.transpose() if self.ndim >= 2 else self)

    @property
    def mT(self) -> Any:
        if self.ndim < 2:
            raise ValueError("matrix transpose with ndim < 2 is undefined")
        return self.swapaxes(-1, -2)

    @property
    def real(self) -> "ndarray":
        return view_of(self, self._memory.real)

    @property
    def imag(self) -> "ndarray":
        return view_of(self, self._memory.imag)

    def reshape(self, *shape: Any, order: str = "C", copy: bool | None = None) -> Any:
        shape = shape[0] if len(shape) == 1 else shape
        return result_of(np.reshape(self._memory, host_of(shape, "reshape"), order=order, copy=copy), [self])  # type: ignore[call-overload]

    def transpose(self, *axes: Any) -> "ndarray":
        return view_of(self, self._memory.transpose(*axes))

    def view(self, dtype: Any = None, type: Any = None) -> "ndarray":
        if type not in (None, ndarray):
            raise ValueError("Type must be a sub-type of ndarray type")
        return view_of(self, self._memory.view() if dtype is None else self._memory.view(dtype))

    def copy(self, order: str = "C") -> "ndarray":
        launches.note("copy")
        return wrap(capture.make(lambda: self._host.copy(order)))  # type: ignore[arg-type]

    def flatten(self, order: str = "C") -> "ndarray":
        launches.note("flatten")
        return wrap(capture.make(lambda: self._host.flatten(order)))  # type: ignore[arg-type]

    def __copy__(self) -> "ndarray":
        return self.copy()

    def __deepcopy__(self, memo: Any) -> "ndarray":
        return self.copy()

    def __reduce__(self) -> Any:
        from .module import array

        return array, (self.get(order="A"),)

    def astype(
        self, dtype: Any, order: str | None = "K", casting: Any = None, subok: Any = None, copy: bool = True
    ) -> "ndarray":
        if casting is not None or subok is not None:
            raise TypeError(f"{'casting' if casting is not None else 'subok'} is not supported yet")
        check_supported(np.dtype(dtype))

        def cast() -> Any:
            with np.errstate(all="ignore"):
                return self._host.astype(dtype, order=order or "K", copy=copy)  # type: ignore[call-overload]

        if not copy and self.dtype == dtype and cast() is self._host:
            return self
        launches.note("astype")
        return wrap(capture.make(cast))

    # Between host and device

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        transfers.to_host += 1
        streams.host_waits_for_stream(None if stream is None else stream.key)
        if out is None:
            return np.array(self._host, order=order)  # type: ignore[call-overload]
        if not isinstance(out, np.ndarray):
            raise TypeError("Only numpy.ndarray can be obtained from cupy.ndarray")
        if out.dtype != self.dtype:
            raise TypeError(f"{out.dtype} array cannot be obtained from {self.dtype} array")
        if out.shape != self.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {self.shape}, actual shape: {out.shape}")
        if not out.flags.forc:
            raise RuntimeError("`out` cannot be specified when copying to non-contiguous ndarray")
        out[...] = self._host
        return out

    def set(self, arr: Any, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not self._memory.flags.forc:
            raise RuntimeError("Cannot set to non-contiguous array")
        if streams.is_pinned(arr):
            transfers.copies += 1
        else:
            transfers.to_device += 1
        streams.copy(self._memory, arr, None if stream is None else stream.key)
        self._memory[...] = arr

    def item(self) -> Any:
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        return self.get().tobytes(order)  # type: ignore[no-any-return]

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __complex__(self) -> complex:
        return complex(self.get())

    def __bool__(self) -> bool:
        if self.size > 1:
            raise ValueError(
                "The truth value of an array with more than one element is ambiguous. Use a.any() or a.all()"
            )
        return self.size == 1 and bool(self.get())

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __format__(self, format_spec: str) -> str:
        return format(self.get(), format_spec)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    # Shared with other libraries. The memory is the host's, so the DLPack capsule is one that only the stand-in takes.

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, self._device)

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None
    ) -> "Capsule":
        return Capsule(self)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape, "typestr": self.dtype.str, "descr": self.dtype.descr, "stream": 1, "version": 3,
            "strides": None if self._memory.flags.c_contiguous else self.strides, "data": (self._memory.ctypes.data, False),
        }  # fmt: skip

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from .module import make_cupy

        if "out" in kwargs:
            if len(kwargs["out"]) != 1:
                raise ValueError("The 'out' parameter must have exactly one array value")
            (kwargs["out"],) = kwargs["out"]
        function = getattr(make_cupy(), ufunc.__name__, None)
        if function is None or not all(is_scalar(x) or isinstance(x, (ndarray, np.ndarray)) for x in inputs):
            return NotImplemented
        if ufunc.__name__ in ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal"):
            inputs = tuple(x.item() if isinstance(x, np.ndarray) and x.ndim == 0 else x for x in inputs)
        return (function if method == "__call__" else getattr(function, method))(*inputs, **kwargs)

    def __array_function__(self, func: Any, types: Iterable[type], args: Any, kwargs: Any) -> Any:
        from .module import make_cupy

        if not all(issubclass(one, (ndarray, np.ndarray)) for one in types):
            return NotImplemented
        try:
            module = functools.reduce(getattr, func.__module__.split(".")[1:], make_cupy())
            function = getattr(module, func.__name__)
        except AttributeError:
            return NotImplemented
        return NotImplemented if function is func else function(*args, **kwargs)

    def __matmul__(self, other: Any) -> Any:
        from .module import make_cupy

        return make_cupy().matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        from .module import make_cupy

        return make_cupy().matmul(other, self)

    # Elements

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of unsized object")
        return len(self._memory)

    def __iter__(self) -> Iterator["ndarray"]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[place] for place in range(self.shape[0]))

    def __getitem__(self, index: Any) -> "ndarray":
        places, is_advanced = host_index(index)
        # The ellipsis makes NumPy return an array where it would return a scalar.
        has_ellipsis = any(place is Ellipsis for place in places)
        places = places if has_ellipsis else (*places, Ellipsis)
        if not is_advanced:
            return view_of(self, self._memory[places])
        launches.note("getitem")
        zeros = tuple(np.zeros_like(place) if isinstance(place, np.ndarray) else place for place in places)
        return wrap(
            capture.make(
                lambda: np.array(self._host[places], order="C"), lambda: np.array(self._host[zeros], order="C")
            )
        )

    def __setitem__(self, index: Any, value: Any) -> None:
        places, is_advanced = host_index(index)
        launches.note("setitem")
        if isinstance(value, ndarray):
            value = value._host
        elif is_advanced:
            # CuPy makes a device array of what is assigned through an index array or a mask.
            transfers.to_device += not is_scalar(value)
            value = host_of(value, "an assignment", allow_host=True)
        else:
            value = np.asarray(value, self.dtype)
            if value.ndim:
                raise ValueError("non-scalar numpy.ndarray cannot be used for fill")

        def assign() -> None:
            with np.errstate(all="ignore"):
                self._host[places] = value

        capture.do(assign)

    def fill(self, value: Any) -> None:
        launches.note("fill")
        host = value._host if isinstance(value, ndarray) else np.asarray(value, self.dtype)
        if host.ndim:
            raise ValueError(f"non-scalar {type(value).__name__} cannot be used for fill")
        capture.do(lambda: self._host.fill(host[()]))

    def take(self, indices: Any, axis: int | None = None, out: "ndarray | None" = None) -> Any:
        if not isinstance(indices, ndarray) and not is_scalar(indices):
            transfers.to_device += 1
        if out is not None and out.dtype != self.dtype:
            raise TypeError("Output dtype mismatch")
        places = host_of(indices, "take", allow_host=True)
        launches.note("take")
        value = capture.make(
            lambda: np.asarray(self._host.take(places, axis)),
            lambda: np.asarray(self._host.take(np.zeros_like(places), axis)),
        )
        return result_of(value, [self], out)

    def sort(self, axis: int = -1, kind: Any = None) -> None:
        if kind not in (None, "stable"):
            raise ValueError("`kind` can only be None or 'stable'")
        capture.do(lambda: self._host.sort(axis, kind="stable"))

    def put(self, indices: Any, values: Any, mode: str = "wrap") -> None:
        places, new = host_of(indices, "put"), host_of(values, "put")
        capture.do(lambda: self._host.put(places, new, mode))  # type: ignore[arg-type]


class Capsule:
    """What `ndarray.__dlpack__` gives to `from_dlpack`."""

    def __init__(self, array: ndarray) -> None:
        self.array = array


@functools.cache
def _method(name: str) -> Callable[..., Any]:
    """A method that NumPy has as a function: sum, max, argmax, ravel ..."""
    host = getattr(np, name, None)
    if host is None or name in ("partition", "resize"):
        raise gap(f"cupy.ndarray.{name}")
    call = Call(f"cupy.ndarray.{name}", getattr(real_cupy().ndarray, name), host)

    def method(*args: Any, **kwargs: Any) -> Any:
        return run(call, args, kwargs)

    return method


def wrap(host: "np.ndarray[Any, Any]", base: ndarray | None = None) -> ndarray:
    check_supported(host.dtype)
    array = object.__new__(ndarray)
    array._memory = host
    array._base = base
    array._device = devices.current() if base is None else base._device
    return array


def view_of(array: ndarray, host: "np.ndarray[Any, Any]") -> ndarray:
    return wrap(host, array if array._base is None else array._base)


def host_of(value: Any, where: str, found: list[ndarray] | None = None, allow_host: bool = False) -> Any:
    """The same with NumPy arrays in place of the stand-in's; a NumPy array in it is an error, as it is in CuPy."""
    if isinstance(value, ndarray):
        if found is not None:
            found.append(value)
        return value._host
    if isinstance(value, np.ndarray) and not allow_host:
        raise unsupported(value, where)
    if type(value) in (list, tuple):
        return type(value)(host_of(one, where, found, allow_host) for one in value)
    return value


def host_index(index: Any) -> tuple[tuple[Any, ...], bool]:
    """The index for NumPy, and whether it holds arrays: those copy, the others view."""
    places = index if isinstance(index, tuple) else (index,)
    is_advanced = False
    converted = []
    for place in places:
        if isinstance(place, (ndarray, np.ndarray, list, tuple, bool, np.bool_)):
            is_advanced = True
            # CuPy copies host indices to the device; a mask it counts there, and reads the count.
            transfers.to_device += isinstance(place, (np.ndarray, list, tuple))
            place = np.asarray(host_of(place, "an index", allow_host=True))
            transfers.to_host += place.dtype == bool
            if place.size == 0 and place.dtype.kind == "f":
                place = place.astype(np.int32)
        converted.append(place)
    return tuple(converted), is_advanced


def result_of(value: Any, inputs: list[ndarray], out: ndarray | None = None, keeps_order: bool = False) -> Any:
    """What CuPy returns for a NumPy result: arrays for scalars too, C-ordered unless they are views of the inputs."""
    if out is not None:
        if out._host is not value:
            np.copyto(out._host, value, casting="same_kind")
        return out
    if isinstance(value, (tuple, list)):
        results = [result_of(one, inputs, None, keeps_order) for one in value]
        return results if type(value) is list else tuple(results)
    if isinstance(value, np.generic):
        return wrap(np.asarray(value))
    if not isinstance(value, np.ndarray):
        return value
    for array in inputs:
        if value is array._memory:
            return array
    for array in inputs:
        if np.may_share_memory(value, array._memory):
            return view_of(array, value)
    return wrap(value if keeps_order else np.asarray(value, order="C"))


PRODUCTS = frozenset(("matmul", "dot", "vdot", "inner", "tensordot", "einsum"))


def _recorded(call: Call, args: Any, kwargs: Any, found: list[ndarray], out: ndarray | None) -> Any:
    """Record a call of a function that makes one array; a function that returns a view runs as ever."""
    if out is not None:
        kwargs = {name: value for name, value in kwargs.items() if name != "out"}
        capture.do(lambda: np.copyto(out._host, call.run(args, kwargs), casting="same_kind"))
        return out
    if call.dotted.rpartition(".")[2] == "copyto":  # changes its first argument, and makes nothing
        return capture.do(lambda: call.run(args, kwargs))
    value = call.run(args, kwargs)
    if isinstance(value, np.ndarray) and any(np.may_share_memory(value, array._memory) for array in found):
        return value
    if isinstance(value, (tuple, list)):
        raise gap(f"{call.dotted} in a captured stream")
    return capture.make(lambda: call.run(args, kwargs))


def run(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], keeps_order: bool = False) -> Any:
    """Checks a call of a CuPy function by CuPy's rules and computes it with NumPy."""
    call.plan(len(args), tuple(kwargs))
    out = kwargs.get("out")
    if out is not None and not isinstance(out, ndarray):
        raise TypeError(f"{call.dotted}: output arguments type must be cupy.ndarray, got {type(out)}")
    found: list[ndarray] = []
    host_args = tuple(host_of(value, call.dotted, found) for value in args)
    host_kwargs = {name: host_of(value, call.dotted, found) for name, value in kwargs.items()}
    if call.dotted.rpartition(".")[2] in PRODUCTS:
        capture.refuse_library("cuBLAS")
    if capture.current.graph is None:
        value = call.run(host_args, host_kwargs)
    else:
        value = _recorded(call, host_args, host_kwargs, found, out)
        if value is out:
            launches.note(call.dotted.rpartition(".")[2])
            return out
    result = result_of(value, found, out, keeps_order)
    if (
        isinstance(result, ndarray)
        and result._base is None
        and not any(result is one for one in found if one is not out)
    ):
        launches.note(call.dotted.rpartition(".")[2])
    return result
