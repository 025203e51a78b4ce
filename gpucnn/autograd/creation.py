"""New tensors: from data, of one number, random, and from others joined. Names and arguments are PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpucnn.autograd import operations
from gpucnn.autograd.tape import apply
from gpucnn.autograd.tensor import Tensor
from gpucnn.backend import Backend, Generator, current_generator, get_backend, ops
from gpucnn.checks import MOST, check_number, is_count, is_flag, is_integer, is_number, shown
from gpucnn.errors import DTypeError, GpucnnError, ParameterError, ShapeError, kind_of


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join the tensors along ``axis``. ShapeError or DTypeError unless all other lengths and the dtypes agree.

    >>> concatenate([tensor([1.0]), tensor([2.0, 3.0])]).tolist()
    [1.0, 2.0, 3.0]
    """
    if not isinstance(tensors, (tuple, list)) or not tensors or not all(isinstance(part, Tensor) for part in tensors):
        raise ParameterError.expected("concatenate", "tensors", "at least one Tensor", repr(tensors)[:60])
    first: Tensor = tensors[0]
    if not is_integer(axis) or not -first.ndim <= axis < first.ndim:
        raise ShapeError.expected("concatenate", "axis", f"an axis of shape {first.shape}", shown(axis))
    axis = int(axis) % first.ndim
    for part in tensors:
        if part.dtype != first.dtype:
            raise DTypeError.expected("concatenate", "tensors", f"one dtype, {first.dtype}", part.dtype)
        if part.ndim != first.ndim or any(
            n != m for i, (n, m) in enumerate(zip(part.shape, first.shape, strict=True)) if i != axis
        ):
            raise ShapeError.expected(
                "concatenate", "tensors", f"shapes like {first.shape} but for axis {axis}", part.shape
            )
    return apply(operations.concatenation, first, *tensors[1:], axis=axis)


def tensor(data: Any, dtype: Any = None, device: str | Backend | None = None, requires_grad: bool = False) -> Tensor:
    """Return a new tensor with a copy of ``data``: numbers, nested lists, a NumPy array, a device array or a Tensor.

    Python floats become float32, Python ints int64; arrays keep their dtype. ``device`` is "cpu", "cuda", "cuda:N" or
    "auto"; by default the one chosen with ``gpucnn.use``. Raises DTypeError if ``data`` is not numeric, or if
    ``requires_grad`` is asked of integers.

    >>> tensor([[1.0, 2.0], [3.0, 4.0]]).shape
    (2, 2)
    """
    backend = get_backend(device)
    if isinstance(data, Tensor):
        data = data.detach().to(backend).array
    try:
        array = ops.array(backend, data, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise DTypeError.expected("tensor", "data", "numbers in a regular shape", f"{data!r:.60} ({error})") from None
    if dtype is None and array.dtype == "float64" and not hasattr(data, "dtype"):
        array = ops.cast(backend, array, "float32")
    if array.dtype.kind not in "fiub":
        raise DTypeError.expected("tensor", "data", "numbers", f"dtype {array.dtype}")
    result = Tensor(array, backend)
    return result.requires_grad_() if requires_grad else result


def _dtype_of(where: str, backend: Backend, dtype: Any) -> Any:
    """Return a dtype of numbers; DTypeError for another."""
    try:
        known = backend.dtype(dtype)
    except TypeError:
        known = None
    if known is None or known.kind not in "fiub":
        raise DTypeError.expected(where, "dtype", "a dtype of numbers", shown(dtype))
    return known


def _shape_of(where: str, size: tuple[Any, ...]) -> tuple[int, ...]:
    """Return a shape given as ints or as one tuple; ParameterError for another."""
    shape = tuple(size[0]) if len(size) == 1 and isinstance(size[0], (tuple, list)) else size
    if not all(is_count(n, 0) for n in shape):
        raise ParameterError.expected(where, "size", "whole numbers from 0 on", shown(shape))
    return tuple(map(int, shape))


def _new(array: Any, backend: Backend, requires_grad: bool) -> Tensor:
    result = Tensor(array, backend)
    return result.requires_grad_() if requires_grad else result


def full(
    size: int | Sequence[int],
    fill_value: float,
    dtype: Any = None,
    device: str | Backend | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return a tensor filled with one number: float32 by default, int64 for an integer, bool for a boolean.

    >>> full((2,), 3).tolist()
    [3, 3]
    """
    backend = get_backend(device)
    if not is_number(fill_value) and not is_flag(fill_value):
        raise ParameterError.expected("full", "fill_value", "a number", shown(fill_value))
    usual = "bool" if is_flag(fill_value) else "int64" if is_integer(fill_value) else "float32"
    kind = _dtype_of("full", backend, usual if dtype is None else dtype)
    return _new(ops.full(backend, _shape_of("full", (size,)), fill_value, kind), backend, requires_grad)


def zeros(*size: Any, dtype: Any = None, device: str | Backend | None = None, requires_grad: bool = False) -> Tensor:
    """Return a tensor of zeros, float32 by default.

    >>> zeros(2, 3).shape
    (2, 3)
    """
    return full(_shape_of("zeros", size), 0, "float32" if dtype is None else dtype, device, requires_grad)


def ones(*size: Any, dtype: Any = None, device: str | Backend | None = None, requires_grad: bool = False) -> Tensor:
    """Return a tensor of ones, float32 by default.

    >>> ones(2).tolist()
    [1.0, 1.0]
    """
    return full(_shape_of("ones", size), 1, "float32" if dtype is None else dtype, device, requires_grad)


def zeros_like(
    input: Tensor, dtype: Any = None, device: str | Backend | None = None, requires_grad: bool = False
) -> Tensor:
    """Return zeros of a tensor's shape, by default on its device and in its dtype.

    >>> zeros_like(tensor([1.0, 2.0])).tolist()
    [0.0, 0.0]
    """
    like = _tensor_given("zeros_like", input)
    return full(like.shape, 0, like.dtype if dtype is None else dtype, device or like.backend, requires_grad)


def ones_like(
    input: Tensor, dtype: Any = None, device: str | Backend | None = None, requires_grad: bool = False
) -> Tensor:
    """Return ones of a tensor's shape, by default on its device and in its dtype.

    >>> ones_like(tensor([1.0, 2.0])).tolist()
    [1.0, 1.0]
    """
    like = _tensor_given("ones_like", input)
    return full(like.shape, 1, like.dtype if dtype is None else dtype, device or like.backend, requires_grad)


def _tensor_given(where: str, value: Any, argument: str = "input") -> Tensor:
    if not isinstance(value, Tensor):
        raise DTypeError.expected(where, argument, "a Tensor", kind_of(value), "wrap it in gpucnn.tensor(...)")
    return value


def arange(
    start: float,
    end: float | None = None,
    step: float = 1,
    dtype: Any = None,
    device: str | Backend | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return start, start + step, ... below ``end``; with one number, 0, 1, ... below it. int64 if all are integers.

    >>> arange(3).tolist(), arange(1, 2, 0.5).tolist()
    ([0, 1, 2], [1.0, 1.5])
    """
    first, last = (0, start) if end is None else (start, end)
    first, last, by = (
        check_number(value, "arange", name) for name, value in (("start", first), ("end", last), ("step", step))
    )
    if not by or (last - first) / by < 0:
        raise ParameterError.expected("arange", "step", f"one that leads from {first} to {last}", by)
    backend = get_backend(device)
    whole = all(isinstance(value, int) for value in (first, last, by))
    count = math.ceil((last - first) / by)
    if count > MOST:
        raise ParameterError.expected("arange", "end", f"at most {MOST} numbers", count)
    kind = _dtype_of("arange", backend, ("int64" if whole else "float32") if dtype is None else dtype)
    steps = ops.arange(backend, count)
    wide = "int64" if whole else "float64"
    values = ops.add(backend, ops.multiply(backend, ops.cast(backend, steps, wide), by), first)
    return _new(ops.cast(backend, values, kind), backend, requires_grad)


def rand(
    *size: Any,
    generator: Generator | None = None,
    dtype: Any = None,
    device: str | Backend | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return random numbers, uniform in [0, 1); those of ``gpucnn.manual_seed`` or of ``generator``.

    >>> 0 <= rand(1).item() < 1
    True
    """
    backend = get_backend(device)
    kind = _floating("rand", backend, dtype)
    drawn = ops.draw_uniform(backend, _shape_of("rand", size), 0.0, 1.0, kind, generator or current_generator())
    return _new(drawn, backend, requires_grad)


def randn(
    *size: Any,
    generator: Generator | None = None,
    dtype: Any = None,
    device: str | Backend | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return random numbers, normally distributed with mean 0 and standard deviation 1.

    >>> randn(2, 3).shape
    (2, 3)
    """
    return normal(0.0, 1.0, _shape_of("randn", size), generator, dtype, device, requires_grad)


def normal(
    mean: float,
    std: float,
    size: int | Sequence[int],
    generator: Generator | None = None,
    dtype: Any = None,
    device: str | Backend | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return random numbers, normally distributed with this mean and standard deviation.

    >>> normal(3.0, 0.0, (2,)).tolist()
    [3.0, 3.0]
    """
    mean, std = check_number(mean, "normal", "mean"), check_number(std, "normal", "std", 0)
    backend = get_backend(device)
    kind = _floating("normal", backend, dtype)
    drawn = ops.draw_normal(backend, _shape_of("normal", (size,)), mean, std, kind, generator or current_generator())
    return _new(drawn, backend, requires_grad)


def _floating(where: str, backend: Backend, dtype: Any) -> Any:
    kind = _dtype_of(where, backend, "float32" if dtype is None else dtype)
    if kind.kind != "f":
        raise DTypeError.expected(where, "dtype", "a floating dtype", kind)
    return kind


def from_numpy(array: Any, device: str | Backend | None = None) -> Tensor:
    """Return a tensor with a copy of a NumPy array, in its dtype; ``from_dlpack`` shares its memory.

    >>> import numpy
    >>> from_numpy(numpy.ones(2)).dtype
    dtype('float64')
    """
    if type(array).__module__ != "numpy" or not hasattr(array, "shape"):
        raise DTypeError.expected("from_numpy", "array", "a NumPy array", kind_of(array), "use gpucnn.tensor(...)")
    return tensor(array, device=device)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis.

    >>> stack([tensor([1.0]), tensor([2.0])]).tolist()
    [[1.0], [2.0]]
    """
    if not isinstance(tensors, (tuple, list)) or not tensors or not all(isinstance(part, Tensor) for part in tensors):
        raise ParameterError.expected("stack", "tensors", "at least one Tensor", shown(tensors))
    for part in tensors:
        if part.shape != tensors[0].shape:
            raise ShapeError.expected("stack", "tensors", f"shapes like the first, {tensors[0].shape}", part.shape)
    return concatenate([part.unsqueeze(dim) for part in tensors], dim)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Join tensors along an axis, as ``concatenate`` does.

    >>> cat([tensor([1.0]), tensor([2.0, 3.0])]).tolist()
    [1.0, 2.0, 3.0]
    """
    return concatenate(tensors, dim)


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Return the matrix product, as ``input @ other``.

    >>> matmul(tensor([[1.0, 2.0]]), tensor([3.0, 4.0])).tolist()
    [11.0]
    """
    return _tensor_given("matmul", input) @ other


def where(condition: Tensor, input: Tensor | float, other: Tensor | float) -> Tensor:
    """Return ``input`` where the condition is true, else ``other``; shapes broadcast.

    >>> where(tensor([True, False]), tensor([1.0, 2.0]), 0.0).tolist()
    [1.0, 0.0]
    """
    condition = _tensor_given("where", condition, "condition")
    if condition.dtype.kind != "b":
        raise DTypeError.expected("where", "condition", "booleans", condition.dtype, "compare it: x > 0")
    known = next((value for value in (input, other) if isinstance(value, Tensor)), None)
    like = tensor(0.0, device=condition.backend) if known is None else known
    right = like.operand(other, "where")
    left = right.operand(like.operand(input, "where"), "where")
    right = left.operand(right, "where")
    try:
        return apply(operations.where, condition, left, right)
    except ValueError as error:
        if isinstance(error, GpucnnError):
            raise
        shapes = f"{condition.shape}, {left.shape} and {right.shape}"
        raise ShapeError.expected("where", "shapes", "shapes that broadcast", shapes) from None
