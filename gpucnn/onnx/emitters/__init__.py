"""The operations of the tape in operators of ONNX."""

from gpucnn.onnx.emitters import elementwise, layers, shape  # imported to fill the table
from gpucnn.onnx.emitters.registry import EMITTERS

__all__ = ["EMITTERS", "elementwise", "layers", "shape"]
