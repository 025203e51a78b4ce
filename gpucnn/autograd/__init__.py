"""Tensors, and the tape that computes their gradients."""

from gpucnn.autograd.creation import (
    arange,
    cat,
    concatenate,
    from_numpy,
    full,
    matmul,
    normal,
    ones,
    ones_like,
    rand,
    randn,
    stack,
    tensor,
    where,
    zeros,
    zeros_like,
)
from gpucnn.autograd.exchange import from_dlpack
from gpucnn.autograd.parameter import Parameter, ParameterStore, store_of
from gpucnn.autograd.tape import apply, is_grad_enabled, is_watched, no_grad, on_device_of, watching
from gpucnn.autograd.tensor import Tensor

__all__ = [
    "Parameter",
    "ParameterStore",
    "Tensor",
    "apply",
    "arange",
    "cat",
    "concatenate",
    "from_dlpack",
    "from_numpy",
    "full",
    "is_grad_enabled",
    "is_watched",
    "matmul",
    "no_grad",
    "normal",
    "on_device_of",
    "ones",
    "ones_like",
    "rand",
    "randn",
    "stack",
    "store_of",
    "tensor",
    "watching",
    "where",
    "zeros",
    "zeros_like",
]
