"""cupy.random for the stand-in: NumPy's generators behind CuPy's names; the numbers drawn are not those of a GPU."""

import functools
from typing import Any

import numpy as np

from . import capture
from .array import ndarray, result_of, wrap
from .signatures import Call, gap, missing, real_cupy
from .values import is_scalar, unsupported


class BitGenerator:
    """One class for CuPy's XORWOW, MRG32k3a and Philox4x3210, which differ in the numbers only."""

    def __init__(self, seed: Any = None, *, size: int = -1) -> None:
        self.host = np.random.Philox(seed)


class Generator:
    """cupy.random.Generator, which has neither normal nor permutation nor shuffle nor choice."""

    def __init__(self, bit_generator: BitGenerator) -> None:
        self.bit_generator = bit_generator
        self._host = np.random.Generator(bit_generator.host)

    def __getattr__(self, name: str) -> Any:
        real = getattr(real_cupy().random.Generator, name, None)
        if real is None or name.startswith("_"):
            raise missing("cupy.random.Generator", name)
        return functools.partial(draw, Call(f"cupy.random.Generator.{name}", real, getattr(self._host, name)), self)


def draw(call: Call, *args: Any, **kwargs: Any) -> Any:
    """Draws by NumPy's method of the name; `dtype` is applied afterwards, since not all of NumPy's take it."""
    capture.refuse_library("cuRAND")
    arguments = dict(call.check(*args, **kwargs).arguments)
    arguments.pop("self", None)
    out = arguments.pop("out", None)
    dtype = None
    if "dtype" in call.names:
        dtype = np.dtype(arguments.pop("dtype", call.signature.parameters["dtype"].default))
    if out is not None:
        if not isinstance(out, ndarray) or out.dtype != dtype:
            raise TypeError(f"{call.dotted}(out=...): expected a cupy.ndarray of {dtype}, got {type(out)}")
        arguments["size"] = out.shape
    for name, value in arguments.items():
        if isinstance(value, (np.ndarray, list)):
            raise unsupported(value, f"{call.dotted}({name}=...)")
        if isinstance(value, ndarray):
            arguments[name] = value._host
    drawn = np.asarray(call.host(**arguments))
    if dtype is not None:
        drawn = drawn.astype(dtype, copy=False)
    return wrap(drawn) if out is None else result_of(drawn, [], out)


def default_rng(seed: Any = None) -> Generator:
    if isinstance(seed, Generator):
        return seed
    return Generator(seed if isinstance(seed, BitGenerator) else BitGenerator(seed))


_legacy = np.random.RandomState()


def seed(seed: Any = None) -> None:
    _legacy.seed(seed)


def shuffle(a: Any) -> None:
    if not isinstance(a, ndarray):
        raise TypeError("The array must be cupy.ndarray")
    _legacy.shuffle(a._host)


def permutation(a: Any) -> ndarray:
    if not isinstance(a, ndarray) and not is_scalar(a):
        raise unsupported(a, "cupy.random.permutation")
    return wrap(_legacy.permutation(a._host if isinstance(a, ndarray) else a))


def _shaped(name: str) -> Any:
    def function(*size: int, **kwarg: Any) -> ndarray:
        dtype = kwarg.pop("dtype", float)
        if kwarg:
            raise TypeError(f"{name}() got unexpected keyword arguments {set(kwarg)}")
        return wrap(np.asarray(getattr(_legacy, name)(*size), dtype))

    return function


rand, randn = _shaped("rand"), _shaped("randn")


def legacy_function(name: str) -> Any:
    """normal, uniform, randint and the others of the module itself, all with CuPy's `dtype`."""
    real = getattr(real_cupy().random, name)
    host = getattr(_legacy, name, None)
    if host is None or isinstance(real, type) or not callable(real):
        raise gap(f"cupy.random.{name}")
    return functools.partial(draw, Call(f"cupy.random.{name}", real, host))
