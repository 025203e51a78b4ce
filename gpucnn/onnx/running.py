"""Running one node."""

from __future__ import annotations

from collections.abc import Sequence

from gpucnn.autograd import Tensor
from gpucnn.backend import get_backend
from gpucnn.errors import GpucnnError, ParameterError, shortened
from gpucnn.onnx.graph import Node
from gpucnn.onnx.operators import OPERATORS


def run(node: Node, inputs: Sequence[Tensor | None], training: bool) -> tuple[Tensor, ...]:
    """Return the results of a node. Errors name it.

    Inputs that the operator reads as numbers are moved to the host; others go to the GPU if one of the tensors is there.
    """
    known = OPERATORS[node.op]
    try:
        placed = _placed(inputs, known.host)
        result = known.run(node, training, *placed) if known.modes else known.run(node, *placed)
    except GpucnnError as error:
        if node.place not in str(error):
            error.layer = error.layer or node.place
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # what no operator foresaw
        raise ParameterError(f"{node.place}: {type(error).__name__}: {shortened(error, 120)}.") from None
    return result if isinstance(result, tuple) else (result,)


def _placed(inputs: Sequence[Tensor | None], host: tuple[int, ...]) -> list[Tensor | None]:
    if all(tensor is None or tensor.backend.kind == "cpu" for tensor in inputs):
        return list(inputs)
    cpu = get_backend("cpu")
    own = [tensor.backend for i, tensor in enumerate(inputs) if tensor is not None and i not in host]
    home = next((backend for backend in own if backend is not cpu), cpu)
    return [t if t is None else t.to(cpu if i in host else home) for i, t in enumerate(inputs)]
