"""The stand-in's ufuncs: NumPy's arithmetic under the rules of cupy.ufunc, and the array operators made of them."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from . import capture
from .array import host_index, ndarray, result_of, wrap
from .counters import launches
from .signatures import gap, missing, real_cupy
from .values import check_supported, is_scalar, unsupported

# The types that CuPy's scatter kernels have atomics for.
SCATTER_TYPES = {"add": "iIlLqQefd", "sub": "iI", "max": "ilILqQfd", "min": "ilILqQfd", "and": "ilILqQ"}

ATOMICS = np.random.default_rng(0)


class ufunc:
    """cupy.ufunc: takes out, dtype and casting, no where, no order; `at` and `reduce` exist on few."""

    def __init__(self, name: str) -> None:
        self._real = getattr(real_cupy(), name)
        self._dotted = f"cupy.{name}"
        self._host = getattr(np, name)
        self.name = self.__name__ = self._real.name
        self.nin, self.nout, self.nargs = self._real.nin, self._real.nout, self._real.nargs
        self.types: list[str] = self._real.types
        # The output types that CuPy compiles kernels for. "E" is its bfloat16, there where ml_dtypes is: no type of NumPy's.
        self._output_types = {tuple(map(np.dtype, one.split("->")[1])) for one in self.types if "E" not in one}
        self._resolved: dict[Any, tuple[np.dtype[Any], ...]] = {}

    def __getattr__(self, name: str) -> Any:
        raise gap(f"{self._dotted}.{name}") if hasattr(self._real, name) else missing(self._dotted, name)

    def __repr__(self) -> str:
        return f"<ufunc '{self.name}'>"

    def __call__(
        self, *args: Any, out: Any = None, dtype: Any = None, casting: str | None = None, **kwargs: Any
    ) -> Any:
        if kwargs:
            raise TypeError(f"Wrong arguments {kwargs} for {self._dotted}: a CuPy ufunc takes out, dtype and casting")
        if not self.nin <= len(args) <= self.nargs:
            raise TypeError(
                f"Wrong number of arguments for {self.name!r}. "
                f"It must be either {self.nin} or {self.nargs} (with outputs), but given {len(args)}."
            )
        args, outputs = args[: self.nin], args[self.nin :]
        if outputs:
            outputs += (None,) * (self.nargs - self.nin - len(outputs))
        if out is not None:
            if outputs:
                raise ValueError("Cannot specify 'out' as both a positional and keyword argument")
            outputs = out if isinstance(out, tuple) else (out,)
            if len(outputs) != self.nout:
                raise ValueError("'out' must be a tuple with one array for each output")
        for value in (*args, *(one for one in outputs if one is not None)):
            if not isinstance(value, ndarray) and not is_scalar(value):
                raise unsupported(value, self._dotted)
        return self._compute(args, outputs, dtype, casting or self._real._default_casting)

    def _compute(self, args: tuple[Any, ...], outputs: tuple[Any, ...], dtype: Any, casting: str) -> Any:
        output_types = self._resolve(args, dtype)
        launches.note(self.__name__)
        given = outputs or (None,) * self.nout
        for one, output_type in zip(given, output_types, strict=True):
            if one is None:
                continue
            if not isinstance(one, ndarray):
                raise TypeError("Output arguments type must be cupy.ndarray")
            if not np.can_cast(output_type, one.dtype, casting):  # type: ignore[arg-type]
                raise TypeError(
                    f"{self._dotted}: output operand requires a cast from {output_type} to {one.dtype}, "
                    f"but it is not safe according to the casting rule {casting!r}"
                )
        inputs = [value._host if isinstance(value, ndarray) else value for value in args]
        keywords: dict[str, Any] = {}
        if isinstance(self._host, np.ufunc):
            keywords = {"casting": "unsafe", "order": "C"}
            if dtype is not None:
                keywords["dtype"] = dtype
            if outputs:
                keywords["out"] = tuple(None if one is None else one._host for one in outputs)

        def compute() -> Any:
            with np.errstate(all="ignore"):
                results = self._host(*inputs, **keywords)
            return (results,) if self.nout == 1 else results

        if outputs and all(one is not None for one in outputs):
            if isinstance(self._host, np.ufunc):
                capture.do(compute)
            else:
                capture.do(lambda: np.copyto(given[0]._host, compute()[0], casting="same_kind"))
            return given[0] if self.nout == 1 else given
        if self.nout > 1 and capture.current.graph is not None:
            raise gap(f"{self._dotted} in a captured stream")
        results = compute() if self.nout > 1 else (capture.make(lambda: compute()[0]),)
        wrapped = tuple(
            wrap(np.asarray(result, order="C")) if one is None else result_of(result, [], one)
            for result, one in zip(results, given, strict=True)
        )
        return wrapped[0] if self.nout == 1 else wrapped

    def _resolve(self, args: tuple[Any, ...], dtype: Any) -> tuple[np.dtype[Any], ...]:
        """The output types, or TypeError where CuPy has no kernel. Python's numbers are weak, as NEP 50 has it."""
        kinds = tuple(value.dtype if isinstance(value, (ndarray, np.generic)) else type(value) for value in args)
        key = (kinds, dtype)
        if key not in self._resolved:
            self._resolved[key] = self._find_types(kinds, dtype)
        return self._resolved[key]

    def _find_types(self, kinds: tuple[Any, ...], dtype: Any) -> Any:
        if dtype is not None:
            found = (np.dtype(dtype),) * self.nout
            check_supported(found[0])
        elif isinstance(self._host, np.ufunc):
            weak = tuple(np.dtype(bool) if kind is bool else kind for kind in kinds)
            found = self._host.resolve_dtypes((*weak, *(None,) * self.nout), casting="unsafe")[self.nin :]
        else:
            found = (np.asarray(self._host(np.ones((), kinds[0]))).dtype,)
        if found not in self._output_types:
            raise TypeError(f"Wrong type ({dtype or kinds}) of arguments for {self.name}: CuPy has {self.types}")
        return found

    def outer(self, A: Any, B: Any, **kwargs: Any) -> Any:
        for value in (A, B):
            if not isinstance(value, ndarray):
                raise unsupported(value, f"{self._dotted}.outer")
        return self(A.reshape(A.shape + (1,) * B.ndim), B.reshape((1,) * A.ndim + B.shape), **kwargs)

    def at(self, a: Any, indices: Any, b: Any = None) -> None:
        scatter = self._real._scatter_op
        if scatter is None:
            raise NotImplementedError(f"`{self.name}.at` is not supported yet")
        if not isinstance(a, ndarray) or not (isinstance(b, ndarray) or is_scalar(b)):
            raise unsupported(b if isinstance(a, ndarray) else a, f"{self._dotted}.at")
        places, is_advanced = host_index(indices)
        if is_advanced and a.dtype.char not in SCATTER_TYPES.get(scatter, SCATTER_TYPES["and"]):
            raise TypeError(f"{self._dotted}.at does not support {a.dtype} as data type")
        capture.do(lambda: self._at_in_any_order(a._host, places, b._host if isinstance(b, ndarray) else b))

    def _at_in_any_order(self, a: Any, places: Any, b: Any) -> None:
        """What floats sum to depends on the order, and nothing fixes that of atomics: one order or another."""
        where = np.arange(a.size).reshape(a.shape)[places]
        if a.dtype.kind != "f" or not a.flags.c_contiguous:
            self._host.at(a, places, b)
            return
        order = ATOMICS.permutation(where.size)
        self._host.at(a.reshape(-1), where.reshape(-1)[order], np.broadcast_to(b, where.shape).reshape(-1)[order])

    def _only(self, method: str, names: tuple[str, ...] = ("cupy_add", "cupy_multiply")) -> None:
        if self.name not in names:
            raise NotImplementedError(f"`{self.name}.{method}` is not supported yet")

    def reduce(self, array: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        self._only("reduce")
        return (array.sum if self.name == "cupy_add" else array.prod)(axis, dtype, out, keepdims)

    def accumulate(self, array: Any, axis: Any = 0, dtype: Any = None, out: Any = None) -> Any:
        self._only("accumulate")
        return (array.cumsum if self.name == "cupy_add" else array.cumprod)(axis, dtype, out)


@functools.cache
def ufunc_named(name: str) -> ufunc:
    return ufunc(name)


# What an operator is called in the language, and the ufunc behind it.
BINARY_OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "divmod": "divmod",
    "pow": "power",
    "lshift": "left_shift",
    "rshift": "right_shift",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
}
COMPARISONS = {
    "lt": "less",
    "le": "less_equal",
    "eq": "equal",
    "ne": "not_equal",
    "gt": "greater",
    "ge": "greater_equal",
}
UNARY_OPERATORS = {"neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"}


def _steps_back_for(other: Any) -> bool:
    return getattr(type(other), "__array_ufunc__", ndarray) is None


def _binary(name: str, swapped: bool) -> Callable[[ndarray, Any], Any]:
    def operator(self: ndarray, other: Any) -> Any:
        if _steps_back_for(other):
            return NotImplemented
        return ufunc_named(name)(other, self) if swapped else ufunc_named(name)(self, other)

    return operator


def _in_place(name: str) -> Callable[[ndarray, Any], ndarray]:
    def operator(self: ndarray, other: Any) -> ndarray:
        ufunc_named(name)(self, other, out=self)
        return self

    return operator


def _comparison(name: str) -> Callable[[ndarray, Any], Any]:
    def operator(self: ndarray, other: Any) -> Any:
        has_no_equality = other is None or getattr(type(other), "__eq__", None) is object.__eq__
        if has_no_equality and name in ("equal", "not_equal"):
            return wrap(np.full(self.shape, name == "not_equal"))
        if _steps_back_for(other):
            return NotImplemented
        # CuPy reads a host array of no dimensions as a number here, and here only.
        number = other.item() if isinstance(other, np.ndarray) and other.ndim == 0 else other
        return ufunc_named(name)(self, number)

    return operator


def _unary(name: str) -> Callable[[ndarray], Any]:
    return lambda self: ufunc_named(name)(self)


def attach_operators() -> None:
    """Gives the array class its operators, but for `@`: matmul is no ufunc in CuPy."""
    for operator, name in BINARY_OPERATORS.items():
        setattr(ndarray, f"__{operator}__", _binary(name, swapped=False))
        setattr(ndarray, f"__r{operator}__", _binary(name, swapped=True))
        if operator != "divmod":
            setattr(ndarray, f"__i{operator}__", _in_place(name))
    for operator, name in COMPARISONS.items():
        setattr(ndarray, f"__{operator}__", _comparison(name))
    for operator, name in UNARY_OPERATORS.items():
        setattr(ndarray, f"__{operator}__", _unary(name))
    ndarray.__hash__ = None  # type: ignore[assignment]
