"""What may be in an array or stand beside one: the types that CuPy has kernels for, and the scalars it takes."""

import math
from typing import Any

import numpy as np

# Integers, floats, complex and bool: what a kernel can be compiled for.
SUPPORTED_TYPE_CHARACTERS = frozenset("?bhilqBHILQefdFD")


def is_scalar(value: Any) -> bool:
    return type(value) in (int, float, bool, complex) or isinstance(value, np.generic)


def check_supported(dtype: "np.dtype[Any]") -> None:
    if dtype.char not in SUPPORTED_TYPE_CHARACTERS:
        raise ValueError(f"Unsupported dtype {dtype}")


def poison(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Makes reading what nobody wrote visible: device memory holds what was there before."""
    if array.dtype.kind in "fc":
        array.fill(math.nan)
    elif array.dtype.kind in "iu":
        array.fill(np.iinfo(array.dtype).max)
    return array


def unsupported(value: Any, where: str) -> TypeError:
    return TypeError(f"Unsupported type {type(value)} in {where}: expected a cupy.ndarray or a scalar")
