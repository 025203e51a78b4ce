"""Parsing arguments of Tensor's methods: axes, lengths, indices."""

from __future__ import annotations

import math
from typing import Any

from gpucnn.autograd.values import Values
from gpucnn.backend import Backend, ops
from gpucnn.checks import is_flag, is_integer, is_number, python_number, shown
from gpucnn.errors import DTypeError, MixedDeviceError, ParameterError, ShapeError

Axis = int | tuple[int, ...] | None


def either_name(axis: Any, dim: Any, where: str) -> Any:
    """Return what was given as ``axis`` or, in PyTorch's words, as ``dim``; ParameterError for both.

    >>> either_name(None, 1, "sum")
    1
    """
    if axis is not None and dim is not None:
        raise ParameterError.expected(where, "axis", "one of axis and dim, which are the same", "both")
    return axis if dim is None else dim


def axes_of(axis: Axis, ndim: int, where: str) -> tuple[int, ...]:
    """Return one axis, several or all (None) of ``ndim`` as numbers from 0 on; ShapeError for others or one twice."""
    chosen = range(ndim) if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
    if not ndim and all(is_integer(i) and i in (0, -1) for i in chosen):
        return ()  # a number may be seen as having one axis
    for i in chosen:
        if not is_integer(i) or not -ndim <= i < ndim:
            raise ShapeError.expected(where, "axis", f"an int from {-ndim} to {ndim - 1}", shown(i))
    axes = tuple(int(i) % ndim for i in chosen)
    if len(set(axes)) != len(axes):
        raise ShapeError.expected(where, "axis", "each axis once", axis)
    return axes


def lengths_of(given: tuple[Any, ...], where: str) -> tuple[int, ...]:
    """Return lengths given one by one or as one tuple; ParameterError unless all are ints."""
    lengths = tuple(given[0]) if len(given) == 1 and isinstance(given[0], (tuple, list)) else given
    if not all(is_integer(n) for n in lengths):
        raise ParameterError.expected(where, "shape", "ints", shown(lengths))
    return tuple(map(int, lengths))


def index_part(part: Any, backend: Backend) -> Any:
    """Return one part of an index expression, with an array of ``backend`` for a tensor, a list or a host array."""
    if isinstance(part, Values):
        if part.backend is not backend:
            raise MixedDeviceError.expected("x[...]", "index", f"a tensor on {backend.name}", part.backend.name)
        part = part.array
    elif isinstance(part, (list, tuple)):
        try:
            part = backend.asarray(part) if len(part) else ops.zeros(backend, 0, "int64")
        except (TypeError, ValueError) as error:
            raise DTypeError.expected("x[...]", "index", "integers or booleans", f"{part!r:.60} ({error})") from None
    elif getattr(part, "ndim", 0):
        part = backend.asarray(part)
    else:
        return part
    if part.dtype.kind not in "iub":
        raise DTypeError.expected("x[...]", "index", "integers or booleans", f"dtype {part.dtype}")
    return part


def index_of(key: Any, backend: Backend) -> Any:
    """Return an index expression with its tensors, lists and host arrays replaced by arrays of ``backend``."""
    return tuple(index_part(part, backend) for part in key) if isinstance(key, tuple) else index_part(key, backend)


def dtype_beside(number: Any, dtype: Any) -> Any:
    """Return the dtype that a Python number takes beside a tensor: a float makes integers float32, an int booleans int64."""
    if is_flag(number) or dtype.kind == "f":
        return dtype
    if not is_integer(number):
        return "float32"
    return "int64" if dtype.kind == "b" else dtype


def clamp_bounds(low: Any, high: Any, dtype: Any) -> tuple[Any, Any]:
    """Return the bounds of ``clamp`` as Python's numbers, for integers None where there is none."""
    if low is None and high is None:
        raise ParameterError.expected("clamp", "min", "min, max or both", "neither")
    bounds = []
    for argument, bound, most in (("min", low, -math.inf), ("max", high, math.inf)):
        if bound is not None and (not is_number(bound) or bound != bound):
            raise ParameterError.expected("clamp", argument, "a number or None", shown(bound))
        if bound is not None and dtype.kind != "f" and not is_integer(bound):
            raise DTypeError.expected("clamp", argument, f"a whole number, as the tensor is {dtype}", shown(bound))
        unlimited = most if dtype.kind == "f" else None
        bounds.append(unlimited if bound is None else python_number(bound))
    return bounds[0], bounds[1]


def expanded_shape(wanted: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the lengths that ``expand(*wanted)`` gives an array of ``shape``, -1 filled in; ShapeError if it cannot."""
    new = len(wanted) - len(shape)  # from this axis on, -1 keeps a length
    own = (*(1,) * new, *shape)
    filled = tuple(m if n == -1 and i >= new else n for i, (n, m) in enumerate(zip(wanted, own, strict=False)))
    if new < 0 or any(n < 0 or m not in (1, n) for n, m in zip(filled, own, strict=True)):
        raise ShapeError.expected("expand", "shape", f"one that {shape} can be repeated to", wanted)
    return filled


def nonempty_axes(axis: Axis, shape: tuple[int, ...], where: str) -> tuple[int, ...]:
    """Return ``axes_of``; ShapeError if there is no element along one of them."""
    axes = axes_of(axis, len(shape), where)
    if any(shape[i] == 0 for i in axes):
        raise ShapeError.expected(where, "tensor", "at least one element along the axis", f"shape {shape}")
    return axes
