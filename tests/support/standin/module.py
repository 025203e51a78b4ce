"""The stand-in for the module `cupy` itself: each name is looked up in the real CuPy first."""

import functools
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from . import capture, counters, cublas, cuda, kernels, nccl, random
from .array import Capsule, host_of, ndarray, run, view_of, wrap
from .counters import Launches, Transfers, launches, transfers
from .signatures import Call, gap, missing, real_cupy, real_cupyx
from .ufunc import attach_operators, ufunc, ufunc_named
from .values import check_supported, is_scalar, poison, unsupported


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# First parameters that CuPy wants as device arrays, by the names it gives them.
ARRAY_PARAMETERS = _words("a x x1 m v p arr ary array array1 array2 arr1 arr2 condition A M indices element")
# These take lists, tuples and numbers there all the same.
TAKES_ANYTHING = _words("isscalar ndim shape size iscomplexobj isrealobj can_cast result_type min_scalar_type")
# NumPy answers with Python's own bool or int, CuPy with an array of no dimensions.
ANSWERS_ON_DEVICE = _words("allclose array_equal array_equiv count_nonzero")
# The output's size depends on the values: CuPy reads it, which waits for the device.
READS_A_COUNT = _words(
    "nonzero flatnonzero argwhere unique unique_values unique_counts unique_inverse unique_all compress extract ix_ place "
    "union1d intersect1d setdiff1d trim_zeros bincount histogram delete ravel_multi_index asarray_chkfinite"
)
KEEPS_ORDER = _words("copy full zeros ones zeros_like ones_like full_like asfortranarray")
# Keywords that hide behind CuPy's **kwargs.
HIDDEN_KEYWORDS = {"einsum": ("dtype", "optimize"), "meshgrid": ("indexing", "sparse", "copy")}
SUBMODULES = ("linalg", "fft", "lib", "stride_tricks", "exceptions", "memory", "compiler")


class StandInModule(types.ModuleType):
    """A module whose names are CuPy's: provided here, or NumPy's under CuPy's signature, or an error that says which."""

    def __init__(self, dotted: str, real: Any, host: Any, **provided: Any) -> None:
        super().__init__(dotted, f"The stand-in for {dotted}; see tests/support/standin.")
        self._real = real
        self._host = host
        for name, value in provided.items():
            # The stand-in has to keep the rule that it imposes.
            if name != "standin" and not hasattr(real, name):
                raise missing(dotted, name)
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Any:
        dotted = f"{self.__name__}.{name}"
        if name == "__version__":
            return real_cupy().__version__
        if name.startswith("_"):
            raise AttributeError(f"module {self.__name__!r} of the stand-in has no attribute {name!r}")
        if not hasattr(self._real, name):
            raise missing(self.__name__, name)
        value = self._make(dotted, getattr(self._real, name), getattr(self._host, name, None))
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return dir(self._real)

    def _make(self, dotted: str, real: Any, host: Any) -> Any:
        name = dotted.rpartition(".")[2]
        # By type, not isinstance, which would load the modules that CuPy loads when they are first looked into.
        kind = type(real)
        if real is host or kind in (int, float, str, bytes):
            return real
        if issubclass(kind, types.ModuleType):
            if name in SUBMODULES:
                return StandInModule(dotted, real, host)
            raise gap(dotted)
        if issubclass(kind, type):
            if issubclass(real, (Exception, np.generic)):
                return real
            raise gap(dotted)
        if kind.__name__ == "ufunc" and dotted == f"cupy.{name}":
            return ufunc_named(name)
        if host is None or not callable(real):
            raise gap(dotted)
        return _function(dotted, real, host)


class NcclModule(types.ModuleType):
    """cupy.cuda.nccl, whose own names need NCCL's library; test_nccl.py looks for them in the file that has them."""

    def __init__(self) -> None:
        super().__init__("cupy.cuda.nccl", "The stand-in for cupy.cuda.nccl; see tests/support/standin/nccl.py.")
        names = (nccl.NcclCommunicator, nccl.NcclError, nccl.get_unique_id, nccl.groupStart, nccl.groupEnd)
        vars(self).update(_named(*names), **nccl.KINDS)


class RandomModule(StandInModule):
    def _make(self, dotted: str, real: Any, host: Any) -> Any:
        return random.legacy_function(dotted.rpartition(".")[2])


def _function(dotted: str, real: Any, host: Callable[..., Any]) -> Callable[..., Any]:
    call = Call(dotted, real, host)
    name = dotted.rpartition(".")[2]
    wants_array = call.names[:1] and call.names[0] in ARRAY_PARAMETERS and name not in TAKES_ANYTHING

    @functools.wraps(real, assigned=("__name__", "__qualname__", "__doc__"), updated=())
    def function(*args: Any, **kwargs: Any) -> Any:
        if name in HIDDEN_KEYWORDS and not set(kwargs) <= set(HIDDEN_KEYWORDS[name]):
            raise TypeError(f"{dotted}: CuPy takes {HIDDEN_KEYWORDS[name]} only, got {list(kwargs)}")
        if wants_array and args and not isinstance(args[0], ndarray) and not is_scalar(args[0]):
            raise unsupported(args[0], dotted)
        result = run(call, args, kwargs, name in KEEPS_ORDER)
        if name in READS_A_COUNT or (name == "where" and len(args) == 1):
            transfers.to_host += 1
        if name == "sliding_window_view":
            # CuPy makes a device array of the window's shape and compares its elements on the host, one by one.
            transfers.to_device += 1
            transfers.to_host += result.ndim - (args[0] if args else kwargs["x"]).ndim
        is_answer = name in ANSWERS_ON_DEVICE and not isinstance(result, ndarray)
        return wrap(np.asarray(result)) if is_answer else result

    del function.__wrapped__
    return function


def array(
    obj: Any,
    dtype: Any = None,
    copy: bool | None = True,
    order: str | None = "K",
    subok: bool = False,
    ndmin: int = 0,
    *,
    blocking: bool = False,
) -> ndarray:
    if subok:
        raise NotImplementedError
    keywords: dict[str, Any] = {"dtype": dtype, "order": order or "K", "ndmin": ndmin}
    if isinstance(obj, ndarray):
        host = np.array(obj._memory, copy=copy, **keywords)
        if host is obj._memory:
            return obj
        if not np.may_share_memory(host, obj._memory):
            launches.note("array")
            return wrap(capture.make(lambda: np.array(obj._host, copy=copy, **keywords)))
        return view_of(obj, host) if np.may_share_memory(host, obj._memory) else wrap(host)
    if hasattr(obj, "__cuda_array_interface__"):
        return array(_from_interface(obj), dtype, copy, order, subok, ndmin)
    found: list[ndarray] = []
    host = np.array(host_of(obj, "array", found, allow_host=True), **keywords)
    check_supported(host.dtype)
    if not found and not is_scalar(obj):
        transfers.to_device += 1
    return wrap(host if order in ("F", "f") or host.flags.fnc else np.asarray(host, order="C"))


def _from_interface(obj: Any) -> ndarray:
    """The memory that another library's array says it has on the device; here the host's."""
    given = obj.__cuda_array_interface__
    host: Any = np.array(_AtAddress(given), copy=False)
    shared = wrap(host)
    shared._base = shared
    return shared


class _AtAddress:
    def __init__(self, interface: dict[str, Any]) -> None:
        self.__array_interface__ = {
            name: value for name, value in interface.items() if name not in ("stream", "version")
        } | {"version": 3}


def from_dlpack(array: Any, *, device: Any = None, copy: bool | None = None) -> ndarray:
    if array.__dlpack_device__()[0] != 2:
        raise gap("cupy.from_dlpack of memory of the host")
    capsule = array.__dlpack__(stream=1, max_version=(1, 0))
    if not isinstance(capsule, Capsule):
        raise gap("cupy.from_dlpack of another library's device memory")
    return view_of(capsule.array, capsule.array._memory.view())


def asarray(
    a: Any, dtype: Any = None, order: str | None = None, *, copy: bool | None = None, blocking: bool = False
) -> ndarray:
    return array(a, dtype, copy, order)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    return array(a, dtype, None, "C", ndmin=1)


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> Any:
    if isinstance(a, ndarray):
        return a.get(stream=stream, order=order, out=out)
    converted = np.asarray(a, order=order)  # type: ignore[call-overload]
    if out is None:
        return converted
    out[...] = converted
    return out


def get_array_module(*args: Any) -> Any:
    return make_cupy() if any(isinstance(value, (ndarray, ufunc)) for value in args) else np


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def empty_like(prototype: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    if not isinstance(prototype, ndarray):
        raise unsupported(prototype, "cupy.empty_like")
    if subok is not None:
        raise TypeError("subok is not supported yet")
    capture.refuse_default_pool()
    return wrap(poison(np.empty_like(prototype._memory, dtype, order, shape=shape)))  # type: ignore[call-overload]


def empty_pinned(shape: Any, dtype: Any = float, order: str = "C") -> "np.ndarray[Any, Any]":
    array = poison(np.empty(shape, dtype, order))  # type: ignore[call-overload]
    counters.streams.pin(array)
    return array


class Standin:
    """What tests ask the stand-in itself: `cupy.standin.transfers`, `cupy.standin.launches`."""

    transfers: Transfers = transfers
    launches: Launches = launches


def _named(*values: Any) -> dict[str, Any]:
    return {value.__name__: value for value in values}


@functools.cache
def make_cupy() -> types.ModuleType:
    """The stand-in, one for the process. It needs the real CuPy, for names and signatures only."""
    real = real_cupy()
    attach_operators()
    runtime = StandInModule(
        "cupy.cuda.runtime", real.cuda.runtime, None,
        runtimeGetVersion=cuda.runtimeGetVersion, **_named(*cuda.RUNTIME),
    )  # fmt: skip
    generators = dict.fromkeys(("BitGenerator", "XORWOW", "MRG32k3a", "Philox4x3210"), random.BitGenerator)
    return StandInModule(
        "cupy", real, np,
        standin=Standin,
        cuda=StandInModule("cupy.cuda", real.cuda, None, runtime=runtime, **_named(*cuda.CUDA)),
        random=RandomModule(
            "cupy.random", real.random, None,
            **_named(random.Generator, random.default_rng, random.seed, random.shuffle, random.permutation),
            rand=random.rand, randn=random.randn, **generators,
        ),
        ndarray=ndarray, ufunc=ufunc, RawModule=kernels.RawModule,
        is_available=cuda.is_available, get_default_memory_pool=cuda.get_default_memory_pool,
        asanyarray=asarray,
        **_named(array, asarray, ascontiguousarray, asnumpy, get_array_module, empty, empty_like, from_dlpack),
    )  # fmt: skip


def submodules(cupy: types.ModuleType) -> dict[str, Any]:
    """The stand-in and the modules in it under the names that `import` looks for."""
    names = (
        "cuda", "cuda.runtime", "cuda.memory", "cuda.compiler", "exceptions",
        "random", "linalg", "fft", "lib", "lib.stride_tricks",
    )  # fmt: skip
    found: dict[str, Any] = {f"cupy.{name}": functools.reduce(getattr, name.split("."), cupy) for name in names}
    found["cuda.pathfinder"] = cublas.PathfinderModule()
    found["cudnn"] = None  # not installed; tests of it put cudnn.module() there
    found["cupy.cuda.nccl"] = NcclModule()  # no attribute of cupy.cuda: it is there once it is imported
    return {"cupy": cupy, "cupyx": StandInModule("cupyx", real_cupyx(), None, empty_pinned=empty_pinned), **found}
