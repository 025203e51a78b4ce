"""ONNX files: loading networks of other frameworks as modules, and exporting networks for other programs.

The package ``onnx`` (extra ``onnx``) is imported when a file is read or written.
"""

from gpucnn.onnx.exporting import Exported, Preprocessing, export
from gpucnn.onnx.loading import load
from gpucnn.onnx.module import GraphModule

__all__ = ["Exported", "GraphModule", "Preprocessing", "export", "load"]
