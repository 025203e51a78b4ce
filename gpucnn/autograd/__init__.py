"""Tensors and the tape that gives their gradients."""

from gpucnn.autograd.parameter import Parameter
from gpucnn.autograd.tape import apply, is_grad_enabled, no_grad
from gpucnn.autograd.tensor import Tensor, tensor

__all__ = ["Parameter", "Tensor", "apply", "is_grad_enabled", "no_grad", "tensor"]
