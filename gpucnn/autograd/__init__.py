"""Tensors, and the tape that computes their gradients."""

from gpucnn.autograd.creation import concatenate, tensor
from gpucnn.autograd.exchange import from_dlpack
from gpucnn.autograd.parameter import Parameter, ParameterStore, store_of
from gpucnn.autograd.tape import apply, is_grad_enabled, is_watched, no_grad, on_device_of, watching
from gpucnn.autograd.tensor import Tensor

__all__ = [
    "Parameter",
    "ParameterStore",
    "Tensor",
    "apply",
    "concatenate",
    "from_dlpack",
    "is_grad_enabled",
    "is_watched",
    "no_grad",
    "on_device_of",
    "store_of",
    "tensor",
    "watching",
]
