"""float16 arrays, on every backend: stored in 16 bits, computed in float32.

A kernel that gets float16 arrays gets them in float32 instead, and what it returns is rounded back; so sums never run in
16 bits, and every backend computes with the kernels that it has for float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

Array = Any

HALF = np.dtype(np.float16)
WIDENED = (
    "col2im", "conv2d", "conv2d_input_gradient", "conv2d_weight_gradient", "conv2d_relu_max_pool2d",
    "conv2d_relu_max_pool2d_gradients", "max_pool2d", "max_pool2d_gradient", "avg_pool2d", "avg_pool2d_gradient",
    "standardise", "standardise_gradient", "matmul", "affine", "affine_parameter_gradients", "erf", "scale",
)  # fmt: skip
"""The kernels that add, or look something up, in more than one element."""


def is_half(array: Any) -> bool:
    """Whether ``array`` is one of float16."""
    return getattr(array, "dtype", None) == HALF


def total(array: Array, axes: Any, keepdims: bool) -> Array:
    """Return the sum over ``axes``, in the array's dtype; that of float16 is made in float32."""
    if not is_half(array):
        return array.sum(axes, keepdims=keepdims)
    return array.sum(axes, dtype=np.float32, keepdims=keepdims).astype(HALF)


def mean(array: Array, axes: Any, keepdims: bool, count: float) -> Array:
    """Return the sum over ``axes`` over ``count``, in the array's dtype; of float16 both are made in float32."""
    if not is_half(array):
        return array.sum(axes, keepdims=keepdims) / count
    return (array.sum(axes, dtype=np.float32, keepdims=keepdims) / count).astype(HALF)


def divided(array: Array, count: float) -> Array:
    """Return ``array`` over ``count``, which may be more than float16 has numbers for."""
    return (array.astype(np.float32) / count).astype(HALF) if is_half(array) else array / count


class HalfStorage:
    """Wraps the kernels of each backend that derives from it, as it is defined."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in WIDENED:
            if name in vars(cls):
                setattr(cls, name, _widened(name, vars(cls)[name]))


def _widened(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(kernel)
    def run(self: Any, first: Array, *others: Any, **named: Any) -> Any:
        if first.dtype != HALF:  # the others are of its dtype
            return kernel(self, first, *others, **named)
        wide = [one.astype(np.float32) if is_half(one) else one for one in (first, *others)]
        result = getattr(self, name)(*wide, **named)
        if not isinstance(result, tuple):
            return _narrowed(result)
        if name == "standardise":  # the factor, one for each channel, goes back into arithmetic as it is
            return _narrowed(result[0]), result[1]
        return tuple(_narrowed(one) for one in result)

    return run


def _narrowed(result: Any) -> Any:
    return result.astype(HALF) if getattr(result, "dtype", None) == np.float32 else result
