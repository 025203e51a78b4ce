"""Loading ONNX files as modules."""

from __future__ import annotations

import os
from collections.abc import Sequence

from gpucnn.backend import Backend
from gpucnn.errors import CheckpointError, GpucnnError
from gpucnn.limits import applied
from gpucnn.onnx.folding import check_operators, folded, needed
from gpucnn.onnx.module import GraphModule
from gpucnn.onnx.reading import read_graph


def load(
    source: str | os.PathLike[str] | bytes,
    device: str | Backend | None = None,
    *,
    outputs: Sequence[str] | None = None,
    limits: bool = True,
) -> GraphModule:
    """Return the network of an ONNX file, or of its bytes, as a module in evaluation mode, on a device.

    outputs: names of values to return instead of the file's outputs; nodes that they do not depend on are left out. This
    cuts a network before its last layers, for a new head. limits: False lifts the bounds that protect against hostile files.
    Raises CheckpointError if the file is missing, damaged or of an unknown kind, or has an operator that gpucnn lacks: the
    message names the node, and nothing has run. The package onnx must be installed (extra ``onnx``).

    >>> load("nowhere.onnx")
    Traceback (most recent call last):
    gpucnn.errors.CheckpointError: nowhere.onnx: no such file.
    """
    where = "ONNX" if isinstance(source, bytes) else str(source)
    with applied(limits):
        graph = read_graph(source)
        try:
            graph = needed(graph, graph.outputs if outputs is None else tuple(outputs))
            check_operators(graph.nodes)
            graph = folded(graph)
            net = GraphModule(needed(graph, graph.outputs), device)
        except GpucnnError as error:
            raise CheckpointError(f"{where}: {error}") from None
    net.eval()
    return net
