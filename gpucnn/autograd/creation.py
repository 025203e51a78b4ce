"""New tensors: from data, and from others joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpucnn.autograd import operations
from gpucnn.autograd.tape import apply
from gpucnn.autograd.tensor import Tensor
from gpucnn.backend import Backend, get_backend, ops
from gpucnn.checks import is_integer, shown
from gpucnn.errors import DTypeError, ParameterError, ShapeError


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
