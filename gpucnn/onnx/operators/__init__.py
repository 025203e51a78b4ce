"""The operators of ONNX as functions on tensors, so that gradients flow through them on every device."""

from gpucnn.onnx.operators import conv, elementwise, norm, pool, reduction, resize, shape  # imported to fill the table
from gpucnn.onnx.operators.registry import OPERATORS, Operator

__all__ = ["OPERATORS", "Operator", "conv", "elementwise", "norm", "pool", "reduction", "resize", "shape"]
